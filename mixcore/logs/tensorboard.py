"""TensorBoard events of a run; TensorBoard is imported when the first log is opened.

The events are written here and now: torch's writer has a thread of its own, which tells of a full disk an epoch late,
with a traceback, and follows links.
"""

from __future__ import annotations

import io
import secrets
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import Tensor

from mixcore.errors import StorageError
from mixcore.files import create_file, storage_error

__all__ = ["TensorBoardLog"]

_VERSION = "brain.Event:2"
"""What the first event of a file says that the others are."""


class TensorBoardLog:
    """Writes the events of one process (rank 0) into a new file in `folder`.

    All tags of a run share one clock: a resumed run passes the first step that it will write again as `purge_step`, and
    TensorBoard then hides what the killed run wrote at that step and later, whatever the tag.

    Everything raises StorageError where the disk refuses; what was written before can still be read.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        # TensorBoard reads the files of a folder in the order of their names
        self._path = folder / f"events.out.tfevents.{time.time():017.6f}.{socket.gethostname()}.{secrets.token_hex(8)}"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            self._file = create_file(self._path)
        except OSError as error:
            raise storage_error(self._path, error, "checkpoints are as they were") from error
        self._write(file_version=_VERSION)
        if purge_step is not None:
            from tensorboard.compat.proto.event_pb2 import SessionLog

            self._write(step=purge_step, session_log=SessionLog(status=SessionLog.START))
        self.flush()

    def scalars(self, values: Mapping[str, float | Tensor], step: int) -> None:
        """One point per tag; a tensor is read here, so pass tensors only where waiting for the device is meant."""
        from torch.utils.tensorboard.summary import scalar

        for tag, value in values.items():
            self._write(step=step, summary=scalar(tag, value))

    def image(self, tag: str, image: Tensor, step: int) -> None:
        """A picture, uint8 [3,H,W] such as :func:`mixcore.pictures.grid.grid` gives."""
        from torch.utils.tensorboard.summary import image as picture

        self._write(step=step, summary=picture(tag, image, dataformats="CHW"))

    def flush(self) -> None:
        """Hand what was written so far to the disk."""
        try:
            self._file.flush()
        except OSError as error:
            raise self._gone(error) from error

    def close(self) -> None:
        """Write the rest and end; further closes do nothing."""
        if not self._file.closed:
            self.flush()
            self._file.close()

    def _write(self, **content: Any) -> None:
        """One event, its record made in memory so that a full disk cuts it off at most."""
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        record = io.BytesIO()
        RecordWriter(record).write(Event(wall_time=time.time(), **content).SerializeToString())
        try:
            self._file.write(record.getvalue())
        except OSError as error:
            raise self._gone(error) from error

    def _gone(self, error: OSError) -> Exception:
        """The error to raise; the file is let go without the rest, which closing it would try to write again."""
        raw = getattr(self._file, "raw", self._file)
        raw.close()
        return storage_error(self._path, error, "checkpoints are as they were")

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            self.close()
        except StorageError:
            if error is None:  # else there is something more important to say already
                raise
