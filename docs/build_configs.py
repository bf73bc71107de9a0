"""Writes configs/README.md, the table of configurations and published experiments: `python docs/build_configs.py`.

Examples are the files in configs/, benchmarks those that the installed distributions ship; what was measured comes from
the rows in evidence/, which `mixcore reproduce` writes, and from sweeps in benchmarks/sweeps: copies of
the summary.json that `mixcore sweep` wrote, each beside the sweep's file and under its name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import Any

from mixcore.config.layers import merge_layers
from mixcore.ledger.benchmarks import Benchmark, benchmark, benchmarks
from mixcore.ledger.claims import load_claims
from mixcore.ledger.compare import compare
from mixcore.ledger.evidence import read_evidence
from mixcore.ledger.sweep_summary import markdown
from mixcore.run.resolve import read_config

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"
PAGE = CONFIGS / "README.md"
EVIDENCE = ROOT / "evidence"
SWEEPS = ROOT / "benchmarks" / "sweeps"
NONE = "none"
INTRODUCTION = """# Configurations

This page is made by `python docs/build_configs.py`: change the files that it lists, not this. Every key is explained in
[docs/config.md](../docs/config.md); `--dry-run` checks a configuration and prints it whole, `--set key.path=value`
changes it.
"""
BENCHMARKS = """## Published experiments

The settings of published benchmarks come with mixcore and are run by name,
`<benchmark>.<backbone>.<method>.ep<epochs>`:

```
mixcore run cifar100.resnet18.mixup.ep200 --dry-run
mixcore run cifar100.resnet18.mixup.ep200 --set data.root=path/to/data
mixcore show imagenet-deit.deit_small.cutmix.ep300
```

A benchmark is a folder of [mixcore_plugins_builtin/benchmarks](../mixcore_plugins_builtin/benchmarks): a file per
backbone, which mixes nothing, and `methods.toml`, where each method has its settings and exceptions stand below them.
Batch sizes count over all processes; a comment in the file says on how many GPUs the published runs were.
AttentiveMix+, SuperMix, and TokenMix on ImageNet, need the published weights of their teachers, which timm fetches.
How data sets lie on disk is in [docs/datasets.md](../docs/datasets.md); the numbers that were published, and how to
verify one, in [docs/ledger.md](../docs/ledger.md).
"""
MEASURED = """## Measured

Rows of [evidence](../evidence) beside what was published, top-1 accuracy in percent; `mixcore report` has the details.
"""
REDUCED = """## Reduced benchmarks

Sweeps of [benchmarks/sweeps](../benchmarks/sweeps) that two CPU cores finish in hours. Each says how much smaller it is
than what was published: its numbers compare methods under that budget, and nothing else.
"""


def page() -> str:
    """The whole page."""
    parts = [INTRODUCTION, "## Examples", "", *_table(("file", "data", "backbone", "mixing", "what it is"), examples())]
    heads = ("benchmark", "name", "data", "backbones", "epochs", "protocol", "needs", "command")
    parts += ["", BENCHMARKS, *_table(heads, map(benchmark_cells, _all())), "", "Methods of each:", ""]
    parts += [f"- `{found.name}`: {_methods(found)}" for found in _all()]
    return "\n".join([*parts, "", MEASURED, *measured(), "", REDUCED, *swept()])


def _all() -> list[Benchmark]:
    return [benchmark(name) for name in benchmarks()]


def examples() -> Iterator[Sequence[str]]:
    """A row for each file in configs/."""
    for path in sorted(
        CONFIGS.rglob("*.toml"), key=lambda path: (len(path.parts), path.name != "quickstart.toml", path)
    ):
        tree = merge_layers(read_config(path), [], str(path)).tree
        name = path.relative_to(CONFIGS).as_posix()
        yield f"[{name}]({name})", _name(tree, "data"), _name(tree, "backbone"), _mixing(tree), _comment(path)


def _name(tree: dict[str, Any], role: str) -> str:
    """The plugin of a role, of timm's the model."""
    table = tree[role]
    return f"`{table.get('model', table['name'])}`"


def _mixing(tree: dict[str, Any]) -> str:
    """Mixers, and the label policy and loss that were named."""
    mixers = tree.get("mix", [])
    named = [table["name"] for table in (mixers if isinstance(mixers, list) else [mixers])] or [NONE]
    named += [tree[role]["name"] for role in ("labels", "loss") if role in tree]
    return ", ".join(f"`{name}`" for name in named)


def _comment(path: Path) -> str:
    """The comment at the top of a file, without commands."""
    lines = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if not line.startswith("# ") or line.startswith("#  "):
            break
        lines.append(line.removeprefix("# "))
    return " ".join(lines).removesuffix(":")


def benchmark_cells(found: Benchmark) -> Sequence[str]:
    """The row of a benchmark."""
    experiments = list(found.experiments())
    tree = experiments[0].tree
    protocols = dict.fromkeys(one.tree["eval"]["protocol"] for one in experiments)
    lengths = dict.fromkeys(one.epochs for one in sorted(experiments, key=lambda one: one.epochs))
    return (
        found.about.title,
        f"`{found.name}`",
        _name(tree, "data"),
        ", ".join(f"`{name}`" for name in found.backbones),
        ", ".join(map(str, lengths)),
        ", ".join(protocols),
        found.about.needs,
        f"`mixcore run {experiments[0].id}`",
    )


def _methods(found: Benchmark) -> str:
    """The methods, with the backbones of those that not all have."""
    told = []
    for name, where in found.methods.items():
        some = f" ({', '.join(where.backbones)})" if where.backbones else ""
        told.append(f"`{name}`{some}")
    return ", ".join(told)


def measured() -> list[str]:
    """What was tried, and how it compares with what was published."""
    rows, _ = read_evidence(EVIDENCE)
    claims = load_claims()
    standings = compare(claims, rows).standings
    tried = [(claim, standings[claim.id]) for claim in claims if standings[claim.id].seeds]
    if not tried:
        return ["Nothing yet: `mixcore reproduce cifar100.resnet18.mixup.ep200` writes the first rows."]
    heads = ("published number", "claimed", "measured", "seeds", "status", "command")
    cells = (
        (f"`{claim.id}`", f"{claim.value:.2f}", f"{one.mean:.2f}", str(len(one.seeds)), one.status, _command(claim.id))
        for claim, one in tried
    )
    return list(_table(heads, cells))


def swept() -> Iterator[str]:
    """Each sweep that was carried out: what it is, the commands and its table."""
    carried_out = sorted(SWEEPS.glob("*.json"))
    if not carried_out:
        yield "None was carried out to its end yet.\n"
    for path in carried_out:
        file = path.with_suffix(".toml")
        yield f"### [{file.name}](../{file.relative_to(ROOT).as_posix()})\n\n{_comment(file)}\n\n{_commands(file)}\n"
        yield markdown(json.loads(path.read_text(encoding="utf-8")))


def _commands(path: Path) -> str:
    """What to type, from the comment at the top of a file."""
    comment = takewhile(lambda line: line.startswith("#"), path.read_text(encoding="utf-8").splitlines())
    return "\n".join(["```", *(line.removeprefix("#   ") for line in comment if line.startswith("#   ")), "```"])


def _command(claim: str) -> str:
    return f"`mixcore reproduce {claim}`"


def _table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(heads)} |"
    yield f"|{'---|' * len(heads)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"{PAGE.relative_to(ROOT)} written")  # noqa: T201
