"""Roles of plugins that nobody selected are found in other processes, which may hang or die."""

from __future__ import annotations

import sys
from collections.abc import Callable

import pytest

from mixcore.discovery.alternatives import installed_plugins, names_of_role
from mixcore.discovery.survey import Surveyed, survey

PLUGIN = """
import sys
print("noise of an import")
import attrs
@attrs.define(eq=False, kw_only=True)
class Thing:
    role = {role!r}
    provides = frozenset({{"mask"}})
"""


@pytest.fixture
def four(install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """A mixer, one that dies while it is imported, one that hangs, and an extra."""
    install(
        {f"{name}": f"fake_survey_{name}:Thing" for name in ("good", "dying", "hanging", "other")},
        {
            "fake_survey_good": PLUGIN.format(role="mix"),
            "fake_survey_dying": "import os; os._exit(0)",
            "fake_survey_hanging": "import time; time.sleep(1000)",
            "fake_survey_other": PLUGIN.format(role=None),
        },
        distribution="fake-survey",
    )
    return ["good", "dying", "other", "hanging"]


def test_each_plugin_is_told_whatever_its_neighbours_do(four: list[str]) -> None:
    found = survey(four, limit=15)
    assert found["good"].role == "mix"
    assert found["good"].declared is not None
    assert found["good"].declared.provides == {"mask"}
    assert found["other"] == Surveyed(role="extra", declared=found["other"].declared)
    assert found["dying"].fault == "its import ended the process with status 0"
    assert found["hanging"].fault
    assert not [name for name in sys.modules if name.startswith("fake_survey")]


def test_without_any_time_every_name_is_offered(four: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("mixcore.discovery.survey.LIMIT", 0)
    assert set(four) <= set(names_of_role("mix"))
    assert list(installed_plugins("mix")) == []
