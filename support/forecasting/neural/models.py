"""The nets as global models: `fit_...(train, ...)` trains one net for all series, `.predict(contexts)` gives quantiles."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from support.errors import SchemaError
from support.forecasting.neural.attention import MultiScaleTransformer
from support.forecasting.neural.inputs import Scaled, as_channels, examples, long_run, newest, scaled_contexts
from support.forecasting.neural.networks import LSTM, BiLSTMAttention, Sizes, step_features
from support.forecasting.neural.training import Curve, Progress, TrainingPlan, train_net

__all__ = [
    "NETS",
    "NeuralForecast",
    "build_net",
    "fit_bilstm_attention",
    "fit_lstm",
    "fit_net",
    "fit_transformer",
    "seasonal_weights",
]

HEADS = (6, 12, 24)  # steps: 12, 24 and 48 minutes of 2-minute steps, half an hour to two hours of 5-minute ones
PREDICTED_AT_ONCE = 64  # series, to bound memory
PRECISIONS = {"float32": jnp.float32, "bfloat16": jnp.bfloat16}
NETS: dict[str, Callable[..., Any]] = {
    "lstm": LSTM,
    "bilstm_attention": BiLSTMAttention,
    "transformer": MultiScaleTransformer,
}


@dataclass(frozen=True)
class NeuralForecast:
    """A fitted net, or several that differ by seed. `predict` turns contexts into quantiles.

    kind: of `NETS`. options: of the net, with its precision and scaler. weights: of each member. history: long-run quantiles of
    each series of the training panel. curves: of the training of each member.
    """

    kind: str
    sizes: Sizes
    options: Mapping[str, Any]
    weights: tuple[nnx.State, ...]
    history: Mapping[str, np.ndarray]
    curves: tuple[Curve, ...] = field(default=())

    def predict(self, contexts: Mapping[str, np.ndarray], *, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Quantiles (horizon, n_level) by series, in its unit: the mean over the members.

        contexts: newest values (n_time,) or (n_time, n_channel), at least as many as the net was fitted on. `rng` is
        not used. Raises TooShortError, SchemaError.
        """
        return dict(zip(contexts, np.mean(self.by_member(contexts), axis=0), strict=True))

    def inputs(self, contexts: Mapping[str, np.ndarray]) -> Scaled:
        """What the net sees of the newest values of each series."""
        rows = newest(contexts, self.sizes.context, self.sizes.n_channel)
        history = np.stack([
            self.history.get(name, long_run(row[:, 0])) for name, row in zip(contexts, rows, strict=True)
        ])  # fmt: skip
        return scaled_contexts(rows, history, self.options.get("scaler", "robust"))

    @cached_property
    def _graph(self) -> Any:
        return nnx.split(nnx.eval_shape(partial(build_net, self.kind, self.sizes, self.options, 0)), nnx.Param)[0]

    def by_member(self, contexts: Mapping[str, np.ndarray]) -> np.ndarray:
        """Quantiles (n_member, n_series, horizon, n_level) of each member alone: their spread is the noise of the seed."""
        inputs = self.inputs(contexts)
        blocks = [slice(k, k + PREDICTED_AT_ONCE) for k in range(0, len(inputs.past), PREDICTED_AT_ONCE)]
        found = [
            np.concatenate(
                [_forward(self._graph, self.sizes.horizon, w, inputs.past[b], inputs.stats[b]) for b in blocks]
            )
            for w in self.weights
        ]
        centre, scale = (x[:, None, None] for x in (inputs.centre, inputs.scale))
        return np.sinh(np.stack(found).astype(float)) * scale + centre


@partial(jax.jit, static_argnums=(0, 1))
def _forward(graph: Any, horizon: int, weights: nnx.State, past: jax.Array, stats: jax.Array) -> jax.Array:
    return nnx.merge(graph, weights)(past, stats, jnp.arange(horizon))


def build_net(kind: str, sizes: Sizes, options: Mapping[str, Any], seed: int) -> nnx.Module:
    """A net with its first weights. Raises SchemaError for a kind or precision that is not known."""
    options = {name: value for name, value in options.items() if name != "scaler"}  # which is of the inputs
    precision = options.pop("precision", "float32")
    if kind not in NETS or precision not in PRECISIONS:
        raise SchemaError(
            f"net: {kind} in {precision} is not known; kinds {list(NETS)}, precisions {list(PRECISIONS)}."
        )
    return NETS[kind](sizes, dtype=PRECISIONS[precision], rngs=nnx.Rngs(seed), **options)


def fit_net(
    train: Mapping[str, np.ndarray], kind: str, options: Mapping[str, Any], plan: TrainingPlan, *, context: int,
    horizon: int, season: int, levels: np.ndarray, rng: np.random.Generator, n_members: int = 1,
    progress: Progress | None = None, devices: list[jax.Device] | None = None,
) -> NeuralForecast:  # fmt: skip
    """Train `n_members` nets that differ by seed.

    options: of the net; scaler: of each context, "robust" (median and mean absolute deviation), "standard" (mean and
    standard deviation) or "minmax" (to between -1 and 1). Raises TooShortError if no series has a context and two
    horizons, SchemaError.
    """
    levels = np.asarray(levels, dtype=float)
    if not np.isclose(levels, 0.5).any():
        raise SchemaError(f"net: levels {levels.tolist()} lack 0.5, the point forecast.")
    data = examples(train, context, horizon, options.get("scaler", "robust"))
    past, stats = data.inputs.past, data.inputs.stats
    sizes = Sizes(context, horizon, season, past.shape[2], stats.shape[1], tuple(levels.tolist()))
    weights, curves = [], []
    for own in rng.spawn(n_members):
        model = build_net(kind, sizes, options, int(own.integers(2**31)))
        best, curve = train_net(model, data, levels, plan, rng=own, progress=progress, devices=devices)
        weights.append(best)
        curves.append(curve)
    history = {name: long_run(as_channels(name, values)[:, 0]) for name, values in train.items() if len(values)}
    return NeuralForecast(kind, sizes, dict(options), tuple(weights), history, tuple(curves))


def fit_lstm(
    train: Mapping[str, np.ndarray], *, context: int, horizon: int, season: int, levels: np.ndarray,
    rng: np.random.Generator, width: int = 64, n_layer: int = 1, patch: int = 12, dropout: float = 0.3,
    precision: str = "float32", scaler: str = "robust", n_members: int = 1, plan: TrainingPlan | None = None,
    progress: Progress | None = None,
) -> NeuralForecast:  # fmt: skip
    """LSTM with `n_layer` layers of `width` cells over patches of `patch` steps. scaler: as `fit_net`."""
    options = {
        "width": width, "n_layer": n_layer, "patch": patch, "dropout": dropout, "precision": precision,
        "scaler": scaler,
    }  # fmt: skip
    return fit_net(
        train, "lstm", options, plan or TrainingPlan(), context=context, horizon=horizon, season=season, levels=levels,
        rng=rng, n_members=n_members, progress=progress,
    )  # fmt: skip


def fit_bilstm_attention(
    train: Mapping[str, np.ndarray], *, context: int, horizon: int, season: int, levels: np.ndarray,
    rng: np.random.Generator, width: int = 64, n_head: int = 4, patch: int = 12, dropout: float = 0.3,
    attention: bool = True, precision: str = "float32", scaler: str = "robust", n_members: int = 1,
    plan: TrainingPlan | None = None, progress: Progress | None = None,
) -> NeuralForecast:  # fmt: skip
    """Bi-LSTM of `width` cells, half of them in each direction, with `n_head` heads of attention over its states.

    attention: False leaves it out. scaler: as `fit_net`.
    """
    options = {
        "width": width, "n_head": n_head, "patch": patch, "dropout": dropout, "attention": attention,
        "precision": precision, "scaler": scaler,
    }  # fmt: skip
    return fit_net(
        train, "bilstm_attention", options, plan or TrainingPlan(), context=context, horizon=horizon, season=season,
        levels=levels, rng=rng, n_members=n_members, progress=progress,
    )  # fmt: skip


def fit_transformer(
    train: Mapping[str, np.ndarray], *, context: int, horizon: int, season: int, levels: np.ndarray,
    rng: np.random.Generator, width: int = 48, n_head: int = 4, n_layer: int = 2, patch: int = 12, n_wave: int = 8,
    dropout: float = 0.3, heads: tuple[int, ...] = HEADS, seasonal: bool = True, periods: tuple[int, ...] = (),
    lags: bool = True, precision: str = "float32", scaler: str = "robust", n_members: int = 1,
    plan: TrainingPlan | None = None, progress: Progress | None = None,
) -> NeuralForecast:  # fmt: skip
    """Multi-scale transformer: convolutions of 3, 5 and 7 steps, `n_layer` encoder layers, seasonal attention.

    heads: last steps of the nearer horizons, which have output layers of their own. n_wave: harmonics of the season that
    the attention tells phases by. seasonal: False leaves that attention out. periods: seasons that it looks back by, in
    steps; none for the season and, if the context holds one, the week. lags: False keeps the values of earlier seasons
    from the head, so that only the net can find them. scaler: as `fit_net`. Raises SchemaError for a period below 2 steps.
    """
    options = {
        "width": width, "n_head": n_head, "n_layer": n_layer, "patch": patch, "n_wave": n_wave, "dropout": dropout,
        "heads": tuple(heads), "seasonal": seasonal, "periods": tuple(periods), "lags": lags, "precision": precision,
        "scaler": scaler,
    }  # fmt: skip
    return fit_net(
        train, "transformer", options, plan or TrainingPlan(), context=context, horizon=horizon, season=season,
        levels=levels, rng=rng, n_members=n_members, progress=progress,
    )  # fmt: skip


def seasonal_weights(model: NeuralForecast, contexts: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Where the first member of a transformer looks: weights (n_series, n_head, horizon, n_patch) and lags, in steps.

    lags: (horizon, n_patch), from each step ahead back to the middle of each patch. Raises SchemaError for other nets.
    """
    if NETS[model.kind] is not MultiScaleTransformer:
        raise SchemaError(f"net: a {model.kind} has no seasonal attention. Give one that fit_transformer fitted.")
    weights, centres = _attend(model._graph, model.sizes, model.weights[0], model.inputs(contexts).past)
    lags = model.sizes.context + np.arange(model.sizes.horizon)[:, None] - np.asarray(centres)
    return np.asarray(weights), lags


@partial(jax.jit, static_argnums=(0, 1))
def _attend(graph: Any, sizes: Sizes, weights: nnx.State, past: jax.Array) -> tuple[jax.Array, jax.Array]:
    net, steps = nnx.merge(graph, weights), jnp.arange(sizes.horizon)
    features = step_features(past, steps, sizes, net.lags)
    return net.attention.weights(net.tokens(past), features, steps), jnp.array(net.attention.centres)
