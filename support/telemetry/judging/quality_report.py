"""The result of the quality checks: one table, one sentence, one figure."""

from __future__ import annotations

from dataclasses import dataclass
from textwrap import fill

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from support.plotting import COLORS

__all__ = ["CHECKS", "VERDICTS", "QualityReport"]

CHECKS = {  # name -> unit of its value; the first four are about the whole record, the others about each metric
    "duplicates": "% of rows",
    "dropped": "% of rows",
    "cadence": "% of stamps moved",
    "timezone": "% of rows presumed",
    "completeness": "% of values",
    "gaps": "h, the longest",
    "ranges": "% at a bound",
    "outliers": "% of values",
    "constant": "resources",
    "daily cycle": "% of resources",
    "weekly cycle": "% of resources",
    "correlation": "off target",
}
VERDICTS = ("good", "look", "bad")
MOST_METRICS_SHOWN = 12


@dataclass(frozen=True)
class QualityReport:
    """Checks of one Telemetry: `checks` with columns check, metric, value, unit, verdict (good, look, bad), words.

    Example:
        >>> from support.telemetry.judging.quality import quality
        >>> from support.telemetry.sources import load
        >>> quality(load("synthetic", seed=1, days=7, step_seconds=3600.0)).verdict
        'look'
    """

    source: str
    checks: pd.DataFrame

    @property
    def verdict(self) -> str:
        """The worst verdict of all checks."""
        return max(self.checks["verdict"], key=VERDICTS.index)

    def table(self, *, only_findings: bool = False) -> pd.DataFrame:
        """One row per check (and metric), in the order of CHECKS; `only_findings` leaves out what is good."""
        table = self.checks[self.checks["verdict"] != "good"] if only_findings else self.checks
        return table.reset_index(drop=True)

    def headline(self) -> str:
        """The report in one sentence, each check under its worst verdict."""
        ranks = self.checks["verdict"].map(VERDICTS.index)
        worst = ranks.groupby(self.checks["check"], sort=False).max()
        parts = [f"{(ranks == 0).sum()} of {len(ranks)} checks good"]
        for rank, said in ((2, "bad: "), (1, "look at ")):
            names = list(worst.index[worst == rank])
            if names:
                parts.append(said + ", ".join(names))
        return "; ".join(parts)

    def plot(self, axes: Axes | None = None) -> Axes:
        """The report as a grid: a row per metric, a column per check; of more than 12 metrics those with most findings."""
        checks = self.checks[self.checks["metric"] != "all"]
        findings = (checks["verdict"].map(VERDICTS.index)).groupby(checks["metric"], sort=False).sum()
        shown = findings.nlargest(MOST_METRICS_SHOWN, keep="first").index
        metrics = [m for m in findings.index if m in shown]
        columns = [c for c in CHECKS if (self.checks["check"] == c).any()]
        if axes is None:
            width, height = 1.9 + 0.92 * len(columns), 1.5 + 0.48 * len(metrics)
            axes = plt.subplots(figsize=(width, height))[1]
        for _, row in self.checks[self.checks["metric"].isin(["all", *metrics])].iterrows():
            whole = row["metric"] == "all"
            y, height = (0, len(metrics)) if whole else (metrics.index(row["metric"]), 1)
            _cell(axes, columns.index(row["check"]), y, height, row)
        axes.set(xlim=(0, len(columns)), ylim=(max(len(metrics), 1), 0))
        axes.set_xticks([])
        for x, name in enumerate(columns):
            unit = fill(CHECKS[name], 14)
            place = {"xycoords": axes.get_xaxis_transform(), "textcoords": "offset points", "ha": "center"}
            axes.annotate(unit, (x + 0.5, 1), xytext=(0, 4), va="bottom", fontsize=7.5, color=COLORS["grey"], **place)  # type: ignore[arg-type]
            axes.annotate(name, (x + 0.5, 1), xytext=(0, 28), va="bottom", fontsize=8.5, fontweight="bold", **place)  # type: ignore[arg-type]
        axes.set_yticks(np.arange(len(metrics)) + 0.5, [m.replace("_", " ") for m in metrics], fontsize=9)
        axes.tick_params(length=0)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        more = f" ({len(metrics)} of {len(findings)} metrics shown)" if len(metrics) < len(findings) else ""
        axes.set_title(f"{self.source}{more}\n{self.headline()}", loc="left", fontsize=10.5, pad=44)
        return axes


def _cell(axes: Axes, x: float, y: float, height: float, row: pd.Series) -> None:
    verdict, value = str(row["verdict"]), float(row["value"])
    color = {"good": COLORS["green"], "look": COLORS["gold"], "bad": COLORS["orange"]}[verdict]
    alpha = {"good": 0.16, "look": 0.5, "bad": 1.0}[verdict]
    axes.add_patch(Rectangle((x + 0.03, y + 0.04), 0.94, height - 0.08, facecolor=color, alpha=alpha, linewidth=0))
    text = "?" if np.isnan(value) else f"{value:.3g}" if abs(value) < 999.5 else f"{value:,.0f}"
    if str(row["check"]).endswith("cycle"):
        text = {"0": "none", "100": "found"}.get(text, text)
    axes.text(
        x + 0.5,
        y + height / 2,
        text if verdict == "good" else f"{text}\n{verdict}",
        ha="center",
        va="center",
        fontsize=8.5,
        color="white" if verdict == "bad" else COLORS["ink"],
        fontweight="normal" if verdict == "good" else "bold",
    )
