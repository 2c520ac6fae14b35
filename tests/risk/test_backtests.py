"""Back-tests against closed forms, published tables, loops and simulation."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as hs
from scipy import stats as st

from support.errors import SchemaError, TooShortError
from support.risk.backtests import (
    backtest,
    block_mean_interval,
    christoffersen_independence,
    conditional_coverage,
    day_peaks,
    kupiec_nonrejection,
    kupiec_pof,
    kupiec_power,
    rejection_rates,
    traffic_light,
    transitions,
)


@given(hs.integers(1, 400), hs.data())
def test_kupiec_is_twice_the_gain_of_the_free_binomial(n: int, data: hs.DataObject) -> None:
    x, p = data.draw(hs.integers(0, n)), data.draw(hs.floats(0.005, 0.5))
    gain = st.binom.logpmf(x, n, x / n) - st.binom.logpmf(x, n, p)
    assert kupiec_pof(x, n, p).lr == pytest.approx(2 * gain, abs=1e-7)
    assert kupiec_pof(x, n, p).lr == pytest.approx(kupiec_pof(n - x, n, 1 - p).lr, abs=1e-9)


def test_kupiec_without_exceptions_takes_zero_times_log_zero_as_zero() -> None:
    test = kupiec_pof([0, 250], 250, [0.01, 0.99])
    np.testing.assert_allclose(test.lr, -500 * np.log(0.99), rtol=1e-12)
    np.testing.assert_allclose(test.p_value, st.chi2.sf(test.lr, 1))


@pytest.mark.parametrize(("x", "n", "p"), [(5, 4, 0.1), (-1, 4, 0.1), (1, 0, 0.1), (1, 4, 0.0), (1, 4, 1.0)])
def test_kupiec_refuses_impossible_counts(x: int, n: int, p: float) -> None:
    with pytest.raises(SchemaError):
        kupiec_pof(x, n, p)


def test_kupiec_regions_are_those_of_the_paper() -> None:
    """Kupiec (1995) as reprinted by Jorion, chapter 6; the table leaves out the lower 0 of p = 1 % and T = 255."""
    table = {0.01: [(0, 7), (1, 11), (4, 17)], 0.025: [(2, 12), (6, 21), (15, 36)], 0.05: [(6, 21), (16, 36), (37, 65)]}
    table |= {0.075: [(11, 28), (27, 51), (59, 92)], 0.1: [(16, 36), (38, 65), (81, 120)]}
    for p, bounds in table.items():
        assert [kupiec_nonrejection(n, p) for n in (255, 510, 1000)] == bounds
    assert kupiec_nonrejection(30, 0.05)[0] == -1  # no exception in 30 days at 5 % is no news


def test_kupiec_power_is_that_of_simulated_counts() -> None:
    rng = np.random.default_rng(1)
    n, p, true_p, runs = 250, 0.05, 0.09, 20_000
    rejected = kupiec_pof(rng.binomial(n, true_p, runs), n, p).rejected().mean()
    assert kupiec_power(n, p, true_p) == pytest.approx(rejected, abs=4 * np.sqrt(0.25 / runs))
    assert kupiec_power(30, p, 0.10) < 0.25 < 0.8 < kupiec_power(250, p, 0.10)  # a month sees little, a year much


@given(hs.lists(hs.booleans(), min_size=2, max_size=60))
def test_transitions_equal_a_loop_and_independence_a_two_by_two_table(hits: list[bool]) -> None:
    counts = {(a, b): 0 for a in (False, True) for b in (False, True)}
    for pair in pairwise(hits):
        counts[pair] += 1
    found = transitions(np.array(hits))
    assert [int(n) for n in found] == [
        counts[False, False],
        counts[False, True],
        counts[True, False],
        counts[True, True],
    ]
    lr = christoffersen_independence(*found).lr
    table = np.array(found, dtype=float).reshape(2, 2)
    expected = np.outer(table.sum(axis=1), table.sum(axis=0)) / table.sum()
    g = 2 * sum(o * np.log(o / e) for o, e in zip(table.ravel(), expected.ravel(), strict=True) if o)
    assert lr == pytest.approx(max(g, 0.0), abs=1e-9)  # the likelihood ratio of independence in a 2 x 2 table is G


def test_conditional_coverage_adds_statistics_and_degrees_of_freedom() -> None:
    joint = conditional_coverage(kupiec_pof(20, 252, 0.05), christoffersen_independence(218, 14, 14, 6))
    assert (joint.df, bool(joint.rejected())) == (2, True)
    assert joint.lr == pytest.approx(3.91255 + 9.52957, abs=2e-5)
    assert joint.p_value == pytest.approx(np.exp(-joint.lr / 2))  # chi-squared with two degrees of freedom


def test_traffic_light_is_basel_table_two() -> None:
    assert [traffic_light(k).zone for k in (0, 4, 5, 9, 10)] == ["green", "green", "yellow", "yellow", "red"]
    assert 100 * traffic_light(4).cumulative == pytest.approx(89.22, abs=0.006)


def test_backtest_finds_what_is_wrong() -> None:
    rng = np.random.default_rng(3)
    fair = np.mean([backtest(rng.random(1000) < 0.05, 0.05)["rejected"] for _ in range(200)], axis=0)
    assert (fair < 0.05 + 4 * np.sqrt(0.05 * 0.95 / 200)).all()
    clustered = np.arange(1000) % 100 < 5
    assert backtest(clustered, 0.05)["rejected"].tolist() == [False, True, True]
    spread_out = np.arange(1000) % 10 == 3
    table = backtest(spread_out, 0.05)
    assert bool(table.loc["Kupiec", "rejected"]) and table.attrs["zone"] == "red"
    assert (table.attrs["n"], table.attrs["x"], table.attrs["expected"]) == (1000, 100, 50.0)
    with pytest.raises(TooShortError):
        backtest(np.array([True]), 0.05)


def test_day_peaks_judge_one_value_a_day() -> None:
    rng = np.random.default_rng(5)
    days, steps, draws, level = 2000, 6, 400, 0.9
    walk = rng.standard_normal((draws + 1, days, steps)).cumsum(axis=2).reshape(draws + 1, -1)
    hits = day_peaks(walk[0], steps) > np.quantile(day_peaks(walk[1:], steps), level, axis=0)
    assert hits.mean() == pytest.approx(1 - level, abs=4 * np.sqrt(0.09 / days) + 1 / draws)
    np.testing.assert_array_equal(day_peaks(walk[0], steps), [d.max() for d in np.split(walk[0], days)])
    with pytest.raises(SchemaError, match="whole days"):
        day_peaks(walk[0, 1:], steps)


def test_block_bootstrap_sees_the_dependence_that_single_steps_hide() -> None:
    rng = np.random.default_rng(7)
    day, n_days, phi = 100, 200, 0.95
    x = np.zeros(day * n_days)
    for t in range(1, x.size):
        x[t] = phi * x[t - 1] + rng.standard_normal()
    hits = x > 1.6449 / np.sqrt(1 - phi**2)
    widths = []
    for block in (1, day):
        mean, low, high = block_mean_interval(hits, block=block, level=0.9, rng=rng)
        assert low <= mean <= high and mean == pytest.approx(hits.mean())
        widths.append(high - low)
    assert widths[0] == pytest.approx(2 * 1.6449 * hits.std() / np.sqrt(hits.size), rel=0.15)  # of independent steps
    assert widths[1] > 2 * widths[0]
    with pytest.raises(TooShortError, match="two are needed"):
        block_mean_interval(hits[:150], block=day, rng=rng)


def test_true_quantiles_are_rejected_on_autocorrelated_telemetry() -> None:
    """The measured table of the specification, 2000 weeks at 5 minutes: both sides have Monte Carlo error."""
    n = 2000
    measured = {0.0: (0.058, 0.057), 0.5: (0.146, 1.0), 0.9: (0.51, 1.0), 0.97: (0.73, 0.998)}
    table = rejection_rates(tuple(measured), n_series=n, rng=np.random.default_rng(20261121))
    for phi, shares in measured.items():
        for name, share in zip(("kupiec", "christoffersen"), shares, strict=True):
            error = np.sqrt(2 * max(share * (1 - share), 1 / n) / n)
            assert table.loc[phi, name] == pytest.approx(share, abs=4 * error), (phi, name)


def test_day_blocks_keep_their_size_on_the_same_telemetry() -> None:
    """Daily peaks of an AR(1) that forgets within hours are independent: Kupiec then rejects as for independent days."""
    n, days, p = 400, 120, 0.05
    table = rejection_rates((0.0, 0.9), p=p, n_series=n, n_days=days, steps_per_day=48, rng=np.random.default_rng(11))
    nominal = kupiec_power(days, p, p)  # the count is discrete, so the size is not exactly 5 %
    for phi in table.index:
        assert table.loc[phi, "kupiec_day_peaks"] == pytest.approx(nominal, abs=4 * np.sqrt(nominal / n))
        assert table.loc[phi, "bootstrap"] < 0.15  # nominal 5 %; the percentile interval is short for skewed means
    assert table.loc[0.9, "kupiec"] > 0.4
