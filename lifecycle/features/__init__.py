"""Stage 4, features: one definition for the training set, the batch job, the service and the monitor."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lifecycle import contracts, files
from lifecycle.errors import LifecycleError
from lifecycle.features.online import OnlineFeatures, Recent
from lifecycle.features.request import request_features
from lifecycle.features.schema import feature_names, load_schema, make_schema
from lifecycle.features.store import assemble, export_online, materialize, open_store, snapshot, write_definitions
from lifecycle.features.windows import history_features, write_history

__all__ = [
    "OnlineFeatures",
    "Recent",
    "assemble",
    "build",
    "export_online",
    "feature_names",
    "history_features",
    "load_schema",
    "make_schema",
    "materialize",
    "open_store",
    "request_features",
    "snapshot",
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
    transactions = pd.read_parquet(source / "transactions.parquet")
    labels = pd.read_parquet(source / "labels.parquet")
    customers, terminals = (_optional(source / f"{name}.parquet") for name in ("customers", "terminals"))
    home = customers is not None and {"home_x", "home_y"} <= set(customers.columns)
    places = terminals is not None and {"x", "y"} <= set(terminals.columns)
    schema = make_schema(transactions, files.read_json(source / "encoding.json"), home, places)
    files.write_json(schema, out / "schema.json")
    write_history(out, transactions, labels, customers, terminals)
    write_definitions(out, schema)
    shutil.copyfile(source / "labels.parquet", out / "labels.parquet")

    store = open_store(out)
    wanted = ["transaction_id", "event_time", "customer_id", "terminal_id", "amount", *schema["categories"]]
    for name, since, until, known_by in (
        ("training_set", settings.train_from, settings.train_until, settings.test_from),
        ("test_set", settings.test_from, settings.test_until, settings.deploy_at),
    ):
        events = _period(transactions[wanted], since, until, name)
        known = contracts.labels_as_of(labels, contracts.midnight(known_by))
        frame = _label(assemble(store, events), known)
        if name == "training_set":
            frame = frame[frame["is_fraud"].notna()].astype({"is_fraud": "int8"})
        files.write_parquet(frame, out / f"{name}.parquet")


def _optional(path: Path) -> pd.DataFrame | None:
    return pd.read_parquet(path) if path.exists() else None


def _period(transactions: pd.DataFrame, since: object, until: object, name: str) -> pd.DataFrame:
    times = transactions["event_time"]
    rows = transactions[(times >= contracts.midnight(since)) & (times < contracts.midnight(until))]
    if rows.empty:
        raise LifecycleError(
            f"The {name.replace('_', ' ')} period {since} to {until} has no payments: the data covers "
            f"{times.min():%Y-%m-%d} to {times.max():%Y-%m-%d}; choose dates within it."
        )
    return rows.sort_values(["event_time", "transaction_id"])


def _label(frame: pd.DataFrame, known: pd.DataFrame) -> pd.DataFrame:
    """Put the labels that were known beside the contract columns, missing where there is none."""
    label = frame["transaction_id"].map(known.set_index("transaction_id")["is_fraud"])
    frame.insert(5, "is_fraud", label.astype("Int8"))
    return frame
