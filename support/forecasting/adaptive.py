"""Calibration of a stream: thresholds for scores not yet seen, moved after each outcome or block of outcomes.

A score says how far an outcome lies outside what was forecast, such as max(lower - y, y - upper) or y - quantile; the
next outcome is covered if its score is at most the threshold. A tracker gives `threshold()` before and takes
`observe(scores)` after: one score, or the scores of a block that was forecast at once.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from support.errors import SchemaError, TooShortError
from support.forecasting.calibration_online import FIRST_WINDOW, roll_windows
from support.forecasting.quantile_frame import ModelForecasts

__all__ = ["AdaptiveConformal", "ConformalPID", "Tracked", "Tracker", "rolling_aci", "track"]

PID_MEMORY = 100  # scores over whose range the step of the quantile is measured, as in the authors' code
ACI_RATE = 0.005  # Gibbs and Candes (2021), section 2.2
WINDOW_RATE = 0.5  # of a whole window: half of the gap between the wanted and the seen share of misses


class Tracker(Protocol):
    """What gives a threshold, then learns from the scores it was meant for."""

    def threshold(self) -> float:
        """Threshold of the scores to come, in their unit; minus or plus infinity cover none or all."""

    def observe(self, scores: np.ndarray) -> None:
        """Learn from the scores (n_score,) that the present threshold was meant for."""


class AdaptiveConformal:
    """Adaptive conformal inference: the miss level of split conformal, moved by rate x (miss - missed) an outcome.

    past_scores: (n_past,) to begin with. memory: newest scores the threshold is taken from; None: all. After T
    outcomes in blocks of b the share of misses is within (max(miss, 1 - miss) + b rate) / (T rate) of `miss`, whatever
    the data do. Raises SchemaError. Source: Gibbs and Candes (2021), equation 2 and proposition 4.1.

    Example:
        >>> tracker = AdaptiveConformal(np.arange(1.0, 10.0), miss=0.5, rate=0.1)
        >>> first = tracker.threshold()
        >>> tracker.observe(np.array([9.0]))
        >>> first, tracker.miss_level, tracker.threshold()
        (5.0, 0.45, 7.0)
    """

    def __init__(
        self, past_scores: np.ndarray, *, miss: float, rate: float = ACI_RATE, memory: int | None = None
    ) -> None:
        _require(past_scores, miss, rate)
        if memory is not None and memory < 1:
            raise SchemaError(f"calibration: a memory of {memory} scores; at least 1.")
        self.miss, self.rate, self.memory, self.miss_level = miss, rate, memory, miss
        self._recent = [float(s) for s in past_scores][-(memory or 0) :]
        self._ordered = sorted(self._recent)

    def threshold(self) -> float:
        """The ceil((1 - level)(n + 1))-th smallest score; infinite if there is none, or if the level left (0, 1)."""
        if self.miss_level >= 1:
            return -math.inf
        rank = math.ceil(round((1 - self.miss_level) * (len(self._ordered) + 1), 9))
        if self.miss_level <= 0 or rank > len(self._ordered):
            return math.inf
        return self._ordered[rank - 1]

    def observe(self, scores: np.ndarray) -> None:
        """Move the miss level, then remember the scores."""
        missed = int((scores > self.threshold()).sum())
        self.miss_level += self.rate * (len(scores) * self.miss - missed)
        for score in scores:
            insort(self._ordered, float(score))
            self._recent.append(float(score))
            if self.memory is not None and len(self._recent) > self.memory:
                self._ordered.remove(self._recent.pop(0))


class ConformalPID:
    """Conformal PID: the threshold itself is moved (P), pushed back by the sum of past errors (I), and led by a forecast (D).

    P: the threshold rises by rate x (missed - miss) an outcome, rate being a fraction of the range of recent scores.
    I: integral_gain x tan(sum log(t + 1) / (saturation (t + 1))), infinite from pi / 2 on, in the unit of the scores.
    D: with `half_life` (in blocks), the exponentially weighted mean of past scores, around which P and I then work.
    Raises SchemaError. Source: Angelopoulos, Candes and Tibshirani (2023), equations 4 to 8, and their code.

    Example:
        >>> tracker = ConformalPID(np.array([0.0, 1.0]), miss=0.5, rate=0.1, integral_gain=0.0)
        >>> first = tracker.threshold()
        >>> tracker.observe(np.array([2.0]))
        >>> first, round(tracker.threshold(), 6)
        (1.0, 1.05)
    """

    def __init__(
        self, past_scores: np.ndarray, *, miss: float, rate: float = 0.1, integral_gain: float | None = None,
        saturation: float = 1.0, half_life: float | None = None,
    ) -> None:  # fmt: skip
        _require(past_scores, miss, rate)
        if saturation <= 0 or (half_life is not None and half_life <= 0):
            raise SchemaError(f"calibration: saturation {saturation} and half-life {half_life} must be positive.")
        past = np.asarray(past_scores, dtype=float)
        self.miss, self.rate, self.saturation = miss, rate, saturation
        self._forget = 0.0 if half_life is None else 1 - 0.5 ** (1 / half_life)
        self._led = 0.0 if half_life is None else float(past.mean())
        rank = min(len(past), math.ceil(round((1 - miss) * (len(past) + 1), 9)))
        self._quantile = float(np.sort(past)[rank - 1]) - self._led
        self._gain = float(np.ptp(past)) if integral_gain is None else integral_gain
        self._recent = past[-PID_MEMORY:]
        self._errors, self._seen = 0.0, 0

    def threshold(self) -> float:
        """Forecast of the score plus tracked quantile plus integral."""
        return self._led + self._quantile + self._integral()

    def observe(self, scores: np.ndarray) -> None:
        """Move quantile, integral and forecast."""
        error = float((scores > self.threshold()).sum() - len(scores) * self.miss)
        self._quantile += self.rate * float(np.ptp(self._recent)) * error
        self._errors += error
        self._seen += len(scores)
        self._led += self._forget * (float(np.mean(scores)) - self._led)
        self._recent = np.concatenate([self._recent, scores])[-PID_MEMORY:]

    def _integral(self) -> float:
        angle = self._errors * math.log(self._seen + 1) / (self.saturation * (self._seen + 1))
        if self._gain == 0:
            return 0.0
        return math.copysign(math.inf, angle) if abs(angle) >= math.pi / 2 else self._gain * math.tan(angle)


@dataclass(frozen=True)
class Tracked:
    """Thresholds and misses (n_time,) of a stream; thresholds in the unit of the scores."""

    thresholds: np.ndarray
    missed: np.ndarray

    def coverage(self, window: int) -> np.ndarray:
        """Share covered among the newest `window` outcomes at each time, (n_time,); NaN before there are as many."""
        sums = np.concatenate([[0.0], np.cumsum(~self.missed)])
        out = np.full(len(self.missed), np.nan)
        out[window - 1 :] = (sums[window:] - sums[:-window]) / window
        return out


def track(tracker: Tracker, scores: np.ndarray, *, block: int = 1) -> Tracked:
    """Run a tracker over scores (n_time,) that become known in blocks of `block`; each is judged before it is learned.

    Raises SchemaError for a block below 1 or scores that are not finite.
    """
    if block < 1 or not np.isfinite(scores).all():
        raise SchemaError(f"calibration: blocks of {block}, or scores that are not finite. Use 1 and more; fill gaps.")
    thresholds = np.empty(len(scores))
    for first in range(0, len(scores), block):
        part = slice(first, first + block)
        thresholds[part] = tracker.threshold()
        tracker.observe(scores[part])
    return Tracked(thresholds, scores > thresholds)


def rolling_aci(
    forecasts: ModelForecasts, *, block_ends: Sequence[int], first_window: int = FIRST_WINDOW,
    rate: float = WINDOW_RATE,
) -> ModelForecasts:  # fmt: skip
    """Each quantile shifted by adaptive conformal inference on its own earlier misses, window by window, then sorted.

    rate: move of the miss level a window, for a gap of one between the wanted and the seen share. A threshold that is
    infinite is replaced by the outermost miss seen, so that the quantiles stay finite; the long-run bound is then lost.
    Blocks, windows and errors as in `residual_conformal`. Source: Gibbs and Candes (2021), at each level by itself.
    """
    levels = forecasts.levels

    def repair(seen: np.ndarray, quantiles: np.ndarray, now: np.ndarray) -> np.ndarray:
        misses = seen[..., None] - quantiles  # (n_past, steps, n_level)
        shift = np.empty(len(levels))
        for position, level in enumerate(levels):
            rows = misses[..., position]
            tracker = AdaptiveConformal(rows[0], miss=1 - level, rate=rate / rows.shape[1])
            for row in rows[1:]:
                tracker.observe(row)
            shift[position] = np.clip(tracker.threshold(), rows.min(), rows.max())
        return np.sort(now + shift, axis=-1)

    return roll_windows(forecasts, repair, "ACI", block_ends, first_window)


def _require(past_scores: np.ndarray, miss: float, rate: float) -> None:
    if not len(past_scores):
        raise TooShortError("calibration: no past score to begin with. Give at least one.")
    if not np.isfinite(past_scores).all() or not 0 < miss < 1 or rate <= 0:
        raise SchemaError(f"calibration: miss {miss} must lie in (0, 1), rate {rate} above 0, past scores be finite.")
