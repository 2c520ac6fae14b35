"""Rolling forecasts against plain loops, closed forms, and a future that is changed."""

from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy.stats import norm

from support.autoscaling.rolling import (
    forecast_scores,
    roll_aggregated,
    roll_boosting,
    roll_global,
    roll_local,
    roll_persistence,
    roll_seasonal_naive,
)
from support.errors import SchemaError, TooShortError
from support.forecasting import RollingQuantiles, pinball, roll_daily
from support.forecasting.aggregation import aggregate
from support.forecasting.boosting import fit_boosting
from support.forecasting.foundation import own_zero_shot
from support.forecasting.local_models import LOCAL_MODELS
from support.forecasting.neural.models import fit_lstm
from support.forecasting.neural.training import TrainingPlan
from support.forecasting.recalibration import recalibrate
from support.forecasting.recommendation import recommended
from support.forecasting.rolling_quantiles import TICK_LEVELS

HOUR = 3600
DAY = 24


def hourly(n_days, seed=0, step=HOUR):
    rng = np.random.default_rng(seed)
    n = n_days * 86_400 // step
    clock = np.arange(n) * step / 86_400
    values = 100 * np.exp(0.5 * np.sin(2 * np.pi * clock) + 0.1 * rng.standard_normal(n))
    return pd.Series(values, index=pd.date_range("2026-01-01", periods=n, freq=f"{step}s", tz="UTC"), name="requests")


def climatology(demand, start, **options):
    return roll_local(
        demand, start, model=LOCAL_MODELS["Climatology"], name="clock", rng=np.random.default_rng(1), **options
    )


def boosting(demand, start, **options):
    return roll_boosting(demand, start, rng=np.random.default_rng(1), **options)


def asked(model, demand, start, **options):
    return roll_local(demand, start, model=model, name="asked", rng=np.random.default_rng(1), refit_days=0.0, **options)


def net(demand, start, **options):
    small = partial(fit_lstm, width=4, patch=1, plan=TrainingPlan(steps=4, judge_every=2, batch=4))
    return roll_global(
        demand,
        start,
        model=small,
        name="net",
        context_ticks=DAY,
        rng=np.random.default_rng(1),
        refit_days=1.0,
        **options,
    )


def aggregated(demand, start, **options):
    return roll_aggregated(demand, start, rng=np.random.default_rng(1), max_iter=5, **options)


ROLLS = {
    "persistence": roll_persistence, "seasonal naive": roll_seasonal_naive, "climatology": climatology,
    "boosting": boosting, "recommended": partial(asked, recommended), "zero-shot": partial(asked, own_zero_shot().local),
    "net": net, "aggregate": aggregated,
}  # fmt: skip


@pytest.mark.parametrize("season", [1, DAY])
@pytest.mark.parametrize("lag", [0, 2])
def test_naive_forecasts_equal_a_plain_loop(season, lag):
    demand = hourly(12)
    start, horizon = demand.index[10 * DAY], 30
    roll = roll_persistence if season == 1 else roll_seasonal_naive
    made = roll(demand, start, train_days=6, horizon_ticks=horizon, lag_ticks=lag)
    y = demand.to_numpy()
    for t in (10 * DAY, 10 * DAY + 5, 11 * DAY + 23):
        midnight = t - t % DAY
        for h in (0, 3, 24, horizon - 1):
            newest = max(i for i in range(t - lag) if (t + h - i) % season == 0)
            back = t + h - newest
            ratios = [
                (1 + y[s]) / (1 + y[s - back]) for s in range(midnight - lag) if s - back >= midnight - lag - 6 * DAY
            ]
            want = np.exp(np.quantile(np.log(ratios), TICK_LEVELS)) * (1 + y[newest]) - 1
            row, most = t - 10 * DAY, 2 * y[: t - lag].max()  # twice what was ever seen
            np.testing.assert_allclose(made.quantiles[row, h], np.clip(want, 0, most), rtol=1e-9)
            mean = np.mean(ratios) * (1 + y[newest]) - 1
            assert made.mean[row, h] == pytest.approx(min(max(mean, 0), most), rel=1e-9)


@pytest.mark.parametrize("name", ROLLS)
def test_the_future_changes_nothing(name):
    demand = hourly(12)
    first, tick, lag, horizon = 10 * DAY, 10 * DAY + 7, 1, 4
    options = {"train_days": 8, "horizon_ticks": horizon, "lag_ticks": lag}
    before = ROLLS[name](demand, demand.index[first], **options)
    changed = demand.copy()
    changed.iloc[tick - lag :] = 10_000.0
    after = ROLLS[name](changed, demand.index[first], **options)
    rows = tick - first + 1
    np.testing.assert_array_equal(before.quantiles[:rows], after.quantiles[:rows])
    np.testing.assert_array_equal(before.mean[:rows], after.mean[:rows])
    assert not np.array_equal(before.quantiles[DAY:], after.quantiles[DAY:])  # but the next day learns of it


@pytest.mark.parametrize("name", ROLLS)
def test_shapes_are_those_of_the_ridge(name):
    demand = hourly(12, step=1800)
    options = {"train_days": 8, "horizon_ticks": 3}
    like = roll_daily(demand, demand.index[10 * 48], **options)
    made = ROLLS[name](demand, demand.index[10 * 48], **options)
    assert made.timestamps.equals(like.timestamps)
    assert made.quantiles.shape == like.quantiles.shape and made.mean.shape == like.mean.shape
    assert (np.diff(made.quantiles, axis=-1) >= 0).all() and (made.quantiles >= 0).all()


def test_a_daily_plan_is_the_local_forecast_of_midnight():
    demand, horizon, lag = hourly(12), 4, 2
    made = climatology(demand, demand.index[10 * DAY], train_days=5, horizon_ticks=horizon, lag_ticks=lag)
    past = demand.to_numpy()[5 * DAY - lag : 10 * DAY - lag]
    want = LOCAL_MODELS["Climatology"](past, lag + DAY + horizon, DAY, TICK_LEVELS, np.random.default_rng(1))
    for hour, h in ((0, 0), (5, 3), (23, 3)):
        np.testing.assert_allclose(made.quantiles[hour, h], want[lag + hour + h])


@pytest.mark.parametrize("name", ["recommended", "zero-shot", "net"])
def test_the_order_of_the_future_changes_nothing_before(name):
    demand = hourly(12)
    first, tick, lag = 10 * DAY, 10 * DAY + 7, 1
    options = {"train_days": 8, "horizon_ticks": 4, "lag_ticks": lag}
    before = ROLLS[name](demand, demand.index[first], **options)
    later = demand.copy()
    later.iloc[tick - lag :] = np.random.default_rng(5).permutation(demand.to_numpy()[tick - lag :])
    after = ROLLS[name](later, demand.index[first], **options)
    rows = tick - first + 1
    np.testing.assert_array_equal(before.quantiles[:rows], after.quantiles[:rows])
    assert not np.array_equal(before.quantiles[rows], after.quantiles[rows])  # one tick later it is known


@pytest.mark.parametrize("lag", [0, 2])
def test_asked_at_every_tick_a_local_model_sees_the_newest_values_known(lag):
    demand, horizon = hourly(30), 4
    first = 25 * DAY
    made = asked(recommended, demand, demand.index[first], train_days=20, horizon_ticks=horizon, lag_ticks=lag)
    for row in (0, 9, 5 * DAY - 1):
        end = first + row - lag
        past = demand.to_numpy()[end - 20 * DAY : end]  # enough for the mixture, so the choice is not the plain one
        want = recommended(past, lag + horizon, DAY, TICK_LEVELS, np.random.default_rng(1))[lag:]
        np.testing.assert_allclose(made.quantiles[row], np.maximum(want, 0.0))


class Remembers:
    """A global model that repeats what it was fitted on and asked: (length of the past, its last value, newest value)."""

    def __init__(self, train, *, context, horizon, season, levels, rng):
        self.past, self.horizon, self.context, self.levels = train["demand"], horizon, context, levels

    def predict(self, contexts, *, rng):
        ((name, newest),) = contexts.items()
        assert name == "demand" and len(newest) == self.context
        told = np.empty((self.horizon, len(self.levels)))
        told[:] = np.arange(self.horizon)[:, None] + newest[-1] + 1e6 * self.past[-1]
        return {name: told}


@pytest.mark.parametrize("lag", [0, 2])
def test_a_global_model_is_fitted_on_the_past_and_asked_at_every_tick(lag):
    demand = pd.Series(np.arange(12.0 * DAY), index=hourly(12).index)
    first, horizon = 9 * DAY, 3
    made = roll_global(
        demand, demand.index[first], model=Remembers, name="remembers", train_days=5, horizon_ticks=horizon,
        context_ticks=7, rng=np.random.default_rng(0), lag_ticks=lag, refit_days=2.0,
    )  # fmt: skip
    assert made.quantiles.shape == (3 * DAY, horizon, len(TICK_LEVELS)) and made.model == "remembers"
    for row in range(3 * DAY):
        fitted_at = first + 2 * DAY * (row // (2 * DAY))
        newest = first + row - lag - 1  # values are their own position
        want = lag + np.arange(horizon) + newest + 1e6 * (fitted_at - lag - 1)
        np.testing.assert_array_equal(made.quantiles[row, :, 0], want)


def test_the_rows_of_a_net_are_its_predictions_one_by_one():
    demand, context = hourly(12), 30
    plan = TrainingPlan(steps=4, judge_every=2, batch=4)
    small = partial(fit_lstm, width=4, patch=1, plan=plan)
    made = roll_global(
        demand, demand.index[10 * DAY], model=small, name="net", train_days=8, horizon_ticks=3, context_ticks=context,
        rng=np.random.default_rng(7),
    )  # fmt: skip
    y = demand.to_numpy()
    alone = small(
        {"demand": y[2 * DAY : 10 * DAY]}, context=context, horizon=3, season=DAY, levels=TICK_LEVELS,
        rng=np.random.default_rng(7),
    )  # fmt: skip
    for row in (0, 11, 47):
        want = alone.predict({"demand": y[: 10 * DAY + row]}, rng=np.random.default_rng(0))["demand"]
        np.testing.assert_allclose(made.quantiles[row], np.maximum(want, 0.0), rtol=1e-6)


def test_many_origins_at_once_equal_one_by_one():
    y, rng = hourly(20).to_numpy(), np.random.default_rng(2)
    model = fit_boosting(
        {"a": y[: 15 * DAY]}, context=2 * DAY, horizon=5, season=DAY, levels=TICK_LEVELS, rng=rng, max_iter=5
    )
    rows = np.array([47, 300, 479])
    together = model.predict_at(y, rows)
    for found, row in zip(together, rows, strict=True):
        alone = model.predict({"a": y[: row + 1]}, rng=rng)["a"]
        np.testing.assert_allclose(found, alone, rtol=1e-9)
    with pytest.raises(TooShortError, match="47 values"):
        model.predict_at(y, np.array([46]))


def test_too_short_a_past_is_refused():
    demand = hourly(4)
    for name in ("seasonal naive", "boosting"):
        with pytest.raises(TooShortError):
            ROLLS[name](demand, demand.index[DAY], train_days=8, horizon_ticks=3)
    odd = pd.Series(1.0, index=pd.date_range("2026-01-01", periods=900, freq="7min", tz="UTC"))
    with pytest.raises(SchemaError, match="420 s"):
        roll_seasonal_naive(odd, odd.index[800], train_days=2, horizon_ticks=3)


def normal_rolling(levels, sd, n, name="normal"):
    index = pd.date_range("2026-01-01", periods=n, freq="60s", tz="UTC")
    quantiles = np.broadcast_to(50 + sd * norm.ppf(levels), (n, 2, len(levels))).copy()
    return RollingQuantiles(index, levels, quantiles, np.full((n, 2), 50.0), name, 0)


def test_crps_is_that_of_the_normal_distribution():
    levels, sd, n = np.arange(1, 1000) / 1000, 3.0, 400
    rolling = normal_rolling(levels, sd, n)
    y = 50 + sd * np.random.default_rng(3).standard_normal(n)
    z = (y[1:] - 50) / sd
    want = sd * (
        z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / np.sqrt(np.pi)
    )  # Gneiting and Raftery (2007), eq. 21
    found = forecast_scores(rolling, pd.Series(y, index=rolling.timestamps), level=0.9)
    assert found["crps"] == pytest.approx(want.mean(), rel=2e-3)  # the tails beyond 0.1 % are held flat
    q = 50 + sd * norm.ppf(0.9)
    assert found["pinball"] == pytest.approx(2 * np.where(y[1:] > q, 0.9 * (y[1:] - q), 0.1 * (q - y[1:])).mean())
    assert found["below_percent"] == pytest.approx(100 * (y[1:] <= q).mean())


def test_the_aggregate_is_its_experts_aggregated_and_recalibrated():
    demand = hourly(40)
    start, warm = demand.index[36 * DAY], demand.index[29 * DAY]  # a week before
    span = {"horizon_ticks": 3, "lag_ticks": 1}
    rng = np.random.default_rng(1)
    boosted = partial(roll_boosting, train_days=20, rng=rng, max_iter=5, **span)
    parts = boosted(demand, start), boosted(demand[:start].iloc[:-1], warm)  # in the order in which they are drawn
    experts = [
        roll_daily(demand, warm, train_days=20, **span),
        roll_persistence(demand, warm, train_days=5, **span),
        roll_seasonal_naive(demand, warm, train_days=20, **span),
    ]
    joined = np.concatenate([parts[1].quantiles, parts[0].quantiles])
    trees = RollingQuantiles(
        experts[0].timestamps, TICK_LEVELS, joined, np.concatenate([parts[1].mean, parts[0].mean]), "t", 1
    )
    wanted = recalibrate(aggregate([*experts, trees], demand, half_life_ticks=DAY), demand).rows(7 * DAY)
    other = partial(roll_seasonal_naive, train_days=20, **span)
    got = aggregated(demand, start, train_days=20, others=[other], **span)
    np.testing.assert_allclose(got.quantiles, wanted.quantiles, rtol=1e-9)
    np.testing.assert_allclose(got.mean, wanted.mean, rtol=1e-9)
    assert got.timestamps.equals(demand.index[36 * DAY :])


def test_the_aggregate_is_never_far_from_its_best_expert():
    """Days repeat, then they do not: each expert is the best on one part, the aggregate is near the best on both."""
    rng = np.random.default_rng(3)
    clock = np.arange(60 * DAY)
    season = 100 * np.exp(0.8 * np.sin(2 * np.pi * clock / DAY))
    walk = 100 * np.exp(np.cumsum(rng.normal(0, 0.15, len(clock))))
    values = np.where(clock < 45 * DAY, season * np.exp(rng.normal(0, 0.1, len(clock))), walk)
    demand = pd.Series(values, index=pd.date_range("2026-01-01", periods=len(clock), freq="1h", tz="UTC"), name="r")
    start, span = demand.index[30 * DAY], {"train_days": 20, "horizon_ticks": 2}
    naive = partial(roll_seasonal_naive, **span)
    made = {
        "seasonal": naive(demand, start),
        "persistence": roll_persistence(demand, start, **span),
        "both": aggregated(demand, start, others=[naive], **span),
    }
    for rows in (slice(0, 14 * DAY), slice(16 * DAY, 30 * DAY)):
        lost = {
            n: np.mean(pinball(values[30 * DAY :][rows], f.quantiles[rows, 0], TICK_LEVELS)) for n, f in made.items()
        }
        assert lost["both"] < 1.05 * min(lost["seasonal"], lost["persistence"])


def test_experts_without_enough_past_are_left_out_and_the_name_says_so():
    demand = hourly(20, step=7 * 60)  # a day is no whole number of 7 minutes: no trees
    made = aggregated(demand, demand.index[3000], train_days=14, horizon_ticks=2)
    assert made.model == "aggregate of direct ridge, persistence, recalibrated"
    short = hourly(4)
    made = aggregated(short, short.index[40], train_days=14, horizon_ticks=2)  # too short for the ridge
    assert made.model == "aggregate of persistence, recalibrated"
    with pytest.raises(TooShortError, match="no expert has enough past"):
        aggregated(short, short.index[3], train_days=14, horizon_ticks=2)


def test_persistence_does_not_believe_a_ratio_of_the_night_at_noon():
    """From nothing to hundreds is a ratio of hundreds; the newest value times that was never seen."""
    rng = np.random.default_rng(5)
    values = np.where(rng.random(600) < 0.5, 0.0, 300.0)
    demand = pd.Series(values, index=pd.date_range("2026-01-01", periods=600, freq="60s", tz="UTC"), name="r")
    made = roll_persistence(demand, demand.index[400], train_days=1, horizon_ticks=5)
    assert made.quantiles.max() == 600.0
    assert made.mean.max() <= 600.0
