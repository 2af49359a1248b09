"""What all tests share: data of their own, and property tests that are the same on every machine."""

from __future__ import annotations

import atexit
import os
import tempfile

from hypothesis import settings

# Before any test imports the package: no test may read or fill the data folder of the repository.
# The notebook and book tests are given one (tests/run_all.py); every other process makes its own.
if "LIFECYCLE_DATA_DIR" not in os.environ:
    _own = tempfile.TemporaryDirectory(prefix="lifecycle-tests-", ignore_cleanup_errors=True)
    os.environ["LIFECYCLE_DATA_DIR"] = _own.name
    atexit.register(_own.cleanup)
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("DO_NOT_TRACK", "true")

settings.register_profile("course", deadline=None, derandomize=True, database=None)
settings.load_profile("course")
