"""What may be wrong with Telemetry: checks with stated limits, and cycles found by a test instead of by eye."""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import pandas as pd

from support.errors import SchemaError, TooShortError
from support.telemetry.judging.quality_report import CHECKS, VERDICTS, QualityReport
from support.telemetry.judging.seasonality import MIN_CYCLES, MIN_STEPS_PER_CYCLE, Seasonality, seasonality
from support.telemetry.schema import METRICS, Telemetry
from support.writing import plural

__all__ = ["LIMITS", "QualityReport", "quality"]

LIMITS = {  # up to the first: good; up to the second: look; beyond: bad (of completeness: the share that lacks)
    "duplicates": (0.0, 5.0),
    "dropped": (0.0, 20.0),
    "completeness": (1.0, 5.0),
    "ranges": (1.0, 20.0),
    "outliers": (0.1, 5.0),
    "correlation": (0.05, 0.15),
}
HOUR_SECONDS, DAY_SECONDS, WEEK_SECONDS = 3600.0, 86_400.0, 604_800.0
LEVEL_FRAC = 0.01  # chance of a cycle found where there is none, per metric (over all its resources together)
OUTLIER_ROBUST_SDS = 5.0
MAD_TO_SD = 1.4826  # of a normal distribution
AT_A_BOUND_BY_NATURE = ("availability_percent",)  # 100 percent is as it should be
DUPLICATES = "repeat another row|share a timestamp|fell into the same interval"
DROPPED = "^(?!.*repeat another)(rows|lines|incomplete intervals)\\b.*(dropped|left out|could not be read)"
MOVED = "timestamps moved to the grid|interval ends moved|spread evenly|time ran backwards"
PRESUMED = "no timezone|clock repeats|clock skips|local calendar"
TIMES = f"{PRESUMED}|timezone|epoch|converted from .* to UTC"


class _Finding(NamedTuple):
    value: float
    verdict: str
    words: str


@dataclass(frozen=True)
class _Metric:
    """Measured values of one metric by resource (NaN where missing or imputed), of the resources that have it."""

    name: str
    values: dict[str, np.ndarray]
    starts: dict[str, pd.Timestamp]
    n_without: int
    step_seconds: float

    def time(self, resource: str, position: int) -> str:
        """The start of an interval, in words."""
        return f"{self.starts[resource] + pd.Timedelta(seconds=position * self.step_seconds):%Y-%m-%d %H:%M} UTC"


def quality(telemetry: Telemetry, *, target_correlation: pd.DataFrame | None = None) -> QualityReport:
    """Check duplicates, dropped rows, cadence, timezone, completeness, gaps, ranges, outliers, constants and cycles.

    target_correlation: wanted correlation of metrics, index and columns their names, NaN where none is wanted; compared
    with the mean over the resources of Pearson's coefficient. What the loader imputed counts as missing. Limits between
    good, look and bad are in LIMITS; gaps: 1 h and 1 day; a cycle is found at a level of 1 % by `seasonality` (Holm over
    resources), and the verdict on it is only whether it could be tested. Raises SchemaError for a target that is not
    symmetric or of unknown metrics.

    Example:
        >>> from support.telemetry.sources import load
        >>> report = quality(load("synthetic", seed=1, days=14, step_seconds=3600.0))
        >>> float(report.table().set_index("check").loc["daily cycle", "value"])
        100.0
    """
    rows: list[tuple[str, str, _Finding]] = [
        ("duplicates", "all", _judged("duplicates", *_repaired(telemetry, DUPLICATES))),
        ("dropped", "all", _judged("dropped", *_repaired(telemetry, DROPPED))),
        ("cadence", "all", _cadence(telemetry)),
        ("timezone", "all", _timezone(telemetry)),
    ]
    checks: dict[str, Callable[[_Metric], _Finding]] = {
        "completeness": _completeness,
        "gaps": _gaps,
        "ranges": _ranges,
        "outliers": _outliers,
        "constant": _constant,
        "daily cycle": lambda metric: _cycle(metric, DAY_SECONDS),
        "weekly cycle": lambda metric: _cycle(metric, WEEK_SECONDS),
    }
    metrics = [_measured(telemetry, name) for name in telemetry.metrics]
    for name, check in checks.items():
        rows += [(name, metric.name, check(metric)) for metric in metrics if metric.values]
    rows += [("completeness", m.name, _Finding(0.0, "bad", "no value at all")) for m in metrics if not m.values]
    if target_correlation is not None:
        rows += [("correlation", *found) for found in _correlation(telemetry, target_correlation)]
    table = pd.DataFrame(
        [(check, metric, f.value, CHECKS[check], f.verdict, f.words) for check, metric, f in rows],
        columns=["check", "metric", "value", "unit", "verdict", "words"],
    )
    order = table["check"].map(list(CHECKS).index)
    return QualityReport(telemetry.source, table.loc[order.sort_values(kind="stable").index].reset_index(drop=True))


def _judged(check: str, value: float, words: str, excess: float | None = None) -> _Finding:
    good, look = LIMITS[check]
    measure = value if excess is None else excess
    return _Finding(float(value), VERDICTS[int(measure > good) + int(measure > look)], words)


def _repaired(telemetry: Telemetry, pattern: str, otherwise: str = "none") -> tuple[float, str]:
    """Percent of the rows read that repairs like `pattern` touched (100 at most), and these repairs in words."""
    found = [r for r in telemetry.repairs if re.search(pattern, r.what)]
    read = sum(r.count for r in telemetry.repairs if r.what == "rows read") or len(telemetry.observations)
    words = "; ".join(f"{r.count:,} {r.what}" for r in found)
    return min(100.0, 100 * sum(r.count for r in found) / read), words or otherwise


def _cadence(telemetry: Telemetry) -> _Finding:
    percent, words = _repaired(telemetry, MOVED, "no stamp moved")
    sizes = telemetry.observations.groupby(level="resource_id").size()
    days = sizes.median() * telemetry.step_seconds / DAY_SECONDS
    of = f" (median of {len(sizes)} resources)" if len(sizes) > 1 else ""
    said = f"every {telemetry.step_seconds:g} s for {plural(float(f'{days:.3g}'), 'day')}{of}; {words}"
    return _Finding(percent, "look" if percent else "good", said)


def _timezone(telemetry: Telemetry) -> _Finding:
    percent, words = _repaired(telemetry, PRESUMED)[0], _repaired(telemetry, TIMES, "nothing was presumed")[1]
    return _Finding(percent, "look" if percent else "good", words)


def _measured(telemetry: Telemetry, name: str) -> _Metric:
    frame = telemetry.observations
    column = frame[name].to_numpy(dtype=float)
    if "quality_flag" in frame:
        column = np.where(frame["quality_flag"] == 1, np.nan, column)
    edges = np.flatnonzero(np.diff(frame.index.codes[0], prepend=-1))
    parts = dict(zip(frame.index.get_level_values(0)[edges], np.split(column, edges[1:]), strict=True))
    starts = dict(zip(parts, frame.index.get_level_values(1)[edges], strict=True))
    values = {resource: part for resource, part in parts.items() if np.isfinite(part).any()}
    return _Metric(name, values, starts, len(parts) - len(values), telemetry.step_seconds)


def _completeness(metric: _Metric) -> _Finding:
    lacking = {resource: int(np.isnan(part).sum()) for resource, part in metric.values.items()}
    n = sum(map(len, metric.values.values()))
    worst = max(lacking, key=lambda r: lacking[r] / len(metric.values[r]))
    percent = 100 * sum(lacking.values()) / n
    words = f"{sum(lacking.values()):,} of {n:,} values missing or imputed" if percent else "no value missing"
    if percent and len(lacking) > 1:
        words += f"; most in {worst} ({100 * lacking[worst] / len(metric.values[worst]):.1f} %)"
    words += f"; never there in {plural(metric.n_without, 'resource')}" if metric.n_without else ""
    return _judged("completeness", 100 - percent, words, excess=percent)


def _gaps(metric: _Metric) -> _Finding:
    longest, where, number = 0, "", 0
    for resource, part in metric.values.items():
        edges = np.flatnonzero(np.diff(np.isnan(part).astype(int), prepend=0, append=0))
        lengths = edges[1::2] - edges[::2]
        number += len(lengths)
        if len(lengths) and lengths.max() > longest:
            longest = int(lengths.max())
            where = f" in {resource} from {metric.time(resource, int(edges[2 * lengths.argmax()]))}"
    seconds = longest * metric.step_seconds
    grades = [seconds > max(limit, metric.step_seconds) for limit in (HOUR_SECONDS, DAY_SECONDS)]
    words = f"{number:,} in all, the longest of {plural(longest, 'interval')}{where}" if number else "no gap"
    return _Finding(seconds / HOUR_SECONDS, VERDICTS[sum(grades)], words)


def _ranges(metric: _Metric) -> _Finding:
    values = np.concatenate(list(metric.values.values()))
    values = values[np.isfinite(values)]
    unit, low, high, _ = METRICS[metric.name]
    high = min(high, 100.0) if unit == "percent" else high
    words = f"{values.min():.4g} to {values.max():.4g} {unit}"
    at_low, at_high, above = (100 * float(np.mean(x)) for x in (values <= low, values == high, values > high))
    for percent, said in ((at_low, f"at {low:g}"), (at_high, f"at {high:g}"), (above, f"above {high:g}")):
        words += f"; {percent:.3g} % {said}" if percent else ""
    if not np.isfinite([low, high]).all() or metric.name in AT_A_BOUND_BY_NATURE:  # no requests at night is no fault
        return _Finding(at_low + at_high, "good", words)
    found = _judged("ranges", at_low + at_high + above, words)
    if unit == "percent" and 0 < values.max() <= 1:
        return _Finding(
            found.value, max(found.verdict, "look", key=VERDICTS.index), f"{words}; fractions, not percent?"
        )
    return found


def _distances(values: np.ndarray, step_seconds: float) -> np.ndarray | None:
    """Distance of each value from the usual of its day and time of day, in robust SD; None if these have no scale.

    The usual: the median of the day plus that of the time of day (Tukey's median polish, one sweep). The scale: the median
    absolute deviation of the record or of the day, whichever is larger, so a busy day is judged by its own spread.
    """
    per_day = round(DAY_SECONDS / step_seconds)
    daily = per_day >= MIN_STEPS_PER_CYCLE and len(values) >= MIN_CYCLES * per_day and DAY_SECONDS % step_seconds == 0
    width = per_day if daily else len(values)
    days = np.pad(values, (0, -len(values) % width), constant_values=np.nan).reshape(-1, width)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a day, or a time of day, without a value
        days = days - np.nanmedian(days, axis=1, keepdims=True)
        if daily:
            days = np.abs(days - np.nanmedian(days, axis=0, keepdims=True))
        scales = np.fmax(np.nanmedian(np.abs(days), axis=1, keepdims=True), np.nanmedian(np.abs(days)))
    if not scales.min() > 1e-9 * np.nanmax(np.abs(values)):
        return None
    return np.nan_to_num(np.abs(days) / (MAD_TO_SD * scales)).ravel()[: len(values)]


def _outliers(metric: _Metric) -> _Finding:
    number, n, farthest, where, unscaled = 0, 0, 0.0, "", 0
    for resource, part in metric.values.items():
        distances = _distances(part, metric.step_seconds)
        if distances is None:
            unscaled += 1
            continue
        number, n = number + int((distances > OUTLIER_ROBUST_SDS).sum()), n + int(np.isfinite(part).sum())
        if distances.max() > farthest:
            farthest, at = float(distances.max()), int(distances.argmax())
            where = f"{resource}, {metric.time(resource, at)}"
    flat = plural(unscaled, "resource")
    without = f"no robust scale in {flat}, more than half of whose values are equal" if unscaled else ""
    if not n:
        return _Finding(np.nan, "look", without)
    words = (
        f"{plural(number, 'value')} more than {OUTLIER_ROBUST_SDS:g} robust SD off the usual of day and time"
        if number
        else "none"
    )
    words += f", the farthest {farthest:.3g} ({where})" if number else ""
    return _judged("outliers", 100 * number / n, "; ".join(filter(None, [words, without])))


def _constant(metric: _Metric) -> _Finding:
    still = [resource for resource, part in metric.values.items() if np.nanmin(part) == np.nanmax(part)]
    verdict = "good" if not still else "bad" if len(still) == len(metric.values) else "look"
    words = (
        f"{len(still)} of {len(metric.values)} resources never change: {', '.join(still[:3])}" if still else "varies"
    )
    return _Finding(float(len(still)), verdict, words)


def _cycle(metric: _Metric, period_seconds: float) -> _Finding:
    found: list[Seasonality] = []
    reasons: set[str] = set()
    for part in metric.values.values():
        try:
            found.append(seasonality(part, metric.step_seconds, period_seconds))
        except TooShortError:
            reasons.add(f"shorter than {MIN_CYCLES} cycles, or too coarse")
        except SchemaError:
            reasons.add("constant, or mostly missing")
    if not found:
        return _Finding(np.nan, "look", f"cannot be tested: {'; '.join(sorted(reasons))}")
    chances = np.sort([one.p_value for one in found])
    refused = chances * np.arange(len(chances), 0, -1) > LEVEL_FRAC  # Holm (1979): stop at the first that is not small
    number = int(np.argmax(refused)) if refused.any() else len(chances)
    strengths = [one.strength_frac for one in found if one.p_value <= (chances[number - 1] if number else -1)]
    share = f" and makes {100 * np.median(strengths):.0f} % of the variation" if strengths else ""
    if len(found) == 1:
        words = f"{'found' if number else 'not found'} (p = {chances[0]:.2g}){share}"
    else:
        words = (
            f"found in {number} of {len(found)} resources{share} there" if number else f"found in none of {len(found)}"
        )
    untested = len(metric.values) - len(found)
    words += f"; {untested} cannot be tested" if untested else ""
    return _Finding(100 * number / len(found), "good", words)


def _correlation(telemetry: Telemetry, target: pd.DataFrame) -> list[tuple[str, _Finding]]:
    names = [str(c) for c in target.columns]
    unknown = sorted(set(names) - set(telemetry.metrics)) or (names if list(target.index) != names else [])
    if unknown or len(names) < 2 or not np.allclose(target, target.T, equal_nan=True):
        raise SchemaError(
            f"{telemetry.source}: target_correlation must be symmetric, over two or more of {telemetry.metrics}; it has "
            f"{[str(i) for i in target.index]} by {names}."
        )
    groups = telemetry.observations[names].groupby(level="resource_id")
    matrices = np.stack([part.corr().to_numpy() for _, part in groups])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # a pair that no resource has
        measured = np.nanmean(matrices, axis=0)
    off = np.abs(measured - target.to_numpy(dtype=float))
    np.fill_diagonal(off, np.nan)
    found = []
    for i, name in enumerate(names):
        if target.drop(columns=name).loc[name].isna().all():
            continue
        if np.isnan(off[i]).all():
            found.append((name, _Finding(np.nan, "bad", "constant or missing, so it correlates with nothing")))
            continue
        j = int(np.nanargmax(off[i]))
        words = f"with {names[j]}: {measured[i, j]:.2f}, wanted {target.iloc[i, j]:.2f}"
        found.append((name, _judged("correlation", float(off[i, j]), words)))
    return found
