"""Batch jobs as copies of one process that has everything imported: killed on purpose, or measured.

Run as a script: ``batch_jobs.py kill PACKAGE SOURCE OUT SEED KILLS`` or ``batch_jobs.py measure PACKAGE SOURCE OUT``.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import threading
import time
import traceback
from pathlib import Path

PART = 200
"""Payments a part of the killed jobs, so that a small file has several."""

MEMORY = 50


def start(package: Path, source: Path, out: Path, told: Path, rows_per_mb: int | None = None) -> int:
    """Start a batch job in a copy of this process and return its number."""
    child = os.fork()
    if child:
        return child
    from lifecycle.deployment import batch

    status = 1
    try:
        batch.ROWS_PER_MB = rows_per_mb or batch.ROWS_PER_MB
        with open(told, "a") as file:
            batch.score_file(package, source, out, memory=MEMORY, tell=lambda text: print(text, file=file, flush=True))
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def kill_and_go_on(package: Path, source: Path, out: Path, seed: int, kills: int) -> dict[str, object]:
    """Start jobs and kill them at random moments; let every other output be finished, and begin it again."""
    draw, told, made = random.Random(seed), out.with_suffix(".told"), []
    began = time.monotonic()
    os.waitpid(start(package, source, out, told, PART // MEMORY), 0)
    whole, done = time.monotonic() - began, 0
    made.append(out.read_bytes())
    while done < kills:
        out.unlink()
        moments = [draw.uniform(0, 0.7 * whole) for _ in range(3)] + [None]
        for moment in moments:
            child = start(package, source, out, told, PART // MEMORY)
            if moment is not None:
                threading.Event().wait(moment)
                os.kill(child, signal.SIGKILL)
            _, status = os.waitpid(child, 0)
            done += os.WIFSIGNALED(status)
            if status == 0:
                break
            assert not out.exists() and os.WIFSIGNALED(status), "half an output, or a job that failed"
        made.append(out.read_bytes())
    left = sorted(path.name for path in out.parent.glob(f".{out.name}*"))
    return {"kills": done, "outputs": len(made), "different": len(set(made)) - 1, "left": left}


def measure(package: Path, source: Path, out: Path) -> dict[str, float]:
    """Return the largest memory of one job in MB, and its seconds."""
    began = time.monotonic()
    _, status, usage = os.wait4(start(package, source, out, out.with_suffix(".told")), 0)
    assert status == 0, "the job failed"
    return {"peak_mb": usage.ru_maxrss / 1024, "seconds": time.monotonic() - began}


def main(arguments: list[str]) -> None:
    """Import all that a job needs, and do as asked."""
    import ibis  # noqa: F401
    import onnxruntime  # noqa: F401

    from lifecycle import training  # noqa: F401
    from lifecycle.deployment import batch  # noqa: F401
    from lifecycle.features.store import import_feast

    import_feast()
    what, *paths = arguments
    paths, numbers = [Path(text) for text in paths[:3]], [int(text) for text in paths[3:]]
    found = kill_and_go_on(*paths, *numbers) if what == "kill" else measure(*paths)
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
