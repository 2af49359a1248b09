"""Execute the notebooks side by side, and keep their outputs where the build of the book finds them.

    python book/execute.py

Sphinx executes one notebook after the other. Here as many run at once as the machine has cores; what they need
of one stage is built by one of them while the others wait. Outputs that are still those of the present code are
left alone. A notebook that fails keeps none: the build then executes it again and says why.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "book" / "_ext"))

from fresh_outputs import cache_folder  # noqa: E402

MEASURES = {"08_deployment"}
"""Measures how fast the service answers, so nothing may run beside it: left to the build."""

FIRST = ("09_monitoring", "05_model_training")
"""They take longest: the one needs the stages of all the others, and the other the consortium, which nobody else does.

The rest follows in its order, so that those that wait for the last stages come when these are built.
"""


def in_order(notebooks: Iterable[Path]) -> list[Path]:
    """Return the notebooks in the order in which two at a time wait least for what the other builds."""
    return sorted(notebooks, key=lambda path: (FIRST.index(path.stem) if path.stem in FIRST else len(FIRST), path.stem))


def open_cache(root: Path = ROOT) -> Any:
    """Open the jupyter-cache that belongs to the present code."""
    from jupyter_cache import get_cache

    return get_cache(cache_folder([root / "lifecycle"], root / "_build"))


def is_kept(cache: Any, notebook: Path) -> bool:
    """Say whether the cache holds outputs for the cells of a notebook."""
    try:
        cache.match_cache_notebook(nbformat.read(notebook, as_version=4))
    except KeyError:
        return False
    return True


def keep(cache: Any, notebook: Path, executed: Any, seconds: float) -> None:
    """Put the outputs of an executed notebook into the cache.

    The rest is taken from the notebook without outputs: the cache compares metadata, and a run adds some.
    """
    from jupyter_cache.base import CacheBundleIn

    content = nbformat.read(notebook, as_version=4)
    for cell, ran in zip(content.cells, executed.cells, strict=True):
        if cell.cell_type == "code":
            cell.update(outputs=ran.outputs, execution_count=ran.execution_count)
    bundle = CacheBundleIn(content, str(notebook), data={"execution_seconds": seconds})
    cache.cache_notebook_bundle(bundle, check_validity=False, overwrite=True)


def execute(notebook: Path, timeout: int) -> Any:
    """Execute a notebook in its own folder; return the notebook and what jupyter-cache says of the run."""
    from jupyter_cache.executors.utils import single_nb_execution

    content = nbformat.read(notebook, as_version=4)
    return content, single_nb_execution(content, cwd=str(notebook.parent), timeout=timeout, allow_errors=False)


def main() -> None:
    """Execute what has no outputs yet, and say how long each took."""
    timeout = yaml.safe_load((ROOT / "_config.yml").read_text())["execute"]["timeout"]
    cache = open_cache()
    notebooks = in_order((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))
    todo = [path for path in notebooks if path.stem not in MEASURES and not is_kept(cache, path)]
    workers = min(len(todo), os.cpu_count() or 1)
    if not todo:
        return
    print(f"Executing {len(todo)} notebooks, {workers} at a time ...", flush=True)
    with ThreadPoolExecutor(workers) as pool:
        waiting = {path: pool.submit(execute, path, timeout) for path in todo}
        for path, job in waiting.items():
            content, result = job.result()
            if result.err is None:
                keep(cache, path, content, result.time)
            print(f"{path.name}: {'failed' if result.err else f'{result.time:.0f} s'}", flush=True)


if __name__ == "__main__":
    main()
