"""The lake: what goes in comes out, half a write is never seen, and SQL answers as pandas would."""

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest

from support.errors import SchemaError, SourceError
from support.telemetry.schema import LABEL_COLUMNS, METRICS, Repair, Telemetry
from support.telemetry.storage import lake as module
from support.telemetry.storage.aggregation import aggregate
from support.telemetry.storage.lake import Lake

HOUR = pd.Timedelta("1h")


def fleet(ids=("a", "b"), start="2026-01-30", periods=96, step=3600.0, seed=0):
    """Made by hand: two resources over the end of a month, with a missing value, labels, repairs and resources."""
    rng = np.random.default_rng(seed)
    times = pd.date_range(start, periods=periods, freq=pd.Timedelta(seconds=step), tz="UTC")
    index = pd.MultiIndex.from_product([list(ids), times], names=["resource_id", "timestamp"])
    values = {
        "requests": rng.poisson(100, len(index)).astype(float),
        "cpu_utilization": rng.uniform(0, 100, len(index)),
    }
    frame = pd.DataFrame(values, index=index)
    frame.iloc[5, 1] = np.nan
    resources = pd.DataFrame({"region": "eu", "price": 0.25}, index=pd.Index(ids, name="resource_id"))
    label = [ids[0], times[3], times[4], "cpu spike", "cpu_utilization"]
    labels = pd.DataFrame([label], columns=list(LABEL_COLUMNS))
    repairs = (Repair("rows read", len(frame)), Repair("rows sorted", 2))
    return Telemetry(frame, step, "hand", "Made by hand.", True, resources, repairs, labels)


def assert_same(found, wanted):
    pd.testing.assert_frame_equal(
        found.observations.drop(columns="quality_flag"), wanted.observations, check_freq=False
    )
    pd.testing.assert_frame_equal(found.resources, wanted.resources)
    pd.testing.assert_frame_equal(found.labels, wanted.labels)
    for name in ("repairs", "step_seconds", "source", "provenance", "synthetic"):
        assert getattr(found, name) == getattr(wanted, name)


def files_of(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in Path(root).rglob("*") if p.is_file()}


@pytest.fixture(scope="module")
def endpoint():
    server = pytest.importorskip("moto.server").ThreadedMotoServer(port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture(params=["local", "memory", "s3"])
def lake(request, tmp_path):
    if request.param == "local":
        return Lake(str(tmp_path / "it's a [lake]"))
    if request.param == "memory":
        return Lake(f"memory://{tmp_path.name}/lake")
    pytest.importorskip("s3fs")
    options = {
        "key": "k",
        "secret": "s",
        "endpoint_url": request.getfixturevalue("endpoint"),
        "skip_instance_cache": True,
    }
    lake = Lake(f"s3://{tmp_path.name.replace('_', '-').lower()}/the/lake", options)
    lake._files.mkdir(tmp_path.name.replace("_", "-").lower())
    return lake


def test_silver_round_trip_on_any_store(lake):
    wanted = fleet()
    assert lake.refine(wanted, "web") == len(wanted.observations) == 192
    assert_same(lake.read("web"), wanted)


def test_all_layers_by_sql_on_any_store(lake, tmp_path):
    telemetry = fleet()
    table = telemetry.observations.reset_index()
    table.to_csv(tmp_path / "raw.csv", index=False)
    lake.land(str(tmp_path / "raw.csv"), ingested_at=pd.Timestamp("2026-02-07 12:00", tz="UTC"))
    lake.refine(telemetry, "web")
    lake.refine(fleet(ids=("c",), seed=1), "other")
    assert lake.aggregate("web", "day") == 2 * 4 * 2  # resources x days x metrics
    raw = lake.sql(
        "SELECT count(*) n, any_value(sha256) h, any_value(ingested) d, any_value(ingested_at) t FROM bronze"
    )
    assert raw["n"].item() == 192 and raw["d"].item() == "2026-02-07"
    assert raw["t"].item() == pd.Timestamp("2026-02-07 12:00", tz="UTC")
    assert raw["h"].item() == hashlib.sha256((tmp_path / "raw.csv").read_bytes()).hexdigest()
    query = "SELECT month, sum(requests) AS total FROM silver WHERE dataset = 'web' GROUP BY month ORDER BY month"
    by_month = table.groupby(table["timestamp"].dt.strftime("%Y-%m"))["requests"].sum()
    found = lake.sql(query).set_index("month")["total"]
    assert found.to_dict() == by_month.to_dict() and list(found.index) == ["2026-01", "2026-02"]
    gold = lake.sql("SELECT resource_id, timestamp, sum FROM gold WHERE metric = 'requests' ORDER BY ALL")
    days = table.groupby(["resource_id", table["timestamp"].dt.floor("D")])["requests"].sum()
    assert gold["sum"].tolist() == days.tolist() and gold["timestamp"].tolist() == [t for _, t in days.index]
    joined = lake.sql("SELECT DISTINCT region FROM silver JOIN resources USING (dataset, resource_id)")
    assert joined["region"].tolist() == ["eu"]
    assert lake.sql("SELECT dataset, count FROM repairs WHERE what = 'rows sorted' ORDER BY 1")["count"].tolist() == [
        2,
        2,
    ]


@pytest.mark.parametrize("n_blocks", [2])
def test_an_interrupted_write_leaves_the_old_data(lake, monkeypatch, n_blocks):
    """The iterator fails after `n_blocks` blocks, each already written: old rows stay, and nothing is left for good."""
    monkeypatch.setattr(module, "ROWS_PER_BATCH", 1)
    old, new = fleet(), [fleet(ids=(i,), seed=7) for i in "abc"]
    lake.refine(old, "web")
    lake.aggregate("web", "day")
    total = lake.sql("SELECT sum(requests) s FROM silver")["s"].item()

    def broken():
        yield from new[:n_blocks]
        raise ConnectionResetError("the source went away")

    with pytest.raises(ConnectionResetError):
        lake.refine(broken(), "web")
    assert_same(lake.read("web"), old)
    assert lake.sql("SELECT sum(requests) s FROM silver")["s"].item() == total
    assert len(lake.sql("SELECT * FROM gold")) == 16
    lake.refine(iter(new), "web")
    assert_same(replace(lake.read("web"), repairs=(), labels=old.labels), replace(joined(new), labels=old.labels))
    stored = {p.rsplit("/", 1)[-1] for p in lake._files.find(f"{lake._base}/silver")}
    assert len(stored) == 6  # three resources x two months; what the broken write left is gone
    assert "gold" not in str(lake._commits())  # made from rows that are no more
    with pytest.raises(SourceError, match="gold"):
        lake.sql("SELECT * FROM gold")


def joined(blocks):
    frame = pd.concat([b.observations for b in blocks])
    resources = pd.concat([b.resources for b in blocks])
    return replace(blocks[0], observations=frame, resources=resources, repairs=())


@pytest.mark.parametrize("fails_at", range(1, 8))
def test_a_store_that_fails_at_any_write_leaves_old_or_new(tmp_path, monkeypatch, fails_at):
    """Each of the seven steps that change the store fails once; afterwards silver is wholly the old or wholly the new."""
    lake, old, new = Lake(str(tmp_path)), fleet(), fleet(seed=3)
    lake.refine(old, "web")
    lake.aggregate("web")
    count = 0

    def failing(method):
        def call(path, *more, **options):
            nonlocal count
            count += 1
            if count == fails_at:
                if method == "pipe_file":  # half of the bytes arrive
                    real["pipe_file"](path, more[0][: len(more[0]) // 2])
                raise OSError("disk full")
            return real[method](path, *more, **options)

        return call

    real = {m: getattr(lake._files, m) for m in ("pipe_file", "mv", "rm_file")}
    with monkeypatch.context() as patch:
        for method in real:
            patch.setattr(lake._files, method, failing(method))
        with pytest.raises(OSError, match="disk full"):
            lake.refine(new, "web")
    found = lake.read("web")
    assert_same(found, old if found.observations["requests"].equals(old.observations["requests"]) else new)
    gold = lake._commit("gold/web/hour")
    assert not gold or found.observations["requests"].equals(old.observations["requests"])
    lake.refine(new, "web")
    assert_same(lake.read("web"), new)


def test_writing_again_changes_nothing(tmp_path):
    lake, telemetry = Lake(str(tmp_path / "lake")), fleet()
    telemetry.observations.reset_index().to_csv(tmp_path / "raw.csv", index=False)

    def all_three():
        lake.land(str(tmp_path / "raw.csv"))
        lake.refine(telemetry, "web")
        lake.aggregate("web", "day")

    all_three()
    before = files_of(tmp_path)
    all_three()
    assert files_of(tmp_path) == before


def test_a_stream_of_blocks_is_the_whole(tmp_path, monkeypatch):
    """By resource or by time, in batches of any size, the lake holds the same."""
    monkeypatch.setattr(module, "ROWS_PER_BATCH", 40)
    whole = fleet(periods=120)
    cuts = [whole.observations.index.unique(1)[i : i + 30] for i in range(0, 120, 30)]
    rows = whole.observations
    by_time = [rows[rows.index.get_level_values(1).isin(cut)] for cut in cuts]
    by_resource = [rows.loc[[i]] for i in "ab"]
    for parts in (by_time, by_resource):
        lake = Lake(str(tmp_path / str(len(parts))))
        lake.refine((replace(whole, observations=p, repairs=(Repair("rows read", len(p)),)) for p in parts), "web")
        assert_same(lake.read("web"), replace(whole, repairs=(Repair("rows read", 240),)))
        lake.aggregate("web")
        wanted = aggregate(pl.from_pandas(rows.reset_index()).lazy(), "hour", 3600.0)
        gold = lake.sql("SELECT * EXCLUDE (dataset, step, month) FROM gold ORDER BY resource_id, metric, timestamp")
        pd.testing.assert_frame_equal(gold, wanted.to_pandas(), check_dtype=False)


def test_a_stream_is_written_as_it_comes(tmp_path, monkeypatch):
    """No more than a batch and a block are alive at any time, however long the stream is."""
    monkeypatch.setattr(module, "ROWS_PER_BATCH", 50)
    lake, written = Lake(str(tmp_path)), []
    ahead = []

    def stream():
        for number in range(30):
            stored = len(list(Path(tmp_path).glob("silver/**/*.parquet")))
            ahead.append(24 * number - 24 * 3 * stored)  # three blocks make a batch, each batch one file
            written.append(number)
            yield fleet(ids=(f"vm-{number:02d}",), start="2026-03-01", periods=24)

    assert lake.refine(stream(), "fleet") == 30 * 24
    assert max(ahead) <= 72


@pytest.mark.parametrize(
    ("second", "said"),
    [
        (fleet(ids=("a",)), "block 1 does not go on where a ended"),
        (fleet(ids=("a",), start="2026-02-03 05:00"), "block 1 does not go on where a ended"),
        (fleet(ids=("c",), step=1800.0), "another step"),
        (replace(fleet(ids=("c",)), observations=fleet(ids=("c",)).observations[["requests"]]), "other columns"),
    ],
)
def test_blocks_that_do_not_go_together_are_refused(tmp_path, second, said):
    lake = Lake(str(tmp_path))
    with pytest.raises(SchemaError, match=said):
        lake.refine([fleet(), second], "web")
    assert lake.sql("SELECT 1 AS one")["one"].tolist() == [1]
    with pytest.raises(SourceError, match="no silver dataset 'web'; there are: none yet"):
        lake.read("web")


def test_bronze_keeps_what_was_read(tmp_path):
    lake = Lake(str(tmp_path / "lake"))
    (tmp_path / "odd.csv").write_text("time,value\n2026-01-01,1\n2026-01-02,n/a?\n2026-01-03,\n")
    (tmp_path / "odd2.csv").write_text("time,value\n2026-01-04,4\n")
    assert lake.land(str(tmp_path / "odd.csv"), "odd") == lake.land(str(tmp_path / "odd.csv"), "odd") == 3
    assert lake.land(str(tmp_path / "odd2.csv"), "odd") == 1
    found = lake.sql("SELECT * FROM bronze ORDER BY time")
    assert found["value"].tolist()[:2] == ["1", "n/a?"] and found["value"].isna().tolist() == [
        False,
        False,
        True,
        False,
    ]
    assert found["source"].nunique() == found["sha256"].nunique() == 2
    mixed = pd.DataFrame({"time": ["x"] * 3, "value": pd.Series([1, "two", None], dtype=object)})
    assert module._as_arrow(mixed)["value"].to_pylist() == ["1", "two", None]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (
            lambda lake: lake.sql("SELEKT 1"),
            r"the query fails \(Parser Error: .*SELEKT.*Tables there are: repairs, resou",
        ),
        (lambda lake: lake.sql("SELECT nothing FROM silver"), "the query fails .*nothing"),
        (lambda lake: lake.sql("SELECT * FROM bronze"), "the query fails .*bronze"),
        (lambda lake: lake.read("wep"), "no silver dataset 'wep'; there are: web. Call refine first."),
        (lambda lake: lake.aggregate("wep"), "no silver dataset 'wep'"),
        (lambda lake: lake.refine(fleet(), "../web"), "'../web': is no name for a dataset"),
        (lambda lake: lake.refine(fleet(), "a=b"), "is no name"),
        (lambda lake: lake.refine([], "web"), "the iterator gave no block"),
        (lambda lake: lake.land("there-is-none.csv"), "there is no such file"),
        (lambda lake: Lake("nonsense://x"), "cannot open this kind of address"),
    ],
)
def test_errors_are_one_sentence(tmp_path, call, said):
    lake = Lake(str(tmp_path))
    lake.refine(replace(fleet(), labels=fleet().labels[:0]), "web")
    with pytest.raises(SourceError, match=said) as caught:
        call(lake)
    assert "\n" not in str(caught.value)


def test_a_bucket_or_folder_that_is_not_there(tmp_path, endpoint):
    options = {"key": "k", "secret": "s", "endpoint_url": endpoint, "skip_instance_cache": True}
    (tmp_path / "file").write_text("no folder")
    for lake in (Lake("s3://there-is-no-such-bucket/lake", options), Lake(str(tmp_path / "file"))):
        with pytest.raises(SourceError, match="cannot be written .*Check bucket, folder and rights"):
            lake.refine(fleet(), "web")


def test_a_file_with_a_column_of_bronze_is_refused(tmp_path):
    (tmp_path / "raw.csv").write_text("time,source\n2026-01-01,me\n")
    with pytest.raises(SourceError, match="bronze itself writes a column 'source'"):
        Lake(str(tmp_path / "lake")).land(str(tmp_path / "raw.csv"))


def test_other_readers_see_hive_partitions(tmp_path):
    """As Athena would: the folder read without this package, partitions as columns."""
    Lake(str(tmp_path)).refine(fleet(), "web")
    found = pl.read_parquet(f"{tmp_path}/silver/**/*.parquet", hive_partitioning=True)
    assert set(found["dataset"]) == {"web"} and len(found) == 192
    commit = json.loads((tmp_path / "_commits/silver/web/current.json").read_text())
    assert commit["source"] == "hand" and len(commit["files"]) == 5  # two months, resources, labels, repairs


def test_aggregate_is_what_pandas_says():
    """Each statistic against pandas, with holes and flags; each kind of metric only gets what means something."""
    rng = np.random.default_rng(4)
    times = pd.date_range("2026-03-01", periods=4 * 48, freq="15min", tz="UTC")
    index = pd.MultiIndex.from_product([["a", "b"], times], names=["resource_id", "timestamp"])
    metrics = ["requests", "cpu_utilization", "latency_p95_ms", "queue_length"]
    frame = pd.DataFrame(rng.uniform(0, 100, (len(index), 4)), index=index, columns=metrics)
    frame = frame.mask(rng.random(frame.shape) < 0.1)
    frame["quality_flag"] = (rng.random(len(frame)) < 0.2).astype(float)
    found = aggregate(pl.from_pandas(frame.reset_index()).lazy(), "hour", 900.0).to_pandas()
    found = found.set_index(["metric", "resource_id", "timestamp"]).sort_index()
    groups = frame.groupby(["resource_id", pd.Grouper(level="timestamp", freq="1h")])
    for metric in metrics:
        part, rule = found.loc[metric], METRICS[metric][3]
        wanted = groups[metric].agg(n="count", mean="mean", max="max", last="last", sum="sum")
        wanted["p95"] = groups[metric].quantile(0.95)
        wanted["sum"] = wanted["sum"].where(wanted["n"] == 4)
        assert part["imputed"].tolist() == groups["quality_flag"].sum().tolist()
        given = {"sum": ["mean", "p95", "max", "sum"], "mean": ["mean", "p95", "max"], "max": ["max"]}
        given["last"] = ["mean", "p95", "max", "last"]
        for statistic in ["n", *given[rule]]:
            np.testing.assert_allclose(part[statistic].astype(float), wanted[statistic], rtol=1e-12)
        assert part[[c for c in ("mean", "p95", "max", "sum", "last") if c not in given[rule]]].isna().all(axis=None)


@pytest.mark.parametrize(("step", "seconds"), [("week", 60.0), ("hour", 7200.0), ("hour", 7.0)])
def test_steps_that_do_not_fit_are_refused(step, seconds):
    table = pl.DataFrame({"resource_id": ["a"], "timestamp": [pd.Timestamp("2026-01-01", tz="UTC")], "requests": [1.0]})
    with pytest.raises(SchemaError, match="does not fit"):
        aggregate(table.lazy(), step, seconds)


def test_bronze_keeps_the_zeros_of_names(tmp_path):
    times = pd.date_range("2026-01-05", periods=12, freq="h")
    frame = pd.concat([pd.DataFrame({"timestamp": times, "host": name, "cpu": 5.0}) for name in ("007", "012")])
    frame.to_csv(tmp_path / "my.csv", index=False)
    Lake(str(tmp_path / "lake")).land(str(tmp_path / "my.csv"))
    (file,) = (tmp_path / "lake").rglob("bronze/**/*.parquet")
    assert sorted(pd.read_parquet(file)["host"].unique()) == ["007", "012"]
