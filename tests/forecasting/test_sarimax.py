"""SARIMAX: least squares where it is that, a known effect found, and nothing about the search hidden."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm
from statsmodels.tools.sm_exceptions import ConvergenceWarning

from support.errors import TooShortError
from support.forecasting import sarimax as module
from support.forecasting.covariates import KnownCovariates, days_off
from support.forecasting.protocol import RollingOrigin, roll
from support.forecasting.sarimax import sarimax

LEVELS = np.array([0.05, 0.5, 0.9])


def test_without_arima_it_is_least_squares():
    rng = np.random.default_rng(0)
    t = np.arange(240 + 7)
    columns = [f(2 * np.pi * k * t / 24) for k in (1, 2) for f in (np.sin, np.cos)]
    x = np.stack(columns, axis=1)
    y = 30 + x[:240] @ [5.0, -2.0, 1.0, 0.5] + rng.normal(0, 2, 240)
    found = sarimax(y, 7, 24, LEVELS, rng, order=(0, 0, 0), n_pairs=2)
    slopes = np.linalg.lstsq(x[:240], y - y.mean(), rcond=None)[0]
    sd = np.sqrt(np.mean((y - y.mean() - x[:240] @ slopes) ** 2))
    wanted = (y.mean() + x[240:] @ slopes)[:, None] + sd * norm.ppf(LEVELS)
    np.testing.assert_allclose(found, wanted, rtol=1e-3)  # its likelihood is maximised by search, to about 1e-4


def test_a_random_walk_widens_by_the_root_of_the_horizon():
    walk = np.random.default_rng(1).normal(0, 3, 500).cumsum()
    found = sarimax(walk, 16, 1, LEVELS, np.random.default_rng(0), order=(0, 1, 0))
    np.testing.assert_allclose(found[:, 1], walk[-1], rtol=1e-9)
    width = found[:, 2] - found[:, 1]
    np.testing.assert_allclose(width, width[0] * np.sqrt(np.arange(1, 17)), rtol=1e-6)
    assert width[0] == pytest.approx(norm.ppf(0.9) * np.sqrt(np.mean(np.diff(walk) ** 2)), rel=0.01)


def test_an_effect_of_days_off_is_found_and_used():
    rng = np.random.default_rng(2)
    times = pd.date_range("2026-03-02", periods=24 * 26, freq="1h", tz="UTC")  # ends on a Friday at 23:00
    off = days_off()(times)[:, 0]
    y = 100 + 10 * np.sin(np.arange(len(times)) * 2 * np.pi / 24) - 40 * off + rng.normal(0, 1, len(times))
    known = KnownCovariates(times, days_off())
    plain, aware = (sarimax(y, 24, 24, LEVELS, rng, known=k)[:, 1] for k in (None, known))
    truth = 60 + 10 * np.sin((len(times) + np.arange(24)) * 2 * np.pi / 24)
    assert np.abs(aware - truth).max() < 4 and (plain - truth).min() > 20


def test_a_search_that_did_not_end_is_counted_by_the_protocol(monkeypatch):
    monkeypatch.setattr(module, "MAX_ITERATIONS", 1)
    y = np.random.default_rng(0).normal(size=80).cumsum()
    with pytest.warns(ConvergenceWarning):
        sarimax(y, 2, 4, LEVELS, np.random.default_rng(0))
    plan = RollingOrigin(horizon=2, step=4, season=4, local_context=60, global_context=8, n_windows=2)
    panel = {"s": pd.Series(y, pd.date_range("2026-01-01", periods=80, freq="1h", tz="UTC"))}
    rolled = roll(panel, protocol=plan, local_models={"SARIMAX": sarimax}, rng=np.random.default_rng(0))
    assert rolled.ledger.loc["SARIMAX", "warnings"] == 2 and rolled.ledger.loc["SARIMAX", "fallbacks"] == 0


def test_a_covariate_that_never_varied_is_left_out_aloud():
    times = pd.date_range("2026-03-02", periods=24 * 5, freq="1h", tz="UTC")  # Monday to Friday
    y = np.random.default_rng(0).normal(size=len(times))
    with pytest.warns(UserWarning, match="never varied"):
        aware = sarimax(y, 24, 24, LEVELS, np.random.default_rng(0), known=KnownCovariates(times, days_off()))
    np.testing.assert_array_equal(aware, sarimax(y, 24, 24, LEVELS, np.random.default_rng(0)))


def test_too_short():
    with pytest.raises(TooShortError, match="at least 36"):
        sarimax(np.arange(30.0), 2, 24, LEVELS, np.random.default_rng(0))
