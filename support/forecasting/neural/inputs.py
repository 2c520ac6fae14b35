"""What the nets see of a window: its context on the asinh scale of its own, and a few numbers about it.

As in `support.forecasting.windows`, x becomes asinh((x - centre) / scale) of each window's context, by default median and
mean absolute deviation, so that forecasts follow unit and level and quantiles survive the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from support.errors import SchemaError, TooShortError
from support.forecasting.windows import location_scale, training_windows

__all__ = ["Examples", "Scaled", "examples", "scaled_contexts"]

STAT_LEVELS = np.array([0.025, 0.1, 0.25, 0.5, 0.75, 0.9, 0.975])
NEWEST_SHARES = (1.0, 1 / 4, 1 / 16, 1 / 64)  # of the context, whose quantiles are inputs


@dataclass(frozen=True)
class Scaled:
    """Inputs of n windows. past: (n, context, n_channel), asinh scale. stats: (n, n_stat). centre, scale: (n,)."""

    past: np.ndarray
    stats: np.ndarray
    centre: np.ndarray
    scale: np.ndarray


@dataclass(frozen=True)
class Examples:
    """Training windows: inputs, targets (n, horizon) on the asinh scale, series (n,) and steps left behind them (n,)."""

    inputs: Scaled
    targets: np.ndarray
    series: np.ndarray
    left: np.ndarray


def as_channels(name: str, values: np.ndarray) -> np.ndarray:
    """A series (n_time,) or (n_time, n_channel) as the latter. Raises SchemaError for other shapes or missing values."""
    table = np.asarray(values, dtype=float)
    table = table[:, None] if table.ndim == 1 else table
    if table.ndim != 2 or not np.isfinite(table).all():
        raise SchemaError(
            f"{name}: shape {np.shape(values)}; wanted finite values (n_time,) or (n_time, n_channel), the target first."
        )
    return table


def scaled_contexts(contexts: np.ndarray, history: np.ndarray, scaler: str = "robust") -> Scaled:
    """Inputs from contexts (n, context, n_channel) and long-run quantiles (n, n_stat_level) of the target, in its unit.

    scaler: as `location_scale` has them, of each channel of each context.

    Example:
        >>> made = scaled_contexts(np.arange(32.0).reshape(1, 32, 1), np.zeros((1, 7)))
        >>> made.past.shape, made.stats.shape, float(made.centre[0])
        ((1, 32, 1), (1, 37), 15.5)
    """
    channels = np.moveaxis(contexts, -1, 1)
    centre, scale = location_scale(channels, scaler)
    past = np.arcsinh((channels - centre) / scale)
    target = past[:, 0]
    n = target.shape[1]
    parts = [np.arcsinh((history - centre[:, 0]) / scale[:, 0])]
    parts += [np.quantile(target[:, -max(1, round(n * share)) :], STAT_LEVELS, axis=1).T for share in NEWEST_SHARES]
    parts += [target[:, -1:], np.abs(np.diff(target, axis=1)).mean(axis=1, keepdims=True)]
    stats = np.concatenate(parts, axis=1)
    return Scaled(
        np.moveaxis(past, 1, -1).astype(np.float32), stats.astype(np.float32), centre[:, 0, 0], scale[:, 0, 0]
    )


def long_run(values: np.ndarray) -> np.ndarray:
    """Quantiles of all known values of a target, (n_stat_level,)."""
    return np.quantile(values, STAT_LEVELS)


def examples(train: Mapping[str, np.ndarray], context: int, horizon: int, scaler: str = "robust") -> Examples:
    """Windows of the training panel; the long-run quantiles of each are of the values before its cut-off.

    Raises TooShortError, SchemaError as `training_windows`, SchemaError if series differ in their channels.
    """
    tables = {name: as_channels(name, values) for name, values in train.items()}
    if len({table.shape[1] for table in tables.values()}) > 1:
        raise SchemaError(f"panel: channels differ: { {n: t.shape[1] for n, t in tables.items()} }. Give all the same.")
    windows = training_windows({n: t[:, 0] for n, t in tables.items()}, context, horizon, scaler)
    every = list(tables.values())
    ends = np.array([len(every[s]) - horizon - left for s, left in zip(windows.series, windows.left, strict=True)])
    contexts = np.stack([every[s][end - context : end] for s, end in zip(windows.series, ends, strict=True)])
    history = np.stack([long_run(every[s][:end, 0]) for s, end in zip(windows.series, ends, strict=True)])
    return Examples(
        scaled_contexts(contexts, history, scaler), windows.targets.astype(np.float32), windows.series, windows.left
    )


def newest(contexts: Mapping[str, np.ndarray], context: int, n_channel: int) -> np.ndarray:
    """The last `context` values of each series, (n, context, n_channel). Raises TooShortError, SchemaError."""
    rows = []
    for name, values in contexts.items():
        table = as_channels(name, values)
        if len(table) < context:
            raise TooShortError(f"{name}: {len(table)} values; the net was fitted on {context}. Give more.")
        if table.shape[1] != n_channel:
            raise SchemaError(f"{name}: {table.shape[1]} channels; the net was fitted on {n_channel}.")
        rows.append(table[-context:])
    return np.stack(rows)
