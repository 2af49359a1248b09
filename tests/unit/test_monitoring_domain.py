"""The domain classifier: against a classifier written out row by row, on a change that no single feature shows."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from lifecycle.monitoring.domain import FOLDS, RandomTrees, separation, separation_by_day
from lifecycle.monitoring.drift import numeric_distance

ROWS = 8000


def counts(forest, matrix, customer):
    """Return the counts by fold, tree and leaf of some rows."""
    leaves = forest.leaves(matrix)
    made = [np.bincount(leaves[customer % FOLDS == fold].ravel(), minlength=forest.size) for fold in range(FOLDS)]
    return np.stack(made).reshape(FOLDS, len(forest.column), -1).astype(float)


def correlated(rho, seed):
    """Return pairs of standard normal numbers, whose single distributions are the same whatever `rho`."""
    one, other = np.random.default_rng(seed).normal(size=(2, ROWS))
    return np.column_stack([one, rho * one + np.sqrt(1 - rho**2) * other])


@pytest.fixture(scope="module")
def forest():
    return RandomTrees.grow(correlated(0.6, seed=0), seed=1)


def test_separation_is_the_area_under_the_curve_of_rows_judged_by_the_other_fold(forest):
    then, now = correlated(0.6, seed=1), correlated(0.2, seed=2)
    customer = np.arange(ROWS)
    areas = []
    for fold in range(FOLDS):
        learned, judged = customer % FOLDS != fold, customer % FOLDS == fold
        for tree in range(len(forest.column)):
            a, b = (forest.leaves(matrix)[:, tree] for matrix in (now, then))
            seen = np.unique(np.concatenate([a, b]))
            first, size = tree * (forest.size // len(forest.column)), forest.size // len(forest.column)
            odds = np.array(
                [
                    ((a[learned] == leaf).sum() + 1)
                    / (learned.sum() + size)
                    / (((b[learned] == leaf).sum() + 1) / (learned.sum() + size))
                    for leaf in range(first, first + size)
                ]
            )
            assert seen.min() >= first and seen.max() < first + size
            score = np.concatenate([odds[a[judged] - first], odds[b[judged] - first]])
            # Leaves with the same odds are one step for scikit-learn, and two in some order here.
            score += np.concatenate([a[judged], b[judged]]) * 1e-12
            areas.append(roc_auc_score(np.repeat([1, 0], judged.sum()), score))
    assert separation(counts(forest, now, customer), counts(forest, then, customer)) == pytest.approx(
        np.mean(areas), abs=1e-9
    )


def test_a_change_of_the_relation_alone_is_seen_by_the_classifier_and_by_no_single_feature(forest):
    customer, then = np.arange(ROWS), correlated(0.6, seed=3)
    usual = counts(forest, then, customer)
    clean = [separation(counts(forest, correlated(0.6, seed), customer), usual) for seed in range(10, 40)]
    turned = correlated(-0.6, seed=4)
    assert separation(counts(forest, turned, customer), usual) > max(clean) + 0.05
    assert np.mean(clean) == pytest.approx(0.5, abs=0.01)
    assert max(numeric_distance(then[:, i], turned[:, i], robust=True) for i in range(2)) == 0


def test_what_is_so_in_one_fold_only_was_not_learned(forest):
    customer, then = np.arange(ROWS), correlated(0.6, seed=5)
    half = np.where((customer % FOLDS == 0)[:, None], correlated(-0.6, seed=6), correlated(0.6, seed=7))
    usual = counts(forest, then, customer)
    assert separation(counts(forest, half, customer), usual) < 0.53
    assert separation(counts(forest, correlated(-0.6, seed=6), customer), usual) > 0.6


def test_missing_values_have_a_side_of_their_own_and_constant_columns_do_no_harm():
    generator = np.random.default_rng(8)
    matrix = np.column_stack([generator.normal(size=ROWS), np.ones(ROWS)])
    forest = RandomTrees.grow(matrix, seed=2)
    gone = matrix.copy()
    gone[::3, 0] = np.nan
    customer = np.arange(ROWS)
    assert separation(counts(forest, gone, customer), counts(forest, matrix, customer)) > 0.6
    assert np.isfinite(RandomTrees.grow(np.ones((50, 2)), seed=0).leaves(np.ones((3, 2)))).all()


def test_a_day_is_judged_with_the_days_before_it(forest):
    customer = np.arange(ROWS) % 997
    then = counts(forest, correlated(0.6, seed=9), customer)
    usual = np.broadcast_to(then, (12, 1, *then.shape))
    days = np.stack([counts(forest, correlated(0.6 if day < 8 else -0.6, 20 + day), customer) for day in range(12)])
    made = separation_by_day(days[:, None], usual, window=7)[:, 0]
    assert made.shape == (12,) and (made[:6] == 0.5).all()
    assert made[6:8].max() < 0.51 < made[8] < made[9] < made[11]
