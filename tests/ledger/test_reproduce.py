"""A claim reproduced, killed and continued, and reported: real runs of the tiny benchmark on the digits."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mixcore.cli.main import main
from mixcore.ledger.claims import load_claims
from mixcore.ledger.evidence import EvidenceError, read_evidence
from mixcore.ledger.finished import evidence_of
from mixcore.ledger.reproduce import command_of, trials
from mixcore.run import run as run_module
from mixcore.run.folder import RunFolder

VANILLA = "tiny.resnet.vanilla.ep2"


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The tiny benchmark, installed; works in a fresh folder, which it gives."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent / "tiny_distribution"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def rows(folder: str = "evidence") -> list[Any]:
    found, faults = read_evidence(Path(folder))
    assert faults == []
    return [row for _, row in found]


def test_a_claim_is_reproduced_stopped_and_continued(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = ["reproduce", VANILLA, "--seeds", "2", "--set", "run.dir=whole", "--evidence", "expected"]
    assert main(whole) == 0
    with monkeypatch.context() as patch:
        _stop_after(patch, Path("runs/reproduce") / VANILLA / "seed-1", epoch=1)
        assert main(["reproduce", VANILLA, "--seeds", "2"]) == 75
    assert [row.seed for row in rows()] == [0]
    assert "stopped by SIGTERM" in capsys.readouterr().err
    untouched = (Path("runs/reproduce") / VANILLA / "seed-0/summary.json").stat().st_mtime_ns
    assert main(["reproduce", VANILLA, "--seeds", "2"]) == 0
    shown = capsys.readouterr().out
    assert "seed-0 is done already" in shown
    assert f"{VANILLA}, 60.00 claimed: partial" in shown
    assert (Path("runs/reproduce") / VANILLA / "seed-0/summary.json").stat().st_mtime_ns == untouched
    assert [(row.seed, row.values, row.run_digest) for row in rows()] == [
        (row.seed, row.values, row.run_digest) for row in rows("expected")
    ]
    row = rows()[1]
    assert (row.experiment, row.epochs, row.protocol, row.processes) == (VANILLA, 2, "best", 1)
    assert row.command == f"mixcore reproduce {VANILLA} --seeds 2"
    records = [
        json.loads(line) for line in Path(f"runs/reproduce/{VANILLA}/seed-1/metrics.jsonl").read_text().splitlines()
    ]
    series = [record["val/top1"] for record in records]
    assert row.value == max(series)
    # the 99th percentile of two values lies 0.99 of the way up; a run of one predictor has no better one
    expected = (max(series) + min(series) + 0.99 * (max(series) - min(series))) / 2
    assert row.legacy["model"] == row.legacy_largest == pytest.approx(expected)
    assert row.data["training"]["samples"] == 1442
    assert row.seconds["wall"] > 0
    assert row.versions["plugins"]["digits"].startswith("mixcore ")
    before = sorted(Path("evidence").rglob("*"))
    assert main(["reproduce", VANILLA, "--seeds", "2"]) == 0
    assert sorted(Path("evidence").rglob("*")) == before


def _stop_after(monkeypatch: pytest.MonkeyPatch, folder: Path, epoch: int) -> None:
    """Let a scheduler's signal arrive when the run in `folder` has finished that epoch."""
    kept = run_module._Run._keep_weights

    def keep_best(self: Any, record: dict[str, Any]) -> None:
        kept(self, record)
        if self.folder.path == folder and record["epoch"] == epoch:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(run_module._Run, "_keep_weights", keep_best)


def test_claims_and_report_tell_what_was_found(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    averaged = "tiny.resnet.averaged.ep2"
    assert main(["reproduce", averaged, "--seeds", "1", "--set", "train.matmul=high"]) == 0
    assert main(["reproduce", VANILLA, "--seeds", "1", "--epochs-scale", "0.5"]) == 0
    capsys.readouterr()
    assert main(["claims", "--benchmark", "tiny", "--json"]) == 0
    listed = {claim["id"]: claim for claim in json.loads(capsys.readouterr().out)}
    assert {name: claim["status"] for name, claim in listed.items()} == {
        VANILLA: "partial",
        "tiny.resnet.mixup.ep2": "untried",
        averaged: "partial",
        "tiny.resnet.elsewhere.ep2": "untried",
        f"page.{VANILLA}": "partial",
    }
    assert listed[VANILLA]["lacking"] == ["1 of 2 epochs", "1 of 3 seeds"]
    assert listed[averaged]["remarks"] == ["matmul high"]
    predictors = listed[averaged]["predictors"]
    assert predictors.keys() == {"model", "ema"}
    assert listed[averaged]["mean"] == max(predictors.values())
    assert listed[f"page.{VANILLA}"]["conflicting"] == {VANILLA: 60.0}

    plain = _plain_run("tiny.resnet.mixup.ep2")
    strange = _plain_run("tiny.resnet.mixup.ep2", "optimizer.lr=0.3")
    Path("evidence/odd.json").write_text("{}")
    (tiny / "empty").mkdir()
    assert main(["report", str(plain), str(strange), "empty", "absent", "--out", "report"]) == 1
    said = capsys.readouterr().err
    assert "evidence/odd.json is no evidence: it lacks experiment" in said
    assert "empty is no finished run: " in said
    assert "there is no run folder absent" in said
    assert (
        f"{strange} is of no claim's experiment; the nearest is tiny.resnet.mixup.ep2:\n  optimizer.lr is 0.3" in said
    )
    table = list(csv.DictReader(Path("report/report.csv").read_text().splitlines()))
    assert len(table) == 391 + 5
    own = {row["claim"]: row for row in table if row["claim"].startswith(("tiny.", "page."))}
    assert own["tiny.resnet.mixup.ep2"]["n"] == "1"
    assert own["tiny.resnet.mixup.ep2"]["status"] == "partial"
    assert own["tiny.resnet.elsewhere.ep2"]["mean"] == ""
    text = Path("report/report.md").read_text()
    assert "396 claims: 4 partial, 392 untried." in text
    assert f"- {averaged}: ema " in text
    assert f"- {VANILLA}: A page of a paper prints 61.00" in text
    assert "## Not counted" in text
    assert f"```\nmixcore reproduce {VANILLA} --seeds 1 --epochs-scale 0.5\n" in text
    assert text.count(f"| {VANILLA} | 0 |") == 1, "a run of two claims is told once"
    assert Path("report/report.png").read_bytes().startswith(b"\x89PNG")


def _plain_run(name: str, *overrides: str) -> Path:
    """An ordinary run of an experiment, by mixcore run; gives its folder."""
    folder = "-".join(("plain", *overrides))
    settings = [part for override in (f"run.dir={folder}", *overrides) for part in ("--set", override)]
    assert main(["run", name, *settings]) == 0
    return Path(folder)


def test_evidence_of_another_experiment_is_refused(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["reproduce", VANILLA, "--seeds", "1", "--set", "optimizer.lr=0.3"]) == 0
    assert (Path("runs/reproduce") / f"{VANILLA}-optimizer.lr=0.3" / "seed-0").is_dir()
    capsys.readouterr()
    (path,) = Path("evidence").rglob("*.json")
    assert main(["report", "--out", "report"]) == 1
    line = f"{path} is no evidence of {VANILLA}, it is of another experiment:\n  optimizer.lr is 0.3 there and 0.2 now"
    assert line in capsys.readouterr().err
    assert main(["claims", VANILLA]) == 0
    shown = capsys.readouterr()
    assert line in shown.err
    assert "status      untried\n" in shown.out


def test_without_matplotlib_a_report_says_how_to_get_the_picture(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["reproduce", VANILLA, "--seeds", "1", "--epochs-scale", "0.5"]) == 0
    monkeypatch.setattr("mixcore.ledger.picture.find_spec", lambda name: None)
    capsys.readouterr()
    assert main(["report", "--out", "report"]) == 0
    assert 'pip install "mixcore[plots]"' in capsys.readouterr().err
    assert sorted(path.name for path in Path("report").iterdir()) == ["report.csv", "report.md"]


def test_a_claim_is_shown_with_its_configuration_and_command(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["claims", "tiny.resnet.averaged.ep2"]) == 0
    shown = capsys.readouterr().out
    for text in (
        "value       60.00 % top1\n",
        "source      A page of digits: the first table\n",
        "protocol    best, 2 epochs, the largest of all predictors (networks and heads) of the run\n",
        "[train]\nema_decay = 0.9\n",
        "mixcore reproduce tiny.resnet.averaged.ep2\n",
    ):
        assert text in shown
    assert main(["claims", "tiny.resnet.averaged.ep2", "--dataset", "digits"]) == 2


def test_what_is_asked_for_is_checked_and_nothing_trained(tiny: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["reproduce", VANILLA, "--dry-run", "--seeds", "2", "--set", "seed=7", "--set", "run.dir=here"]
    assert main(command) == 0
    shown = capsys.readouterr().out
    assert "# seed 7: here/seed-7\n# seed 8: here/seed-8\n" in shown
    assert "everything fits: 2 epochs" in shown
    assert list(tiny.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["reproduce", "tiny.resnet.vanila.ep2"], "the nearest: tiny.resnet.vanilla.ep2"),
        (["claims", "tiny.resnet.vanila.ep2"], "the nearest: tiny.resnet.vanilla.ep2"),
        (["claims", "--method", "vanila"], 'did you mean "vanilla"?'),
        (["claims", "--status", "true"], "'true' is not one of"),
        (["claims", "--evidence", "nowhere"], "there is no folder nowhere"),
        (["report", "--evidence", "nowhere", "--out", "report"], "there is no folder nowhere"),
        (["report"], "Missing option '--out'"),
        (["reproduce", VANILLA, "--epochs-scale", "2"], "2.0 is not in the range"),
        (["reproduce", VANILLA, "--set", "optimizer.lrr=1"], "optimizer.lrr"),
        (["reproduce", "tiny.resnet.elsewhere.ep2"], "nowhere"),
    ],
)
def test_bad_input_is_refused(
    tiny: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    assert main(arguments) == 2
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert not Path("evidence").exists()


def test_each_seed_is_a_run_of_its_own(tiny: Path) -> None:
    claim = load_claims().find(VANILLA)
    runs = trials(claim, 2, 0.5, ["train.precision=bf16"])
    assert [run.seed for run in runs] == [0, 1]
    folders = [str(run.folder.path) for run in runs]
    assert (
        folders[0] == f"runs/reproduce/{VANILLA}-schedule.epochs=1-schedule.warmup_epochs=0-train.precision=bf16/seed-0"
    )
    assert [run.loaded.config.schedule.epochs for run in runs] == [1, 1]
    assert [str(run.folder.path) for run in trials(claim, 1)] == [f"runs/reproduce/{VANILLA}/seed-0"]
    elsewhere = trials(load_claims().find("tiny.resnet.elsewhere.ep2"), 1, overrides=["data.root=/data/cifar"])
    assert str(elsewhere[0].folder.path) == "runs/reproduce/tiny.resnet.elsewhere.ep2/seed-0"


def test_the_recorded_command_says_nothing_of_this_machine() -> None:
    claim = load_claims().find("cifar100.resnet18.mixup.ep200")
    overrides = ["data.root=/home/me", "mix.weights=/home/me/teacher.pt", "run.device=cpu", "train.precision=bf16"]
    places = {("data", "root"), ("mix", 0, "weights")}
    assert command_of(claim, 3, 0.1, overrides, places) == (
        "mixcore reproduce cifar100.resnet18.mixup.ep200 --seeds 3 --epochs-scale 0.1 --set train.precision=bf16"
    )


@pytest.mark.parametrize(
    ("file", "change", "message"),
    [
        ("summary.json", None, "is no finished run"),
        ("metrics.jsonl", None, "its metrics.jsonl has no epoch"),
        ("environment.json", None, "is no finished run"),
        ("config.toml", lambda text: text.replace("lr = 0.2", "lr = 0.3"), "not the one it was trained with"),
        ("metrics.jsonl", lambda text: text[: text.index("\n") + 1], "one of them was changed"),
        ("summary.json", lambda text: text.replace('"seconds"', '"minutes"'), "its summary.json lacks seconds"),
    ],
)
def test_a_run_folder_that_lacks_something_is_named(
    tiny: Path, finished: Path, file: str, change: Callable[[str], str] | None, message: str
) -> None:
    assert evidence_of(RunFolder(finished), "tiny.resnet.mixup.ep2", "").epochs == 2
    shutil.copytree(finished, "run")
    if change is None:
        Path("run", file).unlink()
    else:
        Path("run", file).write_text(change(Path("run", file).read_text()))
    with pytest.raises(EvidenceError, match=f"^run.*{message}"):
        evidence_of(RunFolder(Path("run")), "tiny.resnet.mixup.ep2", "")


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of the tiny benchmark's mixup."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parent / "tiny_distribution"))
        patch.chdir(tmp_path_factory.mktemp("finished"))
        return _plain_run("tiny.resnet.mixup.ep2").absolute()
