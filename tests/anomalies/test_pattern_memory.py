"""The pattern memory against a plain rewriting with scipy, closed forms, and what it is for."""

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.special import gammaln, logsumexp

from support.anomalies.detectors import scores_after_probation
from support.anomalies.pattern_memory import PatternMemory, memory_ensemble, surprise_and_forest
from support.bayes.changepoint import NormalInverseGamma
from support.errors import SchemaError

LAGS, STEP = 3, 2


def signal(n=160, seed=0):
    rng = np.random.default_rng(seed)
    return np.where(np.arange(n) // 10 % 2, 4.0, -4.0) + rng.normal(size=n)


def naive(x, n_history, capacity, concentration, prior):
    """Chinese restaurant process, Student t predictives of scipy, greedy seats, the smallest table goes."""
    z = (x - x[:n_history].mean()) / x[:n_history].std()
    padded = np.r_[np.full(LAGS * STEP + STEP, z[0]), z]
    tables, out = [], []

    def density(members, w):
        m = np.array(members).reshape(-1, LAGS)
        n = len(m)
        center = m.mean(axis=0) if n else np.zeros(LAGS)
        kappa, alpha = prior.kappa + n, prior.alpha + n / 2
        mu = (prior.kappa * prior.mu + n * center) / kappa
        beta = (
            prior.beta + 0.5 * ((m - center) ** 2).sum(axis=0) + prior.kappa * n * (center - prior.mu) ** 2 / 2 / kappa
        )
        return stats.t.logpdf(w, 2 * alpha, mu, np.sqrt(beta * (kappa + 1) / alpha / kappa)).sum()

    for i in range(len(z)):
        end = i + LAGS * STEP + STEP + 1
        w = np.array([padded[end - STEP * (k + 1) : end - STEP * k].mean() for k in range(LAGS)][::-1])
        total = sum(map(len, tables)) + concentration
        logs = [np.log(len(t) / total) + density(t, w) for t in tables] + [
            np.log(concentration / total) + density([], w)
        ]
        out.append(-logsumexp(logs))
        best = int(np.argmax(logs))
        if best == len(tables):
            if best == capacity:
                best = int(np.argmin([len(t) for t in tables]))
                tables[best] = []
            else:
                tables.append([])
        tables[best].append(w)
    return np.array(out), tables


@pytest.mark.parametrize(
    ("capacity", "concentration", "prior"),
    [(30, 1.0, NormalInverseGamma(0, 0.1, 1, 0.1)), (2, 20.0, NormalInverseGamma(0.3, 2, 2, 0.5)), (3, 5.0, NormalInverseGamma(0, 1, 1, 0.01))],
)  # fmt: skip
def test_it_is_the_plain_chinese_restaurant(capacity, concentration, prior):
    x, n = signal(), 60
    memory = PatternMemory(lags=LAGS, step=STEP, capacity=capacity, concentration=concentration, prior=prior)
    scores = np.r_[memory.fit(x[:n]).history_scores, memory.score(x[n:])]
    expected, tables = naive(x, n, capacity, concentration, prior)
    np.testing.assert_allclose(scores, expected, atol=1e-8)
    counts, means = memory.shapes()
    assert sorted(counts.tolist()) == sorted(map(len, tables)) and means.shape == (len(tables), LAGS)


def test_one_shape_is_the_conjugate_gaussian_and_its_evidence():
    z = np.random.default_rng(1).normal(size=50)
    z = (z - z.mean()) / z.std()
    prior = NormalInverseGamma(0, 1, 1, 1)
    memory = PatternMemory(lags=1, step=1, concentration=1e-300, prior=prior).fit(z)
    kappa, alpha, beta = 51, 26, 1 + 0.5 * (z**2).sum() - (z.sum()) ** 2 / 2 / 51
    evidence = gammaln(alpha) - alpha * np.log(beta) - 0.5 * np.log(kappa) - 25 * np.log(2 * np.pi)
    assert -memory.history_scores.sum() == pytest.approx(evidence, abs=1e-9)
    assert len(memory.shapes()[0]) == 1


def test_the_predictive_is_a_density():
    x = signal()

    def density(value):
        memory = PatternMemory(lags=1, step=1).fit(x)
        return np.exp(-memory.update(value)) / x.std()

    total = sum(quad(density, a, b, epsabs=1e-5)[0] for a, b in ((-3000, -20), (-20, 0), (0, 20), (20, 3000)))
    assert total == pytest.approx(1, abs=2e-3)  # the rest lies in the Cauchy-like tails of a new shape


def test_a_shape_is_strange_once_and_known_afterwards():
    x = np.sin(np.arange(2000) * np.pi / 24) + 0.05 * np.random.default_rng(2).normal(size=2000)
    starts = np.arange(800, 2000, 240)
    for start in starts:
        x[start : start + 48] = 3 * np.sign(np.sin(np.arange(48) * np.pi / 12))  # as regular, another shape
    memory = PatternMemory(lags=8, step=6).fit(x[:600])
    counts, shapes = memory.shapes()
    assert counts.sum() == 600 and (np.diff(counts) <= 0).all() and np.abs(shapes).max() < 1.2
    scores = np.r_[memory.history_scores, memory.score(x[600:])]
    peaks = [scores[start : start + 60].max() for start in starts]
    assert peaks[0] > scores[200:800].max() and peaks[-1] < peaks[0]


def test_the_two_named_sums_emit_by_the_rule_and_find_the_strange_hours():
    x = 10 * np.maximum(np.sin(np.arange(2600) * np.pi / 72), 0) + np.random.default_rng(3).normal(size=2600)
    x[1600:1672] = 15 * np.sin(np.arange(72) * np.pi / 9)
    for make in (surprise_and_forest, memory_ensemble):
        scores = scores_after_probation(make(), x, 700)
        emitted = np.flatnonzero(scores)
        assert (np.diff(scores[emitted])[np.diff(emitted) <= 400] > 0).all()
        assert 1600 <= scores.argmax() < 1672


def test_bad_settings_say_so():
    with pytest.raises(SchemaError, match="capacity 0"):
        PatternMemory(capacity=0)
