"""The check of a label policy: what its weights are."""

from __future__ import annotations

from mixcore.testing.expect import expect
from mixcore.testing.harness import Harness

__all__ = ["label_weights"]


def label_weights(harness: Harness) -> None:
    """Label weights [M,S] are finite, at least 0, carry no graph, and those of one image sum to 1."""
    step = harness.step()
    for iteration in range(4):
        images, labels = harness.batch(seed=iteration)
        mix, targets = harness.mix_and_targets(images, labels, iteration=iteration, step=step)
        weights = targets.weights
        expect(weights.shape == mix.weights.shape, f"weights {list(weights.shape)} of mix {list(mix.weights.shape)}")
        expect(bool(weights.isfinite().all()), "a label weight is not finite")
        expect(weights.min().item() >= 0, f"a label weight is {weights.min().item():.4g}")
        expect(not weights.requires_grad, "label weights carry a graph; detach what is returned as data")
        far = (weights.sum(1) - mix.weights.sum(1)).abs().max().item()
        expect(
            far < 1e-4 or not harness.subject.weights_sum_to_one,
            f"label weights of one image sum to {weights.sum(1).tolist()}, not 1; divide by their sum, or declare "
            'contract = {"weights_sum_to_one": False} where the method is defined so',
        )
