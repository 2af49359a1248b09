"""The service and the batch job on the default world, beside MLflow's own model server on the same machine."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from bench_models import fit_again

REQUESTS, PEER_REQUESTS, CONNECTIONS, WARM = 4_000, 1_000, 16, 300


def run() -> list[dict[str, Any]]:
    """Measure ours alone, ours with two workers, MLflow's server with two kinds of model, and the batch job."""
    from lifecycle import pipeline
    from lifecycle.deployment import artifact, messages

    deployed = pipeline.artifact("deployment")
    payments = pipeline.artifact("preprocessing").frame("transactions")
    scored = deployed.frame("batch_scores")
    week = payments[payments["transaction_id"].isin(scored["transaction_id"])]
    bodies = [json.dumps(record) for record in messages.as_records(week.head(2 * REQUESTS + WARM))]
    with tempfile.TemporaryDirectory() as folder:
        package = artifact.unpack(deployed.file("model.tar.gz"), Path(folder) / "model")
        made, one_worker = _ours(package, bodies)
        made += _two_workers(package, bodies, one_worker)
        made += _peers(Path(folder), deployed, one_worker)
        made += _batch(package, week)
    return made


def _ours(package: Any, bodies: list[str]) -> tuple[list[dict[str, Any]], float]:
    """Return the rows of one worker, and its payments a second."""
    from lifecycle.deployment import running

    with running.start(package.folder) as service:
        running.load(service, bodies[:WARM], 1)
        alone = running.load(service, bodies[WARM : WARM + 2_000], 1)
        crowd = running.load(service, bodies[WARM + 2_000 : WARM + 2_000 + REQUESTS], CONNECTIONS)
        half = running.load(service, bodies[WARM + 2_000 + REQUESTS :], CONNECTIONS, rate=crowd.throughput / 2)
        began = time.perf_counter()
        ended = service.stop()
        drained = time.perf_counter() - began
    failures = alone.failures + crowd.failures + half.failures + (ended != 0)
    rows = [
        row("service.p50", "answer to one payment, one connection", alone.percentile(50), "ms", "under 3 ms",
            alone.percentile(50) < 3),
        row("service.p99", "answer to one payment, one connection", alone.percentile(99), "ms", "under 15 ms",
            alone.percentile(99) < 15),
        row("service.throughput", f"payments a second, one worker, {CONNECTIONS} connections", crowd.throughput, "1/s",
            "no failures", failures == 0),
        row("service.half_load", "99 of 100 answers at half of that rate, counted from when they were due",
            half.percentile(99), "ms", "under 15 ms", half.percentile(99) < 15 and half.failures == 0),
        row("service.drain", "from SIGTERM to exit code 0", drained, "s", "under 5 s", ended == 0 and drained < 5),
    ]  # fmt: skip
    return rows, crowd.throughput


def _two_workers(package: Any, bodies: list[str], one_worker: float) -> list[dict[str, Any]]:
    from lifecycle.deployment import running

    with running.start(package.folder, options=("--workers", "2")) as service:
        running.load(service, bodies[:WARM], 2)
        two = running.load(service, bodies[WARM : WARM + REQUESTS], CONNECTIONS)
    good = two.throughput >= 1.7 * one_worker and two.failures == 0
    what = "payments a second, two workers, beside one"
    return [row("service.workers", what, two.throughput, "1/s", "at least 1.7 times", good, one_worker)]


def _peers(folder: Path, deployed: Any, one_worker: float) -> list[dict[str, Any]]:
    """Serve the same champion with MLflow: the scikit-learn model, and the bare ONNX model; features are sent."""
    import mlflow.onnx
    import mlflow.sklearn
    import onnx
    from mlflow.models import infer_signature

    from lifecycle import training
    from lifecycle.deployment import running

    model = training.load_model(deployed.path / "model")
    matrix = training.feature_matrix(deployed.frame("batch_features").head(PEER_REQUESTS + WARM), model.schema)
    estimator = fit_again(model.facts["name"], list(model.schema["features"]))
    kinds = {
        "sklearn": (lambda path, sign: mlflow.sklearn.save_model(estimator, path, signature=sign, pip_requirements=[],
                    pyfunc_predict_fn="predict_proba", serialization_format="cloudpickle"), 10),
        "onnx": (lambda path, sign: mlflow.onnx.save_model(onnx.load(str(deployed.path / "model" / "model.onnx")), path,
                 signature=sign, pip_requirements=[]), 1),
    }  # fmt: skip
    # JSON knows no missing value; a zero costs the peer as much time.
    bodies = [json.dumps({"inputs": [line]}) for line in np.nan_to_num(matrix).astype(float).tolist()]
    rows = []
    for kind, (save, times) in kinds.items():
        save(str(folder / kind), infer_signature(matrix))
        with mlflow_server(folder / kind, running.free_port()) as service:
            running.load(service, bodies[:WARM], 1)
            peer = running.load(service, bodies[WARM:], CONNECTIONS)
        good = one_worker >= times * peer.throughput and peer.failures == 0
        goal = f"at least {times} times" if peer.failures == 0 else f"the peer failed {peer.failures} requests"
        what = f"payments a second, features looked up, beside MLflow's server with the {kind} model, features sent"
        rows.append(row(f"service.mlflow_{kind}", what, one_worker, "1/s", goal, good, peer.throughput))
    return rows


@contextlib.contextmanager
def mlflow_server(model: Path, port: int) -> Iterator[Any]:
    """Run MLflow's own model server with one worker for the time of a ``with`` block."""
    from lifecycle.deployment import running

    command = [sys.executable, "-m", "mlflow", "models", "serve", "-m", str(model), "-h", "127.0.0.1", "-p", str(port),
               "--env-manager", "local", "--workers", "1"]  # fmt: skip
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    log = model.with_suffix(".log")
    with open(log, "wb") as file:
        process = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True,
                                   env=os.environ | {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"})  # fmt: skip
    service = running.Running(process, "127.0.0.1", port, log)
    try:
        until = time.monotonic() + 90
        while True:
            with contextlib.suppress(OSError, http.client.HTTPException):
                if service.call("/ping")[0] == 200:
                    break
            if process.poll() is not None or time.monotonic() > until:
                raise RuntimeError(f"MLflow's server did not start: {log.read_text()[-300:]}")
            time.sleep(0.2)
        yield service
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, 15)
        process.wait(30)


def _batch(package: Any, week: Any) -> list[dict[str, Any]]:
    """Return the batch job's payments a second: with features computed, and with features given."""
    from lifecycle.deployment import batch

    batch.score_frame(package, week.head(1_000))
    began = time.perf_counter()
    batch.score_frame(package, week)
    computed = len(week) / (time.perf_counter() - began)
    table = batch.feature_table(package, week)
    began = time.perf_counter()
    batch.score_features(package, table)
    given = len(table) / (time.perf_counter() - began)
    return [
        row("service.batch", "payments a second in batch, features included", computed, "1/s", "over 3,000",
            computed > 3_000),
        row("service.batch_given", "payments a second in batch, features given", given, "1/s", "over 500,000",
            given > 500_000),
    ]  # fmt: skip


def row(
    name: str, what: str, ours: float, unit: str, goal: str, met: bool, peer: float | None = None
) -> dict[str, Any]:
    """Return one line of the benchmark table; the ratio is ours to the peer's."""
    return {"name": name, "what": what, "ours": ours, "peer": peer, "unit": unit,
            "ratio": None if peer is None else ours / peer, "goal": goal, "met": bool(met)}  # fmt: skip
