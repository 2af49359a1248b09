"""Send production days through the real service, day by day, with data capture.

The replay is a process of its own (``python -m lifecycle.monitoring.replay WORK.json``): it shares
the machine with the rest of the monitoring build, and what it measures is the service, not the build.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pandas as pd

from lifecycle import files
from lifecycle.errors import LifecycleError

BATCH = 256
"""Payments a request; a request never spans two days."""

ASKED = 250
"""At least so many payments of a day are asked how old their daily features are. If one customer in fifty has stale
ones, a day without any of them comes about once in five months."""


def replay(package: Path, live: Path, payments: pd.DataFrame, capture_dir: Path, batch: int = BATCH) -> pd.DataFrame:
    """Start the service, refresh its daily features each midnight, and send each day's payments in order.

    Parameters
    ----------
    package
        A copy of the deployed package; its online store is written to.
    live
        The feature folder with the history as it stood each midnight (`live.write_live_features`).
    payments
        What arrived, as first received, with ``event_time``.
    capture_dir
        Receives the data capture, in folders by day and hour of the payments.
    batch
        Payments a request.

    Returns
    -------
    DataFrame
        One row a request: day, records, milliseconds, status (HTTP), and oldest_hours, the age of the oldest daily
        features that a payment of it was decided on, of those that were `ASKED` (NaN if there were none).

    Raises
    ------
    LifecycleError
        If the service does not start.
    """
    from lifecycle import features
    from lifecycle.deployment import messages, running
    from lifecycle.features.online import FeastRows

    store = features.open_store(package / "online", on_demand=False)
    rows = []
    with running.start(package, capture_dir, clock="event") as service:
        for day, chunk in payments.groupby(payments["event_time"].dt.floor("D")):
            entities = {key: chunk[key].unique() for key in ("customer_id", "terminal_id")}
            features.materialize(store, day.date(), source=live, entities=entities)
            age = feature_age(FeastRows(store), evenly(chunk, ASKED)).reindex(chunk.index)
            lines = [json.dumps(record) + "\n" for record in messages.as_records(chunk)]
            for start in range(0, len(lines), batch):
                sent = lines[start : start + batch]
                began = time.perf_counter()
                status, _ = service.call("/invocations", "".join(sent), "application/jsonlines")
                milliseconds = (time.perf_counter() - began) * 1000
                rows.append((day, len(sent), milliseconds, status, age.iloc[start : start + batch].max()))
        if service.stop() != 0:
            raise LifecycleError(f"The service did not end in order: {service.log.read_text().strip()[-200:]}")
    return pd.DataFrame(rows, columns=["day", "records", "milliseconds", "status", "oldest_hours"])


def evenly(payments: pd.DataFrame, number: int) -> pd.DataFrame:
    """Return at least `number` payments at equal distances, or all if there are fewer.

    Examples
    --------
    >>> evenly(pd.DataFrame({"amount": range(9)}), 4)["amount"].tolist()
    [0, 2, 4, 6, 8]
    """
    return payments.iloc[:: max(1, len(payments) // number)]


def feature_age(online: Any, payments: pd.DataFrame) -> pd.Series:
    """Return how old the daily features of each payment are when it is decided, in hours.

    Parameters
    ----------
    online
        The rows of the service's online store (`features.online.FeastRows`).
    payments
        customer_id, terminal_id, event_time.

    Returns
    -------
    Series
        The older of the customer's and the terminal's; NaN where neither has any.
    """
    from lifecycle.features.schema import VIEWS

    ages = []
    for view, (key, prefix) in VIEWS.items():
        ids = payments[key].unique().tolist()
        taken = [row[0] for row in online.read(view, key, ids, [f"{prefix}_snapshot"])]
        midnight = pd.to_datetime(payments[key].map(dict(zip(ids, taken, strict=True))), unit="D", utc=True)
        ages.append((payments["event_time"] - midnight) / pd.Timedelta(hours=1))
    return pd.concat(ages, axis=1).max(axis=1)


def start(package: Path, live: Path, payments: Path, capture_dir: Path, out: Path) -> subprocess.Popen:
    """Begin `replay` in a process of its own; `finish` waits for it. All arguments are paths.

    Parameters
    ----------
    payments
        Parquet file of what arrived.
    out
        Parquet file that receives the table of requests.
    """
    names = {"package": package, "live": live, "payments": payments, "capture_dir": capture_dir, "out": out}
    work = out.with_suffix(".json")
    files.write_json({name: str(path) for name, path in names.items()}, work)
    return subprocess.Popen(
        [sys.executable, "-m", "lifecycle.monitoring.replay", str(work)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen, out: Path) -> pd.DataFrame:
    """Wait for the replay and return its table of requests.

    Raises
    ------
    LifecycleError
        If the replay failed; the sentence is its own.
    """
    _, messages = process.communicate()
    if process.returncode != 0:
        last = (messages.strip().splitlines() or ["it said nothing"])[-1]
        raise LifecycleError(f"The replay of production through the service failed: {last}")
    return pd.read_parquet(out)


def _main() -> int:
    work = {name: Path(path) for name, path in files.read_json(sys.argv[1]).items()}
    try:
        requests = replay(work["package"], work["live"], pd.read_parquet(work["payments"]), work["capture_dir"])
    except LifecycleError as error:
        print(error, file=sys.stderr)
        return 1
    files.write_parquet(requests, work["out"])
    return 0


if __name__ == "__main__":
    sys.exit(_main())
