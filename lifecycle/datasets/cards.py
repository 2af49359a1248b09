"""What is known of each public data set, before anybody reads it."""

from __future__ import annotations

from dataclasses import dataclass, fields


@dataclass(frozen=True)
class Card:
    """The facts of one set; ``refusal`` says why it cannot be run through the lifecycle, None if it can."""

    name: str
    source: str
    license: str
    redistributable: str
    has_time: str
    has_entities: str
    label_delay: str
    place: str
    by_hand: str
    good_for: str
    refusal: str | None = None


_TWO_DAYS = (
    "it covers two days and names no customers and no terminals, so there is no past to make features of, no room for "
    "a label delay, and no later week to test on"
)

CARDS: dict[str, Card] = {
    card.name: card
    for card in (
        Card(
            "creditcard-openml",
            "OpenML data set 1597, European card payments of two days in September 2013 (ULB and Worldline)",
            "DbCL 1.0, as stated by its publishers; OpenML lists it as public",
            "yes, with attribution; not shipped here",
            "no: OpenML leaves out the column Time",
            "no customers, no terminals",
            "none stated: labels are final",
            "~/scikit_learn_data/openml",
            'call sklearn.datasets.fetch_openml(data_id=1597, parser="liac-arff") once where there is a network, and '
            "copy its folder ~/scikit_learn_data/openml.",
            "imbalance, ranking and thresholds on shuffled rows",
            "it has no time, no customers and no terminals, so nothing can be split by time or computed from a past",
        ),
        Card(
            "creditcard-csv",
            "Kaggle, mlg-ulb/creditcardfraud: creditcard.csv, 284,807 payments, 492 frauds",
            "DbCL 1.0",
            "yes, with attribution; not shipped here",
            "seconds since the first payment, over two days; no date",
            "no customers, no terminals",
            "none stated: labels are final",
            "~/creditcard.csv",
            "place creditcard.csv (Kaggle, mlg-ulb/creditcardfraud) there, or name it with `--file`.",
            "imbalance, ranking and thresholds, in the order of time",
            _TWO_DAYS,
        ),
        Card(
            "skrub-credit-fraud",
            "skrub.datasets.fetch_credit_fraud: baskets of an online shop and their products",
            "see skrub's data repository; none is stated in the files",
            "not known: treat it as not redistributable",
            "no",
            "baskets and products, but no customers and no terminals",
            "none stated: labels are final",
            "~/skrub_data/credit_fraud",
            "call skrub.datasets.fetch_credit_fraud() once where there is a network, and copy its folder "
            "~/skrub_data/credit_fraud (in it, credit_fraud/baskets.csv and credit_fraud/products.csv).",
            "joining and aggregating two tables",
            "its baskets have no time and no customer, so nothing can be split by time or computed from a past",
        ),
        Card(
            "sparkov",
            "Kaggle, kartik2112/fraud-detection: fraudTrain.csv and fraudTest.csv, simulated with Sparkov",
            "CC0 1.0 for the published files; the generator is MIT",
            "yes; not shipped here",
            "yes: trans_date_trans_time, read as UTC; unix_time lies seven years off and is not used",
            "cards (cc_num) and merchants; a merchant is taken for the terminal",
            "assumed",
            "~/fraudTrain.csv",
            "place fraudTrain.csv (Kaggle, kartik2112/fraud-detection) there, or name it with `--file`.",
            "the whole lifecycle",
        ),
        Card(
            "handbook",
            'the handbook "Reproducible Machine Learning for Credit Card Fraud Detection": its simulated daily files',
            "none stated in the data repository; the license of the handbook speaks of its own code and text",
            "not known: treat it as not redistributable",
            "yes: TX_DATETIME, read as UTC",
            "customers and terminals",
            "assumed",
            "~/simulated-data-raw/data",
            "clone the handbook's repository simulated-data-raw there, or name its folder data with `--file`.",
            "the whole lifecycle",
        ),
    )
}

_TITLES = {"has_time": "time", "has_entities": "customers and terminals", "label_delay": "label delay",
           "by_hand": "to place it by hand", "good_for": "good for", "refusal": "why not run"}  # fmt: skip


def as_text() -> str:
    """Return all cards as text for a terminal.

    Examples
    --------
    >>> as_text().splitlines()[0]
    'creditcard-openml'
    """
    return "\n\n".join("\n".join([card.name, *(f"  {k}: {v}" for k, v in _facts(card))]) for card in CARDS.values())


def as_markdown() -> str:
    """Return all cards as Markdown, a section each, for the book.

    Examples
    --------
    >>> as_markdown().startswith("### creditcard-openml")
    True
    """
    return "\n\n".join(
        "\n".join([f"### {card.name}", "", *(f"- **{k}**: {v}" for k, v in _facts(card))]) for card in CARDS.values()
    )


def _facts(card: Card) -> list[tuple[str, str]]:
    values = [(field.name, getattr(card, field.name)) for field in fields(card) if field.name != "name"]
    return [(_TITLES.get(key, key), value) for key, value in values if value is not None]
