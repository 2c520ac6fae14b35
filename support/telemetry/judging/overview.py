"""One figure of seven panels that shows what a set of telemetry is like."""

from __future__ import annotations

from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine

from support.plotting import use_style
from support.telemetry.judging import panels
from support.telemetry.schema import Telemetry
from support.writing import plural

__all__ = ["overview"]

LEADS = ("cpu_utilization", "requests", "cpu_cores_used", "throughput_rps")  # the first that is there leads the figure
GROUPS = ("server_type", "workload", "application", "resource_type", "industry", "provider", "region")
MOST_GROUPS = 8
SIZE_INCH = (11.0, 13.0)
TEXT: dict[Any, Any] = {
    "font.size": 9.5, "axes.titlesize": 10.5, "axes.titlelocation": "left", "axes.titleweight": "bold",
}  # fmt: skip


def overview(telemetry: Telemetry, *, target_correlation: pd.DataFrame | None = None, country: str = "US") -> Figure:
    """Seven panels: over time, distribution, week, kinds of day, correlation, cost or waste, anomalies; for any Telemetry.

    The leading metric is CPU, else requests, else the first. What a panel needs and the data lack is replaced and said so.
    target_correlation: wanted correlations, index and columns metric names. country: of the holidays (ISO code).

    Example:
        >>> from support.telemetry import load
        >>> len(overview(load("synthetic:web", seed=1, days=14, step_seconds=3600.0)).axes)
        7
    """
    usable = [m for m in telemetry.metrics if telemetry.observations[m].notna().any()] or telemetry.metrics
    values = telemetry.observations[next((m for m in LEADS if m in usable), usable[0])]
    groups = _groups(telemetry)
    with plt.rc_context():
        use_style()
        plt.rcParams.update(TEXT)
        figure = Figure(SIZE_INCH, layout=ConstrainedLayoutEngine(hspace=0.05, wspace=0.05))
        axes = figure.subplot_mosaic("AA;BC;DE;FG", height_ratios=[0.9, 1, 1.1, 1])
        panels.over_time(axes["A"], telemetry, values)
        panels.distribution(axes["B"], values, groups)
        panels.week(axes["C"], telemetry, values)
        panels.calendar(axes["D"], values, country)
        panels.correlation(axes["E"], telemetry, values, target_correlation)
        panels.waste(axes["F"], telemetry, values, groups)
        panels.anomalies(axes["G"], telemetry, values)
        said = " (synthetic)" if telemetry.synthetic else ""
        times = values.index.get_level_values("timestamp")
        figure.suptitle(
            f"{telemetry.source}{said}: {len(values):,} rows, {plural(len(telemetry.resource_ids), 'resource')}, "
            f"every {panels.duration(telemetry.step_seconds)}, {times.min():%Y-%m-%d} to {times.max():%Y-%m-%d}",
            x=0.01, ha="left", fontsize=11.5,
        )  # fmt: skip
    return figure


def _groups(telemetry: Telemetry) -> pd.Series:
    """Group of each row and how many resources it has, by the first column of GROUPS there is."""
    table, index = telemetry.resources.reindex(telemetry.observations.index.levels[0]), telemetry.observations.index
    name = next((c for c in GROUPS if c in table and 2 <= table[c].nunique() <= 2 * MOST_GROUPS), None)
    column = pd.Series("all", table.index) if name is None else table[name].astype(object).fillna("none").astype(str)
    common = column.value_counts().index[: MOST_GROUPS - 1]
    column = column if column.nunique() <= MOST_GROUPS else column.where(column.isin(common), "others")
    said = pd.Categorical(column + " (" + column.groupby(column).transform("size").astype(str) + ")")
    return pd.Series(pd.Categorical.from_codes(said.codes[index.codes[0]], said.categories), index, name=name)
