"""Verdicts on hand-made rows, the exact interval against its definition, ranks by loop, and the record against itself."""

import itertools
import math

import numpy as np
import pytest
from scipy.stats import binom

from benchmarks.autoscaling_verdicts import OURS, RIVALS, verdicts
from support.autoscaling.oracle_bound import target_measurable
from support.autoscaling.verdicts import duel, rank_table, recorded_when, share_interval, target_reach
from support.errors import SchemaError
from support.recorded import recorded


def row(policy, cost, **against):
    """A recorded row; against: paired savings in percent by rival, underscores for blanks."""
    saved = {f"saving_percent_against_{name.replace('_', ' ')}": value for name, value in against.items()}
    return {"policy": policy, "cost_usd": cost} | saved


def table(*rows):
    return {"rows": list(rows)}


FOUR = {
    "won": table(row("a", 5.0, b=[50.0, 40.0, 60.0]), row("b", 10.0)),
    "won, not surely": table(row("a", 9.0, b=[10.0, -5.0, 20.0]), row("b", 10.0)),
    "equal": table(row("a", 10.0, b=[0.0, 0.0, 0.0]), row("b", 10.0)),
    "lost": table(row("a", 20.0, b=[-100.0, -120.0, -80.0]), row("b", 10.0)),
}


def test_a_duel_by_hand():
    found = duel(FOUR, "a", "b")
    assert (found.n, found.wins, found.ties, found.losses) == (4, 2, 1, 1)
    assert (found.surely_wins, found.surely_losses) == (1, 1)
    assert (found.share_low, found.share_high) == share_interval(2, 4)
    assert str(found).startswith("cheaper on 2 of 4 traces (") and "equal on 1; surely cheaper on 1, surely" in str(
        found
    )


def test_the_other_way_round_wins_are_losses_and_nothing_is_sure_without_intervals():
    found = duel(FOUR, "b", "a")  # by the bills: no interval of b against a was recorded
    assert (found.wins, found.ties, found.losses) == (1, 1, 2)
    assert found.surely_wins is None and found.surely_losses is None and "surely" not in str(found)


def test_an_interval_that_is_missing_on_one_trace_makes_no_sure_count():
    found = duel(FOUR | {"bare": table(row("a", 1.0), row("b", 2.0))}, "a", "b")
    assert (found.n, found.wins, found.surely_wins) == (5, 3, None)


def test_a_trace_without_one_of_the_two_does_not_count():
    assert duel(FOUR | {"alone": table(row("a", 1.0))}, "a", "b") == duel(FOUR, "a", "b")
    with pytest.raises(SchemaError, match="no trace has rows of both 'a' and 'c'"):
        duel(FOUR, "a", "c")


def test_a_saving_below_half_a_hundredth_of_a_percent_is_a_tie():
    near = {"t": table(row("a", 100.001), row("b", 100.0))}
    assert duel(near, "a", "b").ties == 1
    assert duel({"t": table(row("a", 100.02), row("b", 100.0))}, "a", "b").losses == 1


@pytest.mark.parametrize(("hits", "n"), [(0, 7), (1, 7), (15, 19), (18, 19), (19, 19), (50, 100)])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_the_exact_interval_solves_the_binomial_tails(hits, n, level):
    low, high = share_interval(hits, n, level=level)
    tail = (1 - level) / 2
    assert 0 <= low <= hits / n <= high <= 1
    if hits:
        assert math.isclose(binom.sf(hits - 1, n, low), tail, rel_tol=1e-9)  # so many or more
    if hits < n:
        assert math.isclose(binom.cdf(hits, n, high), tail, rel_tol=1e-9)  # so many or fewer
    assert (low == 0) == (hits == 0) and (high == 1) == (hits == n)


def test_the_exact_interval_covers_at_least_as_often_as_it_says():
    for p in (0.05, 0.3, 0.5, 0.8, 0.97):
        covered = [low <= p <= high for low, high in (share_interval(k, 19) for k in range(20))]
        assert binom.pmf(np.arange(20), 19, p)[covered].sum() >= 0.9


@pytest.mark.parametrize(("hits", "n", "level"), [(5, 4, 0.9), (-1, 4, 0.9), (0, 0, 0.9), (1, 2, 1.0)])
def test_counts_that_make_no_sense_are_refused(hits, n, level):
    with pytest.raises(SchemaError, match="no count of hits"):
        share_interval(hits, n, level=level)


def test_ranks_by_loop():
    rng = np.random.default_rng(4)
    names, costs = ("a", "b", "c", "d"), rng.integers(1, 5, (12, 4)).astype(float)  # many equal bills
    traces = {f"t{i}": table(*(row(n, c) for n, c in zip(names, line, strict=True))) for i, line in enumerate(costs)}
    found = rank_table(traces, rng=np.random.default_rng(1))
    for j, name in enumerate(names):
        ranks = []
        for line in costs:
            below, same = (line < line[j]).sum(), (line == line[j]).sum()
            ranks.append(below + (same + 1) / 2)
        assert found.loc[name, "mean_rank"] == pytest.approx(np.mean(ranks))
        assert found.loc[name, "cheapest"] == sum(line[j] == line.min() for line in costs)
    assert found["mean_rank"].is_monotonic_increasing and found["mean_rank"].sum() == pytest.approx(10)
    assert (found["low"] <= found["mean_rank"]).all() and (found["mean_rank"] <= found["high"]).all()


def test_the_interval_of_a_rank_is_that_of_all_draws():
    bills = {"s": (1.0, 2.0), "t": (3.0, 2.0), "u": (1.0, 5.0)}
    traces = {name: table(row("a", mine), row("b", other)) for name, (mine, other) in bills.items()}
    every = [np.mean(draw) for draw in itertools.product((1, 2, 1), repeat=3)]
    found = rank_table(traces, rng=np.random.default_rng(0), n_draws=40_000)
    assert found.loc["a", ["low", "high"]].tolist() == pytest.approx(np.quantile(every, [0.05, 0.95]).tolist())


def test_ranks_leave_out_who_is_not_on_every_trace():
    traces = {"s": table(row("a", 1.0), row("b", 2.0)), "t": table(row("a", 1.0))}
    assert rank_table(traces, rng=np.random.default_rng(0)).index.tolist() == ["a"]
    with pytest.raises(SchemaError, match="no policy has a row on every trace"):
        rank_table({"s": table(row("a", 1.0)), "t": table(row("b", 1.0))}, rng=np.random.default_rng(0))


def test_too_short_traces_cannot_show_the_target():
    for target, least in ((0.9, 10), (0.99, 100), (0.999, 1000), (0.9999, 10_000)):
        assert target_measurable(least, target) and not target_measurable(least - 1, target)
    assert not target_measurable(10**9, 1.0)
    with pytest.raises(SchemaError, match="must lie in"):
        target_measurable(5, 1.5)
    traces = {
        "short": {"ticks": 999, "target_reachable": True}, "short and stormy": {"ticks": 999, "target_reachable": False},
        "long": {"ticks": 1000, "target_reachable": True}, "stormy": {"ticks": 1000, "target_reachable": False},
    }  # fmt: skip
    assert target_reach(traces).tolist() == ["too short to show", "too short to show", "in reach", "out of reach"]
    assert target_reach(traces, target_frac=0.99).tolist() == ["in reach", "out of reach"] * 2


def test_stamps_are_told_from_first_to_last_and_missing_ones_as_missing():
    old, new = {"date": "2026-11-20", "commit": "a" * 40}, {"date": "2026-11-22", "commit": "b" * 40}
    record = {
        "date": "2026-11-23",
        "commit": "c" * 40,
        "results": {"traces": {"s": {"stamp": new}, "t": {"stamp": old}}},
    }
    assert recorded_when(record) == "recorded 2026-11-20 to 2026-11-22, commits aaaaaaaaa, bbbbbbbbb"
    record["results"]["traces"] |= {"u": {}, "v": {}}
    assert recorded_when(record).endswith(
        "2 of 4 traces carry no date of their own, the file was last written 2026-11-23, commit ccccccccc"
    )
    record["results"]["slo"] = {"s": {"reactive": {"stamp": old}, "newsvendor": {"stamp": new}}, "t": {"reactive": {}}}
    assert recorded_when(record, "slo").startswith(
        "recorded 2026-11-20 to 2026-11-22, commits aaaaaaaaa, bbbbbbbbb; 1 of 3 rows carries no date"
    )
    assert (
        recorded_when({"date": "d", "commit": "e", "results": {"traces": {"s": {"stamp": old}}}}).count("commit") == 1
    )


def test_the_recorded_verdicts_follow_from_the_recorded_rows():
    results = recorded("autoscaling")["results"]
    assert verdicts(results["traces"]) == results["verdicts"]
    for policy, rival in itertools.product(OURS, RIVALS):
        found = duel(results["traces"], policy, rival)
        assert found.wins + found.ties + found.losses == found.n == len(results["traces"])
