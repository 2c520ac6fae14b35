"""Registered traces: the registry, every file of the mirror, and what happens when a file is damaged or missing."""

import functools
import hashlib
import http.server
import json
import os
import re
import shutil
import threading
from pathlib import Path

import pandas as pd
import pytest

from support.errors import SourceError, TraceUnavailableError
from support.telemetry import fetch, list_traces, load, trace_available
from support.telemetry.reading import traces
from support.telemetry.reading.traces import DATASETS, datasets, read_llm_events

ROOT = Path(__file__).resolve().parents[2]
MIRROR = Path(os.environ.get("BOOK_DATA") or ROOT.parent / "shared" / "data")
needs_mirror = pytest.mark.skipif(
    not (MIRROR / "worldcup98" / "invocation_count.csv").exists(), reason="no mirror of the traces"
)
REGISTRY = pd.read_csv(ROOT / "support" / "telemetry" / "reading" / "registry.csv")


@pytest.fixture
def mirror(monkeypatch):
    monkeypatch.setenv("BOOK_DATA", str(MIRROR))


@pytest.fixture
def own_mirror(monkeypatch, tmp_path):
    """A mirror without files; the packaged registry applies."""
    monkeypatch.setenv("BOOK_DATA", str(tmp_path))
    return tmp_path


def test_packaged_registry():
    assert list(REGISTRY) == ["dataset", "file", "url", "sha256", "bytes", "licence", "description"]
    assert not REGISTRY.duplicated(["dataset", "file"]).any() and REGISTRY.notna().all().all()
    assert {"worldcup98", "nab"} <= set(REGISTRY["dataset"])
    for row in REGISTRY.itertuples():
        assert re.fullmatch(r"[0-9a-f]{64}", row.sha256), row
        assert re.fullmatch(r"https://\S+/[0-9a-f]{40}/\S+", row.url), row
        assert row.bytes > 0 and ".." not in row.file and not row.file.startswith("/")


def test_packaged_registry_is_used_without_a_mirror(monkeypatch):
    monkeypatch.delenv("BOOK_DATA", raising=False)
    pd.testing.assert_frame_equal(list_traces().drop(columns="source"), REGISTRY)
    list_traces().drop(columns="url", inplace=True)  # noqa: PD002  # a reader's frame is the reader's own
    assert "url" in list_traces()


@needs_mirror
def test_packaged_registry_is_that_of_the_mirror():
    assert (ROOT / "support" / "telemetry" / "reading" / "registry.csv").read_bytes() == (
        MIRROR / "registry.csv"
    ).read_bytes()


def test_datasets_cover_the_registry_and_say_whom_to_cite(monkeypatch):
    monkeypatch.delenv("BOOK_DATA", raising=False)
    table = datasets().set_index("dataset")
    assert table.index.is_unique and set(REGISTRY["dataset"]) == set(DATASETS) <= set(table.index)
    assert (table.drop(columns=["example", "files"]) != "").all(axis=None)
    assert table["files"].to_dict() == {name: (REGISTRY["dataset"] == name).sum() for name in table.index}
    assert table["files"].sum() == 113
    reference = table["kind"] == "reference vectors"
    assert set(table.index[reference]) == {"kubernetes-hpa", "nab-scorer", "reference-values"}
    assert ((table["example"] == "") == reference).all()
    assert table["year"].between(1995, 2026).all()
    assert table["url"].str.match(r"https://(doi\.org/10\.\d{4,}/|arxiv\.org/abs/|github\.com/)\S+$").all()
    assert table["citation_key"].str.fullmatch("[a-z]+[0-9]{4}[a-z]+").all()
    assert (table["citation_key"].str.extract(r"(\d+)")[0].astype(int) == table["year"]).all()
    for dataset, licences in REGISTRY.groupby("dataset")["licence"].unique().items():
        assert licences.tolist() == [table.loc[dataset, "licence"]]
    with pytest.raises(SourceError, match="no such trace"):
        traces.load_trace("kubernetes-hpa")


NOTICES = re.compile(r"LICENSE\S*|README\.md|\S+\.(?:md|html|pdf|jsonld)")
SHARED = {"labels/combined_windows.json", "high_traffic/graph.csv"}  # they come with each member


def test_every_registered_file_is_read_by_a_source_or_is_a_notice(monkeypatch):
    monkeypatch.delenv("BOOK_DATA", raising=False)
    table = list_traces()
    unread = table.loc[table["source"] == "", "file"]
    assert set(unread[~unread.str.fullmatch(NOTICES)]) == SHARED and len(unread) == 17 + 2
    assert not table.loc[table["source"] != "", "file"].str.fullmatch(NOTICES).any()


@needs_mirror
def test_every_example_of_the_datasets_is_available(mirror):
    examples = datasets().set_index("dataset")["example"]
    for dataset, example in examples[examples != ""].items():
        assert example.partition(":")[0] == dataset and trace_available(example), example


@needs_mirror
def test_every_registered_file_of_the_mirror_has_its_hash_and_size():
    present = [row for row in REGISTRY.itertuples() if (MIRROR / row.dataset / row.file).exists()]
    assert len(present) == len(REGISTRY) == 113
    for row in present:
        content = (MIRROR / row.dataset / row.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row.sha256 and len(content) == row.bytes, row.file


@needs_mirror
def test_a_changed_byte_is_refused(own_mirror):
    path = own_mirror / "worldcup98" / "invocation_count.csv"
    path.parent.mkdir()
    content = bytearray((MIRROR / "worldcup98" / "invocation_count.csv").read_bytes())
    path.write_bytes(content)
    assert fetch("worldcup98/invocation_count.csv") == path.resolve() and trace_available("worldcup98")
    content[1000] ^= 1
    path.write_bytes(content)
    with pytest.raises(SourceError, match="SHA-256") as caught:
        load("worldcup98")
    assert not isinstance(caught.value, TraceUnavailableError) and str(path) in str(caught.value)
    assert not trace_available("worldcup98")


def test_a_file_the_mirror_lacks(own_mirror):
    with pytest.raises(TraceUnavailableError, match="https://") as caught:
        load("worldcup98")
    assert len(str(caught.value).splitlines()) == 1 and str(own_mirror) in str(caught.value)
    assert not trace_available("worldcup98") and not trace_available("nab:realAWSCloudwatch/ec2_cpu_utilization_5f5533")


def test_a_mirror_may_bring_its_own_registry(own_mirror):
    content = b"period,count\n" + b"".join(b"1998-05-01 00:%02d:00,%d\n" % (m, m) for m in range(30))
    (own_mirror / "worldcup98").mkdir()
    (own_mirror / "worldcup98" / "invocation_count.csv").write_bytes(content)
    row = REGISTRY[REGISTRY["dataset"] == "worldcup98"].iloc[[0]].assign(sha256=hashlib.sha256(content).hexdigest())
    row.to_csv(own_mirror / "registry.csv", index=False)
    assert load("worldcup98").demand().tolist() == list(range(30))


WRONG = [
    "nab:nowhere/nothing", "nab:", "nab", "worldcup98:other", "asd:", "asd:omi-99", "petshop:issue_99", "apache-logs:x",
    "appserver-traffic:weekly", "azure-llm-2023:chat", "bitbrains-faststorage:", "bitbrains-rnd:../33", "nab:labels/combined_windows",
]  # fmt: skip


@pytest.mark.parametrize("source", WRONG)
def test_unknown_names(own_mirror, source):
    with pytest.raises(SourceError, match="no such") as caught:
        load(source)
    assert len(str(caught.value).splitlines()) == 1
    assert not trace_available(source)


@needs_mirror
def test_a_virtual_machine_that_is_not_in_the_file(mirror):
    with pytest.raises(SourceError, match="no such trace; its VMs are 1019"):
        load("bitbrains-faststorage:4711")


def test_read_llm_events_needs_a_service():
    for service in ("", "chat"):
        with pytest.raises(SourceError, match="code"):
            read_llm_events(service)


def own_registry(folder, dataset, contents):
    """A mirror with files of the test's own making, all with the right hash."""
    rows = []
    for file, content in contents.items():
        path = folder / dataset / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        facts = {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content), "url": "https://example.org"}
        rows.append({"dataset": dataset, "file": file, "licence": "MIT", "description": "made for a test"} | facts)
    pd.DataFrame(rows).to_csv(folder / "registry.csv", index=False)


DAMAGED = [
    ("bitbrains-rnd:1", {"2013-7/1.csv": b"time;cpu\n1;2\n"}, "not the eleven"),
    ("bitbrains-rnd:1", {"2013-7/1.csv": b""}, "not as the publisher"),
    ("bitbrains-faststorage", {"trace.parquet": b"PAR1"}, "lacks its file meta.parquet"),
    ("bitbrains-faststorage", {"trace.parquet": b"PAR1", "meta.parquet": b"PAR1"}, "cannot be read as .parquet"),
    ("azure-llm-2023:code", {"AzureLLMInferenceTrace_code.csv": b"when,tokens\n1,2\n"}, "not as the publisher"),
    ("azure-vm-noise:a", {"redis_get/a.csv": b"value,runtime,starttime,VM_id\n"}, "not as the publisher"),
    ("appserver-traffic", {"traffic_stats_HOURLY_CHs.csv": b"year,requests\n2015,1\n"}, "year, month, day"),
    ("asd:omi-1", {"processed/omi-1_train.pkl": b"x"}, "needs its test_label"),
    ("petshop:issue_1", {"high_traffic/train/issue_1/metrics.csv": b"a,b\n1,2\n"}, "lacks its file graph.csv"),
    ("petshop", {"high_traffic/noissue/metrics.csv": b"a,b\nm,n\ns,t\nu,\n1,2\n", "high_traffic/graph.csv": b",b\nb,0\n"}, "lacks latency"),
    ("nab:a/b", {"a/b.csv": b"time,value\n2014-01-01,1\n"}, "not as the publisher"),
    ("azure-v2-aggregate", {"vm_cpu_readings_month_aggregated_cpu_mem.csv": b"a\n1\n"}, "not as the publisher"),
]  # fmt: skip


@pytest.mark.parametrize(("source", "contents", "message"), DAMAGED)
def test_damaged_files_are_refused_in_one_sentence(own_mirror, source, contents, message):
    own_registry(own_mirror, source.partition(":")[0], contents)
    with pytest.raises(SourceError, match=message) as caught:
        load(source)
    assert len(str(caught.value).splitlines()) == 1


def test_series_without_labels_and_with_other_names(own_mirror):
    stamps = pd.date_range("2014-01-01", periods=40, freq="300s")
    lines = "".join(f"{stamp},{value}\n" for value, stamp in enumerate(stamps))
    own_registry(own_mirror, "nab", {"realX/y.csv": f"timestamp,value\n{lines}".encode()})
    telemetry = load("nab:realX/y.csv")
    assert telemetry.demand().tolist() == list(range(40)) and telemetry.labels.empty


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A web server with one trace, the registry that points to it, and an empty cache; how often it was asked."""
    (tmp_path / "web").mkdir()
    windows = {"realX/y.csv": [["2014-01-01 01:00:00.000000", "2014-01-01 02:00:00.000000"]]}
    (tmp_path / "web" / "windows.json").write_text(json.dumps(windows))
    stamps = pd.date_range("2014-01-01", periods=40, freq="300s")
    (tmp_path / "web" / "y.csv").write_text("timestamp,value\n" + "".join(f"{s},{k}\n" for k, s in enumerate(stamps)))
    asked = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            asked.append(self.path)

    handler = functools.partial(Handler, directory=str(tmp_path / "web"))
    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=httpd.serve_forever, daemon=True).start()
    rows = [
        {
            "dataset": "nab",
            "file": file,
            "url": f"http://127.0.0.1:{httpd.server_port}/{name}",
            "sha256": hashlib.sha256((tmp_path / "web" / name).read_bytes()).hexdigest(),
            "licence": "MIT",
            "description": "made for a test",
        }
        for file, name in (("realX/y.csv", "y.csv"), (traces.readers.NAB_LABELS, "windows.json"))
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "registry.csv", index=False)
    registry = traces._registry(tmp_path)
    monkeypatch.delenv("BOOK_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(traces, "_registry", lambda mirror: registry)
    yield tmp_path, asked, httpd
    httpd.shutdown()
    httpd.server_close()


def test_download_once_then_from_the_cache(server):
    folder, asked, _ = server
    first = load("nab:realX/y")
    assert first.demand().sum() == 780 and first.labels["start"].tolist() == [
        pd.Timestamp("2014-01-01 01:00", tz="UTC")
    ]
    assert sorted(asked) == ["/windows.json", "/y.csv"]
    assert load("nab:realX/y").demand().equals(first.demand()) and len(asked) == 2
    assert all(
        str(folder / "cache") in str(fetch(f"nab/{file}")) for file in ("realX/y.csv", "labels/combined_windows.json")
    )


def test_download_with_a_wrong_hash_and_without_a_server(server):
    folder, _, httpd = server
    with (folder / "web" / "y.csv").open("a") as file:
        file.write("2014-01-02 00:00:00,1\n")
    with pytest.raises(SourceError, match="wrong SHA-256") as caught:
        load("nab:realX/y")
    assert not isinstance(caught.value, TraceUnavailableError)
    assert not [path for path in (folder / "cache").rglob("*") if path.is_file()]  # nothing half-done is left
    httpd.shutdown()
    httpd.server_close()
    shutil.rmtree(folder / "cache")
    with pytest.raises(TraceUnavailableError, match="could not be downloaded") as unavailable:
        load("nab:realX/y")
    assert "BOOK_DATA" in str(unavailable.value) and not trace_available("nab:realX/y")


def test_fetch_of_an_unregistered_file(own_mirror):
    with pytest.raises(SourceError, match="registry"):
        fetch("worldcup98/../../secret")
