"""The book's own zero-shot forecaster, judged: relSQL on real series that it never met, by the protocol of the table.

Run: python -m benchmarks.zero_shot [--weights FOLDER] [--sets NAME ...] [--store]. The validation sets (servers of SMD,
a region of Azure, the World Cup of 1998, all at 5 minutes) are there to choose by; `nab` and the others are the
test and are to be looked at as rarely as can be. --store writes benchmarks/results/zero_shot.json: scores of the
committed weights on all sets, and their card.
"""

from __future__ import annotations

import argparse
import os
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported

import numpy as np
import pandas as pd

from benchmarks.forecasting import SETS, DataSet, filled_forward, plain, table
from benchmarks.record import store
from support.forecasting.foundation import own_card, own_zero_shot
from support.forecasting.foundation.models import WEIGHTS
from support.forecasting.local_models import BASELINE, seasonal_naive_empirical
from support.forecasting.metrics import seasonal_scale
from support.forecasting.protocol import RollingOrigin, roll
from support.telemetry import load

NAME = "Own zero-shot (Chronos-2 tiny)"
STEP_SECONDS, N_WINDOWS, SEED = 300.0, 6, 20261121
VALIDATION = {"smd": "smd:machine-2-1", "azure-v2": "azure-v2-aggregate", "worldcup98-5min": "worldcup98"}
FEWEST_VALUES = 30  # different ones, in a series worth a forecast
TEST_SCORED = 1  # whole times that NAB was scored before the choices were final: the weights of run 1
MEASURES = ("rel_sql", "lower", "upper", "coverage_90", "mase", "wql")


def validation(name: str) -> DataSet:
    """The newest windows of every series of a source, at 5 minutes, as NAB is cut."""
    telemetry = load(VALIDATION[name]).resample(STEP_SECONDS)
    plan = RollingOrigin(288, 312, 288, local_context=2016, global_context=576, n_windows=N_WINDOWS)
    panel: dict[str, pd.Series] = {}
    columns = [c for c in telemetry.observations.columns if c != "quality_flag"]
    for resource in telemetry.resource_ids:
        for column in columns:
            series = filled_forward(telemetry) if len(columns) == 1 else telemetry.series(column, resource).ffill()
            series = series.dropna().astype(float)
            past = series.to_numpy()[: -plan.horizon - plan.step * (N_WINDOWS - 1)]
            if len(past) > 2 * plan.season and len(np.unique(past)) >= FEWEST_VALUES:
                seasonal_scale(past, plan.season)
                panel[f"{resource}/{column}"] = series
    return DataSet(name, panel, plan, (24, 288))


def judge(data: DataSet, weights: Path) -> dict[str, dict[str, float]]:
    """Scores by horizon of the weights of a folder."""
    began = time.process_time()
    rolled = roll(
        data.panel, protocol=data.plan, rng=np.random.default_rng(SEED),
        local_models={BASELINE: seasonal_naive_empirical, NAME: own_zero_shot(weights).local},
    )  # fmt: skip
    found = {}
    for horizon in data.scored:
        scored = table(rolled.frame, data, horizon).loc[NAME]
        found[str(horizon)] = {m: float(scored[m]) for m in MEASURES}
    found["cost"] = {
        "cpu_s": float(rolled.ledger.loc[NAME, "cpu_s"]),
        "forecasts": float(rolled.ledger.loc[NAME, "forecasts"]),
    }
    said = "  ".join(
        f"h={h}: {found[str(h)]['rel_sql']:.3f} cov {found[str(h)]['coverage_90']:.3f}" for h in data.scored
    )
    print(f"{data.name} ({len(data.panel)} series)  {said}  [{time.process_time() - began:.0f} s]", flush=True)
    return found


def main() -> None:
    """The sets that were asked for, and perhaps the record."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--weights", type=Path, default=WEIGHTS)
    parser.add_argument("--sets", nargs="+", choices=[*VALIDATION, *SETS], default=list(VALIDATION))
    parser.add_argument("--store", action="store_true")
    asked = parser.parse_args()
    results = {}
    for name in [*VALIDATION, *SETS] if asked.store else asked.sets:
        data = validation(name) if name in VALIDATION else SETS[name](N_WINDOWS)
        results[name] = plain(judge(data, WEIGHTS if asked.store else asked.weights))
    if asked.store:
        store(
            "zero_shot",
            {"card": own_card(), "test_scored_before_choice": TEST_SCORED, "scores": results},
            ("numpy", "pandas", "scipy"),
        )


if __name__ == "__main__":
    main()
