"""Parameter groups and optimizers."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import timm.optim
import torch
from torch import nn

from mixcore.config.schema import OptimizerConfig, ScheduleConfig
from mixcore.errors import ConfigError
from mixcore.step.trained import Trained, caller_groups
from mixcore.train.optimizer import build_optimizer, parameter_groups


class Small(nn.Module):
    """Decaying: conv.weight, gain (1,3,1,1), pos_embed; at most one dimension: conv.bias, norm.weight, norm.bias."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)
        self.gain = nn.Parameter(torch.ones(1, 3, 1, 1))
        self.pos_embed = nn.Parameter(torch.ones(1, 4, 3))

    def no_weight_decay(self) -> set[str]:
        return {"pos_embed"}


def groups(
    optimizer: OptimizerConfig, *parts: Trained, model: nn.Module | None = None, **schedule: Any
) -> list[dict[str, Any]]:
    backbone = Trained(name="backbone", module=model or Small())
    return parameter_groups([backbone, *parts], optimizer, ScheduleConfig(**schedule))


def spared(exempt: tuple[str, ...]) -> set[str]:
    """Names of the parameters that get no weight decay."""
    model = Small()
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    found = groups(OptimizerConfig(weight_decay=0.1, exempt=exempt), model=model)
    assert sum(len(group["params"]) for group in found) == len(names), "every parameter is in one group"
    assert {group["weight_decay"] for group in found} <= {0.0, 0.1}
    return {names[id(parameter)] for group in found if not group["weight_decay"] for parameter in group["params"]}


@pytest.mark.parametrize(
    ("exempt", "expected"),
    [
        ((), set()),
        (("norm_bias",), {"conv.bias", "norm.weight", "norm.bias"}),
        (("gain",), {"gain"}),
        (("norm.*", "*embed"), {"norm.weight", "norm.bias", "pos_embed"}),
        (("backbone.conv.*",), {"conv.weight", "conv.bias"}),
        (("no_weight_decay",), {"pos_embed"}),
        (("norm_bias", "no_weight_decay", "gain"), {"conv.bias", "norm.weight", "norm.bias", "pos_embed", "gain"}),
    ],
)
def test_exemptions(exempt: tuple[str, ...], expected: set[str]) -> None:
    assert spared(exempt) == expected


def test_a_pattern_that_nothing_matches_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, "mixcore"):
        groups(OptimizerConfig(exempt=("norm_bias", "gian", "gain")))
    assert [record.getMessage() for record in caplog.records] == ["optimizer.exempt: no parameter is named like 'gian'"]


def test_frozen_parameters_are_in_no_group() -> None:
    model = Small()
    model.conv.requires_grad_(False)
    (group,) = groups(OptimizerConfig(), model=model)
    assert len(group["params"]) == 4


def test_a_part_has_its_own_numbers_and_no_warmup_with_an_lr_of_its_own() -> None:
    block = Trained(
        name="automix.block", module=nn.Linear(2, 2), differences={"lr": 0.03, "min_lr": 1e-3, "momentum": 0.0}
    )
    head = Trained(name="automix.head", module=nn.Linear(2, 2), differences={"weight_decay": 0.5})
    backbone, own, same = groups(OptimizerConfig(), block, head, warmup_epochs=5)
    keys = ("lr", "base_lr", "min_lr", "momentum", "weight_decay", "warmup_epochs")
    assert [backbone[key] for key in keys] == [0.1, 0.1, 0.0, 0.9, 1e-4, 5]
    assert [own[key] for key in keys] == [0.03, 0.03, 1e-3, 0.0, 1e-4, 0]
    assert [same[key] for key in keys] == [0.1, 0.1, 0.0, 0.9, 0.5, 5]
    assert [group["name"] for group in (backbone, own, same)] == ["backbone", "automix.block", "automix.head"]


def test_a_part_may_ask_for_a_warmup() -> None:
    part = Trained(name="p", module=nn.Linear(2, 2), differences={"lr": 0.03, "warmup_epochs": 2})
    assert groups(OptimizerConfig(), part, warmup_epochs=5)[1]["warmup_epochs"] == 2


def test_an_unknown_difference_is_refused_by_name() -> None:
    part = Trained(name="automix.block", module=nn.Linear(2, 2), differences={"learning_rate": 0.1})
    with pytest.raises(ConfigError, match=r"automix\.block name learning_rate; a part may set lr, min_lr"):
        groups(OptimizerConfig(), part)


def build(config: OptimizerConfig) -> torch.optim.Optimizer:
    return build_optimizer([Trained(name="backbone", module=Small())], config, ScheduleConfig())


@pytest.mark.parametrize("nesterov", [False, True])
def test_sgd_has_nesterov_momentum_only_on_request(nesterov: bool) -> None:
    optimizer = build(OptimizerConfig(nesterov=nesterov))
    assert isinstance(optimizer, torch.optim.SGD)
    (group,) = optimizer.param_groups
    assert (group["nesterov"], group["momentum"], group["dampening"]) == (nesterov, 0.9, 0)
    assert (group["lr"], group["weight_decay"]) == (0.1, 1e-4)


def test_sgd_steps_as_by_hand() -> None:
    """Two steps with momentum 0.9 and weight decay 0.1 on a weight of 1 under a gradient of 1: no Nesterov."""
    model = nn.Linear(1, 1, bias=False)
    nn.init.ones_(model.weight)
    config = OptimizerConfig(lr=0.5, weight_decay=0.1)
    optimizer = build_optimizer([Trained(name="backbone", module=model)], config, ScheduleConfig())
    for _ in range(2):
        model.weight.grad = torch.ones(1, 1)
        optimizer.step()
    first = 1 - 0.5 * 1.1
    second = first - 0.5 * (0.9 * 1.1 + 1 + 0.1 * first)
    assert model.weight.item() == pytest.approx(second)


def test_adamw_and_lamb_take_their_settings() -> None:
    adamw = build(OptimizerConfig(name="adamw", betas=(0.8, 0.99), eps=1e-7, exempt=("norm_bias",)))
    assert isinstance(adamw, torch.optim.AdamW)
    assert [(group["betas"], group["eps"], group["weight_decay"]) for group in adamw.param_groups] == [
        ((0.8, 0.99), 1e-7, 1e-4),
        ((0.8, 0.99), 1e-7, 0.0),
    ]
    assert all("momentum" not in group for group in adamw.param_groups)


def test_lamb_is_the_one_of_the_published_recipe() -> None:
    lamb = build(OptimizerConfig(name="lamb", lr=8e-3, weight_decay=0.02, exempt=("norm_bias",)))
    assert isinstance(lamb, timm.optim.Lamb)
    group = lamb.param_groups[0]
    expected = {
        "betas": (0.9, 0.999),
        "eps": 1e-6,
        "bias_correction": True,
        "grad_averaging": True,
        "max_grad_norm": 1.0,
        "trust_clip": False,
        "always_adapt": False,
    }
    assert {key: group[key] for key in expected} == expected


def test_further_options_reach_the_optimizer() -> None:
    assert build(OptimizerConfig(name="lamb", options={"trust_clip": True})).param_groups[0]["trust_clip"] is True


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (OptimizerConfig(name="adamv"), "timm has no optimizer 'adamv'; did you mean adam"),
        (OptimizerConfig(betas=(0.9, 0.99)), "optimizer.betas: 'sgd' has no betas"),
        (OptimizerConfig(eps=1e-8), "optimizer.eps: 'sgd' has no eps"),
        (OptimizerConfig(name="adamw", nesterov=True), "optimizer.nesterov: 'adamw' has no such setting"),
        (OptimizerConfig(options={"foo": 1}), "optimizer 'sgd' refuses its settings: .*foo"),
        (OptimizerConfig(momentum=0.0, nesterov=True), "optimizer 'sgd' refuses its settings: .*momentum"),
    ],
)
def test_what_is_refused(config: OptimizerConfig, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(config)


def test_common_optimizers_build_and_step() -> None:
    for name in ("sgd", "momentum", "nesterov", "adam", "adamw", "lamb", "lars", "rmsprop", "muon"):
        model = nn.Linear(2, 2)
        optimizer = build_optimizer(
            [Trained(name="backbone", module=model)], OptimizerConfig(name=name), ScheduleConfig()
        )
        model(torch.ones(1, 2)).sum().backward()
        optimizer.step()


def test_nesterov_by_name() -> None:
    assert build(OptimizerConfig(name="nesterov")).param_groups[0]["nesterov"] is True
    assert build(OptimizerConfig(name="momentum")).param_groups[0]["nesterov"] is False


# --- groups for an optimizer of somebody else's ----------------------------------------------------------------------


def parts_of_a_step() -> list[Trained]:
    return [
        Trained(name="backbone", module=Small()),
        Trained(name="m.block", module=nn.Linear(2, 2), differences={"lr": 0.5, "momentum": 0.25}),
    ]


def test_a_callers_optimizer_keeps_its_own_settings() -> None:
    optimizer = torch.optim.SGD(caller_groups(parts_of_a_step(), {"lr": 0.1}), lr=0.3, momentum=0, weight_decay=5e-4)
    backbone, block = optimizer.param_groups
    assert (backbone["lr"], backbone["momentum"], backbone["weight_decay"]) == (0.1, 0, 5e-4)
    assert (block["lr"], block["momentum"], block["weight_decay"]) == (0.5, 0.25, 5e-4)
    adamw = torch.optim.AdamW(caller_groups(parts_of_a_step(), {"lr": 0.1}))
    assert [group["weight_decay"] for group in adamw.param_groups] == [1e-2, 1e-2]


def test_a_callers_groups_hold_what_was_given_or_what_a_part_differs_in_and_nothing_else() -> None:
    backbone, block = caller_groups(parts_of_a_step(), {"weight_decay": 0.1, "betas": (0.8, 0.9)})
    assert set(backbone) == {"params", "name", "weight_decay", "betas"}
    assert set(block) == {"params", "name", "weight_decay", "betas", "lr", "momentum"}
    assert len(backbone["params"]) == 6


def test_a_caller_exempts_from_weight_decay_only_on_request() -> None:
    decaying, spared = caller_groups(parts_of_a_step()[:1], {"weight_decay": 0.1}, exempt=("norm_bias",))
    assert (decaying["weight_decay"], spared["weight_decay"]) == (0.1, 0.0)
    assert (len(decaying["params"]), len(spared["params"])) == (3, 3)


def test_a_callers_groups_refuse_unknown_differences_too() -> None:
    part = Trained(name="m.block", module=nn.Linear(2, 2), differences={"learning_rate": 0.1})
    with pytest.raises(ConfigError, match=r"m\.block name learning_rate"):
        caller_groups([part], {"lr": 0.1})
