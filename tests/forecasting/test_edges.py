"""What once went wrong at the edges of part III: exact members, long horizons, ties, several series, gaps, rounding."""

import numpy as np
import pandas as pd
import pytest

from support.errors import BookError, SchemaError, TooShortError
from support.forecast import Forecast
from support.forecasting import RollingQuantiles, fit_short_term, mstl, roll_daily, seasonal_naive
from support.forecasting.aggregation import aggregate
from support.forecasting.conformal import conformalize
from support.forecasting.ensembles import stacked, weighted_average
from support.forecasting.exports import read_forecasts, write_forecasts
from support.forecasting.feature_blocks import FeaturePlan
from support.forecasting.features import features
from support.forecasting.foundation import FoundationEnsemble
from support.forecasting.horizons import loss_by_horizon
from support.forecasting.joint_paths import copula_paths, rank_correlation
from support.forecasting.linear import fit_ridge, fit_rvfl
from support.forecasting.metrics import pinball
from support.forecasting.neural.checkpoints import load_net, save_net
from support.forecasting.neural.models import fit_lstm
from support.forecasting.neural.training import TrainingPlan
from support.forecasting.quantile_frame import QUANTILE_LEVELS, ModelForecasts, frame_of
from support.forecasting.recalibration import recalibrate
from support.forecasting.recommendation import recommend
from support.forecasting.scores import series_scores
from support.forecasting.search import search
from support.forecasting.windows import location_scale

START = pd.Timestamp("2026-01-01", tz="UTC")
ISSUED = {"issued_at": START, "step_seconds": 3600.0, "unit": "requests", "model": "m"}


def hours(values, name="requests"):
    return pd.Series(values, pd.date_range(START, periods=len(values), freq="1h"), name=name, dtype=float)


def said(name, observed, quantiles, first=0):
    n_series, n_window, horizon = observed.shape
    cuts = np.datetime64("2026-03-01", "ns") + (first + np.arange(n_window)) * np.timedelta64(horizon, "h")
    times = cuts[None, :, None] + np.arange(1, horizon + 1) * np.timedelta64(1, "h")
    whole = np.repeat(times, n_series, axis=0), np.repeat(cuts[None], n_series, axis=0)
    series = tuple("ab"[:n_series])
    return ModelForecasts(name, series, whole[1], whole[0], observed, quantiles, QUANTILE_LEVELS)


def off_by(name, error, observed):
    return said(name, observed, np.repeat((observed + error)[..., None], len(QUANTILE_LEVELS), axis=-1))


@pytest.mark.parametrize("n_exact", [2, 3, 4, 9])
def test_exact_members_share_the_weight_and_lose_nothing(n_exact):
    observed = np.full((1, 6, 4), 5.0)
    members = [off_by(f"exact {k}", 0.0, observed) for k in range(n_exact)] + [off_by("off", 2.0, observed)]
    made = weighted_average(members, first_window=3)
    assert made.weights[0, 3:, :n_exact] == pytest.approx(1 / n_exact, abs=2e-3)
    assert weighted_average(members[:n_exact], first_window=3).forecasts.quantiles == pytest.approx(5.0)


def test_an_exploding_member_changes_nothing_between_the_others():
    observed = np.full((1, 6, 4), 5.0)
    members = [off_by("one", 1.0, observed), off_by("five", 5.0, observed), off_by("wild", 1e4, observed)]
    weights = weighted_average(members, first_window=3).weights[0, -1]
    assert weights == pytest.approx(np.array([1, 1 / 5, 1e-4]) / (1 + 1 / 5 + 1e-4), rel=1e-9)


@pytest.mark.parametrize("error", [0.5, 6.0])
def test_stacking_where_most_members_are_exact(error):
    observed = np.zeros((1, 6, 4))
    members = [off_by("a", 0.0, observed), off_by("b", 0.0, observed), off_by("c", error, observed)]
    made = stacked(members, first_window=3)
    assert made.weights[0, -1, 2] == pytest.approx(0.0, abs=1e-9)
    assert made.forecasts.quantiles == pytest.approx(0.0, abs=1e-8)


@pytest.mark.parametrize(("n", "season", "horizon"), [(450, 24, 445), (505, 168, 336), (500, 24, 470)])
def test_a_horizon_beyond_what_the_past_can_tell_keeps_its_intervals(n, season, horizon):
    rng = np.random.default_rng(n)
    late, covered = horizon - horizon // 10, []
    for _ in range(12):
        values = 100 + 10 * np.sin(np.arange(n + horizon) * 2 * np.pi / season) + rng.normal(size=n + horizon)
        chosen = recommend(hours(values[:n]), horizon=horizon, season=season)
        assert chosen.choice == "hedged naive" and f"next {horizon} steps" in chosen.reason
        made = chosen.quantiles(values[:n])
        low, high = made[late:, 1], made[late:, -2]  # of 90 %
        covered.append(((values[n + late :] >= low) & (values[n + late :] <= high)).mean())
    assert np.mean(covered) > 0.8


@pytest.mark.parametrize("unit", [1e-13, 1.0, 1e6, 1e12])
def test_ties_of_the_templates_are_broken_at_random_in_any_unit(unit):
    rng = np.random.default_rng(3)
    flat = np.sort(rng.normal(size=(1, 6, 9)), axis=-1)
    templates = np.repeat(unit * np.ones((400, 1)), 6, axis=1)
    levels = np.linspace(0.1, 0.9, 9)
    paths = Forecast.from_quantiles(flat, levels, templates, rng=rng, **ISSUED).paths[0]
    assert abs(np.corrcoef(paths[:, 0], paths[:, 1])[0, 1]) < 0.2  # 4 standard errors
    together = unit * np.repeat(rng.normal(size=(400, 1)), 6, axis=1)
    paths = Forecast.from_quantiles(flat, levels, together, rng=rng, **ISSUED).paths[0]
    assert np.corrcoef(paths[:, 0].argsort().argsort(), paths[:, 1].argsort().argsort())[0, 1] > 0.999


def test_series_move_together_as_their_own_templates_did():
    rng = np.random.default_rng(4)
    past = rng.normal(size=(2, 500, 3))
    spread = np.repeat(np.linspace(-1, 1, 9)[None, None], 2, axis=0).repeat(3, axis=1)
    levels = np.linspace(0.1, 0.9, 9)
    apart = Forecast.from_quantiles(spread, levels, past, rng=rng, series=("a", "b"), **ISSUED).paths
    assert abs(np.corrcoef(apart[0, :, 0], apart[1, :, 0])[0, 1]) < 0.2
    kept = conformalize(
        Forecast(spread, levels, apart, START, 3600.0, "requests", "m", ("a", "b")),
        [(Forecast(spread, levels, apart, START, 3600.0, "requests", "m", ("a", "b")), rng.normal(size=(2, 3)))] * 4,
        rng=rng,
    ).paths
    assert abs(np.corrcoef(kept[0, :, 0], kept[1, :, 0])[0, 1]) < 0.2
    mirrored = pd.DataFrame({"a": np.sin(np.arange(400) / 4), "b": -np.sin(np.arange(400) / 4)})
    mirrored.index = pd.date_range(START, periods=400, freq="1h")
    made = FoundationEnsemble(["own"]).predict(mirrored, horizon=12, rng=rng).paths
    assert np.corrcoef(made[0, :, 3], made[1, :, 3])[0, 1] < -0.9
    with pytest.raises(SchemaError, match="templates of shape"):
        Forecast.from_quantiles(spread, levels, past[:, :, :2], rng=rng, series=("a", "b"), **ISSUED)


def test_conformal_misses_are_corrected_on_both_sides():
    rng, n, levels = np.random.default_rng(5), 20, np.array([0.05, 0.25, 0.5, 0.75, 0.95])
    flat = lambda width: Forecast(  # noqa: E731  one value of quantiles -1, 0, 0, 1, 2 whatever came
        np.tile([0.0, 1.0, 1.5, 2.0, 3.0], (1, width, 1)),
        levels,
        np.ones((1, 1, width)),
        START,
        3600.0,
        "requests",
        "m",
    )
    below = above = 0
    for _ in range(3000):
        drawn = 100 + rng.exponential(size=n + 1)
        made = conformalize(flat(1), [(flat(n), drawn[None, :n])], rng=rng).quantiles[0, 0]
        below, above = below + (drawn[n] < made[0]), above + (drawn[n] > made[-1])
    # exchangeable: at most 5 % on either side, and with 20 misses at least 5 % - 1/21; three standard errors of 0.4 %
    assert below / 3000 < 0.062 and above / 3000 < 0.062


def test_scores_refuse_levels_that_are_missing_and_other_windows():
    observed = np.arange(24.0).reshape(1, 6, 4)
    one = off_by("one", 1.0, observed)
    later = one.with_quantiles(one.quantiles[:, 3:], "later", 3)
    both = pd.concat([frame_of(one), frame_of(later)], ignore_index=True)
    panel = {"a": hours(np.random.default_rng(1).normal(size=59 * 24 + 24))}
    with pytest.raises(SchemaError, match="6 windows of one and 3 of later"):
        series_scores(both, panel, season=24)
    for baseline in ("one", "later"):
        with pytest.raises(SchemaError, match="Cut all models to the same"):
            loss_by_horizon(both, baseline=baseline, horizons=[1], rng=np.random.default_rng(1))
    deciles = frame_of(one).drop(columns=["q0.05", "q0.95"])
    with pytest.raises(SchemaError, match="level 0.05 is not among"):
        loss_by_horizon(deciles, baseline="one", horizons=[1], rng=np.random.default_rng(1))


def test_a_model_that_calls_no_peak_has_an_f1_of_zero():
    past = np.random.default_rng(1).normal(size=59 * 24)
    observed = np.full((1, 2, 6), 0.0)
    observed[0, 0, 2] = 99.0
    scores = series_scores(
        frame_of(off_by("flat", -200.0, observed)), {"a": hours(np.append(past, np.zeros(12)))}, season=24
    )
    assert np.isnan(scores["peak_precision"].iloc[0]) and scores["peak_f1"].iloc[0] == 0.0


@pytest.mark.parametrize("level", np.round(np.arange(0.02, 1.0, 0.02), 2))
def test_intervals_at_the_outermost_levels(level):
    levels = np.array([round((1 - level) / 2, 6), 0.5, round((1 + level) / 2, 6)])
    made = Forecast(np.array([[[1.0, 2.0, 3.0]]]), levels, np.ones((1, 1, 1)), START, 60.0, "requests", "m")
    assert [float(bound[0, 0]) for bound in made.interval(level)] == pytest.approx([1.0, 3.0])
    rolled = RollingQuantiles(pd.DatetimeIndex([START]), levels, made.quantiles, np.ones((1, 1)), "m", 0)
    assert [float(rolled.at((1 + side * level) / 2)[0, 0]) for side in (-1, 1)] == pytest.approx([1.0, 3.0])
    with pytest.raises(SchemaError):
        made.quantile(levels[0] - 1e-6)


def test_nixtla_rows_in_any_order():
    rng = np.random.default_rng(6)
    made = Forecast.from_paths(rng.normal(size=(3, 50, 4)), series=("b", "a", "c"), **ISSUED)
    frame = made.to_nixtla()
    told = {**ISSUED, "templates": rng.normal(size=(50, 4)), "rng": rng}
    for order in (frame.sort_values("ds", kind="stable"), frame.sample(frac=1.0, random_state=1)):
        read = Forecast.from_nixtla(order, **told)
        rows = [made.series.index(name) for name in read.series]
        assert read.quantiles == pytest.approx(made.quantiles[rows])
    with pytest.raises(SchemaError, match="3 to 4 steps"):
        Forecast.from_nixtla(frame.iloc[:-1], **told)


def test_local_times_become_utc_so_that_a_day_is_24_hours():
    local = {**ISSUED, "issued_at": pd.Timestamp("2026-03-28", tz="Europe/Berlin"), "step_seconds": 86_400.0}
    made = Forecast.from_paths(np.ones((1, 2, 3)), **local)
    assert str(made.issued_at.tz) == "UTC" and set(np.diff(made.timestamps.asi8)) == {
        made.timestamps.asi8[1] - made.timestamps.asi8[0]
    }


def test_gaps_and_missing_values_do_not_pass_for_a_regular_series():
    whole = pd.Series(
        100 + np.random.default_rng(7).normal(size=1440),
        pd.date_range(START, periods=1440, freq="60s"),
        name="requests",
    )
    holed = whole.copy()
    holed.iloc[700] = np.nan
    for call in (
        lambda x: fit_short_term(x, horizon_ticks=3),
        lambda x: roll_daily(x, x.index[1000], train_days=1, horizon_ticks=3),
        lambda x: recommend(x, horizon=3, season=60),
    ):
        with pytest.raises(SchemaError, match="1 value is missing, the first at 2026-01-01 11:40"):
            call(holed)
        with pytest.raises(SchemaError, match="not regular, its step changes after 2026-01-01 04:59"):
            call(whole.drop(whole.index[300:400]))
    with pytest.raises(TooShortError, match="1 value"):
        fit_short_term(whole.iloc[:1], horizon_ticks=1)
    for start in whole.index[:2]:
        with pytest.raises(TooShortError):
            roll_daily(whole, start, train_days=1, horizon_ticks=3)
    with pytest.raises(SchemaError, match="after the last tick"):
        roll_daily(whole, whole.index[-1] + pd.Timedelta("1h"), train_days=1, horizon_ticks=3)


def test_whole_numbers_are_not_cut():
    times = pd.date_range(START, periods=300, freq="60s")
    levels, row = np.array([0.1, 0.5, 0.9]), np.array([2, 3, 4])
    seen = pd.Series(np.random.default_rng(8).normal(3, 2, 300), index=times)
    made = [
        RollingQuantiles(times, levels, np.tile(row + shift, (300, 1, 1)).astype(kind), np.full((300, 1), 3.0), "m", 0)
        for kind in (int, float)
        for shift in (0, 2)
    ]
    for one, other in ((recalibrate(made[0], seen), recalibrate(made[2], seen)),
                       (aggregate(made[:2], seen, half_life_ticks=50), aggregate(made[2:], seen, half_life_ticks=50))):  # fmt: skip
        assert one.quantiles == pytest.approx(other.quantiles, abs=1e-5)


def test_the_median_stays_whatever_other_levels_are_asked_for():
    rng = np.random.default_rng(9)
    values = {"a": 10 + np.sin(np.arange(600) * 2 * np.pi / 24) + rng.gamma(1.0, 1.0, 600)}
    points = []
    for levels in ([0.1, 0.5, 0.9], [0.5, 0.9, 0.975]):
        fitted = fit_ridge(
            values, context=48, horizon=4, season=24, levels=np.array(levels), rng=np.random.default_rng(1)
        )
        points.append(fitted.predict({"a": values["a"][-48:]}, rng=rng)["a"][:, levels.index(0.5)])
    assert points[0] == pytest.approx(points[1], rel=0.02)


def test_a_window_of_a_season_is_there_without_the_block_of_seasons():
    made = features(
        {"b": hours(np.arange(99.0)), "a": hours(np.ones(99))}, plan=FeaturePlan(seasons=(24,), groups=("rolling",))
    )
    assert {"mean_24", "std_24", "min_24", "max_24"} <= set(made.columns)
    assert made.loc["b", "mean_24"].iloc[-1] == pytest.approx(np.arange(75, 99).mean())


def test_a_constant_row_has_a_scale_of_one():
    for scaler in ("robust", "standard", "minmax"):
        assert location_scale(np.full((1, 48), 0.1), scaler)[1].tolist() == [[1.0]]


def test_refusals_instead_of_crashes():
    day = hours(np.random.default_rng(10).normal(10, 1, 200))
    with pytest.raises(SchemaError, match="beyond the season"):
        seasonal_naive(day, horizon=30, season=24, rng=np.random.default_rng(1))
    with pytest.raises(SchemaError, match="season of 1 step"):
        mstl(day, horizon=3, season=1, rng=np.random.default_rng(1))
    with pytest.raises(BookError, match="no trial finished"):
        search(
            fit_rvfl, {"n_nodes": (1, 9)}, {"a": day.to_numpy()}, context=24, horizon=6, season=12,
            levels=np.array([0.1, 0.5, 0.9]), rng=np.random.default_rng(0), budget_s=0.0,
        )  # fmt: skip


def test_ranks_that_are_all_the_same_tell_of_no_dependence():
    assert rank_correlation(np.full((4, 5), 0.9995)).tolist() == np.eye(5).tolist()


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("values", [[5.0] * 9 + [9.0], [5.0, 6.0], [5.0] * 9])
def test_a_short_past_that_jumps_once_still_has_paths(values):
    made = recommend(hours(values), horizon=3, season=1).forecast(
        hours(values), unit="requests", rng=np.random.default_rng(1)
    )
    assert np.isfinite(made.paths).all()


def test_a_net_of_numpy_sizes_can_be_kept(tmp_path):
    wave = {"a": np.sin(np.arange(200) * 2 * np.pi / 24)}
    net = fit_lstm(
        wave, context=np.int64(24), horizon=np.int64(4), season=24, levels=np.array([0.1, 0.5, 0.9]),
        rng=np.random.default_rng(1), plan=TrainingPlan(steps=4), width=4,
    )  # fmt: skip
    read = load_net(save_net(net, tmp_path / "net"))
    same = [n.predict({"a": wave["a"][-24:]}, rng=np.random.default_rng(2))["a"] for n in (net, read)]
    assert np.array_equal(*same)


def test_pinball_of_the_hedged_naive_is_finite_beyond_the_past():
    values = np.random.default_rng(11).normal(50, 5, 300)
    made = recommend(hours(values), horizon=290, season=24).quantiles(values)
    assert np.isfinite(pinball(np.full(290, 50.0), made, QUANTILE_LEVELS)).all()
    assert (np.diff(made[[-1]][:, [1, -2]]) > 5).all()  # the last step, too, has an interval: 90 % of sd 5 is 16 wide


def test_levels_of_any_size_come_back_from_disk(tmp_path):
    levels = np.array([5e-5, 1 / 3, 0.5, 0.99995])
    made = Forecast.from_paths(np.random.default_rng(12).normal(size=(1, 50, 3)), levels=levels, **ISSUED)
    write_forecasts([made], tmp_path)
    read = read_forecasts(tmp_path)[0]
    assert read.levels == pytest.approx(levels, rel=1e-11) and np.array_equal(read.quantiles, made.quantiles)


def test_the_lowest_value_bounds_quantiles_and_paths_alike():
    made = copula_paths(
        np.array([[[-1.0, 0.5, 2.0]]]), np.array([0.1, 0.5, 0.9]), np.eye(1), n_draws=50, lowest=0.0,
        rng=np.random.default_rng(13), **ISSUED,
    )  # fmt: skip
    assert made.quantiles.tolist() == [[[0.0, 0.5, 2.0]]] and made.paths.min() >= 0
