"""The model artifact: one folder with all that is needed to score a payment, and nothing that can run code.

A package holds the model (``model.onnx``), what the numbers mean (``feature_schema.json``), facts such as the
threshold (``model.json``), the online feature store (``online/``), the recent history that the batch job needs
(``history/``), for a model of one's own data what became of its columns (``own_file.json``), and ``package.json``:
the SHA-256 of every file that must not change. `open_package` checks
all of it before anything is loaded. ``model.tar.gz`` is the same folder in the layout that
SageMaker and similar platforms unpack to ``/opt/ml/model``.
"""

from __future__ import annotations

import gzip
import shutil
import tarfile
import zlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from lifecycle import files
from lifecycle.deployment.messages import IDS, RecordFormat
from lifecycle.errors import LifecycleError

MANIFEST = "package.json"
MODEL_FILES = ("model.onnx", "feature_schema.json", "model.json")
OWN_FILE = "own_file.json"
"""What became of the columns of the file that the model was trained on, if it was one's own."""

STATE = ("online/online_store.db",)
"""Files that the daily refresh changes while the service runs. They hold numbers and are not hashed."""

JOURNAL = "state"
"""The folder where a service that was given no other keeps its journal: no part of the package."""

PICKLE_SUFFIXES = {".pkl", ".pickle", ".joblib", ".dill", ".pt", ".pth", ".ckpt", ".skops"}
LARGEST_ARCHIVE = 2 * 1024**3
MOST_FILES = 1_000


class ArtifactError(LifecycleError):
    """A package that must not be served. The message names the file and what is wrong with it."""


@dataclass(frozen=True)
class Package:
    """A checked package.

    Parameters
    ----------
    folder
        Where it is.
    manifest
        The content of ``package.json``.
    facts
        The content of ``model.json``.
    """

    folder: Path
    manifest: Mapping[str, Any] = field(repr=False)
    facts: Mapping[str, Any] = field(repr=False)

    @property
    def threshold(self) -> float:
        """A payment with at least this score goes to review."""
        return float(self.facts["threshold"])

    @property
    def record_format(self) -> RecordFormat:
        """How this model's records are written."""
        return RecordFormat(self.manifest["ids"], self.manifest["attributes"])

    @property
    def digest(self) -> str:
        """SHA-256 of ``package.json``: one number that stands for the whole package, to keep in a registry."""
        return files.sha256(self.folder / MANIFEST)


def write_manifest(folder: Path, ids: Mapping[str, str], attributes: Mapping[str, str], **facts: Any) -> None:
    """Write ``package.json`` for a folder that has all its files.

    Parameters
    ----------
    folder
        The package.
    ids, attributes
        As in `RecordFormat`.
    facts
        Anything else worth recording, such as the day of the feature state.
    """
    names = [name for name in _names(folder) if name not in (*STATE, MANIFEST)]
    manifest = {
        "format": 1,
        **facts,
        "ids": dict(ids),
        "attributes": dict(attributes),
        "files": {name: files.sha256(folder / name) for name in names},
        "state": [name for name in STATE if (folder / name).exists()],
    }
    files.write_json(manifest, folder / MANIFEST)


def open_package(folder: Path | str, digest: str | None = None) -> Package:
    """Check a package and return it. Nothing of it is loaded before it has passed.

    Parameters
    ----------
    folder
        A folder made by `lifecycle.deployment.build`, or unpacked from ``model.tar.gz``.
    digest
        The `Package.digest` that a registry recorded, if there is one. A forger can change a file and its
        hash in ``package.json``; the digest kept elsewhere shows it.

    Raises
    ------
    ArtifactError
        If a file is missing, was changed, or is a pickle.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ArtifactError(f"There is no model folder at {folder}: give the folder that holds model.onnx.")
    refuse_pickles(folder)
    for name in (MANIFEST, *MODEL_FILES):
        if not (folder / name).is_file():
            raise ArtifactError(f"The package in {folder} is incomplete: {name} is missing; build or copy it again.")
    if digest is not None and files.sha256(folder / MANIFEST) != digest:
        raise ArtifactError(f"{MANIFEST} in {folder} is not the one that was registered; fetch the package again.")
    manifest = _read(folder, MANIFEST)
    _check_shape(manifest, folder)
    for name, expected in manifest["files"].items():
        _check_file(folder, name, expected)
    for name in manifest.get("state", []):
        if not (folder / _inside(name)).is_file():
            raise ArtifactError(f"The package in {folder} is incomplete: {name} is missing; build or copy it again.")
    facts = _read(folder, "model.json")
    threshold = facts.get("threshold") if isinstance(facts, dict) else None
    if isinstance(threshold, bool) or not isinstance(threshold, int | float):
        raise ArtifactError(f"model.json in {folder} names no threshold: the service could not decide anything.")
    return Package(folder, manifest, facts)


def refuse_pickles(folder: Path) -> None:
    """Raise an ArtifactError if any file of a folder is a pickle, by its name or by its first bytes.

    Unpickling runs code that the file chooses, so a pickle is refused unread.
    """
    for name in _names(folder):
        path = folder / name
        with open(path, "rb") as file:
            head = file.read(2)
        # Protocols 2 to 5 begin with the byte 0x80 and the protocol's number; ONNX begins with 0x08.
        if path.suffix.lower() in PICKLE_SUFFIXES or (len(head) == 2 and head[0] == 0x80 and 2 <= head[1] <= 5):
            raise ArtifactError(
                f"{name} in {folder} is a pickle: loading it could run any code, so this package is refused; "
                "export the model to ONNX."
            )


def _names(folder: Path) -> list[str]:
    names = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.startswith(f"{JOURNAL}/"))


def _read(folder: Path, name: str) -> Any:
    try:
        return files.read_json(folder / name)
    except (LifecycleError, UnicodeDecodeError, RecursionError):
        raise ArtifactError(
            f"{name} in {folder} is damaged: it is not JSON; build or copy the package again."
        ) from None


def _check_shape(manifest: Any, folder: Path) -> None:
    """Refuse a manifest that does not say what it must, before its content is used."""
    sections = ("files", "ids", "attributes")
    if not isinstance(manifest, dict) or any(not isinstance(manifest.get(name), dict) for name in sections):
        raise ArtifactError(f"{MANIFEST} in {folder} is damaged: it needs the sections {', '.join(sections)}.")
    if set(manifest["ids"]) != set(IDS):
        raise ArtifactError(f"{MANIFEST} in {folder} is damaged: 'ids' must describe {', '.join(IDS)}.")
    unlisted = [name for name in MODEL_FILES if name not in manifest["files"]]
    if unlisted:
        raise ArtifactError(f"{MANIFEST} in {folder} is damaged: it has no hash for {', '.join(unlisted)}.")


def _check_file(folder: Path, name: str, expected: str) -> None:
    path = folder / _inside(name)
    if not path.is_file():
        raise ArtifactError(f"The package in {folder} is incomplete: {name} is missing; build or copy it again.")
    found = files.sha256(path)
    if found != expected:
        raise ArtifactError(
            f"{name} in {folder} was changed after it was packaged (SHA-256 begins {found[:8]}, "
            f"expected {str(expected)[:8]}); build or copy the package again."
        )


def _inside(name: str) -> str:
    """Return a relative name unchanged if it stays inside its folder."""
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts or "\\" in name:
        raise ArtifactError(f"The package names the file {name!r}, which lies outside of it; the package is refused.")
    return name


def pack(folder: Path, archive: Path) -> None:
    """Write a package as ``model.tar.gz``: files at the root, the same bytes for the same content."""
    with (
        files.replacing(archive) as temporary,
        open(temporary, "wb") as raw,
        gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) as zipped,
        tarfile.open(fileobj=zipped, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for name in _names(folder):
            entry = tarfile.TarInfo(name)
            entry.size = (folder / name).stat().st_size
            entry.mode = 0o644
            with open(folder / name, "rb") as file:
                tar.addfile(entry, file)


def unpack(archive: Path | str, folder: Path | str) -> Package:
    """Unpack a ``model.tar.gz`` into a new folder and check it.

    Only plain files and folders inside `folder` are written: no links, devices, absolute names or "..".

    Raises
    ------
    ArtifactError
        If the archive is damaged, holds anything else, is too large, or its package does not pass. Nothing
        is left behind then.
    """
    archive, folder = Path(archive), Path(folder)
    if folder.exists() and any(folder.iterdir()):
        raise ArtifactError(f"The folder {folder} is not empty: unpack the archive into a new one.")
    try:
        with gzip.open(archive) as zipped, tarfile.open(fileobj=zipped, mode="r") as tar:
            _extract(tar, archive, folder)
            # To the end, so that the checksum of the whole archive is compared.
            while zipped.read(1 << 20):
                continue
        return open_package(folder)
    except FileNotFoundError:
        raise ArtifactError(f"There is no archive at {archive}; check the path.") from None
    except (tarfile.TarError, zlib.error, EOFError, OSError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise ArtifactError(f"{archive} cannot be unpacked ({error}); copy it again.") from None
    except LifecycleError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _extract(tar: tarfile.TarFile, archive: Path, folder: Path) -> None:
    total = 0
    for count, entry in enumerate(tar, start=1):
        total += entry.size
        if total > LARGEST_ARCHIVE or count > MOST_FILES:
            raise ArtifactError(f"{archive} unpacks to more than a model needs; it is refused.")
        if entry.isdir():
            continue
        if not entry.isfile():
            raise ArtifactError(f"{archive} holds {entry.name!r}, which is not a plain file; it is refused.")
        target = folder / _inside(entry.name)
        target.parent.mkdir(parents=True, exist_ok=True)
        content = tar.extractfile(entry)
        assert content is not None  # a plain file always has content
        with open(target, "wb") as file:
            shutil.copyfileobj(content, file)
