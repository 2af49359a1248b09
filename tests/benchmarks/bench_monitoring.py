"""The monitor: drift distances of a wide chunk against its reference, and the whole stage on the default world."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pandas as pd

ROWS, COLUMNS, TIMES = 50_000, 20, 3


def run() -> list[dict[str, Any]]:
    """Compare 50,000 x 20 with its reference, beside scipy's two-sample test; read the stage's time."""
    from scipy import stats

    from lifecycle import pipeline
    from lifecycle.monitoring.drift import DriftReference

    generator = np.random.default_rng(0)
    names = [f"x{i}" for i in range(COLUMNS)]
    reference = pd.DataFrame(generator.lognormal(3, 1, (ROWS, COLUMNS)), columns=names)
    chunk = pd.DataFrame(generator.lognormal(3.1, 1, (ROWS, COLUMNS)), columns=names)
    fitted = DriftReference(reference)
    ours, peer = [], []
    for _ in range(TIMES):
        began = time.perf_counter()
        made = fitted.calculate(chunk)
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        expected = [stats.ks_2samp(reference[name], chunk[name], method="asymp").statistic for name in names]
        peer.append(time.perf_counter() - began)
    agrees = np.allclose(made["linf"], expected, atol=1e-6)
    seconds = pipeline.artifact("monitoring").manifest["seconds"]
    return [
        {"name": "monitoring.drift", "what": "50,000 x 20: distance and PSI, beside the distance alone from scipy",
         "ours": min(ours), "peer": min(peer), "unit": "s", "ratio": min(peer) / min(ours),
         "goal": "no slower, equal to 1e-6", "met": bool(agrees and min(ours) <= min(peer))},
        {"name": "monitoring.stage", "what": "two months of production: replay, reports, alarms, retraining",
         "ours": seconds, "peer": None, "unit": "s", "ratio": None, "goal": "at most 90 s", "met": seconds <= 90},
    ]  # fmt: skip
