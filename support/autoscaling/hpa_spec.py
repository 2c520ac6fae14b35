"""What a HorizontalPodAutoscaler is told and sees: metrics, `behavior`, pods and readings, named as in the API."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from support.errors import SchemaError

__all__ = [
    "Behavior",
    "Controller",
    "HpaSpec",
    "MetricReading",
    "MetricSpec",
    "Pod",
    "PodMetric",
    "ScalingPolicy",
    "ScalingRules",
    "Tolerances",
]

POLICY_TYPES = ("Pods", "Percent")
SELECT_POLICIES = ("Max", "Min", "Disabled")
LONGEST_WINDOW_SECONDS = 3600  # API validation of stabilizationWindowSeconds
LONGEST_PERIOD_SECONDS = 1800  # API validation of periodSeconds
LONG_AGO_SECONDS = 1e9  # age of what happened before anything that matters here


@dataclass(frozen=True)
class Tolerances:
    """Fractions by which usage may leave its target without a change, below (`down`) and above (`up`)."""

    down: float = 0.1
    up: float = 0.1

    def within(self, ratio: float) -> bool:
        """Whether usage over target is close enough to 1; both edges belong to the band, NaN does not.

        Example:
            >>> Tolerances(0.1, 0.1).within(0.9), Tolerances(0.1, 0.05).within(1.06)
            (True, False)
        """
        return (1.0 - self.down) <= ratio <= (1.0 + self.up)


@dataclass(frozen=True)
class MetricSpec:
    """One metric of an autoscaler and its target.

    type: Resource, ContainerResource, Pods, Object or External. name: the resource (`cpu`, `memory`) or the metric.
    container: for ContainerResource. average_utilization: percent of the request. average_value_milli, value_milli:
    quantities in thousandths. A type that Kubernetes does not know is kept: the autoscaler reports it.
    Raises SchemaError if a target is not positive.
    """

    type: str
    name: str = "cpu"
    container: str | None = None
    average_utilization: int | None = None
    average_value_milli: int | None = None
    value_milli: int | None = None

    def __post_init__(self) -> None:
        for item in ("average_utilization", "average_value_milli", "value_milli"):
            value = getattr(self, item)
            if value is not None and value <= 0:
                raise SchemaError(f"metric {self.type} {self.name}: {item} is {value}, it must be positive.")


@dataclass(frozen=True)
class ScalingPolicy:
    """At most `value` (pods, or percent of the pods at the start of the period) in any `period_seconds`."""

    type: str
    value: int
    period_seconds: int

    def __post_init__(self) -> None:
        if self.type not in POLICY_TYPES:
            raise SchemaError(f"behavior: policy type {self.type!r}, use one of {', '.join(POLICY_TYPES)}.")
        if self.value <= 0 or not 0 < self.period_seconds <= LONGEST_PERIOD_SECONDS:
            raise SchemaError(
                f"behavior: policy {self.type} of {self.value} in {self.period_seconds} s; value must be positive, "
                f"the period between 1 and {LONGEST_PERIOD_SECONDS} s."
            )


@dataclass(frozen=True)
class ScalingRules:
    """One direction of `behavior`; None takes the default of that direction.

    policies: limits, of which select_policy picks the one that allows the most change (Max), the least (Min), or
    Disabled: no change. stabilization_window_seconds: how long past recommendations hold a change back. tolerance:
    fraction, instead of the controller's.
    """

    policies: tuple[ScalingPolicy, ...] | None = None
    select_policy: str | None = None
    stabilization_window_seconds: int | None = None
    tolerance: float | None = None

    def __post_init__(self) -> None:
        if self.select_policy not in (None, *SELECT_POLICIES):
            raise SchemaError(
                f"behavior: selectPolicy {self.select_policy!r}, use one of {', '.join(SELECT_POLICIES)}."
            )
        window = self.stabilization_window_seconds
        if window is not None and not 0 <= window <= LONGEST_WINDOW_SECONDS:
            raise SchemaError(f"behavior: a window of {window} s must lie between 0 and {LONGEST_WINDOW_SECONDS} s.")
        if self.tolerance is not None and self.tolerance < 0:
            raise SchemaError(f"behavior: tolerance {self.tolerance} must not be negative.")

    def completed(self, default: ScalingRules) -> ScalingRules:
        """These rules with each None replaced by the value of `default`."""
        return ScalingRules(
            default.policies if self.policies is None else self.policies,
            self.select_policy or default.select_policy,
            default.stabilization_window_seconds
            if self.stabilization_window_seconds is None
            else self.stabilization_window_seconds,
            default.tolerance if self.tolerance is None else self.tolerance,
        )


DEFAULT_SCALE_UP = ScalingRules((ScalingPolicy("Pods", 4, 15), ScalingPolicy("Percent", 100, 15)), "Max", 0)
DEFAULT_SCALE_DOWN = ScalingRules((ScalingPolicy("Percent", 100, 15),), "Max")  # window: the controller's flag


@dataclass(frozen=True)
class Behavior:
    """`spec.behavior`; a direction that is None has the default rules.

    Defaults: up, the larger of 4 pods and 100 % in 15 s without a window; down, 100 % in 15 s with the controller's
    window. Source: autoscaling/v2 defaults.

    Example:
        >>> Behavior().completed(300).scale_down.stabilization_window_seconds
        300
    """

    scale_up: ScalingRules | None = None
    scale_down: ScalingRules | None = None

    def completed(self, downscale_stabilization_seconds: int) -> _CompleteBehavior:
        """Both directions with every value filled in."""
        down = replace(DEFAULT_SCALE_DOWN, stabilization_window_seconds=downscale_stabilization_seconds)
        return _CompleteBehavior(
            (self.scale_up or ScalingRules()).completed(DEFAULT_SCALE_UP),
            (self.scale_down or ScalingRules()).completed(down),
        )


@dataclass(frozen=True)
class _CompleteBehavior:
    scale_up: ScalingRules
    scale_down: ScalingRules


@dataclass(frozen=True)
class HpaSpec:
    """`spec` of a HorizontalPodAutoscaler; its metric by default is the API's, CPU at 80 % of the request.

    Raises SchemaError without metrics, or if the bounds are not 0 <= min <= max, max >= 1.
    """

    max_replicas: int
    metrics: tuple[MetricSpec, ...] = (MetricSpec("Resource", "cpu", average_utilization=80),)
    min_replicas: int = 1
    behavior: Behavior | None = None

    def __post_init__(self) -> None:
        if not 0 <= self.min_replicas <= self.max_replicas or self.max_replicas < 1:
            raise SchemaError(
                f"HPA: replicas {self.min_replicas} to {self.max_replicas} must satisfy 0 <= min <= max, max >= 1."
            )
        if not self.metrics:
            raise SchemaError("HPA: no metrics. Give at least one, or leave the default.")


@dataclass(frozen=True)
class Controller:
    """Flags of the controller manager; the defaults are Kubernetes' (seconds, fractions).

    failed_metric_blocks_scale_down: with False, as in releases 1.16 to 1.20, a metric that fails does not stop the
    others from scaling down (kubernetes/kubernetes issue 99394, mended by pull request 99514).
    """

    tolerance: Tolerances = field(default_factory=Tolerances)
    sync_period_seconds: float = 15.0
    cpu_initialization_period_seconds: float = 300.0
    initial_readiness_delay_seconds: float = 30.0
    downscale_stabilization_seconds: int = 300
    scale_up_limit_factor: float = 2.0
    scale_up_limit_minimum: float = 4.0
    failed_metric_blocks_scale_down: bool = True

    def tolerances(self, behavior: Behavior | None) -> Tolerances:
        """The tolerances for an autoscaler: those of its `behavior` before the controller's."""
        up = behavior.scale_up.tolerance if behavior and behavior.scale_up else None
        down = behavior.scale_down.tolerance if behavior and behavior.scale_down else None
        return Tolerances(self.tolerance.down if down is None else down, self.tolerance.up if up is None else up)


@dataclass(frozen=True)
class Pod:
    """A pod as the autoscaler sees it.

    phase: Pending, Running, Succeeded or Failed. ready: its Ready condition (None: it has none). Ages in seconds before
    now (None: unset). container_requests_milli: request of each container in thousandths (None: no request).
    """

    name: str
    phase: str = "Running"
    ready: bool | None = True
    start_age_seconds: float | None = LONG_AGO_SECONDS
    ready_transition_age_seconds: float | None = LONG_AGO_SECONDS
    deleted: bool = False
    container_requests_milli: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True)
class PodMetric:
    """A measured pod: `value_milli` or `containers_milli`, over `window_seconds` that ended `age_seconds` ago."""

    pod: str
    value_milli: int | None = None
    containers_milli: Mapping[str, int | None] | None = None
    age_seconds: float = 0.0
    window_seconds: float = 60.0

    def value(self, container: str | None) -> int | None:
        """Value of the pod or of one container in thousandths; None if it, or a part of the sum, was not measured."""
        if self.containers_milli is None:
            return self.value_milli
        if container is not None:
            return self.containers_milli.get(container)
        total = 0
        for part in self.containers_milli.values():
            if part is None:
                return None
            total += part
        return total if self.containers_milli else None


@dataclass(frozen=True)
class MetricReading:
    """Answer of a metrics API: per pod, or plain values in thousandths, or an `error` in words."""

    pod_metrics: tuple[PodMetric, ...] = ()
    values_milli: tuple[int, ...] = ()
    error: str | None = None
