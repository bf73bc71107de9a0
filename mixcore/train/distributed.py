"""The processes of a run: who this one is, its device, and what they agree on.

Under torchrun, Slurm's srun or `mixcore run --nproc` a run has several processes, one per device; otherwise one.
Gradients travel over gloo on CPU and NCCL on CUDA; decisions always over gloo, so that none waits for a device.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import attrs
import torch
import torch.distributed as dist

from mixcore.config.schema import RunSection
from mixcore.errors import ConfigError, InterruptedRunError, MixcoreError, PreemptedError

__all__ = ["Agreement", "Place", "Processes", "find_place", "joined"]


@attrs.frozen(kw_only=True)
class Place:
    """One process among `world`, as its launcher numbered it."""

    rank: int = 0
    local_rank: int = 0
    """Rank among the processes of this machine: the number of the device it takes."""
    world: int = 1


def find_place(environment: Mapping[str, str]) -> Place:
    """Place of this process by torchrun's variables, else by those of a Slurm job step, else alone."""
    for rank, local_rank, world in (
        ("RANK", "LOCAL_RANK", "WORLD_SIZE"),
        ("SLURM_PROCID", "SLURM_LOCALID", "SLURM_STEP_NUM_TASKS"),
    ):
        if rank in environment and world in environment:
            number = int(environment[rank])
            return Place(
                rank=number, local_rank=int(environment.get(local_rank, number)), world=int(environment[world])
            )
    return Place()


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


@contextmanager
def joined(section: RunSection, place: Place) -> Iterator[Processes]:
    """Join the run's other processes and choose this one's device.

    Raises ConfigError where the device that [run] names does not exist, or the port where processes meet is taken.
    """
    device = _choose_device(section.device, place)
    if place.world == 1:
        yield Processes(device=device)
        return
    _initialise(section, place, device)
    control: Any = dist.new_group(backend="gloo")
    processes = Processes(rank=place.rank, world=place.world, device=device, control=control)
    try:
        yield processes
    except (PreemptedError, InterruptedRunError):  # all processes agreed to stop; after other errors some still wait
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _choose_device(name: str, place: Place) -> torch.device:
    available = torch.cuda.is_available()
    if name == "cpu" or (name == "auto" and not available):
        return torch.device("cpu")
    if not available:
        raise ConfigError('run.device = "cuda", but torch finds no CUDA device; use run.device = "cpu" or "auto"')
    count = torch.cuda.device_count()
    if place.local_rank >= count:
        raise ConfigError(
            f"{place.world} processes were started, but process {place.local_rank} finds no device of its own among "
            f'{count}; start at most {count} (--nproc {count}), or set run.device = "cpu"'
        )
    device = torch.device("cuda", place.local_rank)
    torch.cuda.set_device(device)
    return device


def _initialise(section: RunSection, place: Place, device: torch.device) -> None:
    environment = os.environ
    if "MASTER_ADDR" not in environment:
        environment["MASTER_ADDR"] = _first_host(environment.get("SLURM_STEP_NODELIST", "127.0.0.1"))
    if "MASTER_PORT" not in environment:
        environment["MASTER_PORT"] = str(section.port or 20000 + int(environment.get("SLURM_JOB_ID", "0")) % 20000)
    try:
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            rank=place.rank,
            world_size=place.world,
            device_id=device if device.type == "cuda" else None,
        )
    except dist.DistNetworkError as error:
        raise ConfigError(
            f"the processes cannot meet at {environment['MASTER_ADDR']}:{environment['MASTER_PORT']}: "
            f"{str(error).splitlines()[0]}. Where the port is in use, set another one: --set run.port=PORT"
        ) from error


def _first_host(nodes: str) -> str:
    """First host of a Slurm node list such as `gpu[03-07,09],login1`."""
    match = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", nodes)
    if match is None:
        raise MixcoreError(f"SLURM_STEP_NODELIST is {nodes!r}; expected host names. Set MASTER_ADDR instead")
    return match[1] + (match[2] or "")


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
