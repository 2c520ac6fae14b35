"""Structural model: likelihood against two oracles, paths in closed form, truth recovered, NUTS and SVI side by side."""

import math
from functools import cache

import jax
import numpy as np
import pytest
from scipy.stats import multivariate_normal
from statsmodels.tsa.statespace.structural import UnobservedComponents

from support.errors import SchemaError, TooShortError
from support.forecasting.structural import (
    START_VAR,
    StructuralFit,
    fit_structural,
    kalman_log_likelihood,
)

N, SEASON = 288, 24
TRUTH = {"level_sd": 1.5, "noise_sd": 3.0}  # in the unit of the simulated series


def simulated(seed=0):
    """A day's wave, a level that wanders, and Student-t noise with 4 degrees of freedom."""
    rng = np.random.default_rng(seed)
    level = rng.normal(0, TRUTH["level_sd"], N).cumsum()
    wave = 15 * np.sin(2 * np.pi * np.arange(N) / SEASON)
    return 100 + wave + level + TRUTH["noise_sd"] * rng.standard_t(4, N)


SIZES = {"n_draws": 600, "n_warmup": 300, "n_steps": 1500}  # the same everywhere: each other one is compiled anew


@cache
def fitted(engine):
    return fit_structural(simulated(), 24, SEASON, np.random.default_rng(1), engine=engine, **SIZES)


def test_likelihood_of_the_local_linear_trend_is_that_of_statsmodels():
    y = np.random.default_rng(0).normal(size=150).cumsum()
    level_sd, slope_sd, noise_sd = 0.7, 0.05, 0.4
    oracle = UnobservedComponents(y, "lltrend")
    a, c = START_VAR
    oracle.ssm.initialize_known(np.zeros(2), np.array([[a + c + level_sd**2, c], [c, c + slope_sd**2]]))
    oracle.ssm.loglikelihood_burn = 0
    wanted = oracle.loglike([noise_sd**2, level_sd**2, slope_sd**2])
    found = kalman_log_likelihood(y, level_sd=level_sd, slope_sd=slope_sd, noise_sd=noise_sd)
    assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize(("rho", "damping"), [(0.9, 0.5), (1.0, 0.8), (0.99, 1.0)])
def test_likelihood_is_that_of_one_joint_normal(rho, damping):
    n, level_sd, slope_sd, noise_sd = 40, 0.3, 0.1, 0.5
    move = np.array([[rho, 1.0], [0.0, damping]])
    covariance, state = np.empty((n, n)), np.diag(START_VAR)
    states = []
    for _ in range(n):
        state = move @ state @ move.T + np.diag([level_sd**2, slope_sd**2])
        states.append(state)
    for s in range(n):
        ahead = states[s]
        for t in range(s, n):
            covariance[s, t] = covariance[t, s] = ahead[0, 0]
            ahead = move @ ahead
    y = np.random.default_rng(3).normal(size=n)
    wanted = multivariate_normal(np.zeros(n), covariance + noise_sd**2 * np.eye(n)).logpdf(y)
    found = kalman_log_likelihood(y, level_sd=level_sd, slope_sd=slope_sd, noise_sd=noise_sd, rho=rho, damping=damping)
    assert found == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("noise_df", [math.inf, 8.0])
def test_paths_have_the_moments_of_the_model(noise_df):
    n, horizon, memory, damping = 40_000, 12, 20.0, 0.8
    level_sd, slope_sd, noise_sd = 0.4, 0.1, 0.5
    start = np.array([[0.3, 0.05], [0.05, 0.2]])
    full = lambda x: np.full(n, float(x))  # noqa: E731
    fit = StructuralFit(
        draws={"coefficients": np.full((n, 1), 2.0), "memory": full(memory), "damping": full(damping),
               "level_sd": full(level_sd), "slope_sd": full(slope_sd), "noise_sd": full(noise_sd)},
        last=(full(1.0), full(0.5), full(start[0, 0]), full(start[0, 1]), full(start[1, 1])),
        future=np.ones((horizon, 1)), centre=10.0, scale=3.0, noise_df=noise_df, diagnostics={},
    )  # fmt: skip
    paths = fit.paths(np.random.default_rng(0))
    move, mean, state = np.array([[math.exp(-1 / memory), 1.0], [0.0, damping]]), np.array([1.0, 0.5]), start
    for h in range(horizon):
        mean, state = move @ mean, move @ state @ move.T + np.diag([level_sd**2, slope_sd**2])
        noise = noise_sd**2 * (1 if math.isinf(noise_df) else noise_df / (noise_df - 2))
        sd = 3 * math.sqrt(state[0, 0] + noise)
        assert paths[:, h].mean() == pytest.approx(10 + 3 * (mean[0] + 2), abs=5 * sd / math.sqrt(n))
        assert paths[:, h].std() == pytest.approx(sd, rel=0.03)


@pytest.mark.parametrize("engine", ["svi", "nuts"])
def test_a_known_truth_is_recovered(engine):
    fit = fitted(engine)
    for name, truth in TRUTH.items():
        low, high = np.quantile(fit.draws[name] * fit.scale, [0.005, 0.995])
        assert low < truth < high, name
    low, high = np.quantile(fit.draws["coefficients"][:, 1] * fit.scale, [0.005, 0.995])
    assert low < 15 < high  # the sine of one day; column 0 is the mean


def test_nuts_mixes_and_svi_agrees_with_it():
    """Coefficients and noise: means within 0.3 posterior deviations; forecasts: widths within a fifth, medians close."""
    svi, nuts = fitted("svi"), fitted("nuts")
    assert max(v for k, v in nuts.diagnostics.items() if k.startswith("r_hat")) < 1.05
    assert nuts.diagnostics["diverging"] == 0
    for column in range(1, 9):
        one, two = (f.draws["coefficients"][:, column] for f in (svi, nuts))
        assert abs(one.mean() - two.mean()) < 0.3 * two.std()
    one, two = (np.quantile(f.paths(np.random.default_rng(0)), [0.05, 0.5, 0.95], axis=0) for f in (svi, nuts))
    width = two[2] - two[0]
    assert 0.8 < ((one[2] - one[0]) / width).mean() < 1.25
    assert np.abs(one[1] - two[1]).max() < 0.15 * width.mean()


def test_one_outlier_moves_student_noise_less_than_gaussian():
    y = simulated()
    y[-1] += 200
    robust, plain = (
        np.median(
            fit_structural(y, 24, SEASON, np.random.default_rng(1), noise_df=df, **SIZES).paths(
                np.random.default_rng(0)
            )
        )
        for df in (4.0, math.inf)
    )
    clean = np.median(fitted("svi").paths(np.random.default_rng(0)))
    assert abs(robust - clean) < 0.5 * abs(plain - clean)


def test_the_rest_of_the_process_keeps_its_precision():
    before = jax.config.jax_enable_x64
    assert fitted("svi").draws["level_sd"].dtype == np.float64
    assert jax.config.jax_enable_x64 == before


def test_too_short_and_an_unknown_engine():
    with pytest.raises(TooShortError):
        fit_structural(np.arange(5.0), 2, 24, np.random.default_rng(0))
    with pytest.raises(SchemaError, match="nuts"):
        fit_structural(np.arange(50.0), 2, 1, np.random.default_rng(0), engine="vi")
