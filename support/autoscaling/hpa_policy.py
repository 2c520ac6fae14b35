"""The exact Kubernetes autoscaler as a policy of the simulator: servers are pods, ticks are metric windows."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache

from support.autoscaling.environment import Environment
from support.autoscaling.hpa import reconcile
from support.autoscaling.hpa_behavior import HpaState, record_change
from support.autoscaling.hpa_spec import Behavior, Controller, HpaSpec, MetricReading, MetricSpec, Pod, PodMetric
from support.autoscaling.simulate import Observation
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

__all__ = ["KubernetesHPA", "PassMemory", "due", "run_passes"]

CONTAINER = "server"
SERVER_MILLI = 1000  # CPU request of a pod in thousandths; a fully used server uses all of it
FLOAT_SLACK = 1e-9  # a hair of float error does not raise a measured value by one thousandth


@dataclass(frozen=True)
class PassMemory:
    """Controller state between ticks: with the changes asked for, without them, and the totals they were asked from."""

    hpa: HpaState = field(default_factory=HpaState)
    without_changes: HpaState = field(default_factory=HpaState)
    total: int = -1
    expected: int = -1
    at_seconds: float = -math.inf

    def seen(self, total: int, behavior: Behavior | None) -> HpaState:
        """State given the servers there really are: the environment may have refused or cut a change."""
        if total == self.expected or self.total < 0:
            return self.hpa
        return record_change(self.without_changes, behavior, self.total, total, self.at_seconds)


def run_passes(
    spec: HpaSpec, controller: Controller, memory: PassMemory, total: int, pods: Callable[[int], Sequence[Pod]],
    readings: Sequence[MetricReading], now: float, interval_seconds: float,
) -> tuple[int, PassMemory, str]:  # fmt: skip
    """(servers wanted, memory, reason): the passes until the policy acts again, or until one changes nothing.

    An interval longer than the sync period holds several passes on the same readings, but no more once servers go: what
    the larger fleet was measured at says nothing of the smaller one. pods: those there are at a total.
    """
    state, wanted, reason = memory.seen(total, spec.behavior), total, ""
    first = state
    for number in range(max(1, int(interval_seconds // controller.sync_period_seconds))):
        at = now + number * controller.sync_period_seconds
        result = reconcile(spec, wanted, wanted, pods(wanted), readings, state=state, controller=controller, now=at)
        state, reason = result.state, reason or result.reason
        if not result.rescale:
            break
        fewer = result.desired_replicas < wanted
        wanted, reason = result.desired_replicas, result.reason
        if fewer:
            break
    plain = replace(state, scale_up_events=first.scale_up_events, scale_down_events=first.scale_down_events)
    return wanted, PassMemory(state, plain, total, wanted, now), reason


def due(last_seconds: float, now: float, period_seconds: float) -> bool:
    """Whether something that runs every `period_seconds` and ran last at `last_seconds` runs now."""
    return now - last_seconds >= period_seconds - FLOAT_SLACK


@dataclass(frozen=True)
class _Memory:
    world: Environment
    spec: HpaSpec
    passes: PassMemory = field(default_factory=PassMemory)
    cohorts: tuple[tuple[float, int], ...] = ()  # (ready since, servers), oldest first


@dataclass(frozen=True)
class KubernetesHPA:
    """The Horizontal Pod Autoscaler with all its rules; each decision carries the pass in words.

    target_percent: CPU target, percent of a server's capacity. behavior: rate limits and windows (None: the older
    rules). spec: a whole specification instead, whose metrics read: Resource and ContainerResource (container `server`)
    the share of a server in use, Pods the requests per second completed per server, Object the requests per second that
    arrive, External the requests that wait. controller: flags of the controller manager.
    A booting server is a Pending pod; a new one is started and ready the tick before the policy first sees it, and the
    youngest go first. Between two sync periods the policy holds. Source: hpa.reconcile.
    """

    target_percent: int = 70
    behavior: Behavior | None = None
    spec: HpaSpec | None = None
    controller: Controller = field(default_factory=Controller)
    name: str = "kubernetes hpa"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> _Memory:
        """State before the first tick; without `spec` the bounds are the environment's, at least one server."""
        if not 0 < self.target_percent <= 100:
            raise SchemaError(f"{self.name}: target_percent is {self.target_percent}, it must lie in (0, 100].")
        if self.spec is not None and self.behavior is not None:
            raise SchemaError(f"{self.name}: give behavior inside spec, not beside it.")
        cpu = MetricSpec("Resource", "cpu", average_utilization=self.target_percent)
        low, high = max(environment.min_servers, 1), max(environment.max_servers, 1)
        return _Memory(environment, self.spec or HpaSpec(high, (cpu,), low, self.behavior))

    def act(self, state: _Memory, seen: Observation) -> tuple[_Memory, int, str]:
        """One tick: what the metrics API shows, then the passes of the controller."""
        world, now = state.world, seen.tick * state.world.tick_seconds
        total = seen.active + seen.booting
        if total == 0 < state.spec.min_replicas:  # nobody set it to zero to switch scaling off
            return state, state.spec.min_replicas, "below the minimum"
        cohorts = _aged(state.cohorts, seen.active, now - world.tick_seconds)
        state = replace(state, cohorts=cohorts)
        if not due(state.passes.at_seconds, now, self.controller.sync_period_seconds):
            return state, total, "between two syncs"
        readings = [_read(metric, world, seen) for metric in state.spec.metrics]

        def pods(wanted: int) -> list[Pod]:
            return _pods(cohorts, min(seen.active, wanted), wanted, now, self.controller)

        wanted, passes, reason = run_passes(
            state.spec,
            self.controller,
            state.passes,
            total,
            pods,
            readings,
            now,
            world.tick_seconds * world.control_every_ticks,
        )
        if seen.booting:
            reason += f"; {seen.booting} of them still boot and count as idle"
        return replace(state, passes=passes), wanted, reason


def _aged(cohorts: tuple[tuple[float, int], ...], active: int, ready_since: float) -> tuple[tuple[float, int], ...]:
    """Cohorts after a tick: new servers make one, lost ones leave the youngest."""
    if not cohorts:
        return ((-math.inf, active),)
    change = active - sum(count for _, count in cohorts)
    if change > 0:
        return (*cohorts, (ready_since, change))
    kept = list(cohorts)
    while change < 0 and kept:
        since, count = kept.pop()
        if count + change > 0:
            kept.append((since, count + change))
        change = min(change + count, 0)
    return tuple(kept) or ((ready_since, 0),)


def _pods(
    cohorts: tuple[tuple[float, int], ...], active: int, total: int, now: float, controller: Controller
) -> list[Pod]:
    """`active` running pods, oldest first, and pending ones up to `total`."""
    pods: list[Pod] = []
    for since, count in cohorts:
        age, names = now - since, range(len(pods), min(len(pods) + count, active))
        if age >= controller.cpu_initialization_period_seconds:  # from here on its age does not matter
            pods.extend(_settled(number) for number in names)
        else:
            pods.extend(replace(_settled(k), start_age_seconds=age, ready_transition_age_seconds=age) for k in names)
    return pods + [_pending(number) for number in range(len(pods), total)]


def _read(metric: MetricSpec, world: Environment, seen: Observation) -> MetricReading:
    """What the metrics API answers about `metric`: the newest tick that the policy may know."""
    if not len(seen.arrivals):
        return MetricReading(error="no data yet")
    if metric.type == "Object":
        return MetricReading(values_milli=(_milli(seen.arrivals[-1] / world.tick_seconds),))
    if metric.type == "External":
        return MetricReading(values_milli=(_milli(seen.queue[-1]),))
    measured = int(seen.servers[-1])
    if metric.type != "Pods" and metric.name != "cpu":
        return MetricReading(error=f"the simulator knows no resource {metric.name}, use cpu")
    rate = seen.served[-1] / (max(measured, 1) * world.tick_seconds)
    value = _milli(rate if metric.type == "Pods" else seen.utilization[-1])
    age, window = world.metric_lag_ticks * world.tick_seconds, world.tick_seconds
    container = metric.container if metric.type == "ContainerResource" else None
    here = range(min(measured, seen.active))
    return MetricReading(tuple(_measured(number, value, container, age, window) for number in here))


def _measured(number: int, value: int, container: str | None, age: float, window: float) -> PodMetric:
    if container is None:
        return PodMetric(f"pod-{number}", value, None, age, window)
    return PodMetric(f"pod-{number}", None, {container: value}, age, window)


@lru_cache(maxsize=4096)
def _settled(number: int) -> Pod:
    return Pod(f"pod-{number}", container_requests_milli={CONTAINER: SERVER_MILLI})


@lru_cache(maxsize=4096)
def _pending(number: int) -> Pod:
    return Pod(f"pod-{number}", "Pending", None, None, None, False, {CONTAINER: SERVER_MILLI})


def _milli(value: float) -> int:
    """Thousandths, rounded up as the API does."""
    return math.ceil(value * 1000 - FLOAT_SLACK)
