"""docs/backbones.md: every backbone of ours is there, is built by that name, and is as large as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from mixcore.api import Task
from mixcore.discovery.catalogue import find, installed
from mixcore.discovery.load import load
from mixcore.hooks.roles import role_of
from mixcore_plugins_builtin.backbones.timm_model import TimmBackbone

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "backbones.md").read_text(encoding="utf-8")
ROWS = re.findall(r"^\| `(\w+)` \| \[?([\w-]+).*? \| ([\d,]+) \| (\d+) \| ([\d.]+) \|$", PAGE, re.MULTILINE)
by_row = pytest.mark.parametrize(("name", "origin", "parameters", "side", "gmacs"), ROWS, ids=[row[0] for row in ROWS])


def build(name: str, classes: int, side: int) -> nn.Module:
    """The network of that name as [backbone] finds it, on the meta device."""
    claims = installed()
    plugin = load(find(name, claims))() if name in claims else TimmBackbone(model=name)
    task = Task(num_classes=classes, in_channels=3, image_size=(side, side), mean=(0.5,) * 3, std=(0.5,) * 3)
    with torch.device("meta"):
        return plugin.build_backbone(task)


def test_every_backbone_of_ours_is_on_the_page() -> None:
    own = {
        name: entry.distribution
        for name, (entry, *_) in installed().items()
        if entry.distribution.startswith("mixcore") and role_of(load(entry)) == "backbone" and name != "timm"
    }
    said = {name: origin for name, origin, *_ in ROWS}
    assert own == {name: origin for name, origin in said.items() if origin != "timm"}
    assert len(said) == len(ROWS) == 24


@by_row
def test_parameters(name: str, origin: str, parameters: str, side: str, gmacs: str) -> None:
    network = build(name, 100, int(side))
    assert f"{sum(parameter.numel() for parameter in network.parameters()):,}" == parameters


@pytest.mark.slow
@by_row
def test_multiply_adds(name: str, origin: str, parameters: str, side: str, gmacs: str) -> None:
    network = build(name, 1000 if side == "224" else 100, int(side)).eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(torch.zeros(1, 3, int(side), int(side), device="meta"))
    digits = len(gmacs.partition(".")[2])
    assert f"{counter.get_total_flops() / 2e9:.{digits}f}" == gmacs
