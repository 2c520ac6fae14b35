"""The least surplus that keeps the SLO: against closed forms of monotone fronts, and where no setting keeps it."""

import math

import pytest

from benchmarks.autoscaling_slo import HALVINGS, SLO_PERCENT, families, least_surplus
from support.autoscaling import Environment


def front_of(threshold, calls):
    """Settings below the threshold keep the promise; surplus falls as the knob rises."""

    def measure(knob):
        calls.append(knob)
        slo = 99.95 if knob <= threshold else 99.0
        return {"knob": knob, "minute_slo_percent": slo, "over_percent": 1000.0 / knob}

    return measure


@pytest.mark.parametrize("threshold", [10.0, 12.0, 17.3, 19.99, 35.0])
def test_the_gap_of_the_grid_is_halved(threshold):
    calls = []
    grid = (10, 20, 30, 40)
    front, best = least_surplus(front_of(threshold, calls), grid, lambda a, b: (a + b) / 2)
    below = max(k for k in grid if k <= threshold)
    step = 10 / 2**HALVINGS
    assert best["knob"] == pytest.approx(below + step * math.floor((threshold - below) / step))
    assert len(front) == len(calls) == len(grid) + HALVINGS


def test_where_all_or_none_keep_it_nothing_is_halved():
    for threshold, knob in ((5.0, None), (100.0, 40)):
        calls = []
        _, best = least_surplus(front_of(threshold, calls), (10, 20, 30, 40), lambda a, b: (a + b) / 2)
        assert calls == [10, 20, 30, 40]
        assert best is None if knob is None else best["knob"] == knob


def test_whole_knobs_end_when_nothing_lies_between():
    calls = []
    _, best = least_surplus(front_of(11.2, calls), (10, 12), lambda a, b: round((a + b) / 2))
    assert calls == [10, 12, 11] and best["knob"] == 11


def test_a_setting_that_keeps_it_with_more_surplus_is_not_taken():
    table = {1: (99.95, 50.0), 2: (99.0, 10.0), 1.5: (99.95, 60.0)}
    measure = lambda k: {"knob": k, "minute_slo_percent": table[k][0], "over_percent": table[k][1]}  # noqa: E731
    _, best = least_surplus(measure, (1, 2), lambda a, b: (a + b) / 2)
    assert best["knob"] == 1


@pytest.mark.parametrize("name", list(families(Environment(tick_seconds=60, service_rate_rps=1))))
def test_half_way_lies_between_and_makes_a_policy(name):
    world = Environment(tick_seconds=60, service_rate_rps=1)
    family = families(world)[name]
    for low, high in zip(family.grid, family.grid[1:], strict=False):
        assert low < family.middle(low, high) < high
    policy, reckoned = family.make(family.middle(family.grid[0], family.grid[1]))
    assert policy.name and reckoned.tick_seconds == world.tick_seconds
    assert SLO_PERCENT == 99.9
