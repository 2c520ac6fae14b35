import itertools
import warnings

import jax
import numpy as np
import pandas as pd
import pytest
from numpyro.infer import util
from scipy.stats import norm

from support.bayes import numpyro_model
from support.bayes.calibration import simulate_fleet
from support.bayes.informed import informed_points
from support.bayes.model import constrain, log_density, start
from support.bayes.pymc_model import fleet_model, sample_pymc
from support.bayes.sampler import sample
from support.bayes.statistics import cell_statistics, unit_rows
from support.errors import SourceError
from support.telemetry import Telemetry

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import arviz

TOP = ("eta", "sd", "m", "tau", "l", "s", "b")
FALSE_ALARM = 1e-3  # of the whole family of comparisons, by Bonferroni
LARGEST_MCSE = 0.15  # posterior sds: what the comparison can see is a few of these


@pytest.fixture(scope="module")
def telemetry():
    """Four groups of three resources, ten hourly rows each."""
    ids = [f"r-{k:02d}" for k in range(12)]
    times = pd.date_range("2026-01-05", periods=10, freq="h", tz="UTC")
    index = pd.MultiIndex.from_product([ids, times], names=["resource_id", "timestamp"])
    percent = np.random.default_rng(7).uniform(1, 60, len(index))
    groups = {"industry": ["bank", "shop"] * 6, "application": ["api"] * 6 + ["batch"] * 6}
    resources = pd.DataFrame(groups, index=pd.Index(ids, name="resource_id"))
    return Telemetry(pd.DataFrame({"cpu_utilization": percent}, index=index), 3600.0, resources=resources)


@pytest.mark.parametrize("raw", [True, False])
def test_the_density_is_that_of_the_numpyro_program(raw, telemetry):
    stats = cell_statistics(telemetry, week=False, weight="none")
    rows = unit_rows(telemetry, week=False) if raw else None
    _, truth = simulate_fleet(rng=np.random.default_rng(4), n_industry=2, n_application=2, n_resource=3)
    m_z = (truth["m"] - truth["eta"][:, None]) / (0.5 * truth["sd"][:, None])
    at = {name: truth[name] for name in ("eta", "b", "l", "theta", "log_kappa")} | {"m_z": m_z}
    at |= {f"{name}_log__": np.log(truth[name]) for name in ("sd", "tau", "s")}
    value = fleet_model(stats, rows).compile_logp(jacobian=False, mode="JAX")(at)
    log_jacobian = 2 * np.log(0.5 * truth["sd"]).sum()  # of m by m_z: two applications in each industry
    twin, _ = util.log_density(numpyro_model.fleet_model, (stats, rows), {}, truth)
    assert float(value) - log_jacobian == pytest.approx(float(twin), rel=1e-10)


@pytest.fixture(scope="module")
def posteriors():
    """Top-level draws of one small fleet from three programs: ours, NumPyro's NUTS, nutpie on the PyMC model."""
    stats, _ = simulate_fleet(
        rng=np.random.default_rng(5), n_industry=2, n_application=2, n_resource=6, n_observation=60
    )
    points = informed_points(stats)
    run = sample(log_density(stats, points), start(stats, points), n_warmup=300, n_draws=300, key=jax.random.key(1))
    ours = jax.jit(jax.vmap(jax.vmap(lambda q: constrain(q, stats, points))))(run.positions)
    size = {"n_chains": 2, "n_warmup": 300, "n_draws": 300}
    nuts, _ = numpyro_model.sample_nuts(stats, key=jax.random.key(2), points=points, **size)
    pymc, _ = sample_pymc(stats, rng=np.random.default_rng(3), sampler="nutpie_jax", points=points, cores=1, **size)
    return {
        name: arviz.convert_to_dataset({k: np.asarray(draws[k]) for k in TOP})
        for name, draws in (("ours", ours), ("NumPyro", nuts), ("PyMC", pymc))
    }


def test_posteriors_agree_within_monte_carlo_error_on_every_top_level_parameter(posteriors):
    n_parameter = sum(value[0, 0].size for value in posteriors["ours"].values())
    pairs = list(itertools.combinations(posteriors, 2))
    bound = norm.isf(FALSE_ALARM / (2 * 2 * len(pairs) * n_parameter))  # means and spreads, two sides
    for one, two in pairs:
        centre = (posteriors[one].mean(("chain", "draw")) + posteriors[two].mean(("chain", "draw"))) / 2
        for what, of in (("mean", lambda d: d), ("spread", lambda d, centre=centre: (d - centre) ** 2)):
            draws = [of(posteriors[name]) for name in (one, two)]
            errors = [arviz.mcse(d) for d in draws]
            difference = draws[0].mean(("chain", "draw")) - draws[1].mean(("chain", "draw"))
            z = difference / np.sqrt(errors[0] ** 2 + errors[1] ** 2)
            for name, value in z.items():
                assert np.abs(value).max() < bound, f"{one}, {two}: {what} of {name}"


def test_the_comparison_is_sharp(posteriors):
    for name, draws in posteriors.items():
        relative = arviz.mcse(draws) / draws.std(("chain", "draw"))
        assert max(float(value.max()) for value in relative.values()) < LARGEST_MCSE, name


def test_an_unknown_sampler_is_refused(telemetry):
    with pytest.raises(SourceError, match="sampler is 'gibbs'"):
        sample_pymc(cell_statistics(telemetry), rng=np.random.default_rng(1), sampler="gibbs")
