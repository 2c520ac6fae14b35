"""Lag-1 autocorrelation of each resource from sums that add up over batches, and the effective-sample weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from support.errors import SchemaError

__all__ = ["LagSums", "autocorrelation", "effective_weight", "joined", "lag_sums", "seasonal_basis"]

HOURS_PER_DAY, HOURS_PER_WEEK = 24, 168
DAILY_PAIRS, WEEKLY_PAIRS = 2, 3  # sine and cosine pairs: two bend a working day, three of the week a weekend
SHRINKAGE_PAIRS = 48.0  # neighbouring pairs at which a resource's own autocorrelation weighs as much as the fleet's
HIGHEST = 0.995  # a lag-1 estimate at or above one has no effective sample size
RIDGE = 1e-6  # observations added to each coefficient of the season, so that an unseen hour leaves it at zero


def seasonal_basis(n_hour_cell: int) -> np.ndarray:
    """Fourier basis of the hour cells, (n_hour_cell, n_basis): 2 daily pairs, and 3 weekly ones for 168 cells.

    Every column has mean zero over the cells, so a resource's level is its mean on the logit scale. Raises SchemaError.

    Example:
        >>> seasonal_basis(24).shape, seasonal_basis(168).shape
        ((24, 4), (168, 10))
    """
    if n_hour_cell not in (HOURS_PER_DAY, HOURS_PER_WEEK):
        raise SchemaError(f"{n_hour_cell} hour cells: there are 24 (hour of the day) or 168 (hour of the week).")
    hour = np.arange(n_hour_cell)
    periods = [HOURS_PER_DAY / k for k in range(1, DAILY_PAIRS + 1)]
    if n_hour_cell == HOURS_PER_WEEK:
        periods += [HOURS_PER_WEEK / k for k in range(1, WEEKLY_PAIRS + 1)]
    return np.column_stack([wave(2 * np.pi * hour / period) for period in periods for wave in (np.sin, np.cos)])


@dataclass(frozen=True)
class LagSums:
    """Sums over neighbouring observations (one step apart) of the logits u, from which lag-1 autocorrelation follows.

    pairs, first, second: (n_resource, n_hour_cell), number of pairs that start in the cell, sum of their first u and of
    their second; product: (n_resource,) sum of u_t u_(t+1); square: (n_resource,) sum of u_t^2 over all observations;
    head, tail: (n_resource, 3), second, cell and u of the first and of the last observation, NaN without one; skip: cells
    from the first of a pair to the second. Unlike residuals, these add up over batches whatever the centre will be.
    """

    pairs: np.ndarray
    first: np.ndarray
    second: np.ndarray
    product: np.ndarray
    square: np.ndarray
    head: np.ndarray
    tail: np.ndarray
    skip: int


def lag_sums(
    u: np.ndarray,
    resource: np.ndarray,
    cell: np.ndarray,
    second: np.ndarray,
    *,
    shape: tuple[int, int],
    step_seconds: float,
) -> LagSums:
    """Sums of `LagSums` from rows sorted by resource and time.

    u: (n_row,) logits; resource, cell: (n_row,) integers; second: (n_row,) times in seconds; shape: (n_resource,
    n_hour_cell). Only pairs whose cells differ by the usual number are used: for steps under an hour, those within it.
    """
    skip = int(step_seconds // 3600)
    rows = np.column_stack([second, cell, u])
    near = (np.diff(resource) == 0) & _neighbours(rows[:-1], rows[1:], skip, shape[1], step_seconds)
    left, right = u[:-1][near], u[1:][near]
    code = resource[:-1][near] * shape[1] + cell[:-1][near]

    def by_cell(values: np.ndarray | None) -> np.ndarray:
        return np.bincount(code, values, shape[0] * shape[1]).reshape(shape).astype(float)

    product = np.bincount(resource[:-1][near], left * right, shape[0])
    square = np.bincount(resource, u**2, shape[0])
    ends = np.full((2, shape[0], 3), np.nan)
    ends[0, resource[::-1]] = rows[::-1]  # the last to be written stays
    ends[1, resource] = rows
    return LagSums(by_cell(None), by_cell(left), by_cell(right), product, square, ends[0], ends[1], skip)


def _neighbours(left: np.ndarray, right: np.ndarray, skip: int, n_hour_cell: int, step_seconds: float) -> np.ndarray:
    """Whether `right` follows `left` by one step, (n,), for rows of second, cell and u; NaN never do."""
    apart = np.abs(right[:, 0] - left[:, 0] - step_seconds) < 1e-6 * step_seconds
    return np.asarray(apart & ((right[:, 1] - left[:, 1] - skip) % n_hour_cell == 0))


def joined(parts: Sequence[tuple[LagSums, np.ndarray]], n_resource: int, step_seconds: float) -> LagSums:
    """Sums of two batches, each with the places (n,) of its resources among `n_resource`; pairs across the seam count."""

    def total(name: str) -> np.ndarray:
        out = np.zeros((n_resource, *getattr(parts[0][0], name).shape[1:]))
        for lag, place in parts:
            out[place] += getattr(lag, name)
        return out

    def spread(values: np.ndarray, place: np.ndarray) -> np.ndarray:
        out = np.full((n_resource, 3), np.nan)
        out[place] = values
        return out

    pairs, first, second, product, square = (total(k) for k in ("pairs", "first", "second", "product", "square"))
    heads, tails = ([spread(getattr(lag, k), place) for lag, place in parts] for k in ("head", "tail"))
    skip = parts[0][0].skip
    for left, right in ((tails[0], heads[1]), (tails[1], heads[0])):
        at = np.flatnonzero(_neighbours(left, right, skip, pairs.shape[1], step_seconds))
        cell = left[at, 1].astype(int)
        pairs[at, cell] += 1
        first[at, cell] += left[at, 2]
        second[at, cell] += right[at, 2]
        product[at] += left[at, 2] * right[at, 2]
    earlier = (heads[1][:, :1] < heads[0][:, :1]) | np.isnan(heads[0][:, :1])
    later = (tails[1][:, :1] > tails[0][:, :1]) | np.isnan(tails[0][:, :1])
    head, tail = np.where(earlier, heads[1], heads[0]), np.where(later, tails[1], tails[0])
    return LagSums(pairs, first, second, product, square, head, tail, skip)


def autocorrelation(n: np.ndarray, u: np.ndarray, lag: LagSums, application_of: np.ndarray) -> np.ndarray:
    """Lag-1 autocorrelation of each resource's logits around its level and its application's season, (n_resource,).

    n, u: (n_resource, n_hour_cell) unweighted counts and sums of logits. Corrected for the bias of short series,
    (n r + 1) / (n - 3), Marriott and Pope (1954), and shrunk to the fleet's median by the number of pairs.
    """
    total = n.sum(axis=1)
    level = u.sum(axis=1) / np.maximum(total, 1)
    basis = seasonal_basis(n.shape[1])
    centre = np.zeros_like(n)
    for a in np.unique(application_of):
        own = application_of == a
        deviation = (u[own] - n[own] * level[own, None]).sum(axis=0)
        gram = basis.T @ (n[own].sum(axis=0)[:, None] * basis) + RIDGE * np.eye(basis.shape[1])
        season = basis @ np.linalg.solve(gram, basis.T @ deviation)
        mean = (n[own] * season).sum(axis=1) / np.maximum(total[own], 1)  # of the season over the hours observed
        centre[own] = level[own, None] - mean[:, None] + season
    after = np.roll(centre, -lag.skip, axis=1)
    covariance = lag.product + (lag.pairs * centre * after - lag.first * after - lag.second * centre).sum(axis=1)
    variance = lag.square + (n * centre**2 - 2 * u * centre).sum(axis=1)
    pairs = lag.pairs.sum(axis=1)
    known = (pairs > 3) & (variance > 1e-9 * np.maximum(lag.square, 1))
    r = np.zeros(len(n))
    r[known] = (covariance[known] / pairs[known]) / (variance[known] / total[known])
    r[known] = (pairs[known] * r[known] + 1) / np.maximum(pairs[known] - 3, 1)
    r = np.clip(r, 0.0, HIGHEST)
    fleet = float(np.median(r[known])) if known.any() else 0.0
    pairs = np.where(known, pairs, 0.0)
    return (pairs * r + SHRINKAGE_PAIRS * fleet) / (pairs + SHRINKAGE_PAIRS)


def effective_weight(r: np.ndarray, count: np.ndarray) -> np.ndarray:
    """Effective over actual number of observations of an AR(1) with lag-1 correlation r, for the mean of `count` values.

    1 / (1 + 2 sum_k (1 - k/n) r^k), which tends to (1 - r) / (1 + r) for long series and is one for a single value.

    Example:
        >>> effective_weight(np.array([0.5, 0.5]), np.array([1.0, 1e9])).round(3).tolist()
        [1.0, 0.333]
    """
    n = np.maximum(count, 1.0)
    return 1 / (1 + 2 * (r / (1 - r) - r * (1 - r**n) / (n * (1 - r) ** 2)))
