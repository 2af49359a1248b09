"""Counts, sums, largest and last values over the frames of sorted integers, with NumPy.

The rows are sorted by partition and time once, each end of a frame is looked up once, and a sum over a
frame is the difference of two running sums: no function searches again for what another has found. Where
every partition has a row at every time, as daily snapshots have, there is nothing to sort either.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
import pyarrow as pa

BLOCK = 65_536
"""Rows that are computed at once, in whole partitions: few enough to stay in a processor's cache."""

_DIGIT = 16
"""Bits that one pass of the sort takes: NumPy sorts integers of 16 bits without comparing them."""

_SPAN = 2**62
"""A number of partitions times their span of time stays below this, so that both fit one integer."""


class Frame(NamedTuple):
    """The rows of a window, as distances from the current row; None is as far as the partition goes.

    Both ends count: ``Frame("range", -3_600, -1)`` are the values of the order column from ``t - 3600``
    to ``t - 1``, ``Frame("rows", -6, 0)`` the current row and the six before it.
    """

    how: str
    start: int | None
    end: int | None


class Request(NamedTuple):
    """A function over a frame: ``"count"`` of its rows, or ``"sum"``, ``"max"`` or ``"last"`` of `values`.

    `values` are int64, shape (n_rows,); `valid` are booleans, or None where no value is missing. A missing
    value adds nothing to a sum and is never the largest; where it is the last, so is the result.
    """

    function: str
    frame: Frame
    values: np.ndarray | None = None
    valid: np.ndarray | None = None


class Partitions:
    """Rows in the order of their partition and time.

    Parameters
    ----------
    keys
        Columns of integers or strings; rows that are equal in all of them are one partition.
    times
        What the frames are measured on, int64, shape (n_rows,).

    Examples
    --------
    >>> rows = Partitions([pa.chunked_array([["a", "b", "a"]])], np.array([10, 11, 15]))
    >>> [(count, _)] = rows.compute([Request("count", Frame("range", -5, -1))])
    >>> count.tolist()
    [0, 0, 1]
    """

    def __init__(self, keys: list[pa.ChunkedArray], times: np.ndarray) -> None:
        codes = _codes(keys)
        self._size, self._threads = len(times), os.cpu_count() or 1
        width = _width(codes, times)
        # Each thread sorts and computes a share of the partitions.
        ends = np.arange(self._threads + 1) * (width or int(codes.max(initial=0)) + 1) // self._threads

        def share(low: int, high: int) -> _Grid | _Share:
            if width:
                return _Grid(times[::width], width, low, high)
            return _Share(np.flatnonzero((codes >= low) & (codes < high)), codes, times)

        with ThreadPoolExecutor(self._threads) as threads:
            self._shares = list(threads.map(share, ends[:-1], ends[1:]))

    def compute(self, requests: list[Request]) -> list[tuple[np.ndarray, np.ndarray | None]]:
        """Return the values of each request in the order of the rows, int64, and which of them are missing, if any.

        A count is never missing. Running sums may wrap around at 64 bits; their difference is exact
        wherever the sum of a frame fits.
        """
        results = [np.empty(self._size, "int64") for _ in requests]
        missing = [None if request.values is None else np.zeros(self._size, bool) for request in requests]
        with ThreadPoolExecutor(self._threads) as threads:
            list(threads.map(lambda share: share.fill(requests, results, missing), self._shares))
        found = (none if none is not None and none.any() else None for none in missing)
        return list(zip(results, found, strict=True))


class _Share:
    """Some of the partitions: their rows and times in order, and where each partition begins."""

    def __init__(self, rows: np.ndarray, codes: np.ndarray, times: np.ndarray) -> None:
        codes, times = _gather(codes, rows), _gather(times, rows)
        order = _ordering([codes, times])
        self._rows, self._times = _gather(rows, order), _gather(times, order)
        self._first = np.flatnonzero(np.diff(_gather(codes, order), prepend=-1))

    def fill(self, requests: list[Request], results: list[np.ndarray], missing: list[np.ndarray | None]) -> None:
        """Write the share's values of each request to the rows that they belong to."""
        for since, until, first in self._blocks():
            rows = self._rows[since:until]
            cut = functools.partial(_gather, rows=rows)
            for number, values, none in _evaluate(requests, _Frames(self._times[since:until], first), cut):
                results[number][rows] = values
                if none is not None and none.any():
                    missing[number][rows] = none

    def _blocks(self) -> Iterator[tuple[int, int, np.ndarray]]:
        """Yield the first row, the row after the last and the beginnings of the partitions of each block."""
        if not len(self._times):
            return
        most = max(_SPAN // _span(self._times), 1)
        ends = np.append(self._first[1:], len(self._times))
        at = 0
        while at < len(ends):
            since = self._first[at]
            until = min(max(int(np.searchsorted(ends, since + BLOCK)), at + 1), at + most)
            yield int(since), int(ends[until - 1]), self._first[at:until] - since
            at = until


class _Grid:
    """Some of the partitions where every one has a row at every time: an end of a frame is the same for all of them."""

    def __init__(self, times: np.ndarray, width: int, low: int, high: int) -> None:
        self._shape, self._low, self._high = (len(times), width), low, high
        self._frames = _Frames(times, np.zeros(1, "int64"))

    def fill(self, requests: list[Request], results: list[np.ndarray], missing: list[np.ndarray | None]) -> None:
        """Write the share's values of each request to the rows that they belong to."""
        # A block takes a stretch of every row of the grid, and memory is quick only in long stretches.
        step = max(4 * BLOCK // self._shape[0], 1)
        for since in range(self._low, self._high, step):
            cut = functools.partial(self._cut, partitions=slice(since, min(since + step, self._high)))
            for number, values, none in _evaluate(requests, self._frames, cut):
                cut(results[number])[:] = values.reshape(len(values), -1)
                if none is not None:
                    cut(missing[number])[:] = none

    def _cut(self, array: np.ndarray, partitions: slice) -> np.ndarray:
        return array.reshape(self._shape)[:, partitions]


class _Frames:
    """The frames of a block of partitions: where they begin and end, each distance looked up once."""

    def __init__(self, times: np.ndarray, first: np.ndarray) -> None:
        self._size = len(times)
        lengths = np.diff(first, append=self._size)
        self._begin = np.repeat(first, lengths)
        self._end = self._begin + np.repeat(lengths, lengths)
        # Every partition has a stretch of integers of its own; its times leave one free at either end.
        self._span = _span(times)
        self._floor = np.repeat(np.arange(len(first)) * self._span, lengths)
        self._moments = self._floor + (times - (times.min() - 1))
        self._at: dict[tuple[str, int], np.ndarray] = {}
        self._ends: dict[Frame, tuple[np.ndarray, np.ndarray]] = {}

    def ends(self, frame: Frame) -> tuple[np.ndarray, np.ndarray]:
        """Return the first row of each frame and the row after its last."""
        if frame not in self._ends:
            low = self._begin if frame.start is None else self._from(frame.how, frame.start)
            high = self._end if frame.end is None else self._from(frame.how, frame.end + 1)
            self._ends[frame] = low, np.maximum(low, high)
        return self._ends[frame]

    def _from(self, how: str, distance: int) -> np.ndarray:
        if (how, distance) not in self._at:
            self._at[how, distance] = self._search(distance) if how == "range" else self._step(distance)
        return self._at[how, distance]

    def _step(self, distance: int) -> np.ndarray:
        """Return the row that is a number of rows further, or the end of the partition on the way."""
        distance = max(min(distance, self._size), -self._size)
        return np.clip(np.arange(distance, distance + self._size), self._begin, self._end)

    def _search(self, distance: int) -> np.ndarray:
        """Return the first row of the partition whose time is at least that of the row plus a distance."""
        if distance in (0, 1):
            # The rows of one instant are a run: its first row, or that of the next run.
            changes = np.flatnonzero(np.diff(self._moments, prepend=-1))
            run = np.repeat(np.arange(len(changes)), np.diff(changes, append=self._size))
            return np.append(changes, self._size)[run + distance]
        wanted = self._moments + max(min(distance, self._span), -self._span)
        np.clip(wanted, self._floor, self._floor + (self._span - 1), out=wanted)
        return np.searchsorted(self._moments, wanted)


class _Column:
    """The values of a block, a row at each time, and what its functions have in common."""

    def __init__(self, values: np.ndarray, valid: np.ndarray | None) -> None:
        self._values, self._valid = values, valid
        self._sums = self._present = None

    def sum(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        if self._sums is None:
            self._sums = _running(self._values if self._valid is None else np.where(self._valid, self._values, 0))
        return _gather(self._sums, high) - _gather(self._sums, low), self._none(low, high)

    def last(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        none = self._no_row(low, high)
        return self._values[high - 1], none if self._valid is None else none | ~self._valid[high - 1]

    def max(self, low: np.ndarray, high: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the larger of two overlapping stretches, whose length is a power of two, at the ends of each frame."""
        values = self._values
        if self._valid is not None:
            values = np.where(self._valid, values, np.iinfo("int64").min)
        result, lengths, length = np.zeros_like(values), high - low, 1
        longest = int(lengths.max())
        while length <= longest:
            own = np.flatnonzero((lengths >= length) & (lengths < 2 * length))
            result[own] = np.maximum(_gather(values, low[own]), _gather(values, high[own] - length))
            values = np.maximum(values[:-length], values[length:])
            length *= 2
        return result, self._none(low, high)

    def _none(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        """Return which frames hold no value."""
        if self._valid is None:
            return self._no_row(low, high)
        if self._present is None:
            self._present = _running(self._valid)
        return _gather(self._present, low) == _gather(self._present, high)

    def _no_row(self, low: np.ndarray, high: np.ndarray) -> np.ndarray:
        return (low == high).reshape(-1, *(1,) * (self._values.ndim - 1))


def _evaluate(
    requests: list[Request], frames: _Frames, cut: Callable[[np.ndarray], np.ndarray]
) -> Iterator[tuple[int, np.ndarray, np.ndarray | None]]:
    """Yield number, values and missing values of each request over a block, which `cut` takes out of an array."""
    columns: dict[int, _Column] = {}
    for number, request in enumerate(requests):
        low, high = frames.ends(request.frame)
        if request.values is None:
            yield number, high - low, None
            continue
        if id(request.values) not in columns:
            valid = None if request.valid is None else cut(request.valid)
            columns[id(request.values)] = _Column(cut(request.values), valid)
        yield number, *getattr(columns[id(request.values)], request.function)(low, high)


def _width(codes: np.ndarray, times: np.ndarray) -> int | None:
    """Return how many partitions there are if all have a row at every time, in their order; otherwise None."""
    width = int(np.argmax(times != times[0])) if len(times) else 0
    if width < 2 or len(times) % width:
        return None
    times, codes = times.reshape(-1, width), codes.reshape(-1, width)
    ascending = (np.diff(times[:, 0]) > 0).all() and (np.diff(codes[0]) > 0).all()
    return width if ascending and (times == times[:, :1]).all() and (codes == codes[0]).all() else None


def _gather(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Return the values at some rows, all of which exist, so that NumPy need not check each."""
    return np.take(values, rows, axis=0, mode="clip")


def _span(times: np.ndarray) -> int:
    return int(times.max()) - int(times.min()) + 3


def _running(values: np.ndarray) -> np.ndarray:
    """Return the sum of all values before each row, and of all."""
    sums = np.zeros((len(values) + 1, *values.shape[1:]), "int64")
    np.cumsum(values, axis=0, out=sums[1:])
    return sums


def _codes(keys: list[pa.ChunkedArray]) -> np.ndarray:
    """Return a number of 0 and above for each row, int32, the same for rows that are equal in all keys."""
    codes = _dense(keys[0])
    for key in keys[1:]:
        own = _dense(key)
        codes = _dense(pa.chunked_array([codes.astype("int64") * (int(own.max(initial=0)) + 1) + own]))
    return codes


def _dense(values: pa.ChunkedArray) -> np.ndarray:
    """Return numbers of 0 and above, int32, that are equal where the values are."""
    if pa.types.is_integer(values.type) and not values.null_count:
        numbers = values.to_numpy()
        low, high = (int(numbers.min()), int(numbers.max())) if len(numbers) else (0, 0)
        if high - low < 2**31:
            return np.subtract(numbers, low, out=np.empty(len(numbers), "int32"), dtype="int64", casting="unsafe")
    return values.combine_chunks().dictionary_encode(null_encoding="encode").indices.to_numpy()


def _ordering(keys: list[np.ndarray]) -> np.ndarray:
    """Return the order of rows by several columns of integers, the first of them first."""
    order = None
    for values in reversed(keys):
        ordered = values if order is None else _gather(values, order)
        if (ordered[1:] >= ordered[:-1]).all():
            continue
        since = int(ordered.min())
        bits = (int(ordered.max()) - since).bit_length()
        # Microseconds take too many passes; to compare them is quick where rows are nearly in order, as payments are.
        shifts = range(0, bits, _DIGIT) if bits <= 2 * _DIGIT else [None]
        for shift in shifts:
            digit = ordered if shift is None else ((ordered - since) >> shift & (2**_DIGIT - 1)).astype("uint16")
            step = np.argsort(digit, kind="stable")
            order = step if order is None else _gather(order, step)
            ordered = _gather(ordered, step)
    return np.arange(len(keys[0])) if order is None else order
