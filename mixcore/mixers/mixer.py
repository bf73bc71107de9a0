"""`create_mixer`: any method that is a mixed batch, in a loop or collate function of one's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import torch
from torch import Tensor, nn

from mixcore.discovery.capabilities import check_task
from mixcore.discovery.plugins import Plugins
from mixcore.errors import ConfigError
from mixcore.hooks.calls import has_wrapper
from mixcore.mixers.batches import check_images, check_labels, kind_of, task_of
from mixcore.mixers.companions import companions_of
from mixcore.mixers.methods import mixing_plugins, other_door, refuse_more_than_a_batch
from mixcore.mixers.networks import no_network, seen_network
from mixcore.mixers.pairs import Pairs
from mixcore.mixers.place import in_worker, rank, seed_here
from mixcore.step.build import build_parts, install
from mixcore.step.iteration import Iteration
from mixcore.step.precision import Precision
from mixcore.step.setup import IterationSetup, RunPlugin
from mixcore.types import Batch, Mix, Part, Step

__all__ = ["Mixer", "create_mixer"]

_ENDLESS = 1 << 40
"""Iterations of a loop whose length nobody told."""


def create_mixer(
    name: str | object | Mapping[str, Any] | Sequence[str | object | Mapping[str, Any]],
    *,
    num_classes: int,
    model: nn.Module | None = None,
    seed: int = 0,
    overwrite: bool = False,
    **options: Any,
) -> Mixer:
    """A mixer for a loop of your own, by the name and with the options it has in a TOML file.

    `probability` (share of the batches that are mixed, the others stay clean) and `group_size` are options of every
    method. An instance of a plugin class, its own options set, may stand for the name; so may a table,
    {"name": "cutmix", "alpha": 0.2}, or a list of all these, which take turns by their probabilities.

    `model` is the trained network, for methods that look at it: a module from images to logits (or to an output with
    `.logits`), bare also under DistributedDataParallel. `overwrite` grants the mixer the batch: it may then return
    mixed images in the batch's own memory. Images are taken as they come; methods that work on pixels in [0,1] have
    options `mean` and `std` for images that were normalised. Modules that a method brings (a teacher) are built for RGB
    images.

    Raises ConfigError for unknown names and options, for a network of another number of classes, and for a method that
    is more than a mixed batch (own losses, trained parts, work after the optimizer step): that one comes whole from
    :func:`create_step`.
    """
    return Mixer(mixing_plugins(name, options), num_classes=num_classes, model=model, seed=seed, overwrite=overwrite)


class Mixer(nn.Module):
    """Mixes batches; made by :func:`create_mixer`.

    A module, so that a checkpoint of what it is part of has its state: how many batches it has mixed, and the parts
    that a method brings and wants saved. The network that it looks at is no part of it.
    """

    __call__: Callable[..., Mix]

    def __init__(
        self, plugins: Plugins, *, num_classes: int, model: nn.Module | None, seed: int, overwrite: bool
    ) -> None:
        super().__init__()
        precision = Precision(None)
        network = seen_network(plugins, model, num_classes, precision)
        installed = _install(plugins, model, num_classes, seed, precision)
        self.parts = nn.ModuleDict({one.key: _saved(one.parts) for one in installed if _saved(one.parts)})
        self._num_classes, self._seed = num_classes, seed
        self._next = 0
        self._rank = 0
        self._companions = companions_of(plugins, "mixer")
        self._setup = IterationSetup(
            plugins=plugins,
            network=network,
            # the loss is that of the evidence (input gradients): the one that a run without [loss] has
            installed=(*installed, RunPlugin(calls=plugins.loss, key=plugins.loss.name)),
            task=task_of(num_classes, 3, (224, 224), "class"),
            stages=(),
            attention=False,
            precision=precision,
            compile=False,
            overwrite=(overwrite,) * len(plugins.mixers),
        )
        # asking whose turn it is costs a small batch a tenth of its mixing
        self._only = plugins.probabilities == (1.0,) and not has_wrapper(plugins.manager, "choose_mixer")
        self._known: dict[tuple[Any, ...], IterationSetup] = {}
        self.train()

    def forward(
        self,
        images: Tensor,
        labels: Tensor,
        *,
        index: Tensor | None = None,
        maps: Mapping[str, Tensor] | None = None,
        augmented: Sequence[Tensor] = (),
        epoch: int | None = None,
        iteration: int | None = None,
    ) -> Mix:
        """The mix of floating `images` [N,C,H,W] with `labels` int64 [N] or floating [N,K], on the images' device.

        `index` int64 [N], `maps` [N,c,H,W] by name and further augmentations [N,C,H,W] reach the hooks that ask for the
        whole :class:`mixcore.api.Batch`.

        A batch whose turn it is to stay clean has one source per image (`mix.lam` 1, `mix.mask` None).

        Draws depend on (seed, epoch, iteration, rank) alone. Without `iteration` the mixer counts its own calls; in a
        worker process of a DataLoader the draws then depend on the worker's seed too, so that no other worker and no
        other epoch repeats them.

        Raises DataError for a batch that is not of this kind or lacks what the method reads, ConfigError where the
        method cannot work on it.
        """
        setup = self._setup_for(images, labels)
        self._companions.check(images, index, maps, augmented)
        plugins = setup.plugins
        if in_worker():
            setup = attrs.evolve(setup, network=no_network(plugins, _NOT_IN_A_WORKER))
        step = Step(
            epoch=epoch or 0,
            epochs=_ENDLESS,
            iteration=self._next if iteration is None else iteration,
            iterations=_ENDLESS,
            may_overwrite=setup.overwrite[0],
            seed=seed_here(self._seed) if iteration is None else self._seed,
            group=rank(self._rank),
            device=images.device,
        )
        # past torch's own setattr, which looks for parameters, at every call
        self.__dict__["_next"] = step.iteration + 1
        with setup.precision.hooks(images.device):
            batch = Batch(images=images, labels=labels, index=index, maps=maps or {}, augmented=tuple(augmented))
            run = Iteration(setup, batch, step)
            chosen = 0 if self._only else run.choose()
            mix = run.mix(chosen)
        if chosen is not None:
            refuse_more_than_a_batch(plugins.mixers[chosen], mix)
        return mix

    def pairs(self, *, smoothing: float = 0.0) -> Pairs:
        """This mixer as a function (images, labels) -> (images, target rows [M,K]), where a loop has timm's Mixup.

        `smoothing` in [0, 1) is that of the labels, (1-s)·t + s/K. `mixup_enabled = False` on the result ends mixing.
        Raises ConfigError for a method that reads more of a batch than these two.
        """
        self._companions.refuse_pairs()
        return Pairs(self, self._setup.plugins.mixers[0].name, self._num_classes, smoothing)

    def train(self, mode: bool = True) -> Mixer:
        """Batches are mixed in either mode; parts that always stay in eval mode (a teacher) do."""
        super().train(mode)
        for one in self._setup.installed:
            for part in one.parts.values():
                part.module.train(mode and not part.eval)
        return self

    def get_extra_state(self) -> Tensor:
        """How many calls were counted, as a tensor: every format of checkpoints takes one."""
        return torch.tensor(self._next)

    def set_extra_state(self, state: Tensor) -> None:
        """Continue counting where the saved mixer stopped."""
        self._next = int(state)

    def __getstate__(self) -> dict[str, Any]:
        """What is sent to a worker process: it is not joined to the other processes of the run, so it is told which."""
        return {**self.__dict__, "_rank": rank(self._rank), "_known": {}}

    def _setup_for(self, images: Tensor, labels: Tensor) -> IterationSetup:
        """The setup with the task as the batch shows it.

        A new kind of batch is checked, and the method's modules follow its device.
        """
        check_images(images)
        kind = kind_of(labels)
        key = (images.shape, kind, images.device)
        setup = self._known.get(key)
        read = setup is None or images.device.type == "cpu"
        check_labels(labels, images, kind, self._num_classes, read=read)
        if setup is None:
            rows, channels, height, width = images.shape
            task = task_of(self._num_classes, channels, (height, width), kind)
            check_task(self._setup.plugins, task)
            _check_groups(self._setup.plugins, rows)
            setup = self._known[key] = attrs.evolve(self._setup, task=task)
            for one in setup.installed:
                for module in one.modules.values():
                    module.to(images.device)
        return setup


_NOT_IN_A_WORKER = (
    "a DataLoader's worker process has none (a copy sent there would not train); call the mixer in the training loop"
)


def _check_groups(plugins: Plugins, rows: int) -> None:
    for size in plugins.group_sizes:
        if size is not None and rows % size:
            raise ConfigError(
                f"group_size = {size} does not divide the {rows} images of this batch; choose one that divides every "
                "batch, and leave incomplete batches out: DataLoader(..., drop_last=True)"
            )


def _install(
    plugins: Plugins, model: nn.Module | None, num_classes: int, seed: int, precision: Precision
) -> tuple[RunPlugin, ...]:
    """Mixers and saliencies with their own modules; these may look (a teacher), but none may need training."""
    mixing = (*plugins.mixers, *plugins.saliencies)
    for calls in mixing:
        if model is None and "model" in calls.asks("build_modules"):
            raise ConfigError(f"{calls.label} builds on the trained network; pass it: model=net")
    parts_of = build_parts(mixing, model, task_of(num_classes, 3, (224, 224), "class"), seed)
    for calls, parts in parts_of.items():
        trained = [name for name, part in parts.items() if part.optimizer is not None]
        if trained:
            raise other_door(calls, f"trains modules of its own ({', '.join(trained)})")
    return tuple(
        install(calls, f"{calls.name}_{number}" if number else calls.name, parts, precision)
        for number, (calls, parts) in enumerate(parts_of.items())
    )


def _saved(parts: Mapping[str, Part]) -> nn.ModuleDict:
    return nn.ModuleDict({name: part.module for name, part in parts.items() if part.save})
