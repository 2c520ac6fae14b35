"""Scores against other people's packages and against loops written from the definitions."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import poisson

from support.errors import SchemaError
from support.forecasting import LEVELS, coverage, crps, mase, pinball, scaled_quantile_loss
from support.forecasting.metrics import coverage_of_ties, seasonal_scale

VALUES = st.floats(-1e4, 1e4, allow_subnormal=False)


def case(seed, horizon=24, n=400):
    rng = np.random.default_rng(seed)
    history = rng.gamma(4, 25, n)
    paths = rng.gamma(4, 25, (200, horizon))
    return history, rng.gamma(4, 25, horizon), paths, np.quantile(paths, LEVELS, axis=0).T


@pytest.mark.parametrize("season", [1, 24])
@pytest.mark.parametrize("seed", range(4))
def test_against_utilsforecast(seed, season):
    losses = pytest.importorskip("utilsforecast.losses")
    history, seen, _, quantiles = case(seed)
    ds = pd.date_range("2026-01-01", periods=len(seen), freq="h")
    frame = pd.DataFrame({"unique_id": "a", "ds": ds, "y": seen, "m": quantiles[:, 4]})
    train = pd.DataFrame(
        {"unique_id": "a", "ds": pd.date_range("2025-01-01", periods=len(history), freq="h"), "y": history}
    )
    theirs = losses.mase(frame, models=["m"], seasonality=season, train_df=train)["m"].iloc[0]
    assert mase(seen, quantiles[:, 4], history, season) == pytest.approx(theirs, rel=1e-9)
    for position, level in enumerate(LEVELS):
        frame["m"] = quantiles[:, position]
        theirs = losses.quantile_loss(frame, models={"m": "m"}, q=level)["m"].iloc[0]
        assert pinball(seen, quantiles, LEVELS)[:, position].mean() == pytest.approx(theirs, rel=1e-9)
    frame["m-lo-90"], frame["m-hi-90"] = quantiles[:, 1], quantiles[:, -2]
    theirs = losses.coverage(frame, models=["m"], level=90)["m"].iloc[0]
    assert coverage(seen, quantiles[:, 1], quantiles[:, -2]) == pytest.approx(theirs, rel=1e-9)


@pytest.mark.parametrize("seed", range(4))
def test_crps_against_scoringrules(seed):
    scoringrules = pytest.importorskip("scoringrules")
    _, seen, paths, _ = case(seed)
    theirs = scoringrules.crps_ensemble(
        seen, paths.T, estimator="nrg", backend="numpy"
    )  # the same as the integral over the empirical CDF
    np.testing.assert_allclose(crps(seen, paths), theirs, rtol=1e-9, atol=1e-9)
    fair = scoringrules.crps_ensemble(seen, paths.T, estimator="fair", backend="numpy")
    assert (np.abs(crps(seen, paths) - fair) > 1e-6).all()


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(float, (7, 3), elements=VALUES), hnp.arrays(float, 3, elements=VALUES))
def test_crps_is_the_energy_form(paths, seen):
    got = crps(seen, paths)
    for h in range(3):
        x = paths[:, h]
        wanted = np.mean([abs(a - seen[h]) for a in x]) - np.mean([abs(a - b) for a in x for b in x]) / 2
        assert got[h] == pytest.approx(wanted, rel=1e-9, abs=1e-7)
        assert got[h] >= -1e-7


def test_crps_of_one_draw_is_the_absolute_error():
    np.testing.assert_allclose(crps(np.array([1.0, 5.0]), np.array([[4.0, 5.0]])), [3.0, 0.0])


def test_crps_of_a_normal_sample():
    x = np.random.default_rng(0).normal(size=(200_000, 1))
    assert crps(np.array([0.0]), x)[0] == pytest.approx((np.sqrt(2) - 1) / np.sqrt(np.pi), abs=0.004)


@settings(deadline=None, max_examples=50)
@given(hnp.arrays(float, 5, elements=VALUES), hnp.arrays(float, (5, 3), elements=VALUES))
def test_pinball_by_loop(seen, quantiles):
    levels = np.array([0.1, 0.5, 0.9])
    got = pinball(seen, quantiles, levels)
    for h in range(5):
        for k, level in enumerate(levels):
            miss = seen[h] - quantiles[h, k]
            assert got[h, k] == pytest.approx(level * miss if miss >= 0 else (1 - level) * -miss, rel=1e-12)
    np.testing.assert_allclose(2 * got[:, 1], np.abs(seen - quantiles[:, 1]), rtol=1e-12)


@pytest.mark.parametrize("season", [1, 7])
def test_scaled_losses_by_loop(season):
    history, seen, _, quantiles = case(9)
    scale = sum(abs(history[t] - history[t - season]) for t in range(season, len(history))) / (len(history) - season)
    assert seasonal_scale(history, season) == pytest.approx(scale, rel=1e-12)
    total = 0.0
    for h in range(len(seen)):
        for k, level in enumerate(LEVELS):
            miss = seen[h] - quantiles[h, k]
            total += 2 * (level * miss if miss >= 0 else (level - 1) * miss)
    assert scaled_quantile_loss(seen, quantiles, LEVELS, history, season) == pytest.approx(
        total / len(seen) / len(LEVELS) / scale, rel=1e-12
    )


@settings(deadline=None, max_examples=40)
@given(st.floats(0.1, 1e4))
def test_scaled_losses_do_not_depend_on_the_unit(factor):
    history, seen, _, quantiles = case(5)
    one, two = (
        mase(seen, quantiles[:, 4], history, 7),
        mase(factor * seen, factor * quantiles[:, 4], factor * history, 7),
    )
    assert one == pytest.approx(two, rel=1e-9)


def test_the_true_quantile_has_the_least_expected_pinball_loss():
    sample = np.random.default_rng(3).gamma(2, 10, 20_000)
    for level in (0.1, 0.5, 0.9):
        grid = np.quantile(sample, np.linspace(0.02, 0.98, 49))
        losses = [pinball(sample, np.full((len(sample), 1), q), np.array([level])).mean() for q in grid]
        assert np.linspace(0.02, 0.98, 49)[int(np.argmin(losses))] == pytest.approx(level, abs=0.021)


def test_coverage_counts_its_bounds():
    assert coverage(np.array([1.0, 2.0, 3.0, 4.0]), np.full(4, 2.0), np.full(4, 3.0)) == 0.5


def test_scale_refuses():
    with pytest.raises(SchemaError, match="no longer than the season"):
        mase(np.ones(2), np.ones(2), np.arange(5.0), 5)
    with pytest.raises(SchemaError, match="repeats itself"):
        mase(np.ones(2), np.ones(2), np.tile([1.0, 2.0], 5), 2)


def test_coverage_of_ties_is_that_of_the_randomised_integral_transform():
    """Poisson counts and their own law: the transform is uniform, so 90 % are inside; closed intervals hold more."""
    rng, levels = np.random.default_rng(0), np.arange(1, 1000) / 1000
    law = poisson(np.repeat([0.3, 2.0, 40.0], 4000))
    seen = law.rvs(random_state=rng).astype(float)
    quantiles = np.stack([law.ppf(level) for level in levels], axis=-1)
    below, up_to = law.cdf(seen - 1), law.cdf(seen)
    drawn = below + rng.uniform(size=(200, len(seen))) * (up_to - below)
    for share in (0.5, 0.9):
        by_hand = (np.abs(drawn - 0.5) <= share / 2).mean()
        made = coverage_of_ties(seen, quantiles, levels, share)
        assert made == pytest.approx(by_hand, abs=0.004)  # the levels are a thousandth apart
        lower, upper = (np.quantile(quantiles, q, axis=-1) for q in ((1 - share) / 2, (1 + share) / 2))
        assert coverage(seen, lower, upper) > made + 0.03


def test_without_ties_coverage_of_ties_is_coverage():
    rng, levels = np.random.default_rng(1), np.array([0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95])
    quantiles = np.sort(rng.normal(0, 2, (50, 9, 7)), axis=-1)
    seen = rng.normal(0, 2, (50, 9))
    for share, (a, b) in {0.9: (0, -1), 0.8: (1, -2), 0.5: (2, -3)}.items():
        inside = coverage(seen, quantiles[..., a], quantiles[..., b])
        assert coverage_of_ties(seen, quantiles, levels, share) == pytest.approx(inside, abs=1e-12)
