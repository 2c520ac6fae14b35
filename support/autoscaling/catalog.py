"""Every policy of the book in one table: a line here and a class is all that a new one needs."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from support.autoscaling.environment import Environment
from support.autoscaling.hpa_policy import KubernetesHPA
from support.autoscaling.keda import KedaQueue, ScaledObject
from support.autoscaling.mpc import StochasticMPC
from support.autoscaling.policies import ForecastMean, Newsvendor, Reactive, Static, servers_for
from support.autoscaling.predictive import Hybrid, PredictiveThresholds
from support.autoscaling.recommender import WindowedRecommender
from support.autoscaling.rules import LargestOf, PausedThresholds, StepScaling, TargetTracking, Thresholds
from support.autoscaling.shadow import ShadowLeader
from support.autoscaling.simulate import Policy, simulate
from support.errors import SchemaError

__all__ = ["POLICIES", "Entry", "build_policy", "tune_reactive"]

BUSY = 0.999  # quantile of past demand that a static fleet carries
TEXTBOOK = 0.7  # target utilisation of most introductions, and of the queue scaler here
MINUTE = 60  # seconds, a datapoint of an alarm
TARGETS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)  # tried


@dataclass(frozen=True)
class Entry:
    """How a policy is made from (environment, past demand), and whether `simulate` must be given a forecast for it."""

    build: Callable[[Environment, pd.Series], Policy]
    needs_forecast: bool = False


POLICIES: dict[str, Entry] = {
    "static": Entry(lambda world, past: Static(int(servers_for(past.quantile(BUSY), world)))),
    "thresholds": Entry(lambda *_: Thresholds()),
    "thresholds 80/20": Entry(lambda *_: PausedThresholds()),
    "reactive 70 %": Entry(lambda *_: Reactive(TEXTBOOK, "reactive 70 %")),
    "reactive tuned": Entry(lambda world, past: Reactive(tune_reactive(past, world), "reactive tuned")),
    "step scaling": Entry(lambda world, past: _step(world)),
    "target tracking": Entry(lambda world, past: _target(world)),
    "step and target": Entry(lambda world, past: LargestOf((_step(world), _target(world)), "step and target")),
    "kubernetes hpa": Entry(lambda *_: KubernetesHPA()),
    "keda queue": Entry(lambda world, past: KedaQueue(_queue(world))),
    "windowed recommender": Entry(lambda world, past: WindowedRecommender(past=past.to_numpy(float))),
    "predictive as shipped": Entry(lambda *_: PredictiveThresholds(name="predictive as shipped"), True),
    "predictive mended": Entry(lambda *_: PredictiveThresholds(lead_ticks=None, name="predictive mended"), True),
    "forecast mean": Entry(lambda *_: ForecastMean(), True),
    "hybrid": Entry(lambda *_: Hybrid(), True),
    "newsvendor": Entry(lambda *_: Newsvendor(), True),
    "stochastic MPC": Entry(lambda *_: StochasticMPC(), True),
    "MPC or reactive": Entry(lambda world, past: _leader(world, past), True),
}


def build_policy(name: str, environment: Environment, past: pd.Series) -> Policy:
    """The policy called `name`, tuned or sized on `past` (n_past,), requests per tick before the run.

    Raises SchemaError for a name that is not in `POLICIES`. The oracle is not among them: it needs the future.

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=9, freq="60s", tz="UTC")
        >>> world = Environment(tick_seconds=60, service_rate_rps=1.0)
        >>> build_policy("static", world, pd.Series(150.0, index=minutes))
        Static(servers=3, name='static')
    """
    if name not in POLICIES:
        raise SchemaError(f"policy: there is no {name!r}. There are: {', '.join(POLICIES)}.")
    return POLICIES[name].build(environment, past)


def tune_reactive(train: pd.Series, environment: Environment, *, days: float = 7.0) -> float:
    """Target utilisation (fraction) with the least cost on the last `days` of the past; no later data are used."""
    recent = train.iloc[-max(2, round(days * 86_400 / environment.tick_seconds)) :]
    steady = replace(environment, boot_delay_sigma=0.0, boot_failure_prob=0.0)  # random boots take their mean delay
    costs = [simulate(recent, Reactive(target), steady).cost_usd for target in TARGETS]
    return TARGETS[int(np.argmin(costs))]


def _leader(environment: Environment, past: pd.Series) -> ShadowLeader:
    """The forecast's best user beside the rule that needs no forecast: whichever was cheaper in the last two days."""
    return ShadowLeader((StochasticMPC(), build_policy("reactive tuned", environment, past)), name="MPC or reactive")


def _step(environment: Environment) -> StepScaling:
    """Step scaling with the two two-minute datapoints of its source."""
    return StepScaling(out_points=_ticks(environment, 4), in_points=_ticks(environment, 4))


def _target(environment: Environment) -> TargetTracking:
    """Target tracking at the textbook's target, with the datapoints of its source."""
    return TargetTracking(TEXTBOOK, _ticks(environment, 3), _ticks(environment, 15))


def _ticks(environment: Environment, minutes: float) -> int:
    """Ticks that cover so many minutes: alarms are defined in time, rules in ticks."""
    return math.ceil(minutes * MINUTE / environment.tick_seconds)


def _queue(environment: Environment) -> ScaledObject:
    """A replica for as many messages as a server completes in a tick at the textbook's target.

    Without that slack a loss system would never show the scaler more messages than its servers complete.
    """
    return ScaledObject(
        TEXTBOOK * environment.capacity_per_tick, min_replica_count=environment.min_servers,
        max_replica_count=environment.max_servers,
    )  # fmt: skip
