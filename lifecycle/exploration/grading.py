"""Grade a report against a list of what was planted. This is the one place where such a list has a use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

PLANTED = ("what", "check", "column", "planted")
"""The columns of a list of planted defects: words, the check that should find it, the place, the share."""


def grade(findings: Sequence[Mapping[str, Any]], planted: Sequence[Sequence[Any]]) -> pd.DataFrame:
    """Return one row a planted defect, found or missed, and one row for each false finding.

    False is a finding of a defect, at any severity, where none was planted. Leaks and properties of the problem
    are no defects of the data and are not graded.

    Parameters
    ----------
    findings
        The findings of one or several reports.
    planted
        Rows of (what, check, column, share); a check of None means that the defect leaves no trace to find.

    Returns
    -------
    DataFrame
        ``what``, ``check``, ``column``, ``planted`` and ``measured`` (shares of the rows), ``verdict`` (found,
        missed, false) and ``severity``.

    Examples
    --------
    >>> finding = {"kind": "defect", "check": "missing", "column": "t.a", "share": 0.1, "severity": "medium"}
    >>> grade([finding], [("gaps in a", "missing", "t.a", 0.1)])["verdict"].tolist()
    ['found']
    >>> grade([finding], [("gaps in b", "missing", "t.b", 0.1)])["verdict"].tolist()
    ['missed', 'false']
    """
    defects = {(f["check"], f["column"]): f for f in findings if f["kind"] == "defect"}
    rows = []
    for what, check, column, share in planted:
        hit = defects.get((check, column))
        rows.append(
            (what, check, column, share, hit and hit["share"], "found" if hit else "missed", hit and hit["severity"])
        )
    expected = {(check, column) for _, check, column, _ in planted}
    for (check, column), finding in defects.items():
        if (check, column) not in expected:
            rows.append((finding.get("message"), check, column, None, finding["share"], "false", finding["severity"]))
    return pd.DataFrame(rows, columns=[*PLANTED, "measured", "verdict", "severity"])
