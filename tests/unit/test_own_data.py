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
from lifecycle.collection.shared import database
from lifecycle.datasets import readers
from lifecycle.deployment.intake import read_batches
from lifecycle.deployment.messages import BadRequest, RecordFormat, parse
from lifecycle.errors import ContractError, LifecycleError
from lifecycle.evaluation.own_data import list_warnings, own_section, suspect_columns
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
    _, _, own, _, folder = shop
    paths = folder / "out" / "transactions.parquet", folder / "out" / "labels.parquet"
    found = suspect_columns(*paths, contracts.midnight("2030-01-01"))
    assert [one["column"] for one in found] == ["x_refund_ref"]
    suspects = [{"column": "Refund ref", "reason": found[0]["reason"]}]
    assert "'Refund ref' is filled for the one class" in list_warnings(own, suspects)[0]


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
        ({"decimal": ";"}, "'decimal' is ';'; it must be one of"),
        ({"encoding": "ebcdic"}, "'encoding' is 'ebcdic'; it must be one of utf-8, latin-1, utf-16"),
        ({"time_format": "dd.mm.yyyy"}, "'time_format' is 'dd.mm.yyyy'"),
        ({"amount": "x", "customer_id": "x"}, "takes the column 'x' both for 'amount' and for 'customer_id'"),
        ({"customer_id": "terminal_id"}, "takes the column 'terminal_id' for 'customer_id'"),
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


# What real files are like: how they are written


def plain(rows: int = 40) -> pd.DataFrame:
    times = pd.date_range("2024-03-30", periods=rows, freq="h", tz="UTC").strftime("%Y-%m-%dT%H:%M:%SZ")
    return pd.DataFrame({"transaction_id": range(rows), "event_time": times, "customer_id": 1, "terminal_id": 2,
                         "amount": 5.5, "is_fraud": [0, 1] * (rows // 2)})  # fmt: skip


@pytest.mark.parametrize("mark", [",", ";", "\t", "|"])
@pytest.mark.parametrize("head", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("zipped", [False, True])
def test_delimiters_a_byte_order_mark_and_gzip_are_seen(tmp_path: Path, mark: str, head: bytes, zipped: bool) -> None:
    content = head + plain().to_csv(index=False, sep=mark).encode()
    (tmp_path / "mine.csv").write_bytes(gzip.compress(content) if zipped else content)
    payments, labels, _ = collect(tmp_path, tmp_path / "mine.csv")
    assert payments["amount"].tolist() == [5.5] * 40 and labels["is_fraud"].sum() == 20


def test_parquet_is_known_by_its_first_bytes_and_whole_floats_are_ids(tmp_path: Path) -> None:
    plain().astype({"customer_id": float}).to_parquet(tmp_path / "mine.csv")
    payments, _, _ = collect(tmp_path, tmp_path / "mine.csv")
    assert payments["customer_id"].tolist() == [1] * 40 and payments["customer_id"].dtype == "int64"


def test_decimal_commas_other_encodings_and_written_times_are_read_as_the_mapping_says(tmp_path: Path) -> None:
    frame = plain().assign(amount="1.234,50", city="Köln", weight="0,25")
    frame.loc[:19, ["city", "weight"]] = "Bonn", "1,5"
    frame["event_time"] = pd.to_datetime(frame["event_time"]).dt.strftime("%d.%m.%Y %H:%M")
    (tmp_path / "mine.csv").write_bytes(frame.to_csv(index=False, sep=";").encode("latin-1"))
    says = {"decimal": ",", "encoding": "latin-1", "time_format": "%d.%m.%Y %H:%M", "time_zone": "UTC"}
    payments, _, _ = collect(tmp_path, tmp_path / "mine.csv", None, says)
    assert payments["amount"].tolist() == [1234.5] * 40 and payments["x_weight"].tolist() == [1.5] * 20 + [0.25] * 20
    assert payments["x_city"].iloc[-1] == "Köln"
    assert payments["event_time"].iloc[1] == pd.Timestamp("2024-03-30 01:00", tz="UTC")


@pytest.mark.parametrize(("form", "unit"), [("unix", 1), ("unix_ms", 1000)])
def test_seconds_since_1970_are_times(tmp_path: Path, form: str, unit: int) -> None:
    frame = plain()
    frame["event_time"] = pd.to_datetime(frame["event_time"]).astype("int64") // 10**9 * unit
    frame.to_csv(tmp_path / "mine.csv", index=False)
    payments, _, _ = collect(tmp_path, tmp_path / "mine.csv", None, {"time_format": form})
    assert payments["event_time"].iloc[1] == pd.Timestamp("2024-03-30 01:00", tz="UTC")


@pytest.mark.parametrize(
    ("hour", "clock", "instant"),
    [("2024-03-31 02:30:00", {"skipped": 1, "twice": 0}, "2024-03-31 01:30"),
     ("2024-10-27 02:30:00", {"skipped": 0, "twice": 1}, "2024-10-27 01:30")],
)  # fmt: skip
def test_hours_that_the_clocks_skip_or_repeat_are_counted(tmp_path: Path, hour: str, clock: dict, instant: str) -> None:
    frame = plain()
    frame["event_time"] = "2024-05-05 12:00:00"
    frame.loc[3, "event_time"] = hour
    frame.to_csv(tmp_path / "mine.csv", index=False)
    payments, _, own = collect(tmp_path, tmp_path / "mine.csv", None, {"time_zone": "Europe/Berlin"})
    assert own["clock"] == clock
    assert payments.set_index("transaction_id").loc[3, "event_time"] == pd.Timestamp(instant, tz="UTC")
    assert any("clocks" in sentence for sentence in list_warnings(own, []))


def test_words_for_no_label_are_no_label(tmp_path: Path) -> None:
    plain().assign(is_fraud=["ok", "F", "?", ""] * 10).to_csv(tmp_path / "mine.csv", index=False)
    words = {"fraud": ["F"], "honest": ["ok"], "unknown": ["?"]}
    _, labels, own = collect(tmp_path, tmp_path / "mine.csv", None, words)
    assert len(labels) == 20 and own["labels"]["unknown"] == 20


def write(folder: Path, content: bytes | str) -> Path:
    (folder / "bad.csv").write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / "bad.csv"


_LINES = plain().to_csv(index=False)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (_LINES + "40,2024-03-31", r"bad\.csv: line 42 has 2 columns where the header has 6"),
        (_LINES.replace("\n7,", "\n7;", 1), r"bad\.csv: line 9 has 5 columns where the header has 6"),
        (gzip.compress(_LINES.encode())[:-30], "cut short or damaged"),
        (_LINES.replace("\n7,", "\nMüller,", 1).encode("latin-1"), 'line 9 is not UTF-8 text; .* encoding = "latin-1"'),
        (_LINES.encode("utf-16"), 'encoding = "utf-16"'),
        ("PK\x03\x04 sheet", "zip or Excel"),
        ('[{"transaction_id": 1}]', "looks like JSON"),
        (b"PAR1 and no more", "cannot be read as Parquet"),
        (_LINES.replace("5.5", '"1.234,50"'), r"'amount' is missing or not a number .*decimal = \",\""),
        (_LINES.replace("T", " ").replace("Z", "").replace("2024-03-30 0", "30.03.2024 0"), "time_format"),
        (_LINES.replace(",1\n", ",0\n"), "calls all 40 labeled payments honest; a model needs both kinds"),
    ],
    ids=["short line", "delimiter in a line", "half a gzip", "latin-1", "utf-16", "excel", "json", "half a parquet",
         "decimal comma", "written time", "one class"],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_refused_in_one_sentence(
    tmp_path: Path, content: bytes | str, words: str
) -> None:
    with pytest.raises(LifecycleError, match=words) as raised:
        collect(tmp_path, write(tmp_path, content))
    assert "\n" not in str(raised.value)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(LifecycleError, match="is a folder; give one CSV or Parquet file"):
        collect(tmp_path, tmp_path)


def test_of_very_many_columns_an_error_names_the_first(tmp_path: Path) -> None:
    pd.DataFrame({f"c{n}": [1] for n in range(200)}).to_csv(tmp_path / "mine.csv", index=False)
    with pytest.raises(ContractError, match="c29 and 170 more: rename them"):
        collect(tmp_path, tmp_path / "mine.csv")


# New files in the same shape


def test_a_new_file_is_read_with_the_names_and_ids_of_the_training(tmp_path: Path) -> None:
    path, words = write_shop(tmp_path, rows=500, extras=1)
    mapping = collection.read_mapping(words)
    payments, _, own = collect(tmp_path, path, None, mapping)
    raw = pd.read_csv(path).drop(columns=["Verdict", "Signal 0"]).tail(20)
    raw.to_csv(tmp_path / "new.csv", index=False)
    with database(tmp_path) as db:
        collection.load_new(db, tmp_path / "new.csv", mapping, [], own["columns"])
        found = db.sql("SELECT * FROM transactions").df().astype({"event_time": contracts.UTC})
    expected = payments.set_index("transaction_id").loc[raw["Order No."]].reset_index()
    for name in ("transaction_id", "event_time", "customer_id", "terminal_id", "amount", "x_device", "x_basket_size"):
        assert found[name].tolist() == expected[name].tolist(), name
    assert "x_signal_0" not in found and "is_fraud" not in found


def test_a_model_without_terminals_neither_asks_for_them_nor_minds_them(tmp_path: Path) -> None:
    ids = {"transaction_id": "integer", "customer_id": "integer", "terminal_id": "absent"}
    form = RecordFormat(ids, {"x_age": "number"})
    body = {"transaction_id": 1, "event_time": "2025-08-01T00:00:00Z", "customer_id": 2, "amount": 3, "x_age": 7}
    record = parse(json.dumps(body).encode(), "application/json", form)[0]
    assert record["terminal_id"] == contracts.NO_ID and record["x_age"] == 7
    with pytest.raises(BadRequest, match="field 'customer_id' is missing"):
        parse(json.dumps({k: v for k, v in body.items() if k != "customer_id"}).encode(), "application/json", form)
    pd.DataFrame([body]).to_csv(tmp_path / "new.csv", index=False)
    (batch,) = read_batches(tmp_path / "new.csv", form, 10)
    assert batch["terminal_id"].tolist() == [contracts.NO_ID]
    pd.DataFrame([{**body, "x_age": "old"}]).to_csv(tmp_path / "new.csv", index=False)
    with pytest.raises(ContractError, match="'x_age' is not a number"):
        list(read_batches(tmp_path / "new.csv", form, 10))


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
    folder = tmp_path / "credit_fraud"
    folder.mkdir()
    for suffix in ("", "_train"):  # skrub leaves the part that was asked for beside the whole
        pd.DataFrame({"ID": [5, 6], "fraud_flag": [0, 1]}).to_csv(folder / f"baskets{suffix}.csv", index=False)
        items = pd.DataFrame({"basket_ID": [5, 5], "item": ["TV", "TV"]})
        items.to_csv(folder / f"products{suffix}.csv", index=False)
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
