"""SARIMAX with Fourier terms: ARIMA errors around harmonics of the season and covariates that are known ahead.

A seasonal ARIMA of 288 steps never ends; a handful of harmonics does the same work.
"""

from __future__ import annotations

import warnings

import numpy as np
from scipy.stats import norm
from statsmodels.tsa.statespace.sarimax import SARIMAX

from support.errors import TooShortError
from support.forecasting.covariates import KnownCovariates, fourier

__all__ = ["sarimax"]

ORDER = (1, 1, 2)  # autoregressive, differences, moving average
N_PAIRS = 4  # of sine and cosine
MAX_ITERATIONS = 50  # of L-BFGS
LEAST_PER_TERM = 3  # values for each coefficient, below which no fit is tried


def sarimax(
    context: np.ndarray, horizon: int, season: int, levels: np.ndarray, rng: np.random.Generator, *,
    known: KnownCovariates | None = None, order: tuple[int, int, int] = ORDER, n_pairs: int = N_PAIRS,
) -> np.ndarray:  # fmt: skip
    """Gaussian quantiles (horizon, n_level) of a regression on harmonics and covariates with ARIMA errors.

    Fitted on standardised values; a fit that has not converged after 50 iterations is used, and warns
    (statsmodels' ConvergenceWarning), so that the protocol counts it. So does a covariate that never varied in the
    context: its effect cannot be learnt and is left out. Raises TooShortError with fewer than three values a term.
    Source: Hyndman and Athanasopoulos (2021), sections 10.1 and 10.5.

    Example:
        >>> line = np.arange(40.0)
        >>> sarimax(line, 1, 1, np.array([0.5]), np.random.default_rng(0), order=(0, 1, 0)).round(3).tolist()
        [[39.0]]
    """
    n, steps = len(context), np.arange(len(context) + horizon)
    waves = fourier(steps, season, n_pairs)
    past, future = waves[:n], waves[n:]
    if known is not None:
        seen, ahead = known.matrices(horizon, season=season)
        varied = seen.std(axis=0) > 0
        if not varied.all():
            warnings.warn(f"{(~varied).sum()} covariate(s) never varied in the past and were left out.", stacklevel=2)
        past, future = np.hstack([past, seen[:, varied]]), np.hstack([future, ahead[:, varied]])
    need = LEAST_PER_TERM * (past.shape[1] + sum(order))
    if n < need:
        raise TooShortError(f"context: {n} values; at least {need} are needed. Use fewer pairs or a lower order.")
    centre, scale = float(context.mean()), float(context.std()) or 1.0
    with warnings.catch_warnings():
        # about where the search starts, not where it ends
        warnings.filterwarnings("ignore", message=".*starting (MA|AR|autoregressive|seasonal).* parameters.*")
        model = SARIMAX((context - centre) / scale, exog=past if past.shape[1] else None, order=order)
        fitted = model.fit(disp=False, maxiter=MAX_ITERATIONS)
    made = fitted.get_forecast(horizon, exog=future if past.shape[1] else None)
    return centre + scale * (made.predicted_mean[:, None] + made.se_mean[:, None] * norm.ppf(levels))
