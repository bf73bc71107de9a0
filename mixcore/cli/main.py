"""The command `mixcore`: its verbs, each imported when it is called, and what becomes of errors."""

from __future__ import annotations

import importlib
import sys
import traceback
from collections.abc import Sequence
from contextlib import nullcontext
from importlib.util import find_spec

import click

from mixcore.errors import MixcoreError
from mixcore.run.signals import leaving_at_once

__all__ = ["cli", "main"]

VERBS = {
    "run": "Train as a configuration file says.",
    "sweep": "Train every combination that a sweep file names.",
    "eval": "Evaluate a checkpoint of a run.",
    "analyse": "Analyse trained runs: what a paper reports beside accuracy.",
    "plot": "Draw curves, trade-offs and schedules of runs.",
    "export": "Write a trained network for other programs.",
    "plugins": "List the installed plugins, show one, or check them all.",
    "show": "Draw a contact sheet of mixed images.",
    "bench": "Measure what mixers cost.",
    "claims": "List published numbers, or show one and how to run it.",
    "reproduce": "Run the experiment of a published number, seed by seed.",
    "report": "Compare published numbers with runs: table, CSV and picture.",
    "check": "Check that plugins keep the contract.",
    "new": "Make a new plugin: a distribution to fill in.",
}
"""Module mixcore.cli.<verb>, with a click command named `command`, and its line in the help."""
INTERRUPTED = 130


class _Verbs(click.Group):
    """A group whose commands are modules: help needs none of them imported."""

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return [verb for verb in VERBS if find_spec(f"mixcore.cli.{verb}") is not None]

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in self.list_commands(ctx):
            return None
        command: click.Command = importlib.import_module(f"mixcore.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(verb, VERBS[verb]) for verb in self.list_commands(ctx)])


def _print_version(ctx: click.Context, _parameter: click.Parameter, wanted: bool) -> None:
    if wanted:
        from mixcore import __version__

        click.echo(f"mixcore {__version__}")
        ctx.exit()


@click.group(cls=_Verbs, context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--debug", is_flag=True, help="Show the traceback of an error; goes before the command.")
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Print the version of mixcore.",
)
@click.pass_context
def cli(ctx: click.Context, debug: bool) -> None:
    """Train image classifiers with mixup methods, and compare the methods.

    Exit codes: 0 done, 1 failed while running, 2 refused before training, 75 preempted (start again with the same
    command), 130 interrupted.
    """
    ctx.obj = {"debug": debug}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code; every error becomes one message on stderr.

    `arguments` are those after the program's name, by default the process's own.
    """
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    with leaving_at_once() if _trains(arguments) else nullcontext():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    debug = "--debug" in _before_verb(arguments)
    try:
        code = cli.main(args=list(arguments), prog_name="mixcore", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return INTERRUPTED
    except Exception as error:
        if debug:
            traceback.print_exc()
        click.echo(_message(error, arguments, debug), err=True)
        return error.exit_code if isinstance(error, MixcoreError) else 1


def _before_verb(arguments: Sequence[str]) -> Sequence[str]:
    verb = next((index for index, argument in enumerate(arguments) if not argument.startswith("-")), len(arguments))
    return arguments[:verb]


def _trains(arguments: Sequence[str]) -> bool:
    """Whether this verb trains: those are what a scheduler stops and starts again."""
    return arguments[len(_before_verb(arguments)) :][:1] in (["run"], ["sweep"], ["reproduce"])


def _message(error: Exception, arguments: Sequence[str], debug: bool) -> str:
    notes = [f"  {note}" for note in getattr(error, "__notes__", ())]
    if isinstance(error, MixcoreError):
        return "\n".join([f"mixcore: {error}", *notes])
    hint = "" if debug else f"\n  for the traceback: mixcore --debug {' '.join(arguments)}"
    return "\n".join([f"mixcore: {type(error).__name__}: {error}", *notes]) + hint


if __name__ == "__main__":
    sys.exit(main())
