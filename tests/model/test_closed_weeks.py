"""The test weeks stay closed until the champion is named: what they hold cannot change what is trained or tuned."""

from __future__ import annotations

from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from model_data import FEATURES, SCHEMA, SETTINGS, knobs, make_payments, period, write_inputs

from lifecycle import economics, files, training, tuning
from lifecycle.contracts import midnight


def close(inputs: dict[str, Path], labels: pd.DataFrame) -> None:
    """Take the test set away, so that a reading of it fails, and put other labels in place."""
    (inputs["features"] / "test_set.parquet").unlink()
    files.write_parquet(labels, inputs["features"] / "labels.parquet")


def turned(labels: pd.DataFrame, from_: pd.Timestamp) -> pd.DataFrame:
    """Turn around every label that became known at `from_` or later."""
    late = labels["known_at"] >= from_
    return labels.assign(is_fraud=labels["is_fraud"].where(~late, 1 - labels["is_fraud"]).astype("int8"))


def build(folder: Path, from_: pd.Timestamp) -> dict[str, object]:
    """Train and tune without the test set, on labels turned around from a day on; return what was chosen."""
    inputs = write_inputs(folder, world=False)
    close(inputs, turned(make_payments()[1], from_))
    for stage, module in (("training", training), ("tuning", tuning)):
        out = folder / stage
        out.mkdir()
        with mock.patch.object(module, "track", return_value="none"):  # the experiment store only records
            module.build(knobs(stage, folder / "data", trials=2), inputs, out)
        inputs[stage] = out
    ladder = files.read_json(folder / "training" / "ladder.json")
    best = files.read_json(folder / "tuning" / "best.json")
    models = {path.parent.name: files.sha256(path) for path in sorted(folder.glob("t*ing/**/model.onnx"))}
    means = {name: found["mean"] for name, found in ladder["models"].items()} | {"tuned": best["mean"]}
    return {"models": models, "means": means, "params": best["params"], "threshold": best["threshold"]}


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
