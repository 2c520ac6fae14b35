"""The quantile frame: forecasts of many models, series and windows, wide in quantile, beside what was seen.

Columns: `unique_id`, `cutoff` (the last known time), `ds` (the time forecast), `h` (steps from cutoff to ds, 1 and up),
`model`, `y` (observed) and one column per level, `q0.025` ... `q0.975`. The point forecast is `q0.5`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.writing import plural

__all__ = [
    "QUANTILE_LEVELS", "ModelForecasts", "arrays_of", "frame_of", "level_place", "require_same_windows", "validate",
]  # fmt: skip

# the deciles and the bounds of the central 50, 90 and 95 % intervals
QUANTILE_LEVELS = np.array([0.025, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.975])
ROUNDING_FRAC = 1e-12  # of the largest quantile: less is no crossing, but the rounding of an interpolation
_KEY = ["model", "unique_id", "cutoff", "h"]
_PLAIN = ["unique_id", "cutoff", "ds", "h", "model", "y"]


@dataclass(frozen=True)
class ModelForecasts:
    """One model's part of a frame as arrays, for maths.

    observed: (n_series, n_window, horizon). quantiles: (n_series, n_window, horizon, n_level). cutoffs: (n_series,
    n_window) and times: (n_series, n_window, horizon), datetime64[ns] in UTC.
    """

    model: str
    series: tuple[str, ...]
    cutoffs: np.ndarray
    times: np.ndarray
    observed: np.ndarray
    quantiles: np.ndarray
    levels: np.ndarray

    def with_quantiles(self, quantiles: np.ndarray, model: str, first_window: int = 0) -> ModelForecasts:
        """The same windows from `first_window` on with other quantiles and another model's name."""
        later = slice(first_window, None)
        return replace(
            self, model=model, quantiles=quantiles, cutoffs=self.cutoffs[:, later], times=self.times[:, later],
            observed=self.observed[:, later],
        )  # fmt: skip


def _quantile_columns(levels: np.ndarray) -> list[str]:
    """Names of the quantile columns.

    Example:
        >>> _quantile_columns(np.array([0.025, 0.5]))
        ['q0.025', 'q0.5']
    """
    return [f"q{level:g}" for level in levels]


def _levels_of(frame: pd.DataFrame) -> np.ndarray:
    """Levels of the quantile columns, (n_level,), in the frame's order; SchemaError if there are none."""
    names = [c for c in frame.columns if c not in _PLAIN]
    try:
        levels = np.array([float(c.removeprefix("q")) for c in names])
    except ValueError:
        raise SchemaError(f"quantile frame: columns {names} are not all q<level>. Drop or rename the others.") from None
    if not names or _quantile_columns(levels) != names:
        raise SchemaError(f"quantile frame: quantile columns {names} are not named q<level>, such as q0.025.")
    return levels


def frame_of(forecasts: ModelForecasts) -> pd.DataFrame:
    """The arrays of one model as a checked quantile frame. Raises SchemaError as `validate`.

    Example:
        >>> at = np.datetime64("2026-01-01T00:00", "ns")
        >>> one = ModelForecasts("flat", ("a",), at.reshape(1, 1), (at + np.timedelta64(1, "h")).reshape(1, 1, 1),
        ...                      np.ones((1, 1, 1)), np.ones((1, 1, 1, 1)), np.array([0.5]))
        >>> frame_of(one)[["unique_id", "h", "y", "q0.5"]].values.tolist()
        [['a', 1, 1.0, 1.0]]
    """
    n_series, n_window, horizon = forecasts.observed.shape
    size = n_series * n_window * horizon
    frame = pd.DataFrame(
        {
            "unique_id": np.repeat(np.array(forecasts.series, dtype=object), n_window * horizon),
            "cutoff": pd.DatetimeIndex(np.repeat(forecasts.cutoffs.ravel(), horizon), tz="UTC"),
            "ds": pd.DatetimeIndex(forecasts.times.ravel(), tz="UTC"),
            "h": np.tile(np.arange(1, horizon + 1), n_series * n_window),
            "model": forecasts.model,
            "y": forecasts.observed.ravel(),
        }
    )
    values = forecasts.quantiles.reshape(size, -1)
    return validate(pd.concat([frame, pd.DataFrame(values, columns=_quantile_columns(forecasts.levels))], axis=1))


def arrays_of(frame: pd.DataFrame, model: str) -> ModelForecasts:
    """Arrays of one model of a valid frame, series and cut-offs in order.

    Raises SchemaError for an unknown model, or if series have different numbers of windows or steps.
    """
    part = frame[frame["model"] == model].sort_values(["unique_id", "cutoff", "h"])
    if part.empty:
        raise SchemaError(f"quantile frame: no model {model!r}; there are {sorted(frame['model'].unique())}.")
    series, levels = tuple(part["unique_id"].unique()), _levels_of(frame)
    windows = part.groupby(["unique_id", "cutoff"], sort=False).size()
    horizon, n_window = int(windows.max()), len(windows) // len(series)
    even = (windows == horizon).all() and (windows.groupby(level=0).size() == n_window).all()
    if not even or not (part["h"].to_numpy().reshape(-1, horizon) == np.arange(1, horizon + 1)).all():
        raise SchemaError(
            f"quantile frame, {model}: series differ in windows or steps, so there is no array. Give every series the "
            "same number of windows, and every window the steps 1 to the horizon."
        )
    shape = (len(series), n_window, horizon)
    return ModelForecasts(
        model,
        series,
        _naive(part["cutoff"]).reshape(shape)[:, :, 0],
        _naive(part["ds"]).reshape(shape),
        part["y"].to_numpy(float).reshape(shape),
        part[_quantile_columns(levels)].to_numpy(float).reshape(*shape, -1),
        levels,
    )


def level_place(levels: np.ndarray, level: float) -> int:
    """Position of `level` among `levels` (n_level,). Raises SchemaError if it is not there.

    Example:
        >>> level_place(np.array([0.05, 0.5, 0.95]), (1 + 0.9) / 2)
        2
    """
    found = np.flatnonzero(np.isclose(levels, level))
    if not len(found):
        raise SchemaError(f"scores: level {level:g} is not among {levels.tolist()}. Forecast it too.")
    return int(found[0])


def require_same_windows(frame: pd.DataFrame) -> None:
    """Raise SchemaError if a series was forecast by two models from different cut-offs: their losses do not compare.

    Example:
        >>> require_same_windows(pd.DataFrame({"unique_id": "a", "cutoff": [1, 2, 2], "model": ["m", "m", "n"]}))
        Traceback (most recent call last):
        support.errors.SchemaError: scores: series 'a' has 2 windows of m and 1 of n, or others. Cut all models to the same.
    """
    windows = frame[["unique_id", "model", "cutoff"]].drop_duplicates()
    models = windows.groupby("unique_id")["model"].nunique()
    shared = windows.groupby(["unique_id", "cutoff"])["model"].nunique()
    differ = shared[shared != models.reindex(shared.index, level="unique_id").to_numpy()]
    if not len(differ):
        return
    series = differ.index[0][0]
    said = windows[windows["unique_id"] == series].groupby("model", sort=False).size()
    most, least = said.idxmax(), said[::-1].idxmin()  # two models, even if they have equally many
    raise SchemaError(
        f"scores: series {series!r} has {said[most]} windows of {most} and {said[least]} of {least}, or others. "
        "Cut all models to the same."
    )


def validate(frame: pd.DataFrame) -> pd.DataFrame:
    """The frame itself if it keeps its rules, else SchemaError that names the rule, the place and the mend.

    Rules: the columns there are; levels increase within (0, 1) and hold 0.5; values finite; quantiles never decrease;
    ds after cutoff and h at least 1; no model forecasts a step twice; all models beside the same observation.
    """
    lacking = [c for c in _PLAIN if c not in frame.columns]
    if lacking or frame.empty:
        raise SchemaError(f"quantile frame: {'no rows' if frame.empty else f'columns {lacking} are missing'}.")
    levels = _levels_of(frame)
    if (np.diff(levels) <= 0).any() or levels[0] <= 0 or levels[-1] >= 1:
        raise SchemaError(f"quantile frame: levels {levels.tolist()} must increase within (0, 1). Sort the columns.")
    if 0.5 not in levels:
        raise SchemaError("quantile frame: no column q0.5; it is the point forecast. Add the median.")
    names = _quantile_columns(levels)
    quantiles = frame[names].to_numpy(float)
    _refuse(frame, ~np.isfinite(frame["y"].to_numpy(float)), "y is not finite", "Leave out steps not observed")
    _refuse(frame, ~np.isfinite(quantiles).all(axis=1), "a quantile is not finite", "Fall back, and count it")
    rounding = ROUNDING_FRAC * np.abs(quantiles).max(axis=1, keepdims=True)
    crossing = (np.diff(quantiles, axis=1) < -rounding).any(axis=1)
    _refuse(frame, crossing, "quantiles cross", "Sort them along the levels")
    _refuse(frame, (frame["ds"] <= frame["cutoff"]).to_numpy(), "ds is not after cutoff", "Forecast later steps only")
    _refuse(frame, (frame["h"] < 1).to_numpy(), "h is below 1", "Count the steps from cutoff to ds")
    _refuse(frame, frame.duplicated(_KEY).to_numpy(), "the step is there twice", "Drop one of the rows")
    seen = frame.groupby(["unique_id", "ds"], sort=False)["y"].transform("first")
    _refuse(frame, (seen != frame["y"]).to_numpy(), "y differs between rows of one time", "Take it from one panel")
    return frame


def _naive(column: pd.Series) -> np.ndarray:
    return column.dt.tz_convert(None).to_numpy()


def _refuse(frame: pd.DataFrame, broken: np.ndarray, what: str, mend: str) -> None:
    if broken.any():
        row = frame.iloc[int(np.argmax(broken))]
        raise SchemaError(
            f"quantile frame: {what} in {plural(int(broken.sum()), 'row')}, first for model {row['model']}, series "
            f"{row['unique_id']}, cutoff {row['cutoff']}, h {row['h']}. {mend}."
        )
