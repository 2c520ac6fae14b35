"""One full pass of the Kubernetes Horizontal Pod Autoscaler: metrics, stabilisation, limits, conditions, reason."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from support.autoscaling.hpa_behavior import (
    WITHIN_RANGE,
    HpaState,
    Recommendation,
    limit_with_behavior,
    limit_without_behavior,
    record_change,
    stabilize_with_behavior,
    stabilize_without_behavior,
)
from support.autoscaling.hpa_metrics import MetricProposal, propose_replicas
from support.autoscaling.hpa_spec import Controller, HpaSpec, MetricReading, MetricSpec, Pod
from support.errors import SchemaError, SourceError

__all__ = ["Condition", "HpaResult", "reconcile"]

SENTENCES = {
    WITHIN_RANGE: "the desired count is within the acceptable range",
    "TooFewReplicas": "the desired count is below the minimum",
    "TooManyReplicas": "the desired count is above the maximum",
    "ScaleUpLimit": "the desired count rises faster than the rate limit allows",
    "ScaleDownLimit": "the desired count falls faster than the rate limit allows",
    "ScaleUpStabilized": "a lower recommendation in the scale-up window holds it back",
    "ScaleDownStabilized": "a higher recommendation in the scale-down window holds it back",
    "ReadyForNewScale": "no window holds it back",
}


@dataclass(frozen=True)
class Condition:
    """A condition of the autoscaler: its status, its one-word reason, and the reason in words."""

    status: bool
    reason: str
    message: str


@dataclass(frozen=True)
class HpaResult:
    """Outcome of one pass: pods wanted, conditions by type, what each metric said (None: failed), why in words."""

    desired_replicas: int
    rescale: bool
    conditions: dict[str, Condition]
    proposals: tuple[MetricProposal | None, ...]
    state: HpaState
    reason: str


def reconcile(
    spec: HpaSpec, spec_replicas: int, status_replicas: int, pods: Sequence[Pod], readings: Sequence[MetricReading],
    *, state: HpaState, controller: Controller, now: float,
) -> HpaResult:  # fmt: skip
    """One pass of the controller over an autoscaler.

    spec_replicas: what its target is asked to run; status_replicas: what it runs; pods: all that match its selector.
    readings: one a metric of `spec`. now: seconds on any clock. The result's state counts a change as carried out.
    Source: kubernetes/kubernetes pkg/controller/podautoscaler/horizontal.go.

    Example:
        >>> queue = HpaSpec(10, (MetricSpec("External", "queue", average_value_milli=5000),))
        >>> seen = MetricReading(values_milli=(32_000,))
        >>> reconcile(queue, 4, 4, [], [seen], state=HpaState(), controller=Controller(), now=0).desired_replicas
        7
    """
    if len(readings) != len(spec.metrics):
        raise SchemaError(f"reconcile: {len(readings)} readings for {len(spec.metrics)} metrics, give one for each.")
    if state.recommendations is None:
        state = replace(state, recommendations=(Recommendation(spec_replicas, now),))
    able = Condition(True, "SucceededGetScale", "the current scale is known")
    conditions = {"AbleToScale": able}
    proposals: tuple[MetricProposal | None, ...] = ()
    low = spec.min_replicas
    if spec_replicas == 0 and not _may_leave_zero(spec, state):
        words = "scaling is disabled since the target has no replicas"
        conditions["ScalingActive"] = Condition(False, "ScalingDisabled", words)
        return HpaResult(0, False, conditions, proposals, state, words)
    if spec_replicas > spec.max_replicas:
        desired, reason = spec.max_replicas, f"{spec_replicas} replicas are above the maximum {spec.max_replicas}"
    elif 0 < spec_replicas < low:
        desired, reason = low, f"{spec_replicas} replicas are below the minimum {low}"
    else:
        proposals, condition, best = _compute(spec, spec_replicas, status_replicas, pods, readings, controller)
        conditions["ScalingActive"] = condition
        if best is None:
            return HpaResult(spec_replicas, False, conditions, proposals, state, condition.message)
        wanted = max(best.replicas, 0)
        desired, state, more = _normalize(spec, spec_replicas, wanted, state, controller, now)
        conditions |= more
        if spec_replicas == 0:
            desired = max(desired, low)
        reason = _words(spec_replicas, wanted, desired, best, more)
    if desired != spec_replicas:
        message = f"the target was asked for {desired} replicas"
        conditions["AbleToScale"] = Condition(True, "SucceededRescale", message)
        state = record_change(state, spec.behavior, spec_replicas, desired, now)
        if state.scaled_to_zero is not None:
            state = replace(state, scaled_to_zero=desired == 0 and low == 0 and _has_value_metric(spec))
    return HpaResult(desired, desired != spec_replicas, conditions, proposals, state, reason)


def _compute(
    spec: HpaSpec, spec_replicas: int, status_replicas: int, pods: Sequence[Pod], readings: Sequence[MetricReading],
    controller: Controller,
) -> tuple[tuple[MetricProposal | None, ...], Condition, MetricProposal | None]:  # fmt: skip
    """What each metric asks for, the ScalingActive condition, and the largest; None if no metric may decide."""
    tolerances = controller.tolerances(spec.behavior)
    proposals: list[MetricProposal | None] = []
    failures: list[Condition] = []
    best: MetricProposal | None = None
    for metric, reading in zip(spec.metrics, readings, strict=True):
        try:
            found = propose_replicas(metric, reading, pods, spec_replicas, status_replicas, tolerances, controller)
        except SourceError as error:
            proposals.append(None)
            failures.append(Condition(False, _failure(metric), f"unable to compute the replica count: {error}"))
            continue
        proposals.append(found)
        if best is None or best.replicas == 0 or found.replicas > best.replicas:
            best = found
    blocked = controller.failed_metric_blocks_scale_down and best is not None and best.replicas < spec_replicas
    if best is None or (failures and blocked):
        return tuple(proposals), failures[0], None
    return tuple(proposals), Condition(True, "ValidMetricFound", f"computed from {best.description}"), best


def _normalize(
    spec: HpaSpec, current: int, wanted: int, state: HpaState, controller: Controller, now: float
) -> tuple[int, HpaState, dict[str, Condition]]:
    """Stabilisation, then rate limits and bounds: (pods, state with the recommendation logged, conditions)."""
    log = state.recommendations or ()
    if spec.behavior is None:
        stable, log = stabilize_without_behavior(log, wanted, controller.downscale_stabilization_seconds, now)
        desired, limit = limit_without_behavior(current, stable, spec.min_replicas, spec.max_replicas, controller)
        held = "ScaleDownStabilized"
    else:
        rules = spec.behavior.completed(controller.downscale_stabilization_seconds)
        up, down = (r.stabilization_window_seconds or 0 for r in (rules.scale_up, rules.scale_down))
        stable, log = stabilize_with_behavior(log, current, wanted, up, down, now)
        desired, limit = limit_with_behavior(
            current, stable, spec.min_replicas, spec.max_replicas, spec.behavior, state, controller, now
        )
        held = "ScaleUpStabilized" if wanted >= current else "ScaleDownStabilized"
    able = held if stable != wanted else "ReadyForNewScale"
    return desired, replace(state, recommendations=log), {
        "AbleToScale": Condition(True, able, SENTENCES[able]),
        "ScalingLimited": Condition(desired != stable, limit, SENTENCES[limit]),
    }  # fmt: skip


def _words(current: int, wanted: int, desired: int, best: MetricProposal, conditions: dict[str, Condition]) -> str:
    """The pass in one sentence: what was measured, what it asks for, and what held it back."""
    said = f"{best.description} at {best.utilization} %" if best.utilization is not None else best.description
    if best.utilization is None:
        said += f" at {best.usage_milli / 1000:g}"
    held = [c.message for c in conditions.values() if c.reason not in (WITHIN_RANGE, "ReadyForNewScale")]
    what = f"asks for {wanted} replicas" if wanted != current else f"asks for no change from {current} replicas"
    return "; ".join([f"{said} {what}", *held, *([f"so {desired}"] if desired != wanted else [])])


def _may_leave_zero(spec: HpaSpec, state: HpaState) -> bool:
    """From zero pods: older releases need a minimum of 0, those with the ScaledToZero condition need that."""
    if state.scaled_to_zero is None:
        return spec.min_replicas == 0
    return state.scaled_to_zero and (spec.min_replicas != 0 or _has_value_metric(spec))


def _has_value_metric(spec: HpaSpec) -> bool:
    return any(metric.type in ("Object", "External") for metric in spec.metrics)


def _failure(metric: MetricSpec) -> str:
    known = ("Resource", "ContainerResource", "Pods", "Object", "External")
    return f"FailedGet{metric.type}Metric" if metric.type in known else "InvalidMetricSourceType"
