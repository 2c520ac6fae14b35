"""How long a policy takes to answer: a wrapper that decides exactly as the policy does, and keeps the time."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from support.autoscaling.environment import Environment
from support.autoscaling.simulate import Observation, Policy
from support.errors import SchemaError
from support.forecasting import RollingQuantiles

__all__ = ["Timed"]


@dataclass(frozen=True)
class Timed:
    """`policy`, with the seconds of each of its answers in `spent` and of its preparations in `prepared`.

    A policy on a forecast may work out much of its answers before the first tick: `prepare` does it for all rows of a
    trace at once, where a service would do it row by row. So the time of the preparations belongs beside that of the
    answers. Times are of the wall clock, and other work on the machine is in them.

    Example:
        >>> from support.autoscaling.policies import Static
        >>> timed = Timed(Static(3))
        >>> timed.name, timed.act(None, None)[1], len(timed.spent)
        ('static', 3, 1)
    """

    policy: Policy
    spent: list[float] = field(default_factory=list)
    prepared: list[float] = field(default_factory=list)

    @property
    def name(self) -> str:
        """That of the policy."""
        return self.policy.name

    def prepare(self, environment: Environment, forecast: RollingQuantiles | None) -> Any:
        """What the policy prepares."""
        began = time.perf_counter()
        state = self.policy.prepare(environment, forecast)
        self.prepared.append(time.perf_counter() - began)
        return state

    def act(self, state: Any, seen: Observation) -> tuple[Any, int, str]:
        """What the policy answers."""
        began = time.perf_counter()
        answer = self.policy.act(state, seen)
        self.spent.append(time.perf_counter() - began)
        return answer

    def microseconds(self) -> dict[str, float]:
        """p50 and p99 of the answers, and prepare: the preparations shared out over them. Raises SchemaError without one.

        Example:
            >>> Timed(None, [1e-6, 3e-6], [4e-6]).microseconds()
            {'p50': 2.0, 'p99': 2.98, 'prepare': 2.0}
        """
        if not self.spent:
            raise SchemaError("timed: the policy has not answered yet, so there is no time to tell.")
        p50, p99 = (round(1e6 * float(q), 3) for q in np.quantile(self.spent, [0.5, 0.99]))
        return {"p50": p50, "p99": p99, "prepare": round(1e6 * sum(self.prepared) / len(self.spent), 3)}
