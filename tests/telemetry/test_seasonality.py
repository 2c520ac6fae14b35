"""The test for a cycle: it keeps its level under autocorrelated noise, and finds what is there."""

import os

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import signal, stats

from support.errors import SchemaError, TooShortError
from support.telemetry.judging.seasonality import seasonality
from support.telemetry.sources import load

HOUR, DAY, WEEK = 3600.0, 86_400.0, 604_800.0


def ar1(n, memory, rng):
    phi = np.exp(-1 / memory) if memory else 0.0
    shocks = rng.normal(size=n) * np.sqrt(1 - phi**2)
    shocks[0] /= np.sqrt(1 - phi**2)
    return signal.lfilter([1.0], [1.0, -phi], shocks)


@pytest.mark.parametrize("memory_hours", [0, 3, 24, 240])
def test_false_positive_rate_under_ar1_is_the_stated_one(memory_hours):
    """800 series of 14 days: 5 % are wrongly found, give or take 3 standard errors, whatever the memory of the noise."""
    rng = np.random.default_rng(memory_hours)
    p = np.array([seasonality(ar1(336, memory_hours, rng), HOUR, DAY).p_value for _ in range(800)])
    assert np.mean(p < 0.05) == pytest.approx(0.05, abs=3 * np.sqrt(0.05 * 0.95 / 800))
    assert np.mean(p < 0.01) < 0.01 + 3 * np.sqrt(0.01 * 0.99 / 800)


def test_fishers_test_for_white_noise_does_not_keep_its_level():
    """Fisher's g (1929) takes the red noise itself for a cycle in nearly every series: why neighbours are compared."""
    rng, chances = np.random.default_rng(24), []
    for _ in range(100):
        power = np.abs(np.fft.rfft(ar1(336, 3, rng)))[1:-1] ** 2
        g = power.max() / power.sum()
        chances.append(len(power) * (1 - g) ** (len(power) - 1))  # the first term bounds the sum from above
    assert np.mean(np.array(chances) < 0.05) > 0.9


def test_p_values_of_white_noise_have_the_exact_distribution():
    """Ordinates of white noise are exponential, so twice the smaller of two uniforms: P(p <= a) = 1 - (1 - a/2)^2."""
    rng = np.random.default_rng(5)
    p = np.array([seasonality(rng.normal(size=24 * 28), HOUR, DAY).p_value for _ in range(1000)])
    assert np.mean(p == 1) == pytest.approx(0.25, abs=0.035)
    assert stats.kstest(p[p < 1], lambda a: (1 - (1 - a / 2) ** 2) / 0.75).pvalue > 0.01


@pytest.mark.parametrize(("n_neighbours", "ratio"), [(4, 30.0), (14, 8.0)])
def test_tail_probability_against_simulation(n_neighbours, ratio):
    """The formula of the docstring, evaluated here by hand, against exponentials drawn."""
    rng, k = np.random.default_rng(6), n_neighbours // 2
    drawn = rng.exponential(size=(400_000, n_neighbours + 1))
    simulated = np.mean(drawn[:, 0] > ratio * np.sort(drawn[:, 1:], axis=1)[:, k - 1])
    exact = np.prod([(n_neighbours - j) / (n_neighbours - j + ratio) for j in range(k)])
    assert simulated == pytest.approx(exact, rel=0.1)


@pytest.mark.parametrize(
    ("days", "memory_hours", "shape"),
    [(14, 3, "cosine"), (28, 12, "cosine"), (28, 3, "nightly batch"), (28, 3, "two peaks"), (14, 0, "cosine")],
)
def test_power(days, memory_hours, shape):
    """A cycle as large as the noise (equal standard deviations) is found at the level of 1 % in over 90 % of the series."""
    rng, hours = np.random.default_rng(8), np.arange(days * 24)
    cycle = {
        "cosine": np.cos(2 * np.pi * hours / 24),
        "nightly batch": (hours % 24 < 4).astype(float),
        "two peaks": np.cos(4 * np.pi * hours / 24),
    }[shape]
    cycle = (cycle - cycle.mean()) / cycle.std()
    found = [seasonality(cycle + ar1(len(hours), memory_hours, rng), HOUR, DAY) for _ in range(100)]
    assert np.mean([f.p_value < 0.01 for f in found]) > 0.9


def test_strength_of_a_pure_cosine_in_white_noise():
    rng, hours = np.random.default_rng(9), np.arange(24 * 100)
    for share in (0.2, 0.5):
        values = np.sqrt(2 * share) * np.cos(2 * np.pi * hours / 24) + np.sqrt(1 - share) * rng.normal(size=hours.size)
        assert seasonality(values, HOUR, DAY).strength_frac == pytest.approx(share, abs=0.04)


def test_trend_spikes_and_holes_neither_make_nor_hide_a_cycle():
    rng, hours = np.random.default_rng(10), np.arange(24 * 28)
    noise, cycle = rng.normal(size=hours.size), np.cos(2 * np.pi * hours / 24)
    spikes = np.where(rng.random(hours.size) < 0.01, 1e6, 0.0)
    holes = rng.random(hours.size) < 0.2
    for values, there in ((noise, False), (noise + cycle, True)):
        for changed in (values + 0.01 * hours, values + spikes, np.where(holes, np.nan, values)):
            assert (seasonality(changed, HOUR, DAY).p_value < 0.01) == there


def test_weekly_cycle_of_working_days():
    rng, hours = np.random.default_rng(11), np.arange(24 * 7 * 12)
    level = np.where(hours // 24 % 7 >= 5, 0.0, 1.0)
    assert seasonality(level + ar1(len(hours), 3, rng), HOUR, WEEK).p_value < 1e-3
    assert seasonality(np.cos(2 * np.pi * hours / 24) + ar1(len(hours), 3, rng), HOUR, WEEK).p_value > 0.01


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.floats(0.1, 3.0), st.floats(-5, 5))
def test_any_rising_scale_gives_the_same_answer(seed, factor, shift):
    """Logarithm or not, percent or fraction: ranks are the same, so the answer is."""
    values = np.random.default_rng(seed).normal(size=24 * 7)
    assert seasonality(np.exp(factor * values) + shift, HOUR, DAY) == seasonality(values, HOUR, DAY)


@pytest.mark.parametrize(
    ("values", "step", "error", "said"),
    [
        (np.arange(95.0), HOUR, TooShortError, "95 values, 24 per cycle; 4 cycles"),
        (np.arange(100.0), 6 * HOUR, TooShortError, "4 per cycle"),
        (np.ones(240), HOUR, SchemaError, "all are equal"),
        (np.r_[np.full(150, np.nan), np.arange(90.0)], HOUR, SchemaError, "missing"),
    ],
)
def test_what_cannot_be_tested_is_refused(values, step, error, said):
    with pytest.raises(error, match=said):
        seasonality(values, step, DAY)


@pytest.mark.skipif(not os.environ.get("BOOK_DATA"), reason="needs the mirror of traces, BOOK_DATA")
@pytest.mark.parametrize(
    ("name", "period", "there"),
    [
        ("realKnownCause/nyc_taxi.csv", DAY, True),
        ("realKnownCause/nyc_taxi.csv", WEEK, True),
        ("realTweets/Twitter_volume_AMZN.csv", DAY, True),
        ("realAWSCloudwatch/ec2_cpu_utilization_5f5533.csv", DAY, False),
        ("realKnownCause/cpu_utilization_asg_misconfiguration.csv", WEEK, False),
    ],
)
def test_real_series(name, period, there):
    telemetry = load(f"nab:{name}")
    series: pd.Series = telemetry.series(telemetry.metrics[0])
    assert (seasonality(series, telemetry.step_seconds, period).p_value < 0.01) == there
