"""Deep, decomposed and ensemble RVFL: closed form against scikit-learn, an average that is one, and modes that add up."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import Ridge

from support.errors import SchemaError
from support.forecasting.emd import decompose
from support.forecasting.linear import fit_deep_rvfl, fit_emd_rvfl, fit_rvfl, fit_rvfl_ensemble
from support.forecasting.quantile_frame import QUANTILE_LEVELS
from support.forecasting.windows import training_windows

KEYS = {"context": 24, "horizon": 6, "season": 12, "levels": QUANTILE_LEVELS}


def train_of():
    rng = np.random.default_rng(0)
    return {f"s{k}": 5 * k + np.sin(np.arange(200) * 2 * np.pi / 12 + k) + 0.3 * rng.normal(size=200) for k in range(2)}


def test_deep_rvfl_solves_the_ridge_of_all_its_layers():
    train = train_of()
    model = fit_deep_rvfl(train, **KEYS, rng=np.random.default_rng(1), n_nodes=20, n_layers=3)
    windows = training_windows(train, 24, 6)
    first = np.tanh(windows.inputs @ model.hidden[:24] + model.hidden[24])
    second = np.tanh(np.hstack([windows.inputs, first]) @ model.deeper[0][:44] + model.deeper[0][44])
    third = np.tanh(np.hstack([windows.inputs, second]) @ model.deeper[1][:44] + model.deeper[1][44])
    theirs = Ridge(alpha=model.penalty).fit(np.hstack([windows.inputs, first, second, third]), windows.targets)
    np.testing.assert_allclose(model.coefficients, theirs.coef_.T, rtol=1e-6, atol=1e-8)
    np.testing.assert_allclose(model.intercept, theirs.intercept_, rtol=1e-6, atol=1e-8)
    found = model.predict(train, rng=np.random.default_rng(0))["s1"]
    assert found.shape == (6, 15) and (np.diff(found, axis=1) >= 0).all()


def test_one_layer_is_the_plain_rvfl():
    train = train_of()
    one, plain = (
        fit(train, **KEYS, rng=np.random.default_rng(2), n_nodes=20, **more)
        for fit, more in ((fit_deep_rvfl, {"n_layers": 1}), (fit_rvfl, {}))
    )
    np.testing.assert_array_equal(one.coefficients, plain.coefficients)


def test_an_ensemble_is_the_mean_of_members_that_differ_and_its_loss_is_no_more_than_theirs():
    train = train_of()
    model = fit_rvfl_ensemble(train, **KEYS, rng=np.random.default_rng(3), n_nodes=20, n_members=3)
    again = fit_rvfl_ensemble(train, **KEYS, rng=np.random.default_rng(3), n_nodes=20, n_members=3)
    each = [m.predict(train, rng=np.random.default_rng(0))["s0"] for m in model.members]
    found = model.predict(train, rng=np.random.default_rng(0))["s0"]
    np.testing.assert_allclose(found, (each[0] + each[1] + each[2]) / 3, rtol=1e-12)
    np.testing.assert_array_equal(found, again.predict(train, rng=np.random.default_rng(0))["s0"])
    apart = model.by_member(train, rng=np.random.default_rng(0))
    assert apart.shape == (3, 2, 6, 15)
    np.testing.assert_array_equal(apart[:, 0], each)
    assert (each[0] != each[1]).any() and (np.diff(found, axis=1) >= 0).all()


def test_two_oscillations_and_a_trend_are_told_apart():
    t = np.arange(400)
    fast, slow, trend = np.sin(t * 2 * np.pi / 10), 3 * np.sin(t * 2 * np.pi / 80), t / 100
    found = decompose(fast + slow + trend, 3)
    inner = slice(40, 360)  # the ends are guesses
    for made, wanted in ((found[0], fast), (found[1], slow)):
        assert np.corrcoef(made[inner], wanted[inner])[0, 1] > 0.98
    rest = (found[2] + found[3])[inner]
    assert np.corrcoef(rest, trend[inner])[0, 1] > 0.95


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(-1000, 1000), min_size=1, max_size=80), st.integers(1, 4))
def test_modes_add_up_and_carry_on_with_the_unit(values, n_modes):
    x = np.array(values, dtype=float)
    found = decompose(x, n_modes)
    assert found.shape == (n_modes + 1, len(x))
    np.testing.assert_allclose(found.sum(axis=0), x, atol=1e-6 * (1 + np.abs(found).max()))
    np.testing.assert_allclose(decompose(8 * x, n_modes), 8 * found, atol=1e-6 * (1 + np.abs(found).max()))
    both = decompose(np.stack([x, x[::-1]]), n_modes)
    np.testing.assert_array_equal(both[0], found)


def test_what_does_not_oscillate_has_no_mode():
    for still in (np.full(50, 3.0), np.arange(50.0), np.array([1.0]), np.array([0.0, 1.0, 0.0])):
        found = decompose(still, 2)
        np.testing.assert_array_equal(found[-1], still)
        assert (found[:-1] == 0).all()


def test_emd_rvfl_solves_the_ridge_of_nodes_on_the_modes_of_each_window():
    train = train_of()
    model = fit_emd_rvfl(train, **KEYS, rng=np.random.default_rng(1), n_nodes=10, n_modes=2)
    windows = training_windows(train, 24, 6)
    parts = np.stack([decompose(row, 2) for row in windows.inputs])
    nodes = []
    for node in range(10):
        mine = [k for k in range(3) if (model.hidden[24 * k : 24 * (k + 1), node] != 0).any()]
        assert len(mine) == 1  # a node sees one part
        weights = model.hidden[24 * mine[0] : 24 * (mine[0] + 1), node]
        nodes.append(np.tanh(parts[:, mine[0]] @ weights + model.hidden[-1, node]))
    theirs = Ridge(alpha=model.penalty).fit(np.hstack([windows.inputs, np.transpose(nodes)]), windows.targets)
    np.testing.assert_allclose(model.coefficients, theirs.coef_.T, rtol=1e-6, atol=1e-8)
    found = model.predict(train, rng=np.random.default_rng(0))["s1"]
    assert found.shape == (6, 15) and (np.diff(found, axis=1) >= 0).all()
    longer = {name: np.concatenate([[99.0] * 5, x]) for name, x in train.items()}  # an older past is not looked at
    np.testing.assert_array_equal(model.predict(longer, rng=np.random.default_rng(0))["s1"], found)
    for wrong in ({"n_modes": 0}, {"n_modes": 10}):
        with pytest.raises(SchemaError, match="at least 1 mode, and a node for each part"):
            fit_emd_rvfl(train, **KEYS, rng=np.random.default_rng(1), n_nodes=10, **wrong)
