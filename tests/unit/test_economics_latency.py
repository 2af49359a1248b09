"""What slow answers cost: the queue keeps to the arithmetic of queues, and a bad number is refused."""

from __future__ import annotations

import numpy as np
import pytest

from lifecycle.economics.latency import answered_in_time, squeeze_arrivals
from lifecycle.errors import LifecycleError


@pytest.fixture(scope="module")
def day():
    """A day of payments that come at random, evenly over the hours."""
    return np.sort(np.random.default_rng(0).uniform(0, 86_400, 40_000))


def test_the_busiest_hour_is_as_busy_as_asked(day):
    service, busy = 0.002, 0.4
    squeezed = squeeze_arrivals(day, service, busy)
    factor = squeezed[-1] / (day[-1] - day[0])
    busiest = np.bincount(((day - day[0]) // 3_600).astype(int)).max()
    assert busiest * service / (3_600 * factor) == pytest.approx(busy)


def test_a_machine_with_room_to_spare_is_never_late(day):
    squeezed = squeeze_arrivals(day, 0.001, 0.5)
    assert answered_in_time(squeezed, 0.001, 0.1).all()


@pytest.mark.parametrize("times", [4, 20])
def test_an_overloaded_machine_answers_what_its_hours_hold(day, times):
    squeezed = squeeze_arrivals(day, 0.001, 0.5)
    slow = 0.001 * times
    answered = answered_in_time(squeezed, slow, 0.1)
    assert answered.sum() * slow <= squeezed[-1] + 0.1
    assert answered.sum() * slow == pytest.approx(squeezed[-1], rel=0.02)


def test_a_model_slower_than_the_time_out_answers_nothing(day):
    assert not answered_in_time(day, 0.2, 0.1).any()


def test_no_payments_are_no_queue():
    assert answered_in_time([], 1.0, 2.0).tolist() == []
    with pytest.raises(LifecycleError, match="0 payments"):
        squeeze_arrivals([], 1.0, 0.5)


@pytest.mark.parametrize("service, busy", [(0.0, 0.5), (-1.0, 0.5), (float("nan"), 0.5), (1.0, 0.0), (1.0, 1.0)])
def test_a_number_out_of_range_is_one_sentence(day, service, busy):
    with pytest.raises(LifecycleError, match="a queue needs payments"):
        squeeze_arrivals(day, service, busy)
