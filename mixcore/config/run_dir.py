"""The run folder that a configuration gets by default, and whether a folder can be made at all."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from mixcore.errors import ConfigError
from mixcore.words import cut

__all__ = ["check_dir", "default_dir", "folder_name", "setting_texts"]

LONGEST_NAME = 150
"""Bytes of a folder's name; file systems take 255."""
_STRANGE = re.compile(r"[^\w.,=+-]+", re.ASCII)


def default_dir(stem: str, overridden: Mapping[str, Any]) -> str:
    """`runs/<stem>`, and all that was overridden: `runs/quickstart-mix.name=mixup`.

    Each set of overrides has a folder of its own, whatever their order.
    """
    return f"runs/{folder_name((stem if stem.strip('.') else 'run',), sorted(setting_texts(overridden)))}"


def folder_name(heads: Sequence[str], settings: Sequence[str]) -> str:
    """All of them in a row: `quickstart-mix.name=mixup`.

    A name that a file system might refuse is cut or its settings lose characters, and it ends with a hash of the whole.
    """
    whole = "-".join((*heads, *settings))
    plain = "-".join((*heads, *(_STRANGE.sub("_", setting) for setting in settings)))
    plain = plain.encode("utf-8", "replace").decode()  # a stem in another encoding
    if plain != whole or len(plain.encode()) > LONGEST_NAME:
        digest = hashlib.blake2b(whole.encode("utf-8", "surrogateescape"), digest_size=4).hexdigest()
        plain = f"{plain.encode()[: LONGEST_NAME - 9].decode('utf-8', 'ignore')}-{digest}"
    return plain


def setting_texts(tree: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`key.path=value` for each value in the tree."""
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            yield from setting_texts(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}={_value(value)}"


def _value(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, list) and not any(isinstance(item, list | Mapping) for item in value):
        return ",".join(map(_value, value))
    return json.dumps(value, default=str, separators=(",", ":"))


def check_dir(
    run_dir: str, what: str = "run.dir: the run folder", way_out: str = "Name another one: --set run.dir=PATH"
) -> None:
    """Refuse a folder that cannot be made or written, without making anything.

    ConfigError with `what` it is called, and the `way_out`.
    """

    def refused(why: str) -> ConfigError:
        return ConfigError(
            f"{what} {cut(run_dir)} cannot be written: {why}; expected a directory, or a path where one can be made. "
            f"{way_out}"
        )

    path = Path(run_dir).absolute()
    try:
        os.stat(path)
    except (FileNotFoundError, NotADirectoryError):
        pass  # the file system would take the name
    except (OSError, ValueError) as error:
        raise refused(error.strerror or str(error) if isinstance(error, OSError) else str(error)) from error
    nearest = next(parent for parent in (path, *path.parents) if os.path.lexists(parent))
    if not nearest.is_dir():
        raise refused(f"{cut(str(nearest))} is no directory")
    if not os.access(nearest, os.W_OK | os.X_OK):
        raise refused(f"{cut(str(nearest))} gives no permission to write")
    longest = os.pathconf(nearest, "PC_NAME_MAX")  # below a directory that is missing nothing looks at the rest
    if any(len(os.fsencode(part)) > longest for part in path.parts):
        raise refused(f"a name in it is longer than {longest} bytes")
