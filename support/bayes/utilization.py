"""UtilizationModel: how much a resource uses, learned from a fleet, with as much pooling as the data ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
import pandas as pd

from support.bayes import storage
from support.bayes.inflation import edge_shares
from support.bayes.model import density_of, informed_points, model_data, parameters_of, start
from support.bayes.predict import Prediction, hourly_mean
from support.bayes.priors import Priors
from support.bayes.sampler import sample
from support.bayes.single import pooled, single_points
from support.bayes.statistics import ALL, CellStatistics, cell_statistics, seasonal_basis
from support.bayes.storage import Fit
from support.errors import SchemaError, SourceError
from support.telemetry.schema import Telemetry

__all__ = ["UtilizationModel", "generator"]

POOLINGS = ("partial", "none", "complete")
BATCH = 50  # positions whose parameters are computed at once
MOST_INTERVAL_DRAWS = 400  # of the parameters, for the interval of each resource's mean: 5 percent of its width at most


@dataclass(frozen=True)
class UtilizationModel:
    """Hierarchical Beta model of a share of capacity: industry, application, resource, with season and zero and full shares.

    pooling: "partial" is the hierarchy; "none" fits every resource on its own, "complete" one distribution for all, both
    with the hierarchy's marginal priors. priors: see Priors. metric, group_columns, week, weight, capacity: see
    cell_statistics. n_chains, n_warmup, n_draws: of the sampler. fitted: the posterior after `fit`, which returns a new
    model and leaves this one alone. Source: bayes.md 1 to 5; Ferrari and Cribari-Neto (2004), beta regression.

    Example:
        >>> from support.telemetry import load
        >>> fleet = load("synthetic:industries", seed=1, days=3, n_resources=12, step_seconds=3600)
        >>> model = UtilizationModel(pooling="complete", n_warmup=60, n_draws=50).fit(fleet, key=jax.random.key(1))
        >>> low, high = model.predict(n_samples=100, key=jax.random.key(2)).interval(0.9)
        >>> 20 < low < high < 40
        True
    """

    pooling: Literal["partial", "none", "complete"] = "partial"
    priors: Priors = field(default_factory=Priors)
    metric: str = "cpu_utilization"
    group_columns: Sequence[str] = ("industry", "application")
    week: bool = True
    weight: Literal["effective", "none"] = "effective"
    capacity: float | pd.Series | None = None
    n_chains: int = 4
    n_warmup: int = 500
    n_draws: int = 1000
    fitted: Fit | None = None

    def __post_init__(self) -> None:
        if self.pooling not in POOLINGS:
            raise SourceError(f"pooling is {self.pooling!r}; it must be one of {', '.join(POOLINGS)}.")

    @property
    def fit_(self) -> Fit:
        """The posterior. Raises SourceError before `fit`."""
        if self.fitted is None:
            raise SourceError("this model has no posterior yet; use the model that fit(telemetry, key=...) returns.")
        return self.fitted

    def statistics(self, telemetry: Telemetry) -> CellStatistics:
        """What this model sees of the telemetry: see cell_statistics, and its summary()."""
        return cell_statistics(
            telemetry, metric=self.metric, group_columns=self.group_columns, week=self.week, weight=self.weight,
            capacity=self.capacity,
        )  # fmt: skip

    def fit(self, telemetry: Telemetry, *, key: jax.Array) -> UtilizationModel:
        """This model with its posterior given the telemetry. Raises SchemaError or TooShortError as cell_statistics."""
        return self.fit_statistics(self.statistics(telemetry), key=key)

    def update(self, telemetry: Telemetry, *, key: jax.Array) -> UtilizationModel:
        """The model after more telemetry of known or new resources: statistics are added, the posterior drawn anew.

        Equal to a fit of everything, up to Monte Carlo error: the pair of neighbours across the seam is counted too.
        Raises SchemaError for rows that were used before, as far as that is known (`merge`).
        """
        return self.fit_statistics(self.fit_.stats + self.statistics(telemetry), key=key)

    def fit_statistics(self, stats: CellStatistics, *, key: jax.Array) -> UtilizationModel:
        """This model with its posterior given sufficient statistics, for instance of several fleets added up."""
        seen = pooled(stats) if self.pooling == "complete" else stats
        points = (informed_points if self.pooling == "partial" else single_points)(seen, self.priors)
        data = model_data(seen, points)
        draws = sample(
            density_of, start(seen, points), data=data, n_chains=self.n_chains, n_warmup=self.n_warmup,
            n_draws=self.n_draws, key=key,
        )  # fmt: skip
        flat = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), draws.positions)
        named = {k: np.asarray(v) for k, v in _constrained(flat, data).items()}
        posterior = {k: v.reshape(self.n_chains, self.n_draws, *v.shape[1:]) for k, v in named.items()}
        fitted = Fit(
            stats, posterior, draws.acceptance, draws.energy, draws.diverging, draws.n_steps, draws.step_size,
            edge_shares(stats, self.pooling),
        )  # fmt: skip
        return replace(self, fitted=fitted)

    def flat(self, name: str) -> np.ndarray:
        """Draws of a parameter with the chains joined: (n_chains * n_draws, ...)."""
        values = self.fit_.posterior[name]
        return values.reshape(-1, *values.shape[2:])

    def resource_draws(self, resource: int, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Theta, log kappa and season (n, n_basis) of a resource at the joined draws `at` (n,)."""
        of = 0 if self.pooling == "complete" else resource
        group = int(self.fit_.stats.application_of[resource]) if self.pooling == "partial" else of
        return self.flat("theta")[at, of], self.flat("log_kappa")[at, of], self.flat("b")[at, group]

    def predict(
        self, *, industry: str | None = None, application: str | None = None, resource: str | None = None,
        n_samples: int = 1000, key: jax.Array,
    ) -> Prediction:  # fmt: skip
        """Predictive distribution of a resource of the fleet, or of a new one of an industry and application.

        A group that is None or not in the fleet is a new one, drawn from its prior; at a level for which no column was named
        all are of one group, which None means then. Raises SchemaError for an unknown resource or one of other groups.
        """
        stats, rng = self.fit_.stats, generator(key)
        at = rng.integers(self.n_chains * self.n_draws, size=n_samples)
        names = (industry, application)
        if resource is not None:
            if resource not in stats.resources:
                raise SchemaError(f"no resource {resource!r} in this fit; leave it out, or update the model with it.")
            r = stats.resources.index(resource)
            own = stats.industries[stats.industry_of[r]], stats.applications[stats.application_of[r]]
            for said, true in zip(names, own, strict=True):
                if said not in (None, true):
                    raise SchemaError(f"{resource} is of {true!r}, not of {said!r}; leave the group out.")
            theta, log_kappa, b = self.resource_draws(r, at)
            shares = self.fit_.edges.draw(n_samples=n_samples, rng=rng, resource=r)
            capacity, correlation = float(stats.capacities[r]), float(stats.autocorrelation[r])
            return self._prediction(theta, log_kappa, b, shares, capacity, correlation, f"{resource} of the fleet")
        i, a = _place(industry, stats.industries), _place(application, stats.applications)
        if self.pooling == "complete":
            theta, log_kappa, b = self.resource_draws(0, at)
            shares = self.fit_.edges.draw(n_samples=n_samples, rng=rng, resource=0)
            who = "any resource: complete pooling"
        elif self.pooling == "none":
            theta, log_kappa, b = _single_prior(self.priors, n_samples, self._n_basis, rng)
            shares = self.fit_.edges.draw(n_samples=n_samples, rng=rng)
            who = "a new resource, from the prior: nothing is pooled"
        else:
            theta, log_kappa, b = self._new_resource(i, a, at, rng)
            shares = self.fit_.edges.draw(n_samples=n_samples, rng=rng, group=a)
            words = [
                f"{'known' if known is not None else 'new'} {level}"
                for known, level in ((i, "industry"), (a, "application"))
            ]
            who = f"a new resource of a {' and a '.join(words)}"
        member = np.ones(len(stats.resources), bool) if a is None else stats.application_of == a
        return self._prediction(
            theta, log_kappa, b, shares, float(np.median(stats.capacities[member])),
            float(np.median(stats.autocorrelation[member])), who,
        )  # fmt: skip

    def prior_predictive(
        self, *, n_samples: int = 1000, key: jax.Array, capacity: float = 100.0, unit: str = "percent"
    ) -> Prediction:
        """What the priors alone expect of a resource, without zeros and saturation; needs no fit."""
        rng, p, n_hour_cell = generator(key), self.priors, 168 if self.week else 24
        n_basis = seasonal_basis(n_hour_cell).shape[1]
        if self.pooling == "partial":
            theta, log_kappa, b = _hierarchical_prior(p, n_samples, n_basis, rng)
        else:
            theta, log_kappa, b = _single_prior(p, n_samples, n_basis, rng)
        mean = hourly_mean(theta, b, n_hour_cell)
        none = np.zeros(n_samples)
        return Prediction(mean, np.exp(log_kappa), none, none, capacity, unit, 0.0, 3600.0, "the prior")

    def intervals(self, level: float = 0.9) -> pd.DataFrame:
        """Credible interval of every resource's mean over all hours, zeros and saturation included, in the metric's unit.

        One row per resource: industry, application, count, mean, lower, upper. Deterministic: shares of zeros and
        saturation are at their posterior draws of a fixed stream.
        """
        stats = self.fit_.stats
        total = self.n_chains * self.n_draws
        at = np.linspace(0, total - 1, min(total, MOST_INTERVAL_DRAWS)).astype(int)
        rng = np.random.default_rng(0)  # a summary of the fit must not change from call to call
        rows = []
        for r in range(len(stats.resources)):
            theta, log_kappa, b = self.resource_draws(r, at)
            shares = self.fit_.edges.draw(n_samples=len(at), rng=rng, resource=r)
            told = self._prediction(theta, log_kappa, b, shares, float(stats.capacities[r]), 0.0, "")
            mean = told.expected.mean(axis=1)
            rows.append((mean.mean(), *np.quantile(mean, [(1 - level) / 2, (1 + level) / 2])))
        ids = pd.Index(stats.resources, name="resource_id")
        frame = pd.DataFrame(rows, columns=["mean", "lower", "upper"], index=ids)
        frame.insert(0, "count", stats.count)
        frame.insert(0, "application", np.array(stats.applications, object)[stats.application_of])
        frame.insert(0, "industry", np.array(stats.industries, object)[stats.industry_of])
        return frame

    def save(self, path: str | Path) -> None:
        """Write model and posterior to one .npz of plain arrays, without pickles."""
        storage.save(self.fit_, {k: v for k, v in vars(self).items() if k != "fitted"}, path)

    @classmethod
    def load(cls, path: str | Path) -> UtilizationModel:
        """The model that `save` wrote. Raises SourceError if the file is not one."""
        return storage.load(cls, path)

    @property
    def _n_basis(self) -> int:
        return seasonal_basis(self.fit_.stats.n_hour_cell).shape[1]

    def _prediction(
        self, theta: np.ndarray, log_kappa: np.ndarray, b: np.ndarray, shares: np.ndarray, capacity: float,
        correlation: float, who: str,
    ) -> Prediction:  # fmt: skip
        stats = self.fit_.stats
        mean = hourly_mean(theta, b, stats.n_hour_cell)
        return Prediction(
            mean, np.exp(log_kappa), shares[0], shares[1], capacity, stats.unit, correlation, stats.step_seconds, who
        )

    def _new_resource(self, i: int | None, a: int | None, at: np.ndarray, rng: np.random.Generator) -> Any:
        """Theta, log kappa and season of a resource not in the fleet, level by level; None is a new group."""
        p, n = self.priors, len(at)
        if i is not None and a is not None:
            m, log_centre = self.flat("m")[at, i, a], self.flat("l")[at, i, a]
        else:
            eta = rng.normal(p.eta_mean, p.eta_sd, n) if i is None else self.flat("eta")[at, i]
            sd = np.abs(rng.normal(0, p.sd_sd, n)) if i is None else self.flat("sd")[at, i]
            m, log_centre = rng.normal(eta, p.share * sd), rng.normal(p.log_kappa_mean, p.log_kappa_sd, n)
        tau = np.abs(rng.normal(0, p.tau_sd, n)) if a is None else self.flat("tau")[at, a]
        b = rng.normal(0, p.b_sd, (n, self._n_basis)) if a is None else self.flat("b")[at, a]
        return rng.normal(m, tau), rng.normal(log_centre, self.flat("s")[at]), b


@jax.jit
def _constrained(positions: dict[str, jax.Array], data: dict[str, Any]) -> dict[str, jax.Array]:
    """Named parameters of many positions, a few at a time for the sake of memory."""
    return jax.lax.map(lambda position: parameters_of(position, data), positions, batch_size=BATCH)


def _place(name: str | None, names: tuple[str, ...]) -> int | None:
    """Position of a group, None for a new one; where the level has no column, its only group goes without saying."""
    name = ALL if name is None and names == (ALL,) else name
    return names.index(name) if name in names else None


def generator(key: jax.Array) -> np.random.Generator:
    """A NumPy generator seeded by a JAX key, for the draws that SciPy's quantiles need."""
    return np.random.default_rng(np.asarray(jax.random.key_data(key)).ravel())


def _single_prior(
    p: Priors, n: int, n_basis: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    log_kappa = rng.normal(p.log_kappa_mean, p.resource_log_kappa_sd, n)
    return rng.normal(p.eta_mean, p.theta_sd, n), log_kappa, rng.normal(0, p.b_sd, (n, n_basis))


def _hierarchical_prior(
    p: Priors, n: int, n_basis: int, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    m = rng.normal(rng.normal(p.eta_mean, p.eta_sd, n), p.share * np.abs(rng.normal(0, p.sd_sd, n)))
    centre = rng.normal(p.log_kappa_mean, p.log_kappa_sd, n)
    log_kappa = rng.normal(centre, np.abs(rng.normal(0, p.s_sd, n)))
    return rng.normal(m, np.abs(rng.normal(0, p.tau_sd, n))), log_kappa, rng.normal(0, p.b_sd, (n, n_basis))
