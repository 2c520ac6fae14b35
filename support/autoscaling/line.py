"""The line, end to end: demand -> forecast -> policies on days not seen -> one decision. Shared by chapter and report."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from support.autoscaling.catalog import build_policy
from support.autoscaling.decisions import decide
from support.autoscaling.environment import Decision, Environment
from support.autoscaling.mpc import StochasticMPC
from support.autoscaling.policies import ForecastMean, Reactive, servers_for
from support.autoscaling.promise import asked_of_past, price_of_promise
from support.autoscaling.scoring import score_table
from support.autoscaling.simulate import Policy, Run, simulate
from support.errors import SchemaError, TooShortError
from support.forecasting import Forecast, RollingQuantiles, roll_calibrated
from support.forecasting.joint_paths import with_tails
from support.writing import amount, plural

__all__ = ["LINE_POLICIES", "Line", "run_line", "split", "unit_notes"]

LINE_POLICIES = (
    "static", "reactive 70 %", "reactive tuned", "kubernetes hpa", "forecast mean", "newsvendor", "stochastic MPC",
)  # fmt: skip
PROMISED, TUNING_DAYS = "MPC for the promise", 7.0
DECISION_MINUTES, MOST_AHEAD = 30, 60  # a forecast looks so far ahead, in at most so many ticks, and past every boot
LEAST_VECTORS = 50  # errors of the judged forecasts, for the dependence of paths; with fewer, those of persistence
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
    if not (0 < train_days < math.inf and 0 < test_days < math.inf):
        raise SchemaError(
            f"train_days is {train_days:g} and test_days {test_days:g}; both must be positive and finite."
        )
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


def run_line(
    demand: pd.Series, *, train_days: float = 28.0, test_days: float = 14.0, test_start: str = "", headroom_frac: float = 0.2,
    policies: Sequence[str] = LINE_POLICIES, roll: Callable[..., RollingQuantiles] = roll_calibrated,
    slo_percent: float | None = None, servers_now: int | None = None, n_draws: int = 500, rng: np.random.Generator,
    **world: Any,
) -> Line:  # fmt: skip
    """Run the line on `demand` (n_time,), requests per tick; `world` goes to `Environment.for_demand`.

    `policies` of the catalogue, and the forecast mean with `headroom_frac`, meet the same unseen days. roll: the
    forecaster, such as `roll_calibrated` or a partial `roll_aggregated`; it learns from the `train_days` before each day.
    What it says at the end of the data is the outlook that is decided on; its paths depend on each other as its past errors
    did. slo_percent: a promised share of good ticks; with one, `price_of_promise` on the last week of the past, a third of
    a shorter one, prices a bad tick for an MPC that joins the policies and for the decision. servers_now: your fleet at the
    end of the data (default: that of the last of the policies). `notes` say in words what was rounded, shortened or
    assumed. Raises TooShortError, SchemaError.
    """
    train, test, notes = split(demand, train_days=train_days, test_days=test_days, test_start=test_start)
    environment = Environment.for_demand(train, **world)
    tick, delay = environment.tick_seconds, environment.boot_delay_ticks
    n_tuning, price_bad_tick_usd = 0, 0.0
    if slo_percent is not None:
        asked_of_past(slo_percent)
        environment = replace(environment, slo_target_frac=slo_percent / 100)
        n_tuning = min(round(TUNING_DAYS * 86_400 / tick), len(train) // 3)
    horizon = max(delay + environment.cooldown_ticks + 2, min(math.ceil(60 * DECISION_MINUTES / tick), MOST_AHEAD))
    fit_days, cut = _affordable_days(train_days, horizon, tick)
    known = pd.concat([train, test])
    after = known.iloc[[-1]].set_axis(known.index[[-1]] + pd.Timedelta(seconds=tick))  # no forecast sees its own tick
    rolled = roll(
        pd.concat([known, after]), known.index[len(train) - n_tuning], train_days=fit_days, horizon_ticks=horizon,
        lag_ticks=environment.metric_lag_ticks,
    )  # fmt: skip
    rolling = rolled.rows(n_tuning, -1)
    notes += (
        *unit_notes(train, environment, world.get("boot_delay_seconds", 300.0)),
        *cut,
        f"forecasts: {rolled.model}",
    )
    chosen: list[Policy] = [build_policy(name, environment, train) for name in policies]
    notes += tuple(
        f"the reactive target tuned on the past is {100 * p.target_utilization:.0f} %"
        for p in chosen
        if isinstance(p, Reactive) and p.name == "reactive tuned"
    )
    if slo_percent is not None:
        tuning = train.iloc[len(train) - n_tuning :]
        first = int(servers_for(train.iloc[-n_tuning - 1], environment))
        price_bad_tick_usd, kept = price_of_promise(
            tuning, rolled.rows(0, n_tuning), environment, slo_percent=slo_percent, initial_servers=first
        )
        chosen.append(StochasticMPC(name=PROMISED, price_bad_tick_usd=price_bad_tick_usd))
        notes += (
            f"to keep {slo_percent:g} % of good ticks {PROMISED} reckons with {amount(price_bad_tick_usd)} USD for a bad one, "
            + (
                "set on the last week of the past"
                if kept
                else "the most that was tried, and did not keep them in the past"
            ),
        )
    margin = ForecastMean(headroom_frac, f"forecast mean +{100 * headroom_frac:.0f} %")
    before = int(servers_for(train.iloc[-1], environment))  # the first fleet knows nothing of the first test tick
    runs = {p.name: simulate(test, p, environment, forecast=rolling, initial_servers=before) for p in (margin, *chosen)}
    outlook = _outlook(rolled, known, n_draws, rng)
    if servers_now is None:
        servers_now = int(runs[chosen[-1].name].ticks[["servers", "booting"]].iloc[-1].sum())
        notes += (
            f"the present fleet is not known, so {servers_now} is the one that {chosen[-1].name} has at the end of the judged days",
        )
    decision = decide(outlook, environment, servers_now, price_bad_tick_usd=price_bad_tick_usd)
    return Line(train, test, environment, rolling, runs, score_table(list(runs.values())), outlook, decision, notes)


def _outlook(rolled: RollingQuantiles, known: pd.Series, n_draws: int, rng: np.random.Generator) -> Forecast:
    """The last row of `rolled` as a Forecast issued with the last of `known`; paths ordered as past errors were."""
    horizon = rolled.mean.shape[1]
    quantiles, levels = with_tails(rolled.quantiles[-1].astype(float), rolled.levels, lowest=0.0)
    seen = known.loc[rolled.timestamps[:-1]].to_numpy(float)
    if len(seen) - horizon + 1 >= LEAST_VECTORS:
        came = np.lib.stride_tricks.sliding_window_view(seen, horizon)
        low, middle, high = (rolled.at(level)[: len(came)] for level in (0.1, 0.5, 0.9))
        errors = (came - middle) / np.maximum(high - low, 1e-9 * (1 + middle))  # a spread may be nothing
    else:
        came = np.lib.stride_tricks.sliding_window_view(np.log1p(known.to_numpy(float)), horizon + 1)
        errors = came[:, 1:] - came[:, :1]
    step = (known.index[1] - known.index[0]).total_seconds()
    return Forecast.from_quantiles(
        quantiles[None], levels, errors[rng.integers(0, len(errors), n_draws)], issued_at=known.index[-1],
        step_seconds=step, unit=f"{known.name} per {step:g} s", model=rolled.model, rng=rng,
    )  # fmt: skip


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
