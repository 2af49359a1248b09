"""A long job that can be killed at any moment and goes on where it was when it is started again.

What a job has finished lies in a folder ``.<name>.unfinished`` beside its output, each step under its own name. A step
is made under another name and renamed, so a name that is there is whole. The folder says what the job was begun with;
a job that is begun with anything else starts anew.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

from lifecycle import files
from lifecycle.errors import LifecycleError

IDENTITY, LOCK, MAKING = "identity.json", "lock", ".making"


class Unfinished:
    """The folder of a job that is under way; used in a ``with`` block.

    When the block fails before any step was finished, nothing is left behind.

    Parameters
    ----------
    out
        The file that the job writes in the end.
    identity
        What decides about every byte of it: a name and a hash for each input.
    tell
        Gets a sentence when the job goes on, or starts anew.

    Examples
    --------
    >>> import tempfile
    >>> out = Path(tempfile.mkdtemp()) / "sum.txt"
    >>> with Unfinished(out, {"input": "ab12"}, print) as work:
    ...     part = work.once("part", lambda path: path.write_text("1"))
    ...     work.finish(work.once("whole", lambda path: path.write_text(part.read_text() + "+1")))
    >>> out.read_text(), [path.name for path in out.parent.iterdir()]
    ('1+1', ['sum.txt'])
    """

    def __init__(self, out: Path, identity: Mapping[str, str], tell: Callable[[str], None]) -> None:
        self._out, self._identity, self._tell = out, dict(identity), tell
        self.folder = out.with_name(f".{out.name}.unfinished")
        self._rubbish = out.with_name(f".{out.name}.done")
        self._lock = FileLock(self.folder / LOCK, timeout=0)

    def __enter__(self) -> Unfinished:
        try:
            shutil.rmtree(self._rubbish, ignore_errors=True)
            self.folder.mkdir(parents=True, exist_ok=True)
            self._lock.acquire()
            self._take_up()
        except Timeout:
            raise LifecycleError(
                f"Another process is writing {self._out}: wait for it, or name another file."
            ) from None
        except OSError as error:
            raise files.as_sentence(error, self.folder) from None
        return self

    def _take_up(self) -> None:
        """Keep what fits to this job, and remove all else."""
        path = self.folder / IDENTITY
        before = files.read_json(path) if path.exists() else None
        changed = [name for name in self._identity if before and before.get(name) != self._identity[name]]
        if changed:
            self._tell(f"{self.folder} was begun with another {' and '.join(changed)}: starting anew.")
        for found in self.folder.iterdir():
            if found.name != LOCK and (before != self._identity or found.name.endswith((MAKING, ".tmp"))):
                shutil.rmtree(found) if found.is_dir() else found.unlink()
        if before != self._identity:
            files.write_json(self._identity, path)
        elif self.finished():
            self._tell(f"Going on with {self.folder}: {len(self.finished())} steps are finished.")

    def finished(self) -> list[str]:
        """Return the names of the steps that are finished."""
        names = (path.name for path in self.folder.iterdir() if path.suffix != MAKING)
        return sorted(name for name in names if name not in (IDENTITY, LOCK))

    def once(self, name: str, make: Callable[[Path], object]) -> Path:
        """Return the file or folder of a step, and make it first if it is not there."""
        path, making = self.folder / name, self.folder / f"{name}{MAKING}"
        if not path.exists():
            try:
                make(making)
                os.replace(making, path)
            except OSError as error:
                raise files.as_sentence(error, path) from error
        return path

    def finish(self, path: Path) -> None:
        """Give the finished output its name, and remove the folder."""
        try:
            os.replace(path, self._out)
            # Renamed first: a folder that is half removed must not look like one to go on with.
            os.replace(self.folder, self._rubbish)
        except OSError as error:
            raise files.as_sentence(error, self._out) from error
        shutil.rmtree(self._rubbish, ignore_errors=True)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._lock.release()
        if kind is not None and self.folder.exists() and not self.finished():
            shutil.rmtree(self.folder, ignore_errors=True)
