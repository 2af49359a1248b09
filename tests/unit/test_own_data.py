"""Bring your own data: what real files are like, what is refused, what is warned about; public sets."""

from __future__ import annotations

import gzip
import hashlib
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from foreign_tables import write_shop, write_transfers

from lifecycle import collection, contracts, datasets, features, files
from lifecycle.__main__ import main
from lifecycle.datasets import readers
from lifecycle.deployment.batch import read_payments
from lifecycle.deployment.messages import BadRequest, RecordFormat, parse
from lifecycle.errors import ContractError, LifecycleError
from lifecycle.evaluation.own_data import _warnings, own_section, suspect_columns
from lifecycle.training.metrics import card_ids


def collect(folder: Path, *arguments: object) -> tuple[pd.DataFrame, pd.DataFrame, dict]:
    out = folder / "out"
    out.mkdir()
    collection.ingest(*arguments)(None, {}, out)
    own = files.read_json(out / "own_file.json")
    return pd.read_parquet(out / "transactions.parquet"), pd.read_parquet(out / "labels.parquet"), own


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shop")
    path, words = write_shop(folder, rows=3_000)
    return (*collect(folder, path, None, collection.read_mapping(words)), pd.read_csv(path), folder)


def test_cents_local_times_and_words_become_ours(shop) -> None:
    payments, labels, own, raw, _ = shop
    contracts.check(payments, contracts.TRANSACTIONS, "shop")
    by_id = raw.set_index("Order No.").loc[payments["transaction_id"]]
    np.testing.assert_allclose(payments["amount"], by_id["Amount (ct)"] / 100)
    local = payments["event_time"].dt.tz_convert("Europe/Berlin").dt.strftime("%Y-%m-%d %H:%M:%S")
    assert local.tolist() == by_id["Local time"].tolist()
    assert labels["is_fraud"].sum() == (raw["Verdict"] == "F").sum()
    assert own["labels"]["unknown"] == raw["Verdict"].isna().sum() > 0
    assert own["labels"]["delay_days"] == 10 and own["labels"]["observed"] == 0


def test_extra_columns_become_features_and_the_rest_says_why_not(shop) -> None:
    payments, _, own, _, _ = shop
    kinds = {one["file"]: one["kind"] for one in own["columns"]}
    assert [kinds[f"Signal {n}"] for n in range(20)] == ["number"] * 20
    assert kinds["Device"] == "category" and kinds["Basket size"] == "number"
    schema = features.make_schema(payments, {"x_device": ["ios"]}, False, False)
    assert {"x_signal_3", "x_basket_size", "x_device_code"} <= set(features.feature_names(schema))


def test_a_column_filled_after_the_fact_is_named(shop) -> None:
    _, labels, own, _, folder = shop
    found = suspect_columns(folder / "out" / "transactions.parquet", labels, contracts.midnight("2030-01-01"))
    assert [one["column"] for one in found] == ["x_refund_ref"]
    suspects = [{"column": "Refund ref", "reason": found[0]["reason"]}]
    assert "'Refund ref' is filled for the one class" in _warnings(own, suspects)[0]


def test_dropped_columns_are_no_feature_and_must_exist(tmp_path: Path) -> None:
    path, words = write_shop(tmp_path, rows=500, extras=1)
    mapping = collection.read_mapping(words)
    with pytest.raises(LifecycleError, match=r"shop\.csv: the mapping drops the column 'Refund'"):
        collect(tmp_path, path, None, {**mapping, "drop": ["Refund"]})
    (tmp_path / "out").rmdir()
    payments, _, own = collect(tmp_path, path, None, {**mapping, "drop": ["Refund ref"]})
    assert "x_refund_ref" not in payments
    assert {"file": "Refund ref", "ours": None, "kind": "left out", "note": "dropped by the mapping"} in own["columns"]


def test_without_terminals_no_id_is_made_up_and_no_feature_of_them_remains(tmp_path: Path) -> None:
    payments, labels, own = collect(tmp_path, *write_transfers(tmp_path, rows=2_000))
    assert own["absent"] == ["terminal_id"] and contracts.absent_entities(payments) == ["terminal_id"]
    assert own["labels"]["observed"] == len(labels) < 2_000 and own["labels"]["assumed"] == 0
    schema = features.make_schema(payments, {}, False, False, absent=own["absent"])
    names = features.feature_names(schema)
    assert "customer_count_7d" in names and "x_is_new_payee" in names
    assert not [n for n in names if n.startswith(("terminal_", "pair_")) or "terminal" in n or "new_places" in n]


def test_without_customers_each_payment_stands_for_itself(tmp_path: Path) -> None:
    rows = {"transaction_id": [1, 2], "event_time": "2025-08-01T00:00:00Z", "amount": 5, "is_fraud": [0, 1]}
    frame = pd.DataFrame(rows)
    frame.to_csv(tmp_path / "mine.csv", index=False)
    payments, _, own = collect(tmp_path, tmp_path / "mine.csv")
    assert own["absent"] == ["customer_id", "terminal_id"]
    assert card_ids(payments).tolist() == [1, 2]
    names = features.feature_names(features.make_schema(payments, {}, False, False, absent=own["absent"]))
    assert names == ["amount", "log_amount", "hour", "weekday", "is_weekend", "is_night"]


def test_a_mapped_entity_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    path, _ = write_transfers(tmp_path, rows=100)
    with pytest.raises(ContractError, match="column 'shop' is missing"):
        collect(tmp_path, path, tmp_path / "labels.csv", {"terminal_id": "shop"})


def test_a_time_after_the_payment_is_left_out_and_named(tmp_path: Path) -> None:
    times = pd.date_range("2025-08-01", periods=40, freq="h", tz="UTC").strftime("%Y-%m-%dT%H:%M:%SZ")
    later = pd.date_range("2025-08-10", periods=40, freq="h").strftime("%Y-%m-%d %H:%M:%S")
    frame = pd.DataFrame({"transaction_id": range(40), "event_time": times, "amount": 5, "is_fraud": [0, 1] * 20,
                          "closed at": later})  # fmt: skip
    frame.to_csv(tmp_path / "mine.csv", index=False)
    _, _, own = collect(tmp_path, tmp_path / "mine.csv")
    column = next(one for one in own["columns"] if one["file"] == "closed at")
    assert column["kind"] == "left out" and "100.00% of the rows it lies after the payment" in column["note"]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"amount_unit": "dollars"}, "'amount_unit' is 'dollars'; it must be one of major, cents"),
        ({"label_delay_days": -1}, "'label_delay_days' is -1"),
        ({"drop": "all"}, "'drop' is 'all'; it must be a list"),
        ({"fraud": ["F"]}, "words for only one class"),
        ({"amount": 3}, "'amount' is 3; it must be text"),
        ({"amont": "x"}, "names a column 'amont'"),
    ],
)
def test_a_wrong_entry_of_the_mapping_is_named(entry: dict, words: str) -> None:
    with pytest.raises(LifecycleError, match=words):
        collection.ingest("any.csv", mapping=entry)


def test_a_word_of_no_class_is_refused(tmp_path: Path) -> None:
    path, words = write_shop(tmp_path, rows=300, extras=1)
    with pytest.raises(
        ContractError, match=r"'Verdict' is neither fraud nor honest by the mapping .*first values: 'F'"
    ):
        collect(tmp_path, path, None, {**collection.read_mapping(words), "fraud": ["fraud"]})
    assert not (tmp_path / "out" / "transactions.parquet").exists()


def test_a_model_without_terminals_neither_asks_for_them_nor_minds_them(tmp_path: Path) -> None:
    ids = {"transaction_id": "integer", "customer_id": "integer", "terminal_id": "absent"}
    form = RecordFormat(ids, {"x_age": "number"})
    body = {"transaction_id": 1, "event_time": "2025-08-01T00:00:00Z", "customer_id": 2, "amount": 3, "x_age": 7}
    record = parse(json.dumps(body).encode(), "application/json", form)[0]
    assert record["terminal_id"] == contracts.NO_ID and record["x_age"] == 7
    with pytest.raises(BadRequest, match="field 'customer_id' is missing"):
        parse(json.dumps({k: v for k, v in body.items() if k != "customer_id"}).encode(), "application/json", form)
    pd.DataFrame([body]).to_csv(tmp_path / "new.csv", index=False)
    assert read_payments(tmp_path / "new.csv", form)["terminal_id"].tolist() == [contracts.NO_ID]
    pd.DataFrame([{**body, "x_age": "old"}]).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(ContractError, match="'x_age' is not a number"):
        read_payments(tmp_path / "new.csv", form)


def test_the_page_says_what_was_done_and_what_the_score_is_worth() -> None:
    own = {"rows": 10, "transactions": "a.csv", "labels_file": None, "absent": ["terminal_id"], "time_zone": "UTC",
           "amount_unit": "cents", "labels": {"observed": 0, "assumed": 9, "delay_days": 7, "unknown": 1},
           "columns": [{"file": "<b>", "ours": "x_b", "kind": "number", "note": ""}]}  # fmt: skip
    value = {"value": 0.5, "low": 0.4, "high": 0.6}
    report = {"own": own, "judged": True, "champion": {"name": "m"}, "test": {"fraud_rate": 0.01},
              "models": {"m": {"average_precision": value}},
              "differences": {"rule": {"average_precision": {"value": 0.1, "low": -0.1, "high": 0.3}}}}  # fmt: skip
    page = own_section(report)
    for words in ("no terminals, and no ids were made up", "&lt;b&gt;", "50.0 times that", "the rule may be as good"):
        assert words in page
    assert own_section({"own": None}) == ""


# Public data sets, each from a fixture in the layout of its files


def test_every_card_has_all_its_facts_and_a_reader() -> None:
    assert set(datasets.CARDS) == set(readers.READERS)
    for card in datasets.CARDS.values():
        assert all(
            (card.source, card.license, card.redistributable, card.has_time, card.has_entities, card.label_delay)
        )
        assert f"### {card.name}" in datasets.as_markdown()


@pytest.mark.parametrize("name", list(datasets.CARDS))
def test_a_set_that_is_not_there_says_how_to_place_it(name: str, tmp_path: Path) -> None:
    with pytest.raises(LifecycleError, match="nothing is downloaded here") as raised:
        datasets.load(name, tmp_path / "absent")
    assert datasets.CARDS[name].by_hand in str(raised.value)


@pytest.mark.parametrize("name", ["creditcard-openml", "creditcard-csv", "skrub-credit-fraud"])
def test_a_set_without_time_or_entities_is_refused_with_the_reason(name: str, tmp_path: Path, capsys) -> None:
    assert main(["run", "--dataset", name, "--file", str(tmp_path), "--out", str(tmp_path / "out")]) == 1
    printed = capsys.readouterr().err
    assert "cannot be run through the lifecycle" in printed and datasets.CARDS[name].refusal in printed
    assert not (tmp_path / "out").exists()


def test_creditcard_csv_is_checked_against_its_published_size(tmp_path: Path) -> None:
    frame = pd.DataFrame(np.zeros((4, 31)), columns=list(readers.CREDITCARD)).assign(Class=[0, 0, 0, 1])
    frame.to_csv(tmp_path / "creditcard.csv", index=False)
    assert readers.read_creditcard_csv(tmp_path / "creditcard.csv", rows=4, frauds=1).shape == (4, 31)
    with pytest.raises(ContractError, match="4 rows with 1 frauds; the published file has 284,807 with 492"):
        datasets.load("creditcard-csv", tmp_path / "creditcard.csv")


def test_creditcard_is_read_from_the_cache_of_scikit_learn_and_never_from_the_network(tmp_path: Path) -> None:
    names = ["V1", "Amount", "Class"]
    root = tmp_path / "openml" / "openml.org"
    kinds = {"V1": "numeric", "Amount": "numeric", "Class": "nominal"}
    about = {"id": "1597", "name": "creditcard", "version": "1", "format": "ARFF", "file_id": "1673544",
             "status": "active", "description": "card payments", "default_target_attribute": "Class",
             "processing_date": "2018-10-03",
             "url": "https://www.openml.org/data/v1/download/1673544/creditcard.arff"}  # fmt: skip
    columns = [{"index": str(i), "name": n, "data_type": kinds[n], "is_target": str(n == "Class").lower(),
                "is_ignore": "false", "number_of_missing_values": "0",
                "is_row_identifier": "false"} for i, n in enumerate(names)]  # fmt: skip
    arff = "@RELATION creditcard\n@ATTRIBUTE V1 REAL\n@ATTRIBUTE Amount REAL\n@ATTRIBUTE Class {'0','1'}\n@DATA\n"
    data = arff + "-1.5,149.62,'0'\n0.5,2.69,'1'\n"
    about["md5_checksum"] = hashlib.md5(data.encode()).hexdigest()
    content = {
        "api/v1/json/data/1597": json.dumps({"data_set_description": about}),
        "api/v1/json/data/features/1597": json.dumps({"data_features": {"feature": columns}}),
        "api/v1/json/data/qualities/1597": json.dumps(
            {"data_qualities": {"quality": [{"name": "NumberOfInstances", "value": "2.0"}]}}
        ),
        "data/v1/download/1673544/creditcard.arff": data,
    }
    for name, text in content.items():
        path = root / f"{name}.gz"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(gzip.compress(text.encode()))
    found = datasets.load("creditcard-openml", tmp_path / "openml")
    assert found["Amount"].tolist() == [149.62, 2.69] and found["Class"].astype(int).tolist() == [0, 1]
    (root / "data" / "v1" / "download" / "1673544" / "creditcard.arff.gz").unlink()
    with pytest.raises(LifecycleError, match="incomplete"):
        datasets.load("creditcard-openml", tmp_path / "openml")


def test_skrub_counts_the_products_of_a_basket(tmp_path: Path) -> None:
    pd.DataFrame({"ID": [5, 6], "fraud_flag": [0, 1]}).to_csv(tmp_path / "baskets.csv", index=False)
    pd.DataFrame({"basket_ID": [5, 5], "item": ["TV", "PC"]}).to_csv(tmp_path / "products.csv", index=False)
    assert datasets.load("skrub-credit-fraud", tmp_path)["products"].tolist() == [2, 0]


def test_sparkov_runs_on_the_right_clock_and_without_names(tmp_path: Path) -> None:
    frame = pd.DataFrame({
        "": [0, 1], "trans_date_trans_time": ["2019-01-01 00:00:18", "2019-01-01 00:00:44"],
        "cc_num": ["2703186189652095", "630423337322"], "merchant": ["fraud_A", "fraud_B"],
        "category": ["misc_net", "grocery_pos"], "amt": [4.97, 107.23], "first": ["Ann", "Bo"], "last": ["X", "Y"],
        "gender": ["F", "M"], "street": ["1 A", "2 B"], "city_pop": [3495, 149], "dob": ["1988-03-09", "1978-06-21"],
        "trans_num": ["0b24", "1f76"], "unix_time": [1325376018, 1325376044], "is_fraud": [0, 1],
    })  # fmt: skip
    frame.to_csv(tmp_path / "fraudTrain.csv", index=False)
    path, mapping = datasets.prepare_run("sparkov", tmp_path / "fraudTrain.csv", tmp_path)
    payments, _, own = collect(tmp_path, path, None, mapping)
    assert payments["event_time"].iloc[0] == pd.Timestamp("2019-01-01 00:00:18", tz="UTC")
    assert payments["merchant_category"].tolist() == ["misc_net", "grocery_pos"]
    kinds = {one["file"]: one["kind"] for one in own["columns"]}
    assert {kinds[name] for name in readers.SPARKOV_DROP} == {"left out"}


def handbook_day() -> pd.DataFrame:
    return pd.DataFrame({
        "TRANSACTION_ID": [0, 1], "TX_DATETIME": pd.to_datetime(["2018-04-01 00:00:31", "2018-04-01 00:02:10"]),
        "CUSTOMER_ID": ["596", "4961"], "TERMINAL_ID": ["3156", "3412"], "TX_AMOUNT": [57.16, 81.51],
        "TX_TIME_SECONDS": [31, 130], "TX_TIME_DAYS": [0, 0], "TX_FRAUD": [0, 1], "TX_FRAUD_SCENARIO": [0, 1],
    })  # fmt: skip


@pytest.mark.parametrize("protocol", [4, 5])
def test_handbook_days_are_read_and_the_answer_is_dropped(tmp_path: Path, protocol: int) -> None:
    handbook_day().to_pickle(tmp_path / "2018-04-01.pkl", protocol=protocol)
    path, mapping = datasets.prepare_run("handbook", tmp_path, tmp_path)
    payments, _, own = collect(tmp_path, path, None, mapping)
    assert payments["amount"].tolist() == [57.16, 81.51]
    assert {one["file"] for one in own["columns"] if one["kind"] == "left out"} >= {"TX_FRAUD_SCENARIO"}


class Hostile:
    def __reduce__(self):
        return os.mkdir, ("hostile",)


def test_a_pickle_that_runs_code_is_refused_unrun(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "2018-04-01.pkl").write_bytes(pickle.dumps(Hostile()))
    with pytest.raises(LifecycleError, match=r"2018-04-01\.pkl is refused: it calls posix\.mkdir"):
        datasets.load("handbook", tmp_path)
    assert not (tmp_path / "hostile").exists()
