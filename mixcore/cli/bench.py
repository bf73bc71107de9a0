"""`mixcore bench`: what each mixer costs, beside no mixing at all."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from mixcore.cli.files import written
from mixcore.cli.overrides import options_by_name
from mixcore.cli.table import print_table

if TYPE_CHECKING:
    from mixcore.discovery.select import Selected, Selection
    from mixcore.step.step import TrainingStep
    from mixcore.types import Task

__all__ = ["SHAPES", "command"]


@attrs.frozen(kw_only=True)
class Shape:
    """The batch that is mixed, and the network that is trained."""

    batch: int
    side: int
    classes: int
    backbone: str


SHAPES = {
    "cifar": Shape(batch=100, side=32, classes=100, backbone="cifar_resnet18"),
    "imagenet": Shape(batch=32, side=224, classes=1000, backbone="resnet50"),
}
HEADER = ("mixer", "mix ms", "forwards", "backwards", "peak MiB", "step ms", "relative")


@click.command("bench", short_help="Measure what mixers cost.")
@click.argument("names", metavar="[NAME]...", nargs=-1)
@click.option(
    "--shapes",
    type=click.Choice(list(SHAPES)),
    multiple=True,
    default=("cifar",),
    show_default=True,
    help="Batch and image size: cifar is 100 of 32 px, imagenet 32 of 224 px. May be given twice.",
)
@click.option(
    "--set",
    "overrides",
    metavar="NAME.KEY=VALUE",
    multiple=True,
    help="Give a mixer an option, such as cutmix.alpha=0.2, or a table beside it, such as cutmix.labels.name=area.",
)
@click.option("--backbone", help="Backbone plugin or timm model, by default cifar_resnet18 or resnet50.")
@click.option("--batch", type=click.IntRange(min=1), help="Images in the batch, by default the shape's.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True)
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32", show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True, help="CPU threads of torch.")
@click.option("--repeats", type=click.IntRange(min=1), default=10, show_default=True, help="Timed rounds.")
@click.option("--json", "file", type=click.Path(path_type=Path), help="Write the figures to this file too.")
def command(
    names: tuple[str, ...],
    shapes: tuple[str, ...],
    overrides: tuple[str, ...],
    backbone: str | None,
    batch: int | None,
    device: str,
    precision: str,
    threads: int,
    repeats: int,
    file: Path | None,
) -> None:
    """Measure the mixers NAME..., or all that are installed, with their default options unless --set gives others.

    Columns: milliseconds for generating a mix and its label weights; forward and backward passes of networks beyond the
    usual one; most memory that network, optimizer and iteration held; milliseconds of a whole iteration with backward
    and optimizer step, and its ratio to that without mixing. The mixers take turns in one process; times are medians:
    on one CPU thread of the CPU time of the process, which other programs hardly change, else of wall time. A mixer
    that does not fit the backbone is listed with the reason.
    """
    import torch

    from mixcore.errors import ConfigError
    from mixcore.measure.chosen import mixers_to_measure, select_mixers

    if device == "cuda" and not torch.cuda.is_available():
        raise ConfigError("--device cuda, but torch finds no CUDA device; use --device cpu")
    mixers, unusable = mixers_to_measure(names)
    expected = "NAME.KEY=VALUE, where NAME is a mixer that is measured, such as cutmix.alpha=0.2"
    selections, unfit = select_mixers(mixers, options_by_name(overrides, [*mixers, *unusable], expected))
    documents = []
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for name in dict.fromkeys(shapes):
            shape = SHAPES[name]
            shape = attrs.evolve(shape, batch=batch or shape.batch, backbone=backbone or shape.backbone)
            document = _bench(shape, selections, {**unusable, **unfit}, torch.device(device), precision, repeats)
            document["conditions"]["set"] = list(overrides)
            documents.append(document)
            _print(document)
    finally:
        torch.set_num_threads(before)
    if file is not None:
        with written(file, "name another file with --json"):
            file.write_text(json.dumps({"benchmarks": documents}, indent=2) + "\n", encoding="utf-8")


def _bench(
    shape: Shape,
    selections: Mapping[str, Selection],
    skipped: dict[str, str],
    device: Any,
    precision: str,
    repeats: int,
) -> dict[str, Any]:
    """The figures of one shape, as they go into JSON."""
    import functools
    import platform

    import torch

    from mixcore import __version__
    from mixcore.errors import MixcoreError
    from mixcore.measure.chosen import BASELINE
    from mixcore.measure.cost import cpu_time, measure
    from mixcore.types import Task

    task = Task(
        num_classes=shape.classes,
        in_channels=3,
        image_size=(shape.side, shape.side),
        mean=(0.5,) * 3,
        std=(0.25,) * 3,
    )
    rng = torch.Generator().manual_seed(0)
    images = torch.randn(shape.batch, 3, shape.side, shape.side, generator=rng).to(device)
    labels = torch.randint(shape.classes, (shape.batch,), generator=rng).to(device)

    def skip(name: str, error: Exception) -> bool:
        if name == BASELINE or not isinstance(error, MixcoreError):
            return False
        skipped[name] = str(error)
        return True

    network = _network(shape.backbone)
    builds = {
        name: functools.partial(_step, chosen, network, task, device, precision) for name, chosen in selections.items()
    }
    costs = measure(builds, images, labels, repeats=repeats, skip=skip)
    plain = costs[BASELINE]
    results = [
        {
            "mixer": name,
            "mix_ms": cost.mix_ms,
            "extra_forwards": cost.passes.beyond(plain.passes).forward,
            "extra_backwards": cost.passes.beyond(plain.passes).backward,
            "peak_mib": cost.peak_bytes / 2**20,
            "step_ms": cost.step_ms,
            "relative": cost.step_ms / plain.step_ms,
        }
        for name, cost in costs.items()
    ]
    conditions = {
        **attrs.asdict(shape),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu {platform.machine()}",
        "precision": precision,
        "threads": torch.get_num_threads(),
        "clock": "CPU time" if cpu_time(device) else "wall time",
        "repeats": repeats,
        "mixcore": __version__,
        "torch": torch.__version__,
    }
    return {"conditions": conditions, "results": results, "skipped": skipped}


def _network(backbone: str) -> Selected:
    """The plugin that builds the networks of all mixers."""
    from mixcore.config.faults import raise_faults
    from mixcore.config.schema import PluginTable
    from mixcore.discovery.catalogue import installed
    from mixcore.discovery.select import select_one

    network, faults = select_one("backbone", PluginTable(name=backbone), ("backbone",), installed())
    if network is None:
        raise_faults(faults, "--backbone")
    return network


def _step(selection: Selection, network: Selected, task: Task, device: Any, precision: str) -> TrainingStep:
    """A training step of the mixer with its own network, whose initial weights are the same for all."""
    import torch

    from mixcore.data.randomness import preserved_generators, seed_generators
    from mixcore.discovery.capabilities import check_task
    from mixcore.discovery.manager import register_selection
    from mixcore.step.build import build_step

    plugins = register_selection(attrs.evolve(selection, of={**selection.of, "backbone": (network,)}))
    assert plugins.backbone is not None
    check_task(plugins, task)
    with preserved_generators():
        seed_generators(0)
        model = plugins.backbone.build_backbone(task=task)
    return build_step(
        plugins,
        model.to(device),
        task,
        device=torch.device(device),
        seed=0,
        epochs=1,
        iterations=10_000,
        precision=precision,
        owns_batch=False,
    )


def _print(document: Mapping[str, Any]) -> None:
    what = document["conditions"]
    title = (
        f"{what['batch']} images of {what['side']} px, {what['classes']} classes, {what['backbone']}, "
        f"{what['precision']}; {what['device']}, threads: {what['threads']}; {what['clock']}, "
        f"medians of {what['repeats']} rounds{''.join(f'; {given}' for given in what['set'])}"
    )
    rows = [
        (
            row["mixer"],
            f"{row['mix_ms']:.2f}",
            f"{row['extra_forwards']:+g}",
            f"{row['extra_backwards']:+g}",
            f"{row['peak_mib']:.0f}",
            f"{row['step_ms']:.1f}",
            f"{row['relative']:.3f}",
        )
        for row in document["results"]
    ]
    print_table(HEADER, rows, title)
    for name, reason in document["skipped"].items():
        click.echo(f"skipped {name}: {reason}")
