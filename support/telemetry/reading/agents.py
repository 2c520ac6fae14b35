"""Metrics agents of nodes, polled over HTTP: Prometheus' text format (node_exporter) or a JSON object of numbers."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pandas as pd
import requests
from prometheus_client.parser import text_string_to_metric_families

from support.errors import SourceError
from support.telemetry.reading.grid import count_repair
from support.telemetry.reading.mapping import TransformationReport, map_telemetry
from support.telemetry.reading.units import KEYS, headers
from support.telemetry.reading.web import TIMEOUT_SECONDS, get, json_of, public_address, session_with_retries
from support.telemetry.schema import Repair, Telemetry

__all__ = ["load_agents"]

AGENTS_AT_ONCE = 32
IDLE_MODES = ("idle", "iowait", "steal")  # as in the recording rules of the node-mixin
CPU, CPU_BUSY = "node_cpu_seconds_total", "rate:cpu_busy"
MEMORY, MEMORY_TOTAL = "node_memory_MemAvailable_bytes", "node_memory_MemTotal_bytes"


def load_agents(
    endpoints: Sequence[str],
    *,
    n_samples: int,
    step_seconds: float,
    timeout_seconds: float = TIMEOUT_SECONDS,
    http_headers: Mapping[str, str] | None = None,
    **options: Any,
) -> tuple[Telemetry, TransformationReport]:
    """Poll the agents of nodes `n_samples` times, `step_seconds` apart; one resource per endpoint.

    endpoints: URLs that answer GET with Prometheus' text format (node_exporter) or a JSON object of numbers (CloudPulse).
    Counters become rates between two samples, so their first sample falls away; a node that does not answer in
    `timeout_seconds` has a gap, which is counted. `Telemetry.demand()` averages over nodes. options: those of
    `map_telemetry`. Raises SourceError if no agent answers, SchemaError, TooShortError.
    """
    if not endpoints or n_samples < 1 or not step_seconds > 0:
        raise SourceError("agents: give at least one endpoint, one sample and a positive step_seconds.")
    names = [public_address(e).partition("://")[2].removesuffix("/").removesuffix("/metrics") for e in endpoints]
    if len(set(names)) < len(names):
        raise SourceError(f"agents: {max(names, key=names.count)} is named twice. Give each node once.")
    rows: list[dict[str, Any]] = []
    missed: list[str] = []
    begin = time.monotonic()
    with session_with_retries(0, 0.0) as session, ThreadPoolExecutor(min(len(endpoints), AGENTS_AT_ONCE)) as pool:
        for number in range(n_samples):
            time.sleep(max(0.0, begin + number * step_seconds - time.monotonic()))
            now = pd.Timestamp.now("UTC")
            ask = partial(_sample, session, timeout_seconds, http_headers)
            for name, found in zip(names, pool.map(ask, endpoints), strict=True):
                if isinstance(found, SourceError):
                    missed.append(str(found))
                else:
                    rows.append({"timestamp": now, "resource_id": name, **found})
    if not rows:
        raise SourceError(f"no agent answered: {missed[0]}")
    table = _rates(pd.DataFrame(rows))
    repairs = list(table.attrs["repairs"])
    count_repair(repairs, f"samples that an agent did not answer ({missed[0] if missed else ''})", len(missed))
    table.attrs["repairs"] = tuple(repairs)
    source = f"agents {', '.join(names[:3])}" + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return map_telemetry(table, layout="agent", source=source, **options)


def _sample(
    session: requests.Session, timeout_seconds: float, http_headers: Mapping[str, str] | None, endpoint: str
) -> dict[str, float] | SourceError:
    """Header -> number of one agent now, or why there is none."""
    try:
        answer = get(session, endpoint, timeout_seconds, http_headers)
        if answer.status_code != 200:
            return SourceError(f"{public_address(endpoint)}: answers {answer.status_code}.")
        is_json = "json" in answer.headers.get("Content-Type", "")
        found = _flat(json_of(answer, public_address(endpoint))) if is_json else _exposition(answer.text)
        return found or SourceError(f"{public_address(endpoint)}: gives no known metric.")
    except SourceError as error:
        return error
    except ValueError as error:
        return SourceError(f"{public_address(endpoint)}: is neither JSON nor Prometheus' text format ({error}).")


def _flat(payload: Any, prefix: str = "") -> dict[str, float]:
    """Numbers of a nested JSON object, their keys joined by underscores."""
    if not isinstance(payload, Mapping):
        raise ValueError("no JSON object")
    found: dict[str, float] = {}
    for key, value in payload.items():
        if isinstance(value, Mapping):
            found |= _flat(value, f"{prefix}{key}_")
        elif isinstance(value, int | float) and not isinstance(value, bool) and f"{prefix}{key}" not in KEYS:
            found[f"{prefix}{key}"] = float(value)
    return found


def _exposition(text: str) -> dict[str, float]:
    """Known metrics of Prometheus' text format, summed over labels but for loopback devices; counters as `rate:<name>`."""
    known = {*headers().loc[headers()["layout"] == "agent", "header"], MEMORY_TOTAL}
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            if sample.name not in known or sample.labels.get("device") == "lo":
                continue
            counts = family.type == "counter" or sample.name.endswith("_total")
            name = f"rate:{sample.name}" if counts else sample.name
            found[name] = found.get(name, 0.0) + sample.value
            if sample.name == CPU:
                busy = 0.0 if sample.labels.get("mode") in IDLE_MODES else sample.value
                found[CPU_BUSY] = found.get(CPU_BUSY, 0.0) + busy
    return found


def _rates(table: pd.DataFrame) -> pd.DataFrame:
    """Counters to increases per second, cumulated CPU seconds and bytes of memory to fractions in use."""
    repairs: list[Repair] = []
    table = table.sort_values(["resource_id", "timestamp"], ignore_index=True)
    counters = [c for c in table if str(c).startswith("rate:")]
    if counters:
        by_node = table.groupby("resource_id")
        seconds = by_node["timestamp"].diff().dt.total_seconds()
        increase = by_node[counters].diff()
        reset = increase < 0
        what = "increases of counters that went back (an agent restarted), left missing"
        count_repair(repairs, what, int(reset.to_numpy().sum()))
        rates = increase.mask(reset).div(seconds, axis=0).rename(columns=lambda c: c.removeprefix("rate:"))
        table = pd.concat([table.drop(columns=counters), rates], axis=1)[seconds.notna()].reset_index(drop=True)
        count_repair(repairs, "first samples, which have no increase of counters yet", int(seconds.isna().sum()))
    if CPU in table:
        table[CPU] = table.pop(CPU_BUSY.removeprefix("rate:")) / table[CPU].mask(table[CPU] == 0)
    if MEMORY in table and MEMORY_TOTAL in table:
        table[MEMORY] = 1 - table[MEMORY] / table.pop(MEMORY_TOTAL)
    table.attrs["repairs"] = tuple(repairs)
    return table
