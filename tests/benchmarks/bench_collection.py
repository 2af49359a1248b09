"""Collection: from compressed JSON lines to checked Parquet, beside the straightforward pandas way on the same files.

The bank is that of the settings of the environment, by default 1.75 million payments. Ours is the whole `build`: all
sources, all tables, the accounting. So its rate counts the records of all sources; that of the application log alone,
over the same time, stands beside the peer's. The peer reads the same application log with `pandas.read_json`, and does
for payments alone what no one can leave out: it sets aside lines that are not JSON (on which `read_json` would stop),
drops what is unusable, brings time and unit into one form, lets a revision win, checks the same contract and writes
the same Parquet. It keeps no account and no quarantine.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

GOAL_RATE = 200_000
GOAL_GB = 3.0

_CHILD = """
import gzip, io, json, resource, sys, tempfile, time
from pathlib import Path
from types import SimpleNamespace
import pandas as pd
from lifecycle import collection, contracts, files

world, what = Path(sys.argv[1]), sys.argv[2]


def payments_by_pandas(out):
    customers = pd.read_parquet(world.parent / "customers.parquet")["customer_id"]
    days = []
    for path in sorted((world / "sources" / "authorizations").glob("*.jsonl.gz")):
        lines = gzip.decompress(path.read_bytes()).split(b"\\n")
        whole = b"\\n".join(line for line in lines if line.endswith(b"}"))
        options = {"compression": "gzip", "convert_dates": False, "dtype": {"category": str}}
        days.append(pd.read_json(io.BytesIO(gzip.compress(whole, 1)), lines=True, **options))
    log = pd.concat(days, ignore_index=True)
    good = log["time"].str.contains(r"(?:Z|[+-]\\d\\d:\\d\\d)$") & (log["amount"] > 0) & log["customer"].isin(customers)
    log = log[good].drop_duplicates().sort_values("revision", kind="stable").drop_duplicates("id", keep="last")
    amount = log["amount"].where(log["unit"] != "minor", (log["amount"] / 100).round(2)).astype("float64")
    table = pd.DataFrame({
        "transaction_id": log["id"],
        "event_time": pd.to_datetime(log["time"], utc=True, format="ISO8601").astype("datetime64[us, UTC]"),
        "customer_id": log["customer"],
        "terminal_id": log["terminal"],
        "amount": amount,
        "channel": log["channel"].astype("category"),
        "merchant_category": log["category"].astype("category"),
        "merchant_text": log["text"].astype("category"),
    }).sort_values(["event_time", "transaction_id"])
    contracts.check(table, contracts.TRANSACTIONS, "the collected transactions")
    files.write_parquet(table, out / "transactions.parquet")
    return len(log), len(table)


with tempfile.TemporaryDirectory(dir=world.parent) as folder:
    out = Path(folder)
    began = time.perf_counter()
    if what == "pandas":
        payments_by_pandas(out)
    else:
        collection.build(SimpleNamespace(label_delay_days=7), {"world": world}, out)
    seconds = time.perf_counter() - began
    payments = pd.read_parquet(out / "transactions.parquet", columns=["transaction_id", "amount"])
    cents = int((payments["amount"] * 100).round().sum())
    read = {}
    if what == "build":
        accounting = pd.read_parquet(out / "accounting.parquet")
        read = {name: int(n) for name, n in accounting.groupby("source")["read"].sum().items()}
        pd.read_parquet(out / "customers.parquet").to_parquet(world.parent / "customers.parquet")
memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
print(json.dumps({"seconds": seconds, "gb": memory, "payments": [len(payments), cents], "read": read}))
"""


def run() -> list[dict[str, Any]]:
    """Measure ours and the peer in turn, each in a process of its own, so that memory is its own."""
    import tempfile

    from lifecycle.settings import Settings
    from lifecycle.world import simulate_to

    with tempfile.TemporaryDirectory() as folder:
        world = simulate_to(Settings.from_environment(), Path(folder) / "bank")
        ours, peer = _child(world, "build"), _child(world, "pandas")
        ours = min(ours, _child(world, "build"), key=lambda done: done["seconds"])
    if ours["payments"] != peer["payments"]:
        raise ValueError(f"ours has payments and cents {ours['payments']}, pandas {peer['payments']}")
    lines, every = ours["read"]["authorizations"], sum(ours["read"].values())
    rate, peer_rate = lines / ours["seconds"], lines / peer["seconds"]
    all_rate = every / ours["seconds"]
    return [
        _row(
            "rate",
            f"records of all sources ({every:,}) to checked Parquet; best of 2",
            all_rate,
            None,
            "records/s",
            f"at least {GOAL_RATE:,} records/s",
            all_rate >= GOAL_RATE,
        ),
        _row(
            "log_rate",
            f"compressed JSON lines of the application log alone ({lines:,}), over the time of all sources; peer: "
            "pandas.read_json, payments alone",
            rate,
            peer_rate,
            "records/s",
            "at least 2 times the rate of pandas",
            rate >= 2 * peer_rate,
        ),
        _row(
            "memory",
            "largest memory of that, beside pandas",
            ours["gb"],
            peer["gb"],
            "GB",
            f"at most {GOAL_GB:.0f} GB",
            ours["gb"] <= GOAL_GB,
        ),
    ]


def _child(world: Path, what: str) -> dict[str, Any]:
    """Return what one collection took, run in a fresh interpreter."""
    command = [sys.executable, "-W", "ignore", "-c", _CHILD, str(world), what]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.strip().splitlines()[-1])


def _row(name: str, what: str, ours: float, peer: float | None, unit: str, goal: str, met: bool) -> dict:
    more_is_better = unit != "GB"
    return {
        "name": f"collection.{name}",
        "what": what,
        "ours": round(ours, 3),
        "peer": peer if peer is None else round(peer, 3),
        "unit": unit,
        "ratio": peer if peer is None else round(ours / peer if more_is_better else peer / ours, 2),
        "goal": goal,
        "met": bool(met),
    }
