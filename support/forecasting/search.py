"""Hyperparameters of a global forecaster by Optuna: judged on the past alone, pruned, within a budget, resumable."""

from __future__ import annotations

import inspect
import time
import warnings
import zlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    distribution_to_json,
)
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from support.errors import BookError, SchemaError, TooShortError
from support.forecasting.local_models import seasonal_naive_empirical
from support.forecasting.metrics import pinball
from support.forecasting.protocol import FAILURES, GlobalModel
from support.forecasting.scores import RATIO_BOUNDS

__all__ = ["Searched", "search"]

VALIDATION_WINDOWS = 3  # the last horizons of the past
STARTUP_TRIALS = 5  # before the median of what was tried prunes
OUT_OF_TIME, INTERRUPTED = RUN_AGAIN = ("out of time", "interrupted")
STUDY = "search"
Range: TypeAlias = Sequence[Any] | BaseDistribution


@dataclass(frozen=True)
class Searched:
    """What a search found.

    best: the hyperparameters to hand to the model. loss: their quantile loss relative to seasonal naive. trials: one
    row a trial: number, state, loss (so far, if pruned), windows (judged), seconds, reason (of a failure), and the
    hyperparameters.
    """

    best: dict[str, Any]
    loss: float
    trials: pd.DataFrame


def search(
    fit: GlobalModel, space: Mapping[str, Range], train: Mapping[str, np.ndarray], *, context: int, horizon: int,
    season: int, levels: np.ndarray, rng: np.random.Generator, budget_s: float = 60.0, n_trials: int = 50,
    storage: Path | str | None = None, n_windows: int = VALIDATION_WINDOWS,
    pruner: optuna.pruners.BasePruner | None = None,
) -> Searched:  # fmt: skip
    """The hyperparameters of `fit` with the least relative quantile loss on the last horizons of `train`.

    space: by keyword of `fit`, (low, high), whole numbers if both are, (low, high, "log"), a list of choices, or a
    distribution of Optuna. Loss of a trial: geometric mean, over series and `n_windows` windows that end the past, of
    the pinball loss over that of seasonal naive with empirical quantiles; the model is fitted anew before each window,
    newest first, and given up as soon as `pruner` says so (the median of the trials so far, if none is named).
    budget_s: wall seconds, checked after every window; a trial it cuts off is the first of the next call. n_trials: in
    all, those stored before among them. storage: a file; the same call with the same seed goes on where it was left,
    and gives what it would have given in one piece. The first trial takes the defaults of `fit`, if they lie in the
    space. Raises SchemaError for a space or storage that does not fit, TooShortError if no series has the windows,
    BookError if no trial finishes. Source: Akiba et al. (2019), KDD; Bergstra et al. (2011), NeurIPS (the sampler).

    Example:
        >>> from support.forecasting.linear import fit_rvfl
        >>> wave = np.sin(np.arange(200) * 2 * np.pi / 12) + np.random.default_rng(0).normal(size=200) / 9
        >>> found = search(fit_rvfl, {"n_nodes": (1, 9)}, {"a": wave}, context=24, horizon=6, season=12,
        ...                levels=np.array([0.1, 0.5, 0.9]), rng=np.random.default_rng(0), n_trials=2)
        >>> list(found.best), len(found.trials)
        (['n_nodes'], 2)
    """
    began, entropy = time.monotonic(), int(rng.integers(2**31))
    if not space or n_trials < 1 or n_windows < 1:
        raise SchemaError("search: give a space, and at least one trial and one window.")
    distributions = {name: _distribution(name, given) for name, given in space.items()}
    series = {name: np.asarray(x, dtype=float) for name, x in train.items()}
    judge = _Judge(fit, series, context, horizon, season, np.asarray(levels, dtype=float), entropy, n_windows)
    with _quiet():
        study = _study(storage, judge.signature(distributions))
        study.pruner = pruner or optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS)
        if not study.trials and (start := _defaults(fit, distributions)):
            study.enqueue_trial(start)
        while _finished(study) < n_trials and time.monotonic() - began < budget_s:
            # a sampler a trial, so that a search in two pieces draws as one in one piece would
            study.sampler = optuna.samplers.TPESampler(seed=entropy + _finished(study))
            _run(study, distributions, judge, began + budget_s)
        trials = _table(study)
        if trials.empty or not (trials["state"] == TrialState.COMPLETE.name).any():
            reasons = [] if trials.empty else sorted(set(trials["reason"].dropna()))
            raise BookError(f"search: no trial finished within {budget_s:g} s. Give more time. Failures: {reasons}.")
        return Searched(dict(study.best_params), float(study.best_value), trials)


@dataclass(frozen=True)
class _Judge:
    """Fits a model with given hyperparameters before one of the last windows of the past, and scores it there."""

    fit: GlobalModel
    series: dict[str, np.ndarray]
    context: int
    horizon: int
    season: int
    levels: np.ndarray
    entropy: int
    n_windows: int

    def __post_init__(self) -> None:
        least = max(self.context, self.season + 1) + self.n_windows * self.horizon
        if max((len(x) for x in self.series.values()), default=0) < least:
            raise TooShortError(
                f"search: no series has {least} values, for {self.n_windows} windows of {self.horizon} steps and what "
                "a model sees before them. Use fewer windows."
            )

    def __call__(self, parameters: dict[str, Any], window: int) -> float:
        """Geometric mean over series of the loss over seasonal naive's, `window` horizons before the end."""
        past = {name: x[: -window * self.horizon] for name, x in self.series.items() if len(x) > window * self.horizon}
        shape: dict[str, Any] = {"horizon": self.horizon, "season": self.season, "levels": self.levels}
        stream = [self.entropy, window]  # the same for all trials: they differ by their hyperparameters alone
        model = self.fit(past, context=self.context, **shape, rng=np.random.default_rng(stream), **parameters)
        known = {name: x[-self.context :] for name, x in past.items() if len(x) >= max(self.context, self.season + 1)}
        forecasts = model.predict(known, rng=np.random.default_rng(stream))
        ratios = []
        for name, quantiles in forecasts.items():
            if not np.isfinite(quantiles).all():
                raise ValueError(f"{name}: the forecast is not finite")
            cut = len(past[name])
            seen = self.series[name][cut : cut + self.horizon]
            base = seasonal_naive_empirical(past[name], **shape, rng=np.random.default_rng(stream))
            own, its = (pinball(seen, q, self.levels).mean() for q in (quantiles, base))
            ratios.append(own / its if its > 0 else RATIO_BOUNDS[1] if own > 0 else 1.0)
        return float(np.exp(np.log(np.clip(ratios, *RATIO_BOUNDS)).mean()))

    def signature(self, distributions: dict[str, BaseDistribution]) -> str:
        """What must be the same for stored trials to be of the same search."""
        inner = getattr(self.fit, "func", self.fit)  # of a partial
        name = (getattr(inner, "__qualname__", type(inner).__name__), repr(getattr(self.fit, "keywords", {})))
        data = {key: zlib.crc32(x.tobytes()) for key, x in self.series.items()}
        spaces = {key: distribution_to_json(d) for key, d in distributions.items()}
        shape = (self.context, self.horizon, self.season, self.n_windows, self.levels.tolist())
        return repr((name, shape, self.entropy, spaces, data))


def _run(study: optuna.Study, distributions: dict[str, BaseDistribution], judge: _Judge, deadline: float) -> None:
    """One trial: until its windows are judged, it is pruned, it fails, or time is up and it waits for the next call."""
    trial = study.ask(distributions)
    began, found, reason = time.monotonic(), [], ""
    state = TrialState.COMPLETE
    try:
        for window in range(1, judge.n_windows + 1):
            if window > 1 and time.monotonic() > deadline:
                state, reason = TrialState.FAIL, OUT_OF_TIME
                study.enqueue_trial(trial.params)
                break
            found.append(np.log(judge(trial.params, window)))
            trial.report(float(np.exp(np.mean(found))), window)
            if window < judge.n_windows and trial.should_prune():
                state = TrialState.PRUNED
                break
    except FAILURES as error:
        state, reason = TrialState.FAIL, f"{type(error).__name__}: {error}"
    trial.set_user_attr("seconds", time.monotonic() - began)
    trial.set_user_attr("reason", reason)
    study.tell(trial, float(np.exp(np.mean(found))) if state == TrialState.COMPLETE else None, state)


def _finished(study: optuna.Study) -> int:
    """Trials that need not be run again: all but those that wait, were interrupted or ran out of time."""
    return sum(t.state.is_finished() and _reason(t) not in RUN_AGAIN for t in study.get_trials(deepcopy=False))


def _reason(trial: optuna.trial.FrozenTrial) -> str:
    return str(trial.user_attrs.get("reason", INTERRUPTED if trial.state == TrialState.FAIL else ""))


def _study(storage: Path | str | None, signature: str) -> optuna.Study:
    """A new study, or the stored one, whose interrupted trials wait to be run again."""
    kept = None if storage is None else optuna.storages.JournalStorage(JournalFileBackend(str(storage)))
    study = optuna.create_study(storage=kept, study_name=STUDY, load_if_exists=True)
    if study.user_attrs.setdefault("signature", signature) != signature:
        raise SchemaError(f"{storage}: holds a search of other data, space, seed or model. Name another file.")
    study.set_user_attr("signature", signature)
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    return study


def _defaults(fit: GlobalModel, distributions: dict[str, BaseDistribution]) -> dict[str, Any]:
    """Defaults of the hyperparameters of `fit`, those that lie in the space."""
    known = inspect.signature(fit).parameters
    found = {name: known[name].default for name in distributions if name in known}
    return {name: value for name, value in found.items() if _holds(distributions[name], value)}


def _holds(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    return isinstance(value, int | float) and distribution.low <= value <= distribution.high


def _distribution(name: str, given: Range) -> BaseDistribution:
    if isinstance(given, BaseDistribution):
        return given
    if isinstance(given, list):
        return CategoricalDistribution(given)
    bounds, log = tuple(given[:2]), list(given[2:]) == ["log"]
    if len(bounds) < 2 or not (log or len(given) == 2) or not all(isinstance(b, int | float) for b in bounds):
        raise SchemaError(f'search: {name} is {given!r}. Give (low, high), (low, high, "log") or a list of choices.')
    low, high = bounds
    if not low < high or (log and low <= 0):
        raise SchemaError(
            f"search: {name} goes from {low} to {high}; it must rise, and from above 0 if on a log scale."
        )
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=log)
    return FloatDistribution(low, high, log=log)


def _table(study: optuna.Study) -> pd.DataFrame:
    rows = []
    for trial in study.get_trials(deepcopy=False):
        if trial.state == TrialState.WAITING:
            continue  # for the next call
        seen = trial.intermediate_values
        rows.append(
            {"number": trial.number, "state": trial.state.name, "loss": seen[max(seen)] if seen else np.nan}
            | {"windows": len(seen), "seconds": trial.user_attrs.get("seconds", np.nan)}
            | {"reason": _reason(trial) or None}
            | trial.params
        )
    return pd.DataFrame(rows)


@contextmanager
def _quiet() -> Iterator[None]:
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
