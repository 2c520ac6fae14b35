"""The windowed recommender against a list of samples with their weights, and closed forms of its memory."""

import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.autoscaling import Environment, simulate
from support.autoscaling.recommender import DecayingHistogram, WindowedRecommender
from support.errors import SchemaError

WORLD = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=0, max_servers=200)


def trace(values):
    index = pd.date_range("2026-01-01", periods=len(values), freq="60s", tz="UTC")
    return pd.Series(np.asarray(values, dtype=float), index=index, name="requests")


def wanted(demand, policy, world=WORLD, **more):
    """What the policy asks for at each tick, within the bounds."""
    ticks = simulate(trace(demand), policy, world, **more).ticks
    return (ticks["servers"] + ticks["booting"]).to_numpy()


def naive_percentile(samples, level, half_life, growth, first):
    """Bucket by bucket: the end of the first one up to which `level` of the weight lies."""
    weights = [2.0 ** (-(len(samples) - 1 - i) / half_life) for i in range(len(samples))]
    start, width, reached = 0.0, first, 0.0
    while True:
        reached += sum(w for s, w in zip(samples, weights, strict=True) if start <= s < start + width)
        start, width = start + width, width * (1 + growth)
        if reached >= level * sum(weights) * (1 - 1e-9):
            return start


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.floats(0, 90), min_size=1, max_size=40), st.floats(0.05, 1.0), st.floats(0.5, 50), st.floats(0.02, 0.5),
    st.integers(0, 40),
)  # fmt: skip
def test_the_histogram_equals_a_list_of_samples(samples, level, half_life, growth, cut):
    empty = DecayingHistogram.of(100.0, growth=growth, first=0.01, half_life_ticks=half_life)
    np.testing.assert_allclose(
        np.diff(empty.starts), 0.01 * (1 + growth) ** np.arange(len(empty.starts) - 1), rtol=1e-9
    )
    assert empty.starts[-1] >= 100.0 * (1 - 1e-9) and empty.starts[-2] < 100.0
    samples = [s + 1e-7 for s in samples]  # no sample exactly on an edge, where floats decide
    at_once = empty.after(np.array(samples))
    piecewise = empty.after(np.array(samples[:cut])).after(np.array(samples[cut:]))
    np.testing.assert_allclose(piecewise.weights, at_once.weights, rtol=1e-9, atol=1e-300)
    expected = naive_percentile(samples, level, half_life, growth, 0.01)
    assert at_once.percentile(level) == pytest.approx(expected, rel=1e-9)
    top = at_once.percentile(1.0)
    assert max(samples) < top <= max(samples) * (1 + growth) + 0.01 + 1e-9 or half_life < 3  # old weight may vanish


def test_beyond_the_last_bucket_its_start_is_the_answer():
    full = DecayingHistogram.of(10.0, growth=0.05, first=0.01, half_life_ticks=9.0).after(np.full(3, 1e6))
    assert full.percentile(0.5) == full.starts[-1] >= 10.0


def test_constant_demand_is_its_buckets_end_plus_the_margin():
    for load in (0.0, 59.0, 60.0, 431.0, 2000.0):
        fleet = wanted(np.full(20, load), WindowedRecommender(margin_frac=0.2), initial_servers=3)
        bucket = math.floor(math.log1p(load / 60 * 0.05 / 0.01) / math.log1p(0.05) + 1e-9)
        end = 0.01 * (1.05 ** (bucket + 1) - 1) / 0.05
        assert fleet[0] == 3 and (fleet[1:] == max(math.ceil(1.2 * end), 1)).all()


@pytest.mark.parametrize("percentile", [0.5, 0.9, 0.95])
def test_it_forgets_a_higher_level_when_its_weight_is_gone(percentile):
    n_high, half_life_hours = 600, 1.0  # 60 ticks
    fleet = wanted(np.r_[np.full(n_high, 1200.0), np.full(600, 60.0)], WindowedRecommender(percentile, half_life_hours))
    fade = 2 ** (-1 / 60)
    share_of_low = (1 - fade ** np.arange(1, 600)) / (1 - fade ** (n_high + np.arange(1, 600)))
    ticks = 1 + int(np.argmax(share_of_low >= percentile))  # low ticks seen before the old level is forgotten
    assert ticks == pytest.approx(60 * math.log2(1 / (1 - percentile)), abs=2)  # half-lives: log2(1 / (1 - p))
    assert fleet[n_high + ticks - 1] > 20 and fleet[n_high + ticks] == 2


def test_the_past_is_as_good_as_having_run_before():
    rng = np.random.default_rng(3)
    demand = rng.gamma(3, 200, 400)
    whole = wanted(demand, WindowedRecommender(half_life_hours=2.0))
    later = wanted(demand[250:], WindowedRecommender(half_life_hours=2.0, past=demand[:250]))
    assert (whole[250:] == later).all() and len(set(later)) > 1


@pytest.mark.parametrize(("lag", "every"), [(0, 1), (3, 1), (0, 4), (2, 5)])
def test_lag_and_control_ticks_lose_no_sample(lag, every):
    world = Environment(
        tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=0, max_servers=200, metric_lag_ticks=lag,
        control_every_ticks=every,
    )  # fmt: skip
    demand = np.random.default_rng(4).gamma(3, 200, 200)
    fleet = wanted(demand, WindowedRecommender(0.9, 1.0), world)
    for t in range(lag + 1 + every, 200, 7):
        known = demand[: (t // every) * every - lag] / 60
        assert fleet[t] == max(math.ceil(1.15 * naive_percentile(known, 0.9, 60.0, 0.05, 0.01) - 1e-9), 1)


@pytest.mark.parametrize(
    "changes",
    [{"percentile": 0.0}, {"percentile": 1.1}, {"half_life_hours": 0.0}, {"bucket_growth": 0.0}, {"margin_frac": -0.1}],
)
def test_what_it_refuses(changes):
    with pytest.raises(SchemaError, match="windowed recommender"):
        WindowedRecommender(**changes).prepare(WORLD, None)
