"""Estimates of one machine from its metrics: states, transitions and their contexts, quantiles, memory, recorder's grid."""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.optimize import nnls
from scipy.sparse import csr_matrix
from scipy.special import ndtri
from sklearn.cluster import KMeans

from support.telemetry.generation.fitted_machines import (
    HARMONICS,
    LAGS,
    MEMORY_STEPS,
    PEAK_STEPS,
    PRIOR_WEIGHT,
    PROBABILITIES,
    STEPS_PER_HOUR,
    MachineModel,
    daily_cycle,
    offsets,
)
from support.telemetry.judging.features import STEPS_PER_DAY, acf

__all__ = ["fit_machine"]

STATES = 24  # most states of a machine
STEPS_PER_STATE = 40  # at least so many intervals of data for each state
SLOW_STEPS = 25  # window of the running median that tells slow levels from fast noise: two hours
ACTIVE_STEPS = 145  # window of the spread around the slow level: twelve hours
ACTIVITY_WEIGHT = 0.5
PREVIOUS_WEIGHT = 0.5  # of the value before, beside the value and its slow level, when states are formed
SAMPLES = 15  # of 20 s in an interval of 5 minutes: a mean of whole percents is a multiple of 1/15 for each core
KB_PER_SECOND_MBPS = 1024 * 8 / 1e6
QUANTA = (
    *(10.0**-digits for digits in (0, 1, 2)),
    *(1 / (SAMPLES * cores) for cores in (1, 2, 4, 8, 16)),
    *(KB_PER_SECOND_MBPS / part for part in (1, SAMPLES)),
)
ON_GRID = 0.95  # fraction of values on a grid for it to be the recorder's
CONTEXT_Z, CONTEXT_PRIOR = 4.0, 1.0  # z score that counts as no chance, and how far a surplus is shrunk, observations
SMOOTHING = 0.1  # observations, in the scaling of the chain
ROUNDS = 6  # of the fit of the contexts, one after the other
MEMORY_LAGS = np.array([0, 1, 2, 3, 6, 12, 24, 36, 72, 144, 288])
SMOOTH_HARMONICS, SMOOTH_SHARE = (
    4,
    0.5,
)  # a metric of which the first harmonics explain half follows the clock, not the states


def _quantum(x: np.ndarray) -> tuple[float, float]:
    """Coarsest grid that holds 95 % of the values other than 0 and the most frequent, and the share on it; or (0, 1)."""
    values, times = np.unique(x, return_counts=True)
    x = x[(x != 0) & (x != values[times.argmax()])]
    for quantum in sorted(QUANTA, reverse=True) if len(x) else ():
        share = float(np.mean(np.abs(x / quantum - np.round(x / quantum)) < 0.01))
        if share >= ON_GRID and np.ptp(x) > 2 * quantum:
            return quantum, share
    return 0.0, 1.0


def fit_machine(x: np.ndarray, *, rng: np.random.Generator) -> MachineModel:
    """Estimate one machine from values x, shape (n_time, n_metric), that start at midnight; NaN where missing."""
    grids = [_quantum(column[np.isfinite(column)]) for column in x.T]
    moments = np.array([_moments(column) for column in x.T])
    slot = np.arange(len(x)) % STEPS_PER_DAY
    profile = np.stack([_profile(column, slot) for column in x.T])
    smooth = np.array([bool(row.any()) for row in profile])
    x = x - np.stack([daily_cycle(row, slot) for row in profile], axis=1)
    features = [np.where(np.isfinite(x).all(1), 0.0, np.nan)]
    for number in np.flatnonzero(~smooth):
        column, quantum = x[:, number], grids[number][0]
        low, high = np.nanquantile(np.abs(column), [0.1, 0.99])
        y = pd.Series(np.arcsinh(column / max(low / 2, quantum, 1e-3 * high, 1e-9)))
        slow = y.rolling(SLOW_STEPS, center=True, min_periods=3).median()
        spread = float(y.std()) or 1.0
        activity = (y - slow).rolling(ACTIVE_STEPS, center=True, min_periods=3).std()
        features += [
            y / spread,
            PREVIOUS_WEIGHT * y.shift() / spread,
            slow / spread,
            ACTIVITY_WEIGHT * activity / spread,
        ]
    table = np.stack(features, axis=1)
    known = np.isfinite(table).all(1)
    distinct = len(np.unique(np.round(table[known], 3), axis=0))
    k = max(1, min(STATES, distinct, int(known.sum()) // STEPS_PER_STATE))
    state = np.full(len(x), -1)
    label = KMeans(k, n_init=2, random_state=int(rng.integers(2**31))).fit_predict(table[known])
    level = np.bincount(label, weights=x[known, 0], minlength=k) / np.bincount(label, minlength=k)
    state[known] = np.argsort(np.argsort(level))[label]
    pair = np.flatnonzero((state[1:] >= 0) & (state[:-1] >= 0)) + 1
    counts = np.zeros((k, k))
    np.add.at(counts, (state[pair - 1], state[pair]), 1)
    knots = np.stack([[np.quantile(column[state == s], PROBABILITIES) for s in range(k)] for column in x.T])
    scores = np.full(x.shape, np.nan)
    for s in range(k):
        scores[state == s] = _normal_scores(x[state == s])
    if smooth.any():  # whatever the state
        scores[:, smooth] = _normal_scores(x[:, smooth])
        knots[smooth] = 0.0
        knots[smooth, 0] = np.nanquantile(x[:, smooth], PROBABILITIES, axis=0).T
    memory = np.array([_memory(column) for column in scores.T])
    between = np.array([[_correlation(a[known], b[known]) for a in scores.T] for b in scores.T])
    np.fill_diagonal(between, 1.0)
    quantum, on_grid = np.array(grids).T
    return MachineModel(
        profile, knots, counts, *_contexts(state, pair, counts), memory, between, quantum, on_grid, moments
    )


def _profile(column: np.ndarray, slot: np.ndarray) -> np.ndarray:
    """Fourier coefficients of a smooth daily cycle, shape (2 HARMONICS + 1,); 0 if it explains too little."""
    there = np.isfinite(column)
    if len(column) < 2 * STEPS_PER_DAY or np.ptp(column[there]) == 0:
        return np.zeros(2 * HARMONICS + 1)
    mean = np.array([np.nanmean(column[slot == k]) if there[slot == k].any() else np.nan for k in range(STEPS_PER_DAY)])
    mean = pd.Series(mean).interpolate(limit_direction="both").to_numpy()
    wave = np.fft.rfft(mean) / STEPS_PER_DAY
    part = np.concatenate([wave[: HARMONICS + 1].real, -wave[1 : HARMONICS + 1].imag])
    part[1:] *= 2
    smooth = 2 * (np.abs(wave[1 : SMOOTH_HARMONICS + 1]) ** 2).sum() / column[there].var()
    return part if smooth > SMOOTH_SHARE else np.zeros_like(part)


def _normal_scores(x: np.ndarray) -> np.ndarray:
    ranks = pd.DataFrame(x).rank().to_numpy()
    return ndtri((ranks - 0.5) / np.maximum(np.isfinite(x).sum(0), 1))


def _memory(scores: np.ndarray) -> np.ndarray:
    """Shares of MEMORY_STEPS, shape (5,), whose autocorrelation comes closest to that of the scores, by least squares."""
    seen = np.array([acf(scores, lag) for lag in MEMORY_LAGS])
    used = np.isfinite(seen)
    if not used.any():
        return np.eye(len(MEMORY_STEPS))[0]
    design = np.exp(-MEMORY_LAGS[used, None] / MEMORY_STEPS)
    shares, _ = nnls(design, np.maximum(seen[used], 0.0))
    return shares / shares.sum() if shares.sum() > 0 else np.eye(len(MEMORY_STEPS))[0]


def _contexts(state: np.ndarray, pair: np.ndarray, counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Adjustment and contexts of a log-linear model of the next state, by iterative scaling.

    Source: Darroch and Ratcliff, Annals of Mathematical Statistics 43 (1972).
    """
    k = len(counts)
    edges = offsets(k)
    known = np.where(state < 0, k, state)
    before = [np.concatenate([np.full(lag, k), known[:-lag]])[: len(state)] for lag in LAGS]
    peak = pd.Series(state).rolling(PEAK_STEPS, min_periods=1).max().shift(2).fillna(k).to_numpy().astype(int)
    now = np.arange(len(state))
    columns = [now % STEPS_PER_HOUR, now % STEPS_PER_DAY, *before, np.where(peak < 0, k, peak)]
    rows = np.stack(columns, axis=1)[pair] + edges[:-1]
    occupation = counts.sum(0) / max(counts.sum(), 1)
    mean = (counts + PRIOR_WEIGHT * occupation) / (counts.sum(1, keepdims=True) + PRIOR_WEIGHT)
    adjustment, tables = np.zeros((k, k)), np.zeros((edges[-1], k))
    seen = np.eye(k)[state[pair]]
    log_weight = np.log(mean + 1e-12)[state[pair - 1]]
    for turn in range(ROUNDS):
        for context in range(rows.shape[1]):
            expected = np.exp(log_weight - log_weight.max(1, keepdims=True))
            expected /= expected.sum(1, keepdims=True)
            start, end = edges[context], edges[context + 1]
            change = _surplus(seen, expected, rows[:, context] - start, int(end - start))
            if context > 1:
                change[-1] = 0.0  # the state then is not known
            tables[start:end] += change
            log_weight += change[rows[:, context] - start]
        expected = np.exp(log_weight - log_weight.max(1, keepdims=True))
        expected /= expected.sum(1, keepdims=True)
        total = np.zeros((k, k))
        np.add.at(total, state[pair - 1], expected)
        wanted = counts
        if turn == 0:  # what the clocks explain is taken out of the chain at once: scaling alone would need many rounds
            tilt = sum(tables[rows[:, context]] for context in (0, 1))[np.arange(len(pair)), state[pair]]
            wanted, total = np.zeros((k, k)), counts
            np.add.at(wanted, (state[pair - 1], state[pair]), np.exp(-np.maximum(tilt, 0.0)))
        change = np.where(counts > 0, np.log((wanted + SMOOTHING) / (total + SMOOTHING)), 0.0)
        adjustment += change
        log_weight += change[state[pair - 1]]
    return adjustment, tables


def _surplus(seen: np.ndarray, expected: np.ndarray, slot: np.ndarray, n_slots: int) -> np.ndarray:
    """Log odds of states seen over expected per slot, shape (n_slots, k), shrunk; 0 where it may be chance."""
    picked = csr_matrix((np.ones(len(slot)), (slot, np.arange(len(slot)))), (n_slots, len(slot)))
    found, mean, variance = picked @ seen, picked @ expected, picked @ (expected * (1 - expected))
    n = np.maximum(found.sum(1, keepdims=True), 1)
    rate = mean / n
    shrunk = (found + CONTEXT_PRIOR * rate) / (n + CONTEXT_PRIOR)
    edge = 0.02  # bounds the odds
    odds = np.log((shrunk + 1e-4) / (1 - shrunk + edge)) - np.log((rate + 1e-4) / (1 - rate + edge))
    return np.where(np.abs(found - mean) > CONTEXT_Z * np.sqrt(np.maximum(variance, 0.05)), odds, 0.0)


def _correlation(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if len(a) > 50 and a.std() > 0 and b.std() > 0 else 0.0


def _moments(x: np.ndarray) -> tuple[float, float, float, float]:
    days = [day[np.isfinite(day)] for day in np.array_split(x, max(2, len(x) // STEPS_PER_DAY))]
    means, squares = np.array([[d.mean(), np.square(d - np.nanmean(x)).mean()] for d in days if len(d)]).T
    sd = float(np.nanstd(x))
    error = 1 / np.sqrt(len(means))
    sd_error = float(squares.std(ddof=1)) * error / (2 * sd) if sd > 0 and len(means) > 1 else 0.0
    return float(np.nanmean(x)), sd, float(means.std(ddof=1)) * error if len(means) > 1 else 0.0, sd_error
