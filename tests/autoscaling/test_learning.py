"""The learner's parts against closed forms and naive loops: target, loss, noise, replay, and a tabular world."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from support.autoscaling.learning.learner import NO_LIMIT, double_targets, huber, learn, start_learner
from support.autoscaling.learning.networks import NoisyLinear, QNetwork, squashed_noise
from support.autoscaling.learning.replay import Replay, Transitions, add, empty_replay, reprioritise, sample
from support.autoscaling.learning.training import LearningPlan
from support.autoscaling.learning.view import FACTORS, HOLD, next_totals, supply
from support.errors import SchemaError

KAPPA = np.sqrt(2 / np.pi)  # variance of the squashed noise: E |e|
N_NOISE = 20_000


def test_bellman_target_by_hand():
    reward = jnp.array([-1.0, -2.0])
    online = jnp.array([[0.0, 1.0, 0.5], [3.0, 2.0, 1.0]])  # chooses actions 1 and 0
    target = jnp.array([[10.0, -4.0, 7.0], [-8.0, 5.0, 6.0]])  # a plain maximum would take 10 and 6
    np.testing.assert_allclose(double_targets(reward, online, target, 0.9), [-1 + 0.9 * -4, -2 + 0.9 * -8], rtol=1e-6)


@pytest.mark.parametrize("threshold", [0.5, 1.0, NO_LIMIT])
def test_huber_and_its_slope(threshold):
    error = np.array([-30.0, -0.4, 0.0, 0.7, 2.0])
    inside = np.abs(error) <= threshold
    wanted = np.where(inside, error**2 / 2, threshold * (np.abs(error) - threshold / 2))
    np.testing.assert_allclose(huber(jnp.array(error), threshold), wanted, rtol=1e-5)
    slope = jax.vmap(jax.grad(lambda e: huber(e, threshold)))(jnp.array(error))
    np.testing.assert_allclose(slope, np.clip(error, -threshold, threshold), rtol=1e-5, atol=1e-7)


def test_noise_has_the_moments_of_its_formula():
    draws = np.asarray(squashed_noise(jax.random.key(0), (N_NOISE,)))
    assert abs(draws.mean()) < 5 * np.sqrt(KAPPA / N_NOISE)
    assert draws.var() == pytest.approx(KAPPA, abs=5 * np.sqrt((1 - KAPPA**2) / N_NOISE))  # the fourth moment is 1


def test_noisy_layer_has_the_moments_of_its_formula():
    layer = NoisyLinear(3, 2, rngs=nnx.Rngs(0))
    x = np.array([0.5, -1.0, 2.0], dtype=np.float32)
    weight, bias = np.asarray(layer.weight[...]), np.asarray(layer.bias[...])
    spread, bias_spread = np.asarray(layer.weight_spread[...]), np.asarray(layer.bias_spread[...])
    out = np.asarray(layer(jnp.tile(x, (N_NOISE, 1)), jax.random.key(1), own_noise=True))
    mean = x @ weight + bias
    var = ((x**2) @ spread**2 * KAPPA + bias_spread**2) * KAPPA
    np.testing.assert_array_less(np.abs(out.mean(axis=0) - mean), 5 * np.sqrt(var / N_NOISE))
    kurtosis = 3 * np.pi / 2  # at most: 3 for the sum, pi / 2 for the factor that multiplies it
    np.testing.assert_array_less(np.abs(out.var(axis=0) / var - 1), 5 * np.sqrt((kurtosis - 1) / N_NOISE))
    shared = np.asarray(layer(jnp.tile(x, (4, 1)), jax.random.key(1)))
    np.testing.assert_allclose(shared, np.tile(shared[0], (4, 1)), rtol=1e-6)
    np.testing.assert_allclose(layer(x[None])[0], mean, rtol=1e-5)


def test_dueling_values_are_the_value_plus_centred_advantages():
    net = QNetwork(5, 4, 8, rngs=nnx.Rngs(3))
    x = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    hidden = x
    for layer in (net.first, net.second):
        hidden = np.maximum(hidden @ np.asarray(layer.kernel[...]) + np.asarray(layer.bias[...]), 0)
    value, advantage = (
        hidden @ np.asarray(h.weight[...]) + np.asarray(h.bias[...]) for h in (net.value, net.advantage)
    )
    values = np.asarray(net(x))
    np.testing.assert_allclose(values, value + advantage - advantage.mean(1, keepdims=True), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(values.mean(axis=1), value[:, 0], rtol=1e-4, atol=1e-6)


def filled(priority):
    n = len(priority)
    rows = jnp.arange(n, dtype=jnp.float32)
    held = Transitions(rows[:, None], rows[:, None], rows[:, None, None])
    return Replay(held, jnp.asarray(priority, dtype=jnp.float32), jnp.int32(0), jnp.float32(1.0))


def test_replay_draws_in_proportion_to_priority():
    rng = np.random.default_rng(5)
    priority = rng.gamma(0.5, size=256) * (rng.random(256) > 0.3)
    priority[-70:] = 0.0  # a block that is not filled yet
    replay, n_draw, n_batch = filled(priority), 400, 128
    draw = jax.jit(jax.vmap(lambda key: sample(replay, n_batch, 0.4, key)[1]))
    drawn = np.asarray(draw(jax.random.split(jax.random.key(2), n_draw))).ravel()
    share = priority / priority.sum()
    counts = np.bincount(drawn, minlength=256)
    assert not counts[share == 0].any()
    spread = np.sqrt(len(drawn) * share * (1 - share))  # of independent draws; one in each strip varies less
    np.testing.assert_array_less(np.abs(counts - len(drawn) * share), 5 * spread + 1)


def test_importance_weights_and_contents():
    priority = np.arange(1.0, 129.0)
    batch, index, weight = sample(filled(priority), 64, 0.7, jax.random.key(0))
    index = np.asarray(index)
    raw = (priority[index] / priority.sum() * 128) ** -0.7
    np.testing.assert_allclose(weight, raw / raw.max(), rtol=1e-4)
    np.testing.assert_array_equal(batch.reward[:, 0], index)


def test_the_ring_overwrites_its_oldest_and_new_ones_get_the_highest_priority():
    replay = empty_replay(128, 1, 1)
    for k in range(3):
        rows = jnp.full((64, 1), float(k))
        replay = add(replay, Transitions(rows, -rows, rows[..., None] + 1))
        if k == 0:
            replay = reprioritise(replay, jnp.array([3, 9]), jnp.array([-7.999, 0.0]), 1.0)
            np.testing.assert_allclose(replay.priority[jnp.array([3, 9, 10])], [8.0, 1e-3, 1.0], rtol=1e-5)
    np.testing.assert_array_equal(replay.held.reward[:, 0], [-2] * 64 + [-1] * 64)
    np.testing.assert_allclose(replay.priority, 8.0, rtol=1e-6)
    assert int(replay.cursor) == 64


def test_what_must_not_be_drawn_is_not():
    replay = empty_replay(128, 1, 1)
    rows = Transitions(jnp.ones((64, 1)), jnp.ones((64, 1)), jnp.ones((64, 1, 1)))
    weight = sample(replay, 32, 0.4, jax.random.key(0))[2]
    np.testing.assert_array_equal(weight, 0.0)  # nothing is stored
    replay = add(replay, rows)
    replay = reprioritise(replay, jnp.arange(128), jnp.ones(128), 1.0)
    assert (np.asarray(sample(replay, 128, 0.4, jax.random.key(0))[1]) < 64).all()


@partial(jax.jit, static_argnums=(0, 4))
def many(graph, knobs, learner, batch, n_step):
    weight = jnp.ones(len(batch.seen))
    return jax.lax.scan(
        lambda kept, _: (learn(graph, knobs, kept, batch, weight, None)[0], None), learner, length=n_step
    )[0]


def learned_values(batch, n_state, n_action, n_step=4_000, ahead=1, **plan):
    net = QNetwork(n_state, n_action, 32, rngs=nnx.Rngs(0))
    graph, params = nnx.split(net, nnx.Param)
    knobs = LearningPlan(updates=n_step, last_learning_rate=1e-4, polyak=0.05, ahead=ahead, **plan).knobs
    learner = many(graph, knobs, start_learner(params), batch, n_step)
    return np.asarray(nnx.merge(graph, learner.params)(jnp.eye(n_state)))


def test_a_tabular_world_is_learned_to_its_known_optimum():
    rewards = np.array([[0.0, -1.0], [0.5, 0.0], [-0.2, 1.0]])
    nexts = np.array([[1, 2], [0, 2], [2, 0]])
    values = np.zeros((3, 2))
    for _ in range(500):  # value iteration
        values = rewards + 0.8 * values.max(axis=1)[nexts]
    eye = np.eye(3, dtype=np.float32)
    batch = Transitions(eye, rewards.astype(np.float32), eye[nexts])
    found = learned_values(batch, 3, 2, discount=0.8)
    np.testing.assert_allclose(found, values, atol=0.05)
    np.testing.assert_array_equal(found.argmax(axis=1), values.argmax(axis=1))
    # the same world with outcomes of three ticks, of which the last two follow the best policy
    best, at, total = values.argmax(axis=1), nexts, rewards.copy()
    for k in (1, 2):
        total += 0.8**k * rewards[at, best[at]]
        at = nexts[at, best[at]]
    batch = Transitions(eye, total.astype(np.float32), eye[at])
    np.testing.assert_allclose(learned_values(batch, 3, 2, discount=0.8, ahead=3), values, atol=0.05)


@pytest.mark.parametrize("temperature", [0.2, 5.0])
def test_shares_of_the_actions_leave_the_mean_of_a_noisy_one_alone(temperature):
    reward = np.zeros((20, 3), dtype=np.float32)
    reward[:, 0], reward[::2, 1], reward[:, 2] = 1.0, 3.0, -40.0  # means 1, 1.5 and a disaster nobody chooses
    batch = Transitions(np.ones((20, 1), np.float32), reward, np.ones((20, 3, 1), np.float32))
    found = learned_values(batch, 1, 3, discount=0.0, clip_norm=1e9, temperature=temperature)[0]
    np.testing.assert_allclose(found, [1.0, 1.5, -40.0], atol=0.1)


def test_hubers_loss_prefers_the_rare_disaster():
    # action 0 costs 1 for sure, action 1 costs 60 once in 20 times: 3 on average
    reward = np.stack([np.full(20, -1.0), np.r_[np.zeros(19), -60.0]], axis=1).astype(np.float32)
    batch = Transitions(np.ones((20, 1), np.float32), reward, np.ones((20, 2, 1), np.float32))
    square = learned_values(batch, 1, 2, discount=0.0, clip_norm=1e9)[0]
    np.testing.assert_allclose(square, [-1.0, -3.0], atol=0.05)
    robust = learned_values(batch, 1, 2, discount=0.0, clip_norm=1e9, huber=1.0)[0]
    np.testing.assert_allclose(robust, [-1.0, -1 / 19], atol=0.05)  # minimises 19 h(q) + h(q + 60): q = -1 / 19
    batch = batch._replace(reward=np.clip(reward, -1, 1))
    clipped = learned_values(batch, 1, 2, discount=0.0, clip_norm=1e9)[0]
    np.testing.assert_allclose(clipped, [-1.0, -1 / 20], atol=0.05)


def test_every_action_but_holding_moves_the_fleet():
    table = next_totals(100)
    total = np.arange(101)[:, None]
    assert (table[:, HOLD] == total[:, 0]).all()
    up, down = np.array(FACTORS) > 1, np.array(FACTORS) < 1
    assert (table[:, up] > total).all() and (table[1:, down] < total[1:]).all()
    assert (np.diff(table[3:], axis=1) >= 0).all()  # a larger factor never asks for less
    exact = total * np.array(FACTORS)
    assert (np.abs(table - exact)[:, up] <= 1).all() and (np.abs(table - exact)[1:, down] <= 1).all()
    assert table[1, FACTORS.index(1.2)] == 2


@pytest.mark.parametrize("delay", [0, 1, 4])
def test_supply_counts_orders_when_they_serve(delay):
    rng = np.random.default_rng(delay)
    active, orders = rng.integers(0, 9, 5), rng.integers(0, 4, (5, delay))
    there = supply(active, orders, delay)
    for k in range(5):
        for ahead in range(delay + 1):
            due = sum(orders[k, age - 1] for age in range(1, delay + 1) if delay - age <= ahead)
            assert there[k, ahead] == active[k] + due


@pytest.mark.parametrize(
    "wrong", [{"updates": 0}, {"buffer": 100}, {"discount": 1.0}, {"batch": 0}, {"ahead": 0}, {"temperature": 0.0}]
)
def test_plans_that_make_no_sense_are_refused(wrong):
    with pytest.raises(SchemaError, match=next(iter(wrong))):
        LearningPlan(**wrong)


def test_capacities_that_do_not_divide_are_refused():
    with pytest.raises(SchemaError, match="multiple of 64"):
        empty_replay(100, 3, 1)
