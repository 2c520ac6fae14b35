"""Forecasting: one type, models that return it, and honest ways to compare them."""

from support.forecast import LEVELS, Forecast
from support.forecasting.backtest import Backtest, backtest
from support.forecasting.conformal import conformalize
from support.forecasting.metrics import coverage, crps, mase, pinball, scaled_quantile_loss
from support.forecasting.recalibration import roll_calibrated
from support.forecasting.recommendation import Recommendation, recommend
from support.forecasting.rolling_quantiles import RollingQuantiles
from support.forecasting.short_term import ShortTermModel, fit_short_term, roll_daily
from support.forecasting.statistical import auto_ets, mstl, seasonal_naive

__all__ = [
    "LEVELS",
    "Backtest",
    "Forecast",
    "Recommendation",
    "RollingQuantiles",
    "ShortTermModel",
    "auto_ets",
    "backtest",
    "conformalize",
    "coverage",
    "crps",
    "fit_short_term",
    "mase",
    "mstl",
    "pinball",
    "recommend",
    "roll_calibrated",
    "roll_daily",
    "scaled_quantile_loss",
    "seasonal_naive",
]
