"""How time, memory and disk grow with the bank: each step of the data half, from 1 to 100 million payments.

    make benchmark ONLY=scale                                      1, 3 and 10 million payments
    SCALE_MILLIONS=1,3,10,30,100 make benchmark ONLY=scale         all sizes: an hour, and 18 GB of disk
    SCALE_FOLDER=FOLDER make benchmark ONLY=scale                  makes the banks in FOLDER, not in a temporary folder

Customers and terminals grow together, over the same 183 days, so that a payment costs the same work at every
size. A step runs in a process of its own; its memory is that of the process and all that it started. Time
is that of the step's build, without the imports; on a busy machine, trust the processor time. The exponent
is the slope of time over payments, both logarithmic: 1 is linear.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np

GOAL_EXPONENT, GOAL_GB = 1.1, 6.0
STEPS = ("world", "collection", "preprocessing", "features")
SIZES = "1,3,10"
CUSTOMERS = 2_850
"""Customers that make a million payments in 183 days; there are twice as many terminals."""

_CHILD = """
import json, resource, sys, time
from lifecycle import pipeline
before = time.process_time()
made = pipeline.artifact(sys.argv[1])
own, started = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
work = time.process_time() - before + started.ru_utime + started.ru_stime
size = sum(entry["bytes"] for entry in made.manifest["files"].values())
memory = max(own.ru_maxrss, started.ru_maxrss) / 1e6
print(json.dumps([made.manifest["seconds"], work, memory, size / 1e9, str(made.path)]))
"""


def run(only: str = "") -> list[dict[str, Any]]:
    """Measure every step at every size, smallest first, and those of at most a tenth of the largest once more.

    A machine that slows down over an hour would otherwise look like a cost that grows: what is small is measured at
    both ends of the hour.
    """
    sizes = [float(text) for text in os.environ.get("SCALE_MILLIONS", SIZES).split(",")]
    again = [millions for millions in reversed(sizes) if millions <= max(sizes) / 10]
    found: dict[str, dict[float, list[dict[str, float]]]] = {step: {} for step in STEPS}
    with tempfile.TemporaryDirectory(prefix="lifecycle-scale-", dir=os.environ.get("SCALE_FOLDER")) as folder:
        for millions in sizes + again:
            for step, figures in bank(millions, Path(folder) / f"{millions:g}"):
                found[step].setdefault(millions, []).append(figures)
    both = {step: [together(runs) for runs in by_size.values()] for step, by_size in found.items()}
    rows = [_size_row(step, figures) for step in STEPS for figures in both[step]]
    return rows + [row for step in STEPS for row in _step_rows(step, both[step])]


def together(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the figures of runs of one size: the geometric mean of times, the largest of memory and disk."""
    found = {name: max(run[name] for run in runs) for name in runs[0]}
    return found | {name: float(np.exp(np.mean([np.log(run[name]) for run in runs]))) for name in ("seconds", "work")}


def bank(millions: float, data: Path) -> Any:
    """Build one bank step by step; yield the name of each step and its figures."""
    customers = round(CUSTOMERS * millions)
    knobs = {"customers": customers, "terminals": 2 * customers, "data_dir": data}
    environ = {**os.environ, **{f"LIFECYCLE_{name.upper()}": str(value) for name, value in knobs.items()}}
    before: Path | None = None
    payments = 0
    for step in STEPS:
        figures, folder = _measure(step, environ, data)
        if step == "world":
            payments = _payments(folder)
        figures["payments"] = payments
        print(f"[scale] {payments:,} payments, {step}: {json.dumps(figures)}", file=sys.stderr, flush=True)
        yield step, figures
        # No later step reads more than the step before it.
        if before is not None:
            shutil.rmtree(before)
        before = folder
    shutil.rmtree(data)


def _measure(step: str, environ: dict[str, str], data: Path) -> tuple[dict[str, float], Path]:
    """Build one step in a process of its own."""
    data.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-W", "ignore", "-c", _CHILD, step]
    with subprocess.Popen(command, env=environ, stdout=subprocess.PIPE, text=True) as process:
        watch = _Watch(process.pid, data)
        output, _ = process.communicate()
        memory, disk = watch.stop()
    if process.returncode:
        raise RuntimeError(f"the step {step} failed with exit code {process.returncode}: see above")
    seconds, work, own, size, folder = json.loads(output.strip().splitlines()[-1])
    figures = {"seconds": seconds, "work": work, "memory": max(own, memory), "disk": size, "disk_peak": disk}
    return figures, Path(folder)


class _Watch:
    """Reads the memory of a process family and the size of a folder, in a thread."""

    def __init__(self, pid: int, folder: Path) -> None:
        from measure import family_memory

        self._read = lambda: family_memory(pid)
        self._folder, self._before = folder, _size(folder)
        self._memory, self._disk = 0.0, 0.0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> tuple[float, float]:
        """Return the largest memory and the largest growth of the folder, in GB."""
        self._over.set()
        self._thread.join()
        return self._memory, self._disk

    def _look(self) -> None:
        while not self._over.wait(0.5):
            self._memory = max(self._memory, self._read() / 1e9)
            self._disk = max(self._disk, (_size(self._folder) - self._before) / 1e9)


def _size(folder: Path) -> int:
    """Return the bytes of all files in a folder; files may vanish meanwhile."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            try:
                total += os.stat(os.path.join(parent, name)).st_size
            except FileNotFoundError:
                continue
    return total


def _payments(world: Path) -> int:
    """Return how many payments a simulated bank has, from its answer key."""
    import pyarrow.parquet as pq

    return sum(pq.read_metadata(path).num_rows for path in world.rglob("truth.parquet"))


def exponent(payments: list[float], seconds: list[float]) -> float:
    """Return the slope of time over payments, both logarithmic."""
    return float(np.polyfit(np.log(payments), np.log(seconds), 1)[0])


def _size_row(step: str, figures: dict[str, float]) -> dict[str, Any]:
    millions = figures["payments"] / 1e6
    return {
        "name": f"scale.{step}_{millions:.0f}M",
        "what": f"{step}, {figures['payments']:,.0f} payments: {figures['work']:.0f} s of processor time, "
        f"{figures['memory']:.2f} GB of memory at most, {figures['disk']:.2f} GB left on disk, "
        f"{figures['disk_peak']:.2f} GB while it ran",
        "ours": round(figures["seconds"], 2),
        "peer": None,
        "unit": "s",
        "ratio": None,
        "goal": f"at most {GOAL_GB:.0f} GB of memory",
        "met": figures["memory"] <= GOAL_GB,
    }


def _step_rows(step: str, sizes: list[dict[str, float]]) -> list[dict[str, Any]]:
    payments, seconds, work = ([figures[name] for figures in sizes] for name in ("payments", "seconds", "work"))
    span = f"from {payments[0] / 1e6:.0f} to {payments[-1] / 1e6:.0f} million payments"
    memory = max(figures["memory"] for figures in sizes)
    rows = [(f"{step}_memory", f"largest memory of {step}, {span}", memory, "GB", f"at most {GOAL_GB:.0f} GB", GOAL_GB)]
    if len(sizes) > 1:
        slope, goal = exponent(payments, seconds), f"at most {GOAL_EXPONENT}"
        what = f"exponent of the time of {step}, {span}; of its processor time: {exponent(payments, work):.2f}"
        rows.append((f"{step}_exponent", what, slope, "", goal, GOAL_EXPONENT))
    return [
        {
            "name": f"scale.{name}",
            "what": what,
            "ours": round(value, 3),
            "peer": None,
            "unit": unit,
            "ratio": None,
            "goal": goal,
            "met": value <= most,
        }
        for name, what, value, unit, goal, most in rows
    ]


if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1])]
    began = time.perf_counter()
    print(json.dumps(run(), indent=2))
    print(f"{time.perf_counter() - began:.0f} s", file=sys.stderr)
