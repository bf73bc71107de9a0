"""What plots read of a run folder: its configuration, its record of every epoch, and how it ended."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import tomli

from mixcore.errors import RunFolderError
from mixcore.logs.jsonl import read_records
from mixcore.run.folder import RunFolder

__all__ = ["PlottedRun", "Setting", "named_apart", "read_run_for_plots", "settings_of"]


@attrs.frozen(eq=False, kw_only=True)
class PlottedRun:
    """A run folder as it stands; `summary` is None until the run has ended."""

    folder: Path
    config: Mapping[str, Any]
    records: Sequence[Mapping[str, Any]]
    summary: Mapping[str, Any] | None

    @property
    def method(self) -> str:
        """Its mixers by name."""
        return "+".join(table["name"] for table in self.config.get("mix", ())) or "none"


@attrs.frozen(eq=False, kw_only=True)
class Setting:
    """Finished runs that repeat each other with other seeds."""

    runs: Sequence[PlottedRun]

    def mean(self, value: Callable[[Mapping[str, Any]], float]) -> float:
        """Of a number of their summaries."""
        return statistics.fmean(value(run.summary) for run in self.runs if run.summary is not None)


def read_run_for_plots(folder: Path) -> PlottedRun:
    """RunFolderError where `folder` is none of a run, or what lies in it is damaged."""
    run = RunFolder(folder)
    try:
        config = tomli.loads(run.config.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise RunFolderError(f"{folder} is no run folder: its config.toml cannot be read ({error})") from error
    summary = run.read_summary() if run.summary.exists() else None
    return PlottedRun(folder=folder, config=config, records=read_records(run.metrics), summary=summary)


def settings_of(runs: Iterable[PlottedRun]) -> list[Setting]:
    """Runs of one experiment together, in their order. RunFolderError names one that has not ended."""
    found: dict[str, list[PlottedRun]] = {}
    for run in runs:
        if run.summary is None:
            raise RunFolderError(f"{run.folder} has no summary.json: the run has not ended; go on with it first")
        found.setdefault(run.summary["experiment"], []).append(run)
    return [Setting(runs=together) for together in found.values()]


def named_apart(runs: Sequence[PlottedRun]) -> list[str]:
    """A name for each: method, backbone and data set as far as they differ; the folder's where that is not enough."""
    parts = [(run.method, run.config["backbone"]["name"], run.config["data"]["name"]) for run in runs]
    differing = [index for index, values in enumerate(zip(*parts, strict=True)) if len(set(values)) > 1] or [0]
    names = [", ".join(part[index] for index in differing) for part in parts]
    return names if len(set(names)) == len(names) else [run.folder.resolve().name for run in runs]
