"""The git commit of a folder, read without running any program that the repository names.

A repository can name many for `git status`: `core.fsmonitor`, hooks, the filters of `.gitattributes`, those of its
submodules, transports that fetch missing objects. Whoever wrote the repository would run them as the user of mixcore.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from typing import Any

__all__ = ["git_commit"]

_SETTINGS = ("-c", "core.fsmonitor=false", "-c", "core.hooksPath=/dev/null")
_ENVIRONMENT = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "GIT_OPTIONAL_LOCKS": "0",  # the index is not refreshed, so no hook hears of it
    "GIT_ALLOW_PROTOCOL": "none",  # no transport may fetch the objects that a partial clone lacks
    "GIT_TERMINAL_PROMPT": "0",
    "GIT_PAGER": "cat",
}
_FILTER_KEYS = r"^filter\..*\.(clean|smudge|process|required)$"


def git_commit(folder: Path) -> dict[str, Any] | None:
    """`commit` and `modified` of the checkout that `folder` lies in; None outside one, or without git.

    `modified` says whether a file under version control differs from the commit. Filters are not run: a file that they
    would change counts as modified where its time or size has changed. None where git cannot tell without them.
    """
    try:
        commit = _git(folder, "rev-parse", "HEAD")
    except (OSError, subprocess.SubprocessError):
        return None
    return {"commit": commit, "modified": _is_modified(folder)}


def _is_modified(folder: Path) -> bool | None:
    try:
        filters = _filters_off(folder)
        if filters is None:
            return None
        status = ("status", "--porcelain", "--untracked-files=no", "--ignore-submodules=all", "--no-renames")
        return bool(_git(folder, *filters, *status))
    except (OSError, subprocess.SubprocessError):
        return None


def _filters_off(folder: Path) -> list[str] | None:
    """Settings that switch off every filter that any configuration defines; None where a name cannot be written."""
    found = _git(folder, "config", "--name-only", "-z", "--get-regexp", _FILTER_KEYS, may_fail=True)
    keys = sorted(set(found.split("\0")) - {""})
    if any("=" in key for key in keys):
        return None  # git would read the key only up to the sign
    values = ["false" if key.endswith(".required") else "" for key in keys]
    return [part for key, value in zip(keys, values, strict=True) for part in ("-c", f"{key}={value}")]


def _git(folder: Path, *arguments: str, may_fail: bool = False) -> str:
    done = subprocess.run(
        ["git", *_SETTINGS, *arguments],
        cwd=folder,
        env={**os.environ, **_ENVIRONMENT},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=10,
        check=not may_fail,
    )
    return done.stdout.strip()
