from __future__ import annotations

import io
import json
from dataclasses import replace

import jax
import numpy as np
import pandas as pd
import pytest
from scipy.special import betaln, expit

from support.bayes.diagnostics import convergence
from support.bayes.inflation import edge_shares
from support.bayes.predict import Prediction
from support.bayes.priors import Priors
from support.bayes.single import pooled
from support.bayes.statistics import CellStatistics, seasonal_basis
from support.bayes.utilization import UtilizationModel
from support.errors import SchemaError, SourceError

KEY = jax.random.key(11)


def _simulated(seed: int, n_cell: int = 12, per_cell: int = 6, n_row: int = 96) -> tuple[CellStatistics, dict]:
    """A fleet of 3 x 4 groups drawn from the model itself, with its truth."""
    rng = np.random.default_rng(seed)
    cell = np.repeat(np.arange(n_cell), per_cell)
    i, a = np.divmod(cell, 4)
    eta, sd, tau = rng.normal(-1.8, 0.4, 3), np.abs(rng.normal(0, 0.6, 3)), np.abs(rng.normal(0, 0.5, 4))
    m, log_centre = rng.normal(eta[:, None], 0.5 * sd[:, None], (3, 4)), rng.normal(np.log(30), 0.7, (3, 4))
    b, theta = rng.normal(0, 0.35, (4, 4)), rng.normal(m[i, a], tau[a])
    log_kappa = rng.normal(log_centre[i, a], 0.3)
    p = expit(theta[:, None] + b[a] @ seasonal_basis(24).T)[:, np.arange(n_row) % 24]
    kappa = np.exp(log_kappa)[:, None]
    y = np.clip(rng.beta(p * kappa, (1 - p) * kappa), 1e-9, 1 - 1e-9)
    sums = [f(y).reshape(len(cell), -1, 24).sum(axis=1) for f in (np.ones_like, np.log, lambda x: np.log1p(-x))]
    none = np.zeros(len(cell))
    names = [tuple(f"{kind}{k}" for k in range(n)) for kind, n in (("i", 3), ("a", 4), ("r", len(cell)))]
    stats = CellStatistics(*names, i, a, *sums, none, none, none + 1)
    return stats, {"eta": eta, "m": m, "theta": theta, "log_kappa": log_kappa, "b": b, "tau": tau}


def test_known_truth_is_covered():
    hits: dict[str, list[np.ndarray]] = {}
    for seed in range(3):  # the second and third fits reuse the program of the first
        stats, truth = _simulated(seed)
        model = UtilizationModel(week=False, n_warmup=200, n_draws=250).fit_statistics(stats, key=jax.random.key(seed))
        for name, value in truth.items():
            low, high = np.quantile(model.flat(name), [0.05, 0.95], axis=0)
            hits.setdefault(name, []).append(((low < value) & (value < high)).ravel())
        assert not model.fit_.diverging.any()
    for name, least in (("theta", 0.84), ("log_kappa", 0.84), ("b", 0.75), ("m", 0.75)):  # three sds below 0.9
        assert least < np.concatenate(hits[name]).mean() <= 1.0, name


def test_complete_pooling_equals_quadrature(fits):
    stats = pooled(fits["complete"].fit_.stats)
    priors = Priors(b_sd=1e-4)  # without a season two parameters are left
    model = UtilizationModel(pooling="complete", priors=priors, week=False, n_warmup=200, n_draws=250)
    model = model.fit_statistics(stats, key=KEY)
    theta, log_kappa = model.flat("theta")[:, 0], model.flat("log_kappa")[:, 0]
    x, y = (np.linspace(v.mean() - 6 * v.std(), v.mean() + 6 * v.std(), 241) for v in (theta, log_kappa))
    gx, gy = np.meshgrid(x, y, indexing="ij")
    alpha, beta = expit(gx) * np.exp(gy), expit(-gx) * np.exp(gy)
    log = alpha * stats.s1.sum() + beta * stats.s2.sum() - stats.n.sum() * betaln(alpha, beta)
    log -= 0.5 * ((gx + 1.8) / priors.theta_sd) ** 2 + 0.5 * ((gy - np.log(30)) / priors.resource_log_kappa_sd) ** 2
    weight = np.exp(log - log.max())
    weight /= weight.sum()
    for draws, grid in ((theta, gx), (log_kappa, gy)):
        mean = (weight * grid).sum()
        sd = np.sqrt((weight * (grid - mean) ** 2).sum())
        assert abs(draws.mean() - mean) < 0.15 * sd
        assert draws.std() == pytest.approx(sd, rel=0.15)


def test_partial_pooling_lies_between_the_other_two(fits):
    none, partial, complete = (fits[k].intervals() for k in ("none", "partial", "complete"))
    assert complete["mean"].std() < 0.5 < partial["mean"].std() < 1.1 * none["mean"].std()
    assert (partial["upper"] - partial["lower"]).mean() < (none["upper"] - none["lower"]).mean()


def test_new_groups_are_less_certain(fits):
    model = fits["partial"]
    r = int(np.argmax(model.fit_.stats.n.sum(axis=1)))
    stats = model.fit_.stats
    names = stats.industries[stats.industry_of[r]], stats.applications[stats.application_of[r]]
    width = []
    for known in (
        {"resource": stats.resources[r]},
        {"industry": names[0], "application": names[1]},
        {"industry": names[0]},
        {"industry": "shipping", "application": names[1]},
        {},
    ):
        prediction = model.predict(**known, n_samples=2000, key=KEY)
        low, high = prediction.interval(0.9)
        assert 0 < low < high < 100
        width.append(high - low)
    assert width[0] < width[1] < width[2] and width[0] < width[3] and width[0] < width[4]
    with pytest.raises(SchemaError, match="no resource"):
        model.predict(resource="nobody", key=KEY)
    with pytest.raises(SchemaError, match="leave the group out"):
        model.predict(resource=stats.resources[r], industry="shipping", key=KEY)


@pytest.mark.parametrize("columns", [(), ("kind",)])
def test_a_level_without_a_column_is_one_group_and_not_a_new_one(fleet_telemetry, columns):
    """The next machine of a fleet of one kind is one of that kind, not one from the prior."""
    alike = replace(fleet_telemetry, resources=fleet_telemetry.resources.assign(kind="vm"))
    model = UtilizationModel(group_columns=columns, week=False, n_warmup=100, n_draws=100).fit(alike, key=KEY)
    said = model.predict(application="vm" if columns else None, n_samples=500, key=KEY)
    assert said.who == "a new resource of a known industry and a known application"
    named = model.predict(industry="all", application="vm" if columns else "all", n_samples=500, key=KEY)
    np.testing.assert_array_equal(said.mean, named.mean)
    stranger = model.predict(industry="another", application="another", n_samples=500, key=KEY)
    assert stranger.who == "a new resource of a new industry and a new application"


def test_update_equals_refit(fleet_telemetry, fits):
    time = fleet_telemetry.observations.index.get_level_values("timestamp")
    early = np.asarray(time < time.min() + pd.Timedelta(days=3))
    first, second = (replace(fleet_telemetry, observations=fleet_telemetry.observations[k]) for k in (early, ~early))
    model = replace(fits["partial"], fitted=None)
    updated = model.fit(first, key=KEY).update(second, key=KEY)
    refit = fits["partial"]
    for name in ("eta", "m", "theta", "log_kappa", "b", "l"):
        ours, theirs = updated.flat(name), refit.flat(name)
        away = np.abs(ours.mean(axis=0) - theirs.mean(axis=0)) / theirs.std(axis=0)
        assert away.max() < 0.35, name  # the means of about 500 effective draws differ by 0.06 sd on average
        assert np.median(ours.std(axis=0) / theirs.std(axis=0)) == pytest.approx(1, abs=0.1)


def test_ignoring_autocorrelation_narrows_the_intervals(fits, fleet_telemetry):
    naive = replace(fits["none"], fitted=None, weight="none").fit(fleet_telemetry, key=KEY).intervals()
    honest = fits["none"].intervals()
    assert ((naive["upper"] - naive["lower"]) / (honest["upper"] - honest["lower"])).median() < 0.8


def test_save_and_load(fits, tmp_path):
    for name, model in fits.items():
        model.save(tmp_path / f"{name}.npz")
        again = UtilizationModel.load(tmp_path / f"{name}.npz")
        pd.testing.assert_frame_equal(again.intervals(), model.intervals())
        assert again.priors == model.priors and again.group_columns == model.group_columns
        np.testing.assert_array_equal(again.fit_.stats.autocorrelation, model.fit_.stats.autocorrelation)
    (tmp_path / "no.npz").write_text("no")
    for path in ("no.npz", "missing.npz"):
        with pytest.raises(SourceError, match="no saved UtilizationModel"):
            UtilizationModel.load(tmp_path / path)


def test_a_damaged_file_is_refused_in_a_sentence_wherever_the_damage_is(fits, tmp_path):
    fits["complete"].save(tmp_path / "whole.npz")
    whole = (tmp_path / "whole.npz").read_bytes()
    rng, damaged = np.random.default_rng(3), [whole[:cut] for cut in (0, 1, 100, len(whole) // 2, len(whole) - 1)]
    for at in rng.integers(len(whole) // 4, 3 * len(whole) // 4, 25):  # inside compressed arrays
        damaged.append(whole[:at] + bytes(b ^ 255 for b in whole[at : at + 8]) + whole[at + 8 :])
    with np.load(tmp_path / "whole.npz") as file:
        arrays = {name: file[name] for name in file.files}
    header = json.loads(str(arrays["header"]))
    lacking = [
        {k: v for k, v in arrays.items() if k != out} for out in ("energy", "statistics.n", "lag.skip", "header")
    ]
    lacking += [
        arrays | {"header": np.array(json.dumps({k: v for k, v in header.items() if k != out}))}
        for out in ("settings", "priors", "statistics")
    ]
    for parts in [*lacking, arrays | {"strange.part": np.ones(2)}]:
        buffer = io.BytesIO()
        np.savez(buffer, **parts)
        damaged.append(buffer.getvalue())
    for content in damaged:
        (tmp_path / "damaged.npz").write_bytes(content)
        with pytest.raises(SourceError, match="no saved UtilizationModel"):
            UtilizationModel.load(tmp_path / "damaged.npz")


def test_a_model_is_saved_under_the_name_given_or_not_at_all(fits, tmp_path, monkeypatch):
    fits["complete"].save(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    pd.testing.assert_frame_equal(UtilizationModel.load(tmp_path / "model").intervals(), fits["complete"].intervals())
    before = (tmp_path / "model").read_bytes()
    whole = np.lib.format.write_array

    def full(file, array, **options):  # a disk that is full after the first array
        if len(array.shape) > 1:
            raise OSError(28, "No space left on device")
        whole(file, array, **options)

    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(SourceError, match="No space left"):
        fits["partial"].save(tmp_path / "model")
    assert [p.name for p in tmp_path.iterdir()] == ["model"] and (tmp_path / "model").read_bytes() == before
    with pytest.raises(SourceError, match="cannot be written"):
        fits["complete"].save(tmp_path / "no" / "folder.npz")


def test_unfitted_and_misspelt_models_say_so():
    with pytest.raises(SourceError, match="no posterior yet"):
        UtilizationModel().intervals()
    with pytest.raises(SourceError, match="pooling"):
        UtilizationModel(pooling="some")


def _prediction(**changes) -> Prediction:
    rng = np.random.default_rng(5)
    values = {
        "mean": rng.uniform(0.2, 0.5, (4000, 24)), "kappa": rng.uniform(5, 40, 4000), "zero": np.full(4000, 0.1),
        "saturated": np.full(4000, 0.01), "capacity": 50.0, "unit": "percent", "autocorrelation": 0.8, "step_seconds": 3600.0,
        "who": "made up",
    }  # fmt: skip
    return Prediction(**values | changes)


def test_breach_probability_and_size_against_draws():
    p, rng = _prediction(), np.random.default_rng(1)
    drawn = p.samples(rng=rng)
    assert (drawn == 0).mean() == pytest.approx(0.1, abs=0.003) and (drawn == 50).mean() == pytest.approx(
        0.01, abs=0.001
    )
    for limit, size in ((20.0, 1.0), (30.0, 1.0), (30.0, 1.3)):
        demand = np.where(drawn == 50, np.inf, drawn)  # what a full interval wanted is unknown: a breach at every size
        assert p.breach_probability(limit, size=size) == pytest.approx((demand / size > limit).mean(), abs=0.004)
    size = p.smallest_size(30.0, 0.05)
    assert p.breach_probability(30.0, size=size) <= 0.05 + 1e-4 < p.breach_probability(30.0, size=size * 0.99) + 2e-3
    assert p.smallest_size(30.0, 0.005) == np.inf
    with pytest.raises(SourceError, match="limit"):
        p.smallest_size(60.0, 0.05)


def test_paths_have_the_marginals_and_the_correlation():
    p = _prediction(
        mean=np.full((4000, 24), 0.3), kappa=np.full(4000, 20.0), zero=np.zeros(4000), saturated=np.zeros(4000)
    )
    f = p.forecast(issued_at=pd.Timestamp("2026-03-02", tz="UTC"), n_horizon=30, rng=np.random.default_rng(2))
    assert f.paths.mean() == pytest.approx(15.0, abs=0.1)
    assert np.corrcoef(f.paths[0, :, 10], f.paths[0, :, 11])[0, 1] == pytest.approx(0.8, abs=0.03)
    np.testing.assert_allclose(
        f.quantile(0.9), np.quantile(50 * np.random.default_rng(3).beta(6, 14, 200_000), 0.9), rtol=0.03
    )


def test_shares_at_the_edges_against_draws_from_the_prior():
    none, one = np.zeros(3), np.ones((3, 24))
    zeros = np.array([20.0, 2.0, 6.0])
    stats = CellStatistics(
        ("i",), ("a",), ("x", "y", "z"), none.astype(int), none.astype(int), one, -one, -one, zeros, none, none + 1
    )
    rng = np.random.default_rng(4)
    drawn = edge_shares(stats, "partial").draw(n_samples=20_000, rng=rng, resource=1)[0].mean()
    mean, total = rng.beta(0.5, 50.0, 600_000), np.exp(rng.uniform(np.log(0.1), np.log(1000), 600_000))
    alpha, beta = mean * total, (1 - mean) * total
    log = sum(betaln(alpha + z, beta + 24) - betaln(alpha, beta) for z in zeros)
    weight = np.exp(log - np.nanmax(log))
    keep = np.isfinite(weight)
    weight, alpha, beta = weight[keep], alpha[keep], beta[keep]
    expected = np.average((alpha + 2) / (alpha + beta + 26), weights=weight)
    assert drawn == pytest.approx(expected, rel=0.1)
    own = edge_shares(stats, "none").draw(n_samples=20_000, rng=rng, resource=0)[0].mean()
    assert own == pytest.approx(20.5 / (20.5 + 24 + 50), rel=0.02)


def test_prior_predictive_is_the_documented_fifteen_percent():
    prediction = UtilizationModel().prior_predictive(n_samples=4000, key=KEY)
    assert 12 < np.median(prediction.expected.mean(axis=1)) < 18
    wide = UtilizationModel(priors=Priors().scaled(2.0)).prior_predictive(n_samples=4000, key=KEY)
    assert np.ptp(wide.interval(0.9)) > 1.4 * np.ptp(prediction.interval(0.9))


@pytest.mark.parametrize("weight", ["effective", "none"])
def test_a_machine_that_stands_still_does_not_break_the_fit(fleet_telemetry, weight):
    """Its density has no bound, so that without the rounding of its values the posterior is improper."""
    stuck = fleet_telemetry.resource_ids[4]
    observations = fleet_telemetry.observations.copy()
    observations.loc[stuck, "cpu_utilization"] = 37.0
    resources = fleet_telemetry.resources.copy()
    resources.loc[stuck, "application"] = "still"
    telemetry = replace(fleet_telemetry, observations=observations, resources=resources)
    model = UtilizationModel(weight=weight, week=False, n_warmup=1000, n_draws=2000).fit(telemetry, key=KEY)
    assert convergence(model)["good"][["R-hat, largest", "bulk ESS, smallest", "tail ESS, smallest"]].all()
    inner = (
        100 * model.predict(resource=stuck, n_samples=500, key=KEY).mean
    )  # without the shares of zeros and saturation
    assert 36.99 < inner.min() < 37.0 < inner.max() < 37.01
    kappa = 0.37 * 0.63 / (1e-4**2 / 12) - 1  # of a Beta whose variance is that of rounding to 0.01 percent
    own = model.flat("log_kappa")[:, 4]
    assert abs(own.mean() - np.log(kappa)) < 2 * own.std()
