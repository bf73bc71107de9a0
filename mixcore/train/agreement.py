"""What the processes of a run tell each other while they train.

Decisions always travel over gloo, so that none waits for a device.
"""

from __future__ import annotations

from typing import Any

import attrs
import torch
import torch.distributed as dist

__all__ = ["Agreement", "Processes"]


@attrs.frozen(kw_only=True, eq=False)
class Processes:
    """This process among those of the run. `control` is their gloo group, None for a single process."""

    rank: int = 0
    world: int = 1
    device: torch.device
    control: dist.ProcessGroup | None = None

    @property
    def leads(self) -> bool:
        """Whether this process writes the run folder and prints."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """`value` of every process, in the order of their ranks. All must call it; they wait for each other."""
        if self.control is None:
            return [value]
        values: list[Any] = [None] * self.world
        dist.all_gather_object(values, value, group=self.control)
        return values

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.control is not None:
            dist.barrier(group=self.control)


class Agreement:
    """Lets all processes know the largest number that any of them said, one call late, so that none has to wait.

    Every process calls it equally often; all then get the same answers in the same order.
    """

    def __init__(self, processes: Processes) -> None:
        self._control = processes.control
        self._said = torch.zeros(1, dtype=torch.int64)
        self._pending: dist.Work | None = None

    def __call__(self, number: int) -> int:
        """Say `number`; the largest that was said at the call before. A single process gets its own back at once."""
        if self._control is None:
            return number
        answer = self.finish()
        self._said = torch.tensor([number])
        self._pending = dist.all_reduce(self._said, dist.ReduceOp.MAX, group=self._control, async_op=True)
        return answer

    def finish(self) -> int:
        """The largest number of the last call, waited for."""
        if self._pending is not None:
            self._pending.wait()
            self._pending = None
        return int(self._said)
