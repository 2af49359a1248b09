"""The ladder: time-ordered folds, honest labels, metrics, and models that survive the trip to ONNX."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from model_data import DAY, FEATURES, SCHEMA, SETTINGS, knobs, make_payments, period, write_inputs
from sklearn.metrics import average_precision_score, roc_auc_score

from lifecycle import files, training
from lifecycle.contracts import midnight
from lifecycle.errors import LifecycleError
from lifecycle.training import metrics


@pytest.fixture(scope="module")
def data():
    frame, labels = make_payments()
    train = period(frame, labels, SETTINGS.train_from, SETTINGS.train_until, SETTINGS.test_from)
    return train[train["is_fraud"].notna()].reset_index(drop=True), labels


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("training")
    inputs, out = write_inputs(folder), folder / "out"
    out.mkdir()
    training.build(knobs("training", folder / "data"), inputs, out)
    return inputs, out, folder / "data"


# Folds


def test_no_fold_learns_from_its_validation_period_or_later(data):
    frame, labels = data
    for fold in training.folds(frame, labels, SETTINGS):
        times = frame["event_time"]
        assert times.iloc[fold.fit].max() < fold.from_
        assert times.iloc[fold.validation].between(fold.from_, fold.until, inclusive="left").all()


def test_a_fold_learns_only_labels_that_were_known_when_it_began(data):
    frame, labels = data
    fold = training.folds(frame, labels, SETTINGS)[-1]
    later = labels.copy()
    unknown = later["known_at"] > fold.from_
    later.loc[unknown & (later["transaction_id"] % 3 == 0), "is_fraud"] = 1
    again = training.folds(frame, later, SETTINGS)[-1]
    np.testing.assert_array_equal(again.fit_labels, fold.fit_labels)
    assert again.validation_labels.sum() > fold.validation_labels.sum()


def test_recent_payments_of_which_only_fraud_is_known_are_left_out(data):
    frame, labels = data
    moment = midnight("2025-08-20")
    rows, known = training.known_rows(frame, labels, moment)
    times = frame["event_time"].iloc[rows]
    assert times.max() <= moment - 7 * DAY
    early = labels[(labels["is_fraud"] == 1) & (labels["known_at"] <= moment)]
    recent = frame[frame["transaction_id"].isin(early["transaction_id"]) & (frame["event_time"] > moment - 7 * DAY)]
    assert len(recent) > 0 and not set(recent.index) & set(rows)
    assert known.sum() > 0


def test_labels_known_at_once_lose_no_payment(data):
    frame, _ = data
    at_once = pd.DataFrame(
        {"transaction_id": frame["transaction_id"], "is_fraud": frame["is_fraud"], "known_at": frame["event_time"]}
    )
    rows, _ = training.known_rows(frame, at_once, midnight(SETTINGS.train_until))
    assert len(rows) == len(frame)


def test_a_short_training_period_gets_fewer_folds(data):
    frame, labels = data
    short = SETTINGS.with_(folds=4, train_from=midnight("2025-08-11").date())
    made = training.folds(frame[frame["event_time"] >= midnight("2025-08-11")].reset_index(drop=True), labels, short)
    assert 1 <= len(made) < 4


def test_a_very_short_training_period_gets_one_cut_in_time(data):
    frame, labels = data
    few = frame[frame["event_time"] >= midnight("2025-08-26")].reset_index(drop=True)
    (fold,) = training.folds(few, labels, SETTINGS.with_(train_from=midnight("2025-08-26").date()))
    assert few["event_time"].iloc[fold.fit].max() <= few["event_time"].iloc[fold.validation].min()


def test_training_without_fraud_is_one_sentence_that_counts(data):
    frame, labels = data
    honest = labels.assign(is_fraud=np.int8(0)).drop_duplicates("transaction_id")
    with pytest.raises(LifecycleError, match=r"has 0 known frauds in [\d,]+ payments"):
        training.folds(frame, honest, SETTINGS)


def test_fitting_on_one_kind_of_payment_is_refused():
    with pytest.raises(LifecycleError, match="0 frauds in 4 payments"):
        training.fit_model("gradient_boosting", np.zeros((4, 1), "float32"), np.zeros(4, int), ["amount"], 0)


# Metrics

ranked = st.integers(2, 60).flatmap(
    lambda n: st.tuples(
        arrays(np.int8, n, elements=st.integers(0, 1)),
        arrays(np.float64, n, elements=st.sampled_from([0.0, 0.1, 0.2, 0.5, 0.7, 1.0])),
        arrays(np.int64, n, elements=st.integers(0, 3)),
    )
)


@given(ranked)
def test_metrics_agree_with_scikit_learn_with_and_without_weights(case):
    fraud, score, weight = case
    if 0 < fraud.sum() < len(fraud):
        assert metrics.average_precision(fraud, score) == pytest.approx(average_precision_score(fraud, score))
        assert metrics.area_under_roc(fraud, score) == pytest.approx(roc_auc_score(fraud, score))
    if 0 < (weight * fraud).sum() < weight.sum():
        ranking = metrics.Ranking(fraud, score)
        expected = average_precision_score(fraud, score, sample_weight=weight)
        assert ranking.average_precision(weight.astype(float)) == pytest.approx(expected)
        expected = roc_auc_score(np.repeat(fraud, weight), np.repeat(score, weight))
        assert ranking.area_under_roc(weight.astype(float)) == pytest.approx(expected)


def cards(*rows):
    table = pd.DataFrame(rows, columns=["when", "customer_id", "score", "is_fraud"])
    return table.assign(event_time=pd.to_datetime(table["when"], utc=True).astype("datetime64[us, UTC]"))


NO_REPORTS = pd.DataFrame(
    {"customer_id": pd.Series([], dtype=int), "known_at": pd.Series([], dtype="datetime64[us, UTC]")}
)


def test_card_precision_takes_the_best_payment_of_each_card():
    table = cards(("2025-08-01", 1, 0.9, 0), ("2025-08-01", 1, 0.1, 1), ("2025-08-01", 2, 0.5, 0))
    days = metrics.card_days(table, table["score"], table["is_fraud"], NO_REPORTS)
    assert metrics.card_precision(days, 1) == (1.0, 1.0)


def test_the_ceiling_of_card_precision_is_what_the_days_offer():
    table = cards(*[("2025-08-01", i, i / 10, int(i == 0)) for i in range(10)], ("2025-08-02", 1, 0.9, 1))
    days = metrics.card_days(table, table["score"], table["is_fraud"], NO_REPORTS)
    assert metrics.card_precision(days, 5) == (0.5, (0.2 + 1) / 2)


def test_a_card_reported_before_the_day_is_left_out_for_14_days():
    table = cards(*[(f"2025-08-{day:02}", 1, 0.9, 1) for day in (1, 2, 15, 16)])
    reports = pd.DataFrame({"customer_id": [1], "known_at": pd.to_datetime(["2025-08-01 12:00"], utc=True)})
    days = metrics.card_days(table, table["score"], table["is_fraud"], reports)
    assert pd.to_datetime(days["day"]).dt.day.tolist() == [1, 16]


def test_counting_a_card_twice_is_the_same_as_having_it_twice():
    rng = np.random.default_rng(0)
    table = cards(
        *[("2025-08-01", i, s, f) for i, (s, f) in enumerate(zip(rng.random(30), rng.random(30) < 0.3, strict=True))]
    )
    days = metrics.card_days(table, table["score"], table["is_fraud"], NO_REPORTS)
    twice = pd.concat([days, days]).sort_values("score", ascending=False, kind="stable")
    weighed, _ = metrics.card_precision_by_day(days, 10, np.full(len(days), 2.0))
    assert weighed[0] == pytest.approx(metrics.card_precision(twice, 10)[0])


# Models on disk


@pytest.mark.parametrize("name", training.CLASSIFIERS)
def test_onnx_scores_as_scikit_learn_does(name, data, tmp_path):
    frame, _ = data
    matrix, fraud = training.feature_matrix(frame, SCHEMA), frame["is_fraud"].to_numpy(dtype=int)
    fitted = training.fit_model(name, matrix, fraud, list(FEATURES), seed=0)
    model = training.save_model(fitted, SCHEMA, tmp_path / name, name=name)
    strange = matrix[:300].copy()
    strange[:100] = np.nan
    strange[100:200, 0] = 1e30
    strange[200:, 6] = 99
    for rows in (matrix, strange):
        np.testing.assert_allclose(model.predict(rows), fitted.predict_proba(rows)[:, 1], atol=1e-5)
    assert model.predict(matrix[:0]).shape == (0,)


def test_a_changed_model_is_refused_by_name(built, tmp_path):
    _, out, _ = built
    for name in training.MODEL_FILES[:2]:
        folder = tmp_path / name
        shutil.copytree(out / "models" / "gradient_boosting", folder)
        content = (folder / name).read_bytes()
        (folder / name).write_bytes(content + b" ")
        with pytest.raises(LifecycleError, match=f"{name} is not the file that model.json names"):
            training.load_model(folder)


def test_a_model_without_hashes_or_files_is_refused(built, tmp_path):
    _, out, _ = built
    folder = tmp_path / "model"
    shutil.copytree(out / "models" / "gradient_boosting", folder)
    card = json.loads((folder / "model.json").read_text())
    (folder / "model.json").write_text(json.dumps({k: v for k, v in card.items() if k != "sha256"}))
    with pytest.raises(LifecycleError, match="model.onnx is not the file"):
        training.load_model(folder)
    (folder / "model.onnx").unlink()
    with pytest.raises(LifecycleError, match="model.onnx is missing"):
        training.load_model(folder)


def test_a_pickle_in_place_of_the_graph_is_refused(built, tmp_path):
    _, out, _ = built
    folder = tmp_path / "model"
    shutil.copytree(out / "models" / "gradient_boosting", folder)
    (folder / "model.onnx").write_bytes(b"\x80\x04K\x01.")
    training.write_card(folder, {"name": "trojan"})
    with pytest.raises(LifecycleError, match="holds no usable model"):
        training.load_model(folder)


def test_a_matrix_with_other_columns_is_refused(built):
    model = training.load_model(built[1] / "models" / "gradient_boosting")
    with pytest.raises(LifecycleError, match="expects 7 columns"):
        model.predict(np.zeros((2, 3), "float32"))


def test_a_table_without_a_feature_is_refused_by_its_name():
    with pytest.raises(LifecycleError, match="lacks 1 of 7 features of the schema .amount_to_mean_30d"):
        training.feature_matrix(pd.DataFrame({name: [0] for name in FEATURES if name != "amount_to_mean_30d"}), SCHEMA)


@pytest.mark.parametrize(
    ("name", "most"), [("logistic_regression", 1.25), ("random_forest", 2.5), ("gradient_boosting", 1.25)]
)
def test_drawing_few_honest_payments_does_not_raise_the_expected_number_of_frauds(name, most):
    random = np.random.default_rng(5)
    matrix = random.normal(size=(40_000, 3)).astype("float32")
    fraud = (matrix[:, 0] + random.normal(size=40_000) > 3.2).astype("int8")
    model = training.fit_model(name, matrix, fraud, ["a", "b", "c"], seed=1, honest_rows=4_000)
    expected = model.predict_proba(matrix)[:, 1].sum()
    assert 0.8 < expected / fraud.sum() < most  # several times as many without the correction


# The stage


def test_every_rung_has_metrics_on_every_fold_and_is_tracked(built):
    _, out, data_dir = built
    ladder = files.read_json(out / "ladder.json")
    assert list(ladder["models"]) == list(training.LADDER)
    client, experiment = training.open_tracking(data_dir)
    for name, found in ladder["models"].items():
        assert len(found["average_precision"]) == len(ladder["folds"])
        run = client.get_run(found["run_id"])
        assert run.data.metrics["mean_average_precision"] == pytest.approx(found["mean"]["average_precision"])
        assert run.data.tags["dataset_sha256"] == ladder["dataset_sha256"]
        kept = {item.path for item in client.list_artifacts(found["run_id"], "model")}
        assert kept == ({f"model/{file}" for file in training.MODEL_FILES} if name in training.CLASSIFIERS else set())
    assert max(found["mean"]["average_precision"] for found in ladder["models"].values()) > 0.5


def test_the_recorded_metrics_are_those_of_the_recorded_scores(built):
    _, out, _ = built
    ladder, scores = files.read_json(out / "ladder.json"), pd.read_parquet(out / "out_of_fold.parquet")
    for name in training.LADDER:
        for number, fold in scores.groupby("fold"):
            recorded = ladder["models"][name]["average_precision"][number - 1]
            assert average_precision_score(fold["is_fraud"], fold[name]) == pytest.approx(recorded, abs=1e-5)


def test_the_same_data_and_settings_give_the_same_models(built, tmp_path):
    inputs, out, _ = built
    training.build(knobs("training", tmp_path / "data"), inputs, tmp_path)
    for name in training.CLASSIFIERS:
        file = f"models/{name}/model.onnx"
        assert files.sha256(tmp_path / file) == files.sha256(out / file)


def test_the_rule_leaves_out_what_the_table_does_not_have():
    full = pd.DataFrame({c["feature"]: [c["at_least"], 0.0, np.nan] for c in training.RULE})
    assert training.rule_score(full).tolist() == [1, 0, 0]
    assert training.rule_score(full[["is_night"]]).tolist() == [1, 0, 0]


def test_a_forest_never_scores_above_one_as_onnx():
    from lifecycle.training.artifact import Model, to_onnx

    matrix = np.linspace(0, 1, 400, dtype="float32").reshape(-1, 1)
    forest = training.fit_model("random_forest", matrix, (matrix[:, 0] > 0.5).astype("int8"), ["amount"], seed=0)
    score = Model(to_onnx(forest, 1), {"features": [{"name": "amount"}]}, {}).predict(matrix)
    assert score.max() <= 1 and np.abs(score - forest.predict_proba(matrix)[:, 1]).max() < 1e-6


@pytest.mark.parametrize(
    ("own", "expected"),
    [
        ({}, ["PASSIVE", "500"]),
        ({"GOMP_SPINCOUNT": "9"}, ["PASSIVE", "9"]),
        ({"OMP_WAIT_POLICY": "ACTIVE"}, ["ACTIVE", "None"]),
    ],
)
def test_waiting_threads_of_a_fit_soon_sleep_unless_the_user_said_otherwise(own, expected):
    names = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")
    script = f"import os, lifecycle; print(*map(os.environ.get, {names}))"
    environ = {name: value for name, value in os.environ.items() if name not in names} | own
    done = subprocess.run([sys.executable, "-c", script], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.split() == expected


@pytest.mark.parametrize("rows", [1, training.BLOCK_ROWS, 2 * training.BLOCK_ROWS + 1])
def test_scores_in_blocks_are_those_of_the_whole(rows):
    rng = np.random.default_rng(4)
    matrix = rng.random((2 * training.BLOCK_ROWS + 1, 3), dtype="float32")
    fraud = (matrix[:, 0] + rng.random(len(matrix)) > 1.6).astype(int)
    model = training.fit_model("gradient_boosting", matrix, fraud, ["a", "b", "c"], seed=1, max_iter=5)
    assert np.array_equal(training.score_rows(model, matrix[:rows]), model.predict_proba(matrix[:rows])[:, 1])
