"""Training windows of a panel on the scale asinh((x - centre) / scale) of each window's own context."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from support.errors import SchemaError, TooShortError

__all__ = ["Windows", "location_scale", "training_windows"]

MAX_WINDOWS = 5000  # of the whole panel; more than that overlap by nearly everything


def _robust(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    centre = np.median(x, axis=-1, keepdims=True)
    return centre, np.abs(x - centre).mean(axis=-1, keepdims=True)


# by name, centre and scale of each row, from the row itself: nothing is learned from the values of a test
SCALERS: dict[str, Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]] = {
    "robust": _robust,
    "standard": lambda x: (x.mean(axis=-1, keepdims=True), x.std(axis=-1, keepdims=True)),
    "minmax": lambda x: ((x.max(axis=-1, keepdims=True) + x.min(axis=-1, keepdims=True)) / 2,
                         np.ptp(x, axis=-1, keepdims=True) / 2),
}  # fmt: skip


@dataclass(frozen=True)
class Windows:
    """Training windows of a panel: inputs (n, context) and targets (n, horizon), asinh scale, and where they lie."""

    inputs: np.ndarray
    targets: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    series: np.ndarray  # (n,) position of the series
    left: np.ndarray  # (n,) values of the series after the window's end


def location_scale(inputs: np.ndarray, scaler: str = "robust") -> tuple[np.ndarray, np.ndarray]:
    """Centre and scale of each row, (n, 1), in its unit; the scale of a constant row is 1.

    scaler: "robust", median and mean absolute deviation; "standard", mean and standard deviation; "minmax", middle
    and half of the range, so that values come to lie between -1 and 1. Raises SchemaError for another.

    Example:
        >>> [x.tolist() for x in location_scale(np.array([[1.0, 2.0, 6.0]]))]
        [[[2.0]], [[1.6666666666666667]]]
        >>> [x.tolist() for x in location_scale(np.array([[1.0, 2.0, 6.0]]), "minmax")]
        [[[3.5]], [[2.5]]]
    """
    if scaler not in SCALERS:
        raise SchemaError(f"scaler {scaler!r}: not known. Use one of {', '.join(SCALERS)}.")
    centre, scale = SCALERS[scaler](inputs)
    varies = (
        np.ptp(inputs, axis=-1, keepdims=True) > 0
    )  # rounding alone makes the deviation of a constant row not quite 0
    return centre, np.where(varies & (scale > 0), scale, 1.0)


def training_windows(train: Mapping[str, np.ndarray], context: int, horizon: int, scaler: str = "robust") -> Windows:
    """All windows of the series that are long enough, thinned evenly to about MAX_WINDOWS.

    The newest window of each series is kept. scaler: as `location_scale` has them. Raises TooShortError if no series has
    a context and two horizons, SchemaError.

    Example:
        >>> training_windows({"a": np.arange(12.0)}, 4, 2).left.tolist()
        [6, 5, 4, 3, 2, 1, 0]
    """
    parts, series, left = [], [], []
    lasts = [len(values) - context - horizon for values in train.values()]
    stride = max(1, -(-sum(max(0, last + 1) for last in lasts) // MAX_WINDOWS))
    for position, (values, last) in enumerate(zip(train.values(), lasts, strict=True)):
        starts = np.arange(last % stride, last + 1, stride)  # so that the newest window is among them
        parts += [np.asarray(values, dtype=float)[start : start + context + horizon] for start in starts]
        series += [position] * len(starts)
        left += list(last - starts)
    if not parts or not (np.array(left) >= horizon).any():
        longest = max((len(v) for v in train.values()), default=0)
        raise TooShortError(
            f"training panel: the longest series has {longest} values; at least {context + 2 * horizon} are needed for "
            f"a context of {context} and a horizon of {horizon}."
        )
    stacked = np.stack(parts)
    centre, scale = location_scale(stacked[:, :context], scaler)
    scaled = np.arcsinh((stacked - centre) / scale)
    return Windows(scaled[:, :context], scaled[:, context:], centre, scale, np.array(series), np.array(left))
