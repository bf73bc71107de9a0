"""Runs the checks of one plugin in this process and writes each result as it comes.

`python -m mixcore.testing.conform TASK`: TASK is JSON with `name`, `options`, `device`, `checks` (those to run, none
where one of them is unknown; null for all) and `results`, the file that gets one JSON object per line. `mixcore check`
starts this, so that whatever a plugin does to its process, the results until then are on disk.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mixcore.children import die_with_launcher
from mixcore.errors import MixcoreError
from mixcore.testing.checks import checks_of
from mixcore.testing.harness import Harness, NotApplicableError, Subject
from mixcore.testing.places import place_of

__all__ = ["run_checks"]

Write = Callable[[Mapping[str, Any]], None]


def run_checks(task: Mapping[str, Any], write: Write) -> None:
    """Load the plugin, then every check; `write` gets {"check", "state", ...} at each one's start and end.

    The states: started, passed, failed, skipped. That of "loads" carries `role` and the `plan`: name -> what it says.
    """
    write({"check": "loads", "state": "started"})
    begun = time.perf_counter()
    try:
        subject = Subject(plugin=task["name"], options=task["options"], device=task["device"])
        harness = Harness(subject)
        checks = checks_of(harness.role)
        harness.plugins()
    except Exception as error:
        write({"check": "loads", "state": "failed", "detail": _detail(error), "seconds": time.perf_counter() - begun})
        return
    plan = {name: (check.__doc__ or name).strip().partition("\n")[0] for name, check in checks.items()}
    seconds = time.perf_counter() - begun
    write({"check": "loads", "state": "passed", "role": harness.role, "plan": plan, "seconds": seconds})
    wanted = list(checks) if task["checks"] is None else task["checks"]
    if not set(wanted) <= checks.keys():
        return
    for name, check in checks.items():
        if name not in wanted:
            continue
        write({"check": name, "state": "started"})
        begun, state, detail = time.perf_counter(), "passed", ""
        try:
            check(Harness(subject))
        except NotApplicableError as reason:
            state, detail = "skipped", str(reason)
        except Exception as error:  # whatever a stranger's plugin raises is a finding
            state, detail = "failed", _detail(error)
        write({"check": name, "state": state, "detail": detail, "seconds": time.perf_counter() - begun})


def _detail(error: Exception) -> str:
    """What a check says, or the error of the plugin with its place; then where it was called."""
    if isinstance(error, AssertionError | MixcoreError):
        said = str(error) or "an assertion of the plugin failed"
    else:
        said = f"{type(error).__name__}: {error}{place_of(error)}"
    return "; ".join([said, *getattr(error, "__notes__", ())])


def main() -> None:
    """Run the checks of the task on the command line."""
    die_with_launcher()
    task = json.loads(sys.argv[1])
    with Path(task["results"]).open("a", encoding="utf-8") as results:

        def write(result: Mapping[str, Any]) -> None:
            results.write(json.dumps(result) + "\n")
            results.flush()

        run_checks(task, write)


if __name__ == "__main__":
    main()
