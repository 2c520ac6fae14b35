"""The servers of one service: those that serve, the orders that boot, those that drain. Whole numbers only."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import numpy as np

from support.autoscaling.environment import Environment
from support.errors import SchemaError

__all__ = ["BootDraws", "Fleet", "Order"]


@dataclass(slots=True)
class Order:
    """Servers ordered at tick `placed`: `good` ones serve from tick `due`, `bad` ones never do; nobody knows which."""

    placed: int
    due: int
    good: int
    bad: int = 0


@dataclass(frozen=True)
class BootDraws:
    """Luck drawn beforehand, the same for every policy: common random numbers make paired comparisons sharp.

    delays: (n_time,) ticks, of an order placed at that tick. failures: (n_time, most + 1), how many of the first k
    servers ordered at that tick never arrive.
    """

    delays: np.ndarray
    failures: np.ndarray

    @classmethod
    def draw(cls, environment: Environment, n_time: int, *, rng: np.random.Generator) -> BootDraws:
        """Delays and failures for `n_time` ticks of `environment`.

        Example:
            >>> world = Environment(tick_seconds=60, service_rate_rps=1, boot_delay_ticks=3, max_servers=2)
            >>> BootDraws.draw(world, 2, rng=np.random.default_rng(0)).delays.tolist()
            [3, 3]
        """
        delays = np.full(n_time, environment.boot_delay_ticks)
        if environment.boot_delay_sigma:
            delays = np.array([drawn_delay(environment, rng) for _ in range(n_time)])
        failures = np.zeros((n_time, environment.max_servers + 1), dtype=np.int32)
        if environment.boot_failure_prob:
            failed = rng.random((n_time, environment.max_servers)) < environment.boot_failure_prob
            np.cumsum(failed, axis=1, out=failures[:, 1:])
        return cls(delays, failures)

    def require(self, n_time: int, max_servers: int) -> None:
        """Raise SchemaError if they were drawn for fewer ticks or servers than a run has."""
        if len(self.delays) < n_time or self.failures.shape[1] <= max_servers:
            raise SchemaError(
                f"boots are drawn for {len(self.delays)} ticks and {self.failures.shape[1] - 1} servers, fewer ticks or "
                f"servers than the run's {n_time} and {max_servers}."
            )

    def order(self, tick: int, count: int) -> tuple[int, int]:
        """(delay in ticks, servers that never arrive) of an order of `count` servers at `tick`."""
        return int(self.delays[tick]), int(self.failures[tick, count])


@dataclass(frozen=True)
class DrawnNow:
    """The same luck, drawn when an order is placed."""

    environment: Environment
    rng: np.random.Generator | None

    def order(self, tick: int, count: int) -> tuple[int, int]:
        """(delay in ticks, servers that never arrive) of an order of `count` servers."""
        if self.rng is None:
            return self.environment.boot_delay_ticks, 0
        delay = drawn_delay(self.environment, self.rng)
        failure = self.environment.boot_failure_prob
        return delay, int(self.rng.binomial(count, failure)) if failure else 0


def drawn_delay(environment: Environment, rng: np.random.Generator) -> int:
    """Boot delay of one order in ticks: fixed, or lognormal with mean `boot_delay_ticks`, rounded up."""
    sigma = environment.boot_delay_sigma
    if not sigma:
        return environment.boot_delay_ticks
    return math.ceil(environment.boot_delay_ticks * rng.lognormal(-0.5 * sigma**2, sigma))


@dataclass(slots=True)
class Fleet:
    """State of the fleet. `paid[r]`: active servers whose billing blocks begin at ticks t with t mod block = r.

    orders: the oldest first. leaving: [tick of the end, r, servers], stopped but billed until then.
    """

    environment: Environment
    paid: list[int]
    orders: list[Order] = field(default_factory=list)
    leaving: list[list[int]] = field(default_factory=list)

    @classmethod
    def of(cls, servers: int, environment: Environment) -> Fleet:
        """A fleet of `servers` active servers, all ordered at tick 0."""
        return cls(environment, [servers] + [0] * (environment.billing_block_ticks - 1))

    @property
    def active(self) -> int:
        """Servers that serve."""
        return sum(self.paid) if len(self.paid) > 1 else self.paid[0]

    @property
    def booting(self) -> int:
        """Servers ordered and not yet there; those that will never come are among them until they are given up."""
        return sum(order.good + order.bad for order in self.orders) if self.orders else 0

    @property
    def draining(self) -> int:
        """Servers stopped and still billed."""
        return sum(count for _, _, count in self.leaving) if self.leaving else 0

    def pipeline(self, tick: int) -> tuple[tuple[int, int], ...]:
        """(age in ticks, servers) of each order that is still booting, the oldest first."""
        return tuple((tick - order.placed, order.good + order.bad) for order in self.orders) if self.orders else ()

    def stop(self, count: int, tick: int) -> None:
        """Cancel the youngest booting servers first, then stop active ones at once; these drain.

        Within an order the good servers go first, so that no policy profits from failures it cannot see. Of the
        active ones those go first whose paid block ends first.
        """
        left = count
        while left and self.orders:
            youngest = self.orders[-1]
            good = min(left, youngest.good)
            bad = min(left - good, youngest.bad)
            youngest.good, youngest.bad, left = youngest.good - good, youngest.bad - bad, left - good - bad
            if not youngest.good + youngest.bad:
                self.orders.pop()
        block, drain = len(self.paid), self.environment.drain_ticks
        for ahead in range(block):
            start = (tick + ahead) % block
            gone = min(left, self.paid[start])
            self.paid[start], left = self.paid[start] - gone, left - gone
            if gone and drain:
                self.leaving.append([tick + drain, start, gone])

    def boot(self, tick: int) -> int:
        """Orders that are due become active, failed ones past the timeout are given up; returns how many of these."""
        given_up = 0
        for order in self.orders:
            if order.due <= tick and order.good:
                self.paid[order.placed % len(self.paid)] += order.good
                order.good = 0
            if order.bad and tick - order.placed >= self.environment.boot_timeout_ticks:
                given_up, order.bad = given_up + order.bad, 0
        self.orders = [order for order in self.orders if order.good + order.bad]
        return given_up

    def finish_drain(self, tick: int) -> None:
        """Forget the servers that have drained by now."""
        self.leaving = [entry for entry in self.leaving if entry[0] > tick]

    def billed(self, tick: int) -> int:
        """Server-ticks to bill now: a whole block for each server whose block begins at this tick."""
        block = len(self.paid)
        if block == 1:
            return self.paid[0] + self.booting + self.draining
        now = tick % block
        booting = sum(order.good + order.bad for order in self.orders if order.placed % block == now)
        return block * (self.paid[now] + booting + sum(n for _, start, n in self.leaving if start == now))
