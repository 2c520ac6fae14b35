"""Scores of metrics without their cycle, their correlations, and how many independent observations these are worth."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy import stats

from support.errors import SchemaError, SourceError, TooShortError
from support.telemetry.schema import Telemetry

__all__ = ["SEASONS", "CorrelationStatistics", "correlation_statistics", "hour_cell", "mean_inflation", "normal_scores", "remainder_scores", "season_of", "statistics_of"]  # fmt: skip

SEASONS = {"week": 168, "day": 24, "none": 1}  # cells of the cycle that is removed
CYCLES_NEEDED = 3  # weeks for the cycle of the week, days for that of the day: fewer cannot tell a cycle from noise


@dataclass(frozen=True)
class CorrelationStatistics:
    """What the data say about correlations, one matrix a machine.

    archetype_of: number in `archetypes`, shape (n_resource,). correlation: of the scores that the cycle leaves, shape
    (n_resource, n_metric, n_metric). n_time: intervals; n_effective: independent observations they are worth; both
    (n_resource,). cycle_frac: share of the variance of the scores in the cycle, (n_resource, n_metric). notes: what was
    left out or done differently, in sentences.
    """

    metrics: tuple[str, ...]
    resources: tuple[str, ...]
    archetypes: tuple[str, ...]
    archetype_of: np.ndarray
    correlation: np.ndarray
    n_time: np.ndarray
    n_effective: np.ndarray
    cycle_frac: np.ndarray
    notes: tuple[str, ...] = ()

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """Numbers of the metrics of each pair, first below second."""
        return [(a, b) for a in range(len(self.metrics)) for b in range(a + 1, len(self.metrics))]


def normal_scores(values: np.ndarray) -> np.ndarray:
    """Values as quantiles of the standard normal at their rank along the first axis; ties share a rank, NaN stay.

    Source: van der Waerden scores with (rank - 1/2) / n, Blom (1958).

    Example:
        >>> normal_scores(np.array([5.0, 1.0, 900.0])).round(2).tolist()
        [0.0, -0.97, 0.97]
    """
    ranks = stats.rankdata(values, axis=0, nan_policy="omit")
    return np.asarray(stats.norm.ppf((ranks - 0.5) / np.isfinite(values).sum(0)))


def hour_cell(times: pd.DatetimeIndex, season: str) -> np.ndarray:
    """Number of the hour of the week (from Monday, UTC), of the day, or 0 for season "none", shape (n_time,).

    Example:
        >>> hour_cell(pd.DatetimeIndex(["2026-03-03 05:00"], tz="UTC"), "week").tolist()
        [29]
    """
    if season not in SEASONS:
        raise SourceError(f"season: {season!r} is unknown. Use one of {', '.join(SEASONS)}.")
    hours = times.dayofweek.to_numpy() * 24 + times.hour.to_numpy()
    return np.asarray(hours % SEASONS[season])


def mean_inflation(scores: np.ndarray) -> float:
    """How many dependent rows are worth one: 1 + 2 sum_k rho_a(k) rho_b(k), mean over the pairs of columns.

    scores: (n_time, n_metric), rows of NaN are gaps. The sum ends at the first lag where the mean product is not positive,
    or at a quarter of the series. Exact for the correlation of two series with equal autocorrelation.
    Source: Bartlett (1935), J. Royal Statistical Society 98; truncation after Geyer (1992), Statistical Science 7.

    Example:
        >>> bool(0.8 < mean_inflation(np.random.default_rng(1).normal(size=(4000, 2))) < 1.2)
        True
    """
    n_time, n_metric = scores.shape
    present = np.isfinite(scores).all(1)
    centred = np.where(present[:, None], scores - scores[present].mean(0), 0.0)
    power = np.abs(np.fft.rfft(np.column_stack([centred, present]), 2 * n_time, axis=0)) ** 2
    products = np.fft.irfft(power, axis=0)[: max(n_time // 4, 2)]
    covariance = products[:, :-1] / np.maximum(products[:, -1:], 1.0)
    rho = covariance / covariance[0]
    mean_product = (rho.sum(1) ** 2 - (rho**2).sum(1)) / (n_metric * (n_metric - 1))
    ends = np.flatnonzero(mean_product[1:] <= 0)
    return float(1 + 2 * mean_product[1 : 1 + (ends[0] if ends.size else len(rho))].sum())


def season_of(n_time: int, step_seconds: float, season: str) -> str:
    """The longest cycle, up to `season`, that was seen often enough."""
    names = list(SEASONS)
    for name in names[names.index(season) :]:
        if n_time * step_seconds >= CYCLES_NEEDED * SEASONS[name] * 3600 or name == "none":
            return name
    raise AssertionError


def remainder_scores(values: pd.DataFrame, season: str) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the metrics of one machine without the mean of each cell of `season`, and the share that the cycle had.

    values: (n_time, n_metric), UTC index. The remainder is ranked again, so its scores are normal whatever its tails.
    """
    cell, scores = hour_cell(pd.DatetimeIndex(values.index), season), normal_scores(values.to_numpy())
    cycle = pd.DataFrame(scores).groupby(cell).transform("mean").to_numpy()
    share = np.nanvar(cycle, axis=0) / np.nanvar(scores, axis=0)
    return normal_scores(scores - cycle), share


def correlation_statistics(
    telemetry: Telemetry, metrics: tuple[str, ...], *, archetype_column: str = "", season: str = "week"
) -> CorrelationStatistics:
    """Correlation of the remainders of `metrics` in every machine, and the observations it is worth.

    Scores are by rank within the machine; the mean of each hour of the week is removed (season: "week", "day", "none"), the
    remainder ranked again. A machine with fewer than 3 weeks gets the cycle of the day instead, below 3 days none; one with a
    metric that is missing or constant is left out; `notes` says so. archetype_column: of `telemetry.resources`; empty: all are
    of one archetype. Raises SchemaError (metric or column unknown, nothing left), SourceError (season).

    Example:
        >>> from support.telemetry import load
        >>> fleet = load("synthetic:fleet", seed=1, days=21, n_resources=2, step_seconds=3600.0)
        >>> found = correlation_statistics(fleet, ("cpu_utilization", "memory_utilization"))
        >>> found.correlation.shape, bool((found.n_effective < found.n_time).all())
        ((2, 2, 2), True)
    """
    missing = [m for m in metrics if m not in telemetry.observations.columns]
    if missing or len(set(metrics)) < 2 or len(set(metrics)) < len(metrics):
        raise SchemaError(
            f"{telemetry.source}: metrics {list(metrics)}; name two or more different ones of {telemetry.metrics}."
        )
    if archetype_column and archetype_column not in telemetry.resources.columns:
        raise SchemaError(
            f"{telemetry.source}: resources have no column {archetype_column!r}, only {list(telemetry.resources.columns)}."
        )
    hour_cell(pd.DatetimeIndex([]), season)
    kept, notes = {}, []
    for name, rows in telemetry.observations[list(metrics)].groupby(level="resource_id"):
        frame = rows.droplevel("resource_id").dropna()
        flat = [m for m in metrics if frame[m].nunique() < 2]
        if flat:
            notes.append(f"{name} left out: {', '.join(flat)} missing or constant.")
        else:
            kept[str(name)] = rows.droplevel("resource_id").where(rows.droplevel("resource_id").notna().all(axis=1))
    if not kept:
        raise SchemaError(f"{telemetry.source}: no machine has values that vary in all of {list(metrics)}.")
    column = telemetry.resources[archetype_column].astype(str) if archetype_column else pd.Series("all", index=kept)
    return statistics_of(kept, column.to_dict(), telemetry.step_seconds, season=season, notes=tuple(notes))


def statistics_of(
    values: dict[str, pd.DataFrame],
    archetype: dict[str, str],
    step_seconds: float,
    *,
    season: str = "week",
    notes: tuple[str, ...] = (),
) -> CorrelationStatistics:
    """The same from frames by machine (n_time, n_metric; equal columns, UTC index, even step), rows of NaN being gaps.

    Raises TooShortError if a machine has fewer rows than twice the metrics.
    """
    matrices, n_time, n_effective, shares, told = [], [], [], [], list(notes)
    n_metric = next(iter(values.values())).shape[1]
    for name, frame in values.items():
        n = int(frame.notna().all(axis=1).sum())
        if n < 2 * n_metric:
            raise TooShortError(f"{name}: {n} complete rows; {2 * n_metric} are needed for {n_metric} metrics.")
        used = season_of(n, step_seconds, season)
        if used != season:
            instead = "none is removed" if used == "none" else f"that of the {used} is removed"
            told.append(f"{name} is too short for the cycle of the {season}; {instead}.")
        scores, share = remainder_scores(frame, used)
        matrices.append(np.corrcoef(scores[np.isfinite(scores).all(1)], rowvar=False))
        n_cells = min(SEASONS[used], n // 2) - 1
        n_effective.append((n - n_cells) / mean_inflation(scores))
        n_time.append(n)
        shares.append(share)
    archetypes = sorted({archetype[name] for name in values})
    number = np.array([archetypes.index(archetype[name]) for name in values])
    return CorrelationStatistics(
        tuple(next(iter(values.values())).columns), tuple(values), tuple(archetypes), number,
        np.array(matrices), np.array(n_time), np.array(n_effective), np.array(shares), tuple(told),
    )  # fmt: skip
