"""Fleets of 10^4 to 10^5 resources: layout over devices, minibatch variational inference, the fit of the top level."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from scipy.optimize import minimize

from support.bayes.sampler import Draws, sample
from support.bayes.special import lgamma
from support.bayes.summaries import (
    Arrays,
    Fleet,
    Summaries,
    normal,
    summarise,
    top_log_density,
    top_parameters,
    top_start,
)
from support.errors import SchemaError

__all__ = [
    "TopLevel",
    "Variational",
    "fit_top_level",
    "fit_variational",
    "over_devices",
    "resource_terms",
]

LEARNING_RATE, FINAL_SHARE = 0.03, 0.02  # of Adam, in units of the Laplace fit's standard deviations; cosine decay to
NEAR_MODE = 1e-2  # largest gradient of the log density, on a scale of about one, at which a mode is close enough
AVERAGED = 0.25  # last share of the steps over which the guide's parameters are averaged (Polyak and Juditsky 1992)


def over_devices(fleet: Fleet, n_devices: int | None = None) -> Fleet:
    """The same fleet with its resources laid out over devices, all by default; the levels above are on every device.

    Resources are filled up to a multiple of the devices with empty ones, which have no data: they leave the posterior
    of everything else as it is. Functions of a laid-out fleet run on all its devices unchanged, since the compiler adds
    the sums between them. Raises SchemaError if there are fewer devices. Source: JAX, "Distributed arrays and automatic
    parallelization".

    Example:
        >>> from support.bayes.calibration import simulate_fleet
        >>> from support.bayes.informed import informed_points
        >>> from support.bayes.summaries import as_fleet
        >>> stats, _ = simulate_fleet(rng=np.random.default_rng(1))
        >>> fleet = over_devices(as_fleet(stats, informed_points(stats)), 1)
        >>> fleet.resources["n"].shape, fleet.resources["n"].sharding.num_devices
        ((54, 24), 1)
    """
    count = jax.device_count() if n_devices is None else n_devices
    if not 1 <= count <= jax.device_count():
        raise SchemaError(f"{count} devices asked for; there are {jax.device_count()}.")
    mesh = Mesh(np.array(jax.devices()[:count]), ("resource",))
    short = -len(fleet.resources["n"]) % count

    def lay(x: jax.Array) -> jax.Array:
        filled = jnp.pad(x, [(0, short)] + [(0, 0)] * (x.ndim - 1))
        return jax.device_put(filled, NamedSharding(mesh, PartitionSpec("resource")))

    everywhere = NamedSharding(mesh, PartitionSpec())
    return replace(
        fleet,
        resources={name: lay(x) for name, x in fleet.resources.items()},
        steer={name: jax.device_put(x, everywhere) for name, x in fleet.steer.items()},
    )


def resource_terms(named: Arrays, z: jax.Array, own: Arrays, steer: Arrays) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Log density of each resource's data and of its two parameters at standard z (n_resource, 2), (n_resource,).

    The same informed parametrisation as `support.bayes.model`, for any subset of resources `own`; returns theta and
    log_kappa too. Constants of the data are left out.
    """
    of = own["application"]
    away, loc1, loc2 = named["b"] - steer["b"], named["m"][own["industry"], of], named["l"][own["industry"], of]
    d1, d2 = named["tau"][of] ** -2, named["s"] ** -2
    natural = own["natural"] - (own["cross"] * away[of][:, None, :]).sum(-1)
    p11, p12, p22 = d1 + own["precision"][:, 0, 0], own["precision"][:, 0, 1], d2 + own["precision"][:, 1, 1]
    r1, r2 = d1 * loc1 + natural[:, 0], d2 * loc2 + natural[:, 1]
    determinant = p11 * p22 - p12**2
    second = jnp.sqrt(p11 / determinant) * z[:, 1]
    log_kappa = (p11 * r2 - p12 * r1) / determinant + second
    theta = (p22 * r1 - p12 * r2) / determinant + z[:, 0] / jnp.sqrt(p11) - p12 / p11 * second
    logits, kappa = theta[:, None] + (named["b"] @ steer["basis"].T)[of], jnp.exp(log_kappa)[:, None]
    alpha = kappa * jax.nn.sigmoid(logits)
    beta = kappa - alpha
    data = (alpha * own["s1"] + beta * own["s2"] - own["n"] * (lgamma(alpha) + lgamma(beta))).sum(1)
    data += own["n"].sum(1) * lgamma(kappa)[:, 0]
    prior = normal(theta, loc1, named["tau"][of]) + normal(log_kappa, loc2, named["s"]) - 0.5 * jnp.log(determinant)
    return data + prior, theta, log_kappa


def _fleet_log_density(position: Arrays, fleet: Fleet) -> jax.Array:
    """Log posterior density of a full position (as `support.bayes.model.log_density`), for a fleet over devices.

    A position's `resource` is (n_resource, 2) with the fleet's empty resources included.
    """
    named, prior = top_parameters(position, fleet)
    return prior + resource_terms(named, position["resource"], fleet.resources, fleet.steer)[0].sum()


@dataclass(frozen=True)
class Variational:
    """Mean-field normal guide in the informed scale: means and standard deviations of every unconstrained value.

    top, top_sd: as the position without `resource`; resource, resource_sd: (n_resource, 2); loss: (n_step,) negative
    ELBO estimates up to a constant.
    """

    top: Arrays
    top_sd: Arrays
    resource: jax.Array
    resource_sd: jax.Array
    loss: jax.Array

    def draws(self, fleet: Fleet, n_draws: int, *, key: jax.Array) -> Arrays:
        """Independent draws of the named parameters above the resources, each (n_draws, ...)."""
        names = sorted(self.top)
        keys = dict(zip(names, jax.random.split(key, len(names)), strict=True))
        position = {
            k: self.top[k] + self.top_sd[k] * jax.random.normal(keys[k], (n_draws, *self.top[k].shape)) for k in names
        }
        return jax.vmap(lambda p: top_parameters(p, fleet)[0])(position)


def fit_variational(fleet: Fleet, *, key: jax.Array, n_steps: int = 4000, batch: int = 1000) -> Variational:
    """Automatic differentiation variational inference over minibatches of resources, informed mean-field guide.

    Resources are put into fixed random batches of at most `batch`, one for each step; their terms are weighted by the
    number of batches, so that the gradient of the ELBO is unbiased. Raises SchemaError for a batch or steps under one.
    Source: Kucukelbir et al. 2017; Hoffman et al. 2013 (local and global variables); bayes.md 4.
    """
    if batch < 1 or n_steps < 1:
        raise SchemaError(f"batch is {batch} and n_steps {n_steps}; both must be at least 1.")
    n_resource, mesh = len(fleet.resources["n"]), getattr(fleet.resources["n"].sharding, "mesh", None)
    devices = 1 if mesh is None else mesh.size
    n_batch = -(-n_resource // batch)
    size = -(-n_resource // (n_batch * devices)) * devices
    shuffle_key, run_key = jax.random.split(key)
    order = jax.random.permutation(shuffle_key, n_resource)
    filled = jnp.concatenate([order, jnp.full(n_batch * size - n_resource, n_resource)])  # out of range: an empty one

    def batched(x: jax.Array) -> jax.Array:
        taken = jnp.take(x, filled, axis=0, mode="fill", fill_value=0).reshape(n_batch, size, *x.shape[1:])
        return taken if mesh is None else jax.device_put(taken, NamedSharding(mesh, PartitionSpec(None, "resource")))

    own = {name: batched(x) for name, x in fleet.resources.items()}
    (loc, log_sd), below, loss = _train(fleet, own, batched(jnp.ones(n_resource)), run_key, n_steps)
    back = jnp.argsort(filled)[:n_resource]
    z, log_z_sd = (x.reshape(-1, 2)[back] for x in below)
    return Variational(loc, {k: jnp.exp(v) for k, v in log_sd.items()}, z, jnp.exp(log_z_sd), loss)


@partial(jax.jit, static_argnames="n_steps")
def _train(fleet: Fleet, own: Arrays, real: jax.Array, key: jax.Array, n_steps: int) -> tuple[Any, Any, jax.Array]:
    """The optimisation in one scan: averaged guide of the top level, guides of the resources by batch, losses."""
    n_batch, size = real.shape
    visits = -(-n_steps // n_batch)
    adam, adams = (optax.adam(optax.cosine_decay_schedule(LEARNING_RATE, k, FINAL_SHARE)) for k in (n_steps, visits))

    def loss(above: Any, mine: Any, i: jax.Array, key: jax.Array) -> jax.Array:
        flat, unravel = ravel_pytree(above[0])
        spread, (z, log_z_sd) = ravel_pytree(above[1])[0], mine
        noise = jax.random.normal(key, (len(flat) + 2 * size,))
        named, prior = top_parameters(unravel(flat + jnp.exp(spread) * noise[: len(flat)]), fleet)
        at = z + jnp.exp(log_z_sd) * noise[len(flat) :].reshape(size, 2)
        terms = resource_terms(named, at, {k: v[i] for k, v in own.items()}, fleet.steer)[0] + log_z_sd.sum(1)
        return -(prior + spread.sum() + n_batch * (terms * real[i]).sum()) / (n_batch * size)

    def step(carry: Any, t: jax.Array) -> tuple[Any, jax.Array]:
        above, memory, locals_, average = carry
        i = t % n_batch
        mine, its_memory = jax.tree.map(lambda x: x[i], locals_)
        value, gradients = jax.value_and_grad(loss, argnums=(0, 1))(above, mine, i, jax.random.fold_in(key, t))
        change, memory = adam.update(gradients[0], memory)
        above = optax.apply_updates(above, change)
        change, its_memory = adams.update(gradients[1], its_memory)
        new = optax.apply_updates(mine, change), its_memory
        locals_ = jax.tree.map(lambda x, part: x.at[i].set(part), locals_, new)
        late = jnp.maximum(t + 1 - int(n_steps * (1 - AVERAGED)), 1)  # before the last share this only follows
        average = jax.tree.map(lambda old, now: old + (now - old) / late, average, above)
        return (above, memory, locals_, average), value

    top = top_start(fleet)
    above = top, jax.tree.map(jnp.zeros_like, top)
    below = (jnp.zeros((n_batch, size, 2)), jnp.zeros((n_batch, size, 2)))
    carry = above, adam.init(above), (below, jax.vmap(adams.init)(below)), above
    (_, _, (below, _), average), losses = jax.lax.scan(step, carry, jnp.arange(n_steps))
    return average, below, losses


@dataclass(frozen=True)
class TopLevel:
    """Posterior of the parameters above the resources. named: arrays (n_chains, n_draws, ...); draws: the sampler's own.

    summaries: from which `support.bayes.summaries.draw_resources` gives theta and log_kappa of every resource.
    """

    named: Arrays
    draws: Draws
    summaries: Summaries


def fit_top_level(
    fleet: Fleet, *, key: jax.Array, working: Arrays | None = None, rounds: int = 3, moments: bool = True,
    n_chains: int = 4, n_warmup: int = 300, n_draws: int = 500,
) -> TopLevel:  # fmt: skip
    """HMC on the parameters above the resources, which are integrated out of their Gaussian summaries.

    working: named values to summarise at, by default the plug-in values of the Laplace fit; between `rounds` of
    summaries the mode of the top level takes their place. `moments` False keeps the plain Laplace summaries, whose
    bias grows with the fleet. The cost of a gradient does not depend on observations. Raises SchemaError, SourceError.
    Source: bayes.md 4; see `summarise`.

    Example:
        >>> from support.bayes.calibration import simulate_fleet
        >>> from support.bayes.informed import informed_points
        >>> from support.bayes.summaries import as_fleet
        >>> stats, _ = simulate_fleet(rng=np.random.default_rng(1), n_industry=1, n_application=1)
        >>> fleet = as_fleet(stats, informed_points(stats))
        >>> fit_top_level(fleet, key=jax.random.key(1), rounds=1, n_warmup=20, n_draws=50).named["m"].shape  # doctest: +SKIP
        (4, 50, 1, 1)
    """
    if rounds < 1:
        raise SchemaError(f"rounds is {rounds}; at least one round of summaries is needed.")
    start = top_start(fleet)
    named = top_parameters(start, fleet)[0] if working is None else working
    for i in range(rounds):
        summaries = summarise(fleet, named, moments=moments)
        if i < rounds - 1:
            start = _mode(start, fleet, summaries)
            named = top_parameters(start, fleet)[0]
    draws = sample(
        _density, start, n_chains=n_chains, n_warmup=n_warmup, n_draws=n_draws, key=key, data=(fleet, summaries)
    )
    return TopLevel(
        jax.jit(jax.vmap(jax.vmap(lambda p: top_parameters(p, fleet)[0])))(draws.positions), draws, summaries
    )


def _density(position: Arrays, data: tuple[Fleet, Summaries]) -> jax.Array:
    return top_log_density(position, *data)


def _mode(start: Arrays, fleet: Fleet, summaries: Summaries) -> Arrays:
    """Mode of the top level by a trust-region Newton method (SciPy), on the whitened scale of the Laplace fit."""
    flat, unravel = ravel_pytree(start)
    first = float(_value_and_gradient(start, fleet, summaries)[0])  # taken off: what matters is small beside it

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = _value_and_gradient(unravel(jnp.asarray(x)), fleet, summaries)
        return first - float(value), -np.asarray(ravel_pytree(gradient)[0])

    def curvature(x: np.ndarray, v: np.ndarray) -> np.ndarray:
        return -np.asarray(
            ravel_pytree(_hessian_times(*(unravel(jnp.asarray(u)) for u in (x, v)), fleet, summaries))[0]
        )

    options = {"gtol": NEAR_MODE}
    found = minimize(objective, np.asarray(flat), jac=True, hessp=curvature, method="trust-krylov", options=options)
    return unravel(jnp.asarray(found.x))


_value_and_gradient = jax.jit(jax.value_and_grad(top_log_density))


@jax.jit
def _hessian_times(x: Arrays, v: Arrays, fleet: Fleet, summaries: Summaries) -> Arrays:
    return jax.jvp(lambda y: jax.grad(top_log_density)(y, fleet, summaries), (x,), (v,))[1]
