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


def product_tables(backend, key):
    """Return payments and terminals of a small bank, and its daily sums."""
    transactions, labels, _, places = random_bank(seed=5, payments=500)
    columns = windows.payment_columns(transactions)
    backend.con.register("payments_of_test", columns)
    payments = backend.table("payments_of_test")
    terminals = ibis.memtable(windows.entity_table(transactions, places, "terminal_id", windows.TERMINAL_ATTRIBUTES))
    reports = ibis.memtable(windows.report_columns(labels))
    days = ibis.memtable(windows.snapshot_days(int(columns["snapshot"].min()), int(columns["snapshot"].max())))
    own = terminals if key == "terminal_id" else payments.select(key).distinct()
    return payments, terminals, windows.daily_sums(payments, reports, own, days, key)


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


@given(
    st.lists(st.integers(-20, 20) | st.integers(-(10**15), 10**15), min_size=2, max_size=7, unique=True),
    st.sampled_from([["place"], ["name", "place"]]),
    st.integers(2, 5),
    distances,
    st.sampled_from(["range", "rows"]),
    st.integers(1, 8),
    st.integers(0, 2**32 - 1),
)
@settings(max_examples=100, deadline=None)
def test_partitions_with_a_row_at_every_time_need_no_order(backend, times, keys, width, ends, how, block, seed):
    random = np.random.default_rng(seed)
    rows = pd.DataFrame({name: random.integers(-9, 9, len(times) * width) for name in KINDS})
    rows["at"], rows["place"] = np.repeat(sorted(times), width), np.tile(np.arange(width), len(times))
    rows["name"] = np.where(rows["place"] < width // 2, "a", "b")
    rows["x"] = rows["x"].where(random.random(len(rows)) < 0.7)
    table = registered(backend, rows.sample(frac=1, random_state=seed % 2**31))
    window = ibis.window(group_by=keys, order_by="at", **{how: ends})
    grids = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(frames, "BLOCK", block)
        patch.setattr(frames, "_Grid", lambda *args, kind=frames._Grid: grids.append(args) or kind(*args))
        expected, ours = both_ways(
            backend, table.select("at", "place", **functions(table, window, "one")), "at", "place"
        )
    assert ours.equals(expected), ours.to_pandas().compare(expected.to_pandas())
    assert grids


@pytest.mark.parametrize("spoiled", ["time", "partition", "row"])
def test_rows_that_are_almost_at_every_time_are_put_in_order(spoiled):
    times, codes = np.repeat([1, 2, 3], 3), np.tile([0, 1, 2], 3)
    if spoiled == "time":
        times[4] = 3
    elif spoiled == "partition":
        codes[3:5] = codes[3:5][::-1]
    else:
        times, codes = times[:-1], codes[:-1]
    rows = frames.Partitions([pa.chunked_array([codes])], times)
    values = 2 ** np.arange(len(times))
    [(sums, _)] = rows.compute([frames.Request("sum", frames.Frame("range", None, 0), values)])
    expected = [int(values[(codes == code) & (times <= time)].sum()) for code, time in zip(codes, times, strict=True)]
    assert sums.tolist() == expected


@pytest.mark.parametrize("is_mixed", [False, True])
@pytest.mark.parametrize("further", [0, 1])
def test_rows_keep_their_order_through_windows_on_windows(backend, is_mixed, further):
    random = np.random.default_rng(4)
    rows = pd.DataFrame({name: random.integers(-50, 50, 5_000) for name in KINDS}).astype({"name": str})
    table = registered(backend, rows)
    within = ibis.range_window(group_by="place", order_by="at", preceding=(9, 1))
    mixed = {"mean": table["real"].mean().over(within)} if is_mixed else {}
    seen = table.mutate(
        before=table.count().over(within), number=table["row"] + further if further else table["row"], **mixed
    )
    total = (seen["before"] * 2).sum().over(ibis.range_window(group_by="x", order_by="at", preceding=(5, 0)))
    summed = seen.select("at", "number", *mixed, few=seen["before"] < 3, total=total)
    last = summed["few"].cast("int8").max().over(ibis.range_window(group_by="total", order_by="at", preceding=(3, 1)))
    expected, ours = both_ways(
        backend, summed.select("number", "total", *mixed, time=summed["at"], last=last), "time", "number"
    )
    assert ours.equals(expected) and len(ours) == 5_000


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


def test_no_payment_is_read_twice_and_no_snapshot_is_sorted(backend, monkeypatch):
    payments, terminals, daily = product_tables(backend, "terminal_id")
    read = []
    whole = backend.to_pyarrow
    monkeypatch.setattr(backend, "to_pyarrow", lambda query: read.extend(query.columns) or whole(query))
    with rolling.computed(backend, windows.recent_sums(payments, terminals), "micros", "transaction_id"):
        assert sorted({name for name in read if read.count(name) > 1}) == [] and "units" in read
    monkeypatch.delattr(frames, "_Share")
    with rolling.computed(backend, daily, "terminal_snapshot", "terminal_id") as known:
        assert len(backend.to_pandas(known)) > 500


@pytest.mark.parametrize("key", ["customer_id", "terminal_id"])
def test_of_the_windows_of_the_product_only_the_place_before_is_left_to_the_database(backend, key):
    payments, terminals, daily = product_tables(backend, key)
    for table in (
        daily,
        windows.recent_sums(payments, terminals, [key]),
        windows.recent_sums(payments, terminals),
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
