"""SuperMix: the shipped contract, then the examples and invariants of its specification."""

from __future__ import annotations

import copy
import math
from pathlib import Path

import pytest
import torch
from mixcore_plugin_supermix import SuperMix, SuperMixLabels, supermix
from mixcore_plugin_supermix.objective import (
    blur_matrix,
    objective,
    shows_all,
    soft_targets,
    spread_masks,
    step_sizes,
)
from torch import Tensor, nn
from torch.nn import functional as F

import mixcore
from mixcore.api import ConfigError, Mix, OptionValueError
from mixcore.mixers import create_step
from mixcore.testing import MixerContract, PluginContract, TinyConvNet, Tripwire, run_example


class GridTeacher(nn.Module):
    """Knows images of any size and number of channels by how bright their 16ths are; sure of nothing."""

    def __init__(self, classes: int = 5) -> None:
        super().__init__()
        weight = torch.randn(classes, 16, generator=torch.Generator().manual_seed(7))
        self.fc = nn.Linear(16, classes, bias=False)
        self.fc.weight = nn.Parameter(weight)

    def forward(self, images: Tensor) -> Tensor:
        return self.fc(F.adaptive_avg_pool2d(images.mean(1), 4).flatten(1))


IN_PYTHON = ("options_round_trip", "state_round_trip")
"""Checks that write the options as TOML, which holds no network."""
FURTHER = (*IN_PYTHON, "two_processes", "every_option_value")


class TestContract(MixerContract):
    plugin = "supermix"
    options = {"teacher": GridTeacher()}
    left_out = IN_PYTHON


@pytest.mark.gpu
class TestContractOnCuda(MixerContract):
    plugin = "supermix"
    options = {"teacher": GridTeacher()}
    device = "cuda"
    left_out = FURTHER


@pytest.mark.slow
class TestContractOfThree(MixerContract):
    plugin = "supermix"
    options = {"teacher": GridTeacher(), "k": 3, "fallback": "keep", "target": "area", "w": 4, "max_iter": 2}
    left_out = FURTHER


@pytest.mark.slow
class TestContractTaught(MixerContract):
    plugin = "supermix"
    options = {"teacher": GridTeacher(), "fallback": "drop", "target": "teacher_soft", "max_iter": 2}
    left_out = FURTHER


class TestContractOfTheLabels(PluginContract):
    role = "labels"
    plugin = "supermix_labels"


# --- by definition ---------------------------------------------------------------------------------------------------


def trained_teacher(classes: int = 4, size: int = 16) -> tuple[nn.Module, Tensor, Tensor]:
    """A teacher that knows images with one bright quarter by that quarter; and 24 such images with their classes."""
    rng = torch.Generator().manual_seed(3)
    labels = torch.arange(24) % classes
    images = 0.3 * torch.randn(24, 3, size, size, generator=rng)
    half = size // 2
    for image, label in zip(images, labels.tolist(), strict=True):
        top, left = label // 2 * half, label % 2 * half
        image[:, top : top + half, left : left + half] += 1.5
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        teacher = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1), nn.ReLU(), nn.AvgPool2d(size // 4), nn.Flatten(), nn.Linear(32, 4)
        )
    optimizer = torch.optim.Adam(teacher.parameters(), lr=0.02)
    for _ in range(60):
        optimizer.zero_grad()
        F.cross_entropy(teacher(images), labels).backward()
        optimizer.step()
    teacher.requires_grad_(False).eval()
    teacher.zero_grad()
    assert torch.equal(teacher(images).argmax(1), labels)
    return teacher, images, labels


@pytest.fixture(scope="module")
def known() -> tuple[nn.Module, Tensor, Tensor]:
    return trained_teacher()


def shifted(count: int, k: int) -> Tensor:
    return (torch.arange(count)[:, None] + torch.arange(k)) % count


def drawn(count: int, k: int, seed: int = 0) -> Tensor:
    gammas = torch._standard_gamma(torch.full((count, k), 3.0), generator=torch.Generator().manual_seed(seed))
    return gammas / gammas.sum(1, keepdim=True)


def blurred(maps: Tensor, sigma: float) -> Tensor:
    """A convolution with the taps as they are written."""
    length = math.floor(5 * sigma)
    taps = torch.tensor([math.exp(-((i - (length - 1) / 2) ** 2) / (2 * sigma**2)) for i in range(length)])
    taps = taps / taps.sum()
    before, after = (length - 1) // 2, length // 2
    padded = F.pad(maps.flatten(0, 1)[:, None], (before, after, before, after))
    return F.conv2d(padded, (taps[:, None] * taps)[None, None]).view_as(maps)


def by_definition(images, shares, teacher, w, sigma, lambda_s, max_iter, tol):
    """Steps 1 to 5 as they are written, with two passes per round and a stop: (masks, finished, rounds)."""
    count, k = shares.shape
    sources = shifted(count, k)
    classes = teacher(images).argmax(1)[sources]
    wanted = torch.zeros(count, teacher(images).shape[1])
    for b in range(count):
        for s in range(k):
            wanted[b, classes[b, s]] += shares[b, s]
    v, finished, rounds = torch.zeros(count, k, w, w), [False] * count, 0

    def masks_of(v):
        masks = F.interpolate(v, size=images.shape[-2:], mode="bilinear", align_corners=False).sigmoid()
        return masks / masks.sum(1, keepdim=True)

    def logits_of(v):
        return teacher((masks_of(v)[:, :, None] * images[sources]).sum(1))

    while finished.count(False) > tol * count and rounds < max_iter:
        v.requires_grad_()
        p, masks = logits_of(v).softmax(1), masks_of(v)
        f = torch.stack(
            [
                sum(t * (t.log() - q.log()) for t, q in zip(wanted[b], p[b], strict=True) if t > 0)
                + lambda_s * (masks[b] * (1 - masks[b])).mean()
                for b in range(count)
            ]
        )
        gradients = torch.autograd.grad(f.sum(), v)[0]
        smooth = blurred(gradients, sigma) if sigma else gradients
        v = v.detach().clone()
        for b in range(count):
            if not finished[b]:
                slope = (gradients[b] * smooth[b]).sum().item()
                v[b] -= min(max(f[b].item() / (slope + 1e-10), 1e-4), 2000) * smooth[b]
        logits = logits_of(v)
        for b in range(count):
            here = set(classes[b].tolist())
            finished[b] = set(logits[b].topk(len(here)).indices.tolist()) == here
        rounds += 1
    return masks_of(v).detach(), torch.tensor(finished), rounds


# --- the examples ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("k", "sparsity"), [(2, 6.25), (3, 5.5556)])
def test_masks_at_the_start_are_even(k, sparsity):
    masks = spread_masks(torch.zeros(1, k, 8, 8), 32, 24)
    torch.testing.assert_close(masks, torch.full((1, k, 32, 24), 1 / k))
    targets = torch.full((1, 10), 0.1)
    assert objective(torch.zeros(1, 10), targets, masks, 25.0).item() == pytest.approx(sparsity, abs=1e-4)


def test_the_objective_of_uniform_logits():
    shares = torch.tensor([[0.7, 0.3]])
    targets, _ = soft_targets(torch.tensor([[2, 5]]), shares, 10)
    masks = spread_masks(torch.zeros(1, 2, 8, 8), 32, 32)
    assert objective(torch.zeros(1, 10), targets, masks, 0.0).item() == pytest.approx(1.691721, abs=1e-5)
    assert objective(torch.zeros(1, 10), targets, masks, 25.0).item() == pytest.approx(7.941721, abs=1e-5)


@pytest.mark.parametrize(
    ("sigma", "taps"),
    [
        (1.0, (0.054489, 0.244201, 0.402620, 0.244201, 0.054489)),
        (2.0, (0.0161, 0.0436, 0.0924, 0.1523, 0.1956, 0.1956, 0.1523, 0.0924, 0.0436, 0.0161)),
    ],
)
def test_the_taps_of_the_blur(sigma, taps):
    side = 24
    row = blur_matrix(side, sigma, torch.device("cpu"))[12]
    before = (len(taps) - 1) // 2
    expected = torch.zeros(side)
    expected[12 - before : 12 - before + len(taps)] = torch.tensor(taps)
    torch.testing.assert_close(row, expected, atol=5e-5 if sigma == 2 else 1e-6, rtol=0)


@pytest.mark.parametrize("sigma", [0.4, 1.0, 1.3, 2.0])
def test_the_blur_is_a_convolution_with_zeros_around(sigma):
    maps = torch.randn(2, 3, 8, 8)
    blur = blur_matrix(8, sigma, maps.device)
    torch.testing.assert_close(blur @ maps @ blur.T, blurred(maps, sigma), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("sigma", [0.0, 0.1])
def test_no_blur(sigma):
    assert torch.equal(blur_matrix(8, sigma, torch.device("cpu")), torch.eye(8))


@pytest.mark.parametrize(("value", "slope", "step"), [(2.0, 0.5, 4.0), (2.0, 0.0, 2000.0), (1e-9, 0.5, 1e-4)])
def test_the_step(value, slope, step):
    gradients = torch.tensor([slope / 2, slope / 2]).view(1, 2, 1, 1)
    assert step_sizes(torch.tensor([value]), gradients, torch.ones(1, 2, 1, 1)).item() == pytest.approx(step, rel=1e-6)


def test_finished_is_the_rule_of_the_largest_distinct_classes():
    rng = torch.Generator().manual_seed(0)
    logits = torch.randn(400, 4, generator=rng)
    classes = torch.randint(4, (400, 3), generator=rng)
    _, present = soft_targets(classes, torch.full((400, 3), 1 / 3), 4)
    expected = [
        set(row.topk(len(set(here))).indices.tolist()) == set(here)
        for row, here in zip(logits, classes.tolist(), strict=True)
    ]
    assert shows_all(logits, present).tolist() == expected
    assert 50 < sum(expected) < 350
    assert shows_all(torch.randn(2, 3), torch.ones(2, 3, dtype=torch.bool)).all(), "no class is left to be larger"
    assert not shows_all(torch.full((1, 3), math.nan), torch.tensor([[True, False, False]])).any()


def test_weights_of_equal_classes_add_up():
    targets, present = soft_targets(torch.tensor([[1, 1, 3]]), torch.tensor([[0.5, 0.25, 0.25]]), 4)
    assert targets.tolist() == [[0, 0.75, 0, 0.25]]
    assert present.tolist() == [[False, True, False, True]]
    _, present = soft_targets(torch.tensor([[1, 2]]), torch.tensor([[1.0, 0.0]]), 4)
    assert present.tolist() == [[False, True, True, False]], "a class of share 0 is wanted too"


# --- the optimisation ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("k", "sigma", "max_iter", "tol"),
    [(2, 1.0, 1, 0.7), (2, 1.0, 6, 0.0), (2, 2.0, 6, 0.3), (3, 1.0, 6, 0.3), (3, 0.0, 4, 0.1)],
)
def test_masks_are_those_of_the_stopped_loop(known, k, sigma, max_iter, tol):
    teacher, images, _ = known
    shares = drawn(len(images), k)
    masks, finished, _ = by_definition(images, shares, teacher, 8, sigma, 25.0, max_iter, tol)
    found = supermix(
        images, shifted(len(images), k), shares, teacher, sigma=sigma, max_iter=max_iter, max_unfinished=tol
    )
    assert torch.equal(found.finished, finished)
    assert finished.any()
    torch.testing.assert_close(found.masks, masks, atol=1e-4, rtol=0)


def test_rounds_after_the_stop_change_nothing(known):
    teacher, images, _ = known
    shares, sources = drawn(24, 2), shifted(24, 2)
    _, _, rounds = by_definition(images, shares, teacher, 8, 1.0, 25.0, 50, 0.7)
    assert rounds < 5
    ended = supermix(images, sources, shares, teacher, max_iter=rounds, max_unfinished=0.7)
    later = supermix(images, sources, shares, teacher, max_iter=rounds + 4, max_unfinished=0.7)
    assert not ended.finished.all()
    torch.testing.assert_close(later.masks, ended.masks, atol=0, rtol=0)
    further = supermix(images, sources, shares, teacher, max_iter=rounds + 4, max_unfinished=0.0)
    assert (further.masks - ended.masks).abs().max() > 0.01, "the rounds that stood still would have changed it"


def test_masks_of_a_finished_sample_stay(known):
    teacher, images, _ = known
    shares, sources = drawn(24, 3), shifted(24, 3)
    before = supermix(images, sources, shares, teacher, max_iter=1, max_unfinished=0.0)
    for rounds in (2, 4, 8):
        now = supermix(images, sources, shares, teacher, max_iter=rounds, max_unfinished=0.0)
        assert (now.finished >= before.finished).all()
        assert torch.equal(now.masks[before.finished], before.masks[before.finished])
        moved = (now.masks != before.masks).flatten(1).any(1)
        assert torch.equal(moved, ~before.finished), "and those of the others do not"
        before = now
    assert before.finished.float().mean() > 0.5


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_blends_are_sums_by_masks_and_the_finished_show_their_classes(known, k):
    teacher, images, _ = known
    sources = shifted(24, k)
    found = supermix(images, sources, drawn(24, k), teacher, max_iter=4, max_unfinished=0.0)
    assert found.masks.shape == (24, k, 16, 16)
    assert (found.masks > 0).all()
    assert (found.masks <= 1).all(), "1 only by rounding"
    torch.testing.assert_close(found.masks.sum(1), torch.ones(24, 16, 16))
    torch.testing.assert_close(found.images, (found.masks[:, :, None] * images[sources]).sum(1))
    torch.testing.assert_close(found.logits, teacher(found.images))
    classes = teacher(images).argmax(1)[sources]
    for logits, here in zip(found.logits[found.finished], classes[found.finished].tolist(), strict=True):
        assert set(logits.topk(len(set(here))).indices.tolist()) == set(here)
    assert found.finished.any()
    assert not found.masks.requires_grad
    assert not found.images.requires_grad
    if k == 1:
        assert torch.equal(found.images, images)
        assert found.finished.all()


def test_sources_of_one_class_are_finished_at_the_first_check(known):
    teacher, images, labels = known
    same = images[labels == 2]
    found = supermix(same, shifted(len(same), 2), drawn(len(same), 2), teacher, max_iter=1)
    assert found.finished.all()


class Overflowing(torch.autograd.Function):
    """Identity, whose gradients of the first two rows are not finite."""

    @staticmethod
    def forward(ctx, images):
        return images.clone()

    @staticmethod
    def backward(ctx, arriving):
        arriving = arriving.clone()
        arriving[0], arriving[1] = math.inf, math.nan
        return arriving


def test_a_gradient_that_overflowed_moves_nothing(known):
    teacher, images, _ = known
    found = supermix(images, shifted(24, 2), drawn(24, 2), lambda seen: teacher(Overflowing.apply(seen)), max_iter=2)
    assert found.masks.isfinite().all()
    assert (found.masks[:2] == 0.5).all()
    assert (found.masks[2:] != 0.5).any()


def test_one_forward_and_one_backward_per_round(known):
    teacher, images, _ = known
    forwards, graphs = [], []

    def counted(seen):
        forwards.append(len(seen))
        logits = teacher(seen)
        graphs.append(logits.requires_grad)
        return logits

    supermix(images, shifted(24, 2), drawn(24, 2), counted, max_iter=6)
    assert forwards == [24] * 8
    assert graphs == [False, *[True] * 6, False]


# --- the mixer -------------------------------------------------------------------------------------------------------


def mixed(known, seed: int = 0, labels: Tensor | None = None, **options) -> tuple[Mix, Tensor, Tensor]:
    teacher, images, classes = known
    mixer = mixcore.create_mixer("supermix", num_classes=4, seed=seed, teacher=copy.deepcopy(teacher), **options)
    labels = classes if labels is None else labels
    return mixer(images, labels, iteration=0), images, labels


@pytest.mark.parametrize("k", [2, 3])
def test_sources_are_the_following_images(known, k):
    mix, images, _ = mixed(known, k=k, fallback="keep")
    assert torch.equal(mix.sources, shifted(24, k))
    assert mix.masks.shape == (24, k - 1, 16, 16)
    torch.testing.assert_close(mix.weights.sum(1), torch.ones(24))
    torch.testing.assert_close(mix.images, (mix.masks_on(16, 16)[:, :, None] * images[mix.sources]).sum(1))


def test_the_mix_is_that_of_the_function_and_repeats(known):
    teacher, images, _ = known
    mix, _, _ = mixed(known, fallback="keep", sigma=2.0, lambda_s=10.0, w=4, max_iter=3, max_unfinished=0.2)
    options = {"sigma": 2.0, "lambda_s": 10.0, "w": 4, "max_iter": 3, "max_unfinished": 0.2}
    found = supermix(images, mix.sources, mix.weights, teacher, **options)
    torch.testing.assert_close(mix.masks, found.masks[:, :-1], atol=1e-5, rtol=0)
    for name, value in {"sigma": 1.0, "lambda_s": 25.0, "w": 8, "max_iter": 1, "max_unfinished": 0.9}.items():
        other = supermix(images, mix.sources, mix.weights, teacher, **{**options, name: value})
        assert (other.masks - found.masks).abs().max() > 1e-3, name
    again, _, _ = mixed(known, fallback="keep", **options)
    assert torch.equal(again.images, mix.images)
    other, _, _ = mixed(known, seed=1, fallback="keep", **options)
    assert not torch.equal(other.weights, mix.weights)


def test_alpha_is_how_even_the_shares_are(known):
    spread = [mixed(known, alpha=alpha, fallback="keep")[0].weights.std() for alpha in (0.1, 3.0, 300.0)]
    assert spread[0] > 0.3 > spread[1] > 0.1 > spread[2]


def test_unfinished_samples_stay_clean_by_default(known):
    kept, images, _ = mixed(known, max_iter=1, fallback="keep")
    mix, _, _ = mixed(known, max_iter=1)
    finished = mix.notes["supermix_finished"]
    assert 0 < finished.sum() < 24
    assert torch.equal(mix.images[~finished], images[~finished])
    assert (mix.lam[~finished] == 1).all()
    assert (mix.weights[~finished][:, 1:] == 0).all()
    assert (mix.masks[~finished] == 1).all()
    for name in ("images", "weights", "masks"):
        assert torch.equal(getattr(mix, name)[finished], getattr(kept, name)[finished])
    assert torch.equal(mix.sources, kept.sources)
    assert not torch.equal(kept.images[~finished], images[~finished])


def test_clean_samples_of_three_have_all_weight_on_the_first(known):
    mix, _, _ = mixed(known, k=3, max_iter=1, max_unfinished=0.0)
    clean = ~mix.notes["supermix_finished"]
    assert clean.any()
    assert mix.weights[clean].unique(dim=0).tolist() == [[1, 0, 0]]
    assert (mix.masks[clean][:, 0] == 1).all()
    assert (mix.masks[clean][:, 1] == 0).all()


def test_dropped_samples_leave_their_places_to_finished_ones(known):
    kept, _, _ = mixed(known, max_iter=1, fallback="keep")
    mix, _, _ = mixed(known, max_iter=1, fallback="drop")
    rows = kept.notes["supermix_finished"].nonzero()[:, 0]
    taken = rows.repeat(24)[:24]
    for name in ("images", "sources", "weights", "masks"):
        assert torch.equal(getattr(mix, name), getattr(kept, name)[taken]), name
    assert mix.sources[:, 0].bincount(minlength=24).max() <= math.ceil(24 / len(rows))


def test_a_batch_without_a_finished_sample_stays_clean(known, monkeypatch):
    monkeypatch.setattr("mixcore_plugin_supermix.optimise.shows_all", lambda logits, present: present[:, 0] & False)
    for fallback in ("clean", "drop"):
        mix, images, labels = mixed(known, fallback=fallback)
        assert torch.equal(mix.images, images)
        assert (mix.lam == 1).all()
        assert torch.equal(mix.targets(labels).dense(4), F.one_hot(labels, 4).float())


def test_area_is_the_mean_of_the_masks(known):
    mix, _, _ = mixed(known, k=3, target="area")
    torch.testing.assert_close(mix.weights, mix.masks_on(16, 16).mean((2, 3)), atol=1e-6, rtol=0)
    wanted, _, _ = mixed(known, k=3)
    assert torch.equal(wanted.images, mix.images)
    finished = mix.notes["supermix_finished"]
    assert not torch.allclose(wanted.weights[finished], mix.weights[finished])


@pytest.mark.parametrize(
    ("height", "width", "cells"), [(32, 32, 8), (64, 64, 8), (224, 224, 16), (160, 224, 16), (448, 448, 32)]
)
def test_cells_follow_the_image(height, width, cells):
    from mixcore_plugin_supermix.plugin import _cells

    assert _cells(height, width) == cells


# --- labels of the teacher -------------------------------------------------------------------------------------------


def targets_of(known, labels: Tensor, **options):
    teacher, images, _ = known
    step = create_step(
        copy.deepcopy(teacher),
        mix=SuperMix(teacher=copy.deepcopy(teacher), **options),
        num_classes=4,
        iterations=10,
        image_size=(16, 16),
        label_kind="soft" if labels.is_floating_point() else "class",
    )
    _, report = step(images, labels, iteration=0)
    return report.targets, report.mix


@pytest.mark.parametrize("soft", [False, True], ids=["classes", "rows"])
@pytest.mark.parametrize("target", ["teacher_soft", "teacher_hard"])
@pytest.mark.parametrize("fallback", ["clean", "keep", "drop"])
def test_the_teacher_s_labels_are_those_of_the_mixed_images(known, target, fallback, soft):
    teacher, _, classes = known
    labels = F.one_hot((classes + 1) % 4, 4).float() if soft else (classes + 1) % 4  # other ones than it would give
    targets, mix = targets_of(known, labels, target=target, fallback=fallback, max_iter=1)
    told = teacher(mix.images)
    told = told.softmax(1) if target == "teacher_soft" else F.one_hot(told.argmax(1), 4).float()
    finished = mix.notes["supermix_finished"]
    if fallback == "clean":
        told[~finished] = F.one_hot((classes + 1) % 4, 4).float()[~finished]
    assert 0 < finished.sum() < 24
    torch.testing.assert_close(targets.dense(4), told, atol=1e-5, rtol=1e-4)
    assert targets.smooth == (target == "teacher_hard")
    assert (mix.weights[:, 0] < 1).any(), "the mixer's own weights are the drawn ones still"


def test_labels_of_the_data_set_are_the_default(known):
    _, _, labels = known
    targets, mix = targets_of(known, labels, fallback="keep")
    expected = (mix.weights[..., None] * F.one_hot(labels, 4)[mix.sources]).sum(1)
    torch.testing.assert_close(targets.dense(4), expected)


def test_a_file_may_overrule_the_teacher_s_labels(known):
    teacher, images, labels = known
    options = {"name": "supermix", "teacher": teacher, "target": "teacher_hard"}
    step = create_step(
        copy.deepcopy(teacher), mix=options, labels="weights", num_classes=4, iterations=10, image_size=(16, 16)
    )
    _, report = step(images, labels)
    assert torch.equal(report.targets.weights, report.mix.weights)


def test_groups_are_taught_as_one_batch(known):
    teacher, images, labels = known
    mix = {"name": "supermix", "teacher": teacher, "target": "teacher_soft", "fallback": "keep", "group_size": 8}
    step = create_step(copy.deepcopy(teacher), mix=mix, num_classes=4, iterations=10, image_size=(16, 16))
    _, report = step(images, labels)
    assert report.mix.sources[7].tolist() == [7, 0]
    assert report.mix.sources[23].tolist() == [23, 16]
    told = teacher(report.mix.images).softmax(1)
    torch.testing.assert_close(report.targets.dense(4), told, atol=1e-5, rtol=1e-4)


def test_labels_of_other_mixes_are_their_own():
    mix = Mix.pair(torch.zeros(3, 1, 2, 2), torch.tensor([1, 2, 0]), 0.3)
    labels = torch.tensor([0, 1, 2])
    assert torch.equal(SuperMixLabels().mix_labels(mix, labels).dense(3), mix.targets(labels).dense(3))


# --- the teacher -----------------------------------------------------------------------------------------------------


def test_the_teacher_is_looked_at_and_never_trained():
    of, net = TinyConvNet(5), TinyConvNet(5)
    before = {name: value.clone() for name, value in of.state_dict().items()}
    step = create_step(net, mix=SuperMix(teacher=of), num_classes=5, iterations=10, image_size=(16, 16))
    loss, _ = step(torch.randn(6, 3, 16, 16), torch.arange(6) % 5)
    loss.backward()
    assert not of.training
    assert all(parameter.grad is None and not parameter.requires_grad for parameter in of.parameters())
    assert all(torch.equal(value, before[name]) for name, value in of.state_dict().items())
    assert not [name for name in step.saved_state() if "teacher" in name]
    assert {id(p) for group in step.param_groups(lr=0.1) for p in group["params"]} == {id(p) for p in net.parameters()}
    assert next(net.parameters()).grad.abs().sum() > 0


def test_the_share_of_finished_samples_is_logged(known):
    teacher, images, labels = known
    step = create_step(
        copy.deepcopy(teacher), mix=SuperMix(teacher=teacher), num_classes=4, iterations=10, image_size=(16, 16)
    )
    _, report = step(images, labels, logging=True)
    share = report.mix.notes["supermix_finished"].float().mean().item()
    assert 0 < share <= 1
    assert float(report.scalars["supermix/finished"]) == pytest.approx(share)


def test_nothing_of_the_teacher_is_read_on_the_host(known):
    teacher, images, labels = known
    for fallback in ("clean", "keep", "drop"):
        for target in ("area", "teacher_soft", "teacher_hard"):
            mix = SuperMix(teacher=copy.deepcopy(teacher), fallback=fallback, target=target)
            step = create_step(TinyConvNet(4), mix=mix, num_classes=4, iterations=10, image_size=(16, 16))
            loss, _ = step(images[:6].as_subclass(Tripwire), labels[:6].as_subclass(Tripwire))
            loss.backward()


def test_it_mixes_where_gradients_are_off(known):
    with torch.no_grad():
        mix, _, _ = mixed(known)
    expected, _, _ = mixed(known)
    assert torch.equal(mix.images, expected.images)


def test_a_teacher_from_a_file(tmp_path):
    import timm

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = timm.create_model("resnet10t", num_classes=5)
    torch.save(network.state_dict(), tmp_path / "teacher.pt")
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([0, 1, 2, 3])
    options = {"num_classes": 5, "fallback": "keep", "max_iter": 1}
    mixer = mixcore.create_mixer("supermix", teacher="resnet10t", weights=str(tmp_path / "teacher.pt"), **options)
    expected = mixcore.create_mixer("supermix", teacher=network, **options)(images, labels)
    torch.testing.assert_close(mixer(images, labels).images, expected.images)


def test_a_teacher_of_other_classes_makes_masks(known):
    teacher, images, labels = known
    of_the_task, _, _ = mixed(known)
    mixer = mixcore.create_mixer("supermix", num_classes=9, teacher=copy.deepcopy(teacher), classes="own")
    mix = mixer(images, labels, iteration=0)
    assert torch.equal(mix.images, of_the_task.images)
    assert mix.targets(labels).dense(9).shape == (24, 9)


# --- refusals --------------------------------------------------------------------------------------------------------


def test_a_teacher_of_other_classes_is_refused(known):
    with pytest.raises(ConfigError, match="for 9 classes, the task has 5"):
        create_step(
            TinyConvNet(5), mix=SuperMix(teacher=TinyConvNet(9)), num_classes=5, iterations=10, image_size=(16, 16)
        )
    own = {"teacher": TinyConvNet(9), "classes": "own", "target": "teacher_soft"}
    with pytest.raises(OptionValueError, match=r"teacher_soft.* has 9 classes, the task 5; name a teacher"):
        create_step(TinyConvNet(5), mix=SuperMix(**own), num_classes=5, iterations=10, image_size=(16, 16))
    teacher, images, labels = known
    unknown = nn.Sequential(copy.deepcopy(teacher), nn.Softmax(1))  # nothing says how many classes it has
    with pytest.raises(OptionValueError, match=r'teacher_hard.* has 4 classes, the task 5; .*target = "dirichlet"'):
        mixcore.create_mixer("supermix", num_classes=5, teacher=unknown, target="teacher_hard", fallback="keep")(
            images, labels
        )


def test_a_teacher_has_to_be_named():
    with pytest.raises(ConfigError, match="teacher"):
        mixcore.create_mixer("supermix", num_classes=5)
    with pytest.raises(ConfigError, match="resnet10z"):
        mixcore.create_mixer("supermix", num_classes=5, teacher="resnet10z")


@pytest.mark.parametrize(
    "options",
    [
        {"k": 1},
        {"k": 17},
        {"alpha": 0.0},
        {"w": 0},
        {"sigma": -1.0},
        {"lambda_s": -1.0},
        {"max_iter": 0},
        {"max_unfinished": 1.0},
        {"max_unfinished": -0.1},
        {"classes": "all"},
        {"fallback": "none"},
        {"target": "teacher"},
        {"weights": ""},
    ],
)
def test_options_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        SuperMix(teacher="resnet10t", **options)


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["targets"].shape == (8, 100)
    torch.testing.assert_close(names["targets"].sum(1), torch.ones(8))
