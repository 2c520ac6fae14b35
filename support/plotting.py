"""One style for every figure of the book, and one way to show a table."""

from __future__ import annotations

import html
from collections.abc import Mapping

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from cycler import cycler
from IPython.display import HTML, display
from matplotlib.axes import Axes

__all__ = ["COLORS", "fan", "label_line", "show_table", "table_html", "use_style"]

# Okabe and Ito (2008), reordered: distinguishable under the common colour-vision deficiencies, dark enough for lines.
COLORS: Mapping[str, str] = {
    "blue": "#0072B2",
    "orange": "#D55E00",
    "green": "#009E73",
    "purple": "#AA4499",
    "gold": "#B8860B",
    "sky": "#56B4E9",
    "grey": "#6B7280",
    "ink": "#1F2933",
}


def use_style() -> None:
    """Set the book's matplotlib style: 7.2 x 3.4 inch, 2 x resolution, light grid, colour-blind-safe cycle.

    Example:
        >>> use_style()
        >>> plt.rcParams["figure.figsize"]
        [7.2, 3.4]
    """
    ink = COLORS["ink"]
    plt.rcParams.update(
        {
            "figure.figsize": (7.2, 3.4),
            "figure.dpi": 110,
            "savefig.dpi": 170,
            "savefig.bbox": "tight",
            "figure.constrained_layout.use": True,
            "axes.prop_cycle": cycler(color=[COLORS[n] for n in ("blue", "orange", "green", "purple", "gold", "sky")]),
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.edgecolor": "#9AA5B1",
            "axes.labelcolor": ink,
            "axes.grid": True,
            "axes.axisbelow": True,
            "grid.color": "#E4E7EB",
            "grid.linewidth": 0.8,
            "text.color": ink,
            "xtick.color": "#52606D",
            "ytick.color": "#52606D",
            "lines.linewidth": 1.8,
            "font.size": 10.5,
            "legend.frameon": False,
            "date.converter": "concise",
        }
    )


def fan(
    axes: Axes,
    x: np.ndarray | pd.DatetimeIndex,
    bands: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    color: str = COLORS["blue"],
) -> None:
    """Shade prediction intervals on `axes`, widest first, each with its name in the legend.

    `x` has shape (n_time,); `bands` maps a name such as "90 %" to (lower, upper), each (n_time,) in the axis' unit.

    Example:
        >>> _, axes = plt.subplots()
        >>> fan(axes, np.arange(2), {"90 %": (np.zeros(2), np.ones(2))})
        >>> plt.close()
    """
    for position, (name, (lower, upper)) in enumerate(bands.items()):
        alpha = 0.18 + 0.17 * position
        axes.fill_between(x, lower, upper, color=color, alpha=alpha, linewidth=0, label=f"{name} interval")


def label_line(
    axes: Axes, x: object, y: float, text: str, color: str, *, dx_points: float = 6, dy_points: float = 0
) -> None:
    """Write `text` beside the data point (x, y), offset in points, in the line's colour, instead of a legend.

    Example:
        >>> _, axes = plt.subplots()
        >>> label_line(axes, 1, 2.0, "demand", COLORS["ink"])
        >>> plt.close()
    """
    axes.annotate(
        text, (x, y), xytext=(dx_points, dy_points), textcoords="offset points", color=color, va="center", fontsize=9.5
    )  # type: ignore[arg-type]


def table_html(
    frame: pd.DataFrame, caption: str = "", formats: Mapping[str, str] | None = None, *, index: bool = True
) -> str:
    """`frame` as an HTML table: numbers by `formats` (column -> format spec such as ",.0f"), else by their size.

    Without a format whole numbers stay whole, and other numbers of a column have as many decimals as give its median
    three significant digits, so that they line up; where they span more than three powers of ten each has three significant digits of its own.

    Example:
        >>> "1,234" in table_html(pd.DataFrame({"cost_usd": [1234.5]}), formats={"cost_usd": ",.0f"})
        True
        >>> "1.000" in table_html(pd.DataFrame({"loss": [1.0, 0.693, 0.56]}))
        True
    """
    frame = frame.apply(_with_nan)
    formatters = {c: f"{{:{_spec(frame[c])}}}".format for c in frame.columns if pd.api.types.is_float_dtype(frame[c])}
    formatters |= {c: f"{{:{spec}}}".format for c, spec in (formats or {}).items()}
    table = frame.to_html(formatters=formatters, na_rep="–", index=index, border=0, justify="unset").replace(
        ' style="text-align: unset;"', ""
    )
    if caption:
        table = table.replace("<thead>", f"<caption>{html.escape(caption)}</caption>\n  <thead>", 1)
    return table


def _with_nan(column: pd.Series) -> pd.Series:
    """The column with NaN for NA and None, which pandas would write as <NA> and None whatever `na_rep` says."""
    if not any(value is pd.NA or value is None for value in column):
        return column
    number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
    return column.astype(float if number else object).where(column.notna(), np.nan)


def _spec(column: pd.Series) -> str:
    """Format of a column of numbers: the same decimals for all, or `.3g` where their sizes differ too much."""
    sizes = column[np.isfinite(column) & (column != 0)].abs()
    if sizes.empty or sizes.max() > 1000 * sizes.min() or not 1e-4 <= sizes.median() < 1e6:
        return ".3g"
    if (sizes == sizes.round()).all():
        return ",.0f"
    return f",.{max(0, 2 - int(np.floor(np.log10(sizes.median()))))}f"


def show_table(
    frame: pd.DataFrame, caption: str = "", formats: Mapping[str, str] | None = None, *, index: bool = True
) -> None:
    """Display `frame` as a page-ready table; arguments as `table_html`.

    Example:
        >>> show_table(pd.DataFrame({"a": [1.0]}))  # doctest: +ELLIPSIS
        <IPython.core.display.HTML object>
    """
    display(HTML(table_html(frame, caption, formats, index=index)))
