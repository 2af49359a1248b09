"""Drift distances: against the definition, against scipy, and at the edges."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from lifecycle.errors import LifecycleError
from lifecycle.monitoring.drift import (
    DriftReference,
    categorical_distance,
    correct_for_chance,
    numeric_distance,
    population_stability_index,
)

numbers = st.lists(st.floats(-1e6, 1e6) | st.integers(-3, 3).map(float), min_size=1, max_size=60)


@settings(max_examples=150, deadline=None)
@given(numbers, numbers)
def test_simple_distance_is_the_largest_gap_of_the_cumulative_distributions(a, b):
    a, b = np.array(a), np.array(b)
    expected = max(abs(np.mean(a <= x) - np.mean(b <= x)) for x in np.concatenate([a, b]))
    assert numeric_distance(a, b) == pytest.approx(expected, abs=1e-12)


def test_simple_distance_equals_scipys_on_a_real_size():
    generator = np.random.default_rng(0)
    a, b = generator.normal(size=5000), generator.normal(0.1, 1, size=3000)
    assert numeric_distance(a, b) == pytest.approx(stats.ks_2samp(a, b).statistic, abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(numbers, numbers)
def test_reference_and_plain_function_agree_on_numbers(a, b):
    made = DriftReference(pd.DataFrame({"x": a})).calculate(pd.DataFrame({"x": b})).iloc[0]
    assert made["linf"] == pytest.approx(numeric_distance(np.array(a), np.array(b)), abs=1e-12)
    assert made["linf_robust"] == pytest.approx(numeric_distance(np.array(a), np.array(b), robust=True), abs=1e-12)


@settings(max_examples=100, deadline=None)
@given(numbers, numbers)
def test_psi_counts_a_value_on_an_edge_in_the_bin_below(a, b):
    edges = np.unique(np.quantile(a, np.linspace(0, 1, 11)[1:-1]))
    counts = [np.bincount(np.searchsorted(edges, x, side="left"), minlength=edges.size + 1) for x in (a, b)]
    made = DriftReference(pd.DataFrame({"x": a})).calculate(pd.DataFrame({"x": b})).iloc[0]
    assert made["psi"] == pytest.approx(population_stability_index(*counts), abs=1e-12)


def test_weights_count_as_repeated_values():
    a, b = np.array([1.0, 2.0, 5.0]), np.array([2.0, 3.0])
    repeated = numeric_distance(np.repeat(a, [4, 2, 1]), np.repeat(b, [3, 8]))
    weighted = numeric_distance(a, b, reference_weights=np.array([4, 2, 1]), current_weights=np.array([3, 8]))
    assert weighted == pytest.approx(repeated)


def test_robust_distance_follows_the_public_definition():
    assert correct_for_chance(0.5, 400, 100) == pytest.approx(0.5 - 1.8 * np.sqrt(500 / 40_000))
    assert correct_for_chance(0.01, 400, 100) == 0
    assert correct_for_chance(0.9, 0, 100) == 0


def test_robust_raises_no_alarm_in_small_clean_windows_where_simple_does():
    generator = np.random.default_rng(1)
    baseline = generator.lognormal(3, 1, 50_000)
    windows = generator.lognormal(3, 1, (200, 50))
    simple = np.array([numeric_distance(baseline, window) for window in windows])
    robust = np.array([numeric_distance(baseline, window, robust=True) for window in windows])
    assert 0.55 < np.mean(simple > 0.1) < 0.85
    assert np.mean(robust > 0.1) == 0


def test_missing_and_infinite_values_are_left_out_of_the_distance_and_counted():
    reference = DriftReference(pd.DataFrame({"x": np.arange(100.0)}))
    clean = np.arange(100.0)
    dirty = np.concatenate([clean, [np.nan, np.inf, -np.inf]])
    made = reference.calculate(pd.DataFrame({"x": dirty})).iloc[0]
    assert (made["linf"], made["missing"], made["outside"]) == (0.0, 3, 0)
    assert made["psi"] > 0.01  # going missing is itself a shift


def test_values_beyond_the_reference_are_counted_and_move_the_distances():
    reference = DriftReference(pd.DataFrame({"x": np.arange(100.0), "c": ["a", "b"] * 50}))
    chunk = pd.DataFrame({"x": np.arange(100.0) + 1000, "c": ["a", "new"] * 50})
    made = reference.calculate(chunk).set_index("feature")
    assert made.loc["x", "outside"] == 100
    assert made.loc["x", "linf"] == 1.0
    assert made.loc["c", "outside"] == 50
    assert made.loc["c", "linf"] == 0.5


@pytest.mark.parametrize("chunk", [pd.DataFrame({"x": [], "c": []}), pd.DataFrame({"x": [np.nan], "c": [None]})])
def test_a_chunk_without_values_has_no_distance(chunk):
    reference = DriftReference(pd.DataFrame({"x": np.arange(10.0), "c": list("abcdefghij")}))
    made = reference.calculate(chunk)
    assert (made["linf"] == 0).all()
    assert (made["linf_robust"] == 0).all()
    assert np.isfinite(made["psi"]).all()


def test_a_lost_column_counts_as_missing_everywhere():
    made = DriftReference(pd.DataFrame({"x": np.arange(10.0)})).calculate(pd.DataFrame({"y": [1, 2]})).iloc[0]
    assert made["missing"] == 2
    assert made["psi"] > 0.25


def test_a_constant_or_wholly_missing_reference_still_compares():
    reference = DriftReference(pd.DataFrame({"x": [5.0] * 9, "m": [np.nan] * 9}))
    made = reference.calculate(pd.DataFrame({"x": [5.0] * 4, "m": [1.0] * 4})).set_index("feature")
    assert made.loc["x", "psi"] == 0
    assert made.loc["m", "linf"] == 0
    assert made.loc["m", "psi"] > 0.25


def test_an_empty_reference_or_unknown_column_is_refused():
    with pytest.raises(LifecycleError, match="has no rows"):
        DriftReference(pd.DataFrame({"x": []}))
    with pytest.raises(LifecycleError, match="no column 'y'"):
        DriftReference(pd.DataFrame({"x": [1]}), columns=["y"])


def test_categorical_distance_sees_only_the_largest_change():
    assert categorical_distance({"fraud": 5, "honest": 995}, {"fraud": 15, "honest": 985}) == pytest.approx(0.01)
    assert categorical_distance({}, {"a": 1}) == 0


def test_psi_is_zero_without_change_and_finite_with_empty_bins():
    assert population_stability_index(np.array([3, 3]), np.array([30, 30])) == 0
    assert np.isfinite(population_stability_index(np.array([10, 0]), np.array([0, 10])))
    assert population_stability_index(np.array([0, 0]), np.array([1, 2])) == 0


def test_psi_of_a_number_matches_pandas_quantile_bins():
    generator = np.random.default_rng(3)
    a, b = generator.normal(0, 1, 5000), generator.normal(0.5, 1, 2000)
    edges = np.quantile(a, np.linspace(0, 1, 11)[1:-1])
    p = pd.cut(a, [-np.inf, *edges, np.inf]).value_counts().to_numpy() / len(a)
    q = pd.cut(b, [-np.inf, *edges, np.inf]).value_counts().to_numpy() / len(b)
    p, q = np.append(p, 1e-4), np.append(q, 1e-4)  # the bin of the missing
    made = DriftReference(pd.DataFrame({"x": a})).calculate(pd.DataFrame({"x": b}))["psi"].iloc[0]
    assert made == pytest.approx(np.sum((q - p) * np.log(q / p)), abs=1e-9)
