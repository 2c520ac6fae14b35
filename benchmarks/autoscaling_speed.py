"""Environment-steps per second of the compiled simulator, beside the readable one on the same worlds; seconds of the optimum.

Run: python -m benchmarks.autoscaling_speed [--optima]; writes benchmarks/results/autoscaling_speed.json. With --optima
only the part of that name is measured anew; it has a stamp of its own.
Boot delay 5, cooldown 3, a queue, prices, and five rules (all five are worked out at each step of a mixed batch). The
best of three runs counts, compilation is stated apart; load_at_start says how busy the machine was, and steps per CPU
second are the fairer figure where others share it. "two_devices" runs half of the batch on each of two host
devices. "weeks" includes the work on the host: 50 traces times 20 policies of one week each. "optima" are the exact
optima without a queue, on one core: two weeks of minutes with 100 servers, boot delay 5 and cooldown 3; and nine days of
minutes of the `dataflow` preset, 1 to 5 servers, whose fleet moves by one server at a time. "costs" is the bill alone, "schedule" the
schedule with it and its run in the readable simulator.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # both before NumPy and JAX are imported
os.environ.setdefault("XLA_FLAGS", "--xla_force_host_platform_device_count=2")  # a device for each core

import jax
import numpy as np
import pandas as pd

from benchmarks.record import store, store_part
from support.autoscaling import Environment, Policy, Reactive, Static, preset_environment, servers_for, simulate
from support.autoscaling.batch import Batch, prepare_batch, run_batch
from support.autoscaling.oracle import optimum, optimum_costs
from support.autoscaling.rules import Plan, TargetTracking, Thresholds

DAY, WEEK = 1_440, 10_080  # minutes
SIZES = (1_024, 8_192)  # environments
N_TRACES, N_WEEK_TRACES, N_POLICIES = 8, 50, 20
N_REFERENCE = 10  # runs of the readable simulator
REPEATS, CORES = 3, 2
SEED = 20261121
WORLD = Environment(
    tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=5, cooldown_ticks=3, queue_limit=300.0, max_servers=100,
    price_start_usd=0.002, price_drop_usd=0.002,
)  # fmt: skip


def traffic(n_traces: int, n_time: int, *, rng: np.random.Generator) -> np.ndarray:
    """Made-up demand (n_traces, n_time), requests per minute: a day's curve, a wandering level, Poisson noise."""
    phase = 2 * np.pi * (np.arange(n_time) / DAY + rng.random((n_traces, 1)))
    level = np.exp(0.02 * rng.standard_normal((n_traces, n_time)).cumsum(axis=1) / np.sqrt(60))
    return rng.poisson(900 * level * (1.3 + np.sin(phase))).astype(float)


def rules(n: int, plan: np.ndarray) -> list[Policy]:
    """`n` policies of the five kinds in turn."""
    share = np.linspace(0.4, 0.95, n)
    kinds: tuple[Callable[[float], Policy], ...] = (
        lambda u: Static(round(40 * u)), Reactive, lambda u: Thresholds(u, u / 3), TargetTracking,
        lambda u: Plan(np.ceil(plan / u).astype(int)),
    )  # fmt: skip
    return [kinds[i % len(kinds)](float(u)) for i, u in enumerate(share)]


def best(work: Callable[[], Any], steps: int) -> dict[str, float]:
    """Seconds of the first call, then the best of three: steps per second, and per CPU second of this process."""
    load, began = os.getloadavg()[0], time.perf_counter()
    work()
    first, rows = time.perf_counter() - began, []
    for _ in range(REPEATS):
        wall, cpu = time.perf_counter(), time.process_time()
        work()
        rows.append((time.perf_counter() - wall, time.process_time() - cpu))
    seconds, cpu_seconds = min(rows)
    return {
        "first_call_s": round(first, 2), "best_s": round(seconds, 4), "steps_per_s": round(steps / seconds),
        "steps_per_cpu_s": round(steps / cpu_seconds), "load_at_start": round(load, 1),
    }  # fmt: skip


def at_once(batches: Sequence[Batch]) -> None:
    """Each batch in its own thread and on its own device, which is one core here."""

    def work(device: jax.Device, batch: Batch) -> None:
        with jax.default_device(device):
            run_batch(batch)

    with ThreadPoolExecutor(len(batches)) as pool:
        list(pool.map(work, jax.devices()[: len(batches)], batches))


def engines() -> dict[str, Any]:
    """The compiled simulator beside the readable one."""
    rng = np.random.default_rng(SEED)
    demand = traffic(N_TRACES, DAY, rng=rng)
    policies = rules(N_POLICIES, demand[0] / WORLD.capacity_per_tick)
    results: dict[str, Any] = {"environment": {"n_time": DAY, "boot": 5, "cooldown": 3, "rules": 5}}

    index = pd.date_range("2026-01-01", periods=DAY, freq="60s", tz="UTC")
    series = [pd.Series(row, index=index, name="requests") for row in demand]
    pairs = [(series[i % N_TRACES], policies[i % N_POLICIES]) for i in range(N_REFERENCE)]
    runs = [simulate(d, p, WORLD) for d, p in pairs]
    results["python"] = best(lambda: [simulate(d, p, WORLD) for d, p in pairs], N_REFERENCE * DAY)

    for size in SIZES:
        chosen = [policies[i % N_POLICIES] for i in range(size)]
        batch = prepare_batch(demand, chosen, [WORLD], trace=np.arange(size) % N_TRACES)
        results[f"jax_{size}"] = best(lambda b=batch: run_batch(b), size * DAY)  # type: ignore[misc]
        half = prepare_batch(demand, chosen[: size // 2], [WORLD], trace=np.arange(size // 2) % N_TRACES)
        results[f"jax_{size}_two_devices"] = best(lambda b=half: at_once([b] * CORES), size * DAY)  # type: ignore[misc]
        costs = run_batch(batch).cost_usd[:N_REFERENCE]
        results[f"jax_{size}"]["largest_difference_usd"] = float(
            np.abs(costs - np.array([run.cost_usd for run in runs])).max()
        )
    fastest = max(row["steps_per_s"] for name, row in results.items() if name.startswith("jax"))
    results["ratio_over_python"] = round(fastest / results["python"]["steps_per_s"], 1)

    weeks = traffic(N_WEEK_TRACES, WEEK, rng=rng)
    n_weeks = N_WEEK_TRACES * N_POLICIES
    for_weeks = rules(N_POLICIES, weeks[0] / WORLD.capacity_per_tick) * N_WEEK_TRACES
    rows = np.repeat(np.arange(N_WEEK_TRACES), N_POLICIES)
    results["weeks"] = {"policy_by_trace_weeks": n_weeks} | best(
        lambda: run_batch(prepare_batch(weeks, for_weeks, [WORLD], trace=rows)), n_weeks * WEEK
    )
    return results


def optima(*, rng: np.random.Generator) -> dict[str, Any]:
    """Seconds of the exact optimum on two worlds, by what is asked for."""
    large = replace(WORLD, queue_limit=0.0)
    small = preset_environment("dataflow", max_step_up=1, max_step_down=1)
    nine_days = traffic(1, 9 * DAY, rng=rng)[0]
    megabytes = small.max_servers * small.capacity_per_tick * (nine_days / nine_days.max()) ** 3  # peaks need all five
    found: dict[str, Any] = {}
    for name, world, work in (
        ("two weeks, 100 servers", large, 4 * traffic(1, 2 * WEEK, rng=rng)[0]),
        ("dataflow, nine days", small, megabytes),
    ):
        demand = pd.Series(work, index=pd.date_range("2026-01-01", periods=len(work), freq="60s", tz="UTC"))
        found[name] = {
            "n_time": len(work), "boot": world.boot_delay_ticks, "cooldown": world.cooldown_ticks,
            "most_servers": min(int(servers_for(work.max(), world)), world.max_servers),
            "costs": best(lambda d=work, w=world: optimum_costs(d, w), len(work)),  # type: ignore[misc]
            "schedule": best(lambda d=demand, w=world: optimum(d, w), len(work)),  # type: ignore[misc]
        }  # fmt: skip
    return found


def main(*, only_optima: bool = False) -> None:
    """Measure and write the result; with `only_optima` that part alone, and the rest of the record stays."""
    if not only_optima:
        store("autoscaling_speed", engines(), ("numpy", "jax", "jaxlib"))
    store_part("autoscaling_speed", "optima", optima(rng=np.random.default_rng(SEED)), ("numpy", "numba"))


if __name__ == "__main__":
    main(only_optima="--optima" in sys.argv[1:])
