"""Which version of the model answers: a folder of packages, and one small file that names the one in use.

    releases/
        aliases.json     {"champion": "v2", "previous": "v1", "candidate": null}
        changes.jsonl    every change of the aliases, with its reason
        v1/ v2/          packages

A running service reads ``aliases.json`` again whenever it changes, so a release, a trial and a rollback are one
rename of one file: no process is restarted and no request is refused.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock

from lifecycle import files
from lifecycle.deployment.artifact import JOURNAL, open_package
from lifecycle.errors import LifecycleError

ALIASES = "aliases.json"
CHANGES = "changes.jsonl"


@dataclass(frozen=True)
class Candidate:
    """A version on trial.

    Parameters
    ----------
    version
        Its name.
    mode
        ``"shadow"``: it scores every payment and its score is only kept. ``"canary"``: it decides for a part of the
        customers.
    share
        The part of the customers, in percent, whose payments a canary decides.
    """

    version: str
    mode: str
    share: int = 0


@dataclass(frozen=True)
class Aliases:
    """The content of ``aliases.json``."""

    champion: str
    previous: str | None = None
    candidate: Candidate | None = None


def is_releases(folder: Path | str) -> bool:
    """Return whether a folder holds releases rather than one package."""
    return (Path(folder) / ALIASES).is_file()


def add(folder: Path | str, package: Path | str, version: str) -> None:
    """Copy a checked package into the releases under a name. The first one becomes the champion.

    Raises
    ------
    LifecycleError
        If the name is taken or is no plain name, or the package does not pass `open_package`.
    """
    folder = Path(folder)
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,60}", version):
        raise LifecycleError(f"{version!r} is no name for a version: use letters, digits, dots and dashes.")
    if (folder / version).exists():
        raise LifecycleError(f"There is a version {version} in {folder}: choose another name.")
    open_package(package)
    incoming = folder / f".{version}.incoming"
    shutil.rmtree(incoming, ignore_errors=True)
    shutil.copytree(package, incoming, ignore=shutil.ignore_patterns(JOURNAL))
    incoming.rename(folder / version)
    if not is_releases(folder):
        _write(folder, Aliases(version), f"{version} is the first version")


def read(folder: Path | str) -> Aliases:
    """Return who is champion, who was before, and who is on trial.

    Raises
    ------
    LifecycleError
        If the file is missing or damaged.
    """
    content = files.read_json(Path(folder) / ALIASES)
    try:
        trial = content["candidate"]
        return Aliases(str(content["champion"]), content["previous"], Candidate(**trial) if trial else None)
    except (KeyError, TypeError):
        raise LifecycleError(f"{ALIASES} in {folder} is damaged: write it again with promote or try_out.") from None


def promote(folder: Path | str, version: str) -> None:
    """Make a version the champion; the one before it is kept for `roll_back`."""
    _known(folder, version)
    with _locked(folder):
        now = read(folder)
        if version != now.champion:
            _write(Path(folder), Aliases(version, now.champion), f"{version} was promoted")


def try_out(folder: Path | str, version: str, mode: str = "shadow", share: int = 10) -> None:
    """Begin a trial of a version beside the champion; see `Candidate`.

    Raises
    ------
    LifecycleError
        If there is no such version or mode, or the share is not between 1 and 100.
    """
    _known(folder, version)
    if mode not in ("shadow", "canary") or not 1 <= share <= 100:
        raise LifecycleError(f"A trial is 'shadow' or 'canary' with a share of 1 to 100, not {mode!r} with {share}.")
    with _locked(folder):
        now = read(folder)
        trial = Candidate(version, mode, share if mode == "canary" else 0)
        _write(Path(folder), Aliases(now.champion, now.previous, trial), f"{version} began as {mode}")


def roll_back(folder: Path | str, why: str = "rolled back by hand", version: str | None = None) -> None:
    """End the trial, or if there is none put the previous champion back.

    Parameters
    ----------
    folder
        The releases.
    why
        Kept in ``changes.jsonl``.
    version
        Do nothing unless this version is the one on trial; so that two processes do not roll back twice.

    Raises
    ------
    LifecycleError
        If there is neither a trial nor a previous champion.
    """
    with _locked(folder):
        now = read(folder)
        if version is not None and (now.candidate is None or now.candidate.version != version):
            return
        if now.candidate is not None:
            _write(Path(folder), Aliases(now.champion, now.previous), f"{now.candidate.version}: {why}")
        elif now.previous is not None:
            _write(Path(folder), Aliases(now.previous, now.champion), f"{now.champion}: {why}")
        else:
            raise LifecycleError(f"There is no version to go back to in {folder}.")


def changes(folder: Path | str) -> list[dict[str, Any]]:
    """Return every change of the aliases: when, why, and the aliases since."""
    return [json.loads(line) for line in (Path(folder) / CHANGES).read_text().splitlines()]


def _known(folder: Path | str, version: str) -> None:
    if not (Path(folder) / version / "package.json").is_file():
        raise LifecycleError(f"There is no version {version} in {folder}: add it first.")


def _locked(folder: Path | str) -> FileLock:
    return FileLock(Path(folder) / ".aliases.lock")


def _write(folder: Path, aliases: Aliases, why: str) -> None:
    with open(folder / CHANGES, "a") as file:
        file.write(json.dumps({"at": time.time(), "why": why, **asdict(aliases)}) + "\n")
    files.write_json(asdict(aliases), folder / ALIASES)
