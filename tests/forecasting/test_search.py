"""The search finds a known optimum, sees the past only, prunes, keeps its budget and goes on where it was left."""

import time
from dataclasses import dataclass

import numpy as np
import optuna
import pandas as pd
import pytest

from support.errors import BookError, SchemaError, TooShortError
from support.forecasting.linear import fit_rvfl
from support.forecasting.local_models import seasonal_naive_empirical
from support.forecasting.metrics import pinball
from support.forecasting.search import search

LEVELS = np.array([0.1, 0.5, 0.9])
KEYS = {"context": 24, "horizon": 6, "season": 12, "levels": LEVELS}


def train_of(sizes=(200, 120)):
    return {
        f"s{k}": np.sin(np.arange(n) * 2 * np.pi / 12) + 0.5 * np.random.default_rng(k).normal(size=n)
        for k, n in enumerate(sizes)
    }


@dataclass(frozen=True)
class Known:
    """Normal quantiles about the seasonal mean, moved by `shift` and as wide as `width`: the best are 0 and 0.5."""

    means: dict
    horizon: int
    levels: np.ndarray
    shift: float
    width: float

    def predict(self, contexts, *, rng):
        from scipy.stats import norm

        return {name: self.means[name][:, None] + self.shift + self.width * norm.ppf(self.levels) for name in contexts}


def fit_known(train, *, context, horizon, season, levels, rng, shift=1.0, width=2.0, pause=0.0, broken=0.0):
    time.sleep(pause)
    if broken > 0.5:
        raise ValueError("made to fail")
    ahead = {name: (len(x) + np.arange(horizon)) for name, x in train.items()}
    means = {name: np.sin(t * 2 * np.pi / season) for name, t in ahead.items()}
    return Known(means, horizon, levels, shift, width)


def run(space, fit=fit_known, seed=0, **rest):
    return search(fit, space, train_of(), **KEYS, rng=np.random.default_rng(seed), **{"budget_s": 60, **rest})


def test_a_known_optimum_is_found_from_defaults_that_are_far():
    space = {"shift": (-2.0, 2.0), "width": (0.05, 5.0, "log")}
    found = run(space, n_trials=60)
    assert abs(found.best["shift"]) < 0.35 and 0.2 < found.best["width"] < 1.2
    first = found.trials.iloc[0]
    assert first["shift"] == 1.0 and first["width"] == 2.0 and found.loss < 0.7 * first["loss"]
    assert len(found.trials) == 60 and set(found.best) == set(space)
    assert found.loss == found.trials.loc[found.trials["state"] == "COMPLETE", "loss"].min()
    assert (found.trials["seconds"] >= 0).all() and found.trials["reason"].isna().all()


def test_the_loss_is_the_relative_quantile_loss_of_the_last_horizons():
    found, train = run({"shift": (0.5, 1.5)}, n_trials=1, n_windows=3), train_of()
    logs = []
    for window in (1, 2, 3):
        ratios = []
        for x in train.values():
            past, seen = x[: len(x) - 6 * window], x[len(x) - 6 * window :][:6]
            model = fit_known({"a": past}, **KEYS, rng=None)
            own = pinball(seen, model.predict({"a": past}, rng=None)["a"], LEVELS).mean()
            base = seasonal_naive_empirical(past, 6, 12, LEVELS, np.random.default_rng(0))
            ratios.append(own / pinball(seen, base, LEVELS).mean())
        logs.append(np.log(ratios).mean())
    assert found.loss == pytest.approx(np.exp(np.mean(logs)), rel=1e-12)
    assert found.best == {"shift": 1.0}


def test_a_model_never_sees_the_window_it_is_judged_on():
    train, seen = train_of(), []

    def fit_spy(train, **rest):
        seen.append({name: x.copy() for name, x in train.items()})
        return fit_known(train, **rest)

    search(fit_spy, {"shift": (0.0, 1.0)}, train, **KEYS, rng=np.random.default_rng(0), n_trials=1, n_windows=3)
    assert len(seen) == 3
    for window, past in enumerate(seen, start=1):
        for name, x in train.items():
            np.testing.assert_array_equal(past[name], x[: len(x) - 6 * window])


def test_in_two_pieces_as_in_one(tmp_path):
    space = {"shift": (-2.0, 2.0), "width": (0.05, 5.0, "log"), "pause": [0.0, 0.001]}
    whole = run(space, n_trials=14)
    run(space, n_trials=5, storage=tmp_path / "log")
    pieces = run(space, n_trials=14, storage=tmp_path / "log")
    pd.testing.assert_frame_equal(
        pieces.trials.drop(columns="seconds"), whole.trials.drop(columns="seconds"), check_exact=True
    )
    assert pieces.best == whole.best
    assert len(run(space, n_trials=14, storage=tmp_path / "log").trials) == 14  # nothing is left to do


def test_after_an_interruption_the_lost_trial_is_run_again(tmp_path):
    space, calls = {"shift": (-2.0, 2.0), "width": (0.05, 5.0, "log")}, []

    def fit_plain(train, **rest):
        return fit_known(train, **rest)

    def fit_interrupted(train, **rest):
        calls.append(rest)
        if len(calls) == 8:
            raise KeyboardInterrupt
        return fit_known(train, **rest)

    with pytest.raises(KeyboardInterrupt):
        run(space, fit_interrupted, n_trials=10, storage=tmp_path / "log")
    assert len(calls) == 8
    again = run(space, fit_interrupted, n_trials=10, storage=tmp_path / "log")
    whole = run(space, fit_plain, n_trials=10)
    lost = again.trials[again.trials["reason"] == "interrupted"]
    assert len(lost) == 1 and lost["state"].item() == "FAIL"
    kept = again.trials.drop(index=lost.index)
    assert lost["shift"].item() in kept["shift"].to_numpy()
    np.testing.assert_array_equal(kept["shift"], whole.trials["shift"])
    assert again.best == whole.best


def test_the_budget_is_kept_and_the_next_call_goes_on(tmp_path):
    space = {"shift": (-2.0, 2.0)}

    def fit_slow(train, **rest):
        return fit_known(train, **rest, pause=0.1)

    began = time.monotonic()
    short = run(space, fit_slow, n_trials=1000, budget_s=1.0, storage=tmp_path / "log")
    spent = time.monotonic() - began
    assert spent < 1.0 + 1.0  # a window of a tenth of a second, and the imports and the file of a busy machine
    done = (short.trials["state"] == "COMPLETE").sum()
    assert 1 <= done <= 4  # three windows of a tenth of a second each
    later = run(space, fit_slow, n_trials=done + 1, budget_s=60, storage=tmp_path / "log")
    assert later.trials["state"].isin(["COMPLETE", "PRUNED"]).sum() == done + 1
    cut = short.trials[short.trials["reason"] == "out of time"]
    for value in cut["shift"]:
        assert (later.trials["shift"] == value).sum() == 2  # once cut off, once run again


@pytest.mark.parametrize("pruner", [None, optuna.pruners.HyperbandPruner(1, 3, reduction_factor=2)])
def test_bad_trials_are_pruned_before_their_last_window(pruner):
    calls = []

    def fit_counted(train, **rest):
        calls.append(1)
        return fit_known(train, **rest)

    found = run({"shift": (-20.0, 20.0)}, fit_counted, n_trials=30, pruner=pruner)
    pruned = found.trials[found.trials["state"] == "PRUNED"]
    assert len(pruned) >= 3 and (pruned["windows"] < 3).all()
    assert len(calls) == found.trials["windows"].sum() < 90
    complete = found.trials[found.trials["state"] == "COMPLETE"]
    assert pruned["loss"].median() > complete["loss"].median()


def test_failed_trials_are_counted_with_their_reason():
    found = run({"broken": (0.0, 1.0)}, n_trials=12)
    failed = found.trials[found.trials["state"] == "FAIL"]
    assert len(found.trials) == 12 and 1 <= len(failed) < 12
    assert (failed["reason"] == "ValueError: made to fail").all() and found.best["broken"] <= 0.5
    with pytest.raises(BookError, match="no trial finished.*made to fail"):
        run({"broken": (0.6, 1.0)}, n_trials=3)


def test_a_real_model_and_quiet(capfd, caplog):
    before = optuna.logging.get_verbosity()
    found = run({"n_nodes": (1, 40)}, fit_rvfl, n_trials=3)
    assert 1 <= found.best["n_nodes"] <= 40 and found.loss < 1
    out, err = capfd.readouterr()
    assert out == err == "" and not caplog.records and optuna.logging.get_verbosity() == before


def test_same_seed_same_search():
    one, two, other = (run({"shift": (-2.0, 2.0)}, seed=s, n_trials=6).trials["shift"] for s in (0, 0, 1))
    np.testing.assert_array_equal(one, two)
    assert (one[1:] != other[1:]).all()


def test_what_does_not_fit_is_refused(tmp_path):
    run({"shift": (-2.0, 2.0)}, n_trials=1, storage=tmp_path / "log")
    with pytest.raises(SchemaError, match="holds a search of other data"):
        run({"shift": (-1.0, 2.0)}, n_trials=1, storage=tmp_path / "log")
    with pytest.raises(SchemaError, match="holds a search of other data"):
        run({"shift": (-2.0, 2.0)}, n_trials=1, storage=tmp_path / "log", seed=1)
    for space, words in (
        ({}, "give a space"), ({"shift": (2.0, 1.0)}, "must rise"), ({"shift": (0.0, 1.0, "log")}, "above 0"),
        ({"shift": (0.0, 1.0, "lin")}, "list of choices"), ({"shift": ("a", "b")}, "list of choices"),
    ):  # fmt: skip
        with pytest.raises(SchemaError, match=words):
            run(space, n_trials=1)
    with pytest.raises(TooShortError, match="no series has 42 values"):
        search(fit_known, {"shift": (0.0, 1.0)}, train_of((41, 30)), **KEYS, rng=np.random.default_rng(0))
