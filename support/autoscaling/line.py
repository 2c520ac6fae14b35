"""The line, end to end: demand -> forecast -> policies on days not seen -> one decision. Shared by chapter and report."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from support.autoscaling.decisions import decide
from support.autoscaling.environment import Decision, Environment
from support.autoscaling.policies import ForecastMean, Newsvendor, Reactive, Static, servers_for
from support.autoscaling.scoring import score_table
from support.autoscaling.simulate import Policy, Run, simulate
from support.errors import SchemaError, TooShortError
from support.forecasting import Forecast, RollingQuantiles, fit_short_term, roll_calibrated
from support.writing import plural

__all__ = ["Line", "run_line", "split", "tune_reactive", "unit_notes"]

TARGETS = (0.1, 0.15, 0.2, 0.25, 0.3, 0.4, 0.5, 0.55, 0.6, 0.65, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 1.0)
DECISION_MINUTES = 30
MOST_CELLS = 8_000_000  # rows times horizon of one fit; keeps fine ticks within about 2 GB
TICKS_SECONDS = (10.0, 3600.0)


@dataclass(frozen=True)
class Line:
    """Everything the line found on one demand series; `runs` by policy name, `table` their scores."""

    train: pd.Series
    test: pd.Series
    environment: Environment
    rolling: RollingQuantiles
    runs: dict[str, Run]
    table: pd.DataFrame
    outlook: Forecast
    decision: Decision
    notes: tuple[str, ...]


def split(
    demand: pd.Series, *, train_days: float, test_days: float, test_start: str = ""
) -> tuple[pd.Series, pd.Series, tuple[str, ...]]:
    """Past and unseen days of `demand`: (train, test, notes). The test starts at `test_start` (UTC) or ends with the data.

    Short data are split two thirds to one third, and a note says so. Raises SchemaError for ticks outside 10 s to 1 h,
    days that are not positive or a `test_start` that cannot be used, TooShortError below 240 ticks.
    """
    if not (train_days > 0 and test_days > 0):
        raise SchemaError(f"train_days is {train_days:g} and test_days {test_days:g}; both must be positive.")
    step = (demand.index[1] - demand.index[0]).total_seconds()
    if not TICKS_SECONDS[0] <= step <= TICKS_SECONDS[1]:
        raise SchemaError(
            f"demand: a step of {step:g} s; scaling needs one between 10 s and 1 h. Aggregate with step_seconds."
        )
    if len(demand) < 240:
        raise TooShortError(
            f"demand: {len(demand)} ticks of {step:g} s; at least 240 are needed to fit, simulate and judge."
        )
    per_day = 86_400 / step
    n_train, n_test = round(train_days * per_day), round(test_days * per_day)
    notes: tuple[str, ...] = ()
    if test_start:
        first = int(demand.index.searchsorted(_as_utc(test_start)))
        if not 160 <= first <= len(demand) - 24:
            raise SchemaError(
                f"test_start: {test_start} leaves {first} ticks before and {len(demand) - first} after it; choose another day."
            )
        if first < n_train or first + n_test > len(demand):
            past, later = min(first, n_train) / per_day, min(len(demand) - first, n_test) / per_day
            notes = (
                f"the data hold {past:.1f} days of the {train_days:g} before {test_start} and {later:.1f} of the {test_days:g} after it",
            )
    else:
        if n_train + n_test > len(demand):
            n_test = min(n_test, len(demand) // 3)
            notes = (
                f"only {len(demand) / per_day:.1f} days of data: the last {n_test / per_day:.1f} days are the test, all before them the past",
            )
        first = len(demand) - n_test
    if n_test < 24:
        raise TooShortError(
            f"test_days: {test_days:g} days are {n_test} ticks of {step:g} s; at least 24 are needed to judge a policy."
        )
    if n_train < 24:
        raise TooShortError(
            f"train_days: {train_days:g} days are {n_train} ticks of {step:g} s; at least 24 are needed to learn from."
        )
    return demand.iloc[max(0, first - n_train) : first], demand.iloc[first : first + n_test], notes


def tune_reactive(train: pd.Series, environment: Environment, *, days: float = 7.0) -> float:
    """Target utilisation (fraction) with the least cost on the last `days` of the past; no later data are used."""
    recent = train.iloc[-max(2, round(days * 86_400 / environment.tick_seconds)) :]
    steady = replace(environment, boot_delay_sigma=0.0, boot_failure_prob=0.0)  # random boots take their mean delay
    costs = [simulate(recent, Reactive(target), steady).cost_usd for target in TARGETS]
    return TARGETS[int(np.argmin(costs))]


def run_line(
    demand: pd.Series, *, train_days: float = 28.0, test_days: float = 14.0, test_start: str = "", headroom_frac: float = 0.2,
    servers_now: int | None = None, n_draws: int = 500, rng: np.random.Generator, **world: Any,
) -> Line:  # fmt: skip
    """Run the line on `demand` (n_time,), requests per tick; `world` goes to `Environment.for_demand`.

    Six policies meet the same unseen days: static (sized by the past's 99.9 % quantile), reactive at the textbook
    70 % and tuned on the past, forecast mean with `headroom_frac`, newsvendor. The forecaster is fitted anew each day
    on the `train_days` before it, its tails are recalibrated online. servers_now: your fleet at the end of the data
    (default: that of the newsvendor policy). `notes` say in words what was rounded, shortened or assumed. Raises TooShortError, SchemaError.
    """
    train, test, notes = split(demand, train_days=train_days, test_days=test_days, test_start=test_start)
    environment = Environment.for_demand(train, **world)
    horizon = environment.boot_delay_ticks + 1
    known = pd.concat([train, test])
    notes += unit_notes(train, environment, world.get("boot_delay_seconds", 300.0))
    fit_days, cut = _affordable_days(train_days, horizon, environment.tick_seconds)
    notes += cut
    rolling = roll_calibrated(
        known, test.index[0], train_days=fit_days, horizon_ticks=horizon, lag_ticks=environment.metric_lag_ticks
    )
    target = tune_reactive(train, environment)
    policies: list[Policy] = [
        Static(int(servers_for(train.quantile(0.999), environment))),
        Reactive(0.7, "reactive 70 %"),
        Reactive(target, "reactive tuned"),
        ForecastMean(0.0, "forecast mean"),
        ForecastMean(headroom_frac, f"forecast mean +{100 * headroom_frac:.0f} %"),
        Newsvendor(),
    ]
    before = int(
        servers_for(train.iloc[-1], environment)
    )  # the fleet at the start knows nothing of the first test tick
    runs = {p.name: simulate(test, p, environment, forecast=rolling, initial_servers=before) for p in policies}
    notes += (f"the reactive target tuned on the past is {100 * target:.0f} %",)
    ahead = max(horizon + 1, math.ceil(DECISION_MINUTES * 60 / environment.tick_seconds))
    recent = known[
        known.index
        >= test.index[-1] - pd.Timedelta(days=_affordable_days(train_days, ahead, environment.tick_seconds)[0])
    ]
    model = fit_short_term(recent, horizon_ticks=ahead)
    outlook = model.forecast(recent, n_draws=n_draws, rng=rng)
    if servers_now is None:
        servers_now = int(runs["newsvendor"].ticks[["servers", "booting"]].iloc[-1].sum())
        notes += (
            f"the present fleet is not known, so {servers_now} is the one that the newsvendor policy has at the end of the judged days",
        )
    decision = decide(outlook, environment, servers_now)
    return Line(
        train,
        test,
        environment,
        rolling,
        runs,
        score_table(list(runs.values())),
        outlook,
        decision,
        (*notes, *model.notes),
    )


def _as_utc(text: str) -> pd.Timestamp:
    try:
        stamp = pd.Timestamp(text)
    except ValueError:
        raise SchemaError(f"test_start: {text!r} is no date. Write it as 1998-06-10 or 1998-06-10 12:00.") from None
    return stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")


def _affordable_days(days: float, horizon: int, tick_seconds: float) -> tuple[float, tuple[str, ...]]:
    """Days of past that one fit can hold in memory, and a note if they are fewer than asked for."""
    most = MOST_CELLS / horizon * tick_seconds / 86_400
    if days <= most:
        return days, ()
    return most, (
        f"the forecaster learns from {most:.1f} days instead of {days:g}, because ticks of {tick_seconds:g} s are many",
    )


def unit_notes(train: pd.Series, environment: Environment, boot_delay_seconds: float) -> tuple[str, ...]:
    """Notes on the unit of the demand `train` (n_time,) and on a boot delay (seconds) that is no whole number of ticks.

    Example:
        >>> hours = pd.Series(9.0, index=pd.date_range("2026-01-01", periods=9, freq="1h"), name="requests")
        >>> unit_notes(hours, Environment.for_demand(hours, boot_delay_seconds=300.0), 300.0)
        ('the boot delay of 300 s is rounded up to 1 tick of 3600 s',)
    """
    tick, notes = environment.tick_seconds, []
    if train.name != "requests":
        notes.append(
            f"{train.name} is no count of requests: it is taken as work per interval that servers can share, and a server as a fixed "
            "amount of it, so compare the policies with each other and do not read the dollars as your bill"
        )
    if environment.boot_delay_ticks * tick > boot_delay_seconds:
        notes.append(
            f"the boot delay of {boot_delay_seconds:g} s is rounded up to {plural(environment.boot_delay_ticks, 'tick')} of {tick:g} s"
        )
    return tuple(notes)
