"""The consortium's stage: what the curve compares, on which labels, and what it says about crossings."""

import pandas as pd
import pytest
from model_data import SETTINGS, knobs, write_inputs

from lifecycle import consortium, files
from lifecycle.contracts import midnight
from lifecycle.training import known_rows, read_training


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Build the stage with two small banks of the same kind and different customers."""
    folder = tmp_path_factory.mktemp("consortium")
    local = write_inputs(folder / "local", rows=12_000)
    home = write_inputs(folder / "home", rows=9_000)
    inputs = local | {f"consortium:{name}": home[name] for name in ("features", "preprocessing")}
    settings = knobs("consortium", folder)
    out = folder / "out"
    out.mkdir()
    consortium.build(settings, inputs, out)
    return out, inputs, settings


def test_the_stage_leaves_a_model_that_passes_the_check(built):
    out, _, _ = built
    digest = files.read_json(out / "release.json")["sha256"]
    card = consortium.check_pretrained(out / "pretrained", digest)
    assert card["metrics_at_home"]["average_precision"] > 0.2  # guessing reaches 0.03
    assert card["population"]["frauds"] > 50


def test_the_published_model_is_the_same_whatever_the_local_labels(built):
    out, _, _ = built
    table = pd.read_parquet(out / "curve.parquet")
    direct = table[table["method"] == "direct"].pivot(
        index=["repeat", "draw"], columns="days", values="average_precision"
    )
    assert (direct.nunique(axis=1) == 1).all()


def test_the_longest_run_of_labels_is_all_that_was_known_at_the_moment(built):
    out, inputs, settings = built
    moment = midnight("2025-08-22")  # ten days, a third of the period, before its end
    assert files.read_json(out / "curve.json")["labels_as_of"] == "2025-08-22"
    data = read_training(inputs, settings)
    rows, known = known_rows(data.frame, data.labels, moment)
    table = pd.read_parquet(out / "curve.parquet")
    most = table[table["days"] == table["days"].max()]
    assert table["days"].max() == (moment - midnight(SETTINGS.train_from)).days - SETTINGS.label_delay_days
    assert 0.5 * known.sum() < most["frauds"].min() and most["frauds"].max() < known.sum()
    assert data.frame["event_time"].iloc[rows].max() < moment - pd.Timedelta(days=6)


def test_labels_that_arrive_later_change_nothing_that_is_learned(built):
    out, inputs, settings = built
    data = read_training(inputs, settings)
    moment = midnight("2025-08-22")
    known = data.labels["known_at"] <= moment
    changed = data.labels.assign(is_fraud=data.labels["is_fraud"].where(known, 1 - data.labels["is_fraud"]))
    other = type(data)(data.frame, data.matrix, data.schema, changed, data.reports)
    model = consortium.load_pretrained(out / "pretrained", files.read_json(out / "release.json")["sha256"])
    again = consortium.measure(other, model, moment, settings)
    pd.testing.assert_frame_equal(again, pd.read_parquet(out / "curve.parquet"), check_dtype=False)


def test_the_curve_has_every_method_at_every_size_with_its_interval(built):
    out, _, _ = built
    curve = files.read_json(out / "curve.json")
    assert {(p["method"], p["days"]) for p in curve["points"]} == {
        (method, days) for method in consortium.METHODS for days in curve["days"]
    }
    for point in curve["points"]:
        metric = point["average_precision"]
        assert 0 <= metric["low"] <= metric["value"] <= metric["high"] <= 1


def test_a_published_model_helps_a_bank_of_the_same_kind_that_has_two_days_of_labels(built):
    out, _, _ = built
    few = {
        p["method"]: p["average_precision"]["value"]
        for p in files.read_json(out / "curve.json")["points"]
        if p["days"] == 2
    }
    assert few["direct"] > few["from_scratch"] and few["adapted"] > few["from_scratch"]


def test_a_code_with_another_vocabulary_and_a_text_with_other_weights_are_not_shared():
    home = {
        "features": [{"name": n} for n in ("amount", "channel_code", "merchant_text_1", "merchant_text_2", "hour")],
        "categories": {"channel": ["a", "b"]},
        "texts": {"merchant_text": {"weights": [1]}},
    }
    assert consortium.shared_schema(home, home)["features"] == home["features"]
    local = {**home, "categories": {"channel": ["b", "a"]}, "texts": {"merchant_text": {"weights": [2]}}}
    shared = consortium.shared_schema(home, local)
    assert [feature["name"] for feature in shared["features"]] == ["amount", "hour"]
    assert shared["categories"] == {} and shared["texts"] == {}


@pytest.mark.parametrize(
    "rows, days, share",
    [
        ([[-1.0, -1.0, 1.0]], 8.0, 1.0),
        ([[1.0, 1.0, 1.0]], 2.0, 1.0),
        ([[1.0, -1.0, 1.0]], 8.0, 1.0),
        ([[-1.0, 1.0, -1.0]], None, 0.0),
        ([[-1.0, -1.0, -1.0], [-1.0, -1.0, -1.0], [1.0, 1.0, 1.0]], None, 0.3333),
    ],
    ids=["late", "from the start", "twice: the last counts", "back below", "mostly never"],
)
def test_a_crossing_counts_only_if_the_lead_is_kept(rows, days, share):
    found = consortium.crossing(pd.DataFrame(rows, columns=[2, 4, 16]))
    assert (found["days"], found["share"]) == (days, share)
