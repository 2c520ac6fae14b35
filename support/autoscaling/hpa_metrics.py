"""The replica calculator of the Kubernetes autoscaler: from one metric to a number of pods, in its own arithmetic."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from support.autoscaling.hpa_spec import (
    LONG_AGO_SECONDS,
    Controller,
    MetricReading,
    MetricSpec,
    Pod,
    PodMetric,
    Tolerances,
)
from support.errors import SourceError

__all__ = [
    "MetricProposal",
    "PodGroups",
    "group_pods",
    "propose_replicas",
    "resource_utilization_ratio",
    "usage_ratio",
]

INT32_MAX = 2**31 - 1
INT64_MAX = 2**63 - 1


@dataclass(frozen=True)
class PodGroups:
    """Pods by what their metric is good for: `ready` counts, the others are names."""

    ready: int
    unready: frozenset[str]
    missing: frozenset[str]
    ignored: frozenset[str]


@dataclass(frozen=True)
class MetricProposal:
    """Pods that one metric asks for.

    utilization: percent of the request, truncated (resource metrics only). usage_milli: average per pod, or the value.
    """

    replicas: int
    usage_milli: int
    utilization: int | None = None
    description: str = ""


def group_pods(
    pods: Sequence[Pod], metrics: Mapping[str, PodMetric], resource: str, controller: Controller
) -> PodGroups:
    """Sort pods into ready, unready, missing (no metric) and ignored (deleted or finished).

    For CPU a pod is unready without Ready condition or start time; in its initialisation period while not ready or
    until a whole window was measured since it became ready; afterwards if it never was ready.
    """
    ready, unready, missing, ignored = 0, set(), set(), set()
    for pod in pods:
        if pod.deleted or pod.phase in ("Failed", "Succeeded"):
            ignored.add(pod.name)
        elif pod.phase == "Pending":
            unready.add(pod.name)
        elif pod.name not in metrics:
            missing.add(pod.name)
        elif resource == "cpu" and _cpu_unready(pod, metrics[pod.name], controller):
            unready.add(pod.name)
        else:
            ready += 1
    return PodGroups(ready, frozenset(unready), frozenset(missing), frozenset(ignored))


def resource_utilization_ratio(
    metrics: Mapping[str, int], requests: Mapping[str, int], target_percent: int
) -> tuple[float, int, int]:
    """(utilisation over target, utilisation in percent, average per pod), over the pods that have a request.

    Percent and average are truncated to integers first, and the ratio is taken of the truncated percent. Raises
    SourceError if no metric belongs to a pod with a request.

    Example:
        >>> resource_utilization_ratio({"a": 50, "b": 76}, {"a": 100, "b": 100}, 50)
        (1.26, 63, 63)
    """
    known = [name for name in metrics if name in requests]
    total, requested = sum(metrics[name] for name in known), sum(requests[name] for name in known)
    if requested == 0:
        raise SourceError("no metrics returned matched known pods")
    utilization = _quotient(total * 100, requested)
    return float(utilization) / float(target_percent), utilization, _quotient(total, len(known))


def usage_ratio(metrics: Mapping[str, int], target_milli: int) -> tuple[float, int]:
    """(average over target, average per measured pod truncated to an integer).

    Example:
        >>> usage_ratio({"a": 5000, "b": 10000}, 10000)
        (0.75, 7500)
    """
    usage = _quotient(sum(metrics.values()), len(metrics))
    return float(usage) / float(target_milli), usage


def propose_replicas(
    metric: MetricSpec, reading: MetricReading, pods: Sequence[Pod], spec_replicas: int, status_replicas: int,
    tolerances: Tolerances, controller: Controller,
) -> MetricProposal:  # fmt: skip
    """Pods that `metric` asks for, given its `reading`; its value for the status beside.

    spec_replicas: what is asked for now; status_replicas: what runs. Raises SourceError, in the controller's words, if
    the metric cannot be used. Source: kubernetes/kubernetes pkg/controller/podautoscaler/replica_calculator.go.
    """
    if metric.type in ("Resource", "ContainerResource"):
        container = metric.container if metric.type == "ContainerResource" else None
        measured = _measured(reading, f"metrics for resource {metric.name}", "resource", container)
        kind = "container resource" if container else "resource"
        if metric.average_value_milli is None and metric.average_utilization is None:
            raise SourceError(
                "invalid resource metric source: neither an average utilization target nor an average value (usage) "
                "target was set"
            )
        counted = _Counted(measured, pods, metric.name, controller, spec_replicas, tolerances)
        if metric.average_value_milli is not None:
            return counted.plain(metric.average_value_milli, f"{metric.name} resource")
        name = f"{metric.name} {kind} utilization (percentage of request)"
        return counted.utilization(metric.average_utilization or 0, container, name)
    if metric.type == "Pods":
        measured = _measured(reading, f"metric {metric.name}", "custom")
        if metric.average_value_milli is None:
            raise SourceError("invalid pods metric source: no average value target was set")
        counted = _Counted(measured, pods, "", controller, spec_replicas, tolerances)
        return counted.plain(metric.average_value_milli, f"pods metric {metric.name}")
    if metric.type in ("Object", "External"):
        return _propose_value(metric, reading, pods, spec_replicas, status_replicas, tolerances)
    raise SourceError(f'unknown metric source type "{metric.type}"')


class _Counted:
    """A per-pod metric with its pods sorted; both kinds of target share the rule for missing and unready pods."""

    def __init__(
        self, measured: dict[str, PodMetric], pods: Sequence[Pod], resource: str, controller: Controller, current: int,
        tolerances: Tolerances,
    ) -> None:  # fmt: skip
        if not pods:
            raise SourceError("no pods returned by selector while calculating replica count")
        self.groups = group_pods(pods, measured, resource, controller)
        without = self.groups.ignored | self.groups.unready
        self.values = {name: item.value_milli or 0 for name, item in measured.items() if name not in without}
        if not self.values:
            raise SourceError("did not receive metrics for targeted pods (pods might be unready)")
        self.pods, self.resource, self.current, self.tolerances = pods, resource, current, tolerances

    def utilization(self, target: int, container: str | None, name: str) -> MetricProposal:
        """Against a target in percent of the request."""
        requests = _requests(self.pods, container, self.resource)
        ratio, percent, average = resource_utilization_ratio(self.values, requests, target)
        fallback = {pod: _quotient(requests[pod] * max(100, target), 100) for pod in self.groups.missing}
        replicas = self._replicas(ratio, fallback, lambda v: resource_utilization_ratio(v, requests, target)[0])
        return MetricProposal(replicas, average, percent, name)

    def plain(self, target_milli: int, name: str) -> MetricProposal:
        """Against a target average per pod."""
        ratio, usage = usage_ratio(self.values, target_milli)
        fallback = dict.fromkeys(self.groups.missing, target_milli)
        replicas = self._replicas(ratio, fallback, lambda v: usage_ratio(v, target_milli)[0])
        return MetricProposal(replicas, usage, None, name)

    def _replicas(self, ratio: float, fallback: Mapping[str, int], again: Callable[[dict[str, int]], float]) -> int:
        """Missing pods count as at the target when going down and as idle when going up; unready ones as idle."""
        unready_count = bool(self.groups.unready) and ratio > 1.0
        if not unready_count and not self.groups.missing:
            return self.current if self.tolerances.within(ratio) else _ceil32(ratio * float(self.groups.ready))
        values = dict(self.values)
        if ratio < 1.0:
            values.update(fallback)
        elif ratio > 1.0:
            values.update(dict.fromkeys(self.groups.missing, 0))
        if unready_count:
            values.update(dict.fromkeys(self.groups.unready, 0))
        new = again(values)
        if self.tolerances.within(new) or (ratio < 1.0 < new) or (new < 1.0 < ratio):
            return self.current
        replicas = _ceil32(new * float(len(values)))
        turned = (new < 1.0 and replicas > self.current) or (new > 1.0 and replicas < self.current)
        return self.current if turned else replicas


def _propose_value(
    metric: MetricSpec, reading: MetricReading, pods: Sequence[Pod], spec_replicas: int, status_replicas: int,
    tolerances: Tolerances,
) -> MetricProposal:  # fmt: skip
    """Object and External: a total against a value (times the ready pods), or against an average per pod."""
    external = metric.type == "External"
    api = "external" if external else "custom"
    if metric.value_milli is None and metric.average_value_milli is None:
        raise SourceError(
            f"invalid {metric.type.lower()} metric source: neither a value target nor an average value target was set"
        )
    name = f"{metric.type.lower()} metric {metric.name}"
    if reading.error is not None:
        raise SourceError(f"unable to get {name}: {reading.error}")
    if not reading.values_milli:
        raise SourceError(f"unable to get {name}: no metrics returned from {api} metrics API")
    usage = min(sum(reading.values_milli), INT64_MAX) if external else reading.values_milli[0]
    average_first = metric.average_value_milli is not None and (external or metric.value_milli is None)
    if not average_first and metric.value_milli is not None:
        ratio = float(usage) / float(metric.value_milli)
        return MetricProposal(_from_ratio(ratio, pods, spec_replicas, tolerances), usage, None, name)
    target = metric.average_value_milli or 0
    replicas = status_replicas
    if not tolerances.within(_divide(float(usage), float(target) * float(status_replicas))):
        replicas = _ceil32(float(usage) / float(target))
    return MetricProposal(replicas, _per_pod(usage, status_replicas), None, name)


def _from_ratio(ratio: float, pods: Sequence[Pod], current: int, tolerances: Tolerances) -> int:
    """Ready running pods times the ratio; from zero pods the ratio itself, without tolerance."""
    if current == 0:
        return _ceil32(ratio)
    if tolerances.within(ratio):
        return current
    if not pods:
        raise SourceError(
            "unable to calculate ready pods: no pods returned by selector while calculating replica count"
        )
    return _ceil32(ratio * float(sum(pod.phase == "Running" and pod.ready is True for pod in pods)))


def _measured(reading: MetricReading, what: str, api: str, container: str | None = None) -> dict[str, PodMetric]:
    """Per-pod readings that have a value, by pod."""
    if reading.error is not None or not reading.pod_metrics:
        raise SourceError(f"unable to get {what}: {reading.error or f'no metrics returned from {api} metrics API'}")
    found = {}
    for item in reading.pod_metrics:
        if container is not None and item.containers_milli is not None and container not in item.containers_milli:
            raise SourceError(
                f"unable to get {what}: failed to get container metrics: container {container} not present in metrics for pod {item.pod}"
            )
        value = item.value(container)
        if value is not None:
            found[item.pod] = item if item.value_milli == value else replace(item, value_milli=value)
    return found


def _requests(pods: Sequence[Pod], container: str | None, resource: str) -> dict[str, int]:
    """Request of each pod, or of one of its containers, in thousandths; every pod must have one, ignored ones too."""
    requests = {}
    for pod in pods:
        parts = pod.container_requests_milli
        if not parts or None in (parts.values() if container is None else [parts.get(container, 0)]):
            raise SourceError(f"missing request for {resource} in container {container or '?'} of Pod {pod.name}")
        if container is not None and container not in parts:
            raise SourceError(f"container {container} not found in Pod {pod.name}")
        requests[pod.name] = sum(parts[name] or 0 for name in parts if container in (None, name))
    return requests


def _cpu_unready(pod: Pod, metric: PodMetric, controller: Controller) -> bool:
    if pod.ready is None or pod.start_age_seconds is None:
        return True
    changed = LONG_AGO_SECONDS if pod.ready_transition_age_seconds is None else pod.ready_transition_age_seconds
    if pod.start_age_seconds < controller.cpu_initialization_period_seconds:
        return not pod.ready or changed < metric.age_seconds + metric.window_seconds
    # never ready: the last transition came within the readiness delay after the start
    return not pod.ready and pod.start_age_seconds - controller.initial_readiness_delay_seconds < changed


def _quotient(numerator: int, denominator: int) -> int:
    """Integer division as in Go: towards zero."""
    size = abs(numerator) // abs(denominator)
    return size if (numerator < 0) == (denominator < 0) else -size


def _divide(numerator: float, denominator: float) -> float:
    """Floating-point division as in Go: by zero gives infinity or NaN."""
    if denominator:
        return numerator / denominator
    return math.copysign(math.inf, numerator) if numerator else math.nan


def _ceil32(value: float) -> int:
    """Smallest integer not below `value`, at most the largest int32."""
    return INT32_MAX if value > INT32_MAX else math.ceil(value)


def _per_pod(usage: int, status_replicas: int) -> int:
    if float(usage) >= float(INT64_MAX):
        return INT64_MAX
    return math.ceil(float(usage) / float(status_replicas)) if status_replicas else 0
