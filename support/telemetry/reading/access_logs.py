"""Raw web access logs (Common and Combined Log Format) to counts per interval, in one pass and constant memory."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import ceil
from pathlib import PurePosixPath

import fsspec
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa

from support.errors import SourceError, TooShortError
from support.telemetry.reading.grid import HIGHEST_STEP_SECONDS, LOWEST_STEP_SECONDS, count_repair
from support.telemetry.schema import Repair, Telemetry

__all__ = ["load_access_log", "log_metrics"]

BLOCK_BYTES = 8 << 20
LONGEST_LINE_BYTES = 1 << 20
OPEN_SECONDS = 3600.0  # a request is logged when it ends and stamped when it began
MOST_PENDING_ROWS = 200_000  # of the tables of single blocks, before they are merged
MOST_INTERVALS = 5_000_000
LONGEST_SILENCE_SECONDS = 366 * 86_400
MOST_EXAMPLES = 5
LONGEST_EXAMPLE = 160  # characters
LONG_AGO = -(2**62)  # before every second and every slot
FIRST_ERROR_STATUS = "400"  # RFC 9110, 15.5: 4xx client errors, 5xx server errors
READ, BROKEN = "lines read", "lines broken, left out"
GOOD_LINE = '192.0.2.7 - - [31/Jan/2026:12:00:00 +0000] "GET / HTTP/1.1" 200 512'

# Referrer and agent do not matter for the counts, so the pattern ends with the size; reading on would take five times
# as long. The user may hold blanks, but "- - [" in its place is a log that starts with the name of the virtual host.
_USER = r"(?:- |[^- \[][^ \[]* (?:[^ \[]+ )*)"
_TIME = (
    r"[0-3][0-9]/(?:Jan|Feb|Mar|Apr|May|Jun|Jul|Aug|Sep|Oct|Nov|Dec)/(?:19|20)[0-9]{2}"
    r":[0-2][0-9]:[0-5][0-9]:[0-5][0-9] [+-][0-9]{4}"
)
_LINE = (
    rf"^(?P<client>[^ ]+) [^ ]+ {_USER}\[(?P<time>{_TIME})\] "
    r'"[^"\\]*(?:\\.[^"\\]*)*" (?P<status>[0-9]{3}) (?P<size>[0-9]{1,15}|-)(?:[ \r\n]|$)'
)
_TIME_FORMAT = "%d/%b/%Y:%H:%M:%S %z"


def load_access_log(path: str, *, step_seconds: float = 60.0, open_seconds: float = OPEN_SECONDS) -> Telemetry:
    """Requests, response bytes, errors (status 400 and above) and unique clients per interval of a web access log.

    path: Common or Combined Log Format, plain, .gz, .bz2, .xz or .zip (its first file), anywhere fsspec reaches.
    step_seconds: whole seconds, 1 to 86,400. open_seconds: how far behind the latest stamp a line may come; an interval
    with a later line has NaN unique_clients, its other counts are complete. Clients are told apart by a 64-bit hash.
    Broken lines are left out; the repairs tell how many and show the shape of the first five. No address is kept.
    An interval without a line has 0 requests; the first and the last interval may be incomplete.
    Memory grows with the intervals and with the clients of the open ones, not with the lines.
    Raises SourceError for a missing, empty, unreadable or foreign file and for a stray date.
    Source: Apache HTTP Server documentation, "Log Files"; a size of `-` means that no bytes were sent.

    Example:
        >>> with fsspec.open("memory://logs/access.log", "w") as file:
        ...     _ = file.write(GOOD_LINE + "\\n" + GOOD_LINE.replace("200 512", "404 -") + "\\n")
        >>> load_access_log("memory://logs/access.log").observations.iloc[0].to_dict()
        {'requests': 2.0, 'response_bytes': 512.0, 'errors': 1.0, 'unique_clients': 1.0}
    """
    address = path.split("?")[0] if "://" in path else path  # a query may hold a key
    if not LOWEST_STEP_SECONDS <= step_seconds <= HIGHEST_STEP_SECONDS or step_seconds % 1:
        raise SourceError(f"{address}: step_seconds is {step_seconds:g}, it must be whole and within 1 to 86,400.")
    if not 0 <= open_seconds < np.inf:
        raise SourceError(f"{address}: open_seconds is {open_seconds:g}, it must be finite and 0 or more.")
    counts = _Counts(int(step_seconds), ceil(open_seconds / step_seconds))
    for block in _blocks(path, address):
        counts.add(_lines(block))
    n_read, n_broken = counts.seen[READ], counts.seen[BROKEN]
    if not n_read:
        raise SourceError(f"{address}: is empty (0 bytes).")
    if n_broken == n_read:
        raise SourceError(
            f"{address}: none of its {n_read:,} lines is in Common or Combined Log Format. "
            f"A good line is {GOOD_LINE} and {counts.examples[0]}."
        )
    name = PurePosixPath(address).name
    repairs = [Repair(what, count) for what, count in counts.seen.items() if count]
    repairs += [Repair(f"example: {text}", 1) for text in counts.examples]
    return Telemetry(
        _on_grid(counts.table(), int(step_seconds), name, address, repairs),
        step_seconds=float(step_seconds),
        source=address,
        provenance=f"Counts from the access log {name}, as given by the reader; no client address is kept.",
        repairs=tuple(repairs),
    )


def log_metrics(
    telemetry: Telemetry, *, resource_id: str | None = None, window_seconds: float = 60.0, threshold: float = 3.0
) -> pd.DataFrame:
    """Hits per second, error fraction and spikes per window: requests_per_second, error_fraction, z_score, is_spike.

    Shape (n_windows, 4), indexed by UTC time; a spike is a window whose requests lie more than `threshold` standard
    deviations (of all windows) above the mean; error_fraction is NaN without requests. window_seconds: a multiple of the
    step. Raises TooShortError below threshold^2 + 2 windows: n values reach z = sqrt(n - 1) at most (Shiffler 1988).

    Example:
        >>> times = pd.date_range("2026-01-01", periods=12, freq="60s", tz="UTC", name="timestamp")
        >>> index = pd.MultiIndex.from_product([["web"], times], names=["resource_id", "timestamp"])
        >>> counts = pd.DataFrame({"requests": [60.0] * 11 + [600.0], "errors": 6.0}, index=index)
        >>> log_metrics(Telemetry(counts, step_seconds=60.0)).iloc[-1].to_dict()
        {'requests_per_second': 10.0, 'error_fraction': 0.01, 'z_score': 3.3166..., 'is_spike': True}
    """
    windows = telemetry.resample(window_seconds)
    requests, errors = (windows.series(metric, resource_id) for metric in ("requests", "errors"))
    if not requests.count() - 1 > threshold**2:
        raise TooShortError(
            f"{telemetry.source}: {requests.count()} windows of {window_seconds:g} s cannot reach z > {threshold:g}. "
            f"Give {int(threshold**2) + 2} or more."
        )
    spread = float(requests.std(ddof=0))
    z_score = (requests - requests.mean()) / spread if spread else 0.0 * requests
    return pd.DataFrame(
        {
            "requests_per_second": requests / window_seconds,
            "error_fraction": (errors / requests).where(requests > 0),
            "z_score": z_score,
            "is_spike": z_score > threshold,
        }
    )


@dataclass
class _Counts:
    """What is known of the lines so far; the `slot` of an interval is its number since the epoch.

    Tables of single blocks are appended to `sums` and `pairs` and merged now and then. `pairs` holds who (a hash) came
    in which slot; when a slot is `open_slots` behind the latest, the pairs are counted into `clients` and forgotten.
    """

    step: int
    open_slots: int
    seen: Counter[str] = field(default_factory=Counter)  # what kind of line, and how many
    examples: list[str] = field(default_factory=list)
    last_second: int = LONG_AGO
    top_slot: int = LONG_AGO
    sums: list[pl.DataFrame] = field(default_factory=list)  # slot, requests, size, failed, late
    pairs: list[pl.DataFrame] = field(default_factory=list)  # slot, client
    clients: list[pl.DataFrame] = field(default_factory=list)  # slot, clients

    def add(self, lines: pl.Series) -> None:
        """Count a block of lines."""
        frame = _parsed(lines)
        broken = frame["second"].is_null() | (lines.str.len_bytes() > LONGEST_LINE_BYTES)
        for row in broken.arg_true()[: MOST_EXAMPLES - len(self.examples)]:
            number = self.seen[READ] + row + 1
            self.examples.append(f"line {number:,} is {_masked(lines[row])} (letters and digits masked)")
        self.seen[READ] += len(lines)
        self.seen[BROKEN] += int(broken.sum())
        if broken.any():
            frame, lines = frame.filter(~broken), lines.filter(~broken)
        n_quotes = lines.str.replace_all(r"\\.", "").str.count_matches('"', literal=True)
        self.seen["lines cut within quotation marks after the size, counted"] += int((n_quotes % 2).sum())
        self.seen["sizes of - read as 0 bytes"] += frame["size"].null_count()
        if len(frame):
            self._count(frame)

    def _count(self, frame: pl.DataFrame) -> None:
        """Add the good lines of a block to the tables."""
        seconds = frame["second"]
        slots = seconds // self.step
        latest = slots.cum_max().clip(lower_bound=self.top_slot)
        late = slots < latest - self.open_slots
        back = seconds < seconds.shift(1, fill_value=self.last_second)
        self.last_second, self.top_slot = seconds[-1], latest[-1]
        self.seen["lines stamped earlier than the line before"] += int(back.sum())
        what = f"lines more than {self.open_slots * self.step} s late, unique_clients of their intervals left missing"
        self.seen[what] += int(late.sum())
        frame = frame.with_columns(slots.alias("slot"), late.alias("late"))
        self.sums.append(frame.group_by("slot").agg(pl.len().alias("requests"), pl.col("size", "failed", "late").sum()))
        self.pairs.append(frame.filter(~late).select("slot", "client").unique())
        pending = [*self.sums[1:], *self.pairs[1:]]
        if sum(map(len, pending)) > max(MOST_PENDING_ROWS, len(self.pairs[0])):
            self._merge(self.top_slot - self.open_slots)

    def table(self) -> pl.DataFrame:
        """One row per interval with a line, sorted: slot, requests, size, failed, late, clients."""
        self._merge(self.top_slot + 1)
        return self.sums[0].join(pl.concat(self.clients), on="slot", how="left").sort("slot")

    def _merge(self, horizon: int) -> None:
        """Merge the tables; count the clients of the slots before `horizon` and forget who they were."""
        self.sums = [pl.concat(self.sums).group_by("slot").sum()]
        pairs = pl.concat(self.pairs).unique()
        closed = pairs["slot"] < horizon
        self.clients.append(pairs.filter(closed).group_by("slot").agg(pl.len().alias("clients")))
        self.pairs = [pairs.filter(~closed)]


def _parsed(lines: pl.Series) -> pl.DataFrame:
    """Columns second (since the epoch, UTC; null if the line is broken), client (a hash), failed and size (null if -)."""
    fields = lines.str.extract_groups(_LINE).struct.unnest()
    return fields.select(
        second=pl.col("time").str.to_datetime(_TIME_FORMAT, time_unit="ms", strict=False).dt.epoch("s"),
        client=pl.col("client").hash(),
        failed=pl.col("status") >= FIRST_ERROR_STATUS,  # three digits each: text sorts as numbers do
        size=pl.col("size").cast(pl.Int64, strict=False),
    )


def _on_grid(table: pl.DataFrame, step: int, name: str, address: str, repairs: list[Repair]) -> pd.DataFrame:
    """Counts on the full grid of time; refused before it is made if a stray date would stretch it."""
    slots = table["slot"].to_numpy()
    gaps = np.diff(slots, append=slots[-1])
    n_slots = int(slots[-1] - slots[0]) + 1
    longest = int(gaps.argmax())
    if gaps[longest] * step > LONGEST_SILENCE_SECONDS or n_slots > MOST_INTERVALS:
        start, end = (np.datetime64(int(slot) * step, "s") for slot in (slots[longest], slots[longest] + gaps[longest]))
        before = int(table["requests"][: longest + 1].sum())
        raise SourceError(
            f"{address}: {n_slots:,} intervals of {step} s, with no line from {start} to {end} UTC ({before:,} lines "
            f"before, {int(table['requests'].sum()) - before:,} after). Remove stray dates, or raise step_seconds."
        )
    count_repair(repairs, "intervals without a line, counted as 0 requests", n_slots - len(slots))
    clients = pl.when(pl.col("late") == 0).then("clients")
    counts = np.zeros((n_slots, 4))
    counts[slots - slots[0]] = table.select("requests", "size", "failed", clients).cast(pl.Float64).to_numpy()
    times = pd.to_datetime(np.arange(slots[0], slots[-1] + 1) * step, unit="s", utc=True).as_unit("ns")
    index = pd.MultiIndex.from_product([[name], times], names=["resource_id", "timestamp"])
    return pd.DataFrame(counts, index=index, columns=["requests", "response_bytes", "errors", "unique_clients"])


def _blocks(path: str, address: str) -> Iterator[bytes]:
    """The file in pieces of whole lines, unpacked on the way; what exceeds the longest line is not held in memory."""
    rest = b""
    try:
        files, location = fsspec.core.url_to_fs(path)
        if files.isdir(location):
            raise SourceError(f"{address}: is a folder. Give one file.")
        with files.open(location, "rb", compression=fsspec.utils.infer_compression(address)) as file:
            while block := file.read(BLOCK_BYTES):
                if end := block.rfind(b"\n") + 1:
                    yield rest + block[:end]
                    rest = block[end:]
                elif len(rest) < LONGEST_LINE_BYTES:
                    rest += block
        if rest:
            yield rest
    except SourceError:
        raise
    except FileNotFoundError:
        raise SourceError(f"{address}: there is no such file. Check the path.") from None
    except PermissionError:
        raise SourceError(f"{address}: this account may not read it. Change its permissions.") from None
    except Exception as error:  # file systems and decompressors raise many kinds; the reader needs one sentence
        short = " ".join(str(error).split())[:160] or type(error).__name__
        raise SourceError(f"{address}: cannot be read ({short}). Check the address, or fetch the file again.") from None


def _lines(block: bytes) -> pl.Series:
    """The lines of a block, each with its line end, as views into it; bytes that are not UTF-8 become U+FFFD."""
    text = block if block.isascii() else block.decode("utf-8", errors="replace").encode()
    ends = np.flatnonzero(np.frombuffer(text, dtype=np.uint8) == ord("\n")) + 1
    last = [] if text.endswith(b"\n") else [len(text)]
    offsets = np.concatenate([[0], ends, last]).astype(np.int64)
    buffers = pa.py_buffer(offsets), pa.py_buffer(text)
    return pl.Series(pa.LargeStringArray.from_buffers(len(offsets) - 1, *buffers))


def _masked(line: str) -> str:
    """A line with letters as x and digits as 0: its shape, and nobody's address, name or query.

    Example:
        >>> _masked('192.0.2.7 - eve [31/Jan')
        '000.0.0.0 - xxx [00/xxx'
    """
    text = re.sub(r"[^\W\d_]", "x", re.sub(r"\d", "0", line.rstrip("\r\n")[:LONGEST_EXAMPLE]))
    return "".join(c if c.isprintable() else "?" for c in text)
