"""Speed and memory of the generator, beside a loop over rows that follows the earlier systems' recipes.

Run: python -m benchmarks.generation; writes benchmarks/results/generation.json. About a minute.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd

from benchmarks.record import ROOT, store
from support.telemetry.taxonomy import taxonomy

REPEATS = 5
BANK_ROWS, WORKLOAD_DAYS = 175_320, 3473  # 3,473 days of 5 minutes are 1,000,224 rows
LOOP_ROWS = 100_000  # of the workload preset; the loop is linear in rows
STREAMED_RESOURCES = (125, 1245)  # of 8,064 rows each: 1.0 and 10.0 million


def banking_by_rows(n_servers: int = 120, first: datetime = datetime(2022, 1, 1), n_days: int = 1461) -> pd.DataFrame:
    """The bank's fleet record by record, as AWS-CapacityForecaster describes it: a Cholesky factor and a dict for each."""
    table, rng, records = taxonomy("server"), np.random.default_rng(1), []
    kinds = np.repeat(table.index, (table["share"] * n_servers).round().astype(int))
    for server, kind in enumerate(kinds):
        of = table.loc[kind].to_dict()
        for day in range(n_days):
            now = first + timedelta(days=day)
            matrix = np.array(
                [
                    [1, of["r_cpu_memory"], of["r_cpu_network"], of["r_cpu_disk"]],
                    [of["r_cpu_memory"], 1, of["r_memory_network"], of["r_memory_disk"]],
                    [of["r_cpu_network"], of["r_memory_network"], 1, of["r_network_disk"]],
                    [of["r_cpu_disk"], of["r_memory_disk"], of["r_network_disk"], 1],
                ]
            )
            z = np.linalg.cholesky(matrix) @ rng.standard_normal(4)
            factor = of["weekend_factor"] if now.weekday() >= 5 else 1.0
            factor *= 1 + of["growth_percent_per_month"] / 100 * day / 30.44
            quarter = (now.month + 2) // 3
            left = (datetime(now.year + quarter // 4, quarter * 3 % 12 + 1, 1) - now).days
            if left <= 5:
                factor *= (1.30, 1.24, 1.18, 1.12, 1.06)[left - 1]
            if (now.month, now.day) in ((1, 1), (7, 4), (12, 25)):
                factor *= 0.6
            spike = rng.random() < of["bursts_per_day"]
            cpu = (of["cpu_mean_percent"] + of["cpu_sd_percent"] * z[0]) * factor * (of["burst_factor"] if spike else 1)
            network = max((of["network_mean_mbps"] + of["network_sd_mbps"] * z[2]) * factor, 0.0)
            records.append(
                {
                    "timestamp": now,
                    "server_id": f"server-{server:05d}",
                    "cpu": min(max(cpu, 0.0), 100.0),
                    "memory": min(max(of["memory_mean_percent"] + of["memory_sd_percent"] * z[1], 0.0), 100.0),
                    "disk": min(max(of["disk_mean_percent"] + of["disk_sd_percent"] * z[3], 0.0), 100.0),
                    "net_in": network,
                    "net_out": 0.6 * network,
                    "server_type": kind,
                    "year": now.year,
                    "month": now.month,
                    "quarter": quarter,
                    "dayofweek": now.weekday(),
                    "is_weekend": now.weekday() >= 5,
                    "is_eoq": left <= 1,
                    "is_holiday": (now.month, now.day) in ((1, 1), (7, 4), (12, 25)),
                }
            )
    return pd.DataFrame(records)


def workload_by_rows(n_rows: int = LOOP_ROWS) -> pd.DataFrame:
    """One web application sample by sample, as hello-cloud describes it: hour factor, independent noise, clipping, flags."""
    rng, records, now = np.random.default_rng(1), [], datetime(2026, 3, 2)
    recent: list[tuple[float, float]] = []
    for _ in range(n_rows):
        weekend, hour = now.weekday() >= 5, now.hour
        factor = 0.2 if weekend else 1.5 if 9 <= hour < 17 else 1.2 if 6 <= hour < 20 else 0.3
        idle = rng.random() < 0.3
        cpu = min(max((15 * factor + rng.normal(0, 5)) * (0.1 if idle else 3.5 if rng.random() < 0.15 else 1), 0), 100)
        memory = min(max(35 + 0.3 * (cpu - 15) + rng.normal(0, 2.5), 0), 100)
        recent = [*recent[-19:], (cpu, memory)]
        mean_cpu, mean_memory = (sum(x) / len(recent) for x in zip(*recent, strict=True))
        records.append(
            {
                "timestamp": now,
                "cpu": cpu,
                "memory": memory,
                "net_in": min(10 + 0.3 * cpu + rng.exponential(2), 1000),
                "net_out": min(5 + 0.3 * cpu + rng.exponential(2), 1000),
                "disk_iops": min(max(rng.normal(100, 50), 0) + 10 * cpu, 10_000),
                "efficiency": min(cpu / 70, 1) / 2 + min(memory / 80, 1) / 2,
                "is_idle": cpu < 5 and memory < 10,
                "is_overprovisioned": mean_cpu < 20 and mean_memory < 30,
                "waste": (100 - max(1.2 * cpu, 30) + 100 - max(1.2 * memory, 40)) / 2,
            }
        )
        now += timedelta(minutes=5)
    return pd.DataFrame(records)


def clock(call: str, setup: str) -> dict[str, float]:
    """Seconds of `call` in a fresh process: the first time (imports are done, nothing is cached), and the median of the next."""
    code = (
        f"import json, time; {setup}\nseconds = []\nfor seed in range({REPEATS + 1}):\n    start = time.perf_counter(); made = {call}\n"
        "    seconds.append(time.perf_counter() - start); del made\nprint(json.dumps([seconds[0], sorted(seconds[1:])[len(seconds) // 2]]))"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    first, again = json.loads(done.stdout.splitlines()[-1])
    return {"first_seconds": round(first, 3), "median_seconds": round(again, 3)}


def peak(code: str) -> float:
    """Peak resident memory in MB of a fresh process that runs `code`, imports and all (Linux)."""
    # not getrusage: its maximum starts at the size of the process that started this one
    code += "\nprint(next(line.split()[1] for line in open('/proc/self/status') if line.startswith('VmHWM')))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT)
    return round(float(done.stdout.splitlines()[-1]) / 1024, 1)


def main() -> None:
    """Measure and write the result."""
    made = "from support.telemetry.generation.generator import stream, synthetic; from support.telemetry.calendars import flat"
    start = time.perf_counter()
    rows = banking_by_rows()
    bank_loop = time.perf_counter() - start
    assert len(rows) == BANK_ROWS
    start = time.perf_counter()
    workload_by_rows()
    workload_loop = time.perf_counter() - start
    bank = clock("synthetic('banking', seed=seed)", made)
    table = clock("flat(synthetic('banking', seed=seed))", made)
    workload = clock(f"synthetic('workload', seed=seed, days={WORKLOAD_DAYS}, anomaly_rate=0.02)", made)
    n_rows = WORKLOAD_DAYS * 288
    results: dict[str, object] = {
        "banking, 175,320 records, all effects": bank
        | {"loop_seconds": round(bank_loop, 2), "ratio": round(bank_loop / bank["median_seconds"])},
        "the same as one table of 18 columns": table,
        f"workload, {n_rows:,} rows with incidents": workload
        | {
            "peak_mb": peak(f"{made}\nx = synthetic('workload', seed=1, days={WORKLOAD_DAYS}, anomaly_rate=0.02)"),
            "peak_mb_of_the_imports": peak(made),
            "loop_seconds": round(workload_loop * n_rows / LOOP_ROWS, 1),
            "loop_extrapolated_from_rows": LOOP_ROWS,
            "ratio": round(workload_loop * n_rows / LOOP_ROWS / workload["median_seconds"]),
        },
    }
    streamed = {}
    with tempfile.TemporaryDirectory() as folder:
        for n_resources in STREAMED_RESOURCES:
            start = time.perf_counter()
            memory = peak(
                f"{made}\nfrom support.telemetry.storage.export import write\nblocks = stream('workload', seed=1, n_resources={n_resources})\n"
                f"write(blocks, {str(Path(folder) / f'fleet-{n_resources}')!r}, format='parquet')"
            )
            size = sum(p.stat().st_size for p in (Path(folder) / f"fleet-{n_resources}").rglob("*.parquet"))
            streamed[f"{n_resources * 8064:,} rows"] = {
                "seconds": round(time.perf_counter() - start, 1),
                "peak_mb": memory,
                "megabytes_written": round(size / 1e6, 1),
            }
    results["streamed to partitioned Parquet"] = streamed
    store("generation", results, ("numpy", "pandas", "scipy", "pyarrow"))


if __name__ == "__main__":
    main()
