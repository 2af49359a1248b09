"""The monitoring of the simulated bank's production, from deployment to the last day of the data.

Order of work: baseline and limits from clean days before deployment; replay of a share of the
customers through the service, with data capture; statistics, violations and signals of each day;
alarms; retraining. What a day's alarm may use is what was known at the midnight after it.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import contracts, features, files, training
from lifecycle.monitoring import live, replay, report, retraining, signals
from lifecycle.monitoring.alarms import Alarm, Rules, first_day
from lifecycle.monitoring.capture import preprocess, read_capture
from lifecycle.monitoring.constraints import suggest
from lifecycle.monitoring.performance import DAY, performance_by_day
from lifecycle.monitoring.statistics import describe

NOTE_DAYS, PAGE_DAYS = 90, 365
"""Accepted days between two false notes, and between two false pages of the missed-fraud chart."""

RETRAIN_DAYS = 7
"""Days between two attempts to retrain, as long as pages about missed fraud go on."""


@dataclass(frozen=True)
class Bank:
    """What the stage works on.

    Attributes
    ----------
    received
        All payments as first received, with ``corrected``.
    payments
        Payments as corrected, with features and the champion's scores.
    scored
        Payments since `train_until` as the champion decided them at the time: score, flagged.
    labels
        The label history.
    threshold
        The champion's.
    names
        The feature names.
    vocabularies
        The values of each attribute that the model knows.
    clean, days
        The clean days before deployment, and the days of production.
    """

    received: pd.DataFrame
    payments: retraining.Payments
    scored: pd.DataFrame
    labels: pd.DataFrame
    threshold: float
    names: list[str]
    vocabularies: Mapping[str, list[str]]
    clean: pd.DatetimeIndex
    days: pd.DatetimeIndex


@dataclass(frozen=True)
class Baseline:
    """What each captured day is compared with: the two files, and the reference of the signals."""

    statistics: dict[str, Any]
    constraints: dict[str, Any]
    signals: signals.SignalReference


def run(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Build the artifact of the monitoring stage.

    Writes ``baseline/``, ``captured/``, ``reports/<day>/``, ``daily.parquet``, ``drift.parquet``,
    ``charts.parquet``, ``requests.parquet``, ``scored.parquet``, ``alarms.json``, ``retraining.json``,
    and, if a challenger was promoted, ``challenger/`` and ``challenger_scores.parquet``.

    Parameters
    ----------
    settings
        Knobs: the calendar, seed, capture_share, the prices.
    inputs
        Folders of collection, preprocessing, features, evaluation, deployment and tuning.
    out
        An empty folder.
    """
    with tempfile.TemporaryDirectory(prefix="monitoring-") as scratch:
        received, tables = _read(inputs)
        snapshots = live.write_live_features(
            inputs["features"], received, tables, contracts.midnight(settings.deploy_at), Path(scratch) / "live"
        )
        sample = live.sample_customers(received["customer_id"], settings.capture_share, settings.seed)
        # Scoring is what needs the most memory: the service and the replay come after it, not beside it.
        bank = _score(settings, inputs, received, tables["labels"], snapshots)
        process = _begin_replay(settings, inputs, received, sample, snapshots, Path(scratch), out)
        del received, tables
        try:
            files.write_parquet(bank.scored, out / "scored.parquet")
            reference, clean = _baseline(bank, sample, out)
            rules, charts = _calibrate(settings, bank, reference.signals, clean)
            files.write_parquet(charts.rename_axis("day").reset_index(), out / "charts.parquet")
            paged = [a for day in bank.days for a in rules.check_chart(f"{day:%Y-%m-%d}", charts.loc[day])]
            _retrain(settings, inputs, bank, paged, out)
            requests = replay.finish(process, Path(scratch) / "requests.parquet")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        files.write_parquet(requests, out / "requests.parquet")
        _report(bank, reference, rules, charts, requests, paged, out)


def _read(inputs: Mapping[str, Path]) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Return the payments as first received, and the other tables that the features are made of."""
    # As collected, not as cleaned: the service gets what the gateway sends, missing categories included.
    transactions = pd.read_parquet(inputs["collection"] / "transactions.parquet")
    superseded = pd.read_parquet(inputs["collection"] / "superseded.parquet", columns=["transaction_id", "amount"])
    names = ("labels", "customers", "terminals")
    paths = {name: inputs["preprocessing"] / f"{name}.parquet" for name in names}
    tables = {name: pd.read_parquet(path) if path.exists() else None for name, path in paths.items()}
    kept = ["transaction_id", "event_time", "customer_id", "terminal_id", "amount"]
    kept += features.attribute_columns(features.load_schema(inputs["features"]))
    return live.as_received(transactions[kept], superseded), tables


def _begin_replay(
    settings: Any,
    inputs: Mapping[str, Path],
    received: pd.DataFrame,
    sample: np.ndarray,
    snapshots: Path,
    scratch: Path,
    out: Path,
) -> Any:
    package = scratch / "package"
    shutil.copytree(inputs["deployment"] / "model", package)
    in_production = received["event_time"] >= contracts.midnight(settings.deploy_at)
    sent = received[in_production & received["customer_id"].isin(sample)]
    files.write_parquet(sent.sort_values(["event_time", "transaction_id"]), scratch / "sent.parquet")
    (out / "captured").mkdir()
    return replay.start(package, snapshots, scratch / "sent.parquet", out / "captured", scratch / "requests.parquet")


def _score(
    settings: Any, inputs: Mapping[str, Path], received: pd.DataFrame, labels: pd.DataFrame, snapshots: Path
) -> Bank:
    """Score the payments, with corrected history and as the champion saw them.

    They reach back as far as the first retraining may look, or to the end of the champion's training.
    """
    schema = features.load_schema(inputs["features"])
    names = features.feature_names(schema)
    model = training.load_model(inputs["deployment"] / "model", threads=1)
    corrected = pd.read_parquet(inputs["collection"] / "transactions.parquet", columns=["amount"])
    since = contracts.midnight(settings.deploy_at) - _learned_days(settings)
    seen = received["event_time"] >= min(since, contracts.midnight(settings.train_until))
    events = received.assign(amount=corrected["amount"].to_numpy())[seen].reset_index(drop=True)
    seen = received[seen].reset_index(drop=True)
    frame = features.assemble(features.open_store(inputs["features"]), events)
    matrix = frame[names].to_numpy("float32")
    frame = frame[["transaction_id", "event_time", "customer_id", "amount"]]
    score = model.predict(matrix)
    at_the_time = _rescored(model, names, seen, score, snapshots)
    scored = seen.drop(columns=list(schema["texts"])).assign(score=at_the_time, flagged=at_the_time >= model.threshold)
    scored = scored[scored["event_time"] >= contracts.midnight(settings.train_until)].reset_index(drop=True)
    start = contracts.midnight(settings.deploy_at)
    return Bank(
        received=received,
        payments=retraining.Payments(frame, matrix, score),
        scored=scored,
        labels=labels,
        threshold=model.threshold,
        names=names,
        vocabularies=schema["categories"],
        clean=pd.date_range(contracts.midnight(settings.test_from), start - DAY),
        days=pd.date_range(start, received["event_time"].max().floor("D")),
    )


def _rescored(model: Any, names: list[str], seen: pd.DataFrame, score: np.ndarray, snapshots: Path) -> np.ndarray:
    """Return the scores as the champion gave them: those of the days with wrong records are computed anew."""
    right_again = live.correction_midnight(seen)
    if right_again is None:
        return score
    since = seen.loc[seen["corrected"], "event_time"].min().floor("D")
    window = seen["event_time"].between(since, right_again + DAY, inclusive="left").to_numpy()
    then = features.assemble(features.open_store(snapshots), seen[window].drop(columns="corrected"))
    score = score.copy()
    score[window] = model.predict(then[names].to_numpy("float32"))
    return score


def _baseline(bank: Bank, sample: np.ndarray, out: Path) -> tuple[Baseline, pd.DataFrame]:
    """Write the baseline of the sampled customers' clean payments; return it and the payments."""
    scored = bank.scored
    clean = scored[scored["customer_id"].isin(sample) & scored["event_time"].dt.floor("D").isin(bank.clean)]
    monitored = preprocess(_as_captured(clean))
    statistics = describe(monitored)
    constraints = suggest(statistics)
    # What is suggested is the average completeness, which half of all days fall below by chance alone.
    # A person edits that: the lowest share of any clean day is still in order.
    day = clean["event_time"].dt.floor("D")
    for feature in constraints["features"]:
        feature["completeness"] = float(monitored[feature["name"]].notna().groupby(day.to_numpy()).mean().min())
    files.write_json(statistics, out / "baseline" / "statistics.json")
    files.write_json(constraints, out / "baseline" / "constraints.json")
    reference = signals.SignalReference(_with_hour(clean), dict(bank.vocabularies))
    return Baseline(statistics, constraints, reference), clean


def _as_captured(scored: pd.DataFrame) -> pd.DataFrame:
    """Return scored payments with the columns that a captured call has."""
    from lifecycle.deployment.scorer import APPROVE, REVIEW

    return scored.assign(decision=np.where(scored["flagged"], REVIEW, APPROVE)).drop(columns=["flagged", "corrected"])


def _with_hour(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(hour=frame["event_time"].dt.hour)


def _calibrate(
    settings: Any, bank: Bank, reference: signals.SignalReference, clean: pd.DataFrame
) -> tuple[Rules, pd.DataFrame]:
    """Fit the rules on the clean days, and run the chart of missed fraud over production."""
    daily, _ = signals.by_day(reference, _with_hour(clean), bank.clean)
    by = "merchant_category" if "merchant_category" in bank.scored.columns else None
    # Reports are complete only once the scored payments reach back as far as a fresh report may.
    arrivals = bank.clean[bank.clean >= bank.scored["event_time"].min() + signals.FRESH_DAYS * DAY]
    missed_clean, _ = signals.missed_reports(bank.scored, bank.labels, arrivals, by)
    missed, _ = signals.missed_reports(bank.scored, bank.labels, bank.days, by)
    rules = Rules.fit(daily, missed_clean, NOTE_DAYS, PAGE_DAYS, settings.seed)
    return rules, rules.chart.run(missed, signals.volume(bank.scored, bank.days, bank.clean, by))


def _retrain(settings: Any, inputs: Mapping[str, Path], bank: Bank, paged: list[Alarm], out: Path) -> None:
    """Retrain after the first page about missed fraud and every week while pages go on; compare afterwards.

    Each attempt is judged against the model in use at that moment, the champion at first. It learns from
    as many days as the champion did: with all days since the summer, what is new would drown in what is old.
    """
    trigger = first_day(paged, "missed_fraud")
    matured_until = bank.days[-1] + DAY - settings.label_delay_days * DAY
    fit = _recipe(settings, inputs, bank.names)
    in_use = retraining.InUse(bank.payments.champion.copy(), np.full(len(bank.payments.champion), bank.threshold))
    attempts, schema = [], features.load_schema(inputs["features"])
    for moment in _moments(trigger, paged, matured_until):
        wrong = _still_wrong(bank, moment)
        start = moment - _learned_days(settings)
        attempt = retraining.retrain(bank.payments, bank.labels, moment, start, in_use, fit, settings, wrong)
        attempts.append(attempt.facts)
        if attempt.model is not None:
            in_use = in_use.replaced(attempt, bank.payments, moment)
            facts = {"name": "challenger", "threshold": attempt.threshold, "trained_until": f"{moment:%Y-%m-%d}"}
            training.save_model(attempt.model.estimator, schema, out / "challenger", **facts)
    promoted = [facts["moment"] for facts in attempts if facts["promoted"]]
    after = _compare_after(settings, bank, in_use, pd.Timestamp(promoted[0]), matured_until, out) if promoted else None
    result = {"trigger": trigger, "attempts": attempts, "promoted_at": next(iter(promoted), None), "after": after}
    files.write_json(result, out / "retraining.json")


def _learned_days(settings: Any) -> pd.Timedelta:
    """Return how long before its labels were read the champion's training began."""
    return pd.Timedelta(settings.test_from - settings.train_from)


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


def _still_wrong(bank: Bank, moment: pd.Timestamp) -> np.ndarray | None:
    """Return which rows hold values that are known to be wrong and were not corrected by `moment`."""
    right_again = live.correction_midnight(bank.received)
    if right_again is None or right_again <= moment:
        return None
    wrong = bank.received.loc[bank.received["corrected"], "transaction_id"]
    return bank.payments.frame["transaction_id"].isin(wrong).to_numpy()


@dataclass(frozen=True)
class _Fitted:
    estimator: Any

    def predict(self, matrix: np.ndarray) -> np.ndarray:
        return self.estimator.predict_proba(matrix)[:, 1]


def _recipe(settings: Any, inputs: Mapping[str, Path], names: list[str]) -> retraining.Fit:
    """Return the champion's recipe: its kind of model and its hyperparameters, to be fitted to new rows."""
    from lifecycle import tuning

    card = files.read_json(inputs["deployment"] / "model" / "model.json")
    tuned = card["name"] == tuning.NAME
    kind = "gradient_boosting" if tuned else card["name"]
    params = card.get("params") or training.PARAMS[kind]
    honest_rows = tuning.FINAL_ROWS if tuned else training.HONEST_ROWS

    def fit(matrix: np.ndarray, is_fraud: np.ndarray) -> _Fitted:
        return _Fitted(training.fit_model(kind, matrix, is_fraud, names, settings.seed, honest_rows, **params))

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


def _report(
    bank: Bank,
    reference: Baseline,
    rules: Rules,
    charts: pd.DataFrame,
    requests: pd.DataFrame,
    paged: list[Alarm],
    out: Path,
) -> None:
    """Read the capture, write each day's files, and put all signals and alarms together."""
    captured = _captured(out / "captured", bank.threshold)
    groups = dict(list(captured.groupby(captured["event_time"].dt.floor("D"))))
    counts = {}
    for day in bank.days:
        folder = out / "reports" / f"{day:%Y-%m-%d}"
        if day in groups:
            monitored = preprocess(groups[day].drop(columns=["flagged"]))
            found = report(monitored, reference.statistics, reference.constraints, folder)
            counts[day] = len(found["violations"])
    daily, distances = signals.by_day(reference.signals, _with_hour(captured), bank.days)
    files.write_parquet(distances, out / "drift.parquet")
    table = daily.join(_service(requests)).join(_performance(bank))
    table.insert(1, "violations", pd.Series(counts))
    table["missed_fraud_level"] = charts.max(axis=1)
    table["missed_fraud_group"] = charts.idxmax(axis=1)
    table["live_batch_difference"] = _difference(captured, bank.scored)
    files.write_parquet(table.rename_axis("day").reset_index(), out / "daily.parquet")
    alarms = [a for day in bank.days for a in rules.check_signals(f"{day:%Y-%m-%d}", daily.loc[day])]
    alarms += [
        Alarm(f"{day:%Y-%m-%d}", "errors", "page", float(row["errors"]), 0.0, "The service refused or failed requests.")
        for day, row in table.iterrows()
        if row["errors"] > 0
    ]
    alarms = sorted([*alarms, *paged], key=lambda alarm: (alarm.day, alarm.signal))
    content = {
        "note_days": NOTE_DAYS,
        "page_days": PAGE_DAYS,
        "clean_from": f"{bank.clean[0]:%Y-%m-%d}",
        "clean_until": f"{bank.clean[-1] + DAY:%Y-%m-%d}",
        "limits": {**rules.limits, "missed_fraud": rules.chart.limit},
        "usual": rules.usual,
        "expected_missed_per_day": rules.chart.expected.to_dict(),
        "alarms": [alarm.as_dict() for alarm in alarms],
    }
    files.write_json(content, out / "alarms.json")


def _captured(folder: Path, threshold: float) -> pd.DataFrame:
    captured = read_capture(folder)
    times = pd.to_datetime(captured["event_time"], utc=True, format="ISO8601").astype(contracts.UTC)
    return captured.assign(event_time=times, flagged=captured["score"] >= threshold)


def _service(requests: pd.DataFrame) -> pd.DataFrame:
    """Return requests, errors and latency (milliseconds a payment, within a request of many) of each day."""
    each = requests["milliseconds"] / requests["records"]
    groups = requests.assign(each=each, failed=requests["status"] != 200).groupby("day")
    return pd.DataFrame(
        {
            "requests": groups.size(),
            "errors": groups["failed"].sum(),
            "latency_p50_ms": groups["each"].median(),
            "latency_p99_ms": groups["each"].quantile(0.99),
        }
    )


def _performance(bank: Bank) -> pd.DataFrame:
    """Return the realized performance of each day: as known a week later, and with all labels in the history."""
    production = bank.scored[bank.scored["event_time"] >= bank.days[0]]
    end = bank.days[-1] + DAY
    parts = []
    for name, after in (("week", 7), ("matured", None)):
        part = performance_by_day(production, bank.labels, after, until=end).set_index("day")
        kept = part[["known_share", "frauds", "alerts", "caught", "precision", "recall", "average_precision"]]
        parts.append(kept.add_suffix(f"_{name}"))
    missed, caught = signals.missed_reports(bank.scored, bank.labels, bank.days, None)
    parts.append(pd.DataFrame({"reports": (missed + caught).sum(axis=1), "missed_reports": missed.sum(axis=1)}))
    parts.append(signals.recall_of_reports(missed, caught).rename("recall_of_reports").to_frame())
    return pd.concat(parts, axis=1)


def _difference(captured: pd.DataFrame, scored: pd.DataFrame) -> pd.Series:
    """Return the share of captured payments whose decision differs from that of the batch job, by day.

    The replay sends a share of the customers, so the service counts fewer payments at a terminal in the
    last hour than the bank does. This says how much that matters.
    """
    both = captured[["transaction_id", "event_time", "flagged"]].merge(
        scored[["transaction_id", "flagged"]], on="transaction_id", suffixes=("", "_batch")
    )
    different = both["flagged"] != both["flagged_batch"]
    return different.groupby(both["event_time"].dt.floor("D")).mean()
