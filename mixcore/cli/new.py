"""`mixcore new`: a plugin to begin with, which already works."""

from __future__ import annotations

from pathlib import Path

import click

from mixcore.hooks.roles import TEMPLATE_ROLES

__all__ = ["command"]


@click.command("new", short_help="Make a new plugin: a distribution to fill in.")
@click.argument("name")
@click.option(
    "--role",
    type=click.Choice(list(TEMPLATE_ROLES)),
    default="mix",
    show_default=True,
    help=f"What it is: {', '.join(f'{name} for {role.plural}' for name, role in TEMPLATE_ROLES.items())}.",
)
@click.option(
    "--dir",
    "parent",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path(),
    help="Where the new folder goes; by default here.",
)
def command(name: str, role: str, parent: Path) -> None:
    """Make mixcore-plugin-NAME, a distribution with a plugin that works, of the role that --role says.

    NAME is the plugin's name in TOML: lower-case letters, digits and underscores. The folder holds the plugin, its
    tests, a README and a configuration that trains it; nothing that exists is changed.
    """
    from mixcore.scaffold.render import render

    folder = render(name, parent, role)
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        click.echo(path)
    click.echo(
        f"\nnext:\n  cd {folder}\n"
        '  pip install -e ".[test]"\n'
        f"  mixcore check {name}\n"
        "  pytest\n"
        "  mixcore run quickstart.toml"
    )
