"""The champion on the default world: against simpler models, against the oracle, and ONNX against scikit-learn."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

SINGLE = 300
"""Payments that are scored one at a time."""

ORACLE_SHARE = 0.85


def run() -> list[dict[str, Any]]:
    """Read the verdict of the evaluation; fit the champion again and score the test period with both runtimes."""
    from lifecycle import pipeline

    evaluated = pipeline.artifact("evaluation")
    report = evaluated.json("report")
    return [*verdicts(report), *recalls(evaluated.json("reach")), *runtimes(evaluated, report)]


def verdicts(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines on the champion's lead and on the share of the oracle, over all frauds and by mode."""
    name, models = report["champion"]["name"], report["models"]
    mine = models[name]["average_precision"]["value"]
    rows = []
    for other in ("logistic_regression", "random_forest"):
        gap = report["differences"][other]["average_precision"]
        what = f"average precision, lead {gap['value']:.3f} ({gap['low']:.3f} to {gap['high']:.3f})"
        theirs = models[other]["average_precision"]["value"]
        rows.append(row(f"models.over_{other}", what, mine, theirs, "AP", "interval above zero", gap["low"] > 0))
    oracle = report["oracle"]
    pairs = {"all": (oracle["by_truth"][name], oracle["by_truth"]["oracle"])}
    pairs |= {mode["mode"]: (mode[name], mode["oracle"]) for mode in oracle["modes"]}
    for mode, (ours, best) in pairs.items():
        met = ours >= ORACLE_SHARE * best
        rows.append(row(f"models.oracle_{mode}", "champion against the oracle", ours, best, "AP", "85 % of it", met))
    return rows


def recalls(reach: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines on recall at the champion's false alarms, for the kinds of fraud that the features see."""
    seen = {kind["mode"] for kind in reach["seen"] if kind["seen"]}
    what = "recall at the champion's false alarms, against the oracle"
    return [
        row(f"models.oracle_recall_{kind['mode']}", what, kind["champion_recall"]["value"],
            kind["oracle_recall"]["value"], "recall", "85 % of it", kind["recall_share"]["value"] >= ORACLE_SHARE)
        for kind in reach["modes"]
        if kind["mode"] in seen
    ]  # fmt: skip


def runtimes(evaluated: Any, report: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the lines on ONNX: time for one payment, largest gap of a score, decisions that differ."""
    from lifecycle import pipeline, training

    model = training.load_model(evaluated.path / "model", threads=1)
    fitted = fit_again(report["champion"]["name"], model.features)
    matrix = training.feature_matrix(pipeline.artifact("features").frame("test_set"), model.schema)
    ours, theirs = model.predict(matrix), fitted.predict_proba(matrix)[:, 1]
    gap = float(np.abs(ours - theirs).max())
    differ = int(((ours >= model.threshold) != (theirs >= model.threshold)).sum())
    rows = [matrix[[number]] for number in range(SINGLE)]
    fast, slow = [seconds(score, rows) for score in (model.predict, fitted.predict_proba)]
    return [
        row("models.single_row", "one payment, ONNX against predict_proba", fast * 1e6, slow * 1e6, "us",
            "50 times faster", slow >= 50 * fast),
        row("models.score_gap", f"largest gap on {len(matrix):,} test payments", gap, None, "score", "under 1e-5",
            gap < 1e-5),
        row("models.decisions", "decisions that differ on the test period", differ, None, "", "none", differ == 0),
    ]  # fmt: skip


def fit_again(name: str, names: list[str]) -> Any:
    """Fit the champion as its stage did: only ONNX is kept, and the peer is scikit-learn."""
    from lifecycle import pipeline, training, tuning
    from lifecycle.contracts import midnight

    run = pipeline.Pipeline()
    inputs = {stage: run.artifact(stage).path for stage in ("features", "preprocessing")}
    data = training.read_training(inputs, run.settings)
    rows, known = training.known_rows(data.frame, data.labels, midnight(run.settings.test_from))
    if name != tuning.NAME:
        return training.fit_model(name, data.matrix[rows], known, names, run.settings.seed)
    params = run.artifact("tuning").json("best")["params"]
    matrix = data.matrix[rows]
    kind = "gradient_boosting"
    return training.fit_model(kind, matrix, known, names, run.settings.seed, tuning.FINAL_ROWS, **params)


def seconds(score: Callable[[np.ndarray], Any], rows: list[np.ndarray]) -> float:
    """Return the median seconds of one call, after some calls that are not counted."""
    for one in rows[:20]:
        score(one)
    taken = []
    for one in rows:
        began = time.perf_counter()
        score(one)
        taken.append(time.perf_counter() - began)
    return float(np.median(taken))


def row(name: str, what: str, ours: float, peer: float | None, unit: str, goal: str, met: bool) -> dict[str, Any]:
    """Return one line of the benchmark table."""
    ratio = None if peer is None else (peer / ours if unit == "us" else ours / peer)
    return {"name": name, "what": what, "ours": ours, "peer": peer, "unit": unit, "ratio": ratio, "goal": goal,
            "met": bool(met)}  # fmt: skip
