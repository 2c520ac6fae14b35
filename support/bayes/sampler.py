"""Hamiltonian Monte Carlo for many chains at once: one gradient in one loop, shared step size, trajectory and metric."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree

from support.errors import SourceError

__all__ = ["Draws", "program", "sample"]

TARGET_ACCEPTANCE = 0.651  # harmonic mean over the chains, Hoffman, Radul and Sountsov (2021)
TRAJECTORY = 1.8  # mean length in the whitened scale; longer ones anticorrelate levels, but spreads then mix slowly
JITTER = 0.35  # of the length, uniform in 1 - JITTER .. 1 + JITTER, against periodic orbits
MOST_STEPS = 256  # of one trajectory, so that a step size still wild in warm-up cannot hold the run
DIVERGENCE = 1000.0  # error of the energy from which on a trajectory counts as divergent, as in Stan
# Nesterov's dual averaging as in Hoffman and Gelman (2014), section 3.2.1
GAMMA, T0, KAPPA = 0.05, 10.0, 0.75
WINDOWS = (0.1, 0.3, 0.6)  # shares of the warm-up at which the metric is learned anew from the draws since the last
REGULARISATION = 5.0  # observations of a unit variance mixed into the metric
START_JITTER = 0.3  # standard deviations around the start, so that chains begin apart and R-hat can tell


@dataclass(frozen=True)
class Draws:
    """Draws of a run. positions: pytree of arrays (n_chains, n_draws, ...) as given to the log density.

    acceptance, energy: (n_chains, n_draws), mean acceptance probability and Hamiltonian at the start of the transition.
    diverging: (n_chains, n_draws) booleans. step_size, inverse_metric (n_dim,): as adapted. n_steps: (n_draws,)
    leapfrog steps of each transition; n_gradients: evaluations for all chains, warm-up included.
    """

    positions: Any
    acceptance: np.ndarray
    energy: np.ndarray
    diverging: np.ndarray
    n_steps: np.ndarray
    step_size: float
    inverse_metric: np.ndarray
    n_gradients: int


class _State(NamedTuple):
    """What one transition hands to the next; all chains share everything but their place."""

    q: jax.Array  # (n_chains, n_dim)
    gradient: jax.Array  # of the potential energy
    potential: jax.Array  # (n_chains,)
    log_step: jax.Array
    log_step_average: jax.Array
    error: jax.Array  # of dual averaging
    since: jax.Array  # transitions since dual averaging began anew
    centre: jax.Array  # log step it is drawn to
    variance: jax.Array  # (n_dim,), diagonal of the inverse metric
    number: jax.Array  # of draws behind mean and squares
    mean: jax.Array
    squares: jax.Array


def sample(
    log_density: Callable[..., jax.Array], start: Any, *, n_chains: int = 4, n_warmup: int = 500, n_draws: int = 500,
    key: jax.Array, data: Any = None, trajectory: float = TRAJECTORY, target_acceptance: float = TARGET_ACCEPTANCE,
) -> Draws:  # fmt: skip
    """Draws from a log density by vectorised HMC; `start` is a pytree near the mode, on roughly unit scale.

    All chains take the same number of leapfrog steps, so that they run as one batched program; step size (dual averaging
    of the harmonic mean acceptance) and diagonal metric are learned from all chains together. `trajectory` is the mean
    length in standard deviations. With `data`, a pytree, the density is log_density(position, data), and a later call
    with the same function and shapes does not compile again. Raises SourceError for fewer than two chains or four draws, or a start of density zero.
    Source: Hoffman, Radul and Sountsov (2021), ChEES-HMC, with the length given; bayes.md 3.4.

    Example:
        >>> draws = sample(lambda q: -0.5 * (q["x"] ** 2).sum(), {"x": jnp.zeros(3)}, n_warmup=100, n_draws=100,
        ...                key=jax.random.key(1))
        >>> draws.positions["x"].shape, int(draws.diverging.sum())
        ((4, 100, 3), 0)
    """
    if n_chains < 2 or n_draws < 4 or n_warmup < 20:
        raise SourceError(f"{n_chains} chains, {n_warmup} warm-up and {n_draws} draws: need at least 2, 20 and 4.")
    state, (q, acceptance, energy, diverging, n_steps) = _run(
        start, data, key, trajectory, target_acceptance, log_density=log_density, n_chains=n_chains, n_warmup=n_warmup,
        n_draws=n_draws, with_data=data is not None,
    )  # fmt: skip
    if not np.isfinite(np.asarray(energy)).any():
        raise SourceError("the log density is not finite at the start; start from the Laplace point (model.start).")
    kept = slice(n_warmup, None)
    unravel = ravel_pytree(start)[1]
    positions = jax.vmap(jax.vmap(unravel))(jnp.swapaxes(q, 0, 1))
    return Draws(
        jax.tree.map(np.asarray, positions), np.asarray(acceptance)[kept].T, np.asarray(energy)[kept].T,
        np.asarray(diverging)[kept].T, np.asarray(n_steps)[kept], float(jnp.exp(state.log_step_average)),
        np.asarray(state.variance), int(n_steps.sum()) * n_chains,
    )  # fmt: skip


@partial(jax.jit, static_argnames=("log_density", "n_chains", "n_warmup", "n_draws", "with_data"))
def _run(
    start: Any, data: Any, key: jax.Array, trajectory: float, target: float, *, log_density: Callable[..., jax.Array],
    n_chains: int, n_warmup: int, n_draws: int, with_data: bool,
) -> Any:  # fmt: skip
    """One run; density function, shapes and numbers of draws decide whether it compiles anew."""
    flat, unravel = ravel_pytree(start)
    density = partial(_swapped, log_density, data) if with_data else log_density
    return program(density, unravel, n_chains, n_warmup, n_draws, trajectory, target)(flat, key)


def _swapped(log_density: Callable[..., jax.Array], data: Any, position: Any) -> jax.Array:
    return log_density(position, data)


def program(
    log_density: Callable[[Any], jax.Array], unravel: Callable[[jax.Array], Any], n_chains: int, n_warmup: int,
    n_draws: int, trajectory: float, target: float,
) -> Callable[[jax.Array, jax.Array], Any]:  # fmt: skip
    """The run as a function of flat start and key, pure: warm-up and draws share one loop, and so one gradient."""
    ends = jnp.asarray([max(1, int(share * n_warmup)) for share in WINDOWS])

    def potential(q: jax.Array) -> jax.Array:
        return -log_density(unravel(q))

    value, gradient = jax.vmap(potential), jax.vmap(jax.grad(potential))

    def transition(state: _State, inputs: tuple[jax.Array, jax.Array]) -> tuple[_State, Any]:
        index, key = inputs
        key_p, key_length, key_accept = jax.random.split(key, 3)
        warm = index < n_warmup
        first = index == 0  # a trajectory of length zero, which only evaluates the start
        step = jnp.where(first, 0.0, jnp.exp(jnp.where(warm, state.log_step, state.log_step_average)))
        length = trajectory * (1 - JITTER + 2 * JITTER * jax.random.uniform(key_length))
        n_steps = jnp.where(first, 1, jnp.clip(jnp.ceil(length / jnp.maximum(step, 1e-9)), 1, MOST_STEPS).astype(int))
        p = jax.random.normal(key_p, state.q.shape) / jnp.sqrt(state.variance)

        def leapfrog(_: int, carry: tuple[jax.Array, jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array, jax.Array]:
            q, p, g = carry
            p = p - 0.5 * step * g
            q = q + step * state.variance * p
            g = gradient(q)
            return q, p - 0.5 * step * g, g

        q, p_end, g = jax.lax.fori_loop(0, n_steps, leapfrog, (state.q, p, state.gradient))
        new = value(q)
        energy = jnp.where(first, new, state.potential) + 0.5 * (state.variance * p**2).sum(axis=1)
        change = new + 0.5 * (state.variance * p_end**2).sum(axis=1) - energy
        change = jnp.where(jnp.isfinite(change), change, jnp.inf)
        acceptance = jnp.where(first, 1.0, jnp.exp(-jnp.maximum(change, 0.0)))
        accepted = jnp.log(jax.random.uniform(key_accept, (n_chains,))) < -change
        accepted = accepted | first
        moved = state._replace(
            q=jnp.where(accepted[:, None], q, state.q),
            gradient=jnp.where(accepted[:, None], g, state.gradient),
            potential=jnp.where(accepted, new, state.potential),
        )
        harmonic = n_chains / (1 / jnp.maximum(acceptance, 1e-6)).sum()
        moved = jax.lax.cond(warm & ~first, lambda s: _adapt(s, harmonic, index, ends, target), lambda s: s, moved)
        return moved, (moved.q, acceptance, energy, change > DIVERGENCE, n_steps)

    def keep(carry: tuple[_State, jax.Array], inputs: Any) -> Any:
        state, kept = carry
        state, (q, *rest) = transition(state, inputs)
        slot = jnp.maximum(inputs[0] - n_warmup, 0)  # warm-up draws overwrite each other in the first slot
        return (state, kept.at[slot].set(q)), rest

    def run(flat: jax.Array, key: jax.Array) -> Any:
        key_start, key_run = jax.random.split(key)
        n_dim = flat.size
        zero = jnp.zeros(())
        q = flat + START_JITTER * jax.random.normal(key_start, (n_chains, n_dim))
        log_step = jnp.log(0.5 / n_dim**0.25)
        state = _State(
            q, jnp.zeros_like(q), jnp.zeros(n_chains), log_step, log_step, zero, zero, log_step + math.log(2.0),
            jnp.ones(n_dim), zero, jnp.zeros(n_dim), jnp.zeros(n_dim),
        )  # fmt: skip
        total = n_warmup + n_draws
        inputs = (jnp.arange(total), jax.random.split(key_run, total))
        (state, kept), rest = jax.lax.scan(keep, (state, jnp.zeros((n_draws, n_chains, n_dim))), inputs)
        return state, (kept, *rest)

    return run


def _adapt(state: _State, harmonic: jax.Array, index: jax.Array, ends: jax.Array, target: float) -> _State:
    """One step of dual averaging and of the pooled variances (Welford); at a window's end a new metric."""
    since = state.since + 1
    error = (1 - 1 / (since + T0)) * state.error + (target - harmonic) / (since + T0)
    log_step = state.centre - jnp.sqrt(since) / GAMMA * error
    weight = since**-KAPPA
    average = jnp.where(since == 1, log_step, weight * log_step + (1 - weight) * state.log_step_average)
    n_chains = state.q.shape[0]
    count = state.number + n_chains
    away = state.q.mean(axis=0) - state.mean
    mean = state.mean + away * n_chains / count
    squares = (
        state.squares + ((state.q - state.q.mean(axis=0)) ** 2).sum(axis=0) + away**2 * state.number * n_chains / count
    )
    ends_now = (index == ends).any()
    learned = (squares + REGULARISATION) / (count - 1 + REGULARISATION)
    zero = jnp.zeros(())
    return state._replace(
        log_step=log_step, log_step_average=average, error=jnp.where(ends_now, zero, error),
        since=jnp.where(ends_now, zero, since), centre=jnp.where(ends_now, average + math.log(2.0), state.centre),
        variance=jnp.where(ends_now, learned, state.variance), number=jnp.where(ends_now, zero, count),
        mean=jnp.where(ends_now, 0.0, mean), squares=jnp.where(ends_now, 0.0, squares),
    )  # fmt: skip
