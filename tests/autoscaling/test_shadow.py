"""Shadow mode: replays are exact, the choice is causal, and regret to the best candidate is what replays say."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from support.autoscaling import Environment, Newsvendor, Reactive, Static, simulate
from support.autoscaling.rules import Plan
from support.autoscaling.shadow import ShadowLeader
from support.errors import SchemaError
from support.forecasting import roll_daily

TICK = 600.0
DAY = 144
WORLD = Environment(
    tick_seconds=TICK,
    service_rate_rps=1.0,
    price_drop_usd=1e-3,
    price_start_usd=0.01,
    boot_delay_ticks=2,
    max_servers=40,
)


def demand(levels: list[float], seed: int = 0) -> pd.Series:
    """Days at a mean level each, in servers' work, with noise."""
    rng = np.random.default_rng(seed)
    work = np.concatenate([rng.normal(level, 0.3, DAY).clip(0.1) for level in levels]) * WORLD.capacity_per_tick
    index = pd.date_range("2026-01-05", periods=len(work), freq="600s", tz="UTC")
    return pd.Series(work, index=index, name="requests")


def leaders(reasons: pd.Series) -> list[str]:
    """Who led on each day, by the reasons; one name a day, or the test ends."""
    said = reasons.str.split(" leads: ").str[0].to_numpy().reshape(-1, DAY)
    assert all(len(set(day)) == 1 for day in said)
    return [str(day[0]) for day in said]


def by_hand(work: pd.Series, candidates: tuple[Static, ...], memory: int) -> list[str]:
    """The rule written out: bills of whole days from the tick table of a run of that day alone."""
    bills = []
    for first in range(0, len(work), DAY):
        day = work.iloc[first : first + DAY]
        bills.append([simulate(day, policy, WORLD).ticks["cost_usd"].sum() for policy in candidates])
    chosen = [candidates[0].name]
    for day in range(1, len(bills)):
        sums = np.sum(bills[max(0, day - memory) : day], axis=0)
        chosen.append(candidates[int(np.argmin(sums))].name)
    return chosen


@pytest.mark.parametrize("memory", [1, 2, 3])
def test_the_cheapest_of_the_last_days_leads(memory: int) -> None:
    work = demand([4, 4, 12, 12, 4, 12, 4, 4])
    candidates = (Static(5, "small"), Static(14, "large"))
    run = simulate(work, ShadowLeader(candidates, memory), WORLD)
    found = leaders(run.ticks["reason"])
    assert found == by_hand(work, candidates, memory)
    assert set(found) == {"small", "large"}  # so that the comparison had something to tell apart


def test_a_trial_on_the_past_is_the_same_as_having_run_then() -> None:
    """A run that begins after a trial goes on as one that began days before: same leaders, by the bills written out."""
    work = demand([4, 12, 12, 4, 12, 4], seed=3)
    candidates = (Static(5, "small"), Static(14, "large"))
    past, test = work.iloc[: 2 * DAY], work.iloc[2 * DAY :]
    ready = ShadowLeader(candidates).after(past, WORLD, None)
    bills = [[simulate(day, p, WORLD).cost_usd for p in candidates] for day in (past.iloc[:DAY], past.iloc[DAY:])]
    np.testing.assert_allclose(ready.trial, bills, rtol=1e-12)
    assert leaders(simulate(test, ready, WORLD).ticks["reason"]) == by_hand(work, candidates, 2)[2:]


def test_a_trial_of_part_of_a_day_counts_and_days_are_whole_from_the_end() -> None:
    candidates = (Static(14, "large"), Static(5, "small"))
    short = demand([4]).iloc[:30]
    ready = ShadowLeader(candidates).after(short, WORLD, None)
    assert np.shape(ready.trial) == (1, 2) and ready.trial[0][1] < ready.trial[0][0]
    odd = demand([4, 4]).iloc[20:]  # a day and most of another: only the whole one is judged
    assert np.shape(ShadowLeader(candidates).after(odd, WORLD, None).trial) == (1, 2)


def test_the_leader_decides_as_it_would_alone() -> None:
    work = demand([4, 6, 5], seed=1)
    alone = Reactive(0.8, "alone")
    led = simulate(work, ShadowLeader((alone, Static(40, "dear"))), WORLD)
    assert set(leaders(led.ticks["reason"])) == {"alone"}
    pd.testing.assert_series_equal(led.ticks["servers"], simulate(work, alone, WORLD).ticks["servers"])


def test_a_forecast_that_fails_is_left_after_a_day_and_taken_up_again() -> None:
    work = demand([6] * 12, seed=2)
    rolled = roll_daily(work, work.index[6 * DAY], train_days=6, horizon_ticks=3)
    broken = rolled.quantiles.copy()
    broken[: 2 * DAY] /= 3  # for two days the forecast is a third of what comes
    wrong = type(rolled)(rolled.timestamps, rolled.levels, broken, rolled.mean, rolled.model, rolled.lag_ticks)
    test = work.iloc[6 * DAY :]
    policy = ShadowLeader((Newsvendor(), Reactive(0.5, "reactive")), memory_days=1)
    assert leaders(simulate(test, policy, WORLD, forecast=wrong).ticks["reason"]) == [
        "newsvendor", "reactive", "reactive", "newsvendor", "newsvendor", "newsvendor",
    ]  # fmt: skip


@pytest.mark.parametrize("lag", [0, 3])
def test_the_future_changes_nothing(lag: int) -> None:
    world = Environment(
        tick_seconds=TICK, service_rate_rps=1.0, price_drop_usd=1e-3, boot_delay_ticks=2, metric_lag_ticks=lag
    )
    work = demand([4, 12, 4, 12])
    cut = 2 * DAY + 50
    later = work.copy()
    later.iloc[cut:] *= 3
    policy = ShadowLeader((Static(5, "small"), Static(14, "large")), 1)
    one, two = (simulate(w, policy, world, initial_servers=5).ticks["reason"].iloc[: cut + 1] for w in (work, later))
    pd.testing.assert_series_equal(one, two)


def test_too_few_candidates_or_no_memory_is_refused() -> None:
    with pytest.raises(SchemaError, match="1 candidates and 2 days"):
        ShadowLeader((Static(1),))
    with pytest.raises(SchemaError, match="at least 2 and 1"):
        ShadowLeader((Static(1), Static(2)), 0)


def test_plans_that_count_ticks_cannot_be_replayed():
    with pytest.raises(SchemaError, match="mine counts ticks"):
        ShadowLeader((Plan(np.full(5, 2), name="mine"), Static(2)))
