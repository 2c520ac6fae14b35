"""Nets that turn a context into quantiles of many steps at once: an encoder, and a head that is shared by the steps."""

from __future__ import annotations

from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

__all__ = ["LSTM", "BiLSTMAttention", "QuantileHead", "Sizes", "monotone", "patches", "step_features"]

SMOOTH_FRAC = 1 / 48  # of the season, to either side of a seasonal lag: half an hour of a day
STEP_WAVES = (1.0, 2.0, 4.0)  # periods of the horizon that tell a step's place


@dataclass(frozen=True)
class Sizes:
    """Fixed shapes of a net, in steps: context, horizon, season; n_channel, n_stat; levels in (0, 1)."""

    context: int
    horizon: int
    season: int
    n_channel: int
    n_stat: int
    levels: tuple[float, ...]


def patches(past: jax.Array, size: int) -> jax.Array:
    """Context (n, context, n_channel) cut into blocks of `size` steps, (n, n_patch, size * n_channel), oldest cut off.

    Example:
        >>> patches(jnp.arange(5.0).reshape(1, 5, 1), 2).tolist()
        [[[1.0, 2.0], [3.0, 4.0]]]
    """
    n, length, _ = past.shape
    kept = past[:, length % size :] if length >= size else past
    return kept.reshape(n, max(1, length // size), -1)


def monotone(raw: jax.Array, middle: int) -> jax.Array:
    """Never decreasing outputs from any (..., n_level): the one at `middle`, and steps of softplus to either side.

    Example:
        >>> bool((jnp.diff(monotone(jnp.array([3.0, 0.0, -9.0]), 1)) >= 0).all())
        True
    """
    gaps = jax.nn.softplus(raw)
    above = jnp.cumsum(gaps[..., middle + 1 :], axis=-1)
    below = jnp.flip(jnp.cumsum(jnp.flip(gaps[..., :middle], -1), axis=-1), -1)
    centre = raw[..., middle : middle + 1]
    return jnp.concatenate([centre - below, centre, centre + above], axis=-1)


def step_features(past: jax.Array, steps: jax.Array, sizes: Sizes, lags: bool = True) -> jax.Array:
    """What is known about each step ahead, (n, n_step, n_feature): its place, and the target at its phase before.

    past: (n, context, n_channel). steps: (n_step,), 0 for the first. The newest values of the same phase come as they
    are and as means over half an hour to either side (of a season of a day), for as many seasons as the context holds.
    lags: False leaves them out.
    """
    target = past[..., 0]
    place = (steps + 1) / sizes.horizon
    waves = [f(jnp.pi * place * k) for k in STEP_WAVES for f in (jnp.sin, jnp.cos)]
    about = jnp.stack([place, jnp.log1p(steps) / np.log1p(sizes.horizon), *waves], axis=-1)
    parts = [jnp.broadcast_to(about, (len(past), *about.shape))]
    radius = max(1, round(sizes.season * SMOOTH_FRAC))
    near = jnp.arange(-radius, radius + 1)
    for lag in range(1, 1 + _n_lag(sizes, lags)):
        at = sizes.context + steps % sizes.season - lag * sizes.season
        around = target[:, jnp.clip(at[:, None] + near, 0, sizes.context - 1)]
        parts.append(jnp.stack([target[:, at], around.mean(-1)], axis=-1))
    return jnp.concatenate(parts, axis=-1)


class QuantileHead(nnx.Module):
    """Quantiles (n, n_step, n_level) from a summary (n, d) and features of each step (n, n_step, n_feature).

    heads: last steps of the nearer horizons, such as (6, 12, 24); each has an output layer of its own, and so has what
    lies beyond them. The layers below are shared.
    """

    def __init__(
        self, n_summary: int, n_feature: int, width: int, sizes: Sizes, *, heads: tuple[int, ...] = (),
        dropout: float = 0.0, dtype: jnp.dtype = jnp.float32, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        n_level = len(sizes.levels)
        self.middle = int(np.argmin(np.abs(np.array(sizes.levels) - 0.5)))
        self.edges = tuple(h for h in heads if h < sizes.horizon)
        self.summary = nnx.Linear(n_summary, width, dtype=dtype, rngs=rngs)
        self.feature = nnx.Linear(n_feature, width, use_bias=False, dtype=dtype, rngs=rngs)
        self.hidden = nnx.Linear(width, width, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        n_head = len(self.edges) + 1
        start = np.full((n_head, n_level), np.log(np.expm1(0.2)))
        start[:, self.middle] = 0.0
        self.kernel = nnx.Param(
            nnx.initializers.lecun_normal()(rngs.params(), (n_head, width, n_level), jnp.float32) * 0.3
        )
        self.bias = nnx.Param(jnp.asarray(start, jnp.float32))

    def __call__(self, summary: jax.Array, features: jax.Array, steps: jax.Array, key: jax.Array | None) -> jax.Array:
        """`key` of the dropout; None in use."""
        x = nnx.gelu(self.summary(summary)[:, None] + self.feature(features))
        x = self.dropout(x, deterministic=key is None, rngs=key)
        x = x + nnx.gelu(self.hidden(x))
        which = jnp.searchsorted(jnp.asarray(self.edges, jnp.int32), steps, side="right") if self.edges else steps * 0
        raw = jnp.einsum("nsd,sdl->nsl", x.astype(jnp.float32), self.kernel[...][which]) + self.bias[...][which]
        return monotone(raw, self.middle)


def n_step_feature(sizes: Sizes, lags: bool = True) -> int:
    """Columns of `step_features`."""
    return 2 + 2 * len(STEP_WAVES) + 2 * _n_lag(sizes, lags)


def _n_lag(sizes: Sizes, lags: bool) -> int:
    return sizes.context // sizes.season if lags else 0


class LSTM(nnx.Module):
    """Layers of long short-term memory over patches of the context. Source: Hochreiter and Schmidhuber (1997)."""

    def __init__(
        self, sizes: Sizes, *, width: int, n_layer: int, patch: int, dropout: float,
        heads: tuple[int, ...] = (), dtype: jnp.dtype = jnp.float32, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        self.sizes, self.patch, self.width = sizes, min(patch, sizes.context), width
        inputs = [self.patch * sizes.n_channel] + [width] * (n_layer - 1)
        self.layers = nnx.List(
            [nnx.RNN(nnx.OptimizedLSTMCell(n, width, dtype=dtype, rngs=rngs), rngs=False) for n in inputs]
        )
        self.dropout = nnx.Dropout(dropout)
        self.head = QuantileHead(
            width + sizes.n_stat, n_step_feature(sizes), width, sizes, heads=heads, dropout=dropout, dtype=dtype,
            rngs=rngs,
        )  # fmt: skip

    def __call__(self, past: jax.Array, stats: jax.Array, steps: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """Quantiles (n, n_step, n_level) on the asinh scale; shapes as in `Scaled`, steps (n_step,) from 0."""
        x = patches(past, self.patch)
        for layer in self.layers:
            x = run_rnn(layer, x, self.width)
        keys = (None, None) if key is None else jax.random.split(key)
        state = self.dropout(x[:, -1], deterministic=key is None, rngs=keys[0])
        return self.head(jnp.concatenate([state, stats], -1), step_features(past, steps, self.sizes), steps, keys[1])


def run_rnn(layer: nnx.RNN, x: jax.Array, width: int, reverse: bool = False) -> jax.Array:
    """Outputs (n, n_patch, width) of a layer that starts from zeros."""
    zeros = jnp.zeros((len(x), width), x.dtype)
    return layer(x, initial_carry=(zeros, zeros), reverse=reverse, keep_order=True)


class BiLSTMAttention(nnx.Module):
    """Two LSTMs, one in each direction, and multi-head attention of the newest state over all of their states.

    attention: False gives what the attention finds zeros, to show what it is worth.
    Sources: Schuster and Paliwal (1997); Vaswani et al. (2017).
    """

    def __init__(
        self, sizes: Sizes, *, width: int, n_head: int, patch: int, dropout: float,
        heads: tuple[int, ...] = (), attention: bool = True, dtype: jnp.dtype = jnp.float32, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        self.sizes, self.patch, self.width = sizes, min(patch, sizes.context), width // 2
        cell = lambda: nnx.OptimizedLSTMCell(  # noqa: E731
            self.patch * sizes.n_channel, width // 2, dtype=dtype, rngs=rngs
        )
        self.attends = attention
        self.forward, self.backward = nnx.RNN(cell(), rngs=False), nnx.RNN(cell(), rngs=False)
        self.attention = nnx.MultiHeadAttention(n_head, width, decode=False, dtype=dtype, rngs=rngs)
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        self.dropout = nnx.Dropout(dropout)
        self.head = QuantileHead(
            2 * width + sizes.n_stat, n_step_feature(sizes), width, sizes, heads=heads, dropout=dropout, dtype=dtype,
            rngs=rngs,
        )  # fmt: skip

    def __call__(self, past: jax.Array, stats: jax.Array, steps: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """As `LSTM`."""
        x = patches(past, self.patch)
        x = self.norm(
            jnp.concatenate(
                [run_rnn(self.forward, x, self.width), run_rnn(self.backward, x, self.width, reverse=True)], -1
            )
        )
        newest = x[:, -1:]
        found = self.attention(newest, x, x) if self.attends else jnp.zeros_like(newest)
        keys = (None, None) if key is None else jax.random.split(key)
        state = jnp.concatenate([newest, found], -1)[:, 0]
        state = self.dropout(state, deterministic=key is None, rngs=keys[0])
        return self.head(jnp.concatenate([state, stats], -1), step_features(past, steps, self.sizes), steps, keys[1])
