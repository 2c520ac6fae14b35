"""The twelve scores of a quantile frame, by series and over series, and the headline: relSQL with its interval.

Per series all windows are pooled; over series the mean is taken. Point scores are those of the median.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pandas as pd

from support.errors import SchemaError
from support.forecasting.metrics import coverage, coverage_of_ties, pinball, seasonal_scale
from support.forecasting.quantile_frame import ModelForecasts, arrays_of, level_place, require_same_windows

__all__ = ["aggregate", "loss_ratios", "relative_loss", "series_scores", "window_losses"]

DECILES = np.arange(1, 10) / 10
COVERED = (0.5, 0.9, 0.95)  # probabilities of the central intervals
MAPE_FLOOR_FRAC = 1e-6  # of the mean size of the past: smaller values would be divided by nearly nothing
PEAK_LEVEL = 0.95  # of the past: a value above it is a peak
PEAK_STEPS = 3  # a peak forecast this much too early or too late still counts
UNDER_COST, OVER_COST = 9.0, 1.0  # of one unit too little and too much: a stand-in until prices are known
RATIO_BOUNDS = (0.01, 100.0)  # one exploding forecast must not decide a geometric mean
BOOTSTRAP_DRAWS = 2000
MEDIAN_OVER_SERIES = ("r2",)  # unbounded below: one series would decide a mean


def series_scores(
    frame: pd.DataFrame, panel: Mapping[str, pd.Series], *, season: int, under_cost: float = UNDER_COST,
    over_cost: float = OVER_COST,
) -> pd.DataFrame:  # fmt: skip
    """All scores by (model, unique_id), all windows pooled. `panel` holds the series (n_time,) that were forecast.

    In the unit of the series: mae, rmse, wis; in its square: mse. In units of its mean absolute seasonal difference before the first
    cut-off of the frame: mase, sql (deciles), width_50/90/95, capacity_cost (`under_cost` a unit short, `over_cost` a
    unit idle); rmsse in units of the root mean square one. Percent: smape (0 to 200), wape, mape (values near 0 left
    out, their share is mape_masked). Fractions: coverage_50/90/95, the same with _ties (`coverage_of_ties`), direction (sign of the change since the cut-off;
    ties left out), peak_precision, peak_recall, peak_f1 (values above the past's 95 % quantile, found within 3 steps).
    wql (deciles), r2. NaN where a score is undefined. Raises SchemaError for a series that is not in the panel, levels
    that are missing, models with other windows, or a past that repeats itself exactly or is no longer than a season.
    Sources: Hyndman and Koehler (2006); Bracher et al. (2021), PLoS Computational Biology 17.
    """
    require_same_windows(frame)
    rows = {}
    for model in frame["model"].unique():
        forecasts = arrays_of(frame, model)
        for position, name in enumerate(forecasts.series):
            if name not in panel:
                raise SchemaError(f"scores: series {name!r} is not in the panel of {len(panel)} series. Add it.")
            past, last = _past(panel[name], forecasts.cutoffs[position])
            try:
                scale = seasonal_scale(past, season)
            except SchemaError as error:
                raise SchemaError(f"{name}: {error} Leave the series out.") from None
            seen, quantiles = forecasts.observed[position], forecasts.quantiles[position]
            point = quantiles[..., level_place(forecasts.levels, 0.5)]
            rows[model, name] = (
                _point_scores(seen, point, past, scale, season)
                | _events(seen, point, past, last)
                | _quantile_scores(seen, quantiles, forecasts, scale)
                | {"capacity_cost": _capacity_cost(seen, quantiles, forecasts.levels, under_cost, over_cost) / scale}
            )
    scores = pd.DataFrame.from_dict(rows, orient="index")
    scores.index = pd.MultiIndex.from_tuples(list(rows), names=["model", "unique_id"])
    return scores


def aggregate(scores: pd.DataFrame) -> pd.DataFrame:
    """Scores by model: the mean over series where defined, the median for r2. Means of mae, mse, rmse, wis mix units.

    Example:
        >>> index = pd.MultiIndex.from_tuples([("m", "a"), ("m", "b")], names=["model", "unique_id"])
        >>> aggregate(pd.DataFrame({"mase": [1.0, 2.0], "r2": [0.5, -9.0]}, index)).values.tolist()
        [[1.5, -4.25]]
    """
    grouped = scores.groupby(level="model", sort=False)
    table = grouped.mean()
    for name in MEDIAN_OVER_SERIES:
        if name in table:
            table[name] = grouped[name].median()
    return table


def relative_loss(
    scores: pd.DataFrame, *, baseline: str, rng: np.random.Generator, metric: str = "sql",
    n_draws: int = BOOTSTRAP_DRAWS, by_window: pd.DataFrame | None = None,
) -> pd.DataFrame:  # fmt: skip
    """relSQL by model: geometric mean over series of `metric` / the baseline's, ratios clipped to [0.01, 100].

    Columns rel_<metric>, lower, upper: the 95 % percentile bootstrap over series, the same draws for all models; worst:
    the highest ratio of a single series. One series has no spread over series: its interval is over its windows, from
    `by_window` (as `window_losses` gives it, of the same metric), and NaN without it.
    Raises SchemaError if the baseline is not among the models or a model lacks series.
    Source: Efron and Tibshirani (1993), chapter 13.

    Example:
        >>> index = pd.MultiIndex.from_product([["base", "m"], ["a", "b"]], names=["model", "unique_id"])
        >>> table = relative_loss(pd.DataFrame({"sql": [1.0, 1.0, 0.5, 2.0]}, index), baseline="base",
        ...                       rng=np.random.default_rng(0))
        >>> [round(float(x), 6) for x in table["rel_sql"]], table["worst"].tolist()
        ([1.0, 1.0], [1.0, 2.0])
    """
    ratio = loss_ratios(scores, baseline=baseline, metric=metric).clip(*RATIO_BOUNDS)
    logs = np.log(ratio.to_numpy())
    if ratio.shape[1] > 1:
        drawn = rng.integers(0, logs.shape[1], (n_draws, logs.shape[1]))
        means = np.exp(logs[:, drawn].mean(axis=2))
    elif by_window is not None:
        losses = by_window.xs(ratio.columns[0], level="unique_id").reindex(ratio.index).to_numpy()
        drawn = rng.integers(0, losses.shape[1], (n_draws, losses.shape[1]))
        sums = losses[:, drawn].sum(axis=2)
        means = np.clip(_ratio(sums, sums[ratio.index.get_loc(baseline)]), *RATIO_BOUNDS)
    else:
        means = np.full((len(ratio), 1), np.nan)
    lower, upper = np.quantile(means, [0.025, 0.975], axis=1)
    found = {f"rel_{metric}": np.exp(logs.mean(axis=1)), "lower": lower, "upper": upper, "worst": ratio.max(axis=1)}
    return pd.DataFrame(found, index=ratio.index)


def loss_ratios(scores: pd.DataFrame, *, baseline: str, metric: str = "sql") -> pd.DataFrame:
    """`metric` of each model over the baseline's, (model, series), not clipped; 0 / 0 is 1. Raises as `relative_loss`.

    Example:
        >>> index = pd.MultiIndex.from_product([["base", "m"], ["a", "b"]], names=["model", "unique_id"])
        >>> loss_ratios(pd.DataFrame({"sql": [1.0, 4.0, 0.5, 2.0]}, index), baseline="base").loc["m"].tolist()
        [0.5, 0.5]
    """
    wide = scores[metric].unstack("unique_id").reindex(scores.index.unique("model"))
    if baseline not in wide.index:
        raise SchemaError(f"scores: baseline {baseline!r} is not among the models {list(wide.index)}. Forecast it too.")
    if wide.isna().to_numpy().any():
        lacking = wide.index[wide.isna().any(axis=1)].tolist()
        raise SchemaError(f"scores: {metric} of {lacking} is missing for some series. Score the same series for all.")
    found = _ratio(wide.to_numpy(), wide.loc[baseline].to_numpy())
    return pd.DataFrame(found, index=wide.index, columns=wide.columns)


def window_losses(frame: pd.DataFrame) -> pd.DataFrame:
    """Mean decile loss by (model, unique_id), a column a window, in the unit of the series: SQL before its scale.

    frame: a quantile frame with the deciles. Raises SchemaError where one is missing.
    """
    rows: dict[tuple[str, str], np.ndarray] = {}
    for model in frame["model"].unique():
        forecasts = arrays_of(frame, model)
        deciles = [level_place(forecasts.levels, level) for level in DECILES]
        loss = 2 * pinball(forecasts.observed, forecasts.quantiles, forecasts.levels)[..., deciles].mean(axis=(2, 3))
        rows |= {(model, name): loss[position] for position, name in enumerate(forecasts.series)}
    table = pd.DataFrame.from_dict(rows, orient="index")
    table.index = pd.MultiIndex.from_tuples(list(rows), names=["model", "unique_id"])
    return table


def _ratio(own: np.ndarray, base: np.ndarray) -> np.ndarray:
    """own / base, infinite over nothing, and 1 for nothing over nothing."""
    return np.divide(own, base, out=np.where(own > 0, np.inf, 1.0), where=base > 0)


def _past(series: pd.Series, cutoffs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values up to the first cut-off, and the value at each cut-off (n_window,)."""
    times = pd.DatetimeIndex(cutoffs, tz="UTC")
    return series[series.index <= times.min()].to_numpy(float), series.reindex(times).to_numpy(float)


def _over(part: float, whole: float) -> float:
    return float(part / whole) if whole > 0 else float("nan")


def _point_scores(seen: np.ndarray, point: np.ndarray, past: np.ndarray, scale: float, season: int) -> dict[str, float]:
    error = np.abs(seen - point)
    squared, size = float((error**2).mean()), np.abs(seen) + np.abs(point)
    rmse_scale = float(np.sqrt(((past[season:] - past[:-season]) ** 2).mean()))
    kept = np.abs(seen) > MAPE_FLOOR_FRAC * np.abs(past).mean()
    return {
        "mae": float(error.mean()),
        "mse": squared,
        "rmse": float(np.sqrt(squared)),
        "mase": float(error.mean() / scale),
        "rmsse": float(np.sqrt(squared) / rmse_scale),
        "smape": float(200 * np.divide(error, size, out=np.zeros_like(error), where=size > 0).mean()),
        "wape": 100 * _over(error.sum(), np.abs(seen).sum()),
        "mape": 100 * _over((error[kept] / np.abs(seen[kept])).sum(), kept.sum()),
        "mape_masked": float(1 - kept.mean()),
        "r2": 1 - _over((error**2).sum(), ((seen - seen.mean()) ** 2).sum()),
    }


def _events(seen: np.ndarray, point: np.ndarray, past: np.ndarray, last: np.ndarray) -> dict[str, float]:
    """Direction of change since the cut-off, and peaks; seen and point (n_window, horizon), last (n_window,)."""
    moved, meant = np.sign(seen - last[:, None]), np.sign(point - last[:, None])
    level = np.quantile(past, PEAK_LEVEL)
    real, called = seen > level, point > level
    hit, found = (called & _near(real)).sum(), (real & _near(called)).sum()
    precision, recall = _over(hit, called.sum()), _over(found, real.sum())
    return {
        "direction": _over((moved == meant)[moved != 0].sum(), (moved != 0).sum()),
        "peak_precision": precision,
        "peak_recall": recall,
        "peak_f1": _f1(precision, recall),
    }


def _f1(precision: float, recall: float) -> float:
    """Harmonic mean; zero for a model that calls no peak where there are some, or the other way round; else NaN."""
    known = [0.0 if np.isnan(share) else share for share in (precision, recall)]
    if np.isnan(precision) and np.isnan(recall):
        return float("nan")
    return 2 * known[0] * known[1] / sum(known) if sum(known) else 0.0


def _near(flags: np.ndarray) -> np.ndarray:
    """Whether any flag of the same window is set within PEAK_STEPS steps."""
    padded = np.pad(flags, ((0, 0), (PEAK_STEPS, PEAK_STEPS)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, 2 * PEAK_STEPS + 1, axis=1)
    return np.asarray(windows.any(axis=-1))


def _quantile_scores(
    seen: np.ndarray, quantiles: np.ndarray, forecasts: ModelForecasts, scale: float
) -> dict[str, float]:
    levels = forecasts.levels
    deciles = [level_place(levels, level) for level in DECILES]
    loss = 2 * pinball(seen, quantiles, levels)
    out = {
        "wql": _over(loss[..., deciles].sum(), len(deciles) * np.abs(seen).sum()),
        "sql": float(loss[..., deciles].mean() / scale),
    }
    for share in COVERED:
        lower, upper = (quantiles[..., level_place(levels, (1 + sign * share) / 2)] for sign in (-1, 1))
        out[f"coverage_{100 * share:g}"] = coverage(seen, lower, upper)
        out[f"coverage_{100 * share:g}_ties"] = coverage_of_ties(seen, quantiles, levels, share)
        out[f"width_{100 * share:g}"] = float((upper - lower).mean() / scale)
    mirrored = [k for k, level in enumerate(levels) if np.isclose(levels, 1 - level).any()]
    out["wis"] = float(
        loss[..., mirrored].mean()
    )  # Bracher et al. (2021), eq. 2: the mean over the pairs and the median
    return out


def _capacity_cost(
    seen: np.ndarray, quantiles: np.ndarray, levels: np.ndarray, under_cost: float, over_cost: float
) -> float:
    """Mean cost of holding the quantile that is best for these costs: the newsvendor's, linear between the levels."""
    if under_cost <= 0 or over_cost <= 0:
        raise SchemaError(f"scores: costs {under_cost:g} and {over_cost:g} must be positive.")
    level = under_cost / (under_cost + over_cost)
    if not levels[0] <= level <= levels[-1]:
        raise SchemaError(
            f"scores: the best level {level:g} is outside {levels[0]:g}..{levels[-1]:g}. Change the costs."
        )
    upper = int(np.searchsorted(levels, level).clip(1, len(levels) - 1))
    weight = (level - levels[upper - 1]) / (levels[upper] - levels[upper - 1])
    held = (1 - weight) * quantiles[..., upper - 1] + weight * quantiles[..., upper]
    return float((under_cost + over_cost) * pinball(seen, held[..., None], np.array([level])).mean())
