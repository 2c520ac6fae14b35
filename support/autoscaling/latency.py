"""Waiting times: Erlang-C while the servers keep up, fluid while work queues, and the fleet that keeps a promise."""

from __future__ import annotations

import numpy as np
from scipy.special import gammaln, pdtr, xlogy

from support.autoscaling.environment import Environment

__all__ = ["erlang_c_wait", "prompt_loads", "waits_seconds"]

BISECTIONS = 80  # halvings that bring an interval of float64 down to two neighbours


def erlang_c_wait(arrivals_rps: np.ndarray, service_rate_rps: float, servers: np.ndarray) -> np.ndarray:
    """Mean wait in seconds in an M/M/n queue, shape as the inputs; infinite at or above full load.

    Erlang B is the Poisson ratio B = pmf(n; a) / cdf(n; a), C = B / (1 - rho (1 - B)); wait = C / (n mu - lambda).
    Source: Erlang (1917).

    Example:
        >>> erlang_c_wait(np.array([0.5]), 1.0, np.array([1])).round(12).tolist()  # M/M/1: rho / (mu - lambda)
        [1.0]
    """
    arrivals, n = np.broadcast_arrays(np.asarray(arrivals_rps, dtype=float), np.asarray(servers, dtype=float))
    load = arrivals / service_rate_rps
    wait = np.where(load > 0, np.inf, 0.0)
    stable = (load > 0) & (load < n)
    a, n = load[stable], n[stable]
    blocking = np.exp(xlogy(n, a) - a - gammaln(n + 1)) / pdtr(n, a)
    rho = a / n
    wait[stable] = blocking / (1 - rho * (1 - blocking)) / (service_rate_rps * (n - a))
    return wait


def waits_seconds(
    arrivals: np.ndarray, queue: np.ndarray, lost: np.ndarray, servers: np.ndarray, environment: Environment
) -> np.ndarray:
    """Wait in seconds of the work of each tick, (n_time,): queue / (n mu) while work waits, Erlang-C otherwise.

    arrivals, queue, lost (dropped or given up): requests per tick. Where work was lost and none waits, the wait is 0:
    what was lost counts as lost, not as late.
    """
    rate = environment.service_rate_rps
    with np.errstate(divide="ignore", invalid="ignore"):
        fluid = np.where(queue > 0, queue / (servers * rate), 0.0)
    return np.where((queue > 0) | (lost > 0), fluid, erlang_c_wait(arrivals / environment.tick_seconds, rate, servers))


def prompt_loads(environment: Environment) -> np.ndarray:
    """Largest arrival rate (requests/s) that n = 0..max_servers servers meet within the SLO's wait, (max_servers + 1,).

    The inverse of `erlang_c_wait` by bisection, to the last float; it increases with n.

    Example:
        >>> world = Environment(tick_seconds=60, service_rate_rps=1.0, slo_wait_seconds=1.0, max_servers=1)
        >>> prompt_loads(world).round(9).tolist()
        [0.0, 0.5]
    """
    servers = np.arange(environment.max_servers + 1)
    low, high = np.zeros(len(servers)), servers * environment.service_rate_rps
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        kept = erlang_c_wait(middle, environment.service_rate_rps, servers) <= environment.slo_wait_seconds
        low, high = np.where(kept, middle, low), np.where(kept, high, middle)
    return low
