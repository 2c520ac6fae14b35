"""Coverage of the correlations: known fleets simulated, taken through cycle removal, ranks and effective sizes, and fitted."""

from __future__ import annotations

import time
from dataclasses import replace

import jax
import numpy as np
import pandas as pd

import support.bayes  # noqa: F401  (double precision)
from benchmarks.record import store
from support.bayes.correlation import fit_many, to_matrix
from support.bayes.scores import CorrelationStatistics, statistics_of
from support.telemetry import ar1

FLEETS, ARCHETYPES, MACHINES = 100, 3, 2  # machines of each archetype
BATCH = 10  # fleets fitted in one run of the sampler
DAYS, METRICS = 21, ("cpu", "memory", "network", "disk")
BETWEEN_SD, WITHIN_SD = 0.35, 0.12  # Fisher's z
MEMORY_HOURS = 3.0
LEVELS = (0.5, 0.9)
SEED = 20261121


def fleet(number: int) -> tuple[CorrelationStatistics, dict[str, np.ndarray]]:
    """One simulated fleet and its true matrices: population (k, k), archetype (a, k, k), resource (r, k, k)."""
    rng = np.random.default_rng([SEED, number])
    n_pair = len(METRICS) * (len(METRICS) - 1) // 2
    centre = rng.normal(0.3, 0.3, n_pair)
    archetype = centre + BETWEEN_SD * rng.standard_normal((ARCHETYPES, n_pair))
    of = np.repeat(np.arange(ARCHETYPES), MACHINES)
    machine = archetype[of] + WITHIN_SD * rng.standard_normal((len(of), n_pair))
    new = archetype + WITHIN_SD * rng.standard_normal(archetype.shape)
    truth = {"population": centre, "archetype": archetype, "resource": machine, "new_resource": new}
    truth = {name: to_matrix(z) for name, z in truth.items()}
    times = pd.date_range("2026-03-02", periods=DAYS * 24, freq="1h", tz="UTC")
    hours = np.asarray(times.dayofweek * 24 + times.hour, dtype=float)
    values = {}
    for place, matrix in enumerate(truth["resource"]):
        noise = np.linalg.cholesky(matrix) @ ar1((len(METRICS), len(times)), MEMORY_HOURS, 1.0, rng=rng)
        cycle = np.outer(rng.uniform(0.3, 1.2, len(METRICS)), np.sin(2 * np.pi * hours / 24) - 0.5 * (hours >= 120))
        values[f"m{place:02d}"] = pd.DataFrame(np.exp((noise + cycle).T), times, list(METRICS))
    kinds = {f"m{place:02d}": f"a{a}" for place, a in enumerate(of)}
    return statistics_of(values, kinds, 3600.0, season="week"), truth


def coverage(fleets: list[CorrelationStatistics], truths: list[dict[str, np.ndarray]]) -> dict[str, object]:
    """Share of true correlations inside the intervals, by part of the model and level, and how the sampler did."""
    began = time.perf_counter()
    found = []
    for first in range(0, len(fleets), BATCH):
        key = jax.random.fold_in(jax.random.key(SEED), first)
        found += fit_many(fleets[first : first + BATCH], key=key, n_warmup=300, n_draws=400, n_chains=2)
        print(f"{first + BATCH} of {len(fleets)} fleets, {time.perf_counter() - began:.0f} s", flush=True)
    seconds = time.perf_counter() - began
    pairs = fleets[0].pairs
    result: dict[str, object] = {}
    for of in truths[0]:
        for level in LEVELS:
            inside, width = [], []
            for posterior, truth in zip(found, truths, strict=True):
                lower, upper = np.quantile(getattr(posterior, of), [(1 - level) / 2, (1 + level) / 2], axis=0)
                inside += [(lower[..., a, b] <= truth[of][..., a, b]) & (truth[of][..., a, b] <= upper[..., a, b]) for a, b in pairs]  # fmt: skip
                width += [(upper - lower)[..., a, b] for a, b in pairs]
            result[f"{of} {100 * level:.0f}%"] = {"coverage": float(np.mean(inside)), "width": float(np.mean(width))}
    worst = max(p.r_hat for p in found)
    return result | {
        "seconds": seconds,
        "worst_r_hat": worst,
        "divergences": sum(p.divergences for p in found[::BATCH]),
    }


def main() -> None:
    """Simulate, fit with effective sizes and with plain row counts, store."""
    made = [fleet(number) for number in range(FLEETS)]
    fleets, truths = [f for f, _ in made], [t for _, t in made]
    naive = [replace(f, n_effective=f.n_time.astype(float)) for f in fleets]
    sizes = {"fleets": FLEETS, "archetypes": ARCHETYPES, "machines_each": MACHINES, "days": DAYS, "step_seconds": 3600,
             "metrics": len(METRICS), "memory_hours": MEMORY_HOURS, "between_sd": BETWEEN_SD, "within_sd": WITHIN_SD,
             "mean_rows": float(np.mean([f.n_time for f in fleets])),
             "mean_effective": float(np.mean([f.n_effective for f in fleets]))}  # fmt: skip
    results = {"sizes": sizes, "effective": coverage(fleets, truths), "rows as if independent": coverage(naive, truths)}
    store("correlations", results, ("jax", "numpyro", "numpy"))


if __name__ == "__main__":
    main()
