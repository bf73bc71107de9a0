"""The table of roles, and that those who spell roles elsewhere say the same."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib.resources import files
from typing import get_type_hints

import attrs
import pytest

import mixcore.testing
from mixcore.config.schema import RunConfig
from mixcore.config.tables import config_from_tree, read_tree
from mixcore.hooks import roles
from mixcore.hooks.calls import HOOKS
from mixcore.hooks.roles import EXTRA, ROLES, SUGGESTED_ROLES, TABLE_ROLES, TEMPLATE_ROLES, role_of, where_it_stands
from mixcore.testing import Subject, checks_of
from mixcore.testing.named import checks_named


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


def test_every_check_is_in_the_contract_of_a_role() -> None:
    files_of_checks = [found.name for found in pkgutil.iter_modules(mixcore.testing.__path__)]
    every = checks_named(name.removeprefix("checks_") for name in files_of_checks if name.startswith("checks_"))
    assert {name for role in ROLES for name in checks_of(role)} == set(every)


@pytest.mark.parametrize("role", list(ROLES))
def test_what_each_value_of_an_option_passes_is_in_the_contract(role: str) -> None:
    assert set(checks_named(ROLES[role].option_checks)) <= set(checks_of(role))
    assert bool(ROLES[role].option_checks) == ("every_option_value" in checks_of(role))
    assert set(ROLES[role].contract) <= {field.name for field in attrs.fields(Subject)}


def test_the_templates_are_those_of_the_table() -> None:
    folders = {folder.name for folder in (files("mixcore.scaffold") / "template").iterdir() if folder.is_dir()}
    assert folders == {"shared", *TEMPLATE_ROLES}


def test_where_plugins_stand() -> None:
    stands = {role: where_it_stands(role) for role in ROLES}
    assert stands.pop("saliency") == "in another plugin's option"
    assert stands.pop("analysis") == "on the command line, mixcore analyse RUN NAME"
    assert stands.pop("launcher") == "in [launcher] of a sweep file"
    assert stands.pop(EXTRA) == "in [[extra]]"
    assert stands == {role: f"in [{role}]" for role in stands}


NEW_ROLE = """
import attrs
from mixcore.hooks import roles, specs
from mixcore.hooks.markers import hookspec

class NewSpecs:
    @hookspec(firstresult=True)
    def judge(self, number):
        ...

specs.HookSpecs.judge = NewSpecs.judge
roles.ROLES["judge"] = roles.Role(
    title="judge",
    plural="judges",
    duty="judge",
    elsewhere="on the command line",
    checks=("class", "repeat.options_round_trip"),
)

from mixcore.api import hookimpl
from mixcore.cli.main import main
from mixcore.discovery.manager import build_method_plugins
from mixcore.errors import MixcoreError
from mixcore.testing import Harness, Subject, checks_of

@attrs.define(eq=False, kw_only=True)
class Severe:
    role = "judge"
    limit: int = 3

    @hookimpl
    def judge(self, number):
        return number < self.limit

@attrs.define(eq=False, kw_only=True)
class Meddling:
    role = "judge"

    @hookimpl
    def mix_labels(self, mix, labels):
        return mix.targets(labels)

for name, check in checks_of("judge").items():
    check(Harness(Subject(plugin=Severe, options={"limit": 5})))
    print("passed", name)
for given in ({"mix": Severe()}, {"mix": Meddling()}, {"extra": [Severe()]}):
    try:
        build_method_plugins(**given)
    except MixcoreError as error:
        print(error)
try:
    Harness(Subject(plugin=Meddling))
except MixcoreError as error:
    print(error)
main(["new", "--help"])
"""


def test_a_new_role_is_a_row_of_the_table_and_its_hook() -> None:
    done = subprocess.run([sys.executable, "-c", NEW_ROLE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    *told, first, second, third, fourth = done.stdout.partition("Usage:")[0].strip().splitlines()
    assert told == ["passed every_option_is_a_field", "passed options_round_trip"]
    assert "Severe has role judge, expected a plugin with role mix; it belongs on the command line" in first
    assert "Meddling has role judge, expected a plugin with role mix" in second
    assert "Severe has role judge, expected a plugin with no role; it belongs on the command line" in third
    assert (
        'implements mix_labels, but has role "judge", and only the owner of [labels] is asked for that hook' in fourth
    )
