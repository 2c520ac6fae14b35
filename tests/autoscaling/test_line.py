"""The line end to end: a split that never overlaps, every cadence, and a test period that changes nothing before it."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.autoscaling import Environment, Reactive, run_line, simulate, split, tune_reactive
from support.autoscaling.catalog import TARGETS
from support.autoscaling.line import LINE_POLICIES
from support.errors import BookError, SchemaError, TooShortError
from support.forecasting import roll_calibrated
from support.telemetry import synthetic

NAMES = ["forecast mean +20 %", *LINE_POLICIES]


def demand_of(days, step, seed=1):
    return synthetic("web", seed=seed, days=days, step_seconds=step).demand()


@settings(deadline=None, max_examples=60)
@given(
    n=st.integers(240, 3000), step=st.sampled_from([10, 60, 300, 3600]), train=st.floats(0.01, 60), test=st.floats(0.01, 60),
    at=st.none() | st.floats(0, 1),
)  # fmt: skip
def test_split_never_overlaps(n, step, train, test, at):
    index = pd.date_range("2026-01-01", periods=n, freq=f"{step}s", tz="UTC")
    demand = pd.Series(np.arange(float(n)), index=index)
    start = "" if at is None else index[int(at * (n - 1))].isoformat()
    try:
        past, unseen, notes = split(demand, train_days=train, test_days=test, test_start=start)
    except BookError:
        return
    assert len(past) and len(unseen) >= 24
    assert unseen.index[0] - past.index[-1] == pd.Timedelta(seconds=step)
    assert past.index.intersection(unseen.index).empty
    pd.testing.assert_series_equal(
        pd.concat([past, unseen]), demand[past.index[0] : unseen.index[-1]], check_freq=False
    )
    assert len(unseen) <= round(test * 86_400 / step) and len(past) <= max(round(train * 86_400 / step), n)
    if start:
        assert unseen.index[0].isoformat() == start
    else:
        assert unseen.index[-1] == index[-1]
    wanted, asked = round(train * 86_400 / step), round(test * 86_400 / step)
    if start:
        assert bool(notes) == (len(past) < wanted or len(unseen) < asked)
    elif notes:
        assert "days of data" in notes[0] and len(unseen) <= n // 3


def test_split_refusals():
    demand = demand_of(3, 300)
    for changed in (
        {"train_days": 0.0},
        {"test_days": -1.0},
        {"test_start": "soon"},
        {"test_start": "1999-01-01"},
        {"test_start": "2030-01-01"},
    ):
        with pytest.raises(SchemaError):
            split(demand, **{"train_days": 2.0, "test_days": 1.0} | changed)
    with pytest.raises(TooShortError, match="at least 240"):
        split(demand.iloc[:239], train_days=1, test_days=1)
    with pytest.raises(TooShortError, match="at least 24"):
        split(demand, train_days=2, test_days=0.05)
    with pytest.raises(TooShortError, match="train_days: 0.01 days are 3 ticks"):
        split(demand, train_days=0.01, test_days=1)
    with pytest.raises(SchemaError, match="between 10 s and 1 h"):
        split(demand_of(1, 5), train_days=0.5, test_days=0.2)


@pytest.mark.parametrize(
    ("step", "days", "train", "test"), [(10, 1, 0.6, 0.2), (60, 8, 6, 1), (300, 16, 12, 3), (3600, 40, 30, 8)]
)
def test_every_cadence(step, days, train, test):
    demand = demand_of(days, step)
    line = run_line(demand, train_days=train, test_days=test, n_draws=100, rng=np.random.default_rng(1))
    assert line.environment.tick_seconds == step and len(line.test) == round(test * 86_400 / step)
    assert list(line.table.index) == NAMES == list(line.runs) and np.isfinite(line.table.to_numpy()).all()
    for run in line.runs.values():
        ticks = run.ticks
        pd.testing.assert_index_equal(ticks.index, line.test.index)
        assert ticks["arrivals"].sum() == pytest.approx(
            ticks["served"].sum() + ticks["dropped"].sum() + ticks["queue"].iloc[-1]
        )
        assert ticks["cost_usd"].sum() == pytest.approx(run.cost_usd)
    assert line.outlook.issued_at == demand.index[-1] and line.outlook.step_seconds == step
    assert line.decision.decided_at == demand.index[-1] + pd.Timedelta(seconds=step)
    assert line.decision.expected_cost_usd <= line.decision.expected_cost_of_nothing_usd + 1e-9
    assert line.table.loc["newsvendor", "cost_usd"] < line.table.loc["reactive 70 %", "cost_usd"] * 1.5


def test_the_test_period_changes_neither_the_world_nor_the_tuned_target():
    demand = demand_of(10, 300)
    shocked = demand.copy()
    shocked.iloc[-2 * 288 :] = np.random.default_rng(2).uniform(0, 1e6, 2 * 288)
    one, two = (
        run_line(d, train_days=7, test_days=2, n_draws=20, rng=np.random.default_rng(1)) for d in (demand, shocked)
    )
    pd.testing.assert_series_equal(one.train, two.train)
    assert one.environment == two.environment
    tuned = [[n for n in line.notes if "tuned on the past" in n] for line in (one, two)]
    assert tuned[0] == tuned[1] and len(tuned[0]) == 1
    totals = [line.runs["static"].ticks[["servers", "booting"]].sum(axis=1) for line in (one, two)]
    assert (totals[0] == totals[0].iloc[0]).all() and (totals[0] == totals[1]).all()
    np.testing.assert_array_equal(one.rolling.quantiles[0], two.rolling.quantiles[0])


def test_lag_reaches_forecast_and_policies():
    line = run_line(
        demand_of(8, 300), train_days=6, test_days=1, n_draws=20, rng=np.random.default_rng(1), metric_lag_ticks=2
    )
    assert line.environment.metric_lag_ticks == 2 == line.rolling.lag_ticks


def test_same_seed_same_line_and_a_known_fleet():
    demand = demand_of(8, 300)
    one, two = (
        run_line(demand, train_days=6, test_days=1, servers_now=7, n_draws=50, rng=np.random.default_rng(3))
        for _ in range(2)
    )
    assert one.decision == two.decision and one.decision.servers_now == 7
    pd.testing.assert_frame_equal(one.table, two.table)
    assert not any("present fleet is not known" in note for note in one.notes)


def test_tuning_by_brute_force():
    train = demand_of(4, 300)
    world = Environment.for_demand(train)
    costs = {target: simulate(train.iloc[-2 * 288 :], Reactive(target), world).cost_usd for target in TARGETS}
    assert tune_reactive(train, world, days=2.0) == min(costs, key=costs.get)


@pytest.mark.parametrize("days", [0.2, 2.0])
def test_the_outlook_is_what_the_judged_forecaster_says_next(days):
    demand = demand_of(9, 300)
    begin, end = (demand.index[-1 - round(k * 288)] for k in (2 + days, 2))
    past = demand[demand.index <= end]
    line = run_line(
        past, train_days=5, test_days=days, n_draws=400, rng=np.random.default_rng(4), policies=("newsvendor",)
    )
    start = line.test.index[0]
    assert start > begin
    ahead = line.outlook.quantiles.shape[1]
    told = roll_calibrated(  # with the next tick as it truly came, which no forecast of it may have seen
        demand[line.train.index[0] : end + pd.Timedelta("5min")], start, train_days=5, horizon_ticks=ahead
    )
    for position, level in enumerate(line.outlook.levels):
        if level in told.levels:
            np.testing.assert_allclose(line.outlook.quantiles[0, :, position], told.at(level)[-1], rtol=1e-6)
    assert (line.outlook.paths >= 0).all() and set(line.runs) == {"newsvendor", "forecast mean +20 %"}
    np.testing.assert_allclose(
        np.quantile(line.outlook.paths[0], 0.5, axis=0), line.outlook.quantile(0.5)[0], rtol=0.03
    )


def test_paths_move_together_as_the_errors_did():
    """Demand whose error lasts: every path stays on its side; demand with fresh noise: the steps know nothing of each other."""
    rng = np.random.default_rng(5)
    index = pd.date_range("2026-01-05", periods=3000, freq="300s", tz="UTC")
    lasting, fresh = np.zeros(3000), 40 * rng.standard_normal(3000)
    for k in range(1, 3000):
        lasting[k] = 0.98 * lasting[k - 1] + 8 * rng.standard_normal()
    together = {}
    for name, noise in (("lasting", lasting), ("fresh", fresh)):
        demand = pd.Series(400 + noise, index=index, name="requests").clip(lower=0)
        line = run_line(demand, train_days=6, test_days=3, n_draws=2000, rng=rng, policies=("newsvendor",))
        together[name] = np.corrcoef(line.outlook.paths[0].T)[1, 4]
    assert together["lasting"] > 0.5 and abs(together["fresh"]) < 0.2


def test_a_forecast_without_spread_still_has_paths():
    """Nearly always nothing comes, so that most forecasts are a point and their errors have no scale."""
    rng = np.random.default_rng(6)
    index = pd.date_range("2026-01-05", periods=700, freq="300s", tz="UTC")
    demand = pd.Series((rng.random(700) < 0.02) * 30.0, index=index, name="requests")
    with np.errstate(over="raise", invalid="raise"):
        line = run_line(demand, train_days=1.6, test_days=0.8, n_draws=50, rng=rng, policies=("newsvendor",))
    assert np.isfinite(line.outlook.paths).all() and line.decision.servers >= 1


def test_days_without_end_are_refused():
    with pytest.raises(SchemaError, match="positive and finite"):
        split(demand_of(3, 300), train_days=1, test_days=float("inf"))


def test_zeros_are_refused():
    with pytest.raises(SchemaError, match="zero throughout"):
        run_line(0 * demand_of(3, 300), train_days=2, test_days=1, rng=np.random.default_rng(1))
