"""A table as somebody kept it to Telemetry: columns, time, duplicates, grid and gaps, every change counted."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal, get_args

import numpy as np
import pandas as pd

from support.errors import SchemaError, TooShortError
from support.telemetry.reading.grid import count_repair, merged_repairs, refuse_separators, step_seconds_of, to_grid
from support.telemetry.reading.times import time_column, timestamps
from support.telemetry.schema import DERIVED, METRICS, Repair, Telemetry
from support.writing import plural

__all__ = ["RESOURCE_NAMES", "Fill", "tidy"]

RESOURCE_NAMES = (
    "resource_id",
    "resource",
    "server_id",
    "server",
    "host",
    "hostname",
    "instance",
    "instance_id",
    "vm",
    "pod",
    "service",
)
SYNONYMS = {
    "requests": ("request_count", "count", "hits", "invocations", "arrivals", "demand"),
    "cpu_utilization": ("cpu", "cpu_usage", "cpu_percent", "cpu_p95", "cpuutilization"),
    "memory_utilization": ("memory", "mem", "memory_usage", "mem_percent", "mem_p95"),
    "disk_utilization": ("disk", "disk_usage", "disk_p95"),
    "queue_length": ("queue", "backlog"),
    "cost_usd": ("cost",),
}
SIZES = {"vcpu": ("vcpu", "vcpus", "cores", "cpu_cores", "cpu_count"), "memory_gib": ("memory_gib",)}  # of a resource
RATES = ("rps", "requests_per_second", "req_s", "qps", "requests_per_s")
WRITTEN_RATE = re.compile(  # demand (req/s), Requests per second
    r"\b(?:req|requests?|quer(?:y|ies)|hits|calls|invocations)\s*(?:/|[ _]per[ _])\s*s(?:ec(?:ond)?)?s?\)?$",
    re.IGNORECASE,
)
NO_METRIC = re.compile(r"(?:^|[_ ])(?:id|idx|index|row)$|^unnamed: \d+$", re.IGNORECASE)  # row numbers and keys
MIN_ROWS = 10
Duplicates = Literal["refuse", "sum", "mean", "first"]
Fill = Literal["interpolate", "zero", "none"]


def tidy(
    table: pd.DataFrame,
    *,
    source: str,
    provenance: str,
    timestamp_column: str | None = None,
    value_column: str | None = None,
    resource_column: str | None = None,
    metric: str | None = None,
    timezone: str | None = None,
    duplicates: Duplicates = "refuse",
    fill: Fill = "interpolate",
    max_gap_seconds: float = 3600.0,
    group_columns: Sequence[str] = (),
) -> Telemetry:
    """Turn `table` into Telemetry on a regular grid; what is guessed, moved, dropped or filled is a Repair.

    timezone: of timestamps that carry none (default UTC). duplicates: what to do with two values at one time; a row
    that repeats another exactly is dropped, unless they are to be added.
    fill: missing intervals are interpolated if the gap is at most `max_gap_seconds`, else taken from the same time of
    a nearby day (both flagged quality_flag = 1), or are zero, or stay missing (none). group_columns: what each resource
    belongs to (industry, team, ...), one value a resource, for `resources`, where `vcpu` and `memory_gib` go too.
    Raises SchemaError, TooShortError.
    """
    for option, given, known in (("duplicates", duplicates, get_args(Duplicates)), ("fill", fill, get_args(Fill))):
        if given not in known:
            raise SchemaError(f"{source}: {option}={given!r} is not understood. Use one of {', '.join(known)}.")
    repairs = [Repair("rows read", len(table)), *table.attrs.get("repairs", ())]
    time_name = time_column(table, timestamp_column, source)
    values = _value_columns(table, value_column, metric, time_name, source, repairs)
    resource_name = _resource_column(table, resource_column, source)
    stamps = timestamps(table[time_name], timezone, source, repairs)
    ids = pd.Series("demand", index=table.index)
    if resource_name:
        unnamed = table[resource_name].isna()
        ids = table[resource_name].astype(str).str.strip().mask(unnamed, "unnamed")
        count_repair(repairs, f"rows without a {resource_name!r}, kept as resource 'unnamed'", int(unnamed.sum()))
    frame = pd.DataFrame({"resource_id": ids, "timestamp": stamps})
    for name, column in values.items():
        frame[name] = _numbers(table[column], name, column, source, repairs)
    usable = frame["timestamp"].notna() & frame[list(values)].notna().any(axis=1)
    count_repair(repairs, "rows without a usable time or value dropped", int((~usable).sum()))
    frame = frame[usable]
    if len(frame) < MIN_ROWS:
        raise TooShortError(
            f"{source}: {plural(len(frame), 'usable row')}; at least {MIN_ROWS} are needed, some days for a forecast."
        )
    step = step_seconds_of(_one_per_time(frame), source)
    frame = _unique(frame, duplicates, source, repairs)
    pieces = [to_grid(part, step, fill, max_gap_seconds, source, repairs) for _, part in frame.groupby("resource_id")]
    observations = pd.concat(pieces).sort_index()
    for rate in [c for c in values if c in RATES]:
        observations["requests"] = observations.pop(rate) * step
        repairs.append(
            Repair(f"'{values[rate]}' taken as requests/s and multiplied by the step of {step:g} s", len(observations))
        )
    _say_what_is_odd(observations, values, repairs)
    names = pd.Index(sorted(frame["resource_id"].unique()), name="resource_id")
    groups = _groups(table, ids, group_columns, source)
    sizes = _sizes(table.drop(columns=[*values.values(), *groups.columns]), ids, repairs)
    resources = groups.join(sizes, how="outer").reindex(names)
    return Telemetry(observations, float(step), source, provenance, False, resources, merged_repairs(repairs))


def _groups(table: pd.DataFrame, ids: pd.Series, columns: Sequence[str], source: str) -> pd.DataFrame:
    """The groups of each resource, one text column each, index resource_id."""
    if isinstance(columns, str):
        columns = [columns]
    if lacking := [c for c in columns if c not in table.columns]:
        raise SchemaError(
            f"{source}: no group column {lacking[0]!r}; there are {list(map(str, table.columns))}. "
            "Name yours with group_columns; [] is none."
        )
    told = table[list(columns)].astype("string").apply(lambda c: c.str.strip()).groupby(ids.to_numpy())
    for column in columns:
        counts = told[column].nunique()
        if (counts != 1).any():
            name = counts.index[counts != 1][0]
            how = "no value" if counts[name] == 0 else f"{counts[name]} values"
            raise SchemaError(
                f"{source}: resource {name!r} has {how} in the group column {column!r}; it must have one."
            )
    return told.first().astype(object).rename_axis("resource_id")


def _sizes(table: pd.DataFrame, ids: pd.Series, repairs: list[Repair]) -> pd.DataFrame:
    """Cores and GiB of each resource where columns say so with one number for each, index resource_id; else said."""
    by_name, found = {str(c).lower(): c for c in reversed(table.columns)}, {}
    for size, column in ((size, by_name[n]) for size, names in SIZES.items() for n in names if n in by_name):
        numbers = pd.to_numeric(table[column], errors="coerce").groupby(ids.to_numpy())
        if size in found or not _is_numeric(table[column]):
            continue
        if (moves := numbers.max() > numbers.min()).any():
            words = f"{column!r} is not one number for {moves.idxmax()!r}, so it is not taken as its {size}"
            repairs.append(Repair(words, int(moves.sum())))
            continue
        found[size] = numbers.first()
        repairs.append(Repair(f"column {column!r} taken as {size} of each resource", len(table)))
    return pd.DataFrame(found).rename_axis("resource_id")


def _known_columns(table: pd.DataFrame, columns: list[str]) -> dict[str, str]:
    """Canonical metric -> column of the table, by the metric's own name first, then by its synonyms in order."""
    by_name = {c.lower(): c for c in reversed(columns) if _is_numeric(table[c])}
    known = {}
    for metric in METRICS:
        found = [by_name[name] for name in (metric, *SYNONYMS.get(metric, ())) if name in by_name]
        if found:
            known[metric] = found[0]
    rates = [by_name[name] for name in RATES if name in by_name]
    rates += [column for name, column in by_name.items() if WRITTEN_RATE.search(name)]
    if rates and "requests" not in known:
        known = {RATES[0]: rates[0], **known}
    return known


def _value_columns(
    table: pd.DataFrame, wanted: str | None, metric: str | None, time_name: str, source: str, repairs: list[Repair]
) -> dict[str, str]:
    """Canonical metric (or a rate's name) -> column of the table; what is guessed or left aside is a Repair."""
    columns = [str(c) for c in table.columns if c != time_name]
    if metric is not None and metric not in METRICS:
        raise SchemaError(
            f"{source}: no metric {metric!r}. Use one of {', '.join(m for m in METRICS if m not in DERIVED)}."
        )
    if wanted is not None:
        if wanted not in columns:
            raise SchemaError(f"{source}: no column {wanted!r}; there are {columns}.")
        by_itself = next(iter(_known_columns(table, [wanted])), "requests")
        rate = by_itself in RATES and metric in (None, "requests")
        chosen = {by_itself if rate else metric or by_itself: wanted}
    else:
        names = {*METRICS, *RATES, *(name for several in SYNONYMS.values() for name in several)}
        for column in [c for c in columns if c.lower() in names and not _is_numeric(table[c])]:
            refuse_separators(table[column], column, source)  # else another column would be taken in its place
        known = _known_columns(table, columns)
        numeric = [c for c in columns if _is_numeric(table[c]) and c.lower() not in RESOURCE_NAMES]
        sizes = sum(SIZES.values(), ())
        numeric = [c for c in numeric if not NO_METRIC.search(c) and c.lower() not in sizes] or numeric
        if metric in known:
            chosen = {metric: known[metric]}
        elif metric is None and any(name not in DERIVED for name in known):
            chosen = known
        elif numeric:
            chosen = {metric or "requests": next((c for c in numeric if c.lower() == "value"), numeric[0])}
        else:
            first = {c: str(table[c].dropna().iloc[0])[:20] for c in columns[:5] if table[c].notna().any()}
            raise SchemaError(
                f"{source}: no numeric column beside {time_name!r} (first values: {first}). Write numbers without units or "
                "separators of thousands, and name the column with value_column."
            )
    for name, column in chosen.items():
        if name != column.lower() and name not in RATES:
            repairs.append(Repair(f"column {column!r} taken as {name}", len(table)))
    elsewhere = {*chosen.values(), *(c for c in columns if c.lower() in sum(SIZES.values(), RESOURCE_NAMES))}
    unused = [c for c in columns if c not in elsewhere and _is_numeric(table[c])]
    count_repair(
        repairs, f"numeric columns not used: {', '.join(unused[:6])}{' ...' if len(unused) > 6 else ''}", len(unused)
    )
    return chosen


def _say_what_is_odd(observations: pd.DataFrame, values: dict[str, str], repairs: list[Repair]) -> None:
    """Note what is kept as it is but should be known: percentages out of the usual range, resources that come and go."""
    for metric in [m for m in values if m.endswith("_utilization")]:
        column = observations[metric]
        count_repair(repairs, f"values of {metric} above 100 percent, kept", int((column > 100).sum()))
        if 0 < column.max() <= 1:
            repairs.append(Repair(f"all of {metric} is at most 1; taken as percent, not as a fraction", len(column)))
    sizes = observations.groupby(level="resource_id").size()
    absent = len(sizes) * observations.index.get_level_values("timestamp").nunique() - len(observations)
    count_repair(
        repairs, "intervals before a resource's first or after its last row, not counted in totals", int(absent)
    )


def _is_numeric(column: pd.Series) -> bool:
    if pd.api.types.is_bool_dtype(column) or pd.api.types.is_datetime64_any_dtype(column):
        return False
    return bool(pd.to_numeric(column, errors="coerce").notna().sum() >= max(1, 0.5 * column.notna().sum()))


def _resource_column(table: pd.DataFrame, wanted: str | None, source: str) -> str | None:
    if wanted is not None:
        if wanted not in table.columns:
            raise SchemaError(f"{source}: no column {wanted!r}; there are {list(table.columns)}.")
        return wanted
    by_name = {str(c).lower(): str(c) for c in table.columns}
    return next((by_name[name] for name in RESOURCE_NAMES if name in by_name), None)


def _numbers(column: pd.Series, metric: str, name: str, source: str, repairs: list[Repair]) -> pd.Series:
    numbers = pd.to_numeric(column, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
    garbage = numbers.isna() & column.notna()
    refuse_separators(column[garbage], name, source)
    if garbage.mean() > 0.01:
        where = int(np.flatnonzero(garbage.to_numpy())[0])
        raise SchemaError(
            f"{source}: row {where + 2} of {name!r} is no number: {str(column.iloc[where])[:40]!r} ({plural(int(garbage.sum()), 'such row')})."
        )
    count_repair(repairs, f"values of '{name}' that are no numbers, treated as missing", int(garbage.sum()))
    if (numbers < METRICS.get(metric, ("", 0.0))[1]).any():
        where = int(np.flatnonzero((numbers < 0).to_numpy())[0])
        raise SchemaError(
            f"{source}: row {where + 2} of {name!r} is negative ({numbers.iloc[where]:g}); {metric} cannot be. Remove or mend it."
        )
    return numbers


def _one_per_time(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.drop_duplicates(["resource_id", "timestamp"]).sort_values(["resource_id", "timestamp"])


def _unique(frame: pd.DataFrame, duplicates: str, source: str, repairs: list[Repair]) -> pd.DataFrame:
    keys = ["resource_id", "timestamp"]
    once = frame if duplicates == "sum" else frame.drop_duplicates()  # of a sum two equal parts are still two
    count_repair(repairs, "rows that repeat another row exactly, dropped", len(frame) - len(once))
    moved = int((once.groupby("resource_id")["timestamp"].diff() < pd.Timedelta(0)).sum())
    count_repair(repairs, "places where time ran backwards; rows sorted", moved)
    once = once.sort_values(keys, kind="stable")
    again = once.duplicated(keys, keep=False)
    if again.any():
        first = once[again].iloc[0]
        if duplicates == "refuse":
            raise SchemaError(
                f"{source}: {first['timestamp']} occurs more than once with different values ({int(again.sum())} rows in all). "
                "Say what they mean with duplicates='sum', 'mean' or 'first', or name the resource_column."
            )
        count_repair(repairs, f"rows that share a timestamp combined by {duplicates}", int(again.sum()))
        groups = once.groupby(keys)
        there = groups.count() > 0  # the sum of nothing is missing, not 0
        once = groups.agg(duplicates).where(there).reset_index()
    return once
