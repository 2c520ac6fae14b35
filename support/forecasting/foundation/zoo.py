"""Pretrained forecasters of others: what they are, what their licences say, and how each is loaded and called.

Each is loaded by its name on the hub or from a folder; a call takes contexts and a horizon, and gives quantiles.
Their packages are the extra `foundation`; nothing of it is imported before a model is loaded.
"""

from __future__ import annotations

import contextlib
import importlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from support.errors import SchemaError, SourceError

__all__ = ["KINDS", "Kind", "Raw", "licences", "open_model"]

INSTALL = (
    "Install PyTorch first (`pip install torch`, the CPU wheel if there is no GPU), "
    "then `pip install 'capacity-under-uncertainty[foundation]'`"
)
DECILES = np.round(np.arange(1, 10) / 10, 1)
BATCH = 64  # series in one call of a network
TIMESFM_MULTIPLE = 32  # steps of a token: contexts are padded to it, so that few shapes are compiled
ORBAX_FILES = ("_METADATA", "_CHECKPOINT_METADATA", "manifest.ocdbt", "checkpoint")
TIMESFM_LIMIT, TIMESFM_HEAD = 16_384, 1024  # steps: context and horizon together; the quantile head
Call = Callable[[Sequence[np.ndarray], int], np.ndarray]


@dataclass(frozen=True)
class Raw:
    """A loaded network: `call(contexts, horizon)` gives quantiles (n_series, horizon, n_level), unsorted."""

    call: Call
    levels: np.ndarray
    longest_context: int
    longest_horizon: int


@dataclass(frozen=True)
class Kind:
    """A kind of model: its packages, its checkpoint on the hub, its licence, and its loader (place, device)."""

    packages: tuple[str, ...]
    hub: str
    code_licence: str
    weights_licence: str
    duty: str
    load: Callable[[str, str], Raw]


def _need(kind: str, package: str) -> Any:
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise SourceError(f"{kind}: the package {package} cannot be imported ({error}). {INSTALL}.") from None


def _device(asked: str | None) -> str:
    """The device that was asked for, else a GPU when torch sees one, else the CPU."""
    if asked:
        return asked
    with contextlib.suppress(ImportError):
        return "cuda" if importlib.import_module("torch").cuda.is_available() else "cpu"
    return "cpu"


def _chronos(place: str, device: str) -> Raw:
    torch, chronos = _need("chronos", "torch"), _need("chronos", "chronos")
    pipe = chronos.BaseChronosPipeline.from_pretrained(place, device_map=device, dtype=torch.float32)

    def call(contexts: Sequence[np.ndarray], horizon: int) -> np.ndarray:
        batch = [torch.tensor(np.asarray(x, dtype=np.float32)) for x in contexts]
        made = pipe.predict(batch, prediction_length=horizon)
        return np.stack([np.asarray(q, dtype=float).reshape(-1, horizon).T for q in made])

    patches = getattr(pipe.model.config, "chronos_config", {}).get("max_output_patches")
    longest = pipe.model_prediction_length if patches else np.iinfo(np.int32).max  # Bolt rolls on by itself
    return Raw(call, np.array(pipe.quantiles, dtype=float), pipe.model_context_length, int(longest))


def _timesfm(place: str, device: str) -> Raw:
    """The one in Flax: JAX chooses the device."""
    timesfm = _need("timesfm-2.5", "timesfm")
    if not hasattr(timesfm, "TimesFM_2p5_200M_flax"):
        raise SourceError(f"timesfm-2.5: its Flax model needs einshape and jaxtyping. {INSTALL}.")
    where = (
        Path(place).resolve()
        if Path(place).is_dir()
        else Path(_need("timesfm-2.5", "huggingface_hub").snapshot_download(place))
    )
    if not any((where / name).exists() for name in ORBAX_FILES):  # before a gigabyte of weights is made for nothing
        raise FileNotFoundError(f"none of {', '.join(ORBAX_FILES)} is there.")
    model = timesfm.TimesFM_2p5_200M_flax.from_pretrained(str(where))
    compiled: set[tuple[int, int]] = set()

    def call(contexts: Sequence[np.ndarray], horizon: int) -> np.ndarray:
        longest = max(len(x) for x in contexts)
        shape = (-(-longest // TIMESFM_MULTIPLE) * TIMESFM_MULTIPLE, horizon)
        with contextlib.redirect_stdout(io.StringIO()):  # it announces each compilation
            if compiled != {shape}:
                config = timesfm.ForecastConfig(
                    max_context=shape[0], max_horizon=horizon, normalize_inputs=True, infer_is_positive=False,
                    use_continuous_quantile_head=True, fix_quantile_crossing=True,
                    per_core_batch_size=min(len(contexts), BATCH),
                )  # fmt: skip
                model.compile(config)
                compiled.clear()
                compiled.add(shape)
            _, made = model.forecast(horizon=horizon, inputs=[np.asarray(x, dtype=np.float32) for x in contexts])
        return np.asarray(made, dtype=float)[:, :horizon, 1:]  # column 0 is the mean

    return Raw(call, DECILES, TIMESFM_LIMIT - TIMESFM_HEAD, TIMESFM_HEAD)


def _tirex(place: str, device: str) -> Raw:
    tirex = _need("tirex", "tirex")
    file = Path(place) / "model.ckpt" if Path(place).is_dir() else Path(place)
    with contextlib.redirect_stdout(io.StringIO()):
        if file.exists():
            model = tirex.TiRexZero.from_pretrained(str(file.resolve()), backend="torch", device=device)
        else:
            model = tirex.load_model(place, device=device, backend="torch")
    levels = np.array(model.config.quantiles, dtype=float)

    def call(contexts: Sequence[np.ndarray], horizon: int) -> np.ndarray:
        torch = _need("tirex", "torch")
        batch = [torch.tensor(np.asarray(x, dtype=np.float32)) for x in contexts]
        made, _ = model.forecast(context=batch, prediction_length=horizon, output_type="numpy")
        return np.asarray(made, dtype=float)

    return Raw(call, levels, int(model.config.train_ctx_len), np.iinfo(np.int32).max)


CHRONOS = ("torch", "chronos-forecasting")
KINDS: dict[str, Kind] = {
    "chronos-2": Kind(CHRONOS, "amazon/chronos-2", "Apache-2.0", "Apache-2.0", "keep the notice", _chronos),
    "chronos-bolt": Kind(CHRONOS, "amazon/chronos-bolt-small", "Apache-2.0", "Apache-2.0", "keep the notice", _chronos),
    "timesfm-2.5": Kind(("timesfm", "einshape", "jaxtyping"), "google/timesfm-2.5-200m-flax", "Apache-2.0",
                        "Apache-2.0", "keep the notice", _timesfm),
    "tirex": Kind(("torch", "tirex-ts"), "NX-AI/TiRex", "NXAI Community License", "NXAI Community License",
                  "say 'Built with technology from NXAI'; a licence of its own above EUR 100 M of revenue", _tirex),
}  # fmt: skip
NOT_OFFERED = {"timesfm-3": ("Apache-2.0", "non-commercial, non-production", "not offered here")}


def licences() -> pd.DataFrame:
    """What the licences of code and weights ask for, one row a model, and the models that are not offered for theirs.

    Example:
        >>> licences().loc["tirex", "weights"]
        'NXAI Community License'
    """
    rows = {name: (k.hub, k.code_licence, k.weights_licence, k.duty) for name, k in KINDS.items()}
    rows |= {name: ("", *said) for name, said in NOT_OFFERED.items()}
    return pd.DataFrame.from_dict(rows, orient="index", columns=["on the hub", "code", "weights", "you must"])


def open_model(kind: str, place: str | Path | None = None, *, device: str | None = None) -> Raw:
    """Load a model of `kind` from a folder, or from the hub by name (the kind's own name there if `place` is None).

    Raises SchemaError for an unknown kind; SourceError if its packages are missing (with the command that installs
    them), a folder holds no checkpoint, or the hub cannot be reached.
    """
    if kind not in KINDS:
        raise SchemaError(f"foundation model {kind!r}: not offered. Use one of {', '.join(KINDS)}.")
    local = place is not None and Path(place).exists()
    if isinstance(place, Path) and not local:
        raise SourceError(f"{kind}: no folder {place}. Give the folder of the checkpoint, or its name on the hub.")
    name = str(place) if place is not None else KINDS[kind].hub
    try:
        return KINDS[kind].load(name, _device(device))
    except SourceError:
        raise
    except Exception as error:  # each library wraps a failed download, or a broken file, in errors of its own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        mend = (
            "The folder holds no checkpoint of this kind"
            if local
            else "If there is no network, download it elsewhere and give its folder"
        )
        raise SourceError(f"{kind}: {name} cannot be loaded: {first} {mend}.") from error
