"""Plugins that stand inside options of other plugins: the saliencies that a plugin holds."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from mixcore.config.schema import PluginTable
from mixcore.config.structure import option_fields
from mixcore.options import Saliency

__all__ = ["held_saliencies", "saliency_table", "table_identity"]


def held_saliencies(plugin: Any) -> Iterator[tuple[str, Saliency]]:
    """Key and value of each option that holds a saliency."""
    for key, field in option_fields(type(plugin)).items():
        value = getattr(plugin, field.name)
        if isinstance(value, Saliency):
            yield key, value


def saliency_table(saliency: Saliency) -> Any:
    """What is to be selected: the instance that the option holds, or the table."""
    if saliency.plugin is not None:
        return saliency.plugin
    return PluginTable(name=saliency.name, options=dict(saliency.options))


def table_identity(name: str, options: Mapping[str, Any]) -> str:
    """The same for tables of one name with equal options, in TOML's own types: they are one plugin."""
    return json.dumps([name, options], sort_keys=True)
