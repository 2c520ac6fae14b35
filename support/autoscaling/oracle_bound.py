"""What no policy can promise: sudden jumps against the time a new server takes to help."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from support.autoscaling.environment import Environment
from support.errors import SchemaError
from support.writing import plural

__all__ = ["JumpBound", "jump_bound", "jumps_per_day", "measured_bound", "target_measurable"]

SECONDS_PER_DAY = 86_400
HAIR = 1e-9  # of a tick: float error of 1 - target


@dataclass(frozen=True)
class JumpBound:
    """The best minute-SLO under unforecastable jumps. str() gives the sentence to print beside an SLO claim.

    bad_ticks: ticks that each jump spoils. best_slo_frac: largest share of good ticks in expectation. most_per_day:
    jumps a day at which the target is still in reach.
    """

    jumps_per_day: float
    bad_ticks: int
    best_slo_frac: float
    target_frac: float
    most_per_day: float

    @property
    def reachable(self) -> bool:
        """Whether the target is in reach without spare servers."""
        return self.best_slo_frac >= self.target_frac

    def __str__(self) -> str:
        if self.jumps_per_day == 0:
            return f"No unforecastable jump: nothing forbids {100 * self.target_frac:.3f} % of good ticks."
        verdict = "in reach" if self.reachable else "out of reach without spare servers for who foresees no more"
        return (
            f"{self.jumps_per_day:.2f} unforecastable jumps a day spoil {plural(self.bad_ticks, 'tick')} each, so at most "
            f"{100 * self.best_slo_frac:.3f} % of ticks can be good; {100 * self.target_frac:.3f} % is {verdict} "
            f"(it bears {self.most_per_day:.2f} such jumps a day)."
        )


def jump_bound(environment: Environment, jumps_per_day: float, *, jump_ticks: int | None = None) -> JumpBound:
    """The best expected minute-SLO of any causal policy whose spare servers do not cover the jump.

    A jump in tick t is seen at t + 1 + lag at the earliest, and a server ordered then serves from t + 1 + lag + d: the
    jump spoils min(jump_ticks, d + 1 + lag) ticks (jump_ticks: how long it lasts, None: at least that long). Jumps come
    independently, with the same odds at each tick; ticks spoilt twice count once. In a world with a queue a tick is
    spoilt only if the wait exceeds the SLO meanwhile. Control more seldom than each tick only makes it worse.
    Raises SchemaError if the number of jumps is not between 0 and the ticks of a day.

    Example:
        >>> bound = jump_bound(Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=5), 2.0)
        >>> bound.bad_ticks, round(bound.most_per_day, 3), bound.reachable
        (6, 0.24, False)
    """
    per_day = SECONDS_PER_DAY / environment.tick_seconds
    if not 0 <= jumps_per_day <= per_day:
        raise SchemaError(f"jump bound: jumps_per_day is {jumps_per_day!r}, it must lie between 0 and {per_day:g}.")
    if jump_ticks is not None and jump_ticks < 1:
        raise SchemaError(f"jump bound: jump_ticks is {jump_ticks}, it must be at least 1.")
    reaction = environment.boot_delay_ticks + 1 + environment.metric_lag_ticks
    bad = reaction if jump_ticks is None else min(jump_ticks, reaction)
    best = (1 - jumps_per_day / per_day) ** bad
    most = (1 - environment.slo_target_frac ** (1 / bad)) * per_day
    return JumpBound(float(jumps_per_day), bad, float(best), environment.slo_target_frac, most)


def jumps_per_day(demand: pd.Series, prepared: np.ndarray, environment: Environment) -> float:
    """Onsets a day at which demand (n_time,) exceeds what a policy could have prepared for.

    prepared: (n_time,), requests per tick: the most that the forecast issued d + 1 + lag ticks earlier would have made
    anyone provide (an upper quantile, or capacity at hand). An onset is a tick above it whose predecessor is not.
    Raises SchemaError if the lengths differ.

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=1440, freq="60s", tz="UTC")
        >>> demand = pd.Series(60.0, index=minutes)
        >>> demand.iloc[[100, 101, 700]] = 200.0
        >>> jumps_per_day(demand, np.full(1440, 120.0), Environment(tick_seconds=60, service_rate_rps=1.0))
        2.0
    """
    onsets, _ = _excesses(demand, prepared)
    return onsets * SECONDS_PER_DAY / (len(demand) * environment.tick_seconds)


def measured_bound(demand: pd.Series, prepared: np.ndarray, environment: Environment) -> JumpBound:
    """`jump_bound` for the jumps found as in `jumps_per_day`, each taken to last as long as they do on average.

    The mean length is rounded down to whole ticks, which is in favour of the policies. Known afterwards only, and of
    the forecaster that `prepared` is from. Raises SchemaError if the lengths differ.

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=1440, freq="60s", tz="UTC")
        >>> demand = pd.Series(60.0, index=minutes)
        >>> demand.iloc[[100, 101, 700]] = 200.0
        >>> bound = measured_bound(demand, np.full(1440, 120.0), Environment(tick_seconds=60, service_rate_rps=1.0))
        >>> bound.jumps_per_day, bound.bad_ticks
        (2.0, 1)
    """
    onsets, ticks = _excesses(demand, prepared)
    lasting = max(1, ticks // max(onsets, 1))
    return jump_bound(environment, jumps_per_day(demand, prepared, environment), jump_ticks=lasting)


def target_measurable(n_ticks: int, target_frac: float) -> bool:
    """Whether `n_ticks` are enough to show a share of good ticks of `target_frac`, in (0, 1).

    With fewer than 1 / (1 - target) ticks one bad tick breaks the target, so that keeping it means no bad tick at all,
    and nothing tells a service that has one bad tick in a thousand from a service that has none. A target of 1 is never
    measurable. Raises SchemaError for a target outside (0, 1].

    Example:
        >>> target_measurable(144, 0.999), target_measurable(1000, 0.999), target_measurable(10, 0.9)
        (False, True, True)
    """
    if not 0 < target_frac <= 1:
        raise SchemaError(f"target: {target_frac} must lie in (0, 1].")
    return n_ticks * (1 - target_frac) >= 1 - HAIR


def _excesses(demand: pd.Series, prepared: np.ndarray) -> tuple[int, int]:
    """Onsets of demand above what was prepared, and ticks above it."""
    if len(prepared) != len(demand):
        raise SchemaError(f"jumps: {len(demand)} ticks of demand, {len(prepared)} prepared.")
    above = demand.to_numpy(float) > np.asarray(prepared, dtype=float) * (1 + 1e-9)
    return int(above[0]) + int((above[1:] & ~above[:-1]).sum()), int(above.sum())
