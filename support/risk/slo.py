"""Service level objectives: burn-rate alerts on two windows, and the forecast version, which asks before the budget is gone."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from support.errors import SchemaError, TooShortError
from support.forecast import Forecast

__all__ = ["BURN_RULES", "BudgetForecast", "BurnRule", "budget_forecast", "burn_rate_alerts", "days_to_exhaustion"]

HOURS_PER_DAY = 24.0
SHORT_OVER_LONG = 1 / 12  # the short window, so that an alert ends soon after its cause


@dataclass(frozen=True)
class BurnRule:
    """Alert when a share `budget_frac` of the budget went within `long_hours`. severity: page or ticket."""

    severity: str
    budget_frac: float
    long_hours: float

    @property
    def short_hours(self) -> float:
        """Length of the short window, hours."""
        return self.long_hours * SHORT_OVER_LONG

    def burn_rate(self, period_days: float = 30.0) -> float:
        """How many times as fast as even spending over the period: budget share x period / window.

        Example:
            >>> [round(rule.burn_rate(), 6) for rule in BURN_RULES]
            [14.4, 6.0, 1.0]
        """
        return self.budget_frac * period_days * HOURS_PER_DAY / self.long_hours

    def error_ratio(self, slo_target: float, period_days: float = 30.0) -> float:
        """Share of bad events in a window from which the rule counts, such as 0.0144 for 99.9 % and the first rule."""
        return self.burn_rate(period_days) * (1 - slo_target)


# Beyer et al. (2018), The Site Reliability Workbook, chapter 5, table 5-8: for a period of 30 days.
BURN_RULES = (BurnRule("page", 0.02, 1.0), BurnRule("page", 0.05, 6.0), BurnRule("ticket", 0.10, 72.0))


def days_to_exhaustion(burn_rate: float, period_days: float = 30.0) -> float:
    """Days until the whole budget is spent at a constant `burn_rate`; infinite at zero. Raises SchemaError below zero.

    Example:
        >>> days_to_exhaustion(10)
        3.0
    """
    if burn_rate < 0:
        raise SchemaError(f"burn rate {burn_rate:g} is below zero.")
    return period_days / burn_rate if burn_rate else math.inf


def burn_rate_alerts(
    bad: np.ndarray, total: np.ndarray, *, step_seconds: float, slo_target: float = 0.999, period_days: float = 30.0,
    rules: tuple[BurnRule, ...] = BURN_RULES,
) -> np.ndarray:  # fmt: skip
    """Which rules fire at each step, bool (n_rule, n_time): both windows above the rule's error ratio; any rule alerts.

    bad, total (n_time,): bad and all events of each step, such as steps over capacity and steps. Windows end with the
    step itself and are shorter at the start; one without events counts as good. A short window below one step is one step.
    Raises SchemaError for lengths that differ, bad above total, or a target outside (0, 1).
    """
    bad, total = np.asarray(bad, dtype=float), np.asarray(total, dtype=float)
    if bad.shape != total.shape or bad.ndim != 1 or not ((bad >= 0) & (bad <= total)).all():
        raise SchemaError(
            f"burn rate: bad {bad.shape} and total {total.shape} must be one row each, with 0 <= bad <= total."
        )
    if not 0 < slo_target < 1:
        raise SchemaError(f"burn rate: target {slo_target} must lie between 0 and 1, such as 0.999.")
    sums = [np.concatenate([[0.0], np.cumsum(x)]) for x in (bad, total)]
    now = np.arange(1, len(bad) + 1)

    def ratio(hours: float) -> np.ndarray:
        before = np.maximum(now - max(1, round(hours * 3600 / step_seconds)), 0)
        errors, events = (s[now] - s[before] for s in sums)
        return np.divide(errors, events, out=np.zeros_like(errors), where=events > 0)

    return np.array(
        [
            np.minimum(ratio(rule.long_hours), ratio(rule.short_hours)) > rule.error_ratio(slo_target, period_days)
            for rule in rules
        ]
    )


@dataclass(frozen=True)
class BudgetForecast:
    """The error budget of a period, looked at from within it.

    budget: steps that may be bad in the whole period. spent: steps that were. spent_by_end (n_draw,): those and the
    ones to come, one future each. days (n_draw,): days from now until the budget is gone; infinite if it lasts.
    """

    budget: float
    spent: float
    spent_by_end: np.ndarray
    days: np.ndarray

    @property
    def p_spent(self) -> float:
        """Probability that the budget is spent before the period ends."""
        return float(np.isfinite(self.days).mean())

    def ticket(self, accepted: float = 0.10) -> bool:
        """True if the probability exceeds the accepted one: somebody should look while there is budget left."""
        return self.p_spent > accepted


def budget_forecast(
    forecast: Forecast, capacity: float | np.ndarray, *, slo_target: float, spent_steps: float, elapsed_steps: int,
    remaining_steps: int, series: int = 0,
) -> BudgetForecast:  # fmt: skip
    """Probability that the budget is gone before the period ends, from joint paths of the `remaining_steps`.

    A step is bad when demand exceeds `capacity`, one number or (horizon,). The period is the elapsed and the remaining
    steps; (1 - slo_target) of them may be bad, and the budget is spent when more are. Raises SchemaError, and
    TooShortError if the forecast ends before the period.

    Example:
        >>> import pandas as pd
        >>> f = Forecast.from_paths(np.array([[[1.0, 3.0], [1.0, 1.0]]]), issued_at=pd.Timestamp("2026-01-01", tz="UTC"),
        ...                         step_seconds=86_400, unit="cores", model="two paths")
        >>> budget_forecast(f, 2.0, slo_target=0.9, spent_steps=1, elapsed_steps=8, remaining_steps=2).p_spent
        0.5
    """
    if not 0 < slo_target < 1 or elapsed_steps < 0 or remaining_steps < 1 or not 0 <= spent_steps <= elapsed_steps:
        raise SchemaError("budget: need 0 < slo_target < 1, 0 <= spent_steps <= elapsed_steps and a step that remains.")
    paths = forecast.paths[series]
    if paths.shape[1] < remaining_steps:
        raise TooShortError(
            f"budget: {remaining_steps} steps remain, the forecast has {paths.shape[1]}. Lengthen the horizon."
        )
    limit = np.broadcast_to(np.asarray(capacity, dtype=float), paths.shape[1:])[:remaining_steps]
    if np.isnan(limit).any():
        raise SchemaError("budget: the capacity is missing (NaN). Give it in the unit of the demand.")
    budget = (1 - slo_target) * (elapsed_steps + remaining_steps)
    spent = spent_steps + np.cumsum(paths[:, :remaining_steps] > limit, axis=1)
    gone = spent > budget + 1e-9  # a share such as 0.1 of 10 steps is one step, whatever the last bit says
    step_days = forecast.step_seconds / 86_400
    first = np.where(gone.any(axis=1), (gone.argmax(axis=1) + 1) * step_days, np.inf)
    first = np.where(spent_steps > budget + 1e-9, 0.0, first)
    return BudgetForecast(budget, float(spent_steps), spent[:, -1].astype(float), first)
