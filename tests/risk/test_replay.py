"""The replay against a naive loop, and its laws."""

import numpy as np
import pandas as pd
import pytest

from support.errors import TooShortError
from support.risk.cost import CostModel
from support.risk.fleet_summary import fleet_summary, server_kinds, use_features
from support.risk.replay import (
    CLAIRVOYANT,
    Replay,
    breach_policy,
    decision_policy,
    equal_breach_saving,
    knob_policy,
    replay,
    rule_policy,
    today_policy,
)
from support.risk.rightsizing import CostOptimizer
from support.risk.rules import RULES
from support.risk.usage import Usage, ladder

MODEL = CostModel(ladder(0.05, smallest=1 / 16, largest=8.0, per_doubling=2))
PENALTY = 3.0


def fleet(seed=1, n=8, days=28):
    rng = np.random.default_rng(seed)
    level = np.exp(rng.normal(np.log(0.5), 0.8, n))[:, None]
    cpu = np.minimum(level * rng.gamma(2, 0.5, (n, 24 * days)), 8.0)
    times = pd.date_range("2026-01-05", periods=24 * days, freq="1h", tz="UTC")
    capacity = {"cpu": np.full(n, 8.0), "memory": np.full(n, np.inf)}
    table = pd.DataFrame(index=pd.Index([f"vm-{k}" for k in range(n)], name="resource_id"))
    return Usage(times, 1.0, {"cpu": cpu}, capacity, table)


@pytest.fixture(scope="module")
def run():
    policies = {rule.name: rule_policy(rule) for rule in RULES}
    policies |= {"today": today_policy, "ours": decision_policy(PENALTY), "knobs": knob_policy(0.7, 0.2)}
    policies |= {f"frontier {p:g}": breach_policy(p) for p in (0.01, 0.1, 1.0, 10.0)}
    return replay(fleet(), policies, MODEL, past_days=14, penalty_per_core_hour=PENALTY)


def test_sums_equal_a_naive_loop(run):
    usage, sizes = fleet(), MODEL.catalogue()
    rule = next(rule for rule in RULES if rule.name == "P95/0.7")
    price = breach = unserved = 0.0
    for week in (14, 21):
        need = rule.required(usage.days(0, week))["cpu"]
        for row, demand in enumerate(usage.days(week, week + 7).demand["cpu"]):
            size = next(r for r in sizes.itertuples() if r.vcpu >= min(need[row], 8.0))
            price += size.price_per_hour * 168
            breach += sum(d > size.vcpu for d in demand)
            unserved += sum(max(d - size.vcpu, 0) for d in demand)
    row = run.table().loc["P95/0.7"]
    assert row["price"] == pytest.approx(price) and row["unserved_core_hours"] == pytest.approx(unserved)
    assert row["breach_percent"] == pytest.approx(100 * breach / (8 * 336))
    assert row["total"] == pytest.approx(price + PENALTY * unserved)


def test_nobody_beats_the_clairvoyant(run):
    for name in run.price:
        assert (run.total(name) >= run.total(CLAIRVOYANT) - 1e-9).all(), name
    assert run.table()["regret"].min() == 0.0


def test_today_never_breaches_and_nobody_pays_more(run):
    assert run.breach_hours["today"].sum() == 0 and run.unserved["today"].sum() == 0
    assert all((run.price[name] <= run.price["today"] + 1e-9).all() for name in run.price)


def test_our_decision_is_near_the_optimum_of_a_stationary_fleet(run):
    table = run.table()
    assert table.loc["ours", "total"] < table.loc[["P95/0.7", "max/0.7", "VPA", "today"], "total"].min()


def test_a_policy_saves_nothing_against_itself(run):
    assert run.saving("ours", "ours", rng=np.random.default_rng(1)) == (0.0, 0.0, 0.0)
    value, low, high = run.saving("ours", "max/0.7", rng=np.random.default_rng(1))
    assert low <= value <= high and value == pytest.approx((run.total("max/0.7") - run.total("ours")).sum())


def test_bootstrap_interval_agrees_with_the_normal_one():
    rng = np.random.default_rng(2)
    gain = rng.normal(1.0, 0.5, 200)
    zero = np.zeros(200)
    made = Replay({"a": zero, "b": gain}, {"a": zero, "b": zero}, {}, {}, zero, pd.RangeIndex(200))
    value, low, high = made.saving("a", "b", rng=rng)
    error = 1.645 * gain.std() * np.sqrt(200)
    assert high - low == pytest.approx(2 * error, rel=0.1) and value == pytest.approx(gain.sum())


def test_equal_breach_saving_by_hand():
    two, rng = np.ones(2), np.random.default_rng(1)
    made = Replay(
        {"loose": 1 * two, "strict": 3 * two, "other": 4 * two}, {}, {"loose": 10 * two, "strict": 0 * two, "other": 5 * two},
        {}, two, pd.RangeIndex(2),
    )  # fmt: skip
    value, low, high = equal_breach_saving(made, ["loose", "strict"], "other", rng=rng)
    assert value == pytest.approx(1 - 2 / 4) and low == pytest.approx(0.5) and high == pytest.approx(0.5)


def test_resamples_that_the_line_cannot_match_widen_the_interval():
    """One machine in four breaches under the strictest size and not under the other rule: drawn often, no price matches."""
    n = 8
    hit = np.arange(n) < 2
    made = Replay(
        {"loose": np.full(n, 1.0), "strict": np.full(n, 3.0), "other": np.full(n, 4.0)}, {},
        {"loose": np.full(n, 10.0), "strict": np.where(hit, 4.0, 0.0), "other": np.where(hit, 0.0, 2.0)},
        {}, np.ones(n), pd.RangeIndex(n),
    )  # fmt: skip
    value, low, high = equal_breach_saving(made, ["loose", "strict"], "other", rng=np.random.default_rng(2))
    drawn = np.random.default_rng(2).multinomial(n, np.full(n, 1 / n), size=2000)
    lost = (drawn[:, :2].sum(axis=1) * 4 > drawn[:, 2:].sum(axis=1) * 2).mean()
    assert value == pytest.approx(1 - (1 + 2 * 8.5 / 9) / 4) and 0.05 < lost < 0.95
    assert np.isnan(low) and high > value


def test_machines_without_data_are_left_out_and_a_short_series_is_refused():
    usage = fleet(n=3)
    usage.demand["cpu"][2, 300:] = np.nan
    made = replay(usage, {"today": today_policy}, MODEL, past_days=14, penalty_per_core_hour=PENALTY)
    assert made.machines.tolist() == ["vm-0", "vm-1"] and made.hours.tolist() == [336.0, 336.0]
    with pytest.raises(TooShortError, match="no whole week"):
        replay(usage, {"today": today_policy}, MODEL, past_days=25, penalty_per_core_hour=PENALTY)


def test_a_rule_that_saw_nothing_of_a_machine_leaves_it_as_it_is():
    """Two days without data before a week: a rule that looks back one day has no demand, which is not a demand of zero."""
    times = pd.date_range("2026-01-01", periods=21 * 288, freq="300s", tz="UTC")
    demand = np.clip(np.random.default_rng(0).normal(2.0, 0.2, (3, len(times))), 0, 4)
    demand[0, 12 * 288 : 14 * 288] = np.nan
    index = pd.Index(["a", "b", "c"], name="resource_id")
    usage = Usage(times, 1 / 12, {"cpu": demand}, {"cpu": np.full(3, 4.0)}, pd.DataFrame(index=index))
    rule = next(r for r in RULES if np.isnan(r.required(usage.days(0, 14))["cpu"][0]))
    model = CostModel(ladder(0.03, smallest=1 / 32, largest=8, per_doubling=8), "made up")
    made = replay(
        usage, {rule.name: rule_policy(rule), "today": today_policy}, model, past_days=14, penalty_per_core_hour=1.8
    )
    assert made.unserved[rule.name][0] == made.unserved["today"][0] == 0
    assert made.price[rule.name][0] == made.price["today"][0] > made.price[rule.name][1]


def test_fleet_summary_adds_up_and_orders_kinds():
    analysis = CostOptimizer(MODEL).analyze(fleet(n=20))
    made = analysis.recommend()
    table = fleet_summary(analysis, made, n_kinds=3)
    parts = table.drop(index="all")
    for column in ("servers", "above_80", "above_90", "under_40", "resized", "cost", "savings"):
        assert parts[column].sum() == pytest.approx(table.loc["all", column]), column
    assert table.loc["all", "savings"] == pytest.approx(made.savings_estimate.request)
    assert (table["above_90"] <= table["above_80"]).all()


def test_kinds_find_two_groups_whatever_the_unit():
    features = pd.DataFrame(
        {
            "mean_percent": [1.0, 1.1, 0.9, 60.0, 62.0, 58.0],
            "peak_percent": [3.0, 3.1, 2.9, 80.0, 81.0, 79.0],
            "burstiness": [5.0, 5.1, 5.2, 1.2, 1.3, 1.25],
            "daily_share": [0.1, 0.1, 0.12, 0.5, 0.52, 0.51],
        }
    )
    assert server_kinds(features, 2, seed=1).tolist() == [1, 1, 1, 0, 0, 0]
    with pytest.raises(TooShortError, match="fewer kinds"):
        server_kinds(features, 7, seed=1)


def test_features_by_hand():
    usage = fleet(n=2)
    usage.demand["cpu"][0] = np.where(usage.timestamps.hour < 12, 4.0, 0.0)  # half the day at half of eight cores
    features = use_features(CostOptimizer(MODEL).analyze(usage))
    assert features.loc["vm-0", "mean_percent"] == pytest.approx(25.0)
    assert features.loc["vm-0", "daily_share"] == pytest.approx(1.0) and features.loc[
        "vm-0", "burstiness"
    ] == pytest.approx(2.0)


def test_a_machine_that_never_changes_has_no_daily_share_whatever_its_level():
    usage = fleet(n=40)
    usage.demand["cpu"][:] = np.random.default_rng(2).uniform(0.1, 3.0, (40, 1))
    assert (use_features(CostOptimizer(MODEL).analyze(usage))["daily_share"] == 0).all()
