"""Right-sizing as a decision: the size that minimises price plus expected shortage, or the smallest within two knobs.

`CostOptimizer(cost_model, goal=...).analyze(usage).recommend(target_utilization=0.7, safety_margin=0.2)`. The demand is the
posterior predictive of `support.risk.predictive`, not the sample quantile of the past.
"""

from __future__ import annotations

from dataclasses import dataclass

from support.errors import BookError
from support.risk.cost import CostModel
from support.risk.findings import find
from support.risk.outlook import Outlook, sold
from support.risk.predictive import enough_days, fit_predictive
from support.risk.recommendations import Recommendations, Sizing, recommendations
from support.risk.usage import Usage, usage_of
from support.telemetry.schema import Telemetry

__all__ = ["GOALS", "Analysis", "CostOptimizer", "critical_level"]

GOALS = ("minimize_waste", "minimize_cost")
PENALTY_RATIO = 60.0  # worth of an unserved core hour over the catalogue's median price of one
LEVEL = 0.95  # the knobs' quantile
BREACH_LIMIT = 0.01  # share of the horizon's intervals that may exceed the size


def critical_level(price_per_hour: float, penalty_per_hour: float) -> float:
    """Share of intervals that demand must stay below the size: 1 - price / penalty, the critical fractile, at least 0.

    price: of one more core for an hour; penalty: of one core hour not served. Source: newsvendor (Arrow et al. 1951).

    Example:
        >>> critical_level(0.05, 1.0)
        0.95
    """
    if not price_per_hour >= 0 or not penalty_per_hour > 0:
        raise BookError(f"price {price_per_hour} and penalty {penalty_per_hour}: give at least 0, and more than 0.")
    return max(0.0, 1 - price_per_hour / penalty_per_hour)


@dataclass(frozen=True)
class CostOptimizer:
    """Sizes for a fleet under the prices of `cost_model`, a CostModel whose catalogue are the sizes on offer.

    goal: "minimize_waste" takes the smallest size within the two knobs and the breach limit; "minimize_cost" the one with
    the least price plus expected shortage within the limit. horizon_days: until sizes are looked at again. penalty_per_core_hour:
    what a core hour not served costs; None: 60 times the catalogue's median price of one. Raises BookError for another goal.
    """

    cost_model: CostModel
    goal: str = "minimize_waste"
    horizon_days: int = 7
    penalty_per_core_hour: float | None = None

    def __post_init__(self) -> None:
        if self.goal not in GOALS:
            raise BookError(f"goal: {self.goal!r} is unknown. Use one of {', '.join(GOALS)}.")

    def analyze(self, usage: Usage | Telemetry) -> Analysis:
        """The fleet's demand to come, and what each size of the catalogue would cost and risk for each resource."""
        usage = usage_of(usage) if isinstance(usage, Telemetry) else usage
        catalogue = self.cost_model.catalogue()
        per_core = float((catalogue["price_per_hour"] / catalogue["vcpu"]).median())
        penalty = PENALTY_RATIO * per_core if self.penalty_per_core_hour is None else self.penalty_per_core_hour
        enough = {dimension: enough_days(usage, dimension) for dimension in usage.demand}
        if not enough["cpu"].any():
            raise BookError("usage: no resource has two days that are half measured. Wait for more data.")
        predictive = {
            dimension: fit_predictive(usage.only(known), dimension, horizon_days=self.horizon_days)
            for dimension, known in enough.items()
            if known.any() and (dimension == "cpu" or sold(catalogue, dimension))
        }
        return Analysis(usage, catalogue, self.cost_model.currency, penalty, enough, predictive, self)


@dataclass(frozen=True)
class Analysis(Outlook):
    """The outlook of a fleet and the optimizer that asked for it, whose goal `recommend` follows."""

    optimizer: CostOptimizer

    def recommend(
        self, *, target_utilization: float = 0.7, safety_margin: float = 0.2, level: float = LEVEL,
        breach_limit: float = BREACH_LIMIT, min_saving: float = 1.0, node: tuple[float, float, float] | None = None,
    ) -> Recommendations:  # fmt: skip
        """A size for every resource, with what it saves and risks.

        required = Q_level(demand) (1 + safety_margin) / target_utilization for "minimize_waste", where Q is the predictive
        quantile of an interval of the horizon: the two knobs multiply, 1.2 / 0.7 = 1.71, so that the quantile uses 58 % of
        the size. Of memory the margin alone is asked by "minimize_cost", and its 99.9 % quantile by both. breach_limit: largest expected share of intervals above the
        size. min_saving: a month; a smaller one is not worth a restart. node: cores, GiB and price per hour of
        the nodes that the sizes are packed on, for the realised saving. Raises BookError for knobs out of range.
        """
        if not 0 < target_utilization <= 1 or not safety_margin >= 0 or not 0 < level < 1 or not 0 < breach_limit <= 1:
            raise BookError(
                f"target_utilization {target_utilization}, safety_margin {safety_margin}, level {level}, breach_limit "
                f"{breach_limit}: give a target in (0, 1], a margin of at least 0, and shares between 0 and 1."
            )
        factor = (1 + safety_margin) / target_utilization
        if self.optimizer.goal == "minimize_waste":
            required = {d: self.required(d, level, factor) for d in ("cpu", "memory", "network")}
            proposed = self.best(self.within(required, breach_limit), self.catalogue["price_per_hour"].to_numpy(float))
        else:
            required = {d: self.required(d, level, 1 + safety_margin) for d in ("memory", "network")}
            proposed = self.best(self.within(required, breach_limit), self.expected_cost())
            required["cpu"] = self.catalogue["vcpu"].to_numpy(float)[proposed]
        findings = find(self.usage, required, self.catalogue, size_now=self.size_now, proposed=proposed)
        statistic = self.required("cpu", level, 1.0)
        sizing = Sizing(
            self.optimizer.goal, target_utilization, safety_margin, level, breach_limit, min_saving, statistic, proposed, findings
        )  # fmt: skip
        return recommendations(self, sizing, node)
