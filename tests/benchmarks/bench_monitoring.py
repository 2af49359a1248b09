"""The monitor: drift distances of a wide chunk beside scipy and Evidently, and the stage on the default world.

Evidently is measured twice on the frames that ours gets: its drift preset as it comes, for the time, and the preset
asked for the two statistics that ours has too, for the distances. Of a number these are the Kolmogorov-Smirnov test,
whose p-value gives back its distance, and of a category the population stability index.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd

ROWS, NUMBERS, CATEGORIES, TIMES = 50_000, 16, 4, 3
TIMES_FASTER, EQUAL = 20.0, 1e-6


def run(only: str = "") -> list[dict[str, Any]]:
    """Compare 50,000 x 20 with their reference, beside the peers; read the stage's time."""
    parts = {"monitoring.drift": _beside_scipy, "monitoring.evidently": _beside_evidently, "monitoring.stage": _stage}
    return [row for name, part in parts.items() if name.startswith(only) or only.startswith(name) for row in part()]


def frames() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return a reference and a chunk: numbers that moved a little or not at all, and four categories.

    So little that the p-values keep all their digits: a p-value of zero tells no distance.
    """
    generator = np.random.default_rng(0)

    def draw(move: float) -> pd.DataFrame:
        columns = {f"x{i}": generator.lognormal(3 + move * (i % 3) * 0.005, 1, ROWS) for i in range(NUMBERS)}
        for i in range(CATEGORIES):
            weight = np.array([4, 3, 2, 0.8, 0.2 + 0.02 * move * i])
            columns[f"c{i}"] = generator.choice(list("abcde"), ROWS, p=weight / weight.sum())
        return pd.DataFrame(columns)

    return draw(0), draw(1)


def _seconds(work: Callable[[], Any], times: int = TIMES) -> tuple[float, Any]:
    """Return the processor seconds of some work, the best of some times, and what it returned."""
    best, made = float("inf"), None
    for _ in range(times):
        began = time.process_time()
        made = work()
        best = min(best, time.process_time() - began)
    return best, made


def _beside_scipy() -> list[dict[str, Any]]:
    from scipy import stats

    from lifecycle.monitoring.drift import DriftReference

    reference, chunk = (frame.filter(regex="^x") for frame in frames())
    fitted = DriftReference(reference)
    ours, made = _seconds(lambda: fitted.calculate(chunk))
    peer, expected = _seconds(
        lambda: [stats.ks_2samp(reference[name], chunk[name], method="asymp").statistic for name in reference]
    )
    agrees = np.allclose(made["linf"], expected, atol=EQUAL)
    what = f"{ROWS:,} x {NUMBERS} numbers: distance and PSI, beside the distance alone from scipy"
    goal = f"no slower, equal to {EQUAL:.0e}"
    return [_row("drift", what, ours, peer, "s of processor", goal, bool(agrees and ours <= peer))]


def _beside_evidently() -> list[dict[str, Any]]:
    """Return the two rows beside Evidently; without it, rows that say so."""
    from lifecycle.monitoring.drift import DriftReference

    reference, chunk = frames()
    ours, made = _seconds(lambda: DriftReference(reference).calculate(chunk))  # the peer fits each time
    what = f"{ROWS:,} x {NUMBERS + CATEGORIES}: reference and distances, beside Evidently's drift preset as it comes"
    same = f"largest difference of the {NUMBERS + CATEGORIES} distances that Evidently computes too"
    try:
        import evidently
    except ImportError:
        skipped = "; peer skipped: evidently is not installed"
        return [_row("evidently", what + skipped, ours, None, "s of processor", "none without the peer", True)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        peer, _ = _seconds(lambda: _preset(reference, chunk))
        alike, values = _seconds(lambda: _preset(reference, chunk, num_method="ks", cat_method="psi"))
    difference = largest_difference(made, values)
    version = evidently.__version__
    return [
        _row("evidently", f"{what}, {version}", ours, peer, "s of processor", f"{TIMES_FASTER:.0f} times faster",
             peer / ours >= TIMES_FASTER),
        _row("evidently_distances", f"{same} ({alike / ours:.0f} times our time for these)", difference, None, "",
             f"at most {EQUAL:.0e}", difference <= EQUAL),
    ]  # fmt: skip


def _preset(reference: pd.DataFrame, chunk: pd.DataFrame, **methods: str) -> dict[str, float]:
    """Return the drift score of each column by Evidently's preset."""
    from evidently import DataDefinition, Dataset, Report
    from evidently.presets import DataDriftPreset

    numbers = [name for name in reference if name.startswith("x")]
    columns = DataDefinition(
        numerical_columns=numbers, categorical_columns=[name for name in reference if name not in numbers]
    )
    now, then = (Dataset.from_pandas(frame, data_definition=columns) for frame in (chunk, reference))
    metrics = Report([DataDriftPreset(**methods)]).run(now, then).dict()["metrics"]
    return {m["config"]["column"]: float(m["value"]) for m in metrics if "column" in m["config"]}


def largest_difference(ours: pd.DataFrame, theirs: dict[str, float]) -> float:
    """Return how far the distances of both are from each other; infinite if a column is missing on a side.

    Evidently gives the p-value of the Kolmogorov-Smirnov test; the distance comes back from it by the inverse of the
    distribution that scipy, and so Evidently, takes the p-value from.
    """
    from scipy import stats

    if set(ours["feature"]) != set(theirs):
        return float("inf")
    table = ours.set_index("feature")
    numbers = [name for name in theirs if name.startswith("x")]
    inverse = {name: float(stats.kstwo.isf(theirs[name], ROWS // 2)) for name in numbers}
    apart = [abs(table["linf"][name] - inverse[name]) for name in numbers]
    apart += [abs(table["psi"][name] - value) for name, value in theirs.items() if name not in inverse]
    return float(np.max(apart))


def _stage() -> list[dict[str, Any]]:
    from lifecycle import pipeline

    seconds = pipeline.artifact("monitoring").manifest["seconds"]
    what = "two months of production: replay, reports, alarms, retraining"
    return [_row("stage", what, seconds, None, "s", "at most 90 s", seconds <= 90)]


def _row(name: str, what: str, ours: float, peer: float | None, unit: str, goal: str, met: bool) -> dict[str, Any]:
    return {"name": f"monitoring.{name}", "what": what, "ours": ours, "peer": peer, "unit": unit,
            "ratio": None if peer is None else peer / ours, "goal": goal, "met": bool(met)}  # fmt: skip
