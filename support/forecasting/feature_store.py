"""A feature store in a folder: rows of the feature table as they were known, each written once, read as of a time.

One Parquet file a write and one JSON file that says which plan the rows are of. What a model was trained on and what it is
asked with then come from the same rows: a row that is there already is never changed, and none after `as_of` is given.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pandas as pd

from support.errors import SchemaError, SourceError
from support.forecasting.feature_blocks import FeaturePlan

__all__ = ["read_features", "store_features"]

PLAN_FILE, ROWS, EVERY = "plan.json", "rows-{:06d}.parquet", "rows-*.parquet"
INDEX = ["series", "cutoff", "h"]


def store_features(table: pd.DataFrame, folder: Path | str, plan: FeaturePlan) -> int:
    """Add the rows of `table`, as `features` gives it, that the folder has not yet; gives their number.

    Each file is written under a temporary name and then renamed. Raises SchemaError for another plan or other columns
    than those stored, or for a row that is there with other values: the past does not change, its features were wrong.

    Example:
        >>> import tempfile
        >>> from support.forecasting.features import features
        >>> hours = pd.date_range("2026-01-01", periods=4, freq="1h", tz="UTC")
        >>> plan = FeaturePlan(groups=("lags",), lags=(0, 1))
        >>> table = features({"a": pd.Series([1.0, 2.0, 4.0, 8.0], hours)}, plan)
        >>> folder = Path(tempfile.mkdtemp())
        >>> store_features(table[:3], folder, plan), store_features(table, folder, plan)
        (3, 1)
        >>> read_features(folder, as_of=hours[1])["lag_0"].tolist()
        [1.0, 2.0]
    """
    folder, said = Path(folder), json.dumps(asdict(plan))
    folder.mkdir(parents=True, exist_ok=True)
    files = sorted(folder.glob(EVERY))
    new = table
    if files:
        kept = read_features(folder)
        if (folder / PLAN_FILE).read_text(encoding="utf-8") != said or list(kept) != list(table):
            raise SchemaError(f"{folder}: holds features of another plan, or other columns. Name another folder.")
        both = table.index.intersection(kept.index)
        changed = ~_same(table.loc[both], kept.loc[both])
        if changed.any():
            first = both[int(changed.to_numpy().argmax())]
            raise SchemaError(f"{folder}: {int(changed.sum())} rows are stored with other values, first {first}.")
        new = table.loc[table.index.difference(kept.index, sort=False)]
    if len(new):
        _renamed(folder / PLAN_FILE, lambda part: part.write_text(said, encoding="utf-8"))
        _renamed(folder / ROWS.format(len(files)), lambda part: new.reset_index().to_parquet(part, index=False))
    return len(new)


def read_features(folder: Path | str, *, as_of: pd.Timestamp | None = None) -> pd.DataFrame:
    """The stored rows by (series, cutoff, h), those whose cut-off is no later than `as_of`; all without it.

    Raises SourceError if nothing is stored there.
    """
    folder = Path(folder)
    files = sorted(folder.glob(EVERY))
    if not files or not (folder / PLAN_FILE).exists():
        raise SourceError(f"{folder}: no features are stored here. Name the folder that store_features wrote to.")
    table = pd.concat([pd.read_parquet(file) for file in files]).set_index(INDEX).sort_index()
    return table if as_of is None else table[table.index.get_level_values("cutoff") <= as_of]


def _same(one: pd.DataFrame, two: pd.DataFrame) -> pd.Series:
    """Whether each row is the same in both, missing values being equal."""
    return ((one == two) | (one.isna() & two.isna())).all(axis=1)


def _renamed(target: Path, write: Callable[[Path], object]) -> None:
    part = target.with_name(f".{target.name}.{os.getpid()}")
    try:
        write(part)
        part.replace(target)
    finally:
        part.unlink(missing_ok=True)
