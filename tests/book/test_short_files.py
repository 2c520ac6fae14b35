"""What a monitor keeps, about a fortnight, is enough for the chapters; what they lower for it is said, what is too short refused."""

import matplotlib
import numpy as np
import pandas as pd
import papermill
import pytest
from nbformat import from_dict

from book.chapters import ROOT, to_notebook
from support.errors import SchemaError, TooShortError

STEPS_A_DAY = 288
SMALL_06 = {"n_warmup": 20, "n_draws": 20, "n_days_off": 1, "engine_days": 3}


def written(folder, n_days, n_machines=1):
    """CPU every five minutes; several machines have a column of their own and four cores each."""
    index = pd.date_range("2026-10-20 08:00", periods=round(STEPS_A_DAY * n_days), freq="5min", tz="UTC")
    rng, wave = np.random.default_rng(4), np.sin(2 * np.pi * np.arange(len(index)) / STEPS_A_DAY)
    frames = [
        pd.DataFrame({"timestamp": index, "instance": f"node-{k}", "cpu_utilization": (20 + 5 * k) * (1 + 0.4 * wave)})
        for k in range(n_machines)
    ]
    table = pd.concat(frames)
    table["cpu_utilization"] = (table["cpu_utilization"] + rng.gamma(2.0, 2.0, len(table))).clip(0, 100)
    table["memory_utilization"] = (30 + 0.5 * table["cpu_utilization"] + rng.normal(0, 1, len(table))).clip(0, 100)
    table = table.assign(vcpu=4) if n_machines > 1 else table.drop(columns="instance")
    table.to_csv(folder / "my.csv", index=False)
    return str(folder / "my.csv")


def begun(chapter, source, until):
    """The names of a chapter after the cell that sets `until`, with the file as its source and nothing else changed."""
    matplotlib.use("agg")
    (path,) = (ROOT / "notebooks").glob(f"{chapter}_*.md")
    cells = [c.source for c in to_notebook(path).cells if c.cell_type == "code"]
    names: dict = {}
    exec(cells[0] + "\n" + cells[1], names)
    names["source"] = source
    for cell in cells[2:]:
        if until in names:
            break
        exec(cell, names)
    return names


@pytest.mark.parametrize(
    ("chapter", "until", "expected"),
    [
        ("05", "n_budget", {"n_history": round(13 / 1.5 * STEPS_A_DAY)}),  # two days and a half of it more are left
        ("07", "unit", {"n_windows": 3}),  # of 24 hours every 26, after 276 hours
        ("11", "usage", {"past_days": 8.0}),  # so that a week is held out
    ],
)
def test_fifteen_days_are_enough(tmp_path, chapter, until, expected):
    names = begun(chapter, written(tmp_path, 15, n_machines=3), until)
    assert {name: names[name] for name in expected} == expected


@pytest.mark.parametrize(
    ("chapter", "until", "n_days"), [("05", "n_budget", 6.4), ("06", "fewer", 15.9), ("07", "unit", 13.5), ("11", "n_weeks", 13.9)]
)  # fmt: skip
def test_less_is_refused_with_what_is_needed(tmp_path, chapter, until, n_days):
    with pytest.raises(TooShortError, match="my.csv: .* are needed"):
        begun(chapter, written(tmp_path, n_days, n_machines=3), until)


def test_a_long_file_changes_nothing(tmp_path):
    source = written(tmp_path, 35, n_machines=3)
    assert begun("05", source, "n_budget")["n_history"] == 14 * STEPS_A_DAY
    assert begun("07", source, "unit")["n_windows"] == 8
    assert begun("11", source, "n_days")["past_days"] == 14
    names = begun("06", source, "fewer")
    asked = {"n_windows": 10, "n_calibration": 7, "context_days": 14, "n_origins": 6, "n_weeks": 3}
    assert names["fewer"] == [] and {name: names[name] for name in asked} == asked


def test_machines_without_groups_and_metrics_without_a_list_need_no_option(tmp_path):
    source = written(tmp_path, 15, n_machines=3)
    assert begun("03", source, "half")["fleet"].resource_ids == ["node-0", "node-1", "node-2"]
    assert begun("04", source, "past")["metrics"] == ["cpu_utilization", "memory_utilization"]
    assert begun("11", source, "usage")["usage"].capacity["cpu"].tolist() == [4, 4, 4]
    frame = pd.read_csv(source)
    frame[["timestamp", "cpu_utilization"]][frame["instance"] == "node-0"].to_csv(source, index=False)
    with pytest.raises(SchemaError, match="one metric; name two or more"):
        begun("04", source, "past")


def test_chapter_06_runs_to_its_end_on_sixteen_days(tmp_path, monkeypatch):
    source = written(tmp_path, 16)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    chapter = ROOT / "notebooks" / "06_statistical_forecasting.ipynb"
    made = papermill.execute_notebook(str(chapter), str(tmp_path / "out.ipynb"), {"source": source, **SMALL_06}, progress_bar=False)  # fmt: skip
    said = [
        o["data"].get("text/markdown", "") for c in from_dict(made).cells for o in c.get("outputs", []) if "data" in o
    ]
    assert any("The data are short: n_windows is 8, not 10, n_calibration is 5, not 7" in text for text in said)
