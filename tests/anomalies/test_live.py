"""A watch on streams: generators, a Prometheus server on localhost, and the memory both take."""

import gc
import json
import threading
import tracemalloc
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pandas as pd
import pytest

from support.anomalies.calibration import Debounced, TailCalibrated
from support.anomalies.detectors import ChangePointSurprise, RobustZ, Summed
from support.anomalies.isolation import IsolationForestDetector
from support.anomalies.live import Alert, Watch, prometheus_stream
from support.anomalies.matrix_profile import LeftMatrixProfile
from support.anomalies.pattern_memory import PatternMemory
from support.anomalies.residual import ResidualDetector
from support.bayes import changepoint
from support.errors import SchemaError, TooShortError

START = pd.Timestamp("2026-01-05T00:00:00Z")
STEP_SECONDS, POLLS, SPIKE_MINUTE = 60, 12, 33
ROWS = 3_600
KEPT_BYTES = 10_000  # four bytes a row: a list of rows would take 8 for the pointer and 24 for the value


def noise(n, seed=0):
    rng = np.random.default_rng(seed)
    return (float(v) for v in (rng.normal() for _ in range(n)))


def test_alerts_are_the_rows_over_the_threshold():
    values = np.random.default_rng(0).normal(size=300)
    values[[200, 250]] = 40, -40
    found = list(Watch(RobustZ(window=50), threshold=10, n_history=100).alerts(enumerate(values)))
    scores = RobustZ(window=50).fit(values[:100]).score(values[100:])
    assert [a.timestamp for a in found] == [200, 250] == (100 + np.flatnonzero(scores >= 10)).tolist()
    assert found[0] == Alert(200, 40.0, scores[100])


def test_gaps_and_late_rows_are_counted_not_scored():
    watch = Watch(RobustZ(window=20), threshold=10, n_history=20)
    rows = [(i, float(i % 3)) for i in range(40)] + [(41, np.nan), (39, 1e6), (40, 1e6), (40, 1e6)]
    assert [a.timestamp for a in watch.alerts(rows)] == [40]
    assert (watch.rows, watch.skipped, watch.late) == (41, 1, 2)


def test_a_short_stream_and_bad_settings_say_so():
    with pytest.raises(TooShortError, match="after 5 rows"):
        list(Watch(RobustZ(), threshold=3, n_history=20).alerts(enumerate(range(5))))
    with pytest.raises(SchemaError, match="n_history 0"):
        Watch(RobustZ(), threshold=3, n_history=0)


@pytest.mark.parametrize(
    "detector",
    [
        RobustZ(window=100),
        Debounced(Summed([TailCalibrated(ChangePointSurprise(capacity=20), memory=500)])),
        PatternMemory(step=2),
        ResidualDetector(season=24),
        LeftMatrixProfile(12, memory=100),
    ],
    ids=lambda d: type(d).__name__,
)
def test_memory_does_not_grow_with_the_stream(detector, monkeypatch):
    monkeypatch.setattr(changepoint, "CHUNK_ROWS", 500)  # rows between two sweeps of its segment starts
    watch, used = Watch(detector, threshold=np.inf, n_history=600), []

    def stream():
        for i, value in enumerate(noise(ROWS)):
            if i in (1_100, ROWS - 1):  # both just after a sweep
                gc.collect()
                used.append(tracemalloc.get_traced_memory()[0])
            yield i, value

    list(
        Watch(detector, threshold=np.inf, n_history=600).alerts(enumerate(noise(700)))
    )  # what is compiled, is compiled
    tracemalloc.start()
    try:
        assert list(watch.alerts(stream())) == []
    finally:
        tracemalloc.stop()
    assert watch.rows == ROWS and used[1] - used[0] < KEPT_BYTES


def test_the_forest_with_a_calendar_gets_its_timestamps():
    times = pd.date_range(START, periods=300, freq="h")
    values = pd.Series(np.random.default_rng(1).normal(size=300), times)
    detector = IsolationForestDetector(lags=4, calendar=True, trees=10)
    found = list(Watch(detector, threshold=-np.inf, n_history=280).alerts(values.items()))
    expected = IsolationForestDetector(lags=4, calendar=True, trees=10).fit(values[:280]).score(values[280:])
    np.testing.assert_allclose([a.score for a in found], expected, atol=1e-12)


@contextmanager
def serving(series=({"instance": "a"},), missing=()):
    """A Prometheus on localhost whose value is the minute, with one spike, and without the minutes that are missing."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = {k: v[0] for k, v in parse_qs(urlsplit(self.path).query).items()}
            start, end, step = (float(asked[k]) for k in ("start", "end", "step"))
            times = np.arange(start, end + 0.5, step)
            minutes = (times - START.timestamp()) / 60
            values = [
                [t, str(900.0 if m == SPIKE_MINUTE else m % 5)]
                for t, m in zip(times.tolist(), minutes, strict=True)
                if m not in missing
            ]
            result = [{"metric": labels, "values": values} for labels in series if values]
            body = json.dumps({"status": "success", "data": {"resultType": "matrix", "result": result}}).encode()
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(body)

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


class Clock:
    """Time that passes only by waiting, half a minute less than asked for so that some polls bring nothing new."""

    def __init__(self):
        self.now = START + pd.Timedelta(minutes=30)

    def __call__(self):
        return self.now

    def wait(self, seconds):
        self.now += pd.Timedelta(seconds=seconds - 30)


def test_polls_of_prometheus_give_every_row_once_and_alert():
    clock, seen = Clock(), []
    with serving() as url:
        stream = prometheus_stream(
            url, "sum(x)", start=START, step_seconds=STEP_SECONDS, polls=POLLS, wait=clock.wait, clock=clock
        )
        recorded = (seen.append(row) or row for row in stream)
        (alert,) = Watch(RobustZ(window=20), threshold=20, n_history=20).alerts(recorded)
    assert [t for t, _ in seen] == list(pd.date_range(START, clock.now.floor("min"), freq="min"))
    assert len(seen) == 31 + POLLS // 2 and [v for _, v in seen[:7]] == [0, 1, 2, 3, 4, 0, 1]
    assert alert.timestamp == START + pd.Timedelta(minutes=SPIKE_MINUTE) and alert.value == 900


@pytest.mark.parametrize("gap", [range(32, 37), range(32, 49)])
def test_an_outage_does_not_end_the_stream(gap):
    """Five minutes without rows leave too few in a poll, seventeen leave none: either way what is there comes once."""
    clock, polls = Clock(), 60
    with serving(missing=gap) as url:
        stream = prometheus_stream(
            url,
            "sum(x)",
            start=START,
            step_seconds=STEP_SECONDS,
            polls=polls,
            wait=clock.wait,
            clock=clock,
            fill="none",
        )
        seen = [(t, v) for t, v in stream if np.isfinite(v)]
    minutes = [round((t - START).total_seconds() / 60) for t, _ in seen]
    assert minutes == [m for m in range(31 + polls // 2) if m not in gap]


def test_two_series_are_no_stream():
    with serving(({"instance": "a"}, {"instance": "b"})) as url, pytest.raises(SchemaError, match="one series"):
        next(prometheus_stream(url, "x", start=START, step_seconds=STEP_SECONDS, clock=Clock()))
