"""Rolling origin: forecast, look, move on. Windows do not overlap, and a model sees only what lies before its window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from support.errors import TooShortError
from support.forecast import Forecast
from support.forecasting.conformal import conformalize
from support.forecasting.metrics import coverage, crps, mase, scaled_quantile_loss
from support.forecasting.statistical import seasonal_naive

__all__ = ["Backtest", "backtest"]

Model = Callable[..., Forecast]


@dataclass(frozen=True)
class Backtest:
    """Forecasts of every model and window, what was observed, and the scores.

    forecasts: model -> one Forecast per judged window. observed: (n_window, horizon). scores: one row a model and
    window with mase, sql (scaled quantile loss), crps, coverage_90. fallbacks: windows where a model failed and the
    seasonal naive forecast stood in.
    """

    forecasts: dict[str, list[Forecast]]
    observed: np.ndarray
    scores: pd.DataFrame
    fallbacks: dict[str, int]

    def summary(self) -> pd.DataFrame:
        """Mean scores by model, with rel_sql: the scaled quantile loss over that of the first model (the baseline)."""
        table = self.scores.groupby("model", sort=False)[["mase", "sql", "crps", "coverage_90"]].mean()
        table.insert(1, "rel_sql", table["sql"] / table["sql"].iloc[0])
        table["fallbacks"] = pd.Series(self.fallbacks).reindex(table.index).fillna(0).astype(int)
        return table.drop(columns="sql")


def backtest(
    demand: pd.Series, models: Mapping[str, Model], *, horizon: int, season: int, n_windows: int, n_calibration: int = 0,
    rng: np.random.Generator,
) -> Backtest:  # fmt: skip
    """Judge `models` on the last `n_windows` windows of `horizon` steps of `demand` (n_time,); the first model is the baseline.

    With `n_calibration` > 0, each model gets a conformal twin, calibrated on that many windows before the judged one.
    Raises TooShortError if the past of the first window is shorter than two seasons and a horizon.
    """
    total = n_windows + n_calibration
    first = len(demand) - total * horizon
    if first < 2 * season + horizon:
        need = total * horizon + 2 * season + horizon
        raise TooShortError(
            f"demand: {len(demand)} steps; at least {need} are needed for {total} windows of {horizon} steps."
        )
    made: dict[str, list[tuple[Forecast, np.ndarray]]] = {name: [] for name in models}
    fallbacks = dict.fromkeys(models, 0)
    forecasts: dict[str, list[Forecast]] = {}
    rows = []
    for window in range(total):
        cut = first + window * horizon
        past, seen = demand.iloc[:cut], demand.iloc[cut : cut + horizon].to_numpy(float)
        for name, model in models.items():
            try:
                forecast = model(past, horizon=horizon, season=season, rng=rng)
            except (ValueError, FloatingPointError, np.linalg.LinAlgError, ZeroDivisionError):
                forecast = seasonal_naive(past, horizon=horizon, season=season, rng=rng)
                fallbacks[name] += 1
            judged = {name: forecast}
            if n_calibration and window >= n_calibration:
                judged[f"{name}, conformal"] = conformalize(forecast, made[name][-n_calibration:], rng=rng)
            made[name].append((forecast, seen[None]))
            if window >= n_calibration:
                for label, one in judged.items():
                    forecasts.setdefault(label, []).append(one)
                    rows.append({"model": label, "window": window - n_calibration} | _scores(one, seen, past, season))
    observed = demand.iloc[first + n_calibration * horizon :].to_numpy(float).reshape(n_windows, horizon)
    return Backtest(forecasts, observed, pd.DataFrame(rows), fallbacks)


def _scores(forecast: Forecast, seen: np.ndarray, past: pd.Series, season: int) -> dict[str, float]:
    history = past.to_numpy(float)
    lower, upper = forecast.interval(0.9)
    return {
        "mase": mase(seen, forecast.quantile(0.5)[0], history, season),
        "sql": scaled_quantile_loss(seen, forecast.quantiles[0], forecast.levels, history, season),
        "crps": float(crps(seen, forecast.paths[0]).mean()),
        "coverage_90": coverage(seen, lower[0], upper[0]),
    }
