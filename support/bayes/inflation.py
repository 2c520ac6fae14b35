"""Shares of intervals at exactly zero and at capacity: the second part of the two-part model, by quadrature."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import betaln, expit

from support.bayes.statistics import CellStatistics

__all__ = ["EdgeShares", "edge_shares"]

# Grid of the mean share (logit) and of the concentration (log), fine against the posteriors of tens of resources
MEANS, CONCENTRATIONS = np.linspace(-12.0, 12.0, 49), np.linspace(np.log(0.1), np.log(1000.0), 20)
PRIOR = 0.5, 50.0  # Beta prior of a mean share: about one interval in a hundred, this book's assumption


@dataclass(frozen=True)
class EdgeShares:
    """Posterior of the shares of zeros among all rows and of saturated rows among the others.

    hits, misses: (2, n_resource) effective counts, zeros first. group: (n_resource,) group of each; weight: (2, n_group +
    1, n_grid) posterior on the grid of mean and concentration, the last group being the fleet. own: no group at all.
    """

    hits: np.ndarray
    misses: np.ndarray
    group: np.ndarray
    weight: np.ndarray
    own: bool

    def draw(
        self, *, n_samples: int, rng: np.random.Generator, resource: int | None = None, group: int | None = None
    ) -> np.ndarray:
        """Draws of (zero share, saturated share) of all rows, (2, n_samples), of a resource or of a new one of a group.

        Neither resource nor group is a new resource of a new group, like the fleet as a whole.
        """
        shares = np.empty((2, n_samples))
        for part in range(2):
            hits = 0.0 if resource is None else self.hits[part, resource]
            misses = 0.0 if resource is None else self.misses[part, resource]
            if self.own:
                shares[part] = rng.beta(hits + PRIOR[0], misses + PRIOR[1], n_samples)
                continue
            of = self.group[resource] if resource is not None else (-1 if group is None else group)
            at = rng.choice(self.weight.shape[2], n_samples, p=self.weight[part, of])
            row, column = np.divmod(at, len(CONCENTRATIONS))
            within = rng.uniform(-0.5, 0.5, (2, n_samples))
            mean = expit(MEANS[row] + within[0] * (MEANS[1] - MEANS[0]))
            total = np.exp(CONCENTRATIONS[column] + within[1] * (CONCENTRATIONS[1] - CONCENTRATIONS[0]))
            shares[part] = rng.beta(mean * total + hits + 1e-12, (1 - mean) * total + misses + 1e-12)
        shares[1] *= 1 - shares[0]
        return shares


def edge_shares(stats: CellStatistics, pooling: str) -> EdgeShares:
    """Posterior of zero and saturation shares, a Beta-binomial per application; exact up to the grid's width.

    A resource's share varies around its application's mean; the likelihood of the inner values factors off, so that this
    needs no Markov chain. `pooling` "complete" has one share for all, "none" the same prior for each resource.
    """
    rows = stats.count + stats.zeros + stats.saturated
    hits = np.stack([stats.zeros, stats.saturated]) * stats.weight
    misses = np.stack([rows - stats.zeros, stats.count]) * stats.weight
    group = np.zeros_like(stats.application_of) if pooling == "complete" else stats.application_of
    if pooling == "complete":
        hits, misses = (np.repeat(x.sum(axis=1, keepdims=True), len(rows), axis=1) for x in (hits, misses))
    n_group = 1 if pooling == "complete" else len(stats.applications)
    weight = np.zeros((2, n_group + 1, len(MEANS) * len(CONCENTRATIONS)))
    own = pooling in ("none", "complete")
    if not own:
        for part in range(2):
            for g in range(n_group + 1):
                member = group == g if g < n_group else np.ones(len(rows), bool)
                weight[part, g] = _grid_posterior(hits[part, member], misses[part, member])
    return EdgeShares(hits, misses, group, weight, own)


def _grid_posterior(hits: np.ndarray, misses: np.ndarray) -> np.ndarray:
    """Posterior weights of (mean, concentration), flattened, from a Beta-binomial of the distinct counts."""
    mean, total = np.meshgrid(expit(MEANS), np.exp(CONCENTRATIONS), indexing="ij")
    alpha, beta = (mean * total).ravel(), ((1 - mean) * total).ravel()
    log = (PRIOR[0] * np.log(mean) + PRIOR[1] * np.log1p(-mean)).ravel()  # a Beta as a density of the logit
    pairs, times = np.unique(np.stack([hits, misses], -1).round(3), axis=0, return_counts=True)
    for (hit, miss), count in zip(pairs, times, strict=True):
        log = log + count * (betaln(alpha + hit, beta + miss) - betaln(alpha, beta))
    weight = np.exp(log - log.max())
    return weight / weight.sum()
