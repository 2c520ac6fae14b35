"""The forward pass of Chronos-2 in NumPy, for one series at a time without covariates, from the checkpoint's own files.

Enough for a small model: it reads `config.json` and `model.safetensors` as the library writes them, and gives the
numbers that the library gives. Source: Ansari et al. (2025), section 3, and the code of chronos-forecasting 2.3.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from support.errors import SourceError

__all__ = ["Chronos2", "read_checkpoint"]

NUMBERS = {"F16": np.float16, "F32": np.float32, "F64": np.float64}  # names in a safetensors header
FLAT = 1e-5  # scale of a constant context, as in the library
NORM_EPS = 1e-6
MASKED = -1e9  # added to the score of a patch that holds no value


@dataclass(frozen=True)
class Chronos2:
    """A checkpoint: its settings and its weights by name, as the library names them.

    patch: steps of a token. levels: (n_level,). longest_context, longest_horizon: steps.
    """

    n_layers: int
    n_heads: int
    rope_base: float
    patch: int
    time_scale: float
    levels: np.ndarray
    longest_context: int
    longest_horizon: int
    weights: dict[str, np.ndarray]

    @property
    def n_parameters(self) -> int:
        """Number of weights."""
        return sum(w.size for w in self.weights.values())

    def quantiles(self, contexts: np.ndarray, horizon: int) -> np.ndarray:
        """Quantiles (n_series, horizon, n_level), as the network gives them: not sorted.

        contexts: (n_series, n_time), oldest first; NaN on the left of a shorter series. Only the newest
        `longest_context` steps are read.
        """
        x = np.asarray(contexts, dtype=np.float32)[:, -self.longest_context :]
        x = np.pad(x, ((0, 0), (-x.shape[1] % self.patch, 0)), constant_values=np.nan)
        centre = np.nanmean(x, axis=1, keepdims=True)
        scale = np.sqrt(np.nanmean((x - centre) ** 2, axis=1, keepdims=True))
        scale = np.where(scale == 0, FLAT, scale)
        seen = np.isfinite(x)
        past = self._tokens(np.where(seen, np.arcsinh((x - centre) / scale), 0.0), seen, -x.shape[1])
        n_patch = -(-horizon // self.patch)
        unknown = np.zeros((len(x), n_patch * self.patch), dtype=np.float32)
        future = self._tokens(unknown, unknown, 0)
        mark = np.broadcast_to(self.weights["shared.weight"][1], (len(x), 1, past.shape[2]))
        there = seen.reshape(len(x), -1, self.patch).any(axis=2)
        there = np.pad(there, ((0, 0), (0, 1 + n_patch)), constant_values=True)
        hidden = self._encode(np.concatenate([past, mark, future], axis=1), np.where(there, 0.0, MASKED))
        out = self._block("output_patch_embedding", hidden[:, -n_patch:])
        out = out.reshape(len(x), n_patch, len(self.levels), self.patch).swapaxes(2, 3)
        out = out.reshape(len(x), -1, len(self.levels))[:, :horizon]
        return np.asarray(np.sinh(out) * scale[..., None] + centre[..., None], dtype=float)

    def _tokens(self, values: np.ndarray, seen: np.ndarray, first: int) -> np.ndarray:
        """Embedded patches (n_series, n_patch, width) of times, values and mask, all (n_series, n_time)."""
        n_series, n_time = values.shape
        times = np.arange(first, first + n_time, dtype=np.float32) / np.float32(self.time_scale)
        parts = (np.broadcast_to(times, values.shape), values, seen)
        stacked = [np.asarray(p, dtype=np.float32).reshape(n_series, -1, self.patch) for p in parts]
        return self._block("input_patch_embedding", np.concatenate(stacked, axis=2))

    def _block(self, name: str, x: np.ndarray) -> np.ndarray:
        """A hidden layer with ReLU beside a straight path."""
        w = {part: self.weights[f"{name}.{part}_layer.weight"].T for part in ("hidden", "output", "residual")}
        b = {part: self.weights[f"{name}.{part}_layer.bias"] for part in w}
        hidden = np.maximum(x @ w["hidden"] + b["hidden"], 0)
        return np.asarray(hidden @ w["output"] + b["output"] + x @ w["residual"] + b["residual"])

    def _encode(self, x: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Layers of time attention, group attention (a series alone attends to itself) and feed-forward."""
        turn = self._rotation(x.shape[1])
        for n in range(self.n_layers):
            at = f"encoder.block.{n}.layer"
            x = x + self._attend(f"{at}.0.self_attention", self._norm(f"{at}.0.layer_norm", x), turn, mask)
            alone = self._norm(f"{at}.1.layer_norm", x) @ self.weights[f"{at}.1.self_attention.v.weight"].T
            x = x + alone @ self.weights[f"{at}.1.self_attention.o.weight"].T
            inner = np.maximum(self._norm(f"{at}.2.layer_norm", x) @ self.weights[f"{at}.2.mlp.wi.weight"].T, 0)
            x = x + inner @ self.weights[f"{at}.2.mlp.wo.weight"].T
        return self._norm("encoder.final_layer_norm", x)

    def _attend(self, name: str, x: np.ndarray, turn: tuple[np.ndarray, np.ndarray], mask: np.ndarray) -> np.ndarray:
        q, k, v = (self._heads(x @ self.weights[f"{name}.{part}.weight"].T) for part in "qkv")
        q, k = (z * turn[0] + np.concatenate(np.split(z, 2, axis=-1)[::-1], axis=-1) * turn[1] for z in (q, k))
        scores = q @ k.swapaxes(2, 3) + mask[:, None, None, :].astype(np.float32)  # not divided by the width's root
        share = np.exp(scores - scores.max(axis=-1, keepdims=True))
        mixed = (share / share.sum(axis=-1, keepdims=True)) @ v
        return np.asarray(mixed.swapaxes(1, 2).reshape(x.shape[0], x.shape[1], -1) @ self.weights[f"{name}.o.weight"].T)

    def _heads(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(*x.shape[:2], self.n_heads, -1).swapaxes(1, 2)

    def _rotation(self, n_token: int) -> tuple[np.ndarray, np.ndarray]:
        """Cosines, and sines with the sign of their half (n_token, width of a head): rotary positions."""
        width = self.weights["encoder.block.0.layer.0.self_attention.q.weight"].shape[0] // self.n_heads
        rate = self.rope_base ** (-np.arange(0, width, 2) / width)
        angle = np.tile(np.arange(n_token)[:, None] * rate, 2)
        sign = np.repeat([-1.0, 1.0], width // 2)
        return np.cos(angle).astype(np.float32), (np.sin(angle) * sign).astype(np.float32)

    def _norm(self, name: str, x: np.ndarray) -> np.ndarray:
        """Root mean square norm, without a mean."""
        return np.asarray(self.weights[f"{name}.weight"] * x / np.sqrt((x**2).mean(axis=-1, keepdims=True) + NORM_EPS))


def read_checkpoint(folder: Path) -> Chronos2:
    """The Chronos-2 checkpoint of a folder: `config.json` and `model.safetensors`.

    Raises SourceError if a file is missing or is of another kind of model.
    """
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        raw = (folder / "model.safetensors").read_bytes()
    except OSError as error:
        raise SourceError(f"{folder}: no checkpoint of Chronos-2: {error}. Give the folder of both files.") from None
    if config.get("architectures") != ["Chronos2Model"]:
        raise SourceError(f"{folder}: a checkpoint of {config.get('architectures')}, not of Chronos-2.")
    own = config["chronos_config"]
    base = config.get("rope_theta") or config["rope_parameters"]["rope_theta"]
    return Chronos2(
        config["num_layers"], config["num_heads"], float(base), own["output_patch_size"],
        float(own["time_encoding_scale"]), np.array(own["quantiles"]), own["context_length"],
        own["max_output_patches"] * own["output_patch_size"], _tensors(raw),
    )  # fmt: skip


def _tensors(raw: bytes) -> dict[str, np.ndarray]:
    """Arrays of a safetensors file by name: eight bytes of length, a JSON header, then the numbers."""
    first = 8 + int.from_bytes(raw[:8], "little")
    header = {name: part for name, part in json.loads(raw[8:first]).items() if name != "__metadata__"}
    found = {}
    for name, part in header.items():
        begin, end = part["data_offsets"]
        numbers = np.frombuffer(raw[first + begin : first + end], dtype=NUMBERS[part["dtype"]])
        found[name] = numbers.reshape(part["shape"]).astype(np.float32)
    return found
