"""From a finished run folder to its row of evidence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import tomli

from mixcore.errors import MixcoreError
from mixcore.evaluate.protocol import protocol_result
from mixcore.ledger.evidence import Evidence, EvidenceError
from mixcore.logs.jsonl import read_records
from mixcore.run.folder import RunFolder
from mixcore.run.resolve import determining, digest_of, load_config

__all__ = ["evidence_of"]

_NEEDED = ("digest", "predictor", "seed", "versions", "device", "processes", "data", "seconds")
"""Of summary.json, beside what everybody reads of it."""


def evidence_of(folder: RunFolder, experiment: str, command: str) -> Evidence:
    """The row of the finished run in `folder`, as one of `experiment`; `command` is what was typed for it.

    EvidenceError names the folder and what it lacks; ConfigError and PluginError where its configuration cannot be read
    by what is installed.
    """
    try:
        summary = folder.read_summary()
        configuration = _configuration(folder)
        records = read_records(folder.metrics)
        environment = json.loads(folder.environment.read_text("utf-8"))
    except (OSError, ValueError, MixcoreError) as error:
        if isinstance(error, MixcoreError) and not folder.path.is_dir():
            raise EvidenceError(f"there is no run folder {folder.path}") from error
        raise EvidenceError(f"{folder.path} is no finished run: {error}") from error
    lacking = [key for key in _NEEDED if key not in summary]
    if lacking:
        raise EvidenceError(f"{folder.path} is no finished run: its summary.json lacks {', '.join(lacking)}")
    if digest_of(configuration) != summary["digest"]:
        raise EvidenceError(f"{folder.path}: its config.toml is not the one it was trained with; put that one back")
    seed = configuration.pop("seed")
    metric, protocol = summary["metric"], summary["protocol"]
    values = _values(records, metric, protocol)
    if summary["predictor"] not in values:
        raise EvidenceError(f"{folder.path} ended without a finite {metric} of its predictor {summary['predictor']}")
    try:
        return Evidence(
            experiment=experiment,
            experiment_digest=digest_of(configuration),
            run_digest=summary["digest"],
            configuration=configuration,
            seed=seed,
            protocol=protocol,
            metric=metric,
            value=values[summary["predictor"]],
            values=values,
            epochs=len(records),
            command=command,
            git=environment.get("git"),
            versions=summary["versions"],
            device=summary["device"],
            processes=summary["processes"],
            seconds=summary["seconds"],
            data=summary["data"],
        )
    except (TypeError, ValueError) as error:
        raise EvidenceError(f"{folder.path} gives no evidence: {error.args[0]}") from error


def _configuration(folder: RunFolder) -> dict[str, Any]:
    """The part of config.toml that the numbers depend on, as it stands there."""
    tree = tomli.loads(folder.config.read_text("utf-8"))
    return determining(tree, load_config(folder.config).places)


def _values(records: Sequence[Mapping[str, Any]], metric: str, protocol: str) -> dict[str, float]:
    """What `protocol` gives of each predictor; those are left out where it is not finite."""
    prefix = f"val/{metric}/"
    names = [key.removeprefix(prefix) for key in (records[-1] if records else ()) if key.startswith(prefix)]
    found = {}
    for name in names:
        series = [math.nan if (value := record.get(prefix + name)) is None else value for record in records]
        found[name] = protocol_result(protocol, series, allow_partial=True).value
    return {name: value for name, value in found.items() if math.isfinite(value)}
