"""Every notebook runs from its first cell to its last, and each of its assertions holds.

They start two at a time, the last one first, from one empty data folder: so it has to build all that it needs,
beside another that needs some of the same. The outputs are kept for the book, so that the
step after this one need not execute everything again.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest
from filelock import FileLock
from measure import NOTEBOOKS, ROOT, run_notebook

sys.path.insert(0, str(ROOT / "book"))

from execute import MEASURES, in_order, keep, open_cache  # noqa: E402

LIMIT_SECONDS = 2400
"""For a whole notebook, the building of the world and of every stage before it included."""

LIMIT_MB = 3000
"""For a notebook and every process it starts: the stages it builds, the service and the replay."""


@pytest.mark.notebooks
@pytest.mark.parametrize("notebook", in_order(NOTEBOOKS), ids=lambda path: path.stem)
def test_notebook_runs(notebook: Path, record_property) -> None:
    run = run_notebook(notebook, Path(os.environ["LIFECYCLE_DATA_DIR"]), LIMIT_SECONDS)
    record_property("seconds", round(run.seconds, 1))
    record_property("peak_mb", round(run.peak_mb))
    print(f"{notebook.name}: {run.seconds:.0f} s, peak memory {run.peak_mb:.0f} MB")
    assert run.passed, run.output[-6000:]
    if notebook.stem not in MEASURES:
        (ROOT / "_build").mkdir(exist_ok=True)
        with FileLock(ROOT / "_build" / ".executed.lock"):
            keep(open_cache(), notebook, run.executed, run.seconds)
    assert run.peak_mb < LIMIT_MB
