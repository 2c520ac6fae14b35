"""Log density of the hierarchical utilisation model in JAX, informed and non-centred, and of its two rivals."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from support.bayes.informed import InformedPoints, informed_points
from support.bayes.single import SinglePoints
from support.bayes.special import lgamma
from support.bayes.statistics import CellStatistics, seasonal_basis

__all__ = [
    "constrain", "density_of", "informed_points", "log_density", "log_likelihood", "model_data", "parameters_of", "start",
]  # fmt: skip

Parameters = dict[str, jax.Array]  # also an unconstrained position
Data = dict[str, Any]
Points = InformedPoints | SinglePoints
HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)
DENSE_SHARE = 0.25  # of cells with observations, under which only these are evaluated: short-lived resources fill few
MANY_GROUPS = 64  # over which values of groups are gathered: below, products with indicators are several times as fast


def model_data(stats: CellStatistics, points: Points) -> Data:
    """Statistics, points and priors as a pytree: equal shapes share one compiled program, whatever their numbers."""
    data: Data = {k: np.asarray(v) for k, v in vars(points).items() if k != "priors"}
    single = isinstance(points, SinglePoints)
    data |= {"priors": asdict(points.priors), "cells": _cells(stats, single=single)}
    if not single:
        n_application = len(stats.applications)
        data["cell"] = _membership(
            stats.industry_of * n_application + stats.application_of, len(stats.industries) * n_application
        )
    return data


def _membership(group_of: np.ndarray, n_group: int) -> np.ndarray:
    """Indicators (n_resource, n_group), or the positions themselves (n_resource,) where the groups are many."""
    return np.eye(n_group)[group_of] if n_group <= MANY_GROUPS else group_of


def _of_group(values: jax.Array, membership: jax.Array) -> jax.Array:
    """Each resource's row of the values (n_group, k) of the groups."""
    return membership @ values if membership.ndim == 2 else values[membership]


def _by_group(values: jax.Array, membership: jax.Array, n_group: int) -> jax.Array:
    """Sums (n_group, k) of the rows (n_resource, k) of each group."""
    return membership.T @ values if membership.ndim == 2 else jax.ops.segment_sum(values, membership, n_group)


def _cells(stats: CellStatistics, *, single: bool) -> Data:
    """What the likelihood needs; with `row` and `hour` only the filled cells, in one dimension."""
    cells: Data = {
        "basis": seasonal_basis(stats.n_hour_cell),
        "n_resource": stats.n.sum(axis=1),
        "constant": stats.s1.sum() + stats.s2.sum(),
    }
    seen = np.flatnonzero(stats.n)
    if len(seen) >= DENSE_SHARE * stats.n.size:
        cells |= {"n": stats.n, "s1": stats.s1, "s2": stats.s2}
    else:
        cells |= {k: getattr(stats, k).ravel()[seen] for k in ("n", "s1", "s2")}
        cells["row"], cells["hour"] = np.divmod(seen, stats.n_hour_cell)
    if not single:
        cells["application"] = _membership(stats.application_of, len(stats.applications))
    return cells


def _log_likelihood(named: Parameters, cells: Data) -> jax.Array:
    season = named["b"] @ cells["basis"].T
    if "application" in cells:
        season = _of_group(season, cells["application"])
    logits, kappa = named["theta"][:, None] + season, jnp.exp(named["log_kappa"])
    normaliser = (cells["n_resource"] * lgamma(kappa)).sum()
    if "row" in cells:
        of_cell = kappa[cells["row"]]
        alpha = of_cell * jax.nn.sigmoid(logits[cells["row"], cells["hour"]])
        beta = of_cell - alpha
    else:
        alpha = kappa[:, None] * jax.nn.sigmoid(logits)
        beta = kappa[:, None] - alpha
    terms = alpha * cells["s1"] + beta * cells["s2"] - cells["n"] * (lgamma(alpha) + lgamma(beta))
    return terms.sum() + normaliser - cells["constant"]


def log_likelihood(stats: CellStatistics, *, single: bool = False) -> Callable[[Parameters], jax.Array]:
    """Beta log likelihood of all observations as a function of theta, log_kappa (n_resource,) and b (group, n_basis).

    Exactly the sum over rows of log Beta(y | p kappa, (1 - p) kappa) with p = expit(theta_r + X_h b) where weights are
    one: (alpha - 1) s1 + (beta - 1) s2 - n log B(alpha, beta) per cell. `single` gives every resource its own season.
    """
    cells = _cells(stats, single=single)
    return lambda named: _log_likelihood(named, cells)


def _normal(x: jax.Array, loc: jax.Array | float, scale: jax.Array | float) -> jax.Array:
    """Sum of normal log densities."""
    return (-0.5 * ((x - loc) / scale) ** 2 - jnp.log(scale) - HALF_LOG_2_PI).sum()


def _half_normal_of_log(log_x: jax.Array, scale: float) -> jax.Array:
    """Sum of log densities of log x where x is half normal."""
    return (math.log(2) - 0.5 * (jnp.exp(log_x) / scale) ** 2 - jnp.log(scale) - HALF_LOG_2_PI + log_x).sum()


def _informed(
    z: jax.Array, loc: jax.Array, scale: jax.Array, precision: jax.Array, natural: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The parameter for a standard z, and the log Jacobian: v (loc / scale^2 + natural) + sqrt(v) z."""
    v = 1 / (1 / scale**2 + precision)
    return v * (loc / scale**2 + natural) + jnp.sqrt(v) * z, 0.5 * jnp.log(v).sum()


def _hierarchical(position: Parameters, data: Data) -> tuple[Parameters, jax.Array]:
    """Named parameters, and log prior plus log Jacobian, of the hierarchical model."""
    prior, of_application, of_cell = data["priors"], data["cells"]["application"], data["cell"]
    shape = data["m"].shape
    log_sd = jnp.log(data["sd"]) + position["log_sd"]
    log_tau = jnp.log(data["tau"]) + position["log_tau"] * data["tau_scale"]
    log_s = jnp.log(data["s"]) + position["log_s"] * data["s_scale"]
    sd, tau, s = jnp.exp(log_sd), jnp.exp(log_tau), jnp.exp(log_s)
    away = jnp.einsum("apk,ak->ap", data["b_factor"], position["b"])
    b = data["b"] + away
    own = _of_group(jnp.concatenate([away, tau[:, None]], -1), of_application)
    away, tau_of = own[:, :-1], own[:, -1]
    # what the resources say of their cell, and the cells of their industry, given the spreads: upwards.
    # Level and log precision go as two vectors, without a pair's axis: the compiler fuses those better.
    scale = tau_of, jnp.broadcast_to(s, tau_of.shape)
    weight = [1 / (data["variance"][:, k] + scale[k] ** 2) for k in range(2)]
    estimate = [data["estimate"][:, k] - (data["slope"][:, k] * away).sum(-1) for k in range(2)]
    told = jnp.stack([*weight, *(w * x for w, x in zip(weight, estimate, strict=True))], -1)
    told = _by_group(told, of_cell, shape[0] * shape[1]).reshape(*shape, 4)
    precision, natural = told[..., :2], told[..., 2:]
    m_scale = jnp.broadcast_to(prior["share"] * sd[:, None], shape)
    thinned = 1 / (1 + precision[..., 0] * m_scale**2)
    top = (precision[..., 0] * thinned).sum(axis=1), (natural[..., 0] * thinned).sum(axis=1)
    # and downwards: each level given the one above
    eta_loc, eta_scale = jnp.full(shape[0], prior["eta_mean"]), jnp.full(shape[0], prior["eta_sd"])
    eta, jacobian_eta = _informed(position["eta"], eta_loc, eta_scale, *top)
    m_loc = jnp.broadcast_to(eta[:, None], shape)
    l_loc, l_scale = jnp.full(shape, prior["log_kappa_mean"]), jnp.full(shape, prior["log_kappa_sd"])
    m, jacobian_m = _informed(position["m"], m_loc, m_scale, precision[..., 0], natural[..., 0])
    l_cell, jacobian_l = _informed(position["l"], l_loc, l_scale, precision[..., 1], natural[..., 1])
    # level and log precision of a resource jointly: mean V (D loc + natural), covariance V = (D + Q)^-1, 2 x 2
    loc = _of_group(jnp.stack([m.ravel(), l_cell.ravel()], -1), of_cell).T
    d, q = [1 / x**2 for x in scale], data["precision"]
    r1, r2 = (d[k] * loc[k] + data["natural"][:, k] - (data["cross"][:, k] * away).sum(-1) for k in range(2))
    p11, p12, p22 = d[0] + q[:, 0, 0], q[:, 0, 1], d[1] + q[:, 1, 1]
    determinant = p11 * p22 - p12**2
    z = position["resource"]
    root, root_determinant = jnp.sqrt(p11), jnp.sqrt(determinant)  # the mean plus L^-T z, where L L^T = D + Q
    log_kappa = (p11 * r2 - p12 * r1) / determinant + z[:, 1] * root / root_determinant
    theta = (p22 * r1 - p12 * r2) / determinant + (z[:, 0] - p12 * z[:, 1] / root_determinant) / root
    total = _normal(eta, prior["eta_mean"], prior["eta_sd"]) + _half_normal_of_log(log_sd, prior["sd_sd"])
    total += _half_normal_of_log(log_tau, prior["tau_sd"]) + _half_normal_of_log(log_s, prior["s_sd"])
    total += _normal(b, 0.0, prior["b_sd"]) + _normal(m, m_loc, m_scale) + _normal(l_cell, l_loc, l_scale)
    total += _normal(theta, loc[0], scale[0]) + _normal(log_kappa, loc[1], scale[1])
    total += jacobian_eta + jacobian_m + jacobian_l - 0.5 * jnp.log(determinant).sum()
    named = {"eta": eta, "sd": sd, "m": m, "tau": tau, "l": l_cell, "s": s, "b": b, "theta": theta}
    return named | {"log_kappa": log_kappa}, total


def _single(position: Parameters, data: Data) -> tuple[Parameters, jax.Array]:
    """Named parameters and log prior of resources on their own; the transformation is fixed, its Jacobian a constant."""
    x = data["mode"] + jnp.einsum("rpk,rk->rp", data["factor"], position["resource"])
    total = (-0.5 * ((x - data["loc"]) / data["scale"]) ** 2).sum()
    return {"theta": x[:, 0], "log_kappa": x[:, 1], "b": x[:, 2:]}, total


def _named(position: Parameters, data: Data) -> tuple[Parameters, jax.Array]:
    return (_single if "mode" in data else _hierarchical)(position, data)


def parameters_of(position: Parameters, data: Data) -> Parameters:
    """`constrain` as a function of `model_data`."""
    return _named(position, data)[0]


def density_of(position: Parameters, data: Data) -> jax.Array:
    """`log_density` as a function of `model_data`."""
    named, prior = _named(position, data)
    return _log_likelihood(named, data["cells"]) + prior


def constrain(position: Parameters, stats: CellStatistics, points: Points) -> Parameters:
    """Named parameters of an unconstrained position: the symbols of the model.

    eta, sd (n_industry,); m, l (n_industry, n_application); tau (n_application,); s (); b (n_application, n_basis);
    theta, log_kappa (n_resource,). A model without hierarchy has theta, log_kappa and b (n_resource, n_basis) only.
    """
    return parameters_of(position, model_data(stats, points))


def log_density(stats: CellStatistics, points: Points) -> Callable[[Parameters], jax.Array]:
    """Log posterior density (up to a constant) of an unconstrained position, differentiable and vectorisable.

    The priors are those of `points`; `informed_points` makes it hierarchical, `single_points` a model of each resource
    on its own. Every level is non-centred around what the levels below say of it. Source: bayes.md 1 and 3.2.

    Example:
        >>> from support.telemetry import load
        >>> from support.bayes.statistics import cell_statistics
        >>> stats = cell_statistics(load("synthetic:industries", seed=1, days=2, n_resources=12, step_seconds=3600))
        >>> points = informed_points(stats)
        >>> bool(jnp.isfinite(jax.jit(log_density(stats, points))(start(stats, points))))
        True
    """
    data = model_data(stats, points)
    return lambda position: density_of(position, data)


def start(stats: CellStatistics, points: Points) -> Parameters:
    """The Laplace point as an unconstrained position: where the chains begin (bayes.md 3.2: never from the prior)."""
    n_resource = len(stats.resources)
    if isinstance(points, SinglePoints):
        return {"resource": jnp.zeros((n_resource, points.mode.shape[1]))}
    shape = points.m.shape
    shapes: dict[str, tuple[int, ...]] = {"eta": shape[:1], "log_sd": shape[:1], "log_tau": shape[1:], "log_s": ()}
    shapes |= {"m": shape, "l": shape, "b": points.b.shape, "resource": (n_resource, 2)}
    return {name: jnp.zeros(size) for name, size in shapes.items()}
