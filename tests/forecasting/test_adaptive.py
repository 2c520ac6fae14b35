"""Trackers of a stream: naive loops, the published bound of ACI, and that a threshold never knows what it is judged on."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from support.errors import SchemaError, TooShortError
from support.forecasting.adaptive import AdaptiveConformal, ConformalPID, rolling_aci, track
from tests.forecasting.test_calibration_online import BLOCKS, WINDOWS, forecasts_of

SCORES = hnp.arrays(float, st.integers(1, 300), elements=st.floats(-1e6, 1e6, width=32))


def make(kind, past, miss=0.1):
    if kind == "aci":
        return AdaptiveConformal(past, miss=miss, rate=0.02)
    return ConformalPID(past, miss=miss, half_life=5.0 if kind == "pid, led" else None)


@pytest.mark.parametrize("kind", ["aci", "pid", "pid, led"])
@pytest.mark.parametrize("block", [1, 7])
def test_a_threshold_knows_only_blocks_that_are_over(kind, block):
    rng = np.random.default_rng(3)
    past, scores = rng.normal(size=40), rng.normal(size=210)
    clean = track(make(kind, past), scores, block=block).thresholds
    for cut in (0, 70, 133):
        first = cut // block * block
        other = np.concatenate([scores[:first], rng.permutation(scores[first:]) * 9 + 4])
        np.testing.assert_array_equal(
            track(make(kind, past), other, block=block).thresholds[: first + block], clean[: first + block]
        )


@settings(deadline=None, max_examples=60)
@given(scores=SCORES, miss=st.floats(0.02, 0.5), rate=st.floats(0.001, 0.3), block=st.integers(1, 20))
def test_share_of_misses_of_aci_is_within_the_published_bound_for_any_data(scores, miss, rate, block):
    tracked = track(AdaptiveConformal(np.zeros(1), miss=miss, rate=rate), scores, block=block)
    bound = (max(miss, 1 - miss) + block * rate) / (len(scores) * rate)
    assert abs(tracked.missed.mean() - miss) <= bound * (1 + 1e-9)


def test_aci_is_the_naive_loop():
    rng = np.random.default_rng(0)
    past, scores = list(rng.normal(size=15)), rng.standard_t(2, size=400)
    tracked = track(AdaptiveConformal(np.array(past), miss=0.2, rate=0.05, memory=50), scores)
    level = 0.2
    for t, score in enumerate(scores):
        kept = np.array(past[-50:])
        inside = [q for q in np.sort(kept) if (kept <= q).sum() >= (1 - level) * (len(kept) + 1) - 1e-9]
        threshold = -math.inf if level >= 1 else math.inf if level <= 0 or not inside else inside[0]
        assert tracked.thresholds[t] == threshold
        level += 0.05 * (0.2 - (score > threshold))
        past.append(score)


def test_pid_is_the_naive_loop_of_the_authors():
    rng = np.random.default_rng(1)
    past, scores, miss, rate, gain, saturation = rng.normal(size=30), rng.normal(size=250), 0.1, 0.05, 2.0, 5.0
    tracker = ConformalPID(past, miss=miss, rate=rate, integral_gain=gain, saturation=saturation)
    tracked = track(tracker, scores)
    quantile, errors, history = tracked.thresholds[0], 0.0, list(past)
    for t, score in enumerate(scores):
        integral = gain * math.tan(errors * math.log(t + 1) / (saturation * (t + 1)))
        assert tracked.thresholds[t] == pytest.approx(quantile + integral, abs=1e-9)
        error = float(score > quantile + integral) - miss
        quantile += rate * float(np.ptp(history[-100:])) * error
        errors += error
        history.append(score)


def test_after_a_jump_of_level_both_return_to_their_coverage_and_a_fixed_threshold_does_not():
    rng = np.random.default_rng(5)
    past = rng.normal(size=300)
    scores = np.concatenate([rng.normal(size=500), rng.normal(4, 1, 1500)])
    fixed = (scores > np.quantile(past, 0.9))[-1000:].mean()
    assert fixed > 0.95
    for tracker in (AdaptiveConformal(past, miss=0.1, rate=0.02), ConformalPID(past, miss=0.1)):
        assert track(tracker, scores).missed[-1000:].mean() == pytest.approx(0.1, abs=0.03)


def test_the_forecast_of_scores_follows_a_trend_that_the_quantile_alone_chases():
    rng = np.random.default_rng(6)
    scores = 0.05 * np.arange(1500) + rng.normal(0, 0.3, 1500)
    past, later = scores[:100], scores[100:]
    plain, led = (track(ConformalPID(past, miss=0.1, half_life=h), later) for h in (None, 5.0))
    assert led.missed.mean() == pytest.approx(0.1, abs=0.03)
    assert np.abs(np.diff(led.thresholds)).mean() < np.abs(np.diff(plain.thresholds)).mean()


def test_rolling_coverage_is_the_mean_of_the_newest():
    tracked = track(AdaptiveConformal(np.zeros(9), miss=0.5), np.random.default_rng(0).normal(size=50))
    by_hand = [np.nan if t < 9 else (~tracked.missed[t - 9 : t + 1]).mean() for t in range(50)]
    np.testing.assert_allclose(tracked.coverage(10), by_hand)


@pytest.mark.parametrize("window", range(1, WINDOWS))
def test_windows_from_w_on_do_not_touch_rolling_aci_of_w(window):
    from dataclasses import replace

    forecasts = forecasts_of()
    observed = forecasts.observed.copy()
    observed[:, window:] += 1e6
    clean = rolling_aci(forecasts, block_ends=BLOCKS, first_window=1).quantiles
    other = rolling_aci(replace(forecasts, observed=observed), block_ends=BLOCKS, first_window=1).quantiles
    np.testing.assert_array_equal(clean[:, :window], other[:, :window])
    assert (np.diff(clean, axis=-1) >= 0).all()


def test_rolling_aci_mends_intervals_that_are_too_narrow():
    forecasts = forecasts_of(n_series=20, n_window=9, horizon=40, gap=2, sd=3.0)
    made = rolling_aci(forecasts, block_ends=(40,), first_window=6)
    inside = (made.observed >= made.quantiles[..., 1]) & (made.observed <= made.quantiles[..., -2])
    raw = (forecasts.observed >= forecasts.quantiles[..., 1]) & (forecasts.observed <= forecasts.quantiles[..., -2])
    assert raw.mean() < 0.5 and inside.mean() == pytest.approx(0.9, abs=0.03)


def test_bad_input_is_named():
    with pytest.raises(TooShortError, match="no past score"):
        AdaptiveConformal(np.array([]), miss=0.1)
    with pytest.raises(SchemaError, match="miss 1.5"):
        AdaptiveConformal(np.zeros(3), miss=1.5)
    with pytest.raises(SchemaError, match="memory of 0"):
        AdaptiveConformal(np.zeros(3), miss=0.5, memory=0)
    with pytest.raises(SchemaError, match="half-life -1"):
        ConformalPID(np.zeros(3), miss=0.5, half_life=-1)
    with pytest.raises(SchemaError, match="not finite"):
        track(AdaptiveConformal(np.zeros(3), miss=0.5), np.array([np.nan]))
