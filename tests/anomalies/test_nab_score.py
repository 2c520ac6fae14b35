"""The NAB scorer against the official one's outputs, and against a naive scorer on small random cases."""

import json
import math
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.anomalies.nab_score import PROFILES, probation_rows, sweep
from support.errors import SchemaError

BESIDE = Path(os.environ.get("BOOK_DATA", "absent")) / "nab-scorer"
CASES = Path(os.environ.get("NAB_SCORER_CASES", BESIDE))
PUBLISHED = pytest.mark.skipif(not CASES.is_dir(), reason="NAB_SCORER_CASES or BOOK_DATA/nab-scorer is needed")
CLOSE = {"rel": 0.0, "abs": 1e-8}


def from_json(name):
    return json.loads((CASES / name).read_text())


@pytest.fixture(scope="module")
def files():
    windows = {name: file["windows"] for name, file in from_json("windows.json")["files"].items()}
    table = pd.read_csv(CASES / "scores.csv.gz")
    return {name: (part, windows[name]) for name, part in table.groupby("file", sort=False)}


def counts(score):
    return score.tp, score.tn, score.fp, score.fn


@PUBLISHED
def test_profiles_and_probation_are_the_published_ones():
    published = from_json("windows.json")
    for name, weights in published["profiles"].items():
        ours = PROFILES[name]
        assert (ours.tp, ours.fp, ours.fn) == (weights["tpWeight"], weights["fpWeight"], weights["fnWeight"])
    for file in published["files"].values():
        assert probation_rows(file["rows"]) == file["probation_rows"]


@PUBLISHED
def test_every_published_row_of_a_single_file(files):
    expected = pd.read_csv(CASES / "expected.csv")
    assert len(expected)
    for (file, detector), rows in expected.groupby(["file", "detector"]):
        table, windows = files[file]
        swept = sweep([table[detector].to_numpy()], [windows])
        for row in rows.itertuples():
            score = swept.at(row.threshold, PROFILES[row.profile])
            assert score.raw == pytest.approx(row.raw, **CLOSE), row
            assert counts(score) == (row.tp, row.tn, row.fp, row.fn), row
            assert sum(counts(score)) == row.total


@PUBLISHED
def test_every_published_sweep_of_a_corpus(files):
    expected = from_json("expected-sweep.json")
    assert expected
    for row in expected:
        swept = sweep([t[row["detector"]].to_numpy() for t, _ in files.values()], [w for _, w in files.values()])
        best = swept.best(PROFILES[row["profile"]])
        assert (len(files), swept.n_windows) == (row["files"], row["windows"])
        assert best.threshold == pytest.approx(row["best_threshold"], **CLOSE)
        assert best.raw == pytest.approx(row["raw"], **CLOSE)
        assert best.normalised == pytest.approx(row["normalised"], **CLOSE)
        assert counts(best) == (row["tp"], row["tn"], row["fp"], row["fn"])


@PUBLISHED
def test_every_step_of_the_edge_cases():
    cases = from_json("edge-cases.json")
    assert cases
    scores = {case["name"]: np.array(case["scores"]) for case in cases if case["profile"] == "standard"}
    for case in cases:
        swept = sweep([scores[case["name"]]], [case["windows"]])
        profile = PROFILES[case["profile"]]
        assert probation_rows(case["n_rows"]) == case["probation_rows"]
        for step in case["path"]:
            score = swept.at(step["threshold"], profile)
            assert score.raw == pytest.approx(step["raw"], **CLOSE), case["name"]
            assert counts(score) == tuple(step[k] for k in ("tp", "tn", "fp", "fn")), case["name"]
        for (_, last), weight in zip(case["windows"], case["point_weights_first_after_windows"], strict=True):
            alone = np.eye(1, case["n_rows"], last + 1)[0]
            costs = sweep([alone], [case["windows"]]).at(1.0, profile).raw + profile.fn * len(case["windows"])
            assert costs == pytest.approx(weight, **CLOSE), case["name"]


@PUBLISHED
def test_the_published_detector_on_the_published_corpus():
    corpus, about = from_json("corpus-relativeEntropy.json"), from_json("windows.json")["files"]
    scores, windows = [], []
    for name, rows in corpus["alert_rows"].items():
        score = np.zeros(about[name]["rows"])
        score[rows] = 1.0
        scores.append(score)
        windows.append(about[name]["windows"])
        alone, expected = sweep([score], [about[name]["windows"]]), corpus["per_file"][name]
        for profile, weights in PROFILES.items():
            assert alone.at(0.5, weights).raw == pytest.approx(expected[profile], **CLOSE), name
        assert counts(alone.at(0.5, weights)) == tuple(expected["counts"][k] for k in ("tp", "tn", "fp", "fn"))
    swept = sweep(scores, windows)
    for profile, expected in corpus["expected"].items():
        score = swept.at(0.5, PROFILES[profile])
        assert score.raw == pytest.approx(expected["raw"], **CLOSE)
        assert score.normalised == pytest.approx(expected["normalised"], **CLOSE)
        assert counts(score) == tuple(expected[k] for k in ("tp", "tn", "fp", "fn"))


def naive(scores, windows, threshold, profile):
    """The six rules, row by row."""
    sigmoid = lambda y: -1.0 if y > 3 else 2 / (1 + math.exp(5 * y)) - 1  # noqa: E731
    raw, tally = 0.0, {"tp": 0, "tn": 0, "fp": 0, "fn": 0}
    for score, edges in zip(scores, windows, strict=True):
        edges, start = sorted(edges), min(math.floor(0.15 * len(score)), 750)
        best = dict.fromkeys(range(len(edges)), -profile.fn)
        for i in range(start, len(score)):
            alert = score[i] >= threshold
            within = [k for k, (left, right) in enumerate(edges) if left <= i <= right]
            tally[("tp" if alert else "fn") if within else ("fp" if alert else "tn")] += 1
            if not alert:
                continue
            if within:
                left, right = edges[within[0]]
                earned = profile.tp * sigmoid(-(right - i + 1) / (right - left + 1)) / sigmoid(-1)
                best[within[0]] = max(best[within[0]], earned)
            else:
                before = [edge for edge in edges if edge[1] < i]
                width = before[-1][1] - before[-1][0] if before else 0
                raw += profile.fp * (sigmoid((i - before[-1][1]) / width) if width else -1.0)
        raw += sum(best.values())
    return raw, (tally["tp"], tally["tn"], tally["fp"], tally["fn"])


@st.composite
def corpora(draw):
    scores, windows = [], []
    for _ in range(draw(st.integers(1, 3))):
        n = draw(st.integers(8, 60))
        scores.append(np.array(draw(st.lists(st.integers(0, 4), min_size=n, max_size=n))) / 4)
        cuts = draw(st.lists(st.integers(0, n - 1), max_size=6, unique=True).map(sorted))
        windows.append([(cuts[k], cuts[k + 1]) for k in range(0, len(cuts) - 1, 2)])
    return scores, windows


@settings(max_examples=150, deadline=None)
@given(corpora(), st.sampled_from(sorted(PROFILES)), st.integers(-1, 5))
def test_naive_scorer_agrees_at_any_threshold(corpus, profile, quarter):
    scores, windows = corpus
    swept, threshold = sweep(scores, windows), max(quarter, 0) / 4
    score = swept.at(threshold, PROFILES[profile])
    raw, tally = naive(scores, windows, threshold, PROFILES[profile])
    assert score.raw == pytest.approx(raw, **CLOSE)
    assert counts(score) == tally
    highest = max(naive(scores, windows, t / 4, PROFILES[profile])[0] for t in range(6))
    assert swept.best(PROFILES[profile]).raw == pytest.approx(highest, **CLOSE)


@settings(max_examples=50, deadline=None)
@given(corpora(), st.sampled_from(sorted(PROFILES)))
def test_raw_score_of_a_corpus_is_the_sum_over_its_files_in_any_order(corpus, profile):
    scores, windows = corpus
    weights = PROFILES[profile]
    together = sweep(scores[::-1], windows[::-1]).at(0.5, weights).raw
    assert together == pytest.approx(
        sum(sweep([s], [w]).at(0.5, weights).raw for s, w in zip(scores, windows, strict=True)), **CLOSE
    )


def test_perfect_null_and_a_threshold_below_every_score():
    score = np.full(200, 0.2)
    score[100] = 1.0
    swept, profile = sweep([score], [[(100, 119)]]), PROFILES["reward_low_FN_rate"]
    assert swept.best(profile).normalised == 100.0
    assert swept.at(2.0, profile).normalised == 0.0
    assert swept.at(-5.0, profile) == swept.at(0.2, profile)
    assert math.isnan(sweep([score], [[]]).best(profile).normalised)


def test_a_window_of_one_row_and_what_follows_it():
    score = np.zeros(100)
    score[[50, 51]] = 1.0
    assert sweep([score], [[(50, 50)]]).at(1.0, PROFILES["standard"]).raw == pytest.approx(1.0 - 0.11)


@pytest.mark.parametrize("windows", [[(10, 20), (20, 30)], [(5, 4)], [(90, 100)], [(-1, 3)]])
def test_windows_that_make_no_sense_are_refused(windows):
    with pytest.raises(SchemaError, match="windows"):
        sweep([np.zeros(100)], [windows])


def test_scores_that_are_no_numbers_are_refused():
    with pytest.raises(SchemaError, match="finite"):
        sweep([np.array([0.0, np.nan])], [[]])
    with pytest.raises(SchemaError, match="one entry a file"):
        sweep([np.zeros(3)], [])
