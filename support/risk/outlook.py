"""A fleet's demand to come, and what each size of a catalogue would cost and risk for each resource."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from support.errors import BookError
from support.risk.predictive import DemandPredictive
from support.risk.prices import HOURS_PER_MONTH
from support.risk.usage import ROUNDING, SIZE_COLUMN, UNBOUNDED, Usage, fitting, kind, smallest_sizes

__all__ = ["Outlook", "sold"]

HARD_LEVEL = 0.999  # what memory must hold at least, since it kills where CPU slows
MOST_GROWTH = 2.0  # of a machine's cores in one step
FLAT_SHARE = 0.10  # sizes this near to the least expected cost are equally good


@dataclass(frozen=True)
class Outlook:
    """What was found out about a fleet. catalogue: sizes on offer, cheapest first, their price_per_hour in `currency`.

    measured: dimension -> (n_resource,) True where there are data; predictive: dimension -> demand to come of those.
    """

    usage: Usage
    catalogue: pd.DataFrame
    currency: str
    penalty_per_core_hour: float
    measured: Mapping[str, np.ndarray]
    predictive: Mapping[str, DemandPredictive]

    @property
    def horizon_hours(self) -> int:
        """Hours until sizes are looked at again."""
        return 24 * self.predictive["cpu"].horizon_days

    @cached_property
    def allowed(self) -> np.ndarray:
        """(n_resource, n_size): of a resource's own kind, all where its type is not in the catalogue, up to twice its cores.

        What a machine at its ceiling wants was never seen: it is grown one step, and looked at again.
        """
        kinds = np.array([kind(str(name)) for name in self.catalogue.index])
        most = MOST_GROWTH * self.usage.capacity["cpu"][:, None]
        sizes = self.catalogue["vcpu"].to_numpy(float)[None, :] <= most * (1 + ROUNDING)
        types = self.usage.resources.get("instance_type")
        if types is not None:
            listed = types.isin(self.catalogue.index).to_numpy()
            own = np.array([kind(str(name)) for name in types])
            sizes &= (own[:, None] == kinds[None, :]) | ~listed[:, None]
        return sizes | (np.arange(len(kinds))[None, :] == self.size_now[:, None])

    @cached_property
    def size_now(self) -> np.ndarray:
        """Position of today's size: by its name, else the cheapest that holds its cores and memory, else the largest."""
        held = smallest_sizes(self.catalogue, {"cpu": self.usage.capacity["cpu"], "memory": self._memory_now})
        held = np.where(held < 0, len(self.catalogue) - 1, held)
        types = self.usage.resources.get("instance_type", pd.Series("", self.usage.resources.index))
        named = self.catalogue.index.get_indexer(types)
        return np.where(named >= 0, named, held)

    @property
    def enough(self) -> np.ndarray:
        """(n_resource,): True where there are data of CPU to decide on."""
        return self.measured["cpu"]

    @property
    def _memory_now(self) -> np.ndarray:
        """Memory that today's machine has, nothing where that is not known or sizes are sold without it."""
        memory = self.usage.capacity["memory"]
        return np.where(np.isfinite(memory) & sold(self.catalogue, "memory"), memory, np.nan)

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
        """Price plus expected shortage of each size over the horizon, (n_resource, n_size), in `currency`."""
        penalty = self.penalty_per_core_hour if penalty_per_core_hour is None else penalty_per_core_hour
        price = self.catalogue["price_per_hour"].to_numpy(float) * self.horizon_hours
        return np.asarray(price[None, :] + penalty * self.unserved)

    def required(self, dimension: str, level: float, factor: float) -> np.ndarray:
        """Predictive quantile of demand times `factor`, (n_resource,), but for CPU at least the 99.9 % quantile.

        Memory that was never measured: what there is today.
        """
        found = self._memory_now if dimension == "memory" else np.full(len(self.enough), np.nan)
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
        """Position of the least `cost` (n_size,) or (n_resource, n_size) among `fits`; the dearest of the own kind where none fits; today's without data."""
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
        price = self.catalogue["price_per_hour"].to_numpy() * HOURS_PER_MONTH
        unserved = self.unserved[row] * (HOURS_PER_MONTH / self.horizon_hours)
        frame = pd.DataFrame({"vcpu": self.catalogue["vcpu"], "price": price, "unserved_core_hours": unserved})
        frame["shortage"] = self.penalty_per_core_hour * unserved
        frame["total"] = frame["price"] + frame["shortage"]
        frame["breach_share"] = self.exceedance[row]
        frame["any_breach"] = self.predictive["cpu"].any_breach(int(self.enough[:row].sum()), frame["vcpu"].to_numpy())
        frame["flat"] = frame["total"] <= (1 + FLAT_SHARE) * frame["total"].min()
        return frame[self.allowed[row]]


def sold(catalogue: pd.DataFrame, dimension: str) -> bool:
    """True if sizes differ in this dimension: not where it is unknown or unbounded."""
    column = SIZE_COLUMN[dimension]
    return column in catalogue and bool((catalogue[column] < UNBOUNDED).any())
