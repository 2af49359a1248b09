"""Foreign tables: two of shapes that are not ours, with what real files have, and a bank of any size as one file."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lifecycle.settings import Settings
from lifecycle.world import World
from lifecycle.world.payments import CHANNELS
from lifecycle.world.population import CATEGORY_NAMES

SHOP_MAP = """
transaction_id = "Order No."
event_time = "Local time"
customer_id = "Account"
terminal_id = "Till"
amount = "Amount (ct)"
is_fraud = "Verdict"
time_zone = "Europe/Berlin"
amount_unit = "cents"
label_delay_days = 10
fraud = ["F"]
honest = ["ok"]
"""


def write_shop(folder: Path, rows: int = 8_000, extras: int = 20, seed: int = 3) -> tuple[Path, Path]:
    """Write a shop's table and its mapping: cents, local times, text ids, many extra columns, and a planted leak.

    `Refund ref` is filled for frauds only, after the fact. The last 2 % of the rows have no verdict yet.
    """
    rng = np.random.default_rng(seed)
    times = pd.Timestamp("2024-03-01") + pd.to_timedelta(np.sort(rng.integers(0, 75 * 86_400, rows)), unit="s")
    fraud = rng.random(rows) < 0.03
    cents = (rng.lognormal(3.2, 0.7, rows) * np.where(fraud, 2.0, 1.0) * 100).astype(int) + 1
    frame = pd.DataFrame({
        "Order No.": [f"o-{n:06d}" for n in range(rows)],
        # An hour that the clocks skip on March 31 does not exist; no shop writes it.
        "Local time": times.where(times.hour != 2, times + pd.Timedelta("1h")).strftime("%Y-%m-%d %H:%M:%S"),
        "Account": [f"a{n:04d}" for n in rng.integers(0, 200, rows)],
        "Till": [f"t{n:03d}" for n in rng.integers(0, 60, rows)],
        "Amount (ct)": cents,
        "Device": np.where(fraud & (rng.random(rows) < 0.6), "emulator", rng.choice(["ios", "android", "web"], rows)),
        "Basket size": rng.poisson(np.where(fraud, 6, 3)),
        "Refund ref": np.where(fraud, [f"r{n % 40}" for n in range(rows)], ""),
        "Verdict": np.where(np.arange(rows) > 0.98 * rows, "", np.where(fraud, "F", "ok")),
    })  # fmt: skip
    noise = {f"Signal {n}": rng.normal(0, 1, rows).round(3) for n in range(extras)}
    frame = pd.concat([frame, pd.DataFrame(noise)], axis=1)
    frame.to_csv(folder / "shop.csv", index=False)
    (folder / "shop.toml").write_text(SHOP_MAP, encoding="utf-8")
    return folder / "shop.csv", folder / "shop.toml"


def write_transfers(folder: Path, rows: int = 8_000, seed: int = 4) -> tuple[Path, Path]:
    """Write transfers without terminals as Parquet, with whole-number ids, and their labels apart, as observed."""
    rng = np.random.default_rng(seed)
    seconds = np.sort(rng.integers(0, 75 * 86_400, rows))
    times = pd.Timestamp("2024-06-01", tz="UTC") + pd.to_timedelta(seconds, unit="s")
    customer, fraud = rng.integers(0, 150, rows), rng.random(rows) < 0.03
    amount = (rng.lognormal(3, 0.6, rows) * np.where(fraud, 5, 1)).round(2) + 0.01
    frame = pd.DataFrame({"transaction_id": np.arange(rows) + 10, "event_time": times, "customer_id": customer,
                          "amount": amount, "is_new_payee": rng.random(rows) < np.where(fraud, 0.8, 0.2)})  # fmt: skip
    frame.to_parquet(folder / "transfers.parquet", index=False)
    known = times + pd.to_timedelta(rng.integers(1, 9 * 24, rows), unit="h")
    labels = pd.DataFrame({"transaction_id": frame["transaction_id"], "is_fraud": fraud.astype(int), "known_at": known})
    labels[labels["known_at"] < times[-1]].to_csv(folder / "labels.csv", index=False)
    return folder / "transfers.parquet", folder / "labels.csv"


def write_bank(path: Path, customers: int, days: int, seed: int = 7) -> int:
    """Write the payments of a simulated bank as one CSV, a day at a time, and return how many there are.

    The columns are those of the contract, a channel, a merchant category and the true label, without the time at which
    it became known.
    """
    settings = Settings(customers=customers, terminals=2 * customers, days=days, seed=seed)
    world = World(settings)
    rows = 0
    for index in range(days):
        day = world.day(index)
        times = np.datetime64(settings.start, "ms") + index * 86_400_000 + day.ms
        frame = pd.DataFrame({
            "transaction_id": day.transaction_id, "event_time": np.char.add(np.datetime_as_string(times), "Z"),
            "customer_id": day.customer + 1, "terminal_id": day.terminal + 1, "amount": day.cents / 100,
            "channel": np.array(CHANNELS)[day.channel],
            "merchant_category": np.array(CATEGORY_NAMES)[world.population.category[day.terminal]],
            "is_fraud": (day.mode > 0).astype(int),
        })  # fmt: skip
        frame.to_csv(path, mode="a" if index else "w", header=not index, index=False)
        rows += len(frame)
    return rows
