"""The test weeks stay closed until the champion is named: what they hold cannot change what is trained or tuned."""

from __future__ import annotations

import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from model_data import FEATURES, SCHEMA, SETTINGS, knobs, make_payments, period, write_inputs

from lifecycle import economics, evaluation, files, training, tuning
from lifecycle.contracts import midnight


def close(inputs: dict[str, Path], labels: pd.DataFrame, from_: pd.Timestamp) -> None:
    """Take the test set and all later payments away, so that a reading of them fails or shows; put other labels in."""
    (inputs["features"] / "test_set.parquet").unlink()
    files.write_parquet(labels, inputs["features"] / "labels.parquet")
    path = inputs["preprocessing"] / "transactions.parquet"
    payments = pd.read_parquet(path)
    files.write_parquet(payments[payments["event_time"] < from_], path)


def turned(labels: pd.DataFrame, from_: pd.Timestamp) -> pd.DataFrame:
    """Turn around every label that became known at `from_` or later."""
    late = labels["known_at"] >= from_
    return labels.assign(is_fraud=labels["is_fraud"].where(~late, 1 - labels["is_fraud"]).astype("int8"))


def build(folder: Path, from_: pd.Timestamp) -> dict[str, object]:
    """Train and tune with nothing of what happened from a day on but labels turned around; return what was chosen."""
    inputs = write_inputs(folder, world=False)
    close(inputs, turned(make_payments()[1], from_), from_)
    learn(inputs, folder)
    ladder = files.read_json(folder / "training" / "ladder.json")
    best = files.read_json(folder / "tuning" / "best.json")
    models = {path.parent.name: files.sha256(path) for path in sorted(folder.glob("t*ing/**/model.onnx"))}
    means = {name: found["mean"] for name, found in ladder["models"].items()} | {"tuned": best["mean"]}
    return {"models": models, "means": means, "params": best["params"], "threshold": best["threshold"]}


def learn(inputs: dict[str, Path], folder: Path) -> None:
    """Build training and tuning, and add their folders to the inputs."""
    for stage, module in (("training", training), ("tuning", tuning)):
        out = folder / stage
        out.mkdir()
        with mock.patch.object(module, "track", return_value="none"):  # the experiment store only records
            module.build(knobs(stage, folder / "data", trials=2), inputs, out)
        inputs[stage] = out


@pytest.fixture(scope="module")
def chosen(tmp_path_factory):
    never = midnight("2100-01-01")
    return build(tmp_path_factory.mktemp("as_it_is"), never)


def test_training_and_tuning_never_read_the_test_weeks(chosen, tmp_path_factory):
    assert len(chosen["models"]) >= 4
    assert build(tmp_path_factory.mktemp("turned"), midnight(SETTINGS.test_from)) == chosen


def test_the_comparison_would_notice_labels_that_were_read(chosen, tmp_path_factory):
    a_week_early = midnight(SETTINGS.test_from) - pd.Timedelta(days=7)
    assert build(tmp_path_factory.mktemp("early"), a_week_early)["models"] != chosen["models"]


@pytest.fixture(scope="module")
def learned(tmp_path_factory):
    folder = tmp_path_factory.mktemp("learned")
    inputs = write_inputs(folder, world=False)
    learn(inputs, folder)
    return inputs, folder


def judge(inputs: dict[str, Path], folder: Path, out: Path) -> dict[str, object]:
    """Build evaluation once more and return its report."""
    out.mkdir()
    evaluation.build(knobs("evaluation", folder / "data"), inputs, out)
    return files.read_json(out / "report.json")


def test_the_choice_is_in_the_ledger_before_the_test_weeks_are_scored(learned, tmp_path):
    inputs, _ = learned
    with mock.patch.object(evaluation, "score_test", side_effect=RuntimeError("scored")), pytest.raises(RuntimeError):
        judge(inputs, tmp_path, tmp_path / "out")
    (entry,) = files.read_json(tmp_path / "data" / "openings.json")
    ladder = files.read_json(inputs["training"] / "ladder.json")["models"]
    tuned = files.read_json(inputs["tuning"] / "best.json")
    found = {**ladder, tuned["name"]: tuned}[entry["champion"]]
    assert entry["threshold"] == round(found["threshold"], 6)
    assert entry["validation_average_precision"] == round(found["mean"]["average_precision"], 6)


def test_evaluation_reads_its_test_set_through_the_ledger_alone(learned, tmp_path):
    inputs, _ = learned
    with mock.patch.object(evaluation, "open_test", side_effect=RuntimeError("closed")), pytest.raises(RuntimeError):
        judge({**inputs, "features": tmp_path}, tmp_path, tmp_path / "out")  # nothing was read before


def test_the_test_weeks_are_opened_once_and_another_choice_is_a_second_opening(learned, tmp_path):
    inputs, _ = learned
    for again in ("first", "again"):
        report = judge(inputs, tmp_path, tmp_path / again)
        assert report["opening"]["number"] == 1
        page = (tmp_path / again / "report.html").read_text()
        assert "times, each time for another choice" not in page
    champion = report["champion"]["name"]
    ladder = files.read_json(inputs["training"] / "ladder.json")
    tuned = files.read_json(inputs["tuning"] / "best.json")
    for found in (*ladder["models"].values(), tuned):  # somebody has seen the report and prefers another model
        found["mean"]["average_precision"] = 1 - found["mean"]["average_precision"]
    other = {**inputs, "training": tmp_path / "training", "tuning": tmp_path / "tuning"}
    shutil.copytree(inputs["training"], other["training"])
    shutil.copytree(inputs["tuning"], other["tuning"])
    files.write_json(ladder, other["training"] / "ladder.json")
    files.write_json(tuned, other["tuning"] / "best.json")
    report = judge(other, tmp_path, tmp_path / "other")
    assert report["champion"]["name"] != champion
    assert report["opening"]["number"] == 2 and report["opening"]["earlier"][0]["champion"] == champion
    assert "opened 2 times, each time for another choice" in (tmp_path / "other" / "report.html").read_text()


@pytest.mark.parametrize("name", ["logistic_regression", "random_forest", "gradient_boosting"])
def test_onnx_decides_like_scikit_learn_on_the_whole_test_period(name, tmp_path):
    frame, labels = make_payments()
    train = period(frame, labels, SETTINGS.train_from, SETTINGS.train_until, SETTINGS.test_from).dropna(
        subset="is_fraud"
    )
    test = period(frame, labels, SETTINGS.test_from, SETTINGS.test_until, SETTINGS.deploy_at)
    fraud, matrix = train["is_fraud"].to_numpy(dtype=int), training.feature_matrix(train, SCHEMA)
    fitted = training.fit_model(name, matrix, fraud, list(FEATURES), 0)
    threshold, _ = economics.best_threshold(fraud, train["amount"], fitted.predict_proba(matrix)[:, 1], SETTINGS)
    model = training.save_model(fitted, SCHEMA, tmp_path, name=name, threshold=threshold)
    closed = training.feature_matrix(test, SCHEMA)
    ours, theirs = model.predict(closed), fitted.predict_proba(closed)[:, 1]
    assert np.abs(ours - theirs).max() < 1e-5
    assert ((ours >= threshold) == (theirs >= threshold)).all() and 0 < (ours >= threshold).mean() < 1
