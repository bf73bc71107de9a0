"""`create_step`: any method's whole training step, for a loop of one's own."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from torch import nn

from mixcore.discovery.capabilities import check_run
from mixcore.mixers.batches import StepBatches, task_of
from mixcore.mixers.companions import companions_of
from mixcore.mixers.methods import step_plugins
from mixcore.mixers.networks import check_classes
from mixcore.mixers.place import rank
from mixcore.networks.compiled import is_compiled, kind_of
from mixcore.networks.interface import has_interface
from mixcore.step.build import build_step
from mixcore.step.step import TrainingStep
from mixcore.types import LabelKind

__all__ = ["create_step"]


def create_step(
    model: nn.Module,
    *,
    mix: str | object | Mapping[str, Any] | Sequence[str | object | Mapping[str, Any]] = "none",
    labels: str | object | Mapping[str, Any] | None = None,
    loss: str | object | Mapping[str, Any] | None = None,
    extra: Sequence[str | object | Mapping[str, Any]] = (),
    num_classes: int,
    iterations: int,
    epochs: int = 1,
    seed: int = 0,
    in_channels: int = 3,
    image_size: tuple[int, int] = (224, 224),
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    label_kind: LabelKind = "class",
    overwrite: bool = False,
    compile: bool = False,  # noqa: A002 - torch's word
) -> TrainingStep:
    """The whole training step of any method, as a module to wrap in DistributedDataParallel and to train as one likes.

    `mix`, `labels`, `loss` and `extra` are names, tables as in a TOML file, {"name": "cutmix", "alpha": 0.2}, or
    instances of plugin classes; `mix` may be a list. `model` is on its device already: a
    module from images to logits, or to an output with `.logits`; methods that need more of it say so (see
    :func:`mixcore.as_backbone`). `iterations` and `epochs` are the totals of the run.
    `in_channels` and `image_size` (height, width) are those of the batches: parts that a method trains are built for
    them. `mean` and `std` are what the images were normalised with (0 and 1 by default). `overwrite` grants the mixer
    the batch. The step follows the autocast that surrounds it.

    What plugins have to say of a run of this length goes to the logger "mixcore" as warnings. Raises ConfigError where
    names, options, network, labels and length do not fit together; the step raises DataError for a
    batch that is not of this kind.
    """
    plugins = step_plugins(mix=mix, labels=labels, loss=loss, extra=extra)
    check_classes(model, num_classes)
    task = task_of(
        num_classes,
        in_channels,
        image_size,
        label_kind,
        None if mean is None else tuple(mean),
        None if std is None else tuple(std),
    )
    for remark in (*check_run(plugins, task, iterations), *_of_compiling(model)):
        logging.getLogger("mixcore").warning("%s", remark)
    step = build_step(
        plugins,
        model,
        task,
        device=next(model.parameters()).device,
        seed=seed,
        epochs=epochs,
        iterations=iterations,
        precision=None,
        compile=compile,
        rank=rank(),
        owns_batch=overwrite,
    )
    step.register_forward_pre_hook(StepBatches(task, companions_of(plugins, "step")), with_kwargs=True)
    return step


def _of_compiling(model: nn.Module) -> tuple[str, ...]:
    """What is to be said of a network that came compiled, and whose halves run as they were before."""
    if not (is_compiled(model) and has_interface(model)):
        return ()
    return (
        f"{kind_of(model)} came compiled, and the step runs its features and head apart, which are not; hand over the "
        "module as it was before torch.compile, with create_step(..., compile=True)",
    )
