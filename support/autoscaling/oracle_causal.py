"""The causal optimum: the least expected cost without knowing the future, exactly, where demand is a Markov chain."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from support.autoscaling.environment import Environment
from support.autoscaling.oracle_states import States, backup, reachable_states
from support.autoscaling.simulate import Observation
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

__all__ = ["CausalOptimum", "CausalPolicy", "MarkovDemand", "causal_optimum", "markov_suite"]

CHOICE_BYTES = 2**30  # memory for the remembered choices
FORECAST_LEVELS = np.r_[0.001, 0.005, np.arange(1, 100) / 100, 0.995, 0.999]


@dataclass(frozen=True)
class MarkovDemand:
    """Demand that jumps between known levels: `levels` (n_level,) requests per tick, distinct.

    transition: (n_level, n_level), row = present level, rows sum to 1. initial: (n_level,), law of the first tick.
    Raises SchemaError naming what is wrong.

    Example:
        >>> chain = MarkovDemand(np.array([60.0, 180.0]), np.array([[0.9, 0.1], [0.5, 0.5]]), np.array([1.0, 0.0]))
        >>> chain.ahead(2).round(3).tolist()  # law two ticks later, from each level
        [[0.86, 0.14], [0.7, 0.3]]
    """

    levels: np.ndarray
    transition: np.ndarray
    initial: np.ndarray

    def __post_init__(self) -> None:
        n = len(self.levels)
        if self.transition.shape != (n, n) or self.initial.shape != (n,):
            raise SchemaError(f"markov demand: {n} levels need a transition of shape ({n}, {n}) and {n} initial odds.")
        if len(np.unique(self.levels)) < n or not np.isfinite(self.levels).all() or (self.levels < 0).any():
            raise SchemaError("markov demand: levels must be distinct, finite and not negative.")
        rows = np.vstack([self.transition, self.initial])
        if (rows < 0).any() or not np.allclose(rows.sum(axis=1), 1.0, rtol=0, atol=1e-9):
            raise SchemaError(
                "markov demand: each row of the transition, and the initial odds, must be a distribution."
            )

    def ahead(self, ticks: int) -> np.ndarray:
        """Law of the level `ticks` later, (n_level, n_level), row = present level."""
        return np.linalg.matrix_power(self.transition, ticks)

    def sample(self, n_time: int, *, tick_seconds: float, rng: np.random.Generator) -> pd.Series:
        """One path of `n_time` ticks, requests per tick, on a UTC index."""
        odds = np.cumsum(np.vstack([self.transition, self.initial]), axis=1)
        state, path, luck = len(self.levels), np.empty(n_time, dtype=np.int64), rng.random(n_time)
        for t in range(n_time):
            state = path[t] = min(int(np.searchsorted(odds[state], luck[t], side="right")), len(self.levels) - 1)
        index = pd.date_range("2026-01-01", periods=n_time, freq=pd.Timedelta(seconds=tick_seconds), tz="UTC")
        return pd.Series(self.levels[path], index=index, name="requests")

    def level_of(self, requests: np.ndarray) -> np.ndarray:
        """Position of each demand in `levels`. Raises SchemaError if one is no level."""
        found = np.abs(np.asarray(requests)[..., None] - self.levels).argmin(axis=-1)
        if not np.allclose(self.levels[found], requests):
            raise SchemaError("markov demand: the demand is not on the chain's levels.")
        return found

    def forecast(self, demand: pd.Series, environment: Environment) -> RollingQuantiles:
        """The exact predictive law at each tick of `demand` (n_time,), until a new server helps, from the lagged past."""
        lag, horizon = environment.metric_lag_ticks, environment.boot_delay_ticks + 1
        order = np.argsort(self.levels)
        where = self.level_of(demand.to_numpy(float))
        laws = np.empty((len(where), horizon, len(self.levels)))
        for h in range(horizon):
            known = max(len(where) - lag - 1, 0)
            laws[lag + 1 :, h] = self.ahead(h + lag + 1)[where[:known]]
            for t in range(min(lag + 1, len(where))):
                laws[t, h] = self.initial @ self.ahead(t + h)
        below = np.cumsum(laws[..., order], axis=-1)
        rank = (below[..., None, :] < FORECAST_LEVELS[:, None] - 1e-12).sum(axis=-1).clip(max=len(order) - 1)
        return RollingQuantiles(
            pd.DatetimeIndex(demand.index), FORECAST_LEVELS, self.levels[order][rank], laws @ self.levels, "true chain", lag
        )  # fmt: skip


@dataclass(frozen=True)
class CausalPolicy:
    """The causal optimum as a policy for `simulate`: looks up the total to ask for, given tick, fleet and last level.

    choices: (n_time, n_level, n_state), position of the total; before the first observation level 0 stands for no data.
    """

    chain: MarkovDemand
    states: States
    choices: np.ndarray
    lag_ticks: int
    name: str = "causal optimum"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> int:
        """The state of the fleet before the first tick."""
        return 0

    def act(self, state: int, seen: Observation) -> tuple[int, int, str]:
        """The least costly total in expectation; SchemaError if demand, start or length is not that of the optimum."""
        if seen.tick >= len(self.choices) or (seen.tick == 0 and seen.active != next(iter(self.states.index))[0]):
            raise SchemaError("causal optimum: it was computed for another number of ticks or of initial servers.")
        level = int(self.chain.level_of(seen.arrivals[-1])) if len(seen.arrivals) else 0
        chosen = int(self.choices[seen.tick, level, state])
        return (
            int(self.states.following[state, chosen]),
            self.states.lowest + chosen,
            "least expected cost on the chain",
        )


@dataclass(frozen=True)
class CausalOptimum:
    """`cost_usd`: the least expected cost of any policy that does not know the future; `policy` attains it."""

    cost_usd: float
    policy: CausalPolicy


def causal_optimum(
    chain: MarkovDemand, environment: Environment, n_time: int, *, initial_servers: int
) -> CausalOptimum:
    """The least expected cost in USD over `n_time` ticks of `chain`, for a policy that sees what `simulate` shows it.

    At tick t it knows the law of the chain and its levels through tick t - 1 - lag. Backward induction over tick, fleet
    (every active server and booting order) and last level seen; no approximation. Bellman (1957).
    Raises SchemaError for a queue, random boots, or a world too large for it.

    Example:
        >>> coin = MarkovDemand(np.array([60.0, 120.0]), np.full((2, 2), 0.5), np.array([0.5, 0.5]))
        >>> world = Environment(tick_seconds=60, service_rate_rps=1.0, price_server_hour_usd=60.0, price_drop_usd=0.03,
        ...                     boot_delay_ticks=0, max_servers=2)
        >>> best = causal_optimum(coin, world, 3, initial_servers=1)  # a second server costs 1 USD and saves 0.90
        >>> round(best.cost_usd, 9)
        5.7
    """
    states = reachable_states(environment, initial_servers)
    lag, n_level, n_state = environment.metric_lag_ticks, len(chain.levels), len(states.index)
    if n_time < 1 or n_time * n_level * n_state * 2 > CHOICE_BYTES:
        raise SchemaError(
            f"causal optimum: {n_time} ticks of {n_level} levels and {n_state} states; use 1 tick or more, a smaller "
            "world or a shorter trace."
        )
    servers = np.arange(environment.max_servers + 1)
    lost = environment.price_drop_usd * np.maximum(
        chain.levels[:, None] - environment.capacity_per_tick * servers, 0.0
    )  # (level, servers)
    fleet = (states.following, states.serving, states.cost_usd)
    choices = np.zeros((n_time, n_level, n_state), dtype=np.uint16)
    value, unseen = np.zeros((n_level, n_state)), min(lag + 1, n_time)
    expected = chain.ahead(lag + 1) @ lost
    for t in range(n_time - 1, unseen - 1, -1):
        value = backup(chain.transition @ value, *fleet, expected, choices[t])
    blind = chain.initial[None] @ value  # the first level seen is that of tick 0
    for t in range(unseen - 1, -1, -1):
        blind = backup(blind, *fleet, chain.initial[None] @ chain.ahead(t) @ lost, choices[t, :1])
    return CausalOptimum(float(blind[0, 0]), CausalPolicy(chain, states, choices, lag))


def markov_suite(capacity_per_tick: float) -> dict[str, MarkovDemand]:
    """Three small chains by name, in units of one server's `capacity_per_tick`, at most about eight servers.

    `drift`: a lazy walk up and down; `regimes`: quiet and busy spells of an hour of ticks; `bursts`: a calm level with
    rare bursts of five ticks that nothing foretells.

    Example:
        >>> [len(chain.levels) for chain in markov_suite(60.0).values()]
        [11, 6, 3]
    """
    drift = np.diag(np.full(10, 0.15), 1) + np.diag(np.full(10, 0.15), -1)
    drift += np.diag(1 - drift.sum(axis=1))
    spell = np.kron(np.array([[59, 1], [1, 59]]) / 60, np.full((3, 3), 1 / 3))
    burst = np.array([[0.895, 0.1, 0.005], [0.1, 0.895, 0.005], [0.1, 0.1, 0.8]])
    levels = {
        "drift": np.linspace(0.5, 7.5, 11),
        "regimes": np.r_[1.2, 1.9, 2.6, 5.2, 5.9, 6.6],
        "bursts": np.r_[1.8, 2.7, 6.5],
    }
    laws = {"drift": drift, "regimes": spell, "bursts": burst}
    return {
        name: MarkovDemand(levels[name] * capacity_per_tick, law, np.full(len(law), 1 / len(law)))
        for name, law in laws.items()
    }
