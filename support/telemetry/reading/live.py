"""Telemetry from running systems over HTTP: Prometheus range queries and metrics agents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl

import pandas as pd

from support.errors import SchemaError, SourceError
from support.telemetry.reading.agents import load_agents
from support.telemetry.reading.grid import count_repair
from support.telemetry.reading.mapping import TransformationReport, map_telemetry
from support.telemetry.reading.payloads import payload_table
from support.telemetry.reading.units import KEYS, header_key, headers
from support.telemetry.reading.web import TIMEOUT_SECONDS, get, json_of, public_address, session_with_retries
from support.telemetry.schema import Repair, Telemetry

__all__ = ["LIVE_PREFIXES", "load_live", "load_prometheus"]

LIVE_PREFIXES = ("prometheus+http://", "prometheus+https://", "agent+http://", "agent+https://")
MAX_POINTS = 11_000  # per series and request: the limit of Prometheus' query_range
RETRIES, BACKOFF_SECONDS = 4, 0.5
PROMETHEUS_OPTIONS, AGENT_OPTIONS = ("query", "start", "end", "step", "metric", "unit"), ("samples", "step")


def load_prometheus(
    url: str,
    query: str,
    *,
    start: Any,
    end: Any = "now",
    step_seconds: float,
    metric: str | None = None,
    unit: str | None = None,
    http_headers: Mapping[str, str] | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
    retries: int = RETRIES,
    backoff_seconds: float = BACKOFF_SECONDS,
    **options: Any,
) -> tuple[Telemetry, TransformationReport]:
    """The series of a PromQL expression as Telemetry, one resource per set of labels, with the report of the mapping.

    url: of the server, without /api. start, end: times (UTC if they carry no zone), epoch seconds, "now", or for start a
    negative duration before the end such as "-7d". step_seconds: resolution; start moves down to a multiple of it. metric,
    unit: what an expression means (`cpu_utilization`, `fraction`); a known recording rule needs neither, another name becomes
    `value`. http_headers: such as Authorization. More than 11,000 points are fetched in pages; errors 5xx, 429 and timeouts
    are tried again. options: those of `map_telemetry`. Raises SourceError, SchemaError, TooShortError.
    Source: https://prometheus.io/docs/prometheus/latest/querying/api/#range-queries
    """
    name = public_address(url)
    if not step_seconds > 0:
        raise SourceError(f"{name}: step_seconds is {step_seconds}; give a positive number such as 60.")
    step = pd.Timedelta(seconds=step_seconds)
    last = _utc(end, name)
    first = last + _delta(start, name) if str(start).startswith("-") else _utc(start, name)
    first = first.floor(step)
    if first >= last:
        raise SourceError(f"{name}: start {first} is not before end {last}.")
    repeated, answers = 0, []
    with session_with_retries(retries, backoff_seconds) as session:
        for low, high in _pages(first, last, step):
            asked = {"query": query, "start": low.timestamp(), "end": high.timestamp(), "step": step_seconds}
            address = f"{url.rstrip('/')}/api/v1/query_range"
            answer = get(session, address, timeout_seconds, http_headers, {k: str(v) for k, v in asked.items()})
            repeated += len(answer.raw.retries.history) if answer.raw.retries else 0
            answers.append(json_of(answer, name))
    _, table, _ = payload_table(answers, source=f"{name}: {query}")
    repairs: list[Repair] = list(table.attrs["repairs"])
    count_repair(repairs, "requests repeated after an error of the server", repeated)
    count_repair(repairs, "further pages of the answer", len(answers) - 1)
    known = set(headers().loc[headers()["layout"] == "prometheus", "key"])
    names = [c for c in table if c not in KEYS]
    if metric and len(names) > 1:
        raise SchemaError(f"{name}: the query yields {names}, metric={metric!r} names only one. Query one at a time.")
    if not metric and len(names) == 1 and header_key(names[0]) not in known:
        repairs.append(Repair(f"{names[0]!r} has no canonical metric, kept as value", len(table)))
        table = table.rename(columns={names[0]: "value"})
        names = ["value"]
    table.attrs["repairs"] = tuple(repairs)
    columns, units = {names[0]: metric} if metric else {}, {names[0]: unit} if unit else {}
    return map_telemetry(table, layout="prometheus", columns=columns, units=units, source=f"{name}: {query}", **options)


def load_live(source: str, *, step_seconds: float | None = None, **options: Any) -> Telemetry:
    """Telemetry of a running system named by one string, for `support.telemetry.load`.

    source: `prometheus+http://host:9090/?query=...&start=-6h&end=now&step=60`, with `metric=` and `unit=` where the
    expression has no known name (percent-encode the query: + is %2B); or
    `agent+http://host:9100/metrics,http://other:9100/metrics?samples=60&step=5`. step_seconds: aggregate
    to this step. options: those of `map_telemetry`. Raises SourceError, SchemaError, TooShortError.

    Example:
        >>> load_live("prometheus+http://localhost:9090/?query=up&step=60")
        Traceback (most recent call last):
        support.errors.SourceError: http://localhost:9090/: start is missing. Write ...?query=...&start=...&step=...
    """
    if not source.startswith(LIVE_PREFIXES):
        raise SourceError(f"{source.split('?')[0]}: no live source. Begin with {' or '.join(LIVE_PREFIXES)}.")
    kind, _, address = source.partition("+")
    address, _, text = address.partition("?")
    asked = dict(parse_qsl(text, keep_blank_values=True))
    known, needed = (
        (PROMETHEUS_OPTIONS, ("query", "start", "step")) if kind == "prometheus" else (AGENT_OPTIONS, AGENT_OPTIONS)
    )
    name = public_address(address)
    for option in asked:
        if option not in known:
            raise SourceError(f"{name}: option {option!r} is not understood. Use {', '.join(known)}.")
    for option in needed:
        if not asked.get(option):
            raise SourceError(f"{name}: {option} is missing. Write ...?{'&'.join(f'{o}=...' for o in needed)}")
    step = _number(asked.pop("step"), "step", name)
    if kind == "prometheus":
        query, start = asked.pop("query"), asked.pop("start")
        words: dict[str, Any] = {**asked, **options}
        telemetry, _ = load_prometheus(address, query, start=start, step_seconds=step, **words)
    else:
        n_samples = int(_number(asked["samples"], "samples", name))
        telemetry, _ = load_agents(address.split(","), n_samples=n_samples, step_seconds=step, **options)
    return telemetry.resample(step_seconds) if step_seconds else telemetry


def _pages(first: pd.Timestamp, last: pd.Timestamp, step: pd.Timedelta) -> Iterator[tuple[pd.Timestamp, pd.Timestamp]]:
    """Ranges of at most MAX_POINTS points, both ends included, that together are the whole grid."""
    while first <= last:
        yield first, min(last, first + (MAX_POINTS - 1) * step)
        first += MAX_POINTS * step


def _utc(value: Any, name: str) -> pd.Timestamp:
    """A time in UTC out of text, epoch seconds or a time; naive ones are UTC."""
    if value == "now":
        return pd.Timestamp.now("UTC")
    try:
        number = float(value) if isinstance(value, str | int | float) else None
    except ValueError:
        number = None
    try:
        stamp = pd.Timestamp(value) if number is None else pd.Timestamp(number, unit="s")
    except (ValueError, TypeError):
        raise SourceError(f"{name}: {value!r} is no time. Write 2026-01-31T12:00:00Z, epoch seconds or now.") from None
    return stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp.tz_convert("UTC")


def _delta(text: Any, name: str) -> pd.Timedelta:
    try:
        return pd.Timedelta(text)
    except ValueError:
        raise SourceError(f"{name}: start {text!r} is no duration. Write -6h or -7d.") from None


def _number(text: str, option: str, name: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise SourceError(f"{name}: {option}={text!r} is no number.") from None
