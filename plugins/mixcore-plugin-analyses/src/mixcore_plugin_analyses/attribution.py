"""Where the network looks: Grad-CAM and input gradients by captum, also of mixed images for both labels."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch
import torch.nn.functional as F
from attrs.validators import ge
from torch import Tensor, nn

from mixcore.api import ConfigError, Mix, RunData, Task, as_map, hookimpl, is_channels_last, logits_of, prefix_tokens
from mixcore_plugin_analyses.figures import blended, panels, save, show
from mixcore_plugin_analyses.fourier import tapped
from mixcore_plugin_analyses.mixed_samples import nearest_mix
from mixcore_plugin_analyses.predictions import first_images, pixels

__all__ = ["Attribution", "grad_cam", "input_gradient", "scaled", "target_layer"]


def scaled(maps: Tensor) -> Tensor:
    """Maps [N,h,w] from 0 to 1, each by its own least and largest value; a constant one is 0."""
    low, high = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - low) / (high - low).clamp(min=1e-12)


def grad_cam(model: nn.Module, layer: str, images: Tensor, classes: Tensor) -> Tensor:
    """Grad-CAM [N,H,W] in [0,1] of images [N,C,H,W] for the logits of `classes` [N] (Selvaraju et al., 2017)."""
    from captum.attr import LayerGradCam  # a second, for who only lists what is installed

    height, width = images.shape[-2:]
    with tapped(model, [layer]) as heard, torch.no_grad():
        model(images)
    if heard[layer].ndim == 4 and not is_channels_last(model):
        explain = LayerGradCam(_logits(model), model.get_submodule(layer))
        found = explain.attribute(images.clone().requires_grad_(), classes, relu_attributions=True)
    else:
        found = _of_positions(model, layer, images, classes)
    resized = F.interpolate(found.detach().float(), size=(height, width), mode="bilinear", align_corners=False)
    return scaled(resized[:, 0])


def _of_positions(model: nn.Module, layer: str, images: Tensor, classes: Tensor) -> Tensor:
    """The same for what captum takes for channels: tokens, and maps whose channels come last."""
    with torch.enable_grad(), tapped(model, [layer]) as heard:
        logits = logits_of(model(images.clone().requires_grad_()))
        raw = heard[layer]
        (gradient,) = torch.autograd.grad(logits.gather(1, classes[:, None]).sum(), raw)
    size = images.shape[-2:]
    maps, gradients = as_map(model, raw.detach(), *size), as_map(model, gradient, *size)
    return (gradients.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True).relu()


def input_gradient(model: nn.Module, images: Tensor, classes: Tensor) -> Tensor:
    """Mean over channels of the gradient's magnitude, [N,H,W] in [0,1] (Simonyan et al., 2014)."""
    from captum.attr import Saliency

    found = Saliency(_logits(model)).attribute(images.clone().requires_grad_(), classes)
    return scaled(found.detach().float().mean(1))


def _logits(model: nn.Module) -> Any:
    return lambda images: logits_of(model(images))


def target_layer(model: nn.Module, images: Tensor) -> str:
    """The last norm layer that puts out a map; with a class token the one before the last attention block.

    Later patch tokens have no gradient. Norms of a block's shortcut, which stand behind those of its branch, are passed
    over. ConfigError where the network has none.
    """
    norms = [
        name
        for name, module in model.named_modules()
        if "norm" in type(module).__name__.lower() and "downsample" not in name.split(".")
    ]
    with tapped(model, norms) as heard, torch.no_grad():
        model(images[:1])
    placed = [name for name in norms if name in heard and _positions(heard[name]) > 1]
    skipped = 3 if prefix_tokens(model) else 1
    if len(placed) < skipped:
        children = ", ".join(name for name, _ in model.named_children())
        raise ConfigError(
            "the network has no norm layer that puts out a feature map, so there is no map to explain; name a module "
            f"that does, of {children} or what is inside them: --set attribution.layer=..."
        )
    return placed[-skipped]


def _positions(output: Any) -> int:
    if not isinstance(output, Tensor) or output.ndim not in (3, 4):
        return 0
    return math.prod(output.shape[2:]) if output.ndim == 4 else output.shape[1]


@attrs.define(eq=False, kw_only=True)
class Attribution:
    """Grad-CAM and input gradients of chosen images, and of mixed ones for both labels beside the mixer's mask."""

    role = "analysis"
    spec_version = (1, 3)
    accepts = frozenset({"class"})

    images: tuple[int, ...] = ()
    """Rows of the set that are pictured; empty: the first `count`."""
    count: int = attrs.field(default=6, validator=ge(1))
    """Images, and at most as many mixed ones."""
    layer: str = ""
    """Module whose maps Grad-CAM weighs; empty: the last norm layer, with a class token the third from the end."""
    draws: int = attrs.field(default=16, validator=ge(1))
    """Draws of the run's mixer that are looked through for a label weight near one half."""

    @hookimpl
    def analyse(self, model: nn.Module, data: RunData, task: Task, folder: Path) -> Mapping[str, Any]:
        """The layer, the predictions, and of mixed images how much of each label's map is on its own pixels."""
        images, labels = first_images(data, max((*self.images, self.count - 1)) + 1)
        if self.images:
            missing = [row for row in self.images if row >= len(images)]
            if missing:
                raise ConfigError(f"images: row {missing[0]} is not in this set of {len(images)}")
            images, labels = images[list(self.images)], labels[list(self.images)]
        layer = self.layer or target_layer(model, images)
        if layer not in dict(model.named_modules()):
            raise ConfigError(f"layer = {layer!r} is no module of the network; its parts: {_parts(model)}")
        with torch.no_grad():
            answers = logits_of(model(images)).argmax(1)
        names = task.class_names or tuple(f"class {index}" for index in range(task.num_classes))
        mixed, why = self._mixed(data, images, labels)
        rows = [self._row(model, layer, images[k], labels[k], answers[k], task, names) for k in range(len(images))]
        mixed_rows = [self._mixed_row(model, layer, one, task, names) for one in mixed]
        self._draw(rows + [row for row, _ in mixed_rows], folder)
        return {
            "layer": layer,
            "images": [
                {"truth": names[int(own)], "answer": names[int(answer)]}
                for own, answer in zip(labels, answers, strict=True)
            ],
            "mixed": why or [found for _, found in mixed_rows],
        }

    def _mixed(self, data: RunData, images: Tensor, labels: Tensor) -> tuple[list[tuple[Mix, Tensor]], str]:
        """Mixes of consecutive pairs with their labels, or why there are none."""
        found = []
        for own in range(0, len(images) - 1, 2):
            pair, pair_labels = images[own : own + 2], labels[own : own + 2]
            mix = nearest_mix(data, pair, pair_labels, 0.5, self.draws, None)
            if mix is not None and mix.stage is None:
                found.append((mix, pair_labels))
        return found, "" if found else "the run's mixer makes no image of two"

    def _row(
        self, model: nn.Module, layer: str, image: Tensor, label: Tensor, answer: Tensor, task: Task, names: Any
    ) -> list[tuple[Any, str]]:
        one, picture = image[None], pixels(image[None], task)[0]
        cam, gradient = grad_cam(model, layer, one, answer[None]), input_gradient(model, one, answer[None])
        answered = names[int(answer)]
        return [
            (picture, names[int(label)]),
            (blended(picture, cam[0]), f"Grad-CAM: {answered}"),
            (gradient.cpu(), f"input gradient: {answered}"),
        ]

    def _mixed_row(
        self, model: nn.Module, layer: str, found: tuple[Mix, Tensor], task: Task, names: Any
    ) -> tuple[list[tuple[Any, str]], dict[str, Any]]:
        mix, labels = found
        image = mix.images[:1].float()
        picture, lam = pixels(image, task)[0], float(mix.weights[0, 0])
        maps = [grad_cam(model, layer, image, label[None])[0].cpu() for label in labels]
        row: list[tuple[Any, str]] = [(picture, f"{lam:.2f} : {1 - lam:.2f}")]
        row += [(blended(picture, one), names[int(label)]) for one, label in zip(maps, labels, strict=True)]
        numbers: dict[str, Any] = {"lam": lam, "labels": [names[int(label)] for label in labels]}
        if mix.masks is not None:
            mask = mix.masks_on(*image.shape[-2:])[0, 0].detach().float().cpu()
            row.append((mask[None], "mask"))
            for key, one, own in zip(("first_on_own", "second_on_own"), maps, (mask, 1 - mask), strict=True):
                total = float(one.sum())
                numbers[key] = float((one * own).sum()) / total if total else "the map is empty"
        return row, numbers

    def _draw(self, rows: list[list[tuple[Any, str]]], folder: Path) -> None:
        figure, axes = panels(len(rows), max(map(len, rows)), width=1.9, height=2.0)
        for line, row in zip(axes, rows, strict=True):
            for place in line:
                place.axis("off")
            for place, (picture, title) in zip(line, row, strict=False):
                place.axis("on")
                show(place, picture, title)
        save(figure, folder)


def _parts(model: nn.Module) -> str:
    return ", ".join(name for name, _ in model.named_children())
