"""`python -m support.operations.report my.csv`: the line on one file, as one HTML page and a decision.json."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import matplotlib
import numpy as np

from support.autoscaling import run_line
from support.autoscaling.rolling import roll_aggregated
from support.errors import BookError
from support.forecasting import roll_calibrated
from support.operations.report_page import report_html
from support.telemetry import load
from support.writing import plural, write_together

__all__ = ["main"]

DAY_SECONDS = 86_400
AGGREGATED_SECONDS = (
    60.0  # ticks for which experts are aggregated; finer ones are many, and one expert takes minutes less
)
MOST_SERVERS = 10_000  # that the plan and the optimum weigh one by one


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
        rng_line, rng_trees, rng_draws = (
            np.random.default_rng(s) for s in np.random.SeedSequence(options.seed).spawn(3)
        )
        line = run_line(
            demand, train_days=options.train_days, test_days=options.test_days, rng=rng_line,
            roll=partial(roll_aggregated, rng=rng_trees) if telemetry.step_seconds >= AGGREGATED_SECONDS else roll_calibrated,
            servers_at_peak=options.servers_at_peak, drop_cost_ratio=options.drop_cost_ratio,
            price_server_hour_usd=options.price_server_hour_usd, boot_delay_seconds=options.boot_delay_seconds,
            cooldown_seconds=options.cooldown_seconds, servers_now=options.servers_now,
            slo_percent=options.slo_percent,
        )  # fmt: skip
        if options.servers_now is None:
            assumed = (
                f" Assumed, not known: a present fleet of {line.decision.servers_now}; give yours with --servers-now."
            )
            line = replace(line, decision=replace(line.decision, reason=line.decision.reason + assumed))
        for note in line.notes:
            print(f"  {note}")
        print("computing the optimum and writing the report", flush=True)
        page = report_html(telemetry, line, rng=rng_draws)
        write_together(out, {"report.html": page, "decision.json": line.decision.to_json() + "\n"}, named_by="--out")
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
    if options.servers_at_peak > MOST_SERVERS:
        raise BookError(
            f"servers_at_peak is {options.servers_at_peak:g}, and the report counts to {MOST_SERVERS:,}. Count servers in groups, with the price of a group."
        )
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
        "--servers-now",
        type=int,
        help="your servers at the end of the data (default: those of the last policy, the MPC)",
    )
    parser.add_argument(
        "--slo-percent", type=float, help="promised share of good intervals, such as 99.9 (default: none)"
    )
    parser.add_argument("--seed", type=int, default=20261121, help="seed of the sample paths")
    return parser


if __name__ == "__main__":
    sys.exit(main())
