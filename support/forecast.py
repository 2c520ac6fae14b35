"""Forecast: the second of the four types. Quantiles always, joint sample paths always."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from support.errors import SchemaError

__all__ = ["LEVELS", "Forecast"]

LEVELS = np.array([0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.975])
ROUNDING = 1e-9  # of a level: (1 - 0.9) / 2 is not quite 0.05


@dataclass(frozen=True)
class Forecast:
    """What may happen to some series after `issued_at`, as quantiles and as joint sample paths.

    quantiles: (n_series, n_horizon, n_level) in `unit`, never decreasing along the levels. levels: (n_level,) in (0, 1).
    paths: (n_series, n_draw, n_horizon) in `unit`. issued_at: UTC; horizon h is the interval at issued_at + h steps,
    h = 1..n_horizon, so that all of them start after it. Raises SchemaError that says which rule is broken.

    Example:
        >>> f = Forecast.from_paths(np.ones((1, 4, 2)), issued_at=pd.Timestamp("2026-01-01", tz="UTC"), step_seconds=60,
        ...                         unit="requests", model="flat")
        >>> f.mean().tolist(), f.timestamps[0].isoformat()
        ([[1.0, 1.0]], '2026-01-01T00:01:00+00:00')
    """

    quantiles: np.ndarray
    levels: np.ndarray
    paths: np.ndarray
    issued_at: pd.Timestamp
    step_seconds: float
    unit: str
    model: str
    series: tuple[str, ...] = ("demand",)

    def __post_init__(self) -> None:
        q, p, levels = (np.asarray(a, dtype=float) for a in (self.quantiles, self.paths, self.levels))
        for name, value in (("quantiles", q), ("paths", p), ("levels", levels)):
            object.__setattr__(self, name, value)
            if not np.isfinite(value).all():
                raise SchemaError(f"forecast {self.model}: {name} hold NaN or infinity.")
        if levels.ndim != 1 or not levels.size or (np.diff(levels) <= 0).any() or levels[0] <= 0 or levels[-1] >= 1:
            raise SchemaError(f"forecast {self.model}: levels {levels.tolist()} must increase within (0, 1).")
        if q.ndim != 3 or q.shape[2] != levels.size or q.shape[1] < 1:
            raise SchemaError(
                f"forecast {self.model}: quantiles have shape {q.shape}, wanted (series, horizon, {levels.size})."
            )
        if p.ndim != 3 or p.shape[0] != q.shape[0] or p.shape[2] != q.shape[1] or p.shape[1] < 1:
            raise SchemaError(
                f"forecast {self.model}: paths have shape {p.shape}, wanted ({q.shape[0]}, draws, {q.shape[1]})."
            )
        if len(self.series) != q.shape[0] or len(set(self.series)) != len(self.series):
            raise SchemaError(
                f"forecast {self.model}: {len(self.series)} series names for {q.shape[0]} series, or names repeat."
            )
        if (np.diff(q, axis=2) < -1e-9 * (1 + np.abs(q[..., 1:]))).any():
            raise SchemaError(f"forecast {self.model}: quantiles cross; sort them along the levels first.")
        if self.issued_at.tzinfo is None or self.step_seconds <= 0:
            raise SchemaError(f"forecast {self.model}: issued_at needs a timezone and step_seconds must be positive.")
        object.__setattr__(self, "issued_at", self.issued_at.tz_convert("UTC"))  # a day's step is 24 hours, always

    @classmethod
    def from_paths(
        cls, paths: np.ndarray, *, issued_at: pd.Timestamp, step_seconds: float, unit: str, model: str,
        levels: np.ndarray = LEVELS, series: tuple[str, ...] = ("demand",),
    ) -> Forecast:  # fmt: skip
        """Quantiles are those of the sample `paths` (n_series, n_draw, n_horizon)."""
        quantiles = np.moveaxis(np.quantile(paths, levels, axis=1), 0, -1)
        return cls(quantiles, np.asarray(levels), paths, issued_at, step_seconds, unit, model, series)

    @classmethod
    def from_quantiles(
        cls, quantiles: np.ndarray, levels: np.ndarray, templates: np.ndarray, *, issued_at: pd.Timestamp,
        step_seconds: float, unit: str, model: str, rng: np.random.Generator, series: tuple[str, ...] = ("demand",),
    ) -> Forecast:  # fmt: skip
        """Joint paths for marginal quantiles, with the rank dependence of past error vectors (Schaake shuffle).

        `templates` are past vectors, one row an origin: (n_series, n_draw, n_horizon), or (n_draw, n_horizon), lent to
        every series, which then all move as one; draw k of a series at horizon h gets the quantile of a stratified
        uniform whose rank is that of its templates[k, h], ties in random order. Vectors of the same origins in the same
        rows make series move together as they did. Source: Clark et al. (2004), J. Hydrometeorology 5. Beyond the outer
        levels the marginal is held at its outermost quantile. Raises SchemaError if the templates do not fit.
        """
        past = np.repeat(templates[None], len(quantiles), axis=0) if templates.ndim == 2 else templates
        if past.ndim != 3 or past.shape[::2] != quantiles.shape[:2]:
            raise SchemaError(
                f"forecast {model}: templates of shape {templates.shape} for {quantiles.shape[0]} series and a horizon "
                f"of {quantiles.shape[1]}; give (series, draws, horizon)."
            )
        n_draw = past.shape[1]
        ranks = np.argsort(np.lexsort((rng.random(past.shape), past), axis=1), axis=1)
        uniform = (ranks + rng.random(past.shape)) / n_draw
        paths = np.empty(past.shape)
        for s, h in np.ndindex(quantiles.shape[:2]):
            paths[s, :, h] = np.interp(uniform[s, :, h], levels, quantiles[s, h])
        return cls(quantiles, levels, paths, issued_at, step_seconds, unit, model, series)

    @property
    def timestamps(self) -> pd.DatetimeIndex:
        """Start of each forecast interval, shape (n_horizon,), UTC."""
        step = pd.Timedelta(seconds=self.step_seconds)
        return pd.date_range(self.issued_at + step, periods=self.quantiles.shape[1], freq=step)

    def mean(self) -> np.ndarray:
        """Mean over the paths, (n_series, n_horizon)."""
        return self.paths.mean(axis=1)

    def quantile(self, level: float) -> np.ndarray:
        """Quantile at `level`, (n_series, n_horizon), linear between the levels. Raises SchemaError outside them."""
        if not self.levels[0] - ROUNDING <= level <= self.levels[-1] + ROUNDING:
            raise SchemaError(f"forecast {self.model}: level {level} is outside {self.levels[0]}..{self.levels[-1]}.")
        level = min(max(level, self.levels[0]), self.levels[-1])
        upper = int(np.searchsorted(self.levels, level))
        if np.isclose(self.levels[upper], level):
            return self.quantiles[..., upper]
        weight = (level - self.levels[upper - 1]) / (self.levels[upper] - self.levels[upper - 1])
        return (1 - weight) * self.quantiles[..., upper - 1] + weight * self.quantiles[..., upper]

    def interval(self, level: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Central prediction interval of probability `level`: (lower, upper), each (n_series, n_horizon)."""
        return self.quantile((1 - level) / 2), self.quantile((1 + level) / 2)

    def to_nixtla(self) -> pd.DataFrame:
        """Nixtla's long frame: unique_id, ds, `<model>` (the mean) and `<model>-q-<level>` per level."""
        frame = pd.DataFrame(
            {
                "unique_id": np.repeat(self.series, len(self.timestamps)),
                "ds": np.tile(self.timestamps, len(self.series)),
            }
        )
        frame[self.model] = self.mean().ravel()
        for position, level in enumerate(self.levels):
            frame[f"{self.model}-q-{level:g}"] = self.quantiles[..., position].ravel()
        return frame

    @classmethod
    def from_nixtla(
        cls, frame: pd.DataFrame, *, model: str, issued_at: pd.Timestamp, step_seconds: float, unit: str,
        templates: np.ndarray, rng: np.random.Generator,
    ) -> Forecast:  # fmt: skip
        """From Nixtla's long frame: `<model>-q-<level>` columns, or `<model>` with `<model>-lo-<p>` and `-hi-<p>` as the median and intervals.

        Paths as in `from_quantiles`. Crossing quantiles are sorted, rows too; series keep their order. Raises SchemaError
        without such columns, or if series have different numbers of steps.
        """
        columns: dict[float, str] = {}
        for name in frame.columns:
            if name.startswith(f"{model}-q-"):
                columns[float(name.removeprefix(f"{model}-q-"))] = name
            for side, sign in ((f"{model}-lo-", -1), (f"{model}-hi-", 1)):
                if name.startswith(side):
                    columns[round(0.5 + sign * float(name.removeprefix(side)) / 200, 6)] = name
        if not columns:
            raise SchemaError(f"forecast {model}: no quantile or interval columns in {list(frame.columns)}.")
        if not any(n.startswith(f"{model}-q-") for n in frame.columns):
            columns[0.5] = model
        levels = np.array(sorted(columns))
        place = pd.Categorical(frame["unique_id"], categories=frame["unique_id"].unique())
        frame = frame.assign(place=place.codes).sort_values(["place", "ds"])
        steps = frame["place"].value_counts()
        if steps.min() < steps.max():
            raise SchemaError(f"forecast {model}: series have {steps.min()} to {steps.max()} steps; give all the same.")
        ids = tuple(str(i) for i in place.categories)
        values = np.stack([frame[columns[level]].to_numpy(float).reshape(len(ids), -1) for level in levels], axis=-1)
        return cls.from_quantiles(
            np.sort(values, axis=-1), levels, templates, issued_at=issued_at, step_seconds=step_seconds, unit=unit,
            model=model, rng=rng, series=ids,
        )  # fmt: skip
