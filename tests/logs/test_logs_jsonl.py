from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from mixcore.errors import RunFolderError
from mixcore.logs.jsonl import append_record, read_records, truncate_records


def three(path: Path) -> list[dict[str, float]]:
    records = [{"epoch": epoch, "val/top1": 10.0 / 3 * epoch} for epoch in (1, 2, 3)]
    for record in records:
        append_record(path, record)
    return records


def test_what_is_appended_is_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    assert read_records(path) == []
    records = three(path)
    assert read_records(path) == records
    assert len(path.read_text().splitlines()) == 3


def test_a_kill_inside_the_last_line_loses_that_line_only(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    records = three(path)
    content = path.read_bytes()
    second = content.index(b"\n", content.index(b"\n") + 1) + 1
    for end in range(second, len(content)):
        path.write_bytes(content[:end])
        assert read_records(path) == records[:2]
        append_record(path, records[2])
        assert path.read_bytes() == content


def test_truncate_keeps_bytes(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"epoch":1,  "x":1e-3}\n{"epoch": 2}\n{"epo')
    truncate_records(path, 1)
    assert path.read_bytes() == b'{"epoch":1,  "x":1e-3}\n'
    truncate_records(path, 0)
    assert path.read_bytes() == b""
    assert [file.name for file in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_truncate_of_no_file_to_nothing(tmp_path: Path) -> None:
    truncate_records(tmp_path / "metrics.jsonl", 0)
    assert list(tmp_path.iterdir()) == []


def test_truncate_never_shows_a_half_written_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "metrics.jsonl"
    records = three(path)

    def full_disk(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("mixcore.logs.jsonl.os.fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        truncate_records(path, 1)
    assert read_records(path) == records


def test_missing_epochs_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    three(path)
    with pytest.raises(RunFolderError, match="has 3 whole lines, but the checkpoint was written after epoch 4"):
        truncate_records(path, 4)


@pytest.mark.parametrize(("line", "message"), [("{]", "not JSON"), ("[1]", "found a list")])
def test_a_broken_line_is_named(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(f'{{"epoch": 1}}\n{line}\n{{"epoch": 3}}\n')
    with pytest.raises(RunFolderError, match=rf"metrics\.jsonl, line 2: {message}"):
        read_records(path)


def test_every_line_is_json_that_others_read(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_record(path, {"epoch": 1, "val/loss": math.nan, "train/loss": math.inf})

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is no JSON")

    assert json.loads(path.read_text(), parse_constant=refuse) == {"epoch": 1, "val/loss": None, "train/loss": None}
