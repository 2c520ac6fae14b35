"""Scores by hand, the bootstrap, the decision on hand-made paths, the split, and the line from end to end."""

import numpy as np
import pandas as pd
import pytest

from support.autoscaling import (
    Environment,
    Reactive,
    Static,
    cost_difference,
    decide,
    expected_costs,
    run_line,
    score,
    score_table,
    simulate,
    split,
    tune_reactive,
)
from support.errors import SchemaError, TooShortError
from support.forecasting import Forecast


def series(values, step=60, start="2026-03-01"):
    index = pd.date_range(start, periods=len(values), freq=f"{step}s", tz="UTC")
    return pd.Series(np.asarray(values, dtype=float), index=index, name="requests")


def days_of(n_days, step=600, seed=0):
    n = round(n_days * 86_400 / step)
    level = 40 * step * (1.3 + np.sin(2 * np.pi * np.arange(n) * step / 86_400))
    return series(np.random.default_rng(seed).poisson(level), step)


def test_scores_by_hand():
    world = Environment(
        tick_seconds=60, service_rate_rps=1.0, price_drop_usd=0.5, price_server_hour_usd=60.0, slo_wait_seconds=5.0
    )
    run = simulate(series([30.0, 150.0, 60.0, 0.0]), Static(2), world, initial_servers=2)
    row = score(run)
    assert row["cost_usd"] == pytest.approx(4 * 2 * 1.0 + 30 * 0.5)
    assert row["dropped_percent"] == pytest.approx(100 * 30 / 240)
    assert row["minute_slo_percent"] == 75.0  # only the tick with drops is bad: M/M/2 waits stay under 5 s
    assert row["request_slo_percent"] == pytest.approx(100 - 100 * 30 / 240)
    assert row["mean_servers"] == 2.0 and row["churn_percent"] == 0.0 and row["starts_per_day"] == 0.0
    assert row["slack_percent"] == pytest.approx(100 * (1 - 210 / 480))
    assert row["under_percent"] == pytest.approx(100 * (1 / 3) / 4)  # needs 1, 3, 1, 0 servers
    assert row["over_percent"] == pytest.approx(100 * (1 + 0 + 1 + 2) / 4)
    assert list(score_table([run]).index) == ["static"]


def test_the_bootstrap_is_paired_by_day():
    world = Environment(tick_seconds=600, service_rate_rps=1.0, price_drop_usd=0.0)
    demand = days_of(6)
    many, few = (simulate(demand, Static(n), world, initial_servers=n) for n in (10, 8))
    estimate, low, high = cost_difference(few, many, rng=np.random.default_rng(1))
    assert (
        estimate == pytest.approx(0.2) and low == pytest.approx(0.2) and high == pytest.approx(0.2)
    )  # days cancel exactly
    uneven = simulate(demand, Reactive(0.7), world)
    estimate, low, high = cost_difference(uneven, many, rng=np.random.default_rng(1))
    assert low <= estimate <= high and high - low < 0.2
    one_day = simulate(demand.iloc[:100], Static(2), world)
    assert cost_difference(one_day, one_day, rng=np.random.default_rng(1)) == (0.0, -np.inf, np.inf)


def forecast_of(paths):
    return Forecast.from_paths(
        np.asarray(paths, dtype=float)[None],
        issued_at=pd.Timestamp("2026-01-01", tz="UTC"),
        step_seconds=60,
        unit="requests",
        model="by hand",
    )


def test_expected_costs_by_hand():
    world = Environment(
        tick_seconds=60,
        service_rate_rps=1.0,
        boot_delay_ticks=1,
        price_server_hour_usd=60.0,
        price_drop_usd=0.1,
        price_start_usd=0.25,
    )
    table = expected_costs(forecast_of([[60, 60], [100, 150]]), world, 1, np.array([1, 2, 3]))
    assert table["cost_usd"].tolist() == pytest.approx(
        [2 + 0.1 * 130 / 2, 4.25 + 0.1 * (40 + 30) / 2, 6.5 + 0.1 * 40 / 2]
    )
    assert table["risk_frac"].tolist() == [0.5, 0.5, 0.5]  # nothing helps against the 40 of the first tick


def test_decide_agrees_with_the_simulator_on_a_sure_path():
    world = Environment(
        tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=2, price_server_hour_usd=60.0, price_drop_usd=0.1, price_start_usd=0.3, price_stop_usd=0.1
    )  # fmt: skip
    path = np.random.default_rng(2).uniform(0, 400, 12)
    for now in (1, 4, 9):
        bills = {n: simulate(series(path), Static(n), world, initial_servers=now).cost_usd for n in range(1, 12)}
        decision = decide(forecast_of([path, path]), world, now)
        assert bills[decision.servers] == pytest.approx(min(bills.values()))
        assert decision.expected_cost_usd == pytest.approx(min(bills.values()))
        assert decision.expected_cost_of_nothing_usd == pytest.approx(bills[now])
        late = pd.Timedelta(minutes=2) if decision.action == "scale up" else pd.Timedelta(0)
        assert decision.effective_by - decision.decided_at == late


def test_decide_refuses_a_forecast_that_does_not_fit():
    with pytest.raises(SchemaError, match="beyond the boot delay"):
        decide(forecast_of([[1, 2]]), Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=2), 1)


def test_split_takes_the_days_it_says():
    demand = days_of(10)
    train, test, notes = split(demand, train_days=5, test_days=2)
    assert (len(train), len(test), notes) == (5 * 144, 2 * 144, ())
    assert train.index[-1] + pd.Timedelta("600s") == test.index[0] and test.index[-1] == demand.index[-1]
    train, test, _ = split(demand, train_days=5, test_days=2, test_start="2026-03-07")
    assert test.index[0] == pd.Timestamp("2026-03-07", tz="UTC") and len(train) == 5 * 144
    train, test, notes = split(demand, train_days=28, test_days=14)
    assert len(train) + len(test) == len(demand) and "only 10.0 days" in notes[0]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"test_start": "soon"}, "no date"),
        ({"test_start": "2031-01-01"}, "leaves"),
        ({"test_start": "2020-01-01"}, "leaves"),
        ({"train_days": 0.0}, "positive"),
        ({"test_days": float("nan")}, "positive"),
        ({"test_days": 0.01}, "at least 24"),
    ],
)
def test_split_refuses(wrong, words):
    with pytest.raises((SchemaError, TooShortError), match=words):
        split(days_of(5), **({"train_days": 3.0, "test_days": 1.0, "test_start": ""} | wrong))


def test_tuning_sees_the_past_only_and_picks_the_cheapest_target():
    demand = days_of(8)
    world = Environment.for_demand(demand, boot_delay_seconds=600)
    target = tune_reactive(demand, world, days=4)
    cost = {t: simulate(demand.iloc[-576:], Reactive(t), world).cost_usd for t in (0.5, 0.7, 0.9, target)}
    assert cost[target] == min(cost.values())


@pytest.mark.parametrize("step", [60, 300, 3600])
def test_the_line_from_end_to_end(step):
    demand = days_of({60: 6, 300: 6, 3600: 20}[step], step)
    line = run_line(demand, train_days=4, test_days=2, rng=np.random.default_rng(1))
    assert set(line.table.index) == {
        "static",
        "reactive 70 %",
        "reactive tuned",
        "forecast mean",
        "forecast mean +20%",
        "newsvendor",
    }
    assert np.isfinite(line.table.to_numpy()).all() and len(line.test) == 2 * 86_400 / step
    assert line.decision.expected_cost_usd <= line.decision.expected_cost_of_nothing_usd
    assert line.outlook.issued_at == demand.index[-1]
    assert any("rounded up" in note for note in line.notes) == (step == 3600)
    again = run_line(demand, train_days=4, test_days=2, servers_now=3, rng=np.random.default_rng(1))
    pd.testing.assert_frame_equal(line.table, again.table)
    assert again.decision.servers_now == 3


def test_the_line_says_so_when_demand_is_no_count_of_requests():
    line = run_line(days_of(5).rename("cpu_utilization"), train_days=3, test_days=1, rng=np.random.default_rng(1))
    assert any("no count of requests" in note for note in line.notes)


def test_a_long_boot_delay_on_fine_ticks_shortens_the_past_and_says_so():
    line = run_line(
        days_of(3, 10),
        train_days=2.9,
        test_days=0.05,
        boot_delay_seconds=3600,
        rng=np.random.default_rng(1),
        n_draws=20,
    )
    assert any("learns from" in note for note in line.notes)
