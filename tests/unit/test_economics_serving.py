"""What a million predictions cost: by hand, and in the limits."""

import dataclasses

import pytest

from lifecycle.economics.serving import SOURCES, Prices, break_even, cost_per_million, price_list


def test_an_endpoint_pays_for_its_idle_hours_and_a_job_does_not() -> None:
    prices = Prices(machine_hour=0.5, engineer_hour=0.0)
    cost = [cost_per_million(2e6, 100, prices, always_on=on, managed=False) for on in (True, False)]
    assert cost[0] == pytest.approx(730 * 0.5 / 2)
    assert cost[1] == pytest.approx(1e6 / 100 / 3_600 * 0.5)


def test_a_busy_endpoint_needs_more_machines() -> None:
    prices = Prices(machine_hour=1.0, engineer_hour=0.0, peak_factor=3.0, busy_share=0.5)
    monthly = 730 * 3_600 * 10.0  # ten a second, thirty at the peak
    assert cost_per_million(monthly, 61, prices, True, False) == pytest.approx(730 / monthly * 1e6)
    assert cost_per_million(monthly, 59, prices, True, False) == pytest.approx(2 * 730 / monthly * 1e6)


def test_a_provider_costs_more_an_hour_and_fewer_people() -> None:
    prices = Prices(managed_factor=2.0, own_upkeep_hours=10.0, managed_upkeep_hours=1.0, engineer_hour=100.0)
    own, managed = (cost_per_million(1e6, 1e3, prices, True, one, upkeep=False) for one in (False, True))
    assert managed == pytest.approx(2 * own)
    own, managed = (cost_per_million(1e6, 1e3, prices, True, one) for one in (False, True))
    assert own - managed == pytest.approx(900 - 730 * prices.machine_hour)


def test_at_the_break_even_both_cost_the_same() -> None:
    prices = Prices()
    monthly = break_even(prices)
    bought = prices.bought_prediction * 1e6
    assert cost_per_million(monthly, 1e6, prices, always_on=True, managed=True) == pytest.approx(bought)
    assert cost_per_million(2 * monthly, 1e6, prices, always_on=True, managed=True) < bought


def test_every_price_says_where_it_comes_from() -> None:
    assert set(SOURCES) == {field.name for field in dataclasses.fields(Prices)}
    assert len(price_list(Prices())) == len(SOURCES)
