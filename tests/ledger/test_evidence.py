"""Rows of evidence: written once, read back, and refused where they cannot be what they say."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest

from mixcore.ledger.evidence import Evidence, EvidenceError, path_of, read_evidence, read_row, write_row

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("path", sorted((ROOT / "evidence").rglob("*.json")), ids=lambda path: path.name)
def test_every_row_of_the_repository_is_whole_and_in_its_place(path: Path) -> None:
    assert path_of(ROOT / "evidence", read_row(path)) == path


def test_a_row_is_written_once_and_read_back(make_row: Callable[..., Evidence], folder: Path) -> None:
    row = make_row(seed=2)
    path = write_row(folder, row)
    assert path.parent == folder / "digits.net.plain.ep200"
    assert path.name.startswith("seed-2-")
    assert read_row(path) == row
    before = path.stat().st_mtime_ns
    assert write_row(folder, attrs.evolve(row, command="mixcore reproduce digits.net.plain.ep200 --seeds 5")) == path
    assert path.stat().st_mtime_ns == before
    elsewhere = write_row(folder, attrs.evolve(row, device="another"))
    assert elsewhere != path
    rows, faults = read_evidence(folder)
    assert ({found for found, _ in rows}, faults) == ({path, elsewhere}, [])
    assert read_evidence(folder / "nowhere") == ([], [])


def _deep(levels: int) -> dict[str, Any]:
    return {"a": _deep(levels - 1)} if levels else {}


def _changed(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda row: row.update(changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda row: row.pop("value"), "it lacks value"),
        (lambda row: [row.pop("seed"), row.pop("data")], "it lacks seed, data"),
        (_changed(vale=1), "it has the unknown vale"),
        (_changed(value="78.5"), "'value' must be a finite number: '78.5'"),
        (_changed(value=float("nan")), "'value' must be a finite number"),
        (_changed(values={"model": 78.4}), "'value' is 78.5, and none of 'values' is"),
        (_changed(values={"model": None}), "'values' must be a finite number: None"),
        (_changed(seed=True), "'seed' must be a whole number: True"),
        (_changed(seed=-1), "'seed' must be >= 0"),
        (_changed(seed=1), "'run_digest' is not that of"),
        (_changed(epochs=0), "'epochs' must be >= 1"),
        (_changed(epochs=100), "'epochs' is 100, and its configuration asks for 200"),
        (_changed(configuration={"schedule": 3}), "'experiment_digest' is not that of"),
        (_changed(configuration={"a": 2**70}), "'configuration' is none that can be used: .* 64 bits"),
        (lambda row: row.update(configuration=_deep(90)), "'configuration' is none that can be used: .*nested deeper"),
        (_changed(configuration={}), "'experiment_digest' is not that of"),
        (_changed(experiment="../elsewhere"), "'experiment' must match"),
        (_changed(seconds={"train": 1.0}), "'seconds' has no wall"),
        (_changed(data={"training": {"samples": 3}}), "'data' must give samples and hash"),
        (_changed(format=2), "'format' must be in"),
    ],
)
def test_what_is_no_row_is_told_why(
    make_row: Callable[..., Evidence], folder: Path, change: Callable[[dict[str, Any]], object], message: str
) -> None:
    path = write_row(folder, make_row())
    good = write_row(folder, make_row(seed=1))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(EvidenceError, match=f"{path} is no evidence: .*{message}"):
        read_row(path)
    rows, faults = read_evidence(folder)
    assert [found for found, _ in rows] == [good]
    assert len(faults) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "[" * 100_000])
def test_what_is_no_object_is_told(folder: Path, text: str) -> None:
    folder.mkdir()
    (folder / "row.json").write_text(text)
    with pytest.raises(EvidenceError, match=r"row.json is no evidence"):
        read_row(folder / "row.json")
