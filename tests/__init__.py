"""Tests. The workers of a run share the machine's cores: each computes with one thread, and none waits by spinning."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # as `firstread` itself has it
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
