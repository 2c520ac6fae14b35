"""What every action would have brought: demand does not depend on the fleet, so the simulator can try them all."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from support.autoscaling.engine import State
from support.autoscaling.engine_arrays import Shape
from support.autoscaling.learning.learner import Knobs
from support.autoscaling.learning.replay import Transitions
from support.autoscaling.learning.world import Scene, advance, bill, look, total_of

__all__ = ["outcomes"]


def outcomes(
    graph: Any, shape: Shape, ahead: int, scene: Scene, knobs: Knobs, scale: Any, yardstick: Any, params: Any,
    state: State, seen: Any, starts: Any, t: Any,
) -> tuple[Transitions, State, Any]:  # fmt: skip
    """All actions of all fleets at tick t, each followed for `ahead` ticks under the demand that came.

    After the action the net `params` decides, without noise. The transitions hold the discounted sum of the rewards of
    these ticks and the view after them. Also returned, for each fleet and action (n_env * n_action,): the state and the
    view one tick later. Sources: Sinclair et al. (2023) for learning from exogenous traces in hindsight; n-step
    returns as in Hessel et al. (2018).
    """
    n_action = scene.next_totals.shape[1]
    rows = jnp.repeat(starts, n_action)

    def one(state: State, k: Any, wanted: Any) -> tuple[State, Any, Any]:
        state, kept = advance(shape, scene, state, rows, t + k, wanted)
        cost = bill(scene.prices, kept, knobs.cost_weight, knobs.sla_weight)
        reward = jnp.clip((yardstick[rows + t + k] - cost) / scale, -knobs.reward_bound, knobs.reward_bound)
        return state, look(shape, scene, state, rows, t + k + 1), reward

    def follow(carry: Any, k: Any) -> Any:
        state, view, total = carry
        action = nnx.merge(graph, params)(view).argmax(axis=-1)
        state, view, reward = one(state, k, scene.next_totals[total_of(state), action])
        return (state, view, total + knobs.discount**k * reward), None

    wanted = scene.next_totals[total_of(state)].reshape(-1)
    after, then, reward = one(jax.tree.map(lambda x: jnp.repeat(x, n_action, axis=0), state), jnp.int32(0), wanted)
    (_, last, total), _ = jax.lax.scan(follow, (after, then, reward), jnp.arange(1, ahead, dtype=jnp.int32))
    shaped = len(starts), n_action
    return Transitions(seen, total.reshape(shaped), last.reshape(*shaped, -1)), after, then
