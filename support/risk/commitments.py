"""How much to commit to: the newsvendor's quantile, layers on the load-duration curve, and a stochastic LP."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from scipy import sparse
from scipy.optimize import linprog

from support.errors import BookError, SchemaError

__all__ = [
    "CommitmentOption",
    "CommitmentPlan",
    "break_even_utilization",
    "commitment_level",
    "critical_ratio",
    "plan_commitments",
    "stack_layers",
]


class _Distribution(Protocol):
    def ppf(self, q: float) -> float: ...


def critical_ratio(underage: float, overage: float) -> float:
    """The newsvendor's level: underage / (underage + overage), costs of one unit too few and too many.

    Source: Arrow, Harris and Marschak (1951). Raises SchemaError for costs that are not positive.

    Example:
        >>> round(critical_ratio(50, 15), 3)
        0.769
    """
    if not (underage > 0 and overage > 0):
        raise SchemaError(f"underage {underage} and overage {overage} must be positive costs of one unit.")
    return underage / (underage + overage)


def break_even_utilization(discount: float) -> float:
    """Share of its hours that a committed unit must be used to be worth its price; SchemaError outside (0, 1).

    Example:
        >>> break_even_utilization(0.28)
        0.72
    """
    if not 0 < discount < 1:
        raise SchemaError(f"discount: {discount} must lie between 0 and 1, such as 0.28.")
    return 1 - discount


def commitment_level(demand: np.ndarray | _Distribution, level: float) -> float:
    """The quantile of hourly demand at `level`: commit to that of the discount, P(demand > c) = 1 - discount.

    demand: units wanted in each hour (any shape, draws pooled), or a distribution with `ppf` such as scipy's. Of an
    array it is the smallest observed c with P(demand <= c) >= level, where the cost of those hours is least.
    Raises SchemaError for a level outside (0, 1) or demand that is empty, negative or missing.

    Example:
        >>> from scipy import stats
        >>> round(commitment_level(stats.norm(100, 20), 0.28), 2)
        88.34
    """
    if not 0 < level < 1:
        raise SchemaError(f"level: {level} must lie between 0 and 1; it is the discount, such as 0.28.")
    if hasattr(demand, "ppf"):
        return float(demand.ppf(level))
    values = np.asarray(demand, dtype=float).ravel()
    if not values.size or not (np.isfinite(values) & (values >= 0)).all():
        raise SchemaError("demand must hold at least one hour, every one a finite number of at least 0.")
    return float(np.quantile(values, level, method="inverted_cdf"))


@dataclass(frozen=True)
class CommitmentOption:
    """One commitment on offer: pay (1 - discount) per unit and hour for `years`, used or not; at most `limit` units.

    Raises SchemaError for a discount outside (0, 1), a term below a year, or a negative limit.
    """

    name: str
    discount: float
    years: int = 1
    limit: float = np.inf

    def __post_init__(self) -> None:
        if not 0 < self.discount < 1 or self.years < 1 or not self.limit >= 0:
            raise SchemaError(
                f"{self.name}: discount {self.discount} in (0, 1), years {self.years} at least 1, limit at least 0."
            )


def stack_layers(demand: np.ndarray, options: Sequence[CommitmentOption]) -> dict[str, float]:
    """Units of each option of one and the same term, stacked on the load-duration curve, deepest discount first.

    A layer reaches up to the quantile of demand at its discount, less where its limit ends it; the next begins there.
    demand: units wanted in each hour of the term, any shape. Raises SchemaError for options of different terms (see
    `plan_commitments`) and bad demand.

    Example:
        >>> hours = np.arange(1.0, 101.0)
        >>> stack_layers(hours, [CommitmentOption("a", 0.3), CommitmentOption("b", 0.5, limit=20.0)])
        {'b': 20.0, 'a': 10.0}
    """
    if len({option.years for option in options}) > 1:
        raise SchemaError("these options have different terms. Use plan_commitments, which weighs the years.")
    layers, floor = {}, 0.0
    for option in sorted(options, key=lambda o: -o.discount):
        layers[option.name] = min(max(commitment_level(demand, option.discount) - floor, 0.0), option.limit)
        floor += layers[option.name]
    return layers


@dataclass(frozen=True)
class CommitmentPlan:
    """Units to commit to now, and what that costs in the draws it was made from.

    units: option name -> units. costs: (n_draw,) cost of the whole horizon in on-demand price x unit-hours. on_demand:
    (n_draw,) the same without any commitment or spot.
    """

    options: tuple[CommitmentOption, ...]
    units: Mapping[str, float]
    costs: np.ndarray
    on_demand: np.ndarray
    spot_discount: float
    spot_share: float
    renew: bool
    atoms: int

    @property
    def saving(self) -> np.ndarray:
        """Share of the on-demand cost that is saved in each draw, (n_draw,)."""
        return 1 - self.costs / self.on_demand

    def cost(self, demand: np.ndarray) -> np.ndarray:
        """Cost of this plan on other demand, (n_draw,): what is committed stays, on demand and renewals follow."""
        return self._best(demand, self.units).costs

    def regret(self, realised: np.ndarray) -> np.ndarray:
        """Cost of this plan on each realised demand less that of the best plan for it, (n_draw,), never negative.

        In on-demand price x unit-hours; realised: as `demand` of `plan_commitments`.
        """
        best = [self._best(draw[None], None).costs[0] for draw in _draws(realised)]
        return self.cost(realised) - np.array(best)

    def _best(self, demand: np.ndarray, units: Mapping[str, float] | None) -> CommitmentPlan:
        return plan_commitments(
            demand,
            self.options,
            spot_discount=self.spot_discount,
            spot_share=self.spot_share,
            renew=self.renew,
            atoms=self.atoms,
            units=units,
        )


def _draws(demand: np.ndarray) -> np.ndarray:
    """Demand as (draw, year, hour), checked."""
    values = np.asarray(demand, dtype=float)
    values = values[None, None] if values.ndim == 1 else values[:, None] if values.ndim == 2 else values
    if values.ndim != 3 or not values.size or not (np.isfinite(values) & (values >= 0)).all():
        raise SchemaError("demand must have shape (draw, year, hour) and hold finite numbers of at least 0.")
    return values


def _purchases(options: Sequence[CommitmentOption], n_year: int, n_draw: int) -> list[tuple[int, int, int]]:
    """Columns of the program as (option, first year, draw): one per option now (draw -1), then the renewals."""
    renewals = [
        (k, year, draw)
        for k, option in enumerate(options)
        for year in range(option.years, n_year - option.years + 1, option.years)
        for draw in range(n_draw)
    ]
    return [(k, 0, -1) for k in range(len(options))] + renewals


def plan_commitments(
    demand: np.ndarray,
    options: Sequence[CommitmentOption],
    *,
    spot_discount: float = 0.0,
    spot_share: float = 0.0,
    renew: bool = True,
    atoms: int = 100,
    units: Mapping[str, float] | None = None,
) -> CommitmentPlan:
    """The units of each option that make the mean cost of the draws least: a two-stage stochastic linear program.

    demand: (n_draw, n_year, n_hour) units wanted; (n_draw, n_hour) or (n_hour,) for one year. First stage, before
    demand is known: units of each option, paid through its years. Second stage, per draw: on demand at price 1; spot at
    1 - spot_discount for at most `spot_share` of an hour's demand; and, with `renew`, new purchases of an option
    whenever a term ends, made knowing that draw (so renewals look a little better than life). A term that outlasts the
    horizon is not allowed. The hours of a year and draw are grouped into at most `atoms` groups of like demand, each
    its mean; exact if there are no more hours than that. units: fixed units, to price a plan instead of making one.
    Solved by scipy's HiGHS. Raises SchemaError for bad demand or options.

    Example:
        >>> plan = plan_commitments(np.arange(1.0, 101.0), [CommitmentOption("1 year", 0.285)])
        >>> round(plan.units["1 year"], 6), round(plan.on_demand.item(), 6)
        (29.0, 5050.0)
    """
    values = _draws(demand)
    n_draw, n_year, n_hour = values.shape
    if too_long := [o.name for o in options if o.years > n_year]:
        raise SchemaError(f"{too_long[0]} outlasts the {n_year} years of demand. Give demand for its whole term.")
    if not options or len({o.name for o in options}) < len(options) or not 0 <= spot_share <= 1 > spot_discount >= 0:
        raise SchemaError(
            "give at least one option, each with its own name; spot_share in [0, 1], spot_discount in [0, 1)."
        )
    groups = np.array_split(np.sort(values, axis=2), min(atoms, n_hour), axis=2)
    wanted = np.stack([g.mean(axis=2) for g in groups], axis=2)  # (draw, year, atom)
    hours = np.array([g.shape[2] for g in groups], dtype=float)
    bought = _purchases(options, n_year, n_draw if renew else 0)
    cells = np.arange(wanted.size).reshape(wanted.shape)
    rows, columns, prices, limits = [], [], [], []
    for column, (k, year, draw) in enumerate(bought):
        option = options[k]
        covered = cells[:, year : year + option.years] if draw < 0 else cells[draw, year : year + option.years]
        rows.append(covered.ravel())
        columns.append(np.full(covered.size, column))
        prices.append((1 - option.discount) * n_hour * option.years / (1 if draw < 0 else n_draw))
        limits.append((0.0, option.limit) if draw >= 0 or units is None else (units[option.name],) * 2)
    weight = np.broadcast_to(hours / n_draw, wanted.shape).ravel()
    purchases = sparse.coo_matrix(
        (np.ones(sum(map(len, rows))), (np.concatenate(rows), np.concatenate(columns))), (wanted.size, len(bought))
    )
    each = sparse.identity(wanted.size)
    top = [(0.0, b) for b in spot_share * wanted.ravel()]
    solved = linprog(
        np.concatenate([prices, weight, (1 - spot_discount) * weight]),
        A_ub=-sparse.hstack([purchases, each, each]).tocsr(),
        b_ub=-wanted.ravel(),
        bounds=[*limits, *[(0.0, None)] * wanted.size, *top],
        method="highs",
    )
    if solved.status != 0:
        raise BookError(f"the commitments' linear program was not solved: {solved.message}")
    on_demand, spot = solved.x[len(bought) :].reshape(2, *wanted.shape)
    costs = ((on_demand + (1 - spot_discount) * spot) * hours).sum(axis=(1, 2))
    for amount, price, (_, _, draw) in zip(solved.x, prices, bought, strict=False):
        costs[slice(None) if draw < 0 else draw] += amount * price * (1 if draw < 0 else n_draw)
    units = {option.name: float(solved.x[k]) for k, option in enumerate(options)}
    return CommitmentPlan(
        tuple(options), units, costs, values.sum(axis=(1, 2)), spot_discount, spot_share, renew, atoms
    )
