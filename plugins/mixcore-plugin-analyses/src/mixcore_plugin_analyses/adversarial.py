"""Adversarial robustness: FGSM (Goodfellow et al., 2015) and PGD (Madry et al., 2018), in pixels in [0,1]."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import deep_iterable, ge, gt, min_len, optional
from torch import Tensor, nn

from mixcore.api import RunData, Task, Track, hookimpl, keyed_generator, logits_of
from mixcore_plugin_analyses.figures import curves, panels, save
from mixcore_plugin_analyses.predictions import normalised, percent_correct, pixels, predictions
from mixcore_plugin_analyses.scan import scanned

__all__ = ["Fgsm", "Pgd", "attack"]

_EPS: Any = [min_len(1), deep_iterable(ge(0))]


def attack(
    model: nn.Module, found: Tensor, labels: Tensor, task: Task, *, eps: float, step: float, steps: int, start: Tensor
) -> Tensor:
    """Pixels [N,C,H,W] in [0,1] within `eps` of `found`, at which the cross-entropy is larger.

    From `found + start` it goes `steps` steps of size `step` along the sign of the gradient, each followed by the
    projection onto the ball of radius `eps` in the maximum norm and onto [0,1]. All sizes are in pixels, of 1.
    """
    moved = (found + start).clamp(0, 1)
    for _ in range(steps):
        with torch.enable_grad():
            moved = moved.detach().requires_grad_()
            loss = F.cross_entropy(logits_of(model(normalised(moved, task))).float(), labels)
            (gradient,) = torch.autograd.grad(loss, moved)
        moved = moved.detach() + step * gradient.sign()
        moved = found + (moved - found).clamp(-eps, eps)
        moved = moved.clamp(0, 1)
    return moved.detach()


@attrs.define(eq=False, kw_only=True)
class _Attack:
    """What both attacks share: a radius after the other, accuracy under each."""

    role = "analysis"
    spec_version = (1, 3)
    accepts = frozenset({"class"})

    eps: tuple[float, ...]
    """Radii of the ball in the maximum norm, in units of 1/255."""
    images: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """First images of the set that are attacked; absent: all."""

    def moved(self, model: nn.Module, found: Tensor, labels: Tensor, task: Task, eps: float, batch: int) -> Tensor:
        """Attacked pixels of a batch; `eps` is in pixels, of 1."""
        raise NotImplementedError

    @hookimpl
    def analyse(self, model: nn.Module, data: RunData, task: Task, folder: Path, progress: Track) -> Mapping[str, Any]:
        """Percent: accuracy and top-1 error per radius, `clean` without attack."""
        clean = predictions(model, data, progress)
        first = slice(self.images)
        by_eps = scanned(
            folder, {f"{eps:g}": eps for eps in self.eps}, lambda eps: self._accuracy(model, data, task, eps), progress
        )
        numbers = {
            "clean": percent_correct(clean.logits[first], clean.labels[first]),
            **{f"accuracy_{name}": found for name, found in by_eps.items()},
            **{f"error_{name}": 100 - found for name, found in by_eps.items()},
            "images": len(clean.labels[first]),
            "curve": {"eps": list(self.eps), "accuracy": list(by_eps.values())},
        }
        self._draw({"": numbers}, folder)
        return numbers

    @hookimpl
    def compare_runs(self, results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
        """A curve per run."""
        self._draw(results, folder)

    def _accuracy(self, model: nn.Module, data: RunData, task: Task, eps: float) -> float:
        hits = seen = 0
        for number, (images, labels) in enumerate(data.batches()):
            left = len(images) if self.images is None else min(len(images), self.images - seen)
            if left <= 0:
                break
            found, own = pixels(images[:left], task), labels[:left]
            with torch.no_grad():
                answers = logits_of(model(normalised(self.moved(model, found, own, task, eps / 255, number), task)))
            hits += int((answers.argmax(1) == own).sum())
            seen += left
        return 100 * hits / seen

    def _draw(self, results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
        figure, [[axes]] = panels(1, 1)
        lines = {
            name: ([0.0, *found["curve"]["eps"]], [found["clean"], *found["curve"]["accuracy"]])
            for name, found in results.items()
        }
        curves(axes, lines, "eps, of 255", "top-1 accuracy, percent")
        axes.set_ylim(bottom=0)
        save(figure, folder)


@attrs.define(eq=False, kw_only=True)
class Fgsm(_Attack):
    """Accuracy after one step along the sign of the gradient."""

    eps: tuple[float, ...] = attrs.field(default=(1.0, 2.0, 4.0, 8.0), validator=_EPS)
    """Radii of the ball in the maximum norm, in units of 1/255."""

    def moved(self, model: nn.Module, found: Tensor, labels: Tensor, task: Task, eps: float, batch: int) -> Tensor:  # noqa: ARG002
        """One step to the edge of the ball."""
        return attack(model, found, labels, task, eps=eps, step=eps, steps=1, start=torch.zeros_like(found))


@attrs.define(eq=False, kw_only=True)
class Pgd(_Attack):
    """Accuracy after several projected steps from a random start inside the ball."""

    eps: tuple[float, ...] = attrs.field(default=(8.0,), validator=_EPS)
    """Radii of the ball in the maximum norm, in units of 1/255."""
    step: float = attrs.field(default=2.0, validator=gt(0))
    """Size of a step, in units of 1/255."""
    steps: int = attrs.field(default=10, validator=ge(1))
    """Steps."""
    seed: int = attrs.field(default=0, validator=ge(0))
    """Key of the starts."""

    def moved(self, model: nn.Module, found: Tensor, labels: Tensor, task: Task, eps: float, batch: int) -> Tensor:
        """From a start uniform in the ball."""
        rng = keyed_generator("pgd", self.seed, batch)
        start = (torch.rand(found.shape, generator=rng) * 2 - 1).mul(eps).to(found.device)
        return attack(model, found, labels, task, eps=eps, step=self.step / 255, steps=self.steps, start=start)
