"""Windows that are computed on sorted arrays give what the database gives, to the last bit, nulls included."""

from __future__ import annotations

import ibis
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
from features_oracle import random_bank
from hypothesis import given, settings
from hypothesis import strategies as st
from ibis.expr import operations as ops

from lifecycle.features import frames, rolling, windows

KINDS = {
    "place": "int16",
    "name": "string",
    "id": "int64",
    "at": "int64",
    "x": "int32",
    "y": "int64",
    "real": "float64",
}

many_rows = st.lists(
    st.tuples(
        st.integers(-2, 2),
        st.sampled_from(["a", "b", "ab"]),
        st.sampled_from([1, 2, 2**62, -(2**62)]),
        st.integers(-20, 20) | st.integers(-(10**15), 10**15),
        st.none() | st.integers(-9, 9),
        st.integers(-(10**12), 10**12),
        st.integers(-9, 9).map(float),
    ),
    max_size=60,
)
distances = st.tuples(st.none() | st.integers(-12, 12), st.none() | st.integers(-12, 12)).filter(
    lambda ends: None in ends or ends[0] <= ends[1]
)
some_keys = st.lists(st.sampled_from(["place", "name", "id"]), min_size=1, max_size=3, unique=True)


def functions(table, window, prefix):
    """Return each function that is computed here, arithmetic around it, and one that is left to the database."""
    values = {
        "count": table.count().over(window),
        "sum": table["x"].sum().over(window),
        "doubled": (table["y"] * 2).sum().over(window).fill_null(0) + 1,
        "max": table["x"].max().over(window),
        "max_y": table["y"].max().over(window),
        "last": table["at"].last().over(window) - table["at"],
        "mean": table["real"].mean().over(window),
    }
    return {f"{prefix}_{name}": value for name, value in values.items()}


def registered(backend, rows):
    columns = {name: pa.array(rows[name], from_pandas=True).cast(kind) for name, kind in KINDS.items()}
    backend.con.register("rows_of_test", pa.table(columns | {"row": pa.array(np.arange(len(rows)))}))
    return backend.table("rows_of_test")


def both_ways(backend, table, *order):
    """Return what the database makes of an expression, and what is computed here."""
    with rolling.computed(backend, table, *order) as known:
        ours = backend.to_pyarrow(known)
    return backend.to_pyarrow(table.order_by(*order)), ours


def names(backend):
    return {name for (name,) in backend.con.execute("SELECT table_name FROM information_schema.tables").fetchall()}


@pytest.fixture(scope="module")
def backend():
    backend = windows.connect()
    yield backend
    backend.disconnect()


@given(
    many_rows, distances, distances, some_keys, st.sampled_from(["range", "rows"]), st.integers(1, 30), st.booleans()
)
@settings(max_examples=150, deadline=None)
def test_any_frame_over_any_rows_is_that_of_the_database(backend, rows, one, other, keys, how, block, is_narrow):
    rows = pd.DataFrame(rows, columns=list(KINDS))
    if how == "rows":
        # Among rows of the same time, a database may count either first.
        rows = rows.drop_duplicates("at")
    table = registered(backend, rows)
    first, second = (
        ibis.window(group_by=own, order_by="at", **{how: ends}) for own, ends in ((keys, one), (keys[:1], other))
    )
    selected = table.select("row", "at", **functions(table, first, "one"), **functions(table, second, "other"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "BLOCK", block)
        patch.setattr(frames, "_SPAN", 100 if is_narrow else frames._SPAN)
        expected, ours = both_ways(backend, selected, "at", "row")
    assert ours.equals(expected), ours.to_pandas().compare(expected.to_pandas())


def test_windows_may_stand_on_windows_joins_and_conditions(backend):
    random = np.random.default_rng(3)
    rows = pd.DataFrame({name: random.integers(-50, 50, 5_000) for name in KINDS}).astype({"name": str})
    table = registered(backend, rows)
    within = ibis.range_window(group_by="place", order_by="at", preceding=(9, 1))
    seen = table.mutate(before=table.count().over(within))
    sums = seen.group_by("name").agg(total=seen["before"].sum().cast("int64"))
    joined = seen.inner_join(sums, "name").filter(lambda both: both["before"] > 2)
    ahead = ibis.range_window(group_by=["name", "place"], order_by="at", following=(1, 20))
    selected = joined.select("row", "before", value=(joined["total"] - 1).max().over(ahead))
    expected, ours = both_ways(backend, selected, "row")
    assert len(ours) > 1_000 and 0 < ours["value"].null_count < len(ours)
    assert ours.equals(expected)


@pytest.mark.parametrize("key", ["customer_id", "terminal_id"])
def test_of_the_windows_of_the_product_only_the_place_before_is_left_to_the_database(backend, key):
    transactions, labels, home, places = random_bank(seed=5, payments=500)
    columns = windows.payment_columns(transactions)
    backend.con.register("payments_of_test", columns)
    payments = backend.table("payments_of_test")
    entities = ibis.memtable(windows.entity_table(transactions, places, "terminal_id", windows.TERMINAL_ATTRIBUTES))
    reports = ibis.memtable(windows.report_columns(labels))
    days = ibis.memtable(windows.snapshot_days(int(columns["snapshot"].min()), int(columns["snapshot"].max())))
    own = entities if key == "terminal_id" else payments.select(key).distinct()
    for table in (
        windows.daily_sums(payments, reports, own, days, key),
        windows.recent_sums(payments, entities, [key]),
        windows.recent_sums(payments, entities),
    ):
        assert table.op().find(ops.WindowFunction)
        with rolling.computed(backend, table, table.columns[1]) as known:
            left = {type(window.func) for window in known.op().find(ops.WindowFunction)}
            assert len(backend.to_pandas(known)) > 0
        assert left <= {ops.Lag}


def test_what_was_held_is_gone_even_after_an_error(backend):
    table = registered(backend, pd.DataFrame({name: [1, 2] for name in KINDS}).astype({"name": str}))
    counted = table.mutate(n=table.count().over(ibis.range_window(group_by="id", order_by="at", preceding=(9, 1))))
    before = names(backend)
    with pytest.raises(ZeroDivisionError), rolling.computed(backend, counted) as known:
        assert names(backend) - before
        raise ZeroDivisionError(known)
    assert names(backend) == before


def test_sums_that_wrap_around_on_the_way_are_exact():
    large = np.array([2**62, 2**62, 2**62, -5, 7])
    rows = frames.Partitions([pa.chunked_array([["a"] * 5])], np.arange(5))
    [(sums, missing)] = rows.compute([frames.Request("sum", frames.Frame("rows", -1, 0), np.array(large))])
    assert sums[[0, 3, 4]].tolist() == [2**62, 2**62 - 5, 2] and missing is None
