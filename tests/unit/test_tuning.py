"""Tuning: a seeded search on time-ordered folds that starts from the ladder and keeps what it tried."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from model_data import SETTINGS, knobs, write_inputs

from lifecycle import economics, files, training, tuning
from lifecycle.training import rebuilding
from lifecycle.tuning import studies


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tuning")
    inputs, out = write_inputs(folder), folder / "out"
    out.mkdir()
    files.write_json({"models": {"gradient_boosting": {"mean": {}}}}, folder / "training" / "ladder.json")
    inputs["training"] = folder / "training"
    inputs["second:features"] = write_inputs(folder / "second", rows=5_000)["features"]
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


def test_a_tuned_run_is_rebuilt_from_its_record(built):
    inputs, out = built
    best = files.read_json(out / "best.json")
    found = rebuilding.rebuild(inputs["features"].parent / "data", best["run_id"])
    assert found["name"] == tuning.NAME and found["rebuilt"] == found["recorded"]
    assert found["rebuilt"]["average_precision"] == best["average_precision"]
    assert found["rebuilt_model"] == found["recorded_model"] == files.sha256(out / "model" / "model.onnx")


def test_importance_needs_trials_that_differ():
    import optuna

    study = optuna.create_study()
    assert tuning.weigh_hyperparameters(study, seed=0) == {}


def small_study(storage, dies_at=None):
    """Bring a study of one number to eight trials; kill this process in the middle of one if asked to."""
    import optuna
    from tqdm import tqdm

    study = optuna.create_study(storage=storage, study_name="s", direction="maximize", load_if_exists=True)

    def objective(trial):
        x = trial.suggest_float("x", 0, 1)
        if len(studies.finished(study)) == dies_at:
            os.kill(os.getpid(), signal.SIGKILL)
        return -((x - 0.3) ** 2)

    def make_sampler(seed):
        return optuna.samplers.TPESampler(seed=seed, n_startup_trials=3)

    studies.run_study(study, objective, 8, make_sampler, {"x": 0.5}, tqdm(disable=True), seed=1)
    return [trial.params["x"] for trial in studies.finished(study)]


def test_a_study_killed_in_a_trial_resumes_and_tries_what_it_would_have_tried(tmp_path):
    storage = f"sqlite:///{tmp_path / 'study.db'}"
    code = f"import test_tuning; test_tuning.small_study({storage!r}, dies_at=4)"
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    killed = subprocess.run([sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": path}, check=False)
    assert killed.returncode == -signal.SIGKILL
    resumed = small_study(storage)
    assert len(resumed) == 8 and resumed == pytest.approx(small_study(None), abs=1e-12)


def test_an_interrupted_build_takes_its_study_up_again(built, tmp_path, monkeypatch):
    inputs, out = built
    settings, seen = knobs("tuning", tmp_path / "data"), []
    score_folds = tuning.score_folds

    def die(*arguments):
        seen.append(arguments[2])
        if len(seen) == 3:
            raise KeyboardInterrupt
        return score_folds(*arguments)

    monkeypatch.setattr(tuning, "score_folds", die)
    (tmp_path / "first").mkdir()
    with pytest.raises(KeyboardInterrupt):
        tuning.build(settings, inputs, tmp_path / "first")
    (tmp_path / "second").mkdir()
    tuning.build(settings, inputs, tmp_path / "second")
    assert len(seen) < 2 * SETTINGS.trials + 2
    columns = ["number", "state", "value", *training.PARAMS["gradient_boosting"]]
    pd.testing.assert_frame_equal(
        pd.read_parquet(tmp_path / "second" / "trials.parquet")[columns],
        pd.read_parquet(out / "trials.parquet")[columns],
    )
    assert not list((tmp_path / "data" / "studies").glob("*.db"))


def test_every_method_uses_the_same_number_of_fits_and_no_more():
    space = {"a": (1, 2, 3, 4), "b": (1, 2, 3, 4)}
    for method in tuning.METHODS:
        fits = []

        def score(params, fold, fits=fits):
            fits.append(fold)
            return -abs(params["a"] - 2) - abs(params["b"] - 3) + 0.01 * fold

        found = tuning.run_search(method, space, score, folds=2, fits=8, seed=3)
        assert len(fits) == 8 and found["fits"].max() <= 8
        assert (found["value"] == found["value"].max()).any()


def test_a_replay_reports_what_the_lattice_holds(built):
    _, out = built
    lattice, replays = (pd.read_parquet(out / f"{name}.parquet") for name in ("lattice", "replays"))
    both = replays.merge(lattice, on=list(tuning.SPACE), suffixes=("", "_table"))
    assert len(both) == len(replays) == len(tuning.METHODS) * tuning.SEEDS
    np.testing.assert_allclose(both["value"], both["value_table"])
    np.testing.assert_allclose(both["second"], both["second_table"])
    assert (replays["value"] <= lattice["value"].max()).all()


def test_the_lattice_holds_what_a_single_fit_of_that_size_scores(built, tmp_path):
    inputs, out = built
    settings = knobs("tuning", tmp_path)
    data = training.read_training(inputs, settings)
    fold = training.folds(data.frame, data.labels, settings)[-1]
    row = pd.read_parquet(out / "lattice.parquet").iloc[1]
    params = {**row[list(tuning.SPACE)], "max_iter": int(row["max_iter"])}
    params["max_leaf_nodes"] = int(params["max_leaf_nodes"])
    score = tuning.score_folds(data, [fold], params, settings.seed, tuning.LATTICE_ROWS)[0]
    assert training.metrics.average_precision(fold.validation_labels, score) == pytest.approx(row["fold_2"])


def test_optimism_is_what_selection_adds_to_the_drop():
    rng = np.random.default_rng(0)
    tables = []
    for _ in range(40):  # the best of a whole pool is one setting: its luck elsewhere only cancels over pools
        noise = pd.DataFrame({"value": rng.normal(0.6, 0.01, 64), "second": rng.normal(0.5, 0.01, 64)})
        tables.append(tuning.measure_optimism(noise, seed=0, draws=20).set_index("settings"))
    table = sum(tables) / len(tables)
    assert table["optimism"].iloc[0] == 0 and table["drop"].iloc[0] == pytest.approx(0.1, abs=0.002)
    assert 0.02 < table["optimism"].iloc[-1] < 0.03 and table["optimism"].is_monotonic_increasing
    skill = noise.assign(second=noise["value"] - 0.1)
    assert tuning.measure_optimism(skill, seed=0, draws=200)["optimism"].abs().max() < 1e-9


def test_without_a_second_world_nothing_is_said_of_it(built):
    inputs, out = built
    own = {name: path for name, path in inputs.items() if ":" not in name}
    assert tuning.read_second(own, {}) is None
    lattice = pd.read_parquet(out / "lattice.parquet").drop(columns="second")
    assert "second" not in tuning.replay_searches(lattice, 2, seed=0, seeds=1)
    assert tuning.measure_optimism(lattice, 0, draws=5)["kept"].isna().all()
