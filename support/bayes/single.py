"""Each resource on its own: the model without a hierarchy, which also serves complete pooling as one big resource."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import logit

from support.bayes.informed import LARGEST_MOVE, ROUNDS, score_and_information
from support.bayes.priors import Priors
from support.bayes.statistics import ALL, CellStatistics, seasonal_basis

__all__ = ["SinglePoints", "pooled", "single_points"]


@dataclass(frozen=True)
class SinglePoints:
    """Posterior modes of theta, log kappa and b of each resource, (n_resource, 2 + n_basis), and roots of covariances.

    factor: (n_resource, 2 + n_basis, 2 + n_basis). loc, scale: (2 + n_basis,) of the independent normal priors.
    """

    mode: np.ndarray
    factor: np.ndarray
    loc: np.ndarray
    scale: np.ndarray
    priors: Priors


def single_points(stats: CellStatistics, priors: Priors | None = None) -> SinglePoints:
    """Laplace fit of every resource by itself, with the hierarchical model's marginal prior (Priors.theta_sd)."""
    priors = priors or Priors()
    basis = seasonal_basis(stats.n_hour_cell)
    n_basis, n_resource = basis.shape[1], len(stats.resources)
    loc = np.array([priors.eta_mean, priors.log_kappa_mean, *np.zeros(n_basis)])
    scale = np.array([priors.theta_sd, priors.resource_log_kappa_sd, *np.full(n_basis, priors.b_sd)])
    total = np.maximum(stats.n.sum(axis=1), 1e-9)
    shares = np.exp(stats.s1.sum(axis=1) / total), np.exp(stats.s2.sum(axis=1) / total)
    x = np.tile(loc, (n_resource, 1))
    seen = stats.n.sum(axis=1) > 0
    x[seen, 0] = logit(shares[0] / (shares[0] + shares[1]))[seen]
    wave = np.column_stack([np.ones(stats.n_hour_cell), basis])  # of the logit: level and season
    precision = np.zeros((n_resource, n_basis + 2, n_basis + 2))
    order = np.array([0, *range(2, n_basis + 2)])
    for _ in range(ROUNDS):
        score, information = score_and_information(x[:, 0], x[:, 1], x[:, 2:] @ basis.T, stats)
        gradient = np.zeros_like(x)
        gradient[:, order], gradient[:, 1] = score[0] @ wave, score[1].sum(axis=1)
        precision[:, order[:, None], order] = np.einsum("hp,rh,hk->rpk", wave, information[0], wave)
        precision[:, 1, order] = precision[:, order, 1] = information[1] @ wave
        precision[:, 1, 1] = information[2].sum(axis=1)
        posterior = precision + np.diag(1 / scale**2)
        step = np.linalg.solve(posterior, (gradient - (x - loc) / scale**2)[..., None])[..., 0]
        x = x + np.clip(step, -LARGEST_MOVE, LARGEST_MOVE)
    factor = np.linalg.inv(np.linalg.cholesky(posterior)).transpose(0, 2, 1)
    return SinglePoints(x, factor, loc, scale, priors)


def pooled(stats: CellStatistics) -> CellStatistics:
    """The fleet as one resource: what complete pooling sees. Weighted counts are added, groups are forgotten."""

    def one(values: np.ndarray) -> np.ndarray:
        return values.sum(axis=0, keepdims=True)

    count = stats.count.sum()
    return replace(
        stats, industries=(ALL,), applications=(ALL,), resources=(ALL,), industry_of=np.zeros(1, int),
        application_of=np.zeros(1, int), n=one(stats.n), s1=one(stats.s1), s2=one(stats.s2), zeros=one(stats.zeros),
        saturated=one(stats.saturated), weight=np.array([stats.n.sum() / count]), lag=None, missing=None, capacity=None,
    )  # fmt: skip
