"""A promise of good minutes as a price: what a bad one must be worth to the plan so that the past would have kept it."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd

from support.autoscaling.environment import Environment
from support.autoscaling.mpc import StochasticMPC
from support.autoscaling.scoring import score
from support.autoscaling.simulate import simulate
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

__all__ = ["RESERVE_FRAC", "asked_of_past", "lowest_that_keeps", "price_of_promise"]

RESERVE_FRAC = (
    0.5  # of the error budget left over on the past: a knob that just kept a promise there breaks it next week
)
EXPONENTS = (0.0, 6.0)  # of ten: prices of a bad tick tried, in prices of a server for a tick
COARSE, HALVINGS = 5, 4


def asked_of_past(slo_percent: float, reserve_frac: float = RESERVE_FRAC) -> float:
    """Share of good ticks (percent) that the past must show for a promise of `slo_percent`, in (0, 100).

    Raises SchemaError outside that range.

    Example:
        >>> round(asked_of_past(99.9), 6)
        99.95
    """
    if not 0 < slo_percent < 100:
        raise SchemaError(f"slo_percent is {slo_percent:g}; a promise lies between 0 and 100 %, such as 99.9.")
    return 100 - (1 - reserve_frac) * (100 - slo_percent)


def lowest_that_keeps(keeps: Callable[[float], bool], low: float, high: float) -> tuple[float, bool]:
    """(the lowest knob between `low` and `high` that keeps, to a sixteenth of a quarter of the range; True), or (high, False).

    keeps: whether a setting keeps the promise; from the lowest that does on a grid of five the gap below is halved four times.

    Example:
        >>> lowest_that_keeps(lambda x: x >= 2.5, 0.0, 8.0)
        (2.5, True)
    """
    knobs = np.linspace(low, high, COARSE)
    first = next((k for k, x in enumerate(knobs) if keeps(float(x))), None)
    if not first:
        return (high, False) if first is None else (low, True)
    broken, kept = float(knobs[first - 1]), float(knobs[first])
    for _ in range(HALVINGS):
        middle = (broken + kept) / 2
        broken, kept = (broken, middle) if keeps(middle) else (middle, kept)
    return kept, True


def price_of_promise(
    past: pd.Series, forecast: RollingQuantiles, environment: Environment, *, slo_percent: float,
    initial_servers: int | None = None,
) -> tuple[float, bool]:  # fmt: skip
    """(the lowest price of a bad tick in USD at which the MPC keeps the promise on `past`, whether it does there).

    past: (n_time,), requests per tick; forecast: of the same ticks. slo_percent: promised share of good ticks, asked for
    with RESERVE_FRAC of the error budget to spare. Tried are no price, and those of 1 to 10^6 servers for a tick; if none
    keeps it, the highest. Raises SchemaError as `asked_of_past` and `simulate` do.
    """
    asked = asked_of_past(slo_percent)

    def keeps(price_usd: float) -> bool:
        policy = StochasticMPC(price_bad_tick_usd=price_usd)
        run = simulate(past, policy, environment, forecast=forecast, initial_servers=initial_servers)
        return score(run)["minute_slo_percent"] >= asked

    def price(exponent: float) -> float:
        return float(10.0**exponent) * environment.price_server_tick_usd

    if keeps(0.0):
        return 0.0, True
    exponent, kept = lowest_that_keeps(lambda x: keeps(price(x)), *EXPONENTS)
    return price(exponent), kept
