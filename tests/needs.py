"""What a test needs of the machine: without it the test is skipped at home, and fails in CI."""

from __future__ import annotations

import importlib.util
import os
import shutil

import pytest


def need(*names: str) -> None:
    """Skip the test, or fail in CI, where a program or a Python package of these is missing.

    Parameters
    ----------
    names
        Programs (``"java"``) and packages (``"pyspark"``).
    """
    missing = [name for name in names if shutil.which(name) is None and importlib.util.find_spec(name) is None]
    if not missing:
        return
    reason = f"{' and '.join(missing)} not found; .ci/run and `make test` install what this test needs"
    if os.environ.get("CI"):
        pytest.fail(reason)
    pytest.skip(reason)
