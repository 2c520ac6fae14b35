"""Registered traces: known facts of the real data, and what happens when a file is damaged or missing."""

import hashlib
import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from support.errors import SchemaError, SourceError, TraceUnavailableError
from support.telemetry import fetch, list_traces, load, trace_available

ROOT = Path(__file__).resolve().parents[2]
MIRROR = Path(os.environ.get("BOOK_DATA") or ROOT.parent / "shared" / "data")
needs_mirror = pytest.mark.skipif(
    not (MIRROR / "worldcup98" / "invocation_count.csv").exists(), reason="no mirror of the traces"
)
REGISTRY = pd.read_csv(ROOT / "support" / "telemetry" / "registry.csv")


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
    pd.testing.assert_frame_equal(list_traces(), REGISTRY)


@needs_mirror
def test_every_registered_file_of_the_mirror_has_its_hash_and_size():
    present = [row for row in REGISTRY.itertuples() if (MIRROR / row.dataset / row.file).exists()]
    assert len(present) >= 10
    for row in present:
        content = (MIRROR / row.dataset / row.file).read_bytes()
        assert hashlib.sha256(content).hexdigest() == row.sha256 and len(content) == row.bytes, row.file


@needs_mirror
def test_worldcup98(mirror):
    telemetry = load("worldcup98")
    demand = telemetry.demand()
    assert telemetry.metrics == ["requests"] and telemetry.step_seconds == 60 and not telemetry.synthetic
    assert len(demand) == 125_310 and demand.sum() == 1_352_804_107
    assert demand.max() == 229_426 and demand.idxmax() == pd.Timestamp("1998-07-07 21:41", tz="UTC")
    assert demand.index[0] == pd.Timestamp("1998-04-30 21:30", tz="UTC")
    filled = {r.what: r.count for r in telemetry.repairs}["intervals without a row filled with 0"]
    raw = pd.read_csv(MIRROR / "worldcup98" / "invocation_count.csv")
    assert filled == 10 == 125_310 - len(raw)
    assert raw["count"].sum() == demand.sum()
    assert "Real trace" in telemetry.provenance


@needs_mirror
@pytest.mark.parametrize(
    ("name", "metric"),
    [
        ("ec2_cpu_utilization_5f5533", "cpu_utilization"),
        ("ec2_cpu_utilization_24ae8d", "cpu_utilization"),
        ("rds_cpu_utilization_cc0c53", "cpu_utilization"),
        ("elb_request_count_8c0756", "requests"),
        ("ec2_network_in_257a54", "network_in_mbps"),
    ],
)
def test_nab(mirror, name, metric):
    telemetry = load(f"nab:realAWSCloudwatch/{name}")
    assert telemetry.metrics == [metric] and telemetry.step_seconds == 300
    raw = pd.read_csv(MIRROR / "nab" / "realAWSCloudwatch" / f"{name}.csv", parse_dates=["timestamp"])
    factor = 8 / 1e6 / 300 if metric == "network_in_mbps" else 1.0
    flags = telemetry.observations.get("quality_flag", pd.Series(0.0, telemetry.observations.index))
    good = telemetry.observations[metric].to_numpy()[flags.to_numpy() == 0]
    assert good.mean() == pytest.approx(factor * raw["value"].mean(), rel=0.01)
    assert good.max() <= factor * raw["value"].max() * (1 + 1e-12)
    span = (raw["timestamp"].max() - raw["timestamp"].min()).total_seconds() / 300
    assert abs(len(telemetry.observations) - span) <= 2
    if metric == "network_in_mbps":
        assert any("Mbit/s" in r.what for r in telemetry.repairs)


TOO_SPARSE = "realKnownCause/rogue_agent_key_hold.csv"  # 65 % of its 5-minute intervals are missing


@needs_mirror
def test_every_registered_nab_series_loads_or_says_why_not(mirror):
    for file in REGISTRY.loc[(REGISTRY["dataset"] == "nab") & REGISTRY["file"].str.endswith(".csv"), "file"]:
        if not (MIRROR / "nab" / file).exists():
            continue
        if file == TOO_SPARSE:
            with pytest.raises(SchemaError, match="65% of the intervals of 300 s are missing"):
                load(f"nab:{file}")
            continue
        demand = load(f"nab:{file.removesuffix('.csv')}").demand()
        assert np.isfinite(demand).all() and (demand >= 0).all() and len(demand) > 500, file


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


@pytest.mark.parametrize("source", ["nab:nowhere/nothing", "nab:", "worldcup98:other"])
def test_unknown_names(own_mirror, source):
    with pytest.raises(SourceError, match="no such") as caught:
        load(source)
    assert len(str(caught.value).splitlines()) == 1
    assert not trace_available(source)


def test_fetch_of_an_unregistered_file(own_mirror):
    with pytest.raises(SourceError, match="registry"):
        fetch("worldcup98/../../secret")
