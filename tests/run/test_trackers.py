"""Extras that implement log_record: told every epoch's record, and no end to the run by what they raise."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import attrs
import pytest

from mixcore.discovery.manager import new_manager, register
from mixcore.errors import HookError
from mixcore.hooks.calls import PluginCalls
from mixcore.hooks.markers import hookimpl
from mixcore.run.trackers import Trackers

SOURCE = '''
import json

import attrs
from mixcore.api import hookimpl


@attrs.define(eq=False, kw_only=True)
class Tracker:
    """Keeps what it is told, spoils its copy, and fails."""

    @hookimpl
    def log_record(self, record, folder):
        lines = (folder / "metrics.jsonl").read_text().splitlines()
        with open(folder / "told.jsonl", "a") as file:
            file.write(json.dumps([record, len(lines)]) + "\\n")
        record.clear()
        raise OSError("the network is gone")
'''
EXTRA = 'extra=[{name="tracker"}]'


def test_a_tracker_hears_every_record_and_its_failures_are_said_once(
    toy_run: Callable[..., Path], install: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    plain = toy_run(folder="plain")
    install({"tracker": "faulty_tracker:Tracker"}, {"faulty_tracker": SOURCE}, distribution="faulty")
    with caplog.at_level(logging.WARNING, "mixcore"):
        folder = toy_run(EXTRA, folder="tracked")
    told = [json.loads(line) for line in (folder / "told.jsonl").read_text().splitlines()]
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record for record, _ in told] == records
    assert [written for _, written in told] == [1, 2, 3, 4]
    assert (folder / "metrics.jsonl").read_bytes() == (plain / "metrics.jsonl").read_bytes()
    (said,) = [record.getMessage() for record in caplog.records]
    assert "tracker (faulty 1.0" in said
    assert "OSError: the network is gone" in said


@attrs.define(eq=False, kw_only=True)
class Spoiler:
    """Empties what it is given."""

    @hookimpl
    def log_record(self, record: dict[str, float]) -> None:
        record.clear()


def test_a_tracker_has_a_copy_of_its_own(tmp_path: Path) -> None:
    manager, plugin = new_manager(), Spoiler()
    register(manager, plugin, "spoiler", "spoiler 1.0")
    record = {"epoch": 1}
    Trackers([PluginCalls(manager, plugin, "spoiler", "spoiler 1.0")], tmp_path).tell(record)
    assert record == {"epoch": 1}


@attrs.define(eq=False, kw_only=True)
class Leaver:
    """Raises what it is given."""

    error: BaseException

    @hookimpl
    def log_record(self) -> None:
        raise self.error


@pytest.mark.parametrize(("raised", "arrives"), [(SystemExit(0), HookError), (KeyboardInterrupt(), KeyboardInterrupt)])
def test_the_end_of_the_process_is_no_failure_of_a_tracker(
    raised: BaseException, arrives: type[BaseException], tmp_path: Path
) -> None:
    manager, plugin = new_manager(), Leaver(error=raised)
    register(manager, plugin, "leaver", "leaver 1.0")
    trackers = Trackers([PluginCalls(manager, plugin, "leaver", "leaver 1.0")], tmp_path)
    with pytest.raises(arrives):
        trackers.tell({"epoch": 1})
