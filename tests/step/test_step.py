"""The training step: views, heads, mixing inside the network, groups, and what hooks are told."""

from __future__ import annotations

from typing import Any

import attrs
import pytest
import timm
import torch
from torch import Tensor, nn

from mixcore.api import Batch, ConfigError, Mix, Part, hookimpl
from mixcore.errors import CheckpointError, HookError
from mixcore.mixers import create_step
from mixcore.step.step import TrainingStep


@attrs.define(eq=False, kw_only=True)
class Blend:
    """Mixup of neighbours with a drawn lam; `inside`: at a stage; `views`: beside a clean view with its own head."""

    role = "mix"
    inside: str | None = None
    views: bool = False
    overwrites: bool = False

    @property
    def stages(self) -> tuple[str, ...]:
        return (self.inside,) if self.inside else ()

    @hookimpl
    def build_modules(self, model: nn.Module, task: Any) -> dict[str, Any]:
        return {"second": nn.Linear(model.num_features, task.num_classes)} if self.views else {}

    @hookimpl
    def generate_mix(self, images: Tensor, step: Any, rng: torch.Generator) -> Mix:
        lam = torch.rand((), generator=rng)
        partner = torch.arange(images.shape[0]).roll(1)

        def blend(features: Tensor) -> Tensor:
            return features * lam + features[partner] * (1 - lam)

        lams = lam.expand(images.shape[0])
        if self.inside:
            return Mix.pair(images, partner, lams, stage=self.inside, transform=blend)
        mixed = blend(images)
        if self.overwrites and step.may_overwrite:
            mixed = images.copy_(mixed)
        views = (Mix.clean(images, head="second", scale=0.5),) if self.views else ()
        return Mix.pair(mixed, partner, lams, views=views)


@attrs.define(eq=False, kw_only=True)
class Given:
    """The same mix for every batch."""

    role = "mix"
    mix: Any = None

    @hookimpl
    def generate_mix(self) -> Mix:
        return self.mix


@attrs.define(eq=False, kw_only=True)
class Watch:
    """Keeps what extra_losses was told."""

    seen: list[dict[str, Any]] = attrs.field(factory=list)

    @hookimpl
    def extra_losses(self, mix: Mix, images: Tensor, output: Any, clean: Any) -> dict[str, Tensor]:
        self.seen.append({"images": images, "output": output, "clean": clean, "mix": mix})
        return {}


def resnet() -> nn.Module:
    torch.manual_seed(0)
    return timm.create_model("resnet10t", num_classes=4)


def batch(rows: int = 4) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(1)
    return torch.rand(rows, 3, 32, 32, generator=rng), torch.arange(rows) % 4


def made(model: nn.Module | None = None, **settings: Any) -> TrainingStep:
    return create_step(model or resnet(), num_classes=4, iterations=100, seed=5, image_size=(32, 32), **settings)


def test_the_loss_of_a_mix_is_the_weighted_loss_of_its_sources() -> None:
    step = made(mix=Blend())
    images, labels = batch()
    loss, report = step(images, labels, iteration=3)
    mix, lam = report.mix, report.mix.lam
    logits = step.model(mix.images)
    each = nn.functional.cross_entropy
    expected = lam * each(logits, labels, reduction="none")
    expected += (1 - lam) * each(logits, labels[mix.partner], reduction="none")
    torch.testing.assert_close(loss, expected.mean())
    assert 0 < report.lam.item() < 1


def test_the_log_is_told_how_many_sources_have_weight() -> None:
    step = made()
    images, labels = batch()
    assert step(images, labels)[1].sources.item() == 1, "a clean batch"
    mix = Mix(
        images=images,
        sources=torch.arange(3).expand(4, 3),
        weights=torch.tensor([[0.5, 0.2, 0.3], [1, 0, 0], [0.6, 0.4, 0], [0, 1, 0]]),
    )
    assert made(mix=Given(mix=mix))(images, labels)[1].sources.item() == (3 + 1 + 2 + 1) / 4


def test_views_run_in_order_with_their_head_and_scale() -> None:
    step = made(mix=Blend(views=True)).eval()
    images, labels = batch()
    loss, report = step(images, labels)
    head = step.parts["blend"]["second"]
    pooled = step.model.forward_head(step.model.forward_features(images), pre_logits=True)
    clean = nn.functional.cross_entropy(head(pooled), labels)
    torch.testing.assert_close(loss, report.losses["mix"] + 0.5 * clean)
    loss.backward()
    assert head.weight.grad is not None


def test_mixing_inside_the_network_equals_mixing_the_map_by_hand() -> None:
    step = made(mix=Blend(inside="layer2")).eval()
    images, labels = batch()
    loss, report = step(images, labels, iteration=2)
    model, lam = step.model, report.mix.lam[0]
    x = model.layer2(model.layer1(model.maxpool(model.act1(model.bn1(model.conv1(images))))))
    x = x * lam + x[report.mix.partner] * (1 - lam)
    logits = model.forward_head(model.layer4(model.layer3(x)))
    targets = report.targets.dense(4)
    torch.testing.assert_close(loss, -(targets * logits.log_softmax(1)).sum(1).mean())
    assert torch.equal(model(images), model(images)), "the tap is idle outside the step"


def test_an_unknown_stage_is_refused_with_the_possible_ones() -> None:
    with pytest.raises(ConfigError, match="layer4"):
        made(mix=Blend(inside="layer7"))


def test_a_clean_view_is_the_clean_output_and_nothing_runs_twice() -> None:
    watch = Watch()
    step = made(mix="none", extra=[watch])
    images, labels = batch()
    step(images, labels)
    assert watch.seen[0]["clean"] is watch.seen[0]["output"]
    watch.seen.clear()
    step = made(mix=Blend(), extra=[watch])
    step(images, labels)
    assert watch.seen[0]["clean"] is not watch.seen[0]["output"]
    assert watch.seen[0]["clean"].logits.requires_grad


@pytest.mark.parametrize(("extra", "kept"), [([], False), ([Watch()], True)])
def test_the_batch_may_be_overwritten_only_where_nobody_looks_back(extra: list[Any], kept: bool) -> None:
    step = made(mix=Blend(overwrites=True), extra=extra, overwrite=True)
    images, labels = batch()
    before = images.clone()
    step(images, labels)
    assert torch.equal(images, before) is kept


def test_groups_mix_the_same_alone_and_together() -> None:
    images, labels = batch(8)
    step = made(mix={"name": "none", "group_size": 4})
    assert step.mix_batch(Batch(images=images, labels=labels), mixer=0)[0].images.shape[0] == 8
    whole = made(mix=Blend())
    grouped = made(mix=Blend())
    grouped._setup = attrs.evolve(grouped._setup, plugins=attrs.evolve(grouped._setup.plugins, group_sizes=(4,)))
    both, _ = grouped.mix_batch(Batch(images=images, labels=labels), mixer=0, iteration=1)
    first, _ = whole.mix_batch(Batch(images=images[:4], labels=labels[:4]), mixer=0, iteration=1)
    assert torch.equal(both.images[:4], first.images)
    assert both.lam[0] != both.lam[4], "each group has its own draws"
    assert both.partner[4:].tolist() == [7, 4, 5, 6]
    with pytest.raises(HookError, match="group_size = 4 does not divide"):
        grouped.mix_batch(Batch(images=images[:6], labels=labels[:6]), mixer=0)


def test_draws_depend_on_the_iteration_alone() -> None:
    images, labels = batch()
    step = made(mix=Blend())
    lams = [step(images, labels)[1].mix.lam[0].item() for _ in range(3)]
    assert len(set(lams)) == 3
    assert made(mix=Blend())(images, labels, iteration=2)[1].mix.lam[0].item() == lams[2]


def test_autocast_is_off_in_hooks_and_surrounds_the_network() -> None:
    seen = []

    @attrs.define(eq=False, kw_only=True)
    class Look:
        role = "loss"

        @hookimpl
        def compute_loss(self, logits: Tensor) -> Tensor:
            seen.append((torch.is_autocast_enabled("cpu"), logits.dtype))
            return logits.sum()

    watch = Watch()
    step = made(mix="none", loss=Look(), extra=[watch])
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss, _ = step(*batch())
    assert seen == [(False, torch.float32)]
    assert watch.seen[0]["output"].features.dtype == torch.bfloat16
    loss.backward()
    assert all(parameter.grad is not None for parameter in step.model.parameters())
    step(*batch())
    assert watch.seen[1]["output"].features.dtype == torch.float32


def test_a_part_that_is_a_teacher_stays_in_eval_mode_and_out_of_checkpoints() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Teaching:
        @hookimpl
        def build_modules(self) -> dict[str, Part]:
            return {"teacher": Part(module=nn.BatchNorm2d(3), optimizer=None, eval=True, save=False)}

    step = made(extra=[Teaching()])
    step.train()
    assert not step.parts["teaching"]["teacher"].training
    assert step.model.training
    assert not any(name.startswith("parts.") for name in step.saved_state())
    assert [trained.name for trained in step.trained()] == ["backbone"]


def test_saved_state_comes_back_and_a_strangers_is_refused() -> None:
    step, other = made(mix=Blend(views=True)), made(mix=Blend(views=True))
    step(*batch())
    other.load_saved_state(step.saved_state())
    for name, value in step.saved_state().items():
        assert torch.equal(other.saved_state()[name], value)
    with pytest.raises(CheckpointError, match=r"missing: parts\.blend"):
        other.load_saved_state(made().saved_state())


def test_the_step_counts_its_calls_and_the_count_is_state() -> None:
    step = made(mix=Blend())
    step(*batch())
    later = made(mix=Blend())
    later.load_state_dict(step.state_dict())
    assert torch.equal(later(*batch())[1].mix.lam, step(*batch())[1].mix.lam)


def test_parts_start_the_same_whatever_the_global_generators_say() -> None:
    torch.manual_seed(1)
    first = made(resnet(), mix=Blend(views=True)).parts["blend"]["second"].weight
    torch.manual_seed(2)
    assert torch.equal(made(resnet(), mix=Blend(views=True)).parts["blend"]["second"].weight, first)


def test_a_head_that_is_no_part_is_refused_by_name() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Headless:
        role = "mix"

        @hookimpl
        def generate_mix(self, images: Tensor) -> Mix:
            return Mix.clean(images, head="one")

    with pytest.raises(HookError, match="head 'one'"):
        made(mix=Headless())(*batch())


def test_wrong_results_name_the_plugin_the_hook_and_the_place() -> None:
    @attrs.define(eq=False, kw_only=True)
    class Long:
        role = "mix"

        @hookimpl
        def generate_mix(self, images: Tensor) -> Mix:
            return Mix(images=images, sources=torch.zeros(2, 1, dtype=torch.int64), weights=torch.ones(2, 1))

    with pytest.raises(HookError, match=r"generate_mix of Long gave sources int64 \[2, 1\]; expected int64 \[4,S\]"):
        made(mix=Long())(*batch())

    @attrs.define(eq=False, kw_only=True)
    class Failing:
        role = "mix"

        @hookimpl
        def generate_mix(self, images: Tensor) -> Mix:
            raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck") as caught:
        made(mix=Failing())(*batch(), iteration=7)
    assert caught.value.__notes__ == ["in generate_mix of Failing at epoch 0, iteration 7"]
