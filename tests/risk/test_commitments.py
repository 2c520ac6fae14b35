"""Commitments: closed forms, brute force over every vertex, laws, and the posterior draws of demand."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from support.errors import SchemaError
from support.risk.commitments import (
    CommitmentOption,
    break_even_utilization,
    commitment_level,
    critical_ratio,
    plan_commitments,
    stack_layers,
)

HOURS = st.lists(st.integers(0, 12), min_size=1, max_size=12)
DISCOUNT = st.floats(0.05, 0.95)


def cost_by_hand(demand, units, options, spot_discount=0.0, spot_share=0.0):
    """Mean cost of units on (draw, year, hour) demand without renewals, hour by hour."""
    total = 0.0
    for draw in demand:
        for year, hours in enumerate(draw):
            covered = sum(u for u, o in zip(units, options, strict=True) if year < o.years)
            total += len(hours) * sum(
                u * (1 - o.discount) for u, o in zip(units, options, strict=True) if year < o.years
            )
            for wanted in hours:
                left = max(wanted - covered, 0.0)
                spot = min(left, spot_share * wanted)
                total += left - spot + (1 - spot_discount) * spot
    return total / len(demand)


@given(HOURS, DISCOUNT)
def test_the_level_is_the_cheapest_of_all(hours, discount):
    demand = np.array(hours, dtype=float)
    level = commitment_level(demand, discount)
    option = CommitmentOption("x", discount)
    cost = {c: cost_by_hand(demand[None, None], [c], [option]) for c in {*hours, 0}}
    assert cost_by_hand(demand[None, None], [level], [option]) == pytest.approx(min(cost.values()))


def test_published_and_closed_forms():
    assert critical_ratio(50, 15) == pytest.approx(0.77, abs=0.002)
    assert commitment_level(stats.norm(11.73, 4.74), critical_ratio(50, 15)) == pytest.approx(15.24, abs=0.06)
    assert commitment_level(stats.norm(100, 20), 0.28) == pytest.approx(88.34316985457568, abs=1e-9)
    assert break_even_utilization(0.28) == pytest.approx(0.72)
    demand = np.random.default_rng(1).normal(100, 20, 100_000).clip(0)
    level = commitment_level(demand, 0.28)
    assert level == pytest.approx(88.343, abs=0.3)
    assert (demand > level).mean() == pytest.approx(0.72, abs=1e-4)


@settings(deadline=None, max_examples=40)
@given(HOURS, DISCOUNT)
def test_the_linear_program_equals_the_closed_form(hours, discount):
    demand = np.array(hours, dtype=float)
    option = CommitmentOption("x", discount)
    plan = plan_commitments(demand, [option])
    best = cost_by_hand(demand[None, None], [commitment_level(demand, discount)], [option])
    assert plan.costs.item() == pytest.approx(best, abs=1e-7)
    assert plan.costs.item() == pytest.approx(cost_by_hand(demand[None, None], [plan.units["x"]], [option]), abs=1e-7)


@settings(deadline=None, max_examples=40)
@given(HOURS, DISCOUNT, DISCOUNT, st.integers(0, 8))
def test_stacked_layers_equal_the_linear_program(hours, first, second, limit):
    demand = np.array(hours, dtype=float)
    options = [CommitmentOption("a", first, limit=limit), CommitmentOption("b", second)]
    layers = stack_layers(demand, options)
    stacked = cost_by_hand(demand[None, None], [layers["a"], layers["b"]], options)
    assert stacked == pytest.approx(plan_commitments(demand, options).costs.item(), abs=1e-7)
    assert layers["a"] <= limit


@settings(deadline=None, max_examples=25)
@given(st.integers(0, 10**6), st.floats(0.1, 0.6), st.floats(0.1, 0.6), st.sampled_from([(0.0, 0.0), (0.6, 0.3)]))
def test_two_stages_and_two_terms_equal_brute_force(seed, one_year, three_years, spot):
    """Without renewals an optimum has a layer's top at one of the demand values (kinks): try all of them."""
    demand = np.random.default_rng(seed).integers(0, 7, size=(2, 3, 4)).astype(float)
    options = [CommitmentOption("1", one_year), CommitmentOption("3", three_years, years=3)]
    plan = plan_commitments(demand, options, spot_discount=spot[0], spot_share=spot[1], renew=False)
    kinks = sorted({0.0, *demand.ravel(), *((1 - spot[1]) * demand.ravel())})
    tried = {(max(top - long, 0.0), long) for long, top in itertools.product(kinks, kinks)}
    best = min(cost_by_hand(demand, units, options, *spot) for units in tried)
    assert plan.costs.mean() == pytest.approx(best, abs=1e-7)
    units = [plan.units["1"], plan.units["3"]]
    assert plan.costs.mean() == pytest.approx(cost_by_hand(demand, units, options, *spot), abs=1e-7)


def test_renewals_equal_brute_force():
    """Two years, a two-year and a renewable one-year option: given the first stage, each later year is a newsvendor."""
    rng = np.random.default_rng(2)
    demand = rng.integers(0, 6, size=(3, 2, 5)).astype(float) + np.arange(3)[:, None, None]
    options = [CommitmentOption("1", 0.3), CommitmentOption("2", 0.45, years=2)]
    best = np.inf
    for one, two in itertools.product(range(9), range(9)):
        total = 0.0
        for draw in demand:
            total += 5 * 0.7 * one + np.maximum(draw[0] - one - two, 0).sum() + 10 * 0.55 * two
            total += min(5 * 0.7 * more + np.maximum(draw[1] - two - more, 0).sum() for more in range(9))
        best = min(best, total / 3)
    plan = plan_commitments(demand, options)
    assert plan.costs.mean() == pytest.approx(best)
    assert plan.costs.mean() <= plan_commitments(demand, options, renew=False).costs.mean() + 1e-9


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 10**6))
def test_laws_of_a_plan(seed):
    rng = np.random.default_rng(seed)
    demand = rng.gamma(4, 2, size=(3, 2, 24))
    options = [CommitmentOption("1", 0.3), CommitmentOption("2", 0.45, years=2)]
    plan = plan_commitments(demand, options)
    np.testing.assert_allclose(plan.cost(demand), plan.costs, rtol=1e-6)
    assert (plan.regret(demand) >= -1e-6).all()
    assert plan.costs.mean() <= plan.on_demand.mean() + 1e-9
    np.testing.assert_allclose(plan.on_demand, demand.sum(axis=(1, 2)))
    np.testing.assert_allclose(plan_commitments(10 * demand, options).costs.mean(), 10 * plan.costs.mean(), rtol=1e-6)
    np.testing.assert_allclose(plan.saving, 1 - plan.costs / plan.on_demand)


def test_known_demand_has_no_regret_and_grouped_hours_stay_close():
    demand = np.random.default_rng(3).gamma(5, 20, size=(1, 1, 2000))
    options = [CommitmentOption("1", 0.28)]
    plan = plan_commitments(demand, options)
    assert plan.regret(demand) == pytest.approx(0.0, abs=1e-6)
    exact = cost_by_hand(demand, [commitment_level(demand, 0.28)], options)
    assert plan.costs.item() == pytest.approx(exact, rel=1e-3)
    assert cost_by_hand(demand, [plan.units["1"]], options) == pytest.approx(exact, rel=1e-3)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: commitment_level(np.array([1.0]), 1.0), "between 0 and 1"),
        (lambda: commitment_level(np.array([]), 0.5), "at least one hour"),
        (lambda: commitment_level(np.array([-1.0]), 0.5), "at least 0"),
        (lambda: critical_ratio(0, 1), "positive"),
        (lambda: break_even_utilization(1.0), "between 0 and 1"),
        (lambda: CommitmentOption("x", 1.2), "x: discount 1.2"),
        (lambda: stack_layers(np.ones(3), [CommitmentOption("a", 0.3), CommitmentOption("b", 0.4, 3)]), "plan_comm"),
        (lambda: plan_commitments(np.ones(3), [CommitmentOption("b", 0.4, 3)]), "outlasts the 1 years"),
        (lambda: plan_commitments(np.ones(3), []), "at least one option"),
        (lambda: plan_commitments(np.array([np.nan]), [CommitmentOption("a", 0.3)]), "finite"),
    ],
)
def test_refusals(call, told):
    with pytest.raises(SchemaError, match=told):
        call()
