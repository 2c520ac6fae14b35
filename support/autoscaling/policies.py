"""Policies: how many servers now? Each answer carries its reason."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from support.autoscaling.environment import Environment
from support.autoscaling.simulate import Observation
from support.errors import SchemaError
from support.forecasting import RollingQuantiles
from support.writing import plural

__all__ = ["HAIR", "ForecastMean", "Newsvendor", "Reactive", "Static", "forecast_ahead", "known_level", "servers_for"]

MOST_SERVERS = 1e9  # a runaway forecast stays a whole number
HAIR = 1e-9  # of a server: float error that does not cost one


def servers_for(requests_per_tick: float | np.ndarray, environment: Environment) -> np.ndarray:
    """Whole servers that complete `requests_per_tick`; a hair of float error does not cost a server.

    Example:
        >>> int(servers_for(121.0, Environment(tick_seconds=60, service_rate_rps=1.0)))
        3
    """
    wanted = np.asarray(requests_per_tick) / environment.capacity_per_tick - HAIR
    return np.ceil(np.minimum(wanted, MOST_SERVERS)).astype(int)


@dataclass(frozen=True)
class Static:
    """Always `servers` servers."""

    servers: int
    name: str = "static"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> None:
        """Nothing to remember."""

    def act(self, state: None, seen: Observation) -> tuple[None, int, str]:
        """The same number at every tick."""
        return None, self.servers, "fixed"


@dataclass(frozen=True)
class Reactive:
    """Servers that would have run at `target_utilization` (fraction) under the last demand seen, backlog included."""

    target_utilization: float = 0.7
    name: str = "reactive"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> float:
        """Requests per tick that one server carries at the target."""
        if not 0 < self.target_utilization <= 1:
            raise SchemaError(f"reactive: target_utilization is {self.target_utilization}, it must lie in (0, 1].")
        return environment.capacity_per_tick * self.target_utilization

    def act(self, state: float, seen: Observation) -> tuple[float, int, str]:
        """Ratio rule on the newest observation; holds while there is none."""
        if not len(seen.arrivals):
            return state, seen.active + seen.booting, "no data yet"
        load = seen.arrivals[-1] + seen.queue[-1]
        return state, math.ceil(load / state - HAIR), "last demand over target"


@dataclass(frozen=True)
class ForecastMean:
    """Servers for the mean forecast of the ticks until a new server helps, plus `headroom` (fraction)."""

    headroom: float = 0.0
    name: str = "forecast mean"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> np.ndarray:
        """Servers wanted at each row, from that row's forecast alone."""
        ahead = forecast_ahead(environment, forecast, self.name)
        return servers_for(
            ahead.mean[:, : environment.boot_delay_ticks + 1].max(axis=1) * (1 + self.headroom), environment
        )

    def act(self, state: np.ndarray, seen: Observation) -> tuple[np.ndarray, int, str]:
        """The largest mean over the boot delay, in servers."""
        return state, int(state[seen.row]), "mean demand until a new server helps"


@dataclass(frozen=True)
class Newsvendor:
    """Servers for the quantile of demand at which one more server stops paying: max over h = 0..d of ceil(Q_f / mu).

    fractile: probability in (0, 1); None takes the environment's (c_drop mu - c) / (c_drop mu).
    Source: Arrow, Harris and Marschak (1951).
    """

    fractile: float | None = None
    name: str = "newsvendor"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> tuple[np.ndarray, str]:
        """Servers wanted at each row, from that row's forecast alone, and the reason."""
        ahead = forecast_ahead(environment, forecast, self.name)
        if self.fractile is not None and not 0 < self.fractile < 1:
            raise SchemaError(f"{self.name}: fractile is {self.fractile}, it must lie in (0, 1).")
        wanted = environment.critical_fractile if self.fractile is None else self.fractile
        if wanted <= 0:
            return np.zeros(len(ahead.mean), dtype=int), "a server costs more than it can save"
        level = known_level(ahead, wanted)
        most = ahead.at(level)[:, : environment.boot_delay_ticks + 1].max(axis=1)
        return servers_for(most, environment), f"{100 * level:.1f} % quantile of demand until a new server helps"

    def act(self, state: tuple[np.ndarray, str], seen: Observation) -> tuple[tuple[np.ndarray, str], int, str]:
        """The largest fractile over the boot delay, in servers."""
        return state, int(state[0][seen.row]), state[1]


def forecast_ahead(
    environment: Environment, forecast: RollingQuantiles | None, name: str, lead_ticks: int | None = None
) -> RollingQuantiles:
    """`forecast` if it reaches `lead_ticks` (None: the boot delay) beyond the present tick; else SchemaError."""
    need = (environment.boot_delay_ticks if lead_ticks is None else lead_ticks) + 1
    if forecast is None or forecast.mean.shape[1] < need:
        raise SchemaError(f"{name}: needs a forecast of {plural(need, 'tick')}, the present one included.")
    return forecast


def known_level(forecast: RollingQuantiles, level: float) -> float:
    """`level` as a float, or the outermost level of the forecast where it has none so far out."""
    return min(max(level, float(forecast.levels[0])), float(forecast.levels[-1]))
