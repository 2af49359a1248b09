"""The accounting: for every source and day, what was read equals what became of it."""

from __future__ import annotations

import pandas as pd

from lifecycle.errors import LifecycleError

COUNTS = ("read", "accepted", "quarantined", "duplicates", "superseded")
"""The columns of the accounting: the first is the sum of the others."""


def check_accounting(accounting: pd.DataFrame) -> pd.DataFrame:
    """Return the accounting in its final form, after checking that every record has one fate.

    Parameters
    ----------
    accounting
        Columns `source`, `day` (datetime64[us, UTC], missing for a source that is not delivered by day)
        and `COUNTS`. A missing count means zero.

    Raises
    ------
    LifecycleError
        If a source and day read more or fewer records than it accounts for.

    Examples
    --------
    >>> check_accounting(pd.DataFrame({"source": ["a"], "read": [3], "accepted": [2], "duplicates": [1]}))["read"].sum()
    np.int64(3)
    """
    table = accounting.reindex(columns=["source", "day", *COUNTS])
    table[list(COUNTS)] = table[list(COUNTS)].fillna(0).astype("int64")
    table["day"] = pd.to_datetime(table["day"], utc=True).astype("datetime64[us, UTC]")
    wrong = table[table["read"] != table[list(COUNTS[1:])].sum(axis=1)]
    if len(wrong):
        first = wrong.iloc[0]
        raise LifecycleError(
            f"Collection lost count in {len(wrong)} deliveries, first {first['source']} of {first['day']}: "
            f"{dict(first[list(COUNTS)])}; this is a defect of the collection code, please report it."
        )
    return table.sort_values(["source", "day"]).reset_index(drop=True)
