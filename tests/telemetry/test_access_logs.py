"""Access logs: every count against lines whose truth is known, or against a naive loop; damage is counted, never fatal."""

import gzip
import os
import re
import tracemalloc
from collections import defaultdict
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import fsspec
import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from support.errors import SchemaError, SourceError, TooShortError
from support.telemetry import Telemetry
from support.telemetry.reading import access_logs
from support.telemetry.reading.access_logs import load_access_log, log_metrics

ROOT = Path(__file__).resolve().parents[2]
REAL = Path(os.environ.get("BOOK_DATA") or ROOT.parent / "shared" / "data") / "apache-logs" / "apache_logs"
MEMORY = "memory://access-log-tests/access.log"
STAMP = "%d/%b/%Y:%H:%M:%S %z"
NOON = datetime(2026, 1, 31, 12, tzinfo=UTC)
COLUMNS = ["requests", "response_bytes", "errors", "unique_clients"]
SLOT_SECONDS = 60


def line(second=0, client="192.0.2.7", status=200, size=512, user="-", request="GET / HTTP/1.1", tail="", offset=0):
    moment = (NOON + timedelta(seconds=second)).astimezone(timezone(timedelta(minutes=offset)))
    return f'{client} - {user} [{moment:{STAMP}}] "{request}" {status} {size}{tail}'


def load_text(text, path=MEMORY, **options):
    with fsspec.open(path, "wb", compression="infer") as file:
        file.write(text if isinstance(text, bytes) else text.encode())
    return load_access_log(path, **options)


def rows(telemetry):
    """Second since NOON of each interval with a request -> its four counts."""
    frame = telemetry.observations.droplevel(0)
    frame = frame[frame["requests"] > 0]
    return {int((t - NOON).total_seconds()): tuple(row) for t, row in zip(frame.index, frame.to_numpy(), strict=True)}


def repairs(telemetry):
    return {r.what: r.count for r in telemetry.repairs}


def count_of(telemetry, part):
    return sum(count for what, count in repairs(telemetry).items() if part in what)


def naive_counts(requests, step=SLOT_SECONDS, open_seconds=3600):
    """Counts by plain dictionaries from (second, client, status, size or None) in order of the lines."""
    sums, clients, late, latest = defaultdict(lambda: np.zeros(3)), defaultdict(set), set(), -np.inf
    for second, client, status, size in requests:
        slot = second // step
        latest = max(latest, slot)
        sums[slot] += (1, size or 0, status >= 400)
        clients[slot].add(client)
        if slot < latest - -(-open_seconds // step):
            late.add(slot)
    return {slot * step: (*sums[slot], np.nan if slot in late else len(clients[slot])) for slot in sums}


NAIVE = re.compile(
    r'([^ ]+) ([^ ]+) ([^\[]+) \[([^\]]+)\] "((?:[^"\\]|\\.)*)" ([0-9]{3}) ([0-9]{1,15}|-)(?=[ \r\n]|\Z)'
)


def naive_parse(text):
    """(second since NOON, client, status, size) of one line by `re` and `datetime`, None if it is broken."""
    found = NAIVE.match(text)
    if not found:
        return None
    client, _, user, stamp, _, status, size = found.groups()
    if (user != "-" and user.startswith("-")) or "" in user.split(" "):
        return None
    try:
        moment = datetime.strptime(stamp, STAMP)
    except ValueError:
        return None
    if stamp.replace("-0000", "+0000") != f"{moment:{STAMP}}" or not 1900 <= moment.year < 2100:
        return None  # strptime also takes may for May, 1 for 01 and Z for +0000
    return int((moment - NOON).total_seconds()), client, int(status), None if size == "-" else int(size)


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for second, counts in expected.items():
        np.testing.assert_array_equal(found[second], counts, err_msg=str(second))


@contextmanager
def small_blocks(block_bytes, pending_rows):
    with (
        patch.object(access_logs, "BLOCK_BYTES", block_bytes),
        patch.object(access_logs, "MOST_PENDING_ROWS", pending_rows),
    ):
        yield


TEXT = st.lists(st.sampled_from([*"aZ09/?&=-[] :é漢.'", "\\\\", '\\"', "\\x22"]), max_size=12).map("".join)
CLIENTS = (
    st.ip_addresses(v=4).map(str) | st.ip_addresses(v=6).map(str) | st.sampled_from(["::1", "host.example", "a-b"])
)
TAILS = (
    st.just("") | st.builds(' "{}" "{}"'.format, TEXT, TEXT) | st.builds(' "{}" "{}" 0.003 "x" -'.format, TEXT, TEXT)
)
REQUESTS = st.fixed_dictionaries(
    {
        "second": st.integers(-4000, 8000) | st.integers(0, 100),
        "client": CLIENTS,
        "status": st.integers(100, 599),
        "size": st.just("-") | st.integers(0, 10**15 - 1),
        "user": st.sampled_from(["-", "frank", "Mary Ann", '""', "a-b@c.d", "é"]),
        "request": TEXT,
        "tail": TAILS,
        "offset": st.integers(-14 * 60, 14 * 60) | st.sampled_from([330, 345, -210, 1439, -1439]),
    }
)
BROKEN = st.sampled_from(
    [
        "",
        "-",
        "\0" * 40,
        line()[:40],
        line(user="-")[20:],
        line().replace("200", "20"),
        line().replace("512", "5k"),
        line().replace("512", "-5"),
        line().replace("31/Jan", "31/Feb"),
        line().replace("Jan", "jan"),
        line().replace("2026", "0026"),
        line().replace("2026", "2126"),
        line().replace("12:00:00", "24:00:00"),
        line().replace("12:00:00", "12:00:60"),
        line().replace("+0000", "+2400"),
        line().replace("+0000", "-0060"),
        line().replace(" +0000", ""),
        line(request='GET /"a HTTP/1.1'),
        line(request="GET /\\"),
        "www.example.com:443 " + line(),
        '{"status": 200}',
        "# a comment",
    ]
)


@settings(max_examples=100, deadline=None)
@given(
    made=st.lists(st.tuples(REQUESTS | BROKEN, st.sampled_from(["\n", "\r\n"])), min_size=1, max_size=30),
    block_bytes=st.sampled_from([1, 13, 100, 1 << 20]),
    pending_rows=st.sampled_from([0, 5, 1_000_000]),
    open_seconds=st.sampled_from([0, 90, 3600, 86_400]),
)
def test_counts_are_those_the_lines_were_made_from(made, block_bytes, pending_rows, open_seconds):
    text = "".join((line(**it) if isinstance(it, dict) else it) + end for it, end in made)
    good = [it for it, _ in made if isinstance(it, dict)]
    truth = [(it["second"], it["client"], it["status"], 0 if it["size"] == "-" else it["size"]) for it in good]
    with small_blocks(block_bytes, pending_rows):
        if not good:
            with pytest.raises(SourceError, match="none of its"):
                load_text(text)
            return
        log = load_text(text, open_seconds=open_seconds)
    assert_same(rows(log), naive_counts(truth, open_seconds=open_seconds))
    assert count_of(log, "lines read") == len(made)
    assert count_of(log, "lines broken") == len(made) - len(good)
    assert count_of(log, "example: ") == min(len(made) - len(good), 5)
    assert count_of(log, "cut within quotation marks") == 0
    assert count_of(log, "intervals without a line") == len(log.observations) - len(rows(log))
    assert count_of(log, "sizes of -") == sum(it["size"] == "-" for it in good)
    assert count_of(log, "earlier than the line before") == sum(b["second"] < a["second"] for a, b in pairwise(good))


@settings(max_examples=150, deadline=None)
@given(
    made=REQUESTS,
    edits=st.lists(
        st.tuples(st.integers(0, 150), st.integers(0, 2), st.sampled_from([*' "\\[]-+:/019aé\t\0\r', "- "])),
        min_size=1,
        max_size=3,
    ),
)
def test_damaged_lines_are_judged_as_by_a_naive_parser(made, edits):
    text = line(**made)
    for at, n_removed, insert in edits:
        text = text[:at] + insert + text[at + n_removed :]
    truth = [found for found in (naive_parse(text), naive_parse(line())) if found]
    assume(abs(truth[0][0]) < 365 * 86_400)  # further away is a stray date, refused: see below
    assert_same(
        rows(load_text(f"{text}\n{line()}\n", open_seconds=10**10, step_seconds=86_400)), naive_counts_days(truth)
    )


def naive_counts_days(truth):
    half = 43_200  # days start at midnight, seconds are counted from noon
    counted = naive_counts([(second + half, *rest) for second, *rest in truth], step=86_400, open_seconds=10**10)
    return {second - half: counts for second, counts in counted.items()}


def test_a_log_by_hand():
    log = load_text(
        "\n".join(
            [
                line(0, "2001:db8::1", size=100, tail=' "https://example.com/" "Mozilla/5.0"'),
                line(59, "2001:db8::1", status=399, size="-", offset=330),
                line(60, "192.0.2.1", status=400, size=7, user="Mary Ann"),
                line(60, "192.0.2.2", status=503, size=0, request='GET /a?b=\\"[c]\\" HTTP/2.0', offset=-570),
                "rubbish 42",
                line(180, "192.0.2.2", request="-", status=408, size="-"),
            ]
        )
    )
    np.testing.assert_array_equal(log.observations[COLUMNS], [[2, 100, 0, 1], [2, 7, 2, 2], [0, 0, 0, 0], [1, 0, 1, 1]])
    assert log.resource_ids == ["access.log"] and log.step_seconds == 60
    assert log.observations.index[0][1] == pd.Timestamp(NOON)
    assert repairs(log) == {
        "lines read": 6,
        "lines broken, left out": 1,
        "sizes of - read as 0 bytes": 2,
        "intervals without a line, counted as 0 requests": 1,
        "example: line 5 is xxxxxxx 00 (letters and digits masked)": 1,
    }


def test_examples_are_the_first_five_and_tell_nobody_s_data():
    lines = [line() if k % 3 else f'198.51.100.{k} ümlaut\x1b[31m "GET /secret?token=q7{"z" * 500}' for k in range(30)]
    log = load_text("\n".join(lines))
    shown = [what for what in repairs(log) if what.startswith("example: ")]
    assert [int(re.search(r"line (\d+) is", text)[1]) for text in shown] == [1, 4, 7, 10, 13]
    for text in shown:
        shape = text.split(" is ", 1)[1].removesuffix(" (letters and digits masked)")
        assert set(re.sub(r"[x0]", "", shape)) <= set('. ?[/="') and len(shape) <= 160, shape


@pytest.mark.parametrize(
    ("tail", "cut"),
    [
        ("", 0),
        (' "-" "-"', 0),
        (' "-" "a \\" b"', 0),
        (' "-" "\\\\"', 0),
        (' "-" "Mozilla/5.0 (X11', 1),
        (' "https://exa', 1),
        (' "-" "a \\" b', 1),
    ],
)
def test_a_line_that_is_cut_after_the_size_is_counted_and_told(tail, cut):
    log = load_text(f"{line()}\n{line(tail=tail)}")
    assert rows(log) == {0: (2, 1024, 0, 1)} and count_of(log, "cut within quotation marks") == cut


@pytest.mark.parametrize("block_bytes", [1, 1 << 20])
def test_late_lines_leave_their_clients_unknown_unless_the_window_is_wider(block_bytes):
    seconds, clients = [0, 0, 60, 3599, 3660, 0, 60, 60], "abcabdac"
    text = "\n".join(line(s, c) for s, c in zip(seconds, clients, strict=True))
    with small_blocks(block_bytes, 0):
        log, wide = load_text(text), load_text(text, open_seconds=3601)
    np.testing.assert_array_equal(log.series("unique_clients").iloc[[0, 1, 59, 61]], [np.nan, 2, 1, 1])
    assert log.series("requests").iloc[0] == 3 and count_of(log, "3600 s late") == 1
    assert wide.series("unique_clients").iloc[0] == 3 and count_of(wide, "late") == 0


@pytest.mark.parametrize("suffix", ["gz", "bz2", "xz"])
def test_packed_logs(tmp_path, suffix):
    text = "\n".join(line(k, f"192.0.2.{k % 9}") for k in range(500))
    expected = load_text(text).observations.to_numpy()
    np.testing.assert_array_equal(load_text(text, str(tmp_path / f"a.log.{suffix}")).observations, expected)


def test_a_packed_log_of_several_members_is_read_to_its_end(tmp_path):
    """As `cat a.gz b.gz` and `pigz` make them; the cut may be within a line."""
    text = "".join(line(k, f"192.0.2.{k % 9}") + "\n" for k in range(500)).encode()
    path = tmp_path / "a.log.gz"
    path.write_bytes(b"".join(gzip.compress(text[k : k + 777]) for k in range(0, len(text), 777)))
    np.testing.assert_array_equal(load_access_log(str(path)).observations, load_text(text).observations)


@pytest.mark.parametrize("damage", ["truncated", "corrupt", "no gzip"])
def test_a_damaged_packed_log_is_refused(tmp_path, damage):
    content = bytearray(gzip.compress("\n".join(line(k) for k in range(5000)).encode()))
    if damage == "truncated":
        content = content[: len(content) // 2]
    elif damage == "corrupt":
        content[len(content) // 2] ^= 0xFF
    else:
        content = bytearray(line().encode())
    path = tmp_path / "a.log.gz"
    path.write_bytes(content)
    with pytest.raises(SourceError, match=r"^\S+a\.log\.gz: cannot be read \([^\n]+\)\. Check [^\n]+$"):
        load_access_log(str(path))


@pytest.mark.parametrize("content", [b"\0", b"x", line(request="G" * 10).encode()[:-8] + b"q"])
@pytest.mark.parametrize("block_bytes", [1 << 16, 16 << 20])
def test_a_huge_line_is_one_broken_line(content, block_bytes):
    huge = content * ((3 << 20) // len(content))
    lines = [line(0).encode(), huge, line(60).encode(), huge]
    with small_blocks(block_bytes, 100):
        log = load_text(b"\n".join(lines))
    assert rows(log) == {0: (1, 512, 0, 1), 60: (1, 512, 0, 1)} and count_of(log, "lines broken") == 2


@pytest.mark.parametrize("block_bytes", [1 << 16, 16 << 20])
def test_a_well_formed_line_over_the_limit_is_broken_whatever_the_blocks(block_bytes):
    over, under = ("G" * (access_logs.LONGEST_LINE_BYTES - n) for n in (0, 200))
    with small_blocks(block_bytes, 100):
        log = load_text("\n".join([line(request=over), line(request=under)] * 2))
    assert rows(log) == {0: (2, 1024, 0, 1)} and count_of(log, "lines broken") == 2


def test_a_boundless_line_is_not_held_in_memory(tmp_path):
    path = tmp_path / "zeros.gz"
    with gzip.open(path, "wb", compresslevel=1) as file:
        for _ in range(100):
            file.write(bytes(1 << 20))
    tracemalloc.start()
    try:
        with small_blocks(1 << 20, 100), pytest.raises(SourceError, match="none of its 1 lines is in Common"):
            load_access_log(str(path))
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_what_is_held_does_not_grow_with_the_lines():
    """Ten thousand clients come again and again for three days; those of one hour may be held."""
    counts, most = access_logs._Counts(60, 60), 0
    rng = np.random.default_rng(5)
    with small_blocks(1, 20_000):
        for start in range(0, 3 * 86_400, 3600):
            seconds = np.sort(rng.integers(start, start + 3600, 1000))
            lines = [line(int(s), f"c{c}") + "\n" for s, c in zip(seconds, rng.integers(0, 10_000, 1000), strict=True)]
            counts.add(access_logs._lines("".join(lines).encode()))
            most = max(most, sum(map(len, counts.pairs)))
    assert counts.table()["requests"].sum() == 72_000
    assert most <= 20_000 + 3 * 1000


def test_bytes_that_are_no_utf_8_and_windows_line_ends():
    odd = line(request="GET /caf\xe9 HTTP/1.1", tail=' "-" "\xff\xfe"').encode("latin-1")
    clients = [line(client=name).encode("latin-1") for name in ("c\xe4sar", "csar")]  # two, not one
    log = load_text(b"\r\n".join([odd, *clients, b"\xff\xff", line(client="c\xe4sar").encode(), b"", b""]))
    assert rows(log) == {0: (4, 4 * 512, 0, 4)}
    assert count_of(log, "lines read") == 6 and count_of(log, "lines broken") == 2


@pytest.mark.parametrize("step", [1, 7, 60, 300, 3600, 86_400])
def test_intervals_start_at_multiples_of_the_step_since_the_epoch(step):
    seconds = np.sort(np.random.default_rng(2).integers(-9000, 9000, 400))
    log = load_text("\n".join(line(int(s), f"c{s % 7}", size=int(s) % 11) for s in seconds), step_seconds=step)
    epoch = int(NOON.timestamp())
    expected = naive_counts([(int(s) + epoch, f"c{s % 7}", 200, int(s) % 11) for s in seconds], step)
    assert_same(rows(log), {second - epoch: counts for second, counts in expected.items()})
    assert (np.diff(log.observations.index.get_level_values(1).asi8) == step * 10**9).all()


def test_stamps_before_the_epoch_and_in_summer_time():
    text = line().replace("31/Jan/2026:12:00:00 +0000", "{}")
    stamps = ["31/Dec/1969:23:59:59 +0000", "01/Jan/1970:00:59:58 +0100", "31/Dec/1969:18:00:00 -0600"]
    log = load_text("\n".join(map(text.format, stamps)))
    np.testing.assert_array_equal(log.series("requests"), [2, 1])
    assert log.observations.index[0][1] == pd.Timestamp("1969-12-31 23:59", tz="UTC")


def test_a_stray_date_is_refused_before_the_grid_is_made():
    text = "\n".join([line(0), line(60), line(120).replace("2026", "2062")])
    with pytest.raises(
        SourceError, match=r"no line from 2026-01-31T12:01:00 to 2062-\S+ UTC \(2 lines before, 1 after\)"
    ):
        load_text(text)
    with pytest.raises(SourceError, match="raise step_seconds"):
        load_text("\n".join(line(k * 86_400) for k in range(0, 100, 10)), step_seconds=1)


def test_files_that_are_no_logs_are_refused_in_one_sentence(tmp_path):
    def refused(path, words, **options):
        with pytest.raises(SourceError, match=words) as caught:
            load_access_log(str(path), **options)
        assert "\n" not in str(caught.value) and "hunter2" not in str(caught.value)

    (tmp_path / "empty.log").touch()
    (tmp_path / "empty.log.gz").write_bytes(gzip.compress(b""))
    (tmp_path / "foreign.log").write_text("<34>1 2026-01-31T12:00:00Z host su - ID47 - failed for alice\n" * 3)
    (tmp_path / "good.log").write_text(line())
    refused(tmp_path / "none.log", "there is no such file")
    refused(tmp_path, "is a folder")
    refused(tmp_path / "empty.log", r"is empty")
    refused(tmp_path / "empty.log.gz", r"is empty")
    refused(tmp_path / "foreign.log", "none of its 3 lines is in Common or Combined Log Format.*line 1 is <00>0 0000")
    refused("nowhere://bucket/a.log?key=hunter2", r"^nowhere://bucket/a.log: cannot be read")
    for step in (0, 0.5, 1.5, 86_401, np.nan, np.inf):
        refused(tmp_path / "good.log", "it must be whole", step_seconds=step)
    for wait in (-1, np.nan, np.inf):
        refused(tmp_path / "good.log", "it must be finite", open_seconds=wait)
    assert len(load_access_log(str(tmp_path / "good.log")).observations) == 1


@pytest.mark.skipif(not REAL.exists(), reason="no mirror of the traces (BOOK_DATA)")
def test_the_real_lines_against_the_naive_loop_and_the_facts_of_the_trace():
    parsed = [naive_parse(text) for text in REAL.read_text().splitlines()]
    assert None not in parsed
    log = load_access_log(str(REAL), step_seconds=3600.0)
    assert_same(rows(log), naive_counts(parsed, step=3600))
    assert log.series("requests").between(74, 136).iloc[:-1].all()
    assert repairs(log)["sizes of - read as 0 bytes"] == 669
    assert count_of(log, "cut within quotation marks") == 1  # line 8899
    day = load_access_log(str(REAL), step_seconds=86_400.0)
    assert day.series("requests").sum() == 10_000 and count_of(day, "lines broken") == 0
    found = " ".join(map(str, day.repairs))
    assert not any(client in found for _, client, _, _ in parsed)


def counts(requests, errors=0.0, step=60.0):
    times = pd.date_range("2026-01-01", periods=len(requests), freq=f"{step:g}s", tz="UTC", name="timestamp")
    index = pd.MultiIndex.from_product([["web"], times], names=["resource_id", "timestamp"])
    return Telemetry(
        pd.DataFrame({"requests": requests, "errors": errors}, index=index).astype(float), step_seconds=step
    )


def test_metrics_of_a_log_with_a_spike():
    rng = np.random.default_rng(11)
    requests = rng.poisson(600, 200).astype(float)
    requests[[40, 120]] = 1200
    errors = rng.binomial(requests.astype(int), 0.02)
    metrics = log_metrics(counts(requests, errors))
    np.testing.assert_allclose(metrics["z_score"], stats.zscore(requests))
    np.testing.assert_allclose(metrics["requests_per_second"], requests / 60)
    np.testing.assert_allclose(metrics["error_fraction"], errors / requests)
    assert list(np.flatnonzero(metrics["is_spike"])) == [40, 120]


def test_metrics_per_window_of_lines():
    second = [k * 20 for k in range(60) for _ in range(2 if k < 57 else 50)]
    log = load_text("\n".join(line(s, status=500 if s < 60 else 200) for s in second), step_seconds=20)
    metrics = log_metrics(log)
    np.testing.assert_allclose(metrics["requests_per_second"], [0.1] * 19 + [2.5])
    np.testing.assert_allclose(metrics["error_fraction"], [1] + [0] * 19)
    assert list(metrics["is_spike"]) == [False] * 19 + [True]


def test_metrics_at_the_edges():
    flat = log_metrics(counts(np.full(20, 6.0)))
    assert (flat["z_score"] == 0).all() and not flat["is_spike"].any()
    silent = log_metrics(counts(np.r_[np.zeros(10), 5.0, 5.0]))
    assert silent["error_fraction"].isna().sum() == 10 and (silent["error_fraction"].iloc[10:] == 0).all()
    with pytest.raises(SchemaError, match="no multiple"):
        log_metrics(counts(np.ones(20)), window_seconds=90)


@pytest.mark.parametrize("threshold", [1.0, 1.5, 2.0, 2.5, 3.0, 3.5])
def test_the_fewest_windows_that_can_hold_a_spike(threshold):
    fewest = int(threshold**2) + 2
    one_spike = np.r_[np.zeros(fewest - 1), 1.0]
    assert log_metrics(counts(one_spike), threshold=threshold)["is_spike"].sum() == 1
    assert stats.zscore(one_spike[1:]).max() <= threshold + 1e-12
    with pytest.raises(TooShortError, match=f"Give {fewest} or more"):
        log_metrics(counts(one_spike[1:]), threshold=threshold)
