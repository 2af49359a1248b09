"""What the champion must do whatever its score: hold still for what should not matter, and move the right way else.

Each check changes ordinary payments in one way and looks at the scores. The changes are made to features as the feature
stage would have computed them, several at once where one thing in the world changes several. The idea of three
kinds of tests (invariance, direction, minimum functionality) is that of Ribeiro et al., "Beyond accuracy: behavioral
testing of NLP models with CheckList", ACL 2020.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from lifecycle.training import Model, feature_matrix

ROWS = 5_000
"""Payments that are changed, drawn from those that were let through."""

TOLERANCE = 0.05
"""In log-odds: a score that falls by less than this has not fallen. At a score of 0.02 that is a change of 0.001."""

NEEDED_SHARE = 0.95
"""What a direction or a minimum must hold for: so large a share of the payments that are changed."""

CALM = {
    "terminal_fraud_7d": 0.0, "terminal_fraud_30d": 0.0, "terminal_fraud_ratio_7d": 0.0,
    "terminal_fraud_ratio_30d": 0.0, "customer_count_10m": 0.0, "customer_count_1h": 0.0, "customer_amount_1h": 0.0,
    "customer_amount_max_1h": 0.0,
}  # fmt: skip
"""What an ordinary payment shows before something suspect is added: no reports, no burst."""


def _ten_times(frame: pd.DataFrame) -> dict[str, Any]:
    changed = {name: frame[name] * 10 for name in frame.columns if name.startswith("amount_to_")}
    if "log_amount" in frame:
        changed["log_amount"] = np.log1p(np.expm1(frame["log_amount"]) * 10)
    return changed | {"amount": frame["amount"] * 10}


def _reports(frame: pd.DataFrame) -> dict[str, Any]:
    payments = {days: np.maximum(frame.get(f"terminal_count_{days}d", 30), 5) for days in (7, 30)}
    counts = {f"terminal_fraud_{days}d": 5.0 for days in (7, 30)}
    return counts | {f"terminal_fraud_ratio_{days}d": 5.0 / payments[days] for days in (7, 30)}


def _burst(frame: pd.DataFrame) -> dict[str, Any]:
    fast = {"customer_count_10m": 3.0, "customer_count_1h": 5.0, "customer_seconds_since_last": 60.0}
    fast |= {name: frame[name] + 5 for name in ("customer_count_24h",) if name in frame}
    return fast | {"customer_amount_1h": 5 * frame["amount"], "customer_amount_max_1h": frame["amount"]}


def _far(frame: pd.DataFrame) -> dict[str, Any]:
    far = {"distance_from_home": 150.0, "pair_count_7d": 0.0, "pair_count_30d": 0.0}
    return far | {"customer_km_24h": 300.0, "customer_speed_kmh": 300.0}


SUSPECT: Mapping[str, Callable[[pd.DataFrame], dict[str, Any]]] = {
    "ten times the amount": _ten_times,
    "five reports at the terminal": _reports,
    "five payments in the hour before": _burst,
    "far from home, at a new place": _far,
}
"""What is added to an ordinary payment -> the features that it changes."""


def change(frame: pd.DataFrame, values: Mapping[str, Any]) -> pd.DataFrame:
    """Return a copy in which features have other values; features that the table does not have are left out.

    Examples
    --------
    >>> change(pd.DataFrame({"hour": [3.0]}), {"hour": 9.0, "weekday": 1.0}).to_dict("list")
    {'hour': [9.0]}
    """
    kept = {name: value for name, value in values.items() if name in frame.columns}
    return frame.assign(**kept)


def check_behavior(model: Model, test: pd.DataFrame, threshold: float, seed: int) -> list[dict[str, Any]]:
    """Put the champion through all checks.

    Parameters
    ----------
    model, threshold
        The champion, and the score from which it flags.
    test
        Payments with their ids and features.
    seed
        For the drawing of payments.

    Returns
    -------
    list of dict
        ``kind`` (``"invariance"``, ``"direction"`` or ``"minimum"``), ``check`` (what was done), ``found`` and
        ``needed`` (numbers), ``meaning`` (what they are) and ``passed``. A check whose features the model does not have
        is left out.
    """
    drawn = test.sample(min(len(test), 4 * ROWS), random_state=seed)
    score = model.predict(feature_matrix(drawn, model.schema))
    quiet = drawn[score < threshold].head(ROWS)
    if quiet.empty:
        return []
    found = [*_invariances(model, quiet, seed), *_directions(model, quiet), *_minimum(model, quiet, threshold)]
    compare = {"at most": np.less_equal, "at least": np.greater_equal}
    return [{**one, "passed": bool(compare[one["bound"]](one["found"], one["needed"]))} for one in found]


def _invariances(model: Model, quiet: pd.DataFrame, seed: int) -> list[dict[str, Any]]:
    score = model.predict(feature_matrix(quiet, model.schema))
    random = np.random.default_rng(seed)
    order = random.permutation(len(quiet))
    renamed = {name: quiet[name].to_numpy()[order] for name in ("transaction_id", "customer_id", "terminal_id")}
    columns = quiet[random.permutation(quiet.columns.to_numpy())]
    few = feature_matrix(quiet.head(200), model.schema)
    moved = {
        "the order of the payments": _scores(model, quiet.iloc[order]) - score[order],
        "other ids of payment, customer and terminal": _scores(model, change(quiet, renamed)) - score,
        "the order of the columns": _scores(model, columns) - score,
        "alone instead of in a batch": np.concatenate([model.predict(few[[row]]) for row in range(len(few))])
        - score[: len(few)],
    }
    return [
        {"kind": "invariance", "check": name, "found": float(np.abs(gap).max()), "bound": "at most", "needed": 1e-6,
         "meaning": "largest change of a score"}
        for name, gap in moved.items()
    ]  # fmt: skip


def _directions(model: Model, quiet: pd.DataFrame) -> list[dict[str, Any]]:
    calm = change(quiet, CALM)
    before = _log_odds(_scores(model, calm))
    rows = []
    for name, add in SUSPECT.items():
        values = add(calm)
        if not set(values) & set(model.features):
            continue
        after = _log_odds(_scores(model, change(calm, values)))
        rows.append({
            "kind": "direction", "check": name, "found": float((after >= before - TOLERANCE).mean()),
            "bound": "at least", "needed": NEEDED_SHARE, "meaning": "share of payments whose score does not fall",
            "raised": float(np.median(after - before)),
        })  # fmt: skip
    return rows


def _minimum(model: Model, quiet: pd.DataFrame, threshold: float) -> list[dict[str, Any]]:
    calm = change(quiet, CALM)
    risky = calm
    for add in SUSPECT.values():
        risky = change(risky, add(risky))
    ordinary, suspect = _scores(model, calm), _scores(model, risky)
    return [
        {"kind": "minimum", "check": "calm payments are let through", "found": float((ordinary < threshold).mean()),
         "bound": "at least", "needed": NEEDED_SHARE, "meaning": "share below the threshold"},
        {"kind": "minimum", "check": "everything suspect at once beats a calm payment",
         "found": float((suspect > ordinary).mean()),
         "bound": "at least", "needed": NEEDED_SHARE, "meaning": "share whose score rises"},
        {"kind": "minimum", "check": "everything suspect at once is flagged",
         "found": float((suspect >= threshold).mean()), "bound": "at least", "needed": NEEDED_SHARE,
         "meaning": "share at or above the threshold"},
    ]  # fmt: skip


def _scores(model: Model, frame: pd.DataFrame) -> np.ndarray:
    return model.predict(feature_matrix(frame, model.schema))


def _log_odds(score: np.ndarray) -> np.ndarray:
    kept = np.clip(score, 1e-9, 1 - 1e-9)
    return np.log(kept / (1 - kept))
