"""Write files so that a reader never sees half of one."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lifecycle.errors import LifecycleError

if TYPE_CHECKING:
    import pyarrow.parquet as pq


@contextmanager
def replacing(path: Path | str) -> Iterator[Path]:
    """Yield a temporary name beside `path`, and rename it to `path` when the block succeeds.

    When the block fails, the temporary file is removed and `path` keeps what it had.

    Raises
    ------
    LifecycleError
        If the disk is full or the folder cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> with replacing(folder / "a.txt") as temporary:
    ...     _ = temporary.write_text("whole")
    >>> (folder / "a.txt").read_text()
    'whole'
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        os.replace(temporary, path)
    except OSError as error:
        raise as_sentence(error, path) from error
    finally:
        temporary.unlink(missing_ok=True)


def as_sentence(error: OSError, path: Path) -> LifecycleError:
    """Turn an operating-system error about `path` into a sentence with a remedy."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return full_disk(path)
    if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM):
        return LifecycleError(f"Cannot write {path}: permission denied; choose a folder you may write to.")
    if isinstance(error, FileNotFoundError):
        return LifecycleError(f"File not found: {error.filename or path}; check the path.")
    return LifecycleError(f"Cannot write {path}: {error.strerror or error}.")


def full_disk(path: Path) -> LifecycleError:
    """Return the error that says that `path` could not be written for want of space."""
    return LifecycleError(
        f"The disk is full (or a size limit is reached) while writing {path}: "
        "free some space and run again; earlier results are intact."
    )


def is_full(error: Exception) -> bool:
    """Tell whether a library's own error means that the disk is full."""
    text = str(error).lower()
    return any(sign in text for sign in ("no space left", "disk is full", "disk full", "file too large"))


def write_json(content: Any, path: Path | str) -> None:
    """Write `content` as indented JSON, atomically. NaN is refused: it is not JSON."""
    with replacing(path) as temporary:
        temporary.write_text(json.dumps(content, indent=2, allow_nan=False, default=str) + "\n")


def read_json(path: Path | str) -> Any:
    """Read a JSON file; a missing or broken one raises a LifecycleError that names it."""
    try:
        return json.loads(Path(path).read_text())
    except FileNotFoundError:
        raise LifecycleError(f"File not found: {path}; check the path.") from None
    except json.JSONDecodeError as error:
        raise LifecycleError(f"{path} is not valid JSON (line {error.lineno}: {error.msg}).") from None


def write_parquet(frame: Any, path: Path | str) -> None:
    """Write a data frame or an Arrow table as Parquet, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = frame if isinstance(frame, pa.Table) else pa.Table.from_pandas(frame, preserve_index=False)
    with replacing(path) as temporary:
        pq.write_table(table, temporary, compression="zstd")


def open_parquet(path: Path | str) -> pq.ParquetFile:
    """Open a Parquet file that is read in parts; a context that closes it.

    pyarrow would fetch ahead and hold what it has fetched until the end, so that memory grew with the file.
    """
    import pyarrow.parquet as pq

    return pq.ParquetFile(path, pre_buffer=False)


def sha256(path: Path | str) -> str:
    """Return the SHA-256 of a file as hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
