"""The comparison sheet: the same pairs mixed by every installed method."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs.validators import ge, le
from torch import Tensor, nn

from mixcore.api import DataError, Mix, RunData, Task, Track, hookimpl
from mixcore_plugin_analyses.figures import panels, save, show
from mixcore_plugin_analyses.predictions import first_images, pixels

__all__ = ["MixedSamples", "nearest_mix"]


def nearest_mix(data: RunData, images: Tensor, labels: Tensor, lam: float, draws: int, mixer: str | None) -> Mix | None:
    """Of so many draws, the mix of two images [2,C,H,W] whose first row is nearest to `lam` and has both as sources.

    None where no draw mixed the two in one image.
    """
    best: Mix | None = None
    for draw in range(draws):
        mix, _ = data.mix(images, labels, draw=draw, mixer=mixer)
        if mix.sources.shape[1] != 2 or mix.sources[0].tolist() != [0, 1]:
            continue
        if best is None or abs(float(mix.weights[0, 0]) - lam) < abs(float(best.weights[0, 0]) - lam):
            best = mix
    return best


@attrs.define(eq=False, kw_only=True)
class MixedSamples:
    """The same pairs mixed by every method, with masks and label weights: figure 2 of the benchmark's paper."""

    role = "analysis"
    spec_version = (1, 3)
    accepts = frozenset({"class"})

    lam: float = attrs.field(default=0.5, validator=[ge(0), le(1)])
    """Label weight of the first image that is wanted, in [0,1]; the nearest of the draws is shown, with its own."""
    draws: int = attrs.field(default=24, validator=ge(1))
    """Draws of each method that are looked through."""
    pairs: int = attrs.field(default=2, validator=ge(1))
    """Pairs of images, of different classes where there are such."""
    methods: tuple[str, ...] = ()
    """Names of mixers; empty: the run's own first, then every installed one."""
    look: int = attrs.field(default=64, validator=ge(2))
    """First images of the set that pairs are taken from."""

    @hookimpl
    def analyse(self, data: RunData, model: nn.Module, task: Task, folder: Path, progress: Track) -> Mapping[str, Any]:
        """The label weights that were realised by method and pair, or why a method is not pictured."""
        del model  # methods look at it through data.mix
        images, labels = first_images(data, self.look)
        pairs = self._pairs(labels)
        names = dict.fromkeys((None, *data.mixers) if not self.methods else self.methods)
        rows: list[tuple[str, list[Mix]]] = []
        found: dict[str, Any] = {}
        for mixer in progress(names, len(names)):
            name = mixer or "this run"
            mixes, why = self._mixes(data, images, labels, pairs, mixer)
            found[name] = why or [round(float(mix.weights[0, 0]), 4) for mix in mixes]
            if not why:
                rows.append((name, mixes))
        if rows:
            self._draw(rows, images, labels, pairs, task, folder)
        return {"methods": len(rows), "lam": found}

    def _pairs(self, labels: Tensor) -> list[tuple[int, int]]:
        known = labels.tolist()
        if len(known) < 2:
            raise DataError("a pair needs two images, and the set has one")
        pairs: list[tuple[int, int]] = []
        used: set[int] = set()
        for own in range(len(known)):
            if own in used or len(pairs) == self.pairs:
                continue
            others = [other for other in range(own + 1, len(known)) if other not in used]
            different = [other for other in others if known[other] != known[own]] or others
            if different:
                pairs.append((own, different[0]))
                used |= {own, different[0]}
        return pairs

    def _mixes(
        self, data: RunData, images: Tensor, labels: Tensor, pairs: list[tuple[int, int]], mixer: str | None
    ) -> tuple[list[Mix], str]:
        """A mix per pair, or why there is none."""
        mixes = []
        for pair in pairs:
            rows = torch.tensor(pair, device=images.device)
            try:
                mix = nearest_mix(data, images[rows], labels[rows], self.lam, self.draws, mixer)
            except Exception as error:  # whatever an installed method raises says why it is not pictured
                return [], str(error).partition("\n")[0]
            if mix is None:
                return [], f"no draw of {self.draws} mixed two images into one"
            if mix.stage is not None:
                return [], f"mixes inside the network, at stage {mix.stage}"
            mixes.append(mix)
        return mixes, ""

    def _draw(
        self,
        rows: list[tuple[str, list[Mix]]],
        images: Tensor,
        labels: Tensor,
        pairs: list[tuple[int, int]],
        task: Task,
        folder: Path,
    ) -> None:
        heads = ("image", "partner", "mixed", "mask")
        figure, axes = panels(len(rows), len(heads) * len(pairs), width=1.5, height=1.6)
        names = task.class_names or tuple(f"class {index}" for index in range(task.num_classes))
        originals = pixels(images, task)
        for line, (name, mixes) in zip(axes, rows, strict=True):
            for number, (pair, mix) in enumerate(zip(pairs, mixes, strict=True)):
                places = line[len(heads) * number : len(heads) * (number + 1)]
                lam = float(mix.weights[0, 0])
                texts = [names[int(labels[pair[0]])], names[int(labels[pair[1]])], f"{lam:.2f} : {1 - lam:.2f}", "mask"]
                own, other = (originals[index] for index in pair)
                height, width = own.shape[-2:]
                pictures = [own, other, pixels(mix.images[:1].float(), task)[0]]
                for place, picture, text in zip(places, pictures, texts, strict=False):
                    show(place, picture, text)
                if mix.masks is None:
                    places[3].axis("off")
                else:
                    mask = mix.masks_on(height, width)[0, 0].detach().float().cpu().numpy()
                    places[3].imshow(mask, cmap="gray", vmin=0, vmax=1)
                    places[3].set(xticks=[], yticks=[])
                    places[3].set_title("mask", fontsize="small")
            line[0].set_ylabel(name, fontsize="small")
        save(figure, folder)
