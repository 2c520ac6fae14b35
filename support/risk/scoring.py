"""Scores of breach probabilities and of tail forecasts: Brier, log, reliability, and the joint score of VaR and ES.

Tick loss is `support.forecasting.metrics.pinball`, CRPS `crps` there, PIT `support.forecasting.joint_paths.pit_values`.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
from scipy.special import xlogy
from scipy.stats import beta

from support.errors import SchemaError

__all__ = ["BINS", "breach_scores", "fissler_ziegel", "reliability_table"]

BINS = np.array([0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0])  # finer where breach probabilities are
INTERVAL = 0.95  # of the observed share in a bin


def breach_scores(probability: np.ndarray, breached: np.ndarray, *, n_draws: int | None = None) -> pd.Series:
    """Brier and log score of breach probabilities (n,) against what happened (n,), the lower the better, and skill.

    brier; log (nats, infinite if what was called impossible happened); base_rate, share of breaches; brier_base_rate and
    log_base_rate, scores of that share known in hindsight; brier_skill, 1 - brier / brier_base_rate (NaN if all or none
    breached). n_draws: the probabilities are shares of so many draws k / n, and (k + 1/2) / (n + 1) is judged, since a
    breach in none of 1000 draws is not impossible. Raises SchemaError. Source: Gneiting and Raftery (2007), section 3.

    Example:
        >>> breach_scores(np.array([0.8, 0.1]), np.array([True, False]))["brier"].round(3).item()
        0.025
    """
    p, y = _checked(probability, breached)
    if n_draws is not None:
        p = (n_draws * p + 0.5) / (n_draws + 1)
    rate = float(y.mean())
    brier, base = float(((p - y) ** 2).mean()), rate * (1 - rate)
    return pd.Series(
        {
            "brier": brier, "log": _log_score(p, y), "base_rate": rate, "brier_base_rate": base,
            "log_base_rate": _log_score(np.full_like(p, rate), y), "brier_skill": 1 - brier / base if base else np.nan,
        }
    )  # fmt: skip


def reliability_table(probability: np.ndarray, breached: np.ndarray, *, edges: np.ndarray = BINS) -> pd.DataFrame:
    """Forecast against observed shares by bin [edge, next edge), the last closed; empty bins are left out.

    Columns: n, forecast (mean probability in the bin), observed (share of breaches), low, high (95 % Jeffreys interval of
    the share, for independent cases). Raises SchemaError. Source: Broecker and Smith (2007); Brown, Cai and DasGupta (2001).

    Example:
        >>> table = reliability_table(np.array([0.2, 0.2, 0.8]), np.array([False, True, True]), edges=np.array([0, 0.5, 1]))
        >>> table[["n", "observed"]].values.tolist()
        [[2.0, 0.5], [1.0, 1.0]]
    """
    p, y = _checked(probability, breached)
    edges = np.asarray(edges, dtype=float)
    if edges.size < 2 or edges[0] != 0 or edges[-1] != 1 or (np.diff(edges) <= 0).any():
        raise SchemaError(f"reliability: edges {edges.tolist()} must increase from 0 to 1.")
    position = np.clip(np.searchsorted(edges, p, side="right") - 1, 0, edges.size - 2)
    grouped = pd.DataFrame({"bin": position, "p": p, "y": y}).groupby("bin")
    table = grouped.agg(n=("y", "size"), forecast=("p", "mean"), observed=("y", "mean"))
    hits = grouped["y"].sum()
    misses = table["n"] - hits
    tail = (1 - INTERVAL) / 2
    table["low"] = np.where(hits == 0, 0.0, beta.ppf(tail, hits + 0.5, misses + 0.5))
    table["high"] = np.where(misses == 0, 1.0, beta.isf(tail, hits + 0.5, misses + 0.5))
    table.index = pd.IntervalIndex.from_arrays(edges[table.index], edges[table.index + 1], closed="left")
    return table.rename_axis("probability")


def fissler_ziegel(observed: np.ndarray, var: np.ndarray, es: np.ndarray, level: float) -> np.ndarray:
    """Joint score of VaR and expected shortfall of the upper tail at `level`, shapes broadcast; lower is better.

    (u - VaR)+ / ((1 - level) ES) + VaR / ES + ln ES - 1: its mean is smallest at the true pair, and differences of means do
    not depend on the unit. Raises SchemaError unless 0 < ES and VaR <= ES.
    Sources: Fissler and Ziegel (2016), Annals of Statistics 44; the FZ0 form of Patton, Ziegel and Chen (2019), eq. 6.

    Example:
        >>> float(fissler_ziegel(np.array(1.0), np.array(1.0), np.array(1.0), 0.95))
        0.0
    """
    u, var, es = (np.asarray(a, dtype=float) for a in (observed, var, es))
    if not ((es > 0) & (var <= es)).all() or not 0 < level < 1:
        raise SchemaError("joint score: ES must be positive and at least VaR, the level within (0, 1).")
    return np.asarray(np.maximum(u - var, 0.0) / ((1 - level) * es) + var / es + np.log(es) - 1)


def _log_score(p: np.ndarray, y: np.ndarray) -> float:
    return float(-(xlogy(y, p) + xlogy(1 - y, 1 - p)).mean())


def _checked(probability: np.ndarray, breached: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    p, y = np.asarray(probability, dtype=float), np.asarray(breached)
    if p.ndim != 1 or p.shape != y.shape or not p.size:
        raise SchemaError(f"breach probabilities of shape {p.shape} for outcomes of shape {y.shape}, wanted two rows.")
    if not ((p >= 0) & (p <= 1)).all() or not np.isin(y, (0, 1)).all():
        raise SchemaError("breach probabilities must lie in [0, 1] and outcomes be true or false.")
    return p, y.astype(float)
