"""One step of Q-learning: the Double DQN target, the loss that may be Huber's, a clipped gradient, a slow target net."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import nnx

from support.autoscaling.learning.replay import Transitions

__all__ = ["NO_LIMIT", "Knobs", "Learner", "double_targets", "huber", "learn", "start_learner"]

NO_LIMIT = 1e9  # Huber threshold and reward bound that are never reached
WARM_UP = 200  # updates until the learning rate is at its height
LEAST_SHARE = 0.02  # of an action in the loss, before the shares are scaled to sum to 1


class Knobs(NamedTuple):
    """Numbers of the method, traced: changing one compiles nothing. See `LearningPlan` for their meaning."""

    updates: Any
    learning_rate: Any
    last_learning_rate: Any
    discount: Any
    discount_after: Any
    polyak: Any
    clip_norm: Any
    huber: Any
    reward_bound: Any
    priority_exponent: Any
    importance: Any
    temperature: Any
    cost_weight: Any
    sla_weight: Any


class Learner(NamedTuple):
    """Online weights, the slow target weights, the optimiser's state, updates done."""

    params: Any
    target: Any
    moments: Any
    step: Any


def start_learner(params: Any) -> Learner:
    """A learner whose target equals its weights."""
    return Learner(params, jax.tree.map(jnp.copy, params), optax.scale_by_adam().init(params), jnp.int32(0))


def double_targets(reward: Any, online_then: Any, target_then: Any, discount: Any) -> Any:
    """r + discount Q_target(s', argmax_a Q_online(s', a)), (n,): one net chooses, the other values.

    Source: van Hasselt, Guez and Silver (2016). No tick is the last one: a day ends, the service does not.

    Example:
        >>> target = double_targets(jnp.array([-1.0]), jnp.array([[2.0, 3.0]]), jnp.array([[9.0, 4.0]]), 0.5)
        >>> target.tolist()  # the online net chooses the second action, the target net says it is worth 4
        [1.0]
    """
    chosen = jnp.take_along_axis(target_then, online_then.argmax(axis=-1)[:, None], axis=-1)[:, 0]
    return reward + discount * chosen


def huber(error: Any, threshold: Any) -> Any:
    """Half the square up to the threshold, linear beyond. Source: Huber (1964).

    Example:
        >>> huber(jnp.array([0.5, 3.0]), 1.0).tolist()
        [0.125, 2.5]
    """
    size = jnp.abs(error)
    inside = jnp.minimum(size, threshold)
    return inside * (size - 0.5 * inside)


def learn(
    graph: Any, knobs: Knobs, learner: Learner, batch: Transitions, weight: Any, key: jax.Array | None
) -> tuple[Learner, Any]:
    """One update on a batch with weights (n,), for all actions: (learner, errors (n,)). key: None for no noise.

    An action's share of the loss is that of a softmax of the present values, so that the disasters nobody would choose
    do not use up the net; within a state the share is the same whatever came, so the means stay what they are. errors:
    root of the mean square over actions with these shares.
    """
    keys: Any = (None, None, None) if key is None else jax.random.split(key, 3)
    then = batch.then.reshape(-1, batch.then.shape[-1])
    online_then = nnx.merge(graph, learner.params)(then, keys[1])
    target_then = nnx.merge(graph, learner.target)(then, keys[2])
    targets = double_targets(batch.reward.reshape(-1), online_then, target_then, knobs.discount_after)
    wanted = jax.lax.stop_gradient(targets.reshape(batch.reward.shape))

    def loss_of(params: Any) -> tuple[Any, Any]:
        values = nnx.merge(graph, params)(batch.seen, keys[0])
        error = values - wanted
        share = jax.lax.stop_gradient(jax.nn.softmax(values / knobs.temperature) + LEAST_SHARE)
        share = share / share.sum(axis=-1, keepdims=True)
        loss = (weight * (share * huber(error, knobs.huber)).sum(axis=-1)).mean()
        return loss, jnp.sqrt((share * error**2).sum(axis=-1))

    gradient, error = jax.grad(loss_of, has_aux=True)(learner.params)
    size = optax.global_norm(gradient)
    gradient = jax.tree.map(lambda g: g * jnp.minimum(1.0, knobs.clip_norm / (size + 1e-9)), gradient)
    change, moments = optax.scale_by_adam().update(gradient, learner.moments)
    done = learner.step / knobs.updates
    rate = knobs.learning_rate * (knobs.last_learning_rate / knobs.learning_rate) ** jnp.minimum(done, 1.0)
    rate = rate * jnp.minimum(1.0, (learner.step + 1) / WARM_UP)
    params = jax.tree.map(lambda p, c: (p - rate * c).astype(p.dtype), learner.params, change)
    target = jax.tree.map(lambda old, new: (old + knobs.polyak * (new - old)).astype(old.dtype), learner.target, params)
    return Learner(params, target, moments, learner.step + 1), error
