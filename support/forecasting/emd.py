"""Empirical mode decomposition: a series as a sum of oscillations, fastest first, and what is left when they are gone.

Its envelopes are splines through all extrema, so every value of a mode depends on values after it: decompose what lies
before a cut-off only, never a series that holds its future.
"""

from __future__ import annotations

import numpy as np
from scipy.interpolate import CubicSpline

__all__ = ["decompose"]

SIFTS = 10  # a fixed number: Wu and Huang (2009)
LEAST_EXTREMA = 2  # of each kind, for an envelope
MIRRORED = 2  # extrema that are reflected at each end, so that envelopes do not swing away there


def decompose(values: np.ndarray, n_modes: int) -> np.ndarray:
    """Modes and remainder (..., n_modes + 1, n_time) of series (..., n_time), in their unit; they add up to the series.

    Fastest mode first, the remainder last; modes that there are not, because the remainder has too few extrema left, are
    zero. Source: Huang et al. (1998), Proceedings of the Royal Society A 454; number of sifts as in Wu and Huang (2009),
    Advances in Adaptive Data Analysis 1; ends mirrored as in Rilling, Flandrin and Goncalves (2003).

    Example:
        >>> ramp, wave = np.arange(60) / 10, np.sin(np.arange(60) * np.pi / 6)
        >>> mode, rest = decompose(ramp + wave, 1)
        >>> bool(np.abs(mode - wave)[12:48].max() < 0.1), bool(np.abs(rest - ramp)[12:48].max() < 0.1)
        (True, True)
    """
    rows = np.asarray(values, dtype=float)
    flat = rows.reshape(-1, rows.shape[-1])
    return np.stack([_modes(row, n_modes) for row in flat]).reshape(*rows.shape[:-1], n_modes + 1, rows.shape[-1])


def _modes(values: np.ndarray, n_modes: int) -> np.ndarray:
    found, rest = np.zeros((n_modes + 1, len(values))), values.copy()
    for k in range(n_modes):
        mode = _sifted(rest)
        if mode is None:
            break
        found[k], rest = mode, rest - mode
    found[-1] = rest
    return found


def _sifted(rest: np.ndarray) -> np.ndarray | None:
    """The fastest oscillation: what is left when the mean of the envelopes is taken off again and again; or None."""
    mode = None
    for _ in range(SIFTS):
        mean = _mean_of_envelopes(rest if mode is None else mode)
        if mean is None:
            break
        mode = (rest if mode is None else mode) - mean
    return mode


def _mean_of_envelopes(values: np.ndarray) -> np.ndarray | None:
    """Half the sum of the splines through the highs and through the lows, (n_time,); None with too few of them."""
    slope = np.sign(np.diff(values))
    moving = np.flatnonzero(slope)  # a plateau turns where it ends
    turns = moving[1:][np.diff(slope[moving]) != 0]
    highs, lows = turns[slope[turns] < 0], turns[slope[turns] > 0]
    if min(len(highs), len(lows)) < LEAST_EXTREMA:
        return None
    time, last = np.arange(len(values)), len(values) - 1
    envelopes = []
    for at in (highs, lows):
        places = np.concatenate([-at[:MIRRORED][::-1], at, 2 * last - at[-MIRRORED:][::-1]])
        heights = values[np.concatenate([at[:MIRRORED][::-1], at, at[-MIRRORED:][::-1]])]
        envelopes.append(CubicSpline(places, heights)(time))
    return np.asarray((envelopes[0] + envelopes[1]) / 2)
