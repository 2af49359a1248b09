"""Run the tests in steps, and print one summary over all of them.

    python tests/run_all.py             every step
    python tests/run_all.py code book   only these steps

1. ``code``       unit, data, model and service tests, and the examples in docstrings
2. ``notebooks``  all nine notebooks on two workers, from an empty data folder, the last one first; then the tests of
   the champion that they built
3. ``book``       the book is built with the data and the outputs of the step before, and its pages are tested
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
WORKERS = os.environ.get("WORKERS", "2")
CODE = [name for name in ("test_house.py", "unit", "data", "model", "service") if (ROOT / "tests" / name).exists()]


def pytest(report: Path, *arguments: str) -> list[str]:
    """Return the command line of one run of pytest that leaves a report."""
    return [sys.executable, "-m", "pytest", "-q", f"--junit-xml={report}", *arguments]


def commands(step: str, report: Path) -> list[list[str]]:
    """Return the command lines of a step."""
    two = ["-n", WORKERS]
    if step == "code":
        return [pytest(report, *two, "-m", "not champion", "lifecycle", *(f"tests/{name}" for name in CODE))]
    if step == "notebooks":
        tests = ["tests/notebooks", "tests/model/test_champion.py"]
        return [pytest(report, *two, "--maxschedchunk=1", "-rP", "--no-header", *tests)]
    execute = [sys.executable, "book/execute.py"]
    book = [str(Path(sys.executable).parent / "jupyter-book"), "build", ".", "-W", "-n", "--keep-going"]
    return [execute, book, pytest(report, "tests/book")]


def run(step: str, folder: Path) -> tuple[bool, Counter[str]]:
    """Run a step. Return whether all went well, and the counts of its tests."""
    report = folder / f"{step}.xml"
    environ = dict(os.environ)
    if step == "code":
        environ.pop("LIFECYCLE_DATA_DIR", None)
        environ.setdefault("OMP_NUM_THREADS", "1")  # two workers' fits would wait for each other
    else:
        environ["LIFECYCLE_DATA_DIR"] = str(folder / "data")
    began = time.perf_counter()
    print(f"\n===== {step} =====", flush=True)
    codes = [subprocess.run(command, cwd=ROOT, env=environ).returncode for command in commands(step, report)]
    print(f"===== {step}: {time.perf_counter() - began:.0f} s =====", flush=True)
    return not any(codes), count(report)


def count(report: Path) -> Counter[str]:
    """Return how many tests of a report passed, failed and were skipped."""
    if not report.exists():
        return Counter(errors=1)
    totals: Counter[str] = Counter()
    for suite in ElementTree.parse(report).getroot().iter("testsuite"):
        numbers = {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")}
        totals["failed"] += numbers["failures"]
        totals["errors"] += numbers["errors"]
        totals["skipped"] += numbers["skipped"]
        totals["passed"] += numbers["tests"] - sum(numbers[name] for name in ("failures", "errors", "skipped"))
    return totals


def main(steps: list[str]) -> int:
    """Run the steps, print the summary, and return the exit code."""
    began = time.perf_counter()
    well, totals = True, Counter()
    with tempfile.TemporaryDirectory(prefix="lifecycle-test-", ignore_cleanup_errors=True) as folder:
        for step in steps:
            good, counts = run(step, Path(folder))
            well &= good
            totals += counts
    words = [f"{totals[name]} {name}" for name in ("failed", "passed", "skipped", "errors") if totals[name]]
    note = "" if well or totals["failed"] or totals["errors"] else " (a step outside pytest failed: see above)"
    print(f"\n===== {', '.join(words)} in {time.perf_counter() - began:.0f} s{note} =====")
    return 0 if well else 1


if __name__ == "__main__":
    known = ["code", "notebooks", "book"]
    chosen = sys.argv[1:] or known
    if unknown := set(chosen) - set(known):
        sys.exit(f"There is no step {', '.join(sorted(unknown))}; the steps are {', '.join(known)}.")
    sys.exit(main(chosen))
