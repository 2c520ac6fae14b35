"""Deep RVFL and RVFL ensembles: closed form against scikit-learn, and an average that is one."""

import numpy as np
from sklearn.linear_model import Ridge

from support.forecasting.linear import fit_deep_rvfl, fit_rvfl, fit_rvfl_ensemble
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
    assert (each[0] != each[1]).any() and (np.diff(found, axis=1) >= 0).all()
