"""Traffic: what it was asked to make can be found again in what it made."""

import numpy as np
import pandas as pd
import pytest

from support.telemetry import Traffic, traffic

FLAT = {"daily_amplitude": 0.0, "weekend_drop": 0.0, "growth_per_month": 0.0, "noise_sd": 0.0, "bursts_per_day": 0.0}


def made(days, step=300, seed=1, **changed):
    index = pd.date_range("2026-03-02", periods=int(days * 86_400 / step), freq=f"{step}s", tz="UTC")
    return pd.Series(traffic(Traffic(**FLAT | changed), index, rng=np.random.default_rng(seed)), index=index)


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
    months = np.arange(len(demand)) / (30.44 * 24)
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
    calm = made(200, base_rps=2000.0)
    busy = made(200, base_rps=2000.0, bursts_per_day=1.0, burst_factor=3.0, burst_minutes=30.0)
    high = (busy > 1.15 * calm.mean()).to_numpy()
    assert (np.diff(high.astype(int)) == 1).sum() == pytest.approx(200, rel=0.25)
    assert busy.mean() / calm.mean() - 1 == pytest.approx(2 * 30 / 1440, rel=0.2)  # Campbell's theorem
