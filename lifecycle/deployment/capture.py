"""Data capture: what the service was asked and what it answered, as SageMaker Model Monitor's JSON lines.

One object a line, in files under ``endpoint/variant/yyyy/mm/dd/hh/``:
``{"captureData": {"endpointInput": ..., "endpointOutput": ...}, "eventMetadata": ..., "eventVersion": "0"}``.
"""

from __future__ import annotations

import json
import logging
import threading
import uuid
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

ENDPOINT, VARIANT = "fraud-detector", "AllTraffic"
ENCODINGS = {"text/csv": "CSV", "application/json": "JSON", "application/jsonlines": "JSON"}

_log = logging.getLogger(__name__)


class Capture:
    """Collects requests and answers, and writes them in the published layout.

    Lines are held back and written together: `flush` writes them, and so does every `limit`-th request.

    Parameters
    ----------
    folder
        The root, under which ``endpoint/variant/yyyy/mm/dd/hh/`` is made.
    clock
        ``"wall"``: the hour is that of the answer. ``"event"``: it is that of the latest payment of the request,
        and event ids are repeatable. That is for replays, in which months pass in minutes.
    limit
        How many requests to hold back at most.

    Examples
    --------
    >>> import tempfile
    >>> root = Path(tempfile.mkdtemp())
    >>> capture = Capture(root, clock="event")
    >>> capture.add("text/csv", b"1", "text/csv", b"0.5", datetime(2025, 11, 3, 10, tzinfo=UTC))
    >>> capture.flush()
    >>> [path.parent.relative_to(root).as_posix() for path in root.rglob("*.jsonl")]
    ['fraud-detector/AllTraffic/2025/11/03/10']
    """

    def __init__(
        self, folder: Path, clock: str = "wall", limit: int = 200, endpoint: str = ENDPOINT, variant: str = VARIANT
    ) -> None:
        self.root = Path(folder) / endpoint / variant
        self.clock = clock
        self._limit = limit
        self._lines: list[tuple[datetime, str]] = []
        self._count = 0
        self._lock = threading.Lock()
        # Each start of the service writes files of its own, so that two never append to one file.
        self._run = "replay" if clock == "event" else uuid.uuid4().hex[:12]

    def add(
        self,
        content_type: str,
        body: bytes,
        answer_type: str,
        answer: bytes,
        event_time: datetime,
        inference_id: str | None = None,
    ) -> None:
        """Keep one request and its answer.

        Parameters
        ----------
        content_type, body
            The request as received.
        answer_type, answer
            The answer as sent.
        event_time
            The time of the latest payment in the request.
        inference_id
            The caller's own id of the request, if given.
        """
        moment = event_time if self.clock == "event" else datetime.now(UTC)
        with self._lock:
            self._count += 1
            name = f"{self._count}:{moment.isoformat()}"
            event_id = str(uuid.uuid5(uuid.NAMESPACE_OID, name) if self.clock == "event" else uuid.uuid4())
            line = {
                "captureData": {
                    "endpointInput": _side(content_type, "INPUT", body),
                    "endpointOutput": _side(answer_type, "OUTPUT", answer),
                },
                "eventMetadata": _metadata(event_id, moment, inference_id),
                "eventVersion": "0",
            }
            self._lines.append((moment, json.dumps(line)))
            full = len(self._lines) >= self._limit
        if full:
            self.flush()

    def flush(self) -> None:
        """Write what is held back. A full disk costs the lines, not the service: it is logged."""
        with self._lock:
            lines, self._lines = self._lines, []
            hours: dict[Path, list[str]] = {}
            for moment, line in lines:
                hours.setdefault(self.root / moment.strftime("%Y/%m/%d/%H"), []).append(line)
            for hour, some in hours.items():
                try:
                    hour.mkdir(parents=True, exist_ok=True)
                    with open(hour / f"capture-{self._run}.jsonl", "a") as file:
                        file.write("".join(line + "\n" for line in some))
                except OSError as error:
                    _log.error("data capture lost %d requests: %s", len(some), error.strerror)


def _side(content_type: str, mode: str, data: bytes) -> dict[str, str]:
    return {
        "observedContentType": content_type,
        "mode": mode,
        "data": data.decode("utf-8-sig"),
        "encoding": ENCODINGS[content_type],
    }


def _metadata(event_id: str, moment: datetime, inference_id: str | None) -> dict[str, Any]:
    metadata = {"eventId": event_id, "inferenceTime": moment.strftime("%Y-%m-%dT%H:%M:%SZ")}
    return metadata | ({"inferenceId": inference_id} if inference_id else {})
