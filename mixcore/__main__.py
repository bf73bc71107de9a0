"""`python -m mixcore`: the command line."""

from __future__ import annotations

import os
import sys

if not sys.flags.safe_path and sys.path[:1] == [os.getcwd()]:
    del sys.path[0]  # `python -m` put it there: a file of the working directory named like a library would run

from mixcore.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
