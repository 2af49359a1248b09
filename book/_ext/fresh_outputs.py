"""Sphinx extension: the outputs in the book are always those of the present code.

jupyter-cache finds a notebook's outputs by the notebook's own cells. An edit of a module that a notebook
imports leaves them stale. Here the cache lies in a folder whose name is a hash over that code, the
versions of the installed packages and the settings in the environment. The same hash is a configuration
value, so when it changes Sphinx reads every page anew and no old page survives either.

Two more habits of the build live here, so that the plain ``jupyter-book build .`` has them too: every
warning makes the build fail in the end, and after a failed build the next one reads all pages again
(Sphinx would otherwise forget the warnings of pages that did not change).
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import shutil
import sys
from pathlib import Path
from typing import Any

from sphinx.application import ENV_PICKLE_FILENAME, Sphinx

KEEP = 3
"""How many caches stay: going back to the code of a moment ago is then quick as well."""


def code_hash(folders: list[Path]) -> str:
    """Return 16 hexadecimal digits over the files of `folders`, the installed packages and the settings.

    Every file counts, byte for byte. The folder for data does not: artifacts are found by their content.
    """
    digest = hashlib.sha256(sys.version.encode())
    for folder in folders:
        for path in sorted(p for p in folder.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
            digest.update(hashlib.sha256(path.read_bytes()).digest())
    for name in sorted(_packages() | _settings()):
        digest.update(name.encode() + b"\0")
    return digest.hexdigest()[:16]


def _packages() -> set[str]:
    # A set: started from the root of the repository, Python finds this package twice.
    return {f"{found.name}=={found.version}" for found in importlib.metadata.distributions()}


def _settings() -> set[str]:
    ours = (name for name in os.environ if name.startswith("LIFECYCLE_") and name != "LIFECYCLE_DATA_DIR")
    return {f"{name}={os.environ[name]}" for name in ours}


def cache_folder(folders: list[Path], build: Path) -> Path:
    """Return where the outputs of the present code of `folders` lie, below the folder of the build."""
    return build / ".jupyter_cache" / code_hash(folders)


def use_cache_of_this_code(app: Sphinx, config: Any) -> None:
    """Point jupyter-cache at the folder of the present code."""
    folders = [Path(app.srcdir) / folder for folder in config.fresh_outputs_code]
    cache = cache_folder(folders, Path(app.outdir).parent)
    config.fresh_outputs_hash = cache.name
    config.nb_execution_cache_path = str(cache)
    forget_old_caches(cache.parent, cache.name)


def forget_old_caches(caches: Path, present: str) -> None:
    """Remove all caches but the present one and those used last."""
    (caches / present).mkdir(parents=True, exist_ok=True)
    os.utime(caches / present)
    folders = sorted((p for p in caches.iterdir() if p.is_dir()), key=lambda p: p.stat().st_mtime, reverse=True)
    for folder in folders[KEEP:]:
        shutil.rmtree(folder, ignore_errors=True)


def remember_failure(app: Sphinx, exception: Exception | None) -> None:
    """After warnings, make the next build read every page again, so that it fails again."""
    if exception is None and app._warncount:
        (Path(app.doctreedir) / ENV_PICKLE_FILENAME).unlink(missing_ok=True)


def setup(app: Sphinx) -> dict[str, Any]:
    """Register the extension."""
    app.add_config_value("fresh_outputs_code", ["lifecycle"], "env")
    app.add_config_value("fresh_outputs_hash", "", "env")
    app.connect("config-inited", use_cache_of_this_code)
    app.connect("build-finished", remember_failure)
    # What `-W --keep-going` sets: go on after a warning, and end with a failure.
    if not app.warningiserror:
        app.keep_going = True
    return {"version": "1", "parallel_read_safe": True, "parallel_write_safe": True}
