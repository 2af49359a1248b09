"""Public data sets behind one interface: a card for each, a reader, and what a set cannot support.

Nothing is shipped and nothing is downloaded. A set is read from where its usual tool caches it, or from a path.
`python -m lifecycle datasets` prints the cards; `python -m lifecycle run --dataset NAME` runs those that can be run.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifecycle.datasets import readers
from lifecycle.datasets.cards import CARDS, Card, as_markdown, as_text
from lifecycle.errors import LifecycleError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["CARDS", "Card", "as_markdown", "as_text", "load", "prepare_run"]


def _card(name: str) -> Card:
    if name not in CARDS:
        raise LifecycleError(f"There is no data set {name!r}; choose one of {', '.join(CARDS)}.")
    return CARDS[name]


def _place(card: Card, path: Path | str | None) -> Path:
    """Return where the set is; without a path, where its usual tool keeps it."""
    found = Path(path) if path is not None else Path(card.place).expanduser()
    if not found.exists():
        raise LifecycleError(
            f"The data set {card.name!r} is not at {found}, and nothing is downloaded here: {card.by_hand}"
        )
    return found


def load(name: str, path: Path | str | None = None) -> pd.DataFrame:
    """Read a public data set into one table, with the columns that its source gives it.

    Parameters
    ----------
    name
        A key of `CARDS`.
    path
        The file or folder; by default `Card.place`.

    Raises
    ------
    LifecycleError
        If the set is unknown, not there, or not what its card says.

    Examples
    --------
    >>> load("creditcard-csv", "no-such.csv")
    Traceback (most recent call last):
    ...
    lifecycle.errors.LifecycleError: The data set 'creditcard-csv' is not at no-such.csv, and nothing is downloaded \
here: place creditcard.csv (Kaggle, mlg-ulb/creditcardfraud) there, or name it with `--file`.
    """
    card = _card(name)
    return readers.READERS[name](_place(card, path))


def prepare_run(name: str, path: Path | str | None, folder: Path) -> tuple[Path, dict[str, Any]]:
    """Return a file of transactions and its mapping, ready for ``run``.

    Parameters
    ----------
    name, path
        As in `load`.
    folder
        Where a set that is no CSV is written as Parquet.

    Raises
    ------
    LifecycleError
        If the set cannot support a run, with the reason.
    """
    card = _card(name)
    if card.refusal:
        raise LifecycleError(
            f"The data set {name!r} cannot be run through the lifecycle: {card.refusal}; read it with "
            f"lifecycle.datasets.load({name!r}) for what it does support: {card.good_for}."
        )
    place = _place(card, path)
    if name == "sparkov":
        columns = readers.check_header(place, readers.SPARKOV, name)
        drop = [column for column in readers.SPARKOV_DROP if column in columns]
        return place, {**readers.SPARKOV_MAP, "drop": drop}
    from lifecycle import files

    table = readers.READERS[name](place)
    target = folder / f"{name}.parquet"
    files.write_parquet(table, target)
    return target, {**readers.HANDBOOK_MAP, "drop": [c for c in readers.HANDBOOK_DROP if c in table.columns]}
