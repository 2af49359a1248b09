"""The recipe: everything that preprocessing has learned, in one file that can be read, checked and applied.

``preprocessing.json`` holds the columns and types of the table it was fitted on, on which rows and dates, the
values that mean "nothing", the levels of each category in their order, the numbers of the amounts, the time
zone and the units, the versions of the libraries, and a hash over all of it. It holds no code: loading it
executes nothing. Whoever applies it to a table with other columns or types gets a sentence, not a score.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib.metadata
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import contracts, files
from lifecycle.errors import ContractError, LifecycleError
from lifecycle.preprocessing.cleaning import (
    DISGUISED,
    FILLED,
    UNKNOWN,
    choose_levels,
    count_levels,
    encode,
    fill_missing,
    fix_levels,
    reveal_missing,
)

FORMAT = 1
"""The version of the layout of ``preprocessing.json``."""

UNITS = {"event_time": "microseconds since 1970, UTC", "amount": "account currency, major units"}
"""What the numbers of a column mean."""

_LIBRARIES = ("numpy", "pandas", "pyarrow", "scikit-learn")


@dataclass(frozen=True)
class Recipe:
    """What preprocessing has learned from the training rows; `content` is what ``preprocessing.json`` holds.

    Examples
    --------
    >>> times = pd.to_datetime(["2025-08-01", "2025-08-02"], utc=True).as_unit("us")
    >>> ids = {"transaction_id": [1, 2], "event_time": times, "customer_id": 1, "terminal_id": 1}
    >>> train = pd.DataFrame({**ids, "amount": [5.0, 7.0], "channel": ["pos", "N/A"]})
    >>> recipe = fit_recipe([train], train)
    >>> recipe.apply(train.assign(channel="fax"))["channel"].tolist()
    ['unknown', 'unknown']
    >>> try:
    ...     recipe.apply(train.assign(amount=[500, 700]), "new.parquet")
    ... except ContractError as error:
    ...     print(str(error).split(":")[1].strip())
    column 'amount' has type int64, preprocessing was fitted on float64
    """

    content: Mapping[str, Any]

    @property
    def types(self) -> dict[str, str]:
        """The type of each input column, by name, in order."""
        return {column["name"]: column["type"] for column in self.content["input"]}

    @property
    def vocabularies(self) -> dict[str, list[str]]:
        """The levels of each category; the position of a level is its code."""
        return self.content["vocabularies"]

    def apply(self, frame: pd.DataFrame, where: Path | str = "the table", extra: str = "refuse") -> pd.DataFrame:
        """Clean a table exactly as the training rows were cleaned.

        Parameters
        ----------
        frame
            Payments with the columns and types of the recipe, in any order. It is not changed.
        where
            The file, or another name of the place, for the message.
        extra
            ``"refuse"`` or ``"drop"`` columns that the recipe does not know.

        Returns
        -------
        pandas.DataFrame
            The columns of the recipe, in its order; categories have exactly the fitted levels.

        Raises
        ------
        ContractError
            If a column is missing, renamed, new, or of another type, or if a value breaks the contract.
        """
        self.check(frame, where, extra)
        # Disguises of other tables are kept in the file as text, and no payment has these columns.
        disguised = {name: self.content["disguised"].get(name, []) for name in self.content["vocabularies"]}
        result = reveal_missing(frame[list(self.types)], disguised)
        return fill_missing(fix_levels(result, self.vocabularies), self.content["filled"])

    def check(self, frame: pd.DataFrame, where: Path | str, extra: str = "refuse") -> None:
        """Raise a ContractError, naming the column, unless `apply` may be used on this table."""
        missing = [name for name in self.types if name not in frame.columns]
        new = [str(name) for name in frame.columns if name not in self.types]
        if missing:
            raise ContractError(f"{where}: {self._about_missing(missing, new, frame)}")
        if new and extra != "drop":
            names = ", ".join(f"'{name}'" for name in new)
            raise ContractError(
                f"{where}: column{'s' * (len(new) > 1)} {names} {'are' if len(new) > 1 else 'is'} new, and "
                'preprocessing has learned nothing about it; leave it out (extra="drop"), or fit again with it.'
            )
        for name, expected in self.types.items():
            found = type_of(frame[name])
            if found != expected and not (found == "nothing" and expected == "text"):
                raise ContractError(
                    f"{where}: column '{name}' has type {found}, preprocessing was fitted on {expected}: "
                    f"{_remedy(found, expected)}."
                )
        contracts.check(frame, contracts.TRANSACTIONS, where)

    def _about_missing(self, missing: list[str], new: list[str], frame: pd.DataFrame) -> str:
        """Tell a renamed column from one that is gone: a new column of a similar name, or the only one of its type."""
        name = missing[0]
        same_type = [other for other in new if type_of(frame[other]) == self.types[name]]
        close = difflib.get_close_matches(name, new, 1, 0.6) or (same_type if len(same_type) == 1 else [])
        if close:
            return f"column '{name}' is missing and '{close[0]}' is new; if it was renamed, name it '{name}' again."
        names = ", ".join(f"'{name}'" for name in missing)
        are = "columns {} are missing" if len(missing) > 1 else "column {} is missing"
        return (
            f"{are.format(names)}; preprocessing was fitted on {self.content['fitted_on']['rows']:,} payments that "
            "have it: deliver it, or fit again without it."
        )

    def standardize(self, cleaned: pd.DataFrame) -> pd.DataFrame:
        """Return the payments as a linear model wants them: amounts standardized, one column a level.

        Parameters
        ----------
        cleaned
            What `apply` returned.

        Returns
        -------
        pandas.DataFrame
            float64: ``amount`` and ``log_amount`` with the mean and scale of training, then for each category one
            column a fitted level (``channel=online``), 0 or 1. A level that training has not seen is all zeros.
        """
        amounts = cleaned["amount"].to_numpy()
        columns = {}
        for name, values in (("amount", amounts), ("log_amount", np.log(amounts))):
            learned = self.content["numbers"][name]
            columns[name] = (values - learned["mean"]) / learned["scale"]
        for name, levels in self.vocabularies.items():
            codes = encode(cleaned[name], levels)
            columns |= {f"{name}={level}": (codes == code).astype(float) for code, level in enumerate(levels)}
        return pd.DataFrame(columns, index=cleaned.index)


def type_of(values: pd.Series) -> str:
    """Return the type of a column in the words of the recipe: text is text, be it stored as objects or categories.

    Examples
    --------
    >>> type_of(pd.Series(["a", None])), type_of(pd.Series([1])), type_of(pd.Series(pd.to_datetime(["2025-08-01"])))
    ('text', 'int64', 'timestamp[ns]')
    """
    dtype = values.dtype
    if isinstance(dtype, pd.CategoricalDtype):
        dtype, values = dtype.categories.dtype, pd.Series(dtype.categories)
    if isinstance(dtype, pd.DatetimeTZDtype):
        return f"timestamp[{dtype.unit}, {dtype.tz}]"
    if pd.api.types.is_datetime64_dtype(dtype):
        return f"timestamp[{np.datetime_data(dtype)[0]}]"
    if pd.api.types.is_object_dtype(dtype) or isinstance(dtype, pd.StringDtype):
        kind = pd.api.types.infer_dtype(values, skipna=True)
        return {"string": "text", "empty": "nothing"}.get(kind, kind)
    return str(dtype)


def _remedy(found: str, expected: str) -> str:
    """Say what to do about a type that differs, and what it probably means."""
    if expected.startswith("timestamp"):
        if found.startswith("timestamp") and "," not in found:
            return "without a time zone an hour is a guess; localize the times and convert them to UTC"
        if found.startswith("timestamp") and not found.endswith(" UTC]"):
            return "convert the times to UTC, or hours and days shift"
        if found.startswith("timestamp"):
            return f"convert them with .dt.as_unit('{expected[10:].split(',')[0]}')"
        return "convert to timestamps with a time zone; a number does not say its unit"
    if expected == "float64" and "int" in found:
        return "whole numbers are often minor units such as cents; convert to account currency"
    if expected == "float64" and found == "float32":
        return "it was rounded on the way; deliver it in double precision"
    return "restore the type, or fit again"


def fit_recipe(
    batches: Iterable[pd.DataFrame], example: pd.DataFrame, period: tuple[object, object] | None = None
) -> Recipe:
    """Learn a recipe from the training rows.

    Parameters
    ----------
    batches
        The training rows, in one table or in many parts.
    example
        A table (rows are not needed) whose columns and types future tables must have.
    period
        The first day and the day after the last, for the record.

    Raises
    ------
    LifecycleError
        If there are no rows to learn from.
    """
    counts = count_levels(reveal_missing(example.iloc[:0]))
    parts, times = [], []
    for batch in batches:
        if len(batch):
            for column, found in count_levels(reveal_missing(batch)).items():
                counts[column].update(found)
            parts.append(batch["amount"].to_numpy())
            times.append((batch["event_time"].min(), batch["event_time"].max()))
    if not parts:
        raise LifecycleError("There are no training payments to learn preprocessing from; choose another period.")
    amounts = np.concatenate(parts)
    content = {
        "format": FORMAT,
        "table": "transactions",
        "fitted_on": {
            "from": str(period[0]) if period else None,
            "until": str(period[1]) if period else None,
            "rows": len(amounts),
            "first_event": min(first for first, _ in times).isoformat(),
            "last_event": max(last for _, last in times).isoformat(),
        },
        "time_zone": "UTC",
        "units": UNITS,
        **_schemas(example, choose_levels(counts)),
        "numbers": {"amount": _numbers(amounts), "log_amount": _numbers(_log(amounts))},
        "libraries": {name: importlib.metadata.version(name) for name in _LIBRARIES},
    }
    return Recipe({**content, "sha256": _digest(content)})


def _schemas(example: pd.DataFrame, vocabularies: dict[str, list[str]]) -> dict[str, Any]:
    """Return the parts of the recipe that say what goes in, what is done to words, and what comes out."""
    types = {name: type_of(example[name]) for name in example.columns}
    types = {name: "text" if found == "nothing" else found for name, found in types.items()}
    words = [*vocabularies, *(name for name in FILLED if name in types)]
    return {
        "input": [{"name": name, "type": found} for name, found in types.items()],
        "output": [
            {"name": name, "type": "category" if name in words else found}
            | ({"levels": [*vocabularies[name], UNKNOWN]} if name in vocabularies else {})
            for name, found in types.items()
        ],
        "disguised": {name: [_plain(value) for value in values] for name, values in DISGUISED.items()},
        "unknown": UNKNOWN,
        "vocabularies": vocabularies,
        "filled": {name: filler for name, filler in FILLED.items() if name in types},
    }


def _plain(value: Any) -> Any:
    return value.isoformat() if isinstance(value, pd.Timestamp) else value


def _log(amounts: np.ndarray) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore"):  # an amount that breaks the contract is refused by name
        return np.log(amounts)


def _numbers(values: np.ndarray) -> dict[str, float]:
    """Return what scaling needs: a constant column gets the scale 1, as in scikit-learn."""
    scale = float(values.std())
    return {
        "median": float(np.median(values)),
        "mean": float(values.mean()),
        "scale": scale if scale > 0 else 1.0,
        "min": float(values.min()),
        "max": float(values.max()),
    }


def _digest(content: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a recipe without its own hash."""
    text = json.dumps({key: value for key, value in content.items() if key != "sha256"}, sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def save_recipe(recipe: Recipe, path: Path | str) -> None:
    """Write ``preprocessing.json``."""
    files.write_json(recipe.content, path)


def load_recipe(path: Path | str) -> Recipe:
    """Read ``preprocessing.json`` after checking it. Nothing in it is executed.

    Raises
    ------
    LifecycleError
        If it is missing, is not a recipe of this format, or was changed after it was written.
    """
    content = files.read_json(path)
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        raise LifecycleError(f"{path} is not a preprocessing recipe of format {FORMAT}; run the stage again.")
    if content.get("sha256") != _digest(content):
        raise LifecycleError(
            f"{path} was changed after it was written (its SHA-256 does not fit); run the preprocessing stage again."
        )
    return Recipe(content)
