"""Bytes to a table: find, weigh and read a CSV, CSV.gz or Parquet file, or refuse it in one sentence."""

from __future__ import annotations

import csv
import gzip
import io
from pathlib import PurePosixPath

import fsspec
import pandas as pd

from support.errors import SourceError

__all__ = ["MAX_BYTES", "read_table"]

MAX_BYTES = 2_000_000_000
SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".parquet")


def read_table(path: str, *, max_bytes: float = MAX_BYTES) -> pd.DataFrame:
    """Read a table from a path or URL (file://, http(s)://, s3://) as it is, columns stripped of blanks.

    `max_bytes` is weighed before anything is read. Raises SourceError for a file that is missing, empty, too large,
    binary, of an unknown kind, or unreadable.

    Example:
        >>> read_table("no-such-file.csv")
        Traceback (most recent call last):
        support.errors.SourceError: no-such-file.csv: there is no such file. Check the path.
    """
    name = PurePosixPath(path).name.lower().split("?")[0]
    if "." in name and not name.endswith(SUFFIXES):
        raise SourceError(f"{path}: unknown kind of file. Give one of {', '.join(SUFFIXES)}.")
    try:
        files, location = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise SourceError(f"{path}: cannot open this kind of address ({error}). For s3:// install s3fs.") from None
    content = _content(files, location, path, max_bytes)
    try:
        if name.endswith(".parquet"):
            frame = pd.read_parquet(io.BytesIO(content))
            frame = frame.reset_index() if not isinstance(frame.index, pd.RangeIndex) else frame
        else:
            frame = _read_text(gzip.decompress(content) if name.endswith(".gz") else content, path)
    except SourceError:
        raise
    except Exception as error:  # pandas, pyarrow and zlib raise many kinds; the reader needs one sentence
        raise SourceError(
            f"{path}: cannot be read as {PurePosixPath(name).suffix or 'CSV'} ({_short(error)})."
        ) from None
    frame.columns = [str(c).strip() for c in frame.columns]
    if frame.empty:
        raise SourceError(f"{path}: has a header but no rows. Give at least some days of observations.")
    return frame


def _content(files: fsspec.AbstractFileSystem, location: str, path: str, max_bytes: float) -> bytes:
    try:
        if files.isdir(location):
            raise SourceError(f"{path}: is a folder. Give one file.")
        size = files.size(location)
        if size == 0:
            raise SourceError(f"{path}: is empty (0 bytes).")
        if size and size > max_bytes:
            raise SourceError(
                f"{path}: is {size / 1e9:.1f} GB, more than the {max_bytes / 1e9:.1f} GB that are read at once. "
                "Aggregate it to one row per interval first, or raise max_bytes."
            )
        with files.open(location, "rb") as file:
            return bytes(file.read())
    except FileNotFoundError:
        raise SourceError(f"{path}: there is no such file. Check the path.") from None
    except PermissionError:
        raise SourceError(f"{path}: this account may not read it. Change its permissions.") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be fetched ({_short(error)}).") from None


def _read_text(content: bytes, path: str) -> pd.DataFrame:
    head = content[:65536]
    if b"\0" in head:
        raise SourceError(f"{path}: is a binary file, not text. Give CSV or Parquet.")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: is not UTF-8 text (byte {error.start}). Save it as UTF-8 CSV.") from None
    if not text.strip():
        raise SourceError(f"{path}: holds only blanks.")
    try:
        separator = csv.Sniffer().sniff("\n".join(text[:8192].splitlines()[:20]), delimiters=",;\t|").delimiter
    except csv.Error:
        separator = ","
    return pd.read_csv(io.StringIO(text), sep=separator, skipinitialspace=True)


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
