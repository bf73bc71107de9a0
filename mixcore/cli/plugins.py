"""`mixcore plugins`: what is installed, what one plugin takes, and whether all of them work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import click

from mixcore.cli.table import print_table
from mixcore.hooks.roles import EXTRA, role_of

if TYPE_CHECKING:
    from mixcore.discovery.survey import Surveyed
    from mixcore.entry_points import Entry

__all__ = ["command"]


@click.group(invoke_without_command=True)
@click.option("--check", is_flag=True, help="Import each plugin in a process of its own; exit 1 if one is broken.")
@click.option("--roles", is_flag=True, help="List the role of each plugin too, which takes importing them.")
@click.pass_context
def command(ctx: click.Context, check: bool, roles: bool) -> None:
    """List the installed plugins, show one, or check them all."""
    if check:
        _check(ctx)
    elif ctx.invoked_subcommand is None:
        _list(roles)


@command.command("list")
def list_command() -> None:
    """List name, distribution, version and summary of every plugin; imports none of them."""
    _list()


@command.command("show")
@click.argument("name")
def show_command(name: str) -> None:
    """Show what the plugin NAME does and takes: role, needs, and every option with type, default and help."""
    from mixcore.discovery.catalogue import find, installed
    from mixcore.discovery.load import load
    from mixcore.discovery.option_help import option_help

    entry = find(name, installed())
    cls = load(entry)
    role = role_of(cls)
    click.echo(f"{entry.label}\n")
    click.echo(f"{_paragraph(cls.__doc__)}\n")
    click.echo(f"role: {'none; listed as [[extra]]' if role == EXTRA else role}")
    for attribute in ("needs", "provides", "accepts", "stages", "suggests"):
        click.echo(_declaration(cls, attribute), nl=False)
    options = option_help(cls)
    if not options:
        click.echo("\nno options")
        return
    click.echo("")
    print_table(
        ("option", "type", "default", "help"),
        [(option.name, option.type, option.default, option.help) for option in options],
    )


def _declaration(cls: type, attribute: str) -> str:
    """A line for what the class declares, or nothing; a property depends on the options and is only named."""
    value = getattr(cls, attribute, None)
    if isinstance(value, property):
        return f"{attribute}: depends on the options\n"
    if not value:
        return ""
    if isinstance(value, dict):
        return f"{attribute}: {', '.join(f'{key} = {item}' for key, item in value.items())}\n"
    return f"{attribute}: {', '.join(map(str, sorted(value, key=str)))}\n"


def _paragraph(text: str | None) -> str:
    return " ".join((text or "No description.").strip().partition("\n\n")[0].split())


def _list(roles: bool = False) -> None:
    from mixcore.discovery.catalogue import installed

    claims = installed()
    entries = [entry for found in claims.values() for entry in found]
    columns = {
        "name": [entry.name for entry in entries],
        "distribution": [entry.distribution for entry in entries],
        "version": [entry.version for entry in entries],
        "role": _roles(claims, [entry.name for entry in entries]) if roles else None,
        "summary": [entry.summary for entry in entries],
    }
    shown = {head: cells for head, cells in columns.items() if cells is not None}
    print_table(tuple(shown), list(zip(*shown.values(), strict=True)))
    _tell_unreadable()


def _roles(claims: Mapping[str, Sequence[Entry]], names: Sequence[str]) -> list[str]:
    """The role of each name, where one distribution has it and it can be imported."""
    from mixcore.discovery.survey import IMPORT_LIMIT, survey

    found = survey([name for name, entries in claims.items() if len(entries) == 1], limit=IMPORT_LIMIT)
    return [_role(found[name]) if name in found else "claimed more than once" for name in names]


def _role(found: Surveyed) -> str:
    return f"unknown: {found.fault}" if found.fault else found.role


def _tell_unreadable() -> bool:
    """Name the distributions that cannot be read on stderr; whether there are any."""
    from mixcore.discovery.catalogue import unreadable

    broken = unreadable()
    for found in broken:
        click.echo(f"mixcore: {found}", err=True)
    return bool(broken)


def _check(ctx: click.Context) -> None:
    from mixcore.discovery.catalogue import installed
    from mixcore.discovery.check import check_all

    entries = [entry for claims in installed().values() for entry in claims]
    checked = []
    for number, found in enumerate(check_all(entries), 1):
        click.echo(f"{number} of {len(entries)}: {found.name}{' is broken' if found.fault else ''}", err=True)
        checked.append(found)
    print_table(
        ("name", "distribution", "version", "role", "needs", "provides", "state"),
        [
            (
                found.name,
                found.distribution,
                found.version,
                found.role,
                " ".join(found.needs),
                " ".join(found.provides),
                f"broken: {found.fault}" if found.fault else "ok",
            )
            for found in sorted(checked, key=lambda found: (found.name, found.distribution))
        ],
    )
    if _tell_unreadable() or any(found.fault for found in checked):
        ctx.exit(1)
