"""Shadow mode: candidates are replayed on what came, and the one whose bill was lowest lately decides."""

from __future__ import annotations

from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any

import numpy as np
import pandas as pd

from support.autoscaling.environment import Environment
from support.autoscaling.oracle import Schedule
from support.autoscaling.rules import Plan
from support.autoscaling.simulate import Observation, Policy, simulate
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

__all__ = ["ShadowLeader"]

DAY_SECONDS = 86_400


@dataclass(frozen=True)
class ShadowLeader:
    """Each day the candidate whose bill in shadow was lowest over the last `memory_days` takes over.

    trial: bills of days before the run, (n_day, n_candidate), USD, as `after` makes them; without one the first leads.

    Without a queue, demand does not depend on the fleet, so that what a candidate would have cost yesterday can be
    computed exactly: `simulate` replays each day for each candidate, from the servers that carry the day's first tick;
    with a queue the work that came is replayed just so. Random boots are replayed with their mean delay and without
    failures. A change of leader costs what the present fleet costs to change. Raises SchemaError for less than two
    candidates, less than a day of memory, or plans by tick. Source: follow the leader over a sliding window of Kalai and Vempala (2005).

    Example:
        >>> from support.autoscaling.policies import Static
        >>> ShadowLeader((Static(1), Static(2))).name
        'shadow leader'
    """

    candidates: tuple[Policy, ...]
    memory_days: int = 2
    name: str = "shadow leader"
    trial: tuple[tuple[float, ...], ...] = ()

    def __post_init__(self) -> None:
        if len(self.candidates) < 2 or self.memory_days < 1:
            raise SchemaError(
                f"{self.name}: {len(self.candidates)} candidates and {self.memory_days} days; at least 2 and 1 are needed."
            )
        if fixed := [c.name for c in self.candidates if isinstance(c, Plan | Schedule)]:
            raise SchemaError(
                f"{self.name}: {', '.join(fixed)} counts ticks from the start, so a replayed day would begin with its "
                "first. Give rules that see demand or a forecast."
            )

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> _Shadow:
        """Every candidate's own state, and the world in which they are replayed."""
        steady = _steady(environment)
        states = tuple(candidate.prepare(environment, forecast) for candidate in self.candidates)
        return _Shadow(states, steady, forecast, _cheapest(self.trial), self.trial)

    def after(self, demand: pd.Series, environment: Environment, forecast: RollingQuantiles | None) -> ShadowLeader:
        """The leader after its trial on the last `memory_days` of past `demand` (n_time,), requests per tick.

        forecast: rows aligned with `demand`, or None if no candidate reads it. A past of less than a day is one day.

        Example:
            >>> from support.autoscaling.policies import Static
            >>> world = Environment(tick_seconds=3600, service_rate_rps=1.0, price_drop_usd=0.01)
            >>> hours = pd.date_range("2026-01-01", periods=48, freq="1h", tz="UTC")
            >>> leader = ShadowLeader((Static(5), Static(1))).after(pd.Series(3000.0, index=hours), world, None)
            >>> np.round(leader.trial, 2).tolist()
            [[14.4, 2.88], [14.4, 2.88]]
        """
        steady, day = _steady(environment), _day_ticks(environment)
        last = len(demand)
        edges = [max(last - back * day, 0) for back in range(self.memory_days, -1, -1)]
        days = tuple(
            self._bills(demand.iloc[a:b], steady, None if forecast is None else forecast.rows(a, b))
            for a, b in pairwise(edges)
            if b - a >= min(day, last)
        )
        return replace(self, trial=days)

    def act(self, state: _Shadow, seen: Observation) -> tuple[_Shadow, int, str]:
        """What the leader answers; all candidates see every tick, so that their memories are right when they take over."""
        if len(seen.arrivals) - state.judged >= _day_ticks(state.world):
            state = self._review(state, seen.arrivals)
        answers = [policy.act(own, seen) for policy, own in zip(self.candidates, state.states, strict=True)]
        _, desired, reason = answers[state.leader]
        said = f"{self.candidates[state.leader].name} leads: {reason}"
        return replace(state, states=tuple(answer[0] for answer in answers)), desired, said

    def _review(self, state: _Shadow, arrivals: np.ndarray) -> _Shadow:
        """Replay what came since the last review, and choose."""
        first, known = state.judged, len(arrivals)
        every = pd.Timedelta(seconds=state.world.tick_seconds)
        begin = pd.Timestamp(0, tz="UTC") if state.forecast is None else state.forecast.timestamps[first]
        came = pd.Series(arrivals[first:], index=pd.date_range(begin, periods=known - first, freq=every))
        part = None if state.forecast is None else state.forecast.rows(first, known)
        days = (*state.bills, self._bills(came, state.world, part))[-self.memory_days :]
        return replace(state, bills=days, leader=_cheapest(days), judged=known)

    def _bills(self, day: pd.Series, world: Environment, forecast: RollingQuantiles | None) -> tuple[float, ...]:
        return tuple(simulate(day, policy, world, forecast=forecast).cost_usd for policy in self.candidates)


@dataclass(frozen=True)
class _Shadow:
    """states: the candidates' own; bills: USD of the last days by candidate; judged: ticks that were replayed."""

    states: tuple[Any, ...]
    world: Environment
    forecast: RollingQuantiles | None
    leader: int
    bills: tuple[tuple[float, ...], ...]
    judged: int = 0


def _steady(environment: Environment) -> Environment:
    return replace(environment, boot_delay_sigma=0.0, boot_failure_prob=0.0)


def _day_ticks(environment: Environment) -> int:
    return max(2, round(DAY_SECONDS / environment.tick_seconds))


def _cheapest(days: tuple[tuple[float, ...], ...]) -> int:
    """Place of the candidate with the lowest sum; the first, where there are no days yet."""
    return int(np.sum(days, axis=0).argmin()) if days else 0
