"""What every global model of the book owes: no view of the future, its own scale, its seed, clear refusals."""

import pickle
from functools import partial

import numpy as np
import pandas as pd
import pytest

from support.errors import TooShortError
from support.forecasting.boosting import fit_boosting, fit_forest
from support.forecasting.linear import fit_deep_rvfl, fit_emd_rvfl, fit_ridge, fit_rvfl, fit_rvfl_ensemble
from support.forecasting.neural.models import fit_bilstm_attention, fit_lstm, fit_transformer
from support.forecasting.neural.training import TrainingPlan
from support.forecasting.protocol import RollingOrigin, roll
from support.forecasting.quantile_frame import QUANTILE_LEVELS, arrays_of
from support.telemetry import ar1

CONTEXT, HORIZON, SEASON = 48, 6, 12
KEYS = {"context": CONTEXT, "horizon": HORIZON, "season": SEASON, "levels": QUANTILE_LEVELS}
NET = {"width": 8, "patch": 12, "plan": TrainingPlan(steps=8, judge_every=4, batch=8, steps_ahead=4)}
FITS = {
    "ridge": fit_ridge,
    "rvfl": fit_rvfl,
    "deep rvfl": partial(fit_deep_rvfl, n_nodes=20, n_layers=2),
    "rvfl ensemble": partial(fit_rvfl_ensemble, n_members=2),
    "emd rvfl": partial(fit_emd_rvfl, n_nodes=20, n_modes=2),
    "boosting": partial(fit_boosting, max_iter=6),
    "forest": partial(fit_forest, n_estimators=8),
    "lstm": partial(fit_lstm, **NET),
    "bilstm": partial(fit_bilstm_attention, n_head=2, **NET),
    "transformer": partial(fit_transformer, n_head=2, n_layer=1, n_wave=4, **NET | {"width": 12}),
}
NETS = ("lstm", "bilstm", "transformer")
EVERY = pytest.mark.parametrize("kind", list(FITS))


def series_of(n=240, seed=0, level=50.0):
    rng = np.random.default_rng(seed)
    return level + 9 * np.sin(np.arange(n) * 2 * np.pi / SEASON + seed) + 4 * ar1(n, 8.0, 1.0, rng=rng)


def train_of():
    return {"a": series_of(), "b": series_of(200, 1, 5.0), "still": np.full(200, 7.0), "short": series_of(20, 2)}


@pytest.fixture(scope="module")
def fitted():
    made = {}

    def of(kind):
        if kind not in made:
            made[kind] = FITS[kind](train_of(), **KEYS, rng=np.random.default_rng(0))
        return made[kind]

    return of


def predict(model, contexts):
    return model.predict(contexts, rng=np.random.default_rng(0))


@EVERY
def test_no_model_sees_the_future(kind):
    """Values after a cut-off are permuted in one series and replaced in the other: what was forecast there stays."""
    plan = RollingOrigin(HORIZON, 8, SEASON, local_context=96, global_context=CONTEXT, n_windows=2)
    values = {"a": series_of(), "b": series_of(200, 1, 5.0)}

    def run(values):
        panel = {
            name: pd.Series(x, pd.date_range("2026-01-01", periods=len(x), freq="5min", tz="UTC"))
            for name, x in values.items()
        }
        result = roll(
            panel, protocol=plan, local_models={}, global_models={"g": FITS[kind]}, rng=np.random.default_rng(0)
        )
        assert result.ledger.loc["g", "fallbacks"] == 0
        return arrays_of(result.frame, "g").quantiles

    wanted, rng = run(values), np.random.default_rng(1)
    for window in range(2):
        first, second = (plan.cutoffs(len(x))[window] for x in values.values())
        changed = {
            "a": np.r_[values["a"][:first], rng.permutation(values["a"][first:])],
            "b": np.r_[values["b"][:second], rng.uniform(0, 1e4, len(values["b"]) - second)],
        }
        got = run(changed)
        np.testing.assert_array_equal(got[:, : window + 1], wanted[:, : window + 1])
        assert (got[:, window + 1 :] != wanted[:, window + 1 :]).any(axis=(2, 3)).all()


@EVERY
def test_the_seed_alone_decides_and_quantiles_never_decrease(kind, fitted):
    newest = {"a": train_of()["a"]}
    one = predict(fitted(kind), newest)["a"]
    again, other = (
        predict(FITS[kind](train_of(), **KEYS, rng=np.random.default_rng(seed)), newest)["a"] for seed in (0, 1)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any() == (kind != "ridge")  # a closed form draws nothing
    assert one.shape == (HORIZON, len(QUANTILE_LEVELS)) and (np.diff(one, axis=1) >= 0).all()


@EVERY
def test_a_series_is_forecast_alike_alone_among_others_and_with_more_past(kind, fitted):
    train = {name: train_of()[name] for name in ("a", "b")}
    together = predict(fitted(kind), train)
    for name, x in train.items():
        alone = predict(fitted(kind), {name: np.r_[np.full(9, 1e9), x]})[name]
        np.testing.assert_allclose(alone, together[name], rtol=1e-5 if kind in NETS else 1e-12)


@EVERY
def test_a_series_the_model_was_not_trained_on_is_forecast_in_its_own_unit(kind, fitted):
    """A tenth of the scale on another level: for a model that scales each context, the forecast moves with it."""
    new = 0.1 * train_of()["a"][-CONTEXT:] + 3
    found = predict(fitted(kind), {"unknown": new})["unknown"]
    assert np.isfinite(found).all() and (np.diff(found, axis=1) >= 0).all()
    assert new.min() - 3 * np.ptp(new) < found[:, 7].min() and found[:, 7].max() < new.max() + 3 * np.ptp(new)


@EVERY
def test_a_constant_series_is_forecast_as_it_is(kind, fitted):
    quantiles = predict(fitted(kind), {"still": np.full(CONTEXT, 7.0)})["still"]
    assert quantiles[:, 7] == pytest.approx(7.0, abs=0.5) and np.isfinite(quantiles).all()


@EVERY
def test_a_stored_model_forecasts_the_same(kind, fitted):
    if kind in NETS:
        pytest.skip("nets are stored by save_net: tests/forecasting/neural/test_models.py")
    newest = {"a": train_of()["a"]}
    again = pickle.loads(pickle.dumps(fitted(kind)))
    np.testing.assert_array_equal(predict(again, newest)["a"], predict(fitted(kind), newest)["a"])


@EVERY
def test_too_short_a_past_is_named(kind, fitted):
    needed = {"boosting": CONTEXT + HORIZON, "forest": CONTEXT + HORIZON}.get(kind, CONTEXT + 2 * HORIZON)
    with pytest.raises(TooShortError, match=f"longest series has {needed - 1} values; at least {needed}"):
        FITS[kind]({"a": series_of(needed - 1)}, **KEYS, rng=np.random.default_rng(0))
    if kind not in NETS:  # each length is another program to compile
        assert FITS[kind]({"a": series_of(needed)}, **KEYS, rng=np.random.default_rng(0))
    with pytest.raises(TooShortError, match=f"b: {CONTEXT - 1} values"):
        predict(fitted(kind), {"a": series_of(), "b": series_of(CONTEXT - 1)})
