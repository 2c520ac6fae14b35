"""The field's right-sizing rules on the same traces: each states statistic, headroom, window and floors.

Sources: the tools' documentation: AWS Compute Optimizer, Kubecost requestSizingV2, Kubernetes
VPA recommender, Robusta KRR, OCI Cloud Advisor; Rzadca et al. (2020), EuroSys, for the moving-window rule of Autopilot.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from support.errors import BookError
from support.risk.usage import Usage

__all__ = ["RULES", "Rule", "decayed_percentile", "kubecost_request", "rules_table", "vpa_bounds"]

MCPU, MIB, MB_IN_GIB = 1e-3, 1 / 1024, 1e6 / 2**30  # of a core; of a GiB
HISTOGRAM_RATIO = 1.05  # of neighbouring buckets of the VPA's histograms
FIRST_BUCKET = {"cpu": 0.01, "memory": 1e7 / 2**30}  # cores, GiB: VPA's defaults
VPA_HALF_LIFE_HOURS, VPA_MARGIN = 24.0, 0.15
VPA_LEVELS = (0.5, 0.9, 0.95)  # lower bound, target, upper bound
AUTOPILOT_HALF_LIFE_HOURS, AUTOPILOT_MARGIN = 12.0, 0.15  # of CPU; 10 to 15 % in the paper
OCI_IDLE, OCI_PROJECTED = 0.10, 0.20  # mean use that is flagged; mean use after the change

Statistic = Callable[[np.ndarray, np.ndarray, float, str], np.ndarray]
Part = tuple[
    str, Statistic, float
]  # in words, as a function of (demand, capacity, step_hours, dimension), times headroom


def decayed_percentile(
    demand: np.ndarray, level: float, *, step_hours: float, half_life_hours: float, first_bucket: float
) -> np.ndarray:
    """`level` percentile (n,) of a histogram of `demand` (n, n_time) whose weights halve every `half_life_hours`.

    As the VPA: buckets grow by 5 %, and the upper end of the bucket that reaches the level is returned. NaN is no sample;
    a row without samples gives NaN.

    Example:
        >>> decayed_percentile(np.array([[0.005, 0.005]]), 0.9, step_hours=1, half_life_hours=24, first_bucket=0.01).tolist()
        [0.01]
    """
    ago = step_hours * np.arange(demand.shape[1])[::-1]
    weight = np.where(np.isfinite(demand), 0.5 ** (ago / half_life_hours), 0.0)
    ratio = HISTOGRAM_RATIO
    bucket = np.floor(np.log1p(np.nan_to_num(demand) * (ratio - 1) / first_bucket) / np.log(ratio) + 1e-9).astype(int)
    ends = first_bucket * (ratio ** (np.arange(bucket.max(initial=0) + 1) + 1) - 1) / (ratio - 1)
    found = np.full(len(demand), np.nan)
    for row in np.flatnonzero(weight.sum(axis=1) > 0):
        held = np.bincount(bucket[row], weights=weight[row], minlength=len(ends)).cumsum()
        found[row] = ends[min(np.searchsorted(held, level * held[-1] * (1 - 1e-12)), len(ends) - 1)]
    return found


def _quantile(level: float) -> Statistic:
    def statistic(demand: np.ndarray, capacity: np.ndarray, step_hours: float, dimension: str) -> np.ndarray:
        seen = np.isfinite(demand).any(axis=1)
        found = np.full(len(demand), np.nan)
        found[seen] = np.nanquantile(demand[seen], level, axis=1)
        return found

    return statistic


def _daily_peaks(demand: np.ndarray, step_hours: float) -> np.ndarray:
    """Highest value of each of the last whole days, (n, n_day), NaN for a day without values."""
    per_day = max(1, round(24 / step_hours))
    n_day = max(1, demand.shape[1] // per_day)
    blocks = demand[:, -n_day * per_day :].reshape(len(demand), n_day, -1)
    return np.where(np.isfinite(blocks).any(axis=2), np.nan_to_num(blocks, nan=-np.inf).max(axis=2), np.nan)


def _vpa(level: float) -> Statistic:
    def statistic(demand: np.ndarray, capacity: np.ndarray, step_hours: float, dimension: str) -> np.ndarray:
        samples, step = (demand, step_hours) if dimension == "cpu" else (_daily_peaks(demand, step_hours), 24.0)
        return decayed_percentile(
            samples, level, step_hours=step, half_life_hours=VPA_HALF_LIFE_HOURS, first_bucket=FIRST_BUCKET[dimension]
        )

    return statistic


def _autopilot(demand: np.ndarray, capacity: np.ndarray, step_hours: float, dimension: str) -> np.ndarray:
    if dimension != "cpu":
        return _quantile(1.0)(demand, capacity, step_hours, dimension)
    return decayed_percentile(
        demand, 0.95, step_hours=step_hours, half_life_hours=AUTOPILOT_HALF_LIFE_HOURS, first_bucket=FIRST_BUCKET["cpu"]
    )


def _oci(demand: np.ndarray, capacity: np.ndarray, step_hours: float, dimension: str) -> np.ndarray:
    mean = np.nanmean(np.where(np.isfinite(demand).any(axis=1)[:, None], demand, 0.0), axis=1)
    return np.where(mean < OCI_IDLE * capacity, mean, OCI_PROJECTED * capacity)  # times 1 / 0.2: what it has now


@dataclass(frozen=True)
class Rule:
    """A right-sizing rule: required = statistic x headroom, at least the floor.

    cpu, memory: (statistic in words, function, factor of headroom). window_days: newest days that count, None: all.
    floors: smallest request by dimension (cores, GiB). source: where its numbers come from.
    """

    name: str
    cpu: Part
    memory: Part
    window_days: float | None
    floors: Mapping[str, float] = field(default_factory=dict)
    source: str = ""

    def required(self, usage: Usage) -> dict[str, np.ndarray]:
        """What each resource needs by this rule: dimension -> (n_resource,), NaN where it was not measured."""
        steps = None if self.window_days is None else round(self.window_days * usage.steps_per_day)
        found = {}
        for dimension in ("cpu", "memory"):
            if dimension in usage.demand:
                _, statistic, factor = getattr(self, dimension)
                newest = usage.demand[dimension] if steps is None else usage.demand[dimension][:, -steps:]
                value = statistic(newest, usage.capacity[dimension], usage.step_hours, dimension)
                found[dimension] = np.maximum(value * factor, self.floors.get(dimension, 0.0))
        return found


def _both(words: str, statistic: Statistic, factor: float) -> tuple[Part, Part]:
    return (words, statistic, factor), (words, statistic, factor)


_MAX, _TARGET = _quantile(1.0), 1 / 0.7
RULES: tuple[Rule, ...] = (
    Rule("P95/0.7", *_both("P95", _quantile(0.95), _TARGET), window_days=None, source="rule of thumb"),
    Rule("max/0.7", *_both("maximum", _MAX, _TARGET), window_days=None, source="rule of thumb"),
    Rule("Compute Optimizer", ("P99.5", _quantile(0.995), 1.2), ("maximum", _MAX, 1.2), 14, source="AWS, default preferences"),
    Rule("Kubecost", *_both("maximum", _MAX, _TARGET), window_days=2, floors={"cpu": 10 * MCPU, "memory": 20 * MIB},
         source="requestSizingV2; 2 days or more"),
    Rule("VPA", ("P90, weights halve in 24 h", _vpa(0.9), 1 + VPA_MARGIN),
         ("P90 of daily peaks, halving in 24 h", _vpa(0.9), 1 + VPA_MARGIN), 8,
         {"cpu": 25 * MCPU, "memory": 250 * MB_IN_GIB}, "Kubernetes VPA recommender"),
    Rule("KRR", ("P95", _quantile(0.95), 1.0), ("maximum", _MAX, 1.15), 14, {"cpu": 10 * MCPU, "memory": 100 * MIB},
         "Robusta KRR, simple strategy"),
    Rule("Autopilot-like", ("P95, weights halve in 12 h", _autopilot, 1 + AUTOPILOT_MARGIN),
         ("maximum", _autopilot, 1 + AUTOPILOT_MARGIN), 14, source="Rzadca et al. (2020), moving window"),
    Rule("OCI", *_both("mean, if below 10 %", _oci, 1 / OCI_PROJECTED), window_days=7, source="OCI Cloud Advisor"),
)  # fmt: skip


def rules_table() -> pd.DataFrame:
    """The rules in words: statistic and headroom of CPU and memory, window in days, floors, source."""
    rows = {
        r.name: {
            "CPU": f"{r.cpu[0]} x {r.cpu[2]:.3g}",
            "memory": f"{r.memory[0]} x {r.memory[2]:.3g}",
            "window (days)": "all" if r.window_days is None else f"{r.window_days:g}",
            "floors": ", ".join(f"{v:.2g} {'cores' if k == 'cpu' else 'GiB'}" for k, v in r.floors.items()) or "none",
            "source": r.source,
        }
        for r in RULES
    }
    return pd.DataFrame.from_dict(rows, orient="index").rename_axis("rule")


def vpa_bounds(usage: Usage) -> tuple[np.ndarray, np.ndarray]:
    """Lower and upper bound (n_resource,) of CPU in cores, P50 and P95 with the margin: inside, the VPA leaves a pod alone."""
    demand = usage.demand["cpu"][:, -8 * usage.steps_per_day :]
    low, high = (
        _vpa(level)(demand, usage.capacity["cpu"], usage.step_hours, "cpu") for level in (VPA_LEVELS[0], VPA_LEVELS[2])
    )
    return (1 + VPA_MARGIN) * low, (1 + VPA_MARGIN) * high


def kubecost_request(
    demand: np.ndarray, *, target_utilization: float = 0.7, level: float = 1.0, floor: float = 0.0
) -> float:
    """One request for all replicas of a container spec: the `level` quantile of their pooled usage over the target.

    demand: (n_replica, n_time) in any unit of capacity; the request has the same. Source: Kubecost requestSizingV2, with
    its defaults (maximum, 0.7). Raises BookError for a target outside (0, 1].

    Example:
        >>> kubecost_request(np.array([[100.0]]), target_utilization=0.8)
        125.0
    """
    if not 0 < target_utilization <= 1:
        raise BookError(f"target_utilization: {target_utilization} is outside (0, 1]. Give a share such as 0.7.")
    return max(float(np.nanquantile(demand, level)) / target_utilization, floor)
