"""Windows of an Ibis expression over integers, computed on sorted arrays instead of by the database.

A database looks for the frame of every row again for every function over it, and that search is most of
what a window costs. The expression stays the only definition: its windows are read from it and computed by
`lifecycle.features.frames`; a function that is not known there is left to the database, and so is all
that surrounds the windows.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from lifecycle.features.frames import Frame, Partitions, Request

if TYPE_CHECKING:
    import ibis

SCAN = 122_880
"""Rows of an Arrow table that a thread of DuckDB takes at once."""

_NUMBERS = itertools.count()


@contextlib.contextmanager
def computed(backend: Any, table: ibis.Table, *order: str) -> Iterator[ibis.Table]:
    """Compute the windows of an expression, and yield the same expression without them, for the database to finish.

    Parameters
    ----------
    backend
        The DuckDB of Ibis that holds the tables of the expression.
    table
        A selection, with windows in it or below it. Counts, sums, largest and last values of integers, over
        a frame in the ascending order of one integer column, are computed here.
    order
        Columns of the selection that its rows are put in order by, none of them a window's.

    Yields
    ------
    ibis.Table
        The expression over tables that hold the windows' values, in that order, valid within the context.
        The values, types and nulls are those of the database.
    """
    from ibis.expr import operations as ops

    node, held, is_sorted = table.op(), {}, not order
    try:
        while (project := _innermost(node)) is not None:
            name, windows, own_order = f"windows_{next(_NUMBERS)}", _windows(project), _traced(node, project, order)
            # To sort before the windows, while the rows are narrow, is half the work.
            known = _known(project, held) if is_sorted else {}
            rows = _with_windows(backend, project, windows, known, own_order or ())
            backend.con.register(name, pa.Table.from_batches(rows.to_batches(max_chunksize=SCAN), rows.schema))
            held[name] = rows
            node = node.replace({project: _without(project, windows, backend.table(name).op())})
            is_sorted |= own_order is not None
            # The next windows may need the memory of those that they were computed from.
            for done in held.keys() - {found.name for found in node.find(ops.DatabaseTable)}:
                backend.con.unregister(done)
                del held[done]
        # A mere selection keeps the order; a window that is left to the database would not.
        is_sorted &= not (order and node.find(ops.WindowFunction))
        yield node.to_expr() if is_sorted else node.to_expr().order_by(*order)
    finally:
        for name in held:
            backend.con.unregister(name)


def _innermost(node: Any) -> Any:
    """Return a projection with windows that has no other below it, or None."""
    from ibis.expr import operations as ops

    found = {project for project in node.find(ops.Project) if _windows(project)}
    return next((project for project in found if not found & set(project.parent.find(ops.Project))), None)


def _traced(node: Any, project: Any, order: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return what some columns are called in a projection that a node is a mere selection of, or None if it is not."""
    from ibis.expr import operations as ops

    while isinstance(node, ops.Project) and all(isinstance(node.values[name], ops.Field) for name in order):
        if node == project:
            return order
        node, order = node.parent, tuple(node.values[name].name for name in order)
    return None


def _known(project: Any, held: dict[str, pa.Table]) -> dict[Any, pa.ChunkedArray]:
    """Return the columns of its parent that a projection finds in a table which is held here."""
    from ibis.expr import operations as ops

    parent = project.parent
    table = parent.parent if isinstance(parent, ops.Project) else None
    # A window that is left to the database changes the order of the rows.
    if not isinstance(table, ops.DatabaseTable) or table.name not in held or parent.find(ops.WindowFunction):
        return {}
    fields = {name: value.name for name, value in parent.values.items() if isinstance(value, ops.Field)}
    return {ops.Field(parent, name): held[table.name][column] for name, column in fields.items()}


def _windows(project: Any) -> list[Any]:
    """Return the window functions of a projection that can be computed here."""
    from ibis.expr import operations as ops

    found: dict[Any, None] = {}
    for value in project.values.values():
        found |= dict.fromkeys(value.find(ops.WindowFunction, filter=ops.Value))
    return [window for window in found if _is_known(window)]


def _is_known(window: Any) -> bool:
    from ibis.expr import operations as ops

    function, order = window.func, window.order_by
    return (
        isinstance(function, ops.CountStar | ops.Sum | ops.Max | ops.Last)
        and function.where is None
        and (isinstance(function, ops.CountStar) or function.arg.dtype.is_signed_integer())
        and not getattr(function, "order_by", ())
        and len(window.group_by) > 0
        and len(order) == 1
        and order[0].ascending
        and order[0].arg.dtype.is_signed_integer()
        and all(end is None or _distance(end) is not None for end in (window.start, window.end))
    )


def _distance(end: Any) -> int | None:
    """Return how far an end of a frame is from the current row, or None if it is not a plain number."""
    from ibis.expr import operations as ops

    value = end.value
    while isinstance(value, ops.Cast):
        value = value.arg
    if not isinstance(value, ops.Literal) or not value.dtype.is_integer():
        return None
    return -value.value if end.preceding else value.value


def _with_windows(
    backend: Any, project: Any, windows: list[Any], known: dict[Any, pa.ChunkedArray], order: tuple[str, ...]
) -> pa.Table:
    """Return the columns that a projection needs of its parent, and the values of its windows as `window_0`, ...

    What is not `known` is read from the database, in its order, or if nothing is known, in that of some columns.
    """
    from ibis.expr import operations as ops

    kept = _fields(project, windows)
    inputs = {field: field.name for field in kept}
    for window in windows:
        argument = () if isinstance(window.func, ops.CountStar) else (window.func.arg,)
        for value in (*window.group_by, window.order_by[0].arg, *argument):
            inputs.setdefault(value, value.name if isinstance(value, ops.Field) else f"input_{len(inputs)}")
    columns = {value: known[value] for value in inputs if value in known}
    unknown = {name: value for value, name in inputs.items() if value not in known}
    if unknown:
        query = ops.Project(project.parent, unknown).to_expr()
        if order and not known:
            query = query.order_by([inputs[project.values[name]] for name in order])
        table = backend.to_pyarrow(query)
        columns |= {value: table[name] for name, value in unknown.items()}
    numbers = _all_numbers(windows, columns)
    values: dict[Any, pa.Array] = {}
    for keys, time in dict.fromkeys((window.group_by, window.order_by[0].arg) for window in windows):
        own = [window for window in windows if (window.group_by, window.order_by[0].arg) == (keys, time)]
        rows = Partitions([columns[key] for key in keys], numbers[time][0])
        results = rows.compute([_request(window, numbers) for window in own])
        values |= {window: _arrow(*result, window.dtype) for window, result in zip(own, results, strict=True)}
    named = {field.name: columns[field] for field in kept}
    return pa.table(named | {f"window_{number}": values[window] for number, window in enumerate(windows)})


def _fields(project: Any, windows: list[Any]) -> list[Any]:
    """Return the columns of its parent that a projection reads outside of some windows."""
    from ibis.expr import operations as ops

    found: dict[Any, None] = {}
    for value in project.values.values():
        if value not in windows:
            outside = value.find(ops.Field, filter=lambda node: isinstance(node, ops.Value) and node not in windows)
            found |= dict.fromkeys(outside)
    return list(found)


def _without(project: Any, windows: list[Any], whole: Any) -> Any:
    """Return the projection over a table that has the values of its windows as columns."""
    from ibis.expr import operations as ops

    known = {field: ops.Field(whole, field.name) for field in _fields(project, windows)}
    known |= {window: ops.Field(whole, f"window_{number}") for number, window in enumerate(windows)}
    values = {name: value.replace(known, filter=ops.Value) for name, value in project.values.items()}
    return ops.Project(whole, values)


def _all_numbers(windows: list[Any], columns: dict[Any, pa.ChunkedArray]) -> dict[Any, tuple]:
    """Return times and arguments of windows as `_numbers`, each of them once."""
    from ibis.expr import operations as ops

    found = dict.fromkeys(window.order_by[0].arg for window in windows)
    found |= dict.fromkeys(window.func.arg for window in windows if not isinstance(window.func, ops.CountStar))
    with ThreadPoolExecutor() as threads:
        return dict(zip(found, threads.map(lambda value: _numbers(columns[value]), found), strict=True))


def _request(window: Any, numbers: dict[Any, tuple]) -> Request:
    """Return what a window asks of its rows."""
    from ibis.expr import operations as ops

    frame = Frame(window.how, *(None if end is None else _distance(end) for end in (window.start, window.end)))
    if isinstance(window.func, ops.CountStar):
        return Request("count", frame)
    return Request(type(window.func).__name__.lower(), frame, *numbers[window.func.arg])


def _numbers(column: pa.ChunkedArray) -> tuple[np.ndarray, np.ndarray | None]:
    """Return integers as int64, and which are not null, or None if all are."""
    if not column.null_count:
        return column.to_numpy().astype("int64", copy=False), None
    return column.fill_null(0).to_numpy().astype("int64", copy=False), column.is_valid().to_numpy()


def _arrow(values: np.ndarray, missing: np.ndarray | None, kind: Any) -> pa.Array:
    """Return int64 values as an Arrow array of an Ibis type, without copying them."""
    present = None if missing is None else pa.py_buffer(np.packbits(~missing, bitorder="little"))
    array = pa.Array.from_buffers(pa.int64(), len(values), [present, pa.py_buffer(values)])
    return array.cast(kind.to_pyarrow())
