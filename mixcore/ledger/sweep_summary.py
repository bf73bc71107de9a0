"""What came out of a sweep: `summary.json`, and the same as a table in Markdown."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from mixcore.config.run_dir import setting_texts
from mixcore.ledger.sweep_state import RunState, SweepState
from mixcore.words import as_measured

__all__ = ["header", "markdown", "summarise_sweep", "table_row"]


def summarise_sweep(state: SweepState) -> dict[str, Any]:
    """summary.json of a sweep, as far as it is. The same for a sweep that was killed as for one that never was.

    `deviation` is the standard deviation of the population, over the `n` runs of a setting that have a value.
    """
    rows = [_run_row(found) for found in state.runs.values()]
    settings: list[dict[str, Any]] = []
    for row in rows:
        group = next((one for one in settings if one["settings"] == row["settings"]), None)
        if group is None:
            settings.append(group := {"settings": row["settings"], "values": []})
        if row["value"] is not None:
            group["values"].append(row["value"])
    return {
        **_measured_by(state.runs.values()),
        "runs": rows,
        "settings": [{"settings": group["settings"], **_statistics(group["values"])} for group in settings],
        "refused": dict(state.plan.refused),
    }


def _run_row(state: RunState) -> dict[str, Any]:
    return {
        "name": state.run.name,
        "settings": dict(state.run.settings),
        "seed": state.run.seed,
        "status": state.status,
        "value": state.summary.get("value"),
    }


def _measured_by(states: Iterable[RunState]) -> dict[str, Any]:
    """Metric and protocol of the values, of the first run that is done; None where none is."""
    first: Mapping[str, Any] = next((state.summary for state in states if state.summary), {})
    return {"metric": first.get("metric"), "protocol": first.get("protocol")}


def _statistics(values: Sequence[float]) -> dict[str, Any]:
    mean = statistics.fmean(values) if values else None
    return {"mean": mean, "deviation": statistics.pstdev(values) if values else None, "n": len(values)}


def header(summary: Mapping[str, Any]) -> list[str]:
    """Heads of the columns of :func:`table_row`."""
    return [*_keys(summary), *(f"seed {seed}" for seed in _seeds(summary)), "mean", "deviation", "n"]


def table_row(summary: Mapping[str, Any], group: Mapping[str, Any]) -> list[str]:
    """One setting: its values of the grid, what each seed gave or how far it is, and the statistics."""
    own = {row["seed"]: row for row in summary["runs"] if row["settings"] == group["settings"]}
    metric = summary["metric"]
    values = [_value(own[seed], metric) if seed in own else "" for seed in _seeds(summary)]
    told = [_number(group["mean"], metric), _number(group["deviation"], metric), str(group["n"])]
    return [*(_cell(group["settings"].get(key)) for key in _keys(summary)), *values, *told]


def _keys(summary: Mapping[str, Any]) -> list[str]:
    return list(dict.fromkeys(key for group in summary["settings"] for key in group["settings"]))


def _seeds(summary: Mapping[str, Any]) -> list[int]:
    return list(dict.fromkeys(row["seed"] for row in summary["runs"]))


def markdown(summary: Mapping[str, Any]) -> str:
    """What was measured, a table with the settings in the order of the file, and what does not fit below it."""
    heads, keys = header(summary), len(_keys(summary))
    lines = [_what(summary), "", _line(heads), _line(["---"] * keys + ["--:"] * (len(heads) - keys))]
    lines += [_line([cell.replace("|", "\\|") for cell in table_row(summary, group)]) for group in summary["settings"]]
    if summary["refused"]:
        lines += ["", "Do not fit, and were left out:", ""]
        lines += [f"- `{words}`: {' '.join(reason.split())}" for words, reason in summary["refused"].items()]
    return "\n".join(lines) + "\n"


def _what(summary: Mapping[str, Any]) -> str:
    done = sum(row["status"] == "done" for row in summary["runs"])
    count = f"{done} of {len(summary['runs'])} runs are done."
    if summary["metric"] is None:
        return count
    percent = ", in percent" if summary["metric"].startswith("top") else ""
    measured = f"{summary['metric']} ({summary['protocol']}){percent}"
    return f"Values are {measured}; the deviation is the population's. {count}"


def _value(row: Mapping[str, Any], metric: str | None) -> str:
    if row["status"] != "done":
        return str(row["status"])
    return _number(row["value"], metric) or "not finite"


def _number(value: float | None, metric: str | None) -> str:
    return "" if value is None or metric is None or not math.isfinite(value) else as_measured(metric, value)


def _cell(value: Any) -> str:
    """A value of the grid as it is written in TOML, more or less."""
    if isinstance(value, Mapping):
        return ", ".join(setting_texts(value))
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
