"""A windowed recommender: the percentile of a decaying histogram of demand, plus a margin, as VPA and Autopilot do."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace

import numpy as np

from support.autoscaling.environment import Environment
from support.autoscaling.policies import HAIR
from support.autoscaling.simulate import Observation
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

__all__ = ["DecayingHistogram", "WindowedRecommender"]

FIRST_BUCKET_SERVERS = 0.01  # VPA: the first bucket of its CPU histogram is 0.01 cores wide


@dataclass(frozen=True, eq=False)
class DecayingHistogram:
    """Weights of samples in buckets that grow geometrically; a sample's weight halves every `half_life_ticks`.

    starts: (n_bucket,) where each begins, in the unit of the samples; weights: (n_bucket,), a sample of the newest tick
    has weight 1. Source: kubernetes/autoscaler, vertical-pod-autoscaler/pkg/recommender/util/histogram.go.

    Example:
        >>> seen = DecayingHistogram.of(10.0, growth=0.05, first=0.01, half_life_ticks=4.0).after(np.array([1.0, 2.0]))
        >>> round(seen.percentile(0.3), 2), round(seen.percentile(0.95), 2), round(float(seen.weights.sum()), 3)
        (1.02, 2.09, 1.841)
    """

    starts: np.ndarray
    weights: np.ndarray
    half_life_ticks: float

    @classmethod
    def of(cls, most: float, *, growth: float, first: float, half_life_ticks: float) -> DecayingHistogram:
        """An empty one: bucket k is `first` (1 + growth)^k wide, the last begins at `most` or beyond it."""
        count = math.ceil(math.log1p(most * growth / first) / math.log1p(growth)) + 1
        starts = first * np.expm1(np.arange(count) * math.log1p(growth)) / growth
        return cls(starts, np.zeros(count), half_life_ticks)

    def after(self, samples: np.ndarray) -> DecayingHistogram:
        """The histogram after `samples` (n_new,), one a tick, the newest last."""
        age = np.arange(len(samples) - 1, -1, -1)
        bucket = np.maximum(np.searchsorted(self.starts, samples, side="right") - 1, 0)
        fresh = np.bincount(bucket, np.exp2(-age / self.half_life_ticks), len(self.starts))
        return replace(self, weights=self.weights * 2.0 ** (-len(samples) / self.half_life_ticks) + fresh)

    def percentile(self, level: float) -> float:
        """Upper end of the first bucket up to which `level` of the weight lies; of the last bucket its start."""
        reached = self.weights.cumsum()
        bucket = int(np.searchsorted(reached, level * reached[-1] * (1 - HAIR)))
        return float(self.starts[min(bucket + 1, len(self.starts) - 1)])


@dataclass(frozen=True)
class _Memory:
    capacity: float
    seen: DecayingHistogram
    n_known: int = 0
    is_empty: bool = True


@dataclass(frozen=True, eq=False)
class WindowedRecommender:
    """Servers for the `percentile` of recent demand, plus `margin_frac`; recent means weights halving every half-life.

    Samples are the demand of each tick in servers, not the usage: a fleet that is full must not pass for sufficient.
    bucket_growth: relative width of the histogram's buckets, fraction; the answer is the upper end of one. past:
    (n_past,) requests per tick before the run, to begin with. Source: Vertical Pod Autoscaler (5 %, 24 h, 15 %) and
    Rzadca et al. (2020), whose recommenders size one container where this one sizes the fleet.
    """

    percentile: float = 0.95
    half_life_hours: float = 24.0
    margin_frac: float = 0.15
    bucket_growth: float = 0.05
    past: np.ndarray = field(default_factory=lambda: np.empty(0))
    name: str = "windowed recommender"

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> _Memory:
        """The histogram of `past`; refuses a percentile outside (0, 1] and widths that are not positive."""
        if not (0 < self.percentile <= 1 and min(self.half_life_hours, self.bucket_growth) > 0 <= self.margin_frac):
            raise SchemaError(
                f"{self.name}: percentile {self.percentile} must lie in (0, 1], half_life_hours {self.half_life_hours} "
                f"and bucket_growth {self.bucket_growth} be positive, margin_frac {self.margin_frac} not negative."
            )
        empty = DecayingHistogram.of(
            max(environment.max_servers, 1), growth=self.bucket_growth, first=FIRST_BUCKET_SERVERS,
            half_life_ticks=self.half_life_hours * 3600 / environment.tick_seconds,
        )  # fmt: skip
        capacity, past = environment.capacity_per_tick, np.asarray(self.past, dtype=np.float64)
        return _Memory(capacity, empty.after(past / capacity), is_empty=not len(past))

    def act(self, state: _Memory, seen: Observation) -> tuple[_Memory, int, str]:
        """The recommendation after the ticks that have become known."""
        fresh = seen.arrivals[state.n_known :]
        if len(fresh):
            known = state.seen.after(fresh / state.capacity)
            state = _Memory(state.capacity, known, len(seen.arrivals), is_empty=False)
        if state.is_empty:
            return state, seen.active + seen.booting, "no data yet"
        level = state.seen.percentile(self.percentile)
        wanted = math.ceil(level * (1 + self.margin_frac) - HAIR)
        return state, wanted, f"{100 * self.percentile:.0f} % of recent demand is below {level:.2f} servers"
