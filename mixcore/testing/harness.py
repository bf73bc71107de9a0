"""One mixer on its own, in the training step of a tiny network, for the checks to poke at."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from mixcore.api import Mix, Step, Targets, Task
from mixcore.config.structure import structure
from mixcore.discovery.manager import Plugins, build_method_plugins
from mixcore.errors import ConfigError, MixcoreError
from mixcore.rng import keyed_generator
from mixcore.testing.fakes import tiny_network
from mixcore.train.build import build_step
from mixcore.train.step import TrainingStep
from mixcore.types import LabelKind

__all__ = ["Harness", "NotApplicableError", "Subject", "make_step"]

EPOCHS, ITERATIONS = 4, 1000


class NotApplicableError(MixcoreError):
    """A check has nothing to say about this plugin; the message says why."""


@attrs.frozen(kw_only=True)
class Subject:
    """A mixer and what its method promises; the defaults are what a pair mix with a mask promises."""

    plugin: str | type
    """Its name in the configuration, or the class."""
    options: Mapping[str, Any] = attrs.field(factory=dict)
    """As in a TOML table."""
    image_size: tuple[int, int] = (16, 24)
    """Height and width, different, of the images that most checks use."""
    num_classes: int = 5
    device: str = "cpu"
    keeps_rows: bool = True
    """As many mixed images as images; false for a method that drops or folds rows."""
    weights_sum_to_one: bool = True
    lam_is_mask_mean: bool = True
    """The label weight is the mean of the mask, within 1/(H·W)."""
    own_pixels: bool = True
    """Where a mask is 1 a mixed image has the pixel of that source; false for a method that moves or resizes it."""
    partner_pixels: bool = True
    """Where all masks are 0 it has the pixel of the last source."""
    extremes: Mapping[str, Any] = attrs.field(factory=lambda: {"alpha": 1e-6})
    """Options under which lam is drawn as 0 or 1; used where the plugin has all of them."""
    looking: Mapping[str, Any] = attrs.field(factory=dict)
    """Options that switch off clean terms, which are training and may move BatchNorm statistics."""
    network: Callable[[int, tuple[int, int], int], nn.Module] | None = None
    """(classes, image size, channels) -> the trained network; None: a tiny one that offers what the plugin needs."""


def make_step(
    *, iteration: int = 0, epoch: int = 0, may_overwrite: bool = False, seed: int = 0, device: str = "cpu"
) -> Step:
    """A Step for calling hooks directly."""
    return Step(
        epoch=epoch,
        epochs=EPOCHS,
        iteration=iteration,
        iterations=ITERATIONS,
        may_overwrite=may_overwrite,
        seed=seed,
        device=torch.device(device),
    )


class Harness:
    """Builds the subject's mixer into training steps, and batches to feed them."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.device = torch.device(subject.device)
        self.plugin: Any = self.plugins().mixers[0].plugin

    def has_option(self, *names: str) -> bool:
        """Whether the plugin has all these options."""
        return set(names) <= {field.name for field in attrs.fields(type(self.plugin))}

    def plugins(self, options: Mapping[str, Any] | None = None, group_size: int | None = None) -> Plugins:
        """The mixer with the subject's options and these, the mix's own label weights, and cross-entropy."""
        table = {**self.subject.options, **(options or {})}
        mix: object = {"name": self.subject.plugin, **table}
        if not isinstance(self.subject.plugin, str):
            mix = _instance(self.subject.plugin, table)
        plugins = build_method_plugins(mix=mix, labels="weights", loss="soft_cross_entropy")
        return attrs.evolve(plugins, group_sizes=(group_size,))

    def step(
        self,
        *,
        options: Mapping[str, Any] | None = None,
        seed: int = 0,
        group_size: int | None = None,
        rank: int = 0,
        owns_batch: bool = False,
        channels: int = 3,
        image_size: tuple[int, int] | None = None,
        kind: LabelKind = "class",
    ) -> TrainingStep:
        """A new training step; everything in it follows from these arguments."""
        size = image_size or self.subject.image_size
        plugins = self.plugins(options, group_size)
        needs: Collection[str] = getattr(plugins.mixers[0].plugin, "needs", ())
        classes = self.subject.num_classes
        if self.subject.network is None:
            model = tiny_network(needs, classes, size, channels)
        else:
            model = self.subject.network(classes, size, channels)
        task = Task(
            num_classes=classes,
            in_channels=channels,
            image_size=size,
            mean=(0.0,) * channels,
            std=(1.0,) * channels,
            label_kind=kind,
        )
        return build_step(
            plugins,
            model,
            task,
            device=self.device,
            seed=seed,
            epochs=EPOCHS,
            iterations=ITERATIONS,
            precision=None,
            rank=rank,
            owns_batch=owns_batch,
        )

    def batch(
        self,
        count: int = 6,
        *,
        dtype: torch.dtype = torch.float32,
        channels: int = 3,
        image_size: tuple[int, int] | None = None,
        kind: LabelKind = "class",
        seed: int = 0,
    ) -> tuple[Tensor, Tensor]:
        """Images [N,C,H,W], no two pixels alike, and labels of that kind, on the device; the same for the same seed."""
        rng = keyed_generator("batch", seed, count)
        images = torch.randn(count, channels, *(image_size or self.subject.image_size), generator=rng)
        labels = torch.randint(self.subject.num_classes, (count,), generator=rng)
        if kind != "class":
            labels = _float_labels(kind, labels, self.subject.num_classes, rng)
        return images.to(self.device, dtype), labels.to(self.device)

    def mix(self, images: Tensor, labels: Tensor, *, iteration: int = 0, step: TrainingStep | None = None) -> Mix:
        """The mix of a batch at one iteration, by `step` or a new one that fits the batch."""
        return self.mix_and_targets(images, labels, iteration=iteration, step=step)[0]

    def mix_and_targets(
        self, images: Tensor, labels: Tensor, *, iteration: int = 0, step: TrainingStep | None = None
    ) -> tuple[Mix, Targets]:
        """The mix and the mix's own targets; networks run in the dtype of the images."""
        if step is None:
            kind: LabelKind = "soft" if labels.is_floating_point() else "class"
            height, width = images.shape[-2:]
            step = self.step(channels=images.shape[1], image_size=(height, width), kind=kind)
        half = images.dtype in (torch.bfloat16, torch.float16)
        with torch.autocast(self.device.type, dtype=images.dtype if half else None, enabled=half):
            return step.mix_batch(images, labels, mixer=0, epoch=0, iteration=iteration)


def _instance(cls: type, options: Mapping[str, Any]) -> Any:
    plugin, faults = structure(cls, options, ("mix",), cls.__name__)
    if plugin is None:
        raise ConfigError("\n".join(fault.message for fault in faults))
    return plugin


def _float_labels(kind: LabelKind, labels: Tensor, classes: int, rng: torch.Generator) -> Tensor:
    if kind == "multi_label":
        return (torch.rand(labels.shape[0], classes, generator=rng) < 0.5).float()
    rows = torch.rand(labels.shape[0], classes, generator=rng)
    return rows if kind == "value" else rows / rows.sum(1, keepdim=True)
