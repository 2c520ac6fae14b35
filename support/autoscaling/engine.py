"""The simulator in JAX: many environments and policies at once, equal to `simulate` to the integer and the cent."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from support.autoscaling.engine_arrays import KINDS, Given, Rules, Shape, Totals, World
from support.autoscaling.policies import HAIR

__all__ = ["State", "run_scan", "step"]


class State(NamedTuple):
    """One environment between two ticks. good, bad, delays: orders by age, the youngest first; leaving, waiting too."""

    active: Any
    good: tuple[Any, ...]
    bad: tuple[Any, ...]
    delays: tuple[Any, ...]
    leaving: tuple[Any, ...]
    cooldown: Any
    queue: Any
    waiting: tuple[Any, ...]
    load: tuple[Any, ...]
    used: tuple[Any, ...]
    servers: tuple[Any, ...]
    above: Any
    below: Any
    totals: Totals


def _decide(shape: Shape, world: World, rules: Rules, state: State, total: Any, t: Any, wanted: Any) -> Any:
    """(desired servers, ticks in a row above the target, and below it) from data through t - 1 - lag."""
    load, used, servers = (_lagged(values, world.lag) for values in (state.load, state.used, state.servers))
    known = t > world.lag
    above = jnp.where(known & (used > rules.target), state.above + 1, 0)
    below = jnp.where(known & (used < rules.low_target), state.below + 1, 0)
    answers = []
    for kind in shape.kinds:
        if kind == "constant":
            desired = rules.constant
        elif kind == "plan":
            desired = wanted
        elif kind == "reactive":
            desired = jnp.where(known, _whole(load / rules.per_server), total)
        elif kind == "thresholds":
            step = jnp.where(used > rules.high, rules.step_up, jnp.where(used < rules.low, -rules.step_down, 0))
            desired = total + jnp.where(known, step, 0)
        else:
            ratio = _whole(servers * used / rules.target)
            settled = (below >= rules.in_points) & (total == state.active)  # nothing boots
            fewer = jnp.where(settled, jnp.minimum(total, ratio), total)
            desired = jnp.where(above >= rules.out_points, jnp.maximum(total, jnp.maximum(ratio, 1)), fewer)
        answers.append(desired)
    desired = answers[0]
    for kind, answer in zip(shape.kinds[1:], answers[1:], strict=True):
        desired = jnp.where(rules.kind == KINDS.index(kind), answer, desired)
    return desired, above, below


def _change(
    shape: Shape, world: World, rules: Rules, state: State, t: Any, wanted: Any, booting: Any, draining: Any
) -> tuple[Any, Any, Any]:
    """Steps 1 to 3: (servers more or fewer after the guard, ticks in a row above the target, and below it)."""
    total = state.active + booting
    desired, above, below = _decide(shape, world, rules, state, total, t, wanted)  # 1 observe, 2 decide
    desired = jnp.clip(desired, total - world.step_down, total + world.step_up)  # 3 guard
    allowed = jnp.clip(desired, world.least, world.most)
    capped = jnp.maximum(total, jnp.minimum(allowed, world.quota - draining))
    allowed = jnp.where(allowed > total, capped, allowed)
    acts = (t % world.every == 0) & (state.cooldown == 0)
    return jnp.where(acts, allowed - total, 0), above, below


def step(shape: Shape, world: World, rules: Rules, state: State, t: Any, now: Any) -> tuple[State, Any]:
    """One tick of one environment, in the order of `simulate`."""
    arriving, prompt, wanted, drawn_delay, failures = now
    zero = jnp.int32(0)
    good, bad, delays = [zero, *state.good], [zero, *state.bad], [zero, *state.delays]
    leaving = [zero, *state.leaving]  # by age; those older than the drain have left
    draining = sum((jnp.where(age < world.drain, n, 0) for age, n in enumerate(leaving)), zero)
    booting = sum(good, zero) + sum(bad, zero)
    change, above, below = _once(
        partial(_change, shape), t, world, rules, state, t, wanted, booting, draining, like=(zero, zero, zero)
    )
    up, down = jnp.maximum(change, 0), jnp.maximum(-change, 0)
    left = down  # 4 apply: the youngest order first, then active servers
    for age in range(1, shape.boot + 1):
        gone = jnp.minimum(left, good[age])
        good[age], left = good[age] - gone, left - gone
        if shape.random:
            gone = jnp.minimum(left, bad[age])
            bad[age], left = bad[age] - gone, left - gone
    active = state.active - left
    if shape.drain:
        leaving[0] = left
        draining = draining + jnp.where(world.drain > 0, left, 0)
    good[0] = up
    if shape.random:
        bad[0] = jnp.where(up > 0, failures[up], 0)
        good[0], delays[0] = up - bad[0], drawn_delay
    cooldown = jnp.where(change != 0, world.cooldown, jnp.maximum(state.cooldown - 1, 0))
    failed = zero
    for age in range(shape.boot + 1):  # 5 boot completion
        ready = jnp.where((delays[age] if shape.random else world.delay) <= age, good[age], 0)
        active, good[age] = active + ready, good[age] - ready
        if shape.random:
            given_up = jnp.where(world.timeout <= age, bad[age], 0)
            failed, bad[age] = failed + given_up, bad[age] - given_up
    booting = sum(good, zero) + sum(bad, zero)
    room = active * world.capacity
    served, abandoned, dropped, queue, waiting = _serve(shape, world, state, arriving, room)  # 6, 7, 8
    lost = dropped + abandoned
    used = jnp.where(active > 0, served / jnp.where(active > 0, room, 1.0), 1.0 * (queue + lost > 0))
    billed = active + booting + draining  # 9 bill
    fluid = queue / jnp.where(active > 0, active * world.rate, 0.0) > world.slo_wait  # 10 latency
    late = jnp.where(queue > 0, fluid, (lost <= 0) & (active < prompt))
    bad_tick = late | (lost > 0)
    more = Totals(
        served, dropped, abandoned, jnp.where(late, jnp.maximum(arriving - lost, 0.0), 0.0), queue, billed, active, up,
        down, change != 0, bad_tick,
    )  # fmt: skip
    totals = Totals(*(old + new for old, new in zip(state.totals, more, strict=True)))
    kept = (active, booting, draining, up, down, failed, billed, served, dropped, abandoned, queue, late)
    memory = shape.lag + 1
    return State(
        active=active, good=tuple(good[: shape.boot]), bad=tuple(bad[: shape.boot]) if shape.random else (),
        delays=tuple(delays[: shape.boot]) if shape.random else (), leaving=tuple(leaving[: shape.drain]),
        cooldown=cooldown, queue=queue, waiting=waiting, load=(arriving + queue, *state.load)[:memory],
        used=(used, *state.used)[:memory], servers=(active, *state.servers)[:memory], above=above, below=below,
        totals=totals,
    ), kept if shape.keep else None  # fmt: skip


def _serve(shape: Shape, world: World, state: State, arriving: Any, room: Any) -> Any:
    """(served, abandoned, dropped, queue, waiting by age), the oldest first, as `serve_by_age` does it."""
    if shape.patience is None:
        offered = state.queue + arriving
        served = jnp.minimum(offered, room)
        queue = jnp.minimum(offered - served, world.limit)
        return served, jnp.zeros_like(served), offered - served - queue, queue, ()
    kept = [arriving, *state.waiting]
    served = dropped = abandoned = queue = jnp.zeros_like(arriving)
    places = world.limit
    for age in reversed(range(shape.patience + 1)):
        done = jnp.minimum(kept[age], room)
        room, served, rest = room - done, served + done, kept[age] - done
        gives_up = age >= world.patience
        stays = jnp.where(gives_up, 0.0, jnp.minimum(rest, places))
        abandoned = abandoned + jnp.where(gives_up, rest, 0.0)
        dropped = dropped + jnp.where(gives_up, 0.0, rest - stays)
        kept[age], places, queue = stays, places - stays, queue + stays
    return served, abandoned, dropped, queue, tuple(kept[: shape.patience])


def _lagged(values: tuple[Any, ...], lag: Any) -> Any:
    """The value `lag` ticks before the newest."""
    picked = values[0]
    for age in range(1, len(values)):
        picked = jnp.where(lag == age, values[age], picked)
    return picked


def _once(work: Any, t: Any, *values: Any, like: Any) -> Any:
    """`work(*values)` behind a branch that is always taken.

    XLA on a CPU would otherwise fuse the decision into every value that depends on it and work it out a dozen times;
    on a GPU the branch itself would cost more than that.
    """
    if jax.default_backend() != "cpu":
        return work(*values)
    return jax.lax.cond(t >= 0, lambda given: work(*given), lambda given: like, values)


def _own(values: Any, columns: Any, n_env: int) -> Any:
    """This tick's value of each environment; one number if all share it."""
    if values is None or (columns is None and values.shape[0] == n_env):
        return values
    return values[0] if values.shape[0] == 1 else values[columns]


def _whole(servers: Any) -> Any:
    return jnp.ceil(jnp.minimum(servers - HAIR, 1e9)).astype(jnp.int32)


@partial(jax.jit, static_argnums=0)
def run_scan(shape: Shape, world: World, rules: Rules, given: Given, first: Any) -> tuple[Totals, Any]:
    """All ticks of all environments: the sums, and if `shape.keep` the columns of `simulate`, each (n_time, n_env)."""
    whole, real = jnp.zeros(shape.n_env, jnp.int32), jnp.zeros(shape.n_env)
    slots = (whole,) * shape.boot
    state = State(
        jnp.broadcast_to(first, whole.shape).astype(jnp.int32), slots, slots if shape.random else (),
        slots if shape.random else (), (whole,) * shape.drain, whole, real, (real,) * (shape.patience or 0),
        (real,) * (shape.lag + 1), (real,) * (shape.lag + 1), (whole,) * (shape.lag + 1), whole, whole,
        Totals(*(real for _ in Totals._fields)),
    )  # fmt: skip
    one = partial(step, shape)

    def tick(state: State, seen: Any) -> tuple[State, Any]:
        t, arrivals, prompt, wanted, delays, failures = seen
        now = [
            _own(values, columns, shape.n_env)
            for values, columns in ((arrivals, given.trace), (prompt, given.pair), (wanted, given.plan))
        ]
        now += [delays, failures]
        deep = [1, 1, 1, 1, 2]  # dimensions of a value that each environment has for itself
        axes = [None if v is None or v.ndim < n else 0 for v, n in zip(now, deep, strict=True)]
        world_axes, rule_axes = (type(x)(*(0 if v.ndim else None for v in x)) for x in (world, rules))
        return jax.vmap(one, in_axes=(world_axes, rule_axes, 0, None, axes))(world, rules, state, t, now)

    ticks = jnp.arange(given.arrivals.shape[0], dtype=jnp.int32)
    seen = (ticks, given.arrivals, given.prompt, given.wanted, given.delays, given.failures)
    state, kept = jax.lax.scan(tick, state, seen)
    return state.totals, kept
