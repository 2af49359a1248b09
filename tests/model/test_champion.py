"""The champion of the full bank, as the service loads it: what it must do whatever its score.

It takes minutes to build, so these tests run beside the notebooks, which build it anyway (see `tests/run_all.py`).
What the checks themselves notice is tested in `test_behavior.py`.
"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from lifecycle import files, pipeline, training
from lifecycle.evaluation import behavior, model_card

pytestmark = pytest.mark.champion


@pytest.fixture(scope="module")
def champion():
    evaluated = pipeline.artifact("evaluation")
    model = training.load_model(evaluated.path / "model", threads=1)
    test = pipeline.artifact("features").frame("test_set")
    score = model.predict(training.feature_matrix(test, model.schema))
    return SimpleNamespace(
        report=evaluated.json("report"), folder=evaluated.path / "model", model=model, test=test, score=score
    )


@pytest.fixture(scope="module")
def calm(champion):
    """Ordinary payments: let through, without reports or a burst."""
    quiet = champion.test[champion.score < champion.model.threshold].sample(3_000, random_state=1)
    return behavior.change(quiet, behavior.CALM)


def scores(champion, frame):
    return champion.model.predict(training.feature_matrix(frame, champion.model.schema))


def test_every_check_of_the_report_holds_when_it_is_done_again(champion):
    again = behavior.check_behavior(champion.model, champion.test, champion.model.threshold, seed=7)
    assert len(again) >= 10
    assert not [one for one in again if not one["passed"]]
    assert [one["check"] for one in again] == [one["check"] for one in champion.report["behavior"]]


def test_no_id_is_a_feature(champion):
    assert not [name for name in champion.model.features if name.endswith("_id")]


def test_the_score_of_a_payment_is_the_same_in_any_company(champion):
    few = champion.test.tail(300)
    alone = np.concatenate([scores(champion, few.iloc[[row]]) for row in range(len(few))])
    np.testing.assert_allclose(alone, champion.score[-300:], atol=1e-6)


@pytest.mark.parametrize(
    "steps",
    [
        [{"terminal_fraud_7d": n, "terminal_fraud_30d": n, "terminal_fraud_ratio_7d": n / 30,
          "terminal_fraud_ratio_30d": n / 120} for n in (0, 1, 3, 6)],
        [{"distance_from_home": km, "customer_km_24h": 2 * km} for km in (5, 30, 80, 150)],
        [{"customer_count_10m": n // 2, "customer_count_1h": n, "customer_count_24h": 3 + n} for n in (0, 2, 4, 6)],
        [{"amount_to_mean_30d": n, "amount_to_max_30d": n / 5, "amount_to_terminal_mean_30d": n,
          "log_amount": np.log1p(50 * n)} for n in (1, 4, 8, 16)],
    ],
    ids=["reports", "distance", "burst", "amount"],
)  # fmt: skip
def test_more_of_what_is_suspect_is_a_higher_score_on_average(champion, calm, steps):
    means = [scores(champion, behavior.change(calm, step)).mean() for step in steps]
    assert means == sorted(means) and means[-1] > 2 * means[0]


def test_an_obviously_risky_payment_beats_every_ordinary_one(champion, calm):
    risky = calm
    for add in behavior.SUSPECT.values():
        risky = behavior.change(risky, add(risky))
    assert np.median(scores(champion, risky)) > np.quantile(scores(champion, calm), 0.999)


def test_a_cent_more_decides_almost_nothing(champion):
    cent = {"log_amount": np.log1p(champion.test["amount"] + 0.01)}
    cent |= {
        name: champion.test[name] * (1 + 0.01 / champion.test["amount"])
        for name in champion.test.columns
        if name.startswith("amount_to_")
    }
    after = scores(champion, behavior.change(champion.test, cent))
    changed = (after >= champion.model.threshold) != (champion.score >= champion.model.threshold)
    assert changed.mean() < 0.001


def test_the_card_beside_the_champion_says_what_the_report_says(champion):
    model_card.check_card(files.read_json(champion.folder / "model_card.json"), champion.report)
