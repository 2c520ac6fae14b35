"""Fidelity: how real simulated machines look, statistic by statistic and to a classifier that never saw the machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.ensemble import ExtraTreesClassifier
from sklearn.model_selection import StratifiedGroupKFold

from support.errors import SchemaError, TooShortError
from support.telemetry.judging.features import STEPS_PER_DAY, correlation, machine_statistics, spells, window_features
from support.telemetry.schema import Telemetry

__all__ = ["FidelityReport", "Machines", "auc", "compare_statistics", "fidelity", "machines", "two_sample_test"]

Machines = Telemetry | Mapping[str, np.ndarray]
FOLDS, TREES, RESAMPLES, SHUFFLED = 5, 200, 400, 12
HALVINGS = 20  # random halves of the real machines, for the distance that chance alone makes
BURST_QUANTILE, IDLE_QUANTILE = 0.95, 0.25
POOLED_QUANTILES = np.linspace(0.005, 0.995, 100)  # of one machine, so that each counts alike in a pool


@dataclass(frozen=True)
class FidelityReport:
    """What `fidelity` found. auc: 0.5 looks real, 1.0 always found out; auc_interval: 90 % bootstrap over machines.

    statistics: see `compare_statistics`. giveaways: see `two_sample_test`. n_real, n_simulated: machines in the test.
    """

    statistics: pd.DataFrame
    auc: float
    auc_interval: tuple[float, float]
    giveaways: pd.DataFrame
    n_real: int
    n_simulated: int

    def table(self) -> pd.DataFrame:
        """One row per statistic: its medians over the real and the simulated machines, and the distance with its yardstick."""
        return self.statistics.copy()


def fidelity(
    real: Machines, simulated: Machines, *, metric: str | Sequence[str] = "cpu_utilization", rng: np.random.Generator
) -> FidelityReport:
    """Compare simulated with real machines at a step of 5 minutes: marginals, memory, spectrum, bursts, tail, classifier.

    real, simulated: Telemetry, or a mapping from a machine's name to an array (n_time,) or (n_time, n_metric) that starts
    at midnight. metric: one name, or several, whose cross-correlations are then compared as well.
    Raises SchemaError (unknown metric, another step), TooShortError (fewer than 5 machines with a whole day on a side).
    Source: the classifier two-sample test of Lopez-Paz and Oquab, ICLR 2017, with machines as the unit held out.

    Example:
        >>> rng = np.random.default_rng(1)
        >>> flat = {f"a{i}": rng.normal(50, 1, 576) for i in range(6)}
        >>> wild = {f"b{i}": rng.normal(50, 20, 576) for i in range(6)}
        >>> round(fidelity(flat, wild, rng=rng).auc, 2)
        1.0
    """
    names = [metric] if isinstance(metric, str) else list(metric)
    left, right = machines(real, names), machines(simulated, names)
    features = [window_features(side, names) for side in (left, right)]
    found, interval, giveaways = two_sample_test(*features, rng=rng)
    counts = [side.index.nunique() for side in features]
    return FidelityReport(compare_statistics(left, right, names, rng=rng), found, interval, giveaways, *counts)


def machines(data: Machines, metrics: Sequence[str]) -> dict[str, np.ndarray]:
    """Machine name -> array (n_time, n_metric) at 5 minutes from the first midnight UTC on; NaN where missing.

    Machines without a single value are left out. Raises SchemaError for a metric, shape or step that does not fit.

    Example:
        >>> machines({"a": np.zeros(3)}, ["cpu_utilization"])["a"].shape
        (3, 1)
    """
    if not isinstance(data, Telemetry):
        arrays = {str(name): np.asarray(values, dtype=float) for name, values in data.items()}
        arrays = {name: values[:, None] if values.ndim == 1 else values for name, values in arrays.items()}
        wrong = next((name for name, values in arrays.items() if values.shape[1:] != (len(metrics),)), None)
        if wrong is not None:
            raise SchemaError(
                f"{wrong}: shape {arrays[wrong].shape}, but {len(metrics)} metric(s). Give one column each."
            )
        return arrays
    lacking = [name for name in metrics if name not in data.observations.columns]
    if lacking:
        raise SchemaError(f"{data.source}: no metric {lacking[0]!r}; there are {data.metrics}.")
    if data.step_seconds != 86_400 / STEPS_PER_DAY:
        raise SchemaError(f"{data.source}: the step is {data.step_seconds:g} s; use load(..., step_seconds=300).")
    result = {}
    for name, frame in data.observations[list(metrics)].groupby(level="resource_id"):
        slot = frame.index.get_level_values("timestamp").asi8 // (300 * 10**9) % STEPS_PER_DAY
        values = frame.to_numpy()[(-int(slot[0])) % STEPS_PER_DAY :]
        if np.isfinite(values).any():
            result[str(name)] = values
    return result


def two_sample_test(
    real: pd.DataFrame, simulated: pd.DataFrame, *, rng: np.random.Generator
) -> tuple[float, tuple[float, float], pd.DataFrame]:
    """AUC of telling simulated from real windows of machines never trained on, its 90 % interval, and the give-aways.

    real, simulated: features indexed by machine (`window_features`). Machines have equal weight however many their
    windows. Give-aways, one row per feature, the worst first: `auc_lost` when it is shuffled on held-out machines
    (Breiman, Machine Learning 45, 2001; only the 12 most used, NaN for the rest), `auc_alone` (of the feature by itself,
    0.5 to 1), `real` and `simulated` (medians over machines of their medians). Raises TooShortError with fewer than 5 machines on a side.
    """
    for side, table in (("real", real), ("simulated", simulated)):
        if table.index.nunique() < FOLDS:
            raise TooShortError(
                f"{side}: {table.index.nunique()} machine(s) with a whole day; give {FOLDS} or more, so that some can be held out."
            )
    table = pd.concat([real, simulated]).reset_index(drop=True).fillna(0.0).clip(-1e12, 1e12)
    features, truth = table.to_numpy(), np.repeat([0, 1], [len(real), len(simulated)])
    owner = np.concatenate([[f"r{name}" for name in real.index], [f"s{name}" for name in simulated.index]])
    group, codes, size = np.unique(owner, return_inverse=True, return_counts=True)
    weight = 1.0 / size[codes]
    weight /= np.bincount(truth, weights=weight)[truth]
    score = np.full(len(truth), np.nan)
    lost = []
    split = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=int(rng.integers(2**31)))
    for train, test in split.split(features, truth, groups=codes):
        if len(np.unique(truth[test])) < 2 or len(np.unique(truth[train])) < 2:
            continue  # nothing to tell apart in this fold
        model = ExtraTreesClassifier(
            TREES, min_samples_leaf=2, max_features=0.3, random_state=int(rng.integers(2**31)), n_jobs=1
        ).fit(features[train], truth[train], sample_weight=weight[train])
        raw = model.predict_proba(features[test])[:, 1]
        score[test] = _balanced_rank(raw, truth[test], weight[test])
        lost.append(_permutation_losses(model, features[test], truth[test], weight[test], raw, rng))
    kept = np.isfinite(score)
    rows_of = [np.flatnonzero((codes == number) & kept) for number in range(len(group))]
    sides = [[number for number, rows in enumerate(rows_of) if len(rows) and truth[rows[0]] == side] for side in (0, 1)]
    drawn = []
    for _ in range(RESAMPLES):
        rows = np.concatenate([rows_of[m] for side in sides for m in rng.choice(side, len(side))])
        drawn.append(auc(score[rows], truth[rows], weight[rows]))
    low, high = np.quantile(drawn, [0.05, 0.95])
    alone = [auc(column, truth, weight) for column in features.T]
    giveaways = pd.DataFrame(
        {
            "auc_lost": pd.DataFrame(lost).mean().to_numpy(),
            "auc_alone": np.maximum(alone, 1 - np.array(alone)),
            "real": real.groupby(level=0).median().median().reindex(table.columns).to_numpy(),
            "simulated": simulated.groupby(level=0).median().median().reindex(table.columns).to_numpy(),
        },
        index=table.columns,
    ).sort_values("auc_lost", ascending=False)
    return auc(score[kept], truth[kept], weight[kept]), (float(low), float(high)), giveaways


def auc(score: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> float:
    """Weighted area under the ROC curve: the probability that a simulated window scores above a real one, ties half.

    score, truth (0 or 1), weight: shape (n,). Source: Hanley and McNeil, Radiology 143 (1982).

    Example:
        >>> auc(np.array([0.1, 0.4, 0.4, 0.9]), np.array([0, 0, 1, 1]), np.ones(4))
        0.875
    """
    _, place = np.unique(score, return_inverse=True)
    real, simulated = (np.bincount(place, weights=weight * (truth == side)) for side in (0, 1))
    below = np.cumsum(real) - real / 2
    return float(below @ simulated / (real.sum() * simulated.sum()))


def _balanced_rank(raw: np.ndarray, truth: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """Ranks of a fold's scores in (0, 1), both classes counting alike: folds differ in calibration and in class balance."""
    balanced = weight / np.bincount(truth, weights=weight)[truth]
    _, place = np.unique(raw, return_inverse=True)
    mass = np.bincount(place, weights=balanced)
    return ((np.cumsum(mass) - mass / 2) / mass.sum())[place]


def _permutation_losses(
    model: ExtraTreesClassifier,
    features: np.ndarray,
    truth: np.ndarray,
    weight: np.ndarray,
    raw: np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    order = rng.permutation(len(truth))
    columns = np.argsort(model.feature_importances_)[-SHUFFLED:]  # the others cannot matter more
    shuffled = np.tile(features, (len(columns), 1, 1))
    for copy, column in zip(shuffled, columns, strict=True):
        copy[:, column] = features[order, column]
    scores = model.predict_proba(shuffled.reshape(-1, features.shape[1]))[:, 1].reshape(len(columns), -1)
    losses = np.full(features.shape[1], np.nan)
    losses[columns] = auc(raw, truth, weight) - np.array([auc(row, truth, weight) for row in scores])
    return losses


def compare_statistics(
    real: Mapping[str, np.ndarray],
    simulated: Mapping[str, np.ndarray],
    metrics: Sequence[str],
    *,
    rng: np.random.Generator,
) -> pd.DataFrame:
    """One row per metric and statistic: `real` and `simulated` (medians over machines), `distance`, `by_chance`, `measure`.

    distance: Wasserstein distance between the machines of both sides, in standard deviations of the real machines (a
    statistic of each machine), or in natural-log units (pooled values, burst and idle spell lengths, each machine with equal
    weight). by_chance: the median distance between two random halves of the real machines, which no generator can beat by
    much. Source: Villani, Optimal Transport (2009), chapter 6.
    """
    rows = []
    for number, metric in enumerate(metrics):
        sides = [[values[:, number] for values in side.values()] for side in (real, simulated)]
        sides = [[x for x in side if np.isfinite(x).sum() > 1] for side in sides]
        tables = [pd.DataFrame([machine_statistics(x) for x in side]) for side in sides]
        for name in tables[0].columns:
            rows.append({"metric": metric, "statistic": name} | _row(tables[0][name], tables[1][name], rng))
        for name, pool in (("values", _values), ("burst lengths, steps", _bursts), ("idle spells, steps", _idle)):
            pools = [[pool(x) for x in side] for side in sides]
            rows.append({"metric": metric, "statistic": f"all {name}"} | _pooled_row(pools[0], pools[1], rng))
    for i, j in combinations(range(len(metrics)), 2):
        pairs = [pd.Series([correlation(x[:, i], x[:, j]) for x in side.values()]) for side in (real, simulated)]
        rows.append(
            {"metric": f"{metrics[i]} x {metrics[j]}", "statistic": "correlation"} | _row(pairs[0], pairs[1], rng)
        )
    return pd.DataFrame(rows).set_index(["metric", "statistic"])


def _row(real: pd.Series, simulated: pd.Series, rng: np.random.Generator) -> dict[str, object]:
    a, b = real.dropna().to_numpy(), simulated.dropna().to_numpy()
    unit = float(np.std(a)) if len(a) else 0.0

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        if not len(x) or not len(y):
            return float("nan")
        moved = float(stats.wasserstein_distance(x, y))
        return moved / unit if unit > 0 else (0.0 if moved == 0 else float("inf"))

    halves = [np.array_split(rng.permutation(a), 2) for _ in range(HALVINGS)]
    return {
        "real": float(np.median(a)) if len(a) else float("nan"),
        "simulated": float(np.median(b)) if len(b) else float("nan"),
        "distance": distance(a, b),
        "by_chance": float(np.median([distance(x, y) for x, y in halves])),
        "measure": "Wasserstein, real sd",
    }


def _pooled_row(real: list[np.ndarray], simulated: list[np.ndarray], rng: np.random.Generator) -> dict[str, object]:
    def pool(parts: Sequence[np.ndarray]) -> np.ndarray:
        return np.sort(np.concatenate([np.quantile(part, POOLED_QUANTILES) for part in parts if len(part)] or [[0.0]]))

    def distance(x: np.ndarray, y: np.ndarray) -> float:
        return float(stats.wasserstein_distance(np.arcsinh(x), np.arcsinh(y)))  # as ln for values well above 1

    orders = [rng.permutation(len(real)) for _ in range(HALVINGS)]
    halves = [[pool([real[k] for k in half]) for half in np.array_split(order, 2)] for order in orders]
    a, b = pool(real), pool(simulated)
    return {
        "real": float(np.median(a)),
        "simulated": float(np.median(b)),
        "distance": distance(a, b),
        "by_chance": float(np.median([distance(x, y) for x, y in halves])),
        "measure": "Wasserstein, ln",
    }


def _values(x: np.ndarray) -> np.ndarray:
    return x[np.isfinite(x)]


def _bursts(x: np.ndarray) -> np.ndarray:
    return spells(x > np.nanquantile(x, BURST_QUANTILE))


def _idle(x: np.ndarray) -> np.ndarray:
    return spells(x <= np.nanquantile(x, IDLE_QUANTILE))
