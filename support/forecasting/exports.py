"""Forecasts on disk, for decisions made elsewhere: `quantiles.parquet` and `paths.parquet` in one folder.

quantiles: one row a model, series and step, sorted so: model, unique_id, cutoff (UTC, the last known time), ds (UTC, start
of the step), h (1 and up), step_seconds, unit, and one column per level, `q0.025` ... `q0.975`, in `unit`. Apart from y,
which is not known yet, the columns of the quantile frame. paths: model, unique_id, cutoff, draw (0 and up), h, value in
`unit`; the values of one draw belong together, over the steps.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from support.errors import SchemaError, SourceError
from support.forecast import Forecast

__all__ = ["read_forecasts", "write_forecasts"]

QUANTILES_FILE, PATHS_FILE = "quantiles.parquet", "paths.parquet"
_KEY = ["model", "unique_id", "cutoff"]


def write_forecasts(forecasts: Sequence[Forecast], folder: Path) -> tuple[Path, Path]:
    """Write the quantiles and the paths; the folder is made if need be. Gives the two paths.

    Each file is written under a temporary name and then renamed, so that a reader never meets a part of one, and what
    was there stays if writing fails. Raises SchemaError for no forecasts, or a (model, series, cut-off) that is there
    twice, or levels that differ.
    """
    keys = [(f.model, name, f.issued_at) for f in forecasts for name in f.series]
    if (
        not keys
        or len(set(keys)) < len(keys)
        or any(not np.array_equal(f.levels, forecasts[0].levels) for f in forecasts)
    ):
        raise SchemaError("export: no forecasts, or a model, series and cut-off twice, or levels that differ.")
    folder.mkdir(parents=True, exist_ok=True)
    tables = {QUANTILES_FILE: [_quantile_rows(f) for f in forecasts], PATHS_FILE: [_path_rows(f) for f in forecasts]}
    temporary = {name: folder / f".{name}.{os.getpid()}.part" for name in tables}
    try:
        for name, parts in tables.items():
            pd.concat(parts, ignore_index=True).to_parquet(temporary[name], index=False)
        for name, part in temporary.items():
            part.replace(folder / name)
    finally:
        for part in temporary.values():
            part.unlink(missing_ok=True)
    return folder / QUANTILES_FILE, folder / PATHS_FILE


def read_forecasts(folder: Path) -> list[Forecast]:
    """The forecasts of a folder, one a model, series and cut-off. Raises SourceError if there are none, SchemaError if
    the two files do not belong together.

    Example:
        >>> import tempfile
        >>> made = Forecast.from_paths(np.arange(6.0).reshape(1, 3, 2), issued_at=pd.Timestamp("2026-01-01", tz="UTC"),
        ...                            step_seconds=60, unit="requests", model="flat")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = write_forecasts([made], Path(folder))
        ...     read_forecasts(Path(folder))[0].paths.tolist()
        [[[0.0, 1.0], [2.0, 3.0], [4.0, 5.0]]]
    """
    files = [folder / QUANTILES_FILE, folder / PATHS_FILE]
    if missing := [str(f) for f in files if not f.exists()]:
        raise SourceError(f"{', '.join(missing)}: no such file. Write it with write_forecasts.")
    quantiles, paths = (pd.read_parquet(f) for f in files)
    drawn = dict(list(paths.groupby(_KEY, sort=False)))
    said = dict(list(quantiles.groupby(_KEY, sort=False)))
    if set(drawn) != set(said):
        raise SchemaError(f"{folder}: quantiles and paths are of different forecasts. Write both again.")
    columns = [c for c in quantiles.columns if c.startswith("q")]
    levels = np.array([float(c.removeprefix("q")) for c in columns])
    made = []
    for (model, name, cutoff), rows in said.items():
        values = drawn[model, name, cutoff]["value"].to_numpy(float).reshape(1, -1, len(rows))
        made.append(
            Forecast(
                rows[columns].to_numpy(float)[None],
                levels,
                values,
                pd.Timestamp(cutoff),
                float(rows["step_seconds"].iloc[0]),
                str(rows["unit"].iloc[0]),
                model,
                (name,),
            )
        )
    return made


def _quantile_rows(forecast: Forecast) -> pd.DataFrame:
    n_series, horizon, _ = forecast.quantiles.shape
    rows = pd.DataFrame(
        {
            "model": forecast.model,
            "unique_id": np.repeat(np.array(forecast.series, dtype=object), horizon),
            "cutoff": forecast.issued_at.tz_convert("UTC").as_unit("ns"),
            "ds": np.tile(forecast.timestamps.tz_convert("UTC"), n_series),
            "h": np.tile(np.arange(1, horizon + 1), n_series),
            "step_seconds": float(forecast.step_seconds),
            "unit": forecast.unit,
        }
    )
    for position, level in enumerate(forecast.levels):
        rows[f"q{level:.12g}"] = forecast.quantiles[..., position].ravel()
    return rows


def _path_rows(forecast: Forecast) -> pd.DataFrame:
    n_series, n_draw, horizon = forecast.paths.shape
    return pd.DataFrame(
        {
            "model": forecast.model,
            "unique_id": np.repeat(np.array(forecast.series, dtype=object), n_draw * horizon),
            "cutoff": forecast.issued_at.tz_convert("UTC").as_unit("ns"),
            "draw": np.tile(np.repeat(np.arange(n_draw), horizon), n_series),
            "h": np.tile(np.arange(1, horizon + 1), n_series * n_draw),
            "value": forecast.paths.ravel(),
        }
    )
