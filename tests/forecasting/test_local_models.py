"""Local forecasters: loops and closed forms, the library's own intervals, the explosion, no view of the future."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm
from statsforecast.models import AutoARIMA, AutoETS, DynamicOptimizedTheta

from support.errors import TooShortError
from support.forecasting.local_models import BASELINE, LOCAL_MODELS, climatology, seasonal_naive_empirical
from support.forecasting.protocol import RollingOrigin, roll
from support.forecasting.quantile_frame import QUANTILE_LEVELS, arrays_of

PLAN = RollingOrigin(horizon=6, step=8, season=12, local_context=96, global_context=24, n_windows=3)
EVERY = pytest.mark.parametrize("name", LOCAL_MODELS)


def series_of(n=130, seed=0):
    rng = np.random.default_rng(seed)
    return 50 + 9 * np.sin(np.arange(n) * 2 * np.pi / 12) + rng.gamma(2, 3, n) + rng.normal(0, 1, n).cumsum()


def forecast(name, context, horizon=6, season=12, levels=QUANTILE_LEVELS):
    return LOCAL_MODELS[name](context, horizon, season, levels, np.random.default_rng(0))


def rolled(name, values):
    index = pd.date_range("2026-01-01", periods=len(values), freq="5min", tz="UTC")
    return roll(
        {"s": pd.Series(values, index)}, protocol=PLAN, local_models={name: LOCAL_MODELS[name]},
        rng=np.random.default_rng(0),
    )  # fmt: skip


@EVERY
def test_no_model_sees_the_future(name):
    values = series_of()
    clean = rolled(name, values)
    assert clean.ledger.loc[name, "fallbacks"] == 0
    wanted = arrays_of(clean.frame, name).quantiles[0]
    rng = np.random.default_rng(1)
    for window in (0, 1, 2):
        cut = PLAN.cutoffs(len(values))[window]
        permuted, replaced = values.copy(), values.copy()
        permuted[cut:] = rng.permutation(values[cut:])
        replaced[cut:] = rng.uniform(0, 1e4, len(values) - cut)
        for changed in (permuted, replaced) if window == 1 else (replaced,):
            got = arrays_of(rolled(name, changed).frame, name).quantiles[0]
            np.testing.assert_array_equal(got[: window + 1], wanted[: window + 1])
            for later in range(window + 1, 3):
                assert (got[later] != wanted[later]).any(), "the test would not notice a leak"


@EVERY
@pytest.mark.parametrize("horizon", [1, 6, 30])
def test_shape_order_and_levels(name, horizon):
    context = series_of(96)
    found = forecast(name, context, horizon)
    assert found.shape == (horizon, 15) and np.isfinite(found).all() and (np.diff(found, axis=1) >= 0).all()
    few = np.array([0.05, 0.5, 0.9])
    places = [int(np.flatnonzero(level == QUANTILE_LEVELS)[0]) for level in few]
    np.testing.assert_array_equal(forecast(name, context, horizon, levels=few), found[:, places])


@EVERY
def test_a_forecast_repeats_bit_for_bit(name):
    np.testing.assert_array_equal(forecast(name, series_of(96)), forecast(name, series_of(96)))


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 9), st.integers(1, 25), st.integers(2, 60), st.integers(0, 99))
def test_seasonal_naive_by_loop(season, horizon, n, seed):
    rng = np.random.default_rng(seed)
    context = rng.normal(size=season + n)
    found = seasonal_naive_empirical(context, horizon, season, QUANTILE_LEVELS, rng)
    errors = [context[t] - context[t - season] for t in range(season, len(context))]
    for h in range(horizon):
        source = len(context) + h
        while source >= len(context):
            source -= season
        np.testing.assert_allclose(found[h], context[source] + np.quantile(errors, QUANTILE_LEVELS), rtol=1e-12)


@pytest.mark.parametrize(("season", "horizon"), [(1, 4), (5, 12), (12, 7), (47, 3), (48, 60), (96, 5), (100, 120)])
def test_climatology_by_loop(season, horizon):
    """The pool by angles: all past values whose phase lies within a 48th of a turn of that of the step ahead."""
    context = np.random.default_rng(0).normal(size=230)
    found = climatology(context, horizon, season, QUANTILE_LEVELS, np.random.default_rng(0))
    for h in range(horizon):
        near = []
        for t, value in enumerate(context):
            turn = np.exp(2j * np.pi * (len(context) + h - t) / season)
            if abs(np.angle(turn)) <= 2 * np.pi / 48 + 1e-9:
                near.append(value)
        np.testing.assert_allclose(found[h], np.quantile(near, QUANTILE_LEVELS), rtol=1e-12)


@pytest.mark.parametrize(("step_minutes", "pooled"), [(60, 1), (30, 3), (5, 13), (1, 61)])
def test_climatology_pools_half_an_hour_of_a_day_at_any_step(step_minutes, pooled):
    """A context of one day, each value its own minute: the range of the quantiles is that of the pool."""
    season = 1440 // step_minutes
    context = np.arange(season) * float(step_minutes)
    found = climatology(context, season, season, np.array([0.0, 1.0]), np.random.default_rng(0))
    noon = found[season // 2]
    assert noon.tolist() == [720 - (pooled - 1) / 2 * step_minutes, 720 + (pooled - 1) / 2 * step_minutes]
    assert noon[1] - noon[0] <= 60


def test_naive_in_closed_form():
    context = series_of(96)
    steps = np.diff(context)
    found = forecast("Naive", context)
    sd = np.sqrt((steps**2).sum() / len(steps))
    wanted = context[-1] + np.sqrt(np.arange(1, 7))[:, None] * norm.ppf(QUANTILE_LEVELS) * sd
    np.testing.assert_allclose(found, wanted, rtol=0.01)  # the library divides by one degree of freedom more or less


@pytest.mark.parametrize(
    ("name", "model"),
    [
        ("AutoETS (AZN)", AutoETS(season_length=1, model="AZN")),
        ("AutoARIMA (m=1)", AutoARIMA(season_length=1)),
        ("DynamicOptimizedTheta", DynamicOptimizedTheta(season_length=12)),
    ],
)
def test_levels_are_the_bounds_of_the_librarys_intervals(name, model):
    context = series_of(96)
    theirs = model.forecast(context, h=6, level=[50, 90, 95])
    found = dict(zip(QUANTILE_LEVELS.tolist(), forecast(name, context).T, strict=True))
    np.testing.assert_allclose(found[0.5], theirs["mean"], rtol=1e-9)
    for share, lower, upper in ((50, 0.25, 0.75), (90, 0.05, 0.95), (95, 0.025, 0.975)):
        np.testing.assert_allclose(found[lower], theirs[f"lo-{share}"], rtol=1e-9)
        np.testing.assert_allclose(found[upper], theirs[f"hi-{share}"], rtol=1e-9)


def test_multiplicative_errors_explode_and_additive_ones_do_not():
    rng = np.random.default_rng(0)
    context = rng.gamma(8, 1, 300)
    context[rng.integers(0, 300, 4)] *= rng.uniform(50, 300, 4)  # a quiet series with four spikes
    additive, chosen = (forecast(name, context, 120) for name in ("AutoETS (AZN)", "AutoETS (ZZZ)"))
    assert additive[-1, -1] < 10 * context.max()
    assert chosen[-1, -1] > 1e3 * context.max()


@pytest.mark.parametrize("name", [BASELINE, "Climatology", "MSTL+AutoARIMA", "MSTL+AutoETS (ZZN)"])
def test_too_short_or_without_a_season(name):
    with pytest.raises(TooShortError):
        forecast(name, series_of(3), season=1 if "MSTL" in name else 12)


@pytest.mark.parametrize("name", ["MSTL+AutoETS (ZZN)", "DynamicOptimizedTheta"])
def test_a_series_on_which_a_model_fails_is_counted(name):
    plan = RollingOrigin(horizon=2, step=2, season=1, local_context=3, global_context=2, n_windows=4)
    index = pd.date_range("2026-01-01", periods=20, freq="5min", tz="UTC")
    panel = {"s": pd.Series(series_of(20), index)}
    models = {m: LOCAL_MODELS[m] for m in (BASELINE, name)}
    result = roll(panel, protocol=plan, local_models=models, rng=np.random.default_rng(0))
    assert result.ledger["fallbacks"].to_dict() == {BASELINE: 0, name: 4}
    assert len(result.failures) == 4 and (result.failures["model"] == name).all()
    base, other = (arrays_of(result.frame, m).quantiles for m in (BASELINE, name))
    np.testing.assert_array_equal(base, other)
