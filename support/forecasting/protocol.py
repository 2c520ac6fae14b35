"""Rolling origin over a panel of series: windows that do not overlap, models that see the past only, failures counted.

Local models are fitted again at each cut-off; global ones once, on what lies before each series' first cut-off.
Source: Hyndman and Athanasopoulos (2021), section 5.10.
"""

from __future__ import annotations

import time
import warnings
import zlib
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import numpy as np
import pandas as pd

from support.errors import SchemaError, TooShortError
from support.forecasting.local_models import LocalModel, seasonal_naive_empirical
from support.forecasting.quantile_frame import QUANTILE_LEVELS, ModelForecasts, frame_of, validate

__all__ = ["GlobalModel", "Rolled", "RollingOrigin", "roll"]

FAILURES = (ValueError, ArithmeticError)  # numeric; LinAlgError is a ValueError. Others are bugs and pass through


class _FittedModel(Protocol):
    """A fitted global model."""

    def predict(self, contexts: Mapping[str, np.ndarray], *, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Quantiles (horizon, n_level) by series, from each series' newest values (n_context,)."""


class GlobalModel(Protocol):
    """Fits one model to the past of all series, each (n_time,), for contexts of `context` values."""

    def __call__(
        self, train: Mapping[str, np.ndarray], *, context: int, horizon: int, season: int, levels: np.ndarray,
        rng: np.random.Generator,
    ) -> _FittedModel:  # fmt: skip
        """The fitted model."""


@dataclass(frozen=True)
class RollingOrigin:
    """Where the windows lie and what a model sees; all in steps of the series.

    horizon: steps of a window. step: from one cut-off to the next. season: of the scales and the baseline.
    local_context, global_context: newest values a local model is fitted on, and a global one predicts from.
    Raises SchemaError if windows would overlap: window w - 1 would then hold values after cut-off w, a leak as soon as
    one calibrates on earlier windows.

    Example:
        >>> RollingOrigin(horizon=4, step=6, season=2, n_windows=3, local_context=8, global_context=4).cutoffs(40)
        array([24, 30, 36])
    """

    horizon: int
    step: int
    season: int
    local_context: int
    global_context: int
    n_windows: int = 6

    def __post_init__(self) -> None:
        for name in ("horizon", "step", "season", "local_context", "global_context", "n_windows"):
            if getattr(self, name) < 1:
                raise SchemaError(f"protocol: {name} is {getattr(self, name)}, it must be at least 1.")
        if self.local_context <= self.season:
            raise SchemaError(
                f"protocol: a local context of {self.local_context} is no longer than the season of {self.season}, so "
                f"even seasonal naive has no error to learn from. Use at least {self.season + 1}."
            )
        if self.step < self.horizon:
            raise SchemaError(
                f"protocol: a step of {self.step} is shorter than the horizon of {self.horizon}, so windows overlap "
                f"and calibration on earlier windows would see the future. Use a step of at least {self.horizon}."
            )

    def cutoffs(self, n_time: int) -> np.ndarray:
        """Positions of the first value of each window in a series of `n_time`, (n_window,); values before it are past.

        Raises TooShortError if less than a season and a step would be left before the first.
        """
        starts = n_time - self.horizon - self.step * np.arange(self.n_windows - 1, -1, -1)
        if starts[0] < self.season + 1:
            need = n_time - int(starts[0]) + self.season + 1
            raise TooShortError(
                f"{n_time} values; at least {need} are needed for {self.n_windows} windows of {self.horizon} steps "
                f"every {self.step} and a season of {self.season}. Use fewer windows or a shorter horizon."
            )
        return starts


@dataclass(frozen=True)
class Rolled:
    """What a run of the protocol gave.

    frame: the quantile frame of all models. ledger: one row a model: forecasts, fallbacks, warnings (of the fits) and
    cpu_s. failures: one row a fallback: model, unique_id, cutoff, reason.
    """

    frame: pd.DataFrame
    ledger: pd.DataFrame
    failures: pd.DataFrame


def roll(
    panel: Mapping[str, pd.Series], *, protocol: RollingOrigin, local_models: Mapping[str, LocalModel],
    global_models: Mapping[str, GlobalModel] | None = None, levels: np.ndarray = QUANTILE_LEVELS,
    rng: np.random.Generator, progress: Callable[[str], None] | None = None,
) -> Rolled:  # fmt: skip
    """Forecast every window of every series with every model; where a model fails, seasonal naive stands in, counted.

    panel: series (n_time,) on regular UTC indexes, no missing values, by name. levels: (n_level,). progress: called
    with a line after each model. Random streams depend on the names of model and series and on the window alone, so
    one more series changes nothing for the others (unless a model is global). Raises SchemaError, TooShortError.

    Example:
        >>> index = pd.date_range("2026-01-01", periods=40, freq="1h", tz="UTC")
        >>> plan = RollingOrigin(horizon=4, step=6, season=2, n_windows=3, local_context=8, global_context=4)
        >>> rolled = roll({"a": pd.Series(np.arange(40.0), index)}, protocol=plan,
        ...               local_models={"naive": seasonal_naive_empirical}, rng=np.random.default_rng(0))
        >>> len(rolled.frame), int(rolled.ledger.loc["naive", "fallbacks"])
        (12, 0)
    """
    values = {name: _checked(name, series) for name, series in panel.items()}
    if not values:
        raise SchemaError("panel: no series. Give at least one.")
    cuts = {name: protocol.cutoffs(len(x)) for name, x in values.items()}
    runner = _Runner(values, cuts, protocol, np.asarray(levels, dtype=float), int(rng.integers(2**63)))
    frames, ledger = [], {}
    global_models = global_models or {}
    twice = sorted(set(local_models) & set(global_models))
    if twice:
        raise SchemaError(f"models: {twice} are both local and global. Give each model a name of its own.")
    for model in [*local_models, *global_models]:
        before, began = len(runner.failures), time.process_time()
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            if model in local_models:
                quantiles = runner.local(model, local_models[model])
            else:
                quantiles = runner.trained(model, global_models[model])
        frames.append(frame_of(_arrays(panel, cuts, protocol, model, quantiles, runner.levels)))
        ledger[model] = {
            "forecasts": len(values) * protocol.n_windows,
            "fallbacks": len(runner.failures) - before,
            "warnings": len(caught),
            "cpu_s": time.process_time() - began,
        }
        if progress:
            progress(f"{model}: {', '.join(f'{k} {v:.3g}' for k, v in ledger[model].items())}")
    failures = pd.DataFrame(runner.failures, columns=["model", "unique_id", "cutoff", "reason"])
    failures["cutoff"] = [
        panel[name].index[c - 1] for name, c in zip(failures["unique_id"], failures["cutoff"], strict=True)
    ]
    frame = validate(pd.concat(frames, ignore_index=True))
    return Rolled(frame, pd.DataFrame.from_dict(ledger, orient="index"), failures)


class _Runner:
    """Calls models with copies of the past, checks what they return and notes the fallbacks."""

    def __init__(
        self, values: dict[str, np.ndarray], cuts: dict[str, np.ndarray], protocol: RollingOrigin, levels: np.ndarray,
        entropy: int,
    ) -> None:  # fmt: skip
        self.values, self.cuts, self.protocol, self.levels, self.entropy = values, cuts, protocol, levels, entropy
        self.failures: list[tuple[str, str, int, str]] = []

    def local(self, model: str, forecast: LocalModel) -> np.ndarray:
        """Quantiles (n_series, n_window, horizon, n_level), fitted anew at each cut-off."""
        horizon, season = self.protocol.horizon, self.protocol.season

        def one(name: str, window: int) -> np.ndarray:
            context = self._past(name, window, self.protocol.local_context)
            return self._guarded(
                model, name, window,
                lambda: forecast(context, horizon, season, self.levels, self._stream(model, name, window)),
            )  # fmt: skip

        return np.stack([[one(name, w) for w in range(self.protocol.n_windows)] for name in self.values])

    def trained(self, model: str, fit: GlobalModel) -> np.ndarray:
        """Quantiles (n_series, n_window, horizon, n_level) of a model trained once before the first cut-offs."""
        train = {name: x[: self.cuts[name][0]].copy() for name, x in self.values.items()}
        plan = self.protocol
        try:
            fitted = fit(
                train, context=plan.global_context, horizon=plan.horizon, season=plan.season, levels=self.levels,
                rng=self._stream(model, "", -1),
            )  # fmt: skip
        except FAILURES as error:
            reason = f"fit: {error}"
            return np.stack([[self._stand_in(model, n, w, reason) for w in range(plan.n_windows)] for n in self.values])
        windows = []
        for window in range(plan.n_windows):
            contexts = {name: self._past(name, window, plan.global_context) for name in self.values}
            together: dict[str, np.ndarray] = {}
            with suppress(*FAILURES):  # one bad series must not cost the others theirs: then one by one, each counted
                together = fitted.predict(contexts, rng=self._stream(model, "", window))

            def one(name: str, window: int, known: dict, made: dict) -> np.ndarray:
                if made:
                    return made[name]
                return fitted.predict({name: known[name]}, rng=self._stream(model, name, window))[name]

            row = [self._guarded(model, n, window, partial(one, n, window, contexts, together)) for n in self.values]
            windows.append(row)
        return np.stack(windows, axis=1)

    def _guarded(self, model: str, name: str, window: int, make: Callable[[], np.ndarray]) -> np.ndarray:
        try:
            quantiles = np.asarray(make(), dtype=float)
        except FAILURES as error:
            return self._stand_in(model, name, window, f"{type(error).__name__}: {error}")
        wanted = (self.protocol.horizon, len(self.levels))
        if quantiles.shape != wanted:
            raise SchemaError(f"{model}: quantiles have shape {quantiles.shape}, wanted (horizon, level) = {wanted}.")
        if not np.isfinite(quantiles).all():
            return self._stand_in(model, name, window, "the forecast is not finite")
        return quantiles

    def _stand_in(self, model: str, name: str, window: int, reason: str) -> np.ndarray:
        self.failures.append((model, name, int(self.cuts[name][window]), " ".join(reason.split())))
        context, plan = self._past(name, window, self.protocol.local_context), self.protocol
        return seasonal_naive_empirical(
            context, plan.horizon, plan.season, self.levels, self._stream(model, name, window)
        )

    def _past(self, name: str, window: int, n: int) -> np.ndarray:
        """A copy of the newest `n` values before the cut-off: what follows is out of a model's reach."""
        cut = int(self.cuts[name][window])
        return self.values[name][max(0, cut - n) : cut].copy()

    def _stream(self, model: str, name: str, window: int) -> np.random.Generator:
        return np.random.default_rng([self.entropy, zlib.crc32(model.encode()), zlib.crc32(name.encode()), window + 1])


def _checked(name: str, series: pd.Series) -> np.ndarray:
    values, index = series.to_numpy(dtype=float), series.index
    if not isinstance(index, pd.DatetimeIndex) or index.tz is None:
        raise SchemaError(f"{name}: the index has no timezone. Use tz_localize('UTC').")
    if len(index) < 2 or len(set(np.diff(index.asi8))) != 1 or index[1] <= index[0]:
        raise SchemaError(f"{name}: the index is not regular and increasing. Fill the grid first.")
    if not np.isfinite(values).all():
        raise SchemaError(f"{name}: value at {index[int(np.argmin(np.isfinite(values)))]} is missing. Fill it first.")
    return values


def _arrays(
    panel: Mapping[str, pd.Series], cuts: dict[str, np.ndarray], protocol: RollingOrigin, model: str,
    quantiles: np.ndarray, levels: np.ndarray,
) -> ModelForecasts:  # fmt: skip
    ahead = np.arange(protocol.horizon)
    times, observed, known = [], [], []
    for name, series in panel.items():
        index = series.index.tz_convert("UTC").tz_localize(None).to_numpy().astype("datetime64[ns]")
        rows = cuts[name][:, None] + ahead
        times.append(index[rows])
        known.append(index[cuts[name] - 1])
        observed.append(series.to_numpy(float)[rows])
    return ModelForecasts(
        model, tuple(panel), np.stack(known), np.stack(times), np.stack(observed), quantiles, np.asarray(levels)
    )
