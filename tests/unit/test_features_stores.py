"""One feature repository on several stores: a real Redis gives what SQLite gives, and the settings of all are valid."""

from __future__ import annotations

import datetime
import socket
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import yaml
from features_oracle import random_bank
from needs import need

from lifecycle import features, files
from lifecycle.features import execution, store
from lifecycle.features.online import FeastRows

DAY = "2025-08-05"
ENVIRONMENT = {
    "REDIS_ADDRESS": "127.0.0.1:6379",
    "FEATURE_BUCKET": "bucket",
    "AWS_REGION": "eu-central-1",
    "SPARK_MASTER": "local[2]",
}
NEEDS = {"laptop": (), "redis": ("redis",), "dynamodb_athena": ("boto3", "aiobotocore"), "spark": ("java", "pyspark")}


@pytest.fixture(scope="module")
def bank():
    return random_bank(seed=11, customers=200, terminals=150)


@pytest.fixture(scope="module")
def folder(bank, tmp_path_factory):
    """The definitions and the daily tables, as the features stage leaves them."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("features")
    for name, table in zip(("transactions", "labels", "customers", "terminals"), bank, strict=True):
        files.write_parquet(table, source / f"{name}.parquet")
    files.write_json(features.make_schema(bank[0], {"channel": ["online", "pos"]}, True, True), out / "schema.json")
    execution.write_tables(source, out)
    return out


@pytest.fixture(scope="module")
def redis(tmp_path_factory):
    """The address of a Redis that this test has started on a free port of the loopback interface."""
    need("redis-server", "redis")
    import redis

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--save", "", "--appendonly", "no"]
    server = subprocess.Popen(command, cwd=tmp_path_factory.mktemp("redis"), stdout=subprocess.DEVNULL)
    try:
        with redis.Redis("127.0.0.1", port) as client:
            for _ in range(100):
                try:
                    client.ping()
                    break
                except redis.exceptions.ConnectionError:
                    time.sleep(0.1)
            else:
                pytest.fail("redis-server did not answer within 10 seconds")
        yield f"127.0.0.1:{port}"
    finally:
        server.terminate()
        server.wait(timeout=10)


@pytest.fixture(scope="module")
def stores(folder, redis):
    """The store on SQLite and on Redis, both with the snapshots of one day."""
    opened = {
        "sqlite": features.open_store(folder),
        "redis": features.open_store(folder, online={"type": "redis", "connection_string": redis}),
    }
    for name, own in opened.items():
        assert features.materialize(own, DAY) == 201 + 150, name
    return opened


def online_values(own, view, ids):
    """Read every field of a daily view online."""
    key, _ = store.VIEWS[view]
    names = [f"{view}:{name}" for name in features.load_schema(own.config.repo_path)["fields"][view]]
    return pd.DataFrame(own.get_online_features(names, {key: ids}).to_dict())


@pytest.mark.parametrize("view", store.VIEWS)
def test_redis_and_sqlite_and_the_offline_snapshot_hold_the_same_values(view, stores, folder):
    key, _ = store.VIEWS[view]
    offline = features.snapshot(folder, view, DAY).set_index(key).drop(columns="event_timestamp")
    ids = offline.index.tolist()
    tables = {name: online_values(own, view, ids).set_index(key) for name, own in stores.items()}
    assert stores["redis"].config.online_store.type == "redis"
    for name, table in tables.items():
        for column in offline.columns:
            np.testing.assert_array_equal(
                table[column].to_numpy("float64"), offline[column].to_numpy("float64"), err_msg=f"{name}: {column}"
            )
    print(f"{view}: {len(offline)} entities, {len(offline.columns)} fields, equal in SQLite, Redis and Parquet")


@pytest.mark.parametrize("name", ["sqlite", "redis"])
@pytest.mark.parametrize("view", store.VIEWS)
def test_the_service_reads_what_feast_answers(view, name, stores):
    key, _ = store.VIEWS[view]
    fields = features.load_schema(stores[name].config.repo_path)["fields"][view]
    ids = [7, 10**9, 0, 149, -1]
    ours = FeastRows(stores[name]).read(view, key, ids, fields)
    theirs = online_values(stores[name], view, ids)[fields].to_numpy("float64")
    assert np.isnan(ours[1]).all() and not np.isnan(ours[0]).all()
    np.testing.assert_array_equal(np.array(ours), theirs)


def test_an_entity_unknown_to_redis_is_missing_and_not_an_error(stores):
    unknown = online_values(stores["redis"], "customer_daily", [10**9])
    assert unknown.drop(columns="customer_id").isna().all(axis=None)


def test_the_registry_and_the_join_do_not_depend_on_the_online_store(stores, bank):
    registered = {name: sorted(v.name for v in own.list_all_feature_views()) for name, own in stores.items()}
    assert registered["redis"] == registered["sqlite"] == ["customer_daily", "request", "terminal_daily"]
    events = bank[0][bank[0]["event_time"] >= "2025-08-08"]
    joined = [features.assemble(own, events) for own in stores.values()]
    assert len(joined[0]) > 100 and joined[0].equals(joined[1])


def test_the_online_features_of_a_service_on_redis_are_those_on_sqlite(stores, bank):
    today = bank[0][bank[0]["event_time"].dt.strftime("%Y-%m-%d") == DAY]
    online = [features.OnlineFeatures(own).transform(today) for own in stores.values()]
    assert online[0].shape == (len(today), len(features.feature_names(features.OnlineFeatures(stores["redis"]).schema)))
    np.testing.assert_array_equal(*online)


# The settings of each store.


def settings_of(name, monkeypatch):
    """Read one of the shipped files as Feast does."""
    from feast.repo_config import load_repo_config

    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    return load_repo_config(store.STORES, store.STORES / f"{name}.yaml")


def test_every_shipped_setting_is_tested_here():
    assert {path.stem for path in store.STORES.glob("*.yaml")} == set(NEEDS)


@pytest.mark.parametrize("name", NEEDS)
def test_feast_accepts_the_shipped_settings(name, monkeypatch):
    need(*NEEDS[name])
    config = settings_of(name, monkeypatch)
    types = {
        "laptop": ("duckdb", "sqlite"),
        "redis": ("duckdb", "redis"),
        "dynamodb_athena": ("athena", "dynamodb"),
        "spark": ("spark", "redis"),
    }
    assert (config.offline_store.type, config.online_store.type) == types[name]
    assert config.project == store.PROJECT
    assert "$" not in str(config.online_store) + str(config.offline_store) + str(config.registry)


@pytest.mark.parametrize("part", ["offline_store", "online_store"])
@pytest.mark.parametrize("name", NEEDS)
def test_feast_refuses_a_key_that_it_does_not_know(name, part, tmp_path, monkeypatch):
    from feast.repo_config import FeastConfigError, load_repo_config

    need(*NEEDS[name])
    for variable, value in ENVIRONMENT.items():
        monkeypatch.setenv(variable, value)
    content = yaml.safe_load((store.STORES / f"{name}.yaml").read_text())
    content[part]["regoin"] = "eu-central-1"
    (tmp_path / "feature_store.yaml").write_text(yaml.safe_dump(content))
    with pytest.raises((FeastConfigError, ValueError), match="regoin"):
        config = load_repo_config(tmp_path, tmp_path / "feature_store.yaml")
        print(config.offline_store, config.online_store)


def test_the_same_definitions_name_a_table_of_athena_or_files_of_a_cluster(folder):
    need("boto3", "java", "pyspark")
    from feast.infra.offline_stores.contrib.athena_offline_store.athena_source import AthenaSource
    from feast.infra.offline_stores.contrib.spark_offline_store.spark_source import SparkSource

    schema = features.load_schema(folder)
    moment = {"timestamp_field": "event_timestamp"}
    makers = {
        "athena": lambda view: AthenaSource(
            name=view, database="lifecycle", table=view, data_source="AwsDataCatalog", **moment
        ),
        "spark": lambda view: SparkSource(
            name=view, path=f"s3a://bucket/features/{view}.parquet", file_format="parquet", **moment
        ),
    }
    ours = store.definitions(schema)
    for name, make in makers.items():
        theirs = store.definitions(schema, source=make)
        assert [one.name for one in theirs] == [one.name for one in ours], name
        for own, other in zip(ours[2:4], theirs[2:4], strict=True):
            assert own.schema == other.schema and own.ttl == other.ttl == datetime.timedelta(days=1)
            assert type(other.batch_source) is type(make("x"))


def test_feast_is_imported_without_typeguards_checks_and_leaves_typeguard_and_warnings_as_they_were():
    script = (
        "import typeguard, warnings\n"
        "from lifecycle.features.store import import_feast\n"
        "whole, filters = typeguard.typechecked, list(warnings.filters)\n"
        "feast = import_feast()\n"
        "assert typeguard.typechecked is whole and import_feast() is feast\n"
        "assert warnings.filters == filters\n"
        "print('check_argument_types' in feast.FeatureView.__init__.__code__.co_names)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False"]
