"""Files that a run writes: never through a link, and whole at every instant.

Whoever can write into the folder of a run could put a link where the run will write, and have it overwrite a file of
the person who trains. So every file is opened without following a link at its name. Folders may be links: a run folder
on another disk is everybody's right.
"""

from __future__ import annotations

import errno
import os
import re
import secrets
import stat
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

from mixcore.errors import StorageError

__all__ = ["create_file", "open_own", "open_regular", "remove_leftovers", "replace_file", "storage_error"]

_TEMPORARY = re.compile(r".+\.[0-9a-f]{16}\.tmp")


def open_own(path: Path, flags: int) -> int:
    """Descriptor of a file of the run's own, opened with `flags` of os.open.

    OSError where a link or anything else that is no regular file stands at `path`; nothing is changed then.
    """
    try:
        handle = os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK, 0o666)
    except OSError as error:
        if error.errno == errno.ELOOP and path.is_symlink():
            raise OSError(errno.ELOOP, "it is a link, and a run writes only into files of its own", path) from error
        raise
    return _regular(handle, path)


def open_regular(path: Path) -> int:
    """Descriptor of a file to read, through links too; OSError for a folder, a pipe or a device, without waiting."""
    return _regular(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), path)


def _regular(handle: int, path: Path) -> int:
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise OSError(errno.EINVAL, "it is no regular file", path)
    return handle


def create_file(path: Path) -> BinaryIO:
    """A new file to write into; OSError where anything stands at `path`, a link that leads nowhere included."""
    return os.fdopen(open_own(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL), "wb")


def replace_file(path: Path, write: Callable[[BinaryIO], object]) -> None:
    """Replace `path` by what `write` puts into a file, so that at every instant the old or the new one is whole.

    A link at `path` is replaced, not followed. Raises StorageError, with the old file as it was, where the disk
    refuses.
    """
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with create_file(temporary) as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        # torch.save turns the failed write of its file into a RuntimeError
        cause = error.__context__ if isinstance(error, RuntimeError) else error
        if not isinstance(cause, OSError):
            raise
        raise storage_error(path, cause, "what it held before is untouched") from error


def storage_error(path: Path, error: OSError, kept: str) -> StorageError:
    """What to say when `path` could not be written; `kept` says what is as it was."""
    if not path.parent.exists():
        return StorageError(
            f"{path} could not be written: the folder {path.parent} is gone. It was removed or renamed while the run "
            "trained; put it back and start again with the same command, or start anew"
        )
    advice = {
        errno.ENOSPC: "Make room on the disk",
        errno.EDQUOT: "Make room in your quota",
        errno.ELOOP: "Remove the link",
    }.get(error.errno or 0, "Mend that")
    return StorageError(
        f"{path} could not be written: {error.strerror or error}; {kept}. {advice}, then start again with the same "
        "command"
    )


def remove_leftovers(folder: Path) -> None:
    """Remove what replace_file left in `folder` when its process was killed; only for who owns the folder alone."""
    for path in folder.glob("*.tmp"):
        if _TEMPORARY.fullmatch(path.name):
            path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
