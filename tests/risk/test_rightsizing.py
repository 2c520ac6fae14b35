"""Right-sizing against brute force over the catalogue, closed forms and laws."""

import json

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from support.errors import BookError, SourceError
from support.risk.cost import CostModel
from support.risk.predictive import DemandPredictive
from support.risk.recommendations import nodes_needed
from support.risk.records import write_records
from support.risk.rightsizing import CostOptimizer, critical_level
from support.risk.usage import Usage, ladder, usage_of
from support.telemetry import load

PRICES = pd.DataFrame(
    {
        "instance_type": ["a1", "a2", "a4", "a8", "fat2"], "vcpu": [1.0, 2.0, 4.0, 8.0, 2.0],
        "memory_gib": [2.0, 4.0, 8.0, 16.0, 16.0], "price": [1.0, 2.0, 4.0, 8.0, 3.0], "unit": "hour", "currency": "USD",
    }
)  # fmt: skip
REQUESTS = CostModel(ladder(0.05, smallest=1 / 16, largest=16.0, per_doubling=4))


def fleet(seed=1, n=4, days=14, cores=8.0, mean=1.0, sizes=None):
    rng = np.random.default_rng(seed)
    level = np.exp(rng.normal(np.log(mean), 0.6, n))[:, None]
    hour = np.arange(24 * days)
    cpu = np.minimum(level * (1 + 0.5 * np.sin(hour / 24 * 2 * np.pi)) * rng.gamma(4, 0.25, (n, 24 * days)), cores)
    memory = np.clip(rng.normal(4.0, 0.3, (n, 24 * days)), 0, 16)
    times = pd.date_range("2026-01-05", periods=24 * days, freq="1h", tz="UTC")
    table = pd.DataFrame(index=pd.Index([f"vm-{k}" for k in range(n)], name="resource_id"))
    if sizes is not None:
        table["instance_type"] = sizes
    capacity = {"cpu": np.full(n, cores), "memory": np.full(n, 16.0)}
    return Usage(times, 1.0, {"cpu": cpu, "memory": memory}, capacity, table)


def test_two_knobs_equal_brute_force_over_the_catalogue():
    analysis = CostOptimizer(CostModel(PRICES)).analyze(fleet(n=12))
    made = analysis.recommend(target_utilization=0.7, safety_margin=0.2, level=0.95, breach_limit=0.01, min_saving=0.0)
    cpu, memory = analysis.predictive["cpu"], analysis.predictive["memory"]
    q_cpu, q_memory, tail = cpu.quantile(0.95), memory.quantile(0.95), memory.quantile(0.999)
    for k, record in enumerate(made.records):
        fits = [
            row.price
            for row in PRICES.itertuples()
            if row.vcpu >= q_cpu[k] * 1.2 / 0.7
            and row.memory_gib >= max(q_memory[k] * 1.2 / 0.7, tail[k])
            and cpu.exceedance(k, np.array([row.vcpu]))[0] <= 0.01
        ]
        assert record.proposed["unit_price"] == (min(fits) if fits else 8.0)


def test_least_expected_cost_equals_brute_force():
    optimizer = CostOptimizer(CostModel(PRICES), "minimize_cost", penalty_per_core_hour=30.0)
    analysis = optimizer.analyze(fleet(n=12))
    made = analysis.recommend(breach_limit=1.0, min_saving=0.0)
    cpu, memory = analysis.predictive["cpu"], analysis.predictive["memory"]
    for k, record in enumerate(made.records):
        least = max(memory.quantile(0.95)[k] * 1.2, memory.quantile(0.999)[k])
        cost = {
            row.instance_type: row.price * 168 + 30.0 * cpu.unserved(k, np.array([row.vcpu]))[0]
            for row in PRICES.itertuples()
            if row.memory_gib >= least
        }
        assert record.proposed["size"] == min(cost, key=cost.get)


def test_decision_is_the_newsvendors_quantile_on_a_fine_ladder():
    """One factor, one day of normal demand: the best size is the quantile at 1 - price / penalty."""
    demand = norm(3.0, 0.5).ppf((np.arange(20_000) + 0.5) / 20_000)
    told = DemandPredictive((demand[None, :].repeat(2, axis=0),), np.ones((1, 1)), 7, 24 / 20_000)
    price, penalty = 0.05, 1.0
    sizes = np.linspace(2.0, 5.0, 3001)
    best = sizes[(price * sizes * 168 + penalty * told.unserved(0, sizes)).argmin()]
    assert best == pytest.approx(norm(3.0, 0.5).ppf(critical_level(price, penalty)), abs=2e-3)
    assert critical_level(2.0, 1.0) == 0.0
    with pytest.raises(BookError, match="penalty"):
        critical_level(1.0, 0.0)


def test_savings_of_a_no_op_are_exactly_zero():
    """Every machine has the smallest size there is, so nothing can change."""
    usage = fleet(n=3, mean=0.02, sizes=["a1"] * 3)
    usage.demand["memory"][:] = 0.5
    made = CostOptimizer(CostModel(PRICES)).analyze(usage).recommend()
    assert made.rightsizing_count == 0 and (made.savings_estimate.draws == 0).all()
    assert made.savings_estimate.request == made.savings_estimate.realised == 0.0
    assert {r.finding for r in made.records} <= {"optimised", "zombie", "idle"}


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10_000), st.floats(0.4, 1.0), st.floats(0.0, 0.5), st.sampled_from([0.001, 0.01, 0.05]))
def test_no_recommendation_implies_more_breaches_than_its_limit(seed, target, margin, limit):
    for goal in ("minimize_waste", "minimize_cost"):
        analysis = CostOptimizer(REQUESTS, goal).analyze(fleet(seed))
        made = analysis.recommend(target_utilization=target, safety_margin=margin, breach_limit=limit)
        assert (made.implied_breach_probability <= limit).all()  # the ladder is long enough for everyone here


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 10_000))
def test_a_wider_margin_never_buys_a_smaller_size(seed):
    analysis = CostOptimizer(REQUESTS).analyze(fleet(seed))
    sizes = [analysis.recommend(safety_margin=m, min_saving=0.0).positions for m in (0.0, 0.2, 0.6)]
    assert (sizes[0] <= sizes[1]).all() and (sizes[1] <= sizes[2]).all()


def test_breach_limit_holds_on_the_next_weeks_of_a_stationary_fleet():
    """A recommendation never raises the share of breaches above its limit in replay: 30 machines, two weeks each."""
    whole = fleet(seed=5, n=30, days=42)
    made = CostOptimizer(REQUESTS).analyze(whole.days(0, 28)).recommend(breach_limit=0.01)
    cores = REQUESTS.catalogue()["vcpu"].to_numpy()[made.positions]
    later = whole.days(28, 42).demand["cpu"]
    assert (later > cores[:, None]).mean() <= 0.01


def test_savings_draws_and_records_agree():
    analysis = CostOptimizer(REQUESTS).analyze(fleet(n=6))
    made = analysis.recommend()
    before, after = (sum(r.monthly_cost[k] for r in made.records) for k in ("before", "after"))
    estimate = made.savings_estimate
    assert (
        estimate.request - estimate.growth == pytest.approx(before - after) and estimate.request > estimate.growth == 0
    )
    assert estimate.quantile(0.1) <= estimate.quantile(0.9) <= estimate.request + 1e-9  # shortage only takes off
    assert made.rightsizing_count == sum(r.current != r.proposed for r in made.records)
    expected = sum(
        analysis.penalty_per_core_hour * (analysis.unserved[k, made.positions[k]] - analysis.unserved[k, analysis.size_now[k]])
        for k in range(6)
    ) * 730 / 168  # fmt: skip
    assert estimate.mean == pytest.approx(estimate.request - expected, abs=5 * estimate.draws.std() / 20 + 1e-6)
    assert made.records == analysis.recommend().records  # the same data, the same records


def test_a_machine_at_its_ceiling_grows_by_one_doubling_and_that_is_no_saving():
    usage = fleet(n=2, cores=4.0)
    usage.demand["cpu"][0] = 4.0
    made = CostOptimizer(REQUESTS).analyze(usage).recommend()
    cores = REQUESTS.catalogue()["vcpu"].to_numpy()
    assert made.records[0].finding == "under_provisioned" and cores[made.positions[0]] == pytest.approx(8.0)
    alone = CostOptimizer(REQUESTS).analyze(usage.only(np.array([True, False]))).recommend().savings_estimate
    assert alone.request == 0.0 and (alone.draws == 0).all() and alone.growth == pytest.approx(4.0 * 0.05 * 730)


def test_realised_saving_counts_whole_nodes():
    analysis = CostOptimizer(REQUESTS).analyze(fleet(n=6, mean=0.3))
    one = analysis.recommend(node=(64.0, 256.0, 3.0)).savings_estimate
    assert one.request > 0 and one.realised == 0.0  # all of it fits on one node before and after
    small = analysis.recommend(node=(16.0, 64.0, 0.8)).savings_estimate
    assert small.realised == pytest.approx(0.8 * 730 * round(small.realised / (0.8 * 730))) and small.realised > 0


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(0.05, 1.0), min_size=1, max_size=9))
def test_nodes_needed_lies_between_its_bounds(requests):
    array = np.array(requests)[:, None]
    got = nodes_needed(array, np.array([1.0]))
    assert np.ceil(array.sum() - 1e-9) <= got <= len(requests)
    assert got <= 2 * array.sum() + 1  # first fit: two nodes less than half full would have been one
    with pytest.raises(BookError, match="no node"):
        nodes_needed(np.array([[2.0]]), np.array([1.0]))


def test_records_are_written_as_json_and_csv(tmp_path):
    made = CostOptimizer(REQUESTS).analyze(fleet(n=3)).recommend()
    write_records(made.records, tmp_path / "made.json")
    read = json.loads((tmp_path / "made.json").read_text(encoding="utf-8"))
    assert [r["id"] for r in read] == [r.id for r in made.records] and len({r["id"] for r in read}) == 3
    assert set(read[0]) >= {"finding", "current", "proposed", "breach_probability", "savings", "reason", "expires_at"}
    write_records(made.records, tmp_path / "made.csv")
    table = pd.read_csv(tmp_path / "made.csv", index_col="id")
    assert table["proposed.size"].tolist() == [r.proposed["size"] for r in made.records]
    assert not list(tmp_path.glob(".*"))
    with pytest.raises(SourceError, match="json or"):
        write_records(made.records, tmp_path / "made.txt")


def test_curve_and_flat_region():
    analysis = CostOptimizer(REQUESTS, "minimize_cost").analyze(fleet(n=2))
    curve = analysis.curve("vm-1")
    assert np.allclose(curve["total"], curve["price"] + curve["shortage"])
    assert curve["flat"].sum() >= 1 and curve.loc[~curve["flat"], "total"].min() > curve["total"].min()
    with pytest.raises(BookError, match="nobody"):
        analysis.curve("nobody")


def test_machines_stay_within_their_kind_and_the_estate_loads():
    estate = load(
        "synthetic:cloud",
        seed=1,
        days=14,
        n_resources=10,
        resource_types="compute",
        providers="AWS",
        step_seconds=3600.0,
    )
    made = CostOptimizer(CostModel.aws_on_demand()).analyze(estate).recommend()
    for record in made.records:
        kinds = [str(r["size"]).startswith("fargate") for r in (record.current, record.proposed)]
        assert kinds[0] == kinds[1]


def test_too_little_data_changes_nothing_and_is_said():
    usage = fleet(n=2)
    usage.demand["cpu"][1, 20:] = np.nan
    made = CostOptimizer(REQUESTS).analyze(usage).recommend()
    assert made.records[1].finding == "insufficient_data" and made.records[1].current == made.records[1].proposed
    assert json.loads(made.records[1].to_json())["breach_probability"]["after"] is None


def test_bad_knobs_and_goals_are_refused():
    with pytest.raises(BookError, match="goal"):
        CostOptimizer(REQUESTS, "cheap")
    with pytest.raises(BookError, match="target_utilization"):
        CostOptimizer(REQUESTS).analyze(fleet(n=1)).recommend(target_utilization=0.0)
    empty = fleet(n=1)
    empty.demand["cpu"][:] = np.nan
    with pytest.raises(BookError, match="two days"):
        CostOptimizer(REQUESTS).analyze(empty)


def test_usage_in_a_telemetry_is_taken_as_it_is():
    machines = load("synthetic:fleet", seed=1, days=3, n_resources=2, step_seconds=3600.0)
    assert CostOptimizer(REQUESTS).analyze(usage_of(machines, vcpu=4.0)).enough.all()


def test_groups_that_are_not_known_have_no_name():
    usage = fleet(n=3)
    usage.resources["business_unit"] = ["shop", np.nan, ""]
    usage.resources["team"] = ["a", "b", None]
    usage.resources["criticality"] = [np.nan, "high", None]
    table = CostOptimizer(CostModel(PRICES)).analyze(usage).recommend().table()
    assert table["business_unit"].tolist() == ["shop", "b", "(unknown)"]
    assert table["criticality"].tolist() == ["(unknown)", "high", "(unknown)"]


@pytest.mark.parametrize("price", [1.9995, 2.0, 2.0005])
def test_a_machine_that_is_too_small_is_changed_even_if_that_saves_next_to_nothing(price):
    """4 GiB of memory, all but 0.2 of them used; a machine with 16 GiB costs the same but for a fraction of a cent."""
    prices = PRICES.assign(price=[1.0, 2.0, 4.0, 8.0, price])
    usage = fleet(n=1, cores=2.0, mean=0.2, sizes=["a2"])
    usage.demand["memory"][:] = 3.8
    usage.capacity["memory"][:] = 4.0
    (record,) = CostOptimizer(CostModel(prices)).analyze(usage).recommend(min_saving=1.0).records
    assert record.finding == "under_provisioned" and record.binding_dimension == "memory"
    assert record.proposed["size"] == "fat2" and "fat2 is proposed" in record.reason
    assert "its memory binds" in record.reason


def test_the_largest_machine_is_not_proposed_to_itself():
    usage = fleet(n=1, cores=8.0, mean=7.0, sizes=["a8"])
    (record,) = CostOptimizer(CostModel(PRICES)).analyze(usage).recommend().records
    assert record.finding == "under_provisioned" and record.proposed == record.current
    assert "nothing larger of its kind is on offer" in record.reason and "proposed" not in record.reason
