"""What the agent sees: the gap between the forecast's quantiles and the servers that will be there, and a little more."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from support.autoscaling.environment import Environment
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

__all__ = [
    "COOLDOWN",
    "FACTORS",
    "HOLD",
    "LEVELS",
    "N_LOADS",
    "Outlook",
    "features",
    "n_features",
    "next_totals",
    "outlook",
    "supply",
]

FACTORS = (0.5, 0.7, 0.85, 0.95, 1.0, 1.05, 1.2, 1.5, 2.0)  # what the present total may be multiplied by
LEVELS = (0.5, 0.9, 0.975, 0.995)  # quantile levels of the forecast that the agent sees
N_LOADS = 4  # newest loads that the agent sees
N_STATE = 8  # numbers on the fleet and the clock
HOLD = FACTORS.index(1.0)
COOLDOWN = -3  # place in the view of the cooldown left, minus 1
MOST_GAP, MOST_SERVERS = 2.0, 4.0  # gaps are cut there: relative to the load, and in servers
SECONDS_PER_DAY = 86_400


class Outlook(NamedTuple):
    """The forecast in servers, float32: need (n_time, d + 1, n_level), clock (n_time, 2): sine and cosine of the day."""

    need: Any
    clock: Any


def outlook(rolling: RollingQuantiles | None, environment: Environment) -> Outlook:
    """The forecast as the agent sees it. Raises SchemaError if there is none, or if it ends before the boot delay."""
    horizon = environment.boot_delay_ticks + 1
    if rolling is None or rolling.quantiles.shape[1] < horizon:
        raise SchemaError(
            f"learning: the agent needs a forecast of {horizon} ticks (the boot delay and the present one)."
        )
    need = np.stack([rolling.at(level)[:, :horizon] for level in LEVELS], axis=-1) / environment.capacity_per_tick
    stamps = rolling.timestamps
    angle = 2 * np.pi * (stamps.hour * 3600 + stamps.minute * 60 + stamps.second).to_numpy() / SECONDS_PER_DAY
    return Outlook(need.astype(np.float32), np.stack([np.sin(angle), np.cos(angle)], axis=-1).astype(np.float32))


def n_features(boot_delay_ticks: int) -> int:
    """Length of the vector that `features` makes.

    Example:
        >>> n_features(5)
        40
    """
    return (boot_delay_ticks + 2) * len(LEVELS) + N_LOADS + N_STATE


def supply(active: Any, orders: Any, boot_delay_ticks: int, xp: Any = np) -> Any:
    """Servers that serve 0..d ticks from now, (..., d + 1); orders (..., d) by age, the youngest, 1 tick old, first.

    Example:
        >>> supply(np.array(4), np.array([3, 2]), 2).tolist()  # 2 are due now, 3 in a tick
        [6, 9, 9]
    """
    delay = boot_delay_ticks
    due = np.array([[int(age + ahead >= delay) for ahead in range(delay + 1)] for age in range(1, delay + 1)])
    return active[..., None] + (orders @ due.reshape(delay, delay + 1) if delay else xp.zeros(1, dtype=int))


def features(
    need: Any, clock: Any, loads: Any, active: Any, orders: Any, cooldown: Any, queue: Any, xp: Any = np
) -> Any:
    """The agent's view, (..., n_features) float32; `xp` is NumPy or jax.numpy, so both engines share one definition.

    need (..., d + 1, n_level), clock (..., 2): a row of `Outlook`. loads (..., N_LOADS): newest first, in servers.
    active, orders (..., d): servers. cooldown: left, fraction of the longest. queue: servers' work of one tick.
    """
    there = supply(active, orders, orders.shape[-1], xp)
    total = there[..., -1]
    level = xp.maximum(need[..., -1, 0], 1.0)[..., None]
    gaps = (need - there[..., None]) / level[..., None]
    whole = xp.clip(xp.ceil(need.max(axis=-2)) - total[..., None], -MOST_SERVERS, MOST_SERVERS) / MOST_SERVERS
    fleet = xp.stack([active, total, queue], axis=-1) / level
    scale = xp.stack([xp.log(level[..., 0]), xp.log1p(total), cooldown], axis=-1)
    parts = [
        xp.clip(gaps, -MOST_GAP, MOST_GAP).reshape(*gaps.shape[:-2], -1), whole,
        xp.clip((loads - active[..., None]) / level, -MOST_GAP, MOST_GAP), xp.clip(fleet - 1, -MOST_GAP, MOST_GAP),
        scale - 1, clock,
    ]  # fmt: skip
    return xp.concatenate([part.astype(xp.float32) for part in parts], axis=-1)


def next_totals(most: int) -> np.ndarray:
    """Desired servers (most + 1, n_action) by present total and action: the product, rounded away from the present.

    So every factor but 1 changes the fleet by at least one server: 1 x 1.2 is 2.

    Example:
        >>> next_totals(20)[[1, 20]].tolist()
        [[0, 0, 0, 0, 1, 2, 2, 2, 2], [10, 14, 17, 19, 20, 21, 24, 30, 40]]
    """
    total = np.arange(most + 1)
    columns = []
    for factor in FACTORS:
        exact = total * factor
        more, fewer = np.maximum(np.ceil(exact - 1e-9), total + 1), np.minimum(np.floor(exact + 1e-9), total - 1)
        columns.append(more if factor > 1 else np.maximum(fewer, 0) if factor < 1 else exact)
    return np.stack(columns, axis=-1).astype(np.int32)
