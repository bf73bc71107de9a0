"""What the verbs of the ledger have in common."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import click

__all__ = ["evidence_option", "tell"]

evidence_option = click.option(
    "--evidence",
    type=click.Path(path_type=Path, file_okay=False),
    default="evidence",
    show_default=True,
    metavar="DIR",
    help="Folder of the evidence.",
)


def tell(faults: Iterable[str]) -> bool:
    """Say on stderr what was refused; whether there was anything."""
    told = [f"mixcore: {fault}" for fault in faults]
    if told:
        click.echo("\n".join(told), err=True)
    return bool(told)
