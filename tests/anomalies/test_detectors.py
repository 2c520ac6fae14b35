"""The interface: batch and stream give the same scores for every detector; the cheap ones against naive loops."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import median_abs_deviation

from support.anomalies.calibration import Debounced, TailCalibrated
from support.anomalies.detectors import ChangePointSurprise, RobustZ, Summed, scores_after_probation
from support.anomalies.isolation import IsolationForestDetector
from support.anomalies.matrix_profile import LeftMatrixProfile
from support.anomalies.pattern_memory import PatternMemory, memory_ensemble, surprise_and_forest
from support.anomalies.residual import ResidualDetector
from support.bayes.changepoint import BayesianChangePoint
from support.errors import SchemaError, TooShortError
from support.forecast import Forecast

N, N_HISTORY = 240, 120


def walk(past):
    """A forecast of three rows by a random walk with the past's own steps."""
    steps = np.random.default_rng(0).choice(np.diff(past), (1, 99, 3))
    return Forecast.from_paths(
        past[-1] + steps.cumsum(axis=2), issued_at=pd.Timestamp("2026-01-05", tz="UTC"), step_seconds=3600, unit="%",
        model="walk",
    )  # fmt: skip


DETECTORS = {
    "robust z": lambda: RobustZ(window=50),
    "change point": lambda: ChangePointSurprise(capacity=30),
    "forest": lambda: IsolationForestDetector(lags=5, trees=10),
    "forest with calendar": lambda: IsolationForestDetector(lags=5, trees=10, calendar=True),
    "residual": lambda: ResidualDetector(lags=2, season=24),
    "residual of a forecaster": lambda: ResidualDetector(walk),
    "matrix profile": lambda: LeftMatrixProfile(8, memory=60),
    "pattern memory": lambda: PatternMemory(lags=4, step=3, capacity=5),
    "calibrated": lambda: TailCalibrated(RobustZ(window=50), 0.9, memory=80),
    "debounced sum": lambda: Debounced(Summed([TailCalibrated(ChangePointSurprise()), RobustZ()]), rows=20),
    "recipe": surprise_and_forest,
    "with memory": memory_ensemble,
}


def series(seed=0, n=N):
    rng = np.random.default_rng(seed)
    x = np.sin(np.arange(n) * np.pi / 12) + 0.3 * rng.normal(size=n)
    x[n // 2 + 20 : n // 2 + 40] = 1.5  # a constant stretch, then a spike
    x[n - 30] = 30
    return pd.Series(x, pd.date_range("2026-01-05", periods=n, freq="h", tz="UTC"))


@pytest.mark.parametrize("name", DETECTORS)
def test_batch_equals_stream_equals_chunks(name):
    x = series()
    history, rest = x[:N_HISTORY], x[N_HISTORY:]
    batch = DETECTORS[name]().fit(history).score(rest)
    detector = DETECTORS[name]().fit(history)
    chunks = np.concatenate([detector.score(rest[a:b]) for a, b in ((0, 1), (1, 1), (1, 50), (50, len(rest)))])
    detector = DETECTORS[name]().fit(history)
    stream = [detector.update(value, time) for time, value in rest.items()]
    assert batch.shape == (len(rest),) and np.isfinite(batch).all() and np.ptp(batch) > 0
    np.testing.assert_allclose(chunks, batch, rtol=0, atol=1e-12)
    np.testing.assert_allclose(stream, batch, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", DETECTORS)
def test_no_score_depends_on_what_comes_later_and_fit_forgets(name):
    x = series()
    changed = x.copy()
    changed.iloc[200:] = -50
    detector = DETECTORS[name]()
    first = scores_after_probation(detector, x, N_HISTORY)
    second = scores_after_probation(detector, changed, N_HISTORY)
    np.testing.assert_array_equal(first[N_HISTORY:200], second[N_HISTORY:200])
    np.testing.assert_array_equal(first, scores_after_probation(detector, x, N_HISTORY))
    assert first[:N_HISTORY].max() <= first.min() and detector.history_scores.shape == (N_HISTORY,)


@pytest.mark.parametrize("name", [n for n in DETECTORS if "calendar" not in n])
def test_scale_and_level_do_not_matter(name):
    x = series().to_numpy()
    a = scores_after_probation(DETECTORS[name](), x, N_HISTORY)
    b = scores_after_probation(DETECTORS[name](), 1024 * x + 4096, N_HISTORY)  # a power of two keeps the digits
    np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", [n for n in DETECTORS if "calendar" not in n])
def test_bad_history(name):
    with pytest.raises(TooShortError, match="longer quiet start"):
        DETECTORS[name]().fit(np.arange(5.0))
    with pytest.raises(SchemaError, match="finite"):
        DETECTORS[name]().fit(np.r_[np.arange(50.0), np.nan])


@settings(max_examples=40, deadline=None)
@given(values=st.lists(st.integers(-5, 5), min_size=30, max_size=60), window=st.integers(10, 25))
def test_robust_z_is_the_naive_median_and_mad(values, window):
    x = np.array(values, dtype=float)
    detector = RobustZ(window=window).fit(x[:15])
    for i, score in enumerate(detector.score(x[15:]), 15):
        past = x[max(i - window, 0) : i]
        spread = 1.4826 * median_abs_deviation(past)
        if spread > 0:
            assert score == pytest.approx(abs(x[i] - np.median(past)) / spread, abs=1e-12)
        else:
            assert score == 0 or x[i] != np.median(past)


def test_change_point_surprise_is_the_model_on_standardised_values():
    x = series().to_numpy()
    z = (x - x[:N_HISTORY].mean()) / x[:N_HISTORY].std()
    expected = BayesianChangePoint(prune=1e-6).surprises(z)
    detector = ChangePointSurprise().fit(x[:N_HISTORY])
    np.testing.assert_allclose(detector.history_scores, expected[:N_HISTORY], atol=1e-12)
    np.testing.assert_allclose(detector.score(x[N_HISTORY:]), expected[N_HISTORY:], atol=1e-12)
    assert detector.model.rows == N


def test_a_sum_is_a_sum_and_a_constant_history_is_allowed():
    x = series().to_numpy()
    parts = [RobustZ(window=30), ChangePointSurprise()]
    alone = sum(d.fit(x[:N_HISTORY]).score(x[N_HISTORY:]) for d in parts)
    np.testing.assert_allclose(Summed(parts).fit(x[:N_HISTORY]).score(x[N_HISTORY:]), alone, atol=1e-12)
    for name in ("robust z", "change point", "residual", "matrix profile", "pattern memory", "recipe"):
        scores = DETECTORS[name]().fit(np.full(50, 45.0)).score(np.r_[np.full(20, 45.0), 50, 45])
        assert np.isfinite(scores).all()


@pytest.mark.parametrize("level", [0.5, 1 / 3, 99.9, 0.1])
def test_a_constant_history_keeps_the_unit_whatever_its_level(level):
    """The mean of equal numbers is rounded for most levels: that is no scale. A step of 7 is then 7, of 0 is 0."""
    for n in (50, 100, 333):
        detector = RobustZ(window=30).fit(np.full(n, level))
        np.testing.assert_allclose(detector.score(np.array([level, level + 7, level])), [0, 7, 0], atol=1e-9)
        for name in ("change point", "residual", "pattern memory"):
            at_zero, here = (
                DETECTORS[name]().fit(np.full(n, x)).score(x + np.array([0, 0.25, 0])) for x in (0.0, level)
            )
            np.testing.assert_allclose(here, at_zero, rtol=1e-6, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
@pytest.mark.parametrize("name", DETECTORS)
def test_a_gap_in_the_stream_is_refused_and_leaves_the_detector_as_it_was(name, bad):
    """Kept in a model's memory one missing value makes every later score NaN, which alerts never."""
    x = series()
    gap = x.iloc[[N_HISTORY + 5]] * bad
    unhurt, hurt = (DETECTORS[name]().fit(x[:N_HISTORY]) for _ in range(2))
    with pytest.raises(SchemaError, match="finite"):
        hurt.score(gap)
    np.testing.assert_array_equal(hurt.score(x[N_HISTORY:]), unhurt.score(x[N_HISTORY:]))
