"""The report of a run as one HTML page that needs nothing else: for a reader who has not seen the code."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lifecycle import economics, files
from lifecycle.evaluation.fairness import FEW_VICTIMS, RATES, SMALL_GROUP
from lifecycle.evaluation.openings import describe
from lifecycle.evaluation.own_data import own_section
from lifecycle.training.metrics import Ranking

_LIGHT = ("#0072b2", "#b36b00", "#008060", "#c04a00", "#7b3fa0", "#b0558a", "#000000")
_DARK = ("#56b4e9", "#ffb733", "#2ecc9f", "#ff8552", "#f0e442", "#e79ac3", "#f2f2f2")
"""The lines of a chart, by number: told apart by the color-blind too, on white and on black."""

_STYLE = """
:root { color-scheme: light dark; --ink: #222; --paper: #fff; --faint: #595959; --rule: #ddd; --mark: #eaf4fb;
  --note: #fff6e0; --edge: #b36b00; --alarm: #fdeaea; --red: #b3261e; LIGHT }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e6e6; --paper: #16181b; --faint: #a8a8a8; --rule: #3a3d42;
  --mark: #1d3342; --note: #33290f; --edge: #ffb733; --alarm: #3d1a19; --red: #ff8a80; DARK } }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: var(--ink); background: var(--paper); overflow-wrap: break-word; }
h1 { font-size: 1.7rem; line-height: 1.25; }
h2 { font-size: 1.25rem; margin-top: 2.2rem; border-bottom: 1px solid var(--rule); }
a { color: var(--c0); }
table { border-collapse: collapse; margin: .8rem 0; font-size: .92rem; }
th, td { padding: .3rem .7rem; text-align: right; border-bottom: 1px solid var(--rule); overflow-wrap: normal; }
th:first-child, td:first-child { text-align: left; } tr.champion { background: var(--mark); font-weight: 600; }
table.words th, table.words td { text-align: left; vertical-align: top; }
.note, .alarm { background: var(--note); padding: .6rem .9rem; border-left: 4px solid var(--edge); }
.alarm { background: var(--alarm); border-color: var(--red); }
.muted { color: var(--faint); } td .muted { white-space: nowrap; }
div.wide { overflow-x: auto; max-width: 100%; }
svg { max-width: 100%; height: auto; min-width: 30rem; fill: var(--ink); }
svg line { stroke: var(--rule); } svg polyline { fill: none; stroke-width: 2; }
@media (max-width: 40rem) { body { margin: 1rem auto; } h1 { font-size: 1.4rem; } li, p { hyphens: auto; }
  ul, ol { padding-left: 1.2rem; } th, td { padding: .3rem .45rem; } td.sentence { min-width: 14rem; } }
"""


def _palette(colors: Sequence[str]) -> str:
    return " ".join(f"--c{number}: {color};" for number, color in enumerate(colors))


def write_html(report: Mapping[str, Any], test: pd.DataFrame, scores: Mapping[str, np.ndarray], path: Path) -> None:
    """Write the page.

    Parameters
    ----------
    report
        The content of ``report.json``.
    test
        The test set; scores are drawn for the payments whose label is known.
    scores
        Model -> score of each row of `test`.
    path
        Where to write.
    """
    champion = report["champion"]
    title = f"<h1>Fraud model: {escape(_plain(champion['name']))}</h1>"
    parts = [title, _alarm(report), _in_short(report), own_section(report)]
    if report["judged"]:
        known = test["is_fraud"].notna().to_numpy()
        fraud, amount = test.loc[known, "is_fraud"].to_numpy(dtype=int), test.loc[known, "amount"].to_numpy()
        kept = {name: score[known] for name, score in scores.items()}
        parts += [_models(report), _at_threshold(report), _precision_recall(report, fraud, kept)]
        parts += [_money(report, fraud, amount, kept)]
        parts += [_oracle(report), _calibration(report), _slices(report), _weeks(report), _costliest(report)]
        parts += [_failures(report), _behavior(report)]
    parts += [_distrust(report), _facts(report)]
    body = "\n".join(part for part in parts if part)
    style = _STYLE.replace("LIGHT", _palette(_LIGHT)).replace("DARK", _palette(_DARK))
    with files.replacing(path) as temporary:
        temporary.write_text(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>Fraud model report</title><style>{style}</style></head>\n<body>\n{body}\n</body></html>\n",
            encoding="utf-8",
        )


def _plain(name: str) -> str:
    return name.replace("_", " ")


def _interval(found: Mapping[str, float | None], form: str = ".3f") -> str:
    if found["value"] is None:
        return "-"
    if found["low"] is None:
        return format(found["value"], form)
    return f"{found['value']:{form}} <span class='muted'>({found['low']:{form}} to {found['high']:{form}})</span>"


def _table(head: Sequence[str], rows: Sequence[Sequence[Any]], marked: int | None = None) -> str:
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = ""
    for number, row in enumerate(rows):
        css = " class='champion'" if number == marked else ""
        body += f"<tr{css}>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>"
    return f"<div class='wide'><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>"


def _rate(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f} %"


def _alarm(report: Mapping[str, Any]) -> str:
    """Return what has to be read before any number: the columns that may know the answer."""
    found = _leaks(report)
    if not found:
        return ""
    items = "".join(f"<li>{escape(warning)}</li>" for warning in found)
    first = "Read this first: the score may be too good to be true."
    return f"<div class='alarm'><strong>{first}</strong><ul>{items}</ul></div>"


def _leaks(report: Mapping[str, Any]) -> list[str]:
    """Return the warnings about suspect columns, which come first among all."""
    own = report.get("own") or {}
    return own.get("warnings", [])[: len(own.get("suspects", []))]


def _in_short(report: Mapping[str, Any]) -> str:
    """Return for a reader who has one minute: what was done, what the score is worth, and what to distrust."""
    test, champion, own = report["test"], report["champion"], report.get("own")
    origin = f"Of {escape(own['transactions'])}, {own['rows']:,} payments were read. " if own else ""
    done = (
        f"{origin}For each payment, features say what was known before it. The model learned from {champion['rows']:,} "
        f"payments of {champion['trained_from']} to {champion['trained_until']}, of which {champion['frauds']:,} were "
        f"known frauds. It was chosen by {escape(champion['chosen_by'])}, and only then tried on "
        f"{test['payments']:,} payments of {test['from']} to {test['until']} (the last day is not included) that had "
        "no part in any choice."
    )
    worth = _worth(report) if report["judged"] else escape(report["note"])
    leaks = _leaks(report)
    points = ["First of all, what stands above."] * bool(leaks) + [one for one in _points(report) if one not in leaks]
    first = " ".join(escape(point) for point in points[:2])
    items = [("What was done", done), ("What the score is worth", worth)]
    items.append(("What to distrust", f"{first} <a href='#distrust'>All that is known</a>."))
    note = report["sample"]["note"]
    listed = "".join(f"<li><strong>{name}.</strong> {text}</li>" for name, text in items)
    return f"<ul>{listed}</ul>" + (f"<p class='note'>{escape(note)}</p>" if note else "")


def _worth(report: Mapping[str, Any]) -> str:
    test, champion = report["test"], report["champion"]
    found, money = report["models"][champion["name"]], report["money"]
    return (
        f"At its threshold of {champion['threshold']:.4f} it flags {money['alerts']:,} payments, finds "
        f"{_rate(found['recall']['value'])} of the {test['frauds']:,} known frauds, and is right in "
        f"{_rate(found['precision']['value'])} of its alerts, where guessing is right in "
        f"{_rate(test['fraud_rate'], 2)}. That saves {money['savings']:,.0f} in the test period, "
        f"{_rate(money['share_of_perfect'])} of what a perfect model would save."
    )


def _models(report: Mapping[str, Any]) -> str:
    names = list(report["models"])
    rows = []
    for name in names:
        found = report["models"][name]
        cells = [_interval(found[key]) for key in ("average_precision", "auc", "card_precision")]
        valid = report["validation"][name]["mean"]["average_precision"]
        rows.append([escape(_plain(name)), f"{valid:.3f}", *cells, _interval(found["savings"], ",.0f")])
    drawn = "payments" if "customer_id" in (report.get("own") or {}).get("absent", []) else "whole customers"
    shown = report["models"][report["champion"]["name"]]
    k, never = report["settings"]["cards_per_day"], report["never_fraud"]
    head = ["model", "AP, validation", "AP, test", "AUC, test", f"card precision@{k}", "savings"]
    return (
        "<h2>All models on the test period</h2>"
        + _table(head, rows, names.index(report["champion"]["name"]))
        + f"<p>Intervals (95 %) come from drawing {drawn} again and again. <em>AP</em>, average precision, "
        "sums up how pure the alerts stay while more and more fraud is found; 1 is perfect, and guessing gives the "
        f"fraud rate, {_rate(report['test']['fraud_rate'], 2)}. <em>AUC</em> is the chance that a fraud gets a higher "
        f"score than an honest payment. <em>Card precision@{k}</em> is the share of fraud among the {k} most suspect "
        f"customers of a day; nobody could reach more than {shown['card_precision_ceiling']['value']:.3f}, since on "
        "most days fewer customers are hit.</p>"
        f"<p>Accuracy says little here: never flagging anything is right in {_rate(never['accuracy'], 2)} of payments "
        f"and saves nothing; this model is right in {_rate(shown['accuracy']['value'], 2)}.</p>"
    )


def _at_threshold(report: Mapping[str, Any]) -> str:
    """Return what the champion's alerts are like, with intervals."""
    found = report["models"][report["champion"]["name"]]
    told = [
        ("precision", "precision: alerts that are fraud", ".3f"),
        ("recall", "recall: frauds that are found", ".3f"),
        ("f1", "F1, their harmonic mean", ".3f"),
        ("alerts_per_1000", "alerts of 1,000 payments", ".1f"),
        ("accuracy", "accuracy", ".4f"),
    ]
    rows = [[words, _interval(found[name], form)] for name, words, form in told]
    return "<h2>Its alerts</h2>" + _table(["at the threshold", "value (95 % interval)"], rows)


def _precision_recall(report: Mapping[str, Any], fraud: np.ndarray, scores: Mapping[str, np.ndarray]) -> str:
    lines = {}
    for name, score in scores.items():
        ranking = Ranking(fraud, score)
        found = np.cumsum(ranking.fraud)
        places = np.unique(np.geomspace(1, len(fraud), 160).astype(int)) - 1
        lines[_plain(name)] = (found[places] / found[-1], found[places] / (places + 1))
    return "<h2>Precision against recall</h2>" + _chart(lines, "share of fraud found", "share of alerts that are fraud")


def _money(report: Mapping[str, Any], fraud: np.ndarray, amount: np.ndarray, scores: Mapping[str, np.ndarray]) -> str:
    bill, used, best = report["money"], report["settings"], report["hindsight"]
    score = scores[report["champion"]["name"]]
    prices = type("Prices", (), {key: used[key] for key in ("chargeback_fee", "review_cost", "friction_cost")})
    thresholds, saved = economics.savings_curve(fraud, amount, score, prices)
    share = report["sample"]["share"]  # of all payments that were judged: what the curve saves is that of all
    saved = saved / share
    alerts = 1 - np.searchsorted(np.sort(score), thresholds) / len(score)  # share of payments at or above it
    most = max(np.searchsorted(alerts, 4 * bill["alerts"] * share / len(score)), 2)
    cut = np.unique(np.linspace(0, min(most, len(saved) - 1), 200).astype(int))
    rows = [
        ["without a model", f"{bill['cost_without']:,.0f}"],
        ["with this model", f"{bill['cost_with']:,.0f}"],
        ["saved", f"{bill['savings']:,.0f}"],
        ["a perfect model would save", f"{bill['savings_if_perfect']:,.0f}"],
        ["the best threshold in hindsight would save", f"{best['savings']:,.0f}"],
    ]
    return (
        "<h2>Money</h2><p>A missed fraud costs its amount and a fee of "
        f"{used['chargeback_fee']:g}; an alert costs {used['review_cost']:g} to review, and "
        f"{used['friction_cost']:g} more if the customer was honest. The threshold was chosen by money on the "
        "validation weeks.</p>"
        + _table(["cost of the test period, in account currency", ""], rows)
        + _chart({"savings": (alerts[cut], saved[cut])}, "share of payments flagged", "savings", unit_y=False)
    )


def _oracle(report: Mapping[str, Any]) -> str:
    found = report["oracle"]
    if not found:
        return ""
    champion = report["champion"]["name"]
    rows = [
        [escape(_plain(row["mode"])), f"{row['frauds']:,}", f"{row['oracle']:.3f}", f"{row[champion]:.3f}",
         _rate(row["champion_recall"])]
        for row in found["modes"]
    ]  # fmt: skip
    return (
        "<h2>How good could anyone be</h2><p>The bank is simulated, so the chance of fraud given its hidden state is "
        f"known. That oracle reaches an AP of {found['by_truth']['oracle']:.3f} against the truth, this model "
        f"{found['by_truth'][champion]:.3f}: {_rate(found['share_reached'])} of it.</p>"
        + _table(["kind of fraud", "frauds", "oracle AP", "model AP", "found at the threshold"], rows)
    )


def _calibration(report: Mapping[str, Any]) -> str:
    rows = [
        [f"{row['from']:.4f} to {row['until']:.4f}", f"{row['payments']:,}", _rate(row["mean_score"], 2),
         _rate(row["fraud_rate"], 2)]
        for row in report["calibration"]
    ]  # fmt: skip
    return (
        "<h2>Do scores mean what they say?</h2><p>Each row holds payments that, by their scores, should hold equally "
        "many frauds. Where the last two columns agree, a score can be read as a probability. For each fraud that "
        f"occurred, the scores announced {_interval(report['balance'], '.2f')}.</p>"
        + _table(["score", "payments", "mean score", "fraud"], rows)
    )


def _slices(report: Mapping[str, Any]) -> str:
    text = ""
    for name, groups in report["slices"].items():
        rows = [
            [escape(row["group"]) + (" *" if row["small"] else ""), f"{row['payments']:,}", f"{row['frauds']:,}",
             *(_interval(row["intervals"][rate], ".2f") for rate in RATES if rate != "false_alarm_rate"),
             _rate(row["false_alarm_rate"], 2)]
            for row in groups
        ]  # fmt: skip
        head = [name, "payments", "frauds", "found", "alerts that are fraud", "false alarms per honest customer",
                "expected / observed frauds", "honest flagged"]  # fmt: skip
        text += _table(head, rows) + _prices(name, report["fairness"]["prices"].get(name, []))
    sampled = " among the payments that were judged" * (report["sample"]["share"] < 1)
    small = f"<p>* fewer than {SMALL_GROUP} frauds or {FEW_VICTIMS} victims{sampled}: mostly luck.</p>"
    return "<h2>Groups</h2>" + text + small if text else ""


def _prices(name: str, prices: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [escape(row["criterion"]), *(_interval(row[key], ",.0f") for key in ("savings", "missed", "declined")),
         _rate(row["recall_gap"]), _rate(row["false_alarm_gap"], 2)]
        for row in prices
    ]  # fmt: skip
    head = [f"thresholds by {name}, chosen in validation", "savings, change", "missed frauds, change",
            "honest stopped, change", "gap in found", "gap in honest flagged"]  # fmt: skip
    return _table(head, rows) if rows else ""


def _weeks(report: Mapping[str, Any]) -> str:
    rows = [
        [f"week {row['week']}", f"{row['payments']:,}", f"{row['frauds']:,}",
         "-" if row["average_precision"] is None else f"{row['average_precision']:.3f}", f"{row['savings']:,.0f}"]
        for row in report["weeks"]
    ]  # fmt: skip
    return "<h2>Week by week</h2>" + _table(["", "payments", "frauds", "AP", "savings"], rows)


def _failures(report: Mapping[str, Any]) -> str:
    found = report["failures"]
    parts = []
    for title, cases in (("The costliest misses", found["misses"]), ("The surest false alarms", found["false_alarms"])):
        items = "".join(f"<li>{escape(case['text'])}</li>" for case in cases)
        parts.append(f"<h2>{title}, read one by one</h2><ol>{items}</ol>" if items else "")
    reasons = found["reasons"]
    rows = [[escape(one["remedy"]), f"{one['number']:,}", f"{one['amount']:,.0f}"] for one in reasons["by_remedy"]]
    return "".join(parts) + (_table(["what would have stopped it", "misses", "amount"], rows) if rows else "")


def _behavior(report: Mapping[str, Any]) -> str:
    rows = [
        [escape(one["check"]), escape(one["meaning"]), f"{one['found']:.4g}", f"{one['bound']} {one['needed']:g}",
         "yes" if one["passed"] else "no"]
        for one in report["behavior"]
    ]  # fmt: skip
    head = ["payments changed by", "what is looked at", "found", "needed", "held"]
    return "<h2>Behavior</h2>" + _table(head, rows) if rows else ""


def _costliest(report: Mapping[str, Any]) -> str:
    head = ["transaction", "time (UTC)", "customer", "terminal", "amount", "score"]
    text = ""
    for title, key in (("Costliest misses", "costliest_misses"), ("Surest false alarms", "costliest_false_alarms")):
        rows = [
            [escape(str(row["transaction_id"])), escape(str(row["event_time"])[:19]), escape(str(row["customer_id"])),
             escape(str(row["terminal_id"])), f"{row['amount']:,.2f}", f"{row['score']:.4f}"]
            for row in report[key]
        ]  # fmt: skip
        text += f"<h2>{title}</h2>" + _table(head, rows)
    return text


def _points(report: Mapping[str, Any]) -> list[str]:
    """Return what to distrust, worst first."""
    test = report["test"]
    unknown = test["payments"] - test["labeled"]
    points = [
        f"Labels are what was known on {test['labels_as_of']}: a fraud that nobody had reported counts as honest.",
        "The prices of a miss and of an alert are assumptions; change them in the settings and run again.",
        "The test period says nothing about another season, or about a kind of fraud that did not occur in it.",
    ]
    again = [describe(report["opening"])] if report["opening"]["earlier"] else []
    points = [*again, *(report.get("own") or {}).get("warnings", []), *points]
    if unknown:
        points.append(f"{unknown:,} payments have no known label yet; they got scores and are in no metric.")
    return points


def _distrust(report: Mapping[str, Any]) -> str:
    items = "".join(f"<li>{escape(point)}</li>" for point in _points(report))
    return f"<h2 id='distrust'>What to distrust</h2><ul>{items}</ul>"


def _facts(report: Mapping[str, Any]) -> str:
    rows = [[escape(_plain(key)), escape(str(value))] for key, value in report["settings"].items()]
    rows.append(["model version", escape(report["champion"]["version"])])
    rows.append(["openings of the test weeks", str(report["opening"]["number"])])
    return "<h2>Settings of the run</h2>" + _table(["setting", "value"], rows)


def _chart(lines: Mapping[str, tuple[np.ndarray, np.ndarray]], x: str, y: str, unit_y: bool = True) -> str:
    """Return a line chart as SVG. The x axis starts at 0; so does the y axis, and it ends at 1 if `unit_y`."""
    width, height, left, bottom = 640, 340, 80, 50
    right = max(float(np.max(a)) for a, _ in lines.values()) or 1.0
    top = 1.0 if unit_y else max(float(np.max(b)) for _, b in lines.values()) * 1.05 or 1.0
    low = 0.0 if unit_y else min(0.0, *(max(float(np.min(b)), -top) for _, b in lines.values()))

    def place(a: float, b: float) -> tuple[float, float]:
        share = (np.clip(b, low, top) - low) / max(top - low, 1e-12)
        return left + a / right * (width - left - 20), 20 + (1 - share) * (height - bottom - 20)

    parts = []
    for step in range(6):
        (px, py), (ax, ay) = place(0, low + (top - low) * step / 5), place(right * step / 5, low)
        value, at = low + (top - low) * step / 5, right * step / 5
        parts.append(f"<line x1='{left}' x2='{width - 20}' y1='{py:.1f}' y2='{py:.1f}'/>")
        parts.append(
            f"<text x='{px - 8:.1f}' y='{py + 4:.1f}' text-anchor='end'>{value:,.{2 if top <= 1 else 0}f}</text>"
        )
        parts.append(f"<text x='{ax:.1f}' y='{ay + 18:.1f}' text-anchor='middle'>{at:.2g}</text>")
    for number, (name, (a, b)) in enumerate(lines.items()):
        color = f"var(--c{number % len(_LIGHT)})"
        points = " ".join("{:.1f},{:.1f}".format(*place(*pair)) for pair in zip(a, b, strict=True))
        parts.append(f"<polyline points='{points}' style='stroke: {color}'/>")
        if len(lines) > 1:
            at = f"x='{width - 26}' y='{34 + 17 * number}' text-anchor='end'"
            parts.append(f"<text {at} style='fill: {color}'>{escape(name)}</text>")
    parts.append(f"<text x='{(left + width) / 2}' y='{height - 8}' text-anchor='middle'>{escape(x)}</text>")
    middle = (height - bottom + 20) / 2
    parts.append(
        f"<text x='16' y='{middle}' text-anchor='middle' transform='rotate(-90 16 {middle})'>{escape(y)}</text>"
    )
    label = escape(f"Line chart of {y} against {x}", quote=True)
    return (
        f"<div class='wide'><svg viewBox='0 0 {width} {height}' width='{width}' role='img' aria-label='{label}' "
        f"font-family='system-ui, sans-serif' font-size='12'>{''.join(parts)}</svg></div>"
    )
