"""The timed policy decides as the policy does, and its numbers are those of its clock."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest

from support.autoscaling import Environment, Reactive, simulate
from support.autoscaling import timing as module
from support.autoscaling.timing import Timed
from support.errors import SchemaError

WORLD = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=2, control_every_ticks=3)


def demand():
    values = np.random.default_rng(5).uniform(0, 500, 90)
    return pd.Series(values, index=pd.date_range("2026-01-01", periods=90, freq="60s", tz="UTC"))


def test_a_timed_policy_decides_as_the_policy_does():
    timed = Timed(Reactive(0.6))
    ours, theirs = simulate(demand(), timed, WORLD), simulate(demand(), Reactive(0.6), WORLD)
    pd.testing.assert_frame_equal(ours.ticks, theirs.ticks)
    assert ours.policy == theirs.policy and ours.costs == theirs.costs
    assert len(timed.spent) == 30 and len(timed.prepared) == 1  # one answer a control tick


def test_percentiles_are_those_of_the_clock(monkeypatch):
    steps = iter([0.0, 7.0, *(t for k in range(30) for t in (100.0 * k, 100.0 * k + k + 1))])
    monkeypatch.setattr(module, "time", SimpleNamespace(perf_counter=lambda: next(steps)))
    timed = Timed(Reactive(0.6))
    simulate(demand(), timed, WORLD)
    assert timed.prepared == [7.0] and timed.spent == [float(k + 1) for k in range(30)]
    found = timed.microseconds()
    assert found == {"p50": 15.5e6, "p99": pytest.approx(29.71e6), "prepare": pytest.approx(7e6 / 30, abs=1e-3)}


def test_a_policy_that_has_not_answered_has_no_times():
    with pytest.raises(SchemaError, match="has not answered"):
        Timed(Reactive(0.6)).microseconds()
