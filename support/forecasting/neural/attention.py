"""The multi-scale transformer: parallel convolutions, patches, an encoder, and attention to the same phase of earlier days."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from support.errors import SchemaError
from support.forecasting.neural.networks import QuantileHead, Sizes, n_step_feature, patches, step_features

__all__ = ["MultiScaleTransformer", "SeasonalAttention", "phase_waves"]

KERNELS = (3, 5, 7)  # steps
WEEK_DAYS = 7  # seasons of a second, longer cycle, where the context holds that many


def phase_waves(positions: np.ndarray, season: int, n_wave: int) -> np.ndarray:
    """Cosines and sines of the first `n_wave` harmonics of a season, (n_position, 2 * n_wave), for positions in steps.

    The inner product of two rows depends on the difference of the positions modulo the season alone and is largest
    where that is 0: one, two or seven days apart look the same.

    Example:
        >>> rows = phase_waves(np.array([3, 27, 15]), 24, 2)
        >>> np.round(rows @ rows[0], 6).tolist()
        [2.0, 2.0, 0.0]
    """
    angle = 2 * np.pi * np.outer(positions, np.arange(1, n_wave + 1)) / season
    return np.concatenate([np.cos(angle), np.sin(angle)], axis=1)


class SeasonalAttention(nnx.Module):
    """Each step ahead attends to the patches of the context, by their phase of day (and week) and by their content.

    The logit of step s and patch p in head a is q_s . k_p / sqrt(d) + sum_j g_aj cos(2 pi j (s - p) / season): the second
    part, with weights g that are learned, prefers patches a whole number of seasons back. If the context holds a week of
    seasons, half of the waves have the week as their period. periods: in steps, others than these two; a period has no
    more harmonics than its steps can tell apart. Raises SchemaError for a period of less than 2 steps.
    """

    def __init__(
        self, sizes: Sizes, patch: int, width: int, n_query: int, *, n_head: int, n_wave: int,
        periods: tuple[int, ...] = (), dtype: jnp.dtype = jnp.float32, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        self.n_head, self.width, self.patch, self.sizes = n_head, width, patch, sizes
        n_patch = max(1, sizes.context // patch)
        self.centres = tuple((sizes.context - patch * (n_patch - np.arange(n_patch)) + (patch - 1) / 2).tolist())
        weekly = sizes.context >= WEEK_DAYS * sizes.season
        if any(period < 2 for period in periods):
            raise SchemaError(f"attention: periods {list(periods)}; a period has at least 2 steps.")
        self.periods = periods or ((sizes.season, sizes.season * WEEK_DAYS) if weekly else (sizes.season,))
        self.n_wave = max(1, min(n_wave, min(self.periods) // 2))
        linear = lambda n: nnx.Linear(n, width, dtype=dtype, rngs=rngs)  # noqa: E731
        # zeros, so that weights are even before training, in content as in phase
        self.query = nnx.Linear(n_query, width, dtype=dtype, kernel_init=nnx.initializers.zeros_init(), rngs=rngs)
        self.key, self.value, self.out = linear(width), linear(width), linear(width)
        self.sharpness = nnx.Param(
            jnp.full((n_head, len(self.periods), self.n_wave), 0.0, jnp.float32)
        )  # even at first

    def weights(self, tokens: jax.Array, queries: jax.Array, steps: jax.Array) -> jax.Array:
        """Attention (n, n_head, n_step, n_patch), sums to 1 over the patches."""
        q, k = self._split(self.query(queries)), self._split(self.key(tokens))
        logits = jnp.einsum("nshd,nphd->nhsp", q, k).astype(jnp.float32) / np.sqrt(self.width / self.n_head)
        ahead = np.arange(self.sizes.horizon) + self.sizes.context
        for place, period in enumerate(self.periods):
            here = jnp.asarray(phase_waves(ahead, period, self.n_wave), jnp.float32)[steps]
            there = jnp.asarray(phase_waves(np.array(self.centres), period, self.n_wave), jnp.float32)
            sharp = jnp.tile(self.sharpness[...][:, place], (1, 2))
            logits += jnp.einsum("sw,pw,hw->hsp", here, there, sharp)
        return jax.nn.softmax(logits, axis=-1)

    def __call__(self, tokens: jax.Array, queries: jax.Array, steps: jax.Array) -> jax.Array:
        """What each step finds, (n, n_step, width): tokens (n, n_patch, width), queries (n, n_step, n_query)."""
        found = jnp.einsum(
            "nhsp,nphd->nshd",
            self.weights(tokens, queries, steps).astype(tokens.dtype),
            self._split(self.value(tokens)),
        )
        return self.out(found.reshape(*found.shape[:2], self.width))

    def _split(self, x: jax.Array) -> jax.Array:
        return x.reshape(*x.shape[:2], self.n_head, -1)


class _Encoder(nnx.Module):
    """One layer of a transformer's encoder, norms first. Source: Vaswani et al. (2017)."""

    def __init__(self, width: int, n_head: int, dropout: float, dtype: jnp.dtype, rngs: nnx.Rngs) -> None:
        self.norms = nnx.List([nnx.LayerNorm(width, dtype=dtype, rngs=rngs) for _ in range(2)])
        self.attention = nnx.MultiHeadAttention(n_head, width, decode=False, dtype=dtype, rngs=rngs)
        self.up, self.down = (nnx.Linear(*n, dtype=dtype, rngs=rngs) for n in ((width, 2 * width), (2 * width, width)))
        self.dropout = nnx.Dropout(dropout)

    def __call__(self, x: jax.Array, key: jax.Array | None) -> jax.Array:
        y = self.norms[0](x)
        x = x + self.attention(y, y, y)
        y = self.down(nnx.gelu(self.up(self.norms[1](x))))
        return x + self.dropout(y, deterministic=key is None, rngs=key)


class MultiScaleTransformer(nnx.Module):
    """Convolutions of 3, 5 and 7 steps side by side, patches, encoder layers, seasonal attention, multi-horizon heads.

    seasonal: False leaves the attention out and gives its place zeros, to show what it is worth. periods: of that
    attention, in steps; none for the season and, if the context holds one, the week. lags: False keeps the values at the
    phase of each step in earlier seasons from the head; then only the attention can bring them.
    """

    def __init__(
        self, sizes: Sizes, *, width: int, n_head: int, n_layer: int, patch: int, n_wave: int, dropout: float,
        heads: tuple[int, ...], seasonal: bool = True, periods: tuple[int, ...] = (), lags: bool = True,
        dtype: jnp.dtype = jnp.float32, rngs: nnx.Rngs,
    ) -> None:  # fmt: skip
        self.sizes, self.patch, self.seasonal, self.lags = sizes, min(patch, sizes.context), seasonal, lags
        channels = width // (2 * len(KERNELS))
        self.convolutions = nnx.List(
            [nnx.Conv(sizes.n_channel, channels, (k,), dtype=dtype, rngs=rngs) for k in KERNELS]
        )
        self.embed = nnx.Linear(self.patch * (channels * len(KERNELS) + sizes.n_channel), width, dtype=dtype, rngs=rngs)
        n_patch = max(1, sizes.context // self.patch)
        self.position = nnx.Param(0.02 * jax.random.normal(rngs.params(), (n_patch, width), jnp.float32))
        self.layers = nnx.List([_Encoder(width, n_head, dropout, dtype, rngs) for _ in range(n_layer)])
        self.norm = nnx.LayerNorm(width, dtype=dtype, rngs=rngs)
        n_query = n_step_feature(sizes, lags)
        self.attention = SeasonalAttention(
            sizes, self.patch, width, n_query, n_head=n_head, n_wave=n_wave, periods=tuple(periods), dtype=dtype,
            rngs=rngs,
        )  # fmt: skip
        self.dropout = nnx.Dropout(dropout)
        self.head = QuantileHead(
            2 * width + sizes.n_stat, n_query + width, width, sizes, heads=heads, dropout=dropout, dtype=dtype,
            rngs=rngs,
        )  # fmt: skip

    def tokens(self, past: jax.Array, keys: jax.Array | None = None) -> jax.Array:
        """Encoded patches (n, n_patch, width) of contexts (n, context, n_channel)."""
        wide = jnp.concatenate([past, *(nnx.gelu(conv(past)) for conv in self.convolutions)], axis=-1)
        x = self.embed(patches(wide, self.patch)) + self.position[...]
        for place, layer in enumerate(self.layers):
            x = layer(x, None if keys is None else keys[place])
        return self.norm(x)

    def __call__(self, past: jax.Array, stats: jax.Array, steps: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """As `LSTM`."""
        keys = None if key is None else jax.random.split(key, len(self.layers) + 2)
        x = self.tokens(past, keys)
        features = step_features(past, steps, self.sizes, self.lags)
        if self.seasonal:
            found = self.attention(x, features, steps)
        else:
            found = jnp.zeros((len(past), len(steps), x.shape[-1]), x.dtype)
        state = jnp.concatenate([x[:, -1], x.mean(axis=1), stats], -1)
        state = self.dropout(state, deterministic=key is None, rngs=None if keys is None else keys[-1])
        joined = jnp.concatenate([features, found], -1)
        return self.head(state, joined, steps, None if keys is None else keys[-2])
