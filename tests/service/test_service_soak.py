"""A quarter of a minute under load: no error, every acknowledged payment in the journal, no growth of memory."""

import pandas as pd
from soak import endless, soak

from lifecycle.deployment import messages

FIRST = pd.Timestamp("2025-03-01", tz="UTC")


def test_the_service_under_load_loses_nothing_and_keeps_its_memory(bank):
    table = bank.tables["transactions"]
    records = messages.as_records(table[table["event_time"] >= FIRST], ["channel"])
    found = soak(bank.package, records, seconds=15)
    assert (found.failures, found.journaled) == (0, found.answered)
    assert found.answered > 3_000, "there was hardly any load"
    assert found.last - found.first < 20, f"memory went from {found.first:.0f} to {found.last:.0f} MB"


def test_a_soak_sends_no_payment_twice_and_time_goes_on():
    records = [{"transaction_id": n, "event_time": f"2025-03-0{n}T10:00:00+00:00", "amount": 1.0} for n in (1, 3)]
    stream = endless(records)
    sent = [next(stream) for _ in range(5)]
    assert len({record["transaction_id"] for record in sent}) == 5
    assert [record["event_time"][:10] for record in sent] == [f"2025-03-0{day}" for day in (1, 3, 4, 6, 7)]
