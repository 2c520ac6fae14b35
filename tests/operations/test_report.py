"""The report command, run as a reader runs it: what it writes, and what it refuses in one sentence without leaving a trace."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest

from support.autoscaling import Decision
from support.operations.report import main


def table(days=2.5, step=300, **columns):
    n = round(days * 86_400 / step)
    index = pd.date_range("2026-03-01", periods=n, freq=f"{step}s")
    load = 900 * (1.4 + np.sin(2 * np.pi * np.arange(n) * step / 86_400)) * step / 60
    return pd.DataFrame({"time": index, "hits": np.random.default_rng(3).poisson(load), **columns})


def command(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-m", "support.operations.report", *map(str, arguments)],
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
    )


class Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.loaded, self.tags, self.alt = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        values = dict(attrs)
        self.loaded += [values[k] for k in ("src", "href") if k in values]
        if tag == "img":
            self.alt.append(values.get("alt", ""))


def test_the_command_writes_a_self_contained_page_and_a_decision(tmp_path):
    table().to_csv(tmp_path / "my.csv", index=False)
    done = command("my.csv", "--servers-now", 7, "--timezone", "Europe/Paris", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert sorted(p.name for p in (tmp_path / "report").iterdir()) == ["decision.json", "report.html"]
    assert (
        "reading my.csv" in done.stdout and "fitting" in done.stdout and "Next: open report/report.html" in done.stdout
    )
    assert "converted from Europe/Paris" in done.stdout
    text = (tmp_path / "report" / "report.html").read_text(encoding="utf-8")
    page = Page()
    page.feed(text)
    assert all(address.startswith("data:") for address in page.loaded) and all(page.alt) and page.alt
    assert {"h1", "table", "img"} <= set(page.tags) and "script" not in page.tags and "prefers-color-scheme" in text
    for words in (
        "newsvendor",
        "reactive tuned",
        "What was read",
        "What was assumed",
        "rows read",
        "price of a server",
        "only 2.5 days",
        "kubernetes hpa",
        "stochastic MPC",
        "above the optimum",
    ):
        assert words in text
    decision = Decision.from_json((tmp_path / "report" / "decision.json").read_text(encoding="utf-8"))
    assert decision.servers_now == 7 and decision.expected_cost_usd <= decision.expected_cost_of_nothing_usd
    course = f"{decision.servers} server" if decision.action == "hold" else f"7 to {decision.servers} server"
    assert f"{decision.action.capitalize()}: {course}" in text and decision.reason in text
    rows = re.findall(r"<th>([^<]+)</th>\s*((?:<td>[\d,.]+</td>\s*){8})", text)
    names, values = zip(
        *((name, [float(v) for v in re.findall(r"<td>([\d,.]+)", row)]) for name, row in rows), strict=True
    )
    assert names[0] == "optimum" and len(names) == 9 and sorted(v[0] for v in values) == [v[0] for v in values]
    assert all(abs(sum(v[1:4]) - v[0]) <= 0.016 for v in values)  # servers, starts and drops, each rounded to a cent


@pytest.mark.parametrize("step", [10, 3600])
def test_any_cadence_and_a_named_folder(tmp_path, step):
    table(days=0.5 if step == 10 else 20, step=step).to_csv(tmp_path / "my.csv", index=False)
    assert main([str(tmp_path / "my.csv"), "--out", str(tmp_path / "deep" / "out")]) == 0
    values = json.loads((tmp_path / "deep" / "out" / "decision.json").read_text(encoding="utf-8"))
    assert values["action"] in ("scale up", "scale down", "hold") and {
        "expected_cost_usd",
        "horizon_seconds",
        "risk_frac",
    } <= set(values)


def test_hostile_column_values_do_not_reach_the_page_as_markup(tmp_path):
    name = "<script>alert(1)<b>.csv"
    frame = table()
    frame.loc[5, "hits"] = np.nan
    frame.rename(columns={"hits": "<img src=x onerror=alert(1)>"}).to_csv(tmp_path / name, index=False)
    assert main([str(tmp_path / name), "--out", str(tmp_path / "out")]) == 0
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    assert "<script>" not in text and "<img src=x" not in text


def test_a_promise_has_its_policy_its_note_and_its_price(tmp_path):
    table(days=9).to_csv(tmp_path / "my.csv", index=False)
    assert main([str(tmp_path / "my.csv"), "--out", str(tmp_path / "out"), "--slo-percent", "99"]) == 0
    text = (tmp_path / "out" / "report.html").read_text(encoding="utf-8")
    for words in ("MPC for the promise", "kept the promise of 99 %", "a bad interval counted with", "--slo-percent"):
        assert words in text


def sparse(path):
    with path.open("wb") as file:
        file.truncate(5_000_000_000)


def duplicated(frame):
    again = frame.iloc[:3].assign(hits=lambda f: f["hits"] + 1)
    return pd.concat([frame, again])


BAD = {
    "missing": (lambda p: None, "no such file"),
    "empty": (lambda p: p.write_bytes(b""), "empty"),
    "header only": (lambda p: p.write_text("time,hits\n"), "no rows"),
    "binary": (lambda p: p.write_bytes(bytes(range(256)) * 50), "binary"),
    "5 GB": (sparse, "5.0 GB"),
    "no numeric column": (lambda p: table(hits="many").to_csv(p, index=False), "number|numeric"),
    "no time column": (lambda p: table()[["hits"]].to_csv(p, index=False), "timestamp"),
    "duplicate timestamps": (lambda p: duplicated(table()).to_csv(p, index=False), "more than once"),
    "negative demand": (lambda p: table(hits=-5).to_csv(p, index=False), "negative"),
    "all zero": (lambda p: table(hits=0).to_csv(p, index=False), "zero"),
    "three rows": (lambda p: table().head(3).to_csv(p, index=False), "3 usable rows"),
    "an hour": (lambda p: table(days=0.05, step=60).to_csv(p, index=False), "240 are needed"),
    "single events": (lambda p: events().to_csv(p, index=False), "uneven"),
    "a day per row": (lambda p: table(days=400, step=86_400).to_csv(p, index=False), "10 s and 1 h"),
}


def events():
    stamps = pd.Timestamp("2026-03-01") + pd.to_timedelta(
        np.cumsum(np.random.default_rng(0).exponential(30, 500)), unit="s"
    )
    return pd.DataFrame({"time": stamps, "hits": 1})


@pytest.mark.parametrize("kind", ["missing", "duplicate timestamps", "5 GB"])
def test_bad_input_through_the_real_command(tmp_path, kind):
    make, words = BAD[kind]
    make(tmp_path / "bad.csv")
    before = sorted(p.name for p in tmp_path.iterdir())
    done = command("bad.csv", cwd=tmp_path)
    assert done.returncode == 2
    assert re.fullmatch(rf"error: [^\n]*bad\.csv[^\n]*({words})[^\n]*\n", done.stderr), done.stderr
    assert sorted(p.name for p in tmp_path.iterdir()) == before


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, capsys, kind):
    make, words = BAD[kind]
    make(tmp_path / "bad.csv")
    assert main([str(tmp_path / "bad.csv"), "--out", str(tmp_path / "out")]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("error: ") and errors.count("\n") == 1 and re.search(words, errors), errors
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--value-column", "nope"], "nope"),
        (["--timezone", "Mars/Olympus"], "Mars/Olympus"),
        (["--train-days", "-1"], "train_days"),
        (["--drop-cost-ratio", "0"], "drop_cost_ratio"),
        (["--boot-delay-seconds", "-5"], "boot_delay_seconds"),
        (["--price-server-hour-usd", "nan"], "price_server_hour_usd"),
        (["--servers-now", "-2"], "servers"),
        (["--step-seconds", "450"], "multiple"),
        (["--step-seconds", "nan"], "step_seconds"),
        (["--step-seconds", "1e300"], "step_seconds"),
        (["--step-seconds", "0"], "step_seconds"),
        (["--test-days", "inf"], "test_days"),
        (["--seed", "-1"], "seed"),
        (["--servers-at-peak", "1e9"], "groups"),
        (["--slo-percent", "100"], "slo_percent"),
        (["--timezone", ""], "timezone"),
    ],
)
def test_bad_options_are_one_sentence(tmp_path, capsys, options, words):
    table().to_csv(tmp_path / "my.csv", index=False)
    assert main([str(tmp_path / "my.csv"), "--out", str(tmp_path / "out"), *options]) == 2
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1 and words in errors, errors
    assert not (tmp_path / "out").exists()


def test_an_earlier_report_survives_a_failure_and_a_full_folder_is_one_sentence(tmp_path, capsys):
    table().to_csv(tmp_path / "my.csv", index=False)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "report.html").write_text("the old one")
    assert main([str(tmp_path / "none.csv"), "--out", str(tmp_path / "out")]) == 2
    assert [p.name for p in (tmp_path / "out").iterdir()] == ["report.html"]
    assert (tmp_path / "out" / "report.html").read_text() == "the old one"
    (tmp_path / "half" / "decision.json").mkdir(parents=True)
    assert main([str(tmp_path / "my.csv"), "--out", str(tmp_path / "half")]) == 2
    assert [p.name for p in (tmp_path / "half").iterdir()] == ["decision.json"]
    (tmp_path / "a_file").write_text("x")
    assert main([str(tmp_path / "my.csv"), "--out", str(tmp_path / "a_file")]) == 2
    assert "--out" in capsys.readouterr().err


def test_interrupting_leaves_nothing_and_exits_130(tmp_path):
    table(days=40, step=10).to_csv(tmp_path / "my.csv", index=False)
    process = subprocess.Popen(
        [sys.executable, "-u", "-m", "support.operations.report", "my.csv"], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )  # fmt: skip
    assert "reading" in process.stdout.readline()
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (130, "interrupted: nothing was written\n")
    assert not (tmp_path / "report").exists()


def test_a_fleet_that_nobody_gave_is_marked_and_the_caption_counts_its_hours(tmp_path):
    table(days=20, step=3600).to_csv(tmp_path / "my.csv", index=False)
    for given, folder in (([], "unknown"), (["--servers-now", "7"], "known")):
        assert main([str(tmp_path / "my.csv"), "--out", str(tmp_path / folder), *given]) == 0
        decision = json.loads((tmp_path / folder / "decision.json").read_text(encoding="utf-8"))
        text = (tmp_path / folder / "report.html").read_text(encoding="utf-8")
        marked = f"Assumed, not known: a present fleet of {decision['servers_now']}; give yours with --servers-now."
        assert decision["reason"].endswith(marked) == (folder == "unknown") and (marked in text) == (
            folder == "unknown"
        )
        assert "The last 12 hours of requests per 3600 s" in text
