"""Unit cost against numpy's least squares, the block bootstrap against simulated truth, and thin denominators."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.errors import SchemaError, TooShortError
from support.risk.unit_economics import daily_cost_and_requests, unit_cost, unit_cost_table
from support.telemetry import Telemetry, load


def days(values):
    return pd.Series(values, pd.date_range("2026-01-01", periods=len(values), freq="D", tz="UTC"), dtype=float)


def simulated(rng, n=70, fixed=20.0, marginal=0.5, slope=0.0):
    weekly = 1 + 0.4 * np.sin(2 * np.pi * np.arange(n) / 7)
    served = 1e5 * weekly * np.exp(rng.normal(0, 0.15, n))
    cost = fixed + (marginal + slope * np.arange(n) / 30) * served / 1000 + rng.normal(0, 1.0, n)
    return days(cost), days(served)


def test_estimates_are_those_of_numpy():
    cost, served = simulated(np.random.default_rng(1))
    table = unit_cost_table(cost, served, rng=np.random.default_rng(2), n_resamples=99)
    slope, intercept = np.polyfit(served, cost, 1)
    trend = np.polyfit(np.arange(len(cost)), 1000 * cost / served, 1)[0]
    wanted = [1000 * cost.sum() / served.sum(), 1000 * slope, intercept, 30 * trend]
    np.testing.assert_allclose(table["estimate"], wanted, rtol=1e-8)
    assert (table["low"] <= table["estimate"]).all() and (table["estimate"] <= table["high"]).all()


def test_the_interval_holds_the_truth_about_as_often_as_it_says():
    """90 % intervals from ten weeks, 120 runs: a percentile bootstrap of few blocks is a little narrow, not absurd."""
    rng, held = np.random.default_rng(3), 0
    for _ in range(120):
        table = unit_cost_table(*simulated(rng), rng=rng, n_resamples=99)
        held += table.loc["marginal", "low"] <= 0.5 <= table.loc["marginal", "high"]
    assert 0.70 <= held / 120 <= 0.98


def test_a_trend_is_found_and_none_is_not_invented():
    rng = np.random.default_rng(4)
    rising = unit_cost_table(*simulated(rng, slope=0.2), rng=rng).loc["trend"]
    assert rising["low"] > 0 and rising["low"] < 0.2 < rising["high"] * 1.5
    flat = days(np.full(35, 7.0)), days(np.full(35, 1000.0))
    table = unit_cost_table(*flat, rng=rng, n_resamples=49)
    assert table.loc["trend", ["low", "estimate", "high"]].tolist() == [0.0, 0.0, 0.0]
    assert table.loc["marginal"].isna().all() and table.loc["average", "estimate"] == 7.0


@given(st.lists(st.tuples(st.floats(0, 100), st.floats(0, 1e6)), min_size=1, max_size=20))
def test_no_day_is_divided_by_next_to_nothing(rows):
    cost, served = (days([r[k] for r in rows]) for k in (0, 1))
    floor = max(0.01 * served.median(), 1.0)
    if (served < floor).all():
        with pytest.raises(SchemaError, match="no day has requests"):
            unit_cost(cost, served)
        return
    made = unit_cost(cost, served)
    assert made.isna().tolist() == (served < floor).tolist()
    assert made.dropna().to_numpy() == pytest.approx((1000 * cost / served)[served >= floor].to_numpy())


def test_days_of_an_estate_are_whole_and_of_those_that_serve():
    estate = load("synthetic:cloud", seed=2, days=4, n_resources=10)
    made = daily_cost_and_requests(estate)
    frame = estate.observations
    serving = [r for r in estate.resource_ids if frame.loc[r, "requests"].notna().any()]
    assert 0 < len(serving) < 10
    part = frame.loc[serving]
    assert made["cost_usd"].sum() == pytest.approx(part["cost_usd"].sum())
    assert made["requests"].sum() == pytest.approx(part["requests"].sum()) and len(made) == 4
    last = frame.index.get_level_values("timestamp").max()
    short = frame[frame.index.get_level_values("timestamp") < last - pd.Timedelta(hours=3)]
    assert len(daily_cost_and_requests(replace(estate, observations=short))) == 3  # the last day is no whole day
    with pytest.raises(SchemaError, match="no cost_usd"):
        daily_cost_and_requests(load("synthetic", seed=1, days=2))


def test_refusals():
    cost, served = simulated(np.random.default_rng(5), n=27)
    with pytest.raises(TooShortError, match="needs 28"):
        unit_cost_table(cost, served, rng=np.random.default_rng(1))
    with pytest.raises(SchemaError, match="same days"):
        unit_cost(cost, served.iloc[1:])
    with pytest.raises(SchemaError, match="at least 0"):
        unit_cost(-cost, served)


def test_gaps_in_cost_or_requests_do_not_make_requests_cheaper_or_dearer():
    """0.01 USD a request in every interval: whatever is missing, 10 USD per 1000."""
    times = pd.date_range("2026-01-01", periods=72, freq="1h", tz="UTC")
    rng = np.random.default_rng(4)
    requests = rng.integers(50, 150, 144).astype(float)
    frame = pd.DataFrame(
        {"requests": requests, "cost_usd": requests / 100},
        index=pd.MultiIndex.from_product([["a", "b"], times], names=["resource_id", "timestamp"]),
    )
    frame.iloc[3:10, 0], frame.iloc[30:41, 1], frame.iloc[72 + 48 :, 1] = np.nan, np.nan, np.nan
    each = daily_cost_and_requests(Telemetry(frame, 3600.0))
    np.testing.assert_allclose(unit_cost(each["cost_usd"], each["requests"]), 10.0)
    there = frame.dropna()
    assert each["cost_usd"].sum() == pytest.approx(there["cost_usd"].sum()) and len(each) == 3
