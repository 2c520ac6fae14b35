"""Seconds to fit and forecast: the recommended forecaster by the size of the fleet, others on the same series, and patches.

Run: python -m benchmarks.forecasting_speed [--only hundred|growth|others|patches ...] [--most SERIES] [--jobs N]; writes
benchmarks/results/forecasting_speed.json, where parts that are not measured again stay, each with its date and commit.
Series of 2,000 values of 5 minutes (a daily profile, a wandering level, bursts), a day ahead. Imports are not counted; the first
forecast of each model in a process is, for that is what a user waits for. Other programs may share the machine: CPU
seconds are the fairer clock then, and load_at_start says how busy it was; Prophet optimises in a child process, whose CPU
seconds are not among them. Patches: a step of the training of the LSTM, and of the multi-scale transformer, that read
their context value by value, against one in blocks; compilation not counted.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported

import numpy as np
import pandas as pd

from benchmarks.record import ROOT, stamp, store
from support.forecasting.local_models import LOCAL_MODELS
from support.forecasting.neural.models import fit_lstm, fit_transformer
from support.forecasting.neural.training import TrainingPlan
from support.forecasting.quantile_frame import QUANTILE_LEVELS
from support.forecasting.recommendation import RECOMMENDED, recommend, recommended

N_TIME, SEASON, HORIZON = 2000, 288, 288
SHORT_HORIZON = 24
SIZES = (10, 100, 1_000, 10_000)  # series, each at the short horizon
OTHERS = ("AutoETS (AZN)", "DynamicOptimizedTheta", "AutoARIMA (m=1)", "SARIMAX(1,1,2)+Fourier", "Prophet")
N_OTHERS, N_MANY = 8, 100  # series for each of the others, and of the target
PATCHES, PATCH_CONTEXT = (1, 4, 12), 576  # steps; the last is the book's own
# Steps of the optimiser between two looks at the clock, as many before that compile: attention over single steps is slow
PATCHED = {"LSTM": (fit_lstm, 50), "Transformer": (fit_transformer, 5)}
# The pair that was said to be 15 times apart, 19 with the larger batch: two layers, value by value, against one layer over
# patches of 8, seven levels
SAID = {"context": 96, "horizon": 24}
SAID_LEVELS = QUANTILE_LEVELS[1::2]
SAID_PAIR = ({"patch": 1, "n_layer": 2}, {"patch": 8, "n_layer": 1})
SAID_BATCHES = (64, 256)
SEED = 20261121
PARTS = {  # by --only, the name in the record
    "hundred": f"{RECOMMENDED}, {N_MANY} series, a day ahead",
    "growth": f"{RECOMMENDED}, {SHORT_HORIZON} steps ahead, by number of series",
    "others": "CPU seconds a series, a day ahead",
    "patches": "patches",
}
PACKAGES = ("numpy", "pandas", "statsforecast", "statsmodels", "prophet", "jax", "flax")


def fleet(n_series: int, *, rng: np.random.Generator) -> np.ndarray:
    """Made-up demand (n_series, N_TIME), in requests per 5 minutes."""
    phase = 2 * np.pi * (np.arange(N_TIME) / SEASON + rng.random((n_series, 1)))
    level = 100 * np.exp(0.02 * rng.standard_normal((n_series, N_TIME)).cumsum(axis=1) / np.sqrt(SEASON))
    bursts = (rng.random((n_series, N_TIME)) < 0.01) * rng.gamma(2.0, 50.0, (n_series, N_TIME))
    return level * (1 + 0.5 * np.sin(phase)) + rng.normal(0, 5, (n_series, N_TIME)) + bursts


def one(task: tuple[np.ndarray, int]) -> float:
    """CPU seconds of one recommended forecast."""
    began = time.process_time()
    recommended(task[0], task[1], SEASON, QUANTILE_LEVELS, np.random.default_rng(SEED))
    return time.process_time() - began


def timed(work: Callable[[], Any]) -> dict[str, float]:
    """Wall and CPU seconds of this process for `work`, and the load before it."""
    load, wall, cpu = os.getloadavg()[0], time.perf_counter(), time.process_time()
    work()
    return {
        "wall_s": round(time.perf_counter() - wall, 3),
        "cpu_s": round(time.process_time() - cpu, 3),
        "load_at_start": round(load, 1),
    }


def told(name: str, row: dict[str, Any]) -> dict[str, Any]:
    """The row itself, printed."""
    print(name, row, file=sys.stderr, flush=True)
    return row


def hundred(many: np.ndarray, jobs: int) -> dict[str, Any]:
    """The target: 100 series, a day ahead, on `jobs` processes."""
    load, began = os.getloadavg()[0], time.perf_counter()
    with ProcessPoolExecutor(jobs) as pool:
        cpu = list(pool.map(one, [(row, HORIZON) for row in many], chunksize=5))
    row = {"wall_s": round(time.perf_counter() - began, 2), "cpu_s": round(sum(cpu), 2)}
    return told("100 series", row | {"processes": jobs, "load_at_start": round(load, 1)})


def growth(most: int, *, rng: np.random.Generator) -> dict[str, Any]:
    """The recommended forecaster on fleets of growing size, at the short horizon."""
    index = pd.date_range("2026-01-01", periods=N_TIME, freq="5min", tz="UTC")
    found = {}
    for n in (n for n in SIZES if n <= most):
        panel = {f"s{k}": pd.Series(row, index) for k, row in enumerate(fleet(n, rng=rng))}

        def work(panel: dict[str, pd.Series] = panel) -> None:
            chosen = recommend(panel, horizon=SHORT_HORIZON, season=SEASON, budget_s=1e9)
            for series in panel.values():
                chosen.quantiles(series.to_numpy())

        row: dict[str, Any] = timed(work)
        row["cpu_s_per_series"] = round(row["cpu_s"] / n, 5)
        found[f"{n:,}"] = told(f"{n} series", row)
    return found


def others(sample: np.ndarray) -> dict[str, Any]:
    """The recommended forecaster and others, a day ahead of the same series."""
    found = {}
    for name in (RECOMMENDED, *OTHERS):
        model = recommended if name == RECOMMENDED else LOCAL_MODELS[name]

        def run(model: Any = model) -> None:
            for values in sample:
                model(values, HORIZON, SEASON, QUANTILE_LEVELS, np.random.default_rng(SEED))

        row = timed(run)
        found[name] = told(name, row | {"cpu_s_per_series": round(row["cpu_s"] / len(sample), 4)})
    return found


def training_step(
    net: str, train: dict[str, np.ndarray], *, context: int, horizon: int, batch: int = 64,
    levels: np.ndarray = QUANTILE_LEVELS, **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Milliseconds of a step of a net's training, with its share of one look at the validation slice."""
    (fit, steps), load, clocks = PATCHED[net], os.getloadavg()[0], []
    fit(
        train, context=context, horizon=horizon, season=SEASON, levels=levels, rng=np.random.default_rng(SEED),
        plan=TrainingPlan(steps=2 * steps, judge_every=steps, batch=batch), **options,
        progress=lambda *_: clocks.append((time.perf_counter(), time.process_time())),
    )  # fmt: skip
    wall, cpu = (1000 * (last - first) / steps for first, last in zip(*clocks, strict=True))
    row = {"wall_ms_a_step": round(wall, 2), "cpu_ms_a_step": round(cpu, 2), "load_at_start": round(load, 1)}
    return told(f"{net}, context {context}, batch {batch}, {options}", row)


def in_turns(measured: list[Callable[[], dict[str, Any]]]) -> list[dict[str, Any]]:
    """The median of three rounds of each, by processor time, one after the other in each round."""
    rounds = [[one() for one in measured] for _ in range(3)]
    return [sorted(rows, key=lambda row: row["cpu_ms_a_step"])[1] for rows in zip(*rounds, strict=True)]


def faster(slow: dict[str, Any], fast: dict[str, Any]) -> float:
    """How many times as fast, by processor time: the clock on the wall tells as much of other programs."""
    return round(float(slow["cpu_ms_a_step"] / fast["cpu_ms_a_step"]), 2)


def patches(many: np.ndarray) -> dict[str, Any]:
    """A step of training by the length of the patches, and how many times as fast the last length is as the first."""
    train = {f"s{k}": row for k, row in enumerate(many)}
    found: dict[str, Any] = {"context": PATCH_CONTEXT, "horizon": HORIZON, "series": len(many)}
    for net in PATCHED:
        each = partial(training_step, net, train, context=PATCH_CONTEXT, horizon=HORIZON)
        rows = in_turns([partial(each, patch=patch) for patch in PATCHES])
        found[net] = dict(zip(map(str, PATCHES), rows, strict=True)) | {"faster": faster(rows[0], rows[-1])}
    said: dict[str, Any] = dict(SAID)
    for batch in SAID_BATCHES:
        each = partial(training_step, "LSTM", train, **SAID, levels=SAID_LEVELS, batch=batch)
        slow, fast = in_turns([partial(each, **one) for one in SAID_PAIR])
        said[str(batch)] = {"slow": SAID_PAIR[0] | slow, "fast": SAID_PAIR[1] | fast, "faster": faster(slow, fast)}
    return found | {"said": said}


def main() -> None:
    """Measure what was asked for and write it beside the rest."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(PARTS), default=list(PARTS), help="parts to measure")
    parser.add_argument("--most", type=int, default=SIZES[-1], help="largest number of series")
    parser.add_argument("--jobs", type=int, default=2, help="processes for the target of 100 series")
    asked = parser.parse_args()
    path = ROOT / "benchmarks" / "results" / "forecasting_speed.json"
    results: dict[str, Any] = json.loads(path.read_text())["results"] if path.exists() else {}
    results["series"] = {"values": N_TIME, "season": SEASON, "horizon": HORIZON}
    many = fleet(N_MANY, rng=np.random.default_rng(SEED))
    work: dict[str, Callable[[], dict[str, Any]]] = {
        "hundred": lambda: hundred(many, asked.jobs),
        "growth": lambda: growth(asked.most, rng=np.random.default_rng([SEED, 1])),
        "others": lambda: others(many[:N_OTHERS]),
        "patches": lambda: patches(many),
    }
    for part in asked.only:
        results[PARTS[part]] = work[part]()
        results.setdefault("measured", {})[PARTS[part]] = stamp()
        store("forecasting_speed", results, PACKAGES, quiet=True)


if __name__ == "__main__":
    main()
