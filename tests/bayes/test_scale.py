"""Calibration, summaries and scale: simulators against moments, densities against NumPyro and quadrature, one device against four."""

import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from numpyro.infer.util import log_density as numpyro_log_density
from scipy.special import expit
from scipy.stats import beta, kstest, norm

from support.bayes.calibration import coverage, ecdf_band, rank_of_truth, simulate_fleet, uniformity
from support.bayes.informed import informed_points
from support.bayes.numpyro_model import fleet_model
from support.bayes.scale import _fleet_log_density, fit_top_level, fit_variational, over_devices, resource_terms
from support.bayes.statistics import seasonal_basis
from support.bayes.summaries import as_fleet, draw_resources, summarise, top_log_density, top_parameters, top_start
from support.errors import SchemaError, TooShortError


@pytest.fixture(scope="module")
def small():
    stats, truth = simulate_fleet(rng=np.random.default_rng(5), n_industry=2, n_application=2, n_resource=1)
    return stats, truth, as_fleet(stats, informed_points(stats))


def place(fleet, seed, scale=0.5):
    rng = np.random.default_rng(seed)
    return {k: v + scale * rng.standard_normal(v.shape) for k, v in top_start(fleet).items()}


# --- the simulator and the tests of uniformity ---


def test_the_simulator_has_the_priors_and_the_beta_moments():
    rng = np.random.default_rng(11)
    stats, truth = simulate_fleet(rng=rng, n_industry=400, n_application=1, n_resource=1, n_observation=480)
    assert abs(truth["eta"].mean() + 1.8) < 4 * 0.4 / 20 and abs(truth["eta"].std() / 0.4 - 1) < 0.15
    assert kstest((truth["m"][:, 0] - truth["eta"]) / (0.5 * truth["sd"]), norm.cdf).pvalue > 1e-3
    assert (stats.n == 20).all()
    # E log y = digamma(a) - digamma(a + b): checked through scipy's Beta for the resources, by hour
    p = expit(truth["theta"][:, None] + seasonal_basis(24) @ truth["b"][0])
    kappa = np.exp(truth["log_kappa"])[:, None]
    law = beta(p * kappa, (1 - p) * kappa)
    some = [(r, h) for r in range(0, 400, 80) for h in (0, 13)]
    expected = {rh: law_moments(p[rh] * kappa[rh[0], 0], (1 - p[rh]) * kappa[rh[0], 0]) for rh in some}
    z = [(stats.s1[rh] / 20 - m) / (s / np.sqrt(20)) for rh, (m, s) in expected.items()]
    assert np.abs(z).max() < 4.5 and law.mean().shape == (400, 24)


def law_moments(a, b):
    """Mean and standard deviation of log y by numerical integration over quantiles."""
    q = (np.arange(20000) + 0.5) / 20000
    logs = np.log(beta.ppf(q, a, b))
    return logs.mean(), logs.std()


def test_unequal_lengths_and_bad_sizes():
    stats, _ = simulate_fleet(
        rng=np.random.default_rng(1), n_industry=1, n_application=1, n_resource=3, n_observation=[0, 3, 30]
    )
    assert stats.n.sum(axis=1).tolist() == [0, 3, 30] and stats.n[2, :6].tolist() == [2] * 6
    with pytest.raises(SchemaError, match="at least 1"):
        simulate_fleet(rng=np.random.default_rng(1), n_resource=0)


def test_uniformity_keeps_its_level_and_finds_wrong_posteriors():
    rng = np.random.default_rng(2)
    good = [uniformity(rng.integers(0, 100, 200), 99, rng=rng) for _ in range(60)]
    for name in ("chi_square_p", "ecdf_p"):
        assert 0.3 < np.mean([g[name] < 0.5 for g in good]) < 0.7
    truth = rng.standard_normal(200)
    narrow = rank_of_truth({"x": truth}, {"x": 0.5 * rng.standard_normal((200, 99))})["x"]
    shifted = rank_of_truth({"x": truth}, {"x": 0.5 + rng.standard_normal((200, 99))})["x"]
    assert uniformity(narrow, 99, rng=rng)["ecdf_p"] < 1e-3 > uniformity(narrow, 99, rng=rng)["chi_square_p"]
    assert uniformity(shifted, 99, rng=rng)["ecdf_p"] < 1e-3
    assert abs(coverage(truth, rng.standard_normal((200, 99)), 0.9) - 0.9) < 0.08
    with pytest.raises(SchemaError, match="divide"):
        uniformity([0, 1], 98, rng=rng)
    with pytest.raises(TooShortError, match="fleets"):
        uniformity([0, 1], 99, rng=rng)
    with pytest.raises(SchemaError, match="truth of shape"):
        rank_of_truth({"x": [1.0]}, {"x": [1.0]})


def test_the_ecdf_band_holds_uniform_samples_as_often_as_it_says():
    rng = np.random.default_rng(3)
    z, low, high = ecdf_band(200, 99, rng=rng, level=0.9)
    ranks = rng.integers(0, 100, (600, 200))
    ecdf = (ranks[:, :, None] < np.arange(1, 100)).mean(axis=1) - z
    inside = ((low - 1e-9 <= ecdf) & (ecdf <= high + 1e-9)).all(axis=1).mean()
    assert 0.86 < inside < 0.95


# --- the densities ---


def test_the_density_of_the_fleet_is_numpyros_and_the_jacobian(small):
    stats, _, fleet = small

    def named_and_flat(flat):
        position = unravel(flat)
        named, _ = top_parameters(position, fleet)
        _, theta, log_kappa = resource_terms(named, position["resource"], fleet.resources, fleet.steer)
        logs = {f"log_{k}": jnp.log(named[k]) for k in ("sd", "tau", "s")}
        rest = {k: named[k] for k in ("eta", "m", "l", "b")}
        return named | {"theta": theta, "log_kappa": log_kappa}, ravel_pytree(
            rest | logs | {"theta": theta, "log_kappa": log_kappa}
        )[0]

    start = place(fleet, 1) | {"resource": jnp.zeros((4, 2))}
    flat, unravel = ravel_pytree(start)

    @jax.jit
    def difference(flat):
        named, _ = named_and_flat(flat)
        jacobian = jnp.linalg.slogdet(jax.jacfwd(lambda x: named_and_flat(x)[1])(flat))[1]
        logs = sum(
            jnp.log(named[k]).sum() for k in ("sd", "tau", "s")
        )  # NumPyro's density is over the spreads themselves
        theirs = numpyro_log_density(fleet_model, (stats,), {}, named)[0] + logs + jacobian
        return _fleet_log_density(unravel(flat), fleet) - theirs

    rng = np.random.default_rng(2)
    values = [float(difference(flat + 0.7 * rng.standard_normal(flat.shape))) for _ in range(4)]
    assert np.ptp(values) < 1e-7, values


def test_summaries_have_the_score_of_the_exact_marginal_likelihood(small):
    """Against brute-force quadrature over each resource's two parameters on a fine grid."""
    _, _, fleet = small
    position = place(fleet, 4, 0.2)
    named, _ = top_parameters(position, fleet)
    basis, own = fleet.steer["basis"], fleet.resources
    t, k = (g.ravel() for g in jnp.meshgrid(jnp.linspace(-5, 1.5, 161), jnp.linspace(-0.5, 7.5, 161)))

    def exact(named):
        of = own["application"]
        offset = (named["b"] @ basis.T)[of]
        total = 0.0
        for r in range(len(of)):
            p = jax.nn.sigmoid(t[:, None] + offset[r])
            a, b = p * jnp.exp(k)[:, None], (1 - p) * jnp.exp(k)[:, None]
            data = (a * own["s1"][r] + b * own["s2"][r]).sum(1) - (own["n"][r] * jax.scipy.special.betaln(a, b)).sum(1)
            m, l_cell = named["m"][own["industry"][r], of[r]], named["l"][own["industry"][r], of[r]]
            prior = -0.5 * ((t - m) / named["tau"][of[r]]) ** 2 - 0.5 * ((k - l_cell) / named["s"]) ** 2
            total += jax.scipy.special.logsumexp(data + prior - jnp.log(named["tau"][of[r]] * named["s"]))
        return total

    keys = ("m", "l", "tau", "s", "b")
    want = jax.jit(jax.grad(lambda part: exact(named | part)))({k: named[k] for k in keys})

    def score(summaries):
        gradient = jax.grad(top_log_density)(position, fleet, summaries)
        prior = jax.grad(lambda q: top_parameters(q, fleet)[1])(position)
        _, pull = jax.vjp(lambda q: {k: v for k, v in top_parameters(q, fleet)[0].items() if k in keys}, position)
        expected = pull(want)[0]
        got = jax.tree.map(lambda a, b: a - b, gradient, prior)
        return max(float(jnp.abs(got[k] - expected[k]).max()) for k in got)

    matched, laplace = (score(summarise(fleet, named, moments=m)) for m in (True, False))
    assert matched < 0.01 < laplace


def test_draws_of_resources_have_the_moments_of_their_summaries(small):
    _, _, fleet = small
    named, _ = top_parameters(top_start(fleet), fleet)
    summaries = summarise(fleet, named)
    draws = jax.vmap(lambda key: draw_resources(named, summaries, key=key))(jax.random.split(jax.random.key(1), 20000))
    spread = [named["tau"][summaries.application] ** -2, jnp.full(4, named["s"] ** -2)]
    covariance = np.linalg.inv(summaries.precision + jnp.stack(spread, -1)[:, :, None] * jnp.eye(2))
    got = np.stack([draws["theta"], draws["log_kappa"]], -1)
    z = (got.mean(0) - summaries.location) / np.sqrt(covariance[:, [0, 1], [0, 1]] / 20000)
    assert np.abs(z).max() < 4.5
    for r in range(4):
        np.testing.assert_allclose(np.cov(got[:, r].T), covariance[r], atol=0.05 * np.sqrt(covariance[r].max() ** 2))


def test_top_level_and_guide_recover_the_truth_of_a_larger_fleet():
    stats, truth = simulate_fleet(rng=np.random.default_rng(8), n_industry=2, n_application=2, n_resource=150)
    fleet = as_fleet(stats, informed_points(stats))
    fit = fit_top_level(fleet, key=jax.random.key(1), n_warmup=150, n_draws=250)
    assert fit.draws.diverging.sum() == 0
    guide = fit_variational(fleet, key=jax.random.key(2), n_steps=1200, batch=150).draws(
        fleet, 1000, key=jax.random.key(3)
    )
    scores = []
    for name in ("m", "l", "tau", "s", "b"):
        exact = np.asarray(fit.named[name]).reshape(1000, -1)
        scores.append((exact.mean(0) - np.ravel(truth[name])) / exact.std(0))
        approximate = np.asarray(guide[name]).reshape(1000, -1)
        assert (np.abs(approximate.mean(0) - exact.mean(0)) / exact.std(0)).max() < 0.8, name
        assert (approximate.std(0) / exact.std(0)).min() > 0.6, name
    z = np.concatenate(scores)
    assert np.abs(z).max() < 4 and (np.abs(z) < 1.645).mean() > 0.7


# --- the layout over devices ---

ON_DEVICES = """
import sys
import jax, jax.numpy as jnp, numpy as np
from support.bayes.calibration import simulate_fleet
from support.bayes.informed import informed_points
from support.bayes.scale import fit_top_level, fit_variational, _fleet_log_density, over_devices
from support.bayes.summaries import as_fleet, summarise, top_parameters, top_start
assert jax.device_count() == 4
stats, _ = simulate_fleet(rng=np.random.default_rng(5), n_industry=2, n_application=3, n_resource=7)  # 42: no multiple of 4
whole = as_fleet(stats, informed_points(stats))
results = []
for fleet in (whole, over_devices(whole, 4)):
    n = len(fleet.resources["n"])
    z = jnp.zeros((n, 2)).at[:42].set(np.random.default_rng(1).standard_normal((42, 2)))
    if fleet is not whole:
        assert n == 44 and len(fleet.resources["s1"].sharding.device_set) == 4
        assert fleet.resources["s1"].addressable_shards[0].data.shape[0] == 11
    position = top_start(fleet) | {"resource": z}
    value, gradient = jax.jit(jax.value_and_grad(_fleet_log_density))(position, fleet)
    gradient["resource"] = gradient["resource"][:42]
    summaries = summarise(fleet, top_parameters(top_start(fleet), fleet)[0])
    if fleet is not whole:
        assert len(summaries.location.sharding.device_set) == 4
    fit = fit_top_level(fleet, key=jax.random.key(1), rounds=1, n_warmup=20, n_draws=5)
    guide = fit_variational(fleet, key=jax.random.key(2), n_steps=30, batch=100)
    results.append([gradient, summaries.location[:42], summaries.precision[:42], summaries.stiffness, fit.named, guide.loss[:1]])
    results[-1].insert(0, value + 0.0)
empty = 2 * -np.log(2 * np.pi)  # two empty resources at z = 0: the normal densities of their two parameters
one, four = results
print("value", float(four[0] - one[0] - empty))
for name, a, b in zip(("gradient", "location", "precision", "stiffness", "named"), one[1:], four[1:]):
    print(name, max(float(np.abs(np.asarray(x) - np.asarray(y)).max() / (1 + np.abs(np.asarray(x)).max())) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b))))
print("finite", float(not np.isfinite(np.asarray(guide.loss)).all()))
"""


def test_four_devices_give_what_one_gives():
    environment = os.environ | {"XLA_FLAGS": "--xla_force_host_platform_device_count=4", "JAX_PLATFORMS": "cpu"}
    run = subprocess.run(
        [sys.executable, "-c", ON_DEVICES], capture_output=True, text=True, env=environment, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]
    found = dict(line.split() for line in run.stdout.splitlines())
    assert set(found) == {"value", "gradient", "location", "precision", "stiffness", "named", "finite"}
    # draws follow the same path: rounding grows along 25 transitions, so their bound is wider
    for name, value in found.items():
        assert abs(float(value)) < (1e-6 if name == "named" else 1e-9), (name, value)


def test_bad_layouts_and_sizes_are_refused(small):
    fleet = small[2]
    with pytest.raises(SchemaError, match="devices asked for"):
        over_devices(fleet, 10_000)
    with pytest.raises(SchemaError, match="at least 1"):
        fit_variational(fleet, key=jax.random.key(1), batch=0)
    with pytest.raises(SchemaError, match="rounds"):
        fit_top_level(fleet, key=jax.random.key(1), rounds=0)
