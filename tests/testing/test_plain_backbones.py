"""The contract takes backbones that are plain modules: what they have is checked, what they lack is no fault."""

from __future__ import annotations

import attrs
import pytest
from torch import Tensor, nn

from mixcore.api import Task, hookimpl
from mixcore.testing import Harness, NotApplicableError, Subject, checks_of


@attrs.frozen(eq=False)
class Output:
    logits: Tensor


class Plain(nn.Module):
    """Images to logits and nothing else; `wrapped`: in an output with logits."""

    def __init__(self, channels: int, classes: int, wrapped: bool) -> None:
        super().__init__()
        self.body, self.end = nn.Conv2d(channels, 8, 3, stride=2), nn.Linear(8, classes)
        self.wrapped = wrapped

    def forward(self, images: Tensor) -> Tensor | Output:
        logits = self.end(self.body(images).relu().mean((2, 3)))
        return Output(logits) if self.wrapped else logits


@attrs.define(eq=False, kw_only=True)
class PlainNet:
    role = "backbone"

    wrapped: bool = False

    @hookimpl
    def build_backbone(self, task: Task) -> nn.Module:
        return self.changed(Plain(task.in_channels, task.num_classes + self._more, self.wrapped))

    _more = 0

    def changed(self, network: nn.Module) -> nn.Module:
        return network


class TooManyClasses(PlainNet):
    _more = 1


class NamesNoModule(PlainNet):
    """Lists a stage, which is a thing of timm's that a network may have alone."""

    def changed(self, network: nn.Module) -> nn.Module:
        network.feature_info = ({"module": "stage9", "num_chs": 8, "reduction": 2},)
        return network


class NamesItsBody(PlainNet):
    def changed(self, network: nn.Module) -> nn.Module:
        network.feature_info = ({"module": "body", "num_chs": 8, "reduction": 2},)
        return network


CHECKS = [check for check in checks_of("backbone") if check not in ("two_processes", "every_option_value")]


@pytest.mark.parametrize("wrapped", [False, True], ids=["tensor", "output"])
@pytest.mark.parametrize("check", CHECKS)
def test_a_plain_backbone_keeps_the_contract(check: str, wrapped: bool) -> None:
    harness = Harness(Subject(plugin=PlainNet, options={"wrapped": wrapped}))
    if check == "timm_interface":
        with pytest.raises(NotApplicableError, match="plain module"):
            checks_of("backbone")[check](harness)
    else:
        checks_of("backbone")[check](harness)


def test_what_a_plain_backbone_has_is_checked() -> None:
    checks = checks_of("backbone")
    with pytest.raises(AssertionError, match=r"logits are \[3, \d+\] of 3 images"):
        checks["logits_fit_the_task"](Harness(Subject(plugin=TooManyClasses)))
    with pytest.raises(AssertionError, match="'stage9', which is no module"):
        checks["timm_interface"](Harness(Subject(plugin=NamesNoModule)))
    checks["timm_interface"](Harness(Subject(plugin=NamesItsBody)))
