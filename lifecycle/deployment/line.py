"""The line in front of the model: requests that wait at the same moment are answered together.

One thread does all the scoring, since the recent activity depends on the order of the payments. While it works, further
requests wait; then it takes all of them, for which one call of the model and one transaction of the journal take little
longer than for one. Whoever waits alone is answered at once. An answer leaves after its own payment is on disk, and a
request that fails takes no other one along.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import queue
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from lifecycle.deployment import messages
from lifecycle.deployment.capture import Capture
from lifecycle.deployment.messages import BadRequest

MOST = 64
"""Requests that are answered together at most."""

MOST_BYTES = 65_536
"""Bytes of their bodies at most, so that a small request never waits for the model's work on a large one behind it."""


class Asked(NamedTuple):
    """A request whose head was in order, and its body."""

    body: bytes
    content_type: str
    accept: str
    inference_id: str | None = None


class Line:
    """Answers requests in the order in which they came, those that wait together.

    Parameters
    ----------
    scorer
        See `answer_together`.
    capture
        Where requests and answers are kept, if anywhere.
    """

    def __init__(self, scorer: Any, capture: Capture | None = None) -> None:
        self._work = scorer, capture
        self._waiting: queue.SimpleQueue[tuple[Asked, asyncio.Future] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    async def answer(self, asked: Asked) -> bytes:
        """Return the body of the answer.

        Raises
        ------
        BadRequest
            If the request cannot be read, or its only payment was refused.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="scorer", daemon=True)
            self._thread.start()
        future = asyncio.get_running_loop().create_future()
        self._waiting.put((asked, future))
        answer = await future
        if isinstance(answer, Exception):
            raise answer
        return answer

    def close(self) -> None:
        """Answer what still waits, and end the thread; a later request begins another one."""
        if self._thread is not None:
            self._waiting.put(None)
            self._thread.join()
            self._thread = None

    def _run(self) -> None:
        for group in self._groups():
            answers = attempt(answer_together, *self._work, [asked for asked, _ in group])
            if isinstance(answers, Exception):
                answers = [answers] * len(group)
            with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                group[0][1].get_loop().call_soon_threadsafe(_deliver, group, answers)

    def _groups(self) -> Iterator[list[tuple[Asked, asyncio.Future]]]:
        """Yield what waits, some requests at a time, until the line is closed."""
        following = self._waiting.get()
        while following is not None:
            group, size = [following], len(following[0].body)
            while True:
                if self._waiting.empty():
                    yield group
                    following = self._waiting.get()
                    break
                following = self._waiting.get()
                size += 0 if following is None else len(following[0].body)
                if following is None or len(group) == MOST or size > MOST_BYTES:
                    yield group
                    break
                group.append(following)


def _deliver(group: Sequence[tuple[Asked, asyncio.Future]], answers: Sequence[bytes | Exception]) -> None:
    for (_, future), answer in zip(group, answers, strict=True):
        if not future.done():
            future.set_result(answer)


def attempt(work: Callable[..., Any], *arguments: Any) -> Any:
    """Return what a function returns, or the exception that it raises.

    Examples
    --------
    >>> attempt(int, "5"), attempt(int, "five")
    (5, ValueError("invalid literal for int() with base 10: 'five'"))
    """
    try:
        return work(*arguments)
    except Exception as error:
        return error


def answer_together(scorer: Any, capture: Capture | None, group: Sequence[Asked]) -> list[bytes | Exception]:
    """Turn the bytes of requests into the bytes of their answers.

    Parameters
    ----------
    scorer
        Has `score` and `record_format`: an `Endpoint`, or a `Scorer` where nothing needs to be durable.
    capture
        Where requests and answers are kept, if anywhere.
    group
        The requests, in their order.

    Returns
    -------
    list of bytes or Exception
        One a request; what is wrong with one of them has no effect on the others.
    """
    found = [attempt(messages.parse, asked.body, asked.content_type, scorer.record_format) for asked in group]
    readable = [place for place, records in enumerate(found) if not isinstance(records, Exception)]
    good = [[record for record in found[place] if not isinstance(record, BadRequest)] for place in readable]
    answers: list[Any] = list(found)
    for place, records, scored in zip(readable, good, score_together(scorer, good), strict=True):
        failed = isinstance(scored, Exception)
        answers[place] = scored if failed else attempt(_write, group[place], found[place], records, scored, capture)
    return answers


def score_together(scorer: Any, requests: Sequence[Sequence[Mapping[str, Any]]]) -> list[Any]:
    """Score the records of some requests with one call, or one by one if that fails.

    Returns
    -------
    list
        For each request the answers to its records, or the exception that it raised on its own.

    Examples
    --------
    >>> class Inverse:
    ...     def score(self, records):
    ...         return [1 / record for record in records]
    >>> score_together(Inverse(), [[1, 2], [0], [4]])
    [[1.0, 0.5], ZeroDivisionError('division by zero'), [0.25]]
    """
    if len(requests) > 1:
        # What was scored is taken back where the call fails, so each request can be tried again on its own.
        scored = attempt(scorer.score, [record for records in requests for record in records])
        if not isinstance(scored, Exception):
            rest = iter(scored)
            return [list(itertools.islice(rest, len(records))) for records in requests]
    return [attempt(scorer.score, records) for records in requests]


def _write(
    asked: Asked, found: Sequence[Any], records: Sequence[Mapping[str, Any]], scored: Sequence[Any],
    capture: Capture | None,
) -> bytes:  # fmt: skip
    """Return the answer to one request, given its records as they were read and the answers to the good ones."""
    body, content_type, accept, inference_id = asked
    rest = iter(scored)
    answers = [{"error": str(record)} if isinstance(record, BadRequest) else next(rest) for record in found]
    single = messages.is_single(body, content_type)
    if single and "error" in answers[0]:
        raise BadRequest(answers[0]["error"], 409)
    answer = messages.render(answers, accept, single=single, header=messages.has_header(body, content_type))
    if capture is not None:
        latest = max(record["event_time"] for record in records)
        if any("error" in one for one in answers):  # who reads the capture wants what was scored
            body, content_type = messages.write_records(records), messages.JSON_LINES
            kept = messages.render([one for one in answers if "error" not in one], messages.JSON_LINES)
            capture.add(content_type, body, messages.JSON_LINES, kept, latest, inference_id)
        else:
            capture.add(content_type, body, accept, answer, latest, inference_id)
    return answer
