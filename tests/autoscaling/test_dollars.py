"""The ranking by dollars: against plain arithmetic, against the policy table's own run, and with a forecast that is right."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from benchmarks.autoscaling import Case, Trace, case_of, spread_of
from benchmarks.autoscaling_dollars import TRACES, dollars_of, makers
from support.autoscaling import ForecastMean, simulate
from support.autoscaling.mpc import StochasticMPC
from support.autoscaling.oracle import optimum
from support.recorded import recorded

POLICY_ROWS = {"newsvendor": "newsvendor", "mpc": "stochastic MPC"}


def fourteen_days() -> pd.Series:
    """Hours of a day that swings, with noise."""
    index = pd.date_range("2026-01-01", periods=14 * 24, freq="h", tz="UTC", name="timestamp")
    noise = np.random.default_rng(1).normal(0.0, 0.1, len(index))
    return pd.Series(
        1000 * np.exp(np.sin(2 * np.pi * np.arange(len(index)) / 24) + noise), index=index, name="requests"
    )


@pytest.fixture(scope="module")
def case() -> Case:
    return case_of("made up", Trace(fourteen_days, 10.0, 4.0))


def test_a_forecast_that_is_right_has_no_crps_and_its_bill_is_that_of_a_plain_run(case):
    y = np.r_[case.test.to_numpy(), np.full(case.rolling.mean.shape[1], case.test.iloc[-1])]
    ahead = y[np.arange(len(case.test))[:, None] + np.arange(case.rolling.mean.shape[1])]
    sure = replace(case.rolling, quantiles=np.repeat(ahead[..., None], len(case.rolling.levels), axis=2), mean=ahead)
    found = dollars_of(case, {"sure": lambda: sure, "as it is": lambda: case.rolling})
    knows, ridge = found["rows"]
    assert knows["crps"] < 1e-9 < ridge["crps"]
    plain = simulate(case.test, ForecastMean(), case.world, forecast=sure, initial_servers=case.first)
    assert knows["mean_usd"] == pytest.approx(plain.cost_usd, abs=1e-4)
    best = optimum(case.test, case.world, initial_servers=case.first).lower_usd
    assert knows["mean_regret_frac"] == pytest.approx(plain.cost_usd / best - 1, abs=1e-4)
    assert best - 1e-4 <= knows["mpc_usd"] < ridge["mpc_usd"]  # who knows pays less, and not less than the optimum


def test_a_sure_forecast_announces_no_regret_and_an_honest_one_about_what_is_paid(case):
    y = np.r_[case.test.to_numpy(), np.full(case.rolling.mean.shape[1], case.test.iloc[-1])]
    ahead = y[np.arange(len(case.test))[:, None] + np.arange(case.rolling.mean.shape[1])]
    sure = replace(case.rolling, quantiles=np.repeat(ahead[..., None], len(case.rolling.levels), axis=2), mean=ahead)
    assert spread_of(replace(case, rolling=sure))["announced_frac"] == pytest.approx(0.0, abs=1e-9)
    best = optimum(case.test, case.world, initial_servers=case.first).lower_usd
    paid = case.run(StochasticMPC()).cost_usd / best - 1
    assert 0.5 * paid < spread_of(case)["announced_frac"] < 2 * paid  # noise of one size, free changes or nearly so


def test_the_record_announces_a_regret_for_every_trace():
    record = recorded("autoscaling")["results"]
    assert record["spread"].keys() == record["traces"].keys()
    assert all(np.isfinite(s["announced_frac"]) and s["announced_frac"] > -1e-9 for s in record["spread"].values())


def test_every_forecaster_forecasts_the_test_days_and_only_them(case):
    made = {name: make() for name, make in makers(case, 10.0).items() if name != "LSTM"}
    for name, rolling in made.items():
        assert rolling.timestamps.equals(case.test.index), name
        assert rolling.quantiles.shape == case.rolling.quantiles.shape, name
    assert not np.allclose(made["ridge"].quantiles, made["ridge, recalibrated"].quantiles)
    assert made["aggregate"].model.startswith("aggregate of direct ridge, persistence, recommended, gradient boosting")
    assert made["recommended"].model == "recommended" and made["own zero-shot"].model == "own zero-shot"


def test_the_record_holds_what_follows_from_its_own_bills():
    traces = recorded("autoscaling_dollars")["results"]["traces"]
    assert list(traces) == list(TRACES)
    for name, trace in traces.items():
        assert len(trace["rows"]) == 9 and trace["stamp"]["commit"]
        for row in trace["rows"]:
            for policy in ("mean", "newsvendor", "mpc"):
                assert row[f"{policy}_usd"] >= trace["optimum_usd"] * (1 - 1e-6), (name, row["forecaster"])
                want = row[f"{policy}_usd"] / trace["optimum_usd"] - 1
                assert row[f"{policy}_regret_frac"] == pytest.approx(want, abs=2e-4)


def test_the_aggregate_pays_what_the_policy_table_says():
    table = recorded("autoscaling")["results"]["traces"]
    for name, trace in recorded("autoscaling_dollars")["results"]["traces"].items():
        bills = {row["policy"]: row["cost_usd"] for row in table[name]["rows"]}
        (same,) = [row for row in trace["rows"] if row["forecaster"] == "aggregate"]
        for policy, named in POLICY_ROWS.items():
            assert same[f"{policy}_usd"] == pytest.approx(bills[named], rel=1e-4), (name, policy)
