"""The one interface of all detectors, the two cheap ones (robust z, change-point surprise), and their sum."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Protocol, Self

import numpy as np
import pandas as pd
from numba import njit

from support.bayes.changepoint import BayesianChangePoint, NormalInverseGamma
from support.errors import SchemaError, TooShortError

__all__ = [
    "ChangePointSurprise", "Detector", "RobustZ", "Streaming", "Summed", "checked_history", "scale_of",
    "scores_after_probation",
]  # fmt: skip

MAD_TO_SD = 1.4826  # of a Gaussian
MIN_HISTORY_ROWS = 10


class Detector(Protocol):
    """Anything that learns from a quiet start and then scores rows as they come; a larger score is a stranger row.

    history_scores (n,): what `fit` gave the rows of the history, each before it was learned wherever the model learns
    row by row, so that a calibration can start from them.
    """

    history_scores: np.ndarray

    def fit(self, history: np.ndarray | pd.Series) -> Self:
        """Forget everything, learn scale and model from `history` (n,), and end as if it had just been seen."""
        ...

    def score(self, values: np.ndarray | pd.Series) -> np.ndarray:
        """Scores (n,) of the rows that follow what was seen so far; they then belong to the past. SchemaError if one of
        them is not finite."""
        ...

    def update(self, value: float, timestamp: Any = None) -> float:
        """The same for one row, in bounded memory; timestamp only where the detector was fitted with a calendar."""
        ...


class Streaming(ABC):
    """One row is a batch of one: gives a detector whose `score` goes on from its state the method `update`."""

    history_scores: np.ndarray

    @abstractmethod
    def score(self, values: np.ndarray | pd.Series) -> np.ndarray:
        """Scores of the rows that follow."""

    def update(self, value: float, timestamp: Any = None) -> float:
        """Score of the next row."""
        row: Any = np.array([value], dtype=float)
        return float(self.score(row if timestamp is None else pd.Series(row, pd.DatetimeIndex([timestamp])))[0])


def checked_history(history: np.ndarray | pd.Series, rows: int = MIN_HISTORY_ROWS) -> np.ndarray:
    """The history, or with `rows` 0 what follows it, as floats (n,). Raises SchemaError if a value is not finite (the
    memory of a detector would keep it), TooShortError below `rows`."""
    values = np.ascontiguousarray(history, dtype=float)
    if values.ndim != 1 or not np.isfinite(values).all():
        raise SchemaError("detector: values must be one-dimensional and finite; fill or drop gaps first.")
    if len(values) < rows:
        raise TooShortError(f"detector: {len(values)} rows of history, {rows} are needed. Give a longer quiet start.")
    return values


def scale_of(history: np.ndarray) -> tuple[float, float]:
    """Mean and standard deviation of the history, the latter 1 if all values are equal (then units are kept)."""
    varies = history.max() > history.min()  # the deviation of equal values is rounding, not always 0
    return float(history.mean()), float(history.std()) if varies else 1.0


def scores_after_probation(detector: Detector, values: np.ndarray | pd.Series, n_probation: int) -> np.ndarray:
    """Scores (n,) of a whole series: fitted on the first `n_probation` rows, whose own score is the lowest of all.

    Example:
        >>> x = np.r_[np.tile([0.0, 1.0], 20), 9.0, 0.0]
        >>> int(scores_after_probation(RobustZ(window=20), x, 20).argmax())
        40
    """
    rest = detector.fit(values[:n_probation]).score(values[n_probation:])
    return np.r_[np.full(n_probation, min(0.0, float(rest.min(initial=0.0)))), rest]


class RobustZ(Streaming):
    """Distance from the median of the last `window` rows in robust standard deviations (1.4826 MAD): the baseline.

    The row itself is not in the window. Where more than half of the window is one value the MAD is 0; it is then the
    smallest positive spread seen in the history, or 1.

    Example:
        >>> RobustZ(window=10).fit(np.arange(10.0)).update(4.5)
        0.0
    """

    def __init__(self, window: int = 1000) -> None:
        self.window = window

    def fit(self, history: np.ndarray | pd.Series) -> Self:
        """Fill the window with the end of the history. Raises SchemaError, TooShortError."""
        values = checked_history(history)
        _, spread = scale_of(values)
        mad = float(np.median(np.abs(values - np.median(values))))
        self._floor = MAD_TO_SD * mad if mad > 0 else spread
        self._ring, self._sorted = np.zeros(self.window), np.zeros(self.window + 1)
        self._count, self._next = 0, 0
        self.history_scores = self.score(values)
        return self

    def score(self, values: np.ndarray | pd.Series) -> np.ndarray:
        """Absolute robust z of the rows that follow. Raises SchemaError if one is not finite."""
        x = checked_history(values, rows=0)
        out = np.empty(len(x))
        self._count, self._next = _robust_z(x, self._ring, self._sorted, self._count, self._next, self._floor, out)
        return out


class ChangePointSurprise(Streaming):
    """Surprise of Bayesian online change-point detection, in nats, on values standardised by the history.

    hazard, prior (of the standardised values), capacity: as in `BayesianChangePoint`, which is `.model`.

    Example:
        >>> ChangePointSurprise().fit(np.tile([0.0, 1.0], 30)).score(np.array([0.0, 40.0])).argmax()
        np.int64(1)
    """

    def __init__(
        self, hazard: float = 1 / 250, prior: NormalInverseGamma | None = None, *, capacity: int = 200,
        prune: float = 1e-6,
    ) -> None:  # fmt: skip
        self.hazard, self.prior, self.capacity, self.prune = hazard, prior, capacity, prune

    def fit(self, history: np.ndarray | pd.Series) -> Self:
        """Learn the scale and run through the history. Raises SchemaError, TooShortError."""
        values = checked_history(history)
        self._center, self._scale = scale_of(values)
        self.model = BayesianChangePoint(self.hazard, self.prior, capacity=self.capacity, prune=self.prune)
        self.history_scores = self.score(values)
        return self

    def score(self, values: np.ndarray | pd.Series) -> np.ndarray:
        """-log p(row | rows before) of the rows that follow."""
        return self.model.surprises((np.asarray(values, dtype=float) - self._center) / self._scale)


class Summed(Streaming):
    """The sum of several detectors' scores; calibrate them first, or the one with the largest unit decides alone."""

    def __init__(self, detectors: Sequence[Detector]) -> None:
        self.detectors = list(detectors)

    def fit(self, history: np.ndarray | pd.Series) -> Self:
        """Fit every part."""
        self.history_scores = np.sum([detector.fit(history).history_scores for detector in self.detectors], axis=0)
        return self

    def score(self, values: np.ndarray | pd.Series) -> np.ndarray:
        """Sum of the parts' scores of the rows that follow."""
        return np.sum([detector.score(values) for detector in self.detectors], axis=0)


@njit(cache=True)
def _robust_z(x, ring, ordered, count, position, floor, out):  # type: ignore[no-untyped-def]
    """Median and MAD of a sliding window kept in order: two shifts and two binary searches a row."""
    window = ring.size
    for t in range(x.size):
        if count == 0:  # nothing to compare with
            ordered[0], ring[position], out[t] = x[t], x[t], 0.0
            count, position = 1, (position + 1) % window
            continue
        half = count // 2
        median = ordered[half] if count % 2 else 0.5 * (ordered[half - 1] + ordered[half])
        # the half+1 values nearest to the median are neighbours in order: find where that block begins
        low, high = 0, count - half - 1
        while low < high:
            middle = (low + high) // 2
            if median - ordered[middle] > ordered[middle + half + 1] - median:
                low = middle + 1
            else:
                high = middle
        upper = max(median - ordered[low], ordered[low + half] - median)  # the (half+1)-th smallest distance
        mad = upper
        if count % 2 == 0:  # the mean of the two middle distances: drop the farther end of the block
            left, right = median - ordered[low], ordered[low + half] - median
            inner = (
                max(median - ordered[low + 1], right) if left >= right else max(left, ordered[low + half - 1] - median)
            )
            mad = 0.5 * (upper + inner)
        spread = MAD_TO_SD * mad
        out[t] = abs(x[t] - median) / (spread if spread > 0.0 else floor)
        if count == window:
            place = np.searchsorted(ordered[:count], ring[position])
            for i in range(place, count - 1):
                ordered[i] = ordered[i + 1]
            count -= 1
        place = np.searchsorted(ordered[:count], x[t])
        for i in range(count, place, -1):
            ordered[i] = ordered[i - 1]
        ordered[place] = x[t]
        ring[position] = x[t]
        count, position = count + 1, (position + 1) % window
    return count, position
