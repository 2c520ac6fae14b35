"""The detectors on labelled series: NAB's files of the mirror, ASD, SMD and PetShop, with the published rows beside them.

Run: python -m benchmarks.nab [--only NAME ...] [--sets scorer nab nested asd smd petshop]; writes benchmarks/results/nab.json and
keeps what is there of other detectors and sets. NAB: the threshold that sees all labels (as the official score) and the
one from other files (five folds by file, the mean of SHUFFLES partitions), three profiles, false alerts a week, median
delay, seconds. The mirror has a part of NAB's files, so the scale is that part's own; Relative Entropy is re-scored on
exactly these files from its published alerts, Numenta and Windowed Gaussian on the files whose scores are at hand.
Needs the traces nab, asd, smd, petshop and the folder nab-scorer (BOOK_DATA).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported

import numpy as np
import pandas as pd

from benchmarks.record import ROOT, store
from support.anomalies.attribution import MetricAttribution, guilty_hit_rate
from support.anomalies.calibration import Debounced, TailCalibrated
from support.anomalies.corpus import LabelledSeries, nab_corpus, petshop_issues, server_corpus
from support.anomalies.detectors import (
    ChangePointSurprise,
    Detector,
    RobustZ,
    Streaming,
    Summed,
    scores_after_probation,
)
from support.anomalies.events import budget_threshold, cross_validated, event_score, folds_of
from support.anomalies.isolation import IsolationForestDetector
from support.anomalies.matrix_profile import LeftMatrixProfile
from support.anomalies.nab_score import PROFILES, sweep
from support.anomalies.pattern_memory import PatternMemory, memory_ensemble, surprise_and_forest
from support.anomalies.range_auc import vus_pr
from support.anomalies.residual import ResidualDetector
from support.errors import BookError

SEED = 20261121
FOLDS, SHUFFLES, NESTED_SHUFFLES = 5, 5, 3
FULL_CORPUS = (58, 365_558, 116)  # files, rows, windows of NAB v1.1
TEXTBOOK_RUN_ROWS = 10  # a short run: the usual alarm
PAGES_PER_WEEK = 2.0
LONGEST_BUFFER_ROWS = 100  # of VUS-PR: up to 50 rows early or late
LOWEST_LATENCY_MS = 0.01
# Of the nested choice: (rows a block, blocks a window) of each memory, and by how much a second alert must exceed the first
VARIANTS: tuple[tuple[tuple[int, int], ...], ...] = (
    ((3, 8), (6, 8), (12, 8)),
    ((1, 8), (3, 8), (6, 8), (12, 8)),
    ((3, 8), (6, 8), (12, 8), (24, 8)),
    ((2, 8), (6, 8), (24, 8)),
    ((3, 4), (6, 4), (12, 4)),
    ((1, 8), (6, 8), (24, 8)),
    ((6, 12),),
    ((6, 8),),
    ((6, 4),),
    ((12, 4),),
    ((3, 8),),
)
ESCALATIONS = (1.0, 1.25, 1.5)
DIGITS = 5
PACKAGES = ("numpy", "pandas", "scikit-learn", "numba", "stumpy")
SETS = ("scorer", "nab", "nested", "asd", "smd", "petshop")
# README of github.com/numenta/NAB at commit ea702d7: standard, low FP, low FN on all 58 files
PUBLISHED = {
    "Perfect": (100.0, 100.0, 100.0),
    "ARTime": (74.9, 65.1, 80.4),
    "Numenta HTM (lower end)": (69.7, 61.7, 74.2),
    "CAD OSE": (69.9, 67.0, 73.2),
    "HTM Java": (56.8, 50.7, 61.4),
    "earthgecko Skyline": (58.2, 46.2, 63.9),
    "KNN CAD": (58.0, 43.4, 64.8),
    "Relative Entropy": (54.6, 47.6, 58.8),
    "Random Cut Forest": (51.7, 38.4, 59.7),
    "Twitter ADVec": (47.1, 33.6, 53.5),
    "Windowed Gaussian": (39.6, 20.9, 47.4),
    "Etsy Skyline": (35.7, 27.1, 44.5),
    "Bayesian Changepoint": (17.7, 3.2, 32.2),
    "EXPoSE": (16.4, 3.2, 26.9),
    "Random": (11.0, 1.2, 19.5),
    "Null": (0.0, 0.0, 0.0),
}
SOURCE = (
    "README of github.com/numenta/NAB at commit ea702d7; all 58 files, threshold chosen on the labels it is judged on"
)
Result = dict[str, Any]


class RunLengthAlarm(ChangePointSurprise):
    """The textbook alarm of the change-point model: the probability that the run is short, which is not the surprise."""

    def score(self, values: np.ndarray | pd.Series) -> np.ndarray:
        """P(run length <= TEXTBOOK_RUN_ROWS) after each of the rows that follow."""
        z, out = (np.asarray(values, dtype=float) - self._center) / self._scale, np.empty(len(values))
        for row, value in enumerate(z):
            self.model.update(value)
            lengths, probability = self.model.run_length_posterior()
            out[row] = probability[lengths <= TEXTBOOK_RUN_ROWS].sum()
        return out


def day_of(series: LabelledSeries) -> int:
    """Rows of a day."""
    return max(2, round(86_400 / series.step_seconds))


def calibrated(*detectors: Detector) -> Detector:
    """Each tail-calibrated, summed, refractory."""
    return Debounced(Summed([TailCalibrated(detector) for detector in detectors]))


Factory = Callable[[LabelledSeries], Detector]
DETECTORS: dict[str, Factory] = {
    "Robust z": lambda s: RobustZ(),
    "Robust z, refractory": lambda s: Debounced(RobustZ()),
    "Isolation forest": lambda s: IsolationForestDetector(),
    "Isolation forest, refractory": lambda s: Debounced(IsolationForestDetector()),
    "Isolation forest, calibrated, refractory": lambda s: calibrated(IsolationForestDetector()),
    "Change points: P(run <= 10)": lambda s: RunLengthAlarm(),
    "Change points: surprise": lambda s: ChangePointSurprise(),
    "Change points: surprise, refractory": lambda s: Debounced(ChangePointSurprise()),
    "Change points: surprise, calibrated, refractory": lambda s: calibrated(ChangePointSurprise()),
    "Forecast residual": lambda s: ResidualDetector(season=day_of(s)),
    "Forecast residual, calibrated, refractory": lambda s: calibrated(ResidualDetector(season=day_of(s))),
    "Matrix profile": lambda s: LeftMatrixProfile(),
    "Matrix profile, calibrated, refractory": lambda s: calibrated(LeftMatrixProfile()),
    "Pattern memory": lambda s: PatternMemory(),
    "Pattern memory, calibrated, refractory": lambda s: calibrated(PatternMemory()),
    "Surprise + forest": lambda s: surprise_and_forest(),
    "Surprise + forest + pattern memory": lambda s: memory_ensemble(),
}


class EachMetric:
    """A detector of its own for every metric, tail-calibrated; the scores of a row are the blame of its metrics."""

    def __init__(self, make: Callable[[], Detector]) -> None:
        self.make = make

    def fit(self, history: np.ndarray) -> EachMetric:
        """One detector a column of (n_rows, n_metrics)."""
        self.detectors = [TailCalibrated(self.make()).fit(column) for column in history.T]
        return self

    def contributions(self, values: np.ndarray) -> np.ndarray:
        """Scores of the rows that follow, (n_rows, n_metrics)."""
        return np.column_stack([d.score(column) for d, column in zip(self.detectors, values.T, strict=True)])


# Detectors of many metrics: the anomaly score of a row is the mean of its metrics' contributions
MANY: dict[str, Callable[[LabelledSeries], Any]] = {
    "Each metric from its mean": lambda s: MetricAttribution("marginal"),
    "PCA": lambda s: MetricAttribution("pca"),
    "Each metric from the others": lambda s: MetricAttribution("conditional"),
    "Forecast residual of each metric": lambda s: EachMetric(lambda: ResidualDetector(season=day_of(s))),
    "Change-point surprise of each metric": lambda s: EachMetric(ChangePointSurprise),
}


def say(line: str) -> None:
    """Progress on stderr."""
    print(line, file=sys.stderr, flush=True)


def rounded(value: Any) -> Any:
    """Numbers with few digits and undefined ones as null, for JSON."""
    if isinstance(value, Mapping):
        return {str(k): rounded(v) for k, v in value.items()}
    if isinstance(value, float | np.floating):
        return float(f"{value:.{DIGITS}g}") if np.isfinite(value) else None
    return value


def judged(scores: Sequence[np.ndarray], corpus: Sequence[LabelledSeries]) -> Result:
    """In-sample and five-fold score in three profiles, and what the standard threshold does to the people on call."""
    windows = [s.windows for s in corpus]
    swept = sweep(scores, windows)
    best = {name: swept.best(profile) for name, profile in PROFILES.items()}
    rng = np.random.default_rng(SEED)
    partitions = [folds_of(len(corpus), FOLDS, rng=rng) for _ in range(SHUFFLES)]
    honest = pd.DataFrame([cross_validated(scores, windows, folds=folds) for folds in partitions])
    steps, starts = [s.step_seconds for s in corpus], [s.first_row for s in corpus]
    events = event_score(scores, windows, threshold=best["standard"].threshold, step_seconds=steps, first_rows=starts)
    return {
        "in_sample": {name: b.normalised for name, b in best.items()},
        "five_fold": honest.mean().to_dict(),
        "five_fold_lowest": honest.min().to_dict(),
        "five_fold_highest": honest.max().to_dict(),
        "threshold": best["standard"].threshold,
        "event_recall": events.recall,
        "false_alerts_per_week": events.false_alerts_per_week,
        "delay_minutes": events.delay_minutes,
    }


def nab(corpus: Sequence[LabelledSeries], name: str) -> Result:
    """One detector on the NAB files, and the published ones that can be re-scored beside it."""
    shortest = min(corpus, key=lambda series: len(series.values))
    once = pd.Series(shortest.values[:, 0], shortest.timestamps)
    scores_after_probation(DETECTORS[name](shortest), once, shortest.first_row)  # compiles, before the clock starts
    started, scores = time.perf_counter(), []
    for series in corpus:
        values = pd.Series(series.values[:, 0], series.timestamps)
        scores.append(scores_after_probation(DETECTORS[name](series), values, series.first_row))
    row: Result = {"seconds": time.perf_counter() - started} | judged(scores, corpus)
    shown = [f"{v:.1f}" for kind in ("in_sample", "five_fold") for v in row[kind].values()]
    say(f"  {name:<50} {' / '.join(shown[:3])}   5-fold {' / '.join(shown[3:])}   {row['seconds']:.1f} s")
    about = {
        "files": [s.name for s in corpus],
        "rows": sum(len(s.values) for s in corpus),
        "windows": sum(len(s.windows) for s in corpus),
    }
    of_file = {series.name: score for series, score in zip(corpus, scores, strict=True)}
    return {"about": about, "detectors": {name: row}} | rescored(corpus, {name: of_file})


def rescored(corpus: Sequence[LabelledSeries], of_file: Mapping[str, Mapping[str, np.ndarray]]) -> Result:
    """Published detectors on exactly our files: Relative Entropy on all of them, two others where scores are at hand."""
    folder = Path(os.environ.get("BOOK_DATA", "absent")) / "nab-scorer"
    if not folder.is_dir():
        say("  no folder nab-scorer in BOOK_DATA: the published detectors are not re-scored")
        return {}
    alerts = json.loads((folder / "corpus-relativeEntropy.json").read_text())["alert_rows"]
    scores = []
    for series in corpus:
        scores.append(np.zeros(len(series.values)))
        scores[-1][alerts[series.name]] = 1.0
    table = pd.read_csv(folder / "scores.csv.gz")
    few = [s for s in corpus if s.name in set(table["file"])]
    shared: Result = {}
    for column, name in (("windowedGaussian", "Windowed Gaussian"), ("numenta", "Numenta HTM")):
        shared[name] = [table.loc[table["file"] == s.name, column].to_numpy() for s in few]
    shared |= {name: [by_name[s.name] for s in few] for name, by_name in of_file.items()}
    windows = [s.windows for s in few]
    return {
        "rescored": {"Relative Entropy": judged(scores, corpus)},
        "shared_files": [s.name for s in few],
        "shared": {
            name: {p: sweep(given, windows).best(profile).normalised for p, profile in PROFILES.items()}
            for name, given in shared.items()
        },
    }


def scorer() -> Result:
    """Seconds for three profiles over a corpus of the full size: sort, gains and the best threshold of each."""
    files, rows, n_windows = FULL_CORPUS
    rng, per_file = np.random.default_rng(SEED), rows // files
    sizes = [per_file + (k < rows % files) for k in range(files)]
    scores = [rng.random(n) for n in sizes]
    windows = [[(at, at + per_file // 20) for at in (per_file // 3, 2 * per_file // 3)] for _ in range(n_windows // 2)]
    took = []
    for _ in range(5):
        started = time.perf_counter()
        swept = sweep(scores, windows)
        for profile in PROFILES.values():
            swept.best(profile)
        took.append(time.perf_counter() - started)
    say(f"scorer: {sum(sizes):,} rows, {swept.n_windows} windows, {min(took):.2f} s")
    return {"files": files, "rows": sum(sizes), "windows": swept.n_windows, "seconds": float(np.median(took))}


def chance(n_guilty: int, n_metrics: int, k: int) -> float:
    """Probability that k metrics drawn at random hold a guilty one."""
    return 1 - math.comb(n_metrics - n_guilty, k) / math.comb(n_metrics, k)


def servers(series: Sequence[LabelledSeries], make: Callable[[LabelledSeries], Any]) -> Result:
    """One detector on servers with many metrics: learn on the first half of the quiet part, take the threshold from its
    second half by the budget of pages, judge on the test part; no label is used before that."""
    started, areas, hits, luck, scores, moved, shares = time.perf_counter(), [], [], [], [], [], []
    for server in series:
        half = server.first_row // 2
        blame = make(server).fit(server.values[:half]).contributions(server.values[half:])
        score = blame.mean(axis=1)
        test = server.first_row - half
        threshold = budget_threshold(score[:test], PAGES_PER_WEEK, step_seconds=server.step_seconds)
        areas.append(vus_pr(server.labels[server.first_row :], score[test:], longest_buffer=LONGEST_BUFFER_ROWS))
        scores.append(score - threshold if np.isfinite(threshold) else np.full(len(score), -1.0))
        moved.append([(first - half, last - half) for first, last in server.windows])
        for (first, last), guilty in zip(moved[-1], server.guilty, strict=True):
            rows = blame[first : last + 1]
            hits.append([hit(rows, server, guilty, k) for k in (1, 3)])
            numbers = np.array([server.metrics.index(metric) for metric in guilty])
            shares.append(guilty_hit_rate(np.argsort(-rows.mean(axis=0), kind="stable"), numbers))
            luck.append([chance(len(guilty), len(server.metrics), k) for k in (1, 3)])
    steps = [s.step_seconds for s in series]
    starts = [s.first_row - s.first_row // 2 for s in series]
    events = event_score(scores, moved, threshold=0.0, step_seconds=steps, first_rows=starts)
    return {
        "vus_pr": float(np.mean(areas)),
        "event_recall": events.recall,
        "false_alerts_per_week": events.false_alerts_per_week,
        "delay_minutes": events.delay_minutes,
        "hit": dict(zip(("1", "3"), np.mean(hits, axis=0), strict=True)),
        "chance": dict(zip(("1", "3"), np.mean(luck, axis=0), strict=True)),
        "hit_rate_100": float(np.mean(shares)),
        "seconds": time.perf_counter() - started,
    }


def hit(blame: np.ndarray, series: LabelledSeries, guilty: Sequence[str], k: int) -> float:
    """1 if one of the k metrics (services, if that is what is guilty) with the most blame in these rows is guilty."""
    ranked = pd.Series(blame.sum(axis=0), series.metrics)
    if guilty[0] not in series.metrics:
        ranked = ranked.groupby([metric.rpartition(":")[0] for metric in series.metrics]).max()
    return float(bool(set(ranked.nlargest(k).index) & set(guilty)))


def log_latency(issue: LabelledSeries) -> LabelledSeries:
    """The same with the logarithm of the latencies alone."""
    kept = [j for j, metric in enumerate(issue.metrics) if metric.endswith(":latency_ms")]
    values = np.log(np.maximum(issue.values[:, kept], LOWEST_LATENCY_MS))
    return replace(issue, values=values, metrics=tuple(issue.metrics[j] for j in kept))


def petshop(issues: Sequence[LabelledSeries], make: Callable[[LabelledSeries], Any]) -> Result:
    """The same on injected faults of microservices: louder than all of the quiet day or not, and whose fault it is."""
    started, found, hits, luck = time.perf_counter(), [], [], []
    for issue in issues:
        half = issue.first_row // 2
        blame = make(issue).fit(issue.values[:half]).contributions(issue.values[half:])
        score = blame.mean(axis=1)
        quiet = issue.first_row - half
        found.append(bool((score[quiet:] > score[:quiet].max()).any()))  # a day is too short for a budget a week
        hits.append([hit(blame[quiet:], issue, issue.guilty[0], k) for k in (1, 3)])
        n_services = len({metric.rpartition(":")[0] for metric in issue.metrics})
        luck.append([chance(1, n_services, k) for k in (1, 3)])
    return {
        "event_recall": float(np.mean(found)),
        "hit": dict(zip(("1", "3"), np.mean(hits, axis=0), strict=True)),
        "chance": dict(zip(("1", "3"), np.mean(luck, axis=0), strict=True)),
        "seconds": time.perf_counter() - started,
    }


def main() -> None:
    """The sets that were asked for, each stored as soon as it is done, beside what is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=[*DETECTORS, *MANY], help="these detectors")
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS))
    asked = parser.parse_args()
    path = ROOT / "benchmarks" / "results" / "nab.json"
    results = json.loads(path.read_text())["results"] if path.exists() else {}
    results["published"] = {"source": SOURCE, "rows": {name: list(row) for name, row in PUBLISHED.items()}}
    wanted = list(asked.only or [*DETECTORS, *MANY])
    try:
        for name in asked.sets:
            for new in [scorer()] if name == "scorer" else run(name, wanted):
                results[name] = merged(results.get(name, {}), rounded(new))
                store("nab", results, PACKAGES, quiet=True)
    except BookError as error:
        parser.exit(2, f"{error}\n")


def run(dataset: str, only: Sequence[str]) -> Iterator[Result]:
    """Every detector that suits the set, one after another."""
    if dataset == "nested":
        yield nested(nab_corpus())
        return
    if dataset == "nab":
        corpus = nab_corpus()
        yield from (nab(corpus, name) for name in only if name in DETECTORS)
        return
    series = petshop_issues() if dataset == "petshop" else server_corpus(dataset)
    kinds = {"": series} | ({", log latency": [log_latency(issue) for issue in series]} if dataset == "petshop" else {})
    for name in [n for n in only if n in MANY]:
        for kind, given in kinds.items():
            row = rounded((petshop if dataset == "petshop" else servers)(given, MANY[name]))
            shown = {key: value for key, value in row.items() if key not in ("chance", "delay_minutes")}
            say(f"{dataset}: {name + kind:<40} {shown}")
            yield {"detectors": {name + kind: row}}


class Given(Streaming):
    """Scores that are there already, as a detector."""

    history_scores = np.zeros(0)

    def fit(self, history: np.ndarray | pd.Series) -> Given:
        """Nothing to learn."""
        return self

    def score(self, values: np.ndarray | pd.Series) -> np.ndarray:
        """The scores themselves."""
        return np.asarray(values)


def nested(corpus: Sequence[LabelledSeries]) -> Result:
    """The ensemble when its memories, its escalation AND its threshold come from the files of the other folds."""
    parts: dict[Any, list[np.ndarray]] = {}
    makers: dict[Any, Callable[[], Detector]] = {"cp": ChangePointSurprise, "forest": IsolationForestDetector}
    makers |= {key: partial(PatternMemory, step=key[0], lags=key[1]) for key in {k for v in VARIANTS for k in v}}
    for key, make in makers.items():
        detect = [TailCalibrated(make()) for _ in corpus]
        parts[key] = [
            scores_after_probation(d, s.values[:, 0], s.first_row) for d, s in zip(detect, corpus, strict=True)
        ]
    candidates = []
    for keys in VARIANTS:
        sums = [np.sum(p, axis=0) for p in zip(*(parts[k] for k in ("cp", "forest", *keys)), strict=True)]
        for escalation in ESCALATIONS:
            quiet = [Debounced(Given(), escalation=escalation).fit(s[:1]) for s in sums]
            candidates.append([q.score(s) for q, s in zip(quiet, sums, strict=True)])
    say(f"  nested: {len(candidates)} candidates")
    windows, rng = [s.windows for s in corpus], np.random.default_rng(SEED)
    totals = []
    for _ in range(NESTED_SHUFFLES):
        folds, raw = folds_of(len(corpus), FOLDS, rng=rng), dict.fromkeys(PROFILES, 0.0)
        for fold in range(FOLDS):
            held, rest = np.flatnonzero(folds == fold).tolist(), np.flatnonzero(folds != fold).tolist()
            swept = [sweep([c[i] for i in rest], [windows[i] for i in rest]) for c in candidates]
            for name, profile in PROFILES.items():
                best = [one.best(profile) for one in swept]
                chosen = int(np.argmax([b.raw for b in best]))
                new = sweep([candidates[chosen][i] for i in held], [windows[i] for i in held])
                raw[name] += new.at(best[chosen].threshold, profile).raw
        whole = sweep(candidates[0], windows)
        totals.append({name: whole.normalised(raw[name], profile) for name, profile in PROFILES.items()})
    table = pd.DataFrame(totals)
    say(f"  nested: {table.mean().round(1).to_dict()}")
    return {"candidates": len(candidates), "five_fold": table.mean().to_dict(), "lowest": table.min().to_dict()}


def merged(old: Result, new: Result) -> Result:
    """New results with the detectors of the old ones that did not run again, if they were of the same files."""
    if old.get("about") != new.get("about"):
        return new
    kept = {key: old.get(key, {}) | new[key] for key in ("detectors", "shared") if key in new}
    return old | new | kept


if __name__ == "__main__":
    main()
