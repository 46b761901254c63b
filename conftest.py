"""The tests run in two processes (`-n 0` for one); each has one thread, or they would fight."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
