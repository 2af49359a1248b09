"""Stage 7, evaluation: the test weeks are opened once, for a champion chosen beforehand.

The champion is the model with the best mean average precision on the validation weeks. Every model of the
ladder is then scored on the test set, to show what the choice was worth. The artifact:

- ``report.json`` and ``report.html``: metrics with intervals, money, calibration, slices and what treating groups alike
  would cost, failures read one by one, behavior, weeks, the oracle;
- ``scores.parquet``: the champion's score of every payment of the test period (`lifecycle.contracts.SCORES`);
- ``test_scores.parquet``: the same for all models, one column each, with amount and label;
- ``oracle.parquet``: how close the champion comes to the known truth, by fraud mode (only for the simulated bank);
- ``reach.json`` and ``drift.json``: what lies beyond the score (only for the simulated bank, see `beyond`);
- ``model/``: the champion, with its model card (``model_card.json``, ``.md`` and ``.html``).
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from lifecycle import contracts, economics, files
from lifecycle.errors import LifecycleError
from lifecycle.evaluation.behavior import check_behavior
from lifecycle.evaluation.beyond import write_beyond
from lifecycle.evaluation.calibration import calibration_table, judge_calibration
from lifecycle.evaluation.failures import read_failures
from lifecycle.evaluation.fairness import SMALL_GROUP, judge_fairness, slice_table
from lifecycle.evaluation.model_card import write_model_card
from lifecycle.evaluation.openings import Choice, open_test
from lifecycle.evaluation.own_data import describe_own, read_judged
from lifecycle.evaluation.report import write_html
from lifecycle.evaluation.scoring import ScoredTest, describe_sample, for_all, score_test
from lifecycle.evaluation.uncertainty import resample_metrics
from lifecycle.training import CLASSIFIERS, LADDER, load_model
from lifecycle.training.metrics import average_precision, describe_interval, known_frauds
from lifecycle.training.tracking import REGISTERED_MODEL, has_run, log_run, register_champion

__all__ = [
    "SMALL_GROUP",
    "build",
    "calibration_table",
    "choose_champion",
    "describe_interval",
    "oracle_table",
    "resample_metrics",
    "slice_table",
]


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
    ladder = files.read_json(inputs["training"] / "ladder.json")
    tuned = files.read_json(inputs["tuning"] / "best.json")
    folders = {name: inputs["training"] / "models" / name for name in CLASSIFIERS}
    folders[tuned["name"]] = inputs["tuning"] / "model"
    candidates = {**ladder["models"], tuned["name"]: tuned}
    champion = choose_champion({name: found["mean"]["average_precision"] for name, found in candidates.items()})

    chosen = candidates[champion]
    choice = Choice(champion, chosen["mean"]["average_precision"], chosen["threshold"])
    path, opening = open_test(inputs["features"], choice, settings)
    if not pq.read_metadata(path).num_rows:
        raise LifecycleError(
            f"There are no payments in the test period {settings.test_from} to {settings.test_until}; "
            "give another period (--test-from, --test-until)."
        )
    tested = score_test(path, folders, champion, out, settings.most_rows)
    shutil.copytree(folders[champion], out / "model")
    report = {
        "champion": _describe_champion(champion, chosen, out / "model"),
        "opening": opening,
        "test": _describe_test(tested.facts, settings),
        "sample": describe_sample(tested, ladder.get("share_of_payments", 1.0), settings.most_rows),
        "validation": {name: {"mean": c["mean"], "std": c["std"]} for name, c in candidates.items()},
        **_judge(tested, candidates, champion, inputs, out, settings),
    }
    report["lineage"] = _describe_lineage(inputs["features"], out / "model", tuned["dataset_sha256"])
    if "second:features" in inputs:
        write_beyond(settings, inputs, out, tested, champion, chosen, load_model(out / "model"))
    digest = tuned["dataset_sha256"]
    name = REGISTERED_MODEL if "world" in inputs else f"own-data-{digest[:8]}"
    report["champion"]["registered"] = _register(settings, chosen, out / "model", report, name, digest)
    files.write_json(report, out / "report.json")
    write_model_card(report, out / "model")
    write_html(report, tested.frame, tested.scores, out / "report.html")


def _judge(
    tested: ScoredTest,
    candidates: Mapping[str, Any],
    champion: str,
    inputs: Mapping[str, Path],
    out: Path,
    settings: Any,
) -> dict[str, Any]:
    """Return what the report says of the scores; of a sample, counts and sums of money are those of all payments."""
    test, scores, share = tested.frame, tested.scores, tested.share
    thresholds = {name: found["threshold"] for name, found in candidates.items()}
    mine, truth = scores[champion], _truth(inputs)
    transactions, reports = read_judged(inputs, test["transaction_id"])
    known = known_frauds(reports, transactions)
    report = {
        **judge_test(test, scores, thresholds, champion, known, settings, share),
        **for_all(judge_fairness(test, mine, champion, thresholds[champion], inputs, transactions, settings), share),
        "oracle": None,
        "own": describe_own(inputs, contracts.midnight(settings.test_from)),
        "settings": {key: getattr(settings, key) for key in _SHOWN},
        **_judge_cases(test, mine, out / "model", reports, transactions, truth, settings),
    }
    reasons = report["failures"]["reasons"]
    report["failures"]["reasons"] = {**for_all(reasons, share), "by_signal": reasons["by_signal"]}
    if truth is not None:
        table, oracle = oracle_table(test, scores, champion, thresholds[champion], truth)
        report["oracle"] = for_all(oracle, share)
        files.write_parquet(table, out / "oracle.parquet")
    return report


_SHOWN = ("train_from", "train_until", "test_from", "test_until", "label_delay_days",
          "chargeback_fee", "review_cost", "friction_cost", "cards_per_day", "seed")  # fmt: skip


def judge_test(
    test: pd.DataFrame,
    scores: Mapping[str, np.ndarray],
    thresholds: Mapping[str, float],
    champion: str,
    reports: pd.DataFrame,
    settings: Any,
    share: float = 1.0,
) -> dict[str, Any]:
    """Return the metrics of all models on the payments whose label is known.

    Returns
    -------
    dict
        ``judged`` (False, with a ``note``, where there are not both kinds of payments), ``models`` (metrics with
        intervals), ``differences`` (champion minus the others), ``never_fraud``, ``money``, ``hindsight``,
        ``calibration`` and ``balance``, ``weeks``, ``costliest_misses``, ``costliest_false_alarms``. Counts and sums
        of money are those of all payments, of which `test` holds a `share`.
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
    flagged = kept[champion] >= thresholds[champion]
    best, saved = economics.best_threshold(frame["is_fraud"], frame["amount"], kept[champion], settings)
    found = {
        "judged": True,
        **_compare(frame, kept, thresholds, champion, reports, settings, share),
        "never_fraud": {"accuracy": float(1 - frame["is_fraud"].mean()), "recall": 0.0, "savings": 0.0},
        "money": economics.summarize_money(frame["is_fraud"], frame["amount"], flagged, settings),
        "hindsight": {"threshold": best, "savings": saved},
        **judge_calibration(frame, kept[champion], settings.seed),
        "weeks": _weeks(frame, kept[champion], thresholds[champion], settings),
    }
    return {**for_all(found, share), **_costliest(frame, kept[champion], flagged)}


def _compare(
    frame: pd.DataFrame,
    scores: Mapping[str, np.ndarray],
    thresholds: Mapping[str, float],
    champion: str,
    reports: pd.DataFrame,
    settings: Any,
    share: float,
) -> dict[str, Any]:
    """Return the metrics of each model, and what the champion is ahead of each other one, with intervals."""
    values, resampled = resample_metrics(frame, scores, thresholds, reports, settings, share=share)
    models = {
        name: {
            "threshold": thresholds[name],
            **{key: describe_interval(value, resampled[name][key]) for key, value in values[name].items()},
        }
        for name in scores
    }
    differences = {
        name: {
            key: describe_interval(values[champion][key] - values[name][key], resampled[champion][key] - many[key])
            for key in ("average_precision", "auc", "card_precision", "savings")
        }
        for name, many in resampled.items()
        if name != champion
    }
    return {"models": models, "differences": differences}


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


def _describe_test(facts: Mapping[str, Any], settings: Any) -> dict[str, Any]:
    return {
        "from": settings.test_from.isoformat(),
        "until": settings.test_until.isoformat(),
        "labels_as_of": settings.deploy_at.isoformat(),
        "payments": facts["payments"],
        "labeled": facts["labeled"],
        "frauds": facts["frauds"],
        "fraud_rate": facts["frauds"] / facts["labeled"] if facts["labeled"] else None,
        "customers": facts["customers"],
    }


def _truth(inputs: Mapping[str, Path]) -> pd.DataFrame | None:
    """Return the answer key of the simulated bank; None for a file of one's own."""
    if "world" not in inputs:
        return None
    return pd.read_parquet(inputs["world"] / "answer_key" / "truth.parquet")


def _judge_cases(
    test: pd.DataFrame,
    score: np.ndarray,
    folder: Path,
    reports: pd.DataFrame,
    transactions: pd.DataFrame,
    truth: pd.DataFrame | None,
    settings: Any,
) -> dict[str, Any]:
    """Return the failures read one by one, and what the champion does when payments are changed."""
    model = load_model(folder)
    places = transactions[["transaction_id", "terminal_id"]]
    placed = reports[["transaction_id", "known_at"]].merge(places, on="transaction_id")
    return {
        "failures": read_failures(test, score, model, model.threshold, placed, truth, settings),
        "behavior": check_behavior(model, test, model.threshold, settings.seed),
    }


def _describe_lineage(features: Path, model: Path, training_sha256: str) -> dict[str, str]:
    """Return the SHA-256 of what the champion was made of and judged on, and the version of the code."""
    facts = files.read_json(model / "model.json")
    return {
        "training_set.parquet": training_sha256,
        **{name: files.sha256(features / name) for name in ("test_set.parquet", "labels.parquet")},
        **{name: facts["sha256"][name] for name in ("model.onnx", "feature_schema.json")},
        "code_version": facts.get("code_version", "not recorded"),
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
