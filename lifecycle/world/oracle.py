"""The best score there can be: the probability of fraud for one who knows the hidden state.

Given the hidden state (which windows are open for which card), honest payments and those of each
fraud mode are independent Poisson processes with known intensities over time, terminal, amount and
channel. By the superposition theorem (Kingman, Poisson Processes, 1993, ch. 2), a payment seen at a
point belongs to the fraudulent ones with probability ::

    lambda_fraud / (lambda_fraud + lambda_honest)

No score that uses only what the bank sees ranks better on average.
"""

from __future__ import annotations

import numpy as np

from lifecycle.world import episodes, habits
from lifecycle.world.episodes import MODE, TRIP, Episodes, Events, Pools
from lifecycle.world.population import Population
from lifecycle.world.rhythm import DayShape

# The last bits of an exponential differ between processors; six decimals do not.
DECIMALS = 6


def probability(payments: Events, windows: Episodes, people: Population, pools: Pools, shape: DayShape) -> np.ndarray:
    """Return the probability of fraud of each payment of a day, rounded to six decimals.

    Cards without a fraud window on the day have probability 0; only the others cost anything.

    Parameters
    ----------
    payments
        The payments of one day, n rows.
    windows
        The episodes that touch the day.
    people, pools, shape
        The population, the terminals of episodes, and what the calendar does to the day.
    """
    chance = np.zeros(len(payments.ms))
    suspects = np.zeros(len(people.age), bool)
    suspects[windows.customer[MODE[windows.kind] > 0]] = True
    rows = np.flatnonzero(suspects[payments.customer])
    if not len(rows):
        return chance
    seen = payments.take(rows)
    row, window = pairs(seen.customer, windows)
    each = episodes.intensity(
        window, seen.ms[row], seen.terminal[row], seen.cents[row], seen.contactless[row], people, pools
    )
    is_fraud = MODE[window.kind] > 0
    fraud = np.bincount(row, each * is_fraud, len(rows))
    honest = np.bincount(row, each * ~is_fraud, len(rows))
    ordinary = habits.intensity(people, shape, seen.ms, seen.customer, seen.terminal, seen.cents, seen.contactless)
    honest += np.where(away(seen, row, window) & ~people.online[seen.terminal], 0.0, ordinary)
    total = fraud + honest
    chance[rows] = np.round(np.divide(fraud, total, out=np.zeros_like(total), where=total > 0), DECIMALS)
    return chance


def pairs(customer: np.ndarray, windows: Episodes) -> tuple[np.ndarray, Episodes]:
    """Pair each payment with all windows of its customer: (position of the payment, its window)."""
    order = np.argsort(windows.customer, kind="stable")
    owner = windows.customer[order]
    first = np.searchsorted(owner, customer, side="left")
    count = np.searchsorted(owner, customer, side="right") - first
    row = np.repeat(np.arange(len(customer)), count)
    step = np.arange(len(row)) - np.repeat(np.cumsum(count) - count, count)
    return row, windows.take(order[first[row] + step])


def away(payments: Events, row: np.ndarray, window: Episodes) -> np.ndarray:
    """Say for each payment whether its customer is on a trip at that time (`row`, `window` from `pairs`)."""
    ms = payments.ms[row]
    trip = (window.kind == TRIP) & (ms >= window.start) & (ms < window.end)
    return np.bincount(row, trip, len(payments.ms)) > 0
