"""The learner's world against `simulate`, the policy against its net, training, cloning, saving, and bad input."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest
from flax import nnx

from support.autoscaling import Environment, Newsvendor, simulate
from support.autoscaling.learning.agent import DQN, load_agent, plain, save_agent
from support.autoscaling.learning.cloning import clone, demonstrations
from support.autoscaling.learning.course import Course, make_course
from support.autoscaling.learning.foresight import outcomes
from support.autoscaling.learning.training import LearningPlan, _reference_bill, new_net, train
from support.autoscaling.learning.view import HOLD, next_totals
from support.autoscaling.learning.world import (
    TICK_COLUMNS,
    act_out,
    bill,
    day_fleets,
    look,
    make_scene,
    open_scene,
    play,
)
from support.autoscaling.oracle import optimum, optimum_costs
from support.autoscaling.rules import Plan
from support.errors import SchemaError, SourceError, TooShortError
from support.forecasting import RollingQuantiles

SPAN, N_DAY = 60, 3
LEVELS = np.array([0.005, 0.5, 0.9, 0.975, 0.995])


def some_course(seed=0, **world):
    """Nine short "days" of demand around 6 servers, with a forecast that knows the level."""
    rng = np.random.default_rng(seed)
    n_time = 3 * N_DAY * SPAN
    index = pd.date_range("2026-01-01", periods=n_time, freq="60s", tz="UTC")
    environment = Environment(
        tick_seconds=60, service_rate_rps=1.0, price_server_hour_usd=0.6, price_drop_usd=0.01, min_servers=1,
        max_servers=world.pop("max_servers", 20), **world,
    )  # fmt: skip
    level = 60 * (6 + 3 * np.sin(np.arange(n_time + 9) / 15))
    demand = pd.Series(rng.poisson(level[:n_time]).astype(float), index=index, name="requests")
    horizon = environment.boot_delay_ticks + 1
    mean = level[np.arange(n_time)[:, None] + np.arange(horizon)]
    quantiles = mean[..., None] * np.array([0.6, 1.0, 1.2, 1.3, 1.5])
    rolling = RollingQuantiles(index, LEVELS, quantiles, mean, "known", environment.metric_lag_ticks)
    first = np.arange(0, n_time, SPAN)
    days = dict(zip(("train", "validation", "test"), np.split(first, 3), strict=True))
    return Course(environment, demand, rolling, days, SPAN)


def untrained(course, width=16, seed=0):
    """A net with strong random opinions: a fresh one would hold."""
    net = new_net(course.environment.boot_delay_ticks, width, seed)
    net.advantage.bias[...] = net.advantage.bias[...] * 0
    net.advantage.weight[...] = net.advantage.weight[...] * 30
    graph, params = nnx.split(net, nnx.Param)
    return graph, params, plain(params, course.environment)


WORLDS = pytest.mark.parametrize(
    "world",
    [
        {"boot_delay_ticks": 3, "cooldown_ticks": 2, "price_start_usd": 0.01, "price_stop_usd": 0.02},
        {"boot_delay_ticks": 0, "metric_lag_ticks": 1, "queue_limit": 90.0, "price_wait_hour_usd": 0.3},
        {
            "boot_delay_ticks": 2, "metric_lag_ticks": 2, "queue_limit": 200.0, "queue_patience_ticks": 2,
            "drain_ticks": 2, "quota_servers": 12, "max_step_up": 2, "control_every_ticks": 2,
        },
    ],
    ids=["loss", "lagging queue", "everything"],
)  # fmt: skip


@WORLDS
def test_the_learners_world_equals_simulate(world):
    course = some_course(**world)
    graph, params, _ = untrained(course)
    starts, fleets = course.days["test"], day_fleets(course, "test")
    with jax.enable_x64(True):
        shape, scene = make_scene(course)
        asked, columns, costs = jax.tree.map(np.asarray, play(graph, shape, SPAN, scene, params, starts, fleets))
    assert columns["started"].sum() > 0 and columns["stopped"].sum() > 0  # it does something
    for k, at in enumerate(starts):
        twin = simulate(course.demand.iloc[at : at + SPAN], Plan(asked[:, k]), course.environment)
        for name, column in columns.items():  # float64 throughout: equal to the last bit
            np.testing.assert_array_equal(column[:, k], twin.ticks[name], err_msg=name)
        assert costs[k] == pytest.approx(twin.cost_usd, rel=1e-10)
        np.testing.assert_allclose(
            bill(scene.prices, [columns.get(name, 0) for name in TICK_COLUMNS])[..., k],
            twin.ticks["cost_usd"],
            rtol=1e-10,
        )


@WORLDS
def test_the_policy_sees_and_values_what_the_learner_does(world):
    course = some_course(**world)
    graph, params, agent = untrained(course)
    starts = course.days["train"]
    asked = np.random.default_rng(1).integers(1, 14, (SPAN, N_DAY))
    with jax.enable_x64(True):
        shape, scene = make_scene(course)
        views, totals = map(np.asarray, act_out(shape, scene, asked, starts, day_fleets(course, "train")))
        values = np.asarray(nnx.merge(graph, params)(views.reshape(SPAN * N_DAY, -1)))
    every = course.environment.control_every_ticks

    class Watching(Plan):
        def prepare(self, environment, forecast):
            return agent.prepare(environment, forecast)

        def act(self, state, seen):
            watched.append((agent.view(state, seen), seen.active + seen.booting))
            return state, int(self.wanted[seen.row]), "planned"

    for k, at in enumerate(starts):
        watched = []
        ahead = course.rolling.rows(at, at + SPAN)
        simulate(course.demand.iloc[at : at + SPAN], Watching(asked[:, k]), course.environment, forecast=ahead)
        np.testing.assert_allclose([v for v, _ in watched], views[::every, k], atol=1e-6)
        assert [n for _, n in watched] == totals[::every, k].tolist()
    mine = agent.values(views.reshape(SPAN * N_DAY, -1))
    np.testing.assert_allclose(mine, values, rtol=1e-4, atol=1e-5)


def test_outcomes_are_the_bills_that_simulate_writes():
    course, ahead = some_course(boot_delay_ticks=2, cooldown_ticks=1, price_start_usd=0.01), 4
    graph, params, agent = untrained(course)
    starts, plan = course.days["train"], LearningPlan(ahead=ahead, discount=0.8)
    rule = np.random.default_rng(0).random(len(course.demand))  # some bill to compare with
    with jax.enable_x64(True):
        shape, scene = make_scene(course)
        scene = jax.device_put(scene)
        state = open_scene(shape, day_fleets(course, "train"))
        seen = look(shape, scene, state, starts, jnp.int32(0))
        found, _, _ = outcomes(
            graph, shape, ahead, scene, plan.knobs, 2.0, jnp.asarray(rule), params, state, seen, starts, jnp.int32(0)
        )

    class First(Plan):
        def prepare(self, environment, forecast):
            return agent.prepare(environment, forecast)

        def act(self, state, seen):
            if seen.tick == ahead:
                views.append(agent.view(state, seen))
            _, wanted, reason = agent.act(state, seen)
            return state, int(self.wanted[0]) if seen.tick == 0 else wanted, reason

    table = next_totals(course.environment.max_servers)
    for k, at in enumerate(starts):
        for action, wanted in enumerate(table[day_fleets(course, "train")[k]]):
            views = []
            demand, forecast = course.demand.iloc[at : at + SPAN], course.rolling.rows(at, at + SPAN)
            run = simulate(demand, First(np.array([wanted])), course.environment, forecast=forecast)
            gain = (rule[at : at + ahead] - run.ticks["cost_usd"].iloc[:ahead]) / 2.0
            assert found.reward[k, action] == pytest.approx((0.8 ** np.arange(ahead) * gain).sum(), rel=1e-6)
            np.testing.assert_allclose(found.then[k, action], views[0], atol=1e-6)


def test_causality_the_future_changes_no_action():
    course = some_course(boot_delay_ticks=2)
    _, _, agent = untrained(course)
    ahead, demand = course.rolling.rows(0, SPAN), course.demand.iloc[:SPAN].copy()
    first = simulate(demand, agent, course.environment, forecast=ahead)
    demand.iloc[30:] *= 3
    second = simulate(demand, agent, course.environment, forecast=ahead)
    assert first.ticks["reason"].iloc[:31].tolist() == second.ticks["reason"].iloc[:31].tolist()
    assert first.ticks["reason"].tolist() != second.ticks["reason"].tolist()


PLAN = LearningPlan(updates=60, judge_every=30, environments=8, buffer=1024, batch=32, width=16, learning_rate=3e-3)


@pytest.fixture(scope="module")
def course():
    return some_course(boot_delay_ticks=2, cooldown_ticks=1)


@pytest.fixture(scope="module")
def trained(course):
    told = []
    return train(course, PLAN, seed=1, watch_test=True, progress=told.append), told


def test_training_reports_selects_and_repeats(course, trained):
    first, told = trained
    assert first.curve["updates"].tolist() == [30, 60] and told == first.curve.to_dict("records")
    assert first.curve["cpu_seconds"].is_monotonic_increasing and np.isfinite(first.curve.to_numpy()).all()
    costs = [run.cost_usd for run in course.runs(first.agent, "validation")]
    assert course.regrets(costs, "validation").mean() == pytest.approx(first.curve["validation"].min(), abs=1e-6)
    again = train(course, PLAN, seed=1)
    np.testing.assert_array_equal(again.curve["validation"], first.curve["validation"])
    for layer, held in first.agent.weights.items():
        for name, values in held.items():
            np.testing.assert_array_equal(again.agent.weights[layer][name], values)
    other = train(course, replace(PLAN, updates=30), seed=2, initial=first.agent)
    assert not np.array_equal(other.agent.weights["first"]["kernel"], first.agent.weights["first"]["kernel"])


def test_regret_is_the_extra_cost_over_the_exact_optimum(course):
    best = optimum_costs(course.rows("test"), course.environment)
    runs = course.runs(Newsvendor(), "test")
    assert [len(run.ticks) for run in runs] == [SPAN] * N_DAY
    costs = np.array([run.cost_usd for run in runs])
    assert course.regrets(costs, "test").mean() == pytest.approx(costs.sum() / best.sum() - 1)
    assert (course.regrets(costs, "test") >= -1e-12).all()


def test_the_reference_bill_is_the_rules_own_with_its_weights(course):
    n_time = 2 * SPAN
    run = simulate(
        course.demand.iloc[:n_time], Newsvendor(), course.environment, forecast=course.rolling.rows(0, n_time)
    )
    np.testing.assert_allclose(_reference_bill(course, n_time, PLAN), run.ticks["cost_usd"], rtol=1e-12)
    users = _reference_bill(course, n_time, replace(PLAN, cost_weight=0.0, sla_weight=2.0))
    np.testing.assert_allclose(users, 2 * course.environment.price_drop_usd * run.ticks["dropped"], rtol=1e-12)
    assert not _reference_bill(course, n_time, replace(PLAN, reference=None)).any()


def test_a_saved_agent_decides_exactly_as_before(course, trained, tmp_path):
    agent = trained[0].agent
    again = load_agent(save_agent(agent, tmp_path / "new" / "agent.npz"))
    for mine, its in zip(course.runs(agent, "test"), course.runs(again, "test"), strict=True):
        pd.testing.assert_frame_equal(mine.ticks, its.ticks)
    with pytest.raises(SourceError, match="something already"):
        save_agent(agent, tmp_path / "new" / "agent.npz")


@pytest.mark.parametrize("content", [b"", b"no archive", None])
def test_other_files_are_refused(content, tmp_path):
    path = tmp_path / "agent.npz"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match="no agent is here"):
        load_agent(path)


def test_weights_that_do_not_fit_are_refused(trained, tmp_path):
    agent = trained[0].agent
    with pytest.raises(SourceError, match="no agent is here"):
        load_agent(save_agent(replace(agent, boot_delay_ticks=7), tmp_path / "agent.npz"))


def test_demonstrations_are_the_optimums_own_choices(course):
    views, actions = demonstrations(course)
    at, world = int(course.days["train"][0]), course.environment
    best = optimum(course.demand.iloc[at : at + SPAN], world)
    ticks, asked, table = best.run.ticks, best.schedule.servers, next_totals(world.max_servers)
    total, wanted, cooldown = int(ticks["servers"].iloc[0] + ticks["stopped"].iloc[0]), [], 0
    for t in range(SPAN):
        if cooldown == 0:
            options = [min(max(int(n), 1), 20) for n in table[total]]
            gaps = [abs(n - asked[t]) for n in options]
            wanted.append(HOLD if asked[t] == total else int(np.argmin(gaps)))
        changed = ticks["started"].iloc[t] or ticks["stopped"].iloc[t]
        cooldown = world.cooldown_ticks if changed else max(cooldown - 1, 0)
        total = int(ticks["servers"].iloc[t] + ticks["booting"].iloc[t])
    # the days are side by side in the demonstrations, so compare the actions of the first day by their views
    agent = untrained(course)[2]
    state, seen_first = agent.prepare(world, course.rolling.rows(at, at + SPAN)), []

    class Watching(Plan):
        def prepare(self, environment, forecast):
            return state

        def act(self, state, seen):
            if seen.cooldown_left == 0:
                seen_first.append(agent.view(state, seen))
            return state, int(self.wanted[seen.row]), "planned"

    simulate(course.demand.iloc[at : at + SPAN], Watching(asked), world)
    assert len(seen_first) == len(wanted)
    for view, action in zip(seen_first, wanted, strict=True):
        same = np.abs(views - view).max(axis=1) < 1e-5
        assert action in actions[same]


def test_a_clone_imitates(course):
    views, actions = demonstrations(course)
    copied = clone(course, width=32, steps=600, seed=0)
    hits = (copied.values(views).argmax(axis=1) == actions).mean()
    assert hits > np.bincount(actions).max() / len(actions)  # better than always naming the commonest action


def test_bad_input_is_refused_with_a_reason(course, trained):
    agent, world = trained[0].agent, course.environment
    with pytest.raises(SchemaError, match="boot delay of 2 ticks"):
        agent.prepare(replace(world, boot_delay_ticks=3), course.rolling)
    with pytest.raises(SchemaError, match="needs a forecast of 3 ticks"):
        agent.prepare(world, None)
    with pytest.raises(SchemaError, match="16 wide"):
        train(course, replace(PLAN, width=8), seed=0, initial=agent)
    with pytest.raises(SchemaError, match="only 171 training ticks"):
        train(course, replace(PLAN, updates=400, judge_every=400), seed=0)
    with pytest.raises(SchemaError, match="random"):
        make_scene(replace(course, environment=replace(world, boot_failure_prob=0.1)))
    with pytest.raises(SchemaError, match="needs at least one"):
        make_course(course.demand, train_days=0)
    with pytest.raises(TooShortError, match="days of demand"):
        make_course(course.demand)
    assert isinstance(agent, DQN)


def test_forecasts_may_be_fitted_on_more_than_the_warm_days():
    times = pd.date_range("2026-01-01", periods=10 * 144, freq="600s", tz="UTC")
    level = 9000 * (1.5 + np.sin(2 * np.pi * np.arange(len(times)) / 144))
    demand = pd.Series(np.random.default_rng(3).poisson(level).astype(float), index=times, name="requests")
    days = {"warm_days": 5.0, "train_days": 3, "validation_days": 1, "test_days": 1}
    short, long, same = (make_course(demand, fit_days=fit, **days) for fit in (None, 30.0, 5.0))
    np.testing.assert_array_equal(same.rolling.quantiles, short.rolling.quantiles)
    np.testing.assert_array_equal(long.rolling.quantiles[:144], short.rolling.quantiles[:144])  # there is no more past
    assert (long.rolling.mean[144:] != short.rolling.mean[144:]).all()
    assert long.environment == short.environment
