"""Stage 9: watch the deployed model, raise an alarm when it matters, retrain and compare.

`monitor` is the part for any captured service, in the file formats of SageMaker Model Monitor.
`build` replays the production days of the simulated bank through the real service and tells the
whole story: incidents caught, with date and delay, and what retraining recovers.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from lifecycle import files
from lifecycle.errors import LifecycleError
from lifecycle.monitoring.capture import preprocess, read_capture
from lifecycle.monitoring.constraints import check, suggest
from lifecycle.monitoring.drift import DriftReference
from lifecycle.monitoring.statistics import describe

__all__ = ["DriftReference", "build", "check", "describe", "monitor", "preprocess", "read_capture", "suggest"]


def write_baseline(frame: pd.DataFrame, folder: Path | str) -> tuple[dict[str, Any], dict[str, Any]]:
    """Describe clean records and write ``statistics.json`` and ``constraints.json`` into a folder.

    Parameters
    ----------
    frame
        Records as the monitor will see them (`preprocess`).
    folder
        Where to write.

    Returns
    -------
    tuple
        The statistics and the suggested constraints.
    """
    statistics = describe(frame)
    constraints = suggest(statistics)
    files.write_json(statistics, Path(folder) / "statistics.json")
    files.write_json(constraints, Path(folder) / "constraints.json")
    return statistics, constraints


def monitor(baseline_dir: Path | str, captured_dir: Path | str, out_dir: Path | str) -> int:
    """Compare captured calls with a baseline and write the monitoring files.

    Parameters
    ----------
    baseline_dir
        Folder with ``statistics.json`` and ``constraints.json``.
    captured_dir
        Folder (or file) of data-capture JSON lines.
    out_dir
        Receives ``statistics.json`` and ``constraint_violations.json`` of the captured records.

    Returns
    -------
    int
        The number of violations written.

    Raises
    ------
    LifecycleError
        If a baseline file is missing or broken, or the capture is empty or has a broken line.
    """
    baseline = files.read_json(Path(baseline_dir) / "statistics.json")
    constraints = files.read_json(Path(baseline_dir) / "constraints.json")
    frame = preprocess(read_capture(captured_dir))
    return len(report(frame, baseline, constraints, out_dir, where=baseline_dir)["violations"])


def report(
    frame: pd.DataFrame,
    baseline: dict[str, Any],
    constraints: dict[str, Any],
    out_dir: Path | str,
    where: Path | str = "baseline",
) -> dict[str, Any]:
    """Write the statistics of records and their violations of a baseline; return the violations.

    Parameters
    ----------
    frame
        Records as the monitor sees them (`preprocess`).
    baseline, constraints
        The content of the baseline's two files.
    out_dir
        Where to write.
    where
        Name of the baseline, for the message.

    Raises
    ------
    LifecycleError
        If the baseline does not have the published form.
    """
    try:
        types = {feature["name"]: feature["inferred_type"] for feature in constraints["features"]}
    except (KeyError, TypeError):
        raise LifecycleError(
            f"{where}: constraints.json has no list of features with name and inferred_type; write the baseline again."
        ) from None
    statistics = describe(frame, types)
    violations = check(frame, statistics, baseline, constraints)
    files.write_json(statistics, Path(out_dir) / "statistics.json")
    files.write_json(violations, Path(out_dir) / "constraint_violations.json")
    return violations


def build(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Build the stage's artifact: baseline, capture, daily reports, alarms, retraining.

    See `lifecycle.monitoring.production.run` for the files.
    """
    from lifecycle.monitoring import production

    production.run(settings, inputs, out)
