"""Scores of breach probabilities and tails against scikit-learn, closed forms and their propriety."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as hs
from hypothesis.extra.numpy import arrays
from scipy import stats as st
from sklearn.metrics import brier_score_loss, log_loss

from support.errors import SchemaError
from support.risk.scoring import BINS, breach_scores, fissler_ziegel, reliability_table

PROBABILITY = hs.floats(0.001, 0.999)


@given(arrays(float, 30, elements=PROBABILITY), arrays(bool, 30))
def test_scores_equal_scikit_learn(p: np.ndarray, y: np.ndarray) -> None:
    scores = breach_scores(p, y)
    assert scores["brier"] == pytest.approx(brier_score_loss(y, p, pos_label=True, labels=[False, True]))
    assert scores["log"] == pytest.approx(log_loss(y, p, labels=[False, True]))
    assert scores["base_rate"] == y.mean()


def test_the_hindsight_base_rate_has_no_skill() -> None:
    y = np.arange(40) % 4 == 0
    scores = breach_scores(np.full(40, 0.25), y)
    assert scores["brier_skill"] == pytest.approx(0.0) and scores["brier"] == scores["brier_base_rate"] == 0.25 * 0.75
    assert scores["log"] == pytest.approx(scores["log_base_rate"])
    assert breach_scores(y.astype(float), y)["brier_skill"] == 1.0
    assert np.isnan(breach_scores(np.array([0.1]), np.array([False]))["brier_skill"])


def test_what_no_draw_showed_is_not_impossible() -> None:
    p, y = np.array([0.0, 0.0]), np.array([False, True])
    assert np.isinf(breach_scores(p, y)["log"])
    smoothed = 0.5 / 1001
    expected = -(np.log(1 - smoothed) + np.log(smoothed)) / 2
    assert breach_scores(p, y, n_draws=1000)["log"] == pytest.approx(expected)


def test_scores_are_proper_in_expectation() -> None:
    """Over outcomes with P(breach) = q, no other stated probability does better than q."""
    q, stated = 0.07, np.linspace(0.01, 0.5, 99)
    y = np.arange(1000) < 1000 * q
    table = np.array([[*breach_scores(np.full(1000, s), y)[["brier", "log"]]] for s in stated])
    best = stated[table.argmin(axis=0)]
    np.testing.assert_allclose(best, q, atol=stated[1] - stated[0])


def test_reliability_bins_count_every_forecast_once() -> None:
    rng = np.random.default_rng(2)
    p = np.concatenate([rng.random(4000), BINS])
    y = rng.random(p.size) < p
    table = reliability_table(p, y)
    assert table["n"].sum() == p.size and (table["n"] * table["observed"]).sum() == y.sum()
    for interval, row in table.iterrows():
        inside = (p >= interval.left) & ((p < interval.right) | (interval.right == 1))
        assert row["forecast"] == pytest.approx(p[inside].mean()) and row["n"] == inside.sum()
    assert ((table["low"] <= table["observed"]) & (table["observed"] <= table["high"])).all()
    covered = (table["low"] <= table["forecast"]) & (table["forecast"] <= table["high"])
    assert covered.mean() >= 0.75  # eight 95 % intervals of a calibrated forecast


def test_reliability_interval_is_jeffreys() -> None:
    table = reliability_table(np.full(20, 0.3), np.arange(20) < 5, edges=np.array([0.0, 1.0]))
    np.testing.assert_allclose(table[["low", "high"]].iloc[0], st.beta(5.5, 15.5).interval(0.95))
    assert reliability_table(np.full(20, 0.01), np.zeros(20, bool))["low"].item() == 0.0


@pytest.mark.parametrize(
    ("p", "y"), [([1.1], [True]), ([0.1], [2]), ([0.1, 0.2], [True]), ([], []), ([np.nan], [True])]
)
def test_bad_input_is_refused(p: list[float], y: list[int]) -> None:
    with pytest.raises(SchemaError):
        breach_scores(np.array(p), np.array(y))
    with pytest.raises(SchemaError, match="edges"):
        reliability_table(np.array([0.5]), np.array([True]), edges=np.array([0.0, 0.5]))


def test_joint_score_is_lowest_at_the_true_var_and_es() -> None:
    level, mean, sd = 0.95, 50.0, 5.0
    u = st.norm(mean, sd).ppf((np.arange(200_000) + 0.5) / 200_000)
    var, es = mean + sd * st.norm.ppf(level), mean + sd * st.norm.pdf(st.norm.ppf(level)) / (1 - level)
    best = fissler_ziegel(u, var, es, level).mean()
    for factor in (0.97, 0.99, 1.01, 1.03):
        assert fissler_ziegel(u, var * factor, max(es, var * factor), level).mean() > best
        assert fissler_ziegel(u, var, es * factor, level).mean() > best


@given(hs.floats(0.01, 100.0))
def test_differences_of_the_joint_score_do_not_depend_on_the_unit(unit: float) -> None:
    u = np.array([1.0, 4.0, 9.0])
    gap = fissler_ziegel(u, 5.0, 6.0, 0.9) - fissler_ziegel(u, 4.0, 7.0, 0.9)
    scaled = fissler_ziegel(unit * u, 5 * unit, 6 * unit, 0.9) - fissler_ziegel(unit * u, 4 * unit, 7 * unit, 0.9)
    np.testing.assert_allclose(scaled, gap, atol=1e-9)


def test_joint_score_refuses_an_es_below_var() -> None:
    with pytest.raises(SchemaError, match="ES"):
        fissler_ziegel(np.array([1.0]), 5.0, 4.0, 0.95)
