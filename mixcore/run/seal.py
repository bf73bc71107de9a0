"""Sealed files: what torch.save wrote, and behind it a checksum over all of it.

The file stays a file of torch: a zip archive is read from its end, where the seal of 48 bytes is passed over. A seal
tells damage: a flipped bit, a cut, a foreign file. It is no signature: who writes a file on purpose can seal it too, so
what is read is still taken for untrusted (docs/checkpoints.md).
"""

from __future__ import annotations

import hashlib
import os
import pickle
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch

from mixcore.errors import CheckpointError, MixcoreError
from mixcore.files import open_regular
from mixcore.networks.weights import python_objects

__all__ = ["read_sealed", "seal_of", "write_sealed"]

_MARK = b"\nmixcore sha256:"
_SEAL = len(_MARK) + hashlib.sha256().digest_size
_CHUNK = 1 << 20


class _Summing:
    """A file to write into that sums what passes."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self.sum = file, hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.sum.update(data)
        return self._file.write(data)

    def flush(self) -> None:
        self._file.flush()


def write_sealed(file: BinaryIO, content: Mapping[str, Any]) -> None:
    """Write `content` (tensors and plain types) and its seal."""
    summing = _Summing(file)
    torch.save(dict(content), cast(IO[bytes], summing))
    file.write(_MARK + summing.sum.digest())


def read_sealed(path: Path) -> Any:
    """The content, on the CPU. Raises CheckpointError, whatever stands at `path`; no code of the file runs."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            _check_seal(path, file)
            _check_archive(path, file)
            file.seek(0)
            return torch.load(file, map_location="cpu", weights_only=True)
    except MixcoreError:  # ours, or a signal that arrived meanwhile
        raise
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}") from error
    except pickle.UnpicklingError as error:
        raise _refusal(path, error) from error
    except Exception as error:  # a forged file makes torch raise IndexError, TypeError, MemoryError and others
        raise CheckpointError(f"{path} is no readable checkpoint: {_reason(error)}") from error


def seal_of(path: Path) -> str:
    """The checksum that stands in a sealed file which was read before, in hexadecimal; "" where there is none."""
    with os.fdopen(open_regular(path), "rb") as file:
        file.seek(max(os.fstat(file.fileno()).st_size - _SEAL, 0))
        seal = file.read(_SEAL)
    return seal.removeprefix(_MARK).hex() if seal.startswith(_MARK) else ""


def _check_seal(path: Path, file: BinaryIO) -> None:
    size = os.fstat(file.fileno()).st_size
    file.seek(max(size - _SEAL, 0))
    seal = file.read(_SEAL)
    if not (len(seal) == _SEAL and seal.startswith(_MARK)):
        raise _unsealed(path, file)
    total, left = hashlib.sha256(), size - _SEAL
    file.seek(0)
    while left:
        chunk = file.read(min(_CHUNK, left))
        if not chunk:
            raise CheckpointError(f"{path} became shorter while it was read")
        total.update(chunk)
        left -= len(chunk)
    if total.digest() != seal[len(_MARK) :]:
        raise CheckpointError(
            f"{path} is no readable checkpoint: it is damaged, its checksum is not that of what was written"
        )


def _check_archive(path: Path, file: BinaryIO) -> None:
    """Refuse an archive that would take more memory than the file is large."""
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
    size = os.fstat(file.fileno()).st_size
    if any(entry.compress_type for entry in entries) or sum(entry.file_size for entry in entries) > size:
        raise CheckpointError(
            f"{path} is no readable checkpoint: it is compressed or claims to be larger than it is, which a file of "
            "torch never is"
        )


def _unsealed(path: Path, file: BinaryIO) -> CheckpointError:
    """Why a file without a seal is refused: cut short, of torch but not of ours, code, or something else."""
    file.seek(0)
    start = file.read(4)
    if start[:1] == pickle.PROTO:
        return CheckpointError(f"{path} is refused: it is a Python pickle, whose code would run if it were loaded")
    if start != b"PK\3\4":
        return CheckpointError(f"{path} is no checkpoint: expected a file that mixcore wrote, found something else")
    try:
        _check_archive(path, file)
        file.seek(0)
        content = torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        return _refusal(path, error)
    except MixcoreError:
        raise
    except Exception:
        return CheckpointError(f"{path} is no readable checkpoint: it is truncated, its end is missing")
    found = content.get("format") if isinstance(content, dict) else None
    return CheckpointError(
        f"{path} has no checksum: expected a file that this version of mixcore wrote, found "
        f"{f'a checkpoint of format {found}' if isinstance(found, int) else 'one of another program'}"
    )


def _refusal(path: Path, error: pickle.UnpicklingError) -> CheckpointError:
    """Torch refuses objects whose loading would run code, and advises to switch that off; we say what was found."""
    names = python_objects(path)
    if not names:
        return CheckpointError(f"{path} is no readable checkpoint: {_reason(error)}")
    shown = ", ".join(names[:4])[:200]
    return CheckpointError(
        f"{path} is refused: it holds Python objects whose loading would run code ({shown}); a checkpoint of mixcore "
        "holds tensors and plain values alone. Nothing of it was run. Do not load it elsewhere unless you know who "
        "made it"
    )


def _reason(error: Exception) -> str:
    """The kind of an error, which is all that a person can use of what torch says of a forged file."""
    return f"its content is malformed ({type(error).__name__})"
