"""One door for all data: `load(source)`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from support.errors import SourceError
from support.telemetry.files import MAX_BYTES, SUFFIXES, read_table
from support.telemetry.generator import synthetic
from support.telemetry.schema import Telemetry
from support.telemetry.tidy import tidy
from support.telemetry.traces import DATASETS, load_trace

__all__ = ["load"]

SYNTHETIC_OPTIONS = ("days", "n_resources")
FILE_OPTIONS = (
    "timestamp_column",
    "value_column",
    "resource_column",
    "metric",
    "timezone",
    "duplicates",
    "fill",
    "max_gap_seconds",
)


def load(
    source: str,
    *,
    seed: int | None = None,
    step_seconds: float | None = None,
    max_bytes: float = MAX_BYTES,
    **options: Any,
) -> Telemetry:
    """Telemetry from anywhere.

    source: `synthetic`, `synthetic:<preset>`; a registered trace (`worldcup98`, `nab:realAWSCloudwatch/...`); a path or URL
    of CSV, CSV.gz or Parquet. seed: needed for synthetic sources. step_seconds: aggregate to this coarser step (synthetic
    sources are generated at it if it is no multiple of their own). max_bytes: the largest file that is read.
    options: for synthetic `days`, `n_resources`; for files `timestamp_column`, `value_column`, `resource_column`,
    `metric`, `timezone`, `duplicates`, `fill`, `max_gap_seconds` (see `support.telemetry.tidy.tidy`).
    Raises SourceError, SchemaError, TooShortError, each one sentence that says how to mend it.

    Example:
        >>> load("synthetic", seed=1, days=2, step_seconds=3600.0).demand().shape
        (48,)
    """
    source = str(source).strip()
    if not source:
        raise SourceError(
            "source is empty. Give 'synthetic', a trace such as 'worldcup98', or the path of a CSV or Parquet file."
        )
    kind = source.split(":")[0]
    options = {name: value for name, value in options.items() if value is not None}
    if kind == "synthetic":
        if seed is None:
            raise SourceError(f"{source}: needs a seed, such as seed=1.")
        _refuse_unknown(source, options, SYNTHETIC_OPTIONS)
        preset = source.partition(":")[2] or "web"
        telemetry = synthetic(preset, seed=seed, **options)
        if step_seconds and step_seconds % telemetry.step_seconds:
            telemetry = synthetic(preset, seed=seed, step_seconds=step_seconds, **options)
    elif kind in DATASETS and not Path(source).exists():
        _refuse_unknown(source, options, ())
        telemetry = load_trace(source)
    else:
        _refuse_unknown(source, options, FILE_OPTIONS)
        if not set("./\\") & set(source) and not Path(source).exists():
            raise SourceError(
                f"{source}: is neither a file nor a known source. Known are synthetic, synthetic:<preset>, "
                f"{', '.join(DATASETS)}:<series>, and paths or URLs of {', '.join(SUFFIXES)}."
            )
        table = read_table(source, max_bytes=max_bytes)
        address = source.split("?")[0] if "://" in source else source  # a query may hold a key
        name = address.rsplit("/", 1)[-1]
        telemetry = tidy(table, source=address, provenance=f"The file {name}, as given by the reader.", **options)
    return telemetry.resample(step_seconds) if step_seconds and step_seconds != telemetry.step_seconds else telemetry


def _refuse_unknown(source: str, options: dict[str, Any], known: tuple[str, ...]) -> None:
    unknown = sorted(set(options) - set(known))
    if unknown:
        accepted = (
            f"It takes {', '.join(known)}."
            if known
            else "A registered trace takes none: its columns and times are known."
        )
        raise SourceError(f"{source}: option {', '.join(unknown)} does not apply to this source. {accepted}")
