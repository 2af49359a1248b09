"""Beyond the test score: shares of the oracle, what the missing part needs, and what decays, on planted data."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from model_data import FEATURES, SCHEMA, SETTINGS, knobs, make_payments, period, write_inputs

from lifecycle import files, training
from lifecycle.contracts import midnight
from lifecycle.evaluation import beyond, drift, reach
from lifecycle.evaluation.scoring import ScoredTest
from lifecycle.evaluation.weighing import Weighing
from lifecycle.training.metrics import Ranking, average_precision

SMALL = reach.Recipe("gradient_boosting", {"max_iter": 15}, 5_000, 0)


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    """Return the inputs of a small simulated bank and of a second one, the training data of the first, its folds."""
    folder = tmp_path_factory.mktemp("beyond")
    inputs = write_inputs(folder, rows=12_000)
    second = write_inputs(folder / "second")
    inputs |= {f"second:{name}": second[name] for name in ("features", "preprocessing")}
    days = pd.date_range("2025-07-25", periods=59, tz="UTC")
    telemetry = pd.MultiIndex.from_product([range(80), days], names=["terminal_id", "time"]).to_frame(index=False)
    alarms = telemetry.assign(tamper_events=(telemetry["terminal_id"] % 40 == 0).astype(int))
    files.write_parquet(alarms, inputs["preprocessing"] / "telemetry.parquet")
    files.write_parquet(answers(), inputs["world"] / "answer_key" / "truth.parquet")
    data = training.read_training(inputs, SETTINGS)
    cuts = training.folds(data.frame, data.labels, SETTINGS)
    score = np.full(len(data.frame), np.nan)
    for fold in cuts:
        score[fold.validation] = fit(data, fold.fit, fold.fit_labels, data.matrix[fold.validation])
    table = training.out_of_fold(data.frame, {"gradient_boosting": score}, cuts)
    files.write_parquet(table, folder / "training" / "out_of_fold.parquet")
    inputs["training"] = folder / "training"
    return inputs, data, cuts


def answers() -> pd.DataFrame:
    """Return the answer key: the oracle holds few honest payments for possible fraud."""
    truth = make_payments(12_000)[0][["transaction_id", "true_fraud", "mode", "oracle"]]
    quiet = (truth["true_fraud"] == 0) & (truth["oracle"] > 0.01)
    return truth.assign(oracle=truth["oracle"].where(~quiet, 0.0)).rename(columns={"true_fraud": "is_fraud"})


def fit(data, rows, labels, matrix):
    return SMALL.fit_and_score(data.matrix[rows], labels, list(FEATURES), matrix)


@pytest.fixture(scope="module")
def measured(bank, tmp_path_factory):
    inputs, data, _ = bank
    out = tmp_path_factory.mktemp("measured")
    rows, known = training.known_rows(data.frame, data.labels, midnight(SETTINGS.test_from))
    fitted = training.fit_model("gradient_boosting", data.matrix[rows], known, list(FEATURES), 0, max_iter=15)
    facts = {"trained_from": "a", "trained_until": "b", "rows": 1, "frauds": 1}
    model = training.save_model(fitted, SCHEMA, out, name="gradient_boosting", threshold=0.1, **facts)
    test = pd.read_parquet(inputs["features"] / "test_set.parquet")
    score = model.predict(training.feature_matrix(test, SCHEMA))
    found = {"threshold": 0.1, "params": {"max_iter": 15}}
    tested = ScoredTest(test, {"gradient_boosting": score}, 1.0, {})
    beyond.write_beyond(knobs("evaluation", out), inputs, out, tested, "gradient_boosting", found, model)
    return files.read_json(out / "reach.json"), files.read_json(out / "drift.json"), test, score


def tied(rows: int = 600, seed: int = 0):
    rng = np.random.default_rng(seed)
    fraud = rng.random(rows) < 0.1
    score = (rng.random(rows) + 0.4 * fraud).round(1)  # many equal scores
    codes = rng.integers(0, 40, rows)
    return fraud.astype(int), score, codes, rng.multinomial(40, np.full(40, 1 / 40), size=25)


def test_many_draws_at_once_give_what_one_ranking_gives_for_each():
    fraud, score, codes, draws = tied()
    weighing, ranking = Weighing(fraud, score, codes, 40), Ranking(fraud, score)
    weights = [times[codes].astype(float) for times in draws]
    assert np.allclose(weighing.average_precision(draws), [ranking.average_precision(one) for one in weights])
    assert np.allclose(weighing.area_under_roc(draws), [ranking.area_under_roc(one) for one in weights])


def test_recall_at_a_budget_is_that_of_the_best_threshold_within_it():
    fraud, score, codes, draws = tied()
    found = Weighing(fraud, score, codes, 40).recall_at(np.full(25, 0.3), draws)
    for times, ours in zip(draws, found, strict=True):
        weight = times[codes]
        honest, frauds = weight * (1 - fraud), weight * fraud
        allowed = [cut for cut in np.unique(score) if honest[score >= cut].sum() <= 0.3 * honest.sum()]
        assert ours == pytest.approx(max(frauds[score >= cut].sum() for cut in allowed) / frauds.sum())


def test_a_draw_without_fraud_has_no_average_precision_and_no_error():
    weighing = Weighing([1, 0], [0.9, 0.1], [0, 1], 2)
    assert np.isnan(weighing.average_precision(np.array([[0, 2]]))[0])
    assert weighing.average_precision(np.array([[1, 1]]))[0] == 1.0


def test_a_kind_of_fraud_is_seen_by_one_feature_or_it_is_not():
    rng = np.random.default_rng(0)
    mode = np.array([""] * 5_000 + ["loud"] * 100 + ["low"] * 100 + ["silent"] * 100)
    matrix = rng.normal(size=(len(mode), 3))
    matrix[mode == "loud", 0] += 5
    matrix[mode == "low", 1] -= 5
    matrix[rng.random(len(mode)) < 0.1, 0] = np.nan
    found = {row["mode"]: row for row in reach.seen_modes(matrix, ["a", "b", "c"], mode, budget=0.01)}
    assert (found["loud"]["feature"], found["loud"]["side"], found["loud"]["seen"]) == ("a", "high", True)
    assert (found["low"]["feature"], found["low"]["side"], found["low"]["seen"]) == ("b", "low", True)
    assert found["silent"]["recall"] < 0.1 and not found["silent"]["seen"]


def test_a_value_that_many_honest_payments_share_finds_nothing_within_the_budget():
    mode = np.array([""] * 100 + ["a"] * 10)
    row = reach.seen_modes(np.ones((110, 1)), ["flag"], mode, budget=0.05)[0]
    assert row["recall"] == 0.0


def test_the_share_of_the_oracle_is_one_for_the_oracle_and_less_for_the_model(measured):
    found, _, test, score = measured
    graded = reach.Graded.of(test, answers(), 7)
    rows, _ = reach.share_by_mode(graded, graded.oracle, 0.5)
    assert all(row["share"]["value"] == row["recall_share"]["value"] == 1.0 for row in rows)
    assert [row["mode"] for row in found["modes"]] == ["all", "card_testing", "large_amount", "skimming"]
    for row in found["modes"]:
        mine = row["share"]
        assert mine["low"] <= mine["value"] <= mine["high"] < 1
        fraud = graded.mode != "" if row["mode"] == "all" else graded.mode == row["mode"]
        rows = fraud | (graded.mode == "")
        assert row["champion"]["value"] == pytest.approx(average_precision(fraud[rows], score[rows]), abs=1e-6)
    assert found["budget"] == pytest.approx((score[graded.mode == ""] >= 0.1).mean())


def test_what_is_seen_was_decided_without_the_test_weeks(measured):
    found, _, test, _ = measured
    validation = sum(row["frauds"] for row in found["seen"])
    assert {row["mode"] for row in found["seen"]} == {"card_testing", "large_amount", "skimming"}
    assert found["bar"] == 0.5 and 0 < validation != int(test["is_fraud"].sum())


@pytest.mark.parametrize("until_midnight", [False, True])
def test_events_are_counted_in_the_days_before_and_never_at_the_payment_itself(until_midnight):
    rng = np.random.default_rng(0)

    def table(rows: int) -> pd.DataFrame:
        seconds = pd.to_timedelta(rng.integers(0, 20 * 86_400, rows) // 3600 * 3600, unit="s")
        return pd.DataFrame({"event_time": midnight("2025-08-01") + seconds, "terminal_id": rng.integers(0, 8, rows)})

    frame, events = table(300), table(60)
    events = events[events["terminal_id"] < 6]
    found = reach.count_before(frame, events, "terminal_id", 7, until_midnight)
    for (at, terminal), ours in zip(frame.itertuples(index=False), found, strict=True):
        end = at.floor("D") if until_midnight else at
        near = (events["event_time"] < end) & (events["event_time"] >= end - pd.Timedelta(days=7))
        assert ours == (near & (events["terminal_id"] == terminal)).sum()


def test_hidden_state_is_the_window_of_the_skimmer_and_the_day_of_the_thief():
    times = pd.to_datetime(["2025-08-01 10:00", "2025-08-02 10:00", "2025-08-03 10:00", "2025-08-04 10:00"], utc=True)
    payments = pd.DataFrame({
        "customer_id": [1, 2, 1, 3], "terminal_id": 5, "event_time": times,
        "mode": ["skimming", "", "skimming", ""], "oracle": [0.9, 0.0, 0.8, 0.0],
    })  # fmt: skip
    found = reach.hidden_state(payments, payments)
    assert found["terminal"].tolist() == [1, 1, 1, 0] and found["card"].tolist() == [1, 0, 1, 0]


def test_knowing_the_card_closes_more_of_the_distance_than_true_labels_or_an_alarm_about_nothing(measured):
    needs = pd.DataFrame(measured[0]["needs"])
    assert set(needs["need"]) == set(reach.NEEDS)
    everything = needs[needs["mode"] == "all"].set_index("need")
    closed = everything["closed"].map(lambda interval: interval["value"])
    assert closed["hidden_card"] > 0.3 > max(closed["true_labels"], closed["tamper_sensor"])
    assert everything["gain"].map(lambda interval: interval["low"])["hidden_card"] > measured[0]["luck"]["all"]


def test_luck_is_the_largest_change_of_a_refit_that_knows_nothing_more():
    fraud, score, codes, draws = tied()
    mode = np.where(fraud == 1, "skimming", "")
    graded = reach.Graded(codes, mode, np.zeros(len(mode)), np.concatenate([np.ones((1, 40), dtype=int), draws]))
    other = np.random.default_rng(1).random(len(mode))
    change = abs(Ranking(fraud, other).average_precision() - Ranking(fraud, score).average_precision())
    assert reach._luck([score, other], graded, score)["all"] == pytest.approx(change, abs=1e-5)
    assert reach._luck([score], graded, score) == {"all": 0.0, "skimming": 0.0}


def test_the_score_by_week_is_that_of_the_week_alone(measured):
    _, found, test, score = measured
    known = test["is_fraud"].notna().to_numpy()
    for week in found["weeks"]:
        inside = known & (((test["event_time"] - midnight(SETTINGS.test_from)).dt.days // 7 + 1) == week["week"])
        alone = average_precision(test.loc[inside, "is_fraud"].to_numpy(dtype=int), score[inside])
        interval = week["average_precision"]
        assert interval["value"] == pytest.approx(alone, abs=1e-6) and interval["low"] < alone < interval["high"]
    first, second = (week["average_precision"]["value"] for week in found["weeks"])
    assert found["slope"]["value"] == pytest.approx(second - first, abs=1e-5)


def moved(frame: pd.DataFrame, labels: pd.DataFrame, day: str) -> pd.DataFrame:
    """Exchange two features from a day on: what told of fraud before tells nothing any more."""
    late = (frame["event_time"] >= midnight(day)).to_numpy()
    pair = ["terminal_fraud_30d", "customer_count_1h"]
    changed = frame.copy()
    changed.loc[late, pair] = frame.loc[late, pair[::-1]].to_numpy()
    return changed.assign(amount_to_mean_30d=1.0)


@pytest.mark.parametrize("day", ["2025-08-18", "2100-01-01"])
def test_a_model_grows_old_when_the_world_moves_and_only_then(day):
    frame, labels = make_payments(30_000)
    frame["customer_count_1h"] = 0.0  # only one of the two features tells of fraud
    world = moved(frame, labels, day)
    train = period(world, labels, SETTINGS.train_from, SETTINGS.train_until, SETTINGS.test_from)
    train = train[train["is_fraud"].notna()].astype({"is_fraud": "int8"}).reset_index(drop=True)
    test = period(world, labels, SETTINGS.test_from, SETTINGS.test_until, SETTINGS.deploy_at)
    reports = pd.DataFrame()
    data = training.TrainingData(train, training.feature_matrix(train, SCHEMA), SCHEMA, labels, reports)
    cuts = training.folds(train, labels, SETTINGS)
    fresh = np.full(len(train), np.nan)
    for fold in cuts:
        fresh[fold.validation] = fit(data, fold.fit, fold.fit_labels, data.matrix[fold.validation])
    rows, known = training.known_rows(train, labels, midnight(SETTINGS.test_from))
    score = fit(data, rows, known, training.feature_matrix(test, SCHEMA))
    truth = frame.rename(columns={"true_fraud": "is_fraud"})[["transaction_id", "is_fraud", "mode", "oracle"]]
    found = drift.measure_age(data, cuts, fresh, test, score, SMALL, truth, SETTINGS)
    assert found["weeks"][0]["age"] == 0 and found["weeks"][0]["loss"]["value"] == 0
    modes = {row["mode"]: row for row in found["modes"]}
    parts = modes["all"]["shorter"]["value"] + modes["all"]["older"]["value"]
    assert modes["all"]["loss"]["value"] == pytest.approx(parts, abs=1e-5)
    grew_old = modes["skimming"]["older"]["low"] > 0.1
    assert grew_old == (day == "2025-08-18")


def test_features_are_compared_on_the_side_they_had_in_validation(measured):
    rows = {row["feature"]: row for row in measured[1]["features"]}
    assert len(rows) == len(FEATURES)
    assert min(row["validation"] for row in rows.values()) >= 0.5
    for row in rows.values():
        interval = row["change"]
        assert interval["value"] == pytest.approx(row["test"] - row["validation"], abs=2e-6)
        assert interval["low"] <= interval["value"] <= interval["high"]


def test_a_second_bank_of_the_same_kind_is_served_as_well_by_the_champion_as_by_its_own_model(measured):
    second = measured[1]["second"]
    low, high = second["difference"]["low"], second["difference"]["high"]
    assert low < 0 < high and second["as_it_is"]["value"] > 0.5
    assert second["difference"]["value"] == pytest.approx(
        second["as_it_is"]["value"] - second["local"]["value"], abs=2e-6
    )


def test_codes_and_texts_of_another_bank_get_the_meaning_they_have_at_home():
    home = {
        "categories": {"channel": ["contactless", "online", "pos"]},
        "texts": {"merchant_text": {"buckets": 4, "length": 3, "weights": [[1_000], [2_000], [3_000], [4_000]]}},
    }
    payments = pd.DataFrame({"transaction_id": [1, 2], "channel": ["pos", "fax"], "merchant_text": ["abc", None]})
    frame = pd.DataFrame({"transaction_id": [2, 1], "channel_code": [5.0, 5.0], "merchant_text_1": [9.0, 9.0]})
    found = drift.translate(frame, payments, home)
    assert found["channel_code"].tolist() == [-1.0, 2.0]
    assert found["merchant_text_1"].iloc[1] in (1.0, 2.0, 3.0, 4.0) and found["merchant_text_1"].iloc[0] != 9.0
