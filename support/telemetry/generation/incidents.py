"""Incidents with labels: leaks, spikes, idle waste, failed scaling, cost jumps and level shifts, at a stated rate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from support.errors import SourceError
from support.telemetry.generation.processes import saturate

__all__ = ["INCIDENTS", "Incident", "inject", "schedule"]

HIGHEST_RATE = 0.5
LENGTH_SHAPE = 4.0  # of the gamma distribution of lengths
LEAK_PERCENT, LEAK_TOP_PERCENT = 50.0, 97.0
BURN_IN_CYCLES = 3.0  # so that the first interval is as likely to lie in an incident as any other


@dataclass(frozen=True)
class Incident:
    """A kind of incident: mean length in minutes, the metrics it shows in, what happens, and the source of the numbers."""

    minutes: float
    metrics: tuple[str, ...]
    meaning: str
    source: str


_EARLIER = "hello-cloud, its anomalies; its samples taken as 5 minutes"
_COST = "hello-cloud, its cost anomalies; its samples taken as 1 hour"
INCIDENTS: dict[str, Incident] = {
    "memory_leak": Incident(500, ("memory_utilization",), "memory climbs by up to 50 points, then a restart", _EARLIER),
    "cpu_spike": Incident(50, ("cpu_utilization",), "CPU at 95 to 100 %", _EARLIER),
    "idle_waste": Incident(
        250, ("cpu_utilization", "memory_utilization", "network_in_mbps", "network_out_mbps"), "running, and nothing to do", _EARLIER
    ),
    "scaling_failure": Incident(
        150, ("cpu_utilization", "memory_utilization"), "CPU at 99 % and above: demand that no new capacity meets", _EARLIER
    ),
    "cost_spike": Incident(180, ("cost_usd",), "cost times 2 to 5", _COST),
    "cost_drop": Incident(300, ("cost_usd",), "cost times 0.1: a record that came late, or a resource that stopped", _COST),
    "level_shift": Incident(
        1440, ("cpu_utilization", "network_in_mbps", "network_out_mbps"), "a release that costs half as much again, rolled back after a day",
        "this book's assumption; not measured",
    ),
}  # fmt: skip


def schedule(
    n_time: int, step_seconds: float, rate: float, kinds: list[str], *, rng: np.random.Generator
) -> list[tuple[str, int, int]]:
    """Incidents as (kind, first interval, last interval), in order, never two at once; `rate` of the intervals lie in one.

    Kinds are equally likely; lengths are gamma of shape 4 around the mean of the kind, at least one interval; times
    between are geometric. Source: alternating renewal process, Ross, Stochastic Processes, 3.4.
    Raises SourceError for a rate outside 0 to 0.5.

    Example:
        >>> schedule(100, 300.0, 0.0, ["cpu_spike"], rng=np.random.default_rng(1))
        []
    """
    if not 0 <= rate <= HIGHEST_RATE:
        raise SourceError(f"anomaly_rate={rate}: give the share of intervals in an incident, 0 to {HIGHEST_RATE:g}.")
    if rate == 0 or not kinds:
        return []
    mean_steps = np.array([INCIDENTS[k].minutes * 60 / step_seconds for k in kinds])
    mean_length = float(np.maximum(mean_steps, 1).mean())
    cycle, mean_gap = mean_length / rate, max(mean_length * (1 - rate) / rate, 1.0)
    burn_in = int(BURN_IN_CYCLES * cycle)
    found, at = [], -burn_in
    while at < n_time:
        n_more = int(1.2 * (n_time - at) / cycle) + 8
        which = rng.integers(len(kinds), size=n_more)
        lengths = np.maximum(np.rint(mean_steps[which] * rng.gamma(LENGTH_SHAPE, 1 / LENGTH_SHAPE, n_more)), 1).astype(
            int
        )
        gaps = rng.geometric(1 / mean_gap, n_more)
        ends = at + np.cumsum(gaps + lengths)
        found += [
            (kinds[k], max(int(end - length), 0), min(int(end), n_time) - 1)
            for k, length, end in zip(which, lengths, ends, strict=True)
            if end > 0 and end - length < n_time
        ]
        at = int(ends[-1])
    return found


def inject(metrics: dict[str, np.ndarray], kind: str, first: int, last: int, *, rng: np.random.Generator) -> None:
    """Put one incident into `metrics` (name -> shape (n_time,)), in place, in the intervals `first` to `last`."""
    where, n = slice(first, last + 1), last + 1 - first
    cpu, memory = metrics.get("cpu_utilization"), metrics.get("memory_utilization")
    networks = [metrics[m] for m in ("network_in_mbps", "network_out_mbps") if m in metrics]
    if kind == "memory_leak" and memory is not None:
        room = LEAK_TOP_PERCENT - memory[where]
        memory[where] += np.clip(room, 0, LEAK_PERCENT) * np.linspace(1 / n, 1, n)
    elif kind == "cpu_spike" and cpu is not None:
        cpu[where] = rng.uniform(95, 100, n)
    elif kind == "idle_waste" and cpu is not None:
        cpu[where] = rng.uniform(1, 4, n)
        if memory is not None:
            memory[where] = rng.uniform(4, 9, n)
        for network in networks:
            network[where] *= 0.05
    elif kind == "scaling_failure" and cpu is not None:
        cpu[where] = rng.uniform(99, 100, n)
        if memory is not None:
            memory[where] = saturate(1.2 * memory[where])
    elif kind == "level_shift" and cpu is not None:
        cpu[where] = saturate(1.5 * cpu[where])
        for network in networks:
            network[where] *= 1.5
    elif kind in ("cost_spike", "cost_drop") and "cost_usd" in metrics:
        metrics["cost_usd"][where] *= rng.uniform(2, 5) if kind == "cost_spike" else 0.1
