"""One machine of a type: CPU with cycles, bursts, idle spells and noise; memory, network and disk correlated with it."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd
from scipy.optimize import brentq

from support.telemetry.calendars import DAY_SECONDS, cycle_factor
from support.telemetry.generation.processes import ar1, burst_factor, desaturate, idle_cover, saturate
from support.telemetry.taxonomy import Profile

__all__ = ["Calibration", "Place", "calibrate", "floor_softly", "machine"]

WORKLOAD_NOISE_FRAC = 0.25  # a workload's noise is a quarter of its documented deviation (hello-cloud)
IDLE_FACTOR = 0.1  # CPU that is left in an idle spell
LOWEST_NOISE_SD, HIGHEST_NOISE_SD = 0.05, 2.0  # log units
OUT_PER_IN = 0.6  # outgoing over incoming traffic (AWS-CapacityForecaster)
OUT_NOISE_SD = 0.05  # log units, of outgoing traffic around its share
PILOT_MACHINES, PILOT_TIMES = 24, 1024
FLOOR_FRAC = 0.25  # below this part of its mean a metric is bent so that it stays positive
LARGEST_LOSS = 0.02  # of correlation to the bends, before it is made good
PILOT_SEED = 7  # of the pilot only: it fixes constants of a type, no data come from it


@dataclass(frozen=True)
class Place:
    """Where a machine stands: time zone (IANA), country of its holidays (ISO), whether its business closes quarters."""

    timezone: str = "UTC"
    country: str = "US"
    quarter_end: bool = False


@dataclass(frozen=True)
class Calibration:
    """Constants that make a type come out as its row says.

    cpu_level: percent of capacity at factor 1. noise_sd: log units. cpu_mean, cpu_sd: of utilisation, percent.
    mean, sd: of memory (percent), network (Mbit/s) and disk (percent or operations/s), shape (3,). loading: their
    correlations with CPU, shape (3,). residual: Cholesky factor of what CPU does not explain, shape (3, 3).
    """

    cpu_level: float
    noise_sd: float
    cpu_mean: float
    cpu_sd: float
    mean: np.ndarray
    sd: np.ndarray
    loading: np.ndarray
    residual: np.ndarray


def floor_softly(values: np.ndarray, knee: float) -> np.ndarray:
    """`values` unchanged above `knee` (> 0), below it bent smoothly so that they stay positive, in place.

    Example:
        >>> floor_softly(np.array([4.0, 2.0, 0.0, -98.0]), 2.0).round(2).tolist()
        [4.0, 2.0, 1.0, 0.04]
    """
    low = values < knee
    values[low] = knee / (2 - values[low] / knee)
    return values


def _random_factor(profile: Profile, n_time: int, step: float, rng: np.random.Generator) -> np.ndarray:
    """Factor of bursts and idle spells, shape (n_time,)."""
    factor = burst_factor(
        n_time,
        profile.bursts_per_day * step / DAY_SECONDS,
        profile.burst_factor,
        profile.burst_minutes * 60 / step,
        rng=rng,
    )
    if profile.idle_frac:
        factor *= 1 - (1 - IDLE_FACTOR) * idle_cover(
            n_time, profile.idle_frac, profile.idle_minutes * 60 / step, rng=rng
        )
    return factor


def _lognormal_sd(mean: float, sd: float) -> float:
    return float(np.sqrt(np.log1p((sd / mean) ** 2)))


@lru_cache(maxsize=256)
def calibrate(profile: Profile, first: pd.Timestamp, last: pd.Timestamp, step_seconds: float) -> Calibration:
    """Constants of `profile` for a window of time, from a small pilot simulation with a seed of its own.

    workload: the mean CPU over time is the row's. application: its median and 95 % quantile are. server: the row holds
    on a working day at the start. So a machine's data depend on the window, but not on other machines.
    """
    full = pd.date_range(first, last, freq=pd.Timedelta(seconds=step_seconds))
    cycle = cycle_factor(profile, full)
    rng = np.random.default_rng(PILOT_SEED)
    kept = np.unique(np.linspace(0, len(full) - 1, min(PILOT_TIMES, len(full))).astype(int))
    block = min(len(full), PILOT_TIMES)  # bursts and spells of a pilot machine are drawn for a stretch as long as this
    load = np.concatenate(
        [cycle[kept] * _random_factor(profile, block, step_seconds, rng)[: len(kept)] for _ in range(PILOT_MACHINES)]
    )
    noise = rng.standard_normal(len(load))
    if profile.kind == "application":
        target = np.log(desaturate(profile.cpu_p95_percent) / profile.cpu_p50_percent)

        def excess(sd: float) -> float:
            low, high = np.quantile(load * np.exp(sd * noise), [0.5, 0.95])
            return float(np.log(high / low) - target)

        ends = [excess(sd) for sd in (LOWEST_NOISE_SD, HIGHEST_NOISE_SD)]
        noise_sd = (
            LOWEST_NOISE_SD
            if ends[0] > 0
            else HIGHEST_NOISE_SD
            if ends[1] < 0
            else float(brentq(excess, LOWEST_NOISE_SD, HIGHEST_NOISE_SD, xtol=1e-3))
        )
        level = profile.cpu_p50_percent / float(np.median(load * np.exp(noise_sd * noise)))
    else:
        part = WORKLOAD_NOISE_FRAC if profile.kind == "workload" else 1.0
        noise_sd = _lognormal_sd(profile.cpu_mean_percent, part * profile.cpu_sd_percent)
        at_one = profile.cpu_mean_percent * np.exp(-(noise_sd**2) / 2)
        level = at_one
        if profile.kind == "workload":  # the mean over time, saturation included
            factor = load * np.exp(noise_sd * noise)
            level = float(
                brentq(
                    lambda x: saturate(x * factor).mean() - profile.cpu_mean_percent,
                    at_one / 50,
                    at_one * 50,
                    xtol=1e-6,
                )
            )
    cpu = saturate(level * load * np.exp(noise_sd * noise))
    cpu_z = (cpu - cpu.mean()) / cpu.std()
    mean, sd = _levels(profile, cpu_z, rng)
    loading, residual = _loadings(np.array(profile.correlation), mean, sd, cpu_z, rng)
    return Calibration(level, noise_sd, float(cpu.mean()), float(cpu.std()), mean, sd, loading, residual)


def _loadings(
    matrix: np.ndarray, mean: np.ndarray, sd: np.ndarray, cpu_z: np.ndarray, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Loadings on CPU that give the correlations of `matrix` after the bends at floor and ceiling, and the rest's Cholesky factor."""
    loading, noise = matrix[1:, 0].copy(), rng.standard_normal((3, len(cpu_z)))
    for _ in range(2):
        residual = np.linalg.cholesky(matrix[1:, 1:] - np.outer(loading, loading))
        values = (residual @ noise + np.outer(loading, cpu_z)) * sd[:, None] + mean[:, None]
        values = [floor_softly(v, FLOOR_FRAC * m) for v, m in zip(values, mean, strict=True)]
        values[0] = saturate(values[0])
        seen = [np.corrcoef(cpu_z, v)[0, 1] for v in values]
        lost = matrix[1:, 0] - seen
        loading = loading + np.where(lost > LARGEST_LOSS, lost, 0.0)
    return loading, np.linalg.cholesky(matrix[1:, 1:] - np.outer(loading, loading))


def _levels(profile: Profile, cpu_z: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of memory, network and disk; from two quantiles where the row gives those."""
    disk_percent = not np.isnan(profile.disk_mean_percent)
    mean = [
        profile.memory_mean_percent,
        profile.network_mean_mbps,
        profile.disk_mean_percent if disk_percent else profile.disk_mean_iops,
    ]
    sd = [
        profile.memory_sd_percent,
        profile.network_sd_mbps,
        profile.disk_sd_percent if disk_percent else profile.disk_sd_iops,
    ]
    if profile.kind == "application":
        r = profile.correlation[0][1]
        z = r * cpu_z + np.sqrt(1 - r**2) * rng.standard_normal(len(cpu_z))
        low, high = np.quantile(z, [0.5, 0.95])
        sd[0] = (desaturate(profile.memory_p95_percent) - profile.memory_p50_percent) / (high - low)
        mean[0] = profile.memory_p50_percent - sd[0] * low
    return np.array(mean), np.array(sd)


def machine(
    profile: Profile,
    times: pd.DatetimeIndex,
    *,
    place: Place,
    rng: np.random.Generator,
    spread_sd: float = 0.0,
    cpu_factor: float = 1.0,
) -> dict[str, np.ndarray]:
    """Metrics of one machine at `times` (UTC, even step): name -> shape (n_time,), in the units of METRICS.

    spread_sd: standard deviation of this machine's own level among its kind, log units. cpu_factor: level of this
    machine's CPU over that of its type. Memory, network and disk are linear in CPU and in noise of the same memory,
    so the correlations of the row hold in what comes out, after all factors of time, between machines as within one.
    """
    step = (times[1] - times[0]).total_seconds()
    fixed = calibrate(profile, times[0], times[-1], step)
    own = rng.standard_normal(4)
    n_time = len(times)
    factor = cycle_factor(
        profile, times, timezone=place.timezone, country=place.country, quarter_end=place.quarter_end
    ) * _random_factor(profile, n_time, step, rng)
    noise = ar1((4, n_time), profile.noise_memory_minutes * 60 / step, 1.0, rng=rng)
    factor *= np.exp(fixed.noise_sd * noise[0])
    factor *= fixed.cpu_level * cpu_factor * np.exp(spread_sd * own[0] - spread_sd**2 / 2)
    cpu = saturate(factor)
    # the part of the machine's own level that is its own, on the scale of the variation in time
    between = spread_sd * fixed.cpu_mean / fixed.cpu_sd
    z = noise[1:]
    shift = between * (fixed.residual @ own[1:])
    cpu_z = (cpu - fixed.cpu_mean) / fixed.cpu_sd
    for k in (2, 1, 0):  # residual @ z in place, from below: its factor is triangular, and an array may be large
        z[k] *= fixed.residual[k, k]
        for j in range(k):
            z[k] += fixed.residual[k, j] * z[j]
        z[k] += fixed.loading[k] * cpu_z + shift[k]
        z[k] *= fixed.sd[k]
        z[k] += fixed.mean[k]
    memory, network, disk = (floor_softly(z[k], FLOOR_FRAC * fixed.mean[k]) for k in range(3))
    is_percent = not np.isnan(profile.disk_mean_percent)
    return {
        "cpu_utilization": cpu,
        "memory_utilization": saturate(memory),
        "network_in_mbps": network,
        "network_out_mbps": OUT_PER_IN * network * np.exp(OUT_NOISE_SD * rng.standard_normal(n_time)),
        "disk_utilization" if is_percent else "disk_iops": saturate(disk) if is_percent else disk,
    }
