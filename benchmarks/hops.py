"""How far one batch travels from the loader to its loss: mixcore functions entered, and the files they stand in.

    python benchmarks/hops.py configs/quickstart.toml

One iteration in the middle of an epoch is watched, from the moment at which the loop asks for the next batch to the
return of the training step. A generator that goes on counts as entered.
"""

from __future__ import annotations

import argparse
import collections
import sys
import tempfile
from pathlib import Path
from types import FrameType
from typing import Any

from mixcore.cli.main import main as mixcore

WATCHED = 5
"""The iteration that is watched, from 0."""


class Watch:
    """Counts the functions of mixcore that are entered between the end of one iteration and the next loss."""

    def __init__(self) -> None:
        self.entered: collections.Counter[tuple[str, str]] = collections.Counter()
        self._ended, self._open = 0, False

    def __call__(self, frame: FrameType, event: str, _argument: Any) -> None:
        """What sys.setprofile calls."""
        path, name = frame.f_code.co_filename, frame.f_code.co_name
        if "/mixcore" not in path or "/site-packages/" in path:
            return
        if event == "return" and name == "iterate":
            self._ended += 1
            self._open = self._ended == WATCHED
        elif event == "return" and name == "forward" and path.endswith("/step.py"):
            self._open = False
        elif event == "call" and self._open:
            self.entered[(path, name)] += 1


def main() -> None:
    """Run one epoch of the configuration and print the counts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--list", action="store_true", help="print every function with its count")
    arguments = parser.parse_args()
    watch = Watch()
    with tempfile.TemporaryDirectory() as folder:
        sys.setprofile(watch)
        try:
            mixcore(["run", arguments.config, "--set", f"run.dir={folder}/run", "--set", "schedule.epochs=1"])
        except SystemExit:
            pass
        finally:
            sys.setprofile(None)
    files = {path for path, _ in watch.entered}
    if arguments.list:
        for (path, name), count in watch.entered.most_common():
            print(f"{count:4} {Path(path).parent.name}/{Path(path).name} {name}")
    print(f"{watch.entered.total()} calls of {len(watch.entered)} functions in {len(files)} files")


if __name__ == "__main__":
    main()
