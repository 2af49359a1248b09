"""A domain classifier: a model told to tell this week's payments from the reference.

If it can, on payments of customers it has not learned from, then the inputs have moved, in whatever combination of
features (the classifier two-sample test of D. Lopez-Paz and M. Oquab, 2017). If nothing moved, its area under the ROC
curve is near one half; how near, only clean weeks can tell.

The model is a forest of trees whose splits are drawn at random and whose leaves are learned (totally randomized trees,
P. Geurts, D. Ernst and L. Wehenkel, Extremely randomized trees, 2006). Its splits never look at the two samples, so it
learns from nothing but counts of payments by leaf, and counts of days, customers and months add up: thousands of models
for the months of the drift lab cost one matrix product.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

TREES, DEPTH = 12, 5
"""Trees of the forest, and the number of questions that each asks about a payment: two to that power leaves."""

FOLDS = 2
"""Customers are split into so many parts; who is judged in one was learned from the others."""

WINDOW = 7
"""The classifier learns from the payments of so many days."""

MISSING = np.float32(-1e30)
_INNER = (0.25, 0.75)


@dataclass(frozen=True)
class RandomTrees:
    """Perfect binary trees of random splits.

    Attributes
    ----------
    column, cut
        What each inner node asks, shape (trees, nodes): is the value of that column above the cut? A missing value
        is below every cut. The children of node i are 2 i + 1 (no) and 2 i + 2 (yes).
    """

    column: np.ndarray
    cut: np.ndarray

    @classmethod
    def grow(cls, matrix: np.ndarray, seed: int, trees: int = TREES, depth: int = DEPTH) -> RandomTrees:
        """Draw the splits: a random column, and a random value of the rows that reach the node as the cut.

        Parameters
        ----------
        matrix
            Rows to draw the cuts from, shape (rows, columns); at most some ten thousand are needed.
        seed
            Of the splits.
        trees, depth
            The size of the forest.

        Examples
        --------
        >>> matrix = np.random.default_rng(0).normal(size=(1000, 3))
        >>> forest = RandomTrees.grow(matrix, seed=1, trees=2, depth=2)
        >>> forest.leaves(matrix).shape, forest.size
        ((1000, 2), 8)
        """
        matrix, generator = _without_missing(matrix), np.random.default_rng(seed)
        column = np.zeros((trees, 2**depth - 1), dtype=int)
        cut = np.full(column.shape, np.inf)
        for tree in range(trees):
            reached = {0: np.arange(len(matrix))}
            for node in range(column.shape[1]):
                rows = reached.pop(node)
                column[tree, node], cut[tree, node] = _draw_split(matrix, rows, generator)
                above = matrix[rows, column[tree, node]] > cut[tree, node]
                reached[2 * node + 1], reached[2 * node + 2] = rows[~above], rows[above]
        return cls(column, cut)

    @property
    def size(self) -> int:
        """The number of leaves of all trees."""
        return self.column.shape[0] * (self.column.shape[1] + 1)

    def leaves(self, matrix: np.ndarray) -> np.ndarray:
        """Return the leaf of each row in each tree, numbered through all trees, shape (rows, trees)."""
        matrix, rows = _without_missing(matrix), np.arange(len(matrix))
        found = np.empty((len(matrix), len(self.column)), dtype="int32")
        nodes = self.column.shape[1]
        for tree, (column, cut) in enumerate(zip(self.column, self.cut, strict=True)):
            node = np.zeros(len(matrix), dtype=int)
            for _ in range(nodes.bit_length()):
                node = 2 * node + 1 + (matrix[rows, column[node]] > cut[node])
            found[:, tree] = node - nodes + tree * (nodes + 1)
        return found


def _without_missing(matrix: np.ndarray) -> np.ndarray:
    return np.nan_to_num(matrix, nan=MISSING)


def _draw_split(matrix: np.ndarray, rows: np.ndarray, generator: np.random.Generator) -> tuple[int, float]:
    """Return a column and a cut that really split the rows; if no column of a random order does, a cut above all."""
    for column in generator.permutation(matrix.shape[1]):
        values = np.sort(matrix[rows, column])
        if values.size and values[0] < values[-1]:
            cut = values[int(generator.uniform(*_INNER) * values.size)]
            return int(column), float(cut if cut < values[-1] else values[values < cut][-1])
    return 0, float("inf")


def separation(now: np.ndarray, then: np.ndarray) -> np.ndarray:
    """Return how well a domain classifier tells two samples apart: its area under the ROC curve out of fold.

    Parameters
    ----------
    now, then
        Counts of the two samples by fold, tree and leaf, shape (..., folds, trees, leaves).

    Returns
    -------
    ndarray
        The mean area over folds and trees, shape (...): 0.5 if it cannot, 1 if it never errs.

    Examples
    --------
    >>> then = np.array([[[50.0, 50.0]], [[50.0, 50.0]]])
    >>> float(separation(then, then)), float(separation(np.array([[[0.0, 50.0]], [[0.0, 50.0]]]), then))
    (0.5, 0.75)
    >>> float(separation(np.array([[[0.0, 50.0]], [[50.0, 0.0]]]), then))  # what one fold shows is not so in the other
    0.25
    """
    learned = [counts.sum(axis=-3, keepdims=True) - counts for counts in (now, then)]
    odds = [(counts + 1) / (counts.sum(axis=-1, keepdims=True) + counts.shape[-1]) for counts in learned]
    score = odds[0] / odds[1]
    order = np.argsort(score, axis=-1, kind="stable")
    shares = [counts / np.maximum(counts.sum(axis=-1, keepdims=True), 1) for counts in (now, then)]
    q, p = (np.take_along_axis(share, order, axis=-1) for share in shares)
    return (q * (np.cumsum(p, axis=-1) - p / 2)).sum(axis=-1).mean(axis=(-1, -2))


def separation_by_day(now: np.ndarray, then: np.ndarray, window: int = WINDOW) -> np.ndarray:
    """Return `separation` of the last `window` days on each day; 0.5 while there are not so many.

    Parameters
    ----------
    now, then
        Counts of each day and of its reference, shape (days, months, folds, trees, leaves).
    """
    value = np.full(now.shape[:2], 0.5)
    for last in range(window - 1, len(now)):
        days = slice(last - window + 1, last + 1)
        value[last] = separation(now[days].sum(axis=0), then[days].sum(axis=0))
    return value
