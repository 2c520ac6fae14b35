"""Draws of years to come against known growth, shape and prior."""

import numpy as np
import pandas as pd
import pytest

from support.errors import SchemaError, TooShortError
from support.risk.yearly_demand import posterior_demand


def test_posterior_draws_keep_level_shape_and_growth():
    rng = np.random.default_rng(4)
    shape = np.tile(1 + 0.5 * np.sin(2 * np.pi * np.arange(168) / 24), 104)
    growth = np.exp(0.2 * np.arange(104).repeat(168) / 52)
    history = pd.Series(100 * shape * growth * np.exp(rng.normal(0, 0.02, 104)).repeat(168))
    draws = posterior_demand(history, rng=rng, years=2, n_draws=200)
    assert draws.shape == (200, 2, 52 * 168)
    last = 100 * np.exp(0.2 * 103 / 52)
    wanted = [np.log(last) + 0.2 * (y * 52 + 26.5) / 52 for y in range(2)]
    np.testing.assert_allclose(np.log(draws.mean(axis=2)).mean(axis=0), wanted, atol=0.03)
    # the shape of the day survives, and a short history leaves the growth open: its prior is 0.3 a year
    day = draws[0, 0].reshape(-1, 24).mean(axis=0)
    assert np.corrcoef(day, shape[:24])[0, 1] > 0.999
    short = posterior_demand(history.iloc[-4 * 168 :], rng=rng, years=3, n_draws=400)
    yearly = np.log(short.mean(axis=2))
    assert 0.2 < (yearly[:, 2] - yearly[:, 1]).std() < 0.4


def test_refusals():
    rng = np.random.default_rng(1)
    for values, told in ((np.full(700, -1.0), "at least 0"), (np.zeros(700), "without any demand")):
        with pytest.raises(SchemaError, match=told):
            posterior_demand(pd.Series(values), rng=rng)
    with pytest.raises(TooShortError, match="4 weeks"):
        posterior_demand(pd.Series(np.ones(100)), rng=rng)
