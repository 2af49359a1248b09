"""What stands behind ``/invocations``: versions of the model, one memory, one journal.

`Endpoint.score` counts each payment once and gives it one answer, whatever happens to the process, and follows the
aliases of its releases while it runs.
"""

from __future__ import annotations

import logging
import threading
import time
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lifecycle.deployment import releases
from lifecycle.deployment.artifact import JOURNAL, open_package
from lifecycle.deployment.journal import Event, Journal, content_of
from lifecycle.deployment.messages import RecordFormat
from lifecycle.deployment.scorer import Scorer, decide
from lifecycle.errors import LifecycleError

LEAST = 50
"""Payments a canary decides before its decisions are compared with the champion's."""

MOST_DIFFERENT = 0.2
"""The share of a canary's decisions that may differ from the champion's."""

SLOWER = 20.0
"""How many times the champion's processor time a canary may take for its scores."""

_log = logging.getLogger(__name__)


@dataclass
class _Trial:
    """What is known of a canary so far: decisions, those that differ, seconds of both versions."""

    payments: int = 0
    different: int = 0
    seconds: float = 0.0
    champion_seconds: float = 0.0

    def verdict(self) -> str | None:
        """Return why the canary must go, if it must."""
        if self.payments < LEAST:
            return None
        if self.different > MOST_DIFFERENT * self.payments:
            return f"{self.different} of its first {self.payments} decisions differ from the champion's"
        if self.seconds > SLOWER * self.champion_seconds:
            return f"it takes {self.seconds / self.champion_seconds:.0f} times as long as the champion"
        return None


@dataclass(frozen=True)
class _Plan:
    """Who scores: the champion, and a candidate or None."""

    champion: str
    candidate: releases.Candidate | None = None


class Endpoint:
    """Scores payments once each, in one order, with what happened just before.

    Parameters
    ----------
    scorer, version
        The champion and its name.
    journal
        Where answered payments are kept.
    folder
        The releases to follow, if any.
    history
        Transaction ids that the champion's packaged history already counts.

    Attributes
    ----------
    journal
        As given.
    memory
        The recent activity (`Remembered`): the packaged history and every payment of the journal, once each.
    """

    def __init__(
        self,
        scorer: Scorer,
        version: str,
        journal: Journal,
        folder: Path | None = None,
        history: Sequence[Any] = (),
    ) -> None:
        self._scorers = {version: scorer}
        self._plan = _Plan(version)
        self.memory = scorer.features.recent
        self.journal = journal
        self._folder = folder
        self._history = frozenset(history)
        self._trial = _Trial()
        self._stamp: tuple[int, int] | None = None
        self._loading: threading.Thread | None = None
        self._loaded: tuple[_Plan, dict[str, Scorer]] | None = None
        self._catch_up()

    @classmethod
    def open(cls, folder: Path | str, state: Path | str | None = None, fsync: bool = False) -> Endpoint:
        """Open a package, or the champion of releases, with its journal.

        Parameters
        ----------
        folder
            A package, or a folder of releases.
        state
            Where the journal is; by default ``state/`` in `folder`.
        fsync
            See `Journal`.

        Raises
        ------
        LifecycleError
            If the package is refused, or the journal cannot be used.
        """
        folder = Path(folder)
        followed = folder if releases.is_releases(folder) else None
        package = open_package(folder / releases.read(folder).champion if followed else folder)
        scorer = Scorer.open(package.folder)
        version = package.folder.name if followed else package.digest[:12]
        journal = Journal(Path(state) if state is not None else folder / JOURNAL, fsync)
        return cls(scorer, version, journal, followed, _history(package.folder))

    @property
    def record_format(self) -> RecordFormat:
        """How this model's records are written."""
        return self._champion.record_format

    @property
    def version(self) -> str:
        """The name of the champion."""
        return self._plan.champion

    @property
    def online_store(self) -> Path:
        """The file of the daily features that the champion looks up, if they are in a file."""
        return Path(self._champion.features.rows.folder) / "online_store.db"

    @property
    def _champion(self) -> Scorer:
        return self._scorers[self._plan.champion]

    def close(self) -> None:
        """Close the journal."""
        self.journal.close()

    def score(self, records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Score payments in the order given and remember each, once.

        Parameters
        ----------
        records
            Checked records, as `lifecycle.deployment.messages.parse` returns them.

        Returns
        -------
        list of dict
            ``transaction_id``, ``score`` and ``decision``, in order. A payment that was answered before has the answer
            it had. One whose id belongs to another payment has ``error`` in place of score and decision.

        Raises
        ------
        JournalError
            If the payments cannot be recorded. None of them was counted then.
        """
        self._follow()
        contents = [content_of(record) for record in records]
        prepared = self._champion.features.prepare(records)  # the slow part, before the lock
        with self.memory.changing(), self.journal.writing():
            self._catch_up()
            known = self.journal.find([record["transaction_id"] for record in records])
            fresh = _first_places(records, known)
            if len(fresh) < len(records):
                prepared = prepared.take(fresh)
            events = self._answer([records[i] for i in fresh], [contents[i] for i in fresh], prepared)
            counted = self._in_history([record["transaction_id"] for record in records])
            self.journal.append(event for event in events if event.transaction_id not in counted)
        known |= {event.transaction_id: event for event in events}
        return [
            _answer_of(known[record["transaction_id"]], content)
            for record, content in zip(records, contents, strict=True)
        ]

    def _answer(self, records: list[Mapping[str, Any]], contents: list[bytes], prepared: Any) -> list[Event]:
        """Score payments that are new to the journal, and remember them."""
        if not records:
            return []
        counted = self._in_history([record["transaction_id"] for record in records])
        observed = [
            self.memory.look_one(customer, terminal, now)
            if record["transaction_id"] in counted
            else self.memory.observe_one(customer, terminal, now, units)
            for record, (customer, terminal, now, units) in zip(records, prepared.keys, strict=True)
        ]
        scorer, plan = self._champion, self._plan
        scores, seconds = _timed(scorer, prepared, observed)
        others = self._try_candidate(records, observed, scores, seconds)
        events = []
        for place, record in enumerate(records):
            version, by, score = plan.champion, scorer, scores[place]
            other = (None, None) if others is None else (others[place], plan.candidate.version)
            if other[0] is not None and _is_canary(plan.candidate, record):
                version, by, score, other = plan.candidate.version, self._scorers[other[1]], other[0], (score, version)
            events.append(
                Event(record["transaction_id"], *prepared.keys[place], contents[place], score,
                      decide(score, by.threshold), version, *other)
            )  # fmt: skip
        return events

    def _try_candidate(
        self, records: list[Mapping[str, Any]], observed: list[Any], scores: list[float], seconds: float
    ) -> list[float] | None:
        """Return the candidate's scores; whatever is wrong with it ends its trial and costs no answer."""
        trial = self._plan.candidate
        if trial is None:
            return None
        scorer = self._scorers[trial.version]
        try:
            others, taken = _timed(scorer, scorer.features.prepare(records), observed)
            if not all(0 <= score <= 1 for score in others):
                raise LifecycleError("it gives a score outside of 0 to 1")
        except Exception as error:
            self._end_trial(str(error) if isinstance(error, LifecycleError) else f"it failed: {type(error).__name__}")
            return None
        self._trial.seconds += taken
        self._trial.champion_seconds += seconds
        if trial.mode == "canary":
            self._trial.payments += len(others)
            self._trial.different += sum(
                decide(mine, self._champion.threshold) != decide(other, scorer.threshold)
                for mine, other in zip(scores, others, strict=True)
            )
            why = self._trial.verdict()
            if why is not None:
                self._end_trial(why)
                return None
        return others

    def _end_trial(self, why: str) -> None:
        version = self._plan.candidate.version
        self._plan = _Plan(self._plan.champion)
        _log.error("the candidate %s was rolled back: %s", version, why)
        try:
            releases.roll_back(self._folder, why, version)
        except (LifecycleError, OSError) as error:
            _log.error("the aliases could not be written: %s", error)

    def _catch_up(self) -> None:
        """Remember what other processes, or this one before it ended, have counted."""
        rows = list(self.journal.unseen())
        counted = self._in_history([row[0] for row in rows])
        for transaction, *event in rows:
            if transaction not in counted:
                self.memory.observe_one(*event)

    def _in_history(self, ids: list[Any]) -> frozenset[Any]:
        return self._history.intersection(ids)

    def _follow(self) -> None:
        """Take over a change of the aliases, once the versions it names are loaded."""
        if self._folder is None:
            return
        if self._loaded is not None:
            self._plan, loaded = self._loaded
            self._scorers |= loaded
            self._loaded, self._trial = None, _Trial()
        try:
            found = (self._folder / releases.ALIASES).stat()
        except OSError:
            return
        stamp = (found.st_mtime_ns, found.st_ino)
        if stamp != self._stamp and (self._loading is None or not self._loading.is_alive()):
            self._stamp = stamp
            self._loading = threading.Thread(target=self._load, daemon=True)
            self._loading.start()

    def _load(self) -> None:
        """Load what the aliases name, beside the work of the service. What is refused changes nothing."""
        try:
            aliases = releases.read(self._folder)
            names = [aliases.champion] + ([aliases.candidate.version] if aliases.candidate else [])
            new = [name for name in names if name not in self._scorers]
            loaded = {name: Scorer.open(self._folder / name, recent=self.memory) for name in new}
            self._loaded = _Plan(aliases.champion, aliases.candidate), loaded
        except Exception as error:
            _log.error("the change of the aliases is not followed: %s", error)


def _timed(scorer: Scorer, prepared: Any, observed: Sequence[Any]) -> tuple[list[float], float]:
    """Return the scores of prepared payments, and the seconds of this thread's processor time that they took."""
    began = time.thread_time()
    scores = scorer.predict(scorer.features.finish(prepared, observed))
    return scores, time.thread_time() - began


def _history(package: Path) -> list[Any]:
    import pandas as pd

    table = pd.read_parquet(package / "online" / "history" / "transactions.parquet", columns=["transaction_id"])
    return table["transaction_id"].tolist()


def _first_places(records: Sequence[Mapping[str, Any]], known: Mapping[Any, Any]) -> list[int]:
    """Return where each transaction id that is not known comes first."""
    first: dict[Any, int] = {}
    for place, record in enumerate(records):
        if record["transaction_id"] not in known:
            first.setdefault(record["transaction_id"], place)
    return list(first.values())


def _answer_of(event: Event, content: bytes) -> dict[str, Any]:
    if event.content != content:
        return {
            "transaction_id": event.transaction_id,
            "error": "Field 'transaction_id' belongs to another payment: send this one under an id of its own.",
        }
    return {"transaction_id": event.transaction_id, "score": event.score, "decision": event.decision}


def _is_canary(candidate: releases.Candidate, record: Mapping[str, Any]) -> bool:
    """Return whether a canary decides for a customer: always the same answer for the same customer."""
    return candidate.mode == "canary" and zlib.crc32(repr(record["customer_id"]).encode()) % 100 < candidate.share
