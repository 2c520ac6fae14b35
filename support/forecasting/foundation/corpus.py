"""Series to learn forecasting from, all of them made up: the generator's presets, Gaussian processes, cloud-like ones.

The presets that were fitted to real traces are among them (new machines, no value of a trace), except the one fitted to
NAB: the model is judged on NAB, and must not have met it in any form.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import lfilter

from support.telemetry import load

__all__ = ["FAMILIES", "cloud_like", "kernel_mixture", "mixed", "preset_series"]

SEASONS = np.array([24, 48, 96, 144, 168, 288, 1440])  # steps: days of 1 h to 1 min, the week of hours
SEASON_SHARES = np.array([0.10, 0.04, 0.08, 0.08, 0.05, 0.53, 0.12])
FASTEST_SHAPE = 12  # harmonics of a drawn daily profile
SMALLEST_PART = 0.02  # of the deviation, below which rounding is drawn
FITTED = ("bitbrains", "bitbrains-rnd", "asd")  # not nab
# preset, steps in seconds
PRESETS: tuple[tuple[str, tuple[float, ...]], ...] = (
    ("fleet", (300.0, 300.0, 60.0, 900.0, 3600.0)),
    ("industries", (300.0, 3600.0)),
    ("cloud", (300.0, 900.0)),
    ("web", (60.0, 300.0, 3600.0)),
    ("worldcup98", (60.0, 300.0)),
    ("events", (120.0, 300.0)),
)
SINGLE = ("web", "worldcup98")  # presets of one resource: drawn anew with another seed
DAY_SECONDS = 86_400
CLOCKS = (6, 12, 24, 36, 72, 144, 288, 288, 288, 2016)  # steps between jobs that a clock starts


def preset_series(n_time: int, rng: np.random.Generator) -> Iterator[np.ndarray]:
    """Series (n_time,) of the presets without end: every metric of every resource that varies."""
    while True:
        name, steps = PRESETS[rng.integers(len(PRESETS))]
        step, fitted = float(rng.choice(steps)), rng.random() < 0.5
        if fitted:
            name, step = f"fitted:{rng.choice(FITTED)}", 300.0
        sizes: dict[str, Any] = {} if name in SINGLE else {"n_resources": 8}
        source = name if fitted else f"synthetic:{name}"
        telemetry = load(
            source, seed=int(rng.integers(2**31)), days=n_time * step / DAY_SECONDS + 1, step_seconds=step, **sizes
        )
        for resource in telemetry.resource_ids:
            values = telemetry.observations.loc[resource].select_dtypes("number").to_numpy(float)
            for column in rng.permutation(values.shape[1])[:3]:
                x = values[-n_time:, column]
                if np.isfinite(x).all() and np.ptp(x) > 0:
                    yield x


def _season(rng: np.random.Generator) -> int:
    """A season in steps, most often that of a day in 5 minutes."""
    return int(rng.choice(SEASONS, p=SEASON_SHARES))


def _profile(n_time: int, period: int, rng: np.random.Generator) -> np.ndarray:
    """A smooth cycle (n_time,), mean 0, deviation 1, at a random phase: like a draw of a periodic Gaussian process."""
    k = np.arange(1, FASTEST_SHAPE + 1)
    weight = np.exp(-0.5 * (k * rng.uniform(0.1, 0.8)) ** 2)
    angle = 2 * np.pi * (np.arange(period)[:, None] * k / period + rng.random(FASTEST_SHAPE))
    cycle = (np.cos(angle) * weight * rng.normal(size=FASTEST_SHAPE)).sum(axis=1)
    whole = np.tile(cycle, -(-n_time // period) + 1)[rng.integers(period) :][:n_time]
    return (whole - cycle.mean()) / (cycle.std() + 1e-9)


def _smooth(n_time: int, length: float, rng: np.random.Generator) -> np.ndarray:
    """A Gaussian process with a squared exponential kernel of `length` steps: smoothed noise, mean 0, deviation 1."""
    every = max(1, int(length // 8))
    coarse = gaussian_filter1d(rng.normal(size=n_time // every + 64), length / every / np.sqrt(2))[32:]
    x = np.interp(np.arange(n_time) / every, np.arange(len(coarse)), coarse)
    return (x - x.mean()) / (x.std() + 1e-9)


def _memory(n_time: int, steps: float, rng: np.random.Generator, heavy: float = np.inf) -> np.ndarray:
    """AR(1) with an e-folding time of `steps`, deviation about 1; Student-t shocks with `heavy` degrees of freedom."""
    rho = np.exp(-1 / steps)
    shocks = rng.standard_t(heavy, n_time) if np.isfinite(heavy) else rng.normal(size=n_time)
    return np.asarray(lfilter([np.sqrt(1 - rho**2)], [1, -rho], shocks))


def kernel_mixture(n_time: int, rng: np.random.Generator) -> np.ndarray:
    """A draw from a Gaussian process of a random kernel, (n_time,): up to four kernels joined by sums and products.

    Source: KernelSynth of Ansari et al. (2024), with spectral draws instead of Cholesky factors, for length.
    """
    period = _season(rng)

    def one() -> np.ndarray:
        kind = rng.integers(7)
        if kind < 3:
            return _profile(n_time, period if rng.random() < 0.7 else _season(rng), rng)
        if kind == 3:
            return _smooth(n_time, float(np.exp(rng.uniform(np.log(8), np.log(n_time / 2)))), rng)
        if kind == 4:
            return _memory(n_time, float(np.exp(rng.uniform(0, np.log(500)))), rng)
        if kind == 5:
            return rng.uniform(-1.5, 1.5) * np.linspace(-1, 1, n_time)
        return rng.normal(size=n_time) * 0.5

    x = one()
    for _ in range(rng.integers(0, 4)):
        x = x + rng.uniform(0.2, 1) * one() if rng.random() < 0.65 else x * one()
    noise = np.exp(rng.uniform(np.log(0.02), np.log(0.6)))
    return x + noise * (x.std() + 1e-9) * rng.normal(size=n_time)


def _spikes(n_time: int, rng: np.random.Generator) -> np.ndarray:
    """Bursts above zero (n_time,): at random times or by a clock, of heavy-tailed height and a few steps' length."""
    x = np.zeros(n_time)
    if rng.random() < 0.5:  # a job that a clock starts
        period = int(rng.choice(CLOCKS))
        starts = np.arange(rng.integers(period), n_time, period)
        starts = starts + rng.integers(0, rng.integers(1, 4), len(starts))
    else:
        starts = np.flatnonzero(rng.random(n_time) < np.exp(rng.uniform(np.log(0.001), np.log(0.08))))
    height = np.exp(rng.uniform(0.1, 0.9) * rng.normal(size=len(starts)))
    longest = int(rng.choice([1, 1, 2, 3, 6, 12, 24]))
    for start, h, length in zip(starts, height, rng.integers(1, longest + 1, len(starts)), strict=True):
        x[start : start + length] += h
    return x


def _levels(n_time: int, rng: np.random.Generator) -> np.ndarray:
    """A level that stays and jumps (n_time,): between a few states that come back, or to new ones for good."""
    stay = np.exp(rng.uniform(np.log(60), np.log(3000)))
    jumps = rng.random(n_time) < 1 / stay
    n_state = int(rng.integers(2, 5)) if rng.random() < 0.5 else int(jumps.sum()) + 2
    values, which = rng.normal(size=n_state), np.zeros(n_time, dtype=int)
    which[jumps] = 1
    visited = np.cumsum(which) if n_state > 4 else rng.integers(n_state, size=int(jumps.sum()) + 1)[np.cumsum(which)]
    return np.asarray(values[visited % n_state])


def _sawtooth(n_time: int, rng: np.random.Generator) -> np.ndarray:
    """A leak or a queue that fills and is emptied (n_time,), within 0 and 1."""
    period = np.exp(rng.uniform(np.log(50), np.log(2000)))
    resets = np.cumsum(period * np.exp(rng.normal(size=int(n_time / period) + 8) * rng.choice([0.0, 0.1, 0.5])))
    resets = np.concatenate([[-rng.random() * period], resets])
    at = np.arange(n_time)
    k = np.clip(np.searchsorted(resets, at, side="right") - 1, 0, len(resets) - 2)
    return np.clip((at - resets[k]) / (resets[k + 1] - resets[k]), 0, 1) ** rng.choice([1.0, 0.5, 2.0])


def cloud_like(n_time: int, rng: np.random.Generator) -> np.ndarray:
    """A series as a monitoring service shows it (n_time,): flat, cyclic, jumping or bursting; rounded or counted."""
    period, kind = _season(rng), rng.choice(6, p=[0.2, 0.32, 0.14, 0.14, 0.08, 0.12])
    heavy = float(rng.choice([np.inf, 5.0, 3.0]))
    noise = _memory(n_time, float(np.exp(rng.uniform(-1, 4))), rng, heavy) + rng.uniform(0, 1) * rng.normal(size=n_time)
    sd = np.exp(rng.uniform(np.log(0.02), np.log(0.5)))
    if kind == 0:  # flat with noise and bursts
        x = 1 + sd * noise
    elif kind == 1:  # a cycle of the day, often weaker at the weekend, with noise of the log rate
        week = 1 - (rng.random() < 0.5) * rng.uniform(0.1, 0.8) * (
            (np.arange(n_time) // period + rng.integers(7)) % 7 >= 5
        )
        x = np.exp(
            rng.uniform(0.1, 1.0) * _profile(n_time, period, rng) * week
            + sd * noise
            + rng.uniform(0, 0.4) * _smooth(n_time, 2.0 * period, rng)
        )
    elif kind == 2:  # jumps
        x = np.exp(rng.uniform(0.2, 1.0) * _levels(n_time, rng) + sd * noise)
    elif kind == 3:  # idle most of the time
        x = 0.05 * np.abs(sd * noise) + _spikes(n_time, rng) * np.exp(rng.uniform(0, 1) * _profile(n_time, period, rng))
    elif kind == 4:  # fills and empties
        x = 0.3 + _sawtooth(n_time, rng) + 0.3 * sd * noise
    else:  # no cycle, slow wander
        x = np.exp(rng.uniform(0.1, 0.8) * _smooth(n_time, float(rng.uniform(100, 1500)), rng) + sd * noise)
    if rng.random() < 0.5:
        x = x + np.exp(rng.uniform(-1, 2)) * x.std() * _spikes(n_time, rng)
    if rng.random() < 0.2:
        x = x * np.exp(0.5 * _levels(n_time, rng))
    return _finish(x, rng)


def _finish(x: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """What measuring does to a series: counting, a floor, a ceiling, rounding."""
    choice = rng.integers(6)
    if choice == 0:
        return rng.poisson(np.maximum(x, 0) / (np.abs(x).mean() + 1e-9) * np.exp(rng.uniform(0, 7))).astype(float)
    if choice == 1:
        return np.minimum(np.maximum(x, 0), np.quantile(x, rng.uniform(0.9, 1)))
    if choice == 2:
        step = x.std() * rng.uniform(SMALLEST_PART, 0.5)
        return np.round(x / step) * step
    return np.maximum(x, 0)


FAMILIES: dict[str, Callable[[int, np.random.Generator], np.ndarray]] = {
    "Gaussian processes": kernel_mixture,
    "cloud-like": cloud_like,
}


def mixed(n_series: int, n_time: int, *, rng: np.random.Generator) -> np.ndarray:
    """The training series, (n_series, n_time) float32 with deviation near 1; none is constant.

    Three in ten are of a preset (half of those of one fitted to a trace), a quarter are Gaussian processes, the others
    cloud-like. A fifth of them are then averaged with an earlier one (TSMixup, Ansari et al. 2024).
    """
    presets: Iterator[np.ndarray] = preset_series(n_time, rng)
    rows: list[np.ndarray] = []
    while len(rows) < n_series:
        share = rng.random()
        x = next(presets) if share < 0.3 else kernel_mixture(n_time, rng) if share < 0.55 else cloud_like(n_time, rng)
        if not np.isfinite(x).all() or x.std() < 1e-9:
            continue
        x = (x - x.mean()) / x.std()
        if rows and rng.random() < 0.2:
            weight = rng.uniform(0.2, 0.8)
            x = weight * x + (1 - weight) * rows[rng.integers(len(rows))]
        rows.append(x.astype(np.float32))
    return np.stack(rows)
