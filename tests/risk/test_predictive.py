"""The posterior predictive against simulation, loops and laws."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import TooShortError
from support.risk.predictive import DemandPredictive, enough_days, fit_predictive
from support.risk.usage import Usage


def usage_of_array(cpu, step_hours=1.0):
    times = pd.date_range("2026-01-05", periods=cpu.shape[1], freq=pd.Timedelta(hours=step_hours), tz="UTC")
    capacity = {"cpu": np.full(len(cpu), 4.0)}
    return Usage(times, step_hours, {"cpu": cpu}, capacity, pd.DataFrame(index=[f"vm-{k}" for k in range(len(cpu))]))


def simulated(seed, n=3, days=14, level_sd=0.0):
    rng = np.random.default_rng(seed)
    level = np.exp(rng.normal(0, level_sd, (n, days // 7)))
    return rng.gamma(2.0, 0.3, (n, days * 24)) * np.repeat(level, 7 * 24, axis=1)


def by_hand(told, n_draws, rng, size):
    """Weights from the flat Dirichlet, days from the weights, a factor: share above, any above, sum above."""
    days, out = told.days[0], []
    for _ in range(n_draws):
        chosen = rng.choice(len(days), told.horizon_days, p=rng.dirichlet(np.ones(len(days))))
        demand = rng.choice(told.factors[0]) * days[chosen]
        out.append(((demand > size).mean(), (demand > size).any(), np.maximum(demand - size, 0).sum()))
    return np.array(out)


def test_closed_forms_equal_simulation():
    told = fit_predictive(usage_of_array(simulated(1, level_sd=0.2)))
    size, n_draws = 1.5, 4000
    drawn = by_hand(told, n_draws, np.random.default_rng(2), size)
    sizes = np.array([size])
    exact = [told.exceedance(0, sizes)[0], told.any_breach(0, sizes)[0], told.unserved(0, sizes)[0]]
    error = drawn.std(axis=0) / np.sqrt(n_draws)
    assert (np.abs(drawn.mean(axis=0) - exact) < 4 * error).all()
    own = told.draw_unserved(0, sizes, n_draws=n_draws, rng=np.random.default_rng(3))[:, 0]
    assert abs(own.mean() - exact[2]) < 4 * own.std() / np.sqrt(n_draws)
    assert own.std() == pytest.approx(drawn[:, 2].std(), rel=0.15)


def test_quantile_is_the_smallest_level_exceeded_by_at_most_its_complement():
    told = fit_predictive(usage_of_array(simulated(4)))
    for level in (0.5, 0.95, 0.999):
        for k, at in enumerate(told.quantile(level)):
            assert told.exceedance(k, np.array([at]))[0] <= 1 - level
            assert told.exceedance(k, np.array([at * (1 - 1e-9)]))[0] > 1 - level - 1e-12


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(0.2, 5.0))
def test_laws_of_the_predictive(seed, scale):
    cpu = simulated(seed, n=1)
    told, scaled = fit_predictive(usage_of_array(cpu)), fit_predictive(usage_of_array(scale * cpu))
    sizes = np.linspace(0.0, 4.0, 9)
    share, any_breach, unserved = told.exceedance(0, sizes), told.any_breach(0, sizes), told.unserved(0, sizes)
    assert (
        (np.diff(share) <= 1e-12).all() and (np.diff(unserved) <= 1e-9).all() and (np.diff(any_breach) <= 1e-12).all()
    )
    assert (any_breach >= share - 1e-12).all()  # at least one interval is likelier than any one of them
    assert np.all(np.diff(unserved, 2) >= -1e-9)  # convex
    assert np.allclose(scaled.exceedance(0, scale * sizes), share, atol=1e-9)  # units do not matter
    assert np.allclose(scaled.unserved(0, scale * sizes), scale * unserved, rtol=1e-6, atol=1e-9)


def test_slope_of_unserved_is_the_exceedance():
    told = fit_predictive(usage_of_array(simulated(5)))
    at = np.linspace(0.5, 3.0, 7)
    slope = (told.unserved(0, at + 1e-6) - told.unserved(0, at - 1e-6)) / 2e-6
    assert np.allclose(-slope, told.exceedance(0, at) * 24 * told.horizon_days, rtol=1e-3, atol=1e-3)


def test_missing_days_are_left_out_and_too_few_are_refused():
    cpu = simulated(6, n=2)
    cpu[0, 24:48] = np.nan
    told = fit_predictive(usage_of_array(cpu))
    assert [len(d) for d in told.days] == [13, 14]
    cpu[1, 30:] = np.nan
    assert enough_days(usage_of_array(cpu)).tolist() == [True, False]
    with pytest.raises(TooShortError, match="vm-1"):
        fit_predictive(usage_of_array(cpu))
    with pytest.raises(TooShortError, match="1 whole day;"):
        fit_predictive(usage_of_array(cpu[:, :30]))


def test_a_restless_level_widens_the_factor():
    calm, restless = (fit_predictive(usage_of_array(simulated(7, 20, 28, sd))) for sd in (0.0, 0.5))
    assert np.median(restless.factors[:, -1]) > 1.2 * np.median(calm.factors[:, -1])


def test_coverage_on_new_weeks_of_a_simulated_fleet():
    """The 95 % quantile of an interval is exceeded by about 5 % of the next week, level moves included."""
    cpu = simulated(8, 60, 21, 0.2)
    told = fit_predictive(usage_of_array(cpu[:, : 14 * 24]))
    above = (cpu[:, 14 * 24 :] > told.quantile(0.95)[:, None]).mean(axis=1)
    # 60 fleets' weeks; a level of sd 0.2 moves a week's share by about 0.05, so the mean has an error of about 0.007
    assert 0.05 - 3 * 0.01 < above.mean() < 0.05 + 3 * 0.01


def test_polya_urn_by_enumeration():
    """Two past days, two days to come: the urn has four outcomes."""
    days = (np.array([[1.0], [3.0]]),)
    told = DemandPredictive(days, np.ones((1, 1)), 2, 24.0)
    assert told.any_breach(0, np.array([2.0]))[0] == pytest.approx(1 - (1 / 2) * (2 / 3))
