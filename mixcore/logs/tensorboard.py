"""TensorBoard events of a run; torch's writer is imported when the first log is opened."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from torch import Tensor

__all__ = ["TensorBoardLog"]


class TensorBoardLog:
    """Writes the events of one process (rank 0) into `folder`.

    All tags of a run share one clock: a resumed run passes the first step that it will write again as `purge_step`, and
    TensorBoard then hides what the killed run wrote at that step and later, whatever the tag.
    """

    def __init__(self, folder: Path, purge_step: int | None = None) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer = SummaryWriter(str(folder), purge_step=purge_step)

    def scalars(self, values: Mapping[str, float | Tensor], step: int) -> None:
        """One point per tag; a tensor is read here, so pass tensors only where waiting for the device is meant."""
        for tag, value in values.items():
            self._writer.add_scalar(tag, value, step)

    def image(self, tag: str, image: Tensor, step: int) -> None:
        """A picture, uint8 [3,H,W] such as :func:`mixcore.logs.pictures.grid` gives."""
        self._writer.add_image(tag, image, step)

    def flush(self) -> None:
        """Hand what was written so far to the disk."""
        self._writer.flush()

    def close(self) -> None:
        """Write the rest and end; further closes do nothing."""
        self._writer.close()

    def __enter__(self) -> TensorBoardLog:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
