"""Features against naive loops and pandas, exact blindness to the future, bounded memory, and the repair of inputs."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import SchemaError
from support.forecasting.feature_blocks import (
    EWM_SPANS,
    GROUPS,
    Z_WINDOW,
    FeaturePlan,
    ahead_columns,
    past_columns,
    scale_kind,
)
from support.forecasting.features import calendar_columns, clean, features, targets

SEASON = 24
PLAN = FeaturePlan(seasons=(SEASON,))
METADATA = pd.DataFrame(
    {"region": ["eu-west-1", "us-east-1", "eu-west-1"], "critical": [True, False, True], "memory_gib": [4.0, 8.0, 2.0]},
    index=["s1", "s0", "another"],
)
METRICS = ("requests", "processed", "queue_length", "cpu_utilization", "memory_utilization")


def panel_of(sizes=(340, 300), metrics=METRICS, seed=0):
    """A long frame of series that start on different days, with a daily season and noise."""
    rng, parts = np.random.default_rng(seed), {}
    for k, n in enumerate(sizes):
        index = pd.date_range(f"2025-12-{20 + k}", periods=n, freq="1h", tz="UTC")
        wave = 20 + 5 * np.sin(np.arange(n) * 2 * np.pi / SEASON)
        parts[f"s{k}"] = pd.DataFrame({m: wave + rng.gamma(2, 3, n) for m in metrics}, index)
    return pd.concat(parts, names=["resource_id", "timestamp"])


def one_series(n=400, seed=0):
    return np.random.default_rng(seed).gamma(2, 3, n), np.arange(n)


def test_more_than_fifty_features_and_every_group():
    table = features(panel_of(), PLAN, target="requests", metadata=METADATA)
    assert table.shape[1] >= 50 and len(set(table)) == table.shape[1]
    alone = features(panel_of(metrics=("requests",)), PLAN)
    assert alone.shape[1] >= 50
    for group in GROUPS:
        without = features(panel_of(), FeaturePlan(seasons=(SEASON,), groups=tuple(g for g in GROUPS if g != group)),
                           target="requests", metadata=METADATA)  # fmt: skip
        assert without.shape[1] < table.shape[1], group
    assert table.iloc[300].notna().all() and not np.isinf(table.to_numpy()).any()
    rows = table.iloc[100:300]
    assert (rows != rows.iloc[0]).any().sum() >= 50


@settings(deadline=None, max_examples=15)
@given(cut=st.integers(0, 339), seed=st.integers(0, 2**16), ahead=st.sampled_from([1, 3, 24, 30]))
def test_no_feature_sees_what_comes_after_its_cut_off(cut, seed, ahead):
    panel, rng = panel_of(), np.random.default_rng(seed)
    times = panel.index.get_level_values(1)
    stop = times.min() + pd.Timedelta(hours=cut)
    later = np.asarray(times > stop)
    wanted = features(panel, PLAN, target="requests", ahead=ahead, metadata=METADATA)
    known = wanted.index.get_level_values("cutoff") <= stop
    permuted, replaced, lost = panel.copy(), panel.copy(), panel.copy()
    permuted.loc[later] = rng.permutation(panel[later].to_numpy())
    replaced.loc[later] = rng.uniform(0, 1e6, (later.sum(), len(METRICS)))
    lost.loc[later] = np.nan
    for changed in (permuted, replaced, lost):
        got = features(changed, PLAN, target="requests", ahead=ahead, metadata=METADATA)
        pd.testing.assert_frame_equal(got[known], wanted[known], check_exact=True)
    # the same change is seen by nearly all later rows, so that the equality above is no accident
    got = features(replaced, PLAN, target="requests", ahead=ahead)[~known]
    for column in ("lag_0", "cumulative"):
        assert not later.any() or (got[column] != wanted[~known][column]).all()


@pytest.mark.parametrize("column", list(METRICS))
def test_every_column_but_the_calendar_depends_on_the_past(column):
    """Each feature of the target changes somewhere when the past does: none of them is a constant in disguise."""
    panel = panel_of()
    changed = panel.copy()
    changed[column] = np.random.default_rng(5).permutation(panel[column].to_numpy()) * 3
    one, two = (features(p, PLAN, target="requests") for p in (panel, changed))
    moved = {name for name in one if not one[name].equals(two[name])}
    calendar = set(calendar_columns(pd.DatetimeIndex(["2026-01-01T00:00Z"])))
    if column == "requests":
        others = {name for name in one if name.startswith(METRICS)}
        alone = {"queue_pressure", "queue_utilisation", "system_load", "cpu_by_memory", "throughput_capacity"}
        alone |= {"ahead", "age_days"}
        assert moved == set(one) - calendar - others - alone
    else:
        assert {f"{column}_now", f"{column}_change", f"{column}_mean"} <= moved and "lag_0" not in moved


def test_lags_rolling_and_ewm_against_naive_loops():
    x, position = one_series()
    found = past_columns(x, position, PLAN)
    for t in (0, 1, 5, 71, 72, 150, 399):
        past = x[: t + 1]
        for k in PLAN.lags:
            wanted = past[-1 - k] if k <= t else np.nan
            np.testing.assert_equal(found[f"lag_{k}"][t], wanted)
        for width in (w for w in PLAN.windows if w != SEASON):
            window = past[-width:]
            full = len(window) == width
            for name, rule in {
                "mean": np.mean, "std": lambda v: np.std(v, ddof=1), "min": np.min, "max": np.max
            }.items():  # fmt: skip
                np.testing.assert_allclose(found[f"{name}_{width}"][t], rule(window) if full else np.nan, rtol=1e-12)
        for span in PLAN.spans:
            window = past[-EWM_SPANS * span :]
            full = len(window) == EWM_SPANS * span
            wanted = pd.Series(window).ewm(span=span).mean().iloc[-1] if full else np.nan
            np.testing.assert_allclose(found[f"ewm_{span}"][t], wanted, rtol=1e-12)
        for k in {*PLAN.gaps, SEASON}:
            gap = past[-1] - past[-1 - k] if k <= t else np.nan
            np.testing.assert_allclose(found[f"diff_{k}"][t], gap, rtol=1e-12)
            np.testing.assert_allclose(found[f"change_{k}"][t], gap / past[-1 - k] if k <= t else np.nan, rtol=1e-12)


@settings(deadline=None, max_examples=25)
@given(st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=90), st.integers(2, 40))
def test_rolling_of_any_width_against_pandas(values, width):
    x = np.array(values)
    plan = FeaturePlan(windows=(width,), groups=("rolling",))
    found, theirs = past_columns(x, np.arange(len(x)), plan), pd.Series(x).rolling(width)
    for name in ("min", "max"):
        np.testing.assert_array_equal(found[f"{name}_{width}"], getattr(theirs, name)())
    for t in range(width - 1, len(x)):
        window = x[t - width + 1 : t + 1]
        np.testing.assert_allclose(found[f"mean_{width}"][t], window.mean(), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(found[f"std_{width}"][t], window.std(ddof=1), rtol=1e-6, atol=1e-6)
    assert np.isnan(found[f"mean_{width}"][: width - 1]).all()


def test_seasons_against_naive_loops():
    x, position = one_series()
    plan = FeaturePlan(seasons=(SEASON,), n_seasons=3)
    past = past_columns(x, position, plan)
    trend = np.array([x[t - SEASON + 1 : t + 1].mean() if t >= SEASON - 1 else np.nan for t in range(len(x))])
    for t in (120, 399):
        np.testing.assert_allclose(past[f"trend_{SEASON}"][t], trend[t])
        np.testing.assert_allclose(past[f"slope_{SEASON}"][t], trend[t] - trend[t - SEASON])
        profile = np.mean([x[t - k * SEASON] - trend[t - k * SEASON] for k in (1, 2)])
        np.testing.assert_allclose(past[f"remainder_{SEASON}"][t], x[t] - trend[t] - profile)
        for h in (1, 23, 24, 25, 48, 60):
            ahead = ahead_columns(x, position, np.array([t]), np.array([h]), plan)
            same = [s for s in range(t, -1, -1) if (t + h - s) % SEASON == 0][:3]  # newest known of the same phase
            for k, s in enumerate(same):
                assert ahead[f"seasonal_{SEASON}_{k + 1}"][0] == x[s]
            np.testing.assert_allclose(ahead[f"smoothed_{SEASON}"][0], x[same[0] - 5 : same[0] + 1].mean())
            np.testing.assert_allclose(ahead[f"spread_{SEASON}"][0], np.std(x[same]))
            np.testing.assert_allclose(ahead[f"profile_{SEASON}"][0], np.mean((x - trend)[same[:2]]))
            assert ahead["ahead"][0] == h


def test_anomalies_against_naive_loops():
    x, position = one_series()
    x[300] = 90.0
    found = past_columns(x, position, FeaturePlan(groups=("anomaly",)))
    for t in (100, 300, 399):
        window = x[t - Z_WINDOW : t]
        z = (x[t] - window.mean()) / window.std(ddof=1)
        ordered = np.sort(window)
        robust = (x[t] - ordered[36]) / ((ordered[53] - ordered[18]) / 1.349)
        np.testing.assert_allclose(found["z"][t], np.clip(z, -20, 20), rtol=1e-9)
        np.testing.assert_allclose(found["zrobust"][t], np.clip(robust, -20, 20), rtol=1e-9)
        assert found["zflag"][t] == (abs(z) > 2.5) and found["zrobustflag"][t] == (abs(robust) > 2.5)
    assert found["zflag"][300] == 1
    np.testing.assert_allclose(found["zshare"][399], found["zflag"][-Z_WINDOW:].mean(), rtol=1e-12)


def test_a_constant_series_has_no_anomaly_until_it_moves():
    x = np.full(300, 7.0)
    x[-1] = 7.5
    found = past_columns(x, np.arange(300), PLAN)
    assert found["z"][250] == found["zrobust"][250] == 0 and found["std_72"][250] == 0
    assert found["z"][-1] == found["zrobust"][-1] == 20 and found["zflag"][-1] == 1


@settings(deadline=None, max_examples=10)
@given(start=st.integers(1, 100), seed=st.integers(0, 2**16))
def test_a_row_depends_on_the_newest_values_alone(start, seed):
    """A row is the same when the series is cut before its memory, and when other series stand before it."""
    x, position = one_series(PLAN.memory + start, seed)
    steps = np.array([1, 24, 37])

    def newest(values, position):
        rows = np.full(3, len(values) - 1)
        past = {k: v[-1] for k, v in past_columns(values, position, PLAN).items()}
        return past, ahead_columns(values, position, rows, steps, PLAN)

    wanted, cut = newest(x, position), x[-PLAN.memory :]
    other = np.random.default_rng(seed).normal(size=start)
    other[0] = np.nan
    both = np.concatenate([other, cut]), np.concatenate([np.arange(start), np.arange(len(cut))])
    for got in (newest(cut, np.arange(len(cut))), newest(*both)):
        for mine, theirs in zip(got, wanted, strict=True):
            assert mine.keys() == theirs.keys()
            for name in mine:
                np.testing.assert_array_equal(mine[name], theirs[name], err_msg=name)
                assert not np.isnan(mine[name]).any(), name


@settings(deadline=None, max_examples=20)
@given(st.floats(0.01, 1000), st.floats(-1000, 1000))
def test_columns_follow_unit_and_level_as_they_say(scale, shift):
    x, position = one_series()
    plan = FeaturePlan(seasons=(SEASON,), groups=tuple(g for g in GROUPS if g != "changes"))
    rows, steps = np.arange(300, 400), np.full(100, 5)
    one, two = (past_columns(v, position, plan) | ahead_columns(v, position, rows, steps, plan)
                for v in (x, scale * x + shift))  # fmt: skip
    for name in one:
        kind = scale_kind(name)
        if "flag" in name or "share" in name:
            continue  # a threshold may fall either way by rounding
        a, b = {"level": (scale, shift), "spread": (scale, 0.0), "free": (1.0, 0.0)}[kind]
        np.testing.assert_allclose(
            two[name], a * one[name] + b, rtol=1e-6, atol=1e-6 * (scale + abs(shift)), err_msg=name
        )


def test_a_plan_within_a_memory_needs_no_more():
    for memory in (1, 5, 30, 96, 144, 576):
        plan = FeaturePlan(seasons=(24, 168)).within(memory)
        assert plan.memory <= max(memory, 1)
    assert FeaturePlan(seasons=(288,)).within(576).seasons == (288,)
    assert FeaturePlan(seasons=(288,)).within(575).seasons == ()


def test_calendar_against_pandas_and_known_days():
    times = pd.date_range("2025-12-24", periods=15 * 24, freq="1h", tz="UTC")
    found = calendar_columns(times, timezone="America/New_York")
    local = times.tz_convert("America/New_York")
    angle = 2 * np.pi * local.hour / 24
    np.testing.assert_allclose(found["hour_sin"], np.sin(angle), atol=1e-12)
    np.testing.assert_allclose(found["hour_cos"], np.cos(angle), atol=1e-12)
    np.testing.assert_allclose(found["month_cos"], np.cos(2 * np.pi * (local.month - 1) / 12), atol=1e-12)
    day = {str(t.date()): i for i, t in enumerate(local)}
    at = lambda name, date: found[name][day[date]]  # noqa: E731
    assert [at("holiday", d) for d in ("2025-12-25", "2026-01-01", "2026-01-02")] == [1, 1, 0]
    assert [at("holidaynext", d) for d in ("2025-12-24", "2025-12-31", "2025-12-26")] == [1, 1, 0]
    assert [at("holidaylast", d) for d in ("2025-12-26", "2026-01-02")] == [1, 1]
    assert [at("quarterend", d) for d in ("2025-12-24", "2025-12-25", "2025-12-31", "2026-01-01")] == [0, 1, 1, 0]
    assert [at("monthend", d) for d in ("2025-12-30", "2025-12-31")] == [0, 1]
    assert [at("weekend", d) for d in ("2025-12-27", "2025-12-29")] == [1, 0]
    for name in ("hour", "weekday", "monthday", "month", "week"):
        np.testing.assert_allclose(found[f"{name}_sin"] ** 2 + found[f"{name}_cos"] ** 2, 1)


def test_interactions_by_their_definitions():
    panel = panel_of()
    table = features(panel, PLAN, target="requests").xs("s1", level="series").iloc[-1]
    rows = panel.loc["s1"]
    last, before = rows.iloc[-1], rows.iloc[-2]
    assert table["queue_pressure"] == pytest.approx(last["queue_length"] / last["processed"])
    assert table["processing_efficiency"] == pytest.approx(
        last["processed"] / (last["requests"] + before["queue_length"])
    )
    assert table["input_output_ratio"] == pytest.approx(last["requests"] / last["processed"])
    assert table["queue_utilisation"] == pytest.approx(last["queue_length"] / rows["queue_length"].iloc[-72:].max())
    assert table["system_load"] == pytest.approx((last["cpu_utilization"] + last["memory_utilization"]) / 200)
    assert table["throughput_capacity"] == pytest.approx(last["processed"] / last["cpu_utilization"] * 100)
    newest = rows["requests"].iloc[-24:]
    assert table["volatility"] == pytest.approx(newest.std() / newest.mean())


def test_age_and_cumulative_sums_by_a_loop():
    panel = panel_of((30, 26), ("requests",))
    panel.iloc[[5, 40]] = np.nan
    table = features(panel, FeaturePlan(groups=("age", "cumulative")), ahead=[1, 4])
    for name in ("s0", "s1"):
        begun, total = panel.loc[name].index[0], 0.0
        for time, value in panel.loc[name]["requests"].items():
            total += 0.0 if np.isnan(value) else value
            for ahead in (1, 4):
                row = table.loc[(name, time, ahead)]
                assert row["age_days"] == pytest.approx((time - begun) / pd.Timedelta(days=1))
                np.testing.assert_allclose(row["cumulative"], np.nan if np.isnan(value) else total)


def test_metadata_are_told_of_each_series():
    plan = FeaturePlan(groups=("metadata",))
    panel = panel_of((30, 26), ("requests",))
    table = features(panel, plan, metadata=METADATA)
    by_series = table.drop(columns="ahead").groupby(level="series").agg(["min", "max"])
    assert (by_series.xs("min", axis=1, level=1) == by_series.xs("max", axis=1, level=1)).all(axis=None)
    told = by_series.xs("min", axis=1, level=1).loc[["s0", "s1"]]
    assert told["region_eu-west-1"].tolist() == [0, 1] and told["region_us-east-1"].tolist() == [1, 0]
    assert told["critical_True"].tolist() == [0, 1] and told["memory_gib"].tolist() == [8, 4]
    # a panel without one of the regions has the same columns if the column says which there are
    whole = METADATA.assign(region=METADATA["region"].astype("category"))
    assert list(features(panel.loc[["s0"]], plan, metadata=whole)) == list(table)
    assert list(features(panel, plan)) == ["ahead"]
    with pytest.raises(SchemaError, match=r"lack or repeat \['s1'\]"):
        features(panel, plan, metadata=METADATA.drop(index="s1"))
    with pytest.raises(SchemaError, match="lack or repeat some"):
        features(panel, plan, metadata=pd.concat([METADATA, METADATA]))


def test_metadata_without_columns_add_none():
    panel, plan = panel_of((30, 26), ("requests",)), FeaturePlan(groups=("lags", "metadata"))
    pd.testing.assert_frame_equal(features(panel, plan, metadata=METADATA[[]]), features(panel, plan))


def test_targets_lie_ahead_in_their_own_series():
    panel = panel_of((6, 4), ("requests",))
    table = features(panel, FeaturePlan(), ahead=[1, 3])
    seen = targets(panel, table.index)
    for (name, cutoff, h), value in seen.items():
        series = panel.loc[name]["requests"]
        wanted = series.get(cutoff + pd.Timedelta(hours=h), np.nan)
        np.testing.assert_equal(value, wanted)
    assert seen.isna().sum() == 2 * (1 + 3) and list(table.index.names) == ["series", "cutoff", "h"]


def test_series_by_name_and_a_frame_are_the_same_panel():
    panel = panel_of((60, 50), ("requests",))
    series = {name: panel.loc[name]["requests"] for name in ("s0", "s1")}
    pd.testing.assert_frame_equal(features(series, PLAN), features(panel, PLAN), check_names=False)


def test_clean_fills_and_caps_from_the_past_alone_and_counts():
    n = 24 * 40
    x = np.random.default_rng(0).normal(100, 1, n)
    x[500], x[[300, 301]], x[0] = 400.0, np.nan, np.nan
    index = pd.date_range("2026-01-01", periods=n, freq="1h", tz="UTC")
    panel = pd.concat({"a": pd.DataFrame({"requests": x}, index)}, names=["resource_id", "timestamp"])
    tidy, repairs = clean(panel)
    got = tidy["requests"].to_numpy()
    assert got[300] == got[301] == x[299] and np.isnan(got[0])
    filled = pd.Series(x).ffill()
    before = filled[:500].to_numpy()[1:]
    assert got[500] == pytest.approx(before.mean() + 4 * before.std(ddof=1))
    assert [r.count for r in repairs] == [2, int((got[1:] != filled[1:]).sum()), 1]
    assert [r.what.split(": ")[0] for r in repairs] == ["requests"] * 3
    changed = panel.copy()
    changed.iloc[501:] = 1e9
    np.testing.assert_array_equal(clean(changed)[0].to_numpy()[:501], tidy.to_numpy()[:501])


def test_what_is_not_a_panel_is_refused():
    panel = panel_of()
    with pytest.raises(SchemaError, match="target None is not among"):
        features(panel, PLAN)
    with pytest.raises(SchemaError, match="not \\(series, time"):
        features(panel.reset_index(drop=True), PLAN, target="requests")
    with pytest.raises(SchemaError, match="not unique and sorted"):
        features(panel.iloc[::-1], PLAN, target="requests")
    with pytest.raises(SchemaError, match="step is not the same"):
        features(panel.drop(panel.index[5]), PLAN, target="requests")
    with pytest.raises(SchemaError, match="at least 1"):
        features(panel, PLAN, target="requests", ahead=0)
    with pytest.raises(SchemaError, match="holds no series"):
        features({})
    with pytest.raises(SchemaError, match="unknown groups"):
        FeaturePlan(groups=("lag",))
    with pytest.raises(SchemaError, match="lags \\[-1\\] are below"):
        FeaturePlan(lags=(-1,))
    with pytest.raises(SchemaError, match="not a cut-off of the panel"):
        targets(panel.loc[["s0"]], features(panel, PLAN, target="requests").index, target="requests")
