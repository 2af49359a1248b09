"""One reader for each public data set, in the layout of its cache or its files."""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lifecycle.errors import ContractError, LifecycleError

ROWS, FRAUDS = 284_807, 492
CREDITCARD = ("Time", *(f"V{n}" for n in range(1, 29)), "Amount", "Class")

SPARKOV = ("trans_date_trans_time", "cc_num", "merchant", "category", "amt", "trans_num", "is_fraud")
SPARKOV_MAP: dict[str, Any] = {
    "transaction_id": "trans_num", "event_time": "trans_date_trans_time", "customer_id": "cc_num",
    "terminal_id": "merchant", "merchant_category": "category", "amount": "amt", "time_zone": "UTC",
}  # fmt: skip
SPARKOV_DROP = ("unix_time", "first", "last", "street", "dob")
"""The wrong clock, and what names a person."""

HANDBOOK = ("TRANSACTION_ID", "TX_DATETIME", "CUSTOMER_ID", "TERMINAL_ID", "TX_AMOUNT", "TX_FRAUD")
HANDBOOK_MAP: dict[str, Any] = {
    "transaction_id": "TRANSACTION_ID", "event_time": "TX_DATETIME", "customer_id": "CUSTOMER_ID",
    "terminal_id": "TERMINAL_ID", "amount": "TX_AMOUNT", "is_fraud": "TX_FRAUD", "time_zone": "UTC",
}  # fmt: skip
HANDBOOK_DROP = ("TX_FRAUD_SCENARIO", "TX_TIME_SECONDS", "TX_TIME_DAYS")
"""The answer itself, and the time in other words."""

# What a pickled table of pandas 1 or 2 is made of, and nothing that could do more than hold values.
_ALLOWED = {
    ("pandas.core.frame", "DataFrame"), ("pandas.core.internals.managers", "BlockManager"),
    ("pandas._libs.internals", "_unpickle_block"), ("pandas.core.internals.blocks", "new_block"),
    ("pandas.core.indexes.base", "_new_Index"), ("pandas.core.indexes.base", "Index"),
    ("pandas.core.indexes.range", "RangeIndex"), ("pandas.core.arrays.datetimes", "DatetimeArray"),
    ("pandas._libs.arrays", "__pyx_unpickle_NDArrayBacked"), ("numpy", "ndarray"), ("numpy", "dtype"),
    ("numpy.core.multiarray", "_reconstruct"), ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"), ("numpy._core.multiarray", "scalar"),
    ("numpy.core.numeric", "_frombuffer"), ("numpy._core.numeric", "_frombuffer"), ("builtins", "slice"),
}  # fmt: skip
_GONE = {("pandas.core.indexes.numeric", "Int64Index"), ("pandas.core.indexes.numeric", "UInt64Index")}
"""Index classes of pandas 1, which today are an `Index`."""


class _TableUnpickler(pickle.Unpickler):
    """Reads tables only. A pickle is a program; this runs no function outside of `_ALLOWED`."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) in _GONE:
            return pd.Index
        if (module, name) in _ALLOWED:
            return super().find_class(module, name)
        raise pickle.UnpicklingError(f"it calls {module}.{name}, which no table needs")


def read_table_pickle(path: Path) -> pd.DataFrame:
    """Read a pickled DataFrame without running anything but the making of arrays.

    Raises
    ------
    LifecycleError
        If the file names any other function or class, or is no pickled table.
    """
    try:
        with open(path, "rb") as file:
            table = _TableUnpickler(file).load()
    except Exception as error:  # a damaged or hostile pickle can raise anything
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise LifecycleError(
            f"{path} is refused: {reason}; a pickle can run "
            "any code, so only plain tables are read: fetch the file again from its source."
        ) from None
    if not isinstance(table, pd.DataFrame):
        raise LifecycleError(f"{path} holds no table but {type(table).__name__}; fetch the file again from its source.")
    return table


def read_handbook(folder: Path) -> pd.DataFrame:
    """Read the handbook's daily files, ``2018-04-01.pkl`` and so on."""
    paths = [path for path in sorted(folder.glob("*.pkl")) if re.fullmatch(r"\d{4}-\d\d-\d\d", path.stem)]
    if not paths:
        raise LifecycleError(
            f"{folder} has no daily files such as 2018-04-01.pkl; name the folder data of the handbook."
        )
    tables = []
    for path in paths:
        table = read_table_pickle(path)
        _need(table.columns, HANDBOOK, path)
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def read_creditcard_csv(path: Path, rows: int = ROWS, frauds: int = FRAUDS) -> pd.DataFrame:
    """Read ``creditcard.csv`` and check that it is the published file."""
    check_header(path, CREDITCARD, "creditcard-csv")
    table = pd.read_csv(path)
    if (len(table), int(table["Class"].sum())) != (rows, frauds):
        raise ContractError(
            f"{path}: there are {len(table):,} rows with {int(table['Class'].sum()):,} frauds; the published file has "
            f"{rows:,} with {frauds:,}: fetch it again."
        )
    return table


def read_creditcard_openml(folder: Path) -> pd.DataFrame:
    """Read data set 1597 from scikit-learn's cache, and never from the network."""
    info = folder / "openml.org" / "api" / "v1" / "json" / "data" / "1597.gz"
    if not info.exists():
        raise LifecycleError(
            f"{folder} does not hold data set 1597 (no {info}): fetch it once where there is a network."
        )
    from unittest import mock

    from sklearn.datasets import fetch_openml

    refused = LifecycleError(f"{folder} is incomplete: delete it and fetch data set 1597 again.")
    # The default parser has a fault with this set under pandas 3; a cache that lacks a file must not go online.
    with mock.patch("sklearn.datasets._openml.urlopen", side_effect=refused):
        found = fetch_openml(data_id=1597, parser="liac-arff", as_frame=True, data_home=str(folder.parent))
    return found.frame


def read_skrub(folder: Path) -> pd.DataFrame:
    """Read skrub's two tables and count the products of each basket: one row a basket."""
    baskets, products = (sorted(folder.rglob(f"{name}.csv")) for name in ("baskets", "products"))
    if not baskets or not products:
        raise LifecycleError(f"{folder} lacks baskets.csv or products.csv; fetch the set again with skrub.")
    table = pd.read_csv(baskets[0])
    _need(table.columns, ("ID", "fraud_flag"), baskets[0])
    items = pd.read_csv(products[0])
    _need(items.columns, ("basket_ID",), products[0])
    counted = items.groupby("basket_ID").size().rename("products")
    return table.join(counted, on="ID").fillna({"products": 0}).reset_index(drop=True)


def read_sparkov(path: Path) -> pd.DataFrame:
    """Read ``fraudTrain.csv``; its ids are text, since card numbers are longer than a float holds."""
    check_header(path, SPARKOV, "sparkov")
    return pd.read_csv(path, dtype={"cc_num": str, "trans_num": str})


def check_header(path: Path, needed: Sequence[str], name: str) -> list[str]:
    """Return the columns of a CSV file after checking that those of a data set are there."""
    try:
        columns = pd.read_csv(path, nrows=0).columns.tolist()
    except (ValueError, OSError) as error:
        raise LifecycleError(
            f"{path} cannot be read as CSV ({str(error).splitlines()[0]}); give the file of {name}."
        ) from None
    _need(columns, needed, path)
    return columns


def _need(columns: Sequence[str], needed: Sequence[str], path: Path) -> None:
    missing = [name for name in needed if name not in columns]
    if missing:
        raise ContractError(f"{path}: column '{missing[0]}' is missing; the published file has {', '.join(needed)}.")


READERS: dict[str, Callable[[Path], pd.DataFrame]] = {
    "creditcard-openml": read_creditcard_openml,
    "creditcard-csv": read_creditcard_csv,
    "skrub-credit-fraud": read_skrub,
    "sparkov": read_sparkov,
    "handbook": read_handbook,
}
