"""Tails of demand: peaks over a threshold, declustered, a generalised Pareto fit, and return levels with an interval.

The gap of the declustering should be at least an hour of telemetry and the threshold a choice shown on the stability
plot. Demand has no ceiling, utilisation has one: a series clipped at 100 % says nothing on its tail and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import brentq, fmin, minimize_scalar
from scipy.special import boxcox
from scipy.stats import chi2, genpareto, norm

from support.errors import SchemaError, TooShortError

__all__ = [
    "GpdFit", "GpdTail", "cluster_peaks", "fit_gpd", "fit_peaks", "profile_interval", "refuse_censored",
    "threshold_stability",
]  # fmt: skip

MIN_PEAKS = 20  # fewer say next to nothing on xi: its standard error is then above 0.2
CENSORED_SHARE = 0.001  # of the values at the cap: as much mass as the 99.9 % quantile leaves to the tail
CENSORED_COUNT = 3  # equal maxima, below which a tie may be chance
LOWEST_XI, HIGHEST_XI = -1.0, 5.0  # of a profile: the likelihood has no maximum below -1
IRREGULAR_XI = -0.5  # from here down the information matrix gives no standard errors, Smith (1985)
SMALL_XI = 1e-4  # under which differences of nearly equal terms lose their digits, and a series is taken instead
TINY_XI = 1e-9  # under which the exponential is taken
PRECISE = {"xtol": 1e-9, "ftol": 1e-12, "disp": 0}  # of the search; scipy's own tolerance leaves the fifth digit open
LOWEST = -1e300  # stands for the log likelihood of an endpoint below the data
LOG_STEP, MOST_STEPS = 0.3, 100  # of the search for the ends of an interval, on the log of the height
TOLERANCE = 1e-5  # of that log, and of xi
Z_95 = norm.isf(0.025)  # standard errors either side in the stability table


@dataclass(frozen=True)
class GpdTail:
    """Generalised Pareto tail over `threshold`, for numbers or for arrays of posterior draws (n_draw,).

    threshold, beta: in the unit of the data, beta > 0; xi: shape, negative with an endpoint; rate: (cluster) peaks over
    the threshold per observation; extremal_index: peaks per exceedance, 1 without clusters, so that rate / extremal_index
    is the share of observations over the threshold.

    Example:
        >>> round(float(GpdTail(30, 0.184, 7.44, 152 / 17531).return_level(36500)), 1)
        106.2
    """

    threshold: float
    xi: Any
    beta: Any
    rate: Any
    extremal_index: float = 1.0

    def return_level(self, n_observations: float) -> Any:
        """Level that a peak exceeds once in `n_observations` on average. Source: Coles (2001), eq. 4.12."""
        return self._upper(1 / (n_observations * np.asarray(self.rate)))

    def var(self, p: float) -> Any:
        """The p quantile of one observation, p above 1 - share. Source: McNeil, Frey and Embrechts, eq. 5.18."""
        return self._upper((1 - p) / self._share())

    def es(self, p: float) -> Any:
        """Mean of the observations beyond `var(p)`; infinite for xi >= 1. Source: the same, eq. 5.19."""
        xi = np.asarray(self.xi, dtype=float)
        with np.errstate(divide="ignore"):
            mean = (self.var(p) + self.beta - xi * self.threshold) / (1 - xi)
        return np.where(xi < 1, mean, np.inf)[()]

    def exceedance(self, level: ArrayLike) -> Any:
        """Probability that one observation exceeds `level`, at or above the threshold."""
        if (np.asarray(level) < self.threshold).any():
            raise SchemaError(f"tail: a level under the threshold {self.threshold:g}; count exceedances there.")
        return self._share() * genpareto.sf(level, self.xi, loc=self.threshold, scale=self.beta)

    def _share(self) -> Any:
        return np.asarray(self.rate) / self.extremal_index

    def _upper(self, q: Any) -> Any:
        if not ((np.asarray(q) > 0) & (np.asarray(q) <= 1 + 1e-12)).all():
            raise SchemaError("tail: the level asked for lies under the threshold; take the sample quantile there.")
        return genpareto.isf(np.minimum(q, 1.0), self.xi, loc=self.threshold, scale=self.beta)


@dataclass(frozen=True)
class GpdFit:
    """Maximum likelihood fit. excesses: (n_peak,) over the threshold; covariance: (2, 2) of xi and beta.

    The covariance inverts the observed information; NaN for xi <= -0.5, where it is not valid.
    """

    tail: GpdTail
    excesses: np.ndarray
    covariance: np.ndarray
    log_likelihood: float
    n_observations: int

    @property
    def standard_errors(self) -> np.ndarray:
        """Of xi and beta, (2,)."""
        return np.sqrt(np.diag(self.covariance))


def refuse_censored(values: np.ndarray, *, cap: float | None = None) -> None:
    """Raise SchemaError if values (n,) pile up at `cap` (such as 100 %), or at their own maximum.

    Mass at the cap: at least 0.1 % of the values. At the maximum: the same share, and three values or more.

    Example:
        >>> refuse_censored(np.minimum(np.linspace(0, 120, 501), 100.0))
        Traceback (most recent call last):
        support.errors.SchemaError: tail: 84 of 501 values equal the maximum 100: ...
    """
    top = float(np.max(values))
    advice = (
        "What lies beyond was not recorded, so its tail cannot be fitted. Give demand (requests, core-seconds wanted)."
    )
    if cap is not None and (held := int((values >= cap).sum())) >= CENSORED_SHARE * len(values) and held:
        raise SchemaError(
            f"tail: {held} of {len(values)} values are at the cap {cap:g}: the series is censored. {advice}"
        )
    held = int((values == top).sum())
    if held >= max(CENSORED_COUNT, CENSORED_SHARE * len(values)):
        raise SchemaError(
            f"tail: {held} of {len(values)} values equal the maximum {top:g}: it looks censored. {advice}"
        )


def cluster_peaks(values: np.ndarray, threshold: float, *, gap: int) -> np.ndarray:
    """Positions (n_cluster,) of the largest value in each cluster of exceedances of values (n_time,), runs method.

    A cluster ends when `gap` values in a row do not exceed the threshold. Source: Coles (2001), section 5.3.2.

    Example:
        >>> cluster_peaks(np.array([0, 3, 0, 5, 0, 0, 4]), 1, gap=2).tolist()
        [3, 6]
    """
    if gap < 1:
        raise SchemaError(f"declustering: gap {gap}; at least one step must part two clusters.")
    over = np.flatnonzero(values > threshold)
    if not over.size:
        return over
    cluster = np.concatenate([[0], np.cumsum(np.diff(over) > gap)])
    order = np.lexsort((-values[over], cluster))  # the first of each cluster is its peak
    first = np.unique(cluster[order], return_index=True)[1]
    return over[order[first]]


def fit_gpd(
    excesses: np.ndarray, *, threshold: float = 0.0, n_observations: int | None = None, extremal_index: float = 1.0
) -> GpdFit:
    """Maximum likelihood fit (scipy) to excesses (n_peak,) over `threshold`, out of `n_observations` (default: all).

    Raises SchemaError for excesses that are not positive and where xi <= -1, for there the likelihood has no maximum.
    Source: Coles (2001), section 4.3.2.

    Example:
        >>> fit = fit_gpd(genpareto.rvs(0.2, scale=3, size=5000, random_state=np.random.default_rng(1)))
        >>> bool(abs(fit.tail.xi - 0.2) < 3 * fit.standard_errors[0])
        True
    """
    y = np.asarray(excesses, dtype=float)
    if y.ndim != 1 or y.size < 2 or not (np.isfinite(y) & (y > 0)).all():
        raise SchemaError("tail: excesses must be two or more finite positive numbers: subtract the threshold first.")
    unit = float(y.mean())
    xi, _, beta = (float(k) for k in genpareto.fit(y / unit, floc=0, optimizer=partial(fmin, **PRECISE)))
    if xi <= LOWEST_XI:
        raise SchemaError(f"tail: xi ran to {xi:.2f}; there is no maximum. Lower the threshold or take the posterior.")
    beta *= unit
    covariance = np.linalg.inv(_information(y, xi, beta)) if xi > IRREGULAR_XI else np.full((2, 2), np.nan)
    n = y.size if n_observations is None else n_observations
    tail = GpdTail(float(threshold), xi, beta, y.size / n, extremal_index)
    return GpdFit(tail, y, covariance, _log_likelihood(y, xi, beta), n)


def fit_peaks(values: np.ndarray, threshold: float, *, gap: int, cap: float | None = None) -> GpdFit:
    """Fit to the cluster peaks of values (n_time,) over `threshold`; clusters are parted by `gap` steps below it.

    cap: the ceiling of the quantity, if it has one, such as 100 for CPU in percent. Raises SchemaError for values that
    are not finite or are censored, TooShortError for fewer than 20 peaks.

    Example:
        >>> demand = np.random.default_rng(1).exponential(5.0, 4000)
        >>> fit = fit_peaks(demand, float(np.quantile(demand, 0.95)), gap=6)
        >>> fit.tail.extremal_index < 1, fit.n_observations
        (True, 4000)
    """
    x = np.asarray(values, dtype=float)
    if x.ndim != 1 or not np.isfinite(x).all():
        raise SchemaError(f"tail: values of shape {x.shape} must be one row of finite numbers. Fill or cut the gaps.")
    refuse_censored(x, cap=cap)
    peaks = x[cluster_peaks(x, threshold, gap=gap)]
    if peaks.size < MIN_PEAKS:
        raise TooShortError(
            f"tail: {peaks.size} cluster peaks over {threshold:.4g}; {MIN_PEAKS} are needed. Give a longer past."
        )
    index = peaks.size / int((x > threshold).sum())
    return fit_gpd(peaks - threshold, threshold=threshold, n_observations=x.size, extremal_index=index)


def threshold_stability(
    values: np.ndarray, thresholds: ArrayLike, *, gap: int, cap: float | None = None
) -> pd.DataFrame:
    """What a choice of threshold changes, by threshold: the stability plot and the mean residual life in one table.

    Columns: n_peaks; xi, modified_scale (beta - xi u, in the unit of the data) and mean_excess (of all exceedances, same
    unit), each with _low and _high (95 %, normal; NaN where xi <= -0.5). Over a threshold that is high enough xi and the
    modified scale stay level and the mean excess is a straight line. Source: Coles (2001), sections 4.3.1 and 4.3.4.

    Example:
        >>> demand = np.random.default_rng(1).exponential(5.0, 4000)
        >>> threshold_stability(demand, [10.0, 12.0], gap=1)["n_peaks"].is_monotonic_decreasing
        True
    """
    rows = []
    for threshold in np.atleast_1d(np.asarray(thresholds, dtype=float)):
        fit = fit_peaks(values, threshold, gap=gap, cap=cap)
        over = values[values > threshold] - threshold
        slope = np.array([-threshold, 1.0])  # of the modified scale in xi and beta
        estimates = {
            "xi": (fit.tail.xi, fit.standard_errors[0]),
            "modified_scale": (slope @ [fit.tail.xi, fit.tail.beta], np.sqrt(slope @ fit.covariance @ slope)),
            "mean_excess": (over.mean(), over.std(ddof=1) / np.sqrt(over.size)),
        }
        row = {"threshold": threshold, "n_peaks": fit.excesses.size}
        for name, (value, error) in estimates.items():
            row |= {name: value, f"{name}_low": value - Z_95 * error, f"{name}_high": value + Z_95 * error}
        rows.append(row)
    return pd.DataFrame(rows).set_index("threshold")


def profile_interval(fit: GpdFit, n_observations: float, *, level: float = 0.9) -> tuple[float, float]:
    """Profile-likelihood interval of `return_level(n_observations)`; the rate of peaks is taken as known.

    For heavy tails the upper end lies much further out than the lower, which no estimate +- error can show.
    Source: Coles (2001), sections 2.6.6 and 4.3.3.

    Example:
        >>> fit = fit_gpd(genpareto.rvs(0.2, scale=3, size=200, random_state=np.random.default_rng(1)))
        >>> low, high = profile_interval(fit, 2000)
        >>> bool(low < fit.tail.return_level(2000) < high)
        True
    """
    y, peaks = fit.excesses, n_observations * fit.tail.rate
    best = float(np.log(fit.tail.return_level(n_observations) - fit.tail.threshold))
    needed = fit.log_likelihood - chi2.ppf(level, 1) / 2

    def above(log_height: float) -> float:
        """Largest log likelihood over xi with the level so high over the threshold, less what the interval needs."""

        def negative(xi: float) -> float:
            beta = np.exp(log_height) / -boxcox(1 / peaks, -xi)  # genpareto.isf, without its checks
            return -_log_likelihood(y, xi, beta)

        found = minimize_scalar(
            negative, bounds=(LOWEST_XI, HIGHEST_XI), method="bounded", options={"xatol": TOLERANCE}
        )
        return float(-found.fun - needed)

    low = brentq(above, _bracket(above, best, -LOG_STEP), best, xtol=TOLERANCE)
    high = brentq(above, best, _bracket(above, best, LOG_STEP), xtol=TOLERANCE)
    return fit.tail.threshold + float(np.exp(low)), fit.tail.threshold + float(np.exp(high))


def _bracket(above: Callable[[float], float], start: float, step: float) -> float:
    """A point beyond the end of the interval, by steps away from `start`."""
    edge = start
    for _ in range(MOST_STEPS):
        edge += step
        if above(edge) < 0:
            return edge
    raise SchemaError("tail: the profile likelihood does not fall; the excesses do not bound this return level.")


def _log_likelihood(y: np.ndarray, xi: float, beta: float) -> float:
    """As genpareto.logpdf(y, xi, scale=beta).sum(), without its checks: a profile calls it hundreds of times."""
    if xi * y.max() <= -beta:
        return LOWEST
    terms = np.log1p(xi * y / beta).sum() * (1 + 1 / xi) if abs(xi) > TINY_XI else y.sum() / beta
    return float(-y.size * np.log(beta) - terms)


def _information(y: np.ndarray, xi: float, beta: float) -> np.ndarray:
    """Observed information (2, 2) of xi and beta: minus the second derivatives of the log likelihood."""
    z = y / beta
    w = 1 + xi * z
    if abs(xi) < SMALL_XI:
        xi_xi = z**2 - 2 / 3 * z**3 + xi * (1.5 * z**4 - 2 * z**3)
    else:
        xi_xi = -2 * np.log(w) / xi**3 + 2 * z / (xi**2 * w) + (1 + 1 / xi) * z**2 / w**2
    xi_beta = z * (1 - z) / (beta * w**2)
    beta_beta = (1 - (1 + xi) * (z / w + z / w**2)) / beta**2
    mixed = xi_beta.sum()
    return -np.array([[xi_xi.sum(), mixed], [mixed, beta_beta.sum()]])
