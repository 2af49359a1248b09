"""Make the package of the champion: model, schema, online features as of the first day, and recent history."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from lifecycle import contracts, features, files
from lifecycle.deployment import batch
from lifecycle.deployment.artifact import MODEL_FILES, OWN_FILE, Package, open_package, pack, write_manifest
from lifecycle.deployment.messages import IDS
from lifecycle.deployment.scorer import REVIEW, remove_registry_code
from lifecycle.errors import LifecycleError
from lifecycle.preprocessing.tables import read_batches, write_batches
from lifecycle.training.reading import PART, read_rows

BATCH_DAYS = 7
HISTORY = pd.Timedelta(days=31)


PLACE_COLUMNS = ("customer_id", "home_x", "home_y", "terminal_id", "x", "y", "channel")
"""What a package keeps of the customers and the terminals: where they are, and which are on the web."""


def build(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Package the champion and score the first week of production; see `lifecycle.deployment.build`."""
    # A file of one's own may end before the day of deployment: the features are as of its end then.
    ends = _last(inputs["preprocessing"] / "transactions.parquet").floor("D") + pd.Timedelta(days=1)
    first = min(contracts.midnight(settings.deploy_at), ends)
    tables = read_needed(inputs["preprocessing"], first)
    own = inputs["preprocessing"] / OWN_FILE
    made, source = inputs["evaluation"] / "model", inputs["preprocessing"]
    package(made, inputs["features"], tables, first.date(), out / "model", own, source)
    pack(out / "model", out / "model.tar.gz")
    until = first + pd.Timedelta(days=BATCH_DAYS)
    payments = tables["transactions"]
    week = payments[(payments["event_time"] >= first) & (payments["event_time"] < until)]
    checked = open_package(out / "model")
    table = batch.feature_table(checked, week, tables["labels"]) if len(week) else week
    scores = batch.score_features(checked, table)
    files.write_parquet(table, out / "batch_features.parquet")
    files.write_parquet(scores, out / "batch_scores.parquet")
    files.write_json(_info(checked, out / "model.tar.gz", scores, first, until), out / "info.json")


def read_needed(folder: Path, first: pd.Timestamp) -> dict[str, pd.DataFrame | None]:
    """Read of the tables in a folder what a package from `first` on, and scoring its first week, have to do with.

    Of the payments these are the week, and those from before the last 31 days that a package keeps: payments with a
    fraud report of these days, and the last one of each customer and terminal that has been quiet since. The
    31 days themselves are written without being in memory (see `package`).

    Returns
    -------
    dict
        As `batch.read_tables`: ``transactions``, ``labels`` (those that say fraud), ``customers``, ``terminals``.
    """
    since, until = first - HISTORY, first + pd.Timedelta(days=BATCH_DAYS)
    labels = read_rows(folder / "labels.parquet", lambda rows: (rows["known_at"] >= since) & (rows["is_fraud"] == 1))
    reported = pd.Index(labels.loc[labels["known_at"] <= first, "transaction_id"])
    path = folder / "transactions.parquet"
    kept, seen = _last_of_quiet(path, since, first), 0

    def needed(rows: pd.DataFrame) -> np.ndarray:
        nonlocal seen
        here = np.isin(np.arange(seen, seen + len(rows)), kept)
        seen += len(rows)
        times = rows["event_time"]
        early = (times < since).to_numpy() & (here | rows["transaction_id"].isin(reported).to_numpy())
        return early | ((times >= first) & (times < until)).to_numpy()

    tables: dict[str, pd.DataFrame | None] = {"transactions": read_rows(path, needed), "labels": labels}
    for name in ("customers", "terminals"):
        tables[name] = pd.read_parquet(folder / f"{name}.parquet") if (folder / f"{name}.parquet").exists() else None
    return tables


def _last_of_quiet(path: Path, since: pd.Timestamp, until: pd.Timestamp) -> np.ndarray:
    """Return the rows of the last payment before `since` of each customer and terminal without one until `until`."""
    last: dict[str, pd.Series] = {key: pd.Series(dtype="int64") for key in ("customer_id", "terminal_id")}
    awake: dict[str, pd.Index] = {key: pd.Index([]) for key in last}
    seen = 0
    for table in read_batches(path, ["event_time", *last], PART):
        rows = table.to_pandas()
        early = rows[rows["event_time"] < since]
        recent = rows[(rows["event_time"] >= since) & (rows["event_time"] < until)]
        for key, before in last.items():
            places = pd.Series(early.index + seen, index=early[key])
            last[key] = pd.concat([before, places]).groupby(level=0).last()
            awake[key] = awake[key].union(pd.Index(recent[key].unique()))
        seen += len(rows)
    return np.unique(np.concatenate([rows[~rows.index.isin(awake[key])].to_numpy() for key, rows in last.items()]))


def write_history(source: Path, target: Path, midnight: pd.Timestamp, rows: int | None = None) -> None:
    """Write the payments and labels of the last 31 days before a midnight, as `features.export_online` does.

    Parameters
    ----------
    source
        The folder of ``transactions.parquet`` and ``labels.parquet``, which may be larger than memory.
    target
        The folder for the same two files.
    midnight
        Payments are those before it, labels those known by then.
    rows
        Rows in memory at a time; by default as many as the tables before have in a row group, so that texts that
        many payments share are not written more often than there.
    """
    for name, time, inclusive in (("transactions", "event_time", "left"), ("labels", "known_at", "both")):
        write_batches(
            _within(source / f"{name}.parquet", time, midnight - HISTORY, midnight, inclusive, rows),
            target / f"{name}.parquet",
        )


def _within(
    path: Path, time: str, since: pd.Timestamp, until: pd.Timestamp, inclusive: Any, rows: int | None
) -> Iterator[pa.Table]:
    """Yield the rows of a Parquet file whose time is in a period; without any, one empty table."""
    some = False
    for table in read_batches(path, rows=rows):
        inside = table.filter(pa.array(table[time].to_pandas().between(since, until, inclusive=inclusive)))
        if inside.num_rows:
            some = True
            yield inside
    if not some:
        yield table.slice(0, 0)


def _last(path: Path) -> pd.Timestamp:
    """Return the time of the last payment of a Parquet file."""
    return max(table["event_time"].to_pandas().max() for table in read_batches(path, ["event_time"], PART))


def package(
    model: Path,
    feature_folder: Path,
    tables: Mapping[str, pd.DataFrame | None],
    day: object,
    folder: Path,
    own: Path | None = None,
    source: Path | None = None,
) -> None:
    """Write a package that is ready to serve from the midnight that begins `day`.

    Parameters
    ----------
    model
        A folder with ``model.onnx``, ``feature_schema.json`` and ``model.json``.
    feature_folder
        The features artifact.
    tables
        ``transactions`` and ``labels``, and ``customers`` and ``terminals`` or None. Only what was known by then is
        packaged.
    day
        The first day of service.
    folder
        The package to make.
    own
        What became of the columns of a file of one's own, if there is such a file: with it, further files of the
        same shape can be scored.
    source
        The folder whose payments and labels of the last 31 days are packaged (`write_history`); `tables` then
        are those of `read_needed`. By default they are in `tables`.

    Raises
    ------
    LifecycleError
        If the model was trained on other features than those of `feature_folder`.
    """
    folder.mkdir(parents=True)
    for name in MODEL_FILES:
        shutil.copyfile(model / name, folder / name)
    for card in sorted(model.glob("model_card.*")):  # a model of one's own may come without one
        shutil.copyfile(card, folder / card.name)
    schema = features.load_schema(feature_folder)
    if files.read_json(folder / "feature_schema.json") != schema:
        raise LifecycleError(f"The model in {model} was trained on other features than {feature_folder} holds.")
    payments, labels = tables["transactions"], tables["labels"]
    online = folder / "online"
    features.export_online(feature_folder, online, day, payments, labels)
    remove_registry_code(online / "registry.db")
    for name in ("customers", "terminals"):
        known = tables.get(name)
        if known is not None:
            kept = [column for column in known.columns if column in PLACE_COLUMNS]
            files.write_parquet(known[kept], online / "history" / f"{name}.parquet")
    older = _older(payments, labels, contracts.midnight(day))
    if source is not None:
        write_history(source, online / "history", contracts.midnight(day))
    files.write_parquet(older, online / "history" / "older.parquet")
    kinds = {name: "integer" if pd.api.types.is_integer_dtype(payments[name]) else "text" for name in IDS}
    kinds |= dict.fromkeys(schema.get("absent", ()), "absent")
    attributes = dict.fromkeys(features.attribute_columns(schema), "text")
    attributes |= dict.fromkeys(schema.get("numbers", ()), "number")
    if own is not None and own.exists():
        shutil.copyfile(own, folder / OWN_FILE)
    write_manifest(folder, kinds, attributes, first_day=str(day))


def _older(payments: pd.DataFrame, labels: pd.DataFrame, midnight: pd.Timestamp) -> pd.DataFrame:
    """Return the payments before the packaged history that it still needs.

    Those are the payments that a fraud report of the last 31 days is about, and the last payment of each
    customer or terminal that has been quiet since: without it, nobody would know that they exist.
    """
    past = payments[payments["event_time"] < midnight]
    is_recent = past["event_time"] >= midnight - HISTORY
    recent, before = past[is_recent], past[~is_recent]
    reports = labels[(labels["is_fraud"] == 1) & labels["known_at"].between(midnight - HISTORY, midnight)]
    needed = before["transaction_id"].isin(reports["transaction_id"])
    for key in ("customer_id", "terminal_id"):
        quiet = before[~before[key].isin(recent[key].unique())]
        needed |= before.index.isin(quiet.drop_duplicates(key, keep="last").index)
    return before[needed]


def _info(
    checked: Package, archive: Path, scores: pd.DataFrame, first: pd.Timestamp, until: pd.Timestamp
) -> dict[str, Any]:
    made = sorted(path for path in checked.folder.rglob("*") if path.is_file())
    return {
        "model": checked.facts.get("name"),
        "version": checked.facts.get("version"),
        "threshold": checked.threshold,
        "first_day": checked.manifest["first_day"],
        "digest": checked.digest,
        "archive_bytes": archive.stat().st_size,
        "files": {path.relative_to(checked.folder).as_posix(): path.stat().st_size for path in made},
        "batch": {
            "from": str(first.date()),
            "until": str(until.date()),
            "payments": len(scores),
            "reviews": int((scores["decision"] == REVIEW).sum()),
        },
    }
