"""A test set of any size: every payment is scored, a part at a time, and all of them, or whole customers, are judged.

Scores need one row at a time, so that no more than a part of the file is in memory. Metrics need all rows at
once: of more than ``most_rows``, they are computed on the payments of some customers, all of each. Shares, rankings
and means are then those of the sample. Counts and sums of money are stated for all payments (`for_all`), and a team
that can check a number of cards a day checks as large a share of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from lifecycle import contracts
from lifecycle.errors import LifecycleError
from lifecycle.features.execution import Appending
from lifecycle.preprocessing.tables import open_database, parquet, read_batches
from lifecycle.training import feature_matrix, load_model, rule_score
from lifecycle.training.reading import PART, is_drawn

SCALED = frozenset({
    "alerts", "cost_with", "cost_without", "declined", "false_alarms", "fraud_let_through", "fraud_stopped", "frauds",
    "misses", "missed", "number", "amount", "payments", "savings", "savings_if_perfect", "unreported", "victims",
})  # fmt: skip
"""The figures of a report that grow with the number of payments: counts and sums of money."""


@dataclass(frozen=True)
class ScoredTest:
    """A test set with its scores: what is judged of it, and what is known of all of it.

    Attributes
    ----------
    frame, scores
        The payments that are judged, with their features, and model -> score of each of them.
    share
        The share of all payments that `frame` holds: 1 unless the test set is large.
    facts
        Of all payments: ``payments``, ``labeled``, ``frauds``, ``customers`` (None where there are none).
    """

    frame: pd.DataFrame
    scores: dict[str, np.ndarray]
    share: float
    facts: dict[str, Any]


def score_all(test: pd.DataFrame, models: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Return the scores of the rule and of every model: name -> float64 of shape (rows of the test set,)."""
    return {
        "rule": rule_score(test),
        **{name: model.predict(feature_matrix(test, model.schema)) for name, model in models.items()},
    }


def score_test(
    path: Path, folders: Mapping[str, Path], champion: str, out: Path, most_rows: int, part: int = PART
) -> ScoredTest:
    """Score a test set in parts, write ``scores.parquet`` and ``test_scores.parquet``, and return what is judged.

    Parameters
    ----------
    path
        The test set (Parquet).
    folders
        Model -> its folder.
    champion
        The model whose scores are those of ``scores.parquet``.
    out
        Where to write.
    most_rows
        Of more payments, those of some customers are judged.
    part
        Rows in memory at a time, about: all parts are of one size, since a model may add up its trees in another
        order for a few rows than for many.

    Raises
    ------
    LifecycleError
        If no customer falls into the sample.
    """
    rows = pq.read_metadata(path).num_rows
    models = {name: load_model(folder) for name, folder in folders.items()}
    size = -(-rows // -(-rows // part))
    kept, labeled, frauds = [], 0, 0
    with ExitStack() as stack:
        narrow, wide = (stack.enter_context(Appending(out / f"{name}.parquet")) for name in ("scores", "test_scores"))
        for table in read_batches(path, rows=size):
            frame = table.to_pandas()
            scores = score_all(frame, models)
            narrow.append(_narrow(frame, scores[champion]))
            wide.append(_wide(frame, scores))
            labeled, frauds = labeled + int(frame["is_fraud"].notna().sum()), frauds + int(frame["is_fraud"].sum())
            drawn = is_drawn(frame, most_rows / rows) if rows > most_rows else np.ones(len(frame), dtype=bool)
            kept.append((frame[drawn], {name: score[drawn] for name, score in scores.items()}))
    frame = pd.concat([one for one, _ in kept], ignore_index=True)
    if frame.empty:
        raise LifecycleError(
            f"Of the {rows:,} payments of the test period, those of whole customers do not fit into {most_rows:,} "
            "rows: set LIFECYCLE_MOST_ROWS higher."
        )
    facts = {"payments": rows, "labeled": labeled, "frauds": frauds, "customers": _count_customers(path, frame, rows)}
    scores = {name: np.concatenate([one[name] for _, one in kept]) for name in kept[0][1]}
    return ScoredTest(frame, scores, len(frame) / rows, facts)


def _narrow(frame: pd.DataFrame, score: np.ndarray) -> pa.Table:
    table = frame[["transaction_id", "event_time"]].assign(score=score, is_fraud=frame["is_fraud"].astype("Int8"))
    contracts.check(table, contracts.SCORES, "scores.parquet")
    return pa.Table.from_pandas(table, preserve_index=False)


def _wide(frame: pd.DataFrame, scores: Mapping[str, np.ndarray]) -> pa.Table:
    columns = ["transaction_id", "event_time", "customer_id", "terminal_id", "amount", "is_fraud"]
    return pa.Table.from_pandas(frame[columns].assign(**scores), preserve_index=False)


def _count_customers(path: Path, frame: pd.DataFrame, rows: int) -> int | None:
    """Return the number of customers of a test set of which `frame` is a part or all; None where there are none."""
    if contracts.absent_entities(frame[["customer_id"]]):
        return None
    if len(frame) == rows:
        return int(frame["customer_id"].nunique())
    with open_database() as db:
        return int(db.execute(f"SELECT count(DISTINCT customer_id) FROM {parquet(path)}").fetchall()[0][0])


def for_all(found: Any, share: float) -> Any:
    """Return figures of a sample as those of all payments: counts and sums of money (`SCALED`) divided by its share.

    Parameters
    ----------
    found
        A part of a report: lists, dictionaries and numbers, in any depth.
    share
        The share of all payments that the sample holds.

    Examples
    --------
    >>> for_all({"frauds": 5, "recall": 0.4, "savings": {"value": 10.0, "low": None}}, 0.5)
    {'frauds': 10, 'recall': 0.4, 'savings': {'value': 20.0, 'low': None}}
    """
    if share == 1:
        return found
    if isinstance(found, list):
        return [for_all(one, share) for one in found]
    if not isinstance(found, Mapping):
        return found
    return {key: (_scaled if key in SCALED else for_all)(value, share) for key, value in found.items()}


def _scaled(value: Any, share: float) -> Any:
    if isinstance(value, Mapping):
        return {key: _scaled(one, share) for key, one in value.items()}
    if isinstance(value, float):
        return round(value / share, 6)
    return round(value / share) if isinstance(value, int) else value


def describe_sample(tested: ScoredTest, learned: float, most_rows: int) -> dict[str, Any]:
    """Return what of the data was judged and learned from, and a sentence on it.

    Parameters
    ----------
    tested
        The test set.
    learned
        The share of the training period's payments that the models learned from.
    most_rows
        The setting that both come from.

    Returns
    -------
    dict
        ``most_rows``, ``share`` and ``payments`` (judged), ``learned``, and ``note`` (None if nothing was left out).
    """
    notes = []
    if learned < 1:
        notes.append(
            f"The models learned from {100 * learned:.1f} % of the payments of the training period that have a label."
        )
    if tested.share < 1:
        notes.append(
            f"Of the {tested.facts['payments']:,} payments of the test period all have a score, and "
            f"{len(tested.frame):,} ({100 * tested.share:.1f} %) were judged; counts, sums of money and cards per day "
            "are stated for all of them, and single payments are those of the sample."
        )
    if notes:
        whole = "customers are, each with all payments" if tested.facts["customers"] else "payments are, one by one"
        notes.append(f"A sample is drawn by lot above {most_rows:,} payments (LIFECYCLE_MOST_ROWS): {whole}.")
    return {
        "most_rows": most_rows,
        "share": tested.share,
        "payments": len(tested.frame),
        "learned": learned,
        "note": " ".join(notes) or None,
    }
