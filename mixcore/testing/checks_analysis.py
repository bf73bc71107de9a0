"""Checks of an analysis: its numbers, where it writes, and that looking changes nothing."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from torch import nn

from mixcore.hooks.results import check_numbers
from mixcore.logs.track import Bar
from mixcore.testing.expect import expect
from mixcore.testing.generators import arbitrary_generators, generator_states
from mixcore.testing.harness import Harness
from mixcore.testing.toy_run import ToyRun

__all__ = [
    "generators_are_left",
    "numbers_are_plain",
    "same_seed_same_numbers",
    "the_network_is_left",
    "writes_below_its_folder",
]

IMAGES = 10
_SILENT = Console(file=io.StringIO())


def _run(harness: Harness) -> ToyRun:
    images, labels = harness.batch(IMAGES)
    model = harness.network(harness.plugins(), harness.task()).to(harness.device).eval()
    return ToyRun(model=model, images=images, labels=labels)


def _analyse(harness: Harness, run: ToyRun, folder: Path) -> dict[str, Any]:
    """The numbers as the core takes them, of an instance of its own."""
    return harness.owner(harness.plugins()).analyse(
        model=run.model, data=run, task=harness.task(), folder=folder, progress=Bar(harness.role, _SILENT)
    )


def _analyse_somewhere(harness: Harness, run: ToyRun | None = None) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return _analyse(harness, _run(harness) if run is None else run, Path(folder))


def numbers_are_plain(harness: Harness) -> None:
    """There are numbers, all plain and finite or words that say why not, and JSON gives them back as they are."""
    numbers = _analyse_somewhere(harness)
    expect(bool(numbers), "it gave no numbers")
    back = check_numbers("JSON", json.loads(json.dumps(numbers, allow_nan=False)))
    expect(back == numbers, "JSON does not give its numbers back as they are")


def same_seed_same_numbers(harness: Harness) -> None:
    """Two instances with the same options give the same numbers, bit for bit."""
    first, second = _analyse_somewhere(harness), _analyse_somewhere(harness)
    for name in first.keys() | second.keys():
        same = first.get(name) == second.get(name)
        expect(same, f"{name} is {str(first.get(name))[:60]} and then {str(second.get(name))[:60]}; seed every draw")


def writes_below_its_folder(harness: Harness) -> None:
    """Nothing is written beside its folder, nor into the working directory."""
    with tempfile.TemporaryDirectory() as place:
        folder, here = Path(place, "run", "mine"), Path(place, "here")
        folder.mkdir(parents=True)
        here.mkdir()
        with contextlib.chdir(here):
            _analyse(harness, _run(harness), folder)
        written = [path for path in Path(place).rglob("*") if path.is_file() and folder not in path.parents]
        expect(not written, f"it wrote {', '.join(str(path.relative_to(place)) for path in written)} beside its folder")


def the_network_is_left(harness: Harness) -> None:
    """Weights, buffers, gradients, modes and hooks of the network are what they were."""
    run = _run(harness)
    before = dict(_state(run.model))
    _analyse_somewhere(harness, run)
    for name, found in _state(run.model):
        expect(found == before.get(name), f"{name} of the network changed; work on a copy, or put it back")


def generators_are_left(harness: Harness) -> None:
    """The global generators of torch, numpy and random are not drawn from and not seeded."""
    run = _run(harness)
    with arbitrary_generators():
        before = generator_states()
        _analyse_somewhere(harness, run)
        changed = [name for name, state in generator_states().items() if state != before.get(name)]
    expect(not changed, f"it drew from or seeded the global generator of {', '.join(changed)}; make one of its own")


def _state(model: nn.Module) -> Iterator[tuple[str, object]]:
    for name, value in (*model.named_parameters(), *model.named_buffers()):
        yield name, value.detach().cpu().numpy().tobytes()
    for name, parameter in model.named_parameters():
        yield f"the gradient of {name}", parameter.grad is None
        yield f"requires_grad of {name}", parameter.requires_grad
    for name, module in model.named_modules():
        yield f"the mode of {name or 'the whole'}", module.training
        yield f"the hooks of {name or 'the whole'}", (len(module._forward_hooks), len(module._forward_pre_hooks))
