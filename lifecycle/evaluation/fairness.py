"""Whom the model serves worse: metrics by group with intervals, and what treating groups alike would cost.

A group is an age band, a region or a channel. Intervals draw whole customers, and all groups see the same draws, so
that a difference between two groups is compared on the same customers. A group with too few frauds is named and
not ranked. The criteria that can be asked for, and why they cannot all be had:

- equal recall (*equal opportunity*): Hardt, Price and Srebro, "Equality of opportunity in supervised learning",
  NIPS 2016; together with equal false alarms it is *equalized odds*;
- equal shares of alerts (*demographic parity*) and calibration within groups: Kleinberg, Mullainathan and Raghavan,
  "Inherent trade-offs in the fair determination of risk scores", ITCS 2017.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import contracts, economics
from lifecycle.economics import business
from lifecycle.evaluation.uncertainty import draw_customers
from lifecycle.training.metrics import card_ids, describe_interval

SMALL_GROUP = 20
"""A group with fewer frauds than this is named but not ranked: its recall is mostly luck."""

FEW_VICTIMS = 10
"""The same for a group whose frauds come from fewer customers than this: one bad week of one of them decides."""

RESAMPLES = 1000

MOST_UNITS = 20_000
"""Customers that are drawn one by one, as in `uncertainty`; fewer, since there are more draws."""

RATES = ("recall", "precision", "false_alarm_rate", "false_declines", "calibration")
CRITERIA = ("one threshold", "equal recall", "equal false alarms", "equal alerts", "most money")


def slice_table(is_fraud: np.ndarray, flagged: np.ndarray, group: pd.Series) -> list[dict[str, Any]]:
    """Return the metrics of each group, through fairlearn's MetricFrame.

    Parameters
    ----------
    is_fraud, flagged
        0 or 1, shape (n,).
    group
        The group of each payment; a missing one counts as ``"unknown"``.

    Returns
    -------
    list of dict
        ``group``, ``payments``, ``frauds``, ``alert_rate``, ``recall``, ``false_alarm_rate`` (share of honest
        payments flagged), ``precision``, and ``small`` (fewer than 20 frauds). A rate without a base is None.
    """
    from fairlearn.metrics import MetricFrame, false_positive_rate, selection_rate, true_positive_rate

    def payments(y_true: Any, y_pred: Any, sample_weight: Any) -> float:
        return float(np.sum(sample_weight))

    def frauds(y_true: Any, y_pred: Any, sample_weight: Any) -> float:
        return float(np.dot(y_true, sample_weight))

    def hits(y_true: Any, y_pred: Any, sample_weight: Any) -> float:
        return float(np.sum(np.asarray(y_true) * np.asarray(y_pred) * np.asarray(sample_weight)))

    metrics = {
        "payments": payments, "frauds": frauds, "hits": hits, "alert_rate": selection_rate,
        "recall": true_positive_rate, "false_alarm_rate": false_positive_rate,
    }  # fmt: skip
    # MetricFrame takes seconds for many rows: it gets each kind of payment once, with a weight.
    kinds = pd.DataFrame({
        "fraud": np.asarray(is_fraud, dtype=int), "flagged": np.asarray(flagged, dtype=int), "group": _names(group),
    }).value_counts().reset_index()  # fmt: skip
    found = MetricFrame(
        metrics=metrics,
        y_true=kinds["fraud"],
        y_pred=kinds["flagged"],
        sensitive_features=kinds["group"],
        sample_params={name: {"sample_weight": kinds["count"]} for name in metrics},
    ).by_group
    rows = []
    for name, row in found.iterrows():
        size, fraud_count, hit = int(row["payments"]), int(row["frauds"]), int(row["hits"])
        alerts = round(row["alert_rate"] * size)
        rows.append({
            "group": str(name), "payments": size, "frauds": fraud_count,
            "alert_rate": round(float(row["alert_rate"]), 6),
            "recall": round(float(row["recall"]), 6) if fraud_count else None,
            "false_alarm_rate": round(float(row["false_alarm_rate"]), 6) if size > fraud_count else None,
            "precision": round(hit / alerts, 6) if alerts else None,
            "small": fraud_count < SMALL_GROUP,
        })  # fmt: skip
    return rows


def _names(group: pd.Series) -> np.ndarray:
    return group.astype("object").where(group.notna(), "unknown").astype(str).to_numpy()


def customer_groups(
    frame: pd.DataFrame, preprocessing: Path, transactions: pd.DataFrame, day: Any
) -> dict[str, pd.Series]:
    """Return the group of each payment by channel, region and age band, as far as these are known.

    Parameters
    ----------
    frame
        Payments, with ``transaction_id`` and ``customer_id``.
    preprocessing
        The preprocessing artifact, for its table of customers.
    transactions
        All payments, for their channel.
    day
        The day on which ages are counted.

    Returns
    -------
    dict of pandas.Series
        Each of the length of `frame`, with the index 0, 1, ...
    """
    groups: dict[str, pd.Series] = {}
    if "channel" in transactions.columns:
        by_id = transactions[["transaction_id", "channel"]]
        groups["channel"] = frame[["transaction_id"]].merge(by_id, on="transaction_id", how="left")["channel"]
    if (preprocessing / "customers.parquet").exists():
        customers = pd.read_parquet(preprocessing / "customers.parquet").drop_duplicates("customer_id")
        of_frame = frame[["customer_id"]].merge(customers, on="customer_id", how="left")
        if "region" in of_frame.columns:
            groups["region"] = of_frame["region"]
        if "birth_date" in of_frame.columns:
            groups["age band"] = _age_bands(of_frame["birth_date"], day)
    return groups


def _age_bands(birth_date: pd.Series, day: Any) -> pd.Series:
    born = pd.to_datetime(birth_date, utc=True, errors="coerce")
    years = (contracts.midnight(day) - born).dt.days / 365.25
    return pd.cut(years, [-1, 29, 44, 59, 74, 200], labels=["under 30", "30-44", "45-59", "60-74", "75 and over"])


class GroupSums:
    """Counts of each customer in each group, so that any draw of customers is one matrix product.

    Parameters
    ----------
    frame
        Payments with a known label: ``transaction_id``, ``customer_id``, ``amount`` and ``is_fraud`` (0 or 1).
    score
        Read as a probability of fraud, shape (n,).
    group
        The group of each payment; a missing one counts as ``"unknown"``.
    """

    def __init__(self, frame: pd.DataFrame, score: np.ndarray, group: pd.Series) -> None:
        self.codes, names = pd.factorize(_names(group), sort=True)
        self.names = [str(name) for name in names]
        self._owners, owners = pd.factorize(card_ids(frame))
        self._people, self.customers = len(owners), min(len(owners), MOST_UNITS)
        self._fraud = frame["is_fraud"].to_numpy(dtype=float)
        frauds, honest = self._each(self._fraud), self._each(1 - self._fraud)
        self._fixed = {
            "frauds": self._together(frauds), "honest": self._together(honest), "expected": self.add_up(score),
            "honest_customers": self._together((honest > 0).astype(float)),
        }  # fmt: skip
        self.victims = (frauds > 0).sum(axis=0).astype(int)

    def add_up(self, values: np.ndarray) -> np.ndarray:
        """Return the sum of a value by customer, or by customers drawn together, and group: (customers, groups)."""
        return self._together(self._each(values))

    def _each(self, values: np.ndarray) -> np.ndarray:
        cells = self._owners * len(self.names) + self.codes
        total = np.bincount(cells, np.asarray(values, dtype=float), self._people * len(self.names))
        return total.reshape(self._people, len(self.names))

    def _together(self, each: np.ndarray) -> np.ndarray:
        rest = -self._people % self.customers if self._people else 0
        return np.pad(each, ((0, rest), (0, 0))).reshape(-1, self.customers, len(self.names)).sum(axis=0)

    def rates(self, flagged: np.ndarray, draws: np.ndarray) -> dict[str, np.ndarray]:
        """Return `RATES` of each group on each draw, NaN where a rate has no base.

        Parameters
        ----------
        flagged
            Whether each payment is stopped, shape (n,).
        draws
            How often each customer counts, shape (draws, customers).

        Returns
        -------
        dict
            Rate -> float64 of shape (draws, groups), and ``fraud_rate``, the share of frauds. ``false_declines`` are
            false alarms per customer who made an honest payment in the group; ``calibration`` is frauds expected by the
            scores / frauds that occurred.
        """
        sums = {name: draws @ total for name, total in self._fixed.items()}
        hits, alerts = draws @ self.add_up(flagged * self._fraud), draws @ self.add_up(flagged)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = {
                "recall": hits / sums["frauds"],
                "precision": hits / alerts,
                "false_alarm_rate": (alerts - hits) / sums["honest"],
                "false_declines": (alerts - hits) / sums["honest_customers"],
                "calibration": sums["expected"] / sums["frauds"],
                "fraud_rate": sums["frauds"] / (sums["frauds"] + sums["honest"]),
            }
        return {name: np.where(np.isfinite(rate), rate, np.nan) for name, rate in found.items()}


def judge_groups(
    frame: pd.DataFrame, score: np.ndarray, flagged: np.ndarray, group: pd.Series, seed: int
) -> tuple[list[dict[str, Any]], dict[str, dict[str, Any]]]:
    """Return the slice table of one attribute with intervals, and the largest gap of each rate.

    Parameters
    ----------
    frame, score, group
        As in `GroupSums`.
    flagged
        0 or 1, shape (n,).
    seed
        For the draws.

    Returns
    -------
    rows, gaps
        The rows of `slice_table` with ``victims``, ``small`` also where there are fewer than 10 of them, and
        ``intervals`` (rate -> value, low, high). And for each rate, over the groups that are not small: ``lowest``,
        ``highest``, and the gap between the two with an interval widened for the number of pairs that
        could have been the largest (Bonferroni); ``clear`` where that excludes zero.
    """
    sums = GroupSums(frame, score, group)
    draws = draw_customers(sums.customers, seed, RESAMPLES)
    once, many = sums.rates(flagged, np.ones((1, sums.customers))), sums.rates(flagged, draws)
    rows = slice_table(frame["is_fraud"].to_numpy(dtype=int), flagged, group)
    for row in rows:
        place = sums.names.index(row["group"])
        row["victims"] = int(sums.victims[place])
        row["small"] = row["small"] or row["victims"] < FEW_VICTIMS
        row["intervals"] = {rate: describe_interval(once[rate][0, place], many[rate][:, place]) for rate in RATES}
    solid = [sums.names.index(row["group"]) for row in rows if not row["small"]]
    gaps = {rate: _largest_gap(once[rate][0], many[rate], solid, sums.names) for rate in RATES} if solid[1:] else {}
    return rows, gaps


def _largest_gap(value: np.ndarray, many: np.ndarray, solid: list[int], names: list[str]) -> dict[str, Any]:
    from scipy.stats import norm

    low, high = min(solid, key=lambda place: value[place]), max(solid, key=lambda place: value[place])
    gap, spread = float(value[high] - value[low]), float(np.nanstd(many[:, high] - many[:, low], ddof=1))
    reach = spread * float(norm.ppf(1 - 0.025 / max(len(list(combinations(solid, 2))), 1)))
    return {
        "lowest": names[low], "highest": names[high], "value": round(gap, 6), "low": round(gap - reach, 6),
        "high": round(gap + reach, 6), "clear": gap - reach > 0,
    }  # fmt: skip


def group_thresholds(
    criterion: str, frame: pd.DataFrame, score: np.ndarray, group: pd.Series, threshold: float, settings: Any
) -> dict[str, float]:
    """Choose a threshold for each group, on payments that are not those of the test.

    Parameters
    ----------
    criterion
        One of `CRITERIA`. The equal ones aim at what the one threshold reaches over all groups together, so
        that groups are treated alike without more, or fewer, being caught in all.
    frame
        Payments with ``is_fraud`` and ``amount``.
    score, group
        Shape (n,).
    threshold
        The one threshold; a group with fewer than 20 frauds keeps it.
    settings
        With the prices of `lifecycle.economics`.

    Examples
    --------
    >>> frame = pd.DataFrame({"is_fraud": [1, 0] * 40, "amount": 50.0})
    >>> score = np.where(frame["is_fraud"], 0.8, 0.1) * np.repeat([1.0, 0.5], 40)
    >>> group = pd.Series(np.repeat(["a", "b"], 40))
    >>> group_thresholds("equal recall", frame, score, group, 0.3, None)
    {'a': 0.8, 'b': 0.4}
    """
    names, fraud = _names(group), frame["is_fraud"].to_numpy(dtype=int)
    amount, flagged = frame["amount"].to_numpy(), score >= threshold
    recall, alarms = flagged[fraud == 1].mean(), flagged[fraud == 0].mean()
    found = {}
    for name in sorted(set(names)):
        own = names == name
        found[name] = threshold
        if fraud[own].sum() < SMALL_GROUP or criterion == "one threshold":
            continue
        if criterion == "equal recall":
            found[name] = business.recall_threshold(fraud[own], score[own], max(recall, 1e-9))
        elif criterion == "equal false alarms":
            found[name] = float(np.quantile(score[own & (fraud == 0)], 1 - alarms))
        elif criterion == "equal alerts":
            found[name] = float(np.quantile(score[own], 1 - flagged.mean()))
        else:
            found[name] = economics.best_threshold(fraud[own], amount[own], score[own], settings)[0]
    return found


def price_criteria(
    frame: pd.DataFrame, score: np.ndarray, group: pd.Series, cuts: Mapping[str, Mapping[str, float]], settings: Any
) -> list[dict[str, Any]]:
    """Return what each criterion would have changed in the test weeks, against one threshold for all.

    Parameters
    ----------
    frame, score, group
        As in `GroupSums`.
    cuts
        Criterion -> group -> threshold; the first is the one that the others are compared with.
    settings
        With ``seed`` and the prices of `lifecycle.economics`.

    Returns
    -------
    list of dict
        One a criterion: ``thresholds``; ``savings``, ``missed`` (frauds) and ``declined`` (honest payments stopped),
        each a change with its interval clustered by customer; and the gaps ``recall_gap`` and
        ``false_alarm_gap`` that remain between groups that are not small.
    """
    sums, names = GroupSums(frame, score, group), _names(group)
    draws = draw_customers(sums.customers, settings.seed, RESAMPLES)
    fraud, amount = frame["is_fraud"].to_numpy(dtype=float), frame["amount"].to_numpy()
    total = fraud.astype(int) @ (sums.codes[:, None] == np.arange(len(sums.names)))
    solid = np.flatnonzero((total >= SMALL_GROUP) & (sums.victims >= FEW_VICTIMS))
    flags = {name: score >= pd.Series(names).map(cut).to_numpy(dtype=float) for name, cut in cuts.items()}
    base = next(iter(flags.values()))
    cost = economics.decision_costs(fraud, amount, base, settings)
    rows = []
    for name, flagged in flags.items():
        changes = {
            "savings": cost - economics.decision_costs(fraud, amount, flagged, settings),
            "missed": fraud * (base.astype(float) - flagged),
            "declined": (1 - fraud) * (flagged.astype(float) - base),
        }
        by_customer = {key: sums.add_up(change).sum(axis=1) for key, change in changes.items()}
        rates = sums.rates(flagged, np.ones((1, sums.customers)))
        rows.append({
            "criterion": name,
            "thresholds": {key: round(float(cut), 6) for key, cut in cuts[name].items()},
            **{key: describe_interval(float(one.sum()), draws @ one) for key, one in by_customer.items()},
            "recall_gap": _spread(rates["recall"][0, solid]),
            "false_alarm_gap": _spread(rates["false_alarm_rate"][0, solid]),
        })  # fmt: skip
    return rows


def _spread(values: np.ndarray) -> float | None:
    return round(float(values.max() - values.min()), 6) if len(values) > 1 else None


def judge_fairness(
    test: pd.DataFrame,
    score: np.ndarray,
    champion: str,
    threshold: float,
    inputs: Mapping[str, Path],
    transactions: pd.DataFrame,
    settings: Any,
) -> dict[str, Any]:
    """Return everything about groups that the report holds, on the payments whose label is known.

    Parameters
    ----------
    test, score
        The test set and the champion's score of each row.
    champion, threshold
        Its name, and the score from which it flags.
    inputs
        The folders of ``preprocessing``, ``training`` and ``tuning``.
    transactions
        All payments.
    settings
        With ``test_from``, ``seed`` and the prices.

    Returns
    -------
    dict
        ``slices``: attribute -> the rows of `judge_groups`. ``fairness``: ``gaps`` (attribute -> rate) and ``prices``
        (attribute -> the rows of `price_criteria`), with thresholds chosen on the validation weeks.
    """
    known = test["is_fraud"].notna().to_numpy()
    if not known.any():
        return {"slices": {}, "fairness": {"gaps": {}, "prices": {}}}
    frame = test[known].astype({"is_fraud": "int8"}).reset_index(drop=True)
    kept = score[known]
    folder, day = inputs["preprocessing"], settings.test_from
    past = _validation_scores(champion, inputs, transactions)
    groups = customer_groups(frame, folder, transactions, day)
    groups_then = customer_groups(past, folder, transactions, day)
    slices, gaps, prices = {}, {}, {}
    for name, group in groups.items():
        slices[name], gaps[name] = judge_groups(frame, kept, (kept >= threshold).astype(int), group, settings.seed)
        cuts = {
            criterion: dict.fromkeys(_names(group), threshold)
            | group_thresholds(criterion, past, past["score"].to_numpy(), groups_then[name], threshold, settings)
            for criterion in CRITERIA
        }
        prices[name] = price_criteria(frame, kept, group, cuts, settings)
    return {"slices": slices, "fairness": {"gaps": gaps, "prices": prices}}


def _validation_scores(champion: str, inputs: Mapping[str, Path], transactions: pd.DataFrame) -> pd.DataFrame:
    """Return the champion's scores of the validation weeks, with the customer of each payment."""
    found = pd.read_parquet(inputs["training"] / "out_of_fold.parquet")
    if champion in found.columns:
        found = found.rename(columns={champion: "score"})
    else:
        found = pd.read_parquet(inputs["tuning"] / "out_of_fold.parquet")
    owners = transactions[["transaction_id", "customer_id"]]
    return found[["transaction_id", "amount", "is_fraud", "score"]].merge(owners, on="transaction_id", how="left")
