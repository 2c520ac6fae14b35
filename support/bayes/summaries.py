"""Large fleets: every resource's likelihood as one Gaussian, so that only the few parameters above are sampled."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from support.bayes.informed import InformedPoints
from support.bayes.priors import Priors
from support.bayes.special import digamma, lgamma
from support.bayes.statistics import CellStatistics, seasonal_basis

__all__ = [
    "Fleet",
    "Summaries",
    "as_fleet",
    "draw_resources",
    "summarise",
    "top_log_density",
    "top_parameters",
    "top_start",
]

Arrays = dict[str, jax.Array]
QUADRATURE = 7  # Gauss-Hermite nodes for each of a resource's two parameters
HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


@partial(jax.tree_util.register_dataclass, data_fields=["resources", "steer"], meta_fields=["priors"])
@dataclass(frozen=True)
class Fleet:
    """A fleet as arrays alone, to be passed through `jit` and laid out over devices.

    resources: arrays whose first axis is the resource (statistics, group positions, Laplace points), which is the axis
    that is sharded; steer: the few arrays of the levels above; priors: the constants of the model.
    """

    resources: Arrays
    steer: Arrays
    priors: Priors


def as_fleet(stats: CellStatistics, points: InformedPoints) -> Fleet:
    """Statistics and Laplace points as a `Fleet` on the default device, in the order of `stats.resources`."""
    resources = {
        "n": stats.n, "s1": stats.s1, "s2": stats.s2, "industry": stats.industry_of, "application": stats.application_of,
        "theta": points.theta, "log_kappa": points.log_kappa, "precision": points.precision, "natural": points.natural,
        "cross": points.cross,
    }  # fmt: skip
    names = ("b", "b_factor", "eta", "sd", "tau", "s", "tau_scale", "s_scale", "m", "l")
    steer = {name: np.asarray(getattr(points, name)) for name in names}
    # what the resources say of their cell's means at the plug-in spreads: precision, precision times mean, fall by season
    cell = stats.industry_of * len(stats.applications) + stats.application_of
    spread = np.stack([points.tau[stats.application_of], np.full(len(cell), points.s)], -1)
    weight = 1 / (points.variance + spread**2)
    parts = {"precision": weight, "natural": weight * points.estimate, "slope": weight[:, :, None] * points.slope}
    for name, part in parts.items():
        total = np.zeros((points.m.size, *part.shape[1:]))
        np.add.at(total, cell, part)
        steer[f"cell_{name}"] = total.reshape(*points.m.shape, *part.shape[1:])
    steer["basis"] = seasonal_basis(stats.n_hour_cell)
    arrays = [{name: jnp.asarray(value) for name, value in part.items()} for part in (resources, steer)]
    return Fleet(arrays[0], arrays[1], points.priors)


def top_start(fleet: Fleet) -> Arrays:
    """The Laplace fit as an unconstrained position of the parameters above the resources."""
    at, priors = fleet.steer, fleet.priors
    like = {"log_sd": "sd", "log_tau": "tau", "log_s": "s", "m": "m", "l": "l", "b": "b"}
    zero = {name: jnp.zeros_like(at[of], dtype=float) for name, of in like.items()}
    return zero | {"eta": (at["eta"] - priors.eta_mean) / priors.eta_sd}


def normal(x: jax.Array, loc: jax.Array | float, scale: jax.Array | float) -> jax.Array:
    """Normal log densities, elementwise."""
    return -0.5 * ((x - loc) / scale) ** 2 - jnp.log(scale) - HALF_LOG_2_PI


def _half_normal(log_x: jax.Array, scale: float) -> jax.Array:
    """Log density of log x where x is half normal, elementwise."""
    return math.log(2) + normal(jnp.exp(log_x), 0.0, scale) + log_x


def top_parameters(position: Arrays, fleet: Fleet) -> tuple[Arrays, jax.Array]:
    """The parameters above the resources for an unconstrained position, and their log prior plus log Jacobian.

    The position has the keys of `support.bayes.model.start` without `resource`; its scale is about one at the Laplace
    fit. What steers the cells is fixed at the plug-in spreads, so that a minibatch needs no sum over the fleet. Named: eta, sd (n_industry,), m, l (n_industry, n_application), tau (n_application,), s (), b (n_application,
    n_basis). Source: bayes.md 1 and 3.2.
    """
    at, priors = fleet.steer, fleet.priors
    eta = priors.eta_mean + priors.eta_sd * position["eta"]
    log_sd = jnp.log(at["sd"]) + position["log_sd"]
    log_tau = jnp.log(at["tau"]) + position["log_tau"] * at["tau_scale"]
    log_s = jnp.log(at["s"]) + position["log_s"] * at["s_scale"]
    away = jnp.einsum("apk,ak->ap", at["b_factor"], position["b"])
    natural = at["cell_natural"] - jnp.einsum("iacp,ap->iac", at["cell_slope"], away)
    m_scale = priors.share * jnp.exp(log_sd)[:, None]
    v_m = 1 / (m_scale**-2 + at["cell_precision"][..., 0])
    v_l = 1 / (priors.log_kappa_sd**-2 + at["cell_precision"][..., 1])
    named = {
        "eta": eta, "sd": jnp.exp(log_sd), "tau": jnp.exp(log_tau), "s": jnp.exp(log_s), "b": at["b"] + away,
        "m": v_m * (eta[:, None] / m_scale**2 + natural[..., 0]) + jnp.sqrt(v_m) * position["m"],
        "l": v_l * (priors.log_kappa_mean / priors.log_kappa_sd**2 + natural[..., 1]) + jnp.sqrt(v_l) * position["l"],
    }  # fmt: skip
    terms = (
        normal(eta, priors.eta_mean, priors.eta_sd), _half_normal(log_sd, priors.sd_sd),
        _half_normal(log_tau, priors.tau_sd), _half_normal(log_s, priors.s_sd), normal(named["b"], 0.0, priors.b_sd),
        normal(named["m"], eta[:, None], m_scale), normal(named["l"], priors.log_kappa_mean, priors.log_kappa_sd),
        0.5 * jnp.log(v_m), 0.5 * jnp.log(v_l),
    )  # fmt: skip
    return named, sum((term.sum() for term in terms), jnp.zeros(()))


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Summaries:
    """Log likelihood of each resource as a quadratic in d = (theta, log_kappa) - location and e = b - season.

    gradient . d - d' precision d / 2 - d' coupling e, plus per application pull . e - e' stiffness e / 2.
    location, gradient: (n_resource, 2); precision: (n_resource, 2, 2), positive semidefinite; coupling: (n_resource, 2,
    n_basis); industry, application: (n_resource,); season, pull: (n_application, n_basis); stiffness: (.., n_basis,
    n_basis).
    """

    location: jax.Array
    gradient: jax.Array
    precision: jax.Array
    coupling: jax.Array
    industry: jax.Array
    application: jax.Array
    season: jax.Array
    pull: jax.Array
    stiffness: jax.Array


@partial(jax.jit, static_argnames="moments")
def summarise(fleet: Fleet, working: Arrays, *, moments: bool = True) -> Summaries:
    """Gaussian summaries of all resources at working values of the parameters above: m, l, tau, s and b.

    `moments` False is the Laplace approximation at the resource's Laplace point. True matches, by Gauss-Hermite
    quadrature, the resource's posterior mean and covariance under the working values and the expected score of the
    season, so that the score of the approximate top-level posterior is exact there: Laplace summaries have an error of
    order one over the number of observations in every resource, which a large fleet does not average out.
    Source: Rue, Martino and Chopin 2009 (Laplace); Minka 2001 (moment-matched sites); Naylor and Smith 1982 (adaptive
    quadrature).
    """
    of, own = fleet.resources["application"], fleet.resources
    n, s1, s2, basis = own["n"], own["s1"], own["s2"], fleet.steer["basis"]
    prior_mean = jnp.stack([working["m"][own["industry"], of], working["l"][own["industry"], of]], -1)
    d = jnp.stack([working["tau"][of] ** -2, jnp.full(of.shape, working["s"] ** -2)], -1)
    offset = (working["b"] @ basis.T)[of]
    mode = jnp.stack([own["theta"], own["log_kappa"]], -1)

    def scores(x: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Log likelihood (n_resource,), and its derivatives by logit (n_resource, n_hour_cell) and log kappa."""
        logits, kappa = x[:, :1] + offset, jnp.exp(x[:, 1:])
        alpha = kappa * jax.nn.sigmoid(logits)
        beta = kappa * jax.nn.sigmoid(-logits)
        value = (alpha * s1 + beta * s2 - n * (lgamma(alpha) + lgamma(beta) - lgamma(kappa))).sum(1)
        da, db = s1 - n * digamma(alpha), s2 - n * digamma(beta)
        by_kappa = (alpha * da + beta * db).sum(1) + n.sum(1) * kappa[:, 0] * digamma(kappa)[:, 0]
        return value, alpha * jax.nn.sigmoid(-logits) * (da - db), by_kappa

    _, score, by_kappa = scores(mode)
    spread = jnp.linalg.inv(own["precision"] + d[:, :, None] * jnp.eye(2))
    gradient = jnp.stack([score.sum(1), by_kappa], -1)
    if moments:
        root = jnp.linalg.cholesky(spread)
        # one Fisher step from the Laplace point, which was found at other working values
        centre = mode + jnp.einsum("rij,rj->ri", spread, gradient - d * (mode - prior_mean))
        base = scores(centre)[0] - 0.5 * (d * (centre - prior_mean) ** 2).sum(1)
        nodes, weights = np.polynomial.hermite_e.hermegauss(QUADRATURE)
        grid = np.stack([g.ravel() for g in np.meshgrid(nodes, nodes, indexing="ij")], -1)
        log_weight = np.log(np.outer(weights, weights).ravel()) + 0.5 * (grid**2).sum(1)

        def add(sums: tuple[jax.Array, ...], node: tuple[jax.Array, jax.Array]) -> tuple[tuple[jax.Array, ...], None]:
            step = root @ node[0]
            value, score, _ = scores(centre + step)
            log_density = value - 0.5 * (d * (centre + step - prior_mean) ** 2).sum(1) - base
            w = jnp.exp(jnp.minimum(node[1] + log_density, 300.0))
            season = score @ basis
            parts = (
                w, w[:, None] * step, w[:, None, None] * step[:, :, None] * step[:, None, :], w[:, None] * season,
                w[:, None, None] * step[:, :, None] * season[:, None, :],
            )  # fmt: skip
            return tuple(a + b for a, b in zip(sums, parts, strict=True)), None

        k, r = basis.shape[1], len(of)
        zeros = tuple(jnp.zeros(shape) for shape in ((r,), (r, 2), (r, 2, 2), (r, k), (r, 2, k)))
        sums, _ = jax.lax.scan(add, zeros, (jnp.asarray(grid), jnp.asarray(log_weight)))
        first, second, pull, both = (part / sums[0].reshape(-1, *[1] * (part.ndim - 1)) for part in sums[1:])
        location = centre + first
        inverse = jnp.linalg.inv(second - first[:, :, None] * first[:, None, :])
        values, vectors = jnp.linalg.eigh(inverse - d[:, :, None] * jnp.eye(2))
        precision = jnp.einsum("rij,rj,rkj->rik", vectors, jnp.maximum(values, 0.0), vectors)
        gradient = d * (location - prior_mean)  # zero score of the posterior at its mean
        coupling = -jnp.einsum("rij,rjp->rip", inverse, both - first[:, :, None] * pull[:, None, :])
    else:
        location, precision, coupling, pull = mode, own["precision"], own["cross"], score @ basis
    p = jax.nn.sigmoid(location[:, :1] + offset)
    alpha, beta = p * jnp.exp(location[:, 1:]), (1 - p) * jnp.exp(location[:, 1:])
    information = n * (alpha * (1 - p)) ** 2 * (_trigamma(alpha) + _trigamma(beta))
    groups = len(working["tau"])
    by = partial(jax.ops.segment_sum, segment_ids=of, num_segments=groups)
    stiffness = jnp.einsum("hp,ah,hq->apq", basis, by(information), basis)
    return Summaries(location, gradient, precision, coupling, own["industry"], of, working["b"], by(pull), stiffness)


def _trigamma(x: jax.Array) -> jax.Array:
    """Derivative of `digamma`."""
    return jax.jvp(digamma, (x,), (jnp.ones_like(x),))[1]


def _conditional(named: Arrays, of: Summaries) -> tuple[jax.Array, ...]:
    """Posterior precision (3, n_resource) and natural mean (2, ..) of d given the parameters above, and prior terms."""
    away = (named["b"] - of.season)[of.application]
    d1, d2 = named["tau"][of.application] ** -2, named["s"] ** -2
    e1 = named["m"][of.industry, of.application] - of.location[:, 0]
    e2 = named["l"][of.industry, of.application] - of.location[:, 1]
    shift = (of.coupling * away[:, None, :]).sum(-1)
    p11, p12, p22 = d1 + of.precision[:, 0, 0], of.precision[:, 0, 1], d2 + of.precision[:, 1, 1]
    v1, v2 = of.gradient[:, 0] - shift[:, 0] + d1 * e1, of.gradient[:, 1] - shift[:, 1] + d2 * e2
    return p11, p12, p22, v1, v2, 0.5 * jnp.log(d1 * d2) - 0.5 * (d1 * e1**2 + d2 * e2**2)


def top_log_density(position: Arrays, fleet: Fleet, summaries: Summaries) -> jax.Array:
    """Log posterior density of the parameters above, every resource's own two integrated out in closed form."""
    named, prior = top_parameters(position, fleet)
    p11, p12, p22, v1, v2, own = _conditional(named, summaries)
    determinant = p11 * p22 - p12**2
    quadratic = (p22 * v1**2 - 2 * p12 * v1 * v2 + p11 * v2**2) / determinant
    away = named["b"] - summaries.season
    season = (summaries.pull * away).sum() - 0.5 * jnp.einsum("ap,apq,aq->", away, summaries.stiffness, away)
    return prior + season + (own + 0.5 * quadratic - 0.5 * jnp.log(determinant)).sum()


def draw_resources(named: Arrays, summaries: Summaries, *, key: jax.Array) -> Arrays:
    """One draw of theta and log_kappa (n_resource,) for one draw of the parameters above; `vmap` it over draws."""
    p11, p12, p22, v1, v2, _ = _conditional(named, summaries)
    determinant = p11 * p22 - p12**2
    z1, z2 = jax.random.normal(key, (2, len(p11)))
    second = jnp.sqrt(p11 / determinant) * z2
    theta = (p22 * v1 - p12 * v2) / determinant + z1 / jnp.sqrt(p11) - p12 / p11 * second
    log_kappa = (p11 * v2 - p12 * v1) / determinant + second
    return {"theta": summaries.location[:, 0] + theta, "log_kappa": summaries.location[:, 1] + log_kappa}
