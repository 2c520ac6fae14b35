"""Copula paths: marginals to the stated error, the dependence of the past, tails by the stated rule."""

import numpy as np
import pandas as pd
import pytest
from scipy.linalg import toeplitz
from scipy.stats import norm, spearmanr

from support.errors import SchemaError, TooShortError
from support.forecasting.joint_paths import copula_paths, pit_values, rank_correlation, with_tails
from support.forecasting.quantile_frame import QUANTILE_LEVELS

HORIZON, DRAWS = 24, 2000
ISSUED = {"issued_at": pd.Timestamp("2026-01-01", tz="UTC"), "step_seconds": 300, "unit": "%", "model": "m"}


def ar_pits(n_past, phi, seed=0, horizon=HORIZON):
    rng = np.random.default_rng(seed)
    root = np.linalg.cholesky(toeplitz(phi ** np.arange(horizon)))
    return norm.cdf(rng.standard_normal((n_past, horizon)) @ root.T)


def skewed(n_series=2):
    rng = np.random.default_rng(8)
    centre = np.cumsum(rng.normal(size=(n_series, HORIZON)), axis=1)
    return centre[..., None] + np.exp(norm.ppf(QUANTILE_LEVELS) * np.linspace(0.3, 1.0, HORIZON)[:, None])


def paths_of(pits, seed=0, **given):
    correlation = rank_correlation(pits)
    rng = np.random.default_rng(seed)
    return copula_paths(
        skewed(), QUANTILE_LEVELS, correlation, n_draws=DRAWS, rng=rng, series=("a", "b"), **(ISSUED | given)
    )


def test_marginals_of_the_paths_are_the_quantiles():
    made = paths_of(ar_pits(5, 0.8))
    below = (made.paths[:, :, :, None] <= made.quantiles[:, None]).mean(axis=1)
    np.testing.assert_allclose(below, np.broadcast_to(QUANTILE_LEVELS, below.shape), atol=1 / DRAWS + 1e-12)
    np.testing.assert_array_equal(made.quantiles, skewed())


@pytest.mark.parametrize("phi", [0.0, 0.6, 0.95])
def test_rank_autocorrelation_of_the_paths_is_that_of_the_past_within_sampling_error(phi):
    """Bartlett's error of a correlation with n_past x horizon values of memory (1 + phi^2) / (1 - phi^2), times four."""
    n_past = 200
    past, made = ar_pits(n_past, phi), paths_of(ar_pits(n_past, phi)).paths[0]
    error = 4 * np.sqrt((1 + phi**2) / (1 - phi**2) / (n_past * HORIZON)) + 4 / np.sqrt(DRAWS)
    for lag in (1, 3, 8):
        pairs = [spearmanr(x[:, :-lag].ravel(), x[:, lag:].ravel())[0] for x in (past,)]
        ours = np.mean([spearmanr(made[:, h], made[:, h + lag])[0] for h in range(HORIZON - lag)])
        assert ours == pytest.approx(pairs[0], abs=error)


def test_with_one_past_window_the_correlation_is_shrunk_to_that_of_one_coefficient_and_positive():
    pits = ar_pits(1, 0.9, seed=2, horizon=100)
    found, raw = rank_correlation(pits), rank_correlation(pits, shrink=False)
    assert np.linalg.eigvalsh(found)[0] > 0 and np.linalg.eigvalsh(raw)[0] > 0
    np.testing.assert_allclose(np.diag(found), 1)
    one = found[0, 1] ** np.arange(100)
    assert np.abs(found[0] - one).max() < np.abs(raw[0] - one).max()


def test_the_peak_needs_the_dependence():
    independent, joint = (paths_of(ar_pits(200, phi)).paths[0].max(axis=1) for phi in (0.0, 0.95))
    assert np.quantile(joint, 0.5) < np.quantile(independent, 0.5)


def test_tails_go_on_as_a_normals_and_stop_at_the_lowest():
    quantiles = 3 + 2 * norm.ppf(QUANTILE_LEVELS)
    wide, levels = with_tails(quantiles, QUANTILE_LEVELS)
    np.testing.assert_allclose(wide, 3 + 2 * norm.ppf(levels), rtol=1e-9)
    assert levels[0] == 0.0005 and levels[-1] == 0.9995
    assert with_tails(quantiles, QUANTILE_LEVELS, lowest=0.0)[0].min() == 0.0
    made = paths_of(ar_pits(5, 0.5))
    assert (made.paths.max(axis=1) > made.quantiles[..., -1]).all()


def test_pit_is_the_distribution_function_inside_and_uniform_on_a_point_mass():
    rng = np.random.default_rng(0)
    y = rng.normal(size=20_000)
    grid = np.linspace(0.005, 0.995, 199)
    found = pit_values(y, np.broadcast_to(norm.ppf(grid), (len(y), 199)), grid, rng=rng)
    np.testing.assert_allclose(found, np.clip(norm.cdf(y), 0.0005, 0.9995), atol=0.002)
    flat = pit_values(np.zeros(20_000), np.zeros((20_000, 3)), np.array([0.1, 0.5, 0.9]), rng=rng)
    assert abs(flat.mean() - 0.5) < 0.01 and flat.min() < 0.01 and flat.max() > 0.99
    assert (pit_values(np.array([-1e9, 1e9]), np.array([[0.0, 1.0]] * 2), np.array([0.4, 0.6]), rng=rng) < 1).all()


def test_bad_input_is_named():
    with pytest.raises(TooShortError, match="one window of two steps"):
        rank_correlation(np.full((3, 1), 0.5))
    with pytest.raises(SchemaError, match="must lie in"):
        rank_correlation(np.ones((3, 4)))
    with pytest.raises(SchemaError, match="at least two are needed"):
        with_tails(np.zeros((1, 1)), np.array([0.5]))
    with pytest.raises(SchemaError, match="a correlation of"):
        copula_paths(skewed(), QUANTILE_LEVELS, np.eye(3), n_draws=10, rng=np.random.default_rng(0), **ISSUED)
