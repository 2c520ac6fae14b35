"""Roll-up of risk over services, business units and criticality: from joint draws, with the bounds no dependence can leave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.forecast import Forecast
from support.risk.exceedance import cvar, exceedance

__all__ = ["AnyBounds", "any_bounds", "roll_up"]

LOSS_LEVEL = 0.95  # of the tail means reported


@dataclass(frozen=True)
class AnyBounds:
    """P(any) of events with known probabilities: comonotone (its least), independent, and Frechet's upper bound."""

    comonotone: float
    independent: float
    frechet_upper: float


def any_bounds(p: Sequence[float] | np.ndarray) -> AnyBounds:
    """Bounds of the probability that any of the events with probabilities `p` (n,) happens; SchemaError outside [0, 1].

    Example:
        >>> any_bounds([0.5, 0.5])
        AnyBounds(comonotone=0.5, independent=0.75, frechet_upper=1.0)
    """
    values = np.asarray(p, dtype=float)
    if not values.size or not ((values >= 0) & (values <= 1)).all():
        raise SchemaError("roll-up: give at least one probability, each between 0 and 1.")
    return AnyBounds(
        float(values.max()), float(0.0 - np.expm1(np.log1p(-values[values < 1]).sum())) if (values < 1).all() else 1.0,
        float(min(1.0, values.sum())),
    )  # fmt: skip


def roll_up(
    forecast: Forecast,
    capacities: Sequence[float] | np.ndarray,
    groups: Sequence[str],
    loss_per_hour: Sequence[float] | np.ndarray,
) -> pd.DataFrame:
    """One row a group of the forecast's series, and one for all: breaches and losses that happen together.

    The draws are used jointly: draw k of every series is one future. capacities (n_series,) in the unit of demand.
    groups (n_series,): service, business unit or criticality of each series. loss_per_hour (n_series,): what an hour in
    breach costs there; criticality enters here, as loss, and probabilities are never averaged.
    Columns: n, p_any (joint), p_lowest (comonotone), p_independent, p_highest (Frechet), expected_loss, loss_cvar_95,
    peak_of_sum and sum_of_peaks (means over the draws), diversification: the 95 % tail mean of the summed demand's peak
    over the sum of the series' own, at most 1, lower where peaks do not coincide. Raises SchemaError.

    Example:
        >>> f = Forecast.from_paths(np.array([[[2.0, 0.0]], [[0.0, 2.0]]]), issued_at=pd.Timestamp("2026-01-01", tz="UTC"),
        ...                         step_seconds=3600, unit="cores", model="one path", series=("a", "b"))
        >>> roll_up(f, [1.0, 3.0], ["web", "web"], [10.0, 1.0]).loc["all", ["p_any", "expected_loss", "diversification"]].tolist()
        [1.0, 10.0, 0.5]
    """
    limits, loss = np.asarray(capacities, dtype=float), np.asarray(loss_per_hour, dtype=float)
    n = len(forecast.series)
    if not (len(limits) == len(groups) == len(loss) == n) or (loss < 0).any():
        raise SchemaError(
            f"roll-up: {len(limits)} capacities, {len(groups)} groups and {len(loss)} losses (not negative) for {n} series."
        )
    each = [exceedance(forecast, limits[s], series=s) for s in range(n)]
    breached = np.array([e.breach_hours > 0 for e in each])
    losses = np.array([e.breach_hours for e in each]) * loss[:, None]
    own_tail = np.array([cvar(e.peaks, LOSS_LEVEL) for e in each])
    own_peak = np.array([e.peaks.mean() for e in each])
    names = np.asarray(groups, dtype=object)
    rows = {}
    for name in [*dict.fromkeys(groups), "all"]:
        inside = np.ones(n, dtype=bool) if name == "all" else names == name
        bounds = any_bounds([e.p_any for e, i in zip(each, inside, strict=True) if i])
        together = forecast.paths[inside].sum(axis=0).max(axis=1)
        total = losses[inside].sum(axis=0)
        own = own_tail[inside].sum()
        rows[name] = {
            "n": int(inside.sum()),
            "p_any": float(breached[inside].any(axis=0).mean()),
            "p_lowest": bounds.comonotone,
            "p_independent": bounds.independent,
            "p_highest": bounds.frechet_upper,
            "expected_loss": float(total.mean()),
            "loss_cvar_95": cvar(total, LOSS_LEVEL),
            "peak_of_sum": float(together.mean()),
            "sum_of_peaks": float(own_peak[inside].sum()),
            "diversification": cvar(together, LOSS_LEVEL) / own if own > 0 else float("nan"),
        }
    return pd.DataFrame.from_dict(rows, orient="index")
