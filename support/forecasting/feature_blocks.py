"""Features of one long array of series as arrays: lags, rolling and weighted statistics, seasons, anomaly flags.

Row i knows `values[: i + 1]` of its own series and nothing else. Every feature here has a bounded memory, so the row of a
window's end is the same whether the window is cut out or not. Windows are merged from halves (a tree of sums), so the
cost grows with the logarithm of their width, and no rounding is carried from one window, or one series, to the next.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

import numpy as np
from scipy.ndimage import rank_filter

from support.errors import SchemaError

__all__ = ["GROUPS", "FeaturePlan", "ahead_columns", "over", "past_columns", "rolled", "scale_kind"]

Columns = dict[str, np.ndarray]
GROUPS = (
    "calendar", "lags", "rolling", "ewm", "differences", "changes", "seasons", "anomaly", "covariates", "interactions",
    "age", "cumulative", "metadata",
)  # fmt: skip
LAGS = (0, 1, 2, 3, 6, 12, 24, 72)  # steps before the cut-off; the last four are ScaleIQ's
WINDOWS = (3, 6, 12, 24, 72)  # steps
SPANS = (6, 24, 72)  # steps, of the exponential weights
GAPS = (1, 6, 12, 24, 72)  # steps, of differences and relative changes
EWM_SPANS = 4  # weights older than four spans, 0.03 % of the whole, are cut off
Z_WINDOW, Z_FLAG = 72, 2.5  # steps, standard deviations: ScaleIQ
Z_BOUND = 20.0  # a step away from a constant past is infinitely many standard deviations
SMOOTHED_STEPS = 6  # of the seasonal lag that is averaged
IQR_SDS = 1.349  # interquartile range of a normal distribution, in standard deviations
# what a change of level and unit, x -> a x + b, does to a column: "level" a f + b, "spread" a f, "free" nothing
KINDS = dict.fromkeys(("lag", "mean", "min", "max", "ewm", "trend", "seasonal", "smoothed"), "level") | dict.fromkeys(
    ("std", "diff", "slope", "profile", "remainder", "spread"), "spread"
)


@dataclass(frozen=True)
class FeaturePlan:
    """Which features there are. seasons, lags, windows, spans, gaps: steps; n_seasons: seasons looked back on.

    groups: any of GROUPS. Raises SchemaError for an unknown group, or steps that are not allowed.

    Example:
        >>> FeaturePlan(seasons=(24,)).memory, FeaturePlan(seasons=(24,)).within(40).windows
        (288, (3, 6, 12, 24))
    """

    seasons: tuple[int, ...] = ()
    lags: tuple[int, ...] = LAGS
    windows: tuple[int, ...] = WINDOWS
    spans: tuple[int, ...] = SPANS
    gaps: tuple[int, ...] = GAPS
    n_seasons: int = 2
    groups: tuple[str, ...] = GROUPS

    def __post_init__(self) -> None:
        unknown = sorted(set(self.groups) - set(GROUPS))
        if unknown:
            raise SchemaError(f"features: unknown groups {unknown}. There are {', '.join(GROUPS)}.")
        for name, least in (("seasons", 2), ("lags", 0), ("windows", 2), ("spans", 1), ("gaps", 1)):
            wrong = [k for k in getattr(self, name) if k < least]
            if wrong:
                raise SchemaError(f"features: {name} {wrong} are below {least} steps. Leave them out.")
        if self.n_seasons < 2:
            raise SchemaError(f"features: n_seasons is {self.n_seasons}; a trend and a season need at least 2.")

    @property
    def memory(self) -> int:
        """Newest values that a row depends on, but for age and cumulative, which know the whole past of their series.

        With fewer, some of its columns are NaN.
        """
        needs = [need for name in _NEEDS for need in self._needs(name).values()]
        return max([1, *needs, *([2 * Z_WINDOW] if "anomaly" in self.groups else [])])

    def within(self, memory: int) -> FeaturePlan:
        """The plan without what needs more than the newest `memory` values."""
        kept = {name: tuple(k for k, need in self._needs(name).items() if need <= memory) for name in _NEEDS}
        groups = tuple(g for g in self.groups if g != "anomaly" or memory >= 2 * Z_WINDOW)
        return replace(self, **kept, groups=groups)  # type: ignore[arg-type]

    def _needs(self, name: str) -> dict[int, int]:
        return {k: _NEEDS[name](k, self.n_seasons) for k in getattr(self, name)}


_NEEDS: dict[str, Callable[[int, int], int]] = {
    "seasons": lambda k, n_seasons: n_seasons * max(k, SMOOTHED_STEPS),
    "lags": lambda k, _: k + 1,
    "windows": lambda k, _: k,
    "spans": lambda k, _: EWM_SPANS * k,
    "gaps": lambda k, _: k + 1,
}


def scale_kind(column: str) -> str:
    """How a column follows x -> a x + b: "level" as a f + b, "spread" as a f, "free" not at all."""
    return KINDS.get(column.split("_")[0], "free")


def past_columns(values: np.ndarray, position: np.ndarray, plan: FeaturePlan) -> Columns:
    """Features of what is known at each row, each (n_row,), NaN where the series is too short for them.

    values: (n_row,), the series one after the other, oldest first, NaN where missing. position: (n_row,) row within its
    series. Columns end in their steps: lag_3 is the value three steps before the row.

    Example:
        >>> columns = past_columns(np.array([1.0, 2.0, 4.0]), np.arange(3), FeaturePlan(groups=("lags",), lags=(0, 1)))
        >>> {name: column.tolist() for name, column in columns.items()}
        {'lag_0': [1.0, 2.0, 4.0], 'lag_1': [nan, 1.0, 2.0]}
    """
    out: Columns = {}
    if "lags" in plan.groups:
        out |= {f"lag_{k}": lagged(values, position, k) for k in plan.lags}
    if "rolling" in plan.groups:
        elsewhere = set(plan.seasons) if "seasons" in plan.groups else set()
        for width, found in rolled(values, position, set(plan.windows) - elsewhere).items():
            out |= {f"{name}_{width}": column for name, column in found.items()}
    if "ewm" in plan.groups:
        out |= {f"ewm_{span}": weighted(values, position, span) for span in plan.spans}
    gaps = {k: lagged(values, position, k) for k in sorted({*plan.gaps, *plan.seasons})}
    if "differences" in plan.groups:
        out |= {f"diff_{k}": values - before for k, before in gaps.items()}
    if "changes" in plan.groups:
        out |= {f"change_{k}": over(values - before, np.abs(before)) for k, before in gaps.items()}
    if "seasons" in plan.groups:
        for season, found in rolled(values, position, plan.seasons).items():
            trend = out[f"trend_{season}"] = found["mean"]
            out |= {f"{name}_{season}": found[name] for name in ("std", "min", "max")}
            out[f"slope_{season}"] = trend - lagged(trend, position, season)
            before = [lagged(values - trend, position, k * season) for k in range(1, plan.n_seasons)]
            out[f"remainder_{season}"] = values - trend - np.mean(before, axis=0)
    if "anomaly" in plan.groups:
        out |= _anomaly(values, position)
    return out


def ahead_columns(
    values: np.ndarray, position: np.ndarray, rows: np.ndarray, steps: np.ndarray, plan: FeaturePlan
) -> Columns:
    """What is known at `rows` (n,) of the phase of the season that lies `steps` (n,) ahead, each column (n,).

    seasonal_<season>_<k>: the k-th newest known value of that phase; smoothed_: the mean of the six values up to the
    newest; spread_: standard deviation of all of them; profile_: their mean deviation from the one-sided trend.
    """
    out: Columns = {"ahead": steps.astype(float)}
    if "seasons" not in plan.groups:
        return out
    for season in plan.seasons:
        newest = -(-steps // season) * season - steps  # steps before the row, from 0 to season - 1
        found = rolled(values, position, {season, SMOOTHED_STEPS})

        def at(column: np.ndarray, k: int, newest: np.ndarray = newest, season: int = season) -> np.ndarray:
            back = newest + k * season
            return np.where(position[rows] >= back, column[np.maximum(rows - back, 0)], np.nan)

        same = [at(values, k) for k in range(plan.n_seasons)]
        out |= {f"seasonal_{season}_{k + 1}": column for k, column in enumerate(same)}
        out[f"smoothed_{season}"] = at(found[SMOOTHED_STEPS]["mean"], 0)
        out[f"spread_{season}"] = np.std(same, axis=0)
        detrended = values - found[season]["mean"]
        out[f"profile_{season}"] = np.mean([at(detrended, k) for k in range(plan.n_seasons - 1)], axis=0)
    return out


def over(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """part / whole, NaN where the whole is 0.

    Example:
        >>> over(np.array([1.0, 1.0]), np.array([2.0, 0.0])).tolist()
        [0.5, nan]
    """
    return np.divide(part, whole, out=np.full(np.shape(part), np.nan), where=whole != 0)


def lagged(column: np.ndarray, position: np.ndarray, k: int) -> np.ndarray:
    """The value `k` rows earlier in the same series, (n_row,)."""
    return np.where(position >= k, _shift(column, k), np.nan)


def rolled(values: np.ndarray, position: np.ndarray, widths: Iterable[int]) -> dict[int, Columns]:
    """Mean, std (n - 1), min and max of the newest `width` values at each row, NaN before there are as many.

    Blocks of 1, 2, 4, ... values are merged by Chan, Golub and LeVeque (1983), The American Statistician 37, eq. 2.1.
    """
    parts: dict[int, tuple[int, Columns]] = {}
    widths = sorted(set(widths))
    block, size = {"mean": values, "std": np.zeros_like(values), "min": values, "max": values}, 1
    while widths and size <= widths[-1]:
        for width in widths:
            if width & size:
                held, done = parts.get(width, (0, {}))
                parts[width] = held + size, _merge(done, held, block, size, held)
        block, size = _merge(block, size, block, size, size), 2 * size
    out = {}
    for width in widths:
        done = parts[width][1]
        done["std"] = np.sqrt(done["std"] / (width - 1))
        out[width] = {name: np.where(position >= width - 1, column, np.nan) for name, column in done.items()}
    return out


def _merge(newer: Columns, n_newer: int, older: Columns, n_older: int, back: int) -> Columns:
    """Statistics of two neighbouring blocks as one; "std" holds the sum of squares about the mean."""
    older = {name: _shift(column, back) for name, column in older.items()}
    if not newer:
        return older
    n, gap = n_newer + n_older, older["mean"] - newer["mean"]
    return {
        "mean": newer["mean"] + gap * (n_older / n),
        "std": newer["std"] + older["std"] + gap**2 * (n_newer * n_older / n),
        "min": np.minimum(newer["min"], older["min"]),
        "max": np.maximum(newer["max"], older["max"]),
    }


def weighted(values: np.ndarray, position: np.ndarray, span: int) -> np.ndarray:
    """Exponentially weighted mean of the newest four spans, (n_row,); weight (1 - 2 / (span + 1)) ** age."""
    decay, width = 1 - 2 / (span + 1), EWM_SPANS * span
    total, held, block, size = np.zeros_like(values), 0, values, 1
    while size <= width:
        if width & size:
            total, held = total + decay**held * _shift(block, held), held + size
        block, size = block + decay**size * _shift(block, size), 2 * size
    share = (1 - decay**width) / (1 - decay)
    return np.where(position >= width - 1, total / share, np.nan)


def _shift(column: np.ndarray, k: int) -> np.ndarray:
    """`k` rows later, over the borders of the series: the caller masks what is not its own."""
    if k == 0:
        return column
    out = np.full_like(column, np.nan)
    out[k:] = column[:-k]
    return out


def _anomaly(values: np.ndarray, position: np.ndarray) -> Columns:
    """Plain and robust z of each value against the 72 before it, their flags, and the share of flags in 72 steps."""
    stats = rolled(values, position, [Z_WINDOW])[Z_WINDOW]
    low, mid, high = (_ranked(values, position, round(share * (Z_WINDOW - 1))) for share in (0.25, 0.5, 0.75))
    robust = (mid, (high - low) / IQR_SDS)
    out: Columns = {}
    for name, (centre, sd) in {"z": (stats["mean"], stats["std"]), "zrobust": robust}.items():
        before = lagged(centre, position, 1)
        away, sd = values - before, lagged(sd, position, 1)
        with np.errstate(divide="ignore", invalid="ignore"):
            z = np.where(away == 0, 0.0 * sd, np.clip(away / sd, -Z_BOUND, Z_BOUND))
        flag = np.where(np.isnan(z), np.nan, np.abs(z) > Z_FLAG)
        out |= {name: z, f"{name}flag": flag, f"{name}share": rolled(flag, position, [Z_WINDOW])[Z_WINDOW]["mean"]}
    return out


def _ranked(values: np.ndarray, position: np.ndarray, rank: int) -> np.ndarray:
    """The value of a rank (0 the lowest) of the newest 72, (n_row,), NaN if one of them is missing."""
    n, gone = len(values), np.isnan(values)
    centred = rank_filter(np.where(gone, 0.0, values), rank, size=Z_WINDOW)
    out = np.full(n, np.nan)
    out[Z_WINDOW - 1 :] = centred[Z_WINDOW // 2 : n - Z_WINDOW + 1 + Z_WINDOW // 2]
    seen = np.cumsum(gone)
    holes = seen - np.nan_to_num(_shift(seen.astype(float), Z_WINDOW))
    return np.where((position >= Z_WINDOW - 1) & (holes == 0), out, np.nan)
