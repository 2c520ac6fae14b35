"""Bytes to a table: find, weigh and read a CSV, CSV.gz or Parquet file, or refuse it in one sentence."""

from __future__ import annotations

import csv
import gzip
import io
import pickletools
import re
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import IO, Any

import fsspec
import numpy as np
import pandas as pd
import requests

from support.errors import SourceError
from support.telemetry.schema import Repair

__all__ = ["MAX_BYTES", "pickled_array", "read_table"]

MAX_BYTES = 2_000_000_000
DOWNLOAD_TIMEOUT_SECONDS, PIECE_BYTES = 20, 1 << 20
SUFFIXES = (".csv", ".tsv", ".txt", ".csv.gz", ".parquet")

# The opcodes that write one NumPy array with pickle protocol 3, without those that only fill the memo.
ARRAY_OPCODES = re.compile(
    "PROTO GLOBAL GLOBAL BININT1 TUPLE1 SHORT_BINBYTES TUPLE3 REDUCE MARK BININT1 (?:BININT[12]? ){1,2}TUPLE[12] "
    "GLOBAL BINUNICODE (?:BININT1|NEWFALSE) (?:BININT1|NEWTRUE) TUPLE3 REDUCE MARK BININT1 BINUNICODE NONE NONE NONE "
    "BININT BININT BININT1 TUPLE BUILD NEW(?:FALSE|TRUE) (?:SHORT_)?BINBYTES TUPLE BUILD STOP"
)
ARRAY_GLOBALS = re.compile("numpy\\._?core\\.multiarray _reconstruct,numpy ndarray,numpy dtype")  # NumPy 2 says _core


def read_table(path: str, *, max_bytes: float = MAX_BYTES, texts: Collection[str] = ()) -> pd.DataFrame:
    """Read a table from a path or URL (file://, http(s)://, s3://) as it is, columns stripped of blanks.

    `max_bytes` is weighed before anything is read, and again while a compressed or streamed file unfolds. texts: columns
    of names, in any case, which stay as a text file has them: 007 is not 7. What was
    guessed is in `attrs["repairs"]`. Raises SourceError for a file that is missing, empty, too large, binary, of an
    unknown kind, or unreadable; the query of a URL, which may hold a key, is left out of the message.

    Example:
        >>> read_table("no-such-file.csv")
        Traceback (most recent call last):
        support.errors.SourceError: no-such-file.csv: there is no such file. Check the path.
    """
    address, path = path, path.split("?")[0] if "://" in path else path
    name = PurePosixPath(path).name.lower()
    if "." in name and not name.endswith(SUFFIXES):
        raise SourceError(f"{path}: unknown kind of file. Give one of {', '.join(SUFFIXES)}.")
    content = _download(address, path, max_bytes) if re.match("https?://", path) else _content(path, max_bytes)
    try:
        if name.endswith(".parquet"):
            frame = pd.read_parquet(io.BytesIO(content))
            frame = frame.reset_index() if not isinstance(frame.index, pd.RangeIndex) else frame
        else:
            if name.endswith(".gz"):
                content = _limited(_pieces(gzip.GzipFile(fileobj=io.BytesIO(content))), path, max_bytes)
            frame = _read_text(content, path, texts)
    except SourceError:
        raise
    except Exception as error:  # pandas, pyarrow and zlib raise many kinds; the reader needs one sentence
        if "Calling read(nbytes) on source failed" in str(error):  # how pandas' tokenizer passes on Ctrl-C
            raise KeyboardInterrupt from None
        raise SourceError(
            f"{path}: cannot be read as {PurePosixPath(name).suffix or 'CSV'} ({_short(error)})."
        ) from None
    frame.columns = [str(c).strip() for c in frame.columns]
    if frame.empty:
        raise SourceError(f"{path}: has a header but no rows. Give at least some days of observations.")
    return frame


def pickled_array(path: Path) -> np.ndarray:
    """The one NumPy array (1 or 2 dimensions) in a pickle of protocol 3, from its opcodes.

    Nothing is imported or called, so a file that holds a command instead of numbers cannot run it: it raises SourceError.
    Source: the opcodes of Python's `pickletools`.

    Example:
        >>> import pickle, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "array.pkl")
        ...     _ = path.write_bytes(pickle.dumps(np.arange(6.0).reshape(2, 3), protocol=3))
        ...     pickled_array(path).sum(axis=0).tolist()
        [3.0, 5.0, 7.0]
    """
    try:
        opcodes = [(code.name, value) for code, value, _ in pickletools.genops(path.read_bytes())]
    except ValueError as error:
        raise SourceError(f"{path}: is no whole pickle ({_short(error)}). Get it again.") from None
    opcodes = [(name, value) for name, value in opcodes if "PUT" not in name]
    arguments: dict[str, list[Any]] = {}
    for name, value in opcodes:
        arguments.setdefault(name, []).append(value)
    needed = ",".join(map(str, arguments.get("GLOBAL", ())))
    kind = "".join(map(str, reversed(arguments.get("BINUNICODE", ()))))  # "<f4" is written as f4, then <
    plain = ARRAY_OPCODES.fullmatch(" ".join(name for name, _ in opcodes)) and ARRAY_GLOBALS.fullmatch(needed)
    if not plain or not re.fullmatch("[<|][fiu][1248]", kind):
        raise SourceError(f"{path}: is no pickle of one array of numbers; no other one is opened. Give CSV or Parquet.")
    data: Any = opcodes[-4][1]
    end = next(k for k in range(10, len(opcodes)) if opcodes[k][0].startswith("TUPLE"))
    shape = [int(str(value)) for _, value in opcodes[10:end]]
    if len(data) != np.prod(shape) * np.dtype(kind).itemsize:
        raise SourceError(
            f"{path}: has {len(data)} bytes of numbers, which do not fill an array of {shape}. Get it again."
        )
    return np.frombuffer(data, dtype=kind).reshape(shape, order="F" if opcodes[-5][0] == "NEWTRUE" else "C")


def _too_large(path: str, size: float, max_bytes: float, *, at_least: bool = False) -> SourceError:
    return SourceError(
        f"{path}: is {'more than ' if at_least else ''}{size / 1e9:.1f} GB, more than the {max_bytes / 1e9:.1f} GB that are read at once. "
        "Aggregate it to one row per interval first, or raise max_bytes."
    )


def _limited(pieces: Iterable[bytes], path: str, max_bytes: float) -> bytes:
    """All `pieces` together, but never more than `max_bytes`: a size that is not known before is weighed on the way."""
    content = bytearray()
    for piece in pieces:
        content += piece
        if len(content) > max_bytes:
            raise _too_large(path, max_bytes, max_bytes, at_least=True)
    return bytes(content)


def _pieces(file: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    return iter(lambda: file.read(PIECE_BYTES), b"")


def _download(address: str, path: str, max_bytes: float) -> bytes:
    try:
        with requests.get(address, stream=True, timeout=DOWNLOAD_TIMEOUT_SECONDS) as answer:
            if answer.status_code != 200:
                raise SourceError(
                    f"{path}: the server answered {answer.status_code} {answer.reason}. Check the address."
                )
            size = int(answer.headers.get("content-length", 0))
            if size > max_bytes:
                raise _too_large(path, size, max_bytes)
            content = _limited(answer.iter_content(PIECE_BYTES), path, max_bytes)
    except (requests.RequestException, OSError) as error:
        raise SourceError(
            f"{path}: cannot be fetched ({type(error).__name__}). Check the address and the network."
        ) from None
    if not content:
        raise SourceError(f"{path}: is empty (0 bytes).")
    return content


def _content(path: str, max_bytes: float) -> bytes:
    try:
        files, location = fsspec.core.url_to_fs(path)
    except (ImportError, ValueError) as error:
        raise SourceError(f"{path}: cannot open this kind of address ({error}). For s3:// install s3fs.") from None
    try:
        if files.isdir(location):
            raise SourceError(f"{path}: is a folder. Give one file.")
        size = files.size(location)
        if size == 0:
            raise SourceError(f"{path}: is empty (0 bytes).")
        if size and size > max_bytes:
            raise _too_large(path, size, max_bytes)
        with files.open(location, "rb") as file:
            return _limited(_pieces(file), path, max_bytes)
    except FileNotFoundError:
        raise SourceError(f"{path}: there is no such file. Check the path.") from None
    except PermissionError:
        raise SourceError(f"{path}: this account may not read it. Change its permissions.") from None
    except OSError as error:
        raise SourceError(f"{path}: cannot be fetched ({_short(error)}).") from None


def _read_text(content: bytes, path: str, texts: Collection[str]) -> pd.DataFrame:
    if b"\0" in content:
        raise SourceError(f"{path}: is a binary file, not text. Give CSV or Parquet.")
    lines = content[:65536].decode("utf-8-sig", errors="ignore").splitlines()[: -1 if len(content) > 65536 else None]
    if not any(line.strip() for line in lines):
        raise SourceError(f"{path}: holds only blanks.")
    try:
        separator = csv.Sniffer().sniff("\n".join(lines[:20]), delimiters=",;\t|").delimiter
    except csv.Error:
        separator = ","
    decimal = _decimal(lines[1:200], separator, path)
    names = {str(name).strip().lower() for name in texts}
    try:
        header = pd.read_csv(io.BytesIO(content), sep=separator, skipinitialspace=True, encoding="utf-8-sig", nrows=0)
        frame = pd.read_csv(
            io.BytesIO(content),
            sep=separator,
            decimal=decimal,
            skipinitialspace=True,
            encoding="utf-8-sig",
            low_memory=False,
            dtype={name: str for name in header.columns if name.strip().lower() in names},
        )
    except UnicodeDecodeError as error:
        raise SourceError(f"{path}: is not UTF-8 text (byte {error.start}). Save it as UTF-8 CSV.") from None
    first = str(frame.columns[0]).strip()
    if re.match(r"\d{4}-\d{2}-\d{2}|\d{1,2}[/.]\d{1,2}[/.]\d{2,4}|\d{10,19}(?:\.\d+)?$", first):
        raise SourceError(
            f"{path}: has no header, its first line starts with {first!r}. Add a line such as timestamp,requests."
        )
    if decimal == ",":
        frame.attrs["repairs"] = (Repair("decimal commas read as decimal points", len(frame)),)
    return frame


def _decimal(lines: list[str], separator: str, path: str) -> str:
    """A comma if fields look like 1,5 and never like 1.5; three digits after each comma are left alone: thousands.

    Raises SourceError where fields look like 1,5 and others like 1.234, which are thousands then.
    """
    fields = [field.strip() for line in lines for field in line.split(separator)] if separator != "," else []
    commas = [field for field in fields if re.fullmatch(r"-?\d+,\d+", field)]
    points = [field for field in fields if re.fullmatch(r"-?\d+\.\d+", field)]
    if not any(len(field.split(",")[1]) != 3 for field in commas):
        return "."
    if points and all(re.fullmatch(r"-?[1-9]\d{0,2}\.\d{3}", field) for field in points):
        raise SourceError(
            f"{path}: {commas[0]!r} has a decimal comma, so that {points[0]!r} may have a separator of thousands. Write "
            "numbers such as 1234.5."
        )
    return "." if points else ","


def _short(error: Exception) -> str:
    return " ".join(str(error).split())[:160] or type(error).__name__
