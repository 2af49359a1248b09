"""Tuning: a seeded search on time-ordered folds that starts from the ladder and keeps what it tried."""

import numpy as np
import pandas as pd
import pytest
from model_data import SETTINGS, knobs, write_inputs

from lifecycle import economics, files, training, tuning


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning")
    inputs, out = write_inputs(folder), folder / "out"
    out.mkdir()
    files.write_json({"models": {"gradient_boosting": {"mean": {}}}}, folder / "training" / "ladder.json")
    inputs["training"] = folder / "training"
    tuning.build(knobs("tuning", folder / "data"), inputs, out)
    return inputs, out


def test_the_search_starts_from_the_ladder_and_never_ends_below_it(built):
    _, out = built
    trials, best = pd.read_parquet(out / "trials.parquet"), files.read_json(out / "best.json")
    for name, value in training.PARAMS["gradient_boosting"].items():
        assert trials.loc[0, name] == value
    assert best["search_value"] >= best["search_start"] == trials.loc[0, "value"]
    assert best["search_value"] == trials["value"].max() == trials["best_so_far"].iloc[-1]


def test_every_trial_is_kept_with_its_state_and_its_folds(built):
    _, out = built
    trials = pd.read_parquet(out / "trials.parquet")
    assert len(trials) == SETTINGS.trials and set(trials["state"]) <= {"complete", "pruned"}
    complete = trials[trials["state"] == "complete"]
    np.testing.assert_allclose(complete[["fold_1", "fold_2"]].mean(axis=1), complete["value"])


def test_the_same_seed_tries_the_same_settings(built, tmp_path):
    inputs, out = built
    settings = knobs("tuning", tmp_path, trials=3)
    data = training.read_training(inputs, settings)
    study = tuning.search(data, training.folds(data.frame, data.labels, settings), settings, "sqlite://")
    names = list(study.trials[0].params)
    again = tuning.tabulate(study)[names].iloc[1]
    pd.testing.assert_series_equal(again, pd.read_parquet(out / "trials.parquet")[names].iloc[1], check_names=False)


def test_the_threshold_is_the_best_by_money_on_the_validation_weeks(built):
    _, out = built
    best, scores = files.read_json(out / "best.json"), pd.read_parquet(out / "out_of_fold.parquet")
    money = [scores["is_fraud"], scores["amount"]]
    for threshold in np.quantile(scores["score"], [0.5, 0.9, 0.97, 0.99, 0.999]):
        assert economics.savings(*money, scores["score"] >= threshold, SETTINGS) <= best["savings"] + 0.01
    assert economics.savings(*money, scores["score"] >= best["threshold"], SETTINGS) == pytest.approx(best["savings"])


def test_the_kept_model_has_the_chosen_threshold_and_hyperparameters(built):
    _, out = built
    best, model = files.read_json(out / "best.json"), training.load_model(out / "model")
    assert model.threshold == best["threshold"] and model.facts["params"] == best["params"]
    assert model.facts["labels_as_of"] == SETTINGS.test_from.isoformat()


def test_importance_needs_trials_that_differ():
    import optuna

    study = optuna.create_study()
    assert tuning.weigh_hyperparameters(study, seed=0) == {}
