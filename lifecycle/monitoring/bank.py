"""The simulated bank as its monitor sees it: what arrived, what the champion said, what became known when."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import contracts, features, training
from lifecycle.monitoring import live, retraining
from lifecycle.monitoring.performance import DAY


@dataclass(frozen=True)
class Bank:
    """What the stage works on.

    Attributes
    ----------
    received
        All payments as first received, with ``corrected``.
    payments
        Payments as corrected, with features and the champion's scores.
    scored
        Payments since `train_until` as the champion decided them at the time: score, flagged.
    labels
        The label history.
    threshold
        The champion's.
    names, request_names
        The names of all features, and of those that come with the payment itself.
    vocabularies
        The values of each attribute that the model knows.
    clean, days
        The clean days before deployment, and the days of production.
    holidays
        The public holidays of the calendar.
    """

    received: pd.DataFrame
    payments: retraining.Payments
    scored: pd.DataFrame
    labels: pd.DataFrame
    threshold: float
    names: list[str]
    request_names: list[str]
    vocabularies: Mapping[str, list[str]]
    clean: pd.DatetimeIndex
    days: pd.DatetimeIndex
    holidays: pd.DatetimeIndex


def read(inputs: Mapping[str, Path]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the payments as first received, and the other tables that the features are made of."""
    # As collected, not as cleaned: the service gets what the gateway sends, missing categories included.
    transactions = pd.read_parquet(inputs["collection"] / "transactions.parquet")
    superseded = pd.read_parquet(inputs["collection"] / "superseded.parquet", columns=["transaction_id", "amount"])
    names = ("labels", "customers", "terminals")
    paths = {name: inputs["preprocessing"] / f"{name}.parquet" for name in names}
    tables = {name: pd.read_parquet(path) if path.exists() else None for name, path in paths.items()}
    kept = ["transaction_id", "event_time", "customer_id", "terminal_id", "amount"]
    kept += features.attribute_columns(features.load_schema(inputs["features"]))
    return live.as_received(transactions[kept], superseded), tables


def score_payments(
    settings: Any, inputs: Mapping[str, Path], received: pd.DataFrame, labels: pd.DataFrame, snapshots: Path
) -> Bank:
    """Score the payments, with corrected history and as the champion saw them.

    They reach back as far as the first retraining may look, or to the end of the champion's training.
    """
    schema = features.load_schema(inputs["features"])
    names = features.feature_names(schema)
    model = training.load_model(inputs["deployment"] / "model", threads=1)
    corrected = pd.read_parquet(inputs["collection"] / "transactions.parquet", columns=["amount"])
    since = contracts.midnight(settings.deploy_at) - learned_days(settings)
    seen = received["event_time"] >= min(since, contracts.midnight(settings.train_until))
    events = received.assign(amount=corrected["amount"].to_numpy())[seen].reset_index(drop=True)
    seen = received[seen].reset_index(drop=True)
    frame = features.assemble(features.open_store(inputs["features"]), events)
    matrix = frame[names].to_numpy("float32")
    frame = frame[["transaction_id", "event_time", "customer_id", "amount"]]
    score = model.predict(matrix)
    at_the_time = _rescored(model, names, seen, score, snapshots)
    scored = seen.drop(columns=list(schema["texts"])).assign(score=at_the_time, flagged=at_the_time >= model.threshold)
    scored = scored[scored["event_time"] >= contracts.midnight(settings.train_until)].reset_index(drop=True)
    start = contracts.midnight(settings.deploy_at)
    return Bank(
        received=received,
        payments=retraining.Payments(frame, matrix, score),
        scored=scored,
        labels=labels,
        threshold=model.threshold,
        names=names,
        request_names=[feature["name"] for feature in schema["features"] if feature["view"] == "request"],
        vocabularies=schema["categories"],
        clean=pd.date_range(contracts.midnight(settings.test_from), start - DAY),
        days=pd.date_range(start, received["event_time"].max().floor("D")),
        holidays=pd.DatetimeIndex(pd.read_parquet(inputs["collection"] / "holidays.parquet")["date"]),
    )


def _rescored(model: Any, names: list[str], seen: pd.DataFrame, score: np.ndarray, snapshots: Path) -> np.ndarray:
    """Return the scores as the champion gave them: those of the days with wrong records are computed anew."""
    right_again = live.correction_midnight(seen)
    if right_again is None:
        return score
    since = seen.loc[seen["corrected"], "event_time"].min().floor("D")
    window = seen["event_time"].between(since, right_again + DAY, inclusive="left").to_numpy()
    then = features.assemble(features.open_store(snapshots), seen[window].drop(columns="corrected"))
    score = score.copy()
    score[window] = model.predict(then[names].to_numpy("float32"))
    return score


def learned_days(settings: Any) -> pd.Timedelta:
    """Return how long before its labels were read the champion's training began."""
    return pd.Timedelta(settings.test_from - settings.train_from)
