"""One analysis of one run: its place in the run's folder, whether it is done, and doing it."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import nn

from mixcore.analyse.kept import kept
from mixcore.analyse.run_data import LoadedRunData
from mixcore.autocast import autocast_off
from mixcore.config.faults import raise_faults
from mixcore.config.schema import PluginTable
from mixcore.discovery.capabilities import check_network, check_task
from mixcore.discovery.catalogue import installed
from mixcore.discovery.manager import Alone, register_alone
from mixcore.discovery.select import Selected, select_one
from mixcore.errors import HookError
from mixcore.files import replace_file, storage_error
from mixcore.networks.network import capabilities
from mixcore.networks.stages import stage_names
from mixcore.run.numerics import numerics
from mixcore.run.seal import seal_of
from mixcore.types import Task, Track

__all__ = ["FOLDER", "PICTURE", "Analysis", "Result", "analyse", "find_analysis"]

FOLDER = "analyses"
"""Folder of a run with the results."""
PICTURE = "picture.png"
"""What an analysis calls the picture that stands beside its numbers."""
_MADE_FROM = "made_from.json"
"""In the folder of an analysis while it works: what it is of, so that it resumes only from its own."""


@attrs.frozen(eq=False, kw_only=True)
class Analysis:
    """An analysis plugin with its options."""

    name: str
    selected: Selected
    alone: Alone
    options: Mapping[str, Any]
    """The value of every option, in TOML's own types."""


@attrs.frozen(eq=False, kw_only=True)
class Result:
    """What stands in the JSON file of an analysis."""

    numbers: Mapping[str, Any]
    made_from: Mapping[str, Any]
    """Analysis and version, options, configuration, checkpoint, predictor and set: equal ones are not done twice."""
    seconds: float
    there: bool
    """Whether it was there already."""
    picture: Path | None


def find_analysis(name: str, options: Mapping[str, Any]) -> Analysis:
    """The installed analysis `name` with these options. ConfigError or PluginError with what would work."""
    found, faults = select_one("analysis", PluginTable(name=name, options=dict(options)), (name,), installed())
    if found is None:
        raise_faults(faults, f"the options of {name}")
    alone = register_alone(found.plugin, name, found.label)
    return Analysis(name=name, selected=found, alone=alone, options=found.complete_options())


def analyse(analysis: Analysis, data: LoadedRunData, progress: Track) -> Result:
    """Do the analysis, or find it done for the same options and checkpoint.

    Numbers go to `analyses/<name>.json` of the run's folder and the picture beside them. Raises what the analysis
    raises, ConfigError where task or network do not suit it, HookError where it left the network changed (which is then
    put right again), StorageError where the folder cannot be written.
    """
    made_from = _made_from(analysis, data)
    place = data.run.folder / FOLDER
    file, picture = place / f"{analysis.name}.json", place / f"{analysis.name}.png"
    stored = _stored(file)
    if stored is not None and stored.get("made_from") == made_from:
        there = picture if picture.is_file() else None
        seconds = stored["seconds"]
        return Result(numbers=stored["numbers"], made_from=made_from, seconds=seconds, there=True, picture=there)
    _check(analysis.alone, data.run.task, data.model)
    folder = place / analysis.name
    try:
        _prepare(folder, made_from)
        try:
            began = time.perf_counter()
            numbers = _numbers(analysis, data, folder, progress)
            seconds = round(time.perf_counter() - began, 3)
            pictured = _take_picture(folder, picture)
        finally:
            _leave(folder)
    except OSError as error:
        raise storage_error(folder, error, "other analyses are as they were") from error
    content = {
        "analysis": analysis.name,
        "numbers": numbers,
        "made_from": made_from,
        "checkpoint": str(data.run.checkpoint),
        "epoch": data.run.epoch,
        "versions": {"mixcore": version("mixcore"), "torch": torch.__version__},
        "device": str(data.run.device),
        "seconds": seconds,
    }
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    replace_file(file, lambda written: written.write(text.encode()))
    return Result(numbers=numbers, made_from=made_from, seconds=seconds, there=False, picture=pictured)


def _numbers(analysis: Analysis, data: LoadedRunData, folder: Path, progress: Track) -> dict[str, Any]:
    calls = analysis.alone.calls
    with numerics(data.run.config.train), autocast_off(data.run.device), kept(data.model) as changed:
        numbers = calls.analyse(model=data.model, data=data, task=data.run.task, folder=folder, progress=progress)
    if changed:
        raise HookError(
            f"{calls.label} left {', '.join(changed[:3])} of the network changed; work on a copy, or put it back"
        )
    return numbers


def _check(alone: Alone, task: Task, model: nn.Module) -> None:
    check_task(alone, task)
    check_network(alone, capabilities(model), stage_names(model))


def _made_from(analysis: Analysis, data: LoadedRunData) -> dict[str, Any]:
    return {
        "analysis": f"{analysis.selected.distribution} {analysis.selected.version}",
        "options": dict(analysis.options),
        "configuration": data.run.digest,
        "checkpoint": seal_of(data.run.checkpoint),
        "predictor": data.predictor,
        "set": data.set_name,
    }


def _stored(file: Path) -> dict[str, Any] | None:
    """What stands in the file, None where it is not there or is none of ours."""
    try:
        content = json.loads(file.read_text("utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    whole = isinstance(content, dict) and {"numbers", "made_from", "seconds"} <= content.keys()
    return content if whole else None


def _prepare(folder: Path, made_from: Mapping[str, Any]) -> None:
    """Make the folder; what an analysis of something else left in it is removed."""
    mark, text = folder / _MADE_FROM, json.dumps(made_from)
    if folder.is_symlink():
        folder.unlink()
    if folder.exists() and not (mark.is_file() and mark.read_text("utf-8") == text):
        shutil.rmtree(folder)
    folder.mkdir(parents=True, exist_ok=True)
    replace_file(mark, lambda written: written.write(text.encode()))


def _take_picture(folder: Path, picture: Path) -> Path | None:
    """Put the picture beside the numbers; the analysis is done."""
    found = folder / PICTURE
    pictured = found.is_file()
    if pictured:
        os.replace(found, picture)
    else:
        picture.unlink(missing_ok=True)  # of earlier options
    (folder / _MADE_FROM).unlink()
    return picture if pictured else None


def _leave(folder: Path) -> None:
    """Remove the folder where nothing is in it to keep or to go on from."""
    if {path.name for path in folder.iterdir()} <= {_MADE_FROM}:
        shutil.rmtree(folder)
