"""Predictive rules by hand, against naive loops, and what the lead of the boot time is worth."""

import numpy as np
import pandas as pd
import pytest

from support.autoscaling import Environment, Observation, simulate
from support.autoscaling.predictive import Hybrid, PredictiveThresholds
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

LEVELS = np.array([0.005, 0.025, 0.5, 0.975, 0.995])
WORLD = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=3, max_servers=60)


def index(n_time):
    return pd.date_range("2026-01-01", periods=n_time, freq="60s", tz="UTC")


def known(level, spread=(0.8, 0.9, 1.0, 1.1, 1.2), horizon=4, name="known"):
    """A forecast that knows the level of each tick, with quantiles at fixed ratios of it."""
    level = np.asarray(level, dtype=float)
    padded = np.r_[level, np.full(horizon, level[-1])]
    mean = np.array([padded[h : h + len(level)] for h in range(horizon)]).T
    return RollingQuantiles(index(len(level)), LEVELS, mean[:, :, None] * np.array(spread), mean, name, 0)


def seen(tick, active, booting=(), arrivals=0.0, used=0.5):
    past = np.full(tick, 0.0)
    if tick:
        past[-1] = arrivals
    return Observation(
        tick, tick, active, sum(n for _, n in booting), 0, past, past, 0 * past, 0 * past, np.full(tick, used),
        np.full(tick, active), tuple(booting),
    )  # fmt: skip


def test_predictive_by_hand():
    rolling = known([60 * 7.0, 60 * 7.0, 60 * 9.0, 60 * 2.0, 60 * 2.0, 60 * 2.0, 60 * 2.0])
    shipped, mended = PredictiveThresholds(), PredictiveThresholds(lead_ticks=None)
    now, ahead = shipped.prepare(WORLD, rolling), mended.prepare(WORLD, rolling)
    for tick, active, booting, by_now, by_lead in [
        (0, 10, (), 10, 11),  # 7 of 10 are no more than 70 %; in two ticks 9 of 10 are
        (0, 10, ((1, 2),), 12, 13),  # with the two that boot 9 of 12 are still above 70 %
        (0, 10, ((1, 3),), 13, 13),  # 9 of 13 are below
        (1, 8, ((2, 3),), 12, 12),  # shipped: those that boot do not serve now, so 7 of 8
        (1, 8, ((3, 3),), 11, 12),  # shipped: those three serve at this tick: 7 of 11
        (3, 10, (), 9, 9), (3, 5, (), 5, 5), (3, 0, (), 1, 1),
    ]:  # fmt: skip
        assert shipped.act(now, seen(tick, active, booting))[1] == by_now, (tick, active, booting)
        assert mended.act(ahead, seen(tick, active, booting))[1] == by_lead, (tick, active, booting)


def test_the_lead_of_the_boot_time_has_servers_there_when_demand_steps_up():
    level = np.r_[np.full(50, 300.0), np.full(50, 420.0)]
    series = pd.Series(level, index=index(100), name="requests")
    runs = {
        lead: simulate(
            series, PredictiveThresholds(lead_ticks=lead), WORLD, forecast=known(level), initial_servers=8
        ).ticks
        for lead in (0, 1, 3, None)
    }
    for lead, ticks in runs.items():
        first = int(np.argmax(ticks["started"] > 0))
        assert first == 50 - (3 if lead is None else lead)
        needed = np.argmax(ticks["servers"] >= 10)  # 7 servers' work is no more than 70 % of 10
        assert needed == first + 4  # the second order comes a tick later
    assert (runs[3]["started"] == runs[None]["started"]).all()


@pytest.mark.parametrize("lead", [0, 2, None])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whole_runs_against_a_loop(seed, lead):
    rng = np.random.default_rng(seed)
    level = 900 * (1.2 + np.sin(np.arange(300) / 30)) * rng.choice([1.0, 1.0, 1.5], 30).repeat(10)
    series = pd.Series(rng.poisson(level).astype(float), index=index(300), name="requests")
    world = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=3, max_servers=60, cooldown_ticks=1)
    mean_rule, hybrid = (
        PredictiveThresholds(lead_ticks=lead),
        Hybrid(lead_ticks=lead, hold_ticks=6, anomaly_level=0.975),
    )
    reach = 3 if lead is None else lead
    for policy in (mean_rule, hybrid):
        ticks = simulate(series, policy, world, forecast=known(level), initial_servers=20).ticks
        orders, active, quiet, blocked, kinds = [], 20, 0, 0, set()
        for t in range(300):
            total = active + sum(n for _, n in orders)
            ready = active + sum(n for placed, n in orders if placed + 3 <= t + reach)
            ahead = [level[min(t + h, 299)] / 60 for h in range(reach + 1)]
            up = down = max(ahead)
            desired, kind = total, "hold"
            if policy is hybrid:
                up, down = 1.1 * up, 0.9 * down
            if policy is hybrid and t and ticks["utilization"].iloc[t - 1] > 0.9:
                desired, kind, quiet = total + 2, "emergency", t + 6
            elif policy is hybrid and t and series.iloc[t - 1] > 1.1 * level[t - 1]:
                desired, kind, quiet = total + 2, "anomaly", t + 6
            elif up > policy.high * ready:
                desired, kind = total + 1, "out"
            elif down < policy.low * ready:
                desired, kind = (total, "held") if t < quiet else (total - 1, "in")
            change = 0 if blocked else min(max(desired, 1), 60) - total
            assert ticks["started"].iloc[t] == max(change, 0) and ticks["stopped"].iloc[t] == max(-change, 0), (kind, t)
            kinds.add(kind)
            blocked = 1 if change else max(blocked - 1, 0)
            if change > 0:
                orders.append((t, change))
            for _ in range(max(-change, 0)):  # the youngest first
                if orders:
                    placed, n = orders.pop()
                    orders += [(placed, n - 1)] if n > 1 else []
                else:
                    active -= 1
            active += sum(n for placed, n in orders if placed + 3 <= t)
            orders = [(placed, n) for placed, n in orders if placed + 3 > t]
        assert {"out", "in", "hold"} <= kinds and (policy is mean_rule or {"emergency", "anomaly"} <= kinds)


def test_hybrid_by_hand():
    rule = Hybrid(hold_ticks=5)
    state = rule.prepare(WORLD, known(np.full(40, 600.0), spread=(0.7, 0.8, 1.0, 1.2, 2.0)))
    for what, desired, word in [
        (seen(9, 15, arrivals=600), 16, "upper"),  # 12 servers' work of 15: 80 %
        (seen(9, 16, arrivals=600), 16, "agree"),  # 75 % is not above 75 %
        (seen(9, 20, arrivals=600), 20, "agree"), (seen(9, 21, arrivals=600), 20, "lower"),  # 8 of 20 are 40 %
        (seen(9, 15, arrivals=1200), 16, "upper"), (seen(9, 15, arrivals=1201), 17, "anomaly"),
        (seen(9, 40, arrivals=1201), 42, "anomaly"), (seen(9, 40, arrivals=600), 39, "lower"),
        (seen(9, 15, arrivals=1201, used=0.91), 17, "emergency"), (seen(9, 15, arrivals=600, used=0.9), 16, "upper"),
        (seen(0, 30), 29, "lower"), (seen(9, 10, ((1, 30),), arrivals=600), 39, "lower"),
    ]:  # fmt: skip
        _, got, reason = rule.act(state, what)
        assert got == desired and word in reason, (got, desired, reason)
    wide = rule.prepare(WORLD, known(np.full(40, 600.0), spread=(0.5, 0.6, 1.0, 1.5, 2.0)))
    assert rule.act(wide, seen(9, 19, arrivals=600))[1] == 20 and rule.act(wide, seen(9, 20, arrivals=600))[1] == 19
    alarmed, _, _ = rule.act(state, seen(9, 15, used=0.95))
    assert rule.act(alarmed, seen(13, 40, arrivals=600))[1] == 40  # held
    assert rule.act(alarmed, seen(14, 40, arrivals=600))[1] == 39


def test_levels_beyond_the_forecast_are_its_outermost():
    level = np.full(20, 600.0)
    narrow = RollingQuantiles(
        index(20), np.array([0.1, 0.9]), np.tile([540.0, 660.0], (20, 4, 1)), np.tile(level[:, None], 4), "narrow", 0
    )
    state = Hybrid().prepare(WORLD, narrow)
    assert state.upper[0] == 11 and state.lower[0] == 9 and state.usual[0] == 11


def test_what_they_refuse():
    rolling = known(np.full(9, 60.0), horizon=2)
    for policy, message in [
        (PredictiveThresholds(0.3, 0.3), "low"),
        (PredictiveThresholds(lead_ticks=-1), "lead_ticks"),
        (PredictiveThresholds(lead_ticks=None), "forecast of 4 ticks"),
        (PredictiveThresholds(lead_ticks=2), "forecast of 3 ticks"),
        (Hybrid(high=1.2), "high"),
        (Hybrid(lower_level=0.99), "lower_level"),
        (Hybrid(), "forecast of 4 ticks"),
    ]:
        with pytest.raises(SchemaError, match=message):
            policy.prepare(WORLD, rolling)
    PredictiveThresholds(lead_ticks=1).prepare(WORLD, rolling)
    with pytest.raises(SchemaError, match="forecast of 1 tick,"):
        PredictiveThresholds().prepare(WORLD, None)
