"""Tail calibration against a naive loop and against the law it promises; refractory alerting by its rule."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from support.anomalies.calibration import Debounced, TailCalibrated
from support.anomalies.detectors import Streaming
from support.errors import SchemaError


class Given(Streaming):
    """Scores that are the values themselves."""

    def fit(self, history):
        self.history_scores = np.asarray(history, dtype=float)
        return self

    def score(self, values):
        return np.asarray(values, dtype=float)


def naive(scores, quantile, memory):
    out, excesses = np.zeros(len(scores)), []
    for i in range(2, len(scores)):
        past = scores[max(0, i - memory) : i]
        limit = np.quantile(past, quantile)
        if scores[i] > limit:
            out[i] = (scores[i] - limit) / (np.mean(excesses) if excesses else scores[i] - limit)
            excesses.append(scores[i] - limit)
    return out


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 10**6), memory=st.integers(2, 80), quantile=st.sampled_from([0.5, 0.9, 0.98]))
def test_it_is_the_naive_loop(seed, memory, quantile):
    scores = np.random.default_rng(seed).integers(0, 30, 150).astype(float)
    detector = TailCalibrated(Given(), quantile, memory=memory).fit(scores[:60])
    expected = naive(scores, quantile, memory)
    np.testing.assert_allclose(np.r_[detector.history_scores, detector.score(scores[60:])], expected, atol=1e-9)


def test_an_exponential_tail_becomes_the_unit_exponential_whatever_its_scale():
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 1e6):
        scores = scale * (7 + rng.exponential(size=60_000))
        calibrated = TailCalibrated(Given(), 0.9).fit(scores[:10_000]).score(scores[10_000:])
        tail = calibrated[calibrated > 0]
        # a limit from 5,000 rows: the share above it is 10 % within 4 standard errors of such limits
        assert abs(len(tail) / 50_000 - 0.1) < 4 * np.sqrt(0.09 / 5000)
        assert stats.kstest(tail, "expon").statistic < 1.95 / np.sqrt(len(tail)) + 0.02  # the mean is learned: 0.02


@settings(max_examples=50, deadline=None)
@given(
    scores=st.lists(st.integers(-3, 9), max_size=60),
    rows=st.integers(1, 12),
    escalation=st.sampled_from([1.0, 1.25, 3.0]),
)
def test_emitted_scores_exceed_all_emitted_within_the_rows_before(scores, rows, escalation):
    out = Debounced(Given(), rows=rows, escalation=escalation).fit(np.zeros(3)).score(np.array(scores, dtype=float))
    for i, score in enumerate(scores):
        emitted = out[max(0, i - rows) : i].max(initial=0.0)
        assert out[i] == (score if score > escalation * emitted else 0.0)


def test_the_history_does_not_silence_the_stream():
    detector = Debounced(Given(), rows=100).fit(np.array([0.0, 90.0, 0.0]))
    assert detector.history_scores.tolist() == [0, 90, 0] and detector.update(1.0) == 1.0


def test_bad_settings_say_so():
    with pytest.raises(SchemaError, match="quantile"):
        TailCalibrated(Given(), 1.0)
    with pytest.raises(SchemaError, match="escalation"):
        Debounced(Given(), escalation=0.5)
