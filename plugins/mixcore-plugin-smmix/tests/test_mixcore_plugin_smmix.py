"""SMMix: the shipped contract, then the examples and invariants of its specification."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import timm
import torch
from mixcore_plugin_smmix import SMMix, consistency, paste_moved, places, region_means, region_scores, side_range, smmix
from torch.nn import functional as F

from mixcore.api import Batch, ConfigError, MixcoreError, attention_of
from mixcore.mixers import create_mixer, create_step
from mixcore.testing import MixerContract, TinyConvNet, Tripwire, run_example, tiny_vit


class TestContract(MixerContract):
    plugin = "smmix"


@pytest.mark.slow
class TestContractEnergy(MixerContract):
    plugin = "smmix"
    options = {"attn": "energy", "switch_prob": 1.0}
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractSeparateHead(MixerContract):
    """With a part that idles in Mixup batches, on two processes too."""

    plugin = "smmix"
    options = {"token_head": "separate"}


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "smmix"
    device = "cuda"
    left_out = ("two_processes",)


# --- squares ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("tokens", "sides"), [(14, (3, 10)), (7, (1, 5)), (3, (1, 2)), (2, (1, 1))])
def test_sides_of_a_square(tokens, sides):
    assert side_range(tokens, 0.25, 0.75) == sides


def test_a_grid_without_room_is_refused():
    with pytest.raises(ConfigError, match=r"leave no square in a grid of 1 tokens"):
        side_range(1, 0.25, 0.75)
    with pytest.raises(ConfigError, match=r"raise max_ratio"):
        side_range(3, 0.1, 0.3)


EXAMPLE = torch.stack((torch.arange(1.0, 10).view(3, 3), torch.arange(9.0, 0, -1).view(3, 3)))


def test_the_first_example():
    scores = region_scores(EXAMPLE, 2)
    assert scores[0].flatten().tolist() == pytest.approx([12, 16, 24, 28])
    assert scores[1].flatten().tolist() == pytest.approx([28, 24, 16, 12])
    to, source = places(EXAMPLE, torch.tensor([1, 0]), 2)
    assert (to[:, 0] * 2 + to[:, 1]).tolist() == [0, 3]
    assert (source[:, 0] * 2 + source[:, 1]).tolist() == [0, 3]
    mix = smmix(torch.randn(2, 3, 9, 9), torch.tensor([1, 0]), EXAMPLE, 2)
    assert mix.lam.tolist() == pytest.approx([5 / 9, 5 / 9])


@pytest.mark.parametrize(("grid", "side"), [((7, 7), 3), ((4, 6), 2), ((5, 5), 1), ((6, 4), 3)])
def test_places_are_extremes_and_the_first_of_equals(grid, side):
    attention = torch.rand(5, *grid, generator=torch.Generator().manual_seed(0))
    partner = torch.arange(5).flip(0)
    to, source = places(attention, partner, side)

    def score(image, corner):
        top, left = corner.tolist()
        return image[top : top + side, left : left + side].sum().item()

    for row in range(5):
        every = [
            [score(attention[image], torch.tensor([top, left])) for top in range(grid[0] - side + 1)
             for left in range(grid[1] - side + 1)]
            for image in (row, int(partner[row]))
        ]  # fmt: skip
        assert score(attention[row], to[row]) == pytest.approx(min(every[0]))
        assert score(attention[partner[row]], source[row]) == pytest.approx(max(every[1]))
    even = places(torch.ones(5, *grid), partner, side)
    assert all(corner.tolist() == [[0, 0]] * 5 for corner in even)


def by_hand(images, partner, to, source, size):
    """One copy after another, from clean images."""
    mixed, masks = images.clone(), torch.ones(len(images), 1, *images.shape[-2:])
    for row, other in enumerate(partner.tolist()):
        (top, left), (from_top, from_left) = to[row].tolist(), source[row].tolist()
        square = images[other, :, from_top : from_top + size[0], from_left : from_left + size[1]]
        mixed[row, :, top : top + size[0], left : left + size[1]] = square
        masks[row, :, top : top + size[0], left : left + size[1]] = 0
    return mixed, masks


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_square_is_pasted_elsewhere(layout, overwrite):
    images = torch.randn(6, 3, 20, 12, generator=torch.Generator().manual_seed(0)).to(memory_format=layout)
    images[1, 0, 3, 3] = torch.nan
    partner = torch.tensor([1, 0, 2, 5, 3, 4])
    rng = torch.Generator().manual_seed(1)
    corners = [torch.stack((torch.randint(13, (6,), generator=rng), torch.randint(8, (6,), generator=rng)), 1)] * 2
    corners[1] = corners[0].flip(0)
    expected, _ = by_hand(images, partner, *corners, (8, 5))
    kept = images.clone()
    mixed = paste_moved(images, partner, *corners, (8, 5), overwrite)
    torch.testing.assert_close(mixed, expected, rtol=0, atol=0, equal_nan=True)
    assert mixed.is_contiguous(memory_format=layout)
    assert (mixed is images) is overwrite
    if not overwrite:
        torch.testing.assert_close(images, kept, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize(
    ("size", "grid", "side"), [((28, 28), (7, 7), 3), ((16, 24), (4, 6), 3), ((17, 26), (4, 6), 2)]
)
def test_mask_and_label_weight_are_the_square_s(size, grid, side):
    images = torch.randn(6, 3, *size, generator=torch.Generator().manual_seed(0))
    attention = torch.rand(6, *grid, generator=torch.Generator().manual_seed(1))
    partner = torch.arange(6).flip(0)
    mix = smmix(images, partner, attention, side)
    token = torch.tensor([size[0] // grid[0], size[1] // grid[1]])
    to, source = places(attention, partner, side)
    expected, masks = by_hand(images, partner, to * token, source * token, (side * token).tolist())
    assert torch.equal(mix.images, expected)
    assert torch.equal(mix.masks_on(*size)[:, :1], masks)
    torch.testing.assert_close(mix.lam, masks.mean((1, 2, 3)))
    tokens = mix.notes["smmix_own_tokens"].view(6, *grid)
    assert (grid[0] * grid[1] - tokens.sum((1, 2))).tolist() == [side**2] * 6
    if size[0] % grid[0] == 0:
        assert mix.masks.shape == (6, 1, *grid)
        assert mix.lam.tolist() == pytest.approx([1 - side**2 / (grid[0] * grid[1])] * 6)
        assert torch.equal(mix.masks[:, 0], tokens)


# --- losses ----------------------------------------------------------------------------------------------------------


def test_the_second_example():
    own, partner, lam = torch.tensor([[2.0, 0, 0]]), torch.tensor([[0.0, 1, 0]]), 5 / 9
    clean = lam * own + (1 - lam) * partner
    assert clean[0].tolist() == pytest.approx([1.1111, 0.4444, 0], abs=1e-4)
    assert clean.softmax(1)[0].tolist() == pytest.approx([0.5427, 0.2786, 0.1787], abs=1e-4)
    assert consistency(torch.tensor([[1.0, 1, 0]]), clean).item() == pytest.approx(0.0452, abs=1e-4)


def test_the_same_prediction_is_consistent():
    rng = torch.Generator().manual_seed(0)
    clean, logits = torch.randn(4, 7, generator=rng), torch.randn(4, 7, generator=rng)
    assert consistency(clean + torch.randn(4, 1, generator=rng), clean).item() == pytest.approx(0, abs=1e-6)
    assert consistency(logits, clean) > 0
    rows = torch.stack([consistency(logits[i : i + 1], clean[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(consistency(logits, clean), rows.mean())
    p, q = clean.softmax(1), logits.softmax(1)
    torch.testing.assert_close(consistency(logits, clean), (p * (p / q).log()).sum(1).mean())


def test_each_region_s_tokens_are_averaged():
    tokens = torch.randn(2, 6, 4, generator=torch.Generator().manual_seed(0))
    own = torch.tensor([[1.0, 0, 0, 1, 1, 1], [0.0, 1, 1, 1, 1, 1]])
    means = region_means(tokens, own)
    torch.testing.assert_close(means[0, 0], tokens[0, [0, 3, 4, 5]].mean(0))
    torch.testing.assert_close(means[0, 1], tokens[0, [1, 2]].mean(0))
    torch.testing.assert_close(means[1, 1], tokens[1, 0])
    with pytest.raises(MixcoreError, match="squares on 6 positions, and the network puts out 5"):
        region_means(tokens[:, 1:], own)


# --- whole steps -----------------------------------------------------------------------------------------------------


def batch(count=6, size=(16, 24)):
    return torch.randn(count, 3, *size, generator=torch.Generator().manual_seed(2)), torch.arange(count) % 5


def looking_vit(size=(16, 24)):
    """Its attention is not nearly even, as it is of a new network."""
    model = tiny_vit(5, size)
    torch.nn.init.normal_(model.blocks[-1].attn.qkv.weight)
    return model


def step_of(model=None, size=(16, 24), switch_prob=1.0, group_size=None, label_kind="class", **options):
    model = looking_vit(size) if model is None else model
    mix = {"name": "smmix", "switch_prob": switch_prob, **({"group_size": group_size} if group_size else {})}
    loss = {"name": "soft_cross_entropy", "smoothing": 0.1}
    told = {"num_classes": 5, "iterations": 50, "image_size": size, "label_kind": label_kind}
    return create_step(model, mix={**mix, **options}, loss=loss, seed=3, **told)


def smoothed(labels):
    return 0.9 * F.one_hot(labels, 5) + 0.02


def soft_ce(logits, target):
    return -(target * logits.log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize("token_head", ["shared", "separate"])
def test_the_three_losses(token_head):
    torch.manual_seed(0)
    images, labels = batch()
    step = step_of(token_head=token_head)
    model = step.model
    with torch.no_grad():
        model.eval()
        clean = step._setup.network.forward(images, attention=True)
        model.train()
    loss, report = step(images, labels, iteration=1)
    attention = attention_of(clean, 16, 24, received=True)
    matrix = clean.attention[-1]
    scores = (matrix.queries @ matrix.keys.transpose(2, 3) * matrix.scale).softmax(-1)
    torch.testing.assert_close(attention.flatten(1), scores.mean(1)[:, 1:, 1:].mean(1))
    partner, lam = report.mix.partner, report.mix.lam[0].item()
    side = round(math.sqrt((1 - lam) * 24))
    assert side in range(1, 4)
    assert partner.tolist() == [5, 4, 3, 2, 1, 0]
    expected = smmix(images, partner, attention, side)
    assert torch.equal(report.mix.images, expected.images)

    features = model.forward_features(expected.images)
    logits = model.forward_head(features)
    own = expected.masks.flatten(1)[:, :, None]
    means = [(mask * features[:, 1:]).sum(1) / mask.sum(1) for mask in (own, 1 - own)]
    head = model.head if token_head == "shared" else step.parts["smmix"]["token_head"]
    fine = 0.5 * sum(soft_ce(head(f), smoothed(y)) for f, y in zip(means, (labels, labels[partner]), strict=True))
    blended = (lam * clean.logits + (1 - lam) * clean.logits[partner]).softmax(1)
    divergence = (blended * (blended.log() - logits.log_softmax(1))).sum(1).mean()
    target = lam * smoothed(labels) + (1 - lam) * smoothed(labels[partner])
    torch.testing.assert_close(report.losses["smmix/fine"], fine)
    torch.testing.assert_close(report.losses["smmix/consistency"], divergence, rtol=1e-3, atol=1e-6)
    torch.testing.assert_close(report.losses["mix"], soft_ce(logits, target))
    torch.testing.assert_close(loss, soft_ce(logits, target) + fine + divergence)
    loss.backward()
    assert head.weight.grad.abs().sum() > 0


def test_weights_of_the_losses():
    images, labels = batch()
    model = looking_vit()
    both = step_of(model)(images, labels, iteration=1)[1].losses
    halved = step_of(model, w_fine=0.5, w_con=2.0)(images, labels, iteration=1)[1].losses
    torch.testing.assert_close(halved["smmix/fine"], 0.5 * both["smmix/fine"])
    torch.testing.assert_close(halved["smmix/consistency"], 2 * both["smmix/consistency"])
    alone = step_of(model, w_fine=0.0, w_con=0.0, token_head="separate")
    assert set(alone(images, labels, iteration=1)[1].losses) == {"mix"}
    assert not list(alone.parts.parameters())


def test_the_second_classifier_trains_is_saved_and_may_idle():
    step = step_of(token_head="separate", switch_prob=0.5)
    assert step.find_unused_parameters
    assert {group["name"] for group in step.param_groups(lr=0.1)} >= {"smmix.token_head"}
    assert "parts.smmix.token_head.weight" in step.saved_state()
    assert step.parts["smmix"]["token_head"].weight.shape == (5, 16)
    assert not step_of().find_unused_parameters


def test_a_turn_of_mixup_has_no_further_loss():
    images, labels = batch()
    step = step_of(switch_prob=0.5)
    seen = {}
    for iteration in range(24):
        _, report = step(images, labels, iteration=iteration)
        kind = "square" if report.mix.masks.shape[-2:] == (4, 6) else "blend"
        seen.setdefault(kind, []).append(set(report.losses))
    assert 5 < len(seen["square"]) < 19
    assert all(losses == {"mix"} for losses in seen["blend"])
    assert all(losses == {"mix", "smmix/fine", "smmix/consistency"} for losses in seen["square"])


def test_sides_are_drawn_for_the_batch_between_both_ends():
    images, labels = batch(4, (28, 28))
    step = step_of(tiny_vit(5, (28, 28)), (28, 28))
    lams = [step(images, labels, iteration=iteration)[1].mix.lam for iteration in range(40)]
    assert all((lam == lam[0]).all() for lam in lams)
    found = {round(math.sqrt((1 - lam[0].item()) * 49)) for lam in lams}
    assert found == {1, 2, 3, 4, 5}


@pytest.mark.parametrize(("tokens", "mean"), [(14, 0.7577), (7, 0.7755)])
def test_the_mean_label_weight(tokens, mean):
    least, greatest = side_range(tokens, 0.25, 0.75)
    lams = [1 - side**2 / tokens**2 for side in range(least, greatest + 1)]
    assert sum(lams) / len(lams) == pytest.approx(mean, abs=1e-4)


def test_looking_changes_nothing_of_the_network():
    torch.manual_seed(0)
    images, labels = batch()
    model = TinyConvNet(5)
    model.fc.eval()
    statistics = model.stage1[1].running_mean.clone()
    step = step_of(model, attn="energy", w_con=0.0, w_fine=0.0)
    model.fc.eval()
    step.mix_batch(Batch(images=images, labels=labels), mixer=0)
    assert torch.equal(model.stage1[1].running_mean, statistics)
    assert model.stage1.training
    assert not model.fc.training, "each submodule keeps its own mode"


def test_nothing_flows_back_into_the_clean_logits():
    images, labels = batch()
    _, report = step_of()(images, labels, iteration=1)
    assert not report.mix.notes["smmix_clean_logits"].requires_grad


MODELS = {
    "distilled": ("deit_tiny_distilled_patch16_224", {"patch_size": 4, "embed_dim": 16, "depth": 2, "num_heads": 2}),
    "pooled with registers": (
        "vit_tiny_patch16_224",
        {
            "patch_size": 4,
            "embed_dim": 16,
            "depth": 2,
            "num_heads": 2,
            "class_token": False,
            "reg_tokens": 3,
            "global_pool": "avg",
        },
    ),
    "swin": (
        "swin_tiny_patch4_window7_224",
        {"patch_size": 2, "window_size": 2, "embed_dim": 12, "depths": (1, 2), "num_heads": (1, 2)},
    ),
}


@pytest.mark.parametrize("attn", ["received", "cls"])
@pytest.mark.parametrize("name", MODELS)
def test_real_networks(name, attn):
    torch.manual_seed(0)
    kind, options = MODELS[name]
    model = timm.create_model(kind, num_classes=5, img_size=(16, 24), **options)
    images, labels = batch()
    for token_head in ("shared", "separate"):
        loss, report = step_of(model, attn=attn, token_head=token_head)(images, labels, iteration=1)
        assert report.mix.masks.shape[-2:] == (4, 6)
        assert {"smmix/fine", "smmix/consistency"} <= set(report.losses)
        loss.backward()
        assert loss.isfinite()


@pytest.mark.parametrize("name", ["convnext_atto", "pvt_v2_b0"])
def test_real_hierarchical_networks(name):
    torch.manual_seed(0)
    tiny = {"convnext_atto": {"depths": (1, 1, 1, 1)}, "pvt_v2_b0": {"depths": (1, 1, 1, 1)}}[name]
    model = timm.create_model(name, num_classes=5, **tiny)
    images, labels = batch(4, (64, 96))
    attn = "energy" if name == "convnext_atto" else "received"
    loss, report = step_of(model, (64, 96), attn=attn, token_head="separate")(images, labels, iteration=1)
    assert report.mix.masks.shape[-2:] == (2, 3)
    loss.backward()


def test_energy_places_squares_for_networks_without_attention():
    images, labels = batch()
    torch.manual_seed(0)
    model = TinyConvNet(5)
    with pytest.raises(ConfigError) as caught:
        step_of(model)
    assert 'attn = "energy"' in str(caught.value)
    step = step_of(model, attn="energy")
    with torch.no_grad():
        model.eval()
        energy = model.forward_features(images).square().sum(1)
        model.train()
    _, report = step(images, labels, iteration=1)
    side = round(math.sqrt((1 - report.mix.lam[0].item()) * 24))
    assert torch.equal(report.mix.images, smmix(images, report.mix.partner, energy, side).images)


@pytest.mark.parametrize("group_size", [None, 3])
def test_groups_and_nothing_read_on_the_host(group_size):
    step = step_of(group_size=group_size, switch_prob=0.5)
    images, labels = batch()
    for iteration in range(4):
        loss, _ = step(images.as_subclass(Tripwire), labels.as_subclass(Tripwire), iteration=iteration)
        loss.backward()


def test_soft_labels_are_blended_alike():
    images, labels = batch()
    model = looking_vit()
    hard, _ = step_of(model)(images, labels, iteration=1)
    soft, _ = step_of(model, label_kind="soft")(images, F.one_hot(labels, 5).float(), iteration=1)
    torch.testing.assert_close(hard, soft)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [
        {"min_ratio": 0.0},
        {"max_ratio": 1.0},
        {"max_ratio": 0.1},
        {"switch_prob": 0.0},
        {"mixup_alpha": 0.0},
        {"prob": 1.5},
        {"attn": "class"},
        {"token_head": "own"},
        {"w_fine": -1.0},
        {"w_con": math.inf},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SMMix(**options)


def test_a_grid_of_one_token_is_refused_before_the_first_batch():
    with pytest.raises(ConfigError, match="leave no square in a grid of 1 tokens"):
        step_of(tiny_vit(5, (4, 8)), (4, 8))


def test_a_loop_of_mixed_batches_is_shown_the_other_door():
    with pytest.raises(ConfigError, match="create_step"):
        create_mixer("smmix", num_classes=5, model=tiny_vit(5, (16, 24)))


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
    assert names["model"].get_classifier().weight.grad.abs().sum() > 0
