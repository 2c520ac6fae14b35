"""A Gaussian process with two periods: the day and the week repeat, slowly changing, and a rough part and noise remain."""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize
from scipy.stats import norm
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import RBF, ConstantKernel, ExpSineSquared, Kernel, Matern, WhiteKernel

from support.errors import TooShortError
from support.forecasting.covariates import KnownCovariates

__all__ = ["gaussian_process"]

MAX_POINTS = 400  # that a forecast is conditioned on
MAX_FIT_POINTS = 200  # that the kernel's parameters are learnt from; each step of the search costs a cube of it
DAYS = 7
WEEKLY_FROM_DAYS = 14  # of context, for the second period
MAX_ITERATIONS = 15  # of L-BFGS
LEAST = 3  # values


def _two_periods(season: int, span: float) -> Kernel:
    """Kernel in days, for standardised values over a `span` of days: periods x RBF + Matern(1/2) + noise.

    The Matern of order 1/2 is an autoregression in continuous time. Source: Rasmussen and Williams (2006), 5.4.3.
    """
    kernel = ConstantKernel(0.5, (1e-3, 1e2)) * Matern(0.1, (1e-3, 1e2), nu=0.5) + WhiteKernel(0.1, (1e-5, 1e1))
    decay = (0.5, 1e3)  # days over which a period changes its shape
    periods = [1.0] if season > 1 else []
    if season > 1 and span >= WEEKLY_FROM_DAYS:
        periods.append(float(DAYS))
    for period in periods:
        repeats = ExpSineSquared(1.0, period, (0.1, 1e1), "fixed")
        kernel = kernel + ConstantKernel(0.5, (1e-3, 1e2)) * repeats * RBF(10.0 * period, decay)
    return kernel


def gaussian_process(
    context: np.ndarray, horizon: int, season: int, levels: np.ndarray, rng: np.random.Generator, *,
    known: KnownCovariates | None = None, max_points: int = MAX_POINTS, max_fit_points: int = MAX_FIT_POINTS,
) -> np.ndarray:  # fmt: skip
    """Gaussian quantiles (horizon, n_level); `season` is the steps of a day, and the week counts from two weeks on.

    Beyond `max_points` values the newest half of them is kept whole and the older ones are thinned evenly; likewise
    beyond `max_fit_points` where the kernel's parameters maximise the marginal likelihood. Covariates enter by a linear
    regression taken out first.
    Raises TooShortError with fewer than three values.

    Example:
        >>> wave = np.sin(np.arange(48) * np.pi / 6)
        >>> made = gaussian_process(wave, 3, 12, np.array([0.5]), np.random.default_rng(0))
        >>> bool(np.abs(made[:, 0] - wave[:3]).max() < 0.1)
        True
    """
    n = len(context)
    if n < LEAST:
        raise TooShortError(f"context: {n} values; at least {LEAST} are needed.")
    effect, ahead = np.zeros(n), np.zeros(horizon)
    if known is not None:
        past, future = known.matrices(horizon, season=season)
        slopes = np.linalg.lstsq(past - past.mean(axis=0), context - context.mean(), rcond=None)[0]
        effect, ahead = past @ slopes, future @ slopes
    days = np.arange(n + horizon)[:, None] / max(season, 1)
    kept, fitted_on = _thinned(n, max_points), _thinned(n, min(max_fit_points, max_points))
    values = context - effect
    centre, scale = float(values[kept].mean()), float(values[kept].std()) or 1.0
    values = (values - centre) / scale
    process = GaussianProcessRegressor(
        _two_periods(season, n / max(season, 1)), optimizer=_maximise, random_state=int(rng.integers(2**31))
    )
    with warnings.catch_warnings():  # a length at its bound is an answer: a period that does not change, or no noise
        warnings.filterwarnings("ignore", message=".*close to the specified.*bound.*", category=ConvergenceWarning)
        learnt = process.fit(days[:n][fitted_on], values[fitted_on]).kernel_
    process = GaussianProcessRegressor(learnt, optimizer=None).fit(days[:n][kept], values[kept])
    mean, sd = process.predict(days[n:], return_std=True)
    return (centre + scale * mean + ahead)[:, None] + scale * sd[:, None] * norm.ppf(levels)


def _thinned(n: int, max_points: int) -> np.ndarray:
    """Positions kept of `n` values: the newest half of `max_points`, and as many of the older, evenly spread."""
    if n <= max_points:
        return np.arange(n)
    dense = max_points // 2
    older = np.linspace(0, n - dense - 1, max_points - dense).round().astype(int)
    return np.concatenate([older, np.arange(n - dense, n)])


def _maximise(
    loss: Callable[..., tuple[float, np.ndarray]], start: np.ndarray, bounds: np.ndarray
) -> tuple[np.ndarray, float]:
    found = minimize(loss, start, jac=True, bounds=bounds, method="L-BFGS-B", options={"maxiter": MAX_ITERATIONS})
    return found.x, found.fun
