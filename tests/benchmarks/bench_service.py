"""The service and the batch job on the default world: time of an answer, requests and payments per second."""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path
from typing import Any


def run() -> list[dict[str, Any]]:
    """Start the packaged service, load it with single payments, and run the batch job on the first week."""
    from lifecycle import pipeline
    from lifecycle.deployment import artifact, batch, messages, running

    deployed = pipeline.artifact("deployment")
    payments = pipeline.artifact("preprocessing").frame("transactions")
    scored = deployed.frame("batch_scores")
    week = payments[payments["transaction_id"].isin(scored["transaction_id"])]
    bodies = [json.dumps(record) for record in messages.as_records(week.head(5_000))]
    with tempfile.TemporaryDirectory() as folder:
        package = artifact.unpack(deployed.file("model.tar.gz"), Path(folder) / "model")
        with running.start(package.folder) as service:
            running.load(service, bodies[:500], 1)
            alone = running.load(service, bodies[500:2_500], 1)
            crowd = running.load(service, bodies[2_500:], 4)
            began = time.perf_counter()
            ended = service.stop()
            drained = time.perf_counter() - began
        batch.score_frame(package, week.head(1_000))
        began = time.perf_counter()
        batch.score_frame(package, week)
        seconds = time.perf_counter() - began
    failures = alone.failures + crowd.failures + (ended != 0)
    return [
        row("service.p50", "answer to one payment, one connection", alone.percentile(50), "ms", "under 3 ms",
            alone.percentile(50) < 3),
        row("service.p99", "answer to one payment, one connection", alone.percentile(99), "ms", "under 15 ms",
            alone.percentile(99) < 15),
        row("service.throughput", "payments a second, one worker, 4 connections", crowd.throughput, "1/s",
            "no failures", failures == 0),
        row("service.drain", "from SIGTERM to exit code 0", drained, "s", "under 5 s", ended == 0 and drained < 5),
        row("service.batch", "payments a second in batch, features included", len(week) / seconds, "1/s",
            "over 3,000", len(week) / seconds > 3_000),
    ]  # fmt: skip


def row(name: str, what: str, ours: float, unit: str, goal: str, met: bool) -> dict[str, Any]:
    """Return one line of the benchmark table, without a peer."""
    return {"name": name, "what": what, "ours": ours, "peer": None, "unit": unit, "ratio": None, "goal": goal,
            "met": bool(met)}  # fmt: skip
