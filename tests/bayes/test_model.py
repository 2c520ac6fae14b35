from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from jax.flatten_util import ravel_pytree
from scipy.special import expit

import support.bayes.model as model
from support.bayes.informed import informed_points
from support.bayes.single import single_points
from support.bayes.special import digamma, lgamma
from support.bayes.statistics import CellStatistics, cell_statistics, seasonal_basis
from support.telemetry import load


@pytest.fixture(scope="module")
def telemetry():
    return load("synthetic:industries", seed=3, days=3, n_resources=14, step_seconds=3600)


@pytest.fixture(scope="module")
def stats(telemetry) -> CellStatistics:
    return cell_statistics(telemetry, weight="none")


def _naive_log_likelihood(telemetry, stats, named) -> float:
    """Row by row, by scipy."""
    basis, total = seasonal_basis(168), 0.0
    for (resource, time), percent in telemetry.observations["cpu_utilization"].items():
        r = stats.resources.index(resource)
        b = named["b"][stats.application_of[r]] if len(named["b"]) == len(stats.applications) else named["b"][r]
        p = expit(named["theta"][r] + basis[time.dayofweek * 24 + time.hour] @ b)
        kappa = np.exp(named["log_kappa"][r])
        total += scipy.stats.beta.logpdf(percent / 100, p * kappa, (1 - p) * kappa)
    return total


def _naive_log_prior(stats, named, shared: bool) -> float:
    norm, half = scipy.stats.norm.logpdf, scipy.stats.halfnorm.logpdf
    if not shared:
        sd = np.sqrt(0.4**2 + 0.3**2 + 0.5**2)
        total = norm(named["theta"], -1.8, sd).sum() + norm(named["b"], 0, 0.35).sum()
        return total + norm(named["log_kappa"], np.log(30), np.sqrt(0.7**2 + 0.5**2)).sum()
    i, a = stats.industry_of, stats.application_of
    total = norm(named["eta"], -1.8, 0.4).sum() + half(named["sd"], scale=0.6).sum() + half(named["s"], scale=0.5)
    total += norm(named["m"], named["eta"][:, None], 0.5 * named["sd"][:, None]).sum()
    total += half(named["tau"], scale=0.5).sum() + norm(named["l"], np.log(30), 0.7).sum()
    total += norm(named["theta"], named["m"][i, a], named["tau"][a]).sum()
    total += norm(named["log_kappa"], named["l"][i, a], named["s"]).sum()
    return total + norm(named["b"], 0, 0.35).sum()


def _random(position, seed, scale=0.5):
    leaves, tree = jax.tree.flatten(position)
    keys = jax.random.split(jax.random.key(seed), len(leaves))
    return jax.tree.unflatten(
        tree, [x + scale * jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


@pytest.mark.parametrize("shared", [True, False])
def test_density_is_the_naive_one_up_to_the_jacobian(telemetry, stats, shared):
    points = informed_points(stats) if shared else single_points(stats)
    density = jax.jit(model.log_density(stats, points))
    shift = []
    for seed in range(3):
        position = _random(model.start(stats, points), seed)
        named = {k: np.asarray(v) for k, v in model.constrain(position, stats, points).items()}
        naive = _naive_log_likelihood(telemetry, stats, named) + _naive_log_prior(stats, named, shared)
        flat, unravel = ravel_pytree(position)

        def constrained(x, unravel=unravel):
            return ravel_pytree(model.constrain(unravel(x), stats, points))[0]

        log_jacobian = np.linalg.slogdet(np.asarray(jax.jit(jax.jacfwd(constrained))(flat)))[1]
        shift.append(float(density(position)) - naive - log_jacobian)
    assert np.ptp(shift) < 1e-8 * abs(naive)  # equal for all positions up to one constant


def test_likelihood_equals_the_raw_rows_exactly(telemetry, stats):
    points = informed_points(stats)
    named = model.constrain(_random(model.start(stats, points), 9), stats, points)
    naive = _naive_log_likelihood(telemetry, stats, {k: np.asarray(v) for k, v in named.items()})
    np.testing.assert_allclose(float(model.log_likelihood(stats)(named)), naive, rtol=1e-11)


def test_sparse_layout_equals_the_dense_one(stats, monkeypatch):
    points = informed_points(stats)
    named = model.constrain(_random(model.start(stats, points), 4), stats, points)
    dense = jax.value_and_grad(model.log_likelihood(stats))(named)
    monkeypatch.setattr(model, "DENSE_SHARE", 2.0)
    monkeypatch.setattr(model, "MANY_GROUPS", 0)
    sparse = jax.value_and_grad(model.log_likelihood(stats))(named)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), dense, sparse)


def test_many_groups_give_the_same_density_as_few(stats, monkeypatch):
    points = informed_points(stats)
    position = _random(model.start(stats, points), 5)
    few = jax.value_and_grad(model.log_density(stats, points))(position)
    monkeypatch.setattr(model, "MANY_GROUPS", 0)
    many = jax.value_and_grad(model.log_density(stats, points))(position)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-9), few, many)


def test_gradient_vanishes_near_the_laplace_point(stats):
    points = single_points(stats)
    gradient = jax.grad(model.log_density(stats, points))(model.start(stats, points))["resource"]
    assert float(jnp.abs(gradient).max()) < 1e-3


def test_fisher_information_is_the_variance_of_the_score():
    from support.bayes.informed import score_and_information

    rng, p, kappa = np.random.default_rng(2), 0.3, 12.0
    y = rng.beta(p * kappa, (1 - p) * kappa, (20_000, 1))
    one = np.zeros(20_000, int)
    rows = CellStatistics(("a",), ("a",), tuple(map(str, range(20_000))), one, one, np.ones_like(y), np.log(y), np.log1p(-y), 1.0 * one, 1.0 * one, 1.0 + one)  # fmt: skip
    score, information = score_and_information(np.full(20_000, np.log(p / (1 - p))), np.full(20_000, np.log(kappa)), np.zeros((20_000, 1)), rows)  # fmt: skip
    covariance = np.cov(score[..., 0])
    np.testing.assert_allclose(covariance, [information[:2, 0, 0], information[1:, 0, 0]], atol=0.03, rtol=0.05)


def test_gamma_functions_equal_scipy():
    x = np.exp(np.linspace(np.log(1e-3), np.log(1e6), 500))
    np.testing.assert_allclose(lgamma(jnp.asarray(x)), scipy.special.gammaln(x), rtol=2e-13, atol=2e-12)
    np.testing.assert_allclose(digamma(jnp.asarray(x)), scipy.special.psi(x), rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(jax.grad(lgamma)(2.5), scipy.special.psi(2.5), rtol=1e-12)
