"""One adapter over pretrained forecasters: checked contexts in, sorted quantiles at any levels out; and an ensemble."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from support.errors import SchemaError, TooShortError
from support.forecast import Forecast
from support.forecasting.foundation.chronos_numpy import read_checkpoint
from support.forecasting.foundation.tails import complete_levels
from support.forecasting.foundation.zoo import BATCH, Raw, open_model
from support.forecasting.quantile_frame import QUANTILE_LEVELS

__all__ = ["FoundationEnsemble", "ZeroShot", "load_foundation", "own_card", "own_zero_shot"]

WEIGHTS = Path(__file__).with_name("weights")
SHORTEST_CONTEXT = 3  # values, so that there is a scale
LOOKS = (576, 1008, 2016)  # values: 2, 3.5 and 7 days of 5 minutes
MOST_TEMPLATES = 200  # past vectors that lend the paths their ranks


@dataclass(frozen=True)
class ZeroShot:
    """A loaded model that is asked, not trained: a GlobalModel of the protocol, a local one (`local`), or plain calls.

    raw: the network. Contexts longer than it was made for lose their oldest values.
    """

    name: str
    raw: Raw

    def quantiles(self, contexts: Sequence[np.ndarray], horizon: int, levels: np.ndarray) -> np.ndarray:
        """Quantiles (n_series, horizon, n_level), sorted, in the unit of each context (n_time,), oldest value first.

        Levels that the network lacks follow from `complete_levels`. Raises SchemaError for missing values or a horizon
        beyond the network's, TooShortError for a context of less than three values.
        """
        if not 1 <= horizon <= self.raw.longest_horizon:
            raise SchemaError(
                f"{self.name}: a horizon of {horizon} steps; this model forecasts 1 to {self.raw.longest_horizon}. "
                "Use a coarser step."
            )
        checked = [_checked(f"{self.name}, series {n}", x) for n, x in enumerate(contexts)]
        known = [x[-self.raw.longest_context :] for x in checked]
        parts = [self.raw.call(known[first : first + BATCH], horizon) for first in range(0, len(known), BATCH)]
        return complete_levels(np.concatenate(parts), self.raw.levels, levels)

    def __call__(
        self, train: Mapping[str, np.ndarray], *, context: int, horizon: int, season: int, levels: np.ndarray,
        rng: np.random.Generator,
    ) -> Asked:  # fmt: skip
        """The GlobalModel of the protocol: nothing is fitted, `train`, `season` and `rng` are not read."""
        return Asked(self, context, horizon, np.asarray(levels, dtype=float))

    def local(
        self, context: np.ndarray, horizon: int, season: int, levels: np.ndarray, rng: np.random.Generator
    ) -> np.ndarray:
        """The LocalModel of the protocol: quantiles (horizon, n_level); `season` and `rng` are not read."""
        return self.quantiles([context], horizon, levels)[0]


@dataclass(frozen=True)
class Asked:
    """A zero-shot model with the horizon and levels of one protocol."""

    model: ZeroShot
    context: int
    horizon: int
    levels: np.ndarray

    def predict(self, contexts: Mapping[str, np.ndarray], *, rng: np.random.Generator) -> dict[str, np.ndarray]:
        """Quantiles (horizon, n_level) by series; `rng` is not read."""
        made = self.model.quantiles([x[-self.context :] for x in contexts.values()], self.horizon, self.levels)
        return dict(zip(contexts, made, strict=True))


def _checked(name: str, context: np.ndarray) -> np.ndarray:
    x = np.asarray(context, dtype=float)
    if x.ndim != 1 or len(x) < SHORTEST_CONTEXT:
        raise TooShortError(f"{name}: a context of shape {x.shape}; give one dimension of {SHORTEST_CONTEXT} or more.")
    if not np.isfinite(x).all():
        raise SchemaError(f"{name}: value {int(np.argmin(np.isfinite(x)))} is missing. Fill it first, and say how.")
    return x


def _step_of(index: pd.Index, frequency: str) -> pd.Timedelta:
    """The step of a regular index, which must be that of `frequency`."""
    try:
        step = pd.Timedelta(pd.tseries.frequencies.to_offset(frequency.replace("H", "h")))
    except ValueError:
        raise SchemaError(f"frequency {frequency!r}: not a fixed step. Use one such as 5min, h or D.") from None
    if not isinstance(index, pd.DatetimeIndex) or index.tz is None or len(set(np.diff(index.asi8))) != 1:
        raise SchemaError("historical data: the index must be regular and have a timezone. Use tz_localize('UTC').")
    if index[1] - index[0] != step:
        raise SchemaError(f"historical data: steps of {index[1] - index[0]}, not of {step}. Resample them first.")
    return step


def load_foundation(kind: str, place: str | Path | None = None, *, device: str | None = None) -> ZeroShot:
    """A pretrained model of others behind the adapter: kind, and a folder or a name on the hub (see `open_model`).

    device: "cpu", "cuda"; None takes a GPU when there is one (TimesFM: JAX decides). Raises SchemaError, SourceError.
    """
    return ZeroShot(kind, open_model(kind, place, device=device))


def own_card() -> dict[str, Any]:
    """What made the book's own weights: script, seed, steps, hash of the training series, time, licence.

    Example:
        >>> own_card()["script"]
        'benchmarks/pretrain_zero_shot.py'
    """
    return dict(json.loads((WEIGHTS / "card.json").read_text(encoding="utf-8")))


def own_zero_shot(folder: Path = WEIGHTS) -> ZeroShot:
    """The book's own small Chronos-2, pretrained on made-up series only, in NumPy: no extra package, no download.

    It looks at the newest 576, 1,008 and 2,016 values, and averages the three, level by level: more of the past makes a
    small network blunter on the next hours. The lengths were chosen on the validation sets of `benchmarks.zero_shot`,
    not on NAB. The folder's card.json says what made it. Raises SourceError if the folder holds no Chronos-2.

    Example:
        >>> wave = np.sin(np.arange(576) * 2 * np.pi / 288)
        >>> own_zero_shot().quantiles([wave], 288, np.array([0.1, 0.5, 0.9])).shape
        (1, 288, 3)
    """
    network = read_checkpoint(folder)

    def one(contexts: Sequence[np.ndarray], horizon: int) -> np.ndarray:
        padded = np.full((len(contexts), max(len(x) for x in contexts)), np.nan)
        for row, x in zip(padded, contexts, strict=True):
            row[-len(x) :] = x
        return network.quantiles(padded, horizon)

    def call(contexts: Sequence[np.ndarray], horizon: int) -> np.ndarray:
        longest = max(len(x) for x in contexts)
        made = [one([x[-n:] for x in contexts], horizon) for n in LOOKS if n < longest]
        made += [one(contexts, horizon)] * (len(LOOKS) - len(made))  # a look longer than the past is all of it
        return np.asarray(np.mean(made, axis=0))

    return ZeroShot("own zero-shot", Raw(call, network.levels, network.longest_context, network.longest_horizon))


class FoundationEnsemble:
    """A weighted average of zero-shot models, level by level (the average of their quantile functions).

    models: loaded ones, or kinds to load from the hub; "own" is the book's. weights: positive, made to sum to 1; None
    weighs all alike. Raises SchemaError if their numbers differ. Source of the average: Vincent (1912).

    Example:
        >>> index = pd.date_range("2026-01-05", periods=400, freq="h", tz="UTC")
        >>> past = pd.Series(10 + np.sin(np.arange(400) * 2 * np.pi / 24), index)
        >>> ensemble = FoundationEnsemble(["own"])
        >>> ensemble.predict(past, horizon=168, frequency="h", rng=np.random.default_rng(0)).quantiles.shape
        (1, 168, 15)
    """

    def __init__(self, models: Sequence[ZeroShot | str], weights: Sequence[float] | None = None) -> None:
        given = np.ones(len(models)) if weights is None else np.asarray(weights, dtype=float)
        if not len(models) or given.shape != (len(models),) or not np.isfinite(given).all() or (given <= 0).any():
            raise SchemaError(
                f"ensemble: {len(models)} models and weights {weights}. Give one positive weight a model."
            )
        self.models = [
            m if isinstance(m, ZeroShot) else own_zero_shot() if m == "own" else load_foundation(m) for m in models
        ]
        self.weights = given / given.sum()

    def quantiles(self, contexts: Sequence[np.ndarray], horizon: int, levels: np.ndarray) -> np.ndarray:
        """Quantiles (n_series, horizon, n_level), sorted. Raises as `ZeroShot.quantiles`."""
        made = [m.quantiles(contexts, horizon, levels) for m in self.models]
        return np.asarray(np.tensordot(self.weights, np.stack(made), axes=1))

    def predict(
        self, historical_data: pd.Series | pd.DataFrame, horizon: int = 168, frequency: str = "h", *,
        unit: str = "requests", levels: np.ndarray = QUANTILE_LEVELS, rng: np.random.Generator,
    ) -> Forecast:  # fmt: skip
        """A Forecast of `horizon` steps of `frequency`; `levels` hold the intervals of 50, 90 and 95 %.

        historical_data: values on a regular index of that frequency with a timezone, one column a series. The paths
        have the rank dependence of past windows, over steps and series (`Forecast.from_quantiles`). Raises SchemaError for
        another step, a missing timezone or missing values, TooShortError for less than `horizon` + 2 values.
        """
        frame = historical_data.to_frame() if isinstance(historical_data, pd.Series) else historical_data
        if len(frame) < horizon + 2:
            raise TooShortError(f"historical data: {len(frame)} values; at least {horizon + 2} for paths of {horizon}.")
        step = _step_of(frame.index, frequency)
        contexts = [_checked(str(name), values) for name, values in frame.items()]
        names = tuple(str(c) for c in frame.columns) if len(contexts) > 1 else (str(frame.columns[0] or "demand"),)
        windows = np.lib.stride_tricks.sliding_window_view(np.stack(contexts), horizon, axis=1)
        chosen = np.unique(np.linspace(0, windows.shape[1] - 1, MOST_TEMPLATES).astype(int))
        return Forecast.from_quantiles(
            self.quantiles(contexts, horizon, levels), np.asarray(levels), windows[:, chosen],
            issued_at=frame.index[-1].tz_convert("UTC"),
            step_seconds=step.total_seconds(), unit=unit, model="foundation ensemble",
            series=names, rng=rng,
        )  # fmt: skip
