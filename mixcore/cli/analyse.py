"""`mixcore analyse`: what a paper reports beside accuracy, from run folders."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

import click

from mixcore.cli.overrides import options_by_name
from mixcore.cli.table import print_table

if TYPE_CHECKING:
    from mixcore.analyse.one import Analysis, Result
    from mixcore.analyse.run_data import LoadedRunData

__all__ = ["command"]

P = ParamSpec("P")
T = TypeVar("T")
LONGEST_CELL = 24
"""Characters of a number or word in the table; what is longer stands in the file alone."""


@click.command("analyse", short_help="Analyse trained runs.")
@click.argument("words", metavar="RUN... NAME...", nargs=-1, required=True)
@click.option(
    "--set",
    "overrides",
    metavar="KEY=VALUE",
    multiple=True,
    help="Give an analysis an option, such as fgsm.eps=[2,4,8], or the runs another key, such as data.root=elsewhere.",
)
@click.option("--set-name", default="val", show_default=True, metavar="NAME", help="Evaluation set to analyse.")
@click.option("--predictor", metavar="NAME", help="Predictor, such as ema; by default the one that picked best.pt.")
@click.option("--checkpoint", default="best", show_default=True, metavar="best|last|previous|FILE", help="Weights.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("analyses"),
    show_default=True,
    help="Where the pictures of several runs together go.",
)
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
@click.pass_context
def command(
    ctx: click.Context,
    words: tuple[str, ...],
    overrides: tuple[str, ...],
    set_name: str,
    predictor: str | None,
    checkpoint: str,
    out: Path,
    as_json: bool,
) -> None:
    """Do the analyses NAME... of the trained runs in the folders RUN...

    Each writes analyses/NAME.json and, where it has a picture, NAME.png into the folder of the run. What is there for
    the same options and checkpoint is not computed again. Of several runs there is also one picture of all.

    Exit code 1 where something failed; the rest is done all the same.
    """
    folders, names = _told_apart(words)
    options, of_runs = _options(overrides, names)
    said = _Said()
    analyses = {name: said.tried(name, _find, name, options.get(name, {})) for name in names}
    runs = dict(zip(_run_names(folders), folders, strict=True))
    opened = {run: said.tried(run, _open, at, checkpoint, of_runs, predictor, set_name) for run, at in runs.items()}
    results: dict[str, dict[str, Result]] = {name: {} for name in names}
    for run, data in opened.items():
        for name, analysis in analyses.items():
            if data is not None and analysis is not None:
                found = said.tried(f"{run}: {name}", _analyse, run, data, analysis)
                results[name] |= {} if found is None else {run: found}
    pictures: dict[str, Path] = {}
    for name, analysis in analyses.items():
        if analysis is not None and len(results[name]) > 1:
            task = next(data.run.task for data in opened.values() if data is not None)
            drawn = said.tried(name, _together, analysis, results[name], task, out)
            pictures |= {} if drawn is None else {name: drawn}
    if as_json:
        click.echo(json.dumps(_document(results, pictures, said.faults), indent=2))
    else:
        _print(results, pictures)
    if said.faults:
        ctx.exit(1)


class _Said:
    """What went wrong so far, each said at once; the rest goes on."""

    def __init__(self) -> None:
        self.faults: list[str] = []

    def tried(self, what: str, work: Callable[P, T], *given: P.args, **named: P.kwargs) -> T | None:
        """What `work` gives; None where it failed, which is said to be of `what`."""
        from mixcore.errors import MixcoreError

        try:
            return work(*given, **named)
        except Exception as error:  # whatever a stranger's analysis raises
            kind = "" if isinstance(error, MixcoreError) else f"{type(error).__name__}: "
            notes = "".join(f"\n  {note}" for note in getattr(error, "__notes__", ()))
            self.faults.append(f"{what}: {kind}{error}{notes}")
            click.echo(f"mixcore: {self.faults[-1]}", err=True)
            return None


def _told_apart(words: Sequence[str]) -> tuple[list[Path], list[str]]:
    """The run folders and the names: the first word is a run, and whatever else is a folder with a configuration."""
    runs = [word for index, word in enumerate(words) if index == 0 or (Path(word) / "config.toml").is_file()]
    names = [word for word in words if word not in runs]
    if not names:
        raise click.UsageError(
            "expected run folders and then analyses, such as mixcore analyse runs/quickstart calibration; found only "
            f"{', '.join(words)}; mixcore plugins --roles lists the analyses that are installed"
        )
    return list(map(Path, dict.fromkeys(runs))), list(dict.fromkeys(names))


def _options(overrides: Sequence[str], names: Sequence[str]) -> tuple[dict[str, Any], list[str]]:
    """Options by analysis, and the overrides of the runs' configurations."""
    from mixcore.config.schema import RunConfig

    tables = {field.name for field in RunConfig.__attrs_attrs__}
    of_runs = [given for given in overrides if given.partition("=")[0].split(".")[0].strip() in tables]
    expected = f"{names[0]}.option=value for an analysis of this command, data.root=elsewhere for the runs"
    return options_by_name([given for given in overrides if given not in of_runs], names, expected), of_runs


def _run_names(folders: Sequence[Path]) -> list[str]:
    from mixcore.analyse.together import run_names

    return run_names(folders)


def _find(name: str, options: Mapping[str, Any]) -> Analysis:
    from mixcore.analyse.one import find_analysis

    return find_analysis(name, options)


def _open(
    folder: Path, checkpoint: str, overrides: Sequence[str], predictor: str | None, set_name: str
) -> LoadedRunData:
    from mixcore.analyse.run_data import LoadedRunData, predictor_of
    from mixcore.errors import ConfigError
    from mixcore.run.open import load_run

    run = load_run(folder, checkpoint=checkpoint, overrides=overrides)
    if set_name not in run.sets:
        raise ConfigError(f"there is no evaluation set {set_name!r}; this run's data has: {', '.join(run.sets)}")
    name, model = predictor_of(run, predictor)
    return LoadedRunData(run=run, model=model.eval(), predictor=name, set_name=set_name)


def _analyse(run: str, data: LoadedRunData, analysis: Analysis) -> Result:
    from mixcore.analyse.one import analyse
    from mixcore.logs.track import Bar

    return analyse(analysis, data, Bar(f"{run}: {analysis.name}"))


def _together(analysis: Analysis, results: Mapping[str, Result], task: Any, out: Path) -> Path | None:
    from mixcore.analyse.together import picture_together
    from mixcore.cli.files import written

    with written(out, "name another folder with --out"):
        return picture_together(analysis, results, task, out)


def _document(
    results: Mapping[str, Mapping[str, Result]], pictures: Mapping[str, Path], faults: Sequence[str]
) -> dict[str, Any]:
    runs: dict[str, dict[str, Any]] = {}
    for name, of_all in results.items():
        for run, result in of_all.items():
            runs.setdefault(run, {})[name] = {
                "numbers": result.numbers,
                "made_from": result.made_from,
                "seconds": result.seconds,
                "there_already": result.there,
                "picture": None if result.picture is None else str(result.picture),
            }
    return {"runs": runs, "pictures": {name: str(path) for name, path in pictures.items()}, "faults": list(faults)}


def _print(results: Mapping[str, Mapping[str, Result]], pictures: Mapping[str, Path]) -> None:
    """Per analysis a table of the numbers at the top of its results, a column per run."""
    for name, of_all in results.items():
        if not of_all:
            continue
        keys = dict.fromkeys(
            key for result in of_all.values() for key, value in result.numbers.items() if _short(value)
        )
        rows = [(key, *(_cell(result.numbers.get(key)) for result in of_all.values())) for key in keys]
        took = ("took", *(_took(result) for result in of_all.values()))
        print_table((name, *of_all), [*rows, took])
        for result in of_all.values():
            if result.picture is not None:
                click.echo(result.picture)
        if name in pictures:
            click.echo(f"together: {pictures[name]}")
        click.echo("")


def _short(value: Any) -> bool:
    return isinstance(value, int | float | str) and len(_cell(value)) <= LONGEST_CELL


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1 else f"{value:.2f}"
    return "" if value is None else str(value)


def _took(result: Result) -> str:
    return f"{result.seconds:.1f} s{', there already' if result.there else ''}"
