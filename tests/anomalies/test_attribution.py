"""Guilty metrics: closed forms of the three methods, and incidents whose culprit is known."""

import numpy as np
import pytest
from scipy import stats
from sklearn.covariance import ledoit_wolf

from support.anomalies.attribution import MetricAttribution, guilty_hit_rate
from support.errors import SchemaError, TooShortError

METHODS = ("marginal", "pca", "conditional")
N, M, N_TEST = 4000, 6, 300


def metrics(n, rng):
    """Six metrics that follow one load, one of them (the last) constant."""
    load = rng.normal(size=(n, 1))
    x = np.hstack([10 * load + rng.normal(size=(n, M - 1)), np.full((n, 1), 3.0)])
    return x + 100


@pytest.fixture
def quiet():
    return metrics(N, np.random.default_rng(0))


def test_the_conditional_one_is_the_gaussian_given_all_other_metrics(quiet):
    x = quiet[:, :-1]
    found = MetricAttribution("conditional").fit(x).contributions(x[:50])
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    covariance, _ = ledoit_wolf(z, assume_centered=True)
    for j in range(M - 1):
        rest = np.delete(np.arange(M - 1), j)
        weights = np.linalg.solve(covariance[np.ix_(rest, rest)], covariance[rest, j])
        variance = covariance[j, j] - covariance[j, rest] @ weights
        np.testing.assert_allclose(found[:, j], (z[:50, j] - z[:50, rest] @ weights) ** 2 / variance, rtol=1e-8)


def test_marginal_is_z_squared_and_the_conditional_one_is_chi_squared_when_quiet(quiet):
    test = metrics(N_TEST, np.random.default_rng(1))
    detector = MetricAttribution("marginal").fit(quiet)
    scale = np.where(quiet.std(axis=0) > 0, quiet.std(axis=0), 1)
    np.testing.assert_allclose(detector.contributions(test), ((test - quiet.mean(axis=0)) / scale) ** 2, atol=1e-12)
    conditional = MetricAttribution("conditional").fit(quiet).contributions(test)[:, 0]
    assert stats.kstest(conditional, "chi2", args=(1,)).pvalue > 0.001


def test_the_principal_residual_is_what_the_components_leave(quiet):
    x = quiet[:, :-1]
    z = (x - x.mean(axis=0)) / x.std(axis=0)
    _, values, axes = np.linalg.svd(z, full_matrices=False)
    count = int(np.searchsorted(np.cumsum(values**2) / (values**2).sum(), 0.9, side="right")) + 1
    expected = (z - z @ axes[:count].T @ axes[:count]) ** 2
    np.testing.assert_allclose(MetricAttribution("pca").fit(x).contributions(x), expected, atol=1e-9)


@pytest.mark.parametrize("culprit", range(M - 1))
def test_a_metric_that_leaves_the_others_is_found_where_marginal_sees_nothing(quiet, culprit):
    incident = metrics(N_TEST, np.random.default_rng(2))
    incident[:, culprit] += 6.0  # 0.6 of its own standard deviation, five to six of the conditional one
    for method in ("pca", "conditional"):
        detector = MetricAttribution(method).fit(quiet)
        assert detector.guilty(incident)[0] == culprit
        assert detector.score(incident).mean() > 2 * detector.score(quiet).mean()
    assert MetricAttribution("marginal").fit(quiet).score(incident).mean() < 2


@pytest.mark.parametrize("method", METHODS)
def test_rows_are_judged_alone_and_a_constant_metric_may_move(quiet, method):
    detector = MetricAttribution(method).fit(quiet)
    test = metrics(20, np.random.default_rng(3))
    test[:, -1] += 50
    whole = detector.contributions(test)
    np.testing.assert_allclose(
        np.vstack([detector.contributions(test[i : i + 1]) for i in range(20)]), whole, atol=1e-9
    )
    np.testing.assert_allclose(detector.score(test), whole.mean(axis=1), atol=1e-12)
    assert (whole >= 0).all() and detector.guilty(test)[0] == M - 1


def test_hit_rate():
    ranking, guilty = np.array([4, 0, 2, 1, 3]), np.array([0, 1])
    assert guilty_hit_rate(ranking, guilty) == 0.5
    assert guilty_hit_rate(ranking, guilty, 1.5) == 0.5 and guilty_hit_rate(ranking, guilty, 2) == 1


def test_bad_input(quiet):
    with pytest.raises(SchemaError, match="median"):
        MetricAttribution("median")
    with pytest.raises(TooShortError, match="6 metrics"):
        MetricAttribution().fit(quiet[:5])
    with pytest.raises(SchemaError, match="finite"):
        MetricAttribution().fit(quiet).score(np.full((2, M), np.nan))


@pytest.mark.parametrize("level", [0.5, 1 / 3, 0.1])
def test_a_metric_that_never_moved_keeps_its_unit_whatever_its_level(level):
    rng = np.random.default_rng(6)
    for n in (100, 333):
        quiet = np.column_stack([np.full(n, level), rng.normal(size=n)])
        moved = MetricAttribution("marginal").fit(quiet).contributions(np.array([[level + 0.5, 0.0]]))
        assert moved[0, 0] == pytest.approx(0.25)
