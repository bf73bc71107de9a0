"""Fourier analysis of feature maps: how much of each stage is high frequency, and how much it varies."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Any

import attrs
import torch
from attrs.validators import ge
from matplotlib import colormaps
from torch import Tensor, nn

from mixcore.api import ConfigError, RunData, Track, as_map, hookimpl, stage_names
from mixcore_plugin_analyses.figures import curves, panels, save

__all__ = ["Fourier", "half_diagonal", "tapped"]


def half_diagonal(maps: Tensor) -> Tensor:
    """Mean over batch and channels of log(|FFT2| + 1e-6) of maps [N,C,h,w], from the centre to the corner, float64.

    Entry 0 is frequency 0, the last the highest (pi in both directions).
    """
    amplitude = (torch.fft.fft2(maps.double()).abs() + 1e-6).log().mean((0, 1))
    rows, columns = amplitude.shape
    size = min(rows, columns) // 2 + 1
    steps = torch.linspace(0, 1, size, dtype=torch.float64)
    return amplitude[(steps * (rows // 2)).round().long(), (steps * (columns // 2)).round().long()]


@contextmanager
def tapped(model: nn.Module, names: Sequence[str]) -> Iterator[dict[str, Any]]:
    """What the modules of these names put out in the newest forward, by name.

    The network goes on with a copy: it may add a shortcut to what a norm put out, in place.
    """
    heard: dict[str, Any] = {}

    def listen(name: str) -> Any:
        def hear(_module: nn.Module, _arguments: object, output: Any) -> Any:
            heard[name] = output
            return output.clone() if isinstance(output, Tensor) else output

        return model.get_submodule(name).register_forward_hook(hear)

    handles = [listen(name) for name in names]
    try:
        yield heard
    finally:
        for handle in handles:
            handle.remove()


@attrs.define(eq=False, kw_only=True)
class Fourier:
    """Relative log amplitude of the feature maps over frequency and depth, and their variance."""

    role = "analysis"
    spec_version = (1, 3)

    layers: tuple[str, ...] = ()
    """Modules whose feature maps are analysed, by name; empty: the stages of the network."""
    batches: int = attrs.field(default=11, validator=ge(1))
    """Batches of the set that are averaged."""

    @hookimpl
    def analyse(self, model: nn.Module, data: RunData, folder: Path, progress: Track) -> Mapping[str, Any]:
        """Per layer the amplitude over frequency relative to frequency 0, its last value, and the variance."""
        names = self._names(model)
        sums: dict[str, Tensor] = {}
        variance = dict.fromkeys(names, 0.0)
        count = 0
        with torch.no_grad(), tapped(model, names) as heard:
            for images, _ in progress(islice(data.batches(), self.batches), self.batches):
                model(images)
                count += 1
                for name in names:
                    maps = as_map(model, heard[name], *images.shape[-2:]).float()
                    sums[name] = sums.get(name, torch.zeros((), dtype=torch.float64)) + half_diagonal(maps).cpu()
                    variance[name] += float(maps.flatten(2).var(2, correction=0).mean())
        spectra = {name: (total / count) for name, total in sums.items()}
        relative = {name: (found - found[0]).tolist() for name, found in spectra.items()}
        numbers = {
            **{f"high_{name}": found[-1] for name, found in relative.items()},
            **{f"variance_{name}": variance[name] / count for name in names},
            "batches": count,
            "layers": names,
            "spectra": {name: found.tolist() for name, found in spectra.items()},
            "relative": relative,
        }
        self.compare_runs({"": numbers}, folder)
        return numbers

    @hookimpl
    def compare_runs(self, results: Mapping[str, Mapping[str, Any]], folder: Path) -> None:
        """A row of spectra, then high frequency and variance against depth, of all runs."""
        figure, axes = panels(1, len(results) + 2)
        high, varied = axes[0][-2:]
        for place, (name, found) in zip(axes[0], results.items(), strict=False):
            depth = len(found["layers"])
            for number, layer in enumerate(found["layers"]):
                values = found["relative"][layer]
                frequency = [index / max(1, len(values) - 1) for index in range(len(values))]
                colour = colormaps["viridis_r"]((number + 1) / (depth + 1))
                place.plot(frequency, values, color=colour, label=layer)
            place.set(title=name, xlabel="frequency, of pi", ylabel="relative log amplitude")
            place.legend(fontsize="x-small")
        for axis, key, label in ((high, "high", "relative log amplitude at pi"), (varied, "variance", "variance")):
            lines = {}
            for name, found in results.items():
                values = [found[f"{key}_{layer}"] for layer in found["layers"]]
                lines[name] = ([index / max(1, len(values) - 1) for index in range(len(values))], values)
            curves(axis, lines, "depth", label)
        save(figure, folder)

    def _names(self, model: nn.Module) -> list[str]:
        names = list(self.layers or stage_names(model))
        known = [name for name, _ in model.named_modules() if name]
        missing = [name for name in names if name not in known]
        if missing or not names:
            what = f"has no module {missing[0]!r}" if missing else "lists no stages of its own"
            children = ", ".join(name for name, _ in model.named_children())
            raise ConfigError(
                f"the network {what}; name modules that put out feature maps: --set 'fourier.layers=[\"...\"]', of "
                f"{children} or what is inside them"
            )
        return names
