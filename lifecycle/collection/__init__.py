"""Collect the bank's sources into tables that keep their contracts, and account for every record.

Nothing is dropped in silence. A record that is read is accepted, quarantined with a reason, recognized
as a duplicate, or superseded by a later revision; for every source and day the four add up to what was
read. Instants become UTC, minor units become major ones. Values that are merely doubtful (a missing
category, a birth date of 1900-01-01) pass: to clean them is the job of preprocessing.

The work has two steps. *Landing* reads one delivered file and keeps what its lines say, typed, one Parquet
file a delivery. *Settling* looks at all that has landed and decides the fate of each record. Settling is a
function of what has landed and of nothing else, so that neither the order of arrival, nor a second
collection of a day, nor a crash can change its result.

`build` does both for the whole simulated bank. `collect_day`, `collect_until` and `publish` do the same day by
day in a folder that lasts. `ingest` makes a `build` for one's own file.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lifecycle.collection.accounting import COUNTS, check_accounting
from lifecycle.collection.daily import collect_day, collect_until, publish
from lifecycle.collection.landing import land_all
from lifecycle.collection.own import ingest, load_new, read_mapping
from lifecycle.collection.settling import settle
from lifecycle.collection.shared import ATTRIBUTES

__all__ = [
    "ATTRIBUTES",
    "COUNTS",
    "build",
    "check_accounting",
    "collect_day",
    "collect_until",
    "ingest",
    "load_new",
    "publish",
    "read_mapping",
]


def build(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Collect all sources of the simulated bank into `out`.

    Writes ``transactions``, ``labels``, ``customers``, ``terminals``, ``telemetry``, ``operations``, ``holidays``,
    ``superseded``, ``quarantine`` and ``accounting`` as Parquet. Memory does not grow with the number of payments.

    Parameters
    ----------
    settings
        Knobs: `label_delay_days`.
    inputs
        ``world``: the folder that holds ``sources/``.
    out
        An empty folder.

    Raises
    ------
    LifecycleError
        If a source is missing, cannot be read or lacks a column.
    """
    with tempfile.TemporaryDirectory(prefix=".landed-", dir=out) as landed:
        land_all(Path(inputs["world"]) / "sources", Path(landed))
        settle(Path(landed), out, settings.label_delay_days)
