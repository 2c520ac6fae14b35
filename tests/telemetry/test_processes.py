"""Building blocks of the generator against recursions, renewal theory and brute force."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.telemetry.generation.processes import ar1, burst_factor, desaturate, idle_cover, pulse_cover, saturate


@pytest.mark.parametrize(("memory", "sd"), [(5.0, 0.2), (40.0, 1.0)])
def test_ar1_has_its_autocorrelation_and_spread(memory, sd):
    noise = ar1(400_000, memory, sd, rng=np.random.default_rng(2))
    assert noise.std() == pytest.approx(sd, rel=0.03) and noise.mean() == pytest.approx(0, abs=0.05 * sd)
    for lag in (1, 5, 20):
        assert np.corrcoef(noise[lag:], noise[:-lag])[0, 1] == pytest.approx(np.exp(-lag / memory), abs=0.02)


def test_ar1_is_stationary_from_the_first_step():
    starts = ar1((4000, 3), 100.0, 2.0, rng=np.random.default_rng(1))
    np.testing.assert_allclose(starts.std(axis=0), 2.0, rtol=0.05)


def test_ar1_is_the_recursion():
    phi, shocks = np.exp(-1 / 7.0), np.random.default_rng(9).standard_normal(50)
    wanted = [0.5 * shocks[0]]
    for shock in shocks[1:]:
        wanted.append(phi * wanted[-1] + 0.5 * np.sqrt(1 - phi**2) * shock)
    np.testing.assert_allclose(ar1(50, 7.0, 0.5, rng=np.random.default_rng(9)), wanted, rtol=1e-12)


PULSES = st.lists(st.tuples(st.floats(0, 9.99), st.floats(0, 5), st.floats(0, 3)), max_size=6)


@settings(deadline=None, max_examples=200)
@given(pulses=PULSES)
def test_pulse_cover_is_the_integral_over_each_interval(pulses):
    starts = np.array([p[0] for p in pulses])
    ends = np.minimum(starts + np.array([p[1] for p in pulses]), 10.0)
    heights = np.array([p[2] for p in pulses])
    wanted = [
        sum(h * max(0.0, min(e, k + 1) - max(s, k)) for s, e, h in zip(starts, ends, heights, strict=True))
        for k in range(10)
    ]
    np.testing.assert_allclose(pulse_cover(10, starts, ends, heights), wanted, atol=1e-9)


def test_bursts_start_at_their_rate_and_cover_their_share_of_time():
    factor = burst_factor(600_000, 1 / 1000, 3.0, 10.0, rng=np.random.default_rng(3))
    burst = factor > 1 + 1e-9
    assert factor.min() >= 1
    starts = (np.diff(burst.astype(int), prepend=0) == 1).sum()
    assert starts == pytest.approx(600, rel=0.12)
    # Campbell's theorem: the mean of a shot noise is rate x mean area of a pulse
    assert factor.mean() - 1 == pytest.approx(2.0 * 10 / 1000, rel=0.12)


def test_bursts_shorter_than_an_interval_count_with_their_part():
    factor = burst_factor(200_000, 0.02, 5.0, 0.2, rng=np.random.default_rng(5))
    assert factor.mean() - 1 == pytest.approx(4.0 * 0.02 * 0.2, rel=0.1)


@pytest.mark.parametrize(("share", "length"), [(0.3, 24.0), (0.85, 120.0), (0.05, 6.0)])
def test_idle_spells_last_and_cover_their_share(share, length):
    cover = idle_cover(400_000, share, length, rng=np.random.default_rng(4))
    assert cover.min() >= 0 and cover.max() <= 1 and cover.mean() == pytest.approx(share, abs=0.03)
    inside = cover > 0.5
    runs = np.diff(np.flatnonzero(np.diff(np.concatenate([[0], inside, [0]]))))[::2]
    # spells under half an interval are not seen, and short gaps between join two: what is left is near the mean
    assert runs.mean() == pytest.approx(length, rel=0.25)
    seen = np.corrcoef(inside[1:], inside[:-1])[0, 1]
    busy = length * (1 - share) / share
    assert seen == pytest.approx(np.exp(-(1 / length + 1 / busy)), abs=0.06)  # a two-state Markov chain's


def test_no_idle_time_if_none_is_asked_for():
    assert not idle_cover(100, 0.0, 5.0, rng=np.random.default_rng(1)).any()


@settings(deadline=None)
@given(st.lists(st.floats(0, 1e6), min_size=2, max_size=50))
def test_saturation_keeps_order_and_range_and_has_an_inverse(demand):
    used = saturate(np.array(demand))
    assert (used >= 0).all() and (used <= 100).all()
    order = np.argsort(demand)
    assert (np.diff(used[order]) >= 0).all()
    for wanted, percent in zip(demand, used, strict=True):
        if percent < 99.9:
            assert desaturate(float(percent)) == pytest.approx(wanted, rel=1e-6, abs=1e-9)
