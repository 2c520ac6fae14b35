"""Metrics of a machine as joint samples: marginals, cycle, and a copula, Gaussian or Gumbel, of what the cycle leaves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import pandas as pd
from scipy import stats

from support.bayes.correlation import CorrelationPosterior
from support.bayes.scores import SEASONS, hour_cell, normal_scores, season_of
from support.errors import SchemaError, SourceError, TooShortError
from support.telemetry import ar1
from support.telemetry.schema import METRICS, Telemetry
from support.writing import plural

__all__ = ["EmpiricalMarginal", "JointModel", "JointRisk", "beta_marginal", "gumbel_orthant", "joint_models", "simulate_joint", "upper_orthant"]  # fmt: skip

NODES, WEIGHTS = np.polynomial.legendre.leggauss(24)
MARGINALS = ("empirical", "beta")
FAMILIES = ("gaussian", "gumbel")
RHO_NODES = 33  # correlations at which a risk is computed; between them it is interpolated


class Marginal(Protocol):
    """Distribution of one metric: scipy's frozen distributions are."""

    def cdf(self, x: np.ndarray) -> np.ndarray:
        """Probability of at most x."""

    def ppf(self, q: np.ndarray) -> np.ndarray:
        """Quantile at the probability q."""


@dataclass(frozen=True)
class EmpiricalMarginal:
    """What was seen: `ordered`, shape (n,), increasing; the i-th value stands at probability (i - 1/2) / n.

    Example:
        >>> EmpiricalMarginal(np.array([1.0, 2.0, 4.0])).ppf(np.array([0.5])).tolist()
        [2.0]
    """

    ordered: np.ndarray

    def cdf(self, x: np.ndarray) -> np.ndarray:
        """Share of values at most x, ties counted half, never 0 or 1."""
        n = len(self.ordered)
        rank = 0.5 * (np.searchsorted(self.ordered, x, "left") + np.searchsorted(self.ordered, x, "right"))
        return np.asarray(np.clip(rank / n, 0.25 / n, 1 - 0.25 / n))

    def ppf(self, q: np.ndarray) -> np.ndarray:
        """Quantile at the probability q, linear between the values; nothing beyond the largest seen."""
        n = len(self.ordered)
        return np.asarray(np.interp(q, (np.arange(n) + 0.5) / n, self.ordered))


def beta_marginal(values: np.ndarray, highest: float = 100.0) -> Marginal:
    """Beta distribution on (0, highest) with the mean and variance of `values`. Raises SchemaError if there is none.

    Example:
        >>> float(beta_marginal(np.array([20.0, 30.0, 40.0])).mean().round(6))
        30.0
    """
    mean, variance = float(np.mean(values)) / highest, float(np.var(values)) / highest**2
    precision = mean * (1 - mean) / variance - 1 if variance > 0 else 0.0
    if not 0 < mean < 1 or precision <= 0:
        raise SchemaError(f"no Beta on (0, {highest:g}) has mean {mean * highest:g} and variance {variance * highest**2:g}. Use marginal='empirical'.")  # fmt: skip
    return stats.beta(mean * precision, (1 - mean) * precision, scale=highest)


def upper_orthant(first: np.ndarray, second: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """P(X > first, Y > second) of standard normals with correlation rho; arrays that broadcast, |rho| < 1.

    Exact to 1e-9 up to |rho| = 0.95 and to 1e-4 up to 0.999.
    Source: Plackett (1954), Biometrika 41, integrated over arcsin rho as in Drezner and Wesolowsky (1990), 24 nodes.

    Example:
        >>> float(upper_orthant(np.array(0.0), np.array(0.0), np.array(0.5)).round(6))
        0.333333
    """
    a, b, half = first[..., None], second[..., None], np.arcsin(rho)[..., None] / 2
    angle = half * (NODES + 1)
    density = np.exp(-(a**2 + b**2 - 2 * a * b * np.sin(angle)) / (2 * np.cos(angle) ** 2))
    together = (density * WEIGHTS).sum(-1) * half[..., 0] / (2 * np.pi)
    return np.asarray(np.maximum(stats.norm.sf(first) * stats.norm.sf(second) + together, 0.0))


def gumbel_orthant(first: np.ndarray, second: np.ndarray, rho: np.ndarray) -> np.ndarray:
    """P(U > first, V > second) of uniforms under a Gumbel copula with the Kendall tau of a Gaussian one of correlation rho.

    Two metrics that a burst lifts together are more alike above than below; a Gaussian copula is as alike on both sides.
    A negative rho gives independence, the least that a Gumbel copula can.
    Source: Gumbel (1960); Nelsen (2006), An Introduction to Copulas, 4.2 (C) and 5.1 (tau = 1 - 1/theta).

    Example:
        >>> gumbel_orthant(np.array(0.95), np.array(0.95), np.array([0.0, 0.5])).round(4).tolist()
        [0.0025, 0.0218]
    """
    theta = 1 / (1 - 2 / np.pi * np.arcsin(np.clip(rho, 0.0, 0.999)))
    both = np.exp(-(((-np.log(first)) ** theta + (-np.log(second)) ** theta) ** (1 / theta)))
    return np.asarray(np.maximum(1 - first - second + both, 0.0))


@dataclass(frozen=True)
class JointRisk:
    """Share of hours in which two metrics are both above their limits. independent: product of the two shares; cycle:
    product within each hour of the week; copula: with the correlation of the remainder, shape (n_draw,)."""

    independent: float
    cycle: float
    copula: np.ndarray


@dataclass(frozen=True)
class JointModel:
    """One machine. cycle: mean score of each cell of `season`, (n_cell, k); remainder: what it leaves, ordered, one a
    metric; marginals: one a metric; memory_steps: of an AR(1) with the remainder's mean lag-1 autocorrelation;
    correlation: draws of the copula's matrix, (n_draw, k, k); family: of the copula."""

    metrics: tuple[str, ...]
    season: str
    cycle: np.ndarray
    remainder: tuple[EmpiricalMarginal, ...]
    marginals: tuple[Marginal, ...]
    memory_steps: float
    correlation: np.ndarray
    family: str = "gaussian"

    def risk(self, first: str, second: str, limits: tuple[float, float]) -> JointRisk:
        """Share of hours with both metrics above `limits` (in their units). Raises SchemaError for an unknown metric."""
        if unknown := {first, second} - set(self.metrics):
            raise SchemaError(
                f"no metric {', '.join(sorted(unknown))} in this model; it has {', '.join(self.metrics)}."
            )
        tails = []
        for metric, limit in zip((first, second), limits, strict=True):
            at = self.metrics.index(metric)
            score = stats.norm.ppf(self.marginals[at].cdf(np.array(float(limit))))
            tails.append(self.remainder[at].cdf(score - self.cycle[:, at]))
        alone = [1 - t for t in tails]
        rho = self.correlation[:, self.metrics.index(first), self.metrics.index(second)]
        nodes = np.linspace(rho.min(), rho.max(), RHO_NODES)
        if self.family == "gumbel":
            at_nodes = gumbel_orthant(tails[0][None], tails[1][None], nodes[:, None]).mean(1)
        else:
            x, y = (stats.norm.ppf(t)[None] for t in tails)
            at_nodes = upper_orthant(x, y, nodes[:, None]).mean(1)
        together = np.interp(rho, nodes, at_nodes)
        return JointRisk(float(alone[0].mean() * alone[1].mean()), float((alone[0] * alone[1]).mean()), together)

    def sample(self, times: pd.DatetimeIndex, *, rng: np.random.Generator) -> np.ndarray:
        """A joint path at `times`, shape (n_time, k): one draw of the matrix, noise with memory (joined by
        a Gaussian copula, whatever the family), cycle, marginals."""
        chosen = self.correlation[rng.integers(len(self.correlation))]
        noise = np.linalg.cholesky(chosen) @ ar1((len(self.metrics), len(times)), self.memory_steps, 1.0, rng=rng)
        chance = stats.norm.cdf(noise)
        cycle = self.cycle[hour_cell(times, self.season)]
        columns = [
            marginal.ppf(stats.norm.cdf(left.ppf(e) + c))
            for marginal, left, e, c in zip(self.marginals, self.remainder, chance, cycle.T, strict=True)
        ]
        return np.column_stack(columns)


def joint_models(
    telemetry: Telemetry,
    posterior: CorrelationPosterior,
    *,
    season: str = "week",
    marginal: str = "empirical",
    family: str = "gaussian",
) -> dict[str, JointModel]:
    """A model of each machine of the posterior, from the telemetry that it was fitted to.

    marginal: "empirical", or "beta" for metrics in percent (others stay empirical). family: "gaussian" or
    "gumbel" (see `gumbel_orthant`), of the risk of a pair. Raises SourceError for another, or SchemaError if a machine is not
    in the telemetry.
    """
    if marginal not in MARGINALS or family not in FAMILIES:
        raise SourceError(
            f"marginal={marginal!r}, family={family!r}; use one of {', '.join(MARGINALS)} and of {', '.join(FAMILIES)}."
        )
    found, metrics = {}, posterior.statistics.metrics
    for number, name in enumerate(posterior.statistics.resources):
        if name not in telemetry.observations.index.levels[0]:
            raise SchemaError(f"{telemetry.source}: no machine {name!r}. Give the telemetry that was fitted.")
        frame = telemetry.observations.loc[name, list(metrics)].dropna()
        used = season_of(len(frame), telemetry.step_seconds, season)
        cell, scores = hour_cell(pd.DatetimeIndex(frame.index), used), normal_scores(frame.to_numpy())
        means = pd.DataFrame(scores).groupby(cell).mean().reindex(range(SEASONS[used])).fillna(0.0).to_numpy()
        left = scores - means[cell]
        fitted = [
            beta_marginal(frame[m].to_numpy())
            if marginal == "beta" and METRICS[m][0] == "percent"
            else EmpiricalMarginal(np.sort(frame[m].to_numpy()))
            for m in metrics
        ]
        near = float(np.mean([np.corrcoef(x[1:], x[:-1])[0, 1] for x in left.T]))
        memory = -1 / np.log(np.clip(near, 0.01, 0.999))
        ordered = tuple(EmpiricalMarginal(np.sort(x)) for x in left.T)
        draws = posterior.resource[:, number]
        found[name] = JointModel(metrics, used, means, ordered, tuple(fitted), float(memory), draws, family)
    return found


def simulate_joint(models: Mapping[str, JointModel], times: pd.DatetimeIndex, *, rng: np.random.Generator) -> Telemetry:
    """One joint path of every machine at `times` (UTC, even step), as Telemetry for the generator's users.

    A percentage stays within 0 to 100 because its marginal does. Raises SchemaError without models, TooShortError with
    fewer than two times.
    """
    if not models:
        raise SchemaError("no machine to simulate. Give the models of joint_models.")
    if len(times) < 2:
        raise TooShortError(f"{plural(len(times), 'time')} to simulate; at least 2 are needed, which tell the step.")
    metrics = next(iter(models.values())).metrics
    index = pd.MultiIndex.from_product([sorted(models), times.as_unit("ns")], names=["resource_id", "timestamp"])
    values = np.concatenate([models[name].sample(times, rng=rng) for name in sorted(models)])
    step = (times[1] - times[0]).total_seconds()
    told = f"Joint samples of {plural(len(models), 'machine')} from fitted marginals, cycles and correlations; not a measurement."
    return Telemetry(pd.DataFrame(values, index, list(metrics)), step, "copula", told, True)
