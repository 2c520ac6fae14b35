"""The panels of the overview: each draws one thing about Telemetry into the axes it is given."""

from __future__ import annotations

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.dates import AutoDateLocator, ConciseDateFormatter

from support.plotting import COLORS
from support.telemetry.calendars import calendar_features
from support.telemetry.schema import METRICS, Telemetry
from support.writing import amount, plural

__all__ = [
    "anomalies",
    "calendar",
    "correlation",
    "distribution",
    "duration",
    "over_time",
    "waste",
    "week",
]

SHORT = {"cpu": "CPU", "iops": "IOPS", "usd": "USD", "mbps": "", "utilization": "", "gib": "", "ms": "", "rps": ""}
MOST_POINTS, MOST_METRICS, MOST_SPANS = 400, 7, 6
SPAN_COLORS = ("orange", "purple", "green", "gold", "sky", "grey", "blue")
DAY_SECONDS = 86_400
RULES_SECONDS = (3600, 21_600, DAY_SECONDS, 7 * DAY_SECONDS)  # of the means over time, if there are too many points
SEQUENTIAL = LinearSegmentedColormap.from_list("load", ["#F4F8FB", COLORS["sky"], COLORS["blue"], "#002B49"])
DIVERGING = LinearSegmentedColormap.from_list("sign", [COLORS["orange"], "#FFFFFF", COLORS["blue"]])


def _name(metric: str, *, unit: bool = False) -> str:
    words = " ".join(word for word in (SHORT.get(word, word) for word in metric.split("_")) if word)
    said = METRICS[metric][0]
    return words if not unit else said if said.startswith(words) else f"{words} ({said})"


def duration(seconds: float) -> str:
    """Seconds in words: `5 min`, `day`."""
    units = ((7 * DAY_SECONDS, "week"), (DAY_SECONDS, "day"), (3600, "h"), (60, "min"), (1, "s"))
    size, unit = next((size, unit) for size, unit in units if seconds >= size and seconds % size == 0 or size == 1)
    return unit if seconds == size and size >= DAY_SECONDS else f"{seconds / size:g} {unit}"


def over_time(axes: Axes, telemetry: Telemetry, values: pd.Series) -> None:
    """The mean of all resources, the middle 80 % of them, and the busiest, middle and idlest one."""
    times = values.index.get_level_values("timestamp")
    span_seconds, step = (times.max() - times.min()).total_seconds(), telemetry.step_seconds
    enough = [s for s in (step, *RULES_SECONDS) if s >= step and span_seconds / s <= MOST_POINTS]
    seconds = enough[0] if enough else max(step, RULES_SECONDS[-1])
    floored = times.floor(pd.Timedelta(seconds=seconds)) if seconds > step else times
    wide = values.groupby([floored, values.index.get_level_values("resource_id")]).mean().unstack()
    wide = wide.dropna(axis=1, how="all")
    wide = wide.iloc[1:-1] if seconds > step and len(wide) > 3 else wide  # the first and last interval may be cut
    picks = wide.mean().sort_values().index[[-1, wide.shape[1] // 2, 0]].unique() if wide.shape[1] > 1 else []
    if wide.shape[1] > 3:
        low, high = wide.quantile(0.1, axis=1), wide.quantile(0.9, axis=1)
        axes.fill_between(wide.index, low, high, color=COLORS["blue"], alpha=0.15, linewidth=0, label="80 % of all")
    for place, color in zip(picks, ("orange", "green", "purple"), strict=False):
        axes.plot(wide.index, wide[place], color=COLORS[color], linewidth=0.9, label=str(place))
    axes.plot(wide.index, wide.mean(axis=1), color=COLORS["blue"], linewidth=2.2, label="mean of all")
    if len(picks):
        axes.legend(loc="upper left", ncols=5, fontsize=8.5, borderaxespad=0.2)
    _headroom(axes, wide.to_numpy())
    said = f", mean per {duration(seconds)}" if seconds > step else ""
    axes.set_title(f"1  {_name(values.name)[0].upper()}{_name(values.name)[1:]} over time{said}")
    axes.set_ylabel(_name(values.name, unit=True))
    axes.margins(x=0.005)


def distribution(axes: Axes, values: pd.Series, groups: pd.Series) -> None:
    """Quantiles of each group of resources, or a histogram if there are no groups."""
    quantiles = values.groupby(groups, observed=True).quantile([0.05, 0.25, 0.5, 0.75, 0.95]).unstack()
    quantiles = quantiles.dropna().sort_values(0.5)
    if groups.name is None:
        axes.hist(values.dropna(), bins=60, color=COLORS["blue"], weights=np.full(values.count(), 100 / values.count()))
        for share, text, height in ((0.5, "median", 0.99), (0.95, "P95", 0.89)):
            at = values.quantile(share)
            axes.axvline(at, color=COLORS["orange"], linewidth=1.4)
            said, place = f" {text} {amount(at)}", axes.get_xaxis_transform()
            axes.text(at, height, said, transform=place, va="top", color=COLORS["orange"])
        axes.set_ylabel("% of values")
        axes.set_title("2  Distribution")
    else:
        rows = np.arange(len(quantiles))
        axes.hlines(rows, quantiles[0.05], quantiles[0.95], color=COLORS["sky"], linewidth=2)
        axes.hlines(rows, quantiles[0.25], quantiles[0.75], color=COLORS["blue"], linewidth=8)
        axes.plot(quantiles[0.5], rows, "o", color="white", markersize=4)
        axes.set_yticks(rows, list(quantiles.index))
        axes.set_ylim(-0.6, len(rows) - 0.4)
        axes.grid(axis="y", visible=False)
        axes.set_title(f"2  By {groups.name.replace('_', ' ')}: median, middle 50 % and 90 %")
    axes.set_xlabel(_name(values.name, unit=True))


def week(axes: Axes, telemetry: Telemetry, values: pd.Series) -> None:
    """Mean by weekday and hour (UTC), or by weekday and month if the step is a day."""
    times = values.index.get_level_values("timestamp")
    daily = telemetry.step_seconds >= DAY_SECONDS
    keys = times.month if daily else times.hour
    table = values.groupby([times.dayofweek, keys]).mean().unstack().reindex(index=range(7))
    image = axes.imshow(table, aspect="auto", cmap=SEQUENTIAL)
    axes.set_yticks(range(7), ["Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun"])
    every = 1 if daily else 3
    axes.set_xticks(range(0, table.shape[1], every), [str(c) for c in table.columns[::every]])
    axes.set_xlabel("month" if daily else "hour of the day (UTC)")
    axes.set_title(f"3  The week: {_name(values.name)} by weekday and {'month' if daily else 'hour'}")
    axes.grid(visible=False)
    bar = axes.inset_axes((1.015, 0, 0.025, 1))
    axes.figure.colorbar(image, cax=bar)
    bar.grid(visible=False)
    bar.tick_params(labelsize=8, length=0)
    bar.spines[:].set_visible(False)


def calendar(axes: Axes, values: pd.Series, country: str) -> None:
    """Kinds of day, each relative to the ordinary working days of the same quarter, so growth does not count."""
    daily = values.groupby(values.index.get_level_values("timestamp").floor("D")).mean()
    days = calendar_features(pd.DatetimeIndex(daily.index), country=country)
    working = ~days["is_weekend"] & ~days["is_holiday"]
    ordinary = working & ~days["is_eoq"]
    quarter = days["year"] * 4 + days["quarter"]
    if not daily[ordinary].mean() > 0:
        _note(axes, "4  Kinds of day", "no ordinary working day to compare with")
        return
    base = daily.where(ordinary).groupby(quarter).transform("mean")
    relative = 100 * daily / base.fillna(daily[ordinary].mean())
    kinds = {
        "working day": ordinary,
        "weekend": days["is_weekend"] & ~days["is_holiday"],
        f"holiday ({country})": days["is_holiday"],
        "working day in the\nlast week of a quarter": working & days["is_eoq"],
    }
    for row, (mask, color) in enumerate(zip(kinds.values(), ("grey", "sky", "purple", "orange"), strict=True)):
        found = relative[mask].dropna()
        if len(found):
            axes.barh(row, found.mean(), color=COLORS[color], height=0.62)
            axes.text(found.mean(), row, f" {found.mean():.0f} ({plural(len(found), 'day')})", va="center")
        else:
            axes.text(0, row, " none in these data", va="center", color=COLORS["grey"])
    axes.axvline(100, color=COLORS["ink"], linewidth=0.8, linestyle=":")
    axes.set_yticks(range(len(kinds)), list(kinds))
    axes.set_ylim(len(kinds) - 0.5, -0.5)
    axes.grid(axis="y", visible=False)
    axes.set_xlim(0, 1.35 * max(100.0, axes.get_xlim()[1]))
    axes.set_xlabel(f"{_name(values.name)}, ordinary working day of the same quarter = 100")
    axes.set_title("4  Kinds of day")


def correlation(axes: Axes, telemetry: Telemetry, values: pd.Series, target: pd.DataFrame | None) -> None:
    """Pearson's correlation of the metrics, mean over resources, with the target; autocorrelation of a single metric."""
    names = [m for m in telemetry.metrics if telemetry.observations[m].std() > 0][:MOST_METRICS]
    if len(names) < 2:
        _autocorrelation(axes, telemetry, values)
        return
    per_resource = telemetry.observations[names].groupby(level="resource_id").corr()
    table = per_resource.groupby(level=1).mean().reindex(index=names, columns=names)
    axes.imshow(table.where(~np.eye(len(names), dtype=bool)), cmap=DIVERGING, vmin=-1, vmax=1, aspect="auto")
    wanted = (pd.DataFrame() if target is None else target).reindex(index=names, columns=names)
    for a, row in enumerate(names):
        for b, column in enumerate(names):
            value, goal = table.loc[row, column], wanted.loc[row, column]
            text = "" if np.isnan(value) or a == b else f"{value:.2f}" + (f"\n({goal:.2f})" if pd.notna(goal) else "")
            color = "white" if abs(value) > 0.6 else COLORS["ink"]
            axes.text(b, a, text, ha="center", va="center", fontsize=8, color=color)
    shown = [_name(m) for m in names]
    axes.set_xticks(range(len(names)), shown, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(names)), shown)
    axes.grid(visible=False)
    axes.set_title(f"5  Correlation{' (target)' if target is not None else ', mean over resources'}")


def _autocorrelation(axes: Axes, telemetry: Telemetry, values: pd.Series) -> None:
    series = values.groupby(level="timestamp").mean()
    days = 8 if telemetry.step_seconds < DAY_SECONDS else 60
    most = int(min(len(series) // 2, days * DAY_SECONDS / telemetry.step_seconds))
    if most < 1 or series.std() == 0:
        _note(axes, "5  Correlation", "one metric only, and it does not change")
        return
    lags = np.unique(np.linspace(1, most, min(most, 200)).astype(int))
    centred = (series - series.mean()).fillna(0.0).to_numpy()
    found = [float(centred[lag:] @ centred[:-lag] / (centred @ centred)) for lag in lags]
    axes.plot(lags * telemetry.step_seconds / DAY_SECONDS, found)
    axes.axhline(0, color=COLORS["grey"], linewidth=0.8)
    axes.set_xlabel("lag (days)")
    axes.set_ylabel("autocorrelation")
    axes.set_title("5  Autocorrelation (there is one metric only)")


def waste(axes: Axes, telemetry: Telemetry, values: pd.Series, groups: pd.Series) -> None:
    """Cost per day by group, else unused capacity by group, else what lies idle if sized for the peak."""
    frame = telemetry.observations
    by = {"by": groups, "observed": True}
    if "cost_usd" in frame and frame["cost_usd"].sum() > 0:
        days = frame.index.get_level_values("timestamp").nunique() * telemetry.step_seconds / DAY_SECONDS
        spent = frame["cost_usd"].groupby(**by).sum().sort_values() / days
        axes.barh(spent.index, spent, color=COLORS["sky"], height=0.62, label="all")
        if "waste_percentage" in frame:
            unused = (frame["cost_usd"] * frame["waste_percentage"] / 100).groupby(**by).sum()[spent.index] / days
            axes.barh(unused.index, unused, color=COLORS["orange"], height=0.62, label="of it unused, where measured")
            axes.legend(loc="lower right")
        axes.set_xlabel("USD per day")
        axes.set_title(f"6  Cost: {spent.sum():,.0f} USD per day")
    elif "waste_percentage" in frame and groups.name is not None:
        waste = frame["waste_percentage"].groupby(**by).mean().sort_values()
        axes.barh(waste.index, waste, color=COLORS["orange"], height=0.62)
        axes.set_xlabel("unused capacity (percent)")
        axes.set_title(f"6  Waste: {frame['waste_percentage'].mean():.0f} % on average")
    else:
        _duration_curve(axes, values)
    axes.grid(axis="y", visible=False)


def _duration_curve(axes: Axes, values: pd.Series) -> None:
    """Share of the peak that is in use, intervals in order: what lies above the curve is paid for and idle."""
    peaks = values.groupby(level="resource_id").transform("max")
    if not values.max() > 0 or values.min() < 0:
        _note(axes, "6  Waste", f"{_name(values.name)} is no load that capacity could serve")
        return
    share = 100 * values / peaks.where(peaks > 0)
    curve = np.sort(share.dropna().to_numpy())[::-1]
    x = np.linspace(0, 100, len(curve))
    axes.fill_between(x, curve, 100, color=COLORS["orange"], alpha=0.25, linewidth=0)
    axes.plot(x, curve)
    axes.annotate("idle", (65, 85), color=COLORS["orange"])
    axes.set_xlabel("% of the time")
    axes.set_ylabel("% of each resource's peak")
    axes.set_title(f"6  Sized for the peak, {100 - curve.mean():.0f} % is idle")


def anomalies(axes: Axes, telemetry: Telemetry, values: pd.Series) -> None:
    """The resource and metric with most labels, of the leading metric if it has any; without labels, the highest value."""
    named = telemetry.labels.assign(metric=telemetry.labels["metrics"].astype(str).str.split(",")).explode("metric")
    named = named[named["metric"].isin(telemetry.observations.columns)]
    if (named["metric"] == values.name).any():
        named = named[named["metric"] == values.name]
    if len(named):
        place, metric = named.groupby(["resource_id", "metric"]).size().idxmax()
        spans = named[(named["resource_id"] == place) & (named["metric"] == metric)].sort_values("start")[:MOST_SPANS]
        first, last = spans["start"].min(), spans["end"].max()
        axes.set_title(f"7  Known anomalies ({len(telemetry.labels):,}), here {place}")
    else:
        metric, (place, first) = values.name, values.idxmax()
        spans, last = named, first
        axes.set_title("7  Highest value (no anomalies labelled)")
    step = pd.Timedelta(seconds=telemetry.step_seconds)
    margin = max((last - first) * 0.08, 40 * step)
    series = telemetry.observations[metric].xs(place, level="resource_id").loc[first - margin : last + margin]
    axes.plot(series.index, series, color=COLORS["ink"], linewidth=1.0)
    if not len(spans):
        axes.plot([first], [values.max()], "o", color=COLORS["orange"])
        axes.annotate(f"  {amount(values.max())}, {place}", (first, values.max()), color=COLORS["orange"])
    for kind, color in zip(spans["kind"].unique(), SPAN_COLORS, strict=False):
        for number, span in enumerate(spans[spans["kind"] == kind].itertuples()):
            said = None if number else str(kind).replace("_", " ")
            edges = span.start - step / 2, span.end + step / 2
            axes.axvspan(*edges, color=COLORS[color], alpha=0.4, linewidth=0, label=said)
    if len(spans):
        axes.legend(loc="upper right", fontsize=8.5, ncols=3)
        _headroom(axes, series.to_numpy())
    axes.set_ylabel(_name(metric, unit=True))
    locator = AutoDateLocator(minticks=3, maxticks=6)
    axes.xaxis.set_major_locator(locator)
    axes.xaxis.set_major_formatter(ConciseDateFormatter(locator))


def _note(axes: Axes, title: str, text: str) -> None:
    axes.text(0.5, 0.5, text, ha="center", va="center", color=COLORS["grey"], transform=axes.transAxes)
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_title(title)


def _headroom(axes: Axes, shown: np.ndarray) -> None:
    """Room for a legend above the lines, and zero in sight."""
    low, high = min(0.0, float(np.nanmin(shown))), float(np.nanmax(shown))
    axes.set_ylim(low, high + 0.25 * (high - low) + 1e-9)
