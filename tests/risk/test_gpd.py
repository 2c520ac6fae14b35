"""The Bayesian tail: the program against its formula, the sampler against the grid, the grid against quadrature."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numpyro.infer.util import log_density
from scipy import stats as st

from support.risk.gpd import gpd_model, grid_gpd, sample_gpd
from support.risk.tails import GpdFit, fit_gpd

LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)


def fit(xi: float, n: int = 100) -> GpdFit:
    y = st.genpareto.rvs(xi, scale=3.0, size=n, random_state=np.random.default_rng(1))
    return fit_gpd(y, threshold=40.0, n_observations=10 * n)


@pytest.mark.parametrize(("xi", "log_beta"), [(0.2, 1.0), (-0.1, 1.4), (1e-9, 1.0)])
def test_the_program_is_the_posterior_as_written(xi: float, log_beta: float) -> None:
    y = fit(0.1).excesses
    scale = y.mean()
    position = {"xi": jnp.asarray(xi), "log_beta": jnp.asarray(log_beta)}
    value, _ = log_density(gpd_model, (jnp.asarray(y), scale), {}, position)
    written = st.norm.logpdf(xi, 0, 0.25) + st.norm.logpdf(log_beta, np.log(scale), 1.0)
    written += st.genpareto.logpdf(y, xi, scale=np.exp(log_beta)).sum()
    assert float(value) == pytest.approx(written, rel=1e-6)


def test_nothing_lies_beyond_the_endpoint() -> None:
    draws = grid_gpd(fit(-0.4), n_draws=2000, rng=np.random.default_rng(1))
    below = np.asarray(draws.xi) < 0
    endpoint = draws.threshold - draws.beta[below] / draws.xi[below]
    assert (endpoint > 40.0 + fit(-0.4).excesses.max() - 0.05).all()  # to within a cell of the grid


def test_grid_equals_a_plain_sum_over_scipy_densities() -> None:
    data = fit(0.15, n=40)
    y, scale = data.excesses, data.excesses.mean()
    xi, log_beta = np.linspace(-0.8, 0.9, 301)[:, None], np.log(scale) + np.linspace(-1.2, 1.2, 301)
    log = sum(st.genpareto.logpdf(value, xi, scale=np.exp(log_beta)) for value in y) - data.log_likelihood
    weight = np.exp(log) * st.norm.pdf(xi, 0, 0.25) * st.norm.pdf(log_beta, np.log(scale), 1)
    n_draws = 20_000
    draws = grid_gpd(data, n_draws=n_draws, rng=np.random.default_rng(3))
    for found, exact in ((draws.xi, xi), (np.log(draws.beta), log_beta)):
        mean = (weight * exact).sum() / weight.sum()
        sd = np.sqrt((weight * (exact - mean) ** 2).sum() / weight.sum())
        assert found.mean() == pytest.approx(mean, abs=4 * sd / np.sqrt(n_draws) + 1e-3)
        assert found.std() == pytest.approx(sd, rel=0.03)


@pytest.mark.parametrize("xi", [-0.3, 0.2])
def test_sampler_equals_the_grid(xi: float) -> None:
    data = fit(xi)
    grid = grid_gpd(data, n_draws=20_000, rng=np.random.default_rng(2))
    draws, told = sample_gpd(data, key=jax.random.key(1), n_draws=1000)
    assert told["divergences"] == 0 and told["rhat"] < 1.02
    for found, exact in ((draws.xi, grid.xi), (draws.beta, grid.beta), (draws.rate, grid.rate)):
        at = np.quantile(exact, LEVELS)
        shares = (found[:, None] <= at).mean(axis=0)  # standard error 0.016 with 1000 effective draws
        np.testing.assert_allclose(shares, LEVELS, atol=0.06)
    assert draws.return_level(1e5).shape == (4000,) and draws.threshold == 40.0


def test_much_data_overrule_the_prior_and_little_do_not() -> None:
    far = grid_gpd(fit(0.8, n=2000), rng=np.random.default_rng(1))
    assert far.xi.mean() == pytest.approx(0.8, abs=4 * far.xi.std())
    near = grid_gpd(fit(0.8, n=20), rng=np.random.default_rng(1))
    assert 0.0 < near.xi.mean() < fit(0.8, n=20).tail.xi  # drawn towards 0
