"""Labelled series to judge detectors on: NAB's files, servers with many metrics, microservices with injected faults."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from support.anomalies.nab_score import probation_rows
from support.errors import SchemaError
from support.telemetry import Telemetry, fetch, list_traces, load
from support.telemetry.reading.files import read_table

__all__ = ["LabelledSeries", "nab_corpus", "nab_series", "petshop_issues", "series_of", "server_corpus"]

NAB, LABELLED_SERVERS, ISSUES, QUIET = "nab:", ("asd", "smd"), "petshop:issue_", "petshop:noissue"
FLAGS = ("quality_flag", "is_idle", "is_overprovisioned")


@dataclass(frozen=True)
class LabelledSeries:
    """One or more metrics of one thing over time, and where something was wrong.

    values: (n_rows, n_metrics), no NaN. timestamps: UTC, (n_rows,). windows: first and last row of each anomaly. guilty:
    per window the metrics that showed it, empty if unknown. first_row: rows before it are for learning and are not judged.
    """

    name: str
    values: np.ndarray
    metrics: tuple[str, ...]
    timestamps: pd.DatetimeIndex
    step_seconds: float
    windows: tuple[tuple[int, int], ...] = ()
    guilty: tuple[tuple[str, ...], ...] = ()
    first_row: int = 0

    @property
    def labels(self) -> np.ndarray:
        """1 in the rows of a window, 0 elsewhere, (n_rows,)."""
        marked = np.zeros(len(self.values), dtype=int)
        for first, last in self.windows:
            marked[first : last + 1] = 1
        return marked


def series_of(telemetry: Telemetry, resource_id: str | None = None, *, metrics: Sequence[str] = ()) -> LabelledSeries:
    """The metrics of one resource with its labels; nothing is judged before the first row after the training part.

    metrics: all there are if empty; a label that names only other metrics is left out. A missing value becomes the last known one, before the first the metric's median;
    metrics without any value are left out. The training part is that of `resources.test_start`, or the first rows as in
    NAB's probation. Raises SchemaError for an unknown resource or metric, and if no value is left.
    """
    names = telemetry.resource_ids
    resource = resource_id or names[0]
    if resource not in names:
        raise SchemaError(f"{telemetry.source}: no resource {resource!r}; there are {names[:5]}.")
    wanted = list(metrics) or [m for m in telemetry.metrics if m not in FLAGS]
    lacking = sorted(set(wanted) - set(telemetry.metrics))
    if lacking:
        raise SchemaError(f"{telemetry.source}: no metric {', '.join(lacking)}; there are {telemetry.metrics}.")
    frame = _filled(telemetry.observations.xs(resource, level="resource_id")[wanted], telemetry.source)
    stamps = pd.DatetimeIndex(frame.index)
    labels = telemetry.labels[telemetry.labels["resource_id"] == resource].sort_values("start")
    told = [tuple(m for m in str(names).split(",") if m) for names in labels["metrics"]]
    seen = [not guilty or bool(set(guilty) & set(frame.columns)) for guilty in told]
    begins = telemetry.resources.get("test_start")
    return LabelledSeries(
        name=resource if len(names) > 1 else telemetry.source,
        values=frame.to_numpy(float),
        metrics=tuple(frame.columns),
        timestamps=stamps,
        step_seconds=telemetry.step_seconds,
        windows=tuple(_rows(stamps, labels[seen], telemetry.step_seconds)),
        guilty=tuple(guilty for guilty, shows in zip(told, seen, strict=True) if shows),
        first_row=probation_rows(len(stamps)) if begins is None else int(stamps.searchsorted(begins[resource])),
    )


def _filled(frame: pd.DataFrame, source: str) -> pd.DataFrame:
    known = frame.dropna(axis=1, how="all")
    if known.empty:
        raise SchemaError(f"{source}: {', '.join(map(str, frame.columns))} hold no value at all. Name another metric.")
    return known.ffill().fillna(known.median())


def _rows(stamps: pd.DatetimeIndex, labels: pd.DataFrame, step_seconds: float) -> list[tuple[int, int]]:
    """First and last row of each label; a stamp half a step off the label's grid still belongs to it."""
    slack, windows = pd.Timedelta(seconds=step_seconds / 2), []
    for label in labels.itertuples():
        rows = np.flatnonzero((stamps > label.start - slack) & (stamps < label.end + slack))
        if not len(rows):
            raise SchemaError(f"no row between {label.start} and {label.end}, which a label names.")
        windows.append((int(rows[0]), int(rows[-1])))
    return windows


def nab_series(source: str) -> LabelledSeries:
    """One file of NAB with its windows in rows of the file, as its score counts them: no gap filled, no stamp merged.

    source: `nab:<folder>/<series>`. The windows are the labels of `load`. Raises as `load`.
    """
    telemetry = load(source)
    table = read_table(str(fetch(f"nab/{source.removeprefix(NAB)}.csv")))
    stamps = pd.DatetimeIndex(pd.to_datetime(table["timestamp"], utc=True))
    windows = _rows(stamps, telemetry.labels, telemetry.step_seconds)
    return LabelledSeries(
        name=f"{source.removeprefix(NAB)}.csv",
        values=table[["value"]].to_numpy(float),
        metrics=tuple(telemetry.metrics[:1]),
        timestamps=stamps,
        step_seconds=telemetry.step_seconds,
        windows=tuple(windows),
        guilty=(tuple(telemetry.metrics[:1]),) * len(windows),
        first_row=probation_rows(len(table)),
    )


def nab_corpus() -> list[LabelledSeries]:
    """Every registered file of NAB, in the order of their names. Raises as `load`."""
    return [nab_series(source) for source in sorted(s for s in list_traces()["source"] if s.startswith(NAB))]


def server_corpus(dataset: str) -> list[LabelledSeries]:
    """The servers of `asd` or `smd`, judged on their test part. Raises SchemaError for another name, else as `load`."""
    if dataset not in LABELLED_SERVERS:
        raise SchemaError(f"{dataset}: no labelled servers. Use one of {', '.join(LABELLED_SERVERS)}.")
    telemetry = load(dataset)
    return [series_of(telemetry, server) for server in telemetry.resource_ids]


def petshop_issues() -> list[LabelledSeries]:
    """Each injected fault of PetShop after the 49 quiet hours; metrics are `service:metric`, and the guilty one is a service.

    The quiet rows were measured months later than the issues; they are put before them, the times of an issue moved. All
    its rows are one window. A metric is kept if both parts have it. Raises as `load`.
    """
    sources = sorted({s for s in list_traces()["source"] if s.startswith(ISSUES)})
    quiet, issues = _wide(load(QUIET)), []
    for source in sources:
        telemetry = load(source)
        after = _wide(telemetry)
        kept = sorted(set(quiet.columns) & set(after.columns))
        step = pd.Timedelta(seconds=telemetry.step_seconds)
        after.index = quiet.index[-1] + step * np.arange(1, len(after) + 1)
        frame = pd.concat([quiet[kept], after[kept].dropna(axis=1, how="all")], join="inner")
        cause = telemetry.labels.loc[telemetry.labels["kind"] == "root cause", "resource_id"].iloc[0]
        issues.append(
            LabelledSeries(
                name=source,
                values=_filled(frame, source).to_numpy(float),
                metrics=tuple(frame.columns),
                timestamps=pd.DatetimeIndex(frame.index),
                step_seconds=telemetry.step_seconds,
                windows=((len(quiet), len(frame) - 1),),
                guilty=((str(cause),),),
                first_row=len(quiet),
            )
        )
    return issues


def _wide(telemetry: Telemetry) -> pd.DataFrame:
    """One column per service and metric that has values: `service:metric`."""
    wide = telemetry.observations[telemetry.metrics].unstack("resource_id")
    wide.columns = [f"{service}:{metric}" for metric, service in wide.columns]
    return wide.dropna(axis=1, how="all").sort_index()
