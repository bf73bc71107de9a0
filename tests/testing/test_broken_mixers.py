"""Deliberately broken plugins and the check that finds each: lam of the wrong source, and every role but the mixers'.

Mixers that break the other promises are in test_contract_bites.py.
"""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import nn

from mixcore.api import Data, Mix, Resident, Targets, Task, beta, blend, draw_partners, hookimpl, send
from mixcore.errors import BrokenPluginError
from mixcore.testing import CHECKS, Harness, NotApplicableError, Subject, TinyConvNet
from mixcore.testing.checks import checks_of
from mixcore.testing.conform import run_checks


@attrs.define(eq=False, kw_only=True)
class Blend:
    """A sound mixer without masks."""

    role = "mix"
    own = True

    @hookimpl
    def generate_mix(self, images: Any, rng: Any) -> Mix:
        lam, partner = beta(1.0, rng), send(draw_partners("permutation", len(images), rng), images.device)
        return Mix.pair(blend(images, partner, lam), partner, lam if self.own else 1 - lam)


class WeightsThePartner(Blend):
    own = False


@attrs.define(eq=False, kw_only=True)
class BlendInside:
    """A sound mixer inside the network."""

    role = "mix"
    needs = frozenset({"stages"})
    stages = (1,)
    own = True

    @hookimpl
    def generate_mix(self, images: Any, rng: Any) -> Mix:
        lam, partner = beta(1.0, rng), send(draw_partners("permutation", len(images), rng), images.device)
        weight = lam if self.own else 1 - lam
        return Mix.pair(images, partner, weight, stage=1, transform=lambda maps: torch.lerp(maps[partner], maps, lam))


class WeightsThePartnerInside(BlendInside):
    own = False


@pytest.mark.parametrize(("sound", "broken"), [(Blend, WeightsThePartner), (BlendInside, WeightsThePartnerInside)])
def test_a_lam_of_the_partner_is_found_without_masks(sound: type, broken: type) -> None:
    CHECKS["lam_leans_as_pixels_do"](Harness(Subject(plugin=sound)))
    with pytest.raises(AssertionError, match="weight of the image's own label"):
        CHECKS["lam_leans_as_pixels_do"](Harness(Subject(plugin=broken)))


def test_a_method_may_say_that_pixels_do_not_follow_lam() -> None:
    with pytest.raises(NotApplicableError, match="does not follow lam"):
        CHECKS["lam_leans_as_pixels_do"](Harness(Subject(plugin=WeightsThePartner, pixels_follow_lam=False)))


class Policy:
    role = "labels"

    @hookimpl
    def mix_labels(self, mix: Mix, labels: Any, output: Any) -> Targets:
        return mix.targets(labels, self.weigh(mix, output))


@attrs.define(eq=False, kw_only=True)
class SoundPolicy(Policy):
    def weigh(self, mix: Mix, output: Any) -> Any:
        return mix.weights.softmax(1)


class NegativeWeights(SoundPolicy):
    def weigh(self, mix: Mix, output: Any) -> Any:
        return 2 * mix.weights - 1


class MasksOnly(SoundPolicy):
    def weigh(self, mix: Mix, output: Any) -> Any:
        return torch.cat((mix.masks.mean((2, 3)), 1 - mix.masks.mean((2, 3))), 1)


class RandomWeights(SoundPolicy):
    def weigh(self, mix: Mix, output: Any) -> Any:
        return torch.rand_like(mix.weights)


class ReadsLogits(SoundPolicy):
    def weigh(self, mix: Mix, output: Any) -> Any:
        return mix.weights if output.logits.max().item() > -1e9 else None


@attrs.define(eq=False, kw_only=True)
class SoundLoss:
    role = "loss"

    @hookimpl
    def compute_loss(self, logits: Any, targets: Targets, task: Task) -> Any:
        return self.mean((logits.softmax(1) - targets.dense(task.num_classes)).square(), targets)

    def mean(self, errors: Any, targets: Targets) -> Any:
        return errors.mean()


class LossOfSeveral(SoundLoss):
    """Divides by what is 0 for one image."""

    def mean(self, errors: Any, targets: Targets) -> Any:
        return errors.std(0).sum()


class LossOfClasses(SoundLoss):
    """Indexes with labels, though it says nothing about accepting classes only."""

    def mean(self, errors: Any, targets: Targets) -> Any:
        return errors[torch.arange(len(errors)), targets.labels].mean()


class ChangesLabels(SoundLoss):
    def mean(self, errors: Any, targets: Targets) -> Any:
        targets.labels.zero_()
        return errors.mean()


@attrs.define(eq=False, kw_only=True)
class SoundExtra:
    @hookimpl
    def extra_losses(self, output: Any) -> dict[str, Any]:
        return {"size": output.logits.square().mean() * self.factor()}

    def factor(self) -> Any:
        return 0.1


class DrawsGlobally(SoundExtra):
    def factor(self) -> Any:
        return float(torch.rand(()))


@attrs.define(eq=False, kw_only=True)
class CountsUp(SoundExtra):
    """What it keeps is lost by a pause."""

    seen: int = attrs.field(default=0, init=False)

    def factor(self) -> Any:
        self.seen += 1
        return float(self.seen)


@attrs.define(eq=False, kw_only=True)
class SoundNet:
    role = "backbone"

    @hookimpl
    def build_backbone(self, task: Task) -> nn.Module:
        return self.change(TinyConvNet(task.num_classes, task.in_channels))

    def change(self, network: Any) -> nn.Module:
        return network


class WrongWidth(SoundNet):
    def change(self, network: Any) -> nn.Module:
        network.num_features = network.head_hidden_size = 99
        return network


class WrongStage(SoundNet):
    def change(self, network: Any) -> nn.Module:
        network.feature_info[0]["module"] = "stage9"
        return network


class AlwaysTrains(SoundNet):
    """BatchNorm of the batch, in eval mode too."""

    def change(self, network: Any) -> nn.Module:
        network.stage1[1] = nn.BatchNorm2d(8, track_running_stats=False)
        return network


@attrs.define(eq=False, kw_only=True)
class SoundData:
    role = "data"
    seed: ClassVar[int] = 0

    @hookimpl
    def build_data(self) -> Data:
        rng = torch.Generator().manual_seed(self.seed)
        images = torch.randint(0, 256, (24, 3, 8, 8), generator=rng, dtype=torch.uint8)
        task = Task(num_classes=3, in_channels=3, image_size=(8, 8), mean=(0.5,) * 3, std=(0.3,) * 3)
        train = Resident(images=images[:12], labels=self.labels())
        return Data(train=train, validation=Resident(images=self.held_out(images), labels=self.labels()), task=task)

    def labels(self) -> Any:
        return torch.arange(12) % 3

    def held_out(self, images: Any) -> Any:
        return images[12:]


class ValidatesOnTraining(SoundData):
    def held_out(self, images: Any) -> Any:
        return images[:12]


class OtherEachTime(SoundData):
    @property
    def seed(self) -> int:  # type: ignore[override]
        return int(torch.randint(1 << 30, ()))


ROLES = {SoundPolicy: "labels", SoundLoss: "loss", SoundExtra: "extra", SoundNet: "backbone", SoundData: "data"}
SOUND = [(cls, check) for cls, role in ROLES.items() for check in checks_of(role) if check != "two_processes"]


@pytest.mark.parametrize(("sound", "check"), SOUND, ids=[f"{cls.__name__}-{check}" for cls, check in SOUND])
def test_a_sound_plugin_passes(sound: type, check: str) -> None:
    harness = Harness(Subject(plugin=sound))
    assert harness.role == ROLES[sound]
    has_nothing = check in ("every_option_value", "maps_fit_the_images")  # no options, and no maps in its training set
    with pytest.raises(NotApplicableError) if has_nothing else nullcontext():
        checks_of(harness.role)[check](harness)


BITES: list[tuple[type, str, str]] = [
    (NegativeWeights, "label_weights", "a label weight is -"),
    (MasksOnly, "any_mix", "NoneType"),
    (RandomWeights, "global_generators_are_left_alone", "generator of torch was used"),
    (RandomWeights, "same_seed_same_loss", "gave losses"),
    (ReadsLogits, "two_steps_on_another_device", "item reads on the host"),
    (LossOfSeveral, "any_batch_size", "gradient of|std"),
    (LossOfClasses, "every_kind_of_labels", "ind"),
    (ChangesLabels, "the_batch_is_kept", "labels of the batch"),
    (DrawsGlobally, "global_generators_are_left_alone", "generator of torch was used"),
    (CountsUp, "state_round_trip", "without a pause"),
    (WrongWidth, "timm_interface", "num_features says 99"),
    (WrongStage, "timm_interface", "stage9"),
    (AlwaysTrains, "no_memory", "other images of the batch"),
    (ValidatesOnTraining, "splits_differ", "a training image too"),
    (OtherEachTime, "epochs_repeat", "another first batch"),
]


@pytest.mark.parametrize(("broken", "check", "said"), BITES, ids=[f"{b.__name__}-{c}" for b, c, _ in BITES])
@pytest.mark.filterwarnings("ignore:std")
def test_a_broken_plugin_is_found(broken: type, check: str, said: str) -> None:
    harness = Harness(Subject(plugin=broken))
    with pytest.raises(Exception, match=said):  # a crash of the plugin is a finding too
        checks_of(harness.role)[check](harness)


@attrs.define(eq=False, kw_only=True)
class SaysOtherwise(Blend):
    """Defined otherwise, and says so on the class."""

    double: bool = False
    """Label weights that sum to 2."""

    @property
    def contract(self) -> dict[str, Any]:
        return {"weights_sum_to_one": not self.double}

    @hookimpl
    def generate_mix(self, images: Any, rng: Any) -> Mix:
        mix = Blend.generate_mix(self, images, rng)
        return attrs.evolve(mix, weights=mix.weights * (2 if self.double else 1))


def test_a_class_may_declare_what_it_is_held_to() -> None:
    for options in ({}, {"double": True}):
        harness = Harness(Subject(plugin=SaysOtherwise, options=options))
        assert harness.subject.weights_sum_to_one is not options.get("double", False)
        CHECKS["weights_are_shares"](harness)


def test_a_declaration_without_meaning_is_refused() -> None:
    class Misspelt(Blend):
        contract = {"weigths_sum_to_one": False}

    with pytest.raises(BrokenPluginError, match=r"weigths_sum_to_one.*known are"):
        Harness(Subject(plugin=Misspelt))


def rows(name: str, **options: Any) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}

    def write(result: Any) -> None:
        found[result["check"]] = {**found.get(result["check"], {}), **result}

    run_checks({"name": name, "options": options, "device": "cpu", "checks": None}, write)
    return found


@pytest.fixture
def installed(install: Any) -> None:
    source = "import attrs\nfrom mixcore.api import hookimpl\n\n@attrs.define(eq=False, kw_only=True)\nclass Loss:\n"
    source += "    role = 'loss'\n    size: int = 1\n\n    @hookimpl\n    def compute_loss(self, logits):\n"
    source += "        return logits.view(self.size, -1).nonsense()\n"
    install({"faulty": "fake_faulty:Loss", "gone": "fake_gone:Gone"}, {"fake_faulty": source, "fake_gone": "import no"})


def test_every_check_is_a_row_with_what_it_found(installed: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixcore.testing.conform.checks_of", lambda role: {"a": CHECKS["options_round_trip"], **SOME})
    found = rows("faulty")
    assert found["loads"]["role"] == "loss"
    assert list(found["loads"]["plan"]) == ["a", "any_batch_size", "says_nothing"]
    assert {name: row["state"] for name, row in found.items()} == {
        "loads": "passed",
        "a": "passed",
        "any_batch_size": "failed",
        "says_nothing": "skipped",
    }
    said = found["any_batch_size"]["detail"]
    assert said.startswith("AttributeError: 'Tensor' object has no attribute 'nonsense' (")
    assert "fake_faulty.py:11: return logits" in said
    assert "in compute_loss of faulty (fake-plugins 1.0) at epoch 0, iteration 0" in said


def says_nothing(harness: Harness) -> None:
    """Nothing."""
    raise NotApplicableError("nothing to say")


SOME = {"any_batch_size": checks_of("loss")["any_batch_size"], "says_nothing": says_nothing}


@pytest.mark.parametrize(
    ("name", "options", "said"),
    [
        ("gone", {}, "needs the module no"),
        ("faulty", {"sice": 2}, "did you mean"),
        ("faulty", {"size": "a"}, "integer"),
    ],
)
def test_one_that_cannot_be_made_is_one_row(installed: None, name: str, options: Any, said: str) -> None:
    found = rows(name, **options)
    assert list(found) == ["loads"]
    assert found["loads"]["state"] == "failed"
    assert said in found["loads"]["detail"]
