"""Headers and units of foreign tables, held as data: which column is which metric, in which unit, on what evidence."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.telemetry.reading.grid import count_repair, refuse_separators
from support.telemetry.reading.times import timestamps
from support.telemetry.schema import METRICS, Repair
from support.writing import plural

__all__ = [
    "CANONICAL",
    "KEYS",
    "LARGEST_FRACTION",
    "UNITS",
    "Converted",
    "convert",
    "header_key",
    "headers",
    "headless",
]

KEYS = ("timestamp", "resource_id")
CANONICAL, IGNORE = "canonical", "ignore"
SECONDS_FROM_START = "seconds from the start"
LARGEST_UNREADABLE_FRAC = 0.01
LARGEST_FRACTION, SMALLEST_FRACTION_PEAK = 1.0, 0.05  # a peak of 4 % or of 0.04 %: nobody can tell
SMALLEST_PERCENT_PEAK, LARGEST_PERCENT = 1.5, 110.0  # between 1 and 1.5: a fraction above one, or a very idle machine
SMALLEST_MS_MEDIAN = 10.0  # a median of ten seconds is no response time

# Canonical unit -> unit in a foreign table -> factor, and the power of the step in seconds to multiply with.
UNITS: dict[str, dict[str, tuple[float, int]]] = {
    "percent": {"percent": (1, 0), "fraction": (100, 0)},
    "Mbit/s": {
        "Mbit/s": (1, 0),
        "kbit/s": (1e-3, 0),
        "bit/s": (1e-6, 0),
        "MB/s": (8, 0),
        "kB/s": (8e-3, 0),
        "KiB/s": (1024 * 8e-6, 0),
        "bytes/s": (8e-6, 0),
        "bytes/interval": (8e-6, -1),
    },
    "milliseconds": {"milliseconds": (1, 0), "seconds": (1e3, 0), "microseconds": (1e-3, 0)},
    "GiB": {"GiB": (1, 0), "MiB": (1 / 1024, 0), "KiB": (1 / 1024**2, 0), "bytes": (1 / 1024**3, 0)},
    "requests per interval": {"count": (1, 0), "requests/s": (1, 1)},
    "requests": {"count": (1, 0)},
    "USD per interval": {"USD": (1, 0)},
    "as given by the source": {"as given": (1, 0)},
}
# What a column may mean that the caller names without a unit.
CANDIDATES = {"percent": "percent|fraction", "Mbit/s": "Mbit/s|bytes/s", "milliseconds": "milliseconds|seconds"}


@dataclass
class Converted:
    """A table in canonical names and units, and how it came about.

    frame: columns timestamp (UTC), resource_id, metrics. columns: rows of header, metric, unit, factor, decided.
    step_powers: metrics still to multiply with this power of the step in seconds. unused: the columns
    that became no metric.
    """

    frame: pd.DataFrame
    columns: list[tuple[str, str, str, float, str]] = field(default_factory=list)
    repairs: list[Repair] = field(default_factory=list)
    step_powers: dict[str, int] = field(default_factory=dict)
    unused: pd.DataFrame = field(default_factory=pd.DataFrame)


@dataclass(frozen=True)
class _Choice:
    """One column that becomes one metric (or a key), and who says so."""

    header: str
    metric: str
    unit: str
    per: str
    invalid: str
    decided: str
    note: str = ""


def header_key(header: object) -> str:
    """A header in lower case without punctuation.

    Example:
        >>> header_key("CPU usage [%]")
        'cpu_usage_percent'
    """
    return re.sub(r"[^a-z0-9]+", "_", str(header).lower().replace("%", " percent ")).strip("_")


@cache
def headers() -> pd.DataFrame:
    """The known headers, one row each: layout, header, metric, unit, per, invalid, source, key.

    A unit such as `percent|fraction` is decided from the values, or refused. per: the column to divide by. invalid: values
    that mean "not measured". The layout `canonical` holds the names and units of `schema.METRICS`.

    Example:
        >>> headers().query("layout == 'scaleiq'")["metric"].tolist()[:3]
        ['timestamp', 'latency_ms', 'queue_length']
    """
    table = pd.read_csv(Path(__file__).with_name("headers.csv"), keep_default_na=False, dtype=str)
    own = pd.DataFrame({"header": [*KEYS, *METRICS], "layout": CANONICAL, "source": "schema.METRICS"})
    own["metric"], own["unit"] = own["header"], ["", "", *(unit for unit, *_ in METRICS.values())]
    table = pd.concat([table, own], ignore_index=True).fillna("")
    return table.assign(key=[header_key(h) for h in table["header"]])


def convert(
    table: pd.DataFrame,
    layout: str,
    *,
    source: str,
    columns: Mapping[str, str],
    units: Sequence[tuple[str, str, str]],
    start: str,
    timezone: str | None = None,
) -> Converted:
    """The columns of `table` in canonical names and units; see `support.telemetry.reading.mapping.map_telemetry`.

    units: triples of header or metric, unit, who says so. Raises SchemaError.
    """
    rows = headers()[headers()["layout"] == layout]
    if rows.empty:
        raise SchemaError(f"{source}: no layout {layout!r}. Known layouts: {', '.join(headers()['layout'].unique())}.")
    if headless(table):
        table = table.set_axis(list(rows["header"])[: table.shape[1]], axis=1)
    choices = _choices(table, rows, columns, units, source)
    out = Converted(pd.DataFrame(index=table.index))
    numbers = {c.header: _numbers(table, c, source, out.repairs) for c in choices.values() if c.metric not in KEYS}
    percentages = [numbers[c.header] for c in choices.values() if c.unit == CANDIDATES["percent"]]
    surely_percent = any(values.max() > SMALLEST_PERCENT_PEAK for values in percentages)
    notes = dict(zip(rows["key"], rows["source"], strict=True))
    for header in map(str, table.columns):
        choice = choices.get(header)
        if choice is None or (choice.metric not in KEYS and not numbers[header].notna().any()):
            why = "no value" if choice else notes.get(header_key(header), "unknown header")
            out.columns.append((header, "", "", np.nan, f"not mapped: {why}"))
        elif choice.metric == "timestamp":
            out.frame["timestamp"] = _times(table[header], choice, start, timezone, source, out.repairs)
            out.columns.append((header, "timestamp", choice.unit, np.nan, choice.decided))
        elif choice.metric == "resource_id":
            out.frame["resource_id"] = table[header].astype(str).str.strip().mask(table[header].isna())
            out.columns.append((header, "resource_id", "", np.nan, choice.decided))
        else:
            _add_metric(choice, numbers[header], surely_percent, source, out)
    out.unused = table[[header for header, metric, *_ in out.columns if not metric]]
    return out


def _choices(
    table: pd.DataFrame,
    rows: pd.DataFrame,
    columns: Mapping[str, str],
    units: Sequence[tuple[str, str, str]],
    source: str,
) -> dict[str, _Choice]:
    """Header -> choice: the caller's words first, then the layout in the order of its rows; one column per metric."""
    by_key = {header_key(c): str(c) for c in reversed(table.columns)}
    known = {row.key: row for row in rows.itertuples()}
    chosen: dict[str, _Choice] = {}  # by header
    for name, metric in columns.items():
        key = header_key(name)
        if key not in by_key:
            raise SchemaError(f"{source}: no column {name!r}; there are {[str(c) for c in table.columns][:20]}.")
        if metric not in (*METRICS, *KEYS, IGNORE):
            raise SchemaError(f"{source}: columns maps {name!r} to {metric!r}, which is no canonical metric.")
        if metric != IGNORE and metric in [c.metric for c in chosen.values()]:
            raise SchemaError(f"{source}: columns maps two headers to {metric}. Keep one, map the other to {IGNORE!r}.")
        unit = METRICS[metric][0] if metric in METRICS else ""
        choice = _Choice(by_key[key], metric, CANDIDATES.get(unit, unit), "", "", "by the caller")
        if key in known and known[key].metric == metric:  # the layout knows unit and sentinels of this very column
            row = known[key]
            choice = replace(choice, unit=row.unit, per=row.per, invalid=row.invalid, note=row.source)
        chosen[choice.header] = choice
    for row in rows.itertuples():
        taken = {c.metric for c in chosen.values()}
        header = by_key.get(row.key, "")
        if header and row.metric and row.metric not in taken and header not in chosen:
            by = f"by layout {row.layout}"
            chosen[header] = _Choice(header, row.metric, row.unit, row.per, row.invalid, by, row.source)
    for name, unit, note in units:
        meant = [c for c in chosen.values() if header_key(name) == header_key(c.header) or name == c.metric]
        if not meant:
            raise SchemaError(
                f"{source}: units names {name!r}, which is no column that becomes a metric: {list(chosen)}."
            )
        chosen[meant[0].header] = replace(meant[0], unit=unit, per="", note=note)
    return {header: choice for header, choice in chosen.items() if choice.metric != IGNORE}


def _numbers(table: pd.DataFrame, choice: _Choice, source: str, repairs: list[Repair]) -> pd.Series:
    """Finite numbers of a column, NaN where it has none; sentinels are missing, text and negatives are refused."""
    column = table[choice.header]
    numbers = pd.to_numeric(column, errors="coerce").astype(float).replace([np.inf, -np.inf], np.nan)
    garbage = numbers.isna() & column.notna()
    if garbage.any():
        garbage &= ~column.astype(str).str.strip().str.lower().isin(["", "nan"])
    bad = int(garbage.sum())
    refuse_separators(column[garbage], choice.header, source)
    if garbage.mean() > LARGEST_UNREADABLE_FRAC:
        where = int(np.flatnonzero(garbage.to_numpy())[0])
        raise SchemaError(
            f"{source}: row {where + 2} of {choice.header!r} is no number: {str(column.iloc[where])[:40]!r} "
            f"({plural(bad, 'such row')}). Write plain numbers, and the unit in units={{{choice.header!r}: ...}}."
        )
    count_repair(repairs, f"values of {choice.header!r} that are no finite numbers, treated as missing", bad)
    unmeasured = numbers.isin([float(word) for word in choice.invalid.split()])
    what = (
        f"values of {choice.header!r} equal to {' or '.join(choice.invalid.split())} (not measured), treated as missing"
    )
    count_repair(repairs, what, int(unmeasured.sum()))
    numbers = numbers.mask(unmeasured)
    if choice.per:
        below = next((str(c) for c in table.columns if header_key(c) == header_key(choice.per)), None)
        if below is None:
            raise SchemaError(
                f"{source}: {choice.header!r} needs {choice.per!r} to become {choice.metric}. Add that column."
            )
        total = pd.to_numeric(table[below], errors="coerce").astype(float)
        count_repair(repairs, f"rows where {below!r} is 0: {choice.metric} left missing", int((total == 0).sum()))
        numbers = numbers / total.mask(total == 0)
    if (numbers < METRICS[choice.metric][1]).any():
        where = int(np.flatnonzero((numbers < METRICS[choice.metric][1]).to_numpy())[0])
        raise SchemaError(
            f"{source}: row {where + 2} of {choice.header!r} is negative ({numbers.iloc[where]:g}); {choice.metric} cannot be. "
            "Remove or mend it."
        )
    return numbers


def _times(
    column: pd.Series, choice: _Choice, start: str, timezone: str | None, source: str, repairs: list[Repair]
) -> pd.Series:
    if choice.unit != SECONDS_FROM_START:
        return timestamps(column, timezone, source, repairs)
    repairs.append(Repair(f"no calendar date in the source: second 0 taken as {start} in UTC", len(column)))
    seconds = pd.to_numeric(column, errors="coerce")
    return pd.Timestamp(start, tz="UTC").as_unit("ns") + pd.to_timedelta(seconds, unit="s")


def _add_metric(choice: _Choice, values: pd.Series, surely_percent: bool, source: str, out: Converted) -> None:
    canonical = METRICS[choice.metric][0]
    unit, note, count = choice.unit or canonical, choice.note, int(values.notna().sum())
    if "|" in unit:
        unit, evidence = _guess(choice, values, surely_percent, source)
        note = f"unit guessed, {evidence}"
        out.repairs.append(Repair(f"unit of {choice.header!r} not stated, {unit} guessed: {evidence}", count))
    known = {canonical: (1.0, 0), **UNITS.get(canonical, {})}
    if unit not in known:
        raise SchemaError(
            f"{source}: unit {unit!r} of {choice.header!r} is not understood. Use one of {', '.join(known)}."
        )
    factor, power = known[unit]
    out.frame[choice.metric] = values * factor
    if factor != 1 or power:
        why = f" ({note})" if "presumed" in note else ""
        out.repairs.append(Repair(f"{choice.header!r} converted from {unit} to {canonical}{why}", count))
    if power:
        out.step_powers[choice.metric] = power
    out.columns.append(
        (choice.header, choice.metric, unit, factor, f"{choice.decided}: {note}" if note else choice.decided)
    )


def _guess(choice: _Choice, values: pd.Series, surely_percent: bool, source: str) -> tuple[str, str]:
    """Unit and evidence, or SchemaError: a guess is only made where one answer is absurd."""
    peak, count = float(values.max()), int(values.notna().sum())
    if choice.unit == CANDIDATES["percent"]:
        if peak == 0:
            return "percent", "all values are 0"
        if SMALLEST_PERCENT_PEAK < peak <= LARGEST_PERCENT:
            return "percent", f"the largest of {count} values is {peak:g}"
        if SMALLEST_FRACTION_PEAK <= peak <= LARGEST_FRACTION and not surely_percent:
            return "fraction", f"all {count} values are at most {peak:g}"
    if choice.unit == CANDIDATES["milliseconds"] and values.median() >= SMALLEST_MS_MEDIAN:
        return "milliseconds", f"the median of {count} values is {values.median():g}"
    options = choice.unit.split("|")
    raise SchemaError(
        f"{source}: the unit of {choice.header!r} is not stated, and values up to {peak:g} do not tell whether it is "
        f"{' or '.join(options)}. Say so with units={{{choice.header!r}: {options[0]!r}}}, or leave the column out with "
        f"columns={{{choice.header!r}: 'ignore'}}."
    )


def headless(table: pd.DataFrame) -> bool:
    """True if the columns are just numbered 0, 1, 2, ..."""
    return bool(len(table.columns)) and [str(c) for c in table.columns] == [str(k) for k in range(table.shape[1])]
