"""Stage 7, evaluation: the test weeks are opened once, for a champion chosen beforehand.

The champion is the model with the best mean average precision on the validation weeks. Every model of the
ladder is then scored on the test set, to show what the choice was worth. The artifact:

- ``report.json`` and ``report.html``: metrics with intervals, money, calibration, slices, weeks, the oracle;
- ``scores.parquet``: the champion's score of every payment of the test period (`lifecycle.contracts.SCORES`);
- ``test_scores.parquet``: the same for all models, one column each, with amount and label;
- ``oracle.parquet``: how close the champion comes to the known truth, by fraud mode (only for the simulated bank);
- ``model/``: the champion.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import contracts, economics, files
from lifecycle.errors import LifecycleError
from lifecycle.evaluation.own_data import describe_own, read_judged
from lifecycle.evaluation.report import write_html
from lifecycle.evaluation.uncertainty import describe_interval, resample_metrics
from lifecycle.training import CLASSIFIERS, LADDER, feature_matrix, load_model, rule_score
from lifecycle.training.metrics import average_precision, known_frauds
from lifecycle.training.tracking import REGISTERED_MODEL, has_run, log_run, register_champion

__all__ = [
    "build",
    "calibration_table",
    "choose_champion",
    "describe_interval",
    "oracle_table",
    "resample_metrics",
    "slice_table",
]

SMALL_GROUP = 20
"""A group with fewer frauds than this gets a warning: its recall is mostly luck."""


def choose_champion(validation: Mapping[str, float]) -> str:
    """Return the model with the best validation score. Rungs that leave no model to deploy are no candidates.

    Parameters
    ----------
    validation
        Model -> mean average precision on the validation weeks, from the simplest model up.
        Of equal ones, the simplest wins.

    Examples
    --------
    >>> choose_champion({"rule": 0.9, "logistic_regression": 0.5, "random_forest": 0.6})
    'random_forest'
    """
    candidates = {name: value for name, value in validation.items() if name not in LADDER or name in CLASSIFIERS}
    return max(candidates, key=lambda name: candidates[name])


def build(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Choose the champion by its validation scores, open the test set, judge, register.

    Raises
    ------
    LifecycleError
        If the test period holds no payments.
    """
    ladder = files.read_json(inputs["training"] / "ladder.json")["models"]
    tuned = files.read_json(inputs["tuning"] / "best.json")
    folders = {name: inputs["training"] / "models" / name for name in CLASSIFIERS}
    folders[tuned["name"]] = inputs["tuning"] / "model"
    candidates = {**ladder, tuned["name"]: tuned}
    champion = choose_champion({name: found["mean"]["average_precision"] for name, found in candidates.items()})

    test = pd.read_parquet(inputs["features"] / "test_set.parquet")
    if test.empty:
        raise LifecycleError(
            f"There are no payments in the test period {settings.test_from} to {settings.test_until}; "
            "give another period (--test-from, --test-until)."
        )
    scores = score_all(test, folders)
    thresholds = {name: found["threshold"] for name, found in candidates.items()}
    _write_scores(test, scores, champion, out)
    shutil.copytree(folders[champion], out / "model")

    transactions, reports = read_judged(inputs, contracts.midnight(settings.test_from))
    report = {
        "champion": _describe_champion(champion, candidates[champion], out / "model"),
        "test": _describe_test(test, settings),
        "validation": {name: {"mean": c["mean"], "std": c["std"]} for name, c in candidates.items()},
        **judge_test(test, scores, thresholds, champion, known_frauds(reports, transactions), settings),
        "slices": slice_tables(test, scores[champion], thresholds[champion], inputs, transactions, settings),
        "oracle": None,
        "own": describe_own(inputs, contracts.midnight(settings.test_from)),
        "settings": {key: getattr(settings, key) for key in _SHOWN},
    }
    if "world" in inputs:
        truth = pd.read_parquet(inputs["world"] / "answer_key" / "truth.parquet")
        table, report["oracle"] = oracle_table(test, scores, champion, thresholds[champion], truth)
        files.write_parquet(table, out / "oracle.parquet")
    digest = tuned["dataset_sha256"]
    name = REGISTERED_MODEL if "world" in inputs else f"own-data-{digest[:8]}"
    report["champion"]["registered"] = _register(settings, candidates[champion], out / "model", report, name, digest)
    files.write_json(report, out / "report.json")
    write_html(report, test, scores, out / "report.html")


_SHOWN = ("train_from", "train_until", "test_from", "test_until", "label_delay_days",
          "chargeback_fee", "review_cost", "friction_cost", "cards_per_day", "seed")  # fmt: skip


def score_all(test: pd.DataFrame, folders: Mapping[str, Path]) -> dict[str, np.ndarray]:
    """Return the scores of the rule and of every model folder: name -> float64 of shape (rows of the test set,)."""
    scores = {"rule": rule_score(test)}
    for name, folder in folders.items():
        model = load_model(folder)
        scores[name] = model.predict(feature_matrix(test, model.schema))
    return scores


def judge_test(
    test: pd.DataFrame,
    scores: Mapping[str, np.ndarray],
    thresholds: Mapping[str, float],
    champion: str,
    reports: pd.DataFrame,
    settings: Any,
) -> dict[str, Any]:
    """Return the metrics of all models on the payments whose label is known.

    Returns
    -------
    dict
        ``judged`` (False, with a ``note``, where there are not both kinds of payments), ``models`` (metrics with
        intervals), ``differences`` (champion minus the others), ``never_fraud``, ``money``, ``hindsight``,
        ``calibration``, ``weeks``, ``costliest_misses``, ``costliest_false_alarms``.
    """
    known = test["is_fraud"].notna().to_numpy()
    frauds = int(test["is_fraud"].sum())
    if frauds == 0 or frauds == int(known.sum()):
        note = (
            f"The test period has {frauds:,} known frauds in {int(known.sum()):,} payments with a known label: "
            "the scores were written, but no metric can be computed from them."
        )
        return {"judged": False, "note": note, "models": {}}
    frame = test.loc[known, ["transaction_id", "event_time", "customer_id", "terminal_id", "amount", "is_fraud"]]
    frame = frame.astype({"is_fraud": "int8"}).reset_index(drop=True)
    kept = {name: score[known] for name, score in scores.items()}
    values, resampled = resample_metrics(frame, kept, thresholds, reports, settings)
    models = {
        name: {
            "threshold": thresholds[name],
            **{key: describe_interval(value, resampled[name][key]) for key, value in values[name].items()},
        }
        for name in kept
    }
    differences = {
        name: {
            key: describe_interval(values[champion][key] - values[name][key], resampled[champion][key] - many[key])
            for key in ("average_precision", "auc", "card_precision", "savings")
        }
        for name, many in resampled.items()
        if name != champion
    }
    flagged = kept[champion] >= thresholds[champion]
    best, saved = economics.best_threshold(frame["is_fraud"], frame["amount"], kept[champion], settings)
    return {
        "judged": True,
        "models": models,
        "differences": differences,
        "never_fraud": {"accuracy": float(1 - frame["is_fraud"].mean()), "recall": 0.0, "savings": 0.0},
        "money": economics.summarize_money(frame["is_fraud"], frame["amount"], flagged, settings),
        "hindsight": {"threshold": best, "savings": saved},
        "calibration": calibration_table(frame["is_fraud"], kept[champion]),
        "weeks": _weeks(frame, kept[champion], thresholds[champion], settings),
        **_costliest(frame, kept[champion], flagged),
    }


def calibration_table(is_fraud: Any, score: np.ndarray, groups: int = 10) -> list[dict[str, float]]:
    """Compare scores with what happened, in groups of payments that expect equally many frauds.

    Groups of equal size would put nearly all fraud into one; here each group holds the same sum of scores.

    Examples
    --------
    >>> calibration_table([0, 1], np.array([0.2, 0.8]), groups=1)
    [{'from': 0.2, 'until': 0.8, 'payments': 2, 'mean_score': 0.5, 'fraud_rate': 0.5}]
    """
    fraud = np.asarray(is_fraud, dtype=np.float64)
    order = np.argsort(score, kind="stable")
    ranked, fraud = score[order], fraud[order]
    share = np.cumsum(ranked) / max(ranked.sum(), 1e-12)
    group = np.minimum((share * groups).astype(int), groups - 1)
    rows = []
    for number in np.unique(group):
        inside = group == number
        rows.append({
            "from": round(float(ranked[inside].min()), 6), "until": round(float(ranked[inside].max()), 6),
            "payments": int(inside.sum()), "mean_score": round(float(ranked[inside].mean()), 6),
            "fraud_rate": round(float(fraud[inside].mean()), 6),
        })  # fmt: skip
    return rows


def slice_table(is_fraud: np.ndarray, flagged: np.ndarray, group: pd.Series) -> list[dict[str, Any]]:
    """Return the metrics of each group, through fairlearn's MetricFrame.

    Parameters
    ----------
    is_fraud, flagged
        0 or 1, shape (n,).
    group
        The group of each payment; a missing one counts as ``"unknown"``.

    Returns
    -------
    list of dict
        ``group``, ``payments``, ``frauds``, ``alert_rate``, ``recall``, ``false_alarm_rate`` (share of honest
        payments flagged), ``precision``, and ``small`` (fewer than 20 frauds). A rate without a base is None.
    """
    from fairlearn.metrics import MetricFrame, count, false_positive_rate, selection_rate, true_positive_rate

    def frauds(y_true: np.ndarray, y_pred: np.ndarray) -> int:
        return int(np.sum(y_true))

    def hits(y_true: np.ndarray, y_pred: np.ndarray) -> int:
        return int(np.sum(np.asarray(y_true) * np.asarray(y_pred)))

    metrics = {
        "payments": count, "frauds": frauds, "hits": hits, "alert_rate": selection_rate,
        "recall": true_positive_rate, "false_alarm_rate": false_positive_rate,
    }  # fmt: skip
    names = group.astype("object").where(group.notna(), "unknown").astype(str).to_numpy()
    found = MetricFrame(
        metrics=metrics,
        y_true=np.asarray(is_fraud, dtype=int),
        y_pred=np.asarray(flagged, dtype=int),
        sensitive_features=names,
    ).by_group
    rows = []
    for name, row in found.iterrows():
        payments, fraud_count, hit = int(row["payments"]), int(row["frauds"]), int(row["hits"])
        alerts = round(row["alert_rate"] * payments)
        rows.append({
            "group": str(name), "payments": payments, "frauds": fraud_count,
            "alert_rate": round(float(row["alert_rate"]), 6),
            "recall": round(float(row["recall"]), 6) if fraud_count else None,
            "false_alarm_rate": round(float(row["false_alarm_rate"]), 6) if payments > fraud_count else None,
            "precision": round(hit / alerts, 6) if alerts else None,
            "small": fraud_count < SMALL_GROUP,
        })  # fmt: skip
    return rows


def slice_tables(
    test: pd.DataFrame,
    score: np.ndarray,
    threshold: float,
    inputs: Mapping[str, Path],
    transactions: pd.DataFrame,
    settings: Any,
) -> dict[str, list[dict[str, Any]]]:
    """Return `slice_table` by channel, region and age band, as far as these are known."""
    known = test["is_fraud"].notna().to_numpy()
    if not known.any():
        return {}
    groups: dict[str, pd.Series] = {}
    if "channel" in transactions.columns:
        by_id = transactions[["transaction_id", "channel"]]
        groups["channel"] = test[["transaction_id"]].merge(by_id, on="transaction_id", how="left")["channel"]
    if (inputs["preprocessing"] / "customers.parquet").exists():
        customers = pd.read_parquet(inputs["preprocessing"] / "customers.parquet").drop_duplicates("customer_id")
        of_test = test[["customer_id"]].merge(customers, on="customer_id", how="left")
        if "region" in of_test.columns:
            groups["region"] = of_test["region"]
        if "birth_date" in of_test.columns:
            groups["age band"] = _age_bands(of_test["birth_date"], settings.test_from)
    fraud = test.loc[known, "is_fraud"].to_numpy(dtype=int)
    flagged = score[known] >= threshold
    return {name: slice_table(fraud, flagged, group[known]) for name, group in groups.items()}


def _age_bands(birth_date: pd.Series, day: Any) -> pd.Series:
    born = pd.to_datetime(birth_date, utc=True, errors="coerce")
    years = (contracts.midnight(day) - born).dt.days / 365.25
    return pd.cut(years, [-1, 29, 44, 59, 74, 200], labels=["under 30", "30-44", "45-59", "60-74", "75 and over"])


def oracle_table(
    test: pd.DataFrame, scores: Mapping[str, np.ndarray], champion: str, threshold: float, truth: pd.DataFrame
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Compare the champion with a score that knows the hidden state of the simulated world.

    Parameters
    ----------
    truth
        The answer key: ``transaction_id``, ``is_fraud``, ``mode``, ``oracle``.

    Returns
    -------
    table, summary
        One row a fraud mode (its frauds against all honest payments), and the average precision of oracle and
        models over all payments, by the truth and by the labels as known.
    """
    merged = test[["transaction_id", "is_fraud"]].rename(columns={"is_fraud": "label"})
    merged = merged.merge(truth, on="transaction_id", how="left")
    known = merged["oracle"].notna().to_numpy() & merged["label"].notna().to_numpy()
    merged = merged[known]
    fraud, oracle = merged["is_fraud"].to_numpy(dtype=int), merged["oracle"].to_numpy()
    mode = merged["mode"].astype(str).to_numpy()
    kept = {name: score[known] for name, score in scores.items()}
    rows = []
    for name in sorted(set(mode[fraud == 1])):
        these = (fraud == 0) | (mode == name)
        rows.append({
            "mode": name,
            "frauds": int((mode == name).sum()),
            "oracle": average_precision(fraud[these], oracle[these]),
            **{model: average_precision(fraud[these], score[these]) for model, score in kept.items()},
            "champion_recall": float((kept[champion][mode == name] >= threshold).mean()),
        })  # fmt: skip
    label = merged["label"].to_numpy(dtype=int)
    everyone = {"oracle": oracle, **kept}
    summary = {
        "by_truth": {name: average_precision(fraud, score) for name, score in everyone.items()},
        "by_labels": {name: average_precision(label, score) for name, score in everyone.items()},
        "modes": rows,
    }
    summary["share_reached"] = summary["by_truth"][champion] / max(summary["by_truth"]["oracle"], 1e-12)
    return pd.DataFrame(rows), summary


def _write_scores(test: pd.DataFrame, scores: Mapping[str, np.ndarray], champion: str, out: Path) -> None:
    table = test[["transaction_id", "event_time"]].assign(score=scores[champion], is_fraud=test["is_fraud"])
    table = table.astype({"is_fraud": "Int8"}).reset_index(drop=True)
    contracts.check(table, contracts.SCORES, "scores.parquet")
    files.write_parquet(table, out / "scores.parquet")
    wide = test[["transaction_id", "event_time", "customer_id", "terminal_id", "amount", "is_fraud"]]
    files.write_parquet(wide.assign(**scores).reset_index(drop=True), out / "test_scores.parquet")


def _describe_champion(name: str, found: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    card = files.read_json(folder / "model.json")
    return {
        "name": name,
        "version": card["version"],
        "threshold": card["threshold"],
        "chosen_by": "mean average precision on the validation weeks",
        "validation_average_precision": found["mean"]["average_precision"],
        "trained_from": card["trained_from"],
        "trained_until": card["trained_until"],
        "rows": card["rows"],
        "frauds": card["frauds"],
        "run_id": found["run_id"],
    }


def _describe_test(test: pd.DataFrame, settings: Any) -> dict[str, Any]:
    labels = test["is_fraud"]
    return {
        "from": settings.test_from.isoformat(),
        "until": settings.test_until.isoformat(),
        "labels_as_of": settings.deploy_at.isoformat(),
        "payments": len(test),
        "labeled": int(labels.notna().sum()),
        "frauds": int(labels.sum()),
        "fraud_rate": float(labels.mean()) if labels.notna().any() else None,
        "customers": None if contracts.absent_entities(test[["customer_id"]]) else int(test["customer_id"].nunique()),
    }


def _weeks(frame: pd.DataFrame, score: np.ndarray, threshold: float, settings: Any) -> list[dict[str, Any]]:
    """Return the champion's metrics week by week, counted from the first test day."""
    week = (frame["event_time"] - contracts.midnight(settings.test_from)).dt.days.to_numpy() // 7
    fraud, amount = frame["is_fraud"].to_numpy(), frame["amount"].to_numpy()
    rows = []
    for number in np.unique(week):
        inside = week == number
        found = average_precision(fraud[inside], score[inside])
        rows.append({
            "week": int(number) + 1, "payments": int(inside.sum()), "frauds": int(fraud[inside].sum()),
            "average_precision": round(found, 6) if np.isfinite(found) else None,
            "savings": economics.savings(fraud[inside], amount[inside], score[inside] >= threshold, settings),
        })  # fmt: skip
    return rows


def _costliest(frame: pd.DataFrame, score: np.ndarray, flagged: np.ndarray, most: int = 10) -> dict[str, Any]:
    """Return the largest missed frauds, and the false alarms with the highest scores."""
    table = frame.assign(score=score)
    fraud = frame["is_fraud"].to_numpy() == 1
    missed = table[fraud & ~flagged].nlargest(most, "amount")
    alarms = table[~fraud & flagged].nlargest(most, "score")
    return {"costliest_misses": _records(missed), "costliest_false_alarms": _records(alarms)}


def _records(table: pd.DataFrame) -> list[dict[str, Any]]:
    ids = [name for name in ("transaction_id", "customer_id", "terminal_id") if table[name].dtype != np.int64]
    columns = ["transaction_id", "event_time", "customer_id", "terminal_id", "amount", "score"]
    return table[columns].astype({**dict.fromkeys(ids, str), "event_time": str}).to_dict("records")


def _register(
    settings: Any, found: Mapping[str, Any], folder: Path, report: Mapping[str, Any], name: str, dataset_sha256: str
) -> dict[str, str]:
    """Register the champion with what it scored on the test weeks."""
    metrics = report["models"].get(report["champion"]["name"], {})
    tags = {
        f"test_{key}": str(metrics[key]["value"]) for key in ("average_precision", "auc", "savings") if key in metrics
    }
    run_id = found["run_id"]
    if not has_run(settings.data_dir, run_id):  # the store was deleted, the artifact was not
        params = {key: report["settings"][key] for key in ("train_from", "train_until", "seed")}
        dataset = {"name": "training_set", "digest": dataset_sha256}
        run_id = log_run(settings.data_dir, report["champion"]["name"], params, found["mean"], dataset, {}, folder)
    version = register_champion(settings.data_dir, run_id, folder, tags, name)
    return {"model": name, "version": version, "alias": "champion"}
