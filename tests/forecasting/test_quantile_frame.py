"""The quantile frame: there and back, and every rule refused when broken."""

import numpy as np
import pandas as pd
import pytest

from support.errors import SchemaError
from support.forecasting.quantile_frame import QUANTILE_LEVELS, ModelForecasts, arrays_of, frame_of, validate

HORIZON, WINDOWS = 8, 3
COLUMNS = [f"q{level:g}" for level in QUANTILE_LEVELS]


def forecasts_of(seed=0):
    rng = np.random.default_rng(seed)
    step = np.timedelta64(300, "s")
    cutoffs = np.tile(np.datetime64("2026-01-01", "ns") + np.arange(WINDOWS) * (HORIZON + 2) * step, (2, 1))
    times = cutoffs[..., None] + np.arange(1, HORIZON + 1) * step
    seen = rng.gamma(3, 10, (2, WINDOWS, HORIZON))
    quantiles = np.sort(rng.gamma(3, 10, (*seen.shape, len(QUANTILE_LEVELS))), axis=-1)
    return ModelForecasts("m", ("a", "b"), cutoffs, times, seen, quantiles, QUANTILE_LEVELS)


def test_frame_there_and_back():
    forecasts = forecasts_of()
    frame = frame_of(forecasts)
    assert list(frame.columns) == ["unique_id", "cutoff", "ds", "h", "model", "y", *COLUMNS]
    assert COLUMNS[0] == "q0.025" and COLUMNS[-1] == "q0.975" and len(COLUMNS) == 15
    back = arrays_of(frame.sample(frac=1, random_state=0), "m")
    for name in ("cutoffs", "times", "observed", "quantiles", "levels"):
        np.testing.assert_array_equal(getattr(back, name), getattr(forecasts, name))
    assert (frame["ds"] == frame["cutoff"] + frame["h"] * pd.Timedelta("5min")).all()


def broken(frame, column, value, row=5):
    out = frame.copy()
    out.loc[row, column] = value
    return out


@pytest.mark.parametrize(
    ("match", "breaks"),
    [
        ("columns .*'y'.* are missing", lambda f: f.drop(columns="y")),
        ("no rows", lambda f: f.iloc[:0]),
        ("not all q<level>", lambda f: f.assign(note=1.0)),
        ("not named q<level>", lambda f: f.rename(columns={"q0.1": "q0.10"})),
        ("must increase", lambda f: f[[*f.columns[:6], *COLUMNS[::-1]]]),
        ("must increase", lambda f: f.rename(columns={"q0.975": "q1"})),
        (r"no column q0\.5", lambda f: f.drop(columns="q0.5")),
        ("y is not finite in 1 row,", lambda f: broken(f, "y", np.nan)),
        ("a quantile is not finite in 1 row,.*h 6", lambda f: broken(f, "q0.2", np.inf)),
        ("quantiles cross in 1 row,", lambda f: broken(f, "q0.2", 1e9)),
        ("ds is not after cutoff", lambda f: f.assign(ds=f["cutoff"])),
        ("h is below 1", lambda f: broken(f, "h", 0)),
        ("there twice", lambda f: pd.concat([f, f.iloc[[3]]])),
        ("y differs", lambda f: pd.concat([f, broken(f, "y", 1.0).assign(model="other")])),
    ],
)
def test_frame_invariants_are_refused_when_broken(match, breaks):
    frame = frame_of(forecasts_of())
    assert validate(frame) is frame
    with pytest.raises(SchemaError, match=match):
        validate(breaks(frame))


def test_arrays_refuse_an_unknown_model_and_uneven_windows():
    frame = frame_of(forecasts_of())
    with pytest.raises(SchemaError, match="no model 'x'"):
        arrays_of(frame, "x")
    for uneven in (frame.iloc[:-1], frame.iloc[HORIZON:], frame[frame["h"] > 2]):
        with pytest.raises(SchemaError, match="differ in windows or steps"):
            arrays_of(uneven, "m")
