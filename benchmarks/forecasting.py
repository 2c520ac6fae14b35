"""The table of forecasters: every model through one rolling-origin protocol, raw and calibrated, with relSQL.

Run: python -m benchmarks.forecasting [--data FOLDER | --sets NAME ...] --profile ci|full [--models NAME ...]; writes
benchmarks/results/forecasting.json under the profile and the name of the data. Without --data: the registered traces,
which are the NAB series with two weeks or more (a day ahead at 5 minutes), the LLM requests at 10 s, and two long series
of requests, at a minute and at an hour; --sets takes the other sets of the mirror as well, one by one or all of them as
`mirror`. With --data: every CSV or Parquet file of the folder, a season of a day and a horizon of a season, unless
--season and --horizon say otherwise. `full` is six windows of every series (24 of a long one), `ci` the first six series
and the last three windows. Rows of models that are not run again stay, each with its date and commit.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported

import numpy as np
import pandas as pd

from benchmarks.forecasting_runs import Result, merged, plain
from benchmarks.forecasting_sets import MIRROR, SETS, SHIFT_FRAC, SHORT_FRAC, DataSet, filled_forward, fitting
from benchmarks.record import ROOT, stamp, store
from support.errors import BookError, SourceError
from support.forecasting.boosting import fit_boosting, fit_forest
from support.forecasting.calibration_online import residual_conformal, rolling_cqr
from support.forecasting.ensembles import median_ensemble, weighted_average, without_fallbacks
from support.forecasting.foundation import own_zero_shot
from support.forecasting.linear import fit_deep_rvfl, fit_emd_rvfl, fit_ridge, fit_rvfl, fit_rvfl_ensemble
from support.forecasting.local_models import BASELINE, LOCAL_MODELS
from support.forecasting.neural.models import fit_bilstm_attention, fit_lstm, fit_transformer
from support.forecasting.protocol import GlobalModel, Rolled, RollingOrigin, roll
from support.forecasting.quantile_frame import arrays_of, frame_of
from support.forecasting.recommendation import RECOMMENDED, recommended
from support.forecasting.scores import aggregate, loss_ratios, relative_loss, series_scores, window_losses
from support.telemetry import load
from support.telemetry.reading.files import SUFFIXES

DAY_SECONDS = 86_400
CI_SERIES, CI_WINDOWS, FULL_WINDOWS = 6, 3, 6
LOCAL_SEASONS, GLOBAL_SEASONS = 7, 2  # of context, with --data
SEED = 20261121
SEEDS = 2  # of each net; their quantiles are averaged
LOCAL = LOCAL_MODELS | {RECOMMENDED: recommended, own_zero_shot().name: own_zero_shot().local}
GLOBAL_MODELS: dict[str, GlobalModel] = {
    "Ridge": fit_ridge,
    "RVFL": fit_rvfl,
    "Deep RVFL": fit_deep_rvfl,
    "RVFL ensemble": fit_rvfl_ensemble,
    "EMD RVFL": fit_emd_rvfl,
    "Gradient boosting": fit_boosting,
    "Random forest": fit_forest,
    "LSTM": partial(fit_lstm, n_members=SEEDS),
    "Bi-LSTM attention": partial(fit_bilstm_attention, n_members=SEEDS),
    "Transformer": partial(fit_transformer, n_members=SEEDS),
}
# One of each kind, named before any ensemble was scored: experts on the series itself, trees, a net, and one that never saw it
MEMBERS = (RECOMMENDED, "Gradient boosting", "LSTM", "own zero-shot")
MEDIAN, WEIGHTED = "Median of four", "Weighted average of four"
# Of eight ensembles tried on windows of the NAB series that end before the first judged one, the median of these lost
# least; on four other sets none of the eight was better than the first member alone by more than 1.5 %
TRIO, MEDIAN_OF_TRIO = MEMBERS[:3], "Median of three"
ENSEMBLES = {MEDIAN: MEMBERS, WEIGHTED: MEMBERS, MEDIAN_OF_TRIO: TRIO}
SHOWN = ["rel_sql", "lower", "upper", "worst", "coverage_90", "mase", "smape", "wql", "sql"]
ALL_MIRROR = "mirror"  # with --sets
PACKAGES = ("numpy", "pandas", "statsforecast", "statsmodels", "prophet", "numpyro", "jax", "flax", "scikit-learn")


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
        short = max(1, round(ahead * SHORT_FRAC))
        data = fitting(f"{path.name} at {step:g} s", panel, plan, tuple(sorted({short, ahead})))
        if data.panel:
            made.append(data)
    if not made:
        raise SourceError(f"{path}: no series is left to forecast. The reasons are above.")
    return made


def calibrated(frame: pd.DataFrame, data: DataSet) -> pd.DataFrame:
    """The later half of the windows: every model raw and calibrated in two ways on the windows before."""
    first, parts = data.plan.n_windows // 2, []
    for model in frame["model"].unique():
        raw = arrays_of(frame, model)
        parts.append(frame_of(raw.with_quantiles(raw.quantiles[:, first:], model, first)))
        for repair in (residual_conformal, rolling_cqr):
            parts.append(frame_of(repair(raw, block_ends=data.scored, first_window=first)))
    return pd.concat(parts, ignore_index=True)


def judged(frame: pd.DataFrame, data: DataSet, horizon: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Scores by model on the first `horizon` steps of every window, relSQL in front, and ratios (model, series)."""
    near = frame[frame["h"] <= horizon]
    scores = series_scores(near, data.panel, season=data.plan.season)
    relative = relative_loss(
        scores, baseline=BASELINE, rng=np.random.default_rng(SEED),
        by_window=window_losses(near) if len(data.panel) == 1 else None,
    )  # fmt: skip
    return pd.concat([relative, aggregate(scores)], axis=1), loss_ratios(scores, baseline=BASELINE)


def table(frame: pd.DataFrame, data: DataSet, horizon: int) -> pd.DataFrame:
    """Scores by model on the first `horizon` steps of every window; relSQL with its interval in front."""
    return judged(frame, data, horizon)[0]


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
    result: Result = {"series": sorted(data.panel), "protocol": asdict(data.plan), "left_out": sorted(data.left_out)}
    raw, later = rolled.frame, []
    if set(MEMBERS) <= set(models):
        members = [without_fallbacks(arrays_of(raw, name), rolled.failures) for name in MEMBERS]
        raw = pd.concat([raw, frame_of(median_ensemble(members, name=MEDIAN).forecasts)], ignore_index=True)
        half = data.plan.n_windows // 2
        trio = median_ensemble(members[: len(TRIO)], name=MEDIAN_OF_TRIO).forecasts
        later = [
            frame_of(weighted_average(members, first_window=half, name=WEIGHTED).forecasts),
            frame_of(trio.with_quantiles(trio.quantiles[:, half:], MEDIAN_OF_TRIO, half)),
        ]
    result["ratios"] = {}
    for kind, frame in (("raw", raw), ("calibrated", pd.concat([calibrated(raw, data), *later], ignore_index=True))):
        result[kind] = {}
        for horizon in data.scored:
            scored, ratios = judged(frame, data, horizon)
            result[kind][str(horizon)] = plain(scored.to_dict("index"))
            if kind == "raw":
                result["ratios"][str(horizon)] = plain(ratios.drop(index=BASELINE).to_dict("index"))
            print(f"\n{data.name}, {kind}, h = {horizon}\n{scored[SHOWN].round(3).to_string()}", flush=True)
    print(f"\n{rolled.ledger.round(1).to_string()}", flush=True)
    result["ledger"] = plain(rolled.ledger.to_dict("index"))
    result["runs"] = dict.fromkeys([*rolled.ledger.index, *(ENSEMBLES if later else [])], stamp())
    result["fallbacks"] = rolled.failures.astype(str).to_dict("records")
    return result


def named(sets: Sequence[str]) -> list[str]:
    """The sets that were asked for, once each, `mirror` standing for all the others of the mirror."""
    return list(dict.fromkeys(one for name in sets for one in (MIRROR if name == ALL_MIRROR else [name])))


def main() -> None:
    """Every data set in turn, then stored beside what is there of other profiles, data and models."""
    known = [*LOCAL, *GLOBAL_MODELS]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of series, instead of the registered traces")
    sets = [*SETS, *MIRROR, ALL_MIRROR]
    parser.add_argument("--sets", nargs="+", choices=sets, default=list(SETS), help="registered traces")
    parser.add_argument("--profile", choices=("ci", "full"), default="ci")
    parser.add_argument("--models", nargs="+", choices=known, default=known, help="the baseline is always among them")
    parser.add_argument("--season", type=int, help="steps, with --data")
    parser.add_argument("--horizon", type=int, help="steps, with --data")
    asked = parser.parse_args()
    n_windows = CI_WINDOWS if asked.profile == "ci" else FULL_WINDOWS
    try:
        made = (
            folder(asked.data, n_windows, asked.season, asked.horizon)
            if asked.data
            else [(SETS | MIRROR)[name](n_windows) for name in named(asked.sets)]
        )
    except BookError as error:
        parser.exit(2, f"{error}\n")
    path = ROOT / "benchmarks" / "results" / "forecasting.json"
    for data in made:
        if asked.profile == "ci":
            data = replace(data, panel=dict(list(data.panel.items())[:CI_SERIES]))
        found = run(data, [BASELINE, *asked.models])
        # read only now: another run may have written meanwhile
        results = json.loads(path.read_text())["results"] if path.exists() else {}
        kept = results.setdefault(asked.profile, {})
        kept[data.name] = merged(kept.get(data.name, {}), found, ensembles=ENSEMBLES, baseline=BASELINE)
        store("forecasting", results, PACKAGES, quiet=True)


if __name__ == "__main__":
    main()
