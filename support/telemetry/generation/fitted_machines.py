"""One machine as a Markov chain over states of its metrics: its parameters, machines like it, and its simulation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import ndtr

from support.telemetry.generation.processes import ar1
from support.telemetry.judging.features import STEPS_PER_DAY
from support.telemetry.schema import METRICS

__all__ = ["MachineModel", "daily_cycle", "offsets", "redraw", "simulate_machine"]

PROBABILITIES = np.array([0.01, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99])  # knots of a state's quantile function
ENDS = np.array([0.0, *PROBABILITIES, 1.0])
LOST_SAMPLE = 14 / 15  # an interval that lost one of its 15 samples is on this wider grid
PRIOR_WEIGHT = 0.5  # of the machine's mean occupation, in observations, in each row of transitions
LAGS = (2, 3, 6, 12, 36, STEPS_PER_DAY)  # steps: states so long ago are contexts
PEAK_STEPS = 144  # the highest state of the last 12 h is one, too
STEPS_PER_HOUR = 12
MEMORY_STEPS = np.array([0.1, 3.0, 12.0, 72.0, 576.0])  # e-folding times: next to none, 15 min, 1 h, 6 h, 2 days
HARMONICS = 24  # of a smooth daily cycle: down to an hour


@dataclass(frozen=True)
class MachineModel:
    """Parameters of one machine, a Markov chain over k states that are told apart by value, value before and slow level.

    profile: Fourier coefficients of a smooth daily cycle that is added, shape (n_metric, 49): mean, cosines, sines; 0 for most
    metrics. A metric that has one does not depend on the state. knots: quantiles of each metric in each state at PROBABILITIES, shape (n_metric, k, 7). counts: transitions seen, shape
    (k, k); the posterior of a row is Dirichlet(counts + PRIOR_WEIGHT x occupation). adjustment: log factors of the
    transitions once the contexts are known, shape (k, k). contexts: log odds by which a state is entered more often in a
    context, shape (12 + 288 + 7 (k + 1), k), mostly 0: time of the hour, time of the day, the states LAGS ago, the highest
    state of the last 12 h (states are numbered by the level of the first metric; k: not known). memory: shares of the
    e-folding times MEMORY_STEPS in the normal scores within states, shape (n_metric, 5); correlation: of these scores
    between metrics, shape (n_metric, n_metric). quantum: step of the recorder's grid (0:
    none) and on_grid: share of values on it, shapes (n_metric,). moments: mean, sd, and the standard error of each by
    batch means over days, shape (n_metric, 4).
    """

    profile: np.ndarray
    knots: np.ndarray
    counts: np.ndarray
    adjustment: np.ndarray
    contexts: np.ndarray
    memory: np.ndarray
    correlation: np.ndarray
    quantum: np.ndarray
    on_grid: np.ndarray
    moments: np.ndarray

    @property
    def chain(self) -> np.ndarray:
        """Transitions without any context: posterior mean times adjustment, shape (k, k), not normalised."""
        return (
            (self.counts + PRIOR_WEIGHT * self.occupation)
            / (self.counts.sum(1, keepdims=True) + PRIOR_WEIGHT)
            * np.exp(self.adjustment)
        )

    @property
    def occupation(self) -> np.ndarray:
        """Share of time in each state, shape (k,)."""
        return (self.counts.sum(0) + 1e-9) / (self.counts.sum() + 1e-9 * len(self.counts))


def daily_cycle(coefficients: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """The cycle with these Fourier coefficients (mean, cosines, sines) at `slots` (0 to 287), shape (n_time,).

    Example:
        >>> daily_cycle(np.array([5.0, 2.0, 0.0]), np.array([0, 72, 144])).round(6).tolist()
        [7.0, 5.0, 3.0]
    """
    number = len(coefficients) // 2
    angle = 2 * np.pi / STEPS_PER_DAY * np.outer(np.arange(STEPS_PER_DAY), np.arange(1, number + 1))
    waves = np.cos(angle) @ coefficients[1 : number + 1] + np.sin(angle) @ coefficients[number + 1 :]
    return (coefficients[0] + waves)[slots]


def offsets(k: int) -> np.ndarray:
    """First rows of the contexts in `MachineModel.contexts`, and their end; k: number of states."""
    return np.cumsum([0, STEPS_PER_HOUR, STEPS_PER_DAY, *[k + 1] * (len(LAGS) + 1)])


def redraw(machine: MachineModel, metrics: Sequence[str], level_sd: float, *, rng: np.random.Generator) -> MachineModel:
    """A machine like `machine`: transitions drawn from their posterior, quantiles from their errors, the level moved.

    level_sd: ln units (of the odds of the highest value, for percentages).
    """
    prior = np.maximum(machine.counts + PRIOR_WEIGHT * machine.occupation, 1e-3)
    chain = np.stack([rng.dirichlet(row) for row in prior])
    spread = (machine.knots[..., 4] - machine.knots[..., 2]) / 1.35  # sd of a normal with these quartiles
    error = 1.25 * spread / np.sqrt(np.maximum(machine.counts.sum(0), 1))  # of its median
    knots = machine.knots + (error * rng.standard_normal(error.shape))[..., None]
    profile = machine.profile.copy()
    for j, metric in enumerate(metrics):
        low, high = METRICS[metric][1:3]
        factor = np.exp(level_sd * rng.standard_normal())
        if machine.profile[j].any():  # deviations from the cycle have no bounds of their own
            knots[j] *= factor
            profile[j] *= factor
            continue
        kept = np.clip(knots[j], low, high)
        moved = kept * factor if np.isinf(high) else high * factor * kept / (high + (factor - 1) * kept)
        knots[j] = np.minimum(moved, high)
    return replace(machine, profile=profile, knots=knots, counts=chain * prior.sum(1, keepdims=True))


def simulate_machine(machine: MachineModel, slots: np.ndarray, *, rng: np.random.Generator) -> np.ndarray:
    """Values of one machine, shape (n_time, n_metric); slots: interval of the day, 0 to 287, shape (n_time,)."""
    k = len(machine.counts)
    edges, chain, reach = offsets(k), machine.chain, max(*LAGS, PEAK_STEPS + 1)
    clock = machine.contexts[slots % STEPS_PER_HOUR] + machine.contexts[edges[1] + slots]
    clock -= clock.max(1, keepdims=True)
    base = edges[2:-1]
    back = np.array([*LAGS])
    state = np.full(len(slots) + reach, k)
    state[reach - 1] = min(int(np.cumsum(machine.occupation).searchsorted(rng.random())), k - 1)
    uniform = rng.random(len(slots))
    rows = np.empty(len(base), dtype=int)
    for t in range(len(slots)):
        now = t + reach
        rows[:-1] = state[now - back]
        peak = state[now - 1 - PEAK_STEPS : now - 1]
        rows[-1] = k if t < PEAK_STEPS else peak.max()
        weight = np.cumsum(chain[state[now - 1]] * np.exp(clock[t] + machine.contexts[rows + base].sum(0)))
        state[now] = min(int(weight.searchsorted(uniform[t] * weight[-1])), k - 1)
    state = state[reach:]
    return _emit(machine, state, slots, rng)


def _emit(machine: MachineModel, state: np.ndarray, slots: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Values of a path of states: normal scores with memory and correlation, through each state's quantiles, on the grid."""
    n_time, n_metric = len(state), len(machine.memory)
    eigenvalue, vector = np.linalg.eigh(machine.correlation)
    mix = (vector * np.sqrt(np.maximum(eigenvalue, 0))).T
    noises = [ar1((n_metric, n_time), steps, 1.0, rng=rng).T @ mix for steps in MEMORY_STEPS]
    values = np.empty((n_time, n_metric))
    for j in range(n_metric):
        probability = ndtr(
            sum(np.sqrt(share) * noise[:, j] for share, noise in zip(machine.memory[j], noises, strict=True))
        )
        knots = machine.knots[j]
        slope = (knots[:, [1, -1]] - knots[:, [0, -2]]) / (
            PROBABILITIES[1] - PROBABILITIES[0]
        )  # beyond the outer knots
        ends = np.column_stack(
            [knots[:, 0] - slope[:, 0] * PROBABILITIES[0], knots, knots[:, -1] + slope[:, 1] * PROBABILITIES[0]]
        )
        if machine.profile[j].any():
            values[:, j] = np.interp(probability, ENDS, ends[0]) + daily_cycle(machine.profile[j], slots)
        else:
            for s in np.unique(state):
                here = state == s
                values[here, j] = np.interp(probability[here], ENDS, ends[s])
        if quantum := machine.quantum[j]:
            grid = np.where(rng.random(n_time) < machine.on_grid[j], quantum, quantum / LOST_SAMPLE)
            values[:, j] = np.round(values[:, j] / grid) * grid
    return values
