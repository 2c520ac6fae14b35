"""Environment and Decision: what they refuse, the fractile, the sizes for a demand, and JSON there and back."""

import json
import math

import numpy as np
import pandas as pd
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from support.autoscaling import Decision, Environment
from support.errors import SchemaError

AT = pd.Timestamp("2026-01-01", tz="UTC")
MONEY = st.floats(-1e6, 1e6)
SHARE = st.floats(0, 1)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("tick_seconds", 0), ("tick_seconds", -1), ("service_rate_rps", 0.0), ("service_rate_rps", math.nan), ("tick_seconds", math.inf),
        ("price_drop_usd", -1e-9), ("price_server_hour_usd", "0.12"), ("boot_delay_ticks", 1.5), ("boot_delay_ticks", -1),
        ("cooldown_ticks", True), ("min_servers", 0.5), ("max_servers", None), ("max_step_up", 0), ("max_step_down", 1.5),
        ("queue_limit", -1), ("slo_target_frac", 0.0), ("slo_target_frac", 1.1), ("metric_lag_ticks", 0.1),
        ("boot_failure_prob", 1.0), ("boot_failure_prob", -0.1), ("boot_timeout_ticks", 0), ("queue_patience_ticks", -1),
        ("queue_patience_ticks", 0.5), ("drain_ticks", -1), ("quota_servers", 0), ("quota_servers", 2.5),
        ("control_every_ticks", 0), ("billing_block_ticks", 0), ("billing_block_ticks", None),
    ],
)  # fmt: skip
def test_refusals_name_the_field(field, value):
    with pytest.raises(SchemaError, match=field):
        Environment(**{"tick_seconds": 60, "service_rate_rps": 1.0} | {field: value})


def test_bounds_in_the_wrong_order():
    with pytest.raises(SchemaError, match="min_servers 5 is above max_servers 4"):
        Environment(tick_seconds=60, service_rate_rps=1.0, min_servers=5, max_servers=4)


@settings(deadline=None, max_examples=50)
@given(st.floats(1, 3600), st.floats(0.01, 1e4), st.floats(0, 10), st.floats(0, 1))
@example(2.0, 0.5, 0.0, 5e-324)  # the smallest number there is: halved first, it is nothing
def test_fractile(tick, rate, hourly, drop):
    world = Environment(tick_seconds=tick, service_rate_rps=rate, price_server_hour_usd=hourly, price_drop_usd=drop)
    worth, price = drop * (rate * tick), hourly * tick / 3600
    wanted = 0.0 if worth <= price else 1 - price / worth
    assert world.critical_fractile == pytest.approx(wanted, abs=1e-12) and 0 <= world.critical_fractile <= 1
    assert world.capacity_per_tick == rate * tick and world.price_server_tick_usd == pytest.approx(price)


@settings(deadline=None, max_examples=40)
@given(
    st.sampled_from([10, 60, 300, 3600]),
    st.floats(1, 100),
    st.floats(1.5, 200),
    st.integers(0, 900),
    st.integers(0, 900),
    st.floats(0, 60),
)
def test_for_demand(tick, at_peak, ratio, boot, cooldown, queue):
    index = pd.date_range(AT, periods=2000, freq=f"{tick}s")
    train = pd.Series(np.random.default_rng(1).gamma(4, 100, 2000), index=index)
    world = Environment.for_demand(
        train,
        servers_at_peak=at_peak,
        drop_cost_ratio=ratio,
        boot_delay_seconds=boot,
        cooldown_seconds=cooldown,
        queue_seconds=queue,
    )
    assert world.tick_seconds == tick
    assert at_peak * world.capacity_per_tick == pytest.approx(np.quantile(train, 0.999))
    assert world.price_drop_usd * world.capacity_per_tick == pytest.approx(ratio * world.price_server_tick_usd)
    assert world.critical_fractile == pytest.approx(1 - 1 / ratio)
    for ticks, seconds in (
        (world.boot_delay_ticks, boot),
        (world.cooldown_ticks, cooldown),
    ):  # the fewest ticks that suffice
        assert (ticks - 1) * tick < seconds <= ticks * tick
    assert world.queue_limit == pytest.approx(queue * at_peak * world.service_rate_rps)
    assert world.price_start_usd == pytest.approx(0.12 / 60)


def test_for_demand_of_zeros():
    with pytest.raises(SchemaError, match="zero throughout"):
        Environment.for_demand(pd.Series(0.0, index=pd.date_range(AT, periods=100, freq="60s")))


@settings(deadline=None, max_examples=60)
@given(
    st.integers(0, 10**6), st.integers(0, 10**6), st.datetimes(pd.Timestamp("1990-01-01").to_pydatetime(), pd.Timestamp("2100-01-01").to_pydatetime()),
    st.integers(0, 10**6), st.text(min_size=1).filter(str.strip), MONEY, MONEY, SHARE, SHARE, st.floats(1, 1e6),
)  # fmt: skip
def test_decision_json_round_trip(now, then, at, wait, reason, cost, nothing, risk, risk_nothing, horizon):
    at = pd.Timestamp(at, tz="UTC")
    decision = Decision(
        now, then, at, at + pd.Timedelta(seconds=wait), reason, cost, nothing, risk, risk_nothing, horizon
    )
    text = decision.to_json()
    assert Decision.from_json(text) == decision
    said = json.loads(text)
    assert said["action"] == decision.action == ("hold" if then == now else "scale up" if then > now else "scale down")
    assert said["expected_cost_usd"] == cost and pd.Timestamp(said["decided_at"]) == at


GOOD = {
    "servers_now": 2, "servers": 3, "decided_at": AT, "effective_by": AT, "reason": "more demand", "expected_cost_usd": 1.0,
    "expected_cost_of_nothing_usd": 2.0, "risk_frac": 0.1, "risk_of_nothing_frac": 0.9, "horizon_seconds": 600.0,
}  # fmt: skip


@pytest.mark.parametrize(
    "changed",
    [
        {"servers": -1}, {"servers": 2.5}, {"servers_now": -1}, {"decided_at": pd.Timestamp("2026-01-01")},
        {"effective_by": AT - pd.Timedelta("1s")}, {"risk_frac": 1.1}, {"risk_of_nothing_frac": -0.1}, {"risk_frac": math.nan},
        {"expected_cost_usd": math.inf}, {"expected_cost_of_nothing_usd": math.nan}, {"horizon_seconds": 0.0}, {"reason": " "},
    ],
)  # fmt: skip
def test_decision_refusals(changed):
    Decision(**GOOD)
    with pytest.raises(SchemaError, match="^decision: "):
        Decision(**GOOD | changed)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "3", '{"action": "hold"}', '{"action": "hold", "servers": 3}', "{", '"text"', "null"]
)
def test_what_is_no_decision(text):
    with pytest.raises(SchemaError, match="no decision"):
        Decision.from_json(text)


def test_whole_numbers_of_any_kind_count_and_a_quota_of_none_is_none():
    world = Environment(
        tick_seconds=60.0, service_rate_rps=np.float64(1.0), boot_delay_ticks=np.int64(5), max_servers=7.0
    )
    assert (type(world.boot_delay_ticks), world.max_servers) == (int, 7)
    with pytest.raises(SchemaError, match="quota_servers is 0, it must be positive"):
        Environment(tick_seconds=60.0, service_rate_rps=1.0, min_servers=0, quota_servers=0)


def test_a_decision_whose_action_and_numbers_disagree_is_refused():
    at = pd.Timestamp("2026-01-01", tz="UTC")
    text = Decision(2, 3, at, at, "because", 1.0, 2.0, 0.1, 0.2, 60.0).to_json()
    assert Decision.from_json(text).action == "scale up"
    with pytest.raises(SchemaError, match="scale down"):
        Decision.from_json(text.replace("scale up", "scale down"))
