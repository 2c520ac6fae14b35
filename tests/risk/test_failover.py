"""Failover days, their rate, and what a lost host leaves."""

import numpy as np
import pandas as pd
import pytest

from support.errors import SchemaError
from support.forecast import Forecast
from support.risk.failover import FailoverRate, breach_in_failover, failover_days, failover_rate

DAYS = pd.date_range("2026-01-01", periods=10, freq="1D", tz="UTC")


def cluster():
    load = pd.DataFrame(100.0, index=DAYS, columns=["a", "b", "c", "d"])
    load.loc[DAYS[[2, 3]], ["a", "b"]] = 0.0
    load.loc[DAYS[[2, 3]], ["c", "d"]] = 200.0
    load.loc[DAYS[7], "a"] = 1.0  # 1 % of an even split: out
    load.loc[DAYS[7], ["b", "c", "d"]] = 133.0
    load.loc[DAYS[8]] = 0.0  # a day without any load is no failover
    return load


def test_failover_days_are_found_with_what_the_others_bore():
    found = failover_days(cluster())
    assert found.index.tolist() == [DAYS[2], DAYS[3], DAYS[7]]
    assert found["n_lost"].tolist() == [2, 2, 1] and found["lost"].tolist() == ["a, b", "a, b", "a"]
    assert found["load_ratio"].to_numpy() == pytest.approx([2.0, 2.0, 133 / 100])
    assert found["expected_ratio"].to_numpy() == pytest.approx([2.0, 2.0, 4 / 3])
    with pytest.raises(SchemaError, match="two"):
        failover_days(cluster()[["a"]])


def test_days_in_a_row_are_one_episode_and_the_rate_is_predictive():
    rate = failover_rate(failover_days(cluster()), 10.0)
    assert rate == FailoverRate(2, 1.5, 2, 10.0)
    draws = np.random.default_rng(0).gamma(2.5, 1 / 10.0, 200_000)  # the posterior of the rate, and then no event
    assert rate.p_within(5) == pytest.approx(1 - np.exp(-5 * draws).mean(), abs=4e-3)
    none = failover_rate(failover_days(cluster().iloc[:2]), 2.0)
    assert none.n_episodes == 0 and none.mean_days == 0 and 0 < none.p_within(1) < 0.5
    with pytest.raises(SchemaError):
        failover_rate(failover_days(cluster()), 0)


def test_an_outage_breaches_where_a_loop_says():
    paths = np.random.default_rng(1).normal(10, 1, (1, 30, 20))
    made = Forecast.from_paths(paths, issued_at=DAYS[0], step_seconds=43_200, unit="cores", model="given")
    starts = [(path[s : s + 4] > 12).any() for path in paths[0] for s in range(17)]
    assert breach_in_failover(made, 12.0, duration_days=2) == pytest.approx(np.mean(starts))
    assert breach_in_failover(made, 12.0, duration_days=10) == pytest.approx((paths[0] > 12).any(axis=1).mean())
    for days in (0, 11):
        with pytest.raises(SchemaError):
            breach_in_failover(made, 12.0, duration_days=days)


def test_a_capacity_that_is_missing_is_refused_and_not_a_safe_failover():
    forecast = Forecast.from_paths(np.ones((1, 1, 3)), issued_at=DAYS[0], step_seconds=86_400, unit="u", model="given")
    with pytest.raises(SchemaError, match="missing"):
        breach_in_failover(forecast, np.nan, duration_days=1)
