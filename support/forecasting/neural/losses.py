"""The two losses of the chapter on the same outputs: pinball, and the mix of MSE, MAE and Huber."""

from __future__ import annotations

import jax
import jax.numpy as jnp

__all__ = ["LOSSES", "combined_loss", "pinball_loss"]

MSE_SHARE, MAE_SHARE, HUBER_SHARE = 0.5, 0.3, 0.2  # as one of the earlier systems had them
HUBER_EDGE = 1.0  # on the asinh scale: errors beyond count linearly


def pinball_loss(quantiles: jax.Array, seen: jax.Array, levels: jax.Array) -> jax.Array:
    """Mean over the levels of the quantile loss, (...,): quantiles (..., n_level), seen (...,). Source: Gneiting (2011).

    Example:
        >>> float(pinball_loss(jnp.array([1.0]), jnp.array(2.0), jnp.array([0.75])))
        0.75
    """
    error = seen[..., None] - quantiles
    return jnp.maximum(levels * error, (levels - 1) * error).mean(axis=-1)


def combined_loss(quantiles: jax.Array, seen: jax.Array, levels: jax.Array) -> jax.Array:
    """0.5 MSE + 0.3 MAE + 0.2 Huber of the median, (...,). It says nothing about the other levels.

    The levels must hold 0.5. Source of the Huber loss: Huber (1964).

    Example:
        >>> round(float(combined_loss(jnp.array([0.0]), jnp.array(2.0), jnp.array([0.5]))), 6)
        2.9
    """
    error = seen - jnp.take(quantiles, jnp.argmin(jnp.abs(levels - 0.5)), axis=-1)
    size = jnp.abs(error)
    huber = jnp.where(size <= HUBER_EDGE, 0.5 * error**2, HUBER_EDGE * (size - 0.5 * HUBER_EDGE))
    return MSE_SHARE * error**2 + MAE_SHARE * size + HUBER_SHARE * huber


LOSSES = {"pinball": pinball_loss, "combined": combined_loss}
