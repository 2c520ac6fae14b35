import numpy as np
import numpyro
import pytest
from numpyro.infer.util import constrain_fn, log_density, potential_energy
from scipy import stats as st

from support.bayes.calibration import simulate_fleet
from support.bayes.informed import informed_points
from support.bayes.numpyro_model import fleet_model
from support.bayes.statistics import CellStatistics, Rows, seasonal_basis


def small_fleet() -> tuple[CellStatistics, Rows, dict[str, np.ndarray]]:
    """Two industries, two applications, three resources a cell, ten hourly rows each; also as raw rows."""
    rng = np.random.default_rng(7)
    empty, truth = simulate_fleet(rng=rng, n_industry=2, n_application=2, n_resource=3, n_observation=10)
    n_resource, n_row = len(empty.resources), 10
    resource, hour = np.repeat(np.arange(n_resource), n_row), np.tile(np.arange(n_row), n_resource)
    season = (truth["b"] @ seasonal_basis(24).T)[empty.application_of[resource], hour]
    mean, kappa = 1 / (1 + np.exp(-truth["theta"][resource] - season)), np.exp(truth["log_kappa"][resource])
    y = np.clip(rng.beta(mean * kappa, (1 - mean) * kappa), 0.001, 0.999)
    cells = [np.zeros((n_resource, 24)) for _ in range(3)]
    for r, h, value in zip(resource, hour, y, strict=True):
        for cell, term in zip(cells, (1.0, np.log(value), np.log(1 - value)), strict=True):
            cell[r, h] += term
    nothing = np.zeros(n_resource)
    groups = (empty.industries, empty.applications, empty.resources, empty.industry_of, empty.application_of)
    stats = CellStatistics(*groups, *cells, nothing, nothing, nothing + 1)
    return stats, Rows(y, resource, hour, 3600.0 * hour, empty.resources, np.full(n_resource, 100.0), 24), truth


def written(stats: CellStatistics, rows: Rows, at: dict[str, np.ndarray]) -> float:
    """Log joint density as the page writes it: one scipy density a parameter, one a row."""
    total = st.norm.logpdf(at["eta"], -1.8, 0.4).sum() + st.halfnorm.logpdf(at["sd"], scale=0.6).sum()
    total += st.halfnorm.logpdf(at["tau"], scale=0.5).sum() + st.halfnorm.logpdf(at["s"], scale=0.5)
    total += st.norm.logpdf(at["l"], np.log(30), 0.7).sum() + st.norm.logpdf(at["b"], 0, 0.35).sum()
    for i in range(len(stats.industries)):
        total += st.norm.logpdf(at["m"][i], at["eta"][i], at["sd"][i] / 2).sum()
    for r, (i, a) in enumerate(zip(stats.industry_of, stats.application_of, strict=True)):
        total += st.norm.logpdf(at["theta"][r], at["m"][i, a], at["tau"][a])
        total += st.norm.logpdf(at["log_kappa"][r], at["l"][i, a], at["s"])
    basis = seasonal_basis(24)
    for y, r, h in zip(rows.y, rows.resource, rows.cell, strict=True):
        p = 1 / (1 + np.exp(-at["theta"][r] - basis[h] @ at["b"][stats.application_of[r]]))
        kappa = np.exp(at["log_kappa"][r])
        total += st.beta.logpdf(y, p * kappa, (1 - p) * kappa)
    return float(total)


@pytest.mark.parametrize("raw", [True, False])
def test_the_program_is_the_model_as_written(raw: bool) -> None:
    stats, rows, truth = small_fleet()
    value, _ = log_density(fleet_model, (stats, rows if raw else None), {}, truth)
    assert float(value) == pytest.approx(written(stats, rows, truth), rel=1e-10)


def test_informed_non_centring_is_an_exact_change_of_variables() -> None:
    stats, rows, truth = small_fleet()
    model = (fleet_model, (stats, None, informed_points(stats)), {})
    rng = np.random.default_rng(3)
    shapes = {"m": (2, 2), "l": (2, 2), "theta": (12,), "log_kappa": (12,)}
    z = {f"{name}_z": rng.normal(size=shape) for name, shape in shapes.items()}
    outer = {name: truth[name] for name in ("eta", "b")} | {name: np.log(truth[name]) for name in ("sd", "tau", "s")}

    def named(moved: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        return {k: np.asarray(v) for k, v in constrain_fn(*model, outer | moved, return_deterministic=True).items()}

    at, step = named(z), 1e-5
    log_jacobian = np.log(truth["sd"]).sum() + np.log(truth["tau"]).sum() + np.log(truth["s"])  # of exp
    for name in shapes:  # given those above it, each parameter is monotone in its own z: slopes by central differences
        up, down = (named(z | {f"{name}_z": z[f"{name}_z"] + d})[name] for d in (step, -step))
        log_jacobian += np.log((up - down) / (2 * step)).sum()
    energy = potential_energy(*model, outer | z)
    assert -float(energy) == pytest.approx(written(stats, rows, at) + log_jacobian, rel=1e-7)


def test_a_resource_without_data_is_wholly_non_centred() -> None:
    stats, _, _ = small_fleet()
    stats.n[0], stats.s1[0], stats.s2[0] = 0, 0, 0
    seeded = numpyro.handlers.seed(fleet_model, 1)
    trace = numpyro.handlers.trace(seeded).get_trace(stats, None, informed_points(stats))
    loc = trace["m"]["value"][stats.industry_of[0], stats.application_of[0]]
    wanted = loc + trace["tau"]["value"][stats.application_of[0]] * trace["theta_z"]["value"][0]
    assert float(trace["theta"]["value"][0]) == pytest.approx(float(wanted))
