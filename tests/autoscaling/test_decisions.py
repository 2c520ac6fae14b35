"""Decisions: the expected cost is the simulator's mean over the paths, and the choice is its brute-force minimum."""

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.autoscaling import Environment, decide, expected_costs, simulate
from support.errors import SchemaError
from support.forecasting import Forecast

AT = pd.Timestamp("2026-01-01", tz="UTC")


@dataclass(frozen=True)
class Total:
    """Asks for one total at every tick."""

    total: int
    name: str = "total"

    def prepare(self, environment, forecast):
        return None

    def act(self, state, seen):
        return None, self.total, "fixed"


def forecast_of(paths, step=60):
    return Forecast.from_paths(
        np.asarray(paths, dtype=float)[None], issued_at=AT, step_seconds=step, unit="requests", model="m"
    )


@st.composite
def cases(draw):
    delay = draw(st.integers(0, 4))
    world = Environment(
        tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=delay, min_servers=draw(st.integers(0, 2)), max_servers=draw(st.integers(4, 9)),
        price_drop_usd=draw(st.floats(0, 0.01)), price_start_usd=draw(st.floats(0, 0.1)), price_stop_usd=draw(st.floats(0, 0.1)),
    )  # fmt: skip
    paths = np.random.default_rng(draw(st.integers(0, 10**6))).gamma(2, 100, (6, draw(st.integers(delay + 2, 9))))
    return world, paths, draw(st.integers(world.min_servers, world.max_servers))


def simulated(world, paths, now, total):
    index = pd.date_range(AT + pd.Timedelta("60s"), periods=paths.shape[1], freq="60s")
    runs = [simulate(pd.Series(p, index=index), Total(total), world, initial_servers=now) for p in paths]
    return np.mean([r.cost_usd for r in runs]), np.mean([(r.ticks["dropped"] > 1e-9).any() for r in runs])


@settings(deadline=None, max_examples=40)
@given(cases())
def test_expected_cost_is_the_mean_over_simulated_paths(case):
    world, paths, now = case
    candidates = np.arange(world.min_servers, world.max_servers + 1)
    table = expected_costs(forecast_of(paths), world, now, candidates)
    assert table.index.tolist() == candidates.tolist()
    for total in candidates:
        cost, risk = simulated(world, paths, now, int(total))
        assert table.loc[total, "cost_usd"] == pytest.approx(cost, rel=1e-9)
        assert table.loc[total, "risk_frac"] == pytest.approx(risk)


@settings(deadline=None, max_examples=40)
@given(cases())
def test_the_choice_is_the_minimum(case):
    world, paths, now = case
    decision = decide(forecast_of(paths), world, now)
    costs = {total: simulated(world, paths, now, total)[0] for total in range(world.min_servers, world.max_servers + 1)}
    assert world.min_servers <= decision.servers <= world.max_servers
    assert decision.expected_cost_usd == pytest.approx(costs[decision.servers], rel=1e-9)
    assert decision.expected_cost_usd == pytest.approx(min(costs.values()), rel=1e-9)
    assert decision.expected_cost_of_nothing_usd == pytest.approx(costs[now], rel=1e-9)
    assert decision.servers_now == now and decision.horizon_seconds == 60 * paths.shape[1]
    assert decision.decided_at == AT + pd.Timedelta("60s")
    delay = world.boot_delay_ticks if decision.servers > now else 0
    assert decision.effective_by == decision.decided_at + delay * pd.Timedelta("60s")


WORLD = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=1, price_drop_usd=0.01)


def test_a_price_of_bad_ticks_counts_each_tick_with_a_drop_once():
    paths = np.array([[0.0, 90.0, 200.0], [0.0, 90.0, 50.0]])  # one server completes 60
    plain = expected_costs(forecast_of(paths), WORLD, 1, np.array([1, 2, 4]))
    priced = expected_costs(forecast_of(paths), WORLD, 1, np.array([1, 2, 4]), price_bad_tick_usd=3.0)
    np.testing.assert_allclose(priced.cost_usd - plain.cost_usd, [3.0 * 1.5, 3.0 * 0.5, 0.0])
    assert decide(forecast_of(paths), WORLD, 1, price_bad_tick_usd=3.0).servers == 4


def test_bounds():
    flood, nothing = forecast_of(np.full((5, 30), 6000.0)), forecast_of(np.zeros((5, 30)))
    assert decide(flood, replace(WORLD, max_servers=7), 3).servers == 7
    assert decide(nothing, replace(WORLD, min_servers=2), 9).servers == 2
    assert decide(flood, WORLD, 3).servers == 100


def test_a_fleet_outside_its_bounds_is_brought_inside():
    decision = decide(forecast_of(np.full((5, 30), 60.0)), replace(WORLD, min_servers=2, max_servers=5), 9)
    assert 2 <= decision.servers <= 5 and decision.servers_now == 9


def test_free_requests_need_no_servers():
    assert (
        decide(forecast_of(np.full((5, 30), 600.0)), replace(WORLD, price_drop_usd=0.0), 4).servers == WORLD.min_servers
    )


def test_refusals():
    with pytest.raises(SchemaError, match="^decide: "):
        decide(forecast_of(np.ones((5, 30)), step=300), WORLD, 1)
    with pytest.raises(SchemaError, match="^decide: "):
        decide(forecast_of(np.ones((5, 1))), WORLD, 1)
    with pytest.raises(SchemaError, match="price_bad_tick_usd is -1"):
        decide(forecast_of(np.ones((5, 30))), WORLD, 1, price_bad_tick_usd=-1.0)


def test_the_quota_holds_and_a_runaway_path_costs_no_memory():
    at = pd.Timestamp("2026-01-01", tz="UTC")
    flat = Forecast.from_paths(np.full((1, 10, 30), 6e9), issued_at=at, step_seconds=60, unit="requests", model="flat")
    world = Environment(tick_seconds=60, service_rate_rps=1.0, price_drop_usd=0.01, boot_delay_ticks=1, quota_servers=4)
    assert decide(flat, world, 3).servers == 4
