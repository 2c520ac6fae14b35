"""Pretrain the book's own zero-shot forecaster: a small Chronos-2 on made-up series only, with the library's own `fit`.

Run: python -m benchmarks.pretrain_zero_shot [--steps N] [--batch N] [--seed N] [--out FOLDER]; needs the extra
`foundation`. Writes config.json, model.safetensors (half precision) and card.json (what made it: script, seed, hash of
the training series, steps, time) into the folder. Longer on a GPU when one is at hand: give more steps.

The committed weights are the second of two runs: `--steps 1800 --out A`, then `--start A --seed 20261122 --steps 1600
--rate 1.5e-3`. The same seeds give the same series (compare the hash); sums in another order give other last digits.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported
os.environ.setdefault("HF_HUB_OFFLINE", "1")

import numpy as np

from support.forecasting.foundation.corpus import mixed

WEEK, DAY = 2016, 288  # steps of 5 minutes: the longest context, and the horizon
PATCH = 24  # steps of a token: two hours of 5 minutes, and a divisor of 24, 144, 168, 288 and 1440
LEVELS = [0.01, 0.025, 0.05, 0.1, 0.2, 0.25, 0.3, 0.4, 0.5, 0.6, 0.7, 0.75, 0.8, 0.9, 0.95, 0.975, 0.99]
SIZES = {"d_model": 64, "d_kv": 16, "d_ff": 192, "num_layers": 3, "num_heads": 4}
N_SERIES = 6000
SLACK = 288  # steps by which a drawn window can move along its series
SHORTEST_PAST = 96
LEARNING_RATE, WARM_FRAC = 2e-3, 0.05
SEED = 20261121


def main() -> None:
    """Series, model, fit, weights, card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--seed", type=int, default=SEED)
    parser.add_argument("--series", type=int, default=N_SERIES)
    parser.add_argument("--rate", type=float, default=LEARNING_RATE)
    parser.add_argument("--start", type=Path, help="folder of weights to go on from, instead of random ones")
    parser.add_argument("--out", type=Path, default=Path("_build/zero-shot"))
    asked = parser.parse_args()

    import torch
    from chronos import Chronos2Model, Chronos2Pipeline
    from chronos.chronos2.config import Chronos2CoreConfig

    gpu = torch.cuda.is_available()
    if not gpu:
        torch.set_num_threads(1)
    began = time.time()
    series = mixed(asked.series, WEEK + DAY + SLACK, rng=np.random.default_rng(asked.seed))
    digest = hashlib.sha256(series.tobytes()).hexdigest()
    print(
        f"{len(series)} series of {series.shape[1]} steps in {time.time() - began:.0f} s, sha256 {digest}", flush=True
    )

    torch.manual_seed(asked.seed)
    config = Chronos2CoreConfig(
        **SIZES,
        dropout_rate=0.0,
        initializer_factor=0.05,
        reg_token_id=1,
        architectures=["Chronos2Model"],
        chronos_pipeline_class="Chronos2Pipeline",
        chronos_config={
            "context_length": WEEK, "input_patch_size": PATCH, "input_patch_stride": PATCH, "output_patch_size": PATCH,
            "max_output_patches": DAY // PATCH, "quantiles": LEVELS, "time_encoding_scale": WEEK, "use_arcsinh": True,
            "use_reg_token": True,
        },
    )  # fmt: skip
    model = Chronos2Model.from_pretrained(asked.start, dtype=torch.float32) if asked.start else Chronos2Model(config)
    model = model.to("cuda" if gpu else "cpu")
    n_parameters = sum(p.numel() for p in model.parameters())
    print(f"{n_parameters} parameters on {'a GPU' if gpu else 'one CPU thread'}", flush=True)
    fitting = time.time()
    cpu = time.process_time()
    fitted = Chronos2Pipeline(model).fit(
        inputs=list(series), prediction_length=DAY, context_length=WEEK, min_past=SHORTEST_PAST, num_steps=asked.steps,
        batch_size=asked.batch, learning_rate=asked.rate, output_dir=asked.out / "run", seed=asked.seed,
        lr_scheduler_type="cosine", warmup_steps=int(WARM_FRAC * asked.steps), disable_tqdm=True,
    )  # fmt: skip
    seconds, cpu = time.time() - fitting, time.process_time() - cpu
    fitted.model.half().save_pretrained(asked.out)
    card = {
        "model": "Chronos-2, small", "parameters": n_parameters, "script": "benchmarks/pretrain_zero_shot.py",
        "seed": asked.seed, "steps": asked.steps, "rate": asked.rate, "batch": asked.batch, "series": len(series),
        "steps_per_series": int(series.shape[1]), "training_sha256": digest, "fit_seconds": round(seconds),
        "fit_cpu_seconds": round(cpu), "device": "gpu" if gpu else "1 CPU thread", "torch": torch.__version__,
        "licence": "weights: MIT, as this book",
    }  # fmt: skip
    if asked.start:
        card["start"] = json.loads((asked.start / "card.json").read_text(encoding="utf-8"))
    (asked.out / "card.json").write_text(json.dumps(card, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(card), file=sys.stderr)


if __name__ == "__main__":
    main()
