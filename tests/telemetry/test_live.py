"""Prometheus and agents over real HTTP: servers on localhost that behave, misbehave, and enforce the limit of 11,000 points."""

import json
import math
import threading
import time
from contextlib import ExitStack, contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

import numpy as np
import pandas as pd
import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, start_http_server

from support.errors import SchemaError, SourceError, TooShortError
from support.telemetry import load
from support.telemetry.reading.agents import load_agents
from support.telemetry.reading.live import MAX_POINTS, load_live, load_prometheus

START = pd.Timestamp("2026-01-05T00:00:00Z")


@contextmanager
def serving(answer):
    """A server on localhost; `answer(path, query, headers)` gives status, content type and body; yields its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            parts = urlsplit(self.path)
            query = {key: values[0] for key, values in parse_qs(parts.query).items()}
            status, kind, body = answer(parts.path, query, self.headers)
            try:
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.end_headers()
                self.wfile.write(body.encode())
            except (BrokenPipeError, ConnectionResetError):
                pass  # the client gave up waiting: that is what the test is about

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Prometheus:
    """Answers query_range as the API describes it: a value per step that is a known function of time, both ends included."""

    def __init__(self, value=lambda t: t / 60 % 1000, series=({"instance": "a:9100"},), trouble=()):
        self.value, self.series, self.trouble = value, series, list(trouble)
        self.asked = []

    def __call__(self, path, query, headers):
        self.asked.append({"path": path, "authorization": headers.get("Authorization"), **query})
        if self.trouble:
            failure = self.trouble.pop(0)
            if isinstance(failure, float):
                time.sleep(failure)
            elif failure:
                return failure
        start, end, step = (float(query[name]) for name in ("start", "end", "step"))
        if (end - start) / step > 11_000:
            error = "exceeded maximum resolution of 11,000 points per timeseries"
            return self.json(400, {"status": "error", "errorType": "bad_data", "error": error})
        times = [start + k * step for k in range(math.floor((end - start) / step) + 1)]
        result = [{"metric": labels, "values": [[t, str(self.value(t))] for t in times]} for labels in self.series]
        return self.json(200, {"status": "success", "data": {"resultType": "matrix", "result": result}})

    @staticmethod
    def json(status, body):
        return status, "application/json", json.dumps(body)


def rows_of(report, text):
    return report.rows[report.rows["what"].str.contains(text, regex=False)]["rows"].tolist()


def ask(url, **changes):
    options = {"start": START, "end": START + pd.Timedelta("1h"), "step_seconds": 60, "backoff_seconds": 0.01}
    return load_prometheus(url, "rate(x[5m])", **{**options, **changes})


def test_a_short_range_is_one_request_and_keeps_every_value():
    prometheus = Prometheus()
    with serving(prometheus) as url:
        telemetry, report = ask(f"{url}/prefix/")
    (asked,) = prometheus.asked
    assert asked["path"] == "/prefix/api/v1/query_range" and asked["query"] == "rate(x[5m])"
    assert telemetry.resource_ids == ["a:9100"] and telemetry.step_seconds == 60
    series = telemetry.series("value")
    assert series.index[0] == START and len(series) == 61  # both ends are included
    seconds = (series.index - pd.Timestamp(0, tz="UTC")).total_seconds()
    np.testing.assert_array_equal(series, seconds / 60 % 1000)
    assert report.layout == "prometheus" and rows_of(report, "repeated after an error") == []


@pytest.mark.parametrize("points", [MAX_POINTS - 1, MAX_POINTS, MAX_POINTS + 1, 25_000])
def test_long_ranges_come_in_pages_without_gap_or_overlap(points):
    prometheus = Prometheus()
    with serving(prometheus) as url:
        telemetry, report = ask(url, end=START + (points - 1) * pd.Timedelta("60s"))
    assert len(prometheus.asked) == math.ceil(points / 11_000)
    series = telemetry.series("value")
    assert len(series) == points and series.index[-1] == START + (points - 1) * pd.Timedelta("60s")
    expected = (START.timestamp() + 60 * np.arange(points)) / 60 % 1000
    np.testing.assert_array_equal(series, expected)
    assert "quality_flag" not in telemetry.observations or not telemetry.observations["quality_flag"].any()
    assert report.rows.set_index("kind").loc[["dropped", "combined", "added"], "rows"].sum() == 0


def test_names_units_and_resources():
    name = "instance:node_cpu_utilisation:rate5m"
    series = [{"__name__": name, "job": "node", "instance": node} for node in ("a", "b")]
    with serving(Prometheus(lambda t: 0.25, series)) as url:
        telemetry, _ = ask(url)
    assert telemetry.resource_ids == ["a", "b"] and telemetry.observations["cpu_utilization"].eq(25).all()
    with serving(Prometheus(lambda t: 0.25)) as url:
        named, report = ask(url, metric="memory_utilization", unit="fraction", step_seconds=120)
        assert named.observations["memory_utilization"].eq(25).all() and named.step_seconds == 120
        coarse = load_live(
            f"prometheus+{url}/?query=x&start={START.timestamp()}&end=1767578400&step=60", step_seconds=600
        )
    assert coarse.step_seconds == 600 and coarse.observations["value"].eq(0.25).all()
    assert report.columns.set_index("header").loc["value", "decided"] == "by the caller: unit by the caller"
    with serving(Prometheus(series=[{"__name__": "node_load1"}])) as url:
        load, report = ask(url)
    assert load.metrics == ["value"] and rows_of(report, "'node_load1' has no canonical metric, kept as value") == [61]
    with (
        serving(Prometheus(series=[{"__name__": "x"}, {"__name__": "y"}])) as url,
        pytest.raises(SchemaError, match="names only one"),
    ):
        ask(url, metric="value")


def test_start_moves_down_to_the_step_and_may_be_relative():
    prometheus = Prometheus()
    with serving(prometheus) as url:
        ask(url, start="2026-01-05 00:00:30", end="2026-01-05T02:00:00+01:00")
        ask(url, start="-2h", end=START.timestamp())
        ask(url, start="-30min", end="now")
    starts, ends = ([float(one[name]) for one in prometheus.asked] for name in ("start", "end"))
    assert starts[:2] == [START.timestamp(), START.timestamp() - 7200] and ends[:2] == [
        START.timestamp() + 3600,
        START.timestamp(),
    ]
    assert abs(ends[2] - time.time()) < 60 and 1800 <= ends[2] - starts[2] < 1860


def test_errors_of_the_server_and_timeouts_are_tried_again_and_counted():
    busy = (503, "text/plain", "busy")
    prometheus = Prometheus(trouble=[busy, (502, "text/html", "<html>"), 0.6, (429, "text/plain", "")])
    with serving(prometheus) as url:
        telemetry, report = ask(url, timeout_seconds=0.3)
    assert len(prometheus.asked) == 5 and len(telemetry.observations) == 61
    assert rows_of(report, "requests repeated after an error of the server") == [4]


def test_it_gives_up_in_a_sentence_after_the_retries():
    always = Prometheus(trouble=[(503, "text/plain", "busy")] * 9)
    with serving(always) as url, pytest.raises(SourceError, match="answers 503 without JSON"):
        ask(url, retries=2)
    assert len(always.asked) == 3
    slow = Prometheus(trouble=[0.4] * 9)
    with serving(slow) as url, pytest.raises(SourceError, match=r"does not answer within 0.1 s"):
        ask(url, retries=1, timeout_seconds=0.1)
    with serving(Prometheus()) as url:
        pass  # nobody listens there any more
    with pytest.raises(SourceError, match="does not answer within"):
        ask(url, retries=1)


def test_wrong_queries_and_wrong_servers_are_refused_without_a_retry():
    wrong = Prometheus(
        trouble=[Prometheus.json(400, {"status": "error", "errorType": "bad_data", "error": "parse error"})]
    )
    with serving(wrong) as url, pytest.raises(SourceError, match="Prometheus answers bad_data: parse error"):
        ask(url)
    assert len(wrong.asked) == 1
    with serving(lambda *_: (200, "text/html", "<html>")) as url, pytest.raises(SourceError, match="200 without JSON"):
        ask(url)
    with serving(lambda *_: Prometheus.json(200, [1])) as url, pytest.raises(SourceError, match="is no answer of"):
        ask(url)
    with (
        serving(Prometheus(series=())) as url,
        pytest.raises(SourceError, match="gave no data points. Check the query"),
    ):
        ask(url)
    with serving(Prometheus()) as url, pytest.raises(TooShortError, match="5 usable rows"):
        ask(url, end=START + pd.Timedelta("4min"))


def test_credentials_travel_but_never_show():
    prometheus = Prometheus()
    with serving(prometheus) as url:
        telemetry, _ = ask(url, http_headers={"Authorization": "Bearer token"})
        with_user = url.replace("http://", "http://me:secret@")
        other, _ = ask(with_user)
    assert [one["authorization"] for one in prometheus.asked] == ["Bearer token", "Basic bWU6c2VjcmV0"]
    assert "secret" not in other.source + other.provenance and telemetry.source == other.source
    with (
        serving(lambda *_: (401, "text/plain", "no")) as url,
        pytest.raises(SourceError, match="http_headers=") as caught,
    ):
        ask(url.replace("http://", "http://me:secret@"))
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"start": "soon"}, "'soon' is no time"),
        ({"start": "-soon"}, "start '-soon' is no duration"),
        ({"start": START, "end": START}, "is not before end"),
        ({"step_seconds": 0}, "step_seconds is 0; give a positive number"),
    ],
)
def test_bad_arguments(changes, message):
    with pytest.raises(SourceError, match=message):
        ask("http://127.0.0.1:9", **changes)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("ftp+http://h/?query=x&start=1&step=1", "no live source. Begin with prometheus"),
        (
            "prometheus+http://h/?query=x&start=1&step=1&stop=2",
            "option 'stop' is not understood. Use query, start, end",
        ),
        ("prometheus+http://h/?query=x&start=1", "step is missing"),
        ("prometheus+http://h/?query=x&start=1&step=soon", "step='soon' is no number"),
        ("agent+http://h/metrics?step=1", r"samples is missing. Write ...\?samples=...&step=..."),
    ],
)
def test_bad_source_strings(source, message):
    with pytest.raises(SourceError, match=message):
        load_live(source)


def test_load_live_decodes_the_query():
    prometheus = Prometheus()
    query = 'sum(rate(node_cpu_seconds_total{mode!="idle"}[5m])) + 1'
    with serving(prometheus) as url:
        source = f"prometheus+{url}/?query={quote(query)}&start=-1h&end={int(START.timestamp())}&step=60&metric=cpu_cores_used"
        telemetry = load_live(source)
    assert prometheus.asked[0]["query"] == query and telemetry.metrics == ["cpu_cores_used"]
    assert len(telemetry.observations) == 61


# --- agents ----------------------------------------------------------------------------------------------------------


@contextmanager
def node():
    """A node that serves Prometheus' text format by the official client; yields its metrics and its address."""
    registry = CollectorRegistry()
    metrics = {
        "cpu": Counter("node_cpu_seconds_total", "", ["cpu", "mode"], registry=registry),
        "network": Counter("node_network_receive_bytes_total", "", ["device"], registry=registry),
        "available": Gauge("node_memory_MemAvailable_bytes", "", registry=registry),
        "total": Gauge("node_memory_MemTotal_bytes", "", registry=registry),
        "other": Gauge("node_load1", "", registry=registry),
    }
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        yield metrics, f"http://127.0.0.1:{server.server_port}/metrics"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_node_exporters_over_http():
    """Four nodes work for 3 s; the shares of CPU are set exactly, the traffic follows the clock."""
    stop = threading.Event()

    def work(metrics, busy, bytes_per_second):
        metrics["total"].set(8e9)
        metrics["available"].set(6e9)
        last = time.monotonic()
        while not stop.wait(0.02):
            now = time.monotonic()
            seconds, last = now - last, now
            for cpu in ("0", "1"):
                metrics["cpu"].labels(cpu, "user").inc(seconds * busy)
                metrics["cpu"].labels(cpu, "idle").inc(seconds * (1 - busy) * 0.75)
                metrics["cpu"].labels(cpu, "iowait").inc(seconds * (1 - busy) * 0.25)
            metrics["network"].labels("eth0").inc(seconds * bytes_per_second)
            metrics["network"].labels("lo").inc(seconds * 1e9)

    truth = [(0.4, 250_000), (0.8, 1_000_000), (0.0, 0), (1.0, 125_000)]
    with ExitStack() as stack:
        nodes = [stack.enter_context(node()) for _ in truth]
        workers = [
            threading.Thread(target=work, args=(metrics, *t)) for (metrics, _), t in zip(nodes, truth, strict=True)
        ]
        for worker in workers:
            worker.start()
        time.sleep(0.1)
        telemetry, report = load_agents([url for _, url in nodes], n_samples=4, step_seconds=1.0)
        stop.set()
        for worker in workers:
            worker.join()
    names = [urlsplit(url).netloc for _, url in nodes]
    assert telemetry.resource_ids == sorted(names) and telemetry.step_seconds == 1.0
    for name, (busy, bytes_per_second) in zip(names, truth, strict=True):
        np.testing.assert_allclose(telemetry.series("cpu_utilization", name), 100 * busy, atol=1.5)
        sent = telemetry.series("network_in_mbps", name).mean()
        assert sent == pytest.approx(bytes_per_second * 8 / 1e6, rel=0.25)  # without the loopback device
        np.testing.assert_allclose(telemetry.series("memory_utilization", name), 25.0)
    assert telemetry.series("cpu_utilization", names[0]).size == 3 and rows_of(report, "first samples") == [4]


def test_json_agents_of_which_one_falls_silent():
    """The format of CloudPulse: nested numbers; the mean over nodes is `demand`; a silent node leaves a counted gap."""
    count = {"a": 0, "b": 0, "c": 0, "d": 0}

    def answer(path, query, headers):
        name = path.strip("/")
        count[name] += 1
        if name == "b" and count["b"] in (2, 3):
            return 500, "text/plain", "down"
        body = {
            "cpu": {"percent": {"a": 20.0, "b": 40.0, "c": 60.0, "d": 80.0}[name]},
            "memory_percent": 50,
            "load1": 0.3,
            "up": True,
        }
        return 200, "application/json; charset=utf-8", json.dumps({**body, "timestamp": 1, "hostname": name})

    with serving(answer) as url:
        endpoints = [f"{url}/{name}" for name in count]
        with pytest.raises(SourceError, match="/a is named twice"):
            load_agents(endpoints[:1] * 2, n_samples=1, step_seconds=1.0)
        telemetry, report = load_agents(endpoints, n_samples=4, step_seconds=1.0, fill="none")
    assert telemetry.metrics == ["cpu_utilization", "memory_utilization"] and len(telemetry.resource_ids) == 4
    b = next(i for i in telemetry.resource_ids if i.endswith("/b"))
    assert np.flatnonzero(telemetry.series("cpu_utilization", b).isna()).tolist() == [1, 2]
    assert rows_of(report, "samples that an agent did not answer") == [2]
    assert "load average" in report.columns.set_index("header").loc["load1", "decided"]
    wide = telemetry.observations["cpu_utilization"].unstack("resource_id")
    assert wide.iloc[0].mean() == 50.0  # the mean over nodes


def test_a_restarted_agent_leaves_a_gap_not_a_negative_rate():
    steady = {name: iter(range(0, 9000, 1000)) for name in ("a", "b", "c")}
    totals = {**steady, "d": iter([7000, 8000, 50, 1050])}

    def answer(path, *_):
        text = (
            f'# TYPE http_requests_total counter\nhttp_requests_total{{code="200"}} {next(totals[path.strip("/")])}\n'
        )
        return 200, "text/plain; version=0.0.4", text

    with serving(answer) as url:
        telemetry, report = load_agents([f"{url}/{n}" for n in totals], n_samples=4, step_seconds=1.0, fill="none")
    rates = telemetry.observations["throughput_rps"].unstack("resource_id")
    assert np.argwhere(rates.isna().to_numpy()).tolist() == [[1, 3]]  # of d, in the interval of its restart
    assert rows_of(report, "counters that went back") == [1] and rows_of(report, "first samples") == [4]
    np.testing.assert_allclose(rates.drop(index=rates.index[1]), 1000, rtol=0.3)  # per second, on a busy machine, too


@pytest.mark.parametrize(
    ("status", "kind", "body", "message"),
    [
        (404, "text/plain", "no", "no agent answered: .* answers 404"),
        (200, "application/json", "[1]", "is neither JSON nor Prometheus' text format"),
        (200, "text/html", "<!doctype html><p>Welcome", "is neither JSON nor Prometheus' text format"),
        (200, "text/plain", "go_info 1\n", "no known metric"),
    ],
)
def test_agents_that_give_no_metrics(status, kind, body, message):
    with serving(lambda *_: (status, kind, body)) as url, pytest.raises(SourceError, match=message):
        load_agents([f"{url}/metrics"], n_samples=1, step_seconds=1.0)


@pytest.mark.parametrize("name", ["agent+", "agents:"])
def test_agents_by_one_string(name):
    beat = iter(range(1000))
    with serving(lambda *_: Prometheus.json(200, {"cpu_percent": 10 + next(beat) % 3})) as url:
        telemetry = load(f"{name}{url}/a,{url}/b,{url}/c,{url}/d?samples=3&step=1")
    assert telemetry.metrics == ["cpu_utilization"] and len(telemetry.observations) == 12
    with pytest.raises(SourceError, match="at least one endpoint"):
        load_agents([], n_samples=1, step_seconds=1.0)
