"""The forecast-residual detector: PIT, tails, and a false-alert rate that is known before it runs."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from support.anomalies.residual import (
    PRIOR_DOF,
    PRIOR_VARIANCE,
    ResidualDetector,
    false_alert_share,
    forecast_pit,
    k_of_n,
    tail_surprise,
)
from support.errors import SchemaError
from support.forecast import Forecast

ISSUED = pd.Timestamp("2026-01-05", tz="UTC")


def forecast_of(paths):
    names = tuple(f"s{i}" for i in range(len(paths)))
    return Forecast.from_paths(paths, issued_at=ISSUED, step_seconds=300, unit="%", model="m", series=names)


def test_pit_is_uniform_where_the_forecast_is_true_and_the_alert_rate_as_announced():
    rng = np.random.default_rng(0)
    draws, rows = 1999, 4000
    u = forecast_pit(forecast_of(rng.gamma(2, size=(1, draws, rows))), rng.gamma(2, size=(1, rows)))[0]
    assert stats.kstest(u, "uniform").pvalue > 0.001
    for threshold in (1.0, 2.0):
        expected = false_alert_share(threshold)
        found = (tail_surprise(u) >= threshold).mean()
        assert abs(found - expected) < 4 * np.sqrt(expected / rows)


def test_pit_counts_paths_and_halves_ties():
    paths = np.array([1.0, 2.0, 2.0, 3.0]).reshape(1, 4, 1)
    for actual, expected in ((0.0, 0.5), (1.5, 1.5), (2.0, 2.5), (9.0, 4.5)):
        assert forecast_pit(forecast_of(paths), np.array([[actual]]))[0, 0] == pytest.approx(expected / 5)
    with pytest.raises(SchemaError, match="shape"):
        forecast_pit(forecast_of(paths), np.zeros((1, 2)))


@pytest.mark.parametrize(("threshold", "k", "n"), [(1.0, 2, 5), (1.0, 1, 1), (0.5, 3, 4)])
def test_false_alert_share_by_simulation(threshold, k, n):
    rows = 200_000
    alerts = k_of_n(tail_surprise(np.random.default_rng(1).random(rows)) >= threshold, k, n)
    expected = false_alert_share(threshold, k, n)
    assert abs(alerts.mean() - expected) < 4 * np.sqrt(n * expected / rows)  # n rows share their alerts


def test_k_of_n_is_a_sliding_sum():
    alerts = np.random.default_rng(2).random(50) < 0.4
    assert k_of_n(alerts, 3, 7).tolist() == [alerts[max(0, i - 6) : i + 1].sum() >= 3 for i in range(50)]
    with pytest.raises(SchemaError, match="k 3"):
        k_of_n(alerts, 3, 2)


def test_one_in_a_thousand_is_three_and_the_farthest_tail_is_finite():
    np.testing.assert_allclose(tail_surprise(np.array([0.0005, 0.9995, 0.25])), [3, 3, np.log10(2)], atol=1e-9)
    assert np.isfinite(tail_surprise(np.array([0.0, 1.0]))).all()


def test_without_forgetting_it_is_the_conjugate_regression():
    rng = np.random.default_rng(3)
    z = rng.normal(size=60)
    z = (z - z.mean()) / z.std()  # standardised already: the detector keeps it
    detector = ResidualDetector(lags=2, discount=1.0).fit(z)
    padded = np.r_[0, 0, z]
    design = np.column_stack([np.ones(60), padded[1:-1], padded[:-2]])
    for row in (0, 1, 10, 59):  # the closed form on all rows before
        x, y, phi = design[:row], z[:row], design[row]
        precision = np.eye(3) / PRIOR_VARIANCE + x.T @ x
        weights = np.linalg.solve(precision, x.T @ y)
        dof = PRIOR_DOF + row
        scale2 = (PRIOR_DOF + y @ y - weights @ precision @ weights) / dof
        spread = 1 + phi @ np.linalg.solve(precision, phi)
        u = stats.t.cdf((z[row] - phi @ weights) / np.sqrt(scale2 * spread), dof)
        assert detector.history_scores[row] == pytest.approx(-np.log10(2 * min(u, 1 - u)), abs=1e-9)


def test_false_alerts_on_a_true_autoregression_come_at_the_known_rate():
    rng = np.random.default_rng(4)
    noise, x = rng.normal(size=40_000), np.zeros(40_000)
    for i in range(2, len(x)):
        x[i] = 0.6 * x[i - 1] + 0.3 * x[i - 2] + noise[i]
    scores = ResidualDetector(lags=2, discount=0.9995).fit(x[:2000]).score(x[2000:])
    for threshold in (1.0, 2.0, 3.0):
        expected = false_alert_share(threshold)
        # 4 standard errors, and 10 % for the coefficients that are still being learned
        assert abs((scores >= threshold).mean() - expected) < 4 * np.sqrt(expected / len(scores)) + 0.1 * expected


def test_the_season_makes_a_missing_peak_strange():
    wave = np.maximum(np.sin(np.arange(1200) * 2 * np.pi / 48), 0) ** 4
    wave += 0.01 * np.random.default_rng(5).normal(size=1200)
    missing = wave.copy()
    missing[1010:1034] = 0.0
    with_season = ResidualDetector(lags=1, season=48).fit(wave[:600]).score(missing[600:])
    assert 1008 <= 600 + with_season.argmax() <= 1038 and with_season.max() > 8
    assert np.quantile(with_season[:400], 0.99) < 4


def test_any_forecaster_its_paths_and_its_memory():
    seen = []

    def forecaster(past):
        seen.append(past)
        draws = past[-1] + np.random.default_rng(len(seen)).normal(size=(1, 999, 4)).cumsum(axis=2)
        return forecast_of(draws)

    x = np.random.default_rng(6).normal(size=420).cumsum()
    detector = ResidualDetector(forecaster, memory=30).fit(x[:20])
    assert (detector.history_scores[:10] == 0).all() and len(detector.history_scores) == 20
    scores = np.r_[detector.history_scores, detector.score(x[20:])]
    for k, past in enumerate(seen):  # every four rows, from the tenth on
        at = 10 + 4 * k
        np.testing.assert_array_equal(past, x[max(0, at - 30) : at])
        draws = past[-1] + np.random.default_rng(k + 1).normal(size=(1, 999, 4)).cumsum(axis=2)
        u = forecast_pit(forecast_of(draws), x[None, at : at + 4]) if at + 4 <= 420 else None
        if u is not None:
            np.testing.assert_allclose(scores[at : at + 4], tail_surprise(u[0]), atol=1e-12)
    assert len(seen) == 103
    expected = false_alert_share(1.0)  # the walk is the forecaster's own law; four rows of a forecast hang together
    assert abs((scores[10:] >= 1.0).mean() - expected) < 4 * np.sqrt(4 * expected / 410)


def test_bad_settings_say_so():
    with pytest.raises(SchemaError, match="season 1"):
        ResidualDetector(season=1)
