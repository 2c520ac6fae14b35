"""The recursion behind the clairvoyant optimum: fleet size, backlog, and the age of the last change."""

from __future__ import annotations

import math

import numpy as np
from numba import njit

from support.autoscaling.environment import Environment
from support.errors import SchemaError

__all__ = ["Problem", "check_exact", "next_age", "step_back"]

STATE_BYTES = 2**29  # memory for the cost-to-go of one tick
MOST_SIZES = 2**16  # fleet sizes that a remembered choice can name


def check_exact(environment: Environment) -> None:
    """Raise SchemaError naming the field that an exact optimum cannot allow for.

    Example:
        >>> check_exact(Environment(tick_seconds=60, service_rate_rps=1.0, boot_delay_sigma=0.3))
        Traceback (most recent call last):
        ...
        support.errors.SchemaError: optimum: boot_delay_sigma is 0.3, there is an exact optimum only for 0. Use ...
    """
    loss = environment.queue_limit == 0
    for name, value, plain in (
        ("boot_delay_sigma", environment.boot_delay_sigma, 0),
        ("boot_failure_prob", environment.boot_failure_prob, 0),
        ("billing_block_ticks", environment.billing_block_ticks, 1),
        ("queue_patience_ticks", None if loss else environment.queue_patience_ticks, None),
        ("drain_ticks", 0 if environment.quota_servers is None else environment.drain_ticks, 0),
    ):
        if value != plain:
            raise SchemaError(
                f"optimum: {name} is {value}, there is an exact optimum only for {plain}"
                f"{' where there is a quota' if name == 'drain_ticks' else ''}. Use dataclasses.replace(environment, "
                f"{name}={plain}) and say that the result is the optimum of that simpler world."
            )


class Problem:
    """Sizes and prices of one instance; the state is (age of the last change, fleet size, backlog level)."""

    def __init__(self, work: np.ndarray, world: Environment, first: int, levels: int, round_up: bool) -> None:
        check_exact(world)
        if levels < 1:
            raise SchemaError(f"optimum: backlog_levels is {levels}, it must be at least 1.")
        self.delay, self.cooldown = world.boot_delay_ticks, world.cooldown_ticks
        self.clock = (len(work), world.control_every_ticks, world.drain_ticks, self.delay, self.cooldown)
        self.ages = 1 + self.cooldown + (self.cooldown + self.delay)
        # More servers than the largest load can use only cost more.
        useful = math.ceil((work.max() + world.queue_limit) / world.capacity_per_tick)
        self.low = world.min_servers
        most = world.max_servers if world.quota_servers is None else min(world.quota_servers, world.max_servers)
        self.sizes = min(max(useful, first, self.low), most) - self.low + 1
        self.levels = levels + 1 if world.queue_limit > 0 else 1
        self.quantum = world.queue_limit / levels if world.queue_limit > 0 else 1.0
        self.limit, self.round_up = float(world.queue_limit), round_up
        cells = self.ages * self.sizes * self.levels
        if cells * 8 > STATE_BYTES or self.sizes > MOST_SIZES:
            raise SchemaError(
                f"optimum: {self.ages} ages x {self.sizes} fleet sizes x {self.levels} backlogs are too many states; "
                "use larger servers, longer ticks or fewer backlog_levels."
            )
        prices = (world.price_server_tick_usd, world.price_drop_usd, world.price_wait_tick_usd)
        up = world.price_start_usd + self.delay * world.price_server_tick_usd  # a booting server is paid for
        self.prices = np.array([*prices, up, world.price_stop_usd])
        self.steps = (world.max_step_up or self.sizes, world.max_step_down or self.sizes)
        self.capacity = world.capacity_per_tick
        # Nothing was ordered before the first tick: stops are free at once, a start serves after the boot delay.
        self.age_first = 2 * self.cooldown + 1 if self.delay else 0
        self.start = (self.age_first, (first - self.low) * self.levels)

    def last(self) -> np.ndarray:
        """Cost-to-go after the last tick: nothing."""
        return np.zeros((self.ages, self.sizes * self.levels))

    def sweep(
        self, work: np.ndarray, value: np.ndarray, tick: int = 0, *, choose: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Cost-to-go before `work`, which begins at `tick`, given that after it; and its choices if `choose`."""
        choices = np.empty((len(work) if choose else 0, *value.shape), dtype=np.uint16)
        value = _sweep(
            work, value, choices, tick, self.low, self.levels, self.capacity, self.quantum, self.limit, self.round_up,
            self.prices, self.clock, *self.steps,
        )  # fmt: skip
        return value, choices


@njit(cache=True)
def next_age(age: int, change: int, delay: int, cooldown: int) -> int:
    """Age index at the next tick: 0 free, 1..K ticks since a start took effect, K+1..2K+d ticks since a stop.

    Example:
        >>> [next_age(age, 0, 2, 1) for age in range(5)], next_age(0, 1, 2, 1), next_age(0, -1, 2, 1)
        ([0, 0, 3, 4, 0], 1, 2)
    """
    if change > 0:
        return 1 if cooldown else 0
    if change < 0:
        return cooldown + 1 if cooldown + delay else 0
    if age == 0 or age == cooldown or age == 2 * cooldown + delay:
        return 0
    return age + 1


@njit(cache=True)
def _sweep(
    work: np.ndarray, value: np.ndarray, choices: np.ndarray, first_tick: int, low: int, levels: int, capacity: float,
    quantum: float, limit: float, round_up: bool, prices: np.ndarray, clock: tuple[int, int, int, int, int],
    step_up: int, step_down: int,
) -> np.ndarray:  # fmt: skip
    """Bellman's recursion over `work`, backwards; value (age, cell), cell = fleet size x backlog level.

    Ticks between effects: start to start and stop to stop K + 1, start to stop max(1, K + 1 - d), stop to start
    K + 1 + d.
    """
    n_cell = value.shape[1]
    sizes = n_cell // levels
    stage, after = np.empty(n_cell), np.empty(n_cell, dtype=np.int64)
    server, drop, wait, rise, stop = prices
    unwanted = np.empty((0, n_cell), dtype=choices.dtype)
    new = np.empty_like(value)
    old = value.copy()
    for t in range(len(work) - 1, -1, -1):
        for size in range(sizes):
            able = (low + size) * capacity
            for level in range(levels):
                left = max(min(level * quantum, limit) + work[t] - able, 0.0)
                queue = min(left, limit)
                cell = size * levels + level
                stage[cell] = server * (low + size) + drop * (left - queue) + wait * queue
                grid = queue / quantum
                rank = math.ceil(grid) if round_up else int(grid)
                after[cell] = size * levels + min(rank, levels - 1)
        choice = choices[t] if len(choices) else unwanted
        step_back(
            stage, after, old, new, choice, first_tick + t, levels, clock, (server, rise, stop), (step_up, step_down)
        )
        old, new = new, old
    return old


@njit(cache=True)
def step_back(
    stage: np.ndarray, after: np.ndarray, old: np.ndarray, new: np.ndarray, choice: np.ndarray, tick: int, levels: int,
    clock: tuple[int, int, int, int, int], prices: tuple[float, float, float], steps: tuple[int, int],
) -> None:  # fmt: skip
    """One step of Bellman's recursion: `new` (age, cell) is the cost-to-go before `tick`, given `old` after it.

    stage, after: (n_cell,), cost of serving the tick with that fleet and backlog, and the cell it leads to. clock:
    ticks until the end, between control ticks, of drain, boot delay and cooldown. prices in USD: of a server-tick, of
    a start and of a stop. choice (n_age, n_cell) is filled with the fleet sizes chosen; with no rows it is not.
    """
    n_age, n_cell = new.shape
    n_time, every, drain, delay, cooldown = clock
    server, rise, stop = prices
    step_up, step_down = steps
    sizes = n_cell // levels
    start_cost, stop_cost = np.empty(n_cell), np.empty(n_cell)
    start_at, stop_at = np.empty(n_cell, dtype=np.int64), np.empty(n_cell, dtype=np.int64)
    aged_start, aged_stop = next_age(0, 1, delay, cooldown), next_age(0, -1, delay, cooldown)
    fall = stop + server * min(drain, n_time - tick)  # a draining server is paid for until the end
    for level in range(levels):  # the cheapest larger and smaller fleet, in one pass each way
        best = sizes
        for size in range(sizes - 1, -1, -1):
            cell, upper = size * levels + level, min(size + step_up, sizes - 1)
            best = _cheapest(best, size + 1, upper, 1, stage, after, old[aged_start], rise, levels, level)
            start_at[cell] = best
            start_cost[cell] = np.inf
            if best <= upper:
                there = best * levels + level
                start_cost[cell] = stage[there] + old[aged_start, after[there]] + rise * (best - size)
        best = -1
        for size in range(sizes):
            cell, lower = size * levels + level, max(size - step_down, 0)
            best = _cheapest(best, size - 1, lower, -1, stage, after, old[aged_stop], fall, levels, level)
            stop_at[cell] = best
            stop_cost[cell] = np.inf
            if best >= lower:
                there = best * levels + level
                stop_cost[cell] = stage[there] + old[aged_stop, after[there]] + fall * (size - best)
    for age in range(n_age):
        aged = next_age(age, 0, delay, cooldown)
        may_start = age == 0 and (tick - delay) % every == 0
        may_stop = age == 0 or (cooldown + 1 - delay <= age <= cooldown) or age >= 2 * cooldown + 1
        may_stop = may_stop and tick % every == 0
        for cell in range(n_cell):
            least, at = stage[cell] + old[aged, after[cell]], cell // levels
            if may_start and start_cost[cell] < least:
                least, at = start_cost[cell], start_at[cell]
            if may_stop and stop_cost[cell] < least:
                least, at = stop_cost[cell], stop_at[cell]
            new[age, cell] = least
            if len(choice):
                choice[age, cell] = at


@njit(cache=True)
def _cheapest(
    best: int, near: int, far: int, sign: int, stage: np.ndarray, after: np.ndarray, value: np.ndarray, price: float,
    levels: int, level: int,
) -> int:  # fmt: skip
    """Cheapest size from `near` to `far`, knowing the cheapest one `best` of the window one size further on."""
    if sign * (far - near) < 0:
        return best
    inside = sign * (best - far) <= 0
    candidates = (near, best, sign * max(1, abs(best - near))) if inside else (near, far, sign)
    least = np.inf
    for size in range(candidates[0], candidates[1] + sign, candidates[2]):
        cell = size * levels + level
        cost = stage[cell] + value[after[cell]] + price * abs(size - near)
        if cost < least:
            least, best = cost, size
    return best
