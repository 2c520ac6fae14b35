"""Telemetry: one type, one door (`load`), real traces and a generator."""

from support.telemetry.generation.generator import stream, synthetic
from support.telemetry.generation.processes import ar1, burst_factor
from support.telemetry.generation.traffic import Traffic, traffic
from support.telemetry.reading.traces import fetch, list_traces, trace_available
from support.telemetry.schema import METRICS, Repair, Telemetry
from support.telemetry.sources import load
from support.telemetry.taxonomy import profile, taxonomy

__all__ = [
    "METRICS",
    "Repair",
    "Telemetry",
    "Traffic",
    "ar1",
    "burst_factor",
    "fetch",
    "list_traces",
    "load",
    "profile",
    "stream",
    "synthetic",
    "taxonomy",
    "trace_available",
    "traffic",
]
