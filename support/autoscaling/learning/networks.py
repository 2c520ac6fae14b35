"""The net that values actions: dueling heads, whose weights carry factorised noise that explores."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

__all__ = ["NoisyLinear", "QNetwork", "squashed_noise"]

NOISE = 0.5  # standard deviation of the noise at the start, over sqrt(inputs); Fortunato et al. (2018)


def squashed_noise(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """sgn(e) sqrt|e| of standard normal e, float32: mean 0, variance sqrt(2 / pi). Source: Fortunato et al. (2018)."""
    drawn = jax.random.normal(key, shape, jnp.float32)
    return jnp.sign(drawn) * jnp.sqrt(jnp.abs(drawn))


class NoisyLinear(nnx.Module):
    """x W + b where each weight has a mean and a spread that are both learned, and the noise is a product of two vectors.

    Source: Fortunato et al. (2018), equations 9 to 11.
    """

    def __init__(self, n_in: int, n_out: int, *, rngs: nnx.Rngs) -> None:
        bound = 1 / np.sqrt(n_in)
        draw = lambda *shape: jax.random.uniform(rngs.params(), shape, jnp.float32, -bound, bound)  # noqa: E731
        self.weight, self.bias = nnx.Param(draw(n_in, n_out)), nnx.Param(draw(n_out))
        self.weight_spread = nnx.Param(jnp.full((n_in, n_out), NOISE * bound, jnp.float32))
        self.bias_spread = nnx.Param(jnp.full(n_out, NOISE * bound, jnp.float32))

    def __call__(self, x: jax.Array, key: jax.Array | None = None, *, own_noise: bool = False) -> jax.Array:
        """(n, n_out) of x (n, n_in). key: None for the means; own_noise: each row draws for itself, else all share."""
        mean = x @ self.weight[...] + self.bias[...]
        if key is None:
            return mean
        rows = (len(x),) if own_noise else ()
        key_in, key_out = jax.random.split(key)
        left = squashed_noise(key_in, (*rows, self.weight.shape[0]))
        right = squashed_noise(key_out, (*rows, self.weight.shape[1]))
        return mean + ((x * left) @ self.weight_spread[...] + self.bias_spread[...]) * right


class QNetwork(nnx.Module):
    """Values of all actions (n, n_action) from views (n, n_feature): Q = V + A - mean A, both heads noisy.

    Sources: Wang et al. (2016) for the two heads; Fortunato et al. (2018) for the noise.
    """

    def __init__(self, n_feature: int, n_action: int, width: int, *, rngs: nnx.Rngs) -> None:
        self.first = nnx.Linear(n_feature, width, rngs=rngs)
        self.second = nnx.Linear(width, width, rngs=rngs)
        self.value = NoisyLinear(width, 1, rngs=rngs)
        self.advantage = NoisyLinear(width, n_action, rngs=rngs)

    def __call__(self, x: jax.Array, key: jax.Array | None = None, *, own_noise: bool = False) -> jax.Array:
        """Values (n, n_action); noise as in `NoisyLinear`."""
        keys: Any = (None, None) if key is None else jax.random.split(key)
        hidden = nnx.relu(self.second(nnx.relu(self.first(x))))
        advantage = self.advantage(hidden, keys[1], own_noise=own_noise)
        return self.value(hidden, keys[0], own_noise=own_noise) + advantage - advantage.mean(axis=-1, keepdims=True)
