from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats
from sklearn.metrics import roc_auc_score

from support.errors import SchemaError, TooShortError
from support.telemetry.fidelity import auc, compare_statistics, fidelity, machines, two_sample_test
from support.telemetry.judging.features import (
    STEPS_PER_DAY,
    acf,
    band_shares,
    correlation,
    hill,
    hurst,
    machine_statistics,
    spells,
    window_features,
)
from support.telemetry.schema import Telemetry


def ar(n: int, phi: float, rng: np.random.Generator) -> np.ndarray:
    return signal.lfilter([1.0], [1.0, -phi], rng.standard_normal(n))


def fleet(n: int, phi: float, rng: np.random.Generator, days: int = 2) -> dict[str, np.ndarray]:
    return {f"m{k}": 50 + ar(days * STEPS_PER_DAY, phi, rng) for k in range(n)}


def test_acf_is_that_of_the_definition_and_of_an_ar1():
    rng = np.random.default_rng(1)
    x = ar(40_000, 0.8, rng)
    for lag in (1, 3, 10):
        c = x - x.mean()
        naive = np.mean([c[t] * c[t - lag] for t in range(lag, len(c))]) / np.mean(c * c)
        assert acf(x, lag) == pytest.approx(naive, rel=1e-9)
        assert acf(x, lag) == pytest.approx(0.8**lag, abs=0.03)
    assert acf(x, 0) == pytest.approx(1.0)
    assert np.isnan(acf(np.ones(5), 1))
    assert np.isnan(acf(np.array([np.nan, np.nan]), 1))
    assert np.isnan(acf(x[:5], 5))


def test_acf_uses_only_the_pairs_that_are_there():
    x = np.tile([1.0, -1.0], 50)
    x[[10, 11, 40]] = np.nan
    assert acf(x, 2) == pytest.approx(1.0, abs=0.01)
    assert acf(x, 1) == pytest.approx(-1.0, abs=0.01)


@pytest.mark.parametrize("alpha", [1.5, 3.0])
def test_hill_recovers_a_pareto_tail(alpha):
    x = stats.pareto(alpha).rvs(100_000, random_state=np.random.default_rng(2))
    assert hill(x) == pytest.approx(alpha, rel=0.1)  # sd is alpha / sqrt(2000)


def test_hill_has_no_answer_without_a_tail():
    assert np.isnan(hill(np.ones(1000)))
    assert np.isnan(hill(np.arange(1.0, 20.0)))


def test_hurst_is_a_half_for_noise_and_more_for_long_memory():
    rng = np.random.default_rng(3)
    noise = np.array([hurst(rng.standard_normal(8192)) for _ in range(8)])
    assert noise.mean() == pytest.approx(0.5, abs=0.06)
    # fractional noise of order d by its moving average (Hosking, Biometrika 68, 1981): H = d + 1/2
    d, n = 0.3, 8192
    weights = np.cumprod(np.concatenate([[1.0], (np.arange(1, n) - 1 + d) / np.arange(1, n)]))
    long = [hurst(signal.fftconvolve(rng.standard_normal(2 * n), weights)[n : 2 * n]) for _ in range(8)]
    assert np.mean(long) == pytest.approx(0.8, abs=0.08)
    assert np.isnan(hurst(np.ones(100)))
    assert np.isnan(hurst(np.ones(10)))


@given(st.lists(st.booleans(), max_size=60))
@settings(max_examples=60, deadline=None)
def test_spells_are_the_runs_a_plain_loop_finds(flags):
    found, length = [], 0
    for flag in [*flags, False]:
        if flag:
            length += 1
        elif length:
            found.append(length)
            length = 0
    assert spells(np.array(flags, dtype=bool)).tolist() == found


def test_band_shares_put_a_cycle_into_its_band_and_add_up():
    t = np.arange(7 * STEPS_PER_DAY)
    for hours, band in ((48, "slower than 1 day"), (24, "1 day to 6 h"), (3, "6 h to 1 h"), (0.5, "faster than 1 h")):
        t_whole = t[: 6 * STEPS_PER_DAY]
        shares = band_shares(np.sin(2 * np.pi * t_whole / (12 * hours)))
        assert shares[f"spectrum, {band}"] > 0.99
        assert sum(shares.values()) == pytest.approx(1.0)
    white = band_shares(np.random.default_rng(1).standard_normal(20_000))
    assert white["spectrum, faster than 1 h"] == pytest.approx(120 / 144, abs=0.02)  # its part of the frequencies


def test_band_shares_interpolate_what_is_missing():
    x = np.sin(2 * np.pi * np.arange(2 * STEPS_PER_DAY) / STEPS_PER_DAY)
    holed = x.copy()
    holed[50:53] = np.nan
    assert band_shares(holed) == pytest.approx(band_shares(x), abs=1e-3)


def test_machine_statistics_of_a_square_wave():
    x = np.tile(np.repeat([0.0, 100.0], [STEPS_PER_DAY * 9 // 10 + 1, STEPS_PER_DAY // 10]), 14)
    found = machine_statistics(x)
    assert found["zero mass"] == pytest.approx(260 / 288)
    assert found["saturation mass"] == pytest.approx(28 / 288)
    assert found["autocorrelation, 1 day"] == pytest.approx(1.0, abs=1e-9)
    assert found["autocorrelation, 1 week"] == pytest.approx(1.0, abs=1e-9)
    assert found["idle spell, steps"] == 260
    assert found["share of repeated values"] == pytest.approx(1 - 27 / (14 * 288 - 1))
    with pytest.raises(TooShortError, match="two that are not missing"):
        machine_statistics(np.array([1.0, np.nan]))


def test_correlation_of_pairs_is_that_of_scipy():
    rng = np.random.default_rng(4)
    a, b = rng.standard_normal((2, 500))
    b += a
    a[::7] = np.nan
    kept = np.isfinite(a)
    assert correlation(a, b) == pytest.approx(stats.pearsonr(a[kept], b[kept]).statistic)
    assert correlation(np.ones(5), np.arange(5.0)) == 0.0


def test_windows_are_whole_days_with_few_holes():
    x = np.random.default_rng(5).normal(50, 5, 3 * STEPS_PER_DAY + 100)
    x[STEPS_PER_DAY : STEPS_PER_DAY + 6] = np.nan  # 2.08 %: too many
    x[5] = np.nan
    table = window_features({"a": x[:, None]})
    assert list(table.index) == ["a", "a"]
    assert np.isfinite(table.to_numpy()).all()
    assert table["mean"].iloc[1] == pytest.approx(x[2 * STEPS_PER_DAY : 3 * STEPS_PER_DAY].mean(), rel=1e-3)


def test_windows_of_two_metrics_have_their_correlations():
    rng = np.random.default_rng(6)
    a = rng.standard_normal(STEPS_PER_DAY)
    table = window_features({"m": np.column_stack([a, -a])}, ["x", "y"])
    assert table.loc[
        "m", "y x x: correlation" if "y x x: correlation" in table else "x x y: correlation"
    ] == pytest.approx(-1)
    assert "x: mean" in table and "y: mean" in table


@given(st.integers(0, 2**31), st.floats(0.5, 20.0))
@settings(max_examples=15, deadline=None)
def test_features_of_shape_do_not_depend_on_the_unit(seed, scale):
    x = 30 + np.random.default_rng(seed).standard_normal(STEPS_PER_DAY)
    a, b = (window_features({"m": (factor * x)[:, None]}).iloc[0] for factor in (1.0, scale))
    for name in (
        "autocorrelation 1",
        "skewness",
        "kurtosis",
        "coefficient of variation",
        "spectral entropy",
        "turning points",
    ):
        assert a[name] == pytest.approx(b[name], rel=0.02, abs=0.02)


def test_alike_machines_cannot_be_told_apart_and_unlike_ones_can():
    rng = np.random.default_rng(7)
    same = fidelity(fleet(14, 0.7, rng), fleet(14, 0.7, rng), rng=rng)
    other = fidelity(fleet(14, 0.7, rng), fleet(14, 0.95, rng), rng=rng)
    assert abs(same.auc - 0.5) < 0.2
    assert other.auc > 0.97
    assert other.auc_interval[0] <= other.auc <= other.auc_interval[1] + 1e-9
    assert (same.n_real, same.n_simulated) == (14, 14)
    memory = ("metric", "statistic")
    assert list(other.table().index.names) == list(memory)
    worst = other.table().loc[("cpu_utilization", "autocorrelation, 1 step")]
    assert worst["distance"] > 5 * worst["by_chance"]
    assert worst["real"] == pytest.approx(0.7, abs=0.05)
    assert worst["simulated"] == pytest.approx(0.95, abs=0.03)
    assert other.giveaways["auc_alone"].between(0.5, 1.0).all()
    assert other.giveaways["auc_alone"].max() > 0.95


def test_a_machine_is_never_in_both_training_and_test():
    """Machines with levels of their own, alike on both sides: a classifier that knew the machine would score 1."""
    rng = np.random.default_rng(8)
    sides = [
        {f"m{k}": 3 * rng.standard_normal() * 10 + 50 + rng.standard_normal(4 * STEPS_PER_DAY) for k in range(16)}
        for _ in range(2)
    ]
    assert fidelity(*sides, rng=rng).auc < 0.75


def test_machines_count_alike_however_many_their_days():
    """One real machine with a hundred times the days of others does not decide the AUC."""
    rng = np.random.default_rng(9)
    names = [f"a{k}" for k in range(10)]
    real = pd.DataFrame({"x": np.zeros(10)}, index=names)
    simulated = pd.DataFrame({"x": np.r_[np.ones(9), 0.0]}, index=names)
    longer = pd.concat([simulated, pd.DataFrame({"x": np.zeros(900)}, index=["a9"] * 900)])
    short, long = (two_sample_test(real, side, rng=rng)[0] for side in (simulated, longer))
    assert short > 0.8
    assert long > 0.8


def test_auc_of_one_clean_feature_is_that_of_sklearn_pairs():
    rng = np.random.default_rng(10)
    real = pd.DataFrame({"x": rng.normal(0, 1, 300)}, index=[f"a{k}" for k in range(300)])
    simulated = pd.DataFrame({"x": rng.normal(1, 1, 300)}, index=[f"b{k}" for k in range(300)])
    found, _, giveaways = two_sample_test(real, simulated, rng=rng)
    pairs = (simulated["x"].to_numpy()[:, None] > real["x"].to_numpy()).mean()
    assert giveaways.loc["x", "auc_alone"] == pytest.approx(pairs)
    assert found == pytest.approx(stats.norm.cdf(1 / np.sqrt(2)), abs=0.06)  # the best that can be had
    assert giveaways.loc["x", "auc_lost"] == pytest.approx(found - 0.5, abs=0.08)


def test_distances_are_those_of_scipy_and_zero_for_the_same_machines():
    rng = np.random.default_rng(11)
    left, right = machines(fleet(6, 0.5, rng), ["value"]), machines(fleet(6, 0.9, rng), ["value"])
    table = compare_statistics(left, right, ["value"], rng=rng)
    means = [np.array([x.mean() for x in side.values()]) for side in (left, right)]
    row = table.loc[("value", "mean")]
    assert row["distance"] == pytest.approx(stats.wasserstein_distance(*means) / means[0].std())
    assert row["real"] == pytest.approx(np.median(means[0]))
    same = compare_statistics(left, left, ["value"], rng=rng)
    assert np.allclose(same["distance"].dropna(), 0.0)
    assert (same["by_chance"].drop(("value", "zero mass")).dropna() >= 0).all()


def test_cross_correlations_are_compared():
    rng = np.random.default_rng(12)

    def pair(r: float) -> dict[str, np.ndarray]:
        noise = rng.standard_normal((6, 2, 600))
        return {f"m{k}": np.column_stack([a, r * a + np.sqrt(1 - r**2) * b]) for k, (a, b) in enumerate(noise)}

    table = compare_statistics(pair(0.8), pair(0.0), ["a", "b"], rng=rng)
    row = table.loc[("a x b", "correlation")]
    assert row["real"] == pytest.approx(0.8, abs=0.05)
    assert row["simulated"] == pytest.approx(0.0, abs=0.1)


def test_machines_of_telemetry_start_at_midnight():
    times = pd.date_range("2026-01-01 22:00", periods=400, freq="300s", tz="UTC")
    index = pd.MultiIndex.from_product([["a"], times], names=["resource_id", "timestamp"])
    frame = pd.DataFrame({"cpu_utilization": np.arange(400.0) / 10}, index=index)
    found = machines(Telemetry(frame, 300.0), ["cpu_utilization"])["a"]
    assert found[0, 0] == pytest.approx(2.4)  # 24 intervals after 22:00
    assert found.shape == (376, 1)
    with pytest.raises(SchemaError, match="step_seconds=300"):
        machines(Telemetry(frame, 300.0).resample(600.0), ["cpu_utilization"])
    with pytest.raises(SchemaError, match="no metric 'memory_utilization'"):
        machines(Telemetry(frame, 300.0), ["memory_utilization"])
    with pytest.raises(SchemaError, match="one column each"):
        machines({"a": np.zeros((3, 2))}, ["cpu_utilization"])


@given(st.integers(0, 2**31))
@settings(max_examples=30, deadline=None)
def test_weighted_auc_is_that_of_sklearn(seed):
    rng = np.random.default_rng(seed)
    truth = np.r_[0, 1, rng.integers(0, 2, 30)]
    score, weight = rng.integers(0, 8, 32) / 8, rng.random(32) + 0.1
    assert auc(score, truth, weight) == pytest.approx(roc_auc_score(truth, score, sample_weight=weight))


def test_too_few_machines_are_refused():
    rng = np.random.default_rng(13)
    with pytest.raises(TooShortError, match="4 machine"):
        fidelity(fleet(4, 0.5, rng), fleet(6, 0.5, rng), rng=rng)


def test_the_same_seed_gives_the_same_report():
    data = np.random.default_rng(14)
    sides = fleet(6, 0.5, data), fleet(6, 0.6, data)
    first, second = (fidelity(*sides, rng=np.random.default_rng(1)) for _ in range(2))
    assert first.auc == second.auc
    pd.testing.assert_frame_equal(first.table(), second.table())


@pytest.mark.parametrize("level", [0.5, 1 / 3, 99.9, 12.345])
def test_what_never_changes_has_no_autocorrelation_whatever_its_level(level):
    for n in (100, 2880):
        still = np.full(n, level)
        assert np.isnan(acf(still, 1)) and correlation(still, np.arange(float(n))) == 0
        assert correlation(still, np.full(n, 0.1)) == 0
