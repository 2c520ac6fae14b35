"""EnbPI against MAPIE's, with the same bootstrap samples, and that bounds know only what is over."""

import warnings

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression

from support.errors import SchemaError
from support.forecasting.enbpi import block_resamples, enbpi

MISS = 0.1


def stream(seed=0, n=260, new=90):
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(n + new, 3))
    target = (
        features @ np.array([1.0, -2.0, 0.5]) + np.cumsum(rng.normal(0, 0.1, n + new)) + rng.exponential(1, n + new)
    )
    return features[:n], target[:n], features[n:], target[n:]


@pytest.mark.parametrize("block", [1, 15])
def test_equals_mapie(block):
    subsample = pytest.importorskip("mapie.subsample")
    from mapie.regression import TimeSeriesRegressor

    past, target, new, seen = stream()
    folds = subsample.BlockBootstrap(n_resamplings=40, length=20, overlapping=True, random_state=3)
    resamples = np.array([rows for rows, _ in folds.split(past)])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        theirs = TimeSeriesRegressor(LinearRegression(), method="enbpi", cv=folds, agg_function="mean").fit(
            past, target
        )
        lower, upper, point = [], [], []
        for first in range(0, len(new), block):
            part = slice(first, first + block)
            y, bounds = theirs.predict(new[part], ensemble=True, confidence_level=1 - MISS)
            point.append(y), lower.append(bounds[:, 0, 0]), upper.append(bounds[:, 1, 0])
            theirs.update(new[part], seen[part], ensemble=True)
    ours = enbpi(
        past, target, new, seen, make=LinearRegression, resamples=resamples, miss=MISS, block=block, narrowest=False
    )
    np.testing.assert_allclose(ours.point, np.concatenate(point), rtol=1e-9)
    np.testing.assert_allclose(ours.lower, np.concatenate(lower), rtol=1e-9)
    np.testing.assert_allclose(ours.upper, np.concatenate(upper), rtol=1e-9)


def test_bounds_know_only_blocks_that_are_over_and_the_narrowest_is_no_wider():
    past, target, new, seen = stream(1)
    rng = np.random.default_rng(0)
    resamples = block_resamples(len(past), 15, length=10, rng=rng)
    given = {"make": LinearRegression, "resamples": resamples, "miss": MISS, "block": 10}
    clean = enbpi(past, target, new, seen, **given)
    other = enbpi(past, target, new, np.concatenate([seen[:40], rng.permutation(seen[40:]) + 99]), **given)
    for name in ("point", "lower", "upper"):
        np.testing.assert_array_equal(getattr(clean, name)[:50], getattr(other, name)[:50])
    assert (other.upper != clean.upper)[50:].any()
    even = enbpi(past, target, new, seen, **given, narrowest=False)
    assert ((clean.upper - clean.lower)[:10] <= (even.upper - even.lower)[:10] + 1e-12).all()


def test_coverage_of_a_stationary_stream():
    past, _, new, _ = stream(2, n=600, new=1500)
    noise = np.random.default_rng(4).normal(size=2100)
    truth = np.concatenate([past, new]) @ np.array([1.0, 2.0, 3.0])
    made = enbpi(
        past, (truth + noise)[:600], new, (truth + noise)[600:], make=LinearRegression, miss=MISS,
        resamples=block_resamples(600, 20, length=12, rng=np.random.default_rng(0)),
    )  # fmt: skip
    inside = ((truth + noise)[600:] >= made.lower) & ((truth + noise)[600:] <= made.upper)
    assert inside.mean() == pytest.approx(1 - MISS, abs=0.03)


def test_bad_input_is_named():
    past, target, new, seen = stream()
    with pytest.raises(SchemaError, match="do not fit"):
        enbpi(past, target[1:], new, seen, make=LinearRegression, resamples=np.zeros((1, 5), int), miss=MISS)
    everything = np.tile(np.arange(len(past)), (2, 1))
    with pytest.raises(SchemaError, match="row 0 was drawn by all"):
        enbpi(past, target, new, seen, make=LinearRegression, resamples=everything, miss=MISS)
