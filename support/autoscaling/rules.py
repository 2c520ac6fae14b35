"""Rules of thumb: a plan given as numbers, thresholds with steps or pauses, and the step and target rules of AWS."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from support.autoscaling.environment import Environment
from support.autoscaling.policies import HAIR
from support.autoscaling.simulate import Observation, Policy
from support.errors import SchemaError
from support.forecasting import RollingQuantiles
from support.writing import plural

__all__ = ["LargestOf", "PausedThresholds", "Plan", "StepScaling", "TargetTracking", "Thresholds", "step_change"]

UNITS = ("percent", "servers")


@dataclass(frozen=True, eq=False)
class Plan:
    """A schedule: `wanted` servers at each tick, (n_time,) whole numbers made before the run."""

    wanted: np.ndarray
    name: str = "plan"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> None:
        """Nothing to remember."""

    def act(self, state: None, seen: Observation) -> tuple[None, int, str]:
        """The number planned for this tick."""
        return None, int(self.wanted[seen.row]), "planned"


@dataclass(frozen=True)
class Thresholds:
    """`step_up` servers more above utilisation `high` (fraction), `step_down` fewer below `low`.

    Source: the reactive rule of a published log-driven autoscaler, 0.75 and 0.30 with steps of one.
    """

    high: float = 0.75
    low: float = 0.30
    step_up: int = 1
    step_down: int = 1
    name: str = "thresholds"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> None:
        """Nothing to remember; refuses thresholds in the wrong order."""
        if not 0 <= self.low < self.high <= 1:
            raise SchemaError(f"thresholds: low {self.low} and high {self.high} must satisfy 0 <= low < high <= 1.")

    def act(self, state: None, seen: Observation) -> tuple[None, int, str]:
        """One step from the present total, or none."""
        total = seen.active + seen.booting
        if not len(seen.utilization):
            return None, total, "no data yet"
        used = float(seen.utilization[-1])
        if used > self.high:
            return None, total + self.step_up, f"utilisation {100 * used:.0f} % is above {100 * self.high:.0f} %"
        if used < self.low:
            return None, total - self.step_down, f"utilisation {100 * used:.0f} % is below {100 * self.low:.0f} %"
        return None, total, "utilisation between the thresholds"


@dataclass(frozen=True)
class _Pauses:
    """Ticks of pause before a change out and in, the total last seen, when it was asked about, and when it changed."""

    out_ticks: int
    in_ticks: int
    total: int | None = None
    asked_at: int = 0
    changed_at: int | None = None


@dataclass(frozen=True)
class PausedThresholds:
    """One server more above utilisation `high` (fraction), one fewer below `low`, each after a pause of its own.

    out_pause_seconds, in_pause_seconds: least time from the last change of the fleet, whichever way, to one out or in.
    Source: the CPU rule of a published monitoring dashboard (80 %, 20 %, 300 s, 600 s); its second threshold, 85 % of
    memory, has no counterpart here.
    """

    high: float = 0.80
    low: float = 0.20
    out_pause_seconds: float = 300.0
    in_pause_seconds: float = 600.0
    name: str = "thresholds 80/20"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> _Pauses:
        """The pauses in ticks; refuses thresholds in the wrong order and pauses below zero."""
        if not 0 <= self.low < self.high <= 1 or min(self.out_pause_seconds, self.in_pause_seconds) < 0:
            raise SchemaError(
                f"{self.name}: low {self.low} and high {self.high} must satisfy 0 <= low < high <= 1, pauses be 0 or more."
            )
        pauses = (self.out_pause_seconds, self.in_pause_seconds)
        return _Pauses(*(math.ceil(seconds / environment.tick_seconds - HAIR) for seconds in pauses))

    def act(self, state: _Pauses, seen: Observation) -> tuple[_Pauses, int, str]:
        """One step from the present total, or none."""
        total = seen.active + seen.booting
        changed_at = state.asked_at if state.total not in (None, total) else state.changed_at
        state = replace(state, total=total, asked_at=seen.tick, changed_at=changed_at)
        if not len(seen.utilization):
            return state, total, "no data yet"
        used = float(seen.utilization[-1])
        if self.low <= used <= self.high:
            return state, total, "utilisation between the thresholds"
        step, pause = (1, state.out_ticks) if used > self.high else (-1, state.in_ticks)
        side = f"above {100 * self.high:.0f} %" if step > 0 else f"below {100 * self.low:.0f} %"
        if changed_at is not None and seen.tick - changed_at < pause:
            return (
                state,
                total,
                f"utilisation {100 * used:.0f} % is {side}, but the fleet changed {plural(seen.tick - changed_at, 'tick')} ago",
            )
        return state, total + step, f"utilisation {100 * used:.0f} % is {side}"


@dataclass(frozen=True)
class LargestOf:
    """Several `policies` at once: of those that ask for a change the one that leaves most servers counts.

    A policy that asks for no change blocks nobody, so that one may go in before another is ready to; but of those that
    track a target all must be ready to go in before one does. Source: Amazon EC2
    and Application Auto Scaling user guides, multiple scaling policies in force at the same time.
    """

    policies: tuple[Policy, ...]
    name: str = "largest of several"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> tuple[Any, ...]:
        """What each of them prepares; refuses to be of none."""
        if not self.policies:
            raise SchemaError(f"{self.name}: give at least one policy.")
        return tuple(policy.prepare(environment, forecast) for policy in self.policies)

    def act(self, state: tuple[Any, ...], seen: Observation) -> tuple[tuple[Any, ...], int, str]:
        """The largest of the changes asked for, in the words of who asked."""
        total = seen.active + seen.booting
        answers = [policy.act(own, seen) for policy, own in zip(self.policies, state, strict=True)]
        after = tuple(answer[0] for answer in answers)
        tracking = [isinstance(policy, TargetTracking) for policy in self.policies]
        waits = any(answer[1] >= total for answer, tracks in zip(answers, tracking, strict=True) if tracks)
        asking = [
            (answer[1], -i)
            for i, answer in enumerate(answers)
            if answer[1] != total and not (waits and tracking[i] and answer[1] < total)
        ]
        if not asking:
            return after, total, "; ".join(f"{p.name}: {a[2]}" for p, a in zip(self.policies, answers, strict=True))
        desired, order = max(asking)
        return after, desired, f"{self.policies[-order].name}: {answers[-order][2]}"


@dataclass(frozen=True)
class StepScaling:
    """AWS step scaling: the further the utilisation is beyond its threshold, the larger the change.

    high, low: thresholds (fractions) of two alarms, on after `out_points` ticks at or above `high`, `in_points` at or
    below `low`. out_steps, in_steps: (bound, change) pairs, bounds in fractions beyond the threshold, 0 first; the
    furthest one that the newest tick reaches counts. change: in `unit`, percent of the servers or servers.
    min_change: least change of a percentage, servers. Servers that boot are warming up: for going out they are no part
    of the present servers, only of those asked for, so that the same step is not taken twice; while any boots nothing
    goes in. Those that drain count as present when going in. Defaults: the worked example of the source, and the two
    datapoints of its alarms (two minutes each). Source: Amazon EC2 Auto Scaling user guide, step and simple scaling policies.
    """

    high: float = 0.6
    low: float = 0.4
    out_steps: tuple[tuple[float, float], ...] = ((0.0, 10.0), (0.1, 30.0))
    in_steps: tuple[tuple[float, float], ...] = ((0.0, -10.0), (-0.1, -30.0))
    unit: str = "percent"
    min_change: int = 1
    out_points: int = 2
    in_points: int = 2
    name: str = "step scaling"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> None:
        """Nothing to remember; refuses thresholds, steps, units and alarms that do not fit together."""
        if not (0 <= self.low <= self.high <= 1 and min(self.out_points, self.in_points) >= 1):
            raise SchemaError(
                f"step scaling: 0 <= low {self.low} <= high {self.high} <= 1 must hold and alarms need at least one point."
            )
        if self.unit not in UNITS or self.min_change < 0:
            raise SchemaError(f"step scaling: unit {self.unit!r} must be one of {UNITS}, min_change at least 0.")
        for name, steps, way in (("out_steps", self.out_steps, 1), ("in_steps", self.in_steps, -1)):
            bounds, changes = [way * bound for bound, _ in steps], [way * change for _, change in steps]
            whole = self.unit == "percent" or all(change == int(change) for change in changes)
            if not bounds or bounds[0] != 0 or bounds != sorted(set(bounds)) or min(changes) < 0 or not whole:
                raise SchemaError(
                    f"step scaling: {name} {steps} must begin at 0, move away from it, and change the fleet in the "
                    "same direction, by whole servers if the unit is servers."
                )

    def act(self, state: None, seen: Observation) -> tuple[None, int, str]:
        """The change of the step reached, while an alarm is on."""
        total, used = seen.active + seen.booting, seen.utilization
        if _alarm(used[-self.out_points :] >= self.high - HAIR, self.out_points):
            newest, present = float(used[-1]), seen.active
            step = [change for bound, change in self.out_steps if newest >= self.high + bound - HAIR][-1]
            wanted = max(total, present + step_change(step, present, unit=self.unit, least=self.min_change))
        elif not _alarm(used[-self.in_points :] <= self.low + HAIR, self.in_points):
            return None, total, "no alarm"
        elif seen.booting:
            return None, total, f"{plural(seen.booting, 'server')} yet to boot, so none is stopped"
        else:
            newest, present = float(used[-1]), seen.active + seen.draining
            step = [change for bound, change in self.in_steps if newest <= self.low + bound + HAIR][-1]
            wanted = min(total, present + step_change(step, present, unit=self.unit, least=self.min_change))
        size = f"{step:+g} {'% of' if self.unit == 'percent' else 'on'} {plural(present, 'server')}"
        return None, wanted, f"utilisation {100 * newest:.0f} %: {size}"


@dataclass(frozen=True)
class TargetTracking:
    """Keep the utilisation near `target` (fraction): out after `out_points` ticks above it, in after `in_points` below.

    Below means under `in_share` of the target. Out: servers * utilisation / target, never fewer than there are, and at least one, so that it wakes from zero; in: the
    same ratio, never more, and only while no server boots. Both round up: rather one too many added, one too few
    removed. Source: Amazon EC2 Auto Scaling user guide, target tracking; the alarms it makes have 3 one-minute
    datapoints out and 15 in, and a lower threshold of 0.9 of the target for containers, 0.7 for groups of instances.
    """

    target: float = 0.7
    out_points: int = 3
    in_points: int = 15
    in_share: float = 0.9
    name: str = "target tracking"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> None:
        """Nothing to remember; refuses a target outside (0, 1] and alarms of no length."""
        if not (0 < self.target <= 1 and min(self.out_points, self.in_points) >= 1):
            raise SchemaError(
                f"target tracking: target {self.target} must lie in (0, 1] and alarms need at least one point."
            )

    def act(self, state: None, seen: Observation) -> tuple[None, int, str]:
        """The ratio rule while an alarm is on."""
        total, used = seen.active + seen.booting, seen.utilization
        above = _alarm(used[-self.out_points :] > self.target, self.out_points)
        below = _alarm(used[-self.in_points :] < self.in_share * self.target, self.in_points)
        if not (above or below):
            return None, total, "no alarm"
        ratio = math.ceil(int(seen.servers[-1]) * float(used[-1]) / self.target - HAIR)
        if above:
            return None, max(total, ratio, 1), f"{plural(self.out_points, 'tick')} above {100 * self.target:.0f} %"
        reason = f"{plural(self.in_points, 'tick')} below {100 * self.in_share * self.target:.0f} %"
        if seen.booting:
            return None, total, f"{reason}, but {plural(seen.booting, 'server')} yet to boot"
        return None, min(total, ratio), reason


def step_change(change: float, present: int, *, unit: str = "percent", least: int = 1) -> int:
    """Servers more (positive) or fewer that a step adjustment means for `present` servers.

    A percentage that is no whole number of servers is rounded towards zero, but away from it inside (-1, 1), and is
    `least` servers or more. Source: Amazon EC2 Auto Scaling user guide, scaling adjustment types.

    Example:
        >>> [step_change(c, 100) for c in (12.7, 0.67, -0.58, -6.67)], step_change(25, 4, least=2)
        ([12, 1, -1, -6], 2)
    """
    if unit == "servers" or change == 0:
        return int(change)
    exact = abs(change) * present / 100
    return int(math.copysign(max(math.floor(exact + HAIR), least, exact > 0), change))


def _alarm(breaches: np.ndarray, points: int) -> bool:
    """Whether each of the newest `points` ticks breaches; missing data are no breach."""
    return len(breaches) == points and bool(breaches.all())
