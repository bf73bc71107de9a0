"""SnapMix: the shipped contract, then the examples and invariants of its specification."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mixcore_plugin_snapmix import (
    SnapMix,
    counted_twice,
    label_weights,
    paste_resized,
    paste_resized_each,
    semantic_maps,
    snapmix,
    snapmix_per_sample,
)

import mixcore
from mixcore.api import Box, ConfigError, Mix
from mixcore.testing import MixerContract, SaliencyContract, TinyConvNet, run_example, tiny_vit


class TestContract(MixerContract):
    plugin = "snapmix"


class TestSaliencyContract(SaliencyContract):
    plugin = "class_activation_shifted"


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "snapmix"
    device = "cuda"


@pytest.mark.gpu
class TestContractPerSampleOnCuda(MixerContract):
    plugin = "snapmix"
    options = {"per_sample": True}
    device = "cuda"
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractPerSample(MixerContract):
    plugin = "snapmix"
    options = {"per_sample": True, "alpha": 0.5, "same_label": "double"}
    left_out = ("two_processes",)


@pytest.mark.slow
class TestContractOfTheImage(MixerContract):
    plugin = "snapmix"
    options = {"saliency": "fine_grained", "prob": 0.5}
    left_out = ("two_processes",)


# --- the examples ----------------------------------------------------------------------------------------------------

OWN = torch.tensor([[0.0, 0, 0, 0], [0, 4, 2, 0], [0, 2, 2, 0], [0, 0, 0, 0]])
OTHER = torch.tensor([[1.0, 1, 0, 0], [1, 5, 0, 0], [0, 0, 0, 2], [0, 0, 0, 0]])
MAPS = torch.stack((OWN, OTHER))
SWAPPED = torch.tensor([1, 0])


def every_way(into: Box, out_of: Box, activation: torch.Tensor, images: torch.Tensor | None = None) -> tuple[Mix, Mix]:
    """The mix with these boxes for all, and the mix with the same ones for each of two images."""
    images = torch.randn(2, 3, 4, 4) if images is None else images
    each = (torch.tensor([box, box]) for box in (into, out_of))
    return snapmix(images, SWAPPED, into, out_of, activation), snapmix_per_sample(images, SWAPPED, *each, activation)


EXAMPLES = [(Box(1, 3, 1, 3), Box(0, 2, 0, 2), [0.0, 0.8]), (Box(0, 2, 0, 2), Box(2, 4, 2, 4), [0.6, 0.2])]


@pytest.mark.parametrize(("into", "out_of", "weights"), EXAMPLES)
def test_weights_of_boxes(into, out_of, weights):
    for mix in every_way(into, out_of, MAPS):
        assert mix.weights[0].tolist() == pytest.approx(weights, abs=1e-6)


def test_two_images_of_one_class():
    (mix, _), labels = every_way(*EXAMPLES[1][:2], MAPS), torch.tensor([3, 3])
    assert mix.targets(labels).dense(4)[0].tolist() == pytest.approx([0, 0, 0, 0.8])
    for given in (labels, torch.nn.functional.one_hot(labels, 4).float()):
        twice = mix.targets(given, counted_twice(mix.weights, given, SWAPPED))
        assert twice.dense(4)[0].tolist() == pytest.approx([0, 0, 0, 1.6])
    other = torch.tensor([3, 1])
    assert torch.equal(counted_twice(mix.weights, other, SWAPPED), mix.weights)


COUNTED = torch.stack((torch.zeros(1, 4, 4), torch.arange(16.0).view(1, 4, 4)))
RESIZED = [
    (Box(0, 2, 0, 2), (3, 3), [[0, 0.5, 1], [2, 2.5, 3], [4, 4.5, 5]]),
    (Box(0, 4, 0, 4), (2, 2), [[0.0, 3], [12, 15]]),
    (Box(0, 4, 0, 4), (1, 1), [[0.0]]),
    (Box(2, 3, 1, 4), (2, 1), [[9.0], [9.0]]),
]


@pytest.mark.parametrize(("out_of", "size", "patch"), RESIZED)
@pytest.mark.parametrize("corner", [0, 1])
def test_a_box_resized_into_another(out_of, size, patch, corner):
    into = Box(corner, corner + size[0], 1, 1 + size[1])
    expected = torch.zeros(4, 4)
    expected[into.top : into.bottom, into.left : into.right] = torch.tensor(patch)
    for mix in every_way(into, out_of, MAPS, COUNTED):
        torch.testing.assert_close(mix.images[0, 0], expected, rtol=0, atol=1e-5)
        assert torch.equal(mix.mask[0, 0] == 0, expected * 0 + mix.mask[0, 0] == 0)
        assert int((mix.mask[0] == 0).sum()) == size[0] * size[1]


def test_a_map_above_its_least_over_its_sum():
    maps, told = semantic_maps(torch.tensor([[[1.0, 3], [2, 4]]]), 2, 2)
    torch.testing.assert_close(maps[0], torch.tensor([[0, 1 / 3], [1 / 6, 0.5]]))
    assert told.tolist() == [True]


# --- invariants ------------------------------------------------------------------------------------------------------


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def random_boxes(count, height, width, seed):
    """Boxes [count,4], some of them empty."""
    rng = seeded(seed)
    ends = [torch.randint(size + 1, (count, 2), generator=rng).sort(1).values for size in (height, width)]
    return torch.cat(ends, 1)


def test_maps_sum_to_one_at_the_size_of_the_images():
    maps, told = semantic_maps(torch.randn(5, 3, 4, generator=seeded()), 21, 32)
    assert maps.shape == (5, 21, 32)
    assert told.all()
    assert (maps.amin((1, 2)) == 0).all(), "of the enlarged map, whose least is not that of the coarse one"
    torch.testing.assert_close(maps.sum((1, 2)), torch.ones(5))
    torch.testing.assert_close(semantic_maps(torch.randn(5, 3, 4, generator=seeded()) + 9, 21, 32)[0], maps)


def test_each_pair_by_hand():
    """One image at a time: its box read from the draws, the partner's crop resized by torch, sums of its own map."""
    images, activation = torch.randn(30, 2, 11, 9, generator=seeded()), torch.randn(30, 3, 3, generator=seeded(1))
    into, out_of = random_boxes(30, 11, 9, 2), random_boxes(30, 11, 9, 3)
    partner = torch.randperm(30, generator=seeded(4))
    mix = snapmix_per_sample(images, partner, into, out_of, activation)
    maps, _ = semantic_maps(activation, 11, 9)
    empty = 0
    for row in range(30):
        first, second = Box(*into[row].tolist()), Box(*out_of[row].tolist())
        shared = snapmix(images, partner, first, second, activation)
        torch.testing.assert_close(mix.weights[row], shared.weights[row])
        torch.testing.assert_close(mix.images[row], shared.images[row], rtol=0, atol=1e-5)
        assert torch.equal(mix.mask[row], shared.mask[row])
        inside = torch.zeros(11, 9, dtype=torch.bool)
        if first.empty or second.empty:
            empty += 1
            assert mix.weights[row].tolist() == [1, 0]
        else:
            inside[first.top : first.bottom, first.left : first.right] = True
            theirs = maps[partner[row], second.top : second.bottom, second.left : second.right].sum()
            expected = torch.stack((1 - maps[row][inside].sum(), theirs)).clamp(0, 1)
            torch.testing.assert_close(mix.weights[row], expected, rtol=0, atol=1e-6)
        assert torch.equal(mix.images[row][:, ~inside], images[row][:, ~inside])
        assert torch.equal(mix.mask[row, 0] == 0, inside)
    assert 0 < empty < 20


def test_weights_lie_between_zero_and_one_and_need_not_sum_to_one():
    activation = torch.randn(200, 4, 4, generator=seeded())
    images, partner = torch.zeros(200, 1, 16, 16), torch.randperm(200, generator=seeded())
    boxes = (random_boxes(200, 16, 16, seed) for seed in (1, 2))
    weights = snapmix_per_sample(images, partner, *boxes, activation).weights
    assert weights.min() >= 0
    assert weights.max() <= 1
    sums = weights.sum(1)
    assert sums.min() < 0.7
    assert sums.max() > 1.3


FLAT = [torch.full((2, 1, 1), 3.7), torch.full((2, 7, 7), 0.3), torch.full((2, 2, 2), torch.nan)]
FLAT.append(torch.tensor([[[0.0, 3e38], [3e38, 3e38]]]).expand(2, 2, 2))  # the sum is no number any more


@pytest.mark.parametrize("activation", FLAT, ids=["1x1", "7x7", "nan", "inf"])
def test_a_map_that_says_nothing_leaves_its_label_to_the_area(activation):
    images, into, out_of = torch.randn(2, 3, 6, 5), Box(0, 3, 1, 3), Box(0, 6, 0, 5)
    assert not semantic_maps(activation, 6, 5)[1].any()
    for mix in every_way(into, out_of, activation, images):
        assert mix.weights[0].tolist() == pytest.approx([0.8, 0.2])
        torch.testing.assert_close(mix.weights[:, 0], mix.mask.mean((1, 2, 3)))


def test_each_label_goes_by_its_own_map():
    """Of a pair one map says something, the other nothing."""
    told, partner = torch.tensor([True, False]), SWAPPED
    weights = label_weights(torch.tensor([0.5, 0.0]), torch.tensor([0.0, 0.7]), told, partner, 0.2)
    assert weights.flatten().tolist() == pytest.approx([0.5, 0.2, 0.8, 0.7])


def test_one_box_in_its_own_place_and_no_partner_is_the_image_itself():
    images, activation, own = torch.randn(3, 2, 8, 8), torch.rand(3, 2, 2), torch.arange(3)
    box = Box(1, 6, 2, 7)
    each = torch.tensor([box] * 3)
    for mix in (snapmix(images, own, box, box, activation), snapmix_per_sample(images, own, each, each, activation)):
        torch.testing.assert_close(mix.images, images, rtol=0, atol=1e-5)
        torch.testing.assert_close(mix.weights.sum(1), torch.ones(3))


@pytest.mark.parametrize("empty", [0, 1])
def test_an_empty_box_leaves_the_batch_as_it_is(empty):
    boxes = [Box(1, 3, 1, 3), Box(2, 2, 0, 4)]
    images = torch.randn(2, 3, 4, 4)
    for mix in every_way(boxes[empty], boxes[1 - empty], MAPS, images):
        assert torch.equal(mix.images, images)
        assert mix.weights.tolist() == [[1, 0], [1, 0]]
        assert (mix.mask == 1).all()


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("memory", [torch.contiguous_format, torch.channels_last])
def test_overwriting_gives_the_same_bits_in_the_batch_itself(dtype, memory):
    images = torch.randn(3, 3, 8, 8).to(dtype, memory_format=memory)
    partner, into, out_of = torch.tensor([1, 2, 0]), Box(0, 5, 2, 4), Box(3, 7, 0, 8)
    each = tuple(torch.tensor([box] * 3) for box in (into, out_of))
    for paste, boxes in ((paste_resized, (into, out_of)), (paste_resized_each, each)):
        kept = images.clone(memory_format=memory)
        apart = paste(kept, partner, *boxes)
        assert torch.equal(kept, images)
        inside = paste(kept, partner, *boxes, overwrite=True)
        assert inside is kept
        assert torch.equal(inside, apart)
        assert apart.dtype == dtype
        assert apart.is_contiguous(memory_format=memory)


# --- in a step -------------------------------------------------------------------------------------------------------


def step_of(model=None, **options):
    torch.manual_seed(0)
    return mixcore.create_step(
        TinyConvNet(5) if model is None else model, mix={"name": "snapmix", **options}, num_classes=5, iterations=10
    )


def batch(count=8, size=(24, 32)):
    return torch.randn(count, 3, *size, generator=seeded()), torch.randint(5, (count,), generator=seeded(1))


def test_the_loss_weighs_each_image_by_its_own_activation():
    step = step_of()
    images, labels = batch()
    loss, report = step(images, labels, iteration=3)
    weights = report.mix.weights
    assert weights.unique().numel() > 8
    step.model.eval()
    step = step_of()
    logits = step.model.train()(report.mix.images)
    each = [torch.nn.functional.cross_entropy(logits, labels[rows], reduction="none") for rows in report.mix.sources.T]
    torch.testing.assert_close(loss, (weights[:, 0] * each[0] + weights[:, 1] * each[1]).mean())


@pytest.mark.parametrize("per_sample", [False, True])
def test_weights_come_from_the_classifier_s_own_maps(per_sample):
    """Features and the classifier's row, in eval mode, whatever its bias."""
    step = step_of(per_sample=per_sample)
    images, labels = batch()
    with torch.no_grad():
        step.model.eval()
        features = step.model.forward_features(images)
        raw = torch.einsum("nc,nchw->nhw", step.model.get_classifier().weight[labels], features)
        step.model.train()
    _, report = step(images, labels, iteration=2)
    maps, _ = semantic_maps(raw, 24, 32)
    hidden = (maps * (report.mix.mask[:, 0] == 0)).sum((1, 2))
    torch.testing.assert_close(report.mix.lam, 1 - hidden, rtol=0, atol=1e-5)
    with torch.no_grad():
        step = step_of(per_sample=per_sample)
        step.model.get_classifier().bias += torch.arange(5.0)
    _, shifted = step(images, labels, iteration=2)
    torch.testing.assert_close(shifted.mix.weights, report.mix.weights)


@pytest.mark.parametrize("train", [False, True])
def test_statistics_move_at_the_look_only_in_train_mode(train):
    model = TinyConvNet(5)
    mixer = mixcore.create_mixer(
        "snapmix", num_classes=5, model=model, saliency={"name": "class_activation_shifted", "train": train}
    )
    before = {name: value.clone() for name, value in model.state_dict().items()}
    mixer(*batch(), iteration=0)
    moved = [name for name, value in model.state_dict().items() if not torch.equal(value, before[name])]
    assert bool(moved) is train
    assert all("running" in name or "tracked" in name for name in moved)
    assert all(module.training for module in model.modules())
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_boxes_of_a_batch_or_of_each_image():
    images, labels = batch()
    shared = mixcore.create_mixer("snapmix", num_classes=5, model=TinyConvNet(5))(images, labels, iteration=1)
    each = mixcore.create_mixer("snapmix", num_classes=5, model=TinyConvNet(5), per_sample=True)(
        images, labels, iteration=1
    )
    assert len(shared.mask.unique(dim=0)) == 1
    assert len(each.mask.unique(dim=0)) > 5


def test_boxes_of_alpha_five_leave_half_on_average():
    mixer = mixcore.create_mixer("snapmix", num_classes=5, model=TinyConvNet(5), per_sample=True, saliency="uniform")
    images, labels = torch.zeros(100, 3, 32, 32), torch.zeros(100, dtype=torch.int64)
    masks = torch.cat([mixer(images, labels, iteration=iteration).mask.mean((1, 2, 3)) for iteration in range(10)])
    # half of the image, and what the clipping of boxes about uniform centres gives back
    assert 0.6 < masks.mean() < 0.72
    assert masks.min() > 0.1


@pytest.mark.parametrize("loss", ["bce", "bce_softmax"])
def test_binary_losses_stay_above_zero_for_pairs_of_one_class(loss):
    torch.manual_seed(0)
    model = TinyConvNet(5)
    mix = {"name": "snapmix", "same_label": "double"}
    step = mixcore.create_step(model, mix=mix, loss=loss, num_classes=5, iterations=10)
    with torch.no_grad():
        model.get_classifier().bias += torch.tensor([0.0, 0, 0, 0, 80])
    for iteration in range(4):
        value, report = step(batch()[0], torch.full((8,), 4), iteration=iteration)
        assert (report.targets.weights.sum(1) > 1).any()
        assert value >= 0


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_network_without_class_activation_is_refused_with_what_would_do():
    with pytest.raises(ConfigError, match="needs class_activation of the backbone") as caught:
        step_of(tiny_vit(5, (16, 16)))
    assert "one that averages over positions, such as resnet18" in str(caught.value)
    assert 'saliency = "fine_grained" looks at the image alone' in str(caught.value)


@pytest.mark.parametrize("options", [{"alpha": -1.0}, {"prob": 1.5}, {"same_label": "thrice"}])
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SnapMix(**options)


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["targets"].shape == (8, 100)
    assert (names["targets"].sum(1) <= 2).all()
