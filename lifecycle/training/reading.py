"""What fitting reads of files of any size: all rows of a small file, whole customers of a large one."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from lifecycle.preprocessing.tables import read_batches
from lifecycle.training.artifact import feature_matrix
from lifecycle.training.metrics import card_ids, known_frauds

PART = 100_000
"""Rows of a large file in memory at a time, beside those that are kept."""


@dataclass(frozen=True)
class TrainingData:
    """What fitting needs: the training set, its matrix, the schema, the label history, and who reported fraud when.

    ``share`` is the share of the file's payments that `frame` holds: 1 unless the file is large.
    """

    frame: pd.DataFrame
    matrix: np.ndarray
    schema: dict[str, Any]
    labels: pd.DataFrame
    reports: pd.DataFrame
    share: float = 1.0


def read_data(
    training_set: Path, labels: Path, transactions: Path, schema: Mapping[str, Any], most_rows: int
) -> TrainingData:
    """Read the training data; of more than `most_rows` rows, a sample of whole customers (`read_sample`).

    A sample of customers keeps the share of fraud, so that metrics and thresholds mean the same, and it keeps what
    is together: a customer is never learned from in part.
    """
    frame, share = read_sample(training_set, most_rows)
    history = pd.read_parquet(labels) if share == 1 else read_labels(labels, frame["transaction_id"])
    frauds = history.loc[history["is_fraud"] == 1, "transaction_id"]
    owners = read_rows(
        transactions, lambda rows: rows["transaction_id"].isin(frauds), ["transaction_id", "customer_id"]
    )
    reports = known_frauds(history, owners)
    return TrainingData(frame, feature_matrix(frame, dict(schema)), dict(schema), history, reports, share)


def read_rows(path: Path, wanted: Callable[[pd.DataFrame], Any], columns: Sequence[str] | None = None) -> pd.DataFrame:
    """Read the rows of a Parquet file that are wanted; no more than these and one batch are in memory.

    Parameters
    ----------
    path
        The file.
    wanted
        Returns for a batch of rows a boolean of each.
    columns
        By default all.
    """
    batches = (table.to_pandas() for table in read_batches(path, columns, PART))
    return pd.concat([rows[np.asarray(wanted(rows))] for rows in batches], ignore_index=True)


def read_sample(path: Path, most: int) -> tuple[pd.DataFrame, float]:
    """Read a table of payments, or, if it has more rows than `most`, those of some customers.

    Which customers is decided by a hash of their id, so that the same file gives the same sample anywhere. In a table
    without customers each payment stands for itself.

    Returns
    -------
    frame, share
        The rows in the order of the file, and their share of all rows.
    """
    rows = pq.read_metadata(path).num_rows
    if rows <= most:
        return pd.read_parquet(path), 1.0
    frame = read_rows(path, lambda part: is_drawn(part, most / rows))
    return frame, len(frame) / rows


def is_drawn(frame: pd.DataFrame, share: float) -> np.ndarray:
    """Return which payments belong to the customers of a sample of about a share of them (bool)."""
    return place(card_ids(frame)) < share


def place(ids: pd.Series) -> np.ndarray:
    """Return a number in [0, 1) for each id, evenly spread and always the same for the same id (float64).

    Examples
    --------
    >>> place(pd.Series(["a", "b", "a"])).round(3).tolist()
    [0.756, 0.688, 0.756]
    """
    values = ids.to_numpy() if pd.api.types.is_integer_dtype(ids) else ids.astype(str).to_numpy(dtype=object)
    return (pd.util.hash_array(values, categorize=False) >> np.uint64(11)) / 2**53


def read_labels(path: Path, ids: pd.Series) -> pd.DataFrame:
    """Read the label history of some payments, and all labels that say fraud."""
    known = pd.Index(ids)
    return read_rows(path, lambda rows: rows["transaction_id"].isin(known) | (rows["is_fraud"] == 1))
