"""What goes into the compiled engine and what comes out: environments, policies, traces and sums as arrays."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, NamedTuple

__all__ = ["KINDS", "Given", "Rules", "Shape", "Totals", "World"]


@dataclass(frozen=True)
class Shape:
    """What one compilation is made for: the rules present, the longest lag, boot, drain and patience of the batch."""

    kinds: tuple[str, ...]
    n_env: int
    lag: int
    boot: int
    drain: int
    patience: int | None
    random: bool
    keep: bool


class World(NamedTuple):
    """Environments as numbers, each () if all agree or (n_env,); ticks and servers int32, the rest float64."""

    capacity: Any
    rate: Any
    delay: Any
    cooldown: Any
    least: Any
    most: Any
    step_up: Any
    step_down: Any
    quota: Any
    limit: Any
    lag: Any
    every: Any
    drain: Any
    patience: Any
    timeout: Any
    slo_wait: Any


class Rules(NamedTuple):
    """Policies as numbers, each () or (n_env,). kind: position in `KINDS`; the others belong to one kind each."""

    kind: Any
    constant: Any
    per_server: Any
    high: Any
    low: Any
    step_up: Any
    step_down: Any
    target: Any
    low_target: Any
    out_points: Any
    in_points: Any


KINDS = ("constant", "plan", "reactive", "thresholds", "tracking")


class Given(NamedTuple):
    """What comes from outside, by tick first.

    arrivals: (n_time, n_trace). prompt: (n_time, n_pair), fewest servers that meet the SLO's wait while nothing
    queues. wanted: (n_time, n_plan) or None. trace, pair, plan: (n_env,) their columns for each environment, None if
    each has its own. delays: (n_time,) or (n_time, n_env); failures: (n_time, [n_env,] most + 1); or None.
    """

    arrivals: Any
    prompt: Any
    wanted: Any
    trace: Any
    pair: Any
    plan: Any
    delays: Any
    failures: Any


class Totals(NamedTuple):
    """Sums over the ticks, (n_env,) float64; requests, servers, ticks."""

    served: Any
    dropped: Any
    abandoned: Any
    late: Any
    waiting: Any
    billed: Any
    servers: Any
    started: Any
    stopped: Any
    changes: Any
    bad_ticks: Any
