"""Range-AUC-PR and VUS-PR against the published values of aeon's tests, a literal loop, and laws."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import precision_recall_curve

from support.anomalies.range_auc import range_auc_pr, runs, vus_pr
from support.errors import SchemaError


@pytest.fixture
def published():
    """The case of aeon's tests of its range metrics, whose values come from the authors' own code."""
    labels = np.zeros(200)
    for first, last in ((10, 20), (28, 33), (110, 120)):
        labels[first:last] = 1
    scores = np.random.default_rng(41).random(200) * 0.5
    for first, last in ((16, 22), (33, 38), (160, 170)):
        scores[first:last] = 1
    return labels, scores


@pytest.mark.parametrize(("buffer", "area"), [(10, 0.3737854660), (4, 0.2506464391)])
def test_published_areas(published, buffer, area):
    assert range_auc_pr(*published, buffer=buffer) == pytest.approx(area, abs=1e-10)


def test_published_volume(published):
    assert vus_pr(*published, longest_buffer=200) == pytest.approx(0.7493254559, abs=1e-10)


def literal(labels, scores, buffer):
    """The authors' loop: a slope per row, every threshold anew."""
    wide = [float(v) for v in labels]
    n = len(wide)
    edges, row = [], 0
    while row < n:
        if labels[row]:
            end = row
            while end + 1 < n and labels[end + 1]:
                end += 1
            edges.append((row, end))
            row = end
        row += 1
    if buffer > 1:
        for first, last in edges:
            for x in range(last, min(last + buffer // 2, n)):
                wide[x] += (1 - (x - last) / buffer) ** 0.5
            for x in range(max(first - buffer // 2, 0), first):
                wide[x] += (1 - (first - x) / buffer) ** 0.5
    wide = [min(v, 1.0) for v in wide]
    segments = [s for s in np.split(np.arange(n), np.flatnonzero(np.diff(np.array(wide) > 0)) + 1) if wide[s[0]] > 0]
    recalls, precisions = [0.0], [1.0]
    for k in np.linspace(0, n - 1, 250, dtype=int):
        alert = [score >= sorted(scores, reverse=True)[k] for score in scores]
        hits = sum(w for w, a in zip(wide, alert, strict=True) if a)
        met = sum(any(alert[i] for i in s) for s in segments) / len(segments)
        recalls.append(min(hits / ((sum(labels) + sum(wide)) / 2), 1) * met)
        precisions.append(hits / sum(alert))
    steps = zip(recalls, recalls[1:], precisions, precisions[1:], strict=False)
    return sum((r1 - r0) * (p0 + p1) / 2 for r0, r1, p0, p1 in steps)


@st.composite
def series(draw):
    n = draw(st.integers(2, 25))
    labels = draw(st.lists(st.integers(0, 1), min_size=n, max_size=n).filter(any))
    return labels, draw(st.lists(st.integers(0, 6).map(float), min_size=n, max_size=n))


@settings(max_examples=60, deadline=None)
@given(series(), st.integers(0, 9))
def test_literal_loop_agrees(case, buffer):
    labels, scores = case
    assert range_auc_pr(np.array(labels), np.array(scores), buffer=buffer) == pytest.approx(literal(*case, buffer))


@settings(max_examples=40, deadline=None)
@given(series(), st.integers(0, 9))
def test_only_the_order_of_the_scores_counts(case, longest):
    labels, scores = (np.array(part) for part in case)
    area = vus_pr(labels, scores, longest_buffer=longest)
    assert 0.0 <= area <= 1.0 + 1e-12
    assert vus_pr(labels, np.exp(scores) - 3, longest_buffer=longest) == pytest.approx(area)


def test_without_tolerance_and_with_one_anomaly_it_is_the_area_under_the_usual_curve():
    rng = np.random.default_rng(5)
    labels, scores = np.zeros(120), rng.random(120)
    labels[40:60] = 1
    scores[40] = 2.0  # the anomaly is met at once, so its share is 1 at every threshold
    precision, recall, _ = precision_recall_curve(labels, scores)
    assert range_auc_pr(labels, scores, buffer=0) == pytest.approx(-np.trapezoid(precision, recall))


def test_an_alert_just_beside_the_anomaly_counts_in_part():
    labels, near, far = np.zeros(100), np.zeros(100), np.zeros(100)
    labels[50:60], near[47:50], far[10:13] = 1, 1, 1
    areas = [vus_pr(labels, score, longest_buffer=20) for score in (labels, near, far)]
    assert areas[0] > areas[1] > areas[2]


def test_runs_at_both_ends():
    assert runs(np.array([1, 0, 1])).tolist() == [[0, 0], [2, 2]]
    assert runs(np.zeros(3)).shape == (0, 2)


def test_what_cannot_be_judged_is_refused():
    with pytest.raises(SchemaError, match="no row is labelled"):
        range_auc_pr(np.zeros(5), np.zeros(5), buffer=2)
    with pytest.raises(SchemaError, match="one length"):
        vus_pr(np.ones(5), np.zeros(4), longest_buffer=2)
    with pytest.raises(SchemaError, match="finite"):
        vus_pr(np.ones(2), np.array([0, np.nan]), longest_buffer=2)
