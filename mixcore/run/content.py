"""What a checkpoint must hold, checked key by key before anything of it is used."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

__all__ = ["FOR_RESUMING", "misfits_for_evaluation", "misfits_for_resuming"]


def _count(value: object) -> bool:
    return type(value) is int and value >= 0


def _counts(value: object) -> bool:
    return isinstance(value, list) and all(map(_count, value))


def _text(value: object) -> bool:
    return isinstance(value, str)


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(map(_text, value))


def _texts_by_name(value: object) -> bool:
    return _by_name(value, _text)


def _tensors(value: object) -> bool:
    return _by_name(value, lambda item: isinstance(item, Tensor) and item.layout is torch.strided)


def _tensors_or_none(value: object) -> bool:
    return value is None or _tensors(value)


def _seconds(value: object) -> bool:
    return _by_name(value, lambda item: type(item) is float and item >= 0)


def _best(value: object) -> bool:
    if value is None:
        return True
    return (
        isinstance(value, dict)
        and value.keys() == {"epoch", "value"}
        and _count(value["epoch"])
        and type(value["value"]) is float
        and math.isfinite(value["value"])
    )


def _totals(value: object) -> bool:
    """Per process, a sum and a count by tag."""
    return isinstance(value, list) and all(_by_name(one, _sum_and_count) for one in value)


def _sum_and_count(value: object) -> bool:
    return isinstance(value, list) and [type(item) for item in value] == [float, int]


def _fingerprints(value: object) -> bool:
    return _by_name(value, lambda one: isinstance(one, dict) and _count(one.get("samples")) and _text(one.get("hash")))


def _table(value: object) -> bool:
    return isinstance(value, dict)


def _by_name(value: object, fits: Callable[[object], bool]) -> bool:
    return isinstance(value, Mapping) and all(_text(name) and fits(item) for name, item in value.items())


_FOR_EVALUATION: dict[str, Callable[[object], bool]] = {
    "digest": _text,
    "config": _text,
    "versions": _texts_by_name,
    "spec_version": _counts,
    "epoch": _count,
    "step": _tensors,
    "ema": _tensors_or_none,
}
"""In every checkpoint, best.pt too."""

FOR_RESUMING: dict[str, Callable[[object], bool]] = {
    "iteration": _count,
    "iterations_per_epoch": _count,
    "updates": _count,
    "best": _best,
    "seconds": _seconds,
    "records": _texts,
    "totals": _totals,
    "data": _fingerprints,
    "optimizer": _table,
    "scaler": _table,
}
"""What a run goes on from beside the weights; not in best.pt."""


def misfits_for_evaluation(content: Mapping[Any, Any]) -> list[str]:
    """The keys of the weights and their description that are missing or of another kind than they must be."""
    return _misfits(content, _FOR_EVALUATION)


def misfits_for_resuming(content: Mapping[Any, Any]) -> list[str]:
    """The same for what a run goes on from; a run has a line of metrics for each of its finished epochs."""
    faults = _misfits(content, FOR_RESUMING)
    if not faults and len(content["records"]) != content["epoch"]:
        faults.append("records")
    return faults


def _misfits(content: Mapping[Any, Any], wanted: Mapping[str, Callable[[object], bool]]) -> list[str]:
    return [key for key, fits in wanted.items() if key not in content or not fits(content[key])]
