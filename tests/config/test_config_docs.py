"""docs/config.md names every key of the core with its type, default and help, and its example is a configuration."""

from __future__ import annotations

from pathlib import Path

import pytest
import tomli

from mixcore.config import schema
from mixcore.config.tables import config_from_tree
from mixcore.discovery.option_help import option_help

PAGE = (Path(__file__).parents[2] / "docs" / "config.md").read_text()


@pytest.mark.parametrize(
    "cls",
    [
        schema.DataTable,
        schema.MixTable,
        schema.OptimizerConfig,
        schema.ScheduleConfig,
        schema.TrainConfig,
        schema.EvalConfig,
        schema.RunSection,
    ],
)
def test_every_key_is_documented(cls: type) -> None:
    own = ("options", "path") if issubclass(cls, schema.PluginTable) else ()
    for key in option_help(cls):
        if key.name not in own:
            assert key.help, f"{cls.__name__}.{key.name} has no help"
            assert f"| `{key.name}` | {key.type} | {key.default} | {key.help} |" in PAGE


def test_the_example_is_a_configuration() -> None:
    example = PAGE.partition("```toml\n")[2].partition("```")[0]
    assert config_from_tree(tomli.loads(example)).mix[0].options == {"alpha": 0.2}
