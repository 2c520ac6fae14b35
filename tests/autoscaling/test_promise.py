"""The price of a promise: the search against a scan, the price against runs with it and below it, and the line that uses it."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.autoscaling import Environment, decide, run_line, score, simulate
from support.autoscaling.line import PROMISED
from support.autoscaling.mpc import StochasticMPC
from support.autoscaling.promise import EXPONENTS, asked_of_past, lowest_that_keeps, price_of_promise
from support.errors import SchemaError
from support.forecasting import roll_calibrated


@given(low=st.floats(-5, 5), width=st.floats(0.1, 20), at=st.floats(-0.2, 1.2))
def test_the_search_finds_the_lowest_knob_of_a_threshold(low, width, at):
    threshold, tried = low + at * width, []

    def keeps(x):
        tried.append(x)
        return x >= threshold

    knob, kept = lowest_that_keeps(keeps, low, low + width)
    assert kept == (threshold <= low + width) and len(tried) <= 9
    if not kept:
        assert knob == low + width
    else:
        assert knob >= threshold and (knob == low or knob - threshold <= width / 64 * (1 + 1e-9) + 1e-12)


def test_half_of_the_error_budget_is_left_over():
    assert asked_of_past(99.0) == pytest.approx(99.5) and asked_of_past(99.0, 0.0) == pytest.approx(99.0)
    for wrong in (0.0, 100.0, 101.0, float("nan")):
        with pytest.raises(SchemaError, match="between 0 and 100"):
            asked_of_past(wrong)


def noisy(days):
    """Five-minute demand with a daily cycle and fresh noise."""
    rng, n = np.random.default_rng(2), days * 288
    index = pd.date_range("2026-01-05", periods=n, freq="300s", tz="UTC")
    rate = 3000 * (1.3 + np.sin(2 * np.pi * np.arange(n) / 288)) * np.exp(0.15 * rng.standard_normal(n))
    return pd.Series(rng.poisson(rate).astype(float), index=index, name="requests")


def case():
    """Four days to learn from and a tuning day."""
    demand = noisy(5)
    past, tuning = demand.iloc[: 4 * 288], demand.iloc[4 * 288 :]
    world = replace(Environment.for_demand(past), slo_target_frac=0.98)
    return tuning, roll_calibrated(demand, tuning.index[0], train_days=4, horizon_ticks=6), world


def test_the_price_keeps_the_promise_on_the_past_and_a_grid_step_less_does_not():
    tuning, forecast, world = case()
    price, kept = price_of_promise(tuning, forecast, world, slo_percent=99.6)

    def good(exponent):
        policy = StochasticMPC(price_bad_tick_usd=10.0**exponent * world.price_server_tick_usd)
        return score(simulate(tuning, policy, world, forecast=forecast))["minute_slo_percent"]

    exponent = np.log10(price / world.price_server_tick_usd)
    assert kept and EXPONENTS[0] < exponent < EXPONENTS[1]
    assert good(exponent) >= asked_of_past(99.6) > good(exponent - (EXPONENTS[1] - EXPONENTS[0]) / 64)


def test_a_promise_that_the_bill_keeps_anyway_costs_nothing():
    tuning, forecast, world = case()
    assert price_of_promise(tuning, forecast, world, slo_percent=50.0) == (0.0, True)


def test_a_promise_that_nothing_keeps_is_said_to_be_one():
    tuning, forecast, world = case()
    price, kept = price_of_promise(tuning, forecast, replace(world, max_servers=3), slo_percent=98.0)
    assert not kept and price == pytest.approx(10.0 ** EXPONENTS[1] * world.price_server_tick_usd)


def test_the_line_with_a_promise_plans_and_decides_by_it():
    demand = noisy(12)
    asked = {"train_days": 9, "test_days": 3, "policies": ("stochastic MPC",), "n_draws": 300}
    line = run_line(demand, **asked, slo_percent=99.0, rng=np.random.default_rng(1))
    plain = run_line(demand, **asked, rng=np.random.default_rng(1))
    assert line.environment.slo_target_frac == pytest.approx(0.99) and PROMISED not in plain.runs
    share, cost = line.table["minute_slo_percent"], line.table["cost_usd"]
    assert share[PROMISED] > share["stochastic MPC"] and cost[PROMISED] > cost["stochastic MPC"]
    assert "a bad interval counted with" in line.decision.reason and line.decision.servers >= plain.decision.servers
    note = next(n for n in line.notes if "good ticks" in n)
    price = float(note.split("reckons with ")[1].split(" USD")[0].replace(",", ""))
    again = decide(line.outlook, line.environment, line.decision.servers_now, price_bad_tick_usd=price)
    assert again.servers == line.decision.servers
    with pytest.raises(SchemaError, match="slo_percent is 100"):
        run_line(demand, **asked, slo_percent=100.0, rng=np.random.default_rng(1))
