"""What slow answers cost: payments queue for a machine, and one whose answer would come too late is approved unseen.

One machine takes payments in the order in which they arrive and needs the same time for each. Where it cannot answer
within the time-out any more, it does not begin: nobody waits for that answer. That is kind to a slow model, since a
machine that works on expired payments answers even fewer.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from lifecycle.errors import LifecycleError

HOUR = 3_600.0


def squeeze_arrivals(seconds: ArrayLike, service: float, busy: float) -> np.ndarray:
    """Return when payments arrive if time ran faster, so that a machine is busy for a share of the busiest hour.

    A small bank never fills a machine. Its days, squeezed, are the days of a larger bank with the same habits.

    Parameters
    ----------
    seconds
        When payments arrive, in seconds, rising, shape (n,).
    service
        Seconds that one answer of the machine takes.
    busy
        Share of the busiest hour in which the machine works, above 0 and below 1.

    Returns
    -------
    numpy.ndarray
        Seconds since the first payment, float64, shape (n,).

    Raises
    ------
    LifecycleError
        If there are no payments, or a number is out of range.

    Examples
    --------
    >>> squeeze_arrivals([0.0, 1800.0, 7200.0], service=0.5, busy=0.1).tolist()
    [0.0, 5.0, 20.0]
    """
    moments = np.asarray(seconds, dtype=np.float64)
    if len(moments) == 0 or not service > 0 or not 0 < busy < 1:
        raise LifecycleError(
            f"{len(moments)} payments, {service:g} seconds a payment, busy for {busy:g}: a queue needs payments, a "
            "time above 0, and a share between 0 and 1."
        )
    moments = moments - moments[0]
    busiest = np.bincount((moments // HOUR).astype(np.int64)).max()
    return moments * (busiest * service / (HOUR * busy))


def answered_in_time(arrivals: ArrayLike, service: float, timeout: float) -> np.ndarray:
    """Return which payments a machine answers within the time-out.

    Parameters
    ----------
    arrivals
        When payments arrive, in seconds, rising, shape (n,).
    service
        Seconds that one answer takes.
    timeout
        Seconds after its arrival in which a payment must have its answer.

    Returns
    -------
    numpy.ndarray
        bool, shape (n,).

    Examples
    --------
    >>> answered_in_time([0.0, 0.1, 0.2, 3.0], service=1.0, timeout=2.0).tolist()
    [True, True, False, True]
    """
    answered = np.zeros(len(np.asarray(arrivals)), dtype=bool)
    free = -np.inf
    for place, moment in enumerate(np.asarray(arrivals, dtype=np.float64).tolist()):
        done = max(free, moment) + service
        if done - moment <= timeout:
            answered[place], free = True, done
    return answered
