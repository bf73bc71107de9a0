"""A mixer is a module: it is checkpointed with what it is part of, and brings nothing there that is not its own."""

from __future__ import annotations

import copy
import io
from typing import Any

import attrs
import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

import mixcore
from mixcore.api import Mix, Part, hookimpl
from mixcore.testing import TinyConvNet


def batch() -> tuple[Tensor, Tensor]:
    return torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(0)), torch.arange(4)


@attrs.define(eq=False, kw_only=True)
class Taught:
    """Looks at the network, and brings a teacher of its own, with BatchNorm, and another that is not saved."""

    role = "mix"

    @hookimpl
    def build_modules(self) -> dict[str, Part]:
        def teacher() -> nn.Module:
            return nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2))

        return {
            "teacher": Part(module=teacher(), optimizer=None, eval=True),
            "file": Part(module=teacher(), optimizer=None, eval=True, save=False),
        }

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe: Any, modules: dict[str, nn.Module]) -> Mix:
        probe.look(images)
        modules["teacher"](images)
        return Mix.pair(images.clone(), torch.arange(len(images)).roll(1), 0.5)


class Classifier(nn.Module):
    """What a Lightning module or a model for accelerate is: a network, and the mixer beside it."""

    def __init__(self, mix: Any = "mixup") -> None:
        super().__init__()
        self.net = TinyConvNet(4)
        self.mixer = mixcore.create_mixer(mix, num_classes=4, model=self.net)


def test_the_count_travels_with_the_module_that_has_the_mixer() -> None:
    first, again = Classifier(), Classifier()
    for _ in range(3):
        first.mixer(*batch())
    saved = io.BytesIO()
    torch.save(first.state_dict(), saved)
    saved.seek(0)
    again.load_state_dict(torch.load(saved, weights_only=True))
    fourth = first.mixer(*batch()).lam
    assert torch.equal(again.mixer(*batch()).lam, fourth)
    assert not torch.equal(Classifier().mixer(*batch()).lam, fourth)


def test_the_state_is_tensors_that_safetensors_can_write() -> None:
    first, again = Classifier(), Classifier()
    first.mixer(*batch())
    again.load_state_dict(safetensors.torch.load(safetensors.torch.save(first.state_dict())))
    assert torch.equal(again.mixer(*batch()).lam, first.mixer(*batch()).lam)


def test_the_network_that_a_mixer_looks_at_is_no_part_of_it() -> None:
    whole = Classifier(Taught())
    names = list(whole.state_dict())
    assert {name.split(".")[0] for name in names} == {"net", "mixer"}
    own = [name for name in names if name.startswith("mixer.")]
    assert own[-1] == "mixer._extra_state" or "mixer._extra_state" in own
    assert all("teacher" in name or name == "mixer._extra_state" for name in own)
    assert not any("file" in name for name in own)
    assert [p for p in whole.parameters() if p.requires_grad] == list(whole.net.parameters())


def test_a_teacher_stays_in_eval_mode_and_is_saved() -> None:
    whole, other = Classifier(Taught()), Classifier(Taught())
    with torch.no_grad():
        for parameter in whole.mixer.parameters():
            parameter.add_(1)
    whole.train()
    before = copy.deepcopy(whole.mixer.state_dict())
    whole.mixer(*batch())
    after = whole.mixer.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before if name != "_extra_state")
    other.load_state_dict(whole.state_dict())
    assert all(map(torch.equal, whole.mixer.parameters(), other.mixer.parameters()))


def test_a_copy_looks_at_the_copied_network() -> None:
    whole = Classifier(Taught())
    twin = copy.deepcopy(whole)
    seen: list[str] = []
    whole.net.register_forward_hook(lambda *_: seen.append("original"))
    next(iter(twin.net.children())).register_forward_hook(lambda *_: seen.append("copy"))
    twin.mixer(*batch())
    assert set(seen) == {"copy"}


def test_accumulated_batches_draw_anew() -> None:
    mixer = mixcore.create_mixer("mixup", num_classes=4)
    found = [float(mixer(*batch()).lam[0]) for _ in range(2) for _ in range(4)]
    assert len(set(found)) == 8


@pytest.mark.parametrize("scaled", [False, True])
def test_after_step_follows_the_optimizer_by_its_own_hook(scaled: bool) -> None:
    """The line of the page: once for each optimizer step that took place, none for one that fp16 left out."""
    places: list[int] = []

    @attrs.define(eq=False, kw_only=True)
    class Follows:
        @hookimpl
        def after_step(self, step: Any) -> None:
            places.append(step.iteration)

    step = mixcore.create_step(TinyConvNet(4), extra=[Follows()], num_classes=4, iterations=8, image_size=(16, 16))
    optimizer = torch.optim.SGD(step.parameters(), lr=0.1)
    optimizer.register_step_post_hook(lambda *_: step.after_step())
    scaler = torch.amp.GradScaler("cpu", enabled=scaled)
    for iteration in range(8):
        loss, _ = step(*batch())
        if scaled and iteration == 5:
            loss = loss * float("inf")
        scaler.scale(loss / 2).backward()
        if iteration % 2:
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
    assert places == ([1, 3, 7] if scaled else [1, 3, 5, 7])
