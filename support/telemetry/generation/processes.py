"""Random building blocks of the generator: noise with memory, bursts and idle spells that last, soft saturation."""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter

__all__ = ["ar1", "burst_factor", "desaturate", "idle_cover", "pulse_cover", "saturate"]

KNEE_PERCENT = 85.0  # a machine serves what is asked up to here; above it, queueing bends the curve towards 100


def ar1(shape: int | tuple[int, ...], memory_steps: float, sd: float, *, rng: np.random.Generator) -> np.ndarray:
    """Stationary AR(1) noise along the last axis, standard deviation `sd`, autocorrelation exp(-lag / memory_steps).

    Example:
        >>> ar1(3, 10.0, 0.0, rng=np.random.default_rng(1)).tolist()
        [0.0, 0.0, 0.0]
    """
    phi = np.exp(-1.0 / memory_steps)
    shocks = rng.standard_normal(shape)
    shocks[..., 1:] *= np.sqrt(1 - phi**2)
    shocks *= sd
    for row in shocks.reshape(-1, shocks.shape[-1]):  # in place, row by row: one array less in memory
        row[:] = lfilter([1.0], [1.0, -phi], row)
    return shocks


def pulse_cover(n_time: int, starts: np.ndarray, ends: np.ndarray, heights: np.ndarray) -> np.ndarray:
    """Mean height per interval of pulses that last from `starts` to `ends` (in steps, fractions allowed), shape (n_time,).

    Overlapping pulses add up; a pulse shorter than an interval counts with the part of it that it fills.

    Example:
        >>> pulse_cover(4, np.array([0.5]), np.array([2.25]), np.array([4.0])).tolist()
        [2.0, 4.0, 1.0, 0.0]
    """
    first, last = np.floor(starts).astype(int), np.floor(ends).astype(int)
    size = int(max(n_time, last.max(initial=0))) + 2
    # the running sum of `level` is the height in intervals that a pulse fills; `part` mends the two at its ends
    level = np.bincount(first + 1, heights, size) - np.bincount(np.maximum(last, first + 1), heights, size)
    part = np.bincount(first, heights * (np.minimum(ends, first + 1) - starts), size)
    part += np.bincount(last, heights * np.where(last > first, ends - last, 0.0), size)
    return np.maximum(np.cumsum(level)[:n_time] + part[:n_time], 0.0)  # rounding may leave -1e-16


def burst_factor(
    n_time: int, per_step: float, factor: float, length_steps: float, *, rng: np.random.Generator
) -> np.ndarray:
    """Factor (1 or more) by which bursts raise the load, shape (n_time,).

    Starts are Poisson (`per_step` a step), lengths gamma of shape 4 with mean `length_steps`, sizes lognormal with mean
    `factor`; bursts that overlap add up.
    """
    reach = 3 * length_steps  # bursts that began before the first interval
    count = rng.poisson(per_step * (n_time + reach))
    starts = rng.uniform(-reach, n_time, count)
    ends = starts + rng.gamma(4.0, length_steps / 4, count)
    heights = (factor - 1) * rng.lognormal(-0.045, 0.3, count)
    seen = ends > 0
    return 1 + pulse_cover(n_time, np.maximum(starts[seen], 0), np.minimum(ends[seen], n_time), heights[seen])


def idle_cover(n_time: int, idle_frac: float, length_steps: float, *, rng: np.random.Generator) -> np.ndarray:
    """Part of each interval spent in idle spells, 0 to 1, shape (n_time,).

    Spells and the busy times between them alternate, both exponential: the mean spell is `length_steps`, the long-run
    share of idle time `idle_frac` (0 to below 1). Source: alternating renewal process, Ross, Stochastic Processes, 3.4.
    """
    if idle_frac <= 0:
        return np.zeros(n_time)
    busy_steps = length_steps * (1 - idle_frac) / idle_frac
    starts_idle = rng.random() < idle_frac
    times, end = [], 0.0
    while end < n_time:  # one pass nearly always
        pairs = rng.exponential(1.0, (int(1.2 * n_time / (busy_steps + length_steps)) + 10, 2))
        marks = end + np.cumsum(
            (pairs * ((length_steps, busy_steps) if starts_idle else (busy_steps, length_steps))).ravel()
        )
        times.append(marks)
        end = float(marks[-1])
    edges = np.concatenate([[0.0], *times]) if starts_idle else np.concatenate(times)
    spells = edges[: len(edges) // 2 * 2].reshape(-1, 2)
    spells = spells[spells[:, 0] < n_time]
    return np.minimum(pulse_cover(n_time, spells[:, 0], np.minimum(spells[:, 1], n_time), np.ones(len(spells))), 1.0)


def saturate(demand_percent: np.ndarray) -> np.ndarray:
    """Utilisation in percent of a demand in percent of capacity: equal up to 85, then bent smoothly below 100, in place.

    Nothing is cut off, so nothing piles up at 100; `desaturate` is its inverse.

    Example:
        >>> saturate(np.array([50.0, 85.0, 100.0, 1000.0])).round(1).tolist()
        [50.0, 85.0, 92.5, 99.8]
    """
    high = demand_percent > KNEE_PERCENT
    room = 100 - KNEE_PERCENT
    over = (demand_percent[high] - KNEE_PERCENT) / room
    demand_percent[high] = KNEE_PERCENT + room * over / (1 + over)
    return demand_percent


def desaturate(percent: float) -> float:
    """Demand in percent of capacity that shows as `percent` (below 100) of utilisation.

    Example:
        >>> desaturate(92.5)
        100.0
    """
    if percent <= KNEE_PERCENT:
        return percent
    room = 100 - KNEE_PERCENT
    return KNEE_PERCENT + room * (percent - KNEE_PERCENT) / (100 - percent)
