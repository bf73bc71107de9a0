"""Mixup or CutMix: the shipped contract, timm's `Mixup` given the same draws, and the specification's invariants."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
import torch
from mixcore_plugin_mixup_cutmix import MixupCutMix, Rows, mix_batch, mix_rows
from timm.data.mixup import FastCollateMixup, Mixup
from torch import Tensor

from mixcore.api import Box, Mix, OptionValueError, box_around, box_lam, boxes_around, boxes_of_sides
from mixcore.testing import MixerContract, make_step, run_example

CLASSES = 10
ODD = ("batch_sizes", "groups_give_the_same_mix", "overwriting_gives_the_same_mix")
"""Checks that mix odd batches, which pairs and halves refuse."""


class TestContract(MixerContract):
    plugin = "mixup_cutmix"
    extremes = {"mixup_alpha": 1e-6, "cutmix_alpha": 1e-6}


@pytest.mark.slow
class TestContractPermutation(MixerContract):
    plugin = "mixup_cutmix"
    options = {"partner": "permutation", "box": "legacy", "cutmix_minmax": [0.25, 0.75]}
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractElem(MixerContract):
    plugin = "mixup_cutmix"
    options = {"mode": "elem"}
    extremes = {"mixup_alpha": 1e-6, "cutmix_alpha": 1e-6}
    left_out = ("two_processes", "probability_of_mixing")  # a chance per image: test_prob_is_per_image


@pytest.mark.slow
class TestContractElemLargeImages(MixerContract):
    """Images from 64 pixels on go another way on the CPU."""

    plugin = "mixup_cutmix"
    options = {"mode": "elem", "partner": "permutation"}
    image_size = (64, 72)
    left_out = ("two_processes", "probability_of_mixing")


@pytest.mark.slow
class TestContractPair(MixerContract):
    plugin = "mixup_cutmix"
    options = {"mode": "pair"}
    left_out = ("two_processes", "probability_of_mixing", *ODD)


@pytest.mark.slow
class TestContractHalf(MixerContract):
    plugin = "mixup_cutmix"
    options = {"mode": "half"}
    left_out = ("two_processes", "probability_of_mixing", *ODD)


@pytest.mark.slow
class TestContractDrawnLam(MixerContract):
    plugin = "mixup_cutmix"
    options = {"correct_lam": False}
    left_out = ("two_processes",)


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "mixup_cutmix"
    device = "cuda"


@pytest.mark.gpu
class TestContractElemOnCuda(MixerContract):
    plugin = "mixup_cutmix"
    options = {"mode": "elem"}
    device = "cuda"
    left_out = ("two_processes", "probability_of_mixing")


def generate(plugin: MixupCutMix, images: Tensor, seed: int = 0, may_overwrite: bool = False) -> Mix:
    rng = torch.Generator().manual_seed(seed)
    return plugin.generate_mix(images=images, step=make_step(may_overwrite=may_overwrite), rng=rng)


# --- timm is the peer: its draws, made again in its order, through our functions -------------------------------------


def timm_batch_draw(alphas: tuple[float, float], prob: float, switch: float) -> tuple[float, bool]:
    """timm's draw of (lam, whether a box) for a batch, from NumPy's global generator."""
    mixup_alpha, cutmix_alpha = alphas
    if np.random.rand() >= prob:
        return 1.0, False
    both = mixup_alpha > 0 and cutmix_alpha > 0
    pastes = bool(np.random.rand() < switch) if both else cutmix_alpha > 0
    alpha = cutmix_alpha if pastes else mixup_alpha
    return float(np.random.beta(alpha, alpha)), pastes


def timm_row_draws(count: int, alphas: tuple[float, float], prob: float, switch: float) -> tuple[Tensor, Tensor]:
    """timm's draws of (lam, whether a box) for `count` images or pairs."""
    mixup_alpha, cutmix_alpha = alphas
    if mixup_alpha > 0 and cutmix_alpha > 0:
        pastes = np.random.rand(count) < switch
        boxed = np.random.beta(cutmix_alpha, cutmix_alpha, size=count)
        lam = np.where(pastes, boxed, np.random.beta(mixup_alpha, mixup_alpha, size=count))
    else:
        alpha = mixup_alpha or cutmix_alpha
        pastes = np.full(count, cutmix_alpha > 0)
        lam = np.random.beta(alpha, alpha, size=count)
    lam = np.where(np.random.rand(count) < prob, lam.astype(np.float32), np.float32(1))
    return torch.from_numpy(lam).double(), torch.from_numpy(pastes)


def timm_box(lam: float, height: int, width: int, minmax: tuple[float, float] | None) -> Box:
    """The box of timm's next draws, by our functions."""
    if minmax is None:
        y, x = np.random.randint(0, height), np.random.randint(0, width)
        return box_around(lam, ((y + 0.5) / height, (x + 0.5) / width), height, width, "full")
    lows, highs = ([int(size * share) for size in (height, width)] for share in minmax)
    sides = [np.random.randint(low, high) for low, high in zip(lows, highs, strict=True)]
    starts = [np.random.randint(0, size - side + 1) for size, side in zip((height, width), sides, strict=True)]
    shares = [(side - low + 0.5) / (high - low) for side, low, high in zip(sides, lows, highs, strict=True)]
    places = [(s + 0.5) / (size - side + 1) for s, size, side in zip(starts, (height, width), sides, strict=True)]
    draws = torch.tensor([shares + places], dtype=torch.float64)
    return Box(*boxes_of_sides(minmax, draws, height, width, "full")[0].tolist())


def timm_rows(
    mode: str, count: int, size: tuple[int, int], minmax: tuple[float, float] | None, **draws: Any
) -> Iterator[Rows]:
    """The draws of a batch of `count` in timm's order, as our function takes them."""
    lam, pastes = timm_row_draws(count if mode == "elem" else count // 2, **draws)
    boxes = torch.zeros(len(lam), 4, dtype=torch.int64)
    for row in range(len(lam)):
        if lam[row] != 1 and pastes[row]:
            boxes[row] = torch.tensor(timm_box(lam[row].item(), *size, minmax))
    flip = torch.arange(count - 1, -1, -1)
    if mode == "pair":
        lam, pastes, boxes = (torch.cat((part, part.flip(0))) for part in (lam, pastes, boxes))
    elif mode == "half":
        lam = torch.cat((lam, torch.ones(count // 2, dtype=lam.dtype)))
        pastes, boxes = (torch.cat((part, torch.zeros_like(part))) for part in (pastes, boxes))
    yield Rows(partner=flip, lam=lam, pastes=pastes, boxes=boxes)


def batch(count: int = 8, size: tuple[int, int] = (20, 27), seed: int = 0) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(count, 3, *size, generator=rng), torch.randint(CLASSES, (count,), generator=rng)


ALPHAS = [(0.8, 1.0), (1.0, 0.0), (0.0, 1.0)]
MINMAX = [None, (0.2, 0.8)]


@pytest.mark.parametrize("alphas", ALPHAS)
@pytest.mark.parametrize("minmax", MINMAX)
@pytest.mark.parametrize("correct_lam", [True, False])
def test_a_batch_equals_timms(alphas, minmax, correct_lam):
    effective = alphas if minmax is None else (alphas[0], 1.0)
    theirs = Mixup(*alphas, minmax, 0.9, 0.4, "batch", correct_lam, label_smoothing=0.1, num_classes=CLASSES)
    boxed = 0
    for seed in range(25):
        images, labels = batch()
        np.random.seed(seed)
        expected, targets = theirs(images.clone(), labels)
        np.random.seed(seed)
        lam, pastes = timm_batch_draw(effective, 0.9, 0.4)
        box = timm_box(lam, 20, 27, minmax) if pastes and lam != 1 else None
        boxed += box is not None
        flip = torch.arange(7, -1, -1)
        mix = mix_batch(images, flip, lam, box, correct_lam=correct_lam or minmax is not None)
        torch.testing.assert_close(mix.images, expected)
        torch.testing.assert_close(mix.targets(labels).dense(CLASSES, smoothing=0.1), targets)
    assert (boxed > 0) == (effective[1] > 0)


@pytest.mark.parametrize("alphas", ALPHAS)
@pytest.mark.parametrize("minmax", MINMAX)
@pytest.mark.parametrize("mode", ["elem", "pair"])
@pytest.mark.parametrize("size", [(20, 27), (72, 64)], ids=["small", "large"])
def test_rows_equal_timms(alphas, minmax, mode, size):
    effective = alphas if minmax is None else (alphas[0], 1.0)
    theirs = Mixup(*alphas, minmax, 0.8, 0.4, mode, label_smoothing=0.1, num_classes=CLASSES)
    for seed in range(10):
        images, labels = batch(size=size)
        np.random.seed(seed)
        expected, targets = theirs(images.clone(), labels)
        np.random.seed(seed)
        (rows,) = timm_rows(mode, 8, size, minmax, alphas=effective, prob=0.8, switch=0.4)
        for overwrite in (False, True):
            mix = mix_rows(images.clone() if overwrite else images, rows, overwrite=overwrite)
            torch.testing.assert_close(mix.images, expected)
            torch.testing.assert_close(mix.targets(labels).dense(CLASSES, smoothing=0.1), targets)


def test_uncorrected_lam_of_rows_equals_timms():
    theirs = Mixup(0.8, 1.0, None, 1.0, 0.5, "elem", False, label_smoothing=0.0, num_classes=CLASSES)
    images, labels = batch()
    np.random.seed(5)
    expected, targets = theirs(images.clone(), labels)
    np.random.seed(5)
    (rows,) = timm_rows("elem", 8, (20, 27), None, alphas=(0.8, 1.0), prob=1.0, switch=0.5)
    mix = mix_rows(images, rows, correct_lam=False)
    torch.testing.assert_close(mix.images, expected)
    torch.testing.assert_close(mix.targets(labels).dense(CLASSES), targets)


def test_half_equals_timms_collate():
    """timm mixes bytes there and rounds."""
    theirs = FastCollateMixup(0.8, 1.0, None, 0.8, 0.5, "half", label_smoothing=0.1, num_classes=CLASSES)
    for seed in range(10):
        images = torch.randint(0, 256, (8, 3, 20, 27), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
        labels = torch.arange(8) % CLASSES
        np.random.seed(seed)
        expected, targets = theirs([(image.clone(), int(label)) for image, label in zip(images, labels, strict=True)])
        np.random.seed(seed)
        (rows,) = timm_rows("half", 8, (20, 27), None, alphas=(0.8, 1.0), prob=0.8, switch=0.5)
        mix = mix_rows(images.float(), rows)
        torch.testing.assert_close(mix.images[:4], expected.float(), rtol=0, atol=0.5001)
        torch.testing.assert_close(mix.targets(labels).dense(CLASSES, smoothing=0.1)[:4], targets)


def test_published_draws_of_timm():
    np.random.seed(0)
    draws = [timm_batch_draw((0.8, 1.0), 1.0, 0.5) for _ in range(4)]
    assert [lam for lam, _ in draws] == pytest.approx([0.531506, 0.436530, 0.108088, 0.571357], abs=1e-6)
    assert not any(pastes for _, pastes in draws)
    np.random.seed(2)
    lam, pastes = timm_batch_draw((0.8, 1.0), 1.0, 0.5)
    assert (round(lam, 6), pastes) == (0.558042, True)
    box = timm_box(lam, 32, 32, None)
    assert box == (0, 19, 0, 18)
    assert box_lam(box, 32, 32) == pytest.approx(0.6660156, abs=1e-7)


# --- examples and invariants of the specification ---------------------------------------------------------------------


def test_example_one_targets():
    images, labels = torch.zeros(2, 1, 2, 2), torch.tensor([3, 7])
    dense = mix_batch(images, torch.tensor([1, 0]), 0.7, None).targets(labels).dense(10, smoothing=0.1)
    expected = torch.full((10,), 0.01)
    expected[3], expected[7] = 0.64, 0.28
    torch.testing.assert_close(dense[0], expected)


@pytest.mark.parametrize(
    ("lam", "centre", "rule", "box", "area"),
    [
        (0.87, (16, 16), "full", (11, 22, 11, 22), 0.8818359),
        (0.87, (16, 16), "legacy", (11, 21, 11, 21), 0.9023438),
        (0.75, (16, 16), "full", (8, 24, 8, 24), 0.75),
        (0.75, (16, 16), "legacy", (8, 24, 8, 24), 0.75),
        (0.9, (2, 30), "full", (0, 7, 25, 32), 0.9521484),
    ],
)
def test_examples_two_and_three_boxes(lam, centre, rule, box, area):
    place = ((centre[0] + 0.5) / 32, (centre[1] + 0.5) / 32)
    assert box_around(lam, place, 32, 32, rule) == box
    assert box_lam(Box(*box), 32, 32) == pytest.approx(area, abs=1e-7)
    lams, places = torch.tensor([lam], dtype=torch.float64), torch.tensor([place], dtype=torch.float64)
    assert boxes_around(lams, places, 32, 32, rule).tolist() == [list(box)]


def test_the_full_rule_reaches_the_last_place_of_a_box_of_sides():
    draws = torch.tensor([[0.0, 0.0, 0.999, 0.999]], dtype=torch.float64)
    assert boxes_of_sides((0.5, 0.8), draws, 10, 10, "full").tolist() == [[5, 10, 5, 10]]
    assert boxes_of_sides((0.5, 0.8), draws, 10, 10, "legacy").tolist() == [[4, 9, 4, 9]]


@pytest.mark.parametrize("mode", ["batch", "elem", "pair", "half"])
@pytest.mark.parametrize("partner", ["flip", "permutation"])
def test_pixels_masks_and_weights_agree(mode, partner):
    plugin = MixupCutMix(mode=mode, partner=partner, prob=0.9)
    images, labels = batch()
    kinds = set()
    for seed in range(12):
        mix = generate(plugin, images, seed)
        assert mix.mask is not None
        own, other = (images[mix.sources[:, k]] for k in (0, 1))
        torch.testing.assert_close(mix.images, mix.mask * own + (1 - mix.mask) * other)
        torch.testing.assert_close(mix.mask.mean((1, 2, 3)), mix.lam)
        dense = mix.targets(labels).dense(CLASSES, smoothing=0.1)
        torch.testing.assert_close(dense.sum(1), torch.ones(len(dense)))
        assert dense.max() <= 0.91 + 1e-6
        kinds |= {"box" if mask.amin() < mask.amax() else "blend" for mask in mix.mask}
        if mode == "half":
            assert mix.sources[:, 0].tolist() == [0, 1, 2, 3]
            assert (mix.partner >= 4)[mix.lam < 1].all()
    assert kinds == {"box", "blend"}


def test_flip_halves_and_pairs():
    images, labels = batch()
    plugin = MixupCutMix(mode="pair")
    for seed in range(8):
        mix = generate(plugin, images, seed)
        back = mix.partner
        assert back.tolist() == list(range(7, -1, -1))
        torch.testing.assert_close(mix.images + mix.images[back], images + images[back])
        assert torch.equal(mix.lam, mix.lam[back])
        dense, own = mix.targets(labels).dense(CLASSES), torch.eye(CLASSES)[labels]
        torch.testing.assert_close(dense + dense[back], own + own[back])
    assert generate(MixupCutMix(mode="half"), images).partner.tolist() == [7, 6, 5, 4]


def test_random_pairs_are_pairs():
    images, _ = batch()
    partners = set()
    for seed in range(8):
        mix = generate(MixupCutMix(mode="pair", partner="permutation"), images, seed)
        partner = mix.partner
        assert torch.equal(partner[partner], torch.arange(8))
        assert (partner != torch.arange(8)).all()
        assert torch.equal(mix.lam, mix.lam[partner])
        assert mix.lam.unique().numel() == 4
        partners.add(tuple(partner.tolist()))
    assert len(partners) > 4


def test_selection_carries_what_cannot_be_computed_with():
    images, _ = batch()
    images[:, 0, :4] = torch.inf
    plugin = MixupCutMix(mixup_alpha=0.0, mode="elem")
    mix = generate(plugin, images)
    assert torch.equal(mix.images, torch.where(mix.mask == 1, images, images[mix.partner]))


@pytest.mark.parametrize("mode", ["batch", "elem", "pair"])
@pytest.mark.parametrize("size", [(16, 16), (64, 64)], ids=["small", "large"])
def test_overwriting_gives_the_same_bits(mode, size):
    plugin = MixupCutMix(mode=mode)
    for seed in range(6):
        images, _ = batch(size=size)
        before = images.clone()
        kept = generate(plugin, images, seed)
        assert torch.equal(images, before)
        assert torch.equal(generate(plugin, images, seed, may_overwrite=True).images, kept.images)


@pytest.mark.parametrize("mode", ["batch", "elem"])
def test_switch_prob_is_the_share_of_boxes(mode):
    plugin, image = MixupCutMix(switch_prob=0.3, cutmix_minmax=(0.5, 0.6), mode=mode), torch.zeros(4, 1, 10, 10)
    boxes = sum((mix.mask.amin((1, 2, 3)) == 0).float().mean().item() for mix in _mixes(plugin, image, 1000))
    assert boxes == pytest.approx(300, abs=60)


def _mixes(plugin: MixupCutMix, images: Tensor, count: int) -> Iterator[Mix]:
    for seed in range(count):
        yield generate(plugin, images, seed)


def test_prob_is_per_image():
    images, _ = batch(count=8, size=(4, 4))
    mixes = list(_mixes(MixupCutMix(mode="elem", prob=0.5, cutmix_alpha=0.0), images, 300))
    left = torch.stack([mix.lam == 1 for mix in mixes])
    assert left.float().mean().item() == pytest.approx(0.5, abs=0.06)
    assert torch.equal(torch.stack([mix.partner == torch.arange(8) for mix in mixes]), left)
    assert all(torch.equal(mix.images[mix.lam == 1], images[mix.lam == 1]) for mix in mixes)
    never = generate(MixupCutMix(mode="elem", prob=0.0), images)
    assert torch.equal(never.images, images)


def test_odd_batches():
    images, _ = batch(count=7)
    for mode in ("batch", "elem"):
        for seed in range(4):
            mix = generate(MixupCutMix(mode=mode), images, seed)
            torch.testing.assert_close(mix.images[3], images[3])
            assert mix.partner[3] == 3
    for mode in ("pair", "half"):
        with pytest.raises(OptionValueError, match=r"even number of images, found 7.*drop_last"):
            generate(MixupCutMix(mode=mode), images)


def test_one_alpha_alone_takes_every_turn():
    images, _ = batch()
    assert MixupCutMix(cutmix_alpha=0.0).provides == frozenset()
    assert MixupCutMix().provides == MixupCutMix(cutmix_alpha=0.0, cutmix_minmax=(0.1, 0.5)).provides == {"mask"}
    for mode in ("batch", "elem"):
        for seed in range(10):
            assert generate(MixupCutMix(cutmix_alpha=0.0, mode=mode), images, seed).mask.shape == (8, 1, 1, 1)
            mask = generate(MixupCutMix(mixup_alpha=0.0, mode=mode), images, seed).mask
            assert mask.shape == (8, 1, 20, 27)
            assert ((mask == 0) | (mask == 1)).all()


def test_nothing_to_mix_is_refused():
    with pytest.raises(ValueError, match=r"both 0.*set one above 0"):
        MixupCutMix(mixup_alpha=0.0, cutmix_alpha=0.0)


@pytest.mark.parametrize(
    "options",
    [{"mixup_alpha": -1.0}, {"switch_prob": 1.5}, {"mode": "pairs"}, {"box": "old"}, {"cutmix_minmax": (0.5, 0.5)}],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        MixupCutMix(**options)


def test_rows_left_alone_are_their_own_partner():
    rows = Rows(
        partner=torch.tensor([1, 0]),
        lam=torch.tensor([1.0, 0.5]),
        pastes=torch.tensor([True, True]),
        boxes=torch.tensor([[0, 1, 0, 1], [0, 1, 0, 1]]),
    )
    assert attrs.asdict(rows.settled(), recurse=False)["partner"].tolist() == [0, 0]
    images = torch.randn(2, 1, 2, 2)
    assert torch.equal(mix_rows(images, rows).images[0], images[0])


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    torch.testing.assert_close(names["targets"].sum(1), torch.ones(8))
