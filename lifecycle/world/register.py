"""The bank's database: customers, accounts and terminals, and the texts merchants print on statements."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from lifecycle.world.population import CATEGORY_NAMES, CITY_NAMES, REGISTER, Population, stream
from lifecycle.world.rhythm import REGIONS

# What a merchant of a category is called, after its first name.
_KINDS = {
    "groceries": ("Market", "Foods", "Grocer", "Supermarket"),
    "restaurant": ("Kitchen", "Bistro", "Cafe", "Pizza"),
    "fuel": ("Fuel", "Petrol", "Service Station", "Energy"),
    "transport": ("Transit", "Taxi", "Parking", "Rail"),
    "pharmacy": ("Pharmacy", "Chemist", "Health", "Care"),
    "clothing": ("Fashion", "Shoes", "Outfitters", "Wear"),
    "electronics": ("Electronics", "Computers", "Mobile", "Audio"),
    "home_garden": ("Home", "Garden Center", "Hardware", "Furniture"),
    "entertainment": ("Cinema", "Tickets", "Books", "Sports"),
    "travel": ("Travel", "Airways", "Hotels", "Holidays"),
    "digital_goods": ("Games", "Apps", "Streaming", "Cloud"),
    "gift_cards": ("Gift Cards", "Vouchers", "Prepaid", "Giftstore"),
}
_FIRST = (
    "Abbott", "Bluebell", "Corvin", "Dalton", "Everly", "Fenwick", "Granite", "Harbor", "Ivory", "Juniper",
    "Keystone", "Lantern", "Meridian", "Nimbus", "Orchard", "Pioneer", "Quill", "Rowan", "Sterling", "Tamarin",
    "Umber", "Vesper", "Willow", "Xenia", "Yellowtail", "Zephyr", "Amber", "Birch", "Cobalt", "Drift",
)  # fmt: skip

# A birth date nobody has: what a form sends when the field was left empty.
DISGUISED_BIRTH = "1900-01-01"
DISGUISED_BIRTH_SHARE = 0.01

TEXT_VARIANTS = 3
_TEXT_WIDTH = 22


def write_register(settings: Any, people: Population, path: Path) -> None:
    """Write ``bank.sqlite``: the tables customers, accounts and terminals.

    Parameters
    ----------
    settings
        For the seed.
    people
        The population.
    path
        The file to write; it must not exist.
    """
    rng = stream(settings.seed, REGISTER)
    with closing(sqlite3.connect(path)) as bank, bank:
        bank.execute("PRAGMA journal_mode = OFF")
        bank.execute("PRAGMA synchronous = OFF")
        bank.execute(
            "CREATE TABLE customers (customer_id INTEGER PRIMARY KEY, home_x REAL, home_y REAL, "
            "birth_date TEXT, region TEXT, opened_on TEXT)"
        )
        bank.execute(
            "CREATE TABLE accounts (account_id INTEGER PRIMARY KEY, customer_id INTEGER, currency TEXT, opened_on TEXT)"
        )
        bank.execute(
            "CREATE TABLE terminals (terminal_id INTEGER PRIMARY KEY, x REAL, y REAL, merchant_name TEXT, "
            "merchant_category TEXT, channel TEXT, city TEXT)"
        )
        bank.executemany("INSERT INTO customers VALUES (?, ?, ?, ?, ?, ?)", _customers(people, rng))
        opened = people.opened.astype(str).tolist()
        accounts = ((4_000_000 + i, i, "EUR", day) for i, day in enumerate(opened, start=1))
        bank.executemany("INSERT INTO accounts VALUES (?, ?, ?, ?)", accounts)
        bank.executemany("INSERT INTO terminals VALUES (?, ?, ?, ?, ?, ?, ?)", _terminals(people))


def _customers(people: Population, rng: np.random.Generator) -> Any:
    birth = people.birth.astype(str).astype(object)
    birth[rng.random(len(birth)) < DISGUISED_BIRTH_SHARE] = DISGUISED_BIRTH
    region = [REGIONS[i] for i in people.region]
    x, y = people.home.T.tolist()
    ids = range(1, len(birth) + 1)
    return zip(ids, x, y, birth.tolist(), region, people.opened.astype(str).tolist(), strict=True)


def _terminals(people: Population) -> Any:
    x, y = people.place.T.tolist()
    category = [CATEGORY_NAMES[i] for i in people.category]
    channel = ["online" if online else "pos" for online in people.online]
    city = [CITY_NAMES[i] for i in people.terminal_city]
    ids = range(1, len(category) + 1)
    return zip(ids, x, y, merchant_names(people), category, channel, city, strict=True)


def merchant_names(people: Population) -> list[str]:
    """Return the merchant of each terminal. The same name in several cities is a chain."""
    n = len(people.category)
    first = (np.arange(n) * 7 + people.category * 11 + people.terminal_city) % len(_FIRST)
    kind = (np.arange(n) // 3) % 4
    return [f"{_FIRST[a]} {_KINDS[CATEGORY_NAMES[c]][k]}" for a, c, k in zip(first, people.category, kind, strict=True)]


def descriptors(people: Population) -> list[str]:
    """Return the texts that may appear on a statement: three variants for each terminal in turn.

    Position ``3 * terminal + variant``: the full text, the text cut at 22 characters as old
    acquirers do, and a spelling of its own.
    """
    texts = []
    names = merchant_names(people)
    for i, (name, online, city) in enumerate(zip(names, people.online, people.terminal_city, strict=True)):
        if online:
            full = f"{name.upper().replace(' ', '')}*{(i * 7919) % 10_000:04d} ONLINE"
        else:
            full = f"{name.upper()} {(i * 7919) % 10_000:04d} {CITY_NAMES[city].upper()}"
        texts += [full, full[:_TEXT_WIDTH].rstrip(), f"card pmt {full.lower()}"]
    return texts
