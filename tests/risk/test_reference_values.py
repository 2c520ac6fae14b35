"""Every kind of the reference values for risk, computed by the function of the book that answers it.

The file is named by RISK_REFERENCE; without it, BOOK_DATA/reference-values/risk.json; without that, the tests are skipped.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats as st
from scipy.special import ndtri
from sklearn.ensemble._iforest import _average_path_length  # the c(n) that the isolation forest's scores are divided by

from support.bayes.changepoint import BayesianChangePoint, NormalInverseGamma
from support.risk.backtests import (
    LikelihoodRatio,
    christoffersen_independence,
    conditional_coverage,
    kupiec_nonrejection,
    kupiec_pof,
    traffic_light,
    transitions,
)
from support.risk.commitments import break_even_utilization, commitment_level, critical_ratio
from support.risk.drift import psi, psi_band, psi_critical
from support.risk.exceedance import cvar, value_at_risk
from support.risk.roll_up import any_bounds
from support.risk.rules import kubecost_request
from support.risk.runway import brownian_first_passage
from support.risk.slo import BURN_RULES, BurnRule, days_to_exhaustion
from support.risk.tails import GpdTail, fit_gpd

Inputs = dict[str, Any]
NORMAL_DRAWS = 4_000_000  # strata: the 99 % quantile of the draws is then 5e-6 off
DEFAULT_EXCEPTION_P = 0.05  # of a conditional-coverage figure whose inputs name no probability (JP Morgan 1998)


def reference() -> list[dict[str, Any]]:
    named = os.environ.get("RISK_REFERENCE")
    data = os.environ.get("BOOK_DATA")
    path = Path(named) if named else Path(data) / "reference-values" / "risk.json" if data else None
    return json.loads(path.read_text(encoding="utf-8"))["values"] if path and (named or path.exists()) else []


VALUES = reference()


def told(test: LikelihoodRatio) -> Inputs:
    rejects = {f"reject_{k}pct": bool(test.rejected(k / 100)) for k in (1, 5, 10)}
    return {"lr": float(test.lr), "p_value": float(test.p_value), "df": test.df} | rejects


def pof(i: Inputs) -> LikelihoodRatio:
    return kupiec_pof(i["exceptions"], i["observations"], i["p"])


def neighbours(i: Inputs) -> tuple[Any, ...]:
    sequence = next((v for v in i.values() if isinstance(v, list)), None)
    return (
        transitions(np.array(sequence, dtype=bool)) if sequence else tuple(i[k] for k in ("n00", "n01", "n10", "n11"))
    )


def independence(i: Inputs) -> Inputs:
    counts = neighbours(i)
    test = christoffersen_independence(*counts)
    unconditional = kupiec_pof(counts[1] + counts[3], sum(counts), i.get("p", DEFAULT_EXCEPTION_P))
    return told(test) | {"cc_lr_with_uc": float(conditional_coverage(unconditional, test).lr)}


def nonrejection(i: Inputs) -> Inputs:
    size = 1 - i["test_level"]
    return {"exclusive_bounds": [list(kupiec_nonrejection(n, i["p"], size=size)) for n in i["T"]]}


def zones(i: Inputs) -> Inputs:
    light = traffic_light(i.get("exceptions", 0), i["n"], i["p"])
    yellow, red = light.yellow_from, light.red_from
    return {"green": [0, yellow - 1], "yellow": [yellow, red - 1], "red_from": red, "zone": light.zone}


def gpd_fit(i: Inputs) -> Inputs:
    fit = fit_gpd(np.array(i["excesses"]), threshold=i.get("threshold", 0.0), n_observations=i.get("n_observations"))
    (var_xi, cov), (_, var_beta) = fit.covariance
    levels = {
        f"return_level_{years}y": fit.tail.return_level(years * i["observations_per_year"])
        for years in (2, 5, 10, 20, 25, 50, 100, 200, 500, 1000)
        if "observations_per_year" in i
    }
    return levels | {
        "xi": fit.tail.xi, "beta": fit.tail.beta, "var_xi": var_xi, "var_beta": var_beta, "cov": cov,
        "se_xi": fit.standard_errors[0], "se_beta": fit.standard_errors[1], "loglik": fit.log_likelihood,
        "n_exceedances": fit.excesses.size,
    }  # fmt: skip


def gpd_var_es(i: Inputs) -> Inputs:
    tail = GpdTail(i["u"], i["xi"], i["beta"], i["n_exceedances"] / i["n"])
    return {"var": float(tail.var(i["p"])), "es": float(tail.es(i["p"]))}


def normal_var_es(i: Inputs) -> Inputs:
    draws = ndtri((np.arange(NORMAL_DRAWS) + 0.5) / NORMAL_DRAWS)
    return {
        "var": [value_at_risk(draws, level) for level in i["levels"]],
        "es": [cvar(draws, level) for level in i["levels"]],
    }


def burn_rates(i: Inputs) -> Inputs:
    severity = {(r.budget_frac, r.long_hours): r.severity for r in BURN_RULES}
    rules = [BurnRule(severity.get((b, h), ""), b, h) for b, h in i["rules"]]
    days = i["period_hours"] / 24
    return {
        "burn_rate": [r.burn_rate(days) for r in rules],
        "short_window_minutes": [60 * r.short_hours for r in rules],
        "severity": [r.severity for r in rules],
    } | {f"error_ratio_for_{n}": [r.error_ratio(float(f"0.{n}"), days) for r in rules] for n in ("99", "999", "9999")}


def right_sized(i: Inputs) -> Inputs:
    found = {}
    for unit, position in (("mcpu", 0), ("mib", 1)):
        peaks = i.get(f"replica_peaks_{unit}", [i[f"base_{unit}"]] if f"base_{unit}" in i else None)
        if peaks is not None:
            target = np.broadcast_to(i["target_utilisation"], 2)[position]
            named = re.fullmatch(r"(?:p|quantile_)?([0-9.]+)", str(i.get("statistic", "max")))
            level = 1.0 if named is None else float(named[1]) / (100 if float(named[1]) > 1 else 1)
            found[unit] = kubecost_request(np.array(peaks)[:, None], target_utilization=float(target), level=level)
    return found


def newsvendor(i: Inputs) -> Inputs:
    ratio = critical_ratio(i["underage"], i["overage"])
    return {"critical_ratio": ratio, "quantity": commitment_level(st.norm(i["mean"], i["sd"]), ratio)}


def committed(i: Inputs) -> Inputs:
    level = commitment_level(st.norm(i["mean"], i["sd"]), i["discount"])
    return {"commit": level, "break_even_utilisation": break_even_utilization(i["discount"])}


def run_lengths(i: Inputs) -> Inputs:
    model = BayesianChangePoint(i["hazard"], NormalInverseGamma(**i["prior_nig"]), prune=0.0)
    model.surprises(np.array(i["x"], dtype=float))
    lengths, probability = model.run_length_posterior()
    posterior = np.zeros(len(i["x"]) + 1)
    posterior[lengths] = probability
    return {"log_evidence": model.log_evidence, "run_length_posterior": posterior.tolist()}


COMPUTED: dict[str, Callable[[Inputs], Inputs]] = {
    "kupiec_pof": lambda i: told(pof(i)),
    "psi": lambda i: {"psi": psi(**i), "band": psi_band(psi(**i))},
    "psi_critical": lambda i: {"psi": psi_critical(i["bins"], i["n"], i["m"], level=i["level"])},
    "kupiec_nonrejection": nonrejection,
    "christoffersen_independence": independence,
    "christoffersen_conditional_coverage": lambda i: told(
        conditional_coverage(pof(i), christoffersen_independence(*neighbours(i)))
    ),
    "binomial_cdf_percent": lambda i: {"percent": [100 * traffic_light(k, i["n"], i["p"]).cumulative for k in i["k"]]},
    "traffic_light": zones,
    "gpd_mle_excesses": gpd_fit,
    "gpd_return_level": lambda i: {
        "level": float(GpdTail(i["u"], i["xi"], i["beta"], i["rate"]).return_level(i["m_observations"]))
    },
    "gpd_var_es": gpd_var_es,
    "normal_var_es": normal_var_es,
    "discrete_var_cvar": lambda i: {
        "var": value_at_risk(np.array(i["losses"]), i["level"]),
        "cvar": cvar(np.array(i["losses"]), i["level"]),
    },
    "burn_rate_alerts": burn_rates,
    "burn_rate_exhaustion": lambda i: {"days": [days_to_exhaustion(rate, i["period_days"]) for rate in i["burn_rate"]]},
    "isolation_forest_c": lambda i: {"c": _average_path_length(i["n"]).tolist()},
    "rightsizing": right_sized,
    "newsvendor_normal": newsvendor,
    "commitment_level_normal": committed,
    "probability_rollup": lambda i: asdict(any_bounds(i["p"])),
    "brownian_first_passage": lambda i: asdict(brownian_first_passage(**i)),
    "bocpd_run_length": run_lengths,
}


def allowed(tolerance: Inputs, kind: str, key: str) -> float:
    """The tolerance of a key: one number for all, or a dict by key; a key that is not named must be exact."""
    given = tolerance.get(kind, 0.0)
    return float(given.get(key, 0.0) if isinstance(given, dict) else given)


@pytest.mark.skipif(not VALUES, reason="no reference values: set RISK_REFERENCE or BOOK_DATA")
def test_every_kind_is_computed() -> None:
    kinds = {value["kind"] for value in VALUES}
    assert kinds <= COMPUTED.keys(), f"no function for {sorted(kinds - COMPUTED.keys())}"


@pytest.mark.parametrize("value", [pytest.param(v, id=v["name"]) for v in VALUES])
def test_reference_value(value: dict[str, Any]) -> None:
    got = COMPUTED[value["kind"]](value["inputs"])
    missing = value["expected"].keys() - got.keys()
    assert not missing, f"{value['name']}: nothing computes {sorted(missing)}"
    for key, expected in value["expected"].items():
        absolute, relative = (allowed(value["tolerance"], kind, key) for kind in ("abs", "rel"))
        numbers = np.asarray(expected)
        if numbers.dtype.kind in "US" or (absolute == 0 and relative == 0) or numbers.dtype == bool:
            assert got[key] == expected, key
        else:
            np.testing.assert_allclose(got[key], numbers, rtol=relative, atol=absolute, err_msg=key)
