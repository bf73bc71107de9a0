"""Processes of a run for tests, forked from a server that has imported torch once: a start costs little."""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Sequence
from multiprocessing.context import ForkServerProcess
from pathlib import Path

import torch

from mixcore.errors import MixcoreError

_SERVER = multiprocessing.get_context("forkserver")
_SERVER.set_forkserver_preload(["mixcore.run.run", "torch.utils.tensorboard", "mixcore_plugins_builtin.losses"])


def start(config: Path, overrides: Sequence[str], folder: str, world: int = 1) -> list[ForkServerProcess]:
    """Start `world` processes of one run, single-threaded each; `{rank}` in `folder` is each one's own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    processes = [
        _SERVER.Process(target=_run, args=(rank, world, port, config, overrides, folder)) for rank in range(world)
    ]
    for process in processes:
        process.start()
    return processes


def finish(processes: Sequence[ForkServerProcess]) -> list[int | None]:
    """Wait for all; their exit codes."""
    for process in processes:
        process.join(120)
    return [process.exitcode for process in processes]


def _run(rank: int, world: int, port: int, config: Path, overrides: Sequence[str], folder: str) -> None:
    from mixcore.run.folder import RunFolder
    from mixcore.run.resolve import load_config
    from mixcore.run.run import run

    torch.set_num_threads(1)
    if world > 1:
        places = {
            "RANK": rank,
            "LOCAL_RANK": rank,
            "WORLD_SIZE": world,
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        os.environ.update({name: str(value) for name, value in places.items()})
    try:
        run(load_config(config, overrides), RunFolder(Path(folder.format(rank=rank))))
    except MixcoreError as error:
        Path(f"error-{rank}").write_text(str(error))
        sys.exit(error.exit_code)
