"""Sufficient statistics of the Beta likelihood per resource and hour cell: what the models see of the telemetry."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import pandas as pd

from support.bayes.autocorrelation import (
    LagSums,
    autocorrelation,
    effective_weight,
    joined,
    lag_sums,
    seasonal_basis,
)
from support.bayes.rows import EDGE, Rows, unit_rows
from support.errors import SchemaError, TooShortError
from support.telemetry.schema import Telemetry
from support.writing import plural

__all__ = ["ALL", "CellStatistics", "Rows", "cell_statistics", "merge", "seasonal_basis", "unit_rows"]

ALL = "all"  # the one group of a level for which no column was named
FEWEST = 3  # values strictly between 0 and capacity in the whole fleet, under which there is nothing to fit


@dataclass(frozen=True)
class CellStatistics:
    """Sufficient statistics of a fleet for the Beta model: the cost of a fit no longer depends on the number of rows.

    industries, applications, resources: names; industry_of, application_of: (n_resource,) integer positions in them.
    n, s1, s2: (n_resource, n_hour_cell), weighted count, sum of log y and sum of log(1-y) of the y strictly in (0, 1).
    zeros, saturated: (n_resource,) unweighted counts of rows at 0 and at capacity, which a Beta cannot carry.
    weight: (n_resource,) factor in (0, 1] that n, s1 and s2 contain already: effective over actual observations.
    lag: sums to weigh anew after an addition; None keeps the weights. missing: (n_resource,) rows without a value.
    capacity: (n_resource,) value of `metric`, in `unit`, that counts as 1; None is 100 (percent).

    Example:
        >>> one = CellStatistics(("all",), ("all",), ("a",), np.zeros(1, int), np.zeros(1, int), np.ones((1, 24)),
        ...                      -np.ones((1, 24)), -np.ones((1, 24)), np.zeros(1), np.zeros(1), np.ones(1))
        >>> float((one + one).n.sum())
        48.0
    """

    industries: tuple[str, ...]
    applications: tuple[str, ...]
    resources: tuple[str, ...]
    industry_of: np.ndarray
    application_of: np.ndarray
    n: np.ndarray
    s1: np.ndarray
    s2: np.ndarray
    zeros: np.ndarray
    saturated: np.ndarray
    weight: np.ndarray
    lag: LagSums | None = None
    missing: np.ndarray | None = None
    capacity: np.ndarray | None = None
    metric: str = "cpu_utilization"
    unit: str = "percent"
    step_seconds: float = 3600.0

    @property
    def n_hour_cell(self) -> int:
        """24 (hour of the day) or 168 (hour of the week, Monday first), UTC."""
        return self.n.shape[1]

    @property
    def count(self) -> np.ndarray:
        """Unweighted number of observations strictly between 0 and capacity, (n_resource,)."""
        return self.n.sum(axis=1) / self.weight

    @property
    def capacities(self) -> np.ndarray:
        """Capacity of each resource in the metric's unit, (n_resource,): the value that counts as 1."""
        return np.full(len(self.resources), 100.0) if self.capacity is None else self.capacity

    @property
    def autocorrelation(self) -> np.ndarray:
        """Lag-1 autocorrelation on the logit scale, (n_resource,), shrunk to the fleet's median; zero without `lag`."""
        if self.lag is None:
            return np.zeros(len(self.resources))
        raw = self.weight[:, None]
        return autocorrelation(self.n / raw, (self.s1 - self.s2) / raw, self.lag, self.application_of)

    def summary(self) -> pd.DataFrame:
        """What the fit will and will not see: columns `what`, `count`."""
        inside = self.count
        level = np.divide(self.s1.sum(axis=1), self.n.sum(axis=1), out=np.zeros(len(inside)), where=inside > 0)
        other = np.divide(self.s2.sum(axis=1), self.n.sum(axis=1), out=np.zeros(len(inside)), where=inside > 0)
        low, high = np.exp(level), np.exp(other)
        gap = EDGE**2 / 24 * (1 / np.maximum(low, EDGE) + 1 / np.maximum(high, EDGE))  # of Jensen, from rounding alone
        constant = (inside > 1) & (1 - low - high < 1.01 * gap + 1e-12)
        groups = np.unique(self.industry_of * len(self.applications) + self.application_of, return_counts=True)[1]
        rows = [
            ("values strictly between 0 and capacity", inside.sum()),
            ("effective values after the weights for autocorrelation", self.n.sum()),
            ("values at zero, modelled as a share of their own", self.zeros.sum()),
            ("values at capacity or above, modelled as a share of their own", self.saturated.sum()),
            ("values missing, left out", 0 if self.missing is None else self.missing.sum()),
            ("resources", len(inside)),
            ("resources without a value strictly inside, known by their group only", (inside < 0.5).sum()),
            ("resources with one and the same value throughout", constant.sum()),
            ("groups of industry and application with resources", len(groups)),
            ("groups with a single resource", (groups == 1).sum()),
        ]
        return pd.DataFrame(rows, columns=["what", "count"]).astype({"count": float})

    def __add__(self, other: CellStatistics) -> CellStatistics:
        """Statistics of both: see `merge`."""
        return merge(self, other)


def cell_statistics(
    telemetry: Telemetry, *, metric: str = "cpu_utilization",
    group_columns: Sequence[str] = ("industry", "application"), week: bool = True,
    weight: Literal["effective", "none"] = "effective", capacity: float | pd.Series | None = None,
) -> CellStatistics:  # fmt: skip
    """Sufficient statistics of a metric, per resource and hour of the week (or day).

    `group_columns` name the columns of `telemetry.resources` for industry and application; one name is the application
    in a single industry, none a single group. `weight` "effective" multiplies a resource's statistics by its effective
    over its actual sample size (an AR(1) of its lag-1 autocorrelation), "none" takes rows as independent.
    `capacity` as in `unit_rows`. Values within 0.01 percent of 0 or capacity, or beyond, are counted as zeros or saturated.
    Values of a resource that differ by less than that, or not at all, are taken as rounded to it: see `_rounding`. Raises
    SchemaError for missing groups, TooShortError for fewer than three values inside. Source: bayes.md 1, 5.

    Example:
        >>> from support.telemetry import load
        >>> s = cell_statistics(load("synthetic:industries", seed=1, days=2, n_resources=12, step_seconds=3600))
        >>> s.n.shape, len(s.industries), bool((s.weight < 1).all())
        ((12, 168), 6, True)
    """
    if weight not in ("effective", "none"):
        raise SchemaError(f"weight is {weight!r}; it must be 'effective' or 'none'.")
    rows = unit_rows(telemetry, metric=metric, week=week, capacity=capacity)
    names, codes = _groups(telemetry, rows.resources, tuple(group_columns))
    inside = rows.inside
    if inside.sum() < FEWEST:
        raise TooShortError(
            f"{telemetry.source}: {int(inside.sum())} values of {metric} lie strictly between 0 and capacity; at least "
            f"{FEWEST} are needed, so check the unit or the capacity."
        )
    shape = (len(rows.resources), rows.n_hour_cell)
    y, resource, cell = rows.y[inside], rows.resource[inside], rows.cell[inside]
    half = _rounding(y, resource) / 2
    position = resource * shape[1] + cell

    def by_cell(values: np.ndarray | None) -> np.ndarray:
        return np.bincount(position, values, shape[0] * shape[1]).reshape(shape).astype(float)

    def by_resource(which: np.ndarray) -> np.ndarray:
        return np.bincount(rows.resource[which], minlength=shape[0]).astype(float)

    n, s1, s2 = by_cell(None), by_cell(np.log(y) - half / y**2), by_cell(np.log1p(-y) - half / (1 - y) ** 2)
    lag, factor = None, np.ones(shape[0])
    if weight == "effective":
        u = np.log(y) - np.log1p(-y)
        lag = lag_sums(u, resource, cell, rows.second[inside], shape=shape, step_seconds=telemetry.step_seconds)
        factor = effective_weight(autocorrelation(n, s1 - s2, lag, codes[1]), n.sum(axis=1))
    by = factor[:, None]
    return CellStatistics(
        names[0], names[1], rows.resources, codes[0], codes[1], n * by, s1 * by, s2 * by,
        by_resource(rows.y < EDGE), by_resource(rows.y > 1 - EDGE), factor, lag, by_resource(np.isnan(rows.y)),
        rows.capacities, metric, telemetry.unit(metric), float(telemetry.step_seconds),
    )  # fmt: skip


def _rounding(y: np.ndarray, resource: np.ndarray) -> np.ndarray:
    """Variance to add to each y (n_row,), so that no resource varies less than by rounding to EDGE: mostly zero.

    A resource of one value throughout has a density that grows without bound with the precision, faster than the prior of
    its spread falls: the posterior would be improper. The mean of log y and log(1 - y) over what was rounded to y, here to
    the second order, is a lower bound (Jensen) of the log likelihood of the rounded value and has a maximum. A single value
    does no such harm. Source: Sheppard (1898) for EDGE^2 / 12; Heitjan (1989), Statistical Science 4, rounded data.
    """
    count = np.maximum(np.bincount(resource), 1)
    away = y - (np.bincount(resource, y) / count)[resource]
    lacking = np.maximum(EDGE**2 / 12 - np.bincount(resource, away**2) / count, 0.0)
    return np.asarray(np.where(count > 1, lacking, 0.0)[resource])


def _groups(
    telemetry: Telemetry, resources: tuple[str, ...], columns: tuple[str, ...]
) -> tuple[list[tuple[str, ...]], list[np.ndarray]]:
    """Names and positions of the two levels."""
    table = telemetry.resources
    if len(columns) > 2:
        raise SchemaError(f"group_columns names {len(columns)} columns {list(columns)}; give two, one or none.")
    lacking = [c for c in columns if c not in table.columns]
    if lacking:
        raise SchemaError(
            f"{telemetry.source}: resources have no column {lacking}; there are {list(table.columns)}. Name two, one or "
            "none (group_columns=()) with group_columns=."
        )
    names: list[tuple[str, ...]] = []
    codes: list[np.ndarray] = []
    for column in (None,) * (2 - len(columns)) + columns:
        if column is None:
            names.append((ALL,))
            codes.append(np.zeros(len(resources), int))
            continue
        values = table.loc[list(resources), column]
        if values.isna().any():
            raise SchemaError(
                f"{telemetry.source}: {plural(int(values.isna().sum()), 'resource')} without a {column}, first "
                f"{values.index[values.isna()][0]}; give them one or leave them out."
            )
        unique, code = np.unique(values.astype(str).to_numpy(dtype=object), return_inverse=True)
        names.append(tuple(str(u) for u in unique))
        codes.append(code)
    return names, codes


def merge(ours: CellStatistics, theirs: CellStatistics) -> CellStatistics:
    """Statistics of two batches or fleets: those of a resource in both are added and weighed anew.

    Raises SchemaError if metric, cells, weights, groups or capacities of the two do not agree, or if rows of a resource
    are in both, as far as its first and last times and its number of rows tell: nothing does with weight "none".
    """
    for name in ("n_hour_cell", "metric", "unit", "step_seconds"):
        if getattr(ours, name) != getattr(theirs, name):
            raise SchemaError(f"the statistics differ in {name}: {getattr(ours, name)}, {getattr(theirs, name)}.")
    if (ours.lag is None) != (theirs.lag is None):
        raise SchemaError("one of the statistics is weighted for autocorrelation, the other not; use one weight=.")
    resources = tuple(dict.fromkeys((*ours.resources, *theirs.resources)))
    at = {name: position for position, name in enumerate(resources)}
    both = [(s, np.array([at[name] for name in s.resources])) for s in (ours, theirs)]
    capacity = np.full(len(resources), np.nan)
    industry_of, application_of = np.full(len(resources), -1), np.full(len(resources), -1)
    industries = tuple(sorted({*ours.industries, *theirs.industries}))
    applications = tuple(sorted({*ours.applications, *theirs.applications}))
    for s, place in both:
        industry = np.array([industries.index(g) for g in s.industries])[s.industry_of]
        application = np.array([applications.index(g) for g in s.applications])[s.application_of]
        for what, known, new in (
            ("industries", industry_of, industry),
            ("applications", application_of, application),
            ("capacities", capacity, s.capacities),
        ):
            clash = (known[place] >= 0) & ~np.isclose(known[place], new)
            if clash.any():
                raise SchemaError(f"{resources[place[clash][0]]} has two {what} in the two batches; give it one.")
            known[place] = new

    def total(parts: list[np.ndarray]) -> np.ndarray:
        out = np.zeros((len(resources), *parts[0].shape[1:]))
        for (_, place), part in zip(both, parts, strict=True):
            out[place] += part
        return out

    raw = [total([getattr(s, k) / s.weight[:, None] for s, _ in both]) for k in ("n", "s1", "s2")]
    if ours.lag is not None and theirs.lag is not None:
        places = [place for _, place in both]
        _refuse_repeats(ours, theirs)
        lag = joined([(ours.lag, places[0]), (theirs.lag, places[1])], len(resources), ours.step_seconds)
        weight = effective_weight(autocorrelation(raw[0], raw[1] - raw[2], lag, application_of), raw[0].sum(axis=1))
        parts = [x * weight[:, None] for x in raw]
    else:  # each batch keeps its own weights
        lag, parts = None, [total([getattr(s, k) for s, _ in both]) for k in ("n", "s1", "s2")]
        counts = raw[0].sum(axis=1)
        weight = np.divide(parts[0].sum(axis=1), counts, out=np.ones(len(resources)), where=counts > 0)
    missing = [np.zeros(len(s.resources)) if s.missing is None else s.missing for s, _ in both]
    return replace(
        ours, industries=industries, applications=applications, resources=resources, industry_of=industry_of,
        application_of=application_of, n=parts[0], s1=parts[1], s2=parts[2], weight=weight, lag=lag, capacity=capacity,
        zeros=total([s.zeros for s, _ in both]), saturated=total([s.saturated for s, _ in both]),
        missing=total(missing),
    )  # fmt: skip


def _refuse_repeats(ours: CellStatistics, theirs: CellStatistics) -> None:
    """SchemaError where a resource surely has rows of one time in both: an end in common, or more rows than times."""
    assert ours.lag is not None and theirs.lag is not None
    of = {name: position for position, name in enumerate(ours.resources)}
    there = np.array([k for k, name in enumerate(theirs.resources) if name in of], dtype=int)
    here = np.array([of[theirs.resources[k]] for k in there], dtype=int)
    heads = np.stack([ours.lag.head[here, 0], theirs.lag.head[there, 0]])
    tails = np.stack([ours.lag.tail[here, 0], theirs.lag.tail[there, 0]])
    apart = (heads[1] - heads[0]) / ours.step_seconds
    times = (tails.max(axis=0) - heads.min(axis=0)) / ours.step_seconds + 1
    crowded = (np.abs(apart - np.round(apart)) < 1e-6) & (ours.count[here] + theirs.count[there] > times + 0.5)
    again = (heads[0] == heads[1]) | (tails[0] == tails[1]) | crowded
    if again.any():
        first = int(np.flatnonzero(again)[0])
        since = pd.Timestamp(heads[:, first].max(), unit="s", tz="UTC")
        raise SchemaError(
            f"{ours.resources[here[first]]} has rows of the same times in both batches, from {since:%Y-%m-%d %H:%M} UTC on; "
            "give only rows that were not used before."
        )
