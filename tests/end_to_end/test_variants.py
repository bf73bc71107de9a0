"""The quickstart with each of the harder methods: it trains, and processes stay in step."""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as multiprocessing

from mixcore.cli.main import main
from mixcore.discovery.manager import build_plugins
from mixcore.run.place import find_place
from mixcore.run.processes import joined
from mixcore.run.resolve import load_config
from mixcore.run.session import build_session

CONFIGS = Path(__file__).resolve().parents[2] / "configs" / "digits"
VARIANTS = sorted(path.stem for path in CONFIGS.glob("*.toml"))


@pytest.mark.slow
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_variant_of_the_quickstart_trains(variant: str, tmp_path: Path) -> None:
    """Chance is 10 %; the plain quickstart has about 95 % after four epochs."""
    settings = ["schedule.epochs=4", f"run.dir={tmp_path}", "run.device=cpu"]
    if variant in ("mergemix", "tla", "transmix"):
        settings[0] = "schedule.epochs=10"  # the transformer starts from nothing
    sets = [word for setting in settings for word in ("--set", setting)]
    assert main(["run", str(CONFIGS / f"{variant}.toml"), *sets]) == 0
    summary: dict[str, Any] = json.loads((tmp_path / "summary.json").read_text())
    assert summary["value"] > 60


@pytest.mark.ddp
@pytest.mark.slow
@pytest.mark.parametrize("variant", ["manifoldmix", "puzzlemix", "transmix"])
def test_two_processes_have_equal_parameters_after_twenty_steps(variant: str, tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    multiprocessing.spawn(_twenty_steps, args=(port, variant, str(tmp_path)), nprocs=2)
    first, second = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert first.keys() == second.keys()
    for name, value in first.items():
        assert torch.equal(value, second[name]), name
    assert not torch.equal(*(torch.load(tmp_path / f"images-{rank}.pt", weights_only=True) for rank in range(2)))


def _twenty_steps(rank: int, port: int, variant: str, folder: str) -> None:
    place = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    os.environ.update({name: str(value) for name, value in place.items()})
    torch.set_num_threads(1)
    config = load_config(CONFIGS / f"{variant}.toml", ["data.batch_size=8", "run.device=cpu"]).config
    with joined(config.run, find_place(os.environ)) as processes:
        session = build_session(config, build_plugins(config), processes)
        for iteration, (images, labels) in zip(range(20), session.loader.epoch(0), strict=False):
            loss, report = session.module(images, labels, epoch=0, iteration=iteration)
            loss.backward()
            session.state.optimizer.step()
            session.state.optimizer.zero_grad()
            session.state.step.after_step()
        dist.barrier()
        torch.save(dict(session.state.step.named_parameters()), Path(folder) / f"{rank}.pt")
        torch.save(report.mix.images.detach(), Path(folder) / f"images-{rank}.pt")
