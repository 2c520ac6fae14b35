"""A lake in three layers, bronze, silver and gold: Hive-partitioned Parquet on any fsspec path, queried with SQL."""

from __future__ import annotations

import glob
import hashlib
import io
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from itertools import chain
from pathlib import PurePosixPath
from typing import Any

import duckdb
import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
from fsspec.implementations.local import LocalFileSystem

from support.errors import SchemaError, SourceError
from support.telemetry.reading.files import read_table
from support.telemetry.reading.units import headers
from support.telemetry.schema import Repair, Telemetry
from support.telemetry.storage.aggregation import aggregate

__all__ = ["Lake"]

ROWS_PER_BATCH = 1_000_000  # blocks are gathered to about so many rows before they are written
BRONZE_COLUMNS = ("source", "ingested_at", "sha256", "dataset", "ingested")
SMALL_TABLES = ("resources", "labels", "repairs")
ABOUT = ("step_seconds", "source", "provenance", "synthetic")


class Lake:
    """Bronze, silver and gold tables under `root`, a local folder or any fsspec URL such as s3://bucket/prefix.

    storage_options: what fsspec needs to open `root` (for S3: key, secret, endpoint_url). Partitions are
    `dataset=.../ingested=<day>` in bronze, `dataset=.../month=<YYYY-MM>` in silver, `dataset=.../step=.../month=...` in gold.
    A write counts once its commit, one small JSON object under `_commits/`, is in place; it lists the files that belong
    to the table, so half a write is never seen, and a repeated write changes nothing. One writer per dataset at a time.
    Raises SourceError for an address that cannot be opened, a name that is no plain word, a dataset that is not there,
    or a query that fails.
    Source: Armbrust et al. (2020), Delta Lake, PVLDB 13(12), for commits on stores without an atomic rename of folders.

    Example:
        >>> import tempfile
        >>> from support.telemetry import load
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     lake = Lake(folder)
        ...     rows = lake.refine(load("synthetic", seed=1, days=2, step_seconds=3600.0), "web")
        ...     rows = lake.aggregate("web", "day")
        ...     lake.sql("SELECT count(*) AS days FROM gold WHERE metric = 'requests'")["days"].tolist()
        [2]
    """

    def __init__(self, root: str, storage_options: Mapping[str, Any] | None = None) -> None:
        try:
            files, base = fsspec.core.url_to_fs(root, **(storage_options or {}))
        except (ImportError, ValueError) as error:
            raise SourceError(f"{root}: cannot open this kind of address ({error}). For s3:// install s3fs.") from None
        self.root, self._base = root, base.rstrip("/")
        self._local = isinstance(files, LocalFileSystem)
        self._files = LocalFileSystem(auto_mkdir=True) if self._local else files

    def land(self, path: str, name: str | None = None, *, ingested_at: pd.Timestamp | None = None) -> int:
        """Bronze: the table at `path` as it was read, with `source`, `ingested_at` (UTC) and `sha256` of the file.

        `name` of the dataset: the file's own without its suffix, if not given. Several files may land in one dataset; the
        same bytes land once. A column of mixed types is kept as text. Returns the rows; raises SourceError as `read_table`.
        """
        said = path.split("?")[0]  # the query of a URL may hold a key
        name = _plain(name or PurePosixPath(said).name.split(".")[0])
        ids = headers()["header"][headers()["metric"] == "resource_id"]
        table = read_table(path, texts=ids)
        taken = [c for c in BRONZE_COLUMNS if c in table.columns]
        if taken:
            raise SourceError(f"{said}: bronze itself writes a column {taken[0]!r}. Rename the one in the file.")
        with fsspec.open(path, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        commit = f"bronze/{name}/{digest}"
        if not self._commit(commit):
            at = ingested_at or pd.Timestamp.now(tz="UTC")
            content = _parquet(_as_arrow(table.assign(source=said, ingested_at=at, sha256=digest)))
            folder = f"bronze/dataset={name}/ingested={at:%Y-%m-%d}"
            self._publish(commit, [self._write(folder, content, set())], {"rows": len(table)})
        return len(table)

    def refine(self, telemetry: Telemetry | Iterable[Telemetry], name: str) -> int:
        """Silver: observations with `quality_flag` (0 where none was set), resources, labels and repairs.

        telemetry: one, or an iterator of blocks of it (other resources, or each resource's next rows), which is written
        in the memory of some ROWS_PER_BATCH rows. Replaces what `name` held; gold made from other rows is withdrawn.
        Returns the number of rows. Raises SchemaError for blocks that do not go together, SourceError if there are none.
        """
        commit = f"silver/{_plain(name)}/current"
        before = set(self._commit(commit).get("files", ()))
        blocks = iter([telemetry] if isinstance(telemetry, Telemetry) else telemetry)
        first = next(blocks, None)
        if first is None:
            raise SourceError(f"{self.root}: nothing to write to {name!r}, the iterator gave no block.")
        small: dict[str, list[pd.DataFrame]] = {table: [] for table in SMALL_TABLES}
        files, rows = [], 0
        for frame in _batches(chain([first], blocks), name, small):
            months = frame.index.get_level_values("timestamp").tz_localize(None).to_numpy().astype("datetime64[M]")
            for month in np.unique(months):
                content = _parquet(_as_arrow(frame[months == month].reset_index()))
                files.append(self._write(f"silver/dataset={name}/month={month}", content, before))
            rows += len(frame)
        for table, parts in small.items():
            filled = [part for part in parts if len(part)]
            if filled:
                both = pd.concat(filled)
                counted = table == "repairs"
                whole = both.groupby("what", sort=False, as_index=False).sum() if counted else both.drop_duplicates()
                files.append(self._write(f"{table}/dataset={name}", _parquet(_as_arrow(whole)), before))
        for old in self._commits(f"gold/{name}/*") if set(files) != before else {}:
            self._files.rm_file(f"{self._base}/_commits/{old}.json")
        self._publish(commit, files, {k: getattr(first, k) for k in ABOUT})
        self._sweep([f"{table}/dataset={name}" for table in ("silver", *SMALL_TABLES)], files)
        return rows

    def aggregate(self, name: str, step: str = "hour") -> int:
        """Gold: `aggregate` of silver at `step`, "hour" or "day" (UTC), with one month of it in memory at a time.

        Returns the number of rows, one per resource, interval and metric.
        """
        silver, commit = self._silver(name), f"gold/{name}/{step}"
        months: dict[str, list[str]] = {}
        for file in silver["files"]:
            if file.startswith("silver/"):
                months.setdefault(PurePosixPath(file).parent.name, []).append(file)
        before, files, rows = set(self._commit(commit).get("files", ())), [], 0
        for month, parts in months.items():
            frames = [pl.read_parquet(io.BytesIO(self._content(part)), glob=False) for part in parts]
            frame = frames[0] if len(frames) == 1 else pl.concat(frames).sort("resource_id", "timestamp")
            gold = aggregate(frame.lazy(), step, silver["step_seconds"])
            files.append(self._write(f"gold/dataset={name}/step={step}/{month}", _parquet(gold.to_arrow()), before))
            rows += len(gold)
        self._publish(commit, files)
        self._sweep([f"gold/dataset={name}/step={step}"], files)
        return rows

    def read(self, name: str) -> Telemetry:
        """Telemetry of a silver dataset, as it was refined (`quality_flag` is always there)."""
        silver = self._silver(name)
        tables: dict[str, list[pd.DataFrame]] = {}
        for file in silver["files"]:
            table = pq.read_table(io.BytesIO(self._content(file))).to_pandas()
            times = {c: table[c].dt.as_unit("ns") for c in table.select_dtypes("datetimetz")}
            tables.setdefault(file.split("/")[0], []).append(table.assign(**times))
        observations = pd.concat(tables["silver"]).set_index(["resource_id", "timestamp"]).sort_index()
        more: dict[str, Any] = {"labels": tables["labels"][0]} if "labels" in tables else {}
        if "resources" in tables:
            more["resources"] = tables["resources"][0].set_index("resource_id")
        repairs = [Repair(r["what"], int(r["count"])) for t in tables.get("repairs", ()) for r in t.to_dict("records")]
        return Telemetry(observations, repairs=tuple(repairs), **{k: silver[k] for k in ABOUT}, **more)

    def sql(self, query: str) -> pd.DataFrame:
        """Answer of DuckDB to `query` over the views bronze, silver, gold, resources, labels and repairs (those there are)."""
        base = glob.escape(self._base if self._local else self._files.unstrip_protocol(self._base)).replace("'", "''")
        tables: dict[str, list[str]] = {}
        for commit in self._commits().values():
            for file in commit["files"]:
                tables.setdefault(file.split("/")[0], []).append(f"{base}/{file}")
        with duckdb.connect(config={"autoinstall_known_extensions": False}) as connection:
            if not self._local:
                connection.register_filesystem(self._files)
            try:
                connection.execute("SET TimeZone = 'UTC'")
                for table, paths in tables.items():
                    listed = ", ".join(f"'{path}'" for path in sorted(paths))
                    options = "hive_partitioning = true, hive_types_autocast = false, union_by_name = true"
                    connection.execute(f"CREATE VIEW {table} AS SELECT * FROM read_parquet([{listed}], {options})")
                return connection.execute(query).df()
            except duckdb.Error as error:
                reason = str(error).splitlines()[0]
                known = ", ".join(sorted(tables)) or "none yet"
                raise SourceError(f"{self.root}: the query fails ({reason}). Tables there are: {known}.") from None

    def _content(self, file: str) -> bytes:
        return self._files.cat_file(f"{self._base}/{file}")

    def _commits(self, under: str = "*/*/*") -> dict[str, dict[str, Any]]:
        self._files.invalidate_cache()
        start = len(f"{self._base}/_commits/")
        found = self._files.glob(f"{glob.escape(self._base)}/_commits/{under}.json")
        return {path[start:-5]: json.loads(self._files.cat_file(path)) for path in found}

    def _commit(self, commit: str) -> dict[str, Any]:
        return self._commits(commit).get(commit, {})

    def _silver(self, name: str) -> dict[str, Any]:
        commit = self._commit(f"silver/{_plain(name)}/current")
        if not commit:
            known = ", ".join(c.split("/")[1] for c in self._commits("silver/*/*")) or "none yet"
            raise SourceError(f"{self.root}: no silver dataset {name!r}; there are: {known}. Call refine first.")
        return commit

    def _write(self, folder: str, content: bytes, committed: set[str]) -> str:
        """Write `content` under a name that is its hash, unless a commit holds it: a visible file is never touched."""
        file = f"{folder}/{hashlib.sha256(content).hexdigest()[:16]}.parquet"
        if file not in committed:
            try:
                self._files.pipe_file(f"{self._base}/{file}", content)
            except (FileNotFoundError, NotADirectoryError, PermissionError) as error:
                said = error.strerror or error
                raise SourceError(
                    f"{self.root}: cannot be written ({said}). Check bucket, folder and rights."
                ) from None
        return file

    def _publish(self, commit: str, files: list[str], about: Mapping[str, Any] | None = None) -> None:
        """Make `files` the content of the table: one rename (on S3 one copy of an object, which is atomic too)."""
        target = f"{self._base}/_commits/{commit}"
        text = json.dumps({"files": sorted(files), **(about or {})}, indent=1)
        self._files.pipe_file(f"{target}.tmp", text.encode())
        self._files.mv(f"{target}.tmp", f"{target}.json")

    def _sweep(self, folders: list[str], keep: list[str]) -> None:
        """Remove from `folders` what no commit lists any more, also what an interrupted write left there."""
        self._files.invalidate_cache()
        for path in [p for folder in folders for p in self._files.find(f"{self._base}/{folder}")]:
            if path.removeprefix(f"{self._base}/") not in keep:
                self._files.rm_file(path)


def _batches(blocks: Iterable[Telemetry], name: str, small: dict[str, list[pd.DataFrame]]) -> Iterator[pd.DataFrame]:
    """Observations with `quality_flag` of blocks that go on where the others ended, some ROWS_PER_BATCH rows at a time.

    What there is beside the observations is appended to `small`.
    """
    shape: list[object] = []
    last: dict[str, pd.Timestamp] = {}
    gathered: list[pd.DataFrame] = []
    for number, block in enumerate(blocks):
        frame = block.observations
        frame = frame if "quality_flag" in frame else frame.assign(quality_flag=0.0)
        shape = shape or [block.step_seconds, *frame.columns]
        if shape != [block.step_seconds, *frame.columns]:
            raise SchemaError(f"{name}: block {number} has other columns or another step than the first.")
        times = frame.index.to_frame(index=False).groupby("resource_id")["timestamp"].agg(["min", "max"])
        step = pd.Timedelta(seconds=block.step_seconds)
        odd = [r for r, first in times["min"].items() if r in last and first != last[r] + step]
        if odd:
            raise SchemaError(f"{name}: block {number} does not go on where {odd[0]} ended, at {last[odd[0]]}.")
        last |= times["max"].to_dict()
        small["resources"].append(block.resources.rename_axis("resource_id").reset_index())
        small["labels"].append(block.labels)
        small["repairs"].append(pd.DataFrame([asdict(r) for r in block.repairs]))
        gathered.append(frame)
        if sum(map(len, gathered)) >= ROWS_PER_BATCH:
            yield pd.concat(gathered).sort_index()
            gathered = []
    if gathered:
        yield pd.concat(gathered).sort_index()


def _plain(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", name):
        raise SourceError(f"{name!r}: is no name for a dataset. Use letters, digits, points, dashes and underscores.")
    return name


def _as_arrow(table: pd.DataFrame) -> pa.Table:
    """`table` in Arrow; a column of mixed types, which has no type there, as text."""
    text = {}
    for column in table.select_dtypes(object):
        try:
            pa.array(table[column], from_pandas=True)
        except pa.ArrowException:
            text[column] = table[column].map(str, na_action="ignore")
    return pa.Table.from_pandas(table.assign(**text), preserve_index=False).replace_schema_metadata()


def _parquet(table: pa.Table) -> bytes:
    """`table` as a Parquet file; times in microseconds, which Athena and DuckDB both read."""
    buffer = io.BytesIO()
    pq.write_table(table, buffer, compression="zstd", coerce_timestamps="us")
    return buffer.getvalue()
