"""TransMix: the examples and invariants of its specification, with the masks of several mixers."""

from __future__ import annotations

import math
from pathlib import Path

import attrs
import pytest
import timm
import torch
from mixcore_plugin_transmix import TransMix, masks_on_grid

from mixcore.api import Attention, ConfigError, ForwardOutput, Mix, attended_weights, hookimpl
from mixcore.mixers import create_step
from mixcore.testing import TinyConvNet, Tripwire, run_example, tiny_vit


def shared_box(count, height, width, box):
    mask = torch.ones(count, 1, height, width)
    mask[:, :, box[0] : box[1], box[2] : box[3]] = 0
    return mask


def pair_with(mask, lam=None):
    count, _, height, width = mask.shape
    lam = mask.mean((1, 2, 3)) if lam is None else lam
    return Mix.pair(torch.zeros(count, 3, height, width), torch.arange(count).flip(0), lam, mask)


def weights_of(mix, attention, r=0.5, downsample="nearest"):
    areas = mix.masks.mean((2, 3))
    areas = torch.cat((areas, 1 - areas.sum(1, keepdim=True)), 1)
    return attended_weights(areas, masks_on_grid(mix, *attention.shape[-2:], downsample), attention, r)


ATTENTION = torch.tensor([[[0.1, 0.2], [0.3, 0.2]]])


@pytest.mark.parametrize(("downsample", "share", "lam"), [("nearest", 0.75, 0.6875), ("area", 0.6875, 0.65625)])
def test_the_first_example(downsample, share, lam):
    mix = pair_with(shared_box(1, 4, 4, (0, 2, 1, 4)))
    assert mix.lam.item() == 0.625
    tokens = {"nearest": [1, 0, 1, 1], "area": [0.5, 0, 1, 1]}[downsample]
    assert masks_on_grid(mix, 2, 2, downsample)[0, 0].flatten().tolist() == tokens
    assert weights_of(mix, ATTENTION, 0.0, downsample)[0].tolist() == pytest.approx([share, 1 - share])
    assert weights_of(mix, ATTENTION, 0.5, downsample)[0].tolist() == pytest.approx([lam, 1 - lam])
    assert weights_of(mix, 7 * ATTENTION, 0.5, downsample)[0, 0].item() == pytest.approx(lam), "only shares matter"


def test_the_second_example():
    mix = pair_with(shared_box(1, 224, 224, (40, 120, 100, 180)))
    masks = masks_on_grid(mix, 14, 14)[0, 0]
    outside = shared_box(1, 14, 14, (3, 8, 7, 12))[0, 0]
    assert torch.equal(masks, outside)
    assert weights_of(mix, torch.full((1, 14, 14), 0.3))[0, 0].item() == pytest.approx(0.8724490, abs=1e-6)


def test_uniform_attention_over_whole_patches_gives_the_area():
    mix = pair_with(shared_box(2, 16, 16, (4, 12, 0, 8)))
    torch.testing.assert_close(weights_of(mix, torch.ones(2, 4, 4)), mix.weights)


def test_exchanging_own_and_partner_exchanges_the_weights():
    attention = torch.rand(3, 4, 4)
    mask = (torch.rand(3, 1, 16, 16) > 0.4).float()
    one, other = (weights_of(pair_with(m), attention) for m in (mask, 1 - mask))
    torch.testing.assert_close(one, other.flip(1))


@pytest.mark.parametrize("value", [0.0, 0.3, 1.0, 1 / 3])
def test_a_constant_mask_keeps_its_weight_to_the_bit(value):
    lam = torch.full((4,), value)
    mix = pair_with(torch.ones(4, 1, 12, 12), lam=lam)
    mix = attrs.evolve(mix, masks=lam[:, None, None, None])
    for downsample in ("nearest", "area"):
        weights = weights_of(mix, torch.rand(4, 3, 3), 0.5, downsample)
        assert torch.equal(weights, mix.weights)


def test_attention_of_nothing_gives_the_area():
    mix = pair_with(shared_box(1, 8, 8, (0, 4, 0, 8)))
    assert weights_of(mix, torch.zeros(1, 2, 2), 0.5)[0].tolist() == [0.5, 0.5]


def test_weights_stay_shares_whatever_the_attention():
    for seed in range(20):
        rng = torch.Generator().manual_seed(seed)
        attention = torch.rand(8, 4, 4, generator=rng) ** 8
        attention[0] = 0
        attention[0, 0, 0] = 1
        mask = (torch.rand(8, 1, 16, 16, generator=rng) > torch.rand(8, 1, 1, 1, generator=rng)).float()
        weights = weights_of(pair_with(mask), attention, 0.0)
        assert (weights >= 0).all()
        assert (weights <= 1).all()
        torch.testing.assert_close(weights.sum(1), torch.ones(8))


def test_more_than_two_sources():
    owner = torch.randint(3, (5, 1, 4, 4), generator=torch.Generator().manual_seed(0))
    masks = torch.cat([(owner == s).float() for s in range(2)], 1)
    areas = torch.stack([(owner == s).float().mean((1, 2, 3)) for s in range(3)], 1)
    mix = Mix(images=torch.zeros(5, 3, 8, 8), sources=torch.zeros(5, 3, dtype=torch.int64), weights=areas, masks=masks)
    attention = torch.rand(5, 4, 4)
    shares = torch.stack([(attention * (owner[:, 0] == s)).sum((1, 2)) / attention.sum((1, 2)) for s in range(3)], 1)
    torch.testing.assert_close(weights_of(mix, attention, 0.3), 0.3 * areas + 0.7 * shares)


# --- which attention -------------------------------------------------------------------------------------------------


def heads(count, tokens):
    rng = torch.Generator().manual_seed(1)
    return torch.randn(count, 2, tokens, 4, generator=rng), torch.randn(count, 2, tokens, 4, generator=rng)


def output_with(attention):
    """Of a network of two blocks, the first of which looks elsewhere."""
    other = Attention(attention.keys, attention.queries * 3, attention.scale, attention.prefix, attention.class_token)
    return ForwardOutput(logits=torch.zeros(2, 3), features=torch.zeros(2), attention=(other, attention))


@pytest.mark.parametrize(("prefix", "class_token"), [(1, True), (2, True), (3, False), (0, False)])
def test_the_class_token_s_row_or_what_patches_receive(prefix, class_token):
    queries, keys = heads(2, prefix + 16)
    matrix = (queries @ keys.transpose(2, 3) / 2).softmax(-1).mean(1)
    looked_at = matrix[:, 0, prefix:] if class_token else matrix[:, prefix:, prefix:].mean(1)
    mix = pair_with(shared_box(2, 16, 16, (0, 8, 0, 12)))
    targets = TransMix(r=0.0).mix_labels(
        mix=mix, labels=torch.tensor([0, 1]), output=output_with(Attention(queries, keys, 0.5, prefix, class_token))
    )
    own = shared_box(1, 4, 4, (0, 2, 0, 3)).flatten()
    expected = (looked_at * own).sum(1) / looked_at.sum(1)
    torch.testing.assert_close(targets.weights[:, 0], expected)


MODELS = {
    "vit": lambda: tiny_vit(5, (16, 24)),
    "distilled": lambda: timm.create_model(
        "deit_tiny_distilled_patch16_224",
        num_classes=5,
        img_size=(16, 24),
        patch_size=4,
        embed_dim=16,
        depth=2,
        num_heads=2,
    ),
    "pooled with registers": lambda: timm.create_model(
        "vit_tiny_patch16_224",
        num_classes=5,
        img_size=(16, 24),
        patch_size=4,
        embed_dim=16,
        depth=2,
        num_heads=2,
        class_token=False,
        reg_tokens=3,
        global_pool="avg",
    ),
    "swin": lambda: timm.create_model(
        "swin_tiny_patch4_window7_224",
        num_classes=5,
        img_size=(16, 24),
        patch_size=2,
        window_size=2,
        embed_dim=12,
        depths=(1, 2),
        num_heads=(1, 2),
    ),
    "pvt": lambda: timm.create_model(
        "pvt_v2_b0", num_classes=5, depths=(1, 1, 1, 1), embed_dims=(8, 8, 16, 16), num_heads=(1, 1, 2, 2)
    ),
}


def made(model, mix="cutmix", labels="transmix", image_size=(16, 24), **rest):
    return create_step(
        model, mix=mix, labels=labels, num_classes=5, iterations=50, image_size=image_size, seed=3, **rest
    )


def batch(count=6, size=(16, 24)):
    rng = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, *size, generator=rng), torch.arange(count) % 5


@pytest.mark.parametrize("name", MODELS)
def test_real_networks_without_touching_their_forward(name):
    torch.manual_seed(0)
    size = (64, 96) if name == "pvt" else (16, 24)
    model = MODELS[name]()
    images, labels = batch(size=size)
    step = made(model, mix={"name": "cutmix", "per_sample": True}, image_size=size).eval()
    loss, report = step(images, labels, iteration=1)
    weights, plain = report.targets.weights, report.mix.weights
    assert not torch.allclose(weights, plain), "attention is not spread evenly"
    assert not weights.requires_grad
    torch.testing.assert_close(weights.sum(1), torch.ones(6))
    changed = (weights - plain).abs()[:, 0]
    assert changed[plain[:, 0] < 1].max() < 0.5, "half the weight is the area's"
    logits = model.eval()(report.mix.images)
    logits = logits[0] if isinstance(logits, tuple) else logits
    expected = -(report.targets.dense(5) * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


def test_energy_is_that_of_the_last_stage_before_any_norm():
    torch.manual_seed(0)
    model = TinyConvNet(5)
    images, labels = batch()
    step = made(model, labels={"name": "transmix", "source": "energy", "r": 0.0}).eval()
    _, report = step(images, labels, iteration=1)
    energy = model.eval().forward_features(report.mix.images).detach().square().sum(1)
    own = report.mix.masks_on(4, 6)[:, 0]
    torch.testing.assert_close(report.targets.weights[:, 0], (energy * own).sum((1, 2)) / energy.sum((1, 2)))


@pytest.mark.parametrize("name", ["vit", "swin"])
def test_energy_of_a_transformer_varies_over_positions(name):
    model = MODELS[name]()
    images, labels = batch()
    _, report = made(model, labels={"name": "transmix", "source": "energy", "r": 0.0}).eval()(images, labels)
    area_only = report.mix.masks_on(*(4, 6))[:, 0].mean((1, 2))
    assert (report.targets.weights[:, 0] - area_only).abs().max() > 1e-4


# --- with other parts of a run ---------------------------------------------------------------------------------------


def test_a_mixup_batch_in_the_same_run_keeps_its_lam():
    mix = [{"name": "cutmix", "probability": 0.8}, {"name": "mixup", "alpha": 0.8, "probability": 0.2}]
    step = made(tiny_vit(5, (16, 24)), mix=mix)
    images, labels = batch()
    seen = set()
    for iteration in range(20):
        _, report = step(images, labels, iteration=iteration)
        same = torch.equal(report.targets.weights, report.mix.weights)
        seen.add((report.mixer, same))
    assert ("mixup", True) in seen
    assert ("mixup", False) not in seen
    assert ("cutmix", False) in seen


def test_a_batch_that_stays_clean_keeps_its_labels():
    step = made(tiny_vit(5, (16, 24)), mix={"name": "cutmix", "probability": 0.0})
    _, report = step(*batch())
    assert report.mixer is None
    assert report.targets.weights.tolist() == [[1.0]] * 6


@attrs.define(eq=False, kw_only=True)
class Thirds:
    """Three vertical strips of three images."""

    role = "mix"
    provides = frozenset({"mask"})

    @hookimpl
    def generate_mix(self, images):
        count, width = images.shape[0], images.shape[-1]
        strip = torch.arange(width) * 3 // width
        masks = torch.stack([(strip == s).float() for s in range(2)])[None, :, None].expand(count, 2, 1, width)
        sources = torch.stack([torch.arange(count).roll(s) for s in range(3)], 1)
        mixed = sum(images[sources[:, s]] * (strip == s) for s in range(3))
        weights = torch.full((count, 3), 1 / 3)
        return Mix(images=mixed, sources=sources, weights=weights, masks=masks)


@pytest.mark.parametrize("mix", ["cutmix", {"name": "cutmix", "per_sample": True, "group_size": 2}, Thirds()])
@pytest.mark.parametrize("loss", [None, "bce"])
def test_masks_of_any_mixer_with_any_loss_and_nothing_read_on_the_host(mix, loss):
    step = made(tiny_vit(5, (16, 24)), mix=mix, loss=loss)
    images, labels = batch()
    value, report = step(images.as_subclass(Tripwire), labels.as_subclass(Tripwire), iteration=1)
    value.backward()
    weights = torch.Tensor(report.targets.weights.as_subclass(torch.Tensor))
    torch.testing.assert_close(weights.sum(1), torch.ones(6))


def test_puzzle_masks():
    pytest.importorskip("mixcore_plugin_puzzlemix", reason="mixcore-plugin-puzzlemix is not installed")
    step = made(tiny_vit(5, (16, 16)), mix={"name": "puzzlemix", "max_log2_blocks": 2}, image_size=(16, 16))
    images, labels = batch(size=(16, 16))
    loss, report = step(images, labels, iteration=1)
    assert report.mix.masks.shape[-1] < 16, "a block grid stays a block grid"
    torch.testing.assert_close(report.targets.weights.sum(1), torch.ones(6))
    assert not torch.allclose(report.targets.weights, report.mix.weights)
    loss.backward()


# --- refusals --------------------------------------------------------------------------------------------------------


def test_without_a_mask_it_is_refused_before_the_first_batch(monkeypatch):
    monkeypatch.setattr("mixcore.discovery.survey.LIMIT", 0)  # naming those that have one imports all that is installed
    with pytest.raises(ConfigError) as caught:
        made(tiny_vit(5, (16, 24)), mix=["mixup", "none"])
    message = str(caught.value)
    assert "transmix" in message
    assert "needs a mixer that provides mask, and mixup and none do not" in message
    assert '[labels] name = "weights"' in message
    made(tiny_vit(5, (16, 24)), mix=["mixup", "cutmix"])


def test_a_backbone_without_attention_is_refused_naming_the_energy():
    with pytest.raises(ConfigError) as caught:
        made(TinyConvNet(5))
    message = str(caught.value)
    assert "needs attention of the backbone" in message
    assert 'source = "energy"' in message
    assert "a vision transformer such as" in message
    made(TinyConvNet(5), labels={"name": "transmix", "source": "energy"})


def test_energy_without_stages_is_refused():
    model = TinyConvNet(5)
    del model.feature_info
    with pytest.raises(ConfigError, match="needs stages of the backbone"):
        made(model, labels={"name": "transmix", "source": "energy"})


@pytest.mark.parametrize("options", [{"r": 1.5}, {"downsample": "bilinear"}, {"source": "rollout"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        TransMix(**options)


def test_nan_attention_does_not_hide():
    """A diverged network shows in the loss; it is not papered over by weights that look right."""
    weights = weights_of(pair_with(shared_box(1, 8, 8, (0, 4, 0, 4))), torch.full((1, 2, 2), math.nan))
    assert weights.isnan().all()


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
    assert names["model"].get_classifier().weight.grad.abs().sum() > 0
