"""Named sets of series for the table of forecasters: those that its targets name, and all the others of the mirror.

`SETS` are judged by every model. `MIRROR` are the rest of the registered series that are long enough for their windows;
the recommended forecaster is held against seasonal naive on each of them. What was cut how was fixed before the first
run: nothing is thinned out; a series is left out only if its windows do not fit or its past repeats itself exactly, so
that no error has a scale, and is then said and named in the record.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import pandas as pd

from support.errors import BookError
from support.forecasting.metrics import seasonal_scale
from support.forecasting.protocol import RollingOrigin
from support.telemetry import Telemetry, list_traces, load
from support.telemetry.reading.traces import read_llm_events

__all__ = ["MIRROR", "SETS", "SHIFT_FRAC", "SHORT_FRAC", "DataSet", "filled_forward", "fitting"]

NAB, NAB_FOLDER, NAB_ROWS = "nab:", "nab:realAWSCloudwatch/", 4032  # two weeks of 5 minutes
TAXI = "nab:realKnownCause/nyc_taxi"
FIVE_MINUTES_SECONDS = 300.0
LLM_STEP = "10s"
SHIFT_FRAC = 1 / 12  # of the season, by which the time of day of the cut-offs moves: 2 hours of a day
SHORT_FRAC = 1 / 12  # of the horizon, scored by itself as well
LONG_TIMES = 4  # as many windows of a series that stands alone
TRAINING_CONTEXTS = 4  # of a long series, before its first cut-off: global models learn from these
GLOBAL_SEASONS = 2  # of context
# A day of 5 minutes ahead, every 26 hours, from a week of past: how the reference cut the NAB series
DAY_AHEAD = RollingOrigin(288, 312, 288, local_context=2016, global_context=576)


@dataclass(frozen=True)
class DataSet:
    """Series of one step, the windows, the horizons that are scored, and the series that could not be used."""

    name: str
    panel: dict[str, pd.Series]
    plan: RollingOrigin
    scored: tuple[int, ...]
    left_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class _Machines:
    """Sources that begin with `prefix`, every metric of every resource of which is a series, at one step and one plan."""

    prefix: str
    plan: RollingOrigin
    scored: tuple[int, ...]
    step_seconds: float | None = None  # the source's own


def filled_forward(telemetry: Telemetry, resource: str | None = None) -> pd.Series:
    """Demand of a resource; where loading interpolated, which knows the future, the last known value instead."""
    series = telemetry.demand(resource)
    if "quality_flag" in telemetry.observations:
        flags = telemetry.series("quality_flag", resource).reindex(series.index)
        series = series.mask(flags == 1).ffill().fillna(series)
    return series


def known(telemetry: Telemetry, metric: str, resource: str | None = None) -> pd.Series:
    """One metric; where it is missing, or loading interpolated, the last known value; nothing before the first."""
    series = telemetry.series(metric, resource).astype(float)
    if "quality_flag" in telemetry.observations:
        series = series.mask(telemetry.series("quality_flag", resource) == 1)
    return series.ffill().dropna()


def fitting(name: str, panel: dict[str, pd.Series], plan: RollingOrigin, scored: tuple[int, ...]) -> DataSet:
    """The series whose windows fit and whose errors have a scale; of each other it is said why it is left out."""
    kept, gone = {}, []
    for one, series in panel.items():
        try:
            seasonal_scale(series.to_numpy()[: plan.cutoffs(len(series))[0]], plan.season)
        except BookError as error:
            print(f"left out: {one}: {error}", file=sys.stderr)
            gone.append(one)
        else:
            kept[one] = series
    return DataSet(name, kept, plan, scored, tuple(gone))


def nab(n_windows: int) -> DataSet:
    """NAB series of CloudWatch with two weeks or more; 12 of the 16 that the reference table was first made on."""
    panel = {s.removeprefix(NAB_FOLDER): filled_forward(load(s)) for s in _sources(NAB_FOLDER)}
    panel = {name: series for name, series in panel.items() if len(series) >= NAB_ROWS}
    return DataSet("nab", panel, replace(DAY_AHEAD, n_windows=n_windows), (24, 288))


def nab_rest(n_windows: int, *, long: bool) -> DataSet:
    """The other NAB series of 5 minutes: with two weeks of values or more as `nab`, with less two hours ahead."""
    panel = {}
    for source in _sources(NAB):
        telemetry = load(source)
        metric = telemetry.metrics[0]
        is_long = telemetry.observations[metric].notna().sum() >= NAB_ROWS
        in_nab = is_long and source.startswith(NAB_FOLDER)
        if telemetry.step_seconds == FIVE_MINUTES_SECONDS and is_long == long and not in_nab:
            panel[source.removeprefix(NAB)] = known(telemetry, metric)
    if long:
        return fitting("nab-others", panel, replace(DAY_AHEAD, n_windows=n_windows), (24, 288))
    return fitting("nab-short", panel, RollingOrigin(24, 26, 288, 864, 96, n_windows), (2, 24))


def nab_taxi(n_windows: int) -> DataSet:
    """Taxi rides per half hour, a day ahead from six weeks of past; the season is a week."""
    telemetry = load(TAXI)
    panel = {TAXI.removeprefix(NAB): known(telemetry, telemetry.metrics[0])}
    return fitting("nab-taxi", panel, RollingOrigin(48, 52, 336, 2016, 672, n_windows * LONG_TIMES), (4, 48))


def llm(n_windows: int, *, service: str, name: str) -> DataSet:
    """Requests, input and output tokens of a service per 10 s, 58 minutes in all: no season, hardly any past."""
    events = read_llm_events(service).assign(requests=1.0).set_index("timestamp")
    table = events.resample(LLM_STEP).sum().iloc[:-1]  # the last is cut short
    panel = {str(column): table[column].astype(float) for column in table}
    plan = RollingOrigin(24, 24, 1, local_context=len(table), global_context=96, n_windows=n_windows)
    return DataSet(name, panel, plan, (24,))


def requests(source: str, step: str, horizon: int, season: int, context: int, n_windows: int) -> DataSet:
    """One long series of requests per `step`: its last windows, far enough apart that the time of day of the cut-offs moves."""
    series = load(source).resample(pd.Timedelta(step).total_seconds()).demand().astype(float)
    step_rows = horizon + max(1, round(horizon * SHIFT_FRAC))
    plan = RollingOrigin(horizon, step_rows, season, context, GLOBAL_SEASONS * season, n_windows)
    newest = series.iloc[-TRAINING_CONTEXTS * context - n_windows * plan.step :]
    short = max(1, round(horizon * SHORT_FRAC))
    return DataSet(f"{source}-{step}", {source: newest.ffill()}, plan, (short, horizon))


def machines(n_windows: int, *, name: str, made: _Machines) -> DataSet:
    """Every metric of every resource of the sources of a set, at its step."""
    panel: dict[str, pd.Series] = {}
    for source in _sources(made.prefix):
        telemetry = load(source, step_seconds=made.step_seconds)
        for resource in telemetry.resource_ids:
            of_resource = telemetry.observations.loc[resource]
            for metric in telemetry.metrics:
                if of_resource[metric].notna().any():
                    panel[f"{resource}/{metric}"] = known(telemetry, metric, resource)
    return fitting(name, panel, replace(made.plan, n_windows=n_windows), made.scored)


def _sources(prefix: str) -> list[str]:
    return [source for source in dict.fromkeys(list_traces()["source"]) if source and source.startswith(prefix)]


# an hour ahead by the minute with three days of context; a day ahead by the hour with three weeks
SETS: dict[str, Callable[[int], DataSet]] = {
    "nab": nab,
    "llm-10s": partial(llm, service="conv", name="llm-10s"),
    "worldcup98-1min": lambda n: requests("worldcup98", "1min", 60, 1440, 4320, n * LONG_TIMES),
    "worldcup98-1h": lambda n: requests("worldcup98", "1h", 24, 24, 504, n * LONG_TIMES),
    "appserver-traffic-1h": lambda n: requests("appserver-traffic", "1h", 24, 168, 504, n * LONG_TIMES),
}
_MACHINES = {
    "bitbrains-rnd": _Machines("bitbrains-rnd:", DAY_AHEAD, (24, 288)),
    "bitbrains-faststorage": _Machines("bitbrains-faststorage", DAY_AHEAD, (24, 288)),
    "asd": _Machines("asd:", DAY_AHEAD, (24, 288)),
    "smd-5min": _Machines("smd:", DAY_AHEAD, (24, 288), step_seconds=FIVE_MINUTES_SECONDS),
    "azure-v2-aggregate": _Machines("azure-v2-aggregate", DAY_AHEAD, (24, 288)),
    # a week ahead by 6 hours, from 120 days of past; the short-lived machines have one value each, and no future
    "azure-vm-noise-6h": _Machines("azure-vm-noise:long", RollingOrigin(28, 30, 4, 480, 112), (4, 28), 21_600.0),
    "petshop": _Machines("petshop:noissue", RollingOrigin(24, 26, 288, 576, 96), (2, 24)),  # 49 hours of 5 minutes
    "appserver-traffic-daily": _Machines("appserver-traffic:daily", RollingOrigin(28, 31, 7, 728, 112), (7, 28)),
}
MIRROR: dict[str, Callable[[int], DataSet]] = {
    "nab-others": partial(nab_rest, long=True),
    "nab-taxi": nab_taxi,
    "nab-short": partial(nab_rest, long=False),
    **{name: partial(machines, name=name, made=made) for name, made in _MACHINES.items()},
    "llm-code-10s": partial(llm, service="code", name="llm-code-10s"),
    "worldcup98-5min": lambda n: requests("worldcup98", "5min", 288, 288, 2016, n * LONG_TIMES),
}
