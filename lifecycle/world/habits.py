"""The habits of customers: the payments of ordinary life, and how likely each of them is."""

from __future__ import annotations

import math

import numpy as np

from lifecycle.world.episodes import (
    CONTACTLESS_ABOVE_LIMIT,
    CONTACTLESS_LIMIT_CENTS,
    NEVER,
    Events,
    normal_density,
)
from lifecycle.world.population import SHOP_SHARES, SHOP_SLOTS, WEB_SHARES, WEB_SLOTS, Population
from lifecycle.world.rhythm import CHRONOTYPES, DAY_MS, HONEST, DayShape

# Shares of payments at the usual places; the rest goes anywhere in the city, or on the web.
_USUAL_SHOP = 0.80
_USUAL_WEB = 0.72

# A rare large purchase: a share of the payments, and what it adds to the logarithm of the amount.
_LARGE_SHARE = 0.005
_LARGE_SHIFT = math.log(4.5)
_LARGE_SPREAD = 0.6


def draw(people: Population, shape: DayShape, index: int, rng: np.random.Generator) -> Events:
    """Draw one day of ordinary payments of all customers, as if nobody were on a trip.

    Parameters
    ----------
    people
        The population.
    shape
        What the calendar does to the day.
    index
        The number of the day; times come in milliseconds since midnight of day 0.
    rng
        The day's stream of random numbers.
    """
    shop_rate, web_rate = _rates(people, shape)
    rate = shop_rate + web_rate
    count = rng.poisson(rate)
    customer = np.repeat(np.arange(len(rate)), count)
    n = len(customer)
    online = rng.random(n) * rate[customer] >= shop_rate[customer]
    terminal = _terminals(people, customer, online, rng)
    ms = HONEST.draw(_profile(people, shape, customer, online), rng.random(n))
    z = rng.standard_normal(n)
    u = rng.random(n)
    mean = people.spend[customer] + people.log_median[terminal] + shape.log_amount
    spread = people.log_spread[terminal]
    log = mean + np.where(u < _LARGE_SHARE, _LARGE_SHIFT + _LARGE_SPREAD * z, spread * z)
    cents = np.maximum(np.rint(np.exp(log) * 100), 1).astype(np.int64)
    contactless = (rng.random(n) < _contactless(people, customer, cents)) & ~online
    return Events(index * DAY_MS + ms, customer, terminal, cents, contactless, np.zeros(n, np.int8), np.full(n, NEVER))


def intensity(
    people: Population, shape: DayShape, ms: np.ndarray, customer: np.ndarray, terminal: np.ndarray,
    cents: np.ndarray, contactless: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Return the intensity of ordinary payments at each given payment; units as in `episodes.intensity`."""
    online = people.online[terminal]
    shop_rate, web_rate = _rates(people, shape)
    rate = np.where(online, web_rate[customer], shop_rate[customer])
    time = HONEST.density(_profile(people, shape, customer, online), ms % DAY_MS)
    usual_shop = (people.usual_shops[customer] == terminal[:, None]) @ SHOP_SHARES
    usual_web = (people.usual_web[customer] == terminal[:, None]) @ WEB_SHARES
    city = people.customer_city[customer]
    popular = people.popularity[terminal]
    any_shop = (people.terminal_city[terminal] == city) * popular / people.shops.total[city]
    any_web = popular / people.web.total[0]
    where = np.where(
        online,
        _USUAL_WEB * usual_web + (1 - _USUAL_WEB) * any_web,
        _USUAL_SHOP * usual_shop + (1 - _USUAL_SHOP) * any_shop,
    )
    x = np.log(cents / 100)
    mean = people.spend[customer] + people.log_median[terminal] + shape.log_amount
    amount = (1 - _LARGE_SHARE) * normal_density(x, mean, people.log_spread[terminal])
    amount += _LARGE_SHARE * normal_density(x, mean + _LARGE_SHIFT, _LARGE_SPREAD)
    tap = _contactless(people, customer, cents)
    channel = np.where(online, 1.0, np.where(contactless, tap, 1.0 - tap))
    return rate * time * where * amount * channel


def _rates(people: Population, shape: DayShape) -> tuple[np.ndarray, np.ndarray]:
    """Return each customer's expected payments on the day, in shops and on the web."""
    return people.rate_shop * shape.physical[people.region], people.rate_web * shape.online


def _profile(people: Population, shape: DayShape, customer: np.ndarray, online: np.ndarray) -> np.ndarray:
    """Return the row of `rhythm.HONEST` for each payment."""
    return (2 * shape.weekend + online) * CHRONOTYPES + people.chronotype[customer]


def _terminals(people: Population, customer: np.ndarray, online: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw a terminal for each payment: mostly a usual one, else any of the city or of the web."""
    n = len(customer)
    slot = rng.integers(0, len(SHOP_SLOTS), n, dtype=np.uint8)
    u, v = rng.random(n), rng.random(n)
    terminal = people.usual_shops[customer, SHOP_SLOTS[slot]].astype(np.int64)
    rows = np.flatnonzero(online)
    terminal[rows] = people.usual_web[customer[rows], WEB_SLOTS[slot[rows] % len(WEB_SLOTS)]]
    rows = np.flatnonzero(~online & (u >= _USUAL_SHOP))
    terminal[rows] = people.shops.draw(people.customer_city[customer[rows]], v[rows])
    rows = np.flatnonzero(online & (u >= _USUAL_WEB))
    terminal[rows] = people.web.draw(0, v[rows])
    return terminal


def _contactless(people: Population, customer: np.ndarray, cents: np.ndarray) -> np.ndarray:
    """Return the probability that a payment in a shop is contactless, given its amount."""
    return people.contactless[customer] * np.where(cents <= CONTACTLESS_LIMIT_CENTS, 1.0, CONTACTLESS_ABOVE_LIMIT)
