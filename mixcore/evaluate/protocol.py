"""Which number a run reports, from its values of every epoch: best, last, or the median of the last N."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence

import attrs

from mixcore.config.schema import PROTOCOL, PROTOCOLS
from mixcore.errors import ConfigError, MixcoreError

__all__ = ["Protocol", "ProtocolResult", "median", "parse_protocol", "protocol_result", "protocol_value"]


@attrs.frozen(kw_only=True)
class Protocol:
    """A parsed protocol. `last` is the N of median-last-N, 1 for "last", None for "best"."""

    text: str
    last: int | None


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
    if match["epochs"] is None:
        return Protocol(text=text, last=1 if text == "last" else None)
    return Protocol(text=text, last=int(match["epochs"]))


def protocol_value(protocol: str, values: Sequence[float], *, higher_is_better: bool = True) -> float:
    """The value of :func:`protocol_result`; fewer epochs than the protocol needs raise MixcoreError."""
    return protocol_result(protocol, values, higher_is_better=higher_is_better).value


def protocol_result(
    protocol: str, values: Sequence[float], *, higher_is_better: bool = True, allow_partial: bool = False
) -> ProtocolResult:
    """What `protocol` gives for `values`, one per epoch in order; the unit that goes in comes out.

    median-last-N takes epochs E-N+1 .. E of E (counted from 1): exactly N, for even N the mean of the two middle
    values. Fewer than N raise MixcoreError, or with `allow_partial` give the median of those there are, marked partial.
    A best is one of the finite values, NaN where none is; a median over a value that is not finite is NaN.
    """
    parsed = parse_protocol(protocol)
    if not values:
        raise MixcoreError(f"no epoch has been evaluated, so {protocol} has no value; train for at least one epoch")
    if parsed.last is None:
        finite = [value for value in values if math.isfinite(value)]
        best = (max if higher_is_better else min)(finite, default=math.nan)
        return ProtocolResult(value=best, epochs=len(values))
    window = values[-parsed.last :]
    partial = len(window) < parsed.last
    if partial and not allow_partial:
        raise MixcoreError(
            f"{protocol} needs {parsed.last} evaluated epochs and there are {len(values)}; train longer, or choose "
            f'"median-last-{len(values)}", "last" or "best"'
        )
    return ProtocolResult(value=median(window), epochs=len(window), partial=partial)


def median(values: Sequence[float]) -> float:
    """The median; NaN where a value is not finite, because such values have no order."""
    return statistics.median(values) if all(map(math.isfinite, values)) else math.nan
