"""The loop of the simulated bank: retrain after a page, compare afterwards, and see what other policies would do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from lifecycle import contracts, features, files, training
from lifecycle.monitoring import live, policies, retraining
from lifecycle.monitoring.alarms import Alarm, first_day
from lifecycle.monitoring.bank import Bank, learned_days
from lifecycle.monitoring.performance import DAY

RETRAIN_DAYS = 7
"""Days between two attempts to retrain, as long as pages about missed fraud go on."""

ORACLE_ROWS = 20_000
"""Honest payments that each of the oracle's weekly models learns from: enough for a bound, a third of the time."""

FLIPPED = 0.3


def close_loop(settings: Any, inputs: Mapping[str, Path], bank: Bank, paged: list[Alarm], out: Path) -> None:
    """Retrain after the first page about missed fraud and every week while pages go on; compare afterwards.

    Each attempt is judged against the model in use at that moment, the champion at first. It learns from
    as many days as the champion did: with all days since the summer, what is new would drown in what is old.

    Writes ``retraining.json`` and ``policies.parquet``, and, if a challenger was promoted, ``challenger/`` and
    ``challenger_scores.parquet``.
    """
    trigger = first_day(paged, "missed_fraud")
    until = bank.days[-1] + DAY - settings.label_delay_days * DAY
    fit, past = _recipe(settings, inputs, bank.names), _past(settings, bank)
    champion = retraining.InUse(bank.payments.champion, np.full(len(bank.payments.champion), bank.threshold))
    in_use, attempts = policies.follow(past, _moments(trigger, paged, until), champion, fit, settings)
    promoted = [attempt for attempt in attempts if attempt.model is not None]
    result: dict[str, Any] = {"trigger": trigger, "attempts": [attempt.facts for attempt in attempts]}
    result["promoted_at"] = promoted[0].facts["moment"] if promoted else None
    result["after"] = result["poisoned"] = None
    if promoted:
        moment = pd.Timestamp(result["promoted_at"])
        last = promoted[-1]
        facts = {"name": "challenger", "threshold": last.threshold, "trained_until": last.facts["moment"][:10]}
        schema = features.load_schema(inputs["features"])
        training.save_model(last.model.estimator, schema, out / "challenger", **facts)
        result["after"] = _compare_after(settings, bank, in_use, moment, until, out)
        result["poisoned"] = _try_poison(settings, bank, past, moment, champion, fit, paged)
    few = _recipe(settings, inputs, bank.names, ORACLE_ROWS)
    result["policies"] = _compare_policies(settings, bank, past, (champion, in_use), (fit, few), until, out)
    files.write_json(result, out / "retraining.json")


def _past(settings: Any, bank: Bank) -> policies.Past:
    wrong = bank.received.loc[bank.received["corrected"], "transaction_id"]
    return policies.Past(
        bank.payments,
        bank.labels,
        learned_days(settings),
        bank.payments.frame["transaction_id"].isin(wrong).to_numpy(),
        live.correction_midnight(bank.received),
    )


def _moments(trigger: str | None, paged: list[Alarm], until: pd.Timestamp) -> list[pd.Timestamp]:
    """Return the midnights at which to retrain: after the first page, then weekly if a page came since."""
    if trigger is None:
        return []
    days = {contracts.midnight(alarm.day) + DAY for alarm in paged}
    found, moment = [], contracts.midnight(trigger) + DAY
    while moment < until:
        if any(moment - RETRAIN_DAYS * DAY < day <= moment for day in days):
            found.append(moment)
        moment += RETRAIN_DAYS * DAY
    return found


@dataclass(frozen=True)
class _Fitted:
    estimator: Any

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        with threadpool_limits(1, user_api="openmp"):  # the other core belongs to the replay
            return self.estimator.predict_proba(matrix)[:, 1]


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
        past, policies.calendar(bank.days[0], until, policies.MONTH), champion, recipes[0], settings
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
