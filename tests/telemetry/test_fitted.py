from __future__ import annotations

import json
import os

import numpy as np
import pandas as pd
import pytest

from support.errors import SchemaError, SourceError, TooShortError
from support.telemetry.fidelity import machines, two_sample_test
from support.telemetry.generation.fitted import FOLDER, FittedModel, fit, preset, presets, simulate
from support.telemetry.generation.fitted_estimates import _memory, fit_machine
from support.telemetry.generation.fitted_machines import ENDS, MEMORY_STEPS, redraw, simulate_machine
from support.telemetry.generation.processes import ar1
from support.telemetry.judging.features import STEPS_PER_DAY, acf, correlation, window_features
from support.telemetry.schema import METRICS

CPU = "cpu_utilization"
TIMES = pd.date_range("2026-03-02", periods=30 * STEPS_PER_DAY, freq="300s", tz="UTC")
SLOTS = np.arange(30 * STEPS_PER_DAY) % STEPS_PER_DAY


def refitted(x: np.ndarray, seed: int = 1) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return simulate_machine(fit_machine(x[:, None], rng=rng), SLOTS, rng=rng)[:, 0]


def test_a_markov_chain_of_two_values_is_recovered():
    """Known truth: stays 0.9 in 10, 0.6 in 40; the counts give it back and a simulation shows it."""
    rng = np.random.default_rng(1)
    state = [0]
    for u in rng.random(30 * STEPS_PER_DAY - 1):
        state.append(state[-1] if u < (0.9, 0.6)[state[-1]] else 1 - state[-1])
    x = np.array([10.0, 40.0])[state]
    y = refitted(x)
    assert set(np.unique(y)) == {10.0, 40.0}
    assert (y == 40).mean() == pytest.approx(0.2, abs=0.03)
    stays = (y[1:] == y[:-1]) & (y[1:] == 40)
    assert stays.sum() / (y[:-1] == 40).sum() == pytest.approx(0.6, abs=0.05)


def test_autocorrelation_and_marginal_of_an_ar1_are_recovered():
    x = 40 + 8 * ar1(30 * STEPS_PER_DAY, 6.0, 1.0, rng=np.random.default_rng(2))
    y = refitted(x)
    for q in (0.02, 0.25, 0.5, 0.75, 0.98):
        assert np.quantile(y, q) == pytest.approx(np.quantile(x, q), abs=1.5)
    for lag, tolerance in ((1, 0.05), (3, 0.1), (12, 0.25)):  # the slow level, a window of two hours, leaves a trace
        assert acf(y, lag) == pytest.approx(acf(x, lag), abs=tolerance)


def test_a_daily_job_comes_at_its_time():
    rng = np.random.default_rng(3)
    x = rng.normal(5, 0.3, 30 * STEPS_PER_DAY)
    x[(SLOTS >= 24) & (SLOTS < 27)] += 60  # 02:00 to 02:15
    days = refitted(x).reshape(-1, STEPS_PER_DAY)
    assert np.mean([(day[23:28] > 40).any() for day in days]) > 0.7
    assert (days[:, 30:] > 40).mean() < 0.005
    assert acf(days.ravel(), STEPS_PER_DAY) > 0.6


def test_a_job_every_hour_keeps_its_rhythm():
    rng = np.random.default_rng(4)
    x = rng.normal(5, 0.3, 30 * STEPS_PER_DAY)
    x[5::12] += 20
    y = refitted(x)
    assert acf(y, 12) > 0.8
    assert (y[5::12] > 15).mean() > 0.9
    assert (np.delete(y, np.s_[5::12]) > 15).mean() < 0.02


def test_bursts_stay_in_their_spell():
    """A week of bursts among three quiet ones: quiet days stay quiet in the simulation."""
    rng = np.random.default_rng(5)
    x = rng.normal(5, 0.3, 28 * STEPS_PER_DAY)
    busy = np.arange(len(x)) // (7 * STEPS_PER_DAY) == 2
    x[busy & (rng.random(len(x)) < 0.1)] += 50
    y = refitted(x)
    spikes = (y > 30).reshape(-1, STEPS_PER_DAY).sum(1)
    assert (
        spikes <= 2
    ).mean() > 0.4  # independent bursts of the same rate, 7 a day, would leave 3 % of days that quiet
    assert spikes.max() > 15


def test_the_grid_of_the_recorder_is_found_and_kept():
    rng = np.random.default_rng(6)
    for quantum in (1 / 15, 1 / 60):
        x = np.round(rng.normal(3, 0.5, 10 * STEPS_PER_DAY) / quantum) * quantum
        model = fit_machine(x[:, None], rng=rng)
        assert model.quantum[0] == pytest.approx(quantum)
        y = simulate_machine(model, SLOTS, rng=rng)[:, 0]
        assert np.abs(y / quantum - np.round(y / quantum)).max() < 1e-6
    assert fit_machine(rng.normal(3, 0.5, (2000, 1)), rng=rng).quantum[0] == 0
    rare = np.where(rng.random((2000, 1)) < 0.04, rng.gamma(2, 3, (2000, 1)), 0.0)
    assert fit_machine(rare, rng=rng).quantum[0] == 0  # the many zeros are on every grid


def test_memory_shares_of_a_known_mixture():
    """Within one state nothing but the noise is left: half with a memory of 6 hours, half without."""
    rng = np.random.default_rng(7)
    n = 60 * STEPS_PER_DAY
    x = 50 + 0.02 * (np.sqrt(0.5) * ar1(n, 72.0, 1.0, rng=rng) + np.sqrt(0.5) * rng.standard_normal(n))
    shares = _memory(x)
    assert shares.sum() == pytest.approx(1.0)
    assert shares @ np.exp(-1 / MEMORY_STEPS) == pytest.approx(0.5, abs=0.08)
    assert shares @ np.exp(-72 / MEMORY_STEPS) == pytest.approx(0.5 / np.e, abs=0.08)


def test_metrics_keep_their_correlation():
    rng = np.random.default_rng(8)
    a = ar1(20 * STEPS_PER_DAY, 12.0, 1.0, rng=rng)
    b = 0.8 * a + 0.6 * ar1(20 * STEPS_PER_DAY, 12.0, 1.0, rng=rng)
    x = np.column_stack([40 + 5 * a, 60 + 5 * b])
    y = simulate_machine(fit_machine(x, rng=rng), SLOTS, rng=rng)
    assert correlation(y[:, 0], y[:, 1]) == pytest.approx(correlation(x[:, 0], x[:, 1]), abs=0.1)


def test_a_smooth_daily_cycle_is_recovered_with_its_noise():
    """Known truth: two harmonics and AR(1) noise; a second metric without a cycle stays as it is."""
    rng = np.random.default_rng(15)
    angle = 2 * np.pi * SLOTS / STEPS_PER_DAY
    cycle = 0.5 + 0.2 * np.cos(angle) + 0.1 * np.sin(2 * angle)
    x = np.column_stack([cycle + 0.03 * ar1(len(SLOTS), 12.0, 1.0, rng=rng), rng.gamma(2, 0.1, len(SLOTS))])
    model = fit_machine(x, rng=rng)
    assert model.profile[0, [0, 1, 2]] == pytest.approx([0.5, 0.2, 0.0], abs=0.01)
    assert model.profile[0, 24 + 2] == pytest.approx(0.1, abs=0.01)
    assert not model.profile[1].any()
    y = simulate_machine(model, SLOTS, rng=rng)
    assert acf(y[:, 0], STEPS_PER_DAY) == pytest.approx(acf(x[:, 0], STEPS_PER_DAY), abs=0.05)
    assert np.std(y[:, 0] - cycle) == pytest.approx(0.03, abs=0.006)
    assert acf(y[:, 0] - cycle, 6) == pytest.approx(np.exp(-0.5), abs=0.12)
    assert y[:, 1].mean() == pytest.approx(0.2, abs=0.02)


def test_no_stretch_of_the_series_comes_back():
    """A generator, not a replay: hardly any four values in a row of the fitted series occur in the simulated one."""
    x = np.round(40 + 8 * ar1(30 * STEPS_PER_DAY, 36.0, 1.0, rng=np.random.default_rng(16)), 2)
    y = np.round(refitted(x), 2)
    parts = [{tuple(side[t : t + 4]) for t in range(len(side) - 3)} for side in (x, y)]
    assert len(parts[0] & parts[1]) < 0.001 * len(parts[1])


def test_missing_values_are_left_out_of_the_fit():
    rng = np.random.default_rng(9)
    x = rng.normal(20, 2, 10 * STEPS_PER_DAY)
    x[500:900] = np.nan
    model = fit_machine(x[:, None], rng=rng)
    assert model.counts.sum() <= 10 * STEPS_PER_DAY - 401
    assert np.nanmean(simulate_machine(model, SLOTS, rng=rng)) == pytest.approx(20, abs=0.5)


def test_redrawn_transitions_have_the_moments_of_their_posterior():
    rng = np.random.default_rng(10)
    x = np.array([10.0, 40.0])[(rng.random(600) < 0.3).astype(int)]
    m = fit_machine(x[:, None], rng=rng)
    drawn = [redraw(m, [CPU], 0.0, rng=rng) for _ in range(400)]
    to = int(m.counts[0].argmax())
    share = np.array([d.counts[0, to] / d.counts[0].sum() for d in drawn])
    a = m.counts[0] + 0.5 * m.occupation
    assert share.mean() == pytest.approx(a[to] / a.sum(), abs=4 * share.std() / 20)
    assert share.std() == pytest.approx(np.sqrt(a[to] * (a.sum() - a[to]) / a.sum() ** 2 / (a.sum() + 1)), rel=0.15)


def test_redrawn_levels_stay_between_nothing_and_the_highest_value():
    rng = np.random.default_rng(11)
    m = fit_machine(np.clip(rng.normal(100, 4, (2000, 1)), 0, 110), rng=rng)
    for _ in range(50):
        knots = redraw(m, [CPU], 0.5, rng=rng).knots
        assert knots.min() >= 0
        assert knots.max() <= METRICS[CPU][2]


def test_standard_errors_cover_the_truth():
    """Machines with known mean and deviation: two standard errors hold the truth for nearly all of them."""
    rng = np.random.default_rng(12)
    data = {f"m{k}": 40 + 5 * ar1(12 * STEPS_PER_DAY, 12.0, 1.0, rng=rng) for k in range(10)}
    table = fit(data, rng=rng).estimates()
    for parameter, truth in (("mean", 40), ("standard deviation", 5)):
        part = table.xs((CPU, parameter), level=("metric", "parameter"))
        z = (part["estimate"] - truth) / part["standard_error"]
        assert (z.abs() < 2.3).sum() >= 8  # Student's t with 11 degrees of freedom: 96 %
        assert z.abs().max() > 0.3  # nor are they much too wide


def test_a_model_is_stored_and_read_without_loss_that_matters(tmp_path):
    rng = np.random.default_rng(13)
    data = {f"m{k}": rng.gamma(2, 3, 5 * STEPS_PER_DAY) for k in range(2)}
    model = fit(data, name="gamma", provenance="Two machines.", rng=rng)
    model.save(tmp_path / "gamma.json")
    again = FittedModel.load(tmp_path / "gamma.json")
    assert (again.name, again.metrics, again.provenance) == ("gamma", (CPU,), "Two machines.")
    for a, b in zip(model.machines, again.machines, strict=True):
        for name in vars(a):
            np.testing.assert_allclose(getattr(a, name), getattr(b, name), rtol=1e-3, atol=1e-9)
    assert not list(tmp_path.glob("*.partial"))
    with pytest.raises(SourceError, match="no such fitted model"):
        FittedModel.load(tmp_path / "other.json")


def test_a_machine_does_not_depend_on_how_many_others_there_are():
    times = TIMES[: 2 * STEPS_PER_DAY]
    one = simulate(preset("bitbrains"), times, rng=np.random.default_rng(1)).observations
    three = simulate(preset("bitbrains"), times, n_resources=3, rng=np.random.default_rng(1))
    pd.testing.assert_frame_equal(one, three.observations.loc[["bitbrains-0001"]])
    assert three.synthetic and three.source == "fitted:bitbrains"
    assert len(three.resource_ids) == 3


def test_simulation_keeps_to_the_clock_when_it_starts_at_noon():
    rng = np.random.default_rng(14)
    x = rng.normal(5, 0.3, 30 * STEPS_PER_DAY)
    x[(SLOTS >= 24) & (SLOTS < 27)] += 60
    model = fit({"a": x}, rng=rng)
    times = pd.date_range("2026-03-02 12:00", periods=20 * STEPS_PER_DAY, freq="300s", tz="UTC")
    series = simulate(model, times, rng=rng).series(CPU)
    hours = series.index[series > 40].hour
    assert len(hours) > 30
    assert (hours == 2).mean() > 0.9


def test_steps_that_do_not_fit_are_refused():
    hourly = pd.date_range("2026-03-02", periods=48, freq="3600s", tz="UTC")
    with pytest.raises(SchemaError, match="300 s apart"):
        simulate(preset("bitbrains"), hourly, rng=np.random.default_rng(1))
    with pytest.raises(SchemaError, match="300 s apart"):
        simulate(preset("bitbrains"), TIMES.tz_localize(None), rng=np.random.default_rng(1))
    with pytest.raises(TooShortError, match="half a day"):
        fit({"a": np.ones(100)}, rng=np.random.default_rng(1))
    with pytest.raises(SourceError, match=r"fitted:nothing.*bitbrains"):
        preset("nothing")


@pytest.mark.parametrize("name", ["asd", "bitbrains", "bitbrains-rnd", "nab"])
def test_committed_presets_simulate_in_range_without_a_trace(name, monkeypatch):
    monkeypatch.delenv("BOOK_DATA", raising=False)
    telemetry = simulate(preset(name), TIMES[: 3 * STEPS_PER_DAY], n_resources=4, rng=np.random.default_rng(1))
    assert telemetry.observations.notna().all().all()
    assert telemetry.observations.std().min() > 0
    assert presets().loc[name, "machines"] == len(preset(name).machines)
    assert "Licence" in telemetry.provenance


def test_committed_presets_hold_parameters_not_series():
    """No list in a file is as long as a series, and there are far fewer numbers than observations."""
    for path in FOLDER.glob("*.json"):
        for m in json.loads(path.read_text())["machines"]:
            numbers = sum(len(part["values"]) for part in m.values())
            metrics = m["quantum"]["shape"][0]
            assert numbers < 1600 + 200 * metrics
            assert len(m["knots"]["values"]) <= 24 * 7 * metrics
    assert len(ENDS) == 9


@pytest.mark.skipif("BOOK_DATA" not in os.environ, reason="needs the Bitbrains trace: set BOOK_DATA to the mirror")
def test_fitted_machines_pass_for_held_out_ones_and_noise_does_not():
    """The discriminator on machines the model never saw; the whole study is benchmarks/fidelity.py."""
    from support.telemetry import load

    data = machines(load("bitbrains-faststorage"), [CPU])
    real = window_features({name: x[: 6 * STEPS_PER_DAY] for name, x in data.items()})
    rng = np.random.default_rng(1)
    order = rng.permutation(sorted(real.index.unique()))
    model = fit({name: data[name][: 6 * STEPS_PER_DAY] for name in order[::2]}, rng=rng)
    made = simulate(model, TIMES[: 6 * STEPS_PER_DAY], n_resources=len(order) // 2, rng=rng)
    held_out = real[real.index.isin(order[1::2])]
    auc = two_sample_test(held_out, window_features(machines(made, [CPU])), rng=rng)[0]
    levels = {f"n{k}": np.clip(rng.normal(30, 10, (6 * STEPS_PER_DAY, 1)), 0, 100) for k in range(len(order) // 2)}
    noise = two_sample_test(held_out, window_features(levels), rng=rng)[0]
    assert noise > 0.95
    assert auc < noise - 0.1
