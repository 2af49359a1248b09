"""statistics.json, constraints.json, constraint_violations.json and data capture: the published formats."""

import base64
import gzip
import json

import numpy as np
import pandas as pd
import pytest

from lifecycle import monitoring
from lifecycle.errors import LifecycleError
from lifecycle.monitoring.capture import preprocess, read_capture
from lifecycle.monitoring.constraints import CHECKS, check, distance_of, suggest
from lifecycle.monitoring.drift import numeric_distance
from lifecycle.monitoring.statistics import describe, infer_type, make_sketch, read_sketch


def baseline_frame(rows=2000):
    generator = np.random.default_rng(5)
    return pd.DataFrame(
        {
            "amount": np.round(generator.lognormal(3, 0.8, rows), 2),
            "hour": generator.integers(0, 24, rows),
            "channel": generator.choice(["pos", "contactless", "online"], rows),
        }
    )


def violations_of(chunk, baseline=None):
    statistics = describe(baseline_frame() if baseline is None else baseline)
    constraints = suggest(statistics)
    types = {feature["name"]: feature["inferred_type"] for feature in constraints["features"]}
    found = check(chunk, describe(chunk, types), statistics, constraints)["violations"]
    return {(violation["feature_name"], violation["constraint_check_type"]) for violation in found}


def test_statistics_have_the_published_shape():
    made = describe(baseline_frame())
    assert set(made) == {"version", "dataset", "features"}
    assert made["dataset"] == {"item_count": 2000}
    amount, hour, channel = made["features"]
    assert (amount["inferred_type"], hour["inferred_type"], channel["inferred_type"]) == (
        "Fractional",
        "Integral",
        "String",
    )
    numerical = amount["numerical_statistics"]
    assert set(numerical) == {"common", "mean", "sum", "std_dev", "min", "max", "distribution"}
    kll = numerical["distribution"]["kll"]
    assert len(kll["buckets"]) == 10
    assert set(kll["buckets"][0]) == {"lower_bound", "upper_bound", "count"}
    assert kll["sketch"]["parameters"] == {"c": 0.64, "k": 2048.0}
    strings = channel["string_statistics"]
    assert strings["distinct_count"] == 3
    assert set(strings["distribution"]["categorical"]["buckets"][0]) == {"value", "count"}
    json.dumps(made, allow_nan=False)


def test_statistics_equal_those_of_pandas():
    frame = baseline_frame()
    frame.loc[:99, "amount"] = np.nan
    numerical = describe(frame)["features"][0]["numerical_statistics"]
    assert numerical["common"] == {"num_present": 1900, "num_missing": 100}
    assert numerical["mean"] == pytest.approx(frame["amount"].mean())
    assert numerical["std_dev"] == pytest.approx(frame["amount"].std(ddof=0))
    buckets = numerical["distribution"]["kll"]["buckets"]
    assert sum(bucket["count"] for bucket in buckets) == 1900
    assert buckets[0]["lower_bound"] == frame["amount"].min()
    assert buckets[-1]["upper_bound"] == pytest.approx(frame["amount"].max())


@pytest.mark.parametrize("rows", [1, 2047, 2048, 2049, 5003, 100_001])
def test_sketch_keeps_the_count_and_every_rank_within_its_promise(rows):
    values = np.sort(np.random.default_rng(rows).normal(size=rows))
    sketch = make_sketch(values)
    kept, weights = read_sketch({"distribution": {"kll": {"sketch": sketch}}})
    assert weights.sum() == rows
    assert len(kept) <= 2048 + 20
    assert numeric_distance(values, kept, current_weights=weights) < 2 / 2048


def test_types_are_inferred_from_the_values():
    assert infer_type(pd.Series([1, 2], dtype="int64")) == "Integral"
    assert infer_type(pd.Series([1.0, 2.0])) == "Integral"
    assert infer_type(pd.Series(["1.0", "2"])) == "Fractional"
    assert infer_type(pd.Series([1, "x"])) == "String"
    assert infer_type(pd.Series([None, np.nan], dtype=object)) == "Unknown"
    assert infer_type(pd.Series(["a", "b"], dtype="category")) == "String"


def test_describe_accepts_extremes_and_refuses_nothing():
    frame = pd.DataFrame({"same": [3.0] * 5, "gone": [None] * 5, "far": [1.0, np.inf, -np.inf, np.nan, 2.0]})
    json.dumps(describe(frame), allow_nan=False)
    with pytest.raises(LifecycleError, match="no records"):
        describe(frame.iloc[:0])


def test_suggested_constraints_have_the_published_shape():
    frame = baseline_frame()
    frame.loc[:19, "channel"] = None
    made = suggest(describe(frame))
    amount, _, channel = made["features"]
    assert amount["num_constraints"] == {"is_non_negative": True}
    assert channel["completeness"] == pytest.approx(0.99)
    assert channel["string_constraints"]["domains"] == ["contactless", "online", "pos"]
    assert channel["monitoringConfigOverrides"] == {}
    config = made["monitoring_config"]
    assert (config["datatype_check_threshold"], config["domain_content_threshold"]) == (1.0, 1.0)
    assert config["distribution_constraints"]["comparison_method"] == "Robust"


def test_a_clean_chunk_has_no_violation():
    assert violations_of(baseline_frame().sample(500, random_state=0)) == set()


def test_each_of_the_six_checks_fires_alone():
    clean = baseline_frame().sample(1000, random_state=0).reset_index(drop=True)
    text = clean.astype({"amount": object})
    text.loc[0, "amount"] = "12 EUR"
    assert ("amount", "data_type_check") in violations_of(text)
    assert violations_of(clean.assign(hour=clean["hour"].where(clean.index > 0))) == {("hour", "completeness_check")}
    assert violations_of(clean.assign(amount=clean["amount"] * 1.6)) == {("amount", "baseline_drift_check")}
    assert violations_of(clean.drop(columns="hour")) == {("hour", "missing_column_check")}
    assert violations_of(clean.assign(extra=1)) == {("extra", "extra_column_check")}
    odd = clean.assign(channel=clean["channel"].where(clean.index > 0, "telepathy"))
    assert violations_of(odd) == {("channel", "categorical_values_check")}
    assert len(CHECKS) == 6


def test_overrides_switch_a_feature_off_and_thresholds_are_honored():
    statistics = describe(baseline_frame())
    constraints = suggest(statistics)
    chunk = baseline_frame().assign(channel="online", amount=lambda f: f["amount"] * 3)
    constraints["features"][2]["monitoringConfigOverrides"] = {"evaluate_constraints": "Disabled"}
    constraints["monitoring_config"]["distribution_constraints"]["comparison_threshold"] = 0.99
    assert check(chunk, describe(chunk), statistics, constraints) == {"violations": []}
    constraints["monitoring_config"]["evaluate_constraints"] = "Disabled"
    assert check(chunk.drop(columns="hour"), describe(chunk), statistics, constraints) == {"violations": []}


def test_distance_between_files_is_that_of_the_data():
    a, b = baseline_frame(30_000), baseline_frame(30_000).assign(amount=lambda f: f["amount"] * 1.25)
    one, two = describe(a)["features"][0], describe(b)["features"][0]
    expected = numeric_distance(a["amount"].to_numpy(), b["amount"].to_numpy())
    assert distance_of(one, two, "Simple") == pytest.approx(expected, abs=2e-3)


# Data capture -------------------------------------------------------------------------------------------------

ROWS = [
    {"transaction_id": 1, "event_time": "2025-11-03T10:00:00+00:00", "customer_id": 5, "terminal_id": 7, "amount": 9.5},
    {"transaction_id": 2, "event_time": "2025-11-03T11:00:00+00:00", "customer_id": 6, "terminal_id": 8, "amount": 20},
]
ANSWERS = [
    {"transaction_id": 1, "score": 0.25, "decision": "accept"},
    {"transaction_id": 2, "score": 0.75, "decision": "review"},
]


def side(mode, kind, data, encoding):
    return {"observedContentType": kind, "mode": mode, "data": data, "encoding": encoding}


def captured(request, answer):
    return json.dumps(
        {
            "captureData": {"endpointInput": request, "endpointOutput": answer},
            "eventMetadata": {"eventId": "e1", "inferenceTime": "2025-11-03T12:00:00Z"},
            "eventVersion": "0",
        }
    )


def as_lines(rows):
    return "\n".join(json.dumps(row) for row in rows)


def csv_of(rows, header):
    return pd.DataFrame(rows).to_csv(index=False, header=header)


def base64_of(text):
    return base64.b64encode(text.encode()).decode()


REQUESTS = {
    "json list": side("INPUT", "application/json", json.dumps(ROWS), "JSON"),
    "json envelope": side("INPUT", "application/json", json.dumps({"transactions": ROWS}), "JSON"),
    "json lines": side("INPUT", "application/jsonlines", as_lines(ROWS), "JSON"),
    "json lines, base64": side("INPUT", "application/jsonlines", base64_of(as_lines(ROWS)), "BASE64"),
    "csv": side("INPUT", "text/csv", csv_of(ROWS, True), "CSV"),
    "csv without header": side("INPUT", "text/csv", csv_of(ROWS, False), "CSV"),
    "csv, base64": side("INPUT", "text/csv", base64_of(csv_of(ROWS, True)), "BASE64"),
}  # fmt: skip


@pytest.mark.parametrize("form", REQUESTS)
def test_every_encoding_of_a_request_gives_the_same_table(tmp_path, form):
    answer = side("OUTPUT", "application/json", json.dumps(ANSWERS[::-1]), "JSON")
    folder = tmp_path / "bank" / "main" / "2025" / "11" / "03" / "12"
    folder.mkdir(parents=True)
    (folder / "a.jsonl").write_text(captured(REQUESTS[form], answer) + "\n")
    made = read_capture(tmp_path)
    assert made["transaction_id"].tolist() == [1, 2]
    assert made["amount"].astype(float).tolist() == [9.5, 20.0]
    assert made["score"].tolist() == [0.25, 0.75]  # matched by id, although the answer came in another order
    assert str(made["inference_time"].dtype) == "datetime64[us, UTC]"


def test_answers_without_ids_are_matched_by_position_and_compressed_files_are_read(tmp_path):
    answer = side("OUTPUT", "text/csv", "0.25\n0.75\n", "CSV")
    with gzip.open(tmp_path / "a.jsonl.gz", "wt") as file:
        file.write(captured(REQUESTS["csv"], answer))
    assert read_capture(tmp_path)["score"].tolist() == [0.25, 0.75]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", r"a\.jsonl, line 2: this is not valid JSON"),
        ('{"captureData": {}}', r"a\.jsonl, line 2: this is not a captured call"),
        ("[1]", r"a\.jsonl, line 2: this is not a captured call"),
        (captured(side("INPUT", "text/csv", "%%%", "BASE64"), {}), r"line 2: the captured data cannot be decoded"),
        (captured(side("INPUT", "text/csv", "1", "XML"), {}), r"line 2: .*unknown encoding 'XML'"),
        (captured(side("INPUT", "application/json", '"text"', "JSON"), {}), r"line 2: .*neither a record nor a list"),
    ],
)
def test_a_broken_line_is_named_by_file_and_line(tmp_path, line, message):
    answer = side("OUTPUT", "application/json", json.dumps(ANSWERS), "JSON")
    (tmp_path / "a.jsonl").write_text(captured(REQUESTS["json list"], answer) + "\n" + line + "\n")
    with pytest.raises(LifecycleError, match=message):
        read_capture(tmp_path)


def test_a_missing_or_empty_capture_is_an_error_in_one_sentence(tmp_path):
    with pytest.raises(LifecycleError, match="File not found"):
        read_capture(tmp_path / "nowhere")
    with pytest.raises(LifecycleError, match=r"no \.jsonl file"):
        read_capture(tmp_path)
    (tmp_path / "a.jsonl").write_text("\n")
    with pytest.raises(LifecycleError, match="no records"):
        read_capture(tmp_path)


def test_a_different_number_of_answers_is_an_error(tmp_path):
    (tmp_path / "a.jsonl").write_text(captured(REQUESTS["csv"], side("OUTPUT", "text/csv", "0.5\n", "CSV")))
    with pytest.raises(LifecycleError, match="2 records were sent and 1 answered"):
        read_capture(tmp_path)


def test_preprocessing_drops_what_always_differs():
    kept = preprocess(pd.DataFrame(ROWS))
    assert list(kept.columns) == ["amount", "hour"]
    assert kept["hour"].tolist() == [10, 11]


def test_monitor_writes_the_files_and_counts_the_violations(tmp_path):
    answer = side("OUTPUT", "application/json", json.dumps(ANSWERS), "JSON")
    (tmp_path / "captured").mkdir()
    (tmp_path / "captured" / "a.jsonl").write_text(captured(REQUESTS["json lines"], answer) + "\n")
    clean = preprocess(read_capture(tmp_path / "captured"))
    monitoring.write_baseline(clean, tmp_path / "baseline")
    assert monitoring.monitor(tmp_path / "baseline", tmp_path / "captured", tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "constraint_violations.json").read_text()) == {"violations": []}
    monitoring.write_baseline(clean.assign(device="phone"), tmp_path / "other")
    assert monitoring.monitor(tmp_path / "other", tmp_path / "captured", tmp_path / "out") == 1
    found = json.loads((tmp_path / "out" / "constraint_violations.json").read_text())["violations"]
    assert set(found[0]) == {"feature_name", "constraint_check_type", "description"}


def test_monitor_names_a_missing_or_foreign_baseline(tmp_path):
    answer = side("OUTPUT", "application/json", json.dumps(ANSWERS), "JSON")
    (tmp_path / "a.jsonl").write_text(captured(REQUESTS["csv"], answer) + "\n")
    with pytest.raises(LifecycleError, match="statistics.json"):
        monitoring.monitor(tmp_path, tmp_path / "a.jsonl", tmp_path / "out")
    (tmp_path / "statistics.json").write_text("{}")
    (tmp_path / "constraints.json").write_text("{}")
    with pytest.raises(LifecycleError, match="no list of features"):
        monitoring.monitor(tmp_path, tmp_path / "a.jsonl", tmp_path / "out")
    (tmp_path / "constraints.json").write_text('{"features": []}')
    with pytest.raises(LifecycleError, match="lack the part"):
        monitoring.monitor(tmp_path, tmp_path / "a.jsonl", tmp_path / "out")
    assert not (tmp_path / "out").exists()
