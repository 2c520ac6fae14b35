"""The generator: what it was asked to make can be found again in what it made."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import SourceError
from support.telemetry import Traffic, ar1, bursts, load, synthetic, traffic, workloads
from support.telemetry.generator import fleet

FLAT = {"daily_amplitude": 0.0, "weekend_drop": 0.0, "growth_per_month": 0.0, "noise_sd": 0.0, "bursts_per_day": 0.0}


def times(days, step=60):
    return pd.date_range("2026-03-02", periods=int(days * 86_400 / step), freq=f"{step}s", tz="UTC")


def made(days, step=300, seed=1, **changed):
    index = times(days, step)
    return pd.Series(traffic(Traffic(**FLAT | changed), index, rng=np.random.default_rng(seed)), index=index)


@pytest.mark.parametrize(("memory", "sd"), [(5.0, 0.2), (40.0, 1.0)])
def test_ar1_has_its_autocorrelation_and_spread(memory, sd):
    noise = ar1(400_000, memory, sd, rng=np.random.default_rng(2))
    assert noise.std() == pytest.approx(sd, rel=0.03) and noise.mean() == pytest.approx(0, abs=0.05 * sd)
    for lag in (1, 5, 20):
        assert np.corrcoef(noise[lag:], noise[:-lag])[0, 1] == pytest.approx(np.exp(-lag / memory), abs=0.02)


def test_ar1_is_stationary_from_the_first_step():
    starts = [ar1(3, 100.0, 2.0, rng=np.random.default_rng(seed)) for seed in range(4000)]
    np.testing.assert_allclose(np.std(starts, axis=0), 2.0, rtol=0.05)


def test_ar1_is_the_recursion():
    rng = np.random.default_rng(9)
    phi = np.exp(-1 / 7.0)
    shocks = rng.normal(0.0, 0.5 * np.sqrt(1 - phi**2), 50)
    level, wanted = rng.normal(0.0, 0.5), []
    for shock in [0.0, *shocks[1:]]:
        level = level if not wanted else phi * level + shock
        wanted.append(level)
    np.testing.assert_allclose(ar1(50, 7.0, 0.5, rng=np.random.default_rng(9)), wanted, rtol=1e-12)


def test_burst_rate_and_time_share():
    logs = bursts(600_000, 1 / 1000, 2.0, 10.0, rng=np.random.default_rng(3))
    assert logs.min() > -1e-9
    burst = logs > 1e-9
    starts = (np.diff(burst.astype(int), prepend=0) == 1).sum()
    assert starts == pytest.approx(600, rel=0.15)
    assert burst.mean() == pytest.approx(1 - np.exp(-0.01), rel=0.15)  # Poisson arrivals that stay 10 steps
    assert np.median(logs[burst]) == pytest.approx(np.log(2.0), rel=0.15)


def test_flat_traffic_is_poisson():
    demand = made(30, base_rps=3.0)
    assert demand.mean() == pytest.approx(900, rel=0.005)
    assert demand.var() == pytest.approx(900, rel=0.1)


def test_weekend_ratio():
    demand = made(56, weekend_drop=0.35)
    weekend = demand.index.dayofweek >= 5
    assert demand[weekend].mean() / demand[~weekend].mean() == pytest.approx(0.65, rel=0.01)


def test_growth_per_month():
    demand = made(120, step=3600, growth_per_month=0.2)
    months = np.arange(len(demand)) / 720
    assert np.expm1(np.polyfit(months, np.log(demand), 1)[0]) == pytest.approx(0.2, abs=0.005)


def test_daily_cycle_is_the_stated_one():
    demand = made(20, daily_amplitude=0.6)
    by_hour = np.log(demand.groupby(demand.index.hour + demand.index.minute / 60).mean() / 300)
    hours = by_hour.index.to_numpy()
    wanted = np.log(120) + 0.6 * np.cos(2 * np.pi * (hours - 15) / 24) + 0.18 * np.cos(4 * np.pi * (hours - 20) / 24)
    np.testing.assert_allclose(by_hour, wanted, atol=0.01)


@pytest.mark.parametrize("step", [60, 300])
def test_noise_of_the_log_rate_does_not_depend_on_the_step(step):
    demand = made(60, step=step, base_rps=2000.0, noise_sd=0.1, noise_memory_minutes=45.0)
    logs = np.log(demand.to_numpy())
    assert logs.std() == pytest.approx(0.1, rel=0.1)
    lag = 45 * 60 // step
    assert np.corrcoef(logs[lag:], logs[:-lag])[0, 1] == pytest.approx(np.exp(-1), abs=0.06)


def test_bursts_per_day():
    calm, busy = (
        made(200, base_rps=2000.0),
        made(200, base_rps=2000.0, bursts_per_day=1.0, burst_factor=3.0, burst_minutes=30.0),
    )
    high = (busy > 1.15 * calm.mean()).to_numpy()
    assert (np.diff(high.astype(int)) == 1).sum() == pytest.approx(200, rel=0.25)


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 2**31),
    preset=st.sampled_from(["web", "worldcup98", "fleet"]),
    step=st.sampled_from([10.0, 60.0, 300.0, 3600.0]),
)
def test_same_arguments_same_data(seed, preset, step):
    one, two = (synthetic(preset, seed=seed, days=1, step_seconds=step, n_resources=2) for _ in range(2))
    pd.testing.assert_frame_equal(one.observations, two.observations)
    assert one.synthetic and one.step_seconds == step and str(seed) in one.provenance
    other = synthetic(preset, seed=seed + 1, days=1, step_seconds=step, n_resources=2)
    assert not one.observations.equals(other.observations)


def test_fleet_resources_do_not_depend_on_their_number():
    few, many = (synthetic("fleet", seed=5, days=2, n_resources=n) for n in (3, 11))
    pd.testing.assert_frame_equal(
        few.observations, many.observations.loc[few.resource_ids].sort_index(), check_names=True
    )
    pd.testing.assert_frame_equal(few.resources, many.resources.iloc[:3])


def test_fleet_stays_within_its_bounds_and_does_not_pile_up_there():
    observations, resources = fleet(60, times(14, 300), seed=1)
    for column in ("cpu_utilization", "memory_utilization"):
        values = observations[column].to_numpy()
        assert (values > 0).all() and (values < 100).all()
        assert pd.Series(values).value_counts(normalize=True).max() < 1e-4
        assert ((values > 99.9).mean() < 0.01) and ((values < 0.01).mean() < 0.01)
    assert (observations[["network_in_mbps", "network_out_mbps"]] > 0).all().all()
    assert set(resources["workload"]) <= set(workloads().index)


def test_fleet_follows_the_shares_of_the_table():
    _, resources = fleet(600, times(1, 3600), seed=2)
    shares = workloads()["share"] / workloads()["share"].sum()
    found = resources["workload"].value_counts(normalize=True).reindex(shares.index).fillna(0)
    assert np.abs(found - shares).max() < 0.06


def test_shapes_of_the_presets():
    assert synthetic("web", seed=1).demand().shape == (42 * 1440,)
    twin = synthetic("worldcup98", seed=1, days=3)
    assert twin.demand().index[0] == pd.Timestamp("1998-04-30", tz="UTC") and "TWIN" in twin.provenance


def test_refusals():
    for call in (
        lambda: synthetic("moon", seed=1),
        lambda: synthetic(seed=1, days=-1),
        lambda: synthetic(seed=1, step_seconds=0.5),
        lambda: synthetic("fleet", seed=1, n_resources=0),
    ):
        with pytest.raises(SourceError, match="^synthetic:"):
            call()
    with pytest.raises(SourceError, match="needs a seed"):
        load("synthetic")
