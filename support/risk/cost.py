"""What a fleet costs: price table times hours, on demand, committed or spot with its interruptions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from support.errors import BookError, SchemaError
from support.risk.prices import HOURS_PER_MONTH, check_prices, price_table

__all__ = ["CostModel", "expected_run_hours"]

HOUR = "hour"


def expected_run_hours(
    work_hours: float | np.ndarray,
    interruptions_per_hour: float | np.ndarray,
    checkpoint_hours: float | np.ndarray = 1.0,
    restart_hours: float | np.ndarray = 0.1,
) -> np.ndarray:
    """Machine hours that `work_hours` of work take where interruptions are a Poisson process.

    What was done since the last checkpoint (every `checkpoint_hours`; infinity: none is written) is lost and done again
    after a restart, which is itself undisturbed. After Daly (2006), writing a checkpoint being free:
    W/t (exp(rate t) - 1) (1/rate + restart). Raises SchemaError for a negative or missing number, or no work
    between checkpoints.

    Example:
        >>> expected_run_hours(100.0, 0.0).item()
        100.0
        >>> expected_run_hours(100.0, 0.01, checkpoint_hours=np.inf, restart_hours=0.0).round(1).item()
        171.8
    """
    given = {"work_hours": work_hours, "interruptions_per_hour": interruptions_per_hour, "restart_hours": restart_hours}
    for name, value in given.items():
        if not (np.isfinite(value) & (np.asarray(value) >= 0)).all():
            raise SchemaError(f"{name}: {value!r} must be a finite number of at least 0.")
    if not (np.asarray(checkpoint_hours) > 0).all():
        raise SchemaError(f"checkpoint_hours: {checkpoint_hours!r} must be above 0 (infinity: no checkpoints).")
    work, rate = np.asarray(work_hours, dtype=float), np.asarray(interruptions_per_hour, dtype=float)
    step = np.where(work > 0, np.minimum(checkpoint_hours, work), 1.0)  # without work any step will do
    hazard = rate * step
    growth = np.divide(np.expm1(hazard), hazard, out=np.ones_like(hazard), where=hazard > 0)
    return work * growth + work / step * np.expm1(hazard) * restart_hours


@dataclass(frozen=True)
class CostModel:
    """Prices of one provider, region and way to buy, and what running instances under them costs.

    prices: table with at least PRICE_COLUMNS of `support.risk.prices` (price per `unit`), one currency. purchase:
    on_demand, committed or spot; a commitment is paid for every hour of its term, used or not. discount: share of the
    on-demand price that is saved, in [0, 1). interruptions_per_month: expected, per instance, of spot.
    Raises SchemaError for a table that does not add up (see `check_prices`).

    Example:
        >>> aws = CostModel.aws_on_demand()
        >>> aws.fleet_cost({"m5.large": 2, "t3.small": 1}, hours=730)
        155.344
        >>> aws.committed(years=3).price_per_hour("m5.large") / aws.price_per_hour("m5.large")
        0.4536
    """

    prices: pd.DataFrame
    provider: str = "own"
    region: str = ""
    purchase: str = "on_demand"
    discount: float = 0.0
    interruptions_per_month: float = 0.0

    def __post_init__(self) -> None:
        check_prices(self.prices, f"{self.provider} prices")
        if not 0 <= self.discount < 1 or not self.interruptions_per_month >= 0:
            raise SchemaError(
                f"{self.provider}: discount {self.discount} and {self.interruptions_per_month} interruptions a month; "
                "the discount must be in [0, 1), the interruptions at least 0."
            )

    @classmethod
    def aws_on_demand(cls, prices: pd.DataFrame | None = None, *, region: str = "us-east-1") -> CostModel:
        """AWS on demand, from the book's table or from `prices` of your own."""
        return cls(price_table("AWS", region) if prices is None else prices, "AWS", region)

    @classmethod
    def azure_on_demand(cls, prices: pd.DataFrame | None = None, *, region: str = "eastus") -> CostModel:
        """Azure pay as you go, from the book's table or from `prices` of your own."""
        return cls(price_table("Azure", region) if prices is None else prices, "Azure", region)

    @classmethod
    def gcp_on_demand(cls, prices: pd.DataFrame | None = None, *, region: str = "us-east4") -> CostModel:
        """Google Cloud on demand, from the book's table or from `prices` of your own."""
        return cls(price_table("GCP", region) if prices is None else prices, "GCP", region)

    def committed(self, years: int = 1, plan: str | None = None) -> CostModel:
        """The same instances under a commitment of 1 or 3 years, at the book's discount for this provider."""
        return self._bought("committed", years, plan)

    def spot(self) -> CostModel:
        """The same instances as spot, which the provider may take back."""
        return self._bought("spot", 0, None)

    def _bought(self, purchase: str, years: int, plan: str | None) -> CostModel:
        if self.purchase != "on_demand":
            raise BookError(f"these are {self.purchase} prices already. Start from the on-demand model.")
        terms = price_table(self.provider, purchase=purchase, term_years=years, plan=plan).iloc[0]
        listed = price_table(self.provider).iloc[0]
        frac = float(terms["price"] / listed["price"])
        there = self.prices[self.prices["vcpu"].notna()]
        told = {name: terms[name] for name in ("purchase", "plan", "term_years", "as_of", "source") if name in there}
        return replace(
            self,
            prices=there.assign(price=there["price"] * frac, **told),
            purchase=purchase,
            discount=1 - frac,
            interruptions_per_month=float(terms["interruptions_per_month"]),
        )

    @property
    def currency(self) -> str:
        """The currency of every price."""
        return str(self.prices["currency"].iloc[0])

    def catalogue(self, resource_type: str = "compute", *, gpus: int = 0) -> pd.DataFrame:
        """Sizes on offer, cheapest first: index instance_type; vcpu, memory_gib, price_per_hour in `currency`.

        resource_type, gpus: only these, where the table has such columns. Raises SchemaError if nothing is left.
        """
        table = self.prices[(self.prices["unit"] == HOUR) & self.prices["vcpu"].notna()]
        if "resource_type" in table:
            table = table[table["resource_type"] == resource_type]
        if "gpus" in table:
            table = table[table["gpus"] == gpus]
        if table.empty:
            raise SchemaError(f"{self.provider}: no {resource_type} with {gpus} GPUs is sold by the hour here.")
        kept = table.set_index("instance_type")[["vcpu", "memory_gib", "price"]].astype(float)
        return kept.rename(columns={"price": "price_per_hour"}).sort_values("price_per_hour", kind="stable")

    def price_per_hour(self, instance_type: str) -> float:
        """Price of one instance for one hour, in `currency`; SchemaError if unknown or not sold by the hour."""
        row = self.prices[self.prices["instance_type"] == instance_type]
        if row.empty:
            raise SchemaError(
                f"{self.provider} {self.purchase}: no instance type {instance_type!r}. "
                f"There are {', '.join(self.prices['instance_type'])}."
            )
        unit = row["unit"].iloc[0]
        if unit != HOUR:
            raise SchemaError(
                f"{instance_type} is sold by the {unit}, not by the hour. Multiply price by its quantity in {unit}."
            )
        return float(row["price"].iloc[0])

    def fleet_cost(self, fleet: Mapping[str, float], hours: float = HOURS_PER_MONTH) -> float:
        """Cost of running `fleet` (instance type -> number) for `hours`, in `currency`.

        A commitment costs this whether the instances run or not. Raises SchemaError for a negative number.
        """
        for name, count in {**fleet, "hours": hours}.items():
            if not (np.isfinite(count) and count >= 0):
                raise SchemaError(f"{name}: {count!r} must be a finite number of at least 0.")
        return float(hours * sum(count * self.price_per_hour(name) for name, count in fleet.items()))

    def expected_job_cost(
        self, instance_type: str, work_hours: float, *, checkpoint_hours: float = 1.0, restart_hours: float = 0.1
    ) -> float:
        """Expected cost in `currency` of a job of `work_hours` on one instance, lost work included."""
        rate = self.interruptions_per_month / HOURS_PER_MONTH
        hours = expected_run_hours(work_hours, rate, checkpoint_hours, restart_hours)
        return float(hours) * self.price_per_hour(instance_type)
