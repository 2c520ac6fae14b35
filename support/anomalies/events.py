"""What a threshold does to the people on call: anomalies caught, false alerts a week, delay; and a threshold from other files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from support.anomalies.nab_score import PROFILES, Windows, sweep
from support.errors import SchemaError

__all__ = ["EventScore", "alert_starts", "budget_threshold", "cross_validated", "event_score", "folds_of"]

WEEK_SECONDS = 7 * 86_400.0
QUIET_SECONDS = 3600.0  # after a page nobody is paged again for so long: whoever is on call is already looking


@dataclass(frozen=True)
class EventScore:
    """What one threshold does: anomalies there were and that were caught, false alerts a week of data, median delay.

    delay_minutes: from the first row of a window that counts to its first alert, over the caught ones; NaN if none was
    caught.
    """

    n_events: int
    n_caught: int
    false_alerts_per_week: float
    delay_minutes: float

    @property
    def recall(self) -> float:
        """Share of the anomalies in which at least one row alerts; NaN if there was none."""
        return self.n_caught / self.n_events if self.n_events else float("nan")


def alert_starts(alerts: np.ndarray, quiet_rows: int) -> np.ndarray:
    """Rows at which somebody is paged: an alert pages, and then nothing does for `quiet_rows` rows.

    Example:
        >>> alert_starts(np.array([0, 1, 1, 0, 1, 1, 0, 0, 1], dtype=bool), 3).tolist()
        [1, 5]
    """
    rows, pages, k = np.flatnonzero(alerts), [], 0
    while k < len(rows):
        pages.append(int(rows[k]))
        k = int(np.searchsorted(rows, rows[k] + quiet_rows, side="right"))
    return np.array(pages, dtype=int)


def event_score(
    scores: Sequence[np.ndarray],
    windows: Sequence[Windows],
    *,
    threshold: float,
    step_seconds: Sequence[float],
    first_rows: Sequence[int],
) -> EventScore:
    """Events caught, false alerts a week and median delay if every row of `threshold` or more alerts.

    Per series: scores (n_rows,), windows as first and last row, step in s, and the first row that counts; windows that
    ended before it do not count. No point adjustment: a caught window counts once, an alert outside counts as false.
    Raises SchemaError if the series differ in number.

    Example:
        >>> score = np.zeros(2016)
        >>> score[[500, 1502]] = 1
        >>> e = event_score([score], [[(1500, 1599)]], threshold=1, step_seconds=[300.0], first_rows=[0])
        >>> e.recall, e.false_alerts_per_week, e.delay_minutes
        (1.0, 1.0, 10.0)
    """
    if not len(scores) == len(windows) == len(step_seconds) == len(first_rows):
        raise SchemaError("event_score: scores, windows, steps and first rows must be one each a series.")
    n_events, n_false, weeks, delays = 0, 0, 0.0, []
    for score, edges, step, start in zip(scores, windows, step_seconds, first_rows, strict=True):
        alerts = np.asarray(score) >= threshold
        alerts[:start] = False
        weeks += (len(alerts) - start) * step / WEEK_SECONDS
        outside = np.ones(len(alerts), dtype=bool)
        for first, last in edges:
            outside[first : last + 1] = False
            if last < start:
                continue
            n_events += 1
            judged = max(first, start)
            hits = np.flatnonzero(alerts[judged : last + 1])
            if len(hits):
                delays.append(hits[0] * step / 60)
        n_false += int(outside[alert_starts(alerts, max(1, round(QUIET_SECONDS / step)))].sum())
    delay = float(np.median(delays)) if delays else float("nan")
    return EventScore(n_events, len(delays), n_false / weeks if weeks else float("nan"), delay)


def budget_threshold(score: np.ndarray, alerts_per_week: float, *, step_seconds: float) -> float:
    """The lowest threshold at which a stretch of scores pages at most `alerts_per_week` times a week.

    score: (n_rows,), finite; no label is needed. inf if even the highest score is one page too many.
    Raises SchemaError for scores that are no finite series.

    Example:
        >>> budget_threshold(np.array([0.0] * 50 + [3.0] + [0.0] * 50 + [5.0]), 2.0, step_seconds=3600.0)
        5.0
    """
    score = np.asarray(score, dtype=float)
    if score.ndim != 1 or not len(score) or not np.isfinite(score).all():
        raise SchemaError(f"scores must be a series of finite numbers, shape {score.shape}. Leave the gaps out.")
    allowed = alerts_per_week * len(score) * step_seconds / WEEK_SECONDS
    quiet = max(1, round(QUIET_SECONDS / step_seconds))
    candidates = np.unique(score)
    low, high = 0, len(candidates)  # pages never grow fewer as the threshold falls, so the boundary is found by halving
    while low < high:
        middle = (low + high) // 2
        kept = len(alert_starts(score >= candidates[middle], quiet)) <= allowed
        low, high = (low, middle) if kept else (middle + 1, high)
    return float(candidates[low]) if low < len(candidates) else float("inf")


def folds_of(n_files: int, n_folds: int, *, rng: np.random.Generator) -> np.ndarray:
    """A fold for each file at random, sizes equal but for one, shape (n_files,).

    Example:
        >>> np.bincount(folds_of(24, 5, rng=np.random.default_rng(1))).tolist()
        [5, 5, 5, 5, 4]
    """
    return rng.permutation(np.arange(n_files) % n_folds)


def cross_validated(scores: Sequence[np.ndarray], windows: Sequence[Windows], *, folds: np.ndarray) -> dict[str, float]:
    """Normalised NAB score by profile where the threshold of each file comes from the files of the other folds.

    folds: (n_files,), the fold of each file. The official threshold sees the labels it is judged on; this one does not.
    Raises SchemaError as `sweep`, and if there are fewer than two folds.
    """
    if len(np.unique(folds)) < 2 or len(folds) != len(scores):
        raise SchemaError(f"folds: one a file and at least two different ones are needed, given {folds!r}.")
    raw = dict.fromkeys(PROFILES, 0.0)
    for fold in np.unique(folds):
        held, rest = np.flatnonzero(folds == fold).tolist(), np.flatnonzero(folds != fold).tolist()
        past, new = (sweep([scores[i] for i in part], [windows[i] for i in part]) for part in (rest, held))
        for name, profile in PROFILES.items():
            raw[name] += new.at(past.best(profile).threshold, profile).raw
    whole = sweep([np.zeros(len(s)) for s in scores], windows)
    return {name: whole.normalised(raw[name], profile) for name, profile in PROFILES.items()}
