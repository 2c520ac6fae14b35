"""Posterior predictive of the next days' demand of many resources at once, in closed form given a level factor.

The days to come are past days drawn anew under a flat Dirichlet prior (a Polya urn, Rubin's Bayesian bootstrap by days), times
a factor for the level, whose spread is learned from how the 99 % quantile of one week followed that of the week before:
each resource's own moves, shrunk to what its days and the fleet suggest, so that the factor has a Student-t logarithm. It needs
no sampling, keeps bursts and peaks as they were, and can exceed what was ever seen.
Sources: Rubin (1981), Annals of Statistics 9; Gelman et al. (2013), Bayesian Data Analysis, section 2.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import t as student

from support.errors import TooShortError
from support.risk.usage import Usage
from support.writing import plural

__all__ = ["DemandPredictive", "enough_days", "fit_predictive"]

WEEK, MOST_WEEKS = 7, 4  # days; the newest weeks that are drawn from
LEAST_DAYS, LEAST_SHARE = 2, 0.5  # a day or week less than half measured is left out
LEVEL = 0.99  # the quantile whose moves from week to week are learned: sizes are bought for the upper end
PRIOR_DF = 4.0  # how many weeks of its own outweigh what the fleet tells of a resource's spread
LEAST_SPREAD, MOST_GROWTH = 0.02, 4.0  # of the log level; no factor beyond 4 or below 1 / 4
LEAST_LEVEL = 1e-3  # of a resource's highest level: below it a move is noise of the meter
N_FACTORS = 41  # equally likely values of the factor
BISECTIONS = 40  # a quantile to 1e-12 of the largest demand


@dataclass(frozen=True)
class DemandPredictive:
    """What is known of demand in one dimension over the next `horizon_days`.

    days: of each resource (n_day, n_step) past days, NaN where not measured. factors: (n_resource, n_factor), equally likely.
    """

    days: tuple[np.ndarray, ...]
    factors: np.ndarray
    horizon_days: int
    step_hours: float

    @cached_property
    def _sorted(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """Of each resource the measured values in order, and their sums from each to the highest, 0 at the end."""
        ordered = [np.sort(days[np.isfinite(days)]) for days in self.days]
        return [(seen, np.concatenate([np.cumsum(seen[::-1])[::-1], [0.0]])) for seen in ordered]

    def _sums(self, resource: int, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Share of intervals above, and mean excess, by factor: (n_factor, n_size) each."""
        seen, above = self._sorted[resource]
        factor = self.factors[resource][:, None]
        scaled = sizes[None, :] / factor
        at = np.searchsorted(seen, scaled, side="right")
        return (len(seen) - at) / len(seen), factor * (above[at] - (len(seen) - at) * scaled) / len(seen)

    def exceedance_by_factor(self, resource: int, sizes: np.ndarray) -> np.ndarray:
        """Expected share of the intervals in which demand exceeds each size, given each factor: (n_factor, n_size)."""
        return self._sums(resource, np.asarray(sizes, float))[0]

    def exceedance(self, resource: int, sizes: np.ndarray) -> np.ndarray:
        """Expected share of the intervals in which demand exceeds each size (n_size,)."""
        return np.asarray(self.exceedance_by_factor(resource, sizes).mean(axis=0))

    def unserved(self, resource: int, sizes: np.ndarray) -> np.ndarray:
        """Expected demand above each size over the horizon (n_size,), in unit-hours such as core hours."""
        excess = self._sums(resource, np.asarray(sizes, float))[1].mean(axis=0)
        return np.asarray(np.maximum(excess, 0.0) * 24 * self.horizon_days)

    def any_breach(self, resource: int, sizes: np.ndarray) -> np.ndarray:
        """Probability that demand exceeds each size at least once in the horizon (n_size,): the Polya urn's closed form."""
        sizes = np.asarray(sizes, float)
        peaks = np.nanmax(self.days[resource], axis=1)
        scaled = sizes[None, :] / self.factors[resource][:, None]
        calm = (peaks[:, None, None] <= scaled).sum(axis=0)
        drawn = np.arange(self.horizon_days)
        none = np.prod((calm[..., None] + drawn) / (len(peaks) + drawn), axis=-1).mean(axis=0)
        return np.asarray(1 - none)

    def quantile(self, level: float) -> np.ndarray:
        """Quantile of the demand of an interval of the horizon, (n_resource,): exceeded by at most 1 - level of them."""
        found = np.empty(len(self.days))
        for resource, factors in enumerate(self.factors):
            low, high = 0.0, float(self._sorted[resource][0][-1] * factors.max())
            for _ in range(BISECTIONS):
                middle = (low + high) / 2
                above = self.exceedance(resource, np.array([middle]))[0] > 1 - level
                low, high = (middle, high) if above else (low, middle)
            found[resource] = high
        return found

    def draw_unserved(self, resource: int, sizes: np.ndarray, *, n_draws: int, rng: np.random.Generator) -> np.ndarray:
        """Draws of the demand above each size over the horizon, (n_draws, n_size), in unit-hours; joint over sizes."""
        days = self.days[resource]
        weights = rng.standard_exponential((n_draws, len(days)))
        weights = np.cumsum(weights / weights.sum(axis=1, keepdims=True), axis=1)
        uniform = rng.random((n_draws, self.horizon_days, 1))
        chosen = np.minimum((uniform > weights[:, None, :]).sum(axis=2), len(days) - 1)
        factor = rng.choice(self.factors[resource], n_draws)
        out = np.zeros((n_draws, len(sizes)))
        for day in range(len(days)):
            times = (chosen == day).sum(axis=1)
            some = np.flatnonzero(times)
            values = factor[some, None] * days[day][np.isfinite(days[day])]
            mean = np.stack([np.maximum(values - size, 0).mean(axis=1) for size in sizes], axis=1)
            out[some] += times[some, None] * mean * 24
        return out


def fit_predictive(usage: Usage, dimension: str = "cpu", *, horizon_days: int = 7) -> DemandPredictive:
    """The predictive of every resource from its newest whole weeks, or all of its days if they are fewer than seven.

    Raises TooShortError for less than two days, or for a resource without two days that have values.

    Example:
        >>> import pandas as pd
        >>> times = pd.date_range("2026-01-01", periods=96, freq="1h", tz="UTC")
        >>> flat = Usage(times, 1.0, {"cpu": np.ones((1, 96))}, {"cpu": np.full(1, 4.0)}, pd.DataFrame(index=["a"]))
        >>> predictive = fit_predictive(flat)
        >>> predictive.exceedance(0, np.array([0.5, 4.0])).tolist()
        [1.0, 0.0]
    """
    days, known = _newest_days(usage, dimension)
    if (known.sum(axis=1) < LEAST_DAYS).any():
        name = usage.resources.index[int(np.argmin(known.sum(axis=1)))]
        raise TooShortError(
            f"{name}: fewer than {LEAST_DAYS} of the last {known.shape[1]} days are half measured. Leave it out, or wait."
        )
    kept = tuple(of_one[which] for of_one, which in zip(days, known, strict=True))
    factors = _factors(usage.demand[dimension], usage.steps_per_day)
    return DemandPredictive(kept, factors, horizon_days, usage.step_hours)


def enough_days(usage: Usage, dimension: str = "cpu") -> np.ndarray:
    """(n_resource,): True where at least two of the newest days are half measured, so that `fit_predictive` can."""
    return np.asarray(_newest_days(usage, dimension)[1].sum(axis=1) >= LEAST_DAYS)


def _newest_days(usage: Usage, dimension: str) -> tuple[np.ndarray, np.ndarray]:
    """The days that are drawn from (n_resource, n_day, n_step), and which of them are half measured."""
    demand, per_day = usage.demand[dimension], usage.steps_per_day
    n_days = demand.shape[1] // per_day
    if n_days < LEAST_DAYS:
        raise TooShortError(f"usage: {plural(n_days, 'whole day')}; give {LEAST_DAYS} or more.")
    if n_days >= WEEK:
        n_days = WEEK * min(n_days // WEEK, MOST_WEEKS)
    days = demand[:, -n_days * per_day :].reshape(len(demand), n_days, per_day)
    return days, np.isfinite(days).mean(axis=2) >= LEAST_SHARE


def _factors(demand: np.ndarray, per_day: int) -> np.ndarray:
    """Equally likely factors of the level, (n_resource, n_factor), from moves between neighbouring weeks.

    Two weeks tell little of one resource's moves between weeks, its days tell much of its moves between days: the fleet's ratio of
    the two, times what its own days say, is the prior spread.
    """
    n_days = demand.shape[1] // per_day
    width = min(WEEK, n_days // 2)
    days = demand[:, -n_days * per_day :].reshape(len(demand), n_days, per_day)
    weekly, n_moves = _moves(days, width)
    daily, _ = _moves(days, 1)
    ratio = float(np.sqrt((weekly**2).sum() / max((daily[n_moves > 0] ** 2).sum(), 1e-12))) if n_moves.any() else 1.0
    prior = np.maximum(LEAST_SPREAD, ratio * daily)
    own = n_moves / width  # moves of windows that overlap tell little more than those that do not
    freedom = PRIOR_DF + own
    spread = np.sqrt((PRIOR_DF * prior**2 + own * weekly**2) / freedom)
    levels = (np.arange(N_FACTORS) + 0.5) / N_FACTORS
    logs = spread[:, None] * student.ppf(levels[None, :], freedom[:, None])
    return np.exp(np.clip(logs, -np.log(MOST_GROWTH), np.log(MOST_GROWTH)))


def _moves(days: np.ndarray, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Root mean square move (n_resource,) of the log of the 99 % quantile between neighbours of `width` days, and how many."""
    starts = range(days.shape[1] - width + 1)
    high = np.stack([_high(days[:, d : d + width].reshape(len(days), -1)) for d in starts], axis=1)
    least = LEAST_LEVEL * np.nanmax(high, axis=1, keepdims=True)
    logs = np.log(np.maximum(high, np.maximum(least, np.finfo(float).tiny)))
    moves = logs[:, width:] - logs[:, :-width]
    known = np.isfinite(moves)
    n_moves = known.sum(axis=1)
    return np.sqrt((np.where(known, moves, 0.0) ** 2).sum(axis=1) / np.maximum(n_moves, 1)), n_moves


def _high(values: np.ndarray) -> np.ndarray:
    """The 99 % quantile of each row (n,), NaN where less than half is measured."""
    found = np.full(len(values), np.nan)
    enough = np.isfinite(values).mean(axis=1) >= LEAST_SHARE
    found[enough] = np.nanquantile(values[enough], LEVEL, axis=1)
    return found
