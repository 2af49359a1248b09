"""The report as one HTML page that needs nothing else: no network, no script, readable on a phone, light or dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from lifecycle import files

_STYLE = """
:root { --ink: #222; --soft: #5c5c5c; --page: #fff; --card: #f5f6f8; --line: #d9dce1; --high: #b3261e;
  --medium: #8a5a00; --low: #33658a; --bar: #0072b2; --second: #d55e00; color-scheme: light dark; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8e8e8; --soft: #a9adb5; --page: #15171b; --card: #20242b;
  --line: #3a4049; --high: #ff8a80; --medium: #f2b84b; --low: #8fc1e8; --bar: #56b4e9; --second: #f0905a; } }
* { box-sizing: border-box; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 64rem; margin: 0 auto; padding: 1.2rem; color: var(--ink);
  background: var(--page); }
h1 { font-size: 1.6rem; margin: .4rem 0; } h2 { font-size: 1.2rem; margin-top: 2.2rem; }
p { max-width: 46rem; } .soft { color: var(--soft); }
.cards { display: grid; grid-template-columns: repeat(auto-fit, minmax(8.5rem, 1fr)); gap: .7rem; margin: 1rem 0; }
.leaks { display: grid; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); gap: .8rem; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: .5rem; padding: .7rem .9rem; }
.card b { display: block; font-size: 1.35rem; } .card h3 { margin: 0 0 .3rem; font-size: 1rem; }
.card p { margin: .4rem 0; font-size: .92rem; }
.tag { font-weight: 700; } .high { color: var(--high); } .medium { color: var(--medium); } .low { color: var(--low); }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; margin: .6rem 0; }
th, td { padding: .3rem .6rem; border-bottom: 1px solid var(--line); text-align: right; vertical-align: top; }
td { white-space: nowrap; }
th:first-child, td:first-child { text-align: left; } code { overflow-wrap: anywhere; }
ul.findings { list-style: none; padding: 0; margin: .6rem 0; } ul.findings li { border-top: 1px solid var(--line);
  padding: .45rem 0; } .row { display: grid; grid-template-columns: 8.5rem 1fr 4rem; gap: .5rem;
  align-items: center; font-size: .88rem; margin: .15rem 0; }
.track { background: var(--line); border-radius: .2rem; height: .8rem; } .fill { background: var(--bar); height: .8rem;
  border-radius: .2rem; } .fill.second { background: var(--second); }
svg { width: 100%; max-width: 40rem; height: auto; } svg text { fill: var(--ink); font: 12px system-ui, sans-serif; }
svg .grid { stroke: var(--line); } svg .curve { stroke: var(--bar); fill: none; stroke-width: 2.5; }
td.heat { background: color-mix(in srgb, var(--bar) calc(var(--heat) * 1%), transparent); }
"""

_SHOWN = 100  # columns of a table


def write_report(report: Mapping[str, Any], path: Path | str) -> None:
    """Write the report of `explore` as one HTML page, whole or not at all.

    Parameters
    ----------
    report
        What `explore` returned, or the content of ``report.json``.
    path
        Where to write.

    Raises
    ------
    LifecycleError
        If the file cannot be written.
    """
    parts = [_opening(report), _leaks(report), _findings(report), _delay(report), _model(report), _power(report)]
    parts += [_columns(report), _upstream(report), _limits(report)]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Quality and insights report</title><style>{_STYLE}</style></head>\n<body>\n"
        + "\n".join(part for part in parts if part)
        + "\n</body></html>\n"
    )
    with files.replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")


def _percent(share: float | None, digits: int = 2) -> str:
    return "-" if share is None else f"{100 * share:.{digits}f} %"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table. Cells are HTML; one that begins with ``<td`` is taken as it is."""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join(
        "<tr>" + "".join(cell if cell.startswith("<td") else f"<td>{cell}</td>" for cell in row) + "</tr>"
        for row in rows
    )
    return f'<div class="wide"><table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table></div>'


def _tag(severity: str) -> str:
    return f'<span class="tag {severity}">{severity}</span>'


def _bar(label: str, share: float | None, shown: str, second: bool = False) -> str:
    width = 100 * min(max(share or 0.0, 0.0), 1.0)
    fill = f'<div class="fill{" second" if second else ""}" style="width:{width:.1f}%"></div>'
    return f'<div class="row"><span>{escape(label)}</span><div class="track">{fill}</div><span>{shown}</span></div>'


def _opening(report: Mapping[str, Any]) -> str:
    classes, found = report["classes"], report["findings"]
    facts = [
        (f"{report['tables']['transactions']['rows']:,}", "payments"),
        (f"{classes['fraud']:,}", "known frauds"),
        (_percent(classes["fraud_rate"]), "fraud rate"),
        (f"{classes['unknown']:,}", "labels unknown"),
    ]
    cards = "".join(f'<div class="card"><b>{value}</b>{name}</div>' for value, name in facts)
    for severity in ("high", "medium", "low"):
        count = sum(f["severity"] == severity for f in found)
        cards += f'<div class="card"><b class="{severity}">{count}</b>{severity} findings</div>'
    return (
        "<h1>Quality and insights report</h1>"
        f"<p>Payments from {report['from'][:10]} to {report['until'][:10]}, with the labels that were known on "
        f"{report['as_of'][:10]}. <strong>High</strong> is what silently spoils a model, <strong>medium</strong> needs "
        f'a decision, <strong>low</strong> is good to know.</p><div class="cards">{cards}</div>'
    )


def _leaks(report: Mapping[str, Any]) -> str:
    time, entity, delay = (report["leaks"][name] for name in ("time", "entity", "delay"))
    cards = []
    if time["flattering"] is not None:
        top = max(time["flattering"], time["honest"], 1e-9)
        bars = _bar("random split", time["flattering"] / top, _number(time["flattering"]), True)
        bars += _bar("split in time", time["honest"] / top, _number(time["honest"]))
        plain = report["quick_model"]
        text = (
            "Average precision of the quick model. By the columns alone, without a memory of cards and terminals: "
            f"{_number(plain['random']['without_memory'])} and {_number(plain['time']['without_memory'])}."
        )
        cards.append(_card("Through time", time["severity"], text, bars))
    if entity["flattering"] is not None:
        top = max(entity["flattering"], entity["honest"], 1e-9)
        bars = _bar("random split", entity["flattering"] / top, _number(entity["flattering"]), True)
        bars += _bar("new cards", entity["honest"] / top, _number(entity["honest"]))
        text = (
            f"In the random split, {_percent(entity['seen']['random'], 0)} of the frauds that are to be found are on "
        )
        cards.append(_card("Through the entity", entity["severity"], text + "cards with a fraud in training.", bars))
    if delay["share_known"] is not None:
        top = max(delay["expected_rate"], 1e-9)
        bars = _bar("apparent rate", delay["apparent_rate"] / top, _percent(delay["apparent_rate"]), True)
        bars += _bar("when ripe", 1.0 if delay["expected_rate"] else 0.0, _percent(delay["expected_rate"]))
        text = f"Of the youngest week's frauds, {_percent(1 - delay['share_known'], 0)} still count as honest. "
        text += f"Of all known frauds, {_percent(delay['overruled'], 0)} were first written down as honest."
        cards.append(_card("Through label delay", delay["severity"], text, bars))
    suspects = "".join(f"<li><code>{escape(s['column'])}</code> {escape(s['reason'])}</li>" for s in time["suspects"])
    if suspects:
        cards.append(_card("Columns that know too much", "high", "", f"<ul>{suspects}</ul>"))
    body = "".join(cards) or "<p>Too few labels of both classes to measure leaks.</p>"
    return f'<h2>Leaks that no look at the columns shows</h2><div class="leaks">{body}</div>'


def _card(title: str, severity: str, text: str, body: str) -> str:
    return f'<div class="card"><h3>{title} {_tag(severity)}</h3>{body}<p class="soft">{text}</p></div>'


def _findings(report: Mapping[str, Any]) -> str:
    items = "".join(
        f'<li>{_tag(f["severity"])} {escape(f["check"])} <code class="soft">{escape(f["column"])}</code>'
        f"<br>{escape(f['message'])}</li>"
        for f in report["findings"]
    )
    return f'<h2>Findings</h2><ul class="findings">{items}</ul>' if items else "<h2>Findings</h2><p>None.</p>"


def _delay(report: Mapping[str, Any]) -> str:
    curve, triangle = report["maturity_curve"], report["triangle"]
    if not triangle or not report["maturity"]["frauds"]:
        return ""
    weeks = sorted({cell["week"] for cell in triangle})
    last = max(cell["weeks_later"] for cell in triangle)
    top = max(cell["rate"] for cell in triangle) or 1.0
    cells = {(c["week"], c["weeks_later"]): c["rate"] for c in triangle}
    rows = []
    for week in weeks:
        row = [week[:10]]
        for later in range(last + 1):
            rate = cells.get((week, later))
            heat = 0 if rate is None else 55 * rate / top
            shown = "" if rate is None else _percent(rate)
            row.append(f'<td class="heat" style="--heat:{heat:.0f}">{shown}</td>')
        rows.append(row)
    head = ["week of the payments", *("at its end" if k == 0 else f"{k} w later" for k in range(last + 1))]
    known = report["maturity"]
    return (
        "<h2>How fraud ripens</h2>"
        f"<p>Half of the frauds are known {known['median_days']:.1f} days after the payment, "
        f"{_percent(known['known_after_7_days'], 0)} after 7 days, {_percent(known['known_after_21_days'], 0)} "
        "after 21.</p>" + _curve(curve) + "<p>The fraud rate of each week, as it looked at its end and later. Read a "
        "row: the same payments, other knowledge. Read a column: weeks that can be compared.</p>" + _table(head, rows)
    )


def _curve(shares: Sequence[float | None]) -> str:
    width, height, left, bottom = 640, 240, 50, 40
    points = [(d, s) for d, s in enumerate(shares) if s is not None]
    days = max(len(shares) - 1, 1)

    def place(day: float, share: float) -> tuple[float, float]:
        return left + day / days * (width - left - 15), 12 + (1 - share) * (height - bottom - 12)

    parts = []
    for share in (0, 0.25, 0.5, 0.75, 1):
        x, y = place(0, share)
        parts.append(f'<line class="grid" x1="{left}" x2="{width - 15}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(f'<text x="{x - 6:.1f}" y="{y + 4:.1f}" text-anchor="end">{100 * share:.0f} %</text>')
    for day in range(0, days + 1, 7):
        x, y = place(day, 0)
        parts.append(f'<text x="{x:.1f}" y="{y + 17:.1f}" text-anchor="middle">{day}</text>')
    line = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in points)
    parts.append(f'<polyline class="curve" points="{line}"/>')
    parts.append(f'<text x="{(left + width) / 2}" y="{height - 4}" text-anchor="middle">days since the payment</text>')
    label = "Share of the frauds that are known, by days since the payment"
    return f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{label}">{"".join(parts)}</svg>'


def _model(report: Mapping[str, Any]) -> str:
    splits = report["quick_model"]
    if not splits:
        return "<h2>Quick model</h2><p>Too few cases of a class: no model was fitted.</p>"
    names = {"random": "random, stratified", "time": "in time", "entity": "by card"}
    rows = [
        [names[name], f"{s['payments']:,}", f"{s['frauds']:,}", f"{_number(s['average_precision'])} ± {s['error']:.3f}",
         _number(s["without_memory"]), _number(s["auc"]), _percent(s["seen"], 0)]
        for name, s in splits.items()
    ]  # fmt: skip
    counts = splits["random"]["confusion"]
    confusion = [
        ["fraud", f"{counts['caught']:,}", f"{counts['missed']:,}"],
        ["honest", f"{counts['false_alarms']:,}", f"{counts['passed']:,}"],
    ]
    head = ["split", "payments", "frauds", "average precision", "without memory", "AUC", "frauds on known cards"]
    return (
        "<h2>Quick model</h2><p>Boosted trees on the columns as they are, and on the memory of each card and terminal "
        "in the training rows. The random split is what a vendor's report shows; do not expect it in service.</p>"
        + _table(head, rows)
        + "<p>Confusion matrix of the stratified split, with as many alerts as there are frauds:</p>"
        + _table(["", "flagged", "not flagged"], confusion)
    )


def _power(report: Mapping[str, Any]) -> str:
    powers = [(name, power) for name, power in report["power"].items() if power is not None]
    if not powers:
        return ""
    bars = "".join(_bar(n, p, _number(p)) for n, p in sorted(powers, key=lambda pair: -pair[1])[:30])
    return (
        "<h2>Prediction power</h2><p>What each column tells by itself: 0 is nothing, 1 is everything, a reason to ask "
        f"where the column comes from.</p>{bars}"
    )


def _columns(report: Mapping[str, Any]) -> str:
    text = "<h2>Columns</h2>"
    for table, content in report["tables"].items():
        rows = []
        for name, p in list(content["columns"].items())[:_SHOWN]:
            out = p.get("outliers")
            rows.append([
                f"<code>{escape(name)}</code>", p["type"], f"{p['distinct']:,}", _percent(p["missing"]),
                _percent(p["disguised"]) + (f" <code>{escape(p['mask'])}</code>" if p["mask"] else ""),
                _percent(p["invalid"]), _percent(out["plain"] if out else None), _percent(out["log"] if out else None),
            ])  # fmt: skip
        head = ["column", "type", "distinct", "missing", "disguised", "invalid", "outliers", "of logarithms"]
        text += f"<h3>{escape(table)}: {content['rows']:,} rows</h3>" + _table(head, rows)
        if len(content["columns"]) > _SHOWN:
            text += f"<p>The first {_SHOWN} of {len(content['columns'])} columns; all are in report.json.</p>"
    return text


def _upstream(report: Mapping[str, Any]) -> str:
    sources = report["upstream"]["sources"]
    if not sources:
        return ""
    names = ("read", "accepted", "quarantined", "duplicates", "superseded")
    rows = [[escape(source), *(f"{counts[name]:,}" for name in names)] for source, counts in sources.items()]
    return "<h2>What collection has caught</h2>" + _table(["source", *names], rows)


def _limits(report: Mapping[str, Any]) -> str:
    points = [f"<li>{escape(name)}: {escape(how)}.</li>" for name, how in report["sample"].items()]
    points.append("<li>All other figures are counts over all rows.</li>")
    points.append(
        "<li>A fraud that nobody has reported is not in any figure, and a wrong label looks like a right one.</li>"
    )
    return f"<h2>What this report has looked at</h2><ul>{''.join(points)}</ul>"
