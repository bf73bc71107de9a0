"""Plugins with one fault each: exactly the check that is made for it fails, and says the cause."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

import attrs
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mixcore.api import Mix, Targets, Task, draw_partners, hookimpl, send
from mixcore.errors import BrokenPluginError
from mixcore.testing import Harness, NotApplicableError, PluginContract, Subject, checks_of

# --- label policies --------------------------------------------------------------------------------------------------


@attrs.define(eq=False, kw_only=True)
class Policy:
    """A sound one: the mixer's weights, a little nearer to each other."""

    role = "labels"

    @hookimpl
    def mix_labels(self, mix: Mix, labels: Tensor) -> Targets:
        return self.told(mix, labels, mix.weights * 0.8 + 0.2 / mix.weights.shape[1])

    def told(self, mix: Mix, labels: Tensor, weights: Tensor) -> Targets:
        return mix.targets(labels, weights)


class SumsToTwo(Policy):
    def told(self, mix: Mix, labels: Tensor, weights: Tensor) -> Targets:
        return mix.targets(labels, 2 * weights)


class SumsToTwoAndSaysSo(SumsToTwo):
    contract = {"weights_sum_to_one": False}


class IndexesRows(Policy):
    """Takes row i of a mix for row i of the batch."""

    def told(self, mix: Mix, labels: Tensor, weights: Tensor) -> Targets:
        rows = torch.arange(len(weights), device=weights.device)[:, None]
        sources = torch.cat((rows, mix.sources[:, 1:]), 1)
        return Targets(labels=labels, sources=sources, weights=weights)


class WritesIntoTheMix(Policy):
    def told(self, mix: Mix, labels: Tensor, weights: Tensor) -> Targets:
        mix.weights.copy_(weights)
        return mix.targets(labels)


class CountsOnTheHost(Policy):
    """Row numbers on the CPU, where the batch is elsewhere."""

    def told(self, mix: Mix, labels: Tensor, weights: Tensor) -> Targets:
        return mix.targets(labels, weights[torch.arange(len(weights))])


class LeavesItsWeights(Policy):
    def told(self, mix: Mix, labels: Tensor, weights: Tensor) -> Targets:
        return Targets(labels=labels, sources=mix.sources, weights=torch.full(weights.shape, 1 / weights.shape[1]))


class ReadsTheWeights(Policy):
    def told(self, mix: Mix, labels: Tensor, weights: Tensor) -> Targets:
        return mix.targets(labels, weights if weights.sum() > 0 else 1 - weights)


class PicksWeights(Policy):
    def told(self, mix: Mix, labels: Tensor, weights: Tensor) -> Targets:
        return mix.targets(labels, weights[weights >= 0].view_as(weights))


# --- options -------------------------------------------------------------------------------------------------------


@attrs.define(eq=False, kw_only=True)
class NoOption(Policy):
    alpha = 1.0


class Undecorated(Policy):
    alpha: float = 1.0


@attrs.define(eq=False, kw_only=True)
class OneUnannotated(Policy):
    alpha: float = 1.0
    beta = attrs.field(default=2.0)


@attrs.define(eq=False, kw_only=True)
class SharedDefault(Policy):
    sizes: list[int] = [1, 2]  # noqa: RUF008 - the fault


# --- losses ----------------------------------------------------------------------------------------------------------


@attrs.define(eq=False, kw_only=True)
class Loss:
    """A sound one: cross-entropy on the mixed labels."""

    role = "loss"
    accepts = frozenset({"class", "soft"})

    @hookimpl
    def compute_loss(self, logits: Tensor, targets: Targets, task: Task) -> Tensor:
        return self.told(-(targets.dense(task.num_classes) * logits.log_softmax(1)).sum(1), logits, targets)

    def told(self, rows: Tensor, logits: Tensor, targets: Targets) -> Tensor:
        return rows.mean()


class IgnoresTheMix(Loss):
    accepts = frozenset({"class"})

    def told(self, rows: Tensor, logits: Tensor, targets: Targets) -> Tensor:
        return F.cross_entropy(logits, targets.labels[targets.sources[:, 0]])


class SumsRows(Loss):
    def told(self, rows: Tensor, logits: Tensor, targets: Targets) -> Tensor:
        return rows.sum()


class GoesBackward(Loss):
    def told(self, rows: Tensor, logits: Tensor, targets: Targets) -> Tensor:
        loss = rows.mean()
        (0.1 * loss).backward(retain_graph=True)
        return loss


class CountsOnTheHostInTheLoss(Loss):
    def told(self, rows: Tensor, logits: Tensor, targets: Targets) -> Tensor:
        return (rows * torch.ones(len(rows))).mean()


class ReadsTheLoss(Loss):
    def told(self, rows: Tensor, logits: Tensor, targets: Targets) -> Tensor:
        return rows.mean() if rows.mean().item() > 0 else rows.sum() / len(rows)


class PicksRowsOfTheLoss(Loss):
    def told(self, rows: Tensor, logits: Tensor, targets: Targets) -> Tensor:
        return rows[rows >= 0].sum() / len(rows)


class ReadsUnsortedLabels(Loss):
    accepts = frozenset({"class"})

    def told(self, rows: Tensor, logits: Tensor, targets: Targets) -> Tensor:
        return rows.mean() + 0.1 * F.cross_entropy(logits, targets.labels)


# --- extras ----------------------------------------------------------------------------------------------------------


@attrs.define(eq=False, kw_only=True)
class Extra:
    """A sound one."""

    weight: float = 0.1
    seen: list[int] = attrs.field(factory=list, init=False)
    count: int = attrs.field(default=0, init=False)

    @hookimpl
    def extra_losses(self, output: Any, probe: Any) -> dict[str, Tensor]:
        self.look(probe.model)
        return {"size": self.weight * output.logits.square().mean()}

    def look(self, model: nn.Module) -> None: ...


class ClearsGradients(Extra):
    def look(self, model: nn.Module) -> None:
        for parameter in model.parameters():
            parameter.grad = None


class ScalesGradientsLater(Extra):
    @hookimpl
    def after_step(self, model: nn.Module) -> None:
        for parameter in model.parameters():
            parameter.grad.mul_(0.5)


class Counts(Extra):
    def look(self, model: nn.Module) -> None:
        self.count += 1


class Collects(Extra):
    """The same list all the time, with more in it."""

    def look(self, model: nn.Module) -> None:
        self.seen.append(1)


class KeepsANetwork(Extra):
    """A subclass without slots takes new attributes."""

    @hookimpl
    def build_modules(self, model: nn.Module) -> dict[str, nn.Module]:
        self.network = model
        return {}


class Seeds(Extra):
    def look(self, model: nn.Module) -> None:
        torch.manual_seed(0)


# --- mixers ----------------------------------------------------------------------------------------------------------


@attrs.define(eq=False, kw_only=True)
class Half:
    """A sound one: the left half of each image beside the right half of another."""

    role = "mix"
    provides = frozenset({"mask"})

    @hookimpl
    def generate_mix(self, images: Tensor, rng: torch.Generator) -> Mix:
        count, _, height, width = images.shape
        own = torch.arange(width, device=images.device) < width // 2
        mask = (own if self.keeps() == "left" else ~own).float()[None, None, None].expand(count, 1, height, width)
        partner = send(draw_partners("permutation", count, rng), images.device)
        return self.told(images, partner, mask)

    def keeps(self) -> str:
        return "left"

    def told(self, images: Tensor, partner: Tensor, mask: Tensor) -> Mix:
        mixed = torch.where(mask.bool(), images, images[partner])
        return Mix.pair(mixed, partner, mask.mean((1, 2, 3)), mask)


@attrs.define(eq=False, kw_only=True)
class Stripe(Half):
    """The same with options."""

    side: Literal["left", "right"] = "left"
    soft: bool = False

    def keeps(self) -> str:
        return self.side


class VariesUndeclared(Stripe):
    provides: ClassVar[frozenset[str]] = frozenset()


class NeverVaries(Stripe):
    def told(self, images: Tensor, partner: Tensor, mask: Tensor) -> Mix:
        mixed = (0.75 * images + 0.25 * images[partner]).to(images.dtype)
        return Mix.pair(mixed, partner, 0.75, torch.full_like(mask[..., :1, :1], 0.75))


class SeedsInTheMix(Stripe):
    def told(self, images: Tensor, partner: Tensor, mask: Tensor) -> Mix:
        torch.manual_seed(0)
        return super().told(images, partner, mask)


class CountsColumnsOnTheHost(Half):
    def told(self, images: Tensor, partner: Tensor, mask: Tensor) -> Mix:
        mask = mask * (torch.arange(mask.shape[-1]) >= 0)
        return super().told(images, partner, mask)


class LeavesPartnersOnTheHost(Half):
    def told(self, images: Tensor, partner: Tensor, mask: Tensor) -> Mix:
        return super().told(images, torch.arange(len(images)).roll(1), mask)


class ReadsAPixel(Half):
    def told(self, images: Tensor, partner: Tensor, mask: Tensor) -> Mix:
        return super().told(images, partner, mask * float(images.mean().item() > -99))


class PicksPixels(Half):
    def told(self, images: Tensor, partner: Tensor, mask: Tensor) -> Mix:
        mix = super().told(images, partner, mask)
        return attrs.evolve(mix, notes={"kept": images[mask.expand_as(images) > 0].view(len(images), -1)})


class ReadsItsDraws(Half):
    """A sound one: what was drawn on the host may be read there."""

    def told(self, images: Tensor, partner: Tensor, mask: Tensor) -> Mix:
        kept = [1.0 if number >= 0 else 0.0 for number in torch.arange(3).tolist()]
        return super().told(images, partner, mask * kept[int(torch.arange(3).numpy()[1])])


class OneValueBroken(Stripe):
    def told(self, images: Tensor, partner: Tensor, mask: Tensor) -> Mix:
        if self.soft:
            raise ZeroDivisionError("of softness")
        return super().told(images, partner, mask)


# --- mixers that carry a graph ---------------------------------------------------------------------------------------


@attrs.define(eq=False, kw_only=True)
class LearntStripe:
    """A sound one: a convolution says pixel by pixel how much of the image stays."""

    role = "mix"
    provides = frozenset({"mask"})
    contract = {"graph": True}

    @hookimpl
    def build_modules(self, task: Task) -> dict[str, nn.Module]:
        return {"mask": nn.Conv2d(2 * task.in_channels, 1, 3, padding=1)}

    @hookimpl
    def generate_mix(self, images: Tensor, modules: Any, rng: torch.Generator) -> Mix:
        partner = send(draw_partners("permutation", len(images), rng), images.device)
        pair = torch.cat((images, images[partner]), 1)
        mask = self.cut(modules["mask"](pair.float()).sigmoid())
        mixed = (mask * images + (1 - mask) * images[partner]).to(images.dtype)
        memory = torch.contiguous_format if images.is_contiguous() else torch.channels_last
        return Mix.pair(mixed.contiguous(memory_format=memory), partner, mask.mean((1, 2, 3)), mask)

    def cut(self, mask: Tensor) -> Tensor:
        return mask


class SaysNothingOfItsGraph(LearntStripe):
    contract: ClassVar[dict[str, bool]] = {}


class CutsItsGraph(LearntStripe):
    """Trains its part by nothing but the wish for small masks."""

    @hookimpl
    def generate_mix(self, images: Tensor, modules: Any, rng: torch.Generator) -> Mix:
        mix = LearntStripe.generate_mix(self, images, modules, rng)
        small = mix.masks.mean()
        lam, masks = mix.lam.detach(), mix.masks.detach()
        return Mix.pair(mix.images.detach(), mix.partner, lam, masks, losses={"small": small})


SOUND = [Policy, SumsToTwoAndSaysSo, Loss, Extra, Half, Stripe, ReadsItsDraws, LearntStripe]
_LEFT = r"\[\d+.*\] on the CPU.*send\(tensor, images\.device\).*test_one_fault_one_row\.py:\d+: "
_READ = r" reads on the host what came from the batch.*test_one_fault_one_row\.py:\d+: "
FAULTS: list[tuple[type, str, str]] = [
    (SumsToTwo, "label_weights", r"sum to \[2\.\d+.*divide by their sum"),
    (IndexesRows, "sources_are_followed", r"labels\[mix\.sources\]"),
    (WritesIntoTheMix, "the_mix_is_kept", "the mix's weights were changed"),
    (IgnoresTheMix, "the_loss_heeds_the_weights", "whatever the label weights are"),
    (SumsRows, "the_loss_is_a_mean", "take the mean over the rows"),
    (GoesBackward, "gradients_are_left_alone", "a hook calls backward"),
    (ReadsUnsortedLabels, "sources_are_followed", "order"),
    (ClearsGradients, "gradients_are_left_alone", "gradient of model.stage1.0.weight was changed by a hook before the"),
    (ScalesGradientsLater, "gradients_are_left_alone", "by a hook in after_step"),
    (Counts, "nothing_is_kept", "a hook changed self.count"),
    (Collects, "nothing_is_kept", "a hook changed self.seen"),
    (KeepsANetwork, "nothing_is_kept", "a hook changed self.network"),
    (Seeds, "global_generators_are_left_alone", "generator of torch was used or seeded"),
    (VariesUndeclared, "masks_are_declared", r'write provides = frozenset\(\{"mask"\}\)'),
    (NeverVaries, "masks_are_declared", "constant over the image"),
    (SeedsInTheMix, "global_generators_are_left_alone", "generator of torch was used or seeded"),
    (OneValueBroken, "every_option_value", "with soft = true, heights_and_widths: ZeroDivisionError: of softness"),
    (NoOption, "every_option_is_a_field", "alpha = 1.0 has no annotation.*write alpha: float = ..."),
    (Undecorated, "every_option_is_a_field", "alpha of class Undecorated is no option"),
    (OneUnannotated, "every_option_is_a_field", "annotate its every attrs.field"),
    (SharedDefault, "every_option_is_a_field", "default of sizes is one list that all instances share"),
    (CountsColumnsOnTheHost, "two_steps_on_another_device", rf"mul of a tensor {_LEFT}mask = mask \*"),
    (LeavesPartnersOnTheHost, "two_steps_on_another_device", rf"index of a tensor {_LEFT}mixed = "),
    (ReadsAPixel, "two_steps_on_another_device", rf"item{_READ}.*images\.mean\(\)\.item"),
    (PicksPixels, "two_steps_on_another_device", rf"__getitem__{_READ}.*mask\.expand_as"),
    (CountsOnTheHost, "two_steps_on_another_device", rf"index of a tensor {_LEFT}return mix"),
    (
        LeavesItsWeights,
        "two_steps_on_another_device",
        r"mix_labels returned weights, a tensor \[6, 2\] on the C",
    ),
    (ReadsTheWeights, "two_steps_on_another_device", rf"item{_READ}return mix"),
    (PicksWeights, "two_steps_on_another_device", rf"a boolean index{_READ}return mix"),
    (CountsOnTheHostInTheLoss, "two_steps_on_another_device", rf"mul of a tensor {_LEFT}return \(rows"),
    (ReadsTheLoss, "two_steps_on_another_device", rf"item{_READ}return rows\.mean"),
    (PicksRowsOfTheLoss, "two_steps_on_another_device", rf"__getitem__{_READ}return rows\[rows"),
    (CutsItsGraph, "gradient_arrives", "reaches no part: the graph is cut"),
]


def failing(plugin: type) -> dict[str, str]:
    """Name -> message of every check that fails; two processes apart, which take seconds to start."""
    subject, found = Subject(plugin=plugin), {}
    for name, check in checks_of(Harness(subject).role).items():
        if name == "two_processes":
            continue
        try:
            check(Harness(subject))
        except NotApplicableError:
            pass
        except Exception as error:
            found[name] = f"{type(error).__name__}: {error}"
    return found


@pytest.mark.parametrize("sound", SOUND)
def test_a_sound_plugin_fails_nothing(sound: type) -> None:
    assert failing(sound) == {}


@pytest.mark.parametrize(("broken", "check", "said"), FAULTS, ids=[broken.__name__ for broken, _, _ in FAULTS])
def test_one_fault_fails_one_check(broken: type, check: str, said: str) -> None:
    found = failing(broken)
    assert list(found) == [check], found
    with pytest.raises(AssertionError, match=said):
        checks_of(Harness(Subject(plugin=broken)).role)[check](Harness(Subject(plugin=broken)))


def test_a_graph_that_nobody_declared_says_how_to_declare_it() -> None:
    with pytest.raises(AssertionError, match=r'images carry a graph.*contract = \{"graph": True\}'):
        checks_of("mix")["batch_sizes"](Harness(Subject(plugin=SaysNothingOfItsGraph)))


@pytest.mark.parametrize("seed", [0, 1_940_837_511])
def test_a_hidden_seed_is_seen_whatever_was_seeded_before(seed: int) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        before = torch.get_rng_state()
        with pytest.raises(AssertionError, match="used or seeded"):
            checks_of("mix")["global_generators_are_left_alone"](Harness(Subject(plugin=SeedsInTheMix)))
        assert torch.equal(torch.get_rng_state(), before)


def test_a_value_that_the_plugin_refuses_is_no_fault() -> None:
    def fits(instance: Any, _attribute: Any, soft: bool) -> None:
        if soft and instance.side == "left":
            raise ValueError("soft goes with right")

    @attrs.define(eq=False, kw_only=True)
    class Refuses(Stripe):
        soft: bool = attrs.field(default=False, validator=fits)

    checks_of("mix")["every_option_value"](Harness(Subject(plugin=Refuses)))


# --- refused before anything runs ------------------------------------------------------------------------------------


def refused() -> list[tuple[type, str]]:
    @attrs.define(eq=False, kw_only=True)
    class Provide:
        role = "mix"
        provide = frozenset({"mask"})

    @attrs.define(eq=False, kw_only=True)
    class Need:
        role = "labels"

        @property
        def need(self) -> frozenset[str]:
            return frozenset({"mask"})

    @attrs.define(eq=False, kw_only=True)
    class Roleless:
        @hookimpl
        def generate_mix(self, images: Tensor) -> Mix:
            return Mix.clean(images)

    @attrs.define(eq=False, kw_only=True)
    class Both:
        role = "labels"

        @hookimpl
        def generate_mix(self, images: Tensor) -> Mix:
            return Mix.clean(images)

    @attrs.define(eq=False, kw_only=True)
    class Chooses:
        @hookimpl
        def choose_mixer(self) -> int:
            return 0

    @attrs.define(eq=False, kw_only=True)
    class DataSpeaks:
        role = "data"

        @hookimpl
        def extra_losses(self) -> dict[str, Tensor]:
            return {}

    @attrs.define(eq=False, kw_only=True)
    class MixerTracks:
        role = "mix"

        @hookimpl
        def log_record(self) -> None: ...

    return [
        (MixerTracks, 'implements log_record, but has role "mix", and only extras are asked.*ship an extra beside it'),
        (Provide, r"class Provide has provide, which mixcore does not read; did you mean provides\?"),
        (Need, r"class Need has need, which.*did you mean needs\?"),
        (Roleless, r'implements generate_mix, but has no role, and only the owner of \[mix\].*write role = "mix"'),
        (Both, r'implements generate_mix, but has role "labels".*ship a class of its own for it'),
        (Chooses, r"implements choose_mixer, which the core does.*wrapper=True"),
        (DataSpeaks, 'implements extra_losses, but has role "data".*ship an extra beside it'),
    ]


@pytest.mark.parametrize(("broken", "said"), refused(), ids=[broken.__name__ for broken, _ in refused()])
def test_what_nobody_reads_or_asks_for_is_refused(broken: type, said: str) -> None:
    with pytest.raises(BrokenPluginError, match=said):
        Harness(Subject(plugin=broken))


def test_an_option_and_a_constant_may_be_named_like_a_declaration() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Stage(Extra):
        stage: int = 1
        STAGES = (1, 2)
        _needs = "nothing"

        def provided(self) -> None: ...

    assert failing(Stage) == {"options_round_trip": failing(Stage)["options_round_trip"]}  # a local class: no pickle


# --- the contract as test classes ------------------------------------------------------------------------------------


class TestPolicy(PluginContract):
    role = "labels"
    plugin = Policy
    left_out = ("two_processes",)


class TestLoss(PluginContract):
    role = "loss"
    plugin = Loss
    left_out = ("two_processes",)


class ContractOfNoMean(PluginContract):
    role = "loss"
    plugin = SumsRows


class ContractOfAnotherRole(PluginContract):
    role = "mix"
    plugin = Loss


def test_a_test_class_of_a_role_bites() -> None:
    with pytest.raises(AssertionError, match="mean over the rows"):
        ContractOfNoMean().test_contract("the_loss_is_a_mean")
    ContractOfNoMean().test_contract("any_batch_size")
    with pytest.raises(AssertionError, match=r'has role loss.*write role = "loss"'):
        ContractOfAnotherRole().test_contract("any_batch_size")
