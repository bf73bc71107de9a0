"""DecoupleMix and its binary form: the examples and invariants of their specifications."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mixcore_plugin_decouplemix import (
    DecoupleMix,
    DecoupleMixBCE,
    decoupled_cross_entropy,
    two_hot_binary_cross_entropy,
)

from mixcore.api import ConfigError, MixcoreError, Targets
from mixcore.mixers import create_step
from mixcore.testing import Tripwire, run_example, tiny_network


def pair(labels, partner_labels, lam):
    """Targets of a pair mix with these classes; sources point at both, one after the other."""
    labels, partner_labels = torch.tensor(labels), torch.tensor(partner_labels)
    rows = torch.arange(len(labels))
    lam = torch.tensor(lam, dtype=torch.float32)
    return Targets(
        labels=torch.cat((labels, partner_labels)),
        sources=torch.stack((rows, rows + len(labels)), 1),
        weights=torch.stack((lam, 1 - lam), 1),
    )


def of(classes, weights, **rest):
    """Targets with these classes and weights per source."""
    classes = torch.tensor(classes)
    return Targets(
        labels=classes.flatten(),
        sources=torch.arange(classes.numel()).view(classes.shape),
        weights=torch.tensor(weights, dtype=torch.float32),
        **rest,
    )


def soft_cross_entropy(logits, targets, smoothing=0.0):
    return -(targets.dense(logits.shape[1], smoothing) * logits.log_softmax(1)).sum(1).mean()


def by_hand(logits, a, b, lam, eta, mode, thr, xi, thr_scale):
    """Steps 1 to 4 with plain Python and explicit class sets, one sample."""
    z = logits.double()
    loss = -(lam * z.log_softmax(0)[a] + (1 - lam) * z.log_softmax(0)[b])
    if a == b or min(lam, 1 - lam) < 1e-3:
        return loss
    rest = [c for c in range(len(z)) if c not in (a, b)]
    takes_a = {"both": True, "less": lam < thr, "more": lam >= thr}[mode]
    takes_b = {"both": True, "less": not lam < thr, "more": not lam >= thr}[mode]
    for own, weight, taken in ((a, lam, takes_a), (b, 1 - lam, takes_b)):
        ratio = 1.0 if weight >= thr_scale else (weight / thr_scale) ** xi
        if taken:
            loss = loss + eta * ratio * (z[[own, *rest]].logsumexp(0) - z[own])
    return loss


EXAMPLES = [
    ((2, 1, 0), 0.6, {"xi": 0.0}, 0.851625),
    ((2, 1, 0), 0.6, {}, 0.827752),
    ((2, 1, -1), 0.7, {"xi": 0.0}, 0.666564),
    ((2, 1, -1), 0.7, {}, 0.656221),
    ((2, 1, -1), 0.7, {"mode": "less"}, 0.652820),
    ((2, 1, -1), 0.7, {"mode": "more"}, 0.652413),
    ((2, 1, -1), 0.7, {"xi": 0.5}, 0.660029),
    ((2, 1, 0), 0.6, {"eta": 0.0}, 0.807606),
    ((2, 1, -1), 0.7, {"eta": 0.0, "smoothing": 0.1}, 0.752346),
]


@pytest.mark.parametrize(("logits", "lam", "options", "expected"), EXAMPLES)
def test_the_examples(logits, lam, options, expected):
    loss = DecoupleMix(**options).compute_loss(
        logits=torch.tensor([logits], dtype=torch.float32), targets=pair([0], [1], [lam])
    )
    assert loss.item() == pytest.approx(expected, abs=2e-6)


def decoupled_terms(logits, a, b):
    """DM_a and DM_b, read from losses that differ by one term."""
    logits = torch.tensor([logits], dtype=torch.float64)
    plain = decoupled_cross_entropy(logits, pair([a], [b], [0.5]), eta=0.0)
    modes = [decoupled_cross_entropy(logits, pair([a], [b], [0.4]), eta=1.0, xi=0.0, mode=m) for m in ("less", "more")]
    plain = decoupled_cross_entropy(logits, pair([a], [b], [0.4]), eta=0.0)
    return [(loss - plain).item() for loss in modes]


def test_the_third_example_and_a_pair_of_two_classes():
    assert decoupled_terms((2, 1, 0, -1), 0, 1) == pytest.approx([0.169846, 0.407606], abs=1e-6)
    assert decoupled_terms((2, 1), 0, 1) == pytest.approx([0, 0], abs=1e-9)


@pytest.mark.parametrize("mode", ["both", "less", "more"])
@pytest.mark.parametrize(("thr", "xi", "thr_scale"), [(0.5, 1.0, 1.0), (0.3, 0.5, 0.7), (0.5, 0.0, 1.0)])
def test_batches_equal_the_formula_sample_by_sample(mode, thr, xi, thr_scale):
    rng = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(40, 5, generator=rng)
    a, b = torch.randint(5, (2, 40), generator=rng).tolist()
    lam = torch.rand(40, generator=rng)
    lam[:4] = torch.tensor([0.5, 0.0, 1.0, 5e-4])
    options = {"eta": 0.3, "mode": mode, "thr": thr, "xi": xi, "thr_scale": thr_scale}
    expected = torch.stack([by_hand(logits[i], a[i], b[i], lam[i].item(), **options) for i in range(40)]).mean()
    loss = decoupled_cross_entropy(logits, pair(a, b, lam.tolist()), **options)
    torch.testing.assert_close(loss, expected.float(), rtol=1e-5, atol=1e-6)


def test_without_a_second_class_it_is_plain_cross_entropy():
    logits, targets = torch.randn(6, 4), pair([0, 1, 2, 3, 0, 1], [0, 1, 2, 3, 0, 1], [0.3, 0.5, 0.1, 0.9, 0, 1])
    expected = torch.nn.functional.cross_entropy(logits, targets.labels[:6])
    torch.testing.assert_close(decoupled_cross_entropy(logits, targets, eta=5.0), expected)
    mixed = pair([0, 1], [2, 3], [0.3, 0.6])
    torch.testing.assert_close(
        decoupled_cross_entropy(logits[:2], mixed, eta=0.0), soft_cross_entropy(logits[:2], mixed), rtol=0, atol=1e-6
    )


def test_swapping_the_two_classes_and_shifting_the_logits_change_nothing():
    logits, lam = torch.randn(5, 6), [0.2, 0.5, 0.9, 0.7, 0.4]
    one = decoupled_cross_entropy(logits, pair([0, 1, 2, 3, 4], [1, 2, 3, 4, 5], lam))
    other = pair([1, 2, 3, 4, 5], [0, 1, 2, 3, 4], [1 - value for value in lam])
    torch.testing.assert_close(decoupled_cross_entropy(logits, other), one)
    torch.testing.assert_close(decoupled_cross_entropy(logits + 7, pair([0, 1, 2, 3, 4], [1, 2, 3, 4, 5], lam)), one)


def test_a_decoupled_term_pulls_its_own_class_and_leaves_the_other_alone():
    logits = torch.tensor([[0.4, 1.3, -0.2, 0.7]], dtype=torch.float64, requires_grad=True)
    targets = pair([0], [1], [0.3])
    term = decoupled_cross_entropy(logits, targets, eta=1.0, xi=0.0, mode="less")
    term = term - decoupled_cross_entropy(logits, targets, eta=0.0)
    (gradient,) = torch.autograd.grad(term, logits)
    share = logits[0, [0, 2, 3]].softmax(0)[0]
    assert gradient[0, 0].item() == pytest.approx((share - 1).item())
    assert gradient[0, 1].item() == 0


@pytest.mark.parametrize("classes", [2, 3])
def test_huge_logits_and_no_other_class_stay_finite(classes):
    logits = (torch.tensor([[1e4, -1e4, 1e4], [-1e4, 1e4, -1e4]])[:, :classes]).requires_grad_()
    loss = decoupled_cross_entropy(logits, pair([0, 1], [1, 0], [0.5, 0.2]), eta=1.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert gradient.isfinite().all()


def test_more_than_two_sources_are_merged_and_small_ones_dropped():
    logits = torch.randn(1, 5)
    merged = decoupled_cross_entropy(logits, of([[3, 1, 3, 4]], [[0.2, 0.5, 0.2995, 0.0005]]), eta=0.4, xi=0.5)
    z = logits[0].double()
    expected = -(0.4995 * z.log_softmax(0)[3] + 0.5 * z.log_softmax(0)[1] + 0.0005 * z.log_softmax(0)[4])
    for own, weight in ((3, 0.4995), (1, 0.5)):
        expected = expected + 0.4 * weight**0.5 * (z[[own, 0, 2, 4]].logsumexp(0) - z[own])
    torch.testing.assert_close(merged, expected.float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("mode", "own"), [("less", 2), ("more", 0)])
def test_of_three_classes_a_mode_chooses_one(mode, own):
    logits, targets = torch.randn(1, 5), of([[0, 1, 2]], [[0.5, 0.3, 0.2]])
    plain = decoupled_cross_entropy(logits, targets, eta=0.0)
    term = decoupled_cross_entropy(logits, targets, eta=1.0, xi=0.0, mode=mode) - plain
    z = logits[0]
    torch.testing.assert_close(term, z[[own, 3, 4]].logsumexp(0) - z[own], rtol=1e-4, atol=1e-5)


def test_a_padded_pair_equals_the_pair():
    """Groups that mix fewer sources are padded with weight 0."""
    logits = torch.randn(3, 5)
    for mode in ("both", "less", "more"):
        two = decoupled_cross_entropy(
            logits, of([[0, 1]] * 3, [[0.2, 0.8], [0.4, 0.6], [0.9, 0.1]]), mode=mode, thr=0.3
        )
        padded = of([[0, 1, 1]] * 3, [[0.2, 0.8, 0], [0.4, 0.6, 0], [0.9, 0.1, 0]])
        torch.testing.assert_close(decoupled_cross_entropy(logits, padded, mode=mode, thr=0.3), two)


def test_smoothing_touches_the_cross_entropy_once():
    logits, targets = torch.randn(2, 4), pair([0, 1], [2, 3], [0.3, 0.6])
    extra = decoupled_cross_entropy(logits, targets) - decoupled_cross_entropy(logits, targets, eta=0.0)
    smooth = soft_cross_entropy(logits, targets, 0.2)
    torch.testing.assert_close(decoupled_cross_entropy(logits, targets, smoothing=0.2), smooth + extra)
    settled = Targets(labels=targets.labels, sources=targets.sources, weights=targets.weights, smooth=False)
    torch.testing.assert_close(
        decoupled_cross_entropy(logits, settled, smoothing=0.2), decoupled_cross_entropy(logits, targets)
    )


# --- the binary form -------------------------------------------------------------------------------------------------


def bce(logits, dense, negative=1.0):
    each = torch.nn.functional.binary_cross_entropy_with_logits(logits, dense, reduction="none")
    return torch.where(dense == 0, negative * each, each)


def test_its_defaults_are_plain_binary_cross_entropy():
    logits = torch.tensor([[2.0, 1.0, -1.0]])
    targets = pair([0], [1], [0.7])
    assert two_hot_binary_cross_entropy(logits, targets).item() == pytest.approx(0.684484, abs=1e-6)
    summed = two_hot_binary_cross_entropy(logits, targets, reduction="sum_classes")
    assert summed.item() == pytest.approx(2.053452, abs=1e-6)
    # both classes at 1, the example of thresholded targets
    assert two_hot_binary_cross_entropy(logits, targets, xi=0.0).item() == pytest.approx(0.251150, abs=1e-6)


def test_targets_rise_faster_than_weights_and_equal_classes_stop_at_one():
    logits = torch.randn(3, 4)
    targets = pair([0, 2, 1], [1, 2, 3], [0.6, 0.4, 0.1])
    dense = torch.zeros(3, 4)
    dense[0, 0], dense[0, 1] = 0.9 * 1.0, 0.9 * (0.4 / 0.5) ** 0.5
    dense[1, 2] = 1.0
    dense[2, 1], dense[2, 3] = 0.9 * (0.1 / 0.5) ** 0.5, 0.9
    loss = two_hot_binary_cross_entropy(logits, targets, two_hot_scale=0.9, neg_weight=0.3, xi=0.5, thr=0.5)
    torch.testing.assert_close(loss, bce(logits, dense, 0.3).mean())


def test_a_class_that_is_not_there_is_not_hot():
    logits, targets = torch.randn(1, 4), pair([0], [1], [1.0])
    expected = bce(logits, torch.tensor([[1.0, 0, 0, 0]]), 0.5).mean()
    torch.testing.assert_close(two_hot_binary_cross_entropy(logits, targets, xi=0.0, neg_weight=0.5), expected)


def test_the_binary_form_at_huge_logits():
    logits = torch.tensor([[1e4, -1e4, 1e4]], requires_grad=True)
    loss = two_hot_binary_cross_entropy(logits, pair([0], [1], [0.5]), neg_weight=0.0)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert loss.isfinite()
    assert gradient.isfinite().all()


# --- in a run --------------------------------------------------------------------------------------------------------


def step_with(loss, mix="cutmix", labels=None, **rest):
    model = tiny_network((), 5, (16, 16), 3)
    return create_step(
        model, mix=mix, labels=labels, loss=loss, num_classes=5, iterations=10, image_size=(16, 16), **rest
    )


@pytest.mark.parametrize("loss", ["decouplemix", "decouplemix_bce"])
def test_it_stays_on_the_device_under_any_label_policy(loss):
    step = step_with({"name": loss, "xi": 0.5}, mix={"name": "cutmix", "per_sample": True}, labels="area")
    images = torch.randn(6, 3, 16, 16).as_subclass(Tripwire)
    value, _ = step(images, torch.tensor([0, 1, 2, 3, 4, 0]).as_subclass(Tripwire))
    value.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in step.parameters())


@pytest.mark.parametrize("loss", ["decouplemix", "decouplemix_bce"])
@pytest.mark.parametrize("kind", ["soft", "value"])
def test_labels_that_are_no_classes_are_refused_before_training(loss, kind):
    with pytest.raises(ConfigError, match=rf"{loss} .* takes labels of kind class, and this task has {kind} labels"):
        step_with(loss, label_kind=kind)


def test_labels_of_a_teacher_are_refused_with_what_to_do():
    targets = Targets(labels=torch.rand(2, 3), sources=torch.zeros(2, 1, dtype=torch.int64), weights=torch.ones(2, 1))
    for loss in (DecoupleMix(), DecoupleMixBCE()):
        with pytest.raises(MixcoreError, match=r"found labels \[2, 3\] of torch.float32; use a label policy"):
            loss.compute_loss(logits=torch.randn(2, 3), targets=targets)


def test_a_single_class_is_refused():
    model = tiny_network((), 1, (16, 16), 3)
    with pytest.raises(ConfigError, match="num_classes = 1 and needs at least 2"):
        create_step(model, loss="decouplemix", num_classes=1, iterations=1, image_size=(16, 16))


@pytest.mark.parametrize(
    ("plugin", "options"),
    [
        (DecoupleMix, {"eta": -1.0}),
        (DecoupleMix, {"mode": "all"}),
        (DecoupleMix, {"thr": 1.5}),
        (DecoupleMix, {"xi": -0.5}),
        (DecoupleMix, {"thr_scale": 0.0}),
        (DecoupleMix, {"smoothing": 1.0}),
        (DecoupleMixBCE, {"two_hot_scale": 0.0}),
        (DecoupleMixBCE, {"neg_weight": 2.0}),
        (DecoupleMixBCE, {"xi": -1.0}),
        (DecoupleMixBCE, {"thr": 0.0}),
        (DecoupleMixBCE, {"reduction": "sum"}),
    ],
)
def test_options_out_of_range_are_refused(plugin, options):
    with pytest.raises(ValueError, match=next(iter(options))):
        plugin(**options)


def test_the_example_of_the_readme_runs():
    names = run_example(Path(__file__).parents[1] / "README.md")
    assert names["loss"].isfinite()
    assert names["model"].get_classifier().weight.grad.abs().sum() > 0
