"""What was tried, with what, and how well it did: runs and model versions in MLflow, on SQLite, without a network."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from lifecycle import figures
from lifecycle.source import code_hash

EXPERIMENT = "lifecycle"
REGISTERED_MODEL = "fraud-champion"


def open_tracking(data_dir: Path | str) -> tuple[Any, str]:
    """Open the MLflow store of a data folder; make it if it is not there.

    A store that was moved or copied with its folder is told where its artifacts are now: MLflow keeps whole paths.

    Parameters
    ----------
    data_dir
        The store is ``<data_dir>/mlflow``: ``mlflow.db`` (SQLite) and ``artifacts/``.

    Returns
    -------
    client, experiment_id
        An `mlflow.MlflowClient` and the experiment in which the course keeps its runs.
    """
    folder = Path(data_dir) / "mlflow"
    folder.mkdir(parents=True, exist_ok=True)
    client = _client(folder)
    artifacts = (folder / "artifacts").absolute().as_uri()
    with FileLock(folder / ".lock"):  # two processes must not make the tables at once
        experiment = client.get_experiment_by_name(EXPERIMENT)
        if experiment is None:
            return client, client.create_experiment(EXPERIMENT, artifacts)
        if experiment.artifact_location != artifacts:
            _move_artifacts(folder / "mlflow.db", experiment.artifact_location, artifacts)
    return client, experiment.experiment_id


_LOCATIONS = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("model_versions", "source"),
    ("model_versions", "storage_location"),
)
"""Where MLflow writes down whole paths; it has no call that changes them."""


def _move_artifacts(database: Path, old: str, new: str) -> None:
    """Write the present place of the artifacts into the store, in one transaction."""
    with closing(sqlite3.connect(database)) as connection, connection:
        for table, column in _LOCATIONS:
            connection.execute(
                f"UPDATE {table} SET {column} = ? || substr({column}, ?) WHERE substr({column}, 1, ?) = ?",
                (new, len(old) + 1, len(old), old),
            )


def _client(folder: Path) -> Any:
    """Return a client, with everything switched off that would talk to the network or to the terminal."""
    os.environ.update({"MLFLOW_DISABLE_TELEMETRY": "true", "DO_NOT_TRACK": "true", "GIT_PYTHON_REFRESH": "quiet"})
    os.environ["MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR"] = "false"
    import logging
    import warnings

    warnings.filterwarnings("ignore", message="IProgress not found")  # of a progress bar that is off
    from mlflow import MlflowClient

    for name in ("alembic", "mlflow"):  # MLflow sets the levels when it is imported
        logging.getLogger(name).setLevel(logging.WARNING)
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    with FileLock(folder / ".lock"):
        return MlflowClient(tracking_uri=uri, registry_uri=uri)


def log_run(
    data_dir: Path | str,
    name: str,
    params: Mapping[str, Any],
    metrics: Mapping[str, float | list[float]],
    dataset: Mapping[str, str],
    tags: Mapping[str, str],
    model_folder: Path | None = None,
    attachments: Mapping[str, Any] | None = None,
) -> str:
    """Record one finished run and return its id.

    Parameters
    ----------
    data_dir
        As in `open_tracking`.
    name
        The name of the run, such as ``"random_forest"``.
    params
        Hyperparameters and settings; kept as strings.
    metrics
        A number, or a list of numbers, one a fold (kept as steps).
    dataset
        ``name`` and ``digest`` (SHA-256) of the table it was trained on.
    tags
        Anything else by which to find the run: code version, feature schema, stage.
    model_folder
        A model folder to keep with the run, under ``model/``.
    attachments
        Path within the run -> a matplotlib figure, or anything that JSON can hold.
    """
    from mlflow.entities import Dataset, DatasetInput, Metric, Param, RunTag

    client, experiment = open_tracking(data_dir)
    run = client.create_run(experiment, run_name=name)
    run_id = run.info.run_id
    points = []
    for key, values in metrics.items():
        for step, value in enumerate(values if isinstance(values, list) else [values]):
            if value == value:  # MLflow on SQLite does not keep NaN
                points.append(Metric(key, float(value), run.info.start_time, step))
    client.log_batch(
        run_id,
        metrics=points,
        params=[Param(key, str(value)) for key, value in params.items()],
        tags=[RunTag(key, str(value)) for key, value in {**tags, "dataset_sha256": dataset["digest"]}.items()],
    )
    source = Dataset(dataset["name"], dataset["digest"][:16], "local", dataset["name"])
    client.log_inputs(run_id, datasets=[DatasetInput(source)])
    if model_folder is not None:
        for file in sorted(Path(model_folder).iterdir()):
            client.log_artifact(run_id, str(file), "model")
    for path, content in (attachments or {}).items():
        if hasattr(content, "savefig"):
            client.log_figure(run_id, content, path)
        else:
            client.log_dict(run_id, content, path)
    client.set_terminated(run_id)
    return run_id


def has_run(data_dir: Path | str, run_id: str) -> bool:
    """Whether the store of a data folder knows a run."""
    client, experiment = open_tracking(data_dir)
    from mlflow.exceptions import MlflowException

    try:
        return client.get_run(run_id).info.experiment_id == experiment
    except MlflowException:
        return False


def register_champion(
    data_dir: Path | str, run_id: str, model_folder: Path, tags: Mapping[str, str], name: str = REGISTERED_MODEL
) -> str:
    """Register the model of a run as a new version of the champion, and return the version.

    The alias ``champion`` moves to it; earlier versions stay. A model whose graph is the champion's already
    is not registered again.

    Parameters
    ----------
    data_dir
        As in `open_tracking`.
    run_id
        The run that logged the model under ``model/``.
    model_folder
        The same model on disk.
    tags
        Kept with the version.
    name
        The registered model.
    """
    from lifecycle.files import sha256

    client, _ = open_tracking(data_dir)
    digest = sha256(Path(model_folder) / "model.onnx")
    with FileLock(Path(data_dir) / "mlflow" / ".lock"):
        found = client.search_registered_models(f"name = '{name}'")
        if not found:
            client.create_registered_model(name)
        elif "champion" in found[0].aliases:
            current = client.get_model_version_by_alias(name, "champion")
            if current.tags.get("onnx_sha256") == digest:
                return str(current.version)
        source = f"{client.get_run(run_id).info.artifact_uri}/model"
        made = client.create_model_version(name, source, run_id, tags={**tags, "onnx_sha256": digest})
        client.set_registered_model_alias(name, "champion", made.version)
    return str(made.version)


@cache
def code_version(stage: str = "training") -> str:
    """Return the first 16 digits of the hash over the code and the library versions that a stage uses.

    It is the code part of the stage's key: what does not change it cannot change a result.

    Examples
    --------
    >>> len(code_version()), code_version() == code_version("training")
    (16, True)
    """
    return code_hash(f"lifecycle.{stage}")[:16]


def draw_precision_recall(name: str, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> Any:
    """Draw the precision-recall curve of one model, one line a validation week.

    Parameters
    ----------
    name
        The model, for the title.
    parts
        For each week, labels (0 or 1) and scores, each of shape (n,).

    Returns
    -------
    matplotlib.figure.Figure
    """
    import matplotlib
    from matplotlib.figure import Figure
    from sklearn.metrics import precision_recall_curve

    with matplotlib.rc_context():
        figures.use_style()
        figure = Figure()
        ax = figure.add_subplot()
        for number, (fraud, score) in enumerate(parts, start=1):
            precision, recall, _ = precision_recall_curve(fraud, score, drop_intermediate=True)
            ax.step(recall, precision, where="post", linewidth=1.5, label=f"week {number}")
        ax.set(xlabel="recall", ylabel="precision", xlim=(0, 1), ylim=(0, 1.02), title=name.replace("_", " "))
        ax.legend()
    return figure
