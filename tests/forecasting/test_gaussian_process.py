"""Gaussian process: closed forms with the learnt kernel, two periods told apart, thinning by the rule."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from support.errors import TooShortError
from support.forecasting.covariates import KnownCovariates, days_off
from support.forecasting.gaussian_process import _thinned, gaussian_process

LEVELS = np.array([0.05, 0.5, 0.95])


def make(context, horizon, season, **options):
    return gaussian_process(context, horizon, season, LEVELS, np.random.default_rng(0), **options)


@pytest.mark.parametrize(("n", "most"), [(10, 400), (400, 400), (401, 400), (2016, 400), (2016, 201)])
def test_the_newest_half_is_kept_whole(n, most):
    kept = _thinned(n, most)
    assert len(kept) == min(n, most) == len(set(kept.tolist())) and (np.diff(kept) > 0).all() and kept[-1] == n - 1
    if n > most:
        np.testing.assert_array_equal(kept[-(most // 2) :], np.arange(n - most // 2, n))
        assert kept[0] == 0 and np.diff(kept[: most - most // 2]).max() <= np.ceil((n - most // 2) / (most / 2 - 1))


def test_day_and_week_are_both_repeated():
    t = np.arange(24 * 21)
    wave = 10 * np.sin(2 * np.pi * t / 24) + np.where(t // 24 % 7 >= 5, -30, 0.0)
    y = wave + np.random.default_rng(0).normal(0, 0.5, len(t))
    cut = 24 * 18  # a Friday begins: two weekends are known, the third is forecast
    made = make(y[:cut], 72, 24)
    assert np.abs(made[:, 1] - wave[cut : cut + 72]).mean() < 5  # repeating Thursday misses by 20 on average


def test_an_interval_of_noise_is_that_of_noise():
    y = 7 + 2 * np.random.default_rng(0).normal(size=200)
    made = make(y, 5, 1)
    assert np.abs(made[:, 1] - y.mean()).max() < 2.0
    width = (made[:, 2] - made[:, 0]) / (2 * norm.ppf(0.95))
    np.testing.assert_allclose(width, 2.0, rtol=0.2)


def test_an_effect_of_days_off_is_taken_out_and_put_back():
    times = pd.date_range("2026-03-02", periods=24 * 12, freq="1h", tz="UTC")  # two weekdays short of two weeks
    off = days_off()(times)[:, 0]
    y = 50 - 20 * off + np.random.default_rng(0).normal(0, 1, len(times))
    made = make(y, 24 * 3, 24, known=KnownCovariates(times, days_off()))
    future = days_off()(pd.date_range("2026-03-14", periods=72, freq="1h", tz="UTC"))[:, 0]
    assert np.abs(made[:, 1] - (50 - 20 * future)).max() < 3


def test_scale_and_place_do_not_matter():
    y = np.random.default_rng(1).normal(size=100).cumsum()
    np.testing.assert_allclose(make(1e4 + 250 * y, 6, 12), 1e4 + 250 * make(y, 6, 12), rtol=1e-5)


def test_a_constant_series_and_one_that_is_too_short():
    np.testing.assert_allclose(make(np.full(40, 3.0), 4, 8)[:, 1], 3.0, atol=1e-9)
    with pytest.raises(TooShortError):
        make(np.ones(2), 4, 8)
