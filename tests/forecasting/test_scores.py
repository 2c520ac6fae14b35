"""Scores of the quantile frame against utilsforecast, scoringrules and loops; the bootstrap."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import gmean

from support.errors import SchemaError
from support.forecasting.quantile_frame import (
    QUANTILE_LEVELS,
    ModelForecasts,
    frame_of,
)
from support.forecasting.scores import aggregate, loss_ratios, relative_loss, series_scores, window_losses

SEASON, HORIZON, WINDOWS, LENGTH = 12, 8, 3, 150
COLUMNS = [f"q{level:g}" for level in QUANTILE_LEVELS]
DECILES = [f"q{d / 10:g}" for d in range(1, 10)]


def panel_of(seed=0, names=("a", "b")):
    rng = np.random.default_rng(seed)
    index = pd.date_range("2026-01-01", periods=LENGTH, freq="5min", tz="UTC")
    wave = 20 * np.sin(np.arange(LENGTH) * 2 * np.pi / SEASON)
    return {name: pd.Series(100 + wave + rng.gamma(2, 10, LENGTH), index, name="y") for name in names}


def forecasts_of(panel, model="m", seed=1, sd=15.0):
    rng = np.random.default_rng(seed)
    starts = LENGTH - HORIZON - (HORIZON + 2) * np.arange(WINDOWS - 1, -1, -1)
    index = next(iter(panel.values())).index.tz_localize(None).to_numpy()
    rows = starts[:, None] + np.arange(HORIZON)
    seen = np.stack([s.to_numpy()[rows] for s in panel.values()])
    quantiles = np.sort(seen[..., None] + rng.normal(0, sd, (*seen.shape, len(QUANTILE_LEVELS))), axis=-1)
    n = len(panel)
    cutoffs, times = np.tile(index[starts - 1], (n, 1)), np.tile(index[rows], (n, 1, 1))
    return ModelForecasts(model, tuple(panel), cutoffs, times, seen, quantiles, QUANTILE_LEVELS)


def case(seed=0):
    panel = panel_of(seed)
    frame = frame_of(forecasts_of(panel, seed=seed + 1))
    first = frame["cutoff"].min()
    train = pd.concat(
        [pd.DataFrame({"unique_id": n, "ds": s.index, "y": s.to_numpy()})[s.index <= first] for n, s in panel.items()]
    )
    return panel, frame, train


@pytest.mark.parametrize("seed", range(3))
def test_against_utilsforecast(seed):
    losses = pytest.importorskip("utilsforecast.losses")
    panel, frame, train = case(seed)
    flat = frame.drop(columns=["cutoff", "model"]).assign(m=frame["q0.5"])
    for share in (50, 90, 95):
        flat[f"m-lo-{share}"], flat[f"m-hi-{share}"] = (
            frame[f"q{round(0.5 + sign * share / 200, 4):g}"] for sign in (-1, 1)
        )
    deciles, levels = {"m": DECILES}, np.arange(1, 10) / 10
    scaled = {"seasonality": SEASON, "train_df": train}
    theirs = {
        "mae": losses.mae(flat, ["m"]),
        "mse": losses.mse(flat, ["m"]),
        "rmse": losses.rmse(flat, ["m"]),
        "mase": losses.mase(flat, ["m"], **scaled),
        "rmsse": losses.rmsse(flat, ["m"], **scaled),
        "wql": losses.scaled_crps(flat, deciles, levels),
    } | {f"coverage_{share}": losses.coverage(flat, ["m"], share) for share in (50, 90, 95)}
    factors = dict.fromkeys(theirs, 1.0)
    for name, table, factor in (
        ("smape", losses.smape(flat, ["m"]), 200),
        ("mape", losses.mape(flat, ["m"]), 100),
        ("wape", losses.wape(flat, ["m"]), 100),
        ("sql", losses.scaled_mqloss(flat, deciles, levels, **scaled), 2),
    ):
        theirs[name], factors[name] = table, factor
    ours = series_scores(frame, panel, season=SEASON).loc["m"]
    for name, table in theirs.items():
        wanted = factors[name] * table.set_index("unique_id")["m"].reindex(ours.index)
        np.testing.assert_allclose(ours[name], wanted, rtol=1e-9, err_msg=name)


@pytest.mark.parametrize("seed", range(3))
def test_against_scoringrules(seed):
    scoringrules = pytest.importorskip("scoringrules")
    panel, frame, _ = case(seed)
    ours = series_scores(frame, panel, season=SEASON).loc["m"]
    alpha = np.array([2 * level for level in QUANTILE_LEVELS if level < 0.5])
    for name, part in frame.groupby("unique_id"):
        seen, quantiles = part["y"].to_numpy(), part[COLUMNS].to_numpy()
        half = len(alpha)
        # Bracher et al. (2021), eq. 2; scoringrules 0.10 itself takes the median for the median's error (NumPy backend)
        wis = np.abs(seen - quantiles[:, half]) / 2
        for k, a in enumerate(alpha):
            interval = seen, quantiles[:, k], quantiles[:, -1 - k], float(a)
            wis = wis + a / 2 * scoringrules.interval_score(*interval, backend="numpy")
        wis = wis / (half + 0.5)
        assert ours.loc[name, "wis"] == pytest.approx(wis.mean(), rel=1e-9)
        deciles = scoringrules.crps_quantile(seen, part[DECILES].to_numpy(), np.arange(1, 10) / 10, backend="numpy")
        assert ours.loc[name, "wql"] == pytest.approx(deciles.mean() / np.abs(seen).mean(), rel=1e-9)


@pytest.mark.parametrize("seed", range(3))
def test_the_others_by_loop(seed):
    panel, frame, train = case(seed)
    ours = series_scores(frame, panel, season=SEASON, under_cost=3.0, over_cost=2.0).loc["m"]
    for name, part in frame.groupby("unique_id"):
        past = train.loc[train["unique_id"] == name, "y"].to_numpy()
        scale = np.mean([abs(past[t] - past[t - SEASON]) for t in range(SEASON, len(past))])
        peak = np.sort(past)[: int(0.95 * (len(past) - 1)) + 2][-2:]
        level = peak[0] + (0.95 * (len(past) - 1) % 1) * (peak[1] - peak[0])
        right = moved = hits = called = found = real = 0
        cost = 0.0
        for cutoff, window in part.groupby("cutoff"):
            last = panel[name].loc[cutoff]
            seen, point = window["y"].tolist(), window["q0.5"].tolist()
            for h in range(HORIZON):
                moved += seen[h] != last
                right += seen[h] != last and (seen[h] > last) == (point[h] > last)
                near = range(max(0, h - 3), min(HORIZON, h + 4))
                called += point[h] > level
                hits += point[h] > level and any(seen[k] > level for k in near)
                real += seen[h] > level
                found += seen[h] > level and any(point[k] > level for k in near)
                held = window["q0.6"].iloc[h]  # 3 / (3 + 2)
                cost += 3 * max(seen[h] - held, 0) + 2 * max(held - seen[h], 0)
        row, n = ours.loc[name], len(part)
        assert row["direction"] == pytest.approx(right / moved)
        assert called and real, "the case must hold peaks"
        assert row["peak_precision"] == pytest.approx(hits / called)
        assert row["peak_recall"] == pytest.approx(found / real)
        assert row["peak_f1"] == pytest.approx(2 / (called / hits + real / found)) if hits else row["peak_f1"] == 0
        assert row["capacity_cost"] == pytest.approx(cost / n / scale, rel=1e-9)
        assert row["width_90"] == pytest.approx((part["q0.95"] - part["q0.05"]).mean() / scale, rel=1e-9)
        misses = ((part["y"] - part["q0.5"]) ** 2).sum()
        assert row["r2"] == pytest.approx(1 - misses / ((part["y"] - part["y"].mean()) ** 2).sum(), rel=1e-9)


def test_r2_against_sklearn():
    from sklearn.metrics import r2_score

    panel, frame, _ = case(4)
    ours = series_scores(frame, panel, season=SEASON).loc["m", "r2"]
    for name, part in frame.groupby("unique_id"):
        assert ours[name] == pytest.approx(r2_score(part["y"], part["q0.5"]), rel=1e-9)


def test_costs_between_levels_interpolate_and_beyond_them_are_refused():
    panel, frame, train = case()
    part = frame[frame["unique_id"] == "a"]
    past = train.loc[train["unique_id"] == "a", "y"].to_numpy()
    scale = np.abs(past[SEASON:] - past[:-SEASON]).mean()
    held = (part["q0.8"] + part["q0.9"]) / 2  # 17 / (17 + 3) = 0.85
    cost = (17 * (part["y"] - held).clip(lower=0) + 3 * (held - part["y"]).clip(lower=0)).mean() / scale
    ours = series_scores(frame, panel, season=SEASON, under_cost=17, over_cost=3)
    assert ours.loc[("m", "a"), "capacity_cost"] == pytest.approx(cost, rel=1e-9)
    for costs in ({"under_cost": 99.0, "over_cost": 1.0}, {"under_cost": -1.0}):
        with pytest.raises(SchemaError, match="costs"):
            series_scores(frame, panel, season=SEASON, **costs)


def test_values_near_zero_are_masked_and_counted():
    panel = panel_of()
    for series in panel.values():
        series.iloc[-4:] = 0.0
    ours = series_scores(frame_of(forecasts_of(panel)), panel, season=SEASON).loc["m"]
    assert ours["mape_masked"].tolist() == pytest.approx([4 / (HORIZON * WINDOWS)] * 2)
    assert np.isfinite(ours["mape"]).all() and (ours["smape"] <= 200).all()


def test_undefined_scores_are_nan_not_zero():
    panel = panel_of()
    forecasts = forecasts_of(panel)
    for series in panel.values():
        series.iloc[-HORIZON * WINDOWS - 2 * WINDOWS :] = 0.0
    seen = np.zeros_like(forecasts.observed)
    zero = ModelForecasts(
        "m", forecasts.series, forecasts.cutoffs, forecasts.times, seen, 0 * forecasts.quantiles, QUANTILE_LEVELS
    )
    ours = series_scores(frame_of(zero), panel, season=SEASON).loc["m"]
    assert ours[["wql", "wape", "mape", "r2", "peak_f1", "direction"]].isna().to_numpy()[:, :5].all()
    assert (ours["sql"] == 0).all() and (ours["smape"] == 0).all()


def test_scores_refuse():
    panel, frame, _ = case()
    with pytest.raises(SchemaError, match="'b' is not in the panel"):
        series_scores(frame, {"a": panel["a"]}, season=SEASON)
    with pytest.raises(SchemaError, match=r"level 0\.1 is not among"):
        series_scores(frame.drop(columns="q0.1"), panel, season=SEASON)
    with pytest.raises(SchemaError, match="a: .*no longer than the season"):
        series_scores(frame, panel, season=LENGTH)


@settings(deadline=None, max_examples=15)
@given(st.floats(0.01, 1000))
def test_scaled_scores_do_not_depend_on_the_unit(factor):
    panel = panel_of()
    forecasts = forecasts_of(panel)
    larger = {name: factor * series for name, series in panel.items()}
    scaled = ModelForecasts(
        "m", forecasts.series, forecasts.cutoffs, forecasts.times, np.stack([
            [larger[n].reindex(pd.DatetimeIndex(t, tz="UTC")).to_numpy() for t in forecasts.times[k]]
            for k, n in enumerate(forecasts.series)
        ]), factor * forecasts.quantiles, QUANTILE_LEVELS,
    )  # fmt: skip
    one = series_scores(frame_of(forecasts), panel, season=SEASON)
    two = series_scores(frame_of(scaled), larger, season=SEASON)
    units = ["mae", "rmse", "wis"]
    np.testing.assert_allclose(two[units], factor * one[units], rtol=1e-8)
    np.testing.assert_allclose(two["mse"], factor**2 * one["mse"], rtol=1e-8)
    free = one.columns.drop([*units, "mse"])
    np.testing.assert_allclose(two[free], one[free], rtol=1e-8)


def scores_of(values):
    rows = {(m, f"s{k}"): {"sql": v} for m, row in values.items() for k, v in enumerate(row)}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(list(rows), names=["model", "unique_id"])
    return table


def test_headline_is_the_clipped_geometric_mean():
    table = relative_loss(
        scores_of({"base": [1.0, 2.0, 4.0, 1.0], "m": [0.5, 1e9, 1e-9, 3.0]}), baseline="base",
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert table.loc["base"].tolist() == [1, 1, 1, 1]
    assert table.loc["m", "rel_sql"] == pytest.approx(gmean([0.5, 100, 0.01, 3.0]))
    assert table.loc["m", "lower"] < table.loc["m", "rel_sql"] < table.loc["m", "upper"]


def test_bootstrap_is_deterministic_by_rng_and_near_theory():
    rng = np.random.default_rng(3)
    ratios = np.exp(rng.normal(-0.2, 0.4, 200))
    scores = scores_of({"base": np.ones(200), "m": ratios})
    one, two, other = (relative_loss(scores, baseline="base", rng=np.random.default_rng(s)) for s in (7, 7, 8))
    pd.testing.assert_frame_equal(one, two)
    assert (one.loc["m", ["lower", "upper"]] != other.loc["m", ["lower", "upper"]]).all()
    error = np.log(ratios).std() / np.sqrt(200)
    wanted = np.exp(np.log(ratios).mean() + 1.96 * error * np.array([-1, 1]))
    np.testing.assert_allclose(one.loc["m", ["lower", "upper"]].to_numpy(), wanted, rtol=0.02)


def test_the_worst_series_and_the_single_ratios():
    values = {"base": [1.0, 2.0, 4.0, 0.0], "m": [0.5, 2.4, 4.0, 0.0], "bad": [9.0, 9.0, 9.0, 9.0]}
    scores = scores_of(values)
    table = relative_loss(scores, baseline="base", rng=np.random.default_rng(0))
    assert table["worst"].tolist() == pytest.approx([1, 1.2, 100])  # infinitely worse is shown as the bound
    ratios = loss_ratios(scores, baseline="base")
    assert ratios.loc["m"].tolist() == pytest.approx([0.5, 1.2, 1, 1]) and ratios.loc["bad", "s3"] == np.inf


def test_losses_by_window_are_the_sql_before_its_scale():
    panel = panel_of()
    frame = frame_of(forecasts_of(panel))
    found = window_losses(frame)
    for (model, name), row in found.iterrows():
        part = frame[(frame["model"] == model) & (frame["unique_id"] == name)]
        for window, cutoff in enumerate(sorted(part["cutoff"].unique())):
            rows = part[part["cutoff"] == cutoff]
            by_hand = [
                2 * max(k / 10 * (y - q), (k / 10 - 1) * (y - q))
                for k, column in enumerate(DECILES, 1)
                for y, q in zip(rows["y"], rows[column], strict=True)
            ]
            assert row[window] == pytest.approx(np.mean(by_hand))
    scores = series_scores(frame, panel, season=SEASON)
    for (model, name), sql in scores["sql"].items():
        past = panel[name][: frame["cutoff"].min()].to_numpy()
        assert sql == pytest.approx(found.loc[(model, name)].mean() / np.abs(past[SEASON:] - past[:-SEASON]).mean())


def test_one_series_has_its_interval_over_windows():
    rng = np.random.default_rng(4)
    losses = pd.DataFrame(rng.gamma(8, 1, (2, 40)) * [[1.0], [0.6]], pd.MultiIndex.from_tuples(
        [("base", "s0"), ("m", "s0")], names=["model", "unique_id"]))  # fmt: skip
    scores = pd.DataFrame({"sql": losses.mean(axis=1)})
    table = relative_loss(scores, baseline="base", rng=np.random.default_rng(7), by_window=losses)
    again = np.random.default_rng(7)
    drawn = again.integers(0, 40, (2000, 40))
    base, own = losses.to_numpy()
    by_hand = [own[list(k)].mean() / base[list(k)].mean() for k in drawn]
    assert table.loc["m", "rel_sql"] == pytest.approx(own.mean() / base.mean()) == table.loc["m", "worst"]
    assert table.loc["m", ["lower", "upper"]].tolist() == pytest.approx(np.quantile(by_hand, [0.025, 0.975]))
    assert table.loc["base"].tolist() == [1, 1, 1, 1]
    # the delta method: the log of a ratio of means has the variance of the difference of relative errors
    error = np.std(own / own.mean() - base / base.mean()) / np.sqrt(40)
    wanted = table.loc["m", "rel_sql"] * np.exp(1.96 * error * np.array([-1, 1]))
    np.testing.assert_allclose(table.loc["m", ["lower", "upper"]].to_numpy(float), wanted, rtol=0.05)
    without = relative_loss(scores, baseline="base", rng=np.random.default_rng(7))
    assert without[["lower", "upper"]].isna().all(axis=None) and without.loc["m", "rel_sql"] < 1


def test_a_perfect_baseline_gives_no_nan():
    table = relative_loss(
        scores_of({"base": [0.0, 0.0], "same": [0.0, 0.0], "worse": [1.0, 1.0]}), baseline="base",
        rng=np.random.default_rng(0),
    )  # fmt: skip
    assert table["rel_sql"].tolist() == pytest.approx([1, 1, 100])


def test_headline_refuses():
    with pytest.raises(SchemaError, match="baseline 'x'"):
        relative_loss(scores_of({"m": [1.0]}), baseline="x", rng=np.random.default_rng(0))
    lacking = scores_of({"base": [1.0, 1.0], "m": [1.0, 1.0]}).iloc[:-1]
    with pytest.raises(SchemaError, match=r"\['m'\] is missing"):
        relative_loss(lacking, baseline="base", rng=np.random.default_rng(0))


def test_aggregate_is_the_mean_and_for_r2_the_median():
    panel = panel_of(names=("a", "b", "c"))
    scores = series_scores(frame_of(forecasts_of(panel)), panel, season=SEASON)
    table = aggregate(scores).loc["m"]
    assert table["mase"] == pytest.approx(scores["mase"].sum() / 3)
    assert table["r2"] == sorted(scores["r2"])[1]
