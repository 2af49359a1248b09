"""Clean what was collected, split it by time, and write down what was learned.

Whatever is learned from data (which categories exist, a median, a mean) is learned from the training
period and written down, so that the service later applies the same numbers. Nothing here looks at the
future: the vocabulary of a category is what training has seen, and the encoder is fitted by the model
that uses it, on the rows that model may see. Tables pass in batches, so that their size does not matter.
"""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

from lifecycle import contracts, files
from lifecycle.preprocessing.cleaning import (
    CODED,
    DISGUISED,
    MAX_LEVELS,
    UNKNOWN,
    coded_columns,
    encode,
    fit_vocabularies,
    fix_levels,
    reveal_missing,
)
from lifecycle.preprocessing.encoders import describe_encoder, make_encoder
from lifecycle.preprocessing.recipe import Recipe, fit_recipe, load_recipe, save_recipe
from lifecycle.preprocessing.splits import SPLITS, check_periods, describe_splits, split_by_time
from lifecycle.preprocessing.tables import check_unique, read_batches, write_batches

__all__ = [
    "CODED",
    "DISGUISED",
    "MAX_LEVELS",
    "SPLITS",
    "UNKNOWN",
    "Recipe",
    "build",
    "describe_encoder",
    "encode",
    "fit_recipe",
    "fit_vocabularies",
    "fix_levels",
    "load_recipe",
    "make_encoder",
    "reveal_missing",
    "save_recipe",
    "split_by_time",
]


def build(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Write the cleaned tables, what was learned, and the splits.

    Writes ``transactions`` (cleaned, with a column `split`), ``labels``, and ``customers``, ``terminals``
    and ``telemetry`` if collection has them, as Parquet; ``preprocessing.json`` (the recipe),
    ``encoding.json`` (its vocabularies alone) and ``splits.json``.

    Parameters
    ----------
    settings
        Knobs: the calendar.
    inputs
        ``collection``: the folder of the collected tables.
    out
        An empty folder.

    Raises
    ------
    LifecycleError
        If the training or the test period holds no payments.
    ContractError
        If the payments do not keep their contract.
    """
    source = Path(inputs["collection"])
    recipe = _fit(source / "transactions.parquet", settings)
    write_batches(_cleaned(source / "transactions.parquet", recipe, settings), out / "transactions.parquet")
    shutil.copyfile(source / "labels.parquet", out / "labels.parquet")
    if (source / "own_file.json").exists():
        shutil.copyfile(source / "own_file.json", out / "own_file.json")
    for name in ("customers", "terminals", "telemetry"):
        if (source / f"{name}.parquet").exists():
            write_batches(map(_revealed, read_batches(source / f"{name}.parquet")), out / f"{name}.parquet")
    save_recipe(recipe, out / "preprocessing.json")
    files.write_json(recipe.vocabularies, out / "encoding.json")
    files.write_json(
        describe_splits(out / "transactions.parquet", out / "labels.parquet", settings), out / "splits.json"
    )


def _fit(path: Path, settings: Any) -> Recipe:
    """Learn from the training rows of a file, in one pass over the columns that something is learned from."""
    example = next(read_batches(path)).slice(0, 1000).to_pandas()
    _check_types(example, path)
    columns = ["event_time", "amount", *coded_columns(example)]
    rows: Counter[str] = Counter()
    ends: list[pd.Timestamp] = []

    def training_rows() -> Iterator[pd.DataFrame]:
        for table in read_batches(path, columns):
            frame = table.to_pandas()
            ends.extend((frame["event_time"].min(), frame["event_time"].max()))
            split = split_by_time(frame["event_time"], settings)
            rows.update(split.value_counts().to_dict())
            yield frame[split == "train"]
        check_periods(rows, min(ends), max(ends), settings)

    return fit_recipe(training_rows(), example, (settings.train_from, settings.train_until))


def _check_types(example: pd.DataFrame, path: Path) -> None:
    """Check that the contract's columns are there with their types; the values are checked batch by batch."""
    for name, column in contracts.TRANSACTIONS.columns.items():
        if not len(example) or name not in example or str(column.dtype) not in ("None", str(example[name].dtype)):
            contracts.check(example, contracts.TRANSACTIONS, path)


def _cleaned(path: Path, recipe: Recipe, settings: Any) -> Iterator[pa.Table]:
    """Yield the payments as later stages read them, after checking each batch against the recipe."""
    schema, last, rising, done = None, None, True, 0
    for whole in read_batches(path):
        where = path if not done else f"{path} (from row {done + 1:,} on)"
        table, texts = _without_texts(whole, recipe.content["filled"])
        frame = recipe.apply(table.to_pandas(), where)
        ids = frame["transaction_id"]
        rising = rising and bool(ids.is_monotonic_increasing and (last is None or last < ids.iloc[0]))
        last, done = ids.iloc[-1], done + len(ids)
        frame["split"] = split_by_time(frame["event_time"], settings)
        schema = schema or _with_wide_codes(pa.Schema.from_pandas(frame, preserve_index=False))
        cleaned = pa.Table.from_pandas(frame, schema=schema, preserve_index=False)
        for name, values in texts.items():
            field = schema.field(name)
            cleaned = cleaned.set_column(schema.get_field_index(name), field, values.cast(field.type))
        yield cleaned
    if not rising:  # ids that rise from row to row cannot repeat; others are counted
        check_unique(path, "transaction_id")


def _without_texts(table: pa.Table, fillers: Mapping[str, str]) -> tuple[pa.Table, dict[str, pa.Array]]:
    """Return a batch with a stand-in for each text that is only filled, and those texts, filled.

    In a large bank most texts of a batch are different, and each would become an object on its way through pandas.
    """
    texts = {}
    for name in fillers.keys() & set(table.column_names):
        values = table[name].dictionary_encode() if pa.types.is_string(table[name].type) else table[name]
        if pa.types.is_dictionary(values.type) and pa.types.is_string(values.type.value_type):
            texts[name] = _filled(values, fillers[name])
            stand_in = pa.DictionaryArray.from_arrays(np.zeros(len(table), dtype="int8"), [fillers[name]])
            table = table.set_column(table.column_names.index(name), name, stand_in)
    return table, texts


def _filled(values: pa.ChunkedArray, filler: str) -> pa.Array:
    """Do what `fill_missing` does, to a dictionary of Arrow."""
    whole = values.unify_dictionaries().combine_chunks()
    levels, place = whole.dictionary, pc.index(whole.dictionary, filler).as_py()
    if place < 0:
        levels, place = pa.concat_arrays([levels, pa.array([filler], levels.type)]), len(levels)
    return pa.DictionaryArray.from_arrays(whole.indices.fill_null(place), levels)


def _with_wide_codes(schema: pa.Schema) -> pa.Schema:
    """Give each category 32-bit codes, since a later batch may have more levels than the first."""
    wide = pa.dictionary(pa.int32(), pa.string())
    fields = [field.with_type(wide) if pa.types.is_dictionary(field.type) else field for field in schema]
    return pa.schema(fields)


def _revealed(table: pa.Table) -> pa.Table:
    """Reveal the missing values of one batch; the other columns pass untouched."""
    for column in DISGUISED.keys() & set(table.column_names):
        values = reveal_missing(table.select([column]).to_pandas())[column]
        position = table.column_names.index(column)
        table = table.set_column(position, column, pa.array(values, table.schema.field(column).type, from_pandas=True))
    return table
