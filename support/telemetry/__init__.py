"""Telemetry: one type, one door (`load`), real traces and a generator."""

from support.telemetry.generator import Traffic, ar1, bursts, synthetic, traffic, workloads
from support.telemetry.schema import METRICS, Repair, Telemetry
from support.telemetry.sources import load
from support.telemetry.traces import fetch, list_traces, trace_available

__all__ = [
    "METRICS",
    "Repair",
    "Telemetry",
    "Traffic",
    "ar1",
    "bursts",
    "fetch",
    "list_traces",
    "load",
    "synthetic",
    "trace_available",
    "traffic",
    "workloads",
]
