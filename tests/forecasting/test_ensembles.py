"""Ensembles: closed forms and a search for the weights, missing members, and never a look at the window or later ones."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.optimize import minimize_scalar
from scipy.stats import norm

from support.errors import SchemaError, TooShortError
from support.forecasting.ensembles import (
    mean_and_spread,
    median_ensemble,
    stacked,
    weighted_average,
    without_fallbacks,
)
from support.forecasting.metrics import pinball
from support.forecasting.quantile_frame import ModelForecasts

LEVELS = np.array([0.1, 0.5, 0.9])
HORIZON, WINDOWS, SERIES = 6, 5, 2
LEARNED = pytest.mark.parametrize("combine", [weighted_average, stacked])


def member(name, bias, sd, *, seed=0):
    rng = np.random.default_rng(seed)
    hour = np.timedelta64(3600, "s")
    cutoffs = np.datetime64("2026-01-01", "ns") + np.arange(WINDOWS) * (HORIZON + 2) * hour
    times = cutoffs[:, None] + np.arange(1, HORIZON + 1) * hour
    truth = rng.normal(0, 3, (SERIES, WINDOWS, HORIZON))
    seen = truth + rng.normal(0, 1, truth.shape)
    quantiles = (truth + bias)[..., None] + sd * norm.ppf(LEVELS)
    names = tuple(f"s{k}" for k in range(SERIES))
    return ModelForecasts(
        name, names, np.tile(cutoffs, (SERIES, 1)), np.tile(times, (SERIES, 1, 1)), seen, quantiles, LEVELS
    )


def members():
    return [member("good", 0.0, 1.0), member("high", 3.0, 1.0), member("wide", 0.0, 6.0)]


def shocked(forecasts, window, seed):
    """Outcomes from `window` on and quantiles after it replaced: what the combination of `window` may not depend on."""
    rng = np.random.default_rng(seed)
    observed, quantiles = forecasts.observed.copy(), forecasts.quantiles.copy()
    observed[:, window:] = rng.permuted(observed[:, window:], axis=2) * 50
    quantiles[:, window + 1 :] += 1e5 * seed
    return replace(forecasts, observed=observed, quantiles=quantiles)


@LEARNED
@pytest.mark.parametrize("window", range(1, WINDOWS))
def test_outcomes_from_a_window_on_do_not_touch_its_combination(combine, window):
    clean = combine(members(), first_window=1)
    later = combine([shocked(m, window, k + 2) for k, m in enumerate(members())], first_window=1)
    np.testing.assert_array_equal(clean.forecasts.quantiles[:, :window], later.forecasts.quantiles[:, :window])
    np.testing.assert_array_equal(clean.weights[:, :window], later.weights[:, :window])
    if window < WINDOWS - 1:
        assert (clean.weights[:, window:] != later.weights[:, window:]).any()


def test_given_weights_are_the_weighted_mean_of_each_quantile():
    made = weighted_average(members(), weights=[2, 1, 1])
    by_hand = sum(w * m.quantiles for w, m in zip([0.5, 0.25, 0.25], members(), strict=True))
    np.testing.assert_allclose(made.forecasts.quantiles, by_hand, rtol=1e-12)
    assert made.missing == {"good": 0, "high": 0, "wide": 0} and made.forecasts.observed.shape[1] == WINDOWS


def test_weights_from_the_past_are_one_over_the_loss():
    made = weighted_average(members(), first_window=2)
    for series in range(SERIES):
        loss = [pinball(m.observed[series, :2], m.quantiles[series, :2], LEVELS).mean() for m in members()]
        np.testing.assert_allclose(made.weights[series, 0], 1 / np.array(loss) / (1 / np.array(loss)).sum(), rtol=1e-12)
    assert made.weights[..., 0].min() > made.weights[..., 1:].max()


def test_median_is_the_median_of_each_quantile_and_withstands_one_exploding_member():
    made = median_ensemble(members()).forecasts
    np.testing.assert_allclose(made.quantiles, np.median([m.quantiles for m in members()], axis=0), rtol=1e-12)
    wild = replace(members()[2], quantiles=members()[2].quantiles * 1e30)
    assert np.abs(median_ensemble([*members()[:2], wild]).forecasts.quantiles).max() < 50


def test_stacking_finds_the_least_pinball_loss():
    one, other = members()[0], members()[2]
    found = stacked([one, other], first_window=WINDOWS - 1).weights[:, 0]
    past = slice(0, WINDOWS - 1)
    for series in range(SERIES):

        def loss(weight, series=series):
            mixed = weight * one.quantiles[series, past] + (1 - weight) * other.quantiles[series, past]
            return pinball(one.observed[series, past], mixed, LEVELS).mean()

        best = minimize_scalar(loss, bounds=(0, 1), method="bounded", options={"xatol": 1e-9})
        assert loss(found[series, 0]) <= best.fun + 1e-9
        assert found[series].sum() == pytest.approx(1) and found[series].min() >= 0


def test_mean_and_spread_is_normal_around_the_mean_with_half_the_distance_as_deviation():
    one, other = members()[:2]
    made = mean_and_spread(one, other).forecasts.quantiles
    centre = (one.quantiles[..., 1] + other.quantiles[..., 1]) / 2
    np.testing.assert_allclose(made, centre[..., None] + 1.5 * norm.ppf(LEVELS), rtol=1e-12, atol=1e-12)


def test_missing_members_are_left_out_counted_and_the_rest_rescaled():
    one, other, third = members()
    hole = one.quantiles.copy()
    hole[1, 4, 2, 0] = np.nan
    one = replace(one, quantiles=hole)
    for made in (weighted_average([one, other, third], weights=[2, 1, 1]), median_ensemble([one, other, third])):
        np.testing.assert_allclose(
            made.forecasts.quantiles[1, 4], (other.quantiles[1, 4] + third.quantiles[1, 4]) / 2, rtol=1e-12
        )
        assert made.missing == {"good": 1, "high": 0, "wide": 0}
    for combine in (weighted_average, stacked):
        made = combine([one, other, third], first_window=2)
        assert np.isfinite(made.forecasts.quantiles).all() and made.weights[1, 2, 0] == 0 and made.missing["good"] == 1
    with pytest.raises(SchemaError, match="missing in 1 windows"):
        mean_and_spread(one, other)
    gone = [replace(m, quantiles=hole * np.nan) for m in members()]
    with pytest.raises(SchemaError, match="no member forecast window 0 of s0"):
        median_ensemble(gone)


def test_windows_of_fallbacks_are_marked_by_the_table_of_failures():
    one = members()[0]
    row = {"model": "good", "unique_id": "s1", "cutoff": pd.Timestamp(one.cutoffs[1, 3], tz="UTC"), "reason": "x"}
    marked = without_fallbacks(one, pd.DataFrame([row, row | {"model": "another", "unique_id": "s0"}]))
    assert np.isnan(marked.quantiles[1, 3]).all() and np.isnan(marked.quantiles).sum() == HORIZON * len(LEVELS)
    assert np.isfinite(one.quantiles).all()


def test_what_does_not_fit_is_refused():
    one, other = members()[:2]
    with pytest.raises(SchemaError, match="at least two"):
        median_ensemble([one])
    with pytest.raises(SchemaError, match="differ in series"):
        median_ensemble([one, replace(other, series=("a", "b"))])
    with pytest.raises(SchemaError, match="none may be negative"):
        weighted_average([one, other], weights=[1, -1])
    with pytest.raises(TooShortError, match="first window 5 of 5"):
        stacked([one, other], first_window=WINDOWS)
    late = [replace(m, times=m.times + np.timedelta64(12, "h")) for m in (one, other)]
    with pytest.raises(SchemaError, match="not known yet"):
        weighted_average(late, first_window=1)
