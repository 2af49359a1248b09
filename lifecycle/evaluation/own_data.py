"""What a stranger must know of a run on a file of one's own: what was done to it, and which columns know too much."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq

from lifecycle import files
from lifecycle.features.schema import OWN
from lifecycle.training.reading import place, read_rows

SAMPLE = 200_000
"""Payments that are looked at for suspect columns, beside all frauds."""

_ENTITY = {"customer_id": "customers", "terminal_id": "terminals"}


def read_judged(inputs: Mapping[str, Path], judged: pd.Series) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return what judging reads of the payments and the labels, and no more: a file of one's own can be large.

    Parameters
    ----------
    inputs
        Folders of preprocessing, features and training.
    judged
        The ids of the payments of the test period that are judged.

    Returns
    -------
    transactions, reports
        ``transaction_id``, ``customer_id``, ``terminal_id`` and, if there is one, ``channel`` of the payments that
        are judged, of those that the models were validated on, and of those that were reported as fraud; and the
        labels that say fraud.
    """
    labels, path = inputs["features"] / "labels.parquet", inputs["preprocessing"] / "transactions.parquet"
    reports = pd.read_parquet(labels, filters=[("is_fraud", "==", 1)])
    validated = pd.read_parquet(inputs["training"] / "out_of_fold.parquet", columns=["transaction_id"])
    needed = pd.Index(pd.concat([judged, reports["transaction_id"], validated["transaction_id"]]).unique())
    columns = [name for name in ("transaction_id", "customer_id", "terminal_id", "channel")
               if name in pq.read_schema(path).names]  # fmt: skip
    return read_rows(path, lambda rows: rows["transaction_id"].isin(needed), columns), reports


def describe_own(inputs: Mapping[str, Path], test_from: pd.Timestamp) -> dict[str, Any] | None:
    """Return what was done to a file of one's own, and what to distrust in it; None for the simulated bank.

    Parameters
    ----------
    inputs
        Folders of preprocessing and features.
    test_from
        Only earlier payments are looked at: the test set is not for choosing.

    Returns
    -------
    dict
        The content of ``own_file.json``, ``suspects``
        (``column`` as the file calls it, ``reason``) and ``warnings`` (sentences).
    """
    folder = inputs["preprocessing"]
    if not (folder / "own_file.json").exists():
        return None
    own = files.read_json(folder / "own_file.json")
    names = {one["ours"]: one["file"] for one in own["columns"] if one["ours"]}
    suspects = [
        {"column": names.get(found["column"], found["column"]), "reason": found["reason"]}
        for found in suspect_columns(folder / "transactions.parquet", folder / "labels.parquet", test_from)
    ]
    suspects += [
        {"column": one["file"], "reason": one["note"].split("; ")[1] + "; it was left out"}
        for one in own["columns"]
        if "after the payment" in one["note"]
    ]
    return {**own, "suspects": suspects, "warnings": list_warnings(own, suspects)}


def suspect_columns(path: Path, labels: Path, until: pd.Timestamp) -> list[dict[str, str]]:
    """Return the attributes of a file of payments that know more than anybody could when the payment was made.

    The exploration's search for leaks (`exploration.leaks.find_suspects`), on about `SAMPLE` payments of before
    `until`, and on all frauds among them.

    Parameters
    ----------
    path, labels
        Parquet files of payments and of their label history.
    until
        Later payments are not looked at.
    """
    from lifecycle.exploration.leaks import find_suspects
    from lifecycle.exploration.model import prediction_power

    own = [name for name in pq.read_schema(path).names if name.startswith(OWN)]
    if not own:
        return []
    share = SAMPLE / max(pq.read_metadata(path).num_rows, 1)

    def chosen(rows: pd.DataFrame) -> Any:
        return (place(rows["transaction_id"]) < share) | (rows["is_fraud"] == 1)

    last = read_rows(labels, chosen).sort_values("known_at", kind="stable")
    last = last.drop_duplicates("transaction_id", keep="last")[["transaction_id", "is_fraud"]]
    ids = pd.Index(last["transaction_id"])
    columns = ["transaction_id", "event_time", *own]
    payments = read_rows(path, lambda r: (r["event_time"] < until) & r["transaction_id"].isin(ids), columns)
    joined = payments.merge(last, on="transaction_id")
    for name in own:  # preprocessing has written a word where nothing was: for a leak, nothing says most
        if isinstance(joined[name].dtype, pd.CategoricalDtype):
            joined[name] = joined[name].astype(object).where(joined[name] != "unknown", None)
    return find_suspects(joined, prediction_power(joined))


def list_warnings(own: Mapping[str, Any], suspects: list[dict[str, str]]) -> list[str]:
    """Return what to distrust in a file, in sentences, worst first: the suspects, then what the file does not have.

    Parameters
    ----------
    own
        The content of ``own_file.json``.
    suspects
        Columns that may know the answer: ``column`` and ``reason``.
    """
    found = [
        f"Column '{one['column']}' {one['reason']}. If it is filled after the payment, the score of this report cannot "
        f"be reached in operation: add it to drop = [...] in the mapping and run again."
        for one in suspects
    ]
    for name in own["absent"]:
        found.append(
            f"The file has no {_ENTITY[name]}: all features of their past are left out. Frauds that show only in "
            f"what {_ENTITY[name]} did before cannot be found."
        )
    if "customer_id" in own["absent"]:
        found.append("Without customers, intervals treat each payment as independent, which makes them too narrow.")
    found += _clock_warnings(own)
    labels = own["labels"]
    if labels["assumed"]:
        found.append(
            f"{labels['assumed']:,} labels have no time at which they became known; "
            f"{labels['delay_days']} days after the payment was assumed. If labels take longer, the score flatters."
        )
    if labels["unknown"]:
        found.append(
            f"{labels['unknown']:,} of {own['rows']:,} payments have no label: no model has learned from them."
        )
    return found


def _clock_warnings(own: Mapping[str, Any]) -> list[str]:
    zone, clock = own["time_zone"], own["clock"]
    found = []
    if clock["skipped"]:
        found.append(
            f"{clock['skipped']:,} payments carry a time that the clocks of {zone} skip in spring; they were read as "
            f"an hour later. Is the file really in local time of {zone}?"
        )
    if clock["twice"]:
        found.append(
            f"{clock['twice']:,} payments fall into the hour that the clocks of {zone} show twice in autumn; they "
            f"were read as the second one, so that they may be an hour late."
        )
    return found


def own_section(report: Mapping[str, Any]) -> str:
    """Return the part of the page that tells what was done with the file, as HTML; empty for the simulated bank."""
    own = report.get("own")
    if not own:
        return ""
    rows = "".join(
        f"<tr><td>{escape(one['file'])}</td><td>{escape(one['ours'] or '-')}</td><td>{escape(one['kind'])}</td>"
        f"<td class='sentence'>{escape(one['note'])}</td></tr>"
        for one in own["columns"]
    )
    head = "".join(f"<th>{name}</th>" for name in ("column", "here", "used as", "why"))
    return (
        "<h2>Your file, and what was done with it</h2><ul>"
        + "".join(f"<li>{escape(point)}</li>" for point in describe_file(own))
        + f"</ul><div class='wide'><table class='words'><thead><tr>{head}</tr></thead>"
        + f"<tbody>{rows}</tbody></table></div>{_worth(report)}"
    )


def describe_file(own: Mapping[str, Any]) -> list[str]:
    """Return what was decided about a file, in sentences; what did not occur in it is not told.

    Parameters
    ----------
    own
        The content of ``own_file.json``, which the collection of a file of one's own writes.

    Examples
    --------
    >>> labels = {"observed": 0, "assumed": 9, "delay_days": 7, "unknown": 0}
    >>> own = {"rows": 9, "transactions": "a.csv", "labels_file": None, "absent": ["terminal_id"], "time_zone": None,
    ...        "amount_unit": "cents", "labels": labels, "columns": []}
    >>> describe_file(own)[0]
    '9 payments of a.csv were read; the file has no terminals, and no ids were made up.'
    """
    without = " and ".join(_ENTITY[name] for name in own["absent"])
    zone, unit = own["time_zone"], own["amount_unit"]
    return [
        f"{own['rows']:,} payments of {own['transactions']} were read"
        + (f", with labels of {own['labels_file']}" if own["labels_file"] else "")
        + (f"; the file has no {without}, and no ids were made up." if without else "."),
        f"Times without a zone were read as {zone}." if zone else "Times carry their zone.",
        "Amounts were taken as they are." if unit == "major" else f"Amounts in {unit} were turned into whole units.",
        *_how_labels_came(own["labels"]),
        _how_columns_are_used([one["kind"] for one in own["columns"]]),
    ]


def _how_labels_came(labels: Mapping[str, Any]) -> list[str]:
    time, days = "the time at which they became known", labels["delay_days"]
    told = [
        (labels["observed"], f"labels came with {time}."),
        (labels["assumed"], f"labels came without {time}; {days} days after the payment are assumed."),
        (labels["unknown"], "payments have no label yet."),
    ]
    return [f"{count:,} {words}" for count, words in told if count]


def _how_columns_are_used(kinds: list[str]) -> str:
    told = [("number", "numeric feature", "numeric features"), ("category", "category", "categories"),
            ("left out", "left out", "left out")]  # fmt: skip
    counts = [(kinds.count(kind), one, many) for kind, one, many in told]
    used = ", ".join(f"{count} {one if count == 1 else many}" for count, one, many in counts if count)
    return f"Further columns: {used or 'none'}."


def _worth(report: Mapping[str, Any]) -> str:
    """Return what the score is worth: against guessing, and against the simple rule."""
    if not report["judged"]:
        return ""
    name, rate = report["champion"]["name"], report["test"]["fraud_rate"]
    found, rule = report["models"][name]["average_precision"], report["differences"]["rule"]["average_precision"]
    low, high = rule["low"], rule["high"]
    surer = "that excludes zero" if low is not None and low > 0 else "that includes zero: the rule may be as good"
    interval = f"{low:.3f} to {high:.3f}, an interval {surer}" if low is not None else "without an interval"
    return (
        "<h2>Against guessing, and against a rule</h2><p>Guessing reaches an average precision of "
        f"{rate:.4f}, the share of fraud. The model reaches {found['value']:.3f} "
        f"({found['value'] / max(rate, 1e-12):.1f} times that). It beats the simple rule by "
        f"{rule['value']:.3f} ({interval}).</p>"
    )
