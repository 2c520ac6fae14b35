"""The bridge and the horizon table: quantiles kept, floors, calendars passed on, losses by loop."""

import numpy as np
import pandas as pd
import pytest

from support.errors import SchemaError
from support.forecast import LEVELS
from support.forecasting.covariates import days_off
from support.forecasting.forecasters import as_forecaster
from support.forecasting.horizons import loss_by_horizon
from support.forecasting.local_models import BASELINE, LOCAL_MODELS, seasonal_naive_empirical
from support.forecasting.protocol import RollingOrigin, roll
from support.forecasting.sarimax import sarimax


def series(n=24 * 12, seed=0):
    rng = np.random.default_rng(seed)
    index = pd.date_range("2026-03-02", periods=n, freq="1h", tz="UTC")
    return pd.Series(5 + 4 * np.sin(np.arange(n) * 2 * np.pi / 24) + rng.normal(0, 2, n), index, name="jobs")


def test_the_quantiles_are_the_models_and_the_floor_only_lifts():
    past = series()
    wanted = seasonal_naive_empirical(past.to_numpy(), 24, 24, LEVELS, np.random.default_rng(0))
    assert wanted.min() < 0
    for floor in (None, 0.0):
        made = as_forecaster(LOCAL_MODELS[BASELINE], "base", floor=floor)(
            past, horizon=24, season=24, rng=np.random.default_rng(0)
        )
        np.testing.assert_array_equal(made.quantiles[0], wanted if floor is None else np.maximum(wanted, 0))
        assert made.timestamps[0] == past.index[-1] + pd.Timedelta(hours=1) and made.unit == "jobs per 1 h"
        assert made.paths.shape == (1, min(1000, len(past) - 24 - 23), 24)


def test_a_calendar_reaches_the_model():
    past = series()
    past = past - 3 * days_off()(past.index)[:, 0] + 20
    plain, aware = (
        as_forecaster(sarimax, "s", calendar=c)(past.iloc[:-48], horizon=24, season=24, rng=np.random.default_rng(0))
        for c in (None, days_off())
    )
    assert (plain.quantiles != aware.quantiles).any()


def rolled():
    plan = RollingOrigin(horizon=6, step=7, season=24, local_context=96, global_context=24, n_windows=4)
    models = {m: LOCAL_MODELS[m] for m in (BASELINE, "Naive", "Climatology")}
    return roll({"s": series()}, protocol=plan, local_models=models, rng=np.random.default_rng(0)).frame


def test_losses_by_horizon_by_loop():
    frame = rolled()
    table = loss_by_horizon(frame, baseline=BASELINE, horizons=[1, 4], rng=np.random.default_rng(0))
    for _, row in table.iterrows():
        total = {}
        for model in (BASELINE, row["model"]):
            part = frame[(frame["model"] == model) & (frame["h"] <= row["horizon"])]
            total[model] = 0.0
            for _, one in part.iterrows():
                for level in range(1, 10):
                    error = one["y"] - one[f"q{level / 10:g}"]
                    total[model] += max(level / 10 * error, (level / 10 - 1) * error)
        assert row["ratio"] == pytest.approx(total[row["model"]] / total[BASELINE], rel=1e-9)
        part = frame[(frame["model"] == row["model"]) & (frame["h"] <= row["horizon"])]
        assert row["coverage_90"] == pytest.approx(((part["y"] >= part["q0.05"]) & (part["y"] <= part["q0.95"])).mean())
        assert row["lower"] <= row["ratio"] <= row["upper"]
    assert (table[table["model"] == BASELINE][["ratio", "lower", "upper"]] == 1).all(axis=None)


@pytest.mark.parametrize(("baseline", "horizons"), [("none", [1]), (BASELINE, [9])])
def test_unknown_baseline_and_a_horizon_too_far(baseline, horizons):
    with pytest.raises(SchemaError):
        loss_by_horizon(rolled(), baseline=baseline, horizons=horizons, rng=np.random.default_rng(0))
