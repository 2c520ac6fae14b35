"""Features of machines: statistics of a whole series, and what a classifier sees of one day."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from scipy import stats

from support.errors import TooShortError

__all__ = ["SATURATED_PERCENT", "STEPS_PER_DAY", "acf", "band_shares", "correlation", "hill", "hurst", "machine_statistics", "spells", "window_features"]  # fmt: skip

STEPS_PER_DAY = 288  # at a step of 5 minutes
SATURATED_PERCENT = 95.0
MAX_MISSING = 0.02  # fraction of a window that may be missing (carried forward, left out of the count of repeats)
SIGNIFICANT_DIGITS = 5  # finer digits are noise of unit conversions (MHz to percent, float32), not the machine's
LAGS = (1, 2, 3, 4, 6, 12, 36, 72)  # steps of 5 minutes: 5 minutes to 6 hours


def acf(values: np.ndarray, lag: int) -> float:
    """Autocorrelation of `values`, shape (n_time,), at `lag` steps over the pairs that are there; NaN if constant.

    Example:
        >>> round(acf(np.tile([1.0, -1.0], 50), 1), 2)
        -1.0
    """
    present = np.isfinite(values)
    if lag >= len(values) or not present.any() or np.ptp(values[present]) == 0:
        return float("nan")
    centred = np.where(present, values - values[present].mean(), 0.0)
    variance = centred @ centred / present.sum()
    end = len(values) - lag
    pairs = int((present[lag:] & present[:end]).sum())
    return float(centred[lag:] @ centred[:end] / pairs / variance) if variance > 0 and pairs else float("nan")


def hill(values: np.ndarray, tail: float = 0.02) -> float:
    """Hill's tail index alpha (P(X > x) ~ x^-alpha) over the largest fraction `tail` of the positive values.

    Source: Hill, Annals of Statistics 3 (1975). NaN with fewer than 5 values in the tail or a constant tail.
    """
    ordered = np.sort(values[values > 0])[::-1]
    count = int(len(ordered) * tail)
    if count < 5:
        return float("nan")
    excess = np.log(ordered[:count] / ordered[count]).mean()
    return float(1 / excess) if excess > 0 else float("nan")


def hurst(values: np.ndarray) -> float:
    """Hurst exponent by detrended fluctuation analysis of order 1: 0.5 without memory, towards 1 with long memory.

    Source: Peng et al., Physical Review E 49 (1994). Scales from 8 steps to a quarter of the series; NaN if constant.
    """
    present = values[np.isfinite(values)]
    if len(present) < 64 or np.ptp(present) == 0:
        return float("nan")
    walk = np.cumsum(present - present.mean())
    scales = np.unique(np.geomspace(8, len(walk) // 4, 12).astype(int))
    spread = []
    for scale in scales:
        pieces = walk[: len(walk) // scale * scale].reshape(-1, scale)
        time = np.arange(scale) - (scale - 1) / 2
        slope = pieces @ time / (time @ time)
        spread.append(np.sqrt(np.mean((pieces - pieces.mean(1, keepdims=True) - slope[:, None] * time) ** 2)))
    return float(np.polyfit(np.log(scales), np.log(np.maximum(spread, 1e-12)), 1)[0])


def spells(above: np.ndarray) -> np.ndarray:
    """Lengths in steps of the runs of True in `above`, shape (n_time,), in order.

    Example:
        >>> spells(np.array([True, True, False, True])).tolist()
        [2, 1]
    """
    edges = np.flatnonzero(np.diff(np.concatenate([[False], above, [False]]).astype(int)))
    return edges[1::2] - edges[::2]


def band_shares(values: np.ndarray) -> dict[str, float]:
    """Shares of the variance at periods above 1 day, 1 day to 6 h, 6 h to 1 h and below 1 h (adding up to 1).

    values: shape (n_time,) at a step of 5 minutes; missing ones are interpolated. Source: the periodogram, Brockwell and
    Davis, Time Series, chapter 10.
    """
    x = pd.Series(values).interpolate(limit_direction="both").to_numpy()
    power = np.abs(np.fft.rfft(x - x.mean())[1:]) ** 2
    per_day = np.arange(1, len(power) + 1) * STEPS_PER_DAY / len(x)
    edges = np.searchsorted(per_day, [1 - 1e-9, 4 - 1e-9, 24 - 1e-9])
    parts = [float(part.sum()) for part in np.split(power, edges)]
    total = sum(parts) or 1.0
    names = ("slower than 1 day", "1 day to 6 h", "6 h to 1 h", "faster than 1 h")
    return {f"spectrum, {name}": part / total for name, part in zip(names, parts, strict=True)}


def machine_statistics(values: np.ndarray) -> dict[str, float]:
    """The statistics of one machine's metric, shape (n_time,): level, zero mass, memory, bursts, tail, Hurst exponent."""
    x = values[np.isfinite(values)]
    if len(x) < 2:
        raise TooShortError(f"{len(x)} value(s): no statistics. Give at least two that are not missing.")
    threshold = np.quantile(x, 0.95)
    bursts, idle = spells(x > threshold), spells(x <= np.quantile(x, 0.25))
    size = (x[x > threshold].mean() - np.median(x)) / (np.std(x) or 1.0) if (x > threshold).any() else 0.0
    return {
        "mean": float(x.mean()),
        "standard deviation": float(x.std()),
        **{f"quantile {q:g}": float(np.quantile(x, q)) for q in (0.05, 0.25, 0.5, 0.75, 0.95, 0.99)},
        "zero mass": float((x == 0).mean()),
        "saturation mass": float((x >= SATURATED_PERCENT).mean()),
        "share of repeated values": float((np.diff(x) == 0).mean()),
        "autocorrelation, 1 step": acf(values, 1),
        "autocorrelation, 1 day": acf(values, STEPS_PER_DAY),
        "autocorrelation, 1 week": acf(values, 7 * STEPS_PER_DAY),
        "burst size, standard deviations": float(size),
        "bursts per day": len(bursts) / len(x) * STEPS_PER_DAY,
        "burst length, steps": float(bursts.mean()) if len(bursts) else 0.0,
        "idle spell, steps": float(idle.mean()) if len(idle) else 0.0,
        "tail index (Hill)": hill(x),
        "Hurst exponent": hurst(values),
        **band_shares(values),
    }


def window_features(data: Mapping[str, np.ndarray], metrics: Sequence[str] = ("value",)) -> pd.DataFrame:
    """Features of each whole day of each machine, indexed by machine: what the classifier sees.

    data: machine -> (n_time, n_metric). Days with over 2 % missing are left out; other holes are carried forward.
    """
    rows, owners = [], []
    for name, values in data.items():
        whole = values[: len(values) // STEPS_PER_DAY * STEPS_PER_DAY].reshape(-1, STEPS_PER_DAY, values.shape[1])
        whole = whole[np.isnan(whole).mean(axis=1).max(axis=1) <= MAX_MISSING] if len(whole) else whole
        for window in whole:
            columns = [_rounded(pd.Series(column).ffill().bfill().to_numpy()) for column in window.T]
            row: dict[str, float] = {}
            for metric, column, holes in zip(metrics, columns, np.isnan(window.T), strict=True):
                prefix = f"{metric}: " if len(metrics) > 1 else ""
                row |= {prefix + key: value for key, value in _features(column, holes).items()}
            for i in range(len(metrics)):
                for j in range(i):
                    row[f"{metrics[j]} x {metrics[i]}: correlation"] = correlation(columns[i], columns[j])
                    row[f"{metrics[j]} x {metrics[i]}: correlation of changes"] = correlation(
                        np.diff(columns[i]), np.diff(columns[j])
                    )
            rows.append(row)
            owners.append(name)
    return pd.DataFrame(rows, index=pd.Index(owners, name="machine"))


def _rounded(x: np.ndarray) -> np.ndarray:
    scale = 10.0 ** (SIGNIFICANT_DIGITS - 1 - np.floor(np.log10(np.maximum(np.abs(x), 1e-9))))
    return np.round(x * scale) / scale


def _features(x: np.ndarray, holes: np.ndarray) -> dict[str, float]:
    """The features of one day of one metric, shape (288,), without missing values."""
    n, sd, step = len(x), float(x.std()), np.diff(x)
    q = np.quantile(x, [0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    centred, unit = x - x.mean(), sd or 1.0
    power = np.abs(np.fft.rfft(centred)[1:]) ** 2
    total = power.sum() or 1.0
    frequency = np.arange(1, len(power) + 1)
    distinct, counts = np.unique(x, return_counts=True)
    gaps, change = np.diff(distinct), step.std() or 1.0
    high = spells(x > q[3] + 0.5 * (x.max() - q[3])) if sd else np.zeros(0, int)
    outer = spells(x > q[3] + 2 * sd) if sd else np.zeros(0, int)
    low, upper, same = spells(x < x.mean()), spells(x > q[3]), spells(step == 0)
    shape = {f"autocorrelation {lag}": float(centred[lag:] @ centred[:-lag] / (n * unit**2)) for lag in LAGS}
    return shape | {
        "mean": float(x.mean()), "sd": sd, "minimum": float(x.min()), "maximum": float(x.max()),
        **dict(zip(("q01", "q05", "q25", "q50", "q75", "q95", "q99"), q.tolist(), strict=True)),
        "coefficient of variation": sd / (abs(x.mean()) or 1.0), "skewness": float((centred**3).mean() / unit**3),
        "kurtosis": float((centred**4).mean() / unit**4), "range over sd": float(np.ptp(x) / unit),
        "quartile range over sd": float((q[4] - q[2]) / unit), "maximum over median": float(x.max() / (q[3] or 1.0)),
        "repeated values": float((step == 0)[~(holes[1:] | holes[:-1])].mean()), "longest repeat": float(max(same, default=0)),
        "distinct values": float(len(distinct)), "most frequent value": float(counts.max() / n),
        "values seen once": float((counts == 1).mean()),
        "smallest gap": float(gaps.min()) if len(gaps) else 0.0, "median gap": float(np.median(gaps)) if len(gaps) else 0.0,
        "decimals": float(np.abs(x * 10 - np.round(x * 10)).mean()),
        "zeros": float((x == 0).mean()), "saturated": float((x >= SATURATED_PERCENT).mean()),
        "above 100": float((x > 100).mean()), "at the maximum": float((x == x.max()).mean()), "at the minimum": float((x == x.min()).mean()),
        "sd of changes": float(step.std()), "changes over sd": float(step.std() / unit),
        "kurtosis of changes": float(((step - step.mean()) ** 4).mean() / change**4),
        "skewness of changes": float(((step - step.mean()) ** 3).mean() / change**3),
        "median change over sd": float(np.median(np.abs(step)) / unit), "largest rise": float(step.max()), "largest fall": float(step.min()),
        "autocorrelation of changes": float(step[1:] @ step[:-1] / ((step @ step) or 1.0)),
        "autocorrelation of sizes of change": correlation(np.abs(step[1:]), np.abs(step[:-1])),
        "turning points": float((step[1:] * step[:-1] < 0).mean()), "asymmetry": float((step > 0).mean() - (step < 0).mean()),
        "spectral slope": float(np.polyfit(np.log(frequency), np.log(power + 1e-9 * total), 1)[0]),
        "spectral entropy": float(stats.entropy(power / total + 1e-12)), "spectral peak": float(power.max() / total),
        "power below 6 h": float(power[:4].sum() / total), "power 6 h to 1 h": float(power[4:24].sum() / total),
        "power 10 to 15 min": float(power[95:].sum() / total),
        "bursts": float(len(high)), "burst length": float(high.mean()) if len(high) else 0.0,
        "bursts over 2 sd": float(len(outer)), "length over 2 sd": float(outer.mean()) if len(outer) else 0.0,
        "longest above median": float(max(upper, default=0)), "longest below mean": float(max(low, default=0)),
        "hour of maximum": float(x.argmax() / 12), "hour of minimum": float(x.argmin() / 12),
        "halves differ": float(abs(x[: n // 2].mean() - x[n // 2 :].mean()) / unit),
        "level shift": float(np.abs(np.cumsum(centred)).max() / (unit * n)), "trend": float((x[-36:].mean() - x[:36].mean()) / unit),
    }  # fmt: skip


def correlation(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson correlation of the pairs that are there, shape (n_time,) both; 0 if one is constant."""
    both = np.isfinite(a) & np.isfinite(b)
    a, b = a[both], b[both]
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 1 and np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0
