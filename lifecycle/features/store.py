"""The feature store: Feast's definitions, the point-in-time join, and what goes online.

A feature folder can be moved or copied. `feature_store.yaml` and `registry.db` in it hold relative
paths, for Feast's own command line. `open_store` reads neither: it applies the definitions below to a
registry of its own, because Feast's DuckDB store takes relative paths from the working directory, and
because reading a registry runs the source text of its on-demand views.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import shutil
import sys
import tempfile
import warnings
import weakref
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from lifecycle import contracts, files
from lifecycle.errors import LifecycleError
from lifecycle.features.request import COORDINATES, INPUTS, request_frame
from lifecycle.features.schema import VIEWS, attribute_columns, feature_names, load_schema
from lifecycle.features.windows import RECENT, connect, plain_ids, to_meters

if TYPE_CHECKING:
    from feast import FeatureStore

PROJECT = "lifecycle"
SERVICE = "fraud_model"
HISTORY = timedelta(days=31)
"""How much of the past goes along with a service: the longest window and a day."""

CHUNK = 250_000
"""Events a point-in-time join takes at a time, to bound its memory."""

ONLINE, PLACES = "online_store.db", "places.parquet"
_CONTRACT = ["transaction_id", "event_time", "customer_id", "terminal_id", "amount"]

STORES = Path(__file__).parent / "stores"
"""Feast's settings for other places: `laptop`, `redis`, `dynamodb_athena`, `spark` (``.yaml``)."""


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep Feast's colored progress off the standard output, and warnings that are not about our use of it."""
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "On demand feature view", RuntimeWarning)
        yield


def import_feast() -> ModuleType:
    """Import Feast without the checks that typeguard would build into its classes.

    typeguard parses and compiles each decorated class again: two thirds of the time of the import, and minutes
    after an error was shown in a notebook, because IPython's traceback leaves syntax trees hanging on the nodes
    that all trees share, and typeguard copies them. The checks are of Feast's own arguments; its settings are
    still validated by pydantic.

    Nor does it keep the filters by which Feast shows everybody the deprecation warnings of all libraries.
    """
    if "feast" not in sys.modules:
        import typeguard

        instrument = typeguard.typechecked
        typeguard.typechecked = lambda target=None, **_: target or (lambda decorated: decorated)
        try:
            with warnings.catch_warnings():
                return importlib.import_module("feast")
        finally:
            typeguard.typechecked = instrument
    return sys.modules["feast"]


def definitions(
    schema: Mapping[str, Any], folder: str = "", on_demand: bool = True, source: Callable[[str], Any] | None = None
) -> list[Any]:
    """Return Feast's objects: entities, daily views, the on-demand view and the feature service.

    Parameters
    ----------
    schema
        The feature schema.
    folder
        Where the Parquet files are, ending in a slash; empty for paths relative to the folder itself.
    on_demand
        Whether to include the on-demand view and the service, which online reads do not need.
    source
        Makes Feast's data source from the name of a daily view, where the history is not in files of this
        machine: an `AthenaSource` or a `SparkSource`, with the time stamp field ``event_timestamp``.
    """
    import_feast()
    from feast import Entity, FeatureService, FeatureView, Field, FileSource, ValueType
    from feast.types import Float64, Int64

    entities, views = [], []
    for view, (key, prefix) in VIEWS.items():
        kind = ValueType.INT64 if schema["entities"][key] == "int64" else ValueType.STRING
        entity = Entity(name=prefix, join_keys=[key], value_type=kind)
        fields = [
            Field(name=name, dtype=Int64 if name.endswith("_snapshot") else Float64) for name in schema["fields"][view]
        ]
        path = f"{folder}{view}.parquet"
        own = source(view) if source else FileSource(name=view, path=path, timestamp_field="event_timestamp")
        ttl = timedelta(days=schema["ttl_days"])
        views.append(FeatureView(name=view, entities=[entity], ttl=ttl, schema=fields, source=own))
        entities.append(entity)
    if not on_demand:
        return [*entities, *views]
    request = _on_demand_view(schema, views)
    used = set(feature_names(schema))
    served = [view[[f.name for f in view.features if f.name in used]] for view in views]
    served = [view for view in served if view.projection.features]
    return [*entities, *views, request, FeatureService(name=SERVICE, features=[*served, request])]


def _on_demand_view(schema: Mapping[str, Any], views: list[Any]) -> Any:
    """Define the request-time features as a view that Feast computes when asked."""
    import_feast()
    from feast import Field, OnDemandFeatureView, RequestSource
    from feast.types import Float64, String, UnixTimestamp

    categories = {name: list(words) for name, words in schema["categories"].items()}
    texts, numbers = dict(schema["texts"]), schema.get("numbers", [])
    needed = {*INPUTS, *COORDINATES}
    inputs = [view[[f.name for f in view.features if f.name in needed]] for view in views]
    source = RequestSource(
        name="payment",
        schema=[
            Field(name="amount", dtype=Float64),
            Field(name="event_time", dtype=UnixTimestamp),
            *(Field(name=name, dtype=String) for name in (*categories, *texts)),
            *(Field(name=name, dtype=Float64) for name in numbers),
        ],
    )

    def request(frame):
        return request_frame(frame, categories, texts)

    # Feast keeps the text of the function, and runs that text when it reads a registry.
    text = (
        "def request(frame):\n"
        "    from lifecycle.features.request import request_frame\n\n"
        f"    return request_frame(frame, {categories!r}, {texts!r})\n"
    )
    names = [f["name"] for f in schema["features"] if f["view"] == "request"]
    names = [name for name in names if name not in ("amount", *numbers)]
    return OnDemandFeatureView(
        name="request",
        sources=[source, *(view for view in inputs if view.projection.features)],
        schema=[Field(name=name, dtype=Float64) for name in names],
        mode="pandas",
        udf=request,
        udf_string=text,
    )


def write_definitions(folder: Path, schema: Mapping[str, Any]) -> None:
    """Write `feature_store.yaml` and `registry.db` into a feature folder, with relative paths only."""
    feast = import_feast()
    shutil.copyfile(STORES / "laptop.yaml", folder / "feature_store.yaml")
    with tempfile.TemporaryDirectory() as scratch, _quiet():
        store = feast.FeatureStore(config=_config(folder, folder / "registry.db", _sqlite(Path(scratch))))
        store.apply(definitions(schema))


def _sqlite(folder: Path) -> dict[str, Any]:
    return {"type": "sqlite", "path": str(folder / ONLINE)}


def _config(folder: Path, registry: Path, online: Mapping[str, Any]) -> Any:
    return import_feast().RepoConfig(
        project=PROJECT,
        provider="local",
        registry={"registry_type": "file", "path": str(registry), "cache_ttl_seconds": 0},
        offline_store={"type": "duckdb"},
        online_store=dict(online),
        entity_key_serialization_version=3,
        repo_path=folder,
    )


def open_store(folder: Path | str, on_demand: bool = True, online: Mapping[str, Any] | None = None) -> FeatureStore:
    """Open the feature store of a folder, wherever the folder is now.

    Parameters
    ----------
    folder
        A features artifact, or a folder made by `export_online`. Where the folder has an online store,
        that one is used; where it has none (an artifact is never changed), `materialize` fills a
        temporary one that goes away with the returned object.
    on_demand
        Whether to define the request-time view; the service computes these features itself.
    online
        Feast's settings of another online store, such as ``{"type": "redis", "connection_string":
        "127.0.0.1:6379"}``; it must be running.

    Raises
    ------
    LifecycleError
        If the folder has no valid `schema.json`.
    """
    schema = load_schema(folder)
    feast = import_feast()
    folder = Path(folder).resolve()
    own = Path(tempfile.mkdtemp(prefix="lifecycle-store-"))
    if online is None:
        online = _sqlite(folder if (folder / ONLINE).exists() else own)
    with _quiet():
        store = feast.FeatureStore(config=_config(folder, own / "registry.db", online))
        store.apply(definitions(schema, f"{folder.as_posix()}/", on_demand))
    weakref.finalize(store, shutil.rmtree, own, ignore_errors=True)
    return store


def assemble(store: FeatureStore, events: pd.DataFrame) -> pd.DataFrame:
    """Join to each event the features as they were at its time (point-in-time join).

    Parameters
    ----------
    store
        From `open_store`.
    events
        `transaction_id`, `event_time`, `customer_id`, `terminal_id`, `amount` and the text columns of
        the schema. Recent activity is taken from columns of `events` where it has them, otherwise from
        the folder's `recent.parquet` by `transaction_id`.

    Returns
    -------
    DataFrame
        One row an event, in the order of `events`: the five contract columns, then the features in
        the order of the schema, float32. An entity without a snapshot in the day before the event
        has missing values.

    Raises
    ------
    LifecycleError
        If a column is missing, or the recent activity of an event is not known.
    """
    schema = load_schema(store.config.repo_path)
    needed = [*_CONTRACT, *attribute_columns(schema)]
    missing = [name for name in needed if name not in events.columns]
    if missing:
        raise LifecycleError(f"The events lack the column {missing[0]!r}; the features need {', '.join(needed)}.")
    if events.empty:
        raise LifecycleError("There are no events to join features to; check the dates.")
    recent = _recent_of(store, events)
    names = feature_names(schema)
    matrix = np.empty((len(names), len(events)), dtype="float32")
    # In the order of time, a chunk meets few midnights, and the join reads no others.
    order = np.argsort(events["event_time"].to_numpy("datetime64[us]"), kind="stable")
    for start in range(0, len(events), CHUNK):
        rows = order[start : start + CHUNK]
        joined = _join(store, events.iloc[rows], schema)
        for position, name in enumerate(names):
            source = recent[name].to_numpy()[rows] if name in RECENT else joined[name].to_numpy()
            matrix[position, rows] = source
    # Columns of the matrix, not copies of them: at a million events each copy is 200 MB.
    features = {name: column for name, column in zip(names, matrix, strict=True) if name != "amount"}
    return pd.DataFrame({name: events[name].array for name in _CONTRACT} | features, copy=False)


@contextlib.contextmanager
def _session() -> Iterator[None]:
    """Give Feast a DuckDB session of its own, with the clock in UTC, and end it.

    Feast joins in Ibis' default session. There, a TTL of one day would last 23 or 25 hours where the clocks change,
    and every table that was ever joined would stay in memory.
    """
    import ibis

    before = ibis.options.default_backend
    backend = connect()
    ibis.set_backend(backend)
    try:
        yield
    finally:
        ibis.options.default_backend = before
        backend.disconnect()


def _join(store: FeatureStore, events: pd.DataFrame, schema: Mapping[str, Any]) -> pd.DataFrame:
    """Ask Feast for the daily and request-time features of some events, in the order of the events."""
    texts, numbers = [*schema["categories"], *schema["texts"]], schema.get("numbers", [])
    times = events["event_time"].astype(contracts.UTC)
    asked = pd.DataFrame(
        {
            "event_row": np.arange(len(events)),
            "customer_id": plain_ids(events["customer_id"]),
            "terminal_id": plain_ids(events["terminal_id"]),
            "event_timestamp": times.array,
            "event_time": times.array,
            "amount": events["amount"].to_numpy("float64"),
            **{name: events[name].astype(object).where(events[name].notna(), None).to_numpy() for name in texts},
            **{name: events[name].astype("float64").to_numpy() for name in numbers},
        }
    )
    with tempfile.TemporaryDirectory(prefix="lifecycle-join-") as scratch, _session(), _quiet():
        # Feast compares an event with every row of its entity, a whole history; only those of these days can match.
        _copy_snapshots(Path(store.config.repo_path), Path(scratch), times, timedelta(days=schema["ttl_days"]))
        config = _config(Path(scratch), Path(scratch) / "registry.db", _sqlite(Path(scratch)))
        part = import_feast().FeatureStore(config=config)
        part.apply(definitions(schema, f"{Path(scratch).as_posix()}/"))
        joined = part.get_historical_features(asked, part.get_feature_service(SERVICE)).to_df()
    return joined.sort_values("event_row", ignore_index=True)


def _copy_snapshots(folder: Path, target: Path, times: pd.Series, ttl: timedelta) -> None:
    """Copy the snapshots that events of these times can meet, from a TTL before the first event to the last one."""
    since, until = times.min() - ttl, times.max()
    for view in VIEWS:
        moment = ds.field("event_timestamp")
        rows = ds.dataset(folder / f"{view}.parquet").to_table(filter=(moment >= since) & (moment <= until))
        pq.write_table(rows, target / f"{view}.parquet", compression="none")


def _recent_of(store: FeatureStore, events: pd.DataFrame) -> pd.DataFrame:
    """Return the recent activity of the events, in their order."""
    if set(RECENT) <= set(events.columns):
        return events[list(RECENT)]
    path = Path(store.config.repo_path) / "recent.parquet"
    if not path.exists():
        raise LifecycleError(f"The events lack the columns {', '.join(RECENT)}, and there is no file {path}.")
    ids = pd.Index(plain_ids(events["transaction_id"]))
    # Ids follow the time in most banks: those of a few days are found without a look at the other days.
    key, kind = ds.field("transaction_id"), pq.read_schema(path).field("transaction_id").type
    comparable = pa.types.is_integer(kind) == pd.api.types.is_integer_dtype(ids.dtype)
    near = (key >= ids.min()) & (key <= ids.max()) if comparable else ds.scalar(False)
    recent = ds.dataset(path).to_table(["transaction_id", *RECENT], filter=near)
    rows = pd.Index(recent["transaction_id"].to_pandas()).get_indexer(ids)
    unknown = int((rows < 0).sum())
    if unknown:
        first = events["transaction_id"].to_numpy()[rows < 0][0]
        raise LifecycleError(
            f"Recent activity is unknown for {unknown:,} events (first transaction_id: {first}): they are not in "
            f"{path}; compute it with history_features, or use OnlineFeatures."
        )
    return recent.select(list(RECENT)).take(rows).to_pandas()


def snapshot(folder: Path | str, view: str, day: object) -> pd.DataFrame:
    """Read the rows of a daily view as of the midnight that begins `day`.

    Raises
    ------
    LifecycleError
        If the folder has no snapshot of that midnight.
    """
    path = Path(folder) / f"{view}.parquet"
    if not path.exists():
        raise LifecycleError(f"File not found: {path}; give the folder of a features artifact.")
    midnight = contracts.midnight(day)
    rows = pd.read_parquet(path, filters=[("event_timestamp", "==", midnight)])
    if rows.empty:
        raise LifecycleError(f"{path} has no snapshot of {midnight:%Y-%m-%d}; choose a day within the data.")
    return rows


def materialize(
    store: FeatureStore,
    day: object,
    source: Path | str | None = None,
    entities: Mapping[str, Any] | None = None,
) -> int:
    """Write the snapshots as of the midnight that begins `day` into the online store.

    Parameters
    ----------
    store
        From `open_store`.
    day
        A date; the service then answers payments of this day.
    source
        The features artifact to read from, if it is not the store's own folder.
    entities
        Ids to write, by id column (such as ``{"customer_id": [1, 2]}``); by default all. Feast writes
        about 5,000 entities a second, so a replay of few customers should name them.

    Returns
    -------
    int
        The number of entities written.
    """
    written = 0
    for view, (key, _) in VIEWS.items():
        rows = snapshot(source or store.config.repo_path, view, day)
        if entities is not None and key in entities:
            rows = rows[rows[key].isin(list(entities[key]))]
        if not rows.empty:
            with _quiet():
                store.write_to_online_store(view, rows)
        written += len(rows)
    return written


def export_online(
    folder: Path | str, target: Path, day: object, transactions: pd.DataFrame, labels: pd.DataFrame
) -> None:
    """Write what a service needs to compute features from `day` on: a folder that can be copied anywhere.

    Parameters
    ----------
    folder
        A features artifact.
    target
        The folder to make: `schema.json`, `feature_store.yaml`, `registry.db`, `online_store.db` (the
        snapshots of the midnight that begins `day`), `places.parquet` (where the terminals are) and
        `history/` with what was known by then of the last 31 days (`transactions.parquet`, `labels.parquet`).
    day
        The first day the service answers.
    """
    midnight = contracts.midnight(day)
    (target / "history").mkdir(parents=True)
    for name in ("schema.json", "feature_store.yaml", "registry.db"):
        shutil.copyfile(Path(folder) / name, target / name)
    (target / ONLINE).touch()
    materialize(open_store(target, on_demand=False), day, source=folder)
    files.write_parquet(_places(folder, day), target / PLACES)
    past = transactions["event_time"].between(midnight - HISTORY, midnight, inclusive="left")
    known = labels["known_at"].between(midnight - HISTORY, midnight)
    files.write_parquet(transactions[past], target / "history" / "transactions.parquet")
    files.write_parquet(labels[known], target / "history" / "labels.parquet")


def read_places(folder: Path | str) -> dict[Any, tuple[int, int]]:
    """Return where the terminals of a feature folder are: id -> whole meters, without those that have no place.

    Raises
    ------
    LifecycleError
        If the folder was made by an older `export_online`.
    """
    folder = Path(folder)
    if (folder / PLACES).exists():
        table = pd.read_parquet(folder / PLACES)
    elif (folder / "terminal_daily.parquet").exists():
        table = _places(folder)
    else:
        raise LifecycleError(f"{folder} has no file {PLACES}; export the online store again.")
    if len(table.columns) < 3:
        return {}
    ids, east, north = (table[column] for column in table.columns)
    x, y = to_meters(east), to_meters(north)
    known = ~(np.isnan(x) | np.isnan(y))
    pairs = zip(x[known].astype("int64").tolist(), y[known].astype("int64").tolist(), strict=True)
    return dict(zip(ids[known].tolist(), pairs, strict=True))


def _places(folder: Path | str, day: object | None = None) -> pd.DataFrame:
    """Return the terminals and their coordinates in km, if known, as of a midnight; by default the last one."""
    path = Path(folder) / "terminal_daily.parquet"
    groups = pq.ParquetFile(path).metadata
    names = pq.read_schema(path).names
    position = names.index("event_timestamp")
    last = max(groups.row_group(k).column(position).statistics.max for k in range(groups.num_row_groups))
    rows = snapshot(folder, "terminal_daily", last.date() if day is None else day)
    return rows[["terminal_id", *(name for name in COORDINATES[2:] if name in names)]].reset_index(drop=True)
