"""N-1 capacity: what is left to a cluster when hosts fail, and which days of the past have shown it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import betaprime

from support.errors import SchemaError
from support.forecast import Forecast

__all__ = ["FailoverRate", "breach_in_failover", "failover_days", "failover_rate"]

OUT_BELOW_FRAC = 0.02  # a host with less than this share of an even split is out
JEFFREYS = 0.5  # of the rate of a Poisson process: Gamma(1/2, 0)


def failover_days(per_host: pd.DataFrame, *, out_below_frac: float = OUT_BELOW_FRAC) -> pd.DataFrame:
    """Days on which some hosts of a cluster served nothing while the others did: one row a day.

    per_host (n_day, n_host): load of each host, any unit. A host is out when it has less than `out_below_frac` of an
    even split of the day. Columns: lost (names), n_lost, load_ratio: mean load of the remaining hosts over the even
    split among all, and expected_ratio: n / (n - n_lost), what a perfect balancer gives.
    Raises SchemaError with fewer than two hosts.

    Example:
        >>> days = pd.date_range("2026-01-01", periods=2, freq="1D", tz="UTC")
        >>> failover_days(pd.DataFrame({"a": [1.0, 0.0], "b": [1.0, 2.0]}, index=days))["load_ratio"].tolist()
        [2.0]
    """
    n = per_host.shape[1]
    if n < 2:
        raise SchemaError(f"failover: {n} host; at least two are needed, one column each.")
    load = per_host.to_numpy(float)
    even = np.nansum(load, axis=1) / n
    out = ~(load > out_below_frac * even[:, None])
    lost = out.sum(axis=1)
    rows = []
    for day in np.flatnonzero((lost > 0) & (lost < n) & (even > 0)):
        names = ", ".join(str(c) for c in per_host.columns[out[day]])
        ratio = float(load[day][~out[day]].mean() / even[day])
        rows.append((per_host.index[day], names, int(lost[day]), ratio, n / (n - lost[day])))
    return pd.DataFrame(rows, columns=["day", "lost", "n_lost", "load_ratio", "expected_ratio"]).set_index("day")


@dataclass(frozen=True)
class FailoverRate:
    """How often hosts fail: n_episodes within observed_days, mean_days long, with at most n_lost hosts at a time."""

    n_episodes: int
    mean_days: float
    n_lost: int
    observed_days: float

    def p_within(self, days: float) -> float:
        """Posterior predictive probability of at least one episode within `days`, under a rate with Jeffreys' prior."""
        return float(betaprime.cdf(days / self.observed_days, 1, self.n_episodes + JEFFREYS))


def failover_rate(found: pd.DataFrame, observed_days: float) -> FailoverRate:
    """The rate of failovers from the table of `failover_days`; days that follow each other are one episode.

    Raises SchemaError unless observed_days is positive.
    """
    if not observed_days > 0:
        raise SchemaError(f"failover: observed_days is {observed_days}, it must be positive.")
    gaps = np.diff(found.index.asi8) > pd.Timedelta(days=1).value if len(found) else np.array([], dtype=bool)
    episodes = int(gaps.sum()) + bool(len(found))
    worst = int(found["n_lost"].max()) if len(found) else 0
    return FailoverRate(episodes, len(found) / episodes if episodes else 0.0, worst, float(observed_days))


def breach_in_failover(forecast: Forecast, capacity_left: float, *, duration_days: float, series: int = 0) -> float:
    """Probability of a breach of `capacity_left` during an outage of `duration_days` that begins at any step alike.

    Mean over the paths and the beginnings for which the outage ends within the horizon. Raises SchemaError if it is
    longer than the forecast or not positive, or if the capacity is missing.
    """
    if np.isnan(capacity_left):
        raise SchemaError("failover: the capacity left is missing (NaN). Give it in the unit of the demand.")
    over = forecast.paths[series] > capacity_left
    width = max(1, round(duration_days * 86_400 / forecast.step_seconds))
    if duration_days <= 0 or width > over.shape[1]:
        raise SchemaError(
            f"failover: {duration_days:g} days must be positive and within the {over.shape[1]} steps forecast."
        )
    count = np.cumsum(np.pad(over, ((0, 0), (1, 0))), axis=1)
    return float((count[:, width:] > count[:, :-width]).mean())
