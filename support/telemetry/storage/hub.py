"""Telemetry as a Hugging Face dataset: typed rows or windows, split by time without leakage, with a card."""

from __future__ import annotations

import secrets
import shutil
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np
import pandas as pd
import pyarrow.parquet as pq

from support.errors import SourceError, TooShortError
from support.telemetry.schema import METRICS, Telemetry
from support.writing import plural

if TYPE_CHECKING:
    from datasets import Dataset, DatasetDict

__all__ = ["Form", "card", "push", "save", "split_by_time", "to_dataset", "to_splits"]

Form = Literal["rows", "sequences", "anomaly_windows"]
WINDOWS = {"rows": (1, 1), "sequences": (168, 24), "anomaly_windows": (24, 24)}  # usual length and stride, in steps
SPLITS = ("train", "validation", "test")
LABELS = ("normal", "anomaly")
EXAMPLES = {
    "rows": "One example is one row: a resource at a time.",
    "sequences": "One example is a run of steps of one resource.",
    "anomaly_windows": "One example is a run of steps of one resource, labelled normal or anomaly.",
}


def split_by_time(
    telemetry: Telemetry, shares: tuple[float, float, float] = (0.7, 0.15, 0.15), *, gap_steps: int = 0
) -> dict[str, Telemetry]:
    """`train`, `validation`, `test`: earlier, later, last, cut at the same instants for all resources.

    shares: fractions of the time covered, summing to 1. gap_steps: steps left out before `validation` and `test`, for
    features that look back. Labels are cut with the rows. Raises SourceError for other shares, TooShortError if a part is empty.

    Example:
        >>> from support.telemetry import load
        >>> parts = split_by_time(load("synthetic:web", seed=1, days=10))
        >>> [len(part.observations) for part in parts.values()]
        [10080, 2160, 2160]
    """
    if len(shares) != 3 or not np.isclose(sum(shares), 1) or min(shares) <= 0 or gap_steps < 0:
        raise SourceError(
            f"shares={shares}, gap_steps={gap_steps}: give three positive shares of sum 1, and a gap of 0 or more."
        )
    times = telemetry.observations.index.get_level_values("timestamp")
    step = pd.Timedelta(seconds=telemetry.step_seconds)
    n_steps = int((times.max() - times.min()) / step) + 1
    cuts = [round(n_steps * share) for share in np.cumsum([0.0, *shares])]
    parts = {}
    for number, name in enumerate(SPLITS):
        first = times.min() + (cuts[number] + (gap_steps if number else 0)) * step
        end = times.min() + cuts[number + 1] * step
        rows = telemetry.observations[(times >= first) & (times < end)]
        if rows.empty:
            raise TooShortError(f"{telemetry.source}: {n_steps} steps leave none for {name}. Give a longer history.")
        labels = telemetry.labels
        if len(labels):
            labels = labels[(labels["end"] >= first) & (labels["start"] < end)]
            labels = labels.assign(start=labels["start"].clip(lower=first), end=labels["end"].clip(upper=end - step))
        parts[name] = replace(telemetry, observations=rows, labels=labels.reset_index(drop=True))
    return parts


def to_dataset(
    telemetry: Telemetry, form: Form = "rows", *, length: int | None = None, stride: int | None = None
) -> Dataset:
    """A `datasets.Dataset`: one example per row, per sequence (168 steps, every 24) or per anomaly window (24 steps).

    rows: resource_id, timestamp, the metrics, the columns of the resource, and `anomaly` (kinds known at that time,
    or empty). sequences: resource_id, start, one list of `length` float64 per metric. anomaly_windows: these, `label`
    (normal, anomaly) and `anomaly`. A window is of one resource; a resource's last steps that fill no window are left out.
    Raises SourceError without the library or known anomalies, TooShortError if no window fits.

    Example:
        >>> from support.telemetry import load
        >>> to_dataset(load("synthetic:web", seed=1, days=1, step_seconds=300.0), "sequences").num_rows
        6
    """
    return _build(telemetry, form, *_plan(telemetry, form, length, stride))


def to_splits(
    telemetry: Telemetry,
    form: Form = "rows",
    *,
    length: int | None = None,
    stride: int | None = None,
    shares: tuple[float, float, float] = (0.7, 0.15, 0.15),
    gap_steps: int = 0,
) -> DatasetDict:
    """A `datasets.DatasetDict` of train, validation and test: first `split_by_time`, then `to_dataset` of each part.

    Windows are cut after the split, so no value of one split is in another. Raises as those two do.

    Example:
        >>> from support.telemetry import load
        >>> to_splits(load("synthetic:web", seed=1, days=1)).num_rows
        {'train': 1008, 'validation': 216, 'test': 216}
    """
    plan = _plan(telemetry, form, length, stride)
    parts = split_by_time(telemetry, shares, gap_steps=gap_steps)
    return _datasets().DatasetDict({name: _build(part, form, *plan) for name, part in parts.items()})


def card(telemetry: Telemetry, *, licence: str, title: str = "Cloud telemetry", form: Form = "rows") -> str:
    """The dataset card (README.md): YAML header for the Hub, origin, columns with units, known anomalies, repairs, use.

    licence: an identifier of the Hub, such as `mit` or `cc-by-4.0`. Source: Hugging Face dataset card specification.

    Example:
        >>> from support.telemetry import load
        >>> "| requests | requests per interval |" in card(load("synthetic:web", seed=1, days=1), licence="cc-by-4.0")
        True
    """
    import yaml

    times = telemetry.observations.index.get_level_values("timestamp")
    task = "tabular-classification" if form == "anomaly_windows" else "time-series-forecasting"
    n_rows, n_resources = len(telemetry.observations), len(telemetry.resource_ids)
    header = {
        "pretty_name": title,
        "license": licence,
        "task_categories": [task],
        "tags": ["telemetry", "time-series", "capacity-planning", *(["synthetic"] if telemetry.synthetic else [])],
        "configs": [{"config_name": "default", "data_files": [{"split": s, "path": f"data/{s}-*"} for s in SPLITS]}],
    }
    columns = "\n".join(f"| {name} | {METRICS[name][0]} |" for name in telemetry.observations.columns)
    kinds = [f"{kind} ({count:,})" for kind, count in telemetry.labels["kind"].value_counts().items()]
    repairs = [f"{repair.what} ({repair.count:,})" for repair in telemetry.repairs]
    return f"""---
{yaml.safe_dump(header, sort_keys=False).strip()}
---

# {title}

{telemetry.provenance} {n_rows:,} rows of {plural(n_resources, "resource")}, one every {telemetry.step_seconds:g} s, from
{times.min():%Y-%m-%d %H:%M} to {times.max():%Y-%m-%d %H:%M} UTC. {EXAMPLES[form]} Missing values are NaN.

Splits are by time, cut at the same instants for all resources: train is earliest, test is last, and no value is in two.

| metric | unit |
| --- | --- |
{columns}

Known anomalies: {", ".join(kinds) or "none"}.

Changes to the source data: {"; ".join(repairs) or "none"}.
"""


def save(splits: DatasetDict, folder: str | Path, text: str) -> list[str]:
    """Save a DatasetDict and its card to a new local folder that `datasets.load_dataset(folder)` reads: Parquet, README.md.

    It is also the layout of a repository on the Hub: uploading the folder as it is publishes it. Written under a
    temporary name and renamed. Returns the files. Raises SourceError if the folder exists or cannot be written.
    """
    folder = Path(folder)
    if folder.exists():
        raise SourceError(f"{folder}: exists. Choose another name, or remove it first.")
    partial = folder.with_name(f".{folder.name}.{secrets.token_hex(4)}.partial")
    try:
        (partial / "data").mkdir(parents=True)
        for name, part in splits.items():
            pq.write_table(part.data.table, partial / "data" / f"{name}-00000-of-00001.parquet")
        (partial / "README.md").write_text(text, encoding="utf-8")
        partial.rename(folder)
    except OSError as error:
        raise SourceError(
            f"{folder}: cannot be written ({error.strerror or error}). Check the folder and its space."
        ) from None
    finally:
        with suppress(OSError):
            shutil.rmtree(partial)
    return sorted(str(path) for path in folder.rglob("*") if path.is_file())


def push(
    folder: str | Path, repo_id: str, *, private: bool = True, token: str | None = None, endpoint: str | None = None
) -> str:
    """Publish a folder made by `save` on the Hugging Face Hub as `user/name`; returns the address of the dataset.

    token: from `hf auth login` or HF_TOKEN if left out. endpoint: of another Hub than the public one.
    Raises SourceError that says how to log in.
    """
    _datasets()
    from huggingface_hub import HfApi

    api = HfApi(endpoint=endpoint, token=token)
    try:
        api.create_repo(repo_id, repo_type="dataset", private=private, exist_ok=True)
        api.upload_folder(repo_id=repo_id, folder_path=str(folder), repo_type="dataset")
    except Exception as error:  # the library and those below raise many kinds; the reader needs one sentence
        said = " ".join(str(error).split())[:120]
        raise SourceError(
            f"{repo_id}: could not be pushed to {api.endpoint} ({type(error).__name__}: {said}). Log in with `hf auth login` "
            "or set HF_TOKEN to a token that may write, and check the name and the network."
        ) from None
    return f"{api.endpoint}/datasets/{repo_id}"


def _datasets() -> ModuleType:
    try:
        import datasets  # a second, only needed here
    except ImportError:
        raise SourceError(
            "The library `datasets` is not installed. Install the extra: pip install 'capacity-under-uncertainty[scale]'."
        ) from None
    return datasets


def _plan(telemetry: Telemetry, form: str, length: int | None, stride: int | None) -> tuple[int, int]:
    """Length and stride of the windows in steps. Raises SourceError."""
    if form not in get_args(Form):
        raise SourceError(f"form={form!r} is not known. Use one of {', '.join(get_args(Form))}.")
    if form == "anomaly_windows" and telemetry.labels.empty:
        raise SourceError(f"{telemetry.source}: no anomalies are known, so windows cannot be labelled. Generate some.")
    usual = WINDOWS[form]
    plan = (usual[0] if length is None else length, usual[1] if stride is None else stride)
    if min(plan) < 1:
        raise SourceError(f"length={plan[0]}, stride={plan[1]}: windows need at least 1 step of each.")
    return plan


def _build(telemetry: Telemetry, form: str, length: int, stride: int) -> Dataset:
    labelled = form == "anomaly_windows"
    table = _rows(telemetry) if form == "rows" else _windows(telemetry, length, stride, labelled=labelled)
    datasets = _datasets()
    types = {"f": "float64", "i": "int64", "b": "bool", "M": "timestamp[us, tz=UTC]"}
    features = {}
    for name, column in table.items():
        value = datasets.Value(types.get(column.dtype.kind, "string"))
        features[name] = datasets.List(value, length=length) if column.ndim == 2 else value
    if labelled:
        features["label"] = datasets.ClassLabel(names=list(LABELS))
    return datasets.Dataset.from_dict(table, features=datasets.Features(features))


def _rows(telemetry: Telemetry) -> dict[str, np.ndarray]:
    """Columns of the form `rows`, each of shape (n_rows,)."""
    frame = telemetry.observations
    ids, times = frame.index.get_level_values(0), frame.index.get_level_values(1)
    table: dict[str, np.ndarray] = {"resource_id": ids.to_numpy(), "timestamp": times.tz_localize(None).to_numpy()}
    table |= {name: frame[name].to_numpy() for name in frame}
    for name, column in telemetry.resources.reindex(frame.index.levels[0]).items():
        text = not pd.api.types.is_numeric_dtype(column)
        values = column.astype(str).where(column.notna(), None) if text else column
        table.setdefault(str(name), values.to_numpy()[frame.index.codes[0]])
    return table | {"anomaly": _kinds(telemetry)}


def _windows(telemetry: Telemetry, length: int, stride: int, *, labelled: bool) -> dict[str, np.ndarray]:
    """Columns of windows: `resource_id`, `start`, metrics of shape (n_windows, length), and their labels if `labelled`."""
    frame = telemetry.observations
    bounds = [*np.flatnonzero(np.diff(frame.index.codes[0], prepend=-1)), len(frame)]
    starts = np.concatenate([np.arange(a, b - length + 1, stride) for a, b in pairwise(bounds)])
    if not len(starts):
        raise TooShortError(
            f"{telemetry.source}: no resource has {length} steps in a part. Give a longer history, or shorter windows."
        )
    rows = starts[:, None] + np.arange(length)
    times = frame.index.get_level_values(1).tz_localize(None).to_numpy()
    table: dict[str, np.ndarray] = {
        "resource_id": frame.index.get_level_values(0).to_numpy()[starts],
        "start": times[starts],
    }
    table |= {name: frame[name].to_numpy()[rows] for name in frame}
    if labelled:
        kinds = [{kind for text in set(of) for kind in text.split(",") if kind} for of in _kinds(telemetry)[rows]]
        table["label"] = np.array([bool(found) for found in kinds], dtype=int)
        table["anomaly"] = np.array([",".join(sorted(found)) for found in kinds], dtype=object)
    return table


def _kinds(telemetry: Telemetry) -> np.ndarray:
    """Kinds of the known anomalies at each row, sorted and joined by commas, empty if none; shape (n_rows,)."""
    index = telemetry.observations.index
    kinds = np.full(len(index), "", dtype=object)
    for label in telemetry.labels.sort_values("kind").itertuples():
        rows = index.slice_indexer((label.resource_id, label.start), (label.resource_id, label.end))
        kinds[rows] = [k if label.kind in k.split(",") else f"{k},{label.kind}".strip(",") for k in kinds[rows]]
    return kinds
