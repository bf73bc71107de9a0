"""From a run folder to a folder of one format: written beside it, verified, then put in its place whole."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from mixcore.errors import ConfigError, StorageError
from mixcore.export.card import model_card
from mixcore.export.formats import FORMATS
from mixcore.export.network import exported
from mixcore.run.open import LoadedRun

__all__ = ["export"]

CARD = "README.md"


def export(run: LoadedRun, to: str, out: Path, predictor: str | None = None) -> list[Path]:
    """Write the `predictor` of a run into the new folder `out`, in the format `to` of :data:`FORMATS`; gives its files.

    What was written gives the run's logits, or nothing stays. Raises ConfigError where `out` is there and not empty,
    for a predictor that the run lacks and a network that the format does not take, StorageError where the disk refuses,
    MixcoreError where the logits differ.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} is there already and not an empty folder; name a new one, or remove it first")
    chosen = exported(run, predictor)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        made = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    except OSError as error:
        raise StorageError(f"{out} cannot be made: {error.strerror or error}; name another with --out") from error
    try:
        load = FORMATS[to](chosen, made)
        files = sorted(path.name for path in made.iterdir())
        (made / CARD).write_text(model_card(chosen, files, load), "utf-8")
        for path in (made, *made.iterdir()):  # mkdtemp and safetensors make them private
            path.chmod(0o755 if path.is_dir() else 0o644)
        if out.exists():
            out.rmdir()
        made.rename(out)
    except OSError as error:
        raise StorageError(f"{out} could not be written: {error.strerror or error}; name another with --out") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return [out / name for name in (*files, CARD)]
