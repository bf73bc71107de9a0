"""The table of a sweep that goes on."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from mixcore.cli.sweep_table import render, watching
from mixcore.ledger import sweep_state
from mixcore.ledger.sweep_plan import Plan, PlannedRun
from mixcore.ledger.sweep_state import SweepState
from mixcore.run.folder import RunFolder


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SweepState:
    """Five runs of ten epochs, `r0` to `r4`; the clock stands at `sweep_state.time.monotonic()`."""
    monkeypatch.setattr(sweep_state, "time", SimpleNamespace(monotonic=lambda: 100.0))
    loaded: Any = SimpleNamespace(config=SimpleNamespace(schedule=SimpleNamespace(epochs=10)))
    runs = [
        PlannedRun(settings={"a": k}, seed=0, loaded=loaded, folder=RunFolder(tmp_path / f"r{k}")) for k in range(5)
    ]
    for run in runs:
        run.folder.path.mkdir()
    return SweepState(Plan(dir=tmp_path, runs=tuple(runs), refused={}))


def record(state: SweepState, name: str, *values: float | None) -> None:
    lines = [json.dumps({"epoch": k, "val/top1": value}) for k, value in enumerate(values, 1)]
    state.runs[name].run.folder.metrics.write_text("\n".join(lines) + '\n{"epoch": 99, "val/t')


def text(state: SweepState, rows: int = 9) -> list[str]:
    console = Console(width=60, force_terminal=False)
    with console.capture() as captured:
        console.print(render(state, rows))
    return [" ".join(line.split()) for line in captured.get().splitlines()]


def test_state_epoch_best_and_remaining_time(state: SweepState, monkeypatch: pytest.MonkeyPatch) -> None:
    state.report("r0", None)
    state.report("r1", None)
    state.report("r1", 1)
    record(state, "r2", 1.0, 2.0)
    state.report("r2", None)  # goes on: what it did before does not count for its pace
    record(state, "r0", 10.0, None, 30.0, 20.0)
    record(state, "r2", 1.0, 2.0, 3.0)
    state.look()
    clock = SimpleNamespace(monotonic=lambda: 140.0)
    monkeypatch.setattr(sweep_state, "time", clock)
    monkeypatch.setattr("mixcore.cli.sweep_table.time", clock)
    assert text(state) == [
        "run state epoch best left",
        "r0 running 4/10 30.00 0:01:00",  # 40 s for 4 epochs, 6 left
        "r1 failed 0/10",
        "r2 running 3/10 3.00 0:04:40",  # 40 s for 1 epoch, 7 left
        "r3 waiting 0/10",
        "r4 waiting 0/10",
        "2 waiting, 1 failed, 2 running; about 0:03:09 left",
    ]


def test_what_goes_is_shown_first_where_there_is_little_room(state: SweepState) -> None:
    state.report("r3", None)
    state.report("r4", 75)
    assert [line.split()[:2] for line in text(state, rows=2)] == [
        ["run", "state"],
        ["r3", "running"],
        ["r4", "preempted"],
        ["3", "waiting,"],
    ]
    assert text(state, rows=2)[-1].endswith("; 3 more runs are not shown")


def test_on_a_terminal_it_is_drawn_and_elsewhere_nothing_is(state: SweepState) -> None:
    state.report("r0", None)
    for terminal in (True, False):
        console = Console(width=60, height=20, force_terminal=terminal)
        with console.capture() as captured, watching(cast(Any, state), console):
            pass
        assert ("running" in captured.get()) == terminal


def test_what_a_library_prints_is_not_mistaken_for_the_summary(
    state: SweepState, capsys: pytest.CaptureFixture[str]
) -> None:
    with watching(state):
        print("(raylet) a node is gone")
    assert tuple(capsys.readouterr()) == ("", "(raylet) a node is gone\n")
