"""The Kubernetes autoscaler and KEDA as policies: what they decide, by hand, and what they must never do."""

import itertools
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.autoscaling.environment import Environment
from support.autoscaling.hpa import reconcile
from support.autoscaling.hpa_behavior import HpaState, Recommendation, ScaleEvent, scale_limit
from support.autoscaling.hpa_policy import KubernetesHPA
from support.autoscaling.hpa_spec import (
    Behavior,
    Controller,
    HpaSpec,
    MetricReading,
    MetricSpec,
    Pod,
    PodMetric,
    ScalingPolicy,
    ScalingRules,
)
from support.autoscaling.keda import KedaQueue, ScaledJob, ScaledObject, jobs_to_start
from support.autoscaling.simulate import simulate
from support.errors import SchemaError

DOUBLING_FREELY = Behavior(ScalingRules((ScalingPolicy("Percent", 10_000, 15),)))
CPU = MetricSpec("Resource", "cpu", average_utilization=50)


def world(tick=15, **changes):
    return Environment(**{"tick_seconds": tick, "service_rate_rps": 1.0, "boot_delay_ticks": 0} | changes)


def demand(rates_rps, tick=15):
    index = pd.date_range("2026-01-05", periods=len(rates_rps), freq=f"{tick}s", tz="UTC")
    return pd.Series(np.asarray(rates_rps, dtype=float) * tick, index=index, name="requests")


def play(rates_rps, policy, tick=15, servers=10, **changes):
    return simulate(demand(rates_rps, tick), policy, world(tick, **changes), initial_servers=servers).ticks


def one_pass(levels_milli, current, behavior=None, state=None, now=0.0, pending=0, high=100):
    """A pass on `len(levels_milli)` settled pods of one core each."""
    pods = [Pod(f"p{k}", container_requests_milli={"c": 1000}) for k in range(len(levels_milli))]
    pods += [Pod(f"b{k}", "Pending", None, None, None, False, {"c": 1000}) for k in range(pending)]
    reading = MetricReading(tuple(PodMetric(f"p{k}", value) for k, value in enumerate(levels_milli)))
    spec = HpaSpec(high, (CPU,), 1, behavior)
    state = HpaState() if state is None else state
    return reconcile(spec, current, current, pods, [reading], state=state, controller=Controller(), now=now)


def test_a_step_up_is_answered_by_the_ratio_of_busy_servers():
    ticks = play([6.3] * 4 + [8.4] * 4, KubernetesHPA(70))
    assert ticks["servers"].tolist() == [10] * 5 + [12] * 3  # 63 % is within a tenth of 70 %, 84 % is not
    assert "cpu resource utilization" in ticks["reason"].iloc[5] and "12 replicas" in ticks["reason"].iloc[5]


def test_a_drop_waits_for_the_stabilisation_window():
    ticks = play([7.0] * 10 + [3.5] * 40, KubernetesHPA(70))
    assert ticks["servers"].iloc[:10].eq(10).all()
    first = int(np.argmax(ticks["servers"].to_numpy() < 10))
    # The last high reading is acted on at tick 10 (150 s); it is older than 300 s first at tick 31.
    assert first == 31 and ticks["servers"].iloc[first] == 5
    assert "scale-down window" in ticks["reason"].iloc[30]


def test_pending_servers_count_as_idle_so_a_long_boot_does_not_run_away():
    ticks = play([10.0] * 30, KubernetesHPA(50), boot_delay_ticks=20)
    assert (ticks["servers"] + ticks["booting"]).max() == 20


def test_behavior_limits_the_pods_of_a_period():
    slow = Behavior(ScalingRules((ScalingPolicy("Pods", 4, 60),)))
    total = play([10.0] * 24, KubernetesHPA(10, slow), servers=10)["servers"].to_numpy()
    assert all(later - earlier <= 4 for earlier, later in itertools.pairwise(total[::4]))
    assert total[-1] >= 26


def test_changes_that_the_environment_refused_do_not_spend_the_rate_limit():
    slow = Behavior(ScalingRules((ScalingPolicy("Pods", 6, 600),)))
    free = play([10.0] * 12, KubernetesHPA(50, slow), servers=10)["servers"]
    stepped = play([10.0] * 12, KubernetesHPA(50, slow), servers=10, max_step_up=2)["servers"]
    assert free.max() == 16 and stepped.max() == 16  # three steps of two, not the first alone


def test_a_coarse_tick_holds_several_passes_and_a_fine_one_waits_for_the_sync():
    rule = Behavior(ScalingRules((ScalingPolicy("Pods", 4, 15),)))
    spec = HpaSpec(100, (MetricSpec("External", "queue", average_value_milli=1000),), 1, rule)
    backlog = play([40.0] * 3, KubernetesHPA(spec=spec), tick=60, servers=2, queue_limit=1e9)
    assert backlog["servers"].tolist() == [2, 18, 34]  # four passes of four pods each minute
    rare = play([40.0] * 12, KubernetesHPA(spec=spec), servers=2, queue_limit=1e9, control_every_ticks=4)
    assert rare["servers"].iloc[::4].tolist() == [2, 18, 34]
    fine = play([9.9] * 12, KubernetesHPA(70), tick=5, servers=10)
    assert set(np.flatnonzero(fine["started"])) <= {3, 6, 9}
    assert set(fine["reason"].iloc[[1, 2, 4, 5]]) == {"between two syncs"}


@pytest.mark.parametrize("lag", [0, 3])
@pytest.mark.parametrize("policy", [KubernetesHPA(70), KedaQueue(ScaledObject(10))], ids=lambda p: p.name)
def test_perturbing_the_future_does_not_change_the_action(policy, lag):
    calm = 5 + 4 * np.sin(np.arange(200) / 20)
    settings_ = {"metric_lag_ticks": lag, "boot_delay_ticks": 2, "min_servers": 0, "queue_limit": 500.0}
    base = play(calm, policy, **settings_)
    for cut in (1, 50, 120):
        shocked = np.r_[calm[:cut], np.random.default_rng(cut).uniform(0, 40, 200 - cut)]
        other = play(shocked, policy, **settings_)
        for column in ("started", "stopped"):
            assert base[column].iloc[: cut + lag + 1].tolist() == other[column].iloc[: cut + lag + 1].tolist()
        assert base["started"].tolist() != other["started"].tolist()


def test_each_metric_type_drives_the_simulator():
    metrics = {
        "ContainerResource": MetricSpec("ContainerResource", "cpu", "server", average_utilization=50),
        "Pods": MetricSpec("Pods", "rps", average_value_milli=500),
        "Object": MetricSpec("Object", "rps", average_value_milli=500),
        "External": MetricSpec("External", "queue", average_value_milli=20_000),
    }
    for kind, metric in metrics.items():
        spec = HpaSpec(50, (metric,))
        ticks = play([9.0] * 20, KubernetesHPA(spec=spec), servers=9, queue_limit=1e6)
        asked = {"ContainerResource": 18, "Pods": 18, "Object": 18, "External": 9}[kind]
        assert ticks["servers"].iloc[-1] == asked, kind


@pytest.mark.parametrize(
    "build",
    [
        lambda: KubernetesHPA(0).prepare(world(), None),
        lambda: KubernetesHPA(behavior=Behavior(), spec=HpaSpec(3)).prepare(world(), None),
        lambda: HpaSpec(2, min_replicas=3),
        lambda: HpaSpec(2, metrics=()),
        lambda: MetricSpec("Pods", average_value_milli=0),
        lambda: ScalingPolicy("Share", 1, 15),
        lambda: ScalingPolicy("Pods", 0, 15),
        lambda: ScalingPolicy("Pods", 1, 1801),
        lambda: ScalingRules(select_policy="Least"),
        lambda: ScalingRules(stabilization_window_seconds=3601),
        lambda: ScalingRules(tolerance=-0.1),
        lambda: scale_limit("sideways", 1, ScalingRules(), (), (), 0.0),
        lambda: ScaledObject(0),
        lambda: ScaledObject(1, polling_interval_seconds=0),
        lambda: ScaledJob(strategy="greedy"),
        lambda: reconcile(HpaSpec(3), 1, 1, [], [], state=HpaState(), controller=Controller(), now=0),
    ],
)
def test_what_makes_no_sense_is_refused(build):
    with pytest.raises(SchemaError):
        build()


# The two edges that the published cases leave open.


@pytest.mark.parametrize(("age", "allowed"), [(59.999, 7), (60.0, 10), (60.001, 10)])
def test_an_event_exactly_as_old_as_the_period_counts_no_more(age, allowed):
    rules = ScalingRules((ScalingPolicy("Pods", 5, 60),), "Max")
    assert scale_limit("up", 5, rules, [ScaleEvent(3, -age)], [], 0.0) == allowed
    behavior = Behavior(rules)
    state = HpaState((Recommendation(5, -1),), (ScaleEvent(3, -age),))
    assert one_pass([1000] * 5, 5, behavior, state).desired_replicas == allowed


@pytest.mark.parametrize(("current", "expected"), [(1, 5), (2, 6), (3, 7), (4, 8), (5, 10), (9, 18)])
def test_default_up_rule_is_the_larger_of_four_pods_and_double(current, expected):
    result = one_pass([20_000] * current, current, Behavior())
    assert result.desired_replicas == expected
    assert result.conditions["ScalingLimited"].reason == "ScaleUpLimit"


def test_default_up_rule_again_after_fifteen_seconds():
    first = one_pass([20_000], 1, Behavior())
    soon = one_pass([20_000] * 5, 5, Behavior(), first.state, now=14.0)
    later = one_pass([20_000] * 5, 5, Behavior(), first.state, now=15.0)
    assert (first.desired_replicas, soon.desired_replicas, later.desired_replicas) == (5, 5, 10)


def test_a_value_target_multiplies_ready_pods_and_not_those_that_boot():
    """A design note feared 6, 65, 1053, 22745 from these ratios; the controller counts the one ready pod."""
    spec = HpaSpec(10**6, (MetricSpec("External", "queue", value_milli=1000),), 1, DOUBLING_FREELY)
    asked, feared, state, n, counted = [], [], HpaState(), 1, 1
    for minute, ratio_milli in enumerate([5900, 10_800, 16_200, 21_600]):
        pods = [Pod("p0")] + [Pod(f"b{k}", "Pending", False) for k in range(n - 1)]
        seen = [MetricReading(values_milli=(ratio_milli,))]
        result = reconcile(spec, n, n, pods, seen, state=state, controller=Controller(), now=60.0 * minute)
        state, n = result.state, result.desired_replicas
        asked.append(n)
        counted = -(-ratio_milli * counted // 1000)
        feared.append(counted)
    assert asked == [6, 11, 17, 22] and feared == [6, 65, 1053, 22_745]


def from_zero(flag, least=0, kind="External", waiting=5000):
    spec = HpaSpec(9, (MetricSpec(kind, "queue", average_value_milli=1000),), least)
    seen = [MetricReading(values_milli=(waiting,))]
    return reconcile(spec, 0, 0, [], seen, state=HpaState((), scaled_to_zero=flag), controller=Controller(), now=0)


@pytest.mark.parametrize(
    ("flag", "least", "kind", "desired"),
    [
        (None, 0, "External", 4),  # releases without the condition: a minimum of 0 is enough
        (None, 2, "External", 0),
        (False, 0, "External", 0),  # someone else scaled it to zero: stay there
        (True, 0, "External", 4),
        (True, 6, "External", 6),  # the minimum was raised since: at least that
    ],
)
def test_from_zero(flag, least, kind, desired):
    result = from_zero(flag, least, kind)
    assert result.desired_replicas == desired
    assert (result.conditions["ScalingActive"].reason == "ScalingDisabled") == (desired == 0)
    assert result.state.scaled_to_zero == (None if flag is None else desired == 0 and flag)


def test_scaling_to_zero_is_remembered():
    spec = HpaSpec(9, (MetricSpec("External", "queue", average_value_milli=1000),), 0)
    state = HpaState((), scaled_to_zero=False)
    empty = [MetricReading(values_milli=(0,))]
    result = reconcile(spec, 3, 3, [Pod("p")], empty, state=state, controller=Controller(), now=0)
    assert result.desired_replicas == 0 and result.state.scaled_to_zero


@pytest.mark.parametrize(("blocks", "desired"), [(True, 4), (False, 2)])
def test_a_failing_metric_blocks_the_way_down_since_release_1_21(blocks, desired):
    spec = HpaSpec(9, (CPU, MetricSpec("External", "queue", value_milli=1)))
    pods = [Pod(f"p{k}", container_requests_milli={"c": 1000}) for k in range(4)]
    readings = [MetricReading(tuple(PodMetric(f"p{k}", 250) for k in range(4))), MetricReading(error="gone")]
    flags = Controller(failed_metric_blocks_scale_down=blocks)
    result = reconcile(spec, 4, 4, pods, readings, state=HpaState(()), controller=flags, now=0)
    assert result.desired_replicas == desired


# Laws of a pass.

PASSES = {
    "levels": st.lists(st.integers(0, 3000), min_size=1, max_size=12),
    "pending": st.integers(0, 4),
    "log": st.lists(st.tuples(st.integers(1, 20), st.integers(0, 600)), max_size=4),
    "behavior": st.sampled_from([None, Behavior(), Behavior(ScalingRules((ScalingPolicy("Pods", 2, 60),)))]),
}


@settings(max_examples=200, deadline=None)
@given(**PASSES)
def test_a_pass_stays_in_its_bounds_and_moves_with_the_load(levels, pending, log, behavior):
    state = HpaState(tuple(Recommendation(n, -age) for n, age in log))
    current = len(levels) + pending
    low = one_pass(levels, current, behavior, state, pending=pending, high=20)
    high = one_pass([2 * level for level in levels], current, behavior, state, pending=pending, high=20)
    assert 1 <= low.desired_replicas <= high.desired_replicas <= 20
    assert low.rescale == (low.desired_replicas != current) and low.reason
    assert low.conditions["AbleToScale"].reason == "SucceededRescale" or not low.rescale


@settings(max_examples=100, deadline=None)
@given(n=st.integers(1, 50), percent=st.integers(45, 55))
def test_within_tolerance_nothing_moves(n, percent):
    assert one_pass([10 * percent] * n, n).desired_replicas == n


# KEDA.


def test_keda_goes_to_zero_after_the_cooldown_only_and_comes_back():
    busy, quiet = [3.0] * 8, [0.0] * 40
    ticks = play(busy + quiet + busy * 10, KedaQueue(ScaledObject(15.0)), servers=3, min_servers=0, queue_limit=1e6)
    total = ticks["servers"].to_numpy()
    zero = int(np.argmax(total == 0))
    # Polls come at odd ticks. That of tick 7 (105 s) sees the last messages; 300 s must be exceeded: tick 29 (435 s).
    assert zero == 29 and "to zero" in ticks["reason"].iloc[zero] and (total[:zero] >= 1).all()
    assert total[47:51].tolist() == [0, 0, 1, 4]  # KEDA wakes it at the next poll; then at most 4 in a pass
    assert total.max() > 3 and total[-1] == 3  # more for the backlog, then what the flow needs


def test_keda_without_zero_keeps_its_minimum():
    ticks = play([0.0] * 60, KedaQueue(ScaledObject(15.0, min_replica_count=2)), servers=1, min_servers=0)
    assert ticks["servers"].iloc[-1] == 2


@settings(max_examples=200, deadline=None)
@given(
    st.sampled_from(["default", "custom", "accurate", "eager"]), st.integers(0, 60), st.integers(0, 30),
    st.integers(0, 30), st.integers(0, 5),
)  # fmt: skip
def test_jobs_started_never_pass_the_maximum_of_strategies_that_promise_it(strategy, queue, running, pending, least):
    job = ScaledJob(20, least, strategy, 1, 0.5)
    started = jobs_to_start(job, queue, running, min(pending, running))
    assert 0 <= started <= max(20, least)
    if strategy in ("accurate", "eager") and running >= least:
        assert started == 0 or started + running - least <= 20


@pytest.mark.parametrize("tick_seconds", [15.0, 60.0, 120.0])
def test_a_fleet_that_shrinks_is_measured_anew_before_it_shrinks_further(tick_seconds):
    world = Environment(tick_seconds=tick_seconds, service_rate_rps=1.0, boot_delay_ticks=0, max_servers=200)
    index = pd.date_range("2026-01-01", periods=40, freq=f"{tick_seconds:g}s", tz="UTC")
    at_once = Behavior(scale_down=ScalingRules(stabilization_window_seconds=0))
    load = pd.Series(35 * world.capacity_per_tick, index=index)
    run = simulate(load, KubernetesHPA(70, at_once), world, initial_servers=100)
    assert run.ticks["servers"].iloc[3:].eq(50).all() and run.ticks["dropped"].sum() == 0


def test_it_does_not_stay_at_zero_where_it_only_began_there():
    world = Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_ticks=1, min_servers=0, max_servers=20)
    index = pd.date_range("2026-01-01", periods=100, freq="60s", tz="UTC")
    run = simulate(pd.Series(np.r_[np.zeros(20), np.full(80, 300.0)], index=index), KubernetesHPA(), world)
    assert run.ticks["servers"].iloc[-1] >= 5


def test_a_queue_scaler_needs_a_queue_to_wake_from_zero_and_buys_nothing_for_a_rounding():
    index = pd.date_range("2026-01-01", periods=40, freq="60s", tz="UTC")
    world = Environment(tick_seconds=60, service_rate_rps=0.07, boot_delay_ticks=0, max_servers=20)
    work = pd.Series(3 * world.capacity_per_tick, index=index)
    assert work.iloc[0] > 12.6
    assert simulate(work, KedaQueue(), world, initial_servers=10).ticks["servers"].iloc[-1] == 3
    with pytest.raises(SchemaError, match="queue_limit"):
        simulate(work, KedaQueue(), replace(world, min_servers=0))
