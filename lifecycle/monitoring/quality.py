"""Model quality, once the labels are in: ground truth, its merge with captured calls, metrics and constraints.

The files are those of SageMaker Model Monitor's model-quality job for a binary classifier.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import files
from lifecycle.errors import LifecycleError
from lifecycle.training.metrics import Ranking

LOWER, GREATER = "LessThanThreshold", "GreaterThanThreshold"
SAMPLES = 50
"""Bootstrap samples behind each standard deviation."""

RISES_WITH_ERRORS = ("false_positive_rate", "false_negative_rate")
CONSTRAINED = ("recall", "precision", "f1", "auc", "au_prc", *RISES_WITH_ERRORS)
"""The metrics that get a constraint. Accuracy gets none: a model that never says fraud would pass it."""


def write_ground_truth(labels: pd.DataFrame, folder: Path | str) -> int:
    """Write labels as ground truth: JSON lines in folders by the hour in which each became known.

    Parameters
    ----------
    labels
        transaction_id, is_fraud (0 or 1), known_at (UTC).
    folder
        Receives ``yyyy/mm/dd/hh/labels.jsonl``. A request of ours carries many payments, so the event of the format
        is the payment: its ``eventId`` is the transaction_id.

    Returns
    -------
    int
        The number of labels written.
    """
    for hour, part in labels.groupby(labels["known_at"].dt.floor("h")):
        lines = [
            json.dumps(
                {
                    "groundTruthData": {"data": str(int(is_fraud)), "encoding": "CSV"},
                    "eventMetadata": {"eventId": str(transaction_id)},
                    "eventVersion": "0",
                }
            )
            for transaction_id, is_fraud in zip(part["transaction_id"], part["is_fraud"], strict=True)
        ]
        with files.replacing(Path(folder) / f"{hour:%Y/%m/%d/%H}" / "labels.jsonl") as temporary:
            temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return len(labels)


def read_ground_truth(folder: Path | str) -> pd.DataFrame:
    """Read ground truth.

    Parameters
    ----------
    folder
        What `write_ground_truth` wrote, or anybody else in the same format: ``yyyy/mm/dd/hh/*.jsonl``.

    Returns
    -------
    DataFrame
        transaction_id (text), is_fraud (0 or 1) and collected, the end of the hour of its file; in order of hours.

    Raises
    ------
    LifecycleError
        If there is no such file, one lies elsewhere, or a line is broken; the sentence names the file and the line.
    """
    folder = Path(folder)
    found = sorted(folder.rglob("*.jsonl")) if folder.is_dir() else []
    if not found:
        raise LifecycleError(f"{folder}: there is no ground truth in it; give the folder with yyyy/mm/dd/hh/*.jsonl.")
    events, labels, hours = [], [], []
    for file in found:
        hour = _hour_of(file)
        for number, line in enumerate(file.read_text(encoding="utf-8").splitlines(), start=1):
            if line.strip():
                event, label = _read_label(line, f"{file}, line {number}")
                events.append(event)
                labels.append(label)
                hours.append(hour)
    collected = pd.Series(hours, dtype="datetime64[us, UTC]") + pd.Timedelta(hours=1)
    return pd.DataFrame({"transaction_id": events, "is_fraud": np.array(labels, "int8"), "collected": collected})


def _hour_of(file: Path) -> pd.Timestamp:
    try:
        year, month, day, hour = map(int, file.parts[-5:-1])
        return pd.Timestamp(year, month, day, hour, tz="UTC")
    except ValueError:
        raise LifecycleError(
            f"{file}: ground truth lies in folders yyyy/mm/dd/hh, by the hour it was collected; move the file."
        ) from None


def _read_label(line: str, where: str) -> tuple[str, int]:
    try:
        record = json.loads(line)
        label, event = str(record["groundTruthData"]["data"]).strip(), str(record["eventMetadata"]["eventId"])
    except (json.JSONDecodeError, KeyError, TypeError):
        raise LifecycleError(
            f"{where}: this is no ground truth (groundTruthData.data and eventMetadata.eventId); remove the line."
        ) from None
    if label not in ("0", "1"):
        raise LifecycleError(f"{where}: the label is {label!r}; it must be 0 or 1. Remove the line.")
    return event, int(label)


def merge(captured: pd.DataFrame, truth: pd.DataFrame, until: pd.Timestamp | None = None) -> pd.DataFrame:
    """Return the captured payments whose label is known, with ``is_fraud``; the others tell nothing yet.

    Parameters
    ----------
    captured
        transaction_id, score, flagged.
    truth
        What `read_ground_truth` returned; of a payment with several labels, the last one counts.
    until
        The moment of knowledge: labels collected later are left out.

    Examples
    --------
    >>> captured = pd.DataFrame({"transaction_id": [1, 2], "score": [0.9, 0.1], "flagged": [True, False]})
    >>> merge(captured, pd.DataFrame({"transaction_id": ["1", "1"], "is_fraud": [0, 1]}))["is_fraud"].tolist()
    [1]
    """
    known = truth if until is None else truth[truth["collected"] <= until]
    known = known[["transaction_id", "is_fraud"]].drop_duplicates("transaction_id", keep="last")
    return captured.assign(transaction_id=captured["transaction_id"].astype(str)).merge(known, on="transaction_id")


def describe_quality(merged: pd.DataFrame, seed: int = 0, samples: int = SAMPLES) -> dict[str, Any]:
    """Return ``statistics.json`` of the model-quality job.

    Parameters
    ----------
    merged
        score, flagged and is_fraud of each payment, as `merge` returns.
    seed, samples
        Of the bootstrap over payments behind each ``standard_deviation``.

    Returns
    -------
    dict
        ``dataset.item_count`` and ``binary_classification_metrics``: the confusion matrix (truth, then decision),
        and each metric as ``{value, standard_deviation}``; None where a metric is not defined. The
        ``*_best_constant_classifier`` are those of the model that always says the commoner class.
    """
    fraud = merged["is_fraud"].to_numpy(dtype=float)
    flagged = merged["flagged"].to_numpy(dtype=float)
    ranking, rng = Ranking(fraud, merged["score"].to_numpy()), np.random.default_rng(seed)
    ones = np.ones(len(fraud))
    values = _metrics(fraud, flagged, ranking, ones)
    drawn = pd.DataFrame(
        [_metrics(fraud, flagged, ranking, rng.poisson(1.0, len(fraud)).astype(float)) for _ in range(samples)]
    )
    spread = drawn.std()
    made: dict[str, Any] = {
        "confusion_matrix": {
            str(truth): {
                str(said): int(((fraud == truth) & (flagged == said)).sum()) for said in (0, 1)
            }
            for truth in (0, 1)
        }
    }  # fmt: skip
    for name, value in values.items():
        made[name] = {"value": _number(value), "standard_deviation": _number(spread[name])}
    return {"version": 0.0, "dataset": {"item_count": len(merged)}, "binary_classification_metrics": made}


def _number(value: float) -> float | None:
    return None if np.isnan(value) else float(value)


def _metrics(fraud: np.ndarray, flagged: np.ndarray, ranking: Ranking, weight: np.ndarray) -> dict[str, float]:
    caught = float((weight * fraud * flagged).sum())
    frauds, alerts, all_ = float((weight * fraud).sum()), float((weight * flagged).sum()), float(weight.sum())
    honest, false_alarms = all_ - frauds, alerts - caught
    recall, false_positive_rate = _share(caught, frauds), _share(false_alarms, honest)
    return {
        "accuracy": _share(caught + honest - false_alarms, all_),
        "precision": _share(caught, alerts),
        "recall": recall,
        "f1": _share(2 * caught, alerts + frauds),
        "true_positive_rate": recall,
        "true_negative_rate": 1 - false_positive_rate,
        "false_positive_rate": false_positive_rate,
        "false_negative_rate": 1 - recall,
        "auc": ranking.area_under_roc(weight),
        "au_prc": ranking.average_precision(weight),
        "accuracy_best_constant_classifier": _share(max(frauds, honest), all_),
        "recall_best_constant_classifier": float(frauds > honest),
    }


def _share(part: float, whole: float) -> float:
    return part / whole if whole else float("nan")


def suggest_quality(*statistics: dict[str, Any]) -> dict[str, Any]:
    """Return ``constraints.json`` of the model-quality job: no metric may be worse than in any of the baselines.

    Model Monitor suggests the figures of one baseline, below which half of all good weeks fall by chance. A person
    edits that; here, more than one clean period may be given, and the worst of them is still in order.

    Examples
    --------
    >>> week = pd.DataFrame({"score": [0.9, 0.1, 0.6], "flagged": [True, False, True], "is_fraud": [1, 0, 0]})
    >>> suggest_quality(describe_quality(week))["binary_classification_constraints"]["recall"]
    {'threshold': 1.0, 'comparison_operator': 'LessThanThreshold'}
    """
    made = {}
    for name in CONSTRAINED:
        values = [one["binary_classification_metrics"][name]["value"] for one in statistics]
        values = [value for value in values if value is not None]
        if values:
            rises = name in RISES_WITH_ERRORS
            made[name] = {
                "threshold": max(values) if rises else min(values),
                "comparison_operator": GREATER if rises else LOWER,
            }
    return {"version": 0.0, "binary_classification_constraints": made}


def check_quality(statistics: dict[str, Any], constraints: dict[str, Any]) -> dict[str, Any]:
    """Return ``constraint_violations.json``: the metrics of a period that are worse than the constraints allow.

    Raises
    ------
    LifecycleError
        If one of the two lacks a part that the format requires.
    """
    violations = []
    try:
        for name, rule in constraints["binary_classification_constraints"].items():
            value, limit = statistics["binary_classification_metrics"][name]["value"], rule["threshold"]
            operator = rule["comparison_operator"]
            if value is not None and (value > limit if operator == GREATER else value < limit):
                violations.append(
                    {
                        "constraint_check_type": operator,
                        "description": f"Metric {name} with {value:.4f} was {operator} {limit:.4f}",
                        "metric_name": name,
                    }
                )
    except KeyError as error:
        raise LifecycleError(
            f"The files of model quality lack the part {error.args[0]!r}; write the baseline's two files again."
        ) from None
    return {"version": 0.0, "violations": violations}


def assess_quality(merged: pd.DataFrame, constraints: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return ``statistics.json`` and ``constraint_violations.json`` of merged payments.

    Parameters
    ----------
    merged
        As `merge` returns.
    constraints
        What `suggest_quality` made of clean periods.

    Raises
    ------
    LifecycleError
        If no payment has a label, or the constraints do not have the published form.
    """
    if merged.empty:
        raise LifecycleError(
            "No captured payment has a label yet: the ground truth names each by its transaction_id as eventId. "
            "Wait for the labels, or give another folder."
        )
    statistics = describe_quality(merged)
    return statistics, check_quality(statistics, constraints)


def write_report(statistics: dict[str, Any], violations: dict[str, Any], folder: Path | str) -> None:
    """Write the two files of a report, of whatever job, into a folder."""
    files.write_json(statistics, Path(folder) / "statistics.json")
    files.write_json(violations, Path(folder) / "constraint_violations.json")
