"""What a Bayesian asks of a fit: convergence, energy, leave-one-out comparison, posterior predictive checks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import numpy as np
import pandas as pd
from scipy.special import betaln, expit

from support.bayes.rows import unit_rows
from support.bayes.statistics import seasonal_basis
from support.bayes.utilization import UtilizationModel, generator
from support.errors import SchemaError, SourceError
from support.telemetry.schema import Telemetry

with warnings.catch_warnings():  # ArviZ 0.23 announces its next version at import
    warnings.simplefilter("ignore")
    import arviz

__all__ = ["compare_poolings", "convergence", "parameter_diagnostics", "predictive_check", "to_arviz"]

RHAT_LIMIT, ESS_LIMIT, EBFMI_LIMIT = 1.01, 400.0, 0.3  # Vehtari et al. (2021); Betancourt (2016) for E-BFMI
CHUNK = 200  # draws whose cells are evaluated at once
MOST_LOO_DRAWS = 1000  # of all chains, for leave-one-out: as many as the tails of the weights need


def parameter_diagnostics(model: UtilizationModel) -> pd.DataFrame:
    """Worst rank-normalised R-hat and smallest bulk and tail ESS of each named parameter, one row per name.

    Columns: count, rhat, ess_bulk, ess_tail. Source: Vehtari, Gelman, Simpson, Carpenter and Buerkner (2021).
    """
    rows = {}
    for name, values in model.fit_.posterior.items():
        data = arviz.convert_to_dataset({name: values.reshape(*values.shape[:2], -1)})
        worst = arviz.rhat(data)[name].max(), *(arviz.ess(data, method=m)[name].min() for m in ("bulk", "tail"))
        rows[name] = (int(np.prod(values.shape[2:])), *(float(w) for w in worst))
    return pd.DataFrame.from_dict(rows, orient="index", columns=["count", "rhat", "ess_bulk", "ess_tail"])


def convergence(model: UtilizationModel) -> pd.DataFrame:
    """The fit's diagnostics against the usual limits: columns value, limit, good; one row each, worst over parameters."""
    fit, table = model.fit_, parameter_diagnostics(model)
    ebfmi = float(arviz.bfmi(fit.energy).min())
    rows = {
        "R-hat, largest": (table["rhat"].max(), RHAT_LIMIT, table["rhat"].max() < RHAT_LIMIT),
        "bulk ESS, smallest": (table["ess_bulk"].min(), ESS_LIMIT, table["ess_bulk"].min() >= ESS_LIMIT),
        "tail ESS, smallest": (table["ess_tail"].min(), ESS_LIMIT, table["ess_tail"].min() >= ESS_LIMIT),
        "divergent transitions": (float(fit.diverging.sum()), 0.0, not fit.diverging.any()),
        "E-BFMI, smallest": (ebfmi, EBFMI_LIMIT, ebfmi > EBFMI_LIMIT),
    }
    return pd.DataFrame.from_dict(rows, orient="index", columns=["value", "limit", "good"])


def to_arviz(model: UtilizationModel, *, log_likelihood: bool = False) -> arviz.InferenceData:
    """InferenceData with named dimensions: posterior, sample_stats (energy, diverging, acceptance_rate), log_likelihood."""
    fit, stats = model.fit_, model.fit_.stats
    complete, partial = model.pooling == "complete", model.pooling == "partial"
    coords: dict[str, object] = {
        "industry": list(stats.industries),
        "application": list(stats.applications),
        "resource": ["all"] if complete else list(stats.resources),
        "harmonic": np.arange(seasonal_basis(stats.n_hour_cell).shape[1]),
    }
    dims = {"eta": ["industry"], "sd": ["industry"], "tau": ["application"], "m": ["industry", "application"]}
    dims |= {"l": dims["m"], "theta": ["resource"], "log_kappa": ["resource"]}
    dims["b"] = ["application" if partial else "resource", "harmonic"]
    groups: dict[str, Any] = {
        "posterior": fit.posterior,
        "sample_stats": {"energy": fit.energy, "diverging": fit.diverging, "acceptance_rate": fit.acceptance},
    }
    if log_likelihood:
        groups["log_likelihood"] = {"y": _cell_log_likelihood(model)}
        resource, hour = np.nonzero(stats.n)
        coords["cell"] = [f"{stats.resources[r]}/{h}" for r, h in zip(resource, hour, strict=True)]
        dims["y"] = ["cell"]
    return arviz.from_dict(
        **groups, coords=coords, dims={k: v for k, v in dims.items() if k in fit.posterior or k == "y"}
    )


def _cell_log_likelihood(model: UtilizationModel) -> np.ndarray:
    """Weighted log likelihood of each filled (resource, hour cell), (n_chains, n_draws, n_cell)."""
    stats, basis = model.fit_.stats, seasonal_basis(model.fit_.stats.n_hour_cell)
    resource, hour = np.nonzero(stats.n)
    n, s1, s2 = (part[resource, hour] for part in (stats.n, stats.s1, stats.s2))
    of = np.zeros_like(resource) if model.pooling == "complete" else resource
    group = stats.application_of[resource] if model.pooling == "partial" else of
    theta, log_kappa, b = (model.flat(name) for name in ("theta", "log_kappa", "b"))
    out = np.empty((len(theta), len(resource)))
    for first in range(0, len(theta), CHUNK):
        at = slice(first, first + CHUNK)
        season = (b[at] @ basis.T)[:, group, hour]
        kappa = np.exp(log_kappa[at][:, of])
        alpha = kappa * expit(theta[at][:, of] + season)
        out[at] = (alpha - 1) * s1 + (kappa - alpha - 1) * s2 - n * betaln(alpha, kappa - alpha)
    return out.reshape(model.n_chains, model.n_draws, -1)


def compare_poolings(models: Mapping[str, UtilizationModel]) -> pd.DataFrame:
    """PSIS-LOO comparison of models of the same statistics, best first, leaving out one (resource, hour cell) at a time.

    Columns of arviz.compare, and pareto_k_high, the share of cells whose estimate is unreliable (k over 0.7). Raises
    SchemaError if the models saw different data. Source: Vehtari, Gelman and Gabry (2017).
    """
    seen = [model.fit_.stats for model in models.values()]
    if any(s.n.shape != seen[0].n.shape or not np.allclose(s.s1, seen[0].s1) for s in seen[1:]):
        raise SchemaError("the models saw different statistics; fit all of them to the same telemetry and weights.")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of large Pareto k, which are returned as a column instead
        thin = {name: to_arviz(_thinned(model), log_likelihood=True) for name, model in models.items()}
        elpd = {name: arviz.loo(data, pointwise=True) for name, data in thin.items()}
        table = arviz.compare(elpd)
    table["pareto_k_high"] = [float((elpd[name].pareto_k > 0.7).mean()) for name in table.index]
    return table


def _thinned(model: UtilizationModel) -> UtilizationModel:
    """The model with at most MOST_LOO_DRAWS draws, evenly spaced in each chain."""
    fit, step = model.fit_, -(-model.n_chains * model.n_draws // MOST_LOO_DRAWS)
    posterior = {name: values[:, ::step] for name, values in fit.posterior.items()}
    fitted = replace(
        fit, posterior=posterior, acceptance=fit.acceptance[:, ::step], energy=fit.energy[:, ::step],
        diverging=fit.diverging[:, ::step],
    )  # fmt: skip
    return replace(model, n_draws=fitted.energy.shape[1], fitted=fitted)


def predictive_check(
    model: UtilizationModel, telemetry: Telemetry, *, n_replicates: int = 100, key: jax.Array
) -> pd.DataFrame:
    """Posterior predictive p-values of each resource's mean, sd, 95 % quantile and share of zeros, edges included.

    telemetry: what was fitted, or held-out days of the same resources. Replicates have its rows, drawn independently, so
    that the spread of a replicate's mean is too small where rows are correlated. One row per resource and statistic:
    observed, replicated (mean), p (share of replicates above). Source: Gelman, Meng and Stern (1996).
    """
    if n_replicates < 20:
        raise SourceError(f"{n_replicates} replicates: a p-value needs at least 20.")
    rows = unit_rows(telemetry, metric=model.metric, week=model.week, capacity=model.capacity)
    keys = jax.random.split(key, len(rows.resources))
    out = []
    for r, name in enumerate(rows.resources):
        own = (rows.resource == r) & ~np.isnan(rows.y)
        if not own.any():
            continue
        of_parameters, of_rows = jax.random.split(keys[r])
        seen = model.predict(resource=name, n_samples=n_replicates, key=of_parameters)
        rng = generator(of_rows)
        mean, kappa = seen.mean[:, rows.cell[own]], seen.kappa[:, None]
        drawn = rng.beta(np.maximum(mean * kappa, 1e-6), np.maximum((1 - mean) * kappa, 1e-6))
        uniform = rng.random(drawn.shape)
        drawn = np.where(uniform < seen.zero[:, None], 0.0, np.where(uniform > 1 - seen.saturated[:, None], 1.0, drawn))
        observed = np.clip(rows.y[own], 0.0, 1.0)
        for what, statistic in (
            ("mean", lambda y: y.mean(axis=-1)),
            ("sd", lambda y: y.std(axis=-1)),
            ("95 % quantile", lambda y: np.quantile(y, 0.95, axis=-1)),
            ("share of zeros", lambda y: (y < 1e-4).mean(axis=-1)),
        ):
            replicated, value = statistic(drawn), float(statistic(observed))
            p = float((replicated > value).mean() + 0.5 * (replicated == value).mean())
            out.append((name, what, value, float(replicated.mean()), p))
    return pd.DataFrame(out, columns=["resource_id", "statistic", "observed", "replicated", "p"])
