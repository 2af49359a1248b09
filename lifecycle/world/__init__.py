"""The simulated bank: population, payments, fraud, incidents, and the sources it leaves on disk.

`simulate` yields the days of a world one after another and `payments` returns them all as one table;
`write_sources` writes what a bank would have on disk, and the truth apart. Everything follows from
the settings: the same seed gives the same world, bit for bit.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lifecycle import files
from lifecycle.errors import LifecycleError
from lifecycle.world.incidents import Incident, timeline
from lifecycle.world.payments import Day, World, fingerprint, payments, simulate
from lifecycle.world.sources import write_sources

__all__ = [
    "Day",
    "Incident",
    "World",
    "build",
    "fingerprint",
    "payments",
    "simulate",
    "simulate_to",
    "timeline",
    "write_sources",
]


def build(settings: Any, inputs: Mapping[str, Path], out: Path) -> None:
    """Write the sources and the answer key of the world into `out` (the stage of the pipeline)."""
    write_sources(settings, out)


def simulate_to(settings: Any, out: Path | str, progress: Callable[[int, int], None] | None = None) -> Path:
    """Write a world into a new folder: all of it, or nothing.

    Parameters
    ----------
    settings
        The knobs of the world.
    out
        A folder that is empty or does not exist.
    progress
        Called after each day with (days done, days in all).

    Raises
    ------
    LifecycleError
        If a size is out of range, `out` has something in it, or it cannot be written.
    """
    out = Path(out)
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise LifecycleError(f"{out} is not an empty folder; choose another for --out, or empty it first.")
    whole = out.resolve()
    temporary = whole.with_name(f".{whole.name}.{os.getpid()}.tmp")
    try:
        temporary.mkdir(parents=True)
        write_sources(settings, temporary, progress)
        os.replace(temporary, whole)
    except OSError as error:
        raise files.as_sentence(error, out) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return out
