"""A Bayesian structural model in NumPyro: level, damped slope, harmonics and covariates, Student-t noise.

The states are integrated out exactly by a Kalman filter in `lax.scan`, given one weight a value: Student-t noise is
Gaussian noise whose precision has a gamma weight. NUTS and SVI then see a handful of parameters and those weights
instead of two states a step. Sources: Durbin and Koopman (2012), chapters 2-4; West (1987), Biometrika 74.
All in 64 bits, whatever the rest of the process uses.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import numpyro
import numpyro.distributions as dist
from numpyro.infer import MCMC, NUTS, SVI, Trace_ELBO, init_to_value
from numpyro.optim import ClippedAdam

from support.errors import SchemaError, TooShortError
from support.forecasting.covariates import KnownCovariates, fourier

__all__ = ["StructuralFit", "fit_structural", "kalman_log_likelihood", "structural"]

DAILY_PAIRS, WEEKLY_PAIRS, DAYS = 4, 3, 7  # of sine and cosine; the week from two weeks of context on
NOISE_DF = 4.0  # of the Student-t noise; Gelman et al. (2013), section 17.2. Infinite: Gaussian
START_VAR = (1.0, 1e-4)  # prior variance of level and slope, the values being standardised
LEAST_PER_TERM = 3
N_DRAWS = 500
SVI_STEPS, SVI_RATE = 400, 0.03
START_SPREAD = 0.05  # of the guide
UNROLL = 4  # steps of the filter compiled as one
SUPPORTS = {
    "level_sd": dist.constraints.positive,
    "slope_sd": dist.constraints.positive,
    "damping": dist.constraints.unit_interval,
    "memory": dist.constraints.positive,
    "noise_sd": dist.constraints.positive,
}
Arrays = dict[str, Any]


def _filter(z: jax.Array, noise_var: jax.Array, p: Arrays) -> tuple[jax.Array, tuple]:
    """Log-likelihood of `z` (n_time,) with noise variances (n_time,), and the last state: means (2) and covariance (3).

    level_t = rho * level_(t-1) + slope_(t-1) + N(0, level_sd^2); slope_t = damping * slope_(t-1) + N(0, slope_sd^2).
    Written out in scalars, which compile to one loop.
    """
    rho, damping, level_var, slope_var = p["rho"], p["damping"], p["level_sd"] ** 2, p["slope_sd"] ** 2

    def step(state: tuple, now: tuple) -> tuple:
        level, slope, a, b, c = state
        level, slope = rho * level + slope, damping * slope
        a, b, c = rho**2 * a + 2 * rho * b + c + level_var, damping * (rho * b + c), damping**2 * c + slope_var
        error, variance = now[0] - level, a + now[1]
        gain, gain_slope = a / variance, b / variance
        later = (level + gain * error, slope + gain_slope * error, a * (1 - gain), b * (1 - gain), c - gain_slope * b)
        return later, (error, variance)

    zero = jnp.zeros((), z.dtype)
    first = (zero, zero, zero + START_VAR[0], zero, zero + START_VAR[1])
    scanned: tuple = jax.lax.scan(step, first, (z, noise_var), unroll=UNROLL)
    last, (errors, variances) = scanned
    return -0.5 * jnp.sum(jnp.log(2 * jnp.pi * variances) + errors**2 / variances), last


def kalman_log_likelihood(
    values: np.ndarray, *, level_sd: float, slope_sd: float, noise_sd: float, rho: float = 1.0, damping: float = 1.0
) -> float:
    """Exact log-likelihood of `values` (n_time,) under Gaussian noise; rho = damping = 1 is the local linear trend.

    Deviations in the unit of the values. The states before the first value are N(0, 1) and N(0, 1e-4), and move once.

    Example:
        >>> round(kalman_log_likelihood(np.zeros(1), level_sd=0.0, slope_sd=0.0, noise_sd=1.0), 4)
        -1.2655
    """
    p = {"rho": rho, "damping": damping, "level_sd": level_sd, "slope_sd": slope_sd}
    with jax.enable_x64(True):
        z = jnp.asarray(values, dtype=float)
        return float(_filter(z, jnp.full(len(values), noise_sd**2), p)[0])


def _model(z: jax.Array, x: jax.Array, memory: float, noise_df: float) -> None:
    """Priors for standardised values; `memory` is the prior median, in steps, of how long the level is remembered."""
    coefficients = numpyro.sample("coefficients", dist.Normal(0, 1).expand([x.shape[1]]).to_event(1))
    p = {
        "level_sd": numpyro.sample("level_sd", dist.HalfNormal(0.5)),
        "slope_sd": numpyro.sample("slope_sd", dist.HalfNormal(0.02)),
        "damping": numpyro.sample("damping", dist.Beta(5, 2)),
        "rho": jnp.exp(-1 / numpyro.sample("memory", dist.LogNormal(math.log(memory), 1.0))),
    }
    noise_sd = numpyro.sample("noise_sd", dist.HalfNormal(1))
    noise_var = jnp.full(z.shape, 1.0) * noise_sd**2
    if math.isfinite(noise_df):
        gamma = dist.Gamma(noise_df / 2, noise_df / 2).expand(z.shape).to_event(1)
        noise_var = noise_var / numpyro.sample("weights", gamma)
    numpyro.factor("likelihood", _filter(z - x @ coefficients, noise_var, p)[0])


def _start(n: int, k: int, memory: float, noise_df: float) -> Arrays:
    """Where both engines begin: the same for all data of a shape."""
    start: Arrays = {
        "coefficients": jnp.zeros(k),
        "level_sd": jnp.asarray(0.1),
        "slope_sd": jnp.asarray(0.005),
        "damping": jnp.asarray(0.7),
        "memory": jnp.asarray(float(memory)),
        "noise_sd": jnp.asarray(0.5),
    }
    return start | ({"weights": jnp.ones(n)} if math.isfinite(noise_df) else {})


@dataclass(frozen=True)
class StructuralFit:
    """Posterior draws of one series, in standardised units, and what is needed to go on from its last value.

    draws: by name of parameter, first axis the draw; memory in steps. last: state means and covariances after the last
    value, (n_draw,) each. future: harmonics and covariates of the horizon (horizon, k). diagnostics: `r_hat NAME` of
    each parameter but the weights, the worst of its entries, diverging and num_steps (NUTS), or the loss of each step
    (SVI). centre, scale: of the values.
    """

    draws: dict[str, np.ndarray]
    last: tuple[np.ndarray, ...]
    future: np.ndarray
    centre: float
    scale: float
    noise_df: float
    diagnostics: dict[str, np.ndarray]

    def paths(self, rng: np.random.Generator) -> np.ndarray:
        """Joint sample paths (n_draw, horizon) in the unit of the series, one a posterior draw."""
        level_mean, slope_mean, a, b, c = self.last
        n = len(a)
        first, second = rng.standard_normal((2, n))
        level = level_mean + np.sqrt(a) * first
        slope = slope_mean + b / np.sqrt(a) * first + np.sqrt(np.maximum(c - b**2 / a, 0)) * second
        seasonal = self.draws["coefficients"] @ self.future.T
        rho, damping = np.exp(-1 / self.draws["memory"]), self.draws["damping"]
        horizon = len(self.future)
        moves, turns = rng.standard_normal((2, horizon, n))
        noise = rng.standard_normal((horizon, n))
        if math.isfinite(self.noise_df):
            noise /= np.sqrt(rng.gamma(self.noise_df / 2, 2 / self.noise_df, (horizon, n)))
        out = np.empty((n, horizon))
        for h in range(horizon):
            level = rho * level + slope + self.draws["level_sd"] * moves[h]
            slope = damping * slope + self.draws["slope_sd"] * turns[h]
            out[:, h] = level + seasonal[:, h] + self.draws["noise_sd"] * noise[h]
        return self.centre + self.scale * out


def fit_structural(
    context: np.ndarray, horizon: int, season: int, rng: np.random.Generator, *, engine: str = "svi",
    known: KnownCovariates | None = None, noise_df: float = NOISE_DF, n_draws: int = N_DRAWS, n_warmup: int = 300,
    n_steps: int = SVI_STEPS,
) -> StructuralFit:  # fmt: skip
    """Posterior of the structural model of a context (n_time,), by "svi" (`n_steps`) or "nuts" (two chains).

    SVI: a joint normal for the parameters and one normal a weight, on unconstrained scales; the compiled loop is
    kept for the next series of the same length. Draws are n_draws in all. Raises TooShortError, SchemaError.
    """
    if engine not in ("svi", "nuts"):
        raise SchemaError(f"structural: engine {engine!r} is unknown. Use svi or nuts.")
    n = len(context)
    steps = np.arange(n + horizon)
    pieces = [np.ones((n + horizon, 1)), fourier(steps, season, DAILY_PAIRS)]
    if season > 1 and n >= 2 * DAYS * season:
        pieces.append(fourier(steps, DAYS * season, WEEKLY_PAIRS))
    if known is not None:
        pieces.append(np.vstack(known.matrices(horizon, season=season)))
    x = np.hstack(pieces)
    if n < LEAST_PER_TERM * x.shape[1]:
        raise TooShortError(f"context: {n} values; at least {LEAST_PER_TERM * x.shape[1]} are needed.")
    centre, scale = float(context.mean()), float(context.std()) or 1.0
    memory = float(season if season > 1 else max(2, n // 10))
    with jax.enable_x64(True):
        key = jax.random.key(int(rng.integers(2**31)))
        z, seen = jnp.asarray((context - centre) / scale), jnp.asarray(x[:n])
        if engine == "svi":
            params, losses = _svi(memory, noise_df, n_steps)(key, z, seen)
            draws, diagnostics = _guide_draws(params, n_draws, rng), {"loss": losses}
        else:
            draws, diagnostics = _nuts(key, z, seen, memory, noise_df, n_draws, n_warmup)
        last = _last_states(draws, z, seen)
    plain = {name: np.asarray(value) for name, value in draws.items()}
    return StructuralFit(
        plain, tuple(np.asarray(s) for s in last), x[n:], centre, scale, noise_df,
        {name: np.asarray(value) for name, value in diagnostics.items()},
    )  # fmt: skip


def structural(
    context: np.ndarray, horizon: int, season: int, levels: np.ndarray, rng: np.random.Generator, *,
    known: KnownCovariates | None = None,
) -> np.ndarray:  # fmt: skip
    """Quantiles (horizon, n_level) of the paths of the structural model fitted by SVI; arguments as `fit_structural`.

    Example:
        >>> found = structural(np.arange(60.0), 2, 1, np.array([0.1, 0.9]), np.random.default_rng(0))
        >>> bool((found[:, 0] < found[:, 1]).all())
        True
    """
    paths = fit_structural(context, horizon, season, rng, known=known).paths(rng)
    return np.quantile(paths, levels, axis=0).T


def _guide(z: jax.Array, x: jax.Array, memory: float, noise_df: float) -> None:
    """The variational family: one joint normal for the parameters and one normal a weight, on unconstrained scales.

    Written out, because an automatic guide takes twenty seconds to set itself up around the filter.
    """
    start, k = _start(len(z), x.shape[1], memory, noise_df), x.shape[1]
    moves = {name: dist.transforms.biject_to(support) for name, support in SUPPORTS.items()}
    first = jnp.concatenate([start["coefficients"], jnp.stack([moves[name].inv(start[name]) for name in moves])])
    centre = numpyro.param("centre", first)
    spread = numpyro.param(
        "spread", START_SPREAD * jnp.eye(len(first)), constraint=dist.constraints.scaled_unit_lower_cholesky
    )
    joint = numpyro.sample("joint", dist.MultivariateNormal(centre, scale_tril=spread), infer={"is_auxiliary": True})
    numpyro.sample("coefficients", dist.Delta(joint[:k], event_dim=1))
    for place, (name, move) in enumerate(moves.items(), start=k):
        value = move(joint[place])
        numpyro.sample(name, dist.Delta(value, log_density=-move.log_abs_det_jacobian(joint[place], value)))
    if math.isfinite(noise_df):
        log_centre = numpyro.param("weight_centre", jnp.zeros_like(z))
        log_spread = numpyro.param("weight_spread", jnp.full(z.shape, 0.3), constraint=dist.constraints.positive)
        numpyro.sample("weights", dist.LogNormal(log_centre, log_spread).to_event(1))


@lru_cache(maxsize=8)
def _svi(memory: float, noise_df: float, n_steps: int) -> Callable[..., tuple]:
    """A compiled fit: (key, z (n_time,), x (n_time, k)) -> (parameters of the guide, loss (n_steps,))."""
    rate = lambda i: SVI_RATE * 0.5 * (1 + jnp.cos(jnp.pi * i / n_steps))  # noqa: E731
    svi = SVI(_model, _guide, ClippedAdam(rate), Trace_ELBO(), memory=memory, noise_df=noise_df)

    @jax.jit
    def run(key: jax.Array, z: jax.Array, x: jax.Array) -> tuple:
        state, losses = jax.lax.scan(lambda s, _: svi.update(s, z, x), svi.init(key, z, x), None, length=n_steps)
        return svi.get_params(state), losses

    return run


def _guide_draws(params: Arrays, n_draws: int, rng: np.random.Generator) -> Arrays:
    """Draws from the fitted guide, by name; the maps are those of `_guide`."""
    centre, spread = np.asarray(params["centre"]), np.asarray(params["spread"])
    joint = centre + rng.standard_normal((n_draws, len(centre))) @ spread.T
    k = len(centre) - len(SUPPORTS)
    draws: Arrays = {"coefficients": joint[:, :k]}
    for place, (name, support) in enumerate(SUPPORTS.items(), start=k):
        draws[name] = np.asarray(dist.transforms.biject_to(support)(joint[:, place]))
    if "weight_centre" in params:
        log_centre, log_spread = np.asarray(params["weight_centre"]), np.asarray(params["weight_spread"])
        draws["weights"] = np.exp(log_centre + log_spread * rng.standard_normal((n_draws, len(log_centre))))
    return draws


def _nuts(
    key: jax.Array, z: jax.Array, x: jax.Array, memory: float, noise_df: float, n_draws: int, n_warmup: int
) -> tuple[Arrays, Arrays]:
    """Two chains in lockstep, which cost the filter's loop once."""
    start = init_to_value(values=_start(len(z), x.shape[1], memory, noise_df))
    sampler = MCMC(
        NUTS(_model, init_strategy=start), num_warmup=n_warmup, num_samples=n_draws // 2, num_chains=2,
        chain_method="vectorized", progress_bar=False,
    )  # fmt: skip
    sampler.run(key, z, x, memory, noise_df, extra_fields=("diverging", "num_steps"))
    draws = sampler.get_samples()
    told = numpyro.diagnostics.summary(sampler.get_samples(group_by_chain=True))
    worst = {f"r_hat {name}": np.max(row["r_hat"]) for name, row in told.items() if name != "weights"}
    extra = sampler.get_extra_fields()
    return draws, worst | {"diverging": extra["diverging"].sum(), "num_steps": extra["num_steps"].mean()}


@jax.jit
def _last_states(draws: Arrays, z: jax.Array, x: jax.Array) -> tuple:
    def one(draw: Arrays) -> tuple:
        p = draw | {"rho": jnp.exp(-1 / draw["memory"])}
        noise_var = jnp.full(z.shape, 1.0) * draw["noise_sd"] ** 2 / draw.get("weights", jnp.ones(()))
        return _filter(z - x @ draw["coefficients"], noise_var, p)[1]

    return jax.vmap(one)(draws)
