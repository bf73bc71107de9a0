"""TL-Align: the shipped contract for both entry points, then the examples and invariants of its specification."""

from __future__ import annotations

import math
from pathlib import Path

import attrs
import pytest
import timm
import torch
from mixcore_plugin_tla import AlignedLabels, TokenAligned, carry, on_pixels
from timm.layers import set_fused_attn
from torch import Tensor

from mixcore.api import Attention, Box, ConfigError, ForwardOutput, Mix, box_around, box_lam
from mixcore.mixers import create_mixer, create_step
from mixcore.testing import MixerContract, PluginContract, TinyConvNet, Tripwire, make_step, run_example, tiny_vit
from mixcore.testing.fakes import Bands


class TestContract(MixerContract):
    plugin = "tla"


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "tla"
    device = "cuda"
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractOfPatches(MixerContract):
    plugin = "tla"
    options = {"patch": 4, "full_cut": True}
    left_out = ("two_processes",)


class TestLabelsContract(PluginContract):
    role = "labels"
    plugin = "tla_labels"


@pytest.mark.gpu
class TestLabelsContractOnCuda(PluginContract):
    role = "labels"
    plugin = "tla_labels"
    device = "cuda"
    left_out = ("two_processes",)


# --- the recursion ---------------------------------------------------------------------------------------------------


@attrs.frozen(eq=False, kw_only=True)
class Given(Attention):
    """A block whose matrix [N,N] is given."""

    matrix: Tensor

    def apply(self, weights):
        return self.matrix.float() @ weights


def given(matrix, prefix=1):
    tokens = len(matrix)
    nothing = torch.zeros(1, 1, tokens, 1)
    return Given(
        queries=nothing,
        keys=nothing,
        scale=1.0,
        prefix=prefix,
        class_token=prefix > 0,
        matrix=torch.as_tensor(matrix),
    )


FIRST = given([[0.2, 0.3, 0.5], [0.1, 0.6, 0.3], [0.4, 0.4, 0.2]])
SECOND = given(
    [
        [0.2, 0.2, 0.2, 0.2, 0.2],
        [0.1, 0.5, 0.2, 0.1, 0.1],
        [0.1, 0.2, 0.5, 0.1, 0.1],
        [0.2, 0.1, 0.1, 0.5, 0.1],
        [0.4, 0.1, 0.1, 0.1, 0.3],
    ]
)


@pytest.mark.parametrize(
    ("block", "start", "once", "twice"),
    [
        (FIRST, (0.5, 1, 0), (0.45, 0.825, 0.3), (0.46875, 0.7275, 0.435)),
        (
            SECOND,
            (0.75, 1, 1, 1, 0),
            (0.75, 0.9375, 0.9375, 0.925, 0.3),
            (0.76, 0.895625, 0.895625, 0.8775, 0.485),
        ),
    ],
)
def test_the_examples_of_the_specification(block, start, once, twice):
    start = torch.tensor(start)[None, :, None]
    for blocks, expected in (([block], once), ([block] * 2, twice)):
        assert carry(start, blocks, (1, len(once) - 1))[0, :, 0].tolist() == pytest.approx(expected)


def test_attention_to_oneself_leaves_the_weights():
    start = torch.rand(2, 5, 1)
    assert torch.equal(carry(start, [given(torch.eye(5))] * 3, (2, 2)), start)
    assert torch.equal(carry(start, [SECOND], (2, 2), residual=1.0), start)


def random_blocks(count, tokens, prefix=1, class_token=True, seed=0):
    rng = torch.Generator().manual_seed(seed)
    drawn = [[torch.randn(3, 2, tokens, 4, generator=rng) * 2 for _ in "qk"] for _ in range(count)]
    return [Attention(queries, keys, 0.5, prefix, class_token) for queries, keys in drawn]


def matrix_of(block):
    return (block.queries @ block.keys.transpose(2, 3) * block.scale).softmax(-1).mean(1)


def test_rows_over_classes_are_carried_like_one_number():
    """The recursion of the paper, on labels of each token, and ours on the weight of its own image."""
    blocks, classes = random_blocks(4, 10), torch.eye(5)
    own, partner = classes[[0, 3, 2]], classes[[1, 1, 2]]
    start = torch.rand(3, 10, 1)
    labels = start * own[:, None] + (1 - start) * partner[:, None]
    for block in blocks:
        labels = (matrix_of(block) @ labels + labels) / 2
    arrived = carry(start, blocks, (3, 3))
    torch.testing.assert_close(labels, arrived * own[:, None] + (1 - arrived) * partner[:, None])
    assert (arrived >= start.amin(1, keepdim=True)).all()
    assert (arrived <= start.amax(1, keepdim=True)).all()
    torch.testing.assert_close(carry(1 - start, blocks, (3, 3)), 1 - arrived)
    torch.testing.assert_close(carry(torch.full((3, 10, 1), 0.3), blocks, (3, 3)), torch.full((3, 10, 1), 0.3))


# --- the policy ------------------------------------------------------------------------------------------------------


def halves(count=3, side=12, partners=(0, 4, 0, 12)):
    top, bottom, left, right = partners
    mask = torch.ones(count, 1, side, side)
    mask[:, :, top:bottom, left:right] = 0
    return Mix.pair(torch.zeros(count, 3, side, side), torch.arange(count).flip(0), mask.mean((1, 2, 3)), mask)


class Looked:
    """A probe of a network that says how its head reads."""

    def __init__(self, **attributes):
        self.model = torch.nn.Module()
        for name, value in attributes.items():
            setattr(self.model, name, value)


def weights_of(mix, blocks, probe=None, **options):
    output = ForwardOutput(logits=torch.zeros(3, 5), attention=tuple(blocks))
    labels = torch.tensor([0, 1, 2])
    return AlignedLabels(**options).mix_labels(mix=mix, labels=labels, output=output, probe=probe or Looked()).weights


@pytest.mark.parametrize(("prefix", "class_token"), [(1, True), (2, True), (4, True), (4, False), (0, False)])
@pytest.mark.parametrize("depth", [1, 3])
def test_weights_arrive_at_what_the_head_reads(prefix, class_token, depth):
    blocks = random_blocks(depth, prefix + 9, prefix, class_token)
    own = torch.ones(3, 3)
    own[0] = 0
    start = torch.cat((torch.full((prefix,), 2 / 3), own.flatten())).expand(3, -1)
    for block in blocks:
        start = ((matrix_of(block) @ start[..., None])[..., 0] + start) / 2
    expected = start[:, 0] if class_token else start[:, prefix:].mean(1)
    weights = weights_of(halves(), blocks)
    torch.testing.assert_close(weights[:, 0], expected)
    torch.testing.assert_close(weights.sum(1), torch.ones(3))
    swapped = attrs.evolve(halves(), masks=1 - halves().masks)
    torch.testing.assert_close(weights_of(swapped, blocks), weights.flip(1))


def test_a_head_that_averages_reads_patches_though_there_is_a_class_token():
    blocks = random_blocks(2, 10)
    tokens, pooled = (weights_of(halves(), blocks, Looked(global_pool=pool)) for pool in ("token", "avg"))
    assert not torch.allclose(tokens, pooled)


def test_one_block_whose_class_token_sees_patches_alone_is_halfway_to_their_attention():
    """The weight that TransMix gives."""
    row = torch.tensor([0.0, 0.1, 0.2, 0.3, 0.4])
    block = given(torch.cat((row[None], torch.eye(5)[1:])))
    mix = halves(1, 4, (0, 2, 2, 4))
    assert mix.lam.item() == 0.75
    weights = weights_of(mix, [block])[0]
    assert weights.tolist() == pytest.approx([(0.8 + 0.75) / 2, (0.2 + 0.25) / 2])


def test_a_token_that_a_mask_cuts_counts_by_area():
    mix = halves(3, 12, (0, 2, 0, 12))
    still = given(torch.eye(9).tolist(), prefix=0)
    torch.testing.assert_close(weights_of(mix, [still])[:, 0], mix.lam)


@pytest.mark.parametrize("value", [0.0, 1 / 3, 1.0])
def test_a_constant_mask_keeps_its_weight_to_the_bit(value):
    mix = halves()
    lam = torch.full((3,), value)
    for size in (1, 12):
        even = attrs.evolve(mix, masks=lam[:, None, None, None].expand(3, 1, size, size))
        even = attrs.evolve(even, weights=torch.stack((lam, 1 - lam), 1))
        assert torch.equal(weights_of(even, random_blocks(3, 10)), even.weights)
    assert torch.equal(weights_of(Mix.clean(mix.images), random_blocks(3, 10)), torch.ones(3, 1))


# --- real networks ---------------------------------------------------------------------------------------------------

SIZE = (16, 24)


def attentive(model):
    """Queries and keys so large that attention is far from even."""
    for name, parameter in model.named_parameters():
        if name.endswith("qkv.weight"):
            torch.nn.init.normal_(parameter, std=1.0)
    return model


def small(name, **options):
    settings = {"num_classes": 5, "img_size": SIZE, "patch_size": 4, "embed_dim": 16, "depth": 3, "num_heads": 2}
    return attentive(timm.create_model(name, **{**settings, **options}))


VITS = {
    "vit": lambda: small("vit_tiny_patch16_224"),
    "qk_norm": lambda: small("vit_tiny_patch16_224", qk_norm=True),
    "distilled": lambda: small("deit_tiny_distilled_patch16_224"),
    "registers": lambda: small("vit_tiny_patch16_224", reg_tokens=4),
    "pooled": lambda: small("vit_tiny_patch16_224", class_token=False, reg_tokens=2, global_pool="avg"),
}


def swin(size=SIZE):
    sizes = {"patch_size": 2, "window_size": 2, "embed_dim": 12, "depths": (2, 2), "num_heads": (1, 2)}
    return attentive(timm.create_model("swin_tiny_patch4_window7_224", num_classes=5, img_size=size, **sizes))


def batch(count=6, size=SIZE):
    rng = torch.Generator().manual_seed(2)
    return torch.randn(count, 3, *size, generator=rng), torch.arange(count) % 5


def made(model, mix="tla", labels=None, image_size=SIZE, **rest):
    return create_step(
        model, mix=mix, labels=labels, num_classes=5, iterations=50, image_size=image_size, seed=3, **rest
    )


def mixed(step, size=SIZE):
    """The report of the first of its iterations that mixes."""
    images, labels = batch(size=size)
    reports = (step(images, labels, iteration=iteration)[1] for iteration in range(20))
    return next(report for report in reports if 0.1 < report.mix.lam[0] < 0.9)


@pytest.fixture
def unfused():
    set_fused_attn(False)
    yield
    set_fused_attn(True)


@pytest.mark.parametrize("name", VITS)
def test_real_networks_agree_with_their_own_softmax(name, unfused):
    torch.manual_seed(0)
    model = VITS[name]()
    report = mixed(made(model).eval())
    matrices = []
    for module in model.modules():
        if hasattr(module, "attn_drop"):
            module.attn_drop.register_forward_pre_hook(lambda _, given: matrices.append(given[0].detach().mean(1)))
    model.eval()(report.mix.images)
    assert len(matrices) == 3
    prefix = model.num_prefix_tokens
    patches = report.mix.masks_on(4, 6)[:, 0].flatten(1)
    start = torch.cat((report.mix.lam[:, None].expand(-1, prefix), patches), 1)
    for matrix in matrices:
        start = ((matrix @ start[..., None])[..., 0] + start) / 2
    expected = start[:, prefix:].mean(1) if name == "pooled" else start[:, 0]
    torch.testing.assert_close(report.targets.weights[:, 0], expected)
    assert not torch.allclose(expected, report.mix.lam, atol=1e-2)


@pytest.mark.parametrize("size", [(16, 24), (12, 20)])
def test_windows_carry_weights_on_their_grid(size, unfused):
    """Position by position: the window's own matrix, the roll, the merging of 2 x 2."""
    torch.manual_seed(0)
    model = swin(size)
    step = made(model, image_size=size).eval()
    report = mixed(step, size)
    weights, plain = report.targets.weights, report.mix.weights
    torch.testing.assert_close(weights.sum(1), torch.ones(6))
    assert not torch.allclose(weights, plain, atol=1e-3)
    matrices = []
    blocks = [block for layer in model.layers for block in layer.blocks]
    for block in blocks:
        block.attn.softmax.register_forward_hook(lambda _m, _i, out: matrices.append(out.detach().mean(1)))
    model.eval()(report.mix.images)
    maps = report.mix.masks_on(size[0] // 2, size[1] // 2)[:, 0]
    for number, (block, matrix) in enumerate(zip(blocks, matrices, strict=True)):
        if number == 2:
            maps = maps.unflatten(2, (-1, 2)).unflatten(1, (-1, 2)).mean((2, 4))
        rows, columns = maps.shape[1:]
        (wh, ww), shift = block.window_size, block.shift_size
        rolled = maps.roll((-shift[0], -shift[1]), (1, 2))
        # in a grid that windows do not divide, padding has the label weight of the area
        area = report.mix.lam[:, None, None]
        padded = area.expand(-1, rows + -rows % wh, columns + -columns % ww).clone()
        padded[:, :rows, :columns] = rolled
        windows = padded.unflatten(2, (-1, ww)).unflatten(1, (-1, wh)).transpose(2, 3)
        inside = windows.reshape(-1, wh * ww, 1)
        stirred = ((matrix @ inside + inside) / 2).view_as(windows).transpose(2, 3).reshape_as(padded)
        maps = stirred[:, :rows, :columns].roll(shift, (1, 2))
    torch.testing.assert_close(weights[:, 0], maps.mean((1, 2)))


def test_logits_and_loss_are_those_of_the_network():
    torch.manual_seed(0)
    model = VITS["vit"]()
    step = made(model).eval()
    images, labels = batch()
    loss, report = step(images, labels, iteration=1)
    logits = model.eval()(report.mix.images)
    torch.testing.assert_close(loss, -(report.targets.dense(5) * logits.log_softmax(1)).sum(1).mean())
    assert not report.targets.weights.requires_grad
    loss.backward()
    assert model.get_classifier().weight.grad.abs().sum() > 0


def test_a_network_whose_first_blocks_cannot_be_read_is_refused():
    model = timm.create_model(
        "pvt_v2_b0", num_classes=5, depths=(1, 1, 1, 1), embed_dims=(8, 8, 16, 16), num_heads=(1, 1, 2, 2)
    )
    images, labels = batch(size=(64, 96))
    with pytest.raises(ConfigError) as caught:
        made(model, image_size=(64, 96))(images, labels)
    assert "stands on 2x3 tokens, where the network begins with 16x24" in str(caught.value)
    assert '[labels] name = "weights"' in str(caught.value)


def test_a_network_without_attention_is_refused_and_trains_by_area():
    with pytest.raises(ConfigError, match=r"tla_labels .* needs attention of the backbone") as caught:
        made(TinyConvNet(5))
    assert "weights" in str(caught.value)
    report = mixed(made(TinyConvNet(5), labels="weights"))
    assert torch.equal(report.targets.weights, report.mix.weights)


@pytest.mark.parametrize("mix", ["tla", {"name": "cutmix", "per_sample": True, "group_size": 2}, Bands(sources=3)])
@pytest.mark.parametrize("loss", [None, "bce"])
def test_masks_of_any_mixer_with_any_loss_and_nothing_read_on_the_host(mix, loss):
    step = made(tiny_vit(5, SIZE), mix=mix, labels="tla_labels", loss=loss)
    images, labels = batch()
    value, report = step(images.as_subclass(Tripwire), labels.as_subclass(Tripwire), iteration=1)
    value.backward()
    weights = torch.Tensor(report.targets.weights.as_subclass(torch.Tensor))
    torch.testing.assert_close(weights.sum(1), torch.ones(6))
    assert (weights >= 0).all()


def test_a_mixup_batch_in_the_same_run_keeps_its_lam():
    mix = [{"name": "tla", "probability": 0.5}, {"name": "mixup", "alpha": 0.8, "probability": 0.5}]
    step = made(tiny_vit(5, SIZE), mix=mix)
    seen = set()
    for iteration in range(20):
        _, report = step(*batch(), iteration=iteration)
        seen.add((report.mixer, torch.equal(report.targets.weights, report.mix.weights)))
    assert ("tla", False) in seen
    assert ("mixup", True) in seen
    assert ("mixup", False) not in seen


# --- the mixer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("lam", "centre", "box", "area"),
    [
        (0.7, (3, 12), Box(0, 6, 9, 14), 0.846939),
        (0.75, (7, 7), Box(4, 10, 4, 10), 0.816327),
        (0.995, (7, 7), None, 1.0),
    ],
)
def test_boxes_of_tokens(lam, centre, box, area):
    found = box_around(lam, tuple((place + 0.5) / 14 for place in centre), 14, 14)
    assert found.empty if box is None else found == box
    pixels = on_pixels(found, (14, 14), 224, 224)
    assert pixels == Box(*(16 * edge for edge in found))
    assert box_lam(pixels, 224, 224) == pytest.approx(area, abs=1e-6)


def test_tokens_of_a_grid_that_does_not_fit_have_whole_pixels():
    box = on_pixels(Box(1, 2, 0, 3), (3, 3), 16, 24)
    rows = torch.arange(16) * 3 // 16
    assert (box.top, box.bottom) == (int((rows < 1).sum()), int((rows < 2).sum()))
    assert (box.left, box.right) == (0, 24)


@pytest.mark.parametrize(("model", "grid"), [(lambda: tiny_vit(5, SIZE), (4, 6)), (lambda: TinyConvNet(5), (14, 14))])
def test_tokens_are_the_network_s(model, grid):
    step, edges = made(model(), labels="weights"), {-(-row * SIZE[0] // grid[0]) for row in range(grid[0])}
    found = set()
    for iteration in range(40):
        _, report = step(*batch(), iteration=iteration)
        found |= set((report.mix.mask[0, 0].amin(1).diff().nonzero().flatten() + 1).tolist())
    assert len(found) > len(edges) / 2
    assert found <= edges


def drawn(count, **options):
    probe, images = Looked(), batch(size=(28, 56))[0]
    plugin = TokenAligned(**options)
    return images, [
        plugin.generate_mix(images=images, probe=probe, step=make_step(), rng=torch.Generator().manual_seed(seed))
        for seed in range(count)
    ]


def test_the_partner_shows_in_whole_tokens_of_the_batch_reversed():
    images, mixes = drawn(60, patch=7)
    lams = {round(mix.lam[0].item(), 6) for mix in mixes}
    assert 1.0 in lams, "an empty box is plain training"
    assert len(lams) > 6
    for mix in mixes:
        assert mix.partner.tolist() == [5, 4, 3, 2, 1, 0]
        cells = mix.masks_on(4, 8)
        assert torch.equal(mix.masks_on(28, 56), cells.repeat_interleave(7, 2).repeat_interleave(7, 3))
        own = mix.masks_on(28, 56)[:, :1]
        assert torch.equal(mix.images, torch.where(own == 1, images, images.flip(0)))
        torch.testing.assert_close(mix.lam, cells[:, 0].mean((1, 2)))
        assert (mix.masks == mix.masks[0]).all()


def test_a_full_cut_keeps_the_token_that_an_odd_side_loses():
    _, halved = drawn(40, patch=7)
    _, full = drawn(40, patch=7, full_cut=True)
    pairs = [(one.lam[0].item(), other.lam[0].item()) for one, other in zip(halved, full, strict=True)]
    assert all(other <= one for one, other in pairs)
    assert any(other < one for one, other in pairs)


def test_alpha_is_that_of_the_ratio():
    spread, peaked = (torch.stack([mix.lam[0] for mix in drawn(60, patch=1, alpha=a)[1]]).std() for a in (0.5, 50.0))
    assert peaked < spread


def test_a_mixer_alone_needs_the_network_or_the_size_of_its_tokens():
    images, labels = batch()
    with pytest.raises(ConfigError, match="model=net"):
        create_mixer("tla", num_classes=5)(images, labels)
    mix = create_mixer("tla", num_classes=5, patch=4)(images, labels)
    assert mix.targets(labels).dense(5).sum(1).tolist() == pytest.approx([1.0] * 6)


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"alpha": math.inf}, {"patch": 0}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        TokenAligned(**options)


@pytest.mark.parametrize("residual", [-0.1, 1.5])
def test_a_residual_out_of_range_is_refused(residual):
    with pytest.raises(ValueError, match="residual"):
        AlignedLabels(residual=residual)


def test_labels_without_a_mask_are_refused(monkeypatch):
    monkeypatch.setattr("mixcore.discovery.survey.LIMIT", 0)
    with pytest.raises(ConfigError, match="needs a mixer that provides mask, and mixup does not"):
        made(tiny_vit(5, SIZE), mix="mixup", labels="tla_labels")


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
    assert names["model"].get_classifier().weight.grad.abs().sum() > 0
