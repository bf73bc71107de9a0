"""[run] trace_hooks: every hook call timed, no result changed."""

from __future__ import annotations

import pytest
import timm
import torch

from mixcore.discovery.manager import build_method_plugins
from mixcore.hooks.calls import has_wrapper
from mixcore.hooks.trace import HookTimes
from mixcore.step.build import build_step
from mixcore.types import Task

TASK = Task(num_classes=4, in_channels=3, image_size=(32, 32), mean=(0.0,) * 3, std=(1.0,) * 3)


def loss_and_times(trace: bool) -> tuple[torch.Tensor, dict[str, float]]:
    plugins, times = build_method_plugins(mix={"name": "mixup"}), HookTimes()
    if trace:
        plugins.manager.register(times)
    assert not has_wrapper(plugins.manager, "choose_mixer")
    torch.manual_seed(0)
    model = timm.create_model("resnet10t", num_classes=4)
    step = build_step(plugins, model, TASK, device=torch.device("cpu"), seed=0, epochs=1, iterations=2)
    images = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    loss, _ = step(images, torch.arange(4))
    return loss.detach(), times.take()


def test_calls_are_timed_and_results_are_the_same() -> None:
    plain, nothing = loss_and_times(trace=False)
    traced, times = loss_and_times(trace=True)
    assert torch.equal(plain, traced)
    assert nothing == {}
    for hook in ("choose_mixer", "generate_mix", "mix_labels", "compute_loss"):
        assert times[f"perf/hooks/{hook}_ms"] > 0
    assert "perf/hooks/extra_losses_ms" not in times, "nobody implements it, so it is not called"


def test_an_error_passes_through_and_its_call_counts() -> None:
    times = HookTimes()
    wrapper = times.generate_mix()  # type: ignore[attr-defined]
    next(wrapper)
    with pytest.raises(ValueError, match="inside"):
        wrapper.throw(ValueError("inside"))
    assert "perf/hooks/generate_mix_ms" in times.take()
    assert times.take() == {}
