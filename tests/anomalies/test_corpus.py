"""Labelled corpora: the rows NAB counts, servers and services with their guilty metrics, and what is refused."""

import json
import os
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from support.anomalies.corpus import nab_corpus, petshop_issues, series_of, server_corpus
from support.errors import SchemaError
from support.telemetry import Telemetry, load

MIRROR = Path(os.environ.get("BOOK_DATA", "absent"))
MIRRORED = pytest.mark.skipif(not (MIRROR / "nab-scorer").is_dir(), reason="BOOK_DATA is needed")


@MIRRORED
def test_rows_and_windows_are_those_the_official_score_counts():
    published = json.loads((MIRROR / "nab-scorer" / "windows.json").read_text())["files"]
    corpus = nab_corpus()
    assert len(corpus) == 24
    for series in corpus:
        file = published[series.name]
        assert (len(series.values), series.first_row) == (file["rows"], file["probation_rows"]), series.name
        assert [list(window) for window in series.windows] == file["windows"], series.name
        raw = pd.read_csv(MIRROR / "nab" / series.name)
        assert np.array_equal(series.values[:, 0], raw["value"])
        assert series.labels.sum() == sum(last - first + 1 for first, last in file["windows"])


@MIRRORED
def test_servers_are_judged_on_their_test_part():
    servers = {series.name: series for series in server_corpus("asd")}
    first = servers["omi-1"]
    labels = np.frombuffer((MIRROR / "asd/processed/omi-1_test_label.pkl").read_bytes(), "<f8", 4320, offset=152)
    assert (first.values.shape, first.first_row, len(first.windows)) == ((12960, 19), 8640, 7)
    assert np.array_equal(first.labels[8640:], labels) and not first.labels[:8640].any()
    assert first.guilty[0][:2] == ("metric_04", "metric_05")
    assert servers["omi-12"].first_row == 7291
    (smd,) = server_corpus("smd")
    assert (smd.values.shape, len(smd.windows), smd.first_row) == ((47387, 38), 13, 23693)


@MIRRORED
def test_issues_of_the_pet_shop_follow_the_quiet_hours():
    issues = petshop_issues()
    assert len(issues) == 8
    for issue in issues:
        target = json.loads((MIRROR / "petshop/high_traffic/train" / issue.name[8:] / "target.json").read_text())
        assert issue.guilty == ((target["root_cause"]["node"],),)
        assert issue.windows == ((589, 593),) and issue.first_row == 589
        assert np.isfinite(issue.values).all() and issue.timestamps.is_monotonic_increasing
        assert f"{issue.guilty[0][0]}:latency_ms" in issue.metrics


def test_synthetic_incidents_are_windows_with_their_metrics():
    telemetry = load("synthetic:workload", seed=6, days=7, anomaly_rate=0.1)
    series = series_of(telemetry)
    assert len(series.windows) == len(telemetry.labels) > 0
    for (first, last), told, label in zip(series.windows, series.guilty, telemetry.labels.itertuples(), strict=True):
        assert (series.timestamps[first], series.timestamps[last]) == (label.start, label.end)
        assert set(told) <= set(series.metrics)
    alone = series_of(telemetry, metrics=["cpu_utilization"])
    shown = telemetry.labels["metrics"].str.contains("cpu_utilization")
    assert alone.metrics == ("cpu_utilization",) and len(alone.windows) == shown.sum() < len(shown)


def table(values, **columns):
    index = pd.MultiIndex.from_product(
        [["web"], pd.date_range("2026-01-01", periods=len(values), freq="300s", tz="UTC")],
        names=["resource_id", "timestamp"],
    )
    return Telemetry(pd.DataFrame({"value": values, **columns}, index=index), step_seconds=300.0)


def test_missing_values_become_the_last_known_one_never_a_later_one():
    series = series_of(table([np.nan, 4.0, np.nan, np.nan, 8.0], requests=[np.nan] * 5))
    assert series.metrics == ("value",)
    assert series.values[:, 0].tolist() == [6.0, 4.0, 4.0, 4.0, 8.0]


def test_what_is_not_there_is_refused():
    telemetry = table([1.0, 2.0])
    with pytest.raises(SchemaError, match="no resource 'db'"):
        series_of(telemetry, "db")
    with pytest.raises(SchemaError, match="no metric requests"):
        series_of(telemetry, metrics=["requests"])
    with pytest.raises(SchemaError, match="no value at all"):
        series_of(table([np.nan, np.nan]))
    with pytest.raises(SchemaError, match="asd, smd"):
        server_corpus("nab")
