"""Peaks over a threshold: loops, closed forms, numerical derivatives, a brute-force profile, and refusals."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as hs
from hypothesis.extra.numpy import arrays
from scipy.integrate import quad
from scipy.stats import chi2, genpareto

import support.bayes  # noqa: F401  # double precision
from support.errors import SchemaError, TooShortError
from support.risk.tails import (
    GpdTail,
    cluster_peaks,
    fit_gpd,
    fit_peaks,
    profile_interval,
    refuse_censored,
    threshold_stability,
)


def excesses(xi: float, n: int = 300, scale: float = 4.0, seed: int = 1) -> np.ndarray:
    return genpareto.rvs(xi, scale=scale, size=n, random_state=np.random.default_rng(seed))


def minus_log_likelihood(y: np.ndarray, xi: float, beta: float) -> float:
    """Written out: n log beta + (1 + 1/xi) sum log(1 + xi y / beta)."""
    argument = 1 + xi * y / beta
    return np.inf if (argument <= 0).any() else y.size * np.log(beta) + (1 + 1 / xi) * np.log(argument).sum()


@given(arrays(float, 40, elements=hs.floats(0, 10)), hs.integers(1, 5))
def test_runs_declustering_equals_a_loop(values: np.ndarray, gap: int) -> None:
    clusters: list[list[int]] = []
    below = gap
    for position, value in enumerate(values):
        if value > 6.0:
            if below >= gap:
                clusters.append([])
            clusters[-1].append(position)
            below = 0
        else:
            below += 1
    expected = [max(cluster, key=lambda k: values[k]) for cluster in clusters]
    assert cluster_peaks(values, 6.0, gap=gap).tolist() == expected


@pytest.mark.parametrize("xi", [-0.3, 0.0, 0.4])
def test_fit_is_the_maximum_and_its_covariance_the_inverse_curvature(xi: float) -> None:
    y = excesses(xi)
    fit = fit_gpd(y)
    at = np.array([fit.tail.xi, fit.tail.beta])
    assert -fit.log_likelihood == pytest.approx(minus_log_likelihood(y, *at))
    for step in np.array([[1, 0], [-1, 0], [0, 1], [0, -1]]) * 1e-3:
        assert minus_log_likelihood(y, *(at + step)) > -fit.log_likelihood

    def negative(x: jax.Array) -> jax.Array:
        return y.size * jnp.log(x[1]) + (1 + 1 / x[0]) * jnp.log1p(x[0] * y / x[1]).sum()

    np.testing.assert_allclose(
        np.linalg.inv(fit.covariance), jax.jit(jax.hessian(negative))(jnp.asarray(at)), rtol=1e-6
    )
    assert abs(fit.tail.xi - xi) < 4 * fit.standard_errors[0]


def test_information_is_continuous_where_the_series_takes_over() -> None:
    from support.risk.tails import SMALL_XI, _information

    y = excesses(0.0)
    around = [_information(y, sign * SMALL_XI * f, 4.0) for sign in (-1, 1) for f in (0.99, 1.01)]
    for left, right in ((around[0], around[1]), (around[2], around[3])):
        np.testing.assert_allclose(left, right, rtol=1e-3)


@settings(max_examples=10, deadline=None)
@given(hs.floats(0.2, 50.0))
def test_fit_is_equivariant_under_a_change_of_unit(unit: float) -> None:
    y = excesses(0.15, n=60)
    one, other = fit_gpd(y), fit_gpd(unit * y)
    assert other.tail.xi == pytest.approx(one.tail.xi, abs=1e-6)
    assert other.tail.beta == pytest.approx(unit * one.tail.beta, rel=1e-6)


@pytest.mark.parametrize("xi", [-0.4, 0.0, 0.15, 0.6])
def test_var_es_and_return_level_invert_the_tail(xi: float) -> None:
    tail = GpdTail(70.0, xi, 6.0, rate=0.02, extremal_index=0.4)  # 5 % of the observations lie above
    var, es = tail.var(0.999), tail.es(0.999)
    assert tail.exceedance(var) == pytest.approx(0.001)
    beyond = quad(tail.exceedance, var, tail.var(1 - 1e-15) if xi < 0 else np.inf)[0]
    assert es == pytest.approx(var + beyond / 0.001, rel=1e-5)  # mean of the tail by its survival function
    level = tail.return_level(5000)
    assert genpareto.sf(level, xi, loc=70.0, scale=6.0) * tail.rate == pytest.approx(1 / 5000)


def test_tail_takes_draws_and_says_where_it_ends() -> None:
    xi = np.array([-0.2, 0.3, 1.2])
    draws = GpdTail(10.0, xi, np.full(3, 2.0), rate=np.array([0.1, 0.2, 0.1]))
    assert draws.return_level(1000).shape == (3,)
    assert np.isinf(draws.es(0.99)).tolist() == [False, False, True]
    for k in range(3):
        one = GpdTail(10.0, xi[k], 2.0, [0.1, 0.2, 0.1][k])
        assert one.var(0.99) == draws.var(0.99)[k]
    with pytest.raises(SchemaError, match="under the threshold"):
        draws.var(0.5)
    with pytest.raises(SchemaError, match="under the threshold 10"):
        draws.exceedance(9.0)


@pytest.mark.parametrize("xi", [-0.25, 0.2])
def test_profile_interval_equals_a_brute_force_profile(xi: float) -> None:
    y, peaks, level = excesses(xi, n=120), 2000.0, 0.9
    fit = fit_gpd(y, threshold=50.0, n_observations=1200)
    low, high = profile_interval(fit, peaks / fit.tail.rate, level=level)
    shapes = np.linspace(-0.8, 1.5, 4600)
    for end in (low, high):
        scales = (end - 50.0) * shapes / (peaks**shapes - 1)
        best = min(minus_log_likelihood(y, s, b) for s, b in zip(shapes, scales, strict=True))
        assert fit.log_likelihood + best == pytest.approx(chi2.ppf(level, 1) / 2, abs=2e-3)
    estimate = fit.tail.return_level(peaks / fit.tail.rate)
    assert estimate - low < high - estimate  # longer upwards


def test_fit_peaks_counts_clusters_and_exceedances() -> None:
    rng = np.random.default_rng(4)
    values = np.maximum.reduce([np.roll(rng.exponential(5.0, 6000), k) for k in range(3)])  # every shock lasts
    spread = np.convolve(rng.exponential(5.0, 6000), np.ones(3), mode="same")
    for x in (values, spread):
        u = float(np.quantile(x, 0.95))
        fit = fit_peaks(x, u, gap=5)
        peaks = cluster_peaks(x, u, gap=5)
        assert fit.excesses.size == len(peaks) and fit.tail.rate == len(peaks) / 6000
        assert fit.tail.rate / fit.tail.extremal_index == pytest.approx((x > u).mean())
        assert fit.tail.exceedance(u) == pytest.approx((x > u).mean())


def test_stability_of_an_exponential_tail() -> None:
    """True at every threshold: xi 0, modified scale 5, mean excess 5 (memoryless). Within four standard errors."""
    x = np.random.default_rng(6).exponential(5.0, 20_000)
    table = threshold_stability(x, [15.0, 18.0, 20.0], gap=1)  # 5 to 2 % of the values: clusters are then chance
    assert table["n_peaks"].is_monotonic_decreasing
    for name, truth in (("xi", 0.0), ("modified_scale", 5.0), ("mean_excess", 5.0)):
        half = table[f"{name}_high"] - table[name]
        np.testing.assert_allclose(table[f"{name}_low"], table[name] - half)
        assert ((table[name] - truth).abs() < 2 * half).all()


@pytest.mark.parametrize("cap", [None, 100.0])
def test_censored_utilisation_is_refused_in_words(cap: float | None) -> None:
    demand = np.random.default_rng(8).gamma(20.0, 4.0, 5000)  # per cent of capacity wanted
    fit_peaks(demand, float(np.quantile(demand, 0.95)), gap=1, cap=None)
    with pytest.raises(SchemaError, match="wanted"):
        fit_peaks(np.minimum(demand, 100.0), 90.0, gap=1, cap=cap)


def test_a_single_reading_at_the_cap_passes_and_a_share_does_not() -> None:
    values = np.linspace(0, 99, 5000)
    refuse_censored(np.append(values, 100.0), cap=100.0)
    with pytest.raises(SchemaError, match="at the cap 100"):
        refuse_censored(np.append(values, [100.0, 101.0, 100.0, 102.0, 100.0, 100.5]), cap=100.0)
    refuse_censored(np.append(values, 99.0))  # two equal maxima may be chance
    with pytest.raises(SchemaError, match="equal the maximum"):
        refuse_censored(np.append(values, [99.0] * 5))


def test_bad_input_is_refused() -> None:
    x = np.random.default_rng(9).exponential(1.0, 500)
    with pytest.raises(SchemaError, match="finite"):
        fit_peaks(np.append(x, np.nan), 2.0, gap=1)
    with pytest.raises(TooShortError, match="20 are needed"):
        fit_peaks(x, float(np.sort(x)[-10]), gap=1)
    with pytest.raises(SchemaError, match="gap"):
        fit_peaks(x, 2.0, gap=0)
    with pytest.raises(SchemaError, match="positive"):
        fit_gpd(np.array([1.0, -1.0, 2.0]))
    with pytest.raises(SchemaError, match="no maximum"):
        fit_gpd(np.random.default_rng(1).power(4.0, 40))  # the density rises up to the endpoint
