"""The model card: what somebody must know who did not build the model, filled in from the run.

The sections are those of Mitchell et al., "Model cards for model reporting", FAT* 2019. A card is a list of statements
a section. Each statement has a ``text``, and the template and the places in ``report.json`` that its numbers come
from, so that anyone can check the card against the report (`check_card`).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

from lifecycle import files
from lifecycle.errors import LifecycleError

SECTIONS = (
    "Model details",
    "Intended use",
    "Factors",
    "Metrics",
    "Evaluation data",
    "Training data",
    "Quantitative analyses",
    "Ethical considerations",
    "Caveats and recommendations",
)
CARD_FILES = ("model_card.json", "model_card.md", "model_card.html")
_STYLE = (
    ":root { color-scheme: light dark; } body { font: 16px/1.5 system-ui, sans-serif; max-width: 50rem; "
    "margin: 2rem auto; padding: 0 1rem; overflow-wrap: anywhere; }"
)
"""Without colors of its own: light and dark are the browser's."""

_PLACE = re.compile(r"\{([^{}:]+)(?::([^{}]*))?\}")


def look_up(report: Mapping[str, Any], place: str) -> Any:
    """Return the value at a place of the report, written as keys and positions with slashes between them.

    Raises
    ------
    LifecycleError
        If the report has no such place.

    Examples
    --------
    >>> look_up({"weeks": [{"frauds": 3}]}, "weeks/0/frauds")
    3
    """
    found: Any = report
    for step in place.split("/"):
        try:
            found = found[int(step)] if isinstance(found, list) else found[step]
        except (KeyError, IndexError, TypeError, ValueError):
            raise LifecycleError(
                f"The report has nothing at {place!r}: {step!r} is missing; build both again."
            ) from None
    return found


def fill_in(template: str, report: Mapping[str, Any]) -> str:
    """Return a template with the values of the report in place of ``{place}`` or ``{place:format}``.

    A value that could not be computed reads ``"not known"``.

    Examples
    --------
    >>> fill_in("Recall {models/m/recall:.1%}.", {"models": {"m": {"recall": 0.873}}})
    'Recall 87.3%.'
    """

    def value(match: re.Match[str]) -> str:
        found = look_up(report, match[1])
        return "not known" if found is None else format(found, match[2] or "")

    return _PLACE.sub(value, template)


def make_card(report: Mapping[str, Any]) -> dict[str, Any]:
    """Return the card of the champion of a report.

    Parameters
    ----------
    report
        The content of ``report.json``.

    Returns
    -------
    dict
        ``title``, and ``sections``: one of `SECTIONS` -> statements, each with ``template`` and ``text``.
    """
    own = report.get("own") is not None
    templates = {
        "Model details": _details(),
        "Intended use": _use(),
        "Factors": _factors(report),
        "Metrics": _metrics(),
        "Evaluation data": _evaluation_data(report),
        "Training data": _training_data(own),
        "Quantitative analyses": _analyses(report) if report["judged"] else ["{note}"],
        "Ethical considerations": _ethics(report, own),
        "Caveats and recommendations": _caveats(report, own),
    }
    sections = {
        name: [{"text": fill_in(template, report), "template": template} for template in templates[name]]
        for name in SECTIONS
    }
    return {"title": fill_in("Fraud model {champion/name}, version {champion/version}", report), "sections": sections}


def check_card(card: Mapping[str, Any], report: Mapping[str, Any]) -> None:
    """Raise if a card is not complete or says another number than the report.

    Raises
    ------
    LifecycleError
        If a section is missing or empty, or if a statement is not its template filled in from the report.
    """
    for name in SECTIONS:
        statements = card.get("sections", {}).get(name)
        if not statements:
            raise LifecycleError(f"The model card has nothing under {name!r}: build it again with the evaluation.")
        for one in statements:
            if one["text"] != fill_in(one["template"], report):
                raise LifecycleError(
                    f"The model card says {one['text']!r} under {name!r}, and the report "
                    f"{fill_in(one['template'], report)!r}: they are from different runs; build both again."
                )


def write_model_card(report: Mapping[str, Any], folder: Path) -> None:
    """Write the card of the champion beside the model, as JSON, as Markdown and as a page.

    Parameters
    ----------
    report
        The content of ``report.json``.
    folder
        The model folder.
    """
    card = make_card(report)
    files.write_json(card, folder / CARD_FILES[0])
    with files.replacing(folder / CARD_FILES[1]) as temporary:
        temporary.write_text(card_markdown(card), encoding="utf-8")
    with files.replacing(folder / CARD_FILES[2]) as temporary:
        temporary.write_text(
            '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
            '<meta name="viewport" content="width=device-width, initial-scale=1">'
            f"<title>{escape(card['title'])}</title><style>{_STYLE}</style></head>\n"
            f"<body>\n<h1>Model card: {escape(card['title'])}</h1>\n{card_section(card)}\n</body></html>\n",
            encoding="utf-8",
        )


def card_markdown(card: Mapping[str, Any]) -> str:
    """Return the card as Markdown, one list a section."""
    parts = [f"# Model card: {card['title']}\n"]
    for name, statements in card["sections"].items():
        parts.append(f"## {name}\n\n" + "\n".join(f"- {one['text']}" for one in statements) + "\n")
    return "\n".join(parts)


def card_section(card: Mapping[str, Any]) -> str:
    """Return the sections of the card as HTML, without head and title."""
    return "\n".join(
        f"<h2>{escape(name)}</h2><ul>" + "".join(f"<li>{escape(one['text'])}</li>" for one in statements) + "</ul>"
        for name, statements in card["sections"].items()
    )


def _details() -> list[str]:
    return [
        "{champion/name}, version {champion/version}: a classifier that gives each payment a score from 0 to 1, "
        "to be read as its probability of fraud.",
        "A payment is flagged from a score of {champion/threshold:.4f}: the threshold that saved most in validation.",
        "Chosen by {champion/chosen_by}, where it reached {champion/validation_average_precision:.3f}, before the test "
        "weeks were opened.",
        "SHA-256 of the model {lineage/model.onnx}, of its feature schema {lineage/feature_schema.json}; "
        "code version {lineage/code_version}, run {champion/run_id}.",
    ]


def _use() -> list[str]:
    return [
        "For ranking card payments by risk, so that analysts look at the most suspect ones.",
        "By the fraud team of the bank whose payments it was trained on.",
        "Not for declining a payment or closing an account without a person, not for judging a customer's honesty or "
        "credit, and not for another bank's payments without a new evaluation.",
    ]


def _factors(report: Mapping[str, Any]) -> list[str]:
    groups = ", ".join(report["slices"]) or "none: the data holds no groups"
    return [
        f"Groups looked at: {groups}. Age and region are no inputs of the model; its features can stand for them.",
        "A group with too few frauds or victims is named and left out of every comparison.",
        "The kind of fraud, the week and the channel change what the model can see.",
    ]


def _metrics() -> list[str]:
    return [
        "Average precision and AUC for the ranking; recall, precision and F1 at the threshold; card precision at "
        "{settings/cards_per_day} for what a team can check; calibration; and money.",
        "Money: a missed fraud costs its amount and {settings/chargeback_fee:g}, an alert {settings/review_cost:g}, a "
        "stopped honest payment {settings/friction_cost:g} more, in account currency. These prices are assumptions.",
        "Intervals hold the middle 95% of a bootstrap that draws whole customers.",
    ]


def _evaluation_data(report: Mapping[str, Any]) -> list[str]:
    sample = ["{sample/note}"] if report["sample"]["note"] else []
    return [
        *sample,
        "{test/payments:,} payments from {test/from} until {test/until} (the last day is not included), of which "
        "{test/labeled:,} have a known label and {test/frauds:,} are known frauds.",
        "Labels are what was known on {test/labels_as_of}. SHA-256 of the test set {lineage/test_set.parquet}, of the "
        "label history {lineage/labels.parquet}.",
    ]


def _training_data(own: bool) -> list[str]:
    origin = "Payments of a file of one's own." if own else "Simulated payments of a bank that does not exist."
    return [
        f"{origin} No real person's data is in this repository.",
        "{champion/rows:,} payments from {champion/trained_from} until {champion/trained_until}, {champion/frauds:,} "
        "of them known frauds, with the labels known before the test began. SHA-256 {lineage/training_set.parquet}.",
    ]


def _interval(place: str, form: str) -> str:
    return "{%s/value:%s} ({%s/low:%s} to {%s/high:%s})" % (place, form, place, form, place, form)  # noqa: UP031


def _analyses(report: Mapping[str, Any]) -> list[str]:
    own = f"models/{report['champion']['name']}"
    names = {"average_precision": "Average precision", "auc": "AUC", "recall": "Recall", "precision": "Precision",
             "f1": "F1", "card_precision": "Card precision", "accuracy": "Accuracy"}  # fmt: skip
    found = [f"{words}: {_interval(f'{own}/{name}', '.3f')}." for name, words in names.items()]
    found[-1] += " A model that never says fraud reaches {never_fraud/accuracy:.3f}, and stops nothing."
    found.append(f"Saved in the test weeks: {_interval(f'{own}/savings', ',.0f')}, {{money/share_of_perfect:.0%}} of "
                 "what perfect decisions would.")  # fmt: skip
    found.append(f"Frauds expected by the scores for each that occurred: {_interval('balance', '.2f')}.")
    for attribute, rows in report["slices"].items():
        for place, row in enumerate(rows):
            at = f"slices/{attribute}/{place}"
            if row["small"]:
                few = "too few for a claim" if report["sample"]["share"] == 1 else "too few in the sample for a claim"
                of = f"{{{at}/frauds}} frauds of {{{at}/victims}} customers"
                found.append(f"{attribute} {{{at}/group}}: {of}, {few}.")
                continue
            found.append(
                f"{attribute} {{{at}/group}}: recall {_interval(f'{at}/intervals/recall', '.2f')}, precision "
                f"{_interval(f'{at}/intervals/precision', '.2f')}, false alarms per honest customer "
                f"{_interval(f'{at}/intervals/false_declines', '.2f')}, expected to observed frauds "
                f"{_interval(f'{at}/intervals/calibration', '.2f')}."
            )
    return found


def _ethics(report: Mapping[str, Any], own: bool) -> list[str]:
    found = ["A false alarm stops an honest person's payment. A person must be able to lift it at once."]
    for attribute, gaps in report["fairness"]["gaps"].items():
        if "false_declines" not in gaps:
            continue
        at = f"fairness/gaps/{attribute}/false_declines"
        clear = "clear of zero" if gaps["false_declines"]["clear"] else "not clear of zero"
        found.append(
            f"By {attribute}, false alarms per honest customer differ most between {{{at}/lowest}} and "
            f"{{{at}/highest}}: by {_interval(at, '.2f')}, widened for the number of pairs; {clear}."
        )
    if not own:
        found.append("The customers are simulated: what is said of groups here says nothing about real people.")
    return found


def _caveats(report: Mapping[str, Any], own: bool) -> list[str]:
    found = [
        "A fraud that nobody had reported by {test/labels_as_of} counts as honest.",
        "The test says nothing about another season, or about a kind of fraud that did not occur in it.",
    ]
    for place, check in enumerate(report["behavior"]):
        if not check["passed"]:
            found.append(f"Behavior: {{behavior/{place}/check}} was found in {{behavior/{place}/found:.3g}}, needed is "
                         f"{{behavior/{place}/bound}} {{behavior/{place}/needed:g}}.")  # fmt: skip
    if report["oracle"]:
        found.append("An oracle that knows the hidden state of the bank reaches an average precision of "
                     "{oracle/by_truth/oracle:.3f}; this model reaches {oracle/share_reached:.0%} of it.")  # fmt: skip
    if own:
        found += [f"{{own/warnings/{place}}}" for place in range(len(report["own"]["warnings"]))]
    found.append("Monitor it after release, and judge it again on new weeks before it is trained or tuned anew.")
    return found
