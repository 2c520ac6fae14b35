"""Hugging Face datasets: what goes in comes out, windows and splits leak nothing, and a push sends what was saved."""

import base64
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from support.errors import SourceError, TooShortError
from support.telemetry import Telemetry
from support.telemetry.schema import LABEL_COLUMNS
from support.telemetry.storage.hub import card, push, save, split_by_time, to_dataset, to_splits

datasets = pytest.importorskip("datasets", reason="needs the extra: scale")

HOUR = pd.Timedelta(hours=1)


def fleet(n_time=400, n_resources=2, labels=()):
    """Metric = row number, so every value tells where it came from."""
    times = pd.date_range("2026-01-01", periods=n_time, freq="1h", tz="UTC")
    ids = [f"vm-{number}" for number in range(n_resources)]
    index = pd.MultiIndex.from_product([ids, times], names=["resource_id", "timestamp"])
    frame = pd.DataFrame(
        {"requests": np.arange(float(len(index))), "value": -np.arange(float(len(index)))}, index=index
    )
    rows = [(ids[of], times[a], times[b], kind, "requests") for of, a, b, kind in labels]
    resources = pd.DataFrame({"zone": ["NA", None], "cores": [2, 4], "spot": [True, False]}, index=["vm-0", "vm-1"])
    return Telemetry(
        frame,
        3600.0,
        provenance="Counted.",
        synthetic=True,
        resources=resources.iloc[:n_resources],
        labels=pd.DataFrame(rows, columns=list(LABEL_COLUMNS)),
    )


def test_rows_are_the_observations_with_types_and_known_anomalies():
    telemetry = fleet(labels=[(0, 3, 5, "spike"), (0, 5, 6, "leak"), (0, 5, 5, "spike"), (1, 399, 399, "drop")])
    made = to_dataset(telemetry)
    assert {n: f.dtype for n, f in made.features.items()} == {
        "resource_id": "string",
        "timestamp": "timestamp[us, tz=UTC]",
        "requests": "float64",
        "value": "float64",
        "zone": "string",
        "cores": "int64",
        "spot": "bool",
        "anomaly": "string",
    }
    frame = made.to_pandas()
    back = frame.astype({"timestamp": "datetime64[ns, UTC]"}).set_index(["resource_id", "timestamp"])
    pd.testing.assert_frame_equal(
        back[["requests", "value"]], telemetry.observations, check_exact=True, check_freq=False, check_index_type=False
    )
    assert frame["cores"].tolist() == [2] * 400 + [4] * 400
    assert frame["zone"].tolist() == ["NA"] * 400 + [None] * 400
    expected = [""] * 800
    expected[3:7] = ["spike", "spike", "leak,spike", "leak"]
    expected[799] = "drop"
    assert frame["anomaly"].tolist() == expected


def test_windows_are_those_of_a_naive_loop():
    telemetry = fleet(n_time=50, labels=[(1, 10, 12, "spike")])
    made = to_dataset(telemetry, "anomaly_windows", length=8, stride=3)
    expected = []
    for number in range(2):
        for start in range(0, 50 - 8 + 1, 3):
            hit = number == 1 and start <= 12 and start + 7 >= 10
            first = telemetry.observations.index[number * 50 + start]
            values = list(np.arange(8.0) + number * 50 + start)
            expected.append((*first, values, int(hit), "spike" if hit else ""))
    found = made.to_pandas()
    columns = zip(*(found[c] for c in ("resource_id", "start", "requests", "label", "anomaly")), strict=True)
    assert [(i, s, list(v), n, a) for i, s, v, n, a in columns] == expected
    assert made.features["label"].names == ["normal", "anomaly"] and sum(found["label"]) == 4
    assert "label" not in to_dataset(telemetry, "sequences", length=8).features
    assert to_dataset(fleet(), "sequences").num_rows == 2 * ((400 - 168) // 24 + 1)


@given(
    n_time=st.integers(20, 300), cut=st.tuples(st.integers(2, 8), st.integers(1, 4)), gap=st.integers(0, 1),
    length=st.integers(1, 5), stride=st.integers(1, 5),
)  # fmt: skip
@settings(max_examples=10, deadline=None)
def test_no_value_is_in_two_splits_and_time_moves_on(n_time, cut, gap, length, stride):
    shares = np.array([*cut, 2]) / (sum(cut) + 2)
    telemetry = fleet(n_time)
    try:
        parts = split_by_time(telemetry, tuple(shares), gap_steps=gap)
        made = to_splits(telemetry, "sequences", length=length, stride=stride, shares=tuple(shares), gap_steps=gap)
    except TooShortError:
        assert n_time * shares.min() < length + gap + 1
        return
    for earlier, later in (("train", "validation"), ("validation", "test")):
        ends = parts[earlier].observations.index.get_level_values(1).max()
        begins = parts[later].observations.index.get_level_values(1).min()
        assert begins - ends == (1 + gap) * HOUR
    assert sum(len(part.observations) for part in parts.values()) == 2 * (n_time - 2 * gap)
    values = [set(np.concatenate(part["requests"][:])) for part in made.values()]
    assert sum(map(len, values)) == len(set.union(*values))


def test_labels_are_cut_with_the_rows():
    parts = split_by_time(fleet(n_time=100, labels=[(0, 60, 80, "leak")]))
    cut = {name: [(row.start, row.end) for row in part.labels.itertuples()] for name, part in parts.items()}
    at = pd.date_range("2026-01-01", periods=100, freq="1h", tz="UTC")
    assert cut == {"train": [(at[60], at[69])], "validation": [(at[70], at[80])], "test": []}


def test_a_saved_dataset_is_loaded_by_the_library_and_its_card_is_valid(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    telemetry = fleet(labels=[(0, 3, 5, "spike")])  # known in train only: the columns of all splits agree all the same
    for form in ("rows", "anomaly_windows"):
        splits = to_splits(telemetry, form)
        folder = tmp_path / form
        files = save(splits, folder, card(telemetry, licence="cc-by-4.0", form=form))
        assert [file.removeprefix(f"{folder}/") for file in files] == [
            "README.md",
            *(f"data/{name}-00000-of-00001.parquet" for name in ("test", "train", "validation")),
        ]
        loaded = datasets.load_dataset(str(folder), cache_dir=str(tmp_path / "cache"))
        for name, part in splits.items():
            assert loaded[name].features == part.features
            pd.testing.assert_frame_equal(loaded[name].to_pandas(), part.to_pandas())
        with pytest.raises(SourceError, match="exists"):
            save(splits, folder, "")
    text = (tmp_path / "rows" / "README.md").read_text()
    header = yaml.safe_load(text.split("---")[1])
    assert header["license"] == "cc-by-4.0" and "synthetic" in header["tags"]
    assert "Counted. 800 rows of 2 resources, one every 3600 s" in text and "Known anomalies: spike (1)." in text
    assert not [path for path in tmp_path.iterdir() if "partial" in path.name]


def test_what_cannot_be_done_is_said(tmp_path):
    cases = [
        (lambda: to_dataset(fleet(), "images"), SourceError, "form='images'"),
        (lambda: to_dataset(fleet(), "anomaly_windows"), SourceError, "no anomalies are known"),
        (lambda: to_dataset(fleet(), "sequences", length=0), SourceError, "length=0"),
        (lambda: to_dataset(fleet(), "sequences", length=401), TooShortError, "401 steps"),
        (lambda: split_by_time(fleet(), (0.5, 0.5, 0.5)), SourceError, "sum 1"),
        (lambda: split_by_time(fleet(n_time=3)), TooShortError, "3 steps leave none"),
        (lambda: save(to_splits(fleet()), tmp_path / "file" / "x", ""), SourceError, "cannot be written"),
    ]
    (tmp_path / "file").write_text("")
    for make, kind, said in cases:
        with pytest.raises(kind, match=said) as caught:
            make()
        assert "\n" not in str(caught.value)


class Hub(BaseHTTPRequestHandler):
    """Answers as the Hub's HTTP interface does, and keeps what is committed."""

    token, files, repos = "hf_right", {}, []

    def do_POST(self):
        chunked = self.headers.get("transfer-encoding") == "chunked"
        body = b"".join(iter(self._chunk, b"")) if chunked else self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("authorization") != f"Bearer {self.token}":
            return self._answer(401, {"error": "Invalid credentials"})
        if self.path == "/api/repos/create":
            self.repos.append(json.loads(body))
            return self._answer(200, {"url": "https://huggingface.co/datasets/ada/fleet", "name": "ada/fleet"})
        if "/preupload/" in self.path:
            paths = [file["path"] for file in json.loads(body)["files"]]
            modes = [{"path": path, "uploadMode": "regular", "shouldIgnore": False} for path in paths]
            return self._answer(200, {"files": modes})
        if "/commit/" in self.path:
            for line in map(json.loads, body.splitlines()):
                if line["key"] == "file":
                    self.files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            oid = "0" * 40
            return self._answer(
                200, {"commitUrl": f"https://huggingface.co/datasets/ada/fleet/commit/{oid}", "commitOid": oid}
            )
        return self._answer(200, {"errors": [], "warnings": []})  # validate-yaml

    def do_GET(self):
        self._answer(200, {"id": "ada/fleet", "siblings": [], "sha": "0" * 40})

    def _chunk(self):
        size = int(self.rfile.readline(), 16)
        piece = self.rfile.read(size)
        self.rfile.readline()
        return piece

    def _answer(self, status, answer):
        content = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *arguments):
        pass


@pytest.fixture
def hub():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_push_sends_the_saved_folder_and_a_refused_one_says_how_to_log_in(tmp_path, hub):
    telemetry = fleet()
    files = save(to_splits(telemetry), tmp_path / "fleet", card(telemetry, licence="mit"))
    assert push(tmp_path / "fleet", "ada/fleet", token="hf_right", endpoint=hub) == f"{hub}/datasets/ada/fleet"
    assert {f"{tmp_path}/fleet/{path}" for path in Hub.files} == set(files)
    for path, content in Hub.files.items():
        assert content == (tmp_path / "fleet" / path).read_bytes()
    assert "private" in json.dumps(Hub.repos[0]) and Hub.repos[0]["type"] == "dataset", Hub.repos
    with pytest.raises(SourceError, match="hf auth login") as caught:
        push(tmp_path / "fleet", "ada/fleet", token="hf_wrong", endpoint=hub)
    assert "hf_wrong" not in str(caught.value) and "\n" not in str(caught.value)
