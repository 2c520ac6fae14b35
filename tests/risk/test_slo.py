"""Burn rates: the workbook's table, windows against loops, and the budget's forecast."""

import numpy as np
import pandas as pd
import pytest

from support.errors import SchemaError, TooShortError
from support.forecast import Forecast
from support.risk.slo import BURN_RULES, BurnRule, budget_forecast, burn_rate_alerts, days_to_exhaustion

ISSUED = pd.Timestamp("2026-01-01", tz="UTC")


def forecast(paths, step=3600.0):
    return Forecast.from_paths(
        np.asarray(paths, dtype=float)[None], issued_at=ISSUED, step_seconds=step, unit="cores", model="given"
    )


def test_the_workbook_table():
    assert [r.burn_rate() for r in BURN_RULES] == pytest.approx([14.4, 6.0, 1.0])
    assert [60 * r.short_hours for r in BURN_RULES] == pytest.approx([5, 30, 360])
    assert [r.error_ratio(0.999) for r in BURN_RULES] == pytest.approx([0.0144, 0.006, 0.001])
    assert [r.severity for r in BURN_RULES] == ["page", "page", "ticket"]
    assert [days_to_exhaustion(b) for b in (1, 2, 10)] == [30, 15, 3]
    assert 24 * days_to_exhaustion(14.4) == pytest.approx(50) and days_to_exhaustion(0) == np.inf
    with pytest.raises(SchemaError):
        days_to_exhaustion(-1)


def test_both_windows_must_exceed_and_a_loop_agrees():
    rng = np.random.default_rng(0)
    total = rng.integers(0, 50, 600).astype(float)
    bad = np.minimum(total, rng.poisson(np.where((np.arange(600) // 60) % 3 == 1, 6.0, 0.02)))
    found = burn_rate_alerts(bad, total, step_seconds=300, slo_target=0.99)
    for r, rule in enumerate(BURN_RULES):
        for t in range(600):
            over = []
            for hours in (rule.long_hours, rule.short_hours):
                width = max(1, round(hours * 12))
                b, n = bad[max(t + 1 - width, 0) : t + 1].sum(), total[max(t + 1 - width, 0) : t + 1].sum()
                over.append(n > 0 and b / n > rule.error_ratio(0.99))
            assert found[r, t] == all(over), (rule, t)
    assert found.any(axis=1).all() and not found.all(axis=1).any()


def test_an_alert_ends_with_the_short_window_not_the_long_one():
    bad = np.zeros(240)
    bad[100:112] = 1  # one hour of failures at a step of 5 minutes
    fired = burn_rate_alerts(bad, np.ones(240), step_seconds=300)[0]
    assert fired[100:112].all() and not fired[112:].any()
    constant = burn_rate_alerts(np.full(400, 0.01), np.ones(400), step_seconds=300)
    assert not constant[0].any() and constant[1].all()  # ten times the budget: above 6, below 14.4


def test_bad_counts_are_refused():
    for bad, total, target in (([2.0], [1.0], 0.9), ([1.0], [1.0, 1.0], 0.9), ([0.0], [1.0], 1.0)):
        with pytest.raises(SchemaError):
            burn_rate_alerts(np.array(bad), np.array(total), step_seconds=60, slo_target=target)


def test_the_budget_of_a_period_against_a_loop():
    rng = np.random.default_rng(2)
    paths = rng.normal(10, 1, (300, 40))
    found = budget_forecast(forecast(paths), 11.5, slo_target=0.95, spent_steps=2, elapsed_steps=60, remaining_steps=40)
    assert found.budget == pytest.approx(5.0)
    gone = []
    for path in paths:
        spent, when = 2, np.inf
        for t in range(40):
            spent += path[t] > 11.5
            if spent > 5 and np.isinf(when):
                when = (t + 1) / 24
        gone.append(when)
    assert found.days == pytest.approx(np.array(gone)) and found.p_spent == np.isfinite(gone).mean()
    assert found.ticket() == (found.p_spent > 0.10) and found.spent_by_end.max() <= 42


def test_a_budget_already_gone_and_one_that_lasts():
    made = forecast(np.ones((5, 10)))
    assert budget_forecast(made, 2.0, slo_target=0.9, spent_steps=3, elapsed_steps=10, remaining_steps=10).p_spent == 1
    lasting = budget_forecast(made, 2.0, slo_target=0.9, spent_steps=2, elapsed_steps=10, remaining_steps=10)
    assert lasting.p_spent == 0 and not lasting.ticket() and np.isinf(lasting.days).all()
    with pytest.raises(TooShortError):
        budget_forecast(made, 2.0, slo_target=0.9, spent_steps=0, elapsed_steps=0, remaining_steps=11)
    with pytest.raises(SchemaError):
        budget_forecast(made, 2.0, slo_target=0.9, spent_steps=3, elapsed_steps=2, remaining_steps=5)


def test_a_rule_of_ones_own():
    assert BurnRule("page", 0.05, 1.0).burn_rate(28) == pytest.approx(33.6)


def test_a_capacity_that_is_missing_is_refused_and_not_a_budget_that_lasts():
    for capacity in (np.nan, np.array([1.0, np.nan])):
        with pytest.raises(SchemaError, match="capacity is missing"):
            budget_forecast(
                forecast([[5.0, 5.0]]), capacity, slo_target=0.5, spent_steps=0, elapsed_steps=0, remaining_steps=2
            )
