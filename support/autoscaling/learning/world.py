"""The world as the learner sees it: many fleets at once, stepped by the compiled engine itself, with a view and a bill."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from support.autoscaling.batch import prepare_batch
from support.autoscaling.engine import State
from support.autoscaling.engine import step as tick_step
from support.autoscaling.engine_arrays import Rules, Shape, Totals, World
from support.autoscaling.learning.course import Course
from support.autoscaling.learning.view import N_LOADS, features, next_totals, outlook
from support.autoscaling.rules import Plan
from support.autoscaling.simulate import first_servers
from support.errors import SchemaError

__all__ = ["Prices", "Scene", "act_out", "advance", "bill", "look", "make_scene", "open_scene", "play"]

TICK_COLUMNS = (
    "servers", "booting", "draining", "started", "stopped", "failed", "billed", "served", "dropped", "abandoned",
    "queue", "late",
)  # fmt: skip


class Prices(NamedTuple):
    """USD per server-tick, start, stop, lost request and request waiting a tick."""

    server: Any
    start: Any
    stop: Any
    drop: Any
    wait: Any


class Scene(NamedTuple):
    """Demand (n_time,), forecasts and clock of a course, its world as numbers, and what each action asks for."""

    demand: Any
    need: Any
    clock: Any
    world: World
    rules: Rules
    prices: Prices
    next_totals: Any


def make_scene(course: Course) -> tuple[Shape, Scene]:
    """Shape (static) and arrays of the engine for a course. Raises SchemaError if boots are random or billed in blocks."""
    environment = course.environment
    if environment.boots_at_random:
        raise SchemaError("learning: the boots of this environment are random; learn in one with fixed boot delays.")
    batch = prepare_batch(np.ones(2), [Plan(np.ones(2, dtype=int))], [environment])  # refuses billing in blocks
    seen = outlook(course.rolling, environment)
    prices = Prices(
        environment.price_server_tick_usd, environment.price_start_usd, environment.price_stop_usd,
        environment.price_drop_usd, environment.price_wait_tick_usd,
    )  # fmt: skip
    scene = Scene(
        course.demand.to_numpy(float), seen.need, seen.clock, batch.world, batch.rules, prices,
        next_totals(environment.max_servers),
    )  # fmt: skip
    return replace(batch.shape, keep=True), scene


def open_scene(shape: Shape, fleets: Any) -> State:
    """Fleets (n_env,) of active servers at tick 0, nothing booting, nothing queued."""
    whole = fleets.astype(jnp.int32) * 0
    real = whole * 0.0
    memory = shape.lag + 1
    return State(
        fleets.astype(jnp.int32), (whole,) * shape.boot, (), (), (whole,) * shape.drain, whole, real,
        (real,) * (shape.patience or 0), (real,) * memory, (real,) * memory, (whole,) * memory, whole, whole,
        Totals(*(real for _ in Totals._fields)),
    )  # fmt: skip


def look(shape: Shape, scene: Scene, state: State, starts: Any, t: Any) -> Any:
    """Each fleet's view (n_env, n_feature) before tick t of its episode, which began at row `starts` (n_env,)."""
    row, back = starts + t, shape.lag + 1 + jnp.arange(N_LOADS)
    need = scene.need[row]
    past = scene.demand[row[:, None] - back] / scene.world.capacity
    loads = jnp.where(t >= back, past, need[:, 0, :1])  # before the episode nothing is known: the forecast stands in
    waiting = state.load[shape.lag] / scene.world.capacity - past[:, 0]
    queue = jnp.where(t >= back[0], jnp.maximum(waiting, 0.0), 0.0)
    orders = jnp.stack(state.good, axis=-1) if shape.boot else jnp.zeros((len(row), 0), jnp.int32)
    cooldown = state.cooldown / jnp.maximum(scene.world.cooldown, 1)
    return features(need, scene.clock[row], loads, state.active, orders, cooldown, queue, jnp)


def advance(shape: Shape, scene: Scene, state: State, starts: Any, t: Any, wanted: Any) -> tuple[State, Any]:
    """One tick of all fleets that ask for `wanted` (n_env,) servers: the engine's own step."""
    step = jax.vmap(partial(tick_step, shape), in_axes=(None, None, 0, None, [0, None, 0, None, None]))
    return step(scene.world, scene.rules, state, t, [scene.demand[starts + t], jnp.int32(0), wanted, None, None])


def bill(prices: Prices, kept: Any, cost_weight: Any = 1.0, sla_weight: Any = 1.0) -> Any:
    """USD of a tick (n_env,): the fleet's cost and the users' loss (drops, waiting), each with its weight."""
    tick = dict(zip(TICK_COLUMNS, kept, strict=True))
    fleet = prices.server * tick["billed"] + prices.start * tick["started"] + prices.stop * tick["stopped"]
    users = prices.drop * (tick["dropped"] + tick["abandoned"]) + prices.wait * tick["queue"]
    return cost_weight * fleet + sla_weight * users


def total_of(state: State) -> Any:
    """Servers, active and booting, (n_env,)."""
    return sum(state.good, state.active)


@partial(jax.jit, static_argnums=(0, 1, 2))
def play(graph: Any, shape: Shape, n_time: int, scene: Scene, params: Any, starts: Any, fleets: Any) -> Any:
    """The greedy agent without noise: (asked (n_time, n_env), columns as in `Run.ticks` by name, USD (n_env,))."""

    def choose(state: State, t: Any) -> Any:
        values = nnx.merge(graph, params)(look(shape, scene, state, starts, t))
        return scene.next_totals[total_of(state), values.argmax(axis=-1)]

    return _run(shape, n_time, scene, starts, fleets, lambda state, t: (choose(state, t), ()))[:3]


@partial(jax.jit, static_argnums=(0,))
def act_out(shape: Shape, scene: Scene, asked: Any, starts: Any, fleets: Any) -> Any:
    """Follow a schedule (n_time, n_env): (views (n_time, n_env, n_feature), totals before each decision (n_time, n_env))."""

    def follow(state: State, t: Any) -> Any:
        return asked[t].astype(jnp.int32), (look(shape, scene, state, starts, t), total_of(state))

    return _run(shape, len(asked), scene, starts, fleets, follow)[3]


def _run(shape: Shape, n_time: int, scene: Scene, starts: Any, fleets: Any, choose: Any) -> Any:
    def one(carry: Any, t: Any) -> Any:
        state, cost = carry
        wanted, extra = choose(state, t)
        state, kept = advance(shape, scene, state, starts, t, wanted)
        return (state, cost + bill(scene.prices, kept)), (wanted, kept, extra)

    opened = open_scene(shape, fleets)
    (_, cost), (asked, kept, extra) = jax.lax.scan(one, (opened, opened.queue), jnp.arange(n_time, dtype=jnp.int32))
    columns = dict(zip(TICK_COLUMNS, kept, strict=True))
    del columns["late"]  # it needs a table of waits that the bill does without
    return asked, columns, cost, extra


def day_fleets(course: Course, part: str) -> np.ndarray:
    """Servers at the start of each day of a part, as `simulate` chooses them."""
    return np.array([first_servers(row[0], None, course.environment) for row in course.rows(part)])
