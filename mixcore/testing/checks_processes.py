"""The check on two processes: the same mixed batches as on one, and equal parameters after two steps."""

from __future__ import annotations

import multiprocessing
import os
import pickle
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch.multiprocessing.spawn import start_processes
from torch.nn.parallel import DistributedDataParallel

from mixcore.run.launch import loopback
from mixcore.testing.expect import expect
from mixcore.testing.harness import Harness, NotApplicableError, Subject, companions

__all__ = ["two_processes"]

ROWS = 2
"""Images per process."""
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload([__name__, "timm"])
"""Forks the processes: it imports once, for all plugins that one test process checks, what takes seconds each time."""


def two_processes(harness: Harness) -> None:
    """With group_size, two processes mix what one does; two DDP steps leave them with equal networks.

    To the byte, unless the method looks at a network: what a forward gives depends, in the last bit, on where its
    tensors happen to lie in memory.
    """
    try:
        subject = pickle.dumps(harness.subject)
    except (pickle.PicklingError, AttributeError, TypeError) as error:
        raise NotApplicableError(f"the plugin cannot be sent to another process ({error})") from error
    with tempfile.TemporaryDirectory() as folder:
        start_processes(_process, (subject, folder, loopback()), nprocs=2, start_method="forkserver")
        found = [torch.load(Path(folder, f"{rank}.pt"), weights_only=True) for rank in range(2)]
    images, labels = harness.batch(2 * ROWS)
    alone = harness.step(group_size=ROWS)
    expected = harness.mix(images, labels, step=alone).images.cpu()
    mixed = torch.cat([one["mixed"] for one in found])
    looks = {"probe", "modules"} & harness.plugins().mixers[0].asks("generate_mix")
    same = torch.allclose(mixed, expected, rtol=0, atol=1e-4) if looks else torch.equal(mixed, expected)
    expect(same, "two processes gave other mixed images than one, with the same group_size")
    for name, value in found[0]["state"].items():
        same = torch.equal(value, found[1]["state"][name])
        expect(same, f"{name} differs between two processes after two steps")


def _process(rank: int, pickled: bytes, folder: str, interface: str) -> None:
    """What each process runs: two steps on its share of the batch, results left in the folder."""
    subject: Subject = pickle.loads(pickled)
    torch.set_num_threads(1)
    cuda = subject.device == "cuda"
    os.environ["GLOO_SOCKET_IFNAME"] = interface  # nothing listens to the network
    # one device is enough: gloo exchanges the gradients of two processes that share it
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    try:
        harness = Harness(subject)
        step = harness.step(group_size=ROWS, rank=rank)
        wrapped = DistributedDataParallel(step, find_unused_parameters=step.find_unused_parameters)
        optimizer = torch.optim.SGD(step.param_groups(lr=0.05))
        images, labels = harness.batch(2 * ROWS)
        rows = slice(rank * ROWS, (rank + 1) * ROWS)
        result: dict[str, Any] = {}
        for iteration in range(2):
            beside = companions(step, images[rows])
            loss, report = wrapped(images[rows], labels[rows], epoch=0, iteration=iteration, **beside)
            result.setdefault("mixed", report.mix.images.detach().cpu())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step.after_step()
        if cuda:
            torch.cuda.synchronize()
        result["state"] = {name: p.detach().cpu() for name, p in step.named_parameters() if p.requires_grad}
        torch.save(result, Path(folder, f"{rank}.pt"))
    finally:
        dist.destroy_process_group()
