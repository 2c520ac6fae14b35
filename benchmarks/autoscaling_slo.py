"""Least over-provisioning of each family of policies that keeps the SLO; part `slo` of benchmarks/autoscaling.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from benchmarks.record import stamp
from support.autoscaling import Environment, Newsvendor, Policy, Reactive, Run, score
from support.autoscaling.hpa_policy import KubernetesHPA
from support.autoscaling.mpc import StochasticMPC

__all__ = ["FAMILIES", "TARGETS_PERCENT", "least_surplus", "slo_of"]

SLO_PERCENT = 99.9
FAMILIES = ("reactive", "kubernetes hpa", "newsvendor", "stochastic MPC", "MPC for minutes")
TARGETS_PERCENT = tuple(range(10, 100, 5))
FRACTILES = (0.5, 0.7, 0.8, 0.9, 0.95, 0.975, 0.99, 0.995, 0.999, 0.9995)
DROP_FACTORS = tuple(2.0**k for k in range(-3, 8))  # the price of a drop that the plan reckons with, over the true one
TICK_PRICES = tuple(10.0 ** (k / 2) for k in range(2, 15))  # of a bad tick, in prices of a server for a tick
HALVINGS = 3  # of the gap between the best setting of the grid and the next that breaks the promise
KEPT = ("minute_slo_percent", "over_percent", "mean_servers", "churn_percent")
Point = dict[str, float]


@dataclass(frozen=True)
class Swept:
    """A family: the grid of its knob, what lies half-way between two settings, and how a setting is made."""

    grid: Sequence[float]
    middle: Callable[[float, float], float]
    make: Callable[[float], tuple[Policy, Environment]]


def families(world: Environment) -> dict[str, Swept]:
    """The knob of each rule: targets, the newsvendor's fractile, the price of a drop, or of a bad tick, in the MPC's plan."""
    return {
        "reactive": Swept([u / 100 for u in TARGETS_PERCENT], lambda a, b: (a + b) / 2, lambda u: (Reactive(u), world)),
        "kubernetes hpa": Swept(
            TARGETS_PERCENT, lambda a, b: round((a + b) / 2), lambda u: (KubernetesHPA(int(u)), world)
        ),
        "newsvendor": Swept(
            FRACTILES,
            lambda a, b: 1 - math.sqrt((1 - a) * (1 - b)),
            lambda f: (Newsvendor(f, "newsvendor, bursts"), world),
        ),
        "stochastic MPC": Swept(
            DROP_FACTORS,
            lambda a, b: math.sqrt(a * b),
            lambda k: (
                StochasticMPC(name="stochastic MPC, bursts"),
                replace(world, price_drop_usd=k * world.price_drop_usd),
            ),
        ),
        "MPC for minutes": Swept(
            TICK_PRICES,
            lambda a, b: math.sqrt(a * b),
            lambda k: (
                StochasticMPC(name="MPC for minutes, bursts", price_bad_tick_usd=k * world.price_server_tick_usd),
                world,
            ),
        ),
    }


def slo_of(run: Callable[[Policy, Environment], Run], world: Environment, only: Sequence[str]) -> dict[str, Any]:
    """By family of `only`: the front of its settings and the best that keeps the SLO (None: none does); chosen in hindsight.

    run: a policy on the test days, planned in the environment given with it.
    """
    found = {}
    for name, family in families(world).items():
        if name not in only:
            continue

        def measure(knob: float, family: Swept = family) -> Point:
            scores = score(run(*family.make(knob)))
            return {"knob": knob} | {key: round(float(scores[key]), 4) for key in KEPT}

        front, best = least_surplus(measure, family.grid, family.middle)
        found[name] = {"front": front, "best": best, "stamp": stamp()}
    return found


def least_surplus(
    measure: Callable[[float], Point], grid: Sequence[float], middle: Callable[[float, float], float]
) -> tuple[list[Point], Point | None]:
    """(all settings measured, the one that keeps the SLO with the least over-provisioning, or None).

    After the grid the gap between the best setting and the failing one nearest to it in surplus is halved three times,
    for every family alike, so that a coarse grid flatters nobody.
    """
    front = [measure(knob) for knob in grid]
    kept = [point for point in front if point["minute_slo_percent"] >= SLO_PERCENT]
    if not kept:
        return front, None
    best = min(kept, key=lambda p: p["over_percent"])
    broken = [p for p in front if p["minute_slo_percent"] < SLO_PERCENT and p["over_percent"] < best["over_percent"]]
    if not broken:
        return front, best
    near = max(broken, key=lambda p: p["over_percent"])
    for _ in range(HALVINGS):
        knob = middle(best["knob"], near["knob"])
        if knob in (best["knob"], near["knob"]):
            break
        point = measure(knob)
        front.append(point)
        if point["minute_slo_percent"] < SLO_PERCENT:
            near = point
        elif point["over_percent"] < best["over_percent"]:
            best = point
        else:
            break
    return front, best
