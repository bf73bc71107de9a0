"""Running sums of an epoch, read from the device in batches so that no iteration waits for it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import attrs
import torch
from torch import Tensor

from mixcore.errors import NonFiniteLossError

__all__ = ["Totals"]

_LOSS, _LAM, _SOURCES = "train/loss", "mix/lam", "mix/sources"


@attrs.frozen(eq=False)
class _Unread:
    """One iteration whose numbers still lie on the device."""

    epoch: int
    iteration: int
    mixer: str | None
    names: tuple[str, ...]
    values: tuple[Tensor | float, ...]


class Totals:
    """Sums and counts by tag over the iterations of one epoch; float64 on the host, added in their order.

    `add` keeps tensors where they are; `read` fetches all at once and finds a loss that is not finite.
    """

    def __init__(self, precision: str) -> None:
        self._precision = precision
        self._sums: dict[str, tuple[float, int]] = {}
        """Sum and count by tag."""
        self._unread: list[_Unread] = []
        self.latest = math.nan
        """Loss of the last iteration that was read."""

    def add(
        self,
        epoch: int,
        iteration: int,
        loss: Tensor,
        lam: Tensor,
        sources: Tensor,
        mixer: str | None,
        more: Mapping[str, Tensor | float],
    ) -> None:
        """Note the numbers of one iteration; `more` by tag, averaged over the iterations that have the tag."""
        names, values = (_LOSS, _LAM, _SOURCES, *more), (loss, lam, sources, *more.values())
        self._unread.append(_Unread(epoch, iteration, mixer, names, values))

    def read(self) -> None:
        """Fetch what was noted. Raises NonFiniteLossError for the first loss that is NaN or infinite."""
        unread, self._unread = self._unread, []
        numbers = iter(_fetch([value for one in unread for value in one.values]))
        for one in unread:
            values = {name: next(numbers) for name in one.names}
            if not math.isfinite(values[_LOSS]):
                raise self._not_finite(one, values)
            self.latest = values[_LOSS]
            for name, value in values.items():
                self._sum(name, value, 1)

    def _not_finite(self, one: _Unread, values: Mapping[str, float]) -> NonFiniteLossError:
        return NonFiniteLossError(
            f"the loss became {values[_LOSS]} at epoch {one.epoch + 1}, iteration {one.iteration}: mixer "
            f"{one.mixer or 'none'}, mean lam {values[_LAM]:.4g}, precision {self._precision}. Checkpoints are as they "
            "were. Try a lower optimizer.lr, --set train.clip_grad=1.0, or --set train.precision=fp32"
        )

    def count(self, name: str, number: int) -> None:
        """Add `number` to a tag that is counted over the epoch, not averaged; on one process, for all are summed."""
        self._sum(name, number, 0)

    def state(self) -> dict[str, list[float | int]]:
        """What a checkpoint holds; call `read` before."""
        return {name: [total, count] for name, (total, count) in self._sums.items()}

    def merge(self, state: Mapping[str, Sequence[Any]]) -> None:
        """Add what `state` of a checkpoint holds."""
        for name, (total, count) in state.items():
            self._sum(name, float(total), int(count))

    def _sum(self, name: str, total: float, count: int) -> None:
        before = self._sums.get(name, (0.0, 0))
        self._sums[name] = (before[0] + total, before[1] + count)

    def means(self) -> dict[str, float]:
        """Mean of each tag; of one that is counted, the sum."""
        return {name: total / count if count else total for name, (total, count) in self._sums.items()}

    def clear(self) -> None:
        """Start an epoch."""
        self._sums = {}


def _fetch(values: Sequence[Tensor | float]) -> list[float]:
    """All values as numbers, those on the device with one transfer."""
    remote = [value.detach().float().reshape(()) for value in values if _is_remote(value)]
    numbers = iter(torch.stack(remote).tolist() if remote else ())
    return [next(numbers) if _is_remote(value) else float(value) for value in values]


def _is_remote(value: Tensor | float) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and value.device.type != "cpu"
