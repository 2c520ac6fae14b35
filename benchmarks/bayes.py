"""Effective draws per second of the whole process: the utilisation model in five engines, each in its own fresh process.

Run: python -m benchmarks.bayes [--limit SECONDS] [--limit-of NAME=SECONDS ...] [--observations N ...]
    [--raw-observations N ...] [--repeat N] [--only NAME ...]
Writes benchmarks/results/bayes.json after every engine; engines of the stored result that are not asked for are kept, with their date.
The rate is the minimum bulk ESS over all top-level parameters over the wall seconds from the start of the process to the
draws in hand: imports, reading the telemetry, compilation and warm-up included. An engine that is not done at the limit is
recorded as unfinished. Linux (process groups and their CPU seconds in /proc).
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from benchmarks.record import ROOT, store

N_INDUSTRY, N_APPLICATION, N_RESOURCE = 5, 4, 25  # resources in each of the 20 cells
OBSERVATIONS = (200, 2_000)
SCALING_OBSERVATIONS = (48, 200, 2_000, 8_760)
SEED = 20260101
LARGEST_R_HAT = 1.1  # of any top-level parameter, above which a run has not converged and its ESS means nothing
TOP = ("eta", "sd", "m", "tau", "l", "s", "b")
N_WARMUP, N_DRAWS, N_CHAINS = 500, 500, 2  # of every engine but ours
OURS = {"n_chains": 4, "n_warmup": 500, "n_draws": 1000}  # the defaults of UtilizationModel
SHORT_S = 150.0  # wall seconds up to which an engine is run again by --repeat, all in turns
AS_OURS = (
    "draws as ours"  # engines of that name make the chains and draws of ours: its fixed costs weigh as little then
)
# name: (engine, data, parametrisation)
ENGINES = {
    "ours": ("ours", "cells", "informed"),
    "PyMC default": ("default", "cells", "naive"),
    "PyMC nutpie": ("nutpie", "cells", "naive"),
    "PyMC default, raw rows": ("default", "rows", "naive"),
    "PyMC nutpie, raw rows": ("nutpie", "rows", "naive"),
    "NumPyro NUTS, centred": ("nuts", "cells", "naive"),
    "PyMC with NumPyro's sampler": ("numpyro", "cells", "naive"),
    "PyMC default, informed": ("default", "cells", "informed"),
    "PyMC nutpie, informed": ("nutpie", "cells", "informed"),
    "PyMC nutpie, informed, draws as ours": ("nutpie", "cells", "informed"),
    "NumPyro NUTS, informed, compiled once": ("nuts", "cells", "informed"),
    "NumPyro NUTS, centred, raw rows": ("nuts", "rows", "naive"),
    "PyMC with NumPyro's sampler, raw rows": ("numpyro", "rows", "naive"),
}

NOTE = (
    "Rates count the whole process. On raw rows fewer draws than on hour cells may have been asked for; warm-up is counted all "
    f"the same. Runs with an R-hat above {LARGEST_R_HAT} have not converged and are left out of the ratios. Other programs may have "
    "shared the machine: load_at_start; CPU seconds are the fairer clock then. run is when the run of the benchmark that a row "
    "is of began; a row with beside_ours is of an earlier run, beside a run of ours with that rate."
)


def simulate(path: Path, n_resource: int, n_observation: int, *, rng: np.random.Generator) -> None:
    """Write hourly telemetry of a fleet drawn from the model, `n_resource` in each cell, and its table of resources."""
    from support.bayes.calibration import simulate_fleet
    from support.bayes.statistics import seasonal_basis

    stats, truth = simulate_fleet(
        rng=rng, n_industry=N_INDUSTRY, n_application=N_APPLICATION, n_resource=n_resource, n_observation=1
    )
    ids = np.array([f"r-{k:05d}" for k in range(len(stats.resources))])
    hour = np.arange(n_observation) % 24
    season = (truth["b"] @ seasonal_basis(24).T)[stats.application_of][:, hour]
    mean = 1 / (1 + np.exp(-truth["theta"][:, None] - season))
    kappa = np.exp(truth["log_kappa"])[:, None]
    share = rng.beta(mean * kappa, (1 - mean) * kappa)
    times = pd.date_range("2026-01-01", periods=n_observation, freq="h", tz="UTC")
    np.savez(path, percent=100 * share, ids=ids, times=times.asi8)
    industry = np.array(stats.industries)[stats.industry_of]
    application = np.array(stats.applications)[stats.application_of]
    pd.DataFrame({"industry": industry, "application": application}, index=ids).to_csv(path.with_suffix(".csv"))


def read(path: Path) -> Any:
    """The telemetry that `simulate` wrote: what every engine starts from."""
    from support.telemetry.schema import Telemetry

    with np.load(path) as file:
        percent, ids, times = file["percent"], file["ids"], pd.to_datetime(file["times"], utc=True)
    index = pd.MultiIndex.from_product([ids.astype(object), times], names=["resource_id", "timestamp"])
    resources = pd.read_csv(path.with_suffix(".csv"), index_col=0).rename_axis("resource_id")
    frame = pd.DataFrame({"cpu_utilization": percent.ravel()}, index=index)
    return Telemetry(frame, 3600.0, source="simulated fleet", synthetic=True, resources=resources)


def fit(
    engine: str, data: str, parametrisation: str, path: Path, n_warmup: int, n_draws: int, n_chains: int = N_CHAINS
) -> dict[str, Any]:
    """Draws of the top-level parameters (n_chains, n_draws, ...), divergences and seconds of the steps of one engine."""
    from support.bayes.informed import informed_points
    from support.bayes.statistics import cell_statistics, unit_rows

    start = time.perf_counter()
    telemetry = read(path)
    read_done = time.perf_counter()
    stats = cell_statistics(telemetry, week=False, weight="none")
    rows = unit_rows(telemetry, week=False) if data == "rows" else None
    statistics_done = time.perf_counter()
    laplace = informed_points(stats) if parametrisation == "informed" and engine != "ours" else None
    size: dict[str, Any] = {"n_chains": n_chains, "n_warmup": n_warmup, "n_draws": n_draws}
    if engine == "ours":
        import jax

        from support.bayes.utilization import UtilizationModel

        size = dict(OURS)
        model = UtilizationModel(week=False, weight="none", **size).fit_statistics(stats, key=jax.random.key(SEED))
        draws, divergences = model.fit_.posterior, int(model.fit_.diverging.sum())
    elif engine == "nuts":
        import jax

        from support.bayes.numpyro_model import sample_nuts

        informed = parametrisation == "informed"
        draws, divergences = sample_nuts(
            stats,
            key=jax.random.key(SEED),
            rows=rows,
            points=laplace,
            compile_once=informed,
            chain_method="parallel",
            **size,
        )
    else:
        from support.bayes.pymc_model import sample_pymc

        rng = np.random.default_rng(SEED)
        draws, divergences = sample_pymc(stats, rng=rng, sampler=engine, rows=rows, points=laplace, **size)
    seconds = {"read": read_done - start, "statistics": statistics_done - read_done}
    seconds["fit"] = time.perf_counter() - statistics_done
    return {"draws": {k: draws[k] for k in TOP}, "divergences": divergences, "steps_s": seconds, "size": size}


def child(specification: dict[str, Any]) -> None:
    """Fit in this process and print one line of JSON: the seconds end when the draws are in hand."""
    done = fit(path=Path(specification.pop("path")), **specification)
    ended = time.time()
    cpu = sum(
        use.ru_utime + use.ru_stime for use in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import arviz

        posterior = arviz.convert_to_dataset(done["draws"])
        ess, r_hat, error = arviz.ess(posterior), arviz.rhat(posterior), arviz.mcse(posterior)
    over = ("chain", "draw")
    tables = {"mean": posterior.mean(over), "sd": posterior.std(over), "mcse": error}
    lowest = {name: float(ess[name].min()) for name in TOP}
    least = min(TOP, key=lowest.__getitem__)
    answer = done["size"] | {
        "ended": ended,
        "cpu_s": round(cpu, 1),
        "min_bulk_ess": round(lowest[least], 1),
        "least_in": least,
        "max_r_hat": round(max(float(r_hat[name].max()) for name in TOP), 4),
        "divergences": done["divergences"],
        "steps_s": {name: round(value, 2) for name, value in done["steps_s"].items()},
        "posterior": {
            kind: {name: np.round(np.ravel(table[name]), 5).tolist() for name in TOP} for kind, table in tables.items()
        },
    }
    print(json.dumps(answer))


def group_cpu_s(group: int) -> float:
    """CPU seconds that the living processes of a process group have used (fields 5, 14 and 15 of /proc/PID/stat)."""
    ticks = 0
    for file in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = file.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        if int(fields[2]) == group:
            ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def measure(name: str, path: Path, n_draws: int, limit_s: float) -> dict[str, Any]:
    """One engine in a fresh process, ended with all its children at `limit_s`."""
    engine, data, parametrisation = ENGINES[name]
    specification = {"engine": engine, "data": data, "parametrisation": parametrisation, "path": str(path)}
    specification |= OURS if AS_OURS in name else {"n_warmup": min(n_draws, N_WARMUP), "n_draws": n_draws}
    flags = (
        f"{os.environ.get('XLA_FLAGS', '')} --xla_force_host_platform_device_count={N_CHAINS}"  # NUTS: one per chain
    )
    environment = os.environ | ({"XLA_FLAGS": flags} if engine in ("nuts", "numpyro") else {})
    load, began = os.getloadavg()[0], time.time()
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "benchmarks.bayes", "--child", json.dumps(specification)],
        cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    about = {"data": data, "parametrisation": parametrisation, "date": f"{datetime.now(UTC):%Y-%m-%d}"}
    about |= {"load_at_start": round(load, 1)}
    try:
        out, error = process.communicate(timeout=limit_s)
    except subprocess.TimeoutExpired:
        used = {"unfinished_after_s": limit_s, "unfinished_after_cpu_s": round(group_cpu_s(process.pid), 1)}
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return about | used | {k: specification.get(k, N_CHAINS) for k in ("n_chains", "n_warmup", "n_draws")}
    if process.returncode:
        return about | {"failed": error.strip().splitlines()[-1]}
    answer = json.loads(out.splitlines()[-1])
    wall = answer.pop("ended") - began
    rates = {"ess_per_wall_s": answer["min_bulk_ess"] / wall, "ess_per_cpu_s": answer["min_bulk_ess"] / answer["cpu_s"]}
    return about | {"wall_s": round(wall, 1)} | answer | {k: round(v, 3) for k, v in rates.items()}


def limits(default_s: float, of: list[str]) -> dict[str, float]:
    """Wall seconds that each engine may take, from texts such as "PyMC default, raw rows=1400".

    Raises ValueError for a text that names no engine or no positive number of seconds.
    """
    found = dict.fromkeys(ENGINES, default_s)
    for text in of:
        name, _, seconds = text.rpartition("=")
        if name not in ENGINES or not seconds.replace(".", "", 1).isdigit() or float(seconds) <= 0:
            raise ValueError(f"--limit-of takes NAME=SECONDS, got {text!r}; engines: {'; '.join(ENGINES)}.")
        found[name] = float(seconds)
    return found


def ratios(table: dict[str, dict[str, Any]]) -> dict[str, float]:
    """Our rate over that of every engine, by wall and by CPU seconds; only of runs that converged: others have no rate.

    A row that was kept while ours was measured anew is compared with ours of its own session (`beside_ours`).

    An engine ended at the limit gets a lower bound: as if all draws it was to make had been there then, independent.
    """
    ours = table.get("ours", {})
    if ours.get("max_r_hat", np.inf) > LARGEST_R_HAT:
        return {}
    found = {}
    for name, row in table.items():
        if name == "ours":
            continue
        rate_of_ours = row.get("beside_ours", ours)
        if "unfinished_after_s" in row:
            for clock, used in (("wall", "unfinished_after_s"), ("cpu", "unfinished_after_cpu_s")):
                if used in row:  # CPU seconds of unfinished runs are kept since November 2026
                    bound = row.get("n_chains", N_CHAINS) * row["n_draws"] / row[used]
                    found[f"ours / {name}, per {clock} second, at least"] = round(
                        rate_of_ours[f"ess_per_{clock}_s"] / bound, 1
                    )
        elif row.get("max_r_hat", np.inf) <= LARGEST_R_HAT:
            for clock in ("wall", "cpu"):
                rate = row[f"ess_per_{clock}_s"]
                found[f"ours / {name}, per {clock} second"] = round(rate_of_ours[f"ess_per_{clock}_s"] / rate, 1)
    return found


def middle(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Of several runs of one engine the one of the median rate by wall seconds (the lower of two), with all rates beside it."""
    ordered = sorted(rows, key=lambda row: row["ess_per_wall_s"])
    of_all = [{k: row[k] for k in ("wall_s", "cpu_s", "ess_per_wall_s", "ess_per_cpu_s")} for row in rows]
    return ordered[(len(rows) - 1) // 2] | ({"repeats": of_all} if len(rows) > 1 else {})


def put(table: dict[str, dict[str, Any]], name: str, row: dict[str, Any]) -> None:
    """Put a new row into `table`; where it is ours, rows of other runs remember the rate of ours that they were run beside."""
    if name == "ours" and "ess_per_wall_s" in table.get(name, {}):
        before = {clock: table[name][clock] for clock in ("ess_per_wall_s", "ess_per_cpu_s")}
        for other in table.keys() - {name}:
            if "run" not in row or table[other].get("run") != row["run"]:
                table[other].setdefault("beside_ours", before)
    table[name] = {k: v for k, v in row.items() if k != "posterior"}


def main() -> None:
    """Measure and write the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--limit", type=float, default=1_800.0, help="wall seconds an engine may take")
    parser.add_argument(
        "--limit-of", nargs="*", default=[], metavar="NAME=SECONDS", help="another limit for the engine of that name"
    )
    parser.add_argument("--budget", type=float, default=14_400.0, help="wall seconds after which no engine is started")
    parser.add_argument(
        "--repeat",
        type=int,
        default=1,
        help=f"runs of each engine that takes at most {SHORT_S:g} s; the median is kept",
    )
    parser.add_argument("--draws", type=int, default=N_DRAWS, help="draws, and warm-up, a chain on hour cells")
    parser.add_argument("--raw-draws", type=int, default=N_DRAWS, help="draws, and warm-up, a chain on raw rows")
    parser.add_argument("--observations", type=int, nargs="*", default=OBSERVATIONS, help="sizes of the comparison")
    parser.add_argument("--raw-observations", type=int, nargs="*", default=OBSERVATIONS, help="sizes run on raw rows")
    parser.add_argument(
        "--skip-scaling",
        action="store_true",
        help="leave out the rows on observations; those on resources are in benchmarks/bayes_scale.py",
    )
    parser.add_argument("--only", nargs="*", choices=list(ENGINES), default=list(ENGINES))
    arguments = parser.parse_args()
    if arguments.child:
        child(json.loads(arguments.child))
        return
    try:
        limit_of = limits(arguments.limit, arguments.limit_of)
    except ValueError as error:
        parser.error(str(error))
    began_at = f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC"
    packages = ("jax", "numpyro", "pymc", "nutpie", "pytensor", "arviz", "numpy", "numba")
    stored = ROOT / "benchmarks" / "results" / "bayes.json"
    results: dict[str, Any] = json.loads(stored.read_text())["results"] if stored.exists() else {}
    with tempfile.TemporaryDirectory() as folder:

        def telemetry(n_resource: int, n_observation: int) -> Path:
            path = Path(folder) / f"{n_resource}-{n_observation}.npz"
            if not path.exists():
                simulate(path, n_resource, n_observation, rng=np.random.default_rng(SEED))
            return path

        done: dict[tuple[str, int, int, int], dict[str, Any]] = {}
        began = time.monotonic()

        def run(name: str, n_resource: int, n_observation: int, turn: int = 0) -> dict[str, Any]:
            if (name, n_resource, n_observation, turn) not in done:
                raw = ENGINES[name][1] == "rows"
                if raw and n_observation not in arguments.raw_observations:
                    row: dict[str, Any] = {"not_run": "raw rows of this size were not asked for"}
                elif time.monotonic() - began > arguments.budget:
                    row = {"not_run": f"the run's budget of {arguments.budget:g} s was spent"}
                else:
                    n_draws = arguments.raw_draws if raw else arguments.draws
                    row = measure(name, telemetry(n_resource, n_observation), n_draws, limit_of[name])
                    row["run"] = began_at
                told = {k: v for k, v in row.items() if k != "posterior"}
                print(n_resource, n_observation, name, json.dumps(told), file=sys.stderr, flush=True)
                done[name, n_resource, n_observation, turn] = row
            return done[name, n_resource, n_observation, turn]

        for n_observation in arguments.observations:
            title = f"{N_INDUSTRY * N_APPLICATION * N_RESOURCE} resources, {n_observation:,} observations each"
            table = results.setdefault(title, {}).setdefault("engines", {})
            posteriors = results.setdefault("posteriors", {}).setdefault(title, {})
            rows: dict[str, list[dict[str, Any]]] = {name: [] for name in arguments.only}
            for turn in range(arguments.repeat):
                for name in arguments.only:
                    if turn and rows[name][0].get("wall_s", np.inf) > SHORT_S:
                        continue
                    row = run(name, N_RESOURCE, n_observation, turn)
                    rows[name].append(row)
                    if "wall_s" in row:
                        row = middle(rows[name])
                    if "not_run" not in row:
                        put(table, name, row)
                        posteriors.pop(name, None)
                        posteriors |= {name: row["posterior"]} if "posterior" in row else {}
                    results[title] = {"engines": table, "ratios": ratios(table)}
                    store("bayes", results | {"note": NOTE}, packages, quiet=True)
        if not arguments.skip_scaling:
            cost = {f"{n:,}": run("ours", N_RESOURCE, n) for n in SCALING_OBSERVATIONS}
            results["ours, cost against observations of each of 500 resources"] = {
                n: {k: v for k, v in row.items() if k != "posterior"} for n, row in cost.items()
            }
            store("bayes", results | {"note": NOTE}, packages)


if __name__ == "__main__":
    main()
