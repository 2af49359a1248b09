"""What the usual recipes for a rare class do: class weights, drawing fewer honest payments, repeating frauds.

Each recipe changes how much a fraud counts against an honest payment, by a known factor. So its odds are too high
by that factor, and can be divided by it again (`correct_prior`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from lifecycle.errors import LifecycleError
from lifecycle.training import make_model, score_rows, side_by_side
from lifecycle.training.metrics import Ranking, calibration_metrics

RECIPES = ("plain", "class weights", "undersampling", "oversampling")
"""What is compared; ``plain`` leaves the payments as they are."""

HONEST_PER_FRAUD = 5
"""Honest payments kept for each fraud when undersampling; with the others each fraud weighs as much."""


def correct_prior(score: np.ndarray, factor: float) -> np.ndarray:
    """Divide the odds of scores by the factor by which frauds were over-represented in fitting.

    The prior correction of King and Zeng, "Logistic regression in rare events data", Political Analysis 9 (2001).
    It keeps the order of the scores.

    Parameters
    ----------
    score
        Probabilities, shape (n,).
    factor
        How many times as much a fraud counted, in relation to an honest payment; above 0.

    Examples
    --------
    >>> correct_prior(np.array([0.0, 0.5, 1.0]), 9.0).tolist()
    [0.0, 0.1, 1.0]
    """
    return score / (score + (1 - score) * factor)


def apply_recipe(recipe: str, is_fraud: np.ndarray, seed: int) -> tuple[np.ndarray, np.ndarray | None, float]:
    """Return the rows to fit on, their weights if any, and the factor by which frauds then count more.

    Parameters
    ----------
    recipe
        One of `RECIPES`.
    is_fraud
        0 or 1, shape (n,), with both kinds.
    seed
        For what is drawn.

    Returns
    -------
    rows, weight, factor
        Positions (int64; repeated ones when oversampling), float64 weights or None, and a number.

    Raises
    ------
    LifecycleError
        If there is no such recipe.

    Examples
    --------
    >>> rows, weight, factor = apply_recipe("undersampling", np.array([1] + [0] * 20), seed=0)
    >>> len(rows), weight, factor
    (6, None, 4.0)
    """
    if recipe not in RECIPES:
        raise LifecycleError(f"There is no recipe {recipe!r}; the recipes are {', '.join(RECIPES)}.")
    rng = np.random.default_rng(seed)
    frauds, honest = np.flatnonzero(is_fraud == 1), np.flatnonzero(is_fraud == 0)
    factor = max(len(honest) / (HONEST_PER_FRAUD * len(frauds)), 1.0)
    everyone = np.arange(len(is_fraud))
    if recipe == "plain":
        return everyone, None, 1.0
    if recipe == "class weights":
        return everyone, np.where(is_fraud == 1, factor, 1.0), factor
    if recipe == "undersampling":
        kept = rng.choice(honest, min(HONEST_PER_FRAUD * len(frauds), len(honest)), replace=False)
        return np.sort(np.concatenate([frauds, kept])), None, len(honest) / len(kept)
    copies = rng.choice(frauds, round((factor - 1) * len(frauds)))
    return np.sort(np.concatenate([everyone, copies])), None, 1 + len(copies) / len(frauds)


def compare_recipes(
    fit: tuple[np.ndarray, np.ndarray],
    judged: tuple[np.ndarray, np.ndarray],
    names: list[str],
    seed: int,
    kinds: Mapping[str, Mapping[str, Any]],
    rows: int = 60_000,
) -> pd.DataFrame:
    """Fit each kind of model with each recipe on the same payments, and judge them on the same others.

    Parameters
    ----------
    fit, judged
        Matrix (float32, shape (n, features)) and labels (0 or 1, shape (n,)) to learn from and to judge on.
    names
        The feature names, in the order of the matrix.
    seed
        For what is drawn and for fitting.
    kinds
        Kind of model, as in `lifecycle.training.make_model` -> hyperparameters that differ from the ladder's.
    rows
        Payments that are drawn to learn from, in their true proportions.

    Returns
    -------
    pandas.DataFrame
        Indexed by ``model`` and ``recipe``; columns ``average_precision``, ``auc``, ``flagged`` (share of payments
        with a score of 0.5 or more), ``recall`` (share of frauds among these), ``recall_same_alerts`` (recall when the
        threshold is moved until as many are flagged as there are frauds), and what
        `lifecycle.training.metrics.calibration_metrics` returns, before and after (``corrected_...``)
        `correct_prior`.
    """
    drawn = np.random.default_rng(seed).choice(len(fit[1]), min(rows, len(fit[1])), replace=False)
    matrix, is_fraud = fit[0][drawn], fit[1][drawn]

    def one(kind: str, recipe: str) -> dict[str, Any]:
        chosen, weight, factor = apply_recipe(recipe, is_fraud, seed)
        model = make_model(kind, names, seed, **kinds[kind])
        last = f"{model.steps[-1][0]}__sample_weight" if hasattr(model, "steps") else "sample_weight"
        with threadpool_limits(1, user_api="openmp"):
            model.fit(matrix[chosen], is_fraud[chosen], **({} if weight is None else {last: weight}))
        return {"model": kind, "recipe": recipe, **_judge(judged[1], score_rows(model, judged[0]), factor)}

    jobs = [(kind, recipe) for kind in kinds for recipe in RECIPES]
    return pd.DataFrame(side_by_side(one, jobs)).set_index(["model", "recipe"])


def _judge(is_fraud: np.ndarray, score: np.ndarray, factor: float) -> dict[str, float]:
    ranking, flagged = Ranking(is_fraud, score), score >= 0.5
    top = ranking.fraud[: int(is_fraud.sum())]
    corrected = calibration_metrics(is_fraud, correct_prior(score, factor))
    return {
        "average_precision": ranking.average_precision(),
        "auc": ranking.area_under_roc(),
        "flagged": float(flagged.mean()),
        "recall": float(flagged[is_fraud == 1].mean()),
        "recall_same_alerts": float(top.mean()),
        **calibration_metrics(is_fraud, score),
        **{f"corrected_{key}": value for key, value in corrected.items()},
    }
