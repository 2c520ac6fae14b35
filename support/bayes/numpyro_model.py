"""The hierarchical model of utilisation in NumPyro: an independent twin of `support.bayes.model`, sampled by NUTS."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from jax.scipy.special import expit, gammaln
from numpy.typing import NDArray
from numpyro.infer import MCMC, NUTS
from numpyro.infer.util import constrain_fn, potential_energy

from support.bayes.informed import InformedPoints, informed_points
from support.bayes.priors import Priors
from support.bayes.special import lgamma
from support.bayes.statistics import CellStatistics, Rows, seasonal_basis

__all__ = ["fleet_model", "sample_nuts"]

START_JITTER = 0.05  # standard deviation of the start values of the chains, on the unconstrained scale
Steering = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]  # estimate and precision of a parameter


def fleet_model(stats: CellStatistics, rows: Rows | None = None, points: InformedPoints | None = None) -> None:
    """The model as a NumPyro program: industry, cell (industry x application), resource, season by application.

    stats: names, groups and hour-cell statistics of the fleet. rows: raw observations (`unit_rows`); the
    likelihood then runs over those strictly inside (0, 1) instead of over the statistics.
    points: Laplace fit of `informed_points` for informed non-centring of m, l, theta and log_kappa, each by its marginal
    precision (exact for any points: they only steer the sampler), and its priors; None is the centred model as written.
    Source: reference model of the book's chapter 03; informed non-centring: Papaspiliopoulos, Roberts and Skold 2007.

    Example:
        >>> from support.bayes.calibration import simulate_fleet
        >>> stats, truth = simulate_fleet(rng=np.random.default_rng(1))
        >>> trace = numpyro.handlers.trace(numpyro.handlers.seed(fleet_model, 0)).get_trace(stats)
        >>> trace["theta"]["value"].shape
        (54,)
    """
    at = points.priors if points else Priors()
    n_industry, n_application = len(stats.industries), len(stats.applications)
    cells, resources = (n_industry, n_application), len(stats.resources)
    industry, application = jnp.asarray(stats.industry_of), jnp.asarray(stats.application_of)
    basis = seasonal_basis(stats.n_hour_cell)
    eta = numpyro.sample("eta", dist.Normal(at.eta_mean, at.eta_sd).expand([n_industry]).to_event(1))
    sd = numpyro.sample("sd", dist.HalfNormal(at.sd_sd).expand([n_industry]).to_event(1))
    tau = numpyro.sample("tau", dist.HalfNormal(at.tau_sd).expand([n_application]).to_event(1))
    s = numpyro.sample("s", dist.HalfNormal(at.s_sd))
    b = numpyro.sample("b", dist.Normal(0, at.b_sd).expand([n_application, basis.shape[1]]).to_event(2))
    steering = points.points() if points else {}
    m = _normal("m", jnp.broadcast_to(eta[:, None], cells), at.share * sd[:, None], cells, steering)
    l_cell = _normal("l", at.log_kappa_mean, at.log_kappa_sd, cells, steering)
    theta = _normal("theta", m[industry, application], tau[application], (resources,), steering)
    log_kappa = _normal("log_kappa", l_cell[industry, application], s, (resources,), steering)
    season = b @ basis.T  # (n_application, n_hour_cell)
    if rows is None:
        p, kappa = expit(theta[:, None] + season[application]), jnp.exp(log_kappa)[:, None]
        alpha, beta = p * kappa, (1 - p) * kappa
        log_gamma = lgamma if points else gammaln  # the faster one belongs to the fast path
        normaliser = log_gamma(alpha) + log_gamma(beta) - log_gamma(kappa)
        terms = (alpha - 1) * stats.s1 + (beta - 1) * stats.s2 - stats.n * normaliser
        numpyro.factor("likelihood", terms.sum())
    else:
        of, hour, share = (jnp.asarray(part[rows.inside]) for part in (rows.resource, rows.cell, rows.y))
        p, kappa = expit(theta[of] + season[application[of], hour]), jnp.exp(log_kappa)[of]
        numpyro.sample("likelihood", dist.Beta(p * kappa, (1 - p) * kappa).to_event(1), obs=share)


def _normal(name: str, loc: Any, scale: Any, shape: tuple[int, ...], steering: Steering) -> Any:
    """A Normal(loc, scale) parameter: centred, or moved by the exact informed non-centring when it has a point."""
    if name not in steering:
        return numpyro.sample(name, dist.Normal(loc, scale).expand(shape).to_event(len(shape)))
    estimate, precision = (jnp.asarray(part) for part in steering[name])
    z = numpyro.sample(f"{name}_z", dist.Normal(0, 1).expand(shape).to_event(len(shape)))
    v = 1 / (scale**-2 + precision)
    value = v * (loc * scale**-2 + precision * estimate) + jnp.sqrt(v) * z
    move = dist.Normal(loc, scale).log_prob(value) + 0.5 * jnp.log(v) - dist.Normal(0, 1).log_prob(z)
    numpyro.factor(f"{name}_move", jnp.sum(move))
    return numpyro.deterministic(name, value)


def sample_nuts(
    stats: CellStatistics,
    *,
    key: jax.Array,
    rows: Rows | None = None,
    points: InformedPoints | None = None,
    n_chains: int = 2,
    n_warmup: int = 500,
    n_draws: int = 500,
    compile_once: bool = True,
    chain_method: str = "vectorized",
) -> tuple[dict[str, NDArray[np.float64]], int]:
    """Draws of every parameter by NUTS, each (n_chains, n_draws, ...), and the number of divergent transitions.

    rows, points: as in `fleet_model`. compile_once: give NUTS the potential and explicit start values, which skips
    NumPyro's own initialisation and the compilations it costs; False is NumPyro as its manual uses it.
    chain_method: `vectorized`, `parallel` (one device per chain) or `sequential`.
    Source: Hoffman and Gelman 2014, as implemented by NumPyro (Phan, Pradhan and Jankowiak 2019).

    Example:
        >>> from support.bayes.calibration import simulate_fleet
        >>> stats, truth = simulate_fleet(rng=np.random.default_rng(1))
        >>> draws, divergences = sample_nuts(stats, key=jax.random.key(1))  # doctest: +SKIP
    """
    options: dict[str, Any] = {
        "num_warmup": n_warmup,
        "num_samples": n_draws,
        "num_chains": n_chains,
        "chain_method": chain_method,
        "progress_bar": False,
    }
    arguments = (stats, rows, points)
    run_key, jitter_key = jax.random.split(key)
    if compile_once:
        mcmc = MCMC(NUTS(potential_fn=partial(potential_energy, fleet_model, arguments, {})), **options)
        begin = _start(stats, points, n_chains, jitter_key)
        mcmc.run(run_key, init_params=begin if n_chains > 1 else jax.tree.map(lambda x: x[0], begin))
    else:
        mcmc = MCMC(NUTS(fleet_model), **options)
        mcmc.run(run_key, *arguments)
    draws = mcmc.get_samples(group_by_chain=True)
    if compile_once:
        constrain: Callable[..., Any] = partial(constrain_fn, fleet_model, arguments, {}, return_deterministic=True)
        draws = jax.jit(partial(constrain, batch_ndims=2))(draws)
    divergences = int(mcmc.get_extra_fields(group_by_chain=True)["diverging"].sum())
    return {name: np.asarray(value) for name, value in draws.items() if not name.endswith("_z")}, divergences


def _start(stats: CellStatistics, points: InformedPoints | None, n_chains: int, key: jax.Array) -> dict[str, jax.Array]:
    """Unconstrained start values (n_chains, ...) about the Laplace fit; NumPyro's own fall into very long trajectories."""
    fit = points or informed_points(stats)
    centre = {name: getattr(fit, name) for name in ("eta", "b", "m", "l", "theta", "log_kappa")}
    centre |= {name: np.log(getattr(fit, name)) for name in ("sd", "tau", "s")}
    for name in points.points() if points else ():
        centre[f"{name}_z"] = np.zeros_like(centre.pop(name))
    keys = dict(zip(centre, jax.random.split(key, len(centre)), strict=True))
    return {
        name: value + START_JITTER * jax.random.normal(keys[name], (n_chains, *np.shape(value)))
        for name, value in centre.items()
    }
