"""How the Kubernetes autoscaler holds changes back: stabilisation windows, rate limits, scale events."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from support.autoscaling.hpa_metrics import INT32_MAX
from support.autoscaling.hpa_spec import Behavior, Controller, ScalingRules
from support.errors import SchemaError

__all__ = [
    "HpaState",
    "Recommendation",
    "ScaleEvent",
    "change_in_period",
    "limit_with_behavior",
    "limit_without_behavior",
    "record_change",
    "scale_limit",
    "stabilize_with_behavior",
    "stabilize_without_behavior",
    "store_scale_event",
]

_T = TypeVar("_T")
INT32_MIN = -(2**31)
WITHIN_RANGE = "DesiredWithinRange"


@dataclass(frozen=True)
class Recommendation:
    """An unstabilised recommendation, made `at_seconds`."""

    replicas: int
    at_seconds: float


@dataclass(frozen=True)
class ScaleEvent:
    """A change by `replica_change` pods (not negative) `at_seconds`; `outdated` ones are overwritten by the next."""

    replica_change: int
    at_seconds: float
    outdated: bool = False


@dataclass(frozen=True)
class HpaState:
    """What the controller remembers between passes; `recommendations` is None before the first.

    scaled_to_zero: the ScaledToZero condition of the newest releases; None: a release without it.
    """

    recommendations: tuple[Recommendation, ...] | None = None
    scale_up_events: tuple[ScaleEvent, ...] = ()
    scale_down_events: tuple[ScaleEvent, ...] = ()
    scaled_to_zero: bool | None = None


def limit_without_behavior(
    current: int, desired: int, min_replicas: int, max_replicas: int, controller: Controller
) -> tuple[int, str]:
    """(pods, reason) within the bounds and below the older limit, max(factor * current, minimum).

    Example:
        >>> limit_without_behavior(3, 1000, 1, 2000, Controller())
        (6, 'ScaleUpLimit')
    """
    limit = int(max(controller.scale_up_limit_factor * float(current), controller.scale_up_limit_minimum))
    most, reason = (limit, "ScaleUpLimit") if max_replicas > limit else (max_replicas, "TooManyReplicas")
    if desired < min_replicas:
        return min_replicas, "TooFewReplicas"
    return (most, reason) if desired > most else (desired, WITHIN_RANGE)


def stabilize_without_behavior(
    log: Sequence[Recommendation], desired: int, window_seconds: float, now: float
) -> tuple[int, tuple[Recommendation, ...]]:
    """(largest recommendation not older than the window, log with `desired` in place of its last older entry)."""
    old = [now - item.at_seconds > window_seconds for item in log]
    recent = [item.replicas for item, is_old in zip(log, old, strict=True) if not is_old]
    return max([desired, *recent]), _overwrite(log, old, Recommendation(desired, now))


def stabilize_with_behavior(
    log: Sequence[Recommendation], current: int, desired: int, up_window: float, down_window: float, now: float
) -> tuple[int, tuple[Recommendation, ...]]:
    """(`current` moved only as far as every recommendation of the windows agrees, log with `desired`).

    up_window, down_window: seconds; younger recommendations count. Up goes to the least of them, down to the largest.

    Example:
        >>> stabilize_with_behavior([Recommendation(5, -60)], 100, 3, 0, 180, 0)[0]
        5
    """
    ages = [now - item.at_seconds for item in log]
    up = min([desired, *(item.replicas for item, age in zip(log, ages, strict=True) if age < up_window)])
    down = max([desired, *(item.replicas for item, age in zip(log, ages, strict=True) if age < down_window)])
    old = [age > up_window and age > down_window for age in ages]
    return min(max(current, up), down), _overwrite(log, old, Recommendation(desired, now))


def change_in_period(events: Sequence[ScaleEvent], period_seconds: float, now: float) -> int:
    """Pods changed by the events younger than the period; one exactly as old as it does not count.

    Example:
        >>> change_in_period([ScaleEvent(3, -60), ScaleEvent(2, -59)], 60, 0)
        2
    """
    return sum(event.replica_change for event in events if now - event.at_seconds < period_seconds)


def scale_limit(
    direction: str, current: int, rules: ScalingRules, up: Sequence[ScaleEvent], down: Sequence[ScaleEvent], now: float
) -> int:
    """Pods that the policies allow in `direction` (`up` or `down`), from the pods at the start of each period.

    up, down: past changes; both count. Up rounds a percentage up, down truncates.
    """
    if direction not in ("up", "down"):
        raise SchemaError(f"scale_limit: direction {direction!r} must be up or down.")
    if rules.select_policy == "Disabled":
        return current
    sign = 1 if direction == "up" else -1
    highest = (rules.select_policy == "Min") == (sign < 0)
    limit = INT32_MIN if highest else INT32_MAX
    for policy in rules.policies or ():
        period = policy.period_seconds
        start = current - change_in_period(up, period, now) + change_in_period(down, period, now)
        if policy.type == "Pods":
            proposed = start + sign * policy.value
        else:
            exact = float(start) * (1.0 + sign * (float(policy.value) / 100.0))
            proposed = math.ceil(exact) if sign > 0 else int(exact)
        limit = max(limit, proposed) if highest else min(limit, proposed)
    return limit


def limit_with_behavior(
    current: int, desired: int, min_replicas: int, max_replicas: int, behavior: Behavior, state: HpaState,
    controller: Controller, now: float,
) -> tuple[int, str]:  # fmt: skip
    """(pods, reason) within the bounds and the rate limits of `behavior`."""
    rules = behavior.completed(controller.downscale_stabilization_seconds)
    up, down = state.scale_up_events, state.scale_down_events
    if desired > current:
        limit = max(scale_limit("up", current, rules.scale_up, up, down, now), current)
        most, reason = (limit, "ScaleUpLimit") if max_replicas > limit else (max_replicas, "TooManyReplicas")
        if desired > most:
            return most, reason
    elif desired < current:
        limit = min(scale_limit("down", current, rules.scale_down, up, down, now), current)
        least, reason = (limit, "ScaleDownLimit") if min_replicas < limit else (min_replicas, "TooFewReplicas")
        if desired < least:
            return least, reason
    return desired, WITHIN_RANGE


def store_scale_event(
    events: Sequence[ScaleEvent], replica_change: int, rules: ScalingRules, now: float
) -> tuple[ScaleEvent, ...]:
    """Events with those older than the longest period marked outdated, the last of which the new one overwrites."""
    longest = max((policy.period_seconds for policy in rules.policies or ()), default=0)
    marked = [replace(e, outdated=e.outdated or now - e.at_seconds > longest) for e in events]
    return _overwrite(marked, [event.outdated for event in marked], ScaleEvent(replica_change, now))


def record_change(state: HpaState, behavior: Behavior | None, before: int, after: int, now: float) -> HpaState:
    """State after a change from `before` to `after` pods; without `behavior` events are not used and not kept."""
    if behavior is None or before == after:
        return state
    rules = behavior.completed(0)
    if after > before:
        return replace(
            state, scale_up_events=store_scale_event(state.scale_up_events, after - before, rules.scale_up, now)
        )
    return replace(
        state, scale_down_events=store_scale_event(state.scale_down_events, before - after, rules.scale_down, now)
    )


def _overwrite(log: Sequence[_T], old: Sequence[bool], item: _T) -> tuple[_T, ...]:
    """`log` with `item` in place of its last old entry, or at its end."""
    places = [i for i, is_old in enumerate(old) if is_old]
    if not places:
        return (*log, item)
    return (*log[: places[-1]], item, *log[places[-1] + 1 :])
