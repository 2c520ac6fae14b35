"""Which forecaster to use, and why: by the length of the past, its season, the number of series and the time allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.linalg import toeplitz

from support.errors import SchemaError, TooShortError
from support.forecast import Forecast
from support.forecasting.analogs import AnalogExpert, Expert, LevelExpert, NaiveExpert
from support.forecasting.joint_paths import with_tails
from support.forecasting.local_models import seasonal_naive_empirical
from support.forecasting.metrics import pinball
from support.forecasting.quantile_frame import QUANTILE_LEVELS

__all__ = ["RECOMMENDED", "Recommendation", "recommend", "recommended"]

RECOMMENDED = "Recommended"
MIXTURE, ANALOGS, LEVEL, NAIVE = "analog mixture", "analogs", "hedged naive", "seasonal naive"
LEAST_SEASONS, LEAST_VALUES = 3, 400  # of past; with less there are too few moments like now
NEWEST_VALUES = 2016  # of the past that are used: a week of 5 minutes
# CPU seconds a series and a million (value x step), rounded up; benchmarks/forecasting_speed.py measures the first
COST_SECONDS = {MIXTURE: 0.45, ANALOGS: 0.12, LEVEL: 0.03}
LEVEL_RATES, NAIVE_SHARE = (0.2, 0.5), 0.75  # where the past is short
FEWER_RATES, FEWER_IMPORTANCE = (0.5, 0.1, 0.02), (2.0, 1.0, 0.5)
# How experts are weighed on the past: chosen on series and times outside the windows of the benchmark's `SETS`, but for
# one prior, and the shares for a short past above, which were kept after those windows had been looked at
ORIGINS_PER_SEASON, FIRST_ORIGIN_FRAC, MOST_ORIGINS = 4, 0.25, 12
N_JUDGED_STEPS, SHORT_SEASONS = 10, 1 / 6  # steps at which they are judged; up to a sixth of a season is short
TEMPERATURE = 0.3  # a loss 30 % higher than the best's costs a factor of e
HALF_LIFE_SEASONS = 0.2  # what they did lately tells most
PRIOR = (0.0, 0.0, -1.0, -1.0, -1.0, -1.0, -1.0)  # logarithm of the weight before they are judged
LEAST_TEMPLATES = 20  # past vectors for the ranks of paths; with fewer, one coefficient
DRAWS = 200


@dataclass(frozen=True)
class Recommendation:
    """A forecaster and why it was chosen. choice: its name, reason: in words, seconds: what it should take."""

    choice: str
    reason: str
    seconds: float
    horizon: int
    season: int
    levels: np.ndarray

    def quantiles(self, context: np.ndarray) -> np.ndarray:
        """Quantiles (horizon, n_level) after one context (n_time,), in its unit, never decreasing."""
        return _quantiles(self.choice, np.asarray(context, float), self.horizon, self.season, self.levels)

    def forecast(
        self, history: pd.Series | Mapping[str, pd.Series], *, unit: str, rng: np.random.Generator,
        n_draws: int = DRAWS, lowest: float | None = None,
    ) -> Forecast:  # fmt: skip
        """Quantiles and joint paths after the last value of each series, all on one regular UTC index.

        Paths follow the ranks of past stretches of the series itself (Schaake shuffle); with fewer than 20 of them,
        the correlation of one coefficient. Tails and `lowest` as `with_tails`. Raises SchemaError, TooShortError.
        """
        panel, issued_at, step = _panel(history)
        made, paths = [], []
        for values in panel.values():
            quantiles = self.quantiles(values)
            wide, grid = with_tails(quantiles, self.levels, lowest=lowest)
            shuffled = Forecast.from_quantiles(
                wide[None], grid, _templates(values, self.horizon, self.season, n_draws, rng), issued_at=issued_at,
                step_seconds=step, unit=unit, model=self.choice, rng=rng,
            )  # fmt: skip
            made.append(quantiles if lowest is None else np.maximum(quantiles, lowest))
            paths.append(shuffled.paths[0])
        return Forecast(np.stack(made), self.levels, np.stack(paths), issued_at, step, unit, RECOMMENDED, tuple(panel))


def recommend(
    history: pd.Series | Mapping[str, pd.Series], *, horizon: int, season: int, budget_s: float = 60.0,
    levels: np.ndarray = QUANTILE_LEVELS,
) -> Recommendation:  # fmt: skip
    """A forecaster for these series: the best that the shortest past carries and that should fit into `budget_s` seconds.

    history: a series, or series by name, on one regular UTC index. horizon, season: steps. Raises SchemaError,
    TooShortError (a past no longer than a season).

    Example:
        >>> index = pd.date_range("2026-01-01", periods=100, freq="1h", tz="UTC")
        >>> chosen = recommend(pd.Series(np.arange(100.0) % 24, index), horizon=6, season=24)
        >>> chosen.choice, chosen.reason
        ('hedged naive', '100 values are fewer than 400: too few moments like now, so the last season, drawn to a level.')
    """
    panel, _, _ = _panel(history)
    shortest = min(len(v) for v in panel.values())
    best, reason = _by_length(shortest, season)
    work = sum(min(len(v), NEWEST_VALUES) for v in panel.values()) * horizon / 1e6
    order = [MIXTURE, ANALOGS, LEVEL, NAIVE]
    for choice in order[order.index(best) :]:
        seconds = COST_SECONDS.get(choice, 0.0) * work
        if seconds <= budget_s:
            break
    if choice != best:
        needed = COST_SECONDS[best] * work
        reason = (
            f"{best} would take about {needed:.3g} s for {len(panel)} series, more than the {budget_s:g} s allowed."
        )
    return Recommendation(choice, reason, seconds, horizon, season, np.asarray(levels, float))


def recommended(
    context: np.ndarray, horizon: int, season: int, levels: np.ndarray, rng: np.random.Generator
) -> np.ndarray:
    """The recommended forecaster as a local model of the protocol: chosen by the length of the context alone.

    Example:
        >>> recommended(np.arange(50.0) % 2, 2, 1, np.array([0.1, 0.9]), np.random.default_rng(0)).shape
        (2, 2)
    """
    choice, _ = _by_length(len(context), season)
    return _quantiles(choice, np.asarray(context, float), horizon, season, np.asarray(levels, float))


def _by_length(n: int, season: int) -> tuple[str, str]:
    if n <= season:
        raise TooShortError(f"recommend: {n} values are no more than a season of {season}; give at least {season + 1}.")
    if n < LEAST_VALUES:
        return (
            LEVEL,
            f"{n} values are fewer than {LEAST_VALUES}: too few moments like now, so the last season, drawn to a level.",
        )
    if n < LEAST_SEASONS * season:
        return (
            LEVEL,
            f"{n / season:.2g} seasons are fewer than {LEAST_SEASONS}: no season can be learned, so the last one, drawn to a level.",
        )
    return (
        MIXTURE,
        f"{n} values, {n / season:.3g} seasons: enough to look for moments like now, beside simpler experts.",
    )


def _quantiles(choice: str, context: np.ndarray, horizon: int, season: int, levels: np.ndarray) -> np.ndarray:
    context = context[-max(NEWEST_VALUES, LEAST_SEASONS * season) :]
    steps, origin = np.arange(1, horizon + 1), len(context) - 1
    if choice == NAIVE:
        return seasonal_naive_empirical(context, horizon, season, levels, np.random.default_rng(0))
    if choice == LEVEL:
        return np.sort(_hedged(context, season, steps, levels), axis=-1)
    if choice == ANALOGS:
        return np.sort(AnalogExpert(context, season).at(origin, steps, levels), axis=-1)
    experts = _experts(context, season)
    short, long = _weights(experts, context, horizon, season, levels)
    share = 1 / (1 + (steps / (1.5 * max(1.0, SHORT_SEASONS * season))) ** 4)  # of the short weights, from 1 to 0
    weights = short[:, None] * share + long[:, None] * (1 - share)
    stacked = np.stack([e.at(origin, steps, levels) for e in experts])
    return np.sort(_weighted_median(stacked, weights[:, :, None]), axis=-1)


def _experts(context: np.ndarray, season: int) -> list[Expert]:
    return [
        AnalogExpert(context, season, rates=FEWER_RATES, importance=FEWER_IMPORTANCE),
        AnalogExpert(context, season),
        AnalogExpert(context, season, rates=FEWER_RATES, importance=FEWER_IMPORTANCE, profile=True),
        AnalogExpert(context, season, rates=FEWER_RATES, importance=FEWER_IMPORTANCE, profile=True, decay=0.0),
        LevelExpert(context, rate=0.05),
        LevelExpert(context, rate=0.01),
        NaiveExpert(context, season),
    ]


def _weights(
    experts: list[Expert], context: np.ndarray, horizon: int, season: int, levels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Weights (n_expert,) for short and long steps, by how the experts did from past moments of the context."""
    n = len(context)
    judged = np.unique(np.geomspace(1, horizon, N_JUDGED_STEPS).round().astype(int))
    every = max(1, season // ORIGINS_PER_SEASON)
    origins = np.arange(n - 2, max(int(n * FIRST_ORIGIN_FRAC), 2 * season), -every)[:MOST_ORIGINS]
    loss, mass = np.zeros((len(experts), len(judged))), np.zeros(len(judged))
    for origin in origins:
        steps = judged[(judged < n - origin) & (judged < origin - season)]
        if not len(steps):
            continue
        lately = 0.5 ** ((n - 1 - origin - steps) / (HALF_LIFE_SEASONS * season))
        for k, expert in enumerate(experts):
            loss[k, : len(steps)] += lately * pinball(
                context[origin + steps], expert.at(origin, steps, levels), levels
            ).mean(-1)
        mass[: len(steps)] += lately
    worst = loss.max()
    logs = np.log(np.maximum(loss / np.maximum(mass, np.finfo(float).tiny), 1e-9 * worst + np.finfo(float).tiny))
    found = []
    for group in (judged <= SHORT_SEASONS * season, judged > SHORT_SEASONS * season):
        known = group & (mass > 0) if (group & (mass > 0)).any() else mass > 0
        mean = logs[:, known].mean(axis=1) if known.any() else np.zeros(len(experts))
        weights = np.exp(np.array(PRIOR) - (mean - mean.min()) / TEMPERATURE)
        found.append(weights / weights.sum())
    return found[0], found[1]


def _weighted_median(values: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Weighted median over the first axis, linear between the middles of the members' weights."""
    order = np.argsort(values, axis=0)
    ordered = np.take_along_axis(values, order, axis=0)
    held = np.take_along_axis(np.broadcast_to(weights, values.shape), order, axis=0)
    middle = np.cumsum(held, axis=0) - held / 2
    above = np.where((middle >= 0.5).any(axis=0), (middle >= 0.5).argmax(axis=0), len(values) - 1)
    below = np.maximum(above - 1, 0)
    pick = lambda x, k: np.take_along_axis(x, k[None], axis=0)[0]  # noqa: E731
    gap = pick(middle, above) - pick(middle, below)
    share = np.divide(0.5 - pick(middle, below), gap, out=np.ones_like(gap), where=gap > 0)
    return pick(ordered, below) + np.clip(share, 0, 1) * (pick(ordered, above) - pick(ordered, below))


def _hedged(context: np.ndarray, season: int, steps: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """Three quarters seasonal naive, one quarter smoothed levels: what so short a past can carry."""
    experts: list[Expert] = [LevelExpert(context, rate=rate, bend=False) for rate in LEVEL_RATES]
    levelled = np.mean([e.at(len(context) - 1, steps, levels) for e in experts], axis=0)
    repeated = NaiveExpert(context, season).at(len(context) - 1, steps, levels)
    return np.asarray(NAIVE_SHARE * repeated + (1 - NAIVE_SHARE) * levelled)


def _templates(values: np.ndarray, horizon: int, season: int, n_draws: int, rng: np.random.Generator) -> np.ndarray:
    """Past stretches (n_draws, horizon) that began where now is like then, or draws with one coefficient."""
    values = values[-max(NEWEST_VALUES, LEAST_SEASONS * season, 2 * horizon) :]
    last = len(values) - 1 - horizon  # the newest moment with a whole stretch after it
    if last + 1 < LEAST_TEMPLATES:
        step = np.corrcoef(values[:-1], values[1:])[0, 1] if values.std() > 0 else 0.0
        root = np.linalg.cholesky(toeplitz(np.clip(step, 0.0, 0.99) ** np.arange(horizon)) + 1e-9 * np.eye(horizon))
        return np.asarray(rng.standard_normal((n_draws, horizon)) @ root.T)
    weights = AnalogExpert(values, season).weights(len(values) - 1)[: last + 1]
    drawn = rng.choice(last + 1, n_draws, p=weights / weights.sum())
    return values[drawn[:, None] + np.arange(1, horizon + 1)]


def _panel(history: pd.Series | Mapping[str, pd.Series]) -> tuple[dict[str, np.ndarray], pd.Timestamp, float]:
    series = {str(history.name or "demand"): history} if isinstance(history, pd.Series) else dict(history)
    if not series:
        raise SchemaError("recommend: no series. Give at least one.")
    for name, one in series.items():
        index = one.index
        if not isinstance(index, pd.DatetimeIndex) or index.tz is None or len(index) < 2:
            raise SchemaError(f"{name}: needs a UTC index of at least two times. Use tz_localize('UTC').")
        gaps = np.diff(index.asi8)
        if (gaps != gaps[0]).any() or gaps[0] <= 0 or not np.isfinite(one.to_numpy(float)).all():
            raise SchemaError(f"{name}: the index is not regular, or values are missing. Fill the grid first.")
    ends = {(one.index[-1], one.index[-1] - one.index[-2]) for one in series.values()}
    if len(ends) > 1:
        raise SchemaError(f"recommend: series end at {len(ends)} different times or steps. Cut them to one.")
    end, step = ends.pop()
    return {k: v.to_numpy(float) for k, v in series.items()}, end, step.total_seconds()
