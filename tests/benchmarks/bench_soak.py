"""The service for ten minutes at half load: its memory stays flat, nothing fails, and the journal holds every payment.

    SOAK_SECONDS=600 python tests/benchmarks/run.py --only soak

The payments are those of the default world's first week of service, again and again: under new ids, and later by a week
each time, so that after a month of them the service forgets as many as it gets to know. Memory is judged from then on:
ten minutes are about five weeks of payments.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import Any

from bench_service import row
from soak import soak

SECONDS = float(os.environ.get("SOAK_SECONDS", "600"))


def run() -> list[dict[str, Any]]:
    """Soak the packaged champion; return the rows of memory and of journal."""
    from lifecycle import pipeline
    from lifecycle.deployment import artifact, messages

    deployed = pipeline.artifact("deployment")
    payments = pipeline.artifact("preprocessing").frame("transactions")
    week = payments[payments["transaction_id"].isin(deployed.frame("batch_scores")["transaction_id"])]
    with tempfile.TemporaryDirectory() as folder:
        package = artifact.unpack(deployed.file("model.tar.gz"), Path(folder) / "model")
        found = soak(package.folder, messages.as_records(week), SECONDS)
    what = f"in {found.seconds:.0f} s at half load ({found.rate:.0f} payments a second)"
    return [
        row("soak.memory", f"growth of memory {what}, first {found.first:.0f} MB, last {found.last:.0f} MB",
            found.slope, "MB/min", "under 1 MB a minute", found.slope < 1),
        row("soak.errors", f"failed requests {what}", found.failures, "requests", "none", found.failures == 0),
        row("soak.lost", f"acknowledged payments that the journal lacks, or has too many, of {found.answered:,}",
            abs(found.journaled - found.answered), "payments", "none", found.journaled == found.answered),
    ]  # fmt: skip
