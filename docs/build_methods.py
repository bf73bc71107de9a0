"""Writes docs/methods.md, the tables of methods and of what goes with what: `python docs/build_methods.py`.

The methods are the installed mixers, label policies, losses and saliencies that come with mixcore, asked themselves:
what they declare, how their draws differ between images, and which of them refuse each other. Costs are read from the
files in docs/costs, which `mixcore bench --json` writes: a column for each, in the order of their names.
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

import mixcore
from mixcore.discovery.catalogue import find, installed
from mixcore.discovery.declared import declared
from mixcore.discovery.load import load
from mixcore.discovery.option_help import option_help
from mixcore.errors import MixcoreError
from mixcore.hooks.roles import role_of
from mixcore.mixers.methods import step_plugins
from mixcore.options import Saliency
from mixcore.step.step import TrainingStep
from mixcore.testing.fakes import TinyConvNet, tiny_network

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "methods.md"
COSTS = ROOT / "docs" / "costs"
SIZE, CLASSES, ROWS = (32, 32), 5, 8
"""Of the images, labels and batches that methods are tried with."""
PLAIN_LABELS = {"name": "weights"}
"""What a mixer is tried with beside others than label policies: the one that it suggests may want a file of weights."""
DRAWS = 6
"""Batches that tell whether images of a batch differ in their draws."""
INTRODUCTION = """# Methods, and what goes with what

The methods that come with mixcore. This page is made by `python docs/build_methods.py`, which asks the installed
plugins: change those, not this. `mixcore plugins show NAME` tells each option; the methods' own pages have pictures,
values per data set, costs and where they differ from their papers.
"""


@functools.cache
def names(role: str) -> tuple[str, ...]:
    """The installed plugins of a role that come with mixcore."""
    claims = installed()
    own = [name for name, (entry, *_) in claims.items() if entry.distribution.startswith("mixcore")]
    return tuple(name for name in sorted(own) if role_of(class_of(name)) == role)


@functools.cache
def class_of(name: str) -> type[Any]:
    return load(find(name, installed()))


def options_for_trial(name: str) -> Mapping[str, Any]:
    """Options under which a plugin can be tried without a file of weights: its teacher is a tiny network."""
    given: dict[str, Any] = {}
    for field in attrs.fields(class_of(name)):
        key = field.alias or field.name
        default = field.default
        if key == "teacher":
            given[key] = _teacher()
        elif isinstance(default, Saliency) and default.name.startswith("teacher"):
            given[key] = saliency_for_trial(default.name)
    return given


def saliency_for_trial(name: str) -> dict[str, Any]:
    """The table of a saliency, with a teacher where it needs one."""
    return {"name": name, **({"teacher": _teacher()} if name.startswith("teacher") else {})}


@functools.cache
def _teacher() -> TinyConvNet:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return TinyConvNet(CLASSES)


def table_of(name: str, **options: Any) -> dict[str, Any]:
    """The table of a plugin under which it can be tried."""
    return {"name": name, **options_for_trial(name), **options}


def refusal(**chosen: Mapping[str, Any]) -> str | None:
    """Why these tables, by role, cannot be combined; None where they can."""
    try:
        step_plugins(**chosen)
    except MixcoreError as error:
        return str(error)
    return None


def trial_step(**chosen: Mapping[str, Any]) -> TrainingStep:
    """A training step of these tables, by role, on a tiny network that offers what they need."""
    plugins = step_plugins(**chosen)
    needs = {need for item in plugins.selected for need in item.declared.needs}
    network = tiny_network(needs, CLASSES, SIZE, 3, stages=3)
    return mixcore.create_step(
        network, **chosen, num_classes=CLASSES, iterations=100, image_size=SIZE, mean=(0.5,) * 3, std=(0.25,) * 3
    )


def trial_batch() -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels."""
    rng = torch.Generator().manual_seed(0)
    return torch.randn(ROWS, 3, *SIZE, generator=rng), torch.randint(CLASSES, (ROWS,), generator=rng)


def holders() -> Iterator[tuple[str, str]]:
    """(name, option) of each mixer and label policy that holds a saliency in an option."""
    for role in ("mix", "labels"):
        for name in names(role):
            for field in attrs.fields(class_of(name)):
                if isinstance(field.default, Saliency):
                    yield name, field.alias or field.name


# --- the page --------------------------------------------------------------------------------------------------------


def page() -> str:
    """The whole page."""
    heads = ("name", "method", "paper", "needs of the network", "draws per", *map(_cost_head, _measured()), "options")
    sections = [
        INTRODUCTION,
        "## Mixers\n",
        _cost_notes(),
        table(heads, [_mixer_row(name) for name in names("mix")]),
        "## Label policies and losses\n",
        table(
            ("name", "method", "needs", "options"), [_other_row(name) for name in (*names("labels"), *names("loss"))]
        ),
        "## Saliencies\n",
        "What an option `saliency` may name.\n",
        table(("name", "method", "needs", "options"), [_other_row(name) for name in names("saliency")]),
        "## Which mixers go with which label policies\n",
        "Every mixer goes with every loss that takes the labels at hand. A mixer and a label policy that do not go\n"
        "together are refused before training.\n",
        table(("mixer", *names("labels")), [_policy_row(name) for name in names("mix")]),
        "## Which saliencies go where\n",
        "With the defaults of the other options.\n",
        table(("option", *names("saliency")), [_saliency_row(*held) for held in holders()]),
    ]
    return "\n".join(sections).rstrip() + "\n"


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    lines = [head, ("---",) * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


@functools.cache
def _measured() -> tuple[Mapping[str, Any], ...]:
    """What `mixcore bench` wrote, one document per column."""
    found = [json.loads(path.read_text(encoding="utf-8"))["benchmarks"] for path in sorted(COSTS.glob("*.json"))]
    return tuple(document for documents in found for document in documents)


def _cost_head(document: Mapping[str, Any]) -> str:
    return f"step on {document['conditions']['backbone']}"


def _cost_notes() -> str:
    notes = ["What a step takes, times the step without mixing, by `mixcore bench`:", ""]
    for document in _measured():
        told = dict(document["conditions"])
        given = "".join(f", `{one}`" for one in told.pop("set"))
        words = ", ".join(f"{key} {told[key]}" for key in sorted(told) if told[key] is not None)
        notes.append(f"- {_cost_head(document)}: {words}{given}")
    return "\n".join([*notes, ""])


def _cost(document: Mapping[str, Any], name: str) -> str:
    found = [result["relative"] for result in document["results"] if result["mixer"] == name]
    missing = "refused" if name in document["skipped"] else "not measured"
    return f"{found[0]:.2f}" if found else missing


def _mixer_row(name: str) -> tuple[str, ...]:
    costs = (_cost(document, name) for document in _measured())
    return (_linked(name), first_line(name), _paper(name), _needs(name), _drawn_per(name), *costs, _options(name))


def _other_row(name: str) -> tuple[str, ...]:
    return (_linked(name), first_line(name), _needs(name), _options(name))


def _policy_row(name: str) -> tuple[str, ...]:
    return (_linked(name), *(_mark(mix=table_of(name), labels=table_of(policy)) for policy in names("labels")))


def _saliency_row(name: str, option: str) -> tuple[str, ...]:
    marks = (_mark(**holding(name, option, saliency)) for saliency in names("saliency"))
    return (f"`{option}` of {_linked(name)}", *marks)


def holding(name: str, option: str, saliency: str) -> dict[str, Mapping[str, Any]]:
    """Tables, by role, in which the `option` of a mixer or label policy holds that saliency."""
    held = table_of(name, **{option: saliency_for_trial(saliency)})
    return {"mix": held, "labels": PLAIN_LABELS} if name in names("mix") else {"mix": _masking(), "labels": held}


@functools.cache
def _masking() -> Mapping[str, Any]:
    """A mixer that every label policy goes with."""
    return next(
        table
        for table in map(table_of, names("mix"))
        if all(refusal(mix=table, labels=table_of(policy)) is None for policy in names("labels"))
    )


def _mark(**chosen: Mapping[str, Any]) -> str:
    return "yes" if refusal(**chosen) is None else "no"


def _linked(name: str) -> str:
    distribution = find(name, installed()).distribution
    return f"`{name}`" if distribution == "mixcore" else f"[`{name}`](../plugins/{distribution}/README.md)"


def first_line(name: str) -> str:
    return (class_of(name).__doc__ or "").strip().partition("\n")[0].replace("|", "\\|")


def _paper(name: str) -> str:
    """The papers that the method's own page names last."""
    file = ROOT / "plugins" / find(name, installed()).distribution / "README.md"
    source = file.read_text(encoding="utf-8").partition("## Source")[2] if file.is_file() else ""
    links = re.findall(r"\[arXiv [^]]*\]\([^)]*\)", source)
    titles = re.findall(r'"([^"]*)"', " ".join(source.split()))
    return ", ".join(links) or (titles[0] if titles else "")


def _needs(name: str) -> str:
    own = declared(class_of(name)(**options_for_trial(name)), name)
    stages = [f"stage {stage}" for stage in own.stages]
    return ", ".join((*sorted(own.needs - {"stages"} if stages else own.needs), *stages)) or "nothing"


def _drawn_per(name: str) -> str:
    """Whether the images of a batch differ in their masks or ratios, and whether an option changes it."""
    step, batch = trial_step(mix=table_of(name), labels=PLAIN_LABELS), trial_batch()
    mixes = [step(*batch, iteration=iteration)[1].mix for iteration in range(DRAWS)]
    if all(mix.sources.shape[1] == 1 for mix in mixes):
        return "nothing"
    found = "image" if any(_differ(mix.weights) or _differ(mix.masks) for mix in mixes) else "batch"
    options = {field.alias or field.name for field in attrs.fields(class_of(name))}
    return f"{found}, or image (`per_sample`)" if found == "batch" and "per_sample" in options else found


def _differ(values: torch.Tensor | None) -> bool:
    return values is not None and not torch.equal(values, values[:1].expand_as(values))


def _options(name: str) -> str:
    return ", ".join(f"`{one.name}` {one.default}" for one in option_help(class_of(name))).replace("|", "\\|") or "none"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
