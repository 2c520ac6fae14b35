"""Levels that a model does not give, by one stated rule: quantiles are straight lines in the normal score."""

from __future__ import annotations

import numpy as np
from scipy.special import ndtri

from support.errors import SchemaError

__all__ = ["complete_levels"]


def complete_levels(quantiles: np.ndarray, given: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Quantiles at the levels `wanted` from those at `given`, (..., n_given) -> (..., n_wanted), never decreasing.

    First they are sorted, for heads that cross. Then the value is taken as a function of the normal score of its level:
    linear between two given levels, and beyond the outermost two on a side on the line through them, which is a normal
    tail. A level that is given keeps its value. This says nothing about a tail that is heavier than normal: check the
    coverage, and calibrate. Raises SchemaError unless `given` increases and has two levels, for NaN, or for levels
    outside (0, 1).

    Example:
        >>> normal = np.array([-1.2816, 0.0, 1.2816])
        >>> complete_levels(normal, np.array([0.1, 0.5, 0.9]), np.array([0.025, 0.5])).round(2)
        array([-1.96,  0.  ])
    """
    given, wanted = np.asarray(given, dtype=float), np.asarray(wanted, dtype=float)
    if given.ndim != 1 or len(given) < 2 or (np.diff(given) <= 0).any():
        raise SchemaError(f"levels {given.tolist()}: at least two that increase are needed to complete others.")
    for name, levels in (("given", given), ("wanted", wanted)):
        if not ((levels > 0) & (levels < 1)).all():
            raise SchemaError(f"levels {name}: {levels.tolist()} must lie within (0, 1).")
    if quantiles.shape[-1] != len(given) or not np.isfinite(quantiles).all():
        raise SchemaError(
            f"quantiles of shape {quantiles.shape} for {len(given)} levels: they must be finite and one for each level."
        )
    ordered = np.sort(np.asarray(quantiles, dtype=float), axis=-1)
    score, asked = ndtri(given), ndtri(wanted)
    left = np.clip(np.searchsorted(score, asked, side="right") - 1, 0, len(given) - 2)
    weight = (asked - score[left]) / (score[left + 1] - score[left])
    low, high = ordered[..., left], ordered[..., left + 1]
    inside = np.clip(low + weight * (high - low), low, high)
    made = np.where(
        weight < 0, low + weight * (high - low), np.where(weight > 1, high + (weight - 1) * (high - low), inside)
    )
    made = np.where(np.isclose(wanted, given[left]), low, np.where(np.isclose(wanted, given[left + 1]), high, made))
    return np.asarray(made)
