"""The score of the Numenta Anomaly Benchmark (NAB v1.1), exact and vectorised: every threshold of a corpus in one sort.

Source: Lavin and Ahmad 2015, and the sweep of github.com/numenta/NAB at commit ea702d7, which the tests compare with.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from support.errors import SchemaError

__all__ = ["PROFILES", "NabScore", "Profile", "Sweep", "Windows", "probation_rows", "sweep"]

PROBATION_FRAC, MOST_PROBATION_ROWS = 0.15, 750  # rows at the start of a file that count for nothing
SIGMOID_SLOPE, FAR = 5.0, 3.0  # beyond FAR window widths an alert is simply wrong
NOTHING_ALERTS = np.inf  # the threshold above every score

Windows = Sequence[Sequence[int]]  # first and last row of each labelled window, both inside it


@dataclass(frozen=True)
class Profile:
    """What a caught window earns, and what a false alert and a missed window cost."""

    tp: float
    fp: float
    fn: float


PROFILES = {
    "standard": Profile(1.0, 0.11, 1.0),
    "reward_low_FP_rate": Profile(1.0, 0.22, 1.0),
    "reward_low_FN_rate": Profile(1.0, 0.11, 2.0),
}


@dataclass(frozen=True)
class NabScore:
    """Score at one threshold: raw points, the same between nothing (0) and perfect (100), and rows after probation.

    `normalised` is NaN where there is no window to catch.
    """

    threshold: float
    raw: float
    normalised: float
    tp: int
    tn: int
    fp: int
    fn: int


def probation_rows(n_rows: int) -> int:
    """Rows at the start of a file that earn and cost nothing: 15 %, at most 750.

    Example:
        >>> probation_rows(4032), probation_rows(22695)
        (604, 750)
    """
    return min(int(PROBATION_FRAC * n_rows), MOST_PROBATION_ROWS)


def _sigmoid(y: np.ndarray) -> np.ndarray:
    """2 / (1 + exp(5 y)) - 1, and -1 where y is over 3; y is the distance in window widths."""
    return np.where(y > FAR, -1.0, 2.0 / (1.0 + np.exp(SIGMOID_SLOPE * np.minimum(y, FAR))) - 1.0)


HIGHEST = float(_sigmoid(np.array(-1.0)))  # at the left edge of a window, before scaling


def _rows(n_rows: int, windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Window of each row (-1 outside) and its value: 0 to 1 inside, -1 to 0 outside, each (n_rows,), before the weights."""
    edges = np.asarray(sorted(map(tuple, windows)), dtype=int).reshape(-1, 2)
    first, last = edges.T
    if edges.size and (first[0] < 0 or last[-1] >= n_rows or (last < first).any() or (first[1:] <= last[:-1]).any()):
        raise SchemaError(f"windows {edges.tolist()} overlap, end before they start, or leave the {n_rows} rows.")
    row = np.arange(n_rows)
    begun = np.searchsorted(first, row, side="right") - 1  # the newest window that has begun, -1 if none has
    value = np.full(n_rows, -1.0)
    if not edges.size:
        return begun, value
    width = (last - first + 1)[begun]
    beyond = row - last[begun]
    inside = (begun >= 0) & (beyond <= 0)
    value[inside] = _sigmoid((beyond[inside] - 1) / width[inside]) / HIGHEST
    after = (begun >= 0) & (beyond > 0)
    with np.errstate(divide="ignore"):  # a window of one row has no width to measure by: what follows is far
        value[after] = _sigmoid(beyond[after] / (width[after] - 1))
    return np.where(inside, begun, -1), value


@dataclass(frozen=True)
class Sweep:
    """What every threshold of a corpus yields, highest first; the first is above every score, so nothing alerts.

    thresholds, earned, outside, n_hit, n_tp, n_fp: shape (n_threshold,). earned: sum of the best values of the caught
    windows; outside: sum of the values of alerts outside (not positive); n_hit: windows caught; n_tp, n_fp: alerted rows
    inside and outside windows, after probation. n_windows; n_inside, n_outside: rows after probation.
    """

    thresholds: np.ndarray
    earned: np.ndarray
    outside: np.ndarray
    n_hit: np.ndarray
    n_tp: np.ndarray
    n_fp: np.ndarray
    n_windows: int
    n_inside: int
    n_outside: int

    def raw(self, profile: Profile) -> np.ndarray:
        """Raw points at each threshold, (n_threshold,)."""
        return profile.tp * self.earned + profile.fp * self.outside - profile.fn * (self.n_windows - self.n_hit)

    def normalised(self, raw: float, profile: Profile) -> float:
        """`raw` on the scale from no alert at all (0) to a perfect detector (100); NaN without windows."""
        worth = (profile.tp + profile.fn) * self.n_windows
        return 100.0 * (raw + profile.fn * self.n_windows) / worth if worth else float("nan")

    def at(self, threshold: float, profile: Profile) -> NabScore:
        """The score if every row of `threshold` or more alerts."""
        return self._score(max(int(np.searchsorted(-self.thresholds, -threshold, side="right")) - 1, 0), profile)

    def best(self, profile: Profile) -> NabScore:
        """The score at the threshold that earns most on these labels; the highest of several."""
        return self._score(int(np.argmax(self.raw(profile))), profile)

    def _score(self, k: int, profile: Profile) -> NabScore:
        raw, tp, fp = float(self.raw(profile)[k]), int(self.n_tp[k]), int(self.n_fp[k])
        counts = {"tp": tp, "tn": self.n_outside - fp, "fp": fp, "fn": self.n_inside - tp}
        return NabScore(float(self.thresholds[k]), raw, self.normalised(raw, profile), **counts)


def sweep(scores: Sequence[np.ndarray], windows: Sequence[Windows]) -> Sweep:
    """One threshold for all files, every one of them tried: exact, in one sort.

    scores: per file the anomaly score of each row, (n_rows,), finite. windows: per file its labelled windows. A row alerts
    where its score is at or above the threshold. Raises SchemaError for scores that are not finite, for windows that
    overlap or leave the file, and if the two differ in length.

    Example:
        >>> score = np.zeros(100)
        >>> score[[40, 90]] = 1.0, 0.5
        >>> best = sweep([score], [[(40, 49)]]).best(PROFILES["standard"])
        >>> best.threshold, best.normalised, best.tp, best.fp
        (1.0, 100.0, 1, 0)
    """
    if len(scores) != len(windows):
        raise SchemaError(f"{len(scores)} series of scores but windows for {len(windows)}. Give one entry a file.")
    kept_scores, kept_values, kept_windows, n_windows = [], [], [], 0
    for number, (series, edges) in enumerate(zip(scores, windows, strict=True)):
        score = np.asarray(series, dtype=float)
        if score.ndim != 1 or not np.isfinite(score).all():
            raise SchemaError(f"series {number}: scores must be finite numbers, one a row; shape {score.shape}.")
        window, value = _rows(len(score), edges)
        start = probation_rows(len(score))
        kept_scores.append(score[start:])
        kept_values.append(value[start:])
        kept_windows.append(np.where(window >= 0, window + n_windows, -1)[start:])
        n_windows += len(edges)
    score, value, window = (np.concatenate(p) if p else np.empty(0) for p in (kept_scores, kept_values, kept_windows))
    order = np.argsort(-score, kind="stable")
    ranked, inside = score[order], window[order] >= 0
    gain, caught = _gains(order[inside], window, value)
    last_of_tie = np.flatnonzero(np.diff(ranked, append=-np.inf) < 0) if len(ranked) else np.empty(0, dtype=int)

    def total(amount: np.ndarray) -> np.ndarray:
        return np.concatenate([[0], np.cumsum(amount)[last_of_tie]]).astype(amount.dtype)

    earned, n_hit = np.zeros(len(order)), np.zeros(len(order), dtype=int)
    earned[inside], n_hit[inside] = gain, caught
    return Sweep(
        thresholds=np.concatenate([[NOTHING_ALERTS], ranked[last_of_tie]]),
        earned=total(earned),
        outside=total(np.where(inside, 0.0, value[order])),
        n_hit=total(n_hit),
        n_tp=total(inside.astype(int)),
        n_fp=total((~inside).astype(int)),
        n_windows=n_windows,
        n_inside=int(inside.sum()),
        n_outside=int((~inside).sum()),
    )


def _gains(ranked_rows: np.ndarray, window: np.ndarray, value: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """What each alert inside a window adds to the best value of its window, and 1 where it is the first there.

    `ranked_rows` are rows of the corpus by falling score. A window earns by its earliest alerted row. Taken from the last
    window to the first, rows fall from window to window, so one running minimum serves all of them.
    """
    owner = window[ranked_rows]
    grouped = np.argsort(-owner, kind="stable")
    if not len(grouped):
        return np.zeros(0), np.zeros(0, dtype=int)
    best = value[np.minimum.accumulate(ranked_rows[grouped])]
    opens = np.diff(owner[grouped], prepend=-1) != 0
    gain, caught = np.empty(len(best)), np.empty(len(best), dtype=int)
    gain[grouped] = best - np.where(opens, 0.0, np.concatenate([[0.0], best[:-1]]))
    caught[grouped] = opens
    return gain, caught
