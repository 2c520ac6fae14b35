"""Correlations between metrics: an LKJ prior and partial pooling of machines and archetypes on Fisher's scale."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
import pandas as pd
from numpyro.diagnostics import summary as chain_summary
from numpyro.infer.util import potential_energy

from support.bayes.sampler import sample
from support.bayes.scores import CorrelationStatistics
from support.errors import SchemaError, SourceError

__all__ = ["CorrelationPosterior", "fit_correlations", "fit_many", "machine_estimates", "to_matrix"]

SPREAD_SD = 0.5  # prior scale of the spreads, Fisher's z: r = 0.5 in one archetype, 0.1 to 0.8 in others
# These steer the start and the scales of the sampler; the posterior does not depend on them.
LEAST_SPREAD = 0.05  # Fisher's z
LOG_SD = 0.5  # of the log of a spread
TRAJECTORY = (
    3.0  # standard deviations: the logs of small spreads have long tails, which short trajectories cross slowly
)
SOFTENING = 1e-4  # share of the identity mixed in, so that metrics that are copies of each other have a Cholesky factor
TINY = 1e-12
TO_CHOLESKY = dist.transforms.CorrCholeskyTransform()  # tanh gives partial correlations, these give the Cholesky factor


def _to_z(chol: np.ndarray) -> np.ndarray:
    """Fisher's z of the canonical partial correlations, (..., n_pair), row by row, from Cholesky factors (..., k, k)."""
    left = np.sqrt(np.cumsum((chol**2)[..., ::-1], axis=-1)[..., ::-1])  # of a row's unit length, at each column
    row, column = np.tril_indices(chol.shape[-1], -1)
    return np.asarray(np.arctanh(chol[..., row, column] / left[..., row, column]))


def to_matrix(z: np.ndarray) -> np.ndarray:
    """Its inverse, followed by the product: correlation matrices (..., k, k)."""
    n_metric = _n_metric(z.shape[-1])
    row, column = np.tril_indices(n_metric, -1)
    partial = np.zeros((*z.shape[:-1], n_metric, n_metric))
    partial[..., row, column] = np.tanh(z)
    left = np.sqrt(np.cumprod(1 - partial**2, axis=-1))
    partial[..., range(n_metric), range(n_metric)] = 1.0
    factor = partial * np.concatenate([np.ones_like(left[..., :1]), left[..., :-1]], axis=-1)
    return np.asarray(factor @ np.swapaxes(factor, -1, -2))


def _n_metric(n_pair: int) -> int:
    return round((1 + (1 + 8 * n_pair) ** 0.5) / 2)


def _unit_information(z: np.ndarray, chol: np.ndarray) -> np.ndarray:
    """Fisher information of one normal observation on z and the log standard deviations, (n_resource, p + k, p + k)."""
    n_pair, n_metric = z.shape[1], chol.shape[1]

    def covariance(point: jax.Array) -> jax.Array:
        factor = jnp.exp(point[n_pair:])[:, None] * TO_CHOLESKY(point[:n_pair])
        return factor @ factor.T

    points = jnp.concatenate([z, jnp.zeros((len(z), n_metric))], axis=1)
    slopes = np.moveaxis(np.asarray(jax.jit(jax.vmap(jax.jacfwd(covariance)))(points)), -1, 1)
    inverse = np.linalg.inv(chol)[:, None]
    white = (inverse @ slopes @ np.swapaxes(inverse, -1, -2)).reshape(len(z), n_pair + n_metric, -1)
    return 0.5 * white @ np.swapaxes(white, -1, -2)


def machine_estimates(statistics: CorrelationStatistics) -> tuple[np.ndarray, np.ndarray]:
    """Estimate of each machine on the scale of the model, shape (n_resource, n_pair), and its covariance.

    The scale is Fisher's z of the canonical partial correlations, column by column of the Cholesky factor. Covariance:
    inverse information of the normal likelihood with free standard deviations, each variance brought to 1 / (n - 3 - number
    of metrics conditioned on). Source: Fisher (1924), Metron 3, for partial correlations; Lewandowski et al. (2009).

    Example:
        >>> one = CorrelationStatistics(("a", "b"), ("m",), ("all",), np.array([0]), np.array([[[1.0, 0.5], [0.5, 1.0]]]),
        ...                             np.array([103]), np.array([103.0]), np.zeros((1, 2)))
        >>> [x.round(3).ravel().tolist() for x in machine_estimates(one)]
        [[0.549], [0.01]]
    """
    n_metric = len(statistics.metrics)
    softened = 1 - SOFTENING
    chol = np.linalg.cholesky(softened * statistics.correlation + SOFTENING * np.eye(n_metric))
    z = _to_z(chol)
    covariance = np.linalg.inv(_unit_information(z, chol))[:, : z.shape[1], : z.shape[1]]
    conditioned = np.array([column for row in range(n_metric) for column in range(row)])
    freedom = np.maximum(statistics.n_effective[:, None] - 3 - conditioned, 1.0)
    return z, covariance / np.sqrt(freedom[:, :, None] * freedom[:, None, :])


def _model(z: np.ndarray, covariance: np.ndarray, member: np.ndarray, eta: float) -> None:
    """Top levels only: the true values of archetypes and machines are integrated out.

    z: estimates of the machines, (n_resource, n_pair); member: 1.0 where a machine is of an archetype, (n_archetype, n_resource).
    """
    n_pair, n_archetype = z.shape[1], len(member)
    centre = TO_CHOLESKY.inv(numpyro.sample("population", dist.LKJCholesky(_n_metric(n_pair), eta)))
    within = numpyro.sample("resource_sd", dist.HalfNormal(SPREAD_SD).expand([n_pair]).to_event(1))
    between = jnp.zeros(n_pair)
    if n_archetype > 1:  # the spread between archetypes has no meaning for one
        between = numpyro.sample("archetype_sd", dist.HalfNormal(SPREAD_SD).expand([n_pair]).to_event(1))
    precision, log_det = _inverse(covariance + jnp.diag(within**2))
    mean, mean_covariance, mean_log_det = _archetype_estimates(z, precision, member)
    numpyro.factor("machines", _normal(z - member.T @ mean, precision, log_det))
    # the product over an archetype's machines is a normal in its value, around their weighted mean, with this mass
    numpyro.factor("mass", 0.5 * (mean_log_det + n_pair * jnp.log(2 * jnp.pi)).sum())
    numpyro.factor("archetypes", _normal(mean - centre, *_inverse(mean_covariance + jnp.diag(between**2))))


def _normal(deviation: Any, precision: Any, log_det: Any) -> Any:
    """Sum of normal log densities; log_det: of the covariances."""
    square = jnp.einsum("ni,nij,nj->n", deviation, precision, deviation)
    return -0.5 * (square + log_det + deviation.shape[-1] * jnp.log(2 * jnp.pi)).sum()


def _inverse(matrix: Any) -> tuple[Any, Any]:
    """Inverse and log determinant of positive definite matrices (..., k, k), by the sweep of Goodnight (1979).

    Vectorised over the batch; XLA's CPU backend calls LAPACK for one small matrix after another, several times slower, and
    was seen to stall for ever in a long loop of such calls.
    """

    def sweep(matrix: Any, unit: Any) -> tuple[Any, Any]:
        column = (matrix * unit).sum(-1)
        pivot = (column * unit).sum(-1)
        row = jnp.where(unit, 1.0, (matrix * unit[:, None]).sum(-2)) / pivot[..., None]
        swept = jnp.where(unit, 0.0, matrix) - column[..., None] * row[..., None, :]
        return jnp.where(unit[:, None], row[..., None, :], swept), jnp.log(pivot)

    matrix, logs = jax.lax.scan(sweep, matrix, np.eye(matrix.shape[-1], dtype=bool))
    return matrix, logs.sum(0)


def _archetype_estimates(z: Any, precision: Any, member: Any) -> tuple[Any, Any, Any]:
    """Precision-weighted mean of the machines of each archetype, (n_archetype, n_pair), its covariance and log determinant."""
    total, log_det = _inverse(jnp.einsum("ar,rij->aij", member, precision))
    return jnp.einsum("aij,ar,rjk,rk->ai", total, member, precision, z), total, -log_det


@dataclass(frozen=True)
class CorrelationPosterior:
    """Draws of correlation matrices. population: the centre, (n_draw, k, k) for k metrics; archetype: (n_draw,
    n_archetype, k, k); resource: (n_draw, n_resource, k, k); new_resource: a machine not seen yet, by archetype, as
    archetype; new_archetype: a machine of an archetype not seen yet, as population. r_hat: largest; ess: smallest bulk
    effective sample size of the top levels; divergences: of all chains."""

    statistics: CorrelationStatistics
    population: np.ndarray
    archetype: np.ndarray
    resource: np.ndarray
    new_resource: np.ndarray
    new_archetype: np.ndarray
    r_hat: float
    ess: float
    divergences: int

    def summary(self, of: str = "archetype", level: float = 0.9) -> pd.DataFrame:
        """Median and interval of every pair: index (name, pair) or pair; columns median, lower, upper.

        of: population, archetype, resource, new_resource or new_archetype. Raises SourceError for another, or a level
        that is not between 0 and 1.
        """
        names = {"archetype": self.statistics.archetypes, "new_resource": self.statistics.archetypes, "resource": self.statistics.resources}  # fmt: skip
        if of not in {*names, "population", "new_archetype"} or not 0 < level < 1:
            raise SourceError(f"summary: of={of!r}, level={level}; give a level of the model and 0 < level < 1.")
        draws, pairs = getattr(self, of), self.statistics.pairs
        values = np.stack([draws[..., a, b] for a, b in pairs], axis=-1).reshape(len(draws), -1)
        label = [f"{self.statistics.metrics[a]}, {self.statistics.metrics[b]}" for a, b in pairs]
        index: pd.Index = pd.Index(label, name="pair")
        if of in names:
            index = pd.MultiIndex.from_product([names[of], label], names=[of, "pair"])
        quantiles = np.quantile(values, [0.5, (1 - level) / 2, (1 + level) / 2], axis=0).T
        return pd.DataFrame(quantiles, index=index, columns=["median", "lower", "upper"])


def fit_correlations(statistics: CorrelationStatistics, **options: Any) -> CorrelationPosterior:
    """Posterior of the correlation matrices of one fleet; options and errors as `fit_many`."""
    return fit_many([statistics], **options)[0]


def fit_many(
    fleets: Sequence[CorrelationStatistics], *, eta: float = 2.0, n_warmup: int = 300, n_draws: int = 400,
    n_chains: int = 4, key: jax.Array,
) -> list[CorrelationPosterior]:  # fmt: skip
    """Posteriors of several independent fleets of equal shape (machines, archetypes, metrics), in one compiled run of HMC.

    Population ~ LKJ(eta); Fisher's z of the canonical partial correlations of an archetype is normal around it, that of a
    machine around its archetype, spreads HalfNormal(0.5) a pair; the data enter as `machine_estimates`, and the true
    values of machines and archetypes are integrated out. Raises SourceError for eta <= 0 or counts that make no sense,
    SchemaError for unequal shapes.
    Source: Lewandowski, Kurowicka and Joe (2009), J. Multivariate Analysis 100, section 2.4.
    """
    if eta <= 0:
        raise SourceError(f"eta is {eta}; the LKJ prior needs a positive one, and 1 is uniform over matrices.")
    if len({(f.correlation.shape, len(f.archetypes)) for f in fleets}) != 1:
        raise SchemaError(
            "the fleets differ in machines, archetypes or metrics, or there are none. Fit them one by one."
        )
    parts = [_prepare(f) for f in fleets]
    args, sizes, scales = jax.tree.map(lambda *leaves: np.stack(leaves), *parts)

    run = sample(
        _density, jax.tree.map(np.zeros_like, sizes), data=(args, sizes, scales, eta), n_chains=n_chains,
        n_warmup=n_warmup, n_draws=n_draws, key=key, trajectory=TRAJECTORY, target_acceptance=0.9,
    )  # fmt: skip
    rngs = np.random.default_rng(np.asarray(jax.random.key_data(key)).tolist()).spawn(len(fleets))
    found = []
    for number, (fleet, part, rng) in enumerate(zip(fleets, parts, rngs, strict=True)):
        own = jax.tree.map(lambda x, i=number: x[:, :, i], run.positions)
        told = chain_summary(own).values()
        fit = float(max(np.max(s["r_hat"]) for s in told)), float(min(np.min(s["n_eff"]) for s in told))
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), own)
        found.append(_assemble(fleet, part[0], _position(flat, *part[1:]), (*fit, int(run.diverging.sum())), rng))
    return found


def _density(u: Any, data: Any) -> jax.Array:
    """Of all fleets together, as a function of module level: a second call with equal shapes does not compile again."""
    args, sizes, scales, eta = data

    def of_one(u: Any, args: Any, sizes: Any, scales: Any) -> jax.Array:
        return -potential_energy(_model, (*args, eta), {}, _position(u, sizes, scales))

    return jax.vmap(of_one)(u, args, sizes, scales).sum()


def _position(u: Any, sizes: Any, scales: Any) -> Any:
    """From the sampler's scale (unit spread, zero at the estimate) to the unconstrained scale of the model."""
    return jax.tree.map(lambda value, size, scale: size + scale * value, u, sizes, scales)


def _prepare(statistics: CorrelationStatistics) -> tuple[Any, Any, Any]:
    """Arguments of the model, and where and how wide its parameters lie, on the unconstrained scale."""
    z, covariance = machine_estimates(statistics)
    of, n_archetype = statistics.archetype_of, len(statistics.archetypes)
    member = (of == np.arange(n_archetype)[:, None]).astype(float)  # (n_archetype, n_resource)
    error = np.diagonal(covariance, axis1=1, axis2=2)
    apart = z - (member @ z / member.sum(1)[:, None])[of]
    within = np.maximum((apart**2).sum(0) / max(len(z) - n_archetype, 1) - error.mean(0), LEAST_SPREAD**2)
    precision = member @ (1 / (error + within))
    mean, variance = member @ (z / (error + within)) / precision, 1 / precision
    between = np.maximum(mean.var(0) - variance.mean(0), LEAST_SPREAD**2)
    sizes = {"population": mean.mean(0), "resource_sd": np.log(within) / 2}
    spread = np.full(z.shape[1], LOG_SD)
    scales = {"population": np.sqrt((between + variance.mean(0)) / n_archetype), "resource_sd": spread}
    if n_archetype > 1:
        sizes["archetype_sd"], scales["archetype_sd"] = np.log(between) / 2, spread
    return (z, covariance, member), sizes, scales


def _given(prior: np.ndarray, sd: np.ndarray, estimate: Any, covariance: Any, rng: np.random.Generator) -> np.ndarray:
    """Draws of values that are Normal(prior, sd) and were estimated with an error; sd: (n_draw, 1, n_pair), others in line."""
    identity = np.eye(prior.shape[-1])
    variance = sd[..., None] ** 2 * identity
    gain = variance @ np.linalg.inv(variance + covariance)
    factor = np.linalg.cholesky((identity - gain) @ variance + TINY * identity)
    noise = rng.standard_normal(prior.shape)
    return np.asarray(prior + (gain @ (estimate - prior)[..., None] + factor @ noise[..., None])[..., 0])


def _assemble(
    statistics: CorrelationStatistics, args: Any, draws: Any, fit: tuple[float, float, int], rng: np.random.Generator
) -> CorrelationPosterior:
    """Matrices of every level from the draws of the top levels."""
    z, covariance, member = args
    centre, within = np.asarray(draws["population"]), np.exp(draws["resource_sd"])
    between = np.exp(draws["archetype_sd"]) if "archetype_sd" in draws else np.zeros_like(within)
    told = jax.vmap(lambda w: _archetype_estimates(z, _inverse(covariance + jnp.diag(w**2))[0], member))
    mean, mean_covariance, _ = (np.asarray(x) for x in jax.jit(told)(within))
    start = np.broadcast_to(centre[:, None], mean.shape)
    archetype = _given(start, between[:, None], mean, mean_covariance, rng)
    machine = _given(archetype[:, statistics.archetype_of], within[:, None], z, covariance, rng)
    new = archetype + within[:, None] * rng.standard_normal(archetype.shape)
    other = centre + np.sqrt(between**2 + within**2) * rng.standard_normal(centre.shape)
    population, kinds, machines, next_one, stranger = (to_matrix(x) for x in (centre, archetype, machine, new, other))
    return CorrelationPosterior(statistics, population, kinds, machines, next_one, stranger, *fit)
