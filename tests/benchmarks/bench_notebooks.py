"""The notebooks: each alone from its own empty data folder, then all with warm artifacts."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from measure import NOTEBOOKS, Run, run_notebook

LIMIT = 1800


def run(only: str = "") -> list[dict[str, Any]]:
    """Run the notebooks cold and warm. ``notebooks.warm`` and ``notebooks.alone`` choose one half."""
    rows = []
    if not only.startswith("notebooks.alone"):
        rows += warm()
    if not only.startswith("notebooks.warm"):
        rows += alone()
    return rows


def alone() -> list[dict[str, Any]]:
    """Each notebook from an empty folder of its own: it has to build all it needs."""
    rows = []
    for notebook in NOTEBOOKS:
        with tempfile.TemporaryDirectory(prefix="lifecycle-alone-", ignore_cleanup_errors=True) as folder:
            result = run_notebook(notebook, Path(folder), LIMIT)
        rows += figures("alone", notebook, result, f"passes within {LIMIT} s", result.passed)
    return rows


def warm() -> list[dict[str, Any]]:
    """All notebooks in turn, with every artifact in place."""
    with tempfile.TemporaryDirectory(prefix="lifecycle-warm-", ignore_cleanup_errors=True) as folder:
        first = run_notebook(NOTEBOOKS[-1], Path(folder), LIMIT)
        for notebook in NOTEBOOKS[:-1]:
            run_notebook(notebook, Path(folder), LIMIT)
        results = {notebook: run_notebook(notebook, Path(folder), LIMIT) for notebook in NOTEBOOKS}
    rows = []
    for notebook, result in results.items():
        rows += figures("warm", notebook, result, "at most 60 s", result.passed and result.seconds <= 60)
    total = sum(result.seconds for result in results.values())
    rows.append(row("notebooks.warm.sum", "all nine with warm artifacts", total, "s", "at most 240 s", total <= 240))
    rows.append(row("notebooks.cold.last", "the last one, from nothing", first.seconds, "s", "passes", first.passed))
    return rows


def figures(kind: str, notebook: Path, result: Run, goal: str, met: bool) -> list[dict[str, Any]]:
    """Return the rows of time and of memory of one run."""
    name = f"notebooks.{kind}.{notebook.stem[:2]}"
    what = f"{notebook.stem}, {kind}"
    if not result.passed:
        print(result.output[-3000:])
    return [
        row(f"{name}.seconds", f"{what}: wall clock", result.seconds, "s", goal, met),
        row(f"{name}.memory", f"{what}: peak memory", result.peak_mb, "MB", "under 3000 MB", result.peak_mb < 3000),
    ]


def row(name: str, what: str, ours: float, unit: str, goal: str, met: bool) -> dict[str, Any]:
    """Return one row without a peer."""
    return {
        "name": name,
        "what": what,
        "ours": round(ours, 1),
        "peer": None,
        "unit": unit,
        "ratio": None,
        "goal": goal,
        "met": bool(met),
    }
