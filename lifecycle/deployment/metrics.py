"""What the service says of itself at ``GET /metrics``, in the text format of Prometheus.

The figures are those of one process. With several workers each scrape is answered by one of them, and the label
``worker`` says by which: sum over it, and scrape often. No label holds anything of a request.
"""

from __future__ import annotations

import os
import time
from bisect import bisect_left
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import lifecycle
from lifecycle.deployment.scorer import REVIEW

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
BUCKETS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 5.0)
"""Upper ends in seconds; the timeout of a decision (0.1 s) is one of them."""

PREFIX = "fraud_service"


class Figures:
    """Counts what one process answers.

    Examples
    --------
    >>> figures = Figures()
    >>> figures.count_request("/ping", 200, 0.0004)
    >>> figures.count_answers([{"score": 0.9, "decision": "review"}, {"error": "..."}])
    >>> [line for line in figures.text().splitlines() if line.startswith("fraud_service_payments")][0].split()[-1]
    '1'
    """

    def __init__(self, scorer: Any = None) -> None:
        self._scorer = scorer
        self._requests: Counter[int] = Counter()
        self._buckets = [0] * (len(BUCKETS) + 1)
        self._seconds = 0.0
        self._payments = self._flagged = 0
        self.in_flight = 0

    def count_request(self, path: str, status: int, seconds: float) -> None:
        """Count an answer; the time of those to ``/invocations`` goes into the histogram."""
        self._requests[status] += 1
        if path == "/invocations":
            self._buckets[bisect_left(BUCKETS, seconds)] += 1
            self._seconds += seconds

    def count_answers(self, answers: Iterable[Mapping[str, Any]]) -> None:
        """Count the payments that got a score."""
        for answer in answers:
            if "score" in answer:
                self._payments += 1
                self._flagged += answer["decision"] == REVIEW

    def text(self) -> str:
        """Return all figures in the text format."""
        codes = [({"code": code}, number) for code, number in sorted(self._requests.items())]
        seen, within = 0, []
        for end, number in zip([*BUCKETS, "+Inf"], self._buckets, strict=True):
            seen += number
            within.append(("_bucket", {"le": end}, seen))
        within += [("_sum", {}, self._seconds), ("_count", {}, seen)]
        parts = [
            _family("requests_total", "counter", "Requests answered, by status code", codes or [({"code": 200}, 0)]),
            _family("payments_total", "counter", "Payments that got a score", [({}, self._payments)]),
            _family("flagged_total", "counter", "Payments that were sent to review", [({}, self._flagged)]),
            _family("requests_in_flight", "gauge", "Requests under way, this one too", [({}, self.in_flight)]),
            _lines("request_seconds", "histogram", "Time to answer a request to /invocations", within),
            *self._of_the_endpoint(),
        ]
        return "".join(parts)

    def _of_the_endpoint(self) -> Iterable[str]:
        """Say what release answers, how old its daily features are, and how large the journal is."""
        facts = {"release": getattr(self._scorer, "version", "none"), "code": lifecycle.__version__}
        yield _family("release_info", "gauge", "The release that answers, and the version of the code", [(facts, 1)])
        store = getattr(self._scorer, "online_store", None)
        if isinstance(store, Path) and store.exists():
            age = max(time.time() - store.stat().st_mtime, 0.0)
            yield _family("feature_age_seconds", "gauge", "Since the daily features were written", [({}, age)])
        if hasattr(self._scorer, "journal"):
            size = self._scorer.journal.bytes()
            yield _family("journal_bytes", "gauge", "Size of the journal of answered payments", [({}, size)])


def _family(name: str, kind: str, help_text: str, values: Sequence[tuple[Mapping[str, Any], float]]) -> str:
    return _lines(name, kind, help_text, [("", labels, value) for labels, value in values])


def _lines(name: str, kind: str, help_text: str, values: Sequence[tuple[str, Mapping[str, Any], float]]) -> str:
    lines = [f"# HELP {PREFIX}_{name} {help_text}.", f"# TYPE {PREFIX}_{name} {kind}"]
    for ending, labels, value in values:
        pairs = ",".join(f'{key}="{_escaped(text)}"' for key, text in {"worker": os.getpid(), **labels}.items())
        lines.append(f"{PREFIX}_{name}{ending}{{{pairs}}} {value!r}")
    return "\n".join(lines) + "\n"


def _escaped(text: Any) -> str:
    return str(text).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


class Counted:
    """A scorer whose answers are counted."""

    def __init__(self, scorer: Any, figures: Figures) -> None:
        self._scorer, self._figures = scorer, figures

    @property
    def record_format(self) -> Any:
        """How records are written."""
        return self._scorer.record_format

    def score(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Score payments and count them."""
        answers = self._scorer.score(records)
        self._figures.count_answers(answers)
        return answers


class Measured:
    """An ASGI application whose requests are counted and timed."""

    def __init__(self, app: Any, figures: Figures) -> None:
        self._app, self._figures = app, figures

    def count_refused(self, status: int) -> None:
        """Count a request that never became one, since its head was refused."""
        self._figures.count_request("", status, 0.0)

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Pass a request on, and count its answer."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        status, began = 500, time.perf_counter()

        async def note(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        self._figures.in_flight += 1
        try:
            await self._app(scope, receive, note)
        finally:
            self._figures.in_flight -= 1
            self._figures.count_request(scope["path"], status, time.perf_counter() - began)
