"""Rows onto a regular grid of time: the step, the slots, the gaps; every change counted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.telemetry.schema import METRICS, Repair

__all__ = ["count_repair", "merged_repairs", "refuse_separators", "step_seconds_of", "to_grid"]

LOWEST_STEP_SECONDS, HIGHEST_STEP_SECONDS = 1.0, 86_400.0
COMMON_STEPS_SECONDS = (60, 120, 300, 600, 900, 1800, 3600, 7200, 86_400)
LARGEST_EMPTY_FRAC = 0.5
LARGEST_EMPTY_FRAC_UNFILLED = 0.95  # a grid with holes left in it may be thin, but not boundless
FEW_ROWS = 10  # below which a hole or two make half of a resource
SEPARATED = r"[+-]?(?:\d{1,3}(?:[.,' ]\d{3})+(?:[.,]\d+)?|\d+,\d+)"  # 12.345.678, 1,234.5, 2,5: no plain number
ISO_DAY_NS = 86_400_000_000_000


def count_repair(repairs: list[Repair], what: str, count: int) -> None:
    """Note a repair that touched `count` rows, if it touched any."""
    if count:
        repairs.append(Repair(what, count))


def refuse_separators(unread: pd.Series, name: str, source: str) -> None:
    """SchemaError if one of the values that are no plain numbers is a number with separators of thousands or a decimal comma.

    One such value says how the whole column is written, in which 1.234 may then be read as a thousandth of what it is.
    """
    found = unread[unread.astype(str).str.strip().str.fullmatch(SEPARATED)]
    if len(found):
        raise SchemaError(
            f"{source}: {name!r} holds numbers such as {str(found.iloc[0])[:40]!r}, with separators of thousands or a decimal "
            "comma. Write plain numbers such as 1234.5."
        )


def merged_repairs(repairs: list[Repair]) -> tuple[Repair, ...]:
    """Repairs of the same kind as one each, their counts added, in the order of their first mention.

    Example:
        >>> merged_repairs([Repair("rows sorted", 2), Repair("rows read", 9), Repair("rows sorted", 1)])
        (Repair(what='rows sorted', count=3), Repair(what='rows read', count=9))
    """
    merged: dict[str, int] = {}
    for repair in repairs:
        merged[repair.what] = merged.get(repair.what, 0) + repair.count
    return tuple(Repair(what, count) for what, count in merged.items())


def step_seconds_of(frame: pd.DataFrame, source: str) -> float:
    """Median step in seconds of sorted rows, a sloppy minute or hour made exact; SchemaError if uneven or out of range."""
    gaps = frame.groupby("resource_id")["timestamp"].diff().dt.total_seconds().dropna()
    step = float(max(np.round(gaps.median()), 1.0)) if len(gaps) else 0.0
    if step > 30:  # 299 s and 301 s are a sloppy five minutes
        step = next((float(c) for c in COMMON_STEPS_SECONDS if abs(c - step) <= 0.02 * c), step)
    if not LOWEST_STEP_SECONDS <= step <= HIGHEST_STEP_SECONDS:
        raise SchemaError(
            f"{source}: the median step is {step:g} s; between 1 s and 1 day is understood. Aggregate the rows to intervals first."
        )
    even = np.abs(gaps / step - np.round(gaps / step)) < 0.25
    if even.mean() < 0.8 or (gaps < 0.5 * step).mean() > 0.1:
        raise SchemaError(
            f"{source}: timestamps are uneven (median step {step:g} s), like single events. Count them per interval first."
        )
    return step


def to_grid(
    part: pd.DataFrame, step: float, fill: str, max_gap: float, source: str, repairs: list[Repair]
) -> pd.DataFrame:
    """One resource on the grid of multiples of `step` since the epoch, gaps filled and flagged (left NaN if fill="none").

    Stamps that share an offset (always at second 30, say) are moved by that offset as a whole before they are rounded,
    so a little jitter around it neither merges two rows nor opens a gap.
    """
    name = part["resource_id"].iloc[0]
    step_ns = int(step * 1e9)
    stamps = part["timestamp"].astype("int64").to_numpy()
    angle = 2 * np.pi * (stamps % step_ns) / step_ns
    offset_ns = round(np.angle(np.exp(1j * angle).mean()) / (2 * np.pi) * step_ns)  # circular mean, half a step at most
    slots = (stamps - offset_ns + step_ns // 2) // step_ns
    n_slots = int(slots.max() - slots.min()) + 1
    n_filled = len(np.unique(slots))
    empty_frac = 1 - n_filled / n_slots  # weighed before the grid is made: one stray date can span a century
    # every other interval of many is empty: the resource has a step of twice the length, and would be counted twice
    every_other = fill == "interpolate" and n_filled >= FEW_ROWS and 2 * n_filled <= n_slots + 1
    if every_other or empty_frac > (LARGEST_EMPTY_FRAC_UNFILLED if fill == "none" else LARGEST_EMPTY_FRAC):
        first, last = part["timestamp"].min(), part["timestamp"].max()
        raise SchemaError(
            f"{source}: {100 * empty_frac:.0f} % of the intervals of {step:g} s are missing for {name}, from {first:%Y-%m-%d %H:%M} "
            f"to {last:%Y-%m-%d %H:%M}. Remove stray dates, or aggregate to a longer step."
        )
    count_repair(repairs, f"timestamps moved to the grid of {step:g} s", int((slots * step_ns != stamps).sum()))
    values = part.drop(columns=["resource_id", "timestamp"])
    how = {c: METRICS[c][3] if c in METRICS else "mean" for c in values}
    if n_filled == len(slots):
        combined = values.set_axis(slots)
    else:
        groups = values.groupby(slots)
        combined = groups.agg(how).where(groups.count() > 0)  # the sum of nothing is missing, not 0
    count_repair(repairs, "rows that fell into the same interval, combined", len(values) - len(combined))
    frame = combined.reindex(np.arange(slots.min(), slots.max() + 1))
    missing = frame.isna().any(axis=1)
    if fill == "none":
        count_repair(repairs, "intervals without a value left missing, nothing filled", int(missing.sum()))
    elif missing.any():
        _fill(frame, missing.to_numpy(), step, fill, max_gap, repairs)
    frame.index = pd.MultiIndex.from_product(
        [[name], pd.to_datetime(frame.index.to_numpy() * step_ns, utc=True)], names=["resource_id", "timestamp"]
    )
    return frame


def _fill(
    frame: pd.DataFrame, missing: np.ndarray, step: float, fill: str, max_gap: float, repairs: list[Repair]
) -> None:
    runs = np.cumsum(np.diff(missing.astype(int), prepend=0) == 1) * missing
    length = np.bincount(runs)[runs] * step
    long = missing & (length > max_gap)
    copied = np.zeros(len(frame), dtype=bool)
    flags = frame.pop("quality_flag").fillna(0.0) if "quality_flag" in frame else 0.0
    per_day = round(ISO_DAY_NS / 1e9 / step)
    for column in frame:
        filled = frame[column].fillna(0.0) if fill == "zero" else frame[column].interpolate(limit_direction="both")
        if fill == "interpolate" and long.any():
            days = [frame[column].shift(sign * k * per_day) for k in (1, 2, 7) for sign in (1, -1)]
            same_time = pd.concat(days, axis=1).bfill(axis=1).iloc[:, 0]
            from_a_day = long & same_time.notna().to_numpy() & frame[column].isna().to_numpy()
            filled = filled.mask(from_a_day, same_time)
            copied |= from_a_day
        frame[column] = filled
    if isinstance(flags, pd.Series) or fill != "zero":
        frame["quality_flag"] = np.maximum(flags, 0.0 if fill == "zero" else missing.astype(float))
    if fill == "zero":
        repairs.append(Repair("intervals without a row filled with 0", int(missing.sum())))
        return
    count_repair(
        repairs, f"missing intervals interpolated (gaps up to {max_gap / 60:g} min)", int((missing & ~long).sum())
    )
    count_repair(
        repairs,
        f"missing intervals taken from the same time of a nearby day (gaps over {max_gap / 60:g} min)",
        int(copied.sum()),
    )
    count_repair(
        repairs,
        f"missing intervals interpolated although the gap is over {max_gap / 60:g} min (no nearby day to take them from)",
        int((long & ~copied).sum()),
    )
