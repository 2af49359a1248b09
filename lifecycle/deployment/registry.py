"""Packages in MLflow's model registry: the champion is named where who can edit a package cannot edit it.

A version of the registered model `PACKAGE` is a whole package (the ONNX graph, the feature schema, the hashes of all
files), copied beside the store. Its digest is a tag of the version, so `follow` notices whatever was done to the copy.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from filelock import FileLock

from lifecycle.deployment import releases
from lifecycle.deployment.artifact import JOURNAL, ArtifactError, Package, open_package
from lifecycle.errors import LifecycleError
from lifecycle.training import tracking

PACKAGE = "fraud-package"
CHAMPION = "champion"
DIGEST = "package_sha256"


def register(data_dir: Path | str, folder: Path | str, alias: str = CHAMPION) -> str:
    """Register a package as a new version, let an alias name it, and return the version.

    A package that the alias names already is not registered again.

    Parameters
    ----------
    data_dir
        The store is in ``<data_dir>/mlflow``; see `lifecycle.training.tracking.open_tracking`.
    folder
        The package. It is checked first, and copied without the journal of a service.
    alias
        What a service will ask for.

    Raises
    ------
    ArtifactError
        If the package was changed, is incomplete, or holds a pickle.
    """
    package = open_package(folder)
    client, _ = tracking.open_tracking(data_dir)
    store = Path(data_dir) / "mlflow"
    with FileLock(store / ".lock"):
        found = client.search_registered_models(f"name = '{PACKAGE}'")
        if not found:
            client.create_registered_model(PACKAGE)
        copy = _keep(package, store / "packages" / package.digest[:16])
        if found and alias in found[0].aliases:
            current = client.get_model_version(PACKAGE, found[0].aliases[alias])
            if current.tags.get(DIGEST) == package.digest:
                return str(current.version)
        made = client.create_model_version(PACKAGE, copy.resolve().as_uri(), tags=_tags(package))
        client.set_registered_model_alias(PACKAGE, alias, made.version)
    return str(made.version)


def follow(data_dir: Path | str, alias: str = CHAMPION) -> Package:
    """Return the package that an alias names, checked against the digest in the registry.

    Raises
    ------
    ArtifactError
        If the copy beside the store is not what was registered; the message names the file.
    LifecycleError
        If there is no such alias.
    """
    version = _version(data_dir, alias)
    folder = Path(data_dir) / "mlflow" / "packages" / version.tags.get(DIGEST, "unknown")[:16]
    try:
        return open_package(folder, version.tags.get(DIGEST, ""))
    except ArtifactError as error:
        raise ArtifactError(f"Version {version.version} of {PACKAGE} ({alias}) is refused: {error}") from None


def release(data_dir: Path | str, folder: Path | str, alias: str = CHAMPION) -> str:
    """Bring the package that an alias names into a folder of releases and promote it; return its name there.

    A service that follows the folder (see `releases`) changes over without a refused request.
    """
    package = follow(data_dir, alias)
    name = f"v{_version(data_dir, alias).version}"
    if not (Path(folder) / name).exists():
        releases.add(folder, package.folder, name)
    releases.promote(folder, name)
    return name


def _version(data_dir: Path | str, alias: str) -> Any:
    client, _ = tracking.open_tracking(data_dir)
    found = client.search_registered_models(f"name = '{PACKAGE}'")
    if not found or alias not in found[0].aliases:
        raise LifecycleError(f"{PACKAGE} in {data_dir}/mlflow has no alias {alias!r}: register a package under it.")
    return client.get_model_version(PACKAGE, found[0].aliases[alias])


def _keep(package: Package, target: Path) -> Path:
    """Copy a package beside the store, unless the same one is there already."""
    try:
        open_package(target, package.digest)
    except ArtifactError:  # none, or one that was changed since
        making = target.with_name(f".{target.name}.{os.getpid()}")
        shutil.rmtree(making, ignore_errors=True)
        shutil.copytree(package.folder, making, ignore=shutil.ignore_patterns(JOURNAL))
        shutil.rmtree(target, ignore_errors=True)
        making.rename(target)
    return target


def _tags(package: Package) -> dict[str, str]:
    hashes = package.manifest["files"]
    return {
        DIGEST: package.digest,
        "onnx_sha256": hashes["model.onnx"],
        "feature_schema_sha256": hashes["feature_schema.json"],
        "model": str(package.facts.get("name")),
        "threshold": f"{package.threshold:.6f}",
        "first_day": str(package.manifest.get("first_day")),
    }
