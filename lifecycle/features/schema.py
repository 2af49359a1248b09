"""The feature schema: which features there are, in which order, from which view, and the vocabularies."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from lifecycle import files
from lifecycle.errors import LifecycleError
from lifecycle.features.request import COORDINATES, request_names
from lifecycle.features.windows import CUSTOMER_DAILY, RECENT, TERMINAL_DAILY, TRAVEL

VIEWS = {"customer_daily": ("customer_id", "customer"), "terminal_daily": ("terminal_id", "terminal")}
"""Daily view -> its entity column and the prefix of its features."""


def make_schema(
    transactions: pd.DataFrame,
    categories: Mapping[str, Sequence[str]],
    home: bool,
    places: bool,
    texts: Mapping[str, Any] | None = None,
    absent: Sequence[str] = (),
) -> dict[str, Any]:
    """Describe the features that can be made of these transactions.

    Parameters
    ----------
    transactions
        Only their columns and id types are read.
    categories
        Vocabularies of optional text attributes; those the transactions lack are left out.
    home, places
        Whether the coordinates of customers and of terminals are known.
    texts
        Fitted weights of text columns (`text.fit_texts`).
    absent
        Id columns that the table came without (`contracts.absent_entities`): no feature is made of them.

    Returns
    -------
    dict
        `features` (name, dtype, view; in the order of the model's input), `categories`, `texts`, `entities`
        (id column -> int64 or string), `fields` (all columns of the daily views), `ttl_days`, `sha256`
        over all of it. Where there are any, also `numbers` (numeric attributes of one's own, which are features
        as they are) and `absent`.
    """
    kept = {name: list(words) for name, words in categories.items() if name in transactions.columns}
    numbers = own_numbers(transactions)
    views = {
        "customer_daily": CUSTOMER_DAILY,
        "terminal_daily": TERMINAL_DAILY,
        "recent": [name for name in RECENT if places or name not in TRAVEL],
        "request": request_names(kept, home and places, texts, numbers),
    }
    coordinates = {
        "customer_daily": COORDINATES[:2] if home else (),
        "terminal_daily": COORDINATES[2:] if places else (),
    }
    schema: dict[str, Any] = {
        "features": [
            {"name": name, "dtype": "float32", "view": view}
            for view, names in views.items()
            for name in names
            if not (_entities_of(name) & set(absent))
        ],
        "categories": kept,
        "texts": dict(texts or {}),
        "entities": {
            key: "int64" if pd.api.types.is_integer_dtype(transactions[key]) else "string" for key, _ in VIEWS.values()
        },
        "fields": {
            view: [*coordinates[view], *views[view], f"{prefix}_snapshot"] for view, (_, prefix) in VIEWS.items()
        },
        "ttl_days": 1,
    }
    schema |= ({"numbers": numbers} if numbers else {}) | ({"absent": list(absent)} if absent else {})
    return {**schema, "sha256": _digest(schema)}


OWN = "x_"
"""How the attributes of one's own file begin here, so that none is mistaken for a feature of ours."""

_BY_PAIR = ("pair_count_7d", "pair_count_30d", "customer_new_places_24h")
_BY_RATIO = {"amount_to_mean_30d": "customer_id", "amount_to_max_30d": "customer_id",
             "amount_to_terminal_mean_30d": "terminal_id"}  # fmt: skip


def own_numbers(transactions: pd.DataFrame) -> list[str]:
    """Return the numeric attributes of one's own file among the columns of a table.

    Examples
    --------
    >>> own_numbers(pd.DataFrame({"amount": [1.0], "x_age": [3.0], "x_shop": ["a"]}))
    ['x_age']
    """
    return [
        name
        for name in transactions.columns
        if name.startswith(OWN) and pd.api.types.is_float_dtype(transactions[name].dtype)
    ]


def _entities_of(feature: str) -> set[str]:
    """Return the id columns that a feature is computed over."""
    if feature.startswith(OWN):
        return set()
    if feature in _BY_PAIR or feature == "distance_from_home" or feature in TRAVEL:
        return {"customer_id", "terminal_id"}
    if feature in _BY_RATIO:
        return {_BY_RATIO[feature]}
    return {key for key, prefix in VIEWS.values() if feature.startswith(f"{prefix}_")}


def feature_names(schema: Mapping[str, Any]) -> list[str]:
    """Return the names of the model's inputs, in their order.

    Examples
    --------
    >>> feature_names({"features": [{"name": "amount", "dtype": "float32", "view": "request"}]})
    ['amount']
    """
    return [feature["name"] for feature in schema["features"]]


def attribute_columns(schema: Mapping[str, Any]) -> list[str]:
    """Return the optional columns of a payment that the features are made of: categories, texts, then numbers.

    Examples
    --------
    >>> attribute_columns({"categories": {"channel": ["pos"]}, "texts": {"merchant_text": {}}})
    ['channel', 'merchant_text']
    """
    return [*schema["categories"], *schema["texts"], *schema.get("numbers", ())]


def load_schema(folder: Path | str) -> dict[str, Any]:
    """Read `schema.json` of a feature folder and check that it is what was written.

    Raises
    ------
    LifecycleError
        If the file is missing, broken or was changed.
    """
    path = Path(folder) / "schema.json"
    schema = files.read_json(path)
    if not isinstance(schema, dict) or schema.get("sha256") != _digest(schema):
        raise LifecycleError(f"{path} was changed after it was written; build the features again.")
    return schema


def _digest(schema: Mapping[str, Any]) -> str:
    content = {name: value for name, value in schema.items() if name != "sha256"}
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
