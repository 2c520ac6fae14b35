"""Forecast: what it refuses, its quantiles against numpy, its joint paths, and Nixtla's frame there and back."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import spearmanr

from support.errors import SchemaError
from support.forecasting import LEVELS, Forecast

AT = pd.Timestamp("2026-01-01", tz="UTC")
KEYS = {"issued_at": AT, "step_seconds": 60.0, "unit": "requests", "model": "m"}
PATHS = hnp.arrays(
    float, st.tuples(st.integers(1, 3), st.integers(1, 30), st.integers(1, 6)), elements=st.floats(0, 1e6)
)


def names(n):
    return tuple(f"s{i}" for i in range(n))


def build(**changed):
    values = {
        "quantiles": np.arange(12.0).reshape(2, 2, 3), "levels": np.array([0.1, 0.5, 0.9]), "paths": np.ones((2, 5, 2)),
        "series": ("a", "b"),
    }  # fmt: skip
    return Forecast(**KEYS | values | changed)


BROKEN = {
    "quantiles hold NaN": {"quantiles": np.full((2, 2, 3), np.nan)},
    "paths hold NaN": {"paths": np.full((2, 5, 2), np.inf)},
    "levels hold NaN": {"levels": np.array([0.1, np.nan, 0.9])},
    "must increase": {"levels": np.array([0.1, 0.9, 0.5])},
    r"within \(0, 1\)": {"levels": np.array([0.0, 0.5, 0.9])},
    "increase within": {"levels": np.array([0.1, 0.5, 1.0])},
    "quantiles have shape": {"quantiles": np.ones((2, 2, 4))},
    r"quantiles have shape \(2, 2\)": {"quantiles": np.ones((2, 2))},
    "paths have shape": {"paths": np.ones((2, 5, 3))},
    r"paths have shape \(1, 5, 2\)": {"paths": np.ones((1, 5, 2))},
    r"paths have shape \(2, 0, 2\)": {"paths": np.ones((2, 0, 2))},
    "series names": {"series": ("a",)},
    "names repeat": {"series": ("a", "a")},
    "cross": {"quantiles": np.arange(12.0)[::-1].reshape(2, 2, 3)},
    "timezone": {"issued_at": pd.Timestamp("2026-01-01")},
    "step_seconds must be positive": {"step_seconds": 0.0},
}


@pytest.mark.parametrize("match", BROKEN)
def test_refusals(match):
    build()
    with pytest.raises(SchemaError, match=match) as caught:
        build(**BROKEN[match])
    assert str(caught.value).startswith("forecast m: ") and "\n" not in str(caught.value)


@settings(deadline=None, max_examples=50)
@given(PATHS)
def test_from_paths(paths):
    forecast = Forecast.from_paths(paths, series=names(len(paths)), **KEYS)
    for s in range(paths.shape[0]):
        for h in range(paths.shape[2]):
            for k, level in enumerate(LEVELS):
                assert forecast.quantiles[s, h, k] == pytest.approx(np.quantile(paths[s, :, h], level), rel=1e-12)
    np.testing.assert_allclose(forecast.mean(), paths.mean(axis=1), rtol=1e-9)
    assert forecast.timestamps[0] == AT + pd.Timedelta("60s") and len(forecast.timestamps) == paths.shape[2]


@settings(deadline=None, max_examples=50)
@given(PATHS, st.floats(0.025, 0.975))
def test_quantile_between_levels(paths, level):
    forecast = Forecast.from_paths(paths, series=names(len(paths)), **KEYS)
    wanted = [[np.interp(level, LEVELS, q) for q in one] for one in forecast.quantiles]
    np.testing.assert_allclose(forecast.quantile(level), wanted, rtol=1e-6, atol=1e-3)
    assert (np.diff([forecast.quantile(x) for x in np.sort([level, 0.025, 0.3, 0.5, 0.975])], axis=0) >= -1e-6).all()
    lower, upper = forecast.interval(0.9)
    np.testing.assert_array_equal(lower, forecast.quantiles[..., 1])
    np.testing.assert_array_equal(upper, forecast.quantiles[..., -2])


@pytest.mark.parametrize("level", [0.0, 0.01, 0.99, 1.0])
def test_quantile_outside_the_levels(level):
    with pytest.raises(SchemaError, match="outside"):
        Forecast.from_paths(np.ones((1, 3, 2)), **KEYS).quantile(level)


def test_shuffle_reproduces_marginals_and_ranks():
    rng = np.random.default_rng(1)
    n, horizon = 2000, 4
    chain = np.cumsum(rng.normal(size=(n, horizon)), axis=1)
    levels = np.linspace(0.01, 0.99, 99)
    quantiles = np.stack([np.quantile(rng.gamma(3, 10 * (h + 1), 5000), levels) for h in range(horizon)])[None]
    forecast = Forecast.from_quantiles(quantiles, levels, chain, rng=np.random.default_rng(2), **KEYS)
    paths = forecast.paths[0]
    for h in range(horizon):
        np.testing.assert_allclose(np.quantile(paths[:, h], levels[1:-1]), quantiles[0, h, 1:-1], rtol=0.03)
        inner = (paths[:, h] > quantiles[0, h, 0]) & (paths[:, h] < quantiles[0, h, -1])
        assert (np.argsort(paths[inner, h]) == np.argsort(chain[inner, h])).all()  # same order of draws, one by one
    for h in range(1, horizon):
        assert spearmanr(paths[:, 0], paths[:, h])[0] == pytest.approx(
            spearmanr(chain[:, 0], chain[:, h])[0], abs=0.005
        )


def test_shuffle_stays_within_the_outer_quantiles():
    quantiles = np.array([[[10.0, 20.0, 40.0]]])
    forecast = Forecast.from_quantiles(
        quantiles, np.array([0.1, 0.5, 0.9]), np.arange(500.0)[:, None], rng=np.random.default_rng(1), **KEYS
    )
    assert forecast.paths.min() == 10 and forecast.paths.max() == 40
    assert np.mean(forecast.paths == 10) == pytest.approx(0.1, abs=0.01)


def test_shuffle_breaks_ties_at_random_and_repeats_with_the_seed():
    one, two, three = (
        Forecast.from_quantiles(
            np.array([[[1.0, 2.0]] * 2]), np.array([0.1, 0.9]), np.zeros((300, 2)), rng=np.random.default_rng(s), **KEYS
        ).paths[0]
        for s in (1, 1, 2)
    )
    assert (one == two).all() and (one != three).any()
    assert abs(spearmanr(one[:, 0], one[:, 1])[0]) < 0.2


@settings(deadline=None, max_examples=40)
@given(PATHS, st.integers(0, 100))
def test_nixtla_there_and_back(paths, seed):
    forecast = Forecast.from_paths(paths, series=names(len(paths)), **KEYS)
    frame = forecast.to_nixtla()
    assert list(frame.columns[:3]) == ["unique_id", "ds", "m"] and len(frame) == paths.shape[0] * paths.shape[2]
    back = Forecast.from_nixtla(frame, templates=paths[0], rng=np.random.default_rng(seed), **KEYS)
    np.testing.assert_array_equal(back.quantiles, forecast.quantiles)
    np.testing.assert_allclose(back.levels, LEVELS)
    assert back.series == forecast.series and (back.timestamps == forecast.timestamps).all()
    np.testing.assert_array_equal(frame["m"], forecast.mean().ravel())


def test_nixtla_intervals_become_levels():
    frame = pd.DataFrame({"unique_id": ["a"] * 2, "ds": pd.date_range(AT, periods=2, freq="60s"), "m": [5.0, 6.0]})
    for p, half in ((80, 1.0), (90, 2.0)):
        frame[f"m-lo-{p}"], frame[f"m-hi-{p}"] = frame["m"] - half, frame["m"] + half
    got = Forecast.from_nixtla(
        frame, templates=np.random.default_rng(0).normal(size=(9, 2)), rng=np.random.default_rng(1), **KEYS
    )
    assert got.levels.tolist() == [0.05, 0.1, 0.5, 0.9, 0.95]
    assert got.quantiles.tolist() == [[[3, 4, 5, 6, 7], [4, 5, 6, 7, 8]]]


def test_nixtla_crossing_quantiles_are_sorted():
    frame = pd.DataFrame({"unique_id": ["a"], "ds": [AT], "m-q-0.1": [9.0], "m-q-0.9": [4.0]})
    got = Forecast.from_nixtla(frame, templates=np.zeros((3, 1)), rng=np.random.default_rng(1), **KEYS)
    assert got.quantiles.tolist() == [[[4.0, 9.0]]]


def test_nixtla_without_quantiles():
    with pytest.raises(SchemaError, match="no quantile or interval columns"):
        Forecast.from_nixtla(
            pd.DataFrame({"unique_id": ["a"], "m": [1.0]}),
            templates=np.zeros((3, 1)),
            rng=np.random.default_rng(1),
            **KEYS,
        )
