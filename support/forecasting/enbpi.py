"""EnbPI: intervals of a bootstrap ensemble from its out-of-sample residuals, which slide along with the stream."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from support.errors import SchemaError

__all__ = ["EnbpiIntervals", "block_resamples", "enbpi"]

WIDTH_GRID = 40  # positions at which the lower miss is tried between 0 and the whole miss
ROUNDED = 9  # digits of a rank before it is rounded up or down, against 9.000000001


class _Regressor(Protocol):
    """A regression of scikit-learn's kind, made anew for each member."""

    def fit(self, X: np.ndarray, y: np.ndarray) -> Any:
        """Fit on X (n_row, n_feature) and y (n_row,)."""

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Predictions (n_row,)."""


@dataclass(frozen=True)
class EnbpiIntervals:
    """Point forecasts and bounds of the interval, each (n_new,), in the unit of the target."""

    point: np.ndarray
    lower: np.ndarray
    upper: np.ndarray


def block_resamples(n_rows: int, n_members: int, *, length: int, rng: np.random.Generator) -> np.ndarray:
    """Row numbers of bootstrap samples made of blocks of `length` neighbouring rows, (n_members, n_rows).

    Source: Kunsch (1989), Annals of Statistics 17.

    Example:
        >>> block_resamples(6, 2, length=3, rng=np.random.default_rng(0)).shape
        (2, 6)
    """
    n_blocks = -(-n_rows // length)
    starts = rng.integers(0, n_rows - length + 1, (n_members, n_blocks))
    return (starts[..., None] + np.arange(length)).reshape(n_members, -1)[:, :n_rows]


def enbpi(
    features: np.ndarray, target: np.ndarray, new_features: np.ndarray, new_observed: np.ndarray, *,
    make: Any, resamples: np.ndarray, miss: float, block: int = 1, narrowest: bool = True,
) -> EnbpiIntervals:  # fmt: skip
    """Intervals with miss level `miss` for a stream of rows, never fitted again; residuals become known by blocks.

    features: (n_row, n_feature), target: (n_row,), new_features: (n_new, n_feature), new_observed: (n_new,), learned
    from only after its block. make() gives an unfitted regression. resamples: row numbers (n_member, n_drawn). The
    residual of row i is that of the mean over the members that did not draw i, the forecast the mean of those means.
    narrowest: share the miss between the two sides so that the interval is shortest, else equally. Raises SchemaError
    for a row that all members drew, or shapes that do not fit. Source: Xu and Xie (2021), algorithm 1.
    """
    if len(features) != len(target) or len(new_features) != len(new_observed) or block < 1 or not 0 < miss < 1:
        raise SchemaError(
            f"EnbPI: {len(features)} rows for {len(target)} targets, {len(new_features)} new ones for "
            f"{len(new_observed)}, blocks of {block}, miss {miss}: they do not fit."
        )
    members = [make().fit(features[rows], target[rows]) for rows in resamples]
    left_out = np.stack([~np.isin(np.arange(len(target)), rows) for rows in resamples])  # (n_member, n_row)
    if not left_out.any(axis=0).all():
        raise SchemaError(f"EnbPI: row {int(np.argmin(left_out.any(axis=0)))} was drawn by all members. Use more.")
    inside = np.stack([m.predict(features) for m in members])
    shares = left_out / left_out.sum(axis=0)  # (n_member, n_row): of the leave-one-out forecast of each row
    residuals = target - (inside * shares).sum(axis=0)
    point = shares.mean(axis=1) @ np.stack([m.predict(new_features) for m in members])
    lower, upper = np.empty_like(point), np.empty_like(point)
    for first in range(0, len(point), block):
        part = slice(first, first + block)
        below, above = _bounds(residuals, miss, narrowest)
        lower[part], upper[part] = point[part] + below, point[part] + above
        known = new_observed[part] - point[part]
        residuals = np.concatenate([residuals, known])[len(known) :]
    return EnbpiIntervals(point, lower, upper)


def _bounds(residuals: np.ndarray, miss: float, narrowest: bool) -> tuple[float, float]:
    """Conformal order statistics: the floor(b (n + 1))-th smallest and the ceil((1 - miss + b)(n + 1))-th, held inside."""
    ordered, n = np.sort(residuals), len(residuals)
    below = np.linspace(0, miss, WIDTH_GRID + 1) if narrowest else np.array([miss / 2])
    first = np.floor(np.round(below * (n + 1), ROUNDED)).astype(int)
    last = np.ceil(np.round((1 - miss + below) * (n + 1), ROUNDED)).astype(int)
    low, high = ordered[np.clip(first, 1, n) - 1], ordered[np.clip(last, 1, n) - 1]
    best = int(np.argmin(high - low))
    return float(low[best]), float(high[best])
