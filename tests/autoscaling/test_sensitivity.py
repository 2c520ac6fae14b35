"""Grids and fronts against the readable simulator and naive loops; tuning sees the past only."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.autoscaling import Environment, Newsvendor, Reactive, Static, score, simulate
from support.autoscaling.sensitivity import (
    Family,
    Scene,
    cheapest,
    knob_families,
    least_over,
    pareto_front,
    reissue,
    run_scenes,
    sensitivity_grid,
)
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

N_TIME, N_AHEAD = 90, 7
WORLD = Environment(tick_seconds=60, service_rate_rps=1.0, price_drop_usd=0.002, boot_delay_ticks=2, max_servers=40)
FAMILIES = (
    Family("static", "servers", lambda n: Static(int(n)), (4.0, 9.0)),
    Family("reactive", "target", Reactive, (0.5, 0.7, 0.9)),
    Family("newsvendor", "fractile", Newsvendor, (0.5, 0.9)),
)


def demand_of(seed, start="2026-01-01"):
    rng = np.random.default_rng(seed)
    index = pd.date_range(start, periods=N_TIME, freq="60s", tz="UTC")
    return pd.Series(rng.poisson(300 + 150 * np.sin(np.arange(N_TIME) / 9)).astype(float), index=index, name="requests")


def forecast_of(demand, lag=0, n_ahead=N_AHEAD):
    """Any rows will do: these say the same of every tick."""
    levels = np.array([0.1, 0.5, 0.9])
    quantiles = np.broadcast_to(np.quantile(demand, levels), (len(demand), n_ahead, 3)).copy()
    quantiles += np.arange(len(demand))[:, None, None] + 0.25 * np.arange(n_ahead)[None, :, None]
    return RollingQuantiles(demand.index, levels, quantiles, quantiles[..., 1], "made up", lag)


def scenes_of(seed, start="2026-01-01"):
    demand = demand_of(seed, start)
    forecast = forecast_of(demand)
    return [
        Scene(WORLD, demand, forecast, {"boot": 2, "limit": 0}),
        Scene(replace(WORLD, boot_delay_ticks=5), demand, forecast, {"boot": 5, "limit": 0}),
        Scene(replace(WORLD, queue_limit=120.0), 1.2 * demand, forecast, {"boot": 2, "limit": 120}),
    ]


def test_one_compiled_run_is_as_many_plain_ones():
    scenes = scenes_of(1)
    got = run_scenes(scenes, FAMILIES, initial_servers=6)
    assert len(got) == len(scenes) * 7
    for (i, name, value), row in got.iterrows():
        policy = next(f for f in FAMILIES if f.name == name).make(value)
        plain = simulate(
            scenes[i].demand, policy, scenes[i].environment, forecast=scenes[i].forecast, initial_servers=6
        )
        want = score(plain)
        assert row["cost_usd"] == pytest.approx(plain.cost_usd, rel=1e-12)
        for name in ("minute_slo_percent", "dropped_percent", "churn_percent", "mean_servers"):
            assert row[name] == pytest.approx(want[name], rel=1e-9, abs=1e-9)


def test_the_knob_is_chosen_on_the_past_and_judged_on_the_unseen_days():
    past, unseen = scenes_of(2), scenes_of(3, "2026-01-02")
    grid = sensitivity_grid(past, unseen, FAMILIES)
    assert len(grid) == len(past) * len(FAMILIES)
    assert set(grid.columns) >= {"boot", "limit", "family", "knob", "cost_usd", "hindsight_usd"}
    for _, row in grid.iterrows():
        family = next(f for f in FAMILIES if f.name == row["family"])

        def cost(scene, value, family=family):
            return simulate(scene.demand, family.make(value), scene.environment, forecast=scene.forecast).cost_usd

        i = int(row["scene"])
        on_past = [cost(past[i], value) for value in family.values]
        assert row["knob"] == family.values[int(np.argmin(on_past))]
        on_unseen = {value: cost(unseen[i], value) for value in family.values}
        assert row["cost_usd"] == pytest.approx(on_unseen[row["knob"]])
        assert row["hindsight_usd"] == pytest.approx(min(on_unseen.values()))


def test_other_unseen_days_do_not_change_the_knob():
    past = scenes_of(4)
    knobs = [sensitivity_grid(past, scenes_of(seed, "2026-01-02"), FAMILIES)["knob"].tolist() for seed in (5, 6)]
    assert knobs[0] == knobs[1]


def test_scenes_that_do_not_match_are_refused():
    scenes = scenes_of(1)
    with pytest.raises(SchemaError, match="same order"):
        sensitivity_grid(scenes, scenes[::-1], FAMILIES)
    short = Scene(WORLD, scenes[0].demand.iloc[:50])
    with pytest.raises(SchemaError, match="one length"):
        run_scenes([scenes[0], short], FAMILIES[:2])
    with pytest.raises(SchemaError, match="Use reissue"):
        Scene(replace(WORLD, metric_lag_ticks=1), scenes[0].demand, scenes[0].forecast)
    with pytest.raises(SchemaError, match="rows"):
        Scene(WORLD, scenes[0].demand.iloc[1:], scenes[0].forecast)


@settings(max_examples=25, deadline=None)
@given(lag=st.integers(0, N_AHEAD - 1), start=st.integers(0, 40), bias=st.floats(-0.5, 1.0))
def test_a_reissued_forecast_is_the_older_row_for_the_same_tick(lag, start, bias):
    rolling = forecast_of(demand_of(7))
    wanted = rolling.timestamps[start + lag : start + lag + 30]
    got = reissue(rolling, wanted, lag_ticks=lag, bias_frac=bias)
    assert got.lag_ticks == lag and got.timestamps.equals(wanted) and got.mean.shape == (30, N_AHEAD - lag)
    for i in range(30):
        for h in range(N_AHEAD - lag):
            older = rolling.quantiles[start + i, h + lag]  # issued lag ticks earlier, for the same tick
            np.testing.assert_allclose(got.quantiles[i, h], (1 + bias) * older)


def test_reissue_refuses_what_it_does_not_have():
    rolling = forecast_of(demand_of(7))
    with pytest.raises(SchemaError, match="not within"):
        reissue(rolling, rolling.timestamps[:5], lag_ticks=1)
    with pytest.raises(SchemaError, match="not within"):
        reissue(rolling, rolling.timestamps[-5:] + pd.Timedelta(minutes=2))
    with pytest.raises(SchemaError, match="leaves nothing"):
        reissue(rolling, rolling.timestamps[20:], lag_ticks=N_AHEAD)


class Slow:
    """A policy without a compiled twin."""

    name = "slow"

    def __init__(self, target):
        self.inner = Reactive(target)

    def prepare(self, environment, forecast):
        return self.inner.prepare(environment, forecast)

    def act(self, state, seen):
        return self.inner.act(state, seen)


def test_a_front_has_the_scores_of_plain_runs_and_only_undominated_points():
    scene = scenes_of(8)[0]
    families = (*FAMILIES, Family("slow", "target", Slow, (0.6, 0.8)))
    front = pareto_front(scene, families, initial_servers=6)
    for (name, value), row in front.iterrows():
        policy = next(f for f in families if f.name == name).make(value)
        want = score(simulate(scene.demand, policy, scene.environment, forecast=scene.forecast, initial_servers=6))
        assert row["over_percent"] == pytest.approx(want["over_percent"])
        assert row["bad_percent"] == pytest.approx(100 - want["minute_slo_percent"])
        assert row["cost_usd"] == pytest.approx(want["cost_usd"])
    points = front[["over_percent", "bad_percent"]].to_numpy()
    for i, mine in enumerate(points):
        beaten = False
        for other in points:
            beaten |= other[0] <= mine[0] and other[1] <= mine[1] and (other[0] < mine[0] or other[1] < mine[1])
        assert front["on_front"].iloc[i] == (not beaten)
    assert front["on_front"].any()


def test_a_family_alone_in_the_batch_gets_its_own_scores():
    scene = scenes_of(8)[0]
    alone = pareto_front(scene, [Family("static", "servers", lambda n: Static(int(n)), (7.0,))])
    assert len(alone) == 1 and alone["on_front"].all()


def test_least_over_and_cheapest_by_hand():
    index = pd.MultiIndex.from_product([["a", "b"], [1.0, 2.0]], names=["family", "knob"])
    front = pd.DataFrame({"over_percent": [50.0, 20.0, 10.0, 30.0], "bad_percent": [0.0, 0.1, 0.3, 0.2]}, index=index)
    assert least_over(front, 0.1)["a"] == 20.0 and math.isnan(least_over(front, 0.1)["b"])
    assert least_over(front, 0.25).to_dict() == {"a": 20.0, "b": 30.0}
    rows = [(boot, price, name) for boot in (1, 3) for price in (5, 9) for name in ("a", "b", "c")]
    grid = pd.DataFrame(rows, columns=["boot", "price", "family"])
    grid["cost_usd"] = [10, 8, 9, 5, 7, 6, 4, 4, 9, 20, 12, 10.0]
    winner, saving = cheapest(grid, "boot", "price")
    assert winner.loc[1].tolist() == ["b", "a"] and winner.loc[3].tolist() == ["a", "c"]
    np.testing.assert_allclose(saving.to_numpy(), [[1 - 8 / 9, 1 - 5 / 6], [0.0, 1 - 10 / 12]])


def test_the_families_of_the_book_run_and_their_fixed_fleets_grow():
    demand = demand_of(9)
    families = knob_families(WORLD, demand)
    assert [f.name for f in families] == [
        "static", "thresholds", "reactive", "target tracking", "forecast mean", "newsvendor",
    ]  # fmt: skip
    forecast = forecast_of(demand)
    wide = np.concatenate([[0.005], forecast.levels, [0.995]])
    quantiles = np.concatenate([forecast.quantiles[..., :1], forecast.quantiles, forecast.quantiles[..., -1:]], axis=-1)
    rolling = RollingQuantiles(forecast.timestamps, wide, quantiles, forecast.mean, "made up", 0)
    table = run_scenes([Scene(WORLD, demand, rolling)], families)
    assert np.isfinite(table["cost_usd"]).all()
    fixed = table.reset_index().query("family == 'static'")
    assert (np.diff(fixed["mean_servers"]) > 0).all() and (np.diff(fixed["knob"]) > 0).all()
