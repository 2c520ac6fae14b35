"""How much each expert is heard: by what it lost from past moments of the same series, lately and at this time of the day.

Losses are judged at all near steps and at every third beyond, staggered from one moment to the next, so that a peak of a
few steps a season is met by some of them. Combined by the weighted median of each quantile, so that one expert that is
far off moves nothing.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from support.forecasting.analogs import Expert
from support.forecasting.metrics import pinball

__all__ = ["excess_share", "judged_steps", "past_losses", "weighted_median", "weights_by_step"]

# Chosen on windows that end before the first of the benchmark's, of all its series
SHORT_SEASONS = 1 / 6  # up to a sixth of a season ahead is short: weights of its own
NEAR_STEPS, STRIDE = 24, 3  # all steps up to the first are judged, beyond every third
N_BINS = 10  # of the steps ahead, equal on a logarithmic scale; each counts as much
HALF_LIFE_SEASONS = 0.2  # what they did lately tells most,
SAME_PHASE_SHARE, SAME_PHASE_HALF_LIFE_SEASONS = 0.25, 3.0  # and a quarter what they did from this time of the season
TEMPERATURE = 0.3  # a loss 30 % higher than the best's costs a factor of e
SURE, SHARE_TEMPERATURE, N_BLOCKS = 2.0, 0.1, 5  # standard errors, by leaving out one of so many blocks of moments
LEAST_ORIGINS = 3  # with fewer there is no standard error


def judged_steps(origins: np.ndarray, horizon: int, *, now: int, season: int) -> list[np.ndarray]:
    """For each position of `origins` the steps ahead that are judged: known by `now`, and an analog a season back is too.

    Example:
        >>> judged_steps(np.array([90, 70]), 40, now=100, season=5)[0].tolist()
        [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]
    """
    near, found = np.arange(1, min(NEAR_STEPS, horizon) + 1), []
    for j, origin in enumerate(origins):
        steps = np.union1d(near, np.arange(1 + j % STRIDE, horizon + 1, STRIDE))
        found.append(steps[(steps <= now - origin) & (steps < origin - season)])
    return found


def past_losses(
    experts: Sequence[Expert], values: np.ndarray, origins: np.ndarray, judged: Sequence[np.ndarray], horizon: int,
    levels: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Mean pinball loss (n_expert, n_origin, horizon) in the unit of `values`, at the `judged` steps; elsewhere NaN."""
    found = np.full((len(experts), len(origins), horizon), np.nan)
    for j, (origin, steps) in enumerate(zip(origins, judged, strict=True)):
        for k, expert in enumerate(experts if len(steps) else []):
            found[k, j, steps - 1] = pinball(values[origin + steps], expert.at(origin, steps, levels), levels).mean(-1)
    return found


def weights_by_step(losses: np.ndarray, origins: np.ndarray, *, now: int, season: int, prior: np.ndarray) -> np.ndarray:
    """Weights (n_expert, horizon), their sum 1: `prior`, logarithms (n_expert,), and past losses, as `past_losses` gives.

    origins: positions (n_origin,), the newest first, now: that of the newest value. Short and long steps have weights of
    their own, which pass into each other.
    """
    horizon = losses.shape[2]
    steps, known = np.arange(1, horizon + 1), np.isfinite(losses[0])
    age = (now - origins[:, None] - steps) / season
    same = (now - 1 - origins) % season == 0
    ways = (
        (1 - SAME_PHASE_SHARE, known * 0.5 ** (age / HALF_LIFE_SEASONS), N_BINS),
        (SAME_PHASE_SHARE, known * same[:, None] * 0.5 ** (age / SAME_PHASE_HALF_LIFE_SEASONS), 1),
    )
    filled, edge = np.where(known, losses, 0.0), SHORT_SEASONS * season
    found = []
    for group in (steps <= edge, steps > edge):
        excess = sum(share * _log_excess(filled, mass, group, n) for share, mass, n in ways)
        logs = prior - excess / TEMPERATURE
        found.append(np.exp(logs - logs.max()) / np.exp(logs - logs.max()).sum())
    short = 1 / (1 + (steps / (1.5 * max(1.0, edge))) ** 4)  # from 1 to 0
    return np.asarray(found[0][:, None] * short + found[1][:, None] * (1 - short))


def _log_excess(losses: np.ndarray, mass: np.ndarray, group: np.ndarray, n_bins: int) -> np.ndarray:
    """Mean over bins of steps of the logarithm of the loss, above that of the best expert, (n_expert,)."""
    horizon = losses.shape[2]
    total, weight = (losses * mass).sum(axis=1), mass.sum(axis=0)
    used = np.flatnonzero(group & (weight > 0))
    used = used if len(used) else np.flatnonzero(weight > 0)
    if not len(used):
        return np.zeros(len(losses))
    bins = np.searchsorted(np.geomspace(1, horizon, n_bins + 1)[1:-1], used + 1)
    tiny = 1e-9 * total.max() + np.finfo(float).tiny
    parts = [used[bins == b] for b in np.unique(bins)]
    mean = np.mean([np.log(np.maximum(total[:, p].sum(axis=1) / weight[p].sum(), tiny)) for p in parts], axis=0)
    return np.asarray(mean - mean.min())


def excess_share(own: np.ndarray, base: np.ndarray) -> float:
    """How much weight, 0 to 1, `base` deserves beside `own`, from paired losses (n_origin,): half if they are as good.

    The logarithm of the ratio of the sums counts two standard errors (jackknife over blocks, as neighbours are alike)
    worse than it is. All of it, if there are fewer than three moments or `base` never loses.
    Source: Künsch (1989), Annals of Statistics 17, the block jackknife.

    Example:
        >>> excess_share(np.full(10, 1.0), np.full(10, 1.0)), round(excess_share(np.full(10, 0.5), np.full(10, 1.0)), 3)
        (0.5, 0.001)
    """
    if len(base) < LEAST_ORIGINS or base.sum() <= 0:
        return 1.0
    tiny = 1e-9 * base.sum()
    ratio = lambda kept: np.log((own[kept].sum() + tiny) / (base[kept].sum() + tiny))  # noqa: E731
    everything = np.arange(len(base))
    blocks = np.array_split(everything, min(N_BLOCKS, len(base)))
    left = np.array([ratio(np.setdiff1d(everything, block)) for block in blocks])
    error = np.sqrt((len(left) - 1) / len(left) * ((left - left.mean()) ** 2).sum())
    return float(1 / (1 + np.exp(-np.clip((ratio(everything) + SURE * error) / SHARE_TEMPERATURE, -50, 50))))


def weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted median over the first axis, linear between the middles of the members' weights.

    Example:
        >>> float(weighted_median(np.array([0.0, 1.0, 9.0]), np.array([1.0, 1.0, 1.0]) / 3))
        1.0
    """
    order = np.argsort(values, axis=0)
    ordered = np.take_along_axis(values, order, axis=0)
    held = np.take_along_axis(np.broadcast_to(weights, values.shape), order, axis=0)
    middle = np.cumsum(held, axis=0) - held / 2
    above = np.where((middle >= 0.5).any(axis=0), (middle >= 0.5).argmax(axis=0), len(values) - 1)
    below = np.maximum(above - 1, 0)
    pick = lambda x, k: np.take_along_axis(x, k[None], axis=0)[0]  # noqa: E731
    gap = pick(middle, above) - pick(middle, below)
    share = np.divide(0.5 - pick(middle, below), gap, out=np.ones_like(gap), where=gap > 0)
    return np.asarray(pick(ordered, below) + np.clip(share, 0, 1) * (pick(ordered, above) - pick(ordered, below)))
