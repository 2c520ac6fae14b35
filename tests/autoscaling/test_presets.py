"""Presets carry the published constants, and say which numbers are not published."""

import math

import numpy as np
import pandas as pd
import pytest

from support.autoscaling import Static, simulate
from support.autoscaling.presets import PRESETS, preset_environment
from support.errors import SchemaError


def test_dataflow_bills_as_published():
    world = preset_environment("dataflow")
    assert world.price_server_tick_usd == pytest.approx(0.05)
    assert (world.price_start_usd, world.price_stop_usd) == (0.2, 0.2)
    assert world.price_drop_usd / 1e6 == pytest.approx(5e-6)  # a dropped byte
    assert (world.boot_delay_ticks, world.cooldown_ticks, world.tick_seconds) == (3, 5, 60)
    assert world.capacity_per_tick == pytest.approx(1.2) and (world.min_servers, world.max_servers) == (1, 5)
    assert world.queue_limit == 0
    index = pd.date_range("1995-07-01", periods=9 * 1440, freq="60s", tz="UTC")
    fixed = simulate(pd.Series(0.61, index=index), Static(2), world, initial_servers=2)
    assert fixed.cost_usd == pytest.approx(2 * 0.05 * 9 * 1440)  # 1,296 USD, the published 1,404 less its drops


def test_event_queue_and_kubernetes():
    queue = preset_environment("event_queue")
    assert (queue.tick_seconds, queue.min_servers, queue.max_servers) == (120, 1, 100)
    assert queue.capacity_per_tick == pytest.approx(50) and queue.price_server_tick_usd == pytest.approx(1)
    assert queue.price_wait_tick_usd == pytest.approx(0.1) and queue.queue_limit > 501_708
    pods = preset_environment("kubernetes")
    assert pods.tick_seconds == 15 and pods.boot_delay_ticks * 15 == 30 == pods.drain_ticks * 15


@pytest.mark.parametrize("preset", PRESETS.values(), ids=lambda p: p.name)
def test_a_preset_is_whole(preset):
    assert set(preset.chosen) <= set(vars(preset.environment)) and preset.about.strip() and preset.source.strip()
    assert 0.9 < preset.environment.critical_fractile < 1  # a server is worth running, and not at any price
    again = preset_environment(preset.name, max_servers=preset.environment.max_servers + 1)
    assert again.max_servers == preset.environment.max_servers + 1
    demand = pd.Series(
        np.full(30, 2.5 * preset.environment.capacity_per_tick),
        index=pd.date_range("2026-01-01", periods=30, freq=f"{preset.environment.tick_seconds:g}s", tz="UTC"),
    )
    run = simulate(demand, Static(3), preset.environment, initial_servers=3)
    assert run.ticks["dropped"].sum() == 0 and math.isfinite(run.cost_usd)


def test_unknown_names_are_refused():
    with pytest.raises(SchemaError, match=r"no preset 'dataflo'\. There are: dataflow"):
        preset_environment("dataflo")
    with pytest.raises(SchemaError, match="boot_ticks is no field"):
        preset_environment("dataflow", boot_ticks=3)
