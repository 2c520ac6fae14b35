"""Telemetry to files and back: Parquet, CSV, CSV.gz or a folder of partitioned Parquet; block by block, all or nothing."""

from __future__ import annotations

import gzip
import json
import secrets
import time
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Any, Literal, get_args

import fsspec
import pandas as pd
import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.dataset as pads
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from support.errors import SchemaError, SourceError
from support.telemetry.calendars import flat
from support.telemetry.reading.grid import merged_repairs
from support.telemetry.schema import LABEL_COLUMNS, METRICS, Repair, Telemetry

__all__ = ["Format", "Layout", "Partition", "WriteReport", "read", "write"]

Format = Literal["parquet", "csv", "csv.gz"]
Layout = Literal["tidy", "joined", "flat"]
Partition = Literal["block", "utc_month"]
GZIP_LEVEL = 6
SAID, SMALL = ("source", "provenance", "synthetic", "step_seconds"), ("resources", "labels")  # what about.json holds


@dataclass(frozen=True)
class WriteReport:
    """What `write` wrote: rows, resources, known anomalies, bytes of all files, seconds, and the files, the table first.

    Example:
        >>> WriteReport(1000, 2, 0, 2_000_000, 0.5, ("fleet.parquet",)).rows_per_second
        2000.0
    """

    rows: int
    resources: int
    labels: int
    bytes: int
    seconds: float
    files: tuple[str, ...]

    @property
    def rows_per_second(self) -> float:
        """Rows per second, generation included if the blocks were generated while they were written."""
        return self.rows / max(self.seconds, 1e-9)


def write(
    data: Telemetry | Iterable[Telemetry],
    path: str,
    *,
    format: Format | None = None,
    layout: Layout = "tidy",
    partition: Partition = "block",
    decimals: int | None = None,
    overwrite: bool = False,
) -> WriteReport:
    """Write Telemetry, or an iterator of blocks of it, to `path` (any fsspec address) in the memory of one block.

    path: NAME.parquet, NAME.csv or NAME.csv.gz; a name without suffix is a folder of Parquet with Hive partitions, one file
    per block, or per block and month in UTC (`partition`). A resource is in one block; blocks are in order of the ids.
    layout: `tidy` (resource_id, timestamp, metrics), `joined` (and the columns of the resources), `flat` (and those of the
    calendar). decimals: metrics are rounded to so many; without, floats keep every bit, in CSV too. Beside the table,
    PATH.about.json (FOLDER/_about.json) keeps units, origin, step, repairs, resources and known anomalies, for `read`.
    All is written under a temporary name and renamed at the end: a run that fails or is interrupted leaves nothing.
    Raises SourceError if the path exists (and not overwrite) or cannot be written, SchemaError if blocks do not match.

    Example:
        >>> from support.telemetry import load
        >>> write(load("synthetic:web", seed=1, days=1), "memory://web.csv", overwrite=True).files
        ('memory://web.csv', 'memory://web.csv.about.json')
    """
    began = time.perf_counter()
    for option, given, known in (("layout", layout, Layout), ("partition", partition, Partition)):
        if given not in get_args(known):
            raise SourceError(f"{path}: {option}={given!r} is not known. Use one of {', '.join(get_args(known))}.")
    kind, files, target, about = _place(path := str(path).rstrip("/"))
    if format is not None and format != (kind or "parquet"):
        raise SourceError(f"{path}: the name says {kind or 'a folder of parquet'}, format {format}. Let them agree.")
    parent, _, name = target.rpartition("/")
    partial = f"{parent}/.{name}.{secrets.token_hex(4)}.partial"
    try:
        if isinstance(files, LocalFileSystem) and not files.isdir(parent):
            raise SourceError(f"{path}: there is no folder {parent}. Make it first.")
        if not overwrite and (files.exists(target) or files.exists(about)):
            raise SourceError(f"{path}: exists. Choose another name, or allow overwriting.")
        if files.exists(target) and (files.isdir(target) == bool(kind) or not files.exists(about)):
            raise SourceError(f"{path}: was not written here, so it is left alone. Remove it first, or rename it.")
        try:
            files.makedirs(partial)
            writer = _Writer(files, partial, kind, layout, partition, decimals)
            known_of = writer.consume([data] if isinstance(data, Telemetry) else data, path)
            files.pipe_file(f"{partial}/_about.json", json.dumps(known_of, indent=1, default=str).encode())
            size = sum(files.sizes(files.find(partial)))
            if kind:
                files.mv(f"{partial}/_about.json", about)
                files.mv(f"{partial}/table", target)
            else:
                if files.exists(target):  # kept aside until its successor is in place
                    _move(files, target, f"{partial}.old")
                _move(files, partial, target)
        finally:
            for left in (partial, f"{partial}.old"):
                with suppress(OSError):
                    files.rm(left, recursive=True)
    except OSError as error:
        said = " ".join(str(error.strerror or error).split())[:120] or type(error).__name__
        raise SourceError(f"{path}: cannot be written ({said}). Check the folder, its permissions and space.") from None
    n_resources, n_labels = len(writer.ids), len(known_of["labels"]["rows"])
    names = (path, f"{path}.about.json" if kind else f"{path}/_about.json")
    return WriteReport(writer.rows, n_resources, n_labels, size, time.perf_counter() - began, names)


def read(path: str) -> Telemetry:
    """What `write` wrote, whatever its format and layout: observations, resources, labels, repairs, step and provenance.

    Raises SourceError if the path is not there, was not written by `write`, or lacks a part of what was written.

    Example:
        >>> from support.telemetry import load
        >>> telemetry = load("synthetic:web", seed=1, days=1)
        >>> path = write(telemetry, "memory://web.parquet", overwrite=True).files[0]
        >>> read(path).observations.equals(telemetry.observations)
        True
    """
    kind, files, target, beside = _place(path := str(path).rstrip("/"))
    try:
        if not files.exists(target):
            raise SourceError(f"{path}: there is no such file or folder. Check the path.")
        if not files.exists(beside):
            raise SourceError(f"{path}: has no about.json, so it was not written here. Read it with load.")
        about = json.loads(files.cat_file(beside))
        columns = ["resource_id", "timestamp", *about["metrics"]]
        if kind.startswith("csv"):
            types = {c: pa.float64() for c in about["metrics"]} | {"resource_id": pa.string()}
            options = pacsv.ConvertOptions(column_types=types, include_columns=columns, strings_can_be_null=False)
            with files.open(target, "rb", compression="gzip" if kind == "csv.gz" else None) as file:
                table = pacsv.read_csv(file, convert_options=options)
        else:
            wanted = target if kind else [file for file in files.find(target) if file.endswith(".parquet")]
            table = pads.dataset(wanted, filesystem=files, format="parquet").to_table(columns)
        frame = table.to_pandas().astype({"timestamp": "datetime64[ns, UTC]"}).set_index(columns[:2]).sort_index()
        small = {name: pd.DataFrame(about[name]["rows"]).astype(about[name]["types"]) for name in SMALL}
    except SourceError:
        raise
    except (OSError, KeyError, ValueError) as error:  # pyarrow's errors and JSON's are ValueErrors
        said = " ".join(str(error).split())[:120]
        raise SourceError(f"{path}: cannot be read ({type(error).__name__}: {said}). Write it again.") from None
    if len(frame) != about["rows"]:
        raise SourceError(f"{path}: has {len(frame):,} rows, {about['rows']:,} were written. Write it again.")
    return Telemetry(
        observations=frame,
        resources=small["resources"].set_index("resource_id") if len(small["resources"]) else pd.DataFrame(),
        labels=small["labels"] if len(small["labels"]) else pd.DataFrame(columns=list(LABEL_COLUMNS)),
        repairs=tuple(Repair(what, count) for what, count in about["repairs"]),
        **{name: about[name] for name in SAID},
    )


class _Writer:
    """Writes blocks into the folder `partial`: one file `table`, or partitions if `kind` is empty."""

    def __init__(self, files: Any, partial: str, kind: str, layout: str, partition: str, decimals: int | None):
        self.files, self.partial, self.kind = files, partial, kind
        self.layout, self.partition, self.decimals = layout, partition, decimals
        self.rows, self.ids, self.metrics = 0, list[str](), list[str]()
        self.schema: pa.Schema | None = None
        self.sink: Any = None

    def consume(self, blocks: Iterable[Telemetry], path: str) -> dict[str, Any]:
        """Write all blocks; what is known of them beside the rows."""
        about: dict[str, Any] = {}
        repairs, small = list[Repair](), {name: dict[Any, dict[str, Any]]() for name in SMALL}
        with ExitStack() as stack:
            for number, block in enumerate(blocks):
                about = about or {name: getattr(block, name) for name in SAID}
                ids = block.resource_ids
                if self.ids and ids[0] <= self.ids[-1]:
                    raise SchemaError(f"{path}: {ids[0]} after {self.ids[-1]}. Give resources in order, each once.")
                if block.step_seconds != about["step_seconds"]:
                    raise SchemaError(f"{path}: block {number} has another step than the first. Resample it first.")
                table = self._table(block, number, path)
                if self.kind:
                    self.sink = self.sink or self._open(stack)
                    self.sink.write_table(table)
                else:
                    self._write_partitions(table, block, number)
                self.rows += table.num_rows
                self.ids += ids
                repairs += block.repairs
                resources = _records(block.resources.rename_axis("resource_id").reset_index())
                small["resources"] |= {row["resource_id"]: row for row in resources}
                small["labels"] |= {tuple(row.values()): row for row in _records(block.labels)}
                del block, table
        if not about:
            raise SourceError(f"{path}: there is nothing to write, the iterator gave no block.")
        about |= {"rows": self.rows, "metrics": {c: METRICS[c][0] for c in self.metrics}}
        about["repairs"] = [(repair.what, repair.count) for repair in merged_repairs(repairs)]
        for name, rows in small.items():
            types = pd.DataFrame(rows.values()).dtypes
            about[name] = {"types": {str(c): str(kind) for c, kind in types.items()}, "rows": list(rows.values())}
        return about

    def _table(self, block: Telemetry, number: int, path: str) -> pa.Table:
        """The block's rows with the columns of the layout and the types of the first block."""
        frame = block.observations if self.decimals is None else block.observations.round(self.decimals)
        if self.layout == "tidy":
            names = pa.array(frame.index.levels[0], pa.string())
            ids = pa.DictionaryArray.from_arrays(pa.array(frame.index.codes[0]), names)
            stamps = pa.array(frame.index.get_level_values("timestamp"))
            columns = {"resource_id": ids.dictionary_decode(), "timestamp": stamps}
            table = pa.table(columns | {c: pa.array(frame[c], from_pandas=True) for c in frame})
        else:
            wide = flat(block, calendar=self.layout == "flat")
            rounded = {c: frame[c].to_numpy() for c in frame if self.decimals is not None}
            table = pa.Table.from_pandas(wide.assign(**rounded), preserve_index=False)
        if self.schema is None:
            self.metrics = list(frame.columns)
            self.schema = _schema(table, block, csv=self.kind.startswith("csv"))
        if table.column_names != self.schema.names:
            odd = sorted(set(table.column_names) ^ set(self.schema.names)) or "their order"
            raise SchemaError(f"{path}: block {number} has other columns than the first ({odd}). Give all the same.")
        try:
            return table.cast(self.schema)
        except pa.ArrowException as error:
            raise SchemaError(f"{path}: block {number} has other types than the first ({str(error)[:120]}).") from None

    def _open(self, stack: ExitStack) -> Any:
        raw = stack.enter_context(self.files.open(f"{self.partial}/table", "wb"))
        if self.kind == "parquet":
            return stack.enter_context(pq.ParquetWriter(raw, self.schema, compression="zstd"))
        if self.kind == "csv.gz":  # neither a time nor a name in the header: same rows, same bytes
            raw = stack.enter_context(gzip.GzipFile("", "wb", GZIP_LEVEL, raw, mtime=0))
        options = pacsv.WriteOptions(quoting_style="needed")
        return stack.enter_context(pacsv.CSVWriter(raw, self.schema, write_options=options))

    def _write_partitions(self, table: pa.Table, block: Telemetry, number: int) -> None:
        parts = {f"{number:05d}": table}
        if self.partition == "utc_month":
            index = block.observations.index
            months, names = pd.factorize(index.levels[1].strftime("%Y-%m"))
            rows = pd.Series(months[index.codes[1]]).groupby(months[index.codes[1]]).indices
            parts = {names[month]: table.take(pa.array(where)) for month, where in rows.items()}
        for key, part in parts.items():
            name = f"{self.partition}={key}/part-{number:05d}.parquet"
            self.files.makedirs(f"{self.partial}/{self.partition}={key}", exist_ok=True)
            with self.files.open(f"{self.partial}/{name}", "wb") as file:
                pq.write_table(part, file, compression="zstd")


def _schema(table: pa.Table, block: Telemetry, *, csv: bool) -> pa.Schema:
    """Types of the first block: no dictionaries, text where nothing tells the type, CSV times in whole seconds if they are."""
    whole = csv and not (block.observations.index.levels[1].as_unit("ns").asi8 % 10**9).any()
    fields = []
    for item in table.schema:
        kind = item.type.value_type if pa.types.is_dictionary(item.type) else item.type
        kind = pa.string() if pa.types.is_null(kind) or pa.types.is_large_string(kind) else kind
        fields.append(pa.field(item.name, pa.timestamp("s", "UTC") if whole and item.name == "timestamp" else kind))
    return pa.schema(fields, metadata={"provenance": block.provenance, "synthetic": str(block.synthetic).lower()})


def _move(files: Any, source: str, target: str) -> None:
    """Rename a folder at once; on a store that has no folders, file by file, its about.json last."""
    if isinstance(files, LocalFileSystem):
        files.mv(source, target, recursive=True)
    for name in sorted(files.find(source), key=lambda name: name.endswith("_about.json")):
        files.mv(name, target + name[len(source) :])


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows as dicts of plain values, None where one is missing."""
    return frame.astype(object).where(frame.notna(), None).to_dict("records") if len(frame) else []


def _place(path: str) -> tuple[str, Any, str, str]:
    """Kind (`parquet`, `csv`, `csv.gz`, empty for a folder), file system, place of the table and of its about.json."""
    name = path.rpartition("/")[2]
    if name.strip(".") == "" or name in (".parquet", ".csv", ".csv.gz"):
        raise SourceError(f"{path!r} is no name of a file or folder. Give one such as fleet.parquet.")
    kind = next((kind for kind in ("csv.gz", "csv", "parquet") if name.endswith(f".{kind}")), "")
    if not kind and "." in name:
        raise SourceError(f"{path}: unknown kind of file. Use {', '.join(get_args(Format))}, or a folder: no suffix.")
    try:
        files, target = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise SourceError(f"{path}: cannot open this kind of address ({error}). For s3:// install s3fs.") from None
    return kind, files, target, f"{target}.about.json" if kind else f"{target}/_about.json"
