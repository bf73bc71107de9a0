"""metrics.jsonl: one JSON object per line, one line per epoch, safe against a kill at any instant.

A line counts once its newline is written. What follows the last newline is the torn end of a write that was cut short:
it is not read, and the next write removes it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mixcore.errors import RunFolderError

__all__ = ["append_record", "plain", "read_records", "truncate_records"]


def append_record(path: Path, record: Mapping[str, Any]) -> None:
    """Append one line and wait until it is on the disk.

    Numbers that JSON cannot hold (NaN, infinite) are written as null. OSError where the folder cannot be written.
    """
    line = json.dumps(plain(record), allow_nan=False) + "\n"
    with path.open("ab") as file:
        file.truncate(len(_whole(path.read_bytes())))
        file.write(line.encode())
        file.flush()
        os.fsync(file.fileno())


def plain(record: Mapping[str, Any]) -> dict[str, Any]:
    """The record with null for every number that JSON cannot hold."""
    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()
    }


def read_records(path: Path) -> list[dict[str, Any]]:
    """All whole lines, in order; empty for a file that does not exist. RunFolderError for a line that is no object."""
    return [_parsed(path, number, line) for number, line in enumerate(_lines(path), 1)]


def truncate_records(path: Path, count: int) -> None:
    """Keep the first `count` lines as they are, byte for byte, in one step: a kill leaves the old file or the new one.

    RunFolderError where there are fewer: the numbers of an epoch that was trained would be missing.
    """
    lines = _lines(path)
    if len(lines) < count:
        raise RunFolderError(
            f"{path} has {len(lines)} whole lines, but the checkpoint was written after epoch {count}; "
            "restore the file, or start again in another folder"
        )
    kept = b"".join(lines[:count])
    if not path.exists() or path.read_bytes() == kept:
        return
    temporary = path.with_name(path.name + ".tmp")
    with temporary.open("wb") as file:
        file.write(kept)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def _whole(content: bytes) -> bytes:
    """The content up to its last newline."""
    return content[: content.rfind(b"\n") + 1]


def _lines(path: Path) -> list[bytes]:
    return _whole(path.read_bytes()).splitlines(keepends=True) if path.exists() else []


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise RunFolderError(
            f"{path}, line {number}: not JSON ({error}); remove the line or restore the file"
        ) from error
    if not isinstance(record, dict):
        raise RunFolderError(f"{path}, line {number}: found a {type(record).__name__}, expected one object per line")
    return record
