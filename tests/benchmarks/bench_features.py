"""Features: the build of the whole bank, its windows beside plain pandas, and the online path.

The bank is that of the settings of the environment, by default 1.75 million payments. The peer is the straightforward
`groupby().rolling()` of `tests/features_oracle.py`, on the same payments: all windows that the product computes.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

BUILD_SECONDS, BUILD_GB, SINGLE_MS = 25.0, 3.0, 2.0

_CHILD = """
import json, resource, sys, tempfile, time
from pathlib import Path
import pandas as pd
sys.path.insert(0, sys.argv[3])
source, what = Path(sys.argv[1]), sys.argv[2]
from lifecycle import features
from lifecycle.settings import Settings
names = ("transactions", "labels", "customers", "terminals")
tables = [pd.read_parquet(source / f"{name}.parquet") for name in names] if what != "build" else []
if what == "pandas":
    import features_oracle as oracle
elif what == "windows":
    from lifecycle.features.windows import connect
    connect()
began = time.perf_counter()
with tempfile.TemporaryDirectory() as folder:
    if what == "build":
        features.build(Settings.from_environment(), {"preprocessing": source}, Path(folder))
    elif what == "windows":
        features.write_history(Path(folder), *tables)
    else:
        for key in ("customer_id", "terminal_id"):
            oracle.rolling_daily(tables[0], tables[1], key).to_parquet(Path(folder) / "daily.parquet")
        oracle.rolling_recent(tables[0]).to_parquet(Path(folder) / "recent.parquet")
seconds = time.perf_counter() - began
print(json.dumps([seconds, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6]))
"""


def run() -> list[dict]:
    """Measure each figure in a process of its own, so that memory is its own."""
    from lifecycle import pipeline

    source = pipeline.artifact("preprocessing").path
    build, build_gb = _child(source, "build")
    ours, ours_gb = _child(source, "windows")
    peer, peer_gb = _child(source, "pandas")
    single, batch = _online()
    return [
        _row("build", "all features of the default bank, training and test set", build, None, "s",
             f"at most {BUILD_SECONDS:.0f} s", build <= BUILD_SECONDS),
        _row("build_memory", "largest memory of that build", build_gb, None, "GB",
             f"at most {BUILD_GB:.0f} GB", build_gb <= BUILD_GB),
        _row("windows", "daily and recent windows, beside pandas groupby().rolling()", ours, peer, "s",
             "faster than pandas", ours < peer),
        _row("windows_memory", "largest memory of the windows, beside pandas", ours_gb, peer_gb, "GB",
             "less than pandas", ours_gb < peer_gb),
        _row("online_single", "features of one payment, two reads from the online store", single, None, "ms",
             f"at most {SINGLE_MS:.0f} ms", single <= SINGLE_MS),
        _row("online_batch", "features of 1,000 payments", batch, None, "ms", "at most 500 ms", batch <= 500),
    ]  # fmt: skip


def _child(source: Path, what: str) -> tuple[float, float]:
    """Return seconds and peak memory in GB of one part, run in a fresh interpreter."""
    tests = Path(__file__).resolve().parents[1]
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _CHILD, str(source), what, str(tests)],
        capture_output=True,
        text=True,
        check=True,
    )
    seconds, memory = json.loads(done.stdout.strip().splitlines()[-1])
    return seconds, memory


def _online() -> tuple[float, float]:
    """Return milliseconds of one payment (median of 500) and of a batch of 1,000."""
    import numpy as np
    import pandas as pd

    from lifecycle import features, pipeline

    payments = pipeline.artifact("preprocessing").frame("transactions")
    labels = pipeline.artifact("preprocessing").frame("labels")
    day = pipeline.Settings.from_environment().deploy_at
    today = payments[payments["event_time"].dt.floor("D") == pd.Timestamp(day, tz="UTC")].head(1_500)
    with tempfile.TemporaryDirectory() as folder:
        online_folder = Path(folder) / "online"
        features.export_online(pipeline.artifact("features").path, online_folder, day, payments, labels)
        online = features.OnlineFeatures(online_folder)
        online.recent.seed(payments[payments["event_time"] < pd.Timestamp(day, tz="UTC")])
        times = []
        for record in today.head(500).to_dict("records"):
            began = time.perf_counter()
            online.transform([record])
            times.append(time.perf_counter() - began)
        began = time.perf_counter()
        online.transform(today.tail(1_000))
        return float(np.median(times)) * 1000, (time.perf_counter() - began) * 1000


def _row(name, what, ours, peer, unit, goal, met) -> dict:
    ratio = None if peer is None else round(peer / ours, 2)
    return {
        "name": f"features.{name}",
        "what": what,
        "ours": round(ours, 3),
        "peer": None if peer is None else round(peer, 3),
        "unit": unit,
        "ratio": ratio,
        "goal": goal,
        "met": bool(met),
    }
