"""Aggregated experts against a loop, simulated experts whose merit is known, and a future that is changed."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from support.errors import SchemaError
from support.forecasting import RollingQuantiles, pinball
from support.forecasting.aggregation import aggregate

LEVELS = np.array([0.1, 0.5, 0.9])


def minutes(n):
    return pd.date_range("2026-01-01", periods=n, freq="60s", tz="UTC")


def expert(quantiles, lag=0, levels=LEVELS, name="expert"):
    """`quantiles` (n_time, n_horizon, n_level); its mean is its middle level."""
    quantiles = np.asarray(quantiles, dtype=float)
    return RollingQuantiles(
        minutes(len(quantiles)), levels, quantiles, quantiles[..., len(levels) // 2].copy(), name, lag
    )


def noisy(n, horizon, n_expert, seed, lag=0):
    rng = np.random.default_rng(seed)
    made = [np.sort(rng.gamma(4, 5, (n, horizon, 3)), axis=-1) for _ in range(n_expert)]
    return [expert(q, lag, name=str(k)) for k, q in enumerate(made)], pd.Series(rng.gamma(4, 5, n), index=minutes(n))


@pytest.mark.parametrize("lag", [0, 2])
def test_equal_to_the_weights_written_out(lag):
    n, half_life, power = 60, 7.0, 3.0
    experts, demand = noisy(n, 3, 3, lag, lag)
    got, keep = aggregate(experts, demand, half_life_ticks=half_life, power=power), 0.5 ** (1 / half_life)
    for i in range(n):
        for h in range(3):
            rows = [j for j in range(n) if j + h <= i - 1 - lag]  # whose outcome is known
            ages = [keep ** (i - (j + 1 + lag + h)) for j in rows]
            sure = min(1.0, (1 - keep) * sum(ages) / 0.2)
            wanted, weights = [], None
            for k, level in enumerate(LEVELS):
                losses = []
                for e in experts:
                    off = [demand.iloc[j + h] - e.quantiles[j, h, k] for j in rows]
                    losses.append(sum(a * max(level * d, (level - 1) * d) for a, d in zip(ages, off, strict=True)))
                raw = [1.0 if not rows else (min(losses) / loss) ** (power * sure) for loss in losses]
                shares = [r / sum(raw) for r in raw]
                weights = shares if level == 0.5 else weights
                wanted.append(sum(w * e.quantiles[i, h, k] for w, e in zip(shares, experts, strict=True)))
            np.testing.assert_allclose(got.quantiles[i, h], sorted(wanted), rtol=1e-6)
            mean = sum(w * e.mean[i, h] for w, e in zip(weights, experts, strict=True))
            assert got.mean[i, h] == pytest.approx(mean, rel=1e-6)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), lag=st.integers(0, 3), cut=st.integers(1, 39), half_life=st.floats(1, 100))
def test_laws(seed, lag, cut, half_life):
    """Between the experts, whatever their order, sorted; what comes after a tick changes nothing before it."""
    experts, demand = noisy(40, 4, 3, seed, lag)
    got = aggregate(experts, demand, half_life_ticks=half_life).quantiles
    said = np.stack([e.quantiles for e in experts])
    assert (np.diff(got, axis=-1) >= 0).all()
    assert (got.min(axis=-1) >= said.min(axis=(0, 3)) - 1e-9).all()
    assert (got.max(axis=-1) <= said.max(axis=(0, 3)) + 1e-9).all()
    np.testing.assert_allclose(got, aggregate(experts[::-1], demand, half_life_ticks=half_life).quantiles, rtol=1e-9)
    later = demand.copy()
    later.iloc[cut:] = 1e6
    rows = cut + 1 + lag  # the first row that may see tick `cut`
    changed = aggregate(experts, later, half_life_ticks=half_life).quantiles
    np.testing.assert_array_equal(got[:rows], changed[:rows])


def test_each_level_hears_the_expert_that_is_right_there():
    n, rng, wrong = 20_000, np.random.default_rng(1), 25.0
    demand = pd.Series(rng.normal(100, 10, n), index=minutes(n))
    right = 100 + 10 * norm.ppf(LEVELS)
    low, high = (
        right + wrong * (LEVELS > 0.5),
        right - wrong * (LEVELS < 0.5),
    )  # the first is wrong above, the second below
    experts = [expert(np.tile(q, (n, 1, 1))) for q in (low, high)]
    got = aggregate(experts, demand, half_life_ticks=10_000, power=5.0).quantiles[-1, 0]

    def loss(quantile, level):  # expected, of a normal demand
        z = (quantile - 100) / 10
        over = 10 * (norm.pdf(z) - z * norm.sf(z))
        return level * over + (1 - level) * (quantile - 100 + over)

    shares = []
    for k, q in ((0, high[0]), (2, low[2])):
        ratio = (loss(right[k], LEVELS[k]) / loss(q, LEVELS[k])) ** 5
        shares.append(ratio / (1 + ratio))
    np.testing.assert_allclose(got, right + wrong * np.array([-shares[0], 0, shares[1]]), atol=0.3)


def test_after_a_change_the_right_expert_takes_over_within_some_half_lives():
    n, half_life, rng = 4000, 100, np.random.default_rng(2)
    level = np.where(np.arange(n) < 2000, 100.0, 200.0)
    demand = pd.Series(level + rng.normal(0, 5, n), index=minutes(n))
    spread = 5 * norm.ppf(LEVELS)
    calm, wild = (np.tile(at + spread, (n, 1, 1)) for at in (100.0, 200.0))
    got = aggregate([expert(calm), expert(wild)], demand, half_life_ticks=half_life).quantiles[:, 0]
    best = np.where(np.arange(n)[:, None] < 2000, 100.0, 200.0) + spread
    loss = lambda q, rows: pinball(demand.to_numpy()[rows], q[rows], LEVELS).mean()  # noqa: E731
    for rows in (slice(500, 2000), slice(2000 + 10 * half_life, n)):
        assert loss(got, rows) < 1.02 * loss(best, rows)


def test_one_expert_is_itself_and_two_without_loss_share():
    experts, demand = noisy(30, 2, 1, 3)
    np.testing.assert_allclose(
        aggregate(experts, demand, half_life_ticks=5).quantiles, experts[0].quantiles, rtol=1e-12
    )
    flat = pd.Series(10.0, index=minutes(30))
    sure = [expert(np.full((30, 1, 3), 10.0)), expert(np.full((30, 1, 3), 10.0))]
    np.testing.assert_array_equal(aggregate(sure, flat, half_life_ticks=5).quantiles, 10.0)


def test_bad_input_is_named():
    experts, demand = noisy(30, 2, 2, 4)
    with pytest.raises(SchemaError, match="no forecasts"):
        aggregate([], demand, half_life_ticks=5)
    with pytest.raises(SchemaError, match="differ in ticks"):
        aggregate([experts[0], experts[1].rows(1)], demand, half_life_ticks=5)
    with pytest.raises(SchemaError, match="1 of the 30 timestamps"):
        aggregate(experts, demand.drop(demand.index[3]), half_life_ticks=5)
    for wrong in ({"half_life_ticks": 0}, {"half_life_ticks": 5, "power": 0.0}, {"half_life_ticks": np.nan}):
        with pytest.raises(SchemaError, match="above 0"):
            aggregate(experts, demand, **wrong)
