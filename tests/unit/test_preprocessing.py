"""Preprocessing: what is learned comes from training alone, and time decides the split."""

from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lifecycle import contracts, preprocessing
from lifecycle.errors import LifecycleError
from lifecycle.settings import Settings

CALENDAR = Settings()


def payments(days: list[str], **columns: object) -> pd.DataFrame:
    times = pd.Series(pd.to_datetime(days, utc=True, format="ISO8601")).dt.as_unit("us")
    frame = {"transaction_id": range(len(days)), "event_time": times, "customer_id": 1, "terminal_id": 1, "amount": 5.0}
    return pd.DataFrame(frame | columns)


@given(st.lists(st.integers(-40 * 86_400, 150 * 86_400), min_size=1, max_size=50))
def test_the_split_is_decided_by_time_alone(seconds: list[int]) -> None:
    times = (pd.Timestamp("2025-08-01", tz="UTC") + pd.to_timedelta(pd.Series(seconds), "s")).dt.as_unit("us")
    split = pd.Series(preprocessing.split_by_time(times, CALENDAR))
    days = times.dt.date
    for name, start, end in (
        ("warmup", date.min, CALENDAR.train_from),
        ("train", CALENDAR.train_from, CALENDAR.train_until),
        ("gap", CALENDAR.train_until, CALENDAR.test_from),
        ("test", CALENDAR.test_from, CALENDAR.test_until),
        ("later", CALENDAR.test_until, date.max),
    ):
        assert ((split == name) == ((days >= start) & (days < end))).all()


def test_disguises_are_revealed_without_changing_the_original() -> None:
    frame = pd.DataFrame(
        {
            "merchant_category": pd.Categorical(["fuel", "0000", None]),
            "channel": ["pos", " N/A ", "online"],
            "birth_date": pd.to_datetime(["1980-01-01", "1900-01-01", "1990-01-01"], utc=True),
            "temperature": [20.0, -999.0, -9.0],
        }
    )
    before = frame.copy()
    result = preprocessing.reveal_missing(frame)
    assert result.isna().sum().to_dict() == {"merchant_category": 2, "channel": 1, "birth_date": 1, "temperature": 1}
    pd.testing.assert_frame_equal(frame, before)


def test_the_vocabulary_is_what_training_has_seen() -> None:
    days = ["2025-08-05", "2025-08-06", "2025-10-01"]
    frame = payments(days, channel=pd.Categorical(["pos", "online", "fax"]))
    vocabularies = preprocessing.fit_vocabularies(frame.iloc[:2])
    assert vocabularies == {"channel": ["online", "pos"]}
    fixed = preprocessing.fix_levels(frame, vocabularies)["channel"]
    assert fixed.tolist() == ["pos", "online", "unknown"]
    assert fixed.cat.categories.tolist() == ["online", "pos", "unknown"]
    assert preprocessing.encode(fixed, vocabularies["channel"]).tolist() == [1.0, 0.0, -1.0]


def test_a_vocabulary_keeps_the_most_frequent_levels() -> None:
    levels = [f"c{i:03d}" for i in range(150)]
    frame = pd.DataFrame({"merchant_category": levels + levels[50:]})
    kept = preprocessing.fit_vocabularies(frame)["merchant_category"]
    assert kept == levels[50:]


def collected(folder: Path, frame: pd.DataFrame) -> Path:
    folder.mkdir()
    labels = pd.DataFrame(
        {
            "transaction_id": frame["transaction_id"],
            "is_fraud": np.zeros(len(frame), "int8"),
            "known_at": (frame["event_time"] + pd.Timedelta(days=7)).dt.as_unit("us"),
        }
    )
    frame.to_parquet(folder / "transactions.parquet")
    labels.to_parquet(folder / "labels.parquet")
    return folder


def test_a_file_with_only_the_contract_columns_passes(tmp_path: Path) -> None:
    source = collected(tmp_path / "in", payments(["2025-08-05", "2025-10-01"]))
    (tmp_path / "out").mkdir()
    preprocessing.build(CALENDAR, {"collection": source}, tmp_path / "out")
    result = pd.read_parquet(tmp_path / "out" / "transactions.parquet")
    contracts.check(result, contracts.TRANSACTIONS, "result")
    assert result["split"].tolist() == ["train", "test"]
    assert json.loads((tmp_path / "out" / "encoding.json").read_text()) == {}
    splits = json.loads((tmp_path / "out" / "splits.json").read_text())
    assert [row["rows"] for row in splits] == [0, 1, 0, 1, 0]


def test_later_payments_change_nothing_of_what_was_learned(tmp_path: Path) -> None:
    past = payments(["2025-08-05", "2025-10-01"], channel=pd.Categorical(["pos", "online"]))
    future = payments(["2025-12-01"], channel=pd.Categorical(["fax"]), transaction_id=[9])
    learned = []
    for name, frame in (("past", past), ("both", pd.concat([past, future]).astype({"channel": "category"}))):
        (tmp_path / f"{name}-out").mkdir()
        preprocessing.build(CALENDAR, {"collection": collected(tmp_path / name, frame)}, tmp_path / f"{name}-out")
        learned.append((tmp_path / f"{name}-out" / "preprocessing.json").read_bytes())
    assert learned[0] == learned[1]


@pytest.mark.parametrize(("day", "what"), [("2025-10-01", "training"), ("2025-08-05", "test")])
def test_an_empty_period_is_one_sentence(tmp_path: Path, day: str, what: str) -> None:
    source = collected(tmp_path / "in", payments([day]))
    with pytest.raises(LifecycleError, match=rf"The {what} period \[.*\) holds no payments: they run from {day}"):
        preprocessing.build(CALENDAR, {"collection": source}, tmp_path)


def test_a_bank_of_which_nothing_is_known_yet_has_splits_without_frauds(tmp_path: Path) -> None:
    source = collected(tmp_path / "in", payments(["2025-08-05", "2025-10-01"], customer_id=["a", "007"]))
    pd.read_parquet(source / "labels.parquet").iloc[:0].to_parquet(source / "labels.parquet")
    (tmp_path / "out").mkdir()
    preprocessing.build(CALENDAR, {"collection": source}, tmp_path / "out")
    splits = json.loads((tmp_path / "out" / "splits.json").read_text())
    assert [(row["rows"], row["frauds"]) for row in splits] == [(0, 0), (1, 0), (0, 0), (1, 0), (0, 0)]


def matrix(rows: int = 200, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    numbers = random.normal(50, 9, (rows, 2))
    numbers[::7, 0] = np.nan
    return np.column_stack([numbers, random.integers(-1, 3, rows)]).astype("float32")


def test_the_linear_encoder_standardizes_with_the_numbers_of_its_training() -> None:
    names = ["amount", "distance", "channel_code"]
    encoder = preprocessing.make_encoder(names, "linear").fit(matrix())
    train, other = encoder.transform(matrix()), encoder.transform(matrix(seed=1) + np.float32([30, 0, 0]))
    assert np.allclose(train[:, :2].mean(axis=0), 0, atol=1e-5)
    assert np.allclose(train[:, :2].std(axis=0), 1, atol=1e-5)
    assert other[:, 0].mean() > 2  # a shift stays visible: nothing was fitted again
    assert (train[:, 2:].sum(axis=1) == 1).all()
    assert encoder.transform(np.float32([[1, 1, 17]]))[0, 2:].sum() == 0


def test_the_other_encoders_keep_the_matrix() -> None:
    names = ["amount", "distance", "channel_code"]
    assert np.array_equal(preprocessing.make_encoder(names, "tree").fit_transform(matrix()), matrix(), equal_nan=True)
    filled = preprocessing.make_encoder(names, "imputed").fit_transform(matrix())
    assert not np.isnan(filled).any()
    assert np.array_equal(filled[:, 1:], matrix()[:, 1:])
    with pytest.raises(LifecycleError, match="no encoder of kind 'forest'"):
        preprocessing.make_encoder(names, "forest")


def test_the_exported_encoder_gives_the_same_numbers() -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    from skl2onnx import to_onnx

    for kind in ("linear", "imputed"):
        encoder = preprocessing.make_encoder(["amount", "distance", "channel_code"], kind).fit(matrix())
        session = onnxruntime.InferenceSession(to_onnx(encoder, matrix()[:1]).SerializeToString())
        (exported,) = session.run(None, {session.get_inputs()[0].name: matrix(seed=5)})
        assert np.allclose(exported, encoder.transform(matrix(seed=5)), atol=1e-5)
