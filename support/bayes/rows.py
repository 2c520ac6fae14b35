"""Telemetry as rows of shares of capacity with their hour cells: where percent, saturation and gaps are decided."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from support.bayes.autocorrelation import HOURS_PER_DAY, HOURS_PER_WEEK
from support.errors import SchemaError
from support.telemetry.schema import METRICS, Telemetry

__all__ = ["EDGE", "Rows", "unit_rows"]

EDGE = 1e-4  # fraction of capacity (0.01 percent): nearer to 0 or 1 a value is counted as exactly 0 or saturated


@dataclass(frozen=True)
class Rows:
    """Telemetry as y = value / capacity in rows sorted by resource and time: all (n_row,), capacities (n_resource,)."""

    y: np.ndarray
    resource: np.ndarray
    cell: np.ndarray
    second: np.ndarray
    resources: tuple[str, ...]
    capacities: np.ndarray
    n_hour_cell: int

    @property
    def inside(self) -> np.ndarray:
        """Rows strictly between zero and capacity, that a Beta carries: (n_row,) booleans."""
        return (self.y >= EDGE) & (self.y <= 1 - EDGE)


def unit_rows(
    telemetry: Telemetry,
    *,
    metric: str = "cpu_utilization",
    week: bool = True,
    capacity: float | pd.Series | None = None,
) -> Rows:
    """One metric as a fraction of capacity with its hour cell (UTC); missing values stay NaN.

    `capacity` is the value that counts as 1, in the metric's unit, one for all or a series by resource_id; left out, it
    is 100 for percent and 1 for fractions. Raises SchemaError if the metric is unknown or its capacity is.
    """
    if metric not in telemetry.observations.columns:
        raise SchemaError(f"{telemetry.source}: no metric {metric!r}; there are {telemetry.metrics}.")
    index = telemetry.observations.index
    code, order = np.unique(index.codes[0], return_inverse=True)
    resources = tuple(str(name) for name in index.levels[0][code])
    if capacity is None:
        unit, high = METRICS[metric][:3:2]
        highest = {"percent": 100.0, "fraction": 1.0, "scaled by the publisher, about 0..1": 1.0}.get(unit)
        if highest is None:
            raise SchemaError(
                f"{telemetry.source}: {metric} is in {unit} (at most {high:g}), not a share; say with capacity= which value is full."
            )
        capacity = highest
    capacities = (
        capacity.reindex(resources).to_numpy(float)
        if isinstance(capacity, pd.Series)
        else np.full(len(resources), float(capacity))
    )
    wrong = ~(np.isfinite(capacities) & (capacities > 0))
    if wrong.any():
        name = resources[int(np.flatnonzero(wrong)[0])]
        raise SchemaError(f"{telemetry.source}: the capacity of {name} must be a positive number of {metric}.")
    second = index.levels[1].asi8[index.codes[1]] / 1e9
    hour = (second // 3600).astype(np.int64)
    cell = (hour + 3 * HOURS_PER_DAY) % HOURS_PER_WEEK if week else hour % HOURS_PER_DAY  # 1970-01-01 was a Thursday
    y = telemetry.observations[metric].to_numpy(float) / capacities[order]
    return Rows(y, order, cell, second, resources, capacities, HOURS_PER_WEEK if week else HOURS_PER_DAY)
