"""Precision and recall for anomalies that last: range-AUC-PR and its volume over tolerances, VUS-PR.

Source: Paparrizos et al. 2022, PVLDB 15(11). A label is widened by a slope on both sides, so that an alert a little early or
late counts in part; the recall is multiplied by the share of anomalies that were met at all.
"""

from __future__ import annotations

import numpy as np

from support.errors import SchemaError

__all__ = ["range_auc_pr", "runs", "vus_pr"]

N_THRESHOLDS = 250  # spread evenly over the ranks of the scores, as the authors do


def runs(labels: np.ndarray) -> np.ndarray:
    """First and last row of each run of positive labels, (n_run, 2); labels (n_rows,).

    Example:
        >>> runs(np.array([0, 1, 1, 0, 1])).tolist()
        [[1, 2], [4, 4]]
    """
    edges = np.flatnonzero(np.diff(np.asarray(labels) > 0, prepend=False, append=False)).reshape(-1, 2)
    return edges - [0, 1]


def _widened(labels: np.ndarray, buffer: int) -> np.ndarray:
    """Labels with slopes of `buffer` // 2 rows: sqrt(1 - distance / buffer), at most 1."""
    wide = labels.astype(float)
    if buffer <= 1:
        return wide
    distance = np.arange(buffer // 2)
    for first, last in runs(labels):
        after = (last + distance)[last + distance < len(labels)]
        wide[after] += np.sqrt(1 - (after - last) / buffer)
        before = (first - 1 - distance)[first - 1 - distance >= 0]
        wide[before] += np.sqrt(1 - (first - before) / buffer)
    return np.minimum(wide, 1.0)


def range_auc_pr(labels: np.ndarray, scores: np.ndarray, *, buffer: int) -> float:
    """Area under the range-based precision-recall curve with a tolerance of `buffer` // 2 rows, 0 to 1.

    labels: (n_rows,), 1 in an anomaly, 0 elsewhere, with at least one 1. scores: (n_rows,), finite, higher is stranger.
    Raises SchemaError otherwise.

    Example:
        >>> labels = np.array([0, 0, 0, 1, 1, 0, 0, 0])
        >>> range_auc_pr(labels, labels + 0.01 * np.arange(8), buffer=0)
        1.0
    """
    return _area(*_checked(labels, scores), buffer)


def vus_pr(labels: np.ndarray, scores: np.ndarray, *, longest_buffer: int) -> float:
    """Mean of `range_auc_pr` over the buffers 0, 1 ... `longest_buffer` rows: the volume under the surface, 0 to 1.

    Arguments and errors as there.

    Example:
        >>> labels = np.array([0, 0, 0, 1, 1, 0, 0, 0])
        >>> round(vus_pr(labels, np.arange(8.0), longest_buffer=2), 3)
        0.235
    """
    checked = _checked(labels, scores)
    return float(np.mean([_area(*checked, buffer) for buffer in range(longest_buffer + 1)]))


def _checked(labels: np.ndarray, scores: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Labels as 0 and 1, scores, rows by falling score, and how many rows are at or above each threshold."""
    marked, score = np.asarray(labels) > 0, np.asarray(scores, dtype=float)
    if marked.shape != score.shape or marked.ndim != 1 or not np.isfinite(score).all():
        raise SchemaError(
            f"labels {marked.shape} and scores {score.shape} must be series of one length, scores finite."
        )
    if not marked.any():
        raise SchemaError("no row is labelled, so there is nothing to find. Leave this series out of the mean.")
    order = np.argsort(-score, kind="stable")
    thresholds = score[order][np.linspace(0, len(score) - 1, N_THRESHOLDS, dtype=int)]
    return marked.astype(int), score, order, np.searchsorted(-score[order], -thresholds, side="right")


def _area(labels: np.ndarray, score: np.ndarray, order: np.ndarray, n_alerts: np.ndarray, buffer: int) -> float:
    wide = _widened(labels, buffer)
    first, last = runs(wide).T
    peaks = np.sort([score[a : b + 1].max() for a, b in zip(first, last, strict=True)])
    lowest = score[order][n_alerts - 1]  # the lowest score that alerts
    met = 1 - np.searchsorted(peaks, lowest, side="left") / len(peaks)
    hits = np.cumsum(wide[order])[n_alerts - 1]
    recall = np.minimum(hits / ((labels.sum() + wide.sum()) / 2), 1.0) * met
    precision = np.concatenate([[1.0], hits / n_alerts])
    return float(np.sum(np.diff(recall, prepend=0.0) * (precision[1:] + precision[:-1]) / 2))
