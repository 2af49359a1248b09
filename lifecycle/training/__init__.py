"""Stage 5, training: a ladder of models, from a rule anyone can read to gradient boosting.

Every rung is fitted and scored on the same time-ordered folds, with the labels that were known when the
fold's week began, and then fitted once more on the whole training period. The artifact:

- ``ladder.json``: metrics of every rung, by fold, with mean and standard deviation; what each rung adds, with its
  interval; thresholds; MLflow run ids;
- ``out_of_fold.parquet``: the scores of the validation weeks, one column a rung;
- ``models/<name>/``: the fitted models as ONNX (see `lifecycle.training.artifact`).
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
from threadpoolctl import threadpool_limits

from lifecycle import economics, files
from lifecycle.contracts import labels_as_of, midnight
from lifecycle.errors import LifecycleError
from lifecycle.training.artifact import (
    MODEL_FILES,
    Model,
    feature_matrix,
    feature_names,
    load_model,
    save_model,
    write_card,
)
from lifecycle.training.metrics import ladder_steps, ranking_metrics
from lifecycle.training.reading import TrainingData, read_data
from lifecycle.training.tracking import code_version, draw_precision_recall, log_run, open_tracking

__all__ = [
    "CLASSIFIERS",
    "DETECTOR",
    "LADDER",
    "MODEL_FILES",
    "PARAMS",
    "RULE",
    "Fold",
    "Model",
    "TrainingData",
    "build",
    "card_facts",
    "feature_matrix",
    "dataset_facts",
    "feature_names",
    "fit_model",
    "folds",
    "judge",
    "known_rows",
    "load_model",
    "make_model",
    "open_tracking",
    "out_of_fold",
    "read_training",
    "rule_score",
    "sample_honest",
    "save_model",
    "score_rows",
    "side_by_side",
    "track",
    "write_card",
]

DETECTOR = "isolation_forest"
"""The rung that learns without labels: it finds what is rare, not what is fraud."""

CLASSIFIERS = ("logistic_regression", "random_forest", "gradient_boosting")
"""The rungs that learn from labels. They give probabilities, are kept as ONNX, and may become the champion."""

LADDER = ("rule", DETECTOR, *CLASSIFIERS)
"""The rungs, from the simplest up."""

RULE = (
    {"feature": "amount_to_mean_30d", "at_least": 5.0, "points": 2},
    {"feature": "terminal_fraud_30d", "at_least": 2.0, "points": 2},
    {"feature": "customer_count_1h", "at_least": 3.0, "points": 2},
    {"feature": "distance_from_home", "at_least": 50.0, "points": 1},
    {"feature": "is_night", "at_least": 1.0, "points": 1},
)
"""The rule: points for five times the usual amount, fraud reports at the terminal, a burst, a far place, the night."""

PARAMS: Mapping[str, Mapping[str, Any]] = {
    DETECTOR: {"n_estimators": 60, "max_samples": 1_024},
    "logistic_regression": {"C": 0.1, "max_iter": 300},
    "random_forest": {"n_estimators": 40, "min_samples_leaf": 5, "max_features": "sqrt", "max_samples": 0.5},
    "gradient_boosting": {
        "learning_rate": 0.1,
        "max_iter": 100,
        "max_leaf_nodes": 15,
        "min_samples_leaf": 50,
        "l2_regularization": 10.0,
    },
}
"""Hyperparameters of the ladder: near the library's defaults, held back a little since fraud is rare."""


HONEST_ROWS = 60_000
"""Most honest payments a rung is fitted on. They are drawn at random, and each then counts for several."""

BLOCK_ROWS = 16_384
"""Rows that boosting scores at a time."""


@dataclass(frozen=True)
class Fold:
    """One step of the time-ordered validation.

    Attributes
    ----------
    number
        1 for the earliest.
    from_, until
        The validation period [from_, until). Labels for fitting are those known at `from_`.
    fit, fit_labels
        Row positions, and what was believed about these rows at `from_` (int8).
    validation, validation_labels
        Row positions, and what was believed about these rows when the model is chosen (int8).
    """

    number: int
    from_: pd.Timestamp
    until: pd.Timestamp
    fit: np.ndarray
    fit_labels: np.ndarray
    validation: np.ndarray
    validation_labels: np.ndarray


def known_rows(frame: pd.DataFrame, labels: pd.DataFrame, moment: pd.Timestamp) -> tuple[np.ndarray, np.ndarray]:
    """Return which payments can be learned from at `moment`, and their labels as believed then.

    Near the end of the known period only fraud is known, since a chargeback can arrive before the delay is
    over and a clean bill cannot. Rows after the last known honest payment are left out: they would teach
    the model that recent payments are fraud.

    Parameters
    ----------
    frame
        Payments with ``transaction_id`` and ``event_time``, in any order.
    labels
        The label history (`lifecycle.contracts.LABELS`).
    moment
        Only labels known at this time count, and only payments before it.

    Returns
    -------
    rows, is_fraud
        Positions in `frame` (int64, rising) and labels (int8).
    """
    values = _believed(frame, labels, moment)
    times = frame["event_time"].dt.tz_localize(None).to_numpy()
    usable = ~np.isnan(values) & (times < moment.tz_localize(None).to_datetime64())
    honest = usable & (values == 0)
    if honest.any():
        usable &= times <= times[honest].max()
    rows = np.flatnonzero(usable)
    return rows, values[rows].astype(np.int8)


def _believed(frame: pd.DataFrame, labels: pd.DataFrame, moment: pd.Timestamp) -> np.ndarray:
    """Return the label of each payment as believed at `moment`, float64, NaN where nothing was known."""
    known = labels_as_of(labels, moment)
    positions = pd.Index(frame["transaction_id"]).get_indexer(known["transaction_id"])
    values = np.full(len(frame), np.nan)
    values[positions[positions >= 0]] = known["is_fraud"].to_numpy()[positions >= 0]
    return values


def folds(frame: pd.DataFrame, labels: pd.DataFrame, settings: Any) -> list[Fold]:
    """Cut the training period into time-ordered folds that respect the label delay.

    The last ``settings.folds`` periods of ``settings.fold_days`` days are validated, each with a model fitted
    on everything known when it began. A short period gets fewer and shorter folds. If it is too short for any,
    one fold is cut at two thirds of the rows and fitted with the labels known at ``test_from``.

    Parameters
    ----------
    frame
        The training set, with ``transaction_id`` and ``event_time``.
    labels
        The label history.
    settings
        With ``train_from``, ``train_until``, ``test_from``, ``folds``, ``fold_days`` and ``label_delay_days``.

    Raises
    ------
    LifecycleError
        If no fold has fraud and honest payments on both sides.
    """
    verdict = _believed(frame, labels, midnight(settings.test_from))
    made: list[Fold] = []
    for from_, until in _fold_periods(settings):
        inside = (frame["event_time"] >= from_) & (frame["event_time"] < until)
        validation = np.flatnonzero(inside.to_numpy() & ~np.isnan(verdict))
        fit, fit_labels = known_rows(frame, labels, from_)
        judged = verdict[validation].astype(np.int8)
        if _both(fit_labels) and _both(judged):
            made.append(Fold(len(made) + 1, from_, until, fit, fit_labels, validation, judged))
    return made or [_last_resort(frame, labels, settings)]


def _fold_periods(settings: Any) -> list[tuple[pd.Timestamp, pd.Timestamp]]:
    """Return the validation periods: as asked, or fewer and shorter where the training period is short."""
    length = (settings.train_until - settings.train_from).days
    count, days = settings.folds, settings.fold_days
    needed = settings.label_delay_days + length / 4
    while count > 1 and length - count * days < needed:
        count -= 1
    if length - count * days < needed:
        days = max(1, (length - settings.label_delay_days) // 3)
    ends = [settings.train_until - timedelta(days=days * step) for step in range(count)][::-1]
    return [(midnight(end - timedelta(days=days)), midnight(end)) for end in ends]


def _both(labels: np.ndarray) -> bool:
    """Whether there is fraud and honesty to learn from: at least two of each."""
    frauds = int(labels.sum())
    return frauds >= 2 and len(labels) - frauds >= 2


def _last_resort(frame: pd.DataFrame, labels: pd.DataFrame, settings: Any) -> Fold:
    rows, known = known_rows(frame, labels, midnight(settings.test_from))
    order = rows[np.argsort(frame["event_time"].to_numpy()[rows], kind="stable")]
    known = pd.Series(known, index=rows).loc[order].to_numpy()
    cut = len(order) * 2 // 3
    if not (_both(known[:cut]) and _both(known[cut:])):
        raise LifecycleError(
            f"The training period {settings.train_from} to {settings.train_until} has {int(known.sum()):,} known "
            f"frauds in {len(known):,} payments with a known label: too few to fit and to validate a model; "
            "give a longer period (--train-from, --train-until) or labels that are known earlier."
        )
    from_, until = frame["event_time"].iloc[order[cut]], midnight(settings.train_until)
    return Fold(1, from_, until, order[:cut], known[:cut], order[cut:], known[cut:])


def rule_score(frame: pd.DataFrame) -> np.ndarray:
    """Return the score of the rule: the share of its points that a payment collects, float64 in [0, 1].

    A condition whose feature is not in the table is left out; a missing value collects no points.

    Examples
    --------
    >>> rule_score(pd.DataFrame({"amount_to_mean_30d": [1.0, 9.0], "customer_count_1h": [4.0, 4.0]})).tolist()
    [0.5, 1.0]
    """
    conditions = [c for c in RULE if c["feature"] in frame.columns]
    points = np.zeros(len(frame))
    for condition in conditions:
        points += condition["points"] * (frame[condition["feature"]].to_numpy() >= condition["at_least"])
    return points / max(sum(c["points"] for c in conditions), 1)


def make_model(name: str, names: list[str], seed: int, **params: Any) -> Any:
    """Return an unfitted scikit-learn model over the feature matrix.

    Parameters
    ----------
    name
        A rung of `LADDER` other than the rule.
    names
        The feature names, in the order of the matrix.
    seed
        For what is random in fitting.
    **params
        Hyperparameters; they replace those of `PARAMS`.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier, IsolationForest, RandomForestClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    if name not in PARAMS:
        raise LifecycleError(f"There is no model {name!r}; the models are {', '.join(PARAMS)}.")
    chosen = {**PARAMS[name], **params}
    if name in ("logistic_regression", DETECTOR):
        from lifecycle.preprocessing import make_encoder

        last = LogisticRegression if name == "logistic_regression" else IsolationForest
        return make_pipeline(make_encoder(names, "linear"), last(random_state=seed, **chosen))
    if name == "random_forest":
        return RandomForestClassifier(random_state=seed, **chosen)
    return HistGradientBoostingClassifier(random_state=seed, early_stopping=False, **chosen)


def sample_honest(is_fraud: np.ndarray, most: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Keep every fraud and at most `most` honest payments, with weights that restore the true proportions.

    Returns
    -------
    rows, weight
        Positions (rising) and weights: 1 for a fraud, honest payments / kept ones for the rest (float64).

    Examples
    --------
    >>> rows, weight = sample_honest(np.array([0, 1, 0, 0, 0]), 2, seed=0)
    >>> len(rows), weight.sum()
    (3, np.float64(5.0))
    """
    honest = np.flatnonzero(is_fraud == 0)
    kept = honest
    if len(honest) > most:
        kept = np.random.default_rng(seed).choice(honest, most, replace=False)
    rows = np.sort(np.concatenate([np.flatnonzero(is_fraud == 1), kept]))
    weight = np.where(is_fraud[rows] == 1, 1.0, len(honest) / max(len(kept), 1))
    return rows, weight


def fit_model(
    name: str,
    matrix: np.ndarray,
    is_fraud: np.ndarray,
    names: list[str],
    seed: int,
    honest_rows: int = HONEST_ROWS,
    **params: Any,
) -> Any:
    """Fit one rung.

    Parameters
    ----------
    name, names, seed, **params
        As in `make_model`.
    matrix, is_fraud
        float32 of shape (n, features), and 0 or 1 of shape (n,). The detector does not look at the labels.
    honest_rows
        Fit on so many honest payments at most (see `sample_honest`); the detector, on so many payments of any kind.

    Returns
    -------
    estimator
        Fitted on one thread: several fits run side by side better than one fit on several threads.

    Raises
    ------
    LifecycleError
        If there is no fraud, or nothing but fraud, to learn from.
    """
    if name == DETECTOR:
        rows = np.random.default_rng(seed).choice(len(matrix), min(len(matrix), honest_rows), replace=False)
        chosen = {**PARAMS[name], **params}
        chosen["max_samples"] = min(chosen["max_samples"], len(rows))
        return make_model(name, names, seed, **chosen).fit(matrix[np.sort(rows)])
    frauds = int(is_fraud.sum())
    if frauds == 0 or frauds == len(is_fraud):
        raise LifecycleError(
            f"The training rows hold {frauds:,} frauds in {len(is_fraud):,} payments: a model needs both kinds; "
            "check the labels, or choose another training period."
        )
    model = make_model(name, names, seed, **params)
    rows, weight = sample_honest(is_fraud, honest_rows, seed)
    with threadpool_limits(1, user_api="openmp"):
        if name == "logistic_regression":
            return model.fit(matrix[rows], is_fraud[rows], **{f"{model.steps[-1][0]}__sample_weight": weight})
        # With weights, boosting sorts every feature anew for every bin, and a forest draws rows by weight: most of
        # the time in the one, several times as many rows in the other, and no better ranking in either.
        return _restore_rate(model.fit(matrix[rows], is_fraud[rows]), weight.max())


def _restore_rate(model: Any, weight: float) -> Any:
    """Take back from a model of trees what drawing one of `weight` honest payments did to its odds.

    The prior correction of King and Zeng, "Logistic regression in rare events data", Political Analysis 9 (2001):
    in boosting the intercept, in a forest the shares in every leaf.
    """
    if hasattr(model, "_baseline_prediction"):
        model._baseline_prediction = model._baseline_prediction - np.log(weight)
        return model
    for estimator in model.estimators_:
        shares = estimator.tree_.value  # a view: what is changed here is what the tree predicts
        shares[:, :, 0] *= weight
        shares /= shares.sum(axis=2, keepdims=True)
    return model


def score_rows(model: Any, matrix: np.ndarray) -> np.ndarray:
    """Return the score of each row by a fitted rung, float64 of shape (n,) in [0, 1], on one thread.

    For the classifiers it is the probability of fraud; for the detector, how soon random cuts set a payment apart
    (Liu, Ting and Zhou, "Isolation forest", ICDM 2008), which is no probability.
    """
    from sklearn.ensemble import HistGradientBoostingClassifier

    with threadpool_limits(1, user_api="openmp"):
        if isinstance(model, HistGradientBoostingClassifier):
            # Each tree passes over all rows it is given: blocks that stay in the processor's cache take half the time.
            starts = range(0, max(len(matrix), 1), BLOCK_ROWS)
            return np.concatenate([model.predict_proba(matrix[at : at + BLOCK_ROWS])[:, 1] for at in starts])
        if hasattr(model, "predict_proba"):
            return model.predict_proba(matrix)[:, 1]
        return -model.score_samples(matrix)


def side_by_side(function: Callable[..., Any], jobs: Iterable[tuple[Any, ...]]) -> list[Any]:
    """Call a function on each tuple of arguments, on all cores, and return the results in the order of the jobs."""
    import joblib

    return joblib.Parallel(n_jobs=-1, prefer="threads")(joblib.delayed(function)(*job) for job in jobs)


def read_training(inputs: Mapping[str, Path], settings: Any) -> TrainingData:
    """Read the training data from the features and preprocessing artifacts; of a large file, a sample (`read_data`).

    Raises
    ------
    LifecycleError
        If no payment of the training period has a known label.
    """
    folder = inputs["features"]
    if not pq.read_metadata(folder / "training_set.parquet").num_rows:
        raise LifecycleError(
            f"There are no payments with a known label in the training period {settings.train_from} to "
            f"{settings.train_until}; give another period (--train-from, --train-until)."
        )
    schema = files.read_json(folder / "schema.json")
    payments = inputs["preprocessing"] / "transactions.parquet"
    return read_data(folder / "training_set.parquet", folder / "labels.parquet", payments, schema, settings.most_rows)


def build(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Climb the ladder: validate every rung on the folds, fit it on all, keep and track it."""
    with ThreadPoolExecutor(1) as meanwhile:
        meanwhile.submit(open_tracking, settings.data_dir)  # MLflow takes seconds to start, and fits use little Python
        data = read_training(inputs, settings)
        cuts = folds(data.frame, data.labels, settings)
        rows, known = known_rows(data.frame, data.labels, midnight(settings.test_from))
        fitted, scores, seconds = _fit_all(data, cuts, rows, known, settings)
    models = {name: judge(data.frame, scores[name], data.reports, cuts, settings, data.share) for name in LADDER}
    for name, model in fitted.items():
        facts = card_facts(name, models[name]["threshold"], settings, rows, known)
        save_model(model, data.schema, out / "models" / name, sample=data.matrix[rows[-20_000:]], **facts)
    files.write_parquet(out_of_fold(data.frame, scores, cuts), out / "out_of_fold.parquet")
    lineage = dataset_facts(inputs, data.schema, settings)
    for name in LADDER:
        if name in PARAMS:
            models[name] |= {"params": dict(PARAMS[name]), "fit_seconds": seconds[name]}
        curve = draw_precision_recall(name, [(fold.validation_labels, scores[name][fold.validation]) for fold in cuts])
        folder = out / "models" / name if name in fitted else None
        models[name]["run_id"] = track(settings, name, models[name], lineage, folder, figure=curve)
    ladder = {
        "models": models,
        "steps": ladder_steps(models),
        "folds": [_describe(fold) for fold in cuts],
        "rule": [dict(condition) for condition in RULE],
        "cards_per_day": settings.cards_per_day,
        "honest_rows": HONEST_ROWS,
        "share_of_payments": data.share,
        "fit_rows": len(rows),
        "fit_frauds": int(known.sum()),
        **lineage,
    }
    files.write_json(ladder, out / "ladder.json")


def card_facts(name: str, threshold: float, settings: Any, rows: np.ndarray, known: np.ndarray) -> dict[str, Any]:
    """Return what ``model.json`` says about a model fitted on the whole training period."""
    return {
        "name": name,
        "threshold": threshold,
        "trained_from": settings.train_from.isoformat(),
        "trained_until": settings.train_until.isoformat(),
        "labels_as_of": settings.test_from.isoformat(),
        "rows": len(rows),
        "frauds": int(known.sum()),
        "code_version": code_version(),
    }


def dataset_facts(
    inputs: Mapping[str, Path], schema: Mapping[str, Any], settings: Any, stage: str = "training"
) -> dict[str, Any]:
    """Return what identifies the data, the features and the code of a run of a stage.

    ``files`` names every file that `read_training` reads, relative to the data folder, with its SHA-256.
    """
    read = [inputs["features"] / name for name in ("training_set.parquet", "labels.parquet", "schema.json")]
    read.append(inputs["preprocessing"] / "transactions.parquet")
    root = Path(settings.data_dir).resolve()
    hashes = {Path(os.path.relpath(Path(path).resolve(), root)).as_posix(): files.sha256(path) for path in read}
    return {
        "dataset_sha256": next(iter(hashes.values())),
        "schema_sha256": schema["sha256"],
        "features": feature_names(schema),
        "files": hashes,
        "code_version": code_version(stage),
        "train_from": settings.train_from.isoformat(),
        "train_until": settings.train_until.isoformat(),
        "seed": settings.seed,
    }


def _fit_all(
    data: TrainingData, cuts: list[Fold], rows: np.ndarray, known: np.ndarray, settings: Any
) -> tuple[dict[str, Any], dict[str, np.ndarray], dict[str, list[float]]]:
    """Fit every rung on each fold and the classifiers on all known rows too, in one go, so that no core waits.

    Returns
    -------
    fitted, scores, seconds
        The final classifiers; out-of-fold scores of every rung (NaN outside the validation periods); the seconds of
        each fit on a fold.
    """
    names = feature_names(data.schema)

    def fit(name: str, fold: Fold | None) -> tuple[Any, float]:
        learn, labels = (rows, known) if fold is None else (fold.fit, fold.fit_labels)
        began = time.perf_counter()
        model = fit_model(name, data.matrix[learn], labels, names, settings.seed)
        took = round(time.perf_counter() - began, 2)
        return (model if fold is None else score_rows(model, data.matrix[fold.validation])), took

    wholes: list[Fold | None] = [None]
    jobs = [
        (name, fold)
        for name in ("random_forest", "gradient_boosting", "logistic_regression", DETECTOR)  # the longest first
        for fold in (wholes if name in CLASSIFIERS else []) + cuts[::-1]
    ]
    found = dict(zip(((name, fold and fold.number) for name, fold in jobs), side_by_side(fit, jobs), strict=True))
    scores = {name: np.full(len(data.frame), np.nan) for name in LADDER}
    for fold in cuts:
        scores["rule"][fold.validation] = rule_score(data.frame.iloc[fold.validation])
        for name in LADDER[1:]:
            scores[name][fold.validation] = found[name, fold.number][0]
    seconds = {name: [found[name, fold.number][1] for fold in cuts] for name in LADDER[1:]}
    return {name: found[name, None][0] for name in CLASSIFIERS}, scores, seconds


def judge(
    frame: pd.DataFrame,
    score: np.ndarray,
    reports: pd.DataFrame,
    cuts: list[Fold],
    settings: Any,
    share: float = 1.0,
) -> dict[str, Any]:
    """Return the metrics of one rung by fold, their mean and spread, and its best threshold by money.

    `share` is the share of all payments that `frame` holds. A sample of customers has fewer suspects a day: as large a
    share of the cards that a team can check are checked, and savings are stated for all payments.
    """
    cards = settings.cards_per_day * share
    by_fold = [
        ranking_metrics(frame.iloc[fold.validation], score[fold.validation], fold.validation_labels, reports, cards)
        for fold in cuts
    ]
    metrics = {key: [round(one[key], 6) for one in by_fold] for key in by_fold[0]}
    rows = np.concatenate([fold.validation for fold in cuts])
    judged = np.concatenate([fold.validation_labels for fold in cuts])
    amount = frame["amount"].to_numpy()[rows]
    threshold, saved = economics.best_threshold(judged, amount, score[rows], settings)
    return {
        **metrics,
        "mean": {key: float(np.mean(values)) for key, values in metrics.items()},
        "std": {key: float(np.std(values, ddof=1)) if len(values) > 1 else 0.0 for key, values in metrics.items()},
        "threshold": threshold,
        "savings": round(saved / share, 2),
    }


def out_of_fold(frame: pd.DataFrame, scores: Mapping[str, np.ndarray], cuts: list[Fold]) -> pd.DataFrame:
    """Return the validation rows of all folds with their scores, one column a model, and the labels of then."""
    parts = []
    for fold in cuts:
        part = frame.iloc[fold.validation][["transaction_id", "event_time", "amount"]].reset_index(drop=True)
        part["fold"] = np.int8(fold.number)
        part["is_fraud"] = fold.validation_labels
        parts.append(part.assign(**{name: score[fold.validation] for name, score in scores.items()}))
    return pd.concat(parts, ignore_index=True)


def _describe(fold: Fold) -> dict[str, Any]:
    return {
        "fold": fold.number,
        "from": str(fold.from_.date()),
        "until": str(fold.until.date()),
        "fit_rows": len(fold.fit),
        "fit_frauds": int(fold.fit_labels.sum()),
        "rows": len(fold.validation),
        "frauds": int(fold.validation_labels.sum()),
    }


def track(
    settings: Any,
    name: str,
    found: Mapping[str, Any],
    lineage: Mapping[str, Any],
    folder: Path | None,
    stage: str = "training",
    kind: str | None = None,
    figure: Any = None,
) -> str:
    """Record one fitted and judged model in MLflow, and return the id of its run.

    `kind` is the rung that it is a model of, where the model has a name of its own. Everything that
    `lifecycle.training.rebuilding.rebuild` needs is recorded: hyperparameters and settings as parameters; data,
    features and code as hashes; the list of features and of files read as attachments.
    """
    metrics = {key: values for key, values in found.items() if isinstance(values, list) and key != "fit_seconds"}
    means = {f"mean_{key}": value for key, value in found["mean"].items()}
    spreads = {f"std_{key}": value for key, value in found["std"].items()}
    knobs = {key: value for key, value in settings.values().items() if key != "data_dir"}
    attachments = {"features.json": {"features": lineage["features"]}, "files.json": lineage["files"]}
    if figure is not None:
        attachments["figures/precision_recall.png"] = figure
    tags = {key: lineage[key] for key in ("schema_sha256", "code_version")} | {"stage": stage, "kind": kind or name}
    if folder is not None:
        card = files.read_json(folder / "model.json")
        tags |= {"model_version": card["version"], "model_sha256": card["sha256"]["model.onnx"]}
    return log_run(
        settings.data_dir,
        name,
        {**found.get("params", {}), **knobs, "honest_rows": HONEST_ROWS},
        {**metrics, **means, **spreads, "savings": found["savings"], "threshold": found["threshold"]},
        {"name": "training_set", "digest": lineage["dataset_sha256"]},
        tags,
        folder,
        attachments,
    )
