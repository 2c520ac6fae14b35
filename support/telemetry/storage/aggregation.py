"""Statistics per hour or day of many resources at once, with Polars: the heavy part of the lake's gold layer."""

from __future__ import annotations

import polars as pl

from support.errors import SchemaError
from support.telemetry.schema import METRICS

__all__ = ["AGGREGATION_STEPS_SECONDS", "aggregate"]

AGGREGATION_STEPS_SECONDS = {"hour": 3600.0, "day": 86_400.0}
STATISTICS = {  # rule of METRICS -> statistics that mean something for it: a mean of maxima or of percentiles does not
    "sum": ("mean", "p95", "max", "sum"),
    "mean": ("mean", "p95", "max"),
    "max": ("max",),
    "last": ("mean", "p95", "max", "last"),
}


def aggregate(observations: pl.LazyFrame, step: str, step_seconds: float) -> pl.DataFrame:
    """Statistics per resource, metric and UTC `step` ("hour" or "day"), with Polars, sorted by these.

    observations: columns resource_id, timestamp (UTC, in order, `step_seconds` apart), metrics. Result: resource_id,
    timestamp (start), metric, n (values there are), imputed (rows flagged so), and mean, p95 (linear interpolation), max,
    sum and last as far as the metric's rule in METRICS gives them a meaning. A sum with a missing part is missing, not
    smaller. Raises SchemaError for another step, or one that is no multiple of `step_seconds`.

    Example:
        >>> import pandas as pd
        >>> times = pd.date_range("2026-01-01", periods=4, freq="30min", tz="UTC")
        >>> table = pl.DataFrame({"resource_id": ["web"] * 4, "timestamp": times, "requests": [1.0, 2.0, 3.0, None]})
        >>> aggregate(table.lazy(), "hour", 1800.0)["sum"].to_list()
        [3.0, None]
    """
    if step not in AGGREGATION_STEPS_SECONDS or AGGREGATION_STEPS_SECONDS[step] % step_seconds:
        raise SchemaError(f"step={step!r} does not fit data of {step_seconds:g} s. Use hour or day, a multiple of it.")
    columns = observations.collect_schema().names()
    metrics = [m for m in METRICS if m in columns and m != "quality_flag"]
    expected, flag = round(AGGREGATION_STEPS_SECONDS[step] / step_seconds), "quality_flag"
    statistics = [(pl.col(flag) == 1 if flag in columns else pl.lit(False)).sum().cast(pl.Int64).alias("imputed")]
    for metric in metrics:
        value = pl.col(metric)
        how = {
            "mean": value.mean(),
            "p95": value.quantile(0.95, interpolation="linear"),
            "max": value.max(),
            "sum": pl.when(value.count() == expected).then(value.sum()),
            "last": value.drop_nulls().last(),
        }
        fitting = STATISTICS[METRICS[metric][3]]
        fields = [(e if s in fitting else pl.lit(None, pl.Float64)).alias(s) for s, e in how.items()]
        statistics.append(pl.struct(value.count().cast(pl.Int64).alias("n"), *fields).alias(metric))
    keys = ["resource_id", "timestamp"]
    start = pl.col("timestamp").dt.truncate({"hour": "1h", "day": "1d"}[step])
    wide = observations.with_columns(start).group_by(keys).agg(statistics)
    long = wide.unpivot(metrics, index=[*keys, "imputed"], variable_name="metric", value_name="statistics")
    return long.unnest("statistics").collect().sort("resource_id", "metric", "timestamp")
