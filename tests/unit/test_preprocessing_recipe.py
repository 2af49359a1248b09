"""The recipe: what was fitted is written down, applied bit for bit, and refuses a table that it does not know."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifecycle import files, preprocessing
from lifecycle.errors import ContractError, LifecycleError
from lifecycle.preprocessing import tables
from lifecycle.settings import Settings

CALENDAR = Settings()


def payments(rows: int = 60, seed: int = 0) -> pd.DataFrame:
    random = np.random.default_rng(seed)
    days = pd.to_datetime("2025-08-01", utc=True) + pd.to_timedelta(np.sort(random.uniform(0, 70, rows)), "D")
    return pd.DataFrame(
        {
            "transaction_id": np.arange(rows) + 1,
            "event_time": pd.Series(days).dt.as_unit("us"),
            "customer_id": random.integers(0, 9, rows),
            "terminal_id": random.integers(0, 9, rows),
            "amount": np.round(random.lognormal(3, 1, rows), 2) + 0.01,
            "channel": pd.Categorical(random.choice(["pos", "online", " N/A "], rows)),
            "merchant_text": pd.Categorical(random.choice(["KIOSK", "BAKERY*1", None], rows)),
        }
    )


TRAIN = payments()
RECIPE = preprocessing.fit_recipe([TRAIN], TRAIN)

CHANGES = {
    "a missing column": (TRAIN.drop(columns="channel"), r"column 'channel' is missing; .* fitted on 60 payments"),
    "a renamed column": (
        TRAIN.rename(columns={"terminal_id": "terminalId"}),
        r"column 'terminal_id' is missing and 'terminalId' is new; if it was renamed, name it 'terminal_id' again",
    ),
    "two renamed columns": (
        TRAIN.rename(columns={"terminal_id": "terminalId", "customer_id": "customerId"}),
        r"column 'customer_id' is missing and 'customerId' is new",
    ),
    "a new name with nothing in common": (
        TRAIN.rename(columns={"amount": "betrag"}),
        r"column 'amount' is missing and 'betrag' is new",
    ),
    "a new column": (TRAIN.assign(tier="gold"), r"column 'tier' is new, .*fit again with it"),
    "two new columns": (TRAIN.assign(tier="gold", a=1), r"columns 'tier', 'a' are new"),
    "whole cents": (TRAIN.assign(amount=100), r"'amount' has type int64, .* on float64: .*cents"),
    "single precision": (TRAIN.astype({"amount": "float32"}), r"'amount' has type float32, .*rounded"),
    "no time zone": (
        TRAIN.assign(event_time=TRAIN["event_time"].dt.tz_localize(None)),
        r"'event_time' has type timestamp\[us\], .*timestamp\[us, UTC\]: without a time zone",
    ),
    "another time zone": (
        TRAIN.assign(event_time=TRAIN["event_time"].dt.tz_convert("Europe/Berlin")),
        r"'event_time' has type timestamp\[us, Europe/Berlin\], .*convert the times to UTC",
    ),
    "another unit of time": (
        TRAIN.assign(event_time=TRAIN["event_time"].dt.as_unit("ns")),
        r"'event_time' has type timestamp\[ns, UTC\], .*as_unit\('us'\)",
    ),
    "seconds since 1970": (TRAIN.assign(event_time=1_754_000_000), r"'event_time' has type int64, .*its unit"),
    "ids that became text": (TRAIN.astype({"customer_id": str}), r"'customer_id' has type text, .*int64"),
    "words that became numbers": (TRAIN.assign(channel=3), r"'channel' has type int64, .*fitted on text"),
    "a missing amount": (
        TRAIN.assign(amount=TRAIN["amount"].where(TRAIN.index > 2)),
        r"'amount' .*missing.* in 3 rows",
    ),
    "a negative amount": (TRAIN.assign(amount=-TRAIN["amount"]), r"'amount' breaks the rule .* in 60 rows"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_table_is_refused_by_name(change: str) -> None:
    frame, sentence = CHANGES[change]
    with pytest.raises(ContractError, match=sentence) as refused:
        RECIPE.apply(frame, "new.parquet")
    assert str(refused.value).startswith("new.parquet: ")
    assert str(refused.value).count("\n") == 0


def test_the_order_of_columns_and_the_storage_of_text_do_not_matter() -> None:
    expected = RECIPE.apply(TRAIN)
    shuffled = TRAIN[TRAIN.columns[::-1]].astype({"channel": object, "merchant_text": object})
    result = RECIPE.apply(shuffled)
    assert list(result.columns) == list(expected.columns)
    assert result["channel"].equals(expected["channel"])
    assert result["merchant_text"].tolist() == expected["merchant_text"].tolist()


def test_new_columns_may_be_dropped_on_request_only() -> None:
    pd.testing.assert_frame_equal(RECIPE.apply(TRAIN.assign(tier="gold"), extra="drop"), RECIPE.apply(TRAIN))


def test_a_column_without_a_single_word_is_text() -> None:
    assert RECIPE.apply(TRAIN.assign(channel=None))["channel"].unique().tolist() == ["unknown"]


def test_applying_changes_nothing_in_the_table_given() -> None:
    before = TRAIN.copy()
    RECIPE.apply(TRAIN)
    pd.testing.assert_frame_equal(TRAIN, before)


def collected(folder: Path, frame: pd.DataFrame, row_group_size: int = 10**6) -> Path:
    folder.mkdir()
    labels = pd.DataFrame({"transaction_id": frame["transaction_id"], "is_fraud": np.arange(len(frame)) % 5 == 0})
    labels["known_at"] = pd.Series(pd.date_range("2025-08-08", periods=len(frame), freq="h", tz="UTC")).dt.as_unit("us")
    labels = labels.astype({"is_fraud": "int8"})
    frame.to_parquet(folder / "transactions.parquet", row_group_size=row_group_size)
    labels.to_parquet(folder / "labels.parquet")
    readings = pa.table({"terminal_id": [1, 2], "temperature": [20.0, -999.0], "tamper_events": [1, None]})
    pq.write_table(readings, folder / "telemetry.parquet")
    return folder


def built(tmp_path: Path, frame: pd.DataFrame, name: str = "a", **how: int) -> Path:
    out = tmp_path / f"{name}-out"
    out.mkdir()
    preprocessing.build(CALENDAR, {"collection": collected(tmp_path / name, frame, **how)}, out)
    return out


def test_the_saved_recipe_gives_the_values_of_training_bit_for_bit(tmp_path: Path) -> None:
    raw = payments(500)
    out = built(tmp_path, raw)
    recipe = preprocessing.load_recipe(out / "preprocessing.json")
    written = pd.read_parquet(out / "transactions.parquet")
    pd.testing.assert_frame_equal(recipe.apply(raw), written[list(recipe.types)], check_exact=True)
    fitted = preprocessing.fit_recipe([raw[(written["split"] == "train").to_numpy()]], raw)
    again = recipe.standardize(recipe.apply(raw))
    assert again.equals(fitted.standardize(fitted.apply(raw)))
    assert (again.loc[:, "channel=online":].sum(axis=1) == (written["channel"] != "unknown")).all()


@pytest.mark.parametrize("kind", ["text", "category"])
@pytest.mark.parametrize("words", [["KIOSK", None], ["KIOSK", "", None], ["KIOSK"], [None]])
def test_a_text_is_filled_in_a_file_as_in_a_table(tmp_path: Path, kind: str, words: list[str | None]) -> None:
    texts = pd.Series(np.resize(np.array(words, dtype=object), 500))
    raw = payments(500).assign(merchant_text=texts if kind == "text" else texts.astype("category"))
    written = pd.read_parquet(built(tmp_path, raw) / "transactions.parquet")["merchant_text"]
    assert isinstance(written.dtype, pd.CategoricalDtype)
    assert written.astype(str).tolist() == ["" if text is None else text for text in texts]


def test_the_recipe_says_what_was_fitted_on_what(tmp_path: Path) -> None:
    raw = payments(500)
    out = built(tmp_path, raw)
    content = json.loads((out / "preprocessing.json").read_text())
    train = raw[(raw["event_time"] >= "2025-08-01") & (raw["event_time"] < "2025-09-22")]
    assert content["fitted_on"]["rows"] == len(train)
    assert (content["fitted_on"]["from"], content["fitted_on"]["until"]) == ("2025-08-01", "2025-09-22")
    assert content["numbers"]["amount"]["median"] == train["amount"].median()
    assert content["numbers"]["log_amount"]["scale"] == pytest.approx(np.log(train["amount"]).std(ddof=0), rel=1e-12)
    assert content["vocabularies"] == json.loads((out / "encoding.json").read_text()) == {"channel": ["online", "pos"]}
    assert content["time_zone"] == "UTC"
    assert {column["name"]: column["type"] for column in content["input"]} == RECIPE.types


def test_the_numbers_are_those_of_a_scikit_learn_pipeline_on_the_same_rows() -> None:
    cleaned = RECIPE.apply(TRAIN)
    codes = preprocessing.encode(cleaned["channel"], RECIPE.vocabularies["channel"])
    matrix = np.column_stack([cleaned["amount"], np.log(cleaned["amount"]), np.where(codes < 0, np.nan, codes)])
    names = ["amount", "log_amount", "channel_code"]
    seen = matrix[~np.isnan(matrix[:, 2])].astype("float32")
    encoder = preprocessing.make_encoder(names, "linear").fit(matrix.astype("float32"))
    learned = preprocessing.describe_encoder(encoder, names)["numbers"]
    for name in names[:2]:
        assert learned[name] == pytest.approx({k: RECIPE.content["numbers"][name][k] for k in learned[name]}, rel=1e-5)
    ours = RECIPE.standardize(cleaned)[~np.isnan(matrix[:, 2])]
    assert np.allclose(encoder.transform(seen)[:, :4], ours, atol=1e-5)


@given(cuts=st.lists(st.integers(0, 60), max_size=5))
def test_learning_part_by_part_learns_the_same(cuts: list[int]) -> None:
    edges = [0, *sorted(cuts), len(TRAIN)]
    parts = [TRAIN.iloc[a:b] for a, b in zip(edges, edges[1:], strict=False)]
    assert preprocessing.fit_recipe(parts, TRAIN).content == RECIPE.content


@pytest.mark.parametrize("how", [{"row_group_size": 7}, {"row_group_size": 10**6}])
def test_the_size_of_a_batch_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: dict) -> None:
    raw = payments(300)
    whole = built(tmp_path, raw, "whole")
    monkeypatch.setattr(tables, "BATCH_ROWS", 50)
    parts = built(tmp_path, raw, "parts", **how)
    assert pq.ParquetFile(parts / "transactions.parquet").num_row_groups == 6
    for path in sorted(whole.glob("*.parquet")):
        one, other = pd.read_parquet(path), pd.read_parquet(parts / path.name)
        text = {"merchant_text": str} if "merchant_text" in one else {}
        pd.testing.assert_frame_equal(one.astype(text), other.astype(text))
    for path in sorted(whole.glob("*.json")):
        assert path.read_bytes() == (parts / path.name).read_bytes()


def test_a_repeated_id_far_apart_is_found_and_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", 50)
    raw = payments(300)
    raw.loc[299, "transaction_id"] = 17
    with pytest.raises(
        ContractError, match=r"transactions.parquet: column 'transaction_id' is repeated in 2 rows .*'17'"
    ):
        built(tmp_path, raw)


def test_ids_in_any_order_pass_if_none_repeats(tmp_path: Path) -> None:
    raw = payments(300)
    raw["transaction_id"] = raw["transaction_id"].to_numpy()[::-1]
    assert len(pd.read_parquet(built(tmp_path, raw) / "transactions.parquet")) == 300


def test_a_bad_value_names_file_column_count_and_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", 100)
    raw = payments(300)
    raw.loc[[150, 160], "amount"] = -1.0
    with pytest.raises(ContractError, match=r"transactions.parquet \(from row 101 on\): column 'amount' .* in 2 rows"):
        built(tmp_path, raw)


def test_a_column_of_the_wrong_type_is_refused_before_anything_is_learned(tmp_path: Path) -> None:
    raw = payments(300)
    raw["event_time"] = raw["event_time"].dt.tz_localize(None)
    with pytest.raises(ContractError, match=r"transactions.parquet: column 'event_time' has type datetime64\[us\]"):
        built(tmp_path, raw)


def test_a_file_that_is_no_parquet_is_one_sentence(tmp_path: Path) -> None:
    source = collected(tmp_path / "in", payments(300))
    (source / "transactions.parquet").write_text("transaction_id,amount\n")
    with pytest.raises(LifecycleError, match=r"transactions.parquet cannot be read as Parquet .* collect it again"):
        preprocessing.build(CALENDAR, {"collection": source}, tmp_path)


def test_gaps_in_whole_numbers_and_disguises_of_side_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tables, "BATCH_ROWS", 1)  # the gap is in the second batch
    telemetry = pd.read_parquet(built(tmp_path, payments(60)) / "telemetry.parquet")
    assert pq.read_schema(tmp_path / "a-out" / "telemetry.parquet").field("tamper_events").type == "double"
    assert telemetry["temperature"].isna().tolist() == [False, True]
    assert telemetry["tamper_events"].dtype == "float64"


def test_a_recipe_changed_by_hand_is_refused(tmp_path: Path) -> None:
    preprocessing.save_recipe(RECIPE, tmp_path / "preprocessing.json")
    assert preprocessing.load_recipe(tmp_path / "preprocessing.json") == RECIPE
    content = files.read_json(tmp_path / "preprocessing.json")
    content["numbers"]["amount"]["mean"] += 1
    files.write_json(content, tmp_path / "preprocessing.json")
    with pytest.raises(LifecycleError, match=r"preprocessing.json was changed after it was written"):
        preprocessing.load_recipe(tmp_path / "preprocessing.json")
    files.write_json([], tmp_path / "preprocessing.json")
    with pytest.raises(LifecycleError, match="is not a preprocessing recipe of format 1"):
        preprocessing.load_recipe(tmp_path / "preprocessing.json")


def test_the_encoder_can_tell_what_it_learned() -> None:
    names = ["amount", "distance", "channel_code"]
    matrix = np.float32([[1, np.nan, 0], [3, 4, 1], [5, 4, 1]])
    learned = preprocessing.describe_encoder(preprocessing.make_encoder(names, "linear").fit(matrix), names)
    assert learned["numbers"]["amount"] == pytest.approx({"median": 3, "mean": 3, "scale": np.std([1, 3, 5])})
    assert learned["codes"] == {"channel_code": [0.0, 1.0]}
    imputed = preprocessing.describe_encoder(preprocessing.make_encoder(names, "imputed").fit(matrix), names)
    assert imputed["numbers"]["distance"] == {"median": 4.0}
    nothing = preprocessing.describe_encoder(preprocessing.make_encoder(names, "tree").fit(matrix), names)
    assert nothing == {"numbers": {}, "codes": {}}


def test_the_model_graph_holds_the_numbers_of_the_encoder() -> None:
    """Training exports imputer, scaler and coefficients as one graph: the service cannot use other numbers."""
    onnx = pytest.importorskip("onnx")
    from lifecycle import training
    from lifecycle.training.artifact import to_onnx

    random = np.random.default_rng(0)
    names = ["amount", "distance", "channel_code"]
    matrix = np.column_stack([random.normal(50, 9, (200, 2)), random.integers(0, 3, 200)]).astype("float32")
    matrix[::7, 0] = np.nan
    model = training.fit_model("logistic_regression", matrix, (random.random(200) < 0.3).astype("int8"), names, 0)
    learned = preprocessing.describe_encoder(model.steps[0][1], names)["numbers"]
    nodes = {node.op_type: node for node in onnx.load_from_string(to_onnx(model, 3)).graph.node}
    inside = {kind: {a.name: list(a.floats) for a in nodes[kind].attribute} for kind in ("Imputer", "Scaler")}
    numbers = [learned[name] for name in names[:2]]
    assert inside["Imputer"]["imputed_value_floats"] == [np.float32(n["median"]) for n in numbers]
    assert inside["Scaler"]["offset"] == [np.float32(n["mean"]) for n in numbers]
    assert inside["Scaler"]["scale"] == pytest.approx([1 / n["scale"] for n in numbers], rel=1e-6)
