"""From a finished run folder to its row of evidence."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

import tomli

from mixcore.config.schema import PROTOCOL
from mixcore.errors import MixcoreError
from mixcore.evaluate.protocol import best_predictor, protocol_result
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
    if not records:
        raise EvidenceError(f"{folder.path} is no finished run: its metrics.jsonl has no epoch")
    lacking = [key for key in _NEEDED if key not in summary]
    if lacking:
        raise EvidenceError(f"{folder.path} is no finished run: its summary.json lacks {', '.join(lacking)}")
    if digest_of(configuration) != summary["digest"]:
        raise EvidenceError(f"{folder.path}: its config.toml is not the one it was trained with; put that one back")
    seed = configuration.pop("seed")
    metric, protocol = summary["metric"], summary["protocol"]
    series = _series(records, metric)
    values = _values(series, protocol)
    value = values.get(summary["predictor"])
    if value is None:
        raise EvidenceError(f"{folder.path} ended without a finite {metric} of its predictor {summary['predictor']}")
    if value != summary["value"]:
        raise EvidenceError(
            f"{folder.path}: {protocol} of its metrics.jsonl is {value}, its summary.json says {summary['value']}; "
            "one of them was changed"
        )
    try:
        return Evidence(
            experiment=experiment,
            experiment_digest=digest_of(configuration),
            run_digest=summary["digest"],
            configuration=configuration,
            seed=seed,
            protocol=protocol,
            metric=metric,
            value=value,
            values=values,
            **_legacy(series, f"{protocol}-legacy"),
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


def _series(records: Sequence[Mapping[str, Any]], metric: str) -> dict[str, list[float]]:
    """The metric of every epoch, by predictor; NaN where it was not finite."""
    prefix = f"val/{metric}/"
    keys = [key for key in records[-1] if key.startswith(prefix)]
    return {
        key.removeprefix(prefix): [math.nan if record.get(key) is None else record[key] for record in records]
        for key in keys
    }


def _values(series: Mapping[str, Sequence[float]], protocol: str) -> dict[str, float]:
    """What the protocol gives of each predictor; those are left out for which it is not finite."""
    found = {name: protocol_result(protocol, values, allow_partial=True).value for name, values in series.items()}
    return {name: value for name, value in found.items() if math.isfinite(value)}


def _legacy(series: Mapping[str, Sequence[float]], protocol: str) -> dict[str, Any]:
    """The fields of a row that the legacy form of its protocol gives, where there is one."""
    if not PROTOCOL.fullmatch(protocol):
        return {}
    largest = best_predictor(protocol, series, allow_partial=True)[1].value
    return {"legacy": _values(series, protocol), "legacy_largest": largest if math.isfinite(largest) else None}
