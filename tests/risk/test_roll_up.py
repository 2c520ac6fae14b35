"""Roll-up: bounds against closed forms, joint draws against loops, loss instead of averaged probabilities."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import SchemaError
from support.forecast import Forecast
from support.risk.exceedance import cvar, exceedance
from support.risk.roll_up import any_bounds, roll_up

ISSUED = pd.Timestamp("2026-01-01", tz="UTC")


def forecast(paths):
    names = tuple(f"s{k}" for k in range(len(paths)))
    return Forecast.from_paths(
        np.asarray(paths, dtype=float), issued_at=ISSUED, step_seconds=3600, unit="cores", model="given", series=names
    )


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_bounds_are_ordered_and_closed(p):
    found = any_bounds(p)
    assert found.comonotone == max(p) and found.frechet_upper == min(1, sum(p))
    assert found.independent == pytest.approx(1 - np.prod(1 - np.array(p)), abs=1e-12)
    assert found.comonotone <= found.independent + 1e-12 and found.independent <= found.frechet_upper + 1e-12


def test_ten_services_at_one_percent():
    found = any_bounds([0.01] * 10)
    assert found.independent == pytest.approx(0.0956179, abs=1e-7) and found.comonotone == 0.01
    assert found.frechet_upper == pytest.approx(0.1)
    for bad in ([], [1.1], [-0.1]):
        with pytest.raises(SchemaError):
            any_bounds(bad)


def test_joint_draws_are_counted_together():
    rng = np.random.default_rng(0)
    shared = rng.standard_normal((1, 300, 12))
    paths = 10 + 0.8 * shared + 0.6 * rng.standard_normal((4, 300, 12))
    limits, groups, loss = [11.5, 12.0, 12.5, 13.0], ["web", "web", "batch", "batch"], [5.0, 1.0, 2.0, 0.0]
    table = roll_up(forecast(paths), limits, groups, loss)
    assert table.index.tolist() == ["web", "batch", "all"] and table["n"].tolist() == [2, 2, 4]
    for name, members in {"web": [0, 1], "batch": [2, 3], "all": [0, 1, 2, 3]}.items():
        any_breach, losses, peaks = 0, [], []
        for k in range(300):
            any_breach += any((paths[m, k] > limits[m]).any() for m in members)
            losses.append(sum(loss[m] * (paths[m, k] > limits[m]).sum() for m in members))
            peaks.append(max(sum(paths[m, k, t] for m in members) for t in range(12)))
        row = table.loc[name]
        assert row["p_any"] == pytest.approx(any_breach / 300)
        assert row["expected_loss"] == pytest.approx(np.mean(losses))
        assert row["loss_cvar_95"] == pytest.approx(cvar(np.array(losses), 0.95))
        assert row["peak_of_sum"] == pytest.approx(np.mean(peaks)) and row["peak_of_sum"] <= row["sum_of_peaks"]
        assert row["p_lowest"] <= row["p_any"] <= row["p_highest"] + 1e-12
        assert 0 < row["diversification"] <= 1 + 1e-9
    assert table.loc["all", "expected_loss"] == pytest.approx(table.loc[["web", "batch"], "expected_loss"].sum())


def test_the_same_path_twice_neither_diversifies_nor_adds_risk():
    paths = np.repeat(np.random.default_rng(1).normal(10, 1, (1, 200, 6)), 3, axis=0)
    row = roll_up(forecast(paths), [11.0] * 3, ["a", "b", "c"], [1.0] * 3).loc["all"]
    assert row["p_any"] == row["p_lowest"] == exceedance(forecast(paths), 11.0).p_any
    assert row["diversification"] == pytest.approx(1.0) and row["p_independent"] > row["p_any"]


def test_lengths_must_fit():
    made = forecast(np.ones((2, 3, 2)))
    for limits, groups, loss in (([1.0], ["a", "b"], [1, 1]), ([1, 1], ["a"], [1, 1]), ([1, 1], ["a", "b"], [1, -1])):
        with pytest.raises(SchemaError, match="roll-up"):
            roll_up(made, limits, groups, loss)
