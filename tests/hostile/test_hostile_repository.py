"""The commit in environment.json is read from a repository that names programs for git to run; none of them runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from pathlib import Path

import pytest

from mixcore.run.commit import git_commit

pytestmark = pytest.mark.skipif(shutil.which("git") is None, reason="git is not installed")


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "init.defaultBranch=main")
    command = ["git", *identity, *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A repository with one committed file."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "-q")
    (folder / "file.txt").write_text("as committed\n")
    git(folder, "add", ".")
    git(folder, "commit", "-q", "-m", "first")
    return folder


def program(path: Path, ran: Path) -> Path:
    """A program that leaves its name in the folder `ran`, and hands its input on."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\ntouch {ran}/{path.name}\ncat\n")
    path.chmod(0o755)
    return path


def hostile_settings(repository: Path, ran: Path, driver: str) -> None:
    """Everything that `git status` runs here at the word of the repository."""
    ran.mkdir()
    programs = repository.parent / "programs"
    git(repository, "config", "core.fsmonitor", str(program(programs / "fsmonitor", ran)))
    home = repository / git(repository, "rev-parse", "--git-dir")
    program(home / "hooks" / "post-index-change", ran)
    for key in ("clean", "smudge", "process"):
        git(repository, "config", f"filter.{driver}.{key}", str(program(programs / key, ran)))
    git(repository, "config", f"filter.{driver}.required", "true")
    (home / "info" / "attributes").write_text(f"*.txt filter={driver}\n")


def touch(repository: Path) -> None:
    """Another time and the same content: git has to read the file again, and writes what it found to its index."""
    os.utime(repository / "file.txt", (time.time() + 10, time.time() + 10))


def test_a_clean_checkout_a_modified_one_and_none(repository: Path, tmp_path: Path) -> None:
    head = git(repository, "rev-parse", "HEAD")
    assert git_commit(repository) == {"commit": head, "modified": False}
    (repository / "new.txt").write_text("nobody added this\n")
    assert git_commit(repository) == {"commit": head, "modified": False}
    (repository / "file.txt").write_text("changed\n")
    assert git_commit(repository) == {"commit": head, "modified": True}
    assert git_commit(tmp_path) is None


@pytest.mark.parametrize("driver", ["evil", "E.vil"])
def test_nothing_of_a_hostile_repository_runs(repository: Path, tmp_path: Path, driver: str) -> None:
    ran = tmp_path / "ran"
    hostile_settings(repository, ran, driver)
    touch(repository)
    found = git_commit(repository)
    assert list(ran.iterdir()) == []
    assert found == {"commit": git(repository, "rev-parse", "HEAD"), "modified": False}
    touch(repository)
    subprocess.run(["git", "status"], cwd=repository, capture_output=True, check=False)
    assert list(ran.iterdir()), "plain git status ran nothing: this test proves nothing"


def test_a_filter_that_cannot_be_named_is_not_run(repository: Path, tmp_path: Path) -> None:
    ran = tmp_path / "ran"
    hostile_settings(repository, ran, "a=b")
    touch(repository)
    assert git_commit(repository) == {"commit": git(repository, "rev-parse", "HEAD"), "modified": None}
    assert list(ran.iterdir()) == []


def test_nothing_of_a_submodule_runs(repository: Path, tmp_path: Path) -> None:
    outer, ran = tmp_path / "outer", tmp_path / "ran"
    outer.mkdir()
    git(outer, "init", "-q")
    git(outer, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(repository), "inner")
    git(outer, "commit", "-q", "-m", "first")
    inner = outer / "inner"
    hostile_settings(inner, ran, "evil")
    touch(inner)
    assert git_commit(outer) == {"commit": git(outer, "rev-parse", "HEAD"), "modified": False}
    assert list(ran.iterdir()) == []
    touch(inner)
    subprocess.run(["git", "status"], cwd=outer, capture_output=True, check=False)
    assert list(ran.iterdir()), "plain git status ran nothing: this test proves nothing"
