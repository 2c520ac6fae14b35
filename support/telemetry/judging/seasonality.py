"""A test for a cycle of known length in a series, valid whatever the autocorrelation of the noise."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import signal, stats

from support.errors import SchemaError, TooShortError

__all__ = ["MIN_CYCLES", "MIN_STEPS_PER_CYCLE", "Seasonality", "seasonality"]

MIN_CYCLES, MIN_STEPS_PER_CYCLE = 4, 5
HARMONICS = (1, 2)


@dataclass(frozen=True)
class Seasonality:
    """Result of `seasonality`: p_value of "no cycle", strength_frac (share of the variance of the ranks in the cycle)."""

    p_value: float
    strength_frac: float
    n_cycles: int


def seasonality(values: np.ndarray | pd.Series, step_seconds: float, period_seconds: float) -> Seasonality:
    """Test for a cycle of `period_seconds` in `values`, shape (n_time,), `step_seconds` apart; NaN are interpolated.

    The periodogram of the normal scores at the cycle's frequency and its second harmonic is compared with the median of
    its neighbours (within half the frequency on either side). Under any noise whose spectrum is smooth there, white, AR(1)
    or a random walk, an ordinate is exponential, so the ratio r to the k-th smallest of m neighbours exceeds its value with
    probability prod_{j<k} (m - j) / (m - j + r): no model of the noise is fitted. Bonferroni over the harmonics.
    Raises TooShortError for fewer than 4 cycles or 5 steps per cycle, SchemaError if fewer than half of the values are
    there or all are equal.
    Source: Thomson (1982), Proc. IEEE 70(9), for the ratio; Mann and Lees (1996), Climatic Change 33, for the median
    background; Rényi (1953), Acta Math. Hung. 4, for the order statistic of exponential variables.

    Example:
        >>> hours = np.arange(24 * 14)
        >>> noise = np.random.default_rng(1).normal(size=hours.size)
        >>> found = seasonality(np.cos(2 * np.pi * hours / 24) + noise, 3600.0, 86_400.0)
        >>> found.p_value < 1e-6, seasonality(noise, 3600.0, 86_400.0).p_value > 0.01
        (True, True)
    """
    series = np.asarray(values, dtype=float)
    per_cycle = period_seconds / step_seconds
    n_cycles = int(len(series) / per_cycle + 1e-9)
    if n_cycles < MIN_CYCLES or per_cycle < MIN_STEPS_PER_CYCLE:
        raise TooShortError(
            f"{len(series)} values, {per_cycle:g} per cycle; {MIN_CYCLES} cycles of {MIN_STEPS_PER_CYCLE} values are needed."
        )
    series = series[-round(n_cycles * per_cycle) :]
    there = np.flatnonzero(np.isfinite(series))
    if len(there) < 0.5 * len(series) or np.ptp(series[there]) == 0:
        raise SchemaError("more than half of the values are missing, or all are equal. Choose another series.")
    ranks = stats.rankdata(np.interp(np.arange(len(series)), there, series[there]))
    scores = signal.detrend(stats.norm.ppf((ranks - 0.5) / len(ranks)))
    power = np.abs(np.fft.rfft(scores)) ** 2
    away = np.arange(1, n_cycles // 2 + 1)
    chances = []
    for at in [n_cycles * h for h in HARMONICS]:
        neighbours = np.sort(power[np.concatenate([at - away, at + away])])
        m, k = len(neighbours), len(neighbours) // 2
        above = m - np.arange(k)
        ratio = power[at] / max(neighbours[k - 1], np.finfo(float).tiny)
        chances.append(float(np.prod(above / (above + ratio))))
    strength = sum(power[n_cycles * h] for h in HARMONICS) / max(power[1:].sum(), np.finfo(float).tiny)
    return Seasonality(min(1.0, len(HARMONICS) * min(chances)), float(strength), n_cycles)
