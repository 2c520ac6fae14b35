"""Chapter 10 on a file it has never seen: two files with papermill, one sentence where it cannot be."""

import json
import os

import matplotlib
import numpy as np
import pandas as pd
import papermill
import pytest
from nbformat import read

from book.chapters import ROOT, to_notebook
from support.errors import SchemaError, TooShortError

CHAPTER = ROOT / "notebooks" / "10_capacity_risk"
SMALL = {"n_draws": 200, "n_services": 4}


def csv(folder, n_days=35, level=40.0, swing=12.0, name="my.csv"):
    index = pd.date_range("2026-03-02", periods=288 * n_days, freq="5min")
    hour = index.hour + index.minute / 60
    noise = np.random.default_rng(0).normal(0, 3, len(index))
    cpu = level + swing * np.sin(2 * np.pi * (hour - 8) / 24) * (1 - 0.4 * (index.dayofweek >= 5)) + noise * (swing > 0)
    pd.DataFrame({"timestamp": index, "cpu_utilization": np.clip(cpu, 0, 100)}).to_csv(folder / name, index=False)
    return str(folder / name)


def test_papermill_writes_the_risk_table_and_the_decision(tmp_path, monkeypatch):
    source = csv(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    given = {"source": source, "capacity": 80, **SMALL}
    papermill.execute_notebook(f"{CHAPTER}.ipynb", str(tmp_path / "out.ipynb"), given, progress_bar=False)
    table = pd.read_csv(tmp_path / "capacity_risk" / "risk_table.csv")
    record = json.loads((tmp_path / "capacity_risk" / "decision.json").read_text())
    assert len(table) == 1 and table.loc[0, "capacity"] == 80
    assert 0 <= table.loc[0, "p_within_lead_time"] <= table.loc[0, "p_any"] <= 1
    assert table.loc[0, "peak_p50"] <= table.loc[0, "peak_p95"] <= table.loc[0, "peak_es95"] + 1e-9
    assert record["finding"] in ("under", "over", "optimised") and record["data_window"][0].startswith("2026-03-02")
    assert record["horizon_days"] == 8 and record["current"]["count"] == 4  # a quarter of 35 days


def test_four_weeks_get_a_decision_with_the_lead_time_that_was_given(tmp_path, monkeypatch):
    source = csv(tmp_path, n_days=26)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    given = {"source": source, "capacity": 80, "lead_time_days": 45.0, **SMALL}
    papermill.execute_notebook(f"{CHAPTER}.ipynb", str(tmp_path / "out.ipynb"), given, progress_bar=False)
    record = json.loads((tmp_path / "capacity_risk" / "decision.json").read_text())
    assert record["horizon_days"] == 6 and record["lead_time_days"] == 45
    assert any("paths reach 6 days" in a and "served at once" in a for a in record["assumptions"])
    outputs = [str(o) for c in read(tmp_path / "out.ipynb", 4).cells for o in c.get("outputs", [])]
    assert any("+50 % a year" in o for o in outputs) and not any("launch of" in o for o in outputs)


def setup(source, **changes):
    """The names after the cell that reads the source."""
    cells = [c.source for c in to_notebook(CHAPTER.with_suffix(".md")).cells if c.cell_type == "code"]
    names: dict = {}
    exec(cells[0] + "\n" + cells[1], names)
    names |= {"source": str(source), **SMALL, **changes}
    exec(cells[2], names)
    return names


def fleet(folder, column):
    """Fifteen hosts for 30 days; the last is the busiest."""
    index = pd.date_range("2026-03-02", periods=24 * 30, freq="1h")
    rng = np.random.default_rng(1)
    wave = 1 + 0.4 * np.sin(2 * np.pi * index.hour / 24)
    frames = [
        pd.DataFrame(
            {"timestamp": index, "host": f"web-{h:02d}", column: (20 + 2 * h) * wave + rng.uniform(0, 2, len(index))}
        )
        for h in range(15)
    ]
    table = pd.concat(frames)
    table.to_csv(folder / "fleet.csv", index=False)
    return table


def test_counts_of_hosts_are_added_up_and_utilisations_are_not(tmp_path, monkeypatch):
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    table = fleet(tmp_path, "requests")
    highest = table.groupby("timestamp")["requests"].sum().groupby(lambda t: t.date()).max()
    names = setup(tmp_path / "fleet.csv", capacity=2000)
    assert names["peaks"].to_numpy() == pytest.approx(highest.to_numpy()) and names["n_hosts"] == 15
    with pytest.raises(SchemaError, match="present use.*all 15 resources"):
        setup(tmp_path / "fleet.csv", capacity=100)  # enough for the busiest host alone
    table = fleet(tmp_path, "cpu")
    names = setup(tmp_path / "fleet.csv", capacity=95)
    assert names["first"] == "web-14" and names["n_hosts"] == 4
    assert sorted(names["days"].peaks) == [f"web-{h:02d}" for h in range(3, 15)]  # the twelve busiest


def test_only_sources_that_the_book_knows_have_a_capacity_of_their_own(tmp_path, monkeypatch):
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    csv(tmp_path, name="MY.CSV")
    stamps = pd.date_range("2026-03-02", periods=24 * 25, freq="1h")
    lines = (
        f'1.2.3.4 - - [{t:%d/%b/%Y:%H:%M:%S} +0000] "GET / HTTP/1.1" 200 1 "-" "x"'
        for t in stamps
        for _ in range(1 + t.hour % 3)
    )
    (tmp_path / "access.log").write_text("\n".join(lines) + "\n")
    for source in (tmp_path / "MY.CSV", f"log:{tmp_path / 'access.log'}"):
        with pytest.raises(SchemaError, match="capacity is not given"):
            setup(source)
    assert setup("synthetic", synthetic_days=60)["limit"] > 0


@pytest.mark.parametrize(
    ("file", "changes", "error", "told"),
    [
        ({}, {}, SchemaError, "capacity=80"),
        ({}, {"capacity": 30}, SchemaError, "present use"),
        ({"swing": 0.0}, {"capacity": 80}, SchemaError, "constant"),
        ({"n_days": 10}, {"capacity": 80}, TooShortError, "at least 21"),
    ],
)
def test_files_that_cannot_be_planned_get_one_sentence(tmp_path, monkeypatch, file, changes, error, told):
    matplotlib.use("agg")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=told) as caught:
        setup(csv(tmp_path, **file), **changes)
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("capacity_risk*"))
