"""Run one notebook with nbmake in a process of its own, and say how long it took and how much memory it held."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nbformat
import psutil

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").glob("[0-9][0-9]_*.ipynb"))


@dataclass(frozen=True)
class Run:
    """One run of a notebook: did it pass, what it printed, seconds of wall clock, largest memory in MB, the outputs."""

    passed: bool
    output: str
    seconds: float
    peak_mb: float
    executed: Any


def run_notebook(notebook: Path, data_dir: Path, limit: float) -> Run:
    """Run a notebook through nbmake; end it when it takes more than `limit` seconds in all.

    nbmake limits a single cell. The limit here is for the whole notebook, with every process it started.
    Memory is the sum over those processes, read twice a second. A copy is run, and gets the outputs.
    """
    with tempfile.TemporaryDirectory(prefix="notebook-") as folder:
        copy = Path(shutil.copy(notebook, folder))
        return _run_copy(copy, data_dir, limit)


def _run_copy(notebook: Path, data_dir: Path, limit: float) -> Run:
    command = [sys.executable, "-m", "pytest", "--nbmake", f"--nbmake-timeout={int(limit)}", str(notebook)]
    command += ["--overwrite", "-q", "-p", "no:xdist", "-p", "no:cacheprovider", "--no-header", "--rootdir", str(ROOT)]
    environ = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_")}
    environ.pop("MPLBACKEND", None)  # the tests draw nothing; a notebook draws in its page
    environ["LIFECYCLE_DATA_DIR"] = str(data_dir)
    began = time.perf_counter()
    process = subprocess.Popen(
        command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    watch = Watch(process.pid)
    try:
        output, _ = process.communicate(timeout=limit)
    except subprocess.TimeoutExpired:
        end_family(process.pid)
        output = process.communicate()[0] + f"\n{notebook.name} took more than {limit:.0f} s in all and was ended."
    seconds = time.perf_counter() - began
    executed = nbformat.read(notebook, as_version=4)
    return Run(process.returncode == 0, output, seconds, watch.stop(), executed)


def end_family(pid: int) -> None:
    """End a process and every process it started."""
    parent = psutil.Process(pid)
    for member in [*parent.children(recursive=True), parent]:
        try:
            member.kill()
        except psutil.NoSuchProcess:
            continue


class Watch:
    """Reads the memory of a process and its children twice a second, in a thread."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self._peak = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        self._over.set()
        self._thread.join()
        return self._peak / 1e6

    def _look(self) -> None:
        while not self._over.wait(0.5):
            self._peak = max(self._peak, family_memory(self._process.pid))


def family_memory(pid: int) -> int:
    """Return the bytes that a process and every process it started hold; 0 when it is gone."""
    try:
        process = psutil.Process(pid)
        return sum(map(_resident, [process, *process.children(recursive=True)]))
    except psutil.NoSuchProcess:
        return 0


def _resident(process: psutil.Process) -> int:
    try:
        return process.memory_info().rss
    except psutil.NoSuchProcess:
        return 0
