"""What a test needs of the machine: without it the test is skipped at home, and fails in CI."""

from __future__ import annotations

import importlib.util
import shutil

from pages import skip_or_fail


def need(*names: str) -> None:
    """Skip the test, or fail in CI, where a program or a Python package of these is missing.

    Parameters
    ----------
    names
        Programs (``"java"``) and packages (``"pyspark"``).
    """
    missing = [name for name in names if shutil.which(name) is None and importlib.util.find_spec(name) is None]
    if missing:
        skip_or_fail(f"{' and '.join(missing)} not found; .ci/run and `make test` install what this test needs")
