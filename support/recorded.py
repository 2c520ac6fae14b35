"""Results of benchmarks as they were recorded: what ran, where, with which versions, at which commit."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from support.errors import BookError

__all__ = ["recorded"]

FOLDER = Path(__file__).resolve().parents[1] / "benchmarks" / "results"


def recorded(name: str) -> dict[str, Any]:
    """The record `benchmarks/results/<name>.json`: date (UTC), commit, machine, versions, results.

    Raises BookError if there is none, with the command that makes it.

    Example:
        >>> sorted(recorded("generation"))
        ['commit', 'date', 'machine', 'results', 'versions']
    """
    path = FOLDER / f"{name}.json"
    if not path.exists():
        raise BookError(f"{path}: no such record. Make it with `python -m benchmarks.{name}` in a clone of the book.")
    return dict(json.loads(path.read_text(encoding="utf-8")))
