"""The ledger of openings: the choice is written down before the test set is read, and a second choice stays visible."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pytest
from model_data import knobs, write_inputs

from lifecycle import files
from lifecycle.errors import LifecycleError
from lifecycle.evaluation.openings import Choice, describe, fingerprint, open_test, record

FIRST = Choice("random_forest", 0.51, 0.02)


@pytest.fixture
def bank(tmp_path):
    return write_inputs(tmp_path, world=False)["features"], knobs("evaluation", tmp_path / "data"), tmp_path / "data"


def test_the_first_choice_is_opening_number_one_and_a_run_again_is_no_other(bank):
    features, settings, data_dir = bank
    for _ in range(3):
        path, opening = open_test(features, FIRST, settings)
        assert opening["number"] == 1 and opening["earlier"] == []
    assert path == features / "test_set.parquet"
    assert len(files.read_json(data_dir / "openings.json")) == 1
    assert "opened once" in describe(opening)


@pytest.mark.parametrize(
    "other",
    [
        Choice("logistic_regression", 0.51, 0.02),
        Choice("random_forest", 0.52, 0.02),
        Choice("random_forest", 0.51, 0.03),
    ],
)
def test_another_champion_score_or_threshold_is_a_second_opening_that_is_said_aloud(bank, other, capsys):
    features, settings, _ = bank
    open_test(features, FIRST, settings)
    assert capsys.readouterr().err == ""
    _, opening = open_test(features, other, settings)
    assert opening["number"] == 2 and opening["earlier"][0]["champion"] == "random_forest"
    assert "opened 2 times" in capsys.readouterr().err
    assert open_test(features, FIRST, settings)[1]["number"] == 1  # going back is no third opening


def test_new_features_do_not_make_the_weeks_unseen_but_other_weeks_are(bank):
    features, settings, _ = bank
    path, opening = open_test(features, FIRST, settings)
    test = pd.read_parquet(path)
    files.write_parquet(test.sample(frac=1, random_state=0).assign(amount=1.0, another=2.0), path)
    assert fingerprint(path) == opening["test_sha256"]
    files.write_parquet(test.assign(is_fraud=1 - test["is_fraud"]), path)
    assert fingerprint(path) != opening["test_sha256"]
    files.write_parquet(test.iloc[1:], path)
    assert open_test(features, Choice("logistic_regression", 0.1, 0.1), settings)[1]["number"] == 1


def test_ids_may_be_strings(tmp_path):
    path = write_inputs(tmp_path, strings=True, world=False)["features"] / "test_set.parquet"
    assert fingerprint(path) == fingerprint(path)


def test_two_runs_at_once_lose_no_opening(tmp_path):
    entries = [{"test_sha256": "a", "champion": str(number)} for number in range(12)]
    with ThreadPoolExecutor(6) as pool:
        numbers = [one["number"] for one in pool.map(lambda entry: record(tmp_path / "openings.json", entry), entries)]
    assert sorted(numbers) == list(range(1, 13))


def test_a_broken_ledger_is_one_sentence(bank):
    features, settings, data_dir = bank
    data_dir.mkdir(exist_ok=True)
    (data_dir / "openings.json").write_text("[{")
    with pytest.raises(LifecycleError, match=r"openings\.json"):
        open_test(features, FIRST, settings)
