"""The wait of a tick by hand, and the loads a promise allows against the formula they invert."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.autoscaling import Environment, erlang_c_wait
from support.autoscaling.latency import prompt_loads, waits_seconds

WORLD = Environment(tick_seconds=60, service_rate_rps=2.0)


def test_fluid_while_work_queues_and_erlang_otherwise():
    arrivals, queue = np.array([120.0, 300.0, 300.0, 0.0, 60.0]), np.array([0.0, 90.0, 0.0, 0.0, 5.0])
    lost, servers = np.array([0.0, 0.0, 60.0, 0.0, 0.0]), np.array([2, 3, 2, 0, 0])
    waits = waits_seconds(arrivals, queue, lost, servers, WORLD)
    # M/M/2 at 2 requests/s and rho = 1/2: C = 1/3, wait = C / (4 - 2)
    np.testing.assert_allclose(waits, [1 / 6, 90 / 6, 0.0, 0.0, math.inf], rtol=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.floats(0.05, 50), st.floats(1e-3, 20), st.integers(0, 40))
def test_prompt_loads_invert_erlang_c(rate, slo, most):
    world = Environment(tick_seconds=60, service_rate_rps=rate, slo_wait_seconds=slo, max_servers=most, min_servers=0)
    loads, servers = prompt_loads(world), np.arange(most + 1)
    assert loads[0] == 0 and (np.diff(loads) > 0).all() and (loads <= servers * rate).all()
    assert (erlang_c_wait(loads, rate, servers) <= slo).all()
    assert (erlang_c_wait(loads[1:] * (1 + 1e-9), rate, servers[1:]) > slo * (1 - 1e-6)).all()


def test_a_single_server_in_closed_form():
    world = Environment(tick_seconds=60, service_rate_rps=3.0, slo_wait_seconds=0.5, max_servers=1)
    assert prompt_loads(world)[1] == pytest.approx(0.5 * 9 / (1 + 0.5 * 3))  # wait = rho / (mu - lambda)
