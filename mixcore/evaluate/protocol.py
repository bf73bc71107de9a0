"""Which number a run reports, from its values of every epoch: best, last, or the median of the last N.

The legacy forms count as the scripts do that published tables were made with, so that a number can be compared with
one of theirs.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Literal, TypeVar

import attrs
import numpy as np

from mixcore.config.schema import PROTOCOL, PROTOCOLS
from mixcore.errors import ConfigError, MixcoreError

__all__ = [
    "Protocol",
    "ProtocolResult",
    "best_predictor",
    "median",
    "parse_protocol",
    "protocol_result",
    "protocol_value",
]

_Key = TypeVar("_Key")

MANY = 10
"""From this N on the legacy maximum over predictors looks at one epoch more."""


@attrs.frozen(kw_only=True)
class Protocol:
    """A parsed protocol: `rule` over the epochs `last`, None for all; "last" is the median of one."""

    text: str
    rule: Literal["median", "best"]
    last: int | None = None
    legacy: bool = False


@attrs.frozen(kw_only=True)
class ProtocolResult:
    """The number a protocol gives, the epochs that it took (a best: all), and whether there were fewer than it asks."""

    value: float
    epochs: int
    partial: bool = False


def parse_protocol(text: str) -> Protocol:
    """Read a protocol; ConfigError names the allowed values."""
    match = PROTOCOL.fullmatch(text)
    if match is None:
        raise ConfigError(f"eval.protocol is {text!r}; allowed: {PROTOCOLS}")
    if match["median"]:
        return Protocol(text=text, rule="median", last=int(match["median"]), legacy=bool(match["median_legacy"]))
    if match["best"]:
        return Protocol(text=text, rule="best", last=int(match["best"]))
    if text == "last":
        return Protocol(text=text, rule="median", last=1)
    return Protocol(text=text, rule="best", legacy=bool(match["best_legacy"]))


def protocol_value(protocol: str, values: Sequence[float], *, higher_is_better: bool = True) -> float:
    """The value of :func:`protocol_result`; fewer epochs than the protocol needs raise MixcoreError."""
    return protocol_result(protocol, values, higher_is_better=higher_is_better).value


def protocol_result(
    protocol: str, values: Sequence[float], *, higher_is_better: bool = True, allow_partial: bool = False
) -> ProtocolResult:
    """What `protocol` gives for `values`, one per epoch in order; the unit that goes in comes out.

    median-last-N takes epochs E-N+1 .. E of E (counted from 1): exactly N, for even N the mean of the two middle
    values; best-last-N the best of them. Fewer than N raise MixcoreError, or with `allow_partial` count as they are,
    marked partial. A best is one of the finite values, NaN where none is; a median over a value that is not finite is
    NaN. median-last-N-legacy takes epochs E-N .. E, one more, where there is one; best-legacy is (max + 99th
    percentile)/2 of the finite values, of an error (min + 1st percentile)/2, percentiles interpolated linearly.
    """
    parsed = parse_protocol(protocol)
    if not values:
        raise MixcoreError(f"no epoch has been evaluated, so {protocol} has no value; train for at least one epoch")
    window = list(values if parsed.last is None else values[-parsed.last - parsed.legacy :])
    partial = parsed.last is not None and len(values) < parsed.last
    if partial and not allow_partial:
        raise MixcoreError(
            f"{protocol} needs {parsed.last} evaluated epochs and there are {len(values)}; train longer, or choose "
            f'"{parsed.rule}-last-{len(values)}", "last" or "best"'
        )
    if parsed.rule == "median":
        value = median(window)
    else:
        value = _best(window, higher_is_better=higher_is_better, legacy=parsed.legacy)
    return ProtocolResult(value=value, epochs=len(window), partial=partial)


def best_predictor(
    protocol: str,
    values: Mapping[str, Sequence[float]],
    *,
    higher_is_better: bool = True,
    allow_partial: bool = False,
) -> tuple[str, ProtocolResult]:
    """The predictor with the best number by `protocol`, and that number; `values` of every epoch by predictor.

    The earlier one of equals; one without a finite number only where none has one. median-last-N-legacy is, for each
    predictor, the better one of the medians over epochs E-N .. E and over the same without the last one, from N = 10 on
    E-N-1 .. E and E-N-1 .. E-1, as published for AutoMix and SAMix. Raises MixcoreError where there is no predictor, or
    as :func:`protocol_result` does.
    """
    if not values:
        raise MixcoreError(f"{protocol} over predictors needs at least one predictor, and there is none")
    results = {
        name: _best_window(protocol, series, higher_is_better=higher_is_better, allow_partial=allow_partial)
        for name, series in values.items()
    }
    name = _first_best({name: result.value for name, result in results.items()}, higher_is_better=higher_is_better)
    return name, results[name]


def _best_window(
    protocol: str, values: Sequence[float], *, higher_is_better: bool, allow_partial: bool
) -> ProtocolResult:
    """One predictor's result; under a legacy median the better one of two windows."""
    parsed = parse_protocol(protocol)
    result = protocol_result(protocol, values, higher_is_better=higher_is_better, allow_partial=allow_partial)
    if parsed.rule != "median" or parsed.last is None or not parsed.legacy:
        return result
    window = values[-parsed.last - (2 if parsed.last >= MANY else 1) :]
    tried = {len(one): median(one) for one in (window, window[:-1]) if one}
    length = _first_best(tried, higher_is_better=higher_is_better)
    return ProtocolResult(value=tried[length], epochs=length, partial=result.partial)


def _first_best(values: Mapping[_Key, float], *, higher_is_better: bool) -> _Key:
    """The first key of those with the best finite value, or of all."""
    finite = {key: value for key, value in values.items() if math.isfinite(value)} or values
    return (max if higher_is_better else min)(finite, key=lambda key: finite[key])


def _best(values: Sequence[float], *, higher_is_better: bool, legacy: bool) -> float:
    finite = [value for value in values if math.isfinite(value)]
    if not finite:
        return math.nan
    best = max(finite) if higher_is_better else min(finite)
    return (best + float(np.percentile(finite, 99 if higher_is_better else 1))) / 2 if legacy else best


def median(values: Sequence[float]) -> float:
    """The median; NaN where a value is not finite, because such values have no order."""
    return statistics.median(values) if all(map(math.isfinite, values)) else math.nan
