"""Exact expected costs of policies against the mean over every path, simulated one by one."""

from dataclasses import dataclass, replace

import numpy as np
import pytest

from support.autoscaling import ForecastMean, Newsvendor, Reactive, Static, simulate
from support.autoscaling.chain_costs import expected_cost
from support.autoscaling.mpc import StochasticMPC
from support.autoscaling.oracle_causal import causal_optimum
from tests.autoscaling.test_oracle_causal import paths_of, random_chain, trace, world_of

HORIZON = 5
POLICIES = [Reactive(0.6), Static(2), Newsvendor(), ForecastMean(0.1), StochasticMPC()]


@dataclass(frozen=True)
class HoldsFirst:
    """The policy, but blind as long as it has seen nothing."""

    policy: object
    name: str = "holds first"

    def prepare(self, environment, forecast):
        return self.policy.prepare(environment, forecast)

    def act(self, state, seen):
        if not len(seen.arrivals):
            return state, seen.active + seen.booting, "blind"
        return self.policy.act(state, seen)


@pytest.mark.parametrize("policy", POLICIES, ids=lambda p: p.name)
@pytest.mark.parametrize(("delay", "cooldown", "lag"), [(0, 1, 0), (1, 0, 1), (2, 1, 0)])
def test_equals_the_mean_over_all_paths(policy, delay, cooldown, lag):
    chain = random_chain(np.random.default_rng(7 * delay + lag), 2)
    world = world_of(
        boot_delay_ticks=delay, cooldown_ticks=cooldown, metric_lag_ticks=lag, max_servers=3, price_stop_usd=0.1
    )
    wide = replace(world, boot_delay_ticks=HORIZON - 1)
    mean = 0.0
    for path, odds in paths_of(chain, 6):
        demand = trace(chain.levels[list(path)])
        run = simulate(demand, HoldsFirst(policy), world, forecast=chain.forecast(demand, wide), initial_servers=1)
        mean += odds * run.cost_usd
    found = expected_cost(policy, chain, world, 6, initial_servers=1, horizon_ticks=HORIZON)
    assert found == pytest.approx(mean, abs=1e-9)
    assert found >= causal_optimum(chain, world, 6, initial_servers=1).cost_usd - 1e-9
