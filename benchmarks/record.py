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
from typing import Any

__all__ = ["ROOT", "stamp", "store", "store_part"]

ROOT = Path(__file__).resolve().parents[1]


def stamp() -> dict[str, Any]:
    """Date (UTC), commit and machine of now, for the parts of a record that is written in several runs."""
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=ROOT, check=False)
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.+)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d}",
        "commit": head.stdout.strip() or "unknown",
        "machine": {"cpu": models[0] if models else platform.processor(), "cores": os.cpu_count()},
    }


def store(name: str, results: dict[str, object], packages: tuple[str, ...], *, quiet: bool = False) -> None:
    """Write benchmarks/results/<name>.json and, unless `quiet`, print it: date (UTC), commit, machine, versions of `packages`, results."""
    _write(name, stamp() | {"versions": _versions(packages), "results": results}, quiet=quiet)


def store_part(name: str, part: str, value: dict[str, Any], packages: tuple[str, ...]) -> None:
    """Put `value` into the results of a record under `part`, with a stamp and versions of its own; all else stays as it was.

    The record must be there: its own date and commit remain those of the run that wrote the rest.
    """
    record = json.loads(_path(name).read_text())
    record["results"][part] = value | {"stamp": stamp() | {"versions": _versions(packages)}}
    _write(name, record, quiet=True)


def _path(name: str) -> Path:
    return ROOT / "benchmarks" / "results" / f"{name}.json"


def _versions(packages: tuple[str, ...]) -> dict[str, str]:
    return {"python": platform.python_version()} | {p: version(p) for p in packages}


def _write(name: str, record: dict[str, Any], *, quiet: bool) -> None:
    """To a temporary name first, so that an interrupted run leaves the old record."""
    path = _path(name)
    path.parent.mkdir(exist_ok=True)
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(record, indent=2) + "\n")
    temporary.replace(path)
    if not quiet:
        print(json.dumps(record, indent=2))
    print(f"written to {path.relative_to(ROOT)}")
