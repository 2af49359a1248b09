"""What becomes of the columns of one's own file that the contract does not name: a number, a category, or nothing."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lifecycle.collection.own.mapping import COLUMNS

if TYPE_CHECKING:
    from lifecycle.collection.own.reading import OwnFile

PREFIX = "x_"
MOST_LEVELS = 1_000
"""A text column with more different values is left out: no model learns from values that it seldom sees again."""

# Feast marks duplicates by "_y"; "_code" and "_snapshot" have a meaning in the features.
_RESERVED = ("_y", "_code", "_snapshot")
_NUMBERS = ("TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "UTINYINT", "USMALLINT", "UINTEGER", "UBIGINT",
            "FLOAT", "DOUBLE", "BOOLEAN")  # fmt: skip


def safe_name(name: str, taken: Sequence[str] = ()) -> str:
    """Return how an attribute of the user's is called here: a plain word that collides with no feature of ours.

    Examples
    --------
    >>> safe_name("Merchant Lat."), safe_name("zip_code"), safe_name("MCC", ["x_mcc"])
    ('x_merchant_lat', 'x_zip_code_', 'x_mcc_2')
    """
    plain = PREFIX + (re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_") or "column")
    plain += "_" if plain.endswith(_RESERVED) else ""
    number, made = 2, plain
    while made in taken:
        made, number = f"{plain}_{number}", number + 1
    return made


def describe_attributes(own: OwnFile) -> list[dict[str, Any]]:
    """Decide what becomes of each column that the contract does not name, from all of its values.

    Returns
    -------
    list of dict
        ``file`` (its name there), ``ours`` (its name here, None if left out), ``kind`` (``"number"``, ``"category"``,
        ``"left out"``), ``note`` (why it is left out).
    """
    spoken_for = {own.theirs(name) for name in COLUMNS} | {"is_fraud", "known_at"}
    spoken_for |= {own.words.theirs(name, "labels") for name in ("is_fraud", "known_at")}
    unknown = [name for name in own.words.drop if name not in own.types]
    own.refuse_unknown(unknown)
    found: list[dict[str, Any]] = []
    for name, stored in own.types.items():
        if name in spoken_for:
            continue
        kind, note = ("left out", "dropped by the mapping") if name in own.words.drop else _judge(own, name, stored)
        taken = [one["ours"] for one in found if one["ours"]]
        ours = None if kind == "left out" else safe_name(name, taken)
        found.append({"file": name, "ours": ours, "kind": kind, "note": note})
    return found


def _judge(own: OwnFile, name: str, stored: str) -> tuple[str, str]:
    """Return the kind of a column and, if it is left out, why."""
    column = '"' + name.replace('"', '""') + '"'
    text = f"nullif(trim({column}::VARCHAR), '')"
    number = own.number(text, stored)
    rows, filled, numbers, instants, levels = own.ask(
        f"SELECT count(*), count({text}), count({number}), count(try_cast({text} AS TIMESTAMP)), "
        f"approx_count_distinct({text})"
    )
    if not filled:
        return "left out", "it is empty"
    if levels <= 1 and filled == rows:
        return "left out", "it holds one value"
    is_number = stored in _NUMBERS or stored.startswith("DECIMAL") or (stored == "VARCHAR" and numbers == filled)
    if stored.startswith(("TIMESTAMP", "DATE")) or (stored == "VARCHAR" and instants == filled and not is_number):
        later = own.share_later(column)
        note = "a time is no feature by itself"
        if later > 0:
            note += f"; in {later:.2%} of the rows it lies after the payment: it was filled later"
        return "left out", note
    if re.search(r"(^|_)(id|uuid)$", name.lower()) or (filled == rows and levels > 0.97 * rows and not is_number):
        return "left out", "it looks like an id, which says who and not what"
    if is_number and filled == rows and levels > 0.97 * rows and own.ask(f"SELECT bool_and({number} % 1 = 0)")[0]:
        return "left out", "it looks like a row number or an id, which says who and not what"
    if is_number:
        return "number", ""
    if stored != "VARCHAR":
        return "left out", f"a column of type {stored} is not understood"
    if levels > MOST_LEVELS:
        return "left out", f"it has about {levels:,} different words"
    return "category", ""
