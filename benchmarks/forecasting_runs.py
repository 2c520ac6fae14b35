"""Runs of the table of forecasters put together: each model's rows are those of its newest run, with its date and commit.

A result of one data set is a dict: series, protocol, left_out; by kind (raw, calibrated, ratios), horizon and row the
scores; ledger and runs by model; fallbacks. A row is a model's name, or the name and how it was calibrated.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from typing import Any

__all__ = ["Result", "merged", "owner", "plain"]

Result = dict[str, Any]
KINDS = ("raw", "calibrated", "ratios")
CALIBRATIONS = (" conf", " CQR")  # what calibration adds to the name of a model
DIGITS = 4
SAME_FRAC = 10.0 ** (1 - DIGITS)  # two runs of one baseline differ by rounding at most


def plain(values: Mapping[Any, Any]) -> Result:
    """Numbers rounded, and undefined ones as null, for JSON.

    Example:
        >>> plain({"m": {"sql": 1.23456, "r2": float("nan")}})
        {'m': {'sql': 1.235, 'r2': None}}
    """
    return {
        str(k): plain(v) if isinstance(v, Mapping) else None if not math.isfinite(v) else float(f"{v:.{DIGITS}g}")
        for k, v in values.items()
    }


def owner(row: str) -> str:
    """The model that a row of the table is of.

    Example:
        >>> owner("LSTM conf"), owner("own zero-shot")
        ('LSTM', 'own zero-shot')
    """
    for calibration in CALIBRATIONS:
        row = row.removesuffix(calibration)
    return row


def merged(old: Result, new: Result, *, ensembles: Mapping[str, Collection[str]], baseline: str) -> Result:
    """A new run of some models put beside the rows of the others, each with the date and commit of its own run.

    old may be empty. ensembles: members by name; one with a member in the new run that was not combined again is
    dropped, for it would be of other members. If series, windows or the baseline's own loss are no longer the same, the
    old rows are relative to something else, and only the new run is left.
    """
    if any(old.get(key) != new[key] for key in ("series", "protocol")) or _moved(old, new, baseline):
        return new
    again = set(new["runs"])
    gone = again | {name for name, members in ensembles.items() if again & set(members)}
    tables = {}
    for kind in KINDS:
        tables[kind] = {
            h: {row: kept for row, kept in old.get(kind, {}).get(h, {}).items() if owner(row) not in gone} | rows
            for h, rows in new[kind].items()
        }
    for key in ("ledger", "runs"):
        tables[key] = {model: kept for model, kept in old.get(key, {}).items() if model not in gone} | new[key]
    fallbacks = [row for row in old["fallbacks"] if row["model"] not in gone] + new["fallbacks"]
    return new | tables | {"fallbacks": fallbacks}


def _moved(old: Result, new: Result, baseline: str) -> bool:
    """Whether the baseline lost something else than before, by more than rounding."""
    return any(
        not math.isclose(old["raw"][h][baseline]["sql"], rows[baseline]["sql"], rel_tol=SAME_FRAC)
        for h, rows in new["raw"].items()
        if baseline in old["raw"].get(h, {})
    )
