"""Runway: first passage against loops, the inverse Gaussian law and a simulated walk; censoring; the straight line."""

import math

import numpy as np
import pandas as pd
import pytest
from scipy.integrate import quad
from scipy.stats import norm

from support.errors import SchemaError, TooShortError
from support.forecast import Forecast
from support.risk.runway import Runway, brownian_first_passage, runway, straight_line_runway

ISSUED = pd.Timestamp("2026-01-01", tz="UTC")
# Broadie, Glasserman and Kou (1997): a walk seen at discrete times crosses like one whose barrier is this much farther
DISCRETE_SHIFT = 0.5826


def forecast(paths, step=86_400.0):
    return Forecast.from_paths(
        np.asarray(paths, dtype=float)[None], issued_at=ISSUED, step_seconds=step, unit="cores", model="given"
    )


def test_runway_is_what_a_loop_finds():
    rng = np.random.default_rng(0)
    paths = np.cumsum(rng.normal(0.2, 1, (50, 48)), axis=1)
    found = runway(forecast(paths, step=3600), 5.0)
    for path, days in zip(paths, found.days, strict=True):
        crossed = [t for t, value in enumerate(path, start=1) if value > 5.0]
        assert days == (crossed[0] / 24 if crossed else math.inf)
    assert found.horizon_days == 2
    assert found.never_frac == np.mean([max(p) <= 5.0 for p in paths])
    assert found.within(2) == 1 - found.never_frac


def test_quantiles_are_censored_honestly():
    found = Runway(np.array([1.0, 2.0, 3.0, math.inf]), 30.0)
    assert [found.quantile(q) for q in (0.1, 0.5, 0.75)] == [1.0, 2.0, 3.0] and math.isinf(found.quantile(0.9))
    assert found.told(0.5) == "2 days" and found.told(0.9) == "more than 30 days"
    assert found.within(0) == 0 and found.within(2) == 0.5
    with pytest.raises(SchemaError, match="Lengthen"):
        found.within(31)
    with pytest.raises(SchemaError, match="level"):
        found.quantile(1.0)


def test_a_simulated_walk_agrees_with_the_inverse_gaussian():
    n, days, per_day = 10_000, 30, 12
    rng = np.random.default_rng(1)
    moves = rng.normal(0.5 / per_day, 3 / math.sqrt(per_day), (n, days * per_day)).astype(np.float32)
    barrier = 30 - DISCRETE_SHIFT * 3 / math.sqrt(per_day)
    found = runway(forecast(np.cumsum(moves, axis=1), step=86_400 / per_day), barrier)
    law = brownian_first_passage(headroom=30, drift_per_day=0.5, sd_per_sqrt_day=3, horizon_days=30)
    error = 4 * math.sqrt(law.p_by_horizon * (1 - law.p_by_horizon) / n)
    assert found.within(30) == pytest.approx(law.p_by_horizon, abs=error)
    at = (forecast(np.cumsum(moves, axis=1)).paths[0, :, -1] > 30).mean()
    assert at == pytest.approx(law.p_at_horizon, abs=error) and law.p_at_horizon < law.p_by_horizon


@pytest.mark.parametrize("drift", [0.5, 0.0, -0.3])
def test_the_closed_form_is_the_integral_of_its_density(drift):
    def density(t):
        return 30 / (3 * math.sqrt(2 * math.pi * t**3)) * math.exp(-((30 - drift * t) ** 2) / (2 * 9 * t))

    law = brownian_first_passage(headroom=30, drift_per_day=drift, sd_per_sqrt_day=3, horizon_days=30)
    assert law.p_by_horizon == pytest.approx(quad(density, 0, 30)[0], abs=1e-9)
    if drift == 0:
        assert law.p_by_horizon == pytest.approx(2 * norm.sf(30 / (3 * math.sqrt(30)))) and math.isinf(law.mean_days)


def test_the_straight_line_meets_capacity_rises_or_never():
    index = pd.date_range("2026-01-01", periods=30, freq="1D", tz="UTC")
    line = pd.Series(10 + 2.0 * np.arange(30), index)
    assert straight_line_runway(line, 78.0) == pytest.approx(5.0)
    assert straight_line_runway(line, 60.0) == 0.0
    assert math.isinf(straight_line_runway(line[::-1].set_axis(index), 100.0))
    with pytest.raises(TooShortError):
        straight_line_runway(line.iloc[:2], 100.0)
    with pytest.raises(SchemaError):
        brownian_first_passage(headroom=0, drift_per_day=1, sd_per_sqrt_day=1, horizon_days=1)


def test_what_is_missing_is_refused_and_never_called_safe():
    with pytest.raises(SchemaError, match="capacity is missing"):
        runway(forecast([[1.0, 2.0]]), math.nan)
    with pytest.raises(SchemaError, match="capacity is missing"):
        runway(forecast([[1.0, 2.0]]), np.array([1.0, math.nan]))
    assert runway(forecast([[1.0, 2.0]]), math.inf).never_frac == 1  # without a limit nothing is crossed
    history = pd.Series([1.0, 2.0, math.nan, 4.0], pd.date_range("2026-01-01", periods=4, freq="1D", tz="UTC"))
    for values, capacity in ((history, 9.0), (history.dropna(), math.nan)):
        with pytest.raises(SchemaError, match="missing or infinite"):
            straight_line_runway(values, capacity)
    assert Runway(np.array([3.0, 1.0, 2.0]), 9.0).quantile(1e-12) == 1.0  # the first to cross, not the last
