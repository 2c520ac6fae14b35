"""Every policy on every trace: bill, both service levels, churn, distance from the optimum, and which targets were met.

Run: python -m benchmarks.autoscaling [--only TRACE ...] [--parts table slo spread speed] [--families NAME ...]; writes benchmarks/results/autoscaling.json
after every trace and keeps the traces that are not asked for; each carries the date, commit and machine of its own run.
Each policy is fitted and tuned on the past of its trace only and judged on the days after it.
`table`: scores with paired block-bootstrap intervals of the saving against the tuned reactive rule and against the
Horizontal Pod Autoscaler at its usual 70 %, and the time of a decision. `slo`: each policy's one knob swept, and the
least over-provisioning that keeps 99.9 % of the ticks (benchmarks/autoscaling_slo.py; the knob is chosen in hindsight,
for all policies alike).
`spread`: the regret that the forecast itself announces, were demand drawn from it and changes free.
`speed`: benchmarks/autoscaling_speed.py. Real traces need BOOK_DATA; one that is absent is left out and said so.
"""

from __future__ import annotations

import argparse
import json
import math
import time
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from benchmarks import autoscaling_speed
from benchmarks.autoscaling_slo import FAMILIES, TARGETS_PERCENT, slo_of
from benchmarks.autoscaling_verdicts import RIVALS, verdicts
from benchmarks.record import ROOT, stamp, store
from support.autoscaling import (
    Environment,
    Newsvendor,
    Policy,
    Run,
    cost_difference,
    score,
    servers_for,
    simulate,
    split,
)
from support.autoscaling.bursts import fit_bursts, with_bursts
from support.autoscaling.catalog import POLICIES, build_policy
from support.autoscaling.hpa_policy import KubernetesHPA
from support.autoscaling.learning.agent import load_agent
from support.autoscaling.mpc import StochasticMPC
from support.autoscaling.oracle import optimum, regret
from support.autoscaling.oracle_bound import JumpBound, measured_bound, target_measurable
from support.autoscaling.rolling import roll_aggregated, roll_local
from support.autoscaling.scoring import block_seconds
from support.autoscaling.shadow import ShadowLeader
from support.autoscaling.stage_costs import spread_regret
from support.autoscaling.timing import Timed
from support.errors import SourceError, TooShortError
from support.forecasting import RollingQuantiles
from support.forecasting.recommendation import recommended
from support.telemetry import Traffic, load, traffic
from support.telemetry.reading.traces import read_llm_events

SEED = 20261121
N_SYNTHETIC = 3  # traces of each synthetic kind
HORIZON_TICKS, HORIZON_MINUTES = 30, 30.0  # of the forecasts: the fewer, but the boot delay, the cooldown and two ticks
PAST_WEEK_DAYS = 7.0  # on which knobs are tuned
ASKED_FROM_SECONDS = 300.0  # tick from which on the recommended forecaster can be asked at every one
PARTS = ("table", "slo", "spread", "speed")
AGENT, AGENT_TICK_SECONDS = ROOT / "benchmarks" / "results" / "scaling_rl.npz", 60.0
SEEN_BY_AGENT = ("synthetic 0", "synthetic without bursts 0")  # of the seed of its course
Row = dict[str, Any]


@dataclass(frozen=True)
class Trace:
    """Demand and how it is cut: `read` gives requests per tick."""

    read: Callable[[], pd.Series]
    train_days: float = 28.0
    test_days: float = 14.0
    test_start: str = ""


def calm(seed: int) -> pd.Series:
    """Six weeks of seasonal traffic without bursts, requests per minute."""
    times = pd.date_range("2026-03-02", periods=42 * 1440, freq="60s", tz="UTC")
    drawn = traffic(Traffic(bursts_per_day=0.0), times, rng=np.random.default_rng(seed))
    return pd.Series(drawn, index=times, name="requests")


def llm(service: str) -> pd.Series:
    """Requests to a language model per 10 s, 58 minutes in all."""
    events = read_llm_events(service).assign(requests=1.0).set_index("timestamp")
    return events["requests"].resample("10s").sum().iloc[1:-1]


def published(source: str, **options: Any) -> pd.Series:
    """Demand of a registered trace or of the generator."""
    return load(source, **options).demand()


def suite() -> dict[str, Trace]:
    """The traces by name."""
    nab = "nab:realTweets/Twitter_volume_"
    hour = 1 / 24
    made = {f"synthetic {k}": Trace(partial(published, "synthetic", seed=SEED + k)) for k in range(N_SYNTHETIC)}
    made |= {f"synthetic without bursts {k}": Trace(partial(calm, SEED + k)) for k in range(N_SYNTHETIC)}
    return made | {
        "worldcup98 before the cup": Trace(partial(published, "worldcup98"), 26, 14, "1998-05-27"),
        "worldcup98 during the cup": Trace(partial(published, "worldcup98"), 28, 33, "1998-06-10"),
        "appserver-traffic": Trace(partial(published, "appserver-traffic"), 56, 56),
        "azure-llm-2023 code": Trace(partial(llm, "code"), 0.55 * hour, 0.4 * hour),
        "azure-llm-2023 conv": Trace(partial(llm, "conv"), 0.55 * hour, 0.4 * hour),
        **{f"nab tweets {name}": Trace(partial(published, nab + name)) for name in ("AAPL", "AMZN", "GOOG", "IBM")},
        "nab elb requests": Trace(partial(published, "nab:realAWSCloudwatch/elb_request_count_8c0756"), 9, 5),
        "nab taxi trips": Trace(partial(published, "nab:realKnownCause/nyc_taxi"), 56, 56),
        "nab network in 257a54": Trace(partial(published, "nab:realAWSCloudwatch/ec2_network_in_257a54"), 9, 5),
        "nab network in a2eb1cd9": Trace(
            partial(published, "nab:realAWSCloudwatch/iio_us-east-1_i-a2eb1cd9_NetworkIn"), 2.8, 1.4
        ),
    }


@dataclass(frozen=True)
class Case:
    """A trace cut into past and test, its world, and forecasts for the test and (`recent`) for the last week of the past."""

    name: str
    train: pd.Series
    test: pd.Series
    world: Environment
    rolling: RollingQuantiles
    bursty: RollingQuantiles
    recent: RollingQuantiles | None
    first: int
    notes: tuple[str, ...]

    def run(self, policy: Policy, world: Environment | None = None) -> Run:
        """`policy` on the test days; with forecasts that know of bursts where it is named so."""
        rolling = self.bursty if "bursts" in policy.name else self.rolling
        return simulate(self.test, policy, world or self.world, forecast=rolling, initial_servers=self.first)


def forecaster(demand: pd.Series, start: pd.Timestamp, *, trace: Trace, horizon_ticks: int) -> RollingQuantiles:
    """Ridge, persistence and trees, aggregated; from ticks of five minutes on the recommended forecaster is heard too."""
    span: Row = {"horizon_ticks": horizon_ticks, "train_days": trace.train_days}
    rng = partial(np.random.default_rng, SEED)
    asked = partial(roll_local, model=recommended, name="recommended", refit_days=0.0, rng=rng(), **span)
    seconds = (demand.index[1] - demand.index[0]).total_seconds()
    return roll_aggregated(demand, start, rng=rng(), others=[asked] if seconds >= ASKED_FROM_SECONDS else [], **span)


def case_of(name: str, trace: Trace) -> Case:
    """Cut, price, forecast. Everything that is fitted is fitted before the test begins."""
    train, test, notes = split(
        trace.read(), train_days=trace.train_days, test_days=trace.test_days, test_start=trace.test_start
    )
    world = Environment.for_demand(train)
    horizon = max(
        min(HORIZON_TICKS, math.ceil(HORIZON_MINUTES * 60 / world.tick_seconds)),
        world.boot_delay_ticks + world.cooldown_ticks + 2,
    )
    span = (train.index[-1] - train.index[0]) / pd.Timedelta(days=1)
    roll = partial(forecaster, trace=trace, horizon_ticks=horizon)
    rolling = roll(pd.concat([train, test]), test.index[0])
    before = train.index[-1] - pd.Timedelta(days=min(PAST_WEEK_DAYS, span / 3))
    bursty, recent = rolling, None
    try:
        recent = roll(train, train[before:].index[0])
        bursty = with_bursts(rolling, fit_bursts(train[before:], recent), demand=test)
    except TooShortError:
        notes += ("the past is too short to learn bursts from",)
    return Case(name, train, test, world, rolling, bursty, recent, int(servers_for(train.iloc[-1], world)), notes)


def tuned_hpa(case: Case) -> int:
    """Target (percent) of the Horizontal Pod Autoscaler with the least cost on the last week of the past."""
    recent = case.train.iloc[-max(2, round(PAST_WEEK_DAYS * 86_400 / case.world.tick_seconds)) :]
    costs = {u: simulate(recent, KubernetesHPA(u), case.world).cost_usd for u in TARGETS_PERCENT}
    return min(costs, key=costs.__getitem__)


def policies(case: Case) -> list[Policy]:
    """The catalogue, and more: the autoscaler of Kubernetes tuned, two rules with bursts, the learned agent where it fits."""
    book = [build_policy(name, case.world, case.train) for name in POLICIES]
    if case.recent is not None:  # what is on probation has its trial before the test begins
        past = case.train.loc[case.recent.timestamps]
        book = [p.after(past, case.world, case.recent) if isinstance(p, ShadowLeader) else p for p in book]
    return [
        *book,
        KubernetesHPA(tuned_hpa(case), name="kubernetes hpa tuned"),
        Newsvendor(name="newsvendor, bursts"),
        StochasticMPC(name="stochastic MPC, bursts"),
        *learned(case),
    ]


def learned(case: Case) -> list[Policy]:
    """The agent of benchmarks/scaling_rl.py, as it is, where ticks and boot delay are those it learned with.

    It saw 92 generated days of the seed of the first synthetic traces; on those two it is left out.
    """
    agent = load_agent(AGENT)
    fits = case.world.tick_seconds == AGENT_TICK_SECONDS and case.world.boot_delay_ticks == agent.boot_delay_ticks
    return [agent] if fits and case.name not in SEEN_BY_AGENT else []


def table_of(case: Case) -> Row:
    """One row a policy, with intervals; the optimum beside them."""
    rng = np.random.default_rng([SEED, zlib.crc32(case.name.encode())])
    block = block_seconds(case.test)
    runs, spent = {}, {}
    for policy in policies(case):
        timed, began = Timed(policy), time.perf_counter()
        runs[policy.name] = case.run(timed)
        took = 1e6 * (time.perf_counter() - began) / len(case.test)  # the simulator included
        spent[policy.name] = {"microseconds_per_tick": round(took, 1)} | {
            f"decision_{name}_microseconds": value for name, value in timed.microseconds().items()
        }
    best = optimum(case.test, case.world, initial_servers=case.first)
    rows = []
    for name, run in runs.items():
        row: Row = {"policy": name} | {key: round(float(value), 4) for key, value in score(run).items()}
        row["regret_frac"] = round(float(regret(run.cost_usd, best.lower_usd)), 4)
        row |= spent[name]
        for other in RIVALS:
            saved = cost_difference(run, runs[other], rng=rng, block_seconds=block)
            row[f"saving_percent_against_{other}"] = [round(100 * float(v), 2) for v in saved]
        rows.append(row)
    bound = bound_of(case)
    return {
        "ticks": len(case.test), "tick_seconds": case.world.tick_seconds, "boot_delay_ticks": case.world.boot_delay_ticks,
        "first_tick": str(case.test.index[0]), "block_seconds": block, "notes": list(case.notes),
        "optimum_usd": round(best.cost_usd, 4), "bound": str(bound),
        "jumps_per_day": round(bound.jumps_per_day, 3), "target_reachable": bound.reachable,
        "target_measurable": target_measurable(len(case.test), case.world.slo_target_frac), "stamp": stamp(),
        "rows": rows,
    }  # fmt: skip


def spread_of(case: Case) -> Row:
    """The regret that the forecasts themselves announce, as issued a boot delay before each tick."""
    rolling, delay = case.rolling, case.world.boot_delay_ticks
    issued = rolling.quantiles[: len(case.test) - delay, delay]
    return {"announced_frac": round(spread_regret(issued, rolling.levels, case.world), 4), "stamp": stamp()}


def bound_of(case: Case) -> JumpBound:
    """What jumps above the highest quantile (bursts allowed for), issued when a server could still be ordered, forbid."""
    delay = case.world.boot_delay_ticks
    prepared = case.bursty.quantiles[: len(case.test) - delay, delay, -1]
    return measured_bound(case.test.iloc[delay:], prepared, case.world)


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=list(suite()), default=list(suite()))
    parser.add_argument("--parts", nargs="*", choices=PARTS, default=list(PARTS))
    parser.add_argument("--families", nargs="*", choices=FAMILIES, default=list(FAMILIES), help="of the part slo")
    arguments = parser.parse_args()
    path = ROOT / "benchmarks" / "results" / "autoscaling.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {"traces": {}, "slo": {}}
    for name in arguments.only if {"table", "slo", "spread"} & set(arguments.parts) else ():
        began = time.perf_counter()
        try:
            case = case_of(name, suite()[name])
        except SourceError as error:
            print(f"{name}: left out ({error})", flush=True)
            continue
        if "table" in arguments.parts:
            results["traces"][name] = table_of(case)
        if "slo" in arguments.parts:
            results["slo"].setdefault(name, {}).update(slo_of(case.run, case.world, arguments.families))
        if "spread" in arguments.parts:
            results.setdefault("spread", {})[name] = spread_of(case)
        results["verdicts"] = verdicts(results["traces"])
        store("autoscaling", results, ("numpy", "pandas", "numba", "jax"), quiet=True)
        print(f"{name}: {time.perf_counter() - began:.0f} s", flush=True)
    if "speed" in arguments.parts:
        autoscaling_speed.main()


if __name__ == "__main__":
    main()
