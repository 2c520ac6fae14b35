"""The population stability index of two shares, its usual bands, and what it exceeds by chance alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike
from scipy.stats import chi2

from support.errors import SchemaError

__all__ = ["psi", "psi_band", "psi_critical"]

STABLE_BELOW, MAJOR_ABOVE = 0.10, 0.25  # Siddiqi, Intelligent Credit Scoring


def psi(expected_share: ArrayLike, actual_share: ArrayLike) -> float:
    """Population stability index sum (a - e) ln(a / e) of two shares (n_bin,) of the same bins; symmetric, 0 iff equal.

    Raises SchemaError for shares that do not sum to 1, differ in length, or hold an empty bin. Source: Siddiqi (2006).

    Example:
        >>> round(psi([0.25, 0.25, 0.25, 0.25], [0.1, 0.2, 0.3, 0.4]), 4)
        0.2282
    """
    expected, actual = np.asarray(expected_share, float), np.asarray(actual_share, float)
    if expected.shape != actual.shape or expected.ndim != 1:
        raise SchemaError(f"psi: shares of {expected.shape} and {actual.shape}; give the same bins twice.")
    for name, share in (("expected", expected), ("actual", actual)):
        if not np.isfinite(share).all() or abs(share.sum() - 1) > 1e-6:
            raise SchemaError(f"psi: the {name} shares sum to {share.sum():g}, not 1. Divide the counts by their sum.")
        if (share <= 0).any():
            raise SchemaError(
                f"psi: {name} bin {int(np.argmin(share))} is empty. Merge bins, or add half a count to each."
            )
    return float(((actual - expected) * np.log(actual / expected)).sum())


def psi_band(value: float) -> str:
    """The usual word for a population stability index: stable below 0.10, moderate to 0.25, major above.

    Example:
        >>> psi_band(0.3)
        'major'
    """
    return "stable" if value < STABLE_BELOW else "moderate" if value <= MAJOR_ABOVE else "major"


def psi_critical(n_bins: int, n_expected: int, n_actual: int, *, level: float = 0.95) -> float:
    """What the index of two independent samples of one law stays below with probability `level`.

    Under no change it is about (1/n_expected + 1/n_actual) times a chi-square with n_bins - 1 degrees of freedom; rows
    must be independent. Source: Yurdakul and Naranjo (2020), Journal of Risk Model Validation 14.

    Example:
        >>> round(psi_critical(10, 1000, 1000), 4)
        0.0338
    """
    if n_bins < 2 or n_expected < 1 or n_actual < 1 or not 0 < level < 1:
        raise SchemaError(
            f"psi: {n_bins} bins, {n_expected} and {n_actual} rows, level {level}: give 2 bins and 1 row or more."
        )
    return float((1 / n_expected + 1 / n_actual) * chi2.ppf(level, n_bins - 1))
