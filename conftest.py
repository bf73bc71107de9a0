"""One thread per test process: the suite runs several of them, and processes that tests start inherit it.

Whatever the environment says: forks of a process that has OpenMP threads wait for them for ever.
"""

from __future__ import annotations

import os

os.environ["OMP_NUM_THREADS"] = "1"
