"""Stage 6, tuning: search the hyperparameters of gradient boosting on the time-ordered folds.

Parameters are learned from data; hyperparameters are chosen by whoever fits, here by Optuna. The artifact:

- ``best.json``: the hyperparameters found, their importance, the validation metrics, the threshold;
- ``trials.parquet``: one row a trial, with its hyperparameters, its score on each fold, its state and seconds;
- ``study.db``: the Optuna study (SQLite); while it runs it is in ``<data_dir>/studies``, so that it can be resumed;
- ``lattice.parquet``: every setting of a small grid, with its score on each fold and in the second world;
- ``replays.parquet``: Optuna, random and grid search over that lattice at the same number of fits, by seed;
- ``optimism.parquet``: what the best of n settings promises, and what it keeps in the second world;
- ``out_of_fold.parquet``: the tuned model's scores of the validation weeks;
- ``model/``: the tuned model, fitted on the whole training period with the labels known at ``test_from``.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import files
from lifecycle.contracts import midnight
from lifecycle.training import (
    HONEST_ROWS,
    PARAMS,
    Fold,
    TrainingData,
    card_facts,
    dataset_facts,
    feature_names,
    fit_model,
    folds,
    judge,
    known_rows,
    open_tracking,
    out_of_fold,
    read_training,
    save_model,
    score_rows,
    side_by_side,
    track,
)
from lifecycle.training.metrics import average_precision
from lifecycle.tuning.comparing import (
    LATTICE_ROWS,
    METHODS,
    SEEDS,
    SPACE,
    Second,
    evaluate_lattice,
    measure_optimism,
    read_second,
    replay_searches,
    run_search,
)
from lifecycle.tuning.studies import PageBar, finished, run_study

__all__ = [
    "LATTICE_ROWS",
    "METHODS",
    "SEEDS",
    "SPACE",
    "build",
    "evaluate_lattice",
    "measure_optimism",
    "read_second",
    "replay_searches",
    "run_search",
    "run_study",
    "score_folds",
    "search",
    "suggest",
    "tabulate",
    "weigh_hyperparameters",
]

NAME = "tuned_gradient_boosting"

SEARCH_ROWS = 30_000
"""Most honest payments a trial is fitted on: half of what the final fit sees, and enough to rank settings."""

FINAL_ROWS = HONEST_ROWS
"""Most honest payments the chosen settings are validated and fitted on: as many as on the ladder."""

AT_A_TIME = 2
"""Folds that are fitted side by side before a trial may be pruned."""


def suggest(trial: Any) -> dict[str, Any]:
    """Choose the hyperparameters of one trial within the search space.

    Parameters
    ----------
    trial
        An `optuna.Trial`, or anything with its ``suggest_float`` and ``suggest_int``.
    """
    return {
        "learning_rate": trial.suggest_float("learning_rate", 0.03, 0.3, log=True),
        "max_iter": trial.suggest_int("max_iter", 40, 120, step=20),
        "max_leaf_nodes": trial.suggest_int("max_leaf_nodes", 4, 32, log=True),
        "min_samples_leaf": trial.suggest_int("min_samples_leaf", 10, 300, log=True),
        "l2_regularization": trial.suggest_float("l2_regularization", 0.1, 100.0, log=True),
        "max_features": trial.suggest_float("max_features", 0.2, 1.0),
    }


def score_folds(
    data: TrainingData, cuts: list[Fold], params: Mapping[str, Any], seed: int, honest_rows: int
) -> list[np.ndarray]:
    """Fit gradient boosting with these hyperparameters on each fold and return its scores of the validation rows."""
    names = feature_names(data.schema)

    def fit_and_score(fold: Fold) -> np.ndarray:
        matrix = data.matrix[fold.fit]
        model = fit_model("gradient_boosting", matrix, fold.fit_labels, names, seed, honest_rows, **params)
        return score_rows(model, data.matrix[fold.validation])

    return side_by_side(fit_and_score, [(fold,) for fold in cuts])


def search(data: TrainingData, cuts: list[Fold], settings: Any, storage: str, in_page: bool = False) -> Any:
    """Run the study: ``settings.trials`` trials of the tree-structured Parzen estimator, with median pruning.

    The first trial has the hyperparameters of the ladder, so that the search cannot end below where it began.
    The value of a trial is its mean average precision over the folds. A study that the storage already holds is
    taken up where it ended.

    Parameters
    ----------
    storage
        A database address, such as ``sqlite:///study.db``.
    in_page
        Show the progress bar in a notebook's page instead of on the error stream.

    Returns
    -------
    optuna.Study
    """
    import optuna
    from tqdm import tqdm

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage,
        study_name="gradient_boosting",
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(n_startup_trials=4, n_warmup_steps=0),
        load_if_exists=True,
    )

    def objective(trial: Any) -> float:
        params = suggest(trial)
        values: list[float] = []
        for start in range(0, len(cuts), AT_A_TIME):
            some = cuts[start : start + AT_A_TIME]
            scores = score_folds(data, some, params, settings.seed, SEARCH_ROWS)
            values += [
                average_precision(fold.validation_labels, score) for fold, score in zip(some, scores, strict=True)
            ]
            trial.set_user_attr("folds", values)
            trial.report(float(np.mean(values)), step=len(values))
            if len(values) < len(cuts) and trial.should_prune():
                raise optuna.TrialPruned
        return float(np.mean(values))

    def make_sampler(seed: int) -> Any:
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(2, settings.trials // 3))

    first = {**PARAMS["gradient_boosting"], "max_features": 1.0}
    make_bar = PageBar if in_page else tqdm
    with make_bar(total=settings.trials, desc="tuning", unit="trial") as bar:
        run_study(study, objective, settings.trials, make_sampler, first, bar, settings.seed)
    return study


def _place_of_study(settings: Any, lineage: Mapping[str, Any]) -> Path:
    """Return where a study is kept while it runs: outside the artifact, which an interrupted build loses."""
    knobs = ("trials", "most_rows", "folds", "fold_days", "label_delay_days", "test_from")
    identity = {**lineage, **{name: str(getattr(settings, name)) for name in knobs}}
    digest = hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:16]
    folder = Path(settings.data_dir).resolve() / "studies"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / f"{digest}.db"


def tabulate(study: Any) -> pd.DataFrame:
    """Return one row a finished trial: number, state, value, best, seconds, settings, value on each fold."""
    rows = []
    for number, trial in enumerate(finished(study)):
        found = {f"fold_{i}": value for i, value in enumerate(trial.user_attrs.get("folds", []), start=1)}
        complete = trial.state.name == "COMPLETE"
        rows.append({
            "number": number, "state": trial.state.name.lower(),
            "value": trial.value if complete else np.nan,
            "seconds": trial.duration.total_seconds() if trial.duration else np.nan,
            **trial.params, **found,
        })  # fmt: skip
    table = pd.DataFrame(rows)
    table.insert(3, "best_so_far", table["value"].cummax().ffill())
    return table


def weigh_hyperparameters(study: Any, seed: int) -> dict[str, float]:
    """Return how much of the variation between complete trials each hyperparameter explains (shares of 1).

    By functional ANOVA (Hutter, Hoos, Leyton-Brown, ICML 2014). Empty when too few trials were completed.
    """
    import optuna

    complete = [trial for trial in study.trials if trial.state.name == "COMPLETE"]
    if len(complete) < 4 or np.ptp([trial.value for trial in complete]) == 0:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=seed)
    return {
        k: round(float(v), 4) for k, v in optuna.importance.get_param_importances(study, evaluator=evaluator).items()
    }


def build(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Search, validate the best once more on more rows, choose its threshold by money, fit it on everything."""
    data = read_training(inputs, settings)
    cuts = folds(data.frame, data.labels, settings)
    lineage = dataset_facts(inputs, data.schema, settings, stage="tuning")
    kept = _place_of_study(settings, lineage)
    began = time.perf_counter()
    study = search(data, cuts, settings, f"sqlite:///{kept}")
    seconds = time.perf_counter() - began
    table = tabulate(study)
    files.write_parquet(table, out / "trials.parquet")
    with ThreadPoolExecutor(1) as meanwhile:
        meanwhile.submit(open_tracking, settings.data_dir)  # MLflow takes seconds to start, and fits use little Python
        _compare(data, cuts, settings, read_second(inputs, data.schema), out)
        found = _fit_best(data, cuts, settings, dict(study.best_params), out)
    best = {
        "name": NAME,
        **found,
        "search_value": study.best_value,
        "search_start": float(table["value"].iloc[0]),
        "trials": len(table),
        "pruned": int((table["state"] == "pruned").sum()),
        "search_seconds": round(seconds, 1),
        "search_rows": SEARCH_ROWS,
        "final_rows": FINAL_ROWS,
        "importance": weigh_hyperparameters(study, settings.seed),
        "ladder_mean": files.read_json(inputs["training"] / "ladder.json")["models"]["gradient_boosting"]["mean"],
        "run_id": track(settings, NAME, found, lineage, out / "model", stage="tuning", kind="gradient_boosting"),
        **lineage,
    }
    files.write_json(best, out / "best.json")
    shutil.move(kept, out / "study.db")


def _compare(data: TrainingData, cuts: list[Fold], settings: Any, second: Second | None, out: Path) -> None:
    """Write how the searches compare at equal budget, and what their winners keep in the second world."""
    lattice = evaluate_lattice(data, cuts, settings.seed, second)
    files.write_parquet(lattice, out / "lattice.parquet")
    files.write_parquet(replay_searches(lattice, len(cuts), settings.seed), out / "replays.parquet")
    files.write_parquet(measure_optimism(lattice, settings.seed), out / "optimism.parquet")


def _fit_best(data: TrainingData, cuts: list[Fold], settings: Any, params: dict[str, Any], out: Path) -> dict[str, Any]:
    """Validate the chosen hyperparameters on the folds, fit them on all known rows, and keep the model."""
    rows, known = known_rows(data.frame, data.labels, midnight(settings.test_from))
    names = feature_names(data.schema)

    def fit(learn: np.ndarray, labels: np.ndarray) -> Any:
        return fit_model("gradient_boosting", data.matrix[learn], labels, names, settings.seed, FINAL_ROWS, **params)

    jobs = [(rows, known), *((fold.fit, fold.fit_labels) for fold in cuts)]
    model, *of_folds = side_by_side(fit, jobs)
    score = np.full(len(data.frame), np.nan)
    for fold, one in zip(cuts, of_folds, strict=True):
        score[fold.validation] = score_rows(one, data.matrix[fold.validation])
    files.write_parquet(out_of_fold(data.frame, {"score": score}, cuts), out / "out_of_fold.parquet")
    judged = judge(data.frame, score, data.reports, cuts, settings, data.share)
    facts = card_facts(NAME, judged["threshold"], settings, rows, known)
    save_model(model, data.schema, out / "model", sample=data.matrix[rows[-20_000:]], **facts, params=params)
    return {**judged, "params": params}
