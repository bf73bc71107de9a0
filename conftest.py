"""One thread per test process: the suite runs several of them, and processes that tests start inherit it."""

from __future__ import annotations

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")
