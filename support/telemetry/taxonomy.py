"""The taxonomy: workload types, application archetypes and server archetypes, held as data, each number with its source."""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from support.errors import SourceError

__all__ = ["KINDS", "LATENT", "Profile", "correlation_matrix", "profile", "regions", "source_of", "taxonomy"]

KINDS = ("workload", "application", "server")
LATENT = ("cpu", "memory", "network", "disk")  # order of the correlation matrix
HIGH_WASTE_PERCENT, MEDIUM_WASTE_PERCENT = 40.0, 20.0


@dataclass(frozen=True)
class Profile:
    """One row of the taxonomy, as the generator needs it; the columns and their units are in `taxonomy_columns.csv`.

    correlation: shape (4, 4), CPU, memory, network, disk. Numbers that a row does not give are NaN.
    """

    kind: str
    name: str
    cpu_mean_percent: float
    cpu_sd_percent: float
    cpu_p50_percent: float
    cpu_p95_percent: float
    memory_mean_percent: float
    memory_sd_percent: float
    memory_p50_percent: float
    memory_p95_percent: float
    network_mean_mbps: float
    network_sd_mbps: float
    disk_mean_percent: float
    disk_sd_percent: float
    disk_mean_iops: float
    disk_sd_iops: float
    pattern: str
    business_factor: float
    night_factor: float
    weekend_factor: float
    season_amplitude_frac: float
    growth_percent_per_month: float
    noise_memory_minutes: float
    bursts_per_day: float
    burst_factor: float
    burst_minutes: float
    idle_frac: float
    idle_minutes: float
    correlation: tuple[tuple[float, ...], ...]


@cache
def _rows() -> pd.DataFrame:
    table = pd.read_csv(Path(__file__).with_name("taxonomy.csv"))
    if table.duplicated(["kind", "name"]).any():
        raise SourceError("taxonomy.csv: two rows have the same kind and name. Rename one of them.")
    return table.set_index(["kind", "name"])


@cache
def _columns() -> pd.DataFrame:
    return pd.read_csv(Path(__file__).with_name("taxonomy_columns.csv"), index_col="column", keep_default_na=False)


def taxonomy(kind: str | None = None) -> pd.DataFrame:
    """The rows of one kind (`workload`, `application`, `server`) with the columns it has, or of all kinds.

    Index `name` (or kind and name). The column `optimisation` follows from the waste: high above 40 %, medium above
    20 %, else low. Raises SourceError for an unknown kind.

    Example:
        >>> int(taxonomy("workload").shape[0])
        15
    """
    table = _rows()
    if kind is not None:
        if kind not in KINDS:
            raise SourceError(f"taxonomy: no kind {kind!r}. Use one of {', '.join(KINDS)}.")
        table = table.loc[kind].dropna(axis=1, how="all")
    if "waste_percent" in table:
        edges = [-np.inf, MEDIUM_WASTE_PERCENT, HIGH_WASTE_PERCENT, np.inf]
        classes = pd.cut(table["waste_percent"], edges, labels=["low", "medium", "high"])
        table = table.assign(optimisation=classes.astype(object))
    return table


@cache  # one object per type, so that what is computed from it can be cached too
def profile(name: str, kind: str | None = None) -> Profile:
    """The type `name`, looked up in all kinds (in the order of KINDS) or in one. Raises SourceError with the known names.

    Example:
        >>> profile("ecommerce_platform").cpu_p50_percent
        18.0
    """
    table = _rows()
    found = next(((k, name) for k in ([kind] if kind else KINDS) if (k, name) in table.index), None)
    if found is None:
        known = ", ".join(n for k, n in table.index if kind in (None, k))
        raise SourceError(f"{name!r}: no such type. Use one of {known}.")
    row = table.loc[found]
    values: dict[str, Any] = {
        f.name: row[f.name] if isinstance(row[f.name], str) else float(row[f.name])
        for f in fields(Profile)
        if f.name in row.index
    }
    matrix = tuple(tuple(line) for line in _matrix(row).tolist())
    return Profile(kind=found[0], name=name, correlation=matrix, **values)


def _matrix(row: pd.Series) -> np.ndarray:
    matrix = np.eye(4)
    for a in range(4):
        for b in range(a + 1, 4):
            given = row[f"r_{LATENT[a]}_{LATENT[b]}"]
            # without a number of its own a pair is related through CPU alone, which keeps the matrix positive definite
            matrix[a, b] = matrix[b, a] = matrix[0, a] * matrix[0, b] if pd.isna(given) else given
    if np.linalg.eigvalsh(matrix)[0] <= 0:
        raise SourceError(
            f"taxonomy.csv: the correlations of {row.name} are not positive definite. Weaken the strongest."
        )
    return matrix


def correlation_matrix(name: str, kind: str | None = None) -> pd.DataFrame:
    """Correlations of CPU, memory, network and disk of a type, with names: `matrix["cpu"]["memory"]`.

    Example:
        >>> float(correlation_matrix("ecommerce_platform")["cpu"]["memory"])
        0.65
    """
    return pd.DataFrame(profile(name, kind).correlation, index=list(LATENT), columns=list(LATENT))


def source_of(kind: str, name: str, column: str) -> str:
    """Where one number of the taxonomy comes from, in words.

    Example:
        >>> source_of("server", "web", "cpu_mean_percent")
        'AWS-CapacityForecaster, fleet archetypes'
    """
    said = str(_columns().loc[column, kind])
    return str(_rows().loc[(kind, name), "source"]) if said == "as documented" else said


@cache
def regions() -> pd.DataFrame:
    """Regions of the three providers: provider, region, timezone, country (of its holidays), price factor."""
    return pd.read_csv(Path(__file__).with_name("regions.csv"))
