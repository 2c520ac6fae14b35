"""Simulation-based calibration: fleets drawn from the prior in NumPy, ranks of the truth, tests of their uniformity."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.stats import binom, chisquare

from support.bayes.statistics import CellStatistics, seasonal_basis
from support.errors import SchemaError, TooShortError

__all__ = ["coverage", "ecdf_band", "rank_of_truth", "simulate_fleet", "uniformity"]

Array = NDArray[np.float64]
NULL_DRAWS = 4000  # simulated uniform samples behind an ECDF test: its p-values have steps of 1/4001


def simulate_fleet(
    *,
    rng: np.random.Generator,
    n_industry: int = 3,
    n_application: int = 3,
    n_resource: int = 6,
    n_observation: ArrayLike = 48,
    n_hour_cell: int = 24,
) -> tuple[CellStatistics, dict[str, Array]]:
    """A fleet drawn from the model's prior, `n_resource` in each cell: its hour-cell statistics and the true parameters.

    n_observation: hourly rows, one number or one for each of the n_industry * n_application * n_resource resources.
    Truths: eta, sd (industry), m, l (industry, application), tau (application), s, b (application, basis), theta and
    log_kappa (resource). Written apart from the model's log density, as its check. Raises SchemaError.
    Source: the model's priors (bayes.md 1); log-gamma draws after Marsaglia and Tsang 2000, section 8, so that a Beta
    draw under 1e-308 keeps its logarithm.

    Example:
        >>> stats, truth = simulate_fleet(rng=np.random.default_rng(1))
        >>> stats.n.shape, truth["m"].shape, truth["b"].shape
        ((54, 24), (3, 3), (3, 4))
    """
    if min(n_industry, n_application, n_resource) < 1:
        raise SchemaError(f"{n_industry} x {n_application} cells of {n_resource} resources: each must be at least 1.")
    basis, cells = seasonal_basis(n_hour_cell), (n_industry, n_application)
    truth = {"eta": rng.normal(-1.80, 0.40, n_industry), "sd": np.abs(rng.normal(0, 0.6, n_industry))}
    truth["m"] = rng.normal(np.broadcast_to(truth["eta"][:, None], cells), 0.5 * truth["sd"][:, None])
    truth |= {"tau": np.abs(rng.normal(0, 0.5, n_application)), "l": rng.normal(math.log(30), 0.7, cells)}
    truth |= {"s": np.abs(rng.normal(0, 0.5)), "b": rng.normal(0, 0.35, (n_application, basis.shape[1]))}
    industry = np.repeat(np.arange(n_industry), n_application * n_resource)
    application = np.tile(np.repeat(np.arange(n_application), n_resource), n_industry)
    truth["theta"] = rng.normal(truth["m"][industry, application], truth["tau"][application])
    truth["log_kappa"] = rng.normal(truth["l"][industry, application], truth["s"])
    rows = np.broadcast_to(np.asarray(n_observation, dtype=int), industry.shape)
    resource = np.repeat(np.arange(len(rows)), rows)
    cell = (np.arange(len(resource)) - np.repeat(np.cumsum(rows) - rows, rows)) % n_hour_cell
    mean = 1 / (1 + np.exp(-truth["theta"][resource] - (truth["b"] @ basis.T)[application[resource], cell]))
    kappa = np.exp(truth["log_kappa"][resource])
    a, b = (_log_gamma_draws(shape, rng=rng) for shape in (mean * kappa, (1 - mean) * kappa))
    total, shape = np.logaddexp(a, b), (len(rows), n_hour_cell)
    position = resource * n_hour_cell + cell
    n, s1, s2 = (
        np.bincount(position, values, shape[0] * shape[1]).reshape(shape).astype(float)
        for values in (None, a - total, b - total)
    )
    industries = tuple(f"industry-{i}" for i in range(n_industry))
    applications = tuple(f"application-{i}" for i in range(n_application))
    nothing = np.zeros(len(rows))
    ids = tuple(f"r-{i}" for i in range(len(rows)))
    stats = CellStatistics(
        industries, applications, ids, industry, application, n, s1, s2, nothing, nothing, nothing + 1
    )
    return stats, truth


def _log_gamma_draws(shape: Array, *, rng: np.random.Generator) -> Array:
    """Logarithms of Gamma(shape, 1) draws, exact for tiny shapes too: G(a) = G(a + 1) U^(1/a) in distribution."""
    return np.log(rng.gamma(shape + 1)) - rng.standard_exponential(shape.shape) / shape


def rank_of_truth(truth: Mapping[str, ArrayLike], draws: Mapping[str, ArrayLike]) -> dict[str, NDArray[np.int64]]:
    """Number of posterior draws under the truth, per scalar of each parameter.

    truth: arrays (n_fleet, ...); draws: arrays (n_fleet, n_draw, ...), thinned to near independence. Ranks are 0 to
    n_draw and uniform if the computation is right. Raises SchemaError. Source: Talts et al. 2018, algorithm 1.

    Example:
        >>> rank_of_truth({"x": [0.5]}, {"x": [[0.1, 0.2, 0.9]]})["x"].tolist()
        [2]
    """
    for name in truth:
        expected, got = np.shape(truth[name]), np.shape(draws[name])
        if len(got) != len(expected) + 1 or got[:1] + got[2:] != expected:
            raise SchemaError(f"{name}: draws have shape {got}; a truth of shape {expected} needs (fleet, draw, ...).")
    return {name: (np.asarray(draws[name]) < np.asarray(truth[name])[:, None]).sum(axis=1) for name in truth}


def uniformity(ranks: ArrayLike, n_draws: int, *, rng: np.random.Generator, bins: int = 20) -> dict[str, object]:
    """Histogram of SBC ranks and p-values of two tests of uniformity, chi-square and simultaneous ECDF.

    ranks: (n_fleet,) integers 0 to n_draws; bins must divide n_draws + 1. Raises SchemaError, TooShortError (fewer than
    five expected a bin). Source: Talts et al. 2018; Säilynoja, Bürkner and Vehtari 2022, section 2.3.

    Example:
        >>> uniformity(np.arange(200) % 100, 99, rng=np.random.default_rng(1))["chi_square_p"]
        1.0
    """
    ranks = np.asarray(ranks)
    if ranks.ndim != 1 or ranks.min() < 0 or ranks.max() > n_draws or (n_draws + 1) % bins:
        raise SchemaError(f"ranks must be (n_fleet,) in 0..{n_draws}, and {bins} bins must divide {n_draws + 1}.")
    if len(ranks) < 5 * bins:
        raise TooShortError(
            f"{len(ranks)} ranks in {bins} bins: simulate at least {5 * bins} fleets, or use fewer bins."
        )
    counts = np.bincount(ranks * bins // (n_draws + 1), minlength=bins)
    inside = _smallest_tail(np.bincount(ranks, minlength=n_draws + 1)[None], len(ranks))[0]
    null = _null(len(ranks), n_draws, rng)
    ecdf_p = (1 + np.count_nonzero(null <= inside)) / (1 + len(null))
    return {"counts": counts.tolist(), "chi_square_p": float(chisquare(counts).pvalue), "ecdf_p": float(ecdf_p)}


def _smallest_tail(counts: NDArray[np.int64], n: int) -> Array:
    """Smallest binomial tail of the ECDF over all ranks, (n_sample,), from counts by rank (n_sample, n_draws + 1)."""
    k = counts.shape[1]
    share, possible = np.arange(1, k) / k, np.arange(n + 1)[:, None]
    tail = np.minimum(binom.cdf(possible, n, share), binom.sf(possible - 1, n, share))
    return tail[np.cumsum(counts, axis=1)[:, :-1], np.arange(k - 1)].min(axis=1)


def _null(n: int, n_draws: int, rng: np.random.Generator) -> Array:
    """The statistic of `_smallest_tail` for simulated uniform ranks."""
    return _smallest_tail(rng.multinomial(n, np.full(n_draws + 1, 1 / (n_draws + 1)), size=NULL_DRAWS), n)


def ecdf_band(
    n_fleet: int, n_draws: int, *, rng: np.random.Generator, level: float = 0.95
) -> tuple[Array, Array, Array]:
    """Simultaneous band for the ECDF of uniform ranks minus the diagonal: positions, lower, upper, each (n_draws,).

    Source: Säilynoja, Bürkner and Vehtari 2022, algorithm 1 with the tail adjusted by simulation.

    Example:
        >>> z, low, high = ecdf_band(200, 99, rng=np.random.default_rng(1))
        >>> bool((low < 0).all() and (high > 0).all()), bool(high.max() < 0.12)
        (True, True)
    """
    tail = np.quantile(_null(n_fleet, n_draws, rng), 1 - level)
    z = np.arange(1, n_draws + 1) / (n_draws + 1)
    return z, binom.ppf(tail, n_fleet, z) / n_fleet - z, binom.isf(tail, n_fleet, z) / n_fleet - z


def coverage(truth: ArrayLike, draws: ArrayLike, level: float) -> float:
    """Share of truths (n_fleet, ...) inside the central `level` interval of their draws (n_fleet, n_draw, ...).

    Weibull's plotting positions, q (n_draw + 1), make the expected share `level` for few draws too; interpolation
    between the smallest and largest draw would give 88 for 90 percent with 99 draws.

    Example:
        >>> coverage([0.5, 3.0], [[0, 1, 2], [0, 1, 2]], 0.5)
        0.5
    """
    edges = [(1 - level) / 2, (1 + level) / 2]
    low, high = np.quantile(np.asarray(draws, dtype=float), edges, axis=1, method="weibull")
    return float(np.mean((low <= np.asarray(truth)) & (np.asarray(truth) <= high)))
