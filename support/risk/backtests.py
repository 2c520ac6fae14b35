"""Back-tests of forecast quantiles: Kupiec, Christoffersen, Basel zones, and the block versions that telemetry needs.

An exception is an observation above its forecast quantile; p is the probability the forecast gave it. The classical tests
take exceptions to be independent. Demand at five minutes is not: `rejection_rates` shows what that does to a true quantile.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.signal import lfilter
from scipy.special import xlogy
from scipy.stats import binom, bootstrap, chi2, norm

from support.errors import SchemaError, TooShortError

__all__ = [
    "LikelihoodRatio", "TrafficLight", "backtest", "block_mean_interval", "christoffersen_independence",
    "conditional_coverage", "day_peaks", "kupiec_nonrejection", "kupiec_pof", "kupiec_power",
    "rejection_rates", "traffic_light", "transitions",
]  # fmt: skip

SIZE = 0.05  # of a test: share of true forecasts that it may reject
YELLOW, RED = 0.95, 0.9999  # cumulative probabilities at which the zones begin, Basel Committee (1996), section III
BOOTSTRAP_DRAWS = 999
CHUNK = 4_000_000  # simulated values held at a time: 32 MB
PEAK_SAMPLE_DAYS = 20_000  # days behind the true quantile of the daily peak: its level is then 0.0015 off at p = 0.05


class LikelihoodRatio(NamedTuple):
    """A likelihood-ratio test: statistic, its chi-squared p-value, degrees of freedom; numbers or arrays of them."""

    lr: Any
    p_value: Any
    df: int

    def rejected(self, size: float = SIZE) -> Any:
        """True where the forecast is rejected at `size`."""
        return self.p_value < size


class TrafficLight(NamedTuple):
    """Basel zone of a count of exceptions, the probability of so many or fewer, and the counts where zones begin."""

    zone: str
    cumulative: float
    yellow_from: int
    red_from: int


def kupiec_pof(n_exceptions: ArrayLike, n_observations: ArrayLike, p: ArrayLike) -> LikelihoodRatio:
    """Proportion-of-failures test: does the share of exceptions agree with p? Arrays broadcast; 0 ln 0 = 0.

    Raises SchemaError for counts or probabilities out of range. Source: Kupiec (1995), Journal of Derivatives 3.

    Example:
        >>> test = kupiec_pof(57, 1043, 0.05)
        >>> round(float(test.lr), 5), round(float(test.p_value), 5)
        (0.46147, 0.49694)
    """
    x, n, p = (np.asarray(a, dtype=float) for a in (n_exceptions, n_observations, p))
    if not ((x >= 0) & (x <= n) & (n >= 1)).all():
        raise SchemaError("back-test: exceptions must lie between 0 and the number of observations, which is positive.")
    _check_probability(p)
    return _ratio(_log_likelihood(n - x, x, p), _log_likelihood(n - x, x, x / n), 1)


def kupiec_nonrejection(n_observations: int, p: float, *, size: float = SIZE) -> tuple[int, int]:
    """Bounds (lower, upper), both exclusive, of the counts that the test does not reject; lower is -1 if zero passes.

    Source: Kupiec (1995), table 2 and 3.

    Example:
        >>> kupiec_nonrejection(1000, 0.01)
        (4, 17)
    """
    passing = np.flatnonzero(~kupiec_pof(np.arange(n_observations + 1), n_observations, p).rejected(size))
    return int(passing[0]) - 1, int(passing[-1]) + 1


def kupiec_power(n_observations: int, p: float, true_p: float, *, size: float = SIZE) -> float:
    """Probability that the test rejects a forecast of p when exceptions are independent with probability `true_p`.

    Example:
        >>> round(kupiec_power(30, 0.05, 0.10), 2)  # a month of days: twice the promised breaches mostly pass
        0.18
    """
    lower, upper = kupiec_nonrejection(n_observations, p, size=size)
    return float(binom.cdf(lower, n_observations, true_p) + binom.sf(upper - 1, n_observations, true_p))


def transitions(exceptions: np.ndarray) -> tuple[Any, Any, Any, Any]:
    """Counts (n00, n01, n10, n11) of neighbours along the last axis of booleans (..., n_time).

    Example:
        >>> [int(n) for n in transitions(np.array([False, True, True, False, False]))]
        [1, 1, 1, 1]
    """
    before, after = exceptions[..., :-1].astype(bool), exceptions[..., 1:].astype(bool)
    pairs = (~before & ~after, ~before & after, before & ~after, before & after)
    n00, n01, n10, n11 = (pair.sum(axis=-1) for pair in pairs)
    return n00, n01, n10, n11


def christoffersen_independence(n00: ArrayLike, n01: ArrayLike, n10: ArrayLike, n11: ArrayLike) -> LikelihoodRatio:
    """Is an exception as likely after an exception as after none? Counts as of `transitions`; arrays broadcast.

    Source: Christoffersen (1998), International Economic Review 39.

    Example:
        >>> test = christoffersen_independence(932, 53, 53, 4)
        >>> round(float(test.lr), 5), round(float(test.p_value), 5)
        (0.25866, 0.61104)
    """
    n00, n01, n10, n11 = (np.asarray(a, dtype=float) for a in (n00, n01, n10, n11))
    if not ((n00 >= 0) & (n01 >= 0) & (n10 >= 0) & (n11 >= 0) & (n00 + n01 + n10 + n11 >= 1)).all():
        raise SchemaError("back-test: transitions must be counts, at least one of them positive.")
    pooled = (n01 + n11) / (n00 + n01 + n10 + n11)
    pi01, pi11 = (k / np.maximum(k + rest, 1) for k, rest in ((n01, n00), (n11, n10)))
    own = _log_likelihood(n00, n01, pi01) + _log_likelihood(n10, n11, pi11)
    return _ratio(_log_likelihood(n00 + n10, n01 + n11, pooled), own, 1)


def conditional_coverage(unconditional: LikelihoodRatio, independence: LikelihoodRatio) -> LikelihoodRatio:
    """Christoffersen's joint test: the sum of the two statistics, chi-squared with two degrees of freedom.

    Example:
        >>> test = conditional_coverage(kupiec_pof(57, 1043, 0.05), christoffersen_independence(932, 53, 53, 4))
        >>> round(float(test.lr), 5)
        0.72013
    """
    lr, df = unconditional.lr + independence.lr, unconditional.df + independence.df
    return LikelihoodRatio(lr, chi2.sf(lr, df), df)


def traffic_light(n_exceptions: int, n_observations: int = 250, p: float = 0.01) -> TrafficLight:
    """Basel's zone: yellow from the count whose cumulative probability reaches 95 %, red from 99.99 %.

    Source: Basel Committee (1996), Supervisory framework for the use of backtesting, section III and table 2.

    Example:
        >>> traffic_light(5)[2:], traffic_light(5).zone
        ((5, 10), 'yellow')
    """
    _check_probability(np.asarray(p))
    yellow, red = (int(binom.ppf(level, n_observations, p)) for level in (YELLOW, RED))
    zone = "green" if n_exceptions < yellow else "yellow" if n_exceptions < red else "red"
    return TrafficLight(zone, float(binom.cdf(n_exceptions, n_observations, p)), yellow, red)


def backtest(exceptions: np.ndarray, p: float) -> pd.DataFrame:
    """The three tests of one sequence of exceptions (n_time,): columns lr, df, p_value, rejected (at 5 %).

    Its `attrs` hold n (observations), x (exceptions), expected and the Basel zone. Give one value a day, or one-step
    forecasts. Raises TooShortError under two observations.

    Example:
        >>> table = backtest(np.arange(100) % 20 == 0, 0.05)
        >>> table.loc["Kupiec", "rejected"].item(), table.attrs["zone"]
        (False, 'green')
    """
    hits = np.asarray(exceptions, dtype=bool)
    if hits.ndim != 1 or hits.size < 2:
        raise TooShortError(f"back-test: exceptions of shape {hits.shape}; at least two in one row are needed.")
    pof, independence = kupiec_pof(hits.sum(), hits.size, p), christoffersen_independence(*transitions(hits))
    tests = {
        "Kupiec": pof,
        "Christoffersen independence": independence,
        "conditional coverage": conditional_coverage(pof, independence),
    }
    rows = {k: {"lr": t.lr, "df": t.df, "p_value": t.p_value, "rejected": bool(t.rejected())} for k, t in tests.items()}
    table = pd.DataFrame.from_dict(rows, orient="index")
    count = int(hits.sum())
    zone = traffic_light(count, hits.size, p).zone
    table.attrs.update(n=hits.size, x=count, expected=p * hits.size, zone=zone)
    return table


def day_peaks(values: np.ndarray, steps_per_day: int) -> np.ndarray:
    """Largest value of each day (..., n_day) of values (..., n_time): one value a day, which the tests can judge.

    For the exceptions compare day_peaks(observed) with the quantile of day_peaks(paths) over the draws. Raises
    SchemaError unless the days are whole.

    Example:
        >>> day_peaks(np.array([1.0, 3.0, 2.0, 0.0]), 2).tolist()
        [3.0, 2.0]
    """
    if steps_per_day < 1 or values.shape[-1] % steps_per_day:
        raise SchemaError(f"{values.shape[-1]} steps are not whole days of {steps_per_day}. Cut the incomplete day.")
    return np.asarray(values.reshape(*values.shape[:-1], -1, steps_per_day).max(axis=-1))


def block_mean_interval(
    values: np.ndarray, *, block: int, level: float = 0.9, rng: np.random.Generator
) -> tuple[float, float, float]:
    """Mean of values (n_time,) and its percentile interval from resampled blocks of `block` steps, a day or longer.

    Values are exception indicators, excesses or differences of two scores; an incomplete last block is left out.
    Raises TooShortError under two blocks. Source: Carlstein (1986), Annals of Statistics 14 (blocks that do not overlap).

    Example:
        >>> block_mean_interval(np.tile([0.0, 1.0], 50), block=10, rng=np.random.default_rng(1))
        (0.5, 0.5, 0.5)
    """
    n_block = len(values) // block
    if n_block < 2:
        raise TooShortError(f"block bootstrap: {len(values)} values hold {n_block} blocks of {block}; two are needed.")
    means = np.asarray(values, dtype=float)[: n_block * block].reshape(n_block, block).mean(axis=1)
    low, high = _percentile(means, level, rng)
    return float(means.mean()), float(low), float(high)


def rejection_rates(
    phis: tuple[float, ...], *, p: float = 0.05, n_series: int = 2000, n_days: int = 7, steps_per_day: int = 288,
    rng: np.random.Generator,
) -> pd.DataFrame:  # fmt: skip
    """How often each test rejects the TRUE quantile of a Gaussian AR(1), by phi per step: a good test says 5 %.

    Columns: `kupiec` and `christoffersen` (independence) on every step against the true 1 - p quantile; `bootstrap`, p
    outside the 95 % interval of resampled days; `kupiec_day_peaks` and `christoffersen_day_peaks` on one peak a day
    against the true quantile of the daily peak (of 20,000 other days). `n_series` series of `n_days` days each.

    Example:
        >>> rejection_rates((0.0,), n_series=50, rng=np.random.default_rng(1)).shape
        (1, 5)
    """
    return pd.DataFrame(
        {phi: _rejected(phi, p, n_series, n_days, steps_per_day, rng) for phi in phis}
    ).T.rename_axis("phi")  # fmt: skip


def _rejected(phi: float, p: float, n_series: int, n_days: int, day: int, rng: np.random.Generator) -> dict[str, float]:
    """Shares of rejection at one phi, a chunk of series at a time."""
    limit = norm.isf(p)
    peak_limit = np.quantile(day_peaks(_ar1(phi, (PEAK_SAMPLE_DAYS // 20, 20 * day), rng), day), 1 - p)
    parts = []
    size = max(1, CHUNK // (n_days * day))
    for first in range(0, n_series, size):
        x = _ar1(phi, (min(size, n_series - first), n_days * day), rng)
        hits, peak_hits = x > limit, day_peaks(x, day) > peak_limit
        low, high = _percentile(hits.reshape(len(x), n_days, day).mean(axis=2), 1 - SIZE, rng)
        parts.append(
            {
                "kupiec": kupiec_pof(hits.sum(axis=1), hits.shape[1], p).rejected(),
                "christoffersen": christoffersen_independence(*transitions(hits)).rejected(),
                "bootstrap": (low > p) | (high < p),
                "kupiec_day_peaks": kupiec_pof(peak_hits.sum(axis=1), n_days, p).rejected(),
                "christoffersen_day_peaks": christoffersen_independence(*transitions(peak_hits)).rejected(),
            }
        )
    return {name: float(np.concatenate([part[name] for part in parts]).mean()) for name in parts[0]}


def _ar1(phi: float, shape: tuple[int, int], rng: np.random.Generator) -> np.ndarray:
    """Stationary AR(1) series with standard normal margin, (n_series, n_time)."""
    noise = rng.standard_normal(shape)
    noise[:, 1:] *= np.sqrt(1 - phi**2)
    return np.asarray(lfilter([1.0], [1.0, -phi], noise, axis=1))


def _percentile(means: np.ndarray, level: float, rng: np.random.Generator) -> tuple[Any, Any]:
    """Percentile bootstrap interval of the mean along the last axis."""
    found = bootstrap(
        (means,), np.mean, axis=-1, confidence_level=level, n_resamples=BOOTSTRAP_DRAWS, method="percentile", rng=rng,
        batch=max(1, CHUNK // means.size),
    )  # fmt: skip
    return found.confidence_interval.low, found.confidence_interval.high


def _log_likelihood(n0: Any, n1: Any, p: Any) -> Any:
    """Of n1 exceptions and n0 others at probability p, with 0 ln 0 = 0."""
    return xlogy(n1, p) + xlogy(n0, 1 - p)


def _ratio(restricted: Any, free: Any, df: int) -> LikelihoodRatio:
    lr = np.maximum(2 * (free - restricted), 0.0)  # rounding may leave -1e-14
    return LikelihoodRatio(lr, chi2.sf(lr, df), df)


def _check_probability(p: np.ndarray) -> None:
    if not ((p > 0) & (p < 1)).all():
        raise SchemaError(f"back-test: p is {p}; the probability of an exception lies in (0, 1), such as 0.05.")
