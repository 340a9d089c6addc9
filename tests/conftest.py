"""Every worker of pytest-xdist counts its threads as if it were alone."""

import os

if "PYTEST_XDIST_WORKER" in os.environ:
    # Read by torch, OpenBLAS and OpenMP when they are first imported, here and in child processes.
    os.environ.setdefault("OMP_NUM_THREADS", "1")
