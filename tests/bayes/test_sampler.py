from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import polygamma, psi

from support.bayes.diagnostics import arviz
from support.bayes.sampler import sample
from support.errors import SourceError

COVARIANCE = np.array([[1.0, 0.6, 0.0], [0.6, 2.0, 0.3], [0.0, 0.3, 0.5]])


def test_moments_of_a_correlated_normal_and_of_a_skewed_density():
    precision = jnp.asarray(np.linalg.inv(COVARIANCE))

    def density(q):  # log of gamma variables beside a normal of correlated, unequal scales
        return -0.5 * q["x"] @ precision @ q["x"] + (3.0 * q["g"] - jnp.exp(q["g"])).sum()

    draws = sample(
        density, {"x": jnp.zeros(3), "g": jnp.full(4, 1.0)}, n_warmup=400, n_draws=2000, key=jax.random.key(3)
    )
    x, g = (draws.positions[k].reshape(-1, draws.positions[k].shape[-1]) for k in ("x", "g"))
    assert not draws.diverging.any() and 0.5 < draws.acceptance.mean() < 0.95
    np.testing.assert_allclose(np.cov(x.T), COVARIANCE, atol=0.12)
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=0.1)
    np.testing.assert_allclose(g.mean(axis=0), psi(3.0), atol=0.05)
    np.testing.assert_allclose(g.var(axis=0), polygamma(1, 3.0), atol=0.05)
    assert float(arviz.rhat(draws.positions["x"][..., 0])) < 1.01
    np.testing.assert_allclose(np.sort(draws.inverse_metric)[-1], 2.0, rtol=0.4)  # pooled metric finds the scales


def test_scales_far_apart_are_learned():
    scale = jnp.asarray(np.geomspace(0.02, 50.0, 12))
    draws = sample(
        lambda q: -0.5 * ((q / scale) ** 2).sum(), jnp.zeros(12), n_warmup=600, n_draws=600, key=jax.random.key(4)
    )
    np.testing.assert_allclose(draws.positions.std(axis=(0, 1)), scale, rtol=0.15)


def test_the_same_key_gives_the_same_draws_and_data_are_an_argument():
    def density(q, data):
        return -0.5 * ((q - data["at"]) ** 2).sum()

    options = {"n_warmup": 50, "n_draws": 100, "data": {"at": jnp.full(2, 5.0)}}
    one, two, other = (sample(density, jnp.full(2, 5.0), key=jax.random.key(k), **options) for k in (1, 1, 2))
    np.testing.assert_array_equal(one.positions, two.positions)
    assert np.abs(one.positions - other.positions).max() > 0.1
    moved = sample(density, jnp.full(2, 9.0), key=jax.random.key(1), **options | {"data": {"at": jnp.full(2, 9.0)}})
    np.testing.assert_allclose(moved.positions - 4.0, one.positions, atol=1e-6)


def test_divergences_are_seen():
    def cliff(q):  # a normal whose density falls off a cliff where it still has mass
        return -0.5 * (q**2).sum() - jnp.where(q.sum() > 1.0, 1e5, 0.0)

    assert sample(cliff, jnp.zeros(2), n_warmup=100, n_draws=200, key=jax.random.key(1)).diverging.any()


def test_bad_input():
    density = lambda q: -0.5 * (q**2).sum()  # noqa: E731
    with pytest.raises(SourceError, match="1 chains"):
        sample(density, jnp.zeros(2), n_chains=1, key=jax.random.key(1))
    with pytest.raises(SourceError, match="not finite"):
        sample(lambda q: jnp.log(-1.0 - (q**2).sum()), jnp.zeros(2), n_warmup=20, n_draws=4, key=jax.random.key(1))
