"""How far ahead a model is good: losses by band of the horizon, relative to a baseline, with an interval over windows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.forecasting.metrics import pinball
from support.forecasting.quantile_frame import arrays_of, level_place, require_same_windows

__all__ = ["loss_by_horizon"]

BOOTSTRAP_DRAWS = 2000
DECILES = np.arange(1, 10) / 10


def loss_by_horizon(
    frame: pd.DataFrame, *, baseline: str, horizons: Sequence[int], rng: np.random.Generator
) -> pd.DataFrame:
    """Decile loss on steps 1 .. h over the baseline's, by model and h of `horizons`, all series and windows pooled.

    Columns model, horizon, ratio, lower, upper (95 % percentile bootstrap over windows, the same draws for all models)
    and coverage_90. Meant for series of one unit. Raises SchemaError for an unknown baseline, a horizon beyond the
    frame's, levels that are missing, models with other windows, or a baseline without loss. Source: Efron and Tibshirani (1993), chapter 13.

    Example:
        >>> from support.forecasting.protocol import RollingOrigin, roll
        >>> from support.forecasting.local_models import BASELINE, LOCAL_MODELS
        >>> index = pd.date_range("2026-01-01", periods=40, freq="1h", tz="UTC")
        >>> plan = RollingOrigin(horizon=4, step=6, season=2, n_windows=3, local_context=8, global_context=4)
        >>> rolled = roll({"a": pd.Series(np.arange(40.0) ** 2, index)}, protocol=plan,
        ...               local_models={BASELINE: LOCAL_MODELS[BASELINE]}, rng=np.random.default_rng(0))
        >>> loss_by_horizon(rolled.frame, baseline=BASELINE, horizons=[1], rng=np.random.default_rng(0)).ratio.tolist()
        [1.0]
    """
    if baseline not in set(frame["model"]):
        raise SchemaError(f"horizons: baseline {baseline!r} is not among {sorted(set(frame['model']))}.")
    require_same_windows(frame)
    losses, covered = {}, {}
    for model in frame["model"].unique():
        made = arrays_of(frame, model)
        longest = made.observed.shape[2]
        if max(horizons) > longest:
            raise SchemaError(f"horizons: {max(horizons)} is beyond the {longest} steps that were forecast.")
        places = [level_place(made.levels, level) for level in DECILES]
        loss = pinball(made.observed, made.quantiles, made.levels)[..., places].mean(axis=-1)
        lower, upper = (made.quantiles[..., level_place(made.levels, p)] for p in (0.05, 0.95))
        inside = (made.observed >= lower) & (made.observed <= upper)
        losses[model] = np.stack([loss[..., :h].mean(axis=-1).ravel() for h in horizons])
        covered[model] = [float(inside[..., :h].mean()) for h in horizons]
    base = losses[baseline]
    if (base.sum(axis=1) <= 0).any():
        raise SchemaError(f"horizons: {baseline} makes no loss at all, so there is no ratio. Use another series.")
    drawn = rng.integers(0, base.shape[1], (BOOTSTRAP_DRAWS, base.shape[1]))
    rows = []
    for model, own in losses.items():
        ratios = own[:, drawn].sum(axis=2) / np.maximum(base[:, drawn].sum(axis=2), np.finfo(float).tiny)
        low, high = np.quantile(ratios, [0.025, 0.975], axis=1)
        for place, h in enumerate(horizons):
            ratio = float(own[place].sum() / base[place].sum())
            rows.append((model, h, ratio, low[place], high[place], covered[model][place]))
    return pd.DataFrame(rows, columns=["model", "horizon", "ratio", "lower", "upper", "coverage_90"])
