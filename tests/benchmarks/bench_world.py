"""The simulated bank: how fast it makes payments, how fast it writes them, how much memory 100 times the size takes."""

from __future__ import annotations

import contextlib
import io
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

GOAL_RATE = 400_000
GOAL_SECONDS = 25.0
GOAL_MB = 3000.0

# One day of a bank with 100 times the customers and terminals, in a process of its own.
_HUNDREDFOLD = """
import resource
from lifecycle.settings import Settings
from lifecycle.world import simulate
for _ in simulate(Settings(customers=500_000, terminals=1_000_000, days=2)):
    pass
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def run(only: str = "") -> list[dict[str, Any]]:
    """Measure ours and, where it is installed, the peer `synccfd`; `only` may name one of the figures."""
    figures = {"world.generate": generate, "world.write": write, "world.memory_100x": memory}
    return [measure() for name, measure in figures.items() if name.startswith(only) or only in ("", "world")]


def generate() -> dict[str, Any]:
    """Payments a second in memory, fraud and the oracle included."""
    from lifecycle.settings import Settings
    from lifecycle.world import payments

    # The best of three: what else the machine does must not count.
    rates = []
    for _ in range(3):
        began = time.perf_counter()
        rates.append(len(payments(Settings())) / (time.perf_counter() - began))
    rate = max(rates)
    peer, remark = _peer_rate()
    return {
        "name": "world.generate",
        "what": f"payments generated in memory, fraud included, default size, best of 3; {remark}",
        "ours": rate,
        "peer": peer,
        "unit": "payments/s",
        "ratio": rate / peer if peer else None,
        "goal": f"at least {GOAL_RATE:,} payments/s",
        "met": rate >= GOAL_RATE,
    }


def _peer_rate() -> tuple[float | None, str]:
    """Return the peer's payments a second, on a size it does in half a minute, and a remark."""
    try:
        from synccfd import DatasetGenerator
    except ImportError:
        return None, "peer skipped: synccfd is not installed"
    silence = io.StringIO()
    began = time.perf_counter()
    with contextlib.redirect_stdout(silence), contextlib.redirect_stderr(silence):
        peer = DatasetGenerator(n_customers=500, n_terminals=1000, nb_days=60, start_date="2025-07-01", random_state=42)
        _, _, table = peer.generate()
    return len(table) / (time.perf_counter() - began), f"peer: synccfd 0.1.0, {len(table):,} payments"


def write() -> dict[str, Any]:
    """Seconds to write all sources and the answer key of the default world."""
    from lifecycle.settings import Settings
    from lifecycle.world import simulate_to

    with tempfile.TemporaryDirectory() as folder:
        began = time.perf_counter()
        simulate_to(Settings(), Path(folder) / "bank")
        seconds = time.perf_counter() - began
    return {
        "name": "world.write",
        "what": "default world written to disk: database, logs, feeds, answer key",
        "ours": seconds,
        "peer": None,
        "unit": "s",
        "ratio": None,
        "goal": f"at most {GOAL_SECONDS:.0f} s",
        "met": seconds <= GOAL_SECONDS,
    }


def memory() -> dict[str, Any]:
    """Peak memory of days with 100 times the default number of payments."""
    done = subprocess.run([sys.executable, "-c", _HUNDREDFOLD], capture_output=True, text=True, check=True)
    peak = float(done.stdout)
    return {
        "name": "world.memory_100x",
        "what": "peak memory, day by day, of a world of 100 times the size",
        "ours": peak,
        "peer": None,
        "unit": "MB",
        "ratio": None,
        "goal": f"under {GOAL_MB:.0f} MB",
        "met": peak < GOAL_MB,
    }
