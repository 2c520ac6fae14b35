"""The table of forecasters: every model through one rolling-origin protocol, raw and calibrated, with relSQL.

Run: python -m benchmarks.forecasting [--data FOLDER | --sets NAME ...] --profile ci|full [--models NAME ...]; writes
benchmarks/results/forecasting.json under the profile and the name of the data. Without --data: the registered traces,
which are the NAB series with two weeks or more (a day ahead at 5 minutes), the LLM requests at 10 s, and two long series
of requests, at a minute and at an hour. With --data: every CSV or Parquet file of the folder, a season of a day and a
horizon of a season, unless --season and --horizon say otherwise. `full` is six windows of every series (24 of a long
one), `ci` the first six series and the last three windows.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported

import numpy as np
import pandas as pd

from benchmarks.record import ROOT, store
from support.errors import BookError, SourceError
from support.forecasting.boosting import fit_boosting, fit_forest
from support.forecasting.calibration_online import residual_conformal, rolling_cqr
from support.forecasting.ensembles import median_ensemble, weighted_average, without_fallbacks
from support.forecasting.foundation import own_zero_shot
from support.forecasting.linear import fit_deep_rvfl, fit_ridge, fit_rvfl, fit_rvfl_ensemble
from support.forecasting.local_models import BASELINE, LOCAL_MODELS
from support.forecasting.metrics import seasonal_scale
from support.forecasting.neural.models import fit_bilstm_attention, fit_lstm, fit_transformer
from support.forecasting.protocol import GlobalModel, Rolled, RollingOrigin, roll
from support.forecasting.quantile_frame import arrays_of, frame_of
from support.forecasting.recommendation import RECOMMENDED, recommended
from support.forecasting.scores import aggregate, relative_loss, series_scores
from support.telemetry import Telemetry, list_traces, load
from support.telemetry.reading.files import SUFFIXES
from support.telemetry.reading.traces import read_llm_events

NAB_FOLDER, NAB_ROWS = "nab:realAWSCloudwatch/", 4032  # two weeks of 5 minutes
LLM_STEP = "10s"
DAY_SECONDS = 86_400
CI_SERIES, CI_WINDOWS = 6, 3
SHIFT_FRAC = 1 / 12  # of the season, by which the time of day of the cut-offs moves: 2 hours of a day
SHORT_FRAC = 1 / 12  # of the horizon, scored by itself as well
LONG_TIMES = 4  # as many windows of a series that stands alone
TRAINING_CONTEXTS = 4  # of a long series, before its first cut-off: global models learn from these
LOCAL_SEASONS, GLOBAL_SEASONS = 7, 2  # of context
SEED = 20261121
SEEDS = 2  # of each net; their quantiles are averaged
LOCAL = LOCAL_MODELS | {RECOMMENDED: recommended, own_zero_shot().name: own_zero_shot().local}
GLOBAL_MODELS: dict[str, GlobalModel] = {
    "Ridge": fit_ridge,
    "RVFL": fit_rvfl,
    "Deep RVFL": fit_deep_rvfl,
    "RVFL ensemble": fit_rvfl_ensemble,
    "Gradient boosting": fit_boosting,
    "Random forest": fit_forest,
    "LSTM": partial(fit_lstm, n_members=SEEDS),
    "Bi-LSTM attention": partial(fit_bilstm_attention, n_members=SEEDS),
    "Transformer": partial(fit_transformer, n_members=SEEDS),
}
# One of each kind, named before any ensemble was scored: experts on the series itself, trees, a net, and one that never saw it
MEMBERS = (RECOMMENDED, "Gradient boosting", "LSTM", "own zero-shot")
MEDIAN, WEIGHTED = "Median of four", "Weighted average of four"
SHOWN = ["rel_sql", "lower", "upper", "coverage_90", "mase", "smape", "wql", "sql"]
DIGITS = 4
PACKAGES = ("numpy", "pandas", "statsforecast", "statsmodels", "prophet", "numpyro", "jax", "flax", "scikit-learn")
Result = dict[str, Any]


@dataclass(frozen=True)
class DataSet:
    """Series of one step, the windows, and the horizons that are scored."""

    name: str
    panel: dict[str, pd.Series]
    plan: RollingOrigin
    scored: tuple[int, ...]


def filled_forward(telemetry: Telemetry, resource: str | None = None) -> pd.Series:
    """Demand of a resource; where loading interpolated, which knows the future, the last known value instead."""
    series = telemetry.demand(resource)
    if "quality_flag" in telemetry.observations:
        flags = telemetry.series("quality_flag", resource).reindex(series.index)
        series = series.mask(flags == 1).ffill().fillna(series)
    return series


def nab(n_windows: int) -> DataSet:
    """NAB series of CloudWatch with two weeks or more; 12 of the 16 that the reference table was first made on."""
    sources = [s for s in list_traces()["source"] if s.startswith(NAB_FOLDER)]
    panel = {s.removeprefix(NAB_FOLDER): filled_forward(load(s)) for s in sources}
    panel = {name: series for name, series in panel.items() if len(series) >= NAB_ROWS}
    plan = RollingOrigin(288, 312, 288, local_context=2016, global_context=576, n_windows=n_windows)
    return DataSet("nab", panel, plan, (24, 288))


def llm(n_windows: int) -> DataSet:
    """Requests, input and output tokens of a chat service per 10 s, 58 minutes in all: no season, hardly any past."""
    events = read_llm_events("conv").assign(requests=1.0).set_index("timestamp")
    table = events.resample(LLM_STEP).sum().iloc[:-1]  # the last is cut short
    panel = {str(name): table[name].astype(float) for name in table}
    plan = RollingOrigin(24, 24, 1, local_context=len(table), global_context=96, n_windows=n_windows)
    return DataSet("llm-10s", panel, plan, (24,))


def requests(source: str, step: str, horizon: int, season: int, context: int, n_windows: int) -> DataSet:
    """One long series of requests per `step`: its last windows, far enough apart that the time of day of the cut-offs moves."""
    series = load(source).resample(pd.Timedelta(step).total_seconds()).demand().astype(float)
    step_rows = horizon + max(1, round(horizon * SHIFT_FRAC))
    plan = RollingOrigin(horizon, step_rows, season, context, GLOBAL_SEASONS * season, n_windows)
    newest = series.iloc[-TRAINING_CONTEXTS * context - n_windows * plan.step :]
    short = max(1, round(horizon * SHORT_FRAC))
    return DataSet(f"{source}-{step}", {source: newest.ffill()}, plan, (short, horizon))


# an hour ahead by the minute with three days of context; a day ahead by the hour with three weeks
SETS: dict[str, Callable[[int], DataSet]] = {
    "nab": nab,
    "llm-10s": llm,
    "worldcup98-1min": lambda n: requests("worldcup98", "1min", 60, 1440, 4320, n * LONG_TIMES),
    "worldcup98-1h": lambda n: requests("worldcup98", "1h", 24, 24, 504, n * LONG_TIMES),
    "appserver-traffic-1h": lambda n: requests("appserver-traffic", "1h", 24, 168, 504, n * LONG_TIMES),
}


def folder(path: Path, n_windows: int, season: int | None, horizon: int | None) -> list[DataSet]:
    """The files of a folder, by step; what cannot be read or is too short is said and left out."""
    files = sorted(p for p in path.iterdir() if p.name.endswith(tuple(SUFFIXES))) if path.is_dir() else []
    if not files:
        raise SourceError(f"{path}: no folder with files of {', '.join(SUFFIXES)}. Name one with --data.")
    by_step: dict[float, dict[str, pd.Series]] = {}
    for file in files:
        try:
            telemetry = load(str(file))
            found = {f"{file.stem}/{r}": filled_forward(telemetry, r) for r in telemetry.resource_ids}
        except BookError as error:
            print(f"left out: {error}", file=sys.stderr)
            continue
        by_step.setdefault(telemetry.step_seconds, {}).update(found)
    made = []
    for step, panel in by_step.items():
        per_season = season or max(1, round(DAY_SECONDS / step))
        ahead = horizon or per_season
        plan = RollingOrigin(
            ahead, ahead + max(1, round(per_season * SHIFT_FRAC)), per_season, LOCAL_SEASONS * per_season,
            GLOBAL_SEASONS * per_season, n_windows,
        )  # fmt: skip
        kept = {name: series for name, series in panel.items() if fits(name, series, plan)}
        if kept:
            short = max(1, round(ahead * SHORT_FRAC))
            made.append(DataSet(f"{path.name} at {step:g} s", kept, plan, tuple(sorted({short, ahead}))))
    if not made:
        raise SourceError(f"{path}: no series is left to forecast. The reasons are above.")
    return made


def fits(name: str, series: pd.Series, plan: RollingOrigin) -> bool:
    """Whether the windows fit into a series and its errors have a scale; if not, say why it is left out."""
    try:
        seasonal_scale(series.to_numpy()[: plan.cutoffs(len(series))[0]], plan.season)
    except BookError as error:
        print(f"left out: {name}: {error}", file=sys.stderr)
        return False
    return True


def calibrated(frame: pd.DataFrame, data: DataSet) -> pd.DataFrame:
    """The later half of the windows: every model raw and calibrated in two ways on the windows before."""
    first, parts = data.plan.n_windows // 2, []
    for model in frame["model"].unique():
        raw = arrays_of(frame, model)
        parts.append(frame_of(raw.with_quantiles(raw.quantiles[:, first:], model, first)))
        for repair in (residual_conformal, rolling_cqr):
            parts.append(frame_of(repair(raw, block_ends=data.scored, first_window=first)))
    return pd.concat(parts, ignore_index=True)


def table(frame: pd.DataFrame, data: DataSet, horizon: int) -> pd.DataFrame:
    """Scores by model on the first `horizon` steps of every window; relSQL with its interval in front."""
    scores = series_scores(frame[frame["h"] <= horizon], data.panel, season=data.plan.season)
    relative = relative_loss(scores, baseline=BASELINE, rng=np.random.default_rng(SEED))
    return pd.concat([relative, aggregate(scores)], axis=1)


def plain(values: Mapping[Any, Any]) -> Result:
    """Numbers rounded, and undefined ones as null, for JSON."""
    return {
        str(k): plain(v) if isinstance(v, Mapping) else None if not math.isfinite(v) else float(f"{v:.{DIGITS}g}")
        for k, v in values.items()
    }


def run(data: DataSet, models: list[str]) -> Result:
    """All models on one data set: the tables by horizon, the ledger and the reasons of the fallbacks."""
    print(f"{data.name}: {len(data.panel)} series, {data.plan.n_windows} windows", file=sys.stderr, flush=True)
    rolled: Rolled = roll(
        data.panel,
        protocol=data.plan,
        local_models={name: model for name, model in LOCAL.items() if name in models},
        global_models={name: model for name, model in GLOBAL_MODELS.items() if name in models},
        rng=np.random.default_rng(SEED),
        progress=lambda line: print(f"  {line}", file=sys.stderr, flush=True),
    )
    result: Result = {"series": sorted(data.panel), "protocol": asdict(data.plan)}
    raw, later = rolled.frame, []
    if set(MEMBERS) <= set(models):
        members = [without_fallbacks(arrays_of(raw, name), rolled.failures) for name in MEMBERS]
        raw = pd.concat([raw, frame_of(median_ensemble(members, name=MEDIAN).forecasts)], ignore_index=True)
        half = data.plan.n_windows // 2
        later = [frame_of(weighted_average(members, first_window=half, name=WEIGHTED).forecasts)]
    for kind, frame in (("raw", raw), ("calibrated", pd.concat([calibrated(raw, data), *later], ignore_index=True))):
        result[kind] = {}
        for horizon in data.scored:
            scored = table(frame, data, horizon)
            result[kind][str(horizon)] = plain(scored.to_dict("index"))
            print(f"\n{data.name}, {kind}, h = {horizon}\n{scored[SHOWN].round(3).to_string()}", flush=True)
    print(f"\n{rolled.ledger.round(1).to_string()}", flush=True)
    result["ledger"] = plain(rolled.ledger.to_dict("index"))
    result["fallbacks"] = rolled.failures.astype(str).to_dict("records")
    return result


def merged(old: Result, new: Result) -> Result:
    """Results of some models put beside earlier ones of the others, if series and windows are the same."""
    if any(old.get(key) != new[key] for key in ("series", "protocol")):
        return new
    kept = [row for row in old["fallbacks"] if row["model"] not in new["ledger"]]
    tables = {kind: {h: old[kind][h] | new[kind][h] for h in new[kind]} for kind in ("raw", "calibrated")}
    return new | tables | {"ledger": old["ledger"] | new["ledger"], "fallbacks": kept + new["fallbacks"]}


def main() -> None:
    """Every data set in turn, then stored beside what is there of other profiles, data and models."""
    known = [*LOCAL, *GLOBAL_MODELS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of series, instead of the registered traces")
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS), help="registered traces")
    parser.add_argument("--profile", choices=("ci", "full"), default="ci")
    parser.add_argument("--models", nargs="+", choices=known, default=known, help="the baseline is always among them")
    parser.add_argument("--season", type=int, help="steps, with --data")
    parser.add_argument("--horizon", type=int, help="steps, with --data")
    asked = parser.parse_args()
    n_windows = CI_WINDOWS if asked.profile == "ci" else 6
    try:
        sets = (
            folder(asked.data, n_windows, asked.season, asked.horizon)
            if asked.data
            else [SETS[name](n_windows) for name in asked.sets]
        )
    except BookError as error:
        parser.exit(2, f"{error}\n")
    path = ROOT / "benchmarks" / "results" / "forecasting.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    for data in sets:
        if asked.profile == "ci":
            data = DataSet(data.name, dict(list(data.panel.items())[:CI_SERIES]), data.plan, data.scored)
        kept = results.setdefault(asked.profile, {})
        kept[data.name] = merged(kept.get(data.name, {}), run(data, [BASELINE, *asked.models]))
        store("forecasting", results, PACKAGES)


if __name__ == "__main__":
    main()
