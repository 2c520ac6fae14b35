"""Event recall, pages and delay against loops; thresholds that never see the file they are used on."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.anomalies.events import alert_starts, budget_threshold, cross_validated, event_score, folds_of
from support.anomalies.nab_score import PROFILES, sweep
from support.errors import SchemaError

STEP = 600.0  # s, so that six rows are quiet before a new page


def paged(alerts, quiet):
    pages = []
    for i, alert in enumerate(alerts):
        if alert and (not pages or i > pages[-1] + quiet):
            pages.append(i)
    return pages


@settings(max_examples=100, deadline=None)
@given(st.lists(st.booleans(), max_size=40), st.integers(1, 8))
def test_pages_are_alerts_after_a_quiet_time(alerts, quiet):
    assert alert_starts(np.array(alerts, dtype=bool), quiet).tolist() == paged(alerts, quiet)


@settings(max_examples=100, deadline=None)
@given(
    st.lists(st.booleans(), min_size=30, max_size=60),
    st.integers(0, 10),
    st.lists(st.integers(0, 29), max_size=6, unique=True).map(sorted),
)
def test_events_against_a_loop(alerts, start, cuts):
    windows = [(cuts[k], cuts[k + 1]) for k in range(0, len(cuts) - 1, 2)]
    e = event_score([np.array(alerts, float)], [windows], threshold=1.0, step_seconds=[STEP], first_rows=[start])
    counted = [i >= start and a for i, a in enumerate(alerts)]
    delays = []
    for first, last in windows:
        if last >= start and any(counted[first : last + 1]):
            delays.append(next(i for i in range(first, last + 1) if counted[i]) - max(first, start))
    false = [i for i in paged(counted, 6) if not any(first <= i <= last for first, last in windows)]
    weeks = (len(alerts) - start) * STEP / (7 * 86_400)
    assert (e.n_events, e.n_caught) == (sum(last >= start for _, last in windows), len(delays))
    assert e.false_alerts_per_week == pytest.approx(len(false) / weeks)
    if delays:
        assert e.delay_minutes == pytest.approx(np.median(delays) * STEP / 60)
    else:
        assert math.isnan(e.delay_minutes)


def test_a_random_score_gains_nothing_from_a_long_window():
    """What point adjustment would call perfect recall is one caught event and a week of false pages."""
    score = np.random.default_rng(3).random(2016)
    e = event_score([score], [[(1000, 1300)]], threshold=0.99, step_seconds=[300.0], first_rows=[0])
    assert (e.n_events, e.n_caught) == (1, 1) and e.false_alerts_per_week > 10


def test_series_must_match():
    with pytest.raises(SchemaError, match="one each a series"):
        event_score([np.zeros(3)], [], threshold=1, step_seconds=[STEP], first_rows=[0])


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=20, max_size=200), st.integers(1, 300))
def test_a_budget_is_kept_and_used(values, per_week):
    score = np.array(values, dtype=float)
    threshold = budget_threshold(score, per_week, step_seconds=STEP)
    allowed = per_week * len(score) * STEP / (7 * 86_400)
    assert len(paged((score >= threshold).tolist(), 6)) <= allowed
    lower = [s for s in np.unique(score) if s < threshold]
    if lower:
        assert len(paged((score >= lower[-1]).tolist(), 6)) > allowed


def test_a_budget_needs_numbers():
    with pytest.raises(SchemaError, match="finite"):
        budget_threshold(np.array([1.0, np.nan]), 1.0, step_seconds=STEP)


@pytest.fixture
def corpus():
    rng = np.random.default_rng(1)
    scores, windows = [], []
    for number in range(7):
        score = rng.random(300) * 0.6
        score[200] = 0.7 + 0.01 * number
        scores.append(score)
        windows.append([(195, 220)] if number else [])
    return scores, windows


def test_a_file_is_judged_by_a_threshold_of_other_files(corpus):
    scores, windows = corpus
    folds = np.array([0, 1, 0, 1, 0, 1, 0])
    raw = dict.fromkeys(PROFILES, 0.0)
    for held in (0, 1):
        inside = [i for i in range(7) if folds[i] == held]
        outside = [i for i in range(7) if folds[i] != held]
        for name, profile in PROFILES.items():
            chosen = sweep([scores[i] for i in outside], [windows[i] for i in outside]).best(profile).threshold
            raw[name] += sum(sweep([scores[i]], [windows[i]]).at(chosen, profile).raw for i in inside)
    for name, normalised in cross_validated(scores, windows, folds=folds).items():
        worth = (PROFILES[name].tp + PROFILES[name].fn) * 6
        assert normalised == pytest.approx(100 * (raw[name] + 6 * PROFILES[name].fn) / worth)


def test_it_is_never_better_than_the_threshold_that_saw_all_labels(corpus):
    scores, windows = corpus
    honest = cross_validated(scores, windows, folds=folds_of(7, 5, rng=np.random.default_rng(2)))
    for name, profile in PROFILES.items():
        assert honest[name] <= sweep(scores, windows).best(profile).normalised + 1e-9


def test_folds_need_others(corpus):
    with pytest.raises(SchemaError, match="folds"):
        cross_validated(*corpus, folds=np.zeros(7, dtype=int))


def test_the_delay_of_a_window_that_began_in_the_history_counts_from_the_first_row_judged():
    score = np.zeros(100)
    score[[25, 34]] = 1.0
    e = event_score([score], [[(20, 50)]], threshold=1.0, step_seconds=[STEP], first_rows=[30])
    assert e.delay_minutes == 40.0  # rows 30 to 34, ten minutes each
