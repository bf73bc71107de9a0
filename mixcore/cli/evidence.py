"""What the verbs of the ledger have in common."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.core import ParameterSource

from mixcore.errors import ConfigError

if TYPE_CHECKING:
    from mixcore.ledger.evidence import Evidence

__all__ = ["evidence_option", "read_rows", "tell"]

evidence_option = click.option(
    "--evidence",
    type=click.Path(path_type=Path, file_okay=False),
    default="evidence",
    show_default=True,
    metavar="DIR",
    help="Folder of the evidence.",
)


def read_rows(ctx: click.Context, folder: Path) -> tuple[list[tuple[Path, Evidence]], list[str]]:
    """Rows and faults of the folder; ConfigError where one was named that does not exist."""
    from mixcore.ledger.evidence import read_evidence

    if ctx.get_parameter_source("evidence") is ParameterSource.COMMANDLINE and not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}; mixcore reproduce writes evidence into the folder --evidence")
    return read_evidence(folder)


def tell(faults: Iterable[str]) -> bool:
    """Say on stderr what was refused; whether there was anything."""
    told = [f"mixcore: {fault}" for fault in faults]
    if told:
        click.echo("\n".join(told), err=True)
    return bool(told)
