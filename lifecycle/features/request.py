"""What is known from the payment itself, the same for a million rows and for one.

Feast's on-demand view calls `request_frame`, the service calls `request_values` for a single payment and
`request_features` for many; all end in the same lines, so the paths cannot drift apart.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from lifecycle.errors import LifecycleError
from lifecycle.features.text import text_names, text_values, vectorize
from lifecycle.features.windows import DAY, HOUR, WEB, to_micros

CLOCK = ("hour", "weekday", "is_weekend", "is_night")
RATIOS = ("amount_to_mean_30d", "amount_to_max_30d", "amount_to_terminal_mean_30d")
COORDINATES = ("home_x_km", "home_y_km", "terminal_x_km", "terminal_y_km")
INPUTS = ("customer_amount_mean_30d", "customer_amount_max_30d", "terminal_amount_mean_30d")
"""Daily features that request-time features are made of."""

NIGHT_ENDS = 6
"""Hours before this one, in UTC, count as night."""


def request_names(
    categories: Mapping[str, Sequence[str]],
    coordinates: bool,
    texts: Mapping[str, Any] | None = None,
    numbers: Sequence[str] = (),
) -> list[str]:
    """Return the names of the request-time features, in their order.

    Examples
    --------
    >>> request_names({"channel": ["online", "pos"]}, coordinates=True)[-3:]
    ['amount_to_terminal_mean_30d', 'distance_from_home', 'channel_code']
    """
    distance = ["distance_from_home"] if coordinates else []
    codes = [f"{name}_code" for name in categories]
    return ["amount", "log_amount", *CLOCK, *RATIOS, *distance, *codes, *text_names(texts or {}), *numbers]


def encode(values: Any, vocabulary: Sequence[str]) -> np.ndarray:
    """Return the position of each value in the vocabulary, float64; -1 where it is unknown or missing.

    Examples
    --------
    >>> encode(["pos", None, "fax"], ["online", "pos"]).tolist()
    [1.0, -1.0, -1.0]
    """
    if isinstance(values, list):
        known = positions(vocabulary)
        return np.array([known.get(value, -1.0) for value in values])
    return pd.Categorical(values, categories=list(vocabulary)).codes.astype("float64")


def positions(vocabulary: Sequence[str]) -> dict[str, float]:
    """Return the position of each word of a vocabulary.

    Examples
    --------
    >>> positions(["online", "pos"])
    {'online': 0.0, 'pos': 1.0}
    """
    return {word: float(position) for position, word in enumerate(vocabulary)}


def _of_amount_and_time(amount: Any, micros: Any, mean: Any, largest: Any, there: Any) -> dict[str, Any]:
    """Return the features of amount and time: of arrays, or of one payment's numbers (`amount` as np.float64)."""
    hour = micros // HOUR % 24
    weekday = (micros // DAY + 3) % 7  # 1970-01-01 was a Thursday; Monday is 0
    return {
        "amount": amount,
        "log_amount": np.log1p(amount),
        "hour": hour * 1.0,
        "weekday": weekday * 1.0,
        "is_weekend": (weekday >= 5) * 1.0,
        "is_night": (hour < NIGHT_ENDS) * 1.0,
        "amount_to_mean_30d": amount / mean,
        "amount_to_max_30d": amount / largest,
        "amount_to_terminal_mean_30d": amount / there,
    }


def _distance(home_x: Any, home_y: Any, x: Any, y: Any) -> Any:
    return np.hypot(x - home_x, y - home_y)


def request_features(
    columns: Mapping[str, Any],
    categories: Mapping[str, Sequence[str]] | None = None,
    texts: Mapping[str, Any] | None = None,
    numbers: Sequence[str] = (),
) -> dict[str, np.ndarray]:
    """Compute the features that need the payment itself.

    Parameters
    ----------
    columns
        Arrays of one length: `amount`, `event_micros` (int64, microseconds since 1970 UTC),
        `customer_amount_mean_30d`, `customer_amount_max_30d`, `terminal_amount_mean_30d`; the four
        coordinates in km if known; and the columns named in `categories` and `texts`.
    categories
        The vocabulary of each category column, as fitted by preprocessing.
    texts
        The weights of each text column, as fitted by `text.fit_texts`.
    numbers
        Columns that are features as they are; None counts as missing.

    Returns
    -------
    dict of float64 arrays
        In the order of `request_names`. Distance is Euclidean, in km; NaN for a payment on the web, which
        has no place. A ratio to a missing mean is NaN.

    Examples
    --------
    >>> out = request_features({"amount": [30.0], "event_micros": [0], "customer_amount_mean_30d": [20.0],
    ...     "customer_amount_max_30d": [60.0], "terminal_amount_mean_30d": [15.0]})
    >>> float(out["amount_to_mean_30d"][0]), float(out["hour"][0]), float(out["weekday"][0])
    (1.5, 0.0, 3.0)
    """
    amount = np.asarray(columns["amount"], dtype="float64")
    micros = np.asarray(columns["event_micros"], dtype="int64")
    mean, largest, there = (np.asarray(columns[name], dtype="float64") for name in INPUTS)
    features: dict[str, np.ndarray] = _of_amount_and_time(amount, micros, mean, largest, there)
    if all(name in columns for name in COORDINATES):
        distance = _distance(*(np.asarray(columns[name], dtype="float64") for name in COORDINATES))
        if "channel" in (categories or {}):
            distance = np.where(np.asarray(columns["channel"], dtype=object) == WEB, np.nan, distance)
        features["distance_from_home"] = distance
    for name, vocabulary in (categories or {}).items():
        features[f"{name}_code"] = encode(columns[name], vocabulary)
    for name, fitted in (texts or {}).items():
        features |= dict(zip(text_names({name: fitted}), vectorize(columns[name], fitted).T, strict=True))
    features |= {name: np.asarray(columns[name], dtype="float64") for name in numbers}
    return features


def request_values(
    payment: Mapping[str, Any],
    codes: Mapping[str, Mapping[str, float]] | None = None,
    texts: Mapping[str, Any] | None = None,
    numbers: Sequence[str] = (),
) -> dict[str, float]:
    """Compute `request_features` of one payment, to the last bit, without an array for each number.

    Parameters
    ----------
    payment
        What `request_features` takes as columns, as plain numbers and texts.
    codes
        The `positions` of each category column's vocabulary.
    texts
        Fitted texts that `text.prepare` has made ready.
    numbers
        See `request_features`.

    Examples
    --------
    >>> out = request_values({"amount": 30.0, "event_micros": 0, "customer_amount_mean_30d": 20.0,
    ...     "customer_amount_max_30d": 60.0, "terminal_amount_mean_30d": 15.0})
    >>> float(out["amount_to_mean_30d"]), out["hour"], out["weekday"]
    (1.5, 0.0, 3.0)
    """
    codes, amount = codes or {}, np.float64(payment["amount"])  # NumPy's division by zero gives infinity, in both paths
    features = _of_amount_and_time(amount, payment["event_micros"], *(payment[name] for name in INPUTS))
    if all(name in payment for name in COORDINATES):
        nowhere = "channel" in codes and payment["channel"] == WEB
        features["distance_from_home"] = math.nan if nowhere else _distance(*(payment[name] for name in COORDINATES))
    for name, known in codes.items():
        features[f"{name}_code"] = known.get(payment[name], -1.0)
    for name, fitted in (texts or {}).items():
        features |= zip(fitted["names"], text_values(payment[name], fitted), strict=True)
    for name in numbers:
        features[name] = math.nan if payment[name] is None else float(payment[name])
    return features


def request_frame(
    frame: pd.DataFrame, categories: Mapping[str, Sequence[str]], texts: Mapping[str, Any] | None = None
) -> pd.DataFrame:
    """Compute `request_features` for a frame with the column `event_time`, as Feast's on-demand view does.

    Raises
    ------
    LifecycleError
        If an amount is missing, not finite or not positive.
    """
    amount = frame["amount"]
    if not (np.isfinite(amount) & (amount > 0)).all():
        raise LifecycleError("Column 'amount' must be finite and positive; correct these payments.")
    # Feast hands request data over in UTC, without a zone in the online path.
    times = pd.Series(pd.to_datetime(frame["event_time"], utc=True), name="event_time")
    columns = {name: frame[name] for name in frame.columns if name != "event_time"}
    features = request_features({**columns, "event_micros": to_micros(times)}, categories, texts)
    return pd.DataFrame(features, index=frame.index)
