"""The benchmark of the forecasters: runs put together row by row, and the sets of the mirror."""

import json
import os
import sys
from copy import deepcopy
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import forecasting, forecasting_speed, record
from benchmarks.forecasting import (
    ALL_MIRROR,
    ENSEMBLES,
    GLOBAL_MODELS,
    LOCAL,
    MEDIAN,
    MEDIAN_OF_TRIO,
    MEMBERS,
    TRIO,
    WEIGHTED,
    judged,
    named,
    run,
    table,
)
from benchmarks.forecasting_runs import merged, owner, plain
from benchmarks.forecasting_sets import MIRROR, SETS, DataSet, filled_forward, fitting, known
from support.errors import SchemaError
from support.forecasting.local_models import BASELINE, LOCAL_MODELS
from support.forecasting.protocol import RollingOrigin, roll
from support.forecasting.quantile_frame import QUANTILE_LEVELS
from support.forecasting.scores import series_scores
from support.telemetry import Telemetry

DATA = Path(os.environ.get("BOOK_DATA") or Path(__file__).resolve().parents[3] / "shared" / "data")
OLD, NEW = {"date": "2026-01-01", "commit": "aaa"}, {"date": "2026-02-02", "commit": "bbb"}
PLAN = RollingOrigin(6, 7, 12, local_context=60, global_context=24, n_windows=4)
TEAM = {"all of them": ("A", "B"), "others": ("C", "D")}


def result(models, loss, when, *, ensembles=(), series=("s",), horizon=6, base_loss=2.0):
    """A run of some models: each row says in `sql` which run it is of."""
    names = {BASELINE: base_loss} | dict.fromkeys(models, loss)
    raw = {name: {"sql": value, "rel_sql": value / base_loss} for name, value in names.items()}
    together = {name: {"sql": loss} for name in ensembles}
    calibrated = {f"{name}{kind}": {"sql": raw[name]["sql"]} for name in names for kind in ("", " conf", " CQR")}
    return {
        "series": list(series), "protocol": {"horizon": horizon}, "left_out": [],
        "raw": {"2": raw | together, "6": raw | together}, "calibrated": {"2": calibrated, "6": calibrated | together},
        "ratios": {"2": {m: {"s": loss} for m in models}, "6": {m: {"s": loss} for m in models}},
        "ledger": {name: {"cpu_s": loss} for name in names}, "runs": dict.fromkeys([*names, *ensembles], when),
        "fallbacks": [{"model": name, "reason": when["commit"]} for name in names],
    }  # fmt: skip


def put(old, new):
    before = deepcopy((old, new))
    found = merged(old, new, ensembles=TEAM, baseline=BASELINE)
    assert (old, new) == before  # what it is given stays as it was
    return found


def test_a_rerun_of_one_model_replaces_its_rows_only():
    found = put(result("ABX", 1.0, OLD), result("X", 1.5, NEW))
    for kind, names in (("raw", "ABX"), ("ratios", "ABX")):
        for h in ("2", "6"):
            row = {m: found[kind][h][m]["sql" if kind == "raw" else "s"] for m in names}
            assert row == {"A": 1.0, "B": 1.0, "X": 1.5}
    for suffix in ("", " conf", " CQR"):
        rows = found["calibrated"]["6"]
        assert [rows[f"{m}{suffix}"]["sql"] for m in "ABX"] == [1.0, 1.0, 1.5]
    assert found["runs"] == {"A": OLD, "B": OLD, BASELINE: NEW, "X": NEW}
    assert {m: row["cpu_s"] for m, row in found["ledger"].items()} == {"A": 1.0, "B": 1.0, BASELINE: 1.5, "X": 1.5}
    assert {row["model"]: row["reason"] for row in found["fallbacks"]} == {
        "A": "aaa", "B": "aaa", BASELINE: "bbb", "X": "bbb"
    }  # fmt: skip


def test_an_ensemble_whose_member_is_rerun_alone_is_dropped():
    old = result("ABCD", 1.0, OLD, ensembles=list(TEAM))
    found = put(old, result("A", 1.5, NEW))
    for rows in (found["raw"]["2"], found["raw"]["6"], found["calibrated"]["6"], found["runs"]):
        assert "all of them" not in rows and "others" in rows
    again = put(old, result("AB", 1.5, NEW, ensembles=["all of them"]))
    assert again["raw"]["6"]["all of them"]["sql"] == 1.5 and again["runs"]["all of them"] == NEW
    assert again["raw"]["6"]["others"]["sql"] == 1.0 and again["runs"]["others"] == OLD
    untouched = put(old, result("X", 1.5, NEW))
    assert set(TEAM) <= set(untouched["raw"]["6"]) and untouched["runs"]["all of them"] == OLD


@pytest.mark.parametrize("change", [{"series": ("s", "t")}, {"horizon": 7}, {"base_loss": 2.01}])
def test_rows_of_other_series_windows_or_another_baseline_are_not_kept(change):
    new = result("X", 1.5, NEW, **change)
    assert put(result("AX", 1.0, OLD), new) == new
    assert put({}, new) == new


def test_a_record_without_stamps_or_ratios_is_carried_on():
    old = result("A", 1.0, OLD)
    del old["runs"], old["ratios"], old["left_out"]
    found = put(old, result("X", 1.5, NEW, base_loss=2.0001))  # the same but for rounding
    assert found["raw"]["6"]["A"]["sql"] == 1.0 and set(found["runs"]) == {BASELINE, "X"}


def test_rows_are_owned_and_numbers_are_plain():
    for model in (MEDIAN, "A conf x"):
        assert {owner(f"{model}{kind}") for kind in ("", " conf", " CQR")} == {model}
    assert plain({1: {"x": np.float64(0.123456), "n": 3}, "y": np.inf}) == {"1": {"x": 0.1235, "n": 3.0}, "y": None}


def panel_of(names=("a", "b"), n=150):
    rng = np.random.default_rng(0)
    index = pd.date_range("2026-01-05", periods=n, freq="1h", tz="UTC")
    wave = 50 + 9 * np.sin(np.arange(n) * 2 * np.pi / 12)
    return {name: pd.Series(wave + rng.gamma(2, 3, n), index) for name in names}


@pytest.mark.parametrize("names", [("a",), ("a", "b")])
def test_a_run_records_rows_ratios_and_stamps(names, capsys):
    data = fitting("made up", panel_of(names) | {"flat": panel_of(("flat",))["flat"] * 0 + 1}, PLAN, (2, 6))
    found = run(data, [BASELINE, "Naive", "Climatology"])
    assert found["series"] == list(names) and found["left_out"] == ["flat"]
    assert "left out: flat: scale: the past repeats itself" in capsys.readouterr().err
    assert list(found["runs"]) == list(found["ledger"]) == [BASELINE, "Naive", "Climatology"]
    assert all(
        row["commit"] and abs(pd.Timestamp(row["date"]) - pd.Timestamp.now()).days <= 1
        for row in found["runs"].values()
    )
    rolled = roll(
        data.panel, protocol=PLAN, local_models={m: LOCAL_MODELS[m] for m in (BASELINE, "Naive", "Climatology")},
        rng=np.random.default_rng(20261121),
    )  # fmt: skip
    for h in (2, 6):
        sql = series_scores(rolled.frame[rolled.frame["h"] <= h], data.panel, season=12)["sql"]
        for model in ("Naive", "Climatology"):
            row, ratios = found["raw"][str(h)][model], found["ratios"][str(h)][model]
            wanted = {name: sql[model, name] / sql[BASELINE, name] for name in names}
            assert ratios == pytest.approx(wanted, rel=1e-3)
            assert row["worst"] == max(ratios.values()) and row["lower"] < row["rel_sql"] < row["upper"]
            assert f"{model} conf" in found["calibrated"][str(h)] and BASELINE not in found["ratios"][str(h)]
    pd.testing.assert_frame_equal(table(rolled.frame, data, 6), judged(rolled.frame, data, 6)[0])


def test_ensembles_are_of_models_that_there_are():
    assert {MEDIAN: MEMBERS, WEIGHTED: MEMBERS, MEDIAN_OF_TRIO: TRIO} == ENSEMBLES
    assert set(TRIO) < set(MEMBERS) < {*LOCAL, *GLOBAL_MODELS}


def test_a_run_of_all_members_has_their_ensembles(monkeypatch):
    """Models that are cheap under the names of the members: what is combined is the same."""
    cheap = ("Naive", "Climatology", "SeasonalNaive (Gaussian)", BASELINE)
    models = {name: LOCAL_MODELS[one] for name, one in zip(MEMBERS, cheap, strict=True)} | {
        BASELINE: LOCAL_MODELS[BASELINE]
    }
    monkeypatch.setattr(forecasting, "LOCAL", models)
    monkeypatch.setattr(forecasting, "GLOBAL_MODELS", {})
    data = fitting("made up", panel_of(), PLAN, (6,))
    found = run(data, list(models))
    rolled = roll(data.panel, protocol=PLAN, local_models=models, rng=np.random.default_rng(20261121))
    levels = [c for c in rolled.frame if c.startswith("q0")]
    later = rolled.frame.groupby(["model", "unique_id"])["cutoff"].rank("dense") > PLAN.n_windows // 2
    trio = rolled.frame[later & rolled.frame["model"].isin(TRIO)]
    middle = trio.groupby(["unique_id", "ds", "y"])[levels].median().reset_index()
    loss = np.mean([
        np.maximum(level * (middle["y"] - middle[f"q{level:g}"]), (level - 1) * (middle["y"] - middle[f"q{level:g}"]))
        for level in np.arange(1, 10).round(1) / 10
    ], axis=0)  # fmt: skip
    first = PLAN.cutoffs(150)[PLAN.n_windows // 2]  # of the later windows: errors before it set the scale
    scale = {name: series.diff(12).abs().iloc[:first].mean() for name, series in data.panel.items()}
    wanted = np.mean([2 * loss[middle["unique_id"] == name].mean() / scale[name] for name in scale])
    assert found["calibrated"]["6"][MEDIAN_OF_TRIO]["sql"] == pytest.approx(wanted, rel=1e-3)
    assert MEDIAN_OF_TRIO not in found["raw"]["6"] and set(ENSEMBLES) <= set(found["runs"])


def test_sets_by_name():
    assert named([ALL_MIRROR]) == list(MIRROR) and named(["nab", ALL_MIRROR, "asd", "nab"]) == ["nab", *MIRROR]
    assert not set(SETS) & set(MIRROR) and len(MIRROR) == 13


def telemetry_of(values, flags):
    times = pd.date_range("2026-01-05", periods=len(values), freq="5min", tz="UTC")
    index = pd.MultiIndex.from_product([["one"], times], names=["resource_id", "timestamp"])
    frame = pd.DataFrame({"requests": np.array(values), "quality_flag": np.array(flags, float)}, index)
    return Telemetry(frame, 300.0)


def test_what_loading_interpolated_is_the_last_known_value():
    """An interpolated value lies between its neighbours, one of which is in the future."""
    telemetry = telemetry_of([1.0, 2.0, 3.0, 4.0, 9.0], [1, 0, 1, 1, 0])
    assert filled_forward(telemetry).tolist() == [1, 2, 2, 2, 9]  # with nothing before it, what loading made of it
    assert known(telemetry, "requests").tolist() == [2, 2, 2, 9]
    missing = telemetry_of([np.nan, 2.0, np.nan, 4.0, np.nan], [0, 0, 0, 0, 0])
    assert known(missing, "requests", "one").tolist() == [2, 2, 4, 4]


def test_series_that_are_too_short_are_named(capsys):
    data = fitting("x", {"long": panel_of(("a",))["a"], "short": panel_of(("a",), 30)["a"]}, PLAN, (2, 6))
    assert isinstance(data, DataSet) and list(data.panel) == ["long"] and data.left_out == ("short",)
    assert "30 values; at least" in capsys.readouterr().err
    with pytest.raises(SchemaError):
        RollingOrigin(6, 5, 12, 60, 24)


MIRRORED = pytest.mark.skipif(not (DATA / "registry.csv").exists(), reason="no mirror of the traces")
# by the read-me of the mirror: series of a set at least, seconds of a step, and one that must be among them
WANTED = {
    "nab-others": (7, 300, "realTweets/Twitter_volume_IBM"),
    "nab-taxi": (1, 1800, "realKnownCause/nyc_taxi"),
    "nab-short": (2, 300, "realKnownCause/rogue_agent_key_hold"),
    "bitbrains-rnd": (6, 300, "33/cpu_utilization"),
    "azure-v2-aggregate": (2, 300, ""),
    "azure-vm-noise-6h": (4, 21600, ""),
    "petshop": (60, 300, ""),
    "appserver-traffic-daily": (4, 86400, "as-01/requests"),
    "llm-code-10s": (3, 10, "requests"),
    "worldcup98-5min": (1, 300, "worldcup98"),
}


@MIRRORED
@pytest.mark.parametrize("name", list(WANTED))
def test_a_set_of_the_mirror_is_what_it_says(name, monkeypatch):
    monkeypatch.setenv("BOOK_DATA", str(DATA))
    data = MIRROR[name](3)
    least, step, member = WANTED[name]
    assert data.name == name and len(data.panel) >= least and (not member or member in data.panel)
    assert data.plan.n_windows in (3, 12) and data.scored[-1] == data.plan.horizon
    for series in data.panel.values():
        assert (np.diff(series.index.asi8) == step * 1e9).all() and np.isfinite(series).all()
        assert data.plan.cutoffs(len(series))[0] > data.plan.season
    if name in ("petshop", "nab-others"):
        assert data.left_out  # services that are always available, and a flat line, have no error to scale by


@MIRRORED
def test_the_rest_of_nab_is_all_that_the_table_has_not(monkeypatch):
    monkeypatch.setenv("BOOK_DATA", str(DATA))
    parts = [SETS["nab"](3), MIRROR["nab-others"](3), MIRROR["nab-taxi"](3), MIRROR["nab-short"](3)]
    bare = [{n.rpartition("/")[2] for n in [*d.panel, *d.left_out]} for d in parts]
    assert sum(map(len, bare)) == len(set().union(*bare)) == len(list((DATA / "nab").glob("[ar]*/*.csv")))
    assert QUANTILE_LEVELS.size == 15


def test_what_another_run_wrote_meanwhile_is_kept(tmp_path, monkeypatch):
    """While the models of one run are at work, another run writes its rows; both are in the record in the end."""
    (tmp_path / "benchmarks" / "results").mkdir(parents=True)
    path = tmp_path / "benchmarks" / "results" / "forecasting.json"
    for module in (forecasting, record):
        monkeypatch.setattr(module, "ROOT", tmp_path)
    data = DataSet("llm-10s", {"s": pd.Series(dtype=float)}, PLAN, (2, 6))
    monkeypatch.setitem(forecasting.SETS, "llm-10s", lambda n_windows: data)

    def at_work(data, models):
        path.write_text(json.dumps({"results": {"full": {"llm-10s": result(["A"], 1.0, OLD), "nab": {"kept": 1}}}}))
        return result(["B"], 3.0, NEW)

    monkeypatch.setattr(forecasting, "run", at_work)
    monkeypatch.setattr(sys, "argv", ["forecasting", "--sets", "llm-10s", "--profile", "full", "--models", "Naive"])
    forecasting.main()
    found = json.loads(path.read_text())["results"]["full"]
    assert found["nab"] == {"kept": 1} and set(found["llm-10s"]["raw"]["6"]) == {BASELINE, "A", "B"}
    assert found["llm-10s"]["runs"]["A"] == OLD and found["llm-10s"]["runs"]["B"] == NEW


def test_times_are_medians_of_three_rounds_in_turns():
    called, times = [], {"slow": iter([9.0, 30.0, 12.0]), "fast": iter([2.0, 1.0, 3.0])}

    def one(name):
        called.append(name)
        return {"cpu_ms_a_step": next(times[name]), "net": name}

    slow, fast = forecasting_speed.in_turns([lambda: one("slow"), lambda: one("fast")])
    assert called == ["slow", "fast"] * 3 and (slow["net"], fast["net"]) == ("slow", "fast")
    assert forecasting_speed.faster(slow, fast) == 6.0
