"""The isolation forest for series gives scikit-learn's numbers, and contamination moves a limit, never the order."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import IsolationForest
from sklearn.ensemble._iforest import _average_path_length

from support.anomalies.isolation import IsolationForestDetector
from support.errors import SchemaError

LAGS, TREES = 4, 20


def series(n=400, seed=0):
    x = np.random.default_rng(seed).normal(size=n)
    x[-5] = 12
    return pd.Series(x, pd.date_range("2026-01-05", periods=n, freq="5min"))


def windows(x):
    padded = np.r_[np.full(LAGS - 1, x[0]), x]
    return np.array([padded[i : i + LAGS] for i in range(len(x))])


def clock(index):
    day = (index.hour + index.minute / 60) / 24
    week = (index.dayofweek + day) / 7
    return np.column_stack([f(2 * np.pi * p) for f in (np.sin, np.cos) for p in (day, week)])


@pytest.mark.parametrize("calendar", [False, True])
@pytest.mark.parametrize("contamination", [0.01, 0.05, 0.5])
def test_it_is_scikit_learn_on_windows_and_calendar(calendar, contamination):
    x = series()
    table = np.hstack([windows(x.to_numpy()), clock(x.index)]) if calendar else windows(x.to_numpy())
    forest = IsolationForest(n_estimators=TREES, contamination=contamination, random_state=3).fit(table)
    ours = IsolationForestDetector(contamination, lags=LAGS, calendar=calendar, trees=TREES, seed=3).fit(x)
    np.testing.assert_allclose(ours.score_samples(x), forest.score_samples(table), atol=1e-12)
    np.testing.assert_allclose(ours.decision_function(x), forest.decision_function(table), atol=1e-12)
    np.testing.assert_array_equal(ours.predict(x), forest.predict(table))
    assert abs((ours.predict(x) == -1).mean() - contamination) <= 1 / len(x) and ours.predict(x)[-5] == -1
    np.testing.assert_array_equal(ours.history_scores, -ours.score_samples(x))


def test_the_order_of_scores_does_not_know_the_contamination():
    x = series()
    scores = [IsolationForestDetector(c, lags=LAGS, trees=TREES).fit(x[:300]).score(x[300:]) for c in (0.01, 0.2, 0.5)]
    np.testing.assert_array_equal(scores[0], scores[1])
    np.testing.assert_array_equal(scores[0], scores[2])


def test_the_stream_goes_on_where_the_history_ended():
    x = series()
    ours = IsolationForestDetector(lags=LAGS, trees=TREES).fit(x[:300])
    np.testing.assert_allclose(ours.score(x[300:]), -ours.score_samples(x)[300:], atol=1e-12)


def test_constant_history_gives_finite_scores():
    ours = IsolationForestDetector(lags=LAGS, trees=TREES).fit(np.full(50, 45.0))
    scores = ours.score(np.r_[np.full(10, 45.0), 50])
    assert np.isfinite(scores).all()


def test_path_length_of_256_is_the_published_one():
    name = os.environ.get("RISK_REFERENCE") or os.environ.get("BOOK_DATA", "") + "/reference-values/risk.json"
    if not Path(name).is_file():
        pytest.skip("no risk.json: set RISK_REFERENCE or BOOK_DATA")
    (case,) = [v for v in json.loads(Path(name).read_text())["values"] if v["kind"] == "isolation_forest_c"]
    found = _average_path_length(np.array(case["inputs"]["n"]))
    np.testing.assert_allclose(found, case["expected"]["c"], atol=case["tolerance"]["abs"])


def test_bad_settings_say_so():
    for bad in (0.0, 0.6):
        with pytest.raises(SchemaError, match="contamination"):
            IsolationForestDetector(bad)
    with pytest.raises(SchemaError, match="DatetimeIndex"):
        IsolationForestDetector(calendar=True).fit(np.arange(50.0))
