"""[train] matmul, benchmark and deterministic: in force during a run, as before after it, and part of what a run is."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import tomli
import tomli_w
import torch

from mixcore.config.schema import TrainConfig
from mixcore.errors import ConfigError, RunFolderError
from mixcore.run.folder import RunFolder
from mixcore.run.numerics import described_numerics, numerics
from mixcore.run.resolve import Loaded, determining, digest_of, load_config

WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"
USUAL = {"matmul": "highest", "benchmark": False, "deterministic": False}


@pytest.fixture(autouse=True)
def unset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(WORKSPACE, raising=False)


def test_what_is_set_inside_and_restored_outside() -> None:
    before = described_numerics()
    assert {key: before[key] for key in USUAL} == USUAL, "torch's defaults, which docs/config.md states"
    assert before["cudnn_tf32"] is True
    with numerics(TrainConfig(matmul="high", benchmark=True)):
        assert described_numerics() == {**before, "matmul": "high", "benchmark": True}
    with numerics(TrainConfig(matmul="medium", deterministic=True)):
        assert described_numerics() == {**before, "matmul": "medium", "deterministic": True}
        assert torch.backends.cudnn.deterministic
        assert os.environ[WORKSPACE] == ":4096:8"
    assert described_numerics() == before
    with pytest.raises(ConfigError), numerics(TrainConfig(matmul="medium", deterministic=True)):
        raise ConfigError("what a run may end with")
    assert described_numerics() == before
    assert not torch.backends.cudnn.deterministic
    assert WORKSPACE not in os.environ


def test_the_environments_own_workspace(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(WORKSPACE, ":16:8")
    with numerics(TrainConfig(deterministic=True)):
        assert os.environ[WORKSPACE] == ":16:8"
    assert os.environ[WORKSPACE] == ":16:8"
    monkeypatch.setenv(WORKSPACE, ":0:0")
    with pytest.raises(ConfigError, match=f"{WORKSPACE}=:0:0"), numerics(TrainConfig(deterministic=True)):
        pass
    assert described_numerics()["deterministic"] is False
    with numerics(TrainConfig()):
        assert os.environ[WORKSPACE] == ":0:0"


def test_benchmark_and_deterministic_exclude_each_other(toy_config: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.deterministic: .*set one of them to false"):
        load_config(toy_config, ["train.benchmark=true", "train.deterministic=true"])


def test_a_run_computes_so_and_says_so(toy_run: Callable[..., Path]) -> None:
    usual = toy_run(folder="usual")
    repeated = toy_run("train.deterministic=true", 'train.matmul="high"', "schedule.epochs=4", folder="repeated")
    said = [json.loads((folder / "environment.json").read_text())["numerics"] for folder in (usual, repeated)]
    assert said[0] == {**USUAL, "cudnn_tf32": True}
    assert said[1] == {**said[0], "deterministic": True, "matmul": "high"}
    assert (usual / "metrics.jsonl").read_bytes() == (repeated / "metrics.jsonl").read_bytes()


def without_new_keys(loaded: Loaded) -> dict[str, object]:
    tree = tomli.loads(loaded.text)
    for key in USUAL:
        del tree["train"][key]
    return tree


def test_a_folder_of_before_there_were_such_keys_is_the_same_run(toy_config: Path) -> None:
    loaded = load_config(toy_config)
    old = without_new_keys(loaded)
    assert digest_of(determining(old, loaded.places)) == loaded.digest
    for override in ('train.matmul="high"', "train.benchmark=true", "train.deterministic=true"):
        assert load_config(toy_config, [override]).digest != loaded.digest
    assert load_config(toy_config, ['train.matmul="highest"']).digest == loaded.digest


def test_such_a_folder_is_gone_on_with_but_not_under_other_numerics(
    toy_run: Callable[..., Path], toy_config: Path
) -> None:
    folder = RunFolder(toy_run("schedule.epochs=2"))
    loaded = load_config(toy_config, ["schedule.epochs=2"])
    folder.config.write_text(tomli_w.dumps(without_new_keys(loaded)))
    folder.check_owner(loaded.resolved, loaded.places)
    other = load_config(toy_config, ["schedule.epochs=2", "train.benchmark=true"])
    with pytest.raises(RunFolderError, match=r"train\.benchmark is absent there and true now"):
        folder.check_owner(other.resolved, other.places)


def test_the_default_folder_has_the_name_of_what_was_set(toy_config: Path) -> None:
    toy_config.write_text(toy_config.read_text().replace('dir = "run"\n', ""))
    for value in ("highest", "high"):
        named = load_config(toy_config, [f'train.matmul="{value}"']).config.run.dir
        assert named == f"runs/toy-train.matmul={value}"
