"""Training: AdamW, a cosine schedule, clipped gradients, an average of the weights, and the best of them by a past slice.

One jitted scan runs the steps between two looks at the slice. With several devices the batch is split over them and the
weights are kept on each; the result is the same to rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.experimental.compilation_cache import compilation_cache
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from support.errors import SchemaError
from support.forecasting.neural.inputs import Examples
from support.forecasting.neural.losses import LOSSES

__all__ = ["Curve", "TrainingPlan", "compiled_anew", "train_net"]

LAST_RATE_FRAC = 0.01  # of the learning rate, at the end of the cosine
JUDGED_WINDOWS = 96  # of the slice, at most: neighbours tell the same
Net = Callable[..., jax.Array]


@dataclass(frozen=True)
class TrainingPlan:
    """How a net is trained. steps: of the optimiser, at most. judge_every: steps between two looks at the slice.

    patience: looks without a better one, then it stops. batch: windows; steps_ahead: of the horizon, drawn for each batch.
    learning_rate: at the start of the cosine; weight_decay: of AdamW. clip: norm of the gradient. average: decay of the
    moving average of the weights, which is what is judged and kept. loss: pinball or combined.
    """

    steps: int = 400
    judge_every: int = 50
    patience: int = 5
    batch: int = 64
    steps_ahead: int = 48
    learning_rate: float = 3e-3
    weight_decay: float = 1e-3
    clip: float = 1.0
    average: float = 0.98
    loss: str = "pinball"

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise SchemaError(f"training: loss {self.loss!r} is none of {', '.join(LOSSES)}.")
        for name in ("steps", "judge_every", "patience", "batch", "steps_ahead"):
            if getattr(self, name) < 1:
                raise SchemaError(f"training: {name} is {getattr(self, name)}, it must be at least 1.")


@dataclass(frozen=True)
class Curve:
    """How a training went, one entry a look at the slice: step, training (mean loss since the last look), validation."""

    step: np.ndarray
    training: np.ndarray
    validation: np.ndarray


Progress = Callable[[int, float, float], None]


def train_net(
    model: nnx.Module, data: Examples, levels: np.ndarray, plan: TrainingPlan, *, rng: np.random.Generator,
    progress: Progress | None = None, devices: list[jax.Device] | None = None,
) -> tuple[nnx.State, Curve]:  # fmt: skip
    """The best averaged weights by the validation slice, and the curve. `model` gives shape and first weights.

    The slice is the last horizon of each series: windows that reach into it are judged on what lies inside and are not
    trained on. progress: called with step, training loss and validation loss. devices: all that there are if None; the
    batch must divide among them.
    """
    horizon = data.targets.shape[1]
    early = np.flatnonzero(data.left >= horizon)
    late = np.flatnonzero(data.left < horizon)
    late = late[:: max(1, -(-len(late) // JUDGED_WINDOWS))]
    mesh = Mesh(np.array(devices or jax.devices()), ("data",))
    if plan.batch % mesh.size:
        raise SchemaError(f"training: a batch of {plan.batch} does not divide among {mesh.size} devices.")
    everywhere, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(None, "data"))
    graph, params = nnx.split(model, nnx.Param)
    place = partial(jax.device_put, device=everywhere)
    held = place({"past": data.inputs.past, "stats": data.inputs.stats, "target": data.targets})
    carry = place((params, params, _optimiser(plan).init(params)))
    known = place(np.asarray(levels, np.float32))
    inside = data.left[late, None] < np.arange(1, horizon + 1)
    best, kept, since, curve = np.inf, params, 0, []
    ahead = min(plan.steps_ahead, horizon)
    for done in range(0, plan.steps, plan.judge_every):
        n = min(plan.judge_every, plan.steps - done)
        rows = jax.device_put(rng.choice(early, (n, plan.batch)).astype(np.int32), split)
        steps = np.stack([rng.choice(horizon, ahead, replace=False) for _ in range(n)]).astype(np.int32)
        keys = jax.random.split(jax.random.key(int(rng.integers(2**31))), n)
        carry, losses = _block(graph, plan, known, held, carry, rows, place(steps), place(keys))
        judged = float(_judge(graph, plan.loss, known, held, carry[1], place(late.astype(np.int32)), place(inside)))
        curve.append((done + n, float(losses.mean()), judged))
        if progress:
            progress(*curve[-1])
        since += 1
        if judged < best:
            best, kept, since = judged, carry[1], 0
        if since >= plan.patience:
            break
    if not np.isfinite(best):
        raise FloatingPointError("training: the loss is not finite. Lower the learning rate.")
    return jax.device_get(kept), Curve(*(np.array(column) for column in zip(*curve, strict=True)))


def _optimiser(plan: TrainingPlan) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(plan.learning_rate, plan.steps, LAST_RATE_FRAC)
    return optax.chain(optax.clip_by_global_norm(plan.clip), optax.adamw(rate, weight_decay=plan.weight_decay))


@partial(jax.jit, static_argnums=(0, 1))  # compiled once for all members and series of one shape
def _block(
    graph: Any, plan: TrainingPlan, levels: jax.Array,
    held: dict[str, jax.Array], carry: tuple, rows: jax.Array, steps: jax.Array, keys: jax.Array,
) -> tuple[tuple, jax.Array]:  # fmt: skip
    """Some steps of the optimiser: rows (n, batch) of the data, steps (n, n_ahead) of the horizon."""

    def loss_of(params: nnx.State, row: jax.Array, ahead: jax.Array, key: jax.Array) -> jax.Array:
        net = nnx.merge(graph, params)
        quantiles = net(held["past"][row], held["stats"][row], ahead, key)
        return LOSSES[plan.loss](quantiles, held["target"][row][:, ahead], levels).mean()

    optimiser = _optimiser(plan)

    def one(carry: tuple, drawn: tuple) -> tuple[tuple, jax.Array]:
        params, averaged, state = carry
        loss, gradient = jax.value_and_grad(loss_of)(params, *drawn)
        change, state = optimiser.update(gradient, state, params)
        params = optax.apply_updates(params, change)
        averaged = optax.incremental_update(params, averaged, 1 - plan.average)
        return (params, averaged, state), loss

    return jax.lax.scan(one, carry, (rows, steps, keys))


@partial(jax.jit, static_argnums=(0, 1))
def _judge(
    graph: Any, loss: str, levels: jax.Array, held: dict[str, jax.Array], params: nnx.State, rows: jax.Array,
    inside: jax.Array,
) -> jax.Array:  # fmt: skip
    """Mean loss of windows `rows` (n,) over the steps that are `inside` the slice (n, horizon)."""
    net = nnx.merge(graph, params)
    quantiles = net(held["past"][rows], held["stats"][rows], jnp.arange(inside.shape[1]), None)
    return (LOSSES[loss](quantiles, held["target"][rows], levels) * inside).sum() / inside.sum()


@contextmanager
def compiled_anew() -> Iterator[None]:
    """Within the block every program is compiled once, whatever is stored of earlier runs: for costs that include it."""
    before = jax.config.values["jax_enable_compilation_cache"]
    jax.clear_caches()
    jax.config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # JAX looks at the setting once
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()
