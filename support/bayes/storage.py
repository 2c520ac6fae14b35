"""A fitted model in one .npz file: plain arrays and a JSON header, no pickles."""

from __future__ import annotations

import contextlib
import json
import os
import zlib
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar
from zipfile import BadZipFile

import numpy as np
import pandas as pd

from support.bayes.autocorrelation import LagSums
from support.bayes.inflation import edge_shares
from support.bayes.priors import Priors
from support.bayes.statistics import CellStatistics
from support.errors import SourceError

if TYPE_CHECKING:
    from support.bayes.utilization import UtilizationModel

__all__ = ["load", "save"]

Model = TypeVar("Model", bound="UtilizationModel")
FORMAT = "utilization-model/2"
BROKEN = (EOFError, zlib.error, BadZipFile, RuntimeError)  # what half a file or a damaged one raises in NumPy


def save(model: UtilizationModel, path: str | Path) -> None:
    """Write a fitted model to `path`; the capacity of a model is saved through its resources' capacities."""
    fit = model.fit_
    settings = {f.name: getattr(model, f.name) for f in fields(model) if f.name not in ("fitted", "priors", "capacity")}
    header: dict[str, object] = {
        "format": FORMAT,
        "settings": settings | {"group_columns": list(model.group_columns)},
        "priors": asdict(model.priors),
        "step_size": fit.step_size,
        "statistics": {},
    }
    if not isinstance(model.capacity, pd.Series):
        header["capacity"] = model.capacity
    arrays: dict[str, Any] = {f"posterior.{k}": v for k, v in fit.posterior.items()}
    arrays |= {k: getattr(fit, k) for k in ("acceptance", "energy", "diverging", "n_steps")}
    plain: dict[str, object] = {}
    for f in fields(fit.stats):
        value = getattr(fit.stats, f.name)
        if isinstance(value, np.ndarray):
            arrays[f"statistics.{f.name}"] = value
        elif f.name != "lag":
            plain[f.name] = value
    header["statistics"] = plain
    if fit.stats.lag is not None:
        lag = fit.stats.lag
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


def load(cls: type[Model], path: str | Path) -> Model:
    """Read what `save` wrote. Raises SourceError if there is no such file or it is of another kind."""
    try:
        with Path(path).open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(str(arrays.pop("header")))
        if header["format"] != FORMAT:
            raise ValueError(header["format"])
        return _model(cls, header, arrays)
    except (*BROKEN, OSError, ValueError, KeyError, TypeError) as error:
        raise SourceError(f"{path}: no saved UtilizationModel ({error}); write one with save().") from None


def _model(cls: type[Model], header: dict[str, Any], arrays: dict[str, np.ndarray]) -> Model:
    """The model of a file's header and arrays; KeyError or TypeError if one of them lacks."""
    from support.bayes.utilization import Fit

    parts: dict[str, dict[str, Any]] = {"posterior": {}, "statistics": {}, "lag": {}, "": {}}
    for name, value in arrays.items():
        group, _, rest = name.rpartition(".")
        parts[group][rest] = value
    lag = parts["lag"]
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in header["statistics"].items()}
    stats = CellStatistics(**plain, **parts["statistics"])
    if lag:
        stats = replace(stats, lag=LagSums(**(lag | {"skip": int(lag["skip"])})))
    capacity = header["capacity"] if "capacity" in header else pd.Series(stats.capacities, index=stats.resources)
    settings = header["settings"] | {"group_columns": tuple(header["settings"]["group_columns"])}
    fit = Fit(
        stats,
        parts["posterior"],
        **parts[""],
        step_size=header["step_size"],
        edges=edge_shares(stats, settings["pooling"]),
    )
    return cls(**settings, priors=Priors(**header["priors"]), capacity=capacity, fitted=fit)
