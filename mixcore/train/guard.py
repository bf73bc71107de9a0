"""What keeps a loss that is not finite from the weights where nobody waits to read it."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist
from torch import Tensor

from mixcore.errors import NonFiniteLossError
from mixcore.ops.bits import restore_unless_
from mixcore.train.agreement import Processes
from mixcore.train.state import TrainingState

__all__ = ["Guard"]


class Guard:
    """From the first loss that is NaN or infinite on, every optimizer step is undone on the device, unasked.

    For devices that one waits for: the host reads losses in batches, and learns of such a loss only when later
    iterations are under way. Everything that an optimizer step changes (weights, what the optimizer keeps, averages,
    momentum networks) is copied before it and put back by a flag, bit for bit: some ten passes over those tensors, and
    memory that is free again when the next forward begins. All processes share the flag.
    """

    def __init__(self, state: TrainingState, processes: Processes) -> None:
        self._state, self._processes = state, processes
        self._sound = torch.ones((), dtype=torch.int32, device=processes.device)

    def note(self, loss: Tensor) -> None:
        """Take the loss of an iteration, a detached scalar on the device, into account."""
        self._sound.mul_(loss.isfinite())

    @contextmanager
    def around_step(self) -> Iterator[None]:
        """An optimizer step and what follows it; without effect where a loss so far was not finite."""
        if self._processes.world > 1:
            dist.all_reduce(self._sound, dist.ReduceOp.MIN)
        with torch.no_grad():
            changing = self._changing()
            before = [torch.empty_like(tensor) for tensor in changing]
            torch._foreach_copy_(before, changing)
        yield
        with torch.no_grad():
            restore_unless_(self._sound, changing, before)

    def tell(self) -> None:
        """Raise NonFiniteLossError where another process's loss was not finite; waits for the device, as a read does.

        Call it where this process's own losses have just been read.
        """
        if self._processes.world > 1 and not bool(self._sound):
            raise NonFiniteLossError(
                "the loss of another process became NaN or infinite; its message says where. No weight was updated "
                "from it, and checkpoints are as they were"
            )

    def _changing(self) -> list[Tensor]:
        """All tensors on the device that an optimizer step, the average of the weights or a plugin may write to, once.

        Not what the optimizer makes in this step: there is nothing yet to put back.
        """
        kept = [value for values in self._state.optimizer.state.values() for value in values.values()]
        found = [one for one in (*self._modules, *kept) if isinstance(one, Tensor) and one.device == self._sound.device]
        return list({one.data_ptr(): one.detach() for one in found if one.numel()}.values())

    @functools.cached_property
    def _modules(self) -> list[Tensor]:
        """Tensors of the network, of all parts and of the average; they stay where they are for the whole run."""
        averaged = {} if self._state.ema is None else self._state.ema.state_dict()
        return [*self._state.step.saved_state().values(), *averaged.values()]
