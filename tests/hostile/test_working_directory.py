"""Files of the working directory that are named like libraries are not run by the processes that mixcore starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from mixcore.children import child_environment, python_module
from mixcore.cli import check as checking
from mixcore.discovery.catalogue import find, installed
from mixcore.discovery.check import check_all

IMPOSTORS = ("timm", "torchvision", "rich", "cattrs", "attrs", "pluggy", "tomli")


@pytest.fixture
def ran(toy_config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory, full of impostors; each that is imported leaves its name in the folder returned."""
    folder = tmp_path / "ran"
    folder.mkdir()
    for name in IMPOSTORS:
        (tmp_path / f"{name}.py").write_text(f"open({str(folder / name)!r}, 'w').close()\nraise ImportError('no')\n")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    return folder


@pytest.mark.ddp
def test_the_processes_of_nproc_import_nothing_from_it(ran: Path) -> None:
    # `python -m mixcore` puts it on the path of the launcher as well
    command = [sys.executable, "-m", "mixcore", "run", "toy.toml", "--nproc", "2", "--set", "schedule.epochs=1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert list(ran.iterdir()) == []
    assert done.returncode == 0, done.stderr


def test_the_process_that_tries_a_plugin_imports_nothing_from_it(ran: Path) -> None:
    [checked] = check_all([find("toy_mix", installed())])
    assert list(ran.iterdir()) == []
    assert (checked.role, checked.fault) == ("mix", "")


def test_the_process_that_checks_a_plugin_imports_nothing_from_it(ran: Path) -> None:
    task = {"name": "toy_mix", "options": {}, "device": "cpu", "checks": []}
    results, _ = checking._run(task, seconds=300, limit=300)
    assert list(ran.iterdir()) == []
    assert [result["state"] for result in results if result["check"] == "loads"] == ["started", "passed"]


@pytest.mark.parametrize(
    ("asked", "before", "found"),
    [
        (None, [""], False),
        (None, ["{here}"], False),
        (None, ["{here}/."], False),
        ("", ["{here}"], False),
        (":{there}", ["{here}"], False),
        ("{here}", ["{here}"], True),  # by name: the user's own wish
        (".", ["{here}"], True),
    ],
)
def test_a_child_sees_it_only_where_pythonpath_names_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, asked: str | None, before: list[str], found: bool
) -> None:
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    monkeypatch.chdir(here)
    for name in ("PYTHONPATH", "PYTHONSAFEPATH"):
        monkeypatch.delenv(name, raising=False)
    if asked is not None:
        monkeypatch.setenv("PYTHONPATH", asked.format(here=here, there=there))
    monkeypatch.setattr(sys, "path", [*(path.format(here=here) for path in before), str(there), *sys.path])
    code = "import os, sys\nprint([os.path.realpath(path) for path in sys.path])"
    (there / "said.py").write_text(code)
    done = subprocess.run(
        python_module("said"), env=child_environment(), capture_output=True, text=True, check=True, timeout=60
    )
    assert (repr(os.path.realpath(here)) in done.stdout) is found
    assert repr(os.path.realpath(there)) in done.stdout
