"""What a fit knows, and its .npz file: plain arrays and a JSON header, no pickles."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from support.bayes.autocorrelation import LagSums
from support.bayes.inflation import EdgeShares, edge_shares
from support.bayes.priors import Priors
from support.bayes.statistics import CellStatistics
from support.errors import SourceError

__all__ = ["Fit", "load", "save"]

Model = TypeVar("Model")
FORMAT = "utilization-model/2"
BROKEN = (EOFError, zlib.error, BadZipFile, RuntimeError)  # what half a file or a damaged one raises in NumPy


@dataclass(frozen=True)
class Fit:
    """A posterior: what was seen, draws of the named parameters (n_chains, n_draws, ...), how the sampler did."""

    stats: CellStatistics
    posterior: dict[str, np.ndarray]
    acceptance: np.ndarray
    energy: np.ndarray
    diverging: np.ndarray
    n_steps: np.ndarray
    step_size: float
    edges: EdgeShares


def save(fit: Fit, settings: Mapping[str, Any], path: str | Path) -> None:
    """Write a fit and the settings of its model to `path`; capacities of resources are saved with what was seen of them."""
    stats = {f.name: getattr(fit.stats, f.name) for f in fields(fit.stats) if f.name != "lag"}
    kept = {k: v for k, v in settings.items() if k not in ("priors", "capacity")}
    header: dict[str, object] = {
        "format": FORMAT,
        "settings": kept | {"group_columns": list(settings["group_columns"])},
        "priors": asdict(settings["priors"]),
        "step_size": fit.step_size,
        "statistics": {k: v for k, v in stats.items() if not isinstance(v, np.ndarray)},
    }
    if not isinstance(settings["capacity"], pd.Series):
        header["capacity"] = settings["capacity"]
    arrays: dict[str, Any] = {f"posterior.{k}": v for k, v in fit.posterior.items()}
    arrays |= {k: getattr(fit, k) for k in ("acceptance", "energy", "diverging", "n_steps")}
    arrays |= {f"statistics.{k}": v for k, v in stats.items() if isinstance(v, np.ndarray)}
    if (lag := fit.stats.lag) is not None:
        arrays |= {f"lag.{f.name}": np.asarray(getattr(lag, f.name)) for f in fields(lag)}
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with temporary.open("wb") as file:  # a file, since NumPy would add .npz to a name without it
            np.savez_compressed(file, header=np.array(json.dumps(header)), **arrays)
        temporary.replace(path)
    except OSError as error:
        raise SourceError(f"{path}: cannot be written ({error.strerror}); name another file.") from None
    finally:
        with contextlib.suppress(OSError):
            temporary.unlink()


def load(make: Callable[..., Model], path: str | Path) -> Model:
    """What `make` makes of the settings and the fit (`fitted`) in the file. Raises SourceError if `save` wrote none there."""
    try:
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays.pop("header")))
        if header["format"] != FORMAT:
            raise ValueError(header["format"])
        return _model(make, header, arrays)
    except (*BROKEN, OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path}: no saved UtilizationModel ({error}); write one with save().") from None


def _model(make: Callable[..., Model], header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Model:
    """The model of a file's header and arrays; KeyError or TypeError if one of them lacks."""
    parts: dict[str, dict[str, Any]] = {"posterior": {}, "statistics": {}, "lag": {}, "": {}}
    for name, value in arrays.items():
        group, _, rest = name.rpartition(".")
        parts[group][rest] = value
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in header["statistics"].items()}
    stats = CellStatistics(**plain, **parts["statistics"])
    if lag := parts["lag"]:
        stats = replace(stats, lag=LagSums(**(lag | {"skip": int(lag["skip"])})))
    capacity = header["capacity"] if "capacity" in header else pd.Series(stats.capacities, index=stats.resources)
    settings = header["settings"] | {"group_columns": tuple(header["settings"]["group_columns"])}
    edges = edge_shares(stats, settings["pooling"])
    fit = Fit(stats, parts["posterior"], **parts[""], step_size=header["step_size"], edges=edges)
    return make(**settings, priors=Priors(**header["priors"]), capacity=capacity, fitted=fit)
