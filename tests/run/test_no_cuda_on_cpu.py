"""A run on the CPU opens no CUDA device, however many the machine has."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch


def test_a_run_on_the_cpu_opens_no_cuda_device(toy_run: Callable[..., Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *_, **__: opened.append(name)

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # for two, torch warns, which is an error here
    for name in ("_lazy_init", "get_rng_state", "set_rng_state"):
        monkeypatch.setattr(torch.cuda, name, note(name))
    folder = toy_run("schedule.epochs=1")
    assert (folder / "summary.json").exists()
    assert opened == []
    assert not torch.cuda.is_initialized()
