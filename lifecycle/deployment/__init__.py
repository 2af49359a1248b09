"""Stage 8, deployment: the evaluated model becomes a package, a real-time service and a batch job.

`build` makes the package. `serve` starts the service, `score_file` runs the batch job, and the modules hold the
parts: `artifact` (the package), `scorer` (payments to decisions), `endpoint` (versions of the model, one memory),
`journal` (what was answered), `releases` (which version answers), `messages` and `description` (what travels over the
wire), `service` and `workers` (the processes), `capture`, `batch`, `running` (start, load and stop a service from a
notebook or a test) and `faults` (break it, and count what is lost).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def build(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Package the champion and score the first week of production in batch.

    Parameters
    ----------
    settings
        Knobs: ``deploy_at``.
    inputs
        Folders of preprocessing, features and evaluation.
    out
        Gets ``model/``, ``model.tar.gz``, ``batch_features.parquet`` and ``batch_scores.parquet`` (the first week of
        production) and ``info.json``.
    """
    from lifecycle.deployment import packaging

    packaging.build(settings, inputs, out)


def serve(
    model_dir: Path | str,
    port: int | None = None,
    host: str = "127.0.0.1",
    capture_dir: Path | str | None = None,
    state_dir: Path | str | None = None,
    token_file: Path | str | None = None,
    workers: int = 1,
    fsync: bool = False,
) -> None:
    """Serve a package over HTTP until SIGTERM; see `lifecycle.deployment.service.serve`."""
    from lifecycle.deployment import service

    service.serve(
        model_dir, port, host, capture_dir, state_dir=state_dir, token_file=token_file, count=workers, fsync=fsync
    )


def score_file(
    model_dir: Path | str,
    transactions: Path | str,
    out: Path | str,
    mapping: Mapping[str, Any] | None = None,
    memory: int | None = None,
    tell: Callable[[str], None] = lambda sentence: None,
) -> int:
    """Score a CSV or Parquet file and return the number of rows; see `lifecycle.deployment.batch.score_file`."""
    from lifecycle.deployment import batch

    memory = batch.MEMORY if memory is None else memory
    return batch.score_file(model_dir, transactions, out, mapping=mapping, memory=memory, tell=tell)
