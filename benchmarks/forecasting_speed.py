"""Seconds to fit and forecast: the recommended forecaster against the size of the fleet, and others on the same series.

Run: python -m benchmarks.forecasting_speed [--most SERIES] [--jobs N]; writes benchmarks/results/forecasting_speed.json.
Series of 2,000 values of 5 minutes (a daily profile, a wandering level, bursts), a day ahead. Imports are not counted; the first
forecast of each model in a process is, for that is what a user waits for. Other programs may share the machine: CPU
seconds are the fairer clock then, and load_at_start says how busy it was; Prophet optimises in a child process, whose CPU
seconds are not among them.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported

import numpy as np
import pandas as pd

from benchmarks.record import store
from support.forecasting.local_models import LOCAL_MODELS
from support.forecasting.quantile_frame import QUANTILE_LEVELS
from support.forecasting.recommendation import RECOMMENDED, recommend, recommended

N_TIME, SEASON, HORIZON = 2000, 288, 288
SHORT_HORIZON = 24
SIZES = (10, 100, 1_000, 10_000)  # series, each at the short horizon
OTHERS = ("AutoETS (AZN)", "DynamicOptimizedTheta", "AutoARIMA (m=1)", "SARIMAX(1,1,2)+Fourier", "Prophet")
N_OTHERS, N_MANY = 8, 100  # series for each of the others, and of the target
SEED = 20261121


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


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--most", type=int, default=SIZES[-1], help="largest number of series")
    parser.add_argument("--jobs", type=int, default=2, help="processes for the target of 100 series")
    asked = parser.parse_args()
    rng = np.random.default_rng(SEED)
    results: dict[str, Any] = {"series": {"values": N_TIME, "season": SEASON, "horizon": HORIZON}}

    many = fleet(N_MANY, rng=rng)
    load, began = os.getloadavg()[0], time.perf_counter()
    with ProcessPoolExecutor(asked.jobs) as pool:
        cpu = list(pool.map(one, [(row, HORIZON) for row in many], chunksize=5))
    results[f"{RECOMMENDED}, {N_MANY} series, a day ahead"] = told(
        "100 series",
        {
            "wall_s": round(time.perf_counter() - began, 2),
            "cpu_s": round(sum(cpu), 2),
            "processes": asked.jobs,
            "load_at_start": round(load, 1),
        },
    )

    index = pd.date_range("2026-01-01", periods=N_TIME, freq="5min", tz="UTC")
    growth = results[f"{RECOMMENDED}, {SHORT_HORIZON} steps ahead, by number of series"] = {}
    for n in (n for n in SIZES if n <= asked.most):
        rows = fleet(n, rng=rng)
        panel = {f"s{k}": pd.Series(row, index) for k, row in enumerate(rows)}

        def work(panel: dict[str, pd.Series] = panel) -> None:
            chosen = recommend(panel, horizon=SHORT_HORIZON, season=SEASON, budget_s=1e9)
            for series in panel.values():
                chosen.quantiles(series.to_numpy())

        row: dict[str, Any] = timed(work)
        row["cpu_s_per_series"] = round(row["cpu_s"] / n, 5)
        growth[f"{n:,}"] = told(f"{n} series", row)

    sample = many[:N_OTHERS]
    others = results["CPU seconds a series, a day ahead"] = {}
    for name in (RECOMMENDED, *OTHERS):
        model = recommended if name == RECOMMENDED else LOCAL_MODELS[name]

        def run(model: Any = model) -> None:
            for values in sample:
                model(values, HORIZON, SEASON, QUANTILE_LEVELS, np.random.default_rng(SEED))

        row = timed(run)
        others[name] = told(name, row | {"cpu_s_per_series": round(row["cpu_s"] / len(sample), 4)})
    store("forecasting_speed", results, ("numpy", "pandas", "statsforecast", "statsmodels", "prophet"))


if __name__ == "__main__":
    main()
