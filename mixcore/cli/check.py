"""`mixcore check`: is a plugin what mixcore promises its users? Every check, run in a process of the plugin's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Mapping
from contextlib import AbstractContextManager, nullcontext, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from mixcore.children import LAUNCHER, child_environment, python_module
from mixcore.hooks.roles import ROLES

if TYPE_CHECKING:
    from mixcore.entry_points import Entry

__all__ = ["command"]

LIMIT = 900
"""Seconds that all checks of one plugin may take, by default."""
PROCESSES = 4
"""Processes that one plugin is given: the first, and one after each check that ended one."""


@click.command("check", short_help="Check that plugins keep the contract.")
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("--set", "overrides", metavar="KEY=VALUE", multiple=True, help="Give the plugin an option, as in TOML.")
@click.option("--device", type=click.Choice(["cpu", "cuda"]), default="cpu", show_default=True, help="Where to check.")
@click.option("--limit", type=click.IntRange(min=1), default=LIMIT, show_default=True, help="Seconds for one plugin.")
@click.option("--only", metavar="CHECK", multiple=True, help="Run this check alone, or these.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON document instead of tables.")
@click.pass_context
def command(
    ctx: click.Context,
    names: tuple[str, ...],
    overrides: tuple[str, ...],
    device: str,
    limit: int,
    only: tuple[str, ...],
    as_json: bool,
) -> None:
    """Hold the plugins NAME... to the contract of their role, each in a process of its own.

    Mixers are held to every check of mixcore.testing. A label policy, a loss or an extra takes training steps of a tiny
    network with a plain mixer, a backbone trains for two steps, a data set gives batches; each is loaded, rebuilt from
    its options, and what trains is saved and resumed. Every value of a Literal or boolean option is tried, one at a
    time.

    Exit code 1 where a check failed, 2 where a name is not installed or a check unknown.
    """
    from mixcore.discovery.catalogue import find, installed

    if overrides and len(names) > 1:
        raise click.UsageError("--set goes to one plugin; check them one at a time")
    options, claims = _options(overrides), installed()
    entries = [find(name, claims) for name in names]
    reports = []
    for entry in entries:
        report = _check(entry, options, device, limit, only)
        reports.append(report)
        if not as_json:
            _print(report)
    if as_json:
        click.echo(json.dumps({"plugins": reports}, indent=2))
    if not all(report["ok"] for report in reports):
        ctx.exit(1)


def _options(overrides: tuple[str, ...]) -> dict[str, Any]:
    from mixcore.config.faults import Fault, raise_faults
    from mixcore.config.layers import overrides_layer

    faults: list[Fault] = []
    tree = overrides_layer(overrides, faults).tree
    if faults:
        raise_faults(faults, "the options")
    return tree


def _check(
    entry: Entry, options: Mapping[str, Any], device: str, limit: float, only: Collection[str]
) -> dict[str, Any]:
    """The report of one plugin: a row per check (of `only`, where there are any), whatever becomes of the process.

    A check that ends the process is a failed row, and a new process goes on with the checks that are left, for as long
    as that does not happen again and again. UsageError where `only` has a check that plugins of its role do not have.
    """
    rows: dict[str, dict[str, Any]] = {}
    end = time.monotonic() + limit
    task: dict[str, Any] = {"name": entry.name, "options": options, "device": device, "checks": None}
    if only:
        task["checks"] = [name for name in only if name != "loads"]
    for _ in range(PROCESSES):
        results, fate = _run(task, end - time.monotonic(), limit)
        for result in results:
            rows[result["check"]] = {**rows.get(result["check"], {}), **result}
        plan = _planned(rows.get("loads", {}), only, entry.name)
        broken = next((name for name, row in rows.items() if row["state"] == "started"), None)
        if broken is not None:
            rows[broken] |= {"state": "failed", "detail": fate}
        left = [name for name in plan if name not in rows]
        if not left or broken in (None, "loads") or time.monotonic() > end:
            break
        task["checks"] = left
    checks = [_row("loads", "Is found, imported, and built with its options.", rows.get("loads"), fate)]
    checks += [_row(name, says, rows.get(name), fate) for name, says in plan.items()]
    return {
        "name": entry.name,
        "distribution": entry.distribution,
        "version": entry.version,
        "role": rows.get("loads", {}).get("role"),
        "device": device,
        "ok": all(check["state"] in ("passed", "skipped") for check in checks),
        "checks": checks,
    }


def _planned(loads: Mapping[str, Any], only: Collection[str], plugin: str) -> dict[str, str]:
    """Name -> what it says of the checks to run; none where the plugin could not be loaded."""
    from mixcore.words import suggestion

    plan: dict[str, str] = loads.get("plan", {})
    unknown = [name for name in only if plan and name not in (*plan, "loads")]
    if unknown:
        role = ROLES[loads["role"]].title
        raise click.UsageError(
            f"--only {unknown[0]}: {plugin} is a {role}, which has no such check{suggestion(unknown[0], plan)}; "
            f"its checks: {', '.join(plan)}"
        )
    return {name: says for name, says in plan.items() if not only or name in only}


def _row(name: str, says: str, found: Mapping[str, Any] | None, fate: str) -> dict[str, Any]:
    found = {"state": "not run", "detail": fate} if found is None else found
    row = {"check": name, "state": found["state"], "says": says, "detail": found.get("detail", "")}
    return {**row, "seconds": round(found.get("seconds", 0.0), 2)}


def _run(task: Mapping[str, Any], seconds: float, limit: float) -> tuple[list[dict[str, Any]], str]:
    """What a process of its own wrote about the checks, and how it ended."""
    with tempfile.TemporaryDirectory() as folder:
        results, errors = Path(folder, "results"), Path(folder, "errors")
        told = json.dumps({**task, "results": str(results)})
        results.touch()
        with errors.open("w") as log:
            # a session of its own, so that the processes that a check starts end with it
            child = subprocess.Popen(
                python_module("mixcore.testing.conform", told),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=child_environment({LAUNCHER: str(os.getpid())}),
                start_new_session=True,
            )
            try:
                with _waiting(task["name"]):
                    fate = _fate(child.wait(max(seconds, 0.1)))
            except subprocess.TimeoutExpired:
                fate = f"not done when the {limit:.0f} s for this plugin were over (--limit)"
            finally:
                _end(child)
        said = errors.read_text(errors="replace").strip().splitlines()
        if child.returncode and "not done" not in fate and said:
            fate = f"{fate}: {said[-1]}"
        return [json.loads(line) for line in results.read_text().splitlines() if line.endswith("}")], fate


def _waiting(name: str) -> AbstractContextManager[object]:
    """A spinner on a terminal."""
    if not sys.stderr.isatty():
        return nullcontext()
    from rich.console import Console

    return Console(stderr=True).status(f"checking {name}")


def _fate(status: int) -> str:
    if status < 0:
        return f"the process was ended by {signal.Signals(-status).name}"
    return f"the process ended with status {status}"


def _end(child: subprocess.Popen[bytes]) -> None:
    """End what is left of the child's session."""
    with suppress(ProcessLookupError, PermissionError):  # all of it has ended
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


def _print(report: Mapping[str, Any]) -> None:
    """A table with a row per check; what several rows failed for stands above it, once."""
    from mixcore.cli.table import print_table

    role = "role unknown" if report["role"] is None else ROLES[report["role"]].title
    title = f"{report['name']} ({report['distribution']} {report['version']}), {role}, on {report['device']}"
    checks = report["checks"]
    causes = Counter(_cause(check) for check in checks if check["state"] == "failed")
    shared = [cause for cause, count in causes.items() if count > 1]
    for number, cause in enumerate(shared, 1):
        click.echo(f"cause {number}, of {causes[cause]} failed checks: {cause}")
    rows = []
    for check in checks:
        told = check["detail"] or check["says"]
        if check["state"] == "failed" and (cause := _cause(check)) in shared:
            told = f"cause {shared.index(cause) + 1}"
        rows.append((check["check"], check["state"], f"{check['seconds']:.2f} s", told))
    print_table(("check", "result", "time", "what"), rows, title=title)
    states = Counter(check["state"] for check in checks)
    click.echo(", ".join(f"{count} {state}" for state, count in states.items()) + "\n")


def _cause(check: Mapping[str, Any]) -> str:
    """What failed, without where in the run it was met."""
    said: str = check["detail"]
    return said.partition("; in ")[0]
