"""Correlations: scores, effective sizes, the pooled posterior and the copula against closed forms, scipy and known truth."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import numpyro.distributions as dist
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from support.bayes.copula import (
    EmpiricalMarginal,
    beta_marginal,
    gumbel_orthant,
    joint_models,
    simulate_joint,
    upper_orthant,
)
from support.bayes.correlation import fit_correlations, fit_many, machine_estimates, to_matrix
from support.bayes.scores import (
    CorrelationStatistics,
    correlation_statistics,
    hour_cell,
    mean_inflation,
    normal_scores,
    remainder_scores,
    statistics_of,
)
from support.errors import SchemaError, SourceError, TooShortError
from support.telemetry import Telemetry, ar1

METRICS = ("cpu_utilization", "memory_utilization", "network_in_mbps")
TRUTH = np.array([[1.0, 0.7, 0.4], [0.7, 1.0, 0.1], [0.4, 0.1, 1.0]])


def stated(matrices, n_effective, archetype_of=None):
    """Statistics with the given matrices and effective sizes."""
    matrices = np.asarray(matrices, dtype=float)
    n = len(matrices)
    of = np.zeros(n, dtype=int) if archetype_of is None else np.asarray(archetype_of)
    names = tuple(f"m{i}" for i in range(n))
    kinds = tuple(f"a{i}" for i in range(of.max() + 1))
    size = np.broadcast_to(np.asarray(n_effective, dtype=float), n).copy()
    metrics = tuple("abcdefgh"[: matrices.shape[1]])
    return CorrelationStatistics(metrics, names, kinds, of, matrices, size, size, np.zeros(matrices.shape[:2]))


def fleet(n_machine=4, days=28, memory=2.0, seed=1):
    """Telemetry of machines with correlation TRUTH in what the cycle leaves, distorted into percentages."""
    rng = np.random.default_rng(seed)
    times = pd.date_range("2026-03-02", periods=24 * days, freq="1h", tz="UTC")
    frames = []
    for _ in range(n_machine):
        noise = np.linalg.cholesky(TRUTH) @ ar1((3, len(times)), memory, 1.0, rng=rng)
        values = noise + 0.8 * np.sin(2 * np.pi * times.hour.to_numpy() / 24)
        frames.append(np.column_stack([100 * stats.norm.cdf(values[0] - 1), 100 * stats.norm.cdf(values[1]), np.exp(values[2])]))  # fmt: skip
    index = pd.MultiIndex.from_product([[f"m{i}" for i in range(n_machine)], times], names=["resource_id", "timestamp"])
    kinds = pd.DataFrame({"application": ["x", "y"] * (n_machine // 2)}, index=index.levels[0])
    return Telemetry(pd.DataFrame(np.concatenate(frames), index, list(METRICS)), 3600.0, resources=kinds)


@pytest.fixture(scope="module")
def telemetry():
    return fleet()


@pytest.fixture(scope="module")
def fitted(telemetry):
    found = correlation_statistics(telemetry, METRICS, archetype_column="application")
    return fit_correlations(found, n_warmup=300, n_draws=300, key=jax.random.key(1))


@settings(deadline=None)
@given(st.lists(st.floats(-1e6, 1e6), min_size=3, max_size=30))
def test_scores_keep_order_and_forget_scale(values):
    x = np.array(values)
    scores = normal_scores(x)
    assert np.array_equal(stats.rankdata(scores), stats.rankdata(x))
    assert np.allclose(scores, normal_scores(np.arctan(stats.rankdata(x))))
    assert abs(scores.mean()) < 1e-9 or len(set(values)) < len(values)


def test_hours_of_the_week_count_from_monday():
    times = pd.date_range("2026-03-02", periods=200, freq="1h", tz="UTC")  # a Monday
    assert hour_cell(times, "week").tolist() == [h % 168 for h in range(200)]
    assert hour_cell(times, "day").tolist() == [h % 24 for h in range(200)]
    with pytest.raises(SourceError, match="season"):
        hour_cell(times, "year")


@pytest.mark.parametrize("phi", [0.0, 0.6, 0.9])
def test_inflation_is_that_of_two_ar1_series(phi):
    memory = -1 / np.log(phi) if phi else 1e-3
    series = ar1((2, 60_000), memory, 1.0, rng=np.random.default_rng(2)).T
    assert mean_inflation(series) == pytest.approx((1 + phi**2) / (1 - phi**2), rel=0.1)


def test_effective_size_predicts_the_spread_of_sample_correlations():
    rng = np.random.default_rng(3)
    z, said = [], []
    for _ in range(300):
        x = (np.linalg.cholesky(TRUTH) @ ar1((3, 500), 5.0, 1.0, rng=rng)).T
        z.append(np.arctanh(np.corrcoef(x, rowvar=False)[0, 1]))
        said.append(len(x) / mean_inflation(x))
    assert 1 / np.var(z) == pytest.approx(np.mean(said), rel=0.25)


def test_gaps_do_not_change_the_inflation_much():
    series = ar1((2, 40_000), 5.0, 1.0, rng=np.random.default_rng(4)).T
    holes = series.copy()
    holes[np.random.default_rng(5).random(len(series)) < 0.2] = np.nan
    assert mean_inflation(holes) == pytest.approx(mean_inflation(series), rel=0.1)


def test_a_shared_cycle_alone_leaves_no_correlation():
    times = pd.date_range("2026-03-02", periods=24 * 35, freq="1h", tz="UTC")
    cycle = 3 * np.sin(2 * np.pi * times.hour.to_numpy() / 24)
    values = pd.DataFrame(cycle[:, None] + np.random.default_rng(6).normal(size=(len(times), 2)), times, ["a", "b"])
    raw = np.corrcoef(normal_scores(values.to_numpy()), rowvar=False)[0, 1]
    left, share = remainder_scores(values, "week")
    assert raw > 0.7 and abs(np.corrcoef(left, rowvar=False)[0, 1]) < 0.1 and (share > 0.7).all()


@pytest.mark.parametrize("n_metric", [2, 4, 6])
def test_fishers_scale_is_numpyros_parametrisation_and_gives_correlation_matrices(n_metric):
    z = np.random.default_rng(11).normal(0, 0.5, n_metric * (n_metric - 1) // 2)
    factor = np.asarray(dist.transforms.CorrCholeskyTransform()(jnp.asarray(z)))
    matrix = to_matrix(z)
    assert np.allclose(matrix, factor @ factor.T)
    assert np.allclose(np.diag(matrix), 1) and np.linalg.eigvalsh(matrix)[0] > 0
    back, _ = machine_estimates(stated([matrix], 100))
    assert np.allclose(back[0], z, atol=2e-2)


def test_variance_of_fishers_z_is_the_textbook_one_and_covariance_that_of_many_samples():
    _, covariance = machine_estimates(stated([[[1, 0.8], [0.8, 1]]], 53))
    assert covariance[0, 0, 0] == pytest.approx(1 / 50, rel=1e-2)
    rng, factor = np.random.default_rng(7), np.linalg.cholesky(TRUTH)
    samples = [np.corrcoef(factor @ rng.normal(size=(3, 200))) for _ in range(3000)]
    z, _ = machine_estimates(stated(samples, 200))
    _, said = machine_estimates(stated([TRUTH], 200))
    assert np.allclose(np.cov(z, rowvar=False), said[0], rtol=0.15, atol=3e-4)


def test_posterior_of_two_metrics_equals_quadrature():
    """One archetype, one pair: population z under LKJ(2), machines normal around it; a grid over z and the spread."""
    r, n = np.tanh(np.array([0.2, 0.5, 0.9])), np.array([23.0, 43.0, 103.0])
    found = stated([[[1, x], [x, 1]] for x in r], n)
    posterior = fit_correlations(found, n_warmup=300, n_draws=500, key=jax.random.key(2))
    z, sd = np.linspace(-2, 3, 801)[:, None], np.linspace(1e-3, 3, 800)
    log_prior = 2 * 2 * np.log(1 / np.cosh(z)) + stats.norm.logpdf(
        sd, 0, 0.5
    )  # LKJ(eta): (1 - r^2)^(eta - 1), dr = 1 - r^2
    log_like = sum(stats.norm.logpdf(np.arctanh(x), z, np.sqrt(sd**2 + 1 / (m - 3))) for x, m in zip(r, n, strict=True))
    mass = np.exp(log_prior + log_like - (log_prior + log_like).max()).sum(1)
    mass /= mass.sum()
    exact = [float((np.tanh(z[:, 0]) ** k * mass).sum()) for k in (1, 2)]
    draws = posterior.population[:, 0, 1]
    spread = np.sqrt(exact[1] - exact[0] ** 2)
    assert draws.mean() == pytest.approx(exact[0], abs=6 * spread / np.sqrt(posterior.ess))
    assert draws.std() == pytest.approx(spread, rel=0.15)


def test_known_matrix_is_recovered_and_intervals_hold_it(fitted):
    assert fitted.r_hat < 1.05 and fitted.divergences == 0
    table = fitted.summary("archetype", level=0.99)
    upper = TRUTH[np.triu_indices(3, 1)]
    for kind in ("x", "y"):
        rows = table.loc[kind]
        assert (rows["lower"] < upper).all() and (upper < rows["upper"]).all()
    assert np.abs(np.median(fitted.population, 0) - TRUTH).max() < 0.15
    assert fitted.summary("new_resource").eval("upper - lower").mean() > table.eval("upper - lower").mean() * 0.5


def test_a_poor_machine_leans_on_its_rich_siblings_and_pooling_is_exact_for_several_fleets():
    rich, poor = [[1, 0.6], [0.6, 1]], [[1, -0.3], [-0.3, 1]]
    one = stated([rich] * 6 + [poor], [400.0] * 6 + [12.0])
    other = replace(one, correlation=one.correlation[::-1], n_effective=one.n_effective[::-1])
    first, second = fit_many([one, other], n_warmup=200, n_draws=200, key=jax.random.key(3))
    assert np.median(first.resource[:, 6, 0, 1]) > 0.35  # its own sample says -0.3
    assert np.median(first.resource[:, 0, 0, 1]) == pytest.approx(0.6, abs=0.05)
    assert np.median(second.resource[:, 0, 0, 1]) == pytest.approx(np.median(first.resource[:, 6, 0, 1]), abs=0.1)


def test_short_constant_and_missing_are_said_or_refused(telemetry):
    frame = telemetry.observations.copy()
    frame.loc["m0", "memory_utilization"] = 5.0
    hour = frame.index.get_level_values(1)
    short = replace(telemetry, observations=frame[(frame.index.get_level_values(0) != "m1") | (hour < hour[240])])
    found = correlation_statistics(short, METRICS)
    assert found.resources == ("m1", "m2", "m3")
    assert any("m0 left out" in n for n in found.notes) and any("m1" in n and "day" in n for n in found.notes)
    with pytest.raises(SchemaError, match="two or more"):
        correlation_statistics(telemetry, ("cpu_utilization",))
    with pytest.raises(SchemaError, match="no column"):
        correlation_statistics(telemetry, METRICS, archetype_column="team")
    with pytest.raises(SchemaError, match="vary"):
        correlation_statistics(replace(telemetry, observations=frame.loc[["m0"]]), METRICS)
    with pytest.raises(TooShortError, match="complete rows"):
        correlation_statistics(replace(telemetry, observations=telemetry.observations.loc[["m2"]].iloc[:4]), METRICS)
    with pytest.raises(SourceError, match="eta"):
        fit_correlations(found, eta=0.0, key=jax.random.key(1))
    with pytest.raises(SchemaError, match="differ"):
        fit_many([], key=jax.random.key(1))


@pytest.mark.parametrize("rho", [-0.9, -0.3, 0.0, 0.5, 0.95])
def test_orthant_is_scipys_bivariate_normal(rho):
    a, b = np.array([-1.0, 0.3, 1.6, 2.5]), np.array([0.2, -0.5, 1.4, 2.0])
    exact = [stats.multivariate_normal([0, 0], [[1, rho], [rho, 1]]).cdf([-x, -y]) for x, y in zip(a, b, strict=True)]
    assert np.allclose(upper_orthant(a, b, np.array(rho)), exact, atol=1e-7)


def test_gumbel_orthant_is_the_share_of_simulated_pairs():
    """Marshall and Olkin: exponentials over a positive stable variable (Kanter's representation)."""
    rng, rho, n = np.random.default_rng(8), 0.5, 400_000
    alpha = 1 - 2 / np.pi * np.arcsin(rho)  # 1 / theta
    angle, w = rng.uniform(0, np.pi, n), rng.exponential(size=n)
    stable = (np.sin((1 - alpha) * angle) / w) ** ((1 - alpha) / alpha) * np.sin(alpha * angle) / np.sin(angle) ** (1 / alpha)  # fmt: skip
    u, v = np.exp(-((rng.exponential(size=(2, n)) / stable) ** alpha))
    assert stats.kendalltau(u[:20_000], v[:20_000])[0] == pytest.approx(2 / np.pi * np.arcsin(rho), abs=0.02)
    for limit in (0.5, 0.9, 0.99):
        seen = ((u > limit) & (v > limit)).mean()
        said = float(gumbel_orthant(np.array(limit), np.array(limit), np.array(rho)))
        assert said == pytest.approx(seen, abs=5 * np.sqrt(said / n))


def test_marginals_invert_themselves():
    values = np.random.default_rng(9).beta(2, 5, 400) * 100
    for marginal in (EmpiricalMarginal(np.sort(values)), beta_marginal(values)):
        q = np.linspace(0.05, 0.95, 19)
        assert np.allclose(marginal.cdf(marginal.ppf(q)), q, atol=2e-3)
    with pytest.raises(SchemaError, match="Beta"):
        beta_marginal(np.full(5, 20.0))


def test_risk_is_the_observed_share_where_the_copula_is_gaussian(telemetry, fitted):
    models = joint_models(telemetry, fitted)
    said, seen, alone = [], [], []
    for name, model in models.items():
        frame = telemetry.observations.loc[name]
        limits = tuple(frame[list(METRICS[:2])].quantile(0.8))
        risk = model.risk(*METRICS[:2], limits)
        said.append(risk.copula.mean())
        alone.append((risk.independent, risk.cycle))
        seen.append(((frame[METRICS[0]] > limits[0]) & (frame[METRICS[1]] > limits[1])).mean())
    assert np.mean(said) == pytest.approx(np.mean(seen), rel=0.15)
    independent, cycle = np.mean(alone, axis=0)
    assert independent == pytest.approx(0.04, rel=0.1) and independent < cycle < np.mean(said)
    with pytest.raises(SchemaError, match="no metric"):
        models["m0"].risk("cpu_utilization", "requests", (1.0, 1.0))


@pytest.mark.parametrize("marginal", ["empirical", "beta"])
def test_joint_samples_have_the_marginals_and_the_correlations(telemetry, fitted, marginal):
    times = pd.date_range("2026-03-02", periods=24 * 84, freq="1h", tz="UTC")
    models = joint_models(telemetry, fitted, marginal=marginal)
    made = simulate_joint(models, times, rng=np.random.default_rng(10))
    again = correlation_statistics(made, METRICS)
    assert np.abs(again.correlation.mean(0) - TRUTH).max() < 0.1
    frames = (t.observations.groupby(level=0)["cpu_utilization"].mean().mean() for t in (made, telemetry))
    assert next(frames) == pytest.approx(next(frames), rel=0.1)
    assert made.observations["cpu_utilization"].between(0, 100).all()


def test_only_percentages_get_a_beta_on_zero_to_a_hundred(telemetry):
    """A fraction has its highest value at 1: a Beta on (0, 100) would give draws beyond it."""
    score = telemetry.observations["cpu_utilization"] / 100
    scored = replace(telemetry, observations=telemetry.observations.assign(efficiency_score=score))
    metrics = ("cpu_utilization", "efficiency_score")
    found = fit_correlations(correlation_statistics(scored, metrics), n_warmup=50, n_draws=50, key=jax.random.key(1))
    models = joint_models(scored, found, marginal="beta")
    seen = scored.observations["efficiency_score"].groupby(level=0).max()
    for name, model in models.items():
        top = model.marginals[1].ppf(np.array(0.999999))
        assert top <= seen[name] <= 1


def test_wrong_copulas_and_strange_machines_are_refused(telemetry, fitted):
    with pytest.raises(SourceError, match="use one of"):
        joint_models(telemetry, fitted, family="clayton")
    with pytest.raises(SchemaError, match="no machine"):
        joint_models(fleet(2), fitted)
    with pytest.raises(SchemaError, match="no machine"):
        simulate_joint({}, telemetry.observations.loc["m0"].index, rng=np.random.default_rng(1))
    with pytest.raises(SourceError, match="level"):
        fitted.summary("fleet")


def test_statistics_of_frames_are_those_of_telemetry(telemetry):
    frames = {n: telemetry.observations.loc[n] for n in telemetry.resource_ids}
    direct = statistics_of(frames, dict.fromkeys(frames, "all"), 3600.0)
    assert np.array_equal(direct.correlation, correlation_statistics(telemetry, METRICS).correlation)


def test_a_single_time_tells_no_step(telemetry, fitted):
    models = joint_models(telemetry, fitted)
    for n in (0, 1):
        with pytest.raises(TooShortError, match="at least 2"):
            simulate_joint(models, telemetry.observations.loc["m0"].index[:n], rng=np.random.default_rng(1))
