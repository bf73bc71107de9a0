"""The table of roles, and that those who spell roles elsewhere say the same."""

from __future__ import annotations

import subprocess
import sys
from typing import get_type_hints

import attrs
import pytest

from mixcore.config.schema import RunConfig
from mixcore.config.tables import config_from_tree, read_tree
from mixcore.hooks import roles
from mixcore.hooks.calls import HOOKS
from mixcore.hooks.roles import EXTRA, ROLES, SUGGESTED_ROLES, TABLE_ROLES, role_of


def test_a_configuration_has_a_table_for_each_role() -> None:
    tables = [name for name, hint in get_type_hints(RunConfig).items() if "Table" in str(hint)]
    assert tables == list(TABLE_ROLES)
    for field in attrs.fields(RunConfig):
        if field.name in TABLE_ROLES:
            assert (field.default == ()) == TABLE_ROLES[field.name].several
            assert (field.default is attrs.NOTHING) == bool(TABLE_ROLES[field.name].example)


def test_duties_are_hooks_of_one_role_each() -> None:
    own = [hook for role in ROLES.values() for hook in (role.duty, *role.hooks) if hook is not None]
    assert set(own) <= set(HOOKS)
    assert len(own) == len(set(own))
    assert [name for name, role in ROLES.items() if role.duty is None] == [EXTRA]


def test_a_role_that_a_run_must_have_is_named_or_has_a_default() -> None:
    for name, role in TABLE_ROLES.items():
        assert name == EXTRA or bool(role.default) != bool(role.example)
    assert SUGGESTED_ROLES == ("labels", "loss")
    assert list(TABLE_ROLES).index("mix") < min(list(TABLE_ROLES).index(name) for name in SUGGESTED_ROLES)


def test_tables_by_role() -> None:
    tree = {"data": {"name": "a"}, "backbone": {"name": "b"}, "mix": [{"name": "c"}, {"name": "d"}]}
    tables = config_from_tree(tree).plugin_tables()
    assert {role: [table.name for table in found] for role, found in tables.items()} == {
        "data": ["a"],
        "backbone": ["b"],
        "mix": ["c", "d"],
        "labels": [],
        "loss": [],
        "extra": [],
    }


def test_what_has_to_be_named_is_missed_with_an_example() -> None:
    assert [fault.message.partition(":")[0] for fault in read_tree({}).faults] == [
        "[data] is missing",
        "[backbone] is missing",
    ]


@pytest.mark.parametrize(("declared", "role"), [(None, EXTRA), ("mix", "mix")])
def test_the_role_of_a_class(declared: str | None, role: str) -> None:
    assert role_of(type("Thing", (), {"role": declared})) == role
    assert role_of(object) == EXTRA


def test_the_table_is_light() -> None:
    code = f"import sys, {roles.__name__}; print([m for m in ('torch', 'pluggy') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
