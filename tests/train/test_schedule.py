"""Learning-rate schedules against values computed by hand."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from mixcore.config.schema import ScheduleConfig
from mixcore.train.schedule import Schedule, learning_rate


def rate(iteration: int, config: ScheduleConfig, **changes: float) -> float:
    group = {"base_lr": 0.1, "min_lr": config.min_lr, "warmup_epochs": config.warmup_epochs, **changes}
    return learning_rate(iteration, config, 10, **group)


def test_cosine_by_epoch_changes_at_epoch_starts_only() -> None:
    config = ScheduleConfig(epochs=4, clock="epoch")
    # cos(0), cos(pi/4), cos(pi/2), cos(3 pi/4): (1 + c) / 2 of 0.1
    by_hand = [0.1, 0.0853553390593274, 0.05, 0.0146446609406726]
    assert [rate(t, config) for t in range(40)] == pytest.approx([lr for lr in by_hand for _ in range(10)])


def test_cosine_by_iteration() -> None:
    config = ScheduleConfig(epochs=4, clock="iteration", min_lr=0.02)
    assert rate(0, config) == 0.1
    assert rate(10, config) == pytest.approx(0.02 + 0.08 * 0.853553390593274)
    assert rate(20, config) == pytest.approx(0.06)
    assert rate(39, config) == pytest.approx(0.02 + 0.08 * 0.0015413331334360)  # (1 + cos(0.975 pi)) / 2
    assert rate(39, config) > 0.02, "the minimum itself is never reached"


def test_warmup_multiplies_the_running_cosine_and_does_not_delay_it() -> None:
    config = ScheduleConfig(epochs=4, clock="iteration", warmup_epochs=1, warmup_ratio=0.2)
    assert rate(0, config) == pytest.approx(0.1 * 0.2)
    # t = 5: cosine (1 + cos(pi/8)) / 2 = 0.961939766255643, ramp 1 - 0.5 * 0.8 = 0.6
    assert rate(5, config) == pytest.approx(0.1 * 0.961939766255643 * 0.6)
    assert rate(10, config) == pytest.approx(0.0853553390593274), "after the ramp, the cosine as if there were none"
    assert max(rate(t, config) for t in range(40)) < 0.1


def test_warmup_counts_iterations_on_the_epoch_clock_too() -> None:
    config = ScheduleConfig(epochs=4, clock="epoch", warmup_epochs=2, warmup_ratio=1e-5)
    assert rate(0, config) == pytest.approx(1e-6)
    assert rate(5, config) == pytest.approx(0.1 * (1 - 0.75 * (1 - 1e-5)))
    assert rate(15, config) == pytest.approx(0.0853553390593274 * (1 - 0.25 * (1 - 1e-5)))
    assert rate(20, config) == pytest.approx(0.05)


def test_constant_keeps_the_base_rate_after_its_warmup() -> None:
    config = ScheduleConfig(name="constant", epochs=4, warmup_epochs=1, warmup_ratio=0.0)
    assert [rate(t, config) for t in (0, 5, 10, 39)] == pytest.approx([0.0, 0.05, 0.1, 0.1])


def test_published_recipe_values() -> None:
    """ImageNet RSB A3: LAMB 8e-3, cosine by epoch over 100 epochs to 1e-6, 5 epochs of warm-up from ratio 1e-5."""
    config = ScheduleConfig(epochs=100, clock="epoch", min_lr=1e-6, warmup_epochs=5, warmup_ratio=1e-5)
    group = {"base_lr": 8e-3, "min_lr": 1e-6, "warmup_epochs": 5}
    assert learning_rate(0, config, 625, **group) == pytest.approx(8e-8)
    assert learning_rate(50 * 625, config, 625, **group) == pytest.approx((8e-3 + 1e-6) / 2)
    # the last epoch: p = 0.99, (1 + cos(0.99 pi)) / 2 = 2.4672e-4
    assert learning_rate(100 * 625 - 1, config, 625, **group) == pytest.approx(1e-6 + 7.999e-3 * 2.46719817e-4)


def test_groups_go_by_their_own_numbers() -> None:
    groups = [
        {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.1},
        {"params": [nn.Parameter(torch.zeros(1))], "lr": 0.03, "base_lr": 0.03, "min_lr": 1e-3, "warmup_epochs": 0},
    ]
    optimizer = torch.optim.SGD(groups)
    schedule = Schedule(optimizer, ScheduleConfig(epochs=2, clock="epoch", warmup_epochs=1, warmup_ratio=0.5), 10)

    schedule.set(0)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 0.03])
    schedule.set(10)
    assert [group["lr"] for group in optimizer.param_groups] == pytest.approx([0.05, 1e-3 + 0.029 / 2])


def test_the_rate_follows_from_the_iteration_alone() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
    config = ScheduleConfig(epochs=4, clock="iteration", warmup_epochs=1)
    schedule = Schedule(optimizer, config, 10)
    schedule.set(33)
    late = optimizer.param_groups[0]["lr"]
    again = Schedule(optimizer, config, 10)  # as after a resume, with the late rate in the group
    again.set(3)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(rate(3, config))
    again.set(33)
    assert optimizer.param_groups[0]["lr"] == late
