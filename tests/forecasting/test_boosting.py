"""Boosting and forest: what they fit and draw, the forest's quantiles by a loop, invariances, no view of the future."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm, t
from sklearn.ensemble import RandomForestRegressor

from support.errors import SchemaError
from support.forecasting import boosting
from support.forecasting.boosting import KNOTS, between, fit_boosting, fit_forest
from support.forecasting.feature_blocks import scale_kind
from support.forecasting.features import features
from support.forecasting.local_models import BASELINE, LOCAL_MODELS
from support.forecasting.protocol import RollingOrigin, roll
from support.forecasting.quantile_frame import QUANTILE_LEVELS
from support.forecasting.scores import relative_loss, series_scores
from support.telemetry import ar1

CONTEXT, HORIZON, SEASON = 48, 6, 12
KEYS = {"context": CONTEXT, "horizon": HORIZON, "season": SEASON, "levels": QUANTILE_LEVELS}
SMALL = {fit_boosting: {"max_iter": 6}, fit_forest: {"n_estimators": 8}}
BOTH = pytest.mark.parametrize("fit", [fit_boosting, fit_forest])


def series_of(n=240, seed=0, level=50.0):
    rng = np.random.default_rng(seed)
    return level + 9 * np.sin(np.arange(n) * 2 * np.pi / SEASON + seed) + 4 * ar1(n, 8.0, 1.0, rng=rng)


def train_of():
    return {"a": series_of(), "b": series_of(200, 1, 5.0), "short": series_of(20, 2)}


def fitted(fit=fit_boosting, train=None, seed=0, **rest):
    return fit(train or train_of(), **KEYS, rng=np.random.default_rng(seed), **(SMALL[fit] | rest))


def predict(model, contexts, **rest):
    return model.predict(contexts, rng=np.random.default_rng(0), **rest)


def times_of(train, start="2026-01-05"):
    return {name: pd.date_range(start, periods=len(x), freq="2h", tz="UTC") for name, x in train.items()}


def sample(train, seed=0, times=None):
    return boosting._sample(train, CONTEXT, HORIZON, SEASON, times, ("US", "UTC"), np.random.default_rng(seed))


def test_inputs_and_targets_are_those_of_the_features_on_the_windows_scale():
    train = {"a": series_of(), "b": series_of(200, 1, 5.0)}
    pairs = sample(train)
    series = {
        name: pd.Series(x, pd.date_range("2026-01-01", periods=len(x), freq="5min", tz="UTC"))
        for name, x in train.items()
    }
    table = features(series, pairs.plan, ahead=list(range(1, HORIZON + 1)))
    assert set(pairs.names) <= set(table) | {"ahead"}
    wanted = {}
    for (name, cutoff, h), row in table.iterrows():
        end = series[name].index.get_loc(cutoff) + 1
        if end >= CONTEXT and end + h <= len(train[name]):
            window = train[name][end - CONTEXT : end]
            middle = np.median(window)
            spread = np.abs(window - middle).mean()
            taken = {"level": middle, "spread": 0.0}
            scaled = [
                np.arcsinh((row[c] - taken[scale_kind(c)]) / spread) if scale_kind(c) in taken else row[c]
                for c in pairs.names
            ]
            target = np.arcsinh((train[name][end + h - 1] - middle) / spread)
            wanted[tuple(np.round([*scaled, target], 9))] = True
    got = np.round(np.column_stack([pairs.inputs, pairs.targets]), 9)
    assert len(got) > 300 and all(tuple(row) in wanted for row in got)
    assert len({tuple(row) for row in got}) == len(got)  # no pair twice
    ahead = pairs.inputs[:, pairs.names.index("ahead")]
    assert set(ahead) == set(range(1, HORIZON + 1))


def test_the_forests_quantiles_against_a_loop_over_leaves():
    train = train_of()
    model = fitted(fit_forest, train, n_estimators=3)
    rng = np.random.default_rng(0)
    pairs = boosting._sample(train, CONTEXT, HORIZON, SEASON, None, ("US", "UTC"), rng)
    forest = RandomForestRegressor(
        3, min_samples_leaf=30, max_features=1 / 3, random_state=int(rng.integers(2**31))
    ).fit(pairs.inputs, pairs.targets)  # fmt: skip
    probe = pairs.inputs[::37]
    got = model.quantiles(probe)
    for row, quantiles in zip(probe, got, strict=True):
        drawn = []
        for tree in forest.estimators_:
            leaves = tree.apply(pairs.inputs.astype(np.float32))
            inside = np.sort(pairs.targets[leaves == tree.apply(row[None].astype(np.float32))[0]])
            drawn += [inside[int((k + 0.5) / 8 * len(inside))] for k in range(8)]
        np.testing.assert_allclose(quantiles, np.quantile(drawn, QUANTILE_LEVELS), rtol=1e-12)


def test_levels_between_the_fitted_ones_are_exact_for_a_normal_and_close_for_heavy_tails():
    levels = QUANTILE_LEVELS
    np.testing.assert_allclose(between(3 + 2 * norm.ppf(KNOTS), KNOTS, levels), 3 + 2 * norm.ppf(levels), rtol=1e-12)
    np.testing.assert_allclose(between(3 + 2 * norm.ppf(KNOTS), KNOTS, np.array([0.001, 0.999])),
                               3 + 2 * norm.ppf([0.001, 0.999]))  # fmt: skip
    np.testing.assert_allclose(between(t.ppf(KNOTS, 4), KNOTS, levels), t.ppf(levels, 4), atol=0.12)
    crossed = between(np.array([3.0, 1.0, 2.0]), np.array([0.1, 0.5, 0.9]), np.array([0.1, 0.5, 0.9]))
    np.testing.assert_allclose(crossed, [1.0, 2.0, 3.0])


@BOTH
@settings(deadline=None, max_examples=4)
@given(scale=st.floats(0.01, 1000), shift=st.floats(-1000, 1000))
def test_a_fitted_model_follows_unit_and_level(fit, scale, shift):
    """Nearly all quantiles move as the series does; the rest are of trees that split within the rounding."""
    train = {"a": series_of(), "b": series_of(200, 1)}
    model = fitted(fit, train)
    one, two = predict(model, train), predict(model, {name: scale * x + shift for name, x in train.items()})
    for name, x in train.items():
        away = np.abs(two[name] - (scale * one[name] + shift)) / (scale * x.std())
        assert (away < 1e-4).mean() > 0.9


@BOTH
def test_series_with_a_memory_are_forecast_better_than_by_the_base_and_are_covered(fit):
    plan = RollingOrigin(HORIZON, 8, SEASON, local_context=300, global_context=CONTEXT, n_windows=20)
    panel = {
        f"s{k}": pd.Series(series_of(900, k), pd.date_range("2026-01-01", periods=900, freq="5min", tz="UTC"))
        for k in range(6)
    }
    small = {fit_boosting: {"max_iter": 50}, fit_forest: {"n_estimators": 20}}[fit]
    result = roll(
        panel, protocol=plan, local_models={BASELINE: LOCAL_MODELS[BASELINE]},
        global_models={"g": lambda *a, **k: fit(*a, **k, **small)}, rng=np.random.default_rng(0),
    )  # fmt: skip
    scores = series_scores(result.frame, panel, season=SEASON)
    table = relative_loss(scores, baseline=BASELINE, rng=np.random.default_rng(0))
    assert table.loc["g", "upper"] < 0.9
    # 120 windows with a memory of about one window: the sd of the share is below 0.03
    assert scores.loc["g", "coverage_90"].mean() == pytest.approx(0.9, abs=0.09)


@BOTH
def test_times_tell_the_model_what_the_values_do_not(fit):
    """Load doubles on weekends, and the context of four days holds none when the weekend is forecast."""
    n, rng = 12 * 7 * 6, np.random.default_rng(0)
    index = pd.date_range("2026-01-05", periods=n, freq="2h", tz="UTC")  # a Monday
    values = 10 + 10.0 * (index.dayofweek >= 5) + rng.normal(size=n)
    cut = n - 24  # Saturday 00:00
    train, times = {"a": values[:cut]}, {"a": index[:cut]}
    enough = {"max_iter": 20, "learning_rate": 0.3} if fit is fit_boosting else {}
    blind = predict(fitted(fit, train, **enough), train)["a"]
    model = fitted(fit, train, times=times, **enough)
    seeing = predict(model, train, times=times)["a"]
    error = {k: np.abs(q[:, 7] - 20).mean() for k, q in {"blind": blind, "seeing": seeing}.items()}
    assert error["seeing"] < 0.5 * error["blind"]
    assert {"weekend", "hour_sin", "holiday"} <= set(model.names) and "weekend" not in fitted(fit, train).names
    with pytest.raises(SchemaError, match="each of its 480 values needs a time"):
        predict(model, train)
    with pytest.raises(SchemaError, match="needs a time"):
        predict(model, train, times={"a": index})
    with pytest.raises(SchemaError, match="needs a time"):
        fitted(fit, train, times={"a": index})


def test_cut_offs_are_thinned_and_the_nearer_steps_come_more_often():
    assert (sample({"a": series_of(4000)}).inputs[:, 0].size) <= boosting.MAX_CUTOFFS * boosting.STEPS_EACH
    pairs = boosting._sample(
        {"a": series_of(2000)}, CONTEXT, 100, SEASON, None, ("US", "UTC"), np.random.default_rng(0), 100
    )  # fmt: skip
    assert 300 < len(pairs.targets) <= 100 * boosting.STEPS_EACH
    ahead = pairs.inputs[:, pairs.names.index("ahead")]
    assert ahead.min() >= 1 and ahead.max() <= 100 and 0.25 < (ahead <= 10).mean() < 0.5


def test_without_a_season_there_are_no_seasonal_columns():
    model = fit_boosting({"a": series_of()}, **(KEYS | {"season": 1}), rng=np.random.default_rng(0), max_iter=2)
    assert not [name for name in model.names if name.startswith(("seasonal", "profile"))]
    assert predict(model, {"a": series_of()})["a"].shape == (HORIZON, 15)
