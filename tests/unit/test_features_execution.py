"""Large tables are computed in buckets and put together by days: the result is that of one run, to the last bit."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import pytest
from features_oracle import random_bank
from hypothesis import given, settings
from hypothesis import strategies as st

from lifecycle import contracts, features, files
from lifecycle.features import execution, windows

NAMES = ("transactions", "labels", "customers", "terminals")


def written(folder, tables):
    folder.mkdir()
    for name, table in zip(NAMES, tables, strict=False):
        files.write_parquet(table, folder / f"{name}.parquet")
    return folder


@pytest.mark.parametrize(
    ("strings", "bucket", "chunk"), [(False, 10**9, 10**9), (False, 1_500, 700), (True, 2_500, 2_000)]
)
def test_any_number_of_buckets_gives_the_tables_of_one_run(tmp_path, strings, bucket, chunk):
    bank = random_bank(seed=4, strings=strings)
    source, out = written(tmp_path / "source", bank), tmp_path / "out"
    out.mkdir()
    execution.write_tables(source, out, bucket=bucket, chunk=chunk)
    for name, expected in features.history_features(*bank).items():
        ours = pd.read_parquet(out / f"{name}.parquet")
        pd.testing.assert_frame_equal(ours, expected, check_exact=True, check_dtype=not strings, obj=name)
    assert sorted(path.name for path in out.iterdir()) == [
        "customer_daily.parquet", "recent.parquet", "terminal_daily.parquet"
    ], "what was spilled is gone"  # fmt: skip


def test_a_bucket_whose_entities_never_paid_has_its_snapshots(tmp_path):
    frame, labels, home, places = random_bank(seed=6, customers=20)
    idle = pd.DataFrame({"customer_id": np.arange(1_000, 1_400), "home_x": 1.0, "home_y": 2.0})
    bank = (frame, labels, pd.concat([home, idle], ignore_index=True), places)
    source, out = written(tmp_path / "source", bank), tmp_path / "out"
    out.mkdir()
    execution.write_tables(source, out, bucket=2_000)
    expected = features.history_features(*bank)["customer_daily"]
    ours = pd.read_parquet(out / "customer_daily.parquet")
    pd.testing.assert_frame_equal(ours, expected, check_exact=True)
    assert (ours.loc[ours["customer_id"] >= 1_000, "customer_count_30d"] == 0).all()


def test_one_day_of_a_large_table_is_read_from_few_row_groups(tmp_path):
    bank = random_bank(seed=4)
    source, out = written(tmp_path / "source", bank), tmp_path / "out"
    out.mkdir()
    execution.write_tables(source, out, bucket=2_000, chunk=600)
    file = pq.ParquetFile(out / "customer_daily.parquet")
    column = file.schema_arrow.names.index("event_timestamp")
    spans = [file.metadata.row_group(i).column(column).statistics for i in range(file.num_row_groups)]
    day = pd.Timestamp("2025-08-01", tz="UTC")
    assert sum(span.min <= day <= span.max for span in spans) == 1 < len(spans)


@given(
    amounts=st.lists(st.floats(0.00001, 1e9, allow_nan=False), min_size=1, max_size=30),
    micros=st.integers(0, 4 * 10**15),
)
@settings(max_examples=30)
def test_duckdb_reads_time_and_money_as_numpy_does(tmp_path_factory, amounts, micros):
    amounts = [*amounts, 0.00005, 0.00015, 0.00025]
    times = pd.to_datetime(np.arange(len(amounts)) * (windows.DAY // 2) + micros, unit="us", utc=True)
    frame = pd.DataFrame({key: np.arange(len(amounts)) for key in ("transaction_id", "customer_id", "terminal_id")})
    frame = frame.assign(event_time=times.astype(contracts.UTC), amount=amounts)
    path = tmp_path_factory.mktemp("payments") / "transactions.parquet"
    files.write_parquet(frame, path)
    with execution.session(path.parent) as backend:
        ours = backend.to_pandas(execution.read_payments(backend, [path]))
    expected = windows.payment_columns(frame)
    pd.testing.assert_frame_equal(ours[expected.columns], expected)


def test_duckdb_reads_reports_as_numpy_does(tmp_path):
    labels = random_bank(seed=8)[1]
    midnight = labels["known_at"].dt.floor("D").astype(contracts.UTC)
    labels = pd.concat([labels, labels.assign(is_fraud=np.int8(1), known_at=midnight)], ignore_index=True)
    files.write_parquet(labels, tmp_path / "labels.parquet")
    with execution.session(tmp_path) as backend:
        ours = backend.to_pandas(execution.read_reports(backend, tmp_path / "labels.parquet"))
    order = ["transaction_id", "snapshot"]
    expected = windows.report_columns(labels).sort_values(order, ignore_index=True)
    pd.testing.assert_frame_equal(ours.sort_values(order, ignore_index=True), expected)


def test_duckdb_works_within_its_limit_and_spills(tmp_path):
    source, out = written(tmp_path / "source", random_bank(seed=2, payments=40_000)), tmp_path / "out"
    out.mkdir()
    with execution.session(out, "100MB") as backend:
        limit, folder = backend.raw_sql(
            "SELECT current_setting('memory_limit'), current_setting('temp_directory')"
        ).fetchone()
        assert limit == "95.3 MiB" and folder.startswith(str(out))
    execution.write_tables(source, out, bucket=20_000, memory="200MB")
    assert pq.read_metadata(out / "recent.parquet").num_rows == 40_000


@given(
    rows=st.lists(st.integers(0, 50), min_size=1, max_size=40),
    gaps=st.lists(st.integers(1, 3), min_size=40, max_size=40),
    most=st.integers(1, 100),
)
def test_ranges_of_days_hold_every_day_once_and_few_rows(rows, gaps, most):
    days = np.cumsum(gaps[: len(rows)])
    ranges = list(execution.day_ranges(pd.Series(rows, index=days), most))
    held = [[day for day in days if since <= day < until] for since, until in ranges]
    assert [day for part in held for day in part] == days.tolist()
    by_day = dict(zip(days, rows, strict=True))
    assert all(len(part) == 1 or sum(by_day[day] for day in part) <= most for part in held)


@given(weights=st.lists(st.integers(1, 100), min_size=1, max_size=60), most=st.integers(1, 500))
def test_buckets_follow_the_order_and_are_about_even(weights, most):
    weights = np.array(weights)
    numbers = execution.divide(weights, most)
    assert numbers[0] == 0 and set(np.diff(numbers)) <= {0, 1}
    heaviest = max(weights[numbers == number].sum() for number in range(numbers[-1] + 1))
    assert heaviest <= most + weights.max()


def test_labels_of_a_set_are_those_known_by_the_day_and_the_latest_of_them(tmp_path):
    bank = random_bank(seed=13)
    source, out = written(tmp_path / "source", bank), tmp_path / "out"
    out.mkdir()
    execution.write_tables(source, out)
    columns = ["transaction_id", "event_time"]
    period = ("2025-07-20", "2025-07-25", "2025-07-29")
    days = execution.write_events(source, out / "recent.parquet", tmp_path / "events.parquet", columns, *period)
    events = pd.read_parquet(tmp_path / "events.parquet")
    inside = bank[0]["event_time"].between("2025-07-20", "2025-07-25", inclusive="left")
    assert days.sum() == len(events) == inside.sum() and len(days) == 5
    known = contracts.labels_as_of(bank[1], contracts.midnight("2025-07-29")).set_index("transaction_id")["is_fraud"]
    expected = known.reindex(events["transaction_id"])
    assert 0 < expected.isna().sum() < len(expected)
    np.testing.assert_array_equal(events["is_fraud"].astype("float64"), expected.to_numpy("float64"))
