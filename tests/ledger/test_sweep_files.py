"""The sweep files of this repository and of its pages can be read."""

from __future__ import annotations

from pathlib import Path

import pytest

from mixcore.ledger.benchmarks import experiment
from mixcore.ledger.sweep_file import ALL, read_sweep
from mixcore.testing import code_blocks

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "benchmarks" / "sweeps").glob("*.toml"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_benchmarks(path: Path) -> None:
    sweep = read_sweep(path)
    assert sweep.seeds == (0, 1, 2)
    assert sweep.dir == Path("runs/sweeps", path.stem)
    assert sweep.base.is_file()


def test_an_experiment_by_name(tmp_path: Path) -> None:
    path = tmp_path / "sweep.toml"
    path.write_text('base = "cifar100.resnet18.cutmix"\n[grid]\n"mix.alpha" = [0.2, 1.0]\n')
    sweep = read_sweep(path)
    assert sweep.base == Path("cifar100.resnet18.cutmix.ep200")
    assert sweep.layers == tuple(experiment("cifar100.resnet18.cutmix.ep200").layers)
    (tmp_path / "cifar100.resnet18.cutmix").write_text("seed = 7\n")  # a file beside the sweep file comes first
    assert read_sweep(path).base == tmp_path / "cifar100.resnet18.cutmix"


def test_the_example_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "quickstart.toml").write_text("seed = 0\n")
    path = tmp_path / "sweeps" / "mine.toml"
    path.parent.mkdir()
    path.write_text(code_blocks(ROOT / "docs" / "scaling.md", "toml")[0])
    sweep = read_sweep(path)
    assert dict(sweep.grid) == {"mix.name": ("none", "mixup", "cutmix")}
    assert [(setting.key, setting.value) for setting in sweep.common] == [("schedule.epochs", 2)]
    assert sweep.launcher.name == "local"
    path.write_text('base = "../quickstart.toml"\n[grid]\nmix.name = "all"\n')
    assert dict(read_sweep(path).grid) == {"mix.name": (ALL,)}
    assert read_sweep(path).dir == Path("runs/mine")
