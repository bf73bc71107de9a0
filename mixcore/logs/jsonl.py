"""metrics.jsonl: one JSON object per line, one line per epoch, safe against a kill at any instant.

A line counts once its newline is written. What follows the last newline is the torn end of a write that was cut short:
it is not read, and the next write removes it.

The run itself knows its lines and keeps them in its checkpoints; the file is what others read. So a file that was
deleted, cut or changed is noticed, and can be put back as it was.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mixcore.errors import RunFolderError, StorageError
from mixcore.files import open_own, replace_file, storage_error

__all__ = ["append_line", "check_lines", "count_lines", "plain", "read_records", "record_line", "restore_lines"]


def record_line(record: Mapping[str, Any]) -> str:
    """The record as a line without its newline; numbers that JSON cannot hold (NaN, infinite) become null."""
    return json.dumps(plain(record), allow_nan=False)


def plain(value: Any) -> Any:
    """Mappings, lists and scalars with None for every number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def append_line(path: Path, before: Sequence[str], line: str) -> None:
    """Append `line` and wait until it is on the disk. The file must hold the lines `before` it, and none but these.

    Raises StorageError where it does not, because somebody changed it, or where it cannot be written.
    """
    flags = os.O_RDWR | os.O_APPEND | (0 if before else os.O_CREAT)
    try:
        with os.fdopen(open_own(path, flags), "r+b", buffering=0) as file:
            whole = _whole(file.readall())
            _compare(path, whole, before)
            file.truncate(len(whole))
            content = f"{line}\n".encode()
            if file.write(content) != len(content):
                raise OSError("the disk took a part of the line only")
            os.fsync(file.fileno())
    except FileNotFoundError as error:
        if not path.parent.exists():
            raise storage_error(path, error, "checkpoints are as they were") from error
        raise _changed(path, 0, len(before)) from error
    except OSError as error:
        raise storage_error(path, error, "checkpoints are as they were") from error


def check_lines(path: Path, lines: Sequence[str]) -> None:
    """Raise StorageError where the file does not hold these lines."""
    try:
        with os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
            _compare(path, _whole(file.read()), lines)
    except FileNotFoundError as error:
        raise _changed(path, 0, len(lines)) from error
    except OSError as error:
        raise StorageError(f"{path} cannot be read: {error.strerror or error}; checkpoints are as they were") from error


def restore_lines(path: Path, lines: Sequence[str]) -> bool:
    """Make the file hold exactly these lines, in one step: a kill leaves the old file or the new one.

    Whether they were not all there before, as they are after a kill. A file that held something else is kept beside
    it as `<name>.damaged`. Raises StorageError.
    """
    wanted = _joined(lines)
    try:
        with os.fdopen(open_own(path, os.O_RDONLY), "rb") as file:
            found = file.read()
    except FileNotFoundError:
        found = b""
    except OSError as error:
        raise storage_error(path, error, "checkpoints are as they were") from error
    if found == wanted:
        return False
    damaged = not found.startswith(wanted)
    if damaged and found:
        replace_file(path.with_name(f"{path.name}.damaged"), lambda file: file.write(found))
    replace_file(path, lambda file: file.write(wanted))
    return damaged


def read_records(path: Path) -> list[dict[str, Any]]:
    """All whole lines, in order; empty for a file that does not exist. RunFolderError for a line that is no object."""
    lines = _whole(path.read_bytes()).splitlines() if path.exists() else []
    return [_parsed(path, number, line) for number, line in enumerate(lines, 1)]


def count_lines(path: Path) -> int:
    """How many whole lines there are; 0 for a file that does not exist."""
    return path.read_bytes().count(b"\n") if path.exists() else 0


def _whole(content: bytes) -> bytes:
    """The content up to its last newline."""
    return content[: content.rfind(b"\n") + 1]


def _joined(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def _compare(path: Path, whole: bytes, lines: Sequence[str]) -> None:
    if whole != _joined(lines):
        raise _changed(path, whole.count(b"\n"), len(lines))


def _changed(path: Path, found: int, expected: int) -> StorageError:
    state = f"holds {found} whole lines" if path.exists() else "is gone"
    what = f"{expected} epochs" if found != expected else f"those {expected} epochs, but not as they were written"
    return StorageError(
        f"{path} {state}; this run has written {what}. Somebody changed it while the run trained. Checkpoints are as "
        "they were and hold the numbers: start again with the same command, which puts the file back"
    )


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise RunFolderError(
            f"{path}, line {number}: not JSON ({error}); remove the line or restore the file"
        ) from error
    if not isinstance(record, dict):
        raise RunFolderError(f"{path}, line {number}: found a {type(record).__name__}, expected one object per line")
    return record
