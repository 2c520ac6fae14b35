"""Do 90 % intervals of return levels hold 90 %? Tails simulated with a known truth, fitted by likelihood and by Bayes.

Run: python -m benchmarks.tails [drawn -0.2 0 0.2]; writes benchmarks/results/tails.json. About a minute a design on one
core; a design that is not named keeps its recorded result.
"""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from scipy.stats import genpareto, norm

from benchmarks.record import store
from support.errors import BookError
from support.recorded import recorded
from support.risk.gpd import XI_SD, grid_gpd
from support.risk.tails import GpdFit, GpdTail, fit_gpd, profile_interval

SEED, LEVEL = 20261121, 0.9
N_OBSERVATIONS, RATE = 2000, 0.05  # of which a twentieth are peaks: about 100, a year of daily peaks has fewer
EXTRAPOLATION = 10  # the return level of ten times the history
THRESHOLD, BETA = 100.0, 10.0
DESIGNS: dict[str, tuple[float | None, int]] = {
    "drawn": (None, 1000),
    "-0.2": (-0.2, 500),
    "0": (0.0, 500),
    "0.2": (0.2, 500),
}
STEP = 1e-4  # of the finite differences


def delta_interval(fit: GpdFit, m: float) -> tuple[float, float]:
    """Estimate +- standard errors by the delta method: the symmetric interval that most tools print."""
    ahead, behind = (
        np.array(
            [
                replace(fit.tail, xi=fit.tail.xi + sign * STEP).return_level(m),
                replace(fit.tail, beta=fit.tail.beta + sign * STEP).return_level(m),
            ]
        )
        for sign in (1, -1)
    )
    slope = (ahead - behind) / (2 * STEP)
    half = norm.isf((1 - LEVEL) / 2) * np.sqrt(slope @ fit.covariance @ slope)
    level = float(fit.tail.return_level(m))
    return level - half, level + half


def posterior_interval(fit: GpdFit, m: float, rng: np.random.Generator) -> tuple[float, float]:
    """Central interval of the posterior return level."""
    low, high = np.quantile(grid_gpd(fit, rng=rng).return_level(m), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(low), float(high)


def run(name: str) -> dict[str, Any]:
    """Coverage and widths of one design, and seconds per interval."""
    fixed, n = DESIGNS[name]
    rng = np.random.default_rng([SEED, list(DESIGNS).index(name)])
    m = EXTRAPOLATION * N_OBSERVATIONS
    methods = {
        "delta": lambda fit: delta_interval(fit, m),
        "profile": lambda fit: profile_interval(fit, m, level=LEVEL),
        "posterior": lambda fit: posterior_interval(fit, m, rng),
    }
    ends = {method: np.full((n, 2), np.nan) for method in methods}
    seconds = dict.fromkeys(methods, 0.0)
    truth = np.empty(n)
    for k in range(n):
        xi = rng.normal(0, XI_SD) if fixed is None else fixed
        truth[k] = GpdTail(THRESHOLD, xi, BETA, RATE).return_level(m)
        y = genpareto.rvs(xi, scale=BETA, size=rng.binomial(N_OBSERVATIONS, RATE), random_state=rng)
        try:
            fit = fit_gpd(y, threshold=THRESHOLD, n_observations=N_OBSERVATIONS)
        except BookError:  # no maximum: none of the methods has its input, which counts as a miss
            continue
        for method, interval in methods.items():
            began = time.perf_counter()
            with suppress(BookError):
                ends[method][k] = interval(fit)
            seconds[method] += time.perf_counter() - began
    return {"n": n, "xi": fixed} | {
        method: {
            "coverage": float(((low <= truth) & (truth <= high)).mean()),
            "missed_above": float((truth > high).mean()),
            "missed_below": float((truth < low).mean()),
            "without_interval": int(np.isnan(low).sum()),
            "median_width_over_beta": float(np.nanmedian(high - low) / BETA),
            "ms_per_interval": 1000 * seconds[method] / n,
        }
        for method, (low, high) in ((method, pair.T) for method, pair in ends.items())
    }


def main() -> None:
    """Run the designs named, keep the others."""
    try:
        kept = dict(recorded("tails")["results"]["designs"])
    except BookError:
        kept = {}
    for name in sys.argv[1:] or list(DESIGNS):
        kept[name] = run(name)
        settings = {"level": LEVEL, "n_observations": N_OBSERVATIONS, "rate": RATE, "extrapolation": EXTRAPOLATION}
        store("tails", settings | {"designs": kept}, ("numpy", "scipy"))


if __name__ == "__main__":
    main()
