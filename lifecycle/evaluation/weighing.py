"""Rankings weighed many times at once: average precision, AUC and recall under every draw of customers.

Only the scores of frauds are thresholds at which these metrics change. Honest payments are therefore counted
once, by customer, between neighboring thresholds. A draw of customers is then a product of two matrices, which
makes two hundred of them cheaper than sorting twice. The numbers are those of `lifecycle.training.metrics.Ranking`.
"""

from __future__ import annotations

import numpy as np


class Weighing:
    """Labels and scores, ready to be weighed by how often each customer counts.

    Parameters
    ----------
    is_fraud, score
        0 or 1, and higher for more suspect, shape (n,). Equal scores share their rank.
    codes
        The customer of each row, as a number from 0 to `customers` - 1, shape (n,).
    customers
        How many customers there are.

    Examples
    --------
    >>> weighing = Weighing([0, 1, 0, 1], [0.1, 0.4, 0.6, 0.8], [0, 1, 2, 3], 4)
    >>> weighing.average_precision(np.ones((1, 4))).round(4)
    array([0.8333])
    """

    def __init__(self, is_fraud: object, score: object, codes: object, customers: int) -> None:
        from scipy.sparse import coo_array

        fraud, score, codes = np.asarray(is_fraud) == 1, np.asarray(score, dtype=np.float64), np.asarray(codes)
        self.thresholds = np.unique(score[fraud])[::-1]
        count = len(self.thresholds)

        def count_rows(rows: np.ndarray, place: np.ndarray) -> object:
            return coo_array((np.ones(len(place)), (place, codes[rows])), shape=(count + 1, customers)).tocsr()

        # An honest payment is flagged from the first threshold on that is not above its score.
        place = np.searchsorted(-self.thresholds, -score, side="left")
        tied = ~fraud & (place < count)
        tied[tied] = self.thresholds[place[tied]] == score[tied]
        self._fraud, self._honest, self._tied = (count_rows(rows, place[rows]) for rows in (fraud, ~fraud, tied))

    def _counts(self, draws: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return frauds and honest payments flagged at each threshold, (thresholds + 1, draws), and honest ones in all.

        The last row flags everything.
        """
        weight = np.asarray(draws, dtype=np.float64).T
        frauds, honest = np.cumsum(self._fraud @ weight, axis=0), np.cumsum(self._honest @ weight, axis=0)
        return frauds, honest, honest[-1]

    def average_precision(self, draws: np.ndarray) -> np.ndarray:
        """Return the average precision under each draw, shape (draws,); NaN where a draw has no fraud.

        Parameters
        ----------
        draws
            How often each customer counts, shape (draws, customers).
        """
        frauds, honest, _ = self._counts(draws)
        precision = np.divide(frauds, frauds + honest, out=np.zeros_like(frauds), where=frauds > 0)
        with np.errstate(invalid="ignore"):
            return (np.diff(frauds, axis=0, prepend=0) * precision).sum(axis=0) / frauds[-1]

    def area_under_roc(self, draws: np.ndarray) -> np.ndarray:
        """Return the area under the ROC curve under each draw, shape (draws,); NaN without both kinds."""
        frauds, honest, every = self._counts(draws)
        tied = self._tied @ np.asarray(draws, dtype=np.float64).T
        below = every - honest + tied / 2
        with np.errstate(invalid="ignore"):
            return (np.diff(frauds, axis=0, prepend=0) * below).sum(axis=0) / (frauds[-1] * every)

    def recall_at(self, budget: np.ndarray, draws: np.ndarray) -> np.ndarray:
        """Return the largest recall whose share of flagged honest payments is within `budget`, shape (draws,).

        Parameters
        ----------
        budget
            Share of honest payments that may be flagged, one number a draw.
        """
        frauds, honest, every = self._counts(draws)
        within = honest[:-1] <= np.asarray(budget) * every * (1 + 1e-12)
        found = np.where(within, frauds[:-1], 0.0).max(axis=0, initial=0.0)
        with np.errstate(invalid="ignore"):
            return found / frauds[-1]
