"""Requests of one service: cycles, growth, noise with memory and bursts that last, around them Poisson counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from support.telemetry.generation.processes import ar1, burst_factor

__all__ = ["Traffic", "traffic"]

DAY_SECONDS = 86_400
DAYS_PER_MONTH = 30.44


@dataclass(frozen=True)
class Traffic:
    """What `traffic` generates: requests of one service.

    base_rps: mean requests/s at the start. daily_amplitude, weekend_drop: fractions. growth_per_month: fraction,
    compounded over 30.44 days. noise_sd, noise_memory_minutes: standard deviation and e-folding time of the AR(1) noise
    of the log rate. bursts_per_day, burst_factor, burst_minutes: mean number, size (times the rate) and length of bursts.
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


def traffic(model: Traffic, times: pd.DatetimeIndex, *, rng: np.random.Generator) -> np.ndarray:
    """Requests per interval at `times` (UTC, even step), shape (n_time,): Poisson counts around a rate.

    Source: the cycles and AR(1) noise of the reference suite in the book's chapter on autoscaling policies.

    Example:
        >>> minutes = pd.date_range("2026-03-02", periods=3, freq="60s", tz="UTC")
        >>> traffic(Traffic(), minutes, rng=np.random.default_rng(1)).shape
        (3,)
    """
    step = (times[1] - times[0]).total_seconds()
    months = np.arange(len(times)) * step / (DAYS_PER_MONTH * DAY_SECONDS)
    hours = times.hour + times.minute / 60 + times.second / 3600
    log_rate = (
        np.log(model.base_rps)
        + model.daily_amplitude * np.cos(2 * np.pi * (hours - 15.0) / 24)
        + 0.3 * model.daily_amplitude * np.cos(4 * np.pi * (hours - 20.0) / 24)
        + np.log1p(-model.weekend_drop) * (times.dayofweek >= 5)
        + np.log1p(model.growth_per_month) * months
        + ar1(len(times), model.noise_memory_minutes * 60 / step, model.noise_sd, rng=rng)
    )
    rate = np.exp(log_rate.to_numpy()) * burst_factor(
        len(times),
        model.bursts_per_day * step / DAY_SECONDS,
        model.burst_factor,
        model.burst_minutes * 60 / step,
        rng=rng,
    )
    return rng.poisson(rate * step).astype(float)
