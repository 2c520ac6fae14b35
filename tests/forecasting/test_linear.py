"""Ridge and RVFL against scikit-learn, their invariances, their coverage, and no view of the future."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from support.forecasting import linear
from support.forecasting import windows as windowing
from support.forecasting.linear import fit_ridge, fit_rvfl
from support.forecasting.local_models import BASELINE, LOCAL_MODELS
from support.forecasting.protocol import RollingOrigin, roll
from support.forecasting.quantile_frame import QUANTILE_LEVELS
from support.forecasting.scores import relative_loss, series_scores
from support.telemetry import ar1

CONTEXT, HORIZON, SEASON = 24, 6, 12
KEYS = {"context": CONTEXT, "horizon": HORIZON, "season": SEASON, "levels": QUANTILE_LEVELS}
BOTH = pytest.mark.parametrize("fit", [fit_ridge, fit_rvfl])


def series_of(n=200, seed=0, level=50.0):
    rng = np.random.default_rng(seed)
    return level + 9 * np.sin(np.arange(n) * 2 * np.pi / SEASON + seed) + 4 * ar1(n, 8.0, 1.0, rng=rng)


def train_of():
    return {"a": series_of(), "b": series_of(170, 1, 5.0), "short": series_of(20, 2)}


def fitted(fit=fit_ridge, train=None, seed=0):
    return fit(train or train_of(), **KEYS, rng=np.random.default_rng(seed))


def predict(model, contexts):
    return model.predict(contexts, rng=np.random.default_rng(0))


def windows_by_loop(train):
    """(inputs, targets, series) on the asinh scale, one window after the other."""
    inputs, targets, names = [], [], []
    for name, x in train.items():
        for end in range(CONTEXT, len(x) - HORIZON + 1):
            past, ahead = x[end - CONTEXT : end], x[end : end + HORIZON]
            middle = np.median(past)
            spread = np.mean(np.abs(past - middle))
            inputs.append(np.arcsinh((past - middle) / spread))
            targets.append(np.arcsinh((ahead - middle) / spread))
            names.append(name)
    return np.array(inputs), np.array(targets), np.array(names)


@BOTH
def test_coefficients_and_quantiles_against_scikit_learn(fit):
    train = train_of()
    model = fitted(fit, train)
    inputs, targets, names = windows_by_loop(train)
    assert model.hidden.shape == (CONTEXT + 1, 500 if fit is fit_rvfl else 0)

    def widen(z):
        return np.hstack([z, np.tanh(z @ model.hidden[:-1] + model.hidden[-1])])

    theirs = Ridge(alpha=model.penalty).fit(widen(inputs), targets)
    np.testing.assert_allclose(model.coefficients, theirs.coef_.T, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(model.intercept, theirs.intercept_, rtol=1e-6, atol=1e-8)
    past = train["a"][-CONTEXT:]
    middle = np.median(past)
    spread = np.abs(past - middle).mean()
    point = theirs.predict(widen(np.arcsinh((past - middle) / spread)[None]))[0]
    residuals = targets - theirs.predict(widen(inputs))
    for name in ("a", "new"):
        for h in range(HORIZON):
            pooled = np.quantile(residuals[:, h], QUANTILE_LEVELS)
            own = np.quantile(residuals[names == "a", h], QUANTILE_LEVELS) if name == "a" else pooled
            error = model.own_share * own + (1 - model.own_share) * pooled
            error = error[7] + model.widening * (error - error[7])
            got = predict(model, {name: past})[name][h]
            np.testing.assert_allclose(got, middle + spread * np.sinh(point[h] + error), rtol=1e-6)


@BOTH
@settings(deadline=None, max_examples=5)
@given(scale=st.floats(0.01, 1000), shift=st.floats(-1000, 1000))
def test_forecasts_follow_unit_and_level(fit, scale, shift):
    train = {"a": series_of(120), "b": series_of(110, 1)}
    moved = {name: scale * x + shift for name, x in train.items()}
    one, two = (predict(fitted(fit, t), t) for t in (train, moved))
    for name in train:
        np.testing.assert_allclose(two[name], scale * one[name] + shift, rtol=1e-5, atol=1e-5 * (scale + abs(shift)))


@BOTH
def test_series_with_a_memory_are_forecast_better_than_by_the_base_and_are_covered(fit):
    plan = RollingOrigin(HORIZON, 8, SEASON, local_context=300, global_context=CONTEXT, n_windows=20)
    panel = {
        f"s{k}": pd.Series(series_of(900, k), pd.date_range("2026-01-01", periods=900, freq="5min", tz="UTC"))
        for k in range(6)
    }
    result = roll(
        panel, protocol=plan, local_models={BASELINE: LOCAL_MODELS[BASELINE]}, global_models={"g": fit},
        rng=np.random.default_rng(0),
    )  # fmt: skip
    scores = series_scores(result.frame, panel, season=SEASON)
    table = relative_loss(scores, baseline=BASELINE, rng=np.random.default_rng(0))
    assert table.loc["g", "upper"] < 0.9
    # 120 windows with a memory of about one window: the sd of the share is below 0.03
    assert scores.loc["g", "coverage_90"].mean() == pytest.approx(0.9, abs=0.09)


def test_the_chosen_settings_come_from_the_grids():
    model = fitted()
    assert model.own_share in linear.OWN_SHARES and model.widening in linear.WIDENINGS
    early = sum(max(0, len(x) - CONTEXT - 2 * HORIZON + 1) for x in train_of().values())
    assert any(model.penalty == pytest.approx(p * early) for p in linear.PENALTIES)


def test_training_windows_are_thinned_but_keep_the_newest(monkeypatch):
    monkeypatch.setattr(windowing, "MAX_WINDOWS", 50)
    windows = windowing.training_windows(train_of(), CONTEXT, HORIZON)
    assert len(windows.inputs) <= 50 + 2
    inputs, targets, names = windows_by_loop(train_of())
    for k, name in enumerate(train_of()):
        if (names == name).any():
            np.testing.assert_allclose(windows.inputs[windows.series == k][-1], inputs[names == name][-1], rtol=1e-9)
            np.testing.assert_allclose(windows.targets[windows.series == k][-1], targets[names == name][-1], rtol=1e-9)
