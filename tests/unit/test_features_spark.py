"""The window expressions on Spark give what they give on DuckDB, on payments of the simulated bank."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from needs import need

from lifecycle import pipeline
from lifecycle.features import execution

KEYS = {
    "customer_daily": ["event_timestamp", "customer_id"],
    "terminal_daily": ["event_timestamp", "terminal_id"],
    "recent": ["transaction_id"],
}


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """The preprocessed payments of 250 customers in 100 days: long enough that the longest windows slide."""
    settings = pipeline.Settings(customers=250, terminals=400, days=100, data_dir=tmp_path_factory.mktemp("data"))
    return pipeline.artifact("preprocessing", settings).path


@pytest.fixture(scope="module")
def on_spark(source):
    """The three tables as Spark computes them."""
    need("java", "pyspark")
    from lifecycle.features import spark

    session = spark.local_session()
    try:
        yield {name: table.to_pandas() for name, table in spark.history(session, str(source)).items()}
    finally:
        session.stop()


@pytest.fixture(scope="module")
def on_duckdb(source, tmp_path_factory):
    out = tmp_path_factory.mktemp("duckdb")
    execution.write_tables(source, out)
    return {name: pd.read_parquet(out / f"{name}.parquet") for name in KEYS}


@pytest.mark.parametrize("name", KEYS)
def test_spark_and_duckdb_agree(name, on_spark, on_duckdb):
    ours, theirs = on_duckdb[name], on_spark[name]
    assert len(ours) == len(theirs) > 10_000
    assert list(ours.columns) == list(theirs.columns)
    for key in KEYS[name]:
        assert (ours[key].to_numpy() == theirs[key].to_numpy()).all(), "the rows are in the same order"
    features = [column for column in ours.columns if column not in KEYS[name]]
    largest = 0.0
    for feature in features:
        one, other = ours[feature].to_numpy("float64"), theirs[feature].to_numpy("float64")
        np.testing.assert_allclose(one, other, rtol=1e-9, atol=1e-9, err_msg=feature)
        largest = max(largest, float(np.nanmax(np.abs(one - other), initial=0.0)))
    print(f"{name}: {len(ours):,} rows, {len(features)} columns, largest difference {largest:.1e}")
