"""Occlusion: accuracy while more and more patches of the image are replaced by the mean colour."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs.validators import ge, gt, le
from torch import Tensor, nn

from mixcore.api import ConfigError, RunData, Task, Track, hookimpl, keyed_generator
from mixcore_plugin_analyses.figures import curves, panels, save
from mixcore_plugin_analyses.predictions import logits_over, percent_correct
from mixcore_plugin_analyses.scan import scanned

__all__ = ["Occlusion", "occluded"]


def occluded(images: Tensor, order: Tensor, count: int, patch: int) -> Tensor:
    """Images [N,C,H,W] with the first `count` patches of each row of `order` [N or 1,P] set to zero."""
    rows, columns = images.shape[-2] // patch, images.shape[-1] // patch
    kept = torch.ones(order.shape, device=images.device)
    kept.scatter_(1, order[:, :count].to(images.device), 0.0)
    mask = kept.view(-1, 1, rows, columns)
    return images * mask.repeat_interleave(patch, 2).repeat_interleave(patch, 3)


@attrs.define(eq=False, kw_only=True)
class Occlusion:
    """Top-1 and top-5 accuracy against the share of patches that are hidden."""

    role = "analysis"
    spec_version = (1, 3)
    accepts = frozenset({"class"})

    patch: int | None = attrs.field(default=None, validator=attrs.validators.optional(ge(1)))
    """Height and width of a patch in pixels, which divide the image's; absent: a 14th of the height, at least 1."""
    max_ratio: float = attrs.field(default=0.9, validator=[gt(0), le(1)])
    """Largest share of patches, in (0, 1]."""
    step: float = attrs.field(default=0.1, validator=[gt(0), le(1)])
    """Distance of the shares."""
    per_batch: bool = False
    """Whether all images of a batch have the same patches, as published numbers of OpenMixup have it."""
    seed: int = attrs.field(default=0, validator=ge(0))
    """Key of the patches."""

    @hookimpl
    def analyse(self, model: nn.Module, data: RunData, task: Task, folder: Path, progress: Track) -> Mapping[str, Any]:
        """Percent; zero in normalised images is the mean colour."""
        patch = self._patch(task)
        patches = (task.image_size[0] // patch) * (task.image_size[1] // patch)
        ratios = [round(number * self.step, 6) for number in range(int(self.max_ratio / self.step + 1e-9) + 1)]

        def measure(ratio: float) -> list[float]:
            found = logits_over(model, self._hidden(data, round(ratio * patches), patch, patches))
            top5 = found.logits.topk(min(5, found.logits.shape[1]), 1).indices.eq(found.labels[:, None]).any(1)
            return [percent_correct(found.logits, found.labels), 100 * float(top5.double().mean())]

        by_ratio = scanned(folder, {f"{ratio:g}": ratio for ratio in ratios}, measure, progress)
        numbers = {
            **{f"top1_{name}": top1 for name, (top1, _) in by_ratio.items()},
            "patch": patch,
            "patches": patches,
            "curve": {
                "ratio": ratios,
                "top1": [top1 for top1, _ in by_ratio.values()],
                "top5": [top5 for _, top5 in by_ratio.values()],
            },
        }
        self.compare_runs({"": numbers}, folder)
        return numbers

    @hookimpl
    def compare_runs(self, results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
        """A curve per run."""
        figure, [[axes]] = panels(1, 1)
        lines = {name: (found["curve"]["ratio"], found["curve"]["top1"]) for name, found in results.items()}
        curves(axes, lines, "share of hidden patches", "top-1 accuracy, percent")
        axes.set_ylim(bottom=0)
        save(figure, folder)

    def _patch(self, task: Task) -> int:
        height, width = task.image_size
        divisors = [size for size in range(1, min(height, width) + 1) if height % size == 0 and width % size == 0]
        if self.patch is None:
            return max(size for size in divisors if size <= max(1, height // 14))
        if self.patch not in divisors:
            raise ConfigError(
                f"patch = {self.patch} does not divide images of {height}x{width}; choose one of "
                f"{', '.join(map(str, divisors))}"
            )
        return self.patch

    def _hidden(self, data: RunData, count: int, patch: int, patches: int) -> Any:
        for number, batch in enumerate(data.batches()):
            rng = keyed_generator("occlusion", self.seed, number)
            rows = 1 if self.per_batch else len(batch.images)
            order = torch.rand(rows, patches, generator=rng).argsort(1)
            yield attrs.evolve(batch, images=occluded(batch.images, order, count, patch))
