"""Environments with published constants; the numbers are data, in presets.json."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.autoscaling.environment import Environment
from support.errors import SchemaError

__all__ = ["PRESETS", "Preset", "preset_environment"]


@dataclass(frozen=True)
class Preset:
    """An environment with its unit of work, where its numbers are from, and which fields are the book's own choice."""

    name: str
    about: str
    work_unit: str
    source: str
    chosen: tuple[str, ...]
    environment: Environment


def _read() -> dict[str, Preset]:
    said = json.loads(Path(__file__).with_name("presets.json").read_text(encoding="utf-8"))
    return {
        name: Preset(name, p["about"], p["work_unit"], p["source"], tuple(p["chosen"]), Environment(**p["environment"]))
        for name, p in said.items()
    }


PRESETS = _read()


def preset_environment(name: str, **changes: Any) -> Environment:
    """The environment of a preset, with fields changed. Raises SchemaError for names and fields that do not exist.

    Example:
        >>> preset_environment("dataflow", max_servers=9).capacity_per_tick  # MB per minute
        1.2
    """
    if name not in PRESETS:
        raise SchemaError(f"environment: there is no preset {name!r}. There are: {', '.join(PRESETS)}.")
    known = vars(PRESETS[name].environment)
    if unknown := sorted(set(changes) - set(known)):
        raise SchemaError(f"environment: {', '.join(unknown)} is no field. Fields: {', '.join(known)}.")
    return Environment(**{**known, **changes})
