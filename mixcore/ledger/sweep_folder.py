"""The folder of a sweep: whose it is, what lies in it, and who has it.

<name of a run>/...  summary.json  summary.md  .lock
"""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mixcore.errors import RunFolderError
from mixcore.files import remove_leftovers, replace_file
from mixcore.ledger.sweep_plan import Plan, PlannedRun
from mixcore.ledger.sweep_state import SweepState
from mixcore.ledger.sweep_summary import markdown, summarise_sweep
from mixcore.run.folder import RunFolder, held_lock

__all__ = ["SweepFolder"]

_SHOWN = 5
"""Names that a message lists."""


class SweepFolder:
    """Paths and ownership of a sweep's folder. Making an object touches nothing."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.summary, self.table = path / "summary.json", path / "summary.md"

    def check_owner(self, plan: Plan) -> None:
        """Refuse a folder of another sweep. More seeds and more values than before are the same sweep, grown.

        Raises RunFolderError with what differs.
        """
        if (self.path / "config.toml").exists():
            raise RunFolderError(f"{self.path} is the folder of a run. {_ELSEWHERE}")
        lines = [*_changed(plan), *self._gone(plan)]
        if lines:
            listed = "\n".join(f"  {line}" for line in lines)
            raise RunFolderError(f"{self.path} holds another sweep:\n{listed}\n{_ELSEWHERE}, or remove {self.path}")

    def _gone(self, plan: Plan) -> list[str]:
        """Runs that were part of the sweep, have begun, and are not part of it now."""
        names = {run.name for run in plan.runs}
        gone = [
            name
            for name in self._recorded()
            if name not in names and Path(name).name == name and RunFolder(self.path / name).started()
        ]
        return [f"{_some(gone)} there and not in this sweep"] if gone else []

    def _recorded(self) -> list[str]:
        """Names of the runs that the last summary lists; none where it cannot be read."""
        try:
            return [str(row["name"]) for row in json.loads(self.summary.read_text("utf-8"))["runs"]]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the folder and keep it for this process. Raises RunFolderError where another sweep goes on in it."""
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise RunFolderError(
                f"the folder of the sweep {self.path} cannot be written: {error.strerror or error}. {_ELSEWHERE}"
            ) from error
        taken = f"another mixcore sweep goes on in {self.path}; wait until it has ended. {_ELSEWHERE}"
        with held_lock(self.path / ".lock", taken, _ELSEWHERE):
            remove_leftovers(self.path)
            yield

    def prepare(self, run: PlannedRun) -> None:
        """Make the folder of a run, with its configuration: `mixcore run` on that goes on with it alone."""
        run.folder.make()
        run.folder.write_text(run.folder.config, run.loaded.text)

    def write(self, state: SweepState) -> dict[str, Any]:
        """Replace the summary and its table; gives the summary. Raises StorageError."""
        summary = summarise_sweep(state)
        text = json.dumps(summary, indent=2, allow_nan=False, default=str) + "\n"
        replace_file(self.summary, lambda file: file.write(text.encode()))
        page = f"# {self.path}\n\n{markdown(summary)}"
        replace_file(self.table, lambda file: file.write(page.encode()))
        return summary


_ELSEWHERE = 'Give this sweep a folder of its own, by dir = "..." in its file'


def _changed(plan: Plan) -> list[str]:
    """A line per key that differs between what has begun and what is planned, with the runs where it does."""
    found: dict[str, list[str]] = {}
    begun = [run for run in plan.runs if run.folder.started()]
    for run in begun:
        for difference in run.folder.differences_from(run.loaded.resolved, run.loaded.places):
            found.setdefault(str(difference), []).append(run.name)
    return [line if len(names) == len(begun) else f"{line}, in {_some(names)}" for line, names in found.items()]


def _some(names: list[str]) -> str:
    listed = ", ".join(names[:_SHOWN])
    return f"{listed} and {len(names) - _SHOWN} more" if len(names) > _SHOWN else listed
