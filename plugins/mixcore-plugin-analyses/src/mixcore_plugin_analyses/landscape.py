"""Loss landscape: loss and accuracy along a direction, over a plane, and around the path of the training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import ge, gt, optional
from torch import nn
from torch.func import functional_call

from mixcore.api import ConfigError, RunData, Track, hookimpl, logits_of
from mixcore_plugin_analyses.directions import (
    Normalisation,
    State,
    between,
    cosine,
    principal,
    project,
    random_direction,
    state_of,
)
from mixcore_plugin_analyses.landscape_figures import draw_lines, draw_plane
from mixcore_plugin_analyses.scan import scanned

__all__ = ["Landscape", "flat_width", "loss_and_accuracy"]

RISE = 0.5
"""How far above the loss in the middle the flat part of a line reaches."""


def loss_and_accuracy(model: nn.Module, state: State, data: RunData, images: int | None, name: str) -> list[Any]:
    """Mean cross-entropy (words where it is not finite) and top-1 accuracy in percent, with these weights in place.

    The network's own weights are not touched.
    """
    loss, hits, seen = 0.0, 0, 0
    with torch.no_grad():
        for batch, labels in data.batches(name):
            left = len(batch) if images is None else min(len(batch), images - seen)
            if left <= 0:
                break
            logits = logits_of(functional_call(model, dict(state), (batch[:left],))).double()
            loss += float(F.cross_entropy(logits, labels[:left], reduction="sum"))
            hits += int((logits.argmax(1) == labels[:left]).sum())
            seen += left
    mean = loss / seen
    return [mean if math.isfinite(mean) else "not finite", 100 * hits / seen]


def flat_width(positions: list[float], losses: list[Any], level: float) -> float:
    """Length of the positions at which the loss, straight between the points, is at most `level`."""
    width = 0.0
    points = [(at, loss if isinstance(loss, float) else math.inf) for at, loss in zip(positions, losses, strict=True)]
    for (left, low), (right, high) in pairwise(points):
        step, (below, above) = right - left, sorted((low, high))
        if above <= level:
            width += step
        elif below <= level:
            width += step * (level - below) / (above - below)
    return width


@attrs.define(eq=False, kw_only=True)
class Landscape:
    """Loss and accuracy along random directions with filter normalisation (Li et al., 2018), and around the path."""

    role = "analysis"
    spec_version = (1, 3)
    accepts = frozenset({"class"})

    kind: Literal["line", "plane", "trajectory"] = "line"
    """A line, a plane of two directions, or the plane in which the checkpoints of the run lie best."""
    points: int = attrs.field(default=51, validator=ge(3))
    """Points along each direction."""
    span: float = attrs.field(default=1.0, validator=gt(0))
    """A line goes from -span to span."""
    normalisation: Normalisation = "filter"
    """What a random direction is scaled to; "none" also moves one-dimensional weights, by themselves."""
    direction: Literal["weights", "states"] = "weights"
    """Whether BatchNorm statistics move too ("states")."""
    to: int | None = attrs.field(default=None, validator=optional(ge(0)))
    """Epoch of a checkpoint in the run's folder that the line goes to, at 1; absent: a random direction."""
    split: str | None = None
    """Set whose loss it is, such as "train"; absent: the analysed one."""
    images: int | None = attrs.field(default=None, validator=optional(ge(1)))
    """First images of the set that are scored; absent: all."""
    seed: int = attrs.field(default=0, validator=ge(0))
    """Key of the directions: runs of one seed have the same."""

    @hookimpl
    def analyse(self, model: nn.Module, data: RunData, folder: Path, progress: Track) -> Mapping[str, Any]:
        """The scan and what sums it up; eval mode, running statistics as they are."""
        base = state_of(model, states=self.direction == "states")
        split = self.split or data.set_name
        if split not in data.sets:
            raise ConfigError(f"split = {split!r} is no set of this run; it has: {', '.join(data.sets)}")
        if self.kind == "line":
            numbers = self._line(model, base, data, split, folder, progress)
        elif self.kind == "plane":
            pair = [random_direction(base, self.normalisation, self.seed, number) for number in range(2)]
            axis = self._positions(-self.span, self.span)
            numbers = self._plane(model, base, pair, (axis, axis), data, split, folder, progress)
        else:
            numbers = self._trajectory(model, base, data, split, folder, progress)
        self.compare_runs({"": {**numbers, "split": split}}, folder)
        return {**numbers, "split": split}

    @hookimpl
    def compare_runs(self, results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
        """All lines in one panel, planes side by side."""
        (draw_lines if self.kind == "line" else draw_plane)(results, folder)

    def _positions(self, low: float, high: float) -> list[float]:
        step = (high - low) / (self.points - 1)
        return [round(low + step * number, 9) for number in range(self.points)]

    def _line(
        self, model: nn.Module, base: State, data: RunData, split: str, folder: Path, progress: Track
    ) -> dict[str, Any]:
        if self.to is None:
            direction = random_direction(base, self.normalisation, self.seed, 0)
        else:
            direction = between(base, dict(data.checkpoints()), self.to)
        positions = self._positions(-self.span, self.span)

        def measure(alpha: float) -> list[Any]:
            moved = {name: value + alpha * direction[name] for name, value in base.items()}
            return loss_and_accuracy(model, moved, data, self.images, split)

        found = scanned(folder, {f"{alpha:.9f}": alpha for alpha in positions}, measure, progress)
        losses, accuracies = [loss for loss, _ in found.values()], [accuracy for _, accuracy in found.values()]
        middle, accuracy = measure(0.0)
        if not isinstance(middle, float):
            return {"loss": middle, "accuracy": accuracy, "flat_width": "the loss of the network is not finite"}
        width = flat_width(positions, losses, middle + RISE)
        return {
            "loss": middle,
            "accuracy": accuracy,
            "flat_width": width,
            "flat_to_the_end": bool(width >= 2 * self.span - 1e-9),
            "line": {"alpha": positions, "loss": losses, "accuracy": accuracies},
        }

    def _plane(
        self,
        model: nn.Module,
        base: State,
        pair: Sequence[State],
        axes: tuple[list[float], list[float]],
        data: RunData,
        split: str,
        folder: Path,
        progress: Track,
    ) -> dict[str, Any]:
        def measure(at: tuple[float, float]) -> list[Any]:
            moved = {name: w + at[0] * pair[0][name] + at[1] * pair[1][name] for name, w in base.items()}
            return loss_and_accuracy(model, moved, data, self.images, split)

        places = {f"{x:.9f} {y:.9f}": (x, y) for y in axes[1] for x in axes[0]}
        found = list(scanned(folder, places, measure, progress).values())
        rows = [found[start : start + len(axes[0])] for start in range(0, len(found), len(axes[0]))]
        return {
            "cosine": cosine(*pair),
            "plane": {
                "x": axes[0],
                "y": axes[1],
                "loss": [[loss for loss, _ in row] for row in rows],
                "accuracy": [[accuracy for _, accuracy in row] for row in rows],
            },
        }

    def _trajectory(
        self, model: nn.Module, base: State, data: RunData, split: str, folder: Path, progress: Track
    ) -> dict[str, Any]:
        states = dict(data.checkpoints())
        pair, ratios = principal(base, states)
        path = [[project(base, state, direction) for direction in pair] for state in states.values()]
        axes = []
        for number in range(2):
            values = [0.0, *(at[number] for at in path)]
            room = 0.2 * (max(values) - min(values)) or 1.0
            axes.append(self._positions(min(values) - room, max(values) + room))
        numbers = self._plane(model, base, pair, (axes[0], axes[1]), data, split, folder, progress)
        return {
            **numbers,
            "explained_variance": ratios,
            "path": {"epoch": list(states), "x": [at[0] for at in path], "y": [at[1] for at in path]},
        }
