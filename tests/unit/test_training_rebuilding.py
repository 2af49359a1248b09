"""A finished run can be fitted again from its record, and only from the same data and code."""

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from model_data import FEATURES, knobs, write_inputs

from lifecycle import files, training
from lifecycle.errors import LifecycleError
from lifecycle.training import rebuilding, tracking


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    data_dir = tmp_path_factory.mktemp("rebuilding")
    inputs, out = write_inputs(data_dir / "artifacts", rows=6_000), data_dir / "artifacts" / "training"
    out.mkdir()
    with pytest.MonkeyPatch.context() as patch:  # quick models, with other hyperparameters than the code has
        patch.setitem(training.PARAMS, "random_forest", {**training.PARAMS["random_forest"], "n_estimators": 4})
        fewer = {**training.PARAMS["gradient_boosting"], "max_iter": 8, "l2_regularization": 1.7}
        patch.setitem(training.PARAMS, "gradient_boosting", fewer)
        training.build(knobs("training", data_dir), inputs, out)
    models = files.read_json(out / "ladder.json")["models"]
    return data_dir, inputs, {name: found["run_id"] for name, found in models.items()}


@pytest.fixture
def changed_file(built, request):
    """A file that the run read, with one byte more; it is what it was again after the test."""
    file = built[1]["features"] / f"{request.param}.parquet"
    content = file.read_bytes()
    file.write_bytes(content + b" ")
    yield file
    file.write_bytes(content)


def test_every_rung_is_rebuilt_to_the_last_digit_whatever_the_code_would_choose_today(built):
    data_dir, _, runs = built
    for name, run_id in runs.items():
        found = rebuilding.rebuild(data_dir, run_id)
        assert found["rebuilt"] == found["recorded"] and len(found["recorded"]["auc"]) == 2
        assert found["rebuilt_model"] == found["recorded_model"]
        assert (found["recorded_model"] is not None) == (name in training.CLASSIFIERS)


def test_a_run_on_a_sample_is_rebuilt_from_the_same_sample(tmp_path):
    inputs, out = write_inputs(tmp_path / "artifacts", rows=6_000), tmp_path / "artifacts" / "training"
    out.mkdir()
    training.build(knobs("training", tmp_path, most_rows=1_500), inputs, out)
    ladder = files.read_json(out / "ladder.json")
    assert 0 < ladder["share_of_payments"] < 0.8
    for name in ("rule", "logistic_regression"):
        found = rebuilding.rebuild(tmp_path, ladder["models"][name]["run_id"])
        assert found["rebuilt"] == found["recorded"]


def test_the_experiment_store_is_made_without_a_word(tmp_path):
    code = f"from lifecycle.training import open_tracking; open_tracking({str(tmp_path)!r})"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, check=True)
    assert (tmp_path / "mlflow" / "mlflow.db").exists() and done.stderr == done.stdout == ""


def test_a_store_that_was_moved_finds_its_artifacts_where_they_are_now(built, tmp_path):
    data_dir, _, runs = built
    shutil.copytree(data_dir / "mlflow", tmp_path / "mlflow")
    client, experiment = training.open_tracking(tmp_path)
    here = (tmp_path / "mlflow" / "artifacts").as_uri()
    assert client.get_experiment(experiment).artifact_location == here
    for run_id in runs.values():
        assert client.get_run(run_id).info.artifact_uri == f"{here}/{run_id}/artifacts"
        assert [item.path for item in client.list_artifacts(run_id, "figures")] == ["figures/precision_recall.png"]
    left, _ = training.open_tracking(data_dir)
    assert left.get_run(run_id).info.artifact_uri.startswith(data_dir.as_uri())


def test_what_a_run_needs_is_recorded_for_every_rung(built):
    data_dir, inputs, runs = built
    client, _ = training.open_tracking(data_dir)
    for name, run_id in runs.items():
        run, record = client.get_run(run_id), rebuilding.read_record(data_dir, run_id)
        assert record.features == list(FEATURES)
        assert record.params.get("l2_regularization") == (1.7 if name == "gradient_boosting" else None)
        assert record.settings.train_until == knobs("training", data_dir).train_until
        assert record.tags["dataset_sha256"] == files.sha256(inputs["features"] / "training_set.parquet")
        assert {"code_version", "schema_sha256"} <= set(record.tags)
        assert ("model_version" in record.tags) == (name in training.CLASSIFIERS)
        assert [item.path for item in client.list_artifacts(run_id, "figures")] == ["figures/precision_recall.png"]
        assert run.inputs.dataset_inputs[0].dataset.name == "training_set"
        assert {"average_precision", "mean_auc", "threshold", "savings"} <= set(run.data.metrics)


@pytest.mark.parametrize("changed_file", ["training_set", "labels"], indirect=True)
def test_changed_data_is_refused_by_name_and_hash(built, changed_file):
    data_dir, _, runs = built
    with pytest.raises(LifecycleError, match=rf"read another .*{changed_file.name} .SHA-256 [0-9a-f]{{12}}"):
        rebuilding.rebuild(data_dir, runs["gradient_boosting"])
    changed_file.unlink()
    with pytest.raises(LifecycleError, match=rf"{changed_file.name}, which is gone"):
        rebuilding.rebuild(data_dir, runs["gradient_boosting"])


def test_changed_code_is_refused(built, monkeypatch):
    data_dir, _, runs = built
    monkeypatch.setattr(rebuilding, "code_version", lambda stage: f"other {stage}")
    with pytest.raises(LifecycleError, match="this is other training: the code of the stage or a library has changed"):
        rebuilding.rebuild(data_dir, runs["rule"])


def test_a_run_that_is_not_there_or_of_another_kind_is_one_sentence(built):
    data_dir, _, _ = built
    with pytest.raises(LifecycleError, match="has no run 'nowhere'"):
        rebuilding.rebuild(data_dir, "nowhere")
    dataset = {"name": "training_set", "digest": "0" * 64}
    foreign = tracking.log_run(data_dir, "somebody's model", {}, {"auc": 0.5}, dataset, {})
    with pytest.raises(LifecycleError, match="does not hold what is needed to fit it again"):
        rebuilding.rebuild(data_dir, foreign)


def test_the_detector_does_not_look_at_labels():
    matrix = np.random.default_rng(0).normal(size=(500, len(FEATURES))).astype("float32")
    matrix[0] = 50
    with_labels = training.fit_model(training.DETECTOR, matrix, np.ones(500, int), list(FEATURES), 3)
    without = training.fit_model(training.DETECTOR, matrix, np.zeros(500, int), list(FEATURES), 3)
    score = training.score_rows(without, matrix)
    assert (training.score_rows(with_labels, matrix) == score).all() and score.argmax() == 0
    assert score.min() >= 0 and score.max() <= 1


def test_the_ladder_says_what_each_rung_adds(built):
    data_dir, _, _ = built
    ladder = json.loads((data_dir / "artifacts" / "training" / "ladder.json").read_text())
    assert [step["rung"] for step in ladder["steps"]] == list(training.LADDER[1:])
    for step in ladder["steps"]:
        here, below = (ladder["models"][step[key]]["average_precision"] for key in ("rung", "over"))
        assert step["by_fold"] == pytest.approx(np.subtract(here, below), abs=1e-6)
        assert step["low"] <= step["value"] <= step["high"]


def test_the_order_of_operator_sets_does_not_change_the_file(monkeypatch):
    import skl2onnx
    from sklearn.linear_model import LogisticRegression

    from lifecycle.training.artifact import to_onnx

    model = LogisticRegression().fit([[0.0], [1.0]], [0, 1])
    convert = skl2onnx.convert_sklearn
    files_of = []
    for reverse in (False, True):

        def shuffled(*arguments, reverse=reverse, **options):
            graph = convert(*arguments, **options)
            sets = sorted(graph.opset_import, key=lambda one: one.domain, reverse=reverse)
            del graph.opset_import[:]
            graph.opset_import.extend(sets)
            return graph

        monkeypatch.setattr(skl2onnx, "convert_sklearn", shuffled)
        files_of.append(to_onnx(model, 1))
    assert files_of[0] == files_of[1]
