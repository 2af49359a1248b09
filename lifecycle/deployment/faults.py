"""Break the running service on purpose, and count what is lost and what is counted twice.

Each drill sends payments to a service with a copy of a package, injects a fault some times, sends again whatever was
not acknowledged, and then compares with a clean replay: the same payments, once each, through a service that nobody
disturbs. `table` puts the drills together.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import random
import resource
import signal
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifecycle.deployment import messages, running
from lifecycle.deployment.endpoint import Endpoint
from lifecycle.deployment.journal import Journal, JournalError
from lifecycle.errors import LifecycleError

if TYPE_CHECKING:
    import pandas as pd

MOST_BETWEEN = 40
"""Answers between two kills, at most."""


@dataclass(frozen=True)
class Outcome:
    """What a drill found.

    Parameters
    ----------
    fault
        What was done.
    injected
        How many times.
    payments
        How many payments were acknowledged.
    lost
        Acknowledged payments that the service does not know afterwards.
    doubled
        Payments after which the memory differs from that of the clean replay, or whose answer does.
    """

    fault: str
    injected: int
    payments: int
    lost: int
    doubled: int


def table(package: Path | str, payments: Sequence[Mapping[str, Any]], kills: int = 10, seed: int = 1) -> pd.DataFrame:
    """Run every drill and return one row each; see `Outcome`.

    Parameters
    ----------
    package
        A package; each drill works on a state of its own.
    payments
        Records as a client sends them, each with its own id, in order of time.
    kills
        How often a process is killed under load.
    seed
        Of the moments and the victims.
    """
    import pandas as pd

    drills: list[Outcome] = [kill_processes(package, payments, kills, seed)]
    few = payments[:120]
    drills += [drill(package, few) for drill in (fill_the_disk, forbid_writing, repeat, shuffle, turn_back_the_clock)]
    return pd.DataFrame([asdict(outcome) for outcome in drills])


def kill_processes(package: Path | str, payments: Sequence[Mapping[str, Any]], times: int, seed: int = 1) -> Outcome:
    """Kill processes of a service with SIGKILL at random moments while three clients send.

    Two processes answer. Each time one of them is killed; the last time the whole service is. A client sends each of
    its payments until it is answered, and then all of them again, as long as the killing goes on.

    Raises
    ------
    LifecycleError
        If the service does not come back.
    """
    rng = random.Random(seed)
    clients = [_Client(payments[start::3]) for start in range(3)]
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        options = ("--workers", "2", "--state", folder)
        with running.start(package, options=options) as service:
            threads = [threading.Thread(target=client.run, args=(service,)) for client in clients]
            for thread in threads:
                thread.start()
            for _ in range(times - 1):
                _wait_for_answers(clients, rng.randint(1, MOST_BETWEEN))
                time.sleep(rng.uniform(0, 0.02))
                os.kill(_a_worker(service.process.pid, rng), signal.SIGKILL)
            whole = [service.process.pid, *_children(service.process.pid)]
            for victim in whole:
                os.kill(victim, signal.SIGKILL)
            for client, thread in zip(clients, threads, strict=True):
                client.over.set()
                thread.join()
        sent = [record for client in clients for record in client.payments[: client.begun]]
        answers = {key: answer for client in clients for key, answer in client.answers.items()}
        found = _judge("process killed (SIGKILL)", times, package, Path(folder), sent, answers)
        changed = sum(client.changed for client in clients)
        return Outcome(found.fault, times, found.payments, found.lost, found.doubled + changed)


def fill_the_disk(package: Path | str, payments: Sequence[Mapping[str, Any]]) -> Outcome:
    """Let the system refuse every third payment's write, as on a full disk."""

    @contextlib.contextmanager
    def full(_: Endpoint) -> Iterator[None]:
        soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, hard))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    return _with_failing_journal("disk full", package, payments, full)


def forbid_writing(package: Path | str, payments: Sequence[Mapping[str, Any]]) -> Outcome:
    """Let the journal be read-only for every third payment."""

    @contextlib.contextmanager
    def read_only(endpoint: Endpoint) -> Iterator[None]:
        endpoint.journal.allow_writing(False)
        try:
            yield
        finally:
            endpoint.journal.allow_writing(True)

    return _with_failing_journal("disk read-only", package, payments, read_only)


def repeat(package: Path | str, payments: Sequence[Mapping[str, Any]]) -> Outcome:
    """Send each payment three times: at once, in one request with itself, and at the end."""
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        endpoint = Endpoint.open(package, folder)
        checked = _checked(endpoint, payments)
        answers = {}
        for record in checked:
            answers |= {answer["transaction_id"]: answer for answer in endpoint.score([record, record])}
        again = endpoint.score(checked)
        endpoint.close()
        changed = sum(answer != answers[answer["transaction_id"]] for answer in again)
        found = _judge("payment sent again", 3 * len(checked), package, Path(folder), payments, answers)
        return Outcome(found.fault, found.injected, found.payments, found.lost, found.doubled + changed)


def shuffle(package: Path | str, payments: Sequence[Mapping[str, Any]]) -> Outcome:
    """Send payments in another order than that of their times."""
    mixed = random.Random(1).sample(list(payments), len(payments))
    return _undisturbed("payment out of order", package, mixed)


def turn_back_the_clock(package: Path | str, payments: Sequence[Mapping[str, Any]]) -> Outcome:
    """Let the clock of the sender go back by an hour after every tenth payment."""
    import pandas as pd

    turned = [
        record | {"event_time": (pd.Timestamp(record["event_time"]) - pd.Timedelta(hours=place // 10)).isoformat()}
        for place, record in enumerate(payments)
    ]
    outcome = _undisturbed("clock set back an hour", package, turned)
    return Outcome(outcome.fault, (len(turned) - 1) // 10, outcome.payments, outcome.lost, outcome.doubled)


def _undisturbed(fault: str, package: Path | str, payments: Sequence[Mapping[str, Any]]) -> Outcome:
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        endpoint = Endpoint.open(package, folder)
        answers = {}
        for record in _checked(endpoint, payments):
            answers |= {answer["transaction_id"]: answer for answer in endpoint.score([record])}
        endpoint.close()
        return _judge(fault, len(payments), package, Path(folder), payments, answers)


def _with_failing_journal(
    fault: str,
    package: Path | str,
    payments: Sequence[Mapping[str, Any]],
    broken: Callable[[Endpoint], contextlib.AbstractContextManager[None]],
) -> Outcome:
    """Send each payment until it is answered, the first time to a journal that cannot write for every third."""
    failures = 0
    with tempfile.TemporaryDirectory(prefix="drill-") as folder:
        endpoint = Endpoint.open(package, folder)
        answers = {}
        for place, record in enumerate(_checked(endpoint, payments)):
            if place % 3 == 0:
                with broken(endpoint), contextlib.suppress(JournalError):
                    endpoint.score([record])
                    raise LifecycleError("A journal that cannot write acknowledged a payment.")
                failures += 1
            answers |= {answer["transaction_id"]: answer for answer in endpoint.score([record])}
        endpoint.close()
        return _judge(fault, failures, package, Path(folder), payments, answers)


def _checked(endpoint: Endpoint, payments: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [messages.check_record(dict(one), 1, endpoint.record_format) for one in payments]


class _Client:
    """Sends payments one after the other over a connection that stays open, each until it is answered."""

    def __init__(self, payments: Sequence[Mapping[str, Any]]) -> None:
        self.payments = payments
        self.answers: dict[Any, Any] = {}
        self.begun = 0
        self.changed = 0
        self.answered = 0
        self.over = threading.Event()
        self._connection: http.client.HTTPConnection | None = None

    def run(self, service: running.Running) -> None:
        """Send until `over` is set."""
        for number in itertools.count():
            if self.over.is_set():
                break
            record = self.payments[number % len(self.payments)]
            self.begun = min(max(self.begun, number + 1), len(self.payments))
            answer = self._answer(service, json.dumps(record))
            if answer is not None:
                first = self.answers.setdefault(record["transaction_id"], answer)
                self.changed += first != answer
                self.answered += 1
        self._hang_up()

    def _answer(self, service: running.Running, body: str) -> Any:
        while not self.over.is_set():
            try:
                if self._connection is None:
                    self._connection = http.client.HTTPConnection(service.host, service.port, timeout=30)
                self._connection.request("POST", "/invocations", body, {"Content-Type": messages.JSON})
                answer = self._connection.getresponse()
                text = answer.read()
                if answer.status == 200:
                    return json.loads(text)
            except (OSError, http.client.HTTPException):
                self._hang_up()
        return None

    def _hang_up(self) -> None:
        if self._connection is not None:
            self._connection.close()
        self._connection = None


def _wait_for_answers(clients: Sequence[_Client], more: int) -> None:
    until = time.monotonic() + 60
    wanted = sum(client.answered for client in clients) + more
    while sum(client.answered for client in clients) < wanted:
        if time.monotonic() > until:
            raise LifecycleError("The service answers no more.")
        time.sleep(0.002)


def _children(pid: int) -> list[int]:
    text = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in text.split()]


def _a_worker(pid: int, rng: random.Random) -> int:
    until = time.monotonic() + 60
    while time.monotonic() < until:
        found = _children(pid)
        if found:
            return rng.choice(found)
        time.sleep(0.01)
    raise LifecycleError("The service has no process left that could answer.")


def _judge(
    fault: str,
    times: int,
    package: Path | str,
    state: Path,
    payments: Sequence[Mapping[str, Any]],
    answers: Mapping[Any, Mapping[str, Any]],
) -> Outcome:
    """Restart, send again what was not acknowledged, and compare with the clean replay."""
    journal = Journal(state)
    kept = {event.transaction_id for event in journal.read()}
    journal.close()
    lost = len(set(answers) - kept)
    restarted = Endpoint.open(package, state)
    checked = {record["transaction_id"]: record for record in _checked(restarted, payments)}
    again = {answer["transaction_id"]: answer for answer in restarted.score(list(checked.values()))}
    wrong = sum(again[key] != answer for key, answer in answers.items())
    with tempfile.TemporaryDirectory(prefix="clean-") as folder:
        clean = Endpoint.open(package, folder)
        for event in list(restarted.journal.read()):
            (answer,) = clean.score([checked[event.transaction_id]])
            wrong += answer["score"] != event.score
        wrong += clean.memory.differs(restarted.memory)
        clean.close()
    restarted.close()
    return Outcome(fault, times, len(checked), lost, wrong)
