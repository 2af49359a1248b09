"""A model from somebody else: published with a card, and used only after license, origin and hashes are checked.

A published folder holds a model folder (see `lifecycle.training.artifact`) and ``card.json``. The card says who
trained the model, on what, under which license, and names the SHA-256 of every other file. The publisher
announces the SHA-256 of the card on another channel: who has that number can tell any changed file.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from lifecycle import files
from lifecycle.errors import LifecycleError
from lifecycle.training import MODEL_FILES, Model, load_model

ALLOWED_LICENSES = ("Apache-2.0", "CC-BY-4.0", "MIT")
"""Licenses (SPDX identifiers) under which this bank may use somebody else's model for its business."""

PROVENANCE = ("publisher", "trained_on", "dataset_sha256", "code_version", "seed", "labels_as_of")
"""What the card must say about where the model comes from."""


def publish(folder: Path | str, card: Mapping[str, Any]) -> str:
    """Write the card of the model that is in the folder, and return the digest to announce.

    Parameters
    ----------
    folder
        A model folder, as `lifecycle.training.save_model` writes it.
    card
        What the card says: at least ``name``, ``license`` and ``provenance``.

    Returns
    -------
    str
        The SHA-256 of ``card.json``, 64 hexadecimal digits.
    """
    folder = Path(folder)
    hashes = {name: files.sha256(folder / name) for name in MODEL_FILES}
    files.write_json({**card, "sha256": hashes}, folder / "card.json")
    return files.sha256(folder / "card.json")


def check_pretrained(
    folder: Path | str, expected_sha256: str, licenses: Collection[str] = ALLOWED_LICENSES
) -> dict[str, Any]:
    """Check a published model before anything of it is used, and return its card.

    Parameters
    ----------
    folder
        What `publish` completed.
    expected_sha256
        The digest of the card, from another channel than the folder.
    licenses
        The licenses that are allowed.

    Raises
    ------
    LifecycleError
        If the card is missing or is not the announced one, says no allowed license or no provenance, or if a
        file is missing or is not the one that the card names.
    """
    folder = Path(folder)
    path = folder / "card.json"
    if not path.is_file():
        raise LifecycleError(f"{folder} has no model card (card.json): do not use the model, ask its publisher for it.")
    found = files.sha256(path)
    if found != expected_sha256:
        raise LifecycleError(
            f"{path} is not the card that was announced (SHA-256 {found[:12]}..., expected "
            f"{expected_sha256[:12]}...): it was changed on the way or is another release; fetch the model again."
        )
    card = files.read_json(path)
    _check_license(card, path, licenses)
    _check_provenance(card, path)
    for name in MODEL_FILES:
        if not (folder / name).is_file() or files.sha256(folder / name) != card.get("sha256", {}).get(name):
            raise LifecycleError(
                f"{folder / name} is missing or is not the file that the card names: it was tampered with or "
                "damaged; fetch the model again."
            )
    return card


def load_pretrained(
    folder: Path | str, expected_sha256: str, licenses: Collection[str] = ALLOWED_LICENSES, threads: int = 0
) -> Model:
    """Load a published model after `check_pretrained` found nothing; `Model.facts` has the card as ``card``.

    Parameters are those of `check_pretrained`, and the `threads` of `lifecycle.training.load_model`.

    Raises
    ------
    LifecycleError
        As `check_pretrained` and `lifecycle.training.load_model`.
    """
    card = check_pretrained(folder, expected_sha256, licenses)
    model = load_model(folder, threads)
    model.facts["card"] = card
    return model


def _check_license(card: Mapping[str, Any], path: Path, licenses: Collection[str]) -> None:
    license_ = card.get("license")
    if not license_:
        raise LifecycleError(f"{path} names no license: without one nobody may use the model; ask its publisher.")
    if license_ not in licenses:
        raise LifecycleError(
            f"{path} has the license {license_}, which is not on the list of allowed ones "
            f"({', '.join(sorted(licenses))}); have it reviewed, or take another model."
        )


def _check_provenance(card: Mapping[str, Any], path: Path) -> None:
    provenance = card.get("provenance") or {}
    missing = [name for name in PROVENANCE if provenance.get(name) in (None, "")]
    if missing:
        raise LifecycleError(
            f"{path} does not say where the model comes from ({', '.join(missing)} missing); ask its publisher."
        )
