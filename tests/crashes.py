"""A collection that dies on purpose, for a process of its own."""

from __future__ import annotations

import os
import signal
from pathlib import Path

from lifecycle import collection


def collect_and_die(sources: Path, folder: Path, until: tuple[str, ...], dies_at: int | None) -> None:
    """Collect and publish up to one day after another; die before (even) or after (odd) a numbered rename."""
    if dies_at is not None:
        _die_at(dies_at)
    for day in until:
        collection.collect_until(sources, folder, day)
        collection.publish(folder)


def _die_at(step: int) -> None:
    rename, seen = os.replace, iter(range(10_000))

    def replace(source: Path, target: Path) -> None:
        number = 2 * next(seen)
        if number == step:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
        if number + 1 == step:
            os.kill(os.getpid(), signal.SIGKILL)

    os.replace = replace
