"""The tracker against a real store of MLflow, a database in the test's folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from mixcore_plugin_mlflow import MLflow
from mixcore_plugin_mlflow.tracker import flat
from mlflow.entities import Run
from mlflow.tracking import MlflowClient

from mixcore.run.folder import RunFolder
from mixcore.run.resolve import load_config
from mixcore.run.run import run
from mixcore.testing import PluginContract

CONFIG = """
[data]
name = "digits"
batch_size = 512
size = 8
[backbone]
name = "resnet10t"
[mix]
name = "none"
[schedule]
epochs = 2
[[extra]]
name = "mlflow"
experiment = "whole"
tracking_uri = "{uri}"
[run]
device = "cpu"
"""


class TestContract(PluginContract):
    role = "extra"
    plugin = "mlflow"


@pytest.fixture(scope="module")
def uri(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A database takes seconds to make: one for all tests."""
    return f"sqlite:///{tmp_path_factory.mktemp('mlflow') / 'mlflow.db'}"


@pytest.fixture
def store(uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> MlflowClient:
    monkeypatch.chdir(tmp_path)
    return MlflowClient(tracking_uri=uri)


def only_run(store: MlflowClient, name: str) -> Run:
    experiment = store.get_experiment_by_name(name)
    assert experiment is not None
    (found,) = store.search_runs([experiment.experiment_id])
    return found


def test_a_run_is_told_with_parameters_metrics_and_files(store: MlflowClient, uri: str, tmp_path: Path) -> None:
    (tmp_path / "digits.toml").write_text(CONFIG.format(uri=uri))
    run(load_config(tmp_path / "digits.toml"), RunFolder(tmp_path / "run"))
    found = only_run(store, "whole")
    assert found.info.status == "FINISHED"
    assert found.info.run_name == "run"
    assert found.data.params["schedule.epochs"] == "2"
    assert found.data.params["mix.0.name"] == "none"
    records = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    history = store.get_metric_history(found.info.run_id, "val/top1")
    assert [(point.step, point.value) for point in history] == [(one["epoch"], one["val/top1"]) for one in records]
    files = {file.path for file in store.list_artifacts(found.info.run_id)}
    assert files == {"config.toml", "environment.json", "metrics.jsonl"}


def test_a_continued_run_goes_on_in_the_same_one(store: MlflowClient, uri: str, tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[schedule]\nepochs = 3\n")
    (tmp_path / "metrics.jsonl").write_text("")
    for epoch in (1, 2):
        tracker = MLflow(tracking_uri=uri, experiment="continued")
        tracker.log_record({"epoch": epoch, "val/top1": 10.0 * epoch, "train/loss": float("nan")}, tmp_path)
    found = only_run(store, "continued")
    assert found.info.status == "RUNNING"
    assert found.info.run_id == (tmp_path / "mlflow_run_id").read_text().strip()
    assert found.data.metrics == {"val/top1": 20.0}


def test_a_tree_is_told_key_by_key() -> None:
    tree = {"seed": 0, "mix": [{"name": "a"}, {"name": "b", "range": [0.1, 0.9]}], "data": {"root": "x" * 600}}
    assert dict(flat(tree)) == {
        "seed": "0",
        "mix.0.name": "a",
        "mix.1.name": "b",
        "mix.1.range": "[0.1, 0.9]",
        "data.root": "x" * 500,
    }
