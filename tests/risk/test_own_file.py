"""Chapter 10 on a file it has never seen: two files with papermill, one sentence where it cannot be."""

import json
import os

import matplotlib
import numpy as np
import pandas as pd
import papermill
import pytest

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
    cells = [c.source for c in to_notebook(CHAPTER.with_suffix(".md")).cells if c.cell_type == "code"]
    names: dict = {}
    exec(cells[0] + "\n" + cells[1], names)
    names |= {"source": csv(tmp_path, **file), **SMALL, **changes}
    with pytest.raises(error, match=told) as caught:
        exec(cells[2], names)
    assert "\n" not in str(caught.value) and not list(tmp_path.glob("capacity_risk*"))
