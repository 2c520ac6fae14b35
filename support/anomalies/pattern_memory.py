"""Pattern memory: was a shape like this seen before? A Dirichlet-process mixture over windows, row by row."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Self

import numpy as np
import pandas as pd
from numba import njit

from support.anomalies.calibration import REFRACTORY_ROWS, Debounced, TailCalibrated
from support.anomalies.detectors import ChangePointSurprise, Detector, Streaming, Summed, checked_history, scale_of
from support.anomalies.isolation import IsolationForestDetector
from support.bayes.changepoint import NormalInverseGamma
from support.errors import SchemaError

__all__ = ["PatternMemory", "memory_ensemble", "surprise_and_forest"]

PRIOR = NormalInverseGamma(
    mu=0.0, kappa=0.1, alpha=1.0, beta=0.1
)  # a shape anywhere, its noise a third of the history's
STEPS = (3, 6, 12)  # 15, 30 and 60 minutes a block at 5 minutes a row: windows of 1, 2 and 4 hours
ESCALATION = 1.25  # of a score within the refractory time
LARGE = 1e150  # a product of two numbers below it cannot overflow


class PatternMemory(Streaming):
    """Surprise -log p(window | all windows before) in nats under a Dirichlet-process mixture of Gaussian shapes.

    A window is the means of the last `lags` blocks of `step` rows, on values standardised by the history. Each shape
    has an independent normal-inverse-gamma posterior per block, so its predictive is a product of Student t
    densities; shape k has weight n_k / (n + concentration), a shape never seen concentration / (n + concentration)
    (Chinese restaurant process). Each row joins its most probable shape or founds one: sequential greedy assignment
    (Wang and Dunson 2011). At `capacity` shapes the one with the fewest rows is forgotten for the new one, so a row
    costs O(capacity lags). Windows overlap and their blocks are correlated, so the surprise is a score, not a
    calibrated probability.

    Example:
        >>> wave = np.sin(np.arange(400) * np.pi / 12)
        >>> d = PatternMemory(lags=6, step=2).fit(wave[:200])
        >>> bool(d.score(np.r_[wave[200:300], np.full(10, 0.9)]).argmax() >= 100)
        True
    """

    def __init__(
        self, *, lags: int = 4, step: int = 6, capacity: int = 30, concentration: float = 1.0,
        prior: NormalInverseGamma = PRIOR,
    ) -> None:  # fmt: skip
        if min(lags, step, capacity) < 1 or concentration <= 0:
            raise SchemaError(f"pattern memory: lags {lags}, step {step}, capacity {capacity} must be at least 1.")
        self.lags, self.step, self.capacity, self.concentration, self.prior = lags, step, capacity, concentration, prior

    def fit(self, history: np.ndarray | pd.Series) -> Self:
        """Learn the scale and the shapes of the history. Raises SchemaError, TooShortError."""
        values = checked_history(history)
        self._center, self._scale = scale_of(values)
        self._rows = np.full(self.step, (values[0] - self._center) / self._scale)
        self._blocks = np.full(self.lags * self.step, self._rows[0])
        self._counts, self._log_beta, self._constant = np.zeros((3, self.capacity))
        self._mean, self._beta = np.zeros((2, self.capacity, self.lags))
        self._place = np.zeros(3, dtype=np.int64)  # in the rows, in the blocks; shapes in use
        self.history_scores = self.score(values)
        return self

    def score(self, values: np.ndarray | pd.Series) -> np.ndarray:
        """Surprise of the window that ends at each of the rows that follow. Raises SchemaError if one is not finite."""
        x = (checked_history(values, rows=0) - self._center) / self._scale
        out, p = np.empty(len(x)), self.prior
        _remember(
            x, self._rows, self._blocks, self._counts, self._mean, self._beta, self._log_beta, self._constant,
            self._place, self.step, self.concentration, p.mu, p.kappa, p.alpha, p.beta, out,
        )  # fmt: skip
        return out

    def shapes(self) -> tuple[np.ndarray, np.ndarray]:
        """The shapes in memory: rows that joined each (n_shapes,), descending; means (n_shapes, lags), units of x."""
        used = int(self._place[2])
        order = np.argsort(-self._counts[:used], kind="stable")
        return self._counts[order], self._center + self._scale * self._mean[order]


def surprise_and_forest(seed: int = 0) -> Detector:
    """Change-point surprise plus isolation forest on 30 lags, both tail-calibrated, emitted once in 400 rows.

    Example:
        >>> type(surprise_and_forest()).__name__
        'Debounced'
    """
    return _ensemble([ChangePointSurprise(), IsolationForestDetector(seed=seed)], escalation=1.0)


def memory_ensemble(seed: int = 0, steps: Sequence[int] = STEPS) -> Detector:
    """`surprise_and_forest` with a pattern memory at each of several time scales in the sum; it alerts again at + 25 %.

    steps: rows in a block of each memory.

    Example:
        >>> len(memory_ensemble().detector.detectors)
        5
    """
    memories = [PatternMemory(step=step) for step in steps]
    return _ensemble([*memories, ChangePointSurprise(), IsolationForestDetector(seed=seed)], escalation=ESCALATION)


def _ensemble(parts: Sequence[Detector], escalation: float) -> Debounced:
    return Debounced(Summed([TailCalibrated(part) for part in parts]), rows=REFRACTORY_ROWS, escalation=escalation)


@njit(cache=True)
def _log_t_constant(n, lags, kappa, alpha):  # type: ignore[no-untyped-def]
    """Log normalising constant of `lags` Student t predictives after n rows, without their beta."""
    k, a = kappa + n, alpha + 0.5 * n
    return lags * (math.lgamma(a + 0.5) - math.lgamma(a) + 0.5 * math.log(k / (k + 1.0) / (2.0 * math.pi)))


@njit(cache=True)
def _remember(  # type: ignore[no-untyped-def]
    x, rows, blocks, counts, mean, beta, log_beta, constant, place, step, concentration, mu0, kappa, alpha, beta0, out
):
    """Score each window, then let it join its best shape; all state arrays are changed in place."""
    capacity, lags = mean.shape
    window, log_p = np.empty(lags), np.empty(capacity + 1)
    fresh = _log_t_constant(0.0, lags, kappa, alpha) - 0.5 * lags * math.log(beta0)
    total = counts.sum()
    for t in range(x.size):
        rows[place[0]] = x[t]
        place[0] = (place[0] + 1) % step
        blocks[place[1]] = rows.mean()
        for j in range(lags):
            window[j] = blocks[(place[1] - step * (lags - 1 - j)) % blocks.size]
        place[1] = (place[1] + 1) % blocks.size
        used = place[2]
        best = used
        for k in range(used, -1, -1):  # k == used: a shape never seen
            n = counts[k] if k < used else 0.0
            power, logs, product = alpha + 0.5 * n + 0.5, 0.0, 1.0
            factor = 0.5 * (kappa + n) / (kappa + n + 1.0)
            for j in range(lags):
                d = window[j] - (mean[k, j] if k < used else mu0)
                product *= 1.0 + factor * d * d / (beta[k, j] if k < used else beta0)
                if product > LARGE:
                    logs += math.log(product)
                    product = 1.0
            logs += math.log(product)
            if k < used:
                log_p[k] = math.log(n) + constant[k] - 0.5 * log_beta[k] - power * logs
            else:
                log_p[k] = math.log(concentration) + fresh - power * logs
            if log_p[k] > log_p[best]:
                best = k
        top, mixture = log_p[best], 0.0
        for k in range(used + 1):
            mixture += math.exp(log_p[k] - top)
        out[t] = math.log(total + concentration) - top - math.log(mixture)
        if best == used:
            if used == capacity:  # forget the shape with the fewest rows
                best = int(counts.argmin())
                total -= counts[best]
            else:
                place[2] += 1
            counts[best] = 0.0
            mean[best], beta[best] = mu0, beta0
        k_old = kappa + counts[best]
        log_beta[best] = 0.0
        for j in range(lags):
            d = window[j] - mean[best, j]
            mean[best, j] += d / (k_old + 1.0)
            beta[best, j] += 0.5 * k_old * d * d / (k_old + 1.0)
            log_beta[best] += math.log(beta[best, j])
        counts[best] += 1.0
        total += 1.0
        constant[best] = _log_t_constant(counts[best], lags, kappa, alpha)
