"""The hierarchical model of utilisation in PyMC: an independent twin of `support.bayes.model`, with PyMC's samplers."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from support.bayes.informed import InformedPoints
from support.bayes.priors import Priors
from support.bayes.statistics import CellStatistics, Rows, seasonal_basis
from support.errors import SourceError

with warnings.catch_warnings():  # PyMC imports ArviZ, which announces its next version
    warnings.simplefilter("ignore")
    import pymc as pm
    import pytensor.tensor as pt

__all__ = ["fleet_model", "sample_pymc"]

SAMPLERS: dict[str, dict[str, Any]] = {  # ours: arguments of pymc.sample
    "default": {"nuts_sampler": "pymc"},
    "nutpie": {"nuts_sampler": "nutpie"},
    "nutpie_jax": {"nuts_sampler": "nutpie", "nuts_sampler_kwargs": {"backend": "jax", "gradient_backend": "jax"}},
    "numpyro": {"nuts_sampler": "numpyro"},
}
Steering = dict[str, tuple[NDArray[np.float64], NDArray[np.float64]]]  # estimate and precision of a parameter


def fleet_model(stats: CellStatistics, rows: Rows | None = None, points: InformedPoints | None = None) -> pm.Model:
    """The model in PyMC: industry, cell (industry x application), resource, season by application.

    stats, rows, points: as in `support.bayes.numpyro_model.fleet_model`. Without points, cells are non-centred and
    resources centred, the usual hand-made choice for a fleet with many observations a resource.

    Example:
        >>> from support.bayes.calibration import simulate_fleet
        >>> stats, truth = simulate_fleet(rng=np.random.default_rng(1))
        >>> [str(variable) for variable in fleet_model(stats).free_RVs][:4]
        ['eta', 'sd', 'tau', 's']
    """
    at = points.priors if points else Priors()
    n_industry, n_application = len(stats.industries), len(stats.applications)
    cells, resources = (n_industry, n_application), (len(stats.resources),)
    industry, application = stats.industry_of, stats.application_of
    basis = seasonal_basis(stats.n_hour_cell)
    steering = points.points() if points else {}
    with pm.Model() as model:
        eta = pm.Normal("eta", at.eta_mean, at.eta_sd, shape=n_industry)
        sd = pm.HalfNormal("sd", at.sd_sd, shape=n_industry)
        tau = pm.HalfNormal("tau", at.tau_sd, shape=n_application)
        s = pm.HalfNormal("s", at.s_sd)
        b = pm.Normal("b", 0, at.b_sd, shape=(n_application, basis.shape[1]))
        if "m" in steering:
            m = _moved("m", eta[:, None] + pt.zeros(cells), at.share * sd[:, None], cells, steering)
        else:
            m = pm.Deterministic("m", eta[:, None] + at.share * sd[:, None] * pm.Normal("m_z", 0, 1, shape=cells))
        l_cell = _moved("l", at.log_kappa_mean, at.log_kappa_sd, cells, steering)
        theta = _moved("theta", m[industry, application], tau[application], resources, steering)
        log_kappa = _moved("log_kappa", l_cell[industry, application], s, resources, steering)
        season = pt.dot(b, basis.T)  # (n_application, n_hour_cell)
        if rows is None:
            p, kappa = pt.sigmoid(theta[:, None] + season[application]), pt.exp(log_kappa)[:, None]
            alpha, beta = p * kappa, (1 - p) * kappa
            normaliser = pt.gammaln(alpha) + pt.gammaln(beta) - pt.gammaln(kappa)
            terms = (alpha - 1) * stats.s1 + (beta - 1) * stats.s2 - stats.n * normaliser
            pm.Potential("likelihood", terms.sum())
        else:
            of, hour, share = (part[rows.inside] for part in (rows.resource, rows.cell, rows.y))
            p, kappa = pt.sigmoid(theta[of] + season[application[of], hour]), pt.exp(log_kappa)[of]
            pm.Beta("likelihood", p * kappa, (1 - p) * kappa, observed=share)
    return model


def _moved(name: str, loc: Any, scale: Any, shape: tuple[int, ...], steering: Steering) -> Any:
    """A Normal(loc, scale) parameter: centred, or moved by the exact informed non-centring when it has a point."""
    if name not in steering:
        return pm.Normal(name, loc, scale, shape=shape)
    estimate, precision = steering[name]
    z = pm.Normal(f"{name}_z", 0, 1, shape=shape)
    v = 1 / (scale**-2 + precision)
    value = v * (loc * scale**-2 + precision * estimate) + pt.sqrt(v) * z
    move = pm.logp(pm.Normal.dist(loc, scale), value) + 0.5 * pt.log(v) - pm.logp(pm.Normal.dist(0, 1), z)
    pm.Potential(f"{name}_move", move.sum())
    return pm.Deterministic(name, value)


def sample_pymc(
    stats: CellStatistics,
    *,
    rng: np.random.Generator,
    sampler: str = "default",
    rows: Rows | None = None,
    points: InformedPoints | None = None,
    n_chains: int = 2,
    n_warmup: int = 500,
    n_draws: int = 500,
    cores: int = 2,
) -> tuple[dict[str, NDArray[np.float64]], int]:
    """Draws of every parameter, each (n_chains, n_draws, ...), and the number of divergent transitions.

    sampler: `default` (PyMC's NUTS), `nutpie` (numba), `nutpie_jax` (compiles faster, runs slower) or
    `numpyro`. rows, points: as in `fleet_model`. cores: processes of the
    default sampler. Raises SourceError for an unknown sampler.
    Source: Abril-Pla et al. 2023 (PyMC); nutpie: Seyboldt 2022.

    Example:
        >>> from support.bayes.calibration import simulate_fleet
        >>> stats, truth = simulate_fleet(rng=np.random.default_rng(1))
        >>> sample_pymc(stats, rng=np.random.default_rng(1), sampler="gibbs")
        Traceback (most recent call last):
        support.errors.SourceError: sampler is 'gibbs'. Use one of ['default', 'numpyro', 'nutpie', 'nutpie_jax'].
    """
    if sampler not in SAMPLERS:
        raise SourceError(f"sampler is {sampler!r}. Use one of {sorted(SAMPLERS)}.")
    with fleet_model(stats, rows, points), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # short runs: R-hat and ESS are judged by the caller
        posterior = pm.sample(
            draws=n_draws,
            tune=n_warmup,
            chains=n_chains,
            cores=cores,
            random_seed=int(rng.integers(2**31)),
            progressbar=False,
            compute_convergence_checks=False,
            **SAMPLERS[sampler],
        )
    draws = {str(name): np.asarray(value) for name, value in posterior.posterior.items()}
    return {name: value for name, value in draws.items() if not name.endswith(("_z", "__"))}, int(
        posterior.sample_stats["diverging"].sum()
    )
