"""Where and with what a benchmark ran: `store` writes its results beside machine, versions, date and commit."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

__all__ = ["ROOT", "store"]

ROOT = Path(__file__).resolve().parents[1]


def store(name: str, results: dict[str, object], packages: tuple[str, ...], *, quiet: bool = False) -> None:
    """Write benchmarks/results/<name>.json and, unless `quiet`, print it: date (UTC), commit, machine, versions of `packages`, results."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False)
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    record = {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": head.stdout.strip() or "unknown",
        "machine": {"cpu": models[0] if models else platform.processor(), "cores": os.cpu_count()},
        "versions": {"python": platform.python_version()} | {p: version(p) for p in packages},
        "results": results,
    }
    path = ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(path)
    if not quiet:
        print(json.dumps(record, indent=2))
    print(f"written to {path.relative_to(ROOT)}")
