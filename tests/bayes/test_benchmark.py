"""The benchmark of the engines: limits by name, ratios and bounds by hand, and rows of earlier runs beside their own ours."""

import pytest

from benchmarks.bayes import ENGINES, limits, middle, put, ratios


def row(wall, cpu, r_hat=1.0):
    return {"ess_per_wall_s": wall, "ess_per_cpu_s": cpu, "max_r_hat": r_hat}


def test_limits_by_name():
    found = limits(600.0, ["PyMC default, raw rows=900", "PyMC nutpie=90.5"])
    assert found["PyMC default, raw rows"] == 900.0 and found["PyMC nutpie"] == 90.5
    assert {found[name] for name in ENGINES if name not in ("PyMC default, raw rows", "PyMC nutpie")} == {600.0}


@pytest.mark.parametrize("text", ["", "ours", "ours=", "ours=-1", "ours=0", "ours=soon", "theirs=60", "=60"])
def test_a_limit_that_means_nothing_is_refused(text):
    with pytest.raises(ValueError, match="NAME=SECONDS"):
        limits(600.0, [text])


def test_ratios_by_hand():
    table = {
        "ours": row(100.0, 60.0),
        "done": row(4.0, 3.0),
        "not converged": row(50.0, 50.0, r_hat=1.2),
        "ended": {"unfinished_after_s": 500.0, "unfinished_after_cpu_s": 800.0, "n_draws": 400},
    }
    assert ratios(table) == {
        "ours / done, per wall second": 25.0,
        "ours / done, per cpu second": 20.0,
        "ours / ended, per wall second, at least": 62.5,  # 2 chains of 400 draws within 500 s are 1.6 a second
        "ours / ended, per cpu second, at least": 60.0,
    }
    assert ratios({"done": row(4.0, 3.0)}) == {}


def test_rows_of_an_earlier_run_stay_beside_their_own_ours():
    table = {"ours": row(100.0, 60.0), "old": row(4.0, 3.0), "new": row(4.0, 3.0)}
    put(table, "ours", row(200.0, 90.0) | {"posterior": {}})
    put(table, "new", row(5.0, 2.0))
    assert ratios(table)["ours / old, per wall second"] == 25.0
    assert ratios(table)["ours / new, per wall second"] == 40.0
    assert "posterior" not in table["ours"] and "beside_ours" not in table["new"]
    put(table, "ours", row(300.0, 90.0))
    assert ratios(table)["ours / old, per wall second"] == 25.0


def test_rows_of_the_same_run_are_compared_with_the_ours_that_is_kept():
    table = {}
    for name, rate in (("ours", 100.0), ("theirs", 4.0), ("ours", 120.0)):
        put(table, name, row(rate, rate) | {"run": "today"})
    assert ratios(table)["ours / theirs, per wall second"] == 30.0
    put(table, "ours", row(80.0, 80.0) | {"run": "tomorrow"})
    assert ratios(table)["ours / theirs, per wall second"] == 30.0


def test_the_median_run_is_kept_with_all_rates_beside_it():
    runs = [
        row(wall, cpu) | {"wall_s": 300 / wall, "cpu_s": 300 / cpu}
        for wall, cpu in ((3.0, 1.0), (1.0, 3.0), (2.0, 2.0))
    ]
    kept = middle(runs)
    assert kept["ess_per_wall_s"] == 2.0 and kept["ess_per_cpu_s"] == 2.0
    assert [one["wall_s"] for one in kept["repeats"]] == [100.0, 300.0, 150.0]
    assert middle(runs[:2])["ess_per_wall_s"] == 1.0  # the slower of two
    assert middle(runs[:1]) == runs[0]
