"""A long scan that goes on where it was ended: what was measured stands in a file after every point."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from mixcore.api import Track

__all__ = ["scanned"]

Point = TypeVar("Point")


def scanned(
    folder: Path, points: Mapping[str, Point], measure: Callable[[Point], Any], progress: Track
) -> dict[str, Any]:
    """What `measure` gives, plain numbers, for each of the `points` by name.

    Each is measured once: an earlier scan of the same options, which the folder belongs to, leaves what it had. The
    file is gone when the scan is whole.
    """
    file = folder / "scan.json"
    found: dict[str, Any] = _read(file)
    for name, point in progress(points.items(), total=len(points)):
        if name not in found:
            found[name] = measure(point)
            half = file.with_suffix(".half")
            half.write_text(json.dumps(found), encoding="utf-8")
            os.replace(half, file)
    file.unlink(missing_ok=True)
    return {name: found[name] for name in points}


def _read(file: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}
