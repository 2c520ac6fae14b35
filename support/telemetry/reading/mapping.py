"""Foreign tables to canonical Telemetry: layout found, units settled, every guess and every lost row reported."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import PurePosixPath
from typing import Any

import fsspec
import pandas as pd

from support.errors import SchemaError, SourceError
from support.telemetry.reading.files import MAX_BYTES, read_table
from support.telemetry.reading.payloads import payload_table
from support.telemetry.reading.tidy import RATES, tidy
from support.telemetry.reading.units import (
    CANONICAL,
    KEYS,
    LARGEST_FRACTION,
    Converted,
    convert,
    header_key,
    headers,
    headless,
)
from support.telemetry.reading.web import public_address
from support.telemetry.schema import METRICS, Telemetry

__all__ = ["TransformationReport", "detect_layout", "map_telemetry"]

NOT_DETECTED = ("agent", "prometheus", CANONICAL)  # known by other means than their columns
POSITIONAL = {9: ("m", "alibaba_machine"), 11: ("c", "alibaba_container")}  # width, first letter of an identifier
STANDARD = ("cpu_utilization", "memory_utilization", "disk_utilization", "network_in_mbps", "network_out_mbps")
LOWEST_COMPATIBLE_METRICS, LARGEST_LOSS_FRAC = 3, 0.05  # pass marks of AWS-CapacityForecaster: 3 of 5, under 5 %
ALIBABA_START = "2018-01-01"  # an arbitrary Monday: the publisher gives no date
SAME_SLOT = "rows that fell into the same interval, combined"  # the words of `grid.to_grid`
IMPUTED = re.compile("missing intervals (interpolated|taken)|intervals without a row filled")  # those of `grid.to_grid`


@dataclass(frozen=True)
class TransformationReport:
    """What became of a foreign table.

    columns: one row per foreign column: header, metric, unit, factor (to the canonical unit; NaN if none), decided.
    rows: kind, what, rows; `in` - `dropped` - `combined` + `added` - `aggregated` = `out`, and of these `imputed`; `noted`
    says what else was done, with the number of rows or values it touched.
    standard_found_frac: share found of the five standard metrics (CPU, memory, disk, network in and out).
    rows_kept_frac: share of the rows read that were not dropped. compatible: three of the five found, 5 % dropped at most.
    """

    layout: str
    columns: pd.DataFrame
    rows: pd.DataFrame
    standard_found_frac: float
    rows_kept_frac: float
    compatible: bool


def detect_layout(table: pd.DataFrame, *, source: str = "table") -> str:
    """Name of the layout that explains most columns of `table`; it needs a time and a metric.

    A table without a header (columns 0, 1, ...) is told by its width and the first identifier in it. Raises SchemaError
    with the known layouts and what the closest lacks.

    Example:
        >>> detect_layout(pd.DataFrame(columns=["timestamp", "cpu_usage", "memory_usage", "network_io"]))
        'cloudpulse'
    """
    letter, layout = POSITIONAL.get(table.shape[1], ("", ""))
    if letter and len(table) and headless(table) and re.match(rf"{letter}_\d+$", str(table.iloc[0, 0])):
        return layout
    names = {str(c) for c in table.columns}
    if {*KEYS} < names <= {*KEYS, *METRICS}:
        for name in sorted(n for n in names if n.endswith("_utilization")):
            if 0 < pd.to_numeric(table[name], errors="coerce").max() <= LARGEST_FRACTION:
                raise SchemaError(
                    f"{source}: {name} is never above {LARGEST_FRACTION:g}. Say layout={CANONICAL!r} if it is percent, and "
                    f"units={{{name!r}: 'fraction'}} beside it if it is a fraction."
                )
        return CANONICAL
    keys = {header_key(name) for name in names}
    scores: dict[str, tuple[float, float]] = {}
    lacking: dict[str, list[str]] = {}
    for name, rows in headers().groupby("layout", sort=False):
        if name in (*NOT_DETECTED, CANONICAL):
            continue
        found = rows[rows["key"].isin(keys)]
        lacking[str(name)] = [] if (found["metric"] == "timestamp").any() else ["a time column"]
        lacking[str(name)] += [] if (~found["metric"].isin((*KEYS, ""))).any() else ["a metric"]
        scores[str(name)] = (len(found) / max(len(keys), 1), len(found) / len(rows))
    fitting = [name for name in scores if not lacking[name]]
    if fitting:
        return max(fitting, key=lambda name: scores[name])
    closest = max(scores, key=lambda name: scores[name])
    raise SchemaError(
        f"{source}: columns {sorted(names)[:8]} fit no known layout; the closest, {closest}, lacks "
        f"{' and '.join(lacking[closest])}. Known layouts: {', '.join([CANONICAL, *scores])}. Rename the columns, or give "
        "layout= and columns={header: metric}."
    )


def map_telemetry(
    path_or_table: str | pd.DataFrame | Mapping[str, Any] | list[Any],
    *,
    layout: str | None = None,
    columns: Mapping[str, str] | None = None,
    units: Mapping[str, str] | None = None,
    step_seconds: float | None = None,
    source: str | None = None,
    resource: str | None = None,
    start: str = ALIBABA_START,
    timezone: str | None = None,
    max_bytes: float = MAX_BYTES,
    **options: Any,
) -> tuple[Telemetry, TransformationReport]:
    """A foreign table as Telemetry in canonical columns and units, with the report of what was done to it.

    path_or_table: path or URL of CSV, CSV.gz, Parquet or JSON; a frame; or parsed JSON (see `payloads.payload_table`).
    layout: one of `units.headers()["layout"]`; found from the columns if left out. columns: header -> canonical metric, or
    "ignore"; goes before the layout. units: header or metric -> unit (see `units.UNITS`), where the values cannot tell.
    step_seconds: aggregate to this step. source: what messages call the table. resource: name of its only resource.
    start: UTC date of second 0 where times count from the start. timezone: of times that carry none (default UTC).
    options: `duplicates`, `fill`, `max_gap_seconds` of `tidy.tidy`. Raises SchemaError, SourceError, TooShortError.

    Example:
        >>> times = pd.date_range("2026-01-01", periods=12, freq="h")
        >>> table = pd.DataFrame({"Timestamp": times, "Server": "a", "CPU_Usage": [0.2, 0.4] * 6})
        >>> telemetry, report = map_telemetry(table, source="servers.csv")
        >>> float(telemetry.series("cpu_utilization").max()), report.columns["decided"].iloc[2]
        (40.0, 'by layout kaggle: unit guessed, all 12 values are at most 0.4')
    """
    text = source or (public_address(path_or_table) if isinstance(path_or_table, str) else "table")
    stated: dict[str, str] = {}
    if isinstance(path_or_table, pd.DataFrame):
        table = path_or_table.set_axis([str(c).strip() for c in path_or_table.columns], axis=1)
    elif isinstance(path_or_table, str) and not _is_json(path_or_table):
        meant = dict(zip(headers()["header"], headers()["metric"], strict=True)) | dict(columns or {})
        ids = [header for header, metric in meant.items() if metric == "resource_id"]
        table = read_table(path_or_table, max_bytes=max_bytes, texts=ids)
        if re.fullmatch(r"[mc]_\d+", table.columns[0]):  # Alibaba writes no header: this is the first row
            table = pd.read_csv(path_or_table, header=None).rename(columns=str)
        elif table.columns[0].endswith(";"):  # Bitbrains separates by a semicolon and a tab
            table = pd.read_csv(path_or_table, sep=";", skipinitialspace=True).rename(columns=str.strip)
    else:
        payload = _json(path_or_table, text, max_bytes) if isinstance(path_or_table, str) else path_or_table
        found, table, stated = payload_table(payload, source=text)
        layout = layout or found
    if table.empty:
        raise SourceError(f"{text}: has no rows. Give at least some days of observations.")
    if not table.columns.is_unique:
        twice = table.columns[table.columns.duplicated()][0]
        raise SchemaError(f"{text}: two columns are called {twice!r}. Rename one.")
    table = table.reset_index(drop=True)
    layout = layout or detect_layout(table, source=text)
    said = [(*pair, "unit stated by the source") for pair in stated.items()]
    said += [(*pair, "unit by the caller") for pair in (units or {}).items()]
    made = convert(table, layout, source=text, columns=columns or {}, units=said, start=start, timezone=timezone)
    frame = made.frame
    metrics = [c for c in frame if c not in KEYS]
    if "timestamp" not in frame or not metrics:
        lacks, kind = ("time", "timestamp") if "timestamp" not in frame else ("metric", "cpu_utilization")
        raise SchemaError(
            f"{text}: no {lacks} column known to layout {layout} among {[str(c) for c in table.columns][:8]}. "
            f"Name one with columns={{header: {kind!r}}}."
        )
    if "resource_id" not in frame and resource:
        frame["resource_id"] = resource
    keys = [c for c in KEYS if c in frame]
    # a rate is averaged where rows meet in one interval, a count is added: tidy knows it by its name
    rates = {"requests": RATES[0]} if made.step_powers.get("requests", 0) > 0 else {}
    usable = frame[frame["timestamp"].notna() & frame[metrics].notna().any(axis=1)]
    n_combined = len(usable) - len(usable.drop_duplicates(keys))  # the grid may combine more
    frame.attrs["repairs"] = (*table.attrs.get("repairs", ()), *made.repairs)
    telemetry = tidy(
        frame.rename(columns=rates),
        source=text,
        provenance=f"{text}, mapped from the layout {layout}.",
        timestamp_column="timestamp",
        resource_column="resource_id" if "resource_id" in frame else None,
        **options,
    )
    observations = telemetry.observations.copy()
    for metric in set(made.step_powers) - set(rates):
        observations[metric] *= telemetry.step_seconds ** made.step_powers[metric]
    header = next((header for header, metric, *_ in made.columns if metric == "requests"), "")
    repairs = tuple(  # in the words of the caller's table
        replace(r, what=re.sub(f"^'{RATES[0]}' taken", lambda _: f"{header!r} taken", r.what))
        for r in telemetry.repairs
    )
    telemetry = replace(telemetry, observations=observations, resources=_resources(telemetry, made), repairs=repairs)
    n_grid = len(observations)
    telemetry = telemetry.resample(step_seconds) if step_seconds else telemetry
    counts = {"in": len(table), "dropped": len(frame) - len(usable), "combined": n_combined}
    return telemetry, _report(layout, made, telemetry, n_grid, counts)


def _is_json(path: str) -> bool:
    return PurePosixPath(path.split("?")[0].lower()).name.endswith((".json", ".json.gz"))


def _json(path: str, source: str, max_bytes: float) -> Any:
    try:
        with fsspec.open(path, "rb", compression="infer") as file:
            content = file.read(int(max_bytes) + 1)
        if len(content) > max_bytes:
            raise SourceError(
                f"{source}: is more than {max_bytes / 1e9:g} GB. Ask for fewer points, or raise max_bytes."
            )
        return json.loads(content)
    except FileNotFoundError:
        raise SourceError(f"{source}: there is no such file. Check the path.") from None
    except json.JSONDecodeError as error:
        raise SourceError(f"{source}: is no JSON (line {error.lineno}: {error.msg}).") from None
    except (OSError, ImportError, UnicodeDecodeError) as error:
        raise SourceError(f"{source}: cannot be read ({type(error).__name__}).") from None


def _resources(telemetry: Telemetry, made: Converted) -> pd.DataFrame:
    """The unmapped columns that do not change within a resource, such as a region or a number of cores."""
    ids = made.frame.get("resource_id", pd.Series(telemetry.resource_ids[0], index=made.frame.index))
    groups = made.unused.groupby(ids.fillna("unnamed"))
    constant = [c for c in made.unused if groups[c].nunique().eq(1).all()]
    return telemetry.resources.join(groups[constant].first()) if constant else telemetry.resources


def _report(
    layout: str, made: Converted, telemetry: Telemetry, n_grid: int, counts: dict[str, int]
) -> TransformationReport:
    repairs = telemetry.repairs
    n_combined = counts["combined"] + sum(r.count for r in repairs if r.what == SAME_SLOT)
    rows = [
        ("in", "rows read", counts["in"]),
        ("dropped", "rows without a usable time or value", counts["dropped"]),
        ("combined", "rows of a resource at the same time or in the same interval as another", n_combined),
        ("added", "intervals that had no row", n_grid - (counts["in"] - counts["dropped"] - n_combined)),
        (
            "aggregated",
            f"intervals united to steps of {telemetry.step_seconds:g} s",
            n_grid - len(telemetry.observations),
        ),
        ("out", "observations", len(telemetry.observations)),
    ]
    rows += [("imputed", r.what, r.count) for r in repairs if IMPUTED.match(r.what)]
    rows += [("noted", r.what, r.count) for r in repairs if r.what != "rows read" and not IMPUTED.match(r.what)]
    columns = pd.DataFrame(made.columns, columns=["header", "metric", "unit", "factor", "decided"])
    found = [m for m in STANDARD if m in telemetry.metrics]
    kept = 1 - counts["dropped"] / counts["in"]
    compatible = len(found) >= LOWEST_COMPATIBLE_METRICS and kept >= 1 - LARGEST_LOSS_FRAC
    return TransformationReport(
        layout,
        columns,
        pd.DataFrame(rows, columns=["kind", "what", "rows"]),
        len(found) / len(STANDARD),
        kept,
        compatible,
    )
