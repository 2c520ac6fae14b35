"""The report's page: decision, outlook, bills of the policies beside the optimum, what was read and what was assumed."""

from __future__ import annotations

import base64
import io
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from support.autoscaling import Line, cost_difference, score_table, servers_for
from support.autoscaling.line import PROMISED
from support.autoscaling.oracle import Optimum, optimum, regret
from support.autoscaling.oracle_bound import measured_bound
from support.autoscaling.scoring import block_seconds
from support.plotting import COLORS, fan, table_html, use_style
from support.telemetry import Telemetry
from support.writing import plural

__all__ = ["report_html"]

TUNED, COMMON, BEST = "reactive tuned", "kubernetes hpa", "optimum"
FORMATS = {
    "cost (USD)": ",.2f", "servers (USD)": ",.2f", "starts (USD)": ",.2f", "drops (USD)": ",.2f", "dropped (%)": ".3f",
    "minute SLO (%)": ".2f", "churn (%)": ".1f", "mean servers": ".1f",
}  # fmt: skip


def report_html(telemetry: Telemetry, line: Line, *, rng: np.random.Generator) -> str:
    """One self-contained HTML page on `line`; rng draws the days of the interval of the saving.

    Raises SchemaError where the optimum cannot be computed.
    """
    world, decision = line.environment, line.decision
    best = optimum(line.test, world, initial_servers=int(servers_for(line.train.iloc[-1], world)))
    scores = _bills(line, best)
    cheapest = str(scores.index.drop(BEST)[0])
    span = f"{line.test.index[0]:%Y-%m-%d %H:%M} to {line.test.index[-1]:%Y-%m-%d %H:%M} UTC"
    sections: list[dict[str, Any]] = [
        {
            "title": "What comes next",
            "figure": _outlook_png(line),
            "alt": "Recent demand, and a fan of 50 and 90 percent prediction intervals",
            "caption": f"The last {plural(round(len(_recent(line)) * world.tick_seconds / 3600, 1), 'hour')} of {line.test.name} per {world.tick_seconds:g} s, and the 50 % and 90 % prediction intervals.",
        },
        {
            "title": "What each policy would have cost",
            "text": _verdict(line, best, cheapest, rng),
            "figure": _fleets_png(line, best, cheapest),
            "alt": "Servers that the demand of the last judged day needed, and the fleets of the cheapest policy, of Kubernetes' rule and of the optimum",
            "caption": "Servers on the last judged day: what the demand needed, and what was there.",
            "notes": [
                f"all met the same {len(line.test):,} intervals, {span}, which the forecaster had not seen; the optimum knew them",
                f"minute SLO: share of intervals without a drop and with a mean wait of at most {world.slo_wait_seconds:,.3g} s; churn: share of intervals with a change",
                _bound(line),
                *_promise(line),
                *line.notes,
            ],
            "table": table_html(scores, formats=FORMATS),
        },
        {
            "title": "What was read, and what was changed",
            "text": f"Demand is the metric {line.test.name!r} per interval of {telemetry.step_seconds:g} s, "
            f"{line.train.index[0]:%Y-%m-%d %H:%M} to {line.test.index[-1]:%Y-%m-%d %H:%M} UTC. The forecaster and the tuned rule learn from what lies before {line.test.index[0]:%Y-%m-%d %H:%M}.",
            "table": table_html(telemetry.quality_report(), formats={"rows": ",.0f"}, index=False),
        },
        {
            "title": "What was assumed",
            "text": "Each is a choice, not a measurement. Run the command again with your own values (--help lists every option).",
            "table": table_html(_assumptions(line), index=False),
        },
    ]
    when = f" by {decision.effective_by:%Y-%m-%d %H:%M} UTC" if decision.action != "hold" else ""
    course = "" if decision.action == "hold" else f"{decision.servers_now} to "
    headline = f"{decision.action.capitalize()}: {course}{plural(decision.servers, 'server')}{when}."
    folder = FileSystemLoader(str(Path(__file__).parent))
    template = Templates(loader=folder, autoescape=True).get_template("report.html")
    return template.render(
        title=f"Capacity report: {Path(telemetry.source).name}", provenance=telemetry.provenance, decision=decision, headline=headline,
        minutes=f"{decision.horizon_seconds / 60:g}", sections=sections, written=f"{pd.Timestamp.now('UTC'):%Y-%m-%d %H:%M} UTC",
    )  # fmt: skip


def _recent(line: Line) -> pd.Series:
    """The last two hours before the outlook, or the last 12 intervals where these are longer."""
    return line.test.iloc[-max(12, round(7200 / line.environment.tick_seconds)) :]


def _outlook_png(line: Line) -> str:
    """The newest demand and the forecast's intervals."""
    figure, axes = _axes()
    recent = _recent(line)
    bands = {
        name: (line.outlook.interval(level)[0][0], line.outlook.interval(level)[1][0])
        for name, level in (("90 %", 0.9), ("50 %", 0.5))
    }
    fan(axes, line.outlook.timestamps, bands)
    axes.plot(recent.index, recent, color=COLORS["ink"], label="demand")
    axes.plot(line.outlook.timestamps, line.outlook.quantile(0.5)[0], label="median")
    axes.set_ylabel(f"{line.test.name} per {line.environment.tick_seconds:g} s")
    return _png(figure, axes)


def _fleets_png(line: Line, best: Optimum, cheapest: str) -> str:
    """Servers of the last judged day: needed, and at work under the cheapest policy, the common one and the optimum."""
    figure, axes = _axes()
    last = line.test.index[-1] - pd.Timedelta(days=1)
    needed = line.test[line.test.index > last] / line.environment.capacity_per_tick
    axes.fill_between(needed.index, needed, color=COLORS["grey"], alpha=0.35, linewidth=0, label="needed")
    fleets = {COMMON: line.runs[COMMON], cheapest: line.runs[cheapest], BEST: best.run}
    for (name, run), color in zip(fleets.items(), ("orange", "blue", "green"), strict=False):
        at_work = run.ticks["servers"][run.ticks.index > last]
        axes.step(at_work.index, at_work, where="post", color=COLORS[color], linewidth=1.2, label=name)
    axes.set_ylabel("servers")
    return _png(figure, axes)


def _axes() -> tuple[Figure, Axes]:
    use_style()
    figure, axes = plt.subplots()
    axes.set_xlabel("time (UTC)")
    return figure, axes


def _png(figure: Figure, axes: Axes) -> str:
    """The figure in base64, its legend above."""
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, fontsize=9)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def _verdict(line: Line, best: Optimum, cheapest: str, rng: np.random.Generator) -> str:
    """Which policy was cheapest, by how much, how sure that is, and how far it is from the optimum."""
    run = line.runs[cheapest]
    above = f"{100 * float(regret(run.cost_usd, best.cost_usd)):,.0f} % above the optimum"
    if cheapest == TUNED:
        return f"On these days no policy was cheaper than the reactive rule tuned on the past, which is {above}."
    saved, low, high = cost_difference(run, line.runs[TUNED], rng=rng, block_seconds=block_seconds(line.test))
    settled = "" if low > 0 else ", so these days do not settle which of the two is cheaper"
    return (
        f"Cheapest on these days was {cheapest}, {100 * saved:.1f} % below the reactive rule tuned on the past (90 % interval {100 * low:.1f} "
        f"to {100 * high:.1f} %{settled}) and {above}, which knew the future."
    )


def _bound(line: Line) -> str:
    """The best share of good intervals without spare servers, given the jumps above what the forecast would have provided."""
    world, ticks, delay = line.environment, len(line.test), line.environment.boot_delay_ticks
    provided = servers_for(line.rolling.quantiles[:, delay, -1].astype(float), world) * world.capacity_per_tick
    prepared = np.r_[np.full(delay, np.inf), provided][:ticks]
    return str(measured_bound(line.test, prepared, world))


def _promise(line: Line) -> list[str]:
    """Who kept a promise of good intervals, if there is one among the policies."""
    if PROMISED not in line.runs:
        return []
    asked, share = 100 * line.environment.slo_target_frac, line.table["minute_slo_percent"]
    kept = line.table.cost_usd[share >= asked].sort_values()
    told = ", ".join(f"{name} ({cost:,.2f} USD)" for name, cost in kept.items()) or "none"
    return [
        f"policies that kept the promise of {asked:g} % of good intervals on these days: {told}; {PROMISED} had {share[PROMISED]:.2f} %"
    ]


def _bills(line: Line, best: Optimum) -> pd.DataFrame:
    """The bills of policies and optimum by part and their promises, the cheapest first."""
    runs = [best.run, *line.runs.values()]
    parts = pd.DataFrame({run.policy: run.costs for run in runs}).T
    frame = score_table(runs).join(parts).sort_values("cost_usd", kind="stable")
    columns = [
        "cost_usd", "servers", "starts", "drops", "dropped_percent", "minute_slo_percent", "churn_percent", "mean_servers",
    ]  # fmt: skip
    return frame[columns].set_axis(list(FORMATS), axis=1).rename_axis(None).rename_axis("policy", axis=1)


def _assumptions(line: Line) -> pd.DataFrame:
    world = line.environment
    rows = [
        ("price of a server (USD/hour)", f"{world.price_server_hour_usd:g}"),
        (
            "work of a server (per interval), so that its number just carries the busiest past intervals",
            f"{world.capacity_per_tick:,.1f}",
        ),
        ("price of a dropped unit of demand (USD)", f"{world.price_drop_usd:.3g}"),
        ("quantile of demand worth serving at these prices", f"{100 * world.critical_fractile:.2f} %"),
        ("boot delay (intervals)", f"{world.boot_delay_ticks}"),
        ("cooldown (intervals)", f"{world.cooldown_ticks}"),
        ("fewest and most servers", f"{world.min_servers} to {world.max_servers}"),
        ("longest mean wait of a good interval (s)", f"{world.slo_wait_seconds:,.3g}"),
        ("promised share of good intervals", f"{100 * world.slo_target_frac:g} %" if PROMISED in line.runs else "none"),
    ]
    options = [
        "price-server-hour-usd",
        "servers-at-peak",
        "drop-cost-ratio",
        "drop-cost-ratio",
        "boot-delay-seconds",
        "cooldown-seconds",
        "",
        "",
        "slo-percent",
    ]
    frame = pd.DataFrame(rows, columns=["assumption", "value"])
    frame["option"] = [f"--{name}" if name else "" for name in options]
    return frame
