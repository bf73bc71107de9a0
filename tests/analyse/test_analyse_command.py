"""`mixcore analyse`: what it writes, what it does not do twice, and that one fault stops nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from PIL import Image

from mixcore.cli.main import main

Start = Callable[..., Path]

SOURCE = '''
import pathlib

import attrs
import torch
from PIL import Image

from mixcore.api import ConfigError, hookimpl, logits_of


@attrs.define(eq=False, kw_only=True)
class Count:
    """Counts images, and how often it was asked."""

    role = "analysis"
    spec_version = (1, 3)
    times: int = 1

    @hookimpl
    def analyse(self, model, data, task, folder, progress):
        asked = pathlib.Path("asked")
        asked.write_text(str(int(asked.read_text()) + 1) if asked.exists() else "1")
        with torch.no_grad():
            seen = sum(len(logits_of(model(images))) for images, _ in progress(data.batches()))
        Image.new("RGB", (4, 3)).save(folder / "picture.png")
        return {"images": self.times * seen, "set": data.set_name, "passes": list(data.passes())}


@attrs.define(eq=False, kw_only=True)
class Half:
    """Fails in the middle, and goes on from there."""

    role = "analysis"
    spec_version = (1, 3)
    choice: int = 0

    @hookimpl
    def analyse(self, folder):
        if not (folder / "half").exists():
            (folder / "half").write_text("done")
            raise ConfigError("ended in the middle")
        return {"resumed": True}

    @hookimpl
    def compare_runs(self, results, folder):
        Image.new("RGB", (len(results), 1)).save(folder / "picture.png")


@attrs.define(eq=False, kw_only=True)
class Meddling:
    """Changes the network."""

    role = "analysis"
    spec_version = (1, 3)

    @hookimpl
    def analyse(self, model):
        with torch.no_grad():
            next(model.parameters()).zero_()
        return {"zero": 0}


@attrs.define(eq=False, kw_only=True)
class Attentive:
    """Needs what a plain network has not."""

    role = "analysis"
    spec_version = (1, 3)
    needs = frozenset({"attention"})

    @hookimpl
    def analyse(self):
        return {}
'''


@pytest.fixture
def analyses(install: Callable[..., None]) -> None:
    names = ("Count", "Half", "Meddling", "Attentive")
    install({name.lower(): f"fake_analyses:{name}" for name in names}, {"fake_analyses": SOURCE}, distribution="fakes")


def numbers(run: Path, name: str) -> dict[str, object]:
    stored: dict[str, object] = json.loads((run / "analyses" / f"{name}.json").read_text())["numbers"]
    return stored


@pytest.mark.usefixtures("analyses")
def test_what_is_done_is_not_done_again(toy_run: Start, capsys: pytest.CaptureFixture[str]) -> None:
    run = toy_run("schedule.epochs=1")
    assert main(["analyse", str(run), "count"]) == 0
    first = numbers(run, "count")
    assert first["passes"] == [1.0, 1.0]
    assert (run / "analyses" / "count.png").is_file()
    assert not (run / "analyses" / "count").exists()
    assert "there already" not in capsys.readouterr().out
    assert main(["analyse", str(run), "count"]) == 0
    assert "there already" in capsys.readouterr().out
    assert Path("asked").read_text() == "1"
    assert main(["analyse", str(run), "count", "--set", "count.times=2", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["runs"]["run"]["count"]["numbers"]["images"] == 2 * first["images"]
    assert document["runs"]["run"]["count"]["made_from"]["options"] == {"times": 2}
    assert main(["analyse", str(run), "count", "--checkpoint", "last", "--set", "count.times=2"]) == 0
    assert Path("asked").read_text() == "3"


@pytest.mark.usefixtures("analyses")
def test_a_fault_does_not_stop_the_others(toy_run: Start, capsys: pytest.CaptureFixture[str]) -> None:
    run = toy_run("schedule.epochs=1")
    assert main(["analyse", str(run), "counts", "meddling", "attentive", "half", "count"]) == 1
    said = capsys.readouterr()
    assert 'no installed plugin is called "counts"; did you mean "count"?' in said.err
    assert "run: meddling: meddling (fakes 1.0) left " in said.err
    assert "needs attention of the backbone" in said.err
    assert "run: half: ended in the middle" in said.err
    assert numbers(run, "count")["set"] == "val"
    assert main(["analyse", str(run), "meddling", "half"]) == 1, "the network was put right, and half goes on"
    assert numbers(run, "half") == {"resumed": True}
    assert not (run / "analyses" / "meddling.json").exists()


@pytest.mark.usefixtures("analyses")
def test_what_was_begun_with_other_options_is_begun_anew(toy_run: Start) -> None:
    run = toy_run("schedule.epochs=1")
    assert main(["analyse", str(run), "half"]) == 1
    assert main(["analyse", str(run), "half", "--set", "half.choice=1"]) == 1
    assert main(["analyse", str(run), "half", "--set", "half.choice=1"]) == 0


@pytest.mark.usefixtures("analyses")
def test_several_runs_have_one_picture(toy_run: Start, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [toy_run("schedule.epochs=1", folder=name) for name in ("first", "second")]
    words = [*map(str, runs), "count", "half"]
    assert main(["analyse", *words]) == 1
    assert main(["analyse", *words, "--out", "both"]) == 0
    assert "together: both/half.png" in capsys.readouterr().out
    with Image.open("both/count.png") as picture, Image.open("both/half.png") as own:
        assert picture.width > 2 * 4, "side by side"
        assert own.size == (2, 1), "as the plugin draws it"


@pytest.mark.usefixtures("analyses")
def test_bad_input(toy_run: Start, capsys: pytest.CaptureFixture[str]) -> None:
    run = toy_run("schedule.epochs=1")
    empty = Path("empty")
    (empty / "checkpoints").mkdir(parents=True)
    (empty / "config.toml").write_text((run / "config.toml").read_text())
    for words, code, said in (
        (["nowhere", "count"], 1, "nowhere is no run folder"),
        (["empty", "count"], 1, "there is no checkpoint"),
        ([str(run)], 2, "expected run folders and then analyses, such as"),
        ([str(run), "toy_mix"], 1, "has role mix, expected a plugin with role analysis"),
        ([str(run), "count", "--set-name", "test"], 1, "no evaluation set 'test'; this run's data has: val"),
        ([str(run), "count", "--predictor", "ema"], 1, "no predictor 'ema'; it has: model"),
        ([str(run), "count", "--set", "cuont.times=3"], 2, "count.option=value for an analysis of this command"),
        ([str(run), "count", "--set", "count.tiems=3"], 1, 'did you mean "times"?'),
        ([str(run), "count", "--set", "data.name=digits"], 1, "run:"),
    ):
        assert main(["analyse", *words]) == code, words
        assert said in capsys.readouterr().err, words
    assert main(["analyse", "empty", str(run), "count"]) == 1
    assert (run / "analyses" / "count.json").is_file(), "a run that cannot be opened does not stop another"
