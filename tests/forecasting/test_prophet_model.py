"""Prophet: its own central forecast, holidays, a silent page, and the global random state as it was."""

import numpy as np
import pandas as pd
import pytest
from prophet import Prophet

from support.errors import TooShortError
from support.forecasting.covariates import KnownCovariates, days_off
from support.forecasting.prophet_model import prophet

LEVELS = np.array([0.05, 0.5, 0.95])
TIMES = pd.date_range("2025-11-30", periods=24 * 25, freq="1h", tz="UTC")  # ends on 24 December at 23:00


def demand(off_factor=0.5, country="US"):
    rng = np.random.default_rng(0)
    day = 100 + 20 * np.sin(np.arange(len(TIMES)) * 2 * np.pi / 24)
    return day * np.where(days_off(country)(TIMES)[:, 0] > 0, off_factor, 1.0) + rng.normal(0, 3, len(TIMES))


def test_the_median_is_prophets_own_forecast():
    y = demand(1.0)
    found = prophet(y, 24, 24, LEVELS, np.random.default_rng(0), known=KnownCovariates(TIMES))
    model = Prophet(daily_seasonality=10, weekly_seasonality=3, yearly_seasonality=False, uncertainty_samples=0)
    model.fit(pd.DataFrame({"ds": TIMES.tz_localize(None), "y": y}))
    after = pd.DataFrame({"ds": TIMES[-1].tz_localize(None) + pd.Timedelta(hours=1) * np.arange(1, 25)})
    wanted = model.predict(after)["yhat"].to_numpy()
    sampling = 1.2533 * 3 / np.sqrt(500)  # standard error of a median of 500 normal draws of deviation 3
    assert np.abs(found[:, 1] - wanted).max() < 5 * sampling


def test_ninety_percent_intervals_hold_what_the_model_makes():
    y = demand(1.0)
    found = prophet(y[:-72], 72, 24, LEVELS, np.random.default_rng(0), known=KnownCovariates(TIMES[:-72]))
    inside = ((y[-72:] >= found[:, 0]) & (y[-72:] <= found[:, 2])).mean()
    assert 0.78 <= inside <= 0.99  # 0.90, four deviations of 72 draws below; Prophet's trend may add width


def test_holidays_of_a_country():
    """Thanksgiving is in the past, 25 December is forecast: only the model with holidays knows it."""
    times = pd.date_range("2025-11-03", periods=24 * 52, freq="1h", tz="UTC")
    off = pd.Series(times.tz_localize(None)).dt.normalize().isin(pd.to_datetime(["2025-11-11", "2025-11-27"]))
    y = np.where(off, 50.0, 100.0) + np.random.default_rng(0).normal(0, 2, len(times))
    known = KnownCovariates(times)
    plain, aware = (
        prophet(y, 24, 24, LEVELS, np.random.default_rng(0), known=known, country=c)[:, 1].mean() for c in ("", "US")
    )
    assert plain > 85 and aware < 65


def test_the_global_random_state_and_the_page_stay_as_they_were(capfd, caplog):
    np.random.seed(7)  # noqa: NPY002
    before = np.random.get_state()[1].copy()  # noqa: NPY002
    one, two = (prophet(demand(), 5, 24, LEVELS, np.random.default_rng(s)) for s in (1, 2))
    np.testing.assert_array_equal(np.random.get_state()[1], before)  # noqa: NPY002
    assert (one != two).any()
    printed = capfd.readouterr()
    assert printed.out == "" and printed.err == "" and not caplog.records


def test_a_constant_series_and_one_that_is_too_short():
    flat = prophet(np.full(48, 5.0), 3, 24, LEVELS, np.random.default_rng(0))
    np.testing.assert_allclose(flat, 5.0, atol=1e-3)
    with pytest.raises(TooShortError):
        prophet(np.ones(1), 3, 24, LEVELS, np.random.default_rng(0))
