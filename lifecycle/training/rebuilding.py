"""Fit a recorded run again, from its record alone, and compare."""

from __future__ import annotations

import ast
import hashlib
import json
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np

from lifecycle import files
from lifecycle.contracts import midnight
from lifecycle.errors import LifecycleError
from lifecycle.settings import Settings
from lifecycle.training import (
    LADDER,
    TrainingData,
    fit_model,
    folds,
    judge,
    known_rows,
    rule_score,
    score_rows,
    side_by_side,
)
from lifecycle.training.artifact import to_onnx
from lifecycle.training.reading import read_data
from lifecycle.training.tracking import code_version, open_tracking


@dataclass(frozen=True)
class Record:
    """What the store knows about a run.

    Attributes
    ----------
    name, kind
        The name of the run, and the rung of the ladder that it is a model of.
    params, settings
        Its hyperparameters, and the knobs of the run.
    honest_rows
        Most honest payments it was fitted on.
    features
        The columns of the matrix, in order.
    files
        Path -> SHA-256 of every file that was read, relative to the data folder.
    metrics
        Metric -> one number a fold.
    tags
        Among them ``code_version``, ``dataset_sha256``, ``model_sha256``.
    """

    name: str
    kind: str
    params: dict[str, Any]
    settings: Settings
    honest_rows: int
    features: list[str]
    files: dict[str, str]
    metrics: dict[str, list[float]]
    tags: dict[str, str]


def read_record(data_dir: Path | str, run_id: str) -> Record:
    """Read from MLflow all that is needed to fit a run again.

    Raises
    ------
    LifecycleError
        If the store has no such run, or if the run is no model of a rung of the ladder.
    """
    from mlflow.exceptions import MlflowException

    client, _ = open_tracking(data_dir)
    try:
        run = client.get_run(run_id)
    except MlflowException:
        raise LifecycleError(f"{data_dir} has no run {run_id!r}; take an id from ladder.json or best.json.") from None
    name, tags = run.info.run_name, dict(run.data.tags)
    kept = {item.path for item in client.list_artifacts(run_id)}
    if tags.get("kind") not in LADDER or not {"features.json", "files.json"} <= kept:
        raise LifecycleError(
            f"Run {run_id} ({name}) does not hold what is needed to fit it again; take a run of training or tuning."
        )
    with tempfile.TemporaryDirectory() as place:
        features, read = (
            json.loads(Path(client.download_artifacts(run_id, file, place)).read_text())
            for file in ("features.json", "files.json")
        )
    knobs = {field.name for field in fields(Settings)} & set(run.data.params)
    settings = Settings.from_environment({f"LIFECYCLE_{key.upper()}": run.data.params[key] for key in knobs})
    params = {key: _read(run.data.params[key]) for key in set(run.data.params) - knobs - {"honest_rows"}}
    metrics = {
        key: [point.value for point in client.get_metric_history(run_id, key)]
        for key in run.data.metrics
        if f"mean_{key}" in run.data.metrics
    }
    rows = int(run.data.params["honest_rows"])
    return Record(name, tags["kind"], params, settings, rows, features["features"], read, metrics, tags)


def _read(text: str) -> Any:
    """Return a hyperparameter from its text: a number, None, or a word."""
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return text


def rebuild(data_dir: Path | str, run_id: str) -> dict[str, Any]:
    """Fit a finished run again from what was recorded, and only that.

    Settings, hyperparameters, seed and features come from the record; the files that it names are read after
    their hashes were checked. What the code of today would choose otherwise is not asked.

    Parameters
    ----------
    data_dir
        The data folder, with the MLflow store and the files that the run read.
    run_id
        A run of the training or the tuning stage.

    Returns
    -------
    dict
        ``name``; ``recorded`` and ``rebuilt`` (metric -> one number a fold); ``recorded_model`` and
        ``rebuilt_model`` (SHA-256 of the ONNX graph, None for a rung without one).

    Raises
    ------
    LifecycleError
        If the run is unknown, if a file is missing or is not the one that was read, or if the code has changed.
    """
    record = read_record(data_dir, run_id)
    _check(record, Path(data_dir), run_id)
    data = _read_data(record, Path(data_dir))
    settings = record.settings
    cuts = folds(data.frame, data.labels, settings)

    def fit(rows: np.ndarray, is_fraud: np.ndarray) -> Any:
        matrix, names = data.matrix[rows], record.features
        return fit_model(record.kind, matrix, is_fraud, names, settings.seed, record.honest_rows, **record.params)

    def score(fold: Any) -> np.ndarray:
        if record.kind == "rule":
            return rule_score(data.frame.iloc[fold.validation])
        return score_rows(fit(fold.fit, fold.fit_labels), data.matrix[fold.validation])

    def final() -> str:
        graph = to_onnx(fit(*known_rows(data.frame, data.labels, midnight(settings.test_from))), len(record.features))
        return hashlib.sha256(graph).hexdigest()

    recorded_model = record.tags.get("model_sha256")
    jobs = [*((score, fold) for fold in cuts), *([(final,)] if recorded_model is not None else [])]
    found = side_by_side(lambda job, *of: job(*of), jobs)
    scores = np.full(len(data.frame), np.nan)
    for fold, of_fold in zip(cuts, found, strict=False):
        scores[fold.validation] = of_fold
    judged = judge(data.frame, scores, data.reports, cuts, settings, data.share)
    again = found[-1] if recorded_model is not None else None
    return {
        "name": record.name,
        "recorded": record.metrics,
        "rebuilt": {key: judged[key] for key in record.metrics},
        "recorded_model": recorded_model,
        "rebuilt_model": again,
    }


def _check(record: Record, data_dir: Path, run_id: str) -> None:
    """Refuse to rebuild from other data or with other code than the run had."""
    for name, expected in record.files.items():
        path = data_dir / name
        if not path.exists():
            raise LifecycleError(f"Run {run_id} read {path}, which is gone; build the stage that made it again.")
        found = files.sha256(path)
        if found != expected:
            raise LifecycleError(
                f"Run {run_id} read another {path} (SHA-256 {expected[:12]}..., it is {found[:12]}... now); "
                "restore the file that was read, or train again."
            )
    was, now = record.tags["code_version"], code_version(record.tags["stage"])
    if was != now:
        raise LifecycleError(
            f"Run {run_id} was fitted by code version {was}, this is {now}: the code of the stage or a library has "
            "changed since; check out the code of then, or train again."
        )


def _read_data(record: Record, data_dir: Path) -> TrainingData:
    """Read the recorded files; the columns of the matrix are the recorded features."""
    paths: Mapping[str, Path] = {Path(name).stem: data_dir / name for name in record.files}
    schema = {**files.read_json(paths["schema"]), "features": [{"name": name} for name in record.features]}
    return read_data(paths["training_set"], paths["labels"], paths["transactions"], schema, record.settings.most_rows)
