"""Telemetry: the first of the four types. Observations in canonical columns and units, checked at the door."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
import pandera.pandas as pa

from support.errors import SchemaError
from support.writing import plural

__all__ = ["LABEL_COLUMNS", "METRICS", "Repair", "Telemetry"]

# Canonical metric columns: unit, lowest and highest value, how to combine values of a coarser step.
METRICS: dict[str, tuple[str, float, float, str]] = (
    {
        "requests": ("requests per interval", 0, np.inf, "sum"),
        "processed": ("requests per interval", 0, np.inf, "sum"),
        "errors": ("requests per interval", 0, np.inf, "sum"),
        "unique_clients": ("clients per interval", 0, np.inf, "max"),
        "response_bytes": ("bytes per interval", 0, np.inf, "sum"),
        "input_tokens": ("tokens per interval", 0, np.inf, "sum"),
        "output_tokens": ("tokens per interval", 0, np.inf, "sum"),
        "throughput_rps": ("requests/s", 0, np.inf, "mean"),
        "latency_ms": ("milliseconds", 0, np.inf, "mean"),
        "latency_p95_ms": ("milliseconds", 0, np.inf, "max"),
        "availability_percent": ("percent", 0, 100, "mean"),
        "cpu_utilization": ("percent", 0, 110, "mean"),
        "memory_utilization": ("percent", 0, 110, "mean"),
        "disk_utilization": ("percent", 0, 110, "mean"),
        "network_in_mbps": ("Mbit/s", 0, np.inf, "mean"),
        "network_out_mbps": ("Mbit/s", 0, np.inf, "mean"),
        "disk_read_mbps": ("Mbit/s", 0, np.inf, "mean"),
        "disk_write_mbps": ("Mbit/s", 0, np.inf, "mean"),
        "disk_iops": ("operations/s", 0, np.inf, "mean"),
        "cpu_cores_used": ("cores", 0, np.inf, "mean"),
        "memory_assigned_gib": ("GiB", 0, np.inf, "mean"),
        "queue_length": ("requests", 0, np.inf, "last"),
        "cost_usd": ("USD per interval", 0, np.inf, "sum"),
        "value": ("as given by the source", -np.inf, np.inf, "mean"),
    }
    | {  # metrics whose names the publisher removed
        f"metric_{number:02d}": ("scaled by the publisher, about 0..1", -np.inf, np.inf, "mean")
        for number in range(1, 51)
    }
    | {
        "efficiency_score": ("fraction", 0, 1, "mean"),
        "is_idle": ("flag", 0, 1, "max"),
        "is_overprovisioned": ("flag", 0, 1, "max"),
        "waste_percentage": ("percent", 0, 100, "mean"),
        "quality_flag": ("0 good, 1 imputed, 2 anomaly", 0, 2, "max"),
    }
)
_NAMED = ", ".join(m for m in METRICS if not m.startswith("metric_")) + ", metric_01 to metric_50"
LABEL_COLUMNS = ("resource_id", "start", "end", "kind", "metrics")
DERIVED = ("efficiency_score", "is_idle", "is_overprovisioned", "waste_percentage", "quality_flag")

_SCHEMA = pa.DataFrameSchema(
    {
        name: pa.Column(
            float,
            pa.Check.in_range(
                max(low, np.finfo(float).min),
                min(high, np.finfo(float).max),
                name=f"{name} in {low:g}..{high:g} {unit}",
            ),
            nullable=True,
            required=False,
        )
        for name, (unit, low, high, _) in METRICS.items()
    },
    strict=True,
)


@dataclass(frozen=True)
class Repair:
    """One thing the loader did to the data, in words, and how many rows it touched."""

    what: str
    count: int


@dataclass(frozen=True)
class Telemetry:
    """Metrics of resources on a regular grid of time.

    observations: frame indexed by (`resource_id` str, `timestamp` UTC), sorted and unique, float64 columns out of METRICS.
    resources: one row per resource (index `resource_id`), any of workload, region, instance_type and so on.
    source: the text given to `load`; provenance: one sentence on origin and licence; synthetic: True if generated.
    step_seconds: distance of two neighbouring timestamps of a resource.
    repairs: what the loader changed. labels: known anomalies, one row each: LABEL_COLUMNS (resource_id, start and end as
    UTC times of the first and last interval, kind, metrics separated by commas), empty if none are known.
    Raises SchemaError naming the column, the row and the mend.

    Example:
        >>> index = pd.MultiIndex.from_product(
        ...     [["web"], pd.date_range("2026-01-01", periods=3, freq="60s", tz="UTC")], names=["resource_id", "timestamp"])
        >>> t = Telemetry(pd.DataFrame({"requests": [1.0, 2.0, 4.0]}, index=index), step_seconds=60.0)
        >>> float(t.demand().sum())
        7.0
    """

    observations: pd.DataFrame
    step_seconds: float
    source: str = "frame"
    provenance: str = "A frame of the caller's."
    synthetic: bool = False
    resources: pd.DataFrame = field(default_factory=pd.DataFrame)
    repairs: tuple[Repair, ...] = ()
    labels: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=list(LABEL_COLUMNS)))

    def __post_init__(self) -> None:
        frame = self.observations
        if frame.empty:
            raise SchemaError(f"{self.source}: no observations. Give at least one row.")
        if not self.step_seconds > 0:
            raise SchemaError(f"{self.source}: step_seconds is {self.step_seconds}, it must be positive.")
        if list(frame.index.names) != ["resource_id", "timestamp"]:
            raise SchemaError(
                f"{self.source}: the index is {list(frame.index.names)}, it must be [resource_id, timestamp]."
            )
        self._check_index(frame.index)
        if len(self.resources) and not set(frame.index.unique(level=0)) <= set(self.resources.index):
            raise SchemaError(
                f"{self.source}: the table of resources lacks some that have observations. Add a row for each."
            )
        if list(self.labels.columns) != list(LABEL_COLUMNS):
            raise SchemaError(
                f"{self.source}: labels have columns {list(self.labels.columns)}, not {list(LABEL_COLUMNS)}."
            )
        unknown = [str(c) for c in frame.columns if c not in METRICS]
        if unknown:
            raise SchemaError(f"{self.source}: unknown columns {unknown}. Known columns: {_NAMED}.")
        try:
            _SCHEMA.validate(frame, inplace=True)
        except pa.errors.SchemaError as error:
            raise SchemaError(f"{self.source}: {_in_words(error)}") from None
        frame.__dict__.pop(
            "pandera", None
        )  # pandera's accessor refers back to the frame, which would then outlive its use
        same = np.diff(frame.index.codes[0]) == 0
        steps = np.diff(frame.index.levels[1].asi8[frame.index.codes[1]])[same] / 1e9
        if steps.size and np.abs(steps - self.step_seconds).max() > 1e-6:
            at = frame.index[1:][same][int(np.abs(steps - self.step_seconds).argmax())]
            raise SchemaError(
                f"{self.source}: {at[0]} has a gap or an uneven step before {at[1]}; fill the grid of {self.step_seconds:g} s first."
            )

    def _check_index(self, index: pd.MultiIndex) -> None:
        ids, stamps = index.levels
        if getattr(stamps, "tz", None) is None:
            raise SchemaError(f"{self.source}: timestamps have no timezone. Use tz_localize('UTC').")
        if str(stamps.dtype) != "datetime64[ns, UTC]" or pd.api.types.infer_dtype(ids) != "string":
            raise SchemaError(
                f"{self.source}: the index holds {ids.dtype} and {stamps.dtype}, it must hold str and datetime64[ns, UTC]."
            )
        if ids.is_monotonic_increasing and stamps.is_monotonic_increasing:  # the codes tell, twenty times as fast
            key = index.codes[0].astype(np.int64) * len(stamps) + index.codes[1]
            if min(index.codes[0].min(), index.codes[1].min()) >= 0 and (np.diff(key) > 0).all():
                return
        if index.has_duplicates:
            where = index[index.duplicated()][0]
            raise SchemaError(
                f"{self.source}: {where[0]} has two rows at {where[1]}. Sum, average or drop one of them."
            )
        if not index.is_monotonic_increasing:
            raise SchemaError(f"{self.source}: rows are not sorted by resource and time. Use sort_index().")

    @property
    def metrics(self) -> list[str]:
        """Metric columns there are, in canonical order, without the derived ones."""
        return [m for m in METRICS if m in self.observations.columns and m not in DERIVED]

    @property
    def resource_ids(self) -> list[str]:
        """Identifiers of the resources, sorted."""
        return sorted(self.observations.index.unique(level="resource_id"))

    def unit(self, metric: str) -> str:
        """The unit of a canonical metric."""
        return METRICS[metric][0]

    def series(self, metric: str, resource_id: str | None = None) -> pd.Series:
        """One metric of one resource, shape (n_time,), indexed by UTC time with a frequency.

        `resource_id` may be left out if there is only one. Raises SchemaError for an unknown metric or resource.
        """
        ids = self.resource_ids
        if metric not in self.observations.columns:
            raise SchemaError(f"{self.source}: no metric {metric!r}; there are {self.metrics}.")
        if resource_id is None and len(ids) > 1:
            raise SchemaError(f"{self.source}: {len(ids)} resources; name one of {ids[:5]} with resource_id=.")
        if resource_id is not None and resource_id not in ids:
            raise SchemaError(f"{self.source}: no resource {resource_id!r}; there are {ids[:5]}.")
        series = self.observations.xs(resource_id or ids[0], level="resource_id")[metric]
        return series.asfreq(pd.Timedelta(seconds=self.step_seconds))

    def demand(self, resource_id: str | None = None) -> pd.Series:
        """What the servers have to serve, per interval: `requests` (summed over resources), else the first metric.

        Shape (n_time,), UTC index with a frequency, name = metric, no NaN (SchemaError otherwise).
        """
        metric = "requests" if "requests" in self.observations.columns else self.metrics[0]
        if resource_id is not None:
            series = self.series(metric, resource_id)
        else:
            column = self.observations[metric]
            serving = (
                column.notna().groupby(level="resource_id").transform("any")
            )  # some resources may not have the metric
            gone = column.index[column.isna() & serving]
            if len(gone):
                raise SchemaError(f"{self.source}: {metric} is missing at {gone[0][1]}; fill it first.")
            wide = column[serving].unstack("resource_id")
            combined = wide.sum(axis=1) if METRICS[metric][3] == "sum" else wide.mean(axis=1)
            series = combined.asfreq(pd.Timedelta(seconds=self.step_seconds)).rename(metric)
            if not combined.index.isin(series.index).all():
                raise SchemaError(
                    f"{self.source}: resources are measured at different times within a step of {self.step_seconds:g} s. "
                    "Move them to one grid first."
                )
        if series.isna().any():
            raise SchemaError(f"{self.source}: {metric} is missing at {series.index[series.isna()][0]}; fill it first.")
        return series

    def quality_report(self) -> pd.DataFrame:
        """What was read, what was repaired, what is left: columns `what`, `rows`."""
        frame = self.observations
        rows = [(r.what, r.count) for r in self.repairs]
        missing = int(frame[self.metrics].isna().sum().sum())
        rows += [("observations after loading", len(frame)), ("values still missing", missing)]
        return pd.DataFrame(rows, columns=["what", "rows"])

    def resample(self, step_seconds: float) -> Telemetry:
        """The same at a coarser step: counts and cost summed, utilisation averaged, queue as at the end.

        `step_seconds` must be a multiple of the present step (SchemaError otherwise); incomplete first and last
        intervals are left out and counted as a repair.
        """
        if not 0 < step_seconds < math.inf:
            raise SchemaError(f"{self.source}: step_seconds is {step_seconds}; give a positive number of seconds.")
        ratio = step_seconds / self.step_seconds
        if abs(ratio - round(ratio)) > 1e-9 or ratio < 1:
            raise SchemaError(
                f"{self.source}: {step_seconds:g} s is no multiple of the step of {self.step_seconds:g} s. "
                f"Ask for {self.step_seconds * max(1, math.ceil(ratio)):g} s, or give data in steps of {step_seconds:g} s or a whole part of it."
            )
        if round(ratio) == 1:
            return self
        rule = pd.Timedelta(seconds=step_seconds)
        how = {c: METRICS[c][3] for c in self.observations.columns}
        grouped = self.observations.groupby(["resource_id", pd.Grouper(level="timestamp", freq=rule)])
        combined = grouped.agg(how)
        size = grouped.size()
        for column in [
            c for c, rule in how.items() if rule == "sum"
        ]:  # a sum with a missing part is missing, not smaller
            combined[column] = combined[column].where(grouped[column].count() == size)
        whole = size == round(ratio)
        if not whole.any():
            raise SchemaError(f"{self.source}: shorter than one interval of {step_seconds:g} s.")
        note = Repair(f"incomplete intervals of {step_seconds:g} s at the ends left out", int((~whole).sum()))
        return replace(self, observations=combined[whole], step_seconds=step_seconds, repairs=(*self.repairs, note))


def _in_words(error: pa.errors.SchemaError) -> str:
    """A pandera failure as one sentence with the first offending row."""
    check = getattr(error.check, "name", None) or str(error.check)
    cases = error.failure_cases
    if isinstance(cases, pd.DataFrame) and len(cases) and "failure_case" in cases:
        first = cases.iloc[0]
        return f"{error.schema.name or 'a column'} fails '{check}' in {plural(len(cases), 'row')}, first value {first['failure_case']} at {first['index']}. Mend the unit or the value."
    return f"{str(error).splitlines()[0]}. Known columns: {_NAMED}."
