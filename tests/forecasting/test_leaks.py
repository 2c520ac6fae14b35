"""No view of the future, for every model of the benchmark's table and every branch of the recommended forecaster.

What lies after a cut-off is permuted, and then replaced: forecasts from that cut-off and from those before stay the same
to the bit, and those from later cut-offs do not, so that the equality is no accident.
"""

from functools import partial

import numpy as np
import pandas as pd
import pytest

from benchmarks.forecasting import GLOBAL_MODELS, LOCAL, MEMBERS
from support.forecasting.neural.training import TrainingPlan
from support.forecasting.protocol import RollingOrigin, roll
from support.forecasting.quantile_frame import QUANTILE_LEVELS, arrays_of
from support.forecasting.recommendation import RECOMMENDED, Recommendation, recommend, recommended

SEASON, HORIZON = 12, 6
PLAN = RollingOrigin(HORIZON, HORIZON + 1, SEASON, local_context=96, global_context=48, n_windows=3)
SLOW = ("Structural", "SARIMAX(1,1,2)+Fourier", "MSTL+AutoARIMA", "AutoARIMA (m=1)")  # one series, one cut-off
SHORT = TrainingPlan(steps=4, judge_every=2, batch=8, steps_ahead=4)


def panel_of(n=150, season=SEASON, names=("a", "b")):
    rng, parts = np.random.default_rng(0), {}
    for name in names:
        wave = 50 + 9 * np.sin(np.arange(n) * 2 * np.pi / season)
        index = pd.date_range("2026-01-05", periods=n, freq="1h", tz="UTC")
        parts[name] = pd.Series(wave + rng.gamma(2, 3, n), index)
    return parts


def quantiles(panel, plan, name, *, local=None, trained=None):
    """Quantiles (n_series, n_window, horizon, n_level) of one model by the protocol; none of them a stand-in."""
    rolled = roll(
        panel, protocol=plan, local_models={name: local} if local else {},
        global_models={name: trained} if trained else None, rng=np.random.default_rng(1),
    )  # fmt: skip
    assert rolled.ledger["fallbacks"].sum() == 0, rolled.failures["reason"].unique()
    return arrays_of(rolled.frame, name).quantiles


def futures(panel, plan, window):
    """The panel with what lies after the cut-off of a window permuted, and replaced by something else altogether."""
    rng, changed = np.random.default_rng(2), ({}, {})
    for name, series in panel.items():
        cut = plan.cutoffs(len(series))[window]
        values = series.to_numpy()
        ahead = rng.permutation(values[cut:]), rng.uniform(0, 1e3, len(values) - cut)
        for one, after in zip(changed, ahead, strict=True):
            one[name] = pd.Series(np.concatenate([values[:cut], after]), series.index)
    return changed


def refuse_the_future(plan, name, *, windows=(0, 1), panel=None, **model):
    panel = panel or panel_of()
    wanted = quantiles(panel, plan, name, **model)
    for window in windows:
        for changed in futures(panel, plan, window):
            found = quantiles(changed, plan, name, **model)
            np.testing.assert_array_equal(found[:, : window + 1], wanted[:, : window + 1])
            for one, other in zip(found, wanted, strict=True):
                assert (one[window + 1 :] != other[window + 1 :]).any(axis=(1, 2)).all()


@pytest.mark.parametrize("name", list(LOCAL))
def test_local_models_of_the_table(name):
    given = {"windows": (0,), "panel": panel_of(names=("a",))} if name in SLOW else {}
    refuse_the_future(PLAN, name, local=LOCAL[name], **given)


@pytest.mark.parametrize("name", list(GLOBAL_MODELS))
def test_global_models_of_the_table(name):
    model = GLOBAL_MODELS[name]
    # nets come as partials, of several members; a few steps of training see as much as many do
    trained = partial(model, plan=SHORT, width=12, n_members=1) if isinstance(model, partial) else model
    refuse_the_future(PLAN, name, trained=trained, windows=(0,))


def test_the_table_has_the_models_it_is_said_to_have():
    assert set(MEMBERS) <= {*LOCAL, *GLOBAL_MODELS} and RECOMMENDED in LOCAL and len({*LOCAL, *GLOBAL_MODELS}) >= 25


# (past in steps, season in steps, the branch): by too few values, by too few seasons, and with enough of both
BRANCHES = [(300, 24, "hedged naive"), (500, 200, "hedged naive"), (500, 48, "analog mixture")]


@pytest.mark.parametrize(("n", "season", "branch"), BRANCHES)
def test_every_branch_that_the_length_of_the_past_chooses(n, season, branch):
    plan = RollingOrigin(24, 26, season, local_context=n, global_context=48, n_windows=3)
    panel = panel_of(n + 80, season, ("a",))
    said = recommend(panel["a"].iloc[: plan.cutoffs(n + 80)[0]].iloc[-n:], horizon=24, season=season)
    assert said.choice == branch
    refuse_the_future(plan, "branch", panel=panel, local=recommended)


@pytest.mark.parametrize("choice", ["analog mixture", "analogs", "hedged naive", "seasonal naive"])
def test_every_branch_that_the_budget_chooses(choice):
    """The branches that `recommend` falls back on when time is short, and that of a short past, each asked for a context."""

    def asked(context, horizon, season, levels, rng):
        return Recommendation(choice, "", 0.0, horizon, season, levels).quantiles(context)

    plan = RollingOrigin(24, 26, 48, local_context=500, global_context=48, n_windows=3)
    panel = panel_of(580, 48, ("a",))
    seconds = recommend(panel["a"], horizon=24, season=48).seconds
    budgets = (60, seconds / 2, 0)
    chosen = {recommend(panel["a"], horizon=24, season=48, budget_s=budget_s).choice for budget_s in budgets}
    chosen.add(recommend(panel["a"].iloc[:300], horizon=24, season=48).choice)
    assert choice in chosen
    refuse_the_future(plan, choice, panel=panel, local=asked)


@pytest.mark.parametrize("n", [130, 520])
def test_quantiles_and_paths_of_a_forecast(n):
    """A forecast issued at a cut-off of a series whose future is known to the caller, and of one whose future is another."""
    series = panel_of(n + 60, 24, ("a",))["a"]
    other = series.copy()
    other.iloc[n:] = np.random.default_rng(3).permutation(other.iloc[n:].to_numpy()) * 7
    made = [
        recommend(one.iloc[:n], horizon=12, season=24).forecast(
            one.iloc[:n], unit="u", rng=np.random.default_rng(0), n_draws=40
        )
        for one in (series, other)
    ]
    np.testing.assert_array_equal(made[0].quantiles, made[1].quantiles)
    np.testing.assert_array_equal(made[0].paths, made[1].paths)
    assert made[0].issued_at == series.index[n - 1]
    later = recommend(other.iloc[: n + 13], horizon=12, season=24).forecast(
        other.iloc[: n + 13], unit="u", rng=np.random.default_rng(0), n_draws=40
    )
    assert (later.quantiles != made[0].quantiles).any() and made[0].quantiles.shape[2] == len(QUANTILE_LEVELS)
