"""Calibration on the windows gone by: rolling residual-conformal quantiles, and conformalised quantile regression.

Window w is calibrated on windows 1 .. w - 1 of the same series and model only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from support.errors import SchemaError, TooShortError
from support.forecasting.quantile_frame import ModelForecasts

__all__ = ["require_past", "residual_conformal", "roll_windows", "rolling_cqr"]

FIRST_WINDOW = 3  # the first that is calibrated, from 0: three windows lie before it
# observed, quantiles of the past windows (n_past, steps[, n_level]), quantiles now (steps, n_level) -> calibrated
Repair = Callable[[np.ndarray, np.ndarray, np.ndarray], np.ndarray]


def residual_conformal(
    forecasts: ModelForecasts, *, block_ends: Sequence[int], first_window: int = FIRST_WINDOW
) -> ModelForecasts:
    """The median forecast plus empirical quantiles of its own earlier residuals; what else the model said is dropped.

    Residuals of one series are pooled over the windows before and over the steps of a block: steps 1 .. block_ends[0],
    then block_ends[0] + 1 .. block_ends[1] and so on to the horizon; their median corrects the point. Windows before
    `first_window` (from 0) are left out of the result. Raises SchemaError for blocks that do not fit, TooShortError
    with no window to calibrate on or none to calibrate. Source: Vovk, Gammerman and Shafer (2005), split by time.
    """
    levels = forecasts.levels
    middle = int(np.argmin(np.abs(levels - 0.5)))

    def repair(seen: np.ndarray, quantiles: np.ndarray, now: np.ndarray) -> np.ndarray:
        return now[:, middle, None] + np.quantile(seen - quantiles[..., middle], levels)

    return roll_windows(forecasts, repair, "conf", block_ends, first_window)


def rolling_cqr(
    forecasts: ModelForecasts, *, block_ends: Sequence[int], first_window: int = FIRST_WINDOW
) -> ModelForecasts:
    """Each quantile shifted by the matching quantile of its own earlier misses, sorted; blocks as `residual_conformal`.

    The shift at level p is the conformal quantile of y - q_p over past points: the ceil(p (n + 1))-th smallest above
    the median, the floor-th below. Source: Romano, Patterson and Candes (2019), Theorem 2, each side by itself.
    """
    levels = forecasts.levels

    def repair(seen: np.ndarray, quantiles: np.ndarray, now: np.ndarray) -> np.ndarray:
        misses = np.sort((seen[..., None] - quantiles).reshape(-1, len(levels)), axis=0)
        n = len(misses)
        rank = np.where(levels > 0.5, np.ceil(levels * (n + 1)), np.floor(levels * (n + 1)))
        shift = misses[np.clip(rank, 1, n).astype(int) - 1, np.arange(len(levels))]
        return np.sort(now + shift, axis=-1)

    return roll_windows(forecasts, repair, "CQR", block_ends, first_window)


def require_past(forecasts: ModelForecasts) -> None:
    """Raise SchemaError unless every window is over before the next cut-off: only then are its misses known."""
    if not (forecasts.times[:, :-1, -1] <= forecasts.cutoffs[:, 1:]).all():
        raise SchemaError("calibration: a window ends after the next cut-off, so its misses are not known yet.")


def roll_windows(
    forecasts: ModelForecasts, repair: Repair, suffix: str, block_ends: Sequence[int], first_window: int
) -> ModelForecasts:
    """Every window from `first_window` on, mended by `repair` block by block from the windows before it.

    Errors as `residual_conformal`.
    """
    n_series, n_window, horizon = forecasts.observed.shape
    if not block_ends or block_ends[-1] != horizon or (np.diff([0, *block_ends]) <= 0).any():
        raise SchemaError(f"calibration: blocks end at {list(block_ends)}; they must increase and end at {horizon}.")
    if not 1 <= first_window < n_window:
        raise TooShortError(
            f"calibration: first window {first_window} of {n_window}; at least one must lie before and be left."
        )
    if not np.isclose(forecasts.levels, 0.5).any():
        raise SchemaError("calibration: no level 0.5; the median is the point forecast. Add it.")
    require_past(forecasts)
    out = np.empty_like(forecasts.quantiles[:, first_window:])
    for series in range(n_series):
        for window in range(first_window, n_window):
            for first, end in zip([0, *block_ends[:-1]], block_ends, strict=True):
                past = slice(0, window), slice(first, end)
                out[series, window - first_window, first:end] = repair(
                    forecasts.observed[series][past],
                    forecasts.quantiles[series][past],
                    forecasts.quantiles[series, window, first:end],
                )
    return forecasts.with_quantiles(out, f"{forecasts.model} {suffix}", first_window)
