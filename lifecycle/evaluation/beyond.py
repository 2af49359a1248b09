"""What lies beyond the test score: how good anyone could be, and whether the champion lasts and travels.

Only the simulated bank has a known truth and a second world; for a table of one's own there is neither file:

- ``reach.json``: what the features can see, the champion's share of the oracle, what the missing part would need;
- ``drift.json``: the score by week, what a model loses as it grows old, which features move, the second bank.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import files
from lifecycle.evaluation import drift, reach
from lifecycle.evaluation.scoring import ScoredTest, for_all
from lifecycle.training import LADDER, Model, TrainingData, feature_names, folds, read_training


def write_beyond(
    settings: Any, inputs: Mapping[str, Path], out: Path, tested: ScoredTest, champion: str, found: Mapping[str, Any],
    model: Model,
) -> None:  # fmt: skip
    """Measure and write both files.

    Parameters
    ----------
    tested, champion
        The test set with its scores, and whose scores count.
    found
        What the champion's stage has written about it: threshold, hyperparameters.
    model
        The champion.
    """
    test, score, name = tested.frame, tested.scores[champion], model.facts["name"]
    data = read_training(inputs, settings)
    recipe = reach.Recipe.of(name, found, settings.seed)
    fresh = out_of_fold_scores(inputs, name, data)
    world = reach.read_world(inputs)
    grade = reach.Graded.of(test, world["truth"], settings.seed)
    shares, budget = reach.share_by_mode(grade, score, found["threshold"])
    needs, luck = reach.measure_needs(data, test, grade, score, recipe, world, settings)
    content = {
        "goal": reach.GOAL,
        "bar": reach.SEEN,
        "seen": for_all(seen_on_validation(data, fresh, found["threshold"], world["truth"]), data.share),
        "budget": budget,
        "modes": for_all(shares, tested.share),
        "needs": needs,
        "luck": luck,
    }
    files.write_json(content, out / "reach.json")
    cuts = folds(data.frame, data.labels, settings)
    content = {
        **for_all(drift.measure_weeks(test, score, settings), tested.share),
        "age": drift.measure_age(data, cuts, fresh, test, score, recipe, world["truth"], settings),
        "features": drift.measure_features(data, cuts, test, settings),
        "second": drift.measure_second(inputs, model, recipe, found["threshold"], settings),
    }
    files.write_json(content, out / "drift.json")


def out_of_fold_scores(inputs: Mapping[str, Path], name: str, data: TrainingData) -> np.ndarray:
    """Return the champion's scores of the validation weeks, one a row of the training set; NaN in other weeks.

    Each week was scored by a model fitted with the labels known when the week began.
    """
    path, column = inputs["training"] / "out_of_fold.parquet", name
    if name not in LADDER:
        path, column = inputs["tuning"] / "out_of_fold.parquet", "score"
    table = pd.read_parquet(path, columns=["transaction_id", column])
    score = np.full(len(data.frame), np.nan)
    score[pd.Index(data.frame["transaction_id"]).get_indexer(table["transaction_id"])] = table[column]
    return score


def seen_on_validation(
    data: TrainingData, fresh: np.ndarray, threshold: float, truth: pd.DataFrame
) -> list[dict[str, Any]]:
    """Say by `reach.seen_modes` which kinds of fraud the features see, on the validation weeks alone."""
    rows = np.flatnonzero(~np.isnan(fresh))
    found = data.frame.iloc[rows][["transaction_id"]].merge(truth, on="transaction_id", how="left")
    mode = np.where(found["is_fraud"] == 1, found["mode"].astype(object), "").astype(str)
    budget = float((fresh[rows][mode == ""] >= threshold).mean())
    return reach.seen_modes(data.matrix[rows], feature_names(data.schema), mode, budget)
