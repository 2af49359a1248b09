"""Text features: whole-number weights over hashed pieces, fitted on the training period, kept in the schema."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from features_oracle import CITIES, WORDS, random_bank
from hypothesis import given
from hypothesis import strategies as st

from lifecycle import files
from lifecycle.features import text

PLAIN = {"buckets": text.BUCKETS, "length": text.LENGTH}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("texts") / "transactions.parquet"
    frame = random_bank(seed=2)[0]
    first = frame["merchant_text"].astype(str).str.split().str[0].str.lower()
    files.write_parquet(frame.assign(merchant_category=first.where(first.notna(), "unknown")), path)
    return path


def test_the_weights_tell_the_categories_apart(source):
    fitted = text.fit_texts(source, "2025-07-01", "2025-08-01")["merchant_text"]
    words = ("TAXI 3 vale", "taxi 99 oakhaven", "PETROL 3 vale", "petrol 1 oakhaven")
    taxi, other_taxi, petrol, other_petrol = text.vectorize(words, fitted)
    assert np.linalg.norm(taxi - other_taxi) < 0.5 * np.linalg.norm(taxi - petrol)
    assert np.linalg.norm(petrol - other_petrol) < 0.5 * np.linalg.norm(other_taxi - other_petrol)


def test_what_was_fitted_survives_a_file_to_the_last_bit(source):
    fitted = text.fit_texts(source, "2025-07-01", "2025-08-01")
    again = json.loads(json.dumps(fitted))
    words = ["TAXI 3 vale", "", None, "petrol"]
    assert again == fitted == text.fit_texts(source, "2025-07-01", "2025-08-01")
    np.testing.assert_array_equal(*(text.vectorize(words, f["merchant_text"]) for f in (fitted, again)))


def test_descriptors_outside_the_training_period_are_not_read(source, tmp_path):
    frame = pd.read_parquet(source)
    late = frame["event_time"] >= "2025-08-01"
    frame["merchant_text"] = frame["merchant_text"].astype(str).mask(late, "something new")
    files.write_parquet(frame, tmp_path / "changed.parquet")
    assert text.fit_texts(tmp_path / "changed.parquet", "2025-07-01", "2025-08-01") == text.fit_texts(
        source, "2025-07-01", "2025-08-01"
    )


def test_without_texts_or_with_few_nothing_is_fitted(source, tmp_path):
    frame = pd.read_parquet(source)
    files.write_parquet(frame.drop(columns="merchant_text"), tmp_path / "none.parquet")
    files.write_parquet(frame.assign(merchant_text="one"), tmp_path / "one.parquet")
    assert text.fit_texts(tmp_path / "none.parquet", "2025-07-01", "2025-08-01") == {}
    assert text.fit_texts(tmp_path / "one.parquet", "2025-07-01", "2025-08-01") == {}


def test_without_categories_the_components_are_those_that_vary_most(source, tmp_path):
    files.write_parquet(pd.read_parquet(source).drop(columns="merchant_category"), tmp_path / "plain.parquet")
    fitted = text.fit_texts(tmp_path / "plain.parquet", "2025-07-01", "2025-08-01")["merchant_text"]
    assert np.shape(fitted["weights"]) == (text.BUCKETS, text.COMPONENTS)
    vectors = text.vectorize([f"{word} {city}" for word in WORDS for city in CITIES], fitted)
    assert (vectors.std(axis=0) > 0.5).all()


@given(st.lists(st.one_of(st.none(), st.text(max_size=30)), max_size=20))
def test_many_texts_at_once_give_what_each_gives_alone(words):
    weights = np.random.default_rng(1).integers(-5_000, 5_000, (text.BUCKETS, 3)).tolist()
    fitted = {**PLAIN, "weights": weights}
    together = text.vectorize(words, fitted)
    ready = text.prepare({"text": fitted})["text"]
    alone = [text.text_values(word, ready) for word in words]
    np.testing.assert_array_equal(together, np.array(alone).reshape(-1, 3))
    assert np.isfinite(together).all()


@given(st.text())
def test_the_letters_of_a_text_are_those_that_unicode_calls_letters(words):
    kept = "".join(letter if letter.isalpha() else " " for letter in words.lower())
    assert text.letters(words) == " ".join(kept.split())


def test_a_run_of_words_is_weighed_once_whatever_numbers_stand_beside_it(monkeypatch):
    weighed = []
    monkeypatch.setattr(text, "pieces", lambda words, *_: weighed.append(words) or (0,))
    text.vectorize(["TAXI 1", "taxi 2", None, "taxi*3", "petrol", "TAXI 1"], {**PLAIN, "weights": [[1]]})
    assert weighed == ["", "taxi", "petrol"]
