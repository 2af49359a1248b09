"""Evaluation: the champion is chosen before the test is opened, and every number can be recomputed."""

import ast
import html
import inspect
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from model_data import SETTINGS, knobs, write_inputs, write_models
from sklearn.metrics import average_precision_score

import lifecycle
from lifecycle import contracts, economics, evaluation, files, training
from lifecycle.errors import LifecycleError
from lifecycle.evaluation import model_card, own_data
from lifecycle.evaluation.report import write_html


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluation")
    inputs, out = write_inputs(folder), folder / "out"
    out.mkdir()
    write_models(inputs, folder, folder / "data")
    evaluation.build(knobs("evaluation", folder / "data"), inputs, out)
    return inputs, out, folder / "data"


@pytest.fixture(scope="module")
def foreign(tmp_path_factory):
    """A run on a table of one's own: ids are strings, there is no world, no customers, and most labels are missing."""
    folder = tmp_path_factory.mktemp("foreign")
    inputs, out = write_inputs(folder, strings=True, world=False), folder / "out"
    out.mkdir()
    test = pd.read_parquet(inputs["features"] / "test_set.parquet")
    files.write_parquet(
        test.assign(is_fraud=test["is_fraud"].where(test.index % 3 == 0)), inputs["features"] / "test_set.parquet"
    )
    write_models(inputs, folder, folder / "data")
    evaluation.build(knobs("evaluation", folder / "data"), inputs, out)
    return inputs, out, folder / "data"


def test_the_champion_is_the_best_on_validation_whatever_the_test_says(built):
    _, out, _ = built
    report = files.read_json(out / "report.json")
    assert report["champion"]["name"] == "tuned_gradient_boosting"
    loaded = training.load_model(out / "model")
    assert loaded.facts["name"] == report["champion"]["name"]


def test_of_equal_models_the_simplest_is_chosen():
    assert (
        evaluation.choose_champion(
            {"rule": 1, "isolation_forest": 0.9, "logistic_regression": 0.5, "random_forest": 0.5}
        )
        == "logistic_regression"
    )


def test_choosing_looks_at_nothing_but_validation_scores():
    assert list(inspect.signature(evaluation.choose_champion).parameters) == ["validation"]


def test_no_stage_before_evaluation_reads_the_test_set():
    root = Path(lifecycle.__file__).parent
    readers = set()
    for path in root.rglob("*.py"):
        strings = [n.value for n in ast.walk(ast.parse(path.read_text())) if isinstance(n, ast.Constant)]
        if "test_set.parquet" in strings:
            readers.add(path.relative_to(root).parts[0].removesuffix(".py"))
    assert readers <= {"evaluation", "deployment", "monitoring", "tuning"} and "evaluation" in readers
    # Tuning reads the weeks of another world, never those that judge it.
    text = "".join(path.read_text() for path in (root / "tuning").glob("*.py"))
    assert text.count("test_set") == text.count('inputs["second:features"] / "test_set.parquet"') == 1


def test_scores_hold_every_payment_of_the_test_period(built):
    inputs, out, _ = built
    test = pd.read_parquet(inputs["features"] / "test_set.parquet")
    scores = contracts.check(pd.read_parquet(out / "scores.parquet"), contracts.SCORES, "scores.parquet")
    assert scores["transaction_id"].tolist() == test["transaction_id"].tolist()
    report = files.read_json(out / "report.json")
    expected = average_precision_score(scores["is_fraud"].astype(int), scores["score"])
    shown = report["models"][report["champion"]["name"]]["average_precision"]
    assert shown["value"] == pytest.approx(expected, abs=1e-5) and shown["low"] < expected < shown["high"]


def test_money_is_what_economics_says(built):
    _, out, _ = built
    report, scores = files.read_json(out / "report.json"), pd.read_parquet(out / "test_scores.parquet")
    name = report["champion"]["name"]
    flagged = scores[name] >= report["champion"]["threshold"]
    saved = economics.savings(scores["is_fraud"].astype(int), scores["amount"], flagged, SETTINGS)
    assert report["money"]["savings"] == pytest.approx(saved)
    assert report["models"][name]["savings"]["value"] == pytest.approx(saved, abs=1e-3)
    assert report["hindsight"]["savings"] >= saved - 1e-6


def test_slices_add_up_to_the_whole(built):
    inputs, out, _ = built
    slices = files.read_json(out / "report.json")["slices"]
    test = pd.read_parquet(inputs["features"] / "test_set.parquet")
    assert set(slices) == {"channel", "region", "age band"}
    for groups in slices.values():
        assert sum(group["payments"] for group in groups) == len(test)
        assert sum(group["frauds"] for group in groups) == test["is_fraud"].sum()
        assert all(group["small"] == (group["frauds"] < 20 or group["victims"] < 10) for group in groups)


def test_the_model_card_is_complete_and_says_what_the_report_says(built):
    _, out, _ = built
    report, card = files.read_json(out / "report.json"), files.read_json(out / "model" / "model_card.json")
    assert tuple(card["sections"]) == model_card.SECTIONS
    model_card.check_card(card, report)
    page, text = ((out / "model" / f"model_card.{kind}").read_text() for kind in ("html", "md"))
    for one in (one for statements in card["sections"].values() for one in statements):
        assert f"- {one['text']}\n" in text and html.escape(one["text"]) in page


def test_no_number_of_the_model_card_is_typed_by_hand(built):
    card = files.read_json(built[1] / "model" / "model_card.json")
    written = [
        number
        for statements in card["sections"].values()
        for one in statements
        for number in re.findall(r"\d[\d.,]*", re.sub(r"\{[^}]*\}|SHA-256", "", one["template"]))
    ]
    assert set(written) <= {"0", "1", "1,", "95"}  # the range of a score, a part of it, and the level of intervals


@pytest.mark.parametrize("place", ["champion/threshold", "test/frauds", "lineage/test_set.parquet"])
def test_a_model_card_of_another_run_is_noticed(built, place):
    out = built[1]
    report, card = files.read_json(out / "report.json"), files.read_json(out / "model" / "model_card.json")
    section, key = place.split("/")
    value = report[section][key]
    report[section][key] = value + 1 if not isinstance(value, str) else value[::-1]
    with pytest.raises(LifecycleError, match="from different runs"):
        model_card.check_card(card, report)


def test_a_model_card_without_a_section_is_refused(built):
    out = built[1]
    report, card = files.read_json(out / "report.json"), files.read_json(out / "model" / "model_card.json")
    for name in model_card.SECTIONS:
        with pytest.raises(LifecycleError, match=f"nothing under '{name}'"):
            model_card.check_card({"sections": {**card["sections"], name: []}}, report)


def test_the_lineage_names_the_files_as_they_are(built):
    inputs, out, _ = built
    lineage = files.read_json(out / "report.json")["lineage"]
    assert lineage["test_set.parquet"] == files.sha256(inputs["features"] / "test_set.parquet")
    assert lineage["model.onnx"] == files.sha256(out / "model" / "model.onnx")


def test_failures_groups_and_behavior_are_in_the_report_for_a_stranger(built):
    out = built[1]
    report, page = files.read_json(out / "report.json"), (out / "report.html").read_text()
    assert [case["transaction_id"] for case in report["failures"]["misses"]] == [
        case["transaction_id"] for case in report["costliest_misses"]
    ]
    for case in report["failures"]["misses"] + report["failures"]["false_alarms"]:
        assert html.escape(case["text"]) in page
    assert set(report["fairness"]["prices"]) == set(report["slices"])
    assert {one["kind"] for one in report["behavior"]} == {"invariance", "direction", "minimum"}


def test_every_metric_of_the_champion_is_on_the_page_with_its_interval(built):
    out = built[1]
    report, page = files.read_json(out / "report.json"), (out / "report.html").read_text()
    found = report["models"][report["champion"]["name"]]
    shown = dict.fromkeys(("average_precision", "auc", "card_precision", "precision", "recall", "f1"), ".3f")
    for name, form in shown.items():
        one = found[name]
        assert f"{one['value']:{form}} <span class='muted'>({one['low']:{form}} to {one['high']:{form}})" in page, name
    assert f"{report['balance']['low']:.2f} to {report['balance']['high']:.2f}" in page


def test_no_model_beats_the_oracle_on_the_truth(built):
    _, out, _ = built
    oracle = files.read_json(out / "report.json")["oracle"]
    assert set(row["mode"] for row in oracle["modes"]) == {"large_amount", "skimming", "card_testing"}
    assert max(oracle["by_truth"], key=oracle["by_truth"].get) == "oracle"
    assert 0 < oracle["share_reached"] < 1


def test_the_champion_is_registered_even_when_its_run_is_gone_and_only_once(built, tmp_path):
    inputs, out, data_dir = built
    registered = files.read_json(out / "report.json")["champion"]["registered"]
    client, _ = training.open_tracking(data_dir)
    version = client.get_model_version_by_alias(registered["model"], "champion")
    assert version.tags["onnx_sha256"] == files.sha256(out / "model" / "model.onnx")
    evaluation.build(knobs("evaluation", data_dir), inputs, tmp_path)
    assert len(client.search_model_versions(f"name = '{registered['model']}'")) == 1


def test_the_report_for_a_stranger_needs_no_other_file(built):
    page = (built[1] / "report.html").read_text()
    assert "http" not in page and "<script" not in page and "src=" not in page
    assert page.count("<svg") == 2 and "nan" not in page.lower().split("<h2>")[1]


@pytest.fixture
def stranger(foreign, tmp_path):
    """The page of a foreign table with a column that knows the answer, as written for somebody who has one minute."""
    inputs, out, _ = foreign
    report, scores = files.read_json(out / "report.json"), pd.read_parquet(out / "test_scores.parquet")
    suspect = {"column": "Refund <ref>", "reason": "is filled for frauds only"}
    labels = {"observed": 0, "assumed": 900, "delay_days": 7, "unknown": 0}
    report["own"] = {
        "rows": 9_000, "transactions": "shop.csv", "labels_file": None, "absent": [], "time_zone": None,
        "amount_unit": "cents", "labels": labels, "suspects": [suspect],
        "columns": [{"file": "Refund <ref>", "ours": "x_refund", "kind": "category", "note": ""}],
        "clock": {"skipped": 0, "twice": 0},
    }  # fmt: skip
    report["own"]["warnings"] = own_data.list_warnings(report["own"], [suspect])
    arrays = {name: scores[name].to_numpy() for name in report["models"]}
    write_html(report, pd.read_parquet(inputs["features"] / "test_set.parquet"), arrays, tmp_path / "report.html")
    return (tmp_path / "report.html").read_text()


def test_the_page_begins_with_the_leak_and_then_says_three_things(stranger):
    body = stranger.split("</h1>")[1]
    order = ["Read this first", "Refund &lt;ref&gt;", "What was done.", "shop.csv", "What the score is worth.",
             "What to distrust.", "what stands above", "All models on the test period"]  # fmt: skip
    places = [body.index(words) for words in order]
    assert places == sorted(places)


def test_a_page_without_a_leak_raises_no_alarm(foreign):
    page = (foreign[1] / "report.html").read_text()
    assert "Read this first" not in page and page.index("What was done.") < page.index("<h2>")


def test_the_page_fits_a_phone_and_a_dark_screen(stranger):
    style, body = stranger.split("</style>")
    assert "prefers-color-scheme: dark" in style and "overflow-x: auto" in style
    assert not re.search(r"#[0-9a-f]{3,6}\b", body), "a color that does not change with the screen"
    for kind in ("table", "svg"):  # each scrolls in a box of its own
        assert body.count(f"<div class='wide'><{kind}") == body.count(f"<{kind}") > 0
    used = set(re.findall(r"var\((--\w+)\)", stranger))
    light, dark = style.split("@media (prefers-color-scheme: dark)")
    assert used <= set(re.findall(r"(--\w+):", light)) and used <= set(re.findall(r"(--\w+):", dark))


def test_own_data_without_world_customers_or_all_labels(foreign):
    inputs, out, _ = foreign
    report, scores = files.read_json(out / "report.json"), pd.read_parquet(out / "scores.parquet")
    assert report["oracle"] is None and report["slices"] == {} and report["judged"]
    assert scores["is_fraud"].isna().sum() == report["test"]["payments"] - report["test"]["labeled"] > 0
    assert scores["transaction_id"].str.startswith("t-").all()
    model_card.check_card(files.read_json(out / "model" / "model_card.json"), report)
    assert all(case["mode"] is None for case in report["failures"]["misses"])
    assert "no known label yet" in (out / "report.html").read_text()
    assert report["champion"]["registered"]["model"].startswith("own-data-")


def test_a_test_period_without_fraud_gets_scores_and_says_why_there_are_no_metrics(foreign, tmp_path):
    inputs, _, data_dir = foreign
    test = pd.read_parquet(inputs["features"] / "test_set.parquet")
    files.write_parquet(
        test.assign(is_fraud=pd.array([0] * len(test), dtype="Int8")), tmp_path / "f" / "test_set.parquet"
    )
    for name in ("labels.parquet", "schema.json"):
        (tmp_path / "f" / name).write_bytes((inputs["features"] / name).read_bytes())
    evaluation.build(knobs("evaluation", data_dir), {**inputs, "features": tmp_path / "f"}, tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert not report["judged"] and "has 0 known frauds" in report["note"]
    assert len(pd.read_parquet(tmp_path / "scores.parquet")) == len(test)
    assert report["note"] in (tmp_path / "report.html").read_text()


def test_an_empty_test_period_is_one_sentence(foreign, tmp_path):
    inputs, _, data_dir = foreign
    test = pd.read_parquet(inputs["features"] / "test_set.parquet")
    files.write_parquet(test.head(0), tmp_path / "test_set.parquet")
    with pytest.raises(LifecycleError, match="no payments in the test period"):
        evaluation.build(knobs("evaluation", data_dir), {**inputs, "features": tmp_path}, tmp_path / "out")


def test_intervals_by_customer_are_wider_when_frauds_come_in_clusters():
    rng = np.random.default_rng(0)
    n = 6_000
    hit = rng.random(150) < 0.1  # a few customers have all the fraud
    seconds = pd.to_timedelta(np.sort(rng.integers(0, 864_000, n)), unit="s")
    frame = pd.DataFrame({
        "event_time": contracts.midnight("2025-08-01") + seconds,
        "amount": 50.0, "customer_id": rng.integers(0, 150, n),
    })  # fmt: skip
    frame["is_fraud"] = (hit[frame["customer_id"]] & (rng.random(n) < 0.4)).astype("int8")
    score = np.clip(0.3 * frame["is_fraud"] + rng.random(n) * 0.7, 0, 1).to_numpy()
    reports = pd.DataFrame({"customer_id": frame["customer_id"].head(0), "known_at": frame["event_time"].head(0)})
    width = {}
    for kind, ids in (("customers", frame["customer_id"]), ("payments", np.arange(n))):
        values, many = evaluation.resample_metrics(
            frame.assign(customer_id=ids), {"m": score}, {"m": 0.6}, reports, SETTINGS, resamples=60
        )
        width[kind] = many["m"]["savings"].std()
        assert values["m"]["recall"] == pytest.approx((score[frame["is_fraud"] == 1] >= 0.6).mean())
    assert width["customers"] > 1.5 * width["payments"]


def test_a_calibrated_score_has_equal_columns():
    rng = np.random.default_rng(0)
    score = rng.beta(1, 20, 200_000)
    for row in evaluation.calibration_table(rng.random(len(score)) < score, score):
        assert row["fraud_rate"] == pytest.approx(row["mean_score"], rel=0.15)
