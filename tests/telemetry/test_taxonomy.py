"""The taxonomy: the documented names and numbers, each with a source."""

import numpy as np
import pandas as pd
import pytest

from support.errors import SourceError
from support.telemetry import profile, taxonomy
from support.telemetry.taxonomy import KINDS, correlation_matrix, regions, source_of

WORKLOADS = [
    "web_app",
    "batch_processing",
    "ml_training",
    "database_oltp",
    "database_olap",
    "streaming",
    "dev_environment",
    "microservices",
    "serverless",
    "container",
    "hpc",
    "cdn",
    "ml_inference",
    "cache",
    "queue",
]
ARCHETYPES = [
    "ecommerce_platform",
    "video_streaming",
    "batch_etl_pipeline",
    "realtime_streaming",
    "ml_training_gpu",
    "ml_inference_realtime",
    "postgresql_oltp",
    "redis_cache",
    "dev_environment",
    "ci_cd_pipeline",
]


def test_the_documented_types_are_there():
    assert sorted(taxonomy("workload").index) == sorted(WORKLOADS)
    assert sorted(taxonomy("application").index) == sorted(ARCHETYPES)
    assert sorted(taxonomy("server").index) == ["application", "batch", "database", "web"]


def test_means_over_the_archetypes_are_the_documented_ones():
    table = taxonomy("application")
    assert table["cpu_p50_percent"].mean() == pytest.approx(22.0) and table["cpu_p50_percent"].std(
        ddof=0
    ) == pytest.approx(13.3, abs=0.05)
    assert table["memory_p50_percent"].mean() == pytest.approx(49.6) and table["waste_percent"].mean() == pytest.approx(
        40
    )
    assert table["usd_per_hour"].mean() == pytest.approx(581)


@pytest.mark.parametrize(("kind", "name"), [(k, n) for k in KINDS for n in taxonomy(k).index])
def test_every_number_has_a_source_and_every_matrix_is_one(kind, name):
    for column in taxonomy(kind).columns.drop(["source", "optimisation"], errors="ignore"):
        assert len(source_of(kind, name, column)) > 10, column
    matrix = correlation_matrix(name, kind)
    assert np.linalg.eigvalsh(matrix)[0] > 0 and (np.diag(matrix) == 1).all() and (matrix == matrix.T).all().all()


def test_optimisation_classes():
    table = taxonomy("application")["optimisation"]
    assert (
        table["dev_environment"] == "high" and table["ecommerce_platform"] == "medium" and table["redis_cache"] == "low"
    )


def test_names_that_are_not_there():
    with pytest.raises(SourceError, match="'moon': no such type. Use one of web_app"):
        profile("moon")
    with pytest.raises(SourceError, match="no kind 'x'"):
        taxonomy("x")


def test_regions_have_zones_and_calendars():
    table = regions()
    assert table.groupby("provider").size().to_dict() == {"AWS": 4, "Azure": 4, "GCP": 4}
    for zone in table["timezone"]:
        assert pd.Timestamp("2026-01-01", tz=zone).tz is not None
