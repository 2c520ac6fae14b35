"""Exceedance against loops, the laws of VaR and CVaR, and growth."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from support.errors import SchemaError
from support.forecast import Forecast
from support.risk.exceedance import cvar, exceedance, grown, value_at_risk

ISSUED = pd.Timestamp("2026-01-01", tz="UTC")
DRAWS = st.lists(st.integers(-1000, 1000), min_size=1, max_size=60).map(lambda x: np.array(x, dtype=float))
LEVEL = st.integers(1, 99).map(lambda k: k / 100)


def forecast(paths, step=3600.0):
    paths = np.asarray(paths, dtype=float)
    names = tuple(f"s{k}" for k in range(len(paths)))
    return Forecast.from_paths(paths, issued_at=ISSUED, step_seconds=step, unit="cores", model="given", series=names)


def test_exceedance_is_what_a_loop_counts():
    rng = np.random.default_rng(0)
    paths, limit = rng.normal(10, 2, (2, 40, 24)), rng.normal(12, 1, 24)
    found = exceedance(forecast(paths, step=1800), limit, series=1)
    point, by, hours, unserved = np.zeros(24), np.zeros(24), [], []
    for path in paths[1]:
        breached, lost, n = False, 0.0, 0
        for t in range(24):
            over = path[t] > limit[t]
            point[t] += over
            breached = breached or over
            by[t] += breached
            n += over
            lost += max(path[t] - limit[t], 0)
        hours.append(n / 2)
        unserved.append(lost / 2)
    assert found.p_point == pytest.approx(point / 40) and found.p_by == pytest.approx(by / 40)
    assert found.breach_hours == pytest.approx(hours) and found.unserved == pytest.approx(unserved)
    assert found.peaks == pytest.approx([max(p) for p in paths[1]])
    assert found.breach_hours.mean() == pytest.approx(found.p_point.sum() / 2)  # the definition of section 4.1


def test_p_any_lies_between_the_frechet_bounds_of_the_steps():
    rng = np.random.default_rng(1)
    for rho in (0.0, 0.9):
        noise = rng.standard_normal((1, 400, 30))
        for t in range(1, 30):
            noise[..., t] = rho * noise[..., t - 1] + np.sqrt(1 - rho**2) * noise[..., t]
        found = exceedance(forecast(noise), 1.5)
        assert found.p_point.max() <= found.p_any <= min(1, found.p_point.sum())
        assert (np.diff(found.p_by) >= 0).all()


def test_equality_is_no_breach_and_a_sure_breach_is_one():
    assert exceedance(forecast(np.ones((1, 3, 2))), 1.0).p_any == 0
    sure = exceedance(forecast(np.ones((1, 3, 2))), 0.5)
    assert sure.p_any == 1 and sure.breach_hours.tolist() == [2, 2, 2] and sure.monte_carlo_error > 0


@pytest.mark.parametrize("capacity", [np.nan, -1.0, np.ones(3), np.ones((1, 2))])
def test_capacities_that_are_none_are_refused(capacity):
    with pytest.raises(SchemaError, match="capacity"):
        exceedance(forecast(np.ones((1, 3, 2))), capacity)


def test_var_and_cvar_of_a_normal_sample():
    draws = norm.ppf((np.arange(200_000) + 0.5) / 200_000)
    for level in (0.95, 0.99):
        z = norm.ppf(level)
        assert value_at_risk(draws, level) == pytest.approx(z, abs=2e-4)
        assert cvar(draws, level) == pytest.approx(norm.pdf(z) / (1 - level), abs=2e-4)


def test_the_atom_at_var_is_split():
    assert cvar(np.array([0.0, 0.0, 0.0, 4.0]), 0.5) == pytest.approx(2.0)  # half of the worst two: one 4, one 0
    assert cvar(np.array([1.0, 1.0, 1.0, 9.0]), 0.6) == pytest.approx((9 * 0.25 + 1 * 0.15) / 0.4)
    assert value_at_risk(np.arange(1, 101), 0.07) == 7  # 0.07 x 100 is a little above 7 in floating point


@settings(max_examples=200, deadline=None)
@given(DRAWS, LEVEL, LEVEL, st.integers(-50, 50), st.integers(1, 20))
def test_laws_of_one_sample(draws, level, other, shift, scale):
    low, high = sorted((level, other))
    assert value_at_risk(draws, low) <= value_at_risk(draws, high)
    assert cvar(draws, low) <= cvar(draws, high) + 1e-9
    assert value_at_risk(draws, level) - 1e-9 <= cvar(draws, level) <= draws.max() + 1e-9
    assert (draws <= value_at_risk(draws, level)).mean() >= level - 1e-9
    for measure in (value_at_risk, cvar):
        assert measure(draws + shift, level) == pytest.approx(measure(draws, level) + shift, abs=1e-6)
        assert measure(scale * draws, level) == pytest.approx(scale * measure(draws, level), abs=1e-6)


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(st.integers(-99, 99), st.integers(-99, 99)), min_size=1, max_size=40), LEVEL)
def test_cvar_is_subadditive_on_draws(pairs, level):
    a, b = np.array(pairs, dtype=float).T
    assert cvar(a + b, level) <= cvar(a, level) + cvar(b, level) + 1e-6


def test_levels_and_draws_that_make_no_sense_are_refused():
    for draws, level in (([1.0], 1.0), ([1.0], 0.0), ([], 0.5), ([np.nan], 0.5)):
        with pytest.raises(SchemaError):
            value_at_risk(np.array(draws), level)


def test_growth_multiplies_paths_and_compounds():
    year = forecast(np.full((1, 2, 366), 10.0), step=86_400)
    rise = grown(year, per_year_frac=np.array([0.2, 0.0]))
    assert rise.paths[0, 0, 365] == pytest.approx(10 * 1.2 ** (366 / 365.25)) and (rise.paths[0, 1] == 10).all()
    launch = grown(year, jump_frac=0.5, jump_at=ISSUED + pd.Timedelta(days=10))
    assert launch.paths[0, 0, 8] == 10 and launch.paths[0, 0, 9] == 15
    assert (grown(year).paths == year.paths).all()
    more = [exceedance(grown(year, per_year_frac=g), 10.5).p_any for g in (0.0, 0.1)]
    assert more == [0, 1]
    for bad in ({"per_year_frac": -1.5}, {"jump_frac": -2}, {"per_year_frac": np.zeros(3)}):
        with pytest.raises(SchemaError):
            grown(year, **bad)
