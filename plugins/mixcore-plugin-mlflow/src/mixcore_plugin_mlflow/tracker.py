"""The tracker: a run of MLflow for each run folder, which keeps its id, so that a continued run goes on in it."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import tomli

from mixcore.api import PLACE, hookimpl

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

__all__ = ["MLflow", "flat"]

RUN_ID = "mlflow_run_id"
"""File in the run folder."""
FILES = ("config.toml", "environment.json", "metrics.jsonl")
"""Of the run folder, those that are copied as artifacts."""
LONGEST = 500
"""Characters of a parameter's value: what every store takes."""


def flat(tree: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """("mix.0.alpha", "0.2") and so on: what a TOML tree says, key by key, values cut to 500 characters."""
    for key, value in tree.items():
        path = f"{prefix}{key}"
        if isinstance(value, Mapping):
            yield from flat(value, f"{path}.")
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            yield from flat({str(place): item for place, item in enumerate(value)}, f"{path}.")
        else:
            yield path, str(value)[:LONGEST]


@attrs.define(eq=False, kw_only=True)
class MLflow:
    """Tells an MLflow tracking server the configuration, every epoch's numbers, and the files of the run."""

    spec_version = (1, 2)

    tracking_uri: str = attrs.field(default="sqlite:///mlflow.db", metadata=PLACE)
    """Server or database, such as "http://localhost:5000"; by default a file in the working directory."""
    experiment: str = attrs.field(default="mixcore", validator=attrs.validators.min_len(1), metadata=PLACE)
    """Name of the experiment that the run is filed under; made where it is not there."""

    @hookimpl
    def log_record(self, record: Mapping[str, Any], folder: Path) -> None:
        """The finite numbers of one epoch; at the first the parameters, and at the last the files and the end."""
        from mlflow.entities import Metric  # seconds, for who only lists what is installed
        from mlflow.tracking import MlflowClient

        client = MlflowClient(tracking_uri=self.tracking_uri)
        config = tomli.loads((folder / "config.toml").read_text("utf-8"))
        run = self._run(client, folder, config)
        epoch = int(record["epoch"])
        stamp = int((folder / "metrics.jsonl").stat().st_mtime * 1000)
        numbers = [
            Metric(key, float(value), stamp, epoch)
            for key, value in record.items()
            if key != "epoch" and isinstance(value, int | float) and math.isfinite(value)
        ]
        client.log_batch(run, metrics=numbers)
        if epoch == config["schedule"]["epochs"]:
            for name in FILES:
                client.log_artifact(run, str(folder / name))
            client.set_terminated(run, "FINISHED")

    def _run(self, client: MlflowClient, folder: Path, config: Mapping[str, Any]) -> str:
        """The id of the folder's run, begun where there is none yet."""
        from mlflow.entities import Param, RunTag

        file = folder / RUN_ID
        if file.exists():
            return file.read_text("utf-8").strip()
        found = client.get_experiment_by_name(self.experiment)
        experiment = client.create_experiment(self.experiment) if found is None else found.experiment_id
        run: str = client.create_run(experiment, run_name=folder.resolve().name).info.run_id
        client.log_batch(
            run,
            params=[Param(key, value) for key, value in flat(config)],
            tags=[RunTag("mixcore.folder", str(folder.resolve()))],
        )
        file.write_text(f"{run}\n", "utf-8")
        return run
