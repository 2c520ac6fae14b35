"""Ensembles of quantile forecasts: each window is combined with what is known from the windows before it, and no more.

A member whose quantiles of a window are not all finite is missing there: it is left out, the weights of the others are
rescaled to one, and it is counted. `without_fallbacks` marks the windows where a stand-in forecast for the member.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd
from scipy.optimize import linprog
from scipy.sparse import csr_matrix, hstack, identity, vstack
from scipy.stats import norm

from support.errors import SchemaError, TooShortError
from support.forecasting.calibration_online import FIRST_WINDOW, require_past
from support.forecasting.metrics import pinball
from support.forecasting.quantile_frame import ModelForecasts

__all__ = ["Combined", "mean_and_spread", "median_ensemble", "stacked", "weighted_average", "without_fallbacks"]

MOST_STACKED_POINTS = 150  # of one series: neighbouring steps tell the same, and the programme stays small
LEAST_LOSS_FRAC = 1e-3  # of the least past loss that is one: a member without any must not take all the weight


@dataclass(frozen=True)
class Combined:
    """A combined forecast and how it came about.

    weights: (n_series, n_window, n_member), one in sum; NaN for the median, which has none. missing: windows of the
    result in which a member was left out, by its name.
    """

    forecasts: ModelForecasts
    weights: np.ndarray
    missing: dict[str, int]


def without_fallbacks(forecasts: ModelForecasts, failures: pd.DataFrame) -> ModelForecasts:
    """The forecasts with NaN quantiles where the protocol's stand-in forecast, by its table of failures.

    failures: columns model, unique_id, cutoff (timezone-aware), as `Rolled.failures`.
    """
    quantiles = forecasts.quantiles.copy()
    for row in failures[failures["model"] == forecasts.model].itertuples():
        series = forecasts.series.index(str(row.unique_id))
        cutoff = pd.Timestamp(row.cutoff).tz_convert(None).to_datetime64()  # type: ignore[arg-type]
        quantiles[series, forecasts.cutoffs[series] == cutoff] = np.nan
    return replace(forecasts, quantiles=quantiles)


def median_ensemble(members: Sequence[ModelForecasts], *, name: str = "Median ensemble") -> Combined:
    """The median over the members at each level; one exploding member does not move it far.

    Raises SchemaError if members differ in series, windows or levels, or all are missing in a window.
    Source: Lichtendahl, Grushka-Cockayne and Winkler (2013), averaging of quantiles, with the median.
    """
    quantiles, present = _aligned(members)
    out = np.nanmedian(np.where(present[..., None, None], quantiles, np.nan), axis=2)
    weights = np.full(present.shape, np.nan)
    return Combined(members[0].with_quantiles(np.sort(out, axis=-1), name), weights, _missing(members, present))


def weighted_average(
    members: Sequence[ModelForecasts], *, weights: Sequence[float] | None = None, first_window: int = FIRST_WINDOW,
    name: str = "Weighted average",
) -> Combined:  # fmt: skip
    """The mean over the members at each level, by the given weights for all windows, or by weights from the past.

    Without `weights`, those of window w of a series are one over the member's mean pinball loss on its windows before
    w; the windows before `first_window` (from 0) are left out of the result. A member without a past window gets none.
    Raises SchemaError (members that do not match, weights that are negative or all zero), TooShortError.
    Source: Bates and Granger (1969), Operational Research Quarterly 20, with the pinball loss.
    """
    quantiles, present = _aligned(members)
    if weights is not None:
        given = np.asarray(weights, dtype=float)
        if given.shape != (len(members),) or (given < 0).any() or not np.isfinite(given).all() or given.sum() <= 0:
            raise SchemaError(f"ensemble: weights {given.tolist()} for {len(members)} members; none may be negative.")
        return _averaged(members, quantiles, present, np.broadcast_to(given, present.shape), 0, name)
    _require_first(members[0], first_window)
    losses = _window_losses(members[0], quantiles, present)
    found = np.zeros(present.shape)
    for window in range(first_window, present.shape[1]):
        known = present[:, :window].sum(axis=1)
        past = np.nansum(losses[:, :window], axis=1) / np.maximum(known, 1)
        past = np.where(known > 0, past, np.inf)
        least = np.where(past > 0, past, np.inf).min(axis=1, keepdims=True) * LEAST_LOSS_FRAC
        floor = np.where(np.isfinite(least), least, 1.0)  # without any loss all are the same
        found[:, window] = floor / np.maximum(past, floor)
    return _averaged(members, quantiles, present, found, first_window, name)


def stacked(members: Sequence[ModelForecasts], *, first_window: int = FIRST_WINDOW, name: str = "Stacked") -> Combined:
    """The mean by the weights, non-negative and one in sum, with the least pinball loss on the windows gone by.

    One linear programme a series and window, over all levels and at most 150 points of the windows before; a window in
    which any member is missing is not learned from, and with none left the weights are equal.
    Raises SchemaError, TooShortError as `weighted_average`. Source: Koenker and Bassett (1978), Econometrica 46;
    weights on the simplex as in Breiman (1996), Machine Learning 24.
    """
    quantiles, present = _aligned(members)
    _require_first(members[0], first_window)
    weights = np.full(present.shape, 1 / len(members))
    for series in range(present.shape[0]):
        for window in range(first_window, present.shape[1]):
            whole = np.flatnonzero(present[series, :window].all(axis=-1))
            if len(whole):
                seen = members[0].observed[series, whole].ravel()
                said = np.moveaxis(quantiles[series, whole], 1, -1).reshape(len(seen), -1, len(members))
                every = -(-len(seen) // MOST_STACKED_POINTS)
                weights[series, window] = _least_pinball(seen[::every], said[::every], members[0].levels)
    return _averaged(members, quantiles, present, weights, first_window, name)


def mean_and_spread(one: ModelForecasts, other: ModelForecasts, *, name: str = "Mean and spread") -> Combined:
    """The mean of two point forecasts, with their standard deviation as that of a normal distribution.

    As one system joined an LSTM and Prophet. The deviation, half the distance of the two, says how far they differ, not
    how far they err: two that agree and are wrong are sure of it. Raises SchemaError if a member is missing somewhere,
    for then there is no spread.
    """
    quantiles, present = _aligned([one, other])
    if not present.all():
        raise SchemaError(f"{name}: a member is missing in {int((~present).sum())} windows; the spread needs both.")
    middle = int(np.argmin(np.abs(one.levels - 0.5)))
    points = quantiles[..., middle]
    made = points.mean(axis=2)[..., None] + points.std(axis=2)[..., None] * norm.ppf(one.levels)
    return Combined(one.with_quantiles(made, name), np.full(present.shape, 0.5), _missing([one, other], present))


def _aligned(members: Sequence[ModelForecasts]) -> tuple[np.ndarray, np.ndarray]:
    """Quantiles (n_series, n_window, n_member, horizon, n_level), and who is there (n_series, n_window, n_member)."""
    if len(members) < 2 or len({m.model for m in members}) < len(members):
        raise SchemaError(f"ensemble: members {[m.model for m in members]}; at least two with names of their own.")
    first = members[0]
    for other in members[1:]:
        same = first.series == other.series and np.array_equal(first.levels, other.levels)
        if not same or not np.array_equal(first.times, other.times) or not np.array_equal(first.cutoffs, other.cutoffs):
            raise SchemaError(f"ensemble: {other.model} and {first.model} differ in series, windows or levels.")
    quantiles = np.stack([m.quantiles for m in members], axis=2)
    present = np.isfinite(quantiles).all(axis=(3, 4))
    if not present.any(axis=2).all():
        series, window = np.argwhere(~present.any(axis=2))[0]
        raise SchemaError(f"ensemble: no member forecast window {window} of {first.series[series]}. Add a fallback.")
    return quantiles, present


def _require_first(forecasts: ModelForecasts, first_window: int) -> None:
    n_window = forecasts.observed.shape[1]
    if not 1 <= first_window < n_window:
        raise TooShortError(
            f"ensemble: first window {first_window} of {n_window}; at least one must lie before and be left."
        )
    require_past(forecasts)


def _averaged(
    members: Sequence[ModelForecasts], quantiles: np.ndarray, present: np.ndarray, weights: np.ndarray,
    first_window: int, name: str,
) -> Combined:  # fmt: skip
    later = slice(first_window, None)
    quantiles, present = quantiles[:, later], present[:, later]
    held = np.where(present, weights[:, later], 0.0)
    total = held.sum(axis=-1, keepdims=True)  # where those present have no weight, each gets the same
    held = np.where(total > 0, held, present) / np.where(total > 0, total, present.sum(axis=-1, keepdims=True))
    clean = np.where(present[..., None, None], quantiles, 0.0)
    made = np.einsum("swm,swmhl->swhl", held, clean)
    return Combined(members[0].with_quantiles(made, name, first_window), held, _missing(members, present))


def _missing(members: Sequence[ModelForecasts], present: np.ndarray) -> dict[str, int]:
    return {m.model: int((~present[..., k]).sum()) for k, m in enumerate(members)}


def _window_losses(first: ModelForecasts, quantiles: np.ndarray, present: np.ndarray) -> np.ndarray:
    """Mean pinball loss, (n_series, n_window, n_member), NaN where a member is missing."""
    loss = pinball(first.observed[:, :, None, :], quantiles, first.levels).mean(axis=(3, 4))
    return np.where(present, loss, np.nan)


def _least_pinball(seen: np.ndarray, said: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Weights (n_member,) on the simplex with the least pinball loss of `said` (n_point, n_level, n_member).

    seen - said w = over - under with both at least zero; the loss is level x over + (1 - level) x under.
    """
    n_point, n_level, n_member = said.shape
    scale = max(float(np.abs(said - seen[:, None, None]).max()), np.finfo(float).tiny)
    centred = (said - seen[:, None, None]).reshape(-1, n_member) / scale  # the weights sum to one, so seen goes along
    size, share = n_point * n_level, np.tile(levels, n_point)
    eye = identity(size, format="csr")
    sums = csr_matrix(np.concatenate([np.ones(n_member), np.zeros(2 * size)])[None])
    found = linprog(
        np.concatenate([np.zeros(n_member), share, 1 - share]),
        A_eq=vstack([hstack([csr_matrix(centred), eye, -eye]), sums], format="csr"),
        b_eq=np.append(np.zeros(size), 1.0), bounds=(0, None), method="highs",
    )  # fmt: skip
    if found.status != 0:
        raise ArithmeticError(f"stacking: the linear programme ended with {found.message!r}.")
    weights = np.maximum(found.x[:n_member], 0.0)
    return np.asarray(weights / weights.sum())
