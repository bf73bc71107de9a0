"""The builtin losses against the numeric examples and invariants of their definition."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from mixcore.api import ConfigError, Targets, Task
from mixcore_plugins_builtin.losses.bce import BinaryCrossEntropy, binary_cross_entropy
from mixcore_plugins_builtin.losses.bce_softmax import SoftmaxBinaryCrossEntropy, softmax_binary_cross_entropy
from mixcore_plugins_builtin.losses.soft_cross_entropy import SoftCrossEntropy, original_smoothing, soft_cross_entropy

EXAMPLE = torch.tensor([[2.0, 1.0, -1.0]], dtype=torch.float64)


def pair(a: int, b: int, lam: float, *, smooth: bool = True) -> Targets:
    weights = torch.tensor([[lam, 1 - lam]], dtype=torch.float64)
    return Targets(labels=torch.tensor([a, b]), sources=torch.tensor([[0, 1]]), weights=weights, smooth=smooth)


def random_targets(rows: int, classes: int, sources: int = 2, *, seed: int = 0) -> tuple[Tensor, Targets]:
    """Logits [M,K] and class targets of `sources` sources, float64; few classes, so that some repeat."""
    rng = torch.Generator().manual_seed(seed)
    logits = torch.randn(rows, classes, dtype=torch.float64, generator=rng).mul_(3)
    labels = torch.randint(classes, (rows,), generator=rng)
    picked = torch.randint(rows, (rows, sources), generator=rng)
    weights = torch.rand(rows, sources, dtype=torch.float64, generator=rng)
    weights /= weights.sum(1, keepdim=True)
    return logits, Targets(labels=labels, sources=picked, weights=weights)


def as_soft(targets: Targets, classes: int) -> Targets:
    """The same targets with soft labels, which take the dense path."""
    labels = F.one_hot(targets.labels, classes).double()
    return Targets(labels=labels, sources=targets.sources, weights=targets.weights, smooth=targets.smooth)


def dense64(targets: Targets, classes: int) -> Tensor:
    """[M,K] float64, computed apart from Targets.dense."""
    return torch.einsum("ms,msk->mk", targets.weights, F.one_hot(targets.labels, classes).double()[targets.sources])


# --- the numbers of the definition -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.649012),
        ({"smoothing": 0.1}, 0.752346),
        ({"smoothing": 0.1, "smoothing_mode": "classy_vision"}, 0.742952),
    ],
)
def test_soft_cross_entropy_example(options: dict[str, Any], expected: float) -> None:
    plugin = SoftCrossEntropy(**options)
    assert plugin.compute_loss(EXAMPLE, pair(0, 1, 0.7)).item() == pytest.approx(expected, abs=1e-6)
    soft = as_soft(pair(0, 1, 0.7), 3)
    soft = Targets(labels=soft.labels, sources=soft.sources, weights=soft.weights.float())
    assert plugin.compute_loss(EXAMPLE, soft).item() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, 0.684484),
        ({"reduction": "sum_classes"}, 2.053452),
        ({"target_threshold": 0.2}, 0.251150),
        ({"target_threshold": 0.5}, 0.584484),
    ],
)
def test_bce_example(options: dict[str, Any], expected: float) -> None:
    loss = BinaryCrossEntropy(**options).compute_loss(EXAMPLE, pair(0, 1, 0.7))
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_bce_softmax_example() -> None:
    loss = SoftmaxBinaryCrossEntropy().compute_loss(EXAMPLE, pair(0, 1, 0.7))
    assert loss.item() == pytest.approx(0.420562, abs=1e-6)


# --- soft_cross_entropy ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sources", [1, 2, 4])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_gathered_form_is_the_dense_one(sources: int, smoothing: float) -> None:
    logits, targets = random_targets(16, 5, sources)
    t = (1 - smoothing) * dense64(targets, 5) + smoothing / 5
    expected = -(t * logits.log_softmax(1)).sum(1).mean()
    torch.testing.assert_close(soft_cross_entropy(logits, targets, smoothing=smoothing), expected)
    soft = Targets(
        labels=F.one_hot(targets.labels, 5).float(), sources=targets.sources, weights=targets.weights.float()
    )
    close = soft_cross_entropy(logits.float(), soft, smoothing=smoothing)
    torch.testing.assert_close(close, expected.float(), rtol=1e-6, atol=1e-6)


def test_per_sample_weights_before_the_mean() -> None:
    logits, targets = random_targets(16, 5)
    labels = targets.labels[targets.sources]
    own, other = (F.cross_entropy(logits, labels[:, k], reduction="none") for k in (0, 1))
    lam = targets.weights[:, 0]
    expected = (lam * own + (1 - lam) * other).mean()
    torch.testing.assert_close(soft_cross_entropy(logits, targets), expected)
    wrong = lam.mean() * own.mean() + (1 - lam.mean()) * other.mean()
    assert not torch.isclose(expected, wrong), "the example must tell the two apart"


def test_extremes_and_symmetry_of_a_pair() -> None:
    plain = F.cross_entropy(EXAMPLE, torch.tensor([0]))
    torch.testing.assert_close(soft_cross_entropy(EXAMPLE, pair(0, 1, 1.0)), plain)
    torch.testing.assert_close(soft_cross_entropy(EXAMPLE, pair(0, 0, 0.3)), plain)
    torch.testing.assert_close(
        soft_cross_entropy(EXAMPLE, pair(0, 2, 0.3)), soft_cross_entropy(EXAMPLE, pair(2, 0, 1 - 0.3))
    )
    shifted = soft_cross_entropy(EXAMPLE + 5, pair(0, 1, 0.7))
    torch.testing.assert_close(shifted, soft_cross_entropy(EXAMPLE, pair(0, 1, 0.7)))


def test_gradient_of_soft_cross_entropy() -> None:
    logits, targets = random_targets(8, 5)
    weights = targets.weights * torch.rand(8, 1, dtype=torch.float64)  # rows that do not sum to 1
    targets = Targets(labels=targets.labels, sources=targets.sources, weights=weights)
    soft_cross_entropy(logits.requires_grad_(), targets).backward()
    t = dense64(targets, 5)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, (logits.softmax(1) * t.sum(1, keepdim=True) - t).detach() / 8)


@pytest.mark.parametrize("mode", ["original", "classy_vision"])
def test_smoothing_identity(mode: str) -> None:
    """SCE(t') = (1-e) SCE(t) + e mean_c(-log p_c), with e or e/(1+e)."""
    logits, targets = random_targets(8, 5)
    e = original_smoothing(0.1, mode)
    expected = (1 - e) * soft_cross_entropy(logits, targets) - e * logits.log_softmax(1).mean()
    torch.testing.assert_close(soft_cross_entropy(logits, targets, smoothing=e), expected)
    t = dense64(targets, 5)
    by_definition = 0.9 * t + 0.1 / 5 if mode == "original" else (t + 0.1 / 5) / 1.1
    torch.testing.assert_close((1 - e) * t + e / 5, by_definition)
    torch.testing.assert_close(by_definition.sum(1), torch.ones(8, dtype=torch.float64))


@pytest.mark.parametrize("loss", [SoftCrossEntropy, BinaryCrossEntropy])
def test_targets_that_are_smooth_already_are_left_alone(loss: Any) -> None:
    ready = pair(0, 1, 0.7, smooth=False)
    smoothed, plain = loss(smoothing=0.1), loss()
    torch.testing.assert_close(smoothed.compute_loss(EXAMPLE, ready), plain.compute_loss(EXAMPLE, ready))
    assert not torch.isclose(
        smoothed.compute_loss(EXAMPLE, pair(0, 1, 0.7)), plain.compute_loss(EXAMPLE, pair(0, 1, 0.7))
    )


# --- bce -------------------------------------------------------------------------------------------------------------


def smoothed_by_definition(t: Tensor, smoothing: float, mode: str) -> Tensor:
    share = t.sum(1, keepdim=True) / t.shape[1]
    if mode == "original":
        return (1 - smoothing) * t + smoothing * share
    if mode == "classy_vision":
        return (t + smoothing * share) / (1 + smoothing)
    return torch.where(t > 0, 1 - smoothing, smoothing) if smoothing else t


@pytest.mark.parametrize("threshold", [None, 0.0, 0.2, 0.6])
@pytest.mark.parametrize("mode", ["original", "classy_vision", "multi_label"])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.4])
@pytest.mark.parametrize("sources", [1, 2, 4])
def test_bce_without_a_dense_target_is_bce(sources: int, smoothing: float, mode: Any, threshold: float | None) -> None:
    """Few classes: equal classes among the sources are the rule, and their weights must add up first."""
    logits, targets = random_targets(16, 3, sources)
    t = smoothed_by_definition(dense64(targets, 3), smoothing, mode)
    if threshold is not None:
        t = (t > threshold).double()
    expected = F.binary_cross_entropy_with_logits(logits, t.double())
    options: dict[str, Any] = {"smoothing": smoothing, "smoothing_mode": mode, "target_threshold": threshold}
    torch.testing.assert_close(binary_cross_entropy(logits, targets, **options), expected)
    soft = Targets(
        labels=F.one_hot(targets.labels, 3).float(), sources=targets.sources, weights=targets.weights.float()
    )
    dense = binary_cross_entropy(logits.float(), soft, **options)
    torch.testing.assert_close(dense, expected.float(), rtol=1e-5, atol=1e-6)


def test_equal_classes_are_added_before_the_threshold() -> None:
    """0.4 + 0.6 of one class is 1; neither half alone is above 0.7."""
    both = binary_cross_entropy(EXAMPLE, pair(0, 0, 0.4), target_threshold=0.7)
    torch.testing.assert_close(both, F.binary_cross_entropy_with_logits(EXAMPLE, torch.eye(3).double()[:1]))


@pytest.mark.parametrize("soft", [False, True])
@pytest.mark.parametrize("loss", [binary_cross_entropy, softmax_binary_cross_entropy])
def test_a_class_of_more_weight_than_one_counts_as_one(loss: Any, soft: bool) -> None:
    """Else a surer network would always have a smaller loss, down to minus infinity."""
    labels, sources = torch.tensor([2, 2]), torch.tensor([[0, 1]])
    double, single = (
        Targets(labels=labels, sources=sources, weights=torch.tensor([weights])) for weights in ([0.9, 0.8], [0.7, 0.3])
    )
    logits = torch.tensor([[0.3, -1.0, 60.0]])
    found, expected = (loss(logits, as_soft(one, 3) if soft else one) for one in (double, single))
    assert found.item() == pytest.approx(expected.item(), abs=1e-5)
    assert found >= 0


def test_threshold_is_strict_and_gives_one_or_two_ones() -> None:
    def ones(lam: float) -> list[float]:
        """The targets, read back as minus the gradient at large negative logits: sigmoid(z) - t."""
        logits = torch.full((1, 3), -50.0, dtype=torch.float64, requires_grad=True)
        binary_cross_entropy(logits, pair(0, 1, lam), target_threshold=0.25, reduction="sum_classes").backward()
        assert logits.grad is not None
        return [round(-value, 6) for value in logits.grad[0].tolist()]

    assert ones(0.5) == [1, 1, 0]
    assert ones(0.75) == [1, 0, 0], "0.25 is not above 0.25"
    assert ones(0.25) == [0, 1, 0]


def test_multi_label_rows() -> None:
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    targets = Targets(labels=labels, sources=torch.tensor([[0, 1]]), weights=torch.tensor([[0.75, 0.25]]))
    t = torch.tensor([[0.75, 1.0, 0.25]])
    logits = EXAMPLE.float()
    torch.testing.assert_close(binary_cross_entropy(logits, targets), F.binary_cross_entropy_with_logits(logits, t))
    torch.testing.assert_close(
        binary_cross_entropy(logits, targets, target_threshold=0.5),
        F.binary_cross_entropy_with_logits(logits, torch.tensor([[1.0, 1.0, 0.0]])),
    )


def test_gradient_and_reductions_of_bce() -> None:
    logits, targets = random_targets(8, 5)
    mean = binary_cross_entropy(logits.requires_grad_(), targets)
    mean.backward()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, (logits.sigmoid() - dense64(targets, 5)).detach() / (8 * 5))
    torch.testing.assert_close(binary_cross_entropy(logits, targets, reduction="sum_classes"), 5 * mean)
    assert not torch.isclose(binary_cross_entropy(logits + 1, targets), mean), "a shift matters, unlike in a softmax"


def test_bce_of_a_single_class_is_allowed() -> None:
    logits = torch.tensor([[0.5]])
    targets = Targets(labels=torch.ones(1, 1), sources=torch.zeros(1, 1, dtype=torch.long), weights=torch.ones(1, 1))
    torch.testing.assert_close(BinaryCrossEntropy().compute_loss(logits, targets), F.softplus(torch.tensor(-0.5)))


# --- all -------------------------------------------------------------------------------------------------------------

LOSSES: list[Any] = [
    SoftCrossEntropy(),
    SoftCrossEntropy(smoothing=0.1),
    BinaryCrossEntropy(),
    BinaryCrossEntropy(smoothing=0.1, smoothing_mode="multi_label", target_threshold=0.2),
    SoftmaxBinaryCrossEntropy(),
]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("size", [1e4, -1e4])
def test_extreme_logits_are_finite(loss: Any, size: float) -> None:
    logits = torch.tensor([[size, -size, 0.0], [-size, size, size], [size, size, size]], requires_grad=True)
    targets = Targets(
        labels=torch.tensor([0, 1, 2]),
        sources=torch.tensor([[0, 1], [1, 2], [2, 0]]),
        weights=torch.tensor([[0.7, 0.3], [1.0, 0.0], [0.5, 0.5]]),
    )
    value = loss.compute_loss(logits, targets)
    value.backward()
    assert value.isfinite()
    assert logits.grad is not None
    assert logits.grad.isfinite().all()


@pytest.mark.parametrize("loss", LOSSES)
def test_a_logit_that_is_no_number_shows_in_the_loss(loss: Any) -> None:
    """It must neither raise from within nor vanish: the loop reports it with epoch, step and mixer."""
    assert loss.compute_loss(torch.tensor([[0.0, float("nan"), 1.0]]), pair(0, 1, 0.7)).isnan()


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("soft", [False, True])
def test_no_rows_give_zero_with_a_graph(loss: Any, soft: bool) -> None:
    logits = torch.randn(4, 3, requires_grad=True)
    labels = torch.rand(4, 3) if soft else torch.tensor([0, 1, 2, 0])
    targets = Targets(labels=labels, sources=torch.zeros(0, 2, dtype=torch.long), weights=torch.zeros(0, 2))
    value = loss.compute_loss(logits[:0], targets)
    value.backward()
    assert value == 0
    assert logits.grad is not None
    assert not logits.grad.any()


@pytest.mark.parametrize("loss", [SoftCrossEntropy, BinaryCrossEntropy, SoftmaxBinaryCrossEntropy])
def test_normalizer(loss: Any) -> None:
    """ "weights" divides by the sum of the target weights, "batch" by the number of rows."""
    logits, targets = random_targets(8, 5)
    halved = Targets(labels=targets.labels, sources=targets.sources, weights=targets.weights / 2)
    by_rows = loss().compute_loss(logits, halved)
    torch.testing.assert_close(loss(normalizer="weights").compute_loss(logits, halved), by_rows * 2)
    torch.testing.assert_close(
        loss(normalizer="weights").compute_loss(logits, targets), loss().compute_loss(logits, targets)
    )


@pytest.mark.parametrize("loss", [SoftCrossEntropy(), SoftmaxBinaryCrossEntropy()])
def test_one_class_is_refused_by_softmax_losses(loss: Any) -> None:
    task = Task(num_classes=1, in_channels=3, image_size=(8, 8), mean=(0.5,) * 3, std=(0.5,) * 3)
    with pytest.raises(ConfigError, match=r'num_classes = 1 and needs at least 2; .*name = "bce"'):
        loss.check(task)
    with pytest.raises(ConfigError, match="num_classes = 1"):
        loss.compute_loss(torch.zeros(2, 1), pair(0, 0, 1.0))


def test_bce_softmax_is_the_dense_formula() -> None:
    logits, targets = random_targets(8, 5)
    t, p = dense64(targets, 5), logits.softmax(1)
    expected = -(t * p.log() + (1 - t) * (1 - p).log()).mean()
    torch.testing.assert_close(softmax_binary_cross_entropy(logits, targets), expected, rtol=1e-6, atol=1e-7)


def test_gradient_of_bce_softmax() -> None:
    """The gradient with respect to p is (p - t) / (p (1 - p)), taken through the softmax's Jacobian."""
    logits, targets = random_targets(8, 5)
    softmax_binary_cross_entropy(logits.requires_grad_(), targets).backward()
    t, p = dense64(targets, 5), logits.detach().softmax(1)
    outer = (p - t) / (p * (1 - p))
    expected = p * (outer - (outer * p).sum(1, keepdim=True)) / (8 * 5)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected, rtol=1e-5, atol=1e-7)


def test_bce_softmax_holds_logarithms_at_minus_100() -> None:
    logits = torch.tensor([[1e4, 0.0]], requires_grad=True)  # p = (1, 0), and the label is the other class
    loss = softmax_binary_cross_entropy(logits, pair(1, 1, 1.0))
    assert loss.item() == pytest.approx(100)


@pytest.mark.parametrize(
    ("loss", "options"),
    [
        (SoftCrossEntropy, {"smoothing": 1.0}),
        (SoftCrossEntropy, {"smoothing": -0.1}),
        (SoftCrossEntropy, {"smoothing_mode": "multi_label"}),
        (SoftCrossEntropy, {"normalizer": "sum"}),
        (BinaryCrossEntropy, {"target_threshold": 1.0}),
        (BinaryCrossEntropy, {"target_threshold": -0.1}),
        (BinaryCrossEntropy, {"reduction": "sum"}),
    ],
)
def test_values_that_are_refused(loss: Any, options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        loss(**options)


def test_what_labels_each_accepts() -> None:
    assert SoftCrossEntropy.accepts == SoftmaxBinaryCrossEntropy.accepts == {"class", "soft"}
    assert BinaryCrossEntropy.accepts == {"class", "soft", "multi_label"}
