"""Several rolling forecasts become one: each is heard, at each quantile and horizon, by how little it lost lately."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy.signal import lfilter

from support.errors import SchemaError
from support.forecasting.metrics import pinball
from support.forecasting.rolling_quantiles import RollingQuantiles, observed_at

__all__ = ["aggregate"]

POWER = 5.0  # of the inverse loss: ten per cent less loss, 1.6 times the weight; chosen on days before those that the benchmark of part V judges
SURE_FRAC = 0.2  # of a full memory: with less the power is lower in proportion, with nothing known all weigh the same


def aggregate(
    forecasts: Sequence[RollingQuantiles], demand: pd.Series, *, half_life_ticks: float, power: float = POWER
) -> RollingQuantiles:
    """The mean of the experts at each level, weighted by one over their discounted pinball loss to the `power`.

    forecasts: of the same ticks, levels, horizons and lag. demand: (n_time,) what came, in their unit, at least at
    their timestamps. Every level of every horizon has weights of its own, so that one expert may be heard on the median
    and another on the tail. After `half_life_ticks` a loss counts half. Row i uses what is known through tick
    i - 1 - lag_ticks only; the first rows only learn. Crossed quantiles are sorted. The means are weighted as the
    median is. Raises SchemaError if the experts do not match, demand is missing, or a parameter is not positive.
    Source: Bates and Granger (1969), who discount too; a power of the loss: Stock and Watson (1999); weights by level:
    Berrisch and Ziel (2023).

    Example:
        >>> minutes = pd.date_range("2026-01-01", periods=500, freq="60s", tz="UTC")
        >>> level = np.array([0.5])
        >>> made = [RollingQuantiles(minutes, level, np.full((500, 1, 1), v), np.full((500, 1), v), str(v), 0) for v in (9.0, 5.0)]
        >>> came = pd.Series(10.0, index=minutes)
        >>> aggregate(made, came, half_life_ticks=50).mean[[0, -1], 0].round(2).tolist()
        [7.0, 9.0]
    """
    _require_alike(forecasts, "aggregate")
    if not (half_life_ticks > 0 and power > 0):
        raise SchemaError(f"aggregate: half_life_ticks {half_life_ticks:g} and power {power:g}; both must be above 0.")
    first = forecasts[0]
    seen, levels = observed_at(first, demand, "aggregate"), first.levels
    (n_time, n_horizon, _), middle = first.quantiles.shape, int(np.abs(levels - 0.5).argmin())
    quantiles, mean = (
        np.empty(first.quantiles.shape, dtype=np.result_type(first.quantiles, np.float32)),
        np.empty((n_time, n_horizon)),
    )
    keep = 0.5 ** (1 / half_life_ticks)
    for ahead in range(n_horizon):
        late = 1 + first.lag_ticks + ahead  # rows until the loss of a row is known
        said = np.stack([f.quantiles[:, ahead] for f in forecasts]).astype(np.float64)  # (expert, time, level)
        known = np.zeros_like(said)
        if late < n_time:
            known[:, late:] = pinball(seen[ahead : n_time - 1 - first.lag_ticks], said[:, :-late], levels)
        losses = lfilter([1.0], [1.0, -keep], known, axis=1)
        evidence = (1 - keep) * lfilter([1.0], [1.0, -keep], np.arange(n_time) >= late)  # from 0 to 1
        weights = _weights(losses, power * np.minimum(1.0, evidence / SURE_FRAC)[:, None])
        quantiles[:, ahead] = np.sort((weights * said).sum(axis=0), axis=-1)
        means = np.stack([f.mean[:, ahead] for f in forecasts])
        mean[:, ahead] = (weights[..., middle] * means).sum(axis=0)
    name = "aggregate of " + ", ".join(f.model for f in forecasts)
    return RollingQuantiles(first.timestamps, levels, quantiles, mean, name, first.lag_ticks)


def _weights(losses: np.ndarray, power: np.ndarray) -> np.ndarray:
    """Shares of the experts (n_expert, n_time, n_level); `power` (n_time, 1). Without any loss all weigh the same."""
    least = losses.min(axis=0)
    tiny = 1e-9 * losses.max(axis=0) + np.finfo(float).tiny  # an expert without loss takes nearly all, not all
    share = ((least + tiny) / (losses + tiny)) ** power
    return np.asarray(share / share.sum(axis=0))


def _require_alike(forecasts: Sequence[RollingQuantiles], name: str) -> None:
    if not len(forecasts):
        raise SchemaError(f"{name}: no forecasts; at least one is needed.")
    first = forecasts[0]
    for other in forecasts[1:]:
        if (
            other.quantiles.shape != first.quantiles.shape
            or other.lag_ticks != first.lag_ticks
            or not np.array_equal(other.levels, first.levels)
            or not other.timestamps.equals(first.timestamps)
        ):
            raise SchemaError(f"{name}: {first.model} and {other.model} differ in ticks, levels, horizon or lag.")
