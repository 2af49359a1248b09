"""What a fraud model must do whatever its score: hold still for what should not matter, and move the right way else.

The models are small, but made by the code of the training stage, and loaded from ONNX as the service loads them.
"""

import numpy as np
import pytest
from model_data import FEATURES, SCHEMA, SETTINGS, make_payments, period

from lifecycle import training
from lifecycle.evaluation import behavior

SIZES = {"random_forest": {"n_estimators": 30}, "gradient_boosting": {"max_iter": 40, "min_samples_leaf": 10}}


@pytest.fixture(scope="module")
def payments():
    frame, labels = make_payments(20_000)
    train = period(frame, labels, SETTINGS.train_from, SETTINGS.train_until, SETTINGS.test_from).dropna(
        subset="is_fraud"
    )
    test = period(frame, labels, SETTINGS.test_from, SETTINGS.test_until, SETTINGS.deploy_at)
    return train, training.feature_matrix(test, SCHEMA)


@pytest.fixture(scope="module", params=training.CLASSIFIERS)
def model(request, payments, tmp_path_factory):
    train, _ = payments
    matrix, fraud = training.feature_matrix(train, SCHEMA), train["is_fraud"].to_numpy(dtype=int)
    fitted = training.fit_model(request.param, matrix, fraud, list(FEATURES), 0, **SIZES.get(request.param, {}))
    return training.save_model(
        fitted, SCHEMA, tmp_path_factory.mktemp(request.param), sample=matrix, name=request.param
    )


def changed(matrix: np.ndarray, **values: float) -> np.ndarray:
    """Return a copy in which features have other values."""
    copy = matrix.copy()
    for name, value in values.items():
        copy[:, FEATURES.index(name)] = value
    return copy


def test_a_score_does_not_depend_on_the_other_payments_of_a_request(model, payments):
    _, matrix = payments
    together = model.predict(matrix)
    order = np.random.default_rng(0).permutation(len(matrix))
    np.testing.assert_array_equal(model.predict(matrix[order]), together[order])
    alone = np.concatenate([model.predict(matrix[[row]]) for row in range(50)])
    np.testing.assert_allclose(alone, together[:50], atol=1e-6)


def test_scores_are_probabilities_for_any_input(model, payments):
    _, matrix = payments
    for strange in (changed(matrix, amount=np.nan), changed(matrix, amount=1e30), np.full_like(matrix, np.nan)):
        score = model.predict(strange)
        assert np.isfinite(score).all() and (score >= 0).all() and (score <= 1).all()


def test_a_cent_more_changes_almost_nothing(model, payments):
    _, matrix = payments
    cent = matrix.copy()
    cent[:, FEATURES.index("amount")] += 0.01
    assert np.abs(model.predict(cent) - model.predict(matrix)).mean() < 0.002


@pytest.mark.parametrize(
    "quiet, loud",
    [
        ({"amount_to_mean_30d": 1.0}, {"amount_to_mean_30d": 10.0}),
        ({"terminal_fraud_30d": 0.0}, {"terminal_fraud_30d": 5.0}),
        ({"customer_count_1h": 0.0}, {"customer_count_1h": 5.0}),
    ],
    ids=["ten times the usual amount", "reports at the terminal", "a burst of payments"],
)
def test_what_looks_like_fraud_raises_the_score(model, payments, quiet, loud):
    _, matrix = payments
    calm = changed(matrix, amount_to_mean_30d=1.0, terminal_fraud_30d=0.0, customer_count_1h=0.0)
    before, after = model.predict(changed(calm, **quiet)), model.predict(changed(calm, **loud))
    assert after.mean() > 3 * before.mean()
    assert (after >= before).mean() > 0.95


def test_an_unknown_channel_is_scored_like_the_others(model, payments):
    _, matrix = payments
    unknown = model.predict(changed(matrix, channel_code=-1)).mean()
    known = [model.predict(changed(matrix, channel_code=code)).mean() for code in range(3)]
    assert 0.5 * min(known) < unknown < 2 * max(known)


class Changed:
    """A model that does something wrong on top of another."""

    def __init__(self, model, wrong):
        self.features, self.schema, self._model, self._wrong = model.features, model.schema, model, wrong

    def predict(self, matrix):
        return np.clip(self._wrong(self._model.predict(matrix), matrix), 0, 1)


def failed(model, payments) -> set[str]:
    """Return the checks of the champion that a model does not pass, here without the minimum."""
    train, _ = payments
    found = behavior.check_behavior(model, train, 0.5, seed=0)
    return {one["check"] for one in found if not one["passed"] and one["kind"] != "minimum"}


def test_the_checks_of_the_champion_hold_for_small_models_too(model, payments):
    assert not {check for check in failed(model, payments) if "order" in check or "ids" in check or "batch" in check}


@pytest.mark.parametrize(
    "wrong, noticed",
    [
        (lambda score, matrix: score + 0.01 * np.arange(len(score)) / len(score), "the order of the payments"),
        (lambda score, matrix: score + 1e-4 * (len(score) > 1), "alone instead of in a batch"),
        (lambda score, matrix: score * (matrix[:, FEATURES.index("terminal_fraud_30d")] == 0),
         "five reports at the terminal"),
        (lambda score, matrix: score * (matrix[:, FEATURES.index("amount")] < 200), "ten times the amount"),
    ],
    ids=["looks at the row number", "looks at the size of the batch", "trusts reported terminals", "trusts large sums"],
)  # fmt: skip
def test_the_checks_notice_what_is_wrong(model, payments, wrong, noticed):
    assert noticed in failed(Changed(model, wrong), payments)


def test_the_minimum_is_noticed(model, payments):
    train, _ = payments
    blind = Changed(model, lambda score, matrix: 0 * score)
    found = {one["check"]: one["passed"] for one in behavior.check_behavior(blind, train, 0.5, seed=0)}
    assert found["calm payments are let through"] and not found["everything suspect at once is flagged"]
