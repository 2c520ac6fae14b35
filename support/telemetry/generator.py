"""Synthetic telemetry with the shapes that decisions depend on: cycles, growth, memory in the noise, bursts that last."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.signal import lfilter
from scipy.special import expit, logit

from support.errors import SourceError
from support.telemetry.schema import Telemetry

__all__ = ["PRESETS", "Traffic", "ar1", "bursts", "fleet", "synthetic", "traffic", "workloads"]

DAY_SECONDS = 86_400


@dataclass(frozen=True)
class Traffic:
    """What `traffic` generates: requests of one service.

    base_rps: mean requests/s at the start. daily_amplitude, weekend_drop: fractions. growth_per_month: fraction,
    compounded over 30 days. noise_sd, noise_memory_minutes: standard deviation and e-folding time of the AR(1) noise of the log rate.
    bursts_per_day, burst_factor, burst_minutes: mean number, mean size (times the rate) and mean length of bursts.
    """

    base_rps: float = 120.0
    daily_amplitude: float = 0.6
    weekend_drop: float = 0.35
    growth_per_month: float = 0.06
    noise_sd: float = 0.10
    noise_memory_minutes: float = 45.0
    bursts_per_day: float = 0.5
    burst_factor: float = 1.8
    burst_minutes: float = 20.0


PRESETS: dict[str, tuple[Traffic, str, int, float]] = {  # traffic, first day, days, step in seconds
    "web": (Traffic(), "2026-03-02", 42, 60.0),
    "worldcup98": (Traffic(55.0, 0.45, 0.15, 1.6, 0.12, 60.0, 1.0, 2.5, 45.0), "1998-04-30", 88, 60.0),
}


def workloads() -> pd.DataFrame:
    """The workload table: one row per type, with a source for its numbers (percent, fractions)."""
    return pd.read_csv(Path(__file__).with_name("workloads.csv"), index_col="workload")


def ar1(n_time: int, memory_steps: float, sd: float, *, rng: np.random.Generator) -> np.ndarray:
    """Stationary AR(1) noise, shape (n_time,), standard deviation `sd`, autocorrelation exp(-lag / memory_steps).

    Example:
        >>> ar1(3, 10.0, 0.0, rng=np.random.default_rng(1)).tolist()
        [0.0, 0.0, 0.0]
    """
    phi = np.exp(-1.0 / memory_steps)
    shocks = rng.normal(0.0, sd * np.sqrt(1 - phi**2), n_time)
    shocks[0] = rng.normal(0.0, sd)
    return lfilter([1.0], [1.0, -phi], shocks)


def bursts(n_time: int, per_step: float, factor: float, length_steps: float, *, rng: np.random.Generator) -> np.ndarray:
    """Log factor of bursts, shape (n_time,): Poisson starts, geometric lengths, lognormal sizes; overlapping ones add up."""
    starts = np.flatnonzero(rng.random(n_time) < per_step)
    lengths = rng.geometric(1.0 / max(length_steps, 1.0), len(starts))
    sizes = np.log(factor) * rng.lognormal(-0.045, 0.3, len(starts))
    change = np.zeros(n_time + 1)
    np.add.at(change, starts, sizes)
    np.add.at(change, np.minimum(starts + lengths, n_time), -sizes)
    return np.cumsum(change)[:n_time]


def traffic(model: Traffic, times: pd.DatetimeIndex, *, rng: np.random.Generator) -> np.ndarray:
    """Requests per interval at `times` (UTC, even step), shape (n_time,): Poisson around a rate with cycles, growth, noise, bursts.

    Source: the cycles and AR(1) noise of the reference suite in the book's chapter on autoscaling policies.
    """
    step = (times[1] - times[0]).total_seconds()
    elapsed_months = np.arange(len(times)) * step / (30 * DAY_SECONDS)
    hours = times.hour + times.minute / 60 + times.second / 3600
    log_rate = (
        np.log(model.base_rps)
        + model.daily_amplitude * np.cos(2 * np.pi * (hours - 15.0) / 24)
        + 0.3 * model.daily_amplitude * np.cos(4 * np.pi * (hours - 20.0) / 24)
        + np.log1p(-model.weekend_drop) * (times.dayofweek >= 5)
        + np.log1p(model.growth_per_month) * elapsed_months
        + ar1(len(times), model.noise_memory_minutes * 60 / step, model.noise_sd, rng=rng)
        + bursts(
            len(times),
            model.bursts_per_day * step / DAY_SECONDS,
            model.burst_factor,
            model.burst_minutes * 60 / step,
            rng=rng,
        )
    )
    return rng.poisson(np.exp(log_rate) * step).astype(float)


def fleet(n_resources: int, times: pd.DatetimeIndex, *, seed: int) -> tuple[pd.DataFrame, pd.DataFrame]:
    """CPU, memory and network of `n_resources` machines at `times`: (observations, resources).

    CPU and memory are percent, kept in (0, 100) by a logistic scale instead of clipping, so nothing piles up at the
    bounds. Each resource has its own random stream, so its data do not depend on how many others there are.
    """
    table = workloads()
    edges = table["share"].cumsum().to_numpy()
    step = (times[1] - times[0]).total_seconds()
    hours = times.hour + times.minute / 60
    day = np.cos(2 * np.pi * (hours.to_numpy() - 14.0) / 24)
    weekend = (times.dayofweek >= 5).astype(float)
    frames, rows = [], []
    for number in range(n_resources):
        name = f"vm-{number:04d}"
        rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
        workload = table.index[int(np.searchsorted(edges, rng.random() * edges[-1]))]
        kind = table.loc[workload]
        common = ar1(len(times), 3600 / step * 2, 0.35, rng=rng)
        shape = kind["seasonal"] * (0.5 * day - 0.6 * weekend)
        burst = bursts(
            len(times), kind["burst_probability"] * step / DAY_SECONDS, kind["peak_factor"], 1800 / step, rng=rng
        )
        idle = bursts(len(times), 0.5 * kind["idle_probability"] * step / DAY_SECONDS, 3.0, 7200 / step, rng=rng)
        own = rng.normal(0.0, 0.3)
        cpu = logit(kind["cpu_mean_percent"] / 100) + own + shape + common + 0.6 * burst - idle
        memory = (
            logit(kind["memory_mean_percent"] / 100)
            + 0.5 * own
            + 0.35 * (shape + common)
            + ar1(len(times), 86400 / step, 0.15, rng=rng)
        )
        cpu_percent = 100 * expit(cpu)
        network_in = (10 + 0.3 * cpu_percent) * np.exp(ar1(len(times), 1800 / step, 0.2, rng=rng))
        index = pd.MultiIndex.from_product([[name], times], names=["resource_id", "timestamp"])
        frames.append(
            pd.DataFrame(
                {
                    "cpu_utilization": cpu_percent,
                    "memory_utilization": 100 * expit(memory),
                    "network_in_mbps": network_in,
                    "network_out_mbps": 0.6 * network_in,
                },
                index=index,
            )
        )
        rows.append((name, workload))
    return pd.concat(frames), pd.DataFrame(rows, columns=["resource_id", "workload"]).set_index("resource_id")


def synthetic(
    preset: str = "web", *, seed: int, days: int | None = None, step_seconds: float | None = None, n_resources: int = 12
) -> Telemetry:
    """Synthetic Telemetry: `web` and `worldcup98` (requests of one service), `fleet` (CPU, memory, network of machines).

    Same arguments, same data. Raises SourceError for an unknown preset or sizes that are not positive.

    Example:
        >>> synthetic("web", seed=1, days=1).demand().shape
        (1440,)
    """
    if preset not in PRESETS and preset != "fleet":
        raise SourceError(f"synthetic:{preset}: no such preset. Use {', '.join([*PRESETS, 'fleet'])}.")
    model, first, default_days, default_step = PRESETS.get(preset, (Traffic(), "2026-03-02", 28, 300.0))
    days = default_days if days is None else days
    step = default_step if step_seconds is None else step_seconds
    if days < 1 or not 1 <= step <= 3600 or n_resources < 1:
        raise SourceError(
            f"synthetic:{preset}: days={days}, step_seconds={step}, n_resources={n_resources}; use at least 1, 1 to 3600, at least 1."
        )
    times = pd.date_range(first, periods=int(days * DAY_SECONDS // step), freq=pd.Timedelta(seconds=step), tz="UTC")
    source = "synthetic" if preset == "web" else f"synthetic:{preset}"
    if preset == "fleet":
        observations, resources = fleet(n_resources, times, seed=seed)
        said = f"Synthetic fleet of {n_resources} machines, generated with seed {seed}; not a measurement."
        return Telemetry(observations, float(step), source, said, True, resources)
    rng = np.random.default_rng([seed, zlib.crc32(preset.encode())])
    index = pd.MultiIndex.from_product([["front-end"], times], names=["resource_id", "timestamp"])
    said = f"Synthetic traffic of one web service, generated with seed {seed}; not a measurement."
    if preset == "worldcup98":
        said = (
            f"SYNTHETIC TWIN of the trace worldcup98, generated with seed {seed}, because the real trace was asked for as a twin or could "
            "not be had. Get the real one with a network connection, or with BOOK_DATA=<folder of traces>. Its numbers are not those of the trace."
        )
    observations = pd.DataFrame({"requests": traffic(model, times, rng=rng)}, index=index)
    resources = pd.DataFrame({"workload": ["web_app"]}, index=pd.Index(["front-end"], name="resource_id"))
    return Telemetry(observations, float(step), source, said, True, resources)
