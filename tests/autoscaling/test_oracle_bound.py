"""The jump bound against the simulator: the fastest policy that sees a jump only after it came."""

import itertools

import numpy as np
import pandas as pd
import pytest

from support.autoscaling import Environment, Reactive, simulate
from support.autoscaling.oracle_bound import jump_bound, jumps_per_day, measured_bound
from support.errors import SchemaError

MANY_SIGMA = 4.0


def trace(values):
    return pd.Series(
        np.asarray(values, float), index=pd.date_range("2026-01-01", periods=len(values), freq="60s", tz="UTC")
    )


def world_of(**changes):
    return Environment(**({"tick_seconds": 60, "service_rate_rps": 1.0, "max_servers": 10_000} | changes))


@pytest.mark.parametrize(("delay", "lag"), [(0, 0), (1, 0), (5, 0), (0, 2), (4, 3)])
def test_one_jump_spoils_what_the_bound_says(delay, lag):
    world = world_of(boot_delay_ticks=delay, metric_lag_ticks=lag)
    bound = jump_bound(world, 1.0)
    lasting = trace(np.where(np.arange(100) < 50, 60.0, 180.0))
    assert (simulate(lasting, Reactive(1.0), world).ticks["dropped"] > 0).sum() == bound.bad_ticks == delay + lag + 1
    for ticks in (1, delay + lag + 1, delay + lag + 9):
        short = trace(np.where((np.arange(100) >= 50) & (np.arange(100) < 50 + ticks), 180.0, 60.0))
        bad = (simulate(short, Reactive(1.0), world).ticks["dropped"] > 0).sum()
        assert bad == jump_bound(world, 1.0, jump_ticks=ticks).bad_ticks


def test_random_jumps_spoil_the_expected_share():
    world = world_of(boot_delay_ticks=3)
    n, odds = 20_000, 0.01
    jumps = np.random.default_rng(3).random(n) < odds
    run = simulate(trace(60.0 * (1 + 2 * np.cumsum(jumps))), Reactive(1.0), world)
    bound = jump_bound(world, odds * 1440)
    bad = (run.ticks["dropped"] > 0).to_numpy()
    reach = np.convolve(jumps, np.ones(bound.bad_ticks))[:n] > 0
    reach[: bound.bad_ticks] = bad[: bound.bad_ticks]  # the first servers are given
    assert np.array_equal(bad, reach)
    share = bound.best_slo_frac
    sigma = np.sqrt(share * (1 - share) * (2 * bound.bad_ticks - 1) / n)  # neighbours within bad_ticks are dependent
    assert abs((1 - bad.mean()) - share) <= MANY_SIGMA * sigma
    runs = sum(high for high, _ in itertools.groupby(jumps))
    high = pd.Series(60.0 + 60 * jumps, index=run.ticks.index)
    assert jumps_per_day(high, np.full(n, 60.0), world) == pytest.approx(runs / n * 1440)


def test_the_most_jumps_just_reach_the_target():
    world = world_of(boot_delay_ticks=5, slo_target_frac=0.999)
    most = jump_bound(world, 0.0).most_per_day
    assert most == pytest.approx(0.24, rel=0.01)  # r (d + 1) / 1440 <= 0.001
    assert jump_bound(world, most * 0.999).reachable and not jump_bound(world, most * 1.001).reachable
    assert jump_bound(world, most).best_slo_frac == pytest.approx(0.999)
    shares = [jump_bound(world_of(boot_delay_ticks=d), 3.0).best_slo_frac for d in range(10)]
    assert shares == sorted(shares, reverse=True)


def test_the_sentence_says_the_numbers():
    world = world_of(boot_delay_ticks=5)
    assert str(jump_bound(world, 2.0)) == (
        "2.00 unforecastable jumps a day spoil 6 ticks each, so at most 99.170 % of ticks can be good; 99.900 % is out of "
        "reach without spare servers for who foresees no more (it bears 0.24 such jumps a day)."
    )
    assert "in reach (" in str(jump_bound(world, 0.1))
    assert str(jump_bound(world, 0.0)).startswith("No unforecastable jump")


def test_bad_input_is_refused():
    with pytest.raises(SchemaError, match="jumps_per_day"):
        jump_bound(world_of(), -1.0)
    with pytest.raises(SchemaError, match="jumps_per_day"):
        jump_bound(world_of(), 2000.0)
    with pytest.raises(SchemaError, match="jump_ticks"):
        jump_bound(world_of(), 1.0, jump_ticks=0)
    with pytest.raises(SchemaError, match="prepared"):
        jumps_per_day(trace([1, 2]), np.zeros(3), world_of())


def test_the_measured_bound_takes_jumps_as_long_as_they_are():
    """Three excesses of 2, 5 and 5 ticks, mean 4: four ticks each are spoilt, or all d + 1 + lag where that is fewer."""
    index = pd.date_range("2026-01-01", periods=2880, freq="60s", tz="UTC")
    demand = pd.Series(60.0, index=index)
    for at, length in ((100, 2), (700, 5), (2000, 5)):
        demand.iloc[at : at + length] = 200.0
    prepared = np.full(len(index), 120.0)
    for delay, bad in ((1, 2), (5, 4)):
        world = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=delay)
        bound = measured_bound(demand, prepared, world)
        assert bound == jump_bound(world, 1.5, jump_ticks=4) and bound.bad_ticks == bad
    assert measured_bound(demand, prepared * 2, world).jumps_per_day == 0
    with pytest.raises(SchemaError, match="2880 ticks of demand, 5 prepared"):
        measured_bound(demand, prepared[:5], world)
