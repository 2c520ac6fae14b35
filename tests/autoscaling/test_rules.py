"""The rules of AWS: the worked examples of its user guide, its rounding, its alarms as a naive state machine."""

import math
from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.autoscaling import Environment, Observation, simulate
from support.autoscaling.batch import prepare_batch, run_batch
from support.autoscaling.catalog import build_policy
from support.autoscaling.rules import LargestOf, PausedThresholds, StepScaling, TargetTracking, step_change
from support.errors import SchemaError

GUIDE = StepScaling(  # the guide's table: unchanged between 40 % and 60 %, then 10 %, then 30 %
    high=0.5, low=0.5, out_steps=((0.0, 0.0), (0.1, 10.0), (0.2, 30.0)),
    in_steps=((0.0, 0.0), (-0.1, -10.0), (-0.2, -30.0)), out_points=1, in_points=1,
)  # fmt: skip
WORLD = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=3, max_servers=40, drain_ticks=2)


def seen(used, active, booting=0, draining=0, servers=None):
    used = np.atleast_1d(np.asarray(used, dtype=float))
    nothing = np.zeros(len(used))
    return Observation(
        len(used), len(used), active, booting, 0, nothing, nothing, nothing, nothing, used,
        np.full(len(used), active if servers is None else servers), ((1, booting),) if booting else (), draining,
    )  # fmt: skip


def wanted(policy, *what, **more):
    _, desired, reason = policy.act(policy.prepare(WORLD, None), seen(*what, **more))
    assert reason
    return desired


def test_the_example_of_the_guide():
    fleet = 10
    for used, expected in [(0.6, 11), (0.7, 14), (0.4, 13), (0.3, 10), (0.59, 10), (0.41, 10), (0.5, 10)]:
        fleet = wanted(GUIDE, used, fleet)
        assert fleet == expected, used


def test_servers_that_warm_up_count_as_asked_for_but_not_as_present():
    assert wanted(GUIDE, 0.62, 10, booting=1) == 11  # 10 % of 10 is there already
    assert wanted(GUIDE, 0.70, 10, booting=1) == 13  # 30 % of 10, of which one boots: two more
    assert wanted(GUIDE, 0.60, 10, booting=5) == 15  # never fewer than were asked for


def test_going_in_waits_for_booting_servers_and_counts_the_draining_ones():
    assert wanted(GUIDE, 0.40, 13, booting=1) == 14
    assert wanted(GUIDE, 0.40, 13, draining=1) == 13  # the same step again while its server drains
    assert wanted(GUIDE, 0.30, 13, draining=1) == 10  # 30 % of 14 is 4, one of them drains already


def test_the_rounding_of_the_guide():
    assert [step_change(c, 100) for c in (12.7, 0.67, -0.58, -6.67)] == [12, 1, -1, -6]
    assert step_change(25, 4) == 1 and step_change(25, 4, least=2) == 2 and step_change(-25, 4, least=2) == -2
    assert step_change(0.0, 7, least=2) == 0 and step_change(10, 0) == 1 and step_change(10, 0, least=0) == 0
    assert step_change(3, 100, unit="servers") == 3 and step_change(-2, 1, unit="servers", least=5) == -2


@given(st.integers(-200, 200), st.integers(0, 500), st.integers(0, 4))
def test_rounding_is_towards_zero_beyond_one_and_away_from_it_inside(percent, present, least):
    exact = Fraction(percent * present, 100)
    rounded = int(exact) if abs(exact) >= 1 or exact == 0 else int(math.copysign(1, exact))
    if percent and abs(rounded) < least:
        rounded = int(math.copysign(least, percent))
    assert step_change(percent, present, least=least) == rounded


def test_steps_in_servers_and_alarms_of_several_points():
    policy = StepScaling(
        high=0.8, low=0.3, out_steps=((0.0, 1), (0.15, 4)), in_steps=((0.0, -2),), unit="servers", out_points=2,
        in_points=3,
    )  # fmt: skip
    assert wanted(policy, [0.99], 10) == 10  # one point is no alarm
    assert wanted(policy, [0.79, 0.99], 10) == 10
    assert wanted(policy, [0.8, 0.94], 10) == 11
    assert wanted(policy, [0.8, 0.95], 10) == 14 and wanted(policy, [0.96, 0.81], 10) == 11  # the newest point decides
    assert wanted(policy, [0.31, 0.3, 0.1], 10) == 10 and wanted(policy, [0.3, 0.2, 0.1], 10) == 8
    assert wanted(policy, [], 10) == 10


def test_target_tracking_rounds_as_the_guide_says():
    policy = TargetTracking(0.5, out_points=1, in_points=1)
    assert wanted(policy, 0.75, 3) == 5  # 1.5 servers more are two
    assert wanted(policy, 0.375, 6) == 5  # 1.5 fewer are one
    assert wanted(policy, 0.46, 6) == 6  # within 10 % of the target nothing goes
    assert wanted(policy, 0.3, 6, booting=2) == 8  # no going in while a server boots
    assert wanted(policy, 0.6, 10, booting=5) == 15 and wanted(policy, 0.9, 10, booting=5) == 18


def demand(seed, n_time=600):
    rng = np.random.default_rng(seed)
    level = (
        400 * (1.2 + np.sin(2 * np.pi * np.arange(n_time) / 200)) * rng.choice([1, 1, 1, 1.7], n_time // 20).repeat(20)
    )
    index = pd.date_range("2026-01-01", periods=n_time, freq="60s", tz="UTC")
    return pd.Series(rng.poisson(level).astype(float), index=index, name="requests")


def guide_step(policy, newest, active, booting, draining, high_for, low_for):
    """Step scaling once more, from the guide's sentences, with alarms as counters and exact fractions."""
    if high_for >= policy.out_points:
        change = 0.0
        for bound, percent in policy.out_steps:
            if round(newest - policy.high, 9) >= bound:
                change = percent
        return max(active + booting, active + rounded_change(change, active))
    if low_for >= policy.in_points and not booting:
        change = 0.0
        for bound, percent in policy.in_steps:
            if round(newest - policy.low, 9) <= bound:
                change = percent
        return min(active, active + draining + rounded_change(change, active + draining))
    return active + booting


def rounded_change(percent, present):
    exact = Fraction(percent) * present / 100
    return int(exact) if abs(exact) >= 1 or percent == 0 else int(math.copysign(1, percent))


@pytest.mark.parametrize("lag", [0, 2])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_whole_runs_against_a_state_machine(seed, lag):
    world = Environment(
        tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=3, max_servers=40, drain_ticks=2, metric_lag_ticks=lag
    )
    for policy in (StepScaling(), GUIDE, TargetTracking(0.6, in_points=6), TargetTracking(0.8)):
        ticks = simulate(demand(seed), policy, world, initial_servers=5).ticks
        active, booting, draining = 5, 0, 0
        high_for = low_for = changes = 0
        for t in range(len(ticks)):
            if t - 1 - lag >= 0:
                newest, measured = ticks["utilization"].iloc[t - 1 - lag], ticks["servers"].iloc[t - 1 - lag]
                is_step = isinstance(policy, StepScaling)
                high = round(newest - policy.high, 9) >= 0 if is_step else newest > policy.target
                low = round(newest - policy.low, 9) <= 0 if is_step else newest < 0.9 * policy.target
                high_for, low_for = (high_for + 1) * high, (low_for + 1) * low
            total = desired = active + booting
            if high_for >= policy.out_points or low_for >= policy.in_points:
                if isinstance(policy, StepScaling):
                    desired = guide_step(policy, newest, active, booting, draining, high_for, low_for)
                else:
                    ratio = math.ceil(round(measured * newest / policy.target, 9))
                    less = total if booting else min(total, ratio)
                    desired = max(total, ratio) if high_for >= policy.out_points else less
            change = min(max(desired, 1), 40) - total
            assert ticks["started"].iloc[t] == max(change, 0) and ticks["stopped"].iloc[t] == max(-change, 0), (
                policy,
                t,
            )
            changes += change != 0
            active, booting = ticks["servers"].iloc[t], ticks["booting"].iloc[t]
            draining = ticks["stopped"].iloc[max(t - world.drain_ticks + 2, 0) : t + 1].sum()
        assert changes > 10


@dataclass(frozen=True)
class Asks:
    """Asks for `change` servers more at each tick, and counts its calls in its state."""

    change: int
    name: str = "asks"

    def prepare(self, environment, forecast):
        return 0

    def act(self, state, seen):
        return state + 1, seen.active + seen.booting + self.change, f"wants {self.change:+d}"


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ((3, 20), 20), ((20, 3), 20), ((-2, -5), -2), ((4, -5), 4), ((-5, 4), 4),
        ((0, -3), -3), ((-3, 0), -3), ((0, 0), 0), ((0, 2, -1), 2),  # who asks for nothing blocks nobody
    ],
)  # fmt: skip
def test_the_largest_capacity_wins_among_those_who_ask(changes, expected):
    policy = LargestOf(tuple(Asks(change, f"no {i}") for i, change in enumerate(changes)))
    state, desired, reason = policy.act(policy.prepare(WORLD, None), seen(0.5, 10, booting=1))
    assert desired == 11 + expected and state == (1,) * len(changes)  # each of them saw the tick
    assert f"wants {expected:+d}" in reason
    named = [i for i in range(len(changes)) if f"no {i}:" in reason]
    assert named == ([changes.index(expected)] if expected else list(range(len(changes))))


def test_the_largest_of_none_is_refused():
    with pytest.raises(SchemaError, match="at least one policy"):
        LargestOf(()).prepare(WORLD, None)


def test_step_and_target_are_the_two_of_the_catalogue_at_once():
    both = build_policy("step and target", WORLD, demand(1))
    assert both.policies == tuple(build_policy(name, WORLD, demand(1)) for name in ("step scaling", "target tracking"))
    out = np.full(5, 0.75)  # steps: 30 % beyond 0.6 + 0.1; target: 10 * 0.75 / 0.7
    assert wanted(both, out, 10) == max(wanted(p, out, 10) for p in both.policies) == 13
    low = np.full(5, 0.35)  # five minutes: the step goes in, target tracking is not ready and does not block
    assert wanted(both, low, 10) == wanted(both.policies[0], low, 10) == 9 and wanted(both.policies[1], low, 10) == 10


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_pauses_against_a_stopwatch(seed):
    world = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=3, max_servers=40)
    policy = PausedThresholds(0.7, 0.4, 300.0, 600.0)
    ticks = simulate(demand(seed), policy, world, initial_servers=5).ticks
    last, moves = None, []
    for t in range(1, len(ticks)):
        used = ticks["utilization"].iloc[t - 1]
        passed = math.inf if last is None else 60 * (t - last)
        total = ticks["servers"].iloc[t - 1] + ticks["booting"].iloc[t - 1]
        out, in_ = used > 0.7 and passed >= 300 and total < 40, used < 0.4 and passed >= 600 and total > 1
        assert (ticks["started"].iloc[t], ticks["stopped"].iloc[t]) == (int(out), int(in_)), t
        if out or in_:
            moves.append(1 if out else -1)
            last = t
    assert {1, -1} == set(moves) and len(moves) > 10


def test_a_step_that_the_world_refuses_starts_no_pause():
    world = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=0, max_servers=5, cooldown_ticks=4)
    busy = demand(1) * 0 + 1000.0
    started = simulate(busy, PausedThresholds(out_pause_seconds=180.0), world, initial_servers=3).ticks["started"]
    assert np.flatnonzero(started).tolist() == [1, 6]  # asked again at 4 and 5, in the cooldown


@pytest.mark.parametrize(
    "changes", [{"low": 0.9}, {"high": 1.2}, {"out_pause_seconds": -1.0}, {"in_pause_seconds": -1.0}]
)
def test_what_paused_thresholds_refuse(changes):
    with pytest.raises(SchemaError, match="pauses be 0 or more"):
        PausedThresholds(**changes).prepare(WORLD, None)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"high": 0.3}, "high"),
        ({"out_points": 0}, "point"),
        ({"unit": "instances"}, "unit"),
        ({"min_change": -1}, "min_change"),
        ({"out_steps": ()}, "out_steps"),
        ({"out_steps": ((0.1, 10.0),)}, "begin at 0"),
        ({"out_steps": ((0.0, 10.0), (0.0, 20.0))}, "out_steps"),
        ({"out_steps": ((0.0, -10.0),)}, "out_steps"),
        ({"in_steps": ((0.0, -10.0), (0.1, -20.0))}, "in_steps"),
        ({"unit": "servers", "in_steps": ((0.0, -1.5),)}, "whole"),
    ],
)
def test_what_step_scaling_refuses(changes, message):
    with pytest.raises(SchemaError, match=message):
        StepScaling(**changes).prepare(WORLD, None)


@pytest.mark.parametrize("name", ["target tracking", "step scaling", "thresholds"])
def test_rules_wake_from_zero(name):
    world = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=2, min_servers=0, max_servers=50)
    index = pd.date_range("2026-01-01", periods=300, freq="60s", tz="UTC")
    quiet = pd.Series(np.r_[np.full(60, 300.0), np.zeros(60), np.full(180, 300.0)], index=index)
    policy = build_policy(name, world, quiet)
    run = simulate(quiet, policy, world)
    assert run.ticks["servers"].iloc[110] < 5 <= run.ticks["servers"].iloc[-1]
    if isinstance(policy, TargetTracking):
        batch = run_batch(prepare_batch(quiet.to_numpy(), [policy], [world]))
        assert batch.cost_usd[0] == pytest.approx(run.cost_usd)


def test_of_two_targets_none_goes_in_before_both_are_ready():
    index = pd.date_range("2026-01-01", periods=60, freq="60s", tz="UTC")
    both = LargestOf((TargetTracking(0.8, 3, 3, 0.9, "t80"), TargetTracking(0.3, 3, 3, 0.9, "t30")))
    world = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=0)
    run = simulate(pd.Series(90.0, index=index), both, world, initial_servers=5)
    assert run.ticks["servers"].eq(5).all()  # the target of 30 % needs them: 1.5 / 5
