"""Learning to scale: how soon five seeds beat the reactive rules, where they end, and three variants that do worse or not.

Run: python -m benchmarks.scaling_rl [piece ...]; without a piece, all that are not done; --partial: store what there is. Pieces are kept in
_build/scaling_rl and are not run twice; when all are there, benchmarks/results/scaling_rl.json is written, and beside
it scaling_rl.npz, the agent of the seed with the best validation days. A process
compiles once, for its first training; the others are charged the same seconds.
Validation days choose the weights, test days judge them; neither is trained on. CPU seconds are those of the whole
process: compilation and looks at validation days count, looks at test days do not. A rival is beaten for good at the
first look from which on the weights chosen so far cost less than it on the test days.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import time
from dataclasses import asdict, replace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy and JAX are imported

import numpy as np

from benchmarks.record import ROOT, store
from support.autoscaling import ForecastMean, Newsvendor, Policy, Reactive, score, tune_reactive
from support.autoscaling.learning.agent import DQN, load_agent, save_agent
from support.autoscaling.learning.cloning import clone
from support.autoscaling.learning.course import Course, make_course
from support.autoscaling.learning.training import LearningPlan, train
from support.telemetry import load

FOLDER = ROOT / "_build" / "scaling_rl"
SEED = 20261121
DAYS = {"warm_days": 8.0, "train_days": 56, "validation_days": 14, "test_days": 14}
FIT_DAYS = 42.0  # most days that a forecast is fitted on, those of the rivals too
compiled: dict[str, float] = {}  # CPU seconds of this process's compilation
TUNING_DAYS = 28.0  # newest days of the past on which the reactive target is tuned
PLAN = LearningPlan()
VARIANTS = {
    **{f"seed-{k}": (PLAN, k) for k in range(5)},
    "huber-0": (replace(PLAN, huber=1.0), 0),
    "warm-0": (PLAN, 0),
    "bare-0": (replace(PLAN, reference=None), 0),
    "bare-huber-0": (replace(PLAN, reference=None, huber=1.0), 0),
    "bare-clipped-0": (replace(PLAN, reference=None, reward_bound=1.0), 0),
}  # fmt: skip
PIECES = ("rules", *VARIANTS)
CLONE_STEPS = 3_000


def the_course() -> Course:
    """The generated service: its newest days, the same for every piece."""
    demand = load("synthetic", seed=SEED, days=int(sum(DAYS.values()))).demand()
    return make_course(demand, fit_days=FIT_DAYS, **DAYS)  # type: ignore[arg-type]


def judged(course: Course, policy: Policy) -> dict[str, Any]:
    """Cost of each test day, regret and scores of a policy, by the readable simulator."""
    runs = course.runs(policy, "test")
    costs = np.array([run.cost_usd for run in runs])
    scores = [score(run) for run in runs]
    shown = ("dropped_percent", "minute_slo_percent", "churn_percent", "mean_servers")
    return {
        "regret": round(float(course.regrets(costs, "test").mean()), 5),
        "day_costs_usd": costs.round(5).tolist(),
        **{name: round(float(np.mean([s[name] for s in scores])), 4) for name in shown},
    }


def rules() -> dict[str, Any]:
    """The rivals, tuned on the past where they have something to tune."""
    course = the_course()
    past = course.demand.iloc[: course.days["test"][0]]
    target = tune_reactive(past, course.environment, days=TUNING_DAYS)
    policies: dict[str, Policy] = {
        "reactive 70 %": Reactive(0.7), "reactive tuned": Reactive(target),
        "forecast mean +20 %": ForecastMean(0.2), "newsvendor": Newsvendor(),
    }  # fmt: skip
    return {
        "environment": {name: value for name, value in asdict(course.environment).items() if value is not None},
        "optimum_usd": course.optima_usd["test"].round(5).tolist(),
        "tuned_target": target,
        "policies": {name: judged(course, policy) for name, policy in policies.items()},
    }


def learned(name: str) -> dict[str, Any]:
    """One training: the curve on validation and test days, and the chosen agent on the test days."""
    course, (plan, seed) = the_course(), VARIANTS[name]
    result: dict[str, Any] = {"plan": asdict(plan), "seed": seed}
    initial, before = None, compiled.get("cpu_s", 0.0)
    if name.startswith("warm"):
        began = time.process_time()
        initial = clone(course, width=plan.width, steps=CLONE_STEPS, seed=seed)
        cloning = time.process_time() - began
        before += cloning
        result |= {"clone_cpu_s": round(cloning, 1), "clone": judged(course, initial)}
        print(f"{name}: cloned in {cloning:.0f} s of CPU, test regret {result['clone']['regret']:.3f}", flush=True)
    curve: list[dict[str, float]] = []
    best = [np.inf, np.inf]

    def progress(row: dict[str, float]) -> None:
        if row["validation"] < best[0]:
            best[:] = [row["validation"], row["test"]]
        told = row | {"cpu_seconds": row["cpu_seconds"] + before, "chosen_test": best[1]}
        curve.append({key: round(value, 5) for key, value in told.items()})
        print(f"{name}: " + ", ".join(f"{key} {value:,.4g}" for key, value in told.items()), flush=True)

    trained = train(course, plan, seed=seed, initial=initial, watch_test=True, progress=progress)
    seconds = trained.curve["cpu_seconds"]
    compiled.setdefault("cpu_s", round(float(2 * seconds[0] - seconds[1]), 2))  # the first look without its updates
    result["compilation_cpu_s"] = compiled["cpu_s"]
    save_agent(trained.agent, FOLDER / f"{name}.npz")
    spent = course.decision_seconds(trained.agent, "validation")
    p50, p99 = np.quantile(spent, [0.5, 0.99])
    return result | {
        "curve": curve,
        "chosen": judged(course, trained.agent),
        "decision": {"p50_s": round(float(p50), 7), "p99_s": round(float(p99), 7), "decisions": len(spent)},
        "same_after_loading": _same(course, trained.agent, name),
    }


def _same(course: Course, agent: DQN, name: str) -> bool:
    again = load_agent(FOLDER / f"{name}.npz")
    first = replace(course, days=course.days | {"validation": course.days["validation"][:1]})
    reasons = [first.runs(policy, "validation")[0].ticks["reason"] for policy in (agent, again)]
    return bool((reasons[0] == reasons[1]).all())


def seconds_to_beat(curve: list[dict[str, float]], regret: float) -> float | None:
    """CPU seconds of the first look from which on the chosen weights stay below `regret` on the test days."""
    lost = [k for k, row in enumerate(curve) if row["chosen_test"] >= regret]
    first = lost[-1] + 1 if lost else 0
    return curve[first]["cpu_seconds"] if first < len(curve) else None


def summary(pieces: dict[str, Any]) -> dict[str, Any]:
    """What the chapter quotes."""
    rivals = {name: row["regret"] for name, row in pieces["rules"]["policies"].items()}
    rows = {}
    for name in [name for name in VARIANTS if name in pieces]:
        curve = pieces[name]["curve"]
        rows[name] = {
            "regret": pieces[name]["chosen"]["regret"], "last_regret": curve[-1]["test"],
            "cpu_seconds": curve[-1]["cpu_seconds"],
            **{f"beats {rival}": seconds_to_beat(curve, rivals[rival]) for rival in ("reactive 70 %", "reactive tuned")},
        }  # fmt: skip
    return {"days": DAYS, "fit_days": FIT_DAYS, "source": f"synthetic, seed {SEED}", "rivals": rivals, "runs": rows}


def main() -> None:
    """Run what is asked for and not done; write the record when nothing is missing."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    partial = "--partial" in sys.argv  # store what there is
    asked = [] if partial else sys.argv[1:] or PIECES
    for name in asked:
        path = FOLDER / f"{name}.json"
        if path.exists():
            continue
        (FOLDER / f"{name}.npz").unlink(missing_ok=True)
        result = rules() if name == "rules" else learned(name)
        path.write_text(json.dumps(result) + "\n")
        print(f"{name}: done", flush=True)
    missing = [name for name in PIECES if not (FOLDER / f"{name}.json").exists()]
    if missing:
        print(f"not done: {', '.join(missing)}")
        if not partial:
            return
    pieces = {name: json.loads((FOLDER / f"{name}.json").read_text()) for name in PIECES if name not in missing}
    seeds = [name for name in pieces if name.startswith("seed")]
    best = min(seeds, key=lambda name: min(row["validation"] for row in pieces[name]["curve"]))
    shutil.copy(FOLDER / f"{best}.npz", ROOT / "benchmarks" / "results" / "scaling_rl.npz")
    store(
        "scaling_rl",
        summary(pieces) | {"missing": missing, "pieces": pieces},
        ("numpy", "jax", "jaxlib", "flax", "optax"),
    )


if __name__ == "__main__":
    main()
