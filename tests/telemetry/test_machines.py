"""Machines: what the row of the taxonomy says can be measured in what comes out, after every factor of time."""

from functools import cache

import numpy as np
import pandas as pd
import pytest

from support.telemetry import profile, taxonomy
from support.telemetry.generation.machines import Place, calibrate, floor_softly, machine
from support.telemetry.taxonomy import KINDS

STEP = 300
TYPES = [(kind, name) for kind in KINDS for name in taxonomy(kind).index]
CPU_FIXED_BY_BURSTS = {
    "video_streaming": 7.0,
    "ml_training_gpu": 3.5,
    "batch_etl_pipeline": 3.5,
}  # bursts as documented already reach beyond p95


def times(days=28, step=STEP, first="2026-03-02"):
    return pd.date_range(first, periods=days * 86_400 // step, freq=f"{step}s", tz="UTC")


@cache
def many(kind, name, n=40, days=28, **options):
    index = times(120, 3600) if kind == "server" else times(days)  # noise of a server remembers a day
    return [
        np.array(
            list(
                machine(
                    profile(name, kind), index, place=Place(), rng=np.random.default_rng([7, k]), **options
                ).values()
            )
        )
        for k in range(n)
    ]


@pytest.mark.parametrize(("kind", "name"), TYPES)
def test_correlations_hold_after_all_factors_of_time(kind, name):
    made = many(kind, name)
    wanted = np.array(profile(name, kind).correlation)
    within = np.mean([np.corrcoef(m[[0, 1, 2, 4]]) for m in made], axis=0)
    pooled = np.corrcoef(np.concatenate(made, axis=1)[[0, 1, 2, 4]])
    assert np.abs(pooled - wanted).max() <= 0.05
    assert np.abs(within - wanted).max() <= 0.08  # a machine's own month varies


@pytest.mark.parametrize(("kind", "name"), TYPES)
def test_percentages_stay_in_range_without_piling_up(kind, name):
    values = np.concatenate(many(kind, name), axis=1)
    row = profile(name, kind)
    percent = values[[0, 1, 4] if row.disk_mean_percent > 0 else [0, 1]]
    assert (percent > 0).all() and (percent < 100).all()
    assert (percent > 99.9).mean() < 0.01 and (percent < 0.001).mean() < 0.01
    assert (values > 0).all()


@pytest.mark.parametrize("name", taxonomy("workload").index)
def test_mean_cpu_of_a_workload_is_its_row(name):
    cpu = np.concatenate([m[0] for m in many("workload", name)])
    assert cpu.mean() == pytest.approx(profile(name, "workload").cpu_mean_percent, rel=0.08)


@pytest.mark.parametrize("name", taxonomy("application").index)
def test_quantiles_of_an_application_are_its_row(name):
    made = np.concatenate(many("application", name), axis=1)
    row = profile(name, "application")
    p50, p95 = np.quantile(made[0], [0.5, 0.95])
    assert p50 == pytest.approx(row.cpu_p50_percent, abs=1.5)
    assert p95 == pytest.approx(row.cpu_p95_percent, abs=CPU_FIXED_BY_BURSTS.get(name, 3.0))
    np.testing.assert_allclose(
        np.quantile(made[1], [0.5, 0.95]), [row.memory_p50_percent, row.memory_p95_percent], atol=3
    )


def test_network_out_follows_in_and_disk_is_coupled():
    for m in many("server", "web")[:3]:
        assert np.median(m[3] / m[2]) == pytest.approx(0.6, rel=0.02)
        assert np.corrcoef(m[2], m[3])[0, 1] > 0.95


def test_noise_has_memory_and_a_growing_load_grows():
    index = times(360, step=3600)
    row = profile("hpc", "workload")  # neither hours nor weekends
    logs = [
        np.log(machine(row, index, place=Place(), rng=np.random.default_rng(k))["cpu_utilization"]) for k in range(30)
    ]
    daily = np.mean(logs, axis=0).reshape(-1, 24).mean(axis=1)
    months = np.arange(len(daily)) * 12 / 365.25
    assert np.expm1(np.polyfit(months, daily, 1)[0]) == pytest.approx(row.growth_percent_per_month / 100, abs=0.004)
    lag_1 = np.mean([np.corrcoef(x[1:], x[:-1])[0, 1] for x in logs])
    assert lag_1 > 0.5  # independent samples would have 0


def test_spread_between_machines_is_the_stated_one():
    levels = [np.log(m[0].mean()) for m in many("server", "web", n=80, spread_sd=0.15)]
    alike = [np.log(m[0].mean()) for m in many("server", "web", n=80)]
    assert np.sqrt(np.var(levels) - np.var(alike)) == pytest.approx(0.15, rel=0.25)


def test_calibration_is_reused_and_does_not_touch_global_randomness():
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one = calibrate(profile("cache"), times()[0], times()[-1], 300.0)
    assert one is calibrate(profile("cache"), times()[0], times()[-1], 300.0)
    assert (np.random.get_state()[1] == before).all()  # noqa: NPY002


def test_soft_floor_is_smooth_monotone_and_positive():
    x = np.linspace(-50, 10, 2001)
    y = floor_softly(x.copy(), 2.0)
    assert (y > 0).all() and (np.diff(y) > 0).all()
    np.testing.assert_array_equal(y[x >= 2], x[x >= 2])
    slope = np.diff(y) / np.diff(x)
    assert np.abs(np.diff(slope)).max() < 0.05
