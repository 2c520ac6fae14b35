"""Prioritised replay: what surprised the agent is shown to it more often, and counts less each time."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from support.errors import SchemaError

__all__ = ["Replay", "Transitions", "add", "empty_replay", "reprioritise", "sample"]

BLOCK = 64  # entries whose priorities are summed first, so that a draw searches two short lists instead of a long one
LEAST_ERROR = 1e-3  # added to each error, so that nothing is forgotten


class Transitions(NamedTuple):
    """seen (n, n_feature); of each action that was open: reward (n, n_action), then (n, n_action, n_feature), the view after."""

    seen: Any
    reward: Any
    then: Any


class Replay(NamedTuple):
    """A ring of transitions. priority (n,): not normalised, 0 where nothing is stored yet; cursor: next to overwrite."""

    held: Transitions
    priority: Any
    cursor: Any
    highest: Any


def empty_replay(capacity: int, n_feature: int, n_action: int) -> Replay:
    """A ring for `capacity` transitions, a multiple of 64. Raises SchemaError for another capacity.

    Example:
        >>> float(empty_replay(128, 3, 2).priority.sum())
        0.0
    """
    if capacity < BLOCK or capacity % BLOCK:
        raise SchemaError(f"replay: a capacity of {capacity}, it must be a multiple of {BLOCK}.")
    shapes = (n_feature,), (n_action,), (n_action, n_feature)
    held = Transitions(*(jnp.zeros((capacity, *shape), jnp.float32) for shape in shapes))
    return Replay(held, jnp.zeros(capacity, jnp.float32), jnp.int32(0), jnp.float32(1.0))


def add(replay: Replay, new: Transitions) -> Replay:
    """Store transitions (n,) with the highest priority seen so far; the capacity must be a multiple of n."""
    n = len(new.seen)

    def put(ring: Any, rows: Any) -> Any:
        return jax.lax.dynamic_update_slice_in_dim(ring, rows.astype(ring.dtype), replay.cursor, axis=0)

    held = Transitions(*(put(ring, rows) for ring, rows in zip(replay.held, new, strict=True)))
    priority = put(replay.priority, jnp.full(n, replay.highest))
    return Replay(held, priority, (replay.cursor + n) % len(replay.priority), replay.highest)


def sample(replay: Replay, n: int, importance: Any, key: jax.Array) -> tuple[Transitions, Any, Any]:
    """(transitions, their positions, their weights) of `n` draws with probability priority / sum, one in each n-th of it.

    Weights are (N P(i))^-importance over their largest: they undo the bias of drawing unevenly. They are 0 for what is
    drawn from a ring that holds nothing.
    Source: Schaul et al. (2016), equations 1 and 2 and section 3.3.
    """
    blocks = replay.priority.reshape(-1, BLOCK)
    above = jnp.cumsum(blocks.sum(axis=1))
    # uniform float32 draws are multiples of 2^-23, so the last strip may touch its end: stay below the sum
    strip = (jnp.arange(n, dtype=jnp.float32) + jax.random.uniform(key, (n,), jnp.float32)) / n
    point = jnp.minimum(strip, 1 - 1e-6) * above[-1]
    block = jnp.minimum(jnp.searchsorted(above, point, side="right"), len(above) - 1)
    inside = jnp.cumsum(blocks[block], axis=1)
    left = point - jnp.where(block > 0, above[block - 1], 0.0)
    entry = jnp.minimum((inside <= left[:, None]).sum(axis=1), BLOCK - 1)
    # rounding must not lead to an empty place: take the last filled one of the block instead
    filled = jnp.where(blocks[block] > 0, jnp.arange(BLOCK), 0).max(axis=1)
    index = block * BLOCK + jnp.minimum(entry, filled)
    drawn = replay.priority[index]
    share = drawn / jnp.maximum(above[-1], 1e-30)
    weight = jnp.where(drawn > 0, (jnp.maximum(share, 1e-30) * (replay.priority > 0).sum()) ** -importance, 0.0)
    held = Transitions(*(ring[index] for ring in replay.held))
    return held, index, (weight / jnp.maximum(weight.max(), 1e-30)).astype(jnp.float32)


def reprioritise(replay: Replay, index: Any, error: Any, exponent: Any) -> Replay:
    """The drawn transitions get priority (|error| + 0.001)^exponent; those with priority 0 keep it."""
    fresh = jnp.where(replay.priority[index] > 0, (jnp.abs(error) + LEAST_ERROR) ** exponent, 0.0).astype(jnp.float32)
    return replay._replace(
        priority=replay.priority.at[index].set(fresh), highest=jnp.maximum(replay.highest, fresh.max())
    )
