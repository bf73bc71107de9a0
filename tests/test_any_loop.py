"""docs/any_loop.md: every block runs as it stands, and trains."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import timm
import torch

PAGE = (Path(__file__).resolve().parents[1] / "docs" / "any_loop.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.S)


def test_the_page_has_a_bare_loop_a_timm_style_loop_and_a_whole_step() -> None:
    assert len(BLOCKS) == 3


@pytest.mark.parametrize("block", BLOCKS, ids=["bare", "timm", "step"])
def test_a_block_is_short_and_runs(block: str) -> None:
    assert len([line for line in block.splitlines() if line.strip()]) < 15
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=10)
    before = model.fc.weight.detach().clone()
    images, labels = torch.rand(4, 3, 32, 32), torch.arange(4)
    names: dict[str, Any] = {
        "torch": torch,
        "model": model,
        "loader": [(images.clone(), labels) for _ in range(2)],
        "device": torch.device("cpu"),
        "optimizer": torch.optim.SGD(model.parameters(), lr=0.1),
    }
    exec(compile(block, "docs/any_loop.md", "exec"), names)
    assert torch.isfinite(names["loss"])
    assert not torch.equal(model.fc.weight, before), "the loop trained nothing"
