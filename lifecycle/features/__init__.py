"""Stage 4, features: one definition for the training set, the batch job, the service and the monitor."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lifecycle import contracts, files
from lifecycle.errors import LifecycleError
from lifecycle.features import execution
from lifecycle.features.online import OnlineFeatures, Snapshots
from lifecycle.features.recent import Recent
from lifecycle.features.replay import compare, recent_as_of, replay
from lifecycle.features.request import request_features
from lifecycle.features.schema import attribute_columns, feature_names, load_schema, make_schema
from lifecycle.features.store import (
    CHUNK,
    assemble,
    export_online,
    materialize,
    open_store,
    snapshot,
    write_definitions,
)
from lifecycle.features.text import fit_texts
from lifecycle.features.windows import ATTRIBUTES, history_features, write_history

if TYPE_CHECKING:
    from feast import FeatureStore

__all__ = [
    "OnlineFeatures",
    "Recent",
    "Snapshots",
    "assemble",
    "attribute_columns",
    "build",
    "compare",
    "export_online",
    "feature_names",
    "history_features",
    "load_schema",
    "make_schema",
    "materialize",
    "open_store",
    "recent_as_of",
    "replay",
    "request_features",
    "snapshot",
    "write_history",
]


def build(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Build the features of all payments, and the point-in-time training and test sets.

    Files made: `customer_daily`, `terminal_daily`, `recent`, `training_set`, `test_set`, `labels` (Parquet);
    `schema.json`; `feature_store.yaml`, `registry.db`.

    The training set holds the payments of ``[train_from, train_until)`` whose label was known by
    `test_from`, with the label of that time. The test set holds all payments of ``[test_from, test_until)``
    with the label known by `deploy_at`, missing where there is none yet.

    Raises
    ------
    LifecycleError
        If a period holds no payments.
    """
    source = inputs["preprocessing"]
    no_rows = pq.read_schema(source / "transactions.parquet").empty_table().to_pandas()
    home, places = (_has(source / f"{name}.parquet", columns) for name, columns in ATTRIBUTES.values())
    texts = fit_texts(source / "transactions.parquet", settings.train_from, settings.train_until)
    schema = make_schema(no_rows, files.read_json(source / "encoding.json"), home, places, texts, _absent(source))
    files.write_json(schema, out / "schema.json")
    execution.write_tables(source, out)
    write_definitions(out, schema)
    shutil.copyfile(source / "labels.parquet", out / "labels.parquet")

    store = open_store(out)
    for name, since, until, known_by in (
        ("training_set", settings.train_from, settings.train_until, settings.test_from),
        ("test_set", settings.test_from, settings.test_until, settings.deploy_at),
    ):
        _write_set(store, source, out / f"{name}.parquet", (since, until, known_by))


def _absent(source: Path) -> list[str]:
    """Return the entities that the payments came without; one row tells, since an id is never empty."""
    with files.open_parquet(source / "transactions.parquet") as file:
        first = next(file.iter_batches(1, columns=["customer_id", "terminal_id"])).to_pandas()
    return contracts.absent_entities(first)


def _has(path: Path, columns: Mapping[str, str]) -> bool:
    return path.exists() and set(columns) <= set(pq.read_schema(path).names)


def _write_set(store: FeatureStore, source: Path, path: Path, period: tuple[object, object, object]) -> None:
    """Join the features to the payments of a period, some days at a time, with the label known by its third day."""
    name, (since, until, _) = path.stem, period
    columns = ["transaction_id", "event_time", "customer_id", "terminal_id", "amount"]
    columns += attribute_columns(load_schema(path.parent))
    with tempfile.TemporaryDirectory(prefix=".events-", dir=path.parent) as scratch, execution.Appending(path) as file:
        events = Path(scratch) / "events.parquet"
        days = execution.write_events(source, path.parent / "recent.parquet", events, columns, *period)
        if days.empty:
            first, last = execution.first_and_last(source / "transactions.parquet")
            raise LifecycleError(
                f"The {name.replace('_', ' ')} period {since} to {until} has no payments: the data covers "
                f"{first:%Y-%m-%d} to {last:%Y-%m-%d}; choose dates within it."
            )
        for frame in _by_days(events, days):
            features = assemble(store, frame)
            features.insert(5, "is_fraud", frame["is_fraud"].astype("Int8").array)
            if name == "training_set":
                features = features[features["is_fraud"].notna()].astype({"is_fraud": "int8"})
            file.append(pa.Table.from_pandas(features, preserve_index=False))


def _by_days(path: Path, days: pd.Series) -> Iterator[pd.DataFrame]:
    """Read some days of events at a time."""
    for since, until in execution.day_ranges(days, CHUNK):
        low, high = (pd.Timestamp(day, unit="D", tz="UTC") for day in (since, until))
        yield pd.read_parquet(path, filters=[("event_time", ">=", low), ("event_time", "<", high)])
