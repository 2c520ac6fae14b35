"""Training: fleets act, the replay remembers, the net learns, and days that it did not train on choose the weights."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
from flax import nnx

from support.autoscaling.engine_arrays import Shape
from support.autoscaling.learning.agent import DQN, plain
from support.autoscaling.learning.course import Course
from support.autoscaling.learning.foresight import outcomes
from support.autoscaling.learning.learner import NO_LIMIT, Knobs, Learner, learn, start_learner
from support.autoscaling.learning.networks import QNetwork
from support.autoscaling.learning.replay import Replay, add, empty_replay, reprioritise, sample
from support.autoscaling.learning.view import FACTORS, n_features
from support.autoscaling.learning.world import TICK_COLUMNS, Scene, bill, day_fleets, look, make_scene, open_scene, play
from support.autoscaling.policies import Newsvendor
from support.autoscaling.simulate import Policy, simulate
from support.errors import SchemaError

__all__ = ["LearningPlan", "Trained", "judge", "new_net", "train"]

FLEET_FACTORS = (0.7, 1.6)  # a training fleet starts with this many times the servers it needs


@dataclass(frozen=True)
class LearningPlan:
    """How an agent learns. updates: steps of the optimiser; judge_every: updates between two looks at validation days.

    environments: fleets that act at once, one tick an update. buffer: states remembered with the outcomes of all their
    actions, a multiple of environments and of 64. batch: states an update. ahead: ticks that an outcome is followed
    for, with the slow net's actions, before a value is believed. discount: of the next tick. temperature: of the
    softmax of the values that gives the actions their shares in the loss, in units of reward. polyak: share of the
    online weights that the target net takes on at each update. learning_rate falls geometrically to
    last_learning_rate. clip_norm: largest norm of the gradient. huber: threshold of the loss in units of reward, None
    for the square. reward_bound: rewards are clipped to +- this, None for never. priority_exponent, importance: alpha
    and the beta that rises to 1 (Schaul et al., 2016). cost_weight, sla_weight: of the fleet's cost and of the users'
    loss in the reward -(cost) / scale; 1 and 1 give the bill. reference: a rule whose bill of the same tick is subtracted from
    the agent's: no action changes it, so the best policy stays, and what nobody could foresee cancels; None for the
    bare bill. width: of the two hidden layers.
    """

    updates: int = 24_000
    judge_every: int = 500
    environments: int = 64
    buffer: int = 2**12
    batch: int = 64
    width: int = 96
    ahead: int = 8
    discount: float = 0.95
    temperature: float = 5.0
    polyak: float = 0.01
    learning_rate: float = 2e-3
    last_learning_rate: float = 5e-5
    clip_norm: float = 10.0
    huber: float | None = None
    reward_bound: float | None = None
    priority_exponent: float = 0.6
    importance: float = 0.4
    cost_weight: float = 1.0
    sla_weight: float = 1.0
    reference: Policy | None = field(default_factory=Newsvendor)

    def __post_init__(self) -> None:
        for name in ("updates", "judge_every", "environments", "batch", "ahead", "width"):
            if getattr(self, name) < 1:
                raise SchemaError(f"learning: {name} is {getattr(self, name)}, it must be at least 1.")
        if self.buffer % self.environments:
            raise SchemaError(
                f"learning: a buffer of {self.buffer} is no multiple of {self.environments} environments."
            )
        if not 0 <= self.discount < 1:
            raise SchemaError(f"learning: discount is {self.discount}, it must lie in [0, 1).")
        if not self.temperature > 0:
            raise SchemaError(f"learning: temperature is {self.temperature}, it must be above 0.")

    @property
    def knobs(self) -> Knobs:
        """The numbers that may change without compiling anew."""
        bounds = [NO_LIMIT if bound is None else bound for bound in (self.huber, self.reward_bound)]
        values = (
            self.updates, self.learning_rate, self.last_learning_rate, self.discount, self.discount**self.ahead,
            self.polyak, self.clip_norm, *bounds, self.priority_exponent, self.importance, self.temperature,
            self.cost_weight, self.sla_weight,
        )  # fmt: skip
        return Knobs(*(np.float32(value) for value in values))


@dataclass(frozen=True)
class Trained:
    """The agent with the best validation days, and the curve: updates, cpu_seconds, validation, loss, perhaps test.

    validation, test: regret of the weights as they were then. loss: mean squared error of the values since the last
    look. cpu_seconds: of the whole process from the call on, compilation and looks at validation days included, looks
    at test days excluded.
    """

    agent: DQN
    curve: pd.DataFrame


Progress = Callable[[dict[str, float]], None]


def new_net(boot_delay_ticks: int, width: int, seed: int) -> QNetwork:
    """A net for views of a boot delay, with fresh weights."""
    return QNetwork(n_features(boot_delay_ticks), len(FACTORS), width, rngs=nnx.Rngs(seed))


def train(
    course: Course, plan: LearningPlan, *, seed: int, initial: DQN | None = None, watch_test: bool = False,
    progress: Progress | None = None,
) -> Trained:  # fmt: skip
    """Learn on the training days of `course`; keep the weights with the lowest cost on its validation days.

    initial: an agent whose weights are the start (a warm start). watch_test: the curve also has the test days, which
    decide nothing. progress: called with each new row of the curve. Raises SchemaError for worlds or initial weights
    that do not fit.
    """
    began = time.process_time()
    environment = course.environment
    with jax.enable_x64(True):
        shape, scene = make_scene(course)
        net = new_net(environment.boot_delay_ticks, plan.width, seed)
        graph, params = nnx.split(net, nnx.Param)
        if initial is not None:
            initial.check(environment)
            if initial.width != plan.width:
                raise SchemaError(f"learning: the initial net is {initial.width} wide, the plan says {plan.width}.")
            nnx.replace_by_pure_dict(params, jax.tree.map(jnp.asarray, initial.weights))
        learner = start_learner(params)
        replay = empty_replay(plan.buffer, n_features(environment.boot_delay_ticks), len(FACTORS))
        scene = jax.device_put(scene)
        last = int(course.days["validation"][0]) - 1  # views after it belong to the validation days
        most = last - plan.ahead  # an outcome ends before them
        if most <= plan.judge_every:
            raise SchemaError(f"learning: judge_every is {plan.judge_every}, there are only {most} training ticks.")
        scale = environment.price_server_tick_usd * float(scene.need[:last, -1, 0].mean())
        yardstick = _reference_bill(course, last + 1, plan)
        rng, best, kept, rows = np.random.default_rng(seed), np.inf, params, []
        for done in range(0, plan.updates, plan.judge_every):
            n_step = min(plan.judge_every, plan.updates - done)
            starts = rng.integers(0, most - n_step, plan.environments)
            spread = np.exp(rng.uniform(np.log(FLEET_FACTORS[0]), np.log(FLEET_FACTORS[1]), plan.environments))
            fleets = np.clip(np.ceil(np.asarray(scene.need)[starts, 0, 0] * spread), 1, environment.max_servers)
            learner, replay, loss = _block(
                graph, shape, plan.batch, plan.ahead, n_step, scene, plan.knobs, scale, yardstick, learner, replay, starts, fleets,
                jax.random.key(int(rng.integers(2**31)), impl="unsafe_rbg"),
            )  # fmt: skip
            regret = judge(graph, shape, scene, course, learner.target, "validation")
            row = {"updates": done + n_step, "cpu_seconds": time.process_time() - began, "validation": regret}
            if watch_test:
                pause = time.process_time()
                row["test"] = judge(graph, shape, scene, course, learner.target, "test")
                began += time.process_time() - pause
            rows.append(row | {"loss": float(loss)})
            if regret < best:
                best, kept = regret, jax.tree.map(jnp.copy, learner.target)
            if progress:
                progress(rows[-1])
    if not np.isfinite(best):
        raise FloatingPointError("learning: the values are not finite. Lower the learning rate.")
    return Trained(plain(kept, environment), pd.DataFrame(rows))


def _reference_bill(course: Course, n_time: int, plan: LearningPlan) -> np.ndarray:
    """USD of each training tick under a plain rule, (n_time,), weighted as the reward is; zeros without a rule."""
    if plan.reference is None:
        return np.zeros(n_time)
    world = course.environment
    run = simulate(course.demand.iloc[:n_time], plan.reference, world, forecast=course.rolling.rows(0, n_time))
    kept = [run.ticks.get(name, 0) for name in TICK_COLUMNS]
    prices = make_scene(course)[1].prices
    return np.asarray(bill(prices, kept, plan.cost_weight, plan.sla_weight), dtype=float)


def judge(graph: Any, shape: Shape, scene: Scene, course: Course, params: Any, part: str) -> float:
    """Regret of the greedy agent on the days of a part, in the compiled engine."""
    costs = play(graph, shape, course.day_ticks, scene, params, course.days[part], day_fleets(course, part))[2]
    return float(course.regrets(np.asarray(costs), part).mean())


@partial(jax.jit, static_argnums=(0, 1, 2, 3, 4), donate_argnums=(9, 10))
def _block(
    graph: Any, shape: Shape, n_batch: int, ahead: int, n_step: int, scene: Scene, knobs: Knobs, scale: Any, yardstick: Any,
    learner: Learner, replay: Replay, starts: Any, fleets: Any, key: Any,
) -> tuple[Learner, Replay, Any]:  # fmt: skip
    """`n_step` ticks of all fleets from rows `starts` (n_env,), one update after each: (learner, replay, mean loss)."""

    def one(carry: Any, now: Any) -> Any:
        learner, replay, state, seen = carry
        t, key = now
        key_act, key_draw, key_learn = jax.random.split(key, 3)
        action = nnx.merge(graph, learner.params)(seen, key_act, own_noise=True).argmax(axis=-1)
        new, after, then = outcomes(
            graph, shape, ahead, scene, knobs, scale, yardstick, learner.target, state, seen, starts, t
        )
        taken = jnp.arange(len(starts)) * len(FACTORS) + action
        state, then = jax.tree.map(lambda x: x[taken], (after, then))
        replay = add(replay, new)
        importance = knobs.importance + (1 - knobs.importance) * jnp.minimum(learner.step / knobs.updates, 1.0)
        batch, index, weight = sample(replay, n_batch, importance, key_draw)
        learner, error = learn(graph, knobs, learner, batch, weight, key_learn)
        replay = reprioritise(replay, index, error, knobs.priority_exponent)
        return (learner, replay, state, then), (error**2).mean()

    state = open_scene(shape, fleets)
    ticks = jnp.arange(n_step, dtype=jnp.int32)
    seen = look(shape, scene, state, starts, jnp.int32(0))
    carry: Any = (learner, replay, state, seen)
    (learner, replay, *_), losses = jax.lax.scan(one, carry, (ticks, jax.random.split(key, n_step)))
    return learner, replay, losses.mean()
