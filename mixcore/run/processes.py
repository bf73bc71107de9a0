"""The processes of a run: how they meet, and the device of each.

Under torchrun, Slurm's srun or `mixcore run --nproc` a run has several processes, one per device; otherwise one.
Gradients travel over gloo on CPU and NCCL on CUDA; decisions always over gloo, so that none waits for a device.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist

from mixcore.children import launch_folder
from mixcore.config.schema import RunSection
from mixcore.errors import ConfigError, InterruptedRunError, MixcoreError, PreemptedError
from mixcore.run.place import Place, integer
from mixcore.train.agreement import Processes

__all__ = ["joined"]


@contextmanager
def joined(section: RunSection, place: Place) -> Iterator[Processes]:
    """Join the run's other processes and choose this one's device.

    Raises ConfigError where the device that [run] names does not exist, two processes have the same one, or the port
    where processes meet is taken.
    """
    device = _choose_device(section.device, place)
    if place.world == 1:
        yield Processes(device=device)
        return
    _initialise(section, place, device)
    control: Any = dist.new_group(backend="gloo")
    processes = Processes(rank=place.rank, world=place.world, device=device, control=control)
    _check_devices(processes)
    try:
        yield processes
    except (PreemptedError, InterruptedRunError):  # all processes agreed to stop; after other errors some still wait
        dist.destroy_process_group()
        raise
    dist.destroy_process_group()


def _choose_device(name: str, place: Place) -> torch.device:
    """The device of this process: of several the one with its number, of one that one.

    Slurm (`--gpus-per-task`) and other launchers may show each process only the device that is its own.
    """
    available = torch.cuda.is_available()
    if name == "cpu" or (name == "auto" and not available):
        return torch.device("cpu")
    if not available:
        raise ConfigError('run.device = "cuda", but torch finds no CUDA device; use run.device = "cpu" or "auto"')
    count = torch.cuda.device_count()
    if place.local_rank >= count > 1:
        raise ConfigError(
            f"{place.world} processes were started, but process {place.local_rank} of this machine finds no device of "
            f'its own among {count}; start at most {count} (--nproc {count}), or set run.device = "cpu"'
        )
    device = torch.device("cuda", place.local_rank if count > 1 else 0)
    torch.cuda.set_device(device)
    return device


def _check_devices(processes: Processes) -> None:
    """Refuse two processes on one device, each of which saw that device alone. All processes call it."""
    sharing: dict[str, list[int]] = {}
    for rank, identity in enumerate(processes.gather(_identity(processes.device))):
        if identity is not None:
            sharing.setdefault(identity, []).append(rank)
    for identity, ranks in sharing.items():
        if len(ranks) > 1:
            raise ConfigError(
                f"processes {' and '.join(map(str, ranks))} were given the same device, {identity}; start one process "
                'per device (--nproc, or --gpus-per-task=1 under Slurm), or set run.device = "cpu"'
            )


def _identity(device: torch.device) -> str | None:
    """What tells a CUDA device from all others; None for the CPU, which processes share."""
    if device.type != "cuda":
        return None
    # the instances of one divided GPU have one uuid, but each process is shown its instance by name
    visible = os.environ.get("CUDA_VISIBLE_DEVICES", "")
    return f"GPU-{torch.cuda.get_device_properties(device).uuid} (CUDA_VISIBLE_DEVICES={visible!r})"


def _initialise(section: RunSection, place: Place, device: torch.device) -> None:
    # without device_id: NCCL then connects at its first collective, after the processes have compared their devices
    backend = "nccl" if device.type == "cuda" else "gloo"
    folder = launch_folder()
    if folder is not None:
        meeting = f"file://{folder}/store"
        dist.init_process_group(backend, init_method=meeting, rank=place.rank, world_size=place.world)
        return
    address, port = _meeting_point(section)
    try:
        dist.init_process_group(backend, rank=place.rank, world_size=place.world)
    except RuntimeError as error:
        # torch 2.6 makes a port in use a plain RuntimeError with the system's name of the fault in it
        if not isinstance(error, dist.DistNetworkError) and "EADDRINUSE" not in str(error):
            raise
        raise ConfigError(
            f"the processes cannot meet at {address}:{port}: {str(error).splitlines()[0]}. Where the port is in use, "
            "set another one: --set run.port=PORT"
        ) from error


def _meeting_point(section: RunSection) -> tuple[str, int]:
    """Address and port where torch lets the processes of a foreign launcher meet, put where torch reads them."""
    environment = os.environ
    if "MASTER_ADDR" not in environment:
        environment["MASTER_ADDR"] = _first_host(environment.get("SLURM_STEP_NODELIST", "127.0.0.1"))
    if "MASTER_PORT" not in environment:
        job = integer(environment, "SLURM_JOB_ID") if "SLURM_JOB_ID" in environment else 0
        environment["MASTER_PORT"] = str(section.port or 20000 + job % 20000)
    return environment["MASTER_ADDR"], integer(environment, "MASTER_PORT")


def _first_host(nodes: str) -> str:
    """First host of a Slurm node list such as `gpu[03-07,09],login1`."""
    match = re.match(r"([^,\[]+)(?:\[([^,\-\]]+))?", nodes)
    if match is None:
        raise MixcoreError(f"SLURM_STEP_NODELIST is {nodes!r}; expected host names. Set MASTER_ADDR instead")
    return match[1] + (match[2] or "")
