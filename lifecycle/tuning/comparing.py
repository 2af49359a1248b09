"""Searches compared at the same number of fits, and the optimism of their winners.

All settings of a small lattice are evaluated once. Every search can then be replayed on the table, with many seeds
and at no cost, as tabular benchmarks do (Klein and Hutter, "Tabular benchmarks for joint architecture and
hyperparameter optimization", 2019). A lookup counts as the fit that it stands for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from lifecycle import files
from lifecycle.consortium import shared_schema
from lifecycle.training import Fold, TrainingData, feature_matrix, feature_names, fit_model, side_by_side
from lifecycle.training.metrics import average_precision

TREES = (25, 50, 75, 100)
"""Levels of ``max_iter``: one fit gives them all, since boosting adds its trees in order."""

FITTED: Mapping[str, tuple[float, ...]] = {
    "learning_rate": (0.03, 0.1, 0.3),
    "max_leaf_nodes": (4, 12, 32),
    "l2_regularization": (0.1, 3.0, 100.0),
}
"""Levels of the other hyperparameters of the lattice. The rest stay as on the ladder."""

SPACE: Mapping[str, tuple[float, ...]] = {**FITTED, "max_iter": TREES}

LATTICE_ROWS = 10_000
"""Most honest payments a fit of the lattice sees."""

BUDGET = 16
"""Settings that a search without pruning can try: the full grid of two levels for each of four hyperparameters."""

SEEDS = 20
METHODS = ("optuna", "random", "grid")

Score = Callable[[Mapping[str, float], int], float]


@dataclass(frozen=True)
class Second:
    """The second world's test weeks: the features that mean the same in both worlds, their matrix, the labels."""

    names: list[str]
    matrix: np.ndarray
    is_fraud: np.ndarray


def read_second(inputs: Mapping[str, Path], schema: Mapping[str, Any]) -> Second | None:
    """Return the second world's test weeks; None on own data, which has no second world."""
    if "second:features" not in inputs:
        return None
    # What a world fits on its own texts, such as the weights of words, means something else in another world.
    shared = shared_schema(files.read_json(inputs["second:features"] / "schema.json"), schema)
    frame = pd.read_parquet(inputs["second:features"] / "test_set.parquet")
    frame = frame[frame["is_fraud"].notna()]
    is_fraud = frame["is_fraud"].to_numpy(dtype=np.int8)
    return Second(feature_names(shared), feature_matrix(frame, shared), is_fraud)


def evaluate_lattice(data: TrainingData, cuts: list[Fold], seed: int, second: Second | None) -> pd.DataFrame:
    """Score every setting of `SPACE` on every fold, and the last fold's model in the second world.

    With a second world, the models see the features that mean the same in both.

    Returns
    -------
    pandas.DataFrame
        One row a setting: its levels, ``fold_1`` ... (average precision), ``value`` (their mean), and with a
        second world ``second`` (average precision in its test weeks).
    """
    names = feature_names(data.schema) if second is None else second.names
    matrix = data.matrix[:, [feature_names(data.schema).index(name) for name in names]]
    settings = [dict(zip(FITTED, levels, strict=True)) for levels in itertools.product(*FITTED.values())]

    def evaluate(params: Mapping[str, float], fold: Fold) -> dict[str, list[float]]:
        model = fit_model(
            "gradient_boosting", matrix[fold.fit], fold.fit_labels, names, seed, LATTICE_ROWS,
            **{**params, "max_iter": max(TREES)},
        )  # fmt: skip
        found = {f"fold_{fold.number}": _at_each_size(model, matrix[fold.validation], fold.validation_labels)}
        if second is not None and fold is cuts[-1]:
            found["second"] = _at_each_size(model, second.matrix, second.is_fraud)
        return found

    jobs = [(params, fold) for params in settings for fold in cuts]
    done = iter(side_by_side(evaluate, jobs))
    rows = []
    for params in settings:
        found = {name: values for _ in cuts for name, values in next(done).items()}
        for i, trees in enumerate(TREES):
            rows.append({**params, "max_iter": trees, **{name: values[i] for name, values in found.items()}})
    table = pd.DataFrame(rows)
    table["value"] = table[[f"fold_{fold.number}" for fold in cuts]].mean(axis=1)
    return table


def _at_each_size(model: Any, matrix: np.ndarray, is_fraud: np.ndarray) -> list[float]:
    """Return the average precision after each number of trees of `TREES`: log-odds rank as probabilities do."""
    with threadpool_limits(1, user_api="openmp"):
        stages: Iterator[np.ndarray] = model.staged_decision_function(matrix)
        return [average_precision(is_fraud, odds) for trees, odds in enumerate(stages, start=1) if trees in TREES]


def run_search(
    method: str, space: Mapping[str, Sequence[float]], score: Score, folds: int, fits: int, seed: int
) -> pd.DataFrame:
    """Search `space` with one method until it has used its fits.

    Optuna's estimator comes with median pruning after each fold; random and grid search finish every setting.
    The grid has two levels of each hyperparameter, placed by lot: where a person would have placed it, nobody knows.

    Parameters
    ----------
    method
        One of `METHODS`.
    score
        Takes a setting and a fold (0 for the first), returns the average precision. One call is one fit.
    folds, fits
        Folds of a setting, and how many fits may be used.

    Returns
    -------
    pandas.DataFrame
        One row a complete setting, in order: ``fits`` used so far, ``value``, and its levels.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = _start_study(method, space, fits // folds, seed)
    used, rows = 0, []
    while used + folds <= fits or (method == "optuna" and used < fits):
        trial = study.ask()
        params = {k: levels[trial.suggest_int(k, 0, len(levels) - 1)] for k, levels in space.items()}
        values = _try(trial, params, score, min(folds, fits - used), folds)
        used += len(values)
        complete = len(values) == folds
        state = optuna.trial.TrialState.COMPLETE if complete else optuna.trial.TrialState.PRUNED
        study.tell(trial, float(np.mean(values)) if complete else None, state=state)
        rows.append({"fits": used, "state": state.name.lower(), "value": float(np.mean(values)), **params})
    table = pd.DataFrame(rows)
    return table.assign(tried=len(table))[table["state"] == "complete"].drop(columns="state")


def _try(trial: Any, params: Mapping[str, float], score: Score, most: int, folds: int) -> list[float]:
    """Return the scores of a setting on its folds, up to `most` or until the study prunes it."""
    values: list[float] = []
    for fold in range(most):
        values.append(score(params, fold))
        trial.report(float(np.mean(values)), step=fold)
        if fold < folds - 1 and trial.should_prune():
            break
    return values


def _start_study(method: str, space: Mapping[str, Sequence[float]], settings: int, seed: int) -> Any:
    """Return an empty study; that of the grid has its settings in the queue, in an order drawn by lot."""
    import optuna

    if method == "optuna":
        sampler = optuna.samplers.TPESampler(seed=seed, n_startup_trials=max(2, settings // 3))
        return optuna.create_study(
            direction="maximize", sampler=sampler, pruner=optuna.pruners.MedianPruner(n_startup_trials=4)
        )
    study = optuna.create_study(
        direction="maximize", sampler=optuna.samplers.RandomSampler(seed=seed), pruner=optuna.pruners.NopPruner()
    )
    if method == "grid":
        rng = np.random.default_rng(seed)
        placed = [sorted(rng.choice(len(levels), 2, replace=False).tolist()) for levels in space.values()]
        for point in rng.permutation(list(itertools.product(*placed))).tolist():
            study.enqueue_trial(dict(zip(space, point, strict=True)))
    return study


def replay_searches(lattice: pd.DataFrame, folds: int, seed: int, seeds: int = SEEDS) -> pd.DataFrame:
    """Replay every method on the lattice, at ``BUDGET`` settings' worth of fits.

    Returns
    -------
    pandas.DataFrame
        One row a method and seed: ``method``, ``seed``, ``fits``, ``tried`` (settings begun), ``value`` of the
        winner, its levels, and ``second`` where the lattice has it.
    """
    names = list(SPACE)
    values = lattice[[f"fold_{i + 1}" for i in range(folds)]].to_numpy()
    place = {tuple(levels): i for i, levels in enumerate(lattice[names].to_numpy().tolist())}

    def score(params: Mapping[str, float], fold: int) -> float:
        return float(values[place[tuple(float(params[name]) for name in names)], fold])

    rows = []
    for method, one in itertools.product(METHODS, range(seed, seed + seeds)):
        found = run_search(method, SPACE, score, folds, BUDGET * folds, one)
        winner = found.loc[found["value"].idxmax()].to_dict()
        at = lattice.iloc[place[tuple(float(winner[name]) for name in names)]]
        extra = {"second": at["second"]} if "second" in lattice else {}
        rows.append({"method": method, "seed": one, **winner, "fits": BUDGET * folds, **extra})
    return pd.DataFrame(rows)


def measure_optimism(lattice: pd.DataFrame, seed: int, draws: int = 1000) -> pd.DataFrame:
    """Measure what the best of n settings promises on the folds, and what it keeps in the second world.

    For each n, n settings are drawn from the lattice and the best by ``value`` is taken, `draws` times. With n = 1
    nothing is selected: the drop is then the difference between the weeks and the worlds. What is added to
    the drop as n grows is the optimism of selection.

    Returns
    -------
    pandas.DataFrame
        One row an n: ``settings``, ``promised``, ``kept`` (NaN without a second world), ``drop``, ``optimism``
        (the drop less that of a setting taken without looking).
    """
    rng = np.random.default_rng(seed)
    value = lattice["value"].to_numpy()
    second = lattice["second"].to_numpy() if "second" in lattice else np.full(len(lattice), np.nan)
    rows = []
    for n in [n for n in (1, 2, 4, 8, 16, 32, 64, 128) if n < len(lattice)] + [len(lattice)]:
        best = np.array([max(rng.permutation(len(value))[:n], key=value.__getitem__) for _ in range(draws)])
        promised, kept = (value.mean(), second.mean()) if n == 1 else (value[best].mean(), second[best].mean())
        rows.append({"settings": n, "promised": promised, "kept": kept, "drop": promised - kept})
    table = pd.DataFrame(rows)
    return table.assign(optimism=table["drop"] - table["drop"].iloc[0])
