"""From proposed sizes to records, and what they save: as a distribution, on the request and in money that is really freed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from support.errors import BookError
from support.risk.outlook import Outlook
from support.risk.prices import HOURS_PER_MONTH
from support.risk.records import RecommendationRecord, record_id, records_table
from support.risk.usage import CEILING, UNBOUNDED

__all__ = ["Recommendations", "SavingsEstimate", "Sizing", "nodes_needed", "recommendations"]

N_DRAWS = 400  # of the shortage in the horizon, for each resource that changes
LEAD_TIME_HOURS = 1.0  # a restart in a maintenance window
MODEL_VERSION = "day urn with level factor, 1"


@dataclass(frozen=True)
class Sizing:
    """What `recommend` decided: its goal and knobs, the statistic (n_resource,) in cores, positions, and the findings."""

    goal: str
    target_utilization: float
    safety_margin: float
    level: float
    breach_limit: float
    min_saving: float
    statistic: np.ndarray
    proposed: np.ndarray
    findings: pd.DataFrame


@dataclass(frozen=True)
class SavingsEstimate:
    """Savings a month in the currency of the prices, of the machines that shrink.

    draws: (n_draws,) of what is saved with the cost of shortage taken off. request: difference of the list prices.
    realised: what is saved once whole nodes can go; equal to the request where the sizes are machines themselves.
    growth: what the machines that must grow cost more; not a saving, and what they gain was never measured.
    """

    draws: np.ndarray
    request: float
    realised: float
    growth: float

    def quantile(self, level: float) -> float:
        """Quantile of the draws."""
        return float(np.quantile(self.draws, level))

    @property
    def mean(self) -> float:
        """Mean of the draws."""
        return float(self.draws.mean())


@dataclass(frozen=True)
class Recommendations:
    """One record a resource, and the savings of those that change.

    savings_estimate: see SavingsEstimate. rightsizing_count: recommendations that change a size, keep the breach limit and
    save at least min_saving. implied_breach_probability: (n_resource,) expected share of the horizon's intervals above the
    proposed size, NaN without data. positions: (n_resource,) of the proposed sizes in the catalogue.
    """

    records: tuple[RecommendationRecord, ...]
    savings_estimate: SavingsEstimate
    rightsizing_count: int
    implied_breach_probability: np.ndarray
    positions: np.ndarray

    def table(self) -> pd.DataFrame:
        """One row a record, index `id`."""
        return records_table(self.records)


def nodes_needed(requests: np.ndarray, node: np.ndarray) -> int:
    """Nodes that first-fit-decreasing packs `requests` (n, n_dimension) on; `node` (n_dimension,) is what one holds.

    An upper bound of the optimum, as schedulers work too. Raises BookError for a request that no node holds.

    Example:
        >>> nodes_needed(np.array([[3.0], [2.0], [2.0], [1.0]]), np.array([4.0]))
        2
    """
    if (requests > node + 1e-9).any():
        raise BookError(
            f"nodes: a request of {requests.max(axis=0).tolist()} fits on no node of {node.tolist()}. Take a larger one."
        )
    free = np.empty((0, len(node)))
    for request in requests[np.argsort(-(requests / node).max(axis=1), kind="stable")]:
        fits = (free >= request - 1e-9).all(axis=1)
        if fits.any():
            free[fits.argmax()] -= request
        else:
            free = np.vstack([free, node - request])
    return len(free)


def recommendations(outlook: Outlook, sizing: Sizing, node: tuple[float, float, float] | None) -> Recommendations:
    """Records and savings for the sizes that `Analysis.recommend` proposes."""
    monthly = outlook.catalogue["price_per_hour"].to_numpy(float) * HOURS_PER_MONTH
    now, new, rows = outlook.size_now, sizing.proposed.copy(), np.arange(len(sizing.proposed))
    saving = monthly[now] - monthly[new]
    too_small = sizing.findings["finding"].to_numpy() == "under_provisioned"  # is mended whatever it saves
    little = (saving >= 0) & (saving < sizing.min_saving) & ~too_small
    new = np.where(little | ~outlook.enough, now, new)
    saving = monthly[now] - monthly[new]
    draws = _shortage_draws(outlook, now, new)
    net = saving[:, None] - draws
    after = outlook.exceedance[rows, new]
    counted = (saving >= sizing.min_saving) & (new != now) & (after <= sizing.breach_limit)
    shrinks = saving > 0
    request = float(saving[shrinks].sum())
    realised = request if node is None else _realised(outlook, now, np.where(shrinks, new, now), node)
    records = tuple(_record(outlook, sizing, int(row), int(now[row]), int(new[row]), net[row]) for row in rows)
    estimate = SavingsEstimate(net[shrinks].sum(axis=0), request, realised, float((-saving[saving < 0]).sum()))
    return Recommendations(records, estimate, int(counted.sum()), after, new)


def _shortage_draws(outlook: Outlook, now: np.ndarray, new: np.ndarray) -> np.ndarray:
    """Cost a month of what the new size leaves unserved beyond today's, (n_resource, N_DRAWS); 0 where nothing changes."""
    cores = outlook.catalogue["vcpu"].to_numpy(float)
    months = HOURS_PER_MONTH / outlook.horizon_hours
    out = np.zeros((len(now), N_DRAWS))
    for place, row in enumerate(np.flatnonzero(outlook.enough)):
        if now[row] != new[row]:
            rng = np.random.default_rng(row)  # a record must not change from call to call
            sizes = cores[[now[row], new[row]]]
            unserved = outlook.predictive["cpu"].draw_unserved(place, sizes, n_draws=N_DRAWS, rng=rng)
            out[row] = outlook.penalty_per_core_hour * months * (unserved[:, 1] - unserved[:, 0])
    return out


def _realised(outlook: Outlook, now: np.ndarray, new: np.ndarray, node: tuple[float, float, float]) -> float:
    """Saving a month if sizes are requests on nodes (cores, GiB, price per hour) and only empty nodes are given back."""
    has = np.array(node[:2])
    sizes = outlook.catalogue[["vcpu", "memory_gib"]].to_numpy(float)
    sizes = np.where(sizes >= UNBOUNDED, 0.0, sizes)
    freed = nodes_needed(sizes[now], has) - nodes_needed(sizes[new], has)
    return float(freed * node[2] * HOURS_PER_MONTH)


def _record(outlook: Outlook, sizing: Sizing, row: int, now: int, new: int, net: np.ndarray) -> RecommendationRecord:
    usage, catalogue, told = outlook.usage, outlook.catalogue, outlook.predictive["cpu"]
    table, name = usage.resources.iloc[row], str(usage.resources.index[row])
    finding = str(sizing.findings["finding"].iloc[row]) if outlook.enough[row] else "insufficient_data"
    if now == new and finding == "over_provisioned":
        finding = "optimised"
    enough, place = bool(outlook.enough[row]), int(outlook.enough[:row].sum())
    cores, price = catalogue["vcpu"].to_numpy(float), catalogue["price_per_hour"].to_numpy(float)
    share = told.exceedance_by_factor(place, cores[[now, new]]) if enough else np.full((1, 2), np.nan)
    start, end = usage.timestamps[0], usage.timestamps[-1] + pd.Timedelta(hours=usage.step_hours)
    statistic = float(sizing.statistic[row])
    size = [{"size": str(catalogue.index[k]), "count": 1, "unit_price": float(price[k])} for k in (now, new)]
    interval = np.quantile(share[:, 1], [0.05, 0.95]).tolist()
    knobs = sizing.goal == "minimize_waste"
    return RecommendationRecord(
        id=record_id(name, end.isoformat(), MODEL_VERSION, sizing.goal, size[1]["size"]),
        created_at=end.isoformat(),
        resource_id=name,
        business_unit=_named(table, "business_unit", "team"),
        criticality=_named(table, "criticality"),
        finding=finding,
        binding_dimension=str(sizing.findings["binding_dimension"].iloc[row]),
        current=size[0],
        proposed=size[1],
        horizon_days=told.horizon_days,
        lead_time_hours=LEAD_TIME_HOURS,
        statistic={"name": "predictive quantile of CPU demand", "level": sizing.level, "value": statistic},
        target_utilization=sizing.target_utilization if knobs else None,
        safety_margin=sizing.safety_margin if knobs else None,
        headroom_implied=float(cores[new] / statistic - 1) if statistic > 0 else None,
        breach_probability={
            "before": float(share[:, 0].mean()), "after": float(share[:, 1].mean()), "interval": interval,
            "any_after": float(told.any_breach(place, cores[[new]])[0]) if enough else float("nan"),
        },
        expected_unserved=float(outlook.unserved[row, new]),
        monthly_cost={"before": float(price[now] * HOURS_PER_MONTH), "after": float(price[new] * HOURS_PER_MONTH)},
        savings={f"p{q}": float(np.quantile(net, q / 100)) for q in (10, 50, 90)}
        | {"realised_if": "the machine is resized, or its node becomes empty and is given back"},
        confidence=float((share[:, 1] <= sizing.breach_limit).mean()) if enough else 0.0,
        reason=_reason(finding, name, statistic, float(usage.capacity["cpu"][row]), sizing, size, row),
        alternatives=_alternatives(outlook, row, new) if enough else [],
        rollback_condition=f"more than {100 * sizing.breach_limit:.1f} % of a day's intervals use {100 * CEILING:.0f} % or more of the new size",
        model_version=MODEL_VERSION,
        data_window={"start": start.isoformat(), "end": end.isoformat(), "measured": float(usage.measured_share()[row])},
        assumptions=_assumptions(outlook, row),
        expires_at=(end + pd.Timedelta(days=told.horizon_days)).isoformat(),
        currency=outlook.currency,
    )  # fmt: skip


def _named(table: pd.Series, *columns: str) -> str:
    """What the first of `columns` says that says something."""
    return next((str(table[c]) for c in columns if c in table and pd.notna(table[c]) and table[c] != ""), "(unknown)")


def _reason(
    finding: str, name: str, statistic: float, cores: float, sizing: Sizing, size: list[dict[str, object]], row: int
) -> str:
    demand = f"the {100 * sizing.level:.0f} % quantile of CPU in the days to come is {statistic:.3g} of {cores:g} cores"
    flow = float(sizing.findings["network_mbps"].iloc[row])
    binding = {"cpu": "CPU"}.get(found := str(sizing.findings["binding_dimension"].iloc[row]), found)
    now, proposed = (part["size"] for part in size)
    then = f"{proposed} is proposed" if proposed != now else "nothing larger of its kind is on offer"
    quiet = "and has no traffic" if flow == flow else "(its network was not measured)"
    return {
        "insufficient_data": f"{name} has too few measured days; nothing is changed.",
        "zombie": f"{name} never used 5 % of its CPU {quiet}: ask its owner whether it can be switched off.",
        "idle": f"{name} uses less than 5 % of its CPU {quiet}: {demand}; switching it off saves more than shrinking it.",
        "under_provisioned": f"{name} is too small, its {binding} binds: {demand}; {then}.",
        "over_provisioned": f"{name} is too large: {demand}; {proposed} holds it.",
        "optimised": f"{name} is as it should be: {demand}.",
    }[finding]


def _alternatives(outlook: Outlook, row: int, new: int) -> list[dict[str, object]]:
    """The neighbouring sizes of its kind with price a month, breach share and expected cost of the horizon."""
    own = np.flatnonzero(outlook.allowed[row])
    at = int(np.searchsorted(own, new))
    cost = outlook.expected_cost()[row]
    return [
        {
            "size": str(outlook.catalogue.index[k]),
            "price_per_month": float(outlook.catalogue["price_per_hour"].iloc[k] * HOURS_PER_MONTH),
            "breach_share": float(outlook.exceedance[row, k]),
            "expected_cost_horizon": float(cost[k]),
        }
        for k in own[max(0, at - 1) : at + 2]
        if k != new
    ]


def _assumptions(outlook: Outlook, row: int) -> list[str]:
    usage = outlook.usage
    said = ["days to come are like the newest weeks, times a level that moves as it did between weeks"]
    if "memory" not in usage.demand or not outlook.measured["memory"][row]:
        said.append("memory was not measured and stays as it is")
    if "network" not in usage.demand:
        said.append("network was not measured and is not looked at")
    if usage.ceiling_share()[row] > 0:
        said.append("CPU reached its ceiling: how much more was wanted is not known")
    return said
