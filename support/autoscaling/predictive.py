"""Rules on a forecast: thresholds on its mean, and the hybrid of interval bounds, emergency and anomaly rules."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np

from support.autoscaling.environment import Environment
from support.autoscaling.policies import forecast_ahead, known_level
from support.autoscaling.simulate import Observation
from support.errors import SchemaError
from support.forecasting import RollingQuantiles
from support.writing import plural

__all__ = ["Hybrid", "PredictiveThresholds"]


@dataclass(frozen=True)
class _Outlook:
    """What a rule needs of the forecast, each (n_time,) in servers' worth of work, row i from row i alone.

    upper, lower: what the thresholds meet, the largest until `lead`; usual: the most expected of the present tick.
    """

    delay: int
    lead: int
    capacity: float
    upper: np.ndarray
    lower: np.ndarray
    usual: np.ndarray = field(default_factory=lambda: np.empty(0))
    quiet_from: int = 0  # first tick in which servers may go

    def ready(self, seen: Observation) -> int:
        """Servers that will serve `lead` ticks from now."""
        return seen.active + sum(count for age, count in seen.pipeline if age + self.lead >= self.delay)


@dataclass(frozen=True)
class PredictiveThresholds:
    """`step_up` servers more where the mean forecast is above `high` (fraction) of their work, `step_down` fewer below `low`.

    lead_ticks: how far ahead the rule looks, at the largest mean from now until then, and at the servers that will
    serve then. 0 is the rule as shipped: it acts on the present minute, when a new server is a boot delay away. None is
    the boot delay: the rule mended. Source: the predictive rule of a published log-driven autoscaler (0.70, 0.35).
    """

    high: float = 0.70
    low: float = 0.35
    lead_ticks: int | None = 0
    step_up: int = 1
    step_down: int = 1
    name: str = "predictive thresholds"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> _Outlook:
        """The largest mean of each row; refuses thresholds in the wrong order and forecasts that are too short."""
        _check(self.name, self.low, self.high, self.lead_ticks)
        ahead = forecast_ahead(environment, forecast, self.name, self.lead_ticks)
        lead = environment.boot_delay_ticks if self.lead_ticks is None else self.lead_ticks
        most = ahead.mean[:, : lead + 1].max(axis=1) / environment.capacity_per_tick
        return _Outlook(environment.boot_delay_ticks, lead, environment.capacity_per_tick, most, most)

    def act(self, state: _Outlook, seen: Observation) -> tuple[_Outlook, int, str]:
        """One step from the present total, or none."""
        total, ready = seen.active + seen.booting, state.ready(seen)
        said = f"the mean forecast is the work of {state.upper[seen.row]:.2f} servers"
        if state.upper[seen.row] > self.high * ready:
            return state, total + self.step_up, f"{said}, above {100 * self.high:.0f} % of {ready}"
        if state.lower[seen.row] < self.low * ready:
            return state, total - self.step_down, f"{said}, below {100 * self.low:.0f} % of {ready}"
        return state, total, f"{said}, between the thresholds for {ready}"


@dataclass(frozen=True)
class Hybrid:
    """Out on the upper quantile, in on the lower one, and two reactive rules for what no forecast saw.

    The first that holds counts: utilisation of the newest tick above `emergency` (fraction), `alert_step` servers more;
    an anomaly, demand of the newest tick above the `anomaly_level` quantile issued for it, `alert_step` more; upper
    quantile above `high` of the servers' work, one more; lower quantile below `low` of it, one fewer, unless an
    emergency or anomaly was less than `hold_ticks` ago. lead_ticks as in PredictiveThresholds. Levels that the forecast
    lacks are its outermost ones. Where upper / lower is above high / low, an interval that wide, the last two rules undo
    each other. Source: the hybrid rule of a published log-driven autoscaler (0.75, 0.40, 0.90, +2, a 95 % interval, and
    a hold of 15 minutes that it declares but does not use).
    """

    high: float = 0.75
    low: float = 0.40
    emergency: float = 0.90
    alert_step: int = 2
    upper_level: float = 0.975
    lower_level: float = 0.025
    anomaly_level: float = 0.995
    hold_ticks: int = 15
    lead_ticks: int | None = None
    name: str = "hybrid"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> _Outlook:
        """The largest quantiles of each row; refuses what PredictiveThresholds refuses and levels in the wrong order."""
        _check(self.name, self.low, self.high, self.lead_ticks)
        if not 0 < self.lower_level < self.upper_level <= self.anomaly_level < 1:
            raise SchemaError(
                f"{self.name}: 0 < lower_level {self.lower_level} < upper_level {self.upper_level} <= anomaly_level "
                f"{self.anomaly_level} < 1 must hold."
            )
        ahead = forecast_ahead(environment, forecast, self.name, self.lead_ticks)
        lead = environment.boot_delay_ticks if self.lead_ticks is None else self.lead_ticks
        upper, lower, usual = (
            ahead.at(known_level(ahead, level)) / environment.capacity_per_tick
            for level in (self.upper_level, self.lower_level, self.anomaly_level)
        )
        return _Outlook(
            environment.boot_delay_ticks, lead, environment.capacity_per_tick, upper[:, : lead + 1].max(axis=1),
            lower[:, : lead + 1].max(axis=1), usual[:, 0],
        )  # fmt: skip

    def act(self, state: _Outlook, seen: Observation) -> tuple[_Outlook, int, str]:
        """The first of the four rules that holds."""
        total, ready = seen.active + seen.booting, state.ready(seen)
        if alert := self._alert(state, seen):
            return replace(state, quiet_from=seen.tick + self.hold_ticks), total + self.alert_step, alert
        upper, lower = float(state.upper[seen.row]), float(state.lower[seen.row])
        if upper > self.high * ready:
            reason = f"the upper quantile is the work of {upper:.2f} servers, above {100 * self.high:.0f} % of {ready}"
            return state, total + 1, reason
        if lower < self.low * ready:
            reason = f"the lower quantile is the work of {lower:.2f} servers, below {100 * self.low:.0f} % of {ready}"
            if seen.tick < state.quiet_from:
                return state, total, f"{reason}, but held after an alert"
            return state, total - 1, reason
        return state, total, f"both quantiles agree with {plural(ready, 'server')}"

    def _alert(self, state: _Outlook, seen: Observation) -> str:
        """The emergency or the anomaly in words, empty if there is none."""
        if not len(seen.arrivals):
            return ""
        used = float(seen.utilization[-1])
        if used > self.emergency:
            return f"emergency: utilisation {100 * used:.0f} % is above {100 * self.emergency:.0f} %"
        newest = seen.row - seen.tick + len(seen.arrivals) - 1
        demand, usual = float(seen.arrivals[-1]) / state.capacity, float(state.usual[newest])
        if demand > usual:
            return f"anomaly: the work of {demand:.2f} servers, forecast at most {usual:.2f}"
        return ""


def _check(name: str, low: float, high: float, lead_ticks: int | None) -> None:
    if not 0 <= low < high <= 1:
        raise SchemaError(f"{name}: low {low} and high {high} must satisfy 0 <= low < high <= 1.")
    if lead_ticks is not None and lead_ticks < 0:
        raise SchemaError(f"{name}: lead_ticks is {lead_ticks}, it must not be negative.")
