"""Rolling calibration: loops, coverage where theory promises it, never a look at the window itself or later ones."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import SchemaError, TooShortError
from support.forecasting.calibration_online import residual_conformal, rolling_cqr
from support.forecasting.quantile_frame import QUANTILE_LEVELS, ModelForecasts

HORIZON, WINDOWS, BLOCKS = 10, 6, (4, 10)
BOTH = pytest.mark.parametrize("calibrate", [residual_conformal, rolling_cqr])


def forecasts_of(seed=0, n_series=2, n_window=WINDOWS, horizon=HORIZON, gap=2, sd=1.0):
    """A model that believes in a standard normal; what comes is normal too, with `sd` and mean 0.5."""
    rng = np.random.default_rng(seed)
    from scipy.stats import norm

    hour = np.timedelta64(3600, "s")
    cutoffs = np.datetime64("2026-01-01", "ns") + np.arange(n_window) * (horizon + gap) * hour
    times = cutoffs[:, None] + np.arange(1, horizon + 1) * hour
    centre = rng.normal(0, 5, (n_series, n_window, horizon))
    quantiles = centre[..., None] + norm.ppf(QUANTILE_LEVELS)
    seen = centre + rng.normal(0.5, sd, centre.shape)
    names = tuple(f"s{k}" for k in range(n_series))
    return ModelForecasts(
        "m", names, np.tile(cutoffs, (n_series, 1)), np.tile(times, (n_series, 1, 1)), seen, quantiles, QUANTILE_LEVELS
    )


@BOTH
@settings(deadline=None, max_examples=20)
@given(window=st.integers(1, WINDOWS - 1), seed=st.integers(0, 99))
def test_windows_from_w_on_do_not_touch_the_calibration_of_w(calibrate, window, seed):
    forecasts = forecasts_of()
    rng = np.random.default_rng(seed)
    observed, quantiles = forecasts.observed.copy(), forecasts.quantiles.copy()
    observed[:, window:] = rng.normal(0, 1e6, observed[:, window:].shape)
    quantiles[:, window + 1 :] += rng.normal(0, 1e6, (*quantiles[:, window + 1 :].shape[:-1], 1))
    clean = calibrate(forecasts, block_ends=BLOCKS, first_window=1).quantiles
    shocked = calibrate(replace(forecasts, observed=observed, quantiles=quantiles), block_ends=BLOCKS, first_window=1)
    np.testing.assert_array_equal(shocked.quantiles[:, :window], clean[:, :window])  # row 0 is window 1
    for later in range(window, WINDOWS - 1):
        assert (shocked.quantiles[:, later] != clean[:, later]).any()


@BOTH
def test_series_do_not_touch_each_other(calibrate):
    forecasts = forecasts_of()
    observed = forecasts.observed.copy()
    observed[1] += 1e6
    one, two = (calibrate(f, block_ends=BLOCKS) for f in (forecasts, replace(forecasts, observed=observed)))
    np.testing.assert_array_equal(one.quantiles[0], two.quantiles[0])
    assert (one.quantiles[1] != two.quantiles[1]).all()


def past_points(forecasts, series, window, first, end):
    return [(s, h) for s in range(window) for h in range(first, end)]


@pytest.mark.parametrize("blocks", [(10,), (4, 10), tuple(range(1, 11))])
def test_residual_conformal_by_loop(blocks):
    forecasts = forecasts_of()
    made = residual_conformal(forecasts, block_ends=blocks, first_window=2)
    assert made.model == "m conf" and made.quantiles.shape == (2, WINDOWS - 2, HORIZON, 15)
    np.testing.assert_array_equal(made.observed, forecasts.observed[:, 2:])
    for series in range(2):
        for window in range(2, WINDOWS):
            for first, end in zip((0, *blocks[:-1]), blocks, strict=True):
                points = past_points(forecasts, series, window, first, end)
                errors = [forecasts.observed[series][p] - forecasts.quantiles[series][p][7] for p in points]
                for h in range(first, end):
                    wanted = forecasts.quantiles[series, window, h, 7] + np.quantile(errors, QUANTILE_LEVELS)
                    np.testing.assert_allclose(made.quantiles[series, window - 2, h], wanted, rtol=1e-9)


@pytest.mark.parametrize("blocks", [(10,), (4, 10)])
def test_cqr_by_loop(blocks):
    forecasts = forecasts_of()
    made = rolling_cqr(forecasts, block_ends=blocks, first_window=2)
    for series in range(2):
        for window in range(2, WINDOWS):
            for first, end in zip((0, *blocks[:-1]), blocks, strict=True):
                points = past_points(forecasts, series, window, first, end)
                shifts = []
                for k, level in enumerate(QUANTILE_LEVELS):
                    misses = sorted(forecasts.observed[series][p] - forecasts.quantiles[series][p][k] for p in points)
                    n = len(misses)
                    rank = np.ceil(level * (n + 1)) if level > 0.5 else np.floor(level * (n + 1))
                    shifts.append(misses[int(min(max(rank, 1), n)) - 1])
                for h in range(first, end):
                    wanted = np.sort(forecasts.quantiles[series, window, h] + shifts)
                    np.testing.assert_allclose(made.quantiles[series, window - 2, h], wanted, rtol=1e-9)


@BOTH
@pytest.mark.parametrize("sd", [0.3, 1.0, 3.0])
def test_wrong_widths_and_a_bias_are_mended(calibrate, sd):
    forecasts = forecasts_of(n_series=200, n_window=8, sd=sd)
    made = calibrate(forecasts, block_ends=(HORIZON,), first_window=7)
    below = (made.observed[..., None] <= made.quantiles).mean(axis=(0, 1, 2))
    n_past = 7 * HORIZON
    # 2,000 points in 200 groups that share a calibration: its level has sd sqrt(p (1 - p) / n_past) by group
    p = QUANTILE_LEVELS
    spread = np.sqrt(p * (1 - p) * (1 / (200 * HORIZON) + 1 / (200 * n_past)))
    assert (np.abs(below - p) < 4 * spread + 1 / (n_past + 1)).all()
    if sd != 1.0:
        raw = (forecasts.observed[..., None] <= forecasts.quantiles).mean(axis=(0, 1, 2))
        assert np.abs(raw - p).max() > 0.1


@BOTH
def test_quantiles_stay_sorted(calibrate):
    made = calibrate(forecasts_of(sd=4.0), block_ends=BLOCKS)
    assert (np.diff(made.quantiles, axis=-1) >= 0).all() and made.cutoffs.shape == (2, 3)


@BOTH
def test_refusals(calibrate):
    forecasts = forecasts_of()
    for blocks in ((), (4,), (4, 4, 10), (12,)):
        with pytest.raises(SchemaError, match="must increase and end at 10"):
            calibrate(forecasts, block_ends=blocks)
    for first in (0, WINDOWS):
        with pytest.raises(TooShortError, match="first window"):
            calibrate(forecasts, block_ends=BLOCKS, first_window=first)
    with pytest.raises(SchemaError, match="ends after the next cut-off"):
        calibrate(forecasts_of(gap=-3), block_ends=BLOCKS)
    no_median = replace(forecasts, levels=QUANTILE_LEVELS + 0.001)
    with pytest.raises(SchemaError, match=r"no level 0\.5"):
        calibrate(no_median, block_ends=BLOCKS)
