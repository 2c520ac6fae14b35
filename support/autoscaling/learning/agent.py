"""The trained agent as a policy: a few small matrix products in NumPy, a reason in words, and one file to keep it in."""

from __future__ import annotations

import json
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from support.autoscaling.environment import Environment
from support.autoscaling.learning.view import (
    FACTORS,
    HOLD,
    LEVELS,
    N_LOADS,
    Outlook,
    features,
    n_features,
    next_totals,
    outlook,
)  # fmt: skip
from support.autoscaling.simulate import Observation
from support.errors import SchemaError, SourceError
from support.forecasting import RollingQuantiles

__all__ = ["DQN", "load_agent", "plain", "save_agent"]

FORMAT = 1  # of the file
LAYERS = ("first", "second", "value", "advantage")
Weights = dict[str, dict[str, np.ndarray]]


@dataclass(frozen=True, eq=False)
class DQN:
    """A policy for `simulate` whose net was trained for one boot delay, in ticks. weights: by layer and name, float32.

    Actions multiply the present total by one of `FACTORS`. The state of a run is (outlook, next totals).
    """

    weights: Weights
    boot_delay_ticks: int
    name: str = "DQN"

    @property
    def width(self) -> int:
        """Units of a hidden layer."""
        return int(self.weights["second"]["kernel"].shape[0])

    def check(self, environment: Environment) -> None:
        """Raise SchemaError if the environment has another boot delay than the agent was trained for."""
        if environment.boot_delay_ticks != self.boot_delay_ticks:
            raise SchemaError(
                f"{self.name}: trained for a boot delay of {self.boot_delay_ticks} ticks, the environment has "
                f"{environment.boot_delay_ticks}. Train an agent for it."
            )

    def values(self, seen: np.ndarray) -> np.ndarray:
        """Values of all actions (..., n_action), in units of the reward, of views (..., n_feature); no noise."""
        hidden = seen
        for layer in LAYERS[:2]:
            hidden = np.maximum(hidden @ self.weights[layer]["kernel"] + self.weights[layer]["bias"], 0.0)
        value, advantage = (hidden @ self.weights[name]["weight"] + self.weights[name]["bias"] for name in LAYERS[2:])
        best: np.ndarray = value + advantage - advantage.mean(axis=-1, keepdims=True)
        return best

    def prepare(
        self, environment: Environment, forecast: RollingQuantiles | None
    ) -> tuple[Outlook, np.ndarray, Environment]:
        """The forecast as the agent sees it, and what each action asks for."""
        self.check(environment)
        return outlook(forecast, environment), next_totals(environment.max_servers), environment

    def act(
        self, state: tuple[Outlook, np.ndarray, Environment], seen: Observation
    ) -> tuple[tuple[Outlook, np.ndarray, Environment], int, str]:
        """The action of the highest value."""
        view = self.view(state, seen)
        values = self.values(view)
        action = int(values.argmax())
        total = seen.active + seen.booting
        desired = int(state[1][min(total, len(state[1]) - 1), action])
        if action == HOLD:
            return state, desired, f"hold {total}: no change is worth more"
        gain = values[action] - values[HOLD]
        change = f"from {total} to {desired} (x {FACTORS[action]:g}, rounded away)"
        return state, desired, f"{change}: worth {gain:.3f} of reward more than holding"

    def view(self, state: tuple[Outlook, np.ndarray, Environment], seen: Observation) -> np.ndarray:
        """What the agent sees before a tick, (n_feature,)."""
        ahead, _, world = state
        need = ahead.need[seen.row]
        loads = np.full(N_LOADS, need[0, 0], dtype=float)  # before the run nothing is known: the forecast stands in
        known = seen.arrivals[: -N_LOADS - 1 : -1] / world.capacity_per_tick
        loads[: len(known)] = known
        orders = np.zeros(world.boot_delay_ticks, dtype=int)
        for age, count in seen.pipeline:
            orders[min(age, len(orders)) - 1] += count
        queue = float(seen.queue[-1]) / world.capacity_per_tick if len(seen.queue) else 0.0
        cooldown = seen.cooldown_left / max(world.cooldown_ticks, 1)
        return np.asarray(
            features(
                need,
                ahead.clock[seen.row],
                loads,
                np.asarray(seen.active),
                orders,
                np.asarray(cooldown),
                np.asarray(queue),
            )
        )


def plain(params: Any, environment: Environment, name: str = "DQN") -> DQN:
    """The agent with the means of trained weights, which `nnx.split` made."""
    held = nnx.to_pure_dict(params)
    weights = {layer: {k: np.asarray(v, dtype=np.float32) for k, v in held[layer].items()} for layer in LAYERS}
    return DQN(weights, environment.boot_delay_ticks, name)


def save_agent(agent: DQN, path: Path | str) -> Path:
    """Write an agent to one new .npz file and return its path. Raises SourceError if the file is there."""
    place = Path(path)
    if place.exists():
        raise SourceError(f"{place}: there is something already. Name a new file.")
    place.parent.mkdir(parents=True, exist_ok=True)
    said = {
        "format": FORMAT, "name": agent.name, "boot_delay_ticks": agent.boot_delay_ticks, "factors": FACTORS,
        "levels": LEVELS,
    }  # fmt: skip
    flat = {f"{layer}.{name}": value for layer, held in agent.weights.items() for name, value in held.items()}
    with place.open("wb") as file:
        np.savez(file, about=np.array(json.dumps(said)), **flat)  # type: ignore[arg-type]
    return place


def load_agent(path: Path | str) -> DQN:
    """An agent that `save_agent` wrote; it decides exactly as before. Raises SourceError for any other file."""
    place = Path(path)
    try:
        with np.load(place, allow_pickle=False) as file:
            said = json.loads(str(file["about"]))
            if (said["format"], tuple(said["factors"]), tuple(said["levels"])) != (FORMAT, FACTORS, LEVELS):
                raise SourceError(
                    f"{place}: an agent with other actions or views than this version has. Train it anew."
                )
            weights: Weights = {layer: {} for layer in LAYERS}
            for key in file.files:
                if key != "about":
                    layer, name = key.split(".")
                    weights[layer][name] = file[key]
        agent = DQN(weights, int(said["boot_delay_ticks"]), str(said["name"]))
        agent.values(np.zeros(n_features(agent.boot_delay_ticks), dtype=np.float32))  # the shapes fit together
    except SourceError:
        raise
    except (OSError, EOFError, KeyError, ValueError, TypeError, zipfile.BadZipFile) as error:
        raise SourceError(
            f"{place}: no agent is here ({type(error).__name__}). Give the file that save_agent wrote."
        ) from error
    return agent
