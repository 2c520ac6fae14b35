"""The recommended forecaster: loops for its weighted quantiles, the choice and its reasons, no look ahead, paths."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given as for_any
from hypothesis import settings
from hypothesis import strategies as st
from scipy.optimize import nnls
from scipy.stats import gamma

from support.errors import SchemaError, TooShortError
from support.forecasting.analogs import AnalogExpert, LevelExpert, NaiveExpert, RecentExpert, short_cycle, smoothed
from support.forecasting.local_models import seasonal_naive_empirical
from support.forecasting.metrics import pinball
from support.forecasting.quantile_frame import QUANTILE_LEVELS
from support.forecasting.recommendation import RECOMMENDED, recommend, recommended

SEASON, HORIZON = 48, 24
STEPS = np.arange(1, HORIZON + 1)


def series(n=700, seed=0, season=SEASON):
    rng = np.random.default_rng(seed)
    wave = 10 + 3 * np.sin(2 * np.pi * np.arange(n) / season)
    return wave + smoothed(rng.normal(0, 2, n), 0.3)


def history(n=700, name="demand", **given):
    return pd.Series(series(n, **given), pd.date_range("2026-01-01", periods=n, freq="30min", tz="UTC"), name=name)


def test_analogs_are_weighted_quantiles_of_what_followed():
    values = series()
    expert, origin = AnalogExpert(values, SEASON), 650
    weights = expert.weights(origin)
    assert (weights[origin + 1 :] == 0).all() and weights.argmax() == origin
    for step in (1, 7, 24):
        moments = np.arange(expert.first, origin - step + 1)
        order = np.argsort(values[moments + step], kind="stable")
        held = weights[moments][order]
        middle = (np.cumsum(held) - held / 2) / held.sum()
        by_hand = np.interp(QUANTILE_LEVELS, middle, values[moments + step][order])
        np.testing.assert_allclose(expert.at(origin, np.array([step]), QUANTILE_LEVELS)[0], by_hand, rtol=1e-9)


@pytest.mark.parametrize("bend", [True, False])
def test_level_has_empirical_errors_by_step(bend):
    values = series(180)
    expert = LevelExpert(values, rate=0.2, bend=bend)
    made = expert.at(len(values) - 1, STEPS, QUANTILE_LEVELS)
    scaled = np.arcsinh((values - expert.centre) / expert.scale) if bend else values
    for step in (1, 24):
        moments = np.arange(len(values) - 1 - step, 44, -1)
        by_hand = expert.level[-1] + np.quantile(scaled[moments + step] - expert.level[moments], QUANTILE_LEVELS)
        by_hand = np.sinh(by_hand) * expert.scale + expert.centre if bend else by_hand
        np.testing.assert_allclose(made[step - 1], by_hand, rtol=1e-9)


def test_the_recent_distribution_is_that_of_values_repeated_by_their_age():
    """Weights as counts: each value stands in a sample as often as its weight says; hardly any of the far past does."""
    values, memory, origin = series(), 60.0, 600
    made = RecentExpert(values, memory=memory).at(origin, STEPS, QUANTILE_LEVELS)
    ago = origin - np.arange(origin + 1)
    often = np.exp(-ago / memory)
    often = np.round(1e6 * (often + 1e-3 * often.mean())).astype(int)
    sample = np.repeat(values[: origin + 1], often)
    steps = np.subtract(*np.quantile(values, [0.99, 0.01])) / 60  # about sixty values carry the weight
    np.testing.assert_allclose(made, np.broadcast_to(np.quantile(sample, QUANTILE_LEVELS), made.shape), atol=3 * steps)
    later = np.where(np.arange(len(values)) > origin, 1e9, values)
    np.testing.assert_array_equal(RecentExpert(later, memory=memory).at(origin, STEPS, QUANTILE_LEVELS), made)
    even = RecentExpert(values, memory=1e12).at(len(values) - 1, STEPS[:1], QUANTILE_LEVELS)[0]
    np.testing.assert_allclose(even, np.quantile(values, QUANTILE_LEVELS, method="hazen"), rtol=1e-6)


def test_naive_expert_is_the_baseline():
    values, rng = series(), np.random.default_rng(0)
    for origin in (300, 699):
        base = seasonal_naive_empirical(values[: origin + 1], HORIZON, SEASON, QUANTILE_LEVELS, rng)
        np.testing.assert_allclose(NaiveExpert(values, SEASON).at(origin, STEPS, QUANTILE_LEVELS), base)


def test_short_cycle_is_found_and_noise_has_none():
    rng = np.random.default_rng(0)
    spikes = rng.normal(size=900) + 4 * (np.arange(900) % 12 == 0)
    period, strength = short_cycle(spikes, 288)
    assert period % 12 == 0 and period > 0 and strength > 0.15  # any multiple has the same phase
    assert short_cycle(rng.normal(size=2000), 288) == (0, 0.0) and short_cycle(np.ones(900), 288) == (0, 0.0)


def test_beats_seasonal_naive_where_the_level_persists_and_covers():
    losses, inside = [], []
    values = series(3000)
    for cut in range(1200, 2900, 100):
        context, seen = values[cut - 1000 : cut], values[cut : cut + HORIZON]
        made = recommended(context, HORIZON, SEASON, QUANTILE_LEVELS, np.random.default_rng(0))
        base = seasonal_naive_empirical(context, HORIZON, SEASON, QUANTILE_LEVELS, np.random.default_rng(0))
        losses.append([pinball(seen, q, QUANTILE_LEVELS).mean() for q in (made, base)])
        inside.append((seen >= made[:, 1]) & (seen <= made[:, -2]))
    assert np.divide(*np.mean(losses, axis=0)) < 0.9
    assert np.mean(inside) == pytest.approx(0.9, abs=0.05)


@pytest.mark.parametrize("values", [np.ones(500), np.arange(500.0), (np.arange(500) % 7 == 0) * 5.0, series(60)])
@pytest.mark.parametrize("season", [1, 24])
def test_quantiles_are_finite_and_sorted_for_awkward_series(values, season):
    made = recommended(values, 30, season, QUANTILE_LEVELS, np.random.default_rng(0))
    assert np.isfinite(made).all() and (np.diff(made, axis=1) >= -1e-9).all()


def test_the_scale_goes_along():
    values = series()
    one, other = (
        recommended(v, HORIZON, SEASON, QUANTILE_LEVELS, np.random.default_rng(0)) for v in (values, values * 1e6 + 5)
    )
    np.testing.assert_allclose(one * 1e6 + 5, other, rtol=1e-6)


def baseline(context, horizon, season):
    return seasonal_naive_empirical(context, horizon, season, QUANTILE_LEVELS, np.random.default_rng(0))


def own(context, horizon, season):
    return recommended(context, horizon, season, QUANTILE_LEVELS, np.random.default_rng(0))


@for_any(season=st.integers(1, 60), seasons=st.integers(2, 12), seed=st.integers(0, 9), horizon=st.integers(1, 70))
@settings(max_examples=25, deadline=None)
def test_a_past_that_repeats_itself_exactly_is_repeated(season, seasons, seed, horizon):
    pattern = np.random.default_rng(seed).gamma(0.3, 5.0, season)
    for context in (np.tile(pattern, seasons), np.tile(pattern, -(-500 // season) + 3), np.full(450 + season, 7.0)):
        made = own(context, horizon, season)
        np.testing.assert_array_equal(made, baseline(context, horizon, season))
        ahead = context[-season:][np.arange(horizon) % season]
        np.testing.assert_array_equal(made, np.broadcast_to(ahead[:, None], made.shape))


@pytest.mark.parametrize("n", [300, 600])
def test_a_rare_spike_long_ago_leaves_seasonal_naive_alone(n):
    """Requests that hardly ever come: naive's deciles are zero, and any other number would be a loss without a ratio."""
    context = np.zeros(n)
    context[40] = 9.0
    made = own(context, HORIZON, SEASON)
    np.testing.assert_array_equal(made, baseline(context, HORIZON, SEASON))
    assert (made[:, 2:-2] == 0).all()


def test_a_short_past_is_an_average_with_a_floor_under_the_share_of_seasonal_naive():
    """The pinball loss is convex: whatever comes, the loss is at most that share of naive's and the rest of the levels'."""
    rng, shares = np.random.default_rng(0), {}
    for name, context, season in (
        ("level", rng.normal(10, 1, 350), 1), ("walk", rng.normal(0, 1, 350).cumsum(), 1),
        ("day", np.tile(rng.gamma(1, 5, 150), 2)[:290] + rng.normal(0, 0.1, 290), 150),
        ("noise", rng.normal(10, 1, 290), 150), ("few", rng.normal(10, 1, 350), 35),
    ):  # fmt: skip
        made, base = own(context, HORIZON, season), baseline(context, HORIZON, season)
        experts = [LevelExpert(context, rate=rate, bend=False) for rate in (0.05, 0.1, 0.2)]
        experts.append(RecentExpert(context, memory=100))
        said = [base, *(e.at(len(context) - 1, STEPS, QUANTILE_LEVELS) for e in experts)]
        weights, rest = nnls(np.stack([q.ravel() for q in said], axis=1), made.ravel())  # which average it is
        assert rest < 1e-6 * np.linalg.norm(made) and weights.sum() == pytest.approx(1, abs=1e-6)
        shares[name] = weights[0]
        for seen in (np.zeros(HORIZON), np.full(HORIZON, 100.0), rng.normal(10, 3, HORIZON), base[:, 7]):
            losses = [pinball(seen, q, QUANTILE_LEVELS).mean() for q in (made, *said)]
            assert losses[0] <= weights @ losses[1:] + 1e-6
    assert shares["level"] == pytest.approx(0.25) and shares["few"] == pytest.approx(0.5)  # the floors
    assert shares["noise"] == pytest.approx(0.75) and shares["walk"] > 0.9 and shares["day"] > 0.9


def test_a_short_past_of_noise_is_forecast_by_its_distribution():
    """Independent values around one level: the loss of the true quantiles is the least there is; naive's is far more."""
    rng, losses = np.random.default_rng(3), []
    truth = np.broadcast_to(gamma.ppf(QUANTILE_LEVELS, 2.0), (HORIZON, len(QUANTILE_LEVELS)))
    for _ in range(20):
        context, seen = rng.gamma(2.0, 1.0, 350), rng.gamma(2.0, 1.0, HORIZON)
        made = [own(context, HORIZON, 1), baseline(context, HORIZON, 1), truth]
        losses.append([pinball(seen, q, QUANTILE_LEVELS).mean() for q in made])
    mine, naive, least = np.mean(losses, axis=0)
    assert least < mine < least + 0.25 * (naive - least)


def test_a_peak_at_one_minute_of_the_day_is_expected_there():
    """A nightly job of one step in a hundred: the level never sees it coming, seasonal naive and the mixture do."""
    season, horizon, rng = 96, 96, np.random.default_rng(0)
    values = 10 + smoothed(rng.normal(0, 0.5, 1500), 0.3)
    values[70::season] += 200 + rng.normal(0, 5, len(values[70::season]))
    ratio = []
    for cut in range(900, 1400, 61):
        seen, context = values[cut : cut + horizon], values[cut - 800 : cut]
        losses = [pinball(seen, f(context, horizon, season), QUANTILE_LEVELS).mean() for f in (own, baseline)]
        where = int(seen.argmax())
        assert own(context, horizon, season)[where, 7] > 150
        ratio.append(losses)
    assert np.divide(*np.mean(ratio, axis=0)) <= 1.05


def test_an_odd_day_is_outvoted():
    """Yesterday's outage comes again in seasonal naive; the median of the days before knows better."""
    season, rng = 96, np.random.default_rng(1)
    values = 50 + 20 * np.sin(2 * np.pi * np.arange(1056) / season) + rng.normal(0, 1, 1056)
    values[960 - 60 : 960 - 20] = 0.0
    context, seen = values[:960], values[960:]
    losses = [pinball(seen, f(context, season, season), QUANTILE_LEVELS).mean() for f in (own, baseline)]
    assert losses[0] < 0.5 * losses[1]


def test_choice_and_reason():
    long, short = history(), history(90)
    assert recommend(long, horizon=HORIZON, season=SEASON).choice == "analog mixture"
    assert recommend(short, horizon=4, season=24).choice == "hedged naive"
    few = recommend(long, horizon=HORIZON, season=300)
    assert few.choice == "hedged naive" and "2.3 seasons are fewer than 3" in few.reason
    hurried = recommend(long, horizon=HORIZON, season=SEASON, budget_s=1e-9)
    assert hurried.choice == "seasonal naive" and "more than the 1e-09 s allowed" in hurried.reason
    seconds = recommend(long, horizon=HORIZON, season=SEASON).seconds
    assert recommend(long, horizon=HORIZON, season=SEASON, budget_s=seconds / 2).choice == "analogs"
    for budget in (60.0, seconds / 2, 1e-9):
        made = recommend(long, horizon=HORIZON, season=SEASON, budget_s=budget).forecast(
            long, unit="u", rng=np.random.default_rng(0), n_draws=50
        )
        assert made.paths.shape == (1, 50, HORIZON) and made.model == RECOMMENDED


def test_forecast_has_marginals_and_paths_of_the_past():
    panel = {"a": history(), "b": history(seed=1)}
    n_draws = 400
    made = recommend(panel, horizon=HORIZON, season=SEASON).forecast(
        panel, unit="u", rng=np.random.default_rng(0), n_draws=n_draws
    )
    assert made.series == ("a", "b") and made.issued_at == panel["a"].index[-1] and made.step_seconds == 1800
    below = (made.paths[:, :, :, None] <= made.quantiles[:, None]).mean(axis=1)
    np.testing.assert_allclose(below, np.broadcast_to(QUANTILE_LEVELS, below.shape), atol=1 / n_draws + 1e-9)
    near = [np.corrcoef(made.paths[0, :, h], made.paths[0, :, h + 1])[0, 1] for h in range(HORIZON - 1)]
    assert np.mean(near) > 0.4  # the noise of the series has 0.7 at lag one; independent steps would have 0
    floor = recommend(panel, horizon=4, season=SEASON).forecast(
        panel, unit="u", rng=np.random.default_rng(0), lowest=9.0
    )
    assert floor.quantiles.min() >= 9 and floor.paths.min() >= 9


def test_bad_input_is_named():
    with pytest.raises(TooShortError, match="no more than a season"):
        recommend(history(40), horizon=4, season=48)
    with pytest.raises(SchemaError, match="no series"):
        recommend({}, horizon=4, season=48)
    with pytest.raises(SchemaError, match="not regular"):
        recommend(history().drop(history().index[5]), horizon=4, season=48)
    with pytest.raises(SchemaError, match="tz_localize"):
        recommend(history().tz_localize(None), horizon=4, season=48)
    with pytest.raises(SchemaError, match="different times"):
        recommend({"a": history(), "b": history(650)}, horizon=4, season=48)
