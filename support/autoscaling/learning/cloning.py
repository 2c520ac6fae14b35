"""Behaviour cloning: the net learns by heart what the clairvoyant optimum did, before it learns from the bill."""

from __future__ import annotations

from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from flax import nnx

from support.autoscaling.learning.agent import DQN, plain
from support.autoscaling.learning.course import Course
from support.autoscaling.learning.training import new_net
from support.autoscaling.learning.view import COOLDOWN, HOLD
from support.autoscaling.learning.world import act_out, day_fleets, make_scene
from support.autoscaling.oracle import optimum

__all__ = ["clone", "demonstrations"]

BATCH = 256
LEARNING_RATE = 1e-3


def demonstrations(course: Course) -> tuple[np.ndarray, np.ndarray]:
    """(views (n, n_feature), actions (n,)) of the optimum on the training days, at ticks where it was free to change.

    The action is the one whose total is nearest to the total that the optimum asked for.
    """
    first, span = course.days["train"], course.day_ticks
    asked = np.stack(
        [optimum(course.demand.iloc[at : at + span], course.environment).schedule.servers for at in first.tolist()],
        axis=1,
    )
    with jax.enable_x64(True):
        shape, scene = make_scene(course)
        views, totals = map(np.asarray, act_out(shape, scene, asked, first, day_fleets(course, "train")))
    offered = np.clip(scene.next_totals[totals], course.environment.min_servers, course.environment.max_servers)
    action = np.abs(offered - asked[..., None]).argmin(axis=-1)
    action = np.where(asked == totals, HOLD, action)
    free = views[..., COOLDOWN] <= -1
    return views[free], action[free]


def clone(course: Course, *, width: int, steps: int = 3_000, seed: int) -> DQN:
    """An agent that imitates the optimum on the training days: cross-entropy, the values as logits.

    Source: Pomerleau (1989). The optimum knows the future and the agent does not, so the likeliest action is
    nearly always to hold, and an argmax of labels may never move.
    """
    views, actions = demonstrations(course)
    net = new_net(course.environment.boot_delay_ticks, width, seed)
    graph, params = nnx.split(net, nnx.Param)
    rows = np.random.default_rng(seed).integers(0, len(views), (steps, BATCH))
    params = _imitate(graph, params, views, actions, rows)
    return plain(params, course.environment, "cloned optimum")


@partial(jax.jit, static_argnums=0)
def _imitate(graph: Any, params: Any, views: Any, actions: Any, rows: Any) -> Any:
    optimiser = optax.adam(LEARNING_RATE)

    def loss_of(params: Any, row: Any) -> Any:
        values = nnx.merge(graph, params)(views[row])
        return optax.softmax_cross_entropy_with_integer_labels(values, actions[row]).mean()

    def one(carry: Any, row: Any) -> Any:
        params, moments = carry
        change, moments = optimiser.update(jax.grad(loss_of)(params, row), moments)
        return (optax.apply_updates(params, change), moments), None

    (params, _), _ = jax.lax.scan(one, (params, optimiser.init(params)), rows)
    return params
