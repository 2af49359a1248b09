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

from lifecycle import contracts, files, training
from lifecycle.monitoring import bank as seen
from lifecycle.monitoring import estimate, lab, live, loop, quality, replay, report, retraining, signals
from lifecycle.monitoring.alarms import Alarm, Rules
from lifecycle.monitoring.bank import Bank
from lifecycle.monitoring.capture import preprocess, read_capture
from lifecycle.monitoring.constraints import suggest
from lifecycle.monitoring.performance import DAY, performance_by_day
from lifecycle.monitoring.statistics import describe

NOTE_DAYS, PAGE_DAYS = 90, 365
"""Accepted days between two false notes, and between two false pages of the missed-fraud chart."""

FRESH_HOURS = 24.0
"""Daily features are made at midnight: older ones than this belong to an earlier day."""

SERVICE_RULES = {
    "errors": "The service refused or failed requests.",
    "feature_age_hours": "The nightly refresh of the online features did not come.",
    "latency_p99_ms": "One decision in a hundred came later than the bank waits: those payments were approved unseen.",
}
"""Pages about the service itself: a column of ``daily.parquet`` and what it means."""

LABEL_JOB = pd.Timedelta(hours=23)
"""The labels of a day are collected in its last hour."""


@dataclass(frozen=True)
class Baseline:
    """What each captured day is compared with: the two files, and the reference of the signals."""

    statistics: dict[str, Any]
    constraints: dict[str, Any]
    signals: signals.SignalReference


def run(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Build the artifact of the monitoring stage.

    Writes ``baseline/``, ``captured/``, ``reports/<day>/``, ``daily.parquet``, ``drift.parquet``,
    ``charts.parquet``, ``requests.parquet``, ``scored.parquet``, ``alarms.json``, ``estimated.parquet``,
    ``lab_power.parquet``, ``lab_false_alarms.parquet``, ``ground_truth/``, ``baseline/quality/``,
    ``quality/<week>/``, and what `loop.close_loop` writes.

    The replayed customers stay with the champion's service to the end, and ``score`` and ``flagged`` in
    ``scored.parquet`` are the champion's. After a promotion the bank as a whole is served by the new model:
    ``served_score`` and ``served_flagged``, and from them the chart of missed fraud and the realized performance.

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
        received, tables = seen.read(inputs)
        snapshots = live.write_live_features(
            inputs["features"], received, tables, contracts.midnight(settings.deploy_at), Path(scratch) / "live"
        )
        sample = live.sample_customers(received["customer_id"], settings.capture_share, settings.seed)
        # Scoring is what needs the most memory: the service and the replay come after it, not beside it.
        bank = seen.score_payments(settings, inputs, received, tables["labels"], snapshots)
        process = _begin_replay(settings, inputs, received, sample, snapshots, Path(scratch), out)
        del received, tables
        try:
            reference, clean = _baseline(bank, sample, out)
            rules, watch = _calibrate(settings, bank, reference.signals, clean)
            served = loop.close_loop(settings, inputs, bank, watch, out)
            table = bank.scored.assign(served_score=served.score, served_flagged=served.flagged)
            files.write_parquet(table, out / "scored.parquet")
            files.write_parquet(served.levels.rename_axis("day").reset_index(), out / "charts.parquet")
            requests = replay.finish(process, Path(scratch) / "requests.parquet")
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
        files.write_parquet(requests, out / "requests.parquet")
        # The drift lab takes half a gigabyte, as much as the service and the replay that have just ended.
        _estimate(settings, inputs, bank, out)
        captured = _captured(out / "captured", bank.threshold)
        _judge_quality(settings, bank, clean, captured, out)
        _report(settings, bank, reference, rules, served, captured, requests, out)


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
) -> tuple[Rules, loop.Watch]:
    """Fit the rules on the clean days, and make the watch over the missed fraud of production."""
    daily, _ = signals.by_day(reference, _with_hour(clean), bank.clean)
    by = "merchant_category" if "merchant_category" in bank.scored.columns else None
    # Reports are complete only once the scored payments reach back as far as a fresh report may.
    arrivals = bank.clean[bank.clean >= bank.scored["event_time"].min() + signals.FRESH_DAYS * DAY]
    missed_clean, _ = signals.missed_reports(bank.scored, bank.labels, arrivals, by)
    rules = Rules.fit(daily, missed_clean, NOTE_DAYS, PAGE_DAYS, settings.seed)
    return rules, loop.Watch(bank, rules, by)


def _estimate(settings: Any, inputs: Mapping[str, Path], bank: Bank, out: Path) -> None:
    """Estimate each week's performance without its labels, and try all detectors in the drift lab."""
    start = bank.days[0]
    frame = bank.scored[(bank.scored["event_time"] >= bank.clean[0]) & (bank.scored["event_time"] < start)]
    frame = frame.reset_index(drop=True)
    known = retraining.known_labels(frame, bank.labels, start)
    labeled = ~np.isnan(known)
    calibrator = estimate.Calibrator(known[labeled], frame["score"].to_numpy()[labeled])
    weeks = (len(bank.days) - settings.label_delay_days) // 7  # those whose labels are in
    live_days = bank.scored[bank.scored["event_time"].between(start, start + 7 * weeks * DAY, inclusive="left")]
    truth = retraining.known_labels(live_days, bank.labels, bank.days[-1] + DAY)
    files.write_parquet(estimate.by_week(live_days, truth, calibrator, start), out / "estimated.parquet")
    if len(bank.clean) < lab.LEAST_DAYS:
        return
    rows = pd.Index(bank.payments.frame["transaction_id"]).get_indexer(frame["transaction_id"])
    bench = lab.Bench(
        lab.make_pool(frame, bank.payments.matrix[rows], bank.labels, bank.clean[0]),
        (frame["channel"].astype(str) == "online").to_numpy(),
        ~bank.clean.isin(bank.holidays),
        bank.names,
        [name for name in bank.request_names if name not in lab.NOT_COMPARED],
        training.load_model(inputs["deployment"] / "model", threads=1),
        bank.threshold,
    )
    false_alarms, power = lab.run(bench, calibrator, settings.seed)
    files.write_parquet(false_alarms, out / "lab_false_alarms.parquet")
    files.write_parquet(power, out / "lab_power.parquet")


def _judge_quality(settings: Any, bank: Bank, clean: pd.DataFrame, captured: pd.DataFrame, out: Path) -> None:
    """Write the ground truth of the sampled customers, and what a model-quality job makes of each captured week.

    A week is judged `label_delay_days` after its end, by the labels collected until then; so are the clean weeks
    that set the constraints, of which only those count that were known before deployment.
    """
    sampled = pd.concat([clean["transaction_id"], captured["transaction_id"]])
    labels = bank.labels[bank.labels["transaction_id"].isin(sampled)].sort_values("known_at", kind="stable")
    collected = labels["known_at"].dt.floor("D") + LABEL_JOB
    quality.write_ground_truth(labels.assign(known_at=collected), out / "ground_truth")
    truth = quality.read_ground_truth(out / "ground_truth")
    wait = pd.Timedelta(days=settings.label_delay_days)

    def weeks(payments: pd.DataFrame, days: pd.DatetimeIndex, until: pd.Timestamp) -> dict[pd.Timestamp, pd.DataFrame]:
        made = {}
        for start in days[::7]:
            end = start + 7 * DAY
            if end + wait <= until:
                week = payments[payments["event_time"].between(start, end, inclusive="left")]
                made[start] = quality.merge(week, truth, end + wait)
        return {start: week for start, week in made.items() if len(week)}

    usual = weeks(clean, bank.clean, bank.days[0])
    if not usual:
        return
    statistics = quality.describe_quality(pd.concat(usual.values()))
    constraints = quality.suggest_quality(*map(quality.describe_quality, usual.values()))
    files.write_json(statistics, out / "baseline" / "quality" / "statistics.json")
    files.write_json(constraints, out / "baseline" / "quality" / "constraints.json")
    for start, week in weeks(captured, bank.days, bank.days[-1] + DAY).items():
        quality.write_report(*quality.assess_quality(week, constraints), out / "quality" / f"{start:%Y-%m-%d}")


def _report(
    settings: Any,
    bank: Bank,
    reference: Baseline,
    rules: Rules,
    served: loop.Served,
    captured: pd.DataFrame,
    requests: pd.DataFrame,
    out: Path,
) -> None:
    """Write each captured day's files, and put all signals and alarms together."""
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
    table = daily.join(_service(requests)).join(_performance(bank, served))
    table.insert(1, "violations", pd.Series(counts))
    table["missed_fraud_level"] = served.levels.max(axis=1)
    table["missed_fraud_group"] = served.levels.idxmax(axis=1)
    table["live_batch_difference"] = _difference(captured, bank.scored)
    files.write_parquet(table.rename_axis("day").reset_index(), out / "daily.parquet")
    alarms = [a for day in bank.days for a in rules.check_signals(f"{day:%Y-%m-%d}", daily.loc[day])]
    alarms += service_alarms(table, settings.decision_timeout)
    alarms = sorted([*alarms, *served.paged], key=lambda alarm: (alarm.day, alarm.signal))
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


def service_alarms(daily: pd.DataFrame, decision_timeout: float) -> list[Alarm]:
    """Return a page for each day on which the service failed, was late, or decided on features of an earlier day.

    Parameters
    ----------
    daily
        One row a day: errors; feature_age_hours, the age of the oldest daily features in use; latency_p99_ms, the time
        for a payment, milliseconds.
    decision_timeout
        How long the bank waits for a decision, seconds.
    """
    limits = {"errors": 0.0, "feature_age_hours": FRESH_HOURS, "latency_p99_ms": 1000 * decision_timeout}
    return [
        Alarm(f"{day:%Y-%m-%d}", name, "page", float(value), limits[name], what)
        for name, what in SERVICE_RULES.items()
        for day, value in daily[name].items()
        if value > limits[name]
    ]


def _captured(folder: Path, threshold: float) -> pd.DataFrame:
    captured = read_capture(folder)
    times = pd.to_datetime(captured["event_time"], utc=True, format="ISO8601").astype(contracts.UTC)
    return captured.assign(event_time=times, flagged=captured["score"] >= threshold)


def _service(requests: pd.DataFrame) -> pd.DataFrame:
    """Return requests, errors, latency (milliseconds a payment, of many in a request) and feature age of each day."""
    each = requests["milliseconds"] / requests["records"]
    groups = requests.assign(each=each, failed=requests["status"] != 200).groupby("day")
    return pd.DataFrame(
        {
            "requests": groups.size(),
            "errors": groups["failed"].sum(),
            "latency_p50_ms": groups["each"].median(),
            "latency_p99_ms": groups["each"].quantile(0.99),
            "feature_age_hours": groups["oldest_hours"].max(),
        }
    )


def _performance(bank: Bank, served: loop.Served) -> pd.DataFrame:
    """Return the realized performance of each day by the model that served: as known a week later, and in the end."""
    decided = bank.scored.assign(score=served.score, flagged=served.flagged)
    production = decided[decided["event_time"] >= bank.days[0]]
    end = bank.days[-1] + DAY
    parts = []
    for name, after in (("week", 7), ("matured", None)):
        part = performance_by_day(production, bank.labels, after, until=end).set_index("day")
        kept = part[["known_share", "frauds", "alerts", "caught", "precision", "recall", "average_precision"]]
        parts.append(kept.add_suffix(f"_{name}"))
    missed, caught = signals.missed_reports(decided, bank.labels, bank.days, None)
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
