"""What a million predictions cost, by the way they are served: from stated prices and measured rates."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from lifecycle.settings import Settings

HOURS = 730.0
"""Of a month."""


@dataclass(frozen=True)
class Prices:
    """What drives the price of serving, in EUR. `SOURCES` says where each number comes from; look up your own.

    Examples
    --------
    >>> Prices(machine_hour=0.2).machine_hour
    0.2
    """

    machine_hour: float = 0.12
    managed_factor: float = 1.2
    peak_factor: float = 3.0
    busy_share: float = Settings.busy_share
    engineer_hour: float = 80.0
    own_upkeep_hours: float = 20.0
    managed_upkeep_hours: float = 6.0
    bought_prediction: float = Settings.bought_prediction_cost


SOURCES = {
    "machine_hour": "assumption: a virtual machine with two processors, by the hour and without a contract",
    "managed_factor": "assumption: a managed endpoint's hour beside the bare machine's, as list prices have it",
    "peak_factor": "assumption: the busiest hour beside the mean one; a bank's nights are quiet",
    "busy_share": "the setting busy_share: above it, requests wait for each other",
    "engineer_hour": "assumption: wages and overheads",
    "own_upkeep_hours": "assumption, a month: patches, certificates, alarms, someone on call",
    "managed_upkeep_hours": "assumption, a month: the provider patches the machines, not the model",
    "bought_prediction": "the setting bought_prediction_cost: an answer of somebody else's model",
}
"""Where each price comes from."""


def price_list(prices: Prices) -> list[dict[str, object]]:
    """Return each driver with its value and its source, as rows of a table.

    Examples
    --------
    >>> price_list(Prices())[0]["EUR or factor"]
    0.12
    """
    return [
        {"driver": one.name, "EUR or factor": getattr(prices, one.name), "source": SOURCES[one.name]}
        for one in fields(prices)
    ]


def cost_per_million(
    monthly: float, per_second: float, prices: Prices, always_on: bool, managed: bool, upkeep: bool = True
) -> float:
    """Return the price of a million predictions of a model of one's own.

    Parameters
    ----------
    monthly
        Predictions a month.
    per_second
        Predictions a second that one machine makes, measured.
    prices
        The drivers.
    always_on
        True for an endpoint, whose machines wait for requests; False for a job, whose machine is paid while it works.
    managed
        Whether a provider runs the machines.
    upkeep
        Whether to count the people as well.

    Examples
    --------
    >>> prices = Prices(machine_hour=0.1, engineer_hour=0.0)
    >>> round(cost_per_million(1e6, 1_000, prices, always_on=True, managed=False), 2)
    73.0
    >>> round(cost_per_million(1e6, 1_000, prices, always_on=False, managed=False), 4)
    0.0278
    """
    if always_on:
        at_peak = monthly / (HOURS * 3_600) * prices.peak_factor
        hours = HOURS * max(1, math.ceil(at_peak / (per_second * prices.busy_share)))
    else:
        hours = monthly / per_second / 3_600
    factor = prices.managed_factor if managed else 1.0
    people = prices.managed_upkeep_hours if managed else prices.own_upkeep_hours
    month = hours * prices.machine_hour * factor + (people * prices.engineer_hour if upkeep else 0.0)
    return month / monthly * 1e6


def break_even(prices: Prices) -> float:
    """Return the predictions a month above which a managed endpoint with one machine is cheaper than bought answers.

    Examples
    --------
    >>> round(break_even(Prices()))
    5851
    """
    month = HOURS * prices.machine_hour * prices.managed_factor + prices.managed_upkeep_hours * prices.engineer_hour
    return month / prices.bought_prediction
