"""Several processes behind one port: a process that ends is replaced, whatever ended it."""

from __future__ import annotations

import logging
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable

from lifecycle.errors import LifecycleError

QUICK_SECONDS = 1.0
MOST_QUICK_ENDS = 20

_log = logging.getLogger(__name__)


def run(answer: Callable[[], None], count: int) -> None:
    """Run a function in `count` copies of this process until SIGTERM, and replace each one that ends before.

    The copies share what is loaded and every open socket, so a replacement is there in a fraction of the time of a
    first start. SIGTERM and Ctrl-C are passed on, and the end of all copies is awaited.

    Parameters
    ----------
    answer
        What a copy does; it returns after SIGTERM.
    count
        How many.

    Raises
    ------
    LifecycleError
        If copies keep ending as soon as they begin.
    """
    if count < 1:
        raise LifecycleError(f"{count} processes cannot answer; give 1 or more.")
    children: dict[int, float] = {}
    alive = os.pipe()  # the writing end closes with this process, however it ends
    stopping, quick = False, 0

    def stop(*_: object) -> None:
        nonlocal stopping
        stopping = True
        for child in children:
            os.kill(child, signal.SIGTERM)

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        while not stopping:
            while len(children) < count and not stopping:
                children[_start(answer, alive)] = time.monotonic()
            child, status = os.wait()
            lived = time.monotonic() - children.pop(child)
            if not stopping:
                _log.error("a process of the service ended (%s) and is replaced", os.waitstatus_to_exitcode(status))
                quick = quick + 1 if lived < QUICK_SECONDS and os.waitstatus_to_exitcode(status) > 0 else 0
                if quick >= MOST_QUICK_ENDS:
                    raise LifecycleError("The processes of the service end as soon as they begin; see its messages.")
    finally:
        stop()
        for child in list(children):
            os.waitpid(child, 0)
        for number, handler in before.items():
            signal.signal(number, handler)
        for end in alive:
            os.close(end)


def stop_when_closed(descriptor: int) -> None:
    """Ask for an orderly end of this process when the other end of a pipe is closed."""

    def wait() -> None:
        while os.read(descriptor, 4096):  # not sys.stdin: its lock would be held when the interpreter ends
            continue
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=wait, daemon=True).start()


def _start(answer: Callable[[], None], alive: tuple[int, int]) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, signal.SIG_DFL)
        os.close(alive[1])
        stop_when_closed(alive[0])
        answer()
        status = 0
    except LifecycleError as error:
        print(error, file=sys.stderr, flush=True)
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)
