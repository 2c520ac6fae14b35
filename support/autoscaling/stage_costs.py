"""What a tick is expected to cost with so many servers, and how likely they are too few: by quantiles or paths."""

from __future__ import annotations

import numpy as np
from numba import njit

from support.autoscaling.environment import Environment
from support.errors import SchemaError

__all__ = ["expected_stage_costs", "shortage_probabilities", "spread_regret", "tail_scale"]

STEPS = 400  # between the outermost levels, in which a tick's bill is summed


def expected_stage_costs(
    demand: np.ndarray, environment: Environment, servers: np.ndarray, *, levels: np.ndarray | None = None
) -> np.ndarray:
    """Expected cost in USD of each stage with each number of `servers` (n_size,) that all serve: (n_horizon, n_size).

    demand: requests per tick, either sample paths (n_draw, n_horizon), or, with `levels` (n_level,), quantiles
    (n_horizon, n_level). Cost = price of m servers + price of a drop x E[(demand - m mu)+]. Without a queue the
    expected cost of a schedule depends on the joint distribution of the stages through their marginals only, so that
    quantiles are enough. E[(demand - x)+] is the integral over u of (Q(u) - x)+, exact for Q linear between levels;
    the probability beyond the outermost levels sits at the outermost quantiles, so that no server is ever bought for
    demand above the highest one. Raises SchemaError if shapes misfit or levels do not increase within (0, 1).

    Example:
        >>> world = Environment(tick_seconds=60, service_rate_rps=1, price_server_hour_usd=0.6, price_drop_usd=0.01)
        >>> paths = np.array([[60.0, 180.0], [120.0, 180.0]])
        >>> expected_stage_costs(paths, world, np.array([1, 2])).round(3).tolist()
        [[0.31, 0.02], [1.21, 0.62]]
    """
    demand, capacity = np.asarray(demand, dtype=np.float64), servers * environment.capacity_per_tick
    if demand.ndim != 2 or not demand.size or not np.isfinite(demand).all():
        raise SchemaError(f"mpc: demand of shape {demand.shape} must be two-dimensional, not empty, finite.")
    if levels is None:
        short = np.stack([np.maximum(demand - able, 0.0).mean(axis=0) for able in capacity], axis=1)
    else:
        levels = np.asarray(levels, dtype=np.float64)
        if levels.shape != demand.shape[1:] or not (np.diff(levels, prepend=0.0, append=1.0) > 0).all():
            raise SchemaError(f"mpc: {levels} are no increasing levels in (0, 1) for demand of shape {demand.shape}.")
        short = _shortfall(levels, np.ascontiguousarray(demand), capacity.astype(np.float64))
    return environment.price_server_tick_usd * servers + environment.price_drop_usd * short


def shortage_probabilities(quantiles: np.ndarray, levels: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """P(demand > capacity) of each stage, (n_horizon, n_size), for each `capacity` (n_size,), requests per tick.

    quantiles: (n_horizon, n_level), requests per tick; linear between `levels` (n_level,), with what is below the
    lowest sitting there. Above the highest the tail is exponential through the two highest (shape zero in Coles, 2001,
    section 4.2), so that a fleet beyond the highest quantile still makes a bad tick rarer.

    Example:
        >>> tail = np.array([[0.0, 10.0, 20.0]])  # a tenth of what is left every 10 requests
        >>> shortage_probabilities(tail, np.array([0.5, 0.9, 0.99]), np.array([10.0, 20.0, 30.0])).round(4).tolist()
        [[0.1, 0.01, 0.001]]
    """
    ordered = np.ascontiguousarray(np.maximum.accumulate(quantiles, axis=1), dtype=np.float64)
    levels = np.asarray(levels, dtype=np.float64)
    return np.asarray(_shortage(levels, ordered, tail_scale(ordered, levels), np.asarray(capacity, dtype=np.float64)))


def tail_scale(quantiles: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Mean excess (...,) of an exponential tail through the two highest of `quantiles` (..., n_level), in their unit.

    Example:
        >>> float(tail_scale(np.array([10.0, 20.0]), np.array([0.9, 0.99])).round(3))  # 10 / log 10
        4.343
    """
    return np.asarray((quantiles[..., -1] - quantiles[..., -2]) / np.log((1 - levels[-2]) / (1 - levels[-1])))


def spread_regret(quantiles: np.ndarray, levels: np.ndarray, environment: Environment) -> float:
    """Regret that a forecast announces: of the best fleet for each tick, if demand came from `quantiles` and changes were free.

    quantiles: (n_time, n_level), requests per tick, as issued when a server could still be ordered for that tick; linear
    between `levels` (n_level,), with what is beyond them at the outermost. The least expected cost of each tick, summed,
    over the expected bill of who knows each value in advance, minus 1. It falls only with a better forecast, or with news
    that come after the order. The newsvendor's cost of uncertainty: Porteus, Foundations of Stochastic Inventory Theory (2002).
    Raises SchemaError if shapes misfit or levels do not increase within (0, 1).

    Example:
        >>> world = Environment(tick_seconds=1, service_rate_rps=1, price_server_hour_usd=3600.0, price_drop_usd=4.0, max_servers=200)
        >>> uniform = 100 * np.array([[0.001, 0.999]])  # 0 to 100: the fractile 1 - 1 / 4, but for whole servers
        >>> round(spread_regret(uniform, np.array([0.001, 0.999]), world), 2)
        0.74
    """
    mu, most = environment.capacity_per_tick, environment.max_servers
    least, useful = environment.min_servers, min(most, int(np.ceil(quantiles.max() / mu)))
    sizes = np.arange(least, max(least, useful) + 1)
    paid = expected_stage_costs(quantiles, environment, sizes, levels=levels).min(axis=1).sum()
    knots = np.union1d(np.linspace(levels[0], levels[-1], STEPS + 1), levels)
    at = np.r_[levels[0], (knots[1:] + knots[:-1]) / 2, levels[-1]]
    share = np.r_[levels[0], np.diff(knots), 1 - levels[-1]]  # of the probability, the outer ones as in the stage costs
    drawn = np.stack([np.interp(at, levels, row) for row in np.asarray(quantiles, dtype=np.float64)])
    bills = []
    for size in (np.floor(drawn / mu), np.ceil(drawn / mu)):  # one of the two is the best for a known demand
        fleet = size.clip(least, most)
        short = np.maximum(drawn - fleet * mu, 0.0)
        bills.append(environment.price_server_tick_usd * fleet + environment.price_drop_usd * short)
    known = (np.minimum(*bills) @ share).sum()
    return float(paid / known - 1) if known > 0 else float(np.inf if paid > 0 else 0.0)


@njit(cache=True)
def _shortfall(levels: np.ndarray, quantiles: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """E[(demand - capacity)+], (n_horizon, n_size), from quantiles that are linear between `levels`."""
    n_horizon, n_level = quantiles.shape
    out = np.zeros((n_horizon, len(capacity)))
    for stage in range(n_horizon):
        for size in range(len(capacity)):
            able = capacity[size]
            short = levels[0] * max(quantiles[stage, 0] - able, 0.0)
            short += (1.0 - levels[-1]) * max(quantiles[stage, n_level - 1] - able, 0.0)
            for k in range(n_level - 1):
                lower, upper = quantiles[stage, k], quantiles[stage, k + 1]
                if lower > upper:
                    lower, upper = upper, lower
                if lower >= able:
                    short += (levels[k + 1] - levels[k]) * (0.5 * (lower + upper) - able)
                elif upper > able:
                    short += (levels[k + 1] - levels[k]) * (upper - able) ** 2 / (2.0 * (upper - lower))
            out[stage, size] = short
    return out


@njit(cache=True)
def _shortage(levels: np.ndarray, quantiles: np.ndarray, scale: np.ndarray, capacity: np.ndarray) -> np.ndarray:
    """See `shortage_probabilities`; quantiles increase, scale: (n_horizon,) mean excess of the tail."""
    n_horizon, n_level = quantiles.shape
    out = np.ones((n_horizon, len(capacity)))
    for stage in range(n_horizon):
        row = quantiles[stage]
        for size in range(len(capacity)):
            able = capacity[size]
            above = np.searchsorted(row, able, side="right")  # the first quantile above the capacity
            if above == n_level:
                beyond = able - row[-1]
                rest = np.exp(-beyond / scale[stage]) if scale[stage] > 0 else 0.0  # a point mass at the highest
                out[stage, size] = (1.0 - levels[-1]) * rest
            elif above > 0:
                share = (able - row[above - 1]) / (row[above] - row[above - 1])
                out[stage, size] = 1.0 - levels[above - 1] - share * (levels[above] - levels[above - 1])
    return out
