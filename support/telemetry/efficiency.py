"""How well a machine is used: efficiency, idle and over-provisioned flags, waste; for generated and measured data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from support.errors import SchemaError
from support.telemetry.schema import Telemetry

__all__ = ["EFFICIENCY_COLUMNS", "efficiency", "with_efficiency"]

EFFICIENCY_COLUMNS = ("efficiency_score", "is_idle", "is_overprovisioned", "waste_percentage")
TARGET_CPU_PERCENT, TARGET_MEMORY_PERCENT = 70.0, 80.0
IDLE_CPU_PERCENT, IDLE_MEMORY_PERCENT = 5.0, 10.0
OVERPROVISIONED_CPU_PERCENT, OVERPROVISIONED_MEMORY_PERCENT, TRAILING_STEPS = 20.0, 30.0, 20
HEADROOM, CPU_FLOOR_PERCENT, MEMORY_FLOOR_PERCENT = 1.2, 30.0, 40.0


def efficiency(cpu: np.ndarray, memory: np.ndarray, first: np.ndarray, out: np.ndarray) -> None:
    """EFFICIENCY_COLUMNS of `cpu` and `memory` (percent, shape (n,)) into `out`, shape (4, n).

    first: True at the first row of each resource. Efficiency: mean of use over target (70 % CPU, 80 % memory), each at
    most 1. Idle: CPU below 5 and memory below 10. Over-provisioned: trailing mean of 20 intervals (those there are) below
    20 and 30. Waste: what use with 20 % headroom, and at least 30 % CPU and 40 % memory, leaves of 100, mean of both.
    Missing where a metric is. Source: flags and thresholds of hello-cloud (its efficiency from 0 to 1 as promised).

    Example:
        >>> out = np.empty((4, 2))
        >>> efficiency(np.array([70.0, 1.0]), np.array([40.0, 2.0]), np.array([True, False]), out)
        >>> out.round(2).tolist()
        [[0.75, 0.02], [0.0, 1.0], [0.0, 0.0], [34.0, 65.0]]
    """
    missing = np.isnan(cpu) | np.isnan(memory)
    out[0] = 0.5 * np.minimum(cpu / TARGET_CPU_PERCENT, 1) + 0.5 * np.minimum(memory / TARGET_MEMORY_PERCENT, 1)
    out[1] = (cpu < IDLE_CPU_PERCENT) & (memory < IDLE_MEMORY_PERCENT)
    out[2] = (_trailing_mean(cpu, first) < OVERPROVISIONED_CPU_PERCENT) & (
        _trailing_mean(memory, first) < OVERPROVISIONED_MEMORY_PERCENT
    )
    used = np.maximum(HEADROOM * cpu, CPU_FLOOR_PERCENT)
    used += np.maximum(HEADROOM * memory, MEMORY_FLOOR_PERCENT)
    np.maximum(100 - used / 2, 0, out=out[3])
    if missing.any():
        out[:, missing] = np.nan


def _trailing_mean(values: np.ndarray, first: np.ndarray) -> np.ndarray:
    """Mean of the last 20 values that are there within a resource, NaN if none is."""
    there = ~np.isnan(values)
    total = np.concatenate([[0.0], np.cumsum(np.where(there, values, 0.0))])
    row = np.arange(len(values))
    start = np.maximum(np.maximum.accumulate(np.where(first, row, 0)), row + 1 - TRAILING_STEPS)
    total = total[1:] - total[start]
    if there.all():
        return total / (row + 1 - start)
    count = np.concatenate([[0], np.cumsum(there)])
    n_there = count[1:] - count[start]
    return np.divide(total, n_there, out=np.full(len(values), np.nan), where=n_there > 0)


def with_efficiency(telemetry: Telemetry) -> Telemetry:
    """`telemetry` with the columns efficiency_score, is_idle, is_overprovisioned and waste_percentage (see `efficiency`).

    Raises SchemaError if CPU or memory utilisation is not there.
    """
    frame = telemetry.observations
    lacking = [m for m in ("cpu_utilization", "memory_utilization") if m not in frame]
    if lacking:
        raise SchemaError(
            f"{telemetry.source}: no {lacking[0]}, which efficiency is made of; there are {telemetry.metrics}."
        )
    codes = frame.index.codes[0]
    out = np.empty((4, len(frame)))
    first = np.diff(codes, prepend=-1) != 0
    efficiency(frame["cpu_utilization"].to_numpy(), frame["memory_utilization"].to_numpy(), first, out)
    return replace(telemetry, observations=frame.assign(**dict(zip(EFFICIENCY_COLUMNS, out, strict=True))))
