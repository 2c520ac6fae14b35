"""A column of timestamps as somebody kept it to UTC: which column, which format, which timezone; every guess counted."""

from __future__ import annotations

import re
import warnings

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.telemetry.reading.grid import count_repair
from support.telemetry.schema import Repair
from support.writing import plural

__all__ = ["time_column", "timestamps"]

TIME_NAMES = (
    "timestamp",
    "@timestamp",
    "time",
    "datetime",
    "date_time",
    "date",
    "ds",
    "ts",
    "period",
    "start_time",
    "starttime",
)
EPOCH_UNITS = (("s", 1e11), ("ms", 1e14), ("us", 1e17), ("ns", np.inf))  # unit, values below this
EPOCH_YEARS = (1990, 2060)
LARGEST_UNREADABLE_FRAC = 0.01
CLOCK = r"[Tt:]\d{2}[\d:.,]*\s*(?:[AaPp][Mm])?"
OFFSET = CLOCK + r"\s*(?:[Zz]|(?:UTC|GMT)?\s?[+-]\d{1,2}(?::?\d{2})?|UTC|GMT)(?:\s+\d{4})?$"
ABBREVIATION = rf"({CLOCK})\s*(?!(?:UTC|GMT|AM|PM)\b)([A-Z]{{2,5}})((?:\s+\d{{4}})?)$"  # CET, PST: not one offset each, so never guessed
TIME_OF_DAY = r"\d{1,2}:\d{2}(?::\d{2}(?:\.\d+)?)?"
DAY_AND_MONTH = r"^(\d{1,2})[/.-](\d{1,2})[/.-](\d{2,4})\b"


def time_column(table: pd.DataFrame, wanted: str | None, source: str) -> str:
    """Name of the column that holds the time: `wanted`, a known name, or the only column of dates. Raises SchemaError."""
    columns = [str(c) for c in table.columns]
    if wanted is not None:
        if wanted not in columns:
            raise SchemaError(f"{source}: no column {wanted!r}; there are {columns}.")
        return wanted
    by_name = {c.lower(): c for c in reversed(columns)}
    found = [by_name[name] for name in TIME_NAMES if name in by_name]
    if not found:
        found = [c for c in columns if not pd.api.types.is_numeric_dtype(table[c]) and _looks_like_time(table[c])]
    if len(found) == 1 or (found and found[0].lower() == "timestamp"):
        return found[0]
    if found:
        raise SchemaError(
            f"{source}: more than one column may hold the time ({found}). Name it with timestamp_column; "
            "a date and a time of day in two columns must be joined into one first."
        )
    raise SchemaError(f"{source}: no column holds timestamps (columns: {columns}). Name it with timestamp_column.")


def timestamps(column: pd.Series, timezone: str | None, source: str, repairs: list[Repair]) -> pd.Series:
    """`column` as UTC times, NaT where it cannot be read; `timezone` is that of times that carry none. Raises SchemaError."""
    if not pd.api.types.is_datetime64_any_dtype(column):
        numbers = pd.to_numeric(column, errors="coerce")
        if numbers.notna().sum() > (1 - LARGEST_UNREADABLE_FRAC) * column.notna().sum() > 0:
            if timezone is not None:
                repairs.append(Repair(f"timezone {timezone} not used: epoch times are in UTC", len(column)))
            return _epoch(numbers, column, source, repairs)
    parsed, aware = _parse(_without_zone_names(column, timezone, source, repairs), source, repairs)
    _refuse_unreadable(parsed, column, source, repairs)
    if aware:
        if timezone is not None:
            repairs.append(Repair(f"timezone {timezone} not used: timestamps carry their own", len(column)))
    elif timezone is None:
        repairs.append(Repair("timestamps carry no timezone, taken as UTC", len(column)))
    else:
        parsed = _localise(parsed, timezone, source, repairs)
    return parsed.dt.as_unit("ns")


def _looks_like_time(column: pd.Series) -> bool:
    head = column.dropna().head(50)
    if not len(head):
        return False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # "could not infer format": that is the answer we look for
        return bool(pd.to_datetime(head, errors="coerce", utc=True, format="mixed").notna().mean() > 0.9)


def _epoch(numbers: pd.Series, column: pd.Series, source: str, repairs: list[Repair]) -> pd.Series:
    size = float(numbers.abs().median())
    unit = next(u for u, top in EPOCH_UNITS if size < top)
    parsed = pd.to_datetime(numbers, unit=unit, utc=True, errors="coerce").dt.as_unit("ns")
    years = parsed.dropna().dt.year
    if years.empty or not EPOCH_YEARS[0] <= float(years.median()) <= EPOCH_YEARS[1]:
        raise SchemaError(
            f"{source}: {column.name!r} holds numbers around {size:.14g}, which are no epoch times. "
            "Write times as 2026-01-31 12:00:00, or name another timestamp_column."
        )
    _refuse_unreadable(parsed, column, source, repairs)
    repairs.append(Repair(f"timestamps read as epoch {unit} in UTC", len(column)))
    return parsed


def _without_zone_names(column: pd.Series, timezone: str | None, source: str, repairs: list[Repair]) -> pd.Series:
    """`column` with UTC+1 as +1, and without a CET or PST, which `timezone` stands for; SchemaError if there is none."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return column
    text = column.astype(str).str.strip()
    if not re.search(r"[A-Z]{2}", "\n".join(text)):  # one search, as the expressions below take a second a million rows
        return column
    # pandas reads UTC+1 as POSIX does, west of UTC, and +1 as everybody else
    text = text.str.replace(r"(?:UTC|GMT)\s?(?=[+-]\d)", "", regex=True)
    found = text.str.extract(ABBREVIATION)[1]
    if found.notna().any() and timezone is None:
        where = int(np.flatnonzero(found.notna().to_numpy())[0])
        raise SchemaError(
            f"{source}: row {where + 2} of {column.name!r} ends in {found.iloc[where]}, which stands for no one offset. "
            "Name the place with timezone, such as Europe/Paris, or write the offset, such as +01:00."
        )
    if found.notna().any():
        repairs.append(
            Repair(f"abbreviations such as {found.dropna().iloc[0]} not used: {timezone} it is", int(found.count()))
        )
        text = text.str.replace(ABBREVIATION, r"\1\3", regex=True)
    return text.where(column.notna(), column)


def _parse(column: pd.Series, source: str, repairs: list[Repair]) -> tuple[pd.Series, bool]:
    """Times in UTC, and whether they carried an offset; a column that mixes both kinds is refused."""
    if pd.api.types.is_datetime64_any_dtype(column):
        return pd.to_datetime(column, utc=True), getattr(column.dt, "tz", None) is not None
    text = column.astype(str).str.strip()
    given = column.notna() & (text != "")
    if text[given].str.fullmatch(TIME_OF_DAY).mean() > 0.5:
        raise SchemaError(
            f"{source}: {column.name!r} holds times of day without a date. Join date and time into one column."
        )
    day_first = _day_first(text[given], source, str(column.name), repairs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        if day_first is not None:
            parsed = pd.to_datetime(text, utc=True, errors="coerce", format="mixed", dayfirst=day_first)
        else:
            try:
                parsed = pd.to_datetime(text, utc=True, errors="raise")
            except (ValueError, TypeError, OverflowError):
                parsed = pd.to_datetime(text, utc=True, errors="coerce", format="mixed")
    offset = text.str.contains(OFFSET, regex=True) & parsed.notna()
    naive = parsed.notna() & ~offset
    if offset.any() and naive.any():
        rows = [int(np.flatnonzero(kind.to_numpy())[0]) + 2 for kind in (offset, naive)]
        raise SchemaError(
            f"{source}: row {rows[0]} of {column.name!r} carries a timezone and row {rows[1]} none. Write all times alike."
        )
    return parsed, bool(offset.any())


def _day_first(text: pd.Series, source: str, name: str, repairs: list[Repair]) -> bool | None:
    """Whether 05/01/2026 is 5 January: from values above 12, else from the order that runs forward; None for other formats."""
    parts = text.str.extract(DAY_AND_MONTH).dropna().astype(int)
    if len(parts) <= LARGEST_UNREADABLE_FRAC * len(text):
        return None
    if len(parts) < (1 - LARGEST_UNREADABLE_FRAC) * len(text):
        raise SchemaError(
            f"{source}: {name!r} mixes dates such as {text[parts.index[0]]!r} with another format. Write all alike."
        )
    above = [bool((parts[k] > 12).any()) for k in (0, 1)]
    keys = [parts[2] * 10_000 + parts[1 - k] * 100 + parts[k] for k in (0, 1)]  # day first, month first
    forward = [bool(key.is_monotonic_increasing) for key in keys]
    if above[0] == above[1] and (above[0] or forward[0] == forward[1]):
        raise SchemaError(
            f"{source}: {name!r} holds dates such as {text.iloc[0]!r}, which may be day/month or month/day. Write 2026-01-31."
        )
    day_first = above[0] if above[0] != above[1] else forward[0]
    repairs.append(Repair(f"dates read as {'day/month' if day_first else 'month/day'}", len(text)))
    return day_first


def _refuse_unreadable(parsed: pd.Series, column: pd.Series, source: str, repairs: list[Repair]) -> None:
    bad = parsed.isna()
    if bad.mean() > LARGEST_UNREADABLE_FRAC:
        where = int(np.flatnonzero(bad.to_numpy())[0])
        raise SchemaError(
            f"{source}: row {where + 2} of {column.name!r} is no timestamp: {str(column.iloc[where])[:40]!r} ({plural(int(bad.sum()), 'such row')})."
        )
    count_repair(repairs, "timestamps that could not be read", int(bad.sum()))


def _localise(parsed: pd.Series, timezone: str, source: str, repairs: list[Repair]) -> pd.Series:
    wall = parsed.dt.tz_localize(None)
    try:
        known = wall.dt.tz_localize(timezone, ambiguous="NaT", nonexistent="shift_forward")
        local = wall.dt.tz_localize(timezone, ambiguous="NaT", nonexistent="NaT")
    except (KeyError, IndexError, ValueError, OSError):
        raise SchemaError(f"{source}: no timezone {timezone!r}. Use a name such as Europe/Paris.") from None
    repeated = int(known.isna().sum() - parsed.isna().sum())
    skipped = int(local.isna().sum() - known.isna().sum())
    count_repair(repairs, "timestamps in the hour that the clock repeats, dropped", repeated)
    count_repair(repairs, "timestamps in the hour that the clock skips, dropped", skipped)
    repairs.append(Repair(f"timestamps converted from {timezone} to UTC", len(parsed)))
    return local.dt.tz_convert("UTC")
