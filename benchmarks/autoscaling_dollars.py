"""Forecasters of part III ranked by dollars: CRPS, loss at the level that is bought, and bills through three policies.

Run: python -m benchmarks.autoscaling_dollars [--only TRACE ...]; writes benchmarks/results/autoscaling_dollars.json after
every trace and keeps the traces that are not asked for. Past, test days, world and horizon are those of
benchmarks/autoscaling.py; so is the aggregate, whose experts are the ridge, persistence, the trees and the recommended
one. Every forecaster sees the past only: the recommended one, the zero-shot one and the ridge speak anew at each tick,
as do the trees, fitted once a week, and the net, fitted every four; MSTL plans a day ahead at the hour at which the
test begins. Needs BOOK_DATA.
Traces: those of ticks of 5 minutes or more whose past holds a week of days; of the four series of tweets the first.
"""

from __future__ import annotations

import argparse
import json
import time
import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.autoscaling import SEED, Case, Row, case_of, suite
from benchmarks.record import ROOT, stamp, store
from support.autoscaling import ForecastMean, Newsvendor, Policy
from support.autoscaling.mpc import StochasticMPC
from support.autoscaling.oracle import optimum, regret
from support.autoscaling.rolling import forecast_scores, roll_boosting, roll_global, roll_local, roll_seasonal_naive
from support.errors import SourceError
from support.forecasting import RollingQuantiles, roll_calibrated, roll_daily
from support.forecasting.foundation import own_zero_shot
from support.forecasting.local_models import LOCAL_MODELS
from support.forecasting.neural.models import NeuralForecast, fit_lstm
from support.forecasting.neural.training import TrainingPlan
from support.forecasting.recommendation import recommended

TRACES = ("appserver-traffic", "nab taxi trips", "nab elb requests", "nab network in 257a54", "nab tweets AAPL")
# Of the net: chosen, as its horizon of no more than is asked, among six on the last quarter of two or three pasts, by CRPS
CONTEXT_DAYS, PATCHES_A_DAY, NET_DAYS = 2, 48, 28.0  # what it sees, its blocks, and how often it is fitted
PLAN = TrainingPlan(steps=1000, judge_every=50, patience=5, batch=32)
POLICIES: dict[str, Policy] = {"mean": ForecastMean(), "newsvendor": Newsvendor(), "mpc": StochasticMPC()}
Made = Callable[[], RollingQuantiles]


def small_net(train: dict[str, np.ndarray], *, season: int, **rest: Any) -> NeuralForecast:
    """The LSTM of chapter 07 on one series, over patches of half an hour or single longer steps."""
    patch = max(1, season // PATCHES_A_DAY)
    return fit_lstm(train, season=season, width=32, patch=patch, dropout=0.2, plan=PLAN, **rest)


def makers(case: Case, train_days: float) -> dict[str, Made]:
    """How each forecaster makes its rows for the test days of `case`."""
    demand, rng = pd.concat([case.train, case.test]), np.random.default_rng([SEED, zlib.crc32(case.name.encode())])
    span = {"train_days": train_days, "horizon_ticks": case.rolling.mean.shape[1], "lag_ticks": case.rolling.lag_ticks}
    local = partial(roll_local, demand, case.test.index[0], **span, rng=rng)
    start, context = (demand, case.test.index[0]), CONTEXT_DAYS * round(86_400 / case.world.tick_seconds)
    return {
        "ridge": lambda: roll_daily(*start, **span),
        "ridge, recalibrated": lambda: roll_calibrated(*start, **span),
        "aggregate": lambda: case.rolling,
        "seasonal naive": lambda: roll_seasonal_naive(*start, **span),
        "MSTL, daily plan": lambda: local(model=LOCAL_MODELS["MSTL+AutoETS (ZZN)"], name="MSTL, daily plan"),
        "recommended": lambda: local(model=recommended, name="recommended", refit_days=0.0),
        "own zero-shot": lambda: local(model=own_zero_shot().local, name="own zero-shot", refit_days=0.0),
        "gradient boosting": lambda: roll_boosting(*start, **span, rng=rng),
        "LSTM": lambda: roll_global(
            *start, **span, rng=rng, model=small_net, name="LSTM", refit_days=NET_DAYS, context_ticks=context
        ),
    }


def dollars_of(case: Case, made: dict[str, Made]) -> Row:
    """One row a forecaster: scores at the boot delay, and bill and regret of each policy; the optimum beside them."""
    best = optimum(case.test, case.world, initial_servers=case.first)
    delay, level, rows = case.world.boot_delay_ticks, case.world.critical_fractile, []
    for name, make in made.items():
        began = time.process_time()
        rolling = make()
        row: Row = {"forecaster": name, "cpu_s": round(time.process_time() - began, 2)}
        near = replace(rolling, quantiles=rolling.quantiles[:, : delay + 1], mean=rolling.mean[:, : delay + 1])
        row |= {key: float(value) for key, value in forecast_scores(near, case.test, level=level).items()}
        for policy, rule in POLICIES.items():
            bill = replace(case, rolling=rolling).run(rule).cost_usd
            row[f"{policy}_usd"] = round(float(bill), 4)
            row[f"{policy}_regret_frac"] = round(float(regret(bill, best.lower_usd)), 4)
        print(f"{case.name}, {name}: {row['cpu_s']:.0f} s, CRPS {row['crps']:.4g}", flush=True)
        rows.append(row)
    return {
        "ticks": len(case.test), "tick_seconds": case.world.tick_seconds, "boot_delay_ticks": delay,
        "first_tick": str(case.test.index[0]), "level": level, "optimum_usd": round(best.lower_usd, 4),
        "notes": list(case.notes), "stamp": stamp(), "rows": rows,
    }  # fmt: skip


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="*", choices=TRACES, default=list(TRACES))
    path = ROOT / "benchmarks" / "results" / "autoscaling_dollars.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {"traces": {}}
    for name in parser.parse_args().only:
        trace, began = suite()[name], time.process_time()
        try:
            case = case_of(name, trace)
        except SourceError as error:
            print(f"{name}: left out ({error})", flush=True)
            continue
        results["traces"][name] = dollars_of(case, makers(case, trace.train_days))
        results["traces"][name]["cpu_s"] = round(time.process_time() - began, 1)
        store("autoscaling_dollars", results, ("numpy", "pandas", "statsforecast", "scikit-learn", "jax"), quiet=True)
        print(f"{name}: {results['traces'][name]['cpu_s']:.0f} s of one core", flush=True)


if __name__ == "__main__":
    main()
