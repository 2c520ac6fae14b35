"""Simulation-based calibration of the utilisation model: fleets drawn from the prior, fitted together, ranks of the truth.

Run: python -m benchmarks.sbc; writes benchmarks/results/sbc.json. Several minutes on two cores.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.flatten_util import ravel_pytree
from scipy.special import expit, gammaln

from benchmarks.record import store
from support.bayes.calibration import coverage, ecdf_band, rank_of_truth, simulate_fleet, uniformity
from support.bayes.informed import informed_points
from support.bayes.model import density_of, model_data, parameters_of, start
from support.bayes.sampler import TARGET_ACCEPTANCE, TRAJECTORY, program
from support.bayes.statistics import seasonal_basis

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz as az

FLEETS, BATCH, SEED = 200, 40, 20260727
CHAINS, WARMUP, DRAWS, THIN = 2, 300, 600, 12  # 2 x 600 draws, every twelfth: 100, of which 99 give 100 ranks
BINS = 20
RANKS = CHAINS * DRAWS // THIN - 1
TOP = ("eta", "sd", "m", "l", "tau", "s", "b")
LEVELS = (0.5, 0.9)
REFERENCE = 0.05  # level of the tests, over all parameters together (Holm)


def stack(data: list[Any]) -> tuple[Any, Any]:
    """Data of fleets of one layout as one pytree, and the axis of each array: None for what they have in common."""
    leaves, tree = zip(*(jax.tree.flatten(d) for d in data), strict=True)
    columns = [[np.asarray(x) for x in xs] for xs in zip(*leaves, strict=True)]
    axes = [None if all(np.array_equal(x, xs[0]) for x in xs) else 0 for xs in columns]
    stacked = [jnp.asarray(xs[0] if axis is None else np.stack(xs)) for xs, axis in zip(columns, axes, strict=True)]
    return jax.tree.unflatten(tree[0], stacked), axes


def fit(data: Any, begin: Any, key: jax.Array) -> tuple[Any, ...]:
    """Draws of the named parameters of one fleet (n_chain, n_draw, ...), acceptance, divergences and steps."""
    flat, unravel = ravel_pytree(begin)
    density = lambda position: density_of(position, data)  # noqa: E731
    run = program(density, unravel, CHAINS, WARMUP, DRAWS, TRAJECTORY, TARGET_ACCEPTANCE)
    _, (q, acceptance, _, diverging, n_steps) = run(flat, key)
    named = jax.vmap(jax.vmap(lambda x: parameters_of(unravel(x), data)))(jnp.swapaxes(q, 0, 1))
    return named, acceptance[WARMUP:].mean(), diverging[WARMUP:].sum(), n_steps[WARMUP:]


def log_likelihood(values: dict[str, np.ndarray], stats: Any) -> np.ndarray:
    """Beta log likelihood in NumPy and SciPy for draws (n_draw, ...) of theta, log_kappa and b."""
    logits = values["theta"][..., None] + (values["b"] @ seasonal_basis(stats.n_hour_cell).T)[:, stats.application_of]
    kappa = np.exp(values["log_kappa"])[..., None]
    a, b = expit(logits) * kappa, expit(-logits) * kappa
    terms = (a - 1) * stats.s1 + (b - 1) * stats.s2 - stats.n * (gammaln(a) + gammaln(b) - gammaln(kappa))
    return terms.sum(axis=(1, 2))


def holm(p_values: list[float]) -> float:
    """Smallest p-value adjusted for the number of tests."""
    return float(min(1.0, min(p_values) * len(p_values)))


def main() -> None:
    """Simulate, fit, rank, test, store."""
    rng, key, began = np.random.default_rng(SEED), jax.random.key(SEED), time.perf_counter()
    simulated = [simulate_fleet(rng=rng) for _ in range(FLEETS)]
    fleets = [(stats, informed_points(stats)) for stats, _ in simulated]
    data, axes = stack([model_data(*fleet) for fleet in fleets])
    leaves, tree = jax.tree.flatten(data)
    begin = start(*fleets[0])  # the Laplace point is zero in every fleet's own scale
    together = jax.jit(jax.vmap(fit, in_axes=(jax.tree.unflatten(tree, axes), None, 0)))
    print(f"prepared {time.perf_counter() - began:.0f} s", flush=True)
    parts: list[dict[str, np.ndarray]] = []
    likelihoods, acceptance, divergences, steps = [], [], [], []
    for i in range(FLEETS // BATCH):
        rows = slice(i * BATCH, (i + 1) * BATCH)
        some = jax.tree.unflatten(tree, [x if axis is None else x[rows] for x, axis in zip(leaves, axes, strict=True)])
        out = together(some, begin, jax.random.split(jax.random.fold_in(key, i), BATCH))
        draws, accepted, diverged, n_steps = jax.tree.map(np.asarray, out)
        acceptance.append(accepted), steps.append(n_steps), divergences.append(diverged)
        thin = {
            k: v[:, :, THIN - 1 :: THIN].reshape(BATCH, RANKS + 1, *v.shape[3:])[:, :RANKS] for k, v in draws.items()
        }
        for j, (stats, truth) in enumerate(simulated[rows]):
            values = {k: np.concatenate([np.asarray(truth[k])[None], thin[k][j]]) for k in ("theta", "log_kappa", "b")}
            likelihoods.append(log_likelihood(values, stats))
        parts.append({k: draws[k] for k in TOP} | {f"{k}_thin": thin[k] for k in TOP})
        print(f"{(i + 1) * BATCH} fleets, {time.perf_counter() - began:.0f} s", flush=True)
    draws = {k: np.concatenate([part[k] for part in parts]) for k in TOP}
    thinned = {k: np.concatenate([part[f"{k}_thin"] for part in parts]) for k in TOP}
    truth = {k: np.stack([np.asarray(t[k]) for _, t in simulated]) for k in TOP}
    ll = np.stack(likelihoods)
    truth["log_likelihood"], thinned["log_likelihood"] = ll[:, 0], ll[:, 1:]
    results = judge(truth, thinned, draws, rng)
    results |= {
        "fleets": FLEETS, "chains": CHAINS, "warmup": WARMUP, "draws": DRAWS, "ranks_from": RANKS,
        "size": {"industries": 3, "applications": 3, "resources_per_cell": 6, "observations": 48},
        "seconds": round(time.perf_counter() - began, 1), "cpu_seconds": round(time.process_time(), 1),
        "divergences": int(np.sum(divergences)), "fleets_with_divergences": int((np.concatenate(divergences) > 0).sum()),
        "acceptance": round(float(np.concatenate(acceptance).mean()), 3),
        "steps_per_transition": float(np.median(np.concatenate(steps))),
    }  # fmt: skip
    store("sbc", results, ("jax", "numpy", "scipy", "arviz"))


def judge(
    truth: dict[str, Any], thinned: dict[str, Any], draws: dict[str, Any], rng: np.random.Generator
) -> dict[str, Any]:
    """Histograms, p-values and coverage per scalar parameter and per group, R-hat and effective sample size."""
    ranks = rank_of_truth(truth, thinned)
    parameters: dict[str, Any] = {}
    for name, array in ranks.items():
        for index in np.ndindex(array.shape[1:]):
            label = name + ("[" + ",".join(map(str, index)) + "]" if index else "")
            column = array[(slice(None), *index)]
            inside = {
                f"coverage_{100 * level:.0f}": round(
                    coverage(
                        truth[name][(slice(None), *index)], thinned[name][(slice(None), slice(None), *index)], level
                    ),
                    4,
                )
                for level in LEVELS
            }
            parameters[label] = {"parameter": name} | uniformity(column, RANKS, rng=rng, bins=BINS) | inside
    groups = {
        name: {f"coverage_{100 * level:.0f}": round(coverage(truth[name], thinned[name], level), 4) for level in LEVELS}
        | {
            f"{test}_smallest_p_holm": holm([p[f"{test}_p"] for p in parameters.values() if p["parameter"] == name])
            for test in ("chi_square", "ecdf")
        }
        | {"counts": np.sum([p["counts"] for p in parameters.values() if p["parameter"] == name], axis=0).tolist()}
        for name in ranks
    }
    dataset = az.convert_to_dataset({k: np.moveaxis(v, 0, 2) for k, v in draws.items()})
    ess = np.concatenate([np.ravel(v) for v in az.ess(dataset).data_vars.values()])
    rhat = np.concatenate([np.ravel(v) for v in az.rhat(dataset).data_vars.values()])
    z, low, high = ecdf_band(len(ranks["s"]), RANKS, rng=rng, level=1 - REFERENCE)
    at = np.isclose((z * BINS) % 1, 0) | np.isclose((z * BINS) % 1, 1)  # where the histograms' cumulated counts are
    tests = {t: [p[f"{t}_p"] for p in parameters.values()] for t in ("chi_square", "ecdf")}
    return {
        "n_parameters": len(parameters),
        "smallest_p_holm": {test: holm(values) for test, values in tests.items()},
        "share_under_5_percent": {test: float(np.mean(np.array(values) < 0.05)) for test, values in tests.items()},
        "rhat": {"largest": float(rhat.max()), "share_over_1.01": float((rhat > 1.01).mean())},
        "bulk_ess": {"smallest": float(ess.min()), "median": float(np.median(ess))},
        "groups": groups,
        "parameters": parameters,
        "ecdf_band_95": {k: np.round(v[at], 4).tolist() for k, v in (("z", z), ("low", low), ("high", high))},
    }


if __name__ == "__main__":
    main()
