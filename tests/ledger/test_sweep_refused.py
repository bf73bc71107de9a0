"""What a sweep refuses before its first run, every fault at once, and what "all" stands for."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mixcore.cli.main import main
from mixcore.ledger import sweep_plan

Refused = Callable[..., str]


@pytest.fixture
def refused(toy_config: Path, capsys: pytest.CaptureFixture[str]) -> Refused:
    """`refused(text, *arguments)`: the message of a sweep that is refused before anything is written."""

    def start(text: str, *arguments: str) -> str:
        Path("sweep.toml").write_text(text)
        before = sorted(Path().iterdir())
        assert main(["sweep", "sweep.toml", *arguments]) == 2
        assert sorted(Path().iterdir()) == before
        message = capsys.readouterr().err
        assert "Traceback" not in message
        return message

    return start


def test_every_fault_of_the_file_at_once(refused: Refused) -> None:
    message = refused('base = "toy.toml"\nseed = [0]\n')
    assert "sweep.toml:2: seed: unknown key: a sweep file has base, dir, grid, launcher, seeds, set" in message
    message = refused(
        'base = "toi.toml"\nseeds = [0, 1, 1]\n[grid]\n"mix.name" = []\n"shedule.epochs" = [1]\nseed = [1]\n'
        '[set]\n"optimizer.lrr" = 0.1\n"run.dir" = "x"\n'
    )
    assert message.startswith("mixcore: 7 faults in sweep.toml:\n")
    assert "sweep.toml:1: base: there is no file toi.toml; did you mean toy.toml?" in message
    assert "sweep.toml:2: seeds: 1 is listed twice" in message
    assert 'sweep.toml:4: grid.mix.name: expected a list of values, such as [1, 2] or "all", found []' in message
    assert "sweep.toml:5: grid.shedule.epochs: unknown key: a configuration has" in message
    assert 'sweep.toml:6: grid.seed: the key "seeds" of the sweep file says this; remove it here' in message
    assert "sweep.toml:8: set.optimizer.lrr: unknown key: [optimizer] has" in message
    assert 'sweep.toml:9: set.run.dir: the key "dir" of the sweep file says this' in message


def test_a_base_that_is_neither_file_nor_experiment(refused: Refused) -> None:
    message = refused('base = "cifar100.resnet18.cutmixx"\n[grid]\n"mix.alpah" = [1.0]\n"shedule.epochs" = [1]\n')
    assert "sweep.toml:1: base: there is no such file, and no such experiment either: " in message
    assert 'did you mean "cutmix"?' in message
    assert "sweep.toml:4: grid.shedule.epochs: unknown key" in message


def test_every_fault_of_the_runs_at_once_and_each_once(refused: Refused) -> None:
    message = refused(
        'base = "toy.toml"\nseeds = [0, 1]\n[grid]\n"data.batch_size" = [8, 27]\n"mix.name" = ["none", "toy_mx"]\n'
        '[set]\n"optimizer.lrr" = 0.1\n'
    )
    lines = message.splitlines()
    assert lines[0] == "mixcore: 2 faults in the runs of sweep.toml:"
    assert lines[1].startswith("  sweep.toml:7: optimizer.lrr: unknown key: [optimizer] has")
    assert lines[2].startswith(
        '  sweep.toml:5: mix.name: no installed plugin is called "toy_mx"; did you mean "toy_mix"?'
    )
    assert lines[2].endswith("(with data.batch_size=8, mix.name=toy_mx; data.batch_size=27, mix.name=toy_mx)")
    message = refused('base = "toy.toml"\n[grid]\n"data.batch_size" = [8, 27]\n')
    assert "no whole batch of data.batch_size = 27" in message
    assert message.rstrip().endswith("(with data.batch_size=27)")


@pytest.mark.parametrize(
    ("text", "arguments", "said"),
    [
        ("seeds = [0]\n", (), "base: missing: a sweep file needs it"),
        ("base = 'toy.toml'\nseeds = ['a']\n", (), "seeds[0]: expected an integer, found"),
        ("base = 'toy.toml'\ngrid = 3\n", (), "grid: expected a table"),
        ("base = 'toy.toml'\n[grid]\n'mix.pause' = [0.0, 0.0]\n", (), "grid.mix.pause: 0.0 is listed twice"),
        ("base = 'toy.toml'\n[grid]\na.b = [1]\n[set]\na.b = 1\n", (), "set.a.b: [grid] varies it"),
        (
            "base = 'toy.toml'\n[launcher]\nname = 'toy_fork'\npauze = 1\n",
            (),
            "launcher.pauze: unknown key: toy_fork has pause",
        ),
        (
            "base = 'toy.toml'\n",
            ("--launcher", "toy_frok"),
            '--launcher: launcher.name: no installed plugin is called "toy_frok"; did you mean "toy_fork"?',
        ),
        (
            "base = 'toy.toml'\n",
            ("--launcher", "toy_mix"),
            "toy_mix (mixcore-toy 1.0) has role mix, expected a plugin with role launcher",
        ),
        ("base = 'toy.toml", (), "cannot be read as TOML"),
        ("base = 'toy.toml'\ndir = '/dev/null/x'\n", (), "dir: the folder of the sweep /dev/null/x cannot be written"),
    ],
)
def test_refusals(refused: Refused, text: str, arguments: tuple[str, ...], said: str) -> None:
    assert said in refused(text, *arguments)


def test_an_absent_launcher_gets_its_pip_line(refused: Refused, monkeypatch: pytest.MonkeyPatch) -> None:
    from mixcore.discovery import outside

    claims = outside.installed()
    claims.pop("ray", None)
    monkeypatch.setattr(outside, "installed", lambda: claims)
    monkeypatch.setattr("mixcore.discovery.catalogue.published", lambda: frozenset({"mixcore-plugin-ray"}))
    message = refused("base = 'toy.toml'\n", "--launcher", "ray")
    assert 'no installed plugin is called "ray"' in message
    assert "pip install mixcore-plugin-ray" in message


WANTS = """
import attrs
from mixcore_toy import ToyMix

@attrs.define(eq=False, kw_only=True)
class Wants(ToyMix):
    needs = frozenset({"attention"})
"""


def test_all_stands_for_what_fits_and_names_the_rest(
    toy_config: Path,
    install: Callable[..., None],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    install({"wants": "fake_wants:Wants"}, {"fake_wants": WANTS})
    found = (["none", "toy_mix", "wants"], {"torn": "torn (torn 1.0): its module is missing"})
    monkeypatch.setattr(sweep_plan, "every_plugin_of_role", lambda role: found if role == "mix" else None)
    text = 'base = "toy.toml"\n[grid]\nmix.name = "all"\n'
    Path("sweep.toml").write_text(text)
    assert main(["sweep", "sweep.toml", "--dry-run"]) == 0
    printed = capsys.readouterr().out
    assert [line.split()[0] for line in printed.splitlines()[1:3]] == [
        "mix.name=none-seed=0",
        "mix.name=toy_mix-seed=0",
    ]
    assert "left out mix.name=torn: torn (torn 1.0): its module is missing" in printed
    assert "left out mix.name=wants: " in printed
    assert "attention" in printed.partition("left out mix.name=wants: ")[2]
    Path("sweep.toml").write_text(text + '[set]\n"optimizer.lrr" = 1\n')
    assert main(["sweep", "sweep.toml", "--dry-run"]) == 2  # what is wrong with all is no matter of fitting
    assert "optimizer.lrr: unknown key" in capsys.readouterr().err


def test_a_run_folder_is_no_sweep_folder(toy_run: Callable[..., Path], refused: Refused) -> None:
    toy_run("schedule.epochs=1", folder="runs/one")
    assert "runs/one is the folder of a run" in refused("base = 'toy.toml'\ndir = 'runs/one'\n")
