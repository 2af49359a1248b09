"""Run the benchmarks, print one table, and write ``_build/benchmarks.json``.

    python tests/benchmarks/run.py [--only PREFIX]

A benchmark is a file ``bench_<part>.py`` beside this one, with a function ``run()`` that returns a list of
``{name, what, ours, peer, unit, ratio, goal, met}``: ours and the peer measured in turn in this one run; `peer`
and `ratio` are None where there is nothing to compare with, `goal` a sentence, `met` true or false. A name
starts with its part and a dot, or is the part; ``--only world`` runs ``bench_world.py`` alone. A file may have
``run(only)`` to measure less when it is asked for one of its names.
"""

from __future__ import annotations

import argparse
import importlib
import inspect
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
RESULT = ROOT / "_build" / "benchmarks.json"
FIELDS = ("name", "what", "ours", "peer", "unit", "ratio", "goal", "met")


def chosen(only: str) -> list[str]:
    """Return the parts whose name begins with `only`, or that `only` names a figure of."""
    parts = sorted(path.stem.removeprefix("bench_") for path in HERE.glob("bench_*.py"))
    return [part for part in parts if part.startswith(only) or only.startswith(f"{part}.")]


def measure(part: str, only: str) -> list[dict[str, Any]]:
    """Run one part and check what it returns."""
    print(f"[benchmark] {part} ...", file=sys.stderr, flush=True)
    began = time.perf_counter()
    run = importlib.import_module(f"bench_{part}").run
    rows = run(only) if inspect.signature(run).parameters else run()
    for row in rows:
        if set(row) != set(FIELDS):
            raise ValueError(f"bench_{part}: a row has the fields {sorted(row)}; it needs {', '.join(FIELDS)}.")
    print(f"[benchmark] {part}: {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    return [row for row in rows if row["name"].startswith(only) or part.startswith(only)]


def table(rows: list[dict[str, Any]]) -> str:
    """Return the rows as text in columns."""
    shown = [("name", "ours", "peer", "unit", "ratio", "goal", "met")]
    for row in rows:
        shown.append(tuple(cell(row[name]) for name in shown[0]))
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    return "\n".join("  ".join(text.ljust(w) for text, w in zip(line, widths, strict=True)).rstrip() for line in shown)


def cell(value: Any) -> str:
    """Return a value as the table shows it."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def merge(rows: list[dict[str, Any]], only: str) -> list[dict[str, Any]]:
    """Keep, of an earlier run of other parts, what this run did not measure."""
    if not only or not RESULT.exists():
        return rows
    measured = {row["name"] for row in rows}
    return sorted(
        [r for r in json.loads(RESULT.read_text()) if r["name"] not in measured] + rows, key=lambda r: r["name"]
    )


def main() -> int:
    """Measure, print, write; return 1 when a goal was missed or a part failed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", metavar="PREFIX")
    only = parser.parse_args().only
    parts = chosen(only)
    if not parts:
        print(f"No benchmark begins with {only!r}; there are {', '.join(chosen(''))}.", file=sys.stderr)
        return 1
    sys.path[:0] = [str(HERE), str(HERE.parent)]
    rows, failed = [], []
    for part in parts:
        try:
            rows += measure(part, only)
        except Exception as error:  # the other parts still count; the exit code tells
            failed.append(part)
            print(f"[benchmark] {part} failed: {type(error).__name__}: {error}", file=sys.stderr)
    RESULT.parent.mkdir(exist_ok=True)
    temporary = RESULT.with_suffix(".tmp")
    temporary.write_text(json.dumps(merge(rows, only), indent=2, default=float) + "\n")
    os.replace(temporary, RESULT)
    print(table(rows))
    print(f"\n{sum(bool(row['met']) for row in rows)} of {len(rows)} goals met; written to {RESULT.relative_to(ROOT)}")
    return 1 if failed or not all(row["met"] for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
