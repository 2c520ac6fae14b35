"""Replay of sizing policies on weeks they have not seen: cost, breaches, unserved core hours, regret to the optimum in money.

At the start of each held-out week a policy sees everything before it and names a size for every machine; the week then
runs against that size. What a larger machine than today's would have served is not in a trace, so no policy may grow one:
the replay judges shrinking only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from support.errors import BookError, TooShortError
from support.risk.cost import CostModel
from support.risk.predictive import enough_days
from support.risk.rightsizing import BREACH_LIMIT, LEVEL, Analysis, CostOptimizer
from support.risk.rules import Rule
from support.risk.usage import SIZE_COLUMN, Usage, smallest_sizes

__all__ = [
    "CLAIRVOYANT",
    "Policy",
    "Replay",
    "breach_policy",
    "decision_policy",
    "equal_breach_saving",
    "knob_policy",
    "replay",
    "rule_policy",
    "today_policy",
]

CLAIRVOYANT = "clairvoyant"
WEEK_DAYS = 7
LEAST_MEASURED = 0.5  # of a week, for a machine to be judged in it
N_RESAMPLES = 1000
EXCESS_CORES = 1e-9  # above a size: rounding is no breach

Policy = Callable[[Analysis], np.ndarray]  # what is known before a week -> position of a size for each machine


def rule_policy(rule: Rule) -> Policy:
    """The smallest size that holds what `rule` requires of CPU; the largest where none does, today's if it saw nothing."""

    def choose(known: Analysis) -> np.ndarray:
        required, today = rule.required(known.usage)["cpu"], known.usage.capacity["cpu"]
        return _holding(known, np.where(np.isnan(required), today, required))

    return choose


def decision_policy(penalty_per_core_hour: float) -> Policy:
    """The size with the least price plus expected shortage, by the posterior predictive: no other knob."""
    return lambda known: known.best(known.allowed, known.expected_cost(penalty_per_core_hour))


def breach_policy(price_per_breach_hour: float) -> Policy:
    """The size with the least price plus `price_per_breach_hour` times the expected hours above it: for equal breaches."""
    return lambda known: known.best(
        known.allowed, known.expected_cost(0.0) + price_per_breach_hour * 24 * WEEK_DAYS * known.exceedance
    )


def knob_policy(target_utilization: float, safety_margin: float) -> Policy:
    """The two knobs of `recommend` on the predictive quantile, within its breach limit. Raises BookError as it does."""
    if not 0 < target_utilization <= 1 or not safety_margin >= 0:
        raise BookError(
            f"target_utilization {target_utilization}, safety_margin {safety_margin}: give a target in (0, 1], a margin of at least 0."
        )

    def choose(known: Analysis) -> np.ndarray:
        required = {"cpu": known.required("cpu", LEVEL, (1 + safety_margin) / target_utilization)}
        price = np.tile(known.catalogue["price_per_hour"].to_numpy(float), (len(known.enough), 1))
        return known.best(known.within(required, BREACH_LIMIT), price)

    return choose


def today_policy(known: Analysis) -> np.ndarray:
    """The smallest size that is no smaller than today's: nothing is changed."""
    return _holding(known, known.usage.capacity["cpu"])


def _holding(known: Analysis, cores: np.ndarray) -> np.ndarray:
    found = smallest_sizes(known.catalogue, {"cpu": cores})
    return np.where(found < 0, len(known.catalogue) - 1, found)


@dataclass(frozen=True)
class Replay:
    """What each policy would have cost, (n_machine,) sums over the held-out weeks.

    price, shortage: money by policy; breach_hours, unserved: hours above the size and core hours not served. hours:
    judged hours of each machine. machines: their names.
    """

    price: Mapping[str, np.ndarray]
    shortage: Mapping[str, np.ndarray]
    breach_hours: Mapping[str, np.ndarray]
    unserved: Mapping[str, np.ndarray]
    hours: np.ndarray
    machines: pd.Index

    def total(self, policy: str) -> np.ndarray:
        """Price plus shortage of each machine."""
        return self.price[policy] + self.shortage[policy]

    def table(self) -> pd.DataFrame:
        """One row a policy, cheapest total first: price, shortage, total, regret, breach_percent, unserved_core_hours."""
        best = self.total(CLAIRVOYANT).sum()
        rows = {
            name: {
                "price": self.price[name].sum(),
                "shortage": self.shortage[name].sum(),
                "total": self.total(name).sum(),
                "regret": self.total(name).sum() - best,
                "breach_percent": 100 * self.breach_hours[name].sum() / max(self.hours.sum(), 1e-9),
                "unserved_core_hours": self.unserved[name].sum(),
            }
            for name in self.price
        }
        return pd.DataFrame.from_dict(rows, orient="index").rename_axis("policy").sort_values("total")

    def saving(
        self, ours: str, other: str, *, rng: np.random.Generator, level: float = 0.9
    ) -> tuple[float, float, float]:
        """What `ours` costs less than `other`: total, and a percentile interval from machines drawn anew in pairs."""
        difference = self.total(other) - self.total(ours)
        drawn = difference[rng.integers(len(difference), size=(N_RESAMPLES, len(difference)))].sum(axis=1)
        low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
        return float(difference.sum()), float(low), float(high)


def replay(
    usage: Usage,
    policies: Mapping[str, Policy],
    cost_model: CostModel,
    *,
    past_days: float,
    penalty_per_core_hour: float,
) -> Replay:
    """Run `policies` over the whole weeks after `past_days`; the clairvoyant one, which knows each week, is added.

    A machine is judged in the weeks that are half measured, before which it had two half measured days. cost_model: its
    catalogue are the sizes; a size is paid for every judged hour, and one above today's counts as today's. Raises TooShortError without a whole held-out week.
    """
    n_weeks = int((usage.demand["cpu"].shape[1] / usage.steps_per_day - past_days) // WEEK_DAYS)
    if n_weeks < 1:
        raise TooShortError(
            f"replay: no whole week after day {past_days:g}. Give a longer series or a smaller past_days."
        )
    catalogue, n = cost_model.catalogue(), len(usage.resources)
    names = [*policies, CLAIRVOYANT]
    sums = {what: {name: np.zeros(n) for name in names} for what in ("price", "shortage", "breach_hours", "unserved")}
    judged_hours = np.zeros(n)
    for week in range(n_weeks):
        first = past_days + WEEK_DAYS * week
        past, now = usage.days(0, first), usage.days(first, first + WEEK_DAYS)
        judged = enough_days(past) & (now.measured_share() >= LEAST_MEASURED)
        if not judged.any():
            continue
        optimizer = CostOptimizer(cost_model, "minimize_cost", WEEK_DAYS, penalty_per_core_hour)
        known = optimizer.analyze(past.only(judged))
        breached, unserved, hours = _outcomes(now.only(judged), catalogue)
        price = catalogue["price_per_hour"].to_numpy(float)[None, :] * hours[:, None]
        chosen = {name: policy(known) for name, policy in policies.items()}
        chosen[CLAIRVOYANT] = (price + penalty_per_core_hour * unserved).argmin(axis=1)
        rows, today = np.arange(len(hours)), today_policy(known)
        judged_hours[judged] += hours
        for name, wanted in chosen.items():
            position = np.minimum(wanted, today)  # sizes are in the order of their prices
            sums["price"][name][judged] += price[rows, position]
            sums["shortage"][name][judged] += penalty_per_core_hour * unserved[rows, position]
            sums["breach_hours"][name][judged] += breached[rows, position]
            sums["unserved"][name][judged] += unserved[rows, position]
    kept = judged_hours > 0
    cut = {what: {name: values[kept] for name, values in by.items()} for what, by in sums.items()}
    return Replay(**cut, hours=judged_hours[kept], machines=usage.resources.index[kept])


def _outcomes(now: Usage, catalogue: pd.DataFrame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Hours above, and core hours not served by, each size (n, n_size); measured hours (n,)."""
    demand, sizes = now.demand["cpu"], catalogue[SIZE_COLUMN["cpu"]].to_numpy(float)
    seen = np.isfinite(demand)
    excess = [np.where(seen, demand - size, 0.0) for size in sizes]
    breached = np.stack([(e > EXCESS_CORES).sum(axis=1) for e in excess], axis=1) * now.step_hours
    unserved = np.stack([np.maximum(e, 0).sum(axis=1) for e in excess], axis=1) * now.step_hours
    return breached, unserved, seen.sum(axis=1) * now.step_hours


def equal_breach_saving(
    result: Replay, ours: list[str], other: str, *, rng: np.random.Generator, level: float = 0.9
) -> tuple[float, float, float]:
    """Share of `other`'s price that `ours` saves at the same breach hours: value and percentile interval over machines.

    ours: the same policy with its knob from loose to strict; between two knobs the price is linear in the breach hours.
    Where the loosest of them breaches less than `other`, its price counts as it is. NaN where even the strictest one
    breaches more: the value, or an end of the interval if so many of the resamples are of that kind.
    """
    n = len(result.machines)
    weights = np.vstack([np.ones(n), rng.multinomial(n, np.full(n, 1 / n), size=N_RESAMPLES)])
    breaches = weights @ np.stack([result.breach_hours[name] for name in ours], axis=1)
    prices = weights @ np.stack([result.price[name] for name in ours], axis=1)
    target, price = weights @ result.breach_hours[other], weights @ result.price[other]
    found = np.empty(len(weights))
    for k in range(len(weights)):
        order = np.argsort(breaches[k], kind="stable")
        at = np.interp(target[k], breaches[k, order], np.minimum.accumulate(prices[k, order]), left=np.nan)
        found[k] = 1 - at / price[k]
    ranked, tail = np.where(np.isnan(found), -np.inf, found), (1 - level) / 2  # what cannot be matched is the worst
    low = float(np.quantile(ranked, tail, method="lower"))
    high = float(np.quantile(ranked, 1 - tail, method="higher"))
    return float(found[0]), low if np.isfinite(low) else np.nan, high if np.isfinite(high) else np.nan
