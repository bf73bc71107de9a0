"""The plugins of a run are made once: what was checked is what trains."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from mixcore.cli.main import main

PROBE = """
import attrs
from pathlib import Path
from mixcore.api import hookimpl

@attrs.define(eq=False, kw_only=True)
class Probe:
    size: int = attrs.field(default=1, validator=attrs.validators.ge(1))

    def __attrs_post_init__(self):
        with Path("made.txt").open("a") as file:
            file.write(f"{id(self)}\\n")

    @hookimpl
    def after_step(self, step):
        Path("used.txt").write_text(f"{id(self)}\\n")
"""


@pytest.mark.parametrize("dry", [False, True], ids=["run", "dry run"])
def test_a_plugin_is_made_once(install: Callable[..., None], toy_config: Path, dry: bool) -> None:
    install({"probe": "fake_probe:Probe"}, {"fake_probe": PROBE}, distribution="fake-probe")
    toy_config.write_text(toy_config.read_text() + '\n[[extra]]\nname = "probe"\n')
    assert main(["run", str(toy_config), *(["--dry-run"] if dry else [])]) == 0
    made = Path("made.txt").read_text().splitlines()
    assert len(made) == 1
    if not dry:
        assert Path("used.txt").read_text().splitlines() == made
