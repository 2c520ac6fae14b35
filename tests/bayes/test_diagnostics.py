from __future__ import annotations

from dataclasses import replace

import jax
import numpy as np
import pytest

from support.bayes import diagnostics
from support.bayes.diagnostics import (
    arviz,
    compare_poolings,
    convergence,
    parameter_diagnostics,
    predictive_check,
    to_arviz,
)
from support.bayes.model import log_likelihood
from support.bayes.utilization import UtilizationModel
from support.errors import SchemaError, SourceError


def test_convergence_agrees_with_arviz_and_sees_a_stuck_chain(fits):
    model = fits["partial"]
    table = convergence(model)
    data = to_arviz(model)
    assert table.loc["E-BFMI, smallest", "value"] == pytest.approx(arviz.bfmi(data).min())
    assert table.loc["R-hat, largest", "value"] == pytest.approx(float(arviz.rhat(data).to_array().max()))
    assert table.loc["divergent transitions", "good"] and table.loc["R-hat, largest", "value"] < 1.05
    stuck = {k: v.copy() for k, v in model.fit_.posterior.items()}
    stuck["eta"][0] += 3.0
    assert not convergence(replace(model, fitted=replace(model.fit_, posterior=stuck))).loc["R-hat, largest", "good"]
    assert parameter_diagnostics(model).loc["eta", "count"] == len(model.fit_.stats.industries)


@pytest.mark.parametrize("pooling", ["partial", "none", "complete"])
def test_cell_log_likelihoods_add_up_to_the_models(fits, pooling):
    model = fits[pooling]
    stats, data = model.fit_.stats, to_arviz(model, log_likelihood=True)
    named = {k: v[1, 7] for k, v in model.fit_.posterior.items() if k in ("theta", "log_kappa", "b")}
    if pooling == "complete":
        named = {k: np.repeat(v, len(stats.resources), axis=0) for k, v in named.items()}
    total = float(log_likelihood(stats, single=pooling != "partial")(named))
    assert float(data.log_likelihood["y"][1, 7].sum()) == pytest.approx(total, rel=1e-10)
    assert set(data.posterior.dims) >= {"chain", "draw", "resource", "harmonic"}


def test_leave_one_out_prefers_the_hierarchy_over_one_for_all(fits, fleet_telemetry):
    table = compare_poolings(fits)
    assert table.index[-1] == "complete" and table.loc["complete", "elpd_diff"] > 5 * table.loc["complete", "dse"]
    assert (table["pareto_k_high"] < 0.1).all()
    other = fits["partial"].fit_
    scaled = replace(fits["partial"], fitted=replace(other, stats=replace(other.stats, s1=2 * other.stats.s1)))
    with pytest.raises(SchemaError, match="different statistics"):
        compare_poolings({"a": fits["none"], "b": scaled})


def test_predictive_check_uses_no_key_twice(fits, fleet_telemetry, monkeypatch):
    used, predict, made = [], UtilizationModel.predict, diagnostics.generator

    def of_parameters(self, **given):
        used.append(jax.random.key_data(given["key"]).tobytes())
        return predict(self, **given)

    def of_rows(key):
        used.append(jax.random.key_data(key).tobytes())
        return made(key)

    monkeypatch.setattr(UtilizationModel, "predict", of_parameters)
    monkeypatch.setattr(diagnostics, "generator", of_rows)
    predictive_check(fits["partial"], fleet_telemetry, n_replicates=20, key=jax.random.key(1))
    assert len(set(used)) == len(used) >= 4


def test_predictive_check_sees_a_shift(fits, fleet_telemetry):
    model = fits["partial"]
    good = predictive_check(model, fleet_telemetry, key=jax.random.key(1))
    halved = replace(fleet_telemetry, observations=fleet_telemetry.observations * 0.5)
    bad = predictive_check(model, halved, key=jax.random.key(1))
    mean = good["statistic"] == "mean"
    assert ((good[mean]["p"] > 0.01) & (good[mean]["p"] < 0.99)).mean() > 0.9
    assert (bad[mean]["p"] > 0.99).mean() > 0.9
    with pytest.raises(SourceError, match="20"):
        predictive_check(model, fleet_telemetry, n_replicates=5, key=jax.random.key(1))
