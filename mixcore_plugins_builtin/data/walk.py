"""The files below one class folder: links followed without going in circles, hidden ones left out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TypeAlias

import attrs

from mixcore.api import DataError
from mixcore_plugins_builtin.data.decode import irregular

__all__ = ["ClassFiles", "class_files", "is_folder", "leads_into"]

Identity: TypeAlias = tuple[int, int]
"""Device and inode."""


@attrs.define
class ClassFiles:
    """Paths of one class, relative to the split's folder."""

    files: list[str] = attrs.field(factory=list)
    """Regular files, each once: two links to one file are one image."""
    irregular: list[tuple[str, str]] = attrs.field(factory=list)
    """Those that cannot be read, and what they are instead."""
    left: list[str] = attrs.field(factory=list)
    """Links to folders that are not followed, because they lead to other classes."""


def class_files(split: Path, name: str, endings: tuple[str, ...], splits: Sequence[Path]) -> ClassFiles:
    """The files below `split`/`name`, at any depth, whose names end so; names that begin with a dot are left out.

    A link to a file counts where the file does not count already. A link to a folder is followed, each folder once,
    unless it leads above or into one of the resolved `splits`: what is found there belongs to other classes.
    Raises DataError for a folder that cannot be listed.
    """
    return _Walk(split, name, endings, splits).found()


def leads_into(folder: Path, splits: Sequence[Path]) -> bool:
    """Whether a resolved folder holds one of the resolved `splits`, or lies in one."""
    return any(split.is_relative_to(folder) or folder.is_relative_to(split) for split in splits)


class _Walk:
    def __init__(self, split: Path, name: str, endings: tuple[str, ...], splits: Sequence[Path]) -> None:
        self.split, self.name, self.endings, self.splits = split, name, endings, splits
        self.own = (split / name).resolve()
        self.result = ClassFiles()
        self.folders: set[Identity] = set()
        self.inodes: set[Identity] = set()
        self.folder_links: list[str] = []
        self.file_links: list[str] = []

    def found(self) -> ClassFiles:
        """What is no link comes first, so that of a file and a link to it the file is kept."""
        self._descend(self.name)
        while self.folder_links:
            self._follow(self.folder_links.pop(0))
        for path in sorted(self.file_links):
            self._resolve(path)
        return self.result

    def _descend(self, first: str) -> None:
        waiting = [first]
        while waiting:
            folder = waiting.pop()
            try:
                device = self._enter(folder)
                if device is None:
                    continue
                with os.scandir(self.split / folder) as listed:
                    entries = sorted(listed, key=lambda entry: entry.name)
            except OSError as error:
                raise DataError(
                    f"the folder {(self.split / folder).absolute()} cannot be read ({error.strerror}); its images "
                    "would be missing; let it be read, or remove it"
                ) from error
            for entry in entries:
                if not entry.name.startswith("."):
                    self._sort(entry, f"{folder}/{entry.name}", device, waiting)

    def _enter(self, folder: str) -> int | None:
        """The folder's device, or None where it was entered before."""
        state = os.stat(self.split / folder)
        identity = state.st_dev, state.st_ino
        if identity in self.folders:
            return None
        self.folders.add(identity)
        return state.st_dev

    def _sort(self, entry: os.DirEntry[str], path: str, device: int, waiting: list[str]) -> None:
        linked = entry.is_symlink()
        if is_folder(entry):
            (self.folder_links if linked else waiting).append(path)
        elif entry.name.lower().endswith(self.endings):
            if linked:
                self.file_links.append(path)
            elif entry.is_file():
                self.inodes.add((device, entry.inode()))
                self.result.files.append(path)
            else:
                self.result.irregular.append((path, irregular(entry.stat().st_mode)))

    def _follow(self, link: str) -> None:
        target = (self.split / link).resolve()
        if target != self.own and not target.is_relative_to(self.own) and leads_into(target, self.splits):
            self.result.left.append(link)
            return
        self._descend(link)

    def _resolve(self, link: str) -> None:
        try:
            state = os.stat(self.split / link)
        except OSError as error:
            self.result.irregular.append((link, f"it is a link that leads nowhere: {error.strerror}"))
            return
        wrong, identity = irregular(state.st_mode), (state.st_dev, state.st_ino)
        if wrong:
            self.result.irregular.append((link, wrong))
        elif identity not in self.inodes:
            self.inodes.add(identity)
            self.result.files.append(link)


def is_folder(entry: os.DirEntry[str]) -> bool:
    """Whether it is a folder, or a link to one."""
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False
