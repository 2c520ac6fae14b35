"""Bayesian online change-point detection: predictive surprise, run-length posterior, evidence, best segments."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit
from scipy.special import gammaln

from support.errors import SchemaError

__all__ = ["BayesianChangePoint", "NormalInverseGamma"]

CAPACITY = 200  # hypotheses kept; a step costs O(CAPACITY)
PRUNE_BELOW = 1e-9  # posterior probability below which a hypothesis is dropped
TABLE_ROWS = 8192  # run lengths whose Student-t constants are tabulated; longer ones are computed
CHUNK_ROWS = 4096  # rows of a batch between two sweeps of the unreachable segment starts


@dataclass(frozen=True)
class NormalInverseGamma:
    """Prior of a segment: variance ~ InverseGamma(alpha, beta), mean ~ Normal(mu, variance / kappa), in units of x.

    Raises SchemaError unless kappa, alpha and beta are positive. Source: Murphy (2007), conjugate analysis of the
    Gaussian.

    Example:
        >>> NormalInverseGamma(mu=0.0, kappa=1.0, alpha=1.0, beta=1.0).alpha
        1.0
    """

    mu: float = 0.0
    kappa: float = 1.0
    alpha: float = 1.0
    beta: float = 1.0

    def __post_init__(self) -> None:
        if not (np.isfinite(self.mu) and min(self.kappa, self.alpha, self.beta) > 0):
            raise SchemaError(f"{self}: kappa, alpha and beta must be positive and mu finite.")


class BayesianChangePoint:
    """The law of the time since the last change of mean and variance, row by row (Adams and MacKay 2007).

    hazard: probability of a boundary after a row, constant, in (0, 1). prior: of each segment. The run length is the
    number of rows since the last boundary; 0 means a boundary right after the last row and always has probability
    `hazard`, so it is no alarm: the surprise is. capacity: hypotheses kept. prune: probability below which one is
    dropped. Truncation: after each row hypotheses below `prune` go, then the least probable ones until `capacity`
    remain, and the rest is scaled up again; `dropped_mass` sums what went. With prune=0 and capacity above the number
    of rows all is exact. A step takes O(kept) time; memory is O(kept + segments). Raises SchemaError for bad settings
    and values that are not finite.

    Example:
        >>> model = BayesianChangePoint(hazard=1 / 50)
        >>> surprise = model.surprises(np.r_[np.zeros(30), np.full(30, 9.0)])
        >>> int(surprise.argmax()), model.map_segments().tolist()
        (30, [0, 30])
    """

    def __init__(
        self, hazard: float = 1 / 250, prior: NormalInverseGamma | None = None, *, capacity: int = CAPACITY,
        prune: float = PRUNE_BELOW,
    ) -> None:  # fmt: skip
        if not 0 < hazard < 1 or capacity < 2 or not 0 <= prune < 1 / capacity:
            raise SchemaError(
                f"change points: hazard {hazard} must be in (0, 1), capacity {capacity} at least 2, "
                f"prune {prune} in [0, 1/capacity)."
            )
        self.hazard, self.prior, self.prune = hazard, prior or NormalInverseGamma(), prune
        rows = np.arange(TABLE_ROWS)
        kappa, alpha = self.prior.kappa + rows, self.prior.alpha + rows / 2
        self._table = gammaln(alpha + 0.5) - gammaln(alpha) + 0.5 * np.log(kappa / (kappa + 1) / (2 * np.pi))
        # columns: weight, mean, beta, log beta, log joint of the best segmentation; one spare row for the newborn
        self._state = np.zeros((capacity + 1, 5))
        self._state[0] = 1.0, self.prior.mu, self.prior.beta, math.log(self.prior.beta), 0.0
        self._start = np.zeros(capacity + 1, dtype=np.int64)
        self._kept, self._swept = 1, 0
        self._parents: dict[int, int] = {}  # start of a segment -> start of the one before it, best of all
        self.rows, self.log_evidence, self.dropped_mass = 0, 0.0, 0.0

    def update(self, x: float) -> float:
        """Surprise -log p(x | all rows before) in nats, after which x belongs to the past."""
        return float(self.surprises(np.array([x]))[0])

    def surprises(self, x: np.ndarray) -> np.ndarray:
        """The same for many rows (n,), one after another, with identical numbers. Raises SchemaError."""
        x = np.ascontiguousarray(x, dtype=float)
        if x.ndim != 1 or not np.isfinite(x).all():
            raise SchemaError("change points: values must be one-dimensional and finite; fill or drop gaps first.")
        out = np.empty(len(x))
        p = self.prior
        for low in range(0, len(x), CHUNK_ROWS):
            part = x[low : low + CHUNK_ROWS]
            parent = np.empty(len(part), dtype=np.int64)
            self._kept, dropped = _advance(
                part, self.rows, self._state, self._start, self._kept, self._table,
                self.hazard, self.prune, p.mu, p.kappa, p.alpha, p.beta, out[low : low + CHUNK_ROWS], parent,
            )  # fmt: skip
            self._parents.update(enumerate(parent.tolist(), self.rows + 1))
            self.rows += len(part)
            self.dropped_mass += dropped
            if self.rows - self._swept >= CHUNK_ROWS:
                self._sweep()
        self.log_evidence -= float(out.sum())
        return out

    def run_length_posterior(self) -> tuple[np.ndarray, np.ndarray]:
        """Run lengths in rows, ascending, and their probabilities; those not listed were dropped."""
        order = np.argsort(-self._start[: self._kept])
        return (self.rows - self._start[: self._kept])[order], self._state[: self._kept, 0][order].copy()

    def map_segments(self) -> np.ndarray:
        """First rows of the segments of the most probable segmentation of all rows so far, by backtracking.

        Exact without truncation; with it, the best among the segmentations whose last boundary was kept at each step.
        """
        live = self._start[: self._kept] < max(self.rows, 1)
        return np.array(self._path(int(self._start[: self._kept][live][self._state[: self._kept, 4][live].argmax()])))

    def _path(self, start: int) -> list[int]:
        path = [start]
        while path[-1] > 0:
            path.append(self._parents[path[-1]])
        return path[::-1]

    def _sweep(self) -> None:
        """Forget the segment starts that no kept hypothesis can reach, so that memory does not grow with the rows."""
        reachable: set[int] = set()
        for start in self._start[: self._kept].tolist():
            while start > 0 and start not in reachable:
                reachable.add(start)
                start = self._parents[start]
        self._parents = {start: self._parents[start] for start in reachable}
        self._swept = self.rows


@njit(cache=True)
def _advance(  # type: ignore[no-untyped-def]
    x, rows, state, start, kept, table, hazard, prune, mu, kappa, alpha, beta, surprise, parent
):
    """Run the recursion over x in place; fill `surprise` and `parent`; return the number kept and the dropped mass."""
    log_new, log_old, dropped = math.log(hazard), math.log1p(-hazard), 0.0
    log_p = np.empty(state.shape[0])
    for t in range(x.size):
        top = -np.inf
        for i in range(kept):
            n = rows + t - start[i]
            k, a = kappa + n, alpha + 0.5 * n
            d = x[t] - state[i, 1]
            ratio = k * d * d / (2.0 * state[i, 2] * (k + 1.0))
            growth = math.log(1.0 + ratio)  # faster than log1p, absolute error 1e-16
            if n < table.size:
                constant = table[n]
            else:
                constant = math.lgamma(a + 0.5) - math.lgamma(a) + 0.5 * math.log(k / (k + 1.0) / (2.0 * math.pi))
            log_p[i] = constant - 0.5 * state[i, 3] - (a + 0.5) * growth  # Student t, 2a degrees of freedom
            state[i, 1] += d / (k + 1.0)
            state[i, 2] *= 1.0 + ratio
            state[i, 3] += growth
            state[i, 4] += log_p[i]
            top = max(top, log_p[i])
        total, best = 0.0, 0
        for i in range(kept):
            state[i, 0] *= math.exp(log_p[i] - top)
            total += state[i, 0]
            if state[i, 4] > state[best, 4]:
                best = i
        surprise[t] = -(math.log(total) + top)
        parent[t], best_joint = start[best], state[best, 4]
        lost, last = 0.0, 0
        for i in range(kept):  # the mass that survives, without the hypotheses below the limit
            share = (1.0 - hazard) * state[i, 0] / total
            if share < prune:
                lost += share
                continue
            state[last] = state[i]
            start[last] = start[i]
            state[last, 0] = share
            state[last, 4] += log_old
            last += 1
        kept = last
        if kept == state.shape[0] - 1:  # no room for the newborn: the least probable goes
            least = 0
            for i in range(kept):
                if state[i, 0] < state[least, 0]:
                    least = i
            lost += state[least, 0]
            for i in range(least, kept - 1):
                state[i] = state[i + 1]
                start[i] = start[i + 1]
            kept -= 1
        if lost > 0.0:
            scale = (1.0 - hazard) / (1.0 - hazard - lost)
            for i in range(kept):
                state[i, 0] *= scale
            dropped += lost
        state[kept, 0], state[kept, 1], state[kept, 2] = hazard, mu, beta
        state[kept, 3], state[kept, 4] = math.log(beta), best_joint + log_new
        start[kept] = rows + t + 1
        kept += 1
    return kept, dropped
