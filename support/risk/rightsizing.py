"""Right-sizing as a decision: the size that minimises price plus expected shortage, or the smallest within two knobs.

`CostOptimizer(cost_model, goal=...).analyze(usage).recommend(target_utilization=0.7, safety_margin=0.2)`. The demand is the
posterior predictive of `support.risk.predictive`, not the sample quantile of the past.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from support.errors import BookError
from support.risk.cost import CostModel
from support.risk.findings import find
from support.risk.predictive import DemandPredictive, enough_days, fit_predictive
from support.risk.prices import HOURS_PER_MONTH
from support.risk.recommendations import Recommendations, Sizing, recommendations
from support.risk.usage import ROUNDING, SIZE_COLUMN, UNBOUNDED, Usage, fitting, kind, smallest_sizes, usage_of
from support.telemetry.schema import Telemetry

__all__ = ["GOALS", "Analysis", "CostOptimizer", "critical_level"]

GOALS = ("minimize_waste", "minimize_cost")
PENALTY_RATIO = (
    60.0  # worth of an unserved core hour over the catalogue's typical price of one: as in the scaling chapters
)
LEVEL, HARD_LEVEL = 0.95, 0.999  # the knobs' quantile; what memory must hold at least, since it kills where CPU slows
BREACH_LIMIT = 0.01  # share of the horizon's intervals that may exceed the size
MOST_GROWTH = 2.0  # of a machine's cores in one step
FLAT_SHARE = 0.10  # sizes this near to the least expected cost are equally good


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
            if known.any() and (dimension == "cpu" or _sold(catalogue, dimension))
        }
        return Analysis(self, usage, catalogue, penalty, enough, predictive)


@dataclass(frozen=True)
class Analysis:
    """What was found out about a fleet. enough: dimension -> (n_resource,) where there are data; predictive: of those."""

    optimizer: CostOptimizer
    usage: Usage
    catalogue: pd.DataFrame
    penalty_per_core_hour: float
    measured: Mapping[str, np.ndarray]
    predictive: Mapping[str, DemandPredictive]

    @cached_property
    def allowed(self) -> np.ndarray:
        """(n_resource, n_size): of a resource's own kind, all where its type is not in the catalogue, up to twice its cores.

        What a machine at its ceiling wants was never seen: it is grown one step, and looked at again.
        """
        kinds = np.array([kind(str(name)) for name in self.catalogue.index])
        most = MOST_GROWTH * self.usage.capacity["cpu"][:, None]
        sizes = np.tile(self.catalogue["vcpu"].to_numpy(float), (len(most), 1)) <= most * (1 + ROUNDING)
        types = self.usage.resources.get("instance_type")
        if types is not None:
            listed = types.isin(self.catalogue.index).to_numpy()
            own = np.array([kind(str(name)) for name in types])
            sizes &= (own[:, None] == kinds[None, :]) | ~listed[:, None]
        return sizes | (np.arange(len(kinds))[None, :] == self.size_now[:, None])

    @cached_property
    def size_now(self) -> np.ndarray:
        """Position of today's size: by its name, else the cheapest that holds its cores and memory, else the largest."""
        held = smallest_sizes(self.catalogue, {k: self.usage.capacity[k] for k in ("cpu", "memory")} | self._memory_now)
        held = np.where(held < 0, len(self.catalogue) - 1, held)
        types = self.usage.resources.get("instance_type", pd.Series("", self.usage.resources.index))
        named = self.catalogue.index.get_indexer(types)
        return np.where(named >= 0, named, held)

    @property
    def enough(self) -> np.ndarray:
        """(n_resource,): True where there are data of CPU to decide on."""
        return self.measured["cpu"]

    @property
    def _memory_now(self) -> dict[str, np.ndarray]:
        """Memory that today's machine has, nothing where that is not known or sizes are sold without it."""
        memory = self.usage.capacity["memory"]
        return {"memory": np.where(np.isfinite(memory) & _sold(self.catalogue, "memory"), memory, np.nan)}

    @cached_property
    def exceedance(self) -> np.ndarray:
        """Expected share of the horizon's intervals with demand above each size: (n_resource, n_size), NaN without data."""
        return self._each("exceedance")

    @cached_property
    def unserved(self) -> np.ndarray:
        """Expected core hours above each size in the horizon: (n_resource, n_size), NaN without data."""
        return self._each("unserved")

    def _each(self, what: str) -> np.ndarray:
        out = np.full((len(self.enough), len(self.catalogue)), np.nan)
        cores, told = self.catalogue["vcpu"].to_numpy(float), self.predictive["cpu"]
        for place, row in enumerate(np.flatnonzero(self.enough)):
            out[row] = getattr(told, what)(place, cores)
        return out

    def expected_cost(self, penalty_per_core_hour: float | None = None) -> np.ndarray:
        """Price plus expected shortage of each size over the horizon, (n_resource, n_size), in the model's currency."""
        penalty = self.penalty_per_core_hour if penalty_per_core_hour is None else penalty_per_core_hour
        hours = 24 * self.optimizer.horizon_days
        return np.asarray(self.catalogue["price_per_hour"].to_numpy()[None, :] * hours + penalty * self.unserved)

    def required(self, dimension: str, level: float, factor: float) -> np.ndarray:
        """Predictive quantile of demand times `factor`, (n_resource,), but for CPU at least the 99.9 % quantile.

        Memory that was never measured: what there is today.
        """
        found = self._memory_now["memory"].copy() if dimension == "memory" else np.full(len(self.enough), np.nan)
        if dimension in self.predictive:
            told = self.predictive[dimension]
            least = 0.0 if dimension == "cpu" else told.quantile(HARD_LEVEL)
            found[self.measured[dimension]] = np.maximum(factor * told.quantile(level), least)
        return found

    def within(self, required: Mapping[str, np.ndarray], breach_limit: float) -> np.ndarray:
        """(n_resource, n_size): sizes of the own kind that hold `required` and keep the breach limit."""
        fits = self.allowed & (np.nan_to_num(self.exceedance, nan=np.inf) <= breach_limit)
        return fits & fitting(self.catalogue, required)

    def best(self, fits: np.ndarray, cost: np.ndarray) -> np.ndarray:
        """Position of the least `cost` among `fits`; the dearest of the own kind where none fits; today's without data."""
        least = np.where(fits, cost, np.inf).argmin(axis=1)
        dearest = self.allowed.shape[1] - 1 - self.allowed[:, ::-1].argmax(axis=1)
        return np.where(~self.enough, self.size_now, np.where(fits.any(axis=1), least, dearest))

    def curve(self, resource_id: str) -> pd.DataFrame:
        """Every size for one resource, a month: price, unserved core hours, shortage, total, breach share, flat.

        flat: within 10 % of the least total. Raises BookError for an unknown resource or one without enough data.
        """
        row = self.usage.resources.index.get_indexer([resource_id])[0]
        if row < 0 or not self.enough[row]:
            raise BookError(f"{resource_id}: unknown, or without two days of data. Choose another resource.")
        months = HOURS_PER_MONTH / (24 * self.optimizer.horizon_days)
        price = self.catalogue["price_per_hour"].to_numpy() * HOURS_PER_MONTH
        unserved = self.unserved[row] * months
        frame = pd.DataFrame({"vcpu": self.catalogue["vcpu"], "price": price, "unserved_core_hours": unserved})
        frame["shortage"] = self.penalty_per_core_hour * unserved
        frame["total"] = frame["price"] + frame["shortage"]
        frame["breach_share"] = self.exceedance[row]
        frame["any_breach"] = self.predictive["cpu"].any_breach(int(self.enough[:row].sum()), frame["vcpu"].to_numpy())
        frame["flat"] = frame["total"] <= (1 + FLAT_SHARE) * frame["total"].min()
        return frame[self.allowed[row]]

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
        price = np.tile(self.catalogue["price_per_hour"].to_numpy(float), (len(self.enough), 1))
        if self.optimizer.goal == "minimize_waste":
            required = {"cpu": self.required("cpu", level, factor)}
            required |= {d: self.required(d, level, factor) for d in ("memory", "network")}
            proposed = self.best(self.within(required, breach_limit), price)
        else:
            required = {d: self.required(d, level, 1 + safety_margin) for d in ("memory", "network")}
            proposed = self.best(self.within(required, breach_limit), self.expected_cost())
            required["cpu"] = self.catalogue["vcpu"].to_numpy(float)[proposed]
        findings = find(self.usage, required, self.catalogue, size_now=self.size_now, proposed=proposed)
        statistic = self.required("cpu", level, 1.0)
        knobs = Sizing(
            target_utilization, safety_margin, level, breach_limit, min_saving, statistic, proposed, findings
        )
        return recommendations(self, knobs, node)


def _sold(catalogue: pd.DataFrame, dimension: str) -> bool:
    """True if sizes differ in this dimension: not where it is unknown or unbounded."""
    column = SIZE_COLUMN[dimension]
    return column in catalogue and bool((catalogue[column] < UNBOUNDED).any())
