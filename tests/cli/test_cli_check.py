"""`mixcore check`: reports, exit codes, and plugins that take their process down."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from mixcore.cli.main import main

SOURCE = '''
import os
import time
from typing import ClassVar

import attrs
import torch

from mixcore.api import Data, Mix, Resident, Task, hookimpl


@attrs.define(eq=False, kw_only=True)
class Stripes:
    """Random stripes."""

    role = "data"
    built: ClassVar[int] = 0

    classes: int = 2
    """Classes that the labels have."""
    dies: bool = False
    """Ends the process when the set is built for the fourth time."""
    sleeps: bool = False
    """Takes for ever."""

    @hookimpl
    def build_data(self):
        type(self).built += 1
        if self.dies and type(self).built == 4:
            os.write(2, b"out of luck\\\\n")
            os._exit(7)
        if self.sleeps:
            time.sleep(600)
        rng = torch.Generator().manual_seed(0)
        images = torch.randint(0, 256, (24, 1, 8, 8), generator=rng, dtype=torch.uint8)
        labels = torch.arange(12) % self.classes
        task = Task(num_classes=2, in_channels=1, image_size=(8, 8), mean=(0.5,), std=(0.3,))
        train, validation = Resident(images=images[:12], labels=labels), Resident(images=images[12:], labels=labels)
        return Data(train=train, validation=validation, task=task)
'''


@pytest.fixture
def stripes(install: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    install(
        {"stripes": "fake_stripes:Stripes", "broken": "fake_broken:Broken"},
        {"fake_stripes": SOURCE.replace("\\\\n", "\\n"), "fake_broken": "import not_there"},
        distribution="fake-check",
    )
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def report(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, dict[str, dict[str, object]]]:
    """Exit code, and the rows of the only plugin by the name of the check."""
    code = main(["check", *arguments, "--json"])
    (found,) = json.loads(capsys.readouterr().out)["plugins"]
    assert found["ok"] is (code == 0)
    return code, {row["check"]: row for row in found["checks"]}


def test_a_sound_plugin_and_its_report(stripes: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "stripes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "stripes (fake-check 1.0), data set, on cpu"
    assert lines[1].split() == ["check", "result", "time", "what"]
    rows = {line.split()[0]: line for line in lines[2:10]}
    assert "  skipped  " in rows.pop("maps_fit_the_images"), "its training set has none"
    assert all(re.search(r"  passed   \d+\.\d\d s  ", line) for line in rows.values())
    assert [line.split()[0] for line in lines[2:5]] == ["loads", "every_option_is_a_field", "options_round_trip"]
    assert lines[10] == "7 passed, 1 skipped"


def test_only_the_checks_that_are_named_are_run(stripes: None, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows = report(capsys, "stripes", "--only", "splits_differ", "--only", "options_round_trip")
    assert code == 0
    assert list(rows) == ["loads", "options_round_trip", "splits_differ"]
    assert list(report(capsys, "stripes", "--only", "loads")[1]) == ["loads"]


def test_a_check_that_its_role_does_not_have_is_refused(stripes: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "stripes", "--only", "splits_difer"]) == 2
    told = capsys.readouterr()
    assert "--only splits_difer: stripes is a data set, which has no such check; did you mean" in told.err
    assert '"splits_differ"?; its checks: every_option_is_a_field, options_round_trip' in " ".join(told.err.split())
    assert told.out == ""


def test_a_cause_of_several_rows_is_told_once(
    stripes: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    details = {
        "a": "ValueError: no luck (x.py:3: luck()); in build_data of stripes at epoch 0, iteration 1",
        "b": "ValueError: no luck (x.py:3: luck()); in build_data of stripes",
        "c": "something else",
        "d": "",
    }

    def found(task: dict[str, object], seconds: float, limit: float) -> tuple[list[dict[str, object]], str]:
        plan = {name: f"Is {name}." for name in details}
        rows = [
            {"check": name, "state": "failed" if said else "passed", "detail": said} for name, said in details.items()
        ]
        return [{"check": "loads", "state": "passed", "plan": plan, "role": "data"}, *rows], ""

    monkeypatch.setattr("mixcore.cli.check._run", found)
    assert main(["check", "stripes"]) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cause 1, of 2 failed checks: ValueError: no luck (x.py:3: luck())"
    assert [line.split("  ")[-1] for line in lines[3:]][:5] == [
        "Is found, imported, and built with its options.",
        *("cause 1", "cause 1", "something else", "Is d."),
    ]


def test_a_check_that_ends_its_process_is_a_row(stripes: None, capsys: pytest.CaptureFixture[str]) -> None:
    code, rows = report(capsys, "stripes", "--set", "dies=true")
    assert code == 1
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {**dict.fromkeys(states, "passed"), "maps_fit_the_images": "skipped", "epochs_repeat": "failed"}
    assert rows["epochs_repeat"]["detail"] == "the process ended with status 7: out of luck"


def test_a_check_without_end_is_a_row(stripes: None, capsys: pytest.CaptureFixture[str]) -> None:
    begun = time.monotonic()
    code, rows = report(capsys, "stripes", "--set", "sleeps=true", "--limit", "20")
    assert code == 1
    assert time.monotonic() - begun < 60
    states = [row["state"] for row in rows.values()]
    assert states.count("failed") == 1
    details = {row["detail"] for row in rows.values() if row["state"] != "passed"}
    assert details == {"not done when the 20 s for this plugin were over (--limit)"}


def _is_running(process: str) -> bool:
    try:
        status = Path(f"/proc/{process}/status").read_text()
    except FileNotFoundError:
        return False
    return "State:\tZ" not in status  # a zombie has ended


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux ends a process when its parent dies")
def test_nothing_goes_on_when_it_is_killed(stripes: None) -> None:
    arguments = ["check", "stripes", "--set", "sleeps=true"]
    command = multiprocessing.get_context("fork").Process(target=lambda: os._exit(main(arguments)))
    command.start()
    children = Path(f"/proc/{command.pid}/task/{command.pid}/children")
    while not (begun := children.read_text().split()):
        time.sleep(0.05)
    command.kill()
    command.join()
    ends = time.monotonic() + 300  # it has to import torch before it can tell the kernel
    while _is_running(begun[0]):
        assert time.monotonic() < ends
        time.sleep(0.1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["stripse"], 'did you mean "stripes"?'),
        (["stripes", "other", "--set", "classes=3"], "--set goes to one plugin"),
        (["stripes", "--set", "classes"], "expected key.path=value"),
        ([], "NAME"),
    ],
)
def test_what_is_refused(stripes: None, capsys: pytest.CaptureFixture[str], arguments: list[str], said: str) -> None:
    assert main(["check", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_a_plugin_that_ends_every_process_is_given_up(
    stripes: None, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = {name: f"Is {name}." for name in "abcdef"}
    asked = []

    def dies(task: dict[str, object], seconds: float, limit: float) -> tuple[list[dict[str, object]], str]:
        asked.append(task["checks"])
        first = (task["checks"] or list(plan))[0]
        loaded = {"check": "loads", "state": "passed", "plan": plan, "role": "data"}
        return [loaded, {"check": first, "state": "started"}], "dead"

    monkeypatch.setattr("mixcore.cli.check._run", dies)
    code, rows = report(capsys, "stripes")
    assert code == 1
    assert asked == [None, list("bcdef"), list("cdef"), list("def")]
    states = {name: row["state"] for name, row in rows.items()}
    assert states == {"loads": "passed", **dict.fromkeys("abcd", "failed"), **dict.fromkeys("ef", "not run")}
    assert {row["detail"] for row in rows.values()} == {"", "dead"}
