"""How far a long generation is: one line on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import TextIO

from support.telemetry.schema import Telemetry
from support.writing import plural

__all__ = ["with_progress"]

PLAIN_LINE_SECONDS, TERMINAL_LINE_SECONDS = 2.0, 0.1


def with_progress(
    blocks: Iterable[Telemetry], *, n_resources: int | None = None, file: TextIO | None = None
) -> Iterator[Telemetry]:
    """Pass `blocks` on and say on `file` (stderr) how far they are: one line on a terminal, else a line now and then.

    n_resources: of all blocks together, for the share that is done and the time that is left.

    Example:
        >>> list(with_progress([], n_resources=10))
        []
    """
    out = file or sys.stderr
    terminal = out.isatty()
    every = TERMINAL_LINE_SECONDS if terminal else PLAIN_LINE_SECONDS
    began, said, rows, done, line = time.perf_counter(), -every, 0, 0, ""
    try:
        for block in blocks:
            n_rows, n_ids = len(block.observations), len(block.resource_ids)
            yield block
            del block  # not kept while the next one is made
            rows, done, seconds = rows + n_rows, done + n_ids, time.perf_counter() - began
            if seconds - said < every and done != n_resources:
                continue
            said, line = seconds, f"{rows:,} rows, {rows / max(seconds, 1e-9):,.0f} rows/s"
            if n_resources:
                left = seconds * (n_resources - done) / done
                line = (
                    f"{100 * done / n_resources:.0f} % of {plural(n_resources, 'resource')}, {line}, {left:.0f} s left"
                )
            out.write(f"\r{line:<78}" if terminal else f"{line}\n")
            out.flush()
    finally:
        if terminal and line:
            out.write("\n")
