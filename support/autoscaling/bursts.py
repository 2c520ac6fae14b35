"""Bursts: what a rolling forecast has not seen coming, learnt from past days and mixed into its quantiles."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from numba import njit

from support.autoscaling.stage_costs import tail_scale
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

__all__ = ["BurstModel", "fit_bursts", "with_bursts"]

LEVEL = 0.995  # a burst begins beyond FAR times the distance from the median to this quantile
FAR = 1.5  # of a normal forecast: 3.9 standard deviations, once in some ten days of minutes
UPPER_LEVELS = (0.999, 0.9995)  # added, so that the fractiles of dear drops exist
MOST_FACTORS = 5  # atoms of the factor's distribution
DAY_SECONDS = 86_400


@dataclass(frozen=True)
class BurstModel:
    """Bursts of past days. A burst multiplies demand; it comes at random and may end at any tick.

    onsets_per_day: mean number. factors: (n_burst,) demand over the median forecast issued before the burst began.
    durations: (n_burst,) ticks. censored: (n_burst,) whether it went on where the forecast or the data end.
    level: the quantile that tells bursts. tick_seconds: length of a tick.
    """

    onsets_per_day: float
    factors: np.ndarray
    durations: np.ndarray
    censored: np.ndarray
    level: float
    tick_seconds: float

    @property
    def ending_prob(self) -> float:
        """Chance that a burst ends at a tick: ends over ticks in bursts, right under censoring (0: none seen)."""
        ends = float((~self.censored).sum())
        return ends / float(self.durations.sum()) if len(self.durations) else 0.0

    def active_prob(self, horizon_ticks: int, lag_ticks: int) -> np.ndarray:
        """Chance, (horizon_ticks,), that a burst not yet seen is on at each tick: Poisson onsets, geometric lengths."""
        ages = np.arange(horizon_ticks + lag_ticks)
        per_tick = self.onsets_per_day * self.tick_seconds / DAY_SECONDS
        return -np.expm1(-per_tick * np.cumsum((1 - self.ending_prob) ** ages))[lag_ticks:]

    def atoms(self) -> np.ndarray:
        """At most five factors of equal probability that stand for all."""
        n_atom = min(len(self.factors), MOST_FACTORS)
        return np.quantile(self.factors, (np.arange(n_atom) + 0.5) / n_atom) if n_atom else np.ones(0)


def fit_bursts(demand: pd.Series, rolling: RollingQuantiles, *, level: float = LEVEL) -> BurstModel:
    """Learn bursts from past days: `demand` (n_time,), requests per tick, holds the ticks of the forecasts `rolling`.

    A burst begins at the tick whose demand lies more than 1.5 times as far above the median as the quantile at `level`
    does, both of the row issued before that tick, and lasts while that same row says so: later rows have seen the
    burst and say little about it. Ticks with a median of 0 begin none. Give days before those evaluated only.
    Raises SchemaError if the ticks differ, or `level` or the median is outside the forecast's levels.

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=1440, freq="60s", tz="UTC")
        >>> level = np.array([0.005, 0.5, 0.995])
        >>> mean = np.full((1440, 30), 100.0)
        >>> ahead = RollingQuantiles(minutes, level, mean[..., None] + np.array([-10, 0, 10]), mean, "flat", 0)
        >>> work = pd.Series(100.0, index=minutes)
        >>> work.iloc[600:620] = 180.0
        >>> model = fit_bursts(work, ahead)
        >>> model.onsets_per_day, model.factors.tolist(), model.durations.tolist(), model.ending_prob
        (1.0, [1.8], [20], 0.05)
    """
    work = _aligned(demand, rolling)
    median, threshold = _thresholds(rolling, level)
    found = _find(work, median, threshold)
    step = float((rolling.timestamps[1] - rolling.timestamps[0]).total_seconds()) if len(work) > 1 else 1.0
    factors = [work[at : at + n].sum() / median[at, :n].sum() for at, n, _ in found]
    return BurstModel(
        len(found) / (len(work) * step / DAY_SECONDS), np.array(factors), np.array([n for _, n, _ in found], dtype=int),
        np.array([cut for *_, cut in found], dtype=bool), level, step,
    )  # fmt: skip


def with_bursts(rolling: RollingQuantiles, model: BurstModel, *, demand: pd.Series | None = None) -> RollingQuantiles:
    """`rolling` with bursts mixed into every row, and with upper levels 0.999 and 0.9995 where it has none.

    At each horizon a burst that has not been seen yet is on with the model's probability and multiplies demand by one
    of its factors. With `demand` (n_time,), which holds the ticks of `rolling`, row i also knows what is going on at
    the last tick it may see: a burst in progress lasts on with the model's chance; while it lasts demand is the
    forecast issued before it began times the factor seen so far, and never less than the present row says. Without
    a burst in the past the quantiles stay as they are. The forecast's own tail may hold past bursts already: the
    mixture errs on the side of too much. Added levels lie on an exponential tail through the two highest; what lies
    beyond the outermost levels sits at the outermost quantiles. The mixture's quantiles are exact for distribution
    functions linear between quantiles. Raises SchemaError if the ticks differ, the model is of
    another tick, or the forecast has one level.

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=2, freq="60s", tz="UTC")
        >>> mean, level = np.full((2, 3), 100.0), np.array([0.1, 0.9])
        >>> ahead = RollingQuantiles(minutes, level, np.full((2, 3, 2), 100.0), mean, "flat", 0)
        >>> often = BurstModel(14.4, np.array([1.5]), np.array([1]), np.array([False]), 0.995, 60.0)
        >>> mixed = with_bursts(ahead, often)
        >>> mixed.levels.tolist(), mixed.quantiles[0, 0].tolist(), mixed.mean[0, 0].round(2).item()
        ([0.1, 0.9, 0.999, 0.9995], [100.0, 100.0, 150.0, 150.0], 100.5)
    """
    levels, base = _extended(rolling)
    n_time, n_horizon, _ = base.shape
    name = f"{rolling.model} with bursts"
    if not len(model.factors):
        return RollingQuantiles(rolling.timestamps, levels, base, rolling.mean, name, rolling.lag_ticks)
    if n_time > 1 and abs((rolling.timestamps[1] - rolling.timestamps[0]).total_seconds() - model.tick_seconds) > 1e-6:
        raise SchemaError(f"bursts: the model is of ticks of {model.tick_seconds:g} s, the forecast is not.")
    onset, seen = np.full(n_time, -1), np.ones(n_time)
    if demand is not None:
        onset, seen = _in_progress(_aligned(demand, rolling), rolling, model.level)
    unseen = model.active_prob(n_horizon, rolling.lag_ticks)
    lasting = (1 - model.ending_prob) ** (np.arange(n_horizon) + 1 + rolling.lag_ticks)
    quantiles, mean = _mixed(
        levels, base, np.ascontiguousarray(rolling.mean, dtype=np.float64), unseen, lasting, model.atoms(), onset, seen
    )
    return RollingQuantiles(rolling.timestamps, levels, quantiles, mean, name, rolling.lag_ticks)


def _aligned(demand: pd.Series, rolling: RollingQuantiles) -> np.ndarray:
    """Demand at the ticks of `rolling`, (n_time,)."""
    first = int(demand.index.searchsorted(rolling.timestamps[0]))
    cut = demand.iloc[first : first + len(rolling.timestamps)]
    if not cut.index.equals(rolling.timestamps):
        raise SchemaError("bursts: the demand does not hold the ticks of the forecast's rows, one for each.")
    return cut.to_numpy(dtype=np.float64)


def _thresholds(rolling: RollingQuantiles, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Median and the bound of bursts, both (n_time, n_horizon)."""
    median = rolling.at(0.5)
    return median, median + FAR * np.maximum(rolling.at(level) - median, 0.0)


def _find(work: np.ndarray, median: np.ndarray, threshold: np.ndarray) -> list[tuple[int, int, bool]]:
    """Bursts as (tick of the onset, ticks, whether it went on where the row or the data end), one after the other."""
    found, after = [], 0
    for at in np.flatnonzero((work > threshold[:, 0]) & (median[:, 0] > 0)).tolist():
        if at < after:
            continue
        row = threshold[at, : len(work) - at]
        above = work[at : at + len(row)] > row
        length = len(above) if above.all() else int(above.argmin())
        found.append((at, length, bool(above.all())))
        after = at + length
    return found


def _in_progress(work: np.ndarray, rolling: RollingQuantiles, level: float) -> tuple[np.ndarray, np.ndarray]:
    """Of each row the onset of the burst on at the last tick it may see (-1: none), and its factor up to there."""
    median, threshold = _thresholds(rolling, level)
    onset, seen = np.full(len(work), -1), np.ones(len(work))
    for at, length, _ in _find(work, median, threshold):
        factors = np.cumsum(work[at : at + length]) / np.cumsum(median[at, :length])
        rows = np.arange(at, at + length) + 1 + rolling.lag_ticks
        inside = rows < len(work)
        onset[rows[inside]], seen[rows[inside]] = at, factors[inside]
    return onset, seen


def _extended(rolling: RollingQuantiles) -> tuple[np.ndarray, np.ndarray]:
    """Levels and quantiles, in order, with the upper levels added on an exponential tail through the two highest."""
    if len(rolling.levels) < 2:
        raise SchemaError(
            f"bursts: {rolling.model} has the level {rolling.levels[0]:g} only; two are needed for a tail."
        )
    levels, quantiles = rolling.levels, np.sort(np.asarray(rolling.quantiles, dtype=np.float64), axis=-1)
    added = np.array([u for u in UPPER_LEVELS if u > levels[-1]])
    tail = quantiles[..., -1:] + tail_scale(quantiles, levels)[..., None] * np.log((1 - levels[-1]) / (1 - added))
    return np.append(levels, added), np.concatenate([quantiles, tail], axis=-1)


@njit(cache=True)
def _mixed(
    levels: np.ndarray, base: np.ndarray, mean: np.ndarray, unseen: np.ndarray, lasting: np.ndarray, atoms: np.ndarray,
    onset: np.ndarray, seen: np.ndarray,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Quantiles (n_time, n_horizon, n_level) and means (n_time, n_horizon) of every row's mixture."""
    n_time, n_horizon, n_level = base.shape
    out, out_mean = np.empty_like(base), np.empty_like(mean)
    parts, weights = np.empty((1 + len(atoms), n_level)), np.empty(1 + len(atoms))
    for row in range(n_time):
        for ahead in range(n_horizon):
            parts[0] = base[row, ahead]
            if onset[row] >= 0:
                column = min(row + ahead - onset[row], n_horizon - 1)
                parts[1] = np.maximum(base[row, ahead], seen[row] * base[onset[row], column])
                weights[0], weights[1] = 1 - lasting[ahead], lasting[ahead]
                _mixture_quantiles(levels, parts[:2], weights[:2], out[row, ahead])
                raised = max(mean[row, ahead], seen[row] * mean[onset[row], column])
                out_mean[row, ahead] = (1 - lasting[ahead]) * mean[row, ahead] + lasting[ahead] * raised
                continue
            weights[0] = 1 - unseen[ahead]
            for k in range(len(atoms)):
                parts[1 + k] = atoms[k] * base[row, ahead]
                weights[1 + k] = unseen[ahead] / len(atoms)
            _mixture_quantiles(levels, parts, weights, out[row, ahead])
            out_mean[row, ahead] = mean[row, ahead] * (1 + unseen[ahead] * (atoms.mean() - 1))
    return out, out_mean


@njit(cache=True)
def _mixture_quantiles(levels: np.ndarray, parts: np.ndarray, weights: np.ndarray, out: np.ndarray) -> None:
    """Quantiles at `levels` of the mixture of `parts` (n_part, n_level), each part linear between its own knots.

    The mixture's distribution function is linear between the sorted knots of all parts, with steps at some of them:
    one walk over the knots finds where it passes each level.
    """
    n_part, n_level = parts.shape
    passed = np.zeros(n_part, dtype=np.int64)  # knots of each part below the present one
    knots = np.sort(parts.ravel())
    k, last, before = 0, knots[0], 0.0
    for x in knots:
        below, reached = 0.0, 0.0  # P(X < x), P(X <= x)
        for part in range(n_part):
            q, at, weight = parts[part], passed[part], weights[part]
            if at == n_level:
                below, reached = below + weight, reached + weight
            elif q[at] > x:
                if at > 0:
                    share = (x - q[at - 1]) / (q[at] - q[at - 1])
                    here = weight * (levels[at - 1] + share * (levels[at] - levels[at - 1]))
                    below, reached = below + here, reached + here
            else:
                below += weight * levels[at] if at > 0 else 0.0
                while at < n_level and q[at] == x:
                    at += 1
                passed[part] = at
                reached += weight * (levels[at - 1] if at < n_level else 1.0)
        while k < n_level and reached >= levels[k]:
            out[k] = x if below <= levels[k] else last + (x - last) * (levels[k] - before) / (below - before)
            k += 1
        last, before = x, reached
    out[k:] = last  # where rounding keeps the sum of the weights below a level
