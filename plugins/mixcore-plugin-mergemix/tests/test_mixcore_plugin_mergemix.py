"""MergeMix: the shipped contract for mixer and saliency, then the examples and invariants of its specification."""

from __future__ import annotations

import math
from pathlib import Path

import attrs
import pytest
import timm
import torch
from mixcore_plugin_mergemix import (
    MergedAttention,
    MergeMix,
    Tokens,
    drawn_weights,
    keep_salient,
    merge_map,
    merge_schedule,
    merged_attention,
    mergemix,
    pass_block,
)

from mixcore.api import Batch, ConfigError
from mixcore.mixers import create_mixer, create_step
from mixcore.testing import MixerContract, SaliencyContract, TinyConvNet, Tripwire, make_step, run_example, tiny_vit


class TestContract(MixerContract):
    plugin = "mergemix"


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "mergemix"
    device = "cuda"
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractOfOneForward(MixerContract):
    plugin = "mergemix"
    options = {"switch_off": 0.5, "lam_scale": "gaussian", "mask_leaked": True, "lam_margin": 0.1}
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractOfAnotherSaliency(MixerContract):
    plugin = "mergemix"
    options = {"saliency": "fine_grained", "patch": 8}
    left_out = ("two_processes",)


class TestSaliencyContract(SaliencyContract):
    plugin = "merged_attention"


@pytest.mark.slow
class TestSaliencyContractOfColumns(SaliencyContract):
    plugin = "merged_attention"
    options = {"direction": "patches_to_class", "merge_num": 147, "layer": 1}


# --- merging ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("depth", "total", "schedule"),
    [
        (12, 49, (12, 5, 5, 4, 4, 4, 3, 3, 3, 2, 2, 2)),
        (12, 98, (8, 12, 11, 10, 10, 9, 8, 7, 7, 6, 5, 5)),
        (12, 147, (15, 17, 16, 15, 14, 13, 12, 11, 10, 9, 8, 7)),
        (12, 0, (0,) * 12),
        (1, 7, (7,)),
    ],
)
def test_schedules(depth, total, schedule):
    assert merge_schedule(depth, total) == schedule


@pytest.mark.parametrize("depth", [1, 2, 4, 8, 12, 24])
def test_a_schedule_merges_what_is_asked_and_never_less_than_nothing(depth):
    for total in range(196):
        schedule = merge_schedule(depth, total)
        assert sum(schedule) == total
        assert min(schedule) >= 0


METRIC = torch.tensor([[[1, 0], [1, 1], [1, 0.9], [0, 1], [0.1, 1]]])
VALUES = torch.arange(5.0).view(1, 5, 1)


@pytest.mark.parametrize(
    ("count", "places", "values", "sizes"),
    [
        (1, [0, 2, 2, 3, 1], [0, 4, 1.5, 3], [1, 1, 2, 1]),
        (2, [0, 1, 1, 2, 2], [0, 1.5, 3.5], [1, 2, 2]),
        (9, [0, 1, 1, 2, 2], [0, 1.5, 3.5], [1, 2, 2]),
        (0, [0, 1, 2, 3, 4], [0, 1, 2, 3, 4], [1, 1, 1, 1, 1]),
    ],
)
def test_the_example_of_the_specification(count, places, values, sizes):
    merged = Tokens.whole(VALUES).merged(METRIC, count)
    assert merged.places[0].tolist() == places
    assert merged.values[0, :, 0].tolist() == values
    assert merged.sizes[0, :, 0].tolist() == sizes
    if count == 2:
        recovered = merged.spread(torch.tensor([[0.5, 0.3, 0.2]]))[0, 1:]
        assert recovered.tolist() == pytest.approx([0.3, 0.3, 0.2, 0.2])
        kept = keep_salient(recovered.view(1, 2, 2), math.floor(0.5 * 4))
        assert kept.flatten().tolist() == [True, True, False, False]


@pytest.mark.parametrize("tokens", [17, 18])
def test_merging_keeps_sums_and_the_class_token(tokens):
    rng = torch.Generator().manual_seed(0)
    values = torch.randn(3, tokens, 8, generator=rng)
    merged, counts = Tokens.whole(values), (4, 3, 2, 9)
    for count in counts:
        before = merged
        possible = min(count, (before.values.shape[1] - 1) // 2)
        merged = before.merged(torch.randn(*before.values.shape[:2], 5, generator=rng), count)
        assert merged.values.shape[1] == before.values.shape[1] - possible
        torch.testing.assert_close((merged.values * merged.sizes).sum(1), values.sum(1))
        assert (merged.sizes.sum(1) == tokens).all()
        assert torch.equal(merged.values[:, 0], values[:, 0])
        assert (merged.sizes[:, 0] == 1).all()
        assert (merged.places[:, 0] == 0).all()
        for row in merged.places:
            assert set(row.tolist()) == set(range(merged.values.shape[1]))
    for image in range(3):
        for token in range(merged.values.shape[1]):
            parts = values[image, merged.places[image] == token]
            assert len(parts) == merged.sizes[image, token]
            torch.testing.assert_close(merged.values[image, token], parts.mean(0))
    spread = merged.spread(merged.values)
    assert torch.equal(spread[0, 5], merged.values[0, merged.places[0, 5]])


def test_what_is_merged_is_what_is_most_alike():
    """One pair after another, as the rule says it in words."""
    metric = torch.randn(2, 11, 4, generator=torch.Generator().manual_seed(3))
    for image in range(2):
        found = merge_map(metric, 3)[image].tolist()
        alike = torch.nn.functional.normalize(metric[image], dim=1)
        alike = alike @ alike.T
        best = {a: max(range(1, 11, 2), key=lambda b, a=a: alike[a, b].item()) for a in range(2, 11, 2)}
        gone = sorted(best, key=lambda a: -alike[a, best[a]].item())[:3]
        stay = [token for token in range(0, 11, 2) if token not in gone]
        expected = {token: place for place, token in enumerate(stay)}
        expected |= {token: len(stay) + place for place, token in enumerate(range(1, 11, 2))}
        expected |= {token: expected[best[token]] for token in gone}
        assert found == [expected[token] for token in range(11)]


# --- the pass --------------------------------------------------------------------------------------------------------

SIZE = (16, 24)


def vit(depth=3, **options):
    torch.manual_seed(0)
    settings = {"img_size": SIZE, "patch_size": 4, "embed_dim": 16, "depth": depth, "num_heads": 2, "num_classes": 5}
    model = timm.create_model("vit_tiny_patch16_224", **{**settings, **options})
    for name, parameter in model.named_parameters():
        if name.endswith("qkv.weight"):
            torch.nn.init.normal_(parameter, std=0.5)
    return model.eval()


def batch(count=6, size=SIZE):
    rng = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, *size, generator=rng), torch.arange(count) % 5


def matrices(model, images):
    """What softmax gives in each block of the network as it is, mean over heads."""
    kept, handles = [], []
    for block in model.blocks:
        block.attn.fused_attn = False
        hook = block.attn.attn_drop.register_forward_pre_hook(lambda _, given: kept.append(given[0].mean(1)))
        handles.append(hook)
    model(images)
    for handle in handles:
        handle.remove()
    return kept


@torch.no_grad()
def test_without_merging_it_is_the_plain_attention():
    model, (images, _) = vit(qk_norm=True), batch()
    expected = matrices(model, images)
    for layer in range(3):
        found = merged_attention(model, images, 0, layer)
        torch.testing.assert_close(found, expected[layer][:, 0, 1:])
        column = merged_attention(model, images, 0, layer, "patches_to_class")
        torch.testing.assert_close(column, expected[layer][:, 1:, 0])
    tokens = Tokens.whole(model.pos_drop(model._pos_embed(model.patch_embed(images))))
    for block in model.blocks:
        tokens = pass_block(block, tokens, 0)
    torch.testing.assert_close(model.norm(tokens.values), model.forward_features(images))


@torch.no_grad()
def test_merged_patches_have_one_value_of_the_map_at_that_block():
    """By hand: two blocks, and the attention of the third on the tokens that it is given."""
    model, (images, _) = vit(), batch()
    found = merged_attention(model, images, 98, 2)
    assert merge_schedule(3, 12) == (6, 4, 2)
    tokens = Tokens.whole(model._pos_embed(model.patch_embed(images)))
    for number, count in enumerate((6, 4)):
        block, values = model.blocks[number], tokens.values
        normed = block.norm1(values)
        keys = block.attn.qkv(normed).unflatten(2, (3, 2, 8))[:, :, 1].mean(2)
        tokens = attrs.evolve(tokens, values=values + block.attn(normed)).merged(keys, count)
        values = tokens.values + block.mlp(block.norm2(tokens.values))
        tokens = attrs.evolve(tokens, values=values)
    assert tokens.values.shape[1] == 25 - 10
    block = model.blocks[2]
    queries, keys, _ = block.attn.qkv(block.norm1(tokens.values)).unflatten(2, (3, 2, 8)).permute(2, 0, 3, 1, 4)
    row = (queries[:, :, :1] @ keys.transpose(2, 3) / 8**0.5).softmax(-1).mean(1)[:, 0]
    torch.testing.assert_close(found, row.gather(1, tokens.places[:, 1:]))
    for image in range(6):
        clusters = tokens.places[image, 1:]
        for token in clusters.unique():
            assert found[image][clusters == token].unique().numel() == 1


def made(model=None, mix="mergemix", labels="weights", **rest):
    model = vit() if model is None else model
    return create_step(model, mix=mix, labels=labels, num_classes=5, iterations=50, image_size=SIZE, seed=3, **rest)


def test_looking_leaves_nothing_behind():
    model = vit(drop_path_rate=0.5, proj_drop_rate=0.3).train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    step = made(model)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        before = torch.get_rng_state()
        first, _ = mixed(step)
        assert torch.equal(torch.get_rng_state(), before)
    assert torch.equal(first.masks, mixed(step)[0].masks), "drop path has no say"
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def mixed(step, iteration=1):
    images, labels = batch()
    return step.mix_batch(Batch(images=images, labels=labels), mixer=0, iteration=iteration)


# --- masks and weights -----------------------------------------------------------------------------------------------


def test_exactly_so_many_patches_are_kept_whatever_ties_there_are():
    for saliency in (torch.rand(4, 3, 5), torch.ones(4, 3, 5)):
        for count in range(16):
            kept = keep_salient(saliency, count)
            assert kept.shape == (4, 1, 3, 5)
            assert (kept.sum((1, 2, 3)) == count).all()
    saliency = torch.rand(4, 3, 5)
    least_kept = saliency[:, None].masked_fill(~keep_salient(saliency, 6), math.inf).amin((1, 2, 3))
    most_lost = saliency[:, None].masked_fill(keep_salient(saliency, 6), -math.inf).amax((1, 2, 3))
    assert (least_kept > most_lost).all()


@pytest.mark.parametrize("size", [(16, 24), (17, 25)])
def test_pixels_are_selected_by_patches(size):
    images = batch(size=size)[0]
    partner = torch.tensor([3, 1, 0, 5, 4, 2])
    own = torch.rand(6, 1, 4, 6, generator=torch.Generator().manual_seed(0)) > 0.4
    mix = mergemix(images, partner, own)
    wide = own.repeat_interleave(4, 2).repeat_interleave(4, 3)
    if size == SIZE:
        assert mix.masks.shape[-2:] == (4, 6)
        assert torch.equal(mix.images, torch.where(wide, images, images[partner]))
        torch.testing.assert_close(mix.lam, own.float().mean((1, 2, 3)), rtol=0, atol=0)
    assert torch.equal(mix.lam, mix.masks.mean((1, 2, 3)))
    shown = torch.where(mix.masks_on(*size)[:, :1] == 1, images, images[partner])
    assert torch.equal(mix.images, shown)


def test_drawn_weights_reach_both_ends_and_mind_the_shares_alone():
    normals = torch.tensor([0.0, -1.0, 2.0, 0.5], dtype=torch.float64)
    found = drawn_weights(normals, 0.5)
    assert found.tolist() == pytest.approx([1 / 3, 0, 1, 0.5], abs=1e-4)
    torch.testing.assert_close(drawn_weights(normals + 7, 0.5), found)
    assert drawn_weights(normals, 0.0).tolist() == [0, 0, 0, 0]
    assert drawn_weights(normals[:1], 0.5).tolist() == [0]


class Looked:
    """A probe that gives saliency as asked."""

    def __init__(self, saliency):
        self.model, self._saliency = vit(), saliency

    def saliency(self, option, images, labels):
        return self._saliency


def generated(count, saliency=None, size=SIZE, **options):
    images, labels = batch(size=size)
    saliency = torch.rand(6, 4, 6, generator=torch.Generator().manual_seed(4)) if saliency is None else saliency
    plugin, probe = MergeMix(**options), Looked(saliency)
    return images, [
        plugin.generate_mix(
            images=images,
            labels=labels,
            probe=probe,
            step=attrs.evolve(make_step(iteration=number), seed=number),
            rng=torch.Generator().manual_seed(number),
        )
        for number in range(count)
    ]


def test_batches_and_the_view_beside_them():
    saliency = torch.rand(6, 4, 6, generator=torch.Generator().manual_seed(4))
    images, mixes = generated(30, saliency)
    lams, partners, ratios = set(), set(), set()
    for mix in mixes:
        (view,) = mix.views
        assert view.masks.shape[-2:] == (1, 1)
        torch.testing.assert_close(view.images, torch.lerp(images[view.partner], images, view.lam[:, None, None, None]))
        kept = round(mix.lam[0].item() * 24)
        assert mix.lam.tolist() == pytest.approx([kept / 24] * 6, abs=1e-7)
        assert torch.equal(mix.mask == 1, keep_salient(saliency, kept))
        assert not torch.equal(mix.partner, view.partner) or not torch.equal(mix.lam, view.lam)
        lams.add(kept)
        partners.add(tuple(mix.partner.tolist()))
        ratios.add(view.lam[0].item())
    assert len(lams) > 8
    assert len(partners) > 25
    assert len(ratios) == 30


def test_less_than_a_patch_is_nothing():
    _, mixes = generated(80, alpha=0.3)
    images, _ = batch()
    nothing = [mix for mix in mixes if mix.lam[0] == 0]
    assert 8 < len(nothing) < 40
    assert all(torch.equal(mix.images, images[mix.partner]) for mix in nothing)
    assert max(mix.lam[0].item() for mix in mixes) == pytest.approx(23 / 24), "all patches of lam = 1 alone"


def test_the_leaked_part_is_the_other_one():
    _, kept = generated(10)
    _, leaked = generated(10, mask_leaked=True)
    for one, other in zip(kept, leaked, strict=True):
        assert torch.equal(one.mask, 1 - other.mask)
        torch.testing.assert_close(one.lam, 1 - other.lam)


def test_weights_drawn_from_a_normal_distribution():
    _, areas = generated(20)
    _, drawn = generated(20, lam_scale="gaussian")
    _, leaked = generated(20, lam_scale="gaussian", mask_leaked=True)
    for area, one, other in zip(areas, drawn, leaked, strict=True):
        assert torch.equal(area.images, one.images)
        assert one.lam.min() == 0
        if area.lam[0] > 0:
            assert one.lam.max() > 0.99
            assert one.lam.unique().numel() > 4
        torch.testing.assert_close(other.lam, 1 - one.lam)


def test_near_the_ends_a_batch_is_mixup():
    _, mixes = generated(60, lam_margin=0.2)
    assert any(mix.masks.shape[-2:] == (1, 1) for mix in mixes)
    assert any(mix.masks.shape[-2:] == (4, 6) for mix in mixes)
    for mix in mixes:
        lam = mix.lam[0].item()
        # whole patches are fewer than lam says by less than one
        assert min(lam, 1 - lam) <= 0.2 if mix.masks.shape[-1] == 1 else 0.2 - 1 / 24 < lam < 0.8
        assert len(mix.views) == 1


def test_one_forward_where_batches_are_switched_off():
    _, mixes = generated(200, switch_off=0.3)
    mixup = sum(mix.masks.shape[-2:] == (1, 1) for mix in mixes)
    assert 35 < mixup < 85
    assert all(not mix.views for mix in mixes)
    assert all(mix.masks.shape[-2:] == (4, 6) for mix in generated(20, switch_off=0.0)[1])
    never = Looked(None)
    never.saliency = lambda *_: pytest.fail("no pass where Mixup was drawn")
    images, labels = batch()
    MergeMix(switch_off=1.0).generate_mix(
        images=images, labels=labels, probe=never, step=make_step(), rng=torch.Generator()
    )


def test_all_processes_and_groups_run_the_same_forwards():
    images, labels = batch()
    plugin, probe = MergeMix(switch_off=0.5), Looked(torch.rand(6, 4, 6))
    for number in range(10):
        kinds = {
            plugin.generate_mix(
                images=images,
                labels=labels,
                probe=probe,
                step=attrs.evolve(make_step(iteration=number), group=group),
                rng=torch.Generator().manual_seed(group),
            ).masks.shape
            for group in range(6)
        }
        assert len(kinds) == 1


def test_ratios_by_their_options():
    for option in ("alpha", "mixup_alpha"):
        peaked, spread = (
            torch.stack(
                [(mix if option == "alpha" else mix.views[0]).lam[0] for mix in generated(60, **{option: a})[1]]
            )
            for a in (50.0, 0.5)
        )
        assert peaked.std() < spread.std() / 3


def test_saliency_of_another_grid_is_averaged_on_the_patches():
    fine = torch.rand(6, 16, 24, generator=torch.Generator().manual_seed(1))
    coarse = fine.unflatten(2, (-1, 4)).unflatten(1, (-1, 4)).mean((2, 4))
    for one, other in zip(generated(5, fine)[1], generated(5, coarse)[1], strict=True):
        assert torch.equal(one.mask, other.mask)
    assert generated(1, fine, patch=8)[1][0].masks.shape[-2:] == (2, 3)


# --- whole steps -----------------------------------------------------------------------------------------------------


def test_masks_follow_the_merged_attention_of_the_network():
    model, (images, labels) = vit(), batch()
    with torch.no_grad():
        saliency = merged_attention(model, images, 98, 2).unflatten(1, (4, 6))
    step = made(model)
    for iteration in range(1, 4):
        _, report = step(images, labels, iteration=iteration)
        kept = round(report.mix.lam[0].item() * 24)
        assert torch.equal(report.mix.mask == 1, keep_salient(saliency, kept))


def test_both_losses_are_added():
    model, (images, labels) = vit(), batch()
    step = made(model).eval()
    loss, report = step(images, labels, iteration=1)
    parts = []
    for view in (*report.mix.views, report.mix):
        rows = model(view.images).log_softmax(1)
        own, theirs = (-rows.gather(1, labels[of][:, None])[:, 0] for of in view.sources.T)
        parts.append((view.lam * own + (1 - view.lam) * theirs).mean())
    torch.testing.assert_close(loss, sum(parts))
    torch.testing.assert_close(report.losses["mix"], parts[1])
    loss.backward()
    assert model.get_classifier().weight.grad.abs().sum() > 0


def test_rows_of_the_batch_in_another_order_have_their_masks_in_that_order():
    model, (images, _) = vit(), batch()
    order = torch.tensor([4, 0, 5, 2, 1, 3])
    with torch.no_grad():
        found, moved = (merged_attention(model, given, 98, 2) for given in (images, images[order]))
    torch.testing.assert_close(moved, found[order])


def test_a_batch_of_one_image_stays_as_it_is():
    model, (images, labels) = vit(), batch()
    same = images[:1].expand(6, -1, -1, -1)
    _, report = made(model)(same, labels, iteration=1)
    torch.testing.assert_close(report.mix.images, same)
    assert (report.mix.mask == report.mix.mask[0]).all()


@pytest.mark.parametrize("labels", ["weights", "area", "transmix"])
@pytest.mark.parametrize("saliency", ["merged_attention", "attention", "fine_grained", "uniform"])
def test_any_saliency_with_any_labels_and_nothing_read_on_the_host(labels, saliency):
    if labels == "transmix":
        pytest.importorskip("mixcore_plugin_transmix", reason="mixcore-plugin-transmix is not installed")
    step = made(tiny_vit(5, SIZE), mix={"name": "mergemix", "saliency": saliency}, labels=labels, loss="bce")
    images, classes = batch()
    loss, report = step(images.as_subclass(Tripwire), classes.as_subclass(Tripwire), iteration=1)
    loss.backward()
    assert torch.Tensor(report.mix.masks.as_subclass(torch.Tensor)).shape[-2:] == (4, 6)


def test_the_saliency_serves_another_mixer():
    pytest.importorskip("mixcore_plugin_puzzlemix", reason="mixcore-plugin-puzzlemix is not installed")
    mix = {"name": "puzzlemix", "saliency": {"name": "merged_attention", "merge_num": 49}, "max_log2_blocks": 2}
    step = create_step(vit(img_size=16), mix=mix, num_classes=5, iterations=50, image_size=(16, 16))
    loss, _ = step(*batch(size=(16, 16)), iteration=1)
    loss.backward()


def test_ratios_are_shown():
    step, (images, labels) = made(), batch()
    (shown,) = step.previews(Batch(images=images, labels=labels), [0.25, 0.75]).values()
    assert [mix.lam[0].item() for mix in shown] == [0.25, 0.75]
    assert (shown[0].mask <= shown[1].mask).all(), "what is kept of a little is kept of more"


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_network_without_attention_is_refused_and_takes_another_saliency():
    with pytest.raises(ConfigError, match=r"merged_attention .*needs attention of the backbone"):
        made(TinyConvNet(5))
    loss, report = made(TinyConvNet(5), mix={"name": "mergemix", "saliency": "feature"})(*batch(), iteration=1)
    loss.backward()
    assert 0 < report.mix.lam[0] < 1


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("deit_tiny_distilled_patch16_224", {}, "VisionTransformerDistilled with 2 tokens before its patches"),
        ("vit_tiny_patch16_224", {"class_token": False, "global_pool": "avg"}, "with 0 tokens before its patches"),
        ("vit_tiny_patch16_224", {"reg_tokens": 2}, "with 3 tokens before its patches"),
    ],
)
def test_networks_of_other_tokens_are_refused(name, options, message):
    settings = {"img_size": SIZE, "patch_size": 4, "embed_dim": 16, "depth": 1, "num_heads": 2, "num_classes": 5}
    with pytest.raises(ConfigError, match=message):
        made(timm.create_model(name, **{**settings, **options}))


def test_swin_and_a_block_that_is_not_there_are_refused():
    settings = {"img_size": SIZE, "patch_size": 2, "window_size": 2, "embed_dim": 12, "depths": (1,), "num_heads": (1,)}
    swin = timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, **settings)
    with pytest.raises(ConfigError, match="this is a SwinTransformer; use such"):
        made(swin)
    with pytest.raises(ConfigError, match=r"layer = 3, and VisionTransformer has blocks 0 to 2"):
        made(mix={"name": "mergemix", "saliency": {"name": "merged_attention", "layer": 3}})


def test_a_mixer_alone_is_refused_in_dual_mode_and_serves_in_single():
    images, labels = batch()
    with pytest.raises(ConfigError, match="create_step"):
        create_mixer("mergemix", num_classes=5, model=vit())(images, labels)
    mix = create_mixer("mergemix", num_classes=5, model=vit(), switch_off=0.0)(images, labels)
    assert mix.targets(labels).dense(5).sum(1).tolist() == pytest.approx([1.0] * 6)


@pytest.mark.parametrize(
    "options",
    [
        {"alpha": 0.0},
        {"mixup_alpha": math.inf},
        {"lam_scale": "normal"},
        {"lam_margin": 0.6},
        {"switch_off": 1.5},
        {"patch": 0},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MergeMix(**options)


@pytest.mark.parametrize("options", [{"merge_num": 196}, {"merge_num": -1}, {"layer": -1}, {"direction": "both"}])
def test_options_of_the_saliency_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MergedAttention(**options)


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
    assert names["model"].get_classifier().weight.grad.abs().sum() > 0
