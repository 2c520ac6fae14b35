"""Synthetic telemetry by preset, in blocks of resources: `load("synthetic:<preset>", seed=...)` is the usual way in."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Any
from zoneinfo import available_timezones

import numpy as np
import pandas as pd

from support.errors import SourceError
from support.telemetry.efficiency import EFFICIENCY_COLUMNS, efficiency
from support.telemetry.generation.incidents import INCIDENTS, inject, schedule
from support.telemetry.generation.presets import FITTED, MACHINE, Draw, Preset, find_preset
from support.telemetry.generation.processes import idle_cover
from support.telemetry.schema import LABEL_COLUMNS, METRICS, Telemetry
from support.telemetry.taxonomy import profile

__all__ = ["OPTIONS", "stream", "synthetic"]

DAY_SECONDS = 86_400
DECIMALS, COST_DECIMALS = 4, 8  # finer digits differ between processors
ROWS_PER_BLOCK = 1_000_000
MOST_RESOURCES = 100_000  # five digits in a name, so that names sort as numbers do
MISSING_MINUTES = 30.0  # mean length of a hole: this book's assumption
OPTIONS = (
    "days",
    "start",
    "end",
    "n_resources",
    "workload",
    "anomaly_rate",
    "missing_frac",
    "timezone",
    "country",
    "providers",
    "resource_types",
)


def _checked_times(name: str, preset: Preset, days: Any, start: Any, end: Any, step: float) -> pd.DatetimeIndex:
    if days is not None and end is not None:
        raise SourceError(f"{name}: days and end are both given. Give one of them.")
    try:
        first = pd.Timestamp(preset.first_day if start is None else start)
        last = None if end is None else pd.Timestamp(end)
    except ValueError as error:
        raise SourceError(f"{name}: start or end is no date ({error}). Write 2026-03-02.") from None
    if last is not None:
        days = (last - first).days + 1
    days = preset.days if days is None else days
    if not days >= 1 or not 1 <= step <= DAY_SECONDS or DAY_SECONDS % step:
        raise SourceError(
            f"{name}: days={days}, step_seconds={step:g}; give at least 1 day and a step that divides a day."
        )
    if first != first.normalize() or first.tzinfo is not None:
        raise SourceError(f"{name}: start={start!r} has a time of day. Days are whole and UTC: write 2026-03-02.")
    times = pd.date_range(first, periods=int(days * DAY_SECONDS // step), freq=pd.Timedelta(seconds=step), tz="UTC")
    if len(times) < 2:
        raise SourceError(f"{name}: {len(times)} interval; give two or more (a longer time or a shorter step).")
    return times.as_unit("ns")


def stream(
    preset: str,
    *,
    seed: int,
    step_seconds: float | None = None,
    rows_per_block: int = ROWS_PER_BLOCK,
    **options: Any,
) -> Iterator[Telemetry]:
    """Blocks of resources, each with all of its time: at most `rows_per_block` rows, but one resource at least.

    options: those of OPTIONS that the preset knows. start, end: dates, both inclusive, UTC; days instead of end.
    workload: one type of the taxonomy instead of the preset's mix. providers, resource_types: of the preset `cloud`. anomaly_rate: share of intervals in an incident
    (see `INCIDENTS`). missing_frac: share of intervals without values. timezone, country: of the load's daily cycle and
    holidays. Same arguments, same data; a resource's data do not depend on how many others there are, or on the blocks.
    Raises SourceError for an unknown preset, type or option, or sizes that make no sense.

    Example:
        >>> [len(block.observations) for block in stream("fleet", seed=1, days=1, n_resources=3, rows_per_block=600)]
        [576, 288]
    """
    name = preset if preset.startswith(FITTED) else f"synthetic:{preset}"
    of = find_preset(preset)
    options = {key: value for key, value in options.items() if value is not None}
    unknown = sorted(set(options) - {"days", "start", "end", "anomaly_rate", "missing_frac", *of.options})
    if unknown:
        raise SourceError(
            f"{name}: option {', '.join(unknown)} does not apply to this preset; it knows {', '.join(of.options) or 'none'}."
        )
    step = float(of.step_seconds if step_seconds is None else step_seconds)
    times = _checked_times(
        name, of, options.pop("days", None), options.pop("start", None), options.pop("end", None), step
    )
    n_resources = options.pop("n_resources", of.n_resources)
    missing_frac = options.get("missing_frac", 0.0)
    if not 1 <= n_resources <= MOST_RESOURCES or n_resources != int(n_resources) or not 0 <= missing_frac < 1:
        raise SourceError(
            f"{name}: n_resources={n_resources}, missing_frac={missing_frac}; give 1 to {MOST_RESOURCES:,}, and 0 to below 1."
        )
    schedule(1, step, options.get("anomaly_rate", 0.0), [], rng=np.random.default_rng(0))  # refuse a wrong rate at once
    _known_type(name, preset, options.get("workload"))
    if "timezone" in options and options["timezone"] not in available_timezones():
        raise SourceError(f"{name}: timezone {options['timezone']!r} is not known. Use a name such as Europe/Berlin.")
    per_block = max(rows_per_block // len(times), 1)

    def blocks() -> Iterator[Telemetry]:
        for first in range(0, int(n_resources), per_block):
            numbers = range(first, min(first + per_block, int(n_resources)))
            yield _block(preset, of, numbers, times, step, seed, options)

    return blocks()


def _known_type(name: str, preset: str, workload: str | None) -> None:
    kind = {"banking": "server", "industries": "application", "cloud": "workload"}.get(preset)
    if workload is not None:
        try:
            profile(workload, kind)
        except SourceError as error:
            raise SourceError(f"{name}: workload {error}") from None


def _block(
    preset: str, of: Preset, numbers: range, times: pd.DatetimeIndex, step: float, seed: int, options: dict[str, Any]
) -> Telemetry:
    """The resources `numbers` as Telemetry; each is written into the table once, nothing is copied."""
    columns = list(of.metrics)
    rate, missing = options.get("anomaly_rate", 0.0), options.get("missing_frac", 0.0)
    columns += list(EFFICIENCY_COLUMNS) * of.flags + ["quality_flag"] * bool(rate)
    columns = [m for m in METRICS if m in columns]
    n_time = len(times)
    values = np.full((len(columns), len(numbers) * n_time), np.nan)
    rows, labels = {}, []
    for place, number in enumerate(numbers):
        name = of.name.format(number)
        rng = np.random.default_rng([seed, zlib.crc32(f"{preset}/{name}".encode())])
        metrics, rows[name] = of.make(Draw(number, name, times, rng, seed, options))
        here = slice(place * n_time, (place + 1) * n_time)
        if rate:
            kinds = [k for k, incident in INCIDENTS.items() if incident.metrics[0] in metrics]
            flag = values[columns.index("quality_flag"), here]
            flag[:] = 0.0
            for kind, first, last in schedule(n_time, step, rate, kinds, rng=rng):
                inject(metrics, kind, first, last, rng=rng)
                flag[first : last + 1] = 2.0
                shown = ",".join(m for m in INCIDENTS[kind].metrics if m in metrics)
                labels.append((name, times[first], times[last], kind, shown))
        for metric, column in metrics.items():
            np.round(
                column, COST_DECIMALS if metric == "cost_usd" else DECIMALS, out=values[columns.index(metric), here]
            )
        if missing:
            hole = idle_cover(n_time, missing, MISSING_MINUTES * 60 / step, rng=rng) > 0.5
            values[: len(of.metrics), here][:, hole] = np.nan
        del metrics
    if of.flags:
        first_rows = np.arange(values.shape[1]) % n_time == 0
        cpu, memory = (values[columns.index(m)] for m in MACHINE[:2])
        at = columns.index(EFFICIENCY_COLUMNS[0])
        efficiency(cpu, memory, first_rows, values[at : at + 4])
    index = pd.MultiIndex(
        [pd.Index(list(rows), dtype=object), times.rename(None)],
        [
            np.repeat(np.arange(len(numbers), dtype=np.int32), n_time),
            np.tile(np.arange(n_time, dtype=np.int32), len(numbers)),
        ],
        names=["resource_id", "timestamp"],
        verify_integrity=False,
    )
    return Telemetry(
        pd.DataFrame(values.T, index=index, columns=columns, copy=False),
        step,
        "synthetic" if preset == "web" else preset if preset.startswith(FITTED) else f"synthetic:{preset}",
        _provenance(preset, of, seed),
        True,
        pd.DataFrame.from_dict(rows, orient="index").rename_axis("resource_id"),
        labels=pd.DataFrame(labels, columns=list(LABEL_COLUMNS)),
    )


def _provenance(preset: str, of: Preset, seed: int) -> str:
    if preset == "worldcup98":
        return (
            f"SYNTHETIC TWIN of the trace worldcup98, generated with seed {seed}, because the real trace was asked for as a twin or could "
            "not be had. Get the real one with a network connection, or with BOOK_DATA=<folder of traces>. Its numbers are not those of the trace."
        )
    return f"Synthetic {of.about}, generated with seed {seed}; not a measurement."


def synthetic(preset: str = "web", *, seed: int, step_seconds: float | None = None, **options: Any) -> Telemetry:
    """All blocks of `stream` as one Telemetry, which must fit into memory (about 100 bytes a row).

    Example:
        >>> synthetic("web", seed=1, days=1).demand().shape
        (1440,)
    """
    blocks = list(stream(preset, seed=seed, step_seconds=step_seconds, **options))
    if len(blocks) == 1:
        return blocks[0]
    first = blocks[0]
    return Telemetry(
        pd.concat([b.observations for b in blocks]),
        first.step_seconds,
        first.source,
        first.provenance,
        True,
        pd.concat([b.resources for b in blocks]),
        labels=pd.concat([b.labels for b in blocks], ignore_index=True),
    )
