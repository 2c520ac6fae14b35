"""What a policy is shown at each tick, when it is asked, and the three rules that live beside the engine."""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest

from support.autoscaling import Environment, Observation, Plan, Reactive, TargetTracking, Thresholds, simulate
from support.errors import SchemaError


def trace(values, tick=60):
    index = pd.date_range("2026-01-01", periods=len(values), freq=f"{tick}s", tz="UTC")
    return pd.Series(np.asarray(values, dtype=float), index=index, name="requests")


def test_between_control_ticks_nothing_happens():
    world = Environment(tick_seconds=15, service_rate_rps=1, control_every_ticks=4, boot_delay_ticks=0)
    run = simulate(trace(np.arange(16) * 15.0, 15), Reactive(1.0), world, initial_servers=1)
    assert run.ticks["servers"].tolist() == [1] * 4 + [3] * 4 + [7] * 4 + [11] * 4
    assert set(run.ticks["reason"]) == {"between two control ticks", "no data yet", "last demand over target"}


@dataclass(frozen=True)
class Diary:
    """Keeps what it saw."""

    seen: list
    name: str = "diary"

    def prepare(self, environment, forecast):
        return None

    def act(self, state, seen):
        self.seen.append(seen)
        return None, [1, 3, 3, 2, 2][min(seen.tick, 4)], "looks"


@pytest.mark.parametrize("lag", [0, 2])
def test_what_a_policy_sees(lag):
    world = Environment(
        tick_seconds=60, service_rate_rps=1, boot_delay_ticks=2, metric_lag_ticks=lag, drain_ticks=2, queue_limit=10.0
    )
    seen = []
    ticks = simulate(trace([30.0, 90.0, 150.0, 0.0, 60.0]), Diary(seen), world, initial_servers=1).ticks
    for t, now in enumerate(seen):
        known = ticks.iloc[: max(t - lag, 0)]
        for name, column in [
            ("arrivals", "arrivals"),
            ("served", "served"),
            ("queue", "queue"),
            ("servers", "servers"),
        ]:
            np.testing.assert_array_equal(getattr(now, name), known[column])
        np.testing.assert_array_equal(now.lost, known["dropped"] + known["abandoned"])
        np.testing.assert_array_equal(now.utilization, known["served"] / (60 * known["servers"]))
    assert [now.pipeline for now in seen] == [(), (), ((1, 2),), ((2, 2),), ()]
    assert [now.booting for now in seen] == [0, 0, 2, 2, 0] and [now.active for now in seen] == [1, 1, 1, 1, 2]


def shown(utilization, servers=4, booting=0):
    used = np.array(utilization, dtype=float)
    same = np.ones(len(used))
    past = {"arrivals": same, "served": same, "queue": 0 * same, "utilization": used, "servers": same * servers}
    return Observation(tick=len(used), row=len(used), active=servers, booting=booting, cooldown_left=0, **past)


def test_thresholds_by_hand():
    rule = Thresholds(0.75, 0.3, 2, 1)
    for used, wanted in [([0.9, 0.76], 7), ([0.9, 0.75], 5), ([0.3], 5), ([0.29], 4), ([], 5)]:
        assert rule.act(None, shown(used, 4, 1))[1] == wanted
    for low, high in [(0.5, 0.5), (-0.1, 0.5), (0.2, 1.1)]:
        with pytest.raises(SchemaError, match="thresholds"):
            Thresholds(high, low).prepare(Environment(tick_seconds=60, service_rate_rps=1), None)


def test_target_tracking_by_hand():
    rule = TargetTracking(0.5, out_points=3, in_points=4)
    for used, wanted in [
        ([0.1, 0.6, 0.7, 0.8], 7),  # 4 * 0.8 / 0.5, rounded up
        ([0.9, 0.9], 4), ([0.5, 0.9, 0.9], 4),  # too few, or not all above
        ([0.4, 0.2, 0.3, 0.2], 2), ([0.4, 0.46, 0.3, 0.2], 4),  # in below 0.45 only
        ([], 4),
    ]:  # fmt: skip
        assert rule.act(None, shown(used))[1] == wanted
    assert rule.act(None, shown([0.6, 0.6, 0.6], 4, 3))[1] == 7  # what boots counts: 5 would do, 7 are coming
    for bad in (TargetTracking(0.0), TargetTracking(1.1), TargetTracking(0.5, 0), TargetTracking(0.5, 3, 0)):
        with pytest.raises(SchemaError, match="target tracking"):
            bad.prepare(Environment(tick_seconds=60, service_rate_rps=1), None)


def test_a_plan_is_followed():
    world = Environment(tick_seconds=60, service_rate_rps=1, boot_delay_ticks=0)
    ticks = simulate(trace(np.ones(4)), Plan(np.array([1, 3, 2, 5])), world, initial_servers=1).ticks
    assert ticks["servers"].tolist() == [1, 3, 2, 5]
