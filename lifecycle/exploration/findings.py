"""Turn what was measured into findings: a severity, a check, a place, and a sentence with a number.

High is what silently spoils a model; medium needs a decision; low is good to know. A finding is a defect (of
the data), a leak, or a property (of the problem).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from lifecycle.exploration.columns import EXTREME_Z
from lifecycle.exploration.model import MIN_CASES

SEVERITIES = ("high", "medium", "low")
KINDS = ("leak", "defect", "property")

COLUMNS = ("severity", "kind", "check", "column", "message", "share")

Finding = dict[str, Any]

_SHOWN = 10  # of one kind of finding, at most this many are listed


def _make(severity: str, kind: str, check: str, column: str, message: str, share: float | None = None) -> Finding:
    return {
        "severity": severity, "kind": kind, "check": check, "column": column, "message": message, "share": share,
    }  # fmt: skip


def find(report: Mapping[str, Any]) -> list[Finding]:
    """Return the findings of a report, the most severe first."""
    found = [*find_leaks(report)]
    for table, content in report["tables"].items():
        for column, profile in content["columns"].items():
            found += find_in_column(f"{table}.{column}", profile)
        found += find_in_mixtures(table, content)
    found += [*find_in_rows(report), *find_in_classes(report), *find_upstream(report["upstream"])]
    return sort(found)


def sort(found: list[Finding]) -> list[Finding]:
    """Return findings in order: by severity, then leaks before defects before properties, then by share."""
    return sorted(
        found, key=lambda f: (SEVERITIES.index(f["severity"]), KINDS.index(f["kind"]), -(f["share"] or 0), f["column"])
    )


def find_in_column(place: str, profile: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what is wrong with one column. Take `place` as ``table.column``."""
    missing, disguised, invalid = profile["missing"], profile["disguised"], profile["invalid"]
    if disguised:
        message = f"{disguised:.2%} of the rows say {profile['mask']!r}: missing in disguise."
        yield _make("high", "defect", "disguised missing", place, message, disguised)
    if missing:
        severity = "high" if missing > 0.2 else "medium" if missing > 0.005 else "low"
        yield _make(severity, "defect", "missing", place, f"{missing:.2%} of the rows are missing.", missing)
    if invalid:
        message = f"{invalid:.2%} of the rows hold what is no value of this column, such as {profile['example']!r}."
        yield _make("high", "defect", "invalid", place, message, invalid)
    if profile["constant"] and missing < 1:
        yield _make("medium", "defect", "constant", place, "All rows hold the same value.", 1.0)
    yield from _find_in_numbers(place, profile)
    yield from _find_in_texts(place, profile)


def _find_in_numbers(place: str, profile: Mapping[str, Any]) -> Iterator[Finding]:
    outliers, grid = profile.get("outliers"), profile.get("off_grid")
    if outliers and outliers["extreme"] >= 3:
        message = (
            f"{outliers['extreme']:,} values lie more than {EXTREME_Z:g} robust z-scores out, plain and as "
            f"logarithms (largest {outliers['largest']:,.5g}, median {outliers['median']:,.4g}): wrong units?"
        )
        yield _make("medium", "defect", "outliers", place, message, None)
    elif outliers and outliers["plain"] > 0.01:
        message = (
            f"{outliers['plain']:.1%} of the values are outliers, {outliers['log']:.2%} of their logarithms: "
            "skewed rather than wrong."
        )
        yield _make("low", "property", "outliers", place, message, outliers["plain"])
    if grid and grid["decimals"] is not None and grid["share"] >= 0.002:
        message = (
            f"{grid['share']:.1%} of the values have many more decimals than the {grid['decimals']} of the others: "
            "they come from another instrument or have been converted."
        )
        yield _make("low", "defect", "mixed precision", place, message, grid["share"])


def _find_in_texts(place: str, profile: Mapping[str, Any]) -> Iterator[Finding]:
    levels, patterns = profile.get("levels"), profile.get("patterns")
    if levels and levels["rare"]:
        message = (
            f"{levels['rare']} categories have less than 0.1% of the rows each, {levels['rare_share']:.2%} together."
        )
        yield _make("low", "defect", "rare categories", place, message, levels["rare_share"])
    if levels and levels["variants"]:
        message = (
            f"{levels['variants']:.2%} of the rows write a category in another way, such as {levels['variant']!r}: "
            "a model takes it for another category."
        )
        yield _make("medium", "defect", "spellings", place, message, levels["variants"])
    if not patterns:
        return
    if patterns["odd"] and patterns["top_share"] >= 0.95:
        message = (
            f"{patterns['odd']:.2%} of the rows, such as {patterns['example']!r}, do not look like the others "
            f"({patterns['top']})."
        )
        yield _make("medium", "defect", "string patterns", place, message, patterns["odd"])
    spellings = []
    if patterns["small_letters"]:
        spellings.append(f"{patterns['small_letters']:.1%} of the texts are in small letters, others in capitals")
    if patterns["cut"] >= 0.01:
        spellings.append(f"{patterns['cut']:.1%} are the beginning of another text, as if cut off")
    if spellings:
        message = "; ".join(spellings) + ": one name may be written in several ways."
        share = patterns["small_letters"] + (patterns["cut"] if patterns["cut"] >= 0.01 else 0)
        yield _make("medium", "defect", "string patterns", place, message, share)


def find_in_mixtures(table: str, content: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield columns whose unit or time zone changes from row to row."""
    for column, units in content.get("units", {}).items():
        parts = ", ".join(f"{u['share']:.1%} in {name} (median {u['median']:.4g})" for name, u in units.items())
        share = 1 - max(unit["share"] for unit in units.values())
        yield _make("high", "defect", "mixed units", f"{table}.{column}", f"Rows differ in unit: {parts}.", share)
    for column, zones in content.get("zones", {}).items():
        if len(zones) > 1:
            parts = ", ".join(f"{share:.2%} {name}" for name, share in zones.items())
            severity = "high" if "none" in zones else "medium"
            message = f"Instants are written with different offsets from UTC: {parts}."
            share = 1 - max(zones.values())
            yield _make(severity, "defect", "mixed time zones", f"{table}.{column}", message, share)


def find_in_rows(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield duplicates, odd rows, columns that say the same, and jumps in time."""
    duplicates, odd = report["duplicates"], report["odd_rows"]
    if duplicates["rows"]:
        severity = "high" if duplicates["share"] > 0.001 else "medium"
        message = f"{duplicates['rows']:,} rows repeat another in all but the id."
        yield _make(severity, "defect", "duplicates", "transactions", message, duplicates["share"])
    if odd.get("odd_share"):
        message = (
            f"{odd['odd_share']:.2%} of the rows are anomalous by an isolation forest, such as payment "
            f"{odd['oddest'][0]} (score {odd['largest_score']:.2f})."
        )
        yield _make("low", "property", "anomalous rows", "transactions", message, odd["odd_share"])
    if (odd.get("fraud_share_in_oddest") or 0) > 0.03 and report["classes"]["fraud"] >= MIN_CASES:
        message = (
            f"The oddest 1% of the rows hold {odd['fraud_share_in_oddest']:.0%} of the frauds: do not delete them."
        )
        yield _make("low", "property", "anomalous rows", "transactions", message, odd["fraud_share_in_oddest"])
    for pair in report["same_columns"][:_SHOWN]:
        message = f"{pair['columns'][0]} and {pair['columns'][1]} have a rank correlation of {pair['correlation']:.3f}."
        place = f"transactions.{pair['columns'][1]}"
        yield _make("medium", "defect", "multicollinearity", place, message, abs(pair["correlation"]))
    in_pair = {name for pair in report["same_columns"] for name in pair["columns"]}
    for name, factor in list(report["variance_inflation"].items())[: 5 * _SHOWN]:
        if factor > 10 and name not in in_pair:
            message = f"The other columns together say the same (variance inflation {factor:,.0f})."
            yield _make("medium", "defect", "multicollinearity", f"transactions.{name}", message, 1 - 1 / factor)
    for jump in report["jumps"][:_SHOWN]:
        where = f" ({jump['within']})" if jump["within"] else ""
        what = (
            "nearly all values are missing" if jump["factor"] is None else f"the level changes {jump['factor']:g}-fold"
        )
        message = f"On {len(jump['days'])} days from {jump['days'][0]} on{where} {what}."
        yield _make("high", "defect", "jump in time", f"transactions.{jump['column']}", message, None)


def find_in_classes(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what makes the target hard: one class only, too few cases, imbalance, late labels."""
    classes = report["classes"]
    fraud, honest, place = classes["fraud"], classes["honest"], "is_fraud"
    if not fraud or not honest:
        one = "No fraud is known" if not fraud else "No honest payment is known"
        yield _make("high", "property", "classes", place, f"{one}: there is nothing to learn from.", None)
    elif min(fraud, honest) < 100:
        few = min(fraud, honest)
        severity = "high" if few < MIN_CASES else "medium"
        message = f"Only {few} cases of the rarer class are known: too few to learn from and to judge by."
        yield _make(severity, "property", "minority too small", place, message, None)
    if fraud and classes["fraud_rate"] < 0.01:
        message = (
            f"{classes['fraud_rate']:.2%} of the labeled payments are fraud: accuracy says nothing here "
            f"({classes['accuracy_of_saying_never']:.2%} for saying never)."
        )
        yield _make("medium", "property", "classes", place, message, classes["fraud_rate"])
    late = 1 - report["maturity"].get("known_after_7_days", 1)
    if late > 0.05:
        message = f"{late:.0%} of the frauds become known later than 7 days after."
        yield _make("medium", "property", "label delay", place, message, late)


def find_leaks(report: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield the three leaks, and each column that knows too much."""
    time, entity, delay = (report["leaks"][name] for name in ("time", "entity", "delay"))
    for suspect in time["suspects"]:
        message = f"{suspect['column']} {suspect['reason']}: it may be filled only after the fact."
        yield _make("high", "leak", "leak through time", f"transactions.{suspect['column']}", message, None)
    if time["flattering"] is not None:
        message = (
            f"The quick model's average precision is {time['flattering']:.3f} on a random split and "
            f"{time['honest']:.3f} on a split in time."
        )
        severity = time["severity"] if not time["suspects"] or time["certain"] else "low"
        yield _make(severity, "leak", "leak through time", "the split", message, max(time["gap"], 0.0))
    if entity["flattering"] is not None:
        seen = entity["seen"]
        message = (
            f"{seen['random']:.0%} of the frauds on the test side of a random split are on a card with a fraud on the "
            f"training side. The average precision is {entity['flattering']:.3f} on this split and "
            f"{entity['honest']:.3f} on cards that were not seen."
        )
        yield _make(
            entity["severity"], "leak", "leak through the entity", "customer_id", message, max(entity["gap"], 0.0)
        )
    if delay["share_known"] is not None and delay["severity"] != "low":
        message = (
            f"{1 - delay['share_known']:.0%} of the youngest week's frauds still count as honest: the fraud rate looks "
            f"like {delay['apparent_rate']:.2%} and will be about {delay['expected_rate']:.2%}."
        )
        yield _make(
            delay["severity"], "leak", "leak through label delay", "is_fraud", message, 1 - delay["share_known"]
        )


def find_upstream(upstream: Mapping[str, Any]) -> Iterator[Finding]:
    """Yield what collection has caught; it needs no repair here, but it shows what the source is like."""
    for entry in upstream["reasons"]:
        message = f"{entry['rows']:,} records ({entry['share']:.3%}) were quarantined: {entry['reason']}."
        severity = "medium" if entry["share"] > 0.01 else "low"
        yield _make(severity, "defect", f"quarantine: {entry['reason']}", entry["source"], message, entry["share"])
    for source, counts in upstream["sources"].items():
        for name, words in (("duplicates", "arrived twice"), ("superseded", "were replaced by a later revision")):
            if counts[name]:
                share = counts[name] / max(counts["read"], 1)
                check = f"upstream {name}"
                message = f"{counts[name]:,} records ({share:.2%}) {words}."
                yield _make("medium" if share > 0.05 else "low", "defect", check, source, message, share)
    if (upstream["late"] or 0) > 0.0005:
        message = f"When a day ends, {upstream['late']:.2%} of a day's payments have not been delivered yet."
        yield _make("low", "defect", "late records", "transactions", message, upstream["late"])
