"""Fitted nets saved to a folder and loaded from it: weights by Orbax, everything else as JSON beside them."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp
from flax import nnx

from support.errors import SourceError
from support.forecasting.neural.models import NeuralForecast, build_net
from support.forecasting.neural.networks import Sizes
from support.forecasting.neural.training import Curve

__all__ = ["load_net", "save_net"]

DESCRIPTION, WEIGHTS = "net.json", "member-{}"
FORMAT = 1  # of the description


def save_net(model: NeuralForecast, folder: Path | str) -> Path:
    """Write a fitted net into a new folder and return its absolute path. Raises SourceError if the folder is not empty."""
    place = Path(folder).resolve()
    if place.exists() and (not place.is_dir() or any(place.iterdir())):
        raise SourceError(f"{place}: there is something already. Name a folder that is new or empty.")
    said = {
        "format": FORMAT,
        "kind": model.kind,
        "sizes": asdict(model.sizes),
        "options": {k: list(v) if isinstance(v, tuple) else v for k, v in model.options.items()},
        "n_members": len(model.weights),
        "shapes": _shapes(model.weights[0]),
        "history": {name: values.tolist() for name, values in model.history.items()},
        "curves": [{k: v.tolist() for k, v in asdict(curve).items()} for curve in model.curves],
    }
    text = json.dumps(said, default=lambda number: number.item())  # NumPy's numbers
    place.mkdir(parents=True, exist_ok=True)
    with ocp.StandardCheckpointer() as checkpointer:
        for k, weights in enumerate(model.weights):
            checkpointer.save(place / WEIGHTS.format(k), nnx.to_pure_dict(weights))
    (place / DESCRIPTION).write_text(text, encoding="utf-8")
    return place


def load_net(folder: Path | str) -> NeuralForecast:
    """A net that `save_net` wrote; it forecasts exactly as before. Raises SourceError for any other folder."""
    place = Path(folder).resolve()
    try:
        said = json.loads((place / DESCRIPTION).read_text(encoding="utf-8"))
        if said["format"] != FORMAT:
            raise SourceError(f"{place}: a net of format {said['format']}, wanted {FORMAT}. Save it again.")
        sizes = Sizes(**said["sizes"] | {"levels": tuple(said["sizes"]["levels"])})
        options = {k: tuple(v) if isinstance(v, list) else v for k, v in said["options"].items()}
        state = nnx.state(build_net(said["kind"], sizes, options, 0), nnx.Param)
        if _shapes(state) != said["shapes"]:  # Orbax would leave its readers behind
            raise SourceError(f"{place}: {DESCRIPTION} does not describe the weights beside it. Save the net again.")
        shape = nnx.to_pure_dict(state)
        weights = []
        with ocp.StandardCheckpointer() as checkpointer:
            for k in range(said["n_members"]):
                member = nnx.state(build_net(said["kind"], sizes, options, 0), nnx.Param)
                nnx.replace_by_pure_dict(member, checkpointer.restore(place / WEIGHTS.format(k), shape))
                weights.append(member)
    except SourceError:
        raise
    except (OSError, KeyError, TypeError, ValueError) as error:
        raise SourceError(
            f"{place}: no fitted net is here ({type(error).__name__}). Give the folder that save_net wrote."
        ) from error
    history = {name: np.array(values) for name, values in said["history"].items()}
    curves = tuple(Curve(**{k: np.array(v) for k, v in curve.items()}) for curve in said["curves"])
    return NeuralForecast(said["kind"], sizes, options, tuple(weights), history, curves)


def _shapes(weights: nnx.State) -> list[list[int]]:
    return [list(leaf.shape) for leaf in jax.tree.leaves(weights)]
