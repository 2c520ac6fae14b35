"""How experts are weighed: losses at known steps only, weights by closed forms, and what seasonal naive keeps of a hedge."""

import numpy as np
import pytest

from support.forecasting.analogs import (
    AnalogExpert,
    LevelExpert,
    NaiveExpert,
    TypicalExpert,
    newest_profile,
    typical_profile,
)
from support.forecasting.metrics import pinball
from support.forecasting.weighing import excess_share, judged_steps, past_losses, weighted_median, weights_by_step

LEVELS = np.array([0.1, 0.5, 0.9])
SEASON, HORIZON = 48, 96


@pytest.fixture
def values():
    made = np.random.default_rng(3)
    return 5 * np.sin(2 * np.pi * np.arange(401) / SEASON) + made.normal(0, 1, 401)


@pytest.mark.parametrize("season", [1, 7, 48, 300])
def test_typical_profile_is_the_median_of_up_to_five_seasons_before(values, season):
    made = typical_profile(values, season)
    assert made.shape == (len(values) + season,)
    for t in (season, season + 1, 2 * season + 3, len(values) - 1, len(values), len(values) + season - 1):
        past = [values[t - k * season] for k in range(1, 6) if t - k * season >= 0]
        if t < len(made) and past:
            assert made[t] == pytest.approx(np.median(past))


def test_newest_profile_with_no_memory_is_the_last_season(values):
    np.testing.assert_allclose(newest_profile(values, SEASON, decay=0.0)[SEASON:], values)


def test_a_profile_of_the_last_season_makes_seasonal_naive(values):
    steps, last = np.arange(1, HORIZON + 1), newest_profile(values, SEASON, decay=0.0)
    for origin in (200, 400):
        own = TypicalExpert(values, SEASON, last).at(origin, steps, LEVELS)
        np.testing.assert_allclose(own, NaiveExpert(values, SEASON).at(origin, steps, LEVELS))


@pytest.mark.parametrize("step", [1, 5, 60])
def test_analogs_around_a_profile_are_weighted_quantiles_of_differences(values, step):
    profile, origin = typical_profile(values, SEASON), 380
    expert = AnalogExpert(values, SEASON, profile=profile)
    moments = np.arange(expert.first, origin - step + 1)
    away = values[moments + step] - profile[moments + step]
    order = np.argsort(away, kind="stable")
    held = expert.weights(origin)[moments][order]
    by_hand = np.interp(LEVELS, (np.cumsum(held) - held / 2) / held.sum(), away[order])
    by_hand += profile[origin + 1 + (step - 1) % SEASON]
    np.testing.assert_allclose(expert.at(origin, np.array([step]), LEVELS)[0], by_hand, rtol=1e-9)


def test_steps_are_known_and_every_far_one_is_judged_from_one_of_three_moments():
    origins, now = np.array([399, 350, 250, 200, 150]), 400
    judged = judged_steps(origins, HORIZON, now=now, season=SEASON)
    for origin, steps in zip(origins, judged, strict=True):
        assert len(steps) and steps.max() <= min(HORIZON, now - origin) and steps.max() < origin - SEASON
    assert judged[0].tolist() == [1]
    assert set(np.concatenate(judged[2:])) == set(range(1, HORIZON + 1))


def test_past_losses_are_those_of_the_forecasts_from_there(values):
    experts = [NaiveExpert(values, SEASON), LevelExpert(values, rate=0.2)]
    origins = np.array([390, 300])
    judged = judged_steps(origins, HORIZON, now=400, season=SEASON)
    made = past_losses(experts, values, origins, judged, HORIZON, LEVELS)
    for k, expert in enumerate(experts):
        for j, origin in enumerate(origins):
            for step in range(1, HORIZON + 1):
                if step in judged[j]:
                    quantiles = expert.at(origin, np.array([step]), LEVELS)
                    assert made[k, j, step - 1] == pytest.approx(
                        pinball(values[[origin + step]], quantiles, LEVELS).mean()
                    )
                else:
                    assert np.isnan(made[k, j, step - 1])


def test_weights_of_constant_losses_have_a_closed_form():
    """A loss 30 % higher (of its logarithm) costs a factor of e, whatever the time and the step."""
    origins, each, prior = np.arange(399, 150, -12), np.array([1.0, np.exp(0.3), 2.0]), np.array([0.0, 0.0, -1.0])
    losses = np.broadcast_to(each[:, None, None], (3, len(origins), HORIZON)).copy()
    for j, origin in enumerate(origins):
        losses[:, j, 400 - origin :] = np.nan
    made = weights_by_step(losses, origins, now=400, season=SEASON, prior=prior)
    by_hand = np.exp(prior) * each ** (-1 / 0.3)
    np.testing.assert_allclose(made, np.broadcast_to((by_hand / by_hand.sum())[:, None], made.shape), rtol=1e-6)


def test_short_and_long_steps_have_their_own_weights():
    origins = np.arange(399, 150, -12)
    losses = np.ones((2, len(origins), HORIZON))
    losses[0, :, : SEASON // 6], losses[1, :, SEASON // 6 :] = 0.1, 0.1
    for j, origin in enumerate(origins):
        losses[:, j, 400 - origin :] = np.nan
    made = weights_by_step(losses, origins, now=400, season=SEASON, prior=np.zeros(2))
    assert made[0, 0] > 0.99 and made[1, -1] > 0.99
    np.testing.assert_allclose(made.sum(axis=0), 1)


def test_lately_tells_most_and_this_time_of_the_day_a_quarter():
    """Of two experts each is right in one half of the past; the one that was right lately is heard more."""
    origins = np.arange(399, 150, -12)
    losses = np.ones((2, len(origins), HORIZON))
    ends = origins[:, None] + np.arange(1, HORIZON + 1)
    losses[0][ends > 360], losses[1][ends <= 360] = 0.5, 0.5
    losses[:, ends > 400] = np.nan
    made = weights_by_step(losses, origins, now=400, season=SEASON, prior=np.zeros(2))
    assert made[0, 0] > 0.6
    # only at the time of the day that it is now the second one is right: it gains beside one that is as good elsewhere
    even = np.where(np.isnan(losses), np.nan, 1.0)
    even[1, (399 - origins) % SEASON == 0] *= 0.2
    assert weights_by_step(even, origins, now=400, season=SEASON, prior=np.zeros(2))[1, 0] > 0.6


def test_excess_share_is_a_logistic_of_the_ratio_and_its_error():
    rng = np.random.default_rng(0)
    own, base = rng.gamma(4, 0.2, 30), rng.gamma(4, 0.25, 30)
    blocks = np.array_split(np.arange(30), 5)
    left = [np.log(np.delete(own, b).sum() / np.delete(base, b).sum()) for b in blocks]
    error = np.sqrt(4 * np.var(left))  # (k - 1) / k times the sum of squares
    by_hand = 1 / (1 + np.exp(-(np.log(own.sum() / base.sum()) + 2 * error) / 0.1))
    assert excess_share(own, base) == pytest.approx(by_hand, rel=1e-6)
    assert excess_share(own[:2] * 0, base[:2]) == 1 and excess_share(own, base * 0) == 1
    assert excess_share(base * 0, base) < 1e-9


def test_a_gain_that_may_be_chance_is_not_believed():
    """The same mean gain of a tenth: sure where every moment shows it, not where three of thirty do."""
    base = np.ones(30)
    sure, lucky = np.full(30, 0.9), np.ones(30)
    lucky[:3] = 0.0
    assert sure.sum() == pytest.approx(lucky.sum())
    assert excess_share(sure, base) < 0.5 < excess_share(lucky, base)


def test_weighted_median_against_a_search():
    rng = np.random.default_rng(1)
    for _ in range(20):
        members, weights = rng.normal(size=7), rng.dirichlet(np.ones(7))
        order = np.argsort(members)
        middle = np.cumsum(weights[order]) - weights[order] / 2
        assert float(weighted_median(members, weights)) == pytest.approx(np.interp(0.5, middle, members[order]))
    assert float(weighted_median(np.array([1.0, 1.0, 1e9]), np.array([0.4, 0.4, 0.2]))) == 1.0
