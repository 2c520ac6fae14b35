"""Global tree forecasters on engineered features: gradient boosting by the quantile loss, and a random forest.

One model serves all series and all steps: a row is a cut-off and a step ahead, both drawn at random from the past, and
the step is a feature. Inputs and targets are on the scale asinh((x - median) / mean absolute deviation) of the window
before the cut-off, so forecasts follow unit and level. The protocol passes arrays without times: what is known of the
calendar is then the phase of the season, through the values of the same phase before. A caller who has the times gives
them to `fit` and `predict`, and gets hours, weekdays and holidays as well.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import pandas as pd
from scipy.stats import norm
from sklearn.ensemble import HistGradientBoostingRegressor, RandomForestRegressor

from support.errors import SchemaError, TooShortError
from support.forecasting.feature_blocks import FeaturePlan, ahead_columns, past_columns, scale_kind
from support.forecasting.features import calendar_columns
from support.forecasting.windows import location_scale

__all__ = ["TreeForecast", "fit_boosting", "fit_forest"]

KNOTS = np.array([0.025, 0.1, 0.3, 0.5, 0.7, 0.9, 0.975])  # levels that are fitted; the others lie between them
GROUPS = ("lags", "rolling", "ewm", "differences", "seasons", "anomaly")  # those that follow unit and level
MAX_CUTOFFS = 12_000  # of the whole panel: more than that overlap by nearly everything
STEPS_EACH = 4  # drawn for a cut-off
NEAR_SHARE = 0.5  # of the steps are drawn log-uniform: the nearest differ most from each other
BLOCK_WINDOWS = 1024  # looked at together, to bound memory
LEAF_DRAWS = 8  # of a leaf's targets stand for their distribution
Times: TypeAlias = Mapping[str, pd.DatetimeIndex]
Calendar: TypeAlias = tuple[str, str]  # country and timezone


@dataclass(frozen=True)
class TreeForecast:
    """A fitted tree model. `predict` turns contexts into quantiles.

    plan: the features. names: the columns of the inputs. quantiles: inputs (n_row, n_column) to quantiles (n_row,
    n_level) on the asinh scale. calendar: country and timezone if the model was fitted with times, else None.
    """

    plan: FeaturePlan
    context: int
    horizon: int
    names: tuple[str, ...]
    quantiles: Callable[[np.ndarray], np.ndarray]
    calendar: Calendar | None = None

    def predict(
        self, contexts: Mapping[str, np.ndarray], *, rng: np.random.Generator, times: Times | None = None
    ) -> dict[str, np.ndarray]:
        """Quantiles (horizon, n_level) by series, in its unit, from the last `context` values of each of `contexts`.

        times: of the values of the contexts, UTC, if the model was fitted with times. `rng` is not used. Raises
        TooShortError for a context that is too short, SchemaError if times are missing.
        """
        for name, values in contexts.items():
            if len(values) < self.context:
                raise TooShortError(f"{name}: {len(values)} values; the model was fitted on {self.context}. Give more.")
        series = {name: np.asarray(values, dtype=float)[-self.context :] for name, values in contexts.items()}
        if self.calendar:
            times = {name: index[-self.context :] for name, index in _needed(times, contexts).items()}
        rows = np.repeat(self.context * np.arange(1, len(series) + 1) - 1, self.horizon)
        steps = np.tile(np.arange(1, self.horizon + 1), len(series))
        columns, centre, scale = _inputs(series, rows, steps, self.plan, self.context, times, self.calendar)
        found = self._found(columns, centre, scale)
        return dict(zip(series, found.reshape(len(series), self.horizon, -1), strict=True))

    def predict_at(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Quantiles (n_row, horizon, n_level) issued after each of `rows` of one series (n_time,), in its unit.

        The same as `predict` from the `context` values that end there, for many origins at once; for a model fitted
        without times. Raises TooShortError if a row has no context, SchemaError for a model that needs times.
        """
        if self.calendar:
            raise SchemaError("predict_at: the model was fitted with times. Use predict.")
        if len(rows) and min(rows) < self.context - 1:
            raise TooShortError(f"{min(rows) + 1} values before a forecast; the model was fitted on {self.context}.")
        steps = np.tile(np.arange(1, self.horizon + 1), len(rows))
        series = {"values": np.asarray(values, dtype=float)}
        columns, centre, scale = _inputs(
            series, np.repeat(rows, self.horizon), steps, self.plan, self.context, None, None
        )
        return self._found(columns, centre, scale).reshape(len(rows), self.horizon, -1)

    def _found(self, columns: Mapping[str, np.ndarray], centre: np.ndarray, scale: np.ndarray) -> np.ndarray:
        inputs = np.column_stack([columns[name] for name in self.names])
        return np.asarray(np.sinh(self.quantiles(inputs)) * scale[:, None] + centre[:, None])


def fit_boosting(
    train: Mapping[str, np.ndarray], *, context: int, horizon: int, season: int, levels: np.ndarray,
    rng: np.random.Generator, times: Times | None = None, country: str = "US", timezone: str = "UTC",
    max_iter: int = 80, learning_rate: float = 0.1, max_leaf_nodes: int = 31, min_samples_leaf: int = 50,
    l2_regularization: float = 0.0, max_cutoffs: int = MAX_CUTOFFS,
) -> TreeForecast:  # fmt: skip
    """Histogram gradient boosting by the quantile loss, one ensemble a level, the step ahead being a feature.

    train: each series' past, (n_time,). Seven levels are fitted; the others follow by straight lines between them, and
    beyond the outermost, over the normal quantiles of the levels. times: of the values, UTC, for the calendar columns;
    `predict` then needs them too. max_cutoffs: drawn from the panel, each with four steps ahead. The rest:
    hyperparameters of scikit-learn's HistGradientBoostingRegressor.
    Raises TooShortError if no series has a context and a horizon. Source: Ke et al. (2017), LightGBM; Koenker (2005).

    Example:
        >>> wave = np.sin(np.arange(200) * 2 * np.pi / 12)
        >>> model = fit_boosting({"a": wave}, context=24, horizon=6, season=12, levels=np.array([0.1, 0.5, 0.9]),
        ...                      rng=np.random.default_rng(0), max_iter=2)
        >>> model.predict({"a": wave}, rng=np.random.default_rng(0))["a"].shape
        (6, 3)
    """
    pairs = _sample(train, context, horizon, season, times, (country, timezone), rng, max_cutoffs)
    seed = int(rng.integers(2**31))
    models = [
        HistGradientBoostingRegressor(
            loss="quantile", quantile=knot, max_iter=max_iter, learning_rate=learning_rate,
            max_leaf_nodes=max_leaf_nodes, min_samples_leaf=min_samples_leaf, l2_regularization=l2_regularization,
            early_stopping=False, random_state=seed,
        ).fit(pairs.inputs, pairs.targets)
        for knot in KNOTS
    ]  # fmt: skip

    quantiles = _Boosted(tuple(models), KNOTS, np.asarray(levels))
    return TreeForecast(pairs.plan, context, horizon, pairs.names, quantiles, pairs.calendar)


def fit_forest(
    train: Mapping[str, np.ndarray], *, context: int, horizon: int, season: int, levels: np.ndarray,
    rng: np.random.Generator, times: Times | None = None, country: str = "US", timezone: str = "UTC",
    n_estimators: int = 40, min_samples_leaf: int = 30, max_features: float = 1 / 3, max_depth: int | None = None,
    max_cutoffs: int = MAX_CUTOFFS,
) -> TreeForecast:  # fmt: skip
    """Random forest: its quantiles are those of the training targets in the leaves that a row falls into.

    All trees weigh alike; eight quantiles stand for a leaf's targets. Arguments as in `fit_boosting`, and
    hyperparameters of scikit-learn's RandomForestRegressor. Raises TooShortError as `fit_boosting`.
    Source: Meinshausen (2006), Journal of Machine Learning Research 7.

    Example:
        >>> wave = np.sin(np.arange(200) * 2 * np.pi / 12)
        >>> model = fit_forest({"a": wave}, context=24, horizon=6, season=12, levels=np.array([0.1, 0.5, 0.9]),
        ...                    rng=np.random.default_rng(0), n_estimators=2)
        >>> model.predict({"a": wave}, rng=np.random.default_rng(0))["a"].shape
        (6, 3)
    """
    pairs = _sample(train, context, horizon, season, times, (country, timezone), rng, max_cutoffs)
    forest = RandomForestRegressor(
        n_estimators, min_samples_leaf=min_samples_leaf, max_features=max_features, max_depth=max_depth,
        random_state=int(rng.integers(2**31)),
    ).fit(pairs.inputs, pairs.targets)  # fmt: skip
    held = [_leaf_quantiles(leaves, pairs.targets) for leaves in forest.apply(pairs.inputs).T]
    quantiles = _Leaves(forest, held, np.asarray(levels))
    return TreeForecast(pairs.plan, context, horizon, pairs.names, quantiles, pairs.calendar)


def between(fitted: np.ndarray, knots: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Quantiles at `levels` from those at `knots` (..., n_knot), sorted: straight lines over the normal quantiles.

    Beyond the outermost knots the outermost line goes on, so that a normal distribution is carried over exactly.

    Example:
        >>> knots = np.array([0.1, 0.5, 0.9])
        >>> float(between(norm.ppf(knots), knots, np.array([0.975]))[0].round(3))
        1.96
    """
    ordered, at, wanted = np.sort(fitted, axis=-1), norm.ppf(knots), norm.ppf(levels)
    left = np.clip(np.searchsorted(at, wanted) - 1, 0, len(at) - 2)
    weight = (wanted - at[left]) / (at[left + 1] - at[left])
    return ordered[..., left] * (1 - weight) + ordered[..., left + 1] * weight


@dataclass(frozen=True)
class _Boosted:
    """One ensemble a knot."""

    models: tuple[HistGradientBoostingRegressor, ...]
    knots: np.ndarray
    levels: np.ndarray

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        found = [model.predict(inputs) for model in self.models]
        return between(np.stack(found, axis=-1), self.knots, self.levels)


@dataclass(frozen=True)
class _Leaves:
    """A forest, and for each of its trees the quantiles of the targets in each leaf."""

    forest: RandomForestRegressor
    held: list[np.ndarray]
    levels: np.ndarray

    def __call__(self, inputs: np.ndarray) -> np.ndarray:
        drawn = [leaf[leaves] for leaf, leaves in zip(self.held, self.forest.apply(inputs).T, strict=True)]
        return np.quantile(np.concatenate(drawn, axis=1), self.levels, axis=1).T


@dataclass(frozen=True)
class _Pairs:
    """Training rows: inputs (n_row, n_column) named `names`, targets (n_row,) on the asinh scale."""

    plan: FeaturePlan
    names: tuple[str, ...]
    inputs: np.ndarray
    targets: np.ndarray
    calendar: Calendar | None


def _sample(
    train: Mapping[str, np.ndarray], context: int, horizon: int, season: int, times: Times | None, calendar: Calendar,
    rng: np.random.Generator, max_cutoffs: int = MAX_CUTOFFS,
) -> _Pairs:  # fmt: skip
    """Cut-offs drawn from all that have a context, and steps ahead within the past, half of them the nearer ones."""
    longest = max((len(x) for x in train.values()), default=0)
    if longest < context + horizon:
        raise TooShortError(
            f"training panel: the longest series has {longest} values; at least {context + horizon} are needed for a "
            f"context of {context} and a horizon of {horizon}."
        )
    series = {name: np.asarray(x, dtype=float) for name, x in train.items()}
    left = np.concatenate([np.arange(len(x) - 1, -1, -1) for x in series.values()])
    known = np.concatenate([np.arange(1, len(x) + 1) for x in series.values()])
    cutoffs = np.flatnonzero((known >= context) & (left >= 1))
    cutoffs = np.sort(rng.choice(cutoffs, min(max_cutoffs, len(cutoffs)), replace=False))
    rows = np.repeat(cutoffs, STEPS_EACH)
    most = np.minimum(horizon, left[rows])
    near = rng.random(len(rows)) < NEAR_SHARE
    share = rng.random(len(rows))
    drawn = np.where(near, (most + 1.0) ** share, 1 + most * share)
    steps = np.clip(drawn.astype(int), 1, most)
    rows, steps = np.unique(np.stack([rows, steps]), axis=1)
    plan = FeaturePlan(seasons=(season,) if season > 1 else (), groups=GROUPS).within(context)
    timed = calendar if times is not None else None
    columns, centre, scale = _inputs(
        series, rows, steps, plan, context, _needed(times, train) if timed else None, timed
    )
    targets = np.arcsinh((np.concatenate([*series.values()])[rows + steps] - centre) / scale)
    return _Pairs(plan, tuple(columns), np.column_stack([*columns.values()]), targets, timed)


def _needed(times: Times | None, series: Mapping[str, np.ndarray]) -> Times:
    """Times as long as their series; SchemaError if not."""
    for name, values in series.items():
        if times is None or name not in times or len(times[name]) != len(values):
            raise SchemaError(
                f"{name}: the model knows the calendar, so each of its {len(values)} values needs a time."
            )
    return times or {}


def _inputs(
    series: Mapping[str, np.ndarray], rows: np.ndarray, steps: np.ndarray, plan: FeaturePlan, context: int,
    times: Times | None, calendar: Calendar | None,
) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:  # fmt: skip
    """Columns at `rows` of the series put together, for `steps` ahead, on the scale of the windows, and that scale."""
    values = np.concatenate([*series.values()])
    position = np.concatenate([np.arange(len(x)) for x in series.values()])
    cutoffs, where = np.unique(rows, return_inverse=True)
    windows, starts = np.lib.stride_tricks.sliding_window_view(values, context), cutoffs - context + 1
    blocks = [
        np.hstack(location_scale(windows[starts[k : k + BLOCK_WINDOWS]])) for k in range(0, len(starts), BLOCK_WINDOWS)
    ]
    centre, scale = np.concatenate(blocks)[where].T
    columns = {name: column[rows] for name, column in past_columns(values, position, plan).items()}
    columns |= ahead_columns(values, position, rows, steps, plan)
    for name, column in columns.items():
        kind = scale_kind(name)
        if kind != "free":
            columns[name] = np.arcsinh((column - (centre if kind == "level" else 0.0)) / scale)
    if times is not None and calendar is not None:
        stamps = [times[name].tz_convert("UTC").as_unit("s").asi8 for name in series]
        gaps = np.concatenate([np.full(len(at), (at[-1] - at[0]) // max(1, len(at) - 1)) for at in stamps])
        ahead, back = np.unique(np.concatenate(stamps)[rows] + gaps[rows] * steps, return_inverse=True)
        found = calendar_columns(pd.to_datetime(ahead, unit="s", utc=True), country=calendar[0], timezone=calendar[1])
        columns |= {name: column[back] for name, column in found.items()}
    return columns, centre, scale


def _leaf_quantiles(leaves: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Quantiles of the targets in each leaf at eight evenly spaced levels, (n_node, 8)."""
    order = np.lexsort((targets, leaves))
    found, first, size = np.unique(leaves[order], return_index=True, return_counts=True)
    levels = (np.arange(LEAF_DRAWS) + 0.5) / LEAF_DRAWS
    out = np.full((found[-1] + 1, LEAF_DRAWS), np.nan)
    out[found] = targets[order][first[:, None] + (levels * size[:, None]).astype(int)]
    return out
