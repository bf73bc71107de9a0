"""Every check of the contract fails on a mixer that breaks it, and passes on one that does not."""

from __future__ import annotations

import subprocess
import sys

import attrs
import numpy as np
import pytest
import torch
from attrs.validators import ge, le
from torch import Tensor

from mixcore.api import Mix, beta, beta_per_sample, draw_partners, happens, hookimpl, send, unmixed
from mixcore.testing import CHECKS, Harness, NotApplicableError, Subject


@attrs.define(eq=False, kw_only=True)
class Sound:
    """Replaces columns on the right by the partner's; as many as lam leaves."""

    role = "mix"
    provides = frozenset({"mask"})

    alpha: float = 1.0
    prob: float = attrs.field(default=1.0, validator=[ge(0), le(1)])
    per_sample: bool = False

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe, rng: torch.Generator, step) -> Mix:
        if not self.mixes(rng):
            return unmixed(images)
        count, _, height, width = images.shape
        partner = send(draw_partners("permutation", count, rng), images.device)
        lam = self.lams(count, rng)
        kept = (lam * width).round().to(images.device)
        mask = (torch.arange(width, device=images.device) < kept[:, None]).float()[:, None, None]
        mask = mask.expand(count, 1, height, width)
        mixed = torch.where(mask.bool(), images, images[partner]).contiguous(memory_format=_format(images))
        return Mix.pair(mixed, partner, mask.mean((1, 2, 3)), mask)

    def mixes(self, rng):
        return happens(self.prob, rng)

    def lams(self, count, rng):
        if self.per_sample:
            return beta_per_sample(self.alpha, count, rng)
        return torch.full((count,), beta(self.alpha, rng))


def _format(images: Tensor) -> torch.memory_format:
    return torch.contiguous_format if images.is_contiguous() else torch.channels_last


class Broken(Sound):
    """Breaks the mix that a sound mixer made."""

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe, rng: torch.Generator, step) -> Mix:
        return self.spoil(super().generate_mix(images, labels, probe, rng, step), images, labels, probe)


class WeightsDoNotSumToOne(Broken):
    def spoil(self, mix, images, labels, probe):
        return attrs.evolve(mix, weights=mix.weights * 0.9)


class NegativeWeight(Broken):
    def spoil(self, mix, images, labels, probe):
        return attrs.evolve(mix, weights=mix.weights + torch.tensor([1.0, -1.0]))


class InvertedPolarity(Broken):
    def spoil(self, mix, images, labels, probe):
        return attrs.evolve(mix, masks=1 - mix.masks, weights=mix.weights.flip(1))


class LamNotRecomputed(Broken):
    def lams(self, count, rng):
        return super().lams(count, rng).clamp(0.3, 0.7)

    def spoil(self, mix, images, labels, probe):
        lam = (mix.lam - 0.1).clamp(0, 1)
        return attrs.evolve(mix, weights=torch.stack((lam, 1 - lam), 1))


class MaskBeyondOne(Broken):
    def spoil(self, mix, images, labels, probe):
        return attrs.evolve(mix, masks=mix.masks * 1.5)


class MasksOnSomeCalls(Broken):
    def spoil(self, mix, images, labels, probe):
        return mix if float(mix.lam[0]) < 0.5 else attrs.evolve(mix, masks=None)


class ConstantMask(Broken):
    def spoil(self, mix, images, labels, probe):
        return attrs.evolve(mix, masks=mix.masks.mean((2, 3), keepdim=True))


class GlobalTorchGenerator(Broken):
    def spoil(self, mix, images, labels, probe):
        torch.rand(1)
        return mix


class GlobalNumpyGenerator(Broken):
    def spoil(self, mix, images, labels, probe):
        np.random.rand()
        return mix


class DrawsWithoutRng(Sound):
    def lams(self, count, rng):
        return torch.rand(count)


class ChangesItsInput(Broken):
    def spoil(self, mix, images, labels, probe):
        images.mul_(0.5)
        return mix


class ChangesLabels(Broken):
    def spoil(self, mix, images, labels, probe):
        labels.zero_()
        return mix


class OverwritesCarelessly(Broken):
    """Asks, but reads rows that it has overwritten already."""

    @hookimpl
    def generate_mix(self, images: Tensor, labels: Tensor, probe, rng: torch.Generator, step) -> Mix:
        mix = Sound.generate_mix(self, images, labels, probe, rng, step)
        if not step.may_overwrite:
            return mix
        for row, partner in enumerate(mix.partner.tolist()):
            images[row] = torch.where(mix.masks[row].bool(), images[row], images[partner])
        return attrs.evolve(mix, images=images)


class MovesBatchNorm(Broken):
    def spoil(self, mix, images, labels, probe):
        probe.model(images.float())
        return mix


class LeavesGradients(Broken):
    def spoil(self, mix, images, labels, probe):
        probe.model.eval()
        probe.model(images.float()).sum().backward()
        probe.model.train()
        return mix


class LeavesEvalMode(Broken):
    def spoil(self, mix, images, labels, probe):
        probe.model.eval()
        return mix


class OneLamForAll(Sound):
    def lams(self, count, rng):
        return torch.full((count,), beta(self.alpha, rng))


class ReadsTheBatch(Broken):
    def spoil(self, mix, images, labels, probe):
        images.mean().item()
        return mix


class ReadsTheNetwork(Broken):
    def spoil(self, mix, images, labels, probe):
        if probe.look(images).logits.sum() > 0:
            return mix
        return mix


class NeedsEvenBatches(Broken):
    def spoil(self, mix, images, labels, probe):
        first, second = images.chunk(2)
        first + second
        return mix


class AppliesProbTwice(Sound):
    def mixes(self, rng):
        return happens(self.prob, rng) and happens(self.prob, rng)


class IgnoresProb(Sound):
    def mixes(self, rng):
        return True


class SquareOnly(Broken):
    def spoil(self, mix, images, labels, probe):
        images + images.transpose(2, 3)
        return mix


class ColourOnly(Broken):
    def spoil(self, mix, images, labels, probe):
        images[:, 2]
        return mix


class PromotesHalf(Broken):
    def spoil(self, mix, images, labels, probe):
        return attrs.evolve(mix, images=mix.images.float())


class LosesChannelsLast(Broken):
    def spoil(self, mix, images, labels, probe):
        return attrs.evolve(mix, images=mix.images.contiguous())


class ClassesOnly(Broken):
    def spoil(self, mix, images, labels, probe):
        labels.bincount()
        return mix


class NotFinite(Broken):
    def spoil(self, mix, images, labels, probe):
        return attrs.evolve(mix, images=mix.images / 0)


class NotItsOwnBits(Broken):
    def spoil(self, mix, images, labels, probe):
        return attrs.evolve(mix, images=mix.images * 1.0001)


@attrs.define(eq=False, kw_only=True)
class Remembers(Broken):
    calls: int = attrs.field(default=0, init=False)

    def lams(self, count, rng):
        self.calls += 1
        return torch.full((count,), 1.0 / self.calls)

    def spoil(self, mix, images, labels, probe):
        return mix


@attrs.define(eq=False, kw_only=True)
class ForgetsAnOption(Sound):
    seen: list[int] = attrs.field(factory=list, converter=lambda value: [*value, len(value)])


BITES = [
    (WeightsDoNotSumToOne, "weights_are_shares", "sum to"),
    (NegativeWeight, "weights_are_shares", "label weight is -"),
    (InvertedPolarity, "masks_say_where_pixels_come_from", "weight of the"),
    (LamNotRecomputed, "masks_are_shares", "recompute lam"),
    (MaskBeyondOne, "masks_are_shares", r"not in \[0, 1\]"),
    (MasksOnSomeCalls, "masks_are_always_given", "some mixes only"),
    (ConstantMask, "masks_are_declared", "constant over the image"),
    (GlobalTorchGenerator, "global_generators_are_left_alone", "generator of torch was used"),
    (GlobalNumpyGenerator, "global_generators_are_left_alone", "generator of numpy was used"),
    (DrawsWithoutRng, "same_seed_same_mix", "differ"),
    (DrawsWithoutRng, "groups_give_the_same_mix", "differ"),
    (ChangesItsInput, "batch_is_not_modified", "images of the batch were changed"),
    (ChangesLabels, "batch_is_not_modified", "labels of the batch were changed"),
    (OverwritesCarelessly, "overwriting_gives_the_same_mix", "images differ"),
    (MovesBatchNorm, "the_network_is_not_touched", "running_mean"),
    (LeavesGradients, "gradients_are_left_alone", "a hook calls backward"),
    (LeavesEvalMode, "the_network_is_not_touched", "train mode of"),
    (OneLamForAll, "one_lam_per_image", "one lam"),
    (ReadsTheBatch, "two_steps_on_another_device", r"item reads on the host.*images.mean\(\).item\(\)"),
    (ReadsTheNetwork, "two_steps_on_another_device", "__bool__ reads on the host"),
    (AppliesProbTwice, "probability_of_mixing", "applied twice"),
    (IgnoresProb, "probability_of_mixing", "prob = 0"),
    (PromotesHalf, "precisions", "float32, not torch.bfloat16"),
    (LosesChannelsLast, "channels_last_is_kept", "keep the memory format"),
    (NotFinite, "batch_sizes", "not finite"),
    (NotItsOwnBits, "lam_of_zero_and_one", "not its own bits"),
    (Remembers, "history_does_not_matter", "differ"),
    (ForgetsAnOption, "options_round_trip", "option seen"),
    (NotFinite, "two_training_steps", "loss is"),
]


@pytest.mark.parametrize(("broken", "check", "message"), BITES, ids=[f"{b.__name__}-{c}" for b, c, _ in BITES])
def test_a_broken_mixer_is_caught(broken, check, message):
    with pytest.raises(AssertionError, match=message):
        CHECKS[check](Harness(Subject(plugin=broken)))


CRASHES = [
    (NeedsEvenBatches, "batch_sizes"),
    (SquareOnly, "heights_and_widths"),
    (ColourOnly, "one_channel"),
    (ClassesOnly, "integer_and_soft_labels"),
]


@pytest.mark.parametrize(("broken", "check"), CRASHES, ids=[f"{b.__name__}-{c}" for b, c in CRASHES])
def test_a_mixer_that_crashes_is_caught(broken, check):
    with pytest.raises((RuntimeError, IndexError, ValueError)):
        CHECKS[check](Harness(Subject(plugin=broken)))


@pytest.mark.parametrize("check", [name for name in CHECKS if name not in ("two_processes", "gradient_arrives")])
def test_a_sound_mixer_passes(check):
    CHECKS[check](Harness(Subject(plugin=Sound, options={"alpha": 0.8})))


def test_a_local_class_cannot_be_pickled_and_the_check_says_so():
    class Local(Sound):
        pass

    with pytest.raises(AssertionError, match="define the class at the top of a module"):
        CHECKS["options_round_trip"](Harness(Subject(plugin=Local)))
    with pytest.raises(NotApplicableError, match="cannot be sent"):
        CHECKS["two_processes"](Harness(Subject(plugin=Local)))


@pytest.mark.parametrize(
    "check",
    [
        "gradient_arrives",
        "every_option_value",
        "masks_are_shares",
        "probability_of_mixing",
        "one_lam_per_image",
        "lam_of_zero_and_one",
    ],
)
def test_checks_that_have_nothing_to_say_say_so(check):
    with pytest.raises(NotApplicableError):
        CHECKS[check](Harness(Subject(plugin="none")))


def test_the_checks_need_no_pytest():
    code = "import sys; import mixcore.testing as t; assert len(t.CHECKS) > 15; assert 'pytest' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
