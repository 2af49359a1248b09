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
from lifecycle.monitoring import quality
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


def monitor(
    baseline_dir: Path | str, captured_dir: Path | str, out_dir: Path | str, ground_truth: Path | str | None = None
) -> int:
    """Compare captured calls with a baseline and write the monitoring files.

    Parameters
    ----------
    baseline_dir
        Folder with ``statistics.json`` and ``constraints.json``.
    captured_dir
        Folder (or file) of data-capture JSON lines.
    out_dir
        Receives ``statistics.json`` and ``constraint_violations.json`` of the captured records.
    ground_truth
        Folder of labels in the monitor's format. With it, ``quality/`` in `out_dir` receives the two files of the
        model-quality job, by the constraints of ``quality/`` in `baseline_dir`.

    Returns
    -------
    int
        The number of violations written.

    Raises
    ------
    LifecycleError
        If a baseline file is missing or broken, the capture is empty or has a broken line, or no label belongs to it.
    """
    baseline = files.read_json(Path(baseline_dir) / "statistics.json")
    constraints = files.read_json(Path(baseline_dir) / "constraints.json")
    captured = read_capture(captured_dir)
    merged = _labeled(captured, ground_truth) if ground_truth else None
    found = {"": _assess(preprocess(captured), baseline, constraints, baseline_dir)}
    if merged is not None:
        limits = files.read_json(Path(baseline_dir) / "quality" / "constraints.json")
        found["quality"] = quality.assess_quality(merged, limits)
    # Only now, when nothing can be found wrong any more, is the first file written.
    for part, (statistics, violations) in found.items():
        quality.write_report(statistics, violations, Path(out_dir) / part)
    return sum(len(violations["violations"]) for _, violations in found.values())


def _labeled(captured: pd.DataFrame, ground_truth: Path | str) -> pd.DataFrame:
    """Return the captured payments whose label is known."""
    from lifecycle.deployment.scorer import APPROVE

    missing = [name for name in ("transaction_id", "score", "decision") if name not in captured]
    if missing:
        raise LifecycleError(
            f"The captured calls have no {', '.join(missing)}; model quality needs the answers of the service."
        )
    decided = captured.assign(flagged=captured["decision"] != APPROVE)[["transaction_id", "score", "flagged"]]
    return quality.merge(decided.dropna(), quality.read_ground_truth(ground_truth))


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
    statistics, violations = _assess(frame, baseline, constraints, where)
    quality.write_report(statistics, violations, out_dir)
    return violations


def _assess(
    frame: pd.DataFrame, baseline: dict[str, Any], constraints: dict[str, Any], where: Path | str
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the statistics of records and their violations of a baseline."""
    try:
        types = {feature["name"]: feature["inferred_type"] for feature in constraints["features"]}
    except (KeyError, TypeError):
        raise LifecycleError(
            f"{where}: constraints.json has no list of features with name and inferred_type; write the baseline again."
        ) from None
    statistics = describe(frame, types)
    return statistics, check(frame, statistics, baseline, constraints)


def build(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Build the stage's artifact: baseline, capture, daily reports, alarms, retraining.

    See `lifecycle.monitoring.production.run` for the files.
    """
    from lifecycle.monitoring import production

    production.run(settings, inputs, out)
