"""A generator that is fitted, not typed in: machines estimated from a real trace, and new machines drawn from what was found."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from support.errors import SchemaError, SourceError, TooShortError
from support.telemetry.fidelity import Machines, machines
from support.telemetry.generation.fitted_estimates import fit_machine
from support.telemetry.generation.fitted_machines import PRIOR_WEIGHT, MachineModel, redraw, simulate_machine
from support.telemetry.judging.features import STEPS_PER_DAY
from support.telemetry.schema import METRICS, Telemetry
from support.writing import plural

__all__ = ["FittedModel", "fit", "new_machine", "preset", "presets", "simulate"]

FOLDER = Path(__file__).with_name("fitted")
STEP_SECONDS = 86_400 / STEPS_PER_DAY
SHORTEST_STEPS = 144  # half a day of values
SMALLEST_LEVEL_SD, LARGEST_LEVEL_SD = 0.1, 0.25  # ln units
DIGITS = 4  # significant digits of a stored parameter


@dataclass(frozen=True)
class FittedModel:
    """A population of machines, each with a `MachineModel`; new ones are drawn around them (`simulate`).

    level_sd: spread of a new machine's level around an estimated one, ln units (of the odds of the highest value, for
    percentages), shape (n_machine,): half way to the nearest neighbour, between 0.1 and 0.25.
    """

    name: str
    provenance: str
    metrics: tuple[str, ...]
    machines: tuple[MachineModel, ...]
    level_sd: np.ndarray

    def estimates(self) -> pd.DataFrame:
        """Estimates with standard errors, one row per machine, metric and parameter.

        mean, standard deviation: batch means over days (Law and Kelton, Simulation Modeling and Analysis, chapter 9). stay:
        share of intervals after which the state stays, posterior mean and deviation, averaged over states by occupation.

        Example:
            >>> preset("nab").estimates().columns.tolist()
            ['estimate', 'standard_error']
        """
        rows = []
        for number, m in enumerate(self.machines):
            a = np.diag(m.counts) + PRIOR_WEIGHT * m.occupation
            total = m.counts.sum(1) + PRIOR_WEIGHT
            stay, variance = a / total, a * (total - a) / total**2 / (total + 1)
            pooled = float(m.occupation @ stay), float(np.sqrt(m.occupation**2 @ variance))
            for metric, moments in zip(self.metrics, m.moments, strict=True):
                named = {"mean": moments[[0, 2]], "standard deviation": moments[[1, 3]]}
                for parameter, (estimate, error) in (named | {"stay": pooled}).items():
                    rows.append((number, metric, parameter, float(estimate), float(error)))
        columns = ["machine", "metric", "parameter", "estimate", "standard_error"]
        return pd.DataFrame(rows, columns=columns).set_index(columns[:3])

    def save(self, path: Path) -> None:
        """Write the parameters as JSON, sparse and rounded to 4 significant digits."""
        packed = [{name: _pack(getattr(m, name)) for name in MachineModel.__dataclass_fields__} for m in self.machines]
        document: dict[str, Any] = {"name": self.name, "provenance": self.provenance, "metrics": list(self.metrics)}
        document |= {"level_sd": _rounded(self.level_sd), "machines": packed}
        partial = path.with_suffix(".partial")
        partial.write_text(json.dumps(document, separators=(",", ":")) + "\n", encoding="utf-8")
        partial.replace(path)

    @classmethod
    def load(cls, path: Path) -> FittedModel:
        """Read what `save` wrote. Raises SourceError if there is no such file."""
        if not path.exists():
            raise SourceError(
                f"{path}: no such fitted model. Save one there, or use one of {', '.join(presets().index)}."
            )
        document = json.loads(path.read_text(encoding="utf-8"))
        models = [MachineModel(**{name: _unpack(part) for name, part in m.items()}) for m in document["machines"]]
        level_sd = np.array(document["level_sd"])
        return cls(document["name"], document["provenance"], tuple(document["metrics"]), tuple(models), level_sd)


def _rounded(values: np.ndarray) -> list[float]:
    return [float(f"{v:.{DIGITS}g}") for v in np.ravel(values)]


def _pack(array: np.ndarray) -> dict[str, Any]:
    flat = array.ravel()
    at = np.flatnonzero(flat)
    sparse = len(at) < flat.size / 2
    return {
        "shape": list(array.shape),
        "at": at.tolist() if sparse else None,
        "values": _rounded(flat[at] if sparse else flat),
    }


def _unpack(part: dict[str, Any]) -> np.ndarray:
    flat = np.zeros(int(np.prod(part["shape"])))
    flat[slice(None) if part["at"] is None else part["at"]] = part["values"]
    return flat.reshape(part["shape"])


@cache
def preset(name: str) -> FittedModel:
    """The committed model `name` (see `presets`); needs no trace. Raises SourceError with the known names.

    Example:
        >>> preset("bitbrains").metrics
        ('cpu_utilization',)
    """
    path = FOLDER / f"{name}.json"
    if not path.exists():
        raise SourceError(
            f"fitted:{name}: no such model. Use one of {', '.join(p.stem for p in sorted(FOLDER.glob('*.json')))}."
        )
    return FittedModel.load(path)


def presets() -> pd.DataFrame:
    """The committed models: index name; columns machines (how many were fitted), metrics, provenance."""
    models = [preset(path.stem) for path in sorted(FOLDER.glob("*.json"))]
    rows = [(m.name, len(m.machines), ", ".join(m.metrics), m.provenance) for m in models]
    return pd.DataFrame(rows, columns=["name", "machines", "metrics", "provenance"]).set_index("name")


def fit(
    data: Machines,
    metric: str | Sequence[str] = "cpu_utilization",
    *,
    name: str = "own",
    provenance: str = "Fitted to a trace of the caller's.",
    rng: np.random.Generator,
) -> FittedModel:
    """Estimate every machine of `data` (Telemetry or arrays as in `fidelity`, 5 minutes), several metrics jointly.

    Machines with less than half a day of values are left out. rng: starts of the clustering that forms the states.
    Raises SchemaError (metric, step), TooShortError if no machine is long enough. Sources: vector quantisation, Linde, Buzo and
    Gray, IEEE Trans. Communications 28 (1980); posterior of a Markov chain, Anderson and Goodman, Ann. Math. Stat. 28 (1957);
    smoothed bootstrap of the population, Silverman and Young, Biometrika 74 (1987).

    Example:
        >>> rng = np.random.default_rng(1)
        >>> model = fit({"a": np.tile([10.0, 40.0], 288)}, rng=rng)
        >>> times = pd.date_range("2026-03-02", periods=4, freq="300s", tz="UTC")
        >>> simulate(model, times, rng=rng).observations.shape
        (4, 1)
    """
    names = (metric,) if isinstance(metric, str) else tuple(metric)
    long = {key: x for key, x in machines(data, names).items() if np.isfinite(x).all(1).sum() >= SHORTEST_STEPS}
    if not long:
        raise TooShortError(f"{name}: no machine has {SHORTEST_STEPS} intervals with values. Give half a day or more.")
    models = tuple(fit_machine(x, rng=rng) for x in long.values())
    level = np.log(np.array([np.maximum(m.moments[:, 0], 1e-6) for m in models]))
    gaps = np.sqrt(((level[:, None] - level[None]) ** 2).mean(2)) + np.diag(np.full(len(models), np.inf))
    level_sd = np.clip(gaps.min(1) / 2, SMALLEST_LEVEL_SD, LARGEST_LEVEL_SD)  # half way to the nearest neighbour
    return FittedModel(name, provenance, names, models, level_sd)


def new_machine(model: FittedModel, ancestor: int, times: pd.DatetimeIndex, *, rng: np.random.Generator) -> np.ndarray:
    """One machine near the estimated machine number `ancestor`, at `times` (UTC, every 5 minutes), shape (n_time, n_metric).

    Raises SchemaError for another step.
    """
    steps = np.unique(np.diff(times.asi8)) / 1e9
    if times.tz is None or len(steps) != 1 or steps[0] != STEP_SECONDS:
        raise SchemaError(
            f"fitted:{model.name}: times must be in UTC and {STEP_SECONDS:g} s apart; resample the result."
        )
    slots = (times.as_unit("ns").asi8 // int(STEP_SECONDS * 1e9)) % STEPS_PER_DAY
    machine = redraw(model.machines[ancestor], model.metrics, float(model.level_sd[ancestor]), rng=rng)
    low, high = zip(*(METRICS[metric][1:3] for metric in model.metrics), strict=True)
    return np.clip(simulate_machine(machine, slots, rng=rng), low, high)


def simulate(
    model: FittedModel, times: pd.DatetimeIndex, *, n_resources: int = 1, rng: np.random.Generator
) -> Telemetry:
    """New machines of the population `model` at `times` (UTC, every 5 minutes), as Telemetry.

    Each is an estimated machine chosen at random, redrawn from its posterior and moved by the spread between neighbours. A
    machine's data depend on `rng` and its number, not on how many others there are. Raises SchemaError for another step.

    Example:
        >>> times = pd.date_range("2026-03-02", periods=288, freq="300s", tz="UTC")
        >>> simulate(preset("bitbrains"), times, n_resources=2, rng=np.random.default_rng(1)).observations.shape
        (576, 1)
    """
    ids = [f"{model.name}-{number:04d}" for number in range(1, n_resources + 1)]
    order = rng.spawn(1)[0].permutation(len(model.machines))  # all come up once before one comes up again
    columns = [
        new_machine(model, int(order[place % len(order)]), times, rng=child)
        for place, child in enumerate(rng.spawn(n_resources))
    ]
    index = pd.MultiIndex.from_product([ids, times.as_unit("ns")], names=["resource_id", "timestamp"])
    frame = pd.DataFrame(np.concatenate(columns), index=index, columns=list(model.metrics))
    return Telemetry(
        frame,
        STEP_SECONDS,
        f"fitted:{model.name}",
        f"Simulated by a model of {plural(len(model.machines), 'machine')}; no value of the trace is in it. {model.provenance}",
        True,
        pd.DataFrame(index=pd.Index(ids, name="resource_id")),
    )
