"""The rolling-origin protocol: windows that do not overlap, the past only, failures counted and never silent."""

import warnings

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from support.errors import SchemaError, TooShortError
from support.forecasting.local_models import seasonal_naive_empirical
from support.forecasting.protocol import RollingOrigin, roll
from support.forecasting.quantile_frame import arrays_of

PLAN = RollingOrigin(horizon=6, step=8, season=12, local_context=48, global_context=24, n_windows=3)
LEVELS = np.array([0.05, 0.25, 0.5, 0.75, 0.95])


def panel_of(lengths=(120, 97), seed=0):
    rng = np.random.default_rng(seed)
    return {
        f"s{k}": pd.Series(
            rng.gamma(3, 5, n) + 9 * np.sin(np.arange(n) * 2 * np.pi / 12),
            pd.date_range("2026-01-01", periods=n, freq="5min", tz="UTC"),
        )
        for k, n in enumerate(lengths)
    }


def run(panel, local=None, trained=None, seed=0, **options):
    return roll(
        panel, protocol=PLAN, local_models=local or {}, global_models=trained, levels=LEVELS,
        rng=np.random.default_rng(seed), **options,
    )  # fmt: skip


def flat(context, horizon, season, levels, rng):
    return np.quantile(context, levels) + np.zeros((horizon, 1))


class Watcher:
    """A local model that notes what it is given."""

    def __init__(self):
        self.seen = []

    def __call__(self, context, horizon, season, levels, rng):
        self.seen.append(context.copy())
        context[:] = -1e9  # a model that scribbles on its input must not harm the others
        return np.zeros((horizon, len(levels)))


class Trained:
    """A global model, fit and forecast in one, that notes what it is given and fails where told."""

    def __init__(self, fails_on=()):
        self.trains, self.contexts, self.fails_on = [], [], fails_on

    def __call__(self, train, *, context, horizon, season, levels, rng):
        self.trains.append({name: x.copy() for name, x in train.items()})
        assert context == PLAN.global_context
        self.shape = horizon, len(levels)
        return self

    def predict(self, contexts, *, rng):
        self.contexts.append({name: x.copy() for name, x in contexts.items()})
        if set(self.fails_on) & set(contexts):
            raise FloatingPointError("overflow")
        return {name: np.full(self.shape, x[-1]) for name, x in contexts.items()}


@pytest.mark.parametrize("step", [1, 5])
def test_a_step_below_the_horizon_is_refused(step):
    with pytest.raises(SchemaError, match=f"step of {step} is shorter than the horizon of 6.*at least 6"):
        RollingOrigin(horizon=6, step=step, season=12, local_context=48, global_context=24)


@pytest.mark.parametrize("name", ["horizon", "season", "global_context", "n_windows"])
def test_nonsense_is_refused(name):
    given = {"horizon": 6, "step": 8, "season": 12, "local_context": 48, "global_context": 24, "n_windows": 2}
    with pytest.raises(SchemaError, match=f"{name} is 0"):
        RollingOrigin(**given | {name: 0})
    with pytest.raises(SchemaError, match="no longer than the season"):
        RollingOrigin(**given | {"local_context": 12})


@given(st.integers(1, 20), st.integers(0, 20), st.integers(1, 8), st.integers(1, 30), st.integers(0, 400))
def test_windows_are_disjoint_and_end_with_the_series(horizon, more, n_windows, season, n_time):
    plan = RollingOrigin(horizon, horizon + more, season, season + 1, 1, n_windows)
    try:
        cuts = plan.cutoffs(n_time)
    except TooShortError as error:
        need = int(str(error).split("at least ")[1].split()[0])
        assert n_time < need and plan.cutoffs(need)[0] == season + 1
        return
    assert len(cuts) == n_windows and cuts[-1] + horizon == n_time and cuts[0] > season
    windows = [t for c in cuts for t in range(c, c + horizon)]
    assert len(set(windows)) == len(windows)


def test_local_models_are_fitted_at_each_cutoff_on_the_newest_past():
    panel, watcher = panel_of(), Watcher()
    frame = run(panel, {"watcher": watcher, "flat": flat}).frame
    wanted = [s.to_numpy()[c - 48 : c] for s in panel.values() for c in PLAN.cutoffs(len(s))]
    assert len(watcher.seen) == len(wanted) == 6
    for seen, past in zip(watcher.seen, wanted, strict=True):
        np.testing.assert_array_equal(seen, past)
    made = arrays_of(frame, "flat")
    for k, past in enumerate(wanted):  # untouched by the model before it
        np.testing.assert_array_equal(made.quantiles[k // 3, k % 3, 0], np.quantile(past, LEVELS))


def test_global_models_are_trained_once_before_the_first_cutoffs():
    panel, model = panel_of(), Trained()
    rolled = run(panel, trained={"g": model})
    assert len(model.trains) == 1 and len(model.contexts) == 3 and rolled.ledger.loc["g", "fallbacks"] == 0
    for name, series in panel.items():
        cuts = PLAN.cutoffs(len(series))
        np.testing.assert_array_equal(model.trains[0][name], series.to_numpy()[: cuts[0]])
        for window, cut in enumerate(cuts):
            np.testing.assert_array_equal(model.contexts[window][name], series.to_numpy()[cut - 24 : cut])


def test_frame_holds_the_observations_of_the_panel():
    panel = panel_of()
    frame = run(panel, {"flat": flat}, {"g": Trained()}).frame
    assert len(frame) == 2 * 2 * 3 * 6 and (frame["ds"] > frame["cutoff"]).all()
    for row in frame.sample(20, random_state=0).itertuples():
        assert row.y == panel[row.unique_id].loc[row.ds]
        assert row.ds == row.cutoff + row.h * pd.Timedelta("5min")
    assert frame["ds"].max() == max(s.index[-1] for s in panel.values())


@pytest.mark.parametrize(
    ("reason", "fail"),
    [
        ("ValueError: no convergence", ValueError("no convergence")),
        ("FloatingPointError: overflow", FloatingPointError("overflow")),
        ("LinAlgError: singular", np.linalg.LinAlgError("singular")),
        ("not finite", np.nan),
        ("not finite", np.inf),
    ],
)
def test_fallbacks_of_local_models_are_counted_and_are_seasonal_naive(reason, fail):
    panel = panel_of()
    bad = panel["s1"].to_numpy()

    def fails_on_s1(context, horizon, season, levels, rng):
        if context[0] in bad:
            if isinstance(fail, Exception):
                raise fail
            return np.full((horizon, len(levels)), fail)
        return flat(context, horizon, season, levels, rng)

    rolled = run(panel, {"flaky": fails_on_s1, "base": seasonal_naive_empirical})
    assert rolled.ledger["fallbacks"].to_dict() == {"flaky": 3, "base": 0}
    assert rolled.ledger["forecasts"].tolist() == [6, 6]
    assert set(rolled.failures["unique_id"]) == {"s1"} and rolled.failures["reason"].str.contains(reason).all()
    cuts = PLAN.cutoffs(len(bad))
    assert rolled.failures["cutoff"].tolist() == list(panel["s1"].index[cuts - 1])
    flaky, base = (arrays_of(rolled.frame, m).quantiles for m in ("flaky", "base"))
    np.testing.assert_array_equal(flaky[1], base[1])
    assert (flaky[0] != base[0]).any()


def test_fallbacks_of_global_models():
    panel = panel_of()

    def untrainable(train, **_):
        raise TooShortError("too few windows")

    rolled = run(panel, {"base": seasonal_naive_empirical}, {"one": Trained(["s0"]), "none": untrainable})
    assert rolled.ledger["fallbacks"].to_dict() == {"base": 0, "one": 3, "none": 6}
    base, one, none = (arrays_of(rolled.frame, m).quantiles for m in ("base", "one", "none"))
    np.testing.assert_array_equal(none, base)
    np.testing.assert_array_equal(one[0], base[0])
    last = panel["s1"].to_numpy()[PLAN.cutoffs(97) - 1]
    np.testing.assert_array_equal(one[1], np.broadcast_to(last[:, None, None], one[1].shape))
    reasons = rolled.failures.groupby("model")["reason"].unique()
    assert reasons["none"].tolist() == ["fit: too few windows"]
    assert reasons["one"].tolist() == ["FloatingPointError: overflow"]


def test_bugs_are_no_fallbacks():
    def buggy(context, *_):
        raise KeyError("a bug")

    with pytest.raises(KeyError):
        run(panel_of(), {"buggy": buggy})
    with pytest.raises(SchemaError, match=r"wrong: quantiles have shape \(6, 2\), wanted .*\(6, 5\)"):
        run(panel_of(), {"wrong": lambda c, h, *_: np.zeros((h, 2))})
    with pytest.raises(SchemaError, match="quantiles cross"):
        run(panel_of(), {"crossing": lambda c, h, s, q, r: np.zeros((h, 1)) - q})


def test_warnings_are_counted_not_shown():
    def worried(context, horizon, season, levels, rng):
        warnings.warn("did not converge", RuntimeWarning, stacklevel=2)
        return flat(context, horizon, season, levels, rng)

    ledger = run(panel_of(), {"worried": worried, "flat": flat}).ledger
    assert ledger["warnings"].to_dict() == {"worried": 6, "flat": 0} and (ledger["cpu_s"] >= 0).all()


def test_random_streams_depend_on_names_alone():
    def noisy(context, horizon, season, levels, rng):
        return np.sort(rng.normal(size=(horizon, len(levels))), axis=1)

    panel = panel_of()
    alone = run({"s1": panel["s1"]}, {"noisy": noisy}).frame
    among = run(panel, {"flat": flat, "noisy": noisy}).frame
    same = among[(among["model"] == "noisy") & (among["unique_id"] == "s1")].reset_index(drop=True)
    pd.testing.assert_frame_equal(alone, same)
    windows = arrays_of(among, "noisy").quantiles.reshape(6, -1)
    assert len(np.unique(windows[:, 0])) == 6
    other = run({"s1": panel["s1"]}, {"noisy": noisy}, seed=1).frame
    assert (alone["q0.5"] != other["q0.5"]).all()


def test_progress_names_the_model_and_its_fallbacks():
    lines = []
    run(panel_of(), {"flat": flat}, {"g": Trained(["s0"])}, progress=lines.append)
    assert [line.split(":")[0] for line in lines] == ["flat", "g"]
    assert "fallbacks 0" in lines[0] and "fallbacks 3" in lines[1]


@pytest.mark.parametrize(
    ("match", "change"),
    [
        ("no timezone", lambda s: s.tz_localize(None)),
        ("not regular", lambda s: s.drop(s.index[5])),
        ("not regular", lambda s: s[::-1]),
        (r"2026-01-01 00:25:00\+00:00 is missing", lambda s: s.where(s.index != s.index[5])),
    ],
)
def test_a_panel_that_is_not_clean_is_refused(match, change):
    panel = panel_of()
    with pytest.raises(SchemaError, match=f"s0: .*{match}"):
        run(panel | {"s0": change(panel["s0"])}, {"flat": flat})


def test_what_cannot_be_run_is_refused():
    with pytest.raises(SchemaError, match="no series"):
        run({}, {"flat": flat})
    with pytest.raises(SchemaError, match=r"\['flat'\] are both local and global"):
        run(panel_of(), {"flat": flat}, {"flat": Trained()})
    with pytest.raises(TooShortError, match="30 values; at least 35 are needed"):
        run(panel_of((120, 30)), {"flat": flat})
