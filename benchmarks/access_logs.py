"""Lines per second and peak memory of `load_access_log` on one core, beside a plain loop over a regular expression.

Run: python -m benchmarks.access_logs [lines]; writes benchmarks/results/access_logs.json. On Linux: one core by affinity,
peak memory from the kernel. The real lines come from the trace apache-logs (BOOK_DATA or a download).
"""

from __future__ import annotations

import gzip
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path

os.environ["POLARS_MAX_THREADS"] = "1"  # before Polars is imported
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import numpy as np
import pandas as pd

from benchmarks.record import ROOT, store
from support.telemetry.reading.access_logs import load_access_log
from support.telemetry.reading.traces import fetch

N_LINES = 1_000_000
REPEATS = 4
LINES_PER_SECOND = 50.0  # of log time
PIECE_LINES = 100_000
FIRST_DAY = datetime(2026, 1, 1, tzinfo=UTC)
REAL_LINES, REAL_FIRST_DAY, REAL_DAYS = 10_000, datetime(2015, 5, 17, tzinfo=UTC), 4
MEMORY_COPIES = (1, 12, 49)  # the last is 10 GB
LINE = re.compile(r'^(\S+) \S+ .+? \[([^\]]+)\] "(?:[^"\\]|\\.)*" (\d{3}) (\d+|-)')
AGENTS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0.0.0 Safari/537.36",
    "Mozilla/5.0 (iPhone; CPU iPhone OS 17_2 like Mac OS X) AppleWebKit/605.1.15 Version/17.2 Mobile/15E148 Safari/604.1",
    "curl/8.5.0",
)


def write_log(path: Path, n_lines: int, *, rng: np.random.Generator) -> None:
    """A Combined log of `n_lines`: Poisson arrivals, Zipf clients, lognormal sizes; all addresses are invented."""
    now = FIRST_DAY.timestamp()
    with path.open("w") as file:
        for start in range(0, n_lines, PIECE_LINES):
            n = min(PIECE_LINES, n_lines - start)
            seconds = now + np.cumsum(rng.exponential(1 / LINES_PER_SECOND, n))
            now = seconds[-1]
            stamps = pd.to_datetime(seconds, unit="s", utc=True).strftime("%d/%b/%Y:%H:%M:%S +0000")
            sizes, clients = rng.lognormal(8, 2, n).astype(int), rng.zipf(1.3, n) % 60_000
            pages, agents = rng.integers(0, 5000, n), rng.integers(0, len(AGENTS), n)
            file.writelines(
                f"10.{client >> 8}.{client & 255}.7 - - [{stamp}] "
                f'"GET /products/{page}?ref=home HTTP/1.1" {200 if page % 50 else 404} {size if page % 20 else "-"} '
                f'"https://www.example.com/list/{page}" "{AGENTS[agent]}"\n'
                for stamp, client, size, page, agent in zip(stamps, clients, sizes, pages, agents, strict=True)
            )


def write_again(path: Path, lines: bytes, copies: int, first: datetime, n_days: int) -> None:
    """The same lines again and again, each copy `n_days` later, so that time goes on; nothing else is changed."""
    days = [first + timedelta(days=k) for k in range(n_days)]
    with path.open("wb") as file:
        for copy in range(copies):
            text = lines
            for day in days:
                later = day + timedelta(days=n_days * copy)
                text = text.replace(f"[{day:%d/%b/%Y}:".encode(), f"[{later:%d/%b/%Y}:".encode())
            file.write(text)


@lru_cache(maxsize=1024)
def seconds_of(stamp: str) -> int:
    """Seconds since the epoch; remembered, as neighbouring lines share their stamp and strptime is slow."""
    return int(datetime.strptime(stamp, "%d/%b/%Y:%H:%M:%S %z").timestamp())


def plain_loop(path: Path, step_seconds: int) -> dict[int, tuple[int, int, int, int]]:
    """Requests, bytes, errors and clients per interval, line by line."""
    sums: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    clients: dict[int, set[str]] = defaultdict(set)
    with path.open(errors="replace") as file:
        for line in file:
            if found := LINE.match(line):
                client, stamp, status, size = found.groups()
                slot = seconds_of(stamp) // step_seconds
                row = sums[slot]
                row[0] += 1
                row[1] += 0 if size == "-" else int(size)
                row[2] += status >= "400"
                clients[slot].add(client)
    return {slot: (row[0], row[1], row[2], len(clients[slot])) for slot, row in sums.items()}


def speed(path: Path, plain: Path, step_seconds: int = 60) -> dict[str, float]:
    """Lines per second of the loader on `path`, best of REPEATS, and once of the loop on `plain`, the same unpacked."""
    walls, cores = [], []
    for _ in range(REPEATS):
        wall, core = time.perf_counter(), time.process_time()
        log = load_access_log(str(path), step_seconds=step_seconds)
        walls.append(time.perf_counter() - wall)
        cores.append(time.process_time() - core)
    wall, core = time.perf_counter(), time.process_time()
    expected = plain_loop(plain, step_seconds)
    loop_wall, loop_core = time.perf_counter() - wall, time.process_time() - core
    frame = log.observations.droplevel(0).query("requests > 0")
    slots = frame.index.as_unit("s").asi8 // step_seconds
    if dict(zip(slots.tolist(), map(tuple, frame.to_numpy().tolist()), strict=True)) != expected:
        raise SystemExit(f"{path.name}: the loader and the plain loop differ.")
    n_lines = sum(row[0] for row in expected.values())
    return {
        "lines": n_lines,
        "megabytes": round(path.stat().st_size / 1e6, 1),
        "lines_per_second": round(n_lines / min(walls)),
        "lines_per_cpu_second": round(n_lines / min(cores)),
        "plain_loop_lines_per_second": round(n_lines / loop_wall),
        "plain_loop_lines_per_cpu_second": round(n_lines / loop_core),
        "speedup_cpu": round(loop_core / min(cores), 1),
    }


def peak_megabytes(path: Path | None) -> float:
    """Peak resident memory of a fresh process that reads the log (None: that only imports)."""
    command = [sys.executable, "-m", "benchmarks.access_logs", "--peak", *([str(path)] if path else [])]
    return float(subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT).stdout)


def memory(plain: Path, folder: Path) -> dict[str, object]:
    """Peaks at growing sizes, up to ten gigabytes."""
    rows = [{"megabytes": 0.0, "peak_megabytes": round(peak_megabytes(None), 1)}]
    lines, path = plain.read_bytes(), folder / "long.log"
    n_days = int(lines.count(b"\n") / LINES_PER_SECOND / 86_400) + 2
    for copies in MEMORY_COPIES:
        write_again(path, lines, copies, FIRST_DAY, n_days)
        size = path.stat().st_size / 1e6
        rows.append({"megabytes": round(size, 1), "peak_megabytes": round(peak_megabytes(path), 1)})
    path.unlink()
    return {
        "measured": rows,
        "how": f"the simulated log {', '.join(map(str, MEMORY_COPIES))} times at later dates (0 MB: imports only)",
    }


def main(n_lines: int = N_LINES) -> None:
    """Measure and write the result."""
    results: dict[str, object] = {}
    with tempfile.TemporaryDirectory() as folder:
        path, packed, real = (Path(folder) / name for name in ("access.log", "access.log.gz", "real.log"))
        write_log(path, n_lines, rng=np.random.default_rng(1))
        results["simulated"] = speed(path, path)
        packed.write_bytes(gzip.compress(path.read_bytes(), compresslevel=6))
        results["simulated, gzip (the loop: unpacked)"] = speed(packed, path)
        lines = fetch("apache-logs/apache_logs").read_bytes()
        write_again(real, lines, max(n_lines // REAL_LINES, 1), REAL_FIRST_DAY, REAL_DAYS)
        results["real (apache-logs), repeated at later dates, per hour"] = speed(real, real, step_seconds=3600)
        results["memory"] = memory(path, Path(folder))
    results["cores_used"] = 1
    store("access_logs", results, ("polars", "pyarrow", "numpy", "fsspec"))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--peak"]:
        for log_path in sys.argv[2:]:
            load_access_log(log_path)
        status = Path("/proc/self/status").read_text()  # ru_maxrss would count the parent, too
        print(int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0]) * 1024 / 1e6)
    else:
        main(*map(int, sys.argv[1:2]))
