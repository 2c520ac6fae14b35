"""Bayesian generalised Pareto tail: a NumPyro program with a weak prior on the shape, sampled, and the same on a grid."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.diagnostics import split_gelman_rubin
from numpyro.distributions import biject_to, constraints
from numpyro.infer.util import potential_energy
from scipy.stats import norm

from support.bayes.sampler import sample
from support.risk.tails import GpdFit, GpdTail

__all__ = ["gpd_model", "grid_gpd", "sample_gpd"]

XI_SD = 0.25  # prior of the shape, mean 0: xi within -0.5 and 0.5 with probability 95 %
LOG_BETA_SD = 1.0  # prior of log beta around the log of the mean excess: a factor of 7 either way with 95 %
SMALL_XI = 1e-6  # under which the exponential is taken; the two differ by less than 1e-5 of z^2 there
N_WARMUP = 300
GRID = 100  # points a side
XI_RANGE, LOG_BETA_RANGE = (-1.0, 1.5), (-4.0, 3.0)  # of the first grid, the second around log mean excess
NEGLIGIBLE = 1e-8  # of the largest density: six standard deviations out
RATE_PRIOR = 0.5  # Jeffreys: Beta(1/2, 1/2) for the share of observations that are peaks


def gpd_model(excesses: jax.Array, scale: float) -> None:
    """NumPyro program: xi ~ Normal(0, 0.25), log beta ~ Normal(log scale, 1), excesses (n_peak,) generalised Pareto.

    The prior of xi is written cut to where the endpoint lies beyond the data, and a factor takes back the cut's
    constant: the same posterior, without a wall that would throw the sampler back.
    Source: weak shape prior after Martins and Stedinger (2000), Water Resources Research 36, here symmetric about 0.

    Example:
        >>> seeded = numpyro.handlers.seed(gpd_model, 0)
        >>> sorted(numpyro.handlers.trace(seeded).get_trace(jnp.ones(3), 1.0))
        ['excesses', 'log_beta', 'uncut', 'xi']
    """
    log_beta = numpyro.sample("log_beta", dist.Normal(jnp.log(scale), LOG_BETA_SD))
    beta = jnp.exp(log_beta)
    lowest = -beta / excesses.max()
    xi = numpyro.sample("xi", dist.TruncatedNormal(0.0, XI_SD, low=lowest))
    numpyro.factor("uncut", jax.scipy.special.log_ndtr(-lowest / XI_SD))
    numpyro.factor("excesses", _log_likelihood(excesses, xi, beta))


def sample_gpd(
    fit: GpdFit, *, key: jax.Array, n_draws: int = 1000, n_chains: int = 4
) -> tuple[GpdTail, dict[str, float]]:
    """Posterior draws (n_chains * n_draws,) of the tail of `fit` by HMC, and {"divergences", "rhat"} (the larger).

    Takes excesses, threshold and number of observations of the fit; `tail.return_level(m)` then gives draws of the return
    level. The rate of peaks has a Beta posterior of its own, with Jeffreys' prior. The first call with a number of
    excesses compiles for seconds.

    Example:
        >>> from support.risk.tails import fit_gpd
        >>> rain = fit_gpd(np.random.default_rng(1).exponential(2.0, 100), n_observations=1000)
        >>> draws, told = sample_gpd(rain, key=jax.random.key(1), n_draws=100)  # doctest: +SKIP
    """
    scale = float(fit.excesses.mean())
    data = (jnp.asarray(fit.excesses), jnp.asarray(scale))
    start = {"log_beta": jnp.log(scale), "xi": jnp.log(scale / fit.excesses.max())}  # the exponential, unconstrained
    run_key, rate_key = jax.random.split(key)
    run = sample(_log_density, start, n_chains=n_chains, n_warmup=N_WARMUP, n_draws=n_draws, key=run_key, data=data)
    beta = np.exp(run.positions["log_beta"])
    xi = np.asarray(biject_to(constraints.greater_than(-beta / fit.excesses.max()))(run.positions["xi"]))
    rhat = max(float(split_gelman_rubin(x)) for x in (xi, beta))
    told = {"divergences": float(run.diverging.sum()), "rhat": rhat}
    rng = np.random.default_rng(np.asarray(jax.random.key_data(rate_key)))
    return _tail(fit, xi.ravel(), beta.ravel(), rng), told


def grid_gpd(fit: GpdFit, *, n_draws: int = 4000, rng: np.random.Generator) -> GpdTail:
    """Draws (n_draws,) from the same posterior, computed on a grid of xi and log beta: exact but for the grid's step.

    With two parameters no sampler is needed; this is the oracle of `sample_gpd` and quick enough for coverage over
    hundreds of data sets. Draws are jittered within their cell.

    Example:
        >>> from support.risk.tails import fit_gpd
        >>> rain = fit_gpd(np.random.default_rng(1).exponential(2.0, 100), n_observations=1000)
        >>> grid_gpd(rain, n_draws=500, rng=np.random.default_rng(2)).xi.shape
        (500,)
    """
    y = fit.excesses
    axes = (np.linspace(*XI_RANGE, GRID), np.log(y.mean()) + np.linspace(*LOG_BETA_RANGE, GRID))
    density = _density(y, *axes)
    axes = (_around(axes[0], density.max(axis=1)), _around(axes[1], density.max(axis=0)))
    density = _density(y, *axes)
    cell = np.unravel_index(rng.choice(density.size, n_draws, p=density.ravel() / density.sum()), density.shape)
    xi, log_beta = (
        axis[place] + (rng.random(n_draws) - 0.5) * (axis[1] - axis[0]) for axis, place in zip(axes, cell, strict=True)
    )
    return _tail(fit, xi, np.exp(log_beta), rng)


def _log_density(position: dict[str, jax.Array], data: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Of the unconstrained position (xi: log of its distance to the lowest); one function, so it compiles once."""
    return -potential_energy(gpd_model, data, {}, position)


def _density(y: np.ndarray, xi: np.ndarray, log_beta: np.ndarray) -> np.ndarray:
    """Posterior density (n_xi, n_log_beta) over its largest value."""
    z, prior = y / np.exp(log_beta)[:, None], norm.logpdf(log_beta, np.log(y.mean()), LOG_BETA_SD)
    log = np.empty((xi.size, log_beta.size))
    for row, shape in zip(log, np.where(np.abs(xi) < SMALL_XI, SMALL_XI, xi), strict=True):
        inside = 1 + shape * z[:, y.argmax()] > 0
        terms = np.log1p(shape * z[inside]).sum(axis=1)
        row[inside] = -y.size * log_beta[inside] - (1 + 1 / shape) * terms
        row[~inside] = -np.inf
    log += norm.logpdf(xi, 0, XI_SD)[:, None] + prior
    return np.asarray(np.exp(log - log.max()))


def _around(axis: np.ndarray, profile: np.ndarray) -> np.ndarray:
    """A finer axis over the points whose density along the profile is not negligible, one old step wider."""
    kept = np.flatnonzero(profile > NEGLIGIBLE)
    return np.linspace(axis[max(kept[0] - 1, 0)], axis[min(kept[-1] + 1, axis.size - 1)], axis.size)


def _tail(fit: GpdFit, xi: np.ndarray, beta: np.ndarray, rng: np.random.Generator) -> GpdTail:
    """Draws of xi and beta with draws of the rate of peaks."""
    n_peak = fit.excesses.size
    rate = rng.beta(n_peak + RATE_PRIOR, fit.n_observations - n_peak + RATE_PRIOR, xi.size)
    return GpdTail(fit.tail.threshold, xi, beta, rate, fit.tail.extremal_index)


def _log_likelihood(y: jax.Array, xi: jax.Array, beta: jax.Array) -> jax.Array:
    """Of excesses (n_peak,); minus infinity where one lies beyond the endpoint."""
    xi = jnp.where(jnp.abs(xi) < SMALL_XI, SMALL_XI, xi)
    argument = xi * y / beta
    inside = argument > -1
    terms = jnp.log1p(jnp.where(inside, argument, 0.0))  # the inner where keeps the gradient finite
    return jnp.where(inside.all(), -y.size * jnp.log(beta) - (1 + 1 / xi) * terms.sum(), -jnp.inf)
