"""A file of one's own, of three sizes: time and memory of ``python -m lifecycle run --transactions FILE``.

    make benchmark ONLY=own                         0.5, 1.5 and 5 million payments
    OWN_MILLIONS=0.5 make benchmark ONLY=own        one size

The file is the payments of a simulated bank as one CSV, with the label in a column and no time at which it became
known. Its size grows with the customers, over the same 183 days. Memory is that of the command and all
that it started, at most; the file is written before the clock starts.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

GOAL_GB, GOAL_GROWTH = 4.0, 3.0
SIZES = "0.5,1.5,5"
CUSTOMERS = 2_850
"""Customers that make a million payments in 183 days."""


def run() -> list[dict[str, Any]]:
    """Write a file of each size, smallest first, and take it through the command."""
    sizes = [float(text) for text in os.environ.get("OWN_MILLIONS", SIZES).split(",")]
    found = []
    with tempfile.TemporaryDirectory(prefix="lifecycle-own-") as folder:
        for millions in sizes:
            found.append(measure(millions, Path(folder) / f"{millions:g}"))
            print(f"[own] {json.dumps(found[-1])}", file=sys.stderr, flush=True)
    return [_row(figures) for figures in found] + ([_growth(found)] if len(found) > 1 else [])


def measure(millions: float, folder: Path) -> dict[str, float]:
    """Return size, time and memory of one run."""
    from foreign_tables import write_bank
    from measure import Watch

    folder.mkdir()
    rows = write_bank(folder / "payments.csv", round(CUSTOMERS * millions), 183)
    environ = {**os.environ, "LIFECYCLE_DATA_DIR": str(folder / "data")}
    command = [sys.executable, "-m", "lifecycle", "run", "--transactions", str(folder / "payments.csv")]
    before, began = _work(), time.perf_counter()
    with subprocess.Popen([*command, "--out", str(folder / "out")], env=environ) as process:
        watch = Watch(process.pid)
        code = process.wait()
        memory = watch.stop() / 1e3
    if code:
        raise RuntimeError(f"the run on {rows:,} payments failed with exit code {code}: see above")
    return {
        "rows": rows,
        "bytes": (folder / "payments.csv").stat().st_size,
        "seconds": round(time.perf_counter() - began, 1),
        "work": round(_work() - before, 1),
        "memory": round(memory, 3),
    }


def _work() -> float:
    """Return the processor time of all processes that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _row(figures: dict[str, float]) -> dict[str, Any]:
    millions = figures["rows"] / 1e6
    return {
        "name": f"own.run_{millions:.1f}M",
        "what": f"run --transactions on {figures['rows']:,} payments ({figures['bytes'] / 1e6:.0f} MB of CSV): "
        f"{figures['work']:.0f} s of processor time, {figures['memory']:.2f} GB of memory at most",
        "ours": figures["seconds"],
        "peer": None,
        "unit": "s",
        "ratio": None,
        "goal": f"at most {GOAL_GB:.0f} GB of memory",
        "met": figures["memory"] <= GOAL_GB,
    }


def _growth(found: list[dict[str, float]]) -> dict[str, Any]:
    """Return how much more memory the largest file takes than the smallest, which stays below every limit on rows."""
    first, last = found[0], found[-1]
    times = last["rows"] / first["rows"]
    return {
        "name": "own.memory",
        "what": f"memory for {last['rows'] / 1e6:.1f} million payments, {times:.0f} times as many",
        "ours": last["memory"],
        "peer": first["memory"],
        "unit": "GB",
        "ratio": round(last["memory"] / first["memory"], 2),
        "goal": f"at most {GOAL_GROWTH} times the memory",
        "met": last["memory"] <= GOAL_GROWTH * first["memory"],
    }
