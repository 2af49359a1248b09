"""The ledger of openings: which choice was made before the test weeks were looked at, and how often they were.

A test set is honest once. Who sees the verdict and then chooses again has let the test take part in the choice,
whatever the order of the lines of code. No program can forbid that: prices change, code is mended, and the stage has
to run again. So every choice is written down before the test set is handed out, and a second, other choice for the
same weeks stays visible as a second opening. The same choice made again, by a re-run, is no new opening.

The ledger is ``<data_dir>/openings.json``, beside the artifacts, which come and go.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from lifecycle import files
from lifecycle.preprocessing.tables import open_database, parquet

DIGITS = 6
_BATCH = 100_000


@dataclass(frozen=True)
class Choice:
    """What is decided before the test weeks are opened: the champion, its validation score and its threshold.

    Examples
    --------
    >>> Choice("random_forest", 0.51, 0.02).champion
    'random_forest'
    """

    champion: str
    validation_average_precision: float
    threshold: float


def open_test(features: Path, choice: Choice, settings: Any) -> tuple[Path, dict[str, Any]]:
    """Write the choice into the ledger, then hand out the test set. Nothing else in this stage knows where it is.

    Parameters
    ----------
    features
        The features artifact, with ``test_set.parquet``.
    choice
        What was chosen on the validation weeks.
    settings
        With ``data_dir``, ``test_from`` and ``test_until``.

    Returns
    -------
    path, opening
        The file of the test set, and the entry of the ledger: ``number`` (1 for the first choice that these weeks
        judge), ``test_sha256``, ``from``, ``until``, the fields of `Choice`, and ``earlier`` (the entries before it).
    """
    path = features / "test_set.parquet"
    entry = {
        "test_sha256": fingerprint(path),
        "from": settings.test_from.isoformat(),
        "until": settings.test_until.isoformat(),
        **{key: round(value, DIGITS) if isinstance(value, float) else value for key, value in asdict(choice).items()},
    }
    opening = record(Path(settings.data_dir) / "openings.json", entry)
    if opening["earlier"]:
        print(f"[lifecycle] {describe(opening)}", file=sys.stderr, flush=True)
    return path, opening


def fingerprint(path: Path) -> str:
    """Return the SHA-256 of which payments a test set holds and how they are labeled.

    The features do not count: new features for the same payments do not make the weeks unseen again. Neither does the
    order of the rows: they are sorted, on disk where they are many.
    """
    digest = hashlib.sha256()
    with open_database() as db:
        found = db.sql(f"SELECT transaction_id, is_fraud FROM {parquet(path)} ORDER BY transaction_id")
        for batch in found.to_arrow_reader(_BATCH):
            table = batch.to_pandas().astype({"is_fraud": "float64"})
            rows = pd.util.hash_pandas_object(table, index=False)
            digest.update(rows.to_numpy().astype("<u8").tobytes())
    return digest.hexdigest()


def record(ledger: Path, entry: dict[str, Any]) -> dict[str, Any]:
    """Add an entry to the ledger unless it is there already, and return it with its ``number`` and ``earlier``."""
    ledger.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(ledger.with_name(f".{ledger.name}.lock")):
        entries = files.read_json(ledger) if ledger.exists() else []
        if entry not in entries:
            entries.append(entry)
            files.write_json(entries, ledger)
    same = [one for one in entries if one["test_sha256"] == entry["test_sha256"]]
    place = same.index(entry)
    return {"number": place + 1, **entry, "earlier": same[:place]}


def describe(opening: dict[str, Any]) -> str:
    """Return in a sentence or two how often the test weeks were opened, and what that means for the verdict.

    Examples
    --------
    >>> first = {"champion": "rule", "threshold": 0.5, "validation_average_precision": 0.1}
    >>> one = {"number": 1, "from": "2025-09-29", "until": "2025-10-20", **first, "earlier": []}
    >>> describe(one)
    'The test weeks 2025-09-29 to 2025-10-20 were opened once, for a choice made before.'
    """
    weeks = f"The test weeks {opening['from']} to {opening['until']} were opened"
    if not opening["earlier"]:
        return f"{weeks} once, for a choice made before."
    first = opening["earlier"][0]
    return (
        f"{weeks} {opening['number']} times, each time for another choice; the first was {first['champion']} with "
        f"threshold {first['threshold']:.4f}. They may have taken part in this choice, so its score can be too good: "
        "judge it on later weeks (--test-from, --test-until)."
    )
