"""The loop of the simulated bank: retrain after a page, compare afterwards, and see what other policies would do."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import contracts, features, files, training
from lifecycle.monitoring import live, policies, retraining, signals
from lifecycle.monitoring.alarms import Alarm, Rules, first_day
from lifecycle.monitoring.bank import Bank, learned_days
from lifecycle.monitoring.performance import DAY

RETRAIN_DAYS = 7
"""Days between two attempts to retrain, as long as pages about missed fraud go on."""

ORACLE_ROWS = 20_000
"""Honest payments that each of the oracle's weekly models learns from: enough for a bound, a third of the time."""

FLIPPED = 0.3


@dataclass(frozen=True)
class Served:
    """What the bank lived with in production: whatever model was in use, and what its chart of missed fraud said.

    Attributes
    ----------
    score, flagged
        The decisions about the payments of `Bank.scored`, shape (rows,).
    levels
        The chart's levels, one row a day, one column a group.
    paged
        The pages of the chart.
    """

    score: np.ndarray
    flagged: np.ndarray
    levels: pd.DataFrame
    paged: list[Alarm]


class Watch:
    """Follows the missed fraud of the model that serves, whichever it is.

    Parameters
    ----------
    bank
        The payments, with the champion's decisions at the time.
    rules
        The limits, with the chart.
    by
        The column whose groups have charts of their own; None for a single chart.
    """

    def __init__(self, bank: Bank, rules: Rules, by: str | None) -> None:
        self._bank, self._rules, self._by = bank, rules, by
        self._rows = pd.Index(bank.payments.frame["transaction_id"]).get_indexer(bank.scored["transaction_id"])
        self._volume = signals.volume(bank.scored, bank.days, bank.clean, by)

    def serve(self, in_use: retraining.InUse, promotions: Sequence[pd.Timestamp]) -> Served:
        """Return what production looks like with `in_use` serving from the first of its promotions on.

        Before it the champion decided, on what it saw at the time. At each promotion the chart begins anew, with the
        payments that the new model decides: late reports of what the model before let through are no evidence
        against the new one.
        """
        scored = self._bank.scored
        score, flagged = scored["score"].to_numpy().copy(), scored["flagged"].to_numpy(bool).copy()
        if promotions:
            later = (scored["event_time"] >= promotions[0]).to_numpy()
            score[later], flagged[later] = in_use.score[self._rows[later]], in_use.flagged[self._rows[later]]
        decided = scored.assign(flagged=flagged)
        levels = self._levels(decided, self._bank.days)
        for moment in promotions:
            days = self._bank.days[self._bank.days >= moment]
            levels.loc[days] = self._levels(decided[decided["event_time"] >= moment], days)
        pages = [alarm for day in levels.index for alarm in self._rules.check_chart(f"{day:%Y-%m-%d}", levels.loc[day])]
        return Served(score, flagged, levels, pages)

    def _levels(self, decided: pd.DataFrame, days: pd.DatetimeIndex) -> pd.DataFrame:
        missed, _ = signals.missed_reports(decided, self._bank.labels, days, self._by)
        return self._rules.chart.run(missed.reindex(columns=self._volume.columns, fill_value=0), self._volume)


def close_loop(settings: Any, inputs: Mapping[str, Path], bank: Bank, watch: Watch, out: Path) -> Served:
    """Retrain after the first page about missed fraud and every week while pages go on; compare afterwards.

    Each attempt is judged against the model in use at that moment, the champion at first. It learns from
    as many days as the champion did: with all days since the summer, what is new would drown in what is old.

    Writes ``retraining.json`` and ``policies.parquet``, and, if a challenger was promoted, ``challenger/`` and
    ``challenger_scores.parquet``. Returns what production looked like with the models that served.
    """
    until = bank.days[-1] + DAY - settings.label_delay_days * DAY
    fit, past = _recipe(settings, inputs, bank.names), _past(settings, bank)
    champion = retraining.InUse(bank.payments.champion, np.full(len(bank.payments.champion), bank.threshold))
    in_use, attempts, served = follow_pages(past, watch, champion, fit, until, settings)
    promoted = [attempt for attempt in attempts if attempt.model is not None]
    result: dict[str, Any] = {"trigger": first_day(served.paged, "missed_fraud")}
    result["attempts"] = [attempt.facts for attempt in attempts]
    result["promotions"] = [attempt.facts["moment"] for attempt in promoted]
    result["promoted_at"] = promoted[0].facts["moment"] if promoted else None
    result["after"] = result["poisoned"] = None
    if promoted:
        moment = pd.Timestamp(result["promoted_at"])
        last = promoted[-1]
        facts = {"name": "challenger", "threshold": last.threshold, "trained_until": last.facts["moment"][:10]}
        schema = features.load_schema(inputs["features"])
        training.save_model(last.model.estimator, schema, out / "challenger", **facts)
        result["after"] = _compare_after(settings, bank, in_use, moment, until, out)
        result["poisoned"] = _try_poison(settings, bank, past, moment, champion, fit, served.paged)
    few = _recipe(settings, inputs, bank.names, ORACLE_ROWS)
    result["policies"] = _compare_policies(settings, bank, past, (champion, in_use), (fit, few), until, out)
    files.write_json(result, out / "retraining.json")
    return served


def follow_pages(
    past: policies.Past,
    watch: Watch,
    champion: retraining.InUse,
    fit: retraining.Fit,
    until: pd.Timestamp,
    settings: Any,
) -> tuple[retraining.InUse, list[retraining.Attempt], Served]:
    """Retrain while pages come, let the chart follow what serves, and return what was in use, tried and seen.

    The model in use after a promotion misses other fraud than the champion did, so its pages are other ones too: the
    next attempt answers to them.
    """
    promotions: list[pd.Timestamp] = []
    served, seen = watch.serve(champion, promotions), champion

    def next_moment(in_use: retraining.InUse, last: pd.Timestamp | None) -> pd.Timestamp | None:
        nonlocal served, seen
        if in_use is not seen:  # the last attempt was promoted
            promotions.append(last)
            served, seen = watch.serve(in_use, promotions), in_use
        return _moment_after(last, served.paged, until)

    in_use, attempts = policies.follow(past, next_moment, champion, fit, settings)
    return in_use, attempts, served


def _past(settings: Any, bank: Bank) -> policies.Past:
    wrong = bank.received.loc[bank.received["corrected"], "transaction_id"]
    return policies.Past(
        bank.payments,
        bank.labels,
        learned_days(settings),
        bank.payments.frame["transaction_id"].isin(wrong).to_numpy(),
        live.correction_midnight(bank.received),
    )


def _moment_after(last: pd.Timestamp | None, paged: list[Alarm], until: pd.Timestamp) -> pd.Timestamp | None:
    """Return the next midnight at which to retrain: after the first page, then each week in which a page came."""
    days = sorted(contracts.midnight(alarm.day) + DAY for alarm in paged)
    if last is None:
        return next((day for day in days if day < until), None)
    for moment in pd.date_range(last + RETRAIN_DAYS * DAY, until, freq=RETRAIN_DAYS * DAY, inclusive="left"):
        if any(moment - RETRAIN_DAYS * DAY < day <= moment for day in days):
            return moment
    return None


@dataclass(frozen=True)
class _Fitted:
    estimator: Any

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        return training.score_rows(self.estimator, matrix)  # on one thread: the other core belongs to the replay


def _recipe(
    settings: Any, inputs: Mapping[str, Path], names: list[str], honest_rows: int | None = None
) -> retraining.Fit:
    """Return the champion's recipe: its kind of model and its hyperparameters, to be fitted to new rows."""
    from lifecycle import tuning

    card = files.read_json(inputs["deployment"] / "model" / "model.json")
    tuned = card["name"] == tuning.NAME
    kind = "gradient_boosting" if tuned else card["name"]
    params = card.get("params") or training.PARAMS[kind]
    rows = honest_rows or (tuning.FINAL_ROWS if tuned else training.HONEST_ROWS)

    def fit(matrix: np.ndarray, is_fraud: np.ndarray) -> _Fitted:
        return _Fitted(training.fit_model(kind, matrix, is_fraud, names, settings.seed, rows, **params))

    return fit


def _compare_after(
    settings: Any,
    bank: Bank,
    in_use: retraining.InUse,
    moment: pd.Timestamp,
    until: pd.Timestamp,
    out: Path,
) -> dict[str, Any]:
    """Compare the retrained models with the champion on the days after the first promotion.

    The verdict is by all labels in the history, on the payments that had time to mature.
    """
    after = bank.payments.between(moment, bank.days[-1] + DAY)
    champion = bank.payments.champion
    table = bank.payments.frame.loc[after, ["transaction_id", "event_time"]].assign(
        champion=champion[after],
        champion_flagged=champion[after] >= bank.threshold,
        challenger=in_use.score[after],
        challenger_flagged=in_use.flagged[after],
    )
    files.write_parquet(table, out / "challenger_scores.parquet")
    label = retraining.known_labels(bank.payments.frame, bank.labels, bank.days[-1] + DAY)
    judged = bank.payments.between(moment, until) & ~np.isnan(label)
    made = retraining.compare(
        bank.payments.frame[judged],
        label[judged],
        (champion[judged], champion[judged] >= bank.threshold),
        (in_use.score[judged], in_use.flagged[judged]),
        settings,
    )
    return {"from": moment.isoformat(), "until": until.isoformat(), **made}


def _try_poison(
    settings: Any,
    bank: Bank,
    past: policies.Past,
    moment: pd.Timestamp,
    champion: retraining.InUse,
    fit: retraining.Fit,
    paged: list[Alarm],
) -> dict[str, Any]:
    """Put challengers that learned from poisoned labels through the gate that the first promoted one passed."""
    poisons = {"labels flipped": policies.flipped(fit, FLIPPED, settings.seed)}
    groups = {alarm.signal.partition(":")[2] for alarm in paged if alarm.day < f"{moment:%Y-%m-%d}"}
    words = list(bank.vocabularies.get("merchant_category", []))
    codes = [float(words.index(group)) for group in sorted(groups) if group in words]
    if codes:
        column = bank.names.index("merchant_category_code")
        poisons["new fraud reported as honest"] = policies.hidden(fit, column, codes)
    made = {}
    for name, poisoned in poisons.items():
        facts = past.retrain(moment, champion, poisoned, settings).facts
        made[name] = {"promoted": facts["promoted"], **facts["gate"]["gain_money_per_day"]}
    return {"moment": moment.isoformat(), "share_flipped": FLIPPED, "challengers": made}


def _compare_policies(
    settings: Any,
    bank: Bank,
    past: policies.Past,
    used: tuple[retraining.InUse, retraining.InUse],
    recipes: tuple[retraining.Fit, retraining.Fit],
    until: pd.Timestamp,
    out: Path,
) -> dict[str, Any]:
    """Compare four policies from deployment to the last day whose labels are in; write ``policies.parquet``."""
    champion, triggered = used
    monthly, attempts = policies.follow(
        past,
        policies.by_calendar(policies.calendar(bank.days[0], until, policies.MONTH)),
        champion,
        recipes[0],
        settings,
    )
    weekly = policies.calendar(bank.days[0], until, policies.WEEK)
    oracle = policies.follow_oracle(past, weekly, champion, recipes[1], settings)
    truth = retraining.known_labels(bank.payments.frame, bank.labels, bank.days[-1] + DAY)
    judged = bank.payments.between(bank.days[0], until) & ~np.isnan(truth)
    everyone = {"never": champion, "monthly": monthly, "triggered": triggered, "oracle": oracle}
    flagged = {name: in_use.flagged[judged] for name, in_use in everyone.items()}
    made, weeks = policies.compare_policies(bank.payments.frame[judged], truth[judged], flagged, settings)
    files.write_parquet(weeks, out / "policies.parquet")
    moments = [attempt.facts["moment"] for attempt in attempts if attempt.model is not None]
    return {"until": until.isoformat(), "monthly_promoted": moments, "compared": made}
