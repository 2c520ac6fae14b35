"""KEDA: how many jobs a ScaledJob starts, and a queue scaler that goes to zero and back."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

from support.autoscaling.environment import Environment
from support.autoscaling.hpa_policy import PassMemory, due, run_passes
from support.autoscaling.hpa_spec import Behavior, Controller, HpaSpec, MetricReading, MetricSpec
from support.autoscaling.simulate import Observation
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

__all__ = ["KedaQueue", "ScaledJob", "ScaledObject", "effective_max_scale", "jobs_to_start"]

STRATEGIES = ("default", "custom", "accurate", "eager")


@dataclass(frozen=True)
class ScaledJob:
    """`spec` of a KEDA ScaledJob: a job for each piece of work, at most `max_replica_count` at a time.

    strategy: default, custom, accurate or eager. queue_length_deduction (jobs) and running_job_percentage (fraction of
    the running jobs) belong to `custom`; without a percentage that is a number it falls back to `default`.
    """

    max_replica_count: int = 100
    min_replica_count: int = 0
    strategy: str = "default"
    queue_length_deduction: int | None = None
    running_job_percentage: float | None = None

    def __post_init__(self) -> None:
        if self.strategy not in STRATEGIES:
            raise SchemaError(f"ScaledJob: strategy {self.strategy!r}, use one of {', '.join(STRATEGIES)}.")


def effective_max_scale(
    job: ScaledJob, max_scale: int, running_jobs: int, pending_jobs: int, scale_to: int
) -> tuple[int, int]:
    """(jobs that the strategy allows to start, negative if there are too many; jobs asked for).

    max_scale: jobs that the queue is worth; scale_to: jobs that the triggers ask for. running_jobs include the pending
    ones, which have no running pod yet. Source: kedacore/keda pkg/scaling/executor/scale_jobs.go.
    """
    if running_jobs < job.min_replica_count:
        missing = job.min_replica_count - running_jobs
        return missing, missing
    running, most = running_jobs - job.min_replica_count, job.max_replica_count
    if job.strategy == "accurate":
        return min(max_scale - pending_jobs, most - running), scale_to
    if job.strategy == "eager":
        return min(most - running - pending_jobs, max_scale), most
    if job.strategy == "custom" and job.running_job_percentage is not None:
        share = int(float(running) * job.running_job_percentage)
        return min(max_scale - (job.queue_length_deduction or 0) - share, most), scale_to
    return max_scale - running, scale_to


def jobs_to_start(
    job: ScaledJob, queue_length: float, running_jobs: int, pending_jobs: int, *, messages_per_job: float = 1.0
) -> int:
    """Jobs that one poll of a ScaledJob starts; none for an empty queue unless it has a minimum.

    queue_length: messages that wait; messages_per_job: target of the trigger. Source: kedacore/keda
    pkg/scaling/scaledjob, pkg/scaling/executor/scale_jobs.go.

    Example:
        >>> jobs_to_start(ScaledJob(5, strategy="accurate"), 3, running_jobs=3, pending_jobs=1)
        2
    """
    if queue_length <= 0 and job.min_replica_count == 0:
        return 0
    max_scale = math.ceil(min(queue_length / messages_per_job, job.max_replica_count))
    allowed, scale_to = effective_max_scale(job, max_scale, running_jobs, pending_jobs, math.ceil(queue_length))
    return max(min(allowed, scale_to), 0)


@dataclass(frozen=True)
class ScaledObject:
    """`spec` of a KEDA ScaledObject with one queue trigger (defaults are KEDA's).

    queue_length: messages per replica, the target. activation_queue_length: messages that must be exceeded to leave
    zero. polling_interval_seconds: how often KEDA looks. cooldown_period_seconds: how long the queue must have been
    inactive before zero; it governs nothing else, 1 to N is the autoscaler's. Raises SchemaError if they do not fit.
    """

    queue_length: float
    activation_queue_length: float = 0.0
    min_replica_count: int = 0
    max_replica_count: int = 100
    polling_interval_seconds: float = 30.0
    cooldown_period_seconds: float = 300.0
    behavior: Behavior | None = None

    def __post_init__(self) -> None:
        if self.queue_length <= 0 or not 0 <= self.min_replica_count <= self.max_replica_count:
            raise SchemaError("ScaledObject: queue_length must be positive and 0 <= min <= max replica count.")
        if self.polling_interval_seconds <= 0 or self.cooldown_period_seconds < 0:
            raise SchemaError("ScaledObject: the polling interval must be positive, the cooldown not negative.")


@dataclass(frozen=True)
class _Memory:
    world: Environment
    hpa: HpaSpec
    passes: PassMemory = field(default_factory=PassMemory)
    last_active: float | None = None
    polled_at: float = -math.inf


@dataclass(frozen=True)
class KedaQueue:
    """KEDA's queue scaler: KEDA itself goes 0 to 1 and N to 0, the autoscaler it makes goes 1 to N.

    The queue is what waited at the end of the newest known tick and what was served in it (messages in flight count).
    scaled_object: its specification; None: as many messages a replica as a server completes in a tick, and the
    environment's bounds. Source: kedacore/keda pkg/scaling/executor/scale_scaledobjects.go.
    """

    scaled_object: ScaledObject | None = None
    controller: Controller = field(default_factory=Controller)
    name: str = "keda queue"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> _Memory:
        """State before the first tick: the autoscaler that KEDA makes, with an External metric and at least one pod."""
        spec = self._spec(environment)
        if spec.min_replica_count == 0 and environment.queue_limit == 0:
            raise SchemaError(
                f"{self.name}: without a queue nothing can wake it from zero. Give the environment a queue_limit, or a "
                "min_replica_count (min_servers) of 1."
            )
        metric = MetricSpec("External", "queue", average_value_milli=max(round(1000 * spec.queue_length), 1))
        low, high = max(spec.min_replica_count, 1), max(spec.max_replica_count, 1)
        return _Memory(environment, HpaSpec(high, (metric,), low, spec.behavior))

    def act(self, state: _Memory, seen: Observation) -> tuple[_Memory, int, str]:
        """KEDA's poll where one is due, otherwise the autoscaler's pass."""
        world, spec = state.world, self._spec(state.world)
        now, total = seen.tick * world.tick_seconds, seen.active + seen.booting
        if not len(seen.queue):
            return state, total, "no data yet"
        messages = float(seen.queue[-1] + seen.served[-1])
        if due(state.polled_at, now, spec.polling_interval_seconds):
            active = messages > spec.activation_queue_length
            state = replace(state, last_active=now if active else state.last_active, polled_at=now)
            change = self._poll(spec, state, active, total, now)
            if change is not None:
                return replace(state, passes=PassMemory(state.passes.hpa)), *change
        if total == 0:
            return state, 0, "zero replicas, and the queue is not active"
        if not due(state.passes.at_seconds, now, self.controller.sync_period_seconds):
            return state, total, "between two syncs"
        reading = MetricReading(values_milli=(int(1000 * messages),))  # GenerateMetricInMili truncates, too
        wanted, passes, reason = run_passes(
            state.hpa,
            self.controller,
            state.passes,
            total,
            lambda _: [],
            [reading],
            now,
            world.tick_seconds * world.control_every_ticks,
        )
        return replace(state, passes=passes), wanted, reason

    def _spec(self, world: Environment) -> ScaledObject:
        if self.scaled_object is not None:
            return self.scaled_object
        return ScaledObject(
            world.capacity_per_tick, min_replica_count=world.min_servers, max_replica_count=world.max_servers
        )

    def _poll(self, spec: ScaledObject, state: _Memory, active: bool, total: int, now: float) -> tuple[int, str] | None:
        """What KEDA itself changes: from zero, to zero, or up to the minimum; None if nothing."""
        low = spec.min_replica_count
        if active:
            return (max(low, 1), "the queue is active, so KEDA leaves zero") if total == 0 else None
        if total > 0 and low == 0:
            last = state.last_active
            if last is None or last + spec.cooldown_period_seconds < now:
                return 0, f"the queue was inactive beyond the cooldown of {spec.cooldown_period_seconds:g} s: to zero"
        elif total < low:
            return low, f"below the minimum of {low}"
        return None
