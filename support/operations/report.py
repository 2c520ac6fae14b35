"""`python -m support.operations.report my.csv`: the line on one file, as one HTML page and a decision.json."""

from __future__ import annotations

import argparse
import base64
import io
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from jinja2 import Environment as Templates
from jinja2 import FileSystemLoader

from support.autoscaling import Line, run_line
from support.errors import BookError
from support.plotting import COLORS, fan, table_html, use_style
from support.telemetry import Telemetry, load
from support.writing import plural, write_together

__all__ = ["main", "report_html"]

DAY_SECONDS = 86_400
FORMATS = {
    "cost (USD)": ",.2f", "servers (USD)": ",.2f", "starts (USD)": ",.2f", "drops (USD)": ",.2f", "dropped (%)": ".3f",
    "minute SLO (%)": ".2f", "churn (%)": ".1f", "mean servers": ".1f",
}  # fmt: skip


def report_html(telemetry: Telemetry, line: Line) -> str:
    """The report as one self-contained HTML page: decision, what was read, forecast, policies, assumptions."""
    world, decision = line.environment, line.decision
    scores = _scores(line)
    span = f"{line.test.index[0]:%Y-%m-%d %H:%M} to {line.test.index[-1]:%Y-%m-%d %H:%M} UTC"
    sections: list[dict[str, Any]] = [
        {
            "title": "What comes next",
            "figure": _figure(line),
            "alt": "Recent demand, and a fan of 50 and 90 percent prediction intervals",
            "caption": f"The last {plural(round(len(_recent(line)) * world.tick_seconds / 3600, 1), 'hour')} of {line.test.name} per {world.tick_seconds:g} s, and the 50 % and 90 % prediction intervals.",
        },
        {
            "title": "What each policy would have cost",
            "text": f"All policies met the same {len(line.test):,} intervals, {span}, which the forecaster had not seen. "
            f"Minute SLO: share of intervals without a drop and with a mean wait of at most {world.slo_wait_seconds:,.3g} s. Churn: share of intervals with a change.",
            "notes": line.notes,
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
    headline = f"{decision.action.capitalize()}: {decision.servers_now} to {plural(decision.servers, 'server')}{when}."
    folder = FileSystemLoader(str(Path(__file__).parent))
    template = Templates(loader=folder, autoescape=True).get_template("report.html")
    return template.render(
        title=f"Capacity report: {Path(telemetry.source).name}", provenance=telemetry.provenance, decision=decision, headline=headline,
        minutes=f"{decision.horizon_seconds / 60:g}", sections=sections, written=f"{pd.Timestamp.now('UTC'):%Y-%m-%d %H:%M} UTC",
    )  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Write DIR/report.html and DIR/decision.json; exit code 0, 2 for bad input (one sentence), 130 when interrupted."""
    options = _parser().parse_args(arguments)
    matplotlib.use("agg")
    started = time.monotonic()
    out = Path(options.out)
    try:
        _check(options)
        print(f"reading {options.source}", flush=True)
        named = {
            k: getattr(options, k)
            for k in ("timestamp_column", "value_column", "resource_column", "timezone", "step_seconds")
        }
        extra = {k: v for k, v in named.items() if v is not None}
        if options.duplicates != "refuse":
            extra["duplicates"] = options.duplicates
        telemetry = load(options.source, seed=options.seed, **extra)
        demand = telemetry.demand()
        for repair in telemetry.repairs:
            print(f"  {repair.what}: {repair.count:,}")
        print(f"fitting and simulating on {len(demand):,} intervals of {telemetry.step_seconds:g} s", flush=True)
        line = run_line(
            demand, train_days=options.train_days, test_days=options.test_days, rng=np.random.default_rng(options.seed),
            servers_at_peak=options.servers_at_peak, drop_cost_ratio=options.drop_cost_ratio,
            price_server_hour_usd=options.price_server_hour_usd, boot_delay_seconds=options.boot_delay_seconds,
            cooldown_seconds=options.cooldown_seconds, servers_now=options.servers_now,
        )  # fmt: skip
        if options.servers_now is None:
            assumed = (
                f" Assumed, not known: a present fleet of {line.decision.servers_now}; give yours with --servers-now."
            )
            line = replace(line, decision=replace(line.decision, reason=line.decision.reason + assumed))
        for note in line.notes:
            print(f"  {note}")
        print("writing the report", flush=True)
        write_together(
            out,
            {"report.html": report_html(telemetry, line), "decision.json": line.decision.to_json() + "\n"},
            named_by="--out",
        )
    except BookError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted: nothing was written", file=sys.stderr)
        return 130
    print(
        f"{line.decision.action}: {line.decision.servers_now} -> {plural(line.decision.servers, 'server')}. {line.decision.reason}"
    )
    print(
        f"done in {time.monotonic() - started:.1f} s. Next: open {out / 'report.html'}; machines read {out / 'decision.json'}"
    )
    return 0


def _check(options: argparse.Namespace) -> None:
    """What argparse takes for a number or a name and nobody can use."""
    for name, value in vars(options).items():
        if value == "" or (isinstance(value, float) and not np.isfinite(value)):
            raise BookError(f"{name} is {value!r}; give a finite number or a name, or leave the option out.")
    if options.seed < 0 or not (options.step_seconds is None or 0 < options.step_seconds <= DAY_SECONDS):
        raise BookError(
            f"seed {options.seed}, step_seconds {options.step_seconds}: a seed is 0 or more, a step over 0 and at most {DAY_SECONDS} s."
        )


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m support.operations.report", description="Demand to scaling decision, for one file."
    )
    parser.add_argument("source", help="path or URL of a CSV or Parquet file, or any source of the book")
    parser.add_argument("--out", default="report", help="folder to write to (default: report)")
    for name, told in (
        ("timestamp-column", "column with the time (default: guessed)"),
        ("value-column", "column with the demand (default: guessed)"),
        ("resource-column", "column that names the resource (default: guessed)"),
        ("timezone", "timezone of timestamps without one (default: UTC)"),
    ):
        parser.add_argument(f"--{name}", help=told)
    parser.add_argument("--step-seconds", type=float, help="aggregate to this step first")
    parser.add_argument(
        "--duplicates", choices=["refuse", "sum", "mean", "first"], default="refuse", help="two values at one time"
    )
    for name, default, told in (
        ("train-days", 28.0, "days of past to learn from"),
        ("test-days", 7.0, "last days, on which the policies are judged"),
        ("servers-at-peak", 20.0, "servers that just carry the busiest intervals of the past"),
        ("drop-cost-ratio", 60.0, "worth of the requests a server can serve, over its price"),
        ("price-server-hour-usd", 0.12, "USD per server-hour"),
        ("boot-delay-seconds", 300.0, "seconds from order to service"),
        ("cooldown-seconds", 180.0, "seconds without changes after a change"),
    ):
        parser.add_argument(f"--{name}", type=float, default=default, help=f"{told} (default: {default:g})")
    parser.add_argument(
        "--servers-now", type=int, help="your servers at the end of the data (default: those of the newsvendor policy)"
    )
    parser.add_argument("--seed", type=int, default=20261121, help="seed of the sample paths")
    return parser


def _recent(line: Line) -> pd.Series:
    """The last two hours before the outlook, or the last 12 intervals where these are longer."""
    return line.test.iloc[-max(12, round(7200 / line.environment.tick_seconds)) :]


def _figure(line: Line) -> str:
    import matplotlib.pyplot as plt

    use_style()
    figure, axes = plt.subplots()
    recent = _recent(line)
    bands = {
        name: (line.outlook.interval(level)[0][0], line.outlook.interval(level)[1][0])
        for name, level in (("90 %", 0.9), ("50 %", 0.5))
    }
    fan(axes, line.outlook.timestamps, bands)
    axes.plot(recent.index, recent, color=COLORS["ink"], label="demand")
    axes.plot(line.outlook.timestamps, line.outlook.quantile(0.5)[0], label="median")
    axes.set_ylabel(f"{line.test.name} per {line.environment.tick_seconds:g} s")
    axes.set_xlabel("time (UTC)")
    axes.set_ylim(bottom=0)
    axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    plt.close(figure)
    return base64.b64encode(buffer.getvalue()).decode()


def _scores(line: Line) -> pd.DataFrame:
    """The policies' bills by part and their promises, best first."""
    parts = pd.DataFrame({name: run.costs for name, run in line.runs.items()}).T
    frame = line.table.join(parts).sort_values("cost_usd")
    columns = [
        "cost_usd",
        "servers",
        "starts",
        "drops",
        "dropped_percent",
        "minute_slo_percent",
        "churn_percent",
        "mean_servers",
    ]
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
    ]
    frame = pd.DataFrame(rows, columns=["assumption", "value"])
    frame["option"] = [f"--{name}" if name else "" for name in options]
    return frame


if __name__ == "__main__":
    sys.exit(main())
