"""`mixcore plugins`: what is installed, what one plugin takes, and whether all of them work."""

from __future__ import annotations

import click

from mixcore.cli.table import print_table

__all__ = ["command"]


@click.group(invoke_without_command=True)
@click.option("--check", is_flag=True, help="Import each plugin in a process of its own; exit 1 if one is broken.")
@click.pass_context
def command(ctx: click.Context, check: bool) -> None:
    """List the installed plugins, show one, or check them all."""
    if check:
        _check(ctx)
    elif ctx.invoked_subcommand is None:
        _list()


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
    role = getattr(cls, "role", None)
    click.echo(f"{entry.label}\n")
    click.echo(f"{_paragraph(cls.__doc__)}\n")
    click.echo(f"role: {role or 'none; listed as [[extra]]'}")
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


def _list() -> None:
    from mixcore.discovery.catalogue import installed

    entries = [entry for claims in installed().values() for entry in claims]
    print_table(
        ("name", "distribution", "version", "summary"),
        [(entry.name, entry.distribution, entry.version, entry.summary) for entry in entries],
    )


def _check(ctx: click.Context) -> None:
    from mixcore.discovery.catalogue import installed
    from mixcore.discovery.check import check_all

    checked = check_all(entry for claims in installed().values() for entry in claims)
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
            for found in checked
        ],
    )
    if any(found.fault for found in checked):
        ctx.exit(1)
