"""Foundation models: the adapter over tiny random checkpoints made here, offline; the tail rule; our own network."""

import dataclasses
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import norm

from support.errors import SchemaError, SourceError, TooShortError
from support.forecasting.foundation import (
    FoundationEnsemble,
    ZeroShot,
    complete_levels,
    licences,
    load_foundation,
    own_zero_shot,
)
from support.forecasting.foundation.chronos_numpy import read_checkpoint
from support.forecasting.foundation.corpus import FAMILIES, FITTED, mixed
from support.forecasting.foundation.models import WEIGHTS
from support.forecasting.foundation.zoo import KINDS, Raw
from support.forecasting.local_models import seasonal_naive_empirical
from support.forecasting.protocol import RollingOrigin, roll
from support.forecasting.quantile_frame import QUANTILE_LEVELS

CHRONOS_LEVELS = [0.01] + [round(0.05 * i, 2) for i in range(1, 20)] + [0.99]
DECILES = [round(0.1 * i, 1) for i in range(1, 10)]
# the libraries' own deprecations are no fault of the adapter
LIBRARY_WARNINGS = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"
)


@pytest.fixture(autouse=True)
def no_hub(monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def random_series(n=3, n_time=300, seed=0):
    rng = np.random.default_rng(seed)
    return [50 + 10 * np.sin(np.arange(n_time) * 2 * np.pi / 24) + rng.normal(size=n_time).cumsum() for _ in range(n)]


# ---- tiny random checkpoints, by the recipes of the libraries' own formats


def save_chronos_2(path: Path) -> None:
    torch, chronos = pytest.importorskip("torch"), pytest.importorskip("chronos")
    from chronos.chronos2.config import Chronos2CoreConfig

    config = Chronos2CoreConfig(
        d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, dropout_rate=0.0, reg_token_id=1,
        architectures=["Chronos2Model"], chronos_pipeline_class="Chronos2Pipeline",
        chronos_config={
            "context_length": 256, "input_patch_size": 16, "input_patch_stride": 16, "output_patch_size": 16,
            "max_output_patches": 8,
            "quantiles": CHRONOS_LEVELS, "time_encoding_scale": 256, "use_arcsinh": True, "use_reg_token": True,
        },
    )  # fmt: skip
    torch.manual_seed(0)
    model = chronos.Chronos2Model(config)
    for parameter in model.parameters():  # the library's start is nearly zero, which would hide mistakes
        torch.nn.init.normal_(parameter, std=0.3)
    model.save_pretrained(path)


def save_chronos_bolt(path: Path) -> None:
    torch = pytest.importorskip("torch")
    bolt = pytest.importorskip("chronos.chronos_bolt")
    from transformers import T5Config

    config = T5Config(
        d_model=16, d_kv=8, d_ff=32, num_layers=2, num_decoder_layers=2, num_heads=2, vocab_size=2, pad_token_id=0,
        eos_token_id=1, decoder_start_token_id=0, reg_token_id=1, architectures=["ChronosBoltModelForForecasting"],
        chronos_pipeline_class="ChronosBoltPipeline",
        chronos_config={
            "context_length": 256, "input_patch_size": 16, "input_patch_stride": 16, "prediction_length": 64,
            "quantiles": DECILES,
            "use_reg_token": True,
        },
    )  # fmt: skip
    torch.manual_seed(0)
    bolt.ChronosBoltModelForForecasting(config).save_pretrained(path)


@pytest.fixture
def tiny_timesfm(monkeypatch):
    """Its size is an attribute of a class: a smaller one while a test runs, to make the checkpoint and to load it."""
    pytest.importorskip("timesfm")
    pytest.importorskip("einshape")
    pytest.importorskip("jaxtyping")
    from timesfm import configs
    from timesfm.timesfm_2p5 import timesfm_2p5_base as base
    from timesfm.timesfm_2p5 import timesfm_2p5_flax as flax_model

    full, block, width = base.TimesFM_2p5_200M_Definition(), configs.ResidualBlockConfig, 32
    layer = dataclasses.replace(full.stacked_transformers.transformer, model_dims=width, hidden_dims=width, num_heads=2)
    tiny = dataclasses.replace(
        full,
        tokenizer=block(64, width, width, True, "swish"),
        stacked_transformers=configs.StackedTransformersConfig(2, layer),
        output_projection_point=block(width, width, full.output_patch_len * 10, False, "swish"),
        output_projection_quantiles=block(width, width, full.output_quantile_len * 10, False, "swish"),
    )
    monkeypatch.setattr(flax_model.TimesFM_2p5_200M_flax_module, "config", tiny)
    return flax_model


def save_timesfm(path: Path, flax_model) -> None:
    import orbax.checkpoint as ocp
    from flax import nnx

    _, state = nnx.split(flax_model.TimesFM_2p5_200M_flax().model)
    with ocp.StandardCheckpointer() as checkpointer:
        checkpointer.save(path.resolve(), state)


def save_tirex(path: Path) -> None:
    torch, tirex = pytest.importorskip("torch"), pytest.importorskip("tirex")
    size = {
        "model_config": {
            "input_patch_size": 32, "output_patch_size": 32, "quantiles": DECILES,
            "block_kwargs": {"num_blocks": 2, "embedding_dim": 64, "num_heads": 2}, "input_ff_dim": 64,
        },
        "train_ctx_len": 256,
    }  # fmt: skip
    torch.manual_seed(0)
    model = tirex.TiRexZero(backend="torch", **size)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05) if parameter.ndim > 1 else torch.nn.init.zeros_(parameter)
    path.mkdir()
    torch.save({"hyper_parameters": size, "state_dict": model.state_dict()}, path / "model.ckpt")


def obeys(model: ZeroShot, horizon=40) -> np.ndarray:
    """The adapter's contract, whatever the weights: shape, finite, sorted, the same twice, no look at neighbours."""
    contexts = random_series()
    made = model.quantiles(contexts, horizon, QUANTILE_LEVELS)
    assert made.shape == (3, horizon, 15) and np.isfinite(made).all() and (np.diff(made, axis=-1) >= 0).all()
    np.testing.assert_array_equal(made, model.quantiles(contexts, horizon, QUANTILE_LEVELS))
    mixed_lengths = model.quantiles([contexts[0], contexts[1][-100:]], horizon, QUANTILE_LEVELS)
    np.testing.assert_allclose(mixed_lengths[0], made[0], rtol=2e-3, atol=2e-3)  # padding costs float32 rounding
    fitted = model({}, context=200, horizon=horizon, season=24, levels=QUANTILE_LEVELS, rng=np.random.default_rng(0))
    asked = fitted.predict({"a": contexts[0]}, rng=np.random.default_rng(1))["a"]
    alone = model.local(contexts[0][-200:], horizon, 24, QUANTILE_LEVELS, np.random.default_rng(2))
    np.testing.assert_array_equal(asked, alone)
    return made


@LIBRARY_WARNINGS
@pytest.mark.parametrize("kind", ["chronos-2", "chronos-bolt", "tirex"])
def test_adapter_over_torch_checkpoints(kind, tmp_path):
    save = {"chronos-2": save_chronos_2, "chronos-bolt": save_chronos_bolt, "tirex": save_tirex}[kind]
    save(tmp_path / "model")
    model = load_foundation(kind, tmp_path / "model", device="cpu")
    obeys(model)
    np.testing.assert_array_equal(model.raw.levels, CHRONOS_LEVELS if kind == "chronos-2" else DECILES)
    assert model.raw.longest_context == 256
    long = random_series(1, 400)[0]
    np.testing.assert_array_equal(
        model.quantiles([long], 8, QUANTILE_LEVELS), model.quantiles([long[-256:]], 8, QUANTILE_LEVELS)
    )


@LIBRARY_WARNINGS
def test_adapter_over_timesfm_in_flax(tiny_timesfm, tmp_path):
    save_timesfm(tmp_path / "model", tiny_timesfm)
    model = load_foundation("timesfm-2.5", tmp_path / "model")
    made = obeys(model)
    np.testing.assert_array_equal(model.raw.levels, DECILES)
    deciles = model.quantiles(random_series(), 40, np.array(DECILES))
    np.testing.assert_array_equal(made[..., QUANTILE_LEVELS == 0.5], deciles[..., 4:5])


@LIBRARY_WARNINGS
def test_weighted_ensemble_of_two_libraries(tmp_path):
    save_chronos_2(tmp_path / "a")
    save_chronos_bolt(tmp_path / "b")
    models = [load_foundation("chronos-2", tmp_path / "a"), load_foundation("chronos-bolt", tmp_path / "b")]
    contexts = random_series()
    made = FoundationEnsemble(models, [3, 1]).quantiles(contexts, 16, QUANTILE_LEVELS)
    first, second = (m.quantiles(contexts, 16, QUANTILE_LEVELS) for m in models)
    np.testing.assert_allclose(made, 0.75 * first + 0.25 * second)


@LIBRARY_WARNINGS
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_numpy_forward_pass_is_the_librarys(tmp_path, half):
    save_chronos_2(tmp_path)
    if half:
        from chronos import Chronos2Model

        Chronos2Model.from_pretrained(tmp_path).half().save_pretrained(tmp_path)
    same_as_library(tmp_path, contexts=random_series(4, 300), horizon=100)


@LIBRARY_WARNINGS
def test_numpy_forward_pass_is_the_librarys_with_our_weights():
    pytest.importorskip("chronos")
    same_as_library(WEIGHTS, contexts=random_series(2, 2016), horizon=288)


def same_as_library(folder, contexts, horizon):
    contexts = [contexts[0], *[x[-n:] for x, n in zip(contexts[1:], (97, 16, 5), strict=False)]]
    theirs = load_foundation("chronos-2", folder, device="cpu").raw.call(contexts, horizon)
    padded = np.full((len(contexts), len(contexts[0])), np.nan)
    for row, x in zip(padded, contexts, strict=True):
        row[-len(x) :] = x
    ours = read_checkpoint(folder).quantiles(padded, horizon)
    scale = np.array([x.std() for x in contexts])[:, None, None]
    np.testing.assert_allclose(ours / scale, theirs / scale, rtol=1e-4, atol=1e-4)


# ---- what goes wrong, and what it says


@pytest.mark.parametrize("kind", sorted(KINDS))
def test_a_missing_extra_names_the_command_that_installs_it(kind, monkeypatch):
    real = importlib.import_module

    def absent(name, *rest):
        if name in ("torch", "chronos", "timesfm", "tirex"):
            raise ImportError(f"No module named {name!r}")
        return real(name, *rest)

    monkeypatch.setattr(importlib, "import_module", absent)
    with pytest.raises(SourceError, match=r"\[foundation\]"):
        load_foundation(kind)


def test_no_hub_and_no_checkpoint_are_said(tmp_path):
    for package in ("torch", "chronos", "timesfm", "tirex"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    code = f"""
from support.errors import SourceError
from support.forecasting.foundation import load_foundation
for kind in {sorted(KINDS)}:
    for place in (None, {str(tmp_path)!r}):
        try:
            load_foundation(kind, place)
        except SourceError as error:
            print("said", error)
"""
    offline = os.environ | {"HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "cache")}
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], env=offline, capture_output=True, text=True)
    said = [line.removeprefix("said ") for line in done.stdout.splitlines() if line.startswith("said ")]
    assert len(said) == 2 * len(KINDS), done
    for number, kind in enumerate(sorted(KINDS)):
        for line, mend in zip(
            said[2 * number : 2 * number + 2], ("give its folder", "holds no checkpoint"), strict=True
        ):
            assert line.startswith(kind) and mend in line


def test_refusals():
    model = ZeroShot("flat", Raw(lambda xs, h: np.zeros((len(xs), h, 2)), np.array([0.4, 0.6]), 10, 20))
    with pytest.raises(SchemaError, match="value 2 is missing"):
        model.quantiles([np.array([1.0, 2.0, np.nan, 4.0])], 3, QUANTILE_LEVELS)
    with pytest.raises(TooShortError, match="series 1"):
        model.quantiles([np.ones(5), np.ones(2)], 3, QUANTILE_LEVELS)
    for horizon in (0, 21):
        with pytest.raises(SchemaError, match="1 to 20"):
            model.quantiles([np.ones(5)], horizon, QUANTILE_LEVELS)
    with pytest.raises(SchemaError, match="not offered"):
        load_foundation("timesfm-3")
    with pytest.raises(SourceError, match="no folder"):
        load_foundation("chronos-2", Path("/nowhere"))
    with pytest.raises(SourceError, match="checkpoint"):
        own_zero_shot(Path("/nowhere"))
    for weights in ([1.0, 1.0], [0.0], [np.nan]):
        with pytest.raises(SchemaError, match="positive weight"):
            FoundationEnsemble([model], weights)


def test_licences_name_what_is_not_free():
    table = licences()
    assert set(table.index) == {*KINDS, "timesfm-3"}
    assert "non-commercial" in table.loc["timesfm-3", "weights"] and "NXAI" in table.loc["tirex", "weights"]


# ---- the tail rule


def test_a_normal_law_is_completed_exactly():
    given_levels = np.array(DECILES)
    made = complete_levels(norm.ppf(given_levels, 3, 2), given_levels, QUANTILE_LEVELS)
    np.testing.assert_allclose(made, norm.ppf(QUANTILE_LEVELS, 3, 2), atol=1e-12)


def test_each_tail_follows_its_own_two_outermost_quantiles():
    levels = np.array([0.1, 0.2, 0.5, 0.8, 0.9])
    made = complete_levels(np.array([-1.0, -0.5, 0.0, 3.0, 6.0]), levels, np.array([0.025, 0.975]))
    z = norm.ppf([0.025, 0.1, 0.2])
    assert made[0] == pytest.approx(-1.0 + 0.5 / (z[2] - z[1]) * (z[0] - z[1]))
    assert made[1] == pytest.approx(6.0 + 3.0 / (z[2] - z[1]) * (z[1] - z[0]))


@settings(deadline=None, max_examples=50)
@given(arrays(float, (4, 9), elements=st.floats(-1e6, 1e6)))
def test_completion_sorts_keeps_what_is_given_and_scales(values):
    levels = np.array(DECILES)
    made = complete_levels(values, levels, QUANTILE_LEVELS)
    assert (np.diff(made, axis=-1) >= 0).all()
    kept = np.isin(QUANTILE_LEVELS, levels)
    np.testing.assert_array_equal(made[:, kept], np.sort(values, axis=-1))
    shifted = complete_levels(2 * values + 7, levels, QUANTILE_LEVELS)
    np.testing.assert_allclose(shifted, 2 * made + 7, rtol=1e-9, atol=1e-6)


def test_completion_refuses_what_it_cannot_complete():
    for quantiles, have, want, said in (
        (np.zeros(1), [0.5], [0.5], "at least two"),
        (np.zeros(2), [0.5, 0.4], [0.5], "increase"),
        (np.array([0.0, np.nan]), [0.4, 0.6], [0.5], "finite"),
        (np.zeros(2), [0.4, 0.6], [1.0], "within"),
    ):
        with pytest.raises(SchemaError, match=said):
            complete_levels(quantiles, np.array(have), np.array(want))


# ---- our own model


def test_own_model_obeys_the_adapter_and_beats_the_baseline_on_series_it_never_saw():
    model = own_zero_shot()
    obeys(model)
    # machines of a seed that the training did not use, and the wave of the protocol's tests
    hidden = mixed(40, 2304, rng=np.random.default_rng(4242)).astype(float)
    made = model.quantiles([x[:-288] for x in hidden], 288, QUANTILE_LEVELS)
    naive = np.stack(
        [seasonal_naive_empirical(x[:-288], 288, 288, QUANTILE_LEVELS, np.random.default_rng(0)) for x in hidden]
    )
    loss = [
        np.abs((hidden[:, -288:, None] - q) * ((hidden[:, -288:, None] <= q) - QUANTILE_LEVELS)).mean()
        for q in (made, naive)
    ]
    assert loss[0] < 0.9 * loss[1]


def test_own_model_moves_with_level_and_unit():
    model, x = own_zero_shot(), random_series(1, 600)[0]
    base = model.quantiles([x], 24, QUANTILE_LEVELS)
    np.testing.assert_allclose(model.quantiles([1000 * x + 5], 24, QUANTILE_LEVELS), 1000 * base + 5, rtol=1e-3)


def test_own_model_through_the_protocol_counts_no_fallback_and_sees_no_future():
    index = pd.date_range("2026-01-01", periods=700, freq="1h", tz="UTC")
    panel = {f"s{k}": pd.Series(x, index) for k, x in enumerate(random_series(2, 700))}
    plan = RollingOrigin(horizon=24, step=26, season=24, n_windows=3, local_context=336, global_context=336)
    model = own_zero_shot()

    def run(series):
        return roll(
            series,
            protocol=plan,
            local_models={"local": model.local},
            global_models={"global": model},
            rng=np.random.default_rng(0),
        )

    whole = run(panel)
    assert whole.ledger["fallbacks"].sum() == 0
    cut = plan.cutoffs(700)[0]
    turned = {
        n: pd.Series(np.concatenate([s.to_numpy()[:cut], s.to_numpy()[cut:][::-1]]), index) for n, s in panel.items()
    }
    first = whole.frame["cutoff"] == whole.frame["cutoff"].min()
    columns = [c for c in whole.frame if c.startswith("q")]
    np.testing.assert_array_equal(whole.frame.loc[first, columns], run(turned).frame.loc[first, columns])


def test_card_says_what_made_the_weights_and_they_are_small():
    card = json.loads((WEIGHTS / "card.json").read_text())
    assert {"script", "seed", "steps", "training_sha256", "fit_seconds", "licence"} <= set(card)
    assert card["parameters"] == read_checkpoint(WEIGHTS).n_parameters
    assert (WEIGHTS / "model.safetensors").stat().st_size <= 1e6


def test_ensemble_predicts_a_week_with_its_intervals():
    index = pd.date_range("2026-01-05", periods=600, freq="h", tz="UTC")
    past = pd.DataFrame({"a": random_series(1, 600)[0], "b": random_series(1, 600, seed=1)[0]}, index)
    ensemble = FoundationEnsemble(["own"])
    made = ensemble.predict(past, horizon=168, frequency="h", rng=np.random.default_rng(0))
    assert made.series == ("a", "b") and made.quantiles.shape == (2, 168, 15)
    assert made.timestamps[0] == index[-1] + pd.Timedelta("1h")
    widths = [np.subtract(*made.interval(level)[::-1]).mean() for level in (0.5, 0.9, 0.95)]
    assert widths[0] < widths[1] < widths[2]
    with pytest.raises(SchemaError, match="Resample"):
        ensemble.predict(past, horizon=24, frequency="D", rng=np.random.default_rng(0))
    with pytest.raises(SchemaError, match="fixed step"):
        ensemble.predict(past, horizon=24, frequency="MS", rng=np.random.default_rng(0))
    with pytest.raises(SchemaError, match="timezone"):
        ensemble.predict(past.tz_localize(None), horizon=24, rng=np.random.default_rng(0))
    with pytest.raises(TooShortError):
        ensemble.predict(past.iloc[:30], horizon=48, rng=np.random.default_rng(0))
    with pytest.raises(SchemaError, match="missing"):
        ensemble.predict(past.mask(past > past.max() - 1), horizon=24, rng=np.random.default_rng(0))


# ---- what it learned from


def test_training_series_are_reproducible_varied_and_know_nothing_of_nab():
    made = mixed(30, 400, rng=np.random.default_rng(5))
    np.testing.assert_array_equal(made, mixed(30, 400, rng=np.random.default_rng(5)))
    assert made.shape == (30, 400) and np.isfinite(made).all() and (made.std(axis=1) > 1e-3).all()
    assert "nab" not in FITTED


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_families_make_finite_series(family):
    rng = np.random.default_rng(6)
    for n_time in (300, 2592):
        for _ in range(100):
            x = FAMILIES[family](n_time, rng)
            assert x.shape == (n_time,) and np.isfinite(x).all()
