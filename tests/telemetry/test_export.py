"""Files: what is written is read back bit by bit, by `read`, `load` and other libraries; a failed run leaves nothing."""

import gzip
import json
import tracemalloc

import duckdb
import fsspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import SchemaError, SourceError
from support.telemetry import Repair, Telemetry, load
from support.telemetry.schema import LABEL_COLUMNS
from support.telemetry.storage.export import read, write


def fleet(n_resources=3, n_time=240, step=3600, first=0, seed=5, **changes):
    rng = np.random.default_rng([seed, first])
    times = pd.date_range("2025-12-28", periods=n_time, freq=f"{step}s", tz="UTC")
    ids = [f"vm-{number:03d}" for number in range(first, first + n_resources)]
    index = pd.MultiIndex.from_product([ids, times], names=["resource_id", "timestamp"])
    cpu, cost = rng.uniform(0, 100, len(index)), rng.exponential(1.0, len(index)) / 3
    cpu[rng.random(len(index)) < 0.02] = np.nan
    resources = pd.DataFrame(
        {
            "region": ["NA", 'eu "1", x', None][:n_resources],
            "vcpus": [2, 4, 8][:n_resources],
            "price": [0.1 / 3, np.nan, 2.0][:n_resources],
            "spot": [True, False, True][:n_resources],
        },
        index=pd.Index(ids, name="resource_id"),
    )
    label = (ids[0], times[3], times[7], "cpu_spike", "cpu_utilization")
    made = {
        "resources": resources,
        "labels": pd.DataFrame([label], columns=list(LABEL_COLUMNS)),
        "repairs": (Repair("rows read", len(index)),),
        "provenance": "Drawn at random.",
        "source": "synthetic:test",
        "synthetic": True,
    }
    frame = pd.DataFrame({"cpu_utilization": cpu, "cost_usd": cost}, index=index)
    return Telemetry(frame, float(step), **(made | changes))


def assert_same(one, other):
    pd.testing.assert_frame_equal(one.observations, other.observations, check_exact=True, check_freq=False)
    pd.testing.assert_frame_equal(one.resources, other.resources, check_exact=True)
    pd.testing.assert_frame_equal(one.labels, other.labels)
    for name in ("step_seconds", "source", "provenance", "synthetic", "repairs"):
        assert getattr(one, name) == getattr(other, name), name


PLACES = ["a.parquet", "a.csv", "a.csv.gz", "folder"]


@pytest.mark.parametrize("layout", ["tidy", "joined", "flat"])
@pytest.mark.parametrize("name", PLACES)
def test_what_is_written_is_read_back_exactly(tmp_path, name, layout):
    telemetry = fleet()
    report = write(telemetry, str(tmp_path / name), layout=layout)
    assert_same(read(str(tmp_path / name)), telemetry)
    assert (report.rows, report.resources, report.labels) == (720, 3, 1)
    on_disk = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert report.bytes == sum(path.stat().st_size for path in on_disk)
    assert {str(tmp_path / name), report.files[1]} == set(report.files) and all(map(str.strip, report.files))
    about = json.loads((tmp_path / report.files[1]).read_text())
    assert about["metrics"] == {"cpu_utilization": "percent", "cost_usd": "USD per interval"}


@pytest.mark.parametrize("name", PLACES[:3])
def test_the_door_of_the_book_reads_the_files(tmp_path, name):
    telemetry = load("synthetic:fleet", seed=3, days=2, n_resources=2)
    write(telemetry, str(tmp_path / name))
    loaded = load(str(tmp_path / name))
    tolerance = 0 if name == "a.parquet" else 1e-13  # the fast reader of text stops before the last digit
    pd.testing.assert_frame_equal(
        loaded.observations, telemetry.observations, rtol=tolerance, atol=0, check_freq=False, check_like=True
    )
    assert loaded.step_seconds == telemetry.step_seconds


def test_other_libraries_read_the_files(tmp_path):
    telemetry = fleet()
    frame = telemetry.observations
    for name in ("a.parquet", "a.csv.gz"):
        write(telemetry, str(tmp_path / name))
        ((rows, mean),) = duckdb.sql(f"select count(*), avg(cost_usd) from '{tmp_path / name}'").fetchall()
        assert rows == len(frame) and mean == pytest.approx(frame["cost_usd"].mean(), rel=1e-12)
    first = gzip.decompress((tmp_path / "a.csv.gz").read_bytes()).decode().splitlines()
    assert first[0].replace('"', "") == "resource_id,timestamp,cpu_utilization,cost_usd"
    assert pd.Timestamp(first[1].split(",")[1].strip('"')) == frame.index[0][1]


@pytest.mark.parametrize("partition", ["block", "utc_month"])
def test_a_folder_is_partitioned_and_pruned(tmp_path, partition):
    blocks = [fleet(first=0), fleet(first=3), fleet(2, first=6)]
    write(iter(blocks), str(tmp_path / "lake"), partition=partition)
    found = sorted(path.parent.name for path in (tmp_path / "lake").rglob("*.parquet"))
    months = ["utc_month=2025-12"] * 3 + ["utc_month=2026-01"] * 3
    assert found == (["block=00000", "block=00001", "block=00002"] if partition == "block" else months)
    whole = read(str(tmp_path / "lake"))
    expected = pd.concat([block.observations for block in blocks])
    pd.testing.assert_frame_equal(whole.observations, expected, check_exact=True)
    assert len(whole.resources) == 8 and len(whole.labels) == 3 and whole.repairs == (Repair("rows read", 8 * 240),)
    if partition == "utc_month":
        query = f"select count(*) from read_parquet('{tmp_path}/lake/*/*.parquet') where utc_month = '2025-12'"
        assert duckdb.sql(query).fetchall()[0][0] == 8 * 4 * 24  # 28 to 31 December


def test_blocks_and_the_whole_make_the_same_csv(tmp_path):
    blocks = [fleet(first=0), fleet(first=3)]
    whole = Telemetry(pd.concat([block.observations for block in blocks]), 3600.0)
    write(iter(blocks), str(tmp_path / "a.csv"))
    write(whole, str(tmp_path / "b.csv"))
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


@pytest.mark.parametrize("name", ["a.parquet", "a.csv.gz"])
def test_the_same_rows_are_the_same_bytes(tmp_path, name):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        write(fleet(), str(tmp_path / folder / name))
    assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_decimals_round_and_shrink(tmp_path):
    exact, rounded = (write(fleet(), str(tmp_path / f"{d}.csv.gz"), decimals=d) for d in (None, 2))
    assert rounded.bytes < 0.7 * exact.bytes
    pd.testing.assert_frame_equal(read(rounded.files[0]).observations, fleet().observations.round(2), check_exact=True)


def test_memory_does_not_grow_with_the_number_of_blocks(tmp_path):
    def peak(n_blocks):
        blocks = (fleet(first=3 * number, n_time=2000) for number in range(n_blocks))
        tracemalloc.start()
        write(blocks, str(tmp_path / f"{n_blocks}.parquet"))
        used = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return used

    peak(1)  # imports and caches
    assert peak(20) < 1.5 * peak(4)


class Boom(BaseException):
    """Stands for Ctrl-C, which is no Exception either."""


@pytest.mark.parametrize("name", PLACES)
@pytest.mark.parametrize("existing", [False, True])
def test_an_interrupted_run_leaves_nothing_new(tmp_path, name, existing):
    if existing:
        write(fleet(seed=1), str(tmp_path / name))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def blocks():
        yield fleet(seed=2)
        raise Boom

    with pytest.raises(Boom):
        write(blocks(), str(tmp_path / name), overwrite=True)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert len(list(tmp_path.iterdir())) == (0 if not existing else 1 if name == "folder" else 2)


@pytest.mark.parametrize("name", PLACES)
def test_overwriting_is_asked_for_and_complete(tmp_path, name):
    path = str(tmp_path / name)
    write([fleet(), fleet(first=3)], path)
    with pytest.raises(SourceError, match="exists"):
        write(fleet(seed=9), path)
    write(fleet(seed=9), path, overwrite=True)
    assert_same(read(path), fleet(seed=9))
    assert not [p for p in tmp_path.iterdir() if "partial" in p.name]


@pytest.mark.parametrize("name", PLACES)
def test_a_store_without_folders_holds_the_same(name):
    path = f"memory://bucket/{name}"
    write([fleet(), fleet(first=3)], path, overwrite=True, partition="utc_month")
    write(fleet(seed=9), path, overwrite=True, partition="utc_month")
    assert_same(read(path), fleet(seed=9))
    files = fsspec.filesystem("memory")
    assert not [file for file in files.find("bucket") if "partial" in file]
    files.rm("bucket", recursive=True)


def test_what_others_wrote_is_never_overwritten(tmp_path):
    (tmp_path / "mine.csv").write_text("precious")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "thesis.txt").write_text("precious")
    for name in ("mine.csv", "work"):
        with pytest.raises(SourceError, match="not written here"):
            write(fleet(), str(tmp_path / name), overwrite=True)
    assert (tmp_path / "mine.csv").read_text() == (tmp_path / "work" / "thesis.txt").read_text() == "precious"


def test_wrong_names_options_and_blocks_are_refused_in_one_sentence(tmp_path):
    good = str(tmp_path / "a.parquet")
    other_metric = Telemetry(fleet(first=3).observations.rename(columns={"cost_usd": "requests"}), 3600.0)
    cases = [
        (fleet(), str(tmp_path / "a.xlsx"), {}, SourceError, "unknown kind"),
        (fleet(), str(tmp_path / ".csv"), {}, SourceError, "no name"),
        (fleet(), str(tmp_path / "no" / "a.csv"), {}, SourceError, "no folder"),
        (fleet(), "gopher://x/a.csv", {}, SourceError, "cannot open"),
        (fleet(), good, {"format": "csv"}, SourceError, "agree"),
        (fleet(), str(tmp_path / "dir"), {"format": "csv"}, SourceError, "agree"),
        (fleet(), good, {"layout": "wide"}, SourceError, "layout='wide'"),
        (fleet(), good, {"partition": "year"}, SourceError, "partition='year'"),
        ([], good, {}, SourceError, "nothing to write"),
        ([fleet(first=3), fleet(first=0)], good, {}, SchemaError, "vm-000 after vm-005"),
        ([fleet(), fleet()], good, {}, SchemaError, "vm-000 after vm-002"),
        ([fleet(), fleet(first=3, step=600)], good, {}, SchemaError, "another step"),
        ([fleet(), other_metric], good, {}, SchemaError, "other columns"),
    ]
    for data, path, options, kind, said in cases:
        with pytest.raises(kind, match=said) as caught:
            write(data, path, **options)
        assert "\n" not in str(caught.value)
        assert list(tmp_path.iterdir()) == [], said


def test_reading_says_what_is_wrong(tmp_path):
    path = write(fleet(), str(tmp_path / "a.parquet")).files[0]
    with pytest.raises(SourceError, match="no such file"):
        read(str(tmp_path / "b.parquet"))
    (tmp_path / "c.csv").write_text("timestamp,cpu\n")
    with pytest.raises(SourceError, match="Read it with load"):
        read(str(tmp_path / "c.csv"))
    about = tmp_path / "a.parquet.about.json"
    about.write_text(about.read_text().replace('"rows": 720', '"rows": 721'))
    with pytest.raises(SourceError, match="720 rows, 721 were written"):
        read(path)
    about.write_text("{")
    with pytest.raises(SourceError, match="cannot be read"):
        read(path)


def test_a_resource_table_repeated_in_every_block_is_kept_once(tmp_path):
    resources = pd.concat([fleet(first=0).resources, fleet(first=3).resources])
    write([fleet(first=n, resources=resources) for n in (0, 3)], str(tmp_path / "a.csv"))
    assert read(str(tmp_path / "a.csv")).resources.index.tolist() == resources.index.tolist()


@given(
    values=st.lists(st.floats(0, 1e300, allow_subnormal=True) | st.just(float("nan")), min_size=1, max_size=20),
    name=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=8),
)
@settings(max_examples=15, deadline=None)
def test_any_value_and_any_name_survive(tmp_path_factory, values, name):
    folder = tmp_path_factory.mktemp("any")
    times = pd.date_range("2026-01-01", periods=len(values), freq="1s", tz="UTC")
    index = pd.MultiIndex.from_product([[name], times], names=["resource_id", "timestamp"])
    telemetry = Telemetry(pd.DataFrame({"requests": values}, index=index), 1.0)
    for file in ("a.parquet", "a.csv"):
        write(telemetry, str(folder / file), overwrite=True)
        assert_same(read(str(folder / file)), telemetry)
