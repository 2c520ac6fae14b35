"""Fleets of 500 to 10^5 resources: bias of the approximations against HMC, then seconds, ESS per second and memory.

Run: python -m benchmarks.bayes_scale; writes benchmarks/results/bayes_scale.json after every part, so that a part can be
made again with `--only bias`, `--only 2000`, `--only 10000`, `--only 100000`. On a machine with a GPU the same command runs on it, and
the part is stored beside the CPU's. A quarter of an hour on two idle cores.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np

from benchmarks.record import ROOT, store
from support.bayes.calibration import simulate_fleet
from support.bayes.informed import informed_points
from support.bayes.model import constrain, log_density, start
from support.bayes.sampler import sample
from support.bayes.scale import fit_top_level, fit_variational, over_devices
from support.bayes.summaries import as_fleet, draw_resources
from support.bayes.utilization import UtilizationModel

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz as az

INDUSTRIES, APPLICATIONS, SEED = 5, 4, 20260727
TOP = ("eta", "sd", "m", "l", "tau", "s", "b")
BIAS_OBSERVATIONS = (48, 200)  # each, of the 500 resources on which the approximations are compared with HMC
LARGE_OBSERVATIONS = 48
EXACT = {"n_warmup": 300, "n_draws": 700}  # of HMC on all levels of 2,000 resources, four chains
PARTS = ("bias", "2000", "10000", "100000")
Result = dict[str, Any]


@contextmanager
def clocked(into: Result, name: str) -> Iterator[None]:
    """Wall and processor seconds of a step, compilation included."""
    wall, cpu = time.perf_counter(), time.process_time()
    yield
    into[name] = {"wall_s": round(time.perf_counter() - wall, 1), "cpu_s": round(time.process_time() - cpu, 1)}
    print(name, into[name], file=sys.stderr, flush=True)


def quality(draws: dict[str, Any]) -> Result:
    """Smallest bulk ESS and largest R-hat over all scalars above the resources."""
    dataset = az.convert_to_dataset({name: np.asarray(draws[name]) for name in TOP})
    ess = min(float(v.min()) for v in az.ess(dataset).data_vars.values())
    return {
        "min_bulk_ess": round(ess, 1),
        "max_rhat": round(max(float(v.max()) for v in az.rhat(dataset).data_vars.values()), 4),
    }


def against(reference: dict[str, np.ndarray], other: dict[str, Any]) -> Result:
    """Per parameter: mean absolute difference of means in the reference's sds, and the mean ratio of sds."""
    result = {}
    for name in TOP:
        exact, near = (np.reshape(x[name], (-1, np.prod(np.shape(x[name])[2:], dtype=int))) for x in (reference, other))
        difference = np.abs(near.mean(0) - exact.mean(0)) / exact.std(0)
        result[name] = {
            "difference_in_sd": round(float(difference.mean()), 3),
            "sd_ratio": round(float((near.std(0) / exact.std(0)).mean()), 3),
        }
    return result


def bias(n_observation: int) -> Result:
    """HMC on all parameters of 500 resources against SVI and the two kinds of summaries."""
    stats, _ = simulate_fleet(
        rng=np.random.default_rng(SEED),
        n_industry=INDUSTRIES,
        n_application=APPLICATIONS,
        n_resource=25,
        n_observation=n_observation,
    )
    keys, out = jax.random.split(jax.random.key(SEED), 6), {}
    with clocked(out, "hmc"):
        points = informed_points(stats)
        draws = sample(log_density(stats, points), start(stats, points), n_warmup=500, n_draws=1000, key=keys[0])
        named = jax.jit(jax.vmap(jax.vmap(lambda p: constrain(p, stats, points))))(draws.positions)
        exact = {name: np.asarray(named[name]) for name in TOP}
    out["hmc"] |= quality(exact) | {"divergences": int(draws.diverging.sum())}
    out["hmc"]["two_chains_against_the_other_two"] = against(
        {k: v[:2] for k, v in exact.items()}, {k: v[2:] for k, v in exact.items()}
    )
    fleet = as_fleet(stats, points)
    with clocked(out, "svi"):
        guide = fit_variational(fleet, key=keys[1], n_steps=4000, batch=100)
        near = guide.draws(fleet, 4000, key=keys[2])
    out["svi"] |= {"against_hmc": against(exact, {k: v[None] for k, v in near.items()})}
    for name, moments in (("laplace", False), ("moments", True)):
        with clocked(out, name):
            fit = fit_top_level(fleet, key=keys[3], moments=moments, n_draws=1000)
        out[name] |= quality(fit.named) | {"against_hmc": against(exact, fit.named)}
    return out


def exact(n_resource: int) -> Result:
    """HMC on all levels of a fleet that is still small enough for it."""
    out: Result = {"observations_each": LARGE_OBSERVATIONS} | EXACT
    stats, _ = simulate_fleet(
        rng=np.random.default_rng(SEED), n_industry=INDUSTRIES, n_application=APPLICATIONS,
        n_resource=n_resource // (INDUSTRIES * APPLICATIONS), n_observation=LARGE_OBSERVATIONS,
    )  # fmt: skip
    with clocked(out, "hmc"):
        model = UtilizationModel(week=False, weight="none", **EXACT).fit_statistics(stats, key=jax.random.key(SEED))
    posterior = {name: model.fit_.posterior[name] for name in TOP}
    out["hmc"] |= quality(posterior) | {"divergences": int(model.fit_.diverging.sum())}
    return out | {"peak_memory_gib": peak()}


def large(n_resource: int) -> Result:
    """The path of a large fleet: Laplace fit, SVI, summaries and HMC above them, a draw of every resource."""
    out: Result = {"devices": [d.device_kind for d in jax.devices()], "observations_each": LARGE_OBSERVATIONS}
    keys = jax.random.split(jax.random.key(SEED), 6)
    with clocked(out, "simulation"):
        stats, truth = simulate_fleet(
            rng=np.random.default_rng(SEED), n_industry=INDUSTRIES, n_application=APPLICATIONS,
            n_resource=n_resource // (INDUSTRIES * APPLICATIONS), n_observation=LARGE_OBSERVATIONS,
        )  # fmt: skip
    with clocked(out, "laplace_fit"):
        fleet = over_devices(as_fleet(stats, informed_points(stats)))
    with clocked(out, "top_level"):
        fit = fit_top_level(fleet, key=keys[0])
    out["top_level"] |= quality(fit.named) | {
        "divergences": int(fit.draws.diverging.sum()),
        "gradients_per_chain": fit.draws.n_gradients // 4,
    }
    seconds = out["laplace_fit"]["wall_s"] + out["top_level"]["wall_s"]
    out["top_level"] |= {
        "seconds_with_laplace_fit": seconds,
        "ess_per_second": round(out["top_level"]["min_bulk_ess"] / seconds, 2),
    }
    inside = [
        (np.quantile(x, 0.05, axis=(0, 1)) <= truth[k]) & (truth[k] <= np.quantile(x, 0.95, axis=(0, 1)))
        for k, x in ((k, np.asarray(fit.named[k])) for k in TOP)
    ]
    out["top_level"]["truths_in_90_percent_intervals"] = (
        f"{sum(int(np.sum(i)) for i in inside)} of {sum(np.size(i) for i in inside)}"
    )
    with clocked(out, "draw_of_all_resources"):
        one = jax.block_until_ready(
            draw_resources({k: v[0, -1] for k, v in fit.named.items()}, fit.summaries, key=keys[1])
        )
    error = np.asarray(one["theta"])[: len(stats.resources)] - truth["theta"]
    out["draw_of_all_resources"]["rms_error_of_theta"] = round(float(np.sqrt((error**2).mean())), 3)
    out["peak_memory_gib_top_level"] = peak()
    with clocked(out, "svi"):
        guide = fit_variational(fleet, key=keys[2], n_steps=4000, batch=1000)
        near = guide.draws(fleet, 4000, key=keys[3])
    out["svi"] |= {"against_top_level": against(fit.named, {k: v[None] for k, v in near.items()})}
    return out | {"peak_memory_gib": peak()}


def peak() -> float:
    """Largest memory so far: the process's, or the first device's where it says so."""
    known = jax.devices()[0].memory_stats() or {}
    held = known.get("peak_bytes_in_use", 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    return round(held / 2**30, 2)


def main() -> None:
    """Every part in a process of its own, so that memory and compilation are its own; stored as they end."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=PARTS)
    parser.add_argument("--child", choices=PARTS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.child:
        if asked.child == "bias":
            result = {f"{n} observations": bias(n) for n in BIAS_OBSERVATIONS}
        else:
            result = (exact if asked.child == "2000" else large)(int(asked.child))
        print(json.dumps({"platform": jax.default_backend(), "result": result}))
        return
    path = ROOT / "benchmarks" / "results" / "bayes_scale.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    for part in [asked.only] if asked.only else PARTS:
        load, began = os.getloadavg()[0], time.perf_counter()
        run = subprocess.run(
            [sys.executable, "-m", "benchmarks.bayes_scale", "--child", part],
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        answer = json.loads(run.stdout.splitlines()[-1])
        about = {"load_at_start": round(load, 1), "process_wall_s": round(time.perf_counter() - began, 1)}
        results.setdefault(answer["platform"], {})[part] = answer["result"] | about
        store("bayes_scale", results, ("jax", "optax", "numpy", "scipy", "arviz"))


if __name__ == "__main__":
    main()
