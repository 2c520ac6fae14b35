"""The course: demand cut into days to train on, to choose by and to be judged on, with a forecast at every tick."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from support.autoscaling.environment import Environment
from support.autoscaling.oracle import optimum_costs
from support.autoscaling.simulate import Policy, Run, simulate
from support.autoscaling.timing import Timed
from support.errors import SchemaError, TooShortError
from support.forecasting import RollingQuantiles, roll_daily

__all__ = ["PARTS", "Course", "make_course"]

PARTS = ("train", "validation", "test")
MOST_SERVERS = 100  # the largest fleet that an agent may ask for
DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Course:
    """Demand (n_time,), requests per tick, the forecast of each of its ticks, and its days in three parts.

    days: first row of each day, by part; the parts follow each other in time. An episode is a day; it starts with the
    servers that carry its first tick.
    """

    environment: Environment
    demand: pd.Series
    rolling: RollingQuantiles
    days: dict[str, np.ndarray]
    day_ticks: int

    @cached_property
    def optima_usd(self) -> dict[str, np.ndarray]:
        """Exact clairvoyant cost of each validation and test day, USD."""
        return {part: optimum_costs(self.rows(part), self.environment) for part in PARTS[1:]}

    def rows(self, part: str) -> np.ndarray:
        """Demand of the days of a part, (n_day, day_ticks)."""
        return self.demand.to_numpy(float)[self.days[part][:, None] + np.arange(self.day_ticks)]

    def runs(self, policy: Policy, part: str) -> list[Run]:
        """What `simulate` makes of each day of a part, under `policy`."""
        span = self.day_ticks
        return [
            simulate(
                self.demand.iloc[at : at + span], policy, self.environment, forecast=self.rolling.rows(at, at + span)
            )
            for at in self.days[part].tolist()
        ]

    def decision_seconds(self, policy: Policy, part: str) -> np.ndarray:
        """Time of each decision of `policy` on the days of a part, seconds, (n_decision,)."""
        timed = Timed(policy)
        self.runs(timed, part)
        return np.array(timed.spent)

    def regrets(self, costs_usd: np.ndarray, part: str) -> np.ndarray:
        """Extra cost of each day over its optimum, as a fraction of the mean optimum, (n_day,): their mean is the regret."""
        best = self.optima_usd[part]
        return (np.asarray(costs_usd) - best) / best.mean()


def make_course(
    demand: pd.Series, *, warm_days: float = 8.0, fit_days: float | None = None, train_days: int = 35,
    validation_days: int = 14, test_days: int = 14, **world: Any,
) -> Course:  # fmt: skip
    """A course on the newest days of `demand`, after `warm_days` that come before the first of them.

    Each day's forecast is fitted on the days of the course before it, at most `fit_days` (None: `warm_days`).
    The world is sized from the warm and the training days, by `Environment.for_demand(**world)`, with 1 to 100 servers.
    Raises TooShortError if the days do not suffice, SchemaError if a part has none or the boots are random.
    """
    wanted = dict(zip(PARTS, (train_days, validation_days, test_days), strict=True))
    if min(wanted.values()) < 1:
        raise SchemaError(f"course: {wanted} days; each part needs at least one.")
    step = float((demand.index[1] - demand.index[0]).total_seconds())
    day, n_day = round(DAY_SECONDS / step), sum(wanted.values())
    need = round(warm_days * day) + n_day * day
    if len(demand) < need:
        raise TooShortError(
            f"course: {len(demand) / day:.1f} days of demand, {need / day:.1f} are needed "
            f"({warm_days:g} to warm up, {', '.join(f'{n} for {part}' for part, n in wanted.items())})."
        )
    known = demand.iloc[-need:]
    first = need - n_day * day
    environment = replace(
        Environment.for_demand(known.iloc[: first + train_days * day], **world), min_servers=1, max_servers=MOST_SERVERS
    )
    rolling = roll_daily(
        known, known.index[first], train_days=fit_days or warm_days, horizon_ticks=environment.boot_delay_ticks + 1,
        lag_ticks=environment.metric_lag_ticks,
    )  # fmt: skip
    edges = np.cumsum([0, *wanted.values()]) * day
    days = {part: np.arange(a, b, day) for part, a, b in zip(PARTS, edges, edges[1:], strict=False)}
    return Course(environment, known.iloc[first:], rolling, days, day)
