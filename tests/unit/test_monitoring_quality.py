"""Ground truth and model quality, in the published formats of Model Monitor."""

import json

import numpy as np
import pandas as pd
import pytest
from sklearn import metrics

from lifecycle import files, monitoring
from lifecycle.errors import LifecycleError
from lifecycle.monitoring import quality

KNOWN = pd.to_datetime(["2025-11-03T10:15:00Z", "2025-11-03T10:45:00Z", "2025-11-05T00:00:00Z"]).as_unit("us")


def labels(truth=(1, 0, 1), ids=(11, 12, 13), known=KNOWN):
    return pd.DataFrame({"transaction_id": ids, "is_fraud": truth, "known_at": known})


def judged(rows=4000, seed=3, shift=0.0):
    rng = np.random.default_rng(seed)
    fraud = (rng.random(rows) < 0.05).astype(int)
    score = np.clip(rng.normal(0.2 + (0.4 - shift) * fraud, 0.15), 0, 1)
    return pd.DataFrame({"transaction_id": range(rows), "score": score, "flagged": score >= 0.5, "is_fraud": fraud})


def test_a_label_is_one_line_in_the_folder_of_its_hour(tmp_path):
    assert quality.write_ground_truth(labels(), tmp_path) == 3
    assert sorted(str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*.jsonl")) == [
        "2025/11/03/10/labels.jsonl",
        "2025/11/05/00/labels.jsonl",
    ]
    first = (tmp_path / "2025/11/03/10/labels.jsonl").read_text().splitlines()[0]
    assert json.loads(first) == {
        "groundTruthData": {"data": "1", "encoding": "CSV"},
        "eventMetadata": {"eventId": "11"},
        "eventVersion": "0",
    }
    read = quality.read_ground_truth(tmp_path)
    assert read["is_fraud"].tolist() == [1, 0, 1] and read["transaction_id"].tolist() == ["11", "12", "13"]
    assert (read["collected"] > KNOWN).all() and read["collected"].iloc[0] == pd.Timestamp("2025-11-03T11:00Z")


def test_a_label_that_came_later_counts_only_then(tmp_path):
    quality.write_ground_truth(labels(truth=(0, 0, 1), ids=(11, 12, 11)), tmp_path)
    truth = quality.read_ground_truth(tmp_path)
    captured = pd.DataFrame({"transaction_id": [11, 12, 99], "score": [0.9, 0.1, 0.5], "flagged": [True, False, True]})
    early = quality.merge(captured, truth, pd.Timestamp("2025-11-04", tz="UTC"))
    assert early["is_fraud"].tolist() == [0, 0] and quality.merge(captured, truth)["is_fraud"].tolist() == [1, 0]
    assert quality.merge(captured, truth, pd.Timestamp("2025-11-03T10:59Z")).empty


def test_the_metrics_are_those_of_scikit_learn_with_the_spread_of_a_bootstrap():
    merged = judged()
    made = quality.describe_quality(merged, samples=200)["binary_classification_metrics"]
    fraud, said = merged["is_fraud"], merged["flagged"].astype(int)
    expected = {
        "accuracy": metrics.accuracy_score(fraud, said),
        "precision": metrics.precision_score(fraud, said),
        "recall": metrics.recall_score(fraud, said),
        "f1": metrics.f1_score(fraud, said),
        "auc": metrics.roc_auc_score(fraud, merged["score"]),
        "au_prc": metrics.average_precision_score(fraud, merged["score"]),
        "accuracy_best_constant_classifier": 1 - fraud.mean(),
    }
    for name, value in expected.items():
        assert made[name]["value"] == pytest.approx(value, abs=1e-12), name
    matrix = metrics.confusion_matrix(fraud, said)
    assert [[made["confusion_matrix"][t][s] for s in "01"] for t in "01"] == matrix.tolist()
    recall = expected["recall"]
    by_formula = np.sqrt(recall * (1 - recall) / fraud.sum())
    assert made["recall"]["standard_deviation"] == pytest.approx(by_formula, rel=0.2)


def test_what_is_not_defined_is_null_and_violates_nothing():
    honest = judged().query("is_fraud == 0").assign(flagged=False)
    made = quality.describe_quality(honest)
    assert made["binary_classification_metrics"]["recall"] == {"value": None, "standard_deviation": None}
    json.dumps(made, allow_nan=False)
    limits = quality.suggest_quality(quality.describe_quality(judged()))
    assert "recall" not in {v["metric_name"] for v in quality.check_quality(made, limits)["violations"]}


def test_a_worse_model_violates_and_the_clean_weeks_do_not():
    clean = [quality.describe_quality(judged(seed=seed)) for seed in range(5)]
    limits = quality.suggest_quality(*clean)
    assert "accuracy" not in limits["binary_classification_constraints"]
    for week in clean:
        assert quality.check_quality(week, limits) == {"version": 0.0, "violations": []}
    found = quality.check_quality(quality.describe_quality(judged(seed=9, shift=0.2)), limits)["violations"]
    by_name = {violation["metric_name"]: violation for violation in found}
    assert by_name["recall"]["constraint_check_type"] == "LessThanThreshold"
    assert by_name["false_negative_rate"]["constraint_check_type"] == "GreaterThanThreshold"
    assert "was LessThanThreshold" in by_name["recall"]["description"]


@pytest.mark.parametrize(
    ("line", "sentence"),
    [
        ("{}", "line 1: this is no ground truth"),
        ('{"groundTruthData": {"data": "yes"}, "eventMetadata": {"eventId": "1"}}', "the label is 'yes'"),
    ],
)
def test_a_broken_label_is_named_with_file_and_line(tmp_path, line, sentence):
    file = tmp_path / "2025" / "11" / "03" / "10" / "labels.jsonl"
    file.parent.mkdir(parents=True)
    file.write_text(line + "\n")
    with pytest.raises(LifecycleError, match=sentence):
        quality.read_ground_truth(tmp_path)


def test_no_ground_truth_or_one_outside_its_hour_is_a_sentence(tmp_path):
    with pytest.raises(LifecycleError, match="there is no ground truth in it"):
        quality.read_ground_truth(tmp_path / "none")
    (tmp_path / "labels.jsonl").write_text("{}\n")
    with pytest.raises(LifecycleError, match="by the hour it was collected"):
        quality.read_ground_truth(tmp_path)


def _capture(folder, merged):
    folder.mkdir()
    requests = "".join(f'{{"transaction_id": {i}, "amount": 5.0}}\n' for i in merged["transaction_id"])
    answers = "".join(
        json.dumps({"transaction_id": i, "score": s, "decision": "review" if f else "approve"}) + "\n"
        for i, s, f in merged[["transaction_id", "score", "flagged"]].itertuples(index=False)
    )
    sides = {
        "endpointInput": {"observedContentType": "application/jsonlines", "data": requests, "encoding": "JSON"},
        "endpointOutput": {"observedContentType": "application/jsonlines", "data": answers, "encoding": "JSON"},
    }
    event = {"captureData": sides, "eventMetadata": {"eventId": "1", "inferenceTime": "2025-11-03T10:00:00Z"}}
    (folder / "calls.jsonl").write_text(json.dumps(event) + "\n")


def test_the_command_judges_a_capture_by_its_ground_truth(tmp_path, capsys):
    from lifecycle.__main__ import main

    good, bad = judged(rows=500), judged(rows=500, shift=0.4)
    monitoring.write_baseline(pd.DataFrame({"amount": [5.0] * 10}), tmp_path / "baseline")
    limits = quality.suggest_quality(quality.describe_quality(good))
    files.write_json(limits, tmp_path / "baseline" / "quality" / "constraints.json")
    known = pd.Timestamp("2025-11-20T10:00Z")
    quality.write_ground_truth(labels(bad["is_fraud"], bad["transaction_id"], known), tmp_path / "truth")
    _capture(tmp_path / "captured", bad)
    words = ["monitor", "--baseline", "baseline", "--captured", "captured", "--out", "out", "--ground-truth", "truth"]
    assert main([str(tmp_path / w) if w in ("baseline", "captured", "out", "truth") else w for w in words]) == 0
    violations = files.read_json(tmp_path / "out" / "quality" / "constraint_violations.json")["violations"]
    assert {"recall", "auc"} <= {violation["metric_name"] for violation in violations}
    statistics = files.read_json(tmp_path / "out" / "quality" / "statistics.json")
    assert statistics["dataset"]["item_count"] == 500
    every = len(violations) + len(files.read_json(tmp_path / "out" / "constraint_violations.json")["violations"])
    assert f"{every} violations" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("broken", "labeled", "sentence"),
    [
        (None, 901, "No captured payment has a label yet"),
        ("constraints.json", 1, "has no list of features"),
        ("quality/constraints.json", 1, "lack the part 'binary_classification_constraints'"),
    ],
)
def test_whatever_is_wrong_is_a_sentence_and_nothing_is_written(tmp_path, broken, labeled, sentence):
    baseline = tmp_path / "baseline"
    monitoring.write_baseline(pd.DataFrame({"amount": [5.0] * 10}), baseline)
    files.write_json({"binary_classification_constraints": {}}, baseline / "quality" / "constraints.json")
    if broken:
        files.write_json({"version": 0.0}, baseline / broken)
    quality.write_ground_truth(labels(ids=(labeled, labeled + 1, labeled + 2)), tmp_path / "truth")
    _capture(tmp_path / "captured", judged(rows=50))
    with pytest.raises(LifecycleError, match=sentence):
        monitoring.monitor(baseline, tmp_path / "captured", tmp_path / "out", tmp_path / "truth")
    assert not (tmp_path / "out").exists()
