"""Plots of run folders: the numbers beside the picture are those of the runs, and what lacks something is named."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mixcore.cli.main import main
from mixcore.plots.figure import Table, write_plot


@pytest.fixture
def runs(toy_run: Callable[..., Path]) -> list[Path]:
    """Two seeds of one setting, and another setting."""
    return [
        toy_run(folder="a"),
        toy_run("seed=4", folder="b"),
        toy_run("mix.name=none", folder="c"),
    ]


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def records_of(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def drawn(path: Path) -> bool:
    """Whether a picture has something on it beside white."""
    with Image.open(path) as image:
        return len(image.convert("RGB").resize((120, 70)).getcolors(10_000) or range(99)) > 3


def test_curves_are_the_records(runs: list[Path]) -> None:
    assert (
        main(["plot", "a", "c", "--kind", "curves", "--key", "train/loss", "--key", "val/loss", "--out", "x.png"]) == 0
    )
    rows = rows_of(Path("x.csv"))
    for folder, method in (("a", "toy_mix"), ("c", "none")):
        for key in ("train/loss", "val/loss"):
            found = [float(row["value"]) for row in rows if row["curve"] == f"{method}: {key}"]
            assert found == [record[key] for record in records_of(Path(folder))]
    assert drawn(Path("x.png"))


def test_the_usual_key_of_curves_is_the_accuracy(runs: list[Path]) -> None:
    assert main(["plot", "a", "c", "--kind", "curves"]) == 0
    assert {row["key"] for row in rows_of(Path("curves.csv"))} == {"val/top1"}


def test_a_tradeoff_has_the_mean_over_seeds(runs: list[Path]) -> None:
    assert main(["plot", *map(str, runs), "--kind", "tradeoff"]) == 0
    rows = {row["setting"]: row for row in rows_of(Path("tradeoff.csv"))}
    summaries = [json.loads((run / "summary.json").read_text()) for run in runs]
    assert rows["toy_mix"]["runs"] == "2"
    assert float(rows["toy_mix"]["value"]) == pytest.approx((summaries[0]["value"] + summaries[1]["value"]) / 2)
    hours = sum(sum(one["seconds"].values()) for one in summaries[:2]) / 2 / 3600
    assert float(rows["toy_mix"]["hours"]) == pytest.approx(hours)
    assert float(rows["none"]["memory_gib"]) == pytest.approx(summaries[2]["peak_memory_bytes"] / 2**30)
    assert drawn(Path("tradeoff.png"))


def test_a_schedule_is_the_cosine_of_the_run(runs: list[Path]) -> None:
    assert main(["plot", "a", "--kind", "schedule"]) == 0
    rows = rows_of(Path("schedule.csv"))
    assert [int(row["iteration"]) for row in rows] == list(range(12))
    expected = [0.05 * (1 + math.cos(math.pi * (iteration // 3) / 4)) / 2 for iteration in range(12)]
    assert [float(row["lr"]) for row in rows] == pytest.approx(expected)
    assert drawn(Path("schedule.png"))


def test_a_radar_compares_methods_on_three_data_sets(runs: list[Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plot", "a", "c", "--kind", "radar"]) == 2
    assert "at least 3 data sets; these runs have toy_data" in capsys.readouterr().err
    for method in ("a", "c"):
        for place, name in enumerate(("second", "third")):
            folder = Path(f"{method}{place}")
            shutil.copytree(method, folder)
            config = (folder / "config.toml").read_text()
            (folder / "config.toml").write_text(config.replace('"toy_data"', f'"{name}"'))
    folders = ["a", "a0", "a1", "c", "c0", "c1"]
    assert main(["plot", *folders[:-1], "--kind", "radar"]) == 2
    assert "there is no run of none on third" in capsys.readouterr().err
    assert main(["plot", *folders, "--kind", "radar"]) == 0
    rows = rows_of(Path("radar.csv"))
    assert [(row["method"], row["data"]) for row in rows[:3]] == [
        ("toy_mix", "toy_data"),
        ("toy_mix", "second"),
        ("toy_mix", "third"),
    ]
    assert drawn(Path("radar.png"))
    summary = Path("c1/summary.json")
    summary.write_text(summary.read_text().replace('"top1"', '"mae"'))
    assert main(["plot", *folders, "--kind", "radar"]) == 2
    assert "compares accuracies; some of these runs are measured by mae" in " ".join(capsys.readouterr().err.split())


def test_what_lacks_something_is_named_and_the_others_are_drawn(
    runs: list[Path], capsys: pytest.CaptureFixture[str]
) -> None:
    Path("b/summary.json").unlink()
    Path("empty").mkdir()
    assert main(["plot", "a", "b", "empty", "--kind", "tradeoff"]) == 1
    shown = capsys.readouterr().err
    assert "left out: b has no summary.json: the run has not ended" in shown
    assert "left out: empty is no run folder" in shown
    assert [row["runs"] for row in rows_of(Path("tradeoff.csv"))] == ["1"]
    assert main(["plot", "a", "--kind", "curves", "--key", "val/topp1"]) == 2
    assert "a has" in capsys.readouterr().err
    shutil.rmtree("a/checkpoints")
    assert main(["plot", "a", "--kind", "schedule"]) == 2
    assert "a has no checkpoint" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--kind", "curves", "--out", "x.pdf"], "name it x.png"),
        (["--kind", "radar", "--key", "val/top1"], "--key is of --kind curves"),
    ],
)
def test_what_is_refused(
    arguments: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["plot", "a", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_without_matplotlib_it_is_told_what_to_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mixcore.errors import ConfigError

    monkeypatch.setattr("mixcore.plots.figure.find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=r'pip install "mixcore\[plots\]"'):
        write_plot(Table(("a",), [(1,)]), lambda figure, table: None, tmp_path / "x.png")
    assert list(tmp_path.iterdir()) == []
