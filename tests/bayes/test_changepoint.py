"""Online change points against the sum over all segmentations, closed forms, the reference vector and ruptures."""

import itertools
import json
import os
from pathlib import Path

import numpy as np
import pytest
import ruptures
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln, logsumexp

from support.bayes import changepoint
from support.bayes.changepoint import BayesianChangePoint, NormalInverseGamma
from support.errors import SchemaError

EXACT = {"prune": 0.0}


def log_marginal(x, prior):
    """Log density of a segment with mean and variance integrated out (Murphy 2007, eq. 95)."""
    n = len(x)
    kappa, alpha = prior.kappa + n, prior.alpha + n / 2
    beta = prior.beta + 0.5 * np.sum((x - x.mean()) ** 2) + 0.5 * prior.kappa * n * (x.mean() - prior.mu) ** 2 / kappa
    return (
        gammaln(alpha) - gammaln(prior.alpha) + prior.alpha * np.log(prior.beta) - alpha * np.log(beta)
        + 0.5 * np.log(prior.kappa / kappa) - 0.5 * n * np.log(2 * np.pi)
    )  # fmt: skip


def enumerate_all(x, hazard, prior):
    """Log joint of each of the 2^(n-1) segmentations with its first rows, a boundary after the last row left open."""
    out = []
    for inner in itertools.product((False, True), repeat=len(x) - 1):
        starts = [0, *(i + 1 for i, cut in enumerate(inner) if cut)]
        ends = [*starts[1:], len(x)]
        log_prior = sum(np.log(hazard) if cut else np.log1p(-hazard) for cut in inner)
        out.append((log_prior + sum(log_marginal(x[a:b], prior) for a, b in zip(starts, ends, strict=True)), starts))
    return out


CASES = [
    (0, 0.25, NormalInverseGamma()),
    (1, 0.01, NormalInverseGamma(0.5, 0.2, 2.0, 0.3)),
    (2, 0.7, NormalInverseGamma(-1, 5, 0.6, 4)),
]


@pytest.mark.parametrize(("seed", "hazard", "prior"), CASES)
def test_evidence_posterior_and_map_equal_the_sum_over_all_segmentations(seed, hazard, prior):
    rng = np.random.default_rng(seed)
    x = np.r_[rng.normal(0, 1, 5), rng.normal(4, 0.3, 4), rng.normal(-3, 2, 2)]
    model = BayesianChangePoint(hazard, prior, **EXACT)
    surprise = model.surprises(x)
    joint = enumerate_all(x, hazard, prior)
    logs = np.array([log for log, _ in joint])
    assert model.log_evidence == pytest.approx(logsumexp(logs), abs=1e-9)
    assert -surprise.sum() == pytest.approx(logsumexp(logs), abs=1e-9)
    expected = np.zeros(len(x) + 1)
    expected[0] = hazard
    for log, starts in joint:
        expected[len(x) - starts[-1]] += (1 - hazard) * np.exp(log - logsumexp(logs))
    lengths, probability = model.run_length_posterior()
    np.testing.assert_array_equal(lengths, np.arange(len(x) + 1))
    np.testing.assert_allclose(probability, expected, atol=1e-9)
    assert model.map_segments().tolist() == joint[int(logs.argmax())][1] and model.dropped_mass == 0


def test_each_surprise_is_a_ratio_of_evidences():
    x = np.random.default_rng(3).normal(size=9)
    surprise = BayesianChangePoint(0.2, **EXACT).surprises(x)
    evidence = [
        0.0,
        *(logsumexp([v for v, _ in enumerate_all(x[:n], 0.2, NormalInverseGamma())]) for n in range(1, 10)),
    ]
    np.testing.assert_allclose(surprise, -np.diff(evidence), atol=1e-9)


def test_reference_vector():
    name = os.environ.get("RISK_REFERENCE") or os.environ.get("BOOK_DATA", "") + "/reference-values/risk.json"
    if not Path(name).is_file():
        pytest.skip("no risk.json: set RISK_REFERENCE or BOOK_DATA")
    cases = [v for v in json.loads(Path(name).read_text())["values"] if v["kind"] == "bocpd_run_length"]
    assert cases
    for case in cases:
        given_, expected, tolerance = case["inputs"], case["expected"], case["tolerance"]["abs"]
        model = BayesianChangePoint(given_["hazard"], NormalInverseGamma(**given_["prior_nig"]), **EXACT)
        model.surprises(np.array(given_["x"]))
        assert model.log_evidence == pytest.approx(expected["log_evidence"], abs=tolerance)
        np.testing.assert_allclose(model.run_length_posterior()[1], expected["run_length_posterior"], atol=tolerance)


@settings(max_examples=30, deadline=None)
@given(
    x=st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=60),
    cut=st.integers(0, 60),
    hazard=st.floats(1e-4, 0.9),
    capacity=st.integers(3, 20),
)
def test_batch_equals_stream_also_when_truncated_and_the_posterior_is_a_law(x, cut, hazard, capacity):
    x = np.array(x)
    whole, parts, stream = (BayesianChangePoint(hazard, capacity=capacity, prune=1e-6) for _ in range(3))
    expected = whole.surprises(x)
    np.testing.assert_array_equal(np.r_[parts.surprises(x[:cut]), parts.surprises(x[cut:])], expected)
    np.testing.assert_array_equal([stream.update(v) for v in x], expected)
    np.testing.assert_array_equal(stream.map_segments(), whole.map_segments())
    lengths, probability = whole.run_length_posterior()
    assert lengths[0] == 0 and probability[0] == hazard and len(lengths) <= capacity + 1
    assert probability.sum() == pytest.approx(1, abs=1e-9) and (probability >= 0).all()


def test_values_far_out_stay_finite():
    surprise = BayesianChangePoint(0.01).surprises(np.r_[np.zeros(500), 1e120, np.zeros(5)])
    assert np.isfinite(surprise).all() and surprise.argmax() == 500


def test_truncation_costs_little_and_is_counted():
    rng = np.random.default_rng(5)
    x = rng.normal(size=3000) + np.repeat(rng.normal(0, 4, 15), 200)
    exact, kept = BayesianChangePoint(capacity=3001, prune=0), BayesianChangePoint(capacity=200, prune=1e-6)
    a, b = exact.surprises(x), kept.surprises(x)
    assert exact.dropped_mass == 0 < kept.dropped_mass
    # a law changed by dropping total mass D changes the evidence by about D nats, if what went was never needed again
    assert abs(a.sum() - b.sum()) < 5 * kept.dropped_mass + 1e-9
    np.testing.assert_array_equal(exact.map_segments(), kept.map_segments())


def test_long_runs_beyond_the_table_and_swept_parents(monkeypatch):
    monkeypatch.setattr(changepoint, "TABLE_ROWS", 8)
    x = np.random.default_rng(6).normal(size=400) + np.repeat([0, 9, -9, 0], 100)
    small = BayesianChangePoint(prune=0, capacity=500)
    monkeypatch.undo()
    monkeypatch.setattr(changepoint, "CHUNK_ROWS", 50)
    large = BayesianChangePoint(prune=0, capacity=500)
    np.testing.assert_allclose(small.surprises(x), large.surprises(x), atol=1e-9)
    assert large.map_segments().tolist() == small.map_segments().tolist() == [0, 100, 200, 300]


def test_pelt_agrees_on_clear_level_shifts():
    rng = np.random.default_rng(7)
    starts = [0, 150, 230, 420]
    x = rng.normal(size=600) + np.repeat([0, 8, -4, 5], np.diff([*starts, 600]))
    pelt = ruptures.Pelt(model="l2", min_size=2, jump=1).fit(x).predict(pen=4 * np.log(len(x)))
    model = BayesianChangePoint(1 / 200)
    model.surprises(x)
    assert model.map_segments().tolist() == [0, *pelt[:-1]] == starts


def test_bad_input():
    for bad in ({"hazard": 0.0}, {"hazard": 1.0}, {"capacity": 1}, {"prune": 0.5}):
        with pytest.raises(SchemaError, match="hazard"):
            BayesianChangePoint(**bad)
    with pytest.raises(SchemaError, match="finite"):
        BayesianChangePoint().update(np.nan)
    with pytest.raises(SchemaError, match="positive"):
        NormalInverseGamma(beta=0.0)
