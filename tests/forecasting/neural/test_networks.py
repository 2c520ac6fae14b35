"""Parts of the nets against naive loops and laws, without training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.preprocessing import MinMaxScaler, StandardScaler

from support.errors import SchemaError, TooShortError
from support.forecasting import metrics
from support.forecasting.neural.attention import SeasonalAttention, phase_waves
from support.forecasting.neural.inputs import examples, newest, scaled_contexts
from support.forecasting.neural.losses import combined_loss, pinball_loss
from support.forecasting.neural.models import NETS, build_net
from support.forecasting.neural.networks import Sizes, monotone, n_step_feature, patches, step_features
from support.forecasting.quantile_frame import QUANTILE_LEVELS

SIZES = Sizes(context=50, horizon=30, season=24, n_channel=2, n_stat=37, levels=tuple(QUANTILE_LEVELS))
OPTIONS = {
    "lstm": {"width": 8, "n_layer": 2, "patch": 4, "dropout": 0.1},
    "bilstm_attention": {"width": 8, "n_head": 2, "patch": 4, "dropout": 0.1},
    "transformer": {
        "width": 12, "n_head": 2, "n_layer": 1, "patch": 4, "n_wave": 4, "dropout": 0.1, "heads": (6, 12, 24),
    },
}  # fmt: skip


@settings(deadline=None)
@given(hnp.arrays(np.float32, (3, 15), elements=st.floats(-50, 50, width=32)))
def test_outputs_never_decrease_and_the_middle_is_free(raw):
    out = np.asarray(monotone(jnp.asarray(raw), 7))
    assert (np.diff(out, axis=-1) >= 0).all()
    np.testing.assert_array_equal(out[:, 7], raw[:, 7])


@pytest.mark.parametrize("kind", list(NETS))
def test_every_net_gives_sorted_quantiles_and_a_step_does_not_depend_on_the_others(kind):
    net = build_net(kind, SIZES, OPTIONS[kind], 0)
    rng = np.random.default_rng(0)
    past = rng.normal(size=(3, 50, 2)).astype(np.float32)
    stats = rng.normal(size=(3, 37)).astype(np.float32)
    every = np.asarray(net(past, stats, jnp.arange(30)))
    some = np.asarray(net(past, stats, jnp.array([29, 4])))
    assert every.shape == (3, 30, 15) and np.isfinite(every).all() and (np.diff(every, axis=-1) >= 0).all()
    np.testing.assert_allclose(some, every[:, [29, 4]], atol=1e-5)


def test_near_steps_have_output_layers_of_their_own():
    net = build_net("transformer", SIZES, OPTIONS["transformer"], 0)
    past, stats = jnp.ones((1, 50, 2)), jnp.ones((1, 37))
    before = net(past, stats, jnp.arange(30))
    net.head.bias[...] = net.head.bias[...].at[1].add(1.0)  # of steps 7 to 12
    moved = np.flatnonzero(np.abs(net(past, stats, jnp.arange(30)) - before).sum(axis=(0, 2)) > 1e-6)
    assert moved.tolist() == list(range(6, 12))


def test_patches_and_step_features_against_loops():
    rng = np.random.default_rng(1)
    past = rng.normal(size=(2, 50, 2)).astype(np.float32)
    cut = np.asarray(patches(jnp.asarray(past), 4))
    for p in range(12):
        np.testing.assert_array_equal(cut[0, p], past[0, 2 + 4 * p : 6 + 4 * p].ravel())
    features = np.asarray(step_features(jnp.asarray(past), jnp.arange(30), SIZES))
    assert features.shape == (2, 30, n_step_feature(SIZES))
    for h in range(30):
        for k in (1, 2):
            at = 50 + h - 24 * (k + h // 24)
            np.testing.assert_allclose(features[:, h, 6 + 2 * k], past[:, at, 0], rtol=1e-6)
            around = [past[:, min(max(at + j, 0), 49), 0] for j in (-1, 0, 1)]
            np.testing.assert_allclose(features[:, h, 7 + 2 * k], np.mean(around, axis=0), rtol=1e-5, atol=1e-6)


def test_losses_against_their_definitions():
    rng = np.random.default_rng(2)
    seen, quantiles = rng.normal(size=(4, 5)), np.sort(3 * rng.normal(size=(4, 5, 15)), axis=-1)
    wanted = metrics.pinball(seen, quantiles, QUANTILE_LEVELS).mean(axis=-1)
    np.testing.assert_allclose(
        pinball_loss(jnp.asarray(quantiles), jnp.asarray(seen), QUANTILE_LEVELS), wanted, rtol=1e-5
    )
    error = seen - quantiles[..., 7]
    wanted = (
        0.5 * error**2 + 0.3 * np.abs(error) + 0.2 * np.asarray(optax.huber_loss(quantiles[..., 7], seen, delta=1.0))
    )
    got = combined_loss(jnp.asarray(quantiles), jnp.asarray(seen), QUANTILE_LEVELS)
    np.testing.assert_allclose(got, wanted, rtol=1e-5)


@settings(deadline=None, max_examples=30)
@given(st.integers(2, 300), st.integers(0, 2000), st.integers(0, 2000), st.integers(1, 5))
def test_phases_a_whole_number_of_seasons_apart_are_the_same_and_nearest(season, one, other, n_wave):
    rows = phase_waves(np.array([one, other, other + 3 * season]), season, n_wave)
    assert rows[0] @ rows[1] == pytest.approx(rows[0] @ rows[2], abs=1e-6)
    assert rows[0] @ rows[1] <= n_wave + 1e-9


def test_seasonal_attention_is_periodic_where_content_says_nothing():
    sizes = Sizes(context=96, horizon=24, season=24, n_channel=1, n_stat=1, levels=(0.5,))
    attention = SeasonalAttention(sizes, 4, 8, 3, n_head=2, n_wave=6, rngs=nnx.Rngs(0))
    tokens, queries, steps = jnp.zeros((1, 24, 8)), jnp.zeros((1, 24, 3)), jnp.arange(24)
    even = np.asarray(attention.weights(tokens, queries, steps))
    np.testing.assert_allclose(even, 1 / 24, rtol=1e-5)  # before training: no phase is preferred
    attention.sharpness[...] = jnp.full_like(attention.sharpness[...], 1.0)
    weights = np.asarray(attention.weights(tokens, queries, steps))[0, 0]
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-5)
    np.testing.assert_allclose(weights[:, :6], weights[:, 6:12], rtol=1e-4)  # a day is six patches
    for h in range(24):
        assert weights[h].argmax() % 6 == h // 4


def test_weeks_get_waves_of_their_own():
    made = lambda context: SeasonalAttention(  # noqa: E731
        Sizes(context, 24, 24, 1, 1, (0.5,)), 12, 8, 3, n_head=2, n_wave=4, rngs=nnx.Rngs(0)
    )
    assert made(168).periods == (24, 168) and made(167).periods == (24,)


def test_attention_looks_back_by_other_periods_if_told():
    sizes = Sizes(context=96, horizon=24, season=24, n_channel=1, n_stat=1, levels=(0.5,))
    attention = SeasonalAttention(sizes, 2, 8, 3, n_head=2, n_wave=6, periods=(10,), rngs=nnx.Rngs(0))
    assert attention.periods == (10,) and attention.n_wave == 5
    attention.sharpness[...] = jnp.full_like(attention.sharpness[...], 1.0)
    tokens, queries, steps = jnp.zeros((1, 48, 8)), jnp.zeros((1, 24, 3)), jnp.arange(24)
    weights = np.asarray(attention.weights(tokens, queries, steps))[0, 0]
    np.testing.assert_allclose(weights[:, :5], weights[:, 5:10], rtol=1e-4)  # ten steps are five patches
    for h in range(24):  # the patches of (96 + h) % 10, whose middles are half a step off
        assert weights[h].argmax() % 5 == (96 + h) % 10 // 2
    with pytest.raises(SchemaError, match=r"periods \[24, 1\]; a period has at least 2"):
        build_net("transformer", SIZES, OPTIONS["transformer"] | {"periods": (24, 1)}, 0)


def test_a_head_without_lags_knows_its_place_alone():
    net = build_net("transformer", SIZES, OPTIONS["transformer"] | {"lags": False, "seasonal": False}, 0)
    rng = np.random.default_rng(0)
    past = jnp.asarray(rng.normal(size=(2, 50, 2)), jnp.float32)
    features = np.asarray(step_features(past, jnp.arange(30), SIZES, lags=False))
    np.testing.assert_array_equal(features, np.asarray(step_features(past, jnp.arange(30), SIZES))[..., :8])
    assert features.shape[-1] == n_step_feature(SIZES, lags=False) and (features[0] == features[1]).all()
    assert net.head.feature.kernel[...].shape[0] == 8 + OPTIONS["transformer"]["width"]


@pytest.mark.parametrize("attention", [True, False])
def test_the_bilstm_attends_unless_told_not_to(attention):
    net = build_net("bilstm_attention", SIZES, OPTIONS["bilstm_attention"] | {"attention": attention}, 0)
    rng = np.random.default_rng(0)
    past, stats = rng.normal(size=(2, 50, 2)).astype(np.float32), rng.normal(size=(2, 37)).astype(np.float32)
    before = np.asarray(net(past, stats, jnp.arange(30)))
    net.attention.out.bias[...] = net.attention.out.bias[...] + 1.0
    moved = np.abs(np.asarray(net(past, stats, jnp.arange(30))) - before).max()
    assert moved > 1e-3 if attention else moved == 0


def test_inputs_follow_the_unit_and_hold_what_is_before_the_cut_off_only():
    rng = np.random.default_rng(3)
    x = {"a": rng.normal(size=90), "b": rng.normal(size=70)}
    data = examples(x, 24, 6)
    moved = examples({name: 7 * v - 3 for name, v in x.items()}, 24, 6)
    np.testing.assert_allclose(moved.inputs.past, data.inputs.past, atol=1e-5)
    np.testing.assert_allclose(moved.inputs.stats, data.inputs.stats, atol=1e-5)
    for k in (0, 10, len(data.left) - 1):
        values = x["ab"[data.series[k]]]
        end = len(values) - 6 - data.left[k]
        alone = scaled_contexts(values[None, end - 24 : end, None], np.quantile(values[:end], [0.5])[None])
        np.testing.assert_allclose(alone.past[0], data.inputs.past[k], atol=1e-6)
        back = np.sinh(data.targets[k]) * alone.scale[0] + alone.centre[0]
        np.testing.assert_allclose(back, values[end : end + 6], atol=1e-5)


@pytest.mark.parametrize(("scaler", "theirs"), [("standard", StandardScaler()), ("minmax", MinMaxScaler((-1, 1)))])
def test_scalings_of_each_window_against_scikit_learn(scaler, theirs):
    """Fitted on the window's own context and applied to what follows, never fitted on that."""
    rng = np.random.default_rng(3)
    x = {"a": rng.gamma(2, 3, (90, 2)), "b": 100 + rng.gamma(2, 3, (70, 2))}
    data = examples(x, 24, 6, scaler)
    for k in (0, 10, len(data.left) - 1):
        values = x["ab"[data.series[k]]]
        end = len(values) - 6 - data.left[k]
        fitted = theirs.fit(values[end - 24 : end])
        np.testing.assert_allclose(np.sinh(data.inputs.past[k]), fitted.transform(values[end - 24 : end]), atol=1e-4)
        wanted = fitted.transform(values[end : end + 6])[:, 0]
        np.testing.assert_allclose(np.sinh(data.targets[k]), wanted, rtol=1e-4, atol=1e-4)


def test_bad_input_is_named():
    with pytest.raises(TooShortError, match="at least 36"):
        examples({"a": np.arange(35.0)}, 24, 6)
    with pytest.raises(SchemaError, match="channels differ"):
        examples({"a": np.ones((50, 2)), "b": np.ones(50)}, 24, 6)
    with pytest.raises(SchemaError, match="b: shape"):
        newest({"b": np.array([1.0, np.nan])}, 2, 1)
    with pytest.raises(TooShortError, match="b: 2 values"):
        newest({"b": np.ones(2)}, 3, 1)
    with pytest.raises(SchemaError, match="1 channels"):
        newest({"b": np.ones(3)}, 3, 2)
    with pytest.raises(SchemaError, match="float16"):
        build_net("lstm", SIZES, OPTIONS["lstm"] | {"precision": "float16"}, 0)


def test_weights_have_32_bits_whatever_the_process_uses():
    with jax.enable_x64(True):
        for kind, options in OPTIONS.items():
            weights = nnx.state(build_net(kind, SIZES, options, 0), nnx.Param)
            assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(weights)), kind


def test_half_precision_computes_nearly_the_same_from_the_same_weights():
    rng = np.random.default_rng(4)
    past, stats = rng.normal(size=(2, 50, 2)).astype(np.float32), rng.normal(size=(2, 37)).astype(np.float32)
    for kind, options in OPTIONS.items():
        one, half = (build_net(kind, SIZES, options | {"precision": p}, 0) for p in ("float32", "bfloat16"))
        exact, rough = (np.asarray(net(past, stats, jnp.arange(30)), float) for net in (one, half))
        assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(nnx.state(half, nnx.Param)))
        assert np.isfinite(rough).all() and np.abs(rough - exact).max() < 0.1  # on a scale where one is a deviation
        assert (rough != exact).any()
