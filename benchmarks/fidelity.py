"""How real simulated machines look: the fitted model, typed-in archetypes and the earlier systems' recipes, held-out machines.

Run: python benchmarks/fidelity.py; writes benchmarks/results/fidelity.json (about 4 minutes on one core). With --write it
fits the committed presets support/telemetry/generation/fitted/*.json to the whole traces first. Needs the traces bitbrains-rnd,
bitbrains-faststorage, nab and asd (BOOK_DATA or a download).
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"  # before NumPy is imported
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import numpy as np
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.record import store
from support.telemetry import load
from support.telemetry.fidelity import compare_statistics, machines, two_sample_test
from support.telemetry.generation.fitted import FOLDER, FittedModel, fit, simulate
from support.telemetry.generation.machines import Place, machine
from support.telemetry.judging.features import STEPS_PER_DAY, window_features
from support.telemetry.taxonomy import profile, taxonomy

CPU = "cpu_utilization"
SEED = 20260301
SPLITS, DAYS = 3, 30
TIMES = pd.date_range("2026-03-02", periods=DAYS * STEPS_PER_DAY, freq="300s", tz="UTC")
SPREAD_SD = 0.15  # log units, of a typed-in machine's level among its kind, as in the generator's presets
EC2 = ("24ae8d", "53ea38", "5f5533", "77c1ca", "825cc2", "c6585a")
NAB_CPU = (
    *(f"nab:realAWSCloudwatch/ec2_cpu_utilization_{part}" for part in EC2),
    "nab:realAWSCloudwatch/rds_cpu_utilization_cc0c53",
    "nab:realKnownCause/cpu_utilization_asg_misconfiguration",
)
BITBRAINS = ("bitbrains-faststorage", "bitbrains-rnd")
# mean, sd, business-hours factor, weekend factor, spike probability, spike size: AWS-CapacityForecaster, fleet archetypes
SERVERS = {
    "web": (45, 15, 1.6, 0.5, 0.03, 1.8, 0.35),
    "database": (35, 12, 1.3, 0.7, 0.01, 1.4, 0.15),
    "application": (50, 18, 1.5, 0.6, 0.02, 1.6, 0.40),
    "batch": (30, 25, 0.8, 1.2, 0.08, 2.5, 0.10),
}
# CPU mean, "variance" field, probability of a burst, peak factor, idle probability: hello-cloud, workload profiles
WORKLOADS = {
    "web application": (15, 20, 0.15, 3.5, 0.30),
    "microservice": (12, 25, 0.20, 5.0, 0.40),
    "batch processing": (8, 40, 0.05, 10.0, 0.70),
    "ML training": (25, 30, 0.10, 4.0, 0.50),
    "ML inference": (30, 15, 0.15, 2.0, 0.20),
    "database OLTP": (20, 15, 0.10, 2.5, 0.10),
    "database OLAP": (10, 35, 0.05, 8.0, 0.60),
    "streaming": (35, 10, 0.20, 1.5, 0.05),
    "serverless": (5, 45, 0.30, 20.0, 0.85),
    "cache": (10, 5, 0.05, 1.2, 0.00),
    "message queue": (8, 15, 0.25, 3.0, 0.30),
    "development": (5, 30, 0.10, 3.0, 0.80),
}

Arrays = dict[str, np.ndarray]


def fleet_recipe(n: int, rng: np.random.Generator) -> Arrays:
    """AWS-CapacityForecaster: independent normal samples x hour x weekend x spikes, cut off at 0 and 100."""
    hour, weekend = TIMES.hour.to_numpy(), TIMES.dayofweek.to_numpy() >= 5
    result = {}
    for number, kind in enumerate(rng.choice(list(SERVERS), n, p=[row[-1] for row in SERVERS.values()])):
        mean, sd, business, at_weekend, probability, size, _ = SERVERS[kind]
        x = rng.normal(mean, sd, len(TIMES)) * np.where((hour >= 9) & (hour < 17) & ~weekend, business, 1.0)
        x *= np.where(weekend, at_weekend, 1.0) * np.where(rng.random(len(TIMES)) < probability, size, 1.0)
        result[f"{kind}-{number}"] = np.clip(x, 0, 100)[:, None]
    return result


def workload_recipe(n: int, rng: np.random.Generator) -> Arrays:
    """hello-cloud: independent normal samples around mean x hour, single bursts and idle samples, cut off at 0 and 100."""
    hour, weekend = TIMES.hour.to_numpy(), TIMES.dayofweek.to_numpy() >= 5
    curve = np.select([weekend, (hour >= 9) & (hour < 17), (hour >= 6) & (hour < 20)], [0.2, 1.5, 1.2], 0.3)
    result = {}
    for number in range(n):
        kind = list(WORKLOADS)[number % len(WORKLOADS)]
        mean, sd, burst, peak, idle = WORKLOADS[kind]
        x = mean * curve + rng.normal(0, sd / 4, len(TIMES))
        x *= np.where(rng.random(len(TIMES)) < burst, peak, 1.0) * np.where(rng.random(len(TIMES)) < idle, 0.1, 1.0)
        result[f"{kind}-{number}"] = np.clip(x, 0, 100)[:, None]
    return result


def typed_in(n: int, rng: np.random.Generator) -> Arrays:
    """The archetypes of this book's taxonomy, all kinds in turn, with spells, memory and soft saturation."""
    kinds = list(taxonomy().index)
    result = {}
    for number, (kind, name) in enumerate(kinds[k % len(kinds)] for k in rng.permutation(max(n, len(kinds)))[:n]):
        made = machine(profile(name, kind), TIMES, place=Place(), rng=rng, spread_sd=SPREAD_SD)
        result[f"{name}-{number}"] = made[CPU][:, None]
    return result


def nab_cpu() -> Arrays:
    """The CPU series of NAB that are real, one array each."""
    return {source: next(iter(machines(load(source), [CPU]).values())) for source in NAB_CPU}


def bitbrains_cpu() -> Arrays:
    """CPU of all Bitbrains machines of both collections."""
    return {f"{source}:{name}": x for source in BITBRAINS for name, x in machines(load(source), [CPU]).items()}


def traces() -> dict[str, tuple[Arrays, list[str], str]]:
    """Preset name -> machines, metrics, provenance."""
    rnd, storage, asd, nab = (load(source) for source in ("bitbrains-rnd", "bitbrains-faststorage", "asd", NAB_CPU[0]))
    said = {t.source: t.provenance.removeprefix("Real trace ") for t in (rnd, storage, asd, nab)}
    both = f"Fitted to {said[storage.source]} And to {said[rnd.source]}"
    nab_said = f"Fitted to {len(NAB_CPU)} CPU series. {said[nab.source]}"
    return {
        "bitbrains": (bitbrains_cpu(), [CPU], both),
        "bitbrains-rnd": (machines(rnd, rnd.metrics), rnd.metrics, f"Fitted to {said[rnd.source]}"),
        "nab": (nab_cpu(), [CPU], nab_said),
        "asd": (machines(asd, asd.metrics), asd.metrics, f"Fitted to {said[asd.source]}"),
    }


def write_presets() -> dict[str, object]:
    """Fit and store the committed models; their sizes and the seconds each took."""
    FOLDER.mkdir(exist_ok=True)
    result: dict[str, object] = {}
    for name, (arrays, metrics, provenance) in traces().items():
        start = time.perf_counter()
        model = fit(arrays, metrics, name=name, provenance=provenance, rng=np.random.default_rng(SEED))
        model.save(FOLDER / f"{name}.json")
        result[name] = {
            "machines": len(model.machines),
            "fit_seconds": round(time.perf_counter() - start, 1),
            "kilobytes": round((FOLDER / f"{name}.json").stat().st_size / 1e3),
        }
    return result


def new_machines(model: FittedModel, n: int, rng: np.random.Generator) -> Arrays:
    """Machines of a fitted model as arrays."""
    return machines(simulate(model, TIMES, n_resources=n, rng=rng), list(model.metrics))


def boosted_auc(real: pd.DataFrame, simulated: pd.DataFrame, rng: np.random.Generator) -> float:
    """Mean AUC over folds of gradient-boosted trees on the same features, as a second opinion."""
    table = pd.concat([real, simulated]).reset_index(drop=True).to_numpy()
    truth = np.repeat([0, 1], [len(real), len(simulated)])
    groups = np.concatenate([[f"r{name}" for name in real.index], [f"s{name}" for name in simulated.index]])
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=int(rng.integers(2**31))).split(table, truth, groups)
    scores = []
    for train, test in folds:
        model = HistGradientBoostingClassifier(max_iter=100, random_state=0).fit(table[train], truth[train])
        scores.append(roc_auc_score(truth[test], model.predict_proba(table[test])[:, 1]))
    return float(np.mean(scores))


def held_out_machines() -> dict[str, object]:
    """AUC on the half of the Bitbrains machines that nothing was fitted to, for each generator, over random halves."""
    arrays = bitbrains_cpu()
    real = window_features(arrays)
    ids = sorted(real.index.unique())
    rows: list[dict[str, object]] = []
    giveaways: dict[str, list[pd.DataFrame]] = {}
    statistics: dict[str, pd.DataFrame] = {}
    rounded: dict[str, float] = {}
    for split in range(SPLITS):
        rng = np.random.default_rng([SEED, split])
        order = rng.permutation(ids)
        seen, held_out = order[::2], order[1::2]
        model = fit({name: arrays[name] for name in seen}, rng=rng)
        makers: dict[str, Callable[[int, np.random.Generator], Arrays]] = {
            "real machines (the other half)": lambda n, r, seen=seen: {name: arrays[name] for name in seen},  # type: ignore[misc]
            "fitted": lambda n, r, model=model: new_machines(model, n, r),  # type: ignore[misc]
            "typed-in archetypes": typed_in,
            "recipe of hello-cloud": workload_recipe,
            "recipe of AWS-CapacityForecaster": fleet_recipe,
        }
        target = real[real.index.isin(held_out)]
        for name, make in makers.items():
            made = make(len(held_out), rng)
            features = real[real.index.isin(seen)] if name.startswith("real") else window_features(made)
            auc, interval, found = two_sample_test(target, features, rng=rng)
            row = {"generator": name, "split": split, "auc": auc, "low": interval[0], "high": interval[1]}
            rows.append(row | {"boosted_auc": boosted_auc(target, features, rng)})
            giveaways.setdefault(name, []).append(found)
            if split == 0:  # the recorder's grid alone must not decide: both sides on a coarser one
                sides = [{key: arrays[key] for key in held_out}, made]
                coarse = [window_features({key: np.round(x, 1) for key, x in side.items()}) for side in sides]
                rounded[name] = round(two_sample_test(coarse[0], coarse[1], rng=rng)[0], 3)
            if split == 0 and name in ("fitted", "typed-in archetypes"):
                there = {key: arrays[key] for key in held_out}
                statistics[name] = compare_statistics(there, made, [CPU], rng=rng).round(3)
    table = pd.DataFrame(rows)
    means = table.groupby("generator", sort=False)[["auc", "boosted_auc"]].agg(["mean", "min", "max"]).round(3)
    means.columns = [f"{a}_{b}" for a, b in means.columns]
    found_out = {
        name: pd.concat(parts).groupby(level=0).mean().nlargest(8, "auc_lost").round(3).reset_index(names="feature")
        for name, parts in giveaways.items()
    }
    return {
        "machines": len(ids),
        "auc": means.reset_index().to_dict("records"),
        "auc_of_values_rounded_to_a_tenth_of_a_percent": rounded,
        "per_split": table.round(3).to_dict("records"),
        "giveaways": {name: part.to_dict("records") for name, part in found_out.items()},
        "statistics": {name: part.reset_index().to_dict("records") for name, part in statistics.items()},
    }


def same_machines_later() -> dict[str, object]:
    """Traces with too few machines to hold some out: fitted to the first half of the days, compared with the second half."""
    result: dict[str, object] = {}
    for name, (arrays, metrics, _) in traces().items():
        if name == "bitbrains":
            continue
        rng = np.random.default_rng(SEED)
        cut = {key: len(x) // (2 * STEPS_PER_DAY) * STEPS_PER_DAY for key, x in arrays.items()}
        model = fit({key: x[: cut[key]] for key, x in arrays.items()}, metrics, rng=rng)
        later = window_features({key: x[cut[key] :] for key, x in arrays.items()}, metrics)
        made = window_features(new_machines(model, len(arrays), rng), metrics)
        auc, interval, found = two_sample_test(later, made, rng=rng)
        result[name] = {
            "machines": len(model.machines),
            "machines_with_later_days": int(later.index.nunique()),
            "metrics": len(metrics),
            "auc": round(auc, 3),
            "auc_interval": [round(v, 3) for v in interval],
            "giveaways": found.head(5).round(3).reset_index(names="feature").to_dict("records"),
        }
    return result


def main() -> None:
    """Measure and write the result."""
    start = time.perf_counter()
    results: dict[str, object] = {}
    if "--write" in sys.argv[1:]:
        results["presets"] = write_presets()
    results["held_out_machines"] = held_out_machines()
    results["same_machines_later"] = same_machines_later()
    results["seconds"] = round(time.perf_counter() - start)
    store("fidelity", results, ("numpy", "scipy", "scikit-learn", "pandas"))


if __name__ == "__main__":
    main()
