"""Forecasts from analogs: what came after the past moments that were most like now, as weighted quantiles.

Alike is: the same levels at several memories, the same time of the season, the same place in a shorter cycle if the past
shows one. Beside them simpler experts, each able to forecast from any past moment, so that they can be judged there.
Source: Lorenz (1969), J. Atmospheric Sciences 26, analogs; Nadaraya-Watson weights as in Hall, Wolff and Yao (1999).
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
from numba import njit
from numpy.lib.stride_tricks import sliding_window_view
from scipy.signal import lfilter
from scipy.stats import norm, rankdata

__all__ = [
    "AnalogExpert",
    "Expert",
    "LevelExpert",
    "NaiveExpert",
    "RecentExpert",
    "TypicalExpert",
    "newest_profile",
    "short_cycle",
    "typical_profile",
]

# Chosen on series and times outside the windows of the benchmark's `SETS`; that there is an expert for shifts of level
# was decided after they had been looked at. Rates are per step, distances in normal scores.
RATES, IMPORTANCE = (1.0, 0.3, 0.1, 0.03, 0.01), (2.0, 1.5, 1.0, 0.7, 0.5)
BANDWIDTH = 0.7
SEASON_WEIGHT, CYCLE_WEIGHT = 1.0, 8.0  # of the distance on the circle of the season, and more by how far it repeats
MEMORY_SEASONS = 7.0  # an analog this old counts 1 / e as much
FLOOR = 1e-3  # of all weight, spread evenly over the past, so that tails are never those of one analog
BURN_STEPS = 50  # before the first analog, while the levels settle
PROFILE_DECAY, PROFILE_STEPS = 0.6, 2  # of a mean over past seasons: each counts 0.6 of the next, 2 steps to each side
TYPICAL_SEASONS = 5  # the median of so many: two odd days are outvoted, and a peak of one step stays one
LEAST_CYCLE, LEAST_CORRELATION, NEARLY = 4, 0.15, 0.85  # of a short cycle; a shorter one nearly as strong is taken
TREND_RATE = 0.03  # of the level that is taken off before a cycle is looked for
LEVEL_STRIDE = 4  # every fourth error of a level is kept: neighbours tell the same


class Expert(Protocol):
    """Forecasts from any moment of one series.

    Those of a past moment are there to be judged: what followed is not forecast from, but ranks, scale, season and cycle
    are those of all the values given.
    """

    def at(self, origin: int, steps: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Quantiles (n_step, n_level) of the values `steps` after position `origin`, from values up to it."""


def smoothed(values: np.ndarray, rate: float) -> np.ndarray:
    """Exponentially smoothed values (..., n_time); `rate` per step in (0, 1].

    Example:
        >>> smoothed(np.array([0.0, 1.0]), 0.5).tolist()
        [0.0, 0.5]
    """
    first = values[..., :1]
    return np.asarray(lfilter([rate], [1, rate - 1], values - first, axis=-1) + first)


def short_cycle(values: np.ndarray, season: int) -> tuple[int, float]:
    """Period in steps, at most half a season, and autocorrelation of the strongest short cycle; (0, 0.0) without one.

    Autocorrelation of the ranks less their slow level. Example:
        >>> short_cycle(np.tile([0.0, 0.0, 0.0, 5.0, 0.0, 1.0], 60), 100)[0]
        6
    """
    longest = min(season // 2, len(values) // 4)
    if longest <= LEAST_CYCLE + 1:
        return 0, 0.0
    ranks = rankdata(values) / len(values)
    rest = (ranks - smoothed(ranks, TREND_RATE))[min(BURN_STEPS, len(values) // 4) :]
    spectrum = np.abs(np.fft.rfft(rest - rest.mean(), 2 * len(rest))) ** 2
    sums = np.fft.irfft(spectrum)[: longest + 2] / (len(rest) - np.arange(longest + 2))
    if sums[0] <= 0:
        return 0, 0.0
    correlation, lags = sums / sums[0], np.arange(LEAST_CYCLE, longest)
    here = correlation[lags]
    peaks = lags[(here > correlation[lags - 1]) & (here >= correlation[lags + 1])]
    if not len(peaks) or correlation[peaks].max() < LEAST_CORRELATION:
        return 0, 0.0
    period = int(peaks[correlation[peaks] > NEARLY * correlation[peaks].max()][0])
    return period, float(correlation[period])


class AnalogExpert:
    """Weighted quantiles of what followed the past moments like now.

    values: (n_time,). rates, importance: of the levels that are compared. profile: (n_time + season,), what the seasons
    before lead one to expect; the differences from it are forecast instead of the values.
    """

    def __init__(
        self, values: np.ndarray, season: int, *, rates: tuple[float, ...] = RATES,
        importance: tuple[float, ...] = IMPORTANCE, profile: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        self.season, n = season, len(values)
        settle, unknown = min(BURN_STEPS, n // 4), 0 if profile is None else season
        self.profile = np.zeros(n + season) if profile is None else profile
        self.first = unknown + settle
        self.target = values - np.where(np.arange(n) < unknown, values, self.profile[:n])
        self.order = np.argsort(self.target, kind="stable")
        self.ordered = self.target[self.order]
        start = self.first - settle
        known = np.stack([rankdata(smoothed(self.target[start:], r)) for r in rates])
        self.scores = np.zeros((len(rates), n))
        self.scores[:, start:] = norm.ppf((known - 0.5) / (n - start))
        self.importance = np.array(importance)[:, None]
        self.season_weight = SEASON_WEIGHT + CYCLE_WEIGHT * _repeats(self.target[start:], season) ** 2
        self.cycle, self.strength = short_cycle(values, season) if profile is None else (0, 0.0)

    def weights(self, origin: int) -> np.ndarray:
        """Weight of each moment (n_time,) as an analog of `origin`; zero after it."""
        n = self.scores.shape[1]
        ago = origin - np.arange(n)
        distance = (self.importance * (self.scores - self.scores[:, origin, None]) ** 2).sum(axis=0)
        for period, weight in ((self.season, self.season_weight), (self.cycle, CYCLE_WEIGHT * self.strength)):
            if period > 1:
                distance += weight * 4 * np.sin(np.pi * (ago % period) / period) ** 2
        near = np.exp(-0.5 * distance / BANDWIDTH**2 - np.maximum(ago, 0) / (MEMORY_SEASONS * self.season))
        near[ago < 0] = 0.0
        return near + FLOOR * near.sum() / n * (ago >= 0)

    def at(self, origin: int, steps: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Quantiles; see `Expert`. The values are sorted once: a step ahead only moves the weights along them."""
        found = _after(self.order, self.ordered, self.weights(origin), steps, self.first, origin, levels)
        return np.asarray(found + self.profile[origin + 1 + (steps - 1) % self.season][:, None])


class LevelExpert:
    """The exponentially smoothed level, plus empirical errors by step; optionally on the scale asinh of typical sizes."""

    def __init__(self, values: np.ndarray, *, rate: float, bend: bool = True) -> None:
        self.centre = float(np.median(values)) if bend else 0.0
        self.scale = (float(np.abs(values - self.centre).mean()) or 1.0) if bend else 1.0
        self.bend = bend
        self.values = np.arcsinh((values - self.centre) / self.scale) if bend else values
        self.level = smoothed(self.values, rate)

    def at(self, origin: int, steps: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Quantiles; see `Expert`. Errors begin where the level has settled; with none yet, the level itself."""
        first = min(BURN_STEPS, len(self.values) // 4)
        moments = np.arange(origin - 1, first - 1, -LEVEL_STRIDE if len(self.values) > 4 * BURN_STEPS else -1)
        until = moments[:, None] + steps
        error = np.where(until <= origin, self.values[np.minimum(until, origin)] - self.level[moments, None], np.inf)
        ordered, known = np.sort(error, axis=0), (until <= origin).sum(axis=0)
        if known.any():  # beyond what the past can tell, the errors of the last step that it can
            far, last = known == 0, int(np.flatnonzero(known)[-1])
            ordered[:, far], known = ordered[:, [last]], np.where(far, known[last], known)
        ordered[:1, known == 0] = 0.0
        place = levels[:, None] * np.maximum(known - 1, 0)  # as NumPy's linear quantiles
        below = place.astype(int)
        above = np.minimum(below + 1, np.maximum(known - 1, 0))
        low, high = (np.take_along_axis(ordered, k, axis=0) for k in (below, above))
        made = self.level[origin] + (low + (place - below) * (high - low)).T
        return np.sinh(made) * self.scale + self.centre if self.bend else made


class RecentExpert:
    """The distribution of the values themselves, whatever the level and the time of the season, the newest most.

    values: (n_time,). memory: steps after which a value counts 1 / e as much.
    """

    def __init__(self, values: np.ndarray, *, memory: float) -> None:
        self.memory, self.order = memory, np.argsort(values, kind="stable")
        self.ordered = values[self.order]

    def at(self, origin: int, steps: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Quantiles; see `Expert`. The same for all steps, linear between the middles of weights."""
        known = self.order <= origin
        held = np.exp(-(origin - self.order[known]) / self.memory)
        held += FLOOR * held.mean()
        middle = (np.cumsum(held) - held / 2) / held.sum()
        return np.tile(np.interp(levels, middle, self.ordered[known]), (len(steps), 1))


class NaiveExpert:
    """The last season again, plus quantiles of the seasonal differences: the baseline, from any moment."""

    def __init__(self, values: np.ndarray, season: int) -> None:
        self.values, self.season = values, season

    def at(self, origin: int, steps: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Quantiles; see `Expert`."""
        known = self.values[: origin + 1]
        repeated = known[origin + 1 - self.season + (steps - 1) % self.season]
        return np.asarray(repeated[:, None] + np.quantile(known[self.season :] - known[: -self.season], levels))


class TypicalExpert:
    """A profile, plus quantiles of the past differences from it. profile: as for `AnalogExpert`."""

    def __init__(self, values: np.ndarray, season: int, profile: np.ndarray) -> None:
        self.season, self.profile, self.errors = season, profile, (values - profile[: len(values)])[season:]

    def at(self, origin: int, steps: np.ndarray, levels: np.ndarray) -> np.ndarray:
        """Quantiles; see `Expert`."""
        expected = self.profile[origin + 1 + (steps - 1) % self.season]
        return np.asarray(expected[:, None] + np.quantile(self.errors[: origin + 1 - self.season], levels))


def _repeats(values: np.ndarray, season: int) -> float:
    """Autocorrelation of the ranks at the season, at least zero; zero if the values are too few or constant."""
    if len(values) < 2 * season or np.ptp(values) == 0:
        return 0.0
    ranks = rankdata(values)
    ranks -= ranks.mean()
    return max(0.0, float((ranks[season:] * ranks[:-season]).mean() / (ranks**2).mean()))


def newest_profile(values: np.ndarray, season: int, decay: float = PROFILE_DECAY) -> np.ndarray:
    """Mean of the same phase over the seasons before, (n_time + season,), from the second season on, the newest most.

    decay: of the weight from one season to the one before; 0 is the last season alone. Example:
        >>> newest_profile(np.array([1.0, 2.0, 3.0, 6.0]), 2, decay=0.0).tolist()
        [0.0, 0.0, 1.0, 2.0, 3.0, 6.0]
    """
    n = len(values)
    near = PROFILE_STEPS if decay and season > 4 * PROFILE_STEPS else 0
    calm = np.convolve(np.pad(values, near, mode="edge"), np.full(2 * near + 1, 1 / (2 * near + 1)), "valid")
    total, mass = np.zeros(n + season), np.zeros(n + season)
    for start in range(season, n + season, season):
        here = slice(start, min(start + season, n + season))
        before = slice(start - season, here.stop - season)
        total[here], mass[here] = calm[before] + decay * total[before], 1 + decay * mass[before]
    return total / np.maximum(mass, 1)


def typical_profile(values: np.ndarray, season: int) -> np.ndarray:
    """Median of the same phase over up to five seasons before, (n_time + season,), from the second season on.

    Example:
        >>> typical_profile(np.array([1.0, 9.0, 2.0, 3.0]), 1).tolist()
        [1.0, 1.0, 5.0, 2.0, 2.5]
    """
    n = len(values)
    rows = -(-n // season)
    table = np.pad(values, (0, rows * season - n)).reshape(rows, season)
    early = [np.median(table[: max(1, r)], axis=0)[None] for r in range(min(TYPICAL_SEASONS, rows + 1))]
    late = [np.median(sliding_window_view(table, TYPICAL_SEASONS, axis=0), axis=-1)] if rows >= TYPICAL_SEASONS else []
    return np.concatenate(early + late).ravel()[: n + season]


@njit(cache=True)
def _after(
    order: np.ndarray, ordered: np.ndarray, weights: np.ndarray, steps: np.ndarray, first: int, origin: int,
    levels: np.ndarray,
) -> np.ndarray:  # fmt: skip
    """Weighted quantiles (n_step, n_level) of what came `steps` after each moment, linear between the middles of weights."""
    found = np.zeros((len(steps), len(levels)))
    for s, step in enumerate(steps):
        total = 0.0
        for place in order:
            if place - step >= first and place <= origin:
                total += weights[place - step]
        held, middle, value, k = 0.0, -1.0, 0.0, 0
        for i, place in enumerate(order):
            if place - step < first or place > origin or k == len(levels) or total <= 0:
                continue
            weight = weights[place - step]
            here = (held + weight / 2) / total
            held += weight
            while k < len(levels) and here >= levels[k]:
                share = (levels[k] - middle) / (here - middle) if here > middle else 1.0
                found[s, k] = ordered[i] if middle < 0 else value + share * (ordered[i] - value)
                k += 1
            middle, value = here, ordered[i]
        found[s, k:] = value
    return found
