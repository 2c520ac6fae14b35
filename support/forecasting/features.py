"""Engineered features of a panel: one vectorised function, and the repair of its inputs before it.

A row is a cut-off and a step ahead: it knows the values of its series up to and including the cut-off, and the calendar
of the time that is forecast. Nothing is fitted over the whole data, so no row changes when its future does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.forecasting.feature_blocks import FeaturePlan, ahead_columns, lagged, over, past_columns, rolled
from support.telemetry.calendars import calendar_features
from support.telemetry.schema import Repair

__all__ = ["FeaturePlan", "calendar_columns", "clean", "features", "targets"]

Panel: TypeAlias = pd.DataFrame | Mapping[str, pd.Series]
DEFAULT_PLAN = FeaturePlan()
QUARTER_END_DAYS = 7  # AWS-CapacityForecaster
CAP_WINDOW, CAP_SDS = pd.Timedelta(days=30), 4.0  # AWS-CapacityForecaster, outlier capping
CAP_LEAST = pd.Timedelta(days=1)  # of past, before anything is called an outlier
DAY_SECONDS, WEEK_DAYS, MONTH_DAYS, YEAR_MONTHS, YEAR_WEEKS = 86_400, 7, 31, 12, 53
PERCENT = 100.0
SHORT, LONG = 24, 72  # steps, of the statistics of covariates and interactions
TARGET = "value"  # name of the only column of a panel that comes as series


def features(
    panel: Panel, plan: FeaturePlan = DEFAULT_PLAN, *, target: str | None = None, ahead: int | Sequence[int] = 1,
    country: str = "US", timezone: str = "UTC", metadata: pd.DataFrame | None = None,
) -> pd.DataFrame:  # fmt: skip
    """Features of every cut-off of every series, one row a (series, cutoff, h); h is the step ahead that is forecast.

    panel: frame indexed by (series, UTC time), one column a metric, as a Telemetry's observations; or series of the
    target by name. target: its column, if there are several. ahead: steps, each at least 1. country, timezone: of the
    holidays and the hours. Groups of `plan`: calendar of the time forecast; lags, rolling, ewm, differences, changes,
    seasons and anomaly of the target; covariates (the other columns at the cut-off); interactions (those whose columns
    there are); age (days since the series began) and cumulative (sum of the target since then, missing values left
    out); metadata (what `metadata` says of a series, one row each by its name, such as region, unit and criticality:
    numbers as they are, everything else as a column for each of its values, all those of a categorical one).
    The rows of the newest cut-offs are forecasts to be; columns are NaN where a series is still too short.
    Raises SchemaError for an index or a column that is not as said, a step that is uneven, or a series without metadata.

    Example:
        >>> index = pd.date_range("2026-01-01", periods=48, freq="1h", tz="UTC")
        >>> table = features({"a": pd.Series(np.arange(48.0), index)}, FeaturePlan(seasons=(24,)), ahead=[1, 2])
        >>> table.shape[0], table.xs(index[-1], level="cutoff")[["lag_0", "seasonal_24_1"]].values.tolist()
        (96, [[47.0, 24.0], [47.0, 25.0]])
    """
    frame, target = _checked(panel, target)
    steps = np.atleast_1d(np.asarray(ahead))
    if not len(steps) or steps.dtype.kind != "i" or (steps < 1).any():
        raise SchemaError(f"features: steps ahead are {ahead}; they must be whole and at least 1.")
    position = _positions(frame.index)
    values = frame[target].to_numpy(float)
    known = past_columns(values, position, plan)
    if "covariates" in plan.groups:
        known |= _covariates(frame.drop(columns=target), position)
    if "interactions" in plan.groups:
        known |= _interactions(frame, target, position)
    if "age" in plan.groups:
        known["age_days"] = position * (_step(frame.index) / pd.Timedelta(days=1))
    if "cumulative" in plan.groups:
        known["cumulative"] = frame[target].groupby(frame.index.codes[0]).cumsum().to_numpy(float)
    if "metadata" in plan.groups and metadata is not None:
        known |= _metadata(frame.index, metadata)
    every = np.arange(len(frame))
    rows, h = np.tile(every, len(steps)), np.repeat(steps, len(frame))
    columns = {name: np.tile(column, len(steps)) if len(steps) > 1 else column for name, column in known.items()}
    columns |= ahead_columns(values, position, rows, h, plan)
    if "calendar" in plan.groups:
        columns |= _calendar_ahead(frame.index, steps, country, timezone)
    codes = [np.tile(code, len(steps)) for code in frame.index.codes]
    levels = [*frame.index.levels, pd.Index(steps)]
    index = pd.MultiIndex(
        levels, [*codes, np.repeat(np.arange(len(steps)), len(frame))], names=["series", "cutoff", "h"]
    )
    return pd.DataFrame(columns, index=index)


def targets(panel: Panel, index: pd.MultiIndex, *, target: str | None = None) -> pd.Series:
    """What was seen h steps after each cut-off of the `index` of a feature table, (n_row,); NaN where it lies ahead.

    Example:
        >>> index = pd.date_range("2026-01-01", periods=3, freq="1h", tz="UTC")
        >>> panel = {"a": pd.Series([1.0, 2.0, 4.0], index)}
        >>> targets(panel, features(panel, ahead=1).index).tolist()
        [2.0, 4.0, nan]
    """
    frame, target = _checked(panel, target)
    position, h = _positions(frame.index), index.get_level_values("h").to_numpy()
    size = np.bincount(frame.index.codes[0], minlength=len(frame.index.levels[0]))
    row = frame.index.get_indexer(index.droplevel("h"))
    if (row < 0).any():
        raise SchemaError(f"features: {index[int(np.argmin(row))]} is not a cut-off of the panel. Give the same panel.")
    seen = position[row] + h < size[frame.index.codes[0][row]]
    values = frame[target].to_numpy(float)
    return pd.Series(np.where(seen, values[np.minimum(row + h, len(values) - 1)], np.nan), index=index, name=target)


def calendar_columns(times: pd.DatetimeIndex, *, country: str = "US", timezone: str = "UTC") -> dict[str, np.ndarray]:
    """Hour, weekday, day of month, month and week of year as sin and cos, and flags, each (n_time,), in local time.

    Flags: weekend, holiday of the country, the day before and after one, last seven days of a quarter, last day of a
    month, first day of a month. `times` are UTC.

    Example:
        >>> found = calendar_columns(pd.DatetimeIndex(["2025-12-31T06:00Z"]))
        >>> [float(found[k][0]) for k in ("hour_sin", "quarterend", "monthend", "holidaynext")]
        [1.0, 1.0, 1.0, 1.0]
    """
    local = times.tz_convert(timezone).tz_localize(None)
    hours = (local - local.normalize()).total_seconds().to_numpy() / DAY_SECONDS
    week = local.isocalendar()["week"].to_numpy(float)
    cycles = {
        "hour": hours,
        "weekday": (local.dayofweek + hours) / WEEK_DAYS,
        "monthday": (local.day - 1) / MONTH_DAYS,
        "month": (local.month - 1) / YEAR_MONTHS,
        "week": (week - 1) / YEAR_WEEKS,
    }
    out: dict[str, np.ndarray] = {}
    for name, part in cycles.items():
        angle = 2 * np.pi * np.asarray(part, dtype=float)
        out |= {f"{name}_sin": np.sin(angle), f"{name}_cos": np.cos(angle)}
    day = pd.Timedelta(days=1)
    today, before, after = (
        calendar_features(local + shift, country=country, quarter_end_window_days=QUARTER_END_DAYS)
        for shift in (0 * day, -day, day)
    )
    flags = {
        "weekend": today["is_weekend"], "holiday": today["is_holiday"], "holidaylast": before["is_holiday"],
        "holidaynext": after["is_holiday"], "quarterend": today["is_eoq"], "monthend": local.is_month_end,
        "monthstart": local.is_month_start,
    }  # fmt: skip
    return out | {name: np.asarray(flag, dtype=float) for name, flag in flags.items()}


def clean(panel: Panel) -> tuple[pd.DataFrame, tuple[Repair, ...]]:
    """The panel with missing values filled and outliers capped, both from the past alone, and what was done, counted.

    A missing value becomes the last known one; those before the first stay missing. A value more than 4 standard
    deviations from the mean of the 30 days before it is set to that bound, once there is a day of past. For inputs
    only: score forecasts on the panel as it was. A true change of level is capped too until the 30 days hold it.
    """
    frame, _ = _checked(panel, None, any_target=True)
    position, step = _positions(frame.index), _step(frame.index)
    width, least = max(2, round(CAP_WINDOW / step)), max(2, round(CAP_LEAST / step))
    series = frame.index.codes[0]
    out: dict[str, np.ndarray] = {}
    repairs = []
    for name in frame:
        column = frame[name].to_numpy(float)
        filled = frame[name].groupby(series).ffill().to_numpy(float)
        past = pd.Series(filled).groupby(series).rolling(width, min_periods=least)
        mean, sd = (lagged(stat.to_numpy(), position, 1) for stat in (past.mean(), past.std()))
        capped = np.where(np.isnan(sd), filled, np.clip(filled, mean - CAP_SDS * sd, mean + CAP_SDS * sd))
        out[name] = capped
        for what, count in (
            ("missing values filled with the last known", (np.isnan(column) & ~np.isnan(filled)).sum()),
            ("values capped at 4 standard deviations of 30 days", (~np.isnan(filled) & (capped != filled)).sum()),
            ("values still missing", np.isnan(filled).sum()),
        ):
            repairs.append(Repair(f"{name}: {what}", int(count)))
    return pd.DataFrame(out, index=frame.index), tuple(repairs)


def _checked(panel: Panel, target: str | None, any_target: bool = False) -> tuple[pd.DataFrame, str]:
    """The panel as a sorted long frame with an even step, and the name of its target."""
    if isinstance(panel, Mapping):
        if not panel:
            raise SchemaError("features: the panel holds no series. Give at least one.")
        panel = (
            pd.concat({str(k): v.rename(TARGET) for k, v in panel.items()}, names=["series"]).to_frame().sort_index()
        )
    index = panel.index
    if not isinstance(index, pd.MultiIndex) or index.nlevels != 2 or getattr(index.levels[1], "tz", None) is None:
        raise SchemaError("features: the panel's index is not (series, time with a timezone). Use set_index.")
    panel = panel.set_axis(index.remove_unused_levels())
    if not panel.index.is_monotonic_increasing or panel.index.has_duplicates:
        raise SchemaError("features: rows are not unique and sorted by series and time. Use sort_index().")
    if target is None and (len(panel.columns) == 1 or any_target):
        target = str(panel.columns[0])
    if target is None or target not in panel:
        raise SchemaError(f"features: target {target!r} is not among the columns {list(panel.columns)}. Name one.")
    _step(panel.index)
    return panel, target


def _positions(index: pd.MultiIndex) -> np.ndarray:
    """Row of each value within its own series, (n_row,)."""
    series = index.codes[0]
    starts = np.flatnonzero(np.diff(series, prepend=-1))
    return np.arange(len(series)) - np.repeat(starts, np.diff([*starts, len(series)]))


def _step(index: pd.MultiIndex) -> pd.Timedelta:
    """The step of all series; SchemaError if it is not the same everywhere."""
    gaps = np.diff(index.levels[1].as_unit("ns").asi8[index.codes[1]])[np.diff(index.codes[0]) == 0]
    if not len(gaps) or gaps.min() != gaps.max():
        raise SchemaError("features: the step is not the same everywhere, or no series has two rows. Fill the grid.")
    return pd.Timedelta(int(gaps[0]), unit="ns")


def _calendar_ahead(index: pd.MultiIndex, steps: np.ndarray, country: str, timezone: str) -> dict[str, np.ndarray]:
    """Calendar of the time that is forecast, worked out once for each time of the panel."""
    per_step = [calendar_columns(index.levels[1] + h * _step(index), country=country, timezone=timezone) for h in steps]
    return {name: np.concatenate([found[name][index.codes[1]] for found in per_step]) for name in per_step[0]}


def _covariates(frame: pd.DataFrame, position: np.ndarray) -> dict[str, np.ndarray]:
    """The other columns: value at the cut-off, its change, and its mean over 24 steps."""
    out: dict[str, np.ndarray] = {}
    for name in frame:
        values = frame[name].to_numpy(float)
        out |= {f"{name}_now": values, f"{name}_change": values - lagged(values, position, 1)}
        out[f"{name}_mean"] = rolled(values, position, [SHORT])[SHORT]["mean"]
    return out


def _metadata(index: pd.MultiIndex, metadata: pd.DataFrame) -> dict[str, np.ndarray]:
    """What is known of each series, repeated over its rows: numbers, and a 0 or 1 for each value of the rest."""
    table = metadata.set_axis(metadata.index.astype(str))
    names = index.levels[0].astype(str)
    lacking = [name for name in names if name not in table.index]
    if lacking or table.index.has_duplicates:
        raise SchemaError(f"features: metadata need one row a series; they lack or repeat {lacking[:5] or 'some'}.")
    if table.columns.empty:  # a file of one series says nothing of it
        return {}
    words = [c for c in table if not pd.api.types.is_numeric_dtype(table[c]) or table[c].dtype == bool]
    coded = pd.get_dummies(table, columns=words, dtype=float).reindex(names)
    return {str(name): coded[name].to_numpy(float)[index.codes[0]] for name in coded}


def _interactions(frame: pd.DataFrame, target: str, position: np.ndarray) -> dict[str, np.ndarray]:
    """Queue pressure and others, all at the cut-off; names of ScaleIQ, definitions stated here.

    queue_pressure: queue / processed, intervals of work. processing_efficiency: processed / (requests + queue before).
    input_output_ratio: requests / processed. queue_utilisation: queue / its highest of 72 steps. system_load: mean of
    CPU and memory, a fraction. throughput_capacity: processed (or requests) at 100 % CPU. volatility: std / mean of the
    target over 24 steps. Without `processed`, requests stand for it.
    """
    has = {name: frame[name].to_numpy(float) for name in frame}
    queue, asked, done = (has.get(name) for name in ("queue_length", "requests", "processed"))
    cpu, memory = (has.get(name) for name in ("cpu_utilization", "memory_utilization"))
    served = done if done is not None else asked
    out: dict[str, np.ndarray] = {}
    if queue is not None and served is not None:
        out["queue_pressure"] = over(queue, served)
    if asked is not None and done is not None:
        waiting = 0.0 if queue is None else lagged(queue, position, 1)
        out["processing_efficiency"] = over(done, asked + waiting)
        out["input_output_ratio"] = over(asked, done)
    if queue is not None:
        out["queue_utilisation"] = over(queue, rolled(queue, position, [LONG])[LONG]["max"])
    if cpu is not None and memory is not None:
        out["system_load"] = (cpu + memory) / (2 * PERCENT)
        out["cpu_by_memory"] = over(cpu, memory)
    if cpu is not None and served is not None:
        out["throughput_capacity"] = over(served, cpu / PERCENT)
    stats = rolled(has[target], position, [SHORT])[SHORT]
    out["volatility"] = over(stats["std"], np.abs(stats["mean"]))
    return out
